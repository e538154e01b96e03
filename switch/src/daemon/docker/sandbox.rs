//! Network namespaces of an engine's containers.
//!
//! The engine names a container's namespace by a path, which it has mounted. Where it has mounts of its own (snap, Docker
//! in Docker, `PrivateMounts=`), that path leads nowhere for others. Then the namespace is that of the container's first
//! process, whose id the engine tells. Process ids are recycled, so the process is known by its start, too; and where the
//! engine has process ids of its own, the process is found in the engine's `/proc`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vswitch_proto::id::ContainerId;

use crate::io::netns::{self, NetNs};

/// A container's first process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstProcess {
    /// Its directory in `/proc`, or in the engine's.
    dir: PathBuf,
    start_ticks: u64,
}

impl FirstProcess {
    /// The process with this id, as the engine tells it. `engine` is the engine's own process, where it is known.
    pub fn find(pid: u32, engine: Option<i32>) -> Option<FirstProcess> {
        let own = PathBuf::from(format!("/proc/{pid}"));
        let of_engine = engine.map(|engine| PathBuf::from(format!("/proc/{engine}/root/proc/{pid}")));
        of_engine.into_iter().chain([own]).find_map(|dir| {
            let start_ticks = netns::start_time_in(&dir).ok()?;
            Some(FirstProcess { dir, start_ticks })
        })
    }

    /// `None` once it has ended.
    fn namespace(&self) -> Option<NetNs> {
        let opened = NetNs::open(&self.dir.join("ns/net")).ok()?;
        // In this order: what was opened was the process's if it is still the same.
        (netns::start_time_in(&self.dir).ok()? == self.start_ticks).then_some(opened)
    }
}

/// Where a container's interface is.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// As the engine tells it.
    pub path: String,
    pub process: Option<FirstProcess>,
}

impl Sandbox {
    /// `None` if it cannot be seen here, or has gone with its container.
    pub fn open(&self) -> Option<NetNs> {
        NetNs::open(Path::new(&self.path)).ok().or_else(|| self.process.as_ref()?.namespace())
    }
}

/// First processes of the containers whose namespace is not visible under its path, by endpoint.
#[derive(Debug, Default)]
pub struct FirstProcesses(Mutex<BTreeMap<ContainerId, FirstProcess>>);

impl FirstProcesses {
    pub fn sandbox(&self, endpoint: &ContainerId, path: String) -> Sandbox {
        Sandbox { path, process: self.lock().get(endpoint).cloned() }
    }

    pub fn set(&self, endpoint: ContainerId, process: FirstProcess) {
        self.lock().insert(endpoint, process);
    }

    /// Forgets those of all other endpoints.
    pub fn retain(&self, is_joined: impl Fn(&ContainerId) -> bool) {
        self.lock().retain(|endpoint, _| is_joined(endpoint));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, FirstProcess>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_found_by_path_or_by_process() {
        let here = NetNs::current().unwrap();
        let me = std::process::id();
        let process = FirstProcess::find(me, None);
        assert!(process.is_some());
        assert_eq!(FirstProcess::find(u32::MAX, None), None);
        let sandbox =
            |path: &str, process: Option<FirstProcess>| Sandbox { path: path.into(), process }.open();
        assert_eq!(sandbox("/proc/self/ns/net", None), Some(here));
        // What the engine has mounted is an empty file for others.
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(sandbox(path, None), None);
        assert_eq!(sandbox(path, process.clone()), NetNs::current().ok());
        let another = process.map(|process| FirstProcess { start_ticks: process.start_ticks + 1, ..process });
        assert_eq!(sandbox(path, another), None, "the id is another process's by now");
        // Through the root directory of the engine, which this process may be.
        let engine = FirstProcess::find(me, Some(me as i32)).unwrap();
        assert!(engine.dir.starts_with(format!("/proc/{me}/root/proc")), "{engine:?}");
        assert_eq!(engine.namespace(), NetNs::current().ok());
    }
}
