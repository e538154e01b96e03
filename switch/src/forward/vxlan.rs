//! What is outside of the frame: the VXLAN header, and the flow that decides about the outer source port.

use vswitch_proto::id::Vni;
use vswitch_proto::wire::checksum::Sum;
use vswitch_proto::wire::ethernet::{ETHERTYPE_IPV6, HEADER_BYTES};
use vswitch_proto::wire::vnet_hdr::{F_NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHdr};
use vswitch_proto::wire::vxlan::Vxlan;

use super::gso::{TCP_CWR, TCP_FLAGS_AT};
use super::verdict::DropReason;
use crate::frame::headers::{
    Headers, IPV4_HEADER_BYTES_MIN, PROTOCOL_TCP, PROTOCOL_UDP, UDP_HEADER_BYTES, VLAN_TAG_BYTES,
    network_header, tcp_header_bytes,
};
use crate::frame::{Frame, TCP_CHECKSUM_AT, UDP_CHECKSUM_AT};

/// Takes the inner frame out of what came over the underlay, with the checks that need no tables.
///
/// Whether an inner frame may have a VLAN tag depends on who sent it. Offload metadata never crosses a wire: the frame is
/// complete, or corrupt.
pub fn decapsulate(datagram: &[u8]) -> Result<(Vni, Frame<'_>), DropReason> {
    let packet = Vxlan::parse(datagram).map_err(|_| DropReason::BadVxlan)?;
    let frame = Frame::complete(packet.inner).map_err(|_| DropReason::BadVxlan)?;
    let vni = packet.vni.ok_or(DropReason::UnknownVni)?;
    Ok((vni, frame))
}

/// What a TAP with this MTU is told about an inner frame that nobody has verified: nothing, unless its checksum is not
/// finished.
///
/// A kernel whose packets never see a wire, because the underlay is a virtual one, leaves the inner checksum of TCP and
/// UDP to an interface that never comes, and a UDP socket has no way to say so. Then the checksum is the sum of the
/// pseudo-header. That a finished one has this value by chance does no harm: finishing it gives the same again. That a
/// corrupt one has it is as likely as that it verifies.
pub fn unfinished(frame: &Frame<'_>, mtu: usize) -> VnetHdr {
    let bytes = frame.bytes();
    let Some(vnet) = partial_checksum(bytes) else { return VnetHdr::default() };
    let transport = &bytes[vnet.csum_start.into()..];
    match tcp_header_bytes(transport) {
        Some(header_bytes) if vnet.csum_offset == TCP_CHECKSUM_AT => {
            let (headers, payload) = bytes.split_at(usize::from(vnet.csum_start) + header_bytes);
            uncut_tcp(vnet, headers, payload.len(), mtu)
        }
        _ => vnet,
    }
}

/// Completes what a TAP is told about a TCP segment with a partial checksum.
///
/// Such a kernel does not cut TSO frames either. The size of their segments is lost; what is longer than the MTU is
/// given the size that fits it.
pub(super) fn uncut_tcp(vnet: VnetHdr, headers: &[u8], payload_bytes: usize, mtu: usize) -> VnetHdr {
    let Some((ethertype, network_at)) = network_header(headers) else { return vnet };
    // One tag does not count against the MTU, a second one does, as in `Frame::packet_bytes`.
    let second_tag_bytes = (network_at - HEADER_BYTES).saturating_sub(VLAN_TAG_BYTES);
    let header_bytes = headers.len() - network_at + second_tag_bytes;
    let gso_type = if ethertype == ETHERTYPE_IPV6 { GSO_TCPV6 } else { GSO_TCPV4 };
    let flags_at = usize::from(vnet.csum_start) + TCP_FLAGS_AT;
    match u16::try_from(mtu.saturating_sub(header_bytes)) {
        Ok(gso_size) if gso_size > 0 && header_bytes + payload_bytes > mtu => VnetHdr {
            gso_type,
            ecn: headers.get(flags_at).is_some_and(|flags| flags & TCP_CWR != 0),
            hdr_len: headers.len() as u16,
            gso_size,
            ..vnet
        },
        _ => vnet,
    }
}

/// Reads a message that is not several datagrams, as the kernel seems to say, but one with a USO frame inside.
///
/// A kernel whose packets never see a wire does not cut those either, and a socket with UDP_GRO gets the inner segment
/// size as if it were the outer one. It is told by the first inner packet, which says of itself that it is exactly as
/// long as the whole message, and that its checksum is not finished. No packet that our side sends says so falsely
/// ([`super::gso`] drops what is shorter than it says). Another sender, which a static remote may be, passes on what its
/// containers say. But it puts a header of its own in front of each packet, so where there is one in the place of the
/// second there are several datagrams, and nobody can have those that follow his taken for his own. A payload that has
/// these bytes by chance, 40 bits of which must agree, costs its frame.
pub fn uncut(message: &[u8], segment_bytes: usize) -> Option<(Vni, Frame<'_>, VnetHdr)> {
    let gso_size = u16::try_from(segment_bytes).ok()?;
    if message.get(segment_bytes..).is_some_and(begins_with_header) {
        return None;
    }
    let (vni, frame) = decapsulate(message).ok()?;
    let vnet = partial_checksum(frame.bytes())?;
    let headers = Headers::parse(frame.bytes())?;
    let is_whole = headers.packet_bytes(frame.bytes()) == frame.bytes().len() - headers.network_at;
    let header_bytes = headers.transport_at + UDP_HEADER_BYTES;
    let is_udp = headers.protocol == PROTOCOL_UDP && message.len() > segment_bytes;
    let vnet = VnetHdr { gso_type: GSO_UDP_L4, gso_size, hdr_len: header_bytes as u16, ..vnet };
    (is_whole && is_udp && frame.bytes().len() > header_bytes).then_some((vni, frame, vnet))
}

/// The header of any network, as senders write it: the reserved bits are zero (RFC 7348 section 5).
fn begins_with_header(bytes: &[u8]) -> bool {
    matches!(bytes, [8, 0, 0, 0, _, _, _, 0, ..])
}

fn partial_checksum(frame: &[u8]) -> Option<VnetHdr> {
    let headers = Headers::parse(frame).filter(|headers| !is_ipv4_fragment(headers, frame))?;
    let csum_offset = match headers.protocol {
        PROTOCOL_TCP => TCP_CHECKSUM_AT,
        PROTOCOL_UDP => UDP_CHECKSUM_AT,
        _ => return None,
    };
    let end = headers.network_at + headers.packet_bytes(frame);
    let transport = frame.get(headers.transport_at..end)?;
    let field = transport.get(csum_offset.into()..)?.first_chunk::<2>()?;
    let sum = Sum::pseudo_header(headers.addresses(frame), headers.protocol, transport.len());
    let is_partial = *field == sum.folded().to_be_bytes();
    let csum_start = headers.transport_at as u16;
    is_partial.then(|| VnetHdr { flags: F_NEEDS_CSUM, csum_start, csum_offset, ..VnetHdr::default() })
}

/// The same for all frames of a flow, and mostly different for frames of different ones: over addresses, protocol and
/// ports, for a fragment without the ports, which only the first one has, and over MAC addresses for what is not IP.
///
/// So a flow of UDP of which some datagrams are fragmented and others are not has two, as the kernel's own tunnels have it:
/// a datagram of one kind may overtake one of the other.
pub fn flow_hash(frame: &[u8]) -> u32 {
    let Some(headers) = Headers::parse(frame) else {
        return mix(0, frame.get(..HEADER_BYTES).unwrap_or(frame));
    };
    let hash = mix(headers.protocol.into(), headers.addresses(frame));
    // TCP, UDP, SCTP and others have their ports first; a protocol without ports has something else there, which then
    // may spread one flow of it over several ports.
    match frame.get(headers.transport_at..headers.transport_at + 4) {
        Some(ports) if has_ports(&headers, frame) => mix(hash.into(), ports),
        _ => hash,
    }
}

fn has_ports(headers: &Headers, frame: &[u8]) -> bool {
    const SCTP: u8 = 132;
    matches!(headers.protocol, PROTOCOL_TCP | PROTOCOL_UDP | SCTP) && !is_ipv4_fragment(headers, frame)
}

/// A fragment of IPv6 shows by its protocol.
fn is_ipv4_fragment(headers: &Headers, frame: &[u8]) -> bool {
    let header = frame.get(headers.network_at..headers.network_at + IPV4_HEADER_BYTES_MIN);
    // More fragments, or an offset.
    !headers.is_ipv6 && header.is_some_and(|header| header[6] & 0x3f != 0 || header[7] != 0)
}

/// Multiplicative hashing, eight bytes at a time. It need not resist anybody: who provokes collisions shares one port
/// with himself.
fn mix(seed: u64, bytes: &[u8]) -> u32 {
    let mut hash = seed ^ 0x2545_f491_4f6c_dd1d;
    let (words, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    for word in words.iter().chain([&last]) {
        let product = u128::from(hash ^ u64::from_le_bytes(*word)) * 0x9e37_79b9_7f4a_7c15;
        hash = (product as u64) ^ (product >> 64) as u64;
    }
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn ipv4(protocol: u8, fragment: [u8; 2], source: u8, ports: [u8; 4]) -> Vec<u8> {
        let ip = [0x45, 0, 0, 28, 0, 0, fragment[0], fragment[1], 64, protocol, 0, 0, 10, 0, 0, source];
        [&[2; 12][..], &[8, 0], &ip, &[10, 0, 0, 2], &ports, &[0; 4]].concat()
    }

    const DF: [u8; 2] = [0x40, 0];

    #[test]
    fn a_flow_is_told_by_addresses_protocol_and_ports() {
        let flow = flow_hash(&ipv4(6, DF, 1, [1, 2, 3, 4]));
        let mut same = ipv4(6, DF, 1, [1, 2, 3, 4]);
        same.extend([7; 100]);
        same[18] = 99;
        assert_eq!(flow_hash(&same), flow, "identification and payload are not looked at");
        for other in
            [ipv4(17, DF, 1, [1, 2, 3, 4]), ipv4(6, DF, 3, [1, 2, 3, 4]), ipv4(6, DF, 1, [1, 2, 3, 5])]
        {
            assert_ne!(flow_hash(&other), flow);
        }
        let ping = |id| flow_hash(&ipv4(1, DF, 1, [8, 0, id, id]));
        assert_eq!(ping(1), ping(2), "ICMP has no ports");
    }

    #[test]
    fn fragments_stay_together() {
        let first = flow_hash(&ipv4(17, [0x20, 0], 1, [1, 2, 3, 4]));
        assert_eq!(flow_hash(&ipv4(17, [0x20, 1], 1, [9, 9, 9, 9])), first);
        assert_eq!(flow_hash(&ipv4(17, [0, 7], 1, [8, 8, 8, 8])), first);
    }

    #[test]
    fn flows_spread() {
        for sockets in [16, 64] {
            let ports = 0..1000u16;
            let used: Vec<u32> = ports
                .map(|port| {
                    let [a, b] = port.to_be_bytes();
                    flow_hash(&ipv4(6, DF, 1, [a, b, 0, 80])) % sockets
                })
                .collect();
            assert_eq!(used.iter().collect::<HashSet<_>>().len(), sockets as usize);
            let busiest = (0..sockets).map(|i| used.iter().filter(|&&n| n == i).count()).max().unwrap();
            assert!(busiest < 3 * 1000 / sockets as usize, "{busiest} of 1000 flows on one of {sockets}");
        }
        let arp = |last| flow_hash(&[&[0xff; 6][..], &[2, 0, 0, 0, 0, last], &[8, 6, 0, 1]].concat());
        assert_ne!(arp(1), arp(2));
    }

    #[test]
    fn what_comes_out_of_a_tunnel() {
        let header = [8, 0, 0, 0, 0, 0x10, 0, 0];
        let inner = [&[2; 12][..], &[8, 0, 1, 2, 3]].concat();
        let datagram = [&header[..], &inner].concat();
        let (vni, frame) = decapsulate(&datagram).unwrap();
        assert_eq!((vni.get(), frame.bytes()), (4096, &inner[..]));

        let change = |at: usize, byte| {
            let mut datagram = datagram.clone();
            datagram[at] = byte;
            decapsulate(&datagram).map(|_| ())
        };
        assert_eq!(change(0, 0), Err(DropReason::BadVxlan), "no I flag");
        assert_eq!(change(5, 0), Err(DropReason::UnknownVni), "VNI 0");
        assert_eq!(change(20, 0x81), Ok(()), "a tag, of which the tables know whether it may pass");
        assert_eq!(change(7, 0xff), Ok(()), "reserved");
        for length in 0..8 + 14 {
            assert_eq!(decapsulate(&datagram[..length]).map(|_| ()), Err(DropReason::BadVxlan), "{length}");
        }
    }

    #[test]
    fn unfinished_checksums_are_seen() {
        let mut frame = ipv4(17, DF, 1, [0x30, 0x39, 0, 53]);
        frame[38..40].copy_from_slice(&[0, 8]);
        let vnet = |frame: &[u8]| unfinished(&Frame::complete(frame).unwrap(), 1450);
        assert_eq!(vnet(&frame), VnetHdr::default(), "none at all");
        // 0a00 + 0001 + 0a00 + 0002 + 0011 + 0008
        frame[40..42].copy_from_slice(&[0x14, 0x1c]);
        let partial = VnetHdr { flags: F_NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..VnetHdr::default() };
        assert_eq!(vnet(&frame), partial);
        frame.extend([0; 18]);
        assert_eq!(vnet(&frame), partial, "padding");
        for (at, value) in [(41, 0x1d), (23, 1), (20, 0x20), (17, 27), (17, 200), (14, 0x60)] {
            let mut other = frame.clone();
            other[at] = value;
            assert_eq!(vnet(&other), VnetHdr::default(), "byte {at}");
        }
        (14..42).for_each(|n| assert_eq!(vnet(&frame[..n]), VnetHdr::default()));
    }

    /// TCP with a partial checksum and this much payload, over IPv4 without options.
    fn uncut_segment(flags: u8, payload_bytes: usize) -> Vec<u8> {
        let mut frame = ipv4(6, DF, 1, [0x30, 0x39, 0, 80]);
        frame.resize(34 + 20 + payload_bytes, 7);
        frame[34 + 12] = 0x50;
        frame[34 + TCP_FLAGS_AT] = flags;
        frame[16..18].copy_from_slice(&(40 + payload_bytes as u16).to_be_bytes());
        let partial = Sum::pseudo_header(&frame[26..34], PROTOCOL_TCP, 20 + payload_bytes).folded();
        frame[50..52].copy_from_slice(&partial.to_be_bytes());
        frame
    }

    #[test]
    fn tcp_that_a_kernel_did_not_cut_is_cut_by_the_mtu() {
        for flags in [0x10, 0x10 | TCP_CWR] {
            let frame = uncut_segment(flags, 9000);
            let vnet = unfinished(&Frame::complete(&frame).unwrap(), 1450);
            let expected = VnetHdr {
                flags: F_NEEDS_CSUM,
                gso_type: GSO_TCPV4,
                ecn: flags & TCP_CWR != 0,
                hdr_len: 54,
                gso_size: 1410,
                csum_start: 34,
                csum_offset: 16,
            };
            assert_eq!(vnet, expected);
            assert!(Frame::parse(&[&vnet.to_bytes(), &frame[..]].concat()).is_ok());
        }
        for (tags, gso_size) in [(&[0x81, 0, 0, 5][..], 1410), (&[0x88, 0xa8, 0, 6, 0x81, 0, 0, 5], 1406)] {
            let frame = uncut_segment(0x10, 9000);
            let frame = [&frame[..12], tags, &frame[12..]].concat();
            let vnet = unfinished(&Frame::complete(&frame).unwrap(), 1450);
            assert_eq!((vnet.gso_type, vnet.gso_size), (GSO_TCPV4, gso_size));
            let raw = [&vnet.to_bytes(), &frame[..]].concat();
            assert_eq!(Frame::parse(&raw).unwrap().packet_bytes(), 1450, "as long as the MTU allows");
        }
        let fits = unfinished(&Frame::complete(&uncut_segment(0x10, 1410)).unwrap(), 1450);
        assert_eq!((fits.needs_csum(), fits.is_gso()), (true, false));
    }

    #[test]
    fn udp_that_a_kernel_did_not_cut_is_one_frame() {
        let mut frame = ipv4(17, DF, 1, [0x30, 0x39, 0, 53]);
        frame.resize(34 + 8 + 3000, 7);
        frame[16..18].copy_from_slice(&3028u16.to_be_bytes());
        frame[38..40].copy_from_slice(&3008u16.to_be_bytes());
        let partial = Sum::pseudo_header(&frame[26..34], PROTOCOL_UDP, 3008).folded();
        frame[40..42].copy_from_slice(&partial.to_be_bytes());
        let message = [&[8, 0, 0, 0, 0, 0x10, 0, 0], &frame[..]].concat();

        let (vni, inner, vnet) = uncut(&message, 1000).unwrap();
        assert_eq!((vni.get(), inner.bytes()), (4096, &frame[..]));
        assert_eq!((vnet.gso_type, vnet.gso_size, vnet.csum_start), (GSO_UDP_L4, 1000, 34));
        assert!(Frame::parse(&[&vnet.to_bytes(), &frame[..]].concat()).is_ok());

        let is_uncut = |message: &[u8], segment_bytes| uncut(message, segment_bytes).is_some();
        assert!(!is_uncut(&message, message.len()), "one datagram");
        assert!(!is_uncut(&message[..message.len() - 1], 1000) && !is_uncut(&message, 1 << 16));
        let mut checked = message.clone();
        checked[8 + 40] ^= 1;
        assert!(!is_uncut(&checked, 1000), "a finished checksum");
        let longer = [&message[..], &[0]].concat();
        assert!(!is_uncut(&longer, 1000), "something follows");
        // The first of several datagrams, whose sender claims those behind it, of his network or of another one.
        for vni in [0x10, 0x11] {
            let mut forged = message.clone();
            forged[1000..1008].copy_from_slice(&[8, 0, 0, 0, 0, vni, 0, 0]);
            assert!(!is_uncut(&forged, 1000), "network {vni}00");
            assert!(is_uncut(&forged, 999) && is_uncut(&forged, 1001), "it is payload elsewhere");
        }
    }
}
