//! One worker's thread: events, commands, and the turns of its ready ports and underlay sockets.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use vswitch_proto::id::PortId;

use super::DataplaneConfig;
use super::egress::{Egress, Link, underlay_refusal};
use super::path::Path;
use super::tunnel::Arrivals;
use crate::counters::Counters;
use crate::forward::Forwarder;
use crate::forward::coalesce::Coalescer;
use crate::forward::gso::Cutter;
use crate::frame;
use crate::io::underlay::{Batch, Underlay};
use crate::publish::Subscription;

/// Above all ports, which are tokens by their number.
const WAKE: Token = Token(usize::MAX);

/// The underlay's receivers are the tokens from here on; there are fewer than there are numbers up to `WAKE`.
const RECEIVERS: usize = 1 << 32;

/// Events taken from the kernel at once; more wait there.
const EVENTS_MAX: usize = 256;

/// The gateway's answers are at most 8 bytes longer than what they answer to.
const REPLY_MARGIN_BYTES: usize = 8;

pub(super) enum Command {
    /// `poll`: this worker is the one that reads.
    Attach {
        port: PortId,
        link: Arc<Link>,
        poll: bool,
        done: SyncSender<io::Result<()>>,
    },
    Detach {
        port: PortId,
        done: SyncSender<io::Result<()>>,
    },
    SetUnderlay {
        underlay: Option<Arc<Underlay>>,
        done: SyncSender<io::Result<()>>,
    },
}

/// What a worker reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Port(PortId),
    Receiver(usize),
}

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

pub(super) struct Turns {
    index: usize,
    workers: usize,
    poll: Poll,
    inbox: Receiver<Command>,
    tables: Subscription,
    forwarder: Forwarder,
    egress: Egress,
    /// What this worker reads, and whether each is in `ready`.
    own: HashMap<Source, bool>,
    ready: VecDeque<Source>,
    burst_frames: usize,
    on_port_death: Arc<dyn Fn(PortId) + Send + Sync>,
    /// One byte more than a frame may have, so that a longer one is seen to be.
    buffer: Box<[u8]>,
    reply: Box<[u8]>,
    cutter: Cutter,
    coalescer: Coalescer,
    batch: Batch,
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

impl Turns {
    /// Reads nothing before [`Turns::run`], but can be woken from now on.
    pub(super) fn new(
        index: usize,
        config: &DataplaneConfig,
        counters: Arc<Counters>,
        tables: Subscription,
        inbox: Receiver<Command>,
    ) -> io::Result<Turns> {
        Ok(Turns {
            index,
            workers: config.workers.get(),
            poll: Poll::new()?,
            inbox,
            tables,
            forwarder: Forwarder::new(Arc::clone(&config.fdb), config.forward),
            egress: Egress::new(index, counters),
            own: HashMap::new(),
            ready: VecDeque::new(),
            burst_frames: config.burst_frames.get(),
            on_port_death: Arc::clone(&config.on_port_death),
            buffer: vec![0; frame::BUFFER_BYTES + 1].into(),
            reply: vec![0; frame::BUFFER_BYTES + REPLY_MARGIN_BYTES].into(),
            cutter: Cutter::default(),
            coalescer: Coalescer::default(),
            batch: Batch::default(),
        })
    }

    pub(super) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKE)
    }

    /// Until the other end of the inbox is gone.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            let timeout = if self.ready.is_empty() { None } else { Some(Duration::ZERO) };
            match self.poll.poll(&mut events, timeout) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return tracing::error!("a data plane worker cannot poll and ends: {e}"),
                Ok(()) => {}
            }
            let mut woken = false;
            for event in &events {
                if event.token() == WAKE {
                    woken = true;
                    continue;
                }
                match Source::of(event.token()) {
                    Source::Port(port) if event.is_error() => self.bury(port),
                    // The error of a socket is what its next receipt returns.
                    source => self.make_ready(source),
                }
            }
            if woken && self.follow_commands().is_break() {
                return;
            }
            self.take_turns();
        }
    }

    fn follow_commands(&mut self) -> ControlFlow<()> {
        loop {
            // Whoever gave up waiting for an answer does not miss it.
            let _ = match self.inbox.try_recv() {
                Ok(Command::Attach { port, link, poll, done }) => {
                    done.try_send(self.attach(port, link, poll))
                }
                Ok(Command::Detach { port, done }) => {
                    self.detach(port);
                    done.try_send(Ok(()))
                }
                Ok(Command::SetUnderlay { underlay, done }) => done.try_send(self.set_underlay(underlay)),
                Err(TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
            };
        }
    }

    fn attach(&mut self, port: PortId, link: Arc<Link>, poll: bool) -> io::Result<()> {
        if poll {
            self.start_reading(Source::Port(port), link.tap.as_raw_fd())?;
        }
        self.egress.attach(port, link);
        Ok(())
    }

    fn detach(&mut self, port: PortId) {
        self.stop_reading_port(port);
        self.egress.detach(port);
    }

    /// Each worker reads every so many-th receiver. What the ones before have not delivered is lost.
    fn set_underlay(&mut self, underlay: Option<Arc<Underlay>>) -> io::Result<()> {
        if let Some(before) = self.egress.set_underlay(underlay.clone()) {
            for (index, receiver) in before.receivers().iter().enumerate() {
                self.stop_reading(Source::Receiver(index), receiver.as_raw_fd());
            }
        }
        let receivers = underlay.iter().flat_map(|underlay| underlay.receivers().iter().enumerate());
        for (index, receiver) in receivers.skip(self.index).step_by(self.workers) {
            self.start_reading(Source::Receiver(index), receiver.as_raw_fd())?;
        }
        Ok(())
    }

    fn start_reading(&mut self, source: Source, fd: RawFd) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&fd), source.token(), Interest::READABLE)?;
        self.own.insert(source, false);
        Ok(())
    }

    /// The device behind a port's TAP is gone: one report, and no more events, of which EPOLLERR has no end.
    fn bury(&mut self, port: PortId) {
        if self.stop_reading_port(port) {
            (self.on_port_death)(port);
        }
    }

    fn stop_reading_port(&mut self, port: PortId) -> bool {
        let Some(link) = self.egress.get(port) else { return false };
        let fd = link.tap.as_raw_fd();
        self.stop_reading(Source::Port(port), fd)
    }

    /// False if this worker did not read it.
    fn stop_reading(&mut self, source: Source, fd: RawFd) -> bool {
        let Some(queued) = self.own.remove(&source) else { return false };
        if queued {
            self.ready.retain(|&other| other != source);
        }
        if let Err(e) = self.poll.registry().deregister(&mut SourceFd(&fd)) {
            tracing::warn!(?source, "a descriptor stays in the poll set until it is closed: {e}");
        }
        true
    }

    fn make_ready(&mut self, source: Source) {
        let Some(queued) = self.own.get_mut(&source) else { return };
        if !*queued {
            *queued = true;
            self.ready.push_back(source);
        }
    }

    /// One burst for each port and receiver that is ready now.
    fn take_turns(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(source) = self.ready.pop_front() else { return };
            let burst = match source {
                Source::Port(port) => self.burst(port),
                Source::Receiver(index) => self.receive(index),
            };
            match (burst, source) {
                (Burst::Gone, Source::Port(port)) => self.bury(port),
                (Burst::Full, source) => self.ready.push_back(source),
                (Burst::Empty | Burst::Gone, source) => {
                    self.own.insert(source, false);
                }
            }
        }
    }

    fn burst(&mut self, port: PortId) -> Burst {
        let Some(link) = self.egress.get(port) else { return Burst::Gone };
        let mut path = Path {
            port,
            cell: self.egress.cell_of(link),
            tables: self.tables.load(),
            now: Instant::now(),
            forwarder: &mut self.forwarder,
            egress: &self.egress,
            cutter: &mut self.cutter,
        };
        for _ in 0..self.burst_frames {
            match link.tap.read(&mut self.buffer) {
                Ok(length) => path.pass(&self.buffer[..length], &mut self.reply),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Burst::Empty,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Burst::Gone,
            }
        }
        Burst::Full
    }

    /// One batch: with what the kernel puts together, that is about as much as a port's burst.
    fn receive(&mut self, index: usize) -> Burst {
        let Some(underlay) = self.egress.underlay() else { return Burst::Gone };
        let Some(receiver) = underlay.receivers().get(index) else { return Burst::Gone };
        match receiver.receive(&mut self.batch) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Burst::Empty,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Burst::Full,
            Err(e) => {
                // An answer to something that was sent, such as ECONNREFUSED. More may wait behind it.
                self.egress.cells().tunnel_dropped(1, underlay_refusal(&e));
                return Burst::Full;
            }
        }
        let mut arrivals = Arrivals {
            tables: self.tables.load(),
            now: Instant::now(),
            forwarder: &mut self.forwarder,
            egress: &self.egress,
            coalescer: &mut self.coalescer,
            coalesces: underlay.config().gro,
            batch: &self.batch,
        };
        arrivals.pass_all();
        // The kernel stops before the batch is full only when there is nothing more, and what comes later is an event.
        if self.batch.is_full() { Burst::Full } else { Burst::Empty }
    }
}
