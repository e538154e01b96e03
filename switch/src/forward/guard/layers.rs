//! Finds what a receiver would find in a frame, behind whatever headers there are in front of it.

use std::net::Ipv6Addr;

use vswitch_proto::id::MacAddr;
use vswitch_proto::wire::ethernet::{ETHERTYPE_QINQ, ETHERTYPE_VLAN, Ethernet};

use crate::frame::headers::{IPV6_HEADER_BYTES, PROTOCOL_UDP};

/// VLAN tags that are passed over. The kernel takes off any number of tags with VLAN 0.
const TAGS_MAX: usize = 8;

/// IPv6 extension headers that are passed over. Senders use one of each kind.
const EXTENSIONS_MAX: usize = 16;

/// A first fragment holds at least this much of the message (RFC 8200 section 4.5: fragments are multiples of 8).
const MESSAGE_BYTES_MIN: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// The EtherType behind all VLAN tags, and what follows it. `None` if there are too many tags.
pub(super) fn untagged<'a>(frame: &Ethernet<'a>) -> Option<(u16, &'a [u8])> {
    let (mut ethertype, mut payload) = (frame.ethertype(), frame.payload());
    for _ in 0..=TAGS_MAX {
        if !matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
            return Some((ethertype, payload));
        }
        // A tag that is cut off has no frame behind it.
        let Some((&[_, _, high, low], rest)) = payload.split_first_chunk() else { return Some((0, &[])) };
        ethertype = u16::from_be_bytes([high, low]);
        payload = rest;
    }
    None
}

/// An IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ipv6<'a> {
    pub(super) source: Ipv6Addr,
    pub(super) upper: Upper<'a>,
}

/// What is behind IPv6 extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upper<'a> {
    Message {
        protocol: u8,
        message: &'a [u8],
        is_fragment: bool,
    },
    /// The beginning was in another packet.
    LaterFragment,
    /// The message begins where it cannot be seen.
    Hidden,
}

impl<'a> Ipv6<'a> {
    /// `None` for a packet without a whole header.
    pub(super) fn parse(packet: &'a [u8]) -> Option<Ipv6<'a>> {
        let header = packet.first_chunk::<IPV6_HEADER_BYTES>()?;
        let source = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        // Zero stands for a length that an option says (RFC 2675); without that option the kernel cuts nothing off.
        let is_unknown = length == 0 && header[6] == HOP_BY_HOP;
        let end = if is_unknown { packet.len() } else { packet.len().min(IPV6_HEADER_BYTES + length) };
        Some(Ipv6 { source, upper: upper(&packet[..end], header[6]) })
    }
}

fn upper(packet: &[u8], first: u8) -> Upper<'_> {
    let (mut next, mut at, mut is_fragment) = (first, IPV6_HEADER_BYTES, false);
    for _ in 0..=EXTENSIONS_MAX {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            let Some(message) = packet.get(at..) else { return Upper::Hidden };
            let is_cut = is_fragment && message.len() < MESSAGE_BYTES_MIN;
            if is_cut && matches!(next, PROTOCOL_UDP | super::ICMPV6) {
                return Upper::Hidden;
            }
            return Upper::Message { protocol: next, message, is_fragment };
        }
        let Some(&[following, length, offset, more]) = packet.get(at..).and_then(|rest| rest.first_chunk())
        else {
            return Upper::Hidden;
        };
        at += match next {
            FRAGMENT if u16::from_be_bytes([offset, more]) & !7 != 0 => return Upper::LaterFragment,
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        is_fragment |= next == FRAGMENT;
        next = following;
    }
    Upper::Hidden
}

/// Option of a neighbour discovery message: the link-layer address of its sender.
pub(super) const SOURCE_LINK_LAYER: u8 = 1;
/// Option of a neighbour discovery message: the link-layer address of its target.
pub(super) const TARGET_LINK_LAYER: u8 = 2;

/// Options of a neighbour discovery message (RFC 4861 section 4.6): the kind of each, and its first six bytes as a MAC
/// address, whatever they mean.
#[derive(Debug, Clone)]
pub(super) struct Options<'a>(pub(super) &'a [u8]);

impl Iterator for Options<'_> {
    type Item = (u8, MacAddr);

    fn next(&mut self) -> Option<(u8, MacAddr)> {
        let &[kind, length, a, b, c, d, e, f] = self.0.first_chunk()?;
        // A length of zero makes the whole message invalid.
        self.0 = self.0.get(usize::from(length) * 8..).filter(|_| length != 0).unwrap_or_default();
        (length != 0).then_some((kind, MacAddr([a, b, c, d, e, f])))
    }
}
