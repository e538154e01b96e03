//! What the control side tells the data plane: immutable, replaced as a whole, loaded once per burst.
//!
//! Five look-ups here are most of what forwarding a frame costs, so the maps hash with one multiplication instead of
//! the standard library's keyed hash. That is safe because only the control side inserts, and its keys (ids it
//! allocates, addresses of registered endpoints) are bounded by the ports there are: a frame with a chosen address is
//! only looked up. The forwarding database, into which frames do insert, has a keyed hash.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use vswitch_proto::id::{MacAddr, PortId, Vni};
use vswitch_proto::security::{PortSecurity, Servers};

/// For keys that no frame can insert. Make one with `Map::default()` or `collect()`.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<KeyHasher>>;
/// The same for keys alone.
pub type Set<K> = HashSet<K, BuildHasherDefault<KeyHasher>>;

/// A consistent view of everything the data plane needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// Shared with the tables before where nothing changed. An overlay network is here while this host has a port
    /// in it.
    pub networks: Map<Vni, Arc<Network>>,
    pub ports: Map<PortId, Port>,
    /// Tunnel endpoints of the cluster's other nodes.
    pub vteps: Set<IpAddr>,
}

impl Tables {
    /// A port together with its network. `None` for a port that is not, or no longer, of this switch.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<(&Port, &Network)> {
        let port = self.ports.get(&id)?;
        let network: &Network = self.networks.get(&port.vni)?;
        Some((port, network))
    }

    /// Whether frames of network `vni` may be given to this port.
    #[inline]
    pub fn is_member(&self, vni: Vni, id: PortId) -> bool {
        self.ports.get(&id).is_some_and(|port| port.vni == vni)
    }

    /// Whether packets of an overlay network are accepted from this tunnel endpoint: one of a node, or one that the
    /// network names as a static remote.
    #[inline]
    pub fn accepts(&self, network: &Network, vtep: IpAddr) -> bool {
        let Some(overlay) = &network.overlay else { return false };
        self.vteps.contains(&vtep) || overlay.static_vteps.binary_search(&vtep).is_ok()
    }
}

impl Tables {
    /// Whether frames with a VLAN tag pass to and from this tunnel endpoint. The cluster's own always exchange them; a
    /// static remote is another implementation, which has to drop them unless it was told otherwise (RFC 7348 section 6.1).
    pub fn takes_tags(&self, overlay: &Overlay, vtep: IpAddr) -> bool {
        overlay.inner_vlan || self.vteps.contains(&vtep)
    }
}

/// One broadcast domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Ports on this host, ascending.
    pub ports: Vec<PortId>,
    /// Addresses of registered endpoints; they neither age nor move.
    pub endpoints: Map<MacAddr, PortId>,
    pub gateway: Option<Gateway>,
    /// MAC address of the registered endpoint, on this or another host, that has an IP address. The gateway's
    /// addresses are not among them.
    pub neighbors: Map<IpAddr, MacAddr>,
    /// How strictly sources and claims of addresses are checked (`forward/guard.rs`).
    pub security: PortSecurity,
    /// Servers that containers may run.
    pub servers: Servers,
    /// What an overlay network has beyond that.
    pub overlay: Option<Overlay>,
    pub names: Names,
}

/// What the gateway's resolver knows. Keys are in lower case, since names are compared without regard to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Of the network itself, which may follow any of the others after a dot.
    pub network: Box<str>,
    /// What Docker calls a network of the cluster on this host, which may do so too.
    pub docker: Vec<Box<str>>,
    /// Names of one container may be of several; of one name may be several containers.
    pub addresses: HashMap<Box<str>, Vec<IpAddr>>,
    /// Name of the container with the address, and the network's after a dot, as they are written.
    pub containers: HashMap<IpAddr, Box<str>>,
    /// Subnets of the network, whose addresses nobody else knows the names of.
    pub subnets: Vec<IpNet>,
}

/// The part of a broadcast domain that is on other hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// This host's own tunnel endpoint.
    pub vtep: IpAddr,
    /// Registered endpoints on other hosts, and the tunnel endpoint each is behind; they neither age nor move.
    pub remotes: Map<MacAddr, IpAddr>,
    /// Who gets a copy of a flooded frame: hosts with endpoints in the network, and static remotes. Ascending, each
    /// once, never this host.
    pub flood_vteps: Vec<IpAddr>,
    /// Tunnel endpoints that are not of this cluster, ascending.
    pub static_vteps: Vec<IpAddr>,
    /// Frames with a VLAN tag pass to and from `static_vteps` too, see [`Tables::takes_tags`].
    pub inner_vlan: bool,
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
    /// Registered addresses of the endpoint behind it; those in [`Network::neighbors`], at hand for each frame.
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

/// Folded multiplication: both halves of a 128-bit product, so that every bit of the key reaches every bit that the
/// map looks at. Meant for keys of at most eight bytes; of longer ones, as IPv6 addresses, one half is laid over the
/// other, which keeps those of one subnet apart.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    #[inline]
    fn finish(&self) -> u64 {
        let product = u128::from(self.0 ^ 0x2545_f491_4f6c_dd1d) * 0x9e37_79b9_7f4a_7c15;
        (product as u64) ^ (product >> 64) as u64
    }

    /// The lengths of an IPv4, a MAC and an IPv6 address are taken at once, all others byte by byte.
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let word = |bytes: [u8; 8]| u64::from_be_bytes(bytes);
        match *bytes {
            [a, b, c, d] => self.0 = self.0.rotate_left(32) ^ word([0, 0, 0, 0, a, b, c, d]),
            [a, b, c, d, e, f] => self.0 = self.0.rotate_left(48) ^ word([0, 0, a, b, c, d, e, f]),
            [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] => {
                self.0 ^= word([a, b, c, d, e, f, g, h]) ^ word([i, j, k, l, m, n, o, p]);
            }
            _ => bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte)),
        }
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.0 = self.0.rotate_left(32) ^ u64::from(value);
    }

    /// Length prefixes, which do not tell keys of one type apart.
    #[inline]
    fn write_usize(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    /// The map takes the slot from the low bits and a tag from the top seven.
    #[test]
    fn addresses_in_order_spread_over_slots_and_tags() {
        let build = BuildHasherDefault::<KeyHasher>::default();
        let macs = (0..4096u32).map(|i| MacAddr::from_ipv4(Ipv4Addr::from(0xac11_0002 + i)));
        let hashes: Vec<u64> = macs.map(|mac| build.hash_one(mac)).collect();
        let slots: HashSet<u64> = hashes.iter().map(|hash| hash & 4095).collect();
        let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        // Random hashes would fill 1 - 1/e of the slots, 2589 of them.
        assert!(slots.len() > 2300, "{} slots", slots.len());
        assert_eq!(tags.len(), 128);

        let ports: HashSet<u64> = (0..4096).map(|id| build.hash_one(PortId(id)) & 4095).collect();
        assert!(ports.len() > 2300, "{} slots", ports.len());
    }
}
