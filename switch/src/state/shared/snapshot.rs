//! The shared state as bytes, as [`State`](super::super::State) is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::command::Driver;

use super::super::ledger::Cursors;
use super::super::requests::Requests;
use super::super::snapshot::{self, Kind, SnapshotError};
use super::{
    Applied, Authorities, BINDINGS_MAX, Binding, GENERATION, LEASES_MAX, Lease, NODES_MAX, Network, Node,
    Shared, TokenEpochs, VOTERS_MAX,
};

#[derive(Serialize)]
struct Written<'a> {
    nodes: Vec<&'a Node>,
    networks: Vec<(&'a Network, Cursors)>,
    leases: Vec<&'a Lease>,
    last_node: u64,
    next_vni: u32,
    tokens: TokenEpochs,
    authorities: Option<&'a Authorities>,
    requests: &'a Requests<Applied, GENERATION>,
}

#[derive(Deserialize)]
struct Read {
    nodes: Vec<Node>,
    networks: Vec<(Network, Cursors)>,
    leases: Vec<Lease>,
    last_node: u64,
    next_vni: u32,
    tokens: TokenEpochs,
    authorities: Option<Authorities>,
    requests: Requests<Applied, GENERATION>,
}

impl Shared {
    pub fn to_bytes(&self) -> Vec<u8> {
        let written = Written {
            nodes: self.nodes().collect(),
            networks: snapshot::with_cursors(self.networks(), &self.ledgers),
            leases: self.leases().collect(),
            last_node: self.last_node,
            next_vni: self.next_vni,
            tokens: self.tokens,
            authorities: self.authorities(),
            requests: &self.requests,
        };
        snapshot::write(Kind::Shared, &(written, self.bindings().collect::<Vec<_>>()))
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Shared, SnapshotError> {
        let (state, bindings, ()) = snapshot::read(Kind::Shared, bytes)?;
        rebuild(state, bindings)
    }

    /// SHA-256 over the snapshot: equal on every node that applied the same entries.
    pub fn digest(&self) -> [u8; 32] {
        snapshot::digest(&self.to_bytes())
    }
}

fn rebuild(read: Read, bindings: Vec<Binding>) -> Result<Shared, SnapshotError> {
    let (networks, mut ledgers) = snapshot::rebuild_networks(read.networks)?;
    snapshot::check_networks(networks.values().map(Arc::as_ref), |driver| driver == Driver::Overlay)?;
    let mut shared = Shared {
        networks,
        last_node: read.last_node,
        next_vni: read.next_vni,
        tokens: read.tokens,
        authorities: read.authorities.map(Arc::new),
        requests: read.requests,
        ..Shared::new()
    };
    for node in read.nodes {
        if shared.nodes.insert(node.id, Arc::new(node)).is_some() {
            return Err(SnapshotError::Inconsistent("a node twice"));
        }
    }
    if shared.authorities().is_some_and(|authorities| !authorities.is_sound()) {
        return Err(SnapshotError::Inconsistent("an authority that is none"));
    }
    check_nodes(&shared)?;
    for lease in read.leases {
        let fits = shared.network(&lease.network).is_some_and(|network| network.fits(lease.addresses.ips()));
        if !fits || shared.node(lease.node).is_none() {
            return Err(SnapshotError::Inconsistent("a lease that does not fit its network or node"));
        }
        let lease = Arc::new(lease);
        snapshot::enter(&mut ledgers, &lease.network, &lease)?;
        if shared.leases.insert(lease.endpoint, lease).is_some() {
            return Err(SnapshotError::Inconsistent("a lease twice"));
        }
    }
    if shared.leases.len() > LEASES_MAX {
        return Err(SnapshotError::Inconsistent("too many leases"));
    }
    shared.ledgers = ledgers;
    add_bindings(&mut shared, bindings)?;
    Ok(shared)
}

fn add_bindings(shared: &mut Shared, bindings: Vec<Binding>) -> Result<(), SnapshotError> {
    if bindings.len() > BINDINGS_MAX {
        return Err(SnapshotError::Inconsistent("too many networks of Docker"));
    }
    for binding in bindings {
        if shared.network(&binding.network).is_none() || shared.node(binding.node).is_none() {
            return Err(SnapshotError::Inconsistent("a network of Docker without its network or node"));
        }
        if shared.bindings.insert(binding.docker, Arc::new(binding)).is_some() {
            return Err(SnapshotError::Inconsistent("a network of Docker twice"));
        }
    }
    Ok(())
}

fn check_nodes(shared: &Shared) -> Result<(), SnapshotError> {
    let (mut names, mut addresses, mut vteps) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut families = BTreeSet::new();
    for node in shared.nodes() {
        if !(1..=shared.last_node).contains(&node.id.0) {
            return Err(SnapshotError::Inconsistent("a node id that was never given"));
        }
        if node.authority > shared.authority_generation() {
            return Err(SnapshotError::Inconsistent("a node of a future authority"));
        }
        let info = &node.info;
        if !names.insert(&info.name) || !addresses.insert(info.address) || !vteps.insert(info.vtep) {
            return Err(SnapshotError::Inconsistent("two nodes of one name or address"));
        }
        families.insert(info.vtep.is_ipv6());
    }
    if families.len() > 1 {
        return Err(SnapshotError::Inconsistent("tunnel endpoints of both families"));
    }
    let voters = shared.voters().count();
    if names.len() > NODES_MAX || voters > VOTERS_MAX || (voters == 0 && !names.is_empty()) {
        return Err(SnapshotError::Inconsistent("an impossible number of nodes or voters"));
    }
    Ok(())
}
