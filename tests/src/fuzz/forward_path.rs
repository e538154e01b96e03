//! The way of a frame: parse, forward, and the gateway's answer.
//!
//! The input is a script. Each step begins with a byte whose value modulo 8 says what it is:
//!
//! | | step | arguments |
//! | --- | --- | --- |
//! | 0-4 | a frame from a port | port, length (two bytes, little-endian), that many bytes or what is left |
//! | 5 | time passes | milliseconds times 16 (two bytes, little-endian) |
//! | 6 | a port goes or comes back | port |
//! | 7 | the database is changed | what (modulo 5: static entry, removal, flush, sweep, forget), port, last byte of a MAC |
//!
//! There are eight ports in two networks in which the same MAC and IP addresses are registered. The first network has
//! the default port security, the second one is strict.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, Ipv4Packet,
    Ipv4Repr, Ipv6Packet, Ipv6Repr,
};
use vswitch::forward::tables::{Gateway, Network, Port, Tables};
use vswitch::forward::{
    DropReason, Fdb, FdbConfig, ForwardConfig, Forwarder, Ingress, StormLimit, Verdict, flood, neighbor,
};
use vswitch::frame::{BUFFER_BYTES, Frame};
use vswitch::gateway;
use vswitch_proto::id::{MacAddr, PortId, Vni};
use vswitch_proto::security::PortSecurity;
use vswitch_proto::wire::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use vswitch_proto::wire::vnet_hdr::{HEADER_BYTES, VnetHdr};

const PORTS: u8 = 8;
const MTU: u32 = 1500;
const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const GATEWAY: Gateway = Gateway {
    mac: MacAddr::from_ipv4(GATEWAY_IPV4),
    ipv4: Some(GATEWAY_IPV4),
    ipv6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
};

/// Runs a script and checks every verdict.
pub fn forward_path(data: &[u8]) {
    let mut world = World::new();
    let mut script = Script(data);
    while world.step(&mut script).is_some() {}
}

struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

fn vni(port: u8) -> Vni {
    if port.is_multiple_of(2) { Vni::new(1).expect("not 0") } else { Vni::new(2).expect("not 0") }
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0x42, 172, 17, 0, last])
}

struct World {
    up: [bool; PORTS as usize],
    tables: Tables,
    fdb: Arc<Fdb>,
    /// A port is always read by the same one.
    warm: [Forwarder; 2],
    limited: Forwarder,
    now: Instant,
}

impl World {
    fn new() -> World {
        let config = FdbConfig { capacity: 32, capacity_per_port: 16, ..FdbConfig::default() };
        let fdb = Arc::new(Fdb::new(config));
        let few = NonZeroU32::new(5).expect("not 0");
        let storm = Some(StormLimit { frames_per_s: few, burst: few });
        let up = [true; PORTS as usize];
        World {
            up,
            tables: tables(up),
            warm: [(); 2].map(|()| Forwarder::new(fdb.clone(), ForwardConfig { storm: None, gateway: None })),
            limited: Forwarder::new(fdb.clone(), ForwardConfig { storm, gateway: storm }),
            fdb,
            now: Instant::now(),
        }
    }

    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        match script.byte()? % 8 {
            0..=4 => {
                let port = script.byte()? % PORTS;
                let length = usize::from(script.u16()?);
                self.frame(port, script.bytes(length));
            }
            5 => self.now += Duration::from_millis(u64::from(script.u16()?) * 16),
            6 => {
                let port = usize::from(script.byte()? % PORTS);
                self.up[port] = !self.up[port];
                self.tables = tables(self.up);
            }
            _ => {
                let (what, port, last) = (script.byte()?, script.byte()? % PORTS, script.byte()?);
                self.change_database(what, port, last);
            }
        }
        Some(())
    }

    fn change_database(&self, what: u8, port: u8, last: u8) {
        let id = PortId(port.into());
        match what % 5 {
            // The network is not always the port's own: nothing may come of that.
            0 => self.fdb.add_static(vni(what / 5), mac(last), id).expect("unicast, and few"),
            1 => _ = self.fdb.remove(vni(port), mac(last)),
            2 => _ = self.fdb.flush(last.is_multiple_of(2).then(|| vni(port))),
            3 => _ = self.fdb.sweep(self.now),
            _ => _ = self.fdb.forget_port(id),
        }
        assert!(self.fdb.rows(None, self.now).len() <= self.fdb.len());
    }

    fn frame(&mut self, port: u8, raw: &[u8]) {
        let Ok(frame) = Frame::parse(raw) else { return };
        check_parsed(&frame, raw);

        let ingress = Ingress::Port(PortId(port.into()));
        let worker = &mut self.warm[usize::from(port / 2 % 2)];
        let verdict = worker.forward(&self.tables, &frame, ingress, self.now);
        self.check_verdict(verdict, port, &frame);

        // A forwarder that remembers nothing decides the same.
        let mut cold = Forwarder::new(self.fdb.clone(), ForwardConfig { storm: None, gateway: None });
        assert_eq!(cold.forward(&self.tables, &frame, ingress, self.now), verdict);

        let limited = self.limited.forward(&self.tables, &frame, ingress, self.now);
        let may_be_limited = matches!(verdict, Verdict::Flood | Verdict::Gateway | Verdict::Neighbor(_));
        assert!(limited == verdict || may_be_limited && limited == Verdict::Drop(DropReason::StormControl));
        assert!(self.fdb.len() <= self.fdb.config().capacity + 512);
    }

    fn check_verdict(&self, verdict: Verdict, port: u8, frame: &Frame<'_>) {
        let ethernet = frame.ethernet();
        let ingress = Ingress::Port(PortId(port.into()));
        let is_inside = |to: PortId| {
            let other = to.0 as u8;
            self.up[usize::from(other)] && other != port && other % 2 == port % 2
        };
        if !matches!(verdict, Verdict::Drop(_)) {
            assert!(self.up[usize::from(port)] && ethernet.source().is_unicast());
            assert!(frame.packet_bytes() <= MTU as usize && ethernet.source() != GATEWAY.mac);
            self.check_sender(port, ethernet);
        }
        match verdict {
            Verdict::Port(to) => assert!(is_inside(to) && ethernet.destination().is_unicast()),
            Verdict::Flood => {
                let targets: Vec<PortId> = flood::targets(&self.tables, ingress).collect();
                assert!(!targets.is_empty() && targets.iter().all(|to| is_inside(*to)));
            }
            Verdict::Gateway => {
                assert!(ethernet.destination() == GATEWAY.mac || ethernet.destination().is_multicast());
                check_answer(&self.tables.networks[&vni(port)], frame);
            }
            Verdict::Neighbor(owner) => {
                assert!(owner != own(port), "its own address is not for others to answer for");
                let mut reply = [0; neighbor::REPLY_BYTES_MAX];
                if let Some(length) = neighbor::answer(frame, owner, &mut reply) {
                    let answer = Frame::parse(&reply[..length]).expect("an answer is a frame");
                    assert_eq!(answer.ethernet().source(), owner);
                }
            }
            Verdict::Tunnel(_) => panic!("there is no overlay"),
            Verdict::Drop(DropReason::UnknownPort) => assert!(!self.up[usize::from(port)]),
            Verdict::Drop(DropReason::StormControl) => panic!("there is no limit"),
            Verdict::Drop(_) => {}
        }
    }
}

impl World {
    /// What passes has no source address that is registered for another port that is up.
    fn check_sender(&self, port: u8, ethernet: &Ethernet<'_>) {
        let other_ports = (0..PORTS).filter(|o| self.up[usize::from(*o)] && *o != port && o % 2 == port % 2);
        let (source, payload) = (ethernet.source(), ethernet.payload());
        for other in other_ports {
            assert_ne!(source, own(other), "a registered source");
            let (ipv4, ipv6) = addresses(other);
            let claims = |at: usize, ip: &[u8]| payload.get(at..at + ip.len()) == Some(ip);
            let (is_ipv4, is_ipv6) = (claims(12, &ipv4.octets()), claims(8, &ipv6.octets()));
            let is_arp = payload.len() >= 28 && payload[2..6] == [8, 0, 6, 4] && claims(14, &ipv4.octets());
            match ethernet.ethertype() {
                ETHERTYPE_IPV4 => assert!(!is_ipv4 || payload.len() < 20),
                ETHERTYPE_IPV6 => assert!(!is_ipv6 || payload.len() < 40),
                ETHERTYPE_ARP => assert!(!is_arp),
                _ => {}
            }
        }
    }
}

fn own(port: u8) -> MacAddr {
    mac(2 + port / 2)
}

fn addresses(port: u8) -> (Ipv4Addr, Ipv6Addr) {
    let last = 2 + port / 2;
    (Ipv4Addr::new(172, 17, 0, last), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()))
}

fn tables(up: [bool; PORTS as usize]) -> Tables {
    let mut tables = Tables::default();
    for port in [0, 1] {
        let security = if port == 0 { PortSecurity::default() } else { PortSecurity::Strict };
        let network = Network { gateway: Some(GATEWAY), security, ..Network::default() };
        tables.networks.insert(vni(port), network.into());
    }
    for port in (0..PORTS).filter(|port| up[usize::from(*port)]) {
        let id = PortId(port.into());
        let (own, (v4, v6)) = (own(port), addresses(port));
        let known = Port { vni: vni(port), mac: own, mtu: MTU, ipv4: Some(v4), ipv6: Some(v6) };
        tables.ports.insert(id, known);
        let network = tables.networks.get_mut(&vni(port)).expect("made above");
        let network = std::sync::Arc::make_mut(network);
        network.ports.push(id);
        network.endpoints.insert(own, id);
        network.neighbors.extend([(v4.into(), own), (v6.into(), own)]);
    }
    tables
}

fn check_parsed(frame: &Frame<'_>, raw: &[u8]) {
    assert_eq!(frame.bytes(), &raw[HEADER_BYTES..]);
    let header = frame.vnet().to_bytes();
    // What follows is the number of merged buffers, which a TAP does not use.
    assert_eq!(header[..10], raw[..10]);
    assert_eq!(VnetHdr::parse(&[&header, frame.bytes()].concat()).map(|(vnet, _)| vnet), Ok(*frame.vnet()));
    assert!(frame.packet_bytes() <= frame.ethernet().payload().len());
}

/// An answer is a whole frame from the gateway to whoever asked, with right checksums, and asks for nothing itself.
fn check_answer(network: &Network, request: &Frame<'_>) {
    let mut reply = vec![0xee; BUFFER_BYTES];
    let Some(length) = gateway::answer(network, request, &mut reply) else { return };
    assert!(length <= HEADER_BYTES + request.bytes().len() + 8, "it amplifies");
    let reply = Frame::parse(&reply[..length]).expect("the gateway writes frames");
    assert_eq!(*reply.vnet(), VnetHdr::default());
    assert_eq!(reply.ethernet().source(), GATEWAY.mac);
    let destination = reply.ethernet().destination();
    let all_nodes = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    assert!(destination == request.ethernet().source() || destination == all_nodes);
    assert_eq!(gateway::answer(network, &reply, &mut vec![0; BUFFER_BYTES]), None);

    let strict = ChecksumCapabilities::default();
    let ethernet = EthernetFrame::new_checked(reply.bytes()).expect("it was parsed");
    match ethernet.ethertype() {
        EthernetProtocol::Arp => {}
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(ethernet.payload()).expect("whole");
            Ipv4Repr::parse(&packet, &strict).expect("the header's checksum");
            let message = Icmpv4Packet::new_checked(packet.payload()).expect("whole");
            let message = Icmpv4Repr::parse(&message, &strict).expect("the checksum");
            assert!(matches!(message, Icmpv4Repr::EchoReply { .. }));
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(ethernet.payload()).expect("whole");
            let header = Ipv6Repr::parse(&packet).expect("a header");
            let message = Icmpv6Packet::new_checked(packet.payload()).expect("whole");
            let (from, to) = (header.src_addr, header.dst_addr);
            let message = Icmpv6Repr::parse(&from, &to, &message, &strict).expect("the checksum");
            assert!(matches!(message, Icmpv6Repr::EchoReply { .. } | Icmpv6Repr::Ndisc(_)));
        }
        EthernetProtocol::Unknown(other) => panic!("the gateway does not speak {other:#06x}"),
    }
}
