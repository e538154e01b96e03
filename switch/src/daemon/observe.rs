//! What the switch knows and counts, put together for the API.

use std::time::Instant;

use vswitch_proto::api::{Error, ErrorKind, FdbChange, FdbEntry, FdbKind, Port, Stats, TunnelStats};
use vswitch_proto::id::{Name, PortId, Vni};

use super::handle::{Handle, error};
use crate::forward::DropReason;
use crate::forward::fdb::{Place, StaticError};
use crate::state::{Endpoint, Network, Phase, View, Wire};

impl Handle {
    pub fn ports(&self) -> Vec<Port> {
        let seen = self.snapshot();
        let mut ports: Vec<Port> =
            wired(seen.view()).filter_map(|(e, wire)| self.port(seen.view(), e, wire)).collect();
        ports.sort_by_key(|port| port.id);
        ports
    }

    fn port(&self, view: View<'_>, endpoint: &Endpoint, wire: &Wire) -> Option<Port> {
        let network = view.network(&endpoint.network)?;
        let container = view.local.container(&endpoint.container)?;
        let counters = self.shared().dataplane.port_counters(wire.port);
        let problem = match (self.shared().port_problems.of(wire.port), counters) {
            (Some(problem), _) => Some(problem.to_owned()),
            (None, None) => Some("its interface could not be made; see the log of vswitchd".to_owned()),
            (None, Some(_)) => None,
        };
        Some(Port {
            id: wire.port,
            network: network.name.clone(),
            network_id: network.id,
            container: container.name.clone(),
            container_id: container.id,
            endpoint_id: endpoint.id,
            interface: format!("eth{}", wire.interface),
            mac: wire.mac,
            ipv4: wire.ipv4,
            ipv6: wire.ipv6,
            mtu: self.shared().settings().mtu_of(view, network),
            up: problem.is_none(),
            problem,
            counters: counters.unwrap_or_default(),
        })
    }

    pub fn fdb_entries(&self, network: Option<&str>) -> Result<Vec<FdbEntry>, Error> {
        let seen = self.snapshot();
        let view = seen.view();
        let only = network.map(|reference| self.find_network(view, reference)).transpose()?.map(|n| n.vni);
        let networks = view.networks().filter(|network| only.is_none_or(|vni| vni == network.vni));
        let mut entries: Vec<FdbEntry> = networks.flat_map(|network| registered(view, network)).collect();
        let name_of = |vni: Vni| view.networks().find(|n| n.vni == vni).map(|n| n.name.clone());
        for row in self.shared().fdb.rows(only, Instant::now()) {
            let Some(network) = name_of(row.vni) else { continue };
            let (port, vtep) = match row.place {
                Place::Port(port) => (Some(port), None),
                Place::Vtep(vtep) => (None, Some(vtep)),
            };
            entries.push(FdbEntry {
                network,
                mac: row.mac,
                port,
                vtep,
                container: port.and_then(|port| container_at(view, port)),
                kind: if row.age.is_some() { FdbKind::Learned } else { FdbKind::Static },
                age_s: row.age.map(|age| age.as_secs()),
            });
        }
        entries.sort_by(|a, b| (&a.network, a.mac).cmp(&(&b.network, b.mac)));
        Ok(entries)
    }

    pub fn fdb_add(&self, change: &FdbChange) -> Result<(), Error> {
        let seen = self.snapshot();
        let view = seen.view();
        let network = self.find_network(view, &change.network)?;
        let Some(reference) = &change.container else {
            return Err(error(ErrorKind::Invalid, "the container behind which the address is, is missing"));
        };
        let container = self.find_container(view.local, reference)?;
        let endpoint = view.local.endpoint_at(&container.id, &network.id);
        let Some(wire) = endpoint.and_then(|endpoint| view.wire(endpoint)) else {
            let message =
                format!("container {} is not connected to network {}", container.name, network.name);
            return Err(error(ErrorKind::Conflict, message));
        };
        if let Some(owner) = owner(view, network, change) {
            let message = format!("{} is the registered address of container {owner}", change.mac);
            return Err(error(ErrorKind::Conflict, message));
        }
        self.shared().fdb.add_static(network.vni, change.mac, wire.port).map_err(static_refused)
    }

    pub fn fdb_remove(&self, change: &FdbChange) -> Result<(), Error> {
        let seen = self.snapshot();
        let network = self.find_network(seen.view(), &change.network)?;
        if let Some(owner) = owner(seen.view(), network, change) {
            let message =
                format!("{} is the registered address of container {owner}; it goes with it", change.mac);
            return Err(error(ErrorKind::Conflict, message));
        }
        if self.shared().fdb.remove(network.vni, change.mac) {
            return Ok(());
        }
        let message =
            format!("network {} has no entry for {}; see: vswitchctl fdb show", network.name, change.mac);
        Err(error(ErrorKind::NotFound, message))
    }

    /// Forgets what was learned. The number of entries that went.
    pub fn fdb_flush(&self, network: Option<&str>) -> Result<u64, Error> {
        let seen = self.snapshot();
        let found = network.map(|reference| self.find_network(seen.view(), reference)).transpose()?;
        Ok(self.shared().fdb.flush(found.map(|network| network.vni)) as u64)
    }

    pub fn stats(&self) -> Stats {
        let seen = self.snapshot();
        let (state, wired) = (&seen.local, wired(seen.view()).count());
        let shared = self.shared();
        let totals = shared.dataplane.totals();
        let fdb = &shared.fdb;
        let learning = fdb.stats();
        Stats {
            uptime_s: shared.started_at.elapsed().as_secs(),
            workers: shared.config.workers,
            engine: shared.dataplane.engine().to_string(),
            ports: wired as u32,
            networks: seen.view().networks().count() as u32,
            containers_running: state.containers().filter(|c| c.phase == Phase::Running).count() as u32,
            fdb_entries: (fdb.len() + wired) as u64,
            fdb_capacity: shared.config.fdb_capacity.into(),
            fdb_learned: learning.learned,
            fdb_moved: learning.moved,
            fdb_refused: learning.refused,
            fdb_aged: learning.aged,
            rx_frames: totals.rx_frames,
            rx_bytes: totals.rx_bytes,
            tx_frames: totals.tx_frames,
            tx_bytes: totals.tx_bytes,
            flooded_frames: totals.flooded_frames,
            buffer_shortages: totals.buffer_shortages,
            tunnel: TunnelStats {
                rx_datagrams: totals.tunnel.rx_datagrams,
                rx_bytes: totals.tunnel.rx_bytes,
                tx_datagrams: totals.tunnel.tx_datagrams,
                tx_bytes: totals.tunnel.tx_bytes,
                segmented_sends: totals.tunnel.segmented_sends,
                refused_sends: totals.tunnel.refused_sends,
                coalesced_frames: totals.tunnel.coalesced_frames,
                rx_deferred: totals.tunnel.rx_deferred,
                rx_overflows: totals.tunnel.rx_overflows,
            },
            drops: DropReason::ALL
                .iter()
                .map(|&reason| (reason.name().into(), totals.dropped(reason)))
                .collect(),
            rss_kib: resident_kib(),
        }
    }
}

fn static_refused(refused: StaticError) -> Error {
    let kind = match refused {
        StaticError::NotUnicast(_) => ErrorKind::Invalid,
        StaticError::Full => ErrorKind::Conflict,
    };
    error(kind, refused.to_string())
}

fn wired<'a>(view: View<'a>) -> impl Iterator<Item = (&'a Endpoint, &'a Wire)> {
    view.networks().flat_map(move |network| view.wires_in(&network.id))
}

fn container_at(view: View<'_>, port: PortId) -> Option<Name> {
    let (endpoint, _) = wired(view).find(|(_, wire)| wire.port == port)?;
    view.local.container(&endpoint.container).map(|c| c.name.clone())
}

/// The addresses of endpoints, on all nodes.
fn registered<'a>(view: View<'a>, network: &'a Network) -> Vec<FdbEntry> {
    let entry = |mac, port, vtep, container| FdbEntry {
        network: network.name.clone(),
        mac,
        port,
        vtep,
        container,
        kind: FdbKind::Endpoint,
        age_s: None,
    };
    let here = view.wires_in(&network.id).map(|(endpoint, wire)| {
        let container = view.local.container(&endpoint.container).map(|c| c.name.clone());
        entry(wire.mac, Some(wire.port), None, container)
    });
    let elsewhere = view.shared.leases_in(&network.id).filter(|lease| lease.node != view.me).map(|lease| {
        let vtep = view.shared.node(lease.node).map(|node| node.info.vtep);
        entry(lease.addresses.mac, None, vtep, Some(lease.container_name.clone()))
    });
    here.chain(elsewhere).collect()
}

fn owner(view: View<'_>, network: &Network, change: &FdbChange) -> Option<Name> {
    registered(view, network).into_iter().find(|entry| entry.mac == change.mac)?.container
}

/// From /proc/self/status, which is always there; 0 if it is not as proc(5) says.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
