//! Against a socket in this process that behaves as the daemon must not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use vswitch_proto::api::{Created, Event, Network};

use super::*;
use crate::failure::NOT_FOUND;

struct Fixture {
    client: Client,
    listener: UnixListener,
    _directory: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let listener = UnixListener::bind(&path).unwrap();
    Fixture { client: Client::new(Socket(path)), listener, _directory: directory }
}

async fn read_head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn key_of(head: &str) -> String {
    let line = head.lines().find(|l| l.to_ascii_lowercase().starts_with("idempotency-key:"));
    line.expect("a key").split_once(": ").unwrap().1.into()
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Serves one connection after the other, each with its bytes, and returns the heads of the requests.
async fn serve(listener: UnixListener, answers: Vec<String>) -> Vec<String> {
    let mut heads = Vec::new();
    for answer in answers {
        let (mut stream, _) = listener.accept().await.unwrap();
        heads.push(read_head(&mut stream).await);
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    heads
}

#[tokio::test]
async fn a_broken_connection_is_tried_again_with_the_same_key() {
    let f = fixture();
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\"".to_string();
    for first in [String::new(), half] {
        let directory = fixture();
        let server =
            tokio::spawn(serve(directory.listener, vec![first, answer("201 Created", r#"{"id":"abc"}"#)]));
        let created: Created = directory.client.fetch(Call::post(&["networks"])).await.unwrap();
        assert_eq!(created.id, "abc");
        let heads = server.await.unwrap();
        assert_eq!(key_of(&heads[0]), key_of(&heads[1]));
        assert!(heads[0].starts_with("POST /v1/networks HTTP/1.1\r\n"));
    }
    let server = tokio::spawn(serve(f.listener, vec![String::new(), String::new()]));
    let failure = f.client.perform(Call::post(&["networks"])).await.unwrap_err();
    assert_eq!(failure.code(), UNREACHABLE);
    assert!(failure.to_string().contains("closed the connection before it answered"), "{failure}");
    assert_eq!(server.await.unwrap().len(), 2);
}

#[tokio::test]
async fn errors_keep_their_words_and_strangers_are_recognized() {
    for (reply, code, words) in [
        (
            answer("404 Not Found", r#"{"kind":"not_found","message":"no network 'x'; see network ls"}"#),
            NOT_FOUND,
            "no network 'x'; see network ls",
        ),
        (answer("409 Conflict", r#"{"kind":"conflict","message":"in use"}"#), 4, "in use"),
        (answer("404 Not Found", "<html>"), FAILED, "HTTP status 404"),
        (answer("200 OK", "<html>"), FAILED, "not of its API"),
        (answer("200 OK", ""), FAILED, "not of its API"),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n".into(), FAILED, "not HTTP"),
    ] {
        let f = fixture();
        let server = tokio::spawn(serve(f.listener, vec![reply]));
        let failure = f.client.fetch::<Network>(Call::get(&["networks", "x"])).await.unwrap_err();
        assert_eq!(failure.code(), code, "{failure}");
        assert!(failure.to_string().contains(words), "{failure}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn an_unreachable_daemon_is_named_with_its_cause() {
    let f = fixture();
    let path = f.client.path().to_path_buf();
    drop(f.listener);
    let refused = f.client.perform(Call::get(&["version"])).await.unwrap_err();
    assert!(refused.to_string().contains("nobody listens there; start vswitchd"), "{refused}");
    std::fs::remove_file(&path).unwrap();
    let absent = f.client.perform(Call::get(&["version"])).await.unwrap_err();
    assert!(absent.to_string().contains(&format!("unix://{}: there is no such socket", path.display())));
    assert_eq!((refused.code(), absent.code()), (UNREACHABLE, UNREACHABLE));
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up() {
    let f = fixture();
    let call = Call::get(&["version"]).timeout(Some(Duration::from_millis(1)));
    let failure = f.client.perform(call).await.unwrap_err();
    assert_eq!(failure.code(), UNREACHABLE);
    assert!(failure.to_string().contains("did not answer within"), "{failure}");
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let f = fixture();
    let server = tokio::spawn(async move {
        let (stream, _) = f.listener.accept().await.unwrap();
        let service = service_fn(|request: Request<Incoming>| async move {
            assert_eq!(request.headers()[header::UPGRADE], "vswitch-stream");
            tokio::spawn(async move {
                let mut io = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                let mut bytes = [0; 4];
                io.read_exact(&mut bytes).await.unwrap();
                bytes.reverse();
                io.write_all(&bytes).await.unwrap();
                io.shutdown().await.unwrap();
            });
            let response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "vswitch-stream");
            response.body(Full::<Bytes>::default())
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        connection.await.unwrap();
    });
    let (mut io, _) = f.client.upgrade(Call::post(&["containers", "c", "attach"])).await.unwrap();
    io.write_all(b"ping").await.unwrap();
    let mut back = String::new();
    io.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "gnip");
    server.await.unwrap();
}

#[tokio::test]
async fn a_refused_upgrade_is_an_error() {
    for (reply, words) in [
        (
            answer("409 Conflict", r#"{"kind":"conflict","message":"container c does not run"}"#),
            "does not run",
        ),
        (answer("200 OK", "{}"), "without the upgrade"),
    ] {
        let f = fixture();
        let server = tokio::spawn(serve(f.listener, vec![reply]));
        let failure = f.client.upgrade(Call::post(&["containers", "c", "attach"])).await.err().unwrap();
        assert!(failure.to_string().contains(words), "{failure}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn events_go_on_after_a_broken_connection() {
    let f = fixture();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen_heads = Arc::clone(&heads);
    let event = |seq: u64| {
        let event = Event {
            seq,
            at_ms: 0,
            kind: "network".into(),
            action: "create".into(),
            id: "a".into(),
            name: "b".into(),
            attributes: Default::default(),
        };
        let data = serde_json::to_string(&event).unwrap();
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nid: {seq}\ndata: {data}\n\n")
    };
    let replies = vec![event(7), event(8)];
    let server = tokio::spawn(async move {
        *seen_heads.lock().unwrap() = serve(f.listener, replies).await;
    });
    let count = AtomicUsize::new(0);
    let end = follow_events(&f.client, |event| {
        assert_eq!(event.seq, 7 + count.fetch_add(1, Ordering::Relaxed) as u64);
        if event.seq == 8 { Err(Failure::OutputClosed) } else { Ok(()) }
    })
    .await;
    assert!(matches!(end, Err(Failure::OutputClosed)));
    server.await.unwrap();
    let heads = heads.lock().unwrap();
    assert!(!heads[0].contains("last-event-id") && heads[1].contains("last-event-id: 7"), "{heads:?}");
}
