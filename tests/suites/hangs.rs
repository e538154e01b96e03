//! Things that hang: a file system that does not answer, a shim that is stopped, a TAP or a file that somebody holds.
//! Changes of others are answered meanwhile, and SIGTERM ends the daemon.

use std::time::{Duration, Instant};

use anyhow::ensure;
use vswitch::io::netns::NetNs;
use vswitch::io::tap::{Tap, TapConfig};
use vswitch_proto::api::Port;
use vswitch_tests::Lab;
use vswitch_tests::process::Process;
use vswitch_tests::wait::eventually;

/// Where a file system is mounted that nobody serves.
const HUNG: &str = "/tmp/hung";

/// Mounts a FUSE file system without a server, for as long as the process lives.
fn mount_hung(lab: &Lab) -> Process {
    let options = "fd=3,rootmode=40000,user_id=0,group_id=0";
    let script = format!(
        "mkdir -p {HUNG}; exec 3<>/dev/fuse; mount -i -t fuse -o {options} hung {HUNG}; echo mounted; exec sleep 100000"
    );
    let server = Process::spawn(lab, &["sh", "-ec", &script]);
    server.wait_for("mounted");
    server
}

fn wait_for_status(lab: &Lab, container: &str, status: &str) {
    eventually(&format!("{container} is {status}"), || {
        let rows = lab.ok(&["ps", "-a", "--format={{.Names}} {{.State}}"]);
        ensure!(rows.lines().any(|row| row == format!("{container} {status}")), "{rows}");
        Ok(())
    });
}

/// Changes of every kind that have nothing to do with what hangs.
fn others_go_on(lab: &Lab, round: &str) {
    let [net, one, two] = ["net", "one", "two"].map(|name| format!("{name}-{round}"));
    lab.ok(&["network", "create", &net]);
    lab.run_idle(&one, &[]);
    lab.run_idle(&two, &[&format!("--net={net}")]);
    lab.ok(&["network", "connect", &net, &one]);
    lab.assert_reaches(&one, &two);
    lab.ok(&["network", "disconnect", &net, &one]);
    lab.ok(&["stop", "--time=0", &two]);
    lab.ok(&["start", &two]);
    lab.ok(&["rm", "-f", &one, &two]);
    lab.ok(&["network", "rm", &net]);
}

fn port_of(lab: &Lab, container: &str) -> Port {
    let ports: Vec<Port> = lab.http("GET", "/v1/ports", "").parsed();
    let found = ports.into_iter().find(|port| port.container.as_str() == container);
    found.unwrap_or_else(|| panic!("{container} has no port"))
}

#[test]
fn a_root_on_a_file_system_that_does_not_answer() {
    let mut lab = Lab::new();
    let _server = mount_hung(&lab);
    let rootfs = format!("--rootfs={HUNG}");
    let run = |name: &str| {
        let name = format!("--name={name}");
        Process::spawn(&lab, &["vswitchctl", "run", "-d", &rootfs, &name, "--", "true"])
    };
    let mut first = run("first");
    wait_for_status(&lab, "first", "created");
    others_go_on(&lab, "a");
    assert_eq!(first.wait(), 1, "{}", first.output());
    assert!(first.output().contains("does the file system of its root answer?"), "{}", first.output());
    lab.wait_until_gone("first");
    eventually("its shim gives up", || {
        let shims = lab.run(&["pgrep", "-f", "[v]switchd shim"]);
        ensure!(shims.stdout.is_empty(), "{shims:?}");
        Ok(())
    });

    let second = run("second");
    wait_for_status(&lab, "second", "created");
    assert_eq!(lab.term(), 0, "{}", lab.log());
    drop(second);
    lab.start();
    eventually("what was under way is taken back", || {
        let state = lab.ctl(&["inspect", "--format={{.State.Status}}", "second"]);
        ensure!(state.code != 0 || state.stdout == "exited\n", "{state:?}");
        Ok(())
    });
    others_go_on(&lab, "b");
}

#[test]
fn a_namespace_on_a_file_system_that_does_not_answer() {
    let mut lab = Lab::new();
    let server = mount_hung(&lab);
    let netns = format!("--netns={HUNG}/netns");
    let mut adopting = Process::spawn(&lab, &["vswitchctl", "adopt", &netns, "--name=outside"]);
    others_go_on(&lab, "a");
    assert_eq!(adopting.wait(), 1, "{}", adopting.output());
    assert!(adopting.output().contains("does not answer"), "{}", adopting.output());
    assert_eq!(lab.ok(&["ps", "-aq"]), "");
    let _adopting = Process::spawn(&lab, &["vswitchctl", "adopt", &netns, "--name=outside"]);
    assert_eq!(lab.term(), 0, "{}", lab.log());
    drop(server);
}

#[test]
fn a_shim_that_is_stopped_while_the_daemon_starts() {
    let mut lab = Lab::new();
    let id = lab.run_idle("stopped", &[]);
    lab.run_idle("beside", &[]);
    let shim = format!("$(pgrep -f '[v]switchd shim .*{id}')");
    lab.kill9();
    lab.sh(&format!("kill -STOP {shim}"));
    lab.start();
    // Frames need no shim.
    let address = lab.address("stopped", "bridge");
    lab.assert_reaches("beside", &address);
    assert!(lab.inspect("stopped").state.running);
    others_go_on(&lab, "a");
    // One that waits for the shim keeps nobody else waiting.
    let stopping = Process::spawn(&lab, &["vswitchctl", "stop", "--time=100", "stopped"]);
    others_go_on(&lab, "b");
    assert_eq!(lab.term(), 0, "{}", lab.log());
    drop(stopping);
    lab.start();
    lab.sh(&format!("kill -CONT {shim}"));
    lab.ok(&["kill", "stopped"]);
    assert_eq!(lab.wait_until_exited("stopped"), 137);
}

#[test]
fn a_container_that_holds_its_own_tap_while_the_daemon_starts() {
    let mut lab = Lab::new();
    lab.run_idle("holder", &[]);
    lab.run_idle("beside", &[]);
    let namespace = NetNs::open(&lab.netns("holder")).unwrap();
    let address = lab.address("holder", "bridge");
    lab.kill9();
    let tap = Tap::open(&namespace, "eth0", TapConfig { persistent: true, ..TapConfig::default() }).unwrap();
    lab.start();
    others_go_on(&lab, "a");
    assert!(!port_of(&lab, "holder").up && port_of(&lab, "beside").up);
    assert_eq!(lab.term(), 0, "{}", lab.log());
    lab.start();
    drop(tap);
    eventually("the interface is taken over", || {
        ensure!(port_of(&lab, "holder").up);
        Ok(())
    });
    lab.assert_reaches("beside", &address);
}

#[test]
fn a_tap_that_is_not_ours_is_held_while_the_daemon_starts() {
    let mut lab = Lab::new();
    lab.run_idle("holder", &[]);
    let namespace = NetNs::open(&lab.netns("holder")).unwrap();
    let _tap = Tap::open(&namespace, "eth7", TapConfig::default()).unwrap();
    lab.kill9();
    lab.start();
    others_go_on(&lab, "a");
    assert!(port_of(&lab, "holder").up);
    assert!(lab.exec_ok("holder", &["ls", "/sys/class/net"]).contains("eth7"), "it is the container's own");
}

#[test]
fn containers_that_hold_their_names_file_open() {
    let lab = Lab::new();
    let names: Vec<String> = (0..20).map(|n| format!("holder{n}")).collect();
    for name in &names {
        let name = format!("--name={name}");
        lab.ok(&["run", "-d", &name, "--", "sh", "-c", "exec 3</etc/hosts; exec sleep 100000"]);
    }
    for round in ["a", "b", "c"] {
        others_go_on(&lab, round);
        let newest = format!("newest-{round}");
        lab.run_idle(&newest, &[]);
        // Everybody knows it by the time that it runs.
        for name in &names {
            let hosts = lab.exec_ok(name, &["cat", "/etc/hosts"]);
            assert!(hosts.contains(&format!("\t{newest}\n")), "{name}: {hosts}");
        }
    }
}

/// What ends a start that hangs: with the arguments before the name of the container.
const ENDINGS: [&[&str]; 3] = [&["rm", "-f"], &["kill"], &["stop", "--time=1"]];

/// Has a start that hangs ended, which the daemon otherwise waits 30 s for.
fn end_soon(lab: &Lab, ending: &[&str], container: &str, starting: &mut Process) {
    let began = Instant::now();
    lab.ok(&[ending, &[container]].concat());
    assert!(began.elapsed() < Duration::from_secs(10), "{ending:?} took {:?}", began.elapsed());
    assert_ne!(starting.wait(), 0, "{}", starting.output());
    assert!(
        starting.output().contains("stopped or removed before its command began"),
        "{}",
        starting.output()
    );
    assert!(began.elapsed() < Duration::from_secs(15), "{ending:?}: the start went on");
}

fn wait_until_no_shim_is_left(lab: &Lab) {
    eventually("no shim is left", || {
        let shims = lab.run(&["pgrep", "-f", "[v]switchd shim"]);
        ensure!(shims.stdout.is_empty(), "{shims:?}");
        Ok(())
    });
}

#[test]
fn a_launch_that_hangs_is_ended_at_once() {
    let lab = Lab::new();
    let _server = mount_hung(&lab);
    for ending in ENDINGS {
        let rootfs = format!("--rootfs={HUNG}");
        let run = ["vswitchctl", "run", "-d", &rootfs, "--name=hangs", "--", "true"];
        let mut running = Process::spawn(&lab, &run);
        wait_for_status(&lab, "hangs", "created");
        end_soon(&lab, ending, "hangs", &mut running);
        assert_eq!(lab.ok(&["ps", "-aq"]), "", "{ending:?}");
        wait_until_no_shim_is_left(&lab);
        // Its name and its address are free.
        lab.run_idle("hangs", &["--ip=172.17.0.2"]);
        lab.ok(&["rm", "-f", "hangs"]);
    }
}

#[test]
fn a_start_of_an_old_container_that_hangs_is_ended_at_once() {
    let lab = Lab::new();
    lab.sh(&format!("mkdir -p {HUNG}"));
    let rootfs = format!("--rootfs={HUNG}");
    for name in ["a", "b", "c"] {
        // There is no such program.
        lab.ok(&["create", &rootfs, &format!("--name={name}"), "--", "true"]);
        lab.ctl(&["start", name]);
        assert_eq!(lab.wait_until_exited(name), 127);
    }
    let _server = mount_hung(&lab);
    for (name, ending) in ["a", "b", "c"].into_iter().zip(ENDINGS) {
        let mut starting = Process::spawn(&lab, &["vswitchctl", "start", name]);
        wait_for_status(&lab, name, "running");
        end_soon(&lab, ending, name, &mut starting);
        let is_removed = ending[0] == "rm";
        let rows = lab.ok(&["ps", "-a", &format!("--filter=name=^{name}$"), "--format={{.State}}"]);
        assert_eq!(rows.trim_end(), if is_removed { "" } else { "exited" }, "{ending:?}");
        wait_until_no_shim_is_left(&lab);
    }
}

#[test]
fn a_signal_during_a_start_reaches_the_command() {
    let lab = Lab::new();
    for (name, sending, code) in [
        ("usr1", "until vswitchctl kill -s USR1 usr1; do sleep 0.1; done", 138),
        ("term", "until vswitchctl kill -s TERM term; do sleep 0.1; done", 143),
        ("stop", "vswitchctl stop --time=30 stop", 143),
    ] {
        // Its pid 1 passes every signal on as soon as the command runs.
        let id = lab.ok(&["create", "--init", &format!("--name={name}"), "--", "sleep", "100000"]);
        let shim = format!("$(pgrep -f '[v]switchd shim .*{}')", id.trim_end());
        lab.sh(&format!("kill -STOP {shim}"));
        let mut starting = Process::spawn(&lab, &["vswitchctl", "start", name]);
        // Whether they come early enough shows in the exit codes only.
        std::thread::sleep(Duration::from_millis(500));
        let path = sending.replace("vswitchctl", "/mnt/vswitchctl");
        let mut sending = Process::spawn(&lab, &["sh", "-c", &path]);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(sending.try_wait(), None, "it waits for the start: {}", sending.output());
        lab.sh(&format!("kill -CONT {shim}"));
        assert_eq!(starting.wait(), 0, "{}", starting.output());
        assert_eq!(sending.wait(), 0, "{}", sending.output());
        assert_eq!(lab.wait_until_exited(name), code, "{name}");
    }
}
