//! Whole IP stacks on in-memory ports: 200 hosts in one network find each other, ping and run TCP through
//! [`Forwarder`], while a second network with the same addresses does the same beside it. No root, no clock.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{icmp, tcp};
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpCidr,
};
use vswitch::forward::tables::{Gateway, Network, Port, Tables};
use vswitch::forward::{DropReason, Fdb, FdbConfig, ForwardConfig, Forwarder, Ingress, Verdict, flood};
use vswitch::frame::Frame;
use vswitch::gateway;
use vswitch_proto::id::{MacAddr, PortId, Vni};
use vswitch_proto::wire::vnet_hdr;

const MTU: usize = 1500;
const TCP_PORT: u16 = 80;
const TCP_BYTES: usize = 20_000;
/// Simulated milliseconds after which it has failed.
const MS_MAX: u32 = 20_000;

/// What a host sent, and what it was given, each with a virtio-net header.
#[derive(Default)]
struct Wire {
    sent: VecDeque<Vec<u8>>,
    given: VecDeque<Vec<u8>>,
}

struct RxToken(Vec<u8>);
struct TxToken<'a>(&'a mut VecDeque<Vec<u8>>);

impl smoltcp::phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0[vnet_hdr::HEADER_BYTES..])
    }
}

impl smoltcp::phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut raw = vec![0; vnet_hdr::HEADER_BYTES + length];
        let result = f(&mut raw[vnet_hdr::HEADER_BYTES..]);
        self.0.push_back(raw);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(RxToken, TxToken<'_>)> {
        let raw = self.given.pop_front()?;
        Some((RxToken(raw), TxToken(&mut self.sent)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + 14;
        capabilities
    }
}

/// One host: it pings some addresses, sends [`TCP_BYTES`] to its successor and takes as many from its predecessor.
struct Host {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    icmp: SocketHandle,
    server: SocketHandle,
    client: SocketHandle,
    to_ping: Vec<IpAddress>,
    answered: Vec<IpAddress>,
    sent_bytes: usize,
    taken_bytes: usize,
}

/// What both ends know to follow at each position.
fn pattern(host: usize, position: usize) -> u8 {
    (host * 31 + position * 7 + position / 251) as u8
}

fn ipv4(host: usize) -> Ipv4Addr {
    Ipv4Addr::from(0xac11_0002 + host as u32)
}

fn ipv6(host: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2 + host as u16)
}

const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

impl Host {
    fn new(host: usize, successor: usize) -> Host {
        let mac = HardwareAddress::Ethernet(EthernetAddress(MacAddr::from_ipv4(ipv4(host)).0));
        let mut wire = Wire::default();
        let mut config = Config::new(mac);
        config.random_seed = host as u64;
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(ipv4(host).into(), 16)).unwrap();
            addresses.push(IpCidr::new(ipv6(host).into(), 64)).unwrap();
        });
        let tcp_socket =
            || tcp::Socket::new(tcp::SocketBuffer::new(vec![0; 8192]), tcp::SocketBuffer::new(vec![0; 8192]));
        let packets = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 1024]);
        let (mut server, mut client, mut icmp) =
            (tcp_socket(), tcp_socket(), icmp::Socket::new(packets(), packets()));
        server.listen(TCP_PORT).unwrap();
        client.connect(interface.context(), (IpAddress::Ipv4(ipv4(successor)), TCP_PORT), 49_152).unwrap();
        icmp.bind(icmp::Endpoint::Ident(host as u16)).unwrap();
        let mut sockets = SocketSet::new(vec![]);
        Host {
            wire,
            interface,
            icmp: sockets.add(icmp),
            server: sockets.add(server),
            client: sockets.add(client),
            sockets,
            to_ping: vec![
                ipv4(successor).into(),
                ipv6(successor).into(),
                GATEWAY_IPV4.into(),
                GATEWAY_IPV6.into(),
            ],
            answered: vec![],
            sent_bytes: 0,
            taken_bytes: 0,
        }
    }

    fn poll(&mut self, host: usize, predecessor: usize, now: smoltcp::time::Instant) {
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        self.ping(host);
        let client = self.sockets.get_mut::<tcp::Socket<'_>>(self.client);
        while client.can_send() && self.sent_bytes < TCP_BYTES {
            let n = (TCP_BYTES - self.sent_bytes).min(1000);
            let data: Vec<u8> = (self.sent_bytes..self.sent_bytes + n).map(|at| pattern(host, at)).collect();
            self.sent_bytes += client.send_slice(&data).unwrap();
        }
        let server = self.sockets.get_mut::<tcp::Socket<'_>>(self.server);
        while server.can_recv() {
            let taken = &mut self.taken_bytes;
            let check = |data: &mut [u8]| {
                for byte in &*data {
                    assert_eq!(*byte, pattern(predecessor, *taken), "host {host}, byte {taken}");
                    *taken += 1;
                }
                (data.len(), ())
            };
            server.recv(check).unwrap();
        }
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// Sends what is to be sent and notes who answered. The identifier tells answers from the requests of others.
    fn ping(&mut self, host: usize) {
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(self.icmp);
        while let (true, Some(to)) = (socket.can_send(), self.to_ping.pop()) {
            let data = b"are you there?";
            match to {
                IpAddress::Ipv4(_) => {
                    let echo = Icmpv4Repr::EchoRequest { ident: host as u16, seq_no: 1, data };
                    let bytes = socket.send(echo.buffer_len(), to).unwrap();
                    echo.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::default());
                }
                IpAddress::Ipv6(v6) => {
                    let echo = Icmpv6Repr::EchoRequest { ident: host as u16, seq_no: 1, data };
                    let bytes = socket.send(echo.buffer_len(), to).unwrap();
                    let mut packet = Icmpv6Packet::new_unchecked(bytes);
                    echo.emit(&ipv6(host), &v6, &mut packet, &ChecksumCapabilities::default());
                }
            }
        }
        while socket.can_recv() {
            let (_, from) = socket.recv().unwrap();
            self.answered.push(from);
        }
    }

    fn is_done(&self) -> bool {
        self.taken_bytes == TCP_BYTES && self.sent_bytes == TCP_BYTES && self.answered.len() == 4
    }
}

#[derive(Default)]
struct Counts {
    unicast: usize,
    flooded: usize,
    gateway: usize,
}

/// Hosts of several networks on one switch; in each they bear the same addresses.
struct World {
    sizes: Vec<usize>,
    hosts: Vec<Vec<Host>>,
    tables: Tables,
    forwarder: Forwarder,
    t0: Instant,
    counts: Counts,
}

fn port(network: usize, host: usize) -> PortId {
    PortId((network * 1000 + host) as u32)
}

impl World {
    fn new(sizes: &[usize]) -> World {
        let mut tables = Tables::default();
        for (n, &size) in sizes.iter().enumerate() {
            let vni = Vni::new(n as u32 + 1).unwrap();
            let mac = MacAddr::from_ipv4(GATEWAY_IPV4);
            let gateway = Some(Gateway { mac, ipv4: Some(GATEWAY_IPV4), ipv6: Some(GATEWAY_IPV6) });
            let ports = (0..size).map(|host| port(n, host)).collect();
            let mut network = Network { ports, gateway, ..Network::default() };
            for host in 0..size {
                // Every third host is not registered, so its address has to be learned.
                let is_registered = host % 3 != 0;
                let mac = MacAddr::from_ipv4(ipv4(host));
                let port_mac = if is_registered { mac } else { MacAddr([6, 0, 0, 0, 0, host as u8]) };
                let (v4, v6) = (is_registered.then(|| ipv4(host)), is_registered.then(|| ipv6(host)));
                let known = Port { vni, mac: port_mac, mtu: MTU as u32, ipv4: v4, ipv6: v6 };
                tables.ports.insert(port(n, host), known);
                if is_registered {
                    network.endpoints.insert(mac, port(n, host));
                    network.neighbors.extend([(ipv4(host).into(), mac), (ipv6(host).into(), mac)]);
                }
            }
            tables.networks.insert(vni, network.into());
        }
        let hosts =
            sizes.iter().map(|&size| (0..size).map(|host| Host::new(host, (host + 1) % size)).collect());
        let fdb = Arc::new(Fdb::new(FdbConfig::default()));
        World {
            hosts: hosts.collect(),
            sizes: sizes.to_vec(),
            tables,
            forwarder: Forwarder::new(fdb, ForwardConfig::default()),
            t0: Instant::now(),
            counts: Counts::default(),
        }
    }

    /// Forwards everything that was sent, as a worker would.
    fn forward(&mut self, now: Instant) {
        for n in 0..self.hosts.len() {
            for host in 0..self.hosts[n].len() {
                while let Some(raw) = self.hosts[n][host].wire.sent.pop_front() {
                    self.forward_one(n, host, &raw, now);
                }
            }
        }
    }

    fn forward_one(&mut self, n: usize, host: usize, raw: &[u8], now: Instant) {
        let frame = Frame::parse(raw).unwrap();
        let ingress = Ingress::Port(port(n, host));
        let receivers: Vec<PortId> = match self.forwarder.forward(&self.tables, &frame, ingress, now) {
            Verdict::Port(to) => {
                self.counts.unicast += 1;
                vec![to]
            }
            Verdict::Flood => {
                self.counts.flooded += 1;
                flood::targets(&self.tables, ingress).collect()
            }
            Verdict::Gateway => {
                self.counts.gateway += 1;
                let (_, network) = self.tables.port(port(n, host)).unwrap();
                let mut reply = [0; 2000];
                let length =
                    gateway::answer(network, &frame, &mut reply).expect("nobody asks it anything else");
                self.hosts[n][host].wire.given.push_back(reply[..length].to_vec());
                vec![]
            }
            Verdict::Tunnel(_) | Verdict::Neighbor(_) => panic!("there is no overlay"),
            // Both networks are complete, so nothing else may go missing.
            Verdict::Drop(reason) => panic!("{} from host {host}", reason.name()),
        };
        for to in receivers {
            let (network, host) = (to.0 as usize / 1000, to.0 as usize % 1000);
            assert_eq!(network, n, "out of the network");
            self.hosts[network][host].wire.given.push_back(raw.to_vec());
        }
    }

    fn run(&mut self) {
        for ms in 0..MS_MAX {
            let now = smoltcp::time::Instant::from_millis(ms);
            for (n, &size) in self.sizes.iter().enumerate() {
                for host in 0..size {
                    self.hosts[n][host].poll(host, (host + size - 1) % size, now);
                }
            }
            self.forward(self.t0 + Duration::from_millis(ms.into()));
            if self.hosts.iter().flatten().all(Host::is_done) {
                return;
            }
        }
        let waiting = self.hosts.iter().flatten().filter(|host| !host.is_done()).count();
        panic!("{waiting} hosts are not done after {MS_MAX} ms");
    }
}

#[test]
fn two_hundred_hosts_ping_and_run_tcp_beside_another_network() {
    let mut world = World::new(&[200, 8]);
    world.run();
    for (n, &size) in world.sizes.iter().enumerate() {
        for host in 0..size {
            let mut answered = world.hosts[n][host].answered.clone();
            answered.sort_unstable();
            let next = (host + 1) % size;
            let mut expected: [IpAddress; 4] =
                [ipv4(next).into(), ipv6(next).into(), GATEWAY_IPV4.into(), GATEWAY_IPV6.into()];
            expected.sort_unstable();
            assert_eq!(answered, expected);
        }
    }
    let counts = &world.counts;
    // ARP and neighbour discovery of a peer and of the gateway, and two pings to the gateway, from each host.
    assert!(counts.gateway >= 208 * 4, "{} for the gateway", counts.gateway);
    assert!(counts.flooded >= 208 * 2, "{} flooded", counts.flooded);
    assert!(counts.unicast >= 208 * TCP_BYTES / MTU, "{} to one port", counts.unicast);
    // Questions for the gateway are not among the flooded.
    assert!(counts.flooded < 208 * 4, "{} flooded", counts.flooded);
}

#[test]
fn a_host_that_leaves_is_not_sent_to() {
    let mut world = World::new(&[3, 2]);
    world.run();
    let vni = Vni::new(1).unwrap();
    world.tables.ports.remove(&port(0, 2));
    let network = Arc::make_mut(world.tables.networks.get_mut(&vni).unwrap());
    network.ports.pop();
    network.endpoints.clear();

    let (to, from) = (MacAddr::from_ipv4(ipv4(2)), MacAddr::from_ipv4(ipv4(0)));
    let raw = [&[0; 12][..], &to.0, &from.0, &[8, 0], &[0; 46]].concat();
    let frame = Frame::parse(&raw).unwrap();
    let ingress = Ingress::Port(port(0, 0));
    let now = world.t0 + Duration::from_millis(MS_MAX.into());
    assert_eq!(world.forwarder.forward(&world.tables, &frame, ingress, now), Verdict::Flood);
    assert_eq!(flood::targets(&world.tables, ingress).collect::<Vec<_>>(), [port(0, 1)]);
    let gone = world.forwarder.forward(&world.tables, &frame, Ingress::Port(port(0, 2)), now);
    assert_eq!(gone, Verdict::Drop(DropReason::UnknownPort));
}
