//! Hosts that were joined: the cluster and its nodes.
//!
//! | method and path | request | answer |
//! | --- | --- | --- |
//! | `GET /v1/cluster?stale=true` | | [`ClusterStatus`] |
//! | `POST /v1/cluster/init` | [`ClusterInit`] | [`ClusterFounded`] |
//! | `POST /v1/cluster/join` | [`ClusterJoin`] | [`ClusterJoined`] |
//! | `POST /v1/cluster/leave?force=true` | | |
//! | `GET /v1/nodes` | | `[`[`Node`]`]` |
//! | `POST /v1/nodes/{ref}/promote`, `POST /v1/nodes/{ref}/demote` | | |
//! | `PUT /v1/nodes/{ref}/address` | [`NodeAddress`] | |
//! | `DELETE /v1/nodes/{ref}?force=true` | | |
//! | `POST /v1/cluster/transfer-leader` | [`TransferLeader`] | |
//! | `GET /v1/cluster/token?role=voter` | | [`ClusterToken`] |
//! | `POST /v1/cluster/token/rotate?role=voter` | | [`ClusterToken`] |
//! | `POST /v1/cluster/ca/rotate?finish=true` | | [`AuthorityRotation`] |
//! | `GET /v1/cluster/health` | | [`ClusterHealth`] |
//! | `GET /v1/cluster/hash` | | [`ClusterHash`] |
//! | `GET /v1/cluster/snapshot` | | the bytes of a snapshot |
//! | `POST /v1/cluster/snapshot/inspect` | the bytes of a snapshot | [`SnapshotSummary`] |
//! | `POST /v1/cluster/snapshot/restore` | the bytes of a snapshot | [`ClusterFounded`] |
//!
//! `{ref}` is the name or the number of a node.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::Problem;
use crate::command::Role;
use crate::id::{ClusterId, Name, NodeId};

/// Largest snapshot that is taken, bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInit {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFounded {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Where other nodes reach this one.
    pub address: SocketAddr,
    /// For voters.
    pub token: JoinToken,
}

/// The text of a join token. No debug output shows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JoinToken(pub String);

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[join token]")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterJoin {
    /// Nodes of the cluster, tried in this order.
    pub addresses: Vec<SocketAddr>,
    pub token: JoinToken,
    /// Overlay networks of this node, which is in a cluster of its own, are given up.
    #[serde(default)]
    pub discard: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterJoined {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// What it is to become.
    pub role: Role,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeAddress {
    pub address: SocketAddr,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferLeader {
    /// Name or number; any other voter without one.
    pub to: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterToken {
    pub role: Role,
    pub token: JoinToken,
    /// A node that may be asked to join.
    pub address: SocketAddr,
}

/// How far the replacement of the cluster's certificate authority is. With `finish` none is begun, and the former one
/// is not trusted any more: nodes that are waited for have to join again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRotation {
    /// Rises with every rotation.
    pub generation: u64,
    /// SHA-256 of the present authority's certificate, 64 hexadecimal digits. Join tokens have it.
    pub authority: String,
    /// Nodes that have no certificate of it yet.
    pub waiting: Vec<Name>,
    /// Until nobody is waited for, or for a week.
    pub former_is_trusted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// In no cluster.
    Alone,
    Member,
    /// The cluster removed this node, or was recovered without it.
    Fenced,
}

/// The cluster as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub membership: Membership,
    /// Why it is fenced, or why there is no leader.
    pub reason: Option<String>,
    pub cluster: Option<ClusterId>,
    pub node: Option<NodeId>,
    pub role: Option<Role>,
    pub leader: Option<NodeId>,
    pub leader_name: Option<Name>,
    pub term: u64,
    /// Entries of the log that are known to be committed, and that are applied here.
    pub committed: u64,
    pub applied: u64,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// Whether a majority confirmed all this just now. `None`: nobody was asked.
    pub confirmed: Option<bool>,
    pub certificate_expires_at_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Ready,
    /// Does not answer.
    Down,
    /// No leader is there to tell.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub name: Name,
    pub address: SocketAddr,
    pub vtep: IpAddr,
    pub role: Role,
    /// What it becomes once it has caught up and there is room.
    pub wanted: Role,
    pub is_leader: bool,
    /// The node that answers.
    pub is_self: bool,
    pub state: NodeState,
    /// Since the leader heard of it.
    pub silent_ms: Option<u64>,
    /// Entries of the log that it is behind the leader.
    pub lag: Option<u64>,
    pub version: String,
    pub joined_at_ms: u64,
    /// Endpoints in overlay networks.
    pub leases: u64,
    /// Parts of the node that do not work, as it reports them itself. Empty for a node that does not answer.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterHealth {
    pub has_quorum: bool,
    pub voters: u64,
    pub reachable_voters: u64,
    /// Voters that may fail now before changes are refused.
    pub failure_tolerance: u64,
    pub nodes: Vec<Node>,
    /// Of making a change durable on this node, over the last ones.
    pub sync_median_us: Option<u64>,
    pub sync_max_us: Option<u64>,
    pub certificate_expires_at_ms: Option<u64>,
    /// Since the daemon's start.
    pub messages_dropped: u64,
    pub connections_refused: u64,
    /// One line each: what is wrong and what to do. Empty: all is well.
    pub problems: Vec<String>,
    /// One line each: what works with less than it could have.
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterHash {
    /// All nodes answered and have the same state.
    pub is_equal: bool,
    pub nodes: Vec<NodeHash>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHash {
    pub node: NodeId,
    pub name: Name,
    /// Last entry of the log that is in it.
    pub applied: Option<u64>,
    /// SHA-256 of the state, 64 hexadecimal digits.
    pub digest: Option<String>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSummary {
    pub cluster: ClusterId,
    /// Last entry of the log that is in it.
    pub applied: u64,
    pub taken_at_ms: u64,
    pub digest: String,
    pub nodes: Vec<Name>,
    pub networks: Vec<Name>,
    pub leases: u64,
}
