//! Subnets for networks that ask for none: the first free one of the default address pools.
//!
//! A subnet of ours is in no routing table of the host, so a route that overlaps with it is no obstacle, only advice. A
//! subnet that overlaps with no route is preferred; then one that lies within a route, which a VPN makes for half of
//! all addresses or for all private ones; then any. Another network of ours is an obstacle in any case.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::ipam::{default_ipv4, number, overlap};

/// A prefix, and the length of the prefixes that it is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultPool {
    pub base: IpNet,
    pub prefix_len: u8,
}

/// A subnet that was chosen, with the route that it overlaps with, if it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub subnet: IpNet,
    pub route: Option<IpNet>,
}

/// Docker's pools: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 to 192.168.240.0/20.
pub fn docker_pools() -> Vec<DefaultPool> {
    default_ipv4().map(|base| DefaultPool { base, prefix_len: base.prefix_len() }).collect()
}

/// Chooses a subnet of one family. `taken` are the subnets of other networks; `routes` are those of the host.
pub fn choose(pools: &[DefaultPool], ipv6: bool, taken: &[IpNet], routes: &[IpNet]) -> Option<Choice> {
    let free = |advice: &dyn Fn(&DefaultPool, &IpNet) -> bool| {
        let pools = pools.iter().filter(|pool| is_ipv6(pool.base) == ipv6);
        pools.copied().find_map(|pool| {
            let avoided = routes.iter().filter(|route| advice(&pool, route));
            first_free(pool, taken.iter().chain(avoided).copied())
        })
    };
    let subnet = free(&|_, _| true)
        .or_else(|| free(&|pool, route| route.prefix_len() >= pool.prefix_len))
        .or_else(|| free(&|_, _| false))?;
    Some(Choice { subnet, route: overlapping(&[subnet], routes).map(|(_, route)| route) })
}

/// The first of these subnets that overlaps with one of the prefixes, and the longest of those.
pub fn overlapping(subnets: &[IpNet], prefixes: &[IpNet]) -> Option<(IpNet, IpNet)> {
    subnets.iter().find_map(|subnet| {
        let others = prefixes.iter().filter(|other| overlap(**other, *subnet));
        others.max_by_key(|other| other.prefix_len()).map(|other| (*subnet, *other))
    })
}

fn is_ipv6(prefix: IpNet) -> bool {
    matches!(prefix, IpNet::V6(_))
}

/// The first subnet of a pool that overlaps with nothing: what is in the way is passed over, in order.
fn first_free(pool: DefaultPool, unavailable: impl Iterator<Item = IpNet>) -> Option<IpNet> {
    let DefaultPool { base, prefix_len } = pool;
    let bits = u32::from(base.max_prefix_len() - prefix_len);
    let (first, last) = (number(base.network()), number(base.broadcast()));
    let same_family = unavailable.filter(|other| is_ipv6(*other) == is_ipv6(base));
    let mut ranges: Vec<(u128, u128)> =
        same_family.map(|other| (number(other.network()), number(other.broadcast()))).collect();
    ranges.sort_unstable();
    // In units of the subnets' size, which cannot overflow at the end of the address space.
    let mut unit = first >> bits;
    for (start, end) in ranges {
        if start >> bits > unit {
            break;
        }
        unit = unit.max((end >> bits) + 1);
    }
    if unit > last >> bits {
        return None;
    }
    let start = unit << bits;
    let address = match base {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(start).ok()?)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(start)),
    };
    IpNet::new(address, prefix_len).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| net(text)).collect()
    }

    fn chosen(taken: &[&str], routes: &[&str]) -> (String, Option<String>) {
        let choice = choose(&docker_pools(), false, &nets(taken), &nets(routes)).unwrap();
        (choice.subnet.to_string(), choice.route.map(|route| route.to_string()))
    }

    #[test]
    fn routes_are_advice_and_networks_are_obstacles() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(chosen(&[], &[]), ("172.17.0.0/16".into(), None));
        assert_eq!(chosen(&["172.17.0.0/16"], &["172.18.4.0/24"]), ("172.19.0.0/16".into(), None));
        // A VPN for all addresses, beside a network of the host's own.
        let vpn = ["0.0.0.0/1", "128.0.0.0/1", "172.17.9.0/24"];
        assert_eq!(chosen(&[], &vpn), ("172.18.0.0/16".into(), some("128.0.0.0/1")));
        let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
        assert_eq!(chosen(&[], &private), ("172.17.0.0/16".into(), some("172.16.0.0/12")));
        // Nothing but routes to each of them.
        let all: Vec<String> = docker_pools().iter().map(|pool| pool.base.to_string()).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(chosen(&["172.17.0.0/16"], &all), ("172.18.0.0/16".into(), some("172.18.0.0/16")));
        assert_eq!(choose(&docker_pools(), false, &nets(&all), &[]), None);
        assert_eq!(choose(&docker_pools(), true, &[], &[]), None);
    }

    #[test]
    fn pools_of_ones_own() {
        let pools = [
            DefaultPool { base: net("10.10.0.0/16"), prefix_len: 24 },
            DefaultPool { base: net("255.255.255.0/24"), prefix_len: 25 },
            DefaultPool { base: net("fd00::/48"), prefix_len: 64 },
            DefaultPool { base: net("ffff::/16"), prefix_len: 16 },
        ];
        let chosen = |ipv6, taken: &[&str]| {
            choose(&pools, ipv6, &nets(taken), &[]).map(|choice| choice.subnet.to_string())
        };
        assert_eq!(chosen(false, &["10.10.0.0/23", "10.10.2.128/25"]).unwrap(), "10.10.3.0/24");
        assert_eq!(chosen(false, &["10.0.0.0/8"]).unwrap(), "255.255.255.0/25");
        assert_eq!(chosen(false, &["0.0.0.0/1", "255.255.255.0/25"]).unwrap(), "255.255.255.128/25");
        assert_eq!(chosen(false, &["0.0.0.0/1", "128.0.0.0/1"]), None);
        assert_eq!(chosen(true, &["fd00::/64", "10.0.0.0/8"]).unwrap(), "fd00:0:0:1::/64");
        assert_eq!(chosen(true, &["fd00::/48"]).unwrap(), "ffff::/16");
        assert_eq!(chosen(true, &["8000::/1"]), None);
    }

    proptest! {
        #[test]
        fn as_a_search_through_all_of_them(
            taken in prop::collection::vec((0..64u32, 20..=26u8), 0..12),
        ) {
            let pool = DefaultPool { base: net("10.0.0.0/18"), prefix_len: 22 };
            let taken: Vec<IpNet> = taken
                .into_iter()
                .map(|(n, len)| IpNet::new(Ipv4Addr::from(0x0a00_0000 + n * 256).into(), len).unwrap().trunc())
                .collect();
            let mut all = pool.base.subnets(pool.prefix_len).unwrap();
            let naive = all.find(|subnet| !taken.iter().any(|other| overlap(*other, *subnet)));
            prop_assert_eq!(first_free(pool, taken.iter().copied()), naive);
        }
    }
}
