//! What a Docker engine has made happen on this node.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Addresses, CreateContainer, CreateNetwork, Scope};
use crate::id::{ContainerId, EndpointId, MacAddr, Name, NetworkId};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "few exist at a time, and none is copied often")]
pub enum DockerChange {
    /// With `local` the network itself is made in the same step.
    AddNetwork {
        network: DockerNetwork,
        local: Option<CreateNetwork>,
    },
    /// A network that exists here only goes with it.
    RemoveNetwork {
        network: NetworkId,
    },
    /// What the engine calls it, once that is known.
    NameNetwork {
        network: NetworkId,
        name: Name,
    },
    /// A container of kind Docker, with one attachment.
    AddEndpoint(CreateContainer),
    /// Whatever it is doing.
    RemoveEndpoint {
        endpoint: ContainerId,
    },
    /// The endpoint's interface goes into a namespace.
    Join {
        endpoint: ContainerId,
        sandbox: String,
    },
    Leave {
        endpoint: ContainerId,
    },
    /// Whose endpoint it is, once that is known.
    Describe {
        endpoint: ContainerId,
        container: ContainerId,
        name: Name,
        aliases: Vec<Name>,
    },
    RequestPool {
        /// The next free one without.
        subnet: Option<IpNet>,
        ip_range: Option<IpNet>,
        ipv6: bool,
        /// Prefixes that the proposer's host routes to already, and those of the cluster's networks.
        occupied: Vec<IpNet>,
        /// For the search of an IPv6 subnet, drawn by the proposer.
        seed: [u8; 32],
    },
    ReleasePool {
        subnet: IpNet,
    },
    RequestAddress {
        subnet: IpNet,
        address: Option<IpAddr>,
        holder: AddressHolder,
    },
    ReleaseAddress {
        subnet: IpNet,
        address: IpAddr,
    },
    /// An address that the cluster has leased and no endpoint uses so far.
    Reserve(Reservation),
    Unreserve {
        endpoint: EndpointId,
    },
    /// The pool is nobody's any more, however often it was asked for.
    ReclaimPool {
        subnet: IpNet,
    },
}

/// A network of the engine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerNetwork {
    /// The engine's own id of it.
    pub id: NetworkId,
    /// The network here: of the same id, or one of the cluster.
    pub network: NetworkId,
    pub scope: Scope,
    pub internal: bool,
}

/// What an engine's endpoint is besides a container with an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerSpec {
    /// The engine's id of the network that it belongs to.
    pub network: NetworkId,
    /// The path of the network namespace that its interface is in, from join to leave.
    pub sandbox: Option<String>,
    /// The engine's id of the container, once that is known.
    pub container: Option<ContainerId>,
}

/// What an address was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AddressHolder {
    Gateway,
    /// An auxiliary address.
    Nobody,
    Interface(MacAddr),
}

/// Addresses in a network of the cluster, leased before it was known for which endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The id of the lease, and of the endpoint that is going to use it.
    pub endpoint: EndpointId,
    pub network: NetworkId,
    pub addresses: Addresses,
}
