//! From what should be true to what is to be done about it.
//!
//! [`diff`] compares two views and says which actions turn a host that fits the old one into a host that fits the
//! new one, and what the data plane is to know then. With an empty old view it plans a host from nothing.
//!
//! # Order
//! Detaches, then attaches, then routes, then names files, so that a name or an address never moves to a new
//! owner before the old one has let go of it.
//!
//! # Networks of the cluster
//! An endpoint in one has an interface while its lease is in effect (see [`View`]): a lease that comes attaches, one
//! that goes detaches, without a change in this node's own state.
//!
//! # Default routes
//! In each family a container's default route goes via the first of its interfaces (the lowest `ethN`) on a
//! network that is not internal. A container without interfaces so far gets its routes with [`Attach`]; when they
//! change later, [`Action::SetRoutes`] says what they are now as a whole.
//!
//! # Names files
//! Only the lab runner's containers have one. It is written when its content changes and when the container
//! starts to live. The lines of one network are the same for everybody in it (see [`names`](crate::state::names)), so
//! they are put together, and compared, once per network and not once per container.
//!
//! # Costs
//! What two views share is passed over, so that a change costs what it touches: the tables and the lines of the
//! networks in which something happened.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use vswitch_proto::command::Driver;
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, NetworkId, PortId};

use crate::forward::tables::Tables;
use crate::state::names::HostsFiles;
use crate::state::{Container, Endpoint, MTU_MIN, Network, View, Wire};

mod announcements;
mod tables;

pub use announcements::{Announcement, Left, Moves};
pub use tables::tables;

/// What the daemon was told, and the state does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Of bridge networks that ask for no other, bytes.
    pub mtu: u32,
    /// Of the network that carries the tunnels, bytes.
    pub underlay_mtu: u32,
}

impl Settings {
    /// Of a network's interfaces on this node, bytes.
    pub fn mtu_of(&self, view: View<'_>, network: &Network) -> u32 {
        let default = || match network.driver {
            Driver::Overlay => {
                let vtep = view.shared.node(view.me).map(|node| node.info.vtep);
                let overhead = if vtep.is_some_and(|vtep| vtep.is_ipv6()) { VXLAN_IPV6 } else { VXLAN_IPV4 };
                self.underlay_mtu.saturating_sub(overhead).max(MTU_MIN)
            }
            Driver::Bridge | Driver::None | Driver::Host => self.mtu,
        };
        network.mtu().unwrap_or_else(default)
    }
}

/// What a tunnel adds to a packet, bytes: the inner Ethernet header (14), VXLAN (8), UDP (8) and IPv4 (20).
const VXLAN_IPV4: u32 = 50;
/// The same with IPv6 (40).
const VXLAN_IPV6: u32 = 70;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be done in this order.
    pub actions: Vec<Action>,
    /// To be published before they are done: a port that goes gets no more frames, and one that comes is known by
    /// its first.
    pub tables: Tables,
    /// For the containers that are there already, when all that is done.
    pub moves: Moves,
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
    pub is_overlay: bool,
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

/// `known` are the tables that `old` was planned with, by the same settings; `Tables::default()` has all of them made
/// anew.
pub fn diff(old: View<'_>, new: View<'_>, known: &Tables, settings: &Settings) -> Plan {
    Plan {
        actions: actions(old, new, settings),
        tables: tables::update(old, new, known, settings),
        moves: announcements::moves(old, new, known),
    }
}

pub fn actions(old: View<'_>, new: View<'_>, settings: &Settings) -> Vec<Action> {
    let changed = changed_wires(old, new);
    let (mut detaches, mut attaches) = (Vec::new(), Vec::new());
    for (before, after) in &changed {
        if let Some((endpoint, wire)) = before {
            detaches.push(Action::Detach {
                container: endpoint.container,
                endpoint: endpoint.id,
                port: wire.port,
                interface: wire.interface_name(),
            });
        }
        if let Some((endpoint, wire)) = after {
            attaches.push(attach(old, new, endpoint, wire, settings));
        }
    }
    let either = changed.iter().filter_map(|(before, after)| before.or(*after));
    let rewired: BTreeSet<ContainerId> = either.map(|(endpoint, _)| endpoint.container).collect();
    attaches.sort_by_key(|attach| (attach.container, attach.port));
    let mut actions = detaches;
    actions.extend(attaches.into_iter().map(Action::Attach));
    actions.extend(rewired.iter().filter_map(|container| set_routes(old, new, *container)));
    actions.extend(write_hosts(old, new, rewired));
    actions
}

/// An action that failed, as it would be in `view`; `None` where there is nothing to do any more.
pub fn again(view: View<'_>, failed: &Action, settings: &Settings) -> Option<Action> {
    match failed {
        Action::Attach(attach) => {
            attach_again(view, &attach.endpoint, attach.port, settings).map(Action::Attach)
        }
        Action::Detach { endpoint, port, .. } => {
            let has_it = |endpoint| view.wire(endpoint).is_some_and(|wire| wire.port == *port);
            let is_back = view.local.endpoint(endpoint).is_some_and(has_it);
            (!is_back).then(|| failed.clone())
        }
        Action::SetRoutes { container, .. } => {
            let has_wire = view.wires_of(container).next().is_some();
            let routes = || routes(view, container);
            has_wire.then(|| Action::SetRoutes { container: *container, routes: routes() })
        }
        Action::WriteHosts { container, .. } => has_file(view, container).then(|| {
            let content = HostsFiles::new(view).file(container);
            Action::WriteHosts { container: *container, content }
        }),
    }
}

/// The interface of an endpoint with the default routes that go via it, if the endpoint has this port.
pub fn attach_again(
    view: View<'_>,
    endpoint: &EndpointId,
    port: PortId,
    settings: &Settings,
) -> Option<Attach> {
    let endpoint = view.local.endpoint(endpoint)?;
    let wire = view.wire(endpoint).filter(|wire| wire.port == port)?;
    let mut attach = attach(view, view, endpoint, wire, settings);
    let routes = routes(view, &endpoint.container).into_iter();
    attach.gateways =
        routes.filter(|route| route.interface == attach.interface).map(|route| route.gateway).collect();
    Some(attach)
}

type Wired<'a> = (&'a Endpoint, &'a Wire);

/// Interfaces that come, go or are replaced, in the order of the endpoints' ids.
fn changed_wires<'a>(old: View<'a>, new: View<'a>) -> Vec<(Option<Wired<'a>>, Option<Wired<'a>>)> {
    let mut ids: BTreeSet<EndpointId> = BTreeSet::new();
    let changed = new.local.changed_endpoints(old.local);
    ids.extend(changed.iter().flat_map(|c| [c.before(), c.after()]).flatten().map(|e| e.id));
    if old.me == new.me {
        let leases = new.shared.changed_leases(old.shared);
        ids.extend(leases.iter().flat_map(|c| [c.before(), c.after()]).flatten().map(|lease| lease.endpoint));
    } else {
        let networks = new.local.overlays();
        ids.extend(networks.flat_map(|network| new.local.endpoints_in(network)).map(|e| e.id));
    }
    let wired = |view: View<'a>, id| {
        let endpoint = view.local.endpoint(id)?;
        Some((endpoint, view.wire(endpoint)?))
    };
    let both = ids.iter().map(|id| (wired(old, id), wired(new, id)));
    both.filter(|(before, after)| before != after).collect()
}

fn attach(old: View<'_>, new: View<'_>, endpoint: &Endpoint, wire: &Wire, settings: &Settings) -> Attach {
    let network = new.network(&endpoint.network).expect("the network of an interface in effect exists");
    let interface = wire.interface_name();
    let had_interfaces = old.wires_of(&endpoint.container).next().is_some();
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
        mtu: settings.mtu_of(new, network),
        is_overlay: network.driver == Driver::Overlay,
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
fn routes(view: View<'_>, container: &ContainerId) -> Vec<DefaultRoute> {
    let (mut ipv4, mut ipv6) = (None, None);
    for (endpoint, wire) in view.wires_of(container) {
        let Some(network) = view.network(&endpoint.network).filter(|n| !n.internal) else { continue };
        let via = |gateway| DefaultRoute { interface: wire.interface_name(), gateway };
        ipv4 = ipv4.or_else(|| network.ipv4_gateway().map(|ip| via(ip.into())));
        ipv6 = ipv6.or_else(|| network.ipv6_gateway().map(|ip| via(ip.into())));
    }
    ipv4.into_iter().chain(ipv6).collect()
}

/// The routes of a container that had interfaces before and has some still, where attaching and detaching does
/// not bring them about.
fn set_routes(old: View<'_>, new: View<'_>, container: ContainerId) -> Option<Action> {
    let has_wire = |view: View<'_>| view.wires_of(&container).next().is_some();
    if !has_wire(old) || !has_wire(new) {
        return None;
    }
    let routes_now = routes(new, &container);
    let differs = routes(old, &container) != routes_now || replaced(old, new, &container);
    differs.then_some(Action::SetRoutes { container, routes: routes_now })
}

/// Whether an interface went and another of the same name came, which took its routes along.
fn replaced(old: View<'_>, new: View<'_>, container: &ContainerId) -> bool {
    let before: BTreeMap<u8, EndpointId> =
        old.wires_of(container).map(|(e, w)| (w.interface, e.id)).collect();
    new.wires_of(container).any(|(e, w)| before.get(&w.interface).is_some_and(|id| *id != e.id))
}

/// `touched` are containers whose interfaces changed; of them, and of those that changed themselves, the files are
/// compared. The others' change with the lines of their networks.
fn write_hosts(old: View<'_>, new: View<'_>, mut touched: BTreeSet<ContainerId>) -> Vec<Action> {
    let mut networks: BTreeSet<NetworkId> = BTreeSet::new();
    let endpoints = new.local.changed_endpoints(old.local);
    networks.extend(endpoints.iter().flat_map(|c| [c.before(), c.after()]).flatten().map(|e| e.network));
    let leases = new.shared.changed_leases(old.shared);
    networks.extend(leases.iter().flat_map(|c| [c.before(), c.after()]).flatten().map(|lease| lease.network));
    let containers = new.local.changed_containers(old.local);
    for container in containers.iter().flat_map(|c| [c.before(), c.after()]).flatten() {
        touched.insert(container.id);
        networks.extend(container.attachments.iter().map(|a| a.network));
    }
    let (mut before, mut after) = (HostsFiles::new(old), HostsFiles::new(new));
    let others = new.local.containers().filter(|c| c.is_lab() && c.is_live() && !touched.contains(&c.id));
    let others: Vec<&Container> = others.collect();
    let mut readers: BTreeSet<ContainerId> = BTreeSet::new();
    for network in networks {
        let of_network = || others.iter().filter(|c| c.attachment(&network).is_some());
        if of_network().next().is_some() && before.lines(&network) != after.lines(&network) {
            readers.extend(of_network().map(|c| c.id));
        }
    }
    let mut actions = Vec::new();
    for container in touched.union(&readers).copied().filter(|id| has_file(new, id)) {
        let content = after.file(&container);
        let known = !readers.contains(&container) && has_file(old, &container);
        if !known || before.file(&container) != content {
            actions.push(Action::WriteHosts { container, content });
        }
    }
    actions
}

/// Whether a container has a names file.
fn has_file(view: View<'_>, id: &ContainerId) -> bool {
    view.local.container(id).is_some_and(|c| c.is_lab() && c.is_live())
}

#[cfg(test)]
mod tests;
