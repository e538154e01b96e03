//! A connection to the shim's socket, and what waits to be sent on it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use vswitch_proto::api::stream::{Decoder, Frame, StreamError};

use super::super::Exit;
use super::super::protocol::Answer;

/// Output that waits for a client, bytes; a client above it is full until half of it is sent.
const WAITING_BYTES_MAX: usize = 256 << 10;
/// How far a client that output does not wait for may fall behind before it is dropped, bytes. Clients share the bytes,
/// so this bounds what all of them take together.
const BEHIND_BYTES_MAX: usize = 8 << 20;
/// How long a client may be full before it is dropped, unless output waits for it.
pub(super) const FULL_MAX: Duration = Duration::from_secs(1);
/// How long a client may take to read why it is dropped.
pub(super) const LAST_WORDS_MAX: Duration = Duration::from_secs(5);
/// Between looks at clients that have a deadline, or for which output waits.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(250);
const READ_BYTES: usize = 32 << 10;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Its request has not come yet.
    New,
    Starting,
    Waiting,
    Following,
    /// In the foreground: output waits for it as long as it takes.
    Attached {
        foreground: bool,
    },
    /// Has a task of the same id.
    Exec {
        stdin: bool,
    },
    /// Gets what waits for it, then it is closed; what it says is thrown away.
    Closing,
}

pub(super) struct Client {
    pub(super) role: Role,
    stream: UnixStream,
    decoder: Decoder,
    waiting: VecDeque<Rc<[u8]>>,
    waiting_bytes: usize,
    /// Of the first of those that wait.
    sent_bytes: usize,
    full_since: Option<Instant>,
    /// Until when it may take what waits for it; without one, as long as it takes.
    deadline: Option<Instant>,
    input_ended: bool,
}

impl Client {
    pub(super) fn new(stream: UnixStream) -> io::Result<Client> {
        stream.set_nonblocking(true)?;
        Ok(Client {
            role: Role::New,
            stream,
            decoder: Decoder::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sent_bytes: 0,
            full_since: None,
            deadline: None,
            input_ended: false,
        })
    }

    pub(super) fn interest(&self, input: bool) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, input && !self.input_ended);
        flags.set(PollFlags::POLLOUT, !self.waiting.is_empty());
        (self.stream.as_fd(), flags)
    }

    /// What came now; an error when the connection is of no more use.
    pub(super) fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.input_ended = true,
            Ok(_) if self.role == Role::Closing => {}
            Ok(length) => self.decoder.push(&buffer[..length]),
            Err(error) if would_block(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, StreamError> {
        self.decoder.next_frame()
    }

    pub(super) fn send(&mut self, frame: &Frame) {
        self.send_bytes(frame.to_bytes().into());
    }

    /// Encoded frames, which several clients share. What cannot be sent now waits.
    pub(super) fn send_bytes(&mut self, bytes: Rc<[u8]>) {
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(bytes);
        // A broken connection is found by poll.
        let _ = self.flush();
    }

    pub(super) fn answer(&mut self, answer: &Answer) {
        let json = serde_json::to_vec(answer).expect("an answer is plain data");
        self.send(&Frame::Answer(json));
    }

    /// Answers and closes.
    pub(super) fn conclude(&mut self, answer: &Answer) {
        self.answer(answer);
        self.role = Role::Closing;
    }

    /// Tells how its process ended, after all output, and closes.
    pub(super) fn end(&mut self, exit: &Exit) {
        if !exit.error.is_empty() {
            self.send(&Frame::Stderr(format!("vswitch: {}\n", exit.error).into_bytes()));
        }
        self.send(&Frame::Exit(exit.exit_code));
        self.role = Role::Closing;
    }

    /// The last words to a client that is dropped: what waits for it is thrown away, but for a frame that is half
    /// sent.
    pub(super) fn refuse(&mut self, line: &str) {
        self.waiting.truncate(usize::from(self.sent_bytes > 0));
        self.waiting_bytes = self.waiting.iter().map(|bytes| bytes.len()).sum();
        self.send(&Frame::Error(line.into()));
        self.close_soon(Instant::now());
    }

    /// Gets what waits for it, if it takes it within [`LAST_WORDS_MAX`].
    pub(super) fn close_soon(&mut self, now: Instant) {
        self.role = Role::Closing;
        self.full_since = None;
        self.deadline = Some(now + LAST_WORDS_MAX);
    }

    /// Has had its last words, or the time for them.
    pub(super) fn is_done(&self, now: Instant) -> bool {
        self.role == Role::Closing && (self.waiting.is_empty() || self.deadline.is_some_and(|at| now >= at))
    }

    /// Takes the last output of a process for as long as it needs.
    pub(super) fn is_taking_the_rest(&self) -> bool {
        self.role == Role::Closing && self.deadline.is_none()
    }

    pub(super) fn has_deadline(&self) -> bool {
        self.deadline.is_some()
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some(first) = self.waiting.front() {
            match self.stream.write(&first[self.sent_bytes..]) {
                Ok(length) => self.sent_bytes += length,
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(error),
            }
            if self.sent_bytes == first.len() {
                self.waiting_bytes -= first.len();
                self.sent_bytes = 0;
                self.waiting.pop_front();
            }
        }
        Ok(())
    }

    pub(super) fn input_ended(&self) -> bool {
        self.input_ended
    }

    pub(super) fn has_nothing_to_send(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Looks at how much waits; true when the client is full.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        if self.waiting_bytes > WAITING_BYTES_MAX && self.role != Role::Closing {
            self.full_since.get_or_insert(now);
        } else if self.waiting_bytes <= WAITING_BYTES_MAX / 2 {
            self.full_since = None;
        }
        self.full_since.is_some()
    }

    /// As of the last [`Client::is_full`].
    pub(super) fn is_behind(&self) -> bool {
        self.full_since.is_some()
    }

    /// Whether it takes one of the places of streams.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.role, Role::Attached { .. } | Role::Following)
    }

    /// Whether a client that output does not wait for is to be dropped.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        let is_further = self.role == Role::Attached { foreground: false };
        let is_full_for_long = self.full_since.is_some_and(|since| now.duration_since(since) >= FULL_MAX);
        is_further && (is_full_for_long || self.waiting_bytes > BEHIND_BYTES_MAX)
    }
}

impl Drop for Client {
    /// The kernel tells the peer of a connection with unread input that it was reset instead of that it ended.
    fn drop(&mut self) {
        let mut buffer = [0; READ_BYTES];
        // A peer that goes on sending gets its reset.
        for _ in 0..64 {
            match self.stream.read(&mut buffer) {
                Ok(1..) => {}
                _ => break,
            }
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_does_not_read_is_bounded_then_dropped_at_a_frame() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client::new(ours).unwrap();
        client.role = Role::Attached { foreground: false };
        let start = Instant::now();
        let mut frames = 0;
        while !client.is_full(start) {
            client.send(&Frame::Stdout(vec![b'x'; 10_000]));
            frames += 1;
            assert!(frames < 10_000, "no bound");
        }
        assert!(!client.is_late(start + FULL_MAX / 2));
        assert!(client.is_late(start + FULL_MAX));
        client.refuse("too slow");
        assert!(!client.is_full(start));
        assert!(!client.is_done(start) && client.is_done(Instant::now() + LAST_WORDS_MAX));

        // What it got is whole frames, the error last.
        theirs.set_nonblocking(true).unwrap();
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        while let (Ok(length), _) = (theirs.read(&mut buffer), client.flush()) {
            decoder.push(&buffer[..length]);
            while let Some(frame) = decoder.next_frame().unwrap() {
                seen.push(frame);
            }
        }
        assert!(decoder.is_empty());
        assert_eq!(seen.pop(), Some(Frame::Error(b"too slow".to_vec())));
        assert!(!seen.is_empty() && seen.len() < frames);
        assert!(seen.iter().all(|frame| matches!(frame, Frame::Stdout(data) if data.len() == 10_000)));
    }

    #[test]
    fn a_client_that_reads_again_in_time_stays() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client::new(ours).unwrap();
        client.role = Role::Attached { foreground: false };
        let start = Instant::now();
        while !client.is_full(start) {
            client.send(&Frame::Stdout(vec![b'x'; 10_000]));
        }
        let mut buffer = vec![0; 1 << 20];
        while !client.has_nothing_to_send() {
            assert!(theirs.read(&mut buffer).unwrap() > 0);
            client.flush().unwrap();
        }
        assert!(!client.is_full(start + FULL_MAX));
        assert!(!client.is_late(start + FULL_MAX));
    }

    #[test]
    fn output_waits_for_a_foreground_client_for_ever_and_not_for_one_that_is_far_behind() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut client = Client::new(ours).unwrap();
        let start = Instant::now();
        while client.waiting_bytes <= BEHIND_BYTES_MAX {
            client.send(&Frame::Stdout(vec![b'x'; 10_000]));
        }
        for (role, is_late) in [
            (Role::Attached { foreground: true }, false),
            (Role::Exec { stdin: false }, false),
            (Role::Attached { foreground: false }, true),
        ] {
            client.role = role;
            assert!(client.is_full(start));
            assert_eq!(client.is_late(start), is_late, "{role:?}");
            assert_eq!(client.is_late(start + FULL_MAX * 1000), is_late, "{role:?}");
        }
    }
}
