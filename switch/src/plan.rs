//! From what should be true to what is to be done about it.
//!
//! [`diff`] compares two states and says which actions turn a host that fits the old one into a host that fits the
//! new one. With an empty old state it plans a host from nothing.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use ipnet::IpNet;
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, PortId};

/// One change to the host. Each is idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Attach(Attach),
    Detach {
        container: ContainerId,
        endpoint: EndpointId,
        port: PortId,
        interface: String,
    },
    /// The container's names file; in place, whole.
    WriteHosts {
        container: ContainerId,
        content: String,
    },
}

/// A TAP inside a container's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    pub container: ContainerId,
    pub endpoint: EndpointId,
    pub port: PortId,
    /// As `eth0`.
    pub interface: String,
    pub mac: MacAddr,
    pub mtu: u32,
    /// With their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Default routes; empty on an internal network, or where another interface has the default route already.
    pub gateways: Vec<std::net::IpAddr>,
}
