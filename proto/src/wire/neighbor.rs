//! Who has an address: ARP requests (RFC 826) and ICMPv6 neighbour solicitations (RFC 4861 section 4.3), the two
//! questions a switch can answer by itself or send to the one who can; and the answer that nobody asked for.
//!
//! [`solicited`] only tells where a question goes. [`answer`] checks the rest of it (addresses, checksum, hop limit).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Sum;
use super::ethernet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV6, Ethernet};
use crate::id::MacAddr;

/// Of ARP for IPv4 over Ethernet.
const ARP_BYTES: usize = 28;
/// Hardware type Ethernet, protocol IPv4, address lengths 6 and 4, operation request.
const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
const ARP_REPLY: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 2];

const IPV6_HEADER_BYTES: usize = 40;
/// Type, code, checksum, reserved, target.
const SOLICITATION_BYTES: usize = 24;
const NEXT_HEADER_ICMPV6: u8 = 58;
const TYPE_NEIGHBOR_SOLICITATION: u8 = 135;
const TYPE_NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// RFC 4861 section 7.1.1: proof that no router forwarded it.
const NDISC_HOP_LIMIT: u8 = 255;
/// With the option that holds the link-layer address.
const ADVERTISEMENT_BYTES: usize = 32;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_TARGET_ADDRESS: [u8; 2] = [2, 1];

/// Where the checksum lies in an ICMPv6 message.
pub const ICMPV6_CHECKSUM_AT: usize = 2;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Length of the longest answer.
pub const ANSWER_BYTES_MAX: usize = ethernet::HEADER_BYTES + IPV6_HEADER_BYTES + ADVERTISEMENT_BYTES;

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

/// Writes the answer "`mac` has it" to an untagged frame that asks for an address, and returns its length.
///
/// `None` for what is no valid question. `verify` is false where the frame never was on a wire and its checksum is not
/// complete.
pub fn answer(
    frame: &Ethernet<'_>,
    mac: MacAddr,
    verify: bool,
    answer: &mut [u8; ANSWER_BYTES_MAX],
) -> Option<usize> {
    match frame.ethertype() {
        ETHERTYPE_ARP => answer_arp(frame, mac, answer),
        ETHERTYPE_IPV6 => answer_solicitation(frame, mac, verify, answer),
        _ => None,
    }
}

/// A probe, which names no sender's address (RFC 5227 section 2.1), is answered like any other request.
fn answer_arp(frame: &Ethernet<'_>, mac: MacAddr, answer: &mut [u8; ANSWER_BYTES_MAX]) -> Option<usize> {
    let target = arp_target(frame.payload())?;
    let request = frame.payload().first_chunk::<ARP_BYTES>()?;
    let (asker, asker_ip) = (&request[8..14], &request[14..18]);
    if !MacAddr(*request[8..].first_chunk()?).is_unicast() {
        return None;
    }
    let mut rest = &mut answer[..];
    put(&mut rest, &[&frame.source().0, &mac.0, &ETHERTYPE_ARP.to_be_bytes()]);
    put(&mut rest, &[&ARP_REPLY, &mac.0, &target.octets(), asker, asker_ip]);
    Some(ethernet::HEADER_BYTES + ARP_BYTES)
}

/// RFC 4861 section 7.2.4. Who only probes for duplicates has no address to answer to: then all nodes are told.
fn answer_solicitation(
    frame: &Ethernet<'_>,
    mac: MacAddr,
    verify: bool,
    answer: &mut [u8; ANSWER_BYTES_MAX],
) -> Option<usize> {
    let target = solicitation_target(frame.payload())?;
    let (header, rest) = frame.payload().split_first_chunk::<IPV6_HEADER_BYTES>()?;
    let message = rest.get(..u16::from_be_bytes([header[4], header[5]]).into())?;
    let source = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
    let sum = Sum::pseudo_header(&header[8..], NEXT_HEADER_ICMPV6, message.len()).bytes(message);
    let is_whole = message.len() >= SOLICITATION_BYTES && message[1] == 0 && header[7] == NDISC_HOP_LIMIT;
    if !is_whole || verify && !sum.is_intact() || source.is_multicast() || target.is_multicast() {
        return None;
    }
    let asker = (!source.is_unspecified()).then(|| (frame.source(), source));
    Some(advertise(target, mac, asker, answer))
}

/// RFC 4861 section 4.4. With nobody who asked, all nodes are told.
fn advertise(
    target: Ipv6Addr,
    mac: MacAddr,
    asker: Option<(MacAddr, Ipv6Addr)>,
    out: &mut [u8; ANSWER_BYTES_MAX],
) -> usize {
    let (to_mac, to) = asker.unwrap_or((ALL_NODES_MAC, ALL_NODES));
    let flags = if asker.is_some() { FLAG_OVERRIDE | FLAG_SOLICITED } else { FLAG_OVERRIDE };
    let addresses = [target.octets(), to.octets()];
    let mut message = [0; ADVERTISEMENT_BYTES];
    let mut rest = &mut message[..];
    put(&mut rest, &[&[TYPE_NEIGHBOR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0], &target.octets()]);
    put(&mut rest, &[&OPTION_TARGET_ADDRESS, &mac.0]);
    let sum = Sum::pseudo_header(addresses.as_flattened(), NEXT_HEADER_ICMPV6, message.len()).bytes(&message);
    message[ICMPV6_CHECKSUM_AT..][..2].copy_from_slice(&sum.checksum().to_be_bytes());

    let mut rest = &mut out[..];
    put(&mut rest, &[&to_mac.0, &mac.0, &ETHERTYPE_IPV6.to_be_bytes()]);
    let length = ADVERTISEMENT_BYTES as u8;
    put(&mut rest, &[&[0x60, 0, 0, 0, 0, length, NEXT_HEADER_ICMPV6, NDISC_HOP_LIMIT]]);
    put(&mut rest, &[addresses.as_flattened(), &message]);
    ANSWER_BYTES_MAX
}

/// Writes "`mac` has `ip` now", for everybody who remembers another, and returns its length: an ARP announcement (RFC
/// 5227 section 3) or an unsolicited neighbour advertisement (RFC 4861 section 7.2.6).
pub fn announcement(ip: IpAddr, mac: MacAddr, out: &mut [u8; ANSWER_BYTES_MAX]) -> usize {
    match ip {
        IpAddr::V4(ip) => {
            let mut rest = &mut out[..];
            put(&mut rest, &[&MacAddr::BROADCAST.0, &mac.0, &ETHERTYPE_ARP.to_be_bytes()]);
            put(&mut rest, &[&ARP_REQUEST, &mac.0, &ip.octets(), &[0; 6], &ip.octets()]);
            ethernet::HEADER_BYTES + ARP_BYTES
        }
        IpAddr::V6(ip) => advertise(ip, mac, None, out),
    }
}

/// Moves `rest` behind the parts that it wrote. They fit: their lengths are fixed.
fn put(rest: &mut &mut [u8], parts: &[&[u8]]) {
    for part in parts {
        let (head, tail) = core::mem::take(rest).split_at_mut(part.len());
        head.copy_from_slice(part);
        *rest = tail;
    }
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

    const OWNER: MacAddr = MacAddr([2, 0x42, 10, 0, 0, 9]);

    #[test]
    fn an_announcement_tells_all() {
        let mut bytes = [0xee; ANSWER_BYTES_MAX];
        let length = announcement("10.0.0.9".parse().unwrap(), OWNER, &mut bytes);
        let frame = Ethernet::new(&bytes[..length]).unwrap();
        assert_eq!((frame.destination(), frame.source(), length), (MacAddr::BROADCAST, OWNER, 42));
        assert_eq!(solicited(&frame), Some("10.0.0.9".parse().unwrap()));
        assert_eq!(bytes[22..32], [2, 0x42, 10, 0, 0, 9, 10, 0, 0, 9], "the sender");

        let length = announcement("fd00::9".parse().unwrap(), OWNER, &mut bytes);
        let frame = Ethernet::new(&bytes[..length]).unwrap();
        assert_eq!((frame.destination(), frame.source(), length), (ALL_NODES_MAC, OWNER, 86));
        let (header, message) = frame.payload().split_at(IPV6_HEADER_BYTES);
        assert!(
            Sum::pseudo_header(&header[8..], NEXT_HEADER_ICMPV6, message.len()).bytes(message).is_intact()
        );
        assert_eq!((message[0], message[4]), (TYPE_NEIGHBOR_ADVERTISEMENT, FLAG_OVERRIDE));
        assert_eq!(message[24..], [2, 1, 2, 0x42, 10, 0, 0, 9], "whose address it is");
    }

    fn answered(question: &[u8], verify: bool) -> Option<Vec<u8>> {
        let mut bytes = [0xee; ANSWER_BYTES_MAX];
        let length = answer(&Ethernet::new(question).unwrap(), OWNER, verify, &mut bytes)?;
        Some(bytes[..length].to_vec())
    }

    /// With its checksum, and from the address with this last byte, or from none.
    fn solicitation(from: u8) -> [u8; 78] {
        let mut bytes = SOLICITATION;
        bytes[22..38].fill(0);
        if from != 0 {
            bytes[22] = 0xfd;
            bytes[37] = from;
        }
        let sum = Sum::pseudo_header(&bytes[22..54], 58, 24).bytes(&bytes[54..]);
        bytes[56..58].copy_from_slice(&sum.checksum().to_be_bytes());
        bytes
    }

    #[test]
    fn an_arp_reply() {
        let expected = [
            2, 0x42, 172, 17, 0, 2, 2, 0x42, 10, 0, 0, 9, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 2, // reply
            2, 0x42, 10, 0, 0, 9, 172, 17, 0, 1, // sender
            2, 0x42, 172, 17, 0, 2, 172, 17, 0, 2, // target
        ];
        assert_eq!(answered(&ARP, true).unwrap(), expected);
        let mut from_a_group = ARP;
        from_a_group[22] |= 1;
        assert_eq!(answered(&from_a_group, true), None);
    }

    #[test]
    fn a_neighbour_advertisement() {
        for (from, to_mac, to, flags) in [
            (2, MacAddr([2, 0x42, 172, 17, 0, 2]), "fd00::2", 0x60),
            (0, MacAddr([0x33, 0x33, 0, 0, 0, 1]), "ff02::1", 0x20),
        ] {
            let bytes = answered(&solicitation(from), true).unwrap();
            let header = [0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255];
            assert_eq!(bytes[..22], [&to_mac.0, &OWNER.0[..], &header].concat());
            let (target, to) = ("fd00::1".parse::<Ipv6Addr>().unwrap(), to.parse::<Ipv6Addr>().unwrap());
            assert_eq!(bytes[22..54], [target.octets(), to.octets()].concat());
            assert_eq!((bytes[54], bytes[55], &bytes[58..62]), (136, 0, &[flags, 0, 0, 0][..]));
            assert_eq!(bytes[62..], [&target.octets()[..], &[2, 1], &OWNER.0].concat());
            assert!(Sum::pseudo_header(&bytes[22..54], 58, 32).bytes(&bytes[54..]).is_intact());
        }
    }

    #[test]
    fn solicitations_are_checked() {
        let good = solicitation(2);
        assert!(answered(&good, true).is_some());
        assert!(answered(&SOLICITATION, true).is_none() && answered(&SOLICITATION, false).is_some());
        // Length beyond the end, hop limit, multicast source, code, multicast target.
        for (at, value) in [(19, 25), (19, 23), (21, 254), (22, 0xff), (55, 1), (62, 0xff)] {
            let mut bytes = good;
            bytes[at] = value;
            assert_eq!(answered(&bytes, false), None, "byte {at}");
        }
    }
}
