//! What goes into the log that all nodes of a cluster share.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Attachment, CreateNetwork};
use crate::id::{ContainerId, EndpointId, Name, NetworkId, NodeId};

/// A change of the shared state, with the node that asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedCommand {
    /// Whoever forwards a command sets this to the peer that its certificate names. Only members are heard; before
    /// there is any, everybody is, who can only add the first.
    pub from: NodeId,
    /// How many requests the state had answered when this one was first asked, or earlier: it cannot have been carried
    /// out before that. Where the state does not remember so far back, it is refused.
    pub asked_at: u64,
    pub change: SharedChange,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SharedChange {
    /// The node's id is allocated when this is applied, and is never used again.
    AddNode {
        info: NodeInfo,
        /// What it is to become. The first node is a voter at once, any other begins as a learner.
        role: Role,
    },
    /// Replaces all that the node tells of itself.
    UpdateNode {
        node: NodeId,
        info: NodeInfo,
    },
    SetRole {
        node: NodeId,
        role: Role,
    },
    /// The node's leases are released, and its id is refused from then on.
    RemoveNode {
        node: NodeId,
    },
    CreateNetwork(CreateNetwork),
    RemoveNetwork {
        network: NetworkId,
    },
    /// Leases addresses to a container of the asking node.
    Reserve(Reserve),
    /// Takes back leases of the asking node. Those that are gone already are passed over.
    Release {
        endpoints: Vec<EndpointId>,
    },
    /// From then on only a new token lets nodes join in this role.
    RotateToken {
        role: Role,
    },
    /// Whose a lease of the asking node is, where that was not known when it was made.
    Describe {
        endpoint: EndpointId,
        container: ContainerId,
        container_name: Name,
        aliases: Vec<Name>,
    },
    /// Another authority signs certificates from then on; the one so far is trusted until it is dropped.
    RotateAuthority {
        /// X.509 in DER, signed by itself.
        certificate: Vec<u8>,
        /// The same key, certified by the authority so far; empty where there was none.
        cross: Vec<u8>,
    },
    /// The asking node has a certificate of the authority of this generation.
    TakeAuthority {
        generation: u64,
    },
    /// Nobody is trusted any more for a certificate of the authority before this generation.
    DropAuthority {
        generation: u64,
    },
    /// An overlay network is one of a Docker engine's on the asking node, and stays as long as it is.
    Bind {
        network: NetworkId,
        /// The engine's own id of it.
        docker: NetworkId,
        /// What the engine calls it, where that is known.
        name: Option<Name>,
    },
    /// Networks of a Docker engine on the asking node are gone. Those that are not bound are passed over.
    Unbind {
        docker: Vec<NetworkId>,
    },
}

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub name: Name,
    /// Where other nodes reach it.
    pub address: SocketAddr,
    /// Where it sends and receives VXLAN packets.
    pub vtep: IpAddr,
    /// Of its vswitchd.
    pub version: String,
    /// SHA-256 of its certificate.
    pub certificate: Option<[u8; 32]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Voter,
    Learner,
}

/// A lease that is to be made; `attachment` says in which network and at which addresses, if that matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    pub endpoint: EndpointId,
    pub container: ContainerId,
    pub container_name: Name,
    pub attachment: Attachment,
}
