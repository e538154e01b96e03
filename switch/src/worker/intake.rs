//! What a receiver of the underlay may take of a worker's time, and who loses while packets come faster than they can be
//! passed on.
//!
//! # Theory of operation
//! A receiver shares its worker's time with ports like a port (see [`super::share`]); it is asked for as many messages as
//! cost about one share. The kernel's buffer in front of it is one queue for all senders: whatever waits there delays all
//! of them, and when it is full packets of all of them are lost alike. So a receiver whose backlog would take more than
//! [`BACKLOG`] to pass on, or fills most of the buffer, is read faster than that, and what is too much is dropped here, from
//! those who send most ([`DropReason::TunnelShare`](crate::forward::DropReason::TunnelShare)): the packets of each network
//! and tunnel endpoint are weighed, and those above the level that leaves a part of the whole are thinned out to it. The
//! part becomes smaller while the backlog grows. A container that sends little keeps its packets, until the buffer is
//! nearly full: then its address, which anybody might invent, does not count any more.
//!
//! # Bounds
//! Networks, endpoints and containers are told apart by hashes with a key, in two rows of [`SLOTS`] slots each (a count-min
//! sketch): one that sends little is taken for one that sends much only if it shares its slots in both rows with such. The
//! key is chosen anew every [`KEY_LOOKS`] looks at a backlog, so that nobody shares slots for long.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use vswitch_proto::wire::ethernet::Ethernet;
use vswitch_proto::wire::vxlan;

use super::share::{Account, Cost, QUANTUM};
use crate::frame::headers::{Headers, PROTOCOL_TCP};
use crate::io::underlay::{BATCH_MESSAGES, Fill, Message};

const SLOTS: usize = 64;

const WHOLE: u64 = 1 << 16;

/// What may wait in the buffer, in units of cost.
const BACKLOG: u64 = 16 * QUANTUM;

/// At least one of so many parts of what arrives is passed on.
const PARTS_MAX: u64 = 64;

/// About what the kernel keeps of each message besides its bytes.
const MESSAGE_BYTES: u64 = 512;

/// So many times a backlog is looked at with one key: a second of overload or less, as a look comes with each batch.
const KEY_LOOKS: u32 = 4096;

/// One receiver's.
pub(super) struct Intake {
    account: Account,
    /// How many messages cost about one share.
    messages: usize,
    /// One of so many parts of what arrives is passed on: 1 unless there is too much.
    parts: u64,
    /// What waited in the buffer when it was looked at last, in units of cost.
    backlog: u64,
    /// Whether containers that send little are spared.
    spares: bool,
    key: RandomState,
    /// How many looks it is still used for.
    looks: u32,
    origins: Rows,
    senders: Rows,
}

impl Default for Intake {
    fn default() -> Intake {
        Intake {
            account: Account::new(0),
            messages: BATCH_MESSAGES,
            parts: 1,
            backlog: 0,
            spares: true,
            key: RandomState::new(),
            looks: KEY_LOOKS,
            origins: Rows::default(),
            senders: Rows::default(),
        }
    }
}

impl Intake {
    pub(super) fn is_in_debt(&mut self, turn: u64) -> bool {
        self.account.is_in_debt(turn)
    }

    /// How many messages to ask for.
    pub(super) fn messages(&self) -> usize {
        if self.parts == 1 { self.messages } else { BATCH_MESSAGES }
    }

    /// Looks at a batch before any of it is passed on. The messages lie in `buffer`; `fill` is what waits behind them, if
    /// anything does.
    pub(super) fn weigh(
        &mut self,
        messages: impl Iterator<Item = Message>,
        buffer: &[u8],
        fill: Option<Fill>,
    ) {
        let Some(fill) = fill else {
            (self.parts, self.backlog) = (1, 0);
            return;
        };
        if self.looks == 0 {
            self.key = RandomState::new();
            (self.origins, self.senders, self.looks) = (Rows::default(), Rows::default(), KEY_LOOKS);
        }
        self.looks -= 1;
        self.origins.decay();
        self.senders.decay();
        let (mut units, mut kept_bytes) = (0, 0);
        for message in messages {
            let bytes = &buffer[message.range.clone()];
            let (origin, sender) = self.slots(message.source, bytes);
            let weight = weight(message.datagrams().count(), bytes);
            self.origins.add(origin, weight);
            self.senders.add(sender, weight);
            units += weight;
            kept_bytes += bytes.len() as u64 + MESSAGE_BYTES;
        }
        let (bytes, of) = (u64::from(fill.bytes), u64::from(fill.of));
        // Less than 2^32 times less than 2^32.
        let backlog = bytes * units / kept_bytes.max(1);
        self.parts = match () {
            () if backlog <= BACKLOG && 4 * bytes <= 3 * of => 1,
            () if backlog >= self.backlog => (2 * self.parts).min(PARTS_MAX),
            () => self.parts.max(2),
        };
        self.backlog = backlog;
        self.spares = 8 * bytes <= 7 * of;
        self.origins.set_level(self.parts);
        self.senders.set_level(self.parts);
    }

    /// Whether a message is passed on.
    pub(super) fn admits(&mut self, message: &Message, bytes: &[u8]) -> bool {
        if self.parts == 1 {
            return true;
        }
        let (origin, sender) = self.slots(message.source, bytes);
        self.origins.is_light(origin)
            || (self.spares && self.senders.is_light(sender))
            || self.origins.thin_out(origin, weight(message.datagrams().count(), bytes))
    }

    /// Takes what so many messages cost. True if that brings the receiver into debt.
    pub(super) fn charge(&mut self, cost: Cost, messages: usize, turn: u64) -> bool {
        let each = (cost.units / messages.max(1) as u64).max(1);
        self.messages = (QUANTUM / each).clamp(1, BATCH_MESSAGES as u64) as usize;
        self.account.charge(cost, turn)
    }

    /// Those of the network and the tunnel endpoint, and those of the container.
    fn slots(&self, vtep: IpAddr, bytes: &[u8]) -> (Place, Place) {
        let vni = bytes.get(4..7).unwrap_or_default();
        let sender = bytes.get(vxlan::HEADER_BYTES..).and_then(Ethernet::new).map(|inner| inner.source().0);
        let origin = self.key.hash_one((vtep, vni));
        let sender = self.key.hash_one((origin, sender));
        (place(origin), place(sender))
    }
}

/// A slot in each row.
type Place = [usize; ROWS];

const ROWS: usize = 2;

/// Both slots come from independent bits of the hash.
fn place(hash: u64) -> Place {
    [hash as usize % SLOTS, (hash >> 32) as usize % SLOTS]
}

/// How much each has sent, counted in two rows, so that two senders rarely share both of their slots.
#[derive(Debug, Default)]
struct Rows([Slots; ROWS]);

impl Rows {
    fn decay(&mut self) {
        self.0.iter_mut().for_each(Slots::decay);
    }

    fn add(&mut self, place: Place, weight: u64) {
        for (row, slot) in self.0.iter_mut().zip(place) {
            row.arrivals[slot] += weight;
        }
    }

    fn set_level(&mut self, parts: u64) {
        self.0.iter_mut().for_each(|row| row.set_level(parts));
    }

    fn is_light(&self, place: Place) -> bool {
        self.0.iter().zip(place).any(|(row, slot)| row.is_light(slot))
    }

    /// By the row in which less has arrived in the slot: less of it is from others.
    fn thin_out(&mut self, place: Place, weight: u64) -> bool {
        let arrived = |row: usize| self.0[row].arrivals[place[row]];
        let row = usize::from(arrived(1) < arrived(0));
        self.0[row].thin_out(place[row], weight)
    }
}

/// What passing a message on would take, about.
fn weight(datagrams: usize, bytes: &[u8]) -> u64 {
    let inner = bytes.get(vxlan::HEADER_BYTES..).and_then(Headers::parse);
    // TCP is put together; all else is written datagram by datagram.
    let writes = if inner.is_some_and(|inner| inner.protocol == PROTOCOL_TCP) { 1 } else { datagrams };
    (Cost::received(datagrams, bytes.len()).units + Cost::written(0).units * writes as u64).max(1)
}

/// What arrived of late, by who sent it.
#[derive(Debug)]
struct Slots {
    arrivals: [u64; SLOTS],
    /// Who has no more than this is not thinned out: the level that leaves half of all.
    light: u64,
    /// What the others may have.
    level: u64,
    /// What those above the level have left, in parts of which a unit of cost has [`WHOLE`].
    credits: [u64; SLOTS],
}

impl Default for Slots {
    fn default() -> Slots {
        Slots { arrivals: [0; SLOTS], light: u64::MAX, level: u64::MAX, credits: [0; SLOTS] }
    }
}

impl Slots {
    /// Lets go a quarter of what has arrived so far.
    fn decay(&mut self) {
        self.arrivals.iter_mut().for_each(|arrived| *arrived -= *arrived / 4);
    }

    /// Sets the level to where one of `parts` equal parts of all that arrived is left.
    fn set_level(&mut self, parts: u64) {
        let all = self.arrivals.iter().sum::<u64>();
        self.light = level(&self.arrivals, all / 2);
        self.level = level(&self.arrivals, all / parts);
    }

    fn is_light(&self, slot: usize) -> bool {
        self.arrivals[slot] <= self.light
    }

    /// True for as many of the messages of a slot as its level allows.
    fn thin_out(&mut self, slot: usize, weight: u64) -> bool {
        let (credit, arrived) = (&mut self.credits[slot], self.arrivals[slot].max(1));
        let share = u128::from(self.level.min(arrived)) * u128::from(WHOLE) / u128::from(arrived);
        *credit += weight * share as u64;
        let is_passed_on = *credit >= weight * WHOLE;
        if is_passed_on {
            *credit -= weight * WHOLE;
        }
        is_passed_on
    }
}

/// The level to which the largest have to be cut so that the sum is `target` (max-min fairness). No level if it is anyway.
fn level(arrivals: &[u64; SLOTS], target: u64) -> u64 {
    let mut level = 0;
    // Each round but the last finds another one that is below the level.
    for _ in 0..=SLOTS {
        let below: u64 = arrivals.iter().filter(|&&arrived| arrived <= level).sum();
        let above = arrivals.iter().filter(|&&arrived| arrived > level).count() as u64;
        if above == 0 {
            return u64::MAX;
        }
        let next = target.saturating_sub(below) / above;
        if next <= level {
            return level;
        }
        level = next;
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(arrivals: &[u64]) -> Slots {
        let mut slots = Slots::default();
        slots.arrivals[..arrivals.len()].copy_from_slice(arrivals);
        slots
    }

    #[test]
    fn the_largest_are_cut_first() {
        let level = |arrivals: &[u64], target| level(&slots(arrivals).arrivals, target);
        assert_eq!(level(&[], 0), u64::MAX);
        assert_eq!(level(&[1000], 500), 500);
        assert_eq!(level(&[1000, 10], 505), 495);
        assert_eq!(level(&[1000, 1000, 10, 20], 1015), 492);
        assert_eq!(level(&[30, 20, 10], 60), u64::MAX, "it is no more than that");
        let many: Vec<u64> = (1..=SLOTS as u64).collect();
        let sum: u64 = many.iter().sum();
        let level = level(&many, sum / 2);
        let left: u64 = many.iter().map(|&arrived| arrived.min(level)).sum();
        assert!(left <= sum / 2 && left + SLOTS as u64 > sum / 2, "{left} of {sum}");
    }

    #[test]
    fn who_sends_most_is_thinned_out_to_the_level_and_others_are_not() {
        let mut slots = slots(&[64_000, 1000, 0, 2000]);
        slots.set_level(2);
        assert!(!slots.is_light(0) && slots.is_light(1) && slots.is_light(3));
        let passed = (0..6400).filter(|_| slots.thin_out(0, 10)).count();
        let expected = 6400 * slots.level as usize / slots.arrivals[0] as usize;
        assert!(passed.abs_diff(expected) <= 1, "{passed} of 6400, not {expected}");
    }

    #[test]
    fn without_pressure_nothing_is_dropped_and_with_it_the_heavy_lose() {
        // A header of VXLAN, and an Ethernet frame of no known protocol.
        let packet = |vni: u8, sender: u8| {
            [&[8, 0, 0, 0, 0, 0x10, vni, 0][..], &[2; 6], &[2, 0, 0, 0, 0, sender], &[9, 9], &[0; 46]]
                .concat()
        };
        let passes = |fill, heavy: [u8; 3], light: [u8; 3]| {
            let mut intake = Intake::default();
            let mut passed = [0; 2];
            let (mut buffer, mut batch) = (vec![], vec![]);
            for [vtep, vni, sender] in (0..15).map(|_| heavy).chain([light]) {
                let bytes = packet(vni, sender);
                let (source, range) =
                    (IpAddr::from([10, 8, 0, vtep]), buffer.len()..buffer.len() + bytes.len());
                buffer.extend(bytes);
                batch.push(Message { source, range, segment_bytes: None });
            }
            for _ in 0..100 {
                intake.weigh(batch.iter().cloned(), &buffer, Some(Fill { bytes: fill, of: 1000 }));
                // As if the backlog became smaller each time.
                intake.backlog = u64::MAX;
                for (at, message) in batch.iter().enumerate() {
                    passed[at / 15] += u32::from(intake.admits(message, &buffer[message.range.clone()]));
                }
            }
            passed
        };
        assert_eq!(passes(750, [2, 1, 1], [3, 1, 1]), [1500, 100]);
        for light in [[3, 1, 1], [2, 2, 1], [2, 1, 2]] {
            let [heavy, _] = passes(751, [2, 1, 1], light);
            assert!(heavy < 900 && heavy > 500, "{heavy} of 1500");
            // One key in 4,096 has both in the same two slots.
            assert!((0..20).any(|_| passes(751, [2, 1, 1], light)[1] == 100));
        }
        // However little may be passed on, who sends little has it.
        let mut slots = slots(&[1_000_000, 16_000]);
        slots.set_level(PARTS_MAX);
        assert!(slots.is_light(1) && !slots.is_light(0));
        // An address may be invented, so it is not spared when there is no more room.
        assert!((0..20).any(|_| passes(876, [2, 1, 1], [2, 1, 2])[1] < 100));
    }

    #[test]
    fn who_shares_a_slot_in_one_row_with_a_heavy_sender_is_spared() {
        let mut rows = Rows::default();
        for (place, weight) in [([1, 1], 64_000), ([2, 2], 64_000), ([1, 3], 10), ([1, 2], 10)] {
            rows.add(place, weight);
        }
        rows.set_level(PARTS_MAX);
        assert!(rows.is_light([1, 3]) && !rows.is_light([1, 1]) && !rows.is_light([1, 2]));
    }

    /// However long the overload lasts.
    #[test]
    fn the_key_changes_and_nobody_shares_slots_with_a_heavy_sender_for_long() {
        let mut intake = Intake::default();
        let buffer = [8; 90];
        let message = Message { source: IpAddr::from([10, 8, 0, 2]), range: 0..90, segment_bytes: None };
        let mut places: Vec<(Place, Place)> = vec![];
        for _ in 0..3 * KEY_LOOKS {
            let fill = Some(Fill { bytes: 900, of: 1000 });
            intake.weigh(std::iter::once(message.clone()), &buffer, fill);
            places.push(intake.slots(message.source, &buffer));
        }
        places.dedup();
        assert!((2..=3).contains(&places.len()), "{places:?}");
    }

    #[test]
    fn less_is_passed_on_while_the_backlog_grows() {
        let mut intake = Intake::default();
        // 64 datagrams of 90 bytes, each of which is written by itself.
        let buffer = vec![8; 64 * 90];
        let message =
            Message { source: IpAddr::from([10, 8, 0, 2]), range: 0..buffer.len(), segment_bytes: Some(90) };
        let mut weigh = |kib: u32| {
            let fill = Some(Fill { bytes: kib << 10, of: 8 << 20 });
            intake.weigh(std::iter::once(message.clone()), &buffer, fill);
            intake.parts
        };
        // Far from full, and yet more than could be passed on in time.
        assert_eq!([10, 400, 500, 600, 550, 300].map(&mut weigh), [1, 2, 4, 8, 8, 1]);
    }
}
