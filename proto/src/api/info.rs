//! `GET /v1/info`: the daemon and its host at a glance. Keys that `docker info` has too have its names.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    /// Name of the node.
    pub name: String,
    pub server_version: String,
    #[serde(rename = "APIVersion")]
    pub api_version: String,
    pub kernel_version: String,
    /// Processors that the daemon may use.
    #[serde(rename = "NCPU")]
    pub ncpu: u32,
    pub uptime_s: u64,
    pub containers: u32,
    pub containers_running: u32,
    /// Made and not started yet.
    pub containers_created: u32,
    pub containers_stopped: u32,
    pub networks: u32,
    /// By driver.
    pub networks_by_driver: BTreeMap<String, u32>,
    pub ports: u32,
    /// Ports that no worker serves at present.
    pub ports_down: u32,
    pub data_plane: DataPlaneInfo,
    pub cluster: ClusterInfo,
    pub docker: DockerInfo,
    pub limits: LimitsInfo,
    /// Name of a feature, and whether this kernel has it for the daemon.
    pub kernel_features: BTreeMap<String, bool>,
    /// `root`, or `user namespace` where the daemon is root in a user namespace only.
    pub mode: String,
    pub data_dir: String,
    pub socket: String,
    /// One line each: what is wrong and what to do.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DataPlaneInfo {
    /// `epoll` or `uring`.
    pub engine: String,
    /// Why it is this one.
    pub engine_reason: String,
    pub workers: u32,
    #[serde(rename = "MTU")]
    pub mtu: u32,
    #[serde(rename = "UnderlayMTU")]
    pub underlay_mtu: u32,
    /// Where tunnels to other hosts begin; empty for a node in no cluster.
    #[serde(rename = "VTEP")]
    pub vtep: String,
    #[serde(rename = "VXLANPort")]
    pub vxlan_port: u16,
    /// Names of the offloads that are in use.
    pub offloads: Vec<String>,
    /// Frames per second and port; 0 for no limit.
    pub storm_limit: u32,
    pub forwarding_entries: u64,
    pub forwarding_capacity: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClusterInfo {
    /// `alone`, `member` or `fenced`.
    pub state: String,
    #[serde(rename = "ID")]
    pub id: String,
    /// Number of this node; empty outside of a cluster.
    #[serde(rename = "NodeID")]
    pub node_id: String,
    /// `voter` or `learner`; empty outside of a cluster.
    pub role: String,
    /// Name of the node that leads; empty where none is known.
    pub leader: String,
    /// Whether this node hears of a leader, and so of a majority.
    pub has_quorum: bool,
    pub voters: u32,
    pub learners: u32,
    /// Why it is fenced, or why there is no leader.
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerInfo {
    /// `off`, `waiting` before the engine was heard of, `connected` or `away`.
    pub state: String,
    /// The plugin's socket; empty when it is off.
    pub socket: String,
    /// API of the engine.
    pub engine: String,
    pub networks: u32,
    pub endpoints: u32,
}

/// Bounds of the daemon and how much of each is in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LimitsInfo {
    pub descriptors: u64,
    pub descriptors_max: u64,
    /// Connections to the API.
    pub connections: u32,
    pub connections_max: u32,
    /// Answers that last: events, logs, attach, exec, wait.
    pub streams: u32,
    pub streams_max: u32,
    /// Connections and requests that were refused since the start.
    pub refusals: u64,
    /// Connections without a request that gave way to others since the start.
    pub evictions: u64,
    /// Changes that wait for their turn.
    pub changes_waiting: u32,
    pub networks_max: u32,
    pub endpoints_max: u32,
}
