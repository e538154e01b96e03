//! ioctls on namespace files (ioctl_ns(2), include/uapi/linux/nsfs.h), and the number of a network namespace.
#![expect(unsafe_code, reason = "ioctl(2) is variadic, and a socket option that nix lacks")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Of `asm-generic/socket.h`.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The `CLONE_NEW*` flag of the kind of namespace behind `fd`; ENOTTY if it is no namespace.
pub fn namespace_type(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: NS_GET_NSTYPE takes no argument; the descriptor is open for the duration of the call.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind) }
}

/// The number of the network namespace that a socket is in, which no other one gets until the host starts again
/// (SO_NETNS_COOKIE, since Linux 5.14); ENOPROTOOPT before.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the integer behind the pointer; both
    // outlive the call, and the descriptor is open for its duration.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
