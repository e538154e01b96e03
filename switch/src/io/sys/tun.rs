//! ioctls of `/dev/net/tun` (include/uapi/linux/if_tun.h).
#![expect(unsafe_code, reason = "ioctl(2) is variadic and takes raw pointers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Bytes of an interface name, terminating zero included.
pub const NAME_BYTES: usize = libc::IFNAMSIZ;

/// `_IO('T', 227)`, of include/uapi/linux/if_tun.h.
const TUNGETDEVNETNS: libc::Ioctl = 0x54e3;

/// TUNGETFEATURES: the `IFF_*` flags that this kernel knows.
pub fn features(fd: BorrowedFd<'_>) -> io::Result<libc::c_uint> {
    let mut flags: libc::c_uint = 0;
    // SAFETY: TUNGETFEATURES writes one unsigned int behind the pointer, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETFEATURES, &raw mut flags) })?;
    Ok(flags)
}

/// TUNSETIFF: attaches the descriptor to the device of this name, which is created when there is none.
pub fn set_iff(fd: BorrowedFd<'_>, name: &[u8; NAME_BYTES], flags: libc::c_int) -> io::Result<()> {
    let flags = libc::c_short::try_from(flags).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut request = libc::ifreq {
        ifr_name: name.map(|byte| byte as libc::c_char),
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` behind the pointer, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

/// TUNSETOFFLOAD: which unfinished frames (`TUN_F_*`) the device may hand to us.
pub fn set_offload(fd: BorrowedFd<'_>, mask: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) })
}

/// TUNSETPERSIST: whether the device outlives its last descriptor.
pub fn set_persist(fd: BorrowedFd<'_>, persistent: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(persistent)) })
}

/// TUNSETVNETHDRSZ: bytes of the virtio-net header before each frame.
pub fn set_vnet_hdr_bytes(fd: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int behind the pointer, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) })
}

/// TUNGETDEVNETNS: a descriptor of the network namespace that the device is in.
pub fn device_namespace(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: TUNGETDEVNETNS takes no argument; the descriptor is open for the duration of the call.
    let namespace = unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETDEVNETNS) };
    check(namespace)?;
    // SAFETY: it was just opened for this process, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
