//! The daemon: where its settings come from, what it tells systemd, and what its settings do.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use anyhow::ensure;
use serde_json::Value;
use vswitch_proto::api::{FdbEntry, FdbKind, Stats, Version};
use vswitch_proto::id::MacAddr;
use vswitch_tests::ctl::only_line;
use vswitch_tests::http::Request;
use vswitch_tests::packet::{self, ETHERTYPE, Packet, holds};
use vswitch_tests::process::Process;
use vswitch_tests::wait::{DEADLINE, eventually};
use vswitch_tests::{Host, Lab};

fn stats(lab: &Lab) -> Stats {
    lab.http("GET", "/v1/stats", "").parsed()
}

/// Starts a daemon with these words before its own name, and returns what it calls itself.
fn node_name(host: &Host, environment: &[&str], arguments: &[&str]) -> String {
    let command = [&["env"], environment, &["/mnt/vswitchd", "--data-dir=/tmp/data"], arguments].concat();
    let mut daemon = Process::spawn(host, &command);
    daemon.wait_for("ready");
    let answer = Request::new("GET", "/v1/version").send(&host.path("/run/vswitch/vswitchd.sock"));
    let version: Version = answer.expect("the daemon answers").parsed();
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), 0);
    version.node_name
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let host = Host::new();
    host.sh("printf 'node-name = \"file\"\\nmtu = 1400\\n' >/tmp/vswitchd.toml");
    let (file, environment) = (&["--config=/tmp/vswitchd.toml"], &["VSWITCH_NODE_NAME=environment"]);
    assert_eq!(node_name(&host, &[], &[]), "lab", "the host's name");
    assert_eq!(node_name(&host, &[], file), "file");
    assert_eq!(node_name(&host, environment, file), "environment");
    assert_eq!(node_name(&host, environment, &["--config=/tmp/vswitchd.toml", "--node-name=flag"]), "flag");
}

#[test]
fn where_io_uring_is_forbidden_frames_are_moved_by_epoll() {
    let host = Host::new();
    let run = |engine: &str| {
        Process::spawn(&host, &["/mnt/without", "io_uring", "/mnt/vswitchd", "--data-dir=/tmp/data", engine])
    };
    let mut refused = run("--engine=uring");
    assert_eq!(refused.wait(), 1);
    let said = refused.output();
    assert!(only_line(&said).is_some_and(|line| line.contains("io_uring is forbidden here")), "{said}");

    let mut daemon = run("--engine=auto");
    daemon.wait_for("ready");
    assert!(daemon.output().contains("frames are moved with epoll: io_uring is forbidden here"));
    for name in ["a", "b"] {
        let output = host.run(&["vswitchctl", "run", "-d", "--name", name, "--", "sleep", "100"]);
        assert_eq!(output.code, 0, "{output:?}");
    }
    let ping = ["vswitchctl", "exec", "a", "busybox", "ping", "-c", "1", "-W", "10", "b"];
    assert_eq!(host.run(&ping).code, 0);
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), 0);
}

#[test]
fn systemd_is_told_when_it_is_ready() {
    let host = Host::new();
    let socket = UnixDatagram::bind(host.path("/run/notify.sock")).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let command = ["env", "NOTIFY_SOCKET=/run/notify.sock", "/mnt/vswitchd", "--data-dir=/tmp/data"];
    let mut daemon = Process::spawn(&host, &command);
    let mut told = String::new();
    let mut buffer = [0; 4096];
    while !told.contains("READY=1") {
        let bytes = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{e}: {told:?}"));
        told.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
    }
    // Ready means that it answers.
    let answer = Request::new("GET", "/v1/version").send(&host.path("/run/vswitch/vswitchd.sock")).unwrap();
    assert_eq!(answer.status, 200);
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), 0);
}

#[test]
fn logs_as_json() {
    let mut lab = Lab::with(Host::new(), &["--log-format=json", "--log-level=debug"]);
    lab.run_idle("a", &[]);
    lab.ok(&["rm", "-f", "a"]);
    assert_eq!(lab.term(), 0);
    assert!(lab.log().lines().count() >= 2, "{}", lab.log());
    for line in lab.log().lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(entry["level"].is_string() && entry["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn without_rights_one_line_says_what_is_missing() {
    let host = Host::new();
    host.sh("chmod 1777 /tmp /run");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let daemon = host.run(&[&nobody[..], &["/mnt/vswitchd", "--data-dir=/tmp/data"]].concat());
    assert_ne!(daemon.code, 0, "{daemon:?}");
    assert!(only_line(&daemon.stderr).is_some(), "{daemon:?}");
    let lab = Lab::with(host, &[]);
    let command = lab.run(&[&nobody[..], &["/mnt/vswitchctl", "network", "ls"]].concat());
    assert_eq!((command.code, command.stdout.as_str()), (6, ""), "{command:?}");
    let line = only_line(&command.stderr).unwrap_or_else(|| panic!("{command:?}"));
    assert!(line.to_lowercase().contains("permission"), "{line}");
}

#[test]
fn the_mtu_of_containers() {
    let lab = Lab::with(Host::new(), &["--mtu=9000"]);
    lab.run_idle("a", &[]);
    lab.run_idle("b", &[]);
    assert!(lab.exec_ok("a", &["ip", "link", "show", "eth0"]).contains("mtu 9000"));
    let before = stats(&lab).rx_frames;
    lab.exec_ok("a", &["busybox", "ping", "-c", "1", "-W", "10", "-s", "8000", "b"]);
    assert!(stats(&lab).rx_frames - before < 12, "8000 bytes are one frame");
    lab.exec_ok("a", &["busybox", "ping", "-c", "1", "-W", "10", "-s", "60000", "b"]);
}

fn learned(lab: &Lab) -> Vec<MacAddr> {
    let entries: Vec<FdbEntry> = lab.http("GET", "/v1/fdb", "").parsed();
    entries.into_iter().filter(|e| e.kind == FdbKind::Learned).map(|e| e.mac).collect()
}

#[test]
fn learned_addresses_age_and_are_bounded() {
    let lab = Lab::with(Host::new(), &["--fdb-ageing-s=2", "--fdb-capacity=8"]);
    lab.run_idle("a", &[]);
    lab.run_idle("b", &[]);
    let (a, b) = (Packet::open(&lab.netns("a"), "eth0"), Packet::open(&lab.netns("b"), "eth0"));
    let mac = |last: u8| MacAddr([0x06, 0, 0, 0, 0, last]);
    a.send(&packet::frame(MacAddr::BROADCAST, mac(1), ETHERTYPE, b"first")).unwrap();
    b.drain_until(b"first");
    eventually("the address is learned", || {
        // Whoever waits longer than an address lives has to say it again.
        a.send(&packet::frame(MacAddr::BROADCAST, mac(1), ETHERTYPE, b"again"))?;
        ensure!(learned(&lab) == [mac(1)]);
        Ok(())
    });
    eventually("it is forgotten", || {
        ensure!(learned(&lab).is_empty());
        Ok(())
    });
    for last in 0..100 {
        a.send(&packet::frame(MacAddr::BROADCAST, mac(last), ETHERTYPE, b"many")).unwrap();
    }
    a.send(&packet::frame(MacAddr::BROADCAST, mac(100), ETHERTYPE, b"the last")).unwrap();
    b.drain_until(b"the last");
    let stats = stats(&lab);
    assert!(learned(&lab).len() <= 8 && stats.fdb_capacity == 8, "{stats:?}");
    lab.assert_reaches("a", "b");
}

#[test]
fn a_storm_of_broadcasts_is_limited() {
    let lab = Lab::with(Host::new(), &["--storm-limit=10"]);
    for name in ["a", "b", "c"] {
        lab.run_idle(name, &[]);
    }
    // Neighbours are known before the storm: their resolution is a broadcast, too.
    lab.assert_reaches("a", "b");
    let (a, b) = (Packet::open(&lab.netns("a"), "eth0"), Packet::open(&lab.netns("b"), "eth0"));
    let source = MacAddr([0x02, 0x42, 172, 17, 0, 2]);
    for _ in 0..900 {
        a.send(&packet::frame(MacAddr::BROADCAST, source, ETHERTYPE, b"storm")).unwrap();
    }
    let unicast = packet::frame(MacAddr([0x02, 0x42, 172, 17, 0, 3]), source, ETHERTYPE, b"calm");
    a.send(&unicast).unwrap();
    let arrived = b.drain_until(b"calm").iter().filter(|frame| holds(frame, b"storm")).count();
    let dropped = stats(&lab).drops["storm_control"];
    assert!(dropped > 0 && arrived + dropped as usize >= 900, "{arrived} arrived, {dropped} were dropped");
    lab.assert_reaches("a", "b");
    lab.assert_reaches("c", "b");
}

#[test]
fn a_tap_that_is_taken_down_and_up_again() {
    let lab = Lab::new();
    lab.run_idle("a", &[]);
    lab.run_idle("b", &[]);
    let b = format!("nsenter --net=/proc/{}/ns/net", lab.inspect("b").state.pid);
    lab.sh(&format!("{b} ip link set eth0 down"));
    lab.assert_cannot_reach("a", "172.17.0.3");
    lab.sh(&format!("{b} ip link set eth0 up"));
    eventually("b answers again", || {
        ensure!(lab.ping("a", "172.17.0.3").received == 1);
        Ok(())
    });
    // One that is deleted under the daemon's hands harms nobody else.
    lab.sh(&format!("{b} ip link del eth0"));
    lab.run_idle("c", &[]);
    lab.assert_reaches("a", "c");
    lab.ok(&["rm", "-f", "b"]);
    lab.assert_reaches("c", "a");
}

/// As systemd does it (sd_listen_fds(3)): an engine that asks while there is no daemon has its answer later.
#[test]
fn a_plugin_socket_may_be_passed_on() {
    let host = Host::new();
    host.sh("mkdir -p /run/docker/plugins");
    let path = host.path("/run/docker/plugins/vswitch.sock");
    let listener = UnixListener::bind(&path).expect("the machine has a /run");
    let mut engine = UnixStream::connect(&path).expect("somebody listens");
    let request = Request::new("POST", "/Plugin.Activate").body("");
    engine.write_all(&request.to_bytes()).expect("it is asked before anybody is there");

    let command = ["vswitchd", "--data-dir", "/tmp/vswitch"];
    let mut daemon = Process::spawn_with_socket(&host, &command, listener.into());
    let mut answer = String::new();
    engine.set_read_timeout(Some(DEADLINE)).expect("a timeout that is not zero");
    engine.read_to_string(&mut answer).expect("the daemon answers");
    assert!(answer.ends_with(r#"{"Implements":["NetworkDriver","IpamDriver"]}"#), "{answer}");

    daemon.signal("TERM");
    assert_eq!(daemon.wait(), 0);
    assert!(path.exists(), "the socket is not the daemon's");
}
