//! The state as bytes: a format version, then postcard.
//!
//! The encoding is canonical: maps are ordered and nothing that follows from something else is written, so equal
//! states have equal bytes, and [`State::digest`] is a hash over them. What does follow, the ledgers, is rebuilt
//! on reading, and a snapshot that breaks an invariant while doing so is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vswitch_proto::command::Driver;
use vswitch_proto::id::NetworkId;

use super::network::{Cursors, Ledger};
use super::requests::Requests;
use super::{Container, Endpoint, NETWORKS_MAX, Network, Pool, State};

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
        check_unused(ledger, &endpoint)?;
        let endpoint = Arc::new(endpoint);
        ledger.note(&endpoint);
        if state.endpoints.insert(endpoint.id, endpoint).is_some() {
            return Err(SnapshotError::Inconsistent("an endpoint twice"));
        }
    }
    state.ledgers = ledgers.into_iter().map(|(id, ledger)| (id, Arc::new(ledger))).collect();
    check_networks(&state)?;
    check_endpoints(&state)?;
    check_containers(&state)?;
    Ok(state)
}

/// What [`Ledger::note`] would overwrite.
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

fn check_networks(state: &State) -> Result<(), SnapshotError> {
    let (mut names, mut vnis) = (BTreeSet::new(), BTreeSet::new());
    for network in state.networks() {
        let ipv4_first = network.pools.first().is_some_and(|pool| !pool.is_ipv6());
        let sound = network.pools.iter().all(Pool::is_sound);
        let shaped =
            ipv4_first && network.pools.iter().skip(1).all(Pool::is_ipv6) && network.pools.len() <= 2;
        if !sound || (network.driver == Driver::Bridge && !shaped) {
            return Err(SnapshotError::Inconsistent("a network with impossible subnets"));
        }
        if !names.insert(&network.name) || !vnis.insert(network.vni) {
            return Err(SnapshotError::Inconsistent("two networks of one name or VNI"));
        }
    }
    if names.len() > NETWORKS_MAX {
        return Err(SnapshotError::Inconsistent("too many networks"));
    }
    Ok(())
}

fn check_endpoints(state: &State) -> Result<(), SnapshotError> {
    let mut ports = BTreeSet::new();
    for endpoint in state.endpoints() {
        let network = state.network(&endpoint.network).expect("checked with the ledgers");
        let Some(wire) = &endpoint.wire else {
            if network.driver == Driver::Bridge {
                return Err(SnapshotError::Inconsistent("an endpoint without an interface"));
            }
            continue;
        };
        if !ports.insert(wire.port) || wire.port.0 >= state.next_port {
            return Err(SnapshotError::Inconsistent("a port number twice"));
        }
        let fits = |ip: IpAddr| network.pool(ip.is_ipv6()).is_some_and(|pool| pool.subnet.contains(&ip));
        if network.driver != Driver::Bridge || wire.ipv4.is_none() || !wire.addresses().all(fits) {
            return Err(SnapshotError::Inconsistent("an endpoint that does not fit its network"));
        }
    }
    Ok(())
}

fn check_containers(state: &State) -> Result<(), SnapshotError> {
    let mut names = BTreeSet::new();
    let mut endpoints = 0;
    for container in state.containers() {
        if !names.insert(&container.name) {
            return Err(SnapshotError::Inconsistent("two containers of one name"));
        }
        let networks: BTreeSet<NetworkId> = container.attachments.iter().map(|a| a.network).collect();
        if networks.len() != container.attachments.len() {
            return Err(SnapshotError::Inconsistent("a container twice in a network"));
        }
        let held = state.endpoints_of(&container.id).count();
        if held != if container.is_live() { networks.len() } else { 0 } {
            return Err(SnapshotError::Inconsistent(
                "a container whose endpoints are not those of its attachments",
            ));
        }
        let interfaces: BTreeSet<u8> =
            state.endpoints_of(&container.id).filter_map(|e| e.wire.as_ref()).map(|w| w.interface).collect();
        let wires = state.endpoints_of(&container.id).filter(|e| e.wire.is_some()).count();
        if interfaces.len() != wires {
            return Err(SnapshotError::Inconsistent("an interface number twice in a container"));
        }
        endpoints += held;
    }
    if endpoints != state.endpoints.len() {
        return Err(SnapshotError::Inconsistent("an endpoint without its container"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Lab, to};
    use super::*;

    fn sample() -> Lab {
        let mut lab = Lab::new();
        let six = lab.create("six", |r| r.ipv6 = true).unwrap();
        let bridge = lab.named("bridge");
        let c = lab.run("c", vec![to(bridge), to(six)]).unwrap();
        lab.run("d", vec![to(bridge)]).unwrap();
        lab.exit(c).unwrap();
        lab.start(c).unwrap();
        lab
    }

    #[test]
    fn what_is_read_goes_on_as_what_was_written() {
        let mut lab = sample();
        let mut read = lab.clone();
        read.state = State::from_bytes(&lab.state.to_bytes()).unwrap();
        for lab in [&mut lab, &mut read] {
            let bridge = lab.named("bridge");
            let e = lab.run("e", vec![to(bridge)]).unwrap();
            assert_eq!(lab.ipv4(e, bridge), "172.17.0.5", "the cursor was kept");
        }
        assert_eq!(lab.state.digest(), read.state.digest());
        let other = sample();
        assert_ne!(other.state.digest(), lab.state.digest());
    }

    #[test]
    fn versions_and_damage() {
        let bytes = sample().state.to_bytes();
        for length in 0..bytes.len() {
            assert_eq!(State::from_bytes(&bytes[..length]), Err(SnapshotError::Malformed), "{length}");
        }
        let long = [&bytes[..], &[0]].concat();
        assert_eq!(State::from_bytes(&long), Err(SnapshotError::Malformed));
        let newer = [&[VERSION + 1], &bytes[1..]].concat();
        assert_eq!(State::from_bytes(&newer), Err(SnapshotError::Newer(VERSION + 1)));
    }

    #[test]
    fn contradictions_are_refused() {
        let broken = |change: &dyn Fn(&mut State)| {
            let mut state = sample().state;
            change(&mut state);
            State::from_bytes(&state.to_bytes()).unwrap_err()
        };
        let bridge = |state: &State| state.find_network("bridge").unwrap().id;
        let first_wire = |state: &mut State, change: &dyn Fn(&mut super::super::Wire)| {
            let endpoint = state.endpoints.values_mut().next().unwrap();
            change(Arc::make_mut(endpoint).wire.as_mut().unwrap());
        };
        for error in [
            broken(&|s| drop(s.networks.remove(&bridge(s)))),
            broken(&|s| drop(s.containers.pop_first())),
            broken(&|s| drop(s.endpoints.pop_first())),
            broken(&|s| s.next_port = 0),
            broken(&|s| Arc::make_mut(s.networks.get_mut(&bridge(s)).unwrap()).pools.clear()),
            broken(&|s| {
                Arc::make_mut(s.networks.get_mut(&bridge(s)).unwrap()).name = "host".parse().unwrap();
            }),
            broken(&|s| Arc::make_mut(s.containers.values_mut().next().unwrap()).attachments.clear()),
            broken(&|s| first_wire(s, &|w| w.ipv4 = Some([192, 0, 2, 1].into()))),
            broken(&|s| first_wire(s, &|w| w.port.0 += 1000)),
        ] {
            assert!(matches!(error, SnapshotError::Inconsistent(_)), "{error}");
        }
    }
}
