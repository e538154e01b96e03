//! A client of the API at full power, in a process of its own: the daemon tells clients apart by their sessions.
//!
//! Called as `client-attack KIND SOCKET CONTAINER`. It goes on until it is killed, and prints every second how many
//! requests were answered, refused, and failed so far.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use vswitch_tests::http::{Answer, Request, connect};

/// Requests that are made at the same time.
const THREADS: usize = 16;

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
    let [kind, socket, container] = &arguments[..] else { bail!("the arguments are KIND SOCKET CONTAINER") };
    let socket = PathBuf::from(socket);
    nix::unistd::setsid().context("it is in a session of its own already")?;
    let attack = match kind.as_str() {
        "call" | "calls" => calls,
        "streams" => streams,
        "logs" => logs,
        "starts" => starts,
        other => bail!("{other} is no attack"),
    };
    let counts = Arc::new(Counts::default());
    // One call at a time is what a client does that means no harm.
    for _ in 0..if kind == "call" { 1 } else { THREADS } {
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
