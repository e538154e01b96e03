//! What is outside of the frame: the VXLAN header, and the flow that decides about the outer source port.

use vswitch_proto::id::Vni;
use vswitch_proto::wire::ethernet::HEADER_BYTES;
use vswitch_proto::wire::vxlan::Vxlan;

use super::verdict::DropReason;
use crate::frame::Frame;
use crate::frame::headers::{Headers, IPV4_HEADER_BYTES_MIN};

/// Takes the inner frame out of what came over the underlay, with the checks that need no tables.
///
/// An inner frame with a VLAN tag is dropped (RFC 7348 section 6.1). Offload metadata never crosses a wire: the frame
/// is complete, or corrupt.
pub fn decapsulate(datagram: &[u8]) -> Result<(Vni, Frame<'_>), DropReason> {
    let packet = Vxlan::parse(datagram).map_err(|_| DropReason::BadVxlan)?;
    let frame = Frame::complete(packet.inner).map_err(|_| DropReason::BadVxlan)?;
    if frame.is_tagged() {
        return Err(DropReason::InnerVlan);
    }
    let vni = packet.vni.ok_or(DropReason::UnknownVni)?;
    Ok((vni, frame))
}

/// The same for all frames of a flow, and mostly different for frames of different ones: over addresses, protocol and
/// ports, for a fragment without the ports, which only the first one has, and over MAC addresses for what is not IP.
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
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const SCTP: u8 = 132;
    matches!(headers.protocol, TCP | UDP | SCTP) && !is_ipv4_fragment(headers, frame)
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
        assert_eq!(change(20, 0x81), Err(DropReason::InnerVlan));
        assert_eq!(change(7, 0xff), Ok(()), "reserved");
        for length in 0..8 + 14 {
            assert_eq!(decapsulate(&datagram[..length]).map(|_| ()), Err(DropReason::BadVxlan), "{length}");
        }
    }
}
