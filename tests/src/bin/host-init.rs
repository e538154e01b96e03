//! The machine that a test runs on: namespaces of its own and a pid 1 in them.
//!
//! Called without arguments it makes the namespaces and waits for the pid 1 that it starts, which is this program
//! again. That one prints its pid as the outside sees it once the machine is up, reaps what is left to it, and ends
//! when its standard input does. The harness holds the other end of that pipe: however the test ends, the pipe
//! closes, pid 1 goes, and the kernel ends every process and frees every namespace with it.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// How long a zombie waits at most, milliseconds.
const REAP_MS: u16 = 20;

fn main() -> ExitCode {
    let is_init = std::env::args().nth(1).as_deref() == Some("init");
    match if is_init { init() } else { unshare_and_wait() } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host-init: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn unshare_and_wait() -> anyhow::Result<()> {
    unshare(
        CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .context("cannot make namespaces")?;
    let status = Command::new(std::env::current_exe()?).arg("init").status()?;
    ensure!(status.success(), "pid 1 ended with {status}");
    Ok(())
}

fn init() -> anyhow::Result<()> {
    // The old /proc still shows pids as the outside sees them.
    let pid = fs::read_link("/proc/self")?;
    mounts().context("cannot mount")?;
    nix::unistd::sethostname("lab").context("cannot set the host name")?;
    let lo = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("cannot run `ip`")?;
    ensure!(lo.success(), "lo does not come up");
    println!("{}", pid.display());
    reap_until_stdin_ends()
}

/// The directory of the binaries is mounted on /mnt, since a checkout may lie below /tmp.
fn mounts() -> anyhow::Result<()> {
    let executable = std::env::current_exe()?;
    let binaries = executable.parent().context("no directory")?;
    let none: Option<&Path> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("/")?;
    mount(Some(binaries), "/mnt", none, MsFlags::MS_BIND, none).context("/mnt")?;
    let private = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let fresh = |kind: &str, target: &'static str| {
        let source = Some(OsStr::new(kind));
        mount(source, target, source, private, none).context(target)
    };
    fresh("proc", "/proc")?;
    fresh("tmpfs", "/run")?;
    fresh("tmpfs", "/tmp")?;
    // The control groups lie below /sys and are the same everywhere: a container engine needs them.
    let (kept, bind) = ("/run/cgroup", MsFlags::MS_BIND | MsFlags::MS_REC);
    fs::create_dir(kept)?;
    mount(Some(CONTROL_GROUPS), kept, none, bind, none).context(kept)?;
    fresh("sysfs", "/sys")?;
    mount(Some(kept), CONTROL_GROUPS, none, bind, none).context(CONTROL_GROUPS)?;
    umount2(kept, MntFlags::MNT_DETACH)?;
    fs::remove_dir(kept)?;
    Ok(())
}

fn reap_until_stdin_ends() -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    loop {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(REAP_MS))?;
        if fds[0].revents().is_some_and(|events| !events.is_empty()) {
            return Ok(());
        }
        while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }
}
