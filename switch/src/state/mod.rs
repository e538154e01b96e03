//! What is true: networks, containers and endpoints, changed only by [`State::apply`].
//!
//! There are two such machines. [`State`] is what a node has for itself, and what this page is about. [`Shared`] is what
//! the nodes of a cluster have together: the nodes, overlay networks, and leases of addresses in them. It follows the
//! same rules with commands of its own. A [`View`] is both as one node sees them.
//!
//! # Theory of operation
//! The state is a deterministic machine. Its input is a sequence of [`Envelope`]s; everything random or read from
//! the host travels in them. Two machines that applied the same sequence are equal, and so are their
//! [`State::digest`]s, which is what a replicated log needs. Addresses, MACs, VNIs, port and interface numbers are
//! allocated inside `apply`, never looked up before and asked for after.
//!
//! A command either applies as a whole or is [`Rejected`] and changes nothing but the memory of requests: each
//! handler first decides with `&self` and then changes with steps that cannot fail. The memory of requests
//! belongs to the state, rejections included, so a command that is proposed twice is answered the same twice.
//!
//! Values are behind [`Arc`] in maps whose parts are shared between copies, so that a copy of the state costs next to
//! nothing, and a comparison of two states skips what they share.
//!
//! An attachment to a network of the cluster ([`Scope::Cluster`](vswitch_proto::command::Scope)) is kept here without
//! the network: its addresses come with the command, from the lease. What the network is called and which subnets it
//! has is known to [`Shared`] only.
//!
//! # Invariants
//! 1. Names of networks are unique, so are names of containers that are not Docker's, VNIs, port numbers and all ids.
//! 2. In one network no two endpoints share an address or a MAC, and none has the gateway's or an auxiliary address.
//! 3. A container has an endpoint for each of its attachments exactly while it is created or running, save where
//!    the attachment's network is gone, which only happens while it is exited. An endpoint in a network of the cluster
//!    has the id and the addresses of a lease; whether the lease still is, a [`View`] says.
//! 4. Subnets of networks do not overlap, but for those that Docker chose (see [`docker`]). Port numbers are never used twice; VNIs not at once.
//! 5. Every collection has a bound, named below; reaching it is a rejection that says so.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use ipnet::IpNet;
use vswitch_proto::command::{Command, Envelope};
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId, RequestId};

pub mod configuration;
mod container;
pub mod default_pools;
pub mod docker;
mod endpoint;
mod ipam;
mod ledger;
mod lookup;
mod memory;
#[cfg(test)]
mod model;
pub mod names;
mod network;
mod rejected;
mod requests;
mod sharded;
pub mod shared;
mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod view;

pub use container::{Container, Phase};
pub use endpoint::{Endpoint, Wire};
pub use ipam::{Pool, default_gateway};
pub use lookup::LookupError;
pub use network::{Network, gateway_mac};
pub use rejected::{Holder, NotAHost, Rejected, ReservedRange};
pub use sharded::Change;
pub use shared::Shared;
pub use snapshot::SnapshotError;
pub use view::{Snapshot, View};

use docker::Docker;
use ledger::Ledger;
use memory::Memory;
use requests::Requests;
use sharded::Sharded;

/// Of this node, and once more of the cluster.
pub const NETWORKS_MAX: usize = 1024;
pub const CONTAINERS_MAX: usize = 8192;
/// Over all networks.
pub const ENDPOINTS_MAX: usize = 16384;
/// Of one container.
pub const INTERFACES_MAX: usize = 64;
/// Of one container in one network.
pub const ALIASES_MAX: usize = 64;
/// Of one subnet.
pub const AUX_ADDRESSES_MAX: usize = 256;

/// Of the requests that are remembered: 4,096 to 4,608. Only this node asks, one after the other.
const GENERATION: usize = 512;

/// Of one overlay network.
pub const REMOTES_MAX: usize = 64;

/// Driver option: bytes of the largest IP packet.
pub const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// Driver option of overlay networks: the VNI.
pub const VXLAN_ID_OPTION: &str = "vxlan.id";
/// Driver option of overlay networks: tunnel endpoints that are not of the cluster, with commas between.
pub const VXLAN_REMOTE_OPTION: &str = "vxlan.remote";
/// Driver option of overlay networks: whether these tunnel endpoints exchange frames with VLAN tags.
pub const VXLAN_INNER_VLAN_OPTION: &str = "vxlan.inner-vlan";
/// Driver option: how far the addresses in containers' frames are believed, a
/// [`PortSecurity`](vswitch_proto::security::PortSecurity).
pub const PORT_SECURITY_OPTION: &str = "vswitch.port-security";
/// Driver option: the [`Servers`](vswitch_proto::security::Servers) that containers may run.
pub const SERVERS_OPTION: &str = "vswitch.servers";
/// RFC 791 section 3.2.
pub const MTU_MIN: u32 = 68;
/// RFC 8200 section 5.
pub const IPV6_MTU_MIN: u32 = 1280;

/// The machine. See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    networks: Sharded<NetworkId, Arc<Network>>,
    containers: Sharded<ContainerId, Arc<Container>>,
    endpoints: Sharded<EndpointId, Arc<Endpoint>>,
    /// One per network, and one per network of the cluster that has endpoints here.
    ledgers: Sharded<NetworkId, Arc<Ledger<Endpoint>>>,
    docker: Arc<Docker>,
    memory: Arc<Memory>,
    next_port: u32,
    next_vni: u32,
    requests: Requests<Applied, GENERATION>,
}

/// What a command made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    NetworkCreated {
        network: NetworkId,
    },
    NetworkRemoved {
        network: NetworkId,
    },
    ContainerCreated {
        container: ContainerId,
    },
    ContainerStarted {
        container: ContainerId,
    },
    ContainerExited {
        container: ContainerId,
    },
    ContainerRemoved {
        container: ContainerId,
    },
    /// Without an endpoint while the container does not live.
    Connected {
        container: ContainerId,
        network: NetworkId,
        endpoint: Option<EndpointId>,
    },
    Disconnected {
        container: ContainerId,
        network: NetworkId,
        endpoint: Option<EndpointId>,
    },
    PoolGiven {
        subnet: IpNet,
    },
    AddressGiven {
        address: IpAddr,
    },
    /// Whatever an engine's other calls change.
    DockerChanged,
    /// Its name, its restart policy or the like.
    ContainerChanged {
        container: ContainerId,
    },
    NetworkNoted {
        network: NetworkId,
    },
}

impl State {
    /// Nothing at all, the default networks neither.
    pub fn new() -> State {
        State::default()
    }

    /// Applies one entry of the log. A request id seen before is answered as then and changes nothing.
    pub fn apply(&mut self, envelope: &Envelope) -> Result<Applied, Rejected> {
        if let Some(outcome) = self.requests.get(&envelope.request_id) {
            return outcome.cloned().map_err(Clone::clone);
        }
        let outcome = self.apply_command(&envelope.command, envelope.at_ms);
        self.requests.put(envelope.request_id, outcome.clone());
        outcome
    }

    /// What was answered to a request that is still remembered.
    pub fn outcome(&self, request: &RequestId) -> Option<Result<&Applied, &Rejected>> {
        self.requests.get(request)
    }

    fn apply_command(&mut self, command: &Command, at_ms: u64) -> Result<Applied, Rejected> {
        match command {
            Command::CreateNetwork(request) => self.create_network(request, at_ms),
            Command::RemoveNetwork { network } => self.remove_network(network),
            Command::CreateContainer(request) => self.create_container(request, at_ms),
            Command::StartContainer { container, endpoints, start } => {
                self.start_container(container, endpoints, (*start, at_ms))
            }
            Command::ContainerExited { container, exit_code, error } => {
                let phase = Phase::Exited { code: *exit_code, error: error.clone() };
                self.container_exited(container, phase, at_ms)
            }
            Command::RemoveContainer { container } => self.remove_container(container),
            Command::Connect { container, attachment, endpoint } => {
                self.connect(container, attachment, *endpoint)
            }
            Command::Disconnect { container, network } => self.disconnect(container, network),
            Command::Docker(change) => self.apply_docker(change, at_ms),
            Command::StopByHand { container } => self.stop_by_hand(container),
            Command::RenameContainer { container, name } => self.rename_container(container, name),
            Command::UpdateContainer { container, restart, limits } => {
                self.update_container(container, *restart, *limits)
            }
            Command::NoteNetwork { network, name } => self.note_network(network, name),
            Command::NoteNamespace { container, namespace } => self.note_namespace(container, namespace),
        }
    }

    /// In the order of their ids.
    pub fn networks(&self) -> impl Iterator<Item = &Network> + Clone {
        self.networks.values().map(Arc::as_ref)
    }

    pub fn network(&self, id: &NetworkId) -> Option<&Network> {
        self.networks.get(id).map(Arc::as_ref)
    }

    /// In the order of their ids.
    pub fn containers(&self) -> impl Iterator<Item = &Container> + Clone {
        self.containers.values().map(Arc::as_ref)
    }

    pub fn container(&self, id: &ContainerId) -> Option<&Container> {
        self.containers.get(id).map(Arc::as_ref)
    }

    /// In the order of their ids.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values().map(Arc::as_ref)
    }

    pub fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id).map(Arc::as_ref)
    }

    /// The endpoint of a container in a network.
    pub fn endpoint_at(&self, container: &ContainerId, network: &NetworkId) -> Option<&Endpoint> {
        self.ledgers.get(network)?.at(container)
    }

    /// In the order of the interfaces; those without one first.
    pub fn endpoints_of(&self, container: &ContainerId) -> impl Iterator<Item = &Endpoint> + use<'_> {
        let attachments = self.containers.get(container).map_or(&[][..], |c| &c.attachments);
        let mut endpoints: Vec<&Endpoint> =
            attachments.iter().filter_map(|a| self.endpoint_at(container, &a.network)).collect();
        endpoints.sort_by_key(|e| e.wire.as_ref().map(|w| w.interface));
        endpoints.into_iter()
    }

    /// In the order of the containers' ids.
    pub fn endpoints_in(&self, network: &NetworkId) -> impl Iterator<Item = &Endpoint> + use<'_> {
        self.ledgers.get(network).into_iter().flat_map(|ledger| ledger.members())
    }

    /// Networks of the cluster that have endpoints here, in the order of their ids.
    pub fn overlays(&self) -> impl Iterator<Item = &NetworkId> {
        self.ledgers.keys().filter(|id| !self.networks.contains_key(id))
    }

    pub fn changed_containers<'a>(&'a self, old: &'a State) -> Vec<Change<'a, Container>> {
        self.containers.changes(&old.containers)
    }

    pub fn changed_endpoints<'a>(&'a self, old: &'a State) -> Vec<Change<'a, Endpoint>> {
        self.endpoints.changes(&old.endpoints)
    }

    /// Whether nothing happened to a network and its endpoints between a copy of this state and the other. Says no
    /// also where what is compared is equal and not shared.
    pub fn shares_network(&self, other: &State, id: &NetworkId) -> bool {
        same(self.networks.get(id), other.networks.get(id))
            && same(self.ledgers.get(id), other.ledgers.get(id))
    }
}

/// Whether both are the same one, or neither is.
fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}
