//! The log as the protocol reads it: in memory, a copy of what is on the disk.
//!
//! Everything behind the last compaction is here, which the limits on the log bound, so that no read can fail.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{Entry, EntryType, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

pub(super) struct Entries {
    initial: RaftState,
    /// Index and term of the entry before the first one here.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    /// For followers that need what was compacted.
    offer: Option<Snapshot>,
    wanted: Cell<bool>,
}

impl Entries {
    pub(super) fn new(initial: RaftState, base: (u64, u64), entries: VecDeque<Entry>) -> Entries {
        Entries { initial, base, entries, offer: None, wanted: Cell::new(false) }
    }

    pub(super) fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub(super) fn first(&self) -> u64 {
        self.base.0 + 1
    }

    /// 0 if the entry is not here.
    pub(super) fn term_at(&self, index: u64) -> u64 {
        match index.checked_sub(self.base.0) {
            Some(0) => self.base.1,
            Some(nth) => self.entries.get(nth as usize - 1).map_or(0, |entry| entry.term),
            None => 0,
        }
    }

    /// Whether a change of the membership is among the entries behind `low` and up to `high`.
    pub(super) fn has_change_between(&self, low: u64, high: u64) -> bool {
        let nth = |index: u64| (index.saturating_sub(self.base.0) as usize).min(self.entries.len());
        let mut between = self.entries.range(nth(low.min(high))..nth(high));
        between.any(|entry| entry.get_entry_type() != EntryType::EntryNormal)
    }

    /// Entries that conflict with the new ones go.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        if let Some(first) = entries.first() {
            self.entries.truncate((first.index - self.first()) as usize);
            self.entries.extend(entries);
        }
    }

    /// Forgets the entries up to `index`.
    pub(super) fn compact(&mut self, index: u64) {
        let term = self.term_at(index);
        self.entries.drain(..(index - self.base.0) as usize);
        self.base = (index, term);
        self.offer = None;
    }

    /// A snapshot takes the place of all entries.
    pub(super) fn reset(&mut self, base: (u64, u64)) {
        self.base = base;
        self.entries.clear();
        self.offer = None;
    }

    /// Whether a snapshot was asked for that is not here.
    pub(super) fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    pub(super) fn offer(&mut self, snapshot: Option<Snapshot>) {
        self.offer = snapshot;
    }
}

impl Storage for Entries {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.base.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let range = (low - self.first()) as usize..(high - self.first()) as usize;
        let within_limit = |entry: &&Entry| {
            let is_first = size == 0;
            size += entry.data.len() as u64 + 1;
            is_first || size <= limit
        };
        Ok(self.entries.range(range).take_while(within_limit).cloned().collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index < self.base.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.last() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        Ok(self.term_at(index))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        match &self.offer {
            Some(offer) if offer.get_metadata().index >= request_index => Ok(offer.clone()),
            _ => {
                self.wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
