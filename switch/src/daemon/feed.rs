//! The event stream: every change in the order it was applied, kept for a while for those who reconnect.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use vswitch_proto::api::Event;
use vswitch_proto::command::{Command, DockerChange};
use vswitch_proto::id::{ContainerId, NetworkId};

use crate::state::shared::Node;
use crate::state::{Network, Shared, View};

/// Events kept for clients that reconnect.
pub const KEPT_MAX: usize = 4096;

/// A client that is this many events behind is disconnected; it may come back with `Last-Event-ID`.
pub const BEHIND_MAX: usize = 1024;

/// One writer (the control loop), any number of readers.
pub struct Feed {
    inner: Mutex<Inner>,
}

struct Inner {
    kept: VecDeque<Event>,
    next_seq: u64,
    readers: Vec<mpsc::Sender<Event>>,
}

/// A change without its position in the stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: &'static str,
    pub action: &'static str,
    pub id: String,
    pub name: String,
    pub attributes: BTreeMap<String, String>,
}

impl Feed {
    /// Sequence numbers begin with the clock, so that one from an earlier daemon is recognised as old.
    pub fn new(now_ms: u64) -> Feed {
        let inner = Inner { kept: VecDeque::new(), next_seq: now_ms << 10, readers: Vec::new() };
        Feed { inner: Mutex::new(inner) }
    }

    pub fn publish(&self, at_ms: u64, changes: Vec<Change>) {
        let mut inner = self.lock();
        for change in changes {
            let Change { kind, action, id, name, attributes } = change;
            let seq = inner.next_seq;
            let event = Event { seq, at_ms, kind: kind.into(), action: action.into(), id, name, attributes };
            inner.next_seq += 1;
            inner.readers.retain(|reader| reader.try_send(event.clone()).is_ok());
            if inner.kept.len() == KEPT_MAX {
                inner.kept.pop_front();
            }
            inner.kept.push_back(event);
        }
    }

    /// Everything from now on, and before that what came after the event `after`. If that is no longer kept, the
    /// first event is `resync`: look at the whole state again.
    pub fn subscribe(&self, after: Option<u64>) -> mpsc::Receiver<Event> {
        let mut inner = self.lock();
        let first_kept = inner.kept.front().map_or(inner.next_seq, |event| event.seq);
        let missed = |after: u64| after + 1 < first_kept || after >= inner.next_seq;
        let mut backlog: Vec<Event> = Vec::new();
        match after {
            Some(after) if missed(after) => backlog.push(resync(inner.next_seq - 1)),
            Some(after) => backlog.extend(inner.kept.iter().filter(|event| event.seq > after).cloned()),
            None => {}
        }
        let (sender, receiver) = mpsc::channel(backlog.len() + BEHIND_MAX);
        for event in backlog {
            sender.try_send(event).expect("the channel was made long enough for the backlog");
        }
        inner.readers.retain(|reader| !reader.is_closed());
        inner.readers.push(sender);
        receiver
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn resync(seq: u64) -> Event {
    Event {
        seq,
        at_ms: 0,
        kind: "stream".into(),
        action: "resync".into(),
        id: String::new(),
        name: String::new(),
        attributes: BTreeMap::new(),
    }
}

/// What a command changed, told by the states before and after it.
pub fn changes(command: &Command, old: View<'_>, new: View<'_>) -> Vec<Change> {
    match command {
        Command::CreateNetwork(create) => vec![network(new, &create.id, "create", None)],
        Command::RemoveNetwork { network: id } => vec![network(old, id, "destroy", None)],
        Command::CreateContainer(create) => {
            let mut changes = vec![container(new, &create.id, "create", BTreeMap::new())];
            changes.extend(links(new, &create.id, "connect"));
            changes
        }
        Command::StartContainer { container: id, .. } => {
            let mut changes = Vec::new();
            if old.local.endpoints_of(id).next().is_none() {
                changes.extend(links(new, id, "connect"));
            }
            changes.push(container(new, id, "start", BTreeMap::new()));
            changes
        }
        Command::ContainerExited { container: id, exit_code, .. } => {
            let mut changes = links(old, id, "disconnect");
            let attributes = BTreeMap::from([("exitCode".to_owned(), exit_code.to_string())]);
            changes.push(container(new, id, "die", attributes));
            changes
        }
        Command::RemoveContainer { container: id } => {
            let mut changes = links(old, id, "disconnect");
            changes.push(container(old, id, "destroy", BTreeMap::new()));
            changes
        }
        Command::Connect { container, attachment, .. } => {
            vec![network(new, &attachment.network, "connect", Some(container))]
        }
        Command::Disconnect { container, network: id } => {
            vec![network(old, id, "disconnect", Some(container))]
        }
        Command::Docker(change) => docker(change, old, new),
    }
}

fn docker(change: &DockerChange, old: View<'_>, new: View<'_>) -> Vec<Change> {
    match change {
        DockerChange::AddNetwork { local: Some(create), .. } => {
            vec![network(new, &create.id, "create", None)]
        }
        DockerChange::RemoveNetwork { network: id } if old.local.belongs_to_docker(id) => {
            vec![network(old, id, "destroy", None)]
        }
        DockerChange::NameNetwork { network: id, .. } => vec![network(new, id, "rename", None)],
        DockerChange::Join { endpoint, .. } => links(new, endpoint, "connect"),
        DockerChange::Leave { endpoint } => links(old, endpoint, "disconnect"),
        DockerChange::Describe { endpoint, .. } => {
            vec![container(new, endpoint, "rename", BTreeMap::new())]
        }
        _ => Vec::new(),
    }
}

/// What happened to the cluster's networks and nodes. What happens to a container is told where it runs.
pub fn shared_changes(old: &Shared, new: &Shared) -> Vec<Change> {
    let network = |network: &Network, action| Change {
        kind: "network",
        action,
        id: network.id.to_string(),
        name: network.name.to_string(),
        attributes: BTreeMap::new(),
    };
    let node = |node: &Node, action| Change {
        kind: "node",
        action,
        id: node.id.0.to_string(),
        name: node.info.name.to_string(),
        attributes: BTreeMap::new(),
    };
    let mut changes: Vec<Change> =
        old.networks().filter(|n| new.network(&n.id).is_none()).map(|n| network(n, "destroy")).collect();
    changes.extend(new.networks().filter(|n| old.network(&n.id).is_none()).map(|n| network(n, "create")));
    if !new.shares_nodes(old) {
        changes.extend(old.nodes().filter(|n| new.node(n.id).is_none()).map(|n| node(n, "remove")));
        changes.extend(new.nodes().filter_map(|n| match old.node(n.id) {
            None => Some(node(n, "create")),
            Some(before) if before != n => Some(node(n, "update")),
            Some(_) => None,
        }));
    }
    changes
}

fn network(view: View<'_>, id: &NetworkId, action: &'static str, container: Option<&ContainerId>) -> Change {
    let name = view.network(id).map(|network| network.name.to_string()).unwrap_or_default();
    let attributes = container.map(|id| ("container".to_owned(), id.to_string())).into_iter().collect();
    Change { kind: "network", action, id: id.to_string(), name, attributes }
}

fn container(
    view: View<'_>,
    id: &ContainerId,
    action: &'static str,
    attributes: BTreeMap<String, String>,
) -> Change {
    let name = view.local.container(id).map(|container| container.name.to_string()).unwrap_or_default();
    Change { kind: "container", action, id: id.to_string(), name, attributes }
}

fn links(view: View<'_>, id: &ContainerId, action: &'static str) -> Vec<Change> {
    view.local.endpoints_of(id).map(|endpoint| network(view, &endpoint.network, action, Some(id))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(id: u32) -> Change {
        Change {
            kind: "network",
            action: "create",
            id: id.to_string(),
            name: String::new(),
            attributes: BTreeMap::new(),
        }
    }

    fn drain(receiver: &mut mpsc::Receiver<Event>) -> Vec<String> {
        std::iter::from_fn(|| receiver.try_recv().ok()).map(|e| format!("{}{}", e.action, e.id)).collect()
    }

    #[test]
    fn a_reader_that_comes_back_misses_nothing() {
        let feed = Feed::new(1);
        let mut reader = feed.subscribe(None);
        feed.publish(0, vec![change(1), change(2)]);
        let first = reader.try_recv().unwrap();
        assert_eq!(first.id, "1");
        drop(reader);
        feed.publish(0, vec![change(3)]);
        assert_eq!(drain(&mut feed.subscribe(Some(first.seq))), ["create2", "create3"]);
        assert_eq!(drain(&mut feed.subscribe(None)), [""; 0]);
    }

    #[test]
    fn a_gap_is_told() {
        let feed = Feed::new(1);
        feed.publish(0, (0..KEPT_MAX as u32 + 5).map(change).collect());
        // From an earlier daemon, dropped meanwhile, or from the future.
        for after in [7, (1 << 10) + 2, 1 << 40] {
            assert_eq!(drain(&mut feed.subscribe(Some(after))), ["resync"], "{after}");
        }
    }

    #[test]
    fn a_slow_reader_is_cut_off() {
        let feed = Feed::new(1);
        let mut reader = feed.subscribe(None);
        feed.publish(0, (0..BEHIND_MAX as u32 + 1).map(change).collect());
        assert_eq!(drain(&mut reader).len(), BEHIND_MAX);
        assert!(matches!(reader.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    }
}
