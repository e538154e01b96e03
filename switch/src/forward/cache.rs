//! The last answers of the forwarding database, one worker's own.
//!
//! Direct-mapped: an address has one slot, and the newest address in a slot wins. An answer is used only under the
//! generation of the database it was read in, and only as long as it has not aged; so a hit is never older than the
//! last move, removal or static entry (see [`super::fdb`]). Failed look-ups are not kept: those frames are flooded,
//! which costs far more than the look-up.

use std::time::Instant;

use vswitch_proto::id::{MacAddr, Vni};

use super::fdb::{Fdb, Location, Place};

/// Power of two. With 64 bytes each they stay in the second-level cache.
const SLOTS: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Slot {
    vni: Vni,
    mac: MacAddr,
    generation: u64,
    location: Location,
}

#[derive(Debug)]
pub(super) struct Cache {
    slots: Box<[Option<Slot>; SLOTS]>,
}

impl Cache {
    pub(super) fn new() -> Cache {
        Cache { slots: Box::new([None; SLOTS]) }
    }

    /// [`Fdb::learn`], without touching shared memory if the same was learned within the last second.
    pub(super) fn learn(&mut self, fdb: &Fdb, vni: Vni, mac: MacAddr, place: Place, now: Instant) {
        let generation = fdb.generation();
        let slot = &mut self.slots[index(vni, mac)];
        let known = slot.filter(|slot| slot.is(vni, mac, generation));
        if known.is_some_and(|slot| slot.location.confirms(place, now)) {
            return;
        }
        if let Some(location) = fdb.learn(vni, mac, place, now) {
            *slot = Some(Slot { vni, mac, generation, location });
        }
    }

    /// [`Fdb::look_up`], from here if it can be.
    pub(super) fn look_up(&mut self, fdb: &Fdb, vni: Vni, mac: MacAddr, now: Instant) -> Option<Place> {
        let generation = fdb.generation();
        let slot = &mut self.slots[index(vni, mac)];
        let known = slot.filter(|slot| slot.is(vni, mac, generation));
        if let Some(slot) = known.filter(|slot| slot.location.is_current(fdb.config().age, now)) {
            return Some(slot.location.place);
        }
        let location = fdb.look_up(vni, mac, now)?;
        *slot = Some(Slot { vni, mac, generation, location });
        Some(location.place)
    }
}

impl Slot {
    fn is(&self, vni: Vni, mac: MacAddr, generation: u64) -> bool {
        self.mac == mac && self.vni == vni && self.generation == generation
    }
}

/// Multiplicative hashing (Knuth, volume 3, section 6.4). Collisions that somebody provokes cost a look-up each.
fn index(vni: Vni, mac: MacAddr) -> usize {
    let [a, b, c, d, e, f] = mac.0;
    let key = u64::from_be_bytes([0, 0, a, b, c, d, e, f]) ^ u64::from(vni.get()) << 40;
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use vswitch_proto::id::PortId;

    use super::*;
    use crate::forward::fdb::FdbConfig;
    use crate::forward::tests::instant;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    fn vnis() -> impl Iterator<Item = Vni> {
        (1..Vni::MAX).filter_map(Vni::new)
    }

    #[test]
    fn what_shares_a_slot_is_not_mixed_up() {
        let (fdb, mut cache, now) = (Fdb::new(FdbConfig::default()), Cache::new(), instant());
        let one = Vni::new(1).unwrap();
        let same_slot = |vni: &Vni| index(*vni, MAC) == index(one, MAC);
        let other = vnis().skip(1).find(same_slot).unwrap();
        cache.learn(&fdb, one, MAC, Place::Port(PortId(1)), now);
        assert_eq!(cache.look_up(&fdb, other, MAC, now), None);
        cache.learn(&fdb, other, MAC, Place::Port(PortId(2)), now);
        assert_eq!(cache.look_up(&fdb, one, MAC, now), Some(Place::Port(PortId(1))));
        assert_eq!(cache.look_up(&fdb, other, MAC, now), Some(Place::Port(PortId(2))));

        let neighbour = (0..=255u8).map(|n| MacAddr([2, 0, 0, 0, 1, n]));
        let mut neighbours = neighbour.flat_map(|mac| vnis().take(64).map(move |vni| (vni, mac)));
        let (vni, mac) = neighbours.find(|(vni, mac)| index(*vni, *mac) == index(one, MAC)).unwrap();
        cache.learn(&fdb, one, MAC, Place::Port(PortId(1)), now);
        assert_eq!(cache.look_up(&fdb, vni, mac, now), None);
    }

    #[test]
    fn addresses_in_order_use_the_whole_of_it() {
        let mut used = [false; SLOTS];
        let vni = Vni::new(1).unwrap();
        for n in 0..SLOTS as u16 {
            let [a, b] = n.to_be_bytes();
            used[index(vni, MacAddr([2, 0x42, 172, 17, a, b]))] = true;
        }
        // Random indices would use 1 - 1/e of the slots.
        assert!(used.iter().filter(|used| **used).count() > SLOTS * 6 / 10);
    }
}
