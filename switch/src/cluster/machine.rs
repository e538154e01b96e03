//! What a group replicates: a deterministic machine.

use serde::Serialize;
use serde::de::DeserializeOwned;
use vswitch_proto::command::{Envelope, SharedEnvelope};
use vswitch_proto::id::RequestId;

use crate::state::shared::{self, Shared};
use crate::state::{Applied, Rejected, SnapshotError, State};

/// First byte of an encoded command. Version 2 has more kinds of commands, after those of version 1.
const COMMAND_VERSION: u8 = 2;

/// A deterministic machine: equal after equal commands, whatever the node.
///
/// It remembers the outcomes of the last requests, as part of itself, so that a request that comes twice is applied
/// once and answered the same twice.
pub trait Machine: Clone + Default {
    /// With everything random or read from a clock inside.
    type Command: Serialize + DeserializeOwned;
    type Outcome: Clone;

    fn request(command: &Self::Command) -> RequestId;

    fn apply(&mut self, command: &Self::Command) -> Self::Outcome;

    /// What came of a request that is still remembered.
    fn outcome(&self, request: &RequestId) -> Option<Self::Outcome>;

    /// Canonical: equal machines give equal bytes.
    fn to_bytes(&self) -> Vec<u8>;

    fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable>;
}

/// Why bytes cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it has version {0}, newer than this version of vswitchd knows: use the one that wrote it")]
    Newer(u8),
    #[error("it is damaged")]
    Damaged,
}

impl From<SnapshotError> for Unreadable {
    fn from(error: SnapshotError) -> Unreadable {
        match error {
            SnapshotError::Newer(found) => Unreadable::Newer(found),
            // The format of the store was checked first.
            SnapshotError::Older(_)
            | SnapshotError::Foreign
            | SnapshotError::Malformed
            | SnapshotError::Inconsistent(_) => Unreadable::Damaged,
        }
    }
}

fn owned<A: Clone>(outcome: Option<Result<&A, &Rejected>>) -> Option<Result<A, Rejected>> {
    outcome.map(|outcome| outcome.cloned().map_err(Clone::clone))
}

pub(super) fn encode(command: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(command, vec![COMMAND_VERSION]).expect("plain data into memory can always be encoded")
}

pub(super) fn decode<C: DeserializeOwned>(bytes: &[u8]) -> Result<C, Unreadable> {
    match bytes.split_first() {
        Some((&(1..=COMMAND_VERSION), body)) => match postcard::take_from_bytes(body) {
            Ok((command, [])) => Ok(command),
            _ => Err(Unreadable::Damaged),
        },
        Some((&found, _)) if found > COMMAND_VERSION => Err(Unreadable::Newer(found)),
        _ => Err(Unreadable::Damaged),
    }
}

impl Machine for State {
    type Command = Envelope;
    type Outcome = Result<Applied, Rejected>;

    fn request(envelope: &Envelope) -> RequestId {
        envelope.request_id
    }

    fn apply(&mut self, envelope: &Envelope) -> Result<Applied, Rejected> {
        State::apply(self, envelope)
    }

    fn outcome(&self, request: &RequestId) -> Option<Result<Applied, Rejected>> {
        owned(State::outcome(self, request))
    }

    fn to_bytes(&self) -> Vec<u8> {
        State::to_bytes(self)
    }

    fn from_bytes(bytes: &[u8]) -> Result<State, Unreadable> {
        State::from_bytes(bytes).map_err(Unreadable::from)
    }
}

impl Machine for Shared {
    type Command = SharedEnvelope;
    type Outcome = Result<shared::Applied, Rejected>;

    fn request(envelope: &SharedEnvelope) -> RequestId {
        envelope.request_id
    }

    fn apply(&mut self, envelope: &SharedEnvelope) -> Result<shared::Applied, Rejected> {
        Shared::apply(self, envelope)
    }

    fn outcome(&self, request: &RequestId) -> Option<Result<shared::Applied, Rejected>> {
        owned(Shared::outcome(self, request))
    }

    fn to_bytes(&self) -> Vec<u8> {
        Shared::to_bytes(self)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Shared, Unreadable> {
        Shared::from_bytes(bytes).map_err(Unreadable::from)
    }
}
