//! The HTTP API by hand: what well-formed, malformed and hostile requests get.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::thread;

use anyhow::ensure;
use vswitch_proto::api::{BODY_BYTES_MAX, Created, ErrorKind, Network, Version};
use vswitch_tests::http::{Answer, Request, connect};
use vswitch_tests::wait::eventually;
use vswitch_tests::{Host, Lab};

fn networks(lab: &Lab) -> Vec<Network> {
    lab.http("GET", "/v1/networks", "").parsed()
}

fn names(lab: &Lab) -> Vec<String> {
    let mut names: Vec<_> = networks(lab).into_iter().map(|network| network.name).collect();
    names.sort();
    names
}

const DEFAULT: [&str; 3] = ["bridge", "host", "none"];

#[test]
fn the_documented_answers() {
    let lab = Lab::with(Host::new(), &["--node-name", "lab-one"]);
    let version: Version = lab.http("GET", "/v1/version", "").parsed();
    assert_eq!(
        (version.node_name.as_str(), version.version.as_str()),
        ("lab-one", env!("CARGO_PKG_VERSION"))
    );
    let answer = lab.http("POST", "/v1/networks", r#"{"name": "net", "labels": {"a": "b"}}"#);
    let created: Created = answer.parsed();
    assert_eq!(answer.headers["content-type"], "application/json");
    for reference in ["net", &created.id, &created.id[..20]] {
        let network: Network = lab.http("GET", &format!("/v1/networks/{reference}"), "").parsed();
        assert_eq!((network.name.as_str(), network.labels["a"].as_str()), ("net", "b"));
    }
    let body =
        r#"{"name": "c", "command": ["sleep", "1000"], "networks": [{"network": "net", "aliases": ["x"]}]}"#;
    let container: Created = lab.http("POST", "/v1/containers", body).parsed();
    assert_eq!(lab.inspect("c").id, container.id);
    let refused = lab.http("DELETE", "/v1/networks/net", "").error();
    assert_eq!(refused.0, ErrorKind::Conflict);
    assert!(refused.1.contains('c'), "{}", refused.1);
    for (method, path) in
        [("POST", "/v1/networks/bridge/connect"), ("POST", "/v1/networks/bridge/disconnect")]
    {
        let answer = lab.http(method, path, r#"{"container": "c"}"#);
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }
    let answer = lab.http("POST", &format!("/v1/containers/{}/kill?signal=KILL", &container.id[..12]), "");
    assert!((200..300).contains(&answer.status), "{answer:?}");
    let exit: vswitch_proto::api::Exit = lab.http("POST", "/v1/containers/c/wait", "").parsed();
    assert_eq!(exit.exit_code, 137);
    for path in ["/v1/containers/c", "/v1/networks/net"] {
        let answer = lab.http("DELETE", path, "");
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }
    assert_eq!(names(&lab), DEFAULT);
}

#[test]
fn requests_that_are_wrong_are_refused_as_json() {
    let lab = Lab::new();
    let id = "0".repeat(64);
    for (method, path, body, kind) in [
        ("POST", "/v1/networks", "{", ErrorKind::Invalid),
        ("POST", "/v1/networks", "not json", ErrorKind::Invalid),
        ("POST", "/v1/networks", "[]", ErrorKind::Invalid),
        ("POST", "/v1/networks", "{}", ErrorKind::Invalid),
        ("POST", "/v1/networks", "", ErrorKind::Invalid),
        ("POST", "/v1/networks", r#"{"name": 7}"#, ErrorKind::Invalid),
        ("POST", "/v1/networks", r#"{"name": "x", "internal": "yes"}"#, ErrorKind::Invalid),
        ("POST", "/v1/networks", r#"{"name": "x", "colour": "red"}"#, ErrorKind::Invalid),
        ("POST", "/v1/networks", r#"{"name": "x", "pools": [{"subnet": "10.0.0.0"}]}"#, ErrorKind::Invalid),
        ("POST", "/v1/networks", r#"{"name": "x", "driver": "\u0000"}"#, ErrorKind::Invalid),
        ("POST", "/v1/networks", r#"{"name": "x"} {"name": "y"}"#, ErrorKind::Invalid),
        ("POST", "/v1/containers", r#"{"command": "sleep"}"#, ErrorKind::Invalid),
        (
            "POST",
            "/v1/containers",
            r#"{"networks": [{"network": "bridge", "mac": "1"}]}"#,
            ErrorKind::Invalid,
        ),
        ("POST", "/v1/containers", r#"{"command": ["a\u0000b"]}"#, ErrorKind::Invalid),
        ("POST", "/v1/containers", r#"{"env": ["A=\u0000"]}"#, ErrorKind::Invalid),
        ("POST", "/v1/containers/adopt", r#"{"name": "x"}"#, ErrorKind::Invalid),
        ("POST", "/v1/networks/bridge/connect", r#"{"container": "nobody"}"#, ErrorKind::NotFound),
        ("GET", "/v1/networks/nope", "", ErrorKind::NotFound),
        ("GET", &format!("/v1/networks/{id}"), "", ErrorKind::NotFound),
        ("DELETE", "/v1/containers/nope", "", ErrorKind::NotFound),
        ("DELETE", "/v1/containers/nope?force=maybe", "", ErrorKind::Invalid),
        ("GET", "/v1/containers?all=maybe", "", ErrorKind::Invalid),
        ("POST", "/v1/containers/nope/stop?timeout_s=-1", "", ErrorKind::Invalid),
        ("POST", "/v1/containers/nope/start", "", ErrorKind::NotFound),
        ("GET", "/v1/containers/nope/logs", "", ErrorKind::NotFound),
        ("POST", "/v1/fdb", r#"{"network": "bridge", "mac": "02:00:00:00:00:01"}"#, ErrorKind::Invalid),
        ("GET", "/v1/fdb?network=nope", "", ErrorKind::NotFound),
        ("GET", "/v1/nothing", "", ErrorKind::NotFound),
        ("GET", "/", "", ErrorKind::NotFound),
        ("GET", "/v2/networks", "", ErrorKind::NotFound),
    ] {
        let answer = lab.http(method, path, body);
        let (seen, message) = answer.error();
        assert_eq!(seen, kind, "{method} {path} {body}: {message}");
    }
    assert_eq!(names(&lab), DEFAULT);
    assert_eq!(lab.ok(&["ps", "-aq"]), "");
}

#[test]
fn a_method_that_a_path_does_not_have() {
    let lab = Lab::new();
    for (method, path) in
        [("PUT", "/v1/networks"), ("DELETE", "/v1/version"), ("PATCH", "/v1/networks/bridge")]
    {
        let answer = lab.http(method, path, "{}");
        assert!((400..500).contains(&answer.status), "{answer:?}");
        let error: vswitch_proto::api::Error = serde_json::from_str(&answer.body).expect("errors are JSON");
        assert!(!error.message.contains('\n'), "{error:?}");
    }
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let lab = Lab::new();
    let body = |bytes: usize| {
        let frame = r#"{"name": "big", "labels": {"x": ""}}"#;
        frame.replace("\"\"", &format!("\"{}\"", "x".repeat(bytes - frame.len())))
    };
    for bytes in [BODY_BYTES_MAX + 1, 4 * BODY_BYTES_MAX] {
        // The daemon may close the connection before it has read all of it; then there is no answer to see.
        if let Ok(answer) = Request::new("POST", "/v1/networks").json(&body(bytes)).send(&lab.socket()) {
            assert!(answer.status == 413 || answer.error().0 == ErrorKind::Invalid, "{answer:?}");
        }
    }
    // The length alone, and chunks that never end.
    let declared = Request::new("POST", "/v1/networks").header("Content-Length", "99999999999").to_bytes();
    let mut stream = connect(&lab.socket()).unwrap();
    stream.write_all(&declared).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    let chunked = Request::new("POST", "/v1/networks").header("Transfer-Encoding", "chunked").to_bytes();
    let mut stream = connect(&lab.socket()).unwrap();
    stream.write_all(&chunked).unwrap();
    let chunk = [b"10000\r\n", &vec![b' '; 0x10000][..], b"\r\n"].concat();
    let refused = (0..1000).any(|_| stream.write_all(&chunk).is_err());
    assert!(refused, "the daemon takes 65 MB of a body");
    assert_eq!(names(&lab), DEFAULT);
}

#[test]
fn half_requests_and_garbage_do_no_harm() {
    let lab = Lab::new();
    let whole = Request::new("POST", "/v1/networks").json(r#"{"name": "net"}"#).to_bytes();
    let garbage: [&[u8]; 6] = [
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/networks HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/networks HTTP/1.1\r\nHost\r\n\r\n",
        b"POST /v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
    ];
    let mut open = Vec::new();
    for i in 0..300 {
        let mut stream = connect(&lab.socket()).unwrap();
        let cut = &whole[..i % whole.len()];
        stream.write_all(if i % 3 == 0 { garbage[i % garbage.len()] } else { cut }).unwrap();
        // Some clients stay and say nothing more.
        if i % 10 == 1 {
            open.push(stream);
        }
    }
    let mut stream = connect(&lab.socket()).unwrap();
    let endless = vec![b'a'; 1 << 16];
    let _ = stream.write_all(b"GET /v1/version HTTP/1.1\r\nX: ");
    let refused = (0..1000).any(|_| stream.write_all(&endless).is_err());
    assert!(refused, "the daemon takes a header of 65 MB");
    for bytes in garbage {
        let mut stream = connect(&lab.socket()).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 505"),
            "{answer}"
        );
    }
    assert_eq!(names(&lab), DEFAULT);
    lab.run_idle("a", &[]);
    lab.assert_reaches("a", "172.17.0.1");
    drop(open);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_an_answer() {
    let lab = Lab::new();
    lab.ok(&["run", "-d", "--name=talks", "--", "sh", "-c", "while :; do echo 'a line of text'; done"]);
    for path in ["/v1/events", "/v1/containers/talks/logs?follow=true"] {
        for _ in 0..20 {
            let mut stream = connect(&lab.socket()).unwrap();
            stream.write_all(&Request::new("GET", path).to_bytes()).unwrap();
            let _ = stream.read(&mut [0; 100]).unwrap();
        }
    }
    lab.ok(&["rm", "-f", "talks"]);
    let pid = lab.daemon_pid();
    eventually("the daemon closes what nobody reads", || {
        let sockets = lab.sh(&format!("ls -l /proc/{pid}/fd | grep -c 'socket:' || true"));
        ensure!(sockets.trim().parse::<usize>()? < 20, "{sockets} sockets are open");
        Ok(())
    });
}

fn create_with_key(lab: &Lab, key: &str, path: &str, body: &str) -> Answer {
    Request::new("POST", path)
        .header("Idempotency-Key", key)
        .json(body)
        .send(&lab.socket())
        .expect("it answers")
}

#[test]
fn a_repeated_request_is_applied_once() {
    let mut lab = Lab::new();
    let key = "00112233445566778899aabbccddeeff";
    let body = r#"{"name": "net", "pools": [{"subnet": "10.4.0.0/24"}]}"#;
    let first: Created = create_with_key(&lab, key, "/v1/networks", body).parsed();
    let second: Created = create_with_key(&lab, key, "/v1/networks", body).parsed();
    assert_eq!(first, second);
    // Even when the daemon was killed in between.
    lab.kill9();
    lab.start();
    let third: Created = create_with_key(&lab, key, "/v1/networks", body).parsed();
    assert_eq!(first, third);
    assert_eq!(names(&lab), ["bridge", "host", "net", "none"]);
    // With another key it is another request.
    let other = create_with_key(&lab, &key.replace('0', "1"), "/v1/networks", body);
    assert_eq!(other.error().0, ErrorKind::Conflict);
    let key = "ffeeddccbbaa99887766554433221100";
    let body = r#"{"command": ["sleep", "1000"]}"#;
    let first: Created = create_with_key(&lab, key, "/v1/containers", body).parsed();
    let second: Created = create_with_key(&lab, key, "/v1/containers", body).parsed();
    assert_eq!(first.id, second.id);
    assert_eq!(lab.ok(&["ps", "-aq", "--no-trunc"]), format!("{}\n", first.id));
    for bad in ["", "short", &"g".repeat(32), &"a".repeat(33)] {
        let answer = create_with_key(&lab, bad, "/v1/networks", r#"{"name": "x"}"#);
        assert_eq!(answer.error().0, ErrorKind::Invalid, "{bad:?}");
    }
}

#[test]
fn of_concurrent_creations_of_one_name_exactly_one_wins() {
    let lab = Lab::new();
    for (path, body) in [
        ("/v1/networks", r#"{"name": "same"}"#),
        ("/v1/containers", r#"{"name": "same", "command": ["sleep", "1000"]}"#),
    ] {
        let answers: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| lab.http("POST", path, body))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (won, lost): (Vec<Answer>, Vec<Answer>) = answers.into_iter().partition(|a| a.status < 300);
        assert_eq!(won.len(), 1, "{won:?}");
        lost.iter().for_each(|answer| assert_eq!(answer.error().0, ErrorKind::Conflict));
    }
    assert_eq!(names(&lab), ["bridge", "host", "none", "same"]);
    assert_eq!(lab.ok(&["ps", "-aq"]).lines().count(), 1);
    // The losers have taken no address.
    lab.run_idle("next", &[]);
    assert_eq!(lab.address("next", "bridge"), "172.17.0.3");
}

#[test]
fn references_by_prefix() {
    let lab = Lab::new();
    // More networks than there are hexadecimal digits: two of them begin with the same one.
    for i in 0..14 {
        lab.ok(&["network", "create", "--subnet", &format!("10.0.{i}.0/24"), &format!("net-{i}")]);
    }
    let all = networks(&lab);
    let digit =
        "0123456789abcdef".chars().find(|&d| all.iter().filter(|n| n.id.starts_with(d)).count() > 1).unwrap();
    let answer = lab.http("GET", &format!("/v1/networks/{digit}"), "");
    let (kind, message) = answer.error();
    assert!([ErrorKind::Invalid, ErrorKind::Conflict].contains(&kind), "{message}");
    let shown = lab.ctl(&["network", "rm", &digit.to_string()]);
    assert_eq!(shown.code, i32::from(kind.exit_code()), "{shown:?}");
    assert_eq!(networks(&lab), all);
    for network in &all {
        let unique =
            (1..=64).find(|&n| all.iter().filter(|m| m.id.starts_with(&network.id[..n])).count() == 1);
        let prefix = &network.id[..unique.unwrap()];
        // A name goes before a prefix; none of these names is hexadecimal.
        assert_eq!(lab.http("GET", &format!("/v1/networks/{prefix}"), "").parsed::<Network>().id, network.id);
    }
    // A name that is also the beginning of an id means the name.
    let prefix = &all[0].id[..12];
    lab.ok(&["network", "create", "--subnet=10.0.100.0/24", prefix]);
    assert_eq!(lab.inspect_network(prefix).name, prefix);
}

#[test]
fn the_socket_belongs_to_root_and_a_group() {
    let lab = Lab::new();
    let metadata = std::fs::metadata(lab.socket()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
    drop(lab);
    let lab = Lab::with(Host::new(), &["--socket-group", "games"]);
    let group = lab.sh("getent group games | cut -d: -f3");
    let metadata = std::fs::metadata(lab.socket()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert_eq!(metadata.gid().to_string(), group.trim());
}
