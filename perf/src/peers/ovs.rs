//! Open vSwitch with its userspace datapath, in a database and a run directory of its own. Its internal ports are
//! TAPs, which are moved into the containers.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{INTERFACE, PATIENCE, Parts, configure, container, host, need_program};
use crate::lab::process::{self, Process, SHORT};
use crate::lab::{Lab, Netns};

const PACKAGE: &str = "openvswitch-switch";

struct Ovs<'a> {
    host: &'a Netns,
    dir: &'a Path,
    tool: PathBuf,
    vsctl: PathBuf,
    server: PathBuf,
    daemon: PathBuf,
}

pub(super) fn set_up(lab: &Lab, dir: &Path, tso: bool) -> anyhow::Result<Parts> {
    let ovs = Ovs {
        host: host(lab, 0),
        dir,
        tool: need_program("ovsdb-tool", PACKAGE)?,
        vsctl: need_program("ovs-vsctl", PACKAGE)?,
        server: need_program("ovsdb-server", PACKAGE)?,
        daemon: need_program("ovs-vswitchd", PACKAGE)?,
    };
    let mut version = ovs.command(&ovs.daemon);
    version.arg("--version");
    let version = process::run(version, SHORT)?.lines().next().map(str::to_owned);

    let database = ovs.start_database()?;
    ovs.vsctl(&["--no-wait", "init"])?;
    if tso {
        ovs.vsctl(&["--no-wait", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true"])?;
    }
    let mut daemon = ovs.start_daemon()?;
    let bridge =
        ["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=standalone"];
    if let Err(error) = ovs.vsctl(&bridge) {
        // What the daemon said tells more than that nobody answered.
        daemon.check_running()?;
        return Err(error);
    }
    for index in 0..2 {
        ovs.plug(container(lab, index), &format!("port{index}"))?;
        configure(lab, index, 1500)?;
    }
    Ok(Parts { version, switch: vec![daemon], helpers: vec![database] })
}

impl Ovs<'_> {
    /// A command that keeps all of its files in the run directory.
    fn command(&self, program: &Path) -> Command {
        let mut command = self.host.command(program);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, self.dir);
        }
        command
    }

    fn socket(&self) -> String {
        format!("unix:{}", self.dir.join("db.sock").display())
    }

    fn vsctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(&self.vsctl);
        command.arg(format!("--db={}", self.socket())).arg("--timeout=15").args(args);
        process::run(command, PATIENCE + SHORT)
    }

    fn start_database(&self) -> anyhow::Result<Process> {
        let file = self.dir.join("conf.db");
        let mut create = self.command(&self.tool);
        create.arg("create").arg(&file).arg("/usr/share/openvswitch/vswitch.ovsschema");
        process::run(create, SHORT)?;
        let mut command = self.command(&self.server);
        command.arg(&file).arg("--no-chdir").arg(format!("--remote=p{}", self.socket()));
        let mut server = Process::start("ovsdb-server", command, self.dir)?;
        let socket = self.dir.join("db.sock");
        process::wait_until("the socket of ovsdb-server", PATIENCE, || {
            server.check_running()?;
            Ok(socket.exists().then_some(()))
        })?;
        Ok(server)
    }

    fn start_daemon(&self) -> anyhow::Result<Process> {
        let mut command = self.command(&self.daemon);
        command.arg(self.socket()).arg("--no-chdir");
        Process::start("ovs-vswitchd", command, self.dir)
    }

    /// Adds an internal port and gives it to a container as its interface.
    fn plug(&self, container: &Netns, port: &str) -> anyhow::Result<()> {
        self.vsctl(&["add-port", "br0", port, "--", "set", "interface", port, "type=internal"])?;
        self.host.ip(&[format!("link set dev {port} netns {} name {INTERFACE}", container.path().display())])
    }
}
