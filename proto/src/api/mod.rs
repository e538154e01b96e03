//! The HTTP API of the daemon, version 1: JSON over a unix socket, every path below `/v1`.
//!
//! | method and path | request | answer |
//! | --- | --- | --- |
//! | `GET /v1/version` | | [`Version`] |
//! | `GET /v1/info` | | [`Info`] |
//! | `GET /v1/networks` | | `[`[`Network`]`]` |
//! | `POST /v1/networks` | [`NetworkCreate`] | [`Created`] |
//! | `POST /v1/networks/prune` | [`NetworkPrune`] | [`Pruned`] |
//! | `GET /v1/networks/{ref}` | | [`Network`] |
//! | `DELETE /v1/networks/{ref}?force=true` | | |
//! | `POST /v1/networks/{ref}/connect` | [`Connect`] | [`Warned`] |
//! | `POST /v1/networks/{ref}/disconnect` | [`Disconnect`] | |
//! | `GET /v1/containers?all=true` | | `[`[`ContainerSummary`]`]` |
//! | `POST /v1/containers` | [`Run`] | [`Created`]; the process is started unless `start` is false |
//! | `POST /v1/containers/adopt` | [`Adopt`] | [`Created`] |
//! | `GET /v1/containers/{ref}` | | [`Container`] |
//! | `DELETE /v1/containers/{ref}?force=true` | | |
//! | `POST /v1/containers/{ref}/start` | | |
//! | `POST /v1/containers/{ref}/stop?timeout_s=10` | | |
//! | `POST /v1/containers/{ref}/restart?timeout_s=10` | | |
//! | `POST /v1/containers/{ref}/rename?name=NAME` | | |
//! | `POST /v1/containers/{ref}/update` | [`Update`] | |
//! | `GET /v1/containers/{ref}/top` | | [`Top`] |
//! | `POST /v1/containers/{ref}/kill?signal=KILL` | | |
//! | `POST /v1/containers/{ref}/wait` | | [`Exit`], once it has ended |
//! | `GET /v1/containers/{ref}/logs?follow=true&tail=N&timestamps=true` | | a stream of [`stream`] frames |
//! | `POST /v1/containers/{ref}/attach?foreground=true` | `Upgrade: vswitch-stream` | 101, then [`stream`] frames both ways |
//! | `POST /v1/containers/{ref}/exec` | [`Exec`], `Upgrade: vswitch-stream` | 101 with [`EXEC_HEADER`], then [`stream`] frames both ways |
//! | `POST /v1/containers/{ref}/exec/{number}/kill?signal=KILL` | | |
//! | `GET /v1/ports` | | `[`[`Port`]`]` |
//! | `GET /v1/fdb?network={ref}` | | `[`[`FdbEntry`]`]` |
//! | `POST /v1/fdb`, `DELETE /v1/fdb` | [`FdbChange`] | |
//! | `POST /v1/fdb/flush` | [`FdbFlush`] | [`Flushed`] |
//! | `GET /v1/stats` | | [`Stats`] |
//! | `GET /v1/problems` | | `[`[`Problem`]`]` |
//! | `/v1/cluster...`, `/v1/nodes...` | see [`ClusterStatus`] and its module | |
//! | `GET /v1/events` | | server-sent events, each with an [`Event`] as its data |
//!
//! Streams lose nothing silently. A client that attaches with `foreground`, and the client of an exec, hold the process
//! up while they do not read; of a container there is one such client at a time. Any other is dropped with an
//! [`Error`](stream::Frame::Error) frame when it does not keep up. A client that closes the connection of its exec
//! without a [`Detach`](stream::Frame::Detach) frame hangs up: the process group gets SIGHUP.
//!
//! `{ref}` is a name, an id or a unique prefix of an id. A request may carry `Idempotency-Key`, 32 hexadecimal
//! digits: repeated with the same key it is applied once. Errors are [`Error`] with a status that
//! [`ErrorKind`] fixes.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, EndpointId, MacAddr, Name, NetworkId, PortId};

mod cluster;
mod container;
mod info;
mod network;
mod problem;
pub mod stream;

pub use cluster::*;
pub use container::*;
pub use info::*;
pub use network::*;
pub use problem::*;

/// Response header with the number of an exec, by which signals are sent to its process group.
pub const EXEC_HEADER: &str = "vswitch-exec";

/// Largest request body the daemon reads, bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    /// Newest API version served.
    pub api: String,
    pub node_name: String,
    pub kernel: String,
}

/// The answer to everything that creates something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// 64 hexadecimal digits.
    pub id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The answer to what was done and will not work as long as something else does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warned {
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    pub kind: ErrorKind,
    /// One line: what was wrong and what to do.
    pub message: String,
    /// Of a container's process that did not start: 127 not found, 126 not executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
}

/// Each kind has one HTTP status and one exit code of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    Failed,
    /// The request itself is wrong.
    Invalid,
    NotFound,
    /// In use, exists already, overlaps, exhausted.
    Conflict,
    NoQuorum,
    /// A bound is reached, of one client or of all together; the same request may succeed later.
    Busy,
}

impl ErrorKind {
    pub const fn http_status(self) -> u16 {
        match self {
            ErrorKind::Failed => 500,
            ErrorKind::Invalid => 400,
            ErrorKind::NotFound => 404,
            ErrorKind::Conflict => 409,
            ErrorKind::NoQuorum => 503,
            ErrorKind::Busy => 429,
        }
    }

    pub const fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Failed | ErrorKind::Busy => 1,
            ErrorKind::Invalid => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::Conflict => 4,
            ErrorKind::NoQuorum => 5,
        }
    }
}

/// A port of the switch and what passed through it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub id: PortId,
    pub network: Name,
    pub network_id: NetworkId,
    pub container: Name,
    pub container_id: ContainerId,
    pub endpoint_id: EndpointId,
    /// Interface name inside the container.
    pub interface: String,
    pub mac: MacAddr,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub mtu: u32,
    /// The TAP is open, its worker reads it, and it is where it belongs.
    pub up: bool,
    /// What is wrong with a port that is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    pub counters: PortCounters,
}

/// Counted from the container's point of view of the switch: `rx` is what the switch received from the port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    /// Frames from this port that were dropped, whatever the reason.
    pub rx_dropped: u64,
    /// Frames for this port that its TAP did not take.
    pub tx_dropped: u64,
    /// What frames from this port became: copies, datagrams for other hosts, answers.
    #[serde(default)]
    pub rx_outputs: u64,
    /// Times that the port had to wait because its frames had cost more than its share of a worker's time.
    #[serde(default)]
    pub rx_deferred: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbEntry {
    pub network: Name,
    pub mac: MacAddr,
    /// Absent where the address is behind another host.
    pub port: Option<PortId>,
    /// The tunnel endpoint of that host.
    #[serde(default)]
    pub vtep: Option<IpAddr>,
    pub container: Option<Name>,
    pub kind: FdbKind,
    /// Seconds since the address was last seen; absent for entries that do not age.
    pub age_s: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FdbKind {
    /// A registered endpoint's own address.
    Endpoint,
    /// Added by hand.
    Static,
    Learned,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbChange {
    pub network: String,
    pub mac: MacAddr,
    /// A container's name or id. Needed to add.
    #[serde(default)]
    pub container: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbFlush {
    /// All networks when absent.
    #[serde(default)]
    pub network: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    pub entries: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub uptime_s: u64,
    pub workers: u32,
    /// How workers move frames: `epoll` or `uring`.
    #[serde(default)]
    pub engine: String,
    pub ports: u32,
    pub networks: u32,
    pub containers_running: u32,
    pub fdb_entries: u64,
    pub fdb_capacity: u64,
    /// Addresses learned since the start.
    pub fdb_learned: u64,
    /// Learned addresses that were seen behind another port.
    pub fdb_moved: u64,
    /// Addresses not learned because a bound was reached.
    pub fdb_refused: u64,
    /// Learned addresses forgotten because they were not seen for long.
    pub fdb_aged: u64,
    /// Frames received from ports.
    pub rx_frames: u64,
    pub rx_bytes: u64,
    /// Frames written to ports; a flooded frame counts once per port.
    pub tx_frames: u64,
    pub tx_bytes: u64,
    pub flooded_frames: u64,
    /// Reads that waited because a worker's buffers were all in use.
    #[serde(default)]
    pub buffer_shortages: u64,
    #[serde(default)]
    pub tunnel: TunnelStats,
    /// By the name of the reason; every reason is present.
    pub drops: BTreeMap<String, u64>,
    /// Resident memory of the daemon, KiB.
    pub rss_kib: u64,
}

/// What went through tunnels to other hosts since the start. Bytes are those of UDP payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStats {
    pub rx_datagrams: u64,
    pub rx_bytes: u64,
    pub tx_datagrams: u64,
    pub tx_bytes: u64,
    /// System calls that sent more than one datagram.
    pub segmented_sends: u64,
    /// Those that the kernel refused, so that the datagrams were sent one by one.
    pub refused_sends: u64,
    /// Frames that were put together from more than one segment.
    pub coalesced_frames: u64,
    /// Times that reading had to wait because what was read had cost more than its share of a worker's time.
    #[serde(default)]
    pub rx_deferred: u64,
    /// Packets for which the receiving sockets had no room.
    pub rx_overflows: u64,
}

/// A change, as the event stream reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the stream; the `id` of the server-sent event. A client that reconnects with `Last-Event-ID`
    /// gets what it missed while the daemon still has it, and a `resync` event otherwise.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// `network`, `container`, `node` or `stream`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `create`, `destroy`, `connect`, `disconnect`, `start`, `die`, `rename`, `update`; of nodes `create`, `update`,
    /// `remove`; of the stream itself `resync`, and `drop` as the last event for a client that reads too slowly.
    pub action: String,
    pub id: String,
    pub name: String,
    /// Further facts, such as `container` of a network's `connect` or `exitCode` of a `die`.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// A subnet with what is reserved in it, as requests carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub subnet: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<IpNet>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux_addresses: BTreeMap<String, IpAddr>,
}
