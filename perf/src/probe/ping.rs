//! Round trips: ICMP echoes, one after the other, answered by the kernel of the other namespace.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::stats::quantile;

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const HEADER_BYTES: usize = 8;
/// What `ping` sends by default.
const PAYLOAD_BYTES: usize = 56;
const IPV4_HEADER_BYTES_MIN: usize = 20;

/// An echo is called lost when it is not answered for so long.
const LOST_AFTER: Duration = Duration::from_millis(250);
/// Between two attempts to get the first answer.
const RETRY_MS: u8 = 1;
/// Echoes before the measured ones, for neighbour entries and caches, and how long they may take.
const WARM_UP: u16 = 50;
const WARM_UP_MAX: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, clap::Args)]
pub struct Ping {
    #[arg(long)]
    pub to: Ipv4Addr,
    /// Measure for so long at most.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    #[arg(long, default_value_t = 5000)]
    pub count: usize,
    /// From one echo to the next; 0 to send each as soon as the one before is answered.
    #[arg(long, default_value_t = 0)]
    pub every_ms: u64,
    /// Instead, try until the first answer and say when it came.
    #[arg(long)]
    pub first: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pinged {
    pub answered: usize,
    pub lost: usize,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FirstAnswer {
    /// On the clock of [`monotonic_s`], which all processes share.
    pub at_s: f64,
}

/// Seconds of `CLOCK_MONOTONIC`.
pub fn monotonic_s() -> anyhow::Result<f64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() as f64 + now.tv_nsec() as f64 / 1e9)
}

pub fn run(args: &Ping) -> anyhow::Result<()> {
    let mut echo = Echo::new(args.to)?;
    if args.first { super::report(&first(&echo, args)?) } else { super::report(&measure(&mut echo, args)?) }
}

fn first(echo: &Echo, args: &Ping) -> anyhow::Result<FirstAnswer> {
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    while Instant::now() < end {
        // No route yet and no answer yet are both what is waited for. The same echo is repeated, so that a late answer
        // counts however often it was asked for.
        echo.send()?;
        let mut readable = [PollFd::new(echo.socket.as_fd(), PollFlags::POLLIN)];
        let count = poll(&mut readable, PollTimeout::from(RETRY_MS))?;
        if count > 0 && echo.receive(MsgFlags::MSG_DONTWAIT)? == Received::Answer {
            return Ok(FirstAnswer { at_s: monotonic_s()? });
        }
    }
    bail!("{} did not answer", echo.to)
}

fn measure(echo: &mut Echo, args: &Ping) -> anyhow::Result<Pinged> {
    let warm = Instant::now() + WARM_UP_MAX;
    for _ in 0..WARM_UP {
        if Instant::now() < warm {
            echo.round_trip()?;
        }
    }
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    let pace = Duration::from_millis(args.every_ms);
    let mut next = Instant::now();
    let mut trips_us = Vec::with_capacity(args.count);
    let mut lost = 0;
    while trips_us.len() + lost < args.count && Instant::now() < end {
        next += pace;
        match echo.round_trip()? {
            Some(trip) => trips_us.push(trip.as_secs_f64() * 1e6),
            None => lost += 1,
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let mean_us = trips_us.iter().sum::<f64>() / trips_us.len() as f64;
    trips_us.sort_by(f64::total_cmp);
    let (Some(p50_us), Some(p99_us)) = (quantile(&trips_us, 0.5), quantile(&trips_us, 0.99)) else {
        bail!("{} did not answer", args.to);
    };
    Ok(Pinged { answered: trips_us.len(), lost, mean_us, p50_us, p99_us })
}

struct Echo {
    socket: OwnedFd,
    to: Ipv4Addr,
    address: SockaddrIn,
    identifier: u16,
    sequence: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Received {
    /// To the current echo.
    Answer,
    Other,
    Nothing,
}

impl Echo {
    fn new(to: Ipv4Addr) -> anyhow::Result<Echo> {
        let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
            .context("cannot open a raw ICMP socket")?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOST_AFTER.as_millis() as i64))?;
        let address = SockaddrIn::from(SocketAddrV4::new(to, 0));
        Ok(Echo { socket, to, address, identifier: std::process::id() as u16, sequence: 0 })
    }

    /// Sends an echo and waits for its answer. `None` if none came in time or nothing could be sent.
    fn round_trip(&mut self) -> anyhow::Result<Option<Duration>> {
        self.sequence = self.sequence.wrapping_add(1);
        let start = Instant::now();
        if !self.send()? {
            return Ok(None);
        }
        while start.elapsed() < LOST_AFTER {
            match self.receive(MsgFlags::empty())? {
                Received::Answer => return Ok(Some(start.elapsed())),
                Received::Other => {}
                Received::Nothing => break,
            }
        }
        Ok(None)
    }

    /// False if there is no way to send it.
    fn send(&self) -> anyhow::Result<bool> {
        let request = request(self.identifier, self.sequence);
        match sendto(self.socket.as_raw_fd(), &request, &self.address, MsgFlags::empty()) {
            Ok(_) => Ok(true),
            Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENETDOWN | Errno::ENOBUFS) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot ping {}", self.to)),
        }
    }

    fn receive(&self, flags: MsgFlags) -> anyhow::Result<Received> {
        let mut packet = [0; 2048];
        match recv(self.socket.as_raw_fd(), &mut packet, flags) {
            Ok(length) if is_reply(&packet[..length], self.to, self.identifier, self.sequence) => {
                Ok(Received::Answer)
            }
            Ok(_) | Err(Errno::EINTR | Errno::EHOSTUNREACH) => Ok(Received::Other),
            Err(Errno::EAGAIN) => Ok(Received::Nothing),
            Err(error) => Err(error).context("cannot receive ICMP"),
        }
    }
}

/// RFC 792, page 14.
fn request(identifier: u16, sequence: u16) -> [u8; HEADER_BYTES + PAYLOAD_BYTES] {
    let mut packet = [0; HEADER_BYTES + PAYLOAD_BYTES];
    packet[0] = ECHO_REQUEST;
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether an IPv4 packet answers a given echo.
fn is_reply(packet: &[u8], from: Ipv4Addr, identifier: u16, sequence: u16) -> bool {
    let Some(source) = packet.get(12..16) else { return false };
    let header_bytes = usize::from(packet[0] & 0x0f) * 4;
    if header_bytes < IPV4_HEADER_BYTES_MIN || source != from.octets() {
        return false;
    }
    let Some(icmp) = packet.get(header_bytes..header_bytes + HEADER_BYTES) else { return false };
    icmp[0] == ECHO_REPLY && icmp[4..6] == identifier.to_be_bytes() && icmp[6..8] == sequence.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_to_zero() {
        let packet = request(0x1234, 0xfffe);
        assert_eq!(packet[..2], [8, 0]);
        assert_eq!(packet[4..8], [0x12, 0x34, 0xff, 0xfe]);
        assert_eq!(checksum(&packet), 0);
        // RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn only_the_answer_to_this_very_echo_counts() {
        let from = Ipv4Addr::new(10, 0, 0, 2);
        let mut packet = vec![0x45; 1];
        packet.resize(12, 0);
        packet.extend(from.octets());
        packet.resize(20, 0);
        packet.extend([ECHO_REPLY, 0, 0, 0, 0x12, 0x34, 0, 7]);
        assert!(is_reply(&packet, from, 0x1234, 7));
        assert!(!is_reply(&packet, from, 0x1234, 8));
        assert!(!is_reply(&packet, from, 0x1235, 7));
        assert!(!is_reply(&packet, Ipv4Addr::LOCALHOST, 0x1234, 7));
        for cut in 0..packet.len() {
            assert!(!is_reply(&packet[..cut], from, 0x1234, 7));
        }
        packet[0] = 0x4f;
        assert!(!is_reply(&packet, from, 0x1234, 7), "a header longer than the packet");
        packet[20] = ECHO_REQUEST;
        assert!(!is_reply(&packet, from, 0x1234, 7));
    }
}
