//! The table behind the forwarding database: open addressing over atomics. Readers take no lock and write nothing;
//! writers exclude each other.
//!
//! # Theory of operation
//! A slot is half a line of the cache: key and value, packed into three words, under a version that is odd while a writer
//! is at it (a sequence lock: H.-J. Boehm, "Can seqlocks get along with programming language memory models?", 2012). So a
//! reader that asks for a key that is there has one miss of the cache, mostly. A key is in the first free slot from its
//! hash on (linear probing: Knuth, volume 3, section 6.4, algorithm L). The table is at most 5/8 full, then it is
//! copied into one twice as large.
//!
//! Removal leaves no tombstone: entries behind the hole move into it (algorithm R, same section). A reader may pass
//! an entry that moves the other way at that moment; so a reader that found nothing looks again if anything moved
//! meanwhile.
//!
//! A reader that a writer disturbs tries [`ATTEMPTS`] times and then waits for the writers' lock, so one whose writer lost
//! the processor does not spin until it comes back.
//!
//! # Invariants
//! 1. An answer was true at some moment between the question and the answer. What a writer did before the question is
//!    never missed: a larger table is published before anything is changed in it.
//! 2. Tables that were outgrown are kept, since readers may be in them. Together they are smaller than the newest, and
//!    nothing is copied for as long as the number of entries stays below its highest.
//! 3. Some slot is always free, so probing ends.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use super::keyed::Keyed;

/// The second is not zero and has at most 24 bits.
pub(super) type Key = [u64; 2];
/// The first has at most [`VALUE_BITS`].
pub(super) type Value = [u64; 2];

/// Bits of a slot's second word that belong to the value; the others belong to the key.
const VALUE_BITS: u32 = 40;

/// Slots of the first table: 8 KiB.
const FIRST: usize = 256;
/// Tables there may be, each twice as large as the one before; the last has room for 20 million entries.
const LEVELS: usize = 18;
const ATTEMPTS: usize = 64;
/// Slots that [`Writing::retain_part`] looks at: 128 KiB.
const PART: usize = 4096;
/// Times that [`Slots::retain`] begins anew before it has the lock until it is done.
const PASSES: usize = 4;
/// Source and destination of 16 frames.
const TOUCHED: usize = 32;
/// 128 KiB of slots.
const LARGE: usize = 4096;

#[derive(Debug)]
pub(super) struct Slots<B> {
    levels: [OnceLock<Level>; LEVELS],
    /// Which of them is in use.
    level: AtomicUsize,
    /// Odd while entries are moved back, and another number after that.
    moves: AtomicU64,
    hash: Keyed,
    writers: Mutex<Guarded<B>>,
}

/// What the writers' lock protects: the number of entries, and whatever books the owner keeps about them. Not on a line
/// that readers read.
#[derive(Debug)]
#[repr(align(64))]
struct Guarded<B> {
    len: usize,
    book: B,
}

/// Whoever has this may change the table; it also is the owner's book.
#[derive(Debug)]
pub(super) struct Writing<'a, B> {
    slots: &'a Slots<B>,
    guarded: MutexGuard<'a, Guarded<B>>,
}

impl<B: Default> Slots<B> {
    pub(super) fn new() -> Slots<B> {
        let levels = [const { OnceLock::new() }; LEVELS];
        levels[0].get_or_init(|| Level::new(FIRST));
        Slots {
            levels,
            level: AtomicUsize::new(0),
            moves: AtomicU64::new(0),
            hash: Keyed::default(),
            writers: Mutex::new(Guarded { len: 0, book: B::default() }),
        }
    }
}

impl<B> Slots<B> {
    /// What is under this key.
    pub(super) fn find(&self, key: Key) -> Option<Value> {
        let hash = self.hash.of(key);
        for _ in 0..ATTEMPTS {
            let moves = self.moves.load(Ordering::Acquire);
            match self.current().find(hash, key) {
                Ok(Some(value)) => return Some(value),
                Ok(None) => {
                    fence(Ordering::Acquire);
                    if moves.is_multiple_of(2) && self.moves.load(Ordering::Relaxed) == moves {
                        return None;
                    }
                }
                Err(BeingWritten) => {}
            }
            std::hint::spin_loop();
        }
        self.lock().get(key)
    }

    /// Fetches what [`Slots::find`] will read, for up to [`TOUCHED`] keys. Between these reads there is nothing that could
    /// wait for one of them, so the processor has them come at the same time.
    pub(super) fn touch(&self, keys: impl Iterator<Item = Key>) {
        let level = self.current();
        let (mut places, mut count) = ([0; TOUCHED], 0);
        for (place, key) in places.iter_mut().zip(keys) {
            *place = self.hash.of(key) as usize & level.mask();
            count += 1;
        }
        let versions = places[..count].iter().map(|&at| level.slots[at].version.load(Ordering::Relaxed));
        std::hint::black_box(versions.fold(0, |all, version| all ^ version));
    }

    /// Whether the table is larger than what stays in the processor's caches by itself.
    pub(super) fn is_large(&self) -> bool {
        self.current().slots.len() > LARGE
    }

    pub(super) fn lock(&self) -> Writing<'_, B> {
        Writing { slots: self, guarded: self.writers.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// The same, unless another writer is at it.
    pub(super) fn try_lock(&self) -> Option<Writing<'_, B>> {
        let guarded = match self.writers.try_lock() {
            Ok(guarded) => guarded,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Writing { slots: self, guarded })
    }

    /// Keeps what `keep` says, which may be asked twice about the same, and changes the book of what it does not keep.
    /// Answers how many are gone. Others have their turns in between; if what they did has moved entries, some may have
    /// been passed over, so it begins anew.
    pub(super) fn retain(&self, mut keep: impl FnMut(&mut B, Key, Value) -> bool) -> usize {
        let order = || (self.moves.load(Ordering::Relaxed), self.level.load(Ordering::Relaxed));
        let mut gone = 0;
        for _ in 0..PASSES {
            let (mut next, mut left, mut is_whole) = (Some(0), None, true);
            while let Some(from) = next {
                let mut writing = self.lock();
                is_whole &= left.is_none_or(|left| left == order());
                let before = writing.guarded.len;
                next = writing.retain_part(from, &mut keep);
                gone += before - writing.guarded.len;
                left = Some(order());
            }
            if is_whole {
                return gone;
            }
        }
        gone + self.lock().retain(keep)
    }

    fn current(&self) -> &Level {
        self.levels[self.level.load(Ordering::Acquire)].get().expect("a level is made before it is current")
    }
}

impl<B> Deref for Writing<'_, B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.guarded.book
    }
}

impl<B> DerefMut for Writing<'_, B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.guarded.book
    }
}

impl<'a, B> Writing<'a, B> {
    pub(super) fn get(&self, key: Key) -> Option<Value> {
        let level = self.slots.current();
        level.slots[level.place(self.slots.hash.of(key), key)].peek().map(|(_, value)| value)
    }

    /// Adds the key, or gives it another value.
    pub(super) fn set(&mut self, key: Key, value: Value) {
        let hash = self.slots.hash.of(key);
        let mut level = self.slots.current();
        let mut at = level.place(hash, key);
        if level.slots[at].peek().is_none() {
            if (self.guarded.len + 1) * 8 > level.slots.len() * 5 {
                level = self.grow();
                at = level.place(hash, key);
            }
            self.guarded.len += 1;
        }
        level.slots[at].write(key, value);
    }

    /// False if there was none.
    pub(super) fn remove(&mut self, key: Key) -> bool {
        let level = self.slots.current();
        let at = level.place(self.slots.hash.of(key), key);
        let is_there = level.slots[at].peek().is_some();
        if is_there {
            self.remove_at(at);
        }
        is_there
    }

    /// As [`Slots::retain`], without others.
    fn retain(&mut self, mut keep: impl FnMut(&mut B, Key, Value) -> bool) -> usize {
        let (before, mut next) = (self.guarded.len, Some(0));
        while let Some(from) = next {
            next = self.retain_part(from, &mut keep);
        }
        before - self.guarded.len
    }

    /// The same for some slots from this one on, for those who let go of the lock in between. Whatever others remove
    /// meanwhile may move an entry to where this was already. Answers where to go on.
    pub(super) fn retain_part(
        &mut self,
        from: usize,
        mut keep: impl FnMut(&mut B, Key, Value) -> bool,
    ) -> Option<usize> {
        let slots = &self.slots.current().slots;
        let end = slots.len().min(from + PART);
        let mut at = from;
        while at < end {
            match slots[at].peek() {
                // Another may move here, and none moves from there to what was visited.
                Some((key, value)) if !keep(&mut self.guarded.book, key, value) => self.remove_at(at),
                _ => at += 1,
            }
        }
        (end < slots.len()).then_some(end)
    }

    fn remove_at(&mut self, mut hole: usize) {
        let level = self.slots.current();
        let behind = |from: usize, at: usize| at.wrapping_sub(from) & level.mask();
        let moves = self.slots.moves.load(Ordering::Relaxed);
        self.slots.moves.store(moves + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let mut at = hole;
        loop {
            at = (at + 1) & level.mask();
            let Some((key, value)) = level.slots[at].peek() else { break };
            // Not in front of where its probing begins.
            if behind(self.slots.hash.of(key) as usize, at) >= behind(hole, at) {
                level.slots[hole].write(key, value);
                hole = at;
            }
        }
        level.slots[hole].write(FREE, [0; 2]);
        self.slots.moves.store(moves + 2, Ordering::Release);
        self.guarded.len -= 1;
    }

    fn grow(&mut self) -> &'a Level {
        let slots = self.slots;
        let (old, next) = (slots.current(), slots.level.load(Ordering::Relaxed) + 1);
        let level = slots.levels[next].get_or_init(|| Level::new(old.slots.len() * 2));
        for (key, value) in old.slots.iter().filter_map(Slot::peek) {
            level.slots[level.place(slots.hash.of(key), key)].write(key, value);
        }
        slots.level.store(next, Ordering::Release);
        level
    }
}

#[derive(Debug)]
struct Level {
    /// A power of two of them.
    slots: Box<[Slot]>,
}

impl Level {
    fn new(slots: usize) -> Level {
        Level { slots: (0..slots).map(|_| Slot::default()).collect() }
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    /// For readers.
    fn find(&self, hash: u64, key: Key) -> Result<Option<Value>, BeingWritten> {
        let mut at = hash as usize & self.mask();
        loop {
            let (found, value) = self.slots[at].read()?;
            if found == key {
                return Ok(Some(value));
            }
            if found == FREE {
                return Ok(None);
            }
            at = (at + 1) & self.mask();
        }
    }

    /// For writers: the slot of this key, or the free one that it would get.
    fn place(&self, hash: u64, key: Key) -> usize {
        let mut at = hash as usize & self.mask();
        while self.slots[at].peek().is_some_and(|(found, _)| found != key) {
            at = (at + 1) & self.mask();
        }
        at
    }
}

/// The key of a free slot.
const FREE: Key = [0; 2];

/// Half a line of the cache.
#[derive(Debug, Default)]
#[repr(align(32))]
struct Slot {
    /// Odd while a writer is at it.
    version: AtomicU64,
    words: [AtomicU64; 3],
}

/// A writer was at the slot.
#[derive(Debug)]
struct BeingWritten;

impl Slot {
    /// For readers: key and value as they were together.
    fn read(&self) -> Result<(Key, Value), BeingWritten> {
        let before = self.version.load(Ordering::Acquire);
        let entry = self.entry();
        fence(Ordering::Acquire);
        let is_whole = before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before;
        is_whole.then_some(entry).ok_or(BeingWritten)
    }

    /// For writers, of which there is one.
    fn peek(&self) -> Option<(Key, Value)> {
        Some(self.entry()).filter(|(key, _)| *key != FREE)
    }

    fn entry(&self) -> (Key, Value) {
        let [first, shared, last] = self.words.each_ref().map(|word| word.load(Ordering::Relaxed));
        ([first, shared >> VALUE_BITS], [shared & ((1 << VALUE_BITS) - 1), last])
    }

    fn write(&self, key: Key, value: Value) {
        debug_assert!(value[0] >> VALUE_BITS == 0 && key[1] >> (u64::BITS - VALUE_BITS) == 0, "it fits");
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let words = [key[0], key[1] << VALUE_BITS | value[0], value[1]];
        for (word, new) in self.words.iter().zip(words) {
            word.store(new, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
