//! Flows of numbered datagrams: whoever receives one sees at once when anything is lost, doubled, changed or out of
//! order.
//!
//! A flow has one sender and any number of receivers (a broadcast has several). It goes on until it is told to stop;
//! then the sender repeats a last datagram until every receiver has seen it. What was sent before it and is missing
//! by then was lost, because nothing overtakes within a flow.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::ensure;

use crate::wait::{DEADLINE, eventually};

/// Between two bursts of datagrams.
const PAUSE: Duration = Duration::from_millis(2);

/// Length of a datagram, bytes: room for its number, and one packet.
const LENGTHS: std::ops::Range<usize> = 8..1300;

/// The number of the last datagram.
const LAST: u64 = u64::MAX;

/// A flow that has not ended.
#[derive(Debug)]
pub struct Flow {
    stop: AtomicBool,
    /// Receivers that have seen the last datagram.
    ended: AtomicUsize,
    receivers: usize,
    /// Datagrams of a burst.
    burst: usize,
}

/// What a sender has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub datagrams: u64,
    /// Those among them that its own kernel had no room for.
    pub refused: u64,
}

impl Flow {
    pub fn new(receivers: usize, burst: usize) -> Flow {
        Flow { stop: AtomicBool::new(false), ended: AtomicUsize::new(0), receivers, burst }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn send(&self, socket: &UdpSocket, to: SocketAddr) -> Sent {
        let mut sent = Sent { datagrams: 0, refused: 0 };
        let mut buffer = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            for _ in 0..self.burst {
                fill(&mut buffer, sent.datagrams);
                sent.datagrams += 1;
                if let Err(error) = socket.send_to(&buffer, to) {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "{to}: {error}");
                    sent.refused += 1;
                }
            }
            thread::sleep(PAUSE);
        }
        eventually("the end of a flow arrives", || {
            // One that is lost is followed by another.
            let _ = socket.send_to(&LAST.to_be_bytes(), to);
            ensure!(self.ended.load(Ordering::Relaxed) == self.receivers, "{to}");
            Ok(())
        });
        sent
    }

    /// How many datagrams arrived.
    ///
    /// # Panics
    /// When one is not what was sent, or comes after a later one.
    pub fn receive(&self, socket: &UdpSocket) -> u64 {
        socket.set_read_timeout(Some(DEADLINE)).expect("it can be set");
        let (mut buffer, mut expected) = ([0; 2048], Vec::new());
        let (mut next, mut received) = (0, 0);
        loop {
            let bytes = match socket.recv(&mut buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => panic!("after {received} datagrams: {error}"),
            };
            let number = u64::from_be_bytes(buffer[..8].try_into().expect("eight bytes"));
            if number == LAST {
                self.ended.fetch_add(1, Ordering::Relaxed);
                return received;
            }
            assert!(number >= next, "datagram {number} comes after {}", next.wrapping_sub(1));
            fill(&mut expected, number);
            assert!(buffer[..bytes] == expected[..], "datagram {number} has changed");
            (next, received) = (number + 1, received + 1);
        }
    }
}

/// The datagram of a number.
fn fill(buffer: &mut Vec<u8>, number: u64) {
    let length = LENGTHS.start + (number * 197) as usize % LENGTHS.len();
    buffer.clear();
    buffer.extend(number.to_be_bytes());
    buffer.extend((8..length).map(|at| (at as u64 ^ number) as u8));
}
