//! The state as bytes: a format version, then postcard.
//!
//! The encoding is canonical: maps are ordered and nothing that follows from something else is written, so equal
//! states have equal bytes, and [`State::digest`] is a hash over them. What does follow, the ledgers, is rebuilt
//! on reading, and a snapshot that breaks an invariant while doing so is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vswitch_proto::id::NetworkId;

use super::network::{Cursors, Ledger};
use super::requests::Requests;
use super::{Container, Endpoint, Network, State};

/// First byte of a snapshot.
const VERSION: u8 = 1;

/// What is wrong with bytes that should have been a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error(
        "the snapshot has format {0}, this version reads up to {VERSION}: use the newer vswitchd that wrote it"
    )]
    Newer(u8),
    #[error("the snapshot is damaged: restore the state from a backup")]
    Malformed,
    #[error("the snapshot contradicts itself ({0}): restore the state from a backup")]
    Inconsistent(&'static str),
}

#[derive(Serialize)]
struct Written<'a> {
    networks: Vec<(&'a Network, Cursors)>,
    containers: Vec<&'a Container>,
    endpoints: Vec<&'a Endpoint>,
    next_port: u32,
    next_vni: u32,
    requests: &'a Requests,
}

#[derive(Deserialize)]
struct Read {
    networks: Vec<(Network, Cursors)>,
    containers: Vec<Container>,
    endpoints: Vec<Endpoint>,
    next_port: u32,
    next_vni: u32,
    requests: Requests,
}

impl State {
    pub fn to_bytes(&self) -> Vec<u8> {
        let cursors = |id: &NetworkId| self.ledgers.get(id).map(|ledger| ledger.cursors).unwrap_or_default();
        let written = Written {
            networks: self.networks().map(|n| (n, cursors(&n.id))).collect(),
            containers: self.containers().collect(),
            endpoints: self.endpoints().collect(),
            next_port: self.next_port,
            next_vni: self.next_vni,
            requests: &self.requests,
        };
        postcard::to_extend(&written, vec![VERSION]).expect("plain data into memory can always be encoded")
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<State, SnapshotError> {
        let body = match bytes.split_first() {
            Some((&VERSION, body)) => body,
            Some((&version, _)) if version > VERSION => return Err(SnapshotError::Newer(version)),
            _ => return Err(SnapshotError::Malformed),
        };
        match postcard::take_from_bytes::<Read>(body) {
            Ok((read, [])) => rebuild(read),
            _ => Err(SnapshotError::Malformed),
        }
    }

    /// SHA-256 over the snapshot: equal on every node that applied the same entries.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.to_bytes()).into()
    }
}

fn rebuild(read: Read) -> Result<State, SnapshotError> {
    let mut ledgers: BTreeMap<NetworkId, Ledger> = BTreeMap::new();
    let mut state = State {
        next_port: read.next_port,
        next_vni: read.next_vni,
        requests: read.requests,
        ..State::default()
    };
    for (network, cursors) in read.networks {
        ledgers.insert(network.id, Ledger { cursors, ..Ledger::default() });
        if state.networks.insert(network.id, Arc::new(network)).is_some() {
            return Err(SnapshotError::Inconsistent("a network twice"));
        }
    }
    for container in read.containers {
        if state.containers.insert(container.id, Arc::new(container)).is_some() {
            return Err(SnapshotError::Inconsistent("a container twice"));
        }
    }
    for endpoint in read.endpoints {
        let ledger = ledgers.get_mut(&endpoint.network);
        let ledger = ledger.ok_or(SnapshotError::Inconsistent("an endpoint without its network"))?;
        let attached =
            state.container(&endpoint.container).is_some_and(|c| c.attachment(&endpoint.network).is_some());
        if !attached {
            return Err(SnapshotError::Inconsistent("an endpoint without its container"));
        }
        check_unused(ledger, &endpoint)?;
        ledger.note(&endpoint);
        if state.endpoints.insert(endpoint.id, Arc::new(endpoint)).is_some() {
            return Err(SnapshotError::Inconsistent("an endpoint twice"));
        }
    }
    state.ledgers = ledgers.into_iter().map(|(id, ledger)| (id, Arc::new(ledger))).collect();
    Ok(state)
}

fn check_unused(ledger: &Ledger, endpoint: &Endpoint) -> Result<(), SnapshotError> {
    if ledger.by_container.contains_key(&endpoint.container) {
        return Err(SnapshotError::Inconsistent("two endpoints of a container in a network"));
    }
    let Some(wire) = &endpoint.wire else { return Ok(()) };
    if ledger.by_mac.contains_key(&wire.mac) {
        return Err(SnapshotError::Inconsistent("a MAC address twice in a network"));
    }
    if wire.addresses().any(|address| ledger.by_address.contains_key(&address)) {
        return Err(SnapshotError::Inconsistent("an address twice in a network"));
    }
    Ok(())
}
