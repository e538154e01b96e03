//! Real sockets, two hosts joined by a cable.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::io::netns::NetNs;
use crate::io::test_netns;

const DEADLINE: Duration = Duration::from_secs(30);

fn config(vtep: &str) -> UnderlayConfig {
    UnderlayConfig {
        vtep: vtep.parse().unwrap(),
        port: 4789,
        sockets: UnderlayConfig::SOCKETS,
        receivers: NonZeroUsize::MIN,
        gso: true,
        gro: true,
    }
}

fn ip(ns: &NetNs, arguments: &str) {
    let command = || Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let output = ns.run(command).unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Hosts 10.9.0.1 and 10.9.0.2, fd09::1 and fd09::2.
fn two_hosts() -> [NetNs; 2] {
    let hosts = [test_netns(), test_netns()];
    let other = format!("/proc/{}/fd/{}", std::process::id(), hosts[1].as_fd().as_raw_fd());
    ip(&hosts[0], &format!("link add u0 type veth peer name u0 netns {other}"));
    for (n, host) in hosts.iter().enumerate() {
        ip(host, &format!("address add 10.9.0.{}/24 dev u0", n + 1));
        ip(host, &format!("address add fd09::{}/64 dev u0 nodad", n + 1));
        ip(host, "link set u0 up");
        ip(host, "link set lo up");
    }
    hosts
}

fn open(host: &NetNs, config: UnderlayConfig) -> Underlay {
    host.run(|| Underlay::open(config).unwrap()).unwrap()
}

/// Who sent each, and what.
fn datagrams(batch: &Batch) -> Vec<(IpAddr, Vec<u8>)> {
    let of = |message: Message| {
        let source = message.source;
        message.datagrams().map(move |range| (source, batch.buffer()[range].to_vec()))
    };
    batch.messages().flat_map(of).collect()
}

/// What arrives until there are `count` datagrams.
fn arrivals(underlay: &Underlay, count: usize) -> Vec<(IpAddr, Vec<u8>)> {
    let (mut batch, mut arrived, begin) = (Batch::default(), vec![], Instant::now());
    while arrived.len() < count {
        assert!(begin.elapsed() < DEADLINE, "{} of {count} datagrams arrived", arrived.len());
        for receiver in underlay.receivers() {
            match receiver.receive(&mut batch, BATCH_MESSAGES) {
                Ok(()) => arrived.extend(datagrams(&batch)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(e) => panic!("{e}"),
            }
        }
    }
    arrived
}

/// Pairs of a header and a payload, the last payload shorter.
fn payloads(count: u8, bytes: usize) -> Vec<[Vec<u8>; 2]> {
    let length = |n| if n + 1 == count { bytes / 2 } else { bytes };
    (0..count).map(|n| [vec![n; 50], vec![!n; length(n)]]).collect()
}

fn send(from: &Underlay, flow: u32, to: &str, pairs: &[[Vec<u8>; 2]]) -> Sent {
    let slices: Vec<IoSlice<'_>> = pairs.iter().flatten().map(|piece| IoSlice::new(piece)).collect();
    from.send(flow, to.parse().unwrap(), &Datagrams::pairs(&slices))
}

#[test]
fn datagrams_arrive_whole_with_and_without_offloads() {
    let hosts = two_hosts();
    for (a, b) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
        for (gso, gro) in [(true, true), (true, false), (false, true), (false, false)] {
            let sender = open(&hosts[0], UnderlayConfig { gso, ..config(a) });
            let receiver = open(&hosts[1], UnderlayConfig { gro, ..config(b) });
            assert_eq!((sender.has_gso(), receiver.has_gro()), (gso, gro), "on this kernel");
            let pairs = payloads(40, 1400);
            let sent = send(&sender, 7, b, &pairs);
            assert!(sent.datagrams == 40 && sent.error.is_none(), "{sent:?}");
            assert_eq!(sent.how, if gso { How::AtOnce } else { How::OneByOne });
            let expected: Vec<(IpAddr, Vec<u8>)> =
                pairs.iter().map(|pair| (a.parse().unwrap(), pair.concat())).collect();
            assert_eq!(arrivals(&receiver, 40), expected);
            let mut one = Batch::default();
            let empty = receiver.receivers()[0].receive(&mut one, BATCH_MESSAGES).unwrap_err();
            assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        }
    }
}

#[test]
fn each_flow_has_a_source_port_and_one_receiver() {
    let hosts = two_hosts();
    let sender = open(&hosts[0], config("10.9.0.1"));
    let plain = hosts[1].run(|| UdpSocket::bind("10.9.0.2:4789").unwrap()).unwrap();
    plain.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut port_of = |flow| {
        send(&sender, flow, "10.9.0.2", &payloads(1, 100));
        plain.recv_from(&mut [0; 200]).unwrap().1.port()
    };
    let mut ports: Vec<u16> = (0..64).map(&mut port_of).collect();
    assert!(ports.iter().all(|port| *port >= 49_152));
    assert_eq!(ports[..32], ports[32..], "a flow keeps its port");
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 32);

    drop(plain);
    let receiver =
        open(&hosts[1], UnderlayConfig { receivers: NonZeroUsize::new(4).unwrap(), ..config("10.9.0.2") });
    for flow in 0..32 {
        (0..3).for_each(|_| _ = send(&sender, flow, "10.9.0.2", &[[vec![flow as u8], vec![]]]));
    }
    let mut batch = Batch::default();
    let mut seen: Vec<Vec<u8>> = vec![];
    for receiver in receiver.receivers() {
        let mut own = vec![];
        while receiver.receive(&mut batch, BATCH_MESSAGES).is_ok() {
            own.extend(datagrams(&batch).into_iter().map(|(_, datagram)| datagram[0]));
        }
        seen.push(own);
    }
    for flow in 0..32 {
        let counts: Vec<usize> = seen.iter().map(|own| own.iter().filter(|&&n| n == flow).count()).collect();
        assert_eq!(counts.iter().max(), Some(&3), "flow {flow} is spread: {counts:?}");
    }
    assert!(seen.iter().filter(|own| !own.is_empty()).count() > 1, "one receiver got everything");
}

#[test]
fn what_is_too_long_for_the_path_is_refused_not_fragmented() {
    let hosts = two_hosts();
    for (a, b, fits) in [("10.9.0.1", "10.9.0.2", 1472), ("fd09::1", "fd09::2", 1452)] {
        let sender = open(&hosts[0], config(a));
        let receiver = open(&hosts[1], config(b));
        let one = |bytes: usize| send(&sender, 0, b, &[[vec![1; 50], vec![2; bytes - 50]]]);
        assert_eq!(one(fits).datagrams, 1);
        let too_long = one(fits + 1);
        assert_eq!(too_long.datagrams, 0);
        assert_eq!(too_long.error.unwrap().raw_os_error(), Some(libc::EMSGSIZE));
        // As segments, too; nothing is sent one by one that would be too long alone.
        let sent = send(&sender, 0, b, &payloads(3, fits + 1 - 50));
        assert!(sent.error.is_some());
        assert_eq!(arrivals(&receiver, 1)[0].1.len(), fits);
        assert_eq!(send(&sender, 0, b, &payloads(2, 100)).how, How::AtOnce, "it was not for the segments");
    }
}

#[test]
fn what_finds_no_room_is_counted() {
    let hosts = two_hosts();
    let sender = open(&hosts[0], config("10.9.0.1"));
    let receiver = open(&hosts[1], config("10.9.0.2"));
    assert_eq!(receiver.overflows(), 0);
    let (pairs, begin) = (payloads(40, 1400), Instant::now());
    while receiver.overflows() == 0 {
        assert!(begin.elapsed() < DEADLINE, "its buffer has no end");
        send(&sender, 0, "10.9.0.2", &pairs);
    }
}

#[test]
fn errors_are_answers() {
    let hosts = two_hosts();
    let sender = open(&hosts[0], config("10.9.0.1"));
    let unreachable = send(&sender, 0, "192.0.2.1", &payloads(3, 100));
    assert_eq!(unreachable.error.unwrap().raw_os_error(), Some(libc::ENETUNREACH));
    let other_family = send(&sender, 0, "fd09::2", &payloads(3, 100));
    assert!(other_family.datagrams == 0 && other_family.error.is_some());
}

#[test]
fn refused_segmentation_is_done_without_for_a_while() {
    let hosts = two_hosts();
    let sender = open(&hosts[0], config("10.9.0.1"));
    let receiver = open(&hosts[1], config("10.9.0.2"));
    ip(&hosts[1], "address add 10.9.0.3/24 dev u0");
    // More segments than any kernel takes at once, which is EINVAL.
    let many: Vec<[Vec<u8>; 2]> = (0..200).map(|_| [vec![1; 8], vec![2; 8]]).collect();
    let sent = send(&sender, 0, "10.9.0.2", &many);
    assert_eq!((sent.datagrams, sent.how), (200, How::Refused));
    let pairs = payloads(2, 100);
    for _ in 0..PAUSE_SENDS {
        assert_eq!(send(&sender, 0, "10.9.0.2", &pairs).how, How::OneByOne);
        arrivals(&receiver, 2);
        assert_eq!(send(&sender, 0, "10.9.0.3", &pairs).how, How::AtOnce, "another endpoint");
    }
    assert_eq!(send(&sender, 0, "10.9.0.2", &pairs).how, How::AtOnce);
}

#[test]
fn addresses_and_ports_that_cannot_be_had() {
    let hosts = two_hosts();
    let refused = |config| hosts[0].run(|| Underlay::open(config).unwrap_err()).unwrap();
    assert!(matches!(refused(config("10.9.0.77")), UnderlayError::NotOurs(_)));
    let first = open(&hosts[0], config("10.9.0.1"));
    assert!(matches!(refused(config("10.9.0.1")), UnderlayError::InUse { port: 4789, .. }));
    let too_many = UnderlayConfig { sockets: NonZeroUsize::new(65).unwrap(), ..config("10.9.0.1") };
    assert!(matches!(refused(too_many), UnderlayError::TooMany));
    // Another port is another underlay; its source ports are next to the others.
    let second = open(&hosts[0], UnderlayConfig { port: 4790, ..config("10.9.0.1") });
    drop((first, second));
    open(&hosts[0], config("10.9.0.1"));
}
