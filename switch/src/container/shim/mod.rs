//! The shim: one small process per container, `vswitchd shim DIR`.
//!
//! # Rules
//!
//! 1. One thread, for ever: it forks. (A process whose children go to another pid namespace cannot make threads
//!    anyway.)
//! 2. Nothing blocks but the one `poll`: the setup before it, and what follows the end, are bounded.
//! 3. Output goes to the log first, then to those who are attached. Each client has a bounded queue. While that of
//!    the foreground client (of `run` without `-d`, of an interactive `attach`), or of an exec's own client, is full, the
//!    output of its process is not read, so that the process waits: nothing is lost. It gets all output and the exit
//!    code even when the container has ended meanwhile. Every further client is dropped with an `Error` frame when it
//!    does not keep up; what it may hold up the container for until then is a small part of the time, see `patience`.
//! 4. Input waits for the process, and its clients for the input: they are not read while too much waits.
//! 5. Who attaches sees what is printed from then on; nothing is replayed.
//! 6. With several clients attached, standard input ends only with the container; when there is one, its
//!    `StdinClosed` ends it, unless there is a terminal. Detaching ends nothing.
//!
//! 7. Numbers of clients are bounded by kind, see `bounds`: streams cannot take the place of a signal or a wait.
//! 8. The end of an exec's connection is a hang-up for a terminal and nothing for other processes, since a daemon that
//!    restarts looks the same. A daemon whose client has gone says so (`hang_up`).
//!
//! SIGTERM ends the container, and the shim with it as after any other end.

mod bounds;
mod client;
mod linger;
mod patience;
mod serve;
mod signals;
mod task;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{chdir, setsid};

use super::log::{self, Stream};
use super::protocol::{NO_ROOT, Note, Report, STREAMS, Status};
use super::{Exit, Launch, files, init};
use crate::io::{limits, process};
use serve::Supervisor;
use task::{Forked, Task};

#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error("cannot {step}: {source}")]
    Step { step: &'static str, source: io::Error },
    /// What init says.
    #[error("{}", .0.error)]
    Init(Exit),
    #[error("whoever made the container did not wait for it")]
    Abandoned,
    #[error("the container's init process ended before it was ready")]
    InitEnded,
}

trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, SetupError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, SetupError> {
        self.map_err(|source| SetupError::Step { step, source: source.into() })
    }
}

/// Forks the shim of the container in `dir` and returns; the shim itself reports on standard output and returns
/// when its container has ended. To be called before anything else makes threads.
///
/// `inherited` is the soft limit on descriptors of the container's processes: the daemon has raised its own.
pub fn main(dir: &Path, inherited: Option<u64>) -> ExitCode {
    limits::raise_descriptors(inherited);
    match process::fork() {
        Ok(Some(_)) => return ExitCode::SUCCESS,
        Ok(None) => {}
        Err(source) => {
            return fail(&mut io::stdout(), &SetupError::Step { step: "fork the shim", source });
        }
    }
    match detach(dir) {
        Err(error) => fail(&mut io::stdout(), &error),
        Ok(report) => supervise(dir, report),
    }
}

fn supervise(dir: &Path, mut report: File) -> ExitCode {
    let supervisor = match set_up(dir, &report) {
        Ok(supervisor) => supervisor,
        Err(error) => return fail(&mut report, &error),
    };
    let ready = Report::Ready(supervisor.status.clone());
    if write_report(&mut report, &ready).is_err() {
        // Whoever launched this container is gone, so nobody knows of it.
        supervisor.abandon();
        return ExitCode::FAILURE;
    }
    drop(report);
    match supervisor.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the shim failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn fail(report: &mut dyn Write, error: &SetupError) -> ExitCode {
    let line = error.to_string();
    let failed = match error {
        SetupError::Init(exit) if exit.exit_code == NO_ROOT => Report::NoRoot(line),
        _ => Report::Failed(line),
    };
    // Without a reader of reports there is nobody to tell.
    let _ = write_report(report, &failed);
    ExitCode::FAILURE
}

fn write_report(to: &mut dyn Write, report: &Report) -> io::Result<()> {
    to.write_all(&serde_json::to_vec(report).expect("a report is plain data"))?;
    to.flush()
}

/// Lets go of the launcher's session and descriptors. Gives what was standard output.
fn detach(dir: &Path) -> Result<File, SetupError> {
    setsid().step("lead a session")?;
    chdir(dir).step("enter the container's directory")?;
    umask(Mode::from_bits_truncate(0o077));
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let stdio = [
        null().step("open /dev/null")?,
        null().step("open /dev/null")?,
        files::error_file(dir).step("open shim.err")?.into(),
    ];
    let report = io::stdout().as_fd().try_clone_to_owned().step("keep standard output")?;
    process::only_these(stdio, report).map(File::from).step("close the launcher's files")
}

/// The container up to the point where init waits. Nothing is left over when this fails.
fn set_up(dir: &Path, report: &File) -> Result<Supervisor, SetupError> {
    let launch = files::read_config(dir).step("read config.json")?;
    let mut log = log::Writer::open(dir, launch.spec.settings.log).step("open the log")?;
    let signals = watch_signals().step("watch for signals")?;
    unshare(CloneFlags::CLONE_NEWPID).step("make a pid namespace")?;
    let listener = UnixListener::bind("shim.sock").step("listen on shim.sock")?;
    listener.set_nonblocking(true).step("listen on shim.sock")?;
    match fork_init(&launch, &mut log, report) {
        Ok((init, status)) => Ok(Supervisor::new(launch, status, log, (listener, signals), init)),
        Err(error) => {
            // What cannot be removed now goes with the directory.
            let _ = fs::remove_file("shim.sock");
            Err(error)
        }
    }
}

fn watch_signals() -> io::Result<SignalFd> {
    let mut watched = SigSet::empty();
    watched.add(Signal::SIGCHLD);
    watched.add(Signal::SIGTERM);
    let mut blocked = watched;
    blocked.add(Signal::SIGHUP);
    blocked.add(Signal::SIGINT);
    blocked.thread_block()?;
    Ok(SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn fork_init(launch: &Launch, log: &mut log::Writer, report: &File) -> Result<(Task, Status), SetupError> {
    let forked =
        Task::fork(launch.spec.tty, launch.spec.open_stdin).step("fork the container's init process")?;
    let mut task = match forked {
        Forked::Shim(task) => *task,
        Forked::Child { stdio, channel } => init::run_init(launch, stdio, channel),
    };
    match wait_until_ready(&mut task, log, report).and_then(|()| status_of(&task, launch)) {
        Ok(status) => Ok((task, status)),
        Err(error) => {
            end(&task);
            Err(error)
        }
    }
}

/// Init may hang in the file system of its root. Then it is the launcher who gives up, by closing its end of `report`.
fn wait_until_ready(task: &mut Task, log: &mut log::Writer, report: &File) -> Result<(), SetupError> {
    loop {
        if !is_awaited(task, report).step("wait for the container's init process")? {
            return Err(SetupError::Abandoned);
        }
        match task.next_note().step("hear from the container's init process")? {
            Some(Note::Ready) => {
                return task.do_not_wait_for_notes().step("hear from the container's init process");
            }
            Some(Note::Warning(line)) => {
                log.append(Stream::Stderr, format!("vswitch: {line}\n").as_bytes(), SystemTime::now());
            }
            Some(Note::Failed(exit)) => return Err(SetupError::Init(exit)),
            None => return Err(SetupError::InitEnded),
        }
    }
}

/// Waits for a note of init, or for the end of whoever waits for the report: `false`.
fn is_awaited(task: &Task, report: &File) -> io::Result<bool> {
    let Some(channel) = task.channel() else { return Ok(true) };
    loop {
        // The reader's end of a pipe is told without being asked for.
        let mut polled =
            [PollFd::new(channel, PollFlags::POLLIN), PollFd::new(report.as_fd(), PollFlags::empty())];
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                return Ok(polled[1].revents().is_none_or(|events| !events.contains(PollFlags::POLLERR)));
            }
        }
    }
}

fn status_of(task: &Task, launch: &Launch) -> Result<Status, SetupError> {
    let init_pid = task.pid.as_raw();
    let shim_pid = std::process::id() as i32;
    let status = Status {
        shim_pid,
        shim_start_ticks: process::start_ticks(shim_pid).unwrap_or(0),
        protocol: STREAMS,
        init_pid,
        init_start_ticks: process::start_ticks(init_pid).ok_or(SetupError::InitEnded)?,
        started: false,
    };
    files::write_status(&launch.dir, &status).step("write shim.json")?;
    Ok(status)
}

/// Kills and reaps it.
fn end(task: &Task) {
    // It may have ended by itself.
    let _ = process::send_signal(task.pid, libc::SIGKILL);
    let _ = waitpid(task.pid, None);
}
