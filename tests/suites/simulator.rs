//! The cluster under the simulator: many seeds, and bugs that have to be found.
//!
//! `SIM_SEED=n cargo test -p vswitch-tests --test simulator one_seed -- --nocapture` replays a seed and prints what
//! happens. `make soak` goes on for `SECONDS`.

use std::env;
use std::time::{Duration, Instant};

use vswitch_tests::simulator::{Bug, Report, SECOND, Setup, grow, run};

/// Seeds of one test.
const SEEDS: u64 = 24;

fn run_seeds(seeds: impl Iterator<Item = u64>) {
    let mut all = Report::default();
    for (nth, seed) in seeds.enumerate() {
        let report = run(Setup::new(seed)).unwrap_or_else(|violation| panic!("{violation}"));
        println!("seed {seed}: {report:?}");
        all.add(&report);
        if nth as u64 + 1 == SEEDS {
            assert_eq!(all.missing(), [""; 0], "did not happen: {all:?}");
        }
    }
}

#[test]
fn one_seed() {
    let Some(seed) = env::var("SIM_SEED").ok().map(|seed| seed.parse().expect("a number")) else {
        return run_seeds(1..2);
    };
    let report = run(Setup { verbose: true, ..Setup::new(seed) });
    println!("{:?}", report.unwrap_or_else(|violation| panic!("{violation}")));
}

#[test]
fn seeds_a() {
    run_seeds(100..100 + SEEDS);
}

#[test]
fn seeds_b() {
    run_seeds(200..200 + SEEDS);
}

#[test]
fn a_seed_is_replayed_exactly() {
    let setup = Setup { duration: 3 * SECOND, ..Setup::new(7) };
    let runs: Vec<Report> = (0..2).map(|_| run(setup).unwrap_or_else(|v| panic!("{v}"))).collect();
    assert_eq!(runs[0], runs[1]);
    let other = run(Setup { duration: 3 * SECOND, ..Setup::new(8) }).unwrap_or_else(|v| panic!("{v}"));
    assert_ne!(runs[0].trace, other.trace);
}

/// One seed after the other for `SOAK_SECONDS`, or without an end. `SIM_SEED` says where to begin.
#[test]
#[ignore = "minutes: make soak"]
fn soak_simulator() {
    let number = |name| env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let first = number("SIM_SEED").unwrap_or(1_000_000);
    let (start, end) = (Instant::now(), number("SOAK_SECONDS").map(Duration::from_secs));
    run_seeds((first..).take_while(|_| end.is_none_or(|end| start.elapsed() < end)));
}

fn is_found(bug: Bug) {
    let found = (1..=30).find_map(|seed| {
        let setup = Setup { duration: 5 * SECOND, bug: Some(bug), ..Setup::new(seed) };
        run(setup).err()
    });
    let violation = found.expect("a planted bug must be found");
    println!("{bug:?}: {violation}");
}

#[test]
fn an_answer_before_it_is_durable_is_found() {
    is_found(Bug::AnswersBeforePersist);
}

#[test]
fn a_stale_read_is_found() {
    is_found(Bug::StaleReads);
}

#[test]
fn a_retry_applied_twice_is_found() {
    is_found(Bug::AppliesRetries);
}

#[test]
fn a_disk_that_lies_is_found() {
    is_found(Bug::LyingDisks);
}

#[test]
fn a_disk_of_old_is_found() {
    is_found(Bug::OldDisks);
}

#[test]
fn a_machine_that_leaves_something_out_is_found() {
    is_found(Bug::SkipsAnEntry);
}

#[test]
fn a_wiped_node_under_its_old_number_is_found() {
    is_found(Bug::WipedUnderOldNumber);
}

/// What grows with the cluster grows with the number of hosts, not faster, and everybody hears of a change at once.
#[test]
fn a_cluster_grows() {
    let small = grow(8, 20).unwrap_or_else(|error| panic!("{error}"));
    let large = grow(32, 20).unwrap_or_else(|error| panic!("{error}"));
    println!("{small:?}\n{large:?}");
    assert_eq!(large.endpoints, 32 * 20 + 50);
    assert!(large.slowest < SECOND, "simulated time: {large:?}");
    assert!(large.messages_per_change < 5 * small.messages_per_change);
    assert!(large.bytes_per_change < 5 * small.bytes_per_change);
}

#[test]
fn two_hundred_hosts() {
    let small = grow(10, 50).unwrap_or_else(|error| panic!("{error}"));
    let large = grow(200, 50).unwrap_or_else(|error| panic!("{error}"));
    println!("{small:?}\n{large:?}");
    assert_eq!(large.endpoints, 200 * 50 + 50);
    assert!(large.slowest < SECOND, "simulated time: {large:?}");
    assert!(large.messages_per_change < 25 * small.messages_per_change);
    assert!(large.bytes_per_change < 25 * small.bytes_per_change);
}
