//! From segments to one frame: TCP that came through a tunnel is put together, so that a TAP takes it in one write.
//!
//! # Theory of operation
//! [`read`] looks at an inner frame. If it is TCP over plain IP, whole and with intact checksums, it is a [`Segment`]. A
//! [`Coalescer`] holds a few open groups, each one flow's contiguous segments; a segment either continues its flow's
//! group, or ends it, or begins one. The caller writes a group when it ends, and all that are open when there is
//! nothing more to read: a group never waits for what has not arrived yet.
//!
//! The rules are those of the kernel (net/ipv4/tcp_offload.c, `tcp_gro_receive`): the same headers but for lengths,
//! checksums, identification, sequence number and FIN or PSH; contiguous; all segments as long as the first one but for
//! the last, which may be shorter; FIN and PSH end a group; SYN, RST, URG and segments without payload are never part
//! of one; CWR begins one. IPv4 options, fragments and IPv6 extensions are left alone. An IPv4 packet that may be
//! fragmented has to have the next identification, because cutting the frame again will give it that.
//!
//! UDP is never coalesced: whoever gets several datagrams as one must know that they are several, and what is inside
//! of a nested tunnel does not.
//!
//! # Invariants
//! 1. Checksums are verified before anything else. The frame that is written has a partial checksum, which the
//!    receiving kernel does not check again: what was corrupt must not get there as if it were intact. A segment whose
//!    own checksum is partial (see [`super::vxlan::unfinished`]) is never part of a group.
//! 2. A flow's segments leave in the order in which they came. What cannot be read but may be of a flow with an open
//!    group ends all groups ([`Inner::Opaque`]).
//! 3. Cutting the frame again (see [`super::gso`]) gives the segments that it was made of.
//!
//! # Bounds
//! [`GROUPS_MAX`] flows, [`SEGMENTS_MAX`] segments and 65,535 bytes of IP packet each. A group that is full ends; a flow
//! for which there is no group ends the oldest one.

use std::net::IpAddr;

use vswitch_proto::id::{PortId, Vni};
use vswitch_proto::wire::checksum::Sum;
use vswitch_proto::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEADER_BYTES as ETHERNET_BYTES};
use vswitch_proto::wire::vnet_hdr::{self, F_DATA_VALID, F_NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6, VnetHdr};

use super::gso::{TCP_CWR, TCP_FIN, TCP_FLAGS_AT, TCP_PSH};
use super::vxlan;
use crate::frame::headers::{
    Headers, IPV4_HEADER_BYTES_MIN, IPV6_HEADER_BYTES, PROTOCOL_TCP, VLAN_TAG_BYTES, network_header,
    tcp_header_bytes,
};
use crate::frame::{Frame, TCP_CHECKSUM_AT};

pub const GROUPS_MAX: usize = 8;
pub const SEGMENTS_MAX: usize = 64;

/// Ethernet with two VLAN tags, IPv6 and TCP with all its options.
const HEADERS_BYTES_MAX: usize = ETHERNET_BYTES + 2 * VLAN_TAG_BYTES + IPV6_HEADER_BYTES + 60;

/// Where the EtherType or the first VLAN tag lies.
const TYPE_AT: usize = ETHERNET_BYTES - 2;

const PACKET_BYTES_MAX: usize = 65_535;

const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_URG: u8 = 0x20;

/// What an inner frame is for the coalescer.
#[derive(Debug, Clone, Copy)]
pub enum Inner<'a> {
    Tcp(Segment<'a>),
    /// It may be part of a TCP flow, but cannot be told which: all groups end before it.
    Opaque,
    Other,
}

/// An intact TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Ethernet, IP and TCP.
    headers: &'a [u8],
    network_at: usize,
    transport_at: usize,
    is_ipv6: bool,
    payload_bytes: usize,
    is_padded: bool,
    /// Its checksum is that of the pseudo-header only.
    is_partial: bool,
}

/// Where a frame came from: frames of different origins are of different flows, whatever is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub vni: Vni,
    pub vtep: IpAddr,
}

/// Reads an inner frame, checksums first.
pub fn read<'a>(frame: &Frame<'a>) -> Inner<'a> {
    let bytes = frame.bytes();
    let is_ipv6 = match network_header(bytes) {
        Some((ETHERTYPE_IPV4, _)) => false,
        Some((ETHERTYPE_IPV6, _)) => true,
        _ => return Inner::Other,
    };
    let Some(headers) = Headers::parse(bytes) else { return Inner::Opaque };
    let ip_bytes = headers.transport_at - headers.network_at;
    let is_plain = if is_ipv6 { ip_bytes == IPV6_HEADER_BYTES } else { ip_bytes == IPV4_HEADER_BYTES_MIN };
    let ip = &bytes[headers.network_at..];
    let is_fragment = !is_ipv6 && (ip[6] & 0xbf != 0 || ip[7] != 0);
    match headers.protocol {
        PROTOCOL_TCP if is_plain && !is_fragment => {
            read_tcp(bytes, &headers).map_or(Inner::Opaque, Inner::Tcp)
        }
        PROTOCOL_TCP => Inner::Opaque,
        // Fragments, and extensions that are not passed over.
        44 | 50 | 51 | 135 if is_ipv6 => Inner::Opaque,
        _ => Inner::Other,
    }
}

fn read_tcp<'a>(bytes: &'a [u8], headers: &Headers) -> Option<Segment<'a>> {
    let ip = &bytes[headers.network_at..];
    let packet = ip.get(..headers.packet_bytes(bytes))?;
    let transport = packet.get(headers.transport_at - headers.network_at..)?;
    let tcp_bytes = tcp_header_bytes(transport)?;
    let pseudo = Sum::pseudo_header(headers.addresses(bytes), PROTOCOL_TCP, transport.len());
    let is_complete = pseudo.bytes(transport).is_intact();
    let is_partial =
        !is_complete && transport[TCP_CHECKSUM_AT.into()..][..2] == pseudo.folded().to_be_bytes();
    let is_intact = headers.is_ipv6 || Sum::default().bytes(&ip[..IPV4_HEADER_BYTES_MIN]).is_intact();
    (is_intact && (is_complete || is_partial)).then_some(Segment {
        headers: &bytes[..headers.transport_at + tcp_bytes],
        network_at: headers.network_at,
        transport_at: headers.transport_at,
        is_ipv6: headers.is_ipv6,
        payload_bytes: transport.len() - tcp_bytes,
        is_padded: packet.len() < ip.len(),
        is_partial,
    })
}

impl Segment<'_> {
    fn tcp(&self) -> &[u8] {
        &self.headers[self.transport_at..]
    }

    fn flags(&self) -> u8 {
        self.tcp()[TCP_FLAGS_AT]
    }

    fn sequence(&self) -> u32 {
        let tcp = self.tcp();
        u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])
    }

    /// Of Ethernet, IP and TCP.
    pub fn header_bytes(&self) -> usize {
        self.headers.len()
    }

    /// Whether a group may begin with it: it may be part of one, and does not end it at once.
    pub fn begins_group(&self) -> bool {
        self.is_mergeable() && !self.ends_group()
    }

    /// What a TAP with this MTU is told about it when it is written alone.
    pub fn vnet(&self, mtu: usize) -> VnetHdr {
        if !self.is_partial {
            return VnetHdr { flags: F_DATA_VALID, ..VnetHdr::default() };
        }
        let csum_start = self.transport_at as u16;
        let vnet =
            VnetHdr { flags: F_NEEDS_CSUM, csum_start, csum_offset: TCP_CHECKSUM_AT, ..VnetHdr::default() };
        vxlan::uncut_tcp(vnet, self.headers, self.payload_bytes, mtu)
    }

    fn is_mergeable(&self) -> bool {
        self.payload_bytes > 0
            && !self.is_padded
            && !self.is_partial
            && self.flags() & (TCP_SYN | TCP_RST | TCP_URG) == 0
    }

    fn ends_group(&self) -> bool {
        self.flags() & (TCP_FIN | TCP_PSH) != 0
    }
}

/// Where something lies in the buffer that the batch was received into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Piece {
    at: u32,
    bytes: u16,
}

/// Contiguous segments of one flow.
#[derive(Debug)]
pub struct Group {
    origin: Origin,
    port: PortId,
    /// A virtio-net header, and the headers of the first segment.
    headers: [u8; vnet_hdr::HEADER_BYTES + HEADERS_BYTES_MAX],
    header_bytes: usize,
    network_at: usize,
    transport_at: usize,
    is_ipv6: bool,
    pieces: [Piece; SEGMENTS_MAX],
    count: usize,
    payload_bytes: usize,
}

/// How a segment relates to the open groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It was added to a group that goes on.
    Added,
    /// It was added to this group, which has to be written now.
    Completed(usize),
    /// It is of this group's flow and no part of it: the group has to be written before it.
    Breaks(usize),
    /// There is no group of its flow.
    New,
}

/// The open groups, oldest first.
#[derive(Debug)]
pub struct Coalescer {
    groups: [Box<Group>; GROUPS_MAX],
    open: usize,
}

impl Default for Coalescer {
    fn default() -> Coalescer {
        Coalescer { groups: std::array::from_fn(|_| Box::new(Group::unused())), open: 0 }
    }
}

impl Coalescer {
    /// Groups that are open: all indices below this one.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Adds a segment whose payload lies in the buffer at `payload_at` to its flow's group, if it continues that.
    pub fn add(&mut self, origin: Origin, segment: &Segment<'_>, payload_at: usize) -> Fit {
        let mut groups = self.groups[..self.open].iter_mut().enumerate();
        let Some((index, group)) = groups.find(|(_, group)| group.is_of_flow(origin, segment)) else {
            return Fit::New;
        };
        if !group.takes(segment) {
            return Fit::Breaks(index);
        }
        if group.push(segment, payload_at) { Fit::Completed(index) } else { Fit::Added }
    }

    /// Begins a group with a segment that [`Segment::begins_group`] and for whose flow there is none. There has to be
    /// room: fewer than [`GROUPS_MAX`] are open.
    pub fn begin(&mut self, origin: Origin, port: PortId, segment: &Segment<'_>, payload_at: usize) {
        self.groups[self.open].begin(origin, port, segment, payload_at);
        self.open += 1;
    }

    /// Takes a group out. What is returned is good until the next call.
    pub fn end(&mut self, index: usize) -> &mut Group {
        self.groups[index..self.open].rotate_left(1);
        self.open -= 1;
        &mut self.groups[self.open]
    }
}

impl Group {
    fn unused() -> Group {
        Group {
            origin: Origin { vni: Vni::new(1).expect("1 is a VNI"), vtep: IpAddr::V4([0; 4].into()) },
            port: PortId(0),
            headers: [0; vnet_hdr::HEADER_BYTES + HEADERS_BYTES_MAX],
            header_bytes: 0,
            network_at: 0,
            transport_at: 0,
            is_ipv6: false,
            pieces: [Piece::default(); SEGMENTS_MAX],
            count: 0,
            payload_bytes: 0,
        }
    }

    /// The port that it is for.
    pub fn port(&self) -> PortId {
        self.port
    }

    pub fn segments(&self) -> usize {
        self.count
    }

    fn begin(&mut self, origin: Origin, port: PortId, segment: &Segment<'_>, payload_at: usize) {
        (self.origin, self.port) = (origin, port);
        self.header_bytes = segment.headers.len();
        self.headers[vnet_hdr::HEADER_BYTES..][..self.header_bytes].copy_from_slice(segment.headers);
        (self.network_at, self.transport_at) = (segment.network_at, segment.transport_at);
        self.is_ipv6 = segment.is_ipv6;
        (self.count, self.payload_bytes) = (0, 0);
        self.append(segment, payload_at);
    }

    fn append(&mut self, segment: &Segment<'_>, payload_at: usize) {
        // A packet's length and a batch's fit.
        let piece = Piece { at: payload_at as u32, bytes: segment.payload_bytes as u16 };
        self.pieces[self.count] = piece;
        self.count += 1;
        self.payload_bytes += segment.payload_bytes;
    }

    /// Adds a segment that it takes. True if that completes it.
    fn push(&mut self, segment: &Segment<'_>, payload_at: usize) -> bool {
        self.append(segment, payload_at);
        let flags_at = self.transport_at + TCP_FLAGS_AT;
        self.frame_headers_mut()[flags_at] |= segment.flags() & (TCP_FIN | TCP_PSH);
        let is_full = self.count == SEGMENTS_MAX
            || self.packet_bytes() + usize::from(self.pieces[0].bytes) > PACKET_BYTES_MAX;
        segment.ends_group() || segment.payload_bytes < self.pieces[0].bytes.into() || is_full
    }

    fn frame_headers(&self) -> &[u8] {
        &self.headers[vnet_hdr::HEADER_BYTES..][..self.header_bytes]
    }

    fn frame_headers_mut(&mut self) -> &mut [u8] {
        &mut self.headers[vnet_hdr::HEADER_BYTES..][..self.header_bytes]
    }

    /// Where the addresses lie; the ports follow.
    fn addresses_at(&self) -> usize {
        self.network_at + if self.is_ipv6 { 8 } else { 12 }
    }

    fn packet_bytes(&self) -> usize {
        self.header_bytes - self.network_at + self.payload_bytes
    }

    fn is_of_flow(&self, origin: Origin, segment: &Segment<'_>) -> bool {
        let headers = self.frame_headers();
        let (addresses, ports) = (self.addresses_at(), self.transport_at);
        self.is_ipv6 == segment.is_ipv6
            && self.network_at == segment.network_at
            // The same VLAN, or none.
            && headers[TYPE_AT..self.network_at] == segment.headers[TYPE_AT..self.network_at]
            && headers[ports..ports + 4] == segment.headers[ports..ports + 4]
            && headers[addresses..ports] == segment.headers[addresses..ports]
            && self.origin == origin
    }

    /// Whether a segment of its flow continues it.
    fn takes(&self, segment: &Segment<'_>) -> bool {
        segment.is_mergeable()
            && segment.payload_bytes <= self.pieces[0].bytes.into()
            && self.packet_bytes() + segment.payload_bytes <= PACKET_BYTES_MAX
            && self.next_sequence() == segment.sequence()
            && self.header_bytes == segment.headers.len()
            && self.has_headers_of(segment)
    }

    fn next_sequence(&self) -> u32 {
        let tcp = &self.frame_headers()[self.transport_at..];
        u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(self.payload_bytes as u32)
    }

    /// The same in everything that the segments of one frame share.
    fn has_headers_of(&self, segment: &Segment<'_>) -> bool {
        let (own, other) = (self.frame_headers(), segment.headers);
        let (own_tcp, other_tcp) = (&own[self.transport_at..], segment.tcp());
        let own_flags = own_tcp[TCP_FLAGS_AT] & !(TCP_CWR | TCP_FIN | TCP_PSH);
        own[..ETHERNET_BYTES] == other[..ETHERNET_BYTES]
            && self.has_ip_header_of(&own[self.network_at..], &other[self.network_at..])
            // Acknowledgement and data offset, flags, window, urgent pointer and options.
            && own_tcp[8..TCP_FLAGS_AT] == other_tcp[8..TCP_FLAGS_AT]
            && own_flags == other_tcp[TCP_FLAGS_AT] & !(TCP_FIN | TCP_PSH)
            && own_tcp[14..16] == other_tcp[14..16]
            && own_tcp[18..] == other_tcp[18..]
    }

    /// Addresses have been compared.
    fn has_ip_header_of(&self, own: &[u8], other: &[u8]) -> bool {
        if self.is_ipv6 {
            return own[..4] == other[..4] && own[6..8] == other[6..8];
        }
        const DONT_FRAGMENT: u8 = 0x40;
        let first = u16::from_be_bytes([own[4], own[5]]);
        let identification = u16::from_be_bytes([other[4], other[5]]);
        let is_next = identification == first.wrapping_add(self.count as u16);
        own[..2] == other[..2] && own[6..10] == other[6..10] && (own[6] & DONT_FRAGMENT != 0 || is_next)
    }

    /// Makes the headers those of the whole. A single segment stays what it was, and is said to be verified.
    pub fn finish(&mut self) {
        let vnet = if self.count > 1 {
            self.finish_many()
        } else {
            VnetHdr { flags: F_DATA_VALID, ..VnetHdr::default() }
        };
        self.headers[..vnet_hdr::HEADER_BYTES].copy_from_slice(&vnet.to_bytes());
    }

    /// The headers, a virtio-net header in front. The payload follows.
    pub fn headers(&self) -> &[u8] {
        &self.headers[..vnet_hdr::HEADER_BYTES + self.header_bytes]
    }

    fn finish_many(&mut self) -> VnetHdr {
        let (packet_bytes, transport_at, is_ipv6) = (self.packet_bytes(), self.transport_at, self.is_ipv6);
        let (network_at, addresses_at) = (self.network_at, self.addresses_at());
        let transport_bytes = network_at + packet_bytes - transport_at;
        let gso_size = self.pieces[0].bytes;
        let headers = self.frame_headers_mut();
        let hdr_len = headers.len() as u16;
        let sum = Sum::pseudo_header(&headers[addresses_at..transport_at], PROTOCOL_TCP, transport_bytes);
        let checksum_at = transport_at + usize::from(TCP_CHECKSUM_AT);
        headers[checksum_at..][..2].copy_from_slice(&sum.folded().to_be_bytes());
        let ecn = headers[transport_at + TCP_FLAGS_AT] & TCP_CWR != 0;
        let ip = &mut headers[network_at..transport_at];
        if is_ipv6 {
            ip[4..6].copy_from_slice(&(transport_bytes as u16).to_be_bytes());
        } else {
            ip[2..4].copy_from_slice(&(packet_bytes as u16).to_be_bytes());
            ip[10..12].fill(0);
            let checksum = Sum::default().bytes(ip).checksum();
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        VnetHdr {
            flags: F_NEEDS_CSUM,
            gso_type: if is_ipv6 { GSO_TCPV6 } else { GSO_TCPV4 },
            ecn,
            hdr_len,
            gso_size,
            csum_start: transport_at as u16,
            csum_offset: TCP_CHECKSUM_AT,
        }
    }

    /// The payload, piece by piece, out of the buffer that the batch was received into.
    pub fn payload<'b>(&self, buffer: &'b [u8]) -> impl ExactSizeIterator<Item = &'b [u8]> + use<'b, '_> {
        self.pieces[..self.count].iter().map(move |piece| &buffer[piece.at as usize..][..piece.bytes.into()])
    }
}
