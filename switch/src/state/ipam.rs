//! Address management: which subnets a network gets, and which addresses its endpoints get.
//!
//! # Subnets
//! IPv4 prefixes from /8 to /30 (a /31 has no room for a gateway beside the network and broadcast addresses), IPv6
//! prefixes from /16 to /126. Loopback, link-local, multicast and reserved ranges are refused. No two networks
//! overlap, and none overlaps with what the host routes to. Without an IPv4 subnet a network gets the first free one
//! of Docker's default pools: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 to 192.168.240.0/20; for overlay
//! networks the /24s of 10.0.0.0/8. With `--ipv6` and no IPv6 subnet it gets a /64 of the unique local range (RFC
//! 4193): `fd`, then the first seven bytes of the network's id as global id and subnet id.
//!
//! # Addresses
//! Handed out in ascending order, starting again at the lowest when the end is reached (next fit), so that an
//! address just released is not given to somebody else while others still have its old MAC in their ARP caches.
//! The network, broadcast and subnet-router anycast addresses, the gateway and the auxiliary addresses are never
//! handed out. An ip-range restricts what is handed out, not what may be asked for.
//!
//! In networks whose addresses a Docker engine hands out by itself, which it does in ascending order, the others get
//! theirs in descending order from the end.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use vswitch_proto::command::{CreateNetwork, Driver, PoolRequest};
use vswitch_proto::id::{Name, NetworkId};

use super::rejected::{NotAHost, ReservedRange};
use super::{AUX_ADDRESSES_MAX, Rejected};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub subnet: IpNet,
    pub gateway: IpAddr,
    pub ip_range: Option<IpNet>,
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// Ranges that hold no subnet, with the reason.
const RESERVED: [(IpNet, ReservedRange); 8] = [
    (v4([0, 0, 0, 0], 8), ReservedRange::Unspecified),
    (v4([127, 0, 0, 0], 8), ReservedRange::Loopback),
    (v4([169, 254, 0, 0], 16), ReservedRange::LinkLocal),
    (v4([224, 0, 0, 0], 4), ReservedRange::Multicast),
    (v4([240, 0, 0, 0], 4), ReservedRange::Future),
    (v6(0, 8), ReservedRange::Unspecified),
    (v6(0xfe80, 10), ReservedRange::LinkLocal),
    (v6(0xff00, 8), ReservedRange::Multicast),
];

const fn v4(octets: [u8; 4], prefix: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6(first: u16, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), prefix))
}

/// Candidates for a unique local prefix that are tried before giving up.
const ULA_TRIES: u64 = 256;

/// The pools of a new bridge or overlay network, IPv4 first. `taken` are the subnets of the other networks.
pub(super) fn pools(request: &CreateNetwork, taken: &[(IpNet, Name)]) -> Result<Vec<Pool>, Rejected> {
    let (mut ipv4, mut ipv6) = (None, None);
    for asked in &request.pools {
        let is_ipv6 = matches!(asked.subnet, IpNet::V6(_));
        if is_ipv6 && !request.ipv6 {
            return Err(Rejected::Ipv6NotEnabled(asked.subnet));
        }
        let slot = if is_ipv6 { &mut ipv6 } else { &mut ipv4 };
        if slot.is_some() {
            return Err(Rejected::TooManySubnets { ipv6: is_ipv6 });
        }
        check_subnet(asked.subnet)?;
        if let Some((other, network)) = taken.iter().find(|(other, _)| overlap(*other, asked.subnet)) {
            let network = network.clone();
            return Err(Rejected::SubnetOverlap { subnet: asked.subnet, other: *other, network });
        }
        if let Some(route) = request.occupied.iter().find(|route| overlap(**route, asked.subnet)) {
            return Err(Rejected::SubnetRouted { subnet: asked.subnet, route: *route });
        }
        *slot = Some(asked_pool(asked)?);
    }
    let unavailable = || taken.iter().map(|(other, _)| *other).chain(request.occupied.iter().copied());
    let is_free = |subnet: &IpNet| !unavailable().any(|other| overlap(other, *subnet));
    let ipv4 = match (ipv4, request.driver) {
        (Some(pool), _) => Some(pool),
        (None, Driver::Overlay) => first_free_overlay(unavailable()).map(plain_pool),
        (None, _) => default_ipv4().find(is_free).map(plain_pool),
    };
    let ipv4 = ipv4.ok_or(Rejected::NoFreePool { ipv6: false })?;
    if ipv6.is_none() && request.ipv6 {
        let free = unique_local(&request.id).find(is_free).ok_or(Rejected::NoFreePool { ipv6: true })?;
        ipv6 = Some(plain_pool(free));
    }
    Ok([Some(ipv4), ipv6].into_iter().flatten().collect())
}

pub(super) fn default_ipv4() -> impl Iterator<Item = IpNet> {
    let large = (17..=31).map(|second| v4([172, second, 0, 0], 16));
    large.chain((0..=15).map(|third| v4([192, 168, third * 16, 0], 20)))
}

/// The first /24 of 10.0.0.0/8 that overlaps with nothing: what is in the way is passed over, in order.
fn first_free_overlay(unavailable: impl Iterator<Item = IpNet>) -> Option<IpNet> {
    const FIRST: u128 = u32::from_be_bytes([10, 0, 0, 0]) as u128;
    const LAST: u128 = u32::from_be_bytes([10, 255, 255, 255]) as u128;
    const SIZE: u128 = 256;
    let ipv4 = unavailable.filter(|other| matches!(other, IpNet::V4(_)));
    let mut ranges: Vec<(u128, u128)> =
        ipv4.map(|other| (number(other.network()), number(other.broadcast()))).collect();
    ranges.sort_unstable();
    let mut start = FIRST;
    for (first, last) in ranges {
        if first >= start + SIZE {
            break;
        }
        if last >= start {
            start = (last / SIZE + 1) * SIZE;
        }
    }
    let start = u32::try_from(start).ok().filter(|start| u128::from(*start) <= LAST)?;
    Some(IpNet::V4(Ipv4Net::new_assert(start.into(), 24)))
}

/// A subnet for an overlay network that asks for none.
pub(super) fn free_overlay(
    ipv6: bool,
    network: &NetworkId,
    unavailable: impl Iterator<Item = IpNet>,
) -> Option<IpNet> {
    if !ipv6 {
        return first_free_overlay(unavailable);
    }
    let unavailable: Vec<IpNet> = unavailable.collect();
    unique_local(network).find(|subnet| !unavailable.iter().any(|other| overlap(*other, *subnet)))
}

pub(super) fn unique_local(network: &NetworkId) -> impl Iterator<Item = IpNet> + use<> {
    let [a, b, c, d, e, f, g, ..] = network.0;
    let first = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
    (0..ULA_TRIES).map(move |i| {
        let prefix = 0xfd << 56 | (first.wrapping_add(i) & ((1 << 56) - 1));
        let address = Ipv6Addr::from(u128::from(prefix) << 64);
        IpNet::V6(Ipv6Net::new_assert(address, 64))
    })
}

fn plain_pool(subnet: IpNet) -> Pool {
    Pool { subnet, gateway: default_gateway(subnet), ip_range: None, aux_addresses: BTreeMap::new() }
}

/// Of a subnet that a network can have.
pub fn default_gateway(subnet: IpNet) -> IpAddr {
    address(subnet, number(subnet.network()) + 1)
}

pub(super) fn check_subnet(subnet: IpNet) -> Result<(), Rejected> {
    if subnet.trunc() != subnet {
        return Err(Rejected::SubnetHostBits { subnet, meant: subnet.trunc() });
    }
    let lengths = match subnet {
        IpNet::V4(_) => 8..=30,
        IpNet::V6(_) => 16..=126,
    };
    if !lengths.contains(&subnet.prefix_len()) {
        return Err(Rejected::SubnetLength(subnet));
    }
    match RESERVED.iter().find(|(range, _)| overlap(*range, subnet)) {
        Some(&(reserved, what)) => Err(Rejected::SubnetReserved { subnet, reserved, what }),
        None => Ok(()),
    }
}

pub(super) fn check_range(range: IpNet, subnet: IpNet) -> Result<(), Rejected> {
    if range.trunc() != range {
        return Err(Rejected::RangeHostBits { range, meant: range.trunc() });
    }
    if subnet.contains(&range) { Ok(()) } else { Err(Rejected::RangeOutside { range, subnet }) }
}

fn asked_pool(asked: &PoolRequest) -> Result<Pool, Rejected> {
    let mut pool = plain_pool(asked.subnet);
    if let Some(gateway) = asked.gateway {
        pool.check_host("gateway", gateway)?;
        pool.gateway = gateway;
    }
    if let Some(range) = asked.ip_range {
        check_range(range, asked.subnet)?;
        pool.ip_range = Some(range);
    }
    if asked.aux_addresses.len() > AUX_ADDRESSES_MAX {
        return Err(Rejected::TooManyAuxAddresses(asked.subnet));
    }
    for (name, aux) in &asked.aux_addresses {
        let role = format!("auxiliary address {name}");
        pool.check_host(&role, *aux)?;
        if let Some(other) = pool.reserved_as(*aux) {
            return Err(Rejected::ReservedTwice { role, address: *aux, other });
        }
        pool.aux_addresses.insert(name.clone(), *aux);
    }
    Ok(pool)
}

impl Pool {
    pub fn is_ipv6(&self) -> bool {
        matches!(self.subnet, IpNet::V6(_))
    }

    /// Whether `address` could be an interface's: inside the subnet and none of its special addresses.
    pub(super) fn check_host(&self, role: &str, address: IpAddr) -> Result<(), Rejected> {
        if !self.subnet.contains(&address) {
            return Err(Rejected::OutsideSubnet { role: role.into(), address, subnet: self.subnet });
        }
        let what = match self.subnet {
            IpNet::V4(net) if address == net.network() => NotAHost::Network,
            IpNet::V4(net) if address == net.broadcast() => NotAHost::Broadcast,
            IpNet::V6(net) if address == net.network() => NotAHost::RouterAnycast,
            IpNet::V4(_) | IpNet::V6(_) => return Ok(()),
        };
        Err(Rejected::NotAHost { role: role.into(), address, what, subnet: self.subnet })
    }

    /// Whether the subnet and what is set aside in it could have been asked for.
    pub(super) fn is_sound(&self) -> bool {
        let within = |ip: &IpAddr| self.subnet.contains(ip);
        check_subnet(self.subnet).is_ok()
            && within(&self.gateway)
            && self.aux_addresses.values().all(within)
            && self.ip_range.is_none_or(|range| self.subnet.contains(&range))
    }

    /// What an address is set aside for.
    pub(super) fn reserved_as(&self, address: IpAddr) -> Option<String> {
        if address == self.gateway {
            return Some("gateway".into());
        }
        let aux = self.aux_addresses.iter().find(|(_, aux)| **aux == address);
        aux.map(|(name, _)| format!("auxiliary address {name}"))
    }

    /// The range that addresses are handed out from.
    pub(super) fn range(&self) -> IpNet {
        self.ip_range.unwrap_or(self.subnet)
    }

    /// The next address for which `is_taken` is false, searching from `cursor` on and around.
    pub(super) fn next_free(
        &self,
        cursor: Option<IpAddr>,
        is_taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let (first, last) = self.hosts();
        let start = cursor.map_or(first, number).clamp(first, last.saturating_add(1));
        self.first_free((start..=last).chain(first..start), is_taken)
    }

    /// The same downwards, from the end of the range where there is no `cursor`.
    pub(super) fn previous_free(
        &self,
        cursor: Option<IpAddr>,
        is_taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let (first, last) = self.hosts();
        let start = cursor.map_or(last, number).clamp(first - 1, last);
        self.first_free((first..=start).rev().chain((start + 1..=last).rev()), is_taken)
    }

    /// The first and the last address that may be handed out. There may be none: then the last is before the first.
    fn hosts(&self) -> (u128, u128) {
        let range = self.range();
        let first = number(range.network()).max(number(self.subnet.network()) + 1);
        let last = match self.subnet {
            IpNet::V4(net) => number(range.broadcast()).min(number(IpAddr::V4(net.broadcast())) - 1),
            IpNet::V6(_) => number(range.broadcast()),
        };
        (first, last)
    }

    fn first_free(
        &self,
        candidates: impl Iterator<Item = u128>,
        is_taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let is_free = |address: &IpAddr| {
            *address != self.gateway
                && !self.aux_addresses.values().any(|aux| aux == address)
                && !is_taken(*address)
        };
        let mut addresses = candidates.map(|n| address(self.subnet, n));
        addresses.find(is_free)
    }
}

/// The address after this one; the last one of all has no successor.
pub(super) fn successor(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

/// The address before this one; the first one of all has no predecessor.
pub(super) fn predecessor(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).checked_sub(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(ip) => u128::from(ip).checked_sub(1).map(|n| IpAddr::V6(n.into())),
    }
}

pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

pub(super) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The inverse of [`number`] within the family of `subnet`.
fn address(subnet: IpNet, number: u128) -> IpAddr {
    match subnet {
        IpNet::V4(_) => {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(number).expect("an address of an IPv4 subnet")))
        }
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}
