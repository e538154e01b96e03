//! What a machine holds, to see that nothing is left over.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::ensure;

use crate::lab::{DATA_DIR, Lab};
use crate::wait::eventually;

/// Everything that containers take from a machine. Two of them are equal when nothing came or went in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Command lines of all processes.
    processes: Vec<String>,
    /// Namespaces of any kind that a process is in.
    namespaces: BTreeSet<PathBuf>,
    /// Mount points that pid 1 and the daemon see.
    mounts: Vec<String>,
    /// Interfaces of the machine itself.
    interfaces: String,
    /// TAPs and namespaces that the daemon holds open.
    descriptors: Vec<PathBuf>,
    /// Files of the machine's /run, and what the daemon keeps about containers.
    files: BTreeSet<PathBuf>,
}

impl Footprint {
    pub fn of(lab: &Lab) -> Footprint {
        let daemon = lab.daemon_pid().to_string();
        let mut footprint = Footprint {
            processes: Vec::new(),
            namespaces: BTreeSet::new(),
            mounts: Vec::new(),
            interfaces: lab.sh("ip -o link | sed 's/ qdisc.*//'"),
            descriptors: Vec::new(),
            files: BTreeSet::new(),
        };
        // What the script above was is gone by now, but its processes may still wait to be reaped.
        for process in children(&lab.path("/proc")) {
            footprint.add_process(&process);
        }
        for pid in ["1", &daemon] {
            let mounts = fs::read_to_string(lab.path(format!("/proc/{pid}/mountinfo"))).unwrap_or_default();
            let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
            footprint.mounts.extend(points.map(String::from));
        }
        let descriptors = children(&lab.path(format!("/proc/{daemon}/fd")));
        let links = descriptors.iter().filter_map(|fd| fs::read_link(fd).ok());
        footprint.descriptors = links.filter(|to| is_container_resource(to)).collect();
        footprint.descriptors.sort();
        for directory in [PathBuf::from("/run"), Path::new(DATA_DIR).join("containers")] {
            add_files(&lab.path(directory), &mut footprint.files);
        }
        footprint.processes.sort();
        footprint.mounts.sort();
        footprint
    }

    fn add_process(&mut self, process: &Path) {
        let number = process.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok(command) = fs::read(process.join("cmdline")) else { return };
        // Zombies have no command line.
        if number.parse::<u32>().is_err() || command.is_empty() {
            return;
        }
        self.processes.push(String::from_utf8_lossy(&command).replace('\0', " "));
        let namespaces = children(&process.join("ns"));
        self.namespaces.extend(namespaces.iter().filter_map(|link| fs::read_link(link).ok()));
    }
}

impl Lab {
    /// Waits until the machine holds what it held at the time of `before`.
    pub fn wait_for_footprint(&self, before: &Footprint) {
        eventually("nothing is left over", || {
            let now = Footprint::of(self);
            ensure!(now == *before, "before: {before:#?}\nnow: {now:#?}");
            Ok(())
        });
    }
}

fn is_container_resource(link: &Path) -> bool {
    let target = link.to_string_lossy();
    target == "/dev/net/tun"
        || target.starts_with("net:[")
        || target.contains("/ns/")
        || target.contains("/containers/")
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn add_files(directory: &Path, files: &mut BTreeSet<PathBuf>) {
    for path in children(directory) {
        if path.is_dir() && !path.is_symlink() {
            add_files(&path, files);
        }
        files.insert(path);
    }
}
