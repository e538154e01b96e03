//! The event stream: every change in the order it was applied, kept for a while for those who reconnect.
//!
//! Events are kept once, as they are sent; a reader is a position among them. So a reader costs nothing but its
//! position, however far it is behind. One that is so far behind that its next event is not kept any more is told so, and
//! its stream ends.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use vswitch_proto::api::Event;
use vswitch_proto::command::{Command, DockerChange};
use vswitch_proto::id::{ContainerId, NetworkId};

use crate::state::shared::Node;
use crate::state::{Network, Shared, View};

/// Events kept for clients that reconnect or read slowly.
pub const KEPT_MAX: usize = 4096;

/// One writer at a time, any number of readers.
pub struct Feed {
    ring: Arc<Ring>,
}

struct Ring {
    inner: Mutex<Inner>,
    /// The position of the next event.
    next: watch::Sender<u64>,
}

struct Inner {
    kept: VecDeque<Arc<Event>>,
    next_seq: u64,
}

/// A position in the stream. It ends for one that was too slow; the last event says so.
pub struct Reader {
    ring: Arc<Ring>,
    /// What is told before anything else.
    first: Option<Event>,
    /// The event that comes next. `None` after the end.
    at: Option<u64>,
    changes: WatchStream<u64>,
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
        let next_seq = now_ms << 10;
        let inner = Mutex::new(Inner { kept: VecDeque::new(), next_seq });
        Feed { ring: Arc::new(Ring { inner, next: watch::Sender::new(next_seq) }) }
    }

    pub fn publish(&self, at_ms: u64, changes: Vec<Change>) {
        let mut inner = self.ring.lock();
        for change in changes {
            let Change { kind, action, id, name, attributes } = change;
            let seq = inner.next_seq;
            let event = Event { seq, at_ms, kind: kind.into(), action: action.into(), id, name, attributes };
            inner.next_seq += 1;
            if inner.kept.len() == KEPT_MAX {
                inner.kept.pop_front();
            }
            inner.kept.push_back(Arc::new(event));
        }
        self.ring.next.send_replace(inner.next_seq);
    }

    /// Everything from now on, and before that what came after the event `after`. If that is no longer kept, the
    /// first event is `resync`: look at the whole state again.
    pub fn subscribe(&self, after: Option<u64>) -> Reader {
        let inner = self.ring.lock();
        let (first_kept, next_seq) = (inner.first_kept(), inner.next_seq);
        let missed = |after: u64| after + 1 < first_kept || after >= next_seq;
        let (first, at) = match after {
            Some(after) if missed(after) => (Some(of_stream("resync", next_seq - 1)), next_seq),
            Some(after) => (None, after + 1),
            None => (None, next_seq),
        };
        let changes = WatchStream::from_changes(self.ring.next.subscribe());
        Reader { ring: Arc::clone(&self.ring), first, at: Some(at), changes }
    }
}

impl Ring {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn first_kept(&self) -> u64 {
        self.next_seq - self.kept.len() as u64
    }
}

impl Reader {
    /// `Some(None)`: there is none so far.
    fn try_next(&mut self) -> Option<Option<Arc<Event>>> {
        if let Some(first) = self.first.take() {
            return Some(Some(Arc::new(first)));
        }
        let at = self.at?;
        let inner = self.ring.lock();
        let Some(ahead) = at.checked_sub(inner.first_kept()) else {
            self.at = None;
            return Some(Some(Arc::new(of_stream("drop", at - 1))));
        };
        let event = inner.kept.get(ahead as usize).map(Arc::clone);
        self.at = Some(at + u64::from(event.is_some()));
        Some(event)
    }
}

impl Stream for Reader {
    type Item = Arc<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Arc<Event>>> {
        loop {
            match self.try_next() {
                None => return Poll::Ready(None),
                Some(Some(event)) => return Poll::Ready(Some(event)),
                Some(None) => {}
            }
            match Pin::new(&mut self.changes).poll_next(cx) {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// `resync` or `drop`.
fn of_stream(action: &str, seq: u64) -> Event {
    Event {
        seq,
        at_ms: 0,
        kind: "stream".into(),
        action: action.into(),
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
        Command::StopByHand { .. } => Vec::new(),
        Command::RenameContainer { container: id, .. } => {
            let before = old.local.container(id).map(|container| container.name.to_string());
            let attributes = BTreeMap::from([("oldName".to_owned(), before.unwrap_or_default())]);
            vec![container(new, id, "rename", attributes)]
        }
        Command::UpdateContainer { container: id, .. } => {
            vec![container(new, id, "update", BTreeMap::new())]
        }
        Command::NoteNetwork { .. } | Command::NoteNamespace { .. } => Vec::new(),
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
    use tokio_stream::StreamExt;

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

    fn drain(reader: &mut Reader) -> Vec<String> {
        let next = || reader.try_next().flatten();
        std::iter::from_fn(next).map(|e| format!("{}{}", e.action, e.id)).collect()
    }

    #[tokio::test]
    async fn a_reader_that_comes_back_misses_nothing() {
        let feed = Feed::new(1);
        let mut reader = feed.subscribe(None);
        feed.publish(0, vec![change(1), change(2)]);
        let first = reader.next().await.unwrap();
        assert_eq!(first.id, "1");
        drop(reader);
        feed.publish(0, vec![change(3)]);
        assert_eq!(drain(&mut feed.subscribe(Some(first.seq))), ["create2", "create3"]);
        assert_eq!(drain(&mut feed.subscribe(None)), [""; 0]);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let feed = Feed::new(1);
        let mut readers = [feed.subscribe(None), feed.subscribe(None)];
        let [one, two] = &mut readers;
        let publish = async {
            tokio::task::yield_now().await;
            feed.publish(0, vec![change(1)]);
        };
        let (first, second, ()) = tokio::join!(one.next(), two.next(), publish);
        assert_eq!((first.unwrap().id.as_str(), second.unwrap().id.as_str()), ("1", "1"));
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
    fn a_slow_reader_is_told_and_cut_off() {
        let feed = Feed::new(1);
        let mut reader = feed.subscribe(None);
        feed.publish(0, (0..KEPT_MAX as u32).map(change).collect());
        assert_eq!(reader.try_next().flatten().unwrap().id, "0", "as long as it is kept");
        feed.publish(0, vec![change(1), change(2)]);
        let last = reader.try_next().flatten().unwrap();
        assert_eq!((last.kind.as_str(), last.action.as_str()), ("stream", "drop"));
        assert_eq!(reader.try_next(), None, "that was the end");
        // It may come back, and is told that it has missed something.
        assert_eq!(drain(&mut feed.subscribe(Some(last.seq))), ["resync"]);
    }
}
