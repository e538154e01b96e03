//! A process on a machine.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Host;
use crate::host::resolve;
use crate::wait::eventually;

/// What a process printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    /// 128 + N after signal N.
    pub code: i32,
}

impl Output {
    /// Runs `command` to its end.
    pub fn of(mut command: Command, input: &[u8]) -> Output {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        let mut stdin = child.stdin.take().expect("stdin was piped");
        thread::scope(|scope| {
            // A process may end without having read its input.
            scope.spawn(move || stdin.write_all(input));
            let output = child.wait_with_output().expect("a child can be waited for");
            Output {
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
                code: code(output.status),
            }
        })
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A process that runs on a machine beside the test. Dropping it kills it.
pub struct Process {
    child: Child,
    /// As the machine sees it.
    pid: u32,
    machine_pid: u32,
    output: Arc<Mutex<Vec<u8>>>,
    collector: JoinHandle<()>,
}

impl Process {
    /// Starts a process whose standard output and error are collected, and whose standard input is empty.
    pub fn spawn(host: &Host, args: &[&str]) -> Process {
        Process::spawn_by("exec \"$@\" 2>&1", host, args, Stdio::null())
    }

    /// The same with a socket that it is passed, as a service manager does it (sd_listen_fds(3)).
    pub fn spawn_with_socket(host: &Host, args: &[&str], socket: OwnedFd) -> Process {
        let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 2>&1";
        Process::spawn_by(script, host, args, socket.into())
    }

    fn spawn_by(script: &str, host: &Host, args: &[&str], stdin: Stdio) -> Process {
        // The shell prints the pid that the process is going to have.
        let mut command = host.command("sh");
        command.args(["-c", &format!("echo $$; {script}"), "sh", &resolve(args[0])]).args(&args[1..]);
        command.stdin(stdin).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{args:?} does not start: {e}"));
        let mut stdout = child.stdout.take().expect("stdout was piped");
        let pid = read_pid(&mut stdout).unwrap_or_else(|e| panic!("{args:?} does not start: {e:#}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        let sink = output.clone();
        let collector = thread::spawn(move || collect(stdout, &sink));
        Process { child, pid, machine_pid: host.pid(), output, collector }
    }

    /// As the machine sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().expect("no reader panics")).into_owned()
    }

    /// Waits until it has printed `text`.
    pub fn wait_for(&self, text: &str) {
        eventually(&format!("`{text}` appears"), || {
            let output = self.output();
            ensure!(output.contains(text), "it printed {output:?}");
            Ok(())
        });
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("nsenter")
            .args(["-t", &self.machine_pid.to_string(), "-m", "-p", "--", "kill", "-s", name])
            .arg(self.pid.to_string())
            .stderr(Stdio::null())
            .status();
        assert!(status.is_ok(), "`kill` runs");
    }

    /// Lets it go on after the signal STOP. nsenter(1), which has stopped with it, goes on too.
    pub fn resume(&self) {
        let nsenter = Pid::from_raw(self.child.id() as i32);
        kill(nsenter, Signal::SIGCONT).expect("the child is not waited for yet");
        self.signal("CONT");
    }

    /// The exit code, if it has ended.
    pub fn try_wait(&mut self) -> Option<i32> {
        self.child.try_wait().expect("a child can be waited for").map(code)
    }

    /// Waits for its end, and for the end of its output, and returns its exit code.
    pub fn wait(&mut self) -> i32 {
        eventually("the process ends", || {
            let code = self.try_wait();
            let code = code.with_context(|| format!("process {} runs on: {:?}", self.pid, self.output()))?;
            ensure!(self.collector.is_finished(), "process {} has left its output to another one", self.pid);
            Ok(code)
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            self.signal("KILL");
            self.resume();
            let _ = self.child.wait();
        }
    }
}

fn read_pid(stdout: &mut impl Read) -> anyhow::Result<u32> {
    let mut line = String::new();
    loop {
        let mut byte = [0];
        if stdout.read(&mut byte)? == 0 {
            bail!("it ended with the line {line:?}");
        }
        if byte[0] == b'\n' {
            return Ok(line.parse()?);
        }
        line.push(byte[0].into());
    }
}

/// Reads until the end, or until a pseudo-terminal's other end is closed (EIO).
pub(crate) fn collect(mut from: impl Read, into: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        into.lock().expect("no holder panics").extend_from_slice(&buffer[..bytes]);
    }
}
