//! A machine for one test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::process::Output;

/// Where a machine sees the binaries of the build.
const BINARIES: &str = "/mnt";

/// Names the engine of every data plane in a run of the tests, as it does for the daemon: epoll, uring or auto.
pub(crate) const ENGINE: &str = "VSWITCH_ENGINE";

/// Commands that run to their end are ended after this, seconds: they hang then.
const COMMAND_S_MAX: &str = "90";

/// What timeout(1) exits with when it had to end the command.
const TIMED_OUT: i32 = 124;

/// Namespaces of its own (network, mount, pid, uts, ipc), empty /run and /tmp, lo up. The rest of the file system is
/// the real machine's. Dropping it ends everything that runs on it.
pub struct Host {
    init: Child,
    pid: u32,
    /// Pid 1 lives as long as this is open.
    lifeline: Option<ChildStdin>,
}

impl Host {
    /// # Panics
    /// When the machine cannot be made.
    #[expect(clippy::new_without_default, reason = "a machine is not a default value")]
    pub fn new() -> Host {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root; run them as root (sudo make test)");
        let mut init = Command::new(binary("host-init"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("host-init starts");
        let lifeline = init.stdin.take();
        let mut line = String::new();
        let stdout = init.stdout.take().expect("stdout was piped");
        BufReader::new(stdout).read_line(&mut line).expect("host-init says its pid");
        let pid = line.trim().parse().expect("a machine needs root, `ip`, and a kernel with namespaces");
        Host { init, pid, lifeline }
    }

    /// Pid of the machine's pid 1 as the outside sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A path on the machine, as the outside sees it.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        Path::new("/proc")
            .join(self.pid.to_string())
            .join("root")
            .join(inside.strip_prefix("/").expect("paths on a machine are absolute"))
    }

    /// Runs `program` on the machine. `vswitchd` and `vswitchctl` are those of this build.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-m", "-n", "-p", "-u", "-i", "--"]);
        command.arg(resolve(program)).env("TERM", "xterm");
        let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        // The engine is to be that of the whole run, the rest is each test's business.
        for name in variables.filter(|name| name.starts_with("VSWITCH_") && name != ENGINE) {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command to its end, with nothing on its standard input.
    pub fn run(&self, args: &[&str]) -> Output {
        self.run_with_input(args, b"")
    }

    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command("timeout");
        command.args(["-k", "5", COMMAND_S_MAX, &resolve(args[0])]).args(&args[1..]);
        let output = Output::of(command, input);
        assert_ne!(output.code, TIMED_OUT, "{args:?} hangs: {output:?}");
        output
    }

    /// Runs a shell script, which has to succeed, and returns what it printed.
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(&["sh", "-ec", script]);
        assert_eq!(output.code, 0, "`{script}`: {output:?}");
        output.stdout
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // Pid 1 ends with its standard input, and its parent with it: this cannot block for long.
        let _ = self.init.wait();
    }
}

/// The path of a program on the machine, if it is of this build.
pub(crate) fn resolve(program: &str) -> String {
    match program {
        "vswitchd" | "vswitchctl" | "client-attack" => {
            binary(program);
            format!("{BINARIES}/{program}")
        }
        other => other.into(),
    }
}

/// A binary of the build that the test executable belongs to: `target/debug/deps/guide-0123` finds `target/debug/NAME`.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test executable has a path");
    // A benchmark lies beside the binaries itself.
    let mut directories = test.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    let path = directories.find(|path| path.exists()).unwrap_or_else(|| name.into());
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace --all-targets` first",
        path.display()
    );
    path
}
