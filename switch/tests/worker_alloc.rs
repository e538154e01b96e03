//! Workers allocate nothing for frames that pass, with either engine: real TAPs, real traffic on one host and through a
//! tunnel between two, known and learned addresses, floods, and an allocator that counts what the workers' threads ask
//! it for.
#![expect(unsafe_code, reason = "an allocator can only be counted by being one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use vswitch::forward::tables::{Network, Overlay, Port, Tables};
use vswitch::io::netlink::{GSO_BYTES, LinkConfig, TX_QUEUE_FRAMES, configure};
use vswitch::io::netns::NetNs;
use vswitch::io::tap::{Tap, TapConfig};
use vswitch::io::underlay::{Underlay, UnderlayConfig};
use vswitch::worker::{Dataplane, DataplaneConfig, EngineError, EngineKind};
use vswitch_proto::id::{MacAddr, PortId, Vni};

struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every method passes its arguments on to the system's allocator and returns what that returned. Counting is an
// addition and a system call, which do not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_COUNTING.load(Ordering::Relaxed) && is_worker() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
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

/// By the thread's name, of which the kernel keeps 15 bytes.
fn is_worker() -> bool {
    let mut name = [0u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes at the pointer.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.starts_with(b"vswitch-worker")
}

/// For what must happen; nothing here waits for it in vain.
const DEADLINE: Duration = Duration::from_secs(60);

/// Sent and received once before it counts, and again while it does.
const DATAGRAMS: usize = 3000;
/// Less than a receiving socket has room for.
const WINDOW: usize = 50;
/// Of which one costs nothing.
const ROUNDS: usize = 2;
const TRANSFER_BYTES: usize = 32 << 20;

/// Of the containers, also where there is no tunnel.
const MTU: u32 = 1450;

/// What the tables say of the containers' addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addresses {
    Registered,
    /// Nothing; the other host is a static remote.
    Learned,
}

fn ip(port: u32) -> Ipv4Addr {
    Ipv4Addr::new(172, 17, 0, port as u8)
}

fn mac(port: u32) -> MacAddr {
    MacAddr::from_ipv4(ip(port))
}

/// Of the host of this port.
fn vtep(port: u32) -> IpAddr {
    IpAddr::from([10, 9, 0, port as u8])
}

/// These ports on one host, and one that may be on another.
fn tables(ports: &[u32], remote: Option<u32>, addresses: Addresses) -> Tables {
    let vni = Vni::new(1).unwrap();
    let is_registered = addresses == Addresses::Registered;
    let mut network = Network::default();
    let mut tables = Tables::default();
    for &port in ports {
        network.ports.push(PortId(port));
        if is_registered {
            network.endpoints.insert(mac(port), PortId(port));
        }
        let own = if is_registered { mac(port) } else { MacAddr([6; 6]) };
        tables.ports.insert(PortId(port), Port { vni, mac: own, mtu: MTU, ipv4: None, ipv6: None });
    }
    network.overlay = remote.map(|remote| Overlay {
        vtep: vtep(ports[0]),
        remotes: is_registered.then(|| (mac(remote), vtep(remote))).into_iter().collect(),
        flood_vteps: vec![vtep(remote)],
        static_vteps: if is_registered { vec![] } else { vec![vtep(remote)] },
        inner_vlan: false,
    });
    network.neighbors =
        remote.filter(|_| is_registered).map(|n| (ip(n).into(), mac(n))).into_iter().collect();
    tables.vteps.extend(remote.filter(|_| is_registered).map(vtep));
    tables.networks.insert(vni, network.into());
    tables
}

fn netns() -> NetNs {
    NetNs::create().unwrap_or_else(|e| panic!("needs root: {e}"))
}

fn container(dataplane: &Dataplane, port: u32) -> NetNs {
    let ns = netns();
    let tap = Tap::open(&ns, "eth0", TapConfig::default()).unwrap();
    let link = LinkConfig {
        mac: mac(port),
        mtu: MTU,
        tx_queue_frames: TX_QUEUE_FRAMES,
        gso_bytes: GSO_BYTES,
        addresses: vec![format!("{}/16", ip(port)).parse().unwrap()],
        gateways: vec![],
        route_metric: 100,
    };
    configure(&ns, "eth0", &link).unwrap();
    dataplane.attach(PortId(port), tap).unwrap();
    ns
}

fn udp(ns: &NetNs, port: u32) -> UdpSocket {
    let socket = ns.run(|| UdpSocket::bind((IpAddr::V4(ip(port)), 0)).unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// There and back, a window at a time.
fn exchange_datagrams(a: &UdpSocket, b: &UdpSocket) {
    for (from, to) in [(a, b), (b, a)] {
        let target: SocketAddr = to.local_addr().unwrap();
        for _ in 0..DATAGRAMS / WINDOW {
            (0..WINDOW).for_each(|_| assert_eq!(from.send_to(b"hello", target).unwrap(), 5));
            (0..WINDOW).for_each(|_| assert_eq!(to.recv(&mut [0; 8]).unwrap(), 5));
        }
    }
}

fn transfer(sender: &mut TcpStream, receiver: &mut TcpStream) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let chunk = [7; 1 << 16];
            (0..TRANSFER_BYTES / chunk.len()).for_each(|_| sender.write_all(&chunk).unwrap());
        });
        let mut chunk = vec![0; 1 << 16];
        (0..TRANSFER_BYTES / chunk.len()).for_each(|_| receiver.read_exact(&mut chunk).unwrap());
    });
}

/// As `exchange_datagrams`, to all containers.
fn flood(from: &UdpSocket, to: &UdpSocket) {
    let target = (Ipv4Addr::new(172, 17, 255, 255), to.local_addr().unwrap().port());
    for _ in 0..DATAGRAMS / WINDOW {
        (0..WINDOW).for_each(|_| assert_eq!(from.send_to(b"hello", target).unwrap(), 5));
        (0..WINDOW).for_each(|_| assert_eq!(to.recv(&mut [0; 8]).unwrap(), 5));
    }
}

/// Containers 1 and 2, and what is between them.
struct Scene {
    containers: [NetNs; 2],
    dataplanes: Vec<Dataplane>,
    /// With the ends of their cable.
    _hosts: Vec<NetNs>,
}

/// `None` where the engine is not there.
fn dataplane(engine: EngineKind, workers: usize) -> Option<Dataplane> {
    let dataplane = Dataplane::start(DataplaneConfig {
        workers: NonZeroUsize::new(workers).unwrap(),
        engine: Some(engine),
        on_port_death: Arc::new(|port| panic!("port {port} died")),
        ..DataplaneConfig::default()
    });
    match dataplane {
        Err(EngineError::Unavailable(why)) => {
            println!("skipped: {why}");
            None
        }
        dataplane => Some(dataplane.unwrap()),
    }
}

fn one_host(engine: EngineKind, workers: usize, addresses: Addresses) -> Option<Scene> {
    let dataplane = dataplane(engine, workers)?;
    dataplane.publish(tables(&[1, 2], None, addresses));
    let containers = [1, 2].map(|port| container(&dataplane, port));
    Some(Scene { containers, dataplanes: vec![dataplane], _hosts: vec![] })
}

fn ip_command(ns: &NetNs, arguments: &str) {
    let run = || Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let output = ns.run(run).unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

fn two_hosts(engine: EngineKind, workers: usize, addresses: Addresses) -> Option<Scene> {
    let dataplanes = [dataplane(engine, workers)?, dataplane(engine, workers)?];
    let hosts = [netns(), netns()];
    let other = format!("/proc/{}/fd/{}", std::process::id(), hosts[1].as_fd().as_raw_fd());
    ip_command(&hosts[0], &format!("link add u0 type veth peer name u0 netns {other}"));
    for (port, host) in (1..).zip(&hosts) {
        ip_command(host, &format!("address add {}/24 dev u0", vtep(port)));
        ip_command(host, "link set u0 up");
    }
    let containers = [0, 1].map(|index| {
        let (port, remote) = (1 + index as u32, 2 - index as u32);
        let dataplane = &dataplanes[index];
        dataplane.publish(tables(&[port], Some(remote), addresses));
        let config = UnderlayConfig {
            vtep: vtep(port),
            port: 4789,
            sockets: UnderlayConfig::SOCKETS,
            receivers: NonZeroUsize::new(workers).unwrap(),
            gso: true,
            gro: true,
        };
        let underlay = hosts[index].run(|| Underlay::open(config).unwrap()).unwrap();
        dataplane.set_underlay(Some(underlay)).unwrap();
        container(dataplane, port)
    });
    Some(Scene { containers, dataplanes: dataplanes.into(), _hosts: hosts.into() })
}

/// Until both containers have each other's address, which takes more than one attempt if their hosts learn it.
fn wait_until_joined(a: &UdpSocket, b: &UdpSocket) {
    for (from, to) in [(a, b), (b, a)] {
        let target = to.local_addr().unwrap();
        to.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let arrives = || {
            let _ = from.send_to(b"hello", target);
            to.recv(&mut [0; 8]).is_ok()
        };
        assert!((0..100).any(|_| arrives()), "nothing arrives at {target}");
        while to.recv(&mut [0; 8]).is_ok() {}
        to.set_read_timeout(Some(DEADLINE)).unwrap();
    }
}

/// What a round of traffic in all directions asks for, after a first one.
fn allocations(scene: &Scene) -> u64 {
    let [a, b] = &scene.containers;
    let (udp_a, udp_b) = (udp(a, 1), udp(b, 2));
    wait_until_joined(&udp_a, &udp_b);
    let any = [a, b].map(|ns| {
        let socket = ns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    });
    udp_a.set_broadcast(true).unwrap();
    udp_b.set_broadcast(true).unwrap();
    let listener = b.run(|| TcpListener::bind((ip(2), 0)).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut at_a = a.run(|| TcpStream::connect_timeout(&address, DEADLINE).unwrap()).unwrap();
    let (mut at_b, _) = listener.accept().unwrap();
    at_a.set_read_timeout(Some(DEADLINE)).unwrap();
    at_b.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut round = || {
        exchange_datagrams(&udp_a, &udp_b);
        flood(&udp_a, &any[1]);
        flood(&udp_b, &any[0]);
        transfer(&mut at_a, &mut at_b);
        transfer(&mut at_b, &mut at_a);
    };
    round();
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 0, "attaching allocates, so the counter counts");
    let mut count = || {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        round();
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    // What a worker makes once may be due as late as in the second round; what it makes for a frame is due in all of them.
    (0..ROUNDS).map(|_| count()).find(|&count| count == 0).unwrap_or_else(&mut count)
}

/// With each engine, one and two workers, and each way to know an address.
fn check(scene: fn(EngineKind, usize, Addresses) -> Option<Scene>, look: fn(&Dataplane)) {
    IS_COUNTING.store(true, Ordering::Relaxed);
    for engine in [EngineKind::Epoll, EngineKind::Uring] {
        for (workers, addresses) in
            [(1, Addresses::Registered), (2, Addresses::Registered), (2, Addresses::Learned)]
        {
            let Some(scene) = scene(engine, workers, addresses) else { continue };
            assert_eq!(allocations(&scene), 0, "{engine}, {workers} workers, {addresses:?}");
            scene.dataplanes.iter().for_each(look);
        }
    }
    IS_COUNTING.store(false, Ordering::Relaxed);
}

/// One test, because the counter counts all workers of the process.
#[test]
fn frames_cost_workers_no_allocation() {
    check(one_host, |dataplane| assert!(dataplane.totals().flooded_frames > 0));
    check(two_hosts, |dataplane| {
        let totals = dataplane.totals();
        assert!(totals.flooded_frames as usize > DATAGRAMS, "{totals:?}");
        assert!(totals.tunnel.segmented_sends > 0 && totals.tunnel.coalesced_frames > 0, "{totals:?}");
    });
}
