//! A packet generator: as many frames as it can, or a given rate, out of an interface.
//!
//! Frames go through the interface's queue like everybody's. `PACKET_QDISC_BYPASS` would be faster, but on a TAP whose
//! ring is full it makes the kernel return an error for each frame, and the generator would slow itself down to the
//! speed of what it measures.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, setsockopt, socket,
    sockopt,
};
use serde::{Deserialize, Serialize};

use super::frames::{self, Mix};

/// Frames in one system call at most.
const BATCH: usize = 64;

/// At a given rate, batches are this far apart at least, so that they stay short at low rates.
const BATCH_INTERVAL_S: f64 = 50e-6;

/// Frames may wait in the socket; what must not limit the rate is the wait for each to be gone.
const SEND_BUFFER_BYTES: usize = 4 << 20;

#[derive(Debug, Clone, clap::Args)]
pub struct Blast {
    #[arg(long)]
    pub interface: String,
    #[arg(long, value_parser = frames::parse_mac)]
    pub source: [u8; 6],
    #[arg(long, value_parser = frames::parse_mac)]
    pub destination: [u8; 6],
    #[arg(long, value_enum, default_value = "small")]
    pub mix: Mix,
    #[arg(long, default_value_t = 1500)]
    pub mtu: usize,
    /// Send to this many numbered addresses in turn instead of to `destination`.
    #[arg(long)]
    pub destinations: Option<u32>,
    /// Send from this many numbered addresses in turn instead of from `source`.
    #[arg(long)]
    pub sources: Option<u32>,
    /// The first of the numbered addresses.
    #[arg(long, default_value_t = 0)]
    pub number_from: u32,
    /// Frames per second; as many as possible without it.
    #[arg(long)]
    pub rate: Option<f64>,
    #[arg(long)]
    pub seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Blasted {
    /// Frames handed to the kernel, including those it dropped on the way out.
    pub offered: u64,
    pub seconds: f64,
}

pub fn run(args: &Blast) -> anyhow::Result<()> {
    // Protocol 0: nothing is received.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .context("cannot open a packet socket")?;
    bind(socket.as_raw_fd(), &link_address(&args.interface)?)?;
    // The root of a user namespace may not exceed the limit of the system.
    setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER_BYTES)
        .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER_BYTES))?;
    super::report(&send(&socket, &sequence(args), args)?)
}

/// What a packet socket is bound to: the kernel's list of addresses has it ready.
fn link_address(interface: &str) -> anyhow::Result<LinkAddr> {
    let addresses = getifaddrs()?.filter(|entry| entry.interface_name == interface);
    let link =
        addresses.filter_map(|entry| entry.address).find_map(|address| address.as_link_addr().copied());
    link.with_context(|| format!("there is no interface {interface}"))
}

/// At least a batch of frames, to be sent over and over.
fn sequence(args: &Blast) -> Vec<Vec<u8>> {
    let lengths = args.mix.lengths(args.mtu);
    let (destinations, sources) = (args.destinations.unwrap_or(1).max(1), args.sources.unwrap_or(1).max(1));
    let period = lengths.len().max(destinations as usize).max(sources as usize);
    let frames = (0..period.max(BATCH).next_multiple_of(period)).map(|at| {
        let numbered = |count: Option<u32>, single| match count {
            Some(count) => frames::numbered_mac(args.number_from + at as u32 % count.max(1)),
            None => single,
        };
        let destination = numbered(args.destinations, args.destination);
        let source = numbered(args.sources, args.source);
        frames::frame(destination, source, lengths[at % lengths.len()])
    });
    frames.collect()
}

fn send(socket: &OwnedFd, frames: &[Vec<u8>], args: &Blast) -> anyhow::Result<Blasted> {
    let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
    let batch = args.rate.map_or(BATCH, |rate| ((rate * BATCH_INTERVAL_S) as usize).clamp(1, BATCH));
    let mut headers: MultiHeaders<()> = MultiHeaders::preallocate(BATCH, None);
    let mut at = 0;
    let mut offered = 0_u64;
    let start = Instant::now();
    let duration = Duration::from_secs_f64(args.seconds);
    while start.elapsed() < duration {
        if let Some(rate) = args.rate {
            let due = start + Duration::from_secs_f64(offered as f64 / rate);
            while Instant::now() < due {
                thread::yield_now();
            }
        }
        let window = &slices[at..slices.len().min(at + batch)];
        let sent =
            match sendmmsg(socket.as_raw_fd(), &mut headers, window, [None; BATCH], [], MsgFlags::empty()) {
                Ok(results) => results.count(),
                // The frame at the head was dropped by the queue of the interface or the peer behind it.
                Err(Errno::ENOBUFS) => 1,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot send out of {}", args.interface));
                }
            };
        offered += sent as u64;
        at = (at + sent) % slices.len();
    }
    Ok(Blasted { offered, seconds: start.elapsed().as_secs_f64() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blast(mix: Mix) -> Blast {
        Blast {
            interface: "eth0".into(),
            source: [2; 6],
            destination: [4; 6],
            mix,
            mtu: 1500,
            destinations: None,
            sources: None,
            number_from: 0,
            rate: None,
            seconds: 1.0,
        }
    }

    #[test]
    fn a_sequence_is_whole_periods_and_at_least_a_batch() {
        assert_eq!(sequence(&blast(Mix::Small)).len(), BATCH);
        assert_eq!(sequence(&blast(Mix::Imix)).len(), 72);
        let many = sequence(&Blast { destinations: Some(1000), ..blast(Mix::Small) });
        assert_eq!(many.len(), 1000);
        assert_eq!(many[999][..6], frames::numbered_mac(999));
        assert_eq!(many[999][6..12], [2; 6]);
        let few = sequence(&Blast { sources: Some(48), number_from: 5, ..blast(Mix::Small) });
        assert_eq!(few.len(), 96);
        assert_eq!((&few[0][..6], &few[48][6..12]), (&[4; 6][..], &frames::numbered_mac(5)[..]));
    }
}
