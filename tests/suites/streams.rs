//! Streams lose nothing silently, and their clients harm nobody: slow readers, many clients, clients that go.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::ensure;
use vswitch_tests::Lab;
use vswitch_tests::process::Process;
use vswitch_tests::terminal::Terminal;
use vswitch_tests::wait::eventually;

/// What a pipeline of bash prints, and after it the exit code of its first command.
fn pipeline(lab: &Lab, line: &str) -> String {
    let line = line.replace("vswitchctl", "/mnt/vswitchctl");
    let output = lab.run(&["bash", "-c", &format!("{line}; echo code ${{PIPESTATUS[0]}}")]);
    assert_eq!(output.stderr, "", "{line}");
    output.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads 30,000 bytes ten times a second and prints how many there were.
const SLOW_READER: &str = "(sum=0; while n=$(head -c 30000 | wc -c); [ $n -gt 0 ]; do sum=$((sum + n)); sleep 0.1; done; echo $sum)";

#[test]
fn a_slow_reader_of_an_exec_gets_everything_and_the_exit_code() {
    let lab = Lab::new();
    lab.run_idle("c", &[]);
    assert_eq!(pipeline(&lab, "vswitchctl exec c seq 1 1000000 | (sleep 2; wc -c)"), "6888896 code 0");
    assert_eq!(
        pipeline(&lab, &format!("vswitchctl exec c sh -c 'seq 1 200000; exit 7' | {SLOW_READER}")),
        "1288895 code 7"
    );
    // Standard error is held up in the same way.
    assert_eq!(
        pipeline(
            &lab,
            "vswitchctl exec c sh -c 'seq 1 300000 >&2; exit 5' 2>&1 >/dev/null | (sleep 2; wc -c)"
        ),
        "1988895 code 5"
    );
}

#[test]
fn a_slow_reader_of_a_foreground_container_gets_everything_and_the_exit_code() {
    let lab = Lab::new();
    assert_eq!(
        pipeline(&lab, "vswitchctl run --rm -- head -c 900000 /dev/zero | (sleep 8; wc -c)"),
        "900000 code 0"
    );
    // The container has ended long before its output is read.
    let line = "vswitchctl run --name=ends -- sh -c 'head -c 200000 /dev/zero; exit 9' | (sleep 8; wc -c)";
    assert_eq!(pipeline(&lab, line), "200000 code 9");
    lab.ok(&["rm", "ends"]);
    let line = format!("vswitchctl run --rm -- sh -c 'seq 1 200000; exit 3' | {SLOW_READER}");
    assert_eq!(pipeline(&lab, &line), "1288895 code 3");
}

#[test]
fn a_slow_terminal_goes_on_living() {
    let lab = Lab::new();
    lab.run_idle("c", &[]);
    lab.ok(&["run", "-itd", "--name=shell"]);
    for args in [
        &["vswitchctl", "exec", "-it", "c", "sh"][..],
        &["vswitchctl", "run", "-it", "--", "sh"],
        &["vswitchctl", "attach", "shell"],
    ] {
        let mut terminal = Terminal::spawn_slow(&lab, args, 8000);
        // At 80 KB a second this takes more than three seconds.
        terminal.type_keys("seq 1 40000; echo al''ive; exit 4\n");
        assert_eq!(terminal.wait(), 4, "{args:?}");
        eventually("everything is shown", || {
            let screen = terminal.screen();
            ensure!(screen.contains("39999\r\n40000\r\nalive\r\n"), "{args:?}: {} bytes", screen.len());
            Ok(())
        });
    }
}

#[test]
fn an_interrupted_exec_interrupts_its_process() {
    let lab = Lab::new();
    lab.run_idle("c", &[]);
    let script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done";
    for _ in 0..70 {
        let mut exec = Process::spawn(&lab, &["vswitchctl", "exec", "c", "sh", "-c", script]);
        exec.wait_for("ready\n");
        exec.signal("INT");
        assert_eq!((exec.wait(), exec.output().as_str()), (3, "ready\ncaught\n"));
    }
    assert_eq!(lab.exec_ok("c", &["echo", "well"]), "well\n");
    // A program that does nothing about a signal ends by it, with everything below it.
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("QUIT", 131)] {
        let mut exec =
            Process::spawn(&lab, &["vswitchctl", "exec", "c", "sh", "-c", "echo ready; sleep 4321; true"]);
        exec.wait_for("ready\n");
        exec.signal(signal);
        assert_eq!(exec.wait(), code, "{signal}");
    }
    wait_until_no_process(&lab, "sleep 4321");
}

#[test]
fn an_exec_whose_client_is_killed_hangs_up() {
    let lab = Lab::new();
    lab.run_idle("c", &[]);
    for options in [&[][..], &["-i"]] {
        for _ in 0..70 {
            let words =
                [&["vswitchctl", "exec"], options, &["c", "sh", "-c", "echo ready; sleep 4321; true"]];
            let mut exec = Process::spawn(&lab, &words.concat());
            exec.wait_for("ready\n");
            exec.signal("KILL");
            exec.wait();
        }
    }
    assert_eq!(lab.exec_ok("c", &["echo", "well"]), "well\n");
    wait_until_no_process(&lab, "sleep 4321");
}

#[test]
fn an_exec_that_ignores_signals_is_left_at_the_third() {
    let lab = Lab::new();
    lab.run_idle("c", &[]);
    let script = "trap 'echo not me' INT; echo ready; while :; do sleep 0.05; done";
    let mut exec = Process::spawn(&lab, &["vswitchctl", "exec", "c", "sh", "-c", script]);
    exec.wait_for("ready\n");
    for times in 1..=2 {
        exec.signal("INT");
        eventually("the process has the signal", || {
            ensure!(exec.output().matches("not me").count() == times, "{}", exec.output());
            Ok(())
        });
    }
    exec.signal("INT");
    assert_eq!(exec.wait(), 130);
    // Left, it hangs up.
    wait_until_no_process(&lab, "not me");
}

#[test]
fn an_exec_goes_on_without_its_daemon() {
    let mut lab = Lab::new();
    lab.run_idle("c", &[]);
    let mut exec =
        Process::spawn(&lab, &["vswitchctl", "exec", "c", "sh", "-c", "echo ready; sleep 4321; true"]);
    exec.wait_for("ready\n");
    lab.kill9();
    assert_ne!(exec.wait(), 0);
    lab.start();
    assert!(lab.exec_ok("c", &["busybox", "ps"]).contains("sleep 4321"));
}

fn wait_until_no_process(lab: &Lab, text: &str) {
    eventually("the processes of the execs are gone", || {
        let processes = lab.exec_ok("c", &["busybox", "ps", "-o", "args"]);
        let left = processes.lines().filter(|line| line.contains(text)).count();
        ensure!(left == 0, "{left} of them run");
        Ok(())
    });
}

#[test]
fn the_last_output_of_an_exec_arrives_whatever_is_typed_at_its_end() {
    let lab = Lab::new();
    lab.run_idle("c", &[]);
    for _ in 0..50 {
        // The input goes on after the command has ended.
        let line = "yes | vswitchctl exec -i c sh -c 'echo last; exit 6' 2>&1; echo code ${PIPESTATUS[1]}";
        let output = lab.run(&["bash", "-c", &line.replace("vswitchctl", "/mnt/vswitchctl")]);
        assert_eq!(output.stdout, "last\ncode 6\n");
    }
}

/// A request on a connection of its own, whose answer is read as far as its head.
fn open(lab: &Lab, request: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(lab.socket()).expect("the daemon listens");
    stream.write_all(request.as_bytes()).expect("the daemon reads");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    (stream, String::from_utf8_lossy(&head).into_owned())
}

fn attach(container: &str) -> String {
    format!(
        "POST /v1/containers/{container}/attach HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\n\
         Upgrade: vswitch-stream\r\n\r\n"
    )
}

#[test]
fn many_clients_that_do_not_read_harm_nobody() {
    let lab = Lab::new();
    let script = "echo ready; read x; head -c 3000000 /dev/zero; echo over; sleep 100000";
    lab.ok(&["run", "-id", "--name=c", "--", "sh", "-c", script]);
    let mut open_streams = Vec::new();
    let mut refused = 0;
    for _ in 0..128 {
        for request in
            [attach("c"), "GET /v1/containers/c/logs?follow=true HTTP/1.1\r\nHost: x\r\n\r\n".into()]
        {
            let (stream, head) = open(&lab, &request);
            refused += usize::from(!head.starts_with("HTTP/1.1 101") && !head.starts_with("HTTP/1.1 200"));
            open_streams.push(stream);
        }
    }
    assert!(refused > 0, "256 streams of one container were taken");
    assert!(lab.inspect("c").state.running);
    // Whoever opened them has places for other streams again when it closes some.
    drop(open_streams.drain(..20));
    eventually("there is a place again", || {
        let (mut typing, head) = open(&lab, &attach("c"));
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        typing.write_all(b"\0\0\0\0\x03go\n").expect("there is room");
        Ok(())
    });
    let mut waiting = Process::spawn(&lab, &["vswitchctl", "wait", "c"]);
    eventually("the container has printed everything", || {
        ensure!(lab.ctl(&["logs", "--tail=1", "c"]).stdout.ends_with("over\n"));
        Ok(())
    });
    assert!(lab.inspect("c").state.running);
    assert_eq!(lab.exec_ok("c", &["echo", "well"]), "well\n");
    assert_eq!(waiting.try_wait(), None);
    lab.ok(&["kill", "c"]);
    assert_eq!(waiting.wait(), 0);
    assert!(waiting.output().contains("137"), "{}", waiting.output());
    lab.ok(&["rm", "c"]);
}

#[test]
fn a_daemon_without_descriptors_kills_nobody() {
    let lab = Lab::new();
    lab.run_idle("c", &[]);
    lab.run_idle("other", &[]);
    let pid = lab.daemon_pid();
    lab.sh(&format!("prlimit --pid {pid} --nofile=200:200"));
    let mut streams = Vec::new();
    // Some wait to be accepted in the end.
    for _ in 0..300 {
        let mut stream = UnixStream::connect(lab.socket()).expect("the daemon listens");
        let request = b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).expect("a socket takes that much");
        streams.push(stream);
    }
    // A question that cannot be asked comes while they are there.
    let mut waiting = Process::spawn(&lab, &["vswitchctl", "wait", "c"]);
    let mut executing = Process::spawn(&lab, &["vswitchctl", "exec", "other", "true"]);
    eventually("the daemon has no descriptor left, or refuses clients", || {
        let count = std::fs::read_dir(lab.path(format!("/proc/{pid}/fd")))?.count();
        ensure!(count >= 60, "{count} are open");
        Ok(())
    });
    drop(streams);
    executing.wait();
    assert!(lab.inspect("c").state.running && lab.inspect("other").state.running);
    assert_eq!(lab.exec_ok("c", &["echo", "well"]), "well\n");
    waiting.signal("TERM");
    waiting.wait();
}

#[test]
fn the_container_of_a_foreground_client_that_is_killed_goes_on() {
    let lab = Lab::new();
    let script = "echo ready; while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 1 300000; exec sleep 100000";
    let client = Process::spawn(&lab, &["vswitchctl", "run", "--name=c", "--", "sh", "-c", script]);
    client.wait_for("ready\n");
    drop(client);
    lab.exec_ok("c", &["touch", "/tmp/go"]);
    eventually("it prints on into its log", || {
        ensure!(lab.ctl(&["logs", "-n", "1", "c"]).stdout == "300000\n");
        Ok(())
    });
}

#[test]
fn a_long_log_is_there_whole_and_a_longer_one_says_what_is_missing() {
    let lab = Lab::new();
    lab.ok(&["run", "-d", "--name=c", "--", "seq", "1", "1000000"]);
    lab.wait_until_exited("c");
    assert_eq!(pipeline(&lab, "vswitchctl logs c | wc -c"), "6888896 code 0");
    assert_eq!(lab.ok(&["logs", "-n", "2", "c"]), "999999\n1000000\n");
    let bounds = ["--log-opt", "max-size=100k", "--log-opt=max-file=2"];
    lab.ok(&[&["run", "-d", "--name=short"], &bounds[..], &["--", "seq", "1", "1000000"]].concat());
    lab.wait_until_exited("short");
    let kept = lab.ctl(&["logs", "short"]);
    let text = format!("{}{}", kept.stderr, kept.stdout);
    let (first, rest) = text.split_once('\n').expect("there are lines");
    let lines = rest.lines().count();
    assert!(first.contains(&(1_000_000 - lines).to_string()), "{lines} lines follow {first:?}");
    assert!(lines > 0 && text.len() < 400_000 && text.ends_with("999999\n1000000\n"), "{first:?}");
    let format = "--format={{json .HostConfig.LogConfig}}";
    let shown = lab.ok(&["inspect", format, "short"]);
    assert_eq!(shown.trim(), r#"{"Type":"json-file","Config":{"max-file":"2","max-size":"102400"}}"#);
    let refused = lab.ctl(&["run", "--log-opt=max-size=0", "--", "true"]);
    assert_eq!(refused.code, 2, "{refused:?}");
}

#[test]
fn clients_of_logs_that_do_not_read_cost_little_and_hold_nobody_up() {
    let lab = Lab::new();
    lab.ok(&["run", "-d", "--name=c", "--", "sh", "-c", "seq 1 300000; exec sleep 100000"]);
    eventually("it has printed", || {
        ensure!(lab.ok(&["logs", "-n", "1", "c"]) == "300000\n");
        Ok(())
    });
    let pid = lab.daemon_pid();
    let resident_kib = || -> u64 {
        let status = std::fs::read_to_string(lab.path(format!("/proc/{pid}/status"))).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    let before = resident_kib();
    let clients: Vec<_> =
        (0..120).map(|_| open(&lab, "GET /v1/containers/c/logs HTTP/1.1\r\nHost: x\r\n\r\n").0).collect();
    // One more, which is read, comes after all of them.
    assert_eq!(pipeline(&lab, "vswitchctl logs c | wc -l"), "300000 code 0");
    let used = resident_kib().saturating_sub(before);
    assert!(used < 120 * 1024, "{used} KiB for 120 clients");
    assert_eq!(lab.ok(&["rm", "-f", "c"]), "c\n");
    drop(clients);
}

#[test]
fn a_root_directory_that_shows_the_data_is_refused() {
    let lab = Lab::new();
    lab.sh("mkdir -p /tmp/vswitch/inside /tmp/bound; ln -s /tmp/vswitch /tmp/link; mount --bind /tmp/vswitch/inside /tmp/bound");
    for root in ["/tmp/vswitch", "/tmp/vswitch/inside", "/tmp/link", "/tmp/bound", "/tmp", "/"] {
        let names = lab.sh(&format!("ls {root}"));
        let refused = lab.ctl(&["run", "-d", "--rootfs", root, "--name=c", "--", "true"]);
        assert!(refused.code != 0 && refused.stderr.contains("would show the data"), "{root}: {refused:?}");
        assert_eq!(lab.sh(&format!("ls {root}")), names);
    }
    assert_eq!(lab.ok(&["ps", "-aq"]), "");
}
