//! Where the headers of a frame lie. Bounds are checked here once; an offset that is handed out lies inside the frame.

use vswitch_proto::wire::ethernet;

pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_UDP: u8 = 17;
pub const IPV4_HEADER_BYTES_MIN: usize = 20;
pub const IPV6_HEADER_BYTES: usize = 40;
pub const TCP_HEADER_BYTES_MIN: usize = 20;
pub const UDP_HEADER_BYTES: usize = 8;

pub const VLAN_TAG_BYTES: usize = 4;

/// Extension headers that are passed over: Linux accepts one of each kind it knows, which is fewer.
const IPV6_EXTENSIONS_MAX: usize = 8;

/// The headers of an IP packet behind at most two VLAN tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    pub is_ipv6: bool,
    /// Where the IP header begins, bytes from the start of the frame.
    pub network_at: usize,
    pub protocol: u8,
    /// Where the header behind IP's and its options or extensions begins; at most the frame's length.
    pub transport_at: usize,
    /// It has a routing header, so its destination is not the last one.
    pub is_routed: bool,
}

impl Headers {
    /// `None` for a frame without a whole IP header. The transport header may be anything.
    pub fn parse(frame: &[u8]) -> Option<Headers> {
        let (ethertype, network_at) = network_header(frame)?;
        let packet = frame.get(network_at..)?;
        let is_ipv6 = ethertype == ethernet::ETHERTYPE_IPV6;
        let (protocol, ip_bytes, is_routed) = match ethertype {
            ethernet::ETHERTYPE_IPV4 => ipv4_header(packet)?,
            ethernet::ETHERTYPE_IPV6 => ipv6_headers(packet)?,
            _ => return None,
        };
        let transport_at = network_at + ip_bytes;
        let fits = transport_at <= frame.len();
        fits.then_some(Headers { is_ipv6, network_at, protocol, transport_at, is_routed })
    }

    /// Length of the IP packet as its header says, whether there is as much or not.
    pub fn packet_bytes(&self, frame: &[u8]) -> usize {
        let ip = &frame[self.network_at..];
        let length = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
        if self.is_ipv6 { IPV6_HEADER_BYTES + length(4) } else { length(2) }
    }

    /// Source and destination address, one behind the other.
    pub fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let addresses = if self.is_ipv6 { 8..IPV6_HEADER_BYTES } else { 12..IPV4_HEADER_BYTES_MIN };
        &frame[self.network_at + addresses.start..self.network_at + addresses.end]
    }
}

pub(super) fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, ethernet::ETHERTYPE_VLAN | ethernet::ETHERTYPE_QINQ)
}

/// The EtherType behind up to two VLAN tags, and where its header begins.
pub fn network_header(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = ethernet::HEADER_BYTES;
    for _ in 0..3 {
        let ethertype = u16::from_be_bytes([*frame.get(at - 2)?, *frame.get(at - 1)?]);
        if !is_vlan(ethertype) {
            return Some((ethertype, at));
        }
        at += VLAN_TAG_BYTES;
    }
    None
}

/// Protocol and header length (RFC 791 section 3.1).
fn ipv4_header(packet: &[u8]) -> Option<(u8, usize, bool)> {
    let header = packet.first_chunk::<IPV4_HEADER_BYTES_MIN>()?;
    let bytes = usize::from(header[0] & 0x0f) * 4;
    let fits = header[0] >> 4 == 4 && bytes >= IPV4_HEADER_BYTES_MIN && bytes <= packet.len();
    fits.then_some((header[9], bytes, false))
}

/// Protocol, length of the header with its extensions, and whether one is a routing header (RFC 8200 section 4). A
/// fragment's header is not passed over: its protocol is that of the extension.
fn ipv6_headers(packet: &[u8]) -> Option<(u8, usize, bool)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;

    let header = packet.first_chunk::<IPV6_HEADER_BYTES>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (mut next, mut at, mut is_routed) = (header[6], IPV6_HEADER_BYTES, false);
    for _ in 0..=IPV6_EXTENSIONS_MAX {
        if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION) {
            return Some((next, at, is_routed));
        }
        let extension = packet.get(at..at + 2)?;
        is_routed |= next == ROUTING;
        next = extension[0];
        at += 8 + usize::from(extension[1]) * 8;
    }
    None
}

/// Header length from the data offset (RFC 9293 section 3.1).
pub fn tcp_header_bytes(transport: &[u8]) -> Option<usize> {
    let header = transport.first_chunk::<TCP_HEADER_BYTES_MIN>()?;
    let bytes = usize::from(header[12] >> 4) * 4;
    (bytes >= TCP_HEADER_BYTES_MIN && bytes <= transport.len()).then_some(bytes)
}
