//! Forwarding a frame to a known receiver allocates nothing, cutting and coalescing included.
#![expect(unsafe_code, reason = "an allocator can only be counted by being one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use segments::{Whole, vni, vtep};
use vswitch::forward::coalesce::{self, Coalescer, Fit, Inner, Origin};
use vswitch::forward::gso::Cutter;
use vswitch::forward::tables::{Network, Overlay, Port, Tables};
use vswitch::forward::{Fdb, FdbConfig, ForwardConfig, Forwarder, Ingress, Verdict, flood};
use vswitch::frame::Frame;
use vswitch_proto::id::{MacAddr, PortId, Vni};

mod segments;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every method passes its arguments on to the system's allocator and returns what that returned. Counting
// touches a thread-local without a destructor, which never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn raw(destination: MacAddr, source: MacAddr) -> Vec<u8> {
    [&[0; 12][..], &destination.0, &source.0, &[8, 0], &[0; 46]].concat()
}

#[test]
fn known_receivers_cost_no_allocation() {
    let vni = Vni::new(1).unwrap();
    let mut tables = Tables::default();
    let mut network = Network::default();
    for (n, mac) in [(1, mac(1)), (2, mac(2)), (3, mac(33))] {
        tables.ports.insert(PortId(n), Port { vni, mac, mtu: 1500, ipv4: None, ipv6: None });
        network.ports.push(PortId(n));
    }
    network.endpoints.insert(mac(1), PortId(1));
    network.endpoints.insert(mac(2), PortId(2));
    tables.networks.insert(vni, network.into());

    let mut forwarder = Forwarder::new(Arc::new(Fdb::new(FdbConfig::default())), ForwardConfig::default());
    let mut now = Instant::now();
    // 1 and 2 are registered, 3 is learned from the first frame on.
    let frames =
        [(1, 2), (2, 1), (3, 1), (1, 3)].map(|(from, to)| (from, to, raw(mac(to as u8), mac(from as u8))));
    let mut round = |now: Instant| {
        for (from, to, raw) in &frames {
            let frame = Frame::parse(raw).unwrap();
            let verdict = forwarder.forward(&tables, &frame, Ingress::Port(PortId(*from)), now);
            assert_eq!(verdict, Verdict::Port(PortId(*to)));
        }
    };
    assert!(allocations(|| round(now)) > 0, "learning allocates, so the counter counts");
    let counted = allocations(|| {
        for _ in 0..1000 {
            // Every other round refreshes the learned entry.
            now += Duration::from_millis(500);
            round(now);
        }
    });
    assert_eq!(counted, 0);

    let broadcast = raw(MacAddr::BROADCAST, mac(1));
    let mut flooded = || {
        let frame = Frame::parse(&broadcast).unwrap();
        let ingress = Ingress::Port(PortId(1));
        assert_eq!(forwarder.forward(&tables, &frame, ingress, now), Verdict::Flood);
        assert_eq!(flood::targets(&tables, ingress).count(), 2);
    };
    flooded();
    assert_eq!(allocations(|| (0..1000).for_each(|_| flooded())), 0, "once the port has its bucket");
}

#[test]
fn tunnels_cost_no_allocation() {
    let mut tables = Tables::default();
    let overlay = Overlay {
        vtep: "10.8.0.1".parse().unwrap(),
        remotes: [(MacAddr([2; 6]), vtep())].into_iter().collect(),
        flood_vteps: vec![vtep()],
        static_vteps: vec![vtep()],
        inner_vlan: false,
    };
    let own = MacAddr([2, 0, 0, 0, 0, 1]);
    let network = Network {
        ports: vec![PortId(1)],
        endpoints: [(own, PortId(1))].into_iter().collect(),
        overlay: Some(overlay),
        ..Network::default()
    };
    tables.networks.insert(vni(), network.into());
    tables.ports.insert(PortId(1), Port { vni: vni(), mac: own, mtu: 1450, ipv4: None, ipv6: None });

    let whole = Whole::tcp(60_000).raw();
    let (datagrams, _) = segments::cut(&whole);
    let buffer = datagrams.concat();
    let mut forwarder = Forwarder::new(Arc::new(Fdb::new(FdbConfig::default())), ForwardConfig::default());
    let (mut cutter, mut coalescer, now) = (Cutter::default(), Coalescer::default(), Instant::now());
    let origin = Origin { vni: vni(), vtep: vtep() };
    let mut round = || {
        let frame = Frame::parse(&whole).unwrap();
        let out = forwarder.forward(&tables, &frame, Ingress::Port(PortId(1)), now);
        assert_eq!(out, Verdict::Tunnel(vtep()));
        let mut sent = 0;
        cutter.encapsulate(vni(), &frame, |group| sent += group.count()).unwrap();
        assert_eq!(sent, datagrams.len());

        let mut end = 0;
        for datagram in &datagrams {
            let inner = Frame::complete(&buffer[end + segments::VXLAN_BYTES..end + datagram.len()]).unwrap();
            end += datagram.len();
            let ingress = Ingress::Tunnel { vni: vni(), vtep: vtep() };
            let verdict = forwarder.forward(&tables, &inner, ingress, now);
            // Nobody here has the address: it is the sender's own peer.
            assert!(matches!(verdict, Verdict::Drop(_)));
            let Inner::Tcp(segment) = coalesce::read(&inner) else { panic!("it is TCP") };
            let payload_at = end - inner.bytes().len() + segment.header_bytes();
            match coalescer.add(origin, &segment, payload_at) {
                Fit::New => coalescer.begin(origin, PortId(1), &segment, payload_at),
                Fit::Added => {}
                Fit::Completed(index) => {
                    let group = coalescer.end(index);
                    group.finish();
                    assert_eq!(group.segments(), datagrams.len());
                }
                Fit::Breaks(_) => panic!("they are contiguous"),
            }
        }
        assert_eq!(coalescer.open(), 0);
    };
    round();
    assert_eq!(allocations(|| (0..100).for_each(|_| round())), 0);
}
