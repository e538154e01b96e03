//! What a decision costs: [`Forwarder::forward`] on a frame whose receiver is known, with port security, and the forwarding database at
//! 1, 1,000 and 100,000 addresses.
//!
//! Run it with `cargo bench -p vswitch-perf`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use vswitch::forward::fdb::Place;
use vswitch::forward::tables::{Network, Overlay, Port, Tables};
use vswitch::forward::{Fdb, FdbConfig, ForwardConfig, Forwarder, Ingress, Verdict};
use vswitch::frame::Frame;
use vswitch_proto::id::{MacAddr, PortId, Vni};
use vswitch_proto::wire::vnet_hdr::HEADER_BYTES;

const ADDRESSES: [u32; 3] = [1, 1000, 100_000];
const FRAME_BYTES: usize = 60;
const A: PortId = PortId(1);
const B: PortId = PortId(2);

fn vni() -> Vni {
    Vni::new(7).expect("7 is in the range of 24 bits")
}

/// Locally administered, unicast.
fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([0x06, 0, a, b, c, d])
}

/// The source of every frame: no number is as high.
fn source() -> MacAddr {
    mac(u32::MAX)
}

/// One network of two ports; `registered` are endpoints behind the second.
fn tables(registered: impl Iterator<Item = MacAddr>) -> Tables {
    let network = Network {
        ports: vec![A, B],
        endpoints: registered.map(|mac| (mac, B)).collect(),
        ..Network::default()
    };
    let port = |number| Port { vni: vni(), mac: mac(number), mtu: 1500, ipv4: None, ipv6: None };
    Tables {
        networks: [(vni(), network.into())].into_iter().collect(),
        ports: [(A, port(u32::MAX - 1)), (B, port(u32::MAX - 2))].into_iter().collect(),
        ..Tables::default()
    }
}

/// A database that has learned addresses behind the second port.
fn database(addresses: u32, now: Instant) -> Arc<Fdb> {
    let capacity = addresses as usize + 1;
    let fdb = Fdb::new(FdbConfig { age: Duration::from_secs(300), capacity, capacity_per_port: capacity });
    for number in 0..addresses {
        fdb.learn(vni(), mac(number), Place::Port(B), now);
    }
    assert_eq!(fdb.len(), addresses as usize, "there is room");
    Arc::new(fdb)
}

/// As a TAP gives it: an empty virtio-net header, then the frame.
fn raw_frame(destination: MacAddr) -> Vec<u8> {
    let mut raw = vec![0; HEADER_BYTES + FRAME_BYTES];
    raw[HEADER_BYTES..HEADER_BYTES + 6].copy_from_slice(&destination.0);
    raw[HEADER_BYTES + 6..HEADER_BYTES + 12].copy_from_slice(&source().0);
    raw[HEADER_BYTES + 12..HEADER_BYTES + 14].copy_from_slice(&[0x88, 0xb5]);
    raw
}

/// Frames for one known receiver, as in a long transfer: parsed before, and from the bytes on.
fn known_unicast(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut group = criterion.benchmark_group("forward/known unicast");
    let cases = [("registered", tables(std::iter::once(mac(0)))), ("learned", tables(std::iter::empty()))];
    for (name, tables) in &cases {
        let mut forwarder = Forwarder::new(database(1, now), ForwardConfig::default());
        let raw = raw_frame(mac(0));
        let frame = Frame::parse(&raw).expect("the frame is well-formed");
        assert_eq!(forwarder.forward(tables, &frame, Ingress::Port(A), now), Verdict::Port(B));
        group.bench_function(BenchmarkId::new("decide", name), |bencher| {
            bencher.iter(|| forwarder.forward(tables, black_box(&frame), Ingress::Port(A), now));
        });
        group.bench_function(BenchmarkId::new("parse and decide", name), |bencher| {
            bencher.iter(|| {
                let frame = Frame::parse(black_box(&raw)).expect("the frame is well-formed");
                forwarder.forward(tables, &frame, Ingress::Port(A), now)
            });
        });
    }
    group.finish();
}

/// Frames whose addresses are registered, from a port and from a tunnel: what port security looks at.
fn registered_sources(criterion: &mut Criterion) {
    let now = Instant::now();
    let tables = registered_tables();
    let mut group = criterion.benchmark_group("forward/registered source");
    let (tcp, udp, icmp) = (6, 17, 1);
    let port = Ingress::Port(A);
    let tunnel = Ingress::Tunnel { vni: vni(), vtep: VTEP };
    for (name, ingress, source, payload) in [
        ("TCP", port, 1, ipv4(1, tcp)),
        ("UDP", port, 1, ipv4(1, udp)),
        ("ICMP", port, 1, ipv4(1, icmp)),
        ("a floating address", port, 1, ipv4(99, tcp)),
        ("no IP", port, 1, [0; 46]),
        ("TCP from a tunnel", tunnel, 3, ipv4(3, tcp)),
    ] {
        let ethertype = if payload[0] == 0 { [0x88, 0xb5] } else { [8, 0] };
        let raw = [&[0; HEADER_BYTES][..], &mac(2).0, &mac(source).0, &ethertype, &payload].concat();
        let frame = Frame::parse(&raw).expect("the frame is well-formed");
        let mut forwarder = Forwarder::new(database(0, now), ForwardConfig::default());
        assert_eq!(forwarder.forward(&tables, &frame, ingress, now), Verdict::Port(B));
        group.bench_function(name, |bencher| {
            bencher.iter(|| forwarder.forward(&tables, black_box(&frame), ingress, now));
        });
    }
    group.finish();
}

const VTEP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

/// An IPv4 packet without a message.
fn ipv4(source: u32, protocol: u8) -> [u8; 46] {
    let mut packet = [0; 46];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 46]);
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&address(source).octets());
    packet
}

/// An overlay network with the endpoints 1 and 2 behind ports of this host, and 100 more on another one.
fn registered_tables() -> Tables {
    let ports = [(1, A), (2, B)];
    let known =
        |number| Port { vni: vni(), mac: mac(number), mtu: 1500, ipv4: Some(address(number)), ipv6: None };
    let overlay = Overlay {
        vtep: Ipv4Addr::new(192, 0, 2, 9).into(),
        remotes: (3..103).map(|number| (mac(number), VTEP)).collect(),
        flood_vteps: vec![VTEP],
        static_vteps: vec![],
        inner_vlan: false,
    };
    let network = Network {
        ports: vec![A, B],
        endpoints: ports.map(|(number, port)| (mac(number), port)).into_iter().collect(),
        neighbors: (1..99).map(|number| (address(number).into(), mac(number))).collect(),
        overlay: Some(overlay),
        ..Network::default()
    };
    Tables {
        networks: [(vni(), network.into())].into_iter().collect(),
        ports: ports.map(|(number, port)| (port, known(number))).into_iter().collect(),
        vteps: [VTEP].into_iter().collect(),
    }
}

/// Frames for every known receiver in turn: what the worker's cache cannot hold comes from the shared table.
fn receivers_in_turn(criterion: &mut Criterion) {
    let now = Instant::now();
    let tables = tables(std::iter::empty());
    let mut group = criterion.benchmark_group("forward/receivers in turn");
    for addresses in ADDRESSES {
        let mut forwarder = Forwarder::new(database(addresses, now), ForwardConfig::default());
        let frames: Vec<Vec<u8>> = shuffled(addresses).map(|number| raw_frame(mac(number))).collect();
        let frames: Vec<Frame<'_>> =
            frames.iter().map(|raw| Frame::parse(raw).expect("the frame is well-formed")).collect();
        let mut next = frames.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(addresses), |bencher| {
            bencher.iter(|| {
                let frame = next.next().expect("there is at least one frame");
                forwarder.forward(&tables, frame, Ingress::Port(A), now)
            });
        });
    }
    group.finish();
}

/// The same as an engine has it that takes several frames at once: what their decisions will ask for is fetched together.
fn receivers_foreseen(criterion: &mut Criterion) {
    const BATCH: usize = 16;
    let now = Instant::now();
    let tables = tables(std::iter::empty());
    let mut group = criterion.benchmark_group("forward/receivers in turn, 16 foreseen");
    for addresses in ADDRESSES {
        let mut forwarder = Forwarder::new(database(addresses, now), ForwardConfig::default());
        let raw: Vec<Vec<u8>> = shuffled(addresses).map(|number| raw_frame(mac(number))).collect();
        let parse = |raw| Frame::parse(raw).expect("the frame is well-formed");
        let frames: Vec<(&[u8], Frame<'_>)> = raw.iter().map(|raw| (&raw[..], parse(raw))).collect();
        let mut at = 0;
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(BenchmarkId::from_parameter(addresses), |bencher| {
            bencher.iter(|| {
                let batch = || (at..at + BATCH).map(|at| &frames[at % frames.len()]);
                forwarder.foresee(&tables, batch().map(|&(raw, _)| (A, raw)));
                for (_, frame) in batch() {
                    black_box(forwarder.forward(&tables, frame, Ingress::Port(A), now));
                }
                at += BATCH;
            });
        });
    }
    group.finish();
}

/// The database itself.
fn fdb(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut group = criterion.benchmark_group("fdb");
    for addresses in ADDRESSES {
        let fdb = database(addresses, now);
        let order: Vec<MacAddr> = shuffled(addresses).map(mac).collect();
        let mut next = order.iter().cycle();
        group.bench_function(BenchmarkId::new("look up", addresses), |bencher| {
            bencher.iter(|| {
                let &mac = next.next().expect("there is at least one address");
                fdb.look_up(vni(), mac, now)
            });
        });
        let mut next = order.iter().cycle();
        group.bench_function(BenchmarkId::new("learn again", addresses), |bencher| {
            bencher.iter(|| {
                let &mac = next.next().expect("there is at least one address");
                fdb.learn(vni(), mac, Place::Port(B), now);
            });
        });
    }
    group.finish();
}

/// Numbers below `count`, each once, in an order that no prefetcher guesses: steps of a prime that divides no count
/// used here.
fn shuffled(count: u32) -> impl Iterator<Item = u32> {
    const STEP: u64 = 48_271;
    (0..u64::from(count)).map(move |at| (at * STEP % u64::from(count)) as u32)
}

criterion_group!(benches, known_unicast, registered_sources, receivers_in_turn, receivers_foreseen, fdb);
criterion_main!(benches);
