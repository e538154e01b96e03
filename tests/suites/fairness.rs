//! One container at full power costs itself: the others lose nothing, and the counters show who was held up.
//!
//! How much slower the others become is what `vswitch-perf fairness` prints. Here it is enough that every exchange of
//! theirs ends, however long the machine takes for it.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::ensure;
use vswitch_proto::api::{Port, PortCounters, Stats};
use vswitch_tests::attack::{Attack, Attacker, Parties, Place};
use vswitch_tests::client_attack::{ATTACK, ClientAttack, KINDS};
use vswitch_tests::netns::inside;
use vswitch_tests::wait::{DEADLINE, eventually};
use vswitch_tests::{Cluster, Lab};

/// Broadcast, unknown and multicast frames, and questions to the gateway: few, so that every machine sends more.
const STORM_LIMIT: &str = "--storm-limit=1000";

const ROUND_TRIPS: u32 = 200;
const TRANSFER_BYTES: usize = 4 << 20;

fn counters(place: Place<'_>) -> PortCounters {
    let ports: Vec<Port> = place.lab.http("GET", "/v1/ports", "").parsed();
    let found = ports.into_iter().find(|port| port.container.as_str() == place.name);
    found.expect("the container has a port").counters
}

/// Round trips, one at a time, and a transfer. Nothing may be lost.
fn exchange(from: Place<'_>, to: Place<'_>, meanwhile: impl Debug) {
    let bind = |place: Place<'_>| {
        let open = || UdpSocket::bind((place.ip(), 0)).expect("a free port");
        let socket = inside(&place.netns(), open);
        socket.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
        socket
    };
    let what = format!("{} to {} during {meanwhile:?}", from.name, to.name);
    let (client, server) = (bind(from), bind(to));
    client.connect(server.local_addr().expect("it is bound")).expect("there is a route");
    let answering = thread::spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..ROUND_TRIPS {
            let (bytes, asker) = server.recv_from(&mut buffer).expect("no question is lost");
            server.send_to(&buffer[..bytes], asker).expect("an answer can be sent");
        }
    });
    for number in 0..ROUND_TRIPS {
        client.send(&number.to_be_bytes()).expect("a question can be sent");
        let mut answer = [0; 64];
        let bytes = client.recv(&mut answer).unwrap_or_else(|e| panic!("{what}: {number} is lost: {e}"));
        assert_eq!(answer[..bytes], number.to_be_bytes(), "{what}");
    }
    answering.join().expect("every question was answered");
    transfer(from, to, &what);
}

fn transfer(from: Place<'_>, to: Place<'_>, what: &str) {
    let listen = || TcpListener::bind((to.ip(), 0)).expect("a free port");
    let listener = inside(&to.netns(), listen);
    let server = listener.local_addr().expect("it is bound");
    let mut sender = inside(&from.netns(), || TcpStream::connect(server).expect("it listens"));
    sender.set_write_timeout(Some(DEADLINE)).expect("it is not zero");
    let sending = thread::spawn(move || sender.write_all(&vec![7; TRANSFER_BYTES]));
    let (mut receiver, _) = listener.accept().expect("the connection is there");
    receiver.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    let mut received = Vec::new();
    receiver.read_to_end(&mut received).unwrap_or_else(|e| panic!("{what}: {e}"));
    sending.join().expect("it does not panic").unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!((received.len(), received.iter().all(|&byte| byte == 7)), (TRANSFER_BYTES, true), "{what}");
}

fn dropped(lab: &Lab, reason: &str) -> u64 {
    lab.http("GET", "/v1/stats", "").parsed::<Stats>().drops[reason]
}

/// The attack goes on until the counters show that the attacker is charged, and limited where there is a limit.
fn wait_until_charged(attacker: Place<'_>, attack: Attack, crosses_hosts: bool) {
    let limit = match attack {
        Attack::Segments => Some("too_many_segments"),
        Attack::Broadcast | Attack::Multicast | Attack::UnknownUnicast => Some("storm_control"),
        Attack::Names | Attack::Arp | Attack::NeighborDiscovery => Some("gateway_limit"),
        Attack::Tcp | Attack::SegmentedUdp | Attack::SmallTcp | Attack::Datagrams => None,
    };
    let before = counters(attacker);
    let dropped_before = limit.map(|reason| dropped(attacker.lab, reason));
    eventually(&format!("the counters show {attack:?}"), || {
        let now = counters(attacker);
        if let (Some(reason), Some(before)) = (limit, dropped_before) {
            ensure!(dropped(attacker.lab, reason) > before, "nothing is dropped as {reason}: {now:?}");
            return Ok(());
        }
        let (frames, outputs) = (now.rx_frames - before.rx_frames, now.rx_outputs - before.rx_outputs);
        ensure!(frames > 0 && outputs >= frames / 2, "{now:?}");
        if crosses_hosts && attack != Attack::Datagrams {
            ensure!(outputs > 10 * frames, "each frame becomes many datagrams: {now:?}");
        }
        // Its frames cost more than one share each; those of UDP only when several come at once.
        if crosses_hosts && attack == Attack::SmallTcp {
            ensure!(now.rx_deferred > before.rx_deferred, "it is not held up: {now:?}");
        }
        Ok(())
    });
}

fn attack_all(attacker: Place<'_>, target: Place<'_>, pairs: &[(Place<'_>, Place<'_>)], crosses_hosts: bool) {
    let parties = Parties::of(attacker, target);
    for attack in Attack::ALL {
        let attacking = Attacker::start(attack, &parties, &attacker.netns(), &target.netns());
        wait_until_charged(attacker, attack, crosses_hosts);
        pairs.iter().for_each(|(from, to)| exchange(*from, *to, attack));
        drop(attacking);
    }
}

#[test]
fn others_on_the_host_lose_nothing() {
    let lab = Lab::with(vswitch_tests::Host::new(), &[STORM_LIMIT]);
    for (network, subnet, v6) in [("a", "10.1.0.0/24", "fd01::/64"), ("b", "10.2.0.0/24", "fd02::/64")] {
        lab.ok(&["network", "create", "--ipv6", "--subnet", subnet, "--subnet", v6, network]);
    }
    let place = |name, network| Place::run(&lab, name, network);
    let [attacker, target] = ["a1", "a2"].map(|name| place(name, "a"));
    let neighbours = (place("a3", "a"), place("a4", "a"));
    let others = (place("b1", "b"), place("b2", "b"));
    attack_all(attacker, target, &[neighbours, others], false);
}

/// So few that an attack reaches what one client may have.
const DESCRIPTORS: u32 = 256;

/// As many calls of another client, all of which are answered.
const CALLS: u32 = 100;

#[test]
fn a_client_of_the_api_costs_containers_and_other_clients_nothing() {
    let lab = Lab::with_descriptors(DESCRIPTORS, &[]);
    lab.ok(&["network", "create", "b"]);
    lab.ok(&["run", "-d", "--name", "loud", "--net", "none", "yes"]);
    let others = (Place::run(&lab, "b1", "b"), Place::run(&lab, "b2", "b"));
    for kind in KINDS {
        let attack = ClientAttack::start(&lab, kind, "loud", ATTACK);
        exchange(others.0, others.1, kind);
        for _ in 0..CALLS {
            assert_eq!(lab.http("GET", "/v1/networks", "").status, 200, "{kind}");
        }
        lab.ok(&["network", "create", kind]);
        assert_eq!(lab.ok(&["run", "--rm", "--net", kind, "echo", "hello"]), "hello\n");
        if ["streams", "logs"].contains(&kind) {
            eventually("it has as many streams as a client may have", || {
                ensure!(attack.counts()?.refused > 0, "{:?}", attack.counts());
                Ok(())
            });
        }
    }
    assert!(lab.inspect("loud").state.running);
}

#[test]
fn others_on_both_hosts_lose_nothing() {
    let cluster = Cluster::with(2, &[STORM_LIMIT]);
    cluster.join_all();
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    for (network, subnet, v6) in [("a", "10.1.0.0/24", "fd01::/64"), ("b", "10.2.0.0/24", "fd02::/64")] {
        let create = ["network", "create", "-d", "overlay", "--ipv6", "--subnet", subnet, "--subnet", v6];
        one.ok(&[&create[..], &[network]].concat());
    }
    let place = Place::run;
    let (attacker, target) = (place(one, "a1", "a"), place(two, "a2", "a"));
    let neighbours = (place(one, "a3", "a"), place(two, "a4", "a"));
    let others = (place(one, "b1", "b"), place(two, "b2", "b"));
    let here = (others.0, place(one, "b3", "b"));
    for (from, to) in [(attacker, target), neighbours, others] {
        eventually("both hosts know the container", || {
            ensure!(from.lab.ping(from.name, &to.ip().to_string()).received == 1, "no answer");
            Ok(())
        });
    }
    attack_all(attacker, target, &[neighbours, others, here], true);
}
