//! The hidden commands that other processes begin with: `inside` becomes another program in a namespace, `hold` makes
//! namespaces and keeps them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::setsid;

#[derive(Debug, clap::Args)]
pub struct Inside {
    #[arg(long)]
    netns: Option<PathBuf>,
    #[arg(last = true, required = true)]
    command: Vec<std::ffi::OsString>,
}

/// Becomes the command. Returns only if it cannot.
pub fn become_command(args: Inside) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // A terminal's Ctrl-C is for the rig alone, which stops its children in order.
    setsid()?;
    crate::stop::unblock()?;
    if let Some(netns) = &args.netns {
        super::join(netns)?;
    }
    let program = &args.command[0];
    let error = Command::new(program).args(&args.command[1..]).exec();
    Err(error).with_context(|| format!("cannot run {}", program.to_string_lossy()))
}

/// Makes network namespaces, says the numbers of their file descriptors, and keeps them until it is ended.
pub fn hold(count: usize) -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        // Neighbour discovery would be noise in what is counted.
        super::set_sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        super::set_sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        held.push(File::open("/proc/thread-self/ns/net")?);
    }
    let fds: Vec<String> = held.iter().map(|file| file.as_raw_fd().to_string()).collect();
    let mut stdout = std::io::stdout();
    writeln!(stdout, "held {}", fds.join(" "))?;
    stdout.flush()?;
    // Nobody writes to it: this returns when the rig ends, unless a signal is faster.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
