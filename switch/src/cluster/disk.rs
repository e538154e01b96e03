//! A simulated disk under the log: it runs full, it fails, it loses what was not synced, it tears writes.

use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

#[derive(Debug, Default)]
struct Content {
    /// What a power cut cannot take.
    synced: Vec<u8>,
    /// What reads see.
    cached: Vec<u8>,
    /// Since the last sync, in order.
    pending: Vec<Pending>,
    /// Which writes, resizes and syncs fail, counted from the first.
    failing: Option<Range<u64>>,
    /// Largest file that fits; `None`: any.
    capacity: Option<u64>,
    calls: u64,
    syncs: u64,
}

#[derive(Debug, Clone)]
enum Pending {
    Write(u64, Vec<u8>),
    Resize(u64),
}

/// A handle; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Content>>);

fn carry_out(bytes: &mut Vec<u8>, change: &Pending) {
    match change {
        Pending::Write(at, data) => {
            let (at, end) = (*at as usize, *at as usize + data.len());
            bytes.resize(bytes.len().max(end), 0);
            bytes[at..end].copy_from_slice(data);
        }
        Pending::Resize(length) => bytes.resize(*length as usize, 0),
    }
}

impl Disk {
    pub(super) fn holding(bytes: Vec<u8>) -> Disk {
        let content = Content { synced: bytes.clone(), cached: bytes, ..Content::default() };
        Disk(Arc::new(Mutex::new(content)))
    }

    /// Calls that change something and will fail. As with a real one, what a failed sync should have written is
    /// still read, and no later sync writes it.
    pub(super) fn fail(&self, calls: Range<u64>) {
        self.0.lock().unwrap().failing = Some(calls);
    }

    pub(super) fn limit(&self, capacity: Option<u64>) {
        self.0.lock().unwrap().capacity = capacity;
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().cached.clone()
    }

    pub(super) fn length(&self) -> u64 {
        self.0.lock().unwrap().cached.len() as u64
    }

    /// Calls so far that change something.
    pub(super) fn calls(&self) -> u64 {
        self.0.lock().unwrap().calls
    }

    pub(super) fn syncs(&self) -> u64 {
        self.0.lock().unwrap().syncs
    }

    /// The disk after a power cut: of what was not synced, `survives` says what got there: none, all, or the first
    /// half of a write.
    pub(super) fn cut_power(&self, mut survives: impl FnMut() -> Survives) -> Disk {
        let content = self.0.lock().unwrap();
        let mut bytes = content.synced.clone();
        for change in &content.pending {
            match (survives(), change) {
                (Survives::Nothing, _) => {}
                (Survives::Half, Pending::Write(at, data)) => {
                    let half = Pending::Write(*at, data[..data.len() / 2].to_vec());
                    carry_out(&mut bytes, &half);
                }
                (Survives::Half | Survives::All, change) => carry_out(&mut bytes, change),
            }
        }
        Disk::holding(bytes)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Survives {
    Nothing,
    Half,
    All,
}

impl Content {
    fn call(&mut self) -> Result<()> {
        let fails = self.failing.as_ref().is_some_and(|calls| calls.contains(&self.calls));
        self.calls += 1;
        if fails { Err(Error::other("simulated failure")) } else { Ok(()) }
    }

    fn change(&mut self, change: Pending) -> Result<()> {
        self.call()?;
        let end = match &change {
            Pending::Write(at, data) => at + data.len() as u64,
            Pending::Resize(length) => *length,
        };
        if self.capacity.is_some_and(|capacity| end > capacity.max(self.synced.len() as u64)) {
            return Err(ErrorKind::StorageFull.into());
        }
        carry_out(&mut self.cached, &change);
        self.pending.push(change);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64> {
        Ok(self.length())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let content = self.0.lock().unwrap();
        let start = usize::try_from(offset).map_err(Error::other)?;
        let end = start.checked_add(out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(content.cached.get(start..end).ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<()> {
        self.0.lock().unwrap().change(Pending::Resize(length))
    }

    fn sync_data(&self) -> Result<()> {
        let mut content = self.0.lock().unwrap();
        let outcome = content.call();
        content.syncs += 1;
        let pending = std::mem::take(&mut content.pending);
        if outcome.is_ok() {
            pending.iter().for_each(|change| carry_out(&mut content.synced, change));
        }
        outcome
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.0.lock().unwrap().change(Pending::Write(offset, data.to_vec()))
    }
}
