//! Pid 1 of a container with `--init`: it starts the program as its child, forwards signals to it, reaps whatever is
//! left to it, and ends as the child ends.
//!
//! It is this process itself, not a program of the root file system: there may be none that could be executed.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setpgid, tcsetpgrp};

use crate::io::process;

/// How a pid 1 ends that cannot go on.
const FAILED: i32 = 126;

/// Forks the program's process and returns in it alone. With a terminal, that process has its foreground, so that keys
/// reach the program and not pid 1.
pub(super) fn fork_program(has_terminal: bool) -> io::Result<()> {
    // Taken from a descriptor instead. The program begins with none blocked.
    SigSet::all().thread_block()?;
    match process::fork()? {
        Some(program) => watch(program),
        None => lead_group(has_terminal),
    }
}

fn lead_group(has_terminal: bool) -> io::Result<()> {
    let itself = Pid::from_raw(0);
    setpgid(itself, itself)?;
    if has_terminal {
        tcsetpgrp(io::stdin(), nix::unistd::getpgrp())?;
    }
    Ok(())
}

fn watch(program: Pid) -> ! {
    // The program's success or failure to run is told by its copy of the channel.
    let ended = process::close_all_but_stdio().and_then(|()| forward_until_end(program));
    process::exit_now(ended.unwrap_or(FAILED))
}

fn forward_until_end(program: Pid) -> io::Result<i32> {
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC)?;
    loop {
        if let Some(code) = reap(program)? {
            return Ok(code);
        }
        let number = match signals.read_signal() {
            Ok(Some(signal)) => signal.ssi_signo as i32,
            Ok(None) | Err(nix::Error::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        // The first says that somebody has ended, the others that pid 1 itself used the terminal.
        if ![Signal::SIGCHLD, Signal::SIGTTIN, Signal::SIGTTOU].iter().any(|own| *own as i32 == number) {
            // It may have ended just now.
            let _ = process::send_signal(program, number);
        }
    }
}

/// Reaps everybody who has ended; the exit code of the program once it has.
fn reap(program: Pid) -> io::Result<Option<i32>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => return Ok(Some(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => {
                return Ok(Some(128 + signal as i32));
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
