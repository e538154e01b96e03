//! What of the host, and which empty file systems, are mounted into a container because somebody asked for it.

use std::fs;
use std::io;
use std::path::{Component, Path};

use nix::mount::MsFlags;
use vswitch_proto::command::{Bind, Settings, TmpfsMount};

use super::mounts::make_file;
use crate::io::mount::{self, Tree};

/// Mount options that become flags: the name, the flag, and whether the name sets it.
const FLAGS: [(&str, MsFlags, bool); 12] = [
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
];

/// Those that a tmpfs itself takes, with a value.
const TMPFS_OPTIONS: [&str; 7] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

/// The flags and the data of `mount(2)` for the options of a tmpfs; the unknown option otherwise.
pub fn tmpfs_options(options: &str) -> Result<(MsFlags, String), String> {
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mut data: Vec<&str> = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        if let Some((_, flag, on)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            flags.set(*flag, *on);
        } else if option
            .split_once('=')
            .is_some_and(|(name, value)| TMPFS_OPTIONS.contains(&name) && !value.is_empty())
        {
            data.push(option);
        } else {
            return Err(option.into());
        }
    }
    Ok((flags, data.join(",")))
}

#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    #[error("cannot take {path} from the host: {source}")]
    Take { path: String, source: io::Error },
    #[error(
        "cannot make the mount point {target}: {source}; without --rootfs it is a path that the host has, or one below \
         /tmp or /run"
    )]
    Point { target: String, source: io::Error },
    #[error("cannot mount {target}: {source}")]
    Mount { target: String, source: io::Error },
}

/// A mount that waits for the container's root.
enum Pending {
    Bind { bind: Bind, tree: Tree, is_dir: bool },
    Tmpfs(TmpfsMount),
}

impl Pending {
    fn target(&self) -> &str {
        match self {
            Pending::Bind { bind, .. } => &bind.target,
            Pending::Tmpfs(tmpfs) => &tmpfs.target,
        }
    }
}

/// Mounts in the order in which they are made: outer directories first.
pub(super) struct Volumes(Vec<Pending>);

impl Volumes {
    /// Takes the sources, while the host's files are still there.
    pub(super) fn take(settings: &Settings) -> Result<Volumes, VolumeError> {
        let mut pending = Vec::new();
        for bind in &settings.binds {
            let cannot = |source| VolumeError::Take { path: bind.source.clone(), source };
            let source = Path::new(&bind.source);
            if bind.create_source && !source.exists() {
                fs::create_dir_all(source).map_err(cannot)?;
            }
            let is_dir = fs::metadata(source).map_err(cannot)?.is_dir();
            let tree = Tree::of_all(source).map_err(cannot)?;
            pending.push(Pending::Bind { bind: bind.clone(), tree, is_dir });
        }
        pending.extend(settings.tmpfs.iter().cloned().map(Pending::Tmpfs));
        pending.sort_by_key(|volume| depth(volume.target()));
        Ok(Volumes(pending))
    }

    /// Puts everything in its place; the root is the container's by now.
    pub(super) fn put(self) -> Result<(), VolumeError> {
        for volume in self.0 {
            let target = volume.target().to_owned();
            let path = Path::new(&target);
            let is_dir = !matches!(volume, Pending::Bind { is_dir: false, .. });
            make_point(path, is_dir)
                .map_err(|source| VolumeError::Point { target: target.clone(), source })?;
            let mounted = match volume {
                Pending::Bind { bind, tree, .. } if bind.read_only => tree.attach_read_only(path),
                Pending::Bind { tree, .. } => tree.attach(path),
                Pending::Tmpfs(tmpfs) => mount_tmpfs(path, &tmpfs.options),
            };
            mounted.map_err(|source| VolumeError::Mount { target, source })?;
        }
        Ok(())
    }
}

fn depth(target: &str) -> usize {
    Path::new(target).components().filter(|part| matches!(part, Component::Normal(_))).count()
}

fn make_point(target: &Path, is_dir: bool) -> io::Result<()> {
    if is_dir {
        if target.is_dir() { Ok(()) } else { fs::create_dir_all(target) }
    } else {
        let parent = target.parent().unwrap_or(Path::new("/"));
        if !parent.is_dir() {
            fs::create_dir_all(parent)?;
        }
        make_file(target)
    }
}

fn mount_tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let (flags, data) = tmpfs_options(options).map_err(|_| io::ErrorKind::InvalidInput)?;
    let target = fs::canonicalize(target)?;
    mount::mount_new("tmpfs", &target, flags, &data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_tmpfs() {
        let default = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        assert_eq!(tmpfs_options(""), Ok((default, String::new())));
        assert_eq!(
            tmpfs_options("rw,exec,size=64k,ro,mode=1777"),
            Ok((MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RDONLY, "size=64k,mode=1777".into()))
        );
        for bad in ["huge", "size", "size=", "rw,bind", "source=x"] {
            assert!(tmpfs_options(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn outer_directories_come_first() {
        let tmpfs = |target: &str| TmpfsMount { target: target.into(), options: String::new() };
        let settings =
            Settings { tmpfs: vec![tmpfs("/a/b/c"), tmpfs("/a//b/"), tmpfs("/")], ..Settings::default() };
        let volumes = Volumes::take(&settings).unwrap_or_else(|error| panic!("{error}"));
        let order: Vec<&str> = volumes.0.iter().map(Pending::target).collect();
        assert_eq!(order, ["/", "/a//b/", "/a/b/c"]);
    }
}
