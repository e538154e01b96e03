//! Processes: forking, exec, and the identity of a process beyond its pid.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

pub use super::sys::credentials::{
    clock_ticks_per_s, drop_from_bounding_set, keep_capabilities, set_domain_name, set_resource_limit,
};
pub use super::sys::process::{
    close_all_but_stdio, exit_now, fork, loopback_up, only_these, receive_message, reset_signals,
    send_message, send_signal,
};

/// Makes the terminal standard input, output and error.
pub fn terminal_as_stdio(terminal: &OwnedFd) -> io::Result<()> {
    dup2_stdin(terminal)?;
    dup2_stdout(terminal)?;
    Ok(dup2_stderr(terminal)?)
}

/// Runs `program`, looked up in `path` when it has no slash. Returns only why it could not.
///
/// As a shell does it: a file that may not be run does not end the search, but is what is reported when no other
/// one is found.
pub fn exec(program: &str, arguments: &[CString], environment: &[CString], path: &str) -> nix::Error {
    if program.contains('/') {
        return exec_file(program.into(), arguments, environment);
    }
    let mut found = nix::Error::ENOENT;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        match exec_file(format!("{directory}/{program}"), arguments, environment) {
            nix::Error::ENOENT | nix::Error::ENOTDIR => {}
            nix::Error::EACCES => found = nix::Error::EACCES,
            other => return other,
        }
    }
    found
}

fn exec_file(file: String, arguments: &[CString], environment: &[CString]) -> nix::Error {
    let Ok(file) = CString::new(file) else { return nix::Error::ENOENT };
    match nix::unistd::execve(&file, arguments, environment) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// When a process started, clock ticks since boot (field 22 of `proc_pid_stat(5)`): with its pid, who it is.
/// `None` when there is no such process.
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the third field is the first behind it.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// The session of a process (field 6 of `proc_pid_stat(5)`). `None` when there is no such process.
pub fn session(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(3)?.parse().ok()
}

/// How many descriptors this process may have open (the soft limit, proc_pid_limits(5)).
pub fn descriptors_max() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    // Without a limit it is "unlimited".
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX)
}

/// How many descriptors this process has open.
pub fn descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_session_and_a_limit() {
        assert_eq!(
            session(std::process::id() as i32),
            nix::unistd::getsid(None).ok().map(nix::unistd::Pid::as_raw)
        );
        assert_eq!(session(-1), None);
        assert!(descriptors_max() > 10 && descriptors() > 0);
    }

    #[test]
    fn this_process_has_started_and_pid_minus_one_has_not() {
        let me = start_ticks(std::process::id() as i32);
        assert!(me.is_some_and(|ticks| ticks > 0), "{me:?}");
        assert_eq!(me, start_ticks(std::process::id() as i32));
        assert_eq!(start_ticks(-1), None);
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        let waiting = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| waiting.wait());
            assert!(fork().is_err());
            waiting.wait();
        });
    }
}
