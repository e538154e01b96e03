//! A disk that loses what was not synced, tears writes, fails, and runs full, each when it is told to.

use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::Rng as _;
use rand::rngs::StdRng;
use redb::StorageBackend;

#[derive(Debug, Default)]
struct Content {
    /// What a power cut cannot take.
    synced: Vec<u8>,
    /// What reads see.
    cached: Vec<u8>,
    /// Since the last sync, in order.
    pending: Vec<Change>,
    /// Nothing that comes later gets to the disk.
    frozen: bool,
    /// Calls that change something until it freezes.
    freezes_in: Option<u32>,
    /// Calls that change something and fail.
    failing: u32,
    full: Full,
    /// Confirms every other batch of syncs without doing it.
    lies: bool,
    syncs: u64,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Full {
    #[default]
    No,
    /// The file cannot grow.
    ForGrowth,
    /// Nothing can be written, as where every write goes to a new place.
    ForAll,
}

/// How a host went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process was killed: what it wrote is there.
    Kill,
    /// What was not synced is there, or not, or half of it.
    PowerCut,
}

/// A handle; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<Content>>);

fn carry_out(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, data) => {
            let (at, end) = (*at as usize, *at as usize + data.len());
            bytes.resize(bytes.len().max(end), 0);
            bytes[at..end].copy_from_slice(data);
        }
        Change::Resize(length) => bytes.resize(*length as usize, 0),
    }
}

impl Disk {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("no thread panicked with a disk in hand")
    }

    pub fn lie(&self) {
        self.content().lies = true;
    }

    pub fn freeze(&self) {
        self.content().frozen = true;
    }

    pub fn freeze_in(&self, calls: u32) {
        self.content().freezes_in = Some(calls);
    }

    pub fn is_frozen(&self) -> bool {
        self.content().frozen
    }

    pub fn fail(&self, calls: u32) {
        self.content().failing = calls;
    }

    pub fn fill(&self, full: Full) {
        self.content().full = full;
    }

    /// Whether it has done, or may do, anything that a healthy one would not.
    pub fn is_faulty(&self) -> bool {
        let content = self.content();
        content.failing > 0 || content.full != Full::No || content.frozen || content.freezes_in.is_some()
    }

    /// Comes up again, after everybody let go of it.
    pub fn restart(&self, crash: Crash, rng: &mut StdRng) {
        let mut content = self.content();
        let pending = std::mem::take(&mut content.pending);
        if crash == Crash::Kill {
            content.synced = content.cached.clone();
        } else {
            // Of a disk that lies, what is lost is lost together, so that the store looks sound.
            let lost = if content.lies { &[] } else { &pending[..] };
            for change in lost {
                match (rng.random_range(0..3), change) {
                    (0, _) => {}
                    (1, Change::Write(at, data)) => {
                        let torn = Change::Write(*at, data[..data.len() / 2].to_vec());
                        carry_out(&mut content.synced, &torn);
                    }
                    (_, change) => carry_out(&mut content.synced, change),
                }
            }
            content.cached = content.synced.clone();
        }
        (content.frozen, content.freezes_in, content.failing) = (false, None, 0);
    }
}

impl Content {
    fn call(&mut self) -> Result<()> {
        match self.freezes_in {
            Some(0) => self.frozen = true,
            Some(calls) => self.freezes_in = Some(calls - 1),
            None => {}
        }
        if self.frozen {
            return Err(Error::other("the simulated host is down"));
        }
        if self.failing > 0 {
            self.failing -= 1;
            return Err(Error::other("simulated failure"));
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<()> {
        self.call()?;
        let end = match &change {
            Change::Write(at, data) => at + data.len() as u64,
            Change::Resize(length) => *length,
        };
        let grows = end > self.cached.len() as u64;
        if self.full == Full::ForAll || (self.full == Full::ForGrowth && grows) {
            return Err(ErrorKind::StorageFull.into());
        }
        carry_out(&mut self.cached, &change);
        self.pending.push(change);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64> {
        Ok(self.content().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let content = self.content();
        let start = usize::try_from(offset).map_err(Error::other)?;
        let end = start.checked_add(out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(content.cached.get(start..end).ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<()> {
        self.content().change(Change::Resize(length))
    }

    /// As with a real one, what a failed sync should have written is still read, and no later sync writes it.
    fn sync_data(&self) -> Result<()> {
        let mut content = self.content();
        let outcome = content.call();
        content.syncs += 1;
        if content.frozen || (content.lies && content.syncs / 16 % 2 == 1) {
            return outcome;
        }
        let pending = std::mem::take(&mut content.pending);
        if outcome.is_ok() {
            pending.iter().for_each(|change| carry_out(&mut content.synced, change));
        }
        outcome
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.content().change(Change::Write(offset, data.to_vec()))
    }
}
