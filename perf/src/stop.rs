//! Ctrl-C and SIGTERM: the rig notices at its next wait and unwinds, so that everything is torn down on the way out.
//!
//! Both signals are blocked in every thread and awaited by one of their own. Children inherit the mask, so whatever is
//! started goes through `vswitch-perf inside`, which takes it back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// How long a wait may take to notice.
const TICK: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped by a signal; nothing was written")
    }
}

impl std::error::Error for Stopped {}

fn signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// Call it before any other thread is started. A second signal ends the process at once; the kernel then ends the
/// children (see [`crate::lab`]).
pub fn watch() -> anyhow::Result<()> {
    signals().thread_block()?;
    thread::Builder::new().name("signals".into()).spawn(|| {
        while signals().wait().is_ok() {
            if REQUESTED.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        }
    })?;
    Ok(())
}

/// For a process that is about to become something else.
pub fn unblock() -> nix::Result<()> {
    signals().thread_unblock()
}

pub fn check() -> Result<(), Stopped> {
    if REQUESTED.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
}

pub fn sleep(duration: Duration) -> Result<(), Stopped> {
    let end = Instant::now() + duration;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(TICK));
    }
}
