//! The data loop: frames from TAPs and tunnels, through [`Forwarder::forward`], to TAPs and tunnels.
//!
//! # Theory of operation
//! Each worker is a thread. A port belongs to the worker `port % workers`, which alone reads its TAP; whichever worker
//! reads a frame writes it to the destination itself, so frames of one flow, which come from one TAP, stay in order.
//! Every worker therefore knows the TAPs of all ports, and reads only its own.
//!
//! How frames are read and written is the business of the worker's `engine`, of which there are two, for kernels with
//! and without io_uring. What happens in between is the same code (`fabric`, `path`, `tunnel`).
//!
//! Ports and receivers of the underlay share a worker's time by what their frames cost, not by how many these are
//! (`share`): one that floods or has frames cut into hundreds of datagrams is deferred, and counted, while others go on.
//!
//! With epoll, a worker that has ready ports gives each a burst of at most [`DataplaneConfig::burst_frames`] frames in
//! turn, and looks for new events between turns. A port leaves the turn when its TAP is empty: the next frame makes a
//! new event. A frame is written out before the next is read, so one buffer serves a worker. With io_uring, the kernel
//! reads ahead into a bounded number of buffers, and what is written leaves together, in its order.
//!
//! A frame is written as it came: the virtio-net header with its partial checksum and segmentation is the receiving
//! kernel's business.
//!
//! Frames for and from other hosts pass the [`Underlay`], which may come, change and go at any time: every worker sends
//! through it, and each reads its share of the receivers, between which the kernel distributes flows. A batch that was
//! received is passed on whole before the next turn.
//!
//! # Invariants
//! 1. A worker never waits for anything but its poll: TAPs are non-blocking, tables are loaded without a lock, and
//!    answers to the control side go into channels with room for them.
//! 2. Nothing is allocated per frame.
//! 3. A TAP or an underlay that does not take a frame costs that frame and a counter, whatever the error.
//! 4. When [`Dataplane::detach`] returns a TAP, no worker has it any more.
//!
//! # Errors
//! A TAP whose device went, because somebody removed the interface, is reported once through
//! [`DataplaneConfig::on_port_death`] and not polled any more. With io_uring the report can be missing: the kernel wakes
//! the readers of a TAP before it takes the device from them (tun_detach_all, drivers/net/tun.c), and a read that runs in
//! between finds only that there is no frame, and is not woken again. So the control side asks [`Dataplane::find_dead`] now
//! and then. The TAP stays attached until the control side detaches it;
//! frames for it are counted as [`DropReason::TapGone`]. That a namespace is deserted is nothing a worker can see: its
//! TAPs keep it (see [`crate::io::tap`]).
//!
//! A worker that panics, or whose engine fails beyond repair, is reported to [`DataplaneConfig::vitals`].
//!
//! [`Forwarder::forward`]: crate::forward::Forwarder::forward
//! [`DropReason::TapGone`]: crate::forward::DropReason::TapGone

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use vswitch_proto::api::PortCounters;
use vswitch_proto::id::{MacAddr, PortId};

use crate::counters::{Counters, Totals};
use crate::forward::tables::Tables;
use crate::forward::{Fdb, FdbConfig, ForwardConfig, neighbor};
use crate::io::netns::NetNsId;
use crate::io::tap::Tap;
use crate::io::underlay::Underlay;
use crate::publish::Publisher;
use crate::vitals::Vitals;
use egress::Link;
use engine::{Engine, Wake};
use fabric::Fabric;
use turns::{Command, Turns};

pub use engine::{EngineError, EngineKind};

mod egress;
mod engine;
mod fabric;
mod intake;
mod path;
mod share;
mod tunnel;
mod turns;

/// For how long a worker may take to follow a command. It takes microseconds; a worker that takes longer is broken.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct DataplaneConfig {
    pub workers: NonZeroUsize,
    /// `None`: the best that works here.
    pub engine: Option<EngineKind>,
    /// The processor of each worker; none for workers that run anywhere.
    pub pin_cpus: Vec<usize>,
    /// For how long a worker looks for more frames before it sleeps.
    pub poll: Duration,
    /// Frames that one port may send before others have their turn.
    pub burst_frames: NonZeroUsize,
    pub forward: ForwardConfig,
    /// Put TCP from tunnels together, if the underlay brings several datagrams at once.
    pub coalesce: bool,
    pub fdb: Arc<Fdb>,
    /// Called by a worker, at most once per attachment. It must not block. See [`Dataplane::find_dead`] for those that are
    /// missed.
    pub on_port_death: Arc<dyn Fn(PortId) + Send + Sync>,
    /// Told of a worker that panics or cannot go on.
    pub vitals: Vitals,
}

impl DataplaneConfig {
    pub const BURST_FRAMES: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");
}

/// One worker that runs anywhere and does not poll, with what it learns for itself; a dead port is told to the log.
impl Default for DataplaneConfig {
    fn default() -> DataplaneConfig {
        DataplaneConfig {
            workers: NonZeroUsize::MIN,
            engine: None,
            pin_cpus: Vec::new(),
            poll: Duration::ZERO,
            burst_frames: DataplaneConfig::BURST_FRAMES,
            forward: ForwardConfig::default(),
            coalesce: true,
            fdb: Arc::new(Fdb::new(FdbConfig::default())),
            on_port_death: Arc::new(|port| tracing::error!(?port, "the interface of a port is gone")),
            vitals: Vitals::default(),
        }
    }
}

/// The running data plane. Dropped, it ends its workers and closes the TAPs.
pub struct Dataplane {
    publisher: Publisher,
    counters: Arc<Counters>,
    engine: EngineKind,
    /// A worker had to go over to epoll.
    has_failed: Arc<AtomicBool>,
    why_not_uring: Option<String>,
    workers: Vec<Worker>,
    /// Held during an attachment or a detachment, so each worker has one command at a time.
    links: Mutex<HashMap<PortId, Arc<Link>>>,
    joined: Mutex<Joined>,
}

/// How the hosts are joined.
#[derive(Default)]
struct Joined {
    underlay: Option<Arc<Underlay>>,
    /// What the underlays of before have lost.
    rx_overflows: u64,
}

struct Worker {
    /// Absent once the worker is to end.
    commands: Option<SyncSender<Command>>,
    wake: Wake,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("port {0} is attached already")]
    Attached(PortId),
    #[error("the TAP of port {port} cannot be polled: {source}")]
    Poll { port: PortId, source: io::Error },
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// Its descriptor stays open, and so its device is in use until the daemon ends.
    #[error("a worker cannot let go of the TAP of port {port}: {source}")]
    Held { port: PortId, source: io::Error },
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

#[derive(Debug, thiserror::Error)]
pub enum SetUnderlayError {
    #[error("the sockets of the underlay cannot be polled: {0}")]
    Poll(io::Error),
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// A worker is dead or stuck. Only a restart of the daemon helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    #[error("data plane worker {0} has ended; restart vswitchd")]
    Ended(usize),
    #[error("data plane worker {0} does not answer; restart vswitchd")]
    Silent(usize),
}

impl Dataplane {
    /// Starts the workers, with no ports and empty tables.
    pub fn start(config: DataplaneConfig) -> Result<Dataplane, EngineError> {
        match Dataplane::start_with(&config, config.engine) {
            Err(why) if config.engine.is_none() => {
                tracing::info!("frames are moved with epoll: {why}");
                let mut dataplane = Dataplane::start_with(&config, Some(EngineKind::Epoll))?;
                dataplane.why_not_uring = Some(why.to_string());
                Ok(dataplane)
            }
            started => started,
        }
    }

    fn start_with(config: &DataplaneConfig, engine: Option<EngineKind>) -> Result<Dataplane, EngineError> {
        let count = config.workers.get();
        let wakes = (0..count).map(|_| engine::new_wake()).collect::<io::Result<Vec<Wake>>>()?;
        let chosen = engine::choose(engine, config.burst_frames.get(), &wakes)?;
        let engines = chosen.engines.into_iter().zip(wakes).collect();
        let mut dataplane = Dataplane::with_engines(config, chosen.kind, engines)?;
        dataplane.why_not_uring = chosen.why_not;
        Ok(dataplane)
    }

    /// One for each worker, with what ends its wait.
    fn with_engines(
        config: &DataplaneConfig,
        engine: EngineKind,
        engines: Vec<(Engine, Wake)>,
    ) -> Result<Dataplane, EngineError> {
        let count = engines.len();
        let mut dataplane = Dataplane {
            publisher: Publisher::default(),
            // The last ones are the control side's.
            counters: Arc::new(Counters::new(count + 1)),
            engine,
            why_not_uring: None,
            has_failed: Arc::default(),
            workers: Vec::with_capacity(count),
            links: Mutex::default(),
            joined: Mutex::default(),
        };
        for (engine, wake) in engines {
            let worker = dataplane.start_worker(config, engine, wake)?;
            dataplane.workers.push(worker);
        }
        Ok(dataplane)
    }

    fn start_worker(&self, config: &DataplaneConfig, engine: Engine, wake: Wake) -> io::Result<Worker> {
        let index = self.workers.len();
        // `links` is locked until a command is answered or its worker given up, so one place is enough.
        let (commands, inbox) = mpsc::sync_channel(1);
        let tables = self.publisher.subscribe();
        let fabric = Fabric::new(index, config, Arc::clone(&self.counters), tables);
        let turns = Turns {
            index,
            workers: config.workers.get(),
            poll: config.poll,
            inbox,
            engine,
            has_failed: Arc::clone(&self.has_failed),
            burst_frames: config.burst_frames.get(),
            wake: Arc::clone(&wake),
            fabric,
            vitals: config.vitals.clone(),
        };
        let (started, start) = mpsc::sync_channel(1);
        let builder = thread::Builder::new().name(format!("vswitch-worker-{index}"));
        let (vitals, name) = (config.vitals.clone(), format!("data plane worker {index}"));
        let spawn = || builder.spawn(move || vitals.run(&name, || turns.run(&started)));
        let thread = match config.pin_cpus.get(index) {
            Some(&cpu) => pinned(cpu, spawn)?,
            None => spawn()?,
        };
        start.recv().unwrap_or_else(|_| Err(io::Error::other("a data plane worker has ended")))?;
        Ok(Worker { commands: Some(commands), wake, thread: Some(thread) })
    }

    /// The engine in use; epoll if one worker had to go over to it.
    pub fn engine(&self) -> EngineKind {
        if self.has_failed.load(Ordering::Relaxed) { EngineKind::Epoll } else { self.engine }
    }

    /// Why it is not io_uring, where that was not ruled out.
    pub fn why_not_uring(&self) -> Option<&str> {
        if self.has_failed.load(Ordering::Relaxed) {
            return Some("io_uring failed at work; the log says how");
        }
        self.why_not_uring.as_deref()
    }

    /// From the next burst on, workers forward by these tables.
    pub fn publish(&self, tables: Tables) {
        self.publisher.publish(tables);
    }

    /// Gives a port its TAP. When this returns, frames are read from it and written to it.
    pub fn attach(&self, port: PortId, tap: Tap) -> Result<(), AttachError> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.contains_key(&port) {
            return Err(AttachError::Attached(port));
        }
        let link = Arc::new(Link { tap, cells: self.counters.add_port(port) });
        let attached = self.attach_to_workers(port, &link);
        if attached.is_ok() {
            links.insert(port, link);
        } else {
            for index in self.owner_last(port) {
                // Whether a worker follows says nothing new: the attachment has failed.
                let _ = self.command(index, |done| Command::Detach { port, done });
            }
            self.counters.remove_port(port);
        }
        attached
    }

    /// The owner comes last: when it reads the first frame, every worker can deliver the answer.
    fn attach_to_workers(&self, port: PortId, link: &Arc<Link>) -> Result<(), AttachError> {
        for index in self.owner_last(port) {
            let poll = index == self.owner(port);
            let link = Arc::clone(link);
            self.command(index, |done| Command::Attach { port, link, poll, done })?
                .map_err(|source| AttachError::Poll { port, source })?;
        }
        Ok(())
    }

    /// Takes a port's TAP back. `None` if the port had none.
    ///
    /// To keep a persistent device drop the TAP; to remove the device call [`Tap::delete`].
    pub fn detach(&self, port: PortId) -> Result<Option<Tap>, DetachError> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = links.remove(&port) else { return Ok(None) };
        self.counters.remove_port(port);
        let mut result = Ok(());
        for index in self.owner_last(port).rev() {
            let done = self.command(index, |done| Command::Detach { port, done });
            let held = |source| DetachError::Held { port, source };
            result = result.and(done.map_err(DetachError::from).and_then(|done| done.map_err(held)));
        }
        result?;
        Ok(Arc::into_inner(link).map(|link| link.tap))
    }

    /// Joins this data plane to those of other hosts, by another way than before, or takes it apart from them.
    ///
    /// When this returns, the underlay of before is closed. After an error there is none.
    pub fn set_underlay(&self, underlay: Option<Underlay>) -> Result<(), SetUnderlayError> {
        let _one_command_each = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut joined.underlay, underlay.map(Arc::new));
        let set = self.give_underlay(joined.underlay.clone());
        // A worker that has followed reads it no more, so whatever it will lose it has lost.
        joined.rx_overflows += before.map_or(0, |before| before.overflows());
        if set.is_err() {
            joined.underlay = None;
            // Whether a worker follows says nothing new: it has failed.
            let _ = self.give_underlay(None);
        }
        set
    }

    fn give_underlay(&self, underlay: Option<Arc<Underlay>>) -> Result<(), SetUnderlayError> {
        for index in 0..self.workers.len() {
            let underlay = underlay.clone();
            self.command(index, |done| Command::SetUnderlay { underlay, done })?
                .map_err(SetUnderlayError::Poll)?;
        }
        Ok(())
    }

    /// The network namespace that a port's interface is in; `None` if it has none, or the kernel does not tell.
    pub fn locate(&self, port: PortId) -> Option<NetNsId> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(&port)?.tap.namespace().ok()
    }

    /// The ports whose device is gone, by one system call. Waits for nothing: none are found while a port is attached or
    /// detached.
    pub fn find_dead(&self) -> Vec<PortId> {
        let Ok(links) = self.links.try_lock() else { return Vec::new() };
        let (ports, mut polled): (Vec<PortId>, Vec<PollFd<'_>>) = links
            .iter()
            .map(|(port, link)| (*port, PollFd::new(link.tap.as_fd(), PollFlags::empty())))
            .unzip();
        if let Err(error) = poll(&mut polled, PollTimeout::ZERO) {
            tracing::warn!(%error, "interfaces that were deleted are not looked for");
            return Vec::new();
        }
        let is_dead =
            |polled: &PollFd<'_>| polled.revents().is_some_and(|told| told.contains(PollFlags::POLLERR));
        ports.into_iter().zip(&polled).filter(|(_, polled)| is_dead(polled)).map(|(port, _)| port).collect()
    }

    /// Tells the container behind a port that `mac` has an address now. Nothing happens if there is none.
    pub fn announce(&self, port: PortId, ip: IpAddr, mac: MacAddr) {
        // Counters have one writer at a time, and a TAP is not taken back meanwhile.
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = links.get(&port) else { return };
        let mut raw = [0; neighbor::REPLY_BYTES_MAX];
        let length = neighbor::announcement(ip, mac, &mut raw);
        let cells = self.counters.of_worker(self.workers.len());
        egress::count(cells, link.cells.of_worker(self.workers.len()), link.tap.write(&raw[..length]));
    }

    /// `None` for a port without a TAP.
    pub fn port_counters(&self, port: PortId) -> Option<PortCounters> {
        self.counters.port(port)
    }

    pub fn totals(&self) -> Totals {
        let mut totals = self.counters.totals();
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let present = joined.underlay.as_ref().map_or(0, |underlay| underlay.overflows());
        totals.tunnel.rx_overflows = joined.rx_overflows + present;
        totals
    }

    /// Ends the workers and closes the TAPs. Persistent devices stay.
    pub fn shutdown(self) {}

    fn owner(&self, port: PortId) -> usize {
        port.0 as usize % self.workers.len()
    }

    fn owner_last(&self, port: PortId) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let (owner, count) = (self.owner(port), self.workers.len());
        (1..=count).map(move |i| (owner + i) % count)
    }

    /// Has one worker follow a command, and waits for its answer.
    fn command(
        &self,
        index: usize,
        command: impl FnOnce(SyncSender<io::Result<()>>) -> Command,
    ) -> Result<io::Result<()>, WorkerError> {
        let worker = &self.workers[index];
        let (done, answer) = mpsc::sync_channel(1);
        let commands = worker.commands.as_ref().ok_or(WorkerError::Ended(index))?;
        commands.try_send(command(done)).map_err(|e| match e {
            mpsc::TrySendError::Full(_) => WorkerError::Silent(index),
            mpsc::TrySendError::Disconnected(_) => WorkerError::Ended(index),
        })?;
        worker.wake.write(1).map_err(|_| WorkerError::Ended(index))?;
        answer.recv_timeout(PATIENCE).map_err(|e| match e {
            RecvTimeoutError::Timeout => WorkerError::Silent(index),
            RecvTimeoutError::Disconnected => WorkerError::Ended(index),
        })
    }
}

/// Starts a thread on one processor. Threads inherit where they may run.
fn pinned<T>(cpu: usize, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let this_thread = Pid::from_raw(0);
    let before = sched_getaffinity(this_thread)?;
    let mut only = CpuSet::new();
    only.set(cpu)
        .and_then(|()| sched_setaffinity(this_thread, &only))
        .map_err(|e| io::Error::other(format!("a worker cannot be bound to processor {cpu}: {e}")))?;
    let started = start();
    sched_setaffinity(this_thread, &before)?;
    started
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.commands = None;
            if let Err(e) = worker.wake.write(1) {
                tracing::error!("a data plane worker cannot be woken to end: {e}");
            }
        }
        for worker in &mut self.workers {
            // A panic was reported when it happened.
            let _ = worker.thread.take().map(JoinHandle::join);
        }
    }
}

impl fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataplane").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
