//! The machine under test: the cluster's own, with a running hash over all that was applied, so that two nodes that
//! applied different things differ even where the state happens to agree.

use std::cell::Cell;

use vswitch::cluster::{Machine, Unreadable};
use vswitch::state::Rejected;
use vswitch::state::shared::{Applied, Shared};
use vswitch_proto::command::SharedEnvelope;
use vswitch_proto::id::RequestId;

/// Entries of which one is left out, over all nodes, if that is planted.
const SKIPPED: u64 = 200;

thread_local! {
    /// Entries since the bug was planted, if it was.
    static PLANTED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Whether machines of this thread leave entries out from now on.
pub fn plant(skips: bool) {
    PLANTED.set(skips.then_some(0));
}

fn is_left_out() -> bool {
    let count = PLANTED.get().map(|count| count + 1);
    PLANTED.set(count);
    count.is_some_and(|count| count % SKIPPED == 0)
}

#[derive(Debug, Clone, Default)]
pub struct Subject {
    pub shared: Shared,
    pub chain: u64,
}

/// FNV-1a.
pub fn hash(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Machine for Subject {
    type Command = SharedEnvelope;
    type Outcome = Result<Applied, Rejected>;

    fn request(envelope: &SharedEnvelope) -> RequestId {
        envelope.request_id
    }

    fn apply(&mut self, envelope: &SharedEnvelope) -> Result<Applied, Rejected> {
        self.chain = hash(self.chain, format!("{envelope:?}").as_bytes());
        if is_left_out() {
            return self.shared.clone().apply(envelope);
        }
        self.shared.apply(envelope)
    }

    fn outcome(&self, request: &RequestId) -> Option<Result<Applied, Rejected>> {
        Machine::outcome(&self.shared, request)
    }

    fn to_bytes(&self) -> Vec<u8> {
        [&self.chain.to_be_bytes()[..], &self.shared.to_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Subject, Unreadable> {
        let (chain, shared) = bytes.split_first_chunk().ok_or(Unreadable::Damaged)?;
        Ok(Subject { chain: u64::from_be_bytes(*chain), shared: Machine::from_bytes(shared)? })
    }
}
