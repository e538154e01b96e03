//! What nodes said to others and must not forget, whatever happens to them: Raft's election safety rests on it, and a
//! violation shows here long before it shows in the state.

use std::collections::BTreeMap;

use vswitch_proto::id::NodeId;
use vswitch_proto::peer::{Body, Message};

#[derive(Debug, Default)]
pub struct Promises(BTreeMap<NodeId, Said>);

#[derive(Debug, Default)]
struct Said {
    /// The highest so far.
    term: u64,
    /// For whom it voted in which term.
    votes: BTreeMap<u64, NodeId>,
    /// The last entry that it confirmed, and the term of the leader that it confirmed it to.
    confirmed: (u64, u64),
}

impl Promises {
    /// Takes note of what a node sends, which has to fit to what it sent before.
    pub fn note(&mut self, message: &Message) -> Result<(), String> {
        let Message { from, to, term, ref body } = *message;
        let vote = match body {
            // Of a term that is only being asked about.
            Body::Vote { pre: true, .. } | Body::VoteAnswer { pre: true, .. } | Body::ReadIndex { .. } => {
                return Ok(());
            }
            Body::Vote { .. } => Some(from),
            Body::VoteAnswer { rejected: false, .. } => Some(to),
            _ => None,
        };
        let said = self.0.entry(from).or_default();
        if term < said.term {
            return Err(format!("node {} was in term {} and speaks in term {term}", from.0, said.term));
        }
        said.term = term;
        if let Some(candidate) = vote {
            let first = *said.votes.entry(term).or_insert(candidate);
            if first != candidate {
                let (from, first, candidate) = (from.0, first.0, candidate.0);
                return Err(format!("node {from} votes for {candidate} in term {term}, and did for {first}"));
            }
        }
        if let Body::AppendAnswer { index, rejected: None, .. } = *body {
            said.confirmed =
                if said.confirmed.0 == term { (term, said.confirmed.1.max(index)) } else { (term, index) };
        }
        Ok(())
    }

    /// A node came up again with this term, and with entries up to `last`.
    pub fn is_kept(&self, node: NodeId, term: u64, last: u64) -> Result<(), String> {
        let Some(said) = self.0.get(&node) else { return Ok(()) };
        if term < said.term {
            return Err(format!("node {} comes up in term {term} and was in {}", node.0, said.term));
        }
        let (confirmed_in, confirmed) = said.confirmed;
        if term == confirmed_in && last < confirmed {
            return Err(format!("node {} comes up with {last} entries and confirmed {confirmed}", node.0));
        }
        Ok(())
    }

    /// Its disk was lost, and with it what it promised.
    pub fn forget(&mut self, node: NodeId) {
        self.0.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(term: u64, to: u64, body: Body) -> Message {
        Message { from: NodeId(1), to: NodeId(to), term, body }
    }

    fn vote(to: u64, term: u64, pre: bool) -> Message {
        message(term, to, Body::VoteAnswer { pre, rejected: false, commit: 0, commit_term: 0 })
    }

    #[test]
    fn a_node_votes_once_and_its_term_does_not_fall() {
        let mut promises = Promises::default();
        promises.note(&vote(2, 5, false)).unwrap();
        promises.note(&vote(2, 5, false)).unwrap();
        promises.note(&vote(3, 9, true)).unwrap();
        assert!(promises.note(&vote(3, 5, false)).unwrap_err().contains("votes for 3 in term 5"));
        assert!(promises.note(&vote(3, 4, false)).unwrap_err().contains("speaks in term 4"));
        promises.note(&vote(3, 6, false)).unwrap();
        assert!(promises.is_kept(NodeId(1), 5, 0).is_err());
        promises.is_kept(NodeId(1), 6, 0).unwrap();
    }

    #[test]
    fn what_was_confirmed_is_there() {
        let mut promises = Promises::default();
        let confirm = |term, index| message(term, 2, Body::AppendAnswer { index, commit: 0, rejected: None });
        promises.note(&confirm(3, 8)).unwrap();
        promises.note(&confirm(3, 7)).unwrap();
        assert!(promises.is_kept(NodeId(1), 3, 7).is_err());
        promises.is_kept(NodeId(1), 3, 8).unwrap();
        promises.is_kept(NodeId(1), 4, 2).expect("another leader may have had less");
        promises.forget(NodeId(1));
        promises.is_kept(NodeId(1), 0, 0).unwrap();
    }
}
