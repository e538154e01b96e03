//! What was answered to the last requests, so that a retried one is answered the same and applied once.
//!
//! # How many
//! The last [`FULL_MAX`] times `GENERATION` requests at least, and one generation more at most. A full generation goes
//! as a whole when there is one too many.
//!
//! # Why a late retry is not carried out twice
//! A request may come again when its first attempt is forgotten. So in a state that many write, whoever asks says what
//! the state's [`Requests::count`] was before the first attempt. If the request was carried out, then behind that. So
//! one that is not remembered, and was first asked within the last [`Requests::REMEMBERED_MIN`] requests, was not
//! carried out. One that was asked earlier than that nobody can tell, and it is refused.
//!
//! # What it costs
//! A request takes its id and its outcome, in two arrays side by side once its generation is full. Full generations are
//! shared between copies of the state, the one being filled is shared in parts. A search looks at a few ids in each
//! generation: ids are random, and sorted, and an index leads to those with the same first byte.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::ser::SerializeTuple as _;
use serde::{Deserialize, Serialize, Serializer};
use vswitch_proto::id::RequestId;

use super::Rejected;
use super::sharded::Sharded;

const FULL_MAX: usize = 8;

type Outcome<A> = Result<A, Box<Rejected>>;

/// `A` is what an accepted command is answered with, `GENERATION` a number of requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(bound = "A: Clone + Deserialize<'de>", try_from = "Read<A>")]
pub(super) struct Requests<A, const GENERATION: usize> {
    current: Sharded<RequestId, Outcome<A>>,
    full: VecDeque<Arc<Generation<A>>>,
    count: u64,
}

impl<A, const GENERATION: usize> Default for Requests<A, GENERATION> {
    fn default() -> Self {
        Requests::new()
    }
}

impl<A, const GENERATION: usize> Requests<A, GENERATION> {
    pub(super) const REMEMBERED_MIN: u64 = (FULL_MAX * GENERATION) as u64;

    pub(super) const fn new() -> Self {
        Requests { current: Sharded::new(), full: VecDeque::new(), count: 0 }
    }

    /// How many there ever were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Whether a request that was first asked at this count may have been carried out and forgotten.
    pub(super) fn may_be_forgotten(&self, asked_at: u64) -> bool {
        self.count.saturating_sub(asked_at) > Self::REMEMBERED_MIN
    }
}

impl<A: Clone, const GENERATION: usize> Requests<A, GENERATION> {
    pub(super) fn get(&self, id: &RequestId) -> Option<Result<&A, &Rejected>> {
        // Most of those that come again come soon.
        let full = || self.full.iter().rev().find_map(|generation| generation.get(id));
        let found = self.current.get(id).or_else(full)?;
        Some(found.as_ref().map_err(|rejected| &**rejected))
    }

    pub(super) fn contains(&self, id: &RequestId) -> bool {
        self.get(id).is_some()
    }

    pub(super) fn put(&mut self, id: RequestId, outcome: Result<A, Rejected>) {
        self.current.insert(id, outcome.map_err(Box::new));
        self.count += 1;
        if self.current.len() < GENERATION {
            return;
        }
        let current = std::mem::take(&mut self.current);
        let pairs = current.iter().map(|(id, outcome)| (*id, outcome.clone()));
        self.full.push_back(Arc::new(Generation::of(pairs)));
        if self.full.len() > FULL_MAX {
            self.full.pop_front();
        }
    }
}

/// In the order of the ids.
#[derive(Debug, PartialEq, Eq)]
struct Generation<A> {
    ids: Box<[RequestId]>,
    outcomes: Box<[Outcome<A>]>,
    /// Where the ids begin whose first byte is as high as the index, or higher; at last, their end.
    starts: Box<[usize]>,
}

impl<A> Generation<A> {
    /// Of pairs in the order of their ids.
    fn of(pairs: impl Iterator<Item = (RequestId, Outcome<A>)>) -> Generation<A> {
        let (ids, outcomes): (Vec<_>, Vec<_>) = pairs.unzip();
        let start = |first: usize| ids.partition_point(|id: &RequestId| usize::from(id.0[0]) < first);
        let starts = (0..=256).map(start).collect();
        Generation { ids: ids.into(), outcomes: outcomes.into(), starts }
    }

    fn get(&self, id: &RequestId) -> Option<&Outcome<A>> {
        let first = usize::from(id.0[0]);
        let (start, end) = (self.starts[first], self.starts[first + 1]);
        let nth = self.ids[start..end].binary_search(id).ok()?;
        Some(&self.outcomes[start + nth])
    }
}

/// Pairs in the order of their ids.
struct Pairs<'a, A>(&'a [RequestId], &'a [Outcome<A>]);

impl<A: Serialize> Serialize for Pairs<'_, A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().zip(self.1))
    }
}

impl<A: Clone + Serialize, const GENERATION: usize> Serialize for Requests<A, GENERATION> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let full: Vec<Pairs<'_, A>> = self.full.iter().map(|g| Pairs(&g.ids, &g.outcomes)).collect();
        let current: Vec<_> = self.current.iter().collect();
        let mut tuple = serializer.serialize_tuple(3)?;
        tuple.serialize_element(&current)?;
        tuple.serialize_element(&full)?;
        tuple.serialize_element(&self.count)?;
        tuple.end()
    }
}

/// As it is written, not checked yet.
#[derive(Deserialize)]
struct Read<A> {
    current: Vec<(RequestId, Outcome<A>)>,
    full: Vec<Vec<(RequestId, Outcome<A>)>>,
    count: u64,
}

impl<A: Clone, const GENERATION: usize> TryFrom<Read<A>> for Requests<A, GENERATION> {
    type Error = &'static str;

    fn try_from(read: Read<A>) -> Result<Self, &'static str> {
        let Read { current, full, count } = read;
        let rises = |pairs: &[(RequestId, Outcome<A>)]| pairs.is_sorted_by(|(a, _), (b, _)| a < b);
        let is_full = |pairs: &Vec<(RequestId, Outcome<A>)>| pairs.len() == GENERATION && rises(pairs);
        if current.len() >= GENERATION
            || !rises(&current)
            || full.len() > FULL_MAX
            || !full.iter().all(is_full)
        {
            return Err("requests that no state remembers");
        }
        let remembered = current.len() + full.len() * GENERATION;
        if count < remembered as u64 {
            return Err("more requests than there were");
        }
        let mut requests = Requests { count, ..Requests::new() };
        for (id, outcome) in current {
            requests.current.insert(id, outcome);
        }
        requests.full = full.into_iter().map(|pairs| Arc::new(Generation::of(pairs.into_iter()))).collect();
        Ok(requests)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Few = Requests<u32, 4>;

    fn id(first: u8, number: u32) -> RequestId {
        let mut id = [first; 16];
        id[12..].copy_from_slice(&number.to_be_bytes());
        RequestId(id)
    }

    fn refused() -> Result<u32, Rejected> {
        Err(Rejected::IdTaken("x".into()))
    }

    proptest! {
        #[test]
        fn the_last_ones_are_remembered(firsts in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut requests = Few::new();
            let mut all = Vec::new();
            for (number, first) in firsts.into_iter().enumerate() {
                let number = number as u32;
                let outcome = if number.is_multiple_of(3) { refused() } else { Ok(number) };
                requests.put(id(first, number), outcome.clone());
                all.push((id(first, number), outcome));
                prop_assert_eq!(requests.count(), all.len() as u64);
                let certain = all.len().saturating_sub(Few::REMEMBERED_MIN as usize);
                for (id, outcome) in &all[certain..] {
                    prop_assert_eq!(requests.get(id), Some(outcome.as_ref()));
                    prop_assert!(requests.contains(id));
                }
                let gone = all.len().saturating_sub(Few::REMEMBERED_MIN as usize + 4);
                prop_assert!(all[..gone].iter().all(|(id, _)| !requests.contains(id)));
                for (asked_at, (id, _)) in all.iter().enumerate() {
                    prop_assert!(requests.contains(id) || requests.may_be_forgotten(asked_at as u64));
                }
                prop_assert_eq!(requests.get(&self::id(first, u32::MAX)), None);
            }
            let bytes = postcard::to_allocvec(&requests).unwrap();
            let read: Few = postcard::from_bytes(&bytes).unwrap();
            prop_assert_eq!(&read, &requests);
            prop_assert_eq!(postcard::to_allocvec(&read).unwrap(), bytes);
        }
    }

    #[test]
    fn what_no_state_remembers_is_not_read() {
        let full =
            |first: u8| -> Vec<(RequestId, Outcome<u32>)> { (0..4).map(|n| (id(first, n), Ok(n))).collect() };
        let read = |current: Vec<_>, full: Vec<Vec<_>>, count: u64| {
            let bytes = postcard::to_allocvec(&(current, full, count)).unwrap();
            postcard::from_bytes::<Few>(&bytes)
        };
        type Pairs = Vec<(RequestId, Outcome<u32>)>;
        let (none, no_full) = (Pairs::new, Vec::<Pairs>::new);
        assert_eq!(read(none(), vec![full(1)], 4).unwrap().count(), 4);
        assert!(read(none(), vec![full(1)], 3).is_err(), "more than there were");
        assert!(read(full(1), no_full(), 4).is_err(), "a full one that counts as the current");
        assert!(read(none(), vec![full(1)[1..].to_vec()], 9).is_err(), "one that is not full");
        assert!(read(none(), vec![full(1); FULL_MAX + 1], 99).is_err(), "too many");
        assert!(read(full(1)[..2].iter().rev().cloned().collect(), no_full(), 9).is_err(), "out of order");
        assert!(read(vec![full(1)[0].clone(), full(1)[0].clone()], no_full(), 9).is_err(), "twice");
    }
}
