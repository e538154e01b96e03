use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::prelude::*;

use super::*;

impl<B> Writing<'_, B> {
    pub(in crate::forward) fn entries(&self) -> impl Iterator<Item = (Key, Value)> {
        self.slots.current().slots.iter().filter_map(Slot::peek)
    }
}

/// The second word has all bits that it may have.
fn key(number: u64) -> Key {
    [number, (1 << 24) - 1]
}

/// Both words are the same, so that a torn one shows.
fn value(number: u64) -> Value {
    [number; 2]
}

fn sorted(slots: &Slots<()>) -> Vec<(Key, Value)> {
    let mut entries: Vec<_> = slots.lock().entries().collect();
    entries.sort_unstable();
    entries
}

#[derive(Debug, Clone)]
enum Change {
    Set(u64, u64),
    Remove(u64),
    /// All whose number leaves this rest.
    RemoveSome(u64),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..400u64, 0..1u64 << VALUE_BITS).prop_map(|(number, new)| Change::Set(number, new)),
        3 => (0..400u64).prop_map(Change::Remove),
        1 => (0..7u64).prop_map(Change::RemoveSome),
    ]
}

proptest! {
    /// Beside the standard library's map, through growth and removals.
    #[test]
    fn it_is_a_map(changes in proptest::collection::vec(change(), 1..1500)) {
        let (slots, mut model) = (Slots::<()>::new(), HashMap::new());
        for change in changes {
            match change {
                Change::Set(number, new) => {
                    slots.lock().set(key(number), value(new));
                    model.insert(key(number), value(new));
                }
                Change::Remove(number) => {
                    let was_there = model.remove(&key(number)).is_some();
                    prop_assert_eq!(slots.lock().remove(key(number)), was_there);
                }
                Change::RemoveSome(rest) => {
                    let before = model.len();
                    model.retain(|key, _| key[0] % 7 != rest);
                    prop_assert_eq!(slots.retain(|(), key, _| key[0] % 7 != rest), before - model.len());
                }
            }
            prop_assert_eq!(slots.lock().guarded.len, model.len());
        }
        let mut expected: Vec<_> = model.iter().map(|(&key, &value)| (key, value)).collect();
        expected.sort_unstable();
        prop_assert_eq!(sorted(&slots), expected);
        for number in 0..400 {
            let expected = model.get(&key(number)).copied();
            prop_assert_eq!(slots.find(key(number)), expected);
            prop_assert_eq!(slots.lock().get(key(number)), expected);
        }
    }
}

/// Entries that cross the end of the table, which a random hash rarely makes: whole clusters are emptied in any order.
#[test]
fn holes_close_across_the_end() {
    let slots = Slots::<()>::new();
    let is_near_the_end = |number: &u64| slots.hash.of(key(*number)) as usize & (FIRST - 1) >= FIRST - 3;
    let numbers: Vec<u64> = (0..).filter(is_near_the_end).take(40).collect();
    for step in [1, 7, 13, 39] {
        numbers.iter().for_each(|&number| slots.lock().set(key(number), value(number)));
        for at in 0..numbers.len() {
            let gone = numbers[at * step % numbers.len()];
            slots.lock().remove(key(gone));
            let left = sorted(&slots);
            assert!(
                left.iter().all(|&(key, value)| slots.find(key) == Some(value)),
                "{left:?} without {gone}"
            );
        }
        slots.lock().retain(|(), _, _| false);
        assert_eq!(sorted(&slots), []);
    }
}

#[test]
fn outgrown_tables_hold_less_than_the_newest() {
    let slots = Slots::<()>::new();
    (0..5000).for_each(|number| slots.lock().set(key(number), value(number)));
    let sizes: Vec<usize> = slots.levels.iter().filter_map(|level| Some(level.get()?.slots.len())).collect();
    assert_eq!(sizes, [256, 512, 1024, 2048, 4096, 8192]);
    let filled = sizes.len();
    for _ in 0..3 {
        assert_eq!(slots.lock().retain(|(), _, _| false), 5000);
        (0..5000).for_each(|number| slots.lock().set(key(number), value(number)));
    }
    assert_eq!(slots.levels.iter().filter(|level| level.get().is_some()).count(), filled, "nothing grew");
}

/// Readers beside a writer that adds and removes around entries which stay: those are always found, with a value
/// that was written in one piece, while the table grows and holes close.
#[test]
fn what_stays_is_found_at_any_time() {
    const STAY: u64 = 60;
    /// Also if the writer fails.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (slots, is_done) = (&Slots::<()>::new(), &AtomicBool::new(false));
    (0..STAY).for_each(|number| slots.lock().set(key(number), value(0)));
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|reader| {
                scope.spawn(move || {
                    let mut asked = reader;
                    while !is_done.load(Ordering::Relaxed) || asked < 1000 {
                        asked += 1;
                        let found = slots.find(key(asked % STAY)).expect("it stays");
                        assert_eq!(found, [found[0]; 2], "in one piece");
                        if let Some(found) = slots.find(key(STAY + asked % 2000)) {
                            assert_eq!(found, value(STAY + asked % 2000), "another's value");
                        }
                    }
                    asked
                })
            })
            .collect();
        let done = Done(is_done);
        for round in 1..=400 {
            let many = if round % 10 == 0 { 2000 } else { 100 };
            (STAY..STAY + many).for_each(|number| slots.lock().set(key(number), value(number)));
            (0..STAY).for_each(|number| slots.lock().set(key(number), value(round)));
            if round % 2 == 0 {
                slots.lock().retain(|(), key, _| key[0] < STAY);
            } else {
                (STAY..STAY + many).rev().for_each(|number| _ = slots.lock().remove(key(number)));
            }
        }
        drop(done);
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() >= 1000));
    });
    assert_eq!(sorted(slots).len(), STAY as usize);
}

/// Others remove, add and make the table grow between the parts.
#[test]
fn nothing_unwanted_is_passed_over() {
    const OTHERS: u64 = 20_000;
    let is_unwanted = |number: u64| number.is_multiple_of(7);
    let (slots, is_done) = (&Slots::<()>::new(), &AtomicBool::new(false));
    (0..OTHERS).for_each(|number| slots.lock().set(key(number), value(number)));
    thread::scope(|scope| {
        scope.spawn(move || {
            let steps =
                (0..2u64).cycle().flat_map(|round| (0..4 * OTHERS).map(move |number| (round, number)));
            let steps = steps.filter(|&(_, number)| !is_unwanted(number));
            for (round, number) in steps.take_while(|_| !is_done.load(Ordering::Relaxed)) {
                if round == 0 {
                    slots.lock().set(key(number), value(number));
                } else {
                    slots.lock().remove(key(number));
                }
            }
        });
        let left = (0..20).map(|_| {
            slots.retain(|(), key, _| !is_unwanted(key[0]));
            let unwanted = (0..OTHERS).step_by(7);
            let left = unwanted.clone().filter(|&number| slots.find(key(number)).is_some()).count();
            unwanted.for_each(|number| slots.lock().set(key(number), value(number)));
            left
        });
        let left: usize = left.sum();
        is_done.store(true, Ordering::Relaxed);
        assert_eq!(left, 0);
    });
}

/// A reader whose writer is at the very slot waits for it, however long it takes.
#[test]
fn a_reader_waits_for_a_writer_that_was_interrupted() {
    let slots = &Slots::<()>::new();
    slots.lock().set(key(7), value(1));
    let level = slots.current();
    let slot = &level.slots[level.place(slots.hash.of(key(7)), key(7))];
    let begun = &Barrier::new(2);
    thread::scope(|scope| {
        let writing = slots.lock();
        slot.version.fetch_add(1, Ordering::Relaxed);
        let reader = scope.spawn(move || {
            begun.wait();
            slots.find(key(7))
        });
        begun.wait();
        // So that the reader, mostly, has given up trying before the writer goes on.
        (0..1000).for_each(|_| thread::yield_now());
        slot.words[1].fetch_add(1, Ordering::Relaxed);
        slot.words[2].store(2, Ordering::Relaxed);
        slot.version.fetch_add(1, Ordering::Release);
        drop(writing);
        assert_eq!(reader.join().unwrap(), Some(value(2)));
    });
}
