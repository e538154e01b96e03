//! From what should be true to what is to be done about it.
//!
//! [`diff`] compares two states and says which actions turn a host that fits the old one into a host that fits the
//! new one, and what the data plane is to know then. With an empty old state it plans a host from nothing.
//!
//! # Order
//! Detaches, then attaches, then routes, then names files, so that a name or an address never moves to a new
//! owner before the old one has let go of it.
//!
//! # Default routes
//! In each family a container's default route goes via the first of its interfaces (the lowest `ethN`) on a
//! network that is not internal. A container without interfaces so far gets its routes with [`Attach`]; when they
//! change later, [`Action::SetRoutes`] says what they are now as a whole.
//!
//! # Names files
//! Only the lab runner's containers have one. It is written when its content changes and when the container
//! starts to live. The lines of one network are the same for everybody in it (see [`names`]), so
//! whether they changed is found once per network and not once per container.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use vswitch_proto::command::Driver;
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, NetworkId, PortId};

use crate::forward::tables::{self, Tables};
use crate::state::names::{self, hosts_file};
use crate::state::{Change, Container, Endpoint, Network, State, Wire, gateway_mac};

/// What the daemon was told, and the state does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Of networks that ask for no other, bytes.
    pub mtu: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be done in this order.
    pub actions: Vec<Action>,
    /// To be published before they are done: a port that goes gets no more frames, and one that comes is known by
    /// its first.
    pub tables: Tables,
}

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
    /// The container's default routes: exactly these.
    SetRoutes {
        container: ContainerId,
        routes: Vec<DefaultRoute>,
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
    /// Default routes via this interface; empty on an internal network, where another interface has the default
    /// route, and where a [`Action::SetRoutes`] follows.
    pub gateways: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRoute {
    pub interface: String,
    pub gateway: IpAddr,
}

pub fn diff(old: &State, new: &State, settings: &Settings) -> Plan {
    Plan { actions: actions(old, new, settings), tables: tables(new, settings) }
}

pub fn actions(old: &State, new: &State, settings: &Settings) -> Vec<Action> {
    let (mut detaches, mut attaches) = (Vec::new(), Vec::new());
    let mut rewired = BTreeSet::new();
    let changed = new.changed_endpoints(old);
    for change in &changed {
        if let Some((endpoint, wire)) = change.before().and_then(wired) {
            rewired.insert(endpoint.container);
            detaches.push(Action::Detach {
                container: endpoint.container,
                endpoint: endpoint.id,
                port: wire.port,
                interface: wire.interface_name(),
            });
        }
        if let Some((endpoint, wire)) = change.after().and_then(wired) {
            rewired.insert(endpoint.container);
            attaches.push(attach(old, new, endpoint, wire, settings));
        }
    }
    attaches.sort_by_key(|attach| (attach.container, attach.port));
    let mut actions = detaches;
    actions.extend(attaches.into_iter().map(Action::Attach));
    actions.extend(rewired.into_iter().filter_map(|container| set_routes(old, new, container)));
    actions.extend(write_hosts(old, new, &changed));
    actions
}

/// What the data plane knows of `state`.
pub fn tables(state: &State, settings: &Settings) -> Tables {
    let mut tables = Tables::default();
    tables.ports.reserve(state.endpoints().count());
    for network in state.networks().filter(|n| n.driver == Driver::Bridge) {
        let gateway = gateway_mac(network).map(|mac| tables::Gateway {
            mac,
            ipv4: network.ipv4_gateway(),
            ipv6: network.ipv6_gateway(),
        });
        let mut domain = tables::Network { gateway, ..tables::Network::default() };
        let mtu = network.mtu().unwrap_or(settings.mtu);
        for (_, wire) in state.endpoints_in(&network.id).filter_map(wired) {
            domain.ports.push(wire.port);
            domain.endpoints.insert(wire.mac, wire.port);
            tables.ports.insert(wire.port, tables::Port { vni: network.vni, mac: wire.mac, mtu });
        }
        domain.ports.sort_unstable();
        tables.networks.insert(network.vni, domain.into());
    }
    tables
}

fn wired(endpoint: &Endpoint) -> Option<(&Endpoint, &Wire)> {
    endpoint.wire.as_ref().map(|wire| (endpoint, wire))
}

fn attach(old: &State, new: &State, endpoint: &Endpoint, wire: &Wire, settings: &Settings) -> Attach {
    let network = new.network(&endpoint.network).expect("an endpoint's network exists");
    let interface = wire.interface_name();
    let had_interfaces = old.endpoints_of(&endpoint.container).any(|e| e.wire.is_some());
    let gateways = if had_interfaces {
        Vec::new()
    } else {
        let routes = routes(new, &endpoint.container).into_iter();
        routes.filter(|route| route.interface == interface).map(|route| route.gateway).collect()
    };
    Attach {
        container: endpoint.container,
        endpoint: endpoint.id,
        port: wire.port,
        mac: wire.mac,
        mtu: network.mtu().unwrap_or(settings.mtu),
        addresses: wire.addresses().map(|address| with_prefix(network, address)).collect(),
        interface,
        gateways,
    }
}

fn with_prefix(network: &Network, address: IpAddr) -> IpNet {
    let pool = network.pool(address.is_ipv6()).expect("an address comes from a pool of its family");
    IpNet::new(address, pool.subnet.prefix_len()).expect("a subnet's prefix length fits its family")
}

/// The default routes of a container, IPv4 first.
fn routes(state: &State, container: &ContainerId) -> Vec<DefaultRoute> {
    let (mut ipv4, mut ipv6) = (None, None);
    for (endpoint, wire) in state.endpoints_of(container).filter_map(wired) {
        let Some(network) = state.network(&endpoint.network).filter(|n| !n.internal) else { continue };
        let via = |gateway| DefaultRoute { interface: wire.interface_name(), gateway };
        ipv4 = ipv4.or_else(|| network.ipv4_gateway().map(|ip| via(ip.into())));
        ipv6 = ipv6.or_else(|| network.ipv6_gateway().map(|ip| via(ip.into())));
    }
    ipv4.into_iter().chain(ipv6).collect()
}

/// The routes of a container that had interfaces before and has some still, where attaching and detaching does
/// not bring them about.
fn set_routes(old: &State, new: &State, container: ContainerId) -> Option<Action> {
    let has_wire = |state: &State| state.endpoints_of(&container).any(|e| e.wire.is_some());
    if !has_wire(old) || !has_wire(new) {
        return None;
    }
    let routes_now = routes(new, &container);
    let differs = routes(old, &container) != routes_now || replaced(old, new, &container);
    differs.then_some(Action::SetRoutes { container, routes: routes_now })
}

/// Whether an interface went and another of the same name came, which took its routes along.
fn replaced(old: &State, new: &State, container: &ContainerId) -> bool {
    let before: BTreeMap<u8, EndpointId> =
        old.endpoints_of(container).filter_map(wired).map(|(e, w)| (w.interface, e.id)).collect();
    let mut now = new.endpoints_of(container).filter_map(wired);
    now.any(|(e, w)| before.get(&w.interface).is_some_and(|id| *id != e.id))
}

fn write_hosts(old: &State, new: &State, changed: &[Change<'_, Endpoint>]) -> Vec<Action> {
    let mut touched_networks: BTreeSet<NetworkId> = BTreeSet::new();
    let mut touched: BTreeSet<ContainerId> = BTreeSet::new();
    for change in changed {
        touched_networks.extend([change.before(), change.after()].into_iter().flatten().map(|e| e.network));
    }
    for change in new.changed_containers(old) {
        for container in [change.before(), change.after()].into_iter().flatten() {
            touched.insert(container.id);
            touched_networks.extend(container.attachments.iter().map(|a| a.network));
        }
    }
    let others = new.containers().filter(|c| c.is_lab() && c.is_live() && !touched.contains(&c.id));
    let others: Vec<&Container> = others.collect();
    for network in touched_networks {
        let readers = || others.iter().filter(|c| c.attachment(&network).is_some());
        let lines = |state| names::network_lines(state, &network, None);
        if readers().next().is_some() && lines(old) != lines(new) {
            touched.extend(readers().map(|c| c.id));
        }
    }
    touched.into_iter().filter_map(|container| write_hosts_of(old, new, container)).collect()
}

fn write_hosts_of(old: &State, new: &State, container: ContainerId) -> Option<Action> {
    lab(new, &container)?;
    let content = hosts_file(new, &container);
    let written = lab(old, &container).is_some() && hosts_file(old, &container) == content;
    (!written).then_some(Action::WriteHosts { container, content })
}

/// A container that has a names file.
fn lab<'a>(state: &'a State, id: &ContainerId) -> Option<&'a Container> {
    state.container(id).filter(|c| c.is_lab() && c.is_live())
}

#[cfg(test)]
mod tests;
