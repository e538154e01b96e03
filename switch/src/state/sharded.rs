//! An ordered map whose copies share what they have in common.
//!
//! Keys that lie close together are kept in one part behind an [`Arc`]. A copy costs one reference per part, a change
//! after a copy costs one part, and a comparison of two maps skips the parts that they share. With N keys in parts of
//! N / 256, as ids have, all three stay cheap up to the bounds of the states. Keys that somebody chose to lie far
//! apart make small parts, and the map a plain one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, NetworkId, NodeId, RequestId};

pub(super) trait Key: Ord + Copy + Debug {
    type Part: Ord + Copy + Debug;

    /// Does not fall as the key rises, so that the order of the parts continues the order within them.
    fn part(&self) -> Self::Part;
}

macro_rules! key_by_first_byte {
    ($($id:ty),*) => {
        $(impl Key for $id {
            type Part = u8;

            fn part(&self) -> u8 {
                self.0[0]
            }
        })*
    };
}

key_by_first_byte!(NetworkId, ContainerId, EndpointId, RequestId);

/// Node ids, addresses and the MACs that follow from them are handed out one after the other: keys that differ in this
/// many low bits are in a part.
const PART_BITS: u32 = 6;

impl Key for NodeId {
    type Part = u64;

    fn part(&self) -> u64 {
        self.0 >> PART_BITS
    }
}

impl Key for IpAddr {
    type Part = (bool, u128);

    fn part(&self) -> (bool, u128) {
        match self {
            IpAddr::V4(ip) => (false, u128::from(u32::from(*ip) >> PART_BITS)),
            IpAddr::V6(ip) => (true, u128::from(*ip) >> PART_BITS),
        }
    }
}

impl Key for MacAddr {
    type Part = u64;

    fn part(&self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f]) >> PART_BITS
    }
}

/// See the module's documentation. Never holds an empty part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sharded<K: Key, V> {
    parts: BTreeMap<K::Part, Arc<BTreeMap<K, V>>>,
    len: usize,
}

impl<K: Key, V> Default for Sharded<K, V> {
    fn default() -> Sharded<K, V> {
        Sharded::new()
    }
}

impl<K: Key, V> Sharded<K, V> {
    pub(super) const fn new() -> Sharded<K, V> {
        Sharded { parts: BTreeMap::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether both are copies of one map that did not change since. Says no also where they are equal only.
    pub(super) fn is_same(&self, other: &Sharded<K, V>) -> bool {
        let pairs = self.parts.values().zip(other.parts.values());
        self.parts.len() == other.parts.len() && pairs.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.parts.get(&key.part())?.get(key)
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// In the order of the keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.parts.values().flat_map(|part| part.iter())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Key, V: Clone> Sharded<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = Arc::make_mut(self.parts.entry(key.part()).or_default()).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let part = self.parts.get_mut(&key.part()).expect("the part of a key that is there");
        let removed = Arc::make_mut(part).remove(key);
        if part.is_empty() {
            self.parts.remove(&key.part());
        }
        self.len -= usize::from(removed.is_some());
        removed
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.get(key)?;
        Arc::make_mut(self.parts.get_mut(&key.part())?).get_mut(key)
    }
}

/// Something that came, went, or is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a, T> {
    Added(&'a T),
    Removed(&'a T),
    Altered { old: &'a T, new: &'a T },
}

impl<'a, T> Change<'a, T> {
    pub fn before(&self) -> Option<&'a T> {
        match *self {
            Change::Added(_) => None,
            Change::Removed(old) | Change::Altered { old, .. } => Some(old),
        }
    }

    pub fn after(&self) -> Option<&'a T> {
        match *self {
            Change::Added(new) | Change::Altered { new, .. } => Some(new),
            Change::Removed(_) => None,
        }
    }
}

impl<K: Key, T: PartialEq> Sharded<K, Arc<T>> {
    /// What differs from `old`, in the order of the keys.
    pub(super) fn changes<'a>(&'a self, old: &'a Sharded<K, Arc<T>>) -> Vec<Change<'a, T>> {
        let mut found = Vec::new();
        for (before, after) in pairs(&old.parts, &self.parts) {
            match (before, after) {
                (Some(before), Some(after)) if Arc::ptr_eq(before, after) => {}
                (Some(before), Some(after)) => found.extend(pairs(before, after).filter_map(change)),
                (Some(before), None) => {
                    found.extend(before.values().map(|old| Change::Removed(old.as_ref())));
                }
                (None, Some(after)) => found.extend(after.values().map(|new| Change::Added(new.as_ref()))),
                (None, None) => {}
            }
        }
        found
    }
}

type Pair<'a, T> = (Option<&'a T>, Option<&'a T>);

fn change<'a, T: PartialEq>((old, new): Pair<'a, Arc<T>>) -> Option<Change<'a, T>> {
    match (old, new) {
        (Some(old), Some(new)) => {
            (!Arc::ptr_eq(old, new) && old != new).then_some(Change::Altered { old, new })
        }
        (Some(old), None) => Some(Change::Removed(old)),
        (None, Some(new)) => Some(Change::Added(new)),
        (None, None) => None,
    }
}

/// The values of both maps side by side, in the order of the keys.
fn pairs<'a, K: Ord, T>(
    old: &'a BTreeMap<K, T>,
    new: &'a BTreeMap<K, T>,
) -> impl Iterator<Item = Pair<'a, T>> {
    let (mut left, mut right) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return None,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let gone = if order.is_le() { left.next() } else { None };
        let come = if order.is_ge() { right.next() } else { None };
        Some((gone.map(|(_, value)| value), come.map(|(_, value)| value)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(n: u16) -> IpAddr {
        let [a, b] = n.to_be_bytes();
        if n.is_multiple_of(2) {
            IpAddr::from([10, 0, a, b])
        } else {
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_tells_what_changed(
            before in prop::collection::vec((0..400u16, any::<bool>()), 0..200),
            after in prop::collection::vec((0..400u16, any::<bool>()), 0..20),
        ) {
            let (mut sharded, mut plain) = (Sharded::new(), BTreeMap::new());
            let mut take = |sharded: &mut Sharded<IpAddr, Arc<u16>>, steps: &[(u16, bool)]| {
                for (i, (n, keep)) in steps.iter().enumerate() {
                    let (key, value) = (ip(*n), Arc::new(i as u16 % 7));
                    let same = match keep {
                        true => sharded.insert(key, value.clone()) == plain.insert(key, value),
                        false => sharded.remove(&key) == plain.remove(&key),
                    };
                    assert!(same);
                }
                assert!(sharded.iter().eq(plain.iter()), "content and order");
                assert_eq!((sharded.len(), sharded.is_empty()), (plain.len(), plain.is_empty()));
                plain.clone()
            };
            let old_plain = take(&mut sharded, &before);
            let old = sharded.clone();
            let new_plain = take(&mut sharded, &after);
            prop_assert!(old.iter().eq(old_plain.iter()), "the copy is its own");
            let expected: Vec<_> = pairs(&old_plain, &new_plain).filter_map(change).collect();
            prop_assert_eq!(sharded.changes(&old), expected);
            prop_assert!(old.changes(&old.clone()).is_empty());
            prop_assert_eq!(sharded == old, new_plain == old_plain);
            for n in 0..400 {
                prop_assert_eq!(sharded.get_mut(&ip(n)).cloned(), new_plain.get(&ip(n)).cloned());
            }
        }

        #[test]
        fn parts_are_in_the_order_of_their_keys(a in any::<[u8; 6]>(), b in any::<[u8; 6]>()) {
            let (a, b) = (MacAddr(a.min(b)), MacAddr(a.max(b)));
            prop_assert!(a.part() <= b.part());
        }
    }
}
