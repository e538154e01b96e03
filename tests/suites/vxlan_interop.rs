//! Overlay networks through real tunnels: our data plane with another of its own, with the kernel's vxlan device, and
//! with Open vSwitch.

use std::net::{IpAddr, UdpSocket};

use anyhow::ensure;
use vswitch::counters::Totals;
use vswitch::forward::DropReason;
use vswitch_tests::engines::engines;
use vswitch_tests::overlay::{CABLE, Cable, Kind, Offloads, PORT, Pair, path, vni};
use vswitch_tests::packet::Packet;
use vswitch_tests::wait::{DEADLINE, eventually};

/// One transfer, bytes.
const TRANSFER: usize = 100 << 20;

const IPV4: Cable = Cable { is_ipv6: false, offloads: true };
const IPV6: Cable = Cable { is_ipv6: true, offloads: true };
const WITH_UDP_CHECKSUMS: Kind = Kind::Kernel { udp_checksums: true };
const WITHOUT_UDP_CHECKSUMS: Kind = Kind::Kernel { udp_checksums: false };
const OURS: Kind = Kind::Ours(Offloads::ALL);
const OURS_STATIC: Kind = Kind::OursStatic(Offloads::ALL);

/// Pings and transfers in both directions and versions.
fn exercise(pair: &Pair, bytes: usize) {
    for from in [0, 1] {
        pair.ping(from, false);
        pair.ping(from, true);
    }
    pair.transfer(0, false, bytes);
    pair.transfer(1, false, bytes);
    pair.transfer(0, true, bytes);
    pair.transfer(1, true, bytes);
    println!("{}", pair.drops());
}

fn totals(pair: &Pair, host: usize) -> Totals {
    pair.dataplane(host).totals()
}

/// Most datagrams left by sends of many.
fn assert_segmented(pair: &Pair, host: usize) {
    let tunnel = totals(pair, host).tunnel;
    assert_eq!(tunnel.refused_sends, 0, "{tunnel:?}");
    assert!(tunnel.segmented_sends > 100 && tunnel.tx_datagrams > 10 * tunnel.segmented_sends, "{tunnel:?}");
}

/// Frames for the container are much longer than a packet.
fn assert_joined(pair: &Pair, host: usize) {
    let port = pair.dataplane(host).port_counters(PORT).expect("it is attached");
    assert!(port.tx_bytes > 10 * 1450 * port.tx_frames / 2, "{port:?}");
}

#[test]
fn ours_and_ours() {
    for cable in [IPV4, IPV6] {
        let pair = Pair::new(cable, [OURS, OURS]);
        exercise(&pair, TRANSFER);
        for host in [0, 1] {
            assert_segmented(&pair, host);
            assert_joined(&pair, host);
            assert!(totals(&pair, host).tunnel.coalesced_frames > 100);
            let flooded = totals(&pair, host).flooded_frames;
            // Multicast of IPv6's own, and announcements: questions are answered on the spot.
            assert!(flooded < 40, "{flooded} frames were flooded");
        }
    }
}

#[test]
fn ours_and_ours_over_a_cable_without_offloads() {
    for cable in [Cable { offloads: false, ..IPV4 }, Cable { offloads: false, ..IPV6 }] {
        exercise(&Pair::new(cable, [OURS, OURS]), TRANSFER / 4);
    }
}

#[test]
fn ours_and_ours_without_offloads() {
    let without = Kind::Ours(Offloads::NONE);
    let pair = Pair::new(IPV4, [without, without]);
    exercise(&pair, TRANSFER / 4);
    let tunnel = totals(&pair, 0).tunnel;
    assert_eq!((tunnel.segmented_sends, tunnel.coalesced_frames), (0, 0));
    // One that has them with one that has not.
    let pair = Pair::new(IPV6, [OURS, without]);
    exercise(&pair, TRANSFER / 4);
}

#[test]
fn ours_and_the_kernel() {
    let pair = Pair::new(IPV4, [OURS_STATIC, WITH_UDP_CHECKSUMS]);
    exercise(&pair, TRANSFER);
    assert_segmented(&pair, 0);
    // Its kernel does not cut what is for somebody on the same machine.
    assert_joined(&pair, 0);
    exercise(&Pair::new(IPV4, [WITHOUT_UDP_CHECKSUMS, OURS_STATIC]), TRANSFER / 4);
}

#[test]
fn ours_and_the_kernel_over_ipv6() {
    let pair = Pair::new(IPV6, [WITH_UDP_CHECKSUMS, OURS_STATIC]);
    exercise(&pair, TRANSFER);
    assert_segmented(&pair, 1);
    assert_joined(&pair, 1);
}

#[test]
fn ours_and_the_kernel_over_a_cable_without_offloads() {
    for (cable, kernel) in
        [(IPV4, WITH_UDP_CHECKSUMS), (IPV4, WITHOUT_UDP_CHECKSUMS), (IPV6, WITH_UDP_CHECKSUMS)]
    {
        let cable = Cable { offloads: false, ..cable };
        exercise(&Pair::new(cable, [OURS_STATIC, kernel]), TRANSFER / 4);
    }
}

#[test]
fn ours_and_open_vswitch() {
    // Open vSwitch reads its end of the cable with a packet socket, into which nothing longer than a packet fits.
    for cable in [Cable { offloads: false, ..IPV4 }, Cable { offloads: false, ..IPV6 }] {
        let pair = Pair::new(cable, [OURS_STATIC, Kind::Ovs]);
        exercise(&pair, TRANSFER);
    }
}

#[test]
fn datagrams_of_all_sizes() {
    let fits = |v6: bool, cable: Cable| cable.mtu() as usize - if v6 { 48 } else { 28 };
    for (cable, kinds) in [(IPV4, [OURS, OURS]), (IPV6, [OURS_STATIC, WITH_UDP_CHECKSUMS])] {
        let pair = Pair::new(cable, kinds);
        for v6 in [false, true] {
            pair.ping(0, v6);
            let one_packet = fits(v6, cable);
            // Up to the longest, which the containers' kernels send as fragments.
            let sizes = [
                0,
                1,
                2,
                18,
                19,
                511,
                1000,
                one_packet - 1,
                one_packet,
                one_packet + 1,
                9000,
                30_001,
                65_507,
            ];
            pair.datagrams(0, v6, sizes);
            pair.datagrams(1, v6, sizes);
        }
    }
}

/// UDP in segments: one send of many datagrams, each of which arrives as itself.
fn segmented_datagrams(pair: &Pair, from: usize, v6: bool) {
    const SEGMENT_BYTES: usize = 1000;
    let bind = |container: usize| {
        let open = || UdpSocket::bind(pair.socket(container, v6, 0));
        pair.containers[container].run(open).expect("a namespace can be entered").expect("a free port")
    };
    let (sender, receiver) = (bind(from), bind(1 - from));
    receiver.set_read_timeout(Some(DEADLINE / 60)).expect("it can be set");
    let segment = i32::try_from(SEGMENT_BYTES).expect("it fits");
    nix::sys::socket::setsockopt(&sender, nix::sys::socket::sockopt::UdpGsoSegment, &segment)
        .expect("the kernel has UDP_SEGMENT");
    let payload: Vec<u8> = (0..20 * SEGMENT_BYTES + 7).map(|i| (i / SEGMENT_BYTES * 3 + i) as u8).collect();
    let to = receiver.local_addr().expect("it is bound");
    let mut buffer = vec![0; 1 << 16];
    eventually("every datagram of a send arrives", || {
        // What is left of the try before.
        receiver.set_nonblocking(true)?;
        while receiver.recv(&mut buffer).is_ok() {}
        receiver.set_nonblocking(false)?;
        sender.send_to(&payload, to)?;
        for (n, expected) in payload.chunks(SEGMENT_BYTES).enumerate() {
            let got = receiver.recv(&mut buffer)?;
            ensure!(buffer[..got] == *expected, "datagram {n} has {got} bytes; {}", pair.drops());
        }
        Ok(())
    });
}

#[test]
fn datagrams_that_were_sent_at_once() {
    let cables = [IPV4, IPV6, Cable { offloads: false, ..IPV4 }];
    let kinds = [[OURS, OURS], [OURS_STATIC, WITH_UDP_CHECKSUMS], [WITHOUT_UDP_CHECKSUMS, OURS_STATIC]];
    for (cable, kinds) in cables.into_iter().flat_map(|cable| kinds.map(|kinds| (cable, kinds))) {
        let pair = Pair::new(cable, kinds);
        for (from, v6) in [(0, false), (0, true), (1, false), (1, true)] {
            pair.ping(from, v6);
            segmented_datagrams(&pair, from, v6);
        }
    }
}

/// Numbered datagrams, fewer at a time than a socket has room for.
fn numbered_datagrams(pair: &Pair, from: usize, v6: bool) {
    const DATAGRAMS: u32 = 10_000;
    const WINDOW: u32 = 50;
    let bind = |container: usize| {
        let open = || UdpSocket::bind(pair.socket(container, v6, 0));
        pair.containers[container].run(open).expect("a namespace can be entered").expect("a free port")
    };
    let (sender, receiver) = (bind(from), bind(1 - from));
    receiver.set_read_timeout(Some(DEADLINE)).expect("it can be set");
    let to = receiver.local_addr().expect("it is bound");
    for first in (0..DATAGRAMS).step_by(WINDOW as usize) {
        for n in first..first + WINDOW {
            sender.send_to(&n.to_ne_bytes(), to).expect("its kernel takes it");
        }
        for n in first..first + WINDOW {
            let mut bytes = [0; 4];
            receiver.recv(&mut bytes).unwrap_or_else(|e| panic!("datagram {n}: {e}; {}", pair.drops()));
            assert_eq!(u32::from_ne_bytes(bytes), n, "from {to}");
        }
    }
}

/// With two workers on either side, several flows at once.
#[test]
fn each_flow_stays_in_order() {
    for engine in engines() {
        let pair = &Pair::with_engine(IPV4, [OURS, OURS], Some(engine));
        let flows = [(0, false), (0, true), (1, false), (1, true), (0, false), (1, false)];
        // Whom to send to is known first: a kernel that has just learned it sends what has waited beside what is new.
        flows.iter().for_each(|&(from, v6)| pair.ping(from, v6));
        std::thread::scope(|scope| {
            for (from, v6) in flows {
                scope.spawn(move || numbered_datagrams(pair, from, v6));
            }
        });
    }
}

#[test]
fn what_is_on_the_cable_is_whole() {
    for is_ipv6 in [false, true] {
        let cable = Cable { is_ipv6, offloads: false };
        let pair = Pair::new(cable, [OURS, OURS]);
        pair.ping(0, false);
        pair.ping(0, true);
        // Its kernel checks nothing of what a packet socket sees, so both directions are looked at.
        let capture = Packet::open(&path(&pair.hosts[1]), CABLE);
        pair.transfer(0, false, 1 << 20);
        pair.transfer(1, true, 1 << 20);
        let frames = capture.drain();
        let seen: Vec<Seen> = frames.iter().filter_map(|frame| check_packet(frame, &cable)).collect();
        for v6 in [false, true] {
            let segments = seen.iter().filter(|seen| seen.is_ipv6 == v6 && seen.payload > 1000).count();
            assert!(segments > 500, "{segments} segments of {} packets", seen.len());
        }
        let ports: std::collections::BTreeSet<u16> = seen.iter().map(|seen| seen.source_port).collect();
        assert!(ports.len() > 1, "all flows have the same source port");
    }
}

/// A packet of a tunnel with TCP inside.
struct Seen {
    is_ipv6: bool,
    payload: usize,
    source_port: u16,
}

/// Checks the lengths and checksums of all headers of a packet on the cable; `None` if it is not TCP in VXLAN.
fn check_packet(frame: &[u8], cable: &Cable) -> Option<Seen> {
    let (outer, udp, _) = check_ip(frame, 17)?;
    assert_eq!(outer, cable.is_ipv6);
    assert!(frame.len() <= 14 + 1500, "{} bytes", frame.len());
    let source_port = u16::from_be_bytes([udp[0], udp[1]]);
    assert_eq!(udp[2..4], 4789u16.to_be_bytes());
    assert!(source_port >= 49_152, "source port {source_port}");
    assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), udp.len());
    let [_, a, b, c] = vni().get().to_be_bytes();
    assert_eq!(udp[8..16], [8, 0, 0, 0, a, b, c, 0]);
    let (is_ipv6, tcp, _) = check_ip(&udp[16..], 6)?;
    let payload = tcp.len() - usize::from(tcp[12] >> 4) * 4;
    Some(Seen { is_ipv6, payload, source_port })
}

/// What is behind an IP header of this protocol, whose checksums and lengths are right.
fn check_ip(frame: &[u8], protocol: u8) -> Option<(bool, &[u8], IpAddr)> {
    use etherparse::{NetSlice, SlicedPacket};
    let net = SlicedPacket::from_ethernet(frame).ok()?.net?;
    let (is_ipv6, source, addresses, payload) = match &net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
            assert_eq!(usize::from(header.total_len()), frame.len() - 14, "padding, or cut short");
            let addresses = [header.source(), header.destination()].concat();
            (false, IpAddr::from(header.source()), addresses, ip.payload())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            assert_eq!(usize::from(header.payload_length()), frame.len() - 54, "padding, or cut short");
            let addresses = [header.source(), header.destination()].concat();
            (true, IpAddr::from(header.source()), addresses, ip.payload())
        }
        NetSlice::Arp(_) => return None,
    };
    if payload.ip_number.0 != protocol {
        return None;
    }
    let bytes = payload.payload;
    let pseudo = [&addresses[..], &(bytes.len() as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat();
    let sum: u64 = [&pseudo[..], bytes]
        .iter()
        .flat_map(|part| part.chunks(2))
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    assert_eq!(sum % 0xffff, 0, "checksum of protocol {protocol} from {source}");
    Some((is_ipv6, bytes, source))
}

#[test]
fn strangers_are_dropped_and_counted() {
    let pair = Pair::new(IPV4, [OURS, OURS]);
    pair.ping(0, false);
    let header = [8, 0, 0, 0, 0, 0x10, 1, 0];
    let inner = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[0x88, 0xb5], &[0; 46]].concat();
    let known = [&header[..], &inner].concat();
    let changed = |at: usize, value: &[u8]| {
        let mut bytes = known.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    let to = (pair.cable.vtep(1), 4789);
    let dropped = |reason| totals(&pair, 1).dropped(reason);
    let expect = |from: &str, packet: &[u8], reason: DropReason| {
        let bind = || UdpSocket::bind((from, 0)).expect("it is an address of the host");
        let socket = pair.hosts[0].run(bind).expect("a namespace can be entered");
        let before = dropped(reason);
        eventually(reason.name(), || {
            socket.send_to(packet, to)?;
            ensure!(dropped(reason) > before, "{}", pair.drops());
            Ok(())
        });
    };
    vswitch_tests::overlay::sh(&pair.hosts[0], &format!("ip address add 10.8.0.66/24 dev {CABLE}"));
    let own = pair.cable.vtep(0).to_string();
    expect("10.8.0.66", &known, DropReason::UnknownVtep);
    expect(&own, &changed(6, &[2]), DropReason::UnknownVni);
    expect(&own, &changed(0, &[0]), DropReason::BadVxlan);
    expect(&own, &known[..20], DropReason::BadVxlan);
    expect(&own, &[], DropReason::BadVxlan);
    expect(&own, &changed(14, &[1]), DropReason::BadSource);
    // Reserved bits mean nothing, and a node of the cluster may send tagged frames.
    let socket = pair.hosts[0].run(|| UdpSocket::bind((&*own, 0)).expect("its own")).expect("entered");
    for packet in [changed(7, &[0xff]), changed(20, &[0x81, 0])] {
        let before = totals(&pair, 1).flooded_frames;
        eventually("it is flooded", || {
            socket.send_to(&packet, to)?;
            ensure!(totals(&pair, 1).flooded_frames > before, "{}", pair.drops());
            Ok(())
        });
    }
    pair.ping(0, false);
}

#[test]
fn the_underlay_comes_and_goes() {
    let pair = Pair::new(IPV4, [OURS, OURS]);
    pair.ping(0, false);
    for _ in 0..3 {
        pair.dataplane(1).set_underlay(None).expect("the workers follow");
        let before = totals(&pair, 1).dropped(DropReason::UnderlayAbsent);
        let send = || UdpSocket::bind(pair.socket(1, false, 0));
        let socket = pair.containers[1].run(send).expect("entered").expect("a free port");
        eventually("the loss is counted", || {
            socket.send_to(b"anybody?", pair.socket(0, false, 9))?;
            ensure!(totals(&pair, 1).dropped(DropReason::UnderlayAbsent) > before, "{}", pair.drops());
            Ok(())
        });
        let again = pair.underlay(1, Offloads::ALL);
        pair.dataplane(1).set_underlay(Some(again)).expect("the workers follow");
        pair.ping(0, false);
        pair.transfer(1, false, 1 << 20);
    }
    // In the midst of traffic, nothing but what was under way is lost.
    std::thread::scope(|scope| {
        let flow = scope.spawn(|| pair.transfer(0, false, TRANSFER / 4));
        while !flow.is_finished() {
            pair.dataplane(1).set_underlay(None).expect("the workers follow");
            let again = pair.underlay(1, Offloads::ALL);
            pair.dataplane(1).set_underlay(Some(again)).expect("the workers follow");
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
    });
    assert!(pair.dataplane(1).port_counters(PORT).is_some());
}

#[test]
fn what_does_not_fit_the_cable_is_counted() {
    let pair = Pair::new(IPV4, [OURS, OURS]);
    pair.ping(0, false);
    vswitch_tests::overlay::sh(&pair.hosts[0], &format!("ip link set {CABLE} mtu 1400"));
    let send = || UdpSocket::bind(pair.socket(0, false, 0));
    let socket = pair.containers[0].run(send).expect("entered").expect("a free port");
    eventually("the loss is counted", || {
        socket.send_to(&[0; 1400], pair.socket(1, false, 9))?;
        ensure!(totals(&pair, 0).dropped(DropReason::TunnelTooBig) > 0, "{}", pair.drops());
        Ok(())
    });
    pair.ping(0, false);
}
