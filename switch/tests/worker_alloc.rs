//! Workers allocate nothing for frames that pass, with either engine: real TAPs, real traffic, and an allocator that
//! counts what the workers' threads ask it for.
#![expect(unsafe_code, reason = "an allocator can only be counted by being one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use vswitch::forward::tables::{Network, Port, Tables};
use vswitch::forward::{Fdb, FdbConfig, ForwardConfig};
use vswitch::io::netlink::{GSO_BYTES, LinkConfig, TX_QUEUE_FRAMES, configure};
use vswitch::io::netns::NetNs;
use vswitch::io::tap::{Tap, TapConfig};
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
const TRANSFER_BYTES: usize = 32 << 20;

fn ip(port: u32) -> Ipv4Addr {
    Ipv4Addr::new(172, 17, 0, port as u8)
}

fn tables() -> Tables {
    let vni = Vni::new(1).unwrap();
    let mut network = Network::default();
    let mut tables = Tables::default();
    for port in [1, 2] {
        let mac = MacAddr::from_ipv4(ip(port));
        network.ports.push(PortId(port));
        network.endpoints.insert(mac, PortId(port));
        tables.ports.insert(PortId(port), Port { vni, mac, mtu: 1500 });
    }
    tables.networks.insert(vni, network.into());
    tables
}

fn host(dataplane: &Dataplane, port: u32) -> NetNs {
    let ns = NetNs::create().unwrap_or_else(|e| panic!("needs root: {e}"));
    let tap = Tap::open(&ns, "eth0", TapConfig::default()).unwrap();
    let link = LinkConfig {
        mac: MacAddr::from_ipv4(ip(port)),
        mtu: 1500,
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

/// `None` where the engine is not there.
fn allocations(engine: EngineKind, workers: usize) -> Option<u64> {
    let dataplane = Dataplane::start(DataplaneConfig {
        workers: NonZeroUsize::new(workers).unwrap(),
        engine: Some(engine),
        pin_cpus: Vec::new(),
        poll: Duration::ZERO,
        burst_frames: DataplaneConfig::BURST_FRAMES,
        forward: ForwardConfig::default(),
        coalesce: true,
        fdb: Arc::new(Fdb::new(FdbConfig::default())),
        on_port_death: Arc::new(|port| panic!("port {port} died")),
    });
    let dataplane = match dataplane {
        Err(EngineError::Unavailable(why)) => {
            println!("skipped: {why}");
            return None;
        }
        dataplane => dataplane.unwrap(),
    };
    dataplane.publish(tables());
    IS_COUNTING.store(true, Ordering::Relaxed);
    let (a, b) = (host(&dataplane, 1), host(&dataplane, 2));
    let (udp_a, udp_b) = (udp(&a, 1), udp(&b, 2));
    let listener = b.run(|| TcpListener::bind((ip(2), 0)).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut sender = a.run(|| TcpStream::connect_timeout(&address, DEADLINE).unwrap()).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut round = || {
        exchange_datagrams(&udp_a, &udp_b);
        transfer(&mut sender, &mut receiver);
    };
    round();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(before > 0, "attaching allocates, so the counter counts");
    round();
    let counted = ALLOCATIONS.load(Ordering::Relaxed) - before;
    IS_COUNTING.store(false, Ordering::Relaxed);
    Some(counted)
}

#[test]
fn frames_cost_workers_no_allocation() {
    for engine in [EngineKind::Epoll, EngineKind::Uring] {
        for workers in [1, 2] {
            assert_eq!(allocations(engine, workers).unwrap_or_default(), 0, "{engine}, {workers} workers");
        }
    }
}
