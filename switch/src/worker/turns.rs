//! One worker's thread: frames by its engine, and commands between them.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use vswitch_proto::id::PortId;

use super::egress::Link;
use super::engine::{Engine, Source, Wake};
use super::fabric::Fabric;
use crate::io::underlay::Underlay;
use crate::vitals::Vitals;

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

pub(super) struct Turns {
    pub(super) index: usize,
    pub(super) workers: usize,
    /// For how long it looks for more frames before it sleeps.
    pub(super) poll: Duration,
    pub(super) inbox: Receiver<Command>,
    pub(super) engine: Engine,
    /// Of the whole data plane.
    pub(super) has_failed: Arc<AtomicBool>,
    pub(super) burst_frames: usize,
    pub(super) wake: Wake,
    pub(super) fabric: Fabric,
    pub(super) vitals: Vitals,
}

impl Turns {
    /// Until the other end of the inbox is gone. Says how the start went.
    pub(super) fn run(mut self, started: &SyncSender<io::Result<()>>) {
        let start = self.engine.start();
        let has_started = start.is_ok();
        // Whoever does not wait for it ends this worker otherwise.
        let _ = started.try_send(start);
        if has_started {
            self.serve_on();
        }
    }

    /// A ring that fails is replaced: frames that it held are lost, ports are not. Without an engine the worker ends and
    /// its ports are without service, so the daemon has to end too.
    fn serve_on(&mut self) {
        while let Err(e) = self.serve() {
            match self.engine.instead(self.burst_frames, Arc::clone(&self.wake)) {
                Some(Ok(engine)) => {
                    tracing::warn!("io_uring fails, frames are moved with epoll from now on: {e}");
                    self.engine = engine;
                    self.has_failed.store(true, Ordering::Relaxed);
                }
                Some(Err(why)) => return self.report(&format!("{e}; and epoll does not start: {why}")),
                None => return self.report(&format!("it cannot wait for frames: {e}")),
            }
        }
    }

    fn report(&self, why: &str) {
        self.vitals.report(format!("data plane worker {} has failed: {why}", self.index));
    }

    fn serve(&mut self) -> io::Result<()> {
        if self.follow_commands()?.is_break() {
            return Ok(());
        }
        let mut sleeps_after = None;
        loop {
            let may_sleep = sleeps_after.is_none_or(|then| Instant::now() >= then);
            let turn = self.engine.turn(&mut self.fabric, may_sleep)?;
            if turn.is_woken && self.follow_commands()?.is_break() {
                return Ok(());
            }
            if !may_sleep && !turn.has_moved {
                // Whoever waits for this processor may be the one that sends the next frame.
                thread::yield_now();
            }
            if !self.poll.is_zero() && (turn.has_moved || may_sleep) {
                sleeps_after = Some(Instant::now() + self.poll);
            }
        }
    }

    fn follow_commands(&mut self) -> io::Result<ControlFlow<()>> {
        // A command may be the end of a TAP, to which there must be nothing on its way.
        self.engine.settle(&mut self.fabric)?;
        loop {
            // Whoever gave up waiting for an answer does not miss it.
            let _ = match self.inbox.try_recv() {
                Ok(Command::Attach { port, link, poll, done }) => {
                    done.try_send(self.attach(port, link, poll))
                }
                Ok(Command::Detach { port, done }) => done.try_send(self.detach(port)),
                Ok(Command::SetUnderlay { underlay, done }) => done.try_send(self.set_underlay(underlay)),
                Err(TryRecvError::Empty) => return Ok(ControlFlow::Continue(())),
                Err(TryRecvError::Disconnected) => return Ok(ControlFlow::Break(())),
            };
        }
    }

    fn attach(&mut self, port: PortId, link: Arc<Link>, poll: bool) -> io::Result<()> {
        let fd = link.tap.as_raw_fd();
        self.fabric.egress.attach(port, link);
        if !poll {
            return Ok(());
        }
        self.engine.start_reading(Source::Port(port), fd).inspect_err(|_| {
            self.fabric.egress.detach(port);
        })
    }

    fn detach(&mut self, port: PortId) -> io::Result<()> {
        let mut stopped = self.engine.stop_reading(Source::Port(port), &mut self.fabric);
        stopped = stopped.and(self.engine.settle(&mut self.fabric));
        if let (Err(e), Some(link)) = (&stopped, self.fabric.egress.get(port)) {
            // A request may still name the descriptor, whose number must not be another's.
            tracing::warn!(?port, "the TAP stays open until vswitchd ends: {e}");
            std::mem::forget(Arc::clone(link));
        }
        self.fabric.egress.detach(port);
        stopped
    }

    /// Each worker reads every so many-th receiver. What the ones before have not delivered is lost.
    fn set_underlay(&mut self, underlay: Option<Arc<Underlay>>) -> io::Result<()> {
        let before = self.fabric.egress.underlay().map_or(0, |before| before.receivers().len());
        for index in (0..before).skip(self.index).step_by(self.workers) {
            self.engine.stop_reading(Source::Receiver(index), &mut self.fabric)?;
        }
        self.fabric.egress.set_underlay(underlay.clone());
        let receivers = underlay.iter().flat_map(|underlay| underlay.receivers().iter().enumerate());
        for (index, receiver) in receivers.skip(self.index).step_by(self.workers) {
            self.engine.start_reading(Source::Receiver(index), receiver.as_raw_fd())?;
        }
        Ok(())
    }
}
