//! An engine, a daemon and an image, in namespaces of their own.
//!
//! The rig runs itself again as the first process of new network, mount and process namespaces: what the engine starts
//! is no child of the rig's, and ends with these all the same.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use nix::mount::{MsFlags, mount};

use super::{Docker, PATIENCE};
use crate::lab::find_program;
use crate::lab::process::{self, Process};

pub const IMAGE: &str = "bench";

/// Everything of the stage's own.
const DIR: &str = "/run/stage";

/// Runs the rig again in namespaces of its own, and says what it said.
pub fn inside(args: &Docker) -> anyhow::Result<bool> {
    for program in ["dockerd", "docker", "iperf3", "busybox"] {
        ensure!(find_program(program).is_some(), "{program} is not installed: run packaging/setup bench");
    }
    let mut again = Command::new("unshare");
    again.args(["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]);
    again.arg(std::env::current_exe()?).args(["docker", "--inside", "--out"]).arg(&args.out);
    again.args(["--runs", &args.runs.to_string(), "--streams", &args.streams.to_string()]);
    let mut child = again.spawn().context("cannot make namespaces; this needs root")?;
    let group = Path::new("/sys/fs/cgroup").join(GROUP);
    let status = child.wait()?;
    drop(fs::remove_dir(group));
    Ok(status.success())
}

/// Of the engine's containers.
const GROUP: &str = "vswitch-perf-docker";

pub struct Stage {
    // In the order in which they are to end.
    _engine: Process,
    _daemon: Process,
}

impl Stage {
    pub fn set() -> anyhow::Result<Stage> {
        let none: Option<&Path> = None;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("cannot mount /run")?;
        fs::create_dir(DIR)?;
        process::run(with(command("ip"), &["link", "set", "lo", "up"]), PATIENCE)?;
        let daemon =
            start("vswitchd", with(beside()?, &["--docker-plugin", "--data-dir", "/run/stage/vswitch"]))?;
        let engine = [
            "--data-root=/run/stage/data",
            "--exec-root=/run/stage/exec",
            "--pidfile=/run/stage/pid",
            "--host=unix:///run/docker.sock",
            "--storage-driver=vfs",
            "--iptables=false",
            "--ip-forward=false",
            "--userland-proxy=false",
        ];
        let group = format!("--cgroup-parent=/{GROUP}");
        let mut engine = start("dockerd", with(with(program("dockerd")?, &engine), &[&group]))?;
        process::wait_until("the engine to answer", PATIENCE, || {
            engine.check_running()?;
            Ok(process::run(with(client()?, &["info"]), PATIENCE).ok())
        })?;
        make_image()?;
        Ok(Stage { _engine: engine, _daemon: daemon })
    }

    /// Runs `docker` to its end and answers what it printed.
    pub fn docker(&self, args: &[&str]) -> anyhow::Result<String> {
        process::run(with(client()?, args), PATIENCE)
    }

    pub fn version(&self) -> anyhow::Result<String> {
        let engine = self.docker(&["version", "--format", "{{.Server.Version}}"])?;
        Ok(format!("Docker Engine {}, vswitch {}", engine.trim(), env!("CARGO_PKG_VERSION")))
    }
}

/// Busybox and iperf3 with the libraries that they need.
fn make_image() -> anyhow::Result<()> {
    let script = r#"
        mkdir -p /run/stage/image/bin /run/stage/image/tmp /run/stage/image/etc
        for program in busybox iperf3; do
            path=$(command -v $program)
            cp "$path" /run/stage/image/bin/
            for library in $(ldd "$path" 2>/dev/null | grep -o '/[^ ]*' || true); do
                mkdir -p "/run/stage/image$(dirname "$library")"
                cp -L "$library" "/run/stage/image$library"
            done
        done
        for applet in sh true sleep; do ln -s busybox /run/stage/image/bin/$applet; done
        echo 'root:x:0:0::/:/bin/sh' >/run/stage/image/etc/passwd
        tar -C /run/stage/image -c . | "$1" import - bench:latest
    "#;
    let client = client_path()?;
    let mut shell = command("sh");
    shell.args(["-ec", script, "sh"]).arg(client);
    process::run(shell, PATIENCE).map(|_| ())
}

/// A process that does not outlive the rig.
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["inside", "--"]).arg(program);
    command
}

fn start(name: &str, command: Command) -> anyhow::Result<Process> {
    Process::start(name, command, Path::new(DIR))
}

fn with(mut command: Command, args: &[&str]) -> Command {
    command.args(args);
    command
}

fn program(name: &str) -> anyhow::Result<Command> {
    Ok(command(find_program(name).with_context(|| format!("{name} is not installed"))?))
}

/// That of the engine, and not another one that is before it in the `PATH`.
fn client_path() -> anyhow::Result<PathBuf> {
    let own = PathBuf::from("/usr/bin/docker");
    let found = if own.is_file() { Some(own) } else { find_program("docker") };
    found.context("docker is not installed")
}

fn client() -> anyhow::Result<Command> {
    Ok(command(client_path()?))
}

/// The daemon of the same build.
fn beside() -> anyhow::Result<Command> {
    let path = std::env::current_exe()?.with_file_name("vswitchd");
    ensure!(path.is_file(), "{} is missing: build it first", path.display());
    Ok(command(path))
}
