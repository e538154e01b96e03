//! IPv6 settings of an interface, for which there is no netlink message.
//!
//! What Docker sets: an interface without an IPv6 address has no IPv6 at all, so that it does not join multicast groups
//! or get addresses from whoever offers some. Beyond that, no interface accepts router advertisements: its addresses
//! and routes are allotted.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// Sets up an interface of the calling thread's network namespace, which should be down. Without IPv6 in the kernel there
/// is nothing to do; where settings cannot be written, as below a read-only /proc/sys, the log says so.
pub(super) fn set_up(interface: &str, has_addresses: bool) {
    let (key, value) = if has_addresses { ("accept_ra", "0") } else { ("disable_ipv6", "1") };
    let path = Path::new("/proc/sys/net/ipv6/conf").join(interface).join(key);
    match write(&path, value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "an interface keeps its IPv6 setting {key}; it should be {value}");
        }
        _ => {}
    }
}

/// Unlike `std::fs::write`, it makes no file.
fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}
