//! The forwarding database, an open-addressing table of atomics, beside dashmap and papaya in its place, each with and
//! without a small cache per worker.
//!
//! One operation is what a worker asks of the table for one frame: whether the source is where it was, and where the
//! destination is. Every 512th source is written anew, which is what a time that is refreshed once per second comes to
//! at half a million frames per second and a thousand addresses.
//!
//! Addresses come in turn, in an order that no prefetcher guesses (a worst case: nothing is ever asked for twice in a
//! row), or in bursts of 32 frames of one pair (what TCP does).
//!
//! Each of N threads does the operations of an iteration; the time is that of the slowest. On a machine with at least
//! N cores a table that scales takes the same time for all N. With fewer cores threads take turns: twice as many
//! threads as cores take twice the time at best, and what they show is whether a thread that is interrupted while it
//! holds something holds up the others.
//!
//! Run it with `cargo bench -p vswitch-perf --bench table`.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};

use candidates::{Cached, Dash, DashFolded, Database, Papaya, PapayaFolded, Table};

mod candidates;

const ADDRESSES: [u32; 3] = [1, 1000, 100_000];
const THREADS: [usize; 4] = [1, 2, 3, 4];
const REFRESH_EVERY: u32 = 512;
const BURST: u32 = 32;

/// In which order addresses come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    InTurn,
    Bursts,
}

/// A network's number in the upper bits would only be another constant: the address is the key.
fn key(number: u32) -> candidates::Key {
    let [a, b, c, d] = number.to_be_bytes();
    candidates::Key { vni: 7, mac: [0x06, 0, a, b, c, d] }
}

fn order(addresses: u32, pattern: Pattern) -> Vec<candidates::Key> {
    /// A prime that divides no count used here.
    const STEP: u64 = 48_271;
    let in_turn = (0..u64::from(addresses)).map(|at| key((at * STEP % u64::from(addresses)) as u32));
    match pattern {
        Pattern::InTurn => in_turn.collect(),
        Pattern::Bursts => in_turn.flat_map(|key| std::iter::repeat_n(key, BURST as usize)).collect(),
    }
}

/// What one worker does with `frames` frames. Workers begin at different addresses.
fn work<T: Table>(table: &mut T, order: &[candidates::Key], from: usize, frames: u64) -> u64 {
    let (mut at, mut until_refresh, mut found) = (from % order.len(), REFRESH_EVERY, 0);
    for _ in 0..frames {
        let destination = order[at];
        at = if at + 1 == order.len() { 0 } else { at + 1 };
        let source = order[at];
        until_refresh -= 1;
        let refresh = until_refresh == 0;
        if refresh {
            until_refresh = REFRESH_EVERY;
        }
        found += u64::from(table.learn(source, refresh).unwrap_or(0));
        found += u64::from(table.look_up(destination).unwrap_or(0));
    }
    found
}

/// The time in which `threads` workers do their frames, from when all are ready.
fn all_workers<T: Table>(workers: &mut [T], order: &[candidates::Key], frames: u64) -> Duration {
    let barrier = Barrier::new(workers.len());
    let stride = order.len() / workers.len() + 1;
    thread::scope(|scope| {
        let handles: Vec<_> = workers
            .iter_mut()
            .enumerate()
            .map(|(index, table)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    let found = work(table, order, index * stride, frames);
                    assert!(found > 0, "the addresses are in the table");
                    start.elapsed()
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("a worker ends")).max().unwrap_or_default()
    })
}

fn measure<T: Table>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    make: impl Fn() -> T,
    pattern: Pattern,
) {
    for addresses in ADDRESSES {
        let table = make();
        (0..addresses).map(key).for_each(|key| table.insert(key, key.port()));
        let order = order(addresses, pattern);
        for threads in THREADS {
            let bare: Vec<T> = (0..threads).map(|_| table.share()).collect();
            let id = |kind: &str| BenchmarkId::new(format!("{name}{kind}/{addresses}"), threads);
            let mut workers = bare;
            group.bench_function(id(""), |bencher| {
                bencher.iter_custom(|frames| all_workers(&mut workers, &order, frames));
            });
            let mut workers: Vec<Cached<T>> = (0..threads).map(|_| Cached::new(table.share())).collect();
            group.bench_function(id(" + cache"), |bencher| {
                bencher.iter_custom(|frames| all_workers(&mut workers, &order, frames));
            });
        }
    }
}

fn tables(criterion: &mut Criterion) {
    for (title, pattern) in [("in turn", Pattern::InTurn), ("bursts", Pattern::Bursts)] {
        let mut group = criterion.benchmark_group(title);
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
        group.sample_size(10);
        measure(&mut group, "dashmap", Dash::new, pattern);
        measure(&mut group, "papaya", Papaya::new, pattern);
        measure(&mut group, "dashmap, folded hash", DashFolded::new, pattern);
        measure(&mut group, "papaya, folded hash", PapayaFolded::new, pattern);
        measure(&mut group, "fdb", || Database::new(Instant::now()), pattern);
        group.finish();
    }
}

criterion_group!(benches, tables);
criterion_main!(benches);
