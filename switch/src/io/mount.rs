//! Mounts, as a container's init process makes them in its own mount namespace.
//!
//! What a container shall see of its host is taken as a detached [`Tree`] first and put in its place later, so
//! that it does not matter whether the source is still reachable (after `pivot_root`) or still writable (after
//! everything was made read-only) by then.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::sys::mount as sys;

/// A copy of a mount, or of a part of it, that is in no namespace yet.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// Of one file or directory, without what is mounted below it.
    pub fn of(path: &Path) -> io::Result<Tree> {
        sys::open_tree(&c_path(path)?, false).map(Tree)
    }

    /// With everything that is mounted below it.
    pub fn of_all(path: &Path) -> io::Result<Tree> {
        sys::open_tree(&c_path(path)?, true).map(Tree)
    }

    /// A new file system of `kind`, without set-user-id, devices and programs. In a user namespace the kernel makes
    /// a new proc or sysfs only while another one is wholly visible, so before a change of the root.
    pub fn new(kind: &CStr, read_only: bool) -> io::Result<Tree> {
        sys::new_tree(kind, read_only).map(Tree)
    }

    /// Puts it at `target`, which exists and, when it is a symbolic link, is followed.
    pub fn attach(self, target: &Path) -> io::Result<()> {
        let target = fs::canonicalize(target)?;
        sys::move_mount(&self.0, &c_path(&target)?)
    }

    /// Puts it at `target` read-only.
    pub fn attach_read_only(self, target: &Path) -> io::Result<()> {
        let target = fs::canonicalize(target)?;
        match sys::set_tree_read_only(&self.0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                sys::move_mount(&self.0, &c_path(&target)?)?;
                remount_each_read_only(&target)
            }
            Err(error) => Err(error),
            Ok(()) => sys::move_mount(&self.0, &c_path(&target)?),
        }
    }
}

/// A new file system of `kind` at `target`.
pub fn mount_new(kind: &str, target: &Path, flags: MsFlags, options: &str) -> io::Result<()> {
    Ok(mount(Some(kind), target, Some(kind), flags, Some(options))?)
}

/// From here on no mount or unmount passes between this namespace and others.
pub fn make_all_private() -> io::Result<()> {
    Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?)
}

/// Everything that is mounted now becomes read-only.
pub fn make_all_read_only() -> io::Result<()> {
    match sys::set_read_only(c"/") {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => remount_each_read_only(Path::new("/")),
        other => other,
    }
}

/// The mount at `point` becomes read-only, those below it stay as they are.
pub fn make_read_only(point: &Path) -> io::Result<()> {
    match sys::set_one_read_only(&c_path(point)?) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            Ok(mount(None::<&str>, point, None::<&str>, flags, None::<&str>)?)
        }
        other => other,
    }
}

/// Makes `root` the root of this namespace; what was mounted before is gone from it.
pub fn enter_root(root: &Path) -> io::Result<()> {
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(root), root, None::<&str>, bind, None::<&str>)?;
    chdir(root)?;
    // The old root is stacked on the new one, where the current directory finds it.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

/// For kernels before 5.12: one remount for each mount at or below `top`.
fn remount_each_read_only(top: &Path) -> io::Result<()> {
    for (point, options) in mount_points(&fs::read("/proc/self/mountinfo")?) {
        if !point.starts_with(top) {
            continue;
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | options;
        match mount(None::<&str>, &point, None::<&str>, flags, None::<&str>) {
            // Hidden below another mount: nobody can reach it.
            Ok(()) | Err(nix::Error::ENOENT | nix::Error::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Mount points with the flags that a remount must repeat (`proc_pid_mountinfo(5)`).
fn mount_points(mountinfo: &[u8]) -> Vec<(PathBuf, MsFlags)> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ').skip(4);
            let (point, options) = (fields.next()?, fields.next()?);
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(point)));
            let flags =
                options.split(|byte| *byte == b',').map(flag).fold(MsFlags::empty(), |all, f| all | f);
            Some((path, flags))
        })
        .collect()
}

/// A mount: a directory of a file system, and where it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The file system, as `MAJOR:MINOR`.
    pub device: String,
    /// Inside the file system.
    pub root: PathBuf,
    pub point: PathBuf,
}

/// The mounts that this process sees, in the order in which they were made (`proc_pid_mountinfo(5)`).
pub fn mounted() -> io::Result<Vec<Mounted>> {
    Ok(parse_mounted(&fs::read("/proc/self/mountinfo")?))
}

fn parse_mounted(mountinfo: &[u8]) -> Vec<Mounted> {
    let path = |field: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(field)));
    let lines = mountinfo.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ').skip(2);
            let (device, root, point) = (fields.next()?, fields.next()?, fields.next()?);
            let device = String::from_utf8_lossy(device).into_owned();
            Some(Mounted { device, root: path(root), point: path(point) })
        })
        .collect()
}

fn flag(option: &[u8]) -> MsFlags {
    match option {
        b"nosuid" => MsFlags::MS_NOSUID,
        b"nodev" => MsFlags::MS_NODEV,
        b"noexec" => MsFlags::MS_NOEXEC,
        b"noatime" => MsFlags::MS_NOATIME,
        b"nodiratime" => MsFlags::MS_NODIRATIME,
        b"relatime" => MsFlags::MS_RELATIME,
        _ => MsFlags::empty(),
    }
}

/// Blanks, tabs, newlines and backslashes are three octal digits behind a backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.first_chunk::<3>()).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(value.unwrap_or(byte));
        rest = if value.is_some() { &tail[3..] } else { tail };
    }
    out
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_their_flags() {
        let text = b"22 27 0:21 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
                     23 27 0:22 / /a\\040b\\134c rw - tmpfs tmpfs rw\nbad\n";
        let points = mount_points(text);
        let proc_flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RELATIME;
        assert_eq!(points, [("/proc".into(), proc_flags), ("/a b\\c".into(), MsFlags::empty())]);
    }

    #[test]
    fn mounts_with_their_places_in_file_systems() {
        let text = b"23 27 8:1 /sub\\040dir /a rw - ext4 /dev/sda1 rw\nbad\n";
        let expected = Mounted { device: "8:1".into(), root: "/sub dir".into(), point: "/a".into() };
        assert_eq!(parse_mounted(text), [expected]);
    }
}
