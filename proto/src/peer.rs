//! Messages between the nodes of a replicated group, and what its log consists of.
//!
//! Raft's messages as our own types, in postcard behind a version byte. Each kind carries exactly the fields that its
//! receiver reads, so a message that makes no sense has no representation. What a type cannot say, that entries
//! follow each other for one, the receiver checks against its own log before the protocol sees it.
//!
//! The names of the messages and their fields are those of Ongaro's thesis, "Consensus: Bridging Theory and
//! Practice" (2014), chapters 3, 4, 6.4 (reads) and 9.6 (pre-vote).

use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// First byte of an encoded message.
pub const VERSION: u8 = 1;
/// Of one encoded message: a snapshot is the largest.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Of one command in the log. Twice what a request to the API may have.
pub const COMMAND_BYTES_MAX: usize = 2 << 20;
/// Members of a group that vote on what is in the log.
pub const VOTERS_MAX: usize = 7;
/// Members of a group.
pub const MEMBERS_MAX: usize = 1024;
/// What an attempt to read is told apart by: node, start of the node, number.
pub const CONTEXT_BYTES_MAX: usize = 24;

/// From one node to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub from: NodeId,
    pub to: NodeId,
    /// The sender's term, 0 where it does not matter.
    pub term: u64,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Entries that follow the one at `index`, which is of term `log_term`.
    Append {
        index: u64,
        log_term: u64,
        commit: u64,
        entries: Vec<Entry>,
    },
    AppendAnswer {
        index: u64,
        commit: u64,
        rejected: Option<AppendRejected>,
    },
    /// `index` and `log_term` are those of the candidate's last entry.
    Vote {
        pre: bool,
        index: u64,
        log_term: u64,
        commit: u64,
        commit_term: u64,
        transfer: bool,
    },
    /// A refusal tells the candidate what is committed; otherwise both are 0.
    VoteAnswer {
        pre: bool,
        rejected: bool,
        commit: u64,
        commit_term: u64,
    },
    Snapshot(Snapshot),
    Heartbeat {
        commit: u64,
        #[serde(with = "serde_bytes")]
        context: Vec<u8>,
    },
    HeartbeatAnswer {
        commit: u64,
        #[serde(with = "serde_bytes")]
        context: Vec<u8>,
    },
    TimeoutNow,
    ReadIndex {
        #[serde(with = "serde_bytes")]
        context: Vec<u8>,
    },
    ReadIndexAnswer {
        index: u64,
        #[serde(with = "serde_bytes")]
        context: Vec<u8>,
    },
}

/// Where to look for the last entry that both have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendRejected {
    pub hint: u64,
    pub log_term: u64,
    /// A snapshot is wanted instead, not older than this index; 0 if not.
    pub request_snapshot: u64,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub term: u64,
    pub index: u64,
    pub payload: Payload,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// The first entry of a leader.
    Empty,
    /// A command of the group's machine, in the machine's own encoding.
    Command(#[serde(with = "serde_bytes")] Vec<u8>),
    Membership(MembershipChange),
}

/// All changes at once. More than one go through a joint configuration, which a change without any leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipChange(pub Vec<MemberChange>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// A new member that receives the log and does not vote.
    AddLearner(NodeId),
    /// A learner, or nobody yet, becomes a voter.
    AddVoter(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
    Remove(NodeId),
}

/// Who is in the group. Ids ascend, and no node is in two lists, save that a joint configuration has its former
/// voters in `outgoing` too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// The voters of the former configuration; empty if the configuration is not joint.
    pub outgoing: Vec<NodeId>,
    /// Those of `outgoing` that will be learners.
    pub learners_next: Vec<NodeId>,
}

/// What the log up to `index` comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub index: u64,
    pub term: u64,
    pub members: Members,
    /// The group's machine, in its own encoding.
    #[serde(with = "serde_bytes")]
    pub machine: Vec<u8>,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error(
        "the message has version {0}, this vswitchd speaks {VERSION}: run the same version on both nodes"
    )]
    Version(u8),
    #[error("the message is damaged or cut short")]
    Malformed,
    #[error("the message exceeds a limit of the protocol")]
    TooLarge,
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("plain data into memory can always be encoded")
    }

    pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(DecodeError::TooLarge);
        }
        let message: Message = match bytes.split_first() {
            Some((&VERSION, body)) => match postcard::take_from_bytes(body) {
                Ok((message, [])) => message,
                _ => return Err(DecodeError::Malformed),
            },
            Some((&version, _)) => return Err(DecodeError::Version(version)),
            None => return Err(DecodeError::Malformed),
        };
        if message.body.is_within_limits() { Ok(message) } else { Err(DecodeError::TooLarge) }
    }
}

impl Body {
    fn is_within_limits(&self) -> bool {
        match self {
            Body::Append { entries, .. } => entries.iter().all(|entry| entry.payload.is_within_limits()),
            Body::Snapshot(snapshot) => snapshot.members.is_within_limits(),
            Body::Heartbeat { context, .. }
            | Body::HeartbeatAnswer { context, .. }
            | Body::ReadIndex { context }
            | Body::ReadIndexAnswer { context, .. } => context.len() <= CONTEXT_BYTES_MAX,
            Body::AppendAnswer { .. } | Body::Vote { .. } | Body::VoteAnswer { .. } | Body::TimeoutNow => {
                true
            }
        }
    }
}

impl Payload {
    fn is_within_limits(&self) -> bool {
        match self {
            Payload::Empty => true,
            Payload::Command(bytes) => bytes.len() <= COMMAND_BYTES_MAX,
            Payload::Membership(MembershipChange(changes)) => changes.len() <= MEMBERS_MAX,
        }
    }
}

impl Members {
    /// Voters of the present and, if joint, of the former configuration.
    pub fn all_voters(&self) -> impl Iterator<Item = NodeId> + use<'_> {
        let former = self.outgoing.iter().filter(|id| !self.voters.contains(id));
        self.voters.iter().chain(former).copied()
    }

    pub fn all(&self) -> impl Iterator<Item = NodeId> + use<'_> {
        self.all_voters().chain(self.learners.iter().copied())
    }

    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `is_in` holds for a majority of the voters; of both configurations if there are two.
    pub fn is_quorum(&self, is_in: impl Fn(NodeId) -> bool) -> bool {
        let majority = |voters: &[NodeId]| {
            voters.is_empty() || voters.iter().filter(|id| is_in(**id)).count() > voters.len() / 2
        };
        !self.voters.is_empty() && majority(&self.voters) && majority(&self.outgoing)
    }

    fn is_within_limits(&self) -> bool {
        self.voters.len() <= VOTERS_MAX
            && self.outgoing.len() <= VOTERS_MAX
            && self.voters.len() + self.learners.len() <= MEMBERS_MAX
            && self.learners_next.len() <= VOTERS_MAX
    }

    /// Whether this can be a configuration: one voter at least, ids that ascend and are not 0, nobody in two roles.
    pub fn is_sound(&self) -> bool {
        let ascends = |ids: &[NodeId]| {
            ids.first().is_none_or(|id| id.0 != 0) && ids.windows(2).all(|pair| pair[0] < pair[1])
        };
        let votes = |id: &NodeId| self.voters.contains(id) || self.outgoing.contains(id);
        [&self.voters, &self.learners, &self.outgoing, &self.learners_next]
            .into_iter()
            .all(|ids| ascends(ids))
            && !self.voters.is_empty()
            && !self.learners.iter().any(votes)
            && self.learners_next.iter().all(|id| self.outgoing.contains(id) && !self.voters.contains(id))
            && self.is_within_limits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn message(body: Body) -> Message {
        Message { from: NodeId(1), to: NodeId(2), term: 7, body }
    }

    fn append(command: Vec<u8>) -> Message {
        let entries = vec![
            Entry { term: 6, index: 11, payload: Payload::Empty },
            Entry { term: 7, index: 12, payload: Payload::Command(command) },
        ];
        message(Body::Append { index: 10, log_term: 6, commit: 9, entries })
    }

    #[test]
    fn an_append_on_the_wire() {
        let bytes = append(vec![0xaa, 0xbb]).encode();
        let expected = [
            1, // version
            1, 2, 7, // from, to, term
            0, 10, 6, 9, // Append after entry 10 of term 6, 9 are committed
            2, // entries
            6, 11, 0, // the first: term, index, empty
            7, 12, 1, 2, 0xaa, 0xbb, // the second: a command of two bytes
        ];
        assert_eq!(bytes, expected);
        assert_eq!(Message::decode(&bytes), Ok(append(vec![0xaa, 0xbb])));
    }

    #[test]
    fn versions_damage_and_limits() {
        let bytes = append(vec![1, 2, 3]).encode();
        for length in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..length]), Err(DecodeError::Malformed), "{length}");
        }
        assert_eq!(Message::decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::Malformed));
        assert_eq!(Message::decode(&[&[2], &bytes[1..]].concat()), Err(DecodeError::Version(2)));
        let long = append(vec![0; COMMAND_BYTES_MAX + 1]).encode();
        assert_eq!(Message::decode(&long), Err(DecodeError::TooLarge));
        let context = vec![0; CONTEXT_BYTES_MAX + 1];
        let long = message(Body::ReadIndex { context }).encode();
        assert_eq!(Message::decode(&long), Err(DecodeError::TooLarge));
        // A length that promises more than there is costs no memory.
        assert_eq!(
            Message::decode(&[1, 1, 2, 7, 0, 10, 6, 9, 255, 255, 255, 255, 15]),
            Err(DecodeError::Malformed)
        );
    }

    #[test]
    fn configurations_that_cannot_be() {
        let good = Members {
            voters: ids(&[1, 2, 4]),
            learners: ids(&[5]),
            outgoing: ids(&[1, 2, 3]),
            learners_next: ids(&[3]),
        };
        assert!(good.is_sound() && good.is_joint());
        assert_eq!(good.all().collect::<Vec<_>>(), ids(&[1, 2, 4, 3, 5]));
        let broken = |change: &dyn Fn(&mut Members)| {
            let mut members = good.clone();
            change(&mut members);
            !members.is_sound()
        };
        assert!(broken(&|m| m.voters.clear()));
        assert!(broken(&|m| m.voters = ids(&[2, 1])));
        assert!(broken(&|m| m.voters = ids(&[0, 1])));
        assert!(broken(&|m| m.learners = ids(&[4])));
        assert!(broken(&|m| m.learners = ids(&[3])));
        assert!(broken(&|m| m.learners_next = ids(&[1])));
        assert!(broken(&|m| m.voters = (1..=8).map(NodeId).collect()));
    }

    #[test]
    fn majorities() {
        let three = Members { voters: ids(&[1, 2, 3]), ..Members::default() };
        assert!(three.is_quorum(|id| id.0 != 3) && !three.is_quorum(|id| id.0 == 3));
        let joint = Members { outgoing: ids(&[4, 5]), ..three };
        assert!(!joint.is_quorum(|id| id.0 < 5) && joint.is_quorum(|id| id.0 != 3));
        assert!(!Members::default().is_quorum(|_| true));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&[VERSION][..], &bytes].concat();
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }
    }
}
