//! Requests and answers as literal bytes; checksums computed by hand where they are new.

use std::net::IpAddr;

use super::*;

const NOTHING: [u8; 12] = [0; 12];

fn network() -> Network {
    let mac = MacAddr([2, 0x42, 172, 17, 0, 1]);
    let ipv4 = Some(Ipv4Addr::new(172, 17, 0, 1));
    let ipv6 = Some("fd00::1".parse().unwrap());
    Network { gateway: Some(Gateway { mac, ipv4, ipv6 }), ..Network::default() }
}

/// The answer without its virtio-net header, which must be empty.
fn ask_with(vnet: [u8; 12], frame: &[u8]) -> Option<Vec<u8>> {
    let raw = [&vnet, frame].concat();
    let mut reply = vec![0xee; raw.len() + 8];
    let length = answer(&network(), &Frame::parse(&raw).unwrap(), &mut reply)?;
    assert_eq!(reply[..12], NOTHING);
    assert!(reply[length..].iter().all(|byte| *byte == 0xee), "written beyond its length");
    Some(reply[12..length].to_vec())
}

fn ask(frame: &[u8]) -> Option<Vec<u8>> {
    ask_with(NOTHING, frame)
}

/// `bytes` with one of them changed.
fn with(bytes: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    assert_ne!(bytes[at], value);
    bytes[at] = value;
    bytes
}

const ARP_REQUEST: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0x42, 172, 17, 0, 2, 8, 6, // Ethernet
    0, 1, 8, 0, 6, 4, 0, 1, // request
    2, 0x42, 172, 17, 0, 2, 172, 17, 0, 2, // sender
    0, 0, 0, 0, 0, 0, 172, 17, 0, 1, // target
];

#[test]
fn arp() {
    #[rustfmt::skip]
    let expected = [
        2, 0x42, 172, 17, 0, 2, 2, 0x42, 172, 17, 0, 1, 8, 6,
        0, 1, 8, 0, 6, 4, 0, 2,
        2, 0x42, 172, 17, 0, 1, 172, 17, 0, 1,
        2, 0x42, 172, 17, 0, 2, 172, 17, 0, 2,
    ];
    assert_eq!(ask(&ARP_REQUEST).unwrap(), expected);
    let padded = [&ARP_REQUEST[..], &[0; 18]].concat();
    assert_eq!(ask(&padded).unwrap(), expected);
    let unicast = [&expected[6..12], &ARP_REQUEST[6..]].concat();
    assert_eq!(ask(&unicast).unwrap(), expected, "a neighbour that is checked again");
}

#[test]
fn the_ipv4_address_is_defended() {
    // RFC 5227: a probe has no sender address, an announcement has the claimed one.
    let mut probe = ARP_REQUEST;
    probe[28..32].fill(0);
    let answer = ask(&probe).unwrap();
    assert_eq!(
        (&answer[22..32], &answer[38..]),
        (&[2, 0x42, 172, 17, 0, 1, 172, 17, 0, 1][..], &[0, 0, 0, 0][..])
    );
    let mut announcement = ARP_REQUEST;
    announcement[31] = 1;
    assert_eq!(ask(&announcement).unwrap()[22..32], [2, 0x42, 172, 17, 0, 1, 172, 17, 0, 1]);
}

#[test]
fn arp_that_has_no_answer() {
    for (at, value, why) in [
        (41, 9, "another target"),
        (21, 2, "a reply"),
        (15, 6, "another hardware type"),
        (18, 8, "another address length"),
        (22, 0xff, "a multicast sender"),
        (6, 3, "a multicast source"),
        (11, 1, "the gateway's own source"),
    ] {
        assert_eq!(ask(&with(&ARP_REQUEST, at, value)), None, "{why}");
    }
    (14..42).for_each(|length| assert_eq!(ask(&ARP_REQUEST[..length]), None));
}

const PING: [u8; 50] = [
    2, 0x42, 172, 17, 0, 1, 2, 0x42, 172, 17, 0, 2, 8, 0, // Ethernet
    0x45, 0, 0, 36, 0x12, 0x34, 0x40, 0, 63, 1, 0xd1, 0x7f, 172, 17, 0, 2, 172, 17, 0, 1, // IPv4
    8, 0, 0x66, 0x62, 0, 7, 0, 1, // echo request, id 7, number 1
    0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, // abcdefgh
];

#[test]
fn ping() {
    #[rustfmt::skip]
    let expected = [
        2, 0x42, 172, 17, 0, 2, 2, 0x42, 172, 17, 0, 1, 8, 0,
        0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 1, 0xe2, 0xb3, 172, 17, 0, 1, 172, 17, 0, 2,
        0, 0, 0x6e, 0x62, 0, 7, 0, 1,
        0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    ];
    let correct = with_ipv4_checksums(PING.to_vec());
    assert_eq!(correct, PING, "the request itself");
    assert_eq!(ask(&PING).unwrap(), expected);
    let padded = [&PING[..], &[0xaa; 10]].concat();
    assert_eq!(ask(&padded).unwrap(), expected, "padding is not echoed");
}

/// Fills in both checksums of an ICMP frame without IPv4 options, by RFC 1071 and not by the code under test.
fn with_ipv4_checksums(mut frame: Vec<u8>) -> Vec<u8> {
    for (field, from, to) in [(24, 14, 34), (36, 34, frame.len())] {
        frame[field..field + 2].fill(0);
        let words = frame[from..to]
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[field..field + 2].copy_from_slice(&(!sum as u16).to_be_bytes());
    }
    frame
}

#[test]
fn a_ping_as_large_as_a_packet_can_be() {
    let mut large = [&PING[..], &vec![0x5a; 65_535 - 36]].concat();
    large[16..18].copy_from_slice(&65_535u16.to_be_bytes());
    let large = with_ipv4_checksums(large);
    let reply = ask(&large).unwrap();
    assert_eq!(reply.len(), large.len());
    assert_eq!(reply[38..], large[38..]);
    assert_eq!(with_ipv4_checksums(reply.clone()), reply);
}

#[test]
fn ping_that_has_no_answer() {
    let changed = |at, value| with_ipv4_checksums(with(&PING, at, value));
    for (frame, why) in [
        (with(&PING, 49, 0), "a wrong ICMP checksum"),
        (with(&PING, 22, 9), "a wrong IPv4 checksum"),
        (changed(33, 9), "another destination"),
        (changed(0, 4), "another station's"),
        (changed(34, 0), "an echo reply"),
        (changed(23, 17), "UDP"),
        (changed(20, 0x20), "more fragments"),
        (changed(21, 1), "a later fragment"),
        (changed(26, 224), "a multicast source"),
        (changed(26, 127), "a loopback source"),
        (changed(29, 1), "the gateway's own source"),
        (changed(17, 37), "longer than the frame"),
        (changed(14, 0x65), "another version"),
        (changed(14, 0x44), "a header that is too short"),
    ] {
        assert_eq!(ask(&frame), None, "{why}");
    }
    (14..PING.len()).for_each(|length| assert_eq!(ask(&PING[..length]), None));
}

#[test]
fn options_are_accepted_and_not_repeated() {
    let mut frame = PING.to_vec();
    frame.splice(34..34, [1, 1, 1, 0]);
    frame[14] = 0x46;
    frame[17] = 40;
    frame[24..26].copy_from_slice(&[0xce, 0x7a]);
    assert_eq!(ask(&frame), ask(&PING));
    assert!(ask(&frame).is_some());
}

#[test]
fn a_partial_checksum_is_accepted_where_the_metadata_names_it() {
    let partial = with(&PING, 36, 0);
    assert_eq!(ask(&partial), None);
    let vnet = |csum_start, csum_offset| [1, 0, 0, 0, 0, 0, csum_start, 0, csum_offset, 0, 0, 0];
    assert_eq!(ask_with(vnet(34, 2), &partial), ask(&PING), "and the answer's is complete");
    for (csum_start, csum_offset) in [(34, 0), (32, 4), (14, 10), (34, 4)] {
        assert_eq!(ask_with(vnet(csum_start, csum_offset), &partial), None);
        assert_eq!(ask_with(vnet(csum_start, csum_offset), &PING), None);
    }
}

const SOLICITATION: [u8; 86] = [
    0x33, 0x33, 0xff, 0, 0, 1, 2, 0x42, 172, 17, 0, 2, 0x86, 0xdd, // Ethernet
    0x60, 0, 0, 0, 0, 32, 58, 255, // IPv6
    0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, // from fd00::2
    0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1, // to ff02::1:ff00:1
    135, 0, 0, 0, 0, 0, 0, 0, // neighbour solicitation, checksum to be filled in
    0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // for fd00::1
    1, 1, 2, 0x42, 172, 17, 0, 2, // source link-layer address
];

/// Fills in the ICMPv6 checksum (RFC 8200 section 8.1), not by the code under test.
fn with_icmpv6_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[56..58].fill(0);
    let words =
        frame[22..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum::<u32>() + (frame.len() as u32 - 54) + 58;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[56..58].copy_from_slice(&(!sum as u16).to_be_bytes());
    frame
}

#[test]
fn neighbour_solicitation() {
    #[rustfmt::skip]
    let expected = [
        2, 0x42, 172, 17, 0, 2, 2, 0x42, 172, 17, 0, 1, 0x86, 0xdd,
        0x60, 0, 0, 0, 0, 32, 58, 255,
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
        136, 0, 0, 0, 0xe0, 0, 0, 0,
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        2, 1, 2, 0x42, 172, 17, 0, 1,
    ];
    let request = with_icmpv6_checksum(SOLICITATION.to_vec());
    assert_eq!(ask(&request).unwrap(), with_icmpv6_checksum(expected.to_vec()));

    // Neighbour unreachability detection asks the gateway alone, mostly without the option.
    let mut unicast = request[..78].to_vec();
    unicast[..6].copy_from_slice(&[2, 0x42, 172, 17, 0, 1]);
    unicast[19] = 24;
    unicast.copy_within(70..78, 46);
    unicast[38..46].copy_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ask(&with_icmpv6_checksum(unicast)).unwrap(), with_icmpv6_checksum(expected.to_vec()));
}

#[test]
fn the_ipv6_address_is_defended() {
    // RFC 4862 section 5.4.2: from the unspecified address, without the option.
    let mut probe = SOLICITATION[..78].to_vec();
    probe[19] = 24;
    probe[22..38].fill(0);
    let answer = ask(&with_icmpv6_checksum(probe)).unwrap();
    assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(answer[38..54], ALL_NODES.octets());
    assert_eq!(answer[58], 0xa0, "router, override, not solicited");
    assert_eq!(answer[62..78], "fd00::1".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(with_icmpv6_checksum(answer.clone()), answer);
}

#[test]
fn solicitations_that_have_no_answer() {
    let request = with_icmpv6_checksum(SOLICITATION.to_vec());
    let changed = |at, value| with_icmpv6_checksum(with(&request, at, value));
    for (frame, why) in [
        (with(&request, 56, 0), "a wrong checksum"),
        (changed(21, 64), "it crossed a router"),
        (changed(55, 1), "an unknown code"),
        (changed(77, 2), "another target"),
        (changed(53, 2), "another group"),
        (changed(54, 136), "an advertisement"),
        (changed(54, 133), "a router solicitation"),
        (changed(37, 1), "the gateway's own source"),
        (changed(22, 0xff), "a multicast source"),
        (changed(20, 17), "UDP"),
        (changed(79, 0), "an option of length 0"),
    ] {
        assert_eq!(ask(&frame), None, "{why}");
    }
    (14..request.len()).for_each(|length| assert_eq!(ask(&request[..length]), None));
}

#[test]
fn ping_6() {
    let mut ping = SOLICITATION[..66].to_vec();
    ping[..6].copy_from_slice(&[2, 0x42, 172, 17, 0, 1]);
    ping[19] = 12;
    ping[21] = 64;
    ping[38..54].copy_from_slice(&"fd00::1".parse::<Ipv6Addr>().unwrap().octets());
    ping[54..66].copy_from_slice(&[128, 0, 0, 0, 0, 7, 0, 1, 0x61, 0x62, 0x63, 0x64]);
    let ping = with_icmpv6_checksum(ping);
    let reply = ask(&ping).unwrap();
    assert_eq!(reply[..14], [2, 0x42, 172, 17, 0, 2, 2, 0x42, 172, 17, 0, 1, 0x86, 0xdd]);
    assert_eq!((&reply[22..38], &reply[38..54]), (&ping[38..54], &ping[22..38]));
    assert_eq!((reply[54], &reply[58..]), (129, &[0, 7, 0, 1, 0x61, 0x62, 0x63, 0x64][..]));
    assert_eq!(with_icmpv6_checksum(reply.clone()), reply);

    let changed = |at, value| with_icmpv6_checksum(with(&ping, at, value));
    assert_eq!(ask(&with(&ping, 65, 0)), None, "a wrong checksum");
    assert_eq!(ask(&changed(53, 9)), None, "another destination");
    assert_eq!(ask(&changed(0, 0x33)), None, "not sent to the gateway");
    let mut nobody = ping.clone();
    nobody[22..38].fill(0);
    assert_eq!(ask(&with_icmpv6_checksum(nobody)), None, "nobody to answer to");
    assert_eq!(ask_with([1, 0, 0, 0, 0, 0, 54, 0, 2, 0, 0, 0], &with(&ping, 56, 0)), Some(reply));
}

#[test]
fn what_is_not_the_gateways() {
    let raw = [&NOTHING, &ARP_REQUEST[..]].concat();
    let frame = Frame::parse(&raw).unwrap();
    assert_eq!(answer(&Network::default(), &frame, &mut [0; 100]), None, "no gateway");
    let mut small = [0; 53];
    assert_eq!(answer(&network(), &frame, &mut small), None, "no room");
    assert_eq!(answer(&network(), &frame, &mut [0; 54]), Some(54));

    let mut v6_only = network();
    v6_only.gateway.as_mut().unwrap().ipv4 = None;
    assert_eq!(answer(&v6_only, &frame, &mut [0; 100]), None);

    let tagged = [&ARP_REQUEST[..12], &[0x81, 0, 0, 5], &ARP_REQUEST[12..]].concat();
    assert_eq!(ask(&tagged), None);
}

// --- names ---------------------------------------------------------------------------------------------------------

use crate::forward::tables::Names;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

const QUESTION: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01";

fn named() -> Network {
    let addresses = [("web".into(), vec!["172.17.0.9".parse().unwrap()])];
    let names = Names { network: "net".into(), addresses: addresses.into(), ..Names::default() };
    Network { names, ..network() }
}

const CONTAINER: [u8; 6] = [2, 0x42, 172, 17, 0, 2];
const GATEWAY: [u8; 6] = [2, 0x42, 172, 17, 0, 1];

fn resolve(vnet: [u8; 12], frame: &[u8]) -> Option<Vec<u8>> {
    let (raw, mut reply) = ([&vnet, frame].concat(), vec![0; 2000]);
    let length = answer(&named(), &Frame::parse(&raw).unwrap(), &mut reply)?;
    Some(reply[12..length].to_vec())
}

fn ipv4_question(to: [u8; 4], port: u16) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2(CONTAINER, GATEWAY).ipv4([172, 17, 0, 2], to, 64).udp(40_000, port);
    let mut frame = Vec::new();
    packet.write(&mut frame, QUESTION).unwrap();
    frame
}

/// The payload, after a look at who sends it to whom, and at the checksum.
fn told(reply: &[u8], from: IpAddr) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(reply).unwrap();
    assert_eq!((&reply[..6], &reply[6..12]), (&CONTAINER[..], &GATEWAY[..]));
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("it is not UDP: {packet:?}") };
    assert_eq!((udp.source_port(), udp.destination_port()), (53, 40_000));
    let (source, checksum) = match packet.net.unwrap() {
        etherparse::NetSlice::Ipv4(ip) => (
            IpAddr::V4(ip.header().source_addr()),
            udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap(),
        ),
        etherparse::NetSlice::Ipv6(ip) => (
            IpAddr::V6(ip.header().source_addr()),
            udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap(),
        ),
        other => panic!("it is not IP: {other:?}"),
    };
    assert_eq!((source, udp.checksum()), (from, checksum));
    udp.payload().to_vec()
}

#[test]
fn names_are_told_at_the_gateway_and_on_the_way_through_it() {
    for server in [[172, 17, 0, 1], [192, 0, 2, 53]] {
        let reply = resolve(NOTHING, &ipv4_question(server, 53)).unwrap();
        let payload = told(&reply, server.into());
        let server = dns::Server::Gateway;
        let query = dns::Query { server, source_port: 40_000, message: QUESTION };
        assert_eq!(Some(payload.clone()), dns::answer(&named().names, query));
        assert!(payload.ends_with(&[172, 17, 0, 9]));
    }
    assert_eq!(resolve(NOTHING, &ipv4_question([172, 17, 0, 1], 5353)), None);
    let (to_other, fragment) = (
        with(&ipv4_question([192, 0, 2, 53], 53), 0, 6),
        with(&ipv4_question([192, 0, 2, 53], 53), 20, 0x20),
    );
    assert_eq!((resolve(NOTHING, &to_other), resolve(NOTHING, &fragment)), (None, None));
    assert_eq!(resolve(NOTHING, &with(&ipv4_question([172, 17, 0, 1], 53), 60, 0xff)), None, "damaged");
}

#[test]
fn who_was_asked_for_a_name_that_nobody_here_has() {
    let code = |server: [u8; 4]| {
        let mut raw = [&NOTHING[..], &ipv4_question(server, 53)].concat();
        let at = raw.windows(3).position(|bytes| bytes == b"web").unwrap();
        raw[at..at + 3].copy_from_slice(b"wee");
        // No checksum, which IPv4 allows (RFC 768).
        raw[12 + 40..12 + 42].fill(0);
        let mut reply = vec![0; 2000];
        let length = answer(&named(), &Frame::parse(&raw).unwrap(), &mut reply).unwrap();
        told(&reply[12..length], server.into())[3] & 0xf
    };
    assert_eq!((code([172, 17, 0, 1]), code([192, 0, 2, 53])), (5, 3));
}

#[test]
fn a_question_with_a_partial_checksum_is_one() {
    let mut frame = ipv4_question([172, 17, 0, 1], 53);
    // Flags, then where the datagram begins and where in it the checksum lies.
    let vnet = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
    frame[40] ^= 0x55;
    assert!(resolve(vnet, &frame).is_some());
    assert_eq!(resolve([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], &frame), None, "that of TCP");
}

#[test]
fn names_over_ipv6() {
    let (container, gateway): (Ipv6Addr, Ipv6Addr) = ("fd00::2".parse().unwrap(), "fd00::1".parse().unwrap());
    let packet = PacketBuilder::ethernet2(CONTAINER, GATEWAY).ipv6(container.octets(), gateway.octets(), 64);
    let mut frame = Vec::new();
    packet.udp(40_000, 53).write(&mut frame, QUESTION).unwrap();
    let reply = resolve(NOTHING, &frame).unwrap();
    assert!(told(&reply, gateway.into()).ends_with(&[172, 17, 0, 9]));
}
