//! A frame as it passes through the switch.
//!
//! [`Frame::parse`] checks the bytes from a TAP once, so that nobody behind it has to: the Ethernet header is whole,
//! the virtio-net header fits the frame, and the headers of a frame that stands for several segments are what its
//! segmentation type says. What a segment becomes is computed from those headers; the advisory `hdr_len` of the
//! virtio-net header is never used (the kernel documents it as a hint).
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use vswitch_proto::id::MacAddr;
use vswitch_proto::wire::ethernet::{self, Ethernet};
use vswitch_proto::wire::vnet_hdr::{self, VnetError, VnetHdr};

use headers::{Headers, PROTOCOL_TCP, PROTOCOL_UDP, UDP_HEADER_BYTES, VLAN_TAG_BYTES, is_vlan};

mod datagrams;
pub mod headers;

pub use datagrams::{DATAGRAMS_MAX, Datagrams, SEND_BYTES_MAX};

/// Largest frame a TAP hands over: an IP packet of 65,535 bytes behind an Ethernet header with two VLAN tags.
pub const FRAME_BYTES_MAX: usize = 65_535 + 14 + 8;

/// The virtio-net header and the frame behind it, as one read from a TAP returns them.
pub const BUFFER_BYTES: usize = vnet_hdr::HEADER_BYTES + FRAME_BYTES_MAX;

/// Most segments that one frame may stand for: those of 64 KiB with 32 bytes each. A TCP socket whose peer wants the
/// smallest segments that Linux agrees to (`tcp_min_snd_mss`, 48 with options) stays below.
pub const SEGMENTS_MAX: usize = 2048;

/// Most segments of one UDP frame (UDP_MAX_SEGMENTS of include/linux/udp.h).
const UDP_SEGMENTS_MAX: usize = 128;

/// Least payload of a segment of TCP that is one of several (TCP_MIN_GSO_SIZE of include/net/tcp.h).
const TCP_SEGMENT_BYTES_MIN: usize = 8;

/// Where the checksum lies in the headers of TCP and UDP.
pub const TCP_CHECKSUM_AT: u16 = 16;
pub const UDP_CHECKSUM_AT: u16 = 6;

/// A checked frame: it has a whole Ethernet header, and its offload metadata fits its length and its headers.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    vnet: VnetHdr,
    ethernet: Ethernet<'a>,
    packet_bytes: usize,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("impossible virtio-net header: {0}")]
    Vnet(#[from] VnetError),
    #[error("the headers of a segmented frame are not what its segmentation type says")]
    Segments,
    #[error("more segments, or shorter ones, than any network stack makes")]
    TooManySegments,
    #[error("shorter than an Ethernet header")]
    Runt,
    #[error("longer than {FRAME_BYTES_MAX} bytes")]
    Oversized,
}

impl<'a> Frame<'a> {
    /// Checks what a TAP gave, once.
    pub fn parse(raw: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        let (vnet, bytes) = VnetHdr::parse(raw)?;
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(FrameError::Oversized);
        }
        let ethernet = Ethernet::new(bytes).ok_or(FrameError::Runt)?;
        let packet_bytes =
            if vnet.is_gso() { segment_packet_bytes(&vnet, bytes)? } else { untagged_bytes(&ethernet) };
        Ok(Frame { bytes, vnet, ethernet, packet_bytes })
    }

    /// A frame that came whole, as from a wire: one packet, its checksum complete.
    pub fn complete(bytes: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(FrameError::Oversized);
        }
        let ethernet = Ethernet::new(bytes).ok_or(FrameError::Runt)?;
        Ok(Frame { bytes, vnet: VnetHdr::default(), packet_bytes: untagged_bytes(&ethernet), ethernet })
    }

    /// Without the virtio-net header.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn vnet(&self) -> &VnetHdr {
        &self.vnet
    }

    pub fn ethernet(&self) -> &Ethernet<'a> {
        &self.ethernet
    }

    /// The largest packet that this frame is on a wire, bytes: of the largest segment if it stands for several,
    /// without the Ethernet header and without one VLAN tag. This is what an MTU limits.
    pub fn packet_bytes(&self) -> usize {
        self.packet_bytes
    }

    pub fn is_tagged(&self) -> bool {
        is_vlan(self.ethernet.ethertype())
    }
}

/// Destination and source of bytes that a TAP gave, before anything is checked.
pub fn addresses(raw: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let ethernet = Ethernet::new(raw.get(vnet_hdr::HEADER_BYTES..)?)?;
    Some((ethernet.destination(), ethernet.source()))
}

/// The payload without one VLAN tag: like the kernel's bridge, a tag's four bytes do not count against the MTU.
fn untagged_bytes(ethernet: &Ethernet<'_>) -> usize {
    let payload = ethernet.payload().len();
    if is_vlan(ethernet.ethertype()) { payload.saturating_sub(VLAN_TAG_BYTES) } else { payload }
}

/// The IP packet that the largest segment of a GSO frame becomes. One frame must not cost without a bound what its
/// segments do: each is a datagram in a tunnel.
fn segment_packet_bytes(vnet: &VnetHdr, frame: &[u8]) -> Result<usize, FrameError> {
    let (packet_bytes, repeated_bytes, tag_bytes) = segments(vnet, frame).ok_or(FrameError::Segments)?;
    let (payload_bytes, segment_bytes) =
        (packet_bytes.saturating_sub(repeated_bytes), usize::from(vnet.gso_size));
    let (segments_max, segment_bytes_min) = match vnet.gso_type {
        vnet_hdr::GSO_UDP_L4 => (UDP_SEGMENTS_MAX, 0),
        vnet_hdr::GSO_TCPV4 | vnet_hdr::GSO_TCPV6 => (SEGMENTS_MAX, TCP_SEGMENT_BYTES_MIN),
        _ => (SEGMENTS_MAX, 0),
    };
    let are_several = payload_bytes > segment_bytes;
    if payload_bytes > segments_max * segment_bytes || are_several && segment_bytes < segment_bytes_min {
        return Err(FrameError::TooManySegments);
    }
    Ok(packet_bytes.min(repeated_bytes + segment_bytes) + tag_bytes)
}

/// Of a GSO frame: the length of its IP packet, of the headers in it that are repeated, and of a second VLAN tag. `None` if
/// the headers do not fit its type.
fn segments(vnet: &VnetHdr, frame: &[u8]) -> Option<(usize, usize, usize)> {
    let headers = Headers::parse(frame)?;
    let Headers { is_ipv6, network_at, protocol, transport_at, .. } = headers;
    // The segmenting kernel puts each segment's checksum where this points.
    if usize::from(vnet.csum_start) != transport_at {
        return None;
    }
    let (packet, transport) = (&frame[network_at..], &frame[transport_at..]);
    let ip_bytes = transport_at - network_at;
    let (repeated_bytes, csum_offset) = match (vnet.gso_type, is_ipv6, protocol) {
        (vnet_hdr::GSO_TCPV4, false, PROTOCOL_TCP) | (vnet_hdr::GSO_TCPV6, true, PROTOCOL_TCP) => {
            (ip_bytes + headers::tcp_header_bytes(transport)?, TCP_CHECKSUM_AT)
        }
        (vnet_hdr::GSO_UDP_L4, _, PROTOCOL_UDP) if transport.len() >= UDP_HEADER_BYTES => {
            (ip_bytes + UDP_HEADER_BYTES, UDP_CHECKSUM_AT)
        }
        // IP fragments: only IP's header is repeated, and gso_size counts what follows it.
        (vnet_hdr::GSO_UDP, _, PROTOCOL_UDP) if transport.len() >= UDP_HEADER_BYTES => {
            (ip_bytes, UDP_CHECKSUM_AT)
        }
        _ => return None,
    };
    if vnet.csum_offset != csum_offset {
        return None;
    }
    let second_tag_bytes = (network_at - ethernet::HEADER_BYTES).saturating_sub(VLAN_TAG_BYTES);
    Some((packet.len(), repeated_bytes, second_tag_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCPV4: u8 = vnet_hdr::GSO_TCPV4;
    const TCPV6: u8 = vnet_hdr::GSO_TCPV6;
    const UDP_L4: u8 = vnet_hdr::GSO_UDP_L4;
    const UFO: u8 = vnet_hdr::GSO_UDP;

    /// A frame of these headers and `payload_bytes` more, in segments of 1,000.
    fn gso(gso_type: u8, csum_start: u8, headers: &[&[u8]], payload_bytes: usize) -> Vec<u8> {
        let csum_offset = if matches!(gso_type, TCPV4 | TCPV6) { 16 } else { 6 };
        let mut raw =
            vec![vnet_hdr::F_NEEDS_CSUM, gso_type, 0, 0, 0xe8, 3, csum_start, 0, csum_offset, 0, 0, 0];
        raw.extend([0x02; 12]);
        headers.iter().for_each(|header| raw.extend(*header));
        raw.resize(raw.len() + payload_bytes, 0);
        raw
    }

    fn packet_bytes(raw: &[u8]) -> Result<usize, FrameError> {
        Frame::parse(raw).map(|frame| frame.packet_bytes())
    }

    const IPV4_TCP: [u8; 20] = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    const IPV4_UDP: [u8; 20] = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    /// Data offset 8: 32 bytes with the usual timestamps.
    const TCP: [u8; 32] = {
        let mut header = [0; 32];
        header[12] = 0x80;
        header
    };

    fn ipv6(next_header: u8) -> [u8; 40] {
        let mut header = [0; 40];
        header[0] = 0x60;
        header[6] = next_header;
        header
    }

    #[test]
    fn a_segment_is_its_headers_and_one_segment_size() {
        let v6 = ipv6(6);
        let v6_extended = ipv6(0);
        let hop_by_hop = [6, 0, 1, 4, 0, 0, 0, 0];
        for (raw, expected) in [
            (gso(TCPV4, 34, &[&[8, 0], &IPV4_TCP, &TCP], 60_000), 20 + 32 + 1000),
            (gso(TCPV4, 38, &[&[0x81, 0, 0, 5, 8, 0], &IPV4_TCP, &TCP], 60_000), 20 + 32 + 1000),
            (
                gso(TCPV4, 42, &[&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 5, 8, 0], &IPV4_TCP, &TCP], 9000),
                4 + 20 + 32 + 1000,
            ),
            (gso(TCPV6, 54, &[&[0x86, 0xdd], &v6, &TCP], 60_000), 40 + 32 + 1000),
            (gso(TCPV6, 62, &[&[0x86, 0xdd], &v6_extended, &hop_by_hop, &TCP], 60_000), 48 + 32 + 1000),
            (gso(UDP_L4, 34, &[&[8, 0], &IPV4_UDP, &[0; 8]], 9000), 20 + 8 + 1000),
            (gso(UFO, 34, &[&[8, 0], &IPV4_UDP, &[0; 8]], 9000), 20 + 1000),
            // Shorter than a segment could be.
            (gso(TCPV4, 34, &[&[8, 0], &IPV4_TCP, &TCP], 10), 20 + 32 + 10),
        ] {
            assert_eq!(packet_bytes(&raw), Ok(expected));
        }
    }

    #[test]
    fn the_length_hint_is_not_believed() {
        let mut raw = gso(TCPV4, 34, &[&[8, 0], &IPV4_TCP, &TCP], 60_000);
        raw[2..4].copy_from_slice(&9000u16.to_le_bytes());
        assert_eq!(packet_bytes(&raw), Ok(1052));
    }

    #[test]
    fn headers_must_be_what_the_segmentation_type_says() {
        let bad_ihl = [&[0x44], &IPV4_TCP[1..]].concat();
        let bad_version = [&[0x65], &IPV4_TCP[1..]].concat();
        let short_tcp = [0; 20];
        let fragment = ipv6(44);
        let chain: Vec<u8> = [0, 0, 1, 4, 0, 0, 0, 0].repeat(12);
        for (raw, why) in [
            (gso(TCPV6, 34, &[&[8, 0], &IPV4_TCP, &TCP], 9000), "IPv6 type, IPv4 packet"),
            (gso(TCPV4, 34, &[&[8, 0], &IPV4_UDP, &TCP], 9000), "TCP type, UDP packet"),
            (gso(UDP_L4, 34, &[&[8, 0], &IPV4_TCP, &TCP], 9000), "UDP type, TCP packet"),
            (gso(TCPV4, 35, &[&[8, 0], &IPV4_TCP, &TCP], 9000), "checksum begins elsewhere"),
            (gso(TCPV4, 34, &[&[8, 6], &IPV4_TCP, &TCP], 9000), "ARP"),
            (gso(TCPV4, 30, &[&[8, 0], &bad_ihl, &TCP], 9000), "IPv4 header of 16 bytes"),
            (gso(TCPV4, 34, &[&[8, 0], &bad_version, &TCP], 9000), "version 6 in an IPv4 frame"),
            (gso(TCPV4, 34, &[&[8, 0], &IPV4_TCP, &short_tcp], 9000), "TCP header of 0 bytes"),
            (gso(TCPV4, 34, &[&[8, 0], &IPV4_TCP, &TCP[..20]], 4), "TCP header beyond the end"),
            (gso(TCPV6, 54, &[&[0x86, 0xdd], &fragment, &TCP], 9000), "a fragment"),
            (gso(TCPV6, 150, &[&[0x86, 0xdd], &ipv6(0), &chain, &TCP], 9000), "too many extension headers"),
            (gso(TCPV4, 46, &[&[0x81, 0].repeat(8)[..], &IPV4_TCP, &TCP], 9000), "too many tags"),
        ] {
            assert_eq!(packet_bytes(&raw), Err(FrameError::Segments), "{why}");
        }

        let mut raw = gso(UDP_L4, 34, &[&[8, 0], &IPV4_UDP], 9000);
        raw[8] = 16;
        assert_eq!(packet_bytes(&raw), Err(FrameError::Segments), "the checksum of TCP in UDP");
        raw[8] = 4;
        assert_eq!(packet_bytes(&raw[..12 + 34 + 7]), Err(FrameError::Segments), "half a UDP header");
    }

    #[test]
    fn a_frame_stands_for_a_bounded_number_of_segments() {
        // Each with the largest number of payload bytes that passes.
        let v6 = ipv6(6);
        for (gso_size, mut raw, passing) in [
            (1u16, gso(UDP_L4, 34, &[&[8, 0], &IPV4_UDP, &[0; 8]], 0), 128),
            (100, gso(UDP_L4, 34, &[&[8, 0], &IPV4_UDP, &[0; 8]], 0), 12_800),
            (1, gso(TCPV4, 34, &[&[8, 0], &IPV4_TCP, &TCP], 0), 1),
            (7, gso(TCPV6, 54, &[&[0x86, 0xdd], &v6, &TCP], 0), 7),
            (8, gso(TCPV4, 34, &[&[8, 0], &IPV4_TCP, &TCP], 0), 8 * 2048),
            (31, gso(TCPV6, 54, &[&[0x86, 0xdd], &v6, &TCP], 0), 31 * 2048),
            // A socket with TCP_MAXSEG 88 and time stamps.
            (76, gso(TCPV4, 34, &[&[8, 0], &IPV4_TCP, &TCP], 0), 65_483),
            // IP fragments, of which the first has UDP's header.
            (8, gso(UFO, 34, &[&[8, 0], &IPV4_UDP, &[0; 8]], 0), 8 * 2048 - 8),
        ] {
            raw[4..6].copy_from_slice(&gso_size.to_le_bytes());
            raw.resize(raw.len() + passing, 0);
            assert!(packet_bytes(&raw).is_ok(), "{passing} bytes in segments of {gso_size}");
            if passing < 65_483 {
                raw.push(0);
                assert_eq!(packet_bytes(&raw), Err(FrameError::TooManySegments), "{gso_size}");
            }
        }
    }

    #[test]
    fn plain_frames_are_as_long_as_they_are() {
        let mut raw = vec![0; 12 + 12];
        raw.extend([8, 0]);
        raw.resize(12 + 14 + 1500, 0);
        assert_eq!(packet_bytes(&raw), Ok(1500));
        raw[24..26].copy_from_slice(&[0x81, 0]);
        assert_eq!(packet_bytes(&raw), Ok(1496));
        assert_eq!(packet_bytes(&raw[..12 + 14]), Ok(0), "a tag that is cut off");
        assert_eq!(packet_bytes(&raw[..12 + 13]), Err(FrameError::Runt));
        assert_eq!(packet_bytes(&vec![0; BUFFER_BYTES + 1]), Err(FrameError::Oversized));
        assert!(packet_bytes(&vec![0; BUFFER_BYTES]).is_ok());
    }
}
