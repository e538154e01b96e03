//! Who is in the group, and how that changes while it works.
//!
//! A change is an entry of the log and is in force once it is applied. One that changes several members at once goes
//! through a joint configuration, in which both the old and the new voters have to agree (thesis, section 4.3).
//!
//! # Why there are two rules more
//! The thesis lets a configuration count as soon as its entry is *appended*; the library, and etcd's before it,
//! count it when it is *applied*. Quorums of neighbouring configurations overlap, but a node may have the entries of
//! two changes in its log without knowing that either is committed. It would stand for election among the voters of
//! the configuration before both, which need not overlap with those after both: two leaders, both with a quorum.
//!
//! 1. A node refuses its vote to a candidate that does not know the last change that was applied here to be
//!    committed, and tells the candidate what is committed, so that it can catch up and stand again.
//! 2. A leader proposes no change, and leaves no joint configuration, before a majority of the present configuration
//!    has confirmed that it knows the last change to be committed.
//!
//! By 2, each majority of the former configuration has a member that refuses by 1, so that nobody is elected in it
//! while the next change is under way. For both, the commit index is on the disk before a change is applied.

use raft::StateRole;
use raft::eraftpb::ConfChangeV2;
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::{Body, MEMBERS_MAX, MemberChange, Members, MembershipChange, Message, VOTERS_MAX};

use super::convert::{change_to_raft, encode_change, members_from_raft};
use super::group::Group;
use super::machine::Machine;

/// Why the membership stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotChanged {
    #[error("this node does not lead the cluster: ask the leader")]
    NotLeader { leader: Option<NodeId> },
    #[error("another change of the membership is under way: try again in a moment")]
    InProgress,
    #[error("nothing to change")]
    Nothing,
    #[error("node {} is named twice", .0.0)]
    Twice(NodeId),
    #[error("node {} is a member already", .0.0)]
    IsMember(NodeId),
    #[error("node {} is a voter already", .0.0)]
    IsVoter(NodeId),
    #[error("node {} is not a member of the cluster", .0.0)]
    NotAMember(NodeId),
    #[error("node {} is not a voter", .0.0)]
    NotAVoter(NodeId),
    #[error("node {} leads the cluster: transfer the leadership first", .0.0)]
    IsLeader(NodeId),
    #[error("the cluster would have more than {VOTERS_MAX} voters: demote one first")]
    TooManyVoters,
    #[error("the cluster has {MEMBERS_MAX} members already: remove one first")]
    TooManyMembers,
    #[error(
        "the change would break the quorum: {reachable} of {voters} voters could be reached, {} are needed",
        .voters / 2 + 1
    )]
    BreaksQuorum { reachable: usize, voters: usize },
}

impl<M: Machine> Group<M> {
    /// Proposes all of `changes` in one step. It has happened once [`Group::members`] says so and is not joint; a new
    /// leader may have dropped it, so look and ask again.
    pub fn change_members(&mut self, changes: &[MemberChange]) -> Result<(), NotChanged> {
        let leader = self.leader();
        let leads = self.engine.as_ref().is_some_and(|e| e.raw.raft.state == StateRole::Leader);
        if !leads {
            return Err(NotChanged::NotLeader { leader });
        }
        let target = self.target(changes)?;
        let reachable = target.voters.iter().filter(|id| self.is_reachable(**id)).count();
        if reachable <= target.voters.len() / 2 {
            return Err(NotChanged::BreaksQuorum { reachable, voters: target.voters.len() });
        }
        if !self.may_change() || self.position.members.is_joint() {
            return Err(NotChanged::InProgress);
        }
        let change = MembershipChange(changes.to_vec());
        if self.propose_change(&change, change_to_raft(&change)) {
            Ok(())
        } else {
            Err(NotChanged::InProgress)
        }
    }

    /// Where `changes` lead to.
    fn target(&self, changes: &[MemberChange]) -> Result<Members, NotChanged> {
        if changes.is_empty() {
            return Err(NotChanged::Nothing);
        }
        let now = &self.position.members;
        let (mut voters, mut learners) = (now.voters.clone(), now.learners.clone());
        let mut named = Vec::new();
        for change in changes {
            let (MemberChange::AddLearner(id)
            | MemberChange::AddVoter(id)
            | MemberChange::Demote(id)
            | MemberChange::Remove(id)) = *change;
            if named.contains(&id) {
                return Err(NotChanged::Twice(id));
            }
            named.push(id);
            let (votes, learns) = (now.voters.contains(&id), now.learners.contains(&id));
            voters.retain(|voter| *voter != id);
            learners.retain(|learner| *learner != id);
            match change {
                MemberChange::AddLearner(_) if votes || learns => return Err(NotChanged::IsMember(id)),
                MemberChange::AddVoter(_) if votes => return Err(NotChanged::IsVoter(id)),
                MemberChange::Demote(_) if !votes => return Err(NotChanged::NotAVoter(id)),
                MemberChange::Remove(_) if !votes && !learns => return Err(NotChanged::NotAMember(id)),
                MemberChange::Demote(_) | MemberChange::Remove(_) if id == self.node => {
                    return Err(NotChanged::IsLeader(id));
                }
                MemberChange::AddVoter(_) => voters.push(id),
                MemberChange::AddLearner(_) | MemberChange::Demote(_) => learners.push(id),
                MemberChange::Remove(_) => {}
            }
        }
        if voters.len() > VOTERS_MAX {
            return Err(NotChanged::TooManyVoters);
        }
        if voters.len() + learners.len() > MEMBERS_MAX {
            return Err(NotChanged::TooManyMembers);
        }
        Ok(Members { voters, learners, ..Members::default() })
    }

    /// Heard of lately.
    pub(super) fn is_reachable(&self, id: NodeId) -> bool {
        let patience = 2 * self.settings.election_ticks as u64;
        let heard = self.ticks.heard.get(&id);
        id == self.node || heard.is_some_and(|tick| self.ticks.now - tick <= patience)
    }

    /// The second rule, and the library's own: one change at a time.
    fn may_change(&self) -> bool {
        let Some(engine) = &self.engine else { return false };
        let raft = &engine.raw.raft;
        let index = self.position.members_index;
        let knows = |id: NodeId| {
            let confirmed = raft.prs().get(id.0).map_or(0, |progress| progress.committed_index);
            if id == self.node { raft.raft_log.committed >= index } else { confirmed >= index }
        };
        raft.state == StateRole::Leader && !raft.has_pending_conf() && self.position.members.is_quorum(knows)
    }

    fn propose_change(&mut self, change: &MembershipChange, raft: ConfChangeV2) -> bool {
        let mut taken = false;
        self.catching(|group| {
            let Some(engine) = group.engine.as_mut() else { return };
            taken = engine.raw.propose_conf_change(encode_change(change), raft).is_ok();
        });
        taken
    }

    pub(super) fn apply_change(&mut self, index: u64, change: &MembershipChange) {
        let Some(engine) = self.engine.as_mut() else { return };
        // Refused on every node alike: proposed twice around a change of the leader, for one.
        if let Ok(state) = engine.raw.apply_conf_change(&change_to_raft(change)) {
            self.position.members = members_from_raft(&state);
            let members = &self.position.members;
            self.acknowledged.retain(|node, _| members.all().any(|member| member == *node));
            self.output.members_changed = true;
        }
        self.position.members_index = index;
        // A node that was just added ignores a snapshot that does not know it.
        engine.raw.mut_store().offer(None);
        let raft = &mut engine.raw.raft;
        let votes = self.position.members.all_voters().any(|id| id == self.node);
        if raft.state == StateRole::Leader && !votes {
            // Proposed by an earlier leader. The library would go on and look for this node among the members. What
            // it wanted to send is as good as lost on the way.
            raft.msgs.clear();
            let term = raft.term;
            raft.become_follower(term, 0);
        }
    }

    /// After a turn: leaves a joint configuration.
    pub(super) fn keep_membership(&mut self) {
        if self.position.members.is_joint() && self.may_change() {
            self.propose_change(&MembershipChange(Vec::new()), ConfChangeV2::default());
        }
    }

    /// The first rule. Answers in the protocol's place.
    pub(super) fn refuses_vote(&mut self, message: &Message) -> bool {
        let Body::Vote { pre, commit, .. } = message.body else { return false };
        let Some(engine) = &self.engine else { return false };
        let refused = commit < self.position.members_index;
        if refused && pre {
            let raft = &engine.raw.raft;
            let commit = raft.raft_log.committed;
            let commit_term = engine.raw.store().term_at(commit);
            // The candidate listens to no lower term than its own.
            let term = raft.term.max(message.term.saturating_sub(1));
            let body = Body::VoteAnswer { pre, rejected: true, commit, commit_term };
            self.outbox.push(Message { from: self.node, to: message.from, term, body });
        }
        refused
    }
}
