//! A process that the shim forked, with its terminal or pipes.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, pipe2};
use vswitch_proto::api::Exit;

use super::super::log::Stream;
use super::super::protocol::{NOTE_BYTES_MAX, Note, START};
use crate::io::{process, pty};

/// Input that waits for the process to read it, bytes; above it, clients wait.
const INPUT_BYTES_MAX: usize = 256 << 10;
/// What one read takes of the output.
const READ_BYTES: usize = 32 << 10;
/// What is still read of the output of a process that has ended, in reads: others may go on writing to it.
const LAST_READS_MAX: usize = 512;

/// What the shim polls of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Channel,
    Input,
    Output(Stream),
}

/// Where what clients type goes.
enum Input {
    /// The terminal is not open yet.
    Awaited,
    Open(File),
    Closed,
}

/// Which of the two processes this is.
pub(super) enum Forked {
    Shim(Box<Task>),
    /// Its standard descriptors and its end of the channel.
    Child {
        stdio: [OwnedFd; 3],
        channel: OwnedFd,
    },
}

pub(super) struct Task {
    pub(super) pid: Pid,
    pub(super) tty: bool,
    /// Why the program could not be run, when it could not.
    pub(super) failure: Option<Exit>,
    /// Open until the program runs.
    channel: Option<OwnedFd>,
    /// Init was told to run its program; others do so by themselves.
    pub(super) told_to_start: bool,
    input: Input,
    waiting: VecDeque<u8>,
    close_when_written: bool,
    /// The client of this exec is gone.
    pub(super) is_left: bool,
    /// Its client left it running by the detach keys.
    is_detached: bool,
    stdout: Option<File>,
    stderr: Option<File>,
    /// Asked for before the terminal was there.
    size: Option<(u16, u16)>,
    /// Signals for a program that does not run yet, by number.
    due_signals: BTreeSet<i32>,
}

impl Task {
    /// Forks. Returns in both processes.
    pub(super) fn fork(tty: bool, stdin: bool) -> io::Result<Forked> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
        let mut task = Task {
            pid: Pid::from_raw(0),
            tty,
            failure: None,
            channel: Some(ours),
            told_to_start: false,
            input: if tty { Input::Awaited } else { Input::Closed },
            waiting: VecDeque::new(),
            close_when_written: false,
            is_left: false,
            is_detached: false,
            stdout: None,
            stderr: None,
            size: None,
            due_signals: BTreeSet::new(),
        };
        let mut stdio = [null()?, null()?, null()?];
        if !tty {
            if stdin {
                let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
                stdio[0] = read;
                task.input = Input::Open(nonblocking(write)?);
            }
            for (place, output) in [(1, &mut task.stdout), (2, &mut task.stderr)] {
                let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
                stdio[place] = write;
                *output = Some(nonblocking(read)?);
            }
        }
        match process::fork()? {
            None => Ok(Forked::Child { stdio, channel: theirs }),
            Some(pid) => {
                task.pid = pid;
                Ok(Forked::Shim(Box::new(task)))
            }
        }
    }

    /// What to poll, with output only when its readers have room.
    pub(super) fn interest(&self, output: bool) -> Vec<(End, BorrowedFd<'_>, PollFlags)> {
        let mut ends = Vec::new();
        if let Some(channel) = &self.channel {
            ends.push((End::Channel, channel.as_fd(), PollFlags::POLLIN));
        }
        if let (Input::Open(file), false) = (&self.input, self.waiting.is_empty()) {
            ends.push((End::Input, file.as_fd(), PollFlags::POLLOUT));
        }
        for (stream, file) in [(Stream::Stdout, &self.stdout), (Stream::Stderr, &self.stderr)] {
            if let (Some(file), true) = (file, output) {
                ends.push((End::Output(stream), file.as_fd(), PollFlags::POLLIN));
            }
        }
        ends
    }

    /// Waits for the next note; `None` at the end of the channel, which is closed then.
    pub(super) fn next_note(&mut self) -> io::Result<Option<Note>> {
        let Some(channel) = &self.channel else { return Ok(None) };
        let mut buffer = [0; NOTE_BYTES_MAX];
        let (length, fd) = process::receive_message(channel, &mut buffer)?;
        if length == 0 {
            self.channel = None;
            self.send_due_signals();
            return Ok(None);
        }
        if let Some(master) = fd {
            self.take_terminal(master)?;
        }
        Ok(Some(serde_json::from_slice(&buffer[..length])?))
    }

    fn take_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        let master = nonblocking(master)?;
        if let Some((rows, columns)) = self.size {
            pty::set_size(&master, rows, columns)?;
        }
        self.input = Input::Open(master.try_clone()?);
        self.stdout = Some(master);
        Ok(())
    }

    /// From here on nobody waits for notes.
    pub(super) fn do_not_wait_for_notes(&self) -> io::Result<()> {
        self.channel.as_ref().map_or(Ok(()), set_nonblocking)
    }

    /// Where notes come from, until its end.
    pub(super) fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Whether notes may still come.
    pub(super) fn has_channel(&self) -> bool {
        self.channel.is_some()
    }

    /// The program runs.
    pub(super) fn runs(&self) -> bool {
        self.channel.is_none() && self.failure.is_none()
    }

    /// Lets init run its program.
    pub(super) fn start(&mut self) -> io::Result<()> {
        if !self.told_to_start {
            self.channel.as_ref().map_or(Ok(()), |channel| process::send_message(channel, START, None))?;
            self.told_to_start = true;
        }
        Ok(())
    }

    /// Keeps a signal until the program runs. As with any signal that is pending, a second one adds nothing.
    pub(super) fn signal_when_it_runs(&mut self, number: i32) {
        self.due_signals.insert(number);
    }

    fn send_due_signals(&mut self) {
        let due = std::mem::take(&mut self.due_signals);
        if self.runs() {
            for number in due {
                // It may have ended.
                let _ = process::send_signal(self.pid, number);
            }
        }
    }

    pub(super) fn type_in(&mut self, bytes: &[u8]) {
        if !self.close_when_written && !matches!(self.input, Input::Closed) {
            self.waiting.extend(bytes);
            self.write_input();
        }
    }

    /// Ends the input of a process without a terminal once it has read what waits.
    pub(super) fn close_input(&mut self) {
        if !self.tty {
            self.close_when_written = true;
            self.write_input();
        }
    }

    pub(super) fn takes_input(&self) -> bool {
        self.waiting.len() < INPUT_BYTES_MAX
    }

    pub(super) fn write_input(&mut self) {
        let Input::Open(file) = &mut self.input else { return };
        while !self.waiting.is_empty() {
            match file.write(self.waiting.as_slices().0) {
                Ok(length) => drop(self.waiting.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody reads it any more.
                Err(_) => {
                    self.waiting.clear();
                    self.close_when_written = true;
                }
            }
        }
        if self.close_when_written {
            self.input = Input::Closed;
        }
    }

    /// What there is to read now, in pieces of one read; a stream that has ended is closed.
    pub(super) fn read_output(&mut self, stream: Stream) -> Option<Vec<u8>> {
        let end = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match end.as_mut()?.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // A terminal that nobody has open any more gives EIO.
                Ok(0) | Err(_) => {
                    *end = None;
                    return None;
                }
                Ok(length) => {
                    buffer.truncate(length);
                    return Some(buffer);
                }
            }
        }
    }

    /// The rest of the output of a process that has ended.
    pub(super) fn read_rest(&mut self) -> Vec<(Stream, Vec<u8>)> {
        let mut rest = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let reads = std::iter::from_fn(|| self.read_output(stream)).take(LAST_READS_MAX);
            rest.extend(reads.map(|bytes| (stream, bytes)));
        }
        rest
    }

    pub(super) fn resize(&mut self, rows: u16, columns: u16) {
        self.size = Some((rows, columns));
        if let (true, Some(master)) = (self.tty, &self.stdout) {
            // A terminal that hangs up has no size to set.
            let _ = pty::set_size(master, rows, columns);
        }
    }

    /// The client of an exec leaves it running.
    pub(super) fn detach(&mut self) {
        self.is_detached = true;
    }

    /// The connection of the client of an exec is gone: its terminal hangs up, unless the client detached. Without a
    /// terminal the process goes on, with no more input and with its output read and thrown away.
    pub(super) fn leave(&mut self) {
        self.is_left = true;
        if self.is_detached {
            return;
        }
        self.close_input();
        if self.tty {
            self.input = Input::Closed;
            self.stdout = None;
            self.hang_up();
        }
    }

    /// Sends SIGHUP, unless the client detached.
    pub(super) fn hang_up(&self) {
        if !self.is_detached {
            // It may have ended.
            let _ = self.signal(libc::SIGHUP);
        }
    }

    /// Sends a signal to the process group, as a terminal does. Before the process leads its group, to itself.
    pub(super) fn signal(&self, number: i32) -> io::Result<()> {
        process::send_signal(Pid::from_raw(-self.pid.as_raw()), number)
            .or_else(|_| process::send_signal(self.pid, number))
    }
}

fn nonblocking(fd: OwnedFd) -> io::Result<File> {
    set_nonblocking(&fd)?;
    Ok(File::from(fd))
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}
