//! What goes into the replicated log.
//!
//! A [`Command`] holds everything that `apply` needs: random ids are drawn, the clock is read and the host's
//! routes are looked up by the proposer and travel in the command, so that applying it is a pure function.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, EndpointId, MacAddr, Name, NetworkId, RequestId};

mod docker;
mod log;
mod settings;
mod shared;

pub use docker::{AddressHolder, DockerChange, DockerNetwork, DockerSpec, Reservation};
pub use log::LogLimits;
pub use settings::{Bind, Dns, ExtraHost, Limits, RestartPolicy, Settings, TmpfsMount, Ulimit};
pub use shared::{NodeInfo, Reserve, Role, SharedChange, SharedCommand};

/// One entry of a log: of this node's own by default, of the cluster's as [`SharedEnvelope`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<C = Command> {
    /// A second entry with the same id is answered with the first one's result and changes nothing.
    pub request_id: RequestId,
    /// The proposer's wall clock, milliseconds since the Unix epoch. Shown to people, never compared.
    pub at_ms: u64,
    pub command: C,
}

/// One entry of the log that all nodes of a cluster share.
pub type SharedEnvelope = Envelope<SharedCommand>;

/// What changes the state that a node has for itself: bridge networks, containers and their endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    CreateNetwork(CreateNetwork),
    RemoveNetwork {
        network: NetworkId,
    },
    /// Creates a container and its endpoints in one step: either all of it exists or none.
    CreateContainer(CreateContainer),
    /// The container's process runs (again); one endpoint per attachment, in the order of the attachments, used
    /// where the attachment has no endpoint at present.
    StartContainer {
        container: ContainerId,
        endpoints: Vec<NewEndpoint>,
        start: Start,
    },
    /// The container's process ended: its endpoints are released, its attachments stay.
    ContainerExited {
        container: ContainerId,
        exit_code: i32,
        error: String,
    },
    RemoveContainer {
        container: ContainerId,
    },
    Connect {
        container: ContainerId,
        attachment: Attachment,
        endpoint: NewEndpoint,
    },
    Disconnect {
        container: ContainerId,
        network: NetworkId,
    },
    Docker(DockerChange),
    /// A person stops the container: its restart policy is told so, see [`RestartPolicy::UnlessStopped`].
    StopByHand {
        container: ContainerId,
    },
    RenameContainer {
        container: ContainerId,
        name: Name,
    },
    /// Replaces the restart policy and the limits of a lab container.
    UpdateContainer {
        container: ContainerId,
        restart: RestartPolicy,
        limits: Limits,
    },
    /// What a network of the cluster is called, before a container is attached to it: it may be gone by the time that
    /// somebody asks.
    NoteNetwork {
        network: NetworkId,
        name: Name,
    },
    /// An adopted container that has ended is given the namespace that is at its path now.
    NoteNamespace {
        container: ContainerId,
        namespace: NetnsIdentity,
    },
}

/// Why a container's process is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// Somebody asked for it: restarts are counted from zero.
    #[default]
    Asked,
    /// By its restart policy.
    Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A switch on this host.
    Bridge,
    /// Loopback only. Docker calls the driver `null`.
    #[serde(rename = "null")]
    None,
    /// The host's own network namespace.
    Host,
    /// One switch over all nodes of a cluster, over VXLAN.
    Overlay,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateNetwork {
    pub id: NetworkId,
    pub name: Name,
    pub driver: Driver,
    /// Subnets asked for. Without an IPv4 one, the next default pool of the driver is taken.
    pub pools: Vec<PoolRequest>,
    pub internal: bool,
    pub ipv6: bool,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Prefixes that the proposer's host routes to already: never allocated from, refused when asked for.
    pub occupied: Vec<IpNet>,
    /// One of the three default networks, which cannot be removed.
    pub builtin: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRequest {
    pub subnet: IpNet,
    pub gateway: Option<IpAddr>,
    /// Where addresses are allocated from; within `subnet`.
    pub ip_range: Option<IpNet>,
    /// Reserved addresses by name.
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateContainer {
    pub id: ContainerId,
    pub name: Name,
    pub kind: ContainerKind,
    /// Networks to connect to, the first one becoming eth0, each with the endpoint it will have.
    pub attachments: Vec<(Attachment, NewEndpoint)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "few exist at a time, and none is copied often")]
pub enum ContainerKind {
    /// Made and kept by the lab runner.
    Lab(LabSpec),
    /// A network namespace that somebody else made.
    Adopted(AdoptSpec),
    /// One endpoint of a Docker container; its id is the endpoint's in the engine. A container with several endpoints is
    /// as many of these.
    Docker(DockerSpec),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabSpec {
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub hostname: Option<String>,
    pub tty: bool,
    pub open_stdin: bool,
    /// Removed as soon as it ends.
    pub auto_remove: bool,
    pub rootfs: Option<String>,
    pub workdir: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub settings: Settings,
    /// Another lab container whose network namespace, host name and names files this one shares.
    pub network_of: Option<ContainerId>,
}

impl LabSpec {
    /// The words that are executed.
    pub fn words(&self) -> impl Iterator<Item = &String> {
        self.settings.entrypoint.iter().chain(&self.command)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptSpec {
    pub source: NetnsSource,
    /// The namespace that was found there.
    pub namespace: NetnsIdentity,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetnsSource {
    /// A process, with its start time (field 22 of /proc/PID/stat, clock ticks since boot), so that a recycled
    /// pid is not mistaken for it.
    Pid {
        pid: u32,
        start_ticks: u64,
    },
    Path(String),
}

/// Which network namespace one is, for as long as the host runs. A path or a process may have another one later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsIdentity {
    /// Of the host's start (/proc/sys/kernel/random/boot_id): all other numbers begin anew with it.
    pub boot_id: u128,
    /// Of the namespace's file. The kernel gives these two to another namespace as soon as this one is gone.
    pub device: u64,
    pub inode: u64,
    /// The kernel's own number, which it gives once (SO_NETNS_COOKIE). Absent before Linux 5.14.
    pub cookie: Option<u64>,
}

/// What a container asks of a network. Kept while the container exists, so that a new start finds it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub network: NetworkId,
    pub scope: Scope,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub mac: Option<MacAddr>,
    pub aliases: Vec<Name>,
}

/// Who keeps a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// This node: addresses are allocated when the endpoint is made.
    #[default]
    Local,
    /// The cluster: addresses are leased there first.
    Cluster,
}

/// An endpoint that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEndpoint {
    /// That of the lease where there is one.
    pub id: EndpointId,
    /// What the cluster leased, for an attachment to one of its networks; `None` for the others.
    pub lease: Option<Addresses>,
}

impl From<EndpointId> for NewEndpoint {
    /// In a network of this node.
    fn from(id: EndpointId) -> NewEndpoint {
        NewEndpoint { id, lease: None }
    }
}

/// What an interface is reached at within its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Addresses {
    pub mac: MacAddr,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

impl Addresses {
    /// IPv4 first.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}
