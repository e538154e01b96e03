//! The states as bytes: what it is, a format version, then postcard. A later version of the cluster's state only adds
//! to the end, so an earlier one is read as one to which nothing was added. A node's own state is read in one version.
//!
//! The encoding is canonical: maps are ordered and nothing that follows from something else is written, so equal
//! states have equal bytes, and [`State::digest`] is a hash over them. What does follow, the ledgers, is rebuilt
//! on reading, and a snapshot that breaks an invariant while doing so is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vswitch_proto::command::{Attachment, Driver, Scope};
use vswitch_proto::id::{ContainerId, NetworkId};

use super::docker::Docker;
use super::endpoint::Endpoint;
use super::ledger::{Cursors, Ledger, Member};
use super::memory::Memory;
use super::requests::Requests;
use super::sharded::Sharded;
use super::{Applied, Container, GENERATION, NETWORKS_MAX, Network, State};

/// Which state a snapshot is of: its first four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Local,
    Shared,
}

impl Kind {
    const fn magic(self) -> [u8; 4] {
        match self {
            Kind::Local => *b"vswL",
            Kind::Shared => *b"vswC",
        }
    }

    /// The byte behind the magic. A node's own state has the settings of containers and what is remembered of endpoints
    /// that are gone since version 3, and which namespaces were adopted since version 4; the cluster's state the Docker networks that its networks are since version 2.
    const fn version(self) -> u8 {
        match self {
            Kind::Local => 4,
            Kind::Shared => 2,
        }
    }

    /// The earliest version that is read.
    const fn oldest(self) -> u8 {
        match self {
            Kind::Local => 4,
            Kind::Shared => 1,
        }
    }
}

/// What is wrong with bytes that should have been a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error(
        "the snapshot has format {0}, this version reads earlier ones: use the newer vswitchd that wrote it"
    )]
    Newer(u8),
    #[error("the snapshot has format {0}, which this version reads no more: use the vswitchd that wrote it")]
    Older(u8),
    #[error("this is no snapshot of the kind that is wanted: check which file it came from")]
    Foreign,
    #[error("the snapshot is damaged: restore the state from a backup")]
    Malformed,
    #[error("the snapshot contradicts itself ({0}): restore the state from a backup")]
    Inconsistent(&'static str),
}

pub(super) fn write(kind: Kind, state: &impl Serialize) -> Vec<u8> {
    let mut bytes = kind.magic().to_vec();
    bytes.push(kind.version());
    postcard::to_extend(state, bytes).expect("plain data into memory can always be encoded")
}

/// `A` since version 2, `B` since version 3.
pub(super) fn read<T, A, B>(kind: Kind, bytes: &[u8]) -> Result<(T, A, B), SnapshotError>
where
    T: DeserializeOwned,
    A: DeserializeOwned + Default,
    B: DeserializeOwned + Default,
{
    let (magic, rest) = bytes.split_first_chunk().ok_or(SnapshotError::Malformed)?;
    if *magic != kind.magic() {
        return Err(SnapshotError::Foreign);
    }
    let (version, body) = match rest.split_first() {
        Some((&version, _)) if version > kind.version() => return Err(SnapshotError::Newer(version)),
        Some((&version @ 1.., _)) if version < kind.oldest() => return Err(SnapshotError::Older(version)),
        Some((&version @ 1.., body)) => (version, body),
        _ => return Err(SnapshotError::Malformed),
    };
    let (state, rest) = postcard::take_from_bytes(body).map_err(|_| SnapshotError::Malformed)?;
    let (second, rest) = match version {
        1 => (A::default(), rest),
        _ => postcard::take_from_bytes(rest).map_err(|_| SnapshotError::Malformed)?,
    };
    let (third, rest) = match version {
        1 | 2 => (B::default(), rest),
        _ => postcard::take_from_bytes(rest).map_err(|_| SnapshotError::Malformed)?,
    };
    if rest.is_empty() { Ok((state, second, third)) } else { Err(SnapshotError::Malformed) }
}

pub(super) fn digest(snapshot: &[u8]) -> [u8; 32] {
    Sha256::digest(snapshot).into()
}

#[derive(Serialize)]
struct Written<'a> {
    networks: Vec<(&'a Network, Cursors)>,
    containers: Vec<&'a Container>,
    endpoints: Vec<&'a Endpoint>,
    next_port: u32,
    next_vni: u32,
    requests: &'a Requests<Applied, GENERATION>,
}

#[derive(Deserialize)]
struct Read {
    networks: Vec<(Network, Cursors)>,
    containers: Vec<Container>,
    endpoints: Vec<Endpoint>,
    next_port: u32,
    next_vni: u32,
    requests: Requests<Applied, GENERATION>,
}

impl State {
    pub fn to_bytes(&self) -> Vec<u8> {
        let written = Written {
            networks: with_cursors(self.networks(), &self.ledgers),
            containers: self.containers().collect(),
            endpoints: self.endpoints().collect(),
            next_port: self.next_port,
            next_vni: self.next_vni,
            requests: &self.requests,
        };
        write(Kind::Local, &(written, &*self.docker, self.memory()))
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<State, SnapshotError> {
        let (state, docker, memory) = read(Kind::Local, bytes)?;
        rebuild(state, docker, memory)
    }

    /// SHA-256 over the snapshot: equal on every node that applied the same entries.
    pub fn digest(&self) -> [u8; 32] {
        digest(&self.to_bytes())
    }
}

pub(super) fn with_cursors<'a, M: Member>(
    networks: impl Iterator<Item = &'a Network>,
    ledgers: &Sharded<NetworkId, Arc<Ledger<M>>>,
) -> Vec<(&'a Network, Cursors)> {
    networks.map(|n| (n, ledgers.get(&n.id).map(|ledger| ledger.cursors).unwrap_or_default())).collect()
}

fn rebuild(read: Read, docker: Docker, memory: Memory) -> Result<State, SnapshotError> {
    let (networks, mut ledgers) = rebuild_networks(read.networks)?;
    let mut state = State {
        networks,
        next_port: read.next_port,
        next_vni: read.next_vni,
        requests: read.requests,
        ..State::default()
    };
    for container in read.containers {
        if state.containers.insert(container.id, Arc::new(container)).is_some() {
            return Err(SnapshotError::Inconsistent("a container twice"));
        }
    }
    for endpoint in read.endpoints {
        if scope_of(&state, &endpoint) == Some(Scope::Cluster) && !ledgers.contains_key(&endpoint.network) {
            ledgers.insert(endpoint.network, Arc::default());
        }
        let endpoint = Arc::new(endpoint);
        enter(&mut ledgers, &endpoint.network, &endpoint)?;
        if state.endpoints.insert(endpoint.id, endpoint).is_some() {
            return Err(SnapshotError::Inconsistent("an endpoint twice"));
        }
    }
    state.ledgers = ledgers;
    check_networks(state.networks(), |driver| driver != Driver::Overlay)?;
    check_endpoints(&state)?;
    check_containers(&state)?;
    if let Some(what) = docker.contradiction(&state) {
        return Err(SnapshotError::Inconsistent(what));
    }
    if let Some(what) = memory.contradiction(&state) {
        return Err(SnapshotError::Inconsistent(what));
    }
    state.docker = Arc::new(docker);
    state.memory = Arc::new(memory);
    Ok(state)
}

type Ledgers<M> = Sharded<NetworkId, Arc<Ledger<M>>>;
type Networks = Sharded<NetworkId, Arc<Network>>;

pub(super) fn rebuild_networks<M: Member>(
    read: Vec<(Network, Cursors)>,
) -> Result<(Networks, Ledgers<M>), SnapshotError> {
    let (mut networks, mut ledgers) = (Sharded::new(), Sharded::new());
    for (network, cursors) in read {
        if !cursors.is_sound() {
            return Err(SnapshotError::Inconsistent("a cursor of the wrong family"));
        }
        ledgers.insert(network.id, Arc::new(Ledger::with_cursors(cursors)));
        if networks.insert(network.id, Arc::new(network)).is_some() {
            return Err(SnapshotError::Inconsistent("a network twice"));
        }
    }
    Ok((networks, ledgers))
}

/// Enters a member into the ledger of its network, if nothing speaks against it.
pub(super) fn enter<M: Member>(
    ledgers: &mut Ledgers<M>,
    network: &NetworkId,
    member: &Arc<M>,
) -> Result<(), SnapshotError>
where
    Ledger<M>: Clone,
{
    let ledger = ledgers.get_mut(network);
    let ledger = Arc::make_mut(ledger.ok_or(SnapshotError::Inconsistent("an endpoint without its network"))?);
    match ledger.contradiction(member) {
        Some(what) => Err(SnapshotError::Inconsistent(what)),
        None => {
            ledger.note(member);
            Ok(())
        }
    }
}

pub(super) fn check_networks<'a>(
    networks: impl Iterator<Item = &'a Network>,
    belongs: impl Fn(Driver) -> bool,
) -> Result<(), SnapshotError> {
    let (mut names, mut vnis) = (BTreeSet::new(), BTreeSet::new());
    for network in networks {
        if !network.is_sound() || !belongs(network.driver) {
            return Err(SnapshotError::Inconsistent("a network with impossible subnets or driver"));
        }
        let overlay = network.driver == Driver::Overlay;
        if overlay != (network.vni.get() >= vswitch_proto::id::Vni::FIRST_OVERLAY) {
            return Err(SnapshotError::Inconsistent("a VNI of the other kind of network"));
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

fn attachment_of<'a>(
    state: &'a State,
    container: &ContainerId,
    network: &NetworkId,
) -> Option<&'a Attachment> {
    state.container(container)?.attachment(network)
}

fn scope_of(state: &State, endpoint: &Endpoint) -> Option<Scope> {
    attachment_of(state, &endpoint.container, &endpoint.network).map(|attachment| attachment.scope)
}

fn check_endpoints(state: &State) -> Result<(), SnapshotError> {
    let mut ports = BTreeSet::new();
    for endpoint in state.endpoints() {
        let network = state.network(&endpoint.network);
        let bridge = network.is_none_or(|network| network.driver == Driver::Bridge);
        let Some(wire) = &endpoint.wire else {
            if bridge {
                return Err(SnapshotError::Inconsistent("an endpoint without an interface"));
            }
            continue;
        };
        if !ports.insert(wire.port) || wire.port.0 >= state.next_port {
            return Err(SnapshotError::Inconsistent("a port number twice"));
        }
        let fits = network.map_or(wire.ipv4.is_some(), |network| network.fits(wire.addresses()));
        if !bridge || !fits {
            return Err(SnapshotError::Inconsistent("an endpoint that does not fit its network"));
        }
    }
    Ok(())
}

fn check_containers(state: &State) -> Result<(), SnapshotError> {
    let mut names = BTreeSet::new();
    let mut endpoints = 0;
    for container in state.containers() {
        if container.docker().is_none() && !names.insert(&container.name) {
            return Err(SnapshotError::Inconsistent("two containers of one name"));
        }
        let networks: BTreeSet<NetworkId> = container.attachments.iter().map(|a| a.network).collect();
        if networks.len() != container.attachments.len() {
            return Err(SnapshotError::Inconsistent("a container twice in a network"));
        }
        let of_cluster = |a: &&Attachment| a.scope == Scope::Cluster;
        if container.attachments.iter().filter(of_cluster).any(|a| state.network(&a.network).is_some()) {
            return Err(SnapshotError::Inconsistent("a network of this node and of the cluster"));
        }
        let held = state.endpoints_of(&container.id).count();
        if held != if container.is_live() { networks.len() } else { 0 } {
            return Err(SnapshotError::Inconsistent(
                "a container whose endpoints are not those of its attachments",
            ));
        }
        let wires = || state.endpoints_of(&container.id).filter_map(|e| e.wire.as_ref());
        let interfaces: BTreeSet<u8> = wires().map(|w| w.interface).collect();
        if interfaces.len() != wires().count() {
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
            assert_eq!(lab.ipv4(e, bridge), "172.17.0.4", "the cursor was kept");
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
        let newer = [&bytes[..4], &[Kind::Local.version() + 1], &bytes[5..]].concat();
        assert_eq!(State::from_bytes(&newer), Err(SnapshotError::Newer(Kind::Local.version() + 1)));
        let earlier = [&bytes[..4], &[3], &bytes[5..]].concat();
        assert_eq!(State::from_bytes(&earlier), Err(SnapshotError::Older(3)));
        assert_eq!(State::from_bytes(b"SQLite format 3"), Err(SnapshotError::Foreign));
    }

    #[test]
    fn contradictions_are_refused() {
        let broken = |change: &dyn Fn(&mut State)| {
            let mut state = sample().state;
            change(&mut state);
            State::from_bytes(&state.to_bytes()).unwrap_err()
        };
        let bridge = |state: &State| state.find_network("bridge").unwrap().id;
        let first_endpoint = |state: &State| *state.endpoints.keys().next().unwrap();
        let first_wire = |state: &mut State, change: &dyn Fn(&mut super::super::Wire)| {
            let id = first_endpoint(state);
            let endpoint = state.endpoints.get_mut(&id).unwrap();
            change(Arc::make_mut(endpoint).wire.as_mut().unwrap());
        };
        let first_container = |state: &State| *state.containers.keys().next().unwrap();
        for error in [
            broken(&|s| drop(s.networks.remove(&bridge(s)))),
            broken(&|s| drop(s.containers.remove(&first_container(s)))),
            broken(&|s| drop(s.endpoints.remove(&first_endpoint(s)))),
            broken(&|s| s.next_port = 0),
            broken(&|s| Arc::make_mut(s.networks.get_mut(&bridge(s)).unwrap()).pools.clear()),
            broken(&|s| {
                Arc::make_mut(s.networks.get_mut(&bridge(s)).unwrap()).name = "host".parse().unwrap();
            }),
            broken(&|s| {
                let container = s.containers.get_mut(&first_container(s)).unwrap();
                Arc::make_mut(container).attachments.clear();
            }),
            broken(&|s| first_wire(s, &|w| w.ipv4 = Some([192, 0, 2, 1].into()))),
            broken(&|s| first_wire(s, &|w| w.port.0 += 1000)),
        ] {
            assert!(matches!(error, SnapshotError::Inconsistent(_)), "{error}");
        }
    }
}
