//! Real TAPs, real kernels at both ends.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket};
use nix::sys::socket::{MsgFlags, setsockopt, sockopt::RcvBufForce, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};
use vswitch_proto::id::{MacAddr, Vni};

use super::*;
use crate::forward::DropReason;
use crate::forward::tables::{Gateway, Network, Port};
use crate::io::netlink::{GSO_BYTES, LinkConfig, TX_QUEUE_FRAMES, configure, delete_link, links};
use crate::io::netns::NetNs;
use crate::io::tap::{Offloads, TapConfig};
use crate::io::test_netns;

mod failures;

/// For what must happen; nothing here waits for it in vain.
const DEADLINE: Duration = Duration::from_secs(30);

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

/// Each test runs with each engine, so that a failure names it.
macro_rules! with_each_engine {
    ($($name:ident,)*) => {
        mod epoll {
            $(#[test] fn $name() { super::$name(super::EngineKind::Epoll); })*
        }
        mod uring {
            $(#[test] fn $name() {
                match super::Engine::new(super::EngineKind::Uring, 1, super::engine::new_wake().unwrap()) {
                    Ok(_) => super::$name(super::EngineKind::Uring),
                    Err(why) => println!("skipped: {why}"),
                }
            })*
        }
    };
}

with_each_engine!(
    tcp_arrives_whole_and_in_large_frames,
    tcp_arrives_whole_without_offloads_too,
    workers_that_poll_on_a_processor_of_their_own_do_the_same,
    the_gateway_answers_a_ping,
    ports_come_and_go_while_traffic_flows,
    an_interface_that_somebody_removed_is_found,
    a_flow_stays_in_order,
    a_port_that_never_stops_sending_can_be_detached,
    a_worker_goes_on_after_its_buffers_were_all_in_use,
    ports_with_much_to_send_take_turns,
    persistent_taps_serve_the_next_data_plane,
    attaching_and_detaching_have_exact_answers,
    frames_from_a_port_without_a_table_entry_are_counted,
);

fn config(engine: EngineKind, workers: usize) -> DataplaneConfig {
    DataplaneConfig {
        workers: NonZeroUsize::new(workers).unwrap(),
        engine: Some(engine),
        on_port_death: Arc::new(|port| panic!("port {port} died")),
        ..DataplaneConfig::default()
    }
}

struct Rig {
    dataplane: Dataplane,
    deaths: Receiver<PortId>,
}

impl Rig {
    fn new(engine: EngineKind, workers: usize) -> Rig {
        Rig::with(engine, workers, |_| {})
    }

    fn with(engine: EngineKind, workers: usize, change: impl FnOnce(&mut DataplaneConfig)) -> Rig {
        let (died, deaths) = mpsc::channel();
        let mut config = config(engine, workers);
        config.on_port_death = Arc::new(move |port| died.send(port).unwrap());
        change(&mut config);
        Rig { dataplane: Dataplane::start(config).unwrap(), deaths }
    }

    /// A namespace whose eth0 is this port.
    fn host(&self, port: u32, config: TapConfig) -> NetNs {
        let ns = test_netns();
        plug(&self.dataplane, &ns, port, config);
        ns
    }
}

fn plug(dataplane: &Dataplane, ns: &NetNs, port: u32, config: TapConfig) {
    let tap = Tap::open(ns, "eth0", config).unwrap();
    let link = LinkConfig {
        mac: MacAddr::from_ipv4(ip(port)),
        mtu: 1500,
        tx_queue_frames: TX_QUEUE_FRAMES,
        gso_bytes: GSO_BYTES,
        addresses: vec![format!("{}/16", ip(port)).parse().unwrap()],
        gateways: vec![GATEWAY.into()],
        route_metric: 100,
    };
    configure(ns, "eth0", &link).unwrap();
    dataplane.attach(PortId(port), tap).unwrap();
}

fn ip(port: u32) -> Ipv4Addr {
    Ipv4Addr::new(172, 17, 0, 1 + u8::try_from(port).unwrap())
}

/// One network with these ports.
fn tables(ports: &[u32]) -> Tables {
    let vni = Vni::new(1).unwrap();
    let mut tables = Tables::default();
    let gateway = Gateway { mac: MacAddr::from_ipv4(GATEWAY), ipv4: Some(GATEWAY), ipv6: None };
    let mut network = Network { gateway: Some(gateway), ..Network::default() };
    for &port in ports {
        let mac = MacAddr::from_ipv4(ip(port));
        network.ports.push(PortId(port));
        network.endpoints.insert(mac, PortId(port));
        tables.ports.insert(PortId(port), Port { vni, mac, mtu: 1500, ipv4: None, ipv6: None });
    }
    tables.networks.insert(vni, network.into());
    tables
}

/// Bytes that repeat after 2^64 of their words, so that a lost or doubled one shows.
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_exact_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes());
        }
    }
}

const CHUNK_BYTES: usize = 64 << 10;

/// Sends `chunks` of 64 KiB over one TCP connection and compares every byte.
fn transfer(from: &NetNs, to: &NetNs, to_ip: Ipv4Addr, chunks: usize) {
    let listener = to.run(|| TcpListener::bind((to_ip, 0)).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut sender = from.run(|| TcpStream::connect_timeout(&address, DEADLINE).unwrap()).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    sender.set_write_timeout(Some(DEADLINE)).unwrap();
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut pattern, mut chunk) = (Pattern(1), vec![0; CHUNK_BYTES]);
            for _ in 0..chunks {
                pattern.fill(&mut chunk);
                sender.write_all(&chunk).unwrap();
            }
        });
        let (mut pattern, mut expected, mut chunk) = (Pattern(1), vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
        for n in 0..chunks {
            pattern.fill(&mut expected);
            receiver.read_exact(&mut chunk).unwrap();
            assert!(chunk == expected, "chunk {n} differs");
        }
        assert_eq!(receiver.read(&mut chunk).unwrap(), 0, "more than was sent");
    });
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < DEADLINE, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether one of a few datagrams from one host arrives at the other.
fn reaches(from: &NetNs, to: &NetNs, to_ip: Ipv4Addr) -> bool {
    let receiver = to.run(|| UdpSocket::bind((to_ip, 0)).unwrap()).unwrap();
    let address: SocketAddr = receiver.local_addr().unwrap();
    let sender = from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
    (0..40).any(|_| {
        // ENETDOWN and the like are answers too.
        let _ = sender.send_to(b"hello", address);
        receiver.recv(&mut [0; 16]).is_ok()
    })
}

fn tcp_arrives_whole_and_in_large_frames(engine: EngineKind) {
    const CHUNKS: usize = 320;
    for workers in [1, 2] {
        let rig = Rig::new(engine, workers);
        rig.dataplane.publish(tables(&[1, 2]));
        let (a, b) = (rig.host(1, TapConfig::default()), rig.host(2, TapConfig::default()));
        transfer(&a, &b, ip(2), CHUNKS);
        let sent = rig.dataplane.port_counters(PortId(1)).unwrap();
        let bytes = (CHUNKS * CHUNK_BYTES) as u64;
        assert!(sent.rx_bytes > bytes, "{sent:?}");
        assert!(sent.rx_frames < bytes / 1448 / 4, "segments came one by one: {sent:?}");
        let received = || rig.dataplane.port_counters(PortId(2)).unwrap().tx_bytes;
        eventually("not every byte was counted", || received() > bytes);
        println!("{workers} workers: {} bytes per frame", sent.rx_bytes / sent.rx_frames);
    }
}

fn tcp_arrives_whole_without_offloads_too(engine: EngineKind) {
    let rig = Rig::new(engine, 1);
    rig.dataplane.publish(tables(&[1, 2]));
    let plain =
        TapConfig { offloads: Offloads { no_csum: true, ..Offloads::default() }, ..TapConfig::default() };
    let (a, b) = (rig.host(1, plain), rig.host(2, TapConfig::default()));
    transfer(&a, &b, ip(2), 32);
    let sent = rig.dataplane.port_counters(PortId(1)).unwrap();
    assert!(sent.rx_bytes / sent.rx_frames <= 1514, "{sent:?}");
}

fn workers_that_poll_on_a_processor_of_their_own_do_the_same(engine: EngineKind) {
    // Any that this thread may run on.
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpu = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu).unwrap()).unwrap();
    let rig = Rig::with(engine, 1, |config| {
        config.pin_cpus = vec![cpu];
        config.poll = Duration::from_micros(20);
    });
    rig.dataplane.publish(tables(&[1, 2]));
    let (a, b) = (rig.host(1, TapConfig::default()), rig.host(2, TapConfig::default()));
    transfer(&a, &b, ip(2), 64);
    let processors = processors_of_workers();
    assert!(processors.contains(&cpu.to_string()), "{cpu} is in none of {processors:?}");
    assert_eq!(sched_getaffinity(Pid::from_raw(0)).unwrap(), allowed);
}

/// Where each worker of this process, of other tests too, may run, as the kernel writes it.
fn processors_of_workers() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let workers = tasks.filter(|task| {
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        name.starts_with("vswitch-worker")
    });
    let of_worker = |task: std::path::PathBuf| {
        let status = std::fs::read_to_string(task.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Some(line?.trim().to_owned())
    };
    workers.filter_map(of_worker).collect()
}

fn the_gateway_answers_a_ping(engine: EngineKind) {
    let rig = Rig::new(engine, 1);
    rig.dataplane.publish(tables(&[1]));
    let ns = rig.host(1, TapConfig::default());
    let open = || socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp).unwrap();
    let fd = ns.run(open).unwrap();
    setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(DEADLINE.as_secs() as i64)).unwrap();
    // Echo request, identifier 0x1234, sequence number 1 (RFC 792), with its checksum.
    let request = [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1];
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(GATEWAY, 0));
    sendto(fd.as_raw_fd(), &request, &to, MsgFlags::empty()).unwrap();
    let mut reply = [0; 100];
    let length = recv(fd.as_raw_fd(), &mut reply, MsgFlags::empty()).unwrap();
    assert_eq!(reply[20..length], [0, 0, 0xed, 0xca, 0x12, 0x34, 0, 1]);
    // A frame is counted after it was written, which may be after it was received.
    let sent = || rig.dataplane.port_counters(PortId(1)).unwrap().tx_frames;
    eventually("the answers to ARP and ICMP were not both counted", || sent() >= 2);
}

fn ports_come_and_go_while_traffic_flows(engine: EngineKind) {
    let rig = Rig::new(engine, 2);
    rig.dataplane.publish(tables(&[1, 2]));
    let (a, b) = (rig.host(1, TapConfig::default()), rig.host(2, TapConfig::default()));
    let guest = test_netns();
    let dataplane = &rig.dataplane;
    let flowing = AtomicBool::new(true);
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let mut rounds = 0;
            while flowing.load(Ordering::Relaxed) || rounds < 2 {
                let port = 3 + rounds % 100;
                dataplane.publish(tables(&[1, 2, port]));
                plug(dataplane, &guest, port, TapConfig { persistent: true, ..TapConfig::default() });
                assert!(reaches(&guest, &a, ip(1)), "port {port}");
                dataplane.publish(tables(&[1, 2]));
                dataplane.detach(PortId(port)).unwrap().unwrap().delete().unwrap();
                assert!(
                    links(&guest).unwrap().iter().all(|link| link.name == "lo"),
                    "port {port} left its TAP"
                );
                rounds += 1;
            }
            rounds
        });
        transfer(&a, &b, ip(2), 1600);
        flowing.store(false, Ordering::Relaxed);
        println!("{} ports came and went", churn.join().unwrap());
    });
}

fn an_interface_that_somebody_removed_is_found(engine: EngineKind) {
    let rig = Rig::new(engine, 2);
    rig.dataplane.publish(tables(&[1, 2]));
    let persistent = TapConfig { persistent: true, ..TapConfig::default() };
    let (a, b) = (rig.host(1, TapConfig::default()), rig.host(2, persistent));
    assert!(reaches(&a, &b, ip(2)));
    assert!(delete_link(&b, "eth0").unwrap());
    eventually("it is neither reported nor found", || {
        rig.deaths.try_recv() == Ok(PortId(2)) || rig.dataplane.find_dead() == [PortId(2)]
    });
    // Frames for the port are counted from then on, and hurt nobody.
    let sender = a.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()).unwrap();
    eventually("no frame for the dead port was counted", || {
        let _ = sender.send_to(b"anybody?", (IpAddr::V4(ip(2)), 9));
        rig.dataplane.totals().dropped(DropReason::TapGone) > 0
    });
    rig.dataplane.detach(PortId(2)).unwrap().unwrap().delete().unwrap();
    // The report came before or after it was found, or not at all.
    assert!(rig.deaths.try_iter().count() <= 1);
    // The port can have a new TAP.
    plug(&rig.dataplane, &b, 2, persistent);
    assert!(reaches(&a, &b, ip(2)));
    assert_eq!(rig.dataplane.find_dead(), []);
}

fn a_flow_stays_in_order(engine: EngineKind) {
    const DATAGRAMS: u32 = 20_000;
    // Fewer than a socket has room for.
    const WINDOW: u32 = 100;
    let rig = Rig::new(engine, 2);
    rig.dataplane.publish(tables(&[1, 2]));
    let (a, b) = (rig.host(1, TapConfig::default()), rig.host(2, TapConfig::default()));
    let sender = a.run(|| UdpSocket::bind((ip(1), 0)).unwrap()).unwrap();
    let receiver = b.run(|| UdpSocket::bind((ip(2), 0)).unwrap()).unwrap();
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    // Whom to send to is known first: a kernel that has just learned it sends what has waited beside what is new.
    sender.send(&[0]).unwrap();
    assert_eq!(receiver.recv(&mut [0; 4]).unwrap(), 1);
    for first in (0..DATAGRAMS).step_by(WINDOW as usize) {
        (first..first + WINDOW).for_each(|n| assert_eq!(sender.send(&n.to_ne_bytes()).unwrap(), 4));
        for n in first..first + WINDOW {
            let mut bytes = [0; 4];
            receiver.recv(&mut bytes).unwrap();
            assert_eq!(u32::from_ne_bytes(bytes), n);
        }
    }
}

fn a_port_that_never_stops_sending_can_be_detached(engine: EngineKind) {
    let rig = Rig::new(engine, 2);
    rig.dataplane.publish(tables(&[1, 2]));
    let (a, b) = (rig.host(1, TapConfig::default()), rig.host(2, TapConfig::default()));
    let sender = a.run(|| UdpSocket::bind((ip(1), 0)).unwrap()).unwrap();
    let flowing = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            while flowing.load(Ordering::Relaxed) {
                // To nobody, behind the other port. A queue that is full is no reason to stop.
                let _ = sender.send_to(&[0; 1000], (ip(2), 9));
            }
        });
        for _ in 0..50 {
            for port in [1, 2] {
                let tap = rig.dataplane.detach(PortId(port)).unwrap().expect("no worker has it any more");
                rig.dataplane.attach(PortId(port), tap).unwrap();
            }
        }
        flowing.store(false, Ordering::Relaxed);
    });
    assert!(reaches(&a, &b, ip(2)) && reaches(&b, &a, ip(1)));
    rig.dataplane.detach(PortId(1)).unwrap().unwrap().delete().unwrap();
    assert!(links(&a).unwrap().iter().all(|link| link.name == "lo"), "the TAP is still held");
}

fn a_worker_goes_on_after_its_buffers_were_all_in_use(engine: EngineKind) {
    let rig = Rig::new(engine, 1);
    rig.dataplane.publish(tables(&[1, 2]));
    let (a, b) = (rig.host(1, TapConfig::default()), rig.host(2, TapConfig::default()));
    let sender = a.run(|| UdpSocket::bind((ip(1), 0)).unwrap()).unwrap();
    let burst = || (0..5000).for_each(|_| drop(sender.send_to(&[0; 1000], (ip(2), 9))));
    match engine {
        // Its one buffer is free whenever it reads.
        EngineKind::Epoll => {
            burst();
            assert_eq!(rig.dataplane.totals().buffer_shortages, 0);
        }
        EngineKind::Uring => eventually("the buffers were never all in use", || {
            burst();
            rig.dataplane.totals().buffer_shortages > 0
        }),
    }
    assert!(reaches(&a, &b, ip(2)) && reaches(&b, &a, ip(1)));
}

/// Holds a worker that finds a port's device gone, from when it says so until it is told to go on.
fn hold_when_a_port_dies(config: &mut DataplaneConfig) -> (Receiver<()>, SyncSender<()>) {
    let (holding, held) = mpsc::sync_channel::<()>(0);
    let (release, released) = mpsc::sync_channel::<()>(0);
    let released = Mutex::new(released);
    config.on_port_death = Arc::new(move |_| {
        holding.send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
    });
    (held, release)
}

/// Two senders fill their TAPs while the worker is held; then their frames come in turns.
fn ports_with_much_to_send_take_turns(engine: EngineKind) {
    // Less than a TAP's queue and than what the receiver's buffer takes of both.
    const EACH: usize = 3000;
    let mut hold = None;
    let rig = Rig::with(engine, 1, |config| hold = Some(hold_when_a_port_dies(config)));
    let (held, release) = hold.unwrap();
    rig.dataplane.publish(tables(&[1, 2, 3, 4]));
    let [a, b, c, doomed] = [1, 2, 3, 4].map(|port| rig.host(port, TapConfig::default()));
    let receiver = c.run(|| UdpSocket::bind((ip(3), 0)).unwrap()).unwrap();
    setsockopt(&receiver, RcvBufForce, &(64 << 20)).unwrap();
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    let senders = [(&a, 1), (&b, 2)].map(|(ns, port)| {
        let sender = ns.run(|| UdpSocket::bind((ip(port), 0)).unwrap()).unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        // Whom to send to is known before the worker is held.
        sender.send(&[0]).unwrap();
        assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 1);
        sender
    });

    assert!(delete_link(&doomed, "eth0").unwrap());
    held.recv_timeout(DEADLINE).unwrap();
    for (index, sender) in senders.iter().enumerate() {
        (0..EACH).for_each(|_| assert_eq!(sender.send(&[index as u8; 2]).unwrap(), 2));
    }
    release.send(()).unwrap();

    let mut got = [0; 2];
    for _ in 0..EACH {
        let mut datagram = [0; 8];
        assert_eq!(receiver.recv(&mut datagram).unwrap(), 2);
        got[usize::from(datagram[0])] += 1;
    }
    println!("of the first {EACH} frames {got:?} are of either");
    assert!(got.iter().all(|&frames| frames > EACH / 3), "{got:?}");
}

fn persistent_taps_serve_the_next_data_plane(engine: EngineKind) {
    let persistent = TapConfig { persistent: true, ..TapConfig::default() };
    let (a, b) = (test_netns(), test_netns());
    for _ in 0..2 {
        let rig = Rig::new(engine, 2);
        rig.dataplane.publish(tables(&[1, 2]));
        plug(&rig.dataplane, &a, 1, persistent);
        plug(&rig.dataplane, &b, 2, persistent);
        assert!(reaches(&a, &b, ip(2)));
        rig.dataplane.shutdown();
        assert!(links(&a).unwrap().iter().any(|link| link.name == "eth0"));
    }
}

fn attaching_and_detaching_have_exact_answers(engine: EngineKind) {
    let rig = Rig::new(engine, 2);
    let ns = rig.host(1, TapConfig::default());
    let other = Tap::open(&ns, "eth1", TapConfig::default()).unwrap();
    assert!(matches!(rig.dataplane.attach(PortId(1), other), Err(AttachError::Attached(PortId(1)))));
    assert!(rig.dataplane.port_counters(PortId(1)).is_some());
    assert!(rig.dataplane.detach(PortId(1)).unwrap().is_some());
    assert!(rig.dataplane.detach(PortId(1)).unwrap().is_none());
    assert_eq!(rig.dataplane.port_counters(PortId(1)), None);
    assert!(links(&ns).unwrap().iter().all(|link| link.name == "lo"), "refused and detached TAPs are closed");
}

fn frames_from_a_port_without_a_table_entry_are_counted(engine: EngineKind) {
    let rig = Rig::new(engine, 1);
    let ns = rig.host(1, TapConfig::default());
    let sender = ns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()).unwrap();
    eventually("nothing was dropped", || {
        let _ = sender.send_to(b"anybody?", (ip(2), 9));
        rig.dataplane.totals().dropped(DropReason::UnknownPort) > 0
    });
    let counters = rig.dataplane.port_counters(PortId(1)).unwrap();
    assert!(counters.rx_dropped > 0 && counters.tx_frames == 0, "{counters:?}");
}
