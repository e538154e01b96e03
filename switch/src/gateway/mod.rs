//! The layer-3 side of a network: who answers at its gateway address.
//!
//! [`answer`] takes a frame for which the verdict was [`Gateway`](crate::forward::Verdict::Gateway) and writes the
//! frame that goes back to where it came from. It answers three things, by RFC 826, RFC 4861 section 7.2 and RFC 792
//! and 4443, and questions for names:
//!
//! - ARP requests for the gateway's IPv4 address;
//! - neighbour solicitations for its IPv6 address, as a router (a default route via that address needs no more);
//! - echo requests to either address;
//! - DNS queries over UDP, to either address or to any other that a container sends by way of the gateway: there is no
//!   way on from here, so no other resolver would answer (see [`dns`]).
//!
//! A container that asks whether the gateway's address is free (RFC 5227 section 2.1, RFC 4862 section 5.4) asks for
//! that address like anybody else; the answer defends it. One that announces it as its own does not come as far.
//!
//! It keeps no state and sends nothing by itself. It answers at most one frame with one frame, to the container that it
//! came from, and how often it may be asked by broadcast is up to storm control.
//!
//! # Limits
//! Fragments are not reassembled, so an echo request that exceeds the MTU of the path has no answer. Frames with a
//! VLAN tag are not the gateway's.
//!
//! # Checksums
//! What arrives is verified. A frame with a partial checksum never was on a wire; it is accepted only if the offload
//! metadata names exactly the checksum field that would have been verified. What is written is always complete.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::phy::{Checksum, ChecksumCapabilities};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress, UdpPacket, UdpRepr,
};
use vswitch_proto::id::MacAddr;
use vswitch_proto::wire::{ethernet, vnet_hdr};

use crate::forward::tables::{Gateway, Network};
use crate::frame::Frame;

pub mod dns;

/// RFC 4861 section 7.1.1: proof that no router forwarded it.
const NDISC_HOP_LIMIT: u8 = 255;
const ECHO_HOP_LIMIT: u8 = 64;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Where the checksum field lies in an ICMP and in an ICMPv6 message.
const ICMP_CHECKSUM_AT: usize = 2;
/// The same in a UDP datagram.
const UDP_CHECKSUM_AT: usize = 6;

/// Writes the gateway's answer to `frame`, an empty virtio-net header in front, and returns its length.
///
/// `None` if it has nothing to say to this frame or if `reply` is too small. A buffer for the longest frame, and 8 more
/// bytes, is enough.
pub fn answer(network: &Network, frame: &Frame<'_>, reply: &mut [u8]) -> Option<usize> {
    let gateway = network.gateway.as_ref()?;
    let source = frame.ethernet().source();
    if frame.vnet().is_gso() || !source.is_unicast() || source == gateway.mac {
        return None;
    }
    match frame.ethernet().ethertype() {
        ethernet::ETHERTYPE_ARP => answer_arp(gateway, frame, reply),
        ethernet::ETHERTYPE_IPV4 => answer_ipv4(network, gateway, frame, reply),
        ethernet::ETHERTYPE_IPV6 => answer_ipv6(network, gateway, frame, reply),
        _ => None,
    }
}

fn answer_arp(gateway: &Gateway, frame: &Frame<'_>, reply: &mut [u8]) -> Option<usize> {
    let ip = gateway.ipv4?;
    let request = ArpRepr::parse(&ArpPacket::new_checked(frame.ethernet().payload()).ok()?).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = request
    else {
        return None;
    };
    if target_protocol_addr != ip || !source_hardware_addr.is_unicast() {
        return None;
    }
    let answer = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: hardware(gateway.mac),
        source_protocol_addr: ip,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let to = frame.ethernet().source();
    let (payload, total) = begin(reply, gateway.mac, to, EthernetProtocol::Arp, answer.buffer_len())?;
    answer.emit(&mut ArpPacket::new_unchecked(payload));
    Some(total)
}

fn answer_ipv4(network: &Network, gateway: &Gateway, frame: &Frame<'_>, reply: &mut [u8]) -> Option<usize> {
    let ip = gateway.ipv4?;
    let packet = Ipv4Packet::new_checked(frame.ethernet().payload()).ok()?;
    let header = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok()?;
    let is_fragment = packet.more_frags() || packet.frag_offset() != 0;
    let is_for_us = frame.ethernet().destination() == gateway.mac;
    if !is_for_us || is_fragment || !may_ask_ipv4(header.src_addr, ip) {
        return None;
    }
    let payload_at = ethernet::HEADER_BYTES + usize::from(packet.header_len());
    match header.next_header {
        IpProtocol::Icmp if header.dst_addr == ip => echo_ipv4(gateway, (frame, payload_at), &packet, reply),
        IpProtocol::Udp => {
            let ends = (header.src_addr.into(), header.dst_addr.into());
            let query = Query { frame, payload_at, ends };
            let (answer, udp) = resolve(network, &query, packet.payload())?;
            let header = Ipv4Repr {
                src_addr: header.dst_addr,
                dst_addr: header.src_addr,
                next_header: IpProtocol::Udp,
                payload_len: udp.header_len() + answer.len(),
                hop_limit: ECHO_HOP_LIMIT,
            };
            let bytes = header.buffer_len() + header.payload_len;
            let to = frame.ethernet().source();
            let (payload, total) = begin(reply, gateway.mac, to, EthernetProtocol::Ipv4, bytes)?;
            let mut packet = Ipv4Packet::new_unchecked(payload);
            header.emit(&mut packet, &ChecksumCapabilities::default());
            let ends = (header.src_addr.into(), header.dst_addr.into());
            emit_udp(&udp, ends, &answer, packet.payload_mut());
            Some(total)
        }
        _ => None,
    }
}

fn echo_ipv4(
    gateway: &Gateway,
    (frame, payload_at): (&Frame<'_>, usize),
    packet: &Ipv4Packet<&[u8]>,
    reply: &mut [u8],
) -> Option<usize> {
    let mut verify = ChecksumCapabilities::default();
    verify.icmpv4 = checksum_to_verify(frame, payload_at, ICMP_CHECKSUM_AT)?;
    let message = Icmpv4Packet::new_checked(packet.payload()).ok()?;
    let Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) = Icmpv4Repr::parse(&message, &verify) else {
        return None;
    };

    let echo = Icmpv4Repr::EchoReply { ident, seq_no, data };
    let header = Ipv4Repr {
        src_addr: packet.dst_addr(),
        dst_addr: packet.src_addr(),
        next_header: IpProtocol::Icmp,
        payload_len: echo.buffer_len(),
        hop_limit: ECHO_HOP_LIMIT,
    };
    let bytes = header.buffer_len() + echo.buffer_len();
    let to = frame.ethernet().source();
    let (payload, total) = begin(reply, gateway.mac, to, EthernetProtocol::Ipv4, bytes)?;
    let mut packet = Ipv4Packet::new_unchecked(payload);
    header.emit(&mut packet, &ChecksumCapabilities::default());
    echo.emit(&mut Icmpv4Packet::new_unchecked(packet.payload_mut()), &ChecksumCapabilities::default());
    Some(total)
}

fn answer_ipv6(network: &Network, gateway: &Gateway, frame: &Frame<'_>, reply: &mut [u8]) -> Option<usize> {
    let ip = gateway.ipv6?;
    let packet = Ipv6Packet::new_checked(frame.ethernet().payload()).ok()?;
    let header = Ipv6Repr::parse(&packet).ok()?;
    if header.src_addr == ip || header.src_addr.is_multicast() {
        return None;
    }
    let payload_at = ethernet::HEADER_BYTES + header.buffer_len();
    match header.next_header {
        IpProtocol::Icmpv6 => {}
        IpProtocol::Udp
            if frame.ethernet().destination() == gateway.mac && !header.src_addr.is_unspecified() =>
        {
            let ends = (header.src_addr.into(), header.dst_addr.into());
            let query = Query { frame, payload_at, ends };
            let (answer, udp) = resolve(network, &query, packet.payload())?;
            return emit_udp_ipv6(gateway, (frame, &header), (&answer, &udp), reply);
        }
        _ => return None,
    }

    let mut verify = ChecksumCapabilities::default();
    verify.icmpv6 = checksum_to_verify(frame, payload_at, ICMP_CHECKSUM_AT)?;
    let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
    let request = Icmpv6Repr::parse(&header.src_addr, &header.dst_addr, &message, &verify).ok()?;
    match request {
        Icmpv6Repr::EchoRequest { ident, seq_no, data } => {
            let is_for_us = frame.ethernet().destination() == gateway.mac && header.dst_addr == ip;
            if !is_for_us || header.src_addr.is_unspecified() {
                return None;
            }
            let echo = Icmpv6Repr::EchoReply { ident, seq_no, data };
            let to = (frame.ethernet().source(), header.src_addr);
            emit_icmpv6(gateway, to, ECHO_HOP_LIMIT, &echo, reply)
        }
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) => {
            let is_valid = header.hop_limit == NDISC_HOP_LIMIT && message.msg_code() == 0;
            if !is_valid || target_addr != ip || !is_solicited(header.dst_addr, ip) {
                return None;
            }
            advertise(gateway, frame.ethernet().source(), header.src_addr, reply)
        }
        _ => None,
    }
}

/// A UDP packet that came this way.
struct Query<'a> {
    frame: &'a Frame<'a>,
    /// From the start of the frame.
    payload_at: usize,
    /// Source and destination.
    ends: (IpAddress, IpAddress),
}

/// The answer to a question for a name, with the ports that it goes between.
fn resolve(network: &Network, query: &Query<'_>, datagram: &[u8]) -> Option<(Vec<u8>, UdpRepr)> {
    let mut verify = ChecksumCapabilities::default();
    verify.udp = checksum_to_verify(query.frame, query.payload_at, UDP_CHECKSUM_AT)?;
    let datagram = UdpPacket::new_checked(datagram).ok()?;
    let udp = UdpRepr::parse(&datagram, &query.ends.0, &query.ends.1, &verify).ok()?;
    if udp.dst_port != dns::PORT {
        return None;
    }
    let gateway = network.gateway.as_ref()?;
    let own = [gateway.ipv4.map(IpAddress::from), gateway.ipv6.map(IpAddress::from)];
    let server =
        if own.contains(&Some(query.ends.1)) { dns::Server::Gateway } else { dns::Server::Elsewhere };
    let query = dns::Query { server, source_port: udp.src_port, message: datagram.payload() };
    let answer = dns::answer(&network.names, query)?;
    Some((answer, UdpRepr { src_port: udp.dst_port, dst_port: udp.src_port }))
}

fn emit_udp(udp: &UdpRepr, ends: (IpAddress, IpAddress), payload: &[u8], bytes: &mut [u8]) {
    let mut datagram = UdpPacket::new_unchecked(bytes);
    let fill = |room: &mut [u8]| room.copy_from_slice(payload);
    udp.emit(&mut datagram, &ends.0, &ends.1, payload.len(), fill, &ChecksumCapabilities::default());
}

fn emit_udp_ipv6(
    gateway: &Gateway,
    (frame, asked): (&Frame<'_>, &Ipv6Repr),
    (answer, udp): (&[u8], &UdpRepr),
    reply: &mut [u8],
) -> Option<usize> {
    let header = Ipv6Repr {
        src_addr: asked.dst_addr,
        dst_addr: asked.src_addr,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + answer.len(),
        hop_limit: ECHO_HOP_LIMIT,
    };
    let bytes = header.buffer_len() + header.payload_len;
    let to = frame.ethernet().source();
    let (payload, total) = begin(reply, gateway.mac, to, EthernetProtocol::Ipv6, bytes)?;
    let mut packet = Ipv6Packet::new_unchecked(payload);
    header.emit(&mut packet);
    let ends = (header.src_addr.into(), header.dst_addr.into());
    emit_udp(udp, ends, answer, packet.payload_mut());
    Some(total)
}

/// A neighbour advertisement (RFC 4861 section 7.2.4). A container that only probes for duplicates has no address to
/// answer to: then all nodes are told, of which that container alone hears it.
fn advertise(gateway: &Gateway, mac: MacAddr, asker: Ipv6Addr, reply: &mut [u8]) -> Option<usize> {
    let probe = asker.is_unspecified();
    let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, !probe);
    let advertisement = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags,
        target_addr: gateway.ipv6?,
        lladdr: Some(RawHardwareAddress::from(hardware(gateway.mac))),
    });
    let to = if probe { (ALL_NODES_MAC, ALL_NODES) } else { (mac, asker) };
    emit_icmpv6(gateway, to, NDISC_HOP_LIMIT, &advertisement, reply)
}

fn emit_icmpv6(
    gateway: &Gateway,
    (mac, dst_addr): (MacAddr, Ipv6Addr),
    hop_limit: u8,
    message: &Icmpv6Repr<'_>,
    reply: &mut [u8],
) -> Option<usize> {
    let src_addr = gateway.ipv6?;
    let payload_len = message.buffer_len();
    let header = Ipv6Repr { src_addr, dst_addr, next_header: IpProtocol::Icmpv6, payload_len, hop_limit };
    let bytes = header.buffer_len() + payload_len;
    let (payload, total) = begin(reply, gateway.mac, mac, EthernetProtocol::Ipv6, bytes)?;
    let mut packet = Ipv6Packet::new_unchecked(payload);
    header.emit(&mut packet);
    let mut body = Icmpv6Packet::new_unchecked(packet.payload_mut());
    message.emit(&src_addr, &dst_addr, &mut body, &ChecksumCapabilities::default());
    Some(total)
}

/// Writes the virtio-net and Ethernet headers; returns room for exactly `payload_bytes`, zeroed, and the length of
/// everything.
fn begin(
    reply: &mut [u8],
    from: MacAddr,
    to: MacAddr,
    ethertype: EthernetProtocol,
    payload_bytes: usize,
) -> Option<(&mut [u8], usize)> {
    let total = vnet_hdr::HEADER_BYTES + ethernet::HEADER_BYTES + payload_bytes;
    let reply = reply.get_mut(..total)?;
    reply.fill(0);
    let (_, bytes) = reply.split_at_mut(vnet_hdr::HEADER_BYTES);
    let header = EthernetRepr { src_addr: hardware(from), dst_addr: hardware(to), ethertype };
    header.emit(&mut EthernetFrame::new_unchecked(&mut *bytes));
    Some((&mut bytes[ethernet::HEADER_BYTES..], total))
}

/// Whether to verify the L4 checksum on receipt: yes if it is complete, no if it is the partial one of the payload that
/// begins at `payload_at` of the frame, `field_at` bytes into it. `None` if the partial checksum is of something else.
fn checksum_to_verify(frame: &Frame<'_>, payload_at: usize, field_at: usize) -> Option<Checksum> {
    let vnet = frame.vnet();
    if !vnet.needs_csum() {
        return Some(Checksum::Both);
    }
    let partial_at = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
    (partial_at == (payload_at, field_at)).then_some(Checksum::None)
}

/// RFC 1122 section 3.2.1.3: nobody has such a source address.
fn may_ask_ipv4(source: Ipv4Addr, gateway: Ipv4Addr) -> bool {
    let is_nobody = source.is_unspecified() || source.is_multicast() || source.is_broadcast();
    !is_nobody && !source.is_loopback() && source != gateway
}

/// The gateway's own address, or its solicited-node multicast address (RFC 4291 section 2.7.1).
fn is_solicited(destination: Ipv6Addr, gateway: Ipv6Addr) -> bool {
    let [.., a, b, c] = gateway.octets();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    destination == gateway || destination.octets() == group
}

fn hardware(mac: MacAddr) -> EthernetAddress {
    EthernetAddress(mac.0)
}

#[cfg(test)]
mod tests;
