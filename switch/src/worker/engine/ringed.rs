//! The engine on io_uring: the kernel reads ahead from all TAPs into the buffers of one ring, and what was read leaves in
//! one batch.
//!
//! # Theory of operation
//! Each TAP has a multishot read. A turn enters the kernel once: it writes the frames of the turn before, in their
//! order, reads what is there, and waits if that is nothing. Then each frame goes its way; one that leaves as it came
//! is not written but noted, with its buffer. A turn that notes a single frame writes it by write(2), which costs less
//! than a request. The receivers of the underlay are polled through the ring and read as in the other engine, and
//! answers and frames from tunnels, which are not in a buffer of the ring, are written at once: they belong to other
//! flows.
//!
//! # Bounds
//! There are [`BUFFERS`] buffers for all TAPs of a worker, each of which takes the longest frame. A read that finds none
//! ends (ENOBUFS); it is counted, and begun anew when buffers are free, after those that ended before it. Meanwhile
//! frames wait in the TAPs' queues, so running out costs a request, not a frame. A port with much traffic may have most
//! of the buffers of a turn; each port that waits has at least one as long as there are any.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use vswitch_proto::id::PortId;

use super::super::fabric::{Fabric, Rest};
use super::super::path::Raw;
use super::{EngineError, Source, Turn, Wake};
use crate::frame;
use crate::io::ring::{Completion, Ring};

/// 8 MiB of addresses. Only what frames have filled is memory: 4 KiB of each buffer if none is longer. More of them make
/// longer batches of small frames; fewer stay in the cache when all frames are long.
pub(super) const BUFFERS: u16 = 128;

/// One byte more than a frame may have, so that a longer one is seen to be.
const BUFFER_BYTES: u32 = frame::BUFFER_BYTES as u32 + 1;

/// The key of the poll that ends a wait. There are not that many receivers.
const WAKE: u32 = u32::MAX;

/// A request is found in the first attempt, unless it was just about to run.
const CANCELLATIONS_MAX: usize = 1000;

/// Writes are completed when they are submitted; more than one attempt is needed only when the kernel is short of memory.
const SETTLEMENTS_MAX: usize = 1000;

pub(in crate::worker) struct Ringed {
    ring: Ring,
    wake: Wake,
    sources: Sources,
}

#[derive(Default)]
struct Sources {
    /// What this worker reads.
    own: HashMap<Source, RawFd>,
    /// Those of them whose request has ended.
    idle: VecDeque<Source>,
    /// Receivers that may have something.
    ready: VecDeque<usize>,
}

impl Ringed {
    pub(super) fn new(wake: Wake) -> Result<Ringed, EngineError> {
        Ok(Ringed { ring: Ring::new(BUFFERS, BUFFER_BYTES)?, wake, sources: Sources::default() })
    }

    pub(super) fn start(&mut self) -> io::Result<()> {
        self.ring.enable()?;
        self.ring.poll(self.wake.as_raw_fd(), WAKE)
    }

    pub(super) fn turn(&mut self, fabric: &mut Fabric, may_sleep: bool) -> io::Result<Turn> {
        self.write_lone(fabric);
        self.renew()?;
        let is_idle = self.sources.ready.is_empty() && self.sources.idle.is_empty();
        self.ring.enter(may_sleep && is_idle)?;
        let mut turn = self.complete(fabric)?;
        turn.has_moved |= !self.sources.ready.is_empty();
        self.receive(fabric);
        Ok(turn)
    }

    fn write_lone(&self, fabric: &Fabric) {
        if let Some((key, result)) = self.ring.write_lone() {
            fabric.egress.written(PortId(key), result);
        }
    }

    /// Begins anew what has ended, unless it would end at once.
    fn renew(&mut self) -> io::Result<()> {
        for _ in 0..self.sources.idle.len().min(self.ring.free_buffers()) {
            let Some(source) = self.sources.idle.pop_front() else { break };
            if let Some(&fd) = self.sources.own.get(&source) {
                self.request(source, fd)?;
            }
        }
        Ok(())
    }

    fn request(&self, source: Source, fd: RawFd) -> io::Result<()> {
        match source {
            Source::Port(port) => self.ring.read(fd, port.0),
            Source::Receiver(index) => self.ring.poll(fd, index as u32),
        }
    }

    /// Deals with what is completed.
    fn complete(&mut self, fabric: &mut Fabric) -> io::Result<Turn> {
        let Ringed { ring, wake, sources } = self;
        let now = Instant::now();
        let mut turn = Turn::default();
        while let Some(completion) = ring.next() {
            match completion {
                Completion::Read { key, result, more } => {
                    turn.has_moved = true;
                    let port = PortId(key);
                    let error = match result {
                        Ok(filled) => {
                            if let Some((_, mut path)) = fabric.path(port, now) {
                                path.pass(Raw::Kept(&filled));
                            }
                            None
                        }
                        Err(error) => Some(error),
                    };
                    if !more {
                        sources.end_read(port, error, fabric);
                    }
                }
                Completion::Written { key, result } => fabric.egress.written(PortId(key), result),
                Completion::Polled { key: WAKE, more } => {
                    turn.is_woken = true;
                    // It is an event each time that somebody wakes, whatever the number in it.
                    let _ = wake.read();
                    if !more {
                        ring.poll(wake.as_raw_fd(), WAKE)?;
                    }
                }
                Completion::Polled { key, more } => sources.note_receiver(key as usize, more),
                Completion::Cancelled => {}
            }
        }
        Ok(turn)
    }

    /// One batch for each receiver that is ready now.
    fn receive(&mut self, fabric: &mut Fabric) {
        for _ in 0..self.sources.ready.len() {
            let Some(index) = self.sources.ready.pop_front() else { return };
            if fabric.receive(index) == Rest::Some {
                self.sources.ready.push_back(index);
            }
        }
    }

    pub(super) fn start_reading(&mut self, source: Source, fd: RawFd) -> io::Result<()> {
        self.request(source, fd)?;
        self.sources.own.insert(source, fd);
        Ok(())
    }

    pub(super) fn stop_reading(&mut self, source: Source, fabric: &mut Fabric) -> io::Result<()> {
        for _ in 0..CANCELLATIONS_MAX {
            if self.sources.forget_ended(source) {
                return Ok(());
            }
            match source {
                Source::Port(port) => self.ring.cancel_read(port.0)?,
                Source::Receiver(index) => self.ring.cancel_poll(index as u32)?,
            }
            // The cancellation itself is completed, if nothing else is.
            self.ring.enter(true)?;
            self.complete(fabric)?;
        }
        self.sources.own.remove(&source);
        tracing::warn!(
            ?source,
            "a request cannot be cancelled; its descriptor stays open until vswitchd ends"
        );
        Ok(())
    }

    pub(super) fn settle(&mut self, fabric: &mut Fabric) -> io::Result<()> {
        for _ in 0..SETTLEMENTS_MAX {
            if !self.ring.has_unfinished_writes() {
                return Ok(());
            }
            self.ring.submit()?;
            self.complete(fabric)?;
        }
        tracing::warn!("writes to TAPs are not completed");
        Ok(())
    }
}

impl Sources {
    /// The read of a port has ended, with this error if it was not just interrupted.
    fn end_read(&mut self, port: PortId, error: Option<io::Error>, fabric: &Fabric) {
        let source = Source::Port(port);
        if !self.own.contains_key(&source) {
            return;
        }
        match error.as_ref().map(io::Error::raw_os_error) {
            Some(Some(libc::ENOBUFS)) => fabric.egress.cells().ran_out_of_buffers(),
            None | Some(Some(libc::ECANCELED | libc::EAGAIN | libc::EINTR | libc::ENOMEM)) => {}
            Some(_) => {
                self.own.remove(&source);
                return fabric.bury(port);
            }
        }
        self.idle.push_back(source);
    }

    fn note_receiver(&mut self, index: usize, more: bool) {
        let source = Source::Receiver(index);
        if !self.own.contains_key(&source) {
            return;
        }
        if !self.ready.contains(&index) {
            self.ready.push_back(index);
        }
        if !more {
            self.idle.push_back(source);
        }
    }

    /// True if the source has no request, and now is forgotten.
    fn forget_ended(&mut self, source: Source) -> bool {
        let was_idle = self.idle.len();
        self.idle.retain(|&other| other != source);
        let has_ended = self.idle.len() < was_idle || !self.own.contains_key(&source);
        if has_ended {
            self.own.remove(&source);
            self.ready.retain(|&index| Source::Receiver(index) != source);
        }
        has_ended
    }
}
