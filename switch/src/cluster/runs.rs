//! Starts of nodes, told apart: a data directory that was copied, or put back from a backup, is not taken for the node.
//!
//! # Theory of operation
//! A node's number and certificate are in its data directory, so a copy of the directory has them too. Two copies that
//! run would both vote and both acknowledge, and an old copy has forgotten what it voted and acknowledged; either
//! loses writes that a majority had. So each start is a [`Run`]: it counts the starts of its directory, draws a number,
//! and notes where its log is. Nodes tell each other their run when they connect, and remember the run that they talk
//! to. Another run of the same node is refused if
//!
//! - the earlier one still answers, at an address that the node is known by, or over a connection that is open; or
//! - its directory was started less often, or as often: it was copied before; or
//! - its log is not as far as the node has acknowledged to whoever is asked.
//!
//! A node that is refused by a voter for one of these neither votes nor acknowledges until that voter takes it again.
//!
//! # Limits
//! What a node remembers of others, it forgets when it ends. A copy of a virtual machine that is on the other side of a
//! cut than the original, or a disk that is put back while all that knew better restart, is not noticed at once, but
//! when they meet.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vswitch_proto::id::NodeId;

/// One start of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Starts of this data directory so far, this one included.
    pub starts: u64,
    /// Drawn for this start.
    pub nonce: [u8; 16],
    /// Where the log was at the start.
    pub began: Reached,
}

/// How far a node is: its term, and the last entry of its log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    pub term: u64,
    pub last: u64,
}

impl Reached {
    /// Whether a node that got to `self` may be found at `later` after a crash. In another term its leader may have
    /// replaced entries, so there only the term counts.
    pub fn is_kept_by(&self, later: Reached) -> bool {
        later.term > self.term || (later.term == self.term && later.last >= self.last)
    }
}

/// A run that may be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// The one that was met before.
    Known,
    /// Another one, or the first: accepted unless an earlier one still answers.
    New,
}

/// Why a run cannot be of a directory that is the node's present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// Its directory was copied before the start that is known.
    Older,
    /// It has forgotten what the node acknowledged.
    Behind,
}

/// Runs of other nodes that this node knows. One for each node.
#[derive(Debug, Default)]
pub struct Runs {
    met: BTreeMap<NodeId, Run>,
    /// Connections with each run.
    open: BTreeMap<(NodeId, [u8; 16]), usize>,
}

impl Runs {
    /// What to make of a run, given how far the node has got by what it acknowledged here.
    pub fn judge(&self, node: NodeId, run: &Run, acknowledged: Option<Reached>) -> Result<Meeting, Unfit> {
        let met = self.met.get(&node);
        if met.is_some_and(|met| met.nonce == run.nonce) {
            return Ok(Meeting::Known);
        }
        if met.is_some_and(|met| run.starts <= met.starts) {
            return Err(Unfit::Older);
        }
        match acknowledged {
            Some(acknowledged) if !acknowledged.is_kept_by(run.began) => Err(Unfit::Behind),
            _ => Ok(Meeting::New),
        }
    }

    /// From now on this is the node's present run.
    pub fn accept(&mut self, node: NodeId, run: Run) {
        self.met.insert(node, run);
    }

    /// Whether the node is not known by another run.
    pub fn is_current(&self, node: NodeId, nonce: [u8; 16]) -> bool {
        self.met.get(&node).is_none_or(|met| met.nonce == nonce)
    }

    /// A connection was made.
    pub fn open(&mut self, node: NodeId, nonce: [u8; 16]) {
        *self.open.entry((node, nonce)).or_default() += 1;
    }

    /// A connection ended.
    pub fn close(&mut self, node: NodeId, nonce: [u8; 16]) {
        if let Some(count) = self.open.get_mut(&(node, nonce)) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&(node, nonce));
            }
        }
    }

    /// Whether there is a connection with another run of the node.
    pub fn has_other_open(&self, node: NodeId, nonce: [u8; 16]) -> bool {
        self.open.keys().any(|(other, run)| *other == node && *run != nonce)
    }

    /// Forgets nodes that are gone for good.
    pub fn forget(&mut self, gone: impl Fn(NodeId) -> bool) {
        self.met.retain(|node, _| !gone(*node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(2);

    fn run(starts: u64, nonce: u8, term: u64, last: u64) -> Run {
        Run { starts, nonce: [nonce; 16], began: Reached { term, last } }
    }

    #[test]
    fn restarts_are_taken_and_copies_are_not() {
        let mut runs = Runs::default();
        assert_eq!(runs.judge(NODE, &run(3, 1, 5, 40), None), Ok(Meeting::New));
        runs.accept(NODE, run(3, 1, 5, 40));
        assert_eq!(runs.judge(NODE, &run(3, 1, 5, 40), None), Ok(Meeting::Known));
        assert!(runs.is_current(NODE, [1; 16]) && !runs.is_current(NODE, [2; 16]));
        // A crash and the next start.
        assert_eq!(runs.judge(NODE, &run(4, 2, 5, 57), None), Ok(Meeting::New));
        // A copy of before that start, started once, and one of long before.
        assert_eq!(runs.judge(NODE, &run(3, 3, 5, 40), None), Err(Unfit::Older));
        assert_eq!(runs.judge(NODE, &run(1, 4, 9, 99), None), Err(Unfit::Older));
        runs.forget(|node| node == NODE);
        assert_eq!(runs.judge(NODE, &run(1, 4, 9, 99), None), Ok(Meeting::New));
    }

    #[test]
    fn a_log_that_lacks_what_was_acknowledged_is_told_from_one_that_was_replaced() {
        let runs = Runs::default();
        let acknowledged = Some(Reached { term: 5, last: 57 });
        assert_eq!(runs.judge(NODE, &run(4, 2, 5, 56), acknowledged), Err(Unfit::Behind));
        assert_eq!(runs.judge(NODE, &run(4, 2, 4, 90), acknowledged), Err(Unfit::Behind));
        assert_eq!(runs.judge(NODE, &run(4, 2, 5, 57), acknowledged), Ok(Meeting::New));
        // The leader of the next term had less.
        assert_eq!(runs.judge(NODE, &run(4, 2, 6, 50), acknowledged), Ok(Meeting::New));
    }

    #[test]
    fn connections_of_each_run_are_counted() {
        let mut runs = Runs::default();
        runs.open(NODE, [1; 16]);
        runs.open(NODE, [1; 16]);
        assert!(runs.has_other_open(NODE, [2; 16]) && !runs.has_other_open(NODE, [1; 16]));
        runs.close(NODE, [1; 16]);
        assert!(runs.has_other_open(NODE, [2; 16]));
        runs.close(NODE, [1; 16]);
        assert!(!runs.has_other_open(NODE, [2; 16]));
        runs.close(NODE, [1; 16]);
    }
}
