//! One connection to one node, from the side that makes it: made when there is something to send, made again when it
//! breaks.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng as _;
use tokio::io::{AsyncRead, AsyncWrite, BufWriter};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use vswitch_proto::id::NodeId;

use super::dial::{self, Link, LinkError};
use super::frame::{self, FrameError};
use super::meet::{Open, meet_answering};
use super::wire::{Down, FRAME_BYTES_MAX, Refusal, Request, Response, Up, decode, encode};
use super::{ALIVE_INTERVAL, BACKOFF_MAX, BACKOFF_MIN, CallError, IDLE, PATIENCE, Serve, Shared, lock};

pub(super) enum Item {
    /// An encoded message of the group.
    Message(Vec<u8>),
    Call {
        request: Request,
        answer: oneshot::Sender<Result<Response, CallError>>,
    },
}

/// Sent and not answered yet.
type Waiting = Mutex<HashMap<u64, oneshot::Sender<Result<Response, CallError>>>>;

enum End {
    Broken(FrameError),
    Malformed,
    Refused(Refusal),
    Idle,
    /// To be made again, with what this node proves itself with now.
    Renewed,
    /// The node is gone for good.
    Forgotten,
}

/// Until the queue is closed.
pub(super) async fn run<S: Serve>(shared: Arc<Shared<S>>, node: NodeId, mut items: mpsc::Receiver<Item>) {
    let mut backoff = BACKOFF_MIN;
    while let Some(first) = items.recv().await {
        // From before the credentials are read.
        let renewals = shared.renewals.subscribe();
        match connect(&shared, node).await {
            Ok(link) => {
                shared.counters.connected.fetch_add(1, Ordering::Relaxed);
                shared.serve.connected(node);
                let connected = Instant::now();
                let end = serve_connection(&shared, node, Made { link, first, renewals }, &mut items).await;
                if matches!(end, End::Forgotten) {
                    return;
                }
                if connected.elapsed() > BACKOFF_MAX {
                    backoff = BACKOFF_MIN;
                }
                if !matches!(end, End::Idle | End::Renewed) {
                    note_end(&shared, node, end);
                    pause(&mut backoff).await;
                }
            }
            Err(error) => {
                shared.counters.connect_failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(node = node.0, "no connection: {error}");
                let reason = error.to_string();
                shared.serve.not_connected(node, &error);
                match error {
                    LinkError::Refused { refusal, .. } => shared.serve.refused(node, refusal),
                    LinkError::Distrusted(_) => shared.serve.refused(node, Refusal::Distrusted),
                    _ => {}
                }
                drop_item(&shared, node, first, &reason);
                while let Ok(item) = items.try_recv() {
                    drop_item(&shared, node, item, &reason);
                }
                shared.serve.unreachable(node);
                pause(&mut backoff).await;
            }
        }
    }
}

fn note_end<S: Serve>(shared: &Shared<S>, node: NodeId, end: End) {
    match end {
        End::Refused(refusal) => shared.serve.refused(node, refusal),
        End::Malformed => {
            shared.counters.malformed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                node = node.0,
                "the node answers what makes no sense: run the same version on both"
            );
        }
        End::Broken(error) => tracing::debug!(node = node.0, "the connection ended: {error}"),
        End::Idle | End::Renewed | End::Forgotten => return,
    }
    shared.serve.unreachable(node);
}

async fn pause(backoff: &mut Duration) {
    let jitter = rand::rng().random_range(0.5..1.0);
    sleep(backoff.mul_f64(jitter)).await;
    *backoff = (*backoff * 2).min(BACKOFF_MAX);
}

fn drop_item<S: Serve>(shared: &Shared<S>, node: NodeId, item: Item, reason: &str) {
    match item {
        Item::Message(_) => _ = shared.counters.dropped.fetch_add(1, Ordering::Relaxed),
        // Whoever asked may have given up.
        Item::Call { answer, .. } => {
            _ = answer.send(Err(CallError::Unreachable { node, reason: reason.into() }));
        }
    }
}

async fn connect<S: Serve>(shared: &Arc<Shared<S>>, node: NodeId) -> Result<Link, LinkError> {
    let mut last = None;
    // Those by which it is known, and then, all at once, where it might be.
    for addresses in [shared.addresses(node), shared.guesses(node)] {
        let mut dialled = JoinSet::new();
        for address in addresses {
            let (credentials, card) = (shared.credentials(), shared.card());
            dialled.spawn(async move { dial::to_node(address, node, &credentials, card).await });
        }
        while let Some(outcome) = dialled.join_next().await {
            match outcome {
                Ok(Ok(link)) => return take(shared, node, link),
                // A refusal says more than silence.
                Ok(Err(error)) if !matches!(last, Some(LinkError::Refused { .. })) => last = Some(error),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }
    let nowhere = std::io::Error::new(std::io::ErrorKind::AddrNotAvailable, "its address is not known yet");
    Err(last.unwrap_or_else(|| LinkError::Connect { address: shared.advertised, source: nowhere }))
}

/// Whoever answers at an address of the node has to be its present run.
fn take<S: Serve>(shared: &Arc<Shared<S>>, node: NodeId, link: Link) -> Result<Link, LinkError> {
    if let Some(run) = link.run {
        meet_answering(shared, node, run, link.address).map_err(|refusal| {
            shared.serve.turned_away(node, link.address, &refusal);
            LinkError::Copied { address: link.address, refusal }
        })?;
    }
    Ok(link)
}

/// A connection that was made, and the first of what goes over it.
struct Made {
    link: Link,
    first: Item,
    renewals: watch::Receiver<()>,
}

async fn serve_connection<S: Serve>(
    shared: &Arc<Shared<S>>,
    node: NodeId,
    made: Made,
    items: &mut mpsc::Receiver<Item>,
) -> End {
    let Made { link: Link { stream, is_current, run, .. }, first, mut renewals } = made;
    let _open = run.map(|run| Open::new(shared, node, &run));
    let waiting = Waiting::default();
    let (reader, writer) = tokio::io::split(stream);
    let outgoing = Outgoing { node, is_current, waiting: &waiting, next_call: 0 };
    let end = tokio::select! {
        end = read(reader, &waiting) => end,
        // An error would say that the transport is gone, and this task with it.
        _ = renewals.changed() => End::Renewed,
        end = write(shared, writer, outgoing, first, items) => end,
    };
    let reason = match &end {
        End::Refused(refusal) => refusal.to_string(),
        _ => "the connection broke".into(),
    };
    for (_, answer) in lock(&waiting).drain() {
        _ = answer.send(Err(CallError::Unreachable { node, reason: reason.clone() }));
    }
    end
}

async fn read(mut reader: impl AsyncRead + Unpin, waiting: &Waiting) -> End {
    loop {
        let bytes = match frame::read(&mut reader, FRAME_BYTES_MAX, PATIENCE).await {
            Ok(bytes) => bytes,
            Err(error) => return End::Broken(error),
        };
        match decode(&bytes) {
            Some(Up::Alive) => {}
            Some(Up::Answer { id, response }) => {
                if let Some(answer) = lock(waiting).remove(&id) {
                    _ = answer.send(Ok(response));
                }
            }
            Some(Up::Refused(refusal)) => return End::Refused(refusal),
            None => return End::Malformed,
        }
    }
}

async fn write<S: Serve>(
    shared: &Shared<S>,
    writer: impl AsyncWrite + Unpin,
    mut outgoing: Outgoing<'_>,
    first: Item,
    items: &mut mpsc::Receiver<Item>,
) -> End {
    let mut writer = BufWriter::new(writer);
    let mut beats = interval(ALIVE_INTERVAL);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut used = Instant::now();
    let mut next = Some(first);
    loop {
        let written = async {
            // All that is there goes out together.
            while let Some(item) = next.take().or_else(|| items.try_recv().ok()) {
                let Some(bytes) = outgoing.prepare(item) else { continue };
                frame::write(&mut writer, &bytes).await?;
                shared.counters.sent.fetch_add(1, Ordering::Relaxed);
                used = Instant::now();
            }
            frame::flush(&mut writer).await
        };
        if let Err(error) = written.await {
            return End::Broken(error);
        }
        tokio::select! {
            item = items.recv() => match item {
                Some(item) => next = Some(item),
                None => return End::Forgotten,
            },
            _ = beats.tick() => {
                lock(outgoing.waiting).retain(|_, answer| !answer.is_closed());
                if used.elapsed() > IDLE && lock(outgoing.waiting).is_empty() {
                    return End::Idle;
                }
                if let Err(error) = frame::write(&mut writer, &encode(&Down::Alive)).await {
                    return End::Broken(error);
                }
            }
        }
    }
}

/// What is known of a connection by whoever writes to it.
struct Outgoing<'a> {
    node: NodeId,
    is_current: bool,
    waiting: &'a Waiting,
    next_call: u64,
}

impl Outgoing<'_> {
    /// The frame to write; none for a call that an older node would not understand, which is answered here.
    fn prepare(&mut self, item: Item) -> Option<Vec<u8>> {
        match item {
            Item::Message(bytes) => Some(encode(&Down::Group(bytes))),
            Item::Call { request, answer } if !self.is_current && !request.is_known_to_all() => {
                // Whoever asked may have given up.
                _ = answer.send(Err(CallError::Older(self.node)));
                None
            }
            Item::Call { request, answer } => {
                let id = self.next_call;
                self.next_call += 1;
                lock(self.waiting).insert(id, answer);
                Some(encode(&Down::Call { id, request }))
            }
        }
    }
}
