//! A container in a directory of its own, gone with its guard.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use vswitch::container::{Launch, LaunchError, Shim, create_with, files};
use vswitch_proto::api::stream::{Decoder, Frame};
use vswitch_proto::command::LabSpec;
use vswitch_proto::id::ContainerId;

pub(crate) const VSWITCHD: &str = env!("CARGO_BIN_EXE_vswitchd");
pub(crate) const HOSTS: &str = "127.0.0.1\tlocalhost\n";
/// Only against hanging for ever.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    pub(crate) launch: Launch,
    /// After `launch`: removed last.
    pub(crate) temp: tempfile::TempDir,
}

/// Prepared, not created.
pub(crate) fn prepare(spec: LabSpec) -> Lab {
    assert!(nix::unistd::geteuid().is_root(), "needs root: run `make test` as root");
    let temp = tempfile::Builder::new().prefix("vswitch-container-").tempdir_in("/var/tmp").unwrap();
    // Longer than a socket's path may be.
    let data = temp.path().join("a-directory-with-quite-a-long-name-for-the-socket-in-it");
    let id = ContainerId([0x5a; 32]);
    let dir = data.join("containers").join(id.to_string());
    let launch = Launch {
        id,
        files: dir.clone(),
        dir,
        spec,
        hostname: "box1".into(),
        host_network: false,
        hidden: vec![data],
        network_of: None,
        cgroup: None,
    };
    let lab = Lab { launch, temp };
    lab.prepare_files();
    lab
}

pub(crate) async fn create(spec: LabSpec) -> (Lab, Shim) {
    let lab = prepare(spec);
    let shim = lab.create().await.unwrap();
    (lab, shim)
}

pub(crate) async fn started(spec: LabSpec) -> (Lab, Shim) {
    let (lab, shim) = create(spec).await;
    shim.start().await.unwrap();
    (lab, shim)
}

pub(crate) fn sh(script: &str) -> LabSpec {
    LabSpec { command: vec!["sh".into(), "-c".into(), script.into()], ..LabSpec::default() }
}

impl Lab {
    pub(crate) fn dir(&self) -> &Path {
        &self.launch.dir
    }

    pub(crate) fn prepare_files(&self) {
        files::prepare(&self.launch, HOSTS, "# none\n").unwrap();
    }

    pub(crate) async fn create(&self) -> Result<Shim, LaunchError> {
        create_with(Path::new(VSWITCHD), &self.launch).await
    }

    pub(crate) fn shim_pid(&self) -> Option<i32> {
        let json = fs::read(self.dir().join("shim.json")).ok()?;
        let status: serde_json::Value = serde_json::from_slice(&json).ok()?;
        status["shim_pid"].as_i64()?.try_into().ok()
    }

    /// Processes that were launched for this directory, their descendants in namespaces not included.
    pub(crate) fn shims(&self) -> Vec<i32> {
        let dir = self.dir().to_str().unwrap();
        let mine = |pid: &i32| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.split(|byte| *byte == 0).any(|argument| argument == dir.as_bytes())
        };
        pids().filter(mine).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // With the shim its container goes.
        for pid in self.shims() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

pub(crate) fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The namespaces of a process that are not this process's own.
pub(crate) fn own_namespaces(pid: i32) -> BTreeSet<PathBuf> {
    let of = |pid: &str| -> BTreeSet<PathBuf> {
        let names = ["net", "mnt", "uts", "ipc", "pid"];
        names.iter().filter_map(|name| fs::read_link(format!("/proc/{pid}/ns/{name}")).ok()).collect()
    };
    &of(&pid.to_string()) - &of("self")
}

/// Processes that are in one of these namespaces; those that end meanwhile are not.
pub(crate) fn members(namespaces: &BTreeSet<PathBuf>) -> Vec<i32> {
    pids().filter(|pid| !own_namespaces(*pid).is_disjoint(namespaces)).collect()
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, async || holds()).await;
}

pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One end of an attached stream.
pub(crate) struct Terminal {
    stream: UnixStream,
    decoder: Decoder,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Terminal {
    pub(crate) fn new(stream: UnixStream) -> Terminal {
        Terminal { stream, decoder: Decoder::default(), stdout: Vec::new(), stderr: Vec::new() }
    }

    /// Takes what comes meanwhile: a client that does not read is dropped.
    pub(crate) async fn send(&mut self, frame: Frame) {
        let bytes = frame.to_bytes();
        let (mut incoming, mut outgoing) = self.stream.split();
        let mut sending = std::pin::pin!(outgoing.write_all(&bytes));
        let mut buffer = vec![0; 64 << 10];
        loop {
            tokio::select! {
                biased;
                Ok(length @ 1..) = incoming.read(&mut buffer) => self.decoder.push(&buffer[..length]),
                sent = &mut sending => return sent.unwrap(),
            }
        }
    }

    pub(crate) async fn type_in(&mut self, text: &str) {
        self.send(Frame::Stdin(text.into())).await;
    }

    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let mut buffer = vec![0; 64 << 10];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer));
            match read.await.expect("a frame or the end").unwrap() {
                0 => return None,
                length => self.decoder.push(&buffer[..length]),
            }
        }
    }

    /// Takes output until the stream ends, and gives what it ended with.
    pub(crate) async fn end(&mut self) -> Frame {
        let mut last = None;
        while let Some(frame) = self.next().await {
            match frame {
                Frame::Stdout(data) => self.stdout.extend(data),
                Frame::Stderr(data) => self.stderr.extend(data),
                other => {
                    assert_eq!(last, None, "{other:?} after the last frame");
                    last = Some(other);
                }
            }
        }
        last.expect("a last frame")
    }

    /// Takes output until standard output contains `text`.
    pub(crate) async fn expect(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.stdout).contains(text) {
            match self.next().await {
                Some(Frame::Stdout(data)) => self.stdout.extend(data),
                Some(Frame::Stderr(data)) => self.stderr.extend(data),
                other => panic!("{other:?} instead of {text:?}; so far {:?}", self.out()),
            }
        }
    }

    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Runs a created container to its end: exit code, standard output, standard error.
pub(crate) async fn finish(shim: &Shim) -> (i32, String, String) {
    let mut terminal = Terminal::new(shim.attach(false).await.unwrap());
    // How a failure to start shows is in the frames.
    let _ = shim.start().await;
    match terminal.end().await {
        Frame::Exit(code) => (code, terminal.out(), terminal.err()),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn run(spec: LabSpec) -> (i32, String, String) {
    let (_lab, shim) = create(spec).await;
    finish(&shim).await
}

pub(crate) async fn exec(shim: &Shim, command: &[&str]) -> (i32, String, String) {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    let exec = vswitch::container::Exec { command, ..Default::default() };
    let mut terminal = Terminal::new(shim.exec(&exec).await.unwrap().0);
    match terminal.end().await {
        Frame::Exit(code) => (code, terminal.out(), terminal.err()),
        other => panic!("{other:?}"),
    }
}

/// A root file system with nothing but busybox, statically linked.
pub(crate) fn busybox_root(at: &Path) -> PathBuf {
    let root = at.join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    let busybox = root.join("bin/busybox");
    fs::copy("/bin/busybox", &busybox).expect("busybox is installed");
    // Those that it needs, unless it is static.
    let output = Command::new("ldd").arg(&busybox).output().expect("ldd comes with the C library");
    let output = String::from_utf8(output.stdout).unwrap();
    for library in output.split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(library, copy).unwrap();
    }
    let status = Command::new(&busybox).args(["--install", "-s"]).arg(root.join("bin")).status().unwrap();
    assert!(status.success());
    for link in fs::read_dir(root.join("bin")).unwrap() {
        let link = link.unwrap().path();
        if link.is_symlink() {
            fs::remove_file(&link).unwrap();
            std::os::unix::fs::symlink("/bin/busybox", &link).unwrap();
        }
    }
    root
}
