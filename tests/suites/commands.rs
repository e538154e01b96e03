//! The commands around networks and containers: help, version, completion, events, wait, start.

use serde_json::Value;
use vswitch_tests::process::Process;
use vswitch_tests::{Host, Lab};

#[test]
fn help_version_and_completion_need_no_daemon() {
    let host = Host::new();
    for args in [&["--help"][..], &["help"], &["network", "create", "--help"], &["run", "--help"]] {
        let help = host.ok(args);
        assert!(help.contains("Usage: vswitchctl"), "{args:?}: {help}");
    }
    assert!(host.ok(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        let script = host.ok(&["completion", shell]);
        assert!(script.contains("vswitchctl") && script.contains("inspect"), "{shell}: {script}");
    }
    let lab = Lab::with(host, &["--node-name", "lab-one"]);
    let version = lab.ok(&["version"]);
    assert!(
        version.contains("lab-one") && version.matches(env!("CARGO_PKG_VERSION")).count() >= 2,
        "{version}"
    );
}

#[test]
fn the_daemon_is_found_by_flag_and_by_environment() {
    let lab = Lab::with(Host::new(), &[]);
    let mut other = Process::spawn(&lab, &["vswitchd", "--data-dir=/tmp/other", "--socket=/tmp/other.sock"]);
    other.wait_for("ready");
    let names = |args: &[&str]| lab.ok(&[args, &["network", "ls", "--format={{.Name}}"]].concat());
    lab.ok(&["-H", "unix:///tmp/other.sock", "network", "create", "there"]);
    assert!(names(&["-H", "unix:///tmp/other.sock"]).contains("there"));
    assert!(names(&["--host=unix:///tmp/other.sock"]).contains("there"));
    assert!(!names(&[]).contains("there"));
    let mut command = lab.command("vswitchctl");
    command.args(["network", "ls", "-q"]).env("VSWITCH_HOST", "unix:///tmp/other.sock");
    let output = vswitch_tests::process::Output::of(command, b"");
    assert_eq!((output.code, output.stdout.lines().count()), (0, 4), "{output:?}");
    other.signal("TERM");
    assert_eq!(other.wait(), 0);
}

#[test]
fn events_as_a_command() {
    let lab = Lab::new();
    let events = Process::spawn(&lab, &["vswitchctl", "events"]);
    let json = Process::spawn(&lab, &["vswitchctl", "events", "--format=json"]);
    // The stream begins when the command has connected: what came before is not in it.
    let mut round = 0;
    while !(events.output().contains("network create") && json.output().contains("\"create\"")) {
        lab.ok(&["network", "create", &format!("early{round}")]);
        lab.ok(&["network", "rm", &format!("early{round}")]);
        round += 1;
        assert!(round < 500, "no event of {round} changes appears");
    }
    assert_eq!(lab.ctl(&["run", "--rm", "--name=c", "--", "sh", "-c", "exit 3"]).code, 3);
    for expected in
        ["container create", "container start", "container die", "exitCode=3", "container destroy"]
    {
        events.wait_for(expected);
    }
    json.wait_for("\"destroy\"");
    for line in json.output().lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

#[test]
fn wait_and_start() {
    let lab = Lab::new();
    lab.ok(&["run", "-d", "--name=c", "--", "sh", "-c", "trap 'exit 4' TERM; sleep 100000 & wait"]);
    let mut wait = Process::spawn(&lab, &["vswitchctl", "wait", "c"]);
    lab.ok(&["kill", "c"]);
    assert_eq!(wait.wait(), 0);
    assert_eq!(wait.output(), "137\n");
    // Waiting for what has ended returns at once.
    assert_eq!(lab.ok(&["wait", "c"]), "137\n");
    assert_eq!(lab.ok(&["start", "c"]), "c\n");
    assert!(lab.inspect("c").state.running);
    lab.assert_reaches("c", "172.17.0.1");
    lab.ok(&["rm", "-f", "c"]);
}

#[test]
fn statistics_are_shown_for_people_and_for_programs() {
    let lab = Lab::new();
    lab.run_idle("a", &[]);
    lab.run_idle("b", &[]);
    lab.assert_reaches("a", "b");
    let shown = lab.ok(&["stats"]);
    for reason in ["runt", "oversized", "storm_control", "tap_full"] {
        assert!(shown.contains(reason), "no {reason} in {shown}");
    }
    let stats: Value = serde_json::from_str(&lab.ok(&["stats", "--format=json"])).unwrap();
    assert!(stats["rx_frames"].as_u64().unwrap() >= 2, "{stats}");
    assert!(stats["rss_kib"].as_u64().unwrap() > 1000, "{stats}");
    assert_eq!(lab.ok(&["stats", "--format={{.networks}}"]), "3\n");
}
