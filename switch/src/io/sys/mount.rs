//! The mount calls of Linux 5.2 (`open_tree`, `fsopen`, `fsmount`, `move_mount`) and 5.12 (`mount_setattr`).
//!
//! Numbers: `include/uapi/linux/mount.h`.
#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A detached copy of the mount at `path`, with the mounts below it when `recursive`.
pub fn open_tree(path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let depth = if recursive { libc::AT_RECURSIVE as libc::c_uint } else { 0 };
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | depth;
    // SAFETY: the path is NUL-terminated and outlives the call, which writes no memory.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    owned(fd)
}

/// A new file system of `kind`, detached, without set-user-id, devices and programs.
pub fn new_tree(kind: &CStr, read_only: bool) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated and outlives the call, which writes no memory.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes neither a key nor a value.
    let created =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0) };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    let access = if read_only { MOUNT_ATTR_RDONLY } else { 0 };
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | access;
    // SAFETY: takes its arguments by value.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
}

/// The result of a system call that returns a descriptor.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

/// Puts a detached tree at `target`, whose last symbolic link is not followed.
pub fn move_mount(tree: impl AsFd, target: &CStr) -> io::Result<()> {
    // SAFETY: both paths are NUL-terminated and outlive the call, which writes no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the mount at `path` and all mounts below it read-only in one step.
pub fn set_read_only(path: &CStr) -> io::Result<()> {
    set_attr(libc::AT_FDCWD, path, libc::AT_RECURSIVE as libc::c_uint)
}

/// Makes the mount at `path` read-only, and none below it.
pub fn set_one_read_only(path: &CStr) -> io::Result<()> {
    set_attr(libc::AT_FDCWD, path, 0)
}

/// The same for a detached tree.
pub fn set_tree_read_only(tree: impl AsFd) -> io::Result<()> {
    let flags = (libc::AT_RECURSIVE | libc::AT_EMPTY_PATH) as libc::c_uint;
    set_attr(tree.as_fd().as_raw_fd(), c"", flags)
}

fn set_attr(at: RawFd, path: &CStr, flags: libc::c_uint) -> io::Result<()> {
    let attr = MountAttr { attr_set: MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is NUL-terminated, `attr` has the layout and size that are passed, and both outlive the
    // call, which writes no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at,
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
