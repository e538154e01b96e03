//! Each check, each way a destination is found, by hand. Random sequences against a model are in `tests/`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use vswitch_proto::id::Vni;
use vswitch_proto::security::PortSecurity;

mod guard;
mod overlay;
mod stale;

use super::tables::{Gateway, Port};
use super::*;

#[expect(clippy::disallowed_methods, reason = "there is no other first instant")]
pub(super) fn instant() -> Instant {
    Instant::now()
}

/// A network and its ports.
pub(super) fn network(vni: u32, ports: &[u32]) -> (Vni, Network) {
    let ports = ports.iter().copied().map(PortId).collect();
    (Vni::new(vni).unwrap(), Network { ports, ..Network::default() })
}

/// The MAC that port `id` is registered with.
fn mac(id: u32) -> MacAddr {
    MacAddr::from_ipv4(Ipv4Addr::from(0xac11_0000 + id))
}

fn stranger(n: u8) -> MacAddr {
    MacAddr([0x02, 0, 0, 0, 0, n])
}

const GATEWAY: Gateway = Gateway {
    mac: MacAddr([0x02, 0x42, 172, 17, 255, 1]),
    ipv4: Some(Ipv4Addr::new(172, 17, 255, 1)),
    ipv6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
};

pub(super) fn tables(networks: &[(Vni, Network)]) -> Tables {
    let mut tables = Tables::default();
    for (vni, network) in networks {
        let mut network = network.clone();
        for &id in &network.ports {
            tables.ports.insert(id, Port { vni: *vni, mac: mac(id.0), mtu: 1500, ipv4: None, ipv6: None });
            network.endpoints.insert(mac(id.0), id);
        }
        network.gateway = Some(GATEWAY);
        tables.networks.insert(*vni, network.into());
    }
    tables
}

/// An IPv4 frame of `packet_bytes` zeros.
fn ipv4(destination: MacAddr, source: MacAddr, packet_bytes: usize) -> Vec<u8> {
    raw(destination, source, &[8, 0], &vec![0; packet_bytes])
}

fn raw(destination: MacAddr, source: MacAddr, ethertype: &[u8], payload: &[u8]) -> Vec<u8> {
    [&[0; 12], &destination.0[..], &source.0, ethertype, payload].concat()
}

struct Bench {
    tables: Tables,
    fdb: Arc<Fdb>,
    forwarder: Forwarder,
    now: Instant,
}

impl Bench {
    /// Ports 1, 2, 3 in one network and 4, 5 in another.
    fn new(storm: Option<StormLimit>) -> Bench {
        let fdb = Arc::new(Fdb::new(FdbConfig::default()));
        Bench {
            tables: tables(&[network(1, &[1, 2, 3]), network(2, &[4, 5])]),
            forwarder: Forwarder::new(fdb.clone(), ForwardConfig { storm, gateway: storm }),
            fdb,
            now: instant(),
        }
    }

    fn send(&mut self, from: u32, raw: &[u8]) -> Verdict {
        let frame = Frame::parse(raw).unwrap();
        self.forwarder.forward(&self.tables, &frame, Ingress::Port(PortId(from)), self.now)
    }

    fn unicast(&mut self, from: u32, source: MacAddr, destination: MacAddr) -> Verdict {
        self.send(from, &ipv4(destination, source, 46))
    }
}

#[test]
fn what_a_bridge_must_not_forward() {
    let mut bench = Bench::new(None);
    let dropped = Verdict::Drop;
    for bad in [MacAddr::ZERO, MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1]), GATEWAY.mac] {
        assert_eq!(bench.unicast(1, bad, mac(2)), dropped(DropReason::BadSource), "{bad}");
    }
    for last in 0..=0x0f {
        let link_local = MacAddr([1, 0x80, 0xc2, 0, 0, last]);
        assert_eq!(bench.unicast(1, mac(1), link_local), dropped(DropReason::LinkLocal));
    }
    assert_eq!(bench.unicast(1, mac(1), MacAddr([1, 0x80, 0xc2, 0, 0, 0x10])), Verdict::Flood);
    assert_eq!(bench.unicast(9, mac(1), mac(2)), dropped(DropReason::UnknownPort));
    assert!(bench.fdb.is_empty(), "nothing is learned from a dropped frame");
}

#[test]
fn a_port_whose_network_is_gone_is_unknown() {
    let mut bench = Bench::new(None);
    bench.tables.networks.clear();
    assert_eq!(bench.unicast(1, mac(1), mac(2)), Verdict::Drop(DropReason::UnknownPort));
}

#[test]
fn the_mtu_is_for_packets_not_for_frames() {
    let mut bench = Bench::new(None);
    let to_2 = Verdict::Port(PortId(2));
    let oversized = Verdict::Drop(DropReason::Oversized);
    assert_eq!(bench.send(1, &ipv4(mac(2), mac(1), 1500)), to_2);
    assert_eq!(bench.send(1, &ipv4(mac(2), mac(1), 1501)), oversized);
    let tagged = |packet_bytes| raw(mac(2), mac(1), &[0x81, 0, 0, 5, 8, 0], &vec![0; packet_bytes]);
    assert_eq!(bench.send(1, &tagged(1500)), to_2);
    assert_eq!(bench.send(1, &tagged(1501)), oversized);

    let tso = |gso_size: u16| {
        let mut bytes = ipv4(mac(2), mac(1), 64_000);
        bytes[..2].copy_from_slice(&[1, 1]);
        bytes[4..6].copy_from_slice(&gso_size.to_le_bytes());
        bytes[6..10].copy_from_slice(&[34, 0, 16, 0]);
        bytes[26] = 0x45;
        bytes[26 + 9] = 6;
        bytes[26 + 20 + 12] = 0x50;
        bytes
    };
    assert_eq!(bench.send(1, &tso(1460)), to_2);
    assert_eq!(bench.send(1, &tso(1461)), oversized);
}

#[test]
fn destinations_in_order_of_trust() {
    let mut bench = Bench::new(None);
    let (vni, nested) = (Vni::new(1).unwrap(), stranger(7));
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Flood);
    bench.unicast(2, nested, mac(1));
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Port(PortId(2)), "learned");
    bench.fdb.add_static(vni, nested, PortId(3)).unwrap();
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Port(PortId(3)), "static beats learned");
    bench.unicast(2, nested, mac(1));
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Port(PortId(3)), "and is not unlearned");
    let first = Arc::make_mut(bench.tables.networks.get_mut(&vni).unwrap());
    first.endpoints.insert(nested, PortId(2));
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Port(PortId(2)), "registered beats static");
    bench.fdb.add_static(vni, GATEWAY.mac, PortId(3)).unwrap();
    assert_eq!(bench.unicast(1, mac(1), GATEWAY.mac), Verdict::Gateway, "the gateway beats all");
    assert_eq!(bench.unicast(2, mac(2), nested), Verdict::Drop(DropReason::Hairpin));
}

#[test]
fn a_registered_address_cannot_be_drawn_away() {
    let mut bench = Bench::new(None);
    let stolen = bench.unicast(3, mac(2), mac(1));
    assert_eq!(stolen, Verdict::Drop(DropReason::GuardMac));
    assert_eq!(bench.unicast(1, mac(1), mac(2)), Verdict::Port(PortId(2)));
    let first = Arc::make_mut(bench.tables.networks.get_mut(&Vni::new(1).unwrap()).unwrap());
    first.security = PortSecurity::Off;
    assert_eq!(
        bench.unicast(3, mac(2), mac(1)),
        Verdict::Port(PortId(1)),
        "not even where it is let through"
    );
    assert_eq!(bench.unicast(1, mac(1), mac(2)), Verdict::Port(PortId(2)));
    assert!(bench.fdb.is_empty());
}

#[test]
fn answers_follow_changes_at_once() {
    let mut bench = Bench::new(None);
    let (vni, nested) = (Vni::new(1).unwrap(), stranger(7));
    let mut other = Forwarder::new(bench.fdb.clone(), ForwardConfig::default());
    bench.unicast(2, nested, mac(1));
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Port(PortId(2)));

    let moved = ipv4(mac(1), nested, 46);
    other.forward(&bench.tables, &Frame::parse(&moved).unwrap(), Ingress::Port(PortId(3)), bench.now);
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Port(PortId(3)), "a move another worker saw");
    assert_eq!(bench.fdb.flush(Some(Vni::new(2).unwrap())), 0);
    assert_eq!(bench.fdb.flush(Some(vni)), 1);
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Flood, "a flush");

    bench.unicast(2, nested, mac(1));
    bench.tables = tables(&[network(1, &[1, 3]), network(2, &[4, 5, 2])]);
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Flood, "the port went to another network");
    assert_eq!(bench.fdb.forget_port(PortId(2)), 1);
    bench.tables = tables(&[network(1, &[1, 2, 3]), network(2, &[4, 5])]);
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Flood, "and was forgotten");

    bench.unicast(2, nested, mac(1));
    bench.now += Duration::from_millis(299_999);
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Port(PortId(2)));
    bench.now += Duration::from_millis(1);
    assert_eq!(bench.unicast(1, mac(1), nested), Verdict::Flood, "aged");
}

#[test]
fn nobody_else_is_there() {
    let mut bench = Bench::new(None);
    bench.tables = tables(&[network(1, &[1]), network(2, &[4, 5])]);
    for destination in [MacAddr::BROADCAST, stranger(7), mac(4)] {
        assert_eq!(bench.unicast(1, mac(1), destination), Verdict::Drop(DropReason::NoReceiver));
    }
}

#[test]
fn storm_control_counts_what_is_flooded() {
    let two = NonZeroU32::new(2).unwrap();
    let storm = Verdict::Drop(DropReason::StormControl);
    for frame in [
        ipv4(MacAddr::BROADCAST, mac(1), 46),
        ipv4(MacAddr([1, 0, 0x5e, 0, 0, 1]), mac(1), 46),
        ipv4(stranger(7), mac(1), 46),
    ] {
        let mut bench = Bench::new(Some(StormLimit { frames_per_s: two, burst: two }));
        assert_ne!(bench.send(1, &frame), storm);
        assert_ne!(bench.send(1, &frame), storm);
        assert_eq!(bench.send(1, &frame), storm);
        assert_eq!(
            bench.unicast(1, mac(1), mac(2)),
            Verdict::Port(PortId(2)),
            "known receivers are not limited"
        );
        assert_eq!(bench.unicast(1, mac(1), GATEWAY.mac), Verdict::Gateway, "it is asked on another account");
        bench.now += Duration::from_millis(500);
        assert_ne!(bench.send(1, &frame), storm);
    }
}

#[test]
fn questions_for_the_gateway_have_a_limit_of_their_own() {
    let two = NonZeroU32::new(2).unwrap();
    let limit = Verdict::Drop(DropReason::GatewayLimit);
    // By its IP address, and by its MAC address as questions for names are.
    for frame in [arp_request(GATEWAY.ipv4.unwrap()), ipv4(GATEWAY.mac, mac(1), 46)] {
        let mut bench = Bench::new(Some(StormLimit { frames_per_s: two, burst: two }));
        assert_eq!([(); 3].map(|()| bench.send(1, &frame)), [Verdict::Gateway, Verdict::Gateway, limit]);
        assert_eq!(bench.unicast(2, mac(2), GATEWAY.mac), Verdict::Gateway, "another port");
        assert_eq!(bench.unicast(1, mac(1), MacAddr::BROADCAST), Verdict::Flood, "what is flooded");
        bench.now += Duration::from_millis(500);
        assert_eq!(bench.send(1, &frame), Verdict::Gateway);
    }
}

fn arp_request(target: Ipv4Addr) -> Vec<u8> {
    let sender = [&mac(1).0[..], &[172, 17, 0, 1], &[0; 6]].concat();
    let payload = [&[0, 1, 8, 0, 6, 4, 0, 1], &sender[..], &target.octets()].concat();
    raw(MacAddr::BROADCAST, mac(1), &[8, 6], &payload)
}

#[test]
fn questions_for_the_gateway_concern_nobody_else() {
    let mut bench = Bench::new(None);
    assert_eq!(bench.send(1, &arp_request(GATEWAY.ipv4.unwrap())), Verdict::Gateway);
    assert_eq!(bench.send(1, &arp_request(Ipv4Addr::new(172, 17, 0, 2))), Verdict::Flood);

    let solicitation = |target: Ipv6Addr| {
        let header = [&[0x60, 0, 0, 0, 0, 24, 58, 255], &[0; 32][..]].concat();
        let message = [&[135, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..]].concat();
        raw(MacAddr([0x33, 0x33, 0xff, 0, 0, 1]), mac(1), &[0x86, 0xdd], &[header, message].concat())
    };
    assert_eq!(bench.send(1, &solicitation(GATEWAY.ipv6.unwrap())), Verdict::Gateway);
    assert_eq!(bench.send(1, &solicitation("fd00::2".parse().unwrap())), Verdict::Flood);

    let first = Arc::make_mut(bench.tables.networks.get_mut(&Vni::new(1).unwrap()).unwrap());
    first.gateway = None;
    assert_eq!(bench.send(1, &arp_request(GATEWAY.ipv4.unwrap())), Verdict::Flood);
}
