//! Each guard on literal frames, for ports and for tunnels. Random claims against a model are in
//! `tests/forward_guard.rs`.

use std::net::IpAddr;

use vswitch_proto::security::Servers;

use super::overlay::{NODE, STATIC, ip, remote};
use super::*;

const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

/// An address that nobody has registered.
const FLOATING: &str = "10.0.0.99";
const FLOATING_V6: &str = "fd00::99";

/// The bench of the overlay tests, with addresses of both families for ports 1 and 2.
fn bench() -> Bench {
    let mut bench = super::overlay::bench(None);
    bench.network(|network| network.overlay.as_mut().unwrap().inner_vlan = true);
    for (id, v4, v6) in [(1, "10.0.0.1", "fd00::a"), (2, "10.0.0.2", "fd00::b")] {
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (ip(v4), ip(v6)) else { panic!("one of each family") };
        let port = bench.tables.ports.get_mut(&PortId(id)).unwrap();
        (port.ipv4, port.ipv6) = (Some(v4), Some(v6));
        bench.network(|network| network.neighbors.extend([(v4.into(), mac(id)), (v6.into(), mac(id))]));
    }
    bench
}

impl Bench {
    fn network(&mut self, change: impl FnOnce(&mut Network)) {
        change(Arc::make_mut(self.tables.networks.get_mut(&Vni::new(1).unwrap()).unwrap()));
    }

    /// What becomes of a frame from port 2, which is the attacker's, with its own MAC address or another.
    fn attack(&mut self, source: MacAddr, ethertype: &[u8], payload: &[u8]) -> Verdict {
        self.send(2, &raw(mac(1), source, ethertype, payload))
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn arp(operation: u8, sender: MacAddr, sender_ip: &str, target_ip: &str) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &sender.0, &octets(ip(sender_ip)), &[0; 6], &octets(ip(target_ip))].concat()
}

fn ipv4_packet(source: &str, protocol: u8, message: &[u8]) -> Vec<u8> {
    let length = (20 + message.len() as u16).to_be_bytes();
    let head = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    [&head[..], &octets(ip(source)), &[10, 0, 0, 1], message].concat()
}

fn ipv6_packet(source: &str, next: u8, message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], next, 255];
    [&head[..], &octets(ip(source)), &octets(ip("ff02::1")), message].concat()
}

fn udp(to: u16) -> Vec<u8> {
    [&[0, 67], &to.to_be_bytes()[..], &[0, 12, 0, 0], b"data"].concat()
}

/// A neighbour discovery message: what follows its type, code and checksum, and an option.
fn nd(kind: u8, fixed: &[u8], option: Option<(u8, MacAddr)>) -> Vec<u8> {
    let option = option.map(|(kind, mac)| [&[kind, 1], &mac.0[..]].concat());
    [&[kind, 0, 0, 0], fixed, &option.unwrap_or_default()].concat()
}

fn advertisement(target: &str, option: Option<MacAddr>) -> Vec<u8> {
    nd(136, &[&[0x20, 0, 0, 0], &octets(ip(target))[..]].concat(), option.map(|mac| (2, mac)))
}

fn solicitation(target: &str, option: Option<MacAddr>) -> Vec<u8> {
    nd(135, &[&[0; 4], &octets(ip(target))[..]].concat(), option.map(|mac| (1, mac)))
}

const ARP: &[u8] = &[8, 6];
const IPV4: &[u8] = &[8, 0];
const IPV6: &[u8] = &[0x86, 0xdd];

fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

fn link_local(mac: MacAddr) -> String {
    let [a, b, c, d, e, f] = mac.0;
    format!(
        "fe80::{:x}:{:x}:{:x}:{:x}",
        u16::from_be_bytes([a ^ 2, b]),
        u16::from_be_bytes([c, 0xff]),
        u16::from_be_bytes([0xfe, d]),
        u16::from_be_bytes([e, f])
    )
}

#[test]
fn arp_claims_of_registered_addresses_are_dropped() {
    let mut bench = bench();
    let gateway = GATEWAY.ipv4.unwrap().to_string();
    let (own, guarded) = (mac(2), dropped(DropReason::GuardArp));
    for operation in [1, 2] {
        for victim in ["10.0.0.1", "10.0.1.1", &gateway] {
            for target in [victim, "10.0.0.1", FLOATING] {
                let claim = arp(operation, own, victim, target);
                assert_eq!(bench.attack(own, ARP, &claim), guarded, "{operation} {victim} {target}");
                assert_eq!(
                    bench.attack(stranger(7), ARP, &claim),
                    guarded,
                    "from an address nobody registered"
                );
                let broadcast = raw(MacAddr::BROADCAST, own, ARP, &claim);
                assert_eq!(bench.send(2, &broadcast), guarded);
                assert_eq!(bench.arrive(1, STATIC, &broadcast.replace_source(stranger(7))), guarded);
            }
        }
        // Another one's MAC address in the message.
        for victim in [mac(1), remote(1), GATEWAY.mac] {
            assert_eq!(bench.attack(own, ARP, &arp(operation, victim, FLOATING, "10.0.0.1")), guarded);
        }
        for (address, sender) in [("10.0.0.2", own), (FLOATING, own), (FLOATING, stranger(9))] {
            let allowed = arp(operation, sender, address, "10.0.0.1");
            assert_eq!(bench.attack(own, ARP, &allowed), Verdict::Port(PortId(1)), "{address} {sender}");
        }
    }
    // The remote's host may speak for the remote only.
    let of_remote = raw(mac(1), remote(1), ARP, &arp(2, remote(1), "10.0.1.1", "10.0.0.1"));
    assert_eq!(bench.arrive(1, NODE, &of_remote), Verdict::Port(PortId(1)));
    let of_port = raw(mac(1), remote(1), ARP, &arp(2, remote(1), "10.0.0.2", "10.0.0.1"));
    assert_eq!(bench.arrive(1, NODE, &of_port), guarded);
}

trait ReplaceSource {
    fn replace_source(&self, source: MacAddr) -> Vec<u8>;
}

impl ReplaceSource for Vec<u8> {
    fn replace_source(&self, source: MacAddr) -> Vec<u8> {
        let mut raw = self.clone();
        raw[18..24].copy_from_slice(&source.0);
        raw
    }
}

#[test]
fn claims_behind_tags_are_found() {
    let mut bench = bench();
    let claim = arp(2, mac(2), "10.0.0.1", "10.0.0.1");
    let tagged = |tags: usize, id: u8| [[0x81, 0, 0, id].repeat(tags), ARP.to_vec()].concat();
    for (tags, id) in [(1, 0), (1, 5), (2, 0), (8, 0)] {
        assert_eq!(
            bench.attack(mac(2), &tagged(tags, id), &claim),
            dropped(DropReason::GuardArp),
            "{tags} tags"
        );
    }
    assert_eq!(bench.attack(mac(2), &tagged(9, 0), &claim), dropped(DropReason::GuardHeaders));
    let qinq = [&[0x88, 0xa8, 0, 7], &tagged(1, 5)[..]].concat();
    assert_eq!(bench.attack(mac(2), &qinq, &claim), dropped(DropReason::GuardArp));
    // Token ring's hardware type, which the kernel takes on Ethernet, too.
    let mut claim = claim;
    claim[1] = 6;
    assert_eq!(bench.attack(mac(2), ARP, &claim), dropped(DropReason::GuardArp));
    let own = arp(2, mac(2), "10.0.0.2", "10.0.0.1");
    assert_eq!(bench.attack(mac(2), &tagged(2, 5), &own), Verdict::Port(PortId(1)));
    assert_eq!(bench.attack(mac(2), &[0x81, 0, 0], &[]), Verdict::Port(PortId(1)), "a tag that is cut off");
}

#[test]
fn source_addresses_of_others_are_dropped() {
    let mut bench = bench();
    let gateway = GATEWAY.ipv4.unwrap().to_string();
    let guarded = dropped(DropReason::GuardIp);
    for victim in ["10.0.0.1", "10.0.1.1", &gateway] {
        for message in [vec![0; 20], udp(53)] {
            for protocol in [TCP, UDP, 1] {
                let packet = ipv4_packet(victim, protocol, &message);
                assert_eq!(bench.attack(mac(2), IPV4, &packet), guarded, "{victim}");
                assert_eq!(bench.attack(stranger(7), IPV4, &packet), guarded);
                let tagged = [&[0x81, 0, 0, 0], IPV4].concat();
                assert_eq!(bench.attack(mac(2), &tagged, &packet), guarded);
            }
        }
    }
    for victim in ["fd00::a", "fd00::9", "fd00::1", &link_local(mac(1)), &link_local(GATEWAY.mac)] {
        for next in [TCP, UDP, 59] {
            assert_eq!(bench.attack(mac(2), IPV6, &ipv6_packet(victim, next, &[0; 20])), guarded, "{victim}");
        }
        assert_eq!(bench.attack(mac(2), IPV6, &ipv6_packet(victim, ICMPV6, &[128; 8])), guarded, "{victim}");
    }
    for source in ["10.0.0.2", FLOATING, "0.0.0.0", "192.0.2.1"] {
        for protocol in [TCP, UDP, 1] {
            let packet = ipv4_packet(source, protocol, &[0; 20]);
            assert_eq!(bench.attack(mac(2), IPV4, &packet), Verdict::Port(PortId(1)), "{source}");
        }
    }
    for source in ["fd00::b", FLOATING_V6, "::", &link_local(mac(2)), &link_local(stranger(3)), "fe80::1"] {
        for next in [TCP, UDP, 59] {
            let packet = ipv6_packet(source, next, &[0; 20]);
            assert_eq!(bench.attack(mac(2), IPV6, &packet), Verdict::Port(PortId(1)), "{source}");
        }
    }
}

#[test]
fn neighbour_discovery_claims_are_dropped() {
    let mut bench = bench();
    let guarded = dropped(DropReason::GuardNd);
    let passes = Verdict::Port(PortId(1));
    for victim in ["fd00::a", "fd00::9", "fd00::1", &link_local(mac(1))] {
        for option in [None, Some(mac(2)), Some(stranger(7))] {
            let claim = ipv6_packet("fd00::b", ICMPV6, &advertisement(victim, option));
            assert_eq!(bench.attack(mac(2), IPV6, &claim), guarded, "{victim} {option:?}");
            let from_victim = ipv6_packet(victim, ICMPV6, &solicitation(FLOATING_V6, option));
            assert_eq!(bench.attack(mac(2), IPV6, &from_victim), guarded, "{victim} {option:?}");
            let tunnelled = raw(mac(1), stranger(7), IPV6, &claim);
            assert_eq!(bench.arrive(1, STATIC, &tunnelled), guarded);
        }
    }
    for victim in [mac(1), remote(1), GATEWAY.mac] {
        for message in [
            advertisement("fd00::b", Some(victim)),
            solicitation("fd00::a", Some(victim)),
            nd(133, &[0; 4], Some((1, victim))),
        ] {
            assert_eq!(bench.attack(mac(2), IPV6, &ipv6_packet("fd00::b", ICMPV6, &message)), guarded);
            // Behind another option.
            let later =
                [&message[..message.len() - 8], &[14, 1, 0, 0, 0, 0, 0, 0], &message[message.len() - 8..]];
            let later = ipv6_packet("fd00::b", ICMPV6, &later.concat());
            assert_eq!(bench.attack(mac(2), IPV6, &later), guarded);
        }
    }
    for message in [
        advertisement("fd00::b", Some(mac(2))),
        advertisement(FLOATING_V6, Some(MacAddr([0, 0, 0x5e, 0, 2, 7]))),
        solicitation("fd00::a", Some(mac(2))),
        nd(133, &[0; 4], Some((1, mac(2)))),
    ] {
        assert_eq!(bench.attack(mac(2), IPV6, &ipv6_packet("fd00::b", ICMPV6, &message)), passes);
    }
    let many = [advertisement("fd00::b", None), [14, 1, 0, 0, 0, 0, 0, 0].repeat(33)].concat();
    assert_eq!(bench.attack(mac(2), IPV6, &ipv6_packet("fd00::b", ICMPV6, &many)), guarded);
    let few = [advertisement("fd00::b", None), [14, 1, 0, 0, 0, 0, 0, 0].repeat(32)].concat();
    assert_eq!(bench.attack(mac(2), IPV6, &ipv6_packet("fd00::b", ICMPV6, &few)), passes);
}

#[test]
fn claims_behind_extension_headers_and_in_fragments_are_found() {
    let mut bench = bench();
    let claim = advertisement("fd00::a", Some(mac(2)));
    let own = advertisement("fd00::b", Some(mac(2)));
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let fragment = |next: u8, offset: u16, more: u8| {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        [next, 0, high, low, 0, 0, 0, 1]
    };
    let mut sent = |next: u8, message: &[&[u8]]| {
        bench.attack(mac(2), IPV6, &ipv6_packet("fd00::b", next, &message.concat()))
    };
    let (guarded, hidden) = (dropped(DropReason::GuardNd), dropped(DropReason::GuardHeaders));
    let passes = Verdict::Port(PortId(1));
    for extension in [0, 43, 60] {
        assert_eq!(sent(extension, &[&options(ICMPV6), &claim]), guarded);
        assert_eq!(sent(extension, &[&options(ICMPV6), &own]), passes);
    }
    assert_eq!(sent(51, &[&[ICMPV6, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], &claim]), guarded);
    // Sixteen headers and one more.
    assert_eq!(sent(60, &[&options(60).repeat(15), &options(ICMPV6), &claim]), guarded);
    assert_eq!(sent(60, &[&options(60).repeat(16), &options(ICMPV6), &claim]), hidden);
    // All neighbour discovery in fragments, whatever it says.
    for message in [&claim, &own] {
        assert_eq!(sent(44, &[&fragment(ICMPV6, 0, 1), message]), guarded);
        assert_eq!(sent(44, &[&fragment(ICMPV6, 0, 0), message]), guarded);
    }
    // A first fragment that ends before the message begins.
    assert_eq!(sent(44, &[&fragment(60, 0, 1), &options(ICMPV6)]), hidden);
    assert_eq!(sent(44, &[&fragment(60, 0, 1), &options(60)]), hidden);
    assert_eq!(sent(44, &[&fragment(60, 0, 1), &options(UDP)]), hidden);
    assert_eq!(sent(44, &[&fragment(ICMPV6, 3, 1), &claim]), passes, "a later fragment says nothing");
    assert_eq!(sent(44, &[&fragment(UDP, 0, 1), &udp(53)]), passes);
    assert_eq!(sent(44, &[&fragment(ICMPV6, 0, 1), &[128; 8]]), passes, "a large ping");
    // What is behind the end of the packet is cut off by its receiver.
    let mut padded = ipv6_packet("fd00::b", 44, &[&fragment(60, 0, 1)[..], &options(ICMPV6)].concat());
    padded.extend([128; 8]);
    assert_eq!(bench.attack(mac(2), IPV6, &padded), hidden);
}

#[test]
fn routers_and_dhcp_servers_need_permission() {
    let mut bench = bench();
    let frame = |ethertype: &[u8], packet: Vec<u8>| raw(MacAddr::BROADCAST, mac(2), ethertype, &packet);
    let advertised = nd(134, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0], Some((1, mac(2))));
    let redirect = nd(
        137,
        &[&[0; 4], &octets(ip("fd00::9"))[..], &octets(ip("fd00::9"))].concat(),
        Some((2, remote(1))),
    );
    let link_local = link_local(mac(2));
    let routers = [
        frame(IPV6, ipv6_packet(&link_local, ICMPV6, &advertised)),
        frame(
            IPV6,
            ipv6_packet(&link_local, 60, &[&[ICMPV6, 0, 1, 4, 0, 0, 0, 0], &advertised[..]].concat()),
        ),
        frame(IPV6, ipv6_packet("fe80::1", ICMPV6, &advertised)),
        frame(IPV6, ipv6_packet(&link_local, ICMPV6, &redirect)),
        frame(&[0x81, 0, 0, 0, 0x86, 0xdd], ipv6_packet(&link_local, ICMPV6, &advertised)),
    ];
    let with_options = {
        let mut packet = ipv4_packet("10.0.0.2", UDP, &udp(68));
        packet[0] = 0x46;
        packet.splice(20..20, [1; 4]);
        packet
    };
    let dhcp = [
        frame(IPV4, ipv4_packet("10.0.0.2", UDP, &udp(68))),
        frame(IPV4, with_options),
        frame(IPV4, ipv4_packet("0.0.0.0", UDP, &udp(68))),
        frame(IPV6, ipv6_packet("fd00::b", UDP, &udp(546))),
        frame(IPV6, ipv6_packet(&link_local, UDP, &udp(546))),
        frame(IPV6, ipv6_packet("fd00::b", 0, &[&[UDP, 0, 1, 4, 0, 0, 0, 0], &udp(546)[..]].concat())),
    ];
    let mut check = |servers: Servers| {
        bench.network(|network| network.servers = servers);
        for (frames, allowed, reason) in [
            (&routers[..], servers.router, DropReason::GuardRouter),
            (&dhcp, servers.dhcp, DropReason::GuardDhcp),
        ] {
            for (at, frame) in frames.iter().enumerate() {
                let expected = if allowed { Verdict::Flood } else { dropped(reason) };
                assert_eq!(bench.send(2, frame), expected, "{reason:?} {at}");
                let tunnelled = frame.replace_source(stranger(7));
                let from_tunnel = bench.arrive(1, STATIC, &tunnelled);
                assert_eq!(
                    matches!(from_tunnel, Verdict::Drop(r) if r == reason),
                    !allowed,
                    "{reason:?} {at}"
                );
            }
        }
    };
    for (dhcp, router) in [(false, false), (true, false), (false, true), (true, true)] {
        check(Servers { dhcp, router });
    }
    // Clients need none, nor does a later fragment that looks like a server's.
    bench.network(|network| network.servers = Servers::default());
    let mut fragment = ipv4_packet("10.0.0.2", UDP, &udp(68));
    fragment[7] = 1;
    for packet in [ipv4_packet("0.0.0.0", UDP, &udp(67)), fragment] {
        assert_eq!(bench.send(2, &frame(IPV4, packet)), Verdict::Flood);
    }
    let client = ipv6_packet(&link_local, UDP, &udp(547));
    assert_eq!(bench.send(2, &frame(IPV6, client)), Verdict::Flood);
}

#[test]
fn probes_for_registered_addresses_are_answered_for_their_owner() {
    let mut bench = bench();
    let probe = |target: &str| raw(MacAddr::BROADCAST, mac(2), ARP, &arp(1, mac(2), "0.0.0.0", target));
    let probe_v6 = |target: &str| {
        let group = MacAddr([0x33, 0x33, 0xff, 0, 0, 9]);
        raw(group, mac(2), IPV6, &ipv6_packet("::", ICMPV6, &solicitation(target, None)))
    };
    for (target, owner) in [("10.0.0.1", mac(1)), ("10.0.1.1", remote(1))] {
        assert_eq!(bench.send(2, &probe(target)), Verdict::Neighbor(owner));
    }
    for (target, owner) in [("fd00::a", mac(1)), ("fd00::9", remote(1))] {
        assert_eq!(bench.send(2, &probe_v6(target)), Verdict::Neighbor(owner));
    }
    // The same in a network of this host only, where questions that claim nothing reach the owner.
    bench.network(|network| network.overlay = None);
    assert_eq!(bench.send(2, &probe("10.0.0.1")), Verdict::Neighbor(mac(1)));
    assert_eq!(bench.send(2, &probe_v6("fd00::a")), Verdict::Neighbor(mac(1)));
    for free in [FLOATING, "10.0.0.2"] {
        assert_eq!(bench.send(2, &probe(free)), Verdict::Flood, "{free}");
    }
    assert_eq!(bench.send(2, &probe_v6(FLOATING_V6)), Verdict::Flood);
    assert_eq!(bench.send(2, &probe_v6(&link_local(mac(2)))), Verdict::Flood);
    let asked = raw(MacAddr::BROADCAST, mac(2), ARP, &arp(1, mac(2), "10.0.0.2", "10.0.0.1"));
    assert_eq!(bench.send(2, &asked), Verdict::Flood);
    // A probe that the switch does not answer does not reach the owner either.
    let tagged =
        raw(MacAddr::BROADCAST, mac(2), &[0x81, 0, 0, 0, 8, 6], &arp(1, mac(2), "0.0.0.0", "10.0.0.1"));
    assert_eq!(bench.send(2, &tagged), dropped(DropReason::GuardArp));
    // The gateway answers for itself.
    let gateway = GATEWAY.ipv4.unwrap().to_string();
    assert_eq!(bench.send(2, &probe(&gateway)), Verdict::Gateway);
}

#[test]
fn source_macs_of_others_are_dropped_wherever_they_come_from() {
    let mut bench = bench();
    let guarded = dropped(DropReason::GuardMac);
    for victim in [mac(1), remote(1)] {
        assert_eq!(bench.attack(victim, &[0x88, 0xb5], &[0; 46]), guarded);
        assert_eq!(bench.attack(victim, IPV4, &ipv4_packet("10.0.0.2", TCP, &[0; 20])), guarded);
        assert_eq!(bench.arrive(1, STATIC, &ipv4(mac(2), victim, 46)), guarded);
    }
    assert_eq!(bench.arrive(1, NODE, &ipv4(mac(1), mac(2), 46)), guarded);
    assert_eq!(bench.arrive(1, NODE, &ipv4(mac(1), remote(1), 46)), Verdict::Port(PortId(1)));
    assert!(bench.fdb.is_empty(), "nothing was learned");
}

/// Keepalived moves an address, VRRP with a virtual MAC address, and a container that bridges others.
#[test]
fn what_nobody_registered_moves_freely() {
    let mut bench = bench();
    let virtual_mac = MacAddr([0, 0, 0x5e, 0, 1, 51]);
    for port in [2, 1, 2, 3] {
        for (source, sender) in [(mac(port), mac(port)), (virtual_mac, virtual_mac), (mac(port), virtual_mac)]
        {
            for operation in [1, 2] {
                let announced = arp(operation, sender, FLOATING, FLOATING);
                let frame = raw(MacAddr::BROADCAST, source, ARP, &announced);
                assert_eq!(bench.send(port, &frame), Verdict::Flood);
            }
            let packet = ipv4_packet(FLOATING, TCP, &[0; 20]);
            let to = if port == 1 { 2 } else { 1 };
            assert_eq!(bench.send(port, &raw(mac(to), source, IPV4, &packet)), Verdict::Port(PortId(to)));
        }
        let announced = ipv6_packet(FLOATING_V6, ICMPV6, &advertisement(FLOATING_V6, Some(virtual_mac)));
        assert_eq!(bench.send(port, &raw(MacAddr::BROADCAST, virtual_mac, IPV6, &announced)), Verdict::Flood);
        let asker = if port == 1 { 2 } else { 1 };
        assert_eq!(bench.unicast(asker, mac(asker), virtual_mac), Verdict::Port(PortId(port)), "it moved");
    }
}

#[test]
fn strict_ports_use_their_leases_only() {
    let mut bench = bench();
    bench.network(|network| network.security = PortSecurity::Strict);
    let unleased = dropped(DropReason::GuardUnleased);
    let passes = Verdict::Port(PortId(1));
    assert_eq!(bench.unicast(2, stranger(7), mac(1)), unleased);
    for (packet, expected) in [
        (arp(2, mac(2), FLOATING, "10.0.0.1"), unleased),
        (arp(2, stranger(7), "10.0.0.2", "10.0.0.1"), unleased),
        (arp(2, mac(2), "10.0.0.1", "10.0.0.1"), dropped(DropReason::GuardArp)),
        (arp(2, mac(2), "10.0.0.2", "10.0.0.1"), passes),
        (arp(1, mac(2), "0.0.0.0", FLOATING), passes),
    ] {
        assert_eq!(bench.attack(mac(2), ARP, &packet), expected);
    }
    for (source, expected) in
        [(FLOATING, unleased), ("192.0.2.1", unleased), ("10.0.0.2", passes), ("0.0.0.0", passes)]
    {
        for protocol in [TCP, UDP] {
            let packet = ipv4_packet(source, protocol, &[0; 20]);
            assert_eq!(bench.attack(mac(2), IPV4, &packet), expected, "{source}");
        }
    }
    let own = link_local(mac(2));
    for (source, expected) in [
        (FLOATING_V6, unleased),
        ("fe80::1", unleased),
        ("fd00::b", passes),
        (own.as_str(), passes),
        ("::", passes),
    ] {
        assert_eq!(bench.attack(mac(2), IPV6, &ipv6_packet(source, TCP, &[0; 20])), expected, "{source}");
        let asked = ipv6_packet(source, ICMPV6, &solicitation(&own, None));
        assert_eq!(bench.attack(mac(2), IPV6, &asked), expected, "{source}");
    }
    let foreign = ipv6_packet("fd00::b", ICMPV6, &advertisement(FLOATING_V6, Some(mac(2))));
    assert_eq!(bench.attack(mac(2), IPV6, &foreign), unleased);
    // What is behind static remotes cannot be registered.
    let outside = raw(mac(1), stranger(7), IPV4, &ipv4_packet(FLOATING, TCP, &[0; 20]));
    assert_eq!(bench.arrive(1, STATIC, &outside), passes);
}

#[test]
fn without_port_security_all_but_the_gateways_mac_passes() {
    let mut bench = bench();
    bench.network(|network| network.security = PortSecurity::Off);
    let passes = Verdict::Port(PortId(1));
    let advertised = nd(134, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0], None);
    for (ethertype, packet) in [
        (ARP, arp(2, mac(2), "10.0.1.1", "10.0.0.1")),
        (ARP, arp(1, mac(2), "0.0.0.0", "10.0.0.1")),
        (IPV4, ipv4_packet("10.0.1.1", UDP, &udp(68))),
        (IPV6, ipv6_packet("fd00::9", ICMPV6, &advertised)),
        (IPV6, ipv6_packet("fd00::9", ICMPV6, &advertisement("fd00::9", None))),
    ] {
        for source in [mac(2), remote(1), stranger(7)] {
            assert_eq!(bench.attack(source, ethertype, &packet), passes);
        }
        assert_eq!(bench.attack(GATEWAY.mac, ethertype, &packet), dropped(DropReason::BadSource));
    }
    let known: Vec<MacAddr> = bench.fdb.rows(None, bench.now).iter().map(|row| row.mac).collect();
    assert_eq!(known, [stranger(7)], "registered addresses are not learned");
}

#[test]
fn addresses_can_be_claimed_once_they_are_released() {
    let mut bench = bench();
    let claim = arp(2, mac(2), "10.0.1.1", "10.0.0.1");
    assert_eq!(bench.attack(mac(2), ARP, &claim), dropped(DropReason::GuardArp));
    bench.network(|network| _ = network.neighbors.remove(&ip("10.0.1.1")));
    assert_eq!(bench.attack(mac(2), ARP, &claim), Verdict::Port(PortId(1)));
    // Leased to another endpoint: that one may use it at once, and the former owner not any more.
    bench.network(|network| _ = network.neighbors.insert(ip("10.0.1.1"), mac(1)));
    assert_eq!(bench.attack(mac(2), ARP, &claim), dropped(DropReason::GuardArp));
    let of_new = raw(mac(2), mac(1), ARP, &arp(2, mac(1), "10.0.1.1", "10.0.0.2"));
    assert_eq!(bench.send(1, &of_new), Verdict::Port(PortId(2)));
    let of_former = raw(mac(1), remote(1), ARP, &arp(2, remote(1), "10.0.1.1", "10.0.0.2"));
    assert_eq!(bench.arrive(1, NODE, &of_former), dropped(DropReason::GuardArp));
}
