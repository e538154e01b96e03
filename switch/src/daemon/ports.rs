//! Interfaces that went away without our doing: deleted inside of their container, or moved out of it.
//!
//! One that was deleted is made again, with its addresses and routes, where the container's namespace is ours to set up.
//! A Docker engine sets up its containers itself, and an interface that somebody moved is somewhere on purpose: these
//! are reported, in `port ls`, in the log and as an event, until they are back.
//!
//! An interface that was moved and comes back is set up again, under whatever name it has then. One that was renamed, or
//! set down, is as whoever did it wants it.
//!
//! A deletion is told by the worker that reads the TAP, and looked for each second, since the kernel may not tell the
//! worker. A move is not told: a TAP works wherever it is. So interfaces are looked at in turn, some each second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vswitch_proto::id::{ContainerId, PortId};

use super::control::Control;
use super::handle::Shared;
use super::host_work::HostWork;
use super::lanes::Part;
use super::{feed, now_ms};
use crate::plan;
use crate::state::{Container, Phase};

/// Containers whose interfaces are looked at each second.
const LOOKED_AT: usize = 64;

/// What is wrong with ports that have a TAP, or had one.
#[derive(Debug, Default)]
pub struct PortProblems(Mutex<BTreeMap<PortId, Problem>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// Deleted inside of its container, and to be made again.
    Deleted,
    /// The same, where making it again is not ours to do.
    Lost,
    /// In another namespace than that of its container.
    Moved,
}

impl Problem {
    fn text(self) -> &'static str {
        match self {
            Problem::Deleted => "its interface was deleted inside of the container; it is made again",
            Problem::Lost => {
                "its interface was deleted inside of the container; restart the container to have it back"
            }
            Problem::Moved => "its interface was moved to another network namespace",
        }
    }
}

impl PortProblems {
    pub fn of(&self, port: PortId) -> Option<&'static str> {
        self.lock().get(&port).map(|problem| problem.text())
    }

    pub fn is_moved(&self, port: PortId) -> bool {
        self.lock().get(&port) == Some(&Problem::Moved)
    }

    /// `false` if that was known already.
    fn note(&self, port: PortId, problem: Problem) -> bool {
        self.lock().insert(port, problem) != Some(problem)
    }

    pub fn clear(&self, port: PortId) -> Option<Problem> {
        self.lock().remove(&port)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PortId, Problem>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Notes what was found out about a port; what is new is told.
    pub fn note_port(&self, container: &Container, interface: &str, port: PortId, found: Option<Problem>) {
        let name = container.name.as_str();
        let Some(problem) = found else {
            if self.port_problems.clear(port).is_some() {
                tracing::info!(container = name, interface, "the interface is as it should be again");
            }
            return;
        };
        if !self.port_problems.note(port, problem) {
            return;
        }
        let text = problem.text();
        tracing::warn!(container = name, interface, "{text}");
        let error = format!("{interface}: {text}");
        let change = feed::Change {
            kind: "container",
            action: "trouble",
            id: container.id.to_string(),
            name: name.to_owned(),
            attributes: [("error".to_owned(), error)].into(),
        };
        self.feed.publish(now_ms(), vec![change]);
    }
}

impl Control {
    /// A TAP is gone without our doing.
    pub(super) fn port_died(&self, port: PortId) {
        let seen = self.snapshot();
        let mut wired = seen.local.endpoints().filter_map(|e| Some((e, e.wire.as_ref()?)));
        let Some((endpoint, wire)) = wired.find(|(_, wire)| wire.port == port) else { return };
        let Some(container) = seen.local.container(&endpoint.container) else { return };
        let problem = if container.docker().is_some() { Problem::Lost } else { Problem::Deleted };
        self.shared.note_port(container, &wire.interface_name(), port, Some(problem));
    }

    /// Once a second, so that a container that goes on deleting an interface gets it as often and not more.
    pub(super) fn look_after_ports(&self) {
        for port in self.shared.dataplane.find_dead() {
            // What is known already is not told again.
            self.port_died(port);
        }
        let seen = self.snapshot();
        let settings = self.shared.settings();
        let problems: Vec<_> = self.shared.port_problems.lock().iter().map(|(p, what)| (*p, *what)).collect();
        let known: BTreeMap<PortId, _> = match problems.is_empty() {
            true => BTreeMap::new(),
            false => seen.local.endpoints().filter_map(|e| Some((e.wire.as_ref()?.port, e))).collect(),
        };
        for (port, problem) in problems {
            let endpoint = known.get(&port).filter(|endpoint| seen.view().wire(endpoint).is_some());
            let Some(endpoint) = endpoint else {
                self.shared.port_problems.clear(port);
                continue;
            };
            if problem == Problem::Deleted
                && let Some(attach) = plan::attach_again(seen.view(), &endpoint.id, port, &settings)
            {
                let is_same = |work: &HostWork| matches!(work, HostWork::Renew(other) if other.port == port);
                let id = (endpoint.container, Part::Interfaces);
                self.lanes.push_once(id, HostWork::Renew(attach), is_same);
            }
        }
        for container in self.next_looked_at() {
            self.lanes.push_once((container, Part::Interfaces), HostWork::Look, HostWork::is_look);
        }
    }

    /// Containers with interfaces, some at a time and all in turn.
    fn next_looked_at(&self) -> Vec<ContainerId> {
        let state = self.state();
        let has_interfaces = |c: &&Container| c.phase == Phase::Running && !c.attachments.is_empty();
        let all: BTreeSet<ContainerId> = state.containers().filter(has_interfaces).map(|c| c.id).collect();
        let mut last = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let after = all.iter().filter(|id| last.is_none_or(|last| **id > last));
        let before = all.iter().filter(|id| last.is_some_and(|last| **id <= last));
        let next: Vec<ContainerId> = after.chain(before).take(LOOKED_AT).copied().collect();
        *last = next.last().copied();
        next
    }
}

/// Which container's interfaces were looked at last.
pub type LookedAt = Arc<Mutex<Option<ContainerId>>>;
