//! Work on the host as it is done in the [`lanes`](super::lanes): what a plan asks for, and what is looked after.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::command::ContainerKind;
use vswitch_proto::id::ContainerId;

use super::handle::{Shared, error};
use super::host::Host;
use super::lanes::{LaneId, Lanes, Part, Work};
use super::ports::Problem;
use super::trouble::{Failure, Trouble, container_of, target};
use super::{Event, feed, now_ms};
use crate::plan::{self, Action, Attach};
use crate::state::State;

/// How long a change waits for what it changes on the host.
const OWN_PATIENCE: Duration = Duration::from_secs(30);

/// How long a change waits for the names files of other containers, which takes as long as a write to the disk.
const OTHERS_PATIENCE: Duration = Duration::from_secs(1);

/// Pieces of work at once. Those that take longer than [`SLOW`] do not count.
const AT_ONCE: usize = 32;
const SLOW: Duration = Duration::from_millis(500);

/// After this a lane is taken to hang.
pub const STUCK: Duration = Duration::from_millis(500);

/// A piece of work for a lane.
#[derive(Debug)]
pub enum HostWork {
    /// A part of a plan.
    Act {
        action: Action,
        /// Whether interfaces that are there already were made by an earlier daemon, and are taken over.
        recovering: bool,
        /// Why it failed before, where it is tried again.
        before: Option<String>,
        /// Told how it went.
        told: Option<Told>,
    },
    /// Removes interfaces of ours that no endpoint of the container has.
    Clean,
    /// Looks whether an adopted namespace is still there, and whether interfaces are where they belong.
    Look,
    /// Makes an interface again that was deleted inside of its container.
    Renew(Attach),
}

/// Whoever waits for a piece of work.
#[derive(Debug)]
pub struct Told {
    reply: oneshot::Sender<Option<String>>,
    /// Whether a failure is the answer to a client's own change.
    is_own: bool,
}

impl HostWork {
    pub fn again(failure: Failure) -> HostWork {
        let Failure { action, recovering, reason } = failure;
        HostWork::Act { action, recovering, before: Some(reason), told: None }
    }

    /// Puts it into its lane, unless newer work on the same waits there.
    pub fn push_again(self, lanes: &Lanes<HostWork>) {
        let HostWork::Act { action, .. } = &self else { return };
        let (id, wanted) = ((container_of(action), self.part()), target(action));
        let is_same = |other: &HostWork| match other {
            HostWork::Act { action, .. } => target(action) == wanted,
            HostWork::Clean | HostWork::Look | HostWork::Renew(_) => false,
        };
        lanes.push_once(id, self, is_same);
    }

    /// The lane that it belongs to.
    pub fn part(&self) -> Part {
        match self {
            HostWork::Act { action: Action::WriteHosts { .. }, .. } => Part::Names,
            HostWork::Act { .. } | HostWork::Clean | HostWork::Look | HostWork::Renew(_) => Part::Interfaces,
        }
    }

    fn is_clean(&self) -> bool {
        matches!(self, HostWork::Clean)
    }

    pub fn is_look(&self) -> bool {
        matches!(self, HostWork::Look)
    }
}

impl Work for HostWork {
    /// A TAP that was made is removed all the same, so what attaches does not supersede what detaches.
    fn supersedes(&self, earlier: &HostWork) -> bool {
        match (self, earlier) {
            (HostWork::Act { action, .. }, HostWork::Act { action: earlier, .. }) => {
                let detaches = |action: &Action| matches!(action, Action::Detach { .. });
                target(action) == target(earlier) && (detaches(action) || !detaches(earlier))
            }
            (one, other) => (one.is_clean() && other.is_clean()) || (one.is_look() && other.is_look()),
        }
    }
}

/// What was begun on the host for a change. Dropped, it goes on without anybody who waits for it.
#[derive(Debug, Default)]
pub struct Begun {
    own: Vec<oneshot::Receiver<Option<String>>>,
    others: Vec<oneshot::Receiver<Option<String>>>,
}

impl Begun {
    /// Puts a part of a plan into its lane.
    pub fn push(&mut self, lanes: &Lanes<HostWork>, action: Action, is_own: bool, recovering: bool) {
        let container = container_of(&action);
        let mut work = HostWork::Act { action, recovering, before: None, told: None };
        let id = (container, work.part());
        // Names are known everywhere when a change is answered, but for a lane that hangs or is held.
        let is_awaited = is_own || (work.part() == Part::Names && !lanes.is_stuck(id, STUCK));
        if let (HostWork::Act { told, .. }, true) = (&mut work, is_awaited) {
            let (reply, answer) = oneshot::channel();
            *told = Some(Told { reply, is_own });
            let list = if is_own { &mut self.own } else { &mut self.others };
            list.push(answer);
        }
        lanes.push(id, work);
    }

    /// Waits until it is done. Fails where it does for the change's own containers.
    pub async fn done(self) -> Result<(), Error> {
        let own = async {
            let mut outcome = Ok(());
            for answer in self.own {
                // Without an answer it was superseded by what somebody else waits for.
                if let Ok(Some(reason)) = answer.await {
                    outcome = outcome.and(Err(error(ErrorKind::Failed, reason)));
                }
            }
            outcome
        };
        let late = || {
            let message = format!(
                "the host did not follow within {} seconds: see the log of vswitchd",
                OWN_PATIENCE.as_secs()
            );
            Err(error(ErrorKind::Failed, message))
        };
        let outcome = tokio::time::timeout(OWN_PATIENCE, own).await.unwrap_or_else(|_| late());
        let others = async {
            for answer in self.others {
                // Failures of others are told by the lane.
                _ = answer.await;
            }
        };
        _ = tokio::time::timeout(OTHERS_PATIENCE, others).await;
        outcome
    }
}

/// Does the work in the lanes.
#[derive(Clone)]
pub struct HostWorker {
    host: Arc<Host>,
    shared: Arc<Shared>,
    trouble: Arc<Mutex<Trouble>>,
    events: mpsc::Sender<Event>,
    places: Arc<Semaphore>,
}

impl HostWorker {
    pub fn new(
        host: Arc<Host>,
        shared: Arc<Shared>,
        trouble: Arc<Mutex<Trouble>>,
        events: mpsc::Sender<Event>,
    ) -> HostWorker {
        HostWorker { host, shared, trouble, events, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Lanes in which this worker does the work.
    pub fn lanes(self) -> Lanes<HostWork> {
        Lanes::new(move |(container, _): LaneId, work| {
            let worker = self.clone();
            Box::pin(async move { worker.perform(container, work).await })
        })
    }

    async fn perform(&self, container: ContainerId, work: HostWork) {
        // The semaphore is never closed.
        let place = self.places.acquire().await.ok();
        let mut working = std::pin::pin!(self.work(container, work));
        if tokio::time::timeout(SLOW, &mut working).await.is_err() {
            drop(place);
            working.await;
        }
    }

    async fn work(&self, container: ContainerId, work: HostWork) {
        match work {
            HostWork::Act { action, recovering, before, told } => {
                let done = self.host.execute(&action, recovering, before.is_none()).await;
                let reason = done.err().map(|error| error.to_string());
                match reason.clone() {
                    Some(reason) => {
                        let failure = Failure { action, recovering, reason };
                        self.note(failure, before.as_deref(), told.as_ref());
                    }
                    None if before.is_some() => self.tell_followed(&container),
                    None => {}
                }
                if let Some(told) = told {
                    // Whoever waited may have given up.
                    let _ = told.reply.send(reason);
                }
            }
            HostWork::Clean => self.host.remove_unknown_interfaces(&container).await,
            HostWork::Look => self.look(&container).await,
            HostWork::Renew(attach) => self.renew(attach).await,
        }
    }

    async fn look(&self, id: &ContainerId) {
        let seen = self.shared.snapshot();
        let Some(container) = seen.local.container(id) else { return };
        let is_adopted = matches!(container.kind, ContainerKind::Adopted(_));
        if is_adopted && self.host.is_gone(container).await {
            // The loop ends before its queue closes.
            let _ = self.events.send(Event::Vanished(*id)).await;
            return;
        }
        let wires: Vec<_> = seen.view().wires_of(id).collect();
        let ports = wires.iter().map(|(_, wire)| wire.port).collect();
        for (port, is_moved) in self.host.find_moved(container, ports).await {
            let Some((endpoint, wire)) = wires.iter().find(|(_, wire)| wire.port == port) else { continue };
            let is_back = !is_moved && self.shared.port_problems.is_moved(port);
            if is_back
                && container.docker().is_none()
                && let Some(attach) =
                    plan::attach_again(seen.view(), &endpoint.id, port, &self.shared.settings())
                && let Err(error) = self.host.set_up_again(container, attach).await
            {
                tracing::warn!(%error, "an interface that was moved and is back could not be set up");
            }
            let found = is_moved.then_some(Problem::Moved);
            self.shared.note_port(container, &wire.interface_name(), port, found);
        }
    }

    /// If it fails, it is tried again as any other attachment.
    async fn renew(&self, attach: Attach) {
        let state = self.shared.state();
        let Some(container) = state.container(&attach.container) else { return };
        let (port, interface) = (attach.port, attach.interface.clone());
        self.host.detach(port, false, None).await;
        let action = Action::Attach(attach);
        match self.host.execute(&action, false, true).await {
            Ok(()) => self.shared.note_port(container, &interface, port, None),
            Err(error) => {
                self.shared.port_problems.clear(port);
                self.note(Failure { action, recovering: false, reason: error.to_string() }, None, None);
            }
        }
    }

    /// Keeps what failed, to try it again.
    fn note(&self, failure: Failure, before: Option<&str>, told: Option<&Told>) {
        let is_answer = told.is_some_and(|told| told.is_own && !told.reply.is_closed());
        if !is_answer && before != Some(failure.reason.as_str()) {
            self.tell(&failure, &self.shared.state());
        }
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).note(failure);
    }

    fn tell_followed(&self, container: &ContainerId) {
        let state = self.shared.state();
        let name = state.container(container).map(|container| container.name.as_str());
        tracing::info!(container = name, "the host has followed now");
    }

    /// In the log and as an event.
    fn tell(&self, failure: &Failure, state: &State) {
        let Failure { reason, .. } = failure;
        tracing::warn!(error = reason, "the host could not follow a change; it is tried again");
        let id = failure.container();
        let name = state.container(&id).map(|container| container.name.to_string()).unwrap_or_default();
        let attributes = [("error".to_owned(), reason.clone())].into();
        let change =
            feed::Change { kind: "container", action: "trouble", id: id.to_string(), name, attributes };
        self.shared.feed.publish(now_ms(), vec![change]);
    }
}
