//! What the rig tells a member and is answered: a line of JSON each, the answer to an order before the next order.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vswitch_proto::id::{ContainerId, EndpointId, NodeId};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    Found,
    Join {
        at: SocketAddr,
        token: String,
    },
    CreateNetwork,
    /// So many clients, each making one endpoint after the other.
    Reserve {
        clients: usize,
        until: Until,
    },
    /// Gives the last endpoint that was made here back.
    GiveUp,
    /// Makes an endpoint for a container that was elsewhere, at the address it had.
    Take(Held),
    /// Gives all endpoints of this node back.
    Release,
    /// Waits until an endpoint is known here.
    Await(EndpointId),
    /// Waits until so many are.
    AwaitCount(usize),
    Read {
        count: usize,
    },
    Look,
    /// Waits for a leader other than `old`, and meanwhile makes one endpoint as soon as it can be made.
    Recover {
        old: NodeId,
    },
    Snapshot {
        to: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Until {
    Made(usize),
    Ms(u64),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// In the cluster that was found on the disk, or in none.
    Ready,
    Founded {
        at: SocketAddr,
        token: String,
    },
    Done,
    Took(Took),
    Lease(Held),
    Seen(Seen),
    Recovered {
        leader_us: u64,
        write_us: u64,
    },
    Saved {
        took_us: u64,
        bytes: usize,
    },
    Failed(String),
}

/// How long things took, one by one, and all of them together.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Took {
    pub each_us: Vec<u64>,
    pub all_us: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Held {
    pub endpoint: EndpointId,
    pub container: ContainerId,
    pub address: Ipv4Addr,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Seen {
    pub node: NodeId,
    pub leader: Option<NodeId>,
    pub voters: usize,
    pub leases: usize,
}
