//! Real traffic between containers: TCP and UDP, with and without offloads, while ports come and go.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use anyhow::ensure;
use vswitch_proto::api::Stats;
use vswitch_tests::engines::engines;
use vswitch_tests::netns::inside;
use vswitch_tests::wait::{DEADLINE, eventually};
use vswitch_tests::{Host, Lab};

/// One TCP transfer, bytes.
const TRANSFER: usize = 50 << 20;

/// What a segment of TCP carries over Ethernet without offloads, bytes.
const SEGMENT: usize = 1448;

/// Containers a and b in a network with IPv4 and IPv6.
fn two_containers(arguments: &[&str]) -> Lab {
    let lab = Lab::with(Host::new(), arguments);
    lab.ok(&["network", "create", "--ipv6", "--subnet=10.3.0.0/24", "--subnet=fd00:3::/64", "net"]);
    lab.run_idle("a", &["--net=net"]);
    lab.run_idle("b", &["--net=net"]);
    lab
}

/// A container's address of either version, with a port.
fn address(lab: &Lab, container: &str, v6: bool, port: u16) -> SocketAddr {
    let settings =
        lab.inspect(container).network_settings.networks.remove("net").expect("it is in the network");
    let text = if v6 { settings.global_ipv6_address } else { settings.ip_address };
    SocketAddr::new(text.parse::<IpAddr>().expect("it is an address"), port)
}

/// Makes a socket in a container. An IPv6 address may be tentative at first (RFC 4862 section 5.4).
fn made<T: Send>(lab: &Lab, container: &str, make: impl Fn() -> std::io::Result<T> + Sync) -> T {
    let netns = lab.netns(container);
    eventually(&format!("a socket in {container}"), || Ok(inside(&netns, &make)?))
}

/// A stream of bytes that does not repeat, so that anything lost, doubled or exchanged shows.
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chunk.copy_from_slice(&(self.0 ^ self.0 >> 29).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Sends `bytes` from one container to another one over TCP and checks each of them.
fn transfer(lab: &Lab, from: &str, to: &str, v6: bool, bytes: usize) {
    transfer_to(lab, from, to, address(lab, to, v6, 0), bytes);
}

/// The same to an address that the other container has.
fn transfer_to(lab: &Lab, from: &str, to: &str, listening: SocketAddr, bytes: usize) {
    let listener = made(lab, to, || TcpListener::bind(listening));
    let target = listener.local_addr().expect("it is bound");
    let mut sender = made(lab, from, || TcpStream::connect(target));
    let (mut receiver, _) = listener.accept().expect("a client has connected");
    receiver.set_read_timeout(Some(DEADLINE)).expect("it can be set");
    sender.set_write_timeout(Some(DEADLINE)).expect("it can be set");
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut pattern, mut buffer) = (Pattern(7), vec![0; 1 << 16]);
            for _ in 0..bytes / buffer.len() {
                pattern.fill(&mut buffer);
                sender.write_all(&buffer).expect("the other side takes it");
            }
        });
        let (mut pattern, mut buffer, mut expected) = (Pattern(7), vec![0; 1 << 16], vec![0; 1 << 16]);
        for block in 0..bytes / buffer.len() {
            receiver.read_exact(&mut buffer).unwrap_or_else(|e| panic!("block {block}: {e}"));
            pattern.fill(&mut expected);
            assert!(buffer == expected, "block {block} is not what was sent");
        }
        assert_eq!(receiver.read(&mut buffer).expect("the end follows"), 0);
    });
}

fn stats(lab: &Lab) -> Stats {
    lab.http("GET", "/v1/stats", "").parsed()
}

/// Transfers in both directions and versions; returns how many frames the switch received for one of IPv4.
fn transfers(lab: &Lab) -> u64 {
    let before = stats(lab).rx_frames;
    transfer(lab, "a", "b", false, TRANSFER);
    let frames = stats(lab).rx_frames - before;
    transfer(lab, "b", "a", true, TRANSFER);
    frames
}

#[test]
fn tcp_with_segmentation_offload() {
    for workers in ["1", "2"] {
        let lab = two_containers(&["--workers", workers]);
        assert_eq!(stats(&lab).workers.to_string(), workers);
        let frames = transfers(&lab);
        // Acknowledgements included: a frame of up to 64 KB is read at once.
        assert!(frames < (TRANSFER / SEGMENT / 4) as u64, "{frames} frames");
    }
}

#[test]
fn tcp_without_offloads() {
    let lab = two_containers(&["--workers", "2", "--no-tso", "--no-uso"]);
    let frames = transfers(&lab);
    assert!(frames >= (TRANSFER / SEGMENT) as u64, "{frames} frames");
}

#[test]
fn each_engine_moves_traffic() {
    for engine in engines() {
        let engine = engine.to_string();
        let lab = two_containers(&["--workers", "2", "--engine", &engine]);
        transfers(&lab);
        echo(&lab, false, (1..=1472).step_by(61));
        assert_eq!(stats(&lab).engine, engine);
    }
}

/// A VXLAN of the containers' own kernels.
#[test]
fn tunnels_between_containers_stay_intact() {
    let lab = two_containers(&["--workers", "2"]);
    for (container, other, nested) in [("a", "b", "10.77.0.1/24"), ("b", "a", "10.77.0.2/24")] {
        let (local, remote) = (address(&lab, container, false, 0).ip(), address(&lab, other, false, 0).ip());
        let tunnel =
            format!("link add nest type vxlan id 77 local {local} remote {remote} dstport 4789 dev eth0");
        for arguments in [tunnel.as_str(), &format!("address add {nested} dev nest"), "link set nest up"] {
            let run = || Command::new("ip").args(arguments.split(' ')).output();
            let output = made(&lab, container, run);
            assert!(output.status.success(), "ip {arguments}: {output:?}");
        }
    }
    for (from, to, nested) in [("a", "b", "10.77.0.2:0"), ("b", "a", "10.77.0.1:0")] {
        transfer_to(&lab, from, to, nested.parse().expect("it is an address"), TRANSFER / 4);
    }
}

/// In `make soak`, bytes.
const LONG_TRANSFER: usize = 200 << 20;

#[test]
#[ignore = "minutes: make soak"]
fn soak_one_host() {
    for engine in engines() {
        let engine = engine.to_string();
        let lab = two_containers(&["--workers", "2", "--engine", &engine]);
        for v6 in [false, true] {
            transfer(&lab, "a", "b", v6, LONG_TRANSFER);
            transfer(&lab, "b", "a", v6, LONG_TRANSFER);
            echo(&lab, v6, 0..=65_507);
        }
        assert_eq!(stats(&lab).engine, engine);
    }
}

#[test]
fn several_streams_at_once() {
    let lab = two_containers(&["--workers", "2"]);
    lab.run_idle("c", &["--net=net"]);
    thread::scope(|scope| {
        for (from, to, v6) in
            [("a", "b", false), ("b", "a", true), ("b", "c", false), ("c", "a", true), ("a", "c", true)]
        {
            let lab = &lab;
            scope.spawn(move || transfer(lab, from, to, v6, TRANSFER / 4));
        }
    });
}

#[test]
fn transfers_while_ports_come_and_go() {
    let lab = two_containers(&["--workers", "2"]);
    let (done, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                lab.run_idle("guest", &["--net=net"]);
                lab.ok(&["network", "connect", "bridge", "guest"]);
                lab.ok(&["network", "disconnect", "net", "guest"]);
                lab.ok(&["rm", "-f", "guest"]);
                changes.fetch_add(1, Ordering::Relaxed);
            }
        });
        while changes.load(Ordering::Relaxed) < 3 {
            transfer(&lab, "a", "b", false, TRANSFER / 2);
        }
        done.store(true, Ordering::Relaxed);
    });
    transfer(&lab, "b", "a", false, TRANSFER / 10);
}

/// Sends datagrams of these sizes from a to b and back, and checks each of them.
fn echo(lab: &Lab, v6: bool, sizes: impl Iterator<Item = usize>) {
    let server = made(lab, "b", || UdpSocket::bind(address(lab, "b", v6, 0)));
    let client = made(lab, "a", || UdpSocket::bind(address(lab, "a", v6, 0)));
    let target = server.local_addr().expect("it is bound");
    let (mut pattern, mut data, mut buffer) = (Pattern(3), vec![0; 65_535], vec![0; 65_535]);
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(DEADLINE)).expect("it can be set");
    }
    for size in sizes {
        pattern.fill(&mut data[..size]);
        client.send_to(&data[..size], target).unwrap_or_else(|e| panic!("{size}: {e}"));
        let (bytes, from) = server.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{size} is lost: {e}"));
        assert!(buffer[..bytes] == data[..size], "{size} has changed");
        server.send_to(&buffer[..bytes], from).unwrap_or_else(|e| panic!("{size}: {e}"));
        let bytes =
            client.recv(&mut buffer).unwrap_or_else(|e| panic!("{size} is lost on its way back: {e}"));
        assert!(buffer[..bytes] == data[..size], "{size} has changed on its way back");
    }
}

#[test]
fn udp_of_every_size() {
    for arguments in [&["--workers", "2"][..], &["--no-tso", "--no-uso"]] {
        let lab = two_containers(arguments);
        echo(&lab, false, 0..=1472);
        echo(&lab, true, 0..=1452);
        // Fragmented by the sender (RFC 791 section 3.2, RFC 8200 section 4.5).
        for v6 in [false, true] {
            echo(&lab, v6, [1473, 2000, 8192, 30_000, 65_000, if v6 { 65_527 } else { 65_507 }].into_iter());
        }
    }
}

#[test]
fn sixty_adopted_namespaces_on_one_network() {
    let lab = Lab::with(Host::new(), &["--workers", "2"]);
    lab.ok(&["network", "create", "--subnet=10.3.0.0/24", "net"]);
    lab.sh("for i in $(seq 60); do ip netns add n$i; done");
    for i in 1..=60 {
        lab.ok(&["adopt", "--netns", &format!("/run/netns/n{i}"), "--name", &format!("n{i}"), "--net=net"]);
    }
    assert_eq!(lab.inspect_network("net").containers.len(), 60);
    assert_eq!(stats(&lab).ports, 60);
    // n1 has 10.3.0.2.
    lab.sh("for i in $(seq 3 61); do ip netns exec n1 busybox ping -q -c 1 -W 10 10.3.0.$i >/dev/null; done");
    lab.sh(
        "for i in $(seq 2 60); do ip netns exec n60 busybox ping -q -c 1 -W 10 10.3.0.$i >/dev/null; done",
    );
    let names: Vec<_> = (1..=60).map(|i| format!("n{i}")).collect();
    lab.ok(&[vec!["rm", "-f"], names.iter().map(String::as_str).collect()].concat());
    eventually("no port is left", || {
        ensure!(stats(&lab).ports == 0);
        Ok(())
    });
    let links = lab.sh("for i in $(seq 60); do ip -n n$i -o link; done");
    assert!(!links.contains("eth0"), "{links}");
}
