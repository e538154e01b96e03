//! Which `--gateway`, `--ip-range` and `--aux-address` belongs to which `--subnet`: to the one that contains it.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use vswitch_proto::api::Pool;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("{flag} needs a --subnet that contains it")]
    NoSubnet { flag: &'static str },
    #[error("no matching subnet for {flag} {value}; give a --subnet that contains it")]
    NoMatch { flag: &'static str, value: String },
    #[error("cannot configure multiple {flag}s ({first}, {second}) on the same subnet ({subnet})")]
    Multiple { flag: &'static str, first: String, second: String, subnet: IpNet },
    #[error("the subnets {0} and {1} overlap; give disjoint ones")]
    Overlap(IpNet, IpNet),
    #[error("--aux-address {0} is given twice; each needs a name of its own")]
    AuxTwice(String),
}

/// What the flags of `network create` say about addresses.
#[derive(Debug, Clone, Default)]
pub struct Requested<'a> {
    pub subnets: &'a [IpNet],
    pub gateways: &'a [IpAddr],
    pub ip_ranges: &'a [IpNet],
    pub aux_addresses: &'a [(String, IpAddr)],
}

/// # Errors
/// When something lies in no subnet, two of a kind in the same one, or subnets overlap.
pub fn assemble(requested: &Requested<'_>) -> Result<Vec<Pool>, PoolError> {
    let mut pools: Vec<Pool> = Vec::new();
    for subnet in requested.subnets {
        if let Some(other) = pools.iter().find(|pool| overlap(&pool.subnet, subnet)) {
            return Err(PoolError::Overlap(other.subnet, *subnet));
        }
        pools.push(Pool { subnet: *subnet, gateway: None, ip_range: None, aux_addresses: BTreeMap::new() });
    }
    for gateway in requested.gateways {
        let pool = containing(&mut pools, *gateway, "--gateway", gateway)?;
        if let Some(first) = pool.gateway.replace(*gateway) {
            return Err(multiple("gateway", first, gateway, pool.subnet));
        }
    }
    for range in requested.ip_ranges {
        let pool = containing(&mut pools, range.network(), "--ip-range", range)?;
        if !pool.subnet.contains(range) {
            return Err(PoolError::NoMatch { flag: "--ip-range", value: range.to_string() });
        }
        if let Some(first) = pool.ip_range.replace(*range) {
            return Err(multiple("ip-range", first, range, pool.subnet));
        }
    }
    for (name, address) in requested.aux_addresses {
        let pool = containing(&mut pools, *address, "--aux-address", address)?;
        if pool.aux_addresses.insert(name.clone(), *address).is_some() {
            return Err(PoolError::AuxTwice(name.clone()));
        }
    }
    Ok(pools)
}

fn multiple(flag: &'static str, first: impl ToString, second: impl ToString, subnet: IpNet) -> PoolError {
    PoolError::Multiple { flag, first: first.to_string(), second: second.to_string(), subnet }
}

fn containing<'a>(
    pools: &'a mut [Pool],
    address: IpAddr,
    flag: &'static str,
    value: &impl ToString,
) -> Result<&'a mut Pool, PoolError> {
    if pools.is_empty() {
        return Err(PoolError::NoSubnet { flag });
    }
    let found = pools.iter_mut().find(|pool| pool.subnet.contains(&address));
    found.ok_or_else(|| PoolError::NoMatch { flag, value: value.to_string() })
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_assemble(
        subnets: &[&str],
        gateways: &[&str],
        ranges: &[&str],
        aux: &[(&str, &str)],
    ) -> Result<Vec<Pool>, String> {
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpNet>>();
        let gateways: Vec<IpAddr> = gateways.iter().map(|t| t.parse().unwrap()).collect();
        let aux: Vec<(String, IpAddr)> =
            aux.iter().map(|(name, ip)| ((*name).into(), ip.parse().unwrap())).collect();
        let requested = Requested {
            subnets: &nets(subnets),
            gateways: &gateways,
            ip_ranges: &nets(ranges),
            aux_addresses: &aux,
        };
        assemble(&requested).map_err(|e| e.to_string())
    }

    #[test]
    fn everything_finds_its_subnet() {
        let pools = try_assemble(
            &["10.1.0.0/16", "fd00:1::/64"],
            &["fd00:1::1", "10.1.0.254"],
            &["10.1.4.0/24"],
            &[("router", "10.1.0.9"), ("dns", "fd00:1::53"), ("ns", "10.1.0.8")],
        )
        .unwrap();
        assert_eq!(pools[0].gateway, Some("10.1.0.254".parse().unwrap()));
        assert_eq!(pools[0].ip_range, Some("10.1.4.0/24".parse().unwrap()));
        assert_eq!(pools[0].aux_addresses.len(), 2);
        assert_eq!(pools[1].gateway, Some("fd00:1::1".parse().unwrap()));
        assert_eq!(pools[1].aux_addresses["dns"], "fd00:1::53".parse::<IpAddr>().unwrap());
        assert_eq!(try_assemble(&[], &[], &[], &[]), Ok(vec![]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (result, message) in [
            (try_assemble(&[], &["10.1.0.1"], &[], &[]), "--gateway needs a --subnet that contains it"),
            (
                try_assemble(&["10.1.0.0/16"], &["10.2.0.1"], &[], &[]),
                "no matching subnet for --gateway 10.2.0.1; give a --subnet that contains it",
            ),
            (
                try_assemble(&["10.1.0.0/16"], &["10.1.0.1", "10.1.0.2"], &[], &[]),
                "cannot configure multiple gateways (10.1.0.1, 10.1.0.2) on the same subnet (10.1.0.0/16)",
            ),
            (
                try_assemble(&["10.1.0.0/16"], &[], &["10.1.0.0/15"], &[]),
                "no matching subnet for --ip-range 10.1.0.0/15; give a --subnet that contains it",
            ),
            (
                try_assemble(&["10.1.0.0/16"], &[], &["10.1.1.0/24", "10.1.2.0/24"], &[]),
                "cannot configure multiple ip-ranges (10.1.1.0/24, 10.1.2.0/24) on the same subnet (10.1.0.0/16)",
            ),
            (
                try_assemble(&["10.1.0.0/16", "10.1.2.0/24"], &[], &[], &[]),
                "the subnets 10.1.0.0/16 and 10.1.2.0/24 overlap; give disjoint ones",
            ),
            (
                try_assemble(&["10.1.0.0/16"], &[], &[], &[("a", "10.1.0.1"), ("a", "10.1.0.2")]),
                "--aux-address a is given twice; each needs a name of its own",
            ),
            (
                try_assemble(&["10.1.0.0/16"], &[], &[], &[("a", "fd00::1")]),
                "no matching subnet for --aux-address fd00::1; give a --subnet that contains it",
            ),
        ] {
            assert_eq!(result, Err(message.into()));
        }
    }
}
