//! How a worker gets at frames: one of two engines, which bring the same frames to the same [`Fabric`].
//!
//! [`Polled`] waits for readiness (epoll) and reads and writes one frame per system call. [`Ringed`] has the kernel
//! read ahead and write in batches (io_uring).

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use vswitch_proto::id::PortId;

use super::fabric::Fabric;
use crate::io::ring::Unavailable;
use polled::Polled;
use ringed::Ringed;

mod polled;
mod ringed;

/// Which engine workers use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    Epoll,
    Uring,
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            EngineKind::Epoll => "epoll",
            EngineKind::Uring => "uring",
        })
    }
}

/// What a worker reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    Port(PortId),
    /// Of the underlay, by its index.
    Receiver(usize),
}

/// What a turn was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// Somebody has ended the wait.
    pub(super) is_woken: bool,
    /// There was something to read.
    pub(super) has_moved: bool,
}

impl Turn {
    /// What came after it is part of it.
    fn add(&mut self, later: Turn) {
        self.is_woken |= later.is_woken;
        self.has_moved |= later.has_moved;
    }
}

/// Ends a worker's wait, from any thread.
pub(super) type Wake = Arc<EventFd>;

pub(super) fn new_wake() -> io::Result<Wake> {
    Ok(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(
        "before Linux 6.15 a worker that waits with io_uring is shown as waiting for a disk; --engine uring takes that"
    )]
    LooksBusy,
}

/// The engines that were chosen.
pub(super) struct Chosen {
    pub(super) kind: EngineKind,
    /// One for each worker.
    pub(super) engines: Vec<Engine>,
    /// Why it is not io_uring, which nobody ruled out.
    pub(super) why_not: Option<String>,
}

/// An engine for each worker. Without a choice, epoll is used where io_uring is not there.
pub(super) fn choose(
    choice: Option<EngineKind>,
    burst_frames: usize,
    wakes: &[Wake],
) -> Result<Chosen, EngineError> {
    let all = |kind| {
        let engines = wakes.iter().map(|wake| Engine::new(kind, burst_frames, Arc::clone(wake)));
        let engines = engines.collect::<Result<Vec<_>, EngineError>>()?;
        Ok(Chosen { kind, engines, why_not: None })
    };
    match choice {
        Some(kind) => all(kind),
        None => all(EngineKind::Uring).and_then(only_idle).or_else(|why| {
            tracing::info!("frames are moved with epoll: {why}");
            all(EngineKind::Epoll).map(|chosen| Chosen { why_not: Some(why.to_string()), ..chosen })
        }),
    }
}

/// Nobody's monitoring is to see a busy disk that he did not ask for.
fn only_idle(made: Chosen) -> Result<Chosen, EngineError> {
    let are_idle = made.engines.iter().all(|engine| match engine {
        Engine::Polled(_) => true,
        Engine::Ringed(ringed) => ringed.waits_idly(),
    });
    if are_idle { Ok(made) } else { Err(EngineError::LooksBusy) }
}

#[expect(clippy::large_enum_variant, reason = "there is one for each worker")]
pub(super) enum Engine {
    Polled(Polled),
    Ringed(Ringed),
}

impl Engine {
    /// Brings nothing before [`Engine::start`], but can be woken from now on.
    pub(super) fn new(kind: EngineKind, burst_frames: usize, wake: Wake) -> Result<Engine, EngineError> {
        Ok(match kind {
            EngineKind::Epoll => Engine::Polled(Polled::new(burst_frames, wake)?),
            EngineKind::Uring => Engine::Ringed(Ringed::new(wake)?),
        })
    }

    /// An epoll engine that reads what this one read. `None` if this one is it.
    pub(super) fn instead(&self, burst_frames: usize, wake: Wake) -> Option<io::Result<Engine>> {
        let Engine::Ringed(ringed) = self else { return None };
        let read_all = || {
            let mut polled = Polled::new(burst_frames, wake)?;
            ringed.reading().try_for_each(|(source, fd)| polled.start_reading(source, fd))?;
            Ok(Engine::Polled(polled))
        };
        Some(read_all())
    }

    /// In the thread that takes the turns.
    pub(super) fn start(&mut self) -> io::Result<()> {
        match self {
            Engine::Polled(_) => Ok(()),
            Engine::Ringed(ringed) => ringed.start(),
        }
    }

    /// If it may sleep, waits until there is something to do, and does a bounded part of what there is.
    pub(super) fn turn(&mut self, fabric: &mut Fabric, may_sleep: bool) -> io::Result<Turn> {
        match self {
            Engine::Polled(polled) => polled.turn(fabric, may_sleep),
            Engine::Ringed(ringed) => ringed.turn(fabric, may_sleep),
        }
    }

    pub(super) fn start_reading(&mut self, source: Source, fd: RawFd) -> io::Result<()> {
        match self {
            Engine::Polled(polled) => polled.start_reading(source, fd),
            Engine::Ringed(ringed) => ringed.start_reading(source, fd),
        }
    }

    /// What is not read is nothing to stop. Afterwards the engine does not know the descriptor any more.
    pub(super) fn stop_reading(&mut self, source: Source, fabric: &mut Fabric) -> io::Result<()> {
        match self {
            Engine::Polled(polled) => {
                polled.stop_reading(source);
                Ok(())
            }
            Engine::Ringed(ringed) => ringed.stop_reading(source, fabric),
        }
    }

    /// Completes what is on its way out.
    pub(super) fn settle(&mut self, fabric: &mut Fabric) -> io::Result<()> {
        match self {
            Engine::Polled(_) => Ok(()),
            Engine::Ringed(ringed) => ringed.settle(fabric),
        }
    }
}
