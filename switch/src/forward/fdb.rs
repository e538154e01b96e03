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
//! the next sweep.
//!
//! # Concurrency
//! Readers lock nothing (`slots.rs`). Whoever changes entries has the one lock that also protects the counts, so
//! entries and counts always agree. Noting the time of a known address gives way to whoever has the lock, and is made
//! up for with the next frame, unless half of its age is over; so what waits are new addresses and moves. A sweep, every
//! second, has the lock for some tens of microseconds at a time. What goes through the whole table at once (a growth, a
//! port that goes, a list of the entries) has it for a millisecond or two at 65,536 entries.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use vswitch_proto::id::{MacAddr, PortId, Vni};

use super::slots::{Key, Slots, Value, Writing};

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
}

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
        Fdb { config, age, origin: OnceLock::new(), entries: Slots::new() }
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
        let known = self.entries.find(key).map(Entry::of);
        if known.is_some_and(|entry| entry.confirms(place, now)) {
            return;
        }
        if known.is_none_or(|entry| entry.place != place || self.is_half_aged(entry, now)) {
            self.note(&mut self.entries.lock(), key, place, now);
        } else if let Some(mut writing) = self.entries.try_lock() {
            self.note(&mut writing, key, place, now);
        }
    }

    fn note(&self, writing: &mut Writing<'_, Book>, key: Key, place: Place, now: u64) {
        let mut entry = Entry { place, seen: now };
        match writing.get(key).map(Entry::of) {
            None if !writing.admit_new(place, &self.config) => return,
            None => {}
            Some(old) if old.is_static() => return,
            Some(old) if old.place != place && !writing.admit_move(old.place, place, &self.config) => return,
            // Another worker's clock may be ahead.
            Some(old) => entry.seen = now.max(old.seen),
        }
        writing.set(key, entry.value());
    }

    /// Where a frame for `mac` goes.
    pub fn look_up(&self, vni: Vni, mac: MacAddr, now: Instant) -> Option<Place> {
        let entry = Entry::of(self.entries.find(key(vni, mac))?);
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
        let replaced = writing.get(key).map(Entry::of);
        if replaced.is_none_or(|old| !old.is_static()) {
            if writing.static_len == STATIC_MAX {
                return Err(StaticError::Full);
            }
            writing.static_len += 1;
            if let Some(learned) = replaced {
                writing.release(learned);
            }
        }
        writing.set(key, Entry { place: Place::Port(port), seen: STATIC }.value());
        Ok(())
    }

    /// Removes the entry of one address, static or learned. False if there is none.
    pub fn remove(&self, vni: Vni, mac: MacAddr) -> bool {
        let (mut writing, key) = (self.entries.lock(), key(vni, mac));
        let Some(entry) = writing.get(key).map(Entry::of) else { return false };
        writing.release(entry);
        writing.remove(key)
    }

    /// Gives back the room of what has aged. For the control side, every few seconds. Answers how many.
    pub fn sweep(&self, now: Instant) -> usize {
        let (now, mut next, mut aged) = (self.ticks(now), Some(0), 0);
        while let Some(from) = next {
            next = self.entries.lock().retain_part(from, |book, _, value| {
                let entry = Entry::of(value);
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
        remove_where(&mut self.entries.lock(), is_meant)
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
        remove_where(&mut self.entries.lock(), |_, entry| entry.place == place)
    }

    /// What is known, in one network or in all, sorted by network and address. Aged entries are left out.
    pub fn rows(&self, vni: Option<Vni>, now: Instant) -> Vec<FdbRow> {
        let now = self.ticks(now);
        let row = |(key, value)| {
            let ((vni, mac), entry) = (address(key), Entry::of(value));
            let age = (!entry.is_static()).then(|| Duration::from_nanos(now.saturating_sub(entry.seen)));
            self.is_current(entry, now).then_some(FdbRow { vni, mac, place: entry.place, age })
        };
        let mut rows: Vec<FdbRow> = self.entries.lock().entries().filter_map(row).collect();
        rows.retain(|row| vni.is_none_or(|vni| row.vni == vni));
        rows.sort_unstable_by_key(|row| (row.vni, row.mac));
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
        self.entries.lock().stats
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

fn remove_where(writing: &mut Writing<'_, Book>, is_unwanted: impl Fn(Key, Entry) -> bool) -> usize {
    writing.retain(|book, key, value| {
        let entry = Entry::of(value);
        let is_unwanted = is_unwanted(key, entry);
        if is_unwanted {
            book.release(entry);
        }
        !is_unwanted
    })
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

impl Entry {
    fn of([kind, high, low, seen]: Value) -> Entry {
        let place = match kind {
            0 => Place::Port(PortId(low as u32)),
            4 => Place::Vtep(Ipv4Addr::from_bits(low as u32).into()),
            _ => Place::Vtep(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()),
        };
        Entry { place, seen }
    }

    fn value(self) -> Value {
        let [kind, high, low] = match self.place {
            Place::Port(port) => [0, 0, port.0.into()],
            Place::Vtep(IpAddr::V4(vtep)) => [4, 0, vtep.to_bits().into()],
            Place::Vtep(IpAddr::V6(vtep)) => [6, (vtep.to_bits() >> 64) as u64, vtep.to_bits() as u64],
        };
        [kind, high, low, self.seen]
    }

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
        fdb.look_up(vni(1), mac(n), now)
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
        let age_after = |seen, asked| {
            fdb.learn(vni(1), mac(1), AT_1, t0 + seen);
            fdb.rows(None, t0 + asked)[0].age
        };
        assert_eq!(age_after(ms(0), ms(400)), Some(ms(400)));
        assert_eq!(age_after(ms(999), ms(999)), Some(ms(999)));
        assert_eq!(age_after(ms(1000), ms(1000)), Some(ms(0)));
        // A worker whose burst began earlier does not turn it back.
        assert_eq!(age_after(ms(0), ms(1001)), Some(ms(1)));
    }

    #[test]
    fn one_port_cannot_fill_it_and_its_room_comes_back() {
        let (fdb, t0) = (Fdb::new(SMALL), instant());
        (0..10).for_each(|n| fdb.learn(vni(1), mac(n), AT_1, t0));
        assert_eq!(fdb.len(), 3, "per port");
        (10..20).for_each(|n| fdb.learn(vni(1), mac(n), AT_2, t0));
        assert_eq!(fdb.len(), 4, "in all");
        assert_eq!(fdb.stats().refused, 7 + 9);

        let place_after = |n, place| {
            fdb.learn(vni(1), mac(n), place, t0);
            place_of(&fdb, n, t0)
        };
        assert_eq!(place_after(10, AT_1), Some(AT_2), "a move without room");
        assert_eq!(place_after(0, AT_2), Some(AT_2), "a move");
        assert_eq!(place_after(10, AT_1), Some(AT_1), "which made room");
        assert_eq!(fdb.stats().moved, 2);

        assert_eq!((fdb.forget_port(P1), fdb.flush(None), fdb.len()), (3, 1, 0));
        assert!(fdb.entries.lock().held.is_empty());
        assert_eq!(place_after(0, AT_1), Some(AT_1));
    }

    #[test]
    fn static_entries_stay() {
        let (fdb, t0) = (Fdb::new(SMALL), instant());
        (1..=3).for_each(|n| fdb.learn(vni(1), mac(n), AT_1, t0));
        assert_eq!(fdb.add_static(vni(1), mac(1), P2), Ok(()));
        fdb.learn(vni(1), mac(4), AT_1, t0);
        assert_eq!(place_of(&fdb, 4, t0), Some(AT_1), "the learned one gave its room back");
        fdb.learn(vni(1), mac(1), AT_1, t0);
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
        fdb.learn(vni(1), mac(1), AT_1, instant());
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
                            _ => fdb.learn(vni(1), mac(n), Place::Port(PortId(thread)), t0),
                        }
                        assert!(fdb.entries.lock().learned_len <= SMALL.capacity);
                    }
                });
            }
        });
        let book = fdb.entries.lock();
        let learned = book.entries().filter(|(_, value)| !Entry::of(*value).is_static()).count();
        assert_eq!(book.learned_len, learned);
        assert_eq!(book.static_len, book.entries().count() - learned);
        assert_eq!(book.held.values().sum::<usize>(), learned);
        drop(book);
        (0..4).for_each(|port| _ = fdb.forget_port(PortId(port)));
        assert!(fdb.is_empty() && fdb.entries.lock().held.is_empty());
    }

    #[test]
    fn tunnel_endpoints_are_places_like_ports() {
        let (fdb, t0) = (Fdb::new(SMALL), instant());
        let (here, there) = ("10.8.0.2".parse().unwrap(), "10.8.0.3".parse().unwrap());
        (0..4).for_each(|n| fdb.learn(vni(1), mac(n), Place::Vtep(here), t0));
        assert_eq!(fdb.stats().refused, 1, "one host cannot use up the room of the others");
        assert_eq!(place_of(&fdb, 0, t0), Some(Place::Vtep(here)));
        fdb.learn(vni(1), mac(0), Place::Vtep(there), t0);
        fdb.learn(vni(1), mac(1), AT_1, t0);
        assert_eq!(fdb.stats().moved, 2);
        let six = Place::Vtep("fd00::8:3".parse().unwrap());
        fdb.learn(vni(1), mac(4), six, t0);
        assert_eq!(place_of(&fdb, 4, t0), Some(six));
        assert_eq!((fdb.forget_vtep(here), fdb.forget_vtep(there), fdb.forget_port(P1)), (1, 1, 1));
    }
}
