//! The two things for which there is no safe interface: a TAP, and a socket bound to an interface below IP.
#![expect(unsafe_code, reason = "ioctls of /dev/net/tun and the address of a packet socket")]

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_int, c_uint};

/// Bytes before every frame: `struct virtio_net_hdr_v1`.
pub const VNET_HEADER_BYTES: usize = 12;

const UDP_SEGMENTATION: c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;
const TCP_SEGMENTATION: c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

/// A TAP in the calling thread's network namespace, non-blocking, with virtio-net headers and every offload that the
/// kernel grants. It exists as long as it is open.
pub fn open_tap(name: &str) -> io::Result<File> {
    let tap = File::options().read(true).write(true).open("/dev/net/tun")?;
    set_nonblocking(&tap)?;
    // SAFETY: all-zero bytes are a valid `ifreq`: it is integers, byte arrays and a null pointer.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface name has at most 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives until the call returns.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;

    let header_bytes = VNET_HEADER_BYTES as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives until the call returns.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header_bytes) })?;

    // UDP segmentation came with Linux 6.2.
    set_offload(&tap, TCP_SEGMENTATION | UDP_SEGMENTATION)
        .or_else(|_| set_offload(&tap, TCP_SEGMENTATION))?;
    Ok(tap)
}

fn set_offload(tap: &File, mask: c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) })
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    // SAFETY: F_SETFL takes its argument by value; the flags of a fresh /dev/net/tun are just its access mode.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) })
}

/// A socket that sends whole Ethernet frames out of an interface and receives nothing.
pub fn packet_socket(interface_index: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: `fd` is a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero bytes are a valid `sockaddr_ll`: it is integers and a byte array.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_ifindex = interface_index as c_int;
    let length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is `length` bytes and lives until the call returns.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(socket)
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
