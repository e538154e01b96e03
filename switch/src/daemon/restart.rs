//! Restarts: by a container's policy when its process has ended, and by `restart`.
//!
//! The pause before a restart is Docker's: 100 ms, doubled with each one up to a minute, and 100 ms again after a run of
//! ten seconds. What waits is known by container, so that a stop, a removal or a start by hand takes it back. After a
//! start of the daemon everything that its policy wants runs again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::command::{Command, RestartPolicy};
use vswitch_proto::id::{ContainerId, RequestId};

use super::control::Control;
use super::handle::{Handle, Shared};
use super::overlay::Prepared;
use super::{Change, Done, Event, random_request_id};
use crate::state::Container;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// After a run of this length, the next pause is the shortest again.
const LONG_RUN: Duration = Duration::from_secs(10);

/// What is remembered of restarts while the daemon runs.
#[derive(Debug, Default)]
pub struct Restarts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    containers: HashMap<ContainerId, Entry>,
    drawn: u64,
}

#[derive(Debug, Default)]
struct Entry {
    pause: Duration,
    /// A restart waits; the number tells it from one that was taken back.
    pending: Option<u64>,
    /// Restarts by hand that stop the container just now: it is not removed, though it may be an --rm one.
    kept: u32,
}

impl Restarts {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a restart waits: its number, and how long it waits after a run of `lived`.
    fn plan(&self, id: &ContainerId, lived: Duration) -> (u64, Duration) {
        let mut known = self.lock();
        known.drawn += 1;
        let number = known.drawn;
        let entry = known.containers.entry(*id).or_default();
        entry.pause = next_pause(entry.pause, lived);
        entry.pending = Some(number);
        (number, entry.pause)
    }

    fn is_planned(&self, id: &ContainerId, number: u64) -> bool {
        self.lock().containers.get(id).is_some_and(|entry| entry.pending == Some(number))
    }

    pub fn is_pending(&self, id: &ContainerId) -> bool {
        self.lock().containers.get(id).is_some_and(|entry| entry.pending.is_some())
    }

    /// Whether one waited. None does any more.
    pub fn take(&self, id: &ContainerId) -> bool {
        self.lock().containers.get_mut(id).is_some_and(|entry| entry.pending.take().is_some())
    }

    /// After a start by hand, pauses begin anew.
    pub fn reset(&self, id: &ContainerId) {
        if let Some(entry) = self.lock().containers.get_mut(id) {
            (entry.pending, entry.pause) = (None, Duration::ZERO);
        }
    }

    /// The container is removed.
    pub fn forget(&self, id: &ContainerId) {
        self.lock().containers.remove(id);
    }

    /// Whether the container stays though it ended.
    pub fn is_kept(&self, id: &ContainerId) -> bool {
        self.lock().containers.get(id).is_some_and(|entry| entry.kept > 0)
    }
}

fn next_pause(last: Duration, lived: Duration) -> Duration {
    if last.is_zero() || lived >= LONG_RUN { PAUSE_MIN } else { (last * 2).min(PAUSE_MAX) }
}

/// While it lives, a container that ends is not removed.
struct Kept<'a> {
    restarts: &'a Restarts,
    id: ContainerId,
}

impl<'a> Kept<'a> {
    fn new(restarts: &'a Restarts, id: ContainerId) -> Kept<'a> {
        restarts.lock().containers.entry(id).or_default().kept += 1;
        Kept { restarts, id }
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.restarts.lock().containers.get_mut(&self.id) {
            entry.kept = entry.kept.saturating_sub(1);
        }
    }
}

impl Control {
    /// For a container that has just ended by itself.
    pub(super) fn restart_if_wanted(&self, id: &ContainerId) {
        let state = self.state();
        let Some(container) = state.container(id) else { return };
        if container.wants_restart() && !container.stopped_by_hand && !self.shared.restarts.is_kept(id) {
            schedule(&self.shared, &self.events, *id, lived(container));
        }
    }

    /// At the start of the daemon: everything that its policy wants to run and that does not.
    pub(super) fn restart_all(&self) {
        let state = self.state();
        let wanted = state.containers().filter(|c| c.wants_restart() && c.started_at_ms.is_some());
        for container in wanted.filter(|c| !self.shared.restarts.is_pending(&c.id)) {
            schedule(&self.shared, &self.events, container.id, Duration::ZERO);
        }
    }
}

fn lived(container: &Container) -> Duration {
    let ended_ms = container.finished_at_ms.unwrap_or(0);
    Duration::from_millis(ended_ms.saturating_sub(container.started_at_ms.unwrap_or(ended_ms)))
}

/// Has the container started again after a pause, in a task of its own.
fn schedule(shared: &Arc<Shared>, events: &mpsc::Sender<Event>, id: ContainerId, lived: Duration) {
    let (number, pause) = shared.restarts.plan(&id, lived);
    let (shared, events) = (Arc::clone(shared), events.clone());
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        if !shared.restarts.is_planned(&id, number) {
            return;
        }
        let handle = Handle::new(events.clone(), Arc::clone(&shared));
        let Err(failure) = handle.change(Change::StartAgain(id.to_string()), None).await else { return };
        let container = id.short();
        if is_passing(&failure) {
            tracing::warn!(container, error = failure.message, "a restart failed and is tried again");
            schedule(&shared, &events, id, Duration::ZERO);
        } else {
            tracing::warn!(
                container,
                error = failure.message,
                "a restart failed; the container stays stopped"
            );
            shared.restarts.take(&id);
            shared.wake();
        }
    });
}

/// Whether it may go well later: nothing was wrong with the container itself.
fn is_passing(failure: &Error) -> bool {
    matches!(failure.kind, ErrorKind::NoQuorum | ErrorKind::Failed) && failure.exit_code.is_none()
}

impl Handle {
    pub fn is_restarting(&self, id: &ContainerId) -> bool {
        self.shared().restarts.is_pending(id) && self.shared().shim(id).is_none()
    }

    /// A person stops the container: its policy does not start it again. Durable, where the policy asks for that.
    pub(super) async fn stop_by_hand(&self, id: &ContainerId) -> Result<(), Error> {
        let state = self.state();
        let policy = state.container(id).and_then(Container::lab).map(|spec| spec.settings.restart);
        if policy.is_some_and(|policy| policy != RestartPolicy::No) {
            self.enqueue(Change::StopByHand(*id), random_request_id(), Prepared::default()).await?;
        }
        self.shared().restarts.take(id);
        Ok(())
    }

    /// Stops the container, if it runs, and starts it.
    pub async fn restart(&self, reference: &str, patience: Option<Duration>) -> Result<Done, Error> {
        let state = self.state();
        let container = self.find_container(&state, reference)?;
        let id = container.id;
        let is_auto_removed = container.lab().is_some_and(|spec| spec.auto_remove);
        let kept = Kept::new(&self.shared().restarts, id);
        self.stop(&id.to_string(), patience).await?;
        drop(state);
        let started = self.change(Change::Start(id.to_string()), None).await;
        drop(kept);
        if started.is_err() && is_auto_removed {
            // What is told is why it did not start.
            let _ = self.change(Change::Remove { reference: id.to_string(), force: false }, None).await;
        }
        started
    }
}

impl Control {
    pub(super) async fn note_stop(&self, container: &ContainerId, id: RequestId) -> Result<Done, Error> {
        self.shared.restarts.take(container);
        self.commit(id, Command::StopByHand { container: *container }, None).await?;
        Ok(Done::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let mut pause = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            pause = next_pause(pause, Duration::from_secs(1));
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(next_pause(pause, LONG_RUN), PAUSE_MIN);
    }

    #[test]
    fn what_is_taken_back_does_not_start() {
        let (restarts, id) = (Restarts::default(), ContainerId([1; 32]));
        let (first, pause) = restarts.plan(&id, Duration::ZERO);
        assert_eq!(pause, PAUSE_MIN);
        assert!(restarts.is_planned(&id, first) && restarts.is_pending(&id));
        assert!(restarts.take(&id) && !restarts.take(&id));
        assert!(!restarts.is_planned(&id, first));
        let (second, pause) = restarts.plan(&id, Duration::ZERO);
        assert_eq!(pause, 2 * PAUSE_MIN);
        assert!(restarts.is_planned(&id, second) && !restarts.is_planned(&id, first));
        restarts.reset(&id);
        assert_eq!(restarts.plan(&id, Duration::ZERO).1, PAUSE_MIN);
        let kept = Kept::new(&restarts, id);
        assert!(restarts.is_kept(&id));
        drop(kept);
        assert!(!restarts.is_kept(&id));
        restarts.forget(&id);
        assert!(!restarts.is_pending(&id));
    }
}
