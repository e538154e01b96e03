//! vswitch as its users run it: a daemon, and the command line to tell it what to do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow};

use super::{PATIENCE, Parts, Setting, Unavailable, container, host};
use crate::lab::process::{self, Process, SHORT};
use crate::lab::{Lab, Netns};

/// The network that everything is adopted into; room for 65,000 containers.
pub const NETWORK: &str = "bench";

/// A daemon with its data in a directory of the rig.
#[derive(Debug)]
pub struct Daemon {
    pub process: Process,
    control: Control,
}

/// How to reach a daemon.
#[derive(Debug, Clone)]
pub struct Control {
    host: Netns,
    program: PathBuf,
    socket: PathBuf,
}

impl Daemon {
    /// Starts vswitchd in the namespace `host` with further arguments.
    pub fn start(host: &Netns, dir: &Path, setting: &Setting, args: &[&str]) -> anyhow::Result<Daemon> {
        let daemon = own_program("vswitchd", setting)?;
        let control = Control {
            host: host.clone(),
            program: own_program("vswitchctl", setting)?,
            socket: dir.join("vswitchd.sock"),
        };
        let mut command = host.command(daemon);
        command.arg("--data-dir").arg(dir.join("data")).arg("--socket").arg(&control.socket).args(args);
        let mut process = Process::start("vswitchd", command, dir)?;
        process::wait_until("vswitchd to answer", PATIENCE, || {
            process.check_running()?;
            if !control.socket.exists() {
                return Ok(None);
            }
            Ok(control.ctl(&["version"]).ok())
        })?;
        Ok(Daemon { process, control })
    }

    /// The same with [`NETWORK`] made.
    pub fn with_network(
        host: &Netns,
        dir: &Path,
        setting: &Setting,
        args: &[&str],
    ) -> anyhow::Result<Daemon> {
        let daemon = Daemon::start(host, dir, setting, args)?;
        daemon.control.ctl(&["network", "create", "--subnet", "10.99.0.0/16", NETWORK])?;
        Ok(daemon)
    }

    pub fn control(&self) -> &Control {
        &self.control
    }
}

impl Control {
    /// Runs vswitchctl to its end and answers its output.
    pub fn ctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command: Command = self.host.command(&self.program);
        command.arg("-H").arg(format!("unix://{}", self.socket.display())).args(args);
        process::run(command, PATIENCE + SHORT)
    }

    /// How many learned and static addresses the switch holds.
    pub fn known_addresses(&self) -> anyhow::Result<u64> {
        let text = self.ctl(&["stats", "--format", "json"])?;
        let stats: serde_json::Value =
            serde_json::from_str(&text).context("vswitchctl stats gave no JSON")?;
        stats["fdb_entries"].as_u64().context("vswitchctl stats does not say how many addresses are known")
    }

    /// Connects a namespace to [`NETWORK`] as a container of a given name.
    pub fn adopt(&self, netns: &Netns, name: &str) -> anyhow::Result<()> {
        let path = netns.path().display().to_string();
        self.ctl(&["adopt", "--netns", &path, "--name", name, "--net", NETWORK])?;
        Ok(())
    }
}

pub(super) fn set_up(lab: &Lab, dir: &Path, setting: &Setting, args: &[&str]) -> anyhow::Result<Parts> {
    let version = version(host(lab, 0), setting)?;
    let daemon = Daemon::with_network(host(lab, 0), dir, setting, args)?;
    for (index, name) in ["a", "b"].into_iter().enumerate() {
        daemon.control.adopt(container(lab, index), name)?;
    }
    Ok(Parts { version, switch: vec![daemon.process], helpers: Vec::new() })
}

/// What vswitchd says of itself.
pub(super) fn version(host: &Netns, setting: &Setting) -> anyhow::Result<Option<String>> {
    let mut command = host.command(own_program("vswitchd", setting)?);
    command.arg("--version");
    Ok(process::run(command, SHORT)?.lines().next().map(str::to_owned))
}

fn own_program(name: &str, setting: &Setting) -> anyhow::Result<PathBuf> {
    let path = setting.bin_dir.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let dir = setting.bin_dir.display();
    Err(anyhow!(Unavailable(format!("{name} is not in {dir}: build it, or say where it is with --bin-dir"))))
}
