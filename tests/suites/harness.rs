//! The harness itself: machines are apart from each other, and nothing of them stays.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::ensure;
use vswitch_proto::id::MacAddr;
use vswitch_tests::Host;
use vswitch_tests::netns::inside;
use vswitch_tests::packet::{self, Packet};
use vswitch_tests::process::Process;
use vswitch_tests::terminal::Terminal;
use vswitch_tests::wait::eventually;

#[test]
fn a_machine_has_its_own_files_processes_and_interfaces() {
    let (one, two) = (Host::new(), Host::new());
    one.sh("echo mine >/run/mine; echo mine >/tmp/mine; ip tuntap add tap9 mode tap; ip netns add inner");
    assert_eq!(fs::read_to_string(one.path("/run/mine")).unwrap(), "mine\n");
    assert_eq!(two.sh("ls -A /run /tmp"), "/run:\n\n/tmp:\n");
    assert!(one.sh("ip -o link").contains("tap9"));
    assert!(!two.sh("ip -o link").contains("tap9"));
    assert_eq!(two.sh("ip -o link show up | wc -l"), "1\n");
    assert_eq!(two.sh("cat /proc/1/comm"), "host-init\n");
    assert_eq!(two.run(&["sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(two.run_with_input(&["cat"], b"through").stdout, "through");
}

#[test]
fn nothing_of_a_machine_outlives_it() {
    let host = Host::new();
    let process =
        Process::spawn(&host, &["sh", "-c", "ip netns add kept; sleep 100000 & echo $!; exec sleep 100000"]);
    process.wait_for("\n");
    let namespaces =
        [1, process.pid()].map(|pid| fs::read_link(host.path(format!("/proc/{pid}/ns/net"))).unwrap());
    let outside_pid = host.pid();
    drop(host);
    drop(process);
    assert!(!fs::exists(format!("/proc/{outside_pid}/ns")).unwrap());
    eventually("no process has its namespaces", || {
        for process in fs::read_dir("/proc")?.flatten() {
            let namespace = fs::read_link(process.path().join("ns/net"));
            ensure!(!namespace.is_ok_and(|n| namespaces.contains(&n)), "{process:?}");
        }
        Ok(())
    });
}

#[test]
fn sockets_and_frames_belong_to_the_namespace_they_were_made_in() {
    let host = Host::new();
    host.sh("ip netns add a; ip netns add b; ip link add eth0 netns a type veth peer name eth0 netns b
         ip -n a addr add 10.0.0.1/24 dev eth0; ip -n b addr add 10.0.0.2/24 dev eth0
         ip -n a link set eth0 up; ip -n b link set eth0 up");
    let [a, b] = ["a", "b"].map(|name| host.path(format!("/run/netns/{name}")));
    let address = (Ipv4Addr::new(10, 0, 0, 2), 80);
    let listener = inside(&b, || TcpListener::bind(address).unwrap());
    let stream = inside(&a, || TcpStream::connect(address).unwrap());
    let (_, from) = listener.accept().unwrap();
    assert_eq!(from, stream.local_addr().unwrap());
    let (sender, receiver) = (Packet::open(&a, "eth0"), Packet::open(&b, "eth0"));
    let source = MacAddr([2, 0, 0, 0, 0, 1]);
    sender.send(&packet::frame(MacAddr::BROADCAST, source, packet::ETHERTYPE, b"marked")).unwrap();
    let seen = receiver.drain_until(b"marked");
    assert!(seen.last().unwrap().ends_with(&[0; 40]));
}

#[test]
fn a_terminal_is_one() {
    let host = Host::new();
    let mut terminal = Terminal::spawn(&host, &["sh"]);
    assert!(terminal.is_cooked());
    terminal.type_keys("tty >/dev/tty && stty size && echo $((40 + 2))\n");
    terminal.wait_for("/dev/pts/");
    terminal.wait_for("24 80");
    terminal.wait_for("42");
    terminal.resize(30, 100);
    terminal.type_keys("stty size; exit 3\n");
    terminal.wait_for("30 100");
    assert_eq!(terminal.wait(), 3);
}
