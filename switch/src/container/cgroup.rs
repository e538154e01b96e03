//! Limits over all processes of a container, by a control group of version 2.
//!
//! Groups are `vswitch/CONTAINER` below the root of the hierarchy. A container without limits has none. Whoever cannot
//! have a limit is refused: a limit that silently does not hold is worse than none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vswitch_proto::command::Limits;
use vswitch_proto::id::ContainerId;

/// Directory of all groups.
const PARENT: &str = "vswitch";
/// Microseconds over which processor time is counted, the kernel's default.
const PERIOD_US: u64 = 100_000;
const NANOS_PER_CPU: u64 = 1_000_000_000;
/// A group can be removed a moment after its last process has ended.
const REMOVAL_POLL: Duration = Duration::from_millis(10);
const REMOVAL_POLLS_MAX: u32 = 200;
/// Another daemon may remove the directory of all groups just now.
const CREATION_ATTEMPTS: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("limits need a control-group hierarchy of version 2, and none is mounted: leave the limit out")]
    NoHierarchy,
    #[error(
        "the limit needs the controller {controller} of control groups of version 2, which is not available at {}: \
         leave the limit out", root.display()
    )]
    NoController { controller: &'static str, root: PathBuf },
    #[error("cannot {step} the control group {}: {source}; leave the limit out", path.display())]
    Step { step: &'static str, path: PathBuf, source: io::Error },
}

/// Makes (or changes) the group of a container and sets its limits.
pub fn create(id: &ContainerId, limits: &Limits) -> Result<PathBuf, CgroupError> {
    let root = hierarchy().ok_or(CgroupError::NoHierarchy)?;
    let group = create_below(&root, &id.to_string(), limits);
    if group.is_err() {
        remove_at_once(id);
    }
    group
}

fn create_below(root: &Path, name: &str, limits: &Limits) -> Result<PathBuf, CgroupError> {
    let parent = root.join(PARENT);
    let group = parent.join(name);
    let controllers = controllers(limits);
    let mut attempt = 0;
    loop {
        attempt += 1;
        for directory in [root, &parent] {
            make_directory(directory)?;
            delegate(directory, &controllers)?;
        }
        match make_directory(&group) {
            Err(CgroupError::Step { source, .. })
                if source.kind() == io::ErrorKind::NotFound && attempt < CREATION_ATTEMPTS => {}
            Err(error) => return Err(error),
            Ok(()) => break,
        }
    }
    write_limits(&group, limits)?;
    Ok(group)
}

fn make_directory(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(CgroupError::Step { step: "make", path: path.into(), source: error })
        }
        _ => Ok(()),
    }
}

/// The controllers that limits need.
fn controllers(limits: &Limits) -> Vec<&'static str> {
    let needed = [
        ("memory", limits.memory_bytes.is_some()),
        ("cpu", limits.nano_cpus.is_some()),
        ("pids", limits.pids.is_some()),
    ];
    needed.into_iter().filter(|(_, needed)| *needed).map(|(name, _)| name).collect()
}

/// Lets the groups below `directory` use controllers.
fn delegate(directory: &Path, controllers: &[&'static str]) -> Result<(), CgroupError> {
    let words = |file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default();
    let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    let (available, enabled) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
    for controller in controllers {
        if !has(&available, controller) {
            return Err(CgroupError::NoController { controller, root: directory.into() });
        }
        if !has(&enabled, controller) {
            let path = directory.join("cgroup.subtree_control");
            fs::write(&path, format!("+{controller}")).map_err(|source| CgroupError::Step {
                step: "enable a controller in",
                path,
                source,
            })?;
        }
    }
    Ok(())
}

/// Files of a group with what is written to them; `max` where there is no limit, for a group that had one.
fn files(limits: &Limits) -> [(&'static str, Option<String>); 4] {
    // Docker's default: as much swap as memory.
    let memory = limits.memory_bytes.map(|bytes| bytes.to_string());
    let quota = |nano_cpus: u64| nano_cpus.saturating_mul(PERIOD_US) / NANOS_PER_CPU;
    [
        ("memory.max", memory.clone()),
        ("memory.swap.max", memory),
        ("cpu.max", limits.nano_cpus.map(|nano_cpus| format!("{} {PERIOD_US}", quota(nano_cpus)))),
        ("pids.max", limits.pids.map(|pids| pids.to_string())),
    ]
}

fn write_limits(group: &Path, limits: &Limits) -> Result<(), CgroupError> {
    for (file, content) in files(limits) {
        let path = group.join(file);
        let known = path.exists();
        let content = match content {
            Some(content) => content,
            None if known => "max".into(),
            None => continue,
        };
        // A kernel without swap has no such file.
        if !known && file == "memory.swap.max" {
            continue;
        }
        fs::write(&path, content).map_err(|source| CgroupError::Step {
            step: "set a limit of",
            path,
            source,
        })?;
    }
    Ok(())
}

/// Moves the calling process into a group.
pub(super) fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}

/// Moves the calling process into the group of another one, if that is one of ours.
pub(super) fn enter_that_of(pid: i32) -> io::Result<()> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else { return Ok(()) };
    match hierarchy() {
        Some(root) if group.starts_with(PARENT) => enter(&root.join(group)),
        _ => Ok(()),
    }
}

/// Those of the processes that are not in a group.
pub fn outside(group: &Path, pids: Vec<i32>) -> Vec<i32> {
    let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let inside: Vec<i32> = inside.lines().filter_map(|line| line.parse().ok()).collect();
    pids.into_iter().filter(|pid| !inside.contains(pid)).collect()
}

/// Moves processes that run already into a group. Those that end meanwhile are left out.
pub fn adopt(group: &Path, pids: &[i32]) -> io::Result<()> {
    for pid in pids {
        match fs::write(group.join("cgroup.procs"), pid.to_string()) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the group of a container whose processes have ended, if it has one, and waits for the last of them for a
/// moment.
pub fn remove(id: &ContainerId) {
    for _ in 0..REMOVAL_POLLS_MAX {
        if remove_at_once(id) {
            return;
        }
        std::thread::sleep(REMOVAL_POLL);
    }
}

/// Removes the group of a container, if it has one. False while it has processes.
pub fn remove_at_once(id: &ContainerId) -> bool {
    let Some(root) = hierarchy() else { return true };
    let parent = root.join(PARENT);
    let removed = fs::remove_dir(parent.join(id.to_string()));
    if removed.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
        return false;
    }
    // Refused while another container has a group.
    let _ = fs::remove_dir(parent);
    true
}

/// Where the hierarchy of version 2 is mounted.
fn hierarchy() -> Option<PathBuf> {
    mount_point(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// From `proc_pid_mountinfo(5)`: the fifth field is the mount point, the first behind the dash the file system.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(4);
        let (point, options) = (fields.next()?, fields.next()?);
        let writable = options.split(',').all(|option| option != "ro");
        (kind.starts_with("cgroup2 ") && writable).then(|| point.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_the_kernel_wants_them() {
        let limits = Limits { memory_bytes: Some(64 << 20), nano_cpus: Some(1_500_000_000), pids: Some(7) };
        let written: Vec<String> = files(&limits).into_iter().map(|(_, text)| text.unwrap()).collect();
        assert_eq!(written, ["67108864", "67108864", "150000 100000", "7"]);
        assert_eq!(controllers(&limits), ["memory", "cpu", "pids"]);
        assert_eq!(controllers(&Limits::default()), [""; 0]);
    }

    #[test]
    fn the_hierarchy_is_found_where_it_is_writable() {
        let text = "31 23 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mount_point(text), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point(&text.replace("rw,nosuid", "ro,nosuid")), None);
        assert_eq!(mount_point("31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
    }

    #[test]
    fn a_controller_that_is_missing_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset io\n").unwrap();
        let limits = Limits { pids: Some(5), ..Limits::default() };
        let error = create_below(root.path(), "x", &limits).unwrap_err().to_string();
        assert!(error.contains("controller pids"), "{error}");
    }
}
