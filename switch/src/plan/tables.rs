//! What the data plane is to know: a table for each network, of which those that nothing happened to are kept.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use vswitch_proto::command::Driver;
use vswitch_proto::id::{Name, NetworkId, NodeId};

use super::{Settings, Tables, View};
use crate::forward::tables::{self, Map, Names, Overlay, Set};
use crate::state::names::resolvable;
use crate::state::{Network, gateway_mac};

/// What the data plane knows of `view`, from nothing.
pub fn tables(view: View<'_>, settings: &Settings) -> Tables {
    update(view, view, &Tables::default(), settings)
}

/// Keeps of `known` what belongs to networks that are the same in both views.
pub(super) fn update(old: View<'_>, new: View<'_>, known: &Tables, settings: &Settings) -> Tables {
    let bridges = new.local.networks().filter(|n| n.driver == Driver::Bridge);
    let overlays = new.local.overlays().filter_map(|id| new.shared.network(id));
    let networks: Vec<&Network> = bridges.chain(overlays).collect();
    let mut renamed = renamed(old, new);
    renamed.extend(called_otherwise(old, new));
    let is_kept = |network: &&&Network| is_same(old, new, network) && !renamed.contains(&network.id);
    let kept = networks.iter().filter(is_kept).filter_map(|network| {
        let table = known.networks.get(&network.vni)?;
        Some((network.vni, Arc::clone(table)))
    });
    let peers = new.shared.nodes().filter(|node| node.id != new.me);
    let mut tables = Tables {
        networks: kept.collect(),
        ports: known.ports.clone(),
        vteps: peers.map(|node| node.info.vtep).collect(),
    };
    let replaced = known.networks.iter().filter(|(vni, _)| !tables.networks.contains_key(vni));
    for port in replaced.flat_map(|(_, table)| &table.ports) {
        tables.ports.remove(port);
    }
    let changed: Vec<&Network> =
        networks.into_iter().filter(|network| !tables.networks.contains_key(&network.vni)).collect();
    let has_overlay = changed.iter().any(|network| network.driver == Driver::Overlay);
    let docker = if has_overlay { docker_names(new) } else { BTreeSet::new() };
    for network in changed {
        build(new, network, settings, &docker, &mut tables);
    }
    tables
}

/// Networks in which a container is called something else, or begins or ceases to be called anything.
fn renamed(old: View<'_>, new: View<'_>) -> BTreeSet<NetworkId> {
    let changed = new.local.changed_containers(old.local);
    let either = changed.iter().flat_map(|c| [c.before(), c.after()]).flatten();
    either.flat_map(|container| container.attachments.iter().map(|a| a.network)).collect()
}

/// Networks of the cluster that the Docker engine here calls something else.
fn called_otherwise(old: View<'_>, new: View<'_>) -> BTreeSet<NetworkId> {
    if old.me == new.me && new.shared.shares_bindings(old.shared) {
        return BTreeSet::new();
    }
    let (before, after) = (docker_names(old), docker_names(new));
    before.symmetric_difference(&after).map(|(network, _)| *network).collect()
}

/// What the Docker engine here calls networks of the cluster.
fn docker_names(view: View<'_>) -> BTreeSet<(NetworkId, &Name)> {
    let bindings = view.shared.bindings_of(view.me);
    bindings.filter_map(|binding| Some((binding.network, binding.name.as_ref()?))).collect()
}

fn is_same(old: View<'_>, new: View<'_>, network: &Network) -> bool {
    let (id, overlay) = (&network.id, network.driver == Driver::Overlay);
    let peers_are = || old.me == new.me && new.shared.shares_nodes(old.shared);
    new.local.shares_network(old.local, id)
        && (!overlay || (new.shared.shares_network(old.shared, id) && peers_are()))
}

fn build(
    view: View<'_>,
    network: &Network,
    settings: &Settings,
    docker: &BTreeSet<(NetworkId, &Name)>,
    tables: &mut Tables,
) {
    let overlay = match network.driver {
        Driver::Overlay => {
            // A node that is no member has no leases, so no port either.
            let Some(me) = view.shared.node(view.me) else { return };
            Some(overlay(view, network, me.info.vtep))
        }
        Driver::Bridge | Driver::None | Driver::Host => None,
    };
    let gateway = gateway_mac(network).map(|mac| tables::Gateway {
        mac,
        ipv4: network.ipv4_gateway(),
        ipv6: network.ipv6_gateway(),
    });
    let names = names(view, network, docker);
    let (security, servers) = (network.port_security(), network.servers());
    let mut table =
        tables::Network { gateway, overlay, names, security, servers, ..tables::Network::default() };
    let leases = view.shared.leases_in(&network.id);
    table.neighbors.extend(leases.flat_map(|l| l.addresses.ips().map(|ip| (ip, l.addresses.mac))));
    let mtu = settings.mtu_of(view, network);
    for (_, wire) in view.wires_in(&network.id) {
        table.ports.push(wire.port);
        table.endpoints.insert(wire.mac, wire.port);
        table.neighbors.extend(wire.addresses().map(|ip| (ip, wire.mac)));
        let (ipv4, ipv6) = (wire.ipv4, wire.ipv6);
        tables.ports.insert(wire.port, tables::Port { vni: network.vni, mac: wire.mac, mtu, ipv4, ipv6 });
    }
    table.ports.sort_unstable();
    if table.overlay.is_none() || !table.ports.is_empty() {
        tables.networks.insert(network.vni, Arc::new(table));
    }
}

fn names(view: View<'_>, network: &Network, docker: &BTreeSet<(NetworkId, &Name)>) -> Names {
    let mut names = Names { network: network.name.as_str().to_ascii_lowercase().into(), ..Names::default() };
    let docker = docker.iter().filter(|(bound, _)| *bound == network.id);
    names.docker = docker.map(|(_, name)| name.as_str().to_ascii_lowercase().into()).collect();
    names.subnets = network.pools.iter().map(|pool| pool.subnet).collect();
    for member in resolvable(view, &network.id) {
        for name in &member.names {
            let of_name = names.addresses.entry(name.to_ascii_lowercase().into()).or_default();
            of_name.extend(member.addresses.ips());
        }
        let name = format!("{}.{}", member.name, network.name);
        names.containers.extend(member.addresses.ips().map(|ip| (ip, name.as_str().into())));
    }
    names
}

fn overlay(view: View<'_>, network: &Network, mine: IpAddr) -> Overlay {
    let vteps: Map<NodeId, IpAddr> = view.shared.nodes().map(|n| (n.id, n.info.vtep)).collect();
    let mut remotes = Map::default();
    let (mut nodes, mut flood_vteps) = (Set::default(), BTreeSet::new());
    for lease in view.shared.leases_in(&network.id) {
        if lease.node != view.me {
            let vtep = *vteps.get(&lease.node).expect("a lease is a member's");
            remotes.insert(lease.addresses.mac, vtep);
            if nodes.insert(lease.node) {
                flood_vteps.insert(vtep);
            }
        }
    }
    let mut static_vteps = network.static_vteps();
    static_vteps.retain(|vtep| *vtep != mine);
    flood_vteps.extend(&static_vteps);
    Overlay {
        vtep: mine,
        remotes,
        flood_vteps: flood_vteps.into_iter().collect(),
        static_vteps,
        inner_vlan: network.inner_vlan(),
    }
}
