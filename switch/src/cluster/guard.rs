//! What a group takes from whom, before the protocol sees it.

use raft::StateRole;
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::{Body, Message};

use super::group::Group;
use super::machine::Machine;
use super::outcome::Dropped;
use super::role::{Part, RAISE_TERMS_MAX, RAISE_TIMEOUTS, Sender, name};
use super::runs::Reached;

impl<M: Machine> Group<M> {
    /// Refuses what the sender's part in the group does not include, see [`role`](super::role).
    pub(super) fn check_role(&mut self, sender: Sender, message: &Message) -> Result<(), Dropped> {
        if self.is_muted {
            return Err(Dropped::Muted);
        }
        let part = Part::of(sender, &self.position.members);
        if !part.may_send(&message.body) {
            return Err(Dropped::NotAllowed { node: sender.node, part, message: name(&message.body) });
        }
        if part != Part::Learner {
            return Ok(());
        }
        let term = self.engine.as_ref().map_or(0, |engine| engine.raw.raft.term);
        let ahead = message.term.saturating_sub(term);
        if ahead == 0 {
            return Ok(());
        }
        let pause = RAISE_TIMEOUTS * self.settings.election_ticks as u64;
        let is_too_early = self.ticks.raised.is_some_and(|at| self.ticks.now - at < pause);
        if is_too_early || ahead > RAISE_TERMS_MAX {
            return Err(Dropped::Ahead { node: sender.node, terms: ahead });
        }
        self.ticks.raised = Some(self.ticks.now);
        Ok(())
    }

    /// Remembers what a member says to have on its disk: its next start has to have it too.
    pub(super) fn note_acknowledged(&mut self, message: &Message) {
        let last = match message.body {
            Body::AppendAnswer { index, rejected: None, .. } => index,
            Body::VoteAnswer { pre: false, rejected: false, .. } => 0,
            _ => return,
        };
        let Some(engine) = &self.engine else { return };
        // In another term than this node's the answer is to somebody that this node is no more.
        if engine.raw.raft.term != message.term {
            return;
        }
        let is_member = self.position.members.all().any(|id| id == message.from);
        if !is_member {
            return;
        }
        let reached = Reached { term: message.term, last };
        let known = self.acknowledged.entry(message.from).or_default();
        if known.is_kept_by(reached) {
            *known = reached;
        }
    }

    /// How far a member has got, by what it acknowledged to this node.
    pub fn acknowledged(&self, node: NodeId) -> Option<Reached> {
        self.acknowledged.get(&node).copied()
    }

    /// How far this node is itself.
    pub fn reached(&self) -> Reached {
        let raft = self.engine.as_ref().map(|engine| &engine.raw.raft);
        Reached {
            term: raft.map_or(0, |raft| raft.term),
            last: raft.map_or(0, |raft| raft.raft_log.last_index()),
        }
    }

    /// Takes this node out of the protocol for a while: it does not vote, acknowledge or lead. For a node that others
    /// take for a copy, or for one that has forgotten what it acknowledged.
    pub fn set_muted(&mut self, is_muted: bool) {
        if std::mem::replace(&mut self.is_muted, is_muted) == is_muted || !is_muted {
            return;
        }
        self.catching(|group| {
            let Some(engine) = group.engine.as_mut() else { return };
            let raft = &mut engine.raw.raft;
            if raft.state != StateRole::Follower {
                // What it wanted to send is as good as lost on the way.
                raft.msgs.clear();
                let term = raft.term;
                raft.become_follower(term, 0);
            }
        });
    }

    pub fn is_muted(&self) -> bool {
        self.is_muted
    }
}
