//! The forwarding database: which port, or which other host's tunnel endpoint, a MAC address was last seen behind.
//!
//! One [`Fdb`] is shared by all workers and by the control side. It holds learned entries, which age, move and are
//! bounded, and static entries, which do none of that and beat learned ones. (The addresses of registered endpoints
//! are in [`super::tables::Tables`], beat both, and are never learned.) The key is network and address, so the same
//! address in two networks is two entries. VLAN tags are not looked at: one entry serves all of a network's tags.
//!
//! # Ageing
//! An entry that was not seen for [`FdbConfig::age`] is not found any more; [`Fdb::sweep`] gives back its room. When
//! nothing but the time changed, an entry's time is written at most once per [`REFRESH`], so an entry may age that
//! much early.
//!
//! # Bounds
//! Learned entries are bounded in all and per place, so that one port or host cannot use up the room of the others; static
//! ones have a bound of their own. An address that finds no room is counted as refused, not learned, and frames for
//! it are flooded. An address that moves to a place without room stays where it was. Aged entries hold their room until
//! the next sweep. IPv6 tunnel endpoints get numbers, which can run out too (`vteps.rs`).
//!
//! # Concurrency
//! Readers lock nothing (`slots.rs`). Whoever changes entries has the one lock that also protects the counts, so
//! entries and counts always agree. Noting the time of a known address gives way to whoever has the lock, and is made
//! up for with the next frame, unless half of its age is over; so what waits are new addresses and moves, but not those
//! of a place that had no room for the one before. What goes through the whole table (a sweep, every second, a port
//! that goes, a list of the entries) has the lock for some tens of microseconds at a time. A growth has it for a
//! millisecond or two at 65,536 entries, and so has the last attempt to go through a table that others keep changing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vswitch_proto::id::{MacAddr, PortId, Vni};

use super::slots::{Key, Slots, Value, Writing};
use vteps::Vteps;

/// How precisely the time of an entry is kept.
pub const REFRESH: Duration = Duration::from_secs(1);

/// Static entries there may be.
pub const STATIC_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbConfig {
    /// For how long an address that is not seen is remembered. Zero turns learning off: frames for anything but
    /// registered endpoints and static entries are flooded.
    pub age: Duration,
    /// Learned entries in all.
    pub capacity: usize,
    /// Learned entries behind one port or tunnel endpoint.
    pub capacity_per_port: usize,
}

impl Default for FdbConfig {
    /// 300 s (IEEE 802.1Q table 8-11, and what the kernel's bridge does), 65,536 entries, 4,096 of them for one port or
    /// tunnel endpoint.
    fn default() -> FdbConfig {
        FdbConfig { age: Duration::from_secs(300), capacity: 65_536, capacity_per_port: 4096 }
    }
}

/// What an address can be behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    Port(PortId),
    /// Another host, by its tunnel endpoint.
    Vtep(IpAddr),
}

impl Place {
    /// Which of [`Fdb::full`] is its.
    fn number(self) -> usize {
        let bits: u128 = match self {
            Place::Port(port) => port.0.into(),
            Place::Vtep(IpAddr::V4(vtep)) => vtep.to_bits().into(),
            Place::Vtep(IpAddr::V6(vtep)) => vtep.to_bits(),
        };
        (bits % FULL as u128) as usize
    }
}

/// A row of `fdb show`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbRow {
    pub vni: Vni,
    pub mac: MacAddr,
    pub place: Place,
    /// Time since it was last seen; `None` for a static entry.
    pub age: Option<Duration>,
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FdbStats {
    pub learned: u64,
    /// A learned address was seen elsewhere.
    pub moved: u64,
    /// An address was not learned, or its move not followed, because a bound was reached.
    pub refused: u64,
    /// Entries that a sweep found too old.
    pub aged: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StaticError {
    #[error("{0} is not the address of one interface: give a unicast MAC address")]
    NotUnicast(MacAddr),
    #[error("there are {STATIC_MAX} static entries already: remove one first")]
    Full,
}

#[derive(Debug)]
pub struct Fdb {
    config: FdbConfig,
    /// Of the configuration, nanoseconds.
    age: u64,
    /// What times of entries count from: the first time that was given.
    origin: OnceLock<Instant>,
    entries: Slots<Book>,
    vteps: Vteps,
    /// Whether the last address that came to a place was refused. Places share these, which costs some of them a chance
    /// to learn while another thread is at the entries.
    full: [AtomicBool; FULL],
    /// Refused without a look at the entries.
    turned_away: AtomicU64,
}

const FULL: usize = 64;

/// What is known about the entries as a whole.
#[derive(Debug, Default)]
struct Book {
    /// Learned entries behind each place; no zeros.
    held: HashMap<Place, usize>,
    learned_len: usize,
    static_len: usize,
    stats: FdbStats,
}

impl Fdb {
    pub fn new(config: FdbConfig) -> Fdb {
        let age = u64::try_from(config.age.as_nanos()).unwrap_or(u64::MAX);
        Fdb {
            config,
            age,
            origin: OnceLock::new(),
            entries: Slots::new(),
            vteps: Vteps::default(),
            full: [const { AtomicBool::new(false) }; FULL],
            turned_away: AtomicU64::new(0),
        }
    }

    pub fn config(&self) -> &FdbConfig {
        &self.config
    }

    /// Notes that `mac` was seen behind `place`. The caller has checked that it is unicast and no registered
    /// endpoint's. Nothing changes if a static entry says otherwise or there is no room.
    pub fn learn(&self, vni: Vni, mac: MacAddr, place: Place, now: Instant) {
        if self.config.age.is_zero() {
            return;
        }
        let (key, now) = (key(vni, mac), self.ticks(now));
        let known = self.entries.find(key).map(|value| self.entry(value));
        if known.is_some_and(|entry| entry.confirms(place, now)) {
            return;
        }
        let needs_room = known.is_none_or(|entry| entry.place != place);
        let waits = match known {
            Some(entry) if !needs_room => self.is_half_aged(entry, now),
            _ => !self.is_full(place),
        };
        match self.entries.try_lock() {
            Some(mut writing) => self.note(&mut writing, key, place, now),
            None if waits => self.note(&mut self.entries.lock(), key, place, now),
            None if needs_room => _ = self.turned_away.fetch_add(1, Ordering::Relaxed),
            None => {}
        }
    }

    fn note(&self, writing: &mut Writing<'_, Book>, key: Key, place: Place, now: u64) {
        let old = writing.get(key).map(|value| self.entry(value));
        let mut entry = Entry { place, seen: now };
        match old {
            Some(old) if old.is_static() => return,
            // Another worker's clock may be ahead.
            Some(old) => entry.seen = now.max(old.seen),
            None => {}
        }
        let Some(value) = self.value(entry) else {
            self.set_full(place, true);
            return writing.stats.refused += 1;
        };
        if old.is_none_or(|old| old.place != place) {
            let admitted = match old {
                Some(old) => writing.admit_move(old.place, place, &self.config),
                None => writing.admit_new(place, &self.config),
            };
            self.set_full(place, !admitted);
            if !admitted {
                return;
            }
        }
        writing.set(key, value);
    }

    fn is_full(&self, place: Place) -> bool {
        self.full[place.number()].load(Ordering::Relaxed)
    }

    /// Mostly that is known.
    fn set_full(&self, place: Place, is_full: bool) {
        if self.is_full(place) != is_full {
            self.full[place.number()].store(is_full, Ordering::Relaxed);
        }
    }

    /// Where a frame for `mac` goes.
    pub fn look_up(&self, vni: Vni, mac: MacAddr, now: Instant) -> Option<Place> {
        let entry = self.entry(self.entries.find(key(vni, mac))?);
        self.is_current(entry, self.ticks(now)).then_some(entry.place)
    }

    /// Whether [`Fdb::touch`] is worth its while.
    pub(super) fn is_large(&self) -> bool {
        self.entries.is_large()
    }

    /// Fetches what is known about some addresses, all at once.
    pub(super) fn touch(&self, addresses: impl Iterator<Item = (Vni, MacAddr)>) {
        self.entries.touch(addresses.map(|(vni, mac)| key(vni, mac)));
    }

    /// Adds or redirects a static entry; a learned one gives way.
    pub fn add_static(&self, vni: Vni, mac: MacAddr, port: PortId) -> Result<(), StaticError> {
        if !mac.is_unicast() {
            return Err(StaticError::NotUnicast(mac));
        }
        let (mut writing, key) = (self.entries.lock(), key(vni, mac));
        let replaced = writing.get(key).map(|value| self.entry(value));
        if replaced.is_none_or(|old| !old.is_static()) {
            if writing.static_len == STATIC_MAX {
                return Err(StaticError::Full);
            }
            writing.static_len += 1;
            if let Some(learned) = replaced {
                writing.release(learned);
            }
        }
        let value = self.value(Entry { place: Place::Port(port), seen: STATIC });
        writing.set(key, value.expect("a port needs no number"));
        Ok(())
    }

    /// Removes the entry of one address, static or learned. False if there is none.
    pub fn remove(&self, vni: Vni, mac: MacAddr) -> bool {
        let (mut writing, key) = (self.entries.lock(), key(vni, mac));
        let Some(value) = writing.get(key) else { return false };
        let entry = self.entry(value);
        writing.release(entry);
        writing.remove(key)
    }

    /// Gives back the room of what has aged. For the control side, every few seconds. Answers how many.
    pub fn sweep(&self, now: Instant) -> usize {
        let (now, mut next, mut aged) = (self.ticks(now), Some(0), 0);
        while let Some(from) = next {
            next = self.entries.lock().retain_part(from, |book, _, value| {
                let entry = self.entry(value);
                let is_current = self.is_current(entry, now);
                if !is_current {
                    book.release(entry);
                    book.stats.aged += 1;
                    aged += 1;
                }
                is_current
            });
        }
        aged
    }

    /// Forgets what was learned, in one network or in all. Answers how many.
    pub fn flush(&self, vni: Option<Vni>) -> usize {
        let is_meant = |key, entry: Entry| !entry.is_static() && vni.is_none_or(|vni| address(key).0 == vni);
        self.remove_where(is_meant)
    }

    /// Forgets everything behind a port that is gone, static entries too. Answers how many.
    ///
    /// Call it when no worker reads the port any more: one that is in the middle of a burst may still learn an address
    /// there.
    pub fn forget_port(&self, port: PortId) -> usize {
        self.forget(Place::Port(port))
    }

    /// The same for a tunnel endpoint that is no longer of the cluster.
    pub fn forget_vtep(&self, vtep: IpAddr) -> usize {
        self.forget(Place::Vtep(vtep))
    }

    fn forget(&self, place: Place) -> usize {
        self.remove_where(|_, entry| entry.place == place)
    }

    /// Removes learned entries by what they say. Answers how many.
    pub(super) fn remove_rows(&self, is_unwanted: impl Fn(&FdbRow) -> bool) -> usize {
        self.remove_where(|key, entry| {
            let (vni, mac) = address(key);
            let row = FdbRow { vni, mac, place: entry.place, age: Some(Duration::ZERO) };
            !entry.is_static() && is_unwanted(&row)
        })
    }

    fn remove_where(&self, is_unwanted: impl Fn(Key, Entry) -> bool) -> usize {
        self.entries.retain(|book, key, value| {
            let entry = self.entry(value);
            let is_unwanted = is_unwanted(key, entry);
            if is_unwanted {
                book.release(entry);
            }
            !is_unwanted
        })
    }

    /// What is known, in one network or in all, sorted by network and address. Aged entries are left out.
    pub fn rows(&self, vni: Option<Vni>, now: Instant) -> Vec<FdbRow> {
        let now = self.ticks(now);
        let row = |key, value| {
            let ((vni, mac), entry) = (address(key), self.entry(value));
            let age = (!entry.is_static()).then(|| Duration::from_nanos(now.saturating_sub(entry.seen)));
            self.is_current(entry, now).then_some(FdbRow { vni, mac, place: entry.place, age })
        };
        let mut rows: Vec<FdbRow> = Vec::new();
        self.entries.retain(|_, key, value| {
            rows.extend(row(key, value));
            true
        });
        rows.retain(|row| vni.is_none_or(|vni| row.vni == vni));
        // What was seen twice, because it moved meanwhile, is where it was seen last.
        rows.sort_unstable_by_key(|row| (row.vni, row.mac, row.age));
        rows.dedup_by_key(|row| (row.vni, row.mac));
        rows
    }

    /// Entries that are held, static and learned, aged ones that no sweep has seen included.
    pub fn len(&self) -> usize {
        let book = self.entries.lock();
        book.learned_len + book.static_len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn stats(&self) -> FdbStats {
        let mut stats = self.entries.lock().stats;
        stats.refused += self.turned_away.load(Ordering::Relaxed);
        stats
    }

    /// Nanoseconds since the origin, for 584 years; what was before it counts as the origin.
    fn ticks(&self, at: Instant) -> u64 {
        let origin = *self.origin.get_or_init(|| at);
        let passed = at.saturating_duration_since(origin);
        passed.as_secs().wrapping_mul(1_000_000_000).wrapping_add(passed.subsec_nanos().into())
    }

    fn is_half_aged(&self, entry: Entry, now: u64) -> bool {
        !entry.is_static() && now.saturating_sub(entry.seen) >= self.age / 2
    }

    /// Whether it was seen recently enough to be used.
    fn is_current(&self, entry: Entry, now: u64) -> bool {
        entry.is_static() || now.saturating_sub(entry.seen) < self.age
    }
}

impl Book {
    fn admit_new(&mut self, place: Place, config: &FdbConfig) -> bool {
        let admitted = self.learned_len < config.capacity && self.hold(place, config);
        self.learned_len += usize::from(admitted);
        *(if admitted { &mut self.stats.learned } else { &mut self.stats.refused }) += 1;
        admitted
    }

    fn admit_move(&mut self, from: Place, to: Place, config: &FdbConfig) -> bool {
        let admitted = self.hold(to, config);
        if admitted {
            self.let_go(from);
        }
        *(if admitted { &mut self.stats.moved } else { &mut self.stats.refused }) += 1;
        admitted
    }

    /// Counts one more entry behind `place`, if that is within its bound.
    fn hold(&mut self, place: Place, config: &FdbConfig) -> bool {
        let held = self.held.get(&place).copied().unwrap_or(0);
        let admitted = held < config.capacity_per_port;
        if admitted {
            self.held.insert(place, held + 1);
        }
        admitted
    }

    fn let_go(&mut self, place: Place) {
        if let Some(held) = self.held.get_mut(&place) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&place);
            }
        }
    }

    /// Gives back the room of an entry that is about to go.
    fn release(&mut self, entry: Entry) {
        if entry.is_static() {
            self.static_len -= 1;
        } else {
            self.learned_len -= 1;
            self.let_go(entry.place);
        }
    }
}

/// [`Entry::seen`] of a static one.
const STATIC: u64 = u64::MAX;

/// What the table holds under an address.
#[derive(Debug, Clone, Copy)]
struct Entry {
    place: Place,
    /// When a frame from there was last noted, in nanoseconds since the origin.
    seen: u64,
}

/// Which kind of place a slot names, above its 32 bits.
const PORT: u64 = 0;
const IPV4: u64 = 4;
const IPV6: u64 = 6;

impl Fdb {
    fn entry(&self, [place, seen]: Value) -> Entry {
        let number = place as u32;
        let place = match place >> u32::BITS {
            PORT => Place::Port(PortId(number)),
            IPV4 => Place::Vtep(Ipv4Addr::from_bits(number).into()),
            _ => Place::Vtep(self.vteps.get(number).into()),
        };
        Entry { place, seen }
    }

    /// `None` if it is behind an IPv6 tunnel endpoint that gets no number any more.
    fn value(&self, entry: Entry) -> Option<Value> {
        let (kind, number) = match entry.place {
            Place::Port(port) => (PORT, port.0),
            Place::Vtep(IpAddr::V4(vtep)) => (IPV4, vtep.to_bits()),
            Place::Vtep(IpAddr::V6(vtep)) => (IPV6, self.vteps.number(vtep)?),
        };
        Some([kind << u32::BITS | u64::from(number), entry.seen])
    }
}

impl Entry {
    fn is_static(self) -> bool {
        self.seen == STATIC
    }

    /// Whether a frame from `place` at `now` tells nothing new.
    fn confirms(self, place: Place, now: u64) -> bool {
        const REFRESH_NS: u64 = REFRESH.as_nanos() as u64;
        self.is_static() || (self.place == place && now.saturating_sub(self.seen) < REFRESH_NS)
    }
}

/// The network makes sure that the second word is not zero.
fn key(vni: Vni, mac: MacAddr) -> Key {
    let [a, b, c, d, e, f] = mac.0;
    [u64::from_be_bytes([0, 0, a, b, c, d, e, f]), vni.get().into()]
}

fn address([mac, vni]: Key) -> (Vni, MacAddr) {
    let [_, _, a, b, c, d, e, f] = mac.to_be_bytes();
    (Vni::new(vni as u32).expect("it was the VNI of a key"), MacAddr([a, b, c, d, e, f]))
}

#[cfg(test)]
mod tests;
mod vteps;
