//! Open vSwitch with its userspace data path, in a namespace and with a database and a run directory of its own.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use vswitch::io::netns::NetNs;

use crate::wait::eventually;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// A running `ovs-vswitchd` and its database. Dropping it ends both.
pub struct Ovs {
    dir: TempDir,
    processes: Vec<Child>,
}

impl Ovs {
    /// # Panics
    /// When Open vSwitch is not installed: `packaging/setup test` installs it.
    pub fn start(ns: &NetNs) -> Ovs {
        let dir = tempfile::Builder::new().prefix("vswitch-ovs").tempdir().expect("there is room in /tmp");
        let mut ovs = Ovs { processes: vec![], dir };
        let file = ovs.dir.path().join("conf.db");
        let create = ovs.command("ovsdb-tool").arg("create").arg(&file).arg(SCHEMA).output();
        let created = create.expect("openvswitch-switch is installed");
        assert!(created.status.success(), "{created:?}");
        let remote = format!("--remote=p{}", ovs.socket());
        ovs.spawn(ns, "ovsdb-server", &[&file.display().to_string(), "--no-chdir", &remote]);
        eventually("ovsdb-server listens", || {
            ensure!(ovs.dir.path().join("db.sock").exists(), "no socket yet; {}", ovs.log("ovsdb-server"));
            Ok(())
        });
        ovs.vsctl("--no-wait init");
        let socket = ovs.socket();
        ovs.spawn(ns, "ovs-vswitchd", &[&socket, "--no-chdir"]);
        ovs
    }

    /// A command whose files are all in the run directory.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, self.dir.path());
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command
    }

    fn socket(&self) -> String {
        format!("unix:{}", self.dir.path().join("db.sock").display())
    }

    fn spawn(&mut self, ns: &NetNs, program: &str, arguments: &[&str]) {
        let log = std::fs::File::create(self.dir.path().join(program)).expect("there is room in /tmp");
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = ns.run(|| command.spawn()).expect("a namespace can be entered");
        self.processes
            .push(child.with_context(|| program.to_owned()).expect("openvswitch-switch is installed"));
    }

    fn log(&self, program: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(program)).unwrap_or_default()
    }

    /// Has the switch configured, and waits until it is.
    pub fn vsctl(&self, arguments: &str) -> String {
        let mut command = self.command("ovs-vsctl");
        command.arg(format!("--db={}", self.socket())).arg("--timeout=60").args(arguments.split(' '));
        let output = command.output().expect("openvswitch-switch is installed");
        assert!(output.status.success(), "ovs-vsctl {arguments}: {output:?}; {}", self.log("ovs-vswitchd"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("ovs-vswitchd: {}", self.log("ovs-vswitchd"));
        }
        for child in self.processes.iter_mut().rev() {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
