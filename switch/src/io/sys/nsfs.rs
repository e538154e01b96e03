//! ioctls on namespace files (ioctl_ns(2), include/uapi/linux/nsfs.h).
#![expect(unsafe_code, reason = "ioctl(2) is variadic")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The `CLONE_NEW*` flag of the kind of namespace behind `fd`; ENOTTY if it is no namespace.
pub fn namespace_type(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: NS_GET_NSTYPE takes no argument; the descriptor is open for the duration of the call.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind) }
}
