//! The engine on io_uring: the kernel reads ahead from all TAPs into the buffers of one ring, and what was read leaves in
//! one batch.
//!
//! # Theory of operation
//! Each TAP has a multishot read. A turn enters the kernel once: it writes the frames of the turn before, in their
//! order, reads what is there, and waits if that is nothing. Then the frames go their
//! way, after what the decisions about the next few will need was fetched together; one that leaves as it came
//! is not written but noted, with its buffer. A turn that notes a single frame writes it by write(2), which costs less
//! than a request. The receivers of the underlay are polled through the ring and read as in the other engine, and
//! answers and frames from tunnels, which are not in a buffer of the ring, are written at once: they belong to other
//! flows.
//!
//! # Bounds
//! There are [`BUFFERS`] buffers for all TAPs of a worker, each of which takes the longest frame. The kernel has few of
//! them while few are enough, so that a stream of long frames stays in the cache (see [`crate::io::ring`]). A read that
//! finds none ends (ENOBUFS), and begins anew when buffers are free; it is counted if there were no others to give.
//! Meanwhile frames wait in the TAPs' queues, so running out costs a request, not a frame.
//!
//! # Fairness
//! The kernel takes one frame for each read that begins, and then reads on from the first TAP until that one is empty or
//! the buffers are all in use. So of the reads that ended, those that had brought the fewest frames begin first, and
//! they begin when the buffers of the turn before are free again: ports that never stop sending have the buffers in
//! turn, and each of them has a frame in every turn as long as there are more buffers than ports.
//!
//! A port whose frames have cost more than its share ([`super::super::share`]) has its read cancelled, which begins anew when
//! the debt is paid. What the kernel had read ahead by then is passed on all the same; so that this is little, frames that
//! are expensive count as long ones when it is decided how many buffers the kernel has.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use vswitch_proto::id::PortId;

use super::super::fabric::{Fabric, Rest};
use super::super::path::Raw;
use super::super::share::Account;
use super::{EngineError, Source, Turn, Wake};
use crate::forward::tables::Map;
use crate::frame;
use crate::io::ring::{Completion, Filled, Ring};

/// 8 MiB of addresses. Only what frames have filled is memory: 4 KiB of each buffer if none is longer. As many as a batch
/// of small frames is long.
pub(super) const BUFFERS: u16 = 128;

/// One byte more than a frame may have, so that a longer one is seen to be.
const BUFFER_BYTES: u32 = frame::BUFFER_BYTES as u32 + 1;

/// Completions that are taken at once, so that what their frames need comes from the memory together.
const FORESEEN: usize = 16;

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
    ports: Map<PortId, Reading>,
    /// Ports that came into debt in this turn while the kernel reads from them.
    indebted: Vec<PortId>,
    /// Those of `own` whose request has ended.
    idle: Vec<Ended>,
    /// How many requests have ended.
    ended: u64,
    /// How many of them found no buffer, in this turn.
    shortages: u32,
    /// Receivers that may have something.
    ready: VecDeque<usize>,
}

/// One port's.
struct Reading {
    /// How many frames its request has brought so far.
    frames: u32,
    account: Account,
}

/// A request that is to begin anew. The smallest is the first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ended {
    frames: u32,
    /// Among all that have ended.
    order: u64,
    source: Source,
}

impl Ringed {
    pub(super) fn new(wake: Wake) -> Result<Ringed, EngineError> {
        Ok(Ringed { ring: Ring::new(BUFFERS, BUFFER_BYTES)?, wake, sources: Sources::default() })
    }

    pub(super) fn start(&mut self) -> io::Result<()> {
        self.ring.enable()?;
        self.ring.poll(self.wake.as_raw_fd(), WAKE)?;
        // What the kernel refuses it refuses now.
        self.ring.enter(false)
    }

    pub(super) fn turn(&mut self, fabric: &mut Fabric, may_sleep: bool) -> io::Result<Turn> {
        self.write_lone(fabric);
        fabric.begin_turn();
        self.defer_indebted();
        let mut turn = Turn::default();
        if !self.sources.idle.is_empty() && self.ring.has_unfinished_writes() {
            // Reads that begin before these buffers are free would find none.
            self.ring.enter(false)?;
            turn.add(self.complete(fabric)?);
        }
        self.renew(fabric.turn())?;
        let is_idle = self.sources.ready.is_empty() && self.sources.idle.is_empty();
        self.ring.enter(may_sleep && is_idle && !turn.has_moved)?;
        turn.add(self.complete(fabric)?);
        turn.has_moved |= !self.sources.ready.is_empty();
        self.receive(fabric);
        Ok(turn)
    }

    fn write_lone(&self, fabric: &Fabric) {
        if let Some((key, result)) = self.ring.write_lone() {
            fabric.egress.written(PortId(key), result);
        }
    }

    /// Ends the reads of ports that are in debt. What is no longer read has nothing to end.
    fn defer_indebted(&mut self) {
        for port in self.sources.indebted.drain(..) {
            // Without room for the request, the port comes deeper into debt and waits longer.
            let _ = self.ring.cancel_read(port.0);
        }
    }

    /// Begins anew what has ended, unless it would end at once or is in debt.
    fn renew(&mut self, turn: u64) -> io::Result<()> {
        self.ring.want(self.sources.idle.len());
        let mut left = self.ring.free_buffers();
        let Sources { idle, own, ports, .. } = &mut self.sources;
        idle.sort_unstable();
        let mut result = Ok(());
        idle.retain_mut(|ended| {
            if let Source::Port(port) = ended.source
                && ports.get_mut(&port).is_some_and(|reading| reading.account.is_in_debt(turn))
            {
                return true;
            }
            if left == 0 {
                // Who is passed over is not so again for what it had brought before.
                ended.frames = 0;
                return true;
            }
            match own.get(&ended.source).map(|fd| request(&self.ring, ended.source, *fd)) {
                None | Some(Ok(())) => {
                    left -= 1;
                    false
                }
                Some(Err(e)) => {
                    left = 0;
                    if e.kind() != io::ErrorKind::WouldBlock {
                        result = Err(e);
                    }
                    true
                }
            }
        });
        result
    }

    /// Deals with what is completed.
    fn complete(&mut self, fabric: &mut Fabric) -> io::Result<Turn> {
        let Ringed { ring, wake, sources } = self;
        let now = Instant::now();
        let (mut turn, mut rearmed) = (Turn::default(), Ok(()));
        loop {
            let mut completions = std::iter::from_fn(|| ring.next()).fuse();
            let batch: [_; FORESEEN] = std::array::from_fn(|_| completions.next());
            fabric.foresee(batch.iter().flatten().filter_map(frame_of));
            let is_last = batch[FORESEEN - 1].is_none();
            for completion in batch.into_iter().flatten() {
                match completion {
                    Completion::Read { key, result, more } => {
                        turn.has_moved = true;
                        sources.take(ring, (PortId(key), result, more), fabric, now);
                    }
                    Completion::Written { key, result } => fabric.egress.written(PortId(key), result),
                    Completion::Polled { key: WAKE, more } => {
                        turn.is_woken = true;
                        // It is an event each time that somebody wakes, whatever the number in it.
                        let _ = wake.read();
                        if !more {
                            rearmed = ring.poll(wake.as_raw_fd(), WAKE);
                        }
                    }
                    Completion::Polled { key, more } => sources.note_receiver(key as usize, more),
                    Completion::Cancelled => {}
                }
            }
            if is_last {
                break;
            }
        }
        let shortages = std::mem::take(&mut sources.shortages);
        if shortages > 0 && !ring.want_more() {
            (0..shortages).for_each(|_| fabric.egress.cells().ran_out_of_buffers());
        }
        rearmed.map(|()| turn)
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
        request(&self.ring, source, fd)?;
        self.sources.own.insert(source, fd);
        if let Source::Port(port) = source {
            self.sources.ports.insert(port, Reading { frames: 0, account: Account::new(0) });
        }
        Ok(())
    }

    pub(super) fn stop_reading(&mut self, source: Source, fabric: &mut Fabric) -> io::Result<()> {
        // Nobody is to go on reading what could not be cancelled.
        self.cancel(source, fabric).inspect_err(|_| self.sources.forget(source))
    }

    fn cancel(&mut self, source: Source, fabric: &mut Fabric) -> io::Result<()> {
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
        Err(io::Error::other(format!("the request for {source:?} cannot be cancelled")))
    }

    pub(super) fn settle(&mut self, fabric: &mut Fabric) -> io::Result<()> {
        for _ in 0..SETTLEMENTS_MAX {
            if !self.ring.has_unfinished_writes() {
                return Ok(());
            }
            self.ring.submit()?;
            self.complete(fabric)?;
        }
        Err(io::Error::other("writes to TAPs are not completed"))
    }

    /// What is read, with descriptors.
    pub(super) fn reading(&self) -> impl Iterator<Item = (Source, RawFd)> {
        self.sources.own.iter().map(|(source, fd)| (*source, *fd))
    }

    pub(super) fn waits_idly(&self) -> bool {
        self.ring.waits_idly()
    }

    #[cfg(test)]
    pub(in crate::worker) fn breaker(&self) -> impl FnOnce() + use<> {
        self.ring.breaker()
    }
}

fn request(ring: &Ring, source: Source, fd: RawFd) -> io::Result<()> {
    match source {
        Source::Port(port) => ring.read(fd, port.0),
        Source::Receiver(index) => ring.poll(fd, index as u32),
    }
}

fn frame_of<'a>(completion: &'a Completion<'_>) -> Option<(PortId, &'a [u8])> {
    match completion {
        Completion::Read { key, result: Ok(filled), .. } => Some((PortId(*key), filled.bytes())),
        _ => None,
    }
}

impl Sources {
    /// A read of a port has brought a frame, or this error.
    fn take(
        &mut self,
        ring: &Ring,
        (port, result, more): (PortId, io::Result<Filled<'_>>, bool),
        fabric: &mut Fabric,
        now: Instant,
    ) {
        let error = match result {
            Ok(filled) => {
                self.pass(ring, port, &filled, fabric, now);
                None
            }
            Err(error) => Some(error),
        };
        if !more {
            self.end_read(port, error, fabric);
        }
    }

    /// The read of a port has ended, with this error if it was not just interrupted.
    fn end_read(&mut self, port: PortId, error: Option<io::Error>, fabric: &Fabric) {
        let source = Source::Port(port);
        if !self.own.contains_key(&source) {
            return;
        }
        match error.as_ref().map(io::Error::raw_os_error) {
            Some(Some(libc::ENOBUFS)) => self.shortages += 1,
            None | Some(Some(libc::ECANCELED | libc::EAGAIN | libc::EINTR | libc::ENOMEM)) => {}
            Some(_) => {
                self.forget(source);
                return fabric.bury(port);
            }
        }
        self.note_ended(source);
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
            self.note_ended(source);
        }
    }

    /// A port's request has brought a frame.
    fn pass(&mut self, ring: &Ring, port: PortId, filled: &Filled<'_>, fabric: &mut Fabric, now: Instant) {
        let turn = fabric.turn();
        let Some((_, mut path)) = fabric.path(port, now) else { return };
        let cost = path.pass(Raw::Kept(filled));
        ring.note_weight(cost.beyond_plain().saturating_sub(filled.bytes().len()));
        if let Some(reading) = self.ports.get_mut(&port) {
            reading.frames = reading.frames.saturating_add(1);
            if reading.account.charge(cost, turn) {
                path.defer();
                self.indebted.push(port);
            }
        }
    }

    fn note_ended(&mut self, source: Source) {
        let frames = match source {
            Source::Port(port) => {
                self.ports.get_mut(&port).map_or(0, |reading| std::mem::take(&mut reading.frames))
            }
            Source::Receiver(_) => 0,
        };
        self.idle.push(Ended { frames, order: self.ended, source });
        self.ended += 1;
    }

    fn forget(&mut self, source: Source) {
        self.own.remove(&source);
        if let Source::Port(port) = source {
            self.ports.remove(&port);
        }
    }

    /// True if the source has no request, and now is forgotten.
    fn forget_ended(&mut self, source: Source) -> bool {
        let was_idle = self.idle.len();
        self.idle.retain(|ended| ended.source != source);
        let has_ended = self.idle.len() < was_idle || !self.own.contains_key(&source);
        if has_ended {
            self.forget(source);
            self.ready.retain(|&index| Source::Receiver(index) != source);
        }
        has_ended
    }
}
