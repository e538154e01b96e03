//! Faults of a node that a request would not run into: each is told until it is over.
//!
//! | method and path | answer |
//! | --- | --- |
//! | `GET /v1/problems` | `[`[`Problem`]`]`, of the node that answers |
//!
//! `node ls` and `cluster health` show those of all nodes.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// Largest number of problems that one node reports to others.
pub const PROBLEMS_MAX: usize = 16;
/// Longest message that one node takes from another, characters.
pub const PROBLEM_CHARS_MAX: usize = 512;

/// A part of the node that does not work, or works with less than it was meant to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub area: ProblemArea,
    pub severity: Severity,
    /// One line: what is wrong and what to do.
    pub message: String,
}

/// Part of the node. At most one problem is reported of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemArea {
    /// The UDP sockets of tunnels to other hosts.
    Tunnels,
    /// The network between the hosts: the address and the MTU of tunnels.
    Underlay,
    /// Segmentation and receive offload of tunnels.
    Offloads,
    /// How frames are moved: io_uring or epoll.
    Engine,
    /// The threads that move frames.
    Workers,
    /// TAP interfaces.
    Devices,
    /// Other nodes, or this one, in the cluster.
    Cluster,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Everything works, some of it slower or with smaller packets.
    Warning,
    /// Something does not work.
    Error,
}
