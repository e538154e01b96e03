//! No frame crosses networks, and nobody gets a neighbour's frames: raw Ethernet frames from inside the containers,
//! with sniffers in all of them.

use vswitch_proto::api::Stats;
use vswitch_proto::id::MacAddr;
use vswitch_proto::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_QINQ, ETHERTYPE_VLAN};
use vswitch_tests::Lab;
use vswitch_tests::packet::{self, ETHERTYPE, Packet, holds};

/// Containers a1, a2 and a3 in one network, b1 and b2 in another one, and `both` in both.
struct Networks {
    lab: Lab,
    sniffers: Vec<(&'static str, Packet)>,
}

const A: [&str; 3] = ["a1", "a2", "a3"];
const B: [&str; 2] = ["b1", "b2"];

impl Networks {
    fn new() -> Networks {
        let lab = Lab::new();
        lab.ok(&["network", "create", "--subnet", "10.1.0.0/24", "a"]);
        lab.ok(&["network", "create", "--subnet", "10.2.0.0/24", "b"]);
        for (network, names) in [("a", &A[..]), ("b", &B[..])] {
            names.iter().for_each(|name| drop(lab.run_idle(name, &["--net", network])));
        }
        lab.run_idle("both", &["--net=a"]);
        lab.ok(&["network", "connect", "b", "both"]);
        let sniffers =
            [A.as_slice(), &B].concat().into_iter().map(|n| (n, Packet::open(&lab.netns(n), "eth0")));
        let mut sniffers: Vec<_> = sniffers.collect();
        sniffers.push(("both in a", Packet::open(&lab.netns("both"), "eth0")));
        sniffers.push(("both in b", Packet::open(&lab.netns("both"), "eth1")));
        Networks { lab, sniffers }
    }

    fn socket(&self, name: &str) -> &Packet {
        &self.sniffers.iter().find(|(sniffer, _)| *sniffer == name).expect("it is one of them").1
    }

    fn mac(&self, container: &str, network: &str) -> MacAddr {
        let settings = self.lab.inspect(container).network_settings.networks.remove(network);
        settings.expect("the container is in the network").mac_address.parse().expect("it is a MAC address")
    }

    /// Sends `frames` from the container and returns what each sniffer saw. The switch takes the frames of one port
    /// in their order, so when a last frame has arrived everywhere, the earlier ones have as well.
    fn seen_after(&self, from: &str, frames: &[Vec<u8>], last_reaches: &[&str]) -> Vec<(&str, Vec<Vec<u8>>)> {
        self.sniffers.iter().for_each(|(_, sniffer)| drop(sniffer.drain()));
        let sender = self.socket(from);
        for frame in frames {
            sender.send(frame).unwrap_or_else(|e| panic!("{}: {e}", frame.escape_ascii()));
        }
        let source = MacAddr([0x06, 0, 0, 0, 0, 0xfe]);
        sender
            .send(&packet::frame(MacAddr::BROADCAST, source, ETHERTYPE, b"the last one"))
            .expect("it is sent");
        let mut seen = Vec::new();
        for (name, sniffer) in &self.sniffers {
            let expected = last_reaches.contains(name);
            seen.push((*name, if expected { sniffer.drain_until(b"the last one") } else { Vec::new() }));
        }
        for ((_, sniffer), (_, frames)) in self.sniffers.iter().zip(&mut seen) {
            frames.extend(sniffer.drain());
        }
        seen
    }
}

/// Frames that a hostile container may send, each with its own marker.
fn hostile_frames(targets: &[MacAddr], sources: &[MacAddr]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for &destination in targets {
        for &source in sources {
            for tag in [
                &[][..],
                &[(ETHERTYPE_VLAN, 5)],
                &[(ETHERTYPE_VLAN, 0)],
                &[(ETHERTYPE_QINQ, 7), (ETHERTYPE_VLAN, 5)],
            ] {
                let mut payload = Vec::new();
                let mut types = tag.iter().map(|&(ethertype, _)| ethertype).chain([ETHERTYPE]);
                let outer = types.next().expect("there is at least one");
                for ((_, id), inner) in tag.iter().zip(types) {
                    payload.extend([&u16::to_be_bytes(*id)[..], &inner.to_be_bytes()].concat());
                }
                payload.extend(format!("<marked {}>", frames.len()).into_bytes());
                frames.push(packet::frame(destination, source, outer, &payload));
            }
        }
    }
    frames
}

fn saw(frames: &[Vec<u8>], index: usize) -> bool {
    let marker = format!("<marked {index}>");
    frames.iter().any(|frame| holds(frame, marker.as_bytes()))
}

#[test]
fn no_raw_frame_crosses_networks() {
    let networks = Networks::new();
    let in_a = A.map(|name| networks.mac(name, "a"));
    let in_b = B.map(|name| networks.mac(name, "b"));
    let (own, peer, other) = (in_a[0], in_a[1], in_b[0]);
    let [gateway_a, gateway_b] = [1, 2].map(|network| MacAddr([0x02, 0x42, 10, network, 0, 1]));
    let unknown = MacAddr([0x06, 1, 2, 3, 4, 5]);
    let ipv6_multicast = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    let ipv4_multicast = MacAddr([1, 0, 0x5e, 0, 0, 0xfb]);
    let bpdu = MacAddr([1, 0x80, 0xc2, 0, 0, 0]);
    let targets = [
        other,
        in_b[1],
        networks.mac("both", "b"),
        gateway_b,
        MacAddr::BROADCAST,
        ipv4_multicast,
        ipv6_multicast,
        bpdu,
        unknown,
        MacAddr::ZERO,
        peer,
    ];
    let sources = [own, peer, other, gateway_b, gateway_a, unknown, MacAddr::ZERO, ipv4_multicast];
    let frames = hostile_frames(&targets, &sources);
    let seen = networks.seen_after("a1", &frames, &["a2", "a3", "both in a"]);
    for (name, seen) in &seen {
        if B.contains(name) || *name == "both in b" {
            let crossed: Vec<_> =
                seen.iter().filter(|f| holds(f, b"<marked ") || holds(f, b"the last")).collect();
            assert!(crossed.is_empty(), "{name} saw {crossed:02x?}");
        }
    }
    // The control: of the same frames, those for everybody in the own network arrive there.
    let of = |name: &str| &seen.iter().find(|(n, _)| *n == name).expect("it is one of them").1;
    for (index, frame) in frames.iter().enumerate() {
        let ethernet = vswitch_proto::wire::ethernet::Ethernet::new(frame).expect("it has a header");
        let (destination, source) = (ethernet.destination(), ethernet.source());
        let for_everybody = [MacAddr::BROADCAST, ipv4_multicast, ipv6_multicast].contains(&destination);
        let valid_source = source.is_unicast();
        let is_stolen = source == gateway_a || source == peer;
        let delivered = A[1..].iter().map(|name| saw(of(name), index)).collect::<Vec<_>>();
        match () {
            () if !valid_source || is_stolen || destination == bpdu => {
                assert_eq!(delivered, [false, false], "{frame:02x?}");
            }
            () if for_everybody => assert_eq!(delivered, [true, true], "{frame:02x?}"),
            () if destination == peer => assert_eq!(delivered, [true, false], "{frame:02x?}"),
            () => {}
        }
    }
    // Spoofing has not moved anybody.
    for (from, to) in
        [("a1", "a2"), ("a2", "a3"), ("b1", "b2"), ("b1", "both.b"), ("both", "a1"), ("b2", "10.2.0.1")]
    {
        networks.lab.assert_reaches(from, to);
    }
}

#[test]
fn unknown_destinations_are_flooded_within_the_network_only() {
    let networks = Networks::new();
    let own = networks.mac("b1", "b");
    let frames = hostile_frames(&[MacAddr([0x06, 9, 9, 9, 9, 9])], &[own]);
    for (name, seen) in networks.seen_after("b1", &frames, &["b2", "both in b"]) {
        let expected = name == "b2" || name == "both in b";
        // b1's own socket shows what it sends.
        if name != "b1" {
            assert_eq!((0..frames.len()).all(|i| saw(&seen, i)), expected, "{name}");
            assert_eq!((0..frames.len()).any(|i| saw(&seen, i)), expected, "{name}");
        }
    }
}

#[test]
fn pings_do_not_cross_either() {
    let networks = Networks::new();
    let lab = &networks.lab;
    // Even with a route that says that the other network is on the link, and with its neighbours filled in by hand.
    for (name, network, other) in [("a1", "10.2.0.0/24", "b1"), ("b1", "10.1.0.0/24", "a1")] {
        let address = if other == "b1" { "10.2.0.2" } else { "10.1.0.2" };
        let mac = networks.mac(other, &other[..1]).to_string();
        // What the container may not change its namespace allows to the machine's root.
        let netns = format!("nsenter --net=/proc/{}/ns/net", lab.inspect(name).state.pid);
        lab.sh(&format!(
            "{netns} ip route add {network} dev eth0; {netns} ip neigh add {address} lladdr {mac} dev eth0"
        ));
        assert!(lab.inspect(other).network_settings.networks[&other[..1]].ip_address == address);
        lab.assert_cannot_reach(name, address);
    }
    lab.assert_cannot_reach("a2", "10.2.0.2");
    lab.assert_cannot_reach("b2", "10.1.0.1");
}

#[test]
fn a_neighbours_address_cannot_be_stolen() {
    let networks = Networks::new();
    let (victim, both) = (networks.mac("a2", "a"), networks.mac("both", "a"));
    let thief = networks.socket("a3");
    let gateway = MacAddr([0x02, 0x42, 10, 1, 0, 1]);
    for round in 0..200 {
        for source in [victim, gateway] {
            let payload = format!("round {round}");
            let destination = if round % 2 == 0 { MacAddr::BROADCAST } else { both };
            thief.send(&packet::frame(destination, source, ETHERTYPE, payload.as_bytes())).unwrap();
        }
    }
    let own = networks.mac("a3", "a");
    thief.send(&packet::frame(MacAddr::BROADCAST, own, ETHERTYPE, b"the last one")).unwrap();
    let seen = networks.socket("a1").drain_until(b"the last one");
    assert!(!seen.iter().any(|frame| holds(frame, b"round")), "a1 saw {seen:02x?}");
    thief.drain();
    let lab = &networks.lab;
    lab.assert_reaches("a1", "a2");
    lab.assert_reaches("a1", "10.1.0.1");
    let icmp = |frame: &Vec<u8>| frame[12..14] == ETHERTYPE_IPV4.to_be_bytes();
    let stolen: Vec<_> = thief.drain().into_iter().filter(icmp).collect();
    assert!(stolen.is_empty(), "a3 got {stolen:02x?}");
    // The switch still knows who has the address.
    let fdb = lab.ok(&["fdb", "show"]);
    let row = fdb.lines().find(|line| line.contains(&victim.to_string())).unwrap_or_else(|| panic!("{fdb}"));
    assert!(row.contains("a2") && !row.contains("a3"), "{row}");
}

#[test]
fn runts_giants_and_odd_offload_headers_are_dropped_and_counted() {
    let networks = Networks::new();
    let lab = &networks.lab;
    let stats = || lab.http("GET", "/v1/stats", "").parsed::<Stats>();
    let before = stats();
    // Giants: the container raises the MTU of its side.
    let netns = format!("nsenter --net=/proc/{}/ns/net", lab.inspect("a1").state.pid);
    lab.sh(&format!("{netns} ip link set eth0 mtu 9000"));
    let (own, peer) = (networks.mac("a1", "a"), networks.mac("a2", "a"));
    let mut giant = b"giant".to_vec();
    giant.resize(8000, 0);
    let shortest = [&peer.0[..], &own.0, &ETHERTYPE.to_be_bytes()].concat();
    let frames = [packet::frame(peer, own, ETHERTYPE, &giant), shortest];
    let seen = networks.seen_after("a1", &frames, &["a2", "a3", "both in a"]);
    for (name, seen) in &seen {
        assert!(*name == "a1" || !seen.iter().any(|frame| holds(frame, b"giant")), "{name}");
    }
    assert_eq!(stats().drops["oversized"], before.drops["oversized"] + 1);
    // Whatever offload header the kernel lets through, the switch lives and goes on.
    let sender = Packet::open(&lab.netns("a1"), "eth0");
    sender.expect_vnet_headers();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut accepted = 0;
    for _ in 0..12 {
        for _ in 0..250 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            accepted += i32::from(sender.send(&odd_frame(peer, own, random.to_le_bytes())).is_ok());
        }
        networks.seen_after("a1", &[], &["a2", "a3", "both in a"]);
    }
    assert!(accepted > 0, "the kernel refuses all of them");
    lab.assert_reaches("a1", "a2");
    lab.assert_reaches("b1", "b2");
}

#[test]
fn an_address_that_comes_back_with_another_mac_is_announced() {
    let lab = Lab::new();
    lab.run_idle("watcher", &["--net=bridge"]);
    for mac in ["02:00:00:00:00:01", "02:00:00:00:00:02", "02:42:ac:11:00:63"] {
        lab.run_idle("service", &["--net=bridge", "--ip=172.17.0.99", "--mac-address", mac]);
        lab.assert_reaches("watcher", "172.17.0.99");
        lab.ok(&["rm", "-f", "service"]);
    }
}

/// A frame behind a virtio-net header of 10 bytes, both made from `bytes`.
fn odd_frame(destination: MacAddr, source: MacAddr, bytes: [u8; 8]) -> Vec<u8> {
    let [flags, gso, size, segment, more, start, offset, fill] = bytes;
    let header = [flags & 3, gso & 0x87, size, 0, segment, more & 7, start, 0, offset, 0];
    let payload = vec![fill; 40 + usize::from(size) * 8];
    [&header[..], &packet::frame(destination, source, ETHERTYPE_IPV4, &payload)].concat()
}
