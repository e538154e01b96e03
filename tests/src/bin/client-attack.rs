//! A client of the API at full power, in a process of its own: the daemon tells clients apart by their sessions.
//!
//! Called as `client-attack KIND SOCKET CONTAINER THREADS`. It goes on until it is killed, and prints every second how many
//! requests were answered, refused, and failed so far. With one thread it is a client that means no harm: it makes one
//! request at a time, and reads what it is sent.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use vswitch_tests::http::{Answer, Request, connect};

/// Answers that are never read, of each thread.
const UNREAD: usize = 8;

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client-attack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, socket, container, threads] = &arguments[..] else {
        bail!("the arguments are KIND SOCKET CONTAINER THREADS")
    };
    let threads: usize = threads.parse().context("THREADS is a number")?;
    let socket = PathBuf::from(socket);
    nix::unistd::setsid().context("it is in a session of its own already")?;
    let attack = match kind.as_str() {
        "calls" => calls,
        "streams" if threads == 1 => stream_read,
        "logs" if threads == 1 => log_read,
        "streams" => streams,
        "logs" => logs,
        "starts" => starts,
        other => bail!("{other} is no attack"),
    };
    let counts = Arc::new(Counts::default());
    for _ in 0..threads {
        let (socket, container, counts) = (socket.clone(), container.clone(), Arc::clone(&counts));
        thread::spawn(move || {
            loop {
                attack(&socket, &container, &counts);
            }
        });
    }
    loop {
        thread::sleep(Duration::from_secs(1));
        let [answered, refused, failed] =
            [&counts.answered, &counts.refused, &counts.failed].map(|count| count.load(Ordering::Relaxed));
        println!("answered {answered}, refused {refused}, failed {failed}");
        std::io::stdout().flush().context("nobody reads the counts")?;
    }
}

impl Counts {
    fn add(&self, answer: &anyhow::Result<Answer>) {
        let count = match answer {
            Ok(answer) if answer.status < 300 => &self.answered,
            Ok(_) => &self.refused,
            Err(_) => &self.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn calls(socket: &Path, _: &str, counts: &Counts) {
    counts.add(&Request::new("GET", "/v1/containers?all=true").send(socket));
}

/// Opens streams of events, which are never read, until it gets no more.
fn streams(socket: &Path, _: &str, counts: &Counts) {
    unread("/v1/events", socket, counts);
}

/// The same with the output of a container, which is without an end.
fn logs(socket: &Path, container: &str, counts: &Counts) {
    unread(&format!("/v1/containers/{container}/logs?follow=true"), socket, counts);
}

fn unread(path: &str, socket: &Path, counts: &Counts) {
    let request = Request::new("GET", path).to_bytes();
    let mut open = Vec::new();
    for _ in 0..UNREAD {
        let Ok(mut stream) = connect(socket) else {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        if stream.write_all(&request).is_ok() {
            counts.add(&Answer::read_head(&mut std::io::BufReader::new(&stream)));
            open.push(stream);
        }
    }
}

fn stream_read(socket: &Path, _: &str, counts: &Counts) {
    read("/v1/events", socket, counts);
}

fn log_read(socket: &Path, container: &str, counts: &Counts) {
    read(&format!("/v1/containers/{container}/logs?follow=true"), socket, counts);
}

/// Reads a stream to its end, or until nothing has come for long.
fn read(path: &str, socket: &Path, counts: &Counts) {
    let Ok(mut stream) = connect(socket) else { return };
    if stream.write_all(&Request::new("GET", path).to_bytes()).is_ok() {
        let mut reader = std::io::BufReader::new(stream);
        counts.add(&Answer::read_head(&mut reader));
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    }
}

/// Starts a container that ends at once, and removes it.
fn starts(socket: &Path, _: &str, counts: &Counts) {
    let body = r#"{"command": ["true"], "networks": [{"network": "none"}]}"#;
    let started = Request::new("POST", "/v1/containers").json(body).send(socket);
    counts.add(&started);
    let Ok(answer) = started else { return };
    let made: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
    if let Some(id) = made["id"].as_str() {
        counts.add(&Request::new("DELETE", &format!("/v1/containers/{id}?force=true")).send(socket));
    }
}
