//! A snapshot of the shared state as a file: what an operator keeps for bad days.
//!
//! Magic, version, SHA-256 of the rest, then the header and the state. It has no keys and no tokens.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vswitch_proto::api::{SNAPSHOT_BYTES_MAX, SnapshotSummary};
use vswitch_proto::command::{NodeInfo, Role, SharedChange, SharedCommand, SharedEnvelope};
use vswitch_proto::id::{ClusterId, NodeId, RequestId};

use super::super::token::hex;
use crate::state::shared::Shared;
use crate::state::{Rejected, SnapshotError};

const MAGIC: &[u8] = b"vswitch snapshot\n";
const VERSION: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    #[error("this is no snapshot of a vswitch cluster: check which file it is")]
    Foreign,
    #[error("the snapshot has version {0}, this vswitchd knows {VERSION}: use the version that wrote it")]
    Newer(u8),
    #[error("the snapshot is damaged or cut short: use another one")]
    Damaged,
    #[error("the snapshot is larger than {SNAPSHOT_BYTES_MAX} bytes: check which file it is")]
    TooLarge,
    #[error(transparent)]
    State(#[from] SnapshotError),
    #[error("the snapshot does not fit this node: {0}")]
    Misfit(#[from] Rejected),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    cluster: ClusterId,
    applied: u64,
    taken_at_ms: u64,
}

/// A snapshot that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    header: Header,
    pub(super) state: Shared,
}

pub(super) fn write(state: &Shared, cluster: ClusterId, applied: u64, taken_at_ms: u64) -> Vec<u8> {
    let header = Header { cluster, applied, taken_at_ms };
    let body = postcard::to_allocvec(&(header, state.to_bytes()))
        .expect("plain data into memory can always be encoded");
    [MAGIC, &[VERSION], &Sha256::digest(&body)[..], &body].concat()
}

pub(super) fn read(bytes: &[u8]) -> Result<Snapshot, SnapshotFileError> {
    if bytes.len() > SNAPSHOT_BYTES_MAX {
        return Err(SnapshotFileError::TooLarge);
    }
    let rest = bytes.strip_prefix(MAGIC).ok_or(SnapshotFileError::Foreign)?;
    let rest = match rest.split_first() {
        Some((&VERSION, rest)) => rest,
        Some((&found, _)) if found > VERSION => return Err(SnapshotFileError::Newer(found)),
        _ => return Err(SnapshotFileError::Damaged),
    };
    let (digest, body) = rest.split_first_chunk::<32>().ok_or(SnapshotFileError::Damaged)?;
    if Sha256::digest(body)[..] != *digest {
        return Err(SnapshotFileError::Damaged);
    }
    let (header, state): (Header, Vec<u8>) = match postcard::take_from_bytes(body) {
        Ok((parts, [])) => parts,
        _ => return Err(SnapshotFileError::Damaged),
    };
    Ok(Snapshot { header, state: Shared::from_bytes(&state)? })
}

impl Snapshot {
    pub(super) fn summary(&self) -> SnapshotSummary {
        SnapshotSummary {
            cluster: self.header.cluster,
            applied: self.header.applied,
            taken_at_ms: self.header.taken_at_ms,
            digest: hex(&self.state.digest()),
            nodes: self.state.nodes().map(|node| node.info.name.clone()).collect(),
            networks: self.state.networks().map(|network| network.name.clone()).collect(),
            leases: self.state.leases().count() as u64,
        }
    }
}

/// A cluster that consists of one node: the state of a new one, or what is left of `state` when only this node goes
/// on. Of an old state it takes the place of `node`, or of the node of the same name, or of any: leases that it does
/// not have it will release. Those of all others are released here. `authority` is the certificate of the one that
/// signs from then on.
pub(super) fn reduce(
    state: &mut Shared,
    node: Option<NodeId>,
    info: &NodeInfo,
    authority: &[u8],
    at_ms: u64,
) -> Result<NodeId, Rejected> {
    let own = reduce_nodes(state, node, info, at_ms)?;
    let before = state.authorities().cloned();
    let mut apply = |change| apply(state, own, change, at_ms);
    if before.as_ref().is_none_or(|before| before.current != authority) {
        let generation = before.as_ref().map_or(0, |before| before.generation);
        if before.as_ref().is_some_and(|before| !before.former.is_empty()) {
            apply(SharedChange::DropAuthority { generation })?;
        }
        let certificate = authority.to_vec();
        apply(SharedChange::RotateAuthority { certificate, cross: Vec::new() })?;
        apply(SharedChange::TakeAuthority { generation: generation + 1 })?;
        if before.is_some() {
            apply(SharedChange::DropAuthority { generation: generation + 1 })?;
        }
    }
    Ok(own)
}

fn apply(state: &mut Shared, from: NodeId, change: SharedChange, at_ms: u64) -> Result<(), Rejected> {
    let request_id = RequestId(rand::random());
    let command = SharedCommand { from, asked_at: state.requests(), change };
    state.apply(&SharedEnvelope { request_id, at_ms, command }).map(drop)
}

fn reduce_nodes(
    state: &mut Shared,
    node: Option<NodeId>,
    info: &NodeInfo,
    at_ms: u64,
) -> Result<NodeId, Rejected> {
    let named = state.nodes().find(|node| node.info.name == info.name).map(|node| node.id);
    let voters: Vec<NodeId> = state.voters().map(|node| node.id).collect();
    let all: Vec<NodeId> = state.nodes().map(|node| node.id).collect();
    let mut apply = |from: NodeId, change: SharedChange| apply(state, from, change, at_ms);
    let Some(own) = node.or(named).or(voters.first().copied()) else {
        apply(NodeId(1), SharedChange::AddNode { info: info.clone(), role: Role::Voter })?;
        return Ok(NodeId(1));
    };
    // The last voter cannot be removed, and there may be no room for one more.
    let last = voters.first().copied().filter(|_| !voters.contains(&own));
    for node in all.into_iter().filter(|node| *node != own && Some(*node) != last) {
        apply(own, SharedChange::RemoveNode { node })?;
    }
    if let Some(last) = last {
        apply(own, SharedChange::SetRole { node: own, role: Role::Voter })?;
        apply(own, SharedChange::RemoveNode { node: last })?;
    }
    apply(own, SharedChange::UpdateNode { node: own, info: info.clone() })?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(at: u8) -> NodeInfo {
        NodeInfo {
            name: format!("host{at}").parse().unwrap(),
            address: ([10, 0, 0, at], 7946).into(),
            vtep: [10, 0, 0, at].into(),
            version: "1".into(),
            certificate: None,
        }
    }

    /// `voters` of `nodes`; the last node is a learner if there are more.
    fn state(nodes: u8, voters: u64) -> Shared {
        let mut state = Shared::new();
        for at in 1..=nodes {
            let change = SharedChange::AddNode { info: info(at), role: Role::Voter };
            apply(&mut state, change);
        }
        for node in 2..=voters {
            apply(&mut state, SharedChange::SetRole { node: NodeId(node), role: Role::Voter });
        }
        state
    }

    fn apply(state: &mut Shared, change: SharedChange) {
        let request_id = RequestId(rand::random());
        let command = SharedCommand { from: NodeId(1), asked_at: 0, change };
        state.apply(&SharedEnvelope { request_id, at_ms: 1, command }).unwrap();
    }

    #[test]
    fn one_node_is_left_whatever_it_was() {
        for (node, info_of, expected) in [
            (None, info(2), 2),
            (Some(NodeId(3)), info(3), 3),
            (None, info(9), 9),
            (None, info(77), 1),
            (Some(NodeId(9)), info(1), 9),
        ] {
            let mut state = state(9, 7);
            assert_eq!(reduce(&mut state, node, &info_of, &[1], 5).unwrap(), NodeId(expected));
            let left: Vec<_> = state.nodes().collect();
            assert_eq!((left.len(), left[0].id, left[0].role), (1, NodeId(expected), Role::Voter));
            assert_eq!(left[0].info, info_of);
            assert_eq!(Shared::from_bytes(&state.to_bytes()).unwrap(), state);
        }
        let mut fresh = Shared::new();
        assert_eq!(reduce(&mut fresh, None, &info(1), &[1], 5).unwrap(), NodeId(1));
        assert_eq!(fresh.voters().count(), 1);
        assert_eq!(fresh.authorities().unwrap().trusted().collect::<Vec<_>>(), [[1]]);
        // With the same authority, and with another one while a former one is trusted.
        for (authority, generation) in [(1, 1), (2, 2)] {
            reduce(&mut fresh, Some(NodeId(1)), &info(1), &[authority], 6).unwrap();
            assert_eq!(fresh.authorities().unwrap().generation, generation);
            assert_eq!(fresh.authorities().unwrap().trusted().collect::<Vec<_>>(), [[authority]]);
            assert_eq!(fresh.behind_authority().count(), 0);
        }
        super::apply(
            &mut fresh,
            NodeId(1),
            SharedChange::RotateAuthority { certificate: vec![3], cross: vec![] },
            7,
        )
        .unwrap();
        reduce(&mut fresh, Some(NodeId(1)), &info(1), &[4], 8).unwrap();
        assert_eq!(fresh.authorities().unwrap().trusted().collect::<Vec<_>>(), [[4]]);
    }

    #[test]
    fn a_file_is_whole_or_refused() {
        let state = state(3, 3);
        let bytes = write(&state, ClusterId([7; 16]), 42, 99);
        let snapshot = read(&bytes).unwrap();
        assert_eq!(snapshot.state, state);
        let summary = snapshot.summary();
        assert_eq!((summary.applied, summary.nodes.len(), summary.taken_at_ms), (42, 3, 99));
        assert_eq!(summary.digest, hex(&state.digest()));

        assert!(matches!(read(b"PK"), Err(SnapshotFileError::Foreign)));
        for length in MAGIC.len()..bytes.len() {
            assert!(matches!(read(&bytes[..length]), Err(SnapshotFileError::Damaged)), "{length}");
        }
        for at in MAGIC.len() + 1..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(matches!(read(&bad), Err(SnapshotFileError::Damaged)), "{at}");
        }
        let mut newer = bytes;
        newer[MAGIC.len()] = 2;
        assert!(matches!(read(&newer), Err(SnapshotFileError::Newer(2))));
    }
}
