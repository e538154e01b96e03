//! Bad input gets one line on stderr and the right exit code, and changes nothing.

use serde_json::Value;
use vswitch_tests::ctl::only_line;
use vswitch_tests::{Host, Lab};

const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const UNREACHABLE: i32 = 6;

/// Everything that the daemon knows about networks and containers, without what only the clock changes.
fn state(lab: &Lab) -> Vec<Value> {
    let mut networks: Vec<Value> = lab.http("GET", "/v1/networks", "").parsed();
    networks.sort_by_key(|network| network["Id"].to_string());
    let mut containers: Vec<Value> = lab.http("GET", "/v1/containers?all=true", "").parsed();
    containers.sort_by_key(|container| container["ID"].to_string());
    for container in &mut containers {
        let id = container["ID"].as_str().expect("containers have an id").to_string();
        *container = lab.http("GET", &format!("/v1/containers/{id}"), "").parsed();
    }
    [networks, containers, lab.http("GET", "/v1/ports", "").parsed()]
        .concat()
        .into_iter()
        .map(quiet)
        .collect()
}

/// The lines that differ, each state as JSON.
fn difference(before: &[Value], after: &[Value]) -> String {
    let [before, after] =
        [before, after].map(|state| serde_json::to_string_pretty(state).expect("it is JSON"));
    let only_in = |one: &str, other: &str, sign| {
        let lines = one.lines().filter(|line| !other.lines().any(|o| o == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    only_in(&before, &after, '-') + &only_in(&after, &before, '+')
}

/// Without what traffic changes.
fn quiet(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.remove("counters");
    }
    value
}

/// A lab with two networks and three containers.
fn lab() -> Lab {
    let host = Host::new();
    host.sh("ip netns add made");
    let lab = Lab::with(host, &[]);
    lab.ok(&["network", "create", "--subnet", "10.5.0.0/24", "net"]);
    lab.ok(&["network", "create", "--subnet", "10.6.0.0/30", "tiny"]);
    lab.run_idle("a", &["--net=net", "--mac-address=02:00:00:00:00:0a"]);
    lab.run_idle("b", &["--net=tiny"]);
    lab.run_idle("gone", &[]);
    lab.ok(&["kill", "gone"]);
    lab.wait_until_exited("gone");
    lab
}

/// Runs commands that have to fail: each with its exit code, and with what its one line has to mention.
fn refuses(cases: &[(&[&str], i32, &[&str])]) {
    let lab = lab();
    let before = state(&lab);
    let mut wrong = Vec::new();
    for (args, code, mentioned) in cases {
        let output = lab.ctl(args);
        let line = only_line(&output.stderr);
        let says_it = line.is_some_and(|line| mentioned.iter().all(|word| line.contains(word)));
        if output.code != *code || !says_it || !output.prints_nothing() {
            wrong.push(format!("{args:?} should exit with {code} and mention {mentioned:?}: {output:?}"));
        }
        let after = state(&lab);
        if after != before {
            wrong.push(format!("{args:?} changed the state:\n{}", difference(&before, &after)));
            break;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    lab.assert_reaches("a", "10.5.0.1");
}

#[test]
fn names_that_are_unknown_or_taken() {
    refuses(&[
        (&["network", "create", "net"], CONFLICT, &["net"]),
        (&["network", "create", "bridge"], CONFLICT, &["bridge"]),
        (&["network", "inspect", "nope"], NOT_FOUND, &["nope"]),
        (&["network", "rm", "nope"], NOT_FOUND, &["nope"]),
        (&["network", "connect", "nope", "a"], NOT_FOUND, &["nope"]),
        (&["network", "connect", "net", "nobody"], NOT_FOUND, &["nobody"]),
        (&["network", "disconnect", "net", "nobody"], NOT_FOUND, &["nobody"]),
        (&["run", "-d", "--net=nope"], NOT_FOUND, &["nope"]),
        (&["run", "-d", "--name=a"], CONFLICT, &["a"]),
        (&["run", "-d", "--name=gone"], CONFLICT, &["gone"]),
        (&["adopt", "--netns=/run/netns/made", "--name=a"], CONFLICT, &["a"]),
        (&["inspect", "nobody"], NOT_FOUND, &["nobody"]),
        (&["exec", "nobody", "true"], NOT_FOUND, &["nobody"]),
        (&["attach", "nobody"], NOT_FOUND, &["nobody"]),
        (&["logs", "nobody"], NOT_FOUND, &["nobody"]),
        (&["stop", "nobody"], NOT_FOUND, &["nobody"]),
        (&["kill", "nobody"], NOT_FOUND, &["nobody"]),
        (&["rm", "nobody"], NOT_FOUND, &["nobody"]),
        (&["rm", "-f", "nobody"], NOT_FOUND, &["nobody"]),
        (&["fdb", "show", "nope"], NOT_FOUND, &["nope"]),
    ]);
}

#[test]
fn names_that_are_none() {
    let long = "x".repeat(64);
    refuses(&[
        (&["network", "create", "two words"], USAGE, &["two words"]),
        (&["network", "create", ""], USAGE, &["name"]),
        (&["network", "create", "-d", "bridge", "../etc"], USAGE, &["../etc"]),
        (&["network", "create", &long], USAGE, &["63"]),
        (&["run", "-d", "--name=-x"], USAGE, &["-x"]),
        (&["run", "-d", "--name=a/b"], USAGE, &["a/b"]),
        (&["network", "connect", "--alias=no/good", "bridge", "a"], USAGE, &["no/good"]),
        (&["network", "create", "-d", "nosuch", "new"], USAGE, &["nosuch"]),
        (&["network", "create", "--label", "=x", "new"], USAGE, &["label"]),
    ]);
}

#[test]
fn subnets_that_are_invalid_or_overlap() {
    refuses(&[
        (&["network", "create", "--subnet=10.0.0.0/33", "new"], USAGE, &["10.0.0.0/33"]),
        (&["network", "create", "--subnet=10.0.0.256/24", "new"], USAGE, &["10.0.0.256/24"]),
        (&["network", "create", "--subnet=words", "new"], USAGE, &["words"]),
        (&["network", "create", "--subnet=127.0.0.0/16", "new"], USAGE, &["127.0.0.0/16"]),
        (&["network", "create", "--subnet=224.0.0.0/16", "new"], USAGE, &["224.0.0.0/16"]),
        (&["network", "create", "--subnet=fd00:9::/64", "new"], USAGE, &["ipv6"]),
        (&["network", "create", "--subnet=10.5.0.128/25", "new"], CONFLICT, &["10.5.0.128/25", "net"]),
        (&["network", "create", "--subnet=10.0.0.0/8", "new"], CONFLICT, &["10.0.0.0/8"]),
        (&["network", "create", "--subnet=172.17.0.0/16", "new"], CONFLICT, &["172.17.0.0/16", "bridge"]),
        (&["network", "create", "--subnet=10.7.0.0/24", "--gateway=10.8.0.1", "new"], USAGE, &["10.8.0.1"]),
        (
            &["network", "create", "--subnet=10.7.0.0/24", "--ip-range=10.8.0.0/28", "new"],
            USAGE,
            &["10.8.0.0/28"],
        ),
        (
            &["network", "create", "--subnet=10.7.0.0/24", "--aux-address=r=10.8.0.9", "new"],
            USAGE,
            &["10.8.0.9"],
        ),
        (&["network", "create", "--gateway=10.8.0.1", "new"], USAGE, &["subnet"]),
    ]);
}

#[test]
fn addresses_that_are_outside_or_in_use() {
    refuses(&[
        (&["run", "-d", "--net=net", "--ip=10.9.0.2"], USAGE, &["10.9.0.2", "10.5.0.0/24"]),
        (&["run", "-d", "--net=net", "--ip=10.5.0.0"], USAGE, &["10.5.0.0"]),
        (&["run", "-d", "--net=net", "--ip=10.5.0.255"], USAGE, &["10.5.0.255"]),
        (&["run", "-d", "--net=net", "--ip=10.5.0.2"], CONFLICT, &["10.5.0.2"]),
        (&["run", "-d", "--net=net", "--ip=10.5.0.1"], CONFLICT, &["10.5.0.1"]),
        (&["run", "-d", "--net=net", "--ip=ten"], USAGE, &["ten"]),
        (&["run", "-d", "--net=none", "--ip=10.5.0.9"], USAGE, &["none"]),
        (&["run", "-d", "--net=net", "--mac-address=02:00:00:00:00"], USAGE, &["02:00:00:00:00"]),
        (&["run", "-d", "--net=net", "--mac-address=01:00:00:00:00:01"], USAGE, &["01:00:00:00:00:01"]),
        (&["run", "-d", "--net=net", "--mac-address=02:00:00:00:00:0a"], CONFLICT, &["02:00:00:00:00:0a"]),
        (&["network", "connect", "--ip=10.5.0.2", "net", "b"], CONFLICT, &["10.5.0.2"]),
        (&["network", "connect", "--ip=10.6.0.9", "net", "b"], USAGE, &["10.6.0.9"]),
        (&["run", "-d", "--net=tiny"], CONFLICT, &["tiny"]),
        (&["network", "connect", "tiny", "a"], CONFLICT, &["tiny"]),
    ]);
}

#[test]
fn changes_that_conflict_with_what_is() {
    refuses(&[
        (&["network", "connect", "net", "a"], CONFLICT, &["a", "net"]),
        (&["network", "connect", "host", "a"], CONFLICT, &["host"]),
        (&["network", "disconnect", "bridge", "a"], CONFLICT, &["a", "bridge"]),
        (&["network", "rm", "bridge"], CONFLICT, &["bridge"]),
        (&["network", "rm", "host"], CONFLICT, &["host"]),
        (&["network", "rm", "none"], CONFLICT, &["none"]),
        (&["network", "rm", "net"], CONFLICT, &["net", "a"]),
        (&["network", "rm", "tiny"], CONFLICT, &["tiny", "b"]),
        (&["rm", "a"], CONFLICT, &["a"]),
        (&["exec", "gone", "true"], CONFLICT, &["gone"]),
        (&["attach", "gone"], CONFLICT, &["gone"]),
        (&["kill", "gone"], CONFLICT, &["gone"]),
    ]);
}

#[test]
fn formats_signals_and_sources_that_are_wrong() {
    refuses(&[
        (&["network", "ls", "--format={{.Nam"], USAGE, &["{{.Nam"]),
        (&["network", "ls", "--format={{.NoSuchKey}}"], USAGE, &["NoSuchKey"]),
        (&["network", "ls", "--format={{template \"x\"}}"], USAGE, &["template"]),
        (&["network", "ls", "--format={{range .Name}}"], USAGE, &["range"]),
        (&["network", "ls", "--format={{nothing .Name}}"], USAGE, &["nothing"]),
        (&["inspect", "--format={{.State.Nothing}}", "a"], USAGE, &["Nothing"]),
        (&["network", "ls", "--filter=nonsense"], USAGE, &["nonsense"]),
        (&["network", "ls", "--filter=colour=red"], USAGE, &["colour"]),
        (&["ps", "--filter=colour=red"], USAGE, &["colour"]),
        (&["kill", "-s", "NOSUCH", "a"], USAGE, &["NOSUCH"]),
        (&["kill", "-s", "99", "a"], USAGE, &["99"]),
        (&["adopt", "--pid=4000000", "--name=new"], NOT_FOUND, &["4000000"]),
        (&["adopt", "--netns=/run/netns/nope", "--name=new"], NOT_FOUND, &["/run/netns/nope"]),
        (&["adopt", "--pid=1", "--name=new"], USAGE, &["vswitchd itself"]),
        (&["adopt", "--netns=/etc/hostname", "--name=new"], USAGE, &["/etc/hostname"]),
        (&["run", "-d", "--rootfs=/no/such/directory"], USAGE, &["/no/such/directory"]),
        (&["fdb", "add", "net", "02:00:00:00:00:99", "b"], CONFLICT, &["b"]),
    ]);
}

#[test]
fn command_lines_that_are_wrong() {
    refuses(&[
        (&["netwrk"], USAGE, &["netwrk"]),
        (&["network", "list", "--nope"], USAGE, &[]),
        (&["network", "ls", "--nope"], USAGE, &["--nope"]),
        (&["network", "create"], USAGE, &["NAME"]),
        (&["network", "connect", "net"], USAGE, &["CONTAINER"]),
        (&["network", "rm"], USAGE, &[]),
        (&["inspect"], USAGE, &[]),
        (&["stop", "-t", "soon", "a"], USAGE, &["soon"]),
        (&["logs", "--tail", "some", "a"], USAGE, &["some"]),
        (&["adopt", "--name=new"], USAGE, &["--pid"]),
        (&["adopt", "--pid=1", "--netns=/run/netns/x", "--name=new"], USAGE, &["--netns"]),
        (&["-H", "tcp://127.0.0.1:1", "ps"], USAGE, &["tcp://127.0.0.1:1"]),
    ]);
}

#[test]
fn several_names_of_which_one_is_wrong() {
    let lab = lab();
    let output = lab.ctl(&["rm", "nobody", "gone"]);
    assert_eq!((output.code, output.stdout.as_str()), (NOT_FOUND, "gone\n"), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
}

#[test]
fn no_daemon() {
    let host = Host::new();
    for args in
        [&["ps"][..], &["network", "ls"], &["run", "-d"], &["-H", "unix:///tmp/none.sock", "network", "ls"]]
    {
        let line = host.fails(args, UNREACHABLE);
        assert!(line.contains(".sock"), "{line}");
    }
    // A socket that nobody listens on any more, and a file that is none.
    let mut lab = Lab::with(host, &[]);
    lab.kill9();
    lab.fails(&["ps"], UNREACHABLE);
    lab.sh("echo text >/tmp/file.sock");
    lab.fails(&["-H", "unix:///tmp/file.sock", "ps"], UNREACHABLE);
}

#[test]
fn command_lines_of_the_daemon_that_are_wrong() {
    let host = Host::new();
    host.sh(
        "echo 'workers = \"many\"' >/tmp/wrong.toml; echo 'colour = 1' >/tmp/unknown.toml; echo x >/tmp/file",
    );
    let mut wrong = Vec::new();
    for args in [
        &["--nope"][..],
        &["--workers", "0"],
        &["--workers", "many"],
        &["--mtu", "10"],
        &["--config", "/tmp/missing.toml"],
        &["--config", "/tmp/wrong.toml"],
        &["--config", "/tmp/unknown.toml"],
        &["--socket", "/tmp/file/below.sock"],
        &["--log-level", "shout"],
        &["--cluster-store", "consul://localhost:8500"],
    ] {
        let output = host.run(&[&["vswitchd", "--data-dir", "/tmp/data"], args].concat());
        if output.code == 0 || only_line(&output.stderr).is_none() {
            wrong.push(format!("{args:?} should fail with one line: {output:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!host.path("/run/vswitch/vswitchd.sock").exists());
}
