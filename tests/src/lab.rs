//! A machine with a daemon on it.

use std::fs;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Host;
use crate::http;
use crate::process::Process;
use crate::wait::eventually;

/// Where the daemon keeps its data, on the machine.
pub const DATA_DIR: &str = "/tmp/vswitch";

/// Where it listens when nobody says otherwise, on the machine.
pub const SOCKET: &str = "/run/vswitch/vswitchd.sock";

/// A [`Host`] with a `vswitchd`, which is ready when the constructor returns. The daemon's log is printed when a test
/// fails.
pub struct Lab {
    daemon: Option<Process>,
    /// What the daemon's kernel lacks, for `bin/without.rs`.
    missing: String,
    /// How many descriptors the daemon may have, unless as many as usual.
    descriptors: Option<u32>,
    arguments: Vec<String>,
    /// Logs of the daemons that have ended.
    past: String,
    /// Passed on to each daemon that is started.
    passed: Option<UnixListener>,
    host: Host,
}

impl Lab {
    #[expect(clippy::new_without_default, reason = "a machine is not a default value")]
    pub fn new() -> Lab {
        Lab::with(Host::new(), &[])
    }

    /// On this machine, with these arguments besides `--data-dir`.
    pub fn with(host: Host, arguments: &[&str]) -> Lab {
        Lab::on_kernel_without("", host, arguments)
    }

    /// The same as if the kernel lacked something: names that `bin/without.rs` knows, separated by commas.
    pub fn on_kernel_without(missing: &str, host: Host, arguments: &[&str]) -> Lab {
        let mut lab = Lab::without_daemon(host, arguments);
        lab.missing = missing.into();
        lab.start();
        lab
    }

    /// A machine whose daemon may have this many descriptors, and no more.
    pub fn with_descriptors(descriptors: u32, arguments: &[&str]) -> Lab {
        let mut lab = Lab::without_daemon(Host::new(), arguments);
        lab.descriptors = Some(descriptors);
        lab.start();
        lab
    }

    fn without_daemon(host: Host, arguments: &[&str]) -> Lab {
        let arguments = arguments.iter().map(|&a| a.into()).collect();
        Lab {
            daemon: None,
            missing: String::new(),
            descriptors: None,
            arguments,
            past: String::new(),
            passed: None,
            host,
        }
    }

    /// A machine with a socket at this path that each daemon takes over, as from a service manager. So far there is no
    /// daemon: [`Lab::start`] starts one.
    pub fn with_socket(host: Host, path: &str, arguments: &[&str]) -> Lab {
        let at = host.path(path);
        fs::create_dir_all(at.parent().expect("a socket has a directory")).expect("the machine has a /run");
        let mut lab = Lab::without_daemon(host, arguments);
        lab.passed = Some(UnixListener::bind(at).expect("nobody else has made it"));
        lab
    }

    /// Waits until somebody has connected to the socket that is passed on, and is not answered by anybody.
    pub fn wait_for_caller(&self) {
        let socket = self.passed.as_ref().expect("there is a socket that is passed on");
        eventually("somebody waits in the socket", || {
            ensure!(is_readable(socket.as_fd())?, "nobody does");
            Ok(())
        });
    }

    /// Starts the daemon (again) and waits until it answers.
    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let limit = self.descriptors.map(|descriptors| format!("--nofile={descriptors}:{descriptors}"));
        let mut command = match (self.missing.as_str(), &limit) {
            ("", None) => vec!["vswitchd"],
            ("", Some(limit)) => vec!["prlimit", limit, "/mnt/vswitchd"],
            (missing, _) => vec!["/mnt/without", missing, "/mnt/vswitchd"],
        };
        command.extend(["--data-dir", DATA_DIR]);
        command.extend(self.arguments.iter().map(String::as_str));
        self.daemon = Some(match &self.passed {
            Some(socket) => {
                let socket = socket.try_clone().expect("there are descriptors left");
                Process::spawn_with_socket(&self.host, &command, socket.into())
            }
            None => Process::spawn(&self.host, &command),
        });
        eventually("the daemon answers", || {
            if let Some(code) = self.daemon.as_mut().and_then(Process::try_wait) {
                panic!("the daemon ended with {code}: {}", self.log());
            }
            self.answers()
        });
    }

    /// The same with other arguments from now on.
    pub fn start_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&a| a.into()).collect();
        self.start();
    }

    fn answers(&self) -> anyhow::Result<()> {
        let version = http::Request::new("GET", "/v1/version").send(&self.socket())?;
        ensure!(version.status == 200, "GET /v1/version answers {version:?}");
        Ok(())
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill9(&mut self) {
        self.end("KILL");
    }

    /// Has the daemon do nothing until [`Lab::resume`].
    pub fn pause(&self) {
        self.daemon.as_ref().expect("the daemon runs").signal("STOP");
    }

    pub fn resume(&self) {
        self.daemon.as_ref().expect("the daemon runs").resume();
    }

    /// Ends the daemon with SIGTERM and returns its exit code.
    pub fn term(&mut self) -> i32 {
        self.end("TERM")
    }

    fn end(&mut self, signal: &str) -> i32 {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.signal(signal);
        let code = daemon.wait();
        self.past.push_str(&daemon.output());
        code
    }

    /// Pid of the daemon, as the machine sees it.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").pid()
    }

    /// Everything that the daemon has logged.
    pub fn log(&self) -> String {
        let now = self.daemon.as_ref().map(Process::output).unwrap_or_default();
        format!("{}{now}", self.past)
    }

    /// The daemon's socket, as the outside sees it.
    pub fn socket(&self) -> PathBuf {
        self.host.path(SOCKET)
    }

    /// The machine's file for a container's network namespace, as the outside sees it.
    pub fn netns(&self, container: &str) -> PathBuf {
        let pid = self.inspect(container).state.pid;
        assert_ne!(pid, 0, "{container} does not run");
        self.host.path(format!("/proc/{pid}/ns/net"))
    }

    /// A file of a running container, as the outside sees it.
    pub fn file(&self, container: &str, path: &str) -> PathBuf {
        let pid = self.inspect(container).state.pid;
        let inside = Path::new(path).strip_prefix("/").expect("the path is absolute");
        self.host.path(format!("/proc/{pid}/root")).join(inside)
    }

    /// Waits until no container of this name is left.
    pub fn wait_until_gone(&self, container: &str) {
        eventually(&format!("{container} is gone"), || {
            let names = self.ok(&["ps", "-a", "--format={{.Names}}"]);
            ensure!(!names.lines().any(|name| name == container), "{names}");
            Ok(())
        });
    }

    /// Waits until the container has ended and returns its exit code.
    pub fn wait_until_exited(&self, container: &str) -> i32 {
        eventually(&format!("{container} exits"), || {
            let state = self.inspect(container).state;
            if state.status != "exited" {
                bail!("it is {state:?}");
            }
            assert_eq!((state.running, state.pid), (false, 0), "{container} has ended");
            Ok(state.exit_code)
        })
    }

    /// Sends a request to the daemon and expects an answer.
    pub fn http(&self, method: &str, path: &str, body: &str) -> http::Answer {
        let request = http::Request::new(method, path).json(body);
        let answer = request.send(&self.socket()).with_context(|| format!("{method} {path} {body}"));
        answer.expect("the daemon answers")
    }
}

impl Deref for Lab {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of vswitchd\n{}--- end of the log", self.log());
        }
    }
}

fn is_readable(socket: BorrowedFd<'_>) -> anyhow::Result<bool> {
    let mut polled = [PollFd::new(socket, PollFlags::POLLIN)];
    Ok(poll(&mut polled, PollTimeout::ZERO)? == 1)
}
