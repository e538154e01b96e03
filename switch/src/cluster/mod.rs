//! The durable log in front of the state: a cluster of one.
//!
//! # Theory of operation
//! A proposal is appended to the log on disk and synced, then applied to the state, then answered; what was
//! answered is there after a crash. Opening reads the last snapshot and applies the entries behind it. Every
//! [`SNAPSHOT_ENTRIES`] entries (or [`SNAPSHOT_BYTES`] bytes of them) a snapshot replaces the entries in one
//! transaction, which bounds the log.
//!
//! Every proposal is logged, also one that `apply` then rejects: the log decides the order, `apply` decides the
//! outcome, and the outcome, rejections included, is remembered under the request's id. So replaying the log gives
//! the same state to the last byte, and a replicated log, which cannot know the outcome before it is agreed on,
//! takes this one's place without a difference. Only a request that is remembered already is answered unlogged.
//!
//! # Failures
//! When a write fails (a full disk, for one) it is open whether the entry reached the disk. The log is then opened
//! again and asked: if the entry is there, it is applied and answered; if not, the proposal failed and changed
//! nothing. While the log cannot be opened, proposals fail and the state stays readable; the next proposal tries
//! again.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use vswitch_proto::api::ErrorKind;
use vswitch_proto::command::Envelope;

use crate::state::{Applied, Rejected, State};

mod log;

pub use log::OpenError;
use log::{Log, Recovered, WriteError};

/// Entries after which a snapshot is made.
pub const SNAPSHOT_ENTRIES: u64 = 1024;
/// Encoded entries after which a snapshot is made, bytes.
pub const SNAPSHOT_BYTES: u64 = 8 << 20;
/// Of one encoded entry. Twice what a request to the API may have.
pub const ENTRY_BYTES_MAX: usize = 2 << 20;

type Opener = Box<dyn Fn() -> Result<(Log, Recovered), OpenError> + Send>;

/// The state of this node and the log it comes from.
pub struct Replica {
    open: Opener,
    /// Absent after a failed write, until it was opened again.
    log: Option<Log>,
    state: Arc<State>,
    /// Index of the last entry that `state` has.
    applied: u64,
    /// Entries and their bytes since the last snapshot.
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
    #[error("the change could not be stored: {0}: free some space or check the disk, then try again")]
    NotStored(#[source] WriteError),
    #[error("the change could not be stored, the store is out of reach: {0}")]
    Unavailable(#[source] OpenError),
}

impl ProposeError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            ProposeError::Rejected(rejected) => rejected.kind(),
            ProposeError::TooLarge(_) => ErrorKind::Invalid,
            ProposeError::NotStored(_) | ProposeError::Unavailable(_) => ErrorKind::Failed,
        }
    }
}

impl Replica {
    /// Opens the store at `path`, or makes a new one where nothing is.
    pub fn open(path: &Path) -> Result<Replica, OpenError> {
        let path = path.to_owned();
        Replica::with_opener(Box::new(move || Log::open(&path)))
    }

    fn with_opener(open: Opener) -> Result<Replica, OpenError> {
        let (log, recovered) = open()?;
        let mut replica =
            Replica { open, log: None, state: Arc::default(), applied: 0, entries: 0, bytes: 0 };
        replica.catch_up(log, recovered);
        Ok(replica)
    }

    /// The state after the last proposal. Keep a clone of the `Arc` to compare with the next one.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Makes `envelope` durable, applies it, and says what came of it.
    pub fn propose(&mut self, envelope: &Envelope) -> Result<Applied, ProposeError> {
        if self.log.is_none() {
            let (log, recovered) = (self.open)().map_err(ProposeError::Unavailable)?;
            self.catch_up(log, recovered);
        }
        if let Some(outcome) = self.state.outcome(&envelope.request_id) {
            return outcome.clone().map_err(ProposeError::Rejected);
        }
        let entry = log::encode(envelope);
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge(entry.len()));
        }
        let log = self.log.as_mut().expect("opened above");
        if let Err(error) = log.append(self.applied + 1, &entry) {
            return self.settle(envelope, error);
        }
        let outcome = self.apply(envelope, entry.len());
        self.compact_when_due();
        Ok(outcome?)
    }

    fn apply(&mut self, envelope: &Envelope, bytes: usize) -> Result<Applied, Rejected> {
        self.applied += 1;
        self.entries += 1;
        self.bytes += bytes as u64;
        Arc::make_mut(&mut self.state).apply(envelope)
    }

    /// After a failed append: finds out whether the entry is on the disk all the same.
    fn settle(&mut self, envelope: &Envelope, error: WriteError) -> Result<Applied, ProposeError> {
        // The old handle holds the file's lock and refuses further work.
        self.log = None;
        let Ok((log, recovered)) = (self.open)() else { return Err(ProposeError::NotStored(error)) };
        self.catch_up(log, recovered);
        match self.state.outcome(&envelope.request_id) {
            Some(outcome) => outcome.clone().map_err(ProposeError::Rejected),
            None => Err(ProposeError::NotStored(error)),
        }
    }

    /// Takes over a log just opened and applies what the state does not have yet.
    fn catch_up(&mut self, log: Log, recovered: Recovered) {
        if recovered.snapshot_index > self.applied {
            self.state = Arc::new(recovered.snapshot);
            self.applied = recovered.snapshot_index;
        }
        self.entries = self.applied - recovered.snapshot_index;
        self.bytes = 0;
        for (index, envelope, bytes) in recovered.entries {
            if index > self.applied {
                // A rejection is an outcome too, and remembered by the state.
                let _outcome = self.apply(&envelope, bytes);
            } else {
                self.bytes += bytes as u64;
            }
        }
        self.log = Some(log);
    }

    fn compact_when_due(&mut self) {
        if self.entries < SNAPSHOT_ENTRIES && self.bytes < SNAPSHOT_BYTES {
            return;
        }
        let Some(log) = self.log.as_mut() else { return };
        match log.compact(self.applied, &self.state.to_bytes()) {
            Ok(()) => (self.entries, self.bytes) = (0, 0),
            // Nothing is lost: the entries are still there. The next proposal opens the log again and tries again.
            Err(error) => {
                tracing::warn!(
                    "cannot make a snapshot of the state: {error}; free some space or check the disk"
                );
                self.log = None;
            }
        }
    }
}
