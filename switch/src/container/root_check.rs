//! Whether a root directory would show the daemon's own data.
//!
//! Directories are compared by their places in file systems, so that a symbolic link or a bind mount hides nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::io::mount::{Mounted, mounted};

/// Whether `root`, or anything that is mounted below it, is one of these directories, lies in one or contains one. A
/// directory that does not exist overlaps with nothing.
pub(super) fn overlaps(root: &Path, hidden: &[PathBuf]) -> io::Result<bool> {
    let root = fs::canonicalize(root)?;
    let mounts = mounted()?;
    for directory in hidden {
        let directory = match fs::canonicalize(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if paths_overlap(&root, &directory, &mounts) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn paths_overlap(root: &Path, directory: &Path, mounts: &[Mounted]) -> bool {
    if related(root, directory) {
        return true;
    }
    let Some(place) = place_of(directory, mounts) else { return false };
    let below = mounts.iter().filter(|mount| mount.point.starts_with(root));
    let seen = below.map(|mount| (mount.device.as_str(), mount.root.clone()));
    place_of(root, mounts)
        .into_iter()
        .chain(seen)
        .any(|(device, path)| device == place.0 && related(&path, &place.1))
}

fn related(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// The file system that a path is in, and where in it.
fn place_of<'a>(path: &Path, mounts: &'a [Mounted]) -> Option<(&'a str, PathBuf)> {
    // Of several mounts at one point the last one is seen.
    let mount = mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())?;
    let rest = path.strip_prefix(&mount.point).ok()?;
    Some((&mount.device, mount.root.join(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(device: &str, root: &str, point: &str) -> Mounted {
        Mounted { device: device.into(), root: root.into(), point: point.into() }
    }

    #[test]
    fn what_shows_the_data_overlaps_with_it() {
        let mounts = [
            mount("8:1", "/", "/"),
            mount("8:2", "/", "/var"),
            mount("8:2", "/lib/vswitch/containers", "/mnt/bound"),
            mount("8:2", "/lib", "/srv/with/lib"),
            mount("8:2", "/other", "/srv/other"),
            mount("0:9", "/", "/srv/other/tmp"),
        ];
        let data = Path::new("/var/lib/vswitch");
        for (root, overlaps) in [
            ("/", true),
            ("/var", true),
            ("/var/lib/vswitch", true),
            ("/var/lib/vswitch/containers/x", true),
            ("/mnt/bound", true),
            ("/mnt/bound/x", true),
            ("/mnt", true),
            ("/srv", true),
            ("/srv/with/lib/vswitch", true),
            ("/srv/with/lib/dpkg", false),
            ("/srv/other", false),
            ("/var/lib/vswitch2", false),
            ("/home", false),
        ] {
            assert_eq!(paths_overlap(Path::new(root), data, &mounts), overlaps, "{root}");
        }
    }
}
