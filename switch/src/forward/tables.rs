//! What the control side tells the data plane: immutable, replaced as a whole, loaded once per burst.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use vswitch_proto::id::{MacAddr, PortId, Vni};

/// A consistent view of everything the data plane needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    pub networks: HashMap<Vni, Network>,
    pub ports: HashMap<PortId, Port>,
}

/// One broadcast domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Ports on this host, ascending.
    pub ports: Vec<PortId>,
    /// Addresses of registered endpoints; they neither age nor move.
    pub endpoints: HashMap<MacAddr, PortId>,
    pub gateway: Option<Gateway>,
}

/// The switch's own presence in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    pub mac: MacAddr,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    pub vni: Vni,
    pub mac: MacAddr,
    /// Largest IP packet a segment may become, bytes.
    pub mtu: u32,
}
