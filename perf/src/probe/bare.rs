//! The bare forwarder: what one TAP gives is written to the other, unread. No switch on TAPs can be faster with the
//! same system calls, so it is the limit to which a switch is held.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use vswitch::frame::BUFFER_BYTES;
use vswitch::io::netns::NetNs;
use vswitch::io::tap::{Tap, TapConfig};

/// Frames read from one TAP before the other has its turn.
const BURST: usize = 64;

#[derive(Debug, clap::Args)]
pub struct Bare {
    #[arg(long)]
    interface: String,
    #[arg(long = "between", num_args = 2, required = true)]
    namespaces: Vec<PathBuf>,
}

/// Forwards until it is ended.
pub fn run(args: &Bare) -> anyhow::Result<()> {
    let taps = [open(args, 0)?, open(args, 1)?];
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (number, tap) in taps.iter().enumerate() {
        epoll.add(tap, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
    }
    println!("ready");
    let mut events = [EpollEvent::empty(); 2];
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        for event in &events[..count] {
            let from = event.data() as usize;
            forward(&taps[from], &taps[1 - from], &mut buffer)?;
        }
    }
}

fn open(args: &Bare, side: usize) -> anyhow::Result<Tap> {
    let netns = NetNs::open(&args.namespaces[side])?;
    Ok(Tap::open(&netns, &args.interface, TapConfig::default())?)
}

fn forward(from: &Tap, to: &Tap, buffer: &mut [u8]) -> anyhow::Result<()> {
    for _ in 0..BURST {
        let length = match from.read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("cannot read from a TAP"),
        };
        // What the other side does not take is lost, as it is in a switch.
        drop(to.write(&buffer[..length]));
    }
    Ok(())
}
