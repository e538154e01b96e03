//! The lab runner: what a container sees, how it ends, and the commands around it.

use std::fs;

use anyhow::ensure;
use vswitch_proto::api::ContainerSummary;
use vswitch_tests::Lab;
use vswitch_tests::process::Process;
use vswitch_tests::wait::eventually;

#[test]
fn exit_codes_in_the_foreground() {
    let lab = Lab::new();
    let mut wrong = Vec::new();
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "exit 255"], 255),
        (&["no-such-command"], 127),
        (&["/no/such/file"], 127),
        (&["/etc/passwd"], 126),
        (&["/etc"], 126),
    ] {
        let output = lab.ctl(&[&["run", "--rm", "--"], command].concat());
        let not_started = code == 126 || code == 127;
        let said = output.stderr.lines().count() == 1 && output.stderr.contains(command[0]);
        if output.code != code || not_started && !said {
            wrong.push(format!("{command:?} should exit with {code}: {output:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(lab.ok(&["ps", "-aq"]), "");
    let mut foreground = Process::spawn(&lab, &["vswitchctl", "run", "--name=fg", "--", "sleep", "100000"]);
    eventually("it runs", || {
        ensure!(lab.ok(&["ps", "--format={{.Names}}"]) == "fg\n");
        Ok(())
    });
    lab.ok(&["kill", "fg"]);
    assert_eq!(foreground.wait(), 137);
    assert_eq!(lab.inspect("fg").state.exit_code, 137);
}

#[test]
fn output_and_input_of_a_foreground_container() {
    let lab = Lab::new();
    let both = lab.ctl(&["run", "--rm", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    let through = lab.ctl_with_input(&["run", "-i", "--rm", "--", "cat"], b"first\nsecond");
    assert_eq!((through.stdout.as_str(), through.code), ("first\nsecond", 0), "{through:?}");
    // Without -i there is no input.
    let none = lab.ctl_with_input(&["run", "--rm", "--", "cat"], b"unread");
    assert_eq!((none.stdout.as_str(), none.code), ("", 0), "{none:?}");
    let big: Vec<u8> =
        (0..3_000_000_u32).flat_map(|i| format!("{i}\n").into_bytes()).take(5_000_000).collect();
    let through = lab.ctl_with_input(&["run", "-i", "--rm", "--", "sh", "-c", "tee /dev/stderr"], &big);
    assert!(through.stdout.as_bytes() == big, "{} of {} bytes came back", through.stdout.len(), big.len());
    assert!(through.stderr.as_bytes() == big, "{} of {} bytes came back", through.stderr.len(), big.len());
}

#[test]
fn what_a_container_sees() {
    let lab = Lab::new();
    let id = lab.run_idle("c", &[]);
    assert_eq!(lab.ctl(&["run", "--rm", "--", "sh", "-c", "echo $$"]).stdout, "1\n");
    let processes = lab.exec_ok("c", &["busybox", "ps", "-o", "pid,args"]);
    assert!(processes.contains("    1 sleep 100000"), "{processes}");
    assert!(!processes.contains("host-init"), "{processes}");
    assert_eq!(lab.exec_ok("c", &["hostname"]), format!("{}\n", &id[..12]));
    assert_eq!(lab.sh("hostname"), "lab\n");
    for file in ["/usr/x", "/etc/x", "/x", "/etc/passwd"] {
        let refused = lab.exec("c", &["sh", "-c", &format!("echo x >>{file}")]);
        assert!(refused.code != 0 && refused.stderr.contains("Read-only file system"), "{file}: {refused:?}");
    }
    assert_eq!(lab.exec_ok("c", &["cat", "/etc/debian_version"]), lab.sh("cat /etc/debian_version"));
    let interfaces = lab.exec_ok("c", &["ls", "/sys/class/net"]);
    assert_eq!(interfaces, "eth0\nlo\n");
    lab.exec_ok("c", &["sh", "-c", "echo thrown away >/dev/null && head -c 4 /dev/urandom | wc -c"]);
    let pid = lab.inspect("c").state.pid;
    for kind in ["net", "mnt", "uts", "pid"] {
        let of = |pid: u32| fs::read_link(lab.path(format!("/proc/{pid}/ns/{kind}"))).unwrap();
        assert_ne!(of(pid), of(1), "{kind}");
    }
}

#[test]
fn a_root_directory_of_its_own() {
    let lab = Lab::new();
    // With the libraries that it needs, unless it is static.
    lab.sh("mkdir -p /tmp/root/bin; cp $(command -v busybox) /tmp/root/bin/busybox
         for library in $(ldd /tmp/root/bin/busybox 2>/dev/null | grep -o '/[^ ]*' || true); do
             mkdir -p /tmp/root$(dirname $library); cp -L $library /tmp/root$library
         done
         chroot /tmp/root /bin/busybox --install -s /bin");
    lab.ok(&["run", "-itd", "--rootfs=/tmp/root", "--name=c"]);
    lab.run_idle("peer", &[]);
    let root = lab.exec_ok("c", &["ls", "/"]);
    assert!(root.contains("bin\n") && root.contains("etc\n") && !root.contains("usr\n"), "{root}");
    let hosts = lab.exec_ok("c", &["cat", "/etc/hosts"]);
    assert!(hosts.contains("127.0.0.1\tlocalhost\n"), "{hosts}");
    let ping = lab.exec("c", &["ping", "-c", "1", "-W", "10", "peer"]);
    assert_eq!(ping.code, 0, "{ping:?}");
    lab.exec_ok("c", &["sh", "-c", "echo mine >/made"]);
    assert_eq!(lab.sh("cat /tmp/root/made"), "mine\n");
    lab.ok(&["rm", "-f", "c"]);
    assert_eq!(lab.sh("cat /tmp/root/made; mount | grep -c /tmp/root || true"), "mine\n0\n");
}

#[test]
fn exec_runs_beside_the_container() {
    let lab = Lab::new();
    lab.run_idle("c", &["--hostname=here"]);
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 9"], 9),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["no-such-command"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let output = lab.exec("c", command);
        assert_eq!(output.code, code, "{command:?}: {output:?}");
    }
    let split = lab.exec("c", &["sh", "-c", "hostname; echo err >&2"]);
    assert_eq!((split.stdout.as_str(), split.stderr.as_str()), ("here\n", "err\n"));
    let through = lab.ctl_with_input(&["exec", "-i", "c", "sh", "-c", "cat; exit 4"], b"input");
    assert_eq!((through.stdout.as_str(), through.code), ("input", 4), "{through:?}");
    // The container's end is the end of what runs in it.
    let mut exec =
        Process::spawn(&lab, &["vswitchctl", "exec", "c", "sh", "-c", "echo started; sleep 100000"]);
    exec.wait_for("started");
    lab.ok(&["rm", "-f", "c"]);
    assert_eq!(exec.wait(), 137);
}

#[test]
fn logs() {
    let lab = Lab::new();
    let script = "trap 'echo bye; exit 0' TERM; for i in 1 2 3 4; do echo out $i; done; echo err >&2; sleep 100000 & wait";
    lab.ok(&["run", "-d", "--name=c", "--", "sh", "-c", script]);
    let mut follow = Process::spawn(&lab, &["vswitchctl", "logs", "-f", "c"]);
    follow.wait_for("err\n");
    let logs = lab.ctl(&["logs", "c"]);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out 1\nout 2\nout 3\nout 4\n", "err\n"));
    let tail = lab.ctl(&["logs", "--tail", "2", "c"]);
    assert_eq!((tail.stdout.as_str(), tail.stderr.as_str()), ("out 4\n", "err\n"));
    assert_eq!(lab.ctl(&["logs", "--tail=0", "c"]).stdout, "");
    let stamped = lab.ok(&["logs", "-t", "--tail=2", "c"]);
    let (stamp, line) = stamped.trim_end().split_once(' ').unwrap();
    assert!(stamp.starts_with("20") && stamp.ends_with('Z') && line == "out 4", "{stamped}");
    lab.ok(&["stop", "c"]);
    assert_eq!(follow.wait(), 0);
    assert!(follow.output().ends_with("bye\n"), "{}", follow.output());
    assert!(lab.ok(&["logs", "c"]).ends_with("out 4\nbye\n"));
}

#[test]
fn whoever_follows_from_the_start_misses_nothing() {
    let lab = Lab::new();
    for round in 0..20 {
        let name = format!("talks{round}");
        lab.ok(&["run", "-d", "--name", &name, "--", "sh", "-c", "echo once; sleep 100000"]);
        Process::spawn(&lab, &["vswitchctl", "logs", "-f", &name]).wait_for("once\n");
    }
}

#[test]
fn stop_and_kill() {
    let lab = Lab::new();
    let script = |on_term: &str| {
        format!("trap '{on_term}' TERM; trap 'echo usr1' USR1; echo ready; while :; do sleep 0.1; done")
    };
    for (name, on_term) in [("polite", "exit 3"), ("stubborn", "")] {
        lab.ok(&["run", "-d", "--name", name, "--", "sh", "-c", &script(on_term)]);
        eventually("the traps are set", || {
            ensure!(lab.ok(&["logs", name]) == "ready\n");
            Ok(())
        });
    }
    lab.ok(&["kill", "-s", "USR1", "polite"]);
    eventually("the signal arrives", || {
        ensure!(lab.ok(&["logs", "polite"]) == "ready\nusr1\n");
        Ok(())
    });
    lab.ok(&["kill", "--signal=SIGUSR1", "stubborn"]);
    assert!(lab.inspect("polite").state.running);
    assert_eq!(lab.ok(&["stop", "polite"]), "polite\n");
    assert_eq!(lab.ok(&["stop", "-t", "1", "stubborn"]), "stubborn\n");
    assert_eq!(lab.inspect("polite").state.exit_code, 3);
    assert_eq!(lab.inspect("stubborn").state.exit_code, 137);
    // Stopping what has ended already is no error, as in Docker.
    lab.ok(&["stop", "polite"]);
    assert!(lab.inspect_network("bridge").containers.is_empty());
    lab.run_idle("many1", &[]);
    lab.run_idle("many2", &[]);
    lab.ok(&["kill", "many1", "many2"]);
    assert_eq!((lab.wait_until_exited("many1"), lab.wait_until_exited("many2")), (137, 137));
    assert_eq!(lab.ok(&["rm", "polite", "stubborn", "many1", "many2"]), "polite\nstubborn\nmany1\nmany2\n");
    assert_eq!(lab.ok(&["ps", "-aq"]), "");
}

#[test]
fn removal() {
    let lab = Lab::new();
    lab.run_idle("box", &[]);
    let refused = lab.fails(&["rm", "box"], 4);
    assert!(refused.contains("box"), "{refused}");
    assert!(lab.inspect("box").state.running);
    assert_eq!(lab.ok(&["rm", "-f", "box"]), "box\n");
    lab.fails(&["inspect", "box"], 3);
    lab.ok(&["run", "-d", "--rm", "--name=auto", "--", "sh", "-c", "exit 5"]);
    lab.wait_until_gone("auto");
    // Name and address are free again.
    lab.run_idle("box", &["--ip=172.17.0.2"]);
    lab.run_idle("auto", &["--ip=172.17.0.3"]);
}

#[test]
fn a_container_that_ended_can_be_started_again() {
    let lab = Lab::new();
    lab.ok(&["run", "-d", "--name=c", "--", "sh", "-c", "echo once more; exit 6"]);
    assert_eq!(lab.wait_until_exited("c"), 6);
    let answer = lab.http("POST", "/v1/containers/c/start", "");
    assert!((200..300).contains(&answer.status), "{answer:?}");
    eventually("it has run twice", || {
        ensure!(lab.ok(&["logs", "c"]) == "once more\nonce more\n");
        Ok(())
    });
    assert_eq!(lab.wait_until_exited("c"), 6);
    let body = r#"{"name": "later", "command": ["sleep", "1000"], "start": false}"#;
    lab.http("POST", "/v1/containers", body).parsed::<vswitch_proto::api::Created>();
    assert_eq!(lab.inspect("later").state.status, "created");
    assert!(lab.inspect_network("bridge").containers.is_empty(), "a network shows the containers that run");
    assert!(lab.http("POST", "/v1/containers/later/start", "").status < 300);
    lab.assert_reaches("later", "172.17.0.1");
}

#[test]
fn the_table_of_containers() {
    let lab = Lab::new();
    let id = lab.run_idle("running", &[]);
    lab.ok(&["run", "-d", "--name=ended", "--net=none", "--", "sh", "-c", "exit 3"]);
    lab.wait_until_exited("ended");
    let table = lab.ok(&["ps"]);
    let (header, rows) = table.split_once('\n').unwrap();
    for column in ["CONTAINER ID", "COMMAND", "CREATED", "STATUS", "NAMES"] {
        assert!(header.contains(column), "no {column} in {header}");
    }
    assert_eq!(rows.lines().count(), 1, "{table}");
    assert!(rows.starts_with(&id[..12]) && !rows.contains(&id[..13]) && rows.contains("running"), "{table}");
    assert!(rows.contains("Up ") && rows.contains("sleep 100000"), "{table}");
    assert_eq!(lab.ok(&["ps", "-a"]).lines().count(), 3);
    assert_eq!(lab.ok(&["ps", "-q"]), format!("{}\n", &id[..12]));
    assert_eq!(lab.ok(&["ps", "-q", "--no-trunc"]), format!("{id}\n"));
    for (filter, expected) in [
        ("name=end", "ended\n"),
        ("status=exited", "ended\n"),
        ("network=bridge", "running\n"),
        (&format!("id={}", &id[..12]), "running\n"),
        ("name=nobody", ""),
    ] {
        assert_eq!(lab.ok(&["ps", "-a", "--filter", filter, "--format={{.Names}}"]), expected, "{filter}");
    }
    let status = lab.ok(&["ps", "-a", "--filter=name=ended", "--format={{.Status}}"]);
    assert!(status.starts_with("Exited (3) "), "{status}");
    let all: Vec<ContainerSummary> = lab.http("GET", "/v1/containers?all=true", "").parsed();
    assert_eq!(all.len(), 2);
    let one: Vec<ContainerSummary> = lab.http("GET", "/v1/containers", "").parsed();
    assert_eq!((one.len(), one[0].names.as_str(), one[0].kind.as_str()), (1, "running", "lab"));
    assert_eq!(one[0].networks, ["bridge"]);
}

#[test]
fn containers_without_a_name_and_prefixes_of_ids() {
    let lab = Lab::new();
    let id = lab.ok(&["run", "-d", "--", "sleep", "100000"]);
    let prefix = &id[..10];
    let name = lab.ok(&["inspect", "--format={{.Name}}", prefix]);
    assert!(name.starts_with('/') && name.len() > 2, "{name}");
    assert_eq!(lab.exec_ok(prefix, &["echo", "here"]), "here\n");
    assert_eq!(lab.ok(&["rm", "-f", prefix]).trim_end(), prefix);
    assert_eq!(lab.ok(&["ps", "-aq"]), "");
}
