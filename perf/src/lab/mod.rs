//! Network namespaces for a peer, and processes inside them, that cannot outlive the rig.
//!
//! The namespaces have no names: one process, `vswitch-perf hold`, makes them and keeps them open, and everybody else
//! reaches them as `/proc/PID/fd/N`. Every process that the rig starts asks the kernel to be killed when the rig ends,
//! however it ends. So after a `kill -9` of the rig the holder is gone, with it the namespaces, and with those every
//! interface in them; nothing has to be found and cleaned up.
//!
//! The kernel ties that promise to the *thread* that started a process, so processes are started from the main thread
//! only.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};

pub mod inside;
pub mod process;

use process::Process;

/// A network namespace, by a path that can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns(PathBuf);

impl Netns {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A command that will run in this namespace and not outlive the rig.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = rig_command();
        command.args(["inside", "--netns"]).arg(&self.0).arg("--").arg(program);
        command
    }

    /// This program itself, in this namespace.
    pub fn rig(&self) -> Command {
        self.command(own_path())
    }

    /// Runs `f` in a thread in this namespace. It must not start processes.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                join(&self.0)?;
                f()
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Changes interfaces: each line is the arguments of an `ip` command. They apply up to the first that fails.
    pub fn ip(&self, lines: &[String]) -> anyhow::Result<()> {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]);
        process::run_with_input(command, &lines.join("\n"), process::SHORT)?;
        Ok(())
    }

    /// What `ip -json ARGS` says.
    pub fn ip_json(&self, args: &[&str]) -> anyhow::Result<serde_json::Value> {
        let mut command = self.command("ip");
        command.arg("-json").args(args);
        let text = process::run(command, process::SHORT)?;
        serde_json::from_str(&text).with_context(|| format!("`ip -json {}` gave no JSON", args.join(" ")))
    }
}

/// Moves the calling thread.
pub fn join(netns: &Path) -> anyhow::Result<()> {
    let file = File::open(netns).with_context(|| format!("cannot open the namespace {}", netns.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", netns.display()))
}

/// Namespaces that live as long as this.
#[derive(Debug)]
pub struct Lab {
    // Held for its drop: the namespaces end with the holder.
    _holder: Process,
    pub namespaces: Vec<Netns>,
}

impl Lab {
    pub fn new(count: usize, dir: &Path) -> anyhow::Result<Lab> {
        let mut command = rig_command();
        command.arg("inside").arg("--").arg(own_path()).args(["hold", &count.to_string()]);
        // A namespace takes well under 20 ms, but a busy machine may take its time.
        let patience = Duration::from_secs(10) + Duration::from_millis(50) * count as u32;
        let mut holder = Process::start("the holder of namespaces", command, dir)?;
        let report = holder.wait_for_line("held ", patience)?;
        let fds: Vec<&str> = report.split_whitespace().skip(1).collect();
        if fds.len() != count {
            bail!("asked for {count} network namespaces and got {}", fds.len());
        }
        let path = |fd: &str| Netns(PathBuf::from(format!("/proc/{}/fd/{fd}", holder.pid())));
        let namespaces = fds.into_iter().map(path).collect();
        Ok(Lab { _holder: holder, namespaces })
    }
}

fn own_path() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

fn rig_command() -> Command {
    Command::new(own_path())
}

/// Sets a sysctl of the namespace that the calling thread is in. One that the kernel lacks needs no setting.
pub fn set_sysctl(name: &str, value: &str) -> std::io::Result<()> {
    match fs::write(Path::new("/proc/sys").join(name), value) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The path of a program, if it is there: in the `PATH`, or where Debian has what is for administrators.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let known = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/openvswitch-switch"].map(PathBuf::from);
    std::env::split_paths(&path).chain(known).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}
