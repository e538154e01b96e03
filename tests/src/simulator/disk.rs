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
    /// What it was about to do when it froze.
    frozen_at: Option<Call>,
}

/// What changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Write,
    Resize,
    Sync,
}

/// What became of changes that were not synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    pub lost: u64,
    pub torn: u64,
}

/// What a disk writes whole or not at all, bytes.
const SECTOR: u64 = 512;

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
    /// Of what was not synced, each write is there, or not, or some of its sectors.
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

/// Some sectors of a write.
fn tear(at: u64, data: &[u8], rng: &mut StdRng) -> Vec<Change> {
    let mut rest = data;
    let mut start = at;
    let mut torn = Vec::new();
    while !rest.is_empty() {
        let length = ((SECTOR - start % SECTOR) as usize).min(rest.len());
        let (sector, after) = rest.split_at(length);
        if rng.random_bool(0.5) {
            torn.push(Change::Write(start, sector.to_vec()));
        }
        (rest, start) = (after, start + length as u64);
    }
    torn
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

    /// What it was about to do when it froze, if it was in the middle of something.
    pub fn frozen_at(&self) -> Option<Call> {
        self.content().frozen_at
    }

    /// All that is on it.
    pub fn image(&self) -> Vec<u8> {
        self.content().cached.clone()
    }

    pub fn put_image(&self, image: Vec<u8>) {
        let mut content = self.content();
        (content.synced, content.cached) = (image.clone(), image);
    }

    /// Comes up again, after everybody let go of it.
    pub fn restart(&self, crash: Crash, rng: &mut StdRng) -> Losses {
        let mut content = self.content();
        let mut losses = Losses::default();
        let pending = std::mem::take(&mut content.pending);
        if crash == Crash::Kill {
            content.synced = content.cached.clone();
        } else {
            // Of a disk that lies, what is lost is lost together, so that the store looks sound.
            let lost = if content.lies { &[] } else { &pending[..] };
            for change in lost {
                match (rng.random_range(0..3), change) {
                    (0, _) => losses.lost += 1,
                    (1, Change::Write(at, data)) => {
                        losses.torn += 1;
                        tear(*at, data, rng).iter().for_each(|change| carry_out(&mut content.synced, change));
                    }
                    (_, change) => carry_out(&mut content.synced, change),
                }
            }
            content.cached = content.synced.clone();
        }
        (content.frozen, content.freezes_in, content.failing) = (false, None, 0);
        content.frozen_at = None;
        losses
    }
}

impl Content {
    fn call(&mut self, call: Call) -> Result<()> {
        match self.freezes_in {
            Some(0) if !self.frozen => (self.frozen, self.frozen_at) = (true, Some(call)),
            Some(0) => {}
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
        let (call, end) = match &change {
            Change::Write(at, data) => (Call::Write, at + data.len() as u64),
            Change::Resize(length) => (Call::Resize, *length),
        };
        self.call(call)?;
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
        let outcome = content.call(Call::Sync);
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
