//! ARP and neighbour discovery answered from the tables, on behalf of whoever has the address.
//!
//! In an overlay network every registered address is known on every host, so a container's question about one is
//! answered where it is asked: it is neither flooded nor sent through a tunnel. The answer goes back to the port that
//! the question came from.
//!
//! Who asks for an address that is registered as its own, to announce it or to see that nobody else has it (RFC 5227,
//! RFC 4862 section 5.4), gets no answer: such questions are flooded like everything unknown, so that peers outside of
//! the cluster hear them. Anybody else who looks whether it is free gets the owner's answer, which defends the address,
//! in networks of one host as well; whoever announces it is not heard (`guard`).

use std::net::IpAddr;

use vswitch_proto::id::MacAddr;
use vswitch_proto::wire::neighbor::{self, ANSWER_BYTES_MAX, ICMPV6_CHECKSUM_AT};
use vswitch_proto::wire::vnet_hdr::{self, VnetHdr};

use super::tables::Network;
use crate::frame::Frame;

/// Length of the longest answer with its virtio-net header.
pub const REPLY_BYTES_MAX: usize = vnet_hdr::HEADER_BYTES + ANSWER_BYTES_MAX;

/// Whose address a container asks for, if that is for the tables to answer.
pub(super) fn owner(network: &Network, target: IpAddr, asker: MacAddr) -> Option<MacAddr> {
    network.neighbors.get(&target).copied().filter(|&mac| mac != asker)
}

/// Writes the answer that `mac` has the address `frame` asks for, an empty virtio-net header in front, and returns its
/// length. `None` for an invalid question.
pub fn answer(frame: &Frame<'_>, mac: MacAddr, reply: &mut [u8; REPLY_BYTES_MAX]) -> Option<usize> {
    let (header, bytes) = reply.split_first_chunk_mut::<{ vnet_hdr::HEADER_BYTES }>()?;
    *header = VnetHdr::default().to_bytes();
    let is_partial = frame.vnet().needs_csum();
    if is_partial && usize::from(frame.vnet().csum_offset) != ICMPV6_CHECKSUM_AT {
        return None;
    }
    let length = neighbor::answer(frame.ethernet(), mac, !is_partial, bytes.first_chunk_mut()?)?;
    Some(vnet_hdr::HEADER_BYTES + length)
}

/// Writes that `mac` has an address now, an empty virtio-net header in front, and returns the length.
pub fn announcement(ip: IpAddr, mac: MacAddr, raw: &mut [u8; REPLY_BYTES_MAX]) -> usize {
    let (header, bytes) = raw.split_at_mut(vnet_hdr::HEADER_BYTES);
    header.copy_from_slice(&VnetHdr::default().to_bytes());
    let bytes = bytes.first_chunk_mut().expect("the longest answer fits");
    vnet_hdr::HEADER_BYTES + neighbor::announcement(ip, mac, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const REQUEST: [u8; 42] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, // request
        2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 9,
    ];

    #[test]
    fn an_answer_is_a_complete_frame() {
        let mut reply = [0xee; REPLY_BYTES_MAX];
        let length = answer(&Frame::complete(&REQUEST).unwrap(), MAC, &mut reply).unwrap();
        let frame = Frame::parse(&reply[..length]).unwrap();
        assert_eq!(*frame.vnet(), VnetHdr::default());
        assert_eq!((frame.ethernet().source(), frame.bytes().len()), (MAC, 42));
    }

    #[test]
    fn a_partial_checksum_of_something_else_is_no_question() {
        let mut raw = [&[0; 12], &REQUEST[..]].concat();
        raw[0] = vnet_hdr::F_NEEDS_CSUM;
        raw[8] = 16;
        let frame = Frame::parse(&raw).unwrap();
        assert_eq!(answer(&frame, MAC, &mut [0; REPLY_BYTES_MAX]), None);
    }
}
