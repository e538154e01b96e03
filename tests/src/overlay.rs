//! Two hosts joined by a cable, and on each a container in one overlay network: what is between them is a [`Switch`] on
//! either side, ours or somebody else's.
//!
//! Here the data plane runs inside the test, with tables made by hand; no daemon is concerned.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::ensure;
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use vswitch::forward::DropReason;
use vswitch::forward::tables::{Network, Overlay, Port, Tables};
use vswitch::io::netlink::{GSO_BYTES, LinkConfig, TX_QUEUE_FRAMES, configure};
use vswitch::io::netns::NetNs;
use vswitch::io::tap::{self, Tap, TapConfig};
use vswitch::io::underlay::{Underlay, UnderlayConfig};
use vswitch::worker::{Dataplane, DataplaneConfig, EngineKind};
use vswitch_proto::id::{MacAddr, PortId, Vni};
use vswitch_proto::wire::vxlan;

use crate::engines;
use crate::host::ENGINE;
use crate::ovs::Ovs;
use crate::wait::{DEADLINE, eventually};

/// That of the run; `None` for the one that a data plane chooses.
pub fn engine() -> Option<EngineKind> {
    match std::env::var(ENGINE).as_deref() {
        Err(_) | Ok("auto") => None,
        Ok("epoll") => Some(EngineKind::Epoll),
        Ok("uring") => Some(EngineKind::Uring),
        Ok(other) => panic!("{ENGINE} is {other}, it can be epoll, uring or auto"),
    }
}

/// The only container of each host.
pub const PORT: PortId = PortId(1);

/// The host's end of the cable.
pub const CABLE: &str = "u0";

/// The container's interface.
pub const INTERFACE: &str = "eth0";

const CABLE_MTU: u32 = 1500;

pub fn vni() -> Vni {
    Vni::new(4097).expect("it is not 0")
}

/// What forwards on a host.
pub enum Switch {
    Ours(Dataplane),
    /// The kernel's vxlan device in its bridge.
    Kernel,
    Ovs(Ovs),
}

/// Which switch a host gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It knows the other container's address, as in a cluster.
    Ours(Offloads),
    /// It knows nothing but the other host: a static remote.
    OursStatic(Offloads),
    /// With or without UDP checksums over IPv4.
    Kernel {
        udp_checksums: bool,
    },
    Ovs,
}

/// What our switch is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Segmentation offloads of the container's TAP, for TCP and for UDP.
    pub tso: bool,
    pub uso: bool,
    /// Several datagrams in one send, and in one receipt.
    pub gso: bool,
    pub gro: bool,
    /// TCP put together again.
    pub coalesce: bool,
}

impl Offloads {
    pub const ALL: Offloads = Offloads { tso: true, uso: true, gso: true, gro: true, coalesce: true };
    pub const NONE: Offloads = Offloads { tso: false, uso: false, gso: false, gro: false, coalesce: false };

    /// Every combination there is.
    pub fn combinations() -> impl Iterator<Item = Offloads> {
        (0..32).map(|bits| {
            let [tso, uso, gso, gro, coalesce] = [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
            Offloads { tso, uso, gso, gro, coalesce }
        })
    }

    /// On what is off here, and the other way round.
    pub fn complement(self) -> Offloads {
        let Offloads { tso, uso, gso, gro, coalesce } = self;
        Offloads { tso: !tso, uso: !uso, gso: !gso, gro: !gro, coalesce: !coalesce }
    }
}

/// The cable between the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cable {
    pub is_ipv6: bool,
    /// Whether the host's interface takes frames that are cut, and checksums that are finished, by the other end.
    pub offloads: bool,
}

impl Cable {
    pub fn vtep(&self, host: usize) -> IpAddr {
        let n = host as u8 + 1;
        if self.is_ipv6 {
            IpAddr::from([0xfd08, 0, 0, 0, 0, 0, 0, n.into()])
        } else {
            IpAddr::from([10, 8, 0, n])
        }
    }

    /// Of a container: what the tunnel leaves.
    pub fn mtu(&self) -> u32 {
        CABLE_MTU - vxlan::overhead_bytes(self.vtep(0))
    }
}

/// Hosts 0 and 1 with their containers.
pub struct Pair {
    pub cable: Cable,
    /// Of our switches; `None` for the one that they choose.
    engine: Option<EngineKind>,
    pub hosts: [NetNs; 2],
    pub containers: [NetNs; 2],
    pub switches: Vec<Switch>,
}

impl Pair {
    /// With the engine of the run.
    pub fn new(cable: Cable, kinds: [Kind; 2]) -> Pair {
        Pair::with_engine(cable, kinds, engine())
    }

    pub fn with_engine(cable: Cable, kinds: [Kind; 2], engine: Option<EngineKind>) -> Pair {
        let create = || NetNs::create().unwrap_or_else(|e| panic!("{e}"));
        let hosts = [create(), create()];
        let containers = [create(), create()];
        join(&hosts, cable);
        let mut pair = Pair { cable, engine, hosts, containers, switches: vec![] };
        for (host, kind) in kinds.into_iter().enumerate() {
            let switch = pair.switch(host, kind);
            pair.switches.push(switch);
        }
        pair
    }

    fn switch(&self, host: usize, kind: Kind) -> Switch {
        match kind {
            Kind::Ours(offloads) => Switch::Ours(self.ours(host, offloads, self.tables(host, false))),
            Kind::OursStatic(offloads) => Switch::Ours(self.ours(host, offloads, self.tables(host, true))),
            Kind::Kernel { udp_checksums } => {
                self.kernel(host, udp_checksums);
                Switch::Kernel
            }
            Kind::Ovs => {
                let ovs = Ovs::start(&self.hosts[host]);
                self.open_vswitch(host, &ovs);
                Switch::Ovs(ovs)
            }
        }
    }

    /// What a cluster would tell this host, or what there is to tell of a static remote.
    pub fn tables(&self, host: usize, is_static: bool) -> Tables {
        let other = 1 - host;
        let mut tables = Tables::default();
        let network = Network {
            ports: vec![PORT],
            endpoints: [(mac(host), PORT)].into_iter().collect(),
            neighbors: [host, other]
                .into_iter()
                .filter(|&n| n == host || !is_static)
                .flat_map(|n| [false, true].map(|v6| (address(n, v6), mac(n))))
                .collect(),
            overlay: Some(Overlay {
                vtep: self.cable.vtep(host),
                remotes: (!is_static).then(|| (mac(other), self.cable.vtep(other))).into_iter().collect(),
                flood_vteps: vec![self.cable.vtep(other)],
                static_vteps: is_static.then(|| self.cable.vtep(other)).into_iter().collect(),
                inner_vlan: false,
            }),
            ..Network::default()
        };
        tables.vteps.extend((!is_static).then(|| self.cable.vtep(other)));
        let own = [false, true].map(|v6| address(host, v6));
        let [IpAddr::V4(ipv4), IpAddr::V6(ipv6)] = own else { panic!("one of each family") };
        let (ipv4, ipv6) = (Some(ipv4), Some(ipv6));
        tables.ports.insert(PORT, Port { vni: vni(), mac: mac(host), mtu: self.cable.mtu(), ipv4, ipv6 });
        tables.networks.insert(vni(), network.into());
        tables
    }

    fn ours(&self, host: usize, offloads: Offloads, tables: Tables) -> Dataplane {
        let config = DataplaneConfig { coalesce: offloads.coalesce, ..engines::config(self.engine) };
        let dataplane = Dataplane::start(config).expect("it starts");
        assert!(self.engine.is_none_or(|engine| engine == dataplane.engine()), "{:?}", self.engine);
        dataplane.publish(tables);
        dataplane.set_underlay(Some(self.underlay(host, offloads))).expect("its sockets can be polled");
        let ns = &self.containers[host];
        let segments =
            tap::Offloads { no_tso: !offloads.tso, no_uso: !offloads.uso, ..tap::Offloads::default() };
        let config = TapConfig { offloads: segments, ..TapConfig::default() };
        let tap = Tap::open(ns, INTERFACE, config).unwrap_or_else(|e| panic!("{e}"));
        let link = LinkConfig {
            mac: mac(host),
            mtu: self.cable.mtu(),
            tx_queue_frames: TX_QUEUE_FRAMES,
            gso_bytes: GSO_BYTES,
            addresses: [false, true].map(|v6| with_prefix(host, v6).parse().expect("a prefix")).to_vec(),
            gateways: vec![],
            route_metric: 100,
        };
        configure(ns, INTERFACE, &link).unwrap_or_else(|e| panic!("{e}"));
        dataplane.attach(PORT, tap).unwrap_or_else(|e| panic!("{e}"));
        dataplane
    }

    pub fn underlay(&self, host: usize, offloads: Offloads) -> Underlay {
        let config = UnderlayConfig {
            vtep: self.cable.vtep(host),
            port: vxlan::PORT,
            sockets: UnderlayConfig::SOCKETS,
            receivers: NonZeroUsize::new(2).expect("it is not 0"),
            gso: offloads.gso,
            gro: offloads.gro,
        };
        let open = || Underlay::open(config).unwrap_or_else(|e| panic!("{e}"));
        self.hosts[host].run(open).expect("a namespace can be entered")
    }

    fn kernel(&self, host: usize, udp_checksums: bool) {
        let (ns, cable) = (&self.hosts[host], self.cable);
        let checksums = match (cable.is_ipv6, udp_checksums) {
            (true, _) => "",
            (false, true) => " udpcsum",
            (false, false) => " noudpcsum",
        };
        let (own, other) = (cable.vtep(host), cable.vtep(1 - host));
        let port = vxlan::PORT;
        sh(ns, "ip link add br0 type bridge");
        sh(
            ns,
            &format!(
                "ip link add vx0 type vxlan id {} local {own} remote {other} dev {CABLE} dstport {port}{checksums}",
                vni()
            ),
        );
        sh(ns, &format!("ip link set vx0 master br0 mtu {} up", cable.mtu()));
        let container = path(&self.containers[host]);
        sh(
            ns,
            &format!(
                "ip link add c0 mtu {0} type veth peer name {INTERFACE} mtu {0} netns {1}",
                cable.mtu(),
                container.display()
            ),
        );
        sh(ns, &format!("ip link set c0 master br0 mtu {} up && ip link set br0 up", cable.mtu()));
        self.configure(host);
    }

    /// Open vSwitch routes tunnels itself, through a bridge that has the cable and its address.
    fn open_vswitch(&self, host: usize, ovs: &Ovs) {
        let (ns, cable) = (&self.hosts[host], self.cable);
        let (own, other) = (cable.vtep(host), cable.vtep(1 - host));
        let bits = if cable.is_ipv6 { 64 } else { 24 };
        ovs.vsctl("add-br br-phy -- set bridge br-phy datapath_type=netdev fail-mode=standalone -- add-port br-phy u0");
        sh(ns, &format!("ip address flush dev {CABLE}"));
        let nodad = if cable.is_ipv6 { " nodad" } else { "" };
        sh(ns, &format!("ip address add {own}/{bits} dev br-phy{nodad} && ip link set br-phy up"));
        ovs.vsctl("add-br br-int -- set bridge br-int datapath_type=netdev fail-mode=standalone");
        ovs.vsctl(&format!("add-port br-int vx0 -- set interface vx0 type=vxlan options:key={} options:remote_ip={other} options:csum=true", vni()));
        ovs.vsctl("add-port br-int c0 -- set interface c0 type=internal");
        sh(ns, &format!("ip link set c0 netns {} name {INTERFACE}", path(&self.containers[host]).display()));
        self.configure(host);
    }

    /// The container's interface, where it is not ours.
    fn configure(&self, host: usize) {
        let ns = &self.containers[host];
        sh(ns, "ip link set lo up");
        sh(ns, &format!("ip link set {INTERFACE} address {} mtu {} up", mac(host), self.cable.mtu()));
        sh(ns, &format!("ip address add {} dev {INTERFACE}", with_prefix(host, false)));
        sh(ns, &format!("ip address add {} dev {INTERFACE} nodad", with_prefix(host, true)));
    }

    /// Our switch on this host.
    pub fn dataplane(&self, host: usize) -> &Dataplane {
        match &self.switches[host] {
            Switch::Ours(dataplane) => dataplane,
            Switch::Kernel | Switch::Ovs(_) => panic!("host {host} has another switch"),
        }
    }

    /// Waits until one container has an answer from the other one.
    pub fn ping(&self, from: usize, v6: bool) {
        let to = address(1 - from, v6).to_string();
        let family = if v6 { "-6" } else { "-4" };
        eventually(&format!("{to} answers container {from}"), || {
            let ping = || Command::new("busybox").args(["ping", family, "-c", "1", "-W", "1", &to]).output();
            let output = self.containers[from].run(ping)??;
            ensure!(output.status.success(), "{output:?}; {}", self.drops());
            Ok(())
        });
    }

    /// Sends `bytes` over TCP, and compares each of them.
    pub fn transfer(&self, from: usize, v6: bool, bytes: usize) {
        self.transfer_to(from, address(1 - from, v6), bytes);
    }

    /// The same to an address that the other container has.
    pub fn transfer_to(&self, from: usize, to: IpAddr, bytes: usize) {
        let bind = || TcpListener::bind((to, 0));
        let listener = self.containers[1 - from].run(bind).expect("a namespace can be entered");
        let listener = listener.unwrap_or_else(|e| panic!("{to}: {e}"));
        let target = listener.local_addr().expect("it is bound");
        let connect = || TcpStream::connect_timeout(&target, DEADLINE);
        let sender = self.containers[from].run(connect).expect("a namespace can be entered");
        let sender = sender.unwrap_or_else(|e| panic!("{target}: {e}; {}", self.drops()));
        let (receiver, _) = listener.accept().expect("a client has connected");
        stream(sender, receiver, bytes, &|| self.drops());
    }

    /// Any port of a container.
    pub fn udp(&self, container: usize, v6: bool) -> UdpSocket {
        let open = || UdpSocket::bind(self.socket(container, v6, 0));
        self.containers[container].run(open).expect("a namespace can be entered").expect("a free port")
    }

    /// Sends datagrams of these sizes from one container to the other, one at a time, until each has arrived, which very
    /// few of them may need a second try for.
    pub fn datagrams(&self, from: usize, v6: bool, sizes: impl IntoIterator<Item = usize>) {
        let (sender, receiver) = (self.udp(from, v6), self.udp(1 - from, v6));
        receiver.set_read_timeout(Some(DEADLINE / 60)).expect("it can be set");
        let to = receiver.local_addr().expect("it is bound");
        let mut buffer = vec![0; 1 << 16];
        let (mut count, mut tries) = (0, 0);
        for bytes in sizes {
            let payload: Vec<u8> = (0..bytes).map(|i| (i * 31 + bytes) as u8).collect();
            count += 1;
            eventually(&format!("{bytes} bytes arrive"), || {
                tries += 1;
                sender.send_to(&payload, to)?;
                loop {
                    let got = receiver.recv(&mut buffer)?;
                    // What comes late of the try before is of another size.
                    if got == bytes {
                        ensure!(buffer[..got] == payload[..], "the bytes are not those that were sent");
                        return Ok(());
                    }
                }
            });
        }
        assert!(tries <= count + count / 100 + 2, "{tries} tries for {count} datagrams; {}", self.drops());
    }

    /// Sends datagrams at once that the container's kernel leaves to be cut, if its interface takes them, until all arrive.
    pub fn segments(&self, from: usize, v6: bool) {
        const BYTES: usize = 1000;
        const COUNT: usize = 40;
        let (sender, receiver) = (self.udp(from, v6), self.udp(1 - from, v6));
        receiver.set_read_timeout(Some(DEADLINE / 60)).expect("it can be set");
        setsockopt(&sender, UdpGsoSegment, &(BYTES as i32)).expect("the kernel has UDP_SEGMENT");
        let to = receiver.local_addr().expect("it is bound");
        let mut buffer = [0; 2 * BYTES];
        let mut round = 0;
        eventually("all segments arrive", || {
            round += 1;
            // Of the round before.
            receiver.set_nonblocking(true)?;
            while receiver.recv(&mut buffer).is_ok() {}
            receiver.set_nonblocking(false)?;
            let payload: Vec<u8> = (0..COUNT * BYTES + 7).map(|i| (i * 7 + i / 256 + round) as u8).collect();
            sender.send_to(&payload, to)?;
            for expected in payload.chunks(BYTES) {
                let got = receiver.recv(&mut buffer)?;
                ensure!(buffer[..got] == *expected, "it is not what was sent; {}", self.drops());
            }
            Ok(())
        });
    }

    /// What our switches have dropped, for messages.
    pub fn drops(&self) -> String {
        let mut text = String::new();
        for (host, switch) in self.switches.iter().enumerate() {
            let Switch::Ours(dataplane) = switch else { continue };
            let totals = dataplane.totals();
            let dropped = DropReason::ALL.iter().filter(|&&reason| totals.dropped(reason) > 0);
            let named = dropped.map(|&reason| format!("{} {}", totals.dropped(reason), reason.name()));
            text += &format!("host {host} dropped: {}; ", named.collect::<Vec<_>>().join(", "));
        }
        text
    }

    /// A socket address in a container.
    pub fn socket(&self, container: usize, v6: bool, port: u16) -> SocketAddr {
        SocketAddr::new(address(container, v6), port)
    }
}

/// Blocks of a stream that does not repeat, so that anything lost, doubled or exchanged shows.
fn stream(mut sender: TcpStream, mut receiver: TcpStream, bytes: usize, state: &dyn Fn() -> String) {
    const BLOCK_BYTES: usize = 1 << 16;
    receiver.set_read_timeout(Some(DEADLINE)).expect("it can be set");
    sender.set_write_timeout(Some(DEADLINE)).expect("it can be set");
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut pattern, mut buffer) = (1u64, vec![0; BLOCK_BYTES]);
            for _ in 0..bytes / BLOCK_BYTES {
                fill(&mut pattern, &mut buffer);
                sender.write_all(&buffer).expect("the other side takes it");
            }
        });
        let (mut pattern, mut buffer, mut expected) = (1u64, vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
        for block in 0..bytes / BLOCK_BYTES {
            let read = receiver.read_exact(&mut buffer);
            read.unwrap_or_else(|e| panic!("block {block}: {e}; {}", state()));
            fill(&mut pattern, &mut expected);
            assert!(buffer == expected, "block {block} is not what was sent");
        }
        assert_eq!(receiver.read(&mut buffer).expect("the end follows"), 0);
    });
}

fn fill(pattern: &mut u64, buffer: &mut [u8]) {
    for chunk in buffer.chunks_exact_mut(8) {
        *pattern = pattern.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&(*pattern ^ *pattern >> 29).to_le_bytes());
    }
}

pub fn mac(host: usize) -> MacAddr {
    MacAddr([2, 0x42, 10, 0, 0, host as u8 + 1])
}

pub fn address(host: usize, v6: bool) -> IpAddr {
    let n = host as u8 + 1;
    if v6 { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n.into()]) } else { IpAddr::from([10, 0, 0, n]) }
}

fn with_prefix(host: usize, v6: bool) -> String {
    format!("{}/{}", address(host, v6), if v6 { 64 } else { 24 })
}

fn join(hosts: &[NetNs; 2], cable: Cable) {
    let other = path(&hosts[1]);
    sh(&hosts[0], &format!("ip link add {CABLE} type veth peer name {CABLE} netns {}", other.display()));
    for (n, host) in hosts.iter().enumerate() {
        let vtep = cable.vtep(n);
        let (bits, nodad) = if cable.is_ipv6 { (64, " nodad") } else { (24, "") };
        sh(host, &format!("ip link set lo up && ip address add {vtep}/{bits} dev {CABLE}{nodad}"));
        if !cable.offloads {
            // What leaves is cut and finished, as for an interface that can do neither.
            sh(host, &format!("ethtool -K {CABLE} tx off sg off tso off gso off gro off"));
        }
        sh(host, &format!("ip link set {CABLE} up"));
    }
}

/// Where this process has a namespace, for other programs.
pub fn path(ns: &NetNs) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd()).into()
}

/// Runs a shell script in a namespace, which has to succeed, and returns what it printed.
pub fn sh(ns: &NetNs, script: &str) -> String {
    let run = || Command::new("sh").args(["-ec", script]).output().expect("there is a shell");
    let output = ns.run(run).expect("a namespace can be entered");
    assert!(output.status.success(), "`{script}`: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
