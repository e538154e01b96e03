//! Subnets of new networks: what a request asks for or the default address pools have, beside the networks that there
//! are. Routes of the host are advice, see [`default_pools`](crate::state::default_pools).

use ipnet::IpNet;
use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::command::{CreateNetwork, Driver, PoolRequest};
use vswitch_proto::id::Name;

use super::control::rejected;
use super::handle::error;
use super::host::blocking;
use crate::config::Config;
use crate::io::netlink;
use crate::io::netns::NetNs;
use crate::state::default_pools::{self, Choice, DefaultPool};
use crate::state::{Network, Pool, Rejected, Snapshot, State};

/// Prefixes that this host routes to. Where they cannot be read, none is avoided.
pub async fn routes() -> Vec<IpNet> {
    let read = blocking(|| {
        let here = NetNs::current().map_err(|e| e.to_string())?;
        netlink::routes(&here).map_err(|e| e.to_string())
    });
    read.await.unwrap_or_else(|reason| {
        tracing::warn!("subnets are chosen without a look at the routes of this host: {reason}");
        Vec::new()
    })
}

/// Completes a request for a network of this node, and says what is odd about it.
pub async fn complete(
    create: &mut CreateNetwork,
    seen: &Snapshot,
    config: &Config,
) -> Result<Vec<String>, Error> {
    let routes = routes().await;
    check(&create.pools, seen.shared.networks())?;
    let taken: Vec<IpNet> = subnets(seen.local.networks().chain(seen.shared.networks())).collect();
    for ipv6 in [false, true] {
        let is_asked = create.pools.iter().any(|pool| matches!(pool.subnet, IpNet::V6(_)) == ipv6);
        let pools = default_address_pools(config);
        // Without pools of its own, IPv6 has unique local addresses that follow from the network's id.
        let has_pools = pools.iter().any(|pool| matches!(pool.base, IpNet::V6(_)) == ipv6);
        if is_asked || (ipv6 && !(create.ipv6 && has_pools)) {
            continue;
        }
        let choice = default_pools::choose(&pools, ipv6, &taken, &routes);
        let Choice { subnet, .. } = choice.ok_or_else(|| rejected(&Rejected::NoFreePool { ipv6 }))?;
        create.pools.push(plain(subnet));
    }
    Ok(occupy(create, taken, routes))
}

/// The same for an overlay network, whose subnet the cluster chooses where none is asked for.
pub async fn complete_overlay(create: &mut CreateNetwork, seen: &Snapshot) -> Result<Vec<String>, Error> {
    let mut routes = routes().await;
    check(&create.pools, seen.local.networks())?;
    let taken: Vec<IpNet> = subnets(seen.local.networks()).collect();
    if create.pools.iter().all(|pool| matches!(pool.subnet, IpNet::V6(_))) {
        let has_free = |routes: &[IpNet]| {
            let occupied = [&taken, routes].concat();
            seen.shared.plan_subnet(None, (false, &create.id), &occupied).is_ok()
        };
        for advice in [|route: &IpNet| route.prefix_len() >= OVERLAY_PREFIX, |_: &IpNet| false] {
            if has_free(&routes) {
                break;
            }
            routes.retain(advice);
        }
    }
    Ok(occupy(create, taken, routes))
}

/// What the cluster cuts 10.0.0.0/8 into.
const OVERLAY_PREFIX: u8 = 24;

/// Sets what is not to be chosen for the rest, and warns of subnets that overlap with a route.
fn occupy(create: &mut CreateNetwork, taken: Vec<IpNet>, routes: Vec<IpNet>) -> Vec<String> {
    let asked: Vec<IpNet> = create.pools.iter().map(|pool| pool.subnet).collect();
    let mut warnings = Vec::new();
    for subnet in &asked {
        if let Some((subnet, route)) = default_pools::overlapping(&[*subnet], &routes) {
            warnings.push(format!("subnet {subnet} overlaps with the route {route} of this host"));
        }
    }
    let is_free = |other: &IpNet| default_pools::overlapping(&asked, &[*other]).is_none();
    create.occupied = routes.into_iter().chain(taken).filter(is_free).collect();
    warnings
}

/// Whether nothing that is asked for overlaps with one of these networks, which whoever applies the command does not
/// know.
fn check<'a>(asked: &[PoolRequest], others: impl Iterator<Item = &'a Network>) -> Result<(), Error> {
    let others: Vec<(IpNet, &Name)> =
        others.flat_map(|network| network.pools.iter().map(|pool| (pool.subnet, &network.name))).collect();
    for pool in asked.iter().filter(|pool| pool.subnet.trunc() == pool.subnet) {
        let subnet = pool.subnet;
        let overlaps =
            |(other, _): &&(IpNet, &Name)| default_pools::overlapping(&[subnet], &[*other]).is_some();
        if let Some((other, network)) = others.iter().find(overlaps) {
            let network = (*network).clone();
            return Err(rejected(&Rejected::SubnetOverlap { subnet, other: *other, network }));
        }
    }
    Ok(())
}

/// The subnet of the default network that `--bip` asks for, with its gateway.
pub fn bridge_pool(config: &Config) -> Option<PoolRequest> {
    let bip = config.bip?;
    Some(PoolRequest { gateway: Some(bip.addr()), ..plain(bip.trunc()) })
}

/// A warning if `--bip` differs from the subnet and gateway that the default network already has.
pub fn unmet_bip(config: &Config, state: &State) -> Option<String> {
    let bip = config.bip?;
    let bridge = state.networks().find(|network| network.builtin && network.driver == Driver::Bridge)?;
    let is_met = |pool: &Pool| pool.subnet == bip.trunc() && pool.gateway == bip.addr();
    if bridge.pools.iter().any(is_met) {
        return None;
    }
    let has = bridge.pools.iter().map(|pool| pool.subnet.to_string()).collect::<Vec<_>>().join(", ");
    Some(format!(
        "--bip {bip} has no effect: network {} was made with {has} at the first start; leave --bip away, or start with \
         another --data-dir",
        bridge.name
    ))
}

/// A subnet for an engine that asks for none, from pools of one's own. The engine itself passes over subnets that
/// overlap with a route, so none is given to it.
pub fn for_engine(
    config: &Config,
    seen: &Snapshot,
    ipv6: bool,
    routes: &[IpNet],
) -> Result<Option<IpNet>, Error> {
    let pools = default_address_pools(config);
    let is_family = |pool: &DefaultPool| matches!(pool.base, IpNet::V6(_)) == ipv6;
    if config.default_address_pools.is_empty() || !pools.iter().any(is_family) {
        return Ok(None);
    }
    let networks = seen.local.networks().chain(seen.shared.networks());
    let taken: Vec<IpNet> = subnets(networks).chain(seen.local.pools().map(|pool| pool.subnet)).collect();
    let choice = default_pools::choose(&pools, ipv6, &taken, routes).filter(|choice| choice.route.is_none());
    let message = "every default address pool of vswitchd overlaps with a network or a route of this host: give a --subnet";
    choice.map(|choice| Some(choice.subnet)).ok_or_else(|| error(ErrorKind::Conflict, message))
}

/// Those of the configuration, or Docker's.
fn default_address_pools(config: &Config) -> Vec<DefaultPool> {
    let configured: Vec<DefaultPool> = config
        .default_address_pools
        .iter()
        .map(|pool| DefaultPool { base: pool.base, prefix_len: pool.size })
        .collect();
    let has_ipv4 = configured.iter().any(|pool| matches!(pool.base, IpNet::V4(_)));
    if has_ipv4 { configured } else { configured.into_iter().chain(default_pools::docker_pools()).collect() }
}

fn subnets<'a>(networks: impl Iterator<Item = &'a Network>) -> impl Iterator<Item = IpNet> {
    networks.flat_map(|network| network.pools.iter().map(|pool| pool.subnet))
}

fn plain(subnet: IpNet) -> PoolRequest {
    PoolRequest { subnet, gateway: None, ip_range: None, aux_addresses: Default::default() }
}
