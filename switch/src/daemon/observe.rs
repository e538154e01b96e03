//! What the switch knows and counts, put together for the API.

use std::time::Instant;

use vswitch_proto::api::{Error, ErrorKind, FdbChange, FdbEntry, FdbKind, Port, Stats};
use vswitch_proto::id::{Name, PortId, Vni};

use super::handle::{Handle, error};
use crate::forward::DropReason;
use crate::forward::fdb::{Place, StaticError};
use crate::state::{Endpoint, Network, Phase, State, Wire};

impl Handle {
    pub fn ports(&self) -> Vec<Port> {
        let state = self.state();
        let mut ports: Vec<Port> = wired(&state).filter_map(|(e, wire)| self.port(&state, e, wire)).collect();
        ports.sort_by_key(|port| port.id);
        ports
    }

    fn port(&self, state: &State, endpoint: &Endpoint, wire: &Wire) -> Option<Port> {
        let network = state.network(&endpoint.network)?;
        let container = state.container(&endpoint.container)?;
        let counters = self.shared().dataplane.port_counters(wire.port);
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
            mtu: network.mtu().unwrap_or(self.shared().config.mtu),
            up: counters.is_some(),
            counters: counters.unwrap_or_default(),
        })
    }

    pub fn fdb_entries(&self, network: Option<&str>) -> Result<Vec<FdbEntry>, Error> {
        let state = self.state();
        let only = network.map(|reference| self.find_network(&state, reference)).transpose()?.map(|n| n.vni);
        let name_of = |vni: Vni| state.networks().find(|n| n.vni == vni).map(|n| n.name.clone());
        let mut entries: Vec<FdbEntry> = wired(&state)
            .filter_map(|(endpoint, wire)| {
                let network = state.network(&endpoint.network)?;
                let container = state.container(&endpoint.container).map(|c| c.name.clone());
                let (mac, port, kind) = (wire.mac, wire.port, FdbKind::Endpoint);
                let network = (network.vni, network.name.clone());
                (only.is_none_or(|vni| vni == network.0)).then_some(FdbEntry {
                    network: network.1,
                    mac,
                    port,
                    container,
                    kind,
                    age_s: None,
                })
            })
            .collect();
        for row in self.shared().fdb.rows(only, Instant::now()) {
            let (Some(network), Place::Port(port)) = (name_of(row.vni), row.place) else { continue };
            entries.push(FdbEntry {
                network,
                mac: row.mac,
                port,
                container: container_at(&state, port),
                kind: if row.age.is_some() { FdbKind::Learned } else { FdbKind::Static },
                age_s: row.age.map(|age| age.as_secs()),
            });
        }
        entries.sort_by(|a, b| (&a.network, a.mac).cmp(&(&b.network, b.mac)));
        Ok(entries)
    }

    pub fn fdb_add(&self, change: &FdbChange) -> Result<(), Error> {
        let state = self.state();
        let network = self.find_network(&state, &change.network)?;
        let Some(reference) = &change.container else {
            return Err(error(ErrorKind::Invalid, "the container behind which the address is, is missing"));
        };
        let container = self.find_container(&state, reference)?;
        let endpoint = state.endpoints_of(&container.id).find(|e| e.network == network.id);
        let Some(wire) = endpoint.and_then(|e| e.wire.as_ref()) else {
            let message =
                format!("container {} is not connected to network {}", container.name, network.name);
            return Err(error(ErrorKind::Conflict, message));
        };
        if let Some(owner) = registered(&state, network, change) {
            let message = format!("{} is the registered address of container {owner}", change.mac);
            return Err(error(ErrorKind::Conflict, message));
        }
        self.shared().fdb.add_static(network.vni, change.mac, wire.port).map_err(static_refused)
    }

    pub fn fdb_remove(&self, change: &FdbChange) -> Result<(), Error> {
        let state = self.state();
        let network = self.find_network(&state, &change.network)?;
        if let Some(owner) = registered(&state, network, change) {
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
        let state = self.state();
        let only = network.map(|reference| self.find_network(&state, reference)).transpose()?.map(|n| n.vni);
        Ok(self.shared().fdb.flush(only) as u64)
    }

    pub fn stats(&self) -> Stats {
        let state = self.state();
        let shared = self.shared();
        let totals = shared.dataplane.totals();
        let fdb = &shared.fdb;
        let learning = fdb.stats();
        Stats {
            uptime_s: shared.started_at.elapsed().as_secs(),
            workers: shared.config.workers,
            ports: wired(&state).count() as u32,
            networks: state.networks().count() as u32,
            containers_running: state.containers().filter(|c| c.phase == Phase::Running).count() as u32,
            fdb_entries: (fdb.len() + wired(&state).count()) as u64,
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

fn wired(state: &State) -> impl Iterator<Item = (&Endpoint, &Wire)> {
    let networks = state.networks();
    networks.flat_map(|n| state.endpoints_in(&n.id)).filter_map(|e| e.wire.as_ref().map(|wire| (e, wire)))
}

fn container_at(state: &State, port: PortId) -> Option<Name> {
    let (endpoint, _) = wired(state).find(|(_, wire)| wire.port == port)?;
    state.container(&endpoint.container).map(|c| c.name.clone())
}

fn registered(state: &State, network: &Network, change: &FdbChange) -> Option<Name> {
    let owns = |e: &&Endpoint| e.wire.as_ref().is_some_and(|wire| wire.mac == change.mac);
    let endpoint = state.endpoints_in(&network.id).find(owns)?;
    state.container(&endpoint.container).map(|c| c.name.clone())
}

/// From /proc/self/status, which is always there; 0 if it is not as proc(5) says.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
