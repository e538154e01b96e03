//! How near to each other the processors are, as the hypervisor has placed them.
//!
//! A frame passes from processor to processor with the sender, the switch and the receiver. When a hypervisor moves virtual
//! processors to cores that share no cache, a line of memory takes several times as long from one to the other, and every
//! switch moves about half of what it moved before, for minutes or for seconds. So this is measured before and after each
//! sample, and a sample during which the processors were apart is taken again, as often as [`Taking`] allows.
//!
//! On a machine of its own the figure does not change, and nothing is taken again.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::progress::Progress;
use crate::results::{Apart, Samples};
use crate::stop;

/// Neighbouring pairs of processors that are looked at.
const PAIRS_MAX: usize = 8;
/// Passes of a line to and fro, of which the fastest batch counts: others may have the processor now and then.
const BATCHES: usize = 16;
const PASSES: u32 = 128;
/// For two threads that both have to run.
const PATIENCE: Duration = Duration::from_millis(200);

/// Apart is what takes this many times as long as the nearest that was seen. What was seen was 26 to 36 ns, and 150 to 190.
const APART: f64 = 2.0;
/// How often a sample is taken again.
const RETAKES: usize = 2;
/// For how long a sample waits for processors that are apart, and all samples of a run together.
const WAIT_MAX: Duration = Duration::from_secs(10);
const WAITS_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Watches the processors during a run.
#[derive(Debug)]
struct Closeness {
    cpus: Vec<usize>,
    seen: Apart,
    waited: Duration,
}

impl Closeness {
    fn new() -> anyhow::Result<Closeness> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot see which processors there are")?;
        let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true));
        let mut closeness = Closeness {
            cpus: cpus.take(PAIRS_MAX + 1).collect(),
            seen: Apart::default(),
            waited: Duration::ZERO,
        };
        closeness.are_near()?;
        Ok(closeness)
    }

    /// Until they are near, or that takes too long.
    fn wait(&mut self) -> anyhow::Result<bool> {
        let begin = Instant::now();
        while !self.are_near()? {
            if begin.elapsed() > WAIT_MAX || self.waited + begin.elapsed() > WAITS_MAX {
                self.waited += begin.elapsed();
                return Ok(false);
            }
            stop::sleep(LOOK_AGAIN)?;
        }
        self.waited += begin.elapsed();
        Ok(true)
    }

    fn are_near(&mut self) -> anyhow::Result<bool> {
        let pairs = self.cpus.windows(2).map(|pair| pass_ns(pair[0], pair[1]));
        let farthest = pairs.collect::<anyhow::Result<Vec<f64>>>()?.into_iter().fold(0.0, f64::max);
        if farthest == 0.0 {
            return Ok(true);
        }
        let nearest = if self.seen.near_ns == 0.0 { farthest } else { self.seen.near_ns.min(farthest) };
        self.seen.near_ns = nearest;
        self.seen.far_ns = self.seen.far_ns.max(farthest);
        Ok(farthest <= nearest * APART)
    }
}

/// The samples of a run, and the processors that they are taken on.
#[derive(Debug)]
pub struct Taking {
    pub samples: Samples,
    closeness: Closeness,
}

impl Taking {
    pub fn new() -> anyhow::Result<Taking> {
        Ok(Taking { samples: Samples::default(), closeness: Closeness::new()? })
    }

    pub fn apart(&self) -> Apart {
        self.closeness.seen
    }

    /// Takes samples while the processors are near each other, if that can be had.
    pub fn take(
        &mut self,
        progress: &Progress,
        mut take: impl FnMut(&mut Samples) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut attempt = 0;
        loop {
            let began_near = self.closeness.wait()?;
            let mut taken = Samples::default();
            take(&mut taken)?;
            let is_near = began_near && self.closeness.are_near()?;
            if is_near || attempt == RETAKES {
                self.closeness.seen.kept += u32::from(!is_near);
                self.samples.append(taken);
                return Ok(());
            }
            attempt += 1;
            self.closeness.seen.retaken += 1;
            progress.say("the hypervisor has moved the processors apart; once more");
        }
    }
}

/// Nanoseconds that a line of memory takes from one processor to another.
fn pass_ns(one: usize, other: usize) -> anyhow::Result<f64> {
    let line = AtomicU32::new(0);
    let end = Instant::now() + PATIENCE;
    thread::scope(|scope| {
        let player = scope.spawn(|| {
            bind(other)?;
            for batch in 0..BATCHES {
                // What the other one measures is enough.
                let _ = play(&line, batch, 1, end);
            }
            anyhow::Ok(())
        });
        let fastest = scope.spawn(|| {
            bind(one)?;
            // The first one waits for the other thread to begin.
            let batches = (0..BATCHES).filter_map(|batch| play(&line, batch, 0, end)).skip(1);
            anyhow::Ok(batches.min().unwrap_or_default())
        });
        let fastest = fastest.join().expect("it does not panic")?;
        player.join().expect("it does not panic")?;
        Ok(fastest.as_secs_f64() * 1e9 / f64::from(PASSES * 2))
    })
}

/// One batch for one of two players: each writes the next number when it sees the one before. `None` if that takes too long.
fn play(line: &AtomicU32, batch: usize, player: u32, end: Instant) -> Option<Duration> {
    let begin = Instant::now();
    let first = batch as u32 * PASSES * 2 + player;
    for number in (first..first + PASSES * 2).step_by(2) {
        let mut spins = 0u32;
        while line.load(Ordering::Acquire) != number {
            spin_loop();
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(1024) && Instant::now() > end {
                return None;
            }
        }
        line.store(number + 1, Ordering::Release);
    }
    Some(begin.elapsed())
}

/// Has the calling thread run on one processor.
fn bind(cpu: usize) -> anyhow::Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only).with_context(|| format!("cannot run on processor {cpu}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_takes_some_time_between_processors() {
        let closeness = Closeness::new().unwrap();
        let Apart { near_ns, far_ns, .. } = closeness.seen;
        assert!(near_ns <= far_ns);
        if closeness.cpus.len() > 1 {
            assert!(near_ns > 1.0, "{near_ns} ns");
        }
    }

    #[test]
    fn samples_are_taken_again_but_not_for_ever() {
        let mut taking = Taking::new().unwrap();
        if taking.closeness.cpus.len() < 2 {
            return;
        }
        // Nothing is that near.
        taking.closeness.seen.near_ns = 1e-3;
        taking.closeness.waited = WAITS_MAX;
        let mut times = 0;
        let take = |_: &mut Samples| {
            times += 1;
            Ok(())
        };
        taking.take(&Progress::new(1), take).unwrap();
        assert_eq!(times, 1 + RETAKES);
        let Apart { retaken, kept, .. } = taking.apart();
        assert_eq!((retaken, kept), (RETAKES as u32, 1));
    }
}
