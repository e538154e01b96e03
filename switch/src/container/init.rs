//! What a forked process does before it is the container's: init, and those that join it by exec.
//!
//! It has one descriptor besides its standard ones, the channel to the shim: it reports over it as
//! [`Note`]s, and closes it by running its program. When the shim dies, the channel ends and the process with it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{sethostname, setsid};
use vswitch_proto::api::Exit;

use super::Launch;
use super::environment::Program;
use super::protocol::{NO_ROOT, NOT_EXECUTABLE, NOTE_BYTES_MAX, Note, START};
use super::{cgroup, mounts, sysctls};
use crate::io::{process, pty};

/// Of the namespaces that a process joins; that of pids it is born into.
const JOINED: [&str; 4] = ["net", "uts", "ipc", "mnt"];

const LINE_CHARS_MAX: usize = 1000;

/// Pid 1 of a container. `stdio` are pipes or /dev/null; a terminal replaces them.
pub(super) fn run_init(launch: &Launch, stdio: [OwnedFd; 3], channel: OwnedFd) -> ! {
    let program = Program::of_container(&launch.spec, &launch.hostname);
    run(stdio, channel, |channel| {
        if let Some(group) = &launch.cgroup {
            cgroup::enter(group).map_err(cannot("enter the control group"))?;
        }
        make_namespaces(launch).map_err(cannot("make the namespaces"))?;
        let mut warn = |line: String| tell(channel, &Note::Warning(one_short_line(&line)), None);
        mounts::build(launch, &mut warn).map_err(|error| Exit {
            exit_code: if error.is_root() { NO_ROOT } else { NOT_EXECUTABLE },
            error: error.to_string(),
        })?;
        let terminal = open_terminal(&program, channel)?;
        wait_for_start(channel);
        sysctls::apply(&launch.spec.settings.sysctls).map_err(setup_failed)?;
        Err(become_program(program, terminal))
    })
}

/// A process that joins the namespaces of the container whose init is `init_pid`.
pub(super) fn run_exec(program: Program, init_pid: i32, stdio: [OwnedFd; 3], channel: OwnedFd) -> ! {
    run(stdio, channel, |channel| {
        cgroup::enter_that_of(init_pid).map_err(cannot("enter the control group of the container"))?;
        join(init_pid).map_err(cannot("join the namespaces of the container"))?;
        let terminal = open_terminal(&program, channel)?;
        Err(become_program(program, terminal))
    })
}

/// The part that both have in common. `body` returns only a failure.
fn run(
    stdio: [OwnedFd; 3],
    channel: OwnedFd,
    body: impl FnOnce(&OwnedFd) -> Result<std::convert::Infallible, Exit>,
) -> ! {
    let Ok(channel) = process::only_these(stdio, channel) else { process::exit_now(NOT_EXECUTABLE) };
    let born = prctl::set_pdeathsig(Signal::SIGKILL).and_then(|()| setsid());
    let result = born.map_err(io::Error::from).map_err(cannot("lead a session")).and_then(|_| body(&channel));
    let Err(Exit { exit_code, error }) = result;
    tell(&channel, &Note::Failed(Exit { exit_code, error: one_short_line(&error) }), None);
    process::exit_now(exit_code)
}

fn make_namespaces(launch: &Launch) -> io::Result<()> {
    let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    match &launch.network_of {
        Some(owner) => {
            setns(owner.open()?, CloneFlags::CLONE_NEWNET)?;
            unshare(own)?;
        }
        None if launch.host_network => unshare(own)?,
        None => {
            unshare(own | CloneFlags::CLONE_NEWNET)?;
            process::loopback_up()?;
        }
    }
    if let Some(domain) = &launch.spec.settings.domainname {
        process::set_domain_name(domain)?;
    }
    Ok(sethostname(OsStr::new(&launch.hostname))?)
}

fn join(init_pid: i32) -> io::Result<()> {
    let directory = Path::new("/proc").join(init_pid.to_string()).join("ns");
    // All are opened first: the last one takes this /proc away.
    let namespaces =
        JOINED.iter().map(|name| File::open(directory.join(name))).collect::<io::Result<Vec<_>>>()?;
    namespaces.into_iter().try_for_each(|namespace| Ok(setns(namespace, CloneFlags::empty())?))
}

/// Opens the terminal in the container's own /dev/pts and hands its master to the shim.
fn open_terminal(program: &Program, channel: &OwnedFd) -> Result<Option<OwnedFd>, Exit> {
    if !program.tty {
        tell(channel, &Note::Ready, None);
        return Ok(None);
    }
    let (master, terminal) = pty::open().map_err(cannot("open a terminal"))?;
    tell(channel, &Note::Ready, Some(&master));
    Ok(Some(terminal))
}

fn wait_for_start(channel: &OwnedFd) {
    let mut word = [0; START.len()];
    match process::receive_message(channel, &mut word) {
        Ok((length, _)) if word[..length] == *START => {}
        // The shim is gone, or gave up on this container.
        _ => process::exit_now(NOT_EXECUTABLE),
    }
}

fn become_program(program: Program, terminal: Option<OwnedFd>) -> Exit {
    let control = terminal.map_or(Ok(()), |terminal| {
        pty::take_control(&terminal)?;
        process::terminal_as_stdio(&terminal)
    });
    match control {
        Ok(()) => program.run(),
        Err(error) => cannot("use the terminal")(error),
    }
}

/// A shim that does not listen any more ends this process anyway.
fn tell(channel: &OwnedFd, note: &Note, fd: Option<&OwnedFd>) {
    let message = serde_json::to_vec(note).expect("a note is plain data");
    debug_assert!(message.len() <= NOTE_BYTES_MAX, "notes hold one short line");
    let _ = process::send_message(channel, &message, fd);
}

/// It may name what somebody else chose, such as a command. Six bytes of JSON for a character fit a note.
fn one_short_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(LINE_CHARS_MAX).collect()
}

fn cannot(step: &'static str) -> impl Fn(io::Error) -> Exit {
    move |error| setup_failed(format!("cannot {step}: {error}"))
}

fn setup_failed(error: String) -> Exit {
    Exit { exit_code: NOT_EXECUTABLE, error }
}
