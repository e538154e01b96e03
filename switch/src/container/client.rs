//! The daemon's side of a shim.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::ask::{ANSWER_MAX, answer, ask, request, within};
use super::protocol::{Answer, KILLED, Report, Request, STREAMS, Status};
use super::{Exec, Exit, Launch, NetworkOwner, ShimError, files};
use crate::io::limits;
use crate::io::liveness::{Liveness, ProcessHandle, liveness};

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
    #[error("cannot tell whether the container runs already: {0}")]
    Unknown(ShimError),
}

/// How long a shim that is looked for may take to answer.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Between two questions to a shim that lives and did not answer; longer each time.
const ASK_AGAIN_FIRST: Duration = Duration::from_millis(5);
const ASK_AGAIN_MAX: Duration = Duration::from_millis(500);

/// What is left of a container when a daemon starts.
#[derive(Debug)]
pub enum Found {
    Running(Shim),
    Exited(Exit),
    /// It ended with its shim, by a crash or a restart of the host.
    Gone,
    /// It cannot be told, for this reason: nothing is to be done to the container before it can.
    Unknown(String),
}

/// A running container. Each call uses a connection of its own, but for [`Shim::wait`], whose callers share one.
#[derive(Debug, Clone)]
pub struct Shim(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    status: Status,
    /// Absent on a kernel without pidfds (before Linux 5.3), or when there was no descriptor left.
    process: Option<ProcessHandle>,
    exit: OnceCell<Exit>,
}

/// Starts the shim of a [prepared](files::prepare) container. Returns when its init process waits in its
/// namespaces. When this fails, or its future is dropped, no process, mount or namespace is left over.
pub async fn create(launch: &Launch) -> Result<Shim, LaunchError> {
    create_with(Path::new("/proc/self/exe"), launch).await
}

/// The same with another executable than the running one, which `vswitchd` may have replaced on disk.
pub async fn create_with(exe: &Path, launch: &Launch) -> Result<Shim, LaunchError> {
    match ask(&launch.dir, &Request::Status, 0, Some(ANSWER_MAX)).await {
        Err(ShimError::NotRunning) => {}
        Ok(_) | Err(ShimError::Refused { .. } | ShimError::Protocol) => return Err(LaunchError::Running),
        Err(error) => return Err(LaunchError::Unknown(error)),
    }
    let spawned = |source| LaunchError::Spawn { exe: exe.into(), source };
    let mut command = Command::new(exe);
    command.arg0("vswitchd").arg("shim").arg(&launch.dir).env_clear();
    command.args(limits::inherited_descriptors().map(|limit| limit.to_string()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(spawned)?;
    let mut output = child.stdout.take().expect("it was asked for").take(REPORT_BYTES_MAX);
    let mut report = Vec::new();
    output.read_to_end(&mut report).await.map_err(spawned)?;
    // The process that was spawned only forks the shim.
    child.wait().await.map_err(spawned)?;
    match serde_json::from_slice(&report) {
        Ok(Report::Ready(status)) => Ok(Shim::new(&launch.dir, status)),
        Ok(Report::Failed(line)) => Err(LaunchError::Refused { line }),
        Ok(Report::NoRoot(line)) => Err(LaunchError::NoRoot { line }),
        Err(_) => Err(LaunchError::Silent(launch.dir.join("shim.err"))),
    }
}

/// Finds a container again. No question is asked of a shim that says in `shim.json` who it is and is alive, so that a
/// stopped one holds nobody up.
pub async fn reconnect(dir: &Path) -> Found {
    let found = match files::read_status(dir) {
        Ok(Some(status)) if status.shim_start_ticks != 0 => find(dir, status),
        Ok(_) => Ok(None),
        Err(error) => Err(error),
    };
    match found {
        Ok(Some(found)) => found,
        Ok(None) => find_by_asking(dir).await,
        // A kernel without pidfds, before Linux 5.3.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => find_by_asking(dir).await,
        Err(error) => Found::Unknown(error.to_string()),
    }
}

/// `None` when no process here is that shim.
fn find(dir: &Path, status: Status) -> io::Result<Option<Found>> {
    let process = ProcessHandle::open(status.shim_pid, status.shim_start_ticks)?;
    // A shim whose container has ended may live on, for clients that still take the output.
    if let Some(exit) = files::read_exit(dir)? {
        return Ok(Some(Found::Exited(exit)));
    }
    let process = process.filter(|process| process.liveness() != Liveness::Dead);
    Ok(process.map(|process| Found::Running(Shim::with(dir, status, Some(process)))))
}

/// For a shim that has not written who it is, or not with its start time, as those before [`STREAMS`], and for one whose
/// pid means nothing here: it may run in a pid namespace below this one.
async fn find_by_asking(dir: &Path) -> Found {
    let unknown = |error: &dyn std::fmt::Display| Found::Unknown(error.to_string());
    match ask(dir, &Request::Status, 0, Some(RECONNECT_MAX)).await {
        Ok(Answer::Status(status)) => Found::Running(Shim::new(dir, status)),
        Ok(Answer::Exited(exit)) => Found::Exited(exit),
        Err(ShimError::NotRunning) => bury(dir).unwrap_or_else(|error| unknown(&error)),
        Ok(_) => unknown(&ShimError::Protocol),
        Err(error) => match files::read_status(dir) {
            // Taken as its files say while its first process runs.
            Ok(Some(status)) if liveness(status.init_pid, status.init_start_ticks) == Liveness::Alive => {
                Found::Running(Shim::new(dir, status))
            }
            _ => unknown(&error),
        },
    }
}

/// How a container ended whose shim has.
fn bury(dir: &Path) -> io::Result<Found> {
    match files::read_exit(dir)? {
        Some(exit) => Ok(Found::Exited(exit)),
        None => {
            end_orphan(dir)?;
            Ok(Found::Gone)
        }
    }
}

impl Shim {
    fn new(dir: &Path, status: Status) -> Shim {
        let opened = match status.shim_start_ticks {
            0 => ProcessHandle::open_any(status.shim_pid),
            ticks => ProcessHandle::open(status.shim_pid, ticks),
        };
        // One that has ended meanwhile is found by its start time.
        Shim::with(dir, status, opened.ok().flatten())
    }

    fn with(dir: &Path, status: Status, process: Option<ProcessHandle>) -> Shim {
        Shim(Arc::new(Inner { dir: dir.into(), status, process, exit: OnceCell::new() }))
    }

    /// Whether the shim exists. The container has ended when it does not; when it does, the container may have ended.
    pub fn liveness(&self) -> Liveness {
        let Inner { status, process, .. } = &*self.0;
        match process {
            Some(process) => process.liveness(),
            None if status.shim_start_ticks == 0 => liveness(status.init_pid, status.init_start_ticks),
            None => liveness(status.shim_pid, status.shim_start_ticks),
        }
    }

    /// In the daemon's pid namespace.
    pub fn init_pid(&self) -> i32 {
        self.0.status.init_pid
    }

    /// What another container needs to share this one's network.
    pub fn network_owner(&self) -> NetworkOwner {
        let Status { init_pid, init_start_ticks, .. } = self.0.status;
        NetworkOwner { init_pid, init_start_ticks }
    }

    /// The container's network namespace.
    pub fn netns_path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.status.init_pid).into()
    }

    /// Whether the command had been started when this was created or reconnected.
    pub fn started(&self) -> bool {
        self.0.status.started
    }

    /// Runs the command. Returns when it runs.
    pub async fn start(&self) -> Result<(), ShimError> {
        match self.ask(&Request::Start).await? {
            Answer::Done => Ok(()),
            Answer::Exited(exit) => Err(ShimError::NotStarted(exit)),
            other => Err(unexpected(other)),
        }
    }

    /// Sends a signal to the container's init. Before the start, one that would end it does. SIGKILL ends the container
    /// even when its shim does not answer, and that shim with it.
    pub async fn signal(&self, signal: i32) -> Result<(), ShimError> {
        match self.order(&Request::Signal(signal)).await {
            Err(ShimError::Unanswered(pid))
                if signal == nix::libc::SIGKILL && self.liveness() == Liveness::Alive =>
            {
                // Its death ends init, and init's the container; `wait` notices.
                kill(Pid::from_raw(pid), Signal::SIGKILL)
                    .map_err(|errno| ShimError::Unreachable(errno.into()))
            }
            answered => answered,
        }
    }

    /// Sets the size of the container's terminal; without one, nothing happens.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), ShimError> {
        self.order(&Request::Resize { rows, columns }).await
    }

    /// Returns when the container has ended, at once when it has already. Any number of callers may wait, again
    /// and again; they share one connection. A shim that cannot be asked is asked again for as long as it exists.
    pub async fn wait(&self) -> Exit {
        self.0.exit.get_or_init(|| self.watch_end()).await.clone()
    }

    async fn watch_end(&self) -> Exit {
        let dir = &self.0.dir;
        let mut pause = ASK_AGAIN_FIRST;
        loop {
            let nobody_listens = match ask(dir, &Request::Wait, 0, None).await {
                Ok(Answer::Exited(exit)) => return exit,
                answered => matches!(answered, Err(ShimError::NotRunning)),
            };
            // Before exit.json is read, so that a shim that ends in between is not taken for one that crashed.
            let is_dead = nobody_listens && self.liveness() == Liveness::Dead;
            match files::read_exit(dir) {
                Ok(Some(exit)) => return exit,
                Ok(None) if is_dead && end_orphan(dir).is_ok() => return self.crashed(),
                _ => {}
            }
            // A process that ends closes its socket a moment before it is dead.
            tokio::time::sleep(pause).await;
            pause = ASK_AGAIN_MAX.min(pause * 2);
        }
    }

    fn crashed(&self) -> Exit {
        let place = self.0.dir.join("shim.err");
        let error = format!("the container's shim process died: look at {}", place.display());
        Exit { exit_code: KILLED, error }
    }

    /// The container's output from now on, and its input, as stream frames. The last is `Exit` or `Error`.
    /// Dropping the connection detaches. With `foreground` the container's output waits for this client as long as it
    /// takes, unless there is such a client already; without, a client that does not read is dropped.
    pub async fn attach(&self, foreground: bool) -> Result<UnixStream, ShimError> {
        let foreground = foreground && self.0.status.protocol >= STREAMS;
        let request = if foreground { Request::AttachForeground } else { Request::Attach };
        self.stream(&request).await.map(|(stream, _)| stream)
    }

    /// Runs another command in the container. Stream frames as of [`Shim::attach`], and the number of the exec, which
    /// shims before `STREAMS` do not give. When the connection goes, a command with a terminal gets SIGHUP; another
    /// one goes on.
    pub async fn exec(&self, exec: &Exec) -> Result<(UnixStream, Option<u64>), ShimError> {
        self.stream(&Request::Exec(exec.clone())).await
    }

    /// Sends a signal to the process group of an exec.
    pub async fn signal_exec(&self, exec: u64, signal: i32) -> Result<(), ShimError> {
        self.order(&Request::SignalExec { exec, signal }).await
    }

    /// Tells the shim that the client of an exec is gone for good.
    pub async fn hang_up(&self, exec: u64) -> Result<(), ShimError> {
        self.order(&Request::HangUp { exec }).await
    }

    async fn order(&self, request: &Request) -> Result<(), ShimError> {
        match self.ask(request).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Answer, ShimError> {
        let Inner { dir, status, .. } = &*self.0;
        ask(dir, request, status.shim_pid, Some(ANSWER_MAX)).await
    }

    async fn stream(&self, request: &Request) -> Result<(UnixStream, Option<u64>), ShimError> {
        let Inner { dir, status, .. } = &*self.0;
        let opened = async {
            let mut stream = self::request(dir, request).await?;
            match answer(&mut stream).await? {
                Answer::Done => Ok((stream, None)),
                Answer::Executing(exec) => Ok((stream, Some(exec))),
                other => Err(unexpected(other)),
            }
        };
        within(ANSWER_MAX, status.shim_pid, opened).await
    }
}

fn unexpected(answer: Answer) -> ShimError {
    match answer {
        Answer::Refused(line) => ShimError::Refused { line },
        Answer::Exited(_) => ShimError::NotRunning,
        Answer::Done | Answer::Executing(_) | Answer::Status(_) => ShimError::Protocol,
    }
}

/// Ends an init that outlived its shim because it gave up its user id, see the module's docs.
///
/// # Errors
/// When it cannot be told whether there is one.
fn end_orphan(dir: &Path) -> io::Result<()> {
    let Some(status) = files::read_status(dir)? else { return Ok(()) };
    match liveness(status.init_pid, status.init_start_ticks) {
        Liveness::Alive => {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(status.init_pid), Signal::SIGKILL);
            Ok(())
        }
        Liveness::Dead => Ok(()),
        Liveness::Unknown => Err(io::Error::other("it cannot be told whether its first process is alive")),
    }
}
