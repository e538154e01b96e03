//! How near to each other the processors are, as the hypervisor has placed them.
//!
//! A frame passes from processor to processor with the sender, the switch and the receiver. When a hypervisor moves virtual
//! processors to cores that share no cache, a line of memory takes several times as long from one to the other, and every
//! switch moves about half of what it moved before, for minutes or for seconds. So this is looked at before and after each
//! sample. A sample that began while the processors were near and ended while they were apart is taken again, whatever its
//! value is; one that waited for them in vain is kept, and counted.
//!
//! On a machine of its own the figure hardly changes, and nothing is taken again.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::progress::Progress;
use crate::results::{Apart, Samples};
use crate::stop;

/// Neighbouring pairs of processors that are looked at.
const PAIRS_MAX: usize = 8;
/// Passes of a line to and fro, of which the fastest batch counts: others may have a processor now and then.
const PASSES: u32 = 128;
/// For how long: a processor that slept needs some of it to be as fast as it can.
const LOOK: Duration = Duration::from_millis(20);
/// For two threads that both have to run.
const PATIENCE: Duration = Duration::from_millis(200);
/// The end of the passes.
const END: u32 = u32::MAX;

/// Apart is what takes this many times as long as the nearest that was seen. What was seen was 13 to 36 ns, and 150 to 190.
const APART: f64 = 4.0;
/// How often a sample is taken again.
const RETAKES: usize = 2;
/// For how long a sample waits for processors that are apart, and all samples of a run together.
const WAIT_MAX: Duration = Duration::from_secs(10);
const WAITS_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Nanoseconds for a line of memory from one processor to another; `None` where that cannot be said.
type Probe = Box<dyn FnMut() -> Option<f64>>;

/// The samples of a run, and the processors that they are taken on.
pub struct Taking {
    pub samples: Samples,
    probe: Probe,
    nearest_ns: f64,
    farthest_ns: f64,
    retaken: u32,
    /// For each sample that was kept.
    kept_ns: Vec<f64>,
    waited: Duration,
}

impl Taking {
    pub fn new() -> Taking {
        let cpus = cpus();
        Taking::with(Box::new(move || farthest(&cpus)))
    }

    fn with(probe: Probe) -> Taking {
        Taking {
            samples: Samples::default(),
            probe,
            nearest_ns: f64::INFINITY,
            farthest_ns: 0.0,
            retaken: 0,
            kept_ns: Vec::new(),
            waited: Duration::ZERO,
        }
    }

    /// What was seen, judged by all of it.
    pub fn apart(&self) -> Apart {
        if self.nearest_ns.is_infinite() {
            return Apart::default();
        }
        let kept = self.kept_ns.iter().filter(|&&ns| self.is_apart(ns)).count() as u32;
        Apart { near_ns: self.nearest_ns, far_ns: self.farthest_ns, retaken: self.retaken, kept }
    }

    /// Takes samples while the processors are near each other, if that can be had.
    pub fn take(
        &mut self,
        progress: &Progress,
        mut take: impl FnMut(&mut Samples) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut retakes = 0;
        loop {
            let before = self.wait()?;
            let mut taken = Samples::default();
            take(&mut taken)?;
            let after = self.look();
            if !self.is_apart(before) && self.is_apart(after) && retakes < RETAKES {
                retakes += 1;
                self.retaken += 1;
                progress.say("the hypervisor has moved the processors apart; once more");
                continue;
            }
            self.kept_ns.push(before.max(after));
            self.samples.append(taken);
            return Ok(());
        }
    }

    /// Until they are near, or that takes too long.
    fn wait(&mut self) -> anyhow::Result<f64> {
        let begin = Instant::now();
        let mut seen = self.look();
        while self.is_apart(seen) && begin.elapsed() < WAIT_MAX && self.waited + begin.elapsed() < WAITS_MAX {
            stop::sleep(LOOK_AGAIN)?;
            seen = self.look();
        }
        self.waited += begin.elapsed();
        Ok(seen)
    }

    /// What cannot be seen is as near as anything.
    fn look(&mut self) -> f64 {
        let Some(ns) = (self.probe)() else { return 0.0 };
        self.nearest_ns = self.nearest_ns.min(ns);
        self.farthest_ns = self.farthest_ns.max(ns);
        ns
    }

    fn is_apart(&self, ns: f64) -> bool {
        ns > self.nearest_ns * APART
    }
}

/// Those that this process may run on.
fn cpus() -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true));
    cpus.take(PAIRS_MAX + 1).collect()
}

/// Of the pairs of neighbours, the one that is farthest apart.
fn farthest(cpus: &[usize]) -> Option<f64> {
    let pairs: Option<Vec<f64>> = cpus.windows(2).map(|pair| pass_ns(pair[0], pair[1])).collect();
    pairs?.into_iter().reduce(f64::max)
}

/// Nanoseconds that a line of memory takes from one processor to another.
fn pass_ns(one: usize, other: usize) -> Option<f64> {
    let line = AtomicU32::new(0);
    let patience = Instant::now() + PATIENCE;
    thread::scope(|scope| {
        scope.spawn(|| {
            if bind(other).is_ok() {
                answer(&line, patience);
            }
        });
        let fastest = scope.spawn(|| {
            let fastest = bind(one).ok().and_then(|()| ask(&line, patience));
            line.store(END, Ordering::Release);
            fastest
        });
        let fastest = fastest.join().expect("it does not panic")?;
        Some(fastest.as_secs_f64() * 1e9 / f64::from(PASSES * 2))
    })
}

/// Writes odd numbers, each when the even one before it is there. The time of the fastest batch.
fn ask(line: &AtomicU32, patience: Instant) -> Option<Duration> {
    let end = Instant::now() + LOOK;
    let (mut number, mut fastest) = (1, Duration::MAX);
    while Instant::now() < end {
        let begin = Instant::now();
        for _ in 0..PASSES {
            line.store(number, Ordering::Release);
            see(line, patience, |seen| seen == number + 1)?;
            number += 2;
        }
        fastest = fastest.min(begin.elapsed());
    }
    Some(fastest)
}

fn answer(line: &AtomicU32, patience: Instant) {
    while let Some(number) = see(line, patience, |seen| seen % 2 == 1)
        && number != END
    {
        // The end may come in between, and stays.
        let _ = line.compare_exchange(number, number + 1, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Waits for a number; not for ever.
fn see(line: &AtomicU32, patience: Instant, is_it: impl Fn(u32) -> bool) -> Option<u32> {
    let mut spins = 0u32;
    loop {
        let number = line.load(Ordering::Acquire);
        if is_it(number) {
            return Some(number);
        }
        spin_loop();
        spins = spins.wrapping_add(1);
        if spins.is_multiple_of(1024) && Instant::now() > patience {
            return None;
        }
    }
}

/// Has the calling thread run on one processor.
fn bind(cpu: usize) -> nix::Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run whose looks at the processors see this, and then what was seen last; and how often one sample is taken.
    fn taken(seen: &'static [f64]) -> (Taking, usize) {
        let mut looks = seen.iter();
        let mut last = seen[0];
        let mut taking = Taking::with(Box::new(move || {
            last = looks.next().copied().unwrap_or(last);
            Some(last)
        }));
        taking.waited = WAITS_MAX;
        let mut times = 0;
        let take = |_: &mut Samples| {
            times += 1;
            Ok(())
        };
        taking.take(&Progress::new(1), take).unwrap();
        (taking, times)
    }

    #[test]
    fn a_line_takes_some_time_between_processors() {
        // On a busy machine it may not be seen.
        if let Some(ns) = farthest(&cpus()) {
            assert!(ns > 1.0, "{ns} ns");
        }
        assert_eq!(farthest(&[0]), None);
    }

    #[test]
    fn what_ends_apart_is_taken_again_but_not_for_ever() {
        let (taking, times) = taken(&[30.0, 160.0, 31.0, 35.0]);
        assert_eq!((times, taking.apart()), (2, Apart { near_ns: 30.0, far_ns: 160.0, retaken: 1, kept: 0 }));
        let (taking, times) = taken(&[30.0, 160.0, 31.0, 160.0, 30.0, 160.0]);
        assert_eq!((times, taking.apart().retaken, taking.apart().kept), (3, 2, 1));
    }

    #[test]
    fn what_begins_apart_is_kept_and_counted() {
        let (mut taking, times) = taken(&[160.0, 160.0, 30.0, 30.0]);
        assert_eq!((times, taking.apart().kept), (1, 0), "nobody has seen them nearer");
        taking.take(&Progress::new(1), |_| Ok(())).unwrap();
        assert_eq!(taking.apart(), Apart { near_ns: 30.0, far_ns: 160.0, retaken: 0, kept: 1 });
        // After 60 s of waiting nobody waits any more.
        let (taking, times) = taken(&[30.0, 160.0, 160.0, 30.0]);
        assert_eq!((times, taking.apart().retaken, taking.apart().kept), (2, 1, 1));
    }

    #[test]
    fn where_nothing_is_seen_nothing_is_said() {
        let mut taking = Taking::with(Box::new(|| None));
        taking.take(&Progress::new(1), |_| Ok(())).unwrap();
        assert_eq!(taking.apart(), Apart::default());
    }
}
