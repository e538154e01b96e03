//! UDP with several datagrams per call: gathered and segmented sends, batched and coalesced receipts (udp(7), cmsg(3)).
#![expect(unsafe_code, reason = "nix allocates a control buffer for each message that it sends")]

use std::io::{self, IoSlice};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Messages that one call sends at most.
pub const MESSAGES_MAX: usize = 64;

/// Messages that one call receives at most. Room for each is cleared in every call.
pub const RECEIVED_MAX: usize = 16;

/// Where a received message lies and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub source: IpAddr,
    /// Bytes at the beginning of its slot.
    pub bytes: usize,
    /// Bytes of each datagram in it but the last, if the kernel put several together.
    pub segment_bytes: Option<usize>,
}

impl Received {
    pub const NOTHING: Received =
        Received { source: IpAddr::V4(Ipv4Addr::UNSPECIFIED), bytes: 0, segment_bytes: None };
}

/// An address as the kernel takes and gives it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    fn zeroed() -> Name {
        // SAFETY: all fields are integers, for which all zeros is a value.
        unsafe { mem::zeroed() }
    }

    fn new(address: SocketAddr) -> (Name, libc::socklen_t) {
        let mut name = Name::zeroed();
        let port = address.port().to_be();
        let bytes = match address.ip() {
            IpAddr::V4(ip) => {
                name.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: port,
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>()
            }
            IpAddr::V6(ip) => {
                name.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: port,
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    sin6_scope_id: 0,
                };
                size_of::<libc::sockaddr_in6>()
            }
        };
        (name, bytes as libc::socklen_t)
    }

    /// What the kernel wrote, or all zeros if it wrote nothing.
    fn ip(&self) -> IpAddr {
        // SAFETY: every field is plain bytes that were initialised, by us or by the kernel, whichever is read.
        unsafe {
            if i32::from(self.family) == libc::AF_INET6 {
                IpAddr::V6(Ipv6Addr::from(self.v6.sin6_addr.s6_addr))
            } else {
                IpAddr::V4(Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes()))
            }
        }
    }
}

/// Room for one control message with at most eight bytes of data, aligned as cmsg(3) wants it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    data: [u8; 8],
}

impl Control {
    fn zeroed() -> Control {
        // SAFETY: all fields are integers, for which all zeros is a value.
        unsafe { mem::zeroed() }
    }

    fn segment(bytes: u16) -> Control {
        let mut control = Control::zeroed();
        // SAFETY: CMSG_LEN is arithmetic.
        control.header.cmsg_len = unsafe { libc::CMSG_LEN(size_of::<u16>() as u32) } as _;
        control.header.cmsg_level = libc::SOL_UDP;
        control.header.cmsg_type = libc::UDP_SEGMENT;
        control.data[..2].copy_from_slice(&bytes.to_ne_bytes());
        control
    }

    /// The size of the datagrams of a coalesced message. The kernel wrote at most one control message, because only
    /// UDP_GRO is enabled, and it fits.
    fn coalesced(&self, control_bytes: usize) -> Option<usize> {
        let is_there = control_bytes >= size_of::<libc::cmsghdr>() + size_of::<libc::c_int>();
        let is_it = self.header.cmsg_level == libc::SOL_UDP && self.header.cmsg_type == libc::UDP_GRO;
        let size = libc::c_int::from_ne_bytes(*self.data.first_chunk()?);
        usize::try_from(size).ok().filter(|&size| is_there && is_it && size > 0)
    }
}

/// A message header that names nothing.
fn no_header() -> libc::msghdr {
    // SAFETY: integers and pointers, for which all zeros is a value.
    unsafe { mem::zeroed() }
}

pub fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `bytes` bytes at the pointer, which is a C int that outlives the call.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What the kernel says about a socket's memory (SO_MEMINFO).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Taken by packets that were received and not read.
    pub received_bytes: u32,
    /// What these may take.
    pub buffer_bytes: u32,
    /// Packets for which there was no room.
    pub dropped: u32,
}

/// `SK_MEMINFO_RMEM_ALLOC`, `_RCVBUF` and `_DROPS` of include/uapi/linux/sock_diag.h.
pub fn memory(fd: BorrowedFd<'_>) -> io::Result<Memory> {
    const RECEIVED: usize = 0;
    const BUFFER: usize = 1;
    const DROPS: usize = 8;
    let mut values = [0u32; DROPS + 1];
    let mut bytes = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes at the pointer, which is an array of that size that outlives the
    // call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Memory { received_bytes: values[RECEIVED], buffer_bytes: values[BUFFER], dropped: values[DROPS] })
}

/// Sends what is gathered from the slices, as one datagram or cut into datagrams of `segment_bytes`. Does not wait.
pub fn send(
    fd: BorrowedFd<'_>,
    to: SocketAddr,
    slices: &[IoSlice<'_>],
    segment_bytes: Option<u16>,
) -> io::Result<()> {
    let (mut name, name_bytes) = Name::new(to);
    let mut control = Control::segment(segment_bytes.unwrap_or(0));
    let mut header = no_header();
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = name_bytes;
    // An `IoSlice` is an iovec on Unix, as its documentation guarantees.
    header.msg_iov = slices.as_ptr().cast_mut().cast();
    header.msg_iovlen = slices.len() as _;
    if segment_bytes.is_some() {
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = size_of::<Control>() as _;
    }
    // SAFETY: the header's pointers are to a name, to iovecs whose bytes are borrowed, and to a control message, with
    // their lengths; all outlive the call, which only reads them.
    let result = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, SEND_FLAGS) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// Sends each item as one datagram, at most [`MESSAGES_MAX`] of them. Returns how many were sent: fewer than were given
/// after an error, which is returned only if none was. Does not wait.
pub fn send_each<'a>(
    fd: BorrowedFd<'_>,
    to: SocketAddr,
    datagrams: impl Iterator<Item = &'a [IoSlice<'a>]>,
) -> io::Result<usize> {
    let (mut name, name_bytes) = Name::new(to);
    let mut messages = [libc::mmsghdr { msg_hdr: no_header(), msg_len: 0 }; MESSAGES_MAX];
    let mut count = 0;
    for (message, slices) in messages.iter_mut().zip(datagrams) {
        message.msg_hdr.msg_name = (&raw mut name).cast();
        message.msg_hdr.msg_namelen = name_bytes;
        message.msg_hdr.msg_iov = slices.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_iovlen = slices.len() as _;
        count += 1;
    }
    // SAFETY: the first `count` headers point to one name and to iovecs whose bytes are borrowed, with their lengths;
    // all outlive the call, which writes nothing but `msg_len`.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, SEND_FLAGS as _) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Receives what is there, one message into each slot of `slot_bytes`, at most [`RECEIVED_MAX`], until either the slots or
/// the places in `received` are used up. Does not wait; a message longer than its slot is cut.
pub fn receive(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    slot_bytes: usize,
    received: &mut [Received],
) -> io::Result<usize> {
    let mut names = [Name::zeroed(); RECEIVED_MAX];
    let mut controls = [Control::zeroed(); RECEIVED_MAX];
    let mut slices = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; RECEIVED_MAX];
    let mut messages = [libc::mmsghdr { msg_hdr: no_header(), msg_len: 0 }; RECEIVED_MAX];
    let slots = buffer.chunks_exact_mut(slot_bytes.max(1)).take(received.len());
    let mut count = 0;
    for (((slot, slice), (name, control)), message) in
        slots.zip(&mut slices).zip(names.iter_mut().zip(&mut controls)).zip(&mut messages)
    {
        *slice = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
        message.msg_hdr.msg_name = ptr::from_mut(name).cast();
        message.msg_hdr.msg_namelen = size_of::<Name>() as libc::socklen_t;
        message.msg_hdr.msg_iov = slice;
        message.msg_hdr.msg_iovlen = 1;
        message.msg_hdr.msg_control = ptr::from_mut(control).cast();
        message.msg_hdr.msg_controllen = size_of::<Control>() as _;
        count += 1;
    }
    let flags = libc::MSG_DONTWAIT as _;
    // SAFETY: each of the first `count` headers points to a name, an iovec over a slot of its own, and a control buffer
    // of its own, with their lengths; all outlive the call and nothing else borrows them.
    let got = unsafe { libc::recvmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, flags, ptr::null_mut()) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    let got = got as usize;
    for (i, place) in received.iter_mut().enumerate().take(got) {
        *place = Received {
            source: names[i].ip(),
            bytes: (messages[i].msg_len as usize).min(slot_bytes),
            segment_bytes: controls[i].coalesced(messages[i].msg_hdr.msg_controllen),
        };
    }
    Ok(got)
}
