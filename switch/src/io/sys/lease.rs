//! File leases: `fcntl(2)`, section "Leases".
#![expect(unsafe_code, reason = "fcntl commands that nix lacks")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `F_SETSIG` of `asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

/// Takes a write lease: nobody else has the file open now, and whoever opens it waits until the lease ends.
///
/// `WouldBlock` when somebody has it open. Ends with [`release`] or when the file is closed.
pub fn take_write(file: &File) -> io::Result<()> {
    // The kernel tells the holder of a waiting open with SIGIO, which would end this process; SIGURG is ignored
    // unless somebody handles it.
    control(file, F_SETSIG, libc::SIGURG)?;
    control(file, libc::F_SETLEASE, libc::F_WRLCK)
}

pub fn release(file: &File) -> io::Result<()> {
    control(file, libc::F_SETLEASE, libc::F_UNLCK)
}

fn control(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: both commands take an int by value and access no memory of ours.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
