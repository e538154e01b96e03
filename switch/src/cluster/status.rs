//! What a group says about itself.

use raft::ProgressState;
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::Members;

use super::group::{Group, Role};
use super::machine::Machine;
use super::runs::Reached;

#[derive(Debug, Clone)]
pub struct Status {
    pub node: NodeId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub members: Members,
    /// Of the log: the first entry that is kept, the last one, the last committed one, the last applied one.
    pub first: u64,
    pub last: u64,
    pub committed: u64,
    pub applied: u64,
    /// Proposals of this node that are under way.
    pub proposals: usize,
    /// The other members. Only a leader knows how far they are.
    pub peers: Vec<Peer>,
    /// It takes no part at present.
    pub is_muted: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub node: NodeId,
    /// The last entry that it is known to have.
    pub matched: u64,
    /// The last entry that it knows to be committed.
    pub committed: u64,
    pub state: PeerState,
    /// Ticks since its last message.
    pub silent_ticks: Option<u64>,
    pub is_reachable: bool,
    /// How far it has got, by what it acknowledged to this node.
    pub acknowledged: Option<Reached>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    Unknown,
    /// The leader looks for the last entry that both have.
    Probe,
    Replicate,
    /// A snapshot is on its way.
    Snapshot,
}

impl<M: Machine> Group<M> {
    pub fn status(&self) -> Status {
        let members = self.position.members.clone();
        let others = members.all().filter(|id| *id != self.node);
        let peers = others.map(|id| self.peer(id)).collect();
        let raft = self.engine.as_ref().map(|engine| &engine.raw.raft);
        Status {
            node: self.node,
            role: self.role(),
            term: raft.map_or(0, |raft| raft.term),
            leader: self.leader(),
            first: raft.map_or(0, |raft| raft.raft_log.first_index()),
            last: raft.map_or(0, |raft| raft.raft_log.last_index()),
            committed: raft.map_or(0, |raft| raft.raft_log.committed),
            applied: self.position.applied.0,
            proposals: self.proposals.len(),
            is_muted: self.is_muted(),
            members,
            peers,
        }
    }

    fn peer(&self, node: NodeId) -> Peer {
        let raft = self.engine.as_ref().map(|engine| &engine.raw.raft);
        let progress = raft.filter(|_| self.role() == Role::Leader).and_then(|raft| raft.prs().get(node.0));
        let state = match progress.map(|progress| progress.state) {
            None => PeerState::Unknown,
            Some(ProgressState::Probe) => PeerState::Probe,
            Some(ProgressState::Replicate) => PeerState::Replicate,
            Some(ProgressState::Snapshot) => PeerState::Snapshot,
        };
        Peer {
            node,
            matched: progress.map_or(0, |progress| progress.matched),
            committed: progress.map_or(0, |progress| progress.committed_index),
            state,
            silent_ticks: self.ticks.heard.get(&node).map(|tick| self.ticks.now - tick),
            is_reachable: self.is_reachable(node),
            acknowledged: self.acknowledged(node),
        }
    }
}
