//! Every offload can be turned off by itself, through the daemon, or be lacking in the kernel, and what remains goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use vswitch_proto::api::{Stats, TunnelStats};
use vswitch_tests::netns::inside;
use vswitch_tests::wait::{DEADLINE, eventually};
use vswitch_tests::{Cluster, Host, Lab};

/// One transfer, bytes.
const TRANSFER: usize = 16 << 20;

/// What a segment of TCP carries over Ethernet without offloads, bytes.
const SEGMENT: usize = 1448;

/// A container and the machine that it is on.
type End<'a> = (&'a Lab, &'a str);

fn address((lab, container): End<'_>) -> SocketAddr {
    let settings = lab.inspect(container).network_settings.networks.remove("net");
    let text = settings.expect("it is in the network").ip_address;
    SocketAddr::new(text.parse().expect("it is an address"), 0)
}

fn made<T: Send>((lab, container): End<'_>, make: impl Fn() -> std::io::Result<T> + Sync) -> T {
    let netns = lab.netns(container);
    eventually(&format!("a socket in {container}"), || Ok(inside(&netns, &make)?))
}

/// Bytes that tell their place.
fn block(number: usize) -> Vec<u8> {
    (0..1 << 16).map(|at| (at * 13 + number * 251 + at / 256) as u8).collect()
}

/// Over TCP; every byte is compared.
fn transfer(from: End<'_>, to: End<'_>) {
    let listening = address(to);
    let listener = made(to, || TcpListener::bind(listening));
    let target = listener.local_addr().expect("it is bound");
    let mut sender = made(from, || TcpStream::connect(target));
    let (mut receiver, _) = listener.accept().expect("a client has connected");
    receiver.set_read_timeout(Some(DEADLINE)).expect("it can be set");
    sender.set_write_timeout(Some(DEADLINE)).expect("it can be set");
    let blocks = TRANSFER >> 16;
    thread::scope(|scope| {
        scope.spawn(move || {
            (0..blocks).for_each(|n| sender.write_all(&block(n)).expect("the other side takes it"));
        });
        let mut buffer = vec![0; 1 << 16];
        for n in 0..blocks {
            receiver.read_exact(&mut buffer).unwrap_or_else(|e| panic!("block {n}: {e}"));
            assert!(buffer == block(n), "block {n} is not what was sent");
        }
        assert_eq!(receiver.read(&mut buffer).expect("the end follows"), 0);
    });
}

fn stats(lab: &Lab) -> Stats {
    lab.http("GET", "/v1/stats", "").parsed()
}

/// What both hosts of a cluster count of their tunnels after transfers in both directions.
fn tunnels_after_transfers(arguments: &[&str]) -> [TunnelStats; 2] {
    tunnels_of(&Cluster::with(2, arguments))
}

/// The same where the kernels of both hosts lack something, of which the daemons tell.
fn tunnels_without(missing: &str) -> [TunnelStats; 2] {
    let cluster = Cluster::on_kernels_without(missing, 2, &[]);
    let tunnels = tunnels_of(&cluster);
    for lab in &cluster.labs {
        for option in ["udp_segment", "udp_gro"] {
            let log = lab.log();
            assert_eq!(log.contains(&option.to_uppercase()), missing.contains(option), "{option}: {log}");
        }
    }
    tunnels
}

fn tunnels_of(cluster: &Cluster) -> [TunnelStats; 2] {
    cluster.join_all();
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "--subnet=10.9.0.0/24", "net"]);
    one.run_idle("a", &["--net=net"]);
    two.run_idle("b", &["--net=net"]);
    one.assert_reaches("a", &address((two, "b")).ip().to_string());
    transfer((one, "a"), (two, "b"));
    transfer((two, "b"), (one, "a"));
    [one, two].map(|lab| stats(lab).tunnel)
}

#[test]
fn all_offloads_of_tunnels_are_on_by_default() {
    for tunnel in tunnels_after_transfers(&[]) {
        assert!(tunnel.segmented_sends > 0 && tunnel.coalesced_frames > 0, "{tunnel:?}");
    }
}

#[test]
fn without_udp_gso() {
    for tunnel in tunnels_after_transfers(&["--no-udp-gso"]) {
        assert_eq!((tunnel.segmented_sends, tunnel.refused_sends), (0, 0), "{tunnel:?}");
        assert!(tunnel.coalesced_frames > 0, "{tunnel:?}");
    }
}

#[test]
fn without_udp_gro() {
    for tunnel in tunnels_after_transfers(&["--no-udp-gro"]) {
        assert!(tunnel.segmented_sends > 0 && tunnel.coalesced_frames == 0, "{tunnel:?}");
    }
}

#[test]
fn without_coalescing() {
    for tunnel in tunnels_after_transfers(&["--no-coalesce"]) {
        assert!(tunnel.segmented_sends > 0 && tunnel.coalesced_frames == 0, "{tunnel:?}");
    }
}

#[test]
fn kernels_without_segmentation_of_datagrams() {
    for tunnel in tunnels_without("udp_segment") {
        assert_eq!((tunnel.segmented_sends, tunnel.refused_sends), (0, 0), "{tunnel:?}");
        assert!(tunnel.coalesced_frames > 0, "{tunnel:?}");
    }
}

#[test]
fn kernels_that_do_not_put_datagrams_together() {
    for tunnel in tunnels_without("udp_gro") {
        assert!(tunnel.segmented_sends > 0 && tunnel.rx_datagrams > 0, "{tunnel:?}");
    }
}

#[test]
fn kernels_with_neither_and_without_offload_of_udp() {
    for tunnel in tunnels_without("udp_segment,udp_gro,uso") {
        assert_eq!((tunnel.segmented_sends, tunnel.refused_sends), (0, 0), "{tunnel:?}");
        assert!(tunnel.tx_datagrams > 0 && tunnel.rx_datagrams > 0, "{tunnel:?}");
    }
}

/// What a container's interface takes longer than a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TakesWhole {
    tcp: bool,
    udp: bool,
}

/// Containers a and b on one host, between which both protocols arrive. How few frames that takes is told by what the
/// kernel says that their interfaces take.
fn check_interfaces(missing: &str, arguments: &[&str]) -> TakesWhole {
    let lab = Lab::on_kernel_without(missing, Host::new(), arguments);
    lab.ok(&["network", "create", "--subnet=10.3.0.0/24", "net"]);
    lab.run_idle("a", &["--net=net"]);
    lab.run_idle("b", &["--net=net"]);
    let (a, b) = ((&lab, "a"), (&lab, "b"));
    let features = lab.exec_ok("a", &["ethtool", "-k", "eth0"]);
    let is_on = |feature: &str| features.contains(&format!("{feature}: on"));
    let whole = TakesWhole { tcp: is_on("tx-tcp-segmentation"), udp: is_on("tx-udp-segmentation") };
    let before = stats(&lab).rx_frames;
    transfer(a, b);
    let frames = stats(&lab).rx_frames - before;
    let segments = (TRANSFER / SEGMENT) as u64;
    // Acknowledgements included.
    assert!(if whole.tcp { frames < segments / 2 } else { frames >= segments }, "{whole:?}: {frames} frames");
    let frames = frames_of_segments(a, b);
    assert!(
        if whole.udp { frames < DATAGRAMS as u64 } else { frames >= DATAGRAMS as u64 },
        "{frames} frames"
    );
    whole
}

/// Sent at once.
const DATAGRAMS: usize = 40;
const DATAGRAM_BYTES: usize = 1000;

/// How many frames the switch reads while datagrams that are sent at once arrive.
fn frames_of_segments(from: End<'_>, to: End<'_>) -> u64 {
    let addresses = [address(from), address(to)];
    let sender = made(from, || UdpSocket::bind(addresses[0]));
    let receiver = made(to, || UdpSocket::bind(addresses[1]));
    receiver.set_read_timeout(Some(DEADLINE)).expect("it can be set");
    let target = receiver.local_addr().expect("it is bound");
    setsockopt(&sender, UdpGsoSegment, &(DATAGRAM_BYTES as i32)).expect("the kernel has UDP_SEGMENT");
    let payload: Vec<u8> = (0..DATAGRAMS * DATAGRAM_BYTES).map(|at| (at * 7 + at / 256) as u8).collect();
    let mut buffer = [0; 2 * DATAGRAM_BYTES];
    let before = stats(from.0).rx_frames;
    sender.send_to(&payload, target).expect("its kernel takes it");
    for (n, expected) in payload.chunks(DATAGRAM_BYTES).enumerate() {
        let bytes = receiver.recv(&mut buffer).unwrap_or_else(|e| panic!("datagram {n}: {e}"));
        assert!(buffer[..bytes] == *expected, "datagram {n} is not what was sent");
    }
    stats(from.0).rx_frames - before
}

#[test]
fn segmentation_of_tcp_and_udp_apart() {
    let all = check_interfaces("", &[]);
    assert!(all.tcp, "{all:?}");
    assert_eq!(check_interfaces("", &["--no-tso"]), TakesWhole { tcp: false, ..all });
    assert_eq!(check_interfaces("", &["--no-uso"]), TakesWhole { udp: false, ..all });
    assert_eq!(check_interfaces("uso", &[]), TakesWhole { udp: false, ..all });
}
