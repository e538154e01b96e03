//! What a message may claim, checked before the protocol sees it: the library takes its peers' word and panics where
//! it cannot be true.

use raft::{RawNode, StateRole};
use vswitch_proto::peer::{Body, Entry, Message, Payload, Snapshot};

use super::entries::Entries;
use super::machine::{Machine, Unreadable, decode};

/// No cluster gets there by elections. One more than the last term there is could not be counted.
const TERM_MAX: u64 = 1 << 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    #[error("its entries do not follow each other")]
    Gap,
    #[error("an entry is of a term that its sender does not know")]
    Future,
    #[error("entries count as committed that this node does not have")]
    Lacking,
    #[error("it confirms entries that were never sent")]
    Unsent,
    #[error("its membership is impossible")]
    Members,
    #[error("it has an impossible term")]
    Term,
    #[error("it comes from nobody, or from this node")]
    Sender,
    #[error("a context is missing")]
    NoContext,
    #[error("somebody other than the leader calls an election")]
    NotTheLeader,
}

pub(super) fn message(message: &Message, raw: &RawNode<Entries>) -> Result<(), Nonsense> {
    let raft = &raw.raft;
    let last = raft.raft_log.last_index();
    let has_term = !matches!(message.body, Body::ReadIndex { .. });
    if (message.term != 0) != has_term || message.term > TERM_MAX {
        return Err(Nonsense::Term);
    }
    if message.from.0 == 0 || message.from == message.to {
        return Err(Nonsense::Sender);
    }
    match &message.body {
        Body::Append { index, log_term, entries, .. } => follows(message.term, *index, *log_term, entries),
        Body::Heartbeat { commit, .. } if *commit > last => Err(Nonsense::Lacking),
        Body::AppendAnswer { index, rejected, .. } => {
            let is_answer = message.term == raft.term && raft.state == StateRole::Leader;
            let named = rejected.map_or(*index, |rejected| rejected.hint.max(*index));
            if is_answer && named > last { Err(Nonsense::Unsent) } else { Ok(()) }
        }
        Body::Snapshot(snapshot) => is_sound(message.term, snapshot),
        Body::TimeoutNow if message.from.0 != raft.leader_id => Err(Nonsense::NotTheLeader),
        Body::ReadIndex { context } | Body::ReadIndexAnswer { context, .. } if context.is_empty() => {
            Err(Nonsense::NoContext)
        }
        _ => Ok(()),
    }
}

fn follows(term: u64, index: u64, log_term: u64, entries: &[Entry]) -> Result<(), Nonsense> {
    // Term 0 is what the library takes an entry to have that is not there.
    if (index == 0) != (log_term == 0) {
        return Err(Nonsense::Gap);
    }
    let (mut index, mut last_term) = (index, log_term);
    for entry in entries {
        if index.checked_add(1) != Some(entry.index) || entry.term < last_term.max(1) {
            return Err(Nonsense::Gap);
        }
        (index, last_term) = (entry.index, entry.term);
    }
    if last_term > term { Err(Nonsense::Future) } else { Ok(()) }
}

fn is_sound(term: u64, snapshot: &Snapshot) -> Result<(), Nonsense> {
    if snapshot.term > term {
        return Err(Nonsense::Future);
    }
    if snapshot.index == 0 || snapshot.term == 0 || snapshot.index == u64::MAX {
        return Err(Nonsense::Gap);
    }
    if snapshot.members.is_sound() { Ok(()) } else { Err(Nonsense::Members) }
}

/// Whether this version understands all of them.
pub(super) fn entries<M: Machine>(entries: &[Entry]) -> Result<(), Unreadable> {
    entries.iter().try_for_each(|entry| match &entry.payload {
        Payload::Command(bytes) => decode::<M::Command>(bytes).map(drop),
        Payload::Empty | Payload::Membership(_) => Ok(()),
    })
}
