//! From node to node: mutual TLS, one connection per pair and direction, bounded queues.
//!
//! # Theory of operation
//! A node connects to another when it has something to say, and keeps the connection while it is used. What it sends
//! there are messages of the group, which are not answered, and calls, which are. Each side shows every second that it
//! is there; a connection that is silent for [`PATIENCE`] is given up and made anew, after a pause that doubles from 50 ms to 1 s. A snapshot travels on a connection of its own, so that
//! heartbeats do not wait behind it.
//!
//! Queues are bounded. A message of the group that finds its queue full is dropped and counted: the protocol repeats
//! itself. A call that finds it full fails at once.
//!
//! # Who may talk
//! Verification by TLS says which node of this cluster is at the other end. One that was removed is refused, with the
//! reason, when it connects and on every later frame. Somebody without a certificate may ask to join, in one frame
//! of bounded size. Until a connection is past its introduction it counts against [`PENDING_MAX`] in all and
//! [`PENDING_PER_HOST_MAX`] of one address, and has [`INTRODUCTION`] for all of it.
//!
//! # Addresses
//! The state says where nodes are. A node that connects says where it listens at present, which is tried first: it
//! may have moved while there was no quorum to write that down. Nodes tell each other on request where others have said
//! to be, so that two that moved find each other by a third one.
//!
//! Modules in reading order: `frame`, `wire`, `tls`, `dial` (connecting), `lane` (a connection that was made, from the
//! side that made it), `listen` (from the other side).
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::{Body, Message};

mod complaints;
mod dial;
pub mod frame;
mod lane;
mod listen;
mod meet;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod wire;

use super::role::Sender;
use super::runs::{Reached, Run, Runs};
use complaints::Complaints;
pub(super) use dial::utc;
pub use dial::{LinkError, OutOfTime, join};
use lane::Item;
use tls::Credentials;
use wire::{Card, Refusal, Request, Response};

/// Silence after which the other side is taken for gone.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// From accepting a connection to the end of its introduction, and the same for the other side.
pub const INTRODUCTION: Duration = Duration::from_secs(5);
/// Connections that are not introduced yet.
pub const PENDING_MAX: usize = 256;
pub const PENDING_PER_HOST_MAX: usize = 32;
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// An unused connection is closed after this.
const IDLE: Duration = Duration::from_secs(30);
/// Messages and calls that wait for one node.
const QUEUE_MAX: usize = 1024;
/// Calls of one connection that are being answered.
const CALLS_MAX: usize = 1024;

/// What the transport asks of whoever uses it.
pub trait Serve: Send + Sync + 'static {
    /// Whether the node is spoken with.
    fn admit(&self, node: NodeId) -> Result<(), Refusal>;

    fn receive(&self, from: Sender, message: Message);

    fn answer(&self, caller: Caller, request: Request) -> impl Future<Output = Response> + Send;

    /// How far the node has got, by what it acknowledged to this one.
    fn acknowledged(&self, node: NodeId) -> Option<Reached>;

    /// A second run of the node, or one that has forgotten something, was refused.
    fn turned_away(&self, node: NodeId, at: SocketAddr, refusal: &Refusal);

    /// Another node refuses this one.
    fn refused(&self, by: NodeId, refusal: Refusal);

    /// A message could not be delivered.
    fn unreachable(&self, node: NodeId);

    /// A connection to the node was made.
    fn connected(&self, node: NodeId);

    /// No connection to the node could be made.
    fn not_connected(&self, node: NodeId, error: &LinkError);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Node(NodeId),
    /// Without a certificate.
    Joiner(SocketAddr),
    /// A node that only asked who is here.
    Passing,
}

/// Since the start; only ever rising.
#[derive(Debug, Default)]
pub struct Counters {
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// Messages of the group that found a queue full or no connection.
    pub dropped: AtomicU64,
    /// Frames and introductions that made no sense.
    pub malformed: AtomicU64,
    /// Connections that were turned away: no certificate of this cluster, removed, another version, too many.
    pub refused: AtomicU64,
    pub connected: AtomicU64,
    pub connect_failed: AtomicU64,
}

/// Why a call has no answer. It may have been carried out all the same, except when it was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("node {} is not known here", .0.0)]
    Unknown(NodeId),
    #[error("too much is waiting for node {}: try again in a moment", .0.0)]
    Full(NodeId),
    #[error("node {} cannot be reached: {reason}", .node.0)]
    Unreachable { node: NodeId, reason: String },
    #[error("node {} did not answer in time", .0.0)]
    TimedOut(NodeId),
    #[error("node {} runs an older version, which does not know the question: update it", .0.0)]
    Older(NodeId),
    #[error("the cluster of this node was stopped")]
    Stopped,
}

/// The network side of a node. Clones are the same one.
pub struct Transport<S>(Arc<Shared<S>>);

impl<S> Clone for Transport<S> {
    fn clone(&self) -> Transport<S> {
        Transport(self.0.clone())
    }
}

pub(super) struct Shared<S> {
    serve: Arc<S>,
    /// Told to others.
    advertised: SocketAddr,
    /// This start of the node.
    run: Run,
    runs: Mutex<Runs>,
    /// That this node votes, see [`proof`](super::proof); empty without.
    proof: RwLock<Vec<u8>>,
    credentials: RwLock<Credentials>,
    /// Changes when connections have to be made again.
    renewals: watch::Sender<()>,
    book: Mutex<Book>,
    peers: Mutex<HashMap<NodeId, Peer>>,
    counters: Counters,
    complaints: Complaints,
    /// Closed to stop everything.
    stop: watch::Receiver<()>,
    /// Held by everything that runs.
    alive: mpsc::WeakSender<()>,
}

#[derive(Default)]
struct Book {
    /// By the state.
    known: HashMap<NodeId, SocketAddr>,
    /// By the nodes themselves, where it differs.
    told: HashMap<NodeId, SocketAddr>,
    /// By other nodes, of those that have told them.
    heard: HashMap<NodeId, SocketAddr>,
    /// Where some node or other might be.
    hints: Vec<SocketAddr>,
}

#[derive(Clone)]
struct Peer {
    stream: mpsc::Sender<Item>,
    bulk: mpsc::Sender<Item>,
}

/// Keeps a transport going; dropped, everything of it ends.
#[must_use]
pub struct Running {
    stop: watch::Sender<()>,
    alive: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
}

impl Running {
    /// Afterwards nothing listens any more.
    pub async fn stop(self) {
        let Running { stop, alive, mut ended } = self;
        drop((stop, alive));
        // Nothing is ever sent: this ends when the last one is gone.
        _ = ended.recv().await;
    }
}

impl<S: Serve> Transport<S> {
    /// Answers on `listener`, as the node that `credentials` name, reached by others at `advertised`.
    pub fn start(
        listener: TcpListener,
        advertised: SocketAddr,
        credentials: Credentials,
        run: Run,
        serve: Arc<S>,
    ) -> (Transport<S>, Running) {
        let (sender, stop) = watch::channel(());
        let (alive, ended) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            serve,
            advertised,
            run,
            runs: Mutex::default(),
            proof: RwLock::default(),
            credentials: RwLock::new(credentials),
            renewals: watch::Sender::new(()),
            book: Mutex::default(),
            peers: Mutex::default(),
            counters: Counters::default(),
            complaints: Complaints::default(),
            stop,
            alive: alive.downgrade(),
        });
        shared.spawn(listen::run(shared.clone(), listener));
        (Transport(shared), Running { stop: sender, alive, ended })
    }

    /// Sends a message of the group, sooner or later or not at all.
    pub fn send(&self, message: Message) {
        let node = message.to;
        let is_bulk = matches!(message.body, Body::Snapshot(_));
        let peer = self.0.peer(node);
        let lane = if is_bulk { peer.bulk } else { peer.stream };
        if lane.try_send(Item::Message(message.encode())).is_err() {
            self.0.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub async fn call(
        &self,
        node: NodeId,
        request: Request,
        patience: Duration,
    ) -> Result<Response, CallError> {
        if self.0.addresses(node).is_empty() {
            return Err(CallError::Unknown(node));
        }
        let (sender, answer) = oneshot::channel();
        let item = Item::Call { request, answer: sender };
        self.0.peer(node).stream.try_send(item).map_err(|_| CallError::Full(node))?;
        match timeout(patience, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(CallError::Stopped),
            Err(_) => Err(CallError::TimedOut(node)),
        }
    }

    /// Where nodes are, by the state.
    pub fn set_addresses(&self, known: HashMap<NodeId, SocketAddr>) {
        let mut book = self.0.book();
        let Book { known: before, told, .. } = &mut *book;
        // What the state learned since is newer than what the node told.
        told.retain(|node, _| known.get(node) == before.get(node));
        *before = known;
    }

    /// Ends connections to nodes that are gone for good.
    pub fn forget(&self, gone: impl Fn(NodeId) -> bool) {
        lock(&self.0.peers).retain(|node, _| !gone(*node));
        let mut book = self.0.book();
        book.told.retain(|node, _| !gone(*node));
        book.heard.retain(|node, _| !gone(*node));
        lock(&self.0.runs).forget(gone);
    }

    /// Shows from now on that this node votes. If it could not before, connections are made anew, so that nodes that do
    /// not know that it votes learn it.
    pub fn set_proof(&self, proof: Vec<u8>) {
        let shown = !proof.is_empty();
        let before =
            std::mem::replace(&mut *self.0.proof.write().unwrap_or_else(PoisonError::into_inner), proof);
        if before.is_empty() && shown {
            self.reconnect();
        }
    }

    /// Where nodes have told this one that they are, if the state says otherwise.
    pub fn told(&self) -> Vec<(NodeId, SocketAddr)> {
        self.0.book().told.iter().map(|(node, address)| (*node, *address)).collect()
    }

    /// Where another node says that it has found others. Tried where the addresses of the state do not answer; whoever
    /// does answer has to prove which node it is.
    pub fn note_heard(&self, whereabouts: Vec<(NodeId, SocketAddr)>) {
        let mut book = self.0.book();
        for (node, address) in whereabouts {
            let is_news = book.known.contains_key(&node)
                && book.known.get(&node) != Some(&address)
                && !address.ip().is_unspecified()
                && address.port() != 0;
            if is_news {
                book.heard.insert(node, address);
            }
        }
    }

    /// Addresses at which some node of the cluster may answer: tried last.
    pub fn set_hints(&self, hints: Vec<SocketAddr>) {
        self.0.book().hints = hints;
    }

    /// For connections from now on.
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.0.credentials.write().unwrap_or_else(PoisonError::into_inner) = credentials;
    }

    /// Ends all connections, so that they are made again with the credentials of now, on both sides: when somebody
    /// is trusted no more.
    pub fn reconnect(&self) {
        self.0.renewals.send_replace(());
    }

    pub fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.0.addresses(node).first().copied()
    }

    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }
}

impl<S: Serve> Shared<S> {
    fn credentials(&self) -> Credentials {
        self.credentials.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    /// In the order in which they are to be tried.
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        let book = self.book();
        let mut addresses: Vec<SocketAddr> =
            [book.told.get(&node), book.known.get(&node)].into_iter().flatten().copied().collect();
        addresses.dedup();
        addresses
    }

    /// Where the node may be, if it is not at its addresses.
    fn guesses(&self, node: NodeId) -> Vec<SocketAddr> {
        let addresses = self.addresses(node);
        let book = self.book();
        let mut guesses: Vec<SocketAddr> =
            book.heard.get(&node).into_iter().chain(&book.hints).copied().collect();
        guesses.retain(|guess| !addresses.contains(guess) && *guess != self.advertised);
        guesses
    }

    /// What this node shows of itself.
    fn card(&self) -> Card {
        let identity = self.credentials().identity;
        Card {
            cluster: identity.cluster,
            incarnation: identity.incarnation,
            address: self.advertised,
            run: self.run,
            proof: self.proof.read().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// A node that proved who it is says where it listens.
    fn note_address(&self, node: NodeId, address: SocketAddr) {
        let mut book = self.book();
        if address.ip().is_unspecified() || address.port() == 0 || book.known.get(&node) == Some(&address) {
            book.told.remove(&node);
        } else {
            book.told.insert(node, address);
        }
    }

    fn peer(self: &Arc<Shared<S>>, node: NodeId) -> Peer {
        let mut peers = lock(&self.peers);
        let peer = peers.entry(node).or_insert_with(|| {
            let (stream, stream_items) = mpsc::channel(QUEUE_MAX);
            let (bulk, bulk_items) = mpsc::channel(1);
            self.spawn(lane::run(self.clone(), node, stream_items));
            self.spawn(lane::run(self.clone(), node, bulk_items));
            Peer { stream, bulk }
        });
        peer.clone()
    }

    /// Runs until done or stopped.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Some(alive) = self.alive.upgrade() else { return };
        let mut stop = self.stop.clone();
        tokio::spawn(async move {
            let _alive = alive;
            tokio::select! {
                () = work => {}
                // An error is what is waited for: the sender is gone.
                _ = stop.changed() => {}
            }
        });
    }
}

/// Hosts with connections that are not introduced yet, and how many.
#[derive(Default)]
struct Pending {
    hosts: HashMap<std::net::IpAddr, usize>,
    all: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
