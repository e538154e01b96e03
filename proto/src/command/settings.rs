//! Settings of a lab container beyond its command: what `docker run` calls `HostConfig` and a part of `Config`.
//!
//! The same types are carried by the API's requests and stored with the container.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::LogLimits;

/// Everything about a lab container that has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Words before the command; empty when there is none.
    pub entrypoint: Vec<String>,
    pub domainname: Option<String>,
    /// `NAME|UID[:GROUP|GID]`, resolved by the files of the container's own root.
    pub user: Option<String>,
    /// Additional groups, by name or number.
    pub groups: Vec<String>,
    /// Pid 1 reaps orphans and forwards signals; the command is its child.
    pub init: bool,
    pub read_only: bool,
    pub no_new_privileges: bool,
    pub binds: Vec<Bind>,
    pub tmpfs: Vec<TmpfsMount>,
    /// Size of /dev/shm, bytes; half of the memory when absent, as the kernel has it.
    pub shm_bytes: Option<u64>,
    /// Of the container's network namespace only.
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: Vec<Ulimit>,
    /// Capabilities without `CAP_`, in capitals, or `ALL`.
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub extra_hosts: Vec<ExtraHost>,
    pub dns: Dns,
    pub restart: RestartPolicy,
    /// SIGTERM when absent.
    pub stop_signal: Option<i32>,
    /// Seconds until SIGKILL; 10 when absent.
    pub stop_timeout_s: Option<u32>,
    pub limits: Limits,
    /// Bounds of the files that keep its output.
    pub log: LogLimits,
}

/// A directory or file of the host inside the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Absolute, on the daemon's host.
    pub source: String,
    /// Absolute, in the container.
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
    /// A source that does not exist is made, as a directory.
    #[serde(default)]
    pub create_source: bool,
}

/// An empty file system in memory inside the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TmpfsMount {
    pub target: String,
    /// Mount options with commas between.
    #[serde(default)]
    pub options: String,
}

/// A resource limit of every process, `setrlimit(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// As `nofile`.
    pub name: String,
    /// -1 for none.
    pub soft: i64,
    pub hard: i64,
}

/// A line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraHost {
    pub name: String,
    pub address: IpAddr,
}

/// Lines of /etc/resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    pub servers: Vec<IpAddr>,
    /// Search domains; a single `.` stands for none.
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Dns {
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.search.is_empty() && self.options.is_empty()
    }
}

/// What is done when the container's process ends by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    /// Also when vswitchd starts, whoever stopped it.
    Always,
    /// Also when vswitchd starts, unless a person stopped it.
    UnlessStopped,
    /// After an exit code other than 0.
    OnFailure {
        /// 0 for no bound.
        retries_max: u32,
    },
}

impl RestartPolicy {
    /// Docker's name.
    pub const fn name(self) -> &'static str {
        match self {
            RestartPolicy::No => "no",
            RestartPolicy::Always => "always",
            RestartPolicy::UnlessStopped => "unless-stopped",
            RestartPolicy::OnFailure { .. } => "on-failure",
        }
    }

    pub const fn retries_max(self) -> u32 {
        match self {
            RestartPolicy::OnFailure { retries_max } => retries_max,
            _ => 0,
        }
    }

    /// Whether a process that ended with `exit_code`, after so many restarts, is started again.
    pub const fn wants(self, exit_code: i32, restarts: u32, stopped_by_hand: bool) -> bool {
        match self {
            RestartPolicy::No => false,
            RestartPolicy::Always => true,
            RestartPolicy::UnlessStopped => !stopped_by_hand,
            RestartPolicy::OnFailure { retries_max } => {
                exit_code != 0 && (retries_max == 0 || restarts < retries_max)
            }
        }
    }
}

/// Limits of a control group over all processes of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    /// Processors, billionths.
    pub nano_cpus: Option<u64>,
    pub pids: Option<u32>,
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_as_docker_decides() {
        use RestartPolicy::*;
        let retries = |retries_max| OnFailure { retries_max };
        for (policy, exit_code, restarts, by_hand, wants) in [
            (No, 1, 0, false, false),
            (Always, 0, 1000, true, true),
            (UnlessStopped, 0, 3, false, true),
            (UnlessStopped, 1, 3, true, false),
            (retries(0), 1, 1000, false, true),
            (retries(0), 0, 0, false, false),
            (retries(2), 137, 1, false, true),
            (retries(2), 137, 2, false, false),
        ] {
            assert_eq!(
                policy.wants(exit_code, restarts, by_hand),
                wants,
                "{policy:?} {exit_code} {restarts}"
            );
        }
    }
}
