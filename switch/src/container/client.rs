//! The daemon's side of a shim.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use vswitch_proto::api::stream::{Decoder, Frame, PAYLOAD_BYTES_MAX};

use super::protocol::{Answer, KILLED, Report, Request, Status};
use super::{Exec, Exit, Launch, NetworkOwner, files};
use crate::io::process;

/// Longest report of a starting shim, bytes.
const REPORT_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("the container runs already: stop it first")]
    Running,
    #[error("cannot run the shim {}: {source}", exe.display())]
    Spawn { exe: PathBuf, source: io::Error },
    /// What the shim itself says.
    #[error("{line}")]
    Refused { line: String },
    /// The same, of a root directory that is none.
    #[error("{line}")]
    NoRoot { line: String },
    #[error("the shim ended without a word: look at {}", .0.display())]
    Silent(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("the container does not run")]
    NotRunning,
    /// The command could not be run; the container ends with this.
    #[error("{}", .0.error)]
    NotStarted(Exit),
    /// What the shim itself says.
    #[error("{line}")]
    Refused { line: String },
    #[error("the container's shim did not answer as it should: look at its shim.err")]
    Protocol,
}

/// What is left of a container when a daemon starts.
#[derive(Debug)]
pub enum Found {
    Running(Shim),
    Exited(Exit),
    /// It ended with its shim, by a crash or a restart of the host.
    Gone,
}

/// A running container. Each call uses a connection of its own.
#[derive(Debug, Clone)]
pub struct Shim {
    dir: PathBuf,
    status: Status,
}

/// Starts the shim of a [prepared](files::prepare) container. Returns when its init process waits in its
/// namespaces. When this fails, or its future is dropped, no process, mount or namespace is left over.
pub async fn create(launch: &Launch) -> Result<Shim, LaunchError> {
    create_with(Path::new("/proc/self/exe"), launch).await
}

/// The same with another executable than the running one, which `vswitchd` may have replaced on disk.
pub async fn create_with(exe: &Path, launch: &Launch) -> Result<Shim, LaunchError> {
    if connect(&launch.dir).await.is_ok() {
        return Err(LaunchError::Running);
    }
    let spawned = |source| LaunchError::Spawn { exe: exe.into(), source };
    let mut command = Command::new(exe);
    command.arg0("vswitchd").arg("shim").arg(&launch.dir).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(spawned)?;
    let mut output = child.stdout.take().expect("it was asked for").take(REPORT_BYTES_MAX);
    let mut report = Vec::new();
    output.read_to_end(&mut report).await.map_err(spawned)?;
    // The process that was spawned only forks the shim.
    child.wait().await.map_err(spawned)?;
    match serde_json::from_slice(&report) {
        Ok(Report::Ready(status)) => Ok(Shim { dir: launch.dir.clone(), status }),
        Ok(Report::Failed(line)) => Err(LaunchError::Refused { line }),
        Ok(Report::NoRoot(line)) => Err(LaunchError::NoRoot { line }),
        Err(_) => Err(LaunchError::Silent(launch.dir.join("shim.err"))),
    }
}

/// Finds a container again.
pub async fn reconnect(dir: &Path) -> Found {
    match ask(dir, &Request::Status).await {
        Ok(Answer::Status(status)) => Found::Running(Shim { dir: dir.into(), status }),
        Ok(Answer::Exited(exit)) => Found::Exited(exit),
        _ => match files::read_exit(dir) {
            Some(exit) => Found::Exited(exit),
            None => {
                end_orphan(dir);
                Found::Gone
            }
        },
    }
}

/// A container whose shim does not answer, as its files say, if its first process still runs.
pub fn silent(dir: &Path) -> Option<Shim> {
    let status = files::read_status(dir)?;
    let is_there = process::start_ticks(status.init_pid) == Some(status.init_start_ticks);
    is_there.then(|| Shim { dir: dir.into(), status })
}

impl Shim {
    /// In the daemon's pid namespace.
    pub fn init_pid(&self) -> i32 {
        self.status.init_pid
    }

    /// What another container needs to share this one's network.
    pub fn network_owner(&self) -> NetworkOwner {
        let Status { init_pid, init_start_ticks, .. } = self.status;
        NetworkOwner { init_pid, init_start_ticks }
    }

    /// The container's network namespace.
    pub fn netns_path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.status.init_pid).into()
    }

    /// Whether the command had been started when this was created or reconnected.
    pub fn started(&self) -> bool {
        self.status.started
    }

    /// Runs the command. Returns when it runs.
    pub async fn start(&self) -> Result<(), ShimError> {
        match ask(&self.dir, &Request::Start).await? {
            Answer::Done => Ok(()),
            Answer::Exited(exit) => Err(ShimError::NotStarted(exit)),
            other => Err(unexpected(other)),
        }
    }

    /// Sends a signal to the container's init. Before the start, one that would end it does.
    pub async fn signal(&self, signal: i32) -> Result<(), ShimError> {
        self.order(&Request::Signal(signal)).await
    }

    /// Sets the size of the container's terminal; without one, nothing happens.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), ShimError> {
        self.order(&Request::Resize { rows, columns }).await
    }

    /// Returns when the container has ended, at once when it has already. Any number of callers may wait, again
    /// and again.
    pub async fn wait(&self) -> Exit {
        if let Ok(Answer::Exited(exit)) = ask(&self.dir, &Request::Wait).await {
            return exit;
        }
        if let Some(exit) = files::read_exit(&self.dir) {
            return exit;
        }
        end_orphan(&self.dir);
        let error =
            format!("the container's shim process died: look at {}", self.dir.join("shim.err").display());
        Exit { exit_code: KILLED, error }
    }

    /// The container's output from now on, and its input, as stream frames. The last is `Exit` or `Error`.
    /// Dropping the connection detaches.
    pub async fn attach(&self) -> Result<UnixStream, ShimError> {
        self.stream(&Request::Attach).await
    }

    /// Runs another command in the container. Stream frames as of [`Shim::attach`]. When the connection goes, a
    /// command with a terminal gets SIGHUP; another one goes on.
    pub async fn exec(&self, exec: &Exec) -> Result<UnixStream, ShimError> {
        self.stream(&Request::Exec(exec.clone())).await
    }

    async fn order(&self, request: &Request) -> Result<(), ShimError> {
        match ask(&self.dir, request).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    async fn stream(&self, request: &Request) -> Result<UnixStream, ShimError> {
        let mut stream = self::request(&self.dir, request).await?;
        match answer(&mut stream).await? {
            Answer::Done => Ok(stream),
            other => Err(unexpected(other)),
        }
    }
}

fn unexpected(answer: Answer) -> ShimError {
    match answer {
        Answer::Refused(line) => ShimError::Refused { line },
        Answer::Exited(_) => ShimError::NotRunning,
        Answer::Done | Answer::Status(_) => ShimError::Protocol,
    }
}

/// Ends an init that outlived its shim because it gave up its user id, see the module's docs.
fn end_orphan(dir: &Path) {
    let Some(status) = files::read_status(dir) else { return };
    if process::start_ticks(status.init_pid) == Some(status.init_start_ticks) {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(status.init_pid), Signal::SIGKILL);
    }
}

async fn ask(dir: &Path, request: &Request) -> Result<Answer, ShimError> {
    let mut stream = self::request(dir, request).await?;
    answer(&mut stream).await
}

/// A connection on which `request` has been made.
pub(super) async fn request(dir: &Path, request: &Request) -> Result<UnixStream, ShimError> {
    let mut stream = connect(dir).await.map_err(|_| ShimError::NotRunning)?;
    let json = serde_json::to_vec(request).expect("a request is plain data");
    if json.len() > PAYLOAD_BYTES_MAX {
        return Err(ShimError::Refused { line: "the command and its environment are over 64 KiB".into() });
    }
    stream.write_all(&Frame::Request(json).to_bytes()).await.map_err(|_| ShimError::NotRunning)?;
    Ok(stream)
}

/// Reads the answer and not a byte more: what follows is the caller's.
async fn answer(stream: &mut UnixStream) -> Result<Answer, ShimError> {
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
    match decoder.next_frame() {
        Ok(Some(Frame::Answer(json))) => serde_json::from_slice(&json).map_err(|_| ShimError::Protocol),
        Ok(Some(Frame::Error(line))) => {
            Err(ShimError::Refused { line: String::from_utf8_lossy(&line).into_owned() })
        }
        _ => Err(ShimError::Protocol),
    }
}

/// A socket's path has at most 107 bytes, so it is reached through its directory's descriptor.
async fn connect(dir: &Path) -> io::Result<UnixStream> {
    let directory = File::open(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/shim.sock", directory.as_raw_fd())).await
}
