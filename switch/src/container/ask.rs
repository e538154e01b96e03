//! Questions to a shim over its socket, and what a failed one means.
//!
//! Only two failures say that nobody serves the socket: there is none, or nobody listens on it. All others (no
//! descriptors left, a full backlog, an answer that is late) say nothing about the container.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};
use vswitch_proto::api::stream::{Decoder, Frame, PAYLOAD_BYTES_MAX};

use super::Exit;
use super::protocol::{Answer, Request};

/// How long a shim may take to answer. It answers everything but `wait` at once, so one that does not is stopped, or
/// the host is stuck.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Between attempts to connect while the socket's backlog is full.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("the container does not run")]
    NotRunning,
    /// The command could not be run; the container ends with this.
    #[error("{}", .0.error)]
    NotStarted(Exit),
    /// The shim's own reason.
    #[error("{line}")]
    Refused { line: String },
    #[error("the container's shim did not answer as it should: look at its shim.err")]
    Protocol,
    #[error(
        "the container's shim does not answer, so it may be stopped; the container may be running: look at process {0} of the host"
    )]
    Unanswered(i32),
    #[error("the container's shim cannot be asked: {0}")]
    Unreachable(io::Error),
}

/// Asks one question. Unless `limit` is absent the answer is waited for that long, and `shim_pid` is named when it
/// does not come.
pub(super) async fn ask(
    dir: &Path,
    request: &Request,
    shim_pid: i32,
    limit: Option<Duration>,
) -> Result<Answer, ShimError> {
    let asked = async {
        let mut stream = self::request(dir, request).await?;
        answer(&mut stream).await
    };
    match limit {
        None => asked.await,
        Some(limit) => within(limit, shim_pid, asked).await,
    }
}

pub(super) async fn within<T>(
    limit: Duration,
    shim_pid: i32,
    asked: impl Future<Output = Result<T, ShimError>>,
) -> Result<T, ShimError> {
    tokio::time::timeout(limit, asked).await.unwrap_or(Err(ShimError::Unanswered(shim_pid)))
}

/// Makes a connection and sends `request` on it.
pub(super) async fn request(dir: &Path, request: &Request) -> Result<UnixStream, ShimError> {
    let mut stream = connect(dir).await?;
    let json = serde_json::to_vec(request).expect("a request is plain data");
    if json.len() > PAYLOAD_BYTES_MAX {
        return Err(ShimError::Refused { line: "the command and its environment are over 64 KiB".into() });
    }
    stream.write_all(&Frame::Request(json).to_bytes()).await.map_err(|_| ShimError::NotRunning)?;
    Ok(stream)
}

/// Reads the answer and not a byte more: what follows is the caller's.
pub(super) async fn answer(stream: &mut UnixStream) -> Result<Answer, ShimError> {
    match first_frame(stream).await? {
        Frame::Answer(json) => serde_json::from_slice(&json).map_err(|_| ShimError::Protocol),
        Frame::Error(line) => Err(ShimError::Refused { line: String::from_utf8_lossy(&line).into_owned() }),
        _ => Err(ShimError::Protocol),
    }
}

/// Reads one frame and not a byte more.
pub(super) async fn first_frame(stream: &mut UnixStream) -> Result<Frame, ShimError> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.map_err(|_| ShimError::NotRunning)?;
    let [_, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(ShimError::Protocol);
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.map_err(|_| ShimError::NotRunning)?;
    let mut decoder = Decoder::default();
    decoder.push(&head);
    decoder.push(&payload);
    decoder.next_frame().ok().flatten().ok_or(ShimError::Protocol)
}

/// Connects to the shim's socket. Its path would be too long for a socket address, which has at most 107 bytes, so it
/// is reached through its directory's descriptor.
async fn connect(dir: &Path) -> Result<UnixStream, ShimError> {
    let directory = File::open(dir).map_err(failed)?;
    let path = format!("/proc/self/fd/{}/shim.sock", directory.as_raw_fd());
    let deadline = Instant::now() + ANSWER_MAX;
    loop {
        match timeout_at(deadline, UnixStream::connect(&path)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                sleep(BACKLOG_PAUSE).await;
            }
            Ok(connected) => return connected.map_err(failed),
            Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }
}

fn failed(error: io::Error) -> ShimError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ShimError::NotRunning,
        _ => ShimError::Unreachable(error),
    }
}
