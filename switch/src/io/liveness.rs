//! Whether a process still exists: yes, no, or not known.
//!
//! A question that fails (no descriptors left, a socket's full backlog, an answer that is late) says nothing about
//! the process. Only the kernel's own answer that there is no such process does, and a pidfd is the way to ask that
//! cannot run out while it is open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::netns::start_time;
use super::sys::process::pidfd_open;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    Alive,
    /// It has ended; a zombie has, too.
    Dead,
    /// The question could not be asked.
    Unknown,
}

/// An open pidfd.
#[derive(Debug)]
pub struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// Opens the process with this pid, if it is the one that started at `start_ticks`; `None` when it has ended.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn open(pid: i32, start_ticks: u64) -> io::Result<Option<ProcessHandle>> {
        let Some(handle) = ProcessHandle::open_any(pid)? else { return Ok(None) };
        // Looked at after the pidfd was opened: from then on the pid is not given to another process unnoticed.
        match start_ticks_of(pid)? {
            Some(ticks) if ticks == start_ticks => Ok(Some(handle)),
            _ => Ok(None),
        }
    }

    /// Opens whatever process has this pid now.
    ///
    /// # Errors
    /// When it cannot be told whether there is one.
    pub fn open_any(pid: i32) -> io::Result<Option<ProcessHandle>> {
        match pidfd_open(pid) {
            Ok(fd) => Ok(Some(ProcessHandle(fd))),
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Needs no descriptor and no memory, so it has an answer on an exhausted host, too.
    pub fn liveness(&self) -> Liveness {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::ZERO) {
            Ok(0) => Liveness::Alive,
            Ok(_) => Liveness::Dead,
            Err(_) => Liveness::Unknown,
        }
    }
}

/// Whether the process with this pid that started at `start_ticks` exists.
pub fn liveness(pid: i32, start_ticks: u64) -> Liveness {
    match ProcessHandle::open(pid, start_ticks) {
        Ok(Some(handle)) => handle.liveness(),
        Ok(None) => Liveness::Dead,
        // A kernel without pidfds, before Linux 5.3.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => match start_ticks_of(pid) {
            Ok(ticks) if ticks == Some(start_ticks) => Liveness::Alive,
            Ok(_) => Liveness::Dead,
            Err(_) => Liveness::Unknown,
        },
        Err(_) => Liveness::Unknown,
    }
}

/// When the process with this pid started; `None` when there is none.
fn start_ticks_of(pid: i32) -> io::Result<Option<u64>> {
    // There is no process without a positive pid.
    let Ok(number) = u32::try_from(pid) else { return Ok(None) };
    match start_time(number) {
        Ok(ticks) => Ok(Some(ticks)),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error of a file below `/proc/PID` means that the process has ended.
fn is_absence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn ticks(pid: i32) -> u64 {
        start_ticks_of(pid).unwrap().unwrap()
    }

    #[test]
    fn a_process_is_alive_until_it_ends_and_a_zombie_is_dead() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        let started = ticks(pid);
        let handle = ProcessHandle::open(pid, started).unwrap().unwrap();
        assert_eq!((handle.liveness(), liveness(pid, started)), (Liveness::Alive, Liveness::Alive));
        assert_eq!(liveness(pid, started + 1), Liveness::Dead, "another process of the same pid");
        child.kill().unwrap();
        let mut polled = [PollFd::new(handle.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::NONE).unwrap();
        assert_eq!((handle.liveness(), liveness(pid, started)), (Liveness::Dead, Liveness::Dead));
        child.wait().unwrap();
        assert_eq!((handle.liveness(), liveness(pid, started)), (Liveness::Dead, Liveness::Dead));
        assert!(ProcessHandle::open_any(pid).unwrap().is_none());
    }

    #[test]
    fn a_pid_that_nobody_has_is_dead_not_unknown() {
        assert_eq!(liveness(i32::MAX, 1), Liveness::Dead);
    }
}
