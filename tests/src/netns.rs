//! Sockets inside a network namespace.
//!
//! A socket belongs to the namespace that it was made in, whoever uses it later: it is made by a thread that enters
//! the namespace and ends, and used by the test.

use std::fs::File;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Calls `make` inside the namespace and returns what it made.
///
/// # Panics
/// When the namespace cannot be entered, and when `make` does.
pub fn inside<T: Send>(netns: &Path, make: impl FnOnce() -> T + Send) -> T {
    let file = File::open(netns).unwrap_or_else(|e| panic!("{}: {e}", netns.display()));
    let work = || {
        setns(&file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("{}: {e}", netns.display()));
        make()
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
