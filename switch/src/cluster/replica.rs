//! The group of this node alone: its own networks and containers, which need nobody else.
//!
//! The same code and the same log as a group of many, with one voter. A proposal is synchronous: turns are done until
//! it is applied, which is one, with one transaction.
//!
//! # Failures
//! When a write fails (a full disk, for one) it is open whether the entry reached the disk. The store is then opened
//! again and asked: if the entry is there, it is applied and answered; if not, the proposal failed and changed
//! nothing. While the store cannot be opened, proposals fail and the state stays as it was and readable; the next
//! proposal tries again. What is found is durable, although the sync failed: an entry shows only once a first sync
//! put its pages on the disk, and opening writes and syncs the header, the rest of it, again.

use std::path::Path;
use std::sync::Arc;

use vswitch_proto::api::ErrorKind;
use vswitch_proto::command::Envelope;
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::COMMAND_BYTES_MAX;

use super::group::{Failure, Group, Limits, NotProposed, Role, Settings};
use super::log::{Birth, OpenError, create};
use super::machine::Machine;
use super::store::Store;
use crate::state::{Applied, Rejected, State};

/// Nobody is behind.
const LIMITS: Limits = Limits { entries: 1024, worth_percent: 50, bytes: 8 << 20, trailing: 0 };

/// The state of this node and the log it comes from.
pub struct Replica {
    group: Group<State>,
}

/// Why a proposal has no result.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error("a request of {0} bytes is over the limit of {COMMAND_BYTES_MAX}: make it smaller")]
    TooLarge(usize),
    #[error("the change was not stored: {0}, then try again")]
    NotStored(#[source] Failure),
    #[error("the change may or may not be stored: {0}, then look or try again")]
    Uncertain(#[source] Failure),
    #[error("the change was not stored, the store is out of reach: {0}")]
    Unavailable(#[source] OpenError),
}

impl ProposeError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            ProposeError::Rejected(rejected) => rejected.kind(),
            ProposeError::TooLarge(_) => ErrorKind::Invalid,
            ProposeError::NotStored(_) | ProposeError::Uncertain(_) | ProposeError::Unavailable(_) => {
                ErrorKind::Failed
            }
        }
    }
}

impl Replica {
    /// Opens the store at `path`, or makes a new one where nothing is.
    pub fn open(path: &Path) -> Result<Replica, OpenError> {
        match create(path, NodeId(1), Birth::Founder { machine: State::new().to_bytes() }) {
            Ok(()) | Err(OpenError::Exists(_)) => {}
            Err(error) => return Err(error),
        }
        Replica::with(Store::at(path), LIMITS)
    }

    pub(super) fn with(store: Store, limits: Limits) -> Result<Replica, OpenError> {
        let settings = Settings { limits, ..Settings::new(1) };
        let mut replica = Replica { group: Group::open(store, settings)? };
        replica.lead()?;
        Ok(replica)
    }

    /// The state after the last proposal. Keep a clone of the `Arc` and compare it with the next one, whatever the
    /// proposal's outcome: an earlier proposal whose outcome was uncertain may show only then.
    pub fn state(&self) -> &Arc<State> {
        self.group.machine()
    }

    #[cfg(test)]
    pub(super) fn group(&self) -> &Group<State> {
        &self.group
    }

    /// Makes `envelope` durable, applies it, and says what came of it.
    pub fn propose(&mut self, envelope: &Envelope) -> Result<Applied, ProposeError> {
        if self.group.role() != Role::Leader {
            self.reopen().map_err(ProposeError::Unavailable)?;
        }
        if let Some(outcome) = self.outcome(envelope) {
            return Ok(outcome?);
        }
        match self.group.propose(envelope) {
            Ok(()) => {}
            Err(NotProposed::TooLarge(bytes)) => return Err(ProposeError::TooLarge(bytes)),
            // None of the others is said by an only voter that leads and has nothing under way.
            Err(NotProposed::NotLeader { .. } | NotProposed::Busy | NotProposed::Down) => {
                return Err(ProposeError::NotStored(Failure::Panicked));
            }
        }
        let failure = self.run();
        match (self.outcome(envelope), failure) {
            (Some(outcome), _) => Ok(outcome?),
            (None, failure) => self.settle(envelope, failure.unwrap_or(Failure::Panicked)),
        }
    }

    fn outcome(&self, envelope: &Envelope) -> Option<Result<Applied, Rejected>> {
        Machine::outcome(self.state().as_ref(), &envelope.request_id)
    }

    /// After a failed append: finds out whether the entry is on the disk all the same.
    fn settle(&mut self, envelope: &Envelope, failure: Failure) -> Result<Applied, ProposeError> {
        if self.reopen().is_err() {
            return Err(ProposeError::Uncertain(failure));
        }
        match self.outcome(envelope) {
            Some(outcome) => Ok(outcome?),
            None => Err(ProposeError::NotStored(failure)),
        }
    }

    fn reopen(&mut self) -> Result<(), OpenError> {
        self.group.reopen()?;
        self.lead()
    }

    /// Becomes the leader, which commits and applies whatever is in the log.
    fn lead(&mut self) -> Result<(), OpenError> {
        self.group.campaign();
        match self.run() {
            Some(failure) => Err(self.group.unopened(failure)),
            None => Ok(()),
        }
    }

    fn run(&mut self) -> Option<Failure> {
        let mut failure = None;
        while self.group.has_ready() {
            let output = self.group.ready(|_| {});
            failure = failure.or(output.failure);
        }
        failure
    }
}
