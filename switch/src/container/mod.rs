//! The lab runner: processes in namespaces of their own, with terminals, logs and exit codes.
//!
//! # Theory of operation
//!
//! Each container has a small process of its own, the *shim*: this program, run again as `vswitchd shim DIR`. It
//! leads its own session and is no child of the daemon, so that the daemon may restart or crash while containers
//! run. It holds the container's terminal or pipes, writes its log, reaps its processes, and serves a socket in
//! the container's directory; all that the daemon knows of a running container it asks there. The shim has one
//! thread and one `poll` loop: a process that forks must not have more.
//!
//! ```text
//! daemon --create--> shim --fork--> init: new net, mount, uts, ipc and pid namespace, mounts, hostname
//!        <-------------- "ready" <-------- waits
//!        TAPs, hosts file
//!        --start-------------------> init: execs the command as pid 1
//!        --exec-----> shim --fork--> joins the namespaces of init, execs
//!                     shim <-------- exits: log, exit.json, everybody who waits or watches; then the shim ends
//! ```
//!
//! The directory of a container, `DATA/containers/ID`, mode 0700:
//!
//! | file | what | mode |
//! | --- | --- | --- |
//! | `config.json` | the [`Launch`] | 0600 |
//! | `hosts`, `hostname`, `resolv.conf` | bind-mounted into the container's /etc | 0644 |
//! | `log`, `log.1`, ... | what it printed, see [`log`] | 0600 |
//! | `shim.sock` | requests, see `protocol` | in a 0700 directory |
//! | `shim.json` | who the shim and init are | 0600 |
//! | `shim.err` | empty, unless the shim itself failed | 0600 |
//! | `exit.json` | how it ended: an [`Exit`] | 0600 |
//!
//! # What holds
//!
//! 1. Nothing of a container survives its shim: init dies with it (`PR_SET_PDEATHSIG`), and with init
//!    the kernel ends every process of the pid namespace; namespaces and mounts go with their last process. A
//!    container whose own pid 1 gives up its user id loses that signal; [`Shim::wait`] and [`reconnect`] end it.
//! 2. `exit.json` is there whole before anybody is told of the end.
//! 3. Only the foreground client of a container, and an exec's own client, hold a process up by not reading. Input and
//!    output of each are bounded, and a further client that does not read is dropped, see `shim`.
//! 4. A container is taken for ended only when its shim has said so, or when the kernel says that the shim is dead and
//!    nobody listens on its socket. A question that fails says nothing.
//!
//! # What a container sees
//!
//! Without a root file system of its own: the files of the host, all read-only, with its own /proc, /sys, /dev,
//! and empty /tmp and /run (the sockets of the host's services are in /run). With one: that directory,
//! writable unless it is read-only, with its own /proc, /sys and /dev. In both: its own /etc/hosts, /etc/hostname and /etc/resolv.conf.
//! Where the kernel refuses a fresh /proc or /sys, as in some nested containers, it sees those of the daemon.
//!
//! This keeps experiments from harming the host by accident. It is no sandbox: root in a container without a user
//! namespace can undo it.
//!
//! # Running it under systemd
//!
//! The unit of the daemon needs `KillMode=process`: shims are in the control group of the daemon, and without it a
//! restart of the unit ends every container.

mod accounts;
mod ask;
pub mod cgroup;
mod client;
mod environment;
pub mod files;
mod init;
pub mod log;
mod logs;
mod mounts;
mod privileges;
pub mod processes;
mod protocol;
mod reaper;
mod root_check;
pub mod shim;
mod sysctls;
mod volumes;

use std::fs::File;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
pub use vswitch_proto::api::{Exec, Exit};
use vswitch_proto::command::LabSpec;
use vswitch_proto::id::ContainerId;

use crate::io::process;

pub use ask::ShimError;
pub use client::{Found, LaunchError, Shim, create, create_with, reconnect};
pub use logs::{LogOptions, logs};
pub use privileges::{capability_name, is_resource};
pub use sysctls::check as check_sysctl;
pub use volumes::tmpfs_options;

/// Everything that a shim needs to know of its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    pub id: ContainerId,
    /// The container's directory, absolute.
    pub dir: PathBuf,
    pub spec: LabSpec,
    pub hostname: String,
    /// No network namespace of its own.
    pub host_network: bool,
    /// Directories of the host that the container sees empty, and that its own root may not show: the daemon's data
    /// directory.
    pub hidden: Vec<PathBuf>,
    /// The directory of `hosts`, `hostname` and `resolv.conf`: `dir`, or that of the container whose network is shared.
    pub files: PathBuf,
    /// Whose network namespace is shared.
    pub network_of: Option<NetworkOwner>,
    /// The control group that holds the container to its limits.
    pub cgroup: Option<PathBuf>,
}

/// The first process of another container, in whose network namespace a container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkOwner {
    pub init_pid: i32,
    /// With the pid, which process it is.
    pub init_start_ticks: u64,
}

impl NetworkOwner {
    /// The namespace, if the process is still the same one.
    fn open(&self) -> io::Result<File> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.init_pid))?;
        match process::start_ticks(self.init_pid) {
            Some(ticks) if ticks == self.init_start_ticks => Ok(namespace),
            _ => {
                Err(io::Error::other("the container whose network is shared has ended: start that one first"))
            }
        }
    }
}
