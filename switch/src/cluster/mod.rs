//! The durable log in front of the state: a cluster of one.
//!
//! # Theory of operation
//! A proposal is appended to the log on disk and synced, then applied to the state, then answered; what was
//! answered is there after a crash. Opening reads the last snapshot and applies the entries behind it. Every 1,024
//! entries, or 8 MiB of them, a snapshot replaces the entries in one transaction, which bounds the log.
//!
//! Every proposal is logged, also one that `apply` then rejects: the log decides the order, `apply` decides the
//! outcome, and the outcome, rejections included, is remembered under the request's id. So replaying the log gives
//! the same state to the last byte, and a replicated log, which cannot know the outcome before it is agreed on,
//! takes this one's place without a difference. Only a request that is remembered already is answered unlogged.
//!
//! # Failures
//! When a write fails (a full disk, for one) it is open whether the entry reached the disk. The log is then opened
//! again and asked: if the entry is there, it is applied and answered; if not, the proposal failed and changed
//! nothing. While the log cannot be opened, proposals fail and the state stays as it was and readable; the next
//! proposal tries again. What is found is durable, although the sync failed: an entry shows only once a first sync
//! put its pages on the disk, and opening writes and syncs the header, the rest of it, again.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use vswitch_proto::api::ErrorKind;
use vswitch_proto::command::Envelope;

use crate::state::{Applied, Rejected, State};

#[cfg(test)]
mod disk;
mod log;
#[cfg(test)]
mod tests;

use log::{Log, Recovered};
pub use log::{OpenError, WriteError};

/// When a snapshot replaces the entries behind the last one.
#[derive(Debug, Clone, Copy)]
struct Limits {
    entries: u64,
    /// Of encoded entries.
    bytes: u64,
}

const LIMITS: Limits = Limits { entries: 1024, bytes: 8 << 20 };
/// Of one encoded entry. Twice what a request to the API may have.
pub const ENTRY_BYTES_MAX: usize = 2 << 20;

type Opener = Box<dyn Fn() -> Result<(Log, Recovered), OpenError> + Send>;

/// The state of this node and the log it comes from.
pub struct Replica {
    open: Opener,
    limits: Limits,
    /// Absent after a failed write, until it was opened again.
    log: Option<Log>,
    position: Position,
}

/// What was read from the log, and how far.
#[derive(Debug, Clone, Default)]
struct Position {
    state: Arc<State>,
    /// Index of the last entry that `state` has.
    applied: u64,
    /// Entries and their encoded size since the last snapshot.
    entries: u64,
    bytes: u64,
}

/// Why a proposal has no result.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error("a request of {0} bytes is over the limit of {ENTRY_BYTES_MAX}: make it smaller")]
    TooLarge(usize),
    #[error("the change was not stored: {0}: free some space or check the disk, then try again")]
    NotStored(#[source] WriteError),
    #[error(
        "the change may or may not be stored: {0}: free some space or check the disk, then look or try again"
    )]
    Uncertain(#[source] WriteError),
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
        let path = path.to_owned();
        Replica::with_opener(Box::new(move || Log::open(&path)), LIMITS)
    }

    fn with_opener(open: Opener, limits: Limits) -> Result<Replica, OpenError> {
        let (log, recovered) = open()?;
        Ok(Replica { open, limits, log: Some(log), position: Position::of(recovered) })
    }

    /// The state after the last proposal. Keep a clone of the `Arc` and compare it with the next one, whatever the
    /// proposal's outcome: an earlier proposal whose outcome was uncertain may show only then.
    pub fn state(&self) -> &Arc<State> {
        &self.position.state
    }

    /// Makes `envelope` durable, applies it, and says what came of it.
    pub fn propose(&mut self, envelope: &Envelope) -> Result<Applied, ProposeError> {
        if self.log.is_none() {
            self.reopen().map_err(ProposeError::Unavailable)?;
        }
        if let Some(outcome) = self.state().outcome(&envelope.request_id) {
            return Ok(outcome.clone()?);
        }
        let entry = log::encode(envelope);
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge(entry.len()));
        }
        let log = self.log.as_mut().expect("opened above");
        if let Err(error) = log.append(self.position.applied + 1, &entry) {
            return self.settle(envelope, error);
        }
        let outcome = self.position.apply(envelope, entry.len());
        self.compact_when_due();
        Ok(outcome?)
    }

    /// After a failed append: finds out whether the entry is on the disk all the same.
    fn settle(&mut self, envelope: &Envelope, error: WriteError) -> Result<Applied, ProposeError> {
        if self.reopen().is_err() {
            return Err(ProposeError::Uncertain(error));
        }
        match self.state().outcome(&envelope.request_id) {
            Some(outcome) => Ok(outcome.clone()?),
            None => Err(ProposeError::NotStored(error)),
        }
    }

    fn reopen(&mut self) -> Result<(), OpenError> {
        // The old handle refuses further work, and holds the file's lock.
        self.log = None;
        let (log, recovered) = (self.open)()?;
        self.log = Some(log);
        self.position = Position::of(recovered);
        Ok(())
    }

    fn compact_when_due(&mut self) {
        if self.position.entries < self.limits.entries && self.position.bytes < self.limits.bytes {
            return;
        }
        let Some(log) = self.log.as_mut() else { return };
        match log.compact(self.position.applied, &self.position.state.to_bytes()) {
            Ok(()) => (self.position.entries, self.position.bytes) = (0, 0),
            // The entries are still there. The next proposal opens the log again and then tries this again.
            Err(error) => {
                tracing::warn!(
                    "cannot make a snapshot of the state: {error}; free some space or check the disk"
                );
                self.log = None;
            }
        }
    }
}

impl Position {
    fn of(recovered: Recovered) -> Position {
        let state = Arc::new(recovered.snapshot);
        let mut position = Position { state, applied: recovered.snapshot_index, entries: 0, bytes: 0 };
        for (envelope, bytes) in &recovered.entries {
            // A rejection is an outcome like another, and remembered by the state.
            let _outcome = position.apply(envelope, *bytes);
        }
        position
    }

    fn apply(&mut self, envelope: &Envelope, bytes: usize) -> Result<Applied, Rejected> {
        self.applied += 1;
        self.entries += 1;
        self.bytes += bytes as u64;
        Arc::make_mut(&mut self.state).apply(envelope)
    }
}
