//! The network between hosts: UDP sockets that carry what is encapsulated. What that is, is not looked at here.
//!
//! # Theory of operation
//! Packets are received on the VXLAN port by [`Receiver`]s, which share it (SO_REUSEPORT): the kernel gives each flow to
//! one of them, so each worker reads its own and a flow stays in order. They are sent from a small set of other
//! sockets, each bound to a source port of its own between 49152 and 65535; the flow chooses the socket, so that
//! routers and receivers on the way spread flows over links and queues (RFC 7348 section 5) and keep each in order. Any
//! thread may send.
//!
//! Several datagrams of the same length leave by one UDP_SEGMENT send and arrive by one UDP_GRO receipt, where the
//! kernel has these. Where a send is refused because the device cannot do it (EIO, EINVAL), the datagrams are sent by
//! one sendmmsg. If that works, so are the next [`PAUSE_SENDS`] to this endpoint, before it is tried again; if not, it
//! was not for the segmentation.
//!
//! # Packet sizes
//! The Don't Fragment bit is set: tunnel endpoints do not fragment (RFC 7348 section 4.3). A packet that is longer than
//! the path takes is EMSGSIZE. Outer checksums are real; packets without one are
//! accepted (section 4.1).
//!
//! # Bounds
//! Socket buffers of [`BUFFER_BYTES`], of which the kernel grants as much as it may; a full one is EAGAIN on sending,
//! and on receipt a loss that the kernel counts ([`Underlay::overflows`]). A [`Batch`] has [`BATCH_MESSAGES`] slots.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv6V6Only, RcvBuf, RcvBufForce, ReusePort, SndBuf, SndBufForce};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket};

use super::sys::udp::{self, Received};
use crate::frame::Datagrams;

/// Dynamic ports (RFC 6335 section 6).
const SOURCE_PORTS: Range<u16> = 49_152..65_535;

pub const BUFFER_BYTES: usize = 8 << 20;

/// Messages that are received at once.
pub const BATCH_MESSAGES: usize = udp::RECEIVED_MAX;

/// As long as the longest message: the kernel puts at most this much together.
const SLOT_BYTES: usize = 1 << 16;

/// Sends that do without segmentation after it was refused.
pub const PAUSE_SENDS: u32 = 1024;

/// Pauses there are. Endpoints that share one share it, which costs speed and nothing else. A prime number, so that it is
/// no pattern of addresses.
const PAUSES: usize = 251;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayConfig {
    /// The address of this host that tunnels begin and end at.
    pub vtep: IpAddr,
    /// UDP port of all tunnel endpoints.
    pub port: u16,
    /// Sockets to send from, and so source ports.
    pub sockets: NonZeroUsize,
    /// Sockets to receive with: as many as there are workers, of which each reads its share.
    pub receivers: NonZeroUsize,
    /// Send several datagrams at once, where the kernel can.
    pub gso: bool,
    /// Receive several datagrams at once, where the kernel can.
    pub gro: bool,
}

impl UnderlayConfig {
    pub const SOCKETS: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not 0");
    pub const SOCKETS_MAX: usize = 64;
}

/// Open sockets on one address of this host.
#[derive(Debug)]
pub struct Underlay {
    config: UnderlayConfig,
    senders: Box<[OwnedFd]>,
    receivers: Box<[Receiver]>,
    has_gso: bool,
    has_gro: bool,
    /// Sends for which segmentation is not tried, by where they go.
    pauses: [AtomicU32; PAUSES],
}

#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    #[error("at most {max} sockets can send to other hosts", max = UnderlayConfig::SOCKETS_MAX)]
    TooMany,
    #[error(
        "UDP port {port} of {vtep} is in use; stop the other VXLAN device or daemon, or choose another port"
    )]
    InUse { vtep: IpAddr, port: u16 },
    #[error("{0} is not an address of this host; give the one that other hosts reach it by")]
    NotOurs(IpAddr),
    #[error("no UDP source port is left on {0} between 49152 and 65535; end what uses them")]
    NoSourcePort(IpAddr),
    #[error("a UDP socket on {vtep} cannot be set up: {source}")]
    Socket { vtep: IpAddr, source: io::Error },
}

/// What became of datagrams that were to be sent.
#[derive(Debug)]
pub struct Sent {
    /// Of those given, the first this many left.
    pub datagrams: usize,
    /// Why the others did not.
    pub error: Option<io::Error>,
    pub how: How,
}

/// How datagrams left, or should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Several by one send.
    AtOnce,
    OneByOne,
    /// One by one, because the kernel refused to take them at once.
    Refused,
}

impl Underlay {
    /// Opens the sockets, in the network namespace of the calling thread.
    pub fn open(config: UnderlayConfig) -> Result<Underlay, UnderlayError> {
        if config.sockets.get() > UnderlayConfig::SOCKETS_MAX {
            return Err(UnderlayError::TooMany);
        }
        refuse_shared_port(&config)?;
        let receivers = (0..config.receivers.get()).map(|_| open_receiver(&config));
        let (receivers, coalescing): (Vec<Receiver>, Vec<bool>) =
            receivers.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let count = config.sockets.get();
        let senders = (0..count).map(|index| open_sender(&config, index)).collect::<Result<Vec<_>, _>>()?;
        let knows_segments = |fd: &OwnedFd| option(fd.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        Ok(Underlay {
            has_gso: config.gso && senders.iter().all(knows_segments),
            has_gro: coalescing.iter().all(|&coalesces| coalesces),
            config,
            senders: senders.into(),
            receivers: receivers.into(),
            pauses: [const { AtomicU32::new(0) }; PAUSES],
        })
    }

    pub fn config(&self) -> &UnderlayConfig {
        &self.config
    }

    /// Whether several datagrams are sent at once: it was asked for and the kernel knows how.
    pub fn has_gso(&self) -> bool {
        self.has_gso
    }

    /// The same for receipt.
    pub fn has_gro(&self) -> bool {
        self.has_gro
    }

    /// Packets that came while the receivers' buffers were full, since they were opened.
    pub fn overflows(&self) -> u64 {
        // A socket that is open can be asked.
        self.receivers
            .iter()
            .filter_map(|receiver| udp::memory(receiver.0.as_fd()).ok())
            .map(|memory| u64::from(memory.dropped))
            .sum()
    }

    pub fn receivers(&self) -> &[Receiver] {
        &self.receivers
    }

    /// Sends datagrams of one flow to a tunnel endpoint.
    pub fn send(&self, flow: u32, to: IpAddr, datagrams: &Datagrams<'_>) -> Sent {
        let socket = self.senders[flow as usize % self.senders.len()].as_fd();
        let pause = &self.pauses[pause_of(to)];
        let to = SocketAddr::new(to, self.config.port);
        let count = datagrams.count();
        let all_or_none = |result: io::Result<()>, how| {
            let datagrams = if result.is_ok() { count } else { 0 };
            Sent { datagrams, error: result.err(), how }
        };
        if count == 1 {
            return all_or_none(udp::send(socket, to, datagrams.slices(), None), How::OneByOne);
        }
        let mut how = How::OneByOne;
        if self.may_segment(pause) {
            // At most 65,507.
            let segment_bytes = Some(datagrams.bytes_each() as u16);
            let result = udp::send(socket, to, datagrams.slices(), segment_bytes);
            if !result.as_ref().is_err_and(is_refusal) {
                return all_or_none(result, How::AtOnce);
            }
            how = How::Refused;
        }
        let (datagrams, error) = send_one_by_one(socket, to, datagrams);
        if how == How::Refused && error.is_none() {
            pause.store(PAUSE_SENDS, Ordering::Relaxed);
        }
        Sent { datagrams, error, how }
    }

    /// Counts a send while segmentation pauses. Two threads may count one send twice, or not at all, which does not
    /// matter.
    fn may_segment(&self, pause: &AtomicU32) -> bool {
        let sends = pause.load(Ordering::Relaxed);
        if self.has_gso && sends > 0 {
            pause.store(sends - 1, Ordering::Relaxed);
        }
        self.has_gso && sends == 0
    }
}

/// Which of the pauses is this endpoint's.
fn pause_of(to: IpAddr) -> usize {
    let bits: u64 = match to {
        IpAddr::V4(to) => to.to_bits().into(),
        IpAddr::V6(to) => (to.to_bits() >> 64) as u64 ^ to.to_bits() as u64,
    };
    (bits % PAUSES as u64) as usize
}

/// One socket on the VXLAN port.
#[derive(Debug)]
pub struct Receiver(OwnedFd);

impl Receiver {
    /// Fills the batch with what is there, at most `messages`; `WouldBlock` when there is nothing.
    pub fn receive(&self, batch: &mut Batch, messages: usize) -> io::Result<()> {
        batch.count = 0;
        batch.limit = messages.clamp(1, BATCH_MESSAGES);
        let received = &mut batch.received[..batch.limit];
        batch.count = udp::receive(self.0.as_fd(), &mut batch.buffer, SLOT_BYTES, received)?;
        Ok(())
    }

    /// How full the socket's buffer is.
    pub fn fill(&self) -> io::Result<Fill> {
        let memory = udp::memory(self.0.as_fd())?;
        Ok(Fill { bytes: memory.received_bytes, of: memory.buffer_bytes })
    }
}

/// Memory that received packets take in the kernel, and how much they may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fill {
    pub bytes: u32,
    pub of: u32,
}

impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What was received at once.
#[derive(Debug)]
pub struct Batch {
    buffer: Box<[u8]>,
    received: [Received; BATCH_MESSAGES],
    /// How many messages were asked for.
    limit: usize,
    count: usize,
}

impl Default for Batch {
    fn default() -> Batch {
        let buffer = vec![0; BATCH_MESSAGES * SLOT_BYTES].into();
        Batch { buffer, received: [Received::NOTHING; BATCH_MESSAGES], limit: BATCH_MESSAGES, count: 0 }
    }
}

impl Batch {
    /// Where [`Batch::messages`] lie.
    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// As many messages were received as were asked for.
    pub fn is_full(&self) -> bool {
        self.count == self.limit
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn messages(&self) -> impl Iterator<Item = Message> + '_ {
        let received = self.received[..self.count].iter().enumerate();
        received.map(|(slot, message)| Message {
            source: message.source,
            range: slot * SLOT_BYTES..slot * SLOT_BYTES + message.bytes,
            segment_bytes: message.segment_bytes,
        })
    }
}

/// A datagram, or several that the kernel put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub source: IpAddr,
    /// In the batch's buffer.
    pub range: Range<usize>,
    /// Bytes of each datagram but the last. From a kernel on the same machine it may be the size of segments inside of a
    /// single datagram; only who looks into it can tell.
    pub segment_bytes: Option<usize>,
}

impl Message {
    /// Where each datagram lies.
    pub fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Range { start, end } = self.range;
        let step = self.segment_bytes.unwrap_or(end - start).max(1);
        (start..end.max(start + 1)).step_by(step).map(move |at| at..end.min(at + step))
    }
}

/// A device, or a kernel, that does not segment.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL))
}

fn send_one_by_one(
    socket: BorrowedFd<'_>,
    to: SocketAddr,
    datagrams: &Datagrams<'_>,
) -> (usize, Option<io::Error>) {
    let mut sent = 0;
    while sent < datagrams.count() {
        match udp::send_each(socket, to, datagrams.each().skip(sent)) {
            Ok(0) => return (sent, Some(io::ErrorKind::WriteZero.into())),
            Ok(more) => sent += more,
            Err(error) => return (sent, Some(error)),
        }
    }
    (sent, None)
}

/// Sockets that share a port share it with those of another process too, and would take its packets. So nobody else may
/// have it before ours do.
fn refuse_shared_port(config: &UnderlayConfig) -> Result<(), UnderlayError> {
    let probe = new_socket(config)?;
    bind_to(&probe, config.vtep, config.port).map_err(|errno| bind_error(config, errno))
}

fn open_receiver(config: &UnderlayConfig) -> Result<(Receiver, bool), UnderlayError> {
    let failed = |errno: Errno| socket_error(config, errno.into());
    let fd = new_socket(config)?;
    setsockopt(&fd, ReusePort, &true).map_err(failed)?;
    if setsockopt(&fd, RcvBufForce, &BUFFER_BYTES).is_err() {
        setsockopt(&fd, RcvBuf, &BUFFER_BYTES).map_err(failed)?;
    }
    if config.vtep.is_ipv6() {
        option(fd.as_fd(), libc::SOL_UDP, libc::UDP_NO_CHECK6_RX, 1)
            .map_err(|source| socket_error(config, source))?;
    }
    let coalesces = config.gro && option(fd.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
    bind_to(&fd, config.vtep, config.port).map_err(|errno| bind_error(config, errno))?;
    Ok((Receiver(fd), coalesces))
}

fn open_sender(config: &UnderlayConfig, index: usize) -> Result<OwnedFd, UnderlayError> {
    let failed = |errno: Errno| socket_error(config, errno.into());
    let fd = new_socket(config)?;
    if setsockopt(&fd, SndBufForce, &BUFFER_BYTES).is_err() {
        setsockopt(&fd, SndBuf, &BUFFER_BYTES).map_err(failed)?;
    }
    // Nobody reads what is sent to a source port, so the kernel is to keep as little of it as it can.
    setsockopt(&fd, RcvBuf, &0).map_err(failed)?;
    do_not_fragment(&fd, config.vtep).map_err(|source| socket_error(config, source))?;
    // Each socket looks for a port in a range of its own.
    let range = SOURCE_PORTS.len() / config.sockets;
    let first = usize::from(SOURCE_PORTS.start) + index * range;
    for port in first..first + range {
        match bind_to(&fd, config.vtep, port as u16) {
            Ok(()) => return Ok(fd),
            Err(Errno::EADDRINUSE) => {}
            Err(errno) => return Err(bind_error(config, errno)),
        }
    }
    Err(UnderlayError::NoSourcePort(config.vtep))
}

fn new_socket(config: &UnderlayConfig) -> Result<OwnedFd, UnderlayError> {
    let failed = |errno: Errno| socket_error(config, errno.into());
    let family = if config.vtep.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Datagram, flags, None).map_err(failed)?;
    if config.vtep.is_ipv6() {
        setsockopt(&fd, Ipv6V6Only, &true).map_err(failed)?;
    }
    Ok(fd)
}

fn do_not_fragment(fd: &OwnedFd, vtep: IpAddr) -> io::Result<()> {
    if vtep.is_ipv6() {
        option(fd.as_fd(), libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
        option(fd.as_fd(), libc::SOL_IPV6, libc::IPV6_DONTFRAG, 1)
    } else {
        option(fd.as_fd(), libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    }
}

fn option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    udp::set_option(fd, level, name, value)
}

fn bind_to(fd: &OwnedFd, vtep: IpAddr, port: u16) -> nix::Result<()> {
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(vtep, port)))
}

fn bind_error(config: &UnderlayConfig, errno: Errno) -> UnderlayError {
    match errno {
        Errno::EADDRINUSE => UnderlayError::InUse { vtep: config.vtep, port: config.port },
        Errno::EADDRNOTAVAIL => UnderlayError::NotOurs(config.vtep),
        other => socket_error(config, other.into()),
    }
}

fn socket_error(config: &UnderlayConfig, source: io::Error) -> UnderlayError {
    UnderlayError::Socket { vtep: config.vtep, source }
}

#[cfg(test)]
mod tests;
