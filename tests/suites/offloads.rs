//! Offloads: whatever combination of them is on, what arrives is what was sent, and what is on the cable is right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::ensure;
use etherparse::{IpNumber, PacketBuilder};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use vswitch::worker::EngineKind;
use vswitch_tests::capture::{GOOD, Row, dissect};
use vswitch_tests::engines::engines;
use vswitch_tests::overlay::{CABLE, Cable, INTERFACE, Kind, Offloads, Pair, address, engine, mac, path, sh};
use vswitch_tests::packet::Packet;
use vswitch_tests::wait::{DEADLINE, eventually};

/// One transfer of the matrix, bytes: enough for full segments in both directions.
const TRANSFER: usize = 1 << 20;

/// The same in `make soak`.
const LONG_TRANSFER: usize = 200 << 20;

const OURS: Kind = Kind::Ours(Offloads::ALL);

const CABLES: [Cable; 4] = [
    Cable { is_ipv6: false, offloads: true },
    Cable { is_ipv6: false, offloads: false },
    Cable { is_ipv6: true, offloads: true },
    Cable { is_ipv6: true, offloads: false },
];

/// From which container, and whether in IPv6.
const WAYS: [(usize, bool); 4] = [(0, false), (0, true), (1, false), (1, true)];

/// Every combination on the first host against its complement on the second, in both directions and versions.
fn matrix(engine: Option<EngineKind>, cable: Cable, bytes: usize) {
    for own in Offloads::combinations() {
        let others = own.complement();
        let pair = Pair::with_engine(cable, [Kind::Ours(own), Kind::Ours(others)], engine);
        for (from, v6) in WAYS {
            pair.ping(from, v6);
            pair.transfer(from, v6, bytes);
            pair.segments(from, v6);
        }
        println!("{cable:?}, {own:?} and {others:?}: {}", pair.drops());
    }
}

#[test]
fn transfers_over_ipv4() {
    matrix(engine(), CABLES[0], TRANSFER);
}

#[test]
fn transfers_over_ipv4_without_offloads_of_the_cable() {
    matrix(engine(), CABLES[1], TRANSFER);
}

#[test]
fn transfers_over_ipv6() {
    matrix(engine(), CABLES[2], TRANSFER);
}

#[test]
fn transfers_over_ipv6_without_offloads_of_the_cable() {
    matrix(engine(), CABLES[3], TRANSFER);
}

/// With all offloads; `make soak` has it for every combination.
#[test]
fn long_transfers_over_every_cable() {
    for cable in CABLES {
        let pair = Pair::new(cable, [OURS, OURS]);
        for (from, v6) in WAYS {
            pair.ping(from, v6);
            pair.transfer(from, v6, LONG_TRANSFER);
        }
    }
}

#[test]
#[ignore = "half an hour: make soak"]
fn soak_transfers() {
    for engine in engines() {
        println!("with {engine}");
        CABLES.into_iter().for_each(|cable| matrix(Some(engine), cable, LONG_TRANSFER));
    }
}

/// What fits into an IPv4 packet.
const LONGEST: usize = 65_507;

/// Over one cable each; `make soak` has it for all.
fn every_size(cable: Cable, own: Offloads, (from, v6): (usize, bool)) {
    let pair = Pair::new(cable, [Kind::Ours(own), OURS]);
    pair.ping(from, v6);
    pair.datagrams(from, v6, 1..=LONGEST);
}

#[test]
fn datagrams_of_every_size_over_ipv4() {
    every_size(CABLES[0], Offloads::ALL, WAYS[0]);
}

#[test]
fn datagrams_of_every_size_over_ipv6_without_offloads() {
    every_size(CABLES[3], Offloads::NONE, WAYS[3]);
}

/// UDP up to the longest datagram there is, most of them fragmented by the containers' kernels.
fn datagrams(engine: EngineKind, step: usize) {
    const OWN: [Offloads; 2] = [Offloads::ALL, Offloads::NONE];
    for (cable, own) in CABLES.into_iter().flat_map(|cable| OWN.map(|own| (cable, own))) {
        let pair = Pair::with_engine(cable, [Kind::Ours(own), OURS], Some(engine));
        for (from, v6) in WAYS {
            pair.ping(from, v6);
            pair.datagrams(from, v6, (1..=LONGEST).step_by(step).chain([LONGEST]));
        }
    }
}

#[test]
fn datagrams_in_steps() {
    // A prime, so that no remainder is left out for long.
    engines().into_iter().for_each(|engine| datagrams(engine, 1511));
}

#[test]
#[ignore = "minutes: make soak"]
fn soak_datagrams() {
    engines().into_iter().for_each(|engine| datagrams(engine, 1));
}

const FIN: u16 = 1;
const PSH: u16 = 8;
const ACK: u16 = 16;
const CWR: u16 = 128;

/// ECN-capable transport (RFC 3168), as the last two bits of the traffic class.
const ECT0: u8 = 2;

const SEGMENT_BYTES: u16 = 1300;
const PAYLOAD_BYTES: usize = 20_000;
const IDENTIFICATION: u16 = 0xfffa;
const SEQUENCE: u32 = 0xffff_f000;

/// A frame of 16 segments as the container's kernel would make it: ECN-capable, with FIN, PSH and CWR.
fn unfinished(v6: bool) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(mac(0).0, mac(1).0);
    let payload: Vec<u8> = (0..PAYLOAD_BYTES).map(|i| (i * 7 + i / 251) as u8).collect();
    let builder = match (address(0, v6), address(1, v6)) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ethernet.ip(ipv4(source, destination)),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ethernet.ip(ipv6(source, destination)),
        _ => panic!("both are of the same version"),
    };
    let mut header = etherparse::TcpHeader::new(40_000, 9, SEQUENCE, 500);
    (header.fin, header.psh, header.ack, header.cwr) = (true, true, true, true);
    let builder = builder.tcp_header(header);
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload).expect("a frame can be written to memory");
    let transport = 14 + if v6 { 40 } else { 20 };
    // What is left to be done is summed up from here (virtio 1.2, section 5.1.6.2).
    let pseudo = pseudo_header_sum(&frame, transport, v6);
    frame[transport + 16..transport + 18].copy_from_slice(&pseudo.to_be_bytes());
    [vnet_header(transport, v6).as_slice(), &frame].concat()
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr) -> etherparse::IpHeaders {
    let mut header = etherparse::Ipv4Header::new(0, 64, IpNumber::TCP, source.octets(), destination.octets())
        .expect("nothing is too long");
    header.identification = IDENTIFICATION;
    header.ecn = ECT0.try_into().expect("two bits");
    etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr) -> etherparse::IpHeaders {
    let header = etherparse::Ipv6Header {
        traffic_class: ECT0,
        hop_limit: 64,
        next_header: IpNumber::TCP,
        source: source.octets(),
        destination: destination.octets(),
        ..etherparse::Ipv6Header::default()
    };
    etherparse::IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
}

fn pseudo_header_sum(frame: &[u8], transport: usize, v6: bool) -> u16 {
    let addresses = if v6 { 14 + 8..14 + 40 } else { 14 + 12..14 + 20 };
    let length = (frame.len() - transport) as u32;
    let words = frame[addresses].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum::<u32>() + length + 6;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// `struct virtio_net_hdr`, as a packet socket takes it: in the byte order of this machine.
fn vnet_header(transport: usize, v6: bool) -> [u8; 10] {
    const NEEDS_CSUM: u8 = 1;
    const GSO_TCPV4: u8 = 1;
    const GSO_TCPV6: u8 = 4;
    const GSO_ECN: u8 = 0x80;
    const TCP_CHECKSUM_AT: u16 = 16;
    let mut header = [0; 10];
    header[0] = NEEDS_CSUM;
    header[1] = if v6 { GSO_TCPV6 } else { GSO_TCPV4 } | GSO_ECN;
    let words = [transport as u16 + 20, SEGMENT_BYTES, transport as u16, TCP_CHECKSUM_AT];
    for (at, word) in words.into_iter().enumerate() {
        header[2 + 2 * at..4 + 2 * at].copy_from_slice(&word.to_ne_bytes());
    }
    header
}

/// In the order of [`Segment::of`].
const FIELDS: [&str; 9] = [
    "ip.checksum.status",
    "udp.checksum.status",
    "tcp.checksum.status",
    "ip.id",
    "tcp.flags",
    "tcp.seq_raw",
    "tcp.len",
    "ip.dsfield.ecn",
    "ipv6.tclass.ecn",
];

/// A TCP segment inside a tunnel.
#[derive(Debug, PartialEq, Eq)]
struct Segment {
    /// Of IPv4 only.
    identification: Option<u16>,
    flags: u16,
    sequence: u32,
    payload: u32,
    ecn: u32,
}

impl Segment {
    /// `None` if there is no TCP in it. Every checksum is right.
    fn of(row: &Row, v6: bool) -> Option<Segment> {
        // The inner headers come last.
        let last = |at: usize| row[at].last().map(|text| number(text));
        let flags = last(4)? as u16;
        // IPv6 has none of its own.
        for (statuses, headers) in [(&row[0], row[3].len()), (&row[1], 1), (&row[2], 1)] {
            assert_eq!(statuses.len(), headers, "not every checksum was looked at: {row:?}");
            assert!(statuses.iter().all(|status| status == GOOD), "a checksum is wrong: {row:?}");
        }
        Some(Segment {
            identification: last(3).filter(|_| !v6).map(|id| id as u16),
            flags,
            sequence: last(5)?,
            payload: last(6)?,
            ecn: last(if v6 { 8 } else { 7 })?,
        })
    }
}

/// As tshark prints it, decimal or not.
fn number(text: &str) -> u32 {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Sends an unfinished frame and returns what is on the cable, and what reaches the other container.
fn send_unfinished(pair: &Pair, v6: bool) -> [Vec<Vec<u8>>; 2] {
    pair.ping(0, v6);
    let captures =
        [Packet::open(&path(&pair.hosts[1]), CABLE), Packet::open(&path(&pair.containers[1]), INTERFACE)];
    let sender = Packet::open(&path(&pair.containers[0]), INTERFACE);
    sender.expect_vnet_headers();
    sender.send(&unfinished(v6)).expect("the interface takes it");
    // Ports, data offset: 40000 to 9. What is longer than its headers carries a part of the payload.
    let is_ours = |frame: &&Vec<u8>| frame.windows(4).any(|four| four == [0x9c, 0x40, 0, 9]);
    let mut frames = [Vec::new(), Vec::new()];
    eventually("all of the payload arrives", || {
        for (seen, capture) in frames.iter_mut().zip(&captures) {
            seen.extend(capture.drain().into_iter().filter(|frame| is_ours(&frame)));
        }
        let headers = 14 + if v6 { 40 } else { 20 } + 20;
        let arrived: usize = frames[1].iter().map(|frame| frame.len() - headers).sum();
        ensure!(arrived == PAYLOAD_BYTES, "{arrived} bytes; {}", pair.drops());
        Ok(())
    });
    frames
}

#[test]
fn segments_are_right_on_the_cable() {
    for (is_ipv6, v6) in [(false, false), (false, true), (true, false), (true, true)] {
        let pair = Pair::new(Cable { is_ipv6, offloads: false }, [OURS, OURS]);
        let [cable, _] = send_unfinished(&pair, v6);
        let rows = dissect(&cable, &FIELDS);
        let segments: Vec<Segment> = rows.iter().filter_map(|row| Segment::of(row, v6)).collect();
        let count = PAYLOAD_BYTES.div_ceil(SEGMENT_BYTES.into());
        let expected: Vec<Segment> = (0..count).map(|n| expected(n, count, v6)).collect();
        assert_eq!(segments, expected);
    }
}

fn expected(n: usize, count: usize, v6: bool) -> Segment {
    let (is_first, is_last) = (n == 0, n == count - 1);
    let before = n * usize::from(SEGMENT_BYTES);
    Segment {
        identification: (!v6).then(|| IDENTIFICATION.wrapping_add(n as u16)),
        flags: ACK | if is_first { CWR } else { 0 } | if is_last { FIN | PSH } else { 0 },
        sequence: SEQUENCE.wrapping_add(before as u32),
        payload: (PAYLOAD_BYTES - before).min(SEGMENT_BYTES.into()) as u32,
        ecn: ECT0.into(),
    }
}

/// UDP that a container's kernel leaves to be cut.
#[test]
fn datagrams_are_right_on_the_cable() {
    const BYTES: usize = 1000;
    const COUNT: usize = 20;
    const LAST_BYTES: usize = 7;
    const FIELDS: [&str; 5] =
        ["ip.checksum.status", "ip.id", "udp.checksum.status", "udp.length", "udp.dstport"];
    for (is_ipv6, v6) in [(false, false), (false, true), (true, false), (true, true)] {
        let pair = Pair::new(Cable { is_ipv6, offloads: false }, [OURS, OURS]);
        pair.ping(0, v6);
        let [sender, receiver] = [0, 1].map(|container| pair.udp(container, v6));
        receiver.set_read_timeout(Some(DEADLINE)).expect("it can be set");
        setsockopt(&sender, UdpGsoSegment, &(BYTES as i32)).expect("the kernel has UDP_SEGMENT");
        let to = receiver.local_addr().expect("it is bound");
        let capture = Packet::open(&path(&pair.hosts[1]), CABLE);
        sender.send_to(&[7; COUNT * BYTES + LAST_BYTES], to).expect("its kernel takes it");
        let mut buffer = [0; 2 * BYTES];
        for n in 0..=COUNT {
            receiver.recv(&mut buffer).unwrap_or_else(|e| panic!("datagram {n}: {e}; {}", pair.drops()));
        }
        let (rows, port) = (dissect(&capture.drain(), &FIELDS), to.port().to_string());
        let ours: Vec<&Row> = rows.iter().filter(|row| row[4].last() == Some(&port)).collect();
        assert_eq!(ours.len(), COUNT + 1, "{rows:?}");
        let ids: Vec<u16> = ours.iter().filter_map(|row| Some(number(row[1].last()?) as u16)).collect();
        assert!(v6 || ids.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{ids:?}");
        for (n, row) in ours.into_iter().enumerate() {
            let bytes = 8 + if n == COUNT { LAST_BYTES } else { BYTES };
            assert_eq!(row[3].last(), Some(&bytes.to_string()), "{row:?}");
            // Of the tunnel and inside of it; IPv6 has none of its own.
            for (statuses, headers) in [(&row[0], row[1].len()), (&row[2], 2)] {
                assert!(statuses.len() == headers && statuses.iter().all(|status| status == GOOD), "{row:?}");
            }
        }
    }
}

#[test]
fn flags_are_right_behind_the_tunnel() {
    for (v6, receiver) in [(false, Offloads::ALL), (true, Offloads::ALL), (false, Offloads::NONE)] {
        let pair = Pair::new(CABLES[0], [OURS, Kind::Ours(receiver)]);
        let [_, arrived] = send_unfinished(&pair, v6);
        let transport = 14 + if v6 { 40 } else { 20 };
        let flags: Vec<u16> = arrived.iter().map(|frame| frame[transport + 13].into()).collect();
        let (last, before) = flags.split_last().expect("something arrived");
        assert!(
            before.iter().all(|flags| flags & (FIN | PSH) == 0) && last & (FIN | PSH) == FIN | PSH,
            "{flags:?}"
        );
        assert!(flags[0] & CWR != 0 && flags[1..].iter().all(|flags| flags & CWR == 0), "{flags:?}");
        let bytes: Vec<u8> = arrived.iter().flat_map(|frame| frame[transport + 20..].to_vec()).collect();
        assert!(unfinished(v6).ends_with(&bytes), "{} frames do not hold what was sent", arrived.len());
    }
}

#[test]
fn identifications_and_checksums_of_a_stream() {
    for (is_ipv6, v6) in [(false, false), (true, true)] {
        let pair = Pair::new(Cable { is_ipv6, offloads: false }, [OURS, OURS]);
        pair.ping(0, v6);
        for container in &pair.containers {
            sh(container, "echo 1 > /proc/sys/net/ipv4/tcp_ecn");
        }
        let capture = Packet::open(&path(&pair.hosts[1]), CABLE);
        pair.transfer(0, v6, 1 << 20);
        let rows = dissect(&capture.drain(), &FIELDS);
        let segments: Vec<Segment> = rows.iter().filter_map(|row| Segment::of(row, v6)).collect();
        let sent: Vec<&Segment> = segments.iter().filter(|segment| segment.payload > 0).collect();
        assert!(sent.len() >= (1 << 20) / 1400, "{} segments", sent.len());
        // What TCP sends again, on a loaded machine, is not ECN-capable (RFC 3168 section 6.1.5).
        let mut end = sent[0].sequence;
        for segment in &sent {
            let is_new = segment.sequence.wrapping_sub(end) as i32 >= 0;
            assert!(!is_new || segment.ecn == u32::from(ECT0), "ECN is lost: {segment:?}");
            end = if is_new { segment.sequence.wrapping_add(segment.payload) } else { end };
        }
        // Numbered on and on, however many segments the kernel made a frame of.
        for pair in sent.windows(2).filter(|_| !v6) {
            let [before, after] = [pair[0], pair[1]].map(|s| s.identification.expect("it is of IPv4"));
            assert_eq!(after, before.wrapping_add(1), "{pair:?}");
        }
    }
}

/// A VXLAN of the containers' own kernels, inside of ours.
#[test]
fn nested_tunnels_stay_intact() {
    for (cable, own) in [(CABLES[0], OURS), (CABLES[3], OURS), (CABLES[0], Kind::Ours(Offloads::NONE))] {
        for v6 in [false, true] {
            let pair = Pair::new(cable, [own, OURS]);
            pair.ping(0, v6);
            for (n, container) in pair.containers.iter().enumerate() {
                let (local, remote) = (address(n, v6), address(1 - n, v6));
                sh(
                    container,
                    &format!(
                        "ip link add nest type vxlan id 77 local {local} remote {remote} dstport 4789 dev {INTERFACE}
                         ip address add 10.77.0.{}/24 dev nest
                         ip link set nest up",
                        n + 1
                    ),
                );
            }
            let nested = |n: u8| IpAddr::from([10, 77, 0, n]);
            pair.transfer_to(0, nested(2), 8 * TRANSFER);
            pair.transfer_to(1, nested(1), 8 * TRANSFER);
        }
    }
}
