//! What a node may say in its group, by its part in it.
//!
//! Raft trusts its voters: a voter that lies can always break its group. A learner is not trusted. It holds a
//! certificate, so what it says is known to be its own; but nothing that it says may change what others believe to be
//! agreed, who leads, or which term it is.
//!
//! | message | voter | learner | neither |
//! | --- | --- | --- | --- |
//! | `Append`, `Snapshot`, `Heartbeat`, `TimeoutNow`, `ReadIndexAnswer`: a leader's | yes | no | no |
//! | `Vote`, `VoteAnswer`: a candidate's, and to one | yes | no | no |
//! | `AppendAnswer`, `HeartbeatAnswer`: to a leader | yes | yes, see below | no |
//! | `ReadIndex`: a question to the leader | yes | yes | no |
//!
//! An answer in a higher term ends a leadership. That is needed where a node voted in an election that came to nothing
//! and was demoted since; a learner may do it once in [`RAISE_TIMEOUTS`], by [`RAISE_TERMS_MAX`] at most.
//!
//! # Who is a voter
//! The members that this node has applied say so. But a node that was away does not know who was made a voter since, and
//! would never hear of it if it refused the present leader for that. So a voter also shows a [`proof`](super::proof)
//! that it has the key of the cluster's authority, which only voters are given.

use vswitch_proto::id::NodeId;
use vswitch_proto::peer::{Body, Members};

/// Election timeouts between two raises of the term by learners, all together.
pub(super) const RAISE_TIMEOUTS: u64 = 64;
/// Terms that a learner may be ahead by.
pub(super) const RAISE_TERMS_MAX: u64 = 16;

/// A node that a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// As its certificate says.
    pub node: NodeId,
    /// It has shown that it has the key of the authority.
    pub has_key: bool,
}

impl From<NodeId> for Sender {
    /// A sender that has shown nothing but its certificate.
    fn from(node: NodeId) -> Sender {
        Sender { node, has_key: false }
    }
}

/// Part of a node in the group, as another member knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Voter,
    Learner,
    /// Not a member: removed, or not known yet.
    Stranger,
}

impl Part {
    pub(super) fn of(sender: Sender, members: &Members) -> Part {
        if sender.has_key || members.all_voters().any(|voter| voter == sender.node) {
            Part::Voter
        } else if members.learners.contains(&sender.node) {
            Part::Learner
        } else {
            Part::Stranger
        }
    }

    /// The table above.
    pub(super) fn may_send(self, body: &Body) -> bool {
        match body {
            Body::Append { .. }
            | Body::Snapshot(_)
            | Body::Heartbeat { .. }
            | Body::TimeoutNow
            | Body::ReadIndexAnswer { .. }
            | Body::Vote { .. }
            | Body::VoteAnswer { .. } => self == Part::Voter,
            Body::AppendAnswer { .. } | Body::HeartbeatAnswer { .. } | Body::ReadIndex { .. } => {
                self != Part::Stranger
            }
        }
    }
}

/// Name of a message, as in the thesis.
pub(super) fn name(body: &Body) -> &'static str {
    match body {
        Body::Append { .. } => "Append",
        Body::AppendAnswer { .. } => "AppendAnswer",
        Body::Vote { pre: true, .. } => "PreVote",
        Body::Vote { pre: false, .. } => "Vote",
        Body::VoteAnswer { .. } => "VoteAnswer",
        Body::Snapshot(_) => "Snapshot",
        Body::Heartbeat { .. } => "Heartbeat",
        Body::HeartbeatAnswer { .. } => "HeartbeatAnswer",
        Body::TimeoutNow => "TimeoutNow",
        Body::ReadIndex { .. } => "ReadIndex",
        Body::ReadIndexAnswer { .. } => "ReadIndexAnswer",
    }
}

#[cfg(test)]
mod tests {
    use vswitch_proto::peer::Snapshot;

    use super::*;

    fn bodies() -> Vec<(Body, [bool; 3])> {
        let context = vec![1];
        let snapshot = Snapshot { index: 1, term: 1, members: Members::default(), machine: Vec::new() };
        let append = Body::Append { index: 0, log_term: 0, commit: 0, entries: Vec::new() };
        let vote =
            |pre| Body::Vote { pre, index: 1, log_term: 1, commit: 1, commit_term: 1, transfer: false };
        let answer = Body::VoteAnswer { pre: false, rejected: false, commit: 0, commit_term: 0 };
        let (leaders, answers) = ([true, false, false], [true, true, false]);
        vec![
            (append, leaders),
            (Body::Snapshot(snapshot), leaders),
            (Body::Heartbeat { commit: 0, context: context.clone() }, leaders),
            (Body::TimeoutNow, leaders),
            (Body::ReadIndexAnswer { index: 1, context: context.clone() }, leaders),
            (vote(true), leaders),
            (vote(false), leaders),
            (answer, leaders),
            (Body::AppendAnswer { index: 1, commit: 1, rejected: None }, answers),
            (Body::HeartbeatAnswer { commit: 1, context: context.clone() }, answers),
            (Body::ReadIndex { context }, answers),
        ]
    }

    #[test]
    fn every_message_against_every_part() {
        for (body, expected) in bodies() {
            let allowed = [Part::Voter, Part::Learner, Part::Stranger].map(|part| part.may_send(&body));
            assert_eq!(allowed, expected, "{}", name(&body));
        }
    }

    #[test]
    fn a_part_is_known_from_the_members_or_proved() {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        let members =
            Members { voters: ids(&[1]), outgoing: ids(&[2]), learners: ids(&[3]), ..Members::default() };
        let parts = [1, 2, 3, 4].map(|id| Part::of(NodeId(id).into(), &members));
        assert_eq!(parts, [Part::Voter, Part::Voter, Part::Learner, Part::Stranger]);
        assert_eq!(Part::of(Sender { node: NodeId(4), has_key: true }, &members), Part::Voter);
    }
}
