//! The limit of this process on open descriptors.
//!
//! A service manager starts processes with a soft limit of 1024, for programs that still use select(2); the hard limit
//! is what it grants. [`raise_descriptors`] takes what is granted. A process that runs somebody else's program gives
//! that program the soft limit it would have had otherwise ([`restore_descriptors`]).

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Highest soft limit that is asked for: tables of descriptors take kernel memory.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// The soft limit of programs that this process runs for others.
static INHERITED: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit to the hard limit and returns the new soft limit. `inherited` is the limit that
/// [`restore_descriptors`] and [`inherited_descriptors`] use, the present soft limit when absent.
pub fn raise_descriptors(inherited: Option<u64>) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    INHERITED.get_or_init(|| inherited.unwrap_or(soft));
    let wanted = hard.min(DESCRIPTORS_MAX);
    // A refused raise leaves the limit as it is.
    if wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft }
}

/// The present soft limit; the highest number when the kernel does not tell.
pub fn descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

/// The soft limit before [`raise_descriptors`]; `None` before its first call.
pub fn inherited_descriptors() -> Option<u64> {
    INHERITED.get().copied()
}

/// Sets the soft limit back to what it was before [`raise_descriptors`].
pub fn restore_descriptors() -> io::Result<()> {
    let Some(inherited) = inherited_descriptors() else { return Ok(()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, inherited.min(hard), hard)?)
}
