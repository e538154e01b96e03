//! What is said on a shim's socket, and between a shim and the processes it forks.
//!
//! On the socket a client's first [`Frame`](vswitch_proto::api::stream::Frame) is a `Request`; the shim's first is
//! an `Answer`. After `attach` and `exec`, stream frames go both ways, the last one being `Exit` or `Error`. Every
//! other request has its connection to itself.

use serde::{Deserialize, Serialize};
use vswitch_proto::api::{Exec, Exit};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    Status,
    /// Answered once the command runs, or could not be run.
    Start,
    Signal(i32),
    Resize {
        rows: u16,
        columns: u16,
    },
    /// Answered when the container has ended.
    Wait,
    /// Output from now on, and input. A client that does not read is dropped.
    Attach,
    /// `Attach` of the client that the container runs in the foreground for: output waits for it as long as it takes.
    /// Only one at a time; a further one is attached as by `Attach`.
    AttachForeground,
    /// An empty `Answer` whenever the log has grown; several may be one.
    Follow,
    Exec(Exec),
    /// Sends a signal to the process group of an exec.
    SignalExec {
        exec: u64,
        signal: i32,
    },
    /// The client of an exec is gone for good, unlike one whose daemon restarts: the process group gets SIGHUP, unless
    /// the client detached from it.
    HangUp {
        exec: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Done,
    /// To `exec`: its number, for `signal_exec` and `hang_up`.
    Executing(u64),
    Status(Status),
    /// To `start`: it could not. To `wait`: it ended.
    Exited(Exit),
    /// One line.
    Refused(String),
}

/// Also the content of `shim.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    pub(super) shim_pid: i32,
    /// With the pid, which process the shim is. 0 from shims before [`STREAMS`].
    #[serde(default)]
    pub(super) shim_start_ticks: u64,
    /// Newest requests that the shim knows, such as [`STREAMS`]. 0 from shims before that.
    #[serde(default)]
    pub(super) protocol: u32,
    pub(super) init_pid: i32,
    /// With the pid, who init is.
    pub(super) init_start_ticks: u64,
    pub(super) started: bool,
}

/// The [`Status::protocol`] since which there are `attach_foreground`, `signal_exec` and `hang_up`.
pub(super) const STREAMS: u32 = 1;

/// The shim's first words, to the process that launched it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    Ready(Status),
    Failed(String),
    /// The root directory that was asked for is none.
    NoRoot(String),
}

/// From a forked process to the shim: one datagram each. The end of the channel means that the program runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Note {
    /// Something is missing in the container that it can do without.
    Warning(String),
    /// The namespaces are made; with the master of its terminal, when it has one.
    Ready,
    /// It exits with this now.
    Failed(Exit),
}

/// Longest [`Note`], bytes.
pub(super) const NOTE_BYTES_MAX: usize = 8 << 10;

/// From the shim to init: run the command.
pub(super) const START: &[u8] = b"start";

/// How a process ended that could not be found or run.
pub(super) const NOT_FOUND: i32 = 127;
pub(super) const NOT_EXECUTABLE: i32 = 126;
/// How init ends when the root directory is none.
pub(super) const NO_ROOT: i32 = 125;
/// 128 + SIGKILL.
pub(super) const KILLED: i32 = 137;
