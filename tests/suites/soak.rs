//! Mixed traffic on two joined hosts while containers come and go: nothing leaks, no port is lost, no flow is reordered,
//! and whatever did not arrive is in somebody's counters.
//!
//! `make soak SECONDS=n` has it go on for so long; in `make test` it is short.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::ensure;
use vswitch::worker::EngineKind;
use vswitch_proto::api::{Port, Stats};
use vswitch_tests::engines::engines;
use vswitch_tests::flows::{Flow, Sent};
use vswitch_tests::netns::inside;
use vswitch_tests::pinging::Pinging;
use vswitch_tests::wait::{DEADLINE, eventually};
use vswitch_tests::{Cluster, Lab};

const NETWORK: &str = "net";

/// Containers that stay, and their hosts.
const RESIDENTS: [(&str, usize); 3] = [("a", 0), ("b", 0), ("c", 1)];

/// One connection, bytes; then the next.
const CONNECTION: usize = 32 << 20;

/// Guests until everything that is made once is there.
const WARM_UP_GUESTS: usize = 5;

/// What is kept on purpose, KiB: the last 4,096 events, remembered requests, the log, and 8 MiB of buffers for each of two
/// workers. Without the buffers it grew by 11 MiB in 5,000 guests when this was measured, and by nothing in the next 8,500.
const GROWTH_KIB_MAX: u64 = 28 << 10;

/// Guests after which all of that is full.
const SETTLED_GUESTS: usize = 5000;

/// Guests between two samples of what is held.
const SAMPLE_GUESTS: usize = 50;

/// By which resident memory goes up and down, KiB.
const NOISE_KIB: u64 = 1024;

fn seconds() -> u64 {
    env::var("SOAK_SECONDS").map_or(600, |seconds| seconds.parse().expect("a number of seconds"))
}

const SHORT: Duration = Duration::from_secs(8);

#[test]
fn a_short_one_with_epoll() {
    soak(EngineKind::Epoll, SHORT);
}

#[test]
fn a_short_one_with_uring() {
    soak(EngineKind::Uring, SHORT);
}

#[test]
#[ignore = "minutes: make soak"]
fn soak_traffic_with_epoll() {
    soak(EngineKind::Epoll, Duration::from_secs(seconds()));
}

#[test]
#[ignore = "minutes: make soak"]
fn soak_traffic_with_uring() {
    soak(EngineKind::Uring, Duration::from_secs(seconds()));
}

fn soak(engine: EngineKind, duration: Duration) {
    if !engines().contains(&engine) {
        return;
    }
    let engine = engine.to_string();
    let cluster = Cluster::with(2, &["--workers=2", "--engine", &engine]);
    cluster.join_all();
    let create =
        ["network", "create", "-d", "overlay", "--ipv6", "--subnet=10.9.0.0/24", "--subnet=fd09::/64"];
    cluster.labs[0].ok(&[&create[..], &[NETWORK]].concat());
    for (name, host) in RESIDENTS {
        cluster.labs[host].run_idle(name, &["--net=net"]);
    }
    for (name, host) in RESIDENTS {
        RESIDENTS.iter().for_each(|(other, _)| {
            cluster.labs[host].assert_reaches(name, &address(&cluster, other, false).to_string());
        });
    }
    let before = Account::of(&cluster);
    let outcome = traffic(&cluster, duration);
    assert!(outcome.bytes > 0 && outcome.guests > 0, "{outcome:?}");
    check_ledgers(&cluster);
    let lost = outcome.lost();
    let dropped = Account::of(&cluster).since(&before);
    println!("{outcome:?}; lost {lost}, of which accounted for: {dropped:?}");
    // The kernel counts a packet that it had no room for once, also one that it had put together of several datagrams.
    // Of these flows they are two at most: only a last one may be shorter than those before it.
    let put_together = dropped.overflows();
    assert!(
        lost <= dropped.total() + put_together,
        "lost {lost}, but the counters know of {dropped:?}; {outcome:?}"
    );
    for (host, lab) in cluster.labs.iter().enumerate() {
        let residents = RESIDENTS.iter().filter(|(_, on)| *on == host).count();
        let stats = stats(lab);
        assert_eq!((stats.ports as usize, stats.workers), (residents, 2), "ports of host {host}");
        assert_eq!(stats.engine, engine, "at the end, of host {host}");
    }
    for (name, host) in RESIDENTS {
        for (other, _) in RESIDENTS {
            cluster.labs[host].assert_reaches(name, &address(&cluster, other, false).to_string());
        }
    }
}

/// What the traffic came to.
#[derive(Debug, Default)]
struct Outcome {
    /// For each receiver of a flow: what was sent, and what arrived.
    flows: Vec<(Sent, u64)>,
    /// Over TCP, every byte compared.
    bytes: u64,
    lost_echoes: usize,
    guests: usize,
}

impl Outcome {
    fn lost(&self) -> u64 {
        let of_flows: u64 =
            self.flows.iter().map(|(sent, received)| sent.datagrams - sent.refused - received).sum();
        of_flows + self.lost_echoes as u64
    }
}

/// Flows: from one container to others, as a broadcast if there are several.
const FLOWS: [(&str, &[&str]); 4] = [("a", &["b"]), ("a", &["c"]), ("c", &["b"]), ("a", &["b", "c"])];

/// TCP streams, in both versions, on one host and between the two.
const STREAMS: [(&str, &str, bool); 4] =
    [("a", "b", false), ("b", "a", true), ("a", "c", false), ("c", "a", true)];

fn traffic(cluster: &Cluster, duration: Duration) -> Outcome {
    let (stop, bytes) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let flows: Vec<Flow> = FLOWS.iter().map(|(_, to)| Flow::new(to.len(), 8 / to.len())).collect();
    let pings = [("a", "b"), ("b", "c")].map(|(from, to)| {
        Pinging::start(&cluster.labs[host_of(from)], from, &address(cluster, to, false).to_string())
    });
    let mut outcome = Outcome::default();
    thread::scope(|scope| {
        let handles: Vec<Handles<'_>> = FLOWS
            .iter()
            .zip(&flows)
            .map(|((from, to), flow)| start_flow(scope, cluster, flow, (from, to)))
            .collect();
        for (from, to, v6) in STREAMS {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    bytes.fetch_add(connection(cluster, from, to, v6, stop), Ordering::Relaxed);
                }
            });
        }
        // Whatever becomes of the guests, the traffic ends.
        let guests = catch_unwind(AssertUnwindSafe(|| guests(cluster, duration)));
        stop.store(true, Ordering::Relaxed);
        flows.iter().for_each(Flow::stop);
        outcome.guests = guests.unwrap_or_else(|panic| resume_unwind(panic));
        for (sender, receivers) in handles {
            let sent = sender.join().expect("the sender does not panic");
            for receiver in receivers {
                outcome.flows.push((sent, receiver.join().expect("nothing is out of order")));
            }
        }
    });
    for ping in pings {
        ping.wait_for_more(3);
        outcome.lost_echoes += ping.losses();
    }
    outcome.bytes = bytes.load(Ordering::Relaxed);
    outcome
}

type Handles<'scope> = (ScopedJoinHandle<'scope, Sent>, Vec<ScopedJoinHandle<'scope, u64>>);

fn start_flow<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    cluster: &Cluster,
    flow: &'env Flow,
    (from, to): (&str, &[&str]),
) -> Handles<'scope> {
    // A port of its own for each flow, the same at all receivers.
    let receivers: Vec<UdpSocket> = to
        .iter()
        .scan(0, |port, name| {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
            let socket = made(cluster, name, || UdpSocket::bind(any));
            *port = socket.local_addr().expect("it is bound").port();
            Some(socket)
        })
        .collect();
    let port = receivers[0].local_addr().expect("it is bound").port();
    let destination = match to {
        [name] => address(cluster, name, false),
        _ => IpAddr::from([10, 9, 0, 255]),
    };
    let sender = made(cluster, from, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    sender.set_broadcast(true).expect("it can be set");
    let receiving = receivers.into_iter().map(|socket| scope.spawn(move || flow.receive(&socket))).collect();
    (scope.spawn(move || flow.send(&sender, (destination, port).into())), receiving)
}

/// One connection, until it has carried enough or it is time to stop: how many bytes, each of which was compared.
fn connection(cluster: &Cluster, from: &str, to: &str, v6: bool, stop: &AtomicBool) -> u64 {
    const BLOCK_BYTES: usize = 1 << 16;
    let listener = made(cluster, to, || TcpListener::bind((address(cluster, to, v6), 0)));
    let target = listener.local_addr().expect("it is bound");
    let mut sender = made(cluster, from, || TcpStream::connect(target));
    let (mut receiver, _) = listener.accept().expect("a client has connected");
    receiver.set_read_timeout(Some(DEADLINE)).expect("it can be set");
    sender.set_write_timeout(Some(DEADLINE)).expect("it can be set");
    let block = |number: usize| (0..BLOCK_BYTES).map(move |at| (at * 13 + number * 251 + at / 256) as u8);
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..CONNECTION / BLOCK_BYTES {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                sender.write_all(&block(number).collect::<Vec<u8>>()).expect("the other side takes it");
            }
        });
        let mut buffer = vec![0; BLOCK_BYTES];
        let mut blocks = 0;
        loop {
            match receiver.read(&mut buffer).expect("the end, if nothing more") {
                0 => return (blocks * BLOCK_BYTES) as u64,
                bytes => receiver.read_exact(&mut buffer[bytes..]).expect("the rest of a block"),
            }
            assert!(buffer.iter().copied().eq(block(blocks)), "block {blocks} is not what was sent");
            blocks += 1;
        }
    })
}

/// Containers that come, talk, change networks and go, on both hosts in turn. Memory and descriptors of the daemons
/// do not grow meanwhile.
fn guests(cluster: &Cluster, duration: Duration) -> usize {
    let start = Instant::now();
    let mut count = 0;
    let mut first: Option<Vec<Holding>> = None;
    let mut samples = Vec::new();
    while start.elapsed() < duration || count < 1 {
        guest(cluster, count % 2);
        count += 1;
        match &first {
            None if count >= WARM_UP_GUESTS => first = Some(holdings(cluster)),
            None => {}
            Some(first) => check_holdings(cluster, first, count),
        }
        if count.is_multiple_of(SAMPLE_GUESTS) {
            samples.push(holdings(cluster));
        }
    }
    check_slopes(&samples);
    count
}

/// In a run that is long enough, the second half takes much less than the first one: what leaks takes as much.
fn check_slopes(samples: &[Vec<Holding>]) {
    let half = samples.len() / 2;
    if half * SAMPLE_GUESTS < SETTLED_GUESTS {
        return println!("{} samples are too few to compare the halves", samples.len());
    }
    let (begin, middle, end) = (&samples[0], &samples[half], &samples[samples.len() - 1]);
    for (host, ((begin, middle), end)) in begin.iter().zip(middle).zip(end).enumerate() {
        let first = middle.rss_kib.saturating_sub(begin.rss_kib);
        let second = end.rss_kib.saturating_sub(middle.rss_kib);
        println!("host {host}: {first} KiB in the first half, {second} KiB in the second");
        assert!(second <= first / 4 + NOISE_KIB, "host {host}: {begin:?}, {middle:?}, {end:?}");
    }
}

fn guest(cluster: &Cluster, host: usize) {
    let lab = &cluster.labs[host];
    lab.run_idle("guest", &["--net=net"]);
    reaches(lab, &address(cluster, "a", false));
    lab.ok(&["network", "connect", "bridge", "guest"]);
    lab.ok(&["network", "disconnect", NETWORK, "guest"]);
    lab.ok(&["network", "connect", NETWORK, "guest"]);
    reaches(lab, &address(cluster, "c", false));
    lab.ok(&["rm", "-f", "guest"]);
}

/// Beside the flows a ping may be lost like any of their datagrams.
fn reaches(lab: &Lab, address: &IpAddr) {
    eventually("the guest reaches a resident", || {
        let ping = lab.ping("guest", &address.to_string());
        ensure!(ping.received == 1, "{ping:?}");
        Ok(())
    });
}

/// What a daemon holds.
#[derive(Debug, Clone, Copy)]
struct Holding {
    descriptors: usize,
    rss_kib: u64,
}

fn holdings(cluster: &Cluster) -> Vec<Holding> {
    cluster.labs.iter().map(Holding::of).collect()
}

impl Holding {
    fn of(lab: &Lab) -> Holding {
        let process = lab.path(format!("/proc/{}", lab.daemon_pid()));
        let descriptors = fs::read_dir(process.join("fd")).expect("the daemon runs").count();
        let status = fs::read_to_string(process.join("status")).expect("the daemon runs");
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix(" kB"));
        let rss_kib = rss.and_then(|kib| kib.trim().parse().ok()).expect("it has memory");
        Holding { descriptors, rss_kib }
    }
}

fn check_holdings(cluster: &Cluster, first: &[Holding], guests: usize) {
    for (host, (lab, first)) in cluster.labs.iter().zip(first).enumerate() {
        // A connection of the API or to the other host may be open at the moment.
        eventually(&format!("descriptors of host {host} after {guests} guests"), || {
            let now = Holding::of(lab);
            ensure!(now.descriptors <= first.descriptors, "{first:?}, now {now:?}");
            Ok(())
        });
        let now = Holding::of(lab);
        if guests.is_multiple_of(SAMPLE_GUESTS) {
            println!("host {host} after {guests} guests: {now:?}");
        }
        assert!(now.rss_kib <= first.rss_kib + GROWTH_KIB_MAX, "host {host}: {first:?}, now {now:?}");
    }
}

/// Reasons that no datagram between residents can have been dropped for: their interfaces stay, and so do they.
const OF_GUESTS: [&str; 2] = ["no_receiver", "tap_gone"];

const TUNNEL_OVERFLOWS: &str = "tunnel overflows";

/// What was dropped, by who counted it.
#[derive(Debug, Clone)]
struct Account(BTreeMap<String, u64>);

impl Account {
    fn of(cluster: &Cluster) -> Account {
        let mut drops = BTreeMap::new();
        for (host, lab) in cluster.labs.iter().enumerate() {
            let stats = stats(lab);
            for (reason, count) in stats.drops.into_iter().filter(|(r, _)| !OF_GUESTS.contains(&r.as_str())) {
                drops.insert(format!("host {host}: {reason}"), count);
            }
            drops.insert(format!("host {host}: {TUNNEL_OVERFLOWS}"), stats.tunnel.rx_overflows);
            drops.insert(format!("host {host}: interfaces"), interface_drops(&lab.path("/proc/1/net/dev")));
        }
        drops.insert("fabric: interfaces".into(), interface_drops(&cluster.fabric().path("/proc/1/net/dev")));
        for (name, host) in RESIDENTS {
            let lab = &cluster.labs[host];
            let net = lab.path(format!("/proc/{}/net", lab.inspect(name).state.pid));
            drops.insert(format!("{name}: interfaces"), interface_drops(&net.join("dev")));
            drops.insert(format!("{name}: sockets"), full_sockets(&net.join("snmp")));
        }
        Account(drops)
    }

    /// What was added, without zeros.
    fn since(&self, before: &Account) -> Account {
        let added = self.0.iter().map(|(who, now)| (who.clone(), now - before.0[who]));
        Account(added.filter(|(_, count)| *count > 0).collect())
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Packets dropped because a tunnel's receive buffer was full.
    fn overflows(&self) -> u64 {
        self.0.iter().filter(|(who, _)| who.ends_with(TUNNEL_OVERFLOWS)).map(|(_, count)| count).sum()
    }
}

/// The rows of /proc/net/dev: bytes, packets, errors, drops, ... in both directions.
fn interfaces(dev: &Path) -> BTreeMap<String, Vec<u64>> {
    let text = fs::read_to_string(dev).unwrap_or_else(|e| panic!("{}: {e}", dev.display()));
    let rows = text.lines().filter_map(|line| line.split_once(':'));
    let numbers = |row: &str| row.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    rows.map(|(name, row)| (name.trim().into(), numbers(row))).collect()
}

fn interface_drops(dev: &Path) -> u64 {
    interfaces(dev).values().map(|row| row[3] + row[11]).sum()
}

/// Datagrams that a socket had no room for, by /proc/net/snmp: a line of names, then one of numbers.
fn full_sockets(snmp: &Path) -> u64 {
    let text = fs::read_to_string(snmp).unwrap_or_else(|e| panic!("{}: {e}", snmp.display()));
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, numbers) = (lines.next().expect("names"), lines.next().expect("numbers"));
    let mut pairs = names.split(' ').zip(numbers.split(' '));
    let (_, count) = pairs.find(|(name, _)| *name == "RcvbufErrors").expect("the kernel counts them");
    count.parse().expect("a number")
}

/// What the switch says of a port, and what the kernel says of the interface in the container, is the same.
fn check_ledgers(cluster: &Cluster) {
    for (name, host) in RESIDENTS {
        let lab = &cluster.labs[host];
        let dev = lab.path(format!("/proc/{}/net/dev", lab.inspect(name).state.pid));
        eventually(&format!("the counters of {name} agree"), || {
            let ports: Vec<Port> = lab.http("GET", "/v1/ports", "").parsed();
            let port = ports.iter().find(|port| port.container.as_str() == name).expect("the port is there");
            let row = &interfaces(&dev)["eth0"];
            let (switch, kernel) = ((port.counters.rx_frames, port.counters.tx_frames), (row[9], row[1]));
            ensure!(port.up && switch == kernel, "{port:?}; the kernel says {kernel:?}");
            Ok(())
        });
    }
}

fn host_of(container: &str) -> usize {
    RESIDENTS.iter().find(|(name, _)| *name == container).expect("it is a resident").1
}

fn address(cluster: &Cluster, container: &str, v6: bool) -> IpAddr {
    let settings = cluster.labs[host_of(container)].inspect(container).network_settings;
    let network = &settings.networks[NETWORK];
    let text = if v6 { &network.global_ipv6_address } else { &network.ip_address };
    text.parse().expect("it is an address")
}

/// Makes a socket in a container. An IPv6 address may be tentative at first (RFC 4862 section 5.4).
fn made<T: Send>(cluster: &Cluster, container: &str, make: impl Fn() -> std::io::Result<T> + Sync) -> T {
    let netns = cluster.labs[host_of(container)].netns(container);
    eventually(&format!("a socket in {container}"), || Ok(inside(&netns, &make)?))
}

fn stats(lab: &Lab) -> Stats {
    lab.http("GET", "/v1/stats", "").parsed()
}
