//! Network namespaces.
//!
//! A [`NetNs`] is an open descriptor of a namespace: while it exists, so does the namespace. Work inside it happens
//! on a thread of its own that ends with the work ([`NetNs::run`]), so no thread that does anything else is ever in
//! a foreign namespace. A socket or TAP descriptor stays in the namespace that it was opened in, wherever it is
//! used afterwards.
//!
//! Process ids are recycled. Who keeps one for longer keeps its [`start_time`] with it and compares.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use vswitch_proto::command::NetnsIdentity;

use super::sys::nsfs;

/// What makes two descriptors the same namespace (ioctl_ns(2)). Inode numbers are reused after a namespace ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetNsId {
    pub device: u64,
    pub inode: u64,
}

/// An open network namespace. Two are equal when they are the same namespace.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    id: NetNsId,
}

#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    #[error("{path} cannot be opened as a network namespace: {source}")]
    Open { path: String, source: io::Error },
    #[error("{path} is not a network namespace")]
    NotNetNs { path: String },
    #[error("there is no process {0}")]
    NoProcess(u32),
    #[error("it cannot be told which network namespace {path} is: {source}")]
    Identify { path: String, source: io::Error },
    #[error("a network namespace cannot be made: {0}; this needs root, or a user namespace of one's own")]
    Create(io::Error),
}

impl NetNs {
    /// The calling thread's own.
    pub fn current() -> Result<NetNs, NetNsError> {
        NetNs::open(Path::new("/proc/thread-self/ns/net"))
    }

    pub fn of_pid(pid: u32) -> Result<NetNs, NetNsError> {
        NetNs::open(Path::new(&format!("/proc/{pid}/ns/net"))).map_err(|e| match e {
            NetNsError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                NetNsError::NoProcess(pid)
            }
            other => other,
        })
    }

    /// A namespace file, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<NetNs, NetNsError> {
        let shown = || path.display().to_string();
        // The path may be anything: O_NONBLOCK keeps a pipe that nobody writes to from holding us up.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|source| NetNsError::Open { path: shown(), source })?;
        if nsfs::namespace_type(file.as_fd()).ok() != Some(libc::CLONE_NEWNET) {
            return Err(NetNsError::NotNetNs { path: shown() });
        }
        let meta = file.metadata().map_err(|source| NetNsError::Open { path: shown(), source })?;
        Ok(NetNs { file, id: NetNsId { device: meta.dev(), inode: meta.ino() } })
    }

    /// A new namespace without a name. It lasts as long as this handle, or whatever else is put into it.
    pub fn create() -> Result<NetNs, NetNsError> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetNsError::Create(e.into()))?;
            NetNs::current()
        })
        .map_err(NetNsError::Create)?
    }

    pub fn id(&self) -> NetNsId {
        self.id
    }

    /// What tells it from every other one, also when it is not open any more.
    pub fn identity(&self) -> io::Result<NetnsIdentity> {
        let cookie = self.run(|| nsfs::netns_cookie(UnixDatagram::unbound()?.as_fd()))?;
        let cookie = match cookie {
            Ok(cookie) => Some(cookie),
            // Before Linux 5.14.
            Err(error) if error.raw_os_error() == Some(Errno::ENOPROTOOPT as i32) => None,
            Err(error) => return Err(error),
        };
        let NetNsId { device, inode } = self.id;
        Ok(NetnsIdentity { boot_id: boot_id()?, device, inode, cookie })
    }

    /// Runs `f` inside the namespace, on a thread of its own, and waits for it. Meant for the control side: call it
    /// from async code through `spawn_blocking`.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(f())
        })?
    }
}

impl PartialEq for NetNs {
    fn eq(&self, other: &NetNs) -> bool {
        self.id == other.id
    }
}

impl Eq for NetNs {}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Of the host's present run: drawn anew at each start.
fn boot_id() -> io::Result<u128> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits = text.trim().replace('-', "");
    u128::from_str_radix(&digits, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// When a process began, in clock ticks since boot (proc_pid_stat(5), field 22). Together with the process id it
/// names a process for good.
pub fn start_time(pid: u32) -> io::Result<u64> {
    start_time_in(Path::new(&format!("/proc/{pid}")))
}

/// The same for a process whose directory in a `/proc` is known.
pub fn start_time_in(dir: &Path) -> io::Result<u64> {
    let stat = std::fs::read(dir.join("stat"))?;
    parse_start_time(&stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat has no field 22"))
}

/// The second field is a command in parentheses that may itself hold spaces and parentheses, so counting begins
/// behind the last one.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let behind_command = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let rest = std::str::from_utf8(&stat[behind_command..]).ok()?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("vswitch-netns".into()).spawn_scoped(scope, f)?;
        thread.join().or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests;
