//! One worker's thread: events, commands, and the turns of its ready ports.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use vswitch_proto::id::PortId;

use super::DataplaneConfig;
use super::egress::{Egress, Link, frame_bytes};
use crate::counters::{Counters, PortCell};
use crate::forward::tables::{Map, Tables};
use crate::forward::{DropReason, Forwarder, Ingress, Verdict, flood};
use crate::frame::{self, Frame};
use crate::gateway;
use crate::publish::Subscription;

/// Above all ports, which are tokens by their number.
const WAKE: Token = Token(usize::MAX);

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
}

pub(super) struct Turns {
    poll: Poll,
    inbox: Receiver<Command>,
    tables: Subscription,
    forwarder: Forwarder,
    egress: Egress,
    /// The ports that this worker reads, and whether each is in `ready`.
    own: Map<PortId, bool>,
    ready: VecDeque<PortId>,
    burst_frames: usize,
    on_port_death: Arc<dyn Fn(PortId) + Send + Sync>,
    /// One byte more than a frame may have, so that a longer one is seen to be.
    buffer: Box<[u8]>,
    reply: Box<[u8]>,
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
            poll: Poll::new()?,
            inbox,
            tables,
            forwarder: Forwarder::new(Arc::clone(&config.fdb), config.forward),
            egress: Egress::new(index, counters),
            own: Map::default(),
            ready: VecDeque::new(),
            burst_frames: config.burst_frames.get(),
            on_port_death: Arc::clone(&config.on_port_death),
            buffer: vec![0; frame::BUFFER_BYTES + 1].into(),
            reply: vec![0; frame::BUFFER_BYTES + REPLY_MARGIN_BYTES].into(),
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
                match event.token() {
                    WAKE => woken = true,
                    Token(port) if event.is_error() => self.bury(PortId(port as u32)),
                    Token(port) => self.make_ready(PortId(port as u32)),
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
                Err(TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
            };
        }
    }

    fn attach(&mut self, port: PortId, link: Arc<Link>, poll: bool) -> io::Result<()> {
        if poll {
            let fd = link.tap.as_raw_fd();
            self.poll.registry().register(&mut SourceFd(&fd), Token(port.0 as usize), Interest::READABLE)?;
            self.own.insert(port, false);
        }
        self.egress.attach(port, link);
        Ok(())
    }

    fn detach(&mut self, port: PortId) {
        self.stop_reading(port);
        self.egress.detach(port);
    }

    /// The device behind a port's TAP is gone: one report, and no more events, of which EPOLLERR has no end.
    fn bury(&mut self, port: PortId) {
        if self.stop_reading(port) {
            (self.on_port_death)(port);
        }
    }

    /// False if this worker did not read the port.
    fn stop_reading(&mut self, port: PortId) -> bool {
        let Some(queued) = self.own.remove(&port) else { return false };
        if queued {
            self.ready.retain(|&other| other != port);
        }
        if let Some(link) = self.egress.get(port) {
            let fd = link.tap.as_raw_fd();
            if let Err(e) = self.poll.registry().deregister(&mut SourceFd(&fd)) {
                tracing::warn!(%port, "a TAP stays in the poll set until it is closed: {e}");
            }
        }
        true
    }

    fn make_ready(&mut self, port: PortId) {
        let Some(queued) = self.own.get_mut(&port) else { return };
        if !*queued {
            *queued = true;
            self.ready.push_back(port);
        }
    }

    /// One burst for each port that is ready now.
    fn take_turns(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(port) = self.ready.pop_front() else { return };
            match self.burst(port) {
                Burst::Full => self.ready.push_back(port),
                Burst::Empty => {
                    self.own.insert(port, false);
                }
                Burst::Gone => self.bury(port),
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
}

/// What the frames of one burst have in common.
struct Path<'a> {
    port: PortId,
    cell: &'a PortCell,
    tables: &'a Tables,
    now: Instant,
    forwarder: &'a mut Forwarder,
    egress: &'a Egress,
}

impl Path<'_> {
    /// One frame, from what was read to where it goes.
    fn pass(&mut self, raw: &[u8], reply: &mut [u8]) {
        self.egress.cells().received(self.cell, frame_bytes(raw.len()));
        let frame = match Frame::parse(raw) {
            Ok(frame) => frame,
            Err(e) => return self.drop(e.into()),
        };
        let ingress = Ingress::Port(self.port);
        match self.forwarder.forward(self.tables, &frame, ingress, self.now) {
            Verdict::Port(to) => self.egress.transmit(to, frame.raw()),
            Verdict::Flood => {
                self.egress.cells().flooded();
                flood::targets(self.tables, ingress).for_each(|to| self.egress.transmit(to, frame.raw()));
            }
            Verdict::Gateway => match self.answer(&frame, reply) {
                Some(length) => self.egress.transmit(self.port, &reply[..length]),
                None => self.drop(DropReason::GatewayUnhandled),
            },
            Verdict::Drop(reason) => self.drop(reason),
        }
    }

    fn answer(&self, frame: &Frame<'_>, reply: &mut [u8]) -> Option<usize> {
        let (_, network) = self.tables.port(self.port)?;
        gateway::answer(network, frame, reply)
    }

    fn drop(&self, reason: DropReason) {
        self.egress.cells().dropped(self.cell, reason);
    }
}
