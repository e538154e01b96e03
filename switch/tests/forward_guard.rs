//! Random claims of addresses against a model that is a list of who has what.
//!
//! The generator knows what each frame claims, since it builds it; the model looks each claim up in lists. A frame that
//! breaks no rule has to pass, and one that breaks some is dropped for one of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use vswitch::forward::tables::{Gateway, Network, Overlay, Port, Tables};
use vswitch::forward::{DropReason, Fdb, FdbConfig, ForwardConfig, Forwarder, Ingress, Verdict};
use vswitch::frame::Frame;
use vswitch_proto::id::{MacAddr, PortId, Vni};
use vswitch_proto::security::{PortSecurity, Servers};

/// Endpoints 0 to 2 are behind ports of the same numbers, 3 and 4 on another host. 5 and 6 are registered nowhere, 7 is
/// the gateway.
const ENDPOINTS: u8 = 5;
const GATEWAY: u8 = 7;
const ADDRESSES: u8 = 8;
const PORTS: u8 = 3;

const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const STATIC: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0x42, 10, 0, 0, n])
}

/// Zero is the unspecified address.
fn ipv4(n: Option<u8>) -> [u8; 4] {
    n.map_or([0; 4], |n| [10, 0, 0, 10 + n])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum V6 {
    Unspecified,
    Global(u8),
    /// Made from the MAC address of this number.
    LinkLocal(u8),
}

fn ipv6(ip: V6) -> [u8; 16] {
    match ip {
        V6::Unspecified => [0; 16],
        V6::Global(n) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 10 + u16::from(n)).octets(),
        V6::LinkLocal(n) => {
            let [a, b, c, d, e, f] = mac(n).0;
            [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
        }
    }
}

#[derive(Debug, Clone)]
enum Packet {
    Arp { is_reply: bool, mac: u8, ip: Option<u8>, target: u8 },
    V4 { source: Option<u8>, protocol: u8, to_port: u16, later_fragment: bool },
    V6 { source: V6, protocol: u8, to_port: u16, extensions: usize },
    Nd { source: V6, kind: u8, target: V6, option: Option<u8>, extensions: usize, fragment: bool },
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Port(u8),
    Tunnel(IpAddr),
}

#[derive(Debug, Clone)]
struct Sent {
    from: From,
    source: u8,
    tags: usize,
    packet: Packet,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    security: PortSecurity,
    servers: Servers,
    /// Whether the other host's endpoint 4 is registered.
    has_fourth: bool,
}

fn any_v6() -> impl Strategy<Value = V6> {
    prop_oneof![
        1 => Just(V6::Unspecified),
        4 => (0..ADDRESSES).prop_map(V6::Global),
        2 => (0..ADDRESSES).prop_map(V6::LinkLocal),
    ]
}

fn packets() -> impl Strategy<Value = Packet> {
    let protocol = || prop_oneof![Just(6u8), Just(17), Just(1), Just(59)];
    let to_port = || prop_oneof![Just(68u16), Just(546), Just(67), Just(80)];
    let extensions = || prop_oneof![3 => Just(0usize), 1 => 1..4usize];
    let any_ip = || prop::option::weighted(0.9, 0..ADDRESSES);
    prop_oneof![
        3 => (any::<bool>(), 0..ADDRESSES, any_ip(), 0..ADDRESSES)
            .prop_map(|(is_reply, mac, ip, target)| Packet::Arp { is_reply, mac, ip, target }),
        2 => (any_ip(), protocol(), to_port(), any::<bool>()).prop_map(|(source, protocol, to_port, later_fragment)| {
            Packet::V4 { source, protocol, to_port, later_fragment }
        }),
        2 => (any_v6(), protocol(), to_port(), extensions())
            .prop_map(|(source, protocol, to_port, extensions)| Packet::V6 { source, protocol, to_port, extensions }),
        3 => (any_v6(), 133..138u8, any_v6(), prop::option::of(0..ADDRESSES), extensions(), prop::bool::weighted(0.1))
            .prop_map(|(source, kind, target, option, extensions, fragment)| {
                Packet::Nd { source, kind, target, option, extensions, fragment }
            }),
        1 => Just(Packet::Other),
    ]
}

fn frames() -> impl Strategy<Value = Sent> {
    let from = prop_oneof![
        3 => (0..PORTS).prop_map(From::Port),
        1 => Just(From::Tunnel(NODE)),
        1 => Just(From::Tunnel(STATIC)),
    ];
    let tags = prop_oneof![4 => Just(0usize), 1 => 1..3usize];
    let sent = (from, prop::option::weighted(0.4, 0..ADDRESSES), tags, packets());
    sent.prop_map(|(from, source, tags, packet)| {
        // Mostly a source that the sender may use.
        let own = match from {
            From::Port(port) => port,
            From::Tunnel(vtep) if vtep == NODE => 3,
            From::Tunnel(_) => 5,
        };
        Sent { from, source: source.unwrap_or(own), tags, packet }
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let security = prop_oneof![
        3 => Just(PortSecurity::Registered),
        2 => Just(PortSecurity::Strict),
        1 => Just(PortSecurity::Off),
    ];
    (security, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(security, dhcp, router, has_fourth)| Rules {
            security,
            servers: Servers { dhcp, router },
            has_fourth,
        },
    )
}

/// What is wrong with a frame, claim by claim.
struct Model {
    rules: Rules,
    from: From,
    wrong: BTreeSet<&'static str>,
}

impl Model {
    fn place(&self, n: u8) -> Option<From> {
        match n {
            n if n < PORTS => Some(From::Port(n)),
            3 => Some(From::Tunnel(NODE)),
            4 if self.rules.has_fourth => Some(From::Tunnel(NODE)),
            _ => None,
        }
    }

    /// `n` is an address of the endpoint with this number, of any kind.
    fn claim(&mut self, n: u8, reason: DropReason) {
        let is_confined = self.rules.security == PortSecurity::Strict && matches!(self.from, From::Port(_));
        match self.place(n) {
            _ if n == GATEWAY => _ = self.wrong.insert(reason.name()),
            Some(place) if place != self.from => _ = self.wrong.insert(reason.name()),
            None if is_confined => _ = self.wrong.insert(DropReason::GuardUnleased.name()),
            _ => {}
        }
    }

    fn claim_v6(&mut self, ip: V6, reason: DropReason) {
        match ip {
            V6::Unspecified => {}
            V6::Global(n) | V6::LinkLocal(n) => self.claim(n, reason),
        }
    }

    fn check(&mut self, sent: &Sent) {
        if sent.source == GATEWAY {
            _ = self.wrong.insert(DropReason::BadSource.name());
        }
        if self.rules.security == PortSecurity::Off {
            return;
        }
        self.claim(sent.source, DropReason::GuardMac);
        match sent.packet {
            Packet::Arp { mac, ip, .. } => {
                self.claim(mac, DropReason::GuardArp);
                ip.into_iter().for_each(|ip| self.claim(ip, DropReason::GuardArp));
            }
            Packet::V4 { source, protocol, to_port, later_fragment } => {
                source.into_iter().for_each(|ip| self.claim(ip, DropReason::GuardIp));
                if (protocol, to_port, later_fragment, self.rules.servers.dhcp) == (17, 68, false, false) {
                    self.wrong.insert(DropReason::GuardDhcp.name());
                }
            }
            Packet::V6 { source, protocol, to_port, .. } => {
                self.claim_v6(source, DropReason::GuardIp);
                if (protocol, to_port, self.rules.servers.dhcp) == (17, 546, false) {
                    self.wrong.insert(DropReason::GuardDhcp.name());
                }
            }
            Packet::Nd { source, kind, target, option, fragment, .. } => {
                self.claim_v6(source, DropReason::GuardNd);
                if matches!(kind, 134 | 137) && !self.rules.servers.router {
                    self.wrong.insert(DropReason::GuardRouter.name());
                }
                if fragment {
                    self.wrong.insert(DropReason::GuardNd.name());
                }
                if kind == 136 {
                    self.claim_v6(target, DropReason::GuardNd);
                }
                option
                    .filter(|_| kind != 137)
                    .into_iter()
                    .for_each(|mac| self.claim(mac, DropReason::GuardNd));
            }
            Packet::Other => {}
        }
    }

    /// Who is told to have the address that a port probes for.
    fn defended(&self, sent: &Sent) -> Option<u8> {
        let target = match sent.packet {
            Packet::Arp { ip: None, target, .. } => target,
            Packet::Nd { source: V6::Unspecified, kind: 135, target: V6::Global(n), .. } => n,
            _ => return None,
        };
        let is_other =
            matches!(self.from, From::Port(_)) && self.place(target).is_some_and(|at| at != self.from);
        (is_other && self.rules.security != PortSecurity::Off).then_some(target)
    }
}

fn tables(rules: Rules) -> Tables {
    let mut tables = Tables { vteps: [NODE].into_iter().collect(), ..Tables::default() };
    let v6 = |n| Ipv6Addr::from(ipv6(V6::Global(n)));
    let v4 = |n| Ipv4Addr::from(ipv4(Some(n)));
    let known = |n: &u8| *n < 4 || rules.has_fourth;
    let network = Network {
        ports: (0..PORTS).map(|n| PortId(n.into())).collect(),
        endpoints: (0..PORTS).map(|n| (mac(n), PortId(n.into()))).collect(),
        gateway: Some(Gateway { mac: mac(GATEWAY), ipv4: Some(v4(GATEWAY)), ipv6: Some(v6(GATEWAY)) }),
        neighbors: (0..ENDPOINTS)
            .filter(known)
            .flat_map(|n| [(v4(n).into(), mac(n)), (v6(n).into(), mac(n))])
            .collect(),
        security: rules.security,
        servers: rules.servers,
        overlay: Some(Overlay {
            vtep: Ipv4Addr::new(192, 0, 2, 9).into(),
            remotes: (PORTS..ENDPOINTS).filter(known).map(|n| (mac(n), NODE)).collect(),
            flood_vteps: vec![NODE, STATIC],
            static_vteps: vec![STATIC],
            inner_vlan: true,
        }),
        ..Network::default()
    };
    tables.networks.insert(vni(), Arc::new(network));
    for n in 0..PORTS {
        let (ipv4, ipv6) = (Some(v4(n)), Some(v6(n)));
        tables.ports.insert(PortId(n.into()), Port { vni: vni(), mac: mac(n), mtu: 1500, ipv4, ipv6 });
    }
    tables
}

fn bytes_of(sent: &Sent) -> Vec<u8> {
    let (ethertype, payload) = match &sent.packet {
        Packet::Arp { is_reply, mac: sender, ip, target } => {
            let head = [0, 1, 8, 0, 6, 4, 0, if *is_reply { 2 } else { 1 }];
            (0x0806u16, [&head[..], &mac(*sender).0, &ipv4(*ip), &[0; 6], &ipv4(Some(*target))].concat())
        }
        Packet::V4 { source, protocol, to_port, later_fragment } => {
            let fragment = u8::from(*later_fragment);
            let head = [0x45, 0, 0, 40, 0, 0, 0, fragment, 64, *protocol, 0, 0];
            let ports = [&[0, 67], &to_port.to_be_bytes()[..], &[0; 16]].concat();
            (0x0800, [&head[..], &ipv4(*source), &[10, 0, 0, 200], &ports].concat())
        }
        Packet::V6 { source, protocol, to_port, extensions } => {
            let ports = [&[0, 67], &to_port.to_be_bytes()[..], &[0; 16]].concat();
            (0x86dd, v6_packet(*source, *protocol, *extensions, false, &ports))
        }
        Packet::Nd { source, kind, target, option, extensions, fragment } => {
            let fixed = match kind {
                133 => vec![0; 4],
                134 => vec![0; 12],
                137 => [&[0; 4], &ipv6(*target)[..], &[0; 16]].concat(),
                _ => [&[0; 4], &ipv6(*target)[..]].concat(),
            };
            let option_kind = if *kind == 136 { 2 } else { 1 };
            let option = option.map_or(vec![], |n| [&[option_kind, 1], &mac(n).0[..]].concat());
            let message = [&[*kind, 0, 0, 0], &fixed[..], &option].concat();
            (0x86dd, v6_packet(*source, 58, *extensions, *fragment, &message))
        }
        Packet::Other => (0x88b5, vec![0; 46]),
    };
    let tags = [0x81, 0, 0, 0].repeat(sent.tags);
    // To a group, so that every frame that passes is flooded.
    let head = [&[0; 12][..], &[0x33, 0x33, 0, 0, 0, 1], &mac(sent.source).0].concat();
    [&head[..], &tags, &ethertype.to_be_bytes(), &payload].concat()
}

fn v6_packet(source: V6, protocol: u8, extensions: usize, fragment: bool, message: &[u8]) -> Vec<u8> {
    let mut chain = vec![60; extensions];
    chain.extend(fragment.then_some(44));
    chain.push(protocol);
    let mut body = Vec::new();
    for pair in chain.windows(2) {
        match pair[0] {
            44 => body.extend([pair[1], 0, 0, 1, 0, 0, 0, 1]),
            _ => body.extend([pair[1], 0, 1, 4, 0, 0, 0, 0]),
        }
    }
    body.extend(message);
    let length = (body.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], chain[0], 255];
    [&head[..], &ipv6(source), &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], &body].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn claims_are_judged_as_the_model_does(rules in rules(), frames in prop::collection::vec(frames(), 1..100)) {
        let fdb = Arc::new(Fdb::new(FdbConfig::default()));
        let mut forwarder = Forwarder::new(Arc::clone(&fdb), ForwardConfig { storm: None, gateway: None });
        let (tables, now) = (tables(rules), Instant::now());
        for sent in &frames {
            let raw = bytes_of(sent);
            let frame = Frame::parse(&raw).unwrap();
            let ingress = match sent.from {
                From::Port(port) => Ingress::Port(PortId(port.into())),
                From::Tunnel(vtep) => Ingress::Tunnel { vni: vni(), vtep },
            };
            let verdict = forwarder.forward(&tables, &frame, ingress, now);
            let mut model = Model { rules, from: sent.from, wrong: BTreeSet::new() };
            model.check(sent);
            match (verdict, model.defended(sent)) {
                // A probe that the switch cannot answer is dropped, too.
                (Verdict::Drop(DropReason::GuardArp | DropReason::GuardNd), Some(_)) if model.wrong.is_empty() => {}
                (Verdict::Drop(reason), _) if !model.wrong.is_empty() => {
                    prop_assert!(model.wrong.contains(reason.name()), "{reason:?} of {:?}: {sent:?}", model.wrong);
                }
                (Verdict::Neighbor(owner), Some(n)) => {
                    prop_assert!(model.wrong.is_empty(), "{:?}: {sent:?}", model.wrong);
                    prop_assert_eq!(owner, mac(n));
                }
                (verdict, defended) => {
                    prop_assert!(model.wrong.is_empty(), "{verdict:?} in spite of {:?}: {sent:?}", model.wrong);
                    prop_assert!(defended.is_none(), "{verdict:?}: {sent:?}");
                    prop_assert!(!is_guarded(verdict), "{verdict:?}: {sent:?}");
                }
            }
        }
        let registered = fdb.rows(None, now).into_iter().filter(|row| (0..4).any(|n| mac(n) == row.mac));
        prop_assert_eq!(registered.count(), 0);
    }
}

fn is_guarded(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Drop(reason) if reason.name().starts_with("guard_") || reason == DropReason::BadSource)
}
