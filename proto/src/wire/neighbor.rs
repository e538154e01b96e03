//! Who is asked for: the target of an ARP request (RFC 826) or of an ICMPv6 neighbour solicitation (RFC 4861
//! section 4.3), the two questions a switch can answer by itself or send to the one who can.
//!
//! This only tells where a question goes. Whoever answers it checks the rest (lengths, checksum, hop limit).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV6, Ethernet};

/// Of ARP for IPv4 over Ethernet.
const ARP_BYTES: usize = 28;
/// Hardware type Ethernet, protocol IPv4, address lengths 6 and 4, operation request.
const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];

const IPV6_HEADER_BYTES: usize = 40;
/// Type, code, checksum, reserved, target.
const SOLICITATION_BYTES: usize = 24;
const NEXT_HEADER_ICMPV6: u8 = 58;
const TYPE_NEIGHBOR_SOLICITATION: u8 = 135;

/// The address that an untagged frame asks for, if it asks for one.
pub fn solicited(frame: &Ethernet<'_>) -> Option<IpAddr> {
    match frame.ethertype() {
        ETHERTYPE_ARP => arp_target(frame.payload()).map(IpAddr::V4),
        ETHERTYPE_IPV6 => solicitation_target(frame.payload()).map(IpAddr::V6),
        _ => None,
    }
}

fn arp_target(payload: &[u8]) -> Option<Ipv4Addr> {
    let packet = payload.first_chunk::<ARP_BYTES>()?;
    if packet[..8] != ARP_REQUEST {
        return None;
    }
    let [.., a, b, c, d] = *packet;
    Some(Ipv4Addr::new(a, b, c, d))
}

fn solicitation_target(payload: &[u8]) -> Option<Ipv6Addr> {
    let (header, rest) = payload.split_first_chunk::<IPV6_HEADER_BYTES>()?;
    let message = rest.first_chunk::<SOLICITATION_BYTES>()?;
    if header[0] >> 4 != 6 || header[6] != NEXT_HEADER_ICMPV6 || message[0] != TYPE_NEIGHBOR_SOLICITATION {
        return None;
    }
    let (_, target) = message.split_last_chunk::<16>()?;
    Some(Ipv6Addr::from(*target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const ARP: [u8; 42] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0x42, 172, 17, 0, 2, 8, 6, // Ethernet
        0, 1, 8, 0, 6, 4, 0, 1, // request
        2, 0x42, 172, 17, 0, 2, 172, 17, 0, 2, // sender
        0, 0, 0, 0, 0, 0, 172, 17, 0, 1, // target
    ];

    const SOLICITATION: [u8; 78] = [
        0x33, 0x33, 0xff, 0, 0, 1, 2, 0x42, 172, 17, 0, 2, 0x86, 0xdd, // Ethernet
        0x60, 0, 0, 0, 0, 24, 58, 255, // IPv6
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, // fd00::2
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1, // ff02::1:ff00:1
        135, 0, 0, 0, 0, 0, 0, 0, // neighbour solicitation
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // fd00::1
    ];

    fn asked(bytes: &[u8]) -> Option<IpAddr> {
        solicited(&Ethernet::new(bytes).unwrap())
    }

    #[test]
    fn the_two_questions() {
        assert_eq!(asked(&ARP), Some("172.17.0.1".parse().unwrap()));
        assert_eq!(asked(&SOLICITATION), Some("fd00::1".parse().unwrap()));
        let padded: Vec<u8> = ARP.into_iter().chain([0; 18]).collect();
        assert_eq!(asked(&padded), Some("172.17.0.1".parse().unwrap()));
    }

    #[test]
    fn anything_else_asks_for_nobody() {
        for (at, value) in [(13, 0), (15, 6), (17, 1), (18, 8), (19, 16), (21, 2)] {
            let mut bytes = ARP;
            bytes[at] = value;
            assert_eq!(asked(&bytes), None, "ARP byte {at}");
        }
        for (at, value) in [(14, 0x40), (20, 17), (54, 136)] {
            let mut bytes = SOLICITATION;
            bytes[at] = value;
            assert_eq!(asked(&bytes), None, "IPv6 byte {at}");
        }
        (14..ARP.len()).for_each(|n| assert_eq!(asked(&ARP[..n]), None));
        (14..SOLICITATION.len()).for_each(|n| assert_eq!(asked(&SOLICITATION[..n]), None));
    }
}
