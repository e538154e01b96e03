//! Tunnels: what enters from one, what goes into one, and what is answered on behalf of somebody behind one.

use std::net::IpAddr;

use super::*;
use crate::forward::tables::Overlay;

pub(super) const NODE: &str = "10.8.0.2";
pub(super) const STATIC: &str = "10.8.0.9";

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Behind the other node.
pub(super) fn remote(n: u8) -> MacAddr {
    MacAddr([0x02, 0x42, 10, 0, 1, n])
}

/// Network 1 of [`Bench`] spans this host, a node and a static remote; the address of a remote is its MAC's last bytes.
pub(super) fn bench(storm: Option<StormLimit>) -> Bench {
    let mut bench = Bench::new(storm);
    bench.tables.vteps = [ip(NODE)].into_iter().collect();
    let network = Arc::make_mut(bench.tables.networks.get_mut(&Vni::new(1).unwrap()).unwrap());
    network.overlay = Some(Overlay {
        vtep: ip("10.8.0.1"),
        remotes: (1..3).map(|n| (remote(n), ip(NODE))).collect(),
        flood_vteps: vec![ip(NODE), ip(STATIC)],
        static_vteps: vec![ip(STATIC)],
        inner_vlan: false,
    });
    let neighbors =
        [("10.0.1.1", remote(1)), ("10.0.0.1", mac(1)), ("10.0.0.2", mac(2)), ("fd00::9", remote(1))];
    network.neighbors = neighbors.into_iter().map(|(text, mac)| (ip(text), mac)).collect();
    bench
}

impl Bench {
    pub(super) fn arrive(&mut self, vni: u32, vtep: &str, raw: &[u8]) -> Verdict {
        let frame = Frame::complete(&raw[12..]).unwrap();
        let ingress = Ingress::Tunnel { vni: Vni::new(vni).unwrap(), vtep: ip(vtep) };
        self.forwarder.forward(&self.tables, &frame, ingress, self.now)
    }

    fn vteps(&self, from: u32, raw: &[u8]) -> Vec<IpAddr> {
        flood::vteps(&self.tables, &Frame::parse(raw).unwrap(), Ingress::Port(PortId(from))).collect()
    }
}

/// As port 1 asks.
fn question(target: &str, sender: MacAddr) -> Vec<u8> {
    question_from([10, 0, 0, 1], target, sender)
}

fn question_from(own: [u8; 4], target: &str, sender: MacAddr) -> Vec<u8> {
    let IpAddr::V4(target) = ip(target) else { panic!("ARP is for IPv4") };
    let payload = [&[0, 1, 8, 0, 6, 4, 0, 1], &sender.0[..], &own, &[0; 6], &target.octets()].concat();
    raw(MacAddr::BROADCAST, sender, &[8, 6], &payload)
}

#[test]
fn who_may_enter() {
    let mut bench = bench(None);
    let frame = ipv4(mac(1), remote(1), 46);
    assert_eq!(bench.arrive(1, NODE, &frame), Verdict::Port(PortId(1)));
    let outside = ipv4(mac(1), stranger(8), 46);
    assert_eq!(bench.arrive(1, STATIC, &outside), Verdict::Port(PortId(1)));
    assert_eq!(bench.arrive(1, "10.8.0.3", &frame), Verdict::Drop(DropReason::UnknownVtep));
    assert_eq!(bench.arrive(77, NODE, &frame), Verdict::Drop(DropReason::UnknownVni));
    assert_eq!(bench.arrive(2, NODE, &frame), Verdict::Drop(DropReason::UnknownVni), "a local network");
    let jumbo = ipv4(mac(1), remote(1), 9000);
    assert_eq!(bench.arrive(1, NODE, &jumbo), Verdict::Port(PortId(1)), "no port's MTU is concerned");
    for bad in [MacAddr::BROADCAST, GATEWAY.mac] {
        let frame = ipv4(mac(1), bad, 46);
        assert_eq!(bench.arrive(1, NODE, &frame), Verdict::Drop(DropReason::BadSource), "{bad}");
    }
}

#[test]
fn registered_remotes_are_reached_through_their_tunnel() {
    let mut bench = bench(None);
    assert_eq!(bench.unicast(1, mac(1), remote(1)), Verdict::Tunnel(ip(NODE)));
    assert_eq!(bench.unicast(4, mac(4), remote(1)), Verdict::Flood, "in its network only");
    // Neither a port nor another host draws the address away.
    bench.unicast(2, remote(1), mac(1));
    bench.arrive(1, STATIC, &ipv4(mac(1), remote(1), 46));
    assert!(bench.fdb.is_empty());
    assert_eq!(bench.unicast(1, mac(1), remote(1)), Verdict::Tunnel(ip(NODE)));
}

#[test]
fn what_nobody_registered_is_learned_from_tunnels() {
    let mut bench = bench(None);
    let nested = stranger(7);
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Flood);
    bench.arrive(1, STATIC, &ipv4(mac(1), nested, 46));
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Tunnel(ip(STATIC)));
    bench.unicast(2, nested, mac(1));
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Port(PortId(2)), "it moved here");
    bench.arrive(1, NODE, &ipv4(mac(1), nested, 46));
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Tunnel(ip(NODE)), "and there");
    bench.tables.vteps.clear();
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Flood, "its host has left");
    bench.tables.vteps.insert(ip(NODE));
    assert_eq!(bench.fdb.forget_vtep(ip(NODE)), 1);
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Flood, "and was forgotten");
}

#[test]
fn what_came_from_a_tunnel_goes_into_none() {
    let mut bench = bench(None);
    bench.arrive(1, STATIC, &ipv4(mac(1), stranger(7), 46));
    let split = Verdict::Drop(DropReason::SplitHorizon);
    for destination in [remote(1), remote(2), stranger(7)] {
        for (from, source) in [(NODE, remote(1)), (STATIC, stranger(8))] {
            assert_eq!(bench.arrive(1, from, &ipv4(destination, source, 46)), split, "{destination}");
        }
    }
    let broadcast = ipv4(MacAddr::BROADCAST, remote(1), 46);
    assert_eq!(bench.arrive(1, NODE, &broadcast), Verdict::Flood);
    let ingress = Ingress::Tunnel { vni: Vni::new(1).unwrap(), vtep: ip(NODE) };
    let frame = Frame::parse(&broadcast).unwrap();
    assert_eq!(flood::vteps(&bench.tables, &frame, ingress).count(), 0);
    assert_eq!(flood::targets(&bench.tables, ingress).collect::<Vec<_>>(), [1, 2, 3].map(PortId));
    assert_eq!(bench.vteps(1, &broadcast), [ip(NODE), ip(STATIC)]);
    assert!(bench.vteps(4, &broadcast).is_empty(), "a local network");
}

#[test]
fn a_lone_port_of_a_host_floods_to_the_others() {
    let mut bench = bench(None);
    let overlay = bench.tables.networks[&Vni::new(1).unwrap()].overlay.clone();
    bench.tables.ports.retain(|port, _| *port == PortId(1));
    assert_eq!(bench.unicast(1, mac(1), MacAddr::BROADCAST), Verdict::Flood);
    let network = Arc::make_mut(bench.tables.networks.get_mut(&Vni::new(1).unwrap()).unwrap());
    network.overlay = Some(Overlay { flood_vteps: vec![], ..overlay.unwrap() });
    let nobody = Verdict::Drop(DropReason::NoReceiver);
    assert_eq!(bench.unicast(1, mac(1), MacAddr::BROADCAST), nobody);
}

#[test]
fn tags_pass_between_our_hosts_and_to_others_as_the_network_says() {
    const VLAN: &[u8] = &[0x81, 0, 0, 5, 8, 0];
    const QINQ: &[u8] = &[0x88, 0xa8, 0, 6, 0x81, 0, 0, 5, 8, 0];
    let dropped = Verdict::Drop(DropReason::InnerVlan);
    for tags in [VLAN, QINQ] {
        let mut bench = bench(None);
        let tagged = |destination, source| raw(destination, source, tags, &[0; 46]);
        // Behind the static remote, by what was learned.
        bench.arrive(1, STATIC, &ipv4(mac(1), stranger(7), 46));
        assert_eq!(bench.send(1, &tagged(remote(1), mac(1))), Verdict::Tunnel(ip(NODE)));
        assert_eq!(bench.send(1, &tagged(stranger(7), mac(1))), dropped);
        assert_eq!(bench.send(1, &tagged(mac(2), mac(1))), Verdict::Port(PortId(2)));
        let everybody = tagged(MacAddr::BROADCAST, mac(1));
        assert_eq!(bench.send(1, &everybody), Verdict::Flood);
        assert_eq!(bench.vteps(1, &everybody), [ip(NODE)]);
        assert_eq!(bench.arrive(1, NODE, &tagged(mac(1), remote(1))), Verdict::Port(PortId(1)));
        assert_eq!(bench.arrive(1, STATIC, &tagged(mac(1), stranger(8))), dropped);
        assert_eq!(bench.unicast(1, mac(1), stranger(8)), Verdict::Flood, "what is dropped is not learned");

        let mut alone = bench.tables.clone();
        alone.vteps.clear();
        alone.ports.retain(|port, _| *port == PortId(1));
        std::mem::swap(&mut bench.tables, &mut alone);
        assert_eq!(bench.send(1, &everybody), dropped, "only the static remote is left");
        std::mem::swap(&mut bench.tables, &mut alone);

        let network = Arc::make_mut(bench.tables.networks.get_mut(&Vni::new(1).unwrap()).unwrap());
        network.overlay.as_mut().unwrap().inner_vlan = true;
        assert_eq!(bench.send(1, &tagged(stranger(7), mac(1))), Verdict::Tunnel(ip(STATIC)));
        assert_eq!(bench.vteps(1, &everybody), [ip(NODE), ip(STATIC)]);
        assert_eq!(bench.arrive(1, STATIC, &tagged(mac(1), stranger(8))), Verdict::Port(PortId(1)));
    }
}

#[test]
fn known_neighbours_are_answered_for() {
    let mut bench = bench(None);
    assert_eq!(bench.send(1, &question("10.0.1.1", mac(1))), Verdict::Neighbor(remote(1)));
    assert_eq!(bench.send(1, &question("10.0.0.2", mac(1))), Verdict::Neighbor(mac(2)), "here, too");
    assert_eq!(bench.send(1, &question("10.0.7.7", mac(1))), Verdict::Flood, "nobody knows");
    assert_eq!(bench.send(4, &question("10.0.1.1", mac(4))), Verdict::Flood, "another network");
    assert_eq!(
        bench.arrive(1, STATIC, &question_from([10, 0, 0, 77], "10.0.0.1", stranger(1))),
        Verdict::Flood,
        "it answers itself"
    );

    // Announced, or looked for twice, by its owner: all may hear it. Looked for by somebody else: the owner's answer.
    assert_eq!(bench.send(1, &question("10.0.0.1", mac(1))), Verdict::Flood);
    let probe = question_from([0; 4], "10.0.0.1", mac(3));
    assert_eq!(bench.send(3, &probe), Verdict::Neighbor(mac(1)));

    let solicitation = |target: &str| {
        let IpAddr::V6(target) = ip(target) else { panic!("an IPv6 address") };
        let header = [&[0x60, 0, 0, 0, 0, 24, 58, 255], &[0; 32][..]].concat();
        let message = [&[135, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..]].concat();
        raw(MacAddr([0x33, 0x33, 0xff, 0, 0, 9]), mac(1), &[0x86, 0xdd], &[header, message].concat())
    };
    assert_eq!(bench.send(1, &solicitation("fd00::9")), Verdict::Neighbor(remote(1)));
    assert_eq!(bench.send(1, &solicitation("fd00::8")), Verdict::Flood);
}

#[test]
fn every_host_has_the_gateway_itself() {
    let mut bench = bench(None);
    let gateway = GATEWAY.ipv4.unwrap().to_string();
    assert_eq!(bench.send(1, &question(&gateway, mac(1))), Verdict::Gateway);
    let unhandled = Verdict::Drop(DropReason::GatewayUnhandled);
    let asked = question_from([10, 0, 0, 77], &gateway, stranger(1));
    assert_eq!(bench.arrive(1, STATIC, &asked), unhandled);
    assert_eq!(bench.arrive(1, STATIC, &ipv4(GATEWAY.mac, stranger(1), 46)), unhandled);
}

#[test]
fn storms_from_tunnels_are_limited_by_their_sender() {
    let two = NonZeroU32::new(2).unwrap();
    let mut bench = bench(Some(StormLimit { frames_per_s: two, burst: two }));
    let broadcast = ipv4(MacAddr::BROADCAST, remote(1), 46);
    // More than one container there may use up its own limit.
    (0..8).for_each(|_| assert_eq!(bench.arrive(1, NODE, &broadcast), Verdict::Flood));
    assert_eq!(bench.arrive(1, NODE, &broadcast), Verdict::Drop(DropReason::StormControl));
    let other = ipv4(MacAddr::BROADCAST, stranger(8), 46);
    assert_eq!(bench.arrive(1, STATIC, &other), Verdict::Flood, "the other has its own limit");
    assert_eq!(bench.arrive(1, NODE, &ipv4(mac(1), remote(1), 46)), Verdict::Port(PortId(1)));
    // Answers cost the port that asks.
    let ask = question("10.0.1.1", mac(1));
    assert_eq!([(); 3].map(|()| bench.send(1, &ask) == Verdict::Neighbor(remote(1))), [true, true, false]);
}
