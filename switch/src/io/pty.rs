//! Pseudo-terminals.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use super::sys::pty::open_peer;
pub use super::sys::pty::{set_size, take_control};

/// A new terminal of the devpts instance at /dev/pts: its master and the terminal itself.
pub fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let master: OwnedFd = options.open("/dev/pts/ptmx").or_else(|_| options.open("/dev/ptmx"))?.into();
    let terminal = open_peer(&master)?;
    Ok((master, terminal))
}
