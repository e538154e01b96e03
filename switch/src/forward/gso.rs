//! From a frame to VXLAN datagrams: segments are cut here, since an encapsulated frame can only be cut by whoever knows
//! what is inside.
//!
//! A frame that stands for several segments (TSO, USO) becomes `[VXLAN | Ethernet | IP | TCP or UDP | payload]` once
//! per segment. All of them but the last are equally long, so one UDP_SEGMENT send takes as many as fit into it. The
//! headers are written into a slab; the payload is gathered from where it is.
//!
//! What is repeated is what the kernel would repeat (net/ipv4/tcp_offload.c, udp_offload.c): the IPv4 identification
//! counts up, the sequence number goes on, FIN and PSH belong to the last segment and CWR to the first (RFC 3168
//! section 6.1.2), and each segment has its lengths and complete checksums. Nobody behind a tunnel could finish them.
//!
//! A single frame goes out as it is. If its checksum is partial, the two bytes of the complete one are gathered in
//! place of the partial one: the frame itself is not touched, because a port may get it too.

use std::io::IoSlice;

use vswitch_proto::id::Vni;
use vswitch_proto::wire::checksum::Sum;
use vswitch_proto::wire::ethernet::HEADER_BYTES;
use vswitch_proto::wire::vnet_hdr::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4};
use vswitch_proto::wire::vxlan;

use super::verdict::DropReason;
use crate::frame::headers::{Headers, IPV6_HEADER_BYTES, UDP_HEADER_BYTES, tcp_header_bytes};
use crate::frame::{DATAGRAMS_MAX, Datagrams, Frame, SEND_BYTES_MAX, TCP_CHECKSUM_AT, UDP_CHECKSUM_AT};

/// Most bytes of headers per segment: VXLAN, Ethernet, IPv6 with 120 bytes of extensions, TCP with all its options.
const HEADER_BYTES_MAX: usize = 256;

/// The longest frame for several segments that an interface of this MTU should hand over (its `gso_max_size`), so that
/// the segments of TCP leave in one send. The kernel's own limit would have most frames leave in two: what fits into one
/// packet with one set of headers does not with a set for each segment.
///
/// TCP keeps room for headers from it (`sk_setup_caps` of net/core/sock.c), and its segments have at least IPv4's
/// headers and mostly time stamps.
pub fn frame_bytes(mtu: u32) -> u32 {
    /// MAX_TCP_HEADER (include/net/tcp.h) where it is largest, and one.
    const KEPT: u32 = 320 + 1;
    const INNER: u32 = 20 + 20 + 12;
    let datagram_bytes = (vxlan::HEADER_BYTES + HEADER_BYTES) as u32 + mtu;
    let at_once = (SEND_BYTES_MAX as u32 / datagram_bytes).clamp(1, DATAGRAMS_MAX as u32);
    (at_once * mtu.saturating_sub(INNER) + KEPT).min(65_536)
}

pub(super) const TCP_FLAGS_AT: usize = 13;
pub(super) const TCP_FIN: u8 = 0x01;
pub(super) const TCP_PSH: u8 = 0x08;
pub(super) const TCP_CWR: u8 = 0x80;

/// Room for the headers of one send.
#[derive(Debug)]
pub struct Cutter {
    slab: Box<[[u8; HEADER_BYTES_MAX]; DATAGRAMS_MAX]>,
}

impl Default for Cutter {
    fn default() -> Cutter {
        Cutter { slab: Box::new([[0; HEADER_BYTES_MAX]; DATAGRAMS_MAX]) }
    }
}

impl Cutter {
    /// Encapsulates a frame and hands over the datagrams, in order, in as few groups as can be sent at once.
    pub fn encapsulate(
        &mut self,
        vni: Vni,
        frame: &Frame<'_>,
        mut send: impl FnMut(&Datagrams<'_>),
    ) -> Result<(), DropReason> {
        let vxlan = vxlan::header(vni);
        if frame.vnet().is_gso() {
            return self.cut(&vxlan, frame, send);
        }
        let bytes = frame.bytes();
        let headers = Headers::parse(bytes);
        // The other end might look for the rest in what follows.
        if headers.is_some_and(|headers| headers.network_at + headers.packet_bytes(bytes) > bytes.len()) {
            return Err(DropReason::TunnelTruncated);
        }
        if vxlan.len() + bytes.len() > SEND_BYTES_MAX {
            return Err(DropReason::TunnelTooBig);
        }
        if !frame.vnet().needs_csum() {
            send(&Datagrams::one(&[IoSlice::new(&vxlan), IoSlice::new(bytes)]));
            return Ok(());
        }
        // `Frame::parse` has seen that the checksum lies inside.
        let start = usize::from(frame.vnet().csum_start);
        // Finishing it must not change what was judged.
        if start < headers.map_or(HEADER_BYTES, |headers| headers.transport_at) {
            return Err(DropReason::BadVnetHdr);
        }
        let at = start + usize::from(frame.vnet().csum_offset);
        // The field holds the sum of the pseudo-header.
        let checksum = Sum::default().bytes(&bytes[start..]).checksum_not_zero().to_be_bytes();
        let pieces = [&vxlan[..], &bytes[..at], &checksum, &bytes[at + 2..]];
        send(&Datagrams::one(&pieces.map(IoSlice::new)));
        Ok(())
    }

    fn cut(
        &mut self,
        vxlan: &[u8; vxlan::HEADER_BYTES],
        frame: &Frame<'_>,
        mut send: impl FnMut(&Datagrams<'_>),
    ) -> Result<(), DropReason> {
        let template = Template::new(vxlan, frame).ok_or(DropReason::TunnelUnsegmentable)?;
        let segment_bytes = usize::from(frame.vnet().gso_size);
        let payload = &frame.bytes()[template.frame_header_bytes()..];
        let datagram_bytes = template.bytes() + segment_bytes.min(payload.len());
        if datagram_bytes > SEND_BYTES_MAX {
            return Err(DropReason::TunnelTooBig);
        }
        // Segments without payload make no progress; a frame without any is one segment.
        let count = payload.len().div_ceil(segment_bytes).max(1);
        let at_once = (SEND_BYTES_MAX / datagram_bytes).min(DATAGRAMS_MAX);
        let mut first = 0;
        while first < count {
            let group = first..count.min(first + at_once);
            for (index, header) in group.clone().zip(self.slab.iter_mut()) {
                let payload = piece(payload, segment_bytes, index);
                let place = Place { index, is_last: index + 1 == count, offset: index * segment_bytes };
                template.write(header, place, payload);
            }
            let mut slices = [IoSlice::new(&[]); 2 * DATAGRAMS_MAX];
            for (index, (pair, header)) in group.clone().zip(slices.chunks_mut(2).zip(self.slab.iter())) {
                pair[0] = IoSlice::new(&header[..template.bytes()]);
                pair[1] = IoSlice::new(piece(payload, segment_bytes, index));
            }
            send(&Datagrams::pairs(&slices[..2 * group.len()]));
            first = group.end;
        }
        Ok(())
    }
}

fn piece(payload: &[u8], segment_bytes: usize, index: usize) -> &[u8] {
    let start = index * segment_bytes;
    &payload[start..payload.len().min(start + segment_bytes)]
}

/// A segment among those of its frame.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    is_last: bool,
    /// Payload bytes before it.
    offset: usize,
}

/// The headers that are repeated, and where in them lies what is not the same each time.
struct Template<'a> {
    vxlan: &'a [u8; vxlan::HEADER_BYTES],
    frame_headers: &'a [u8],
    headers: Headers,
    is_tcp: bool,
}

impl<'a> Template<'a> {
    /// `None` for what is not cut.
    fn new(vxlan: &'a [u8; vxlan::HEADER_BYTES], frame: &Frame<'a>) -> Option<Template<'a>> {
        let bytes = frame.bytes();
        // Behind a routing header, the pseudo-header is that of another destination.
        let headers = Headers::parse(bytes).filter(|headers| !headers.is_routed)?;
        let transport = &bytes[headers.transport_at..];
        let (is_tcp, transport_bytes) = match frame.vnet().gso_type {
            GSO_TCPV4 | GSO_TCPV6 => (true, tcp_header_bytes(transport)?),
            GSO_UDP_L4 => (false, UDP_HEADER_BYTES),
            _ => return None,
        };
        let frame_headers = bytes.get(..headers.transport_at + transport_bytes)?;
        let fits = vxlan.len() + frame_headers.len() <= HEADER_BYTES_MAX;
        fits.then_some(Template { vxlan, frame_headers, headers, is_tcp })
    }

    fn frame_header_bytes(&self) -> usize {
        self.frame_headers.len()
    }

    fn bytes(&self) -> usize {
        self.vxlan.len() + self.frame_headers.len()
    }

    /// Writes the headers of one segment.
    fn write(&self, slot: &mut [u8; HEADER_BYTES_MAX], place: Place, payload: &[u8]) {
        let (vxlan, header) = slot.split_at_mut(self.vxlan.len());
        vxlan.copy_from_slice(self.vxlan);
        let header = &mut header[..self.frame_headers.len()];
        header.copy_from_slice(self.frame_headers);
        let (lower, transport) = header.split_at_mut(self.headers.transport_at);
        let transport_bytes = transport.len() + payload.len();
        if self.headers.is_ipv6 {
            self.write_ipv6(lower, transport_bytes);
        } else {
            self.write_ipv4(lower, transport_bytes, place.index);
        }
        let addresses = self.headers.addresses(self.frame_headers);
        let pseudo = Sum::pseudo_header(addresses, self.headers.protocol, transport_bytes);
        let checksum_at = if self.is_tcp {
            write_tcp(transport, place);
            usize::from(TCP_CHECKSUM_AT)
        } else {
            transport[4..6].copy_from_slice(&(transport_bytes as u16).to_be_bytes());
            usize::from(UDP_CHECKSUM_AT)
        };
        transport[checksum_at..][..2].fill(0);
        let sum = pseudo.bytes(transport).bytes(payload);
        let checksum = if self.is_tcp { sum.checksum() } else { sum.checksum_not_zero() };
        transport[checksum_at..][..2].copy_from_slice(&checksum.to_be_bytes());
    }

    fn write_ipv4(&self, lower: &mut [u8], transport_bytes: usize, index: usize) {
        let ip = &mut lower[self.headers.network_at..];
        let length = (ip.len() + transport_bytes) as u16;
        let identification = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index as u16);
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[4..6].copy_from_slice(&identification.to_be_bytes());
        ip[10..12].fill(0);
        let checksum = Sum::default().bytes(ip).checksum();
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn write_ipv6(&self, lower: &mut [u8], transport_bytes: usize) {
        let ip = &mut lower[self.headers.network_at..];
        let length = ip.len() - IPV6_HEADER_BYTES + transport_bytes;
        ip[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    }
}

fn write_tcp(tcp: &mut [u8], place: Place) {
    let first = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    tcp[4..8].copy_from_slice(&first.wrapping_add(place.offset as u32).to_be_bytes());
    if place.index > 0 {
        tcp[TCP_FLAGS_AT] &= !TCP_CWR;
    }
    if !place.is_last {
        tcp[TCP_FLAGS_AT] &= !(TCP_FIN | TCP_PSH);
    }
}
