//! What a client can have of the daemon, and what is left for others then.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::ensure;
use vswitch_proto::api::{BODY_BYTES_MAX, Error, ErrorKind};
use vswitch_tests::Lab;
use vswitch_tests::http::{Events, Request, connect};
use vswitch_tests::process::Process;
use vswitch_tests::wait::eventually;

/// For a daemon with 256 descriptors: half of them are connections, half of these streams, a quarter of each for one
/// client.
const DESCRIPTORS: u32 = 256;
const CONNECTIONS_OF_CLIENT: usize = 32;
const STREAMS_OF_CLIENT: usize = 16;

/// The plugin's socket, on the machine.
const PLUGIN: &str = "/run/docker/plugins/vswitch.sock";

/// Runs `vswitchctl` as another client: in a session of its own.
fn other(lab: &Lab, args: &str) -> String {
    lab.sh(&format!("setsid -w /mnt/vswitchctl {args}"))
}

fn follow(lab: &Lab) -> anyhow::Result<Events> {
    Request::new("GET", "/v1/events").events(&lab.socket())
}

/// Sends these bytes and no more.
fn half(lab: &Lab, bytes: &[u8]) -> UnixStream {
    let mut stream = connect(&lab.socket()).expect("the daemon listens");
    // It may have been closed in favour of another one already.
    let _ = stream.write_all(bytes);
    stream
}

#[test]
fn one_client_cannot_take_all_streams() {
    let lab = Lab::with_descriptors(DESCRIPTORS, &[]);
    lab.run_idle("c", &[]);
    let mut streams: Vec<Events> =
        (0..STREAMS_OF_CLIENT).map(|_| follow(&lab).expect("it has a place")).collect();
    for path in ["/v1/events", "/v1/containers/c/logs"] {
        let refused = lab.http("GET", path, "").error();
        assert_eq!(refused.0, ErrorKind::Busy, "{refused:?}");
        assert!(refused.1.contains("this session has 16 streams (events, logs, "), "{refused:?}");
    }
    for command in [&["events"][..], &["wait", "c"], &["exec", "c", "true"]] {
        let told = lab.fails(command, 1);
        assert!(told.contains("this session has 16 streams "), "{told}");
    }
    // Everything else goes on, for the same client and for others.
    lab.ok(&["network", "create", "net"]);
    assert_eq!(streams[0].next_event().unwrap().1.name, "net", "a stream is a stream");
    assert_eq!(other(&lab, "exec c echo hello"), "hello\n");
    let mut waits = Process::spawn(&lab, &["setsid", "-w", "/mnt/vswitchctl", "wait", "c"]);
    // Places that are left are free again.
    streams.truncate(STREAMS_OF_CLIENT - 2);
    eventually("a stream more", || follow(&lab).map(drop));
    other(&lab, "kill c");
    assert_eq!(waits.wait(), 0);
    assert_eq!(waits.output(), "137\n");
}

/// As the row of the table of faults: with all descriptors that this machine gives a daemon.
#[test]
fn twelve_hundred_event_streams() {
    let lab = Lab::new();
    let mut streams = Vec::new();
    let mut refused = 0;
    for _ in 0..1200 {
        match follow(&lab) {
            Ok(stream) => streams.push(stream),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0 && streams.len() >= STREAMS_OF_CLIENT, "{} were let in", streams.len());
    lab.ok(&["network", "create", "one"]);
    assert_eq!(other(&lab, "network ls -q -f name=^one$").lines().count(), 1);
    other(&lab, "network create two");
    for stream in &mut streams {
        let told: Vec<String> = (0..2).map(|_| stream.next_event().unwrap().1.name).collect();
        assert_eq!(told, ["one", "two"]);
    }
}

/// As another row of that table: whoever cannot be asked is not taken for dead.
#[test]
fn a_thousand_event_streams_end_no_container() {
    let lab = Lab::with_descriptors(1024, &[]);
    lab.run_idle("c", &[]);
    let streams: Vec<Events> = (0..1006).filter_map(|_| follow(&lab).ok()).collect();
    assert!(streams.len() >= STREAMS_OF_CLIENT, "{} were let in", streams.len());
    let mut waits = Process::spawn(&lab, &["setsid", "-w", "/mnt/vswitchctl", "wait", "c"]);
    for _ in 0..20 {
        assert_eq!(other(&lab, "exec c echo alive"), "alive\n");
    }
    assert!(lab.inspect("c").state.running);
    drop(streams);
    other(&lab, "kill c");
    assert_eq!((waits.wait(), waits.output().as_str()), (0, "137\n"));
}

#[test]
fn a_small_lab_needs_few_descriptors() {
    let lab = Lab::with_descriptors(64, &[]);
    lab.run_idle("a", &[]);
    lab.run_idle("b", &[]);
    lab.assert_reaches("a", "b");
    assert_eq!(other(&lab, "exec a echo hello"), "hello\n");
    lab.ok(&["rm", "-f", "a", "b"]);
}

#[test]
fn connections_without_a_request_give_way() {
    let lab = Lab::with_descriptors(DESCRIPTORS, &[]);
    let mut events = follow(&lab).unwrap();
    let whole = Request::new("GET", "/v1/networks").to_bytes();
    // The first ones that were let in have gone by the end; none keeps anybody out.
    let mut open: Vec<UnixStream> = Vec::new();
    for n in 0..4 * CONNECTIONS_OF_CLIENT {
        open.push(half(&lab, &whole[..n % whole.len()]));
        if n % 16 == 0 {
            lab.ok(&["network", "ls"]);
        }
    }
    other(&lab, "network create net");
    assert_eq!(events.next_event().unwrap().1.name, "net", "what is under way stays");
    // What began with half a request is completed: the last one was not closed.
    let mut last = open.pop().unwrap();
    let sent = (4 * CONNECTIONS_OF_CLIENT - 1) % whole.len();
    last.write_all(&whole[sent..]).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut last, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn large_requests_have_places_of_their_own() {
    let lab = Lab::with_descriptors(DESCRIPTORS, &[]);
    let length = BODY_BYTES_MAX.to_string();
    let large = Request::new("POST", "/v1/networks").header("Content-Length", &length).to_bytes();
    let mut open: Vec<UnixStream> = (0..8).map(|_| half(&lab, &large)).collect();
    let body = format!(r#"{{"name": "net", "labels": {{"x": "{}"}}}}"#, "x".repeat(100_000));
    eventually("a ninth is refused", || {
        let answer =
            Request::new("POST", "/v1/networks/none-of-these/connect").json(&body).send(&lab.socket())?;
        let error: Error = serde_json::from_str(&answer.body)?;
        if error.kind != ErrorKind::Busy {
            // It had the place of one that came later, and which was refused in its stead.
            open.push(half(&lab, &large));
        }
        ensure!(error.kind == ErrorKind::Busy && error.message.contains("8 large requests"), "{error:?}");
        Ok(())
    });
    lab.ok(&["network", "create", "small"]);
}

#[test]
fn changes_of_one_client_do_not_hold_up_those_of_another() {
    const STARTS: usize = 120;
    let lab = Lab::new();
    let count = || lab.ok(&["ps", "-aq"]).lines().count();
    thread::scope(|scope| {
        for _ in 0..STARTS {
            let body = r#"{"command": ["sleep", "100000"], "networks": [{"network": "none"}]}"#;
            scope.spawn(|| assert_eq!(lab.http("POST", "/v1/containers", body).status, 201));
        }
        eventually("some are made", || {
            ensure!(count() > 0);
            Ok(())
        });
        other(&lab, "network create other");
        let made = count();
        assert!(made < STARTS, "the other client has waited for all of them");
    });
    assert_eq!(count(), STARTS);
}

#[test]
fn half_calls_keep_no_engine_out() {
    let lab = Lab::with_descriptors(DESCRIPTORS, &["--docker-plugin"]);
    let socket = lab.path(PLUGIN);
    let call = Request::new("POST", "/Plugin.Activate").body("").to_bytes();
    // It is there a moment after the API's.
    eventually("the plugin listens", || connect(&socket).map(drop));
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = connect(&socket).unwrap();
        let _ = stream.write_all(&call[..10]);
        open.push(stream);
    }
    // As soon as the daemon has seen that they are not idle.
    eventually("an engine is answered", || {
        let answer = Request::new("POST", "/Plugin.Activate").body("").send(&socket)?;
        ensure!(answer.status == 200 && answer.body.contains("NetworkDriver"), "{answer:?}");
        Ok(())
    });
    drop(open);
    // Idle connections are an engine's, and are kept: what is beyond them is told so.
    let idle: Vec<UnixStream> = (0..24).map(|_| connect(&socket).unwrap()).collect();
    eventually("no place is left", || {
        let answer = Request::new("POST", "/Plugin.Activate").body("").send(&socket)?;
        ensure!(
            answer.status == 429 && answer.body.contains("this session has 24 connections"),
            "{answer:?}"
        );
        Ok(())
    });
    drop(idle);
    eventually("there is a place again", || {
        let answer = Request::new("POST", "/Plugin.Activate").body("").send(&socket)?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    });
}
