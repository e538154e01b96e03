//! Waiting for something to become true.

use std::time::{Duration, Instant};

/// After this a thing is hung, not slow.
pub const DEADLINE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(10);

/// Calls `probe` until it is `Ok` and returns what it found.
///
/// # Panics
/// After [`DEADLINE`], with the last error.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> anyhow::Result<T>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(found) => return found,
            Err(error) if start.elapsed() > DEADLINE => panic!("{what}: still not so: {error:#}"),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
