//! What goes out together to one tunnel endpoint.

use std::io::IoSlice;

/// Most UDP datagrams that one send may hold (UDP_MAX_SEGMENTS of include/linux/udp.h before Linux 6.9, which doubled it).
pub const DATAGRAMS_MAX: usize = 64;

/// Most bytes that one send may hold, the UDP headers aside: what fits into one IPv4 packet without options.
pub const SEND_BYTES_MAX: usize = 65_507;

/// UDP datagrams of the same length, but for the last, which may be shorter. Their bytes are gathered from pieces.
#[derive(Debug, Clone, Copy)]
pub struct Datagrams<'a> {
    slices: &'a [IoSlice<'a>],
    slices_each: usize,
    bytes_each: usize,
    bytes: usize,
}

impl<'a> Datagrams<'a> {
    /// One datagram.
    pub fn one(slices: &'a [IoSlice<'a>]) -> Datagrams<'a> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        Datagrams { slices, slices_each: slices.len().max(1), bytes_each: bytes, bytes }
    }

    /// Every two slices are a datagram.
    pub fn pairs(slices: &'a [IoSlice<'a>]) -> Datagrams<'a> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        let bytes_each = slices.iter().take(2).map(|slice| slice.len()).sum();
        Datagrams { slices, slices_each: 2, bytes_each, bytes }
    }

    pub fn count(&self) -> usize {
        self.slices.len().div_ceil(self.slices_each)
    }

    /// Of all of them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Of each but the last.
    pub fn bytes_each(&self) -> usize {
        self.bytes_each
    }

    /// All of them, one behind the other.
    pub fn slices(&self) -> &'a [IoSlice<'a>] {
        self.slices
    }

    /// The pieces of each.
    pub fn each(&self) -> impl ExactSizeIterator<Item = &'a [IoSlice<'a>]> + use<'a> {
        self.slices.chunks(self.slices_each)
    }
}
