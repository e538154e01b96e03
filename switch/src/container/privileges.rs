//! What a container's processes may do: their account, capabilities and resource limits.
//!
//! By default a process has every capability that the daemon has; `--cap-drop` and `--cap-add` change that set as in
//! Docker, whose default set is smaller.

use std::io;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, fchown, setgroups, setresgid, setresuid};
use vswitch_proto::command::{Settings, Ulimit};

use super::accounts::{self, Account};
use crate::io::process;

/// By number, `include/uapi/linux/capability.h`.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Names of the settings of `setrlimit(2)` with their numbers.
const RESOURCES: [(&str, u32); 15] = [
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];

/// The name of a capability as it is stored: in capitals, without `CAP_`. `None` for one that does not exist.
pub fn capability_name(text: &str) -> Option<String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    (name == "ALL" || CAPABILITIES.contains(&name)).then(|| name.to_owned())
}

/// Whether a resource limit has this name.
pub fn is_resource(name: &str) -> bool {
    RESOURCES.iter().any(|(known, _)| *known == name)
}

/// Everything that is done to a process between its setup and its program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Privileges {
    user: Option<String>,
    groups: Vec<String>,
    ulimits: Vec<Ulimit>,
    /// One bit for each capability that stays.
    capabilities: u64,
    no_new_privileges: bool,
}

impl Privileges {
    pub(super) fn of(settings: &Settings) -> Privileges {
        Privileges {
            user: settings.user.clone(),
            groups: settings.groups.clone(),
            ulimits: settings.ulimits.clone(),
            capabilities: capabilities(&settings.cap_add, &settings.cap_drop),
            no_new_privileges: settings.no_new_privileges,
        }
    }

    pub(super) fn set_user(&mut self, user: &str) {
        self.user = Some(user.into());
    }

    pub(super) fn names_user(&self) -> bool {
        self.user.is_some()
    }

    /// Takes the privileges on, for good. The account that the process has from now on.
    pub(super) fn assume(&self) -> Result<Account, String> {
        let account =
            accounts::find(self.user.as_deref(), &self.groups).map_err(|error| error.to_string())?;
        for limit in &self.ulimits {
            set_limit(limit).map_err(|error| format!("cannot set the limit {}: {error}", limit.name))?;
        }
        if self.capabilities != u64::MAX {
            drop_others(self.capabilities).map_err(|error| format!("cannot drop capabilities: {error}"))?;
        }
        if self.user.is_some() || !self.groups.is_empty() {
            become_account(&account).map_err(|error| {
                format!("cannot become user {} of group {}: {error}", account.uid, account.gid)
            })?;
        }
        if self.capabilities != u64::MAX {
            process::keep_capabilities(self.capabilities)
                .map_err(|error| format!("cannot drop capabilities: {error}"))?;
        }
        if self.no_new_privileges {
            prctl::set_no_new_privs().map_err(|error| format!("cannot set no-new-privileges: {error}"))?;
        }
        Ok(account)
    }
}

/// As Docker computes it from a default set, which is the full one here.
fn capabilities(add: &[String], drop: &[String]) -> u64 {
    let has_all = |names: &[String]| names.iter().any(|name| name == "ALL");
    let mask = |names: &[String]| {
        let numbers = names.iter().filter_map(|name| CAPABILITIES.iter().position(|known| known == name));
        numbers.fold(0, |mask, number| mask | 1 << number)
    };
    match (has_all(add), has_all(drop)) {
        (true, true) => u64::MAX,
        (false, true) => mask(add),
        (true, false) => !mask(drop),
        (false, false) => !mask(drop) | mask(add),
    }
}

fn drop_others(kept: u64) -> io::Result<()> {
    for capability in (0..u64::BITS).filter(|capability| kept & 1 << capability == 0) {
        if !process::drop_from_bounding_set(capability)? {
            break;
        }
    }
    Ok(())
}

fn set_limit(limit: &Ulimit) -> io::Result<()> {
    let Some((_, number)) = RESOURCES.iter().find(|(name, _)| *name == limit.name) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // -1 is the largest unsigned number, which means none.
    process::set_resource_limit(*number, limit.soft as u64, limit.hard as u64)
}

fn become_account(account: &Account) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
    if !uid.is_root() {
        own_standard_streams(uid);
    }
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // A change of the user takes away both: that this process ends with its shim, and that its /proc is its user's.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    prctl::set_dumpable(true)?;
    Ok(())
}

/// So that a program may open /dev/stdout again. What is not a pipe or a terminal stays whose it is.
fn own_standard_streams(uid: Uid) {
    use nix::sys::stat::{SFlag, fstat};
    for stream in [&io::stdin() as &dyn std::os::fd::AsFd, &io::stdout(), &io::stderr()] {
        let Ok(found) = fstat(stream.as_fd()) else { continue };
        let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
        let is_terminal = kind == SFlag::S_IFCHR && nix::unistd::isatty(stream.as_fd()) == Ok(true);
        if kind == SFlag::S_IFIFO || is_terminal {
            // A user that this user namespace does not know cannot own it; it is usable as it is.
            let _ = fchown(stream.as_fd(), Some(uid), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(add: &[&str], drop: &[&str]) -> u64 {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        capabilities(&owned(add), &owned(drop))
    }

    #[test]
    fn capabilities_as_docker_adds_and_drops_them() {
        let (net_admin, net_raw) = (1 << 12, 1 << 13);
        assert_eq!(mask(&[], &[]), u64::MAX);
        assert_eq!(mask(&["NET_RAW"], &[]), u64::MAX);
        assert_eq!(mask(&[], &["NET_RAW"]), !net_raw);
        assert_eq!(mask(&["NET_ADMIN", "NET_RAW"], &["ALL"]), net_admin | net_raw);
        assert_eq!(mask(&["ALL"], &["NET_RAW"]), !net_raw);
        assert_eq!(mask(&["ALL"], &["ALL"]), u64::MAX);
        assert_eq!(mask(&[], &["ALL"]), 0);
        assert_eq!(capability_name("cap_net_raw").as_deref(), Some("NET_RAW"));
        assert_eq!(capability_name("all").as_deref(), Some("ALL"));
        assert_eq!(capability_name("NET"), None);
        assert_eq!(CAPABILITIES.iter().position(|name| *name == "CHECKPOINT_RESTORE"), Some(40));
    }

    #[test]
    fn limits_have_the_names_of_setrlimit() {
        assert!(is_resource("nofile") && is_resource("stack") && !is_resource("files"));
    }
}
