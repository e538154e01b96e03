//! The tables that are compared: the forwarding database, and others that hold what it holds, the port and the time of an
//! address.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use vswitch::forward::fdb::{Place, REFRESH};
use vswitch::forward::{Fdb, FdbConfig};
use vswitch_proto::id::{MacAddr, PortId, Vni};

/// Locks of a dashmap.
const SHARDS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub vni: u32,
    pub mac: [u8; 6],
}

impl Key {
    /// Where the address is: one of eight ports, as its last byte says.
    pub fn port(self) -> u32 {
        1 + u32::from(self.mac[5] % 8)
    }
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

/// The forwarding database itself, with its bounds and ages: open addressing over atomics.
#[derive(Debug)]
pub struct Database {
    fdb: Arc<Fdb>,
    now: Instant,
    /// So much later that a time is written anew, each time that one is.
    later: Instant,
}

impl Database {
    pub fn new(now: Instant) -> Database {
        let age = Duration::from_secs(u64::from(u32::MAX));
        let config = FdbConfig { age, capacity: usize::MAX, capacity_per_port: usize::MAX };
        Database { fdb: Arc::new(Fdb::new(config)), now, later: now }
    }
}

fn words(key: Key) -> [u64; 2] {
    let [a, b, c, d, e, f] = key.mac;
    [u64::from_be_bytes([0, 0, a, b, c, d, e, f]), key.vni.into()]
}

fn address(key: Key) -> (Vni, MacAddr) {
    (Vni::new(key.vni).expect("keys name a network"), MacAddr(key.mac))
}

impl Table for Database {
    fn share(&self) -> Database {
        Database { fdb: Arc::clone(&self.fdb), ..*self }
    }

    fn insert(&self, key: Key, port: u32) {
        let (vni, mac) = address(key);
        self.fdb.learn(vni, mac, Place::Port(PortId(port)), self.now);
    }

    fn look_up(&mut self, key: Key) -> Option<u32> {
        let (vni, mac) = address(key);
        match self.fdb.look_up(vni, mac, self.now)? {
            Place::Port(port) => Some(port.0),
            Place::Vtep(_) => None,
        }
    }

    fn learn(&mut self, key: Key, refresh: bool) -> Option<u32> {
        let ((vni, mac), port) = (address(key), key.port());
        if refresh {
            self.later += REFRESH;
        }
        let now = if refresh { self.later } else { self.now };
        self.fdb.learn(vni, mac, Place::Port(PortId(port)), now);
        Some(port)
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

/// Direct-mapped: the newest address in a slot wins.
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
