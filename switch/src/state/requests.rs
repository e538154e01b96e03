//! What was answered to the last requests, so that a retried one is answered the same and applied once.
//!
//! Bounded by generations: [`GENERATIONS_MAX`] full ones of [`GENERATION_REQUESTS`] requests and the one being
//! filled. The oldest generation goes as a whole, so the last 3,840 to 4,096 requests are remembered. Full
//! generations are shared between copies of the state, which keeps a copy cheap.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::id::RequestId;

use super::{Applied, Rejected};

pub(super) type Outcome = Result<Applied, Rejected>;

const GENERATIONS_MAX: usize = 15;
const GENERATION_REQUESTS: usize = 256;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Requests {
    current: BTreeMap<RequestId, Arc<Outcome>>,
    full: VecDeque<Arc<BTreeMap<RequestId, Arc<Outcome>>>>,
}

impl Requests {
    pub(super) fn get(&self, id: &RequestId) -> Option<&Outcome> {
        let found =
            self.current.get(id).or_else(|| self.full.iter().find_map(|generation| generation.get(id)));
        found.map(Arc::as_ref)
    }

    pub(super) fn put(&mut self, id: RequestId, outcome: Outcome) {
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
