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
    super::report(&send(&socket, &mut sequence(args), args)?)
}

/// What a packet socket is bound to: the kernel's list of addresses has it ready.
fn link_address(interface: &str) -> anyhow::Result<LinkAddr> {
    let addresses = getifaddrs()?.filter(|entry| entry.interface_name == interface);
    let link =
        addresses.filter_map(|entry| entry.address).find_map(|address| address.as_link_addr().copied());
    link.with_context(|| format!("there is no interface {interface}"))
}

/// A batch of frames or a little more, to be sent over and over. Numbered addresses are written into them each time: a
/// frame of its own for each of many addresses would fill the caches that the switch shares.
fn sequence(args: &Blast) -> Vec<Vec<u8>> {
    let lengths = args.mix.lengths(args.mtu);
    let lengths = lengths.iter().cycle().take(BATCH.next_multiple_of(lengths.len()));
    lengths.map(|&bytes| frames::frame(args.destination, args.source, bytes)).collect()
}

/// Gives the frame the addresses of the `index`-th one.
fn renumber(frame: &mut [u8], index: u64, args: &Blast) {
    let numbered =
        |count: u32| frames::numbered_mac(args.number_from + (index % u64::from(count.max(1))) as u32);
    if let Some(count) = args.destinations {
        frame[..6].copy_from_slice(&numbered(count));
    }
    if let Some(count) = args.sources {
        frame[6..12].copy_from_slice(&numbered(count));
    }
}

fn send(socket: &OwnedFd, frames: &mut [Vec<u8>], args: &Blast) -> anyhow::Result<Blasted> {
    let batch = args.rate.map_or(BATCH, |rate| ((rate * BATCH_INTERVAL_S) as usize).clamp(1, BATCH));
    let mut headers: MultiHeaders<()> = MultiHeaders::preallocate(BATCH, None);
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
        let at = (offered % frames.len() as u64) as usize;
        let end = frames.len().min(at + batch);
        let window = &mut frames[at..end];
        (offered..).zip(window.iter_mut()).for_each(|(index, frame)| renumber(frame, index, args));
        let slices: Vec<[IoSlice<'_>; 1]> = window.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let sent =
            match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, [None; BATCH], [], MsgFlags::empty()) {
                Ok(results) => results.count(),
                // The frame at the head was dropped by the queue of the interface or the peer behind it.
                Err(Errno::ENOBUFS) => 1,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot send out of {}", args.interface));
                }
            };
        offered += sent as u64;
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
        let imix = sequence(&blast(Mix::Imix));
        assert_eq!(imix.len(), 72);
        assert_eq!(imix[0][..12], [4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2]);
    }

    #[test]
    fn numbered_addresses_come_in_turn() {
        let addresses = |args: &Blast, index| {
            let mut frame = sequence(args).swap_remove(0);
            renumber(&mut frame, index, args);
            (frame[..6].to_vec(), frame[6..12].to_vec())
        };
        let numbered = |index| frames::numbered_mac(index).to_vec();
        let many = Blast { destinations: Some(1000), ..blast(Mix::Small) };
        assert_eq!(addresses(&many, 999), (numbered(999), vec![2; 6]));
        assert_eq!(addresses(&many, 1001), (numbered(1), vec![2; 6]));
        let few = Blast { sources: Some(48), number_from: 5, ..blast(Mix::Small) };
        assert_eq!(addresses(&few, 49), (vec![4; 6], numbered(6)));
        assert_eq!(addresses(&blast(Mix::Small), 7), (vec![4; 6], vec![2; 6]));
    }
}
