//! What was answered to the last requests, so that a retried one is answered the same and applied once.
//!
//! Bounded by generations: [`GENERATIONS_MAX`] full ones of [`GENERATION_REQUESTS`] requests and the one being
//! filled. The oldest generation goes as a whole, so the last 3,840 to 4,096 requests are remembered. Full
//! generations are shared between copies of the state, which keeps a copy cheap.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::id::RequestId;

use super::Rejected;

const GENERATIONS_MAX: usize = 15;
const GENERATION_REQUESTS: usize = 256;

type Generation<A> = BTreeMap<RequestId, Arc<Result<A, Rejected>>>;

/// `A` is what an accepted command is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Requests<A> {
    current: Generation<A>,
    full: VecDeque<Arc<Generation<A>>>,
}

impl<A> Default for Requests<A> {
    fn default() -> Requests<A> {
        Requests::new()
    }
}

impl<A> Requests<A> {
    pub(super) const fn new() -> Requests<A> {
        Requests { current: BTreeMap::new(), full: VecDeque::new() }
    }

    pub(super) fn get(&self, id: &RequestId) -> Option<&Result<A, Rejected>> {
        let found =
            self.current.get(id).or_else(|| self.full.iter().find_map(|generation| generation.get(id)));
        found.map(Arc::as_ref)
    }

    pub(super) fn put(&mut self, id: RequestId, outcome: Result<A, Rejected>) {
        self.current.insert(id, Arc::new(outcome));
        if self.current.len() < GENERATION_REQUESTS {
            return;
        }
        self.full.push_back(Arc::new(std::mem::take(&mut self.current)));
        if self.full.len() > GENERATIONS_MAX {
            self.full.pop_front();
        }
    }
}
