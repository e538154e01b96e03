//! A container at full power: one kind of traffic that costs a switch more than it costs the sender, without a pause,
//! until it is told to stop.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::sockopt::{TcpMaxSeg, UdpGsoSegment};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket};
use vswitch_proto::id::MacAddr;
use vswitch_proto::wire::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};

use crate::Lab;
use crate::netns::inside;
use crate::packet::{self, ETHERTYPE, Packet};

/// TCP that is taken from the attacker in pieces of this many bytes.
const TAKEN_BYTES: usize = 1 << 16;

/// A wait for whoever attacks too fast for its own kernel.
const PAUSE: Duration = Duration::from_micros(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// No attack: a TCP socket that sends as much as it can, to compare with.
    Tcp,
    /// A packet socket with PACKET_VNET_HDR: 60 kB of TCP in segments of one byte, which no stack makes.
    Segments,
    /// A UDP socket with UDP_SEGMENT = 1.
    SegmentedUdp,
    /// A TCP socket with the smallest segments that it takes.
    SmallTcp,
    /// Small datagrams to one receiver.
    Datagrams,
    Broadcast,
    Multicast,
    UnknownUnicast,
    /// Questions for names to the gateway.
    Names,
    /// Questions for the gateway's IPv4 address.
    Arp,
    /// Questions for the gateway's IPv6 address.
    NeighborDiscovery,
}

impl Attack {
    /// The attacks.
    pub const ALL: [Attack; 10] = [
        Attack::Segments,
        Attack::SegmentedUdp,
        Attack::SmallTcp,
        Attack::Datagrams,
        Attack::Broadcast,
        Attack::Multicast,
        Attack::UnknownUnicast,
        Attack::Names,
        Attack::Arp,
        Attack::NeighborDiscovery,
    ];
}

/// Who attacks, and whom.
#[derive(Debug, Clone)]
pub struct Parties {
    pub mac: MacAddr,
    pub ip: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    pub peer_mac: MacAddr,
    pub peer_ip: Ipv4Addr,
    pub gateway: Ipv4Addr,
    pub gateway_v6: Ipv6Addr,
}

/// A container on some host, and the network that it is in.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub lab: &'a Lab,
    pub name: &'static str,
    pub network: &'static str,
}

impl<'a> Place<'a> {
    /// Starts the container.
    pub fn run(lab: &'a Lab, name: &'static str, network: &'static str) -> Place<'a> {
        lab.run_idle(name, &["--net", network]);
        Place { lab, name, network }
    }

    pub fn ip(self) -> Ipv4Addr {
        self.lab.address(self.name, self.network).parse().expect("it is an address")
    }

    /// Its network namespace, as the outside sees it.
    pub fn netns(self) -> PathBuf {
        self.lab.netns(self.name)
    }
}

impl Parties {
    /// Both in networks with IPv6.
    pub fn of(from: Place<'_>, to: Place<'_>) -> Parties {
        let endpoint = |place: Place<'_>| {
            let settings = place.lab.inspect(place.name).network_settings.networks.remove(place.network);
            settings.expect("it is in the network")
        };
        let (own, peer) = (endpoint(from), endpoint(to));
        Parties {
            mac: own.mac_address.parse().expect("a MAC address"),
            ip: own.ip_address.parse().expect("an IPv4 address"),
            ipv6: own.global_ipv6_address.parse().expect("an IPv6 address"),
            peer_mac: peer.mac_address.parse().expect("a MAC address"),
            peer_ip: peer.ip_address.parse().expect("an IPv4 address"),
            gateway: own.gateway.parse().expect("an IPv4 address"),
            gateway_v6: own.ipv6_gateway.parse().expect("an IPv6 address"),
        }
    }
}

/// An attack that goes on.
pub struct Attacker {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Attacker {
    /// From `eth0` of one namespace to that of the other one.
    pub fn start(attack: Attack, parties: &Parties, from: &Path, to: &Path) -> Attacker {
        let stop = Arc::new(AtomicBool::new(false));
        let mut attacker = Attacker { stop: Arc::clone(&stop), threads: Vec::new() };
        match attack {
            Attack::SegmentedUdp | Attack::Datagrams | Attack::Names => {
                let (socket, payload) = datagrams(attack, parties, from);
                attacker.repeat(move || socket.send(&payload).is_ok());
            }
            Attack::Tcp | Attack::SmallTcp => {
                let listener = inside(to, || TcpListener::bind((parties.peer_ip, 0)).expect("a free port"));
                let server = listener.local_addr().expect("it is bound");
                let mut sender = inside(from, || stream(server, attack == Attack::SmallTcp));
                let (mut receiver, _) = listener.accept().expect("the connection is there");
                let mut buffer = vec![0; TAKEN_BYTES];
                attacker.repeat(move || receiver.read(&mut buffer).is_ok_and(|bytes| bytes > 0));
                attacker.repeat(move || sender.write(&[7; TAKEN_BYTES]).is_ok());
            }
            _ => {
                let socket = Packet::open(from, "eth0");
                if attack == Attack::Segments {
                    socket.expect_vnet_headers();
                }
                let frame = frame(attack, parties);
                attacker.repeat(move || {
                    // Nobody takes what it receives.
                    socket.send(&frame).is_ok()
                });
            }
        }
        attacker
    }

    fn repeat(&mut self, mut send: impl FnMut() -> bool + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if !send() {
                    thread::sleep(PAUSE);
                }
            }
        }));
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A socket and what it sends again and again.
fn datagrams(attack: Attack, parties: &Parties, from: &Path) -> (UdpSocket, Vec<u8>) {
    let socket = inside(from, || UdpSocket::bind((parties.ip, 0)).expect("a free port"));
    let (to, payload) = match attack {
        Attack::Names => (SocketAddr::from((parties.gateway, 53)), question("c1")),
        Attack::SegmentedUdp => {
            setsockopt(&socket, UdpGsoSegment, &1).expect("the kernel has UDP_SEGMENT");
            // As many segments as every kernel takes.
            (SocketAddr::from((parties.peer_ip, 9)), vec![7; 64])
        }
        _ => (SocketAddr::from((parties.peer_ip, 9)), vec![7; 18]),
    };
    socket.connect(to).expect("there is a route");
    socket.set_write_timeout(Some(Duration::from_secs(1))).expect("it is not zero");
    (socket, payload)
}

/// A question for an A record (RFC 1035 section 4).
fn question(name: &str) -> Vec<u8> {
    let label = [&[name.len() as u8], name.as_bytes(), &[0]].concat();
    [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &label, &[0, 1, 0, 1]].concat()
}

fn stream(server: SocketAddr, is_small: bool) -> TcpStream {
    let IpAddr::V4(ip) = server.ip() else { panic!("{server} is IPv4") };
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    if is_small {
        // TCP_MIN_MSS (include/net/tcp.h).
        setsockopt(&fd, TcpMaxSeg, &88).expect("it is the smallest one allowed");
    }
    let to = SockaddrIn::from(SocketAddrV4::new(ip, server.port()));
    connect(fd.as_raw_fd(), &to).expect("somebody listens");
    let stream = TcpStream::from(fd);
    stream.set_write_timeout(Some(Duration::from_secs(1))).expect("it is not zero");
    stream
}

fn frame(attack: Attack, parties: &Parties) -> Vec<u8> {
    let raw =
        |destination, ethertype, payload: &[u8]| packet::frame(destination, parties.mac, ethertype, payload);
    match attack {
        Attack::Segments => segments(parties),
        Attack::Broadcast => raw(MacAddr::BROADCAST, ETHERTYPE, b"to everybody"),
        Attack::Multicast => raw(MacAddr([1, 0, 0x5e, 1, 2, 3]), ETHERTYPE, b"to a group"),
        Attack::UnknownUnicast => raw(MacAddr([2, 9, 9, 9, 9, 9]), ETHERTYPE, b"to nobody"),
        Attack::Arp => {
            let sender = [&parties.mac.0[..], &parties.ip.octets(), &[0; 6]].concat();
            let question = [&[0, 1, 8, 0, 6, 4, 0, 1], &sender[..], &parties.gateway.octets()].concat();
            raw(MacAddr::BROADCAST, ETHERTYPE_ARP, &question)
        }
        Attack::NeighborDiscovery => solicitation(parties),
        other => panic!("{other:?} has sockets of its own"),
    }
}

/// RFC 4861 section 4.3, to the solicited-node address of the gateway.
fn solicitation(parties: &Parties) -> Vec<u8> {
    let target = parties.gateway_v6.octets();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, target[13], target[14], target[15]];
    let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0], &target[..], &[1, 1], &parties.mac.0].concat();
    let addresses = [&parties.ipv6.octets()[..], &group].concat();
    let pseudo = [&addresses[..], &[0, 0, 0, message.len() as u8, 0, 0, 0, 58], &message].concat();
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, message.len() as u8, 58, 255];
    let destination = MacAddr([0x33, 0x33, 0xff, target[13], target[14], target[15]]);
    packet::frame(destination, parties.mac, ETHERTYPE_IPV6, &[&header[..], &addresses, &message].concat())
}

/// A frame of TCP behind a virtio-net header.
fn segments(parties: &Parties) -> Vec<u8> {
    const PAYLOAD_BYTES: usize = 60_000;
    const TCP_BYTES: usize = 20;
    let length = (20 + TCP_BYTES + PAYLOAD_BYTES) as u16;
    let [high, low] = length.to_be_bytes();
    let mut ip = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0];
    ip.extend([parties.ip.octets(), parties.peer_ip.octets()].concat());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let tcp = [0x9c, 0x40, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
    let payload = [&ip[..], &tcp, &[7; PAYLOAD_BYTES]].concat();
    // VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4; header, segment, checksum's start and place. The header of
    // packet sockets has ten bytes.
    let vnet = [1, 1, 54, 0, 1, 0, 34, 0, 16, 0];
    [&vnet[..], &packet::frame(parties.peer_mac, parties.mac, ETHERTYPE_IPV4, &payload)].concat()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    !((folded + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_it_is_called() {
        let parties = Parties {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ip: Ipv4Addr::new(10, 0, 0, 1),
            ipv6: "fd00::1".parse().unwrap(),
            peer_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            peer_ip: Ipv4Addr::new(10, 0, 0, 2),
            gateway: Ipv4Addr::new(10, 0, 0, 254),
            gateway_v6: "fd00::ff".parse().unwrap(),
        };
        let slice = |frame: &[u8]| etherparse::SlicedPacket::from_ethernet(frame).is_ok();
        assert!(slice(&frame(Attack::Segments, &parties)[10..]));
        let solicitation = frame(Attack::NeighborDiscovery, &parties);
        assert!(slice(&solicitation));
        let pseudo = [&solicitation[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &solicitation[54..86]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }
}
