//! The tables that are compared. They hold what the forwarding database holds: the port and the time of an address.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;

/// As in `fdb.rs`.
const SHARDS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub vni: u32,
    pub mac: [u8; 6],
}

/// Where an address is, and when it was seen there.
#[derive(Debug, Clone, Copy)]
pub struct Location {
    port: u32,
    seen: u64,
}

/// A worker's handle to a shared table. A port is never 0.
pub trait Table: Send {
    /// Another handle to the same table.
    fn share(&self) -> Self;
    fn insert(&self, key: Key, port: u32);
    fn look_up(&mut self, key: Key) -> Option<u32>;
    /// A frame came from this address. With `refresh` its time is written. Answers where it is.
    fn learn(&mut self, key: Key, refresh: bool) -> Option<u32>;
}

pub struct InDash<S>(Arc<DashMap<Key, Location, S>>);

pub type Dash = InDash<RandomState>;
pub type DashFolded = InDash<Folded>;

impl<S: BuildHasher + Clone + Default> InDash<S> {
    pub fn new() -> InDash<S> {
        InDash(Arc::new(DashMap::with_capacity_and_hasher_and_shard_amount(0, S::default(), SHARDS)))
    }
}

impl<S: BuildHasher + Clone + Send + Sync> Table for InDash<S> {
    fn share(&self) -> Self {
        InDash(Arc::clone(&self.0))
    }

    fn insert(&self, key: Key, port: u32) {
        self.0.insert(key, Location { port, seen: 0 });
    }

    fn look_up(&mut self, key: Key) -> Option<u32> {
        self.0.get(&key).map(|location| location.port)
    }

    fn learn(&mut self, key: Key, refresh: bool) -> Option<u32> {
        let known = self.0.get(&key).map(|location| *location);
        if let Some(location) = known.filter(|_| refresh) {
            self.0.insert(key, Location { seen: location.seen + 1, ..location });
        }
        known.map(|location| location.port)
    }
}

pub struct InPapaya<S>(Arc<papaya::HashMap<Key, Location, S>>);

pub type Papaya = InPapaya<RandomState>;
pub type PapayaFolded = InPapaya<Folded>;

impl<S: BuildHasher + Default> InPapaya<S> {
    pub fn new() -> InPapaya<S> {
        InPapaya(Arc::new(papaya::HashMap::with_hasher(S::default())))
    }
}

impl<S: BuildHasher + Send + Sync> Table for InPapaya<S> {
    fn share(&self) -> Self {
        InPapaya(Arc::clone(&self.0))
    }

    fn insert(&self, key: Key, port: u32) {
        self.0.pin().insert(key, Location { port, seen: 0 });
    }

    fn look_up(&mut self, key: Key) -> Option<u32> {
        self.0.pin().get(&key).map(|location| location.port)
    }

    fn learn(&mut self, key: Key, refresh: bool) -> Option<u32> {
        let entries = self.0.pin();
        let known = entries.get(&key).copied();
        if let Some(location) = known.filter(|_| refresh) {
            entries.insert(key, Location { seen: location.seen + 1, ..location });
        }
        known.map(|location| location.port)
    }
}

/// Linear probing in a table that is never full and never grows. A slot is a sequence lock over three words: readers
/// write nothing, and try again when a writer was at the slot meanwhile. Writers of new addresses exclude each other.
#[derive(Debug)]
pub struct Atomics(Arc<Slots>);

#[derive(Debug)]
struct Slots {
    slots: Box<[Slot]>,
    hasher: Folded,
    writer: Mutex<()>,
}

/// Half of a cache line.
#[derive(Debug, Default)]
#[repr(align(32))]
struct Slot {
    /// Odd while a writer is at it.
    version: AtomicU32,
    /// Zero in a slot that is free.
    port: AtomicU32,
    key: [AtomicU64; 2],
    seen: AtomicU64,
}

impl Atomics {
    pub fn for_addresses(addresses: u32) -> Atomics {
        // At most half full.
        let count = (addresses as usize * 2).next_power_of_two().max(16);
        let slots = (0..count).map(|_| Slot::default()).collect();
        Atomics(Arc::new(Slots { slots, hasher: Folded::default(), writer: Mutex::new(()) }))
    }
}

fn words(key: Key) -> [u64; 2] {
    let [a, b, c, d, e, f] = key.mac;
    [u64::from_be_bytes([0, 0, a, b, c, d, e, f]), key.vni.into()]
}

impl Slot {
    /// The key and where it is, as they were together.
    fn read(&self) -> ([u64; 2], u32) {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let key = [0, 1].map(|at: usize| self.key[at].load(Ordering::Relaxed));
            let port = self.port.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return (key, port);
            }
            std::hint::spin_loop();
        }
    }

    fn write(&self, key: [u64; 2], port: u32) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.key[0].store(key[0], Ordering::Relaxed);
        self.key[1].store(key[1], Ordering::Relaxed);
        self.port.store(port, Ordering::Relaxed);
        self.version.store(version + 2, Ordering::Release);
    }
}

impl Slots {
    /// The slot of this key, or the free one where it would be; what is there.
    fn find(&self, key: [u64; 2]) -> (&Slot, u32) {
        let mask = self.slots.len() - 1;
        let mut at = self.hasher.fold(key) as usize & mask;
        loop {
            let slot = &self.slots[at];
            let (found, port) = slot.read();
            if port == 0 || found == key {
                return (slot, port);
            }
            at = (at + 1) & mask;
        }
    }
}

impl Table for Atomics {
    fn share(&self) -> Atomics {
        Atomics(Arc::clone(&self.0))
    }

    fn insert(&self, key: Key, port: u32) {
        let _writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.find(words(key)).0.write(words(key), port);
    }

    fn look_up(&mut self, key: Key) -> Option<u32> {
        let (_, port) = self.0.find(words(key));
        (port != 0).then_some(port)
    }

    fn learn(&mut self, key: Key, refresh: bool) -> Option<u32> {
        let (slot, port) = self.0.find(words(key));
        if refresh && port != 0 {
            slot.seen.fetch_add(1, Ordering::Relaxed);
        }
        (port != 0).then_some(port)
    }
}

/// A keyed hash of two multiplications, where SipHash, the standard library's, has some dozens of steps. Whoever does
/// not know the key cannot choose addresses that collide; it is no cryptography.
#[derive(Debug, Clone)]
pub struct Folded([u64; 2]);

impl Default for Folded {
    fn default() -> Folded {
        let random = RandomState::new();
        Folded([random.hash_one(0), random.hash_one(1) | 1])
    }
}

impl Folded {
    fn fold(&self, words: [u64; 2]) -> u64 {
        multiply(multiply(words[0] ^ self.0[0], self.0[1]) ^ words[1], 0x9e37_79b9_7f4a_7c15)
    }
}

/// Both halves of the product, folded.
fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl BuildHasher for Folded {
    type Hasher = FoldedHasher;

    fn build_hasher(&self) -> FoldedHasher {
        FoldedHasher { state: self.0[0], key: self.0[1] }
    }
}

pub struct FoldedHasher {
    state: u64,
    key: u64,
}

impl Hasher for FoldedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.state = multiply(self.state ^ word, self.key);
    }

    fn finish(&self) -> u64 {
        multiply(self.state, 0x9e37_79b9_7f4a_7c15)
    }
}

/// As `switch/src/forward/cache.rs`: direct-mapped, the newest address in a slot wins.
const CACHE_SLOTS: usize = 1024;

#[derive(Debug)]
pub struct Cached<T> {
    table: T,
    slots: Box<[Option<(Key, u32)>]>,
}

impl<T: Table> Cached<T> {
    pub fn new(table: T) -> Cached<T> {
        Cached { table, slots: vec![None; CACHE_SLOTS].into() }
    }

    fn slot(key: Key) -> usize {
        let [mac, vni] = words(key);
        ((mac ^ vni << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - CACHE_SLOTS.trailing_zeros()))
            as usize
    }

    fn known(&self, key: Key) -> Option<u32> {
        self.slots[Self::slot(key)].filter(|(known, _)| *known == key).map(|(_, port)| port)
    }
}

impl<T: Table> Table for Cached<T> {
    fn share(&self) -> Cached<T> {
        Cached::new(self.table.share())
    }

    fn insert(&self, key: Key, port: u32) {
        self.table.insert(key, port);
    }

    fn look_up(&mut self, key: Key) -> Option<u32> {
        if let Some(port) = self.known(key) {
            return Some(port);
        }
        let port = self.table.look_up(key)?;
        self.slots[Self::slot(key)] = Some((key, port));
        Some(port)
    }

    fn learn(&mut self, key: Key, refresh: bool) -> Option<u32> {
        if let Some(port) = self.known(key).filter(|_| !refresh) {
            return Some(port);
        }
        let port = self.table.learn(key, refresh)?;
        self.slots[Self::slot(key)] = Some((key, port));
        Some(port)
    }
}
