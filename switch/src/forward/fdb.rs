//! The forwarding database: which port, or which other host's tunnel endpoint, a MAC address was last seen behind.
//!
//! One [`Fdb`] is shared by all workers and by the control side. It holds learned entries, which age, move and are
//! bounded, and static entries, which do none of that and beat learned ones. (The addresses of registered endpoints
//! are in [`super::tables::Tables`], beat both, and are never learned.) The key is network and address, so the same
//! address in two networks is two entries. VLAN tags are not looked at: one entry serves all of a network's tags.
//!
//! # Ageing
//! An entry that was not seen for [`FdbConfig::age`] is not found any more; [`Fdb::sweep`] gives back its memory. When
//! nothing but the time changed, an entry's time is written at most once per [`REFRESH`], so an entry may age that
//! much early.
//!
//! # Bounds
//! Learned entries are bounded in all and per place, so that one port or host cannot use up the room of the others; static
//! ones have a bound of their own. An address that finds no room is counted as refused, not learned, and frames for
//! it are flooded. An address that moves to a place without room stays where it was. Aged entries hold their room until
//! the next sweep.
//!
//! # Concurrency
//! Lock order: a shard of `entries`, then one of `held`. Nothing takes them the other way round. The worker's cache
//! rests on `Fdb::generation`: whatever makes an earlier answer wrong (a move, a removal, a static entry) changes
//! `entries` first and the generation after that, and a worker reads the generation first and `entries` after that.
//! So an answer that is cached under the current generation is not older than the last such change that has returned
//! to its caller. A new address needs no new generation, because a failed look-up is never cached.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dashmap::{DashMap, Entry as Slot};
use vswitch_proto::id::{MacAddr, PortId, Vni};

use super::keyed::Keyed;

/// How precisely the time of an entry is kept.
pub const REFRESH: Duration = Duration::from_secs(1);

/// Static entries there may be.
pub const STATIC_MAX: usize = 4096;

/// Locks in the table. A sweep holds one of them for 1/64 of the table, tens of microseconds at most.
const SHARDS: usize = 64;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    vni: Vni,
    mac: MacAddr,
}

/// What an address can be behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    Port(PortId),
    /// Another host, by its tunnel endpoint.
    Vtep(IpAddr),
}

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub place: Place,
    /// When a frame from there was last noted; `None` for a static entry.
    pub seen: Option<Instant>,
}

impl Location {
    /// Whether it was seen recently enough to be used.
    pub(super) fn is_current(&self, age: Duration, now: Instant) -> bool {
        self.seen.is_none_or(|seen| now.saturating_duration_since(seen) < age)
    }

    /// Whether a frame from `place` at `now` tells nothing new.
    pub(super) fn confirms(&self, place: Place, now: Instant) -> bool {
        self.seen.is_none_or(|seen| self.place == place && now.saturating_duration_since(seen) < REFRESH)
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
    entries: DashMap<Key, Location, Keyed>,
    /// Learned entries behind each place; no zeros.
    held: DashMap<Place, usize, Keyed>,
    learned_len: AtomicUsize,
    static_len: AtomicUsize,
    generation: AtomicU64,
    learned: AtomicU64,
    moved: AtomicU64,
    refused: AtomicU64,
    aged: AtomicU64,
}

fn sharded<K: Eq + Hash, V>() -> DashMap<K, V, Keyed> {
    DashMap::with_capacity_and_hasher_and_shard_amount(0, Keyed::default(), SHARDS)
}

impl Fdb {
    pub fn new(config: FdbConfig) -> Fdb {
        Fdb {
            config,
            entries: sharded(),
            held: sharded(),
            learned_len: AtomicUsize::new(0),
            static_len: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            learned: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            aged: AtomicU64::new(0),
        }
    }

    pub fn config(&self) -> &FdbConfig {
        &self.config
    }

    /// Notes that `mac` was seen behind `place`. The caller has checked that it is unicast and no registered
    /// endpoint's. Answers where the address is now held to be: elsewhere if a static entry says so or the place
    /// has no room for a move, nowhere if there is no room at all.
    pub fn learn(&self, vni: Vni, mac: MacAddr, place: Place, now: Instant) -> Option<Location> {
        if self.config.age.is_zero() {
            return None;
        }
        let key = Key { vni, mac };
        // Mostly nothing is new, and readers do not exclude each other.
        let known = self.entries.get(&key).map(|entry| *entry);
        if let Some(location) = known.filter(|location| location.confirms(place, now)) {
            return Some(location);
        }
        let seen = Some(now);
        match self.entries.entry(key) {
            Slot::Vacant(slot) => self.admit_new(place).then(|| *slot.insert(Location { place, seen })),
            Slot::Occupied(mut slot) => {
                let old = *slot.get();
                if old.seen.is_none() || (old.place != place && !self.admit_move(old.place, place)) {
                    return Some(old);
                }
                // Another worker's clock may be ahead.
                let location = Location { place, seen: old.seen.max(seen) };
                slot.insert(location);
                if old.place != place {
                    self.invalidate_caches();
                }
                Some(location)
            }
        }
    }

    /// Where a frame for `mac` goes.
    pub fn look_up(&self, vni: Vni, mac: MacAddr, now: Instant) -> Option<Location> {
        let location = *self.entries.get(&Key { vni, mac })?;
        location.is_current(self.config.age, now).then_some(location)
    }

    /// Read it before the entry that is to be cached under it.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Call after the change.
    fn invalidate_caches(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Adds or redirects a static entry; a learned one gives way.
    pub fn add_static(&self, vni: Vni, mac: MacAddr, port: PortId) -> Result<(), StaticError> {
        if !mac.is_unicast() {
            return Err(StaticError::NotUnicast(mac));
        }
        let location = Location { place: Place::Port(port), seen: None };
        let slot = self.entries.entry(Key { vni, mac });
        let replaced = match &slot {
            Slot::Occupied(slot) => Some(*slot.get()),
            Slot::Vacant(_) => None,
        };
        if replaced.is_none_or(|old| old.seen.is_some()) && !take(&self.static_len, STATIC_MAX) {
            return Err(StaticError::Full);
        }
        if let Some(old) = replaced.filter(|old| old.seen.is_some()) {
            self.release(&old);
        }
        drop(slot.insert(location));
        self.invalidate_caches();
        Ok(())
    }

    /// Removes the entry of one address, static or learned. False if there is none.
    pub fn remove(&self, vni: Vni, mac: MacAddr) -> bool {
        let Slot::Occupied(slot) = self.entries.entry(Key { vni, mac }) else { return false };
        self.release(slot.get());
        slot.remove();
        self.invalidate_caches();
        true
    }

    /// Gives back the memory of what has aged. For the control side, every few seconds. Answers how many.
    pub fn sweep(&self, now: Instant) -> usize {
        let aged = self.remove_where(|_, location| !location.is_current(self.config.age, now));
        self.aged.fetch_add(aged as u64, Ordering::Relaxed);
        aged
    }

    /// Forgets what was learned, in one network or in all. Answers how many.
    pub fn flush(&self, vni: Option<Vni>) -> usize {
        self.remove_where(|key, location| location.seen.is_some() && vni.is_none_or(|vni| key.vni == vni))
    }

    /// Forgets everything behind a port that is gone, static entries too. Answers how many.
    ///
    /// Call it after the tables without the port are published. A worker that was in the middle of a burst may still
    /// learn an address there; it is not used, because its port is in no table, and it ages.
    pub fn forget_port(&self, port: PortId) -> usize {
        self.forget(Place::Port(port))
    }

    /// The same for a tunnel endpoint that is no longer of the cluster.
    pub fn forget_vtep(&self, vtep: IpAddr) -> usize {
        self.forget(Place::Vtep(vtep))
    }

    fn forget(&self, place: Place) -> usize {
        self.remove_where(|_, location| location.place == place)
    }

    /// What is known, in one network or in all, sorted by network and address. Aged entries are left out.
    pub fn rows(&self, vni: Option<Vni>, now: Instant) -> Vec<FdbRow> {
        let mut rows: Vec<FdbRow> = self
            .entries
            .iter()
            .filter(|entry| vni.is_none_or(|vni| entry.key().vni == vni))
            .filter(|entry| entry.is_current(self.config.age, now))
            .map(|entry| FdbRow {
                vni: entry.key().vni,
                mac: entry.key().mac,
                place: entry.place,
                age: entry.seen.map(|seen| now.saturating_duration_since(seen)),
            })
            .collect();
        rows.sort_unstable_by_key(|row| (row.vni, row.mac));
        rows
    }

    /// Entries that are held, static and learned, aged ones that no sweep has seen included.
    pub fn len(&self) -> usize {
        self.learned_len.load(Ordering::Relaxed) + self.static_len.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn stats(&self) -> FdbStats {
        FdbStats {
            learned: self.learned.load(Ordering::Relaxed),
            moved: self.moved.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            aged: self.aged.load(Ordering::Relaxed),
        }
    }

    fn remove_where(&self, is_unwanted: impl Fn(&Key, &Location) -> bool) -> usize {
        let mut removed = 0;
        self.entries.retain(|key, location| {
            if !is_unwanted(key, location) {
                return true;
            }
            removed += 1;
            self.release(location);
            false
        });
        if removed > 0 {
            self.invalidate_caches();
        }
        removed
    }

    fn admit_new(&self, place: Place) -> bool {
        let admitted = self.hold(place, || take(&self.learned_len, self.config.capacity));
        count(if admitted { &self.learned } else { &self.refused });
        admitted
    }

    fn admit_move(&self, from: Place, to: Place) -> bool {
        let admitted = self.hold(to, || true);
        if admitted {
            self.let_go(from);
        }
        count(if admitted { &self.moved } else { &self.refused });
        admitted
    }

    /// Counts one more entry behind `place` if that is within its bound and `also` agrees.
    fn hold(&self, place: Place, also: impl FnOnce() -> bool) -> bool {
        let slot = self.held.entry(place);
        let held = match &slot {
            Slot::Occupied(slot) => *slot.get(),
            Slot::Vacant(_) => 0,
        };
        let admitted = held < self.config.capacity_per_port && also();
        if admitted {
            drop(slot.insert(held + 1));
        }
        admitted
    }

    fn let_go(&self, place: Place) {
        if let Slot::Occupied(mut slot) = self.held.entry(place) {
            *slot.get_mut() -= 1;
            if *slot.get() == 0 {
                slot.remove();
            }
        }
    }

    /// Gives back the room of an entry that is about to go.
    fn release(&self, location: &Location) {
        if location.seen.is_some() {
            self.learned_len.fetch_sub(1, Ordering::Relaxed);
            self.let_go(location.place);
        } else {
            self.static_len.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Takes one of `max` places, if one is left.
fn take(taken: &AtomicUsize, max: usize) -> bool {
    taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1)).is_ok()
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::tests::instant;

    fn vni(n: u32) -> Vni {
        Vni::new(n).unwrap()
    }

    fn mac(n: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, n])
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    const SMALL: FdbConfig = FdbConfig { age: Duration::from_secs(10), capacity: 4, capacity_per_port: 3 };
    const P1: PortId = PortId(1);
    const P2: PortId = PortId(2);
    const AT_1: Place = Place::Port(P1);
    const AT_2: Place = Place::Port(P2);

    fn place_of(fdb: &Fdb, n: u8, now: Instant) -> Option<Place> {
        fdb.look_up(vni(1), mac(n), now).map(|location| location.place)
    }

    #[test]
    fn entries_age_and_are_swept() {
        let (fdb, t0) = (Fdb::new(SMALL), instant());
        fdb.learn(vni(1), mac(1), AT_1, t0);
        fdb.learn(vni(1), mac(2), AT_1, t0 + ms(5000));
        assert_eq!(place_of(&fdb, 1, t0 + ms(9999)), Some(AT_1));
        assert_eq!(place_of(&fdb, 1, t0 + ms(10_000)), None);
        let rows = fdb.rows(None, t0 + ms(10_000));
        assert_eq!(rows, [FdbRow { vni: vni(1), mac: mac(2), place: AT_1, age: Some(ms(5000)) }]);
        assert_eq!((fdb.len(), fdb.sweep(t0 + ms(10_000)), fdb.len()), (2, 1, 1));
        assert_eq!(fdb.stats(), FdbStats { learned: 2, aged: 1, ..FdbStats::default() });
    }

    #[test]
    fn time_is_kept_by_the_second() {
        let (fdb, t0) = (Fdb::new(SMALL), instant());
        let seen = |at| fdb.learn(vni(1), mac(1), AT_1, at).unwrap().seen;
        assert_eq!(seen(t0), Some(t0));
        assert_eq!(seen(t0 + ms(999)), Some(t0));
        assert_eq!(seen(t0 + ms(1000)), Some(t0 + ms(1000)));
        // A worker whose burst began earlier does not turn it back.
        assert_eq!(seen(t0), Some(t0 + ms(1000)));
    }

    #[test]
    fn one_port_cannot_fill_it_and_its_room_comes_back() {
        let (fdb, t0) = (Fdb::new(SMALL), instant());
        (0..10).for_each(|n| _ = fdb.learn(vni(1), mac(n), AT_1, t0));
        assert_eq!(fdb.len(), 3, "per port");
        (10..20).for_each(|n| _ = fdb.learn(vni(1), mac(n), AT_2, t0));
        assert_eq!(fdb.len(), 4, "in all");
        assert_eq!(fdb.stats().refused, 7 + 9);

        assert_eq!(fdb.learn(vni(1), mac(10), AT_1, t0).map(|l| l.place), Some(AT_2), "a move without room");
        assert_eq!(fdb.learn(vni(1), mac(0), AT_2, t0).map(|l| l.place), Some(AT_2), "a move");
        assert_eq!(fdb.learn(vni(1), mac(10), AT_1, t0).map(|l| l.place), Some(AT_1), "which made room");
        assert_eq!(fdb.stats().moved, 2);

        assert_eq!((fdb.forget_port(P1), fdb.flush(None), fdb.len()), (3, 1, 0));
        assert!(fdb.held.is_empty());
        assert!(fdb.learn(vni(1), mac(0), AT_1, t0).is_some());
    }

    #[test]
    fn static_entries_stay() {
        let (fdb, t0) = (Fdb::new(SMALL), instant());
        (1..=3).for_each(|n| _ = fdb.learn(vni(1), mac(n), AT_1, t0));
        assert_eq!(fdb.add_static(vni(1), mac(1), P2), Ok(()));
        assert!(fdb.learn(vni(1), mac(4), AT_1, t0).is_some(), "the learned one gave its room back");
        assert_eq!(fdb.learn(vni(1), mac(1), AT_1, t0), Some(Location { place: AT_2, seen: None }));
        assert_eq!(place_of(&fdb, 1, t0 + ms(1_000_000)), Some(AT_2));
        assert_eq!(fdb.add_static(vni(1), mac(1), P1), Ok(()), "redirected");
        assert_eq!((fdb.flush(None), fdb.sweep(t0 + ms(1_000_000)), fdb.len()), (3, 0, 1));
        assert_eq!((fdb.remove(vni(2), mac(1)), fdb.remove(vni(1), mac(1)), fdb.len()), (false, true, 0));

        let broadcast = MacAddr::BROADCAST;
        assert_eq!(fdb.add_static(vni(1), broadcast, P1), Err(StaticError::NotUnicast(broadcast)));
        for n in 0..STATIC_MAX as u32 {
            let [.., a, b] = n.to_be_bytes();
            fdb.add_static(vni(1), MacAddr([2, 0, 0, 0, a, b]), P1).unwrap();
        }
        assert_eq!(fdb.add_static(vni(2), mac(1), P1), Err(StaticError::Full));
        assert_eq!(fdb.add_static(vni(1), mac(1), P2), Ok(()), "no further entry");
        assert_eq!(fdb.forget_port(P1), STATIC_MAX - 1);
    }

    #[test]
    fn without_an_age_nothing_is_learned() {
        let fdb = Fdb::new(FdbConfig { age: Duration::ZERO, ..FdbConfig::default() });
        assert_eq!(fdb.learn(vni(1), mac(1), AT_1, instant()), None);
        assert!(fdb.is_empty());
        fdb.add_static(vni(1), mac(1), P2).unwrap();
        assert_eq!(place_of(&fdb, 1, instant()), Some(AT_2));
    }

    /// Threads learn, move, flush and sweep the same few addresses; the books must balance when they are done.
    #[test]
    fn counts_survive_concurrent_changes() {
        let (fdb, t0) = (&Fdb::new(SMALL), instant());
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                scope.spawn(move || {
                    for i in 0..20_000u32 {
                        let n = (i.wrapping_mul(7 + thread) % 8) as u8;
                        match i % 50 {
                            0 => _ = fdb.flush(None),
                            1 => _ = fdb.forget_port(PortId(thread)),
                            2 => _ = fdb.add_static(vni(1), mac(n), PortId(thread)),
                            3 => _ = fdb.remove(vni(1), mac(n)),
                            4 => _ = fdb.sweep(t0 + ms(10_000)),
                            _ => _ = fdb.learn(vni(1), mac(n), Place::Port(PortId(thread)), t0),
                        }
                        assert!(fdb.learned_len.load(Ordering::Relaxed) <= SMALL.capacity);
                    }
                });
            }
        });
        let learned = fdb.entries.iter().filter(|entry| entry.seen.is_some()).count();
        assert_eq!(fdb.learned_len.load(Ordering::Relaxed), learned);
        assert_eq!(fdb.static_len.load(Ordering::Relaxed), fdb.entries.len() - learned);
        assert_eq!(fdb.held.iter().map(|held| *held).sum::<usize>(), learned);
        (0..4).for_each(|port| _ = fdb.forget_port(PortId(port)));
        assert!(fdb.is_empty() && fdb.held.is_empty() && fdb.entries.is_empty());
    }

    #[test]
    fn tunnel_endpoints_are_places_like_ports() {
        let (fdb, t0) = (Fdb::new(SMALL), instant());
        let (here, there) = ("10.8.0.2".parse().unwrap(), "10.8.0.3".parse().unwrap());
        (0..4).for_each(|n| _ = fdb.learn(vni(1), mac(n), Place::Vtep(here), t0));
        assert_eq!(fdb.stats().refused, 1, "one host cannot use up the room of the others");
        assert_eq!(place_of(&fdb, 0, t0), Some(Place::Vtep(here)));
        fdb.learn(vni(1), mac(0), Place::Vtep(there), t0);
        fdb.learn(vni(1), mac(1), AT_1, t0);
        assert_eq!(fdb.stats().moved, 2);
        assert_eq!((fdb.forget_vtep(here), fdb.forget_vtep(there), fdb.forget_port(P1)), (1, 1, 1));
    }
}
