//! The engine that works everywhere: readiness by epoll, edge-triggered, and a system call per frame and direction.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use vswitch_proto::id::PortId;

use super::super::fabric::{Fabric, Rest};
use super::super::path::Raw;
use super::super::share::Account;
use super::{Source, Turn, Wake};
use crate::frame;

/// Above all ports, which are tokens by their number.
const WAKE: Token = Token(usize::MAX);

/// The underlay's receivers are the tokens from here on; there are fewer than there are numbers up to `WAKE`.
const RECEIVERS: usize = 1 << 32;

/// Events taken from the kernel at once; more wait there.
const EVENTS_MAX: usize = 256;

impl Source {
    fn token(self) -> Token {
        match self {
            Source::Port(port) => Token(port.0 as usize),
            Source::Receiver(index) => Token(RECEIVERS + index),
        }
    }

    fn of(token: Token) -> Source {
        match token.0.checked_sub(RECEIVERS) {
            Some(index) => Source::Receiver(index),
            None => Source::Port(PortId(token.0 as u32)),
        }
    }
}

pub(in crate::worker) struct Polled {
    poll: Poll,
    events: Events,
    wake: Wake,
    /// What this worker reads.
    own: HashMap<Source, Reading>,
    ready: VecDeque<Source>,
    burst_frames: usize,
    /// One byte more than a frame may have, so that a longer one is seen to be.
    buffer: Box<[u8]>,
}

struct Reading {
    fd: RawFd,
    /// Of a port.
    account: Account,
    /// Whether it is in `ready`.
    is_ready: bool,
}

/// How a burst ended.
enum Burst {
    /// There may be more frames.
    Full,
    /// The TAP is empty.
    Empty,
    /// The TAP's device went.
    Gone,
}

impl Polled {
    pub(super) fn new(burst_frames: usize, wake: Wake) -> io::Result<Polled> {
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&wake.as_raw_fd()), WAKE, Interest::READABLE)?;
        Ok(Polled {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            wake,
            own: HashMap::new(),
            ready: VecDeque::new(),
            burst_frames,
            buffer: vec![0; frame::BUFFER_BYTES + 1].into(),
        })
    }

    pub(super) fn turn(&mut self, fabric: &mut Fabric, may_sleep: bool) -> io::Result<Turn> {
        let timeout = if may_sleep && self.ready.is_empty() { None } else { Some(Duration::ZERO) };
        let is_woken = match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => false,
            Err(e) => return Err(e),
            Ok(()) => self.note_events(fabric),
        };
        let has_moved = !self.ready.is_empty();
        fabric.begin_turn();
        self.take_turns(fabric);
        Ok(Turn { is_woken, has_moved })
    }

    /// True if the worker was woken.
    fn note_events(&mut self, fabric: &Fabric) -> bool {
        let mut is_woken = false;
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            if event.token() == WAKE {
                is_woken = true;
                // It is an event each time that somebody wakes, whatever the number in it.
                let _ = self.wake.read();
                continue;
            }
            match Source::of(event.token()) {
                Source::Port(port) if event.is_error() => self.bury(port, fabric),
                // The error of a socket is what its next receipt returns.
                source => self.make_ready(source),
            }
        }
        self.events = events;
        is_woken
    }

    pub(super) fn start_reading(&mut self, source: Source, fd: RawFd) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&fd), source.token(), Interest::READABLE)?;
        self.own.insert(source, Reading { fd, account: Account::new(0), is_ready: false });
        Ok(())
    }

    /// The device behind a port's TAP is gone: one report, and no more events, of which EPOLLERR has no end.
    fn bury(&mut self, port: PortId, fabric: &Fabric) {
        if self.stop_reading(Source::Port(port)) {
            fabric.bury(port);
        }
    }

    /// False if this worker did not read it.
    pub(super) fn stop_reading(&mut self, source: Source) -> bool {
        let Some(reading) = self.own.remove(&source) else { return false };
        if reading.is_ready {
            self.ready.retain(|&other| other != source);
        }
        if let Err(e) = self.poll.registry().deregister(&mut SourceFd(&reading.fd)) {
            tracing::warn!(?source, "a descriptor stays in the poll set until it is closed: {e}");
        }
        true
    }

    fn make_ready(&mut self, source: Source) {
        let Some(reading) = self.own.get_mut(&source) else { return };
        if !reading.is_ready {
            reading.is_ready = true;
            self.ready.push_back(source);
        }
    }

    /// One burst for each port and receiver that is ready now.
    fn take_turns(&mut self, fabric: &mut Fabric) {
        for _ in 0..self.ready.len() {
            let Some(source) = self.ready.pop_front() else { return };
            let burst = match source {
                Source::Port(port) => self.burst(port, fabric),
                Source::Receiver(index) => match fabric.receive(index) {
                    Rest::Some => Burst::Full,
                    Rest::None => Burst::Empty,
                },
            };
            if let (Burst::Full, source) = (&burst, source) {
                self.ready.push_back(source);
            } else if let Some(reading) = self.own.get_mut(&source) {
                reading.is_ready = false;
            }
            if let (Burst::Gone, Source::Port(port)) = (burst, source) {
                self.bury(port, fabric);
            }
        }
    }

    /// Reads until the port's share of this turn is used up, which is not before its debt of earlier turns is paid.
    fn burst(&mut self, port: PortId, fabric: &mut Fabric) -> Burst {
        let turn = fabric.turn();
        let Some(Reading { account, .. }) = self.own.get_mut(&Source::Port(port)) else {
            return Burst::Empty;
        };
        if account.is_in_debt(turn) {
            return Burst::Full;
        }
        let Some((tap, mut path)) = fabric.path(port, Instant::now()) else { return Burst::Gone };
        for _ in 0..self.burst_frames {
            match tap.read(&mut self.buffer) {
                Ok(length) => {
                    let cost = path.pass(Raw::Once(&self.buffer[..length]));
                    if account.charge(cost, turn) {
                        path.defer();
                        return Burst::Full;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Burst::Empty,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Burst::Gone,
            }
        }
        Burst::Full
    }
}
