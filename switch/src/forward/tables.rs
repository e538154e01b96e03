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

impl Tables {
    /// A port together with its network. `None` for a port that is not, or no longer, of this switch.
    pub fn port(&self, id: PortId) -> Option<(&Port, &Network)> {
        let port = self.ports.get(&id)?;
        Some((port, self.networks.get(&port.vni)?))
    }

    /// Whether frames of network `vni` may be given to this port.
    pub fn is_member(&self, vni: Vni, id: PortId) -> bool {
        self.ports.get(&id).is_some_and(|port| port.vni == vni)
    }
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
