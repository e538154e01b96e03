//! Connections that others make.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::Message;

use super::super::identity::{Identity, node_of};
use super::super::proof;
use super::super::role::Sender;
use super::super::runs::Run;
use super::frame::{self, FrameError};
use super::meet::{Open, meet};
use super::wire::{
    Denied, Down, FRAME_BYTES_MAX, HELLO_BYTES_MAX, Hello, Introduction, JOIN_BYTES_MAX, PROTOCOL, Refusal,
    Request, Response, Up, Verdict, decode, encode,
};
use super::{
    ALIVE_INTERVAL, CALLS_MAX, Caller, INTRODUCTION, PATIENCE, PENDING_MAX, PENDING_PER_HOST_MAX, Pending,
    QUEUE_MAX, Serve, Shared, lock,
};

/// When the process has no descriptor left, for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Makes guessing a token slow.
const JOIN_DELAY: Duration = Duration::from_millis(500);

pub(super) async fn run<S: Serve>(shared: Arc<Shared<S>>, listener: TcpListener) {
    let pending = Arc::new(Mutex::new(Pending::default()));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => match Place::take(&pending, from.ip()) {
                Some(place) => shared.spawn(connection(shared.clone(), stream, from, place)),
                None => _ = shared.counters.refused.fetch_add(1, Ordering::Relaxed),
            },
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!("cannot accept connections of other nodes: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Among the connections that are not introduced yet.
struct Place {
    pending: Arc<Mutex<Pending>>,
    host: IpAddr,
}

impl Place {
    fn take(pending: &Arc<Mutex<Pending>>, host: IpAddr) -> Option<Place> {
        let mut held = lock(pending);
        let of_host = held.hosts.get(&host).copied().unwrap_or(0);
        if held.all >= PENDING_MAX || of_host >= PENDING_PER_HOST_MAX {
            return None;
        }
        held.all += 1;
        held.hosts.insert(host, of_host + 1);
        Some(Place { pending: pending.clone(), host })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = lock(&self.pending);
        held.all -= 1;
        if let Some(of_host) = held.hosts.get_mut(&self.host) {
            *of_host -= 1;
            if *of_host == 0 {
                held.hosts.remove(&self.host);
            }
        }
    }
}

/// Why a connection came to nothing.
enum Failed {
    Frame(FrameError),
    Malformed,
    Refused(String),
}

impl From<FrameError> for Failed {
    fn from(error: FrameError) -> Failed {
        Failed::Frame(error)
    }
}

async fn connection<S: Serve>(shared: Arc<Shared<S>>, tcp: TcpStream, from: SocketAddr, place: Place) {
    // From before the credentials are read.
    let renewals = shared.renewals.subscribe();
    let introduced = timeout(INTRODUCTION, introduce(&shared, tcp, from));
    let outcome = match introduced.await.unwrap_or(Err(Failed::Frame(FrameError::Silent))) {
        Ok((stream, introduced)) => match introduced.caller {
            Caller::Node(node) => {
                drop(place);
                let sender = Sender { node, has_key: introduced.has_key };
                let open = introduced.run.map(|run| Open::new(&shared, node, &run));
                node_connection(&shared, stream, Peer { sender, open }, renewals).await
            }
            Caller::Joiner(_) => {
                let outcome = joiner_connection(&shared, stream, from).await;
                drop(place);
                outcome
            }
            Caller::Passing => {
                close(stream).await;
                Ok(())
            }
        },
        Err(failed) => Err(failed),
    };
    match outcome {
        Ok(()) => {}
        Err(Failed::Frame(error)) => tracing::debug!(%from, "a connection ended: {error}"),
        Err(Failed::Malformed) => {
            shared.counters.malformed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%from, "a connection ended: it sent what makes no sense");
        }
        Err(Failed::Refused(reason)) => {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            if shared.complaints.is_due(&format!("{} {reason}", from.ip())) {
                tracing::warn!(%from, "connections are refused: {reason}");
            }
        }
    }
}

/// Who is at the other end, once that is known.
struct Introduced {
    caller: Caller,
    /// Of a node that can say so.
    run: Option<Run>,
    /// It has shown that it votes.
    has_key: bool,
}

async fn introduce<S: Serve>(
    shared: &Arc<Shared<S>>,
    tcp: TcpStream,
    from: SocketAddr,
) -> Result<(TlsStream<TcpStream>, Introduced), Failed> {
    tcp.set_nodelay(true).map_err(FrameError::from)?;
    let credentials = shared.credentials();
    let accepted = TlsAcceptor::from(credentials.server).accept(tcp).await;
    let mut stream = accepted.map_err(|error| Failed::Refused(error.to_string()))?;
    let theirs = frame::read(&mut stream, HELLO_BYTES_MAX, INTRODUCTION).await?;
    let theirs = Hello::decode(&theirs).ok_or(Failed::Malformed)?;
    let ours = Hello::own();
    frame::write(&mut stream, &ours.encode()).await?;
    frame::flush(&mut stream).await?;
    if theirs.protocol != PROTOCOL {
        close(stream).await;
        return Err(Failed::Refused(format!(
            "it runs vswitchd {} with protocol {}, this is {} with protocol {}: run the same version on both",
            theirs.version, theirs.protocol, ours.version, ours.protocol
        )));
    }
    let introduction = frame::read(&mut stream, HELLO_BYTES_MAX, INTRODUCTION).await?;
    let introduction = decode(&introduction).ok_or(Failed::Malformed)?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let node = certificate.and_then(|der| node_of(der, credentials.identity.cluster));
    let judged = judge(shared, &credentials.identity, node, introduction, from).await;
    let verdict = match &judged {
        Ok(Introduced { run: Some(_), .. }) => Verdict::WelcomeBy(shared.run),
        Ok(_) => Verdict::Welcome,
        Err(refusal) => Verdict::Refused(refusal.clone()),
    };
    frame::write(&mut stream, &encode(&verdict)).await?;
    frame::flush(&mut stream).await?;
    match judged {
        Ok(introduced) => Ok((stream, introduced)),
        Err(refusal) => {
            close(stream).await;
            Err(Failed::Refused(refusal.to_string()))
        }
    }
}

/// The certificate decides who somebody is, the introduction only what it wants.
async fn judge<S: Serve>(
    shared: &Arc<Shared<S>>,
    identity: &Identity,
    node: Option<NodeId>,
    introduction: Introduction,
    from: SocketAddr,
) -> Result<Introduced, Refusal> {
    let (cluster, incarnation, address, card) = match introduction {
        Introduction::Node { cluster, incarnation, address } => (cluster, incarnation, address, None),
        Introduction::Member(card) => (card.cluster, card.incarnation, card.address, Some(card)),
        Introduction::Joiner => {
            return Ok(Introduced { caller: Caller::Joiner(from), run: None, has_key: false });
        }
        Introduction::Who => {
            node.ok_or(Refusal::NoCertificate)?;
            return Ok(Introduced { caller: Caller::Passing, run: Some(shared.run), has_key: false });
        }
    };
    let node = node.ok_or(Refusal::NoCertificate)?;
    if cluster != identity.cluster {
        return Err(Refusal::OtherCluster { ours: identity.cluster, theirs: cluster });
    }
    if incarnation != identity.incarnation {
        return Err(Refusal::Superseded);
    }
    shared.serve.admit(node)?;
    let Some(card) = card else {
        shared.note_address(node, address);
        return Ok(Introduced { caller: Caller::Node(node), run: None, has_key: false });
    };
    if let Err(refusal) = meet(shared, node, card.run, address).await {
        shared.serve.turned_away(node, address, &refusal);
        return Err(refusal);
    }
    shared.note_address(node, address);
    let has_key = proof::is_voter(&identity.trusted, cluster, node, &card.proof);
    Ok(Introduced { caller: Caller::Node(node), run: Some(card.run), has_key })
}

/// What was written before should arrive, so the other side is told that nothing follows.
async fn close(mut stream: TlsStream<TcpStream>) {
    _ = timeout(PATIENCE, stream.shutdown()).await;
}

async fn joiner_connection<S: Serve>(
    shared: &Shared<S>,
    mut stream: TlsStream<TcpStream>,
    from: SocketAddr,
) -> Result<(), Failed> {
    let bytes = frame::read(&mut stream, JOIN_BYTES_MAX, INTRODUCTION).await?;
    let Some(Down::Call { id, request }) = decode(&bytes) else { return Err(Failed::Malformed) };
    let response = match request {
        Request::Join(_) => shared.serve.answer(Caller::Joiner(from), request).await,
        _ => Response::Denied(Denied::NoCertificate),
    };
    if let Response::Denied(denied) = &response {
        tracing::warn!(%from, "a request to join was refused: {denied}");
        sleep(JOIN_DELAY).await;
    }
    frame::write(&mut stream, &encode(&Up::Answer { id, response })).await?;
    frame::flush(&mut stream).await?;
    close(stream).await;
    Ok(())
}

/// The other end of a connection that a node made.
struct Peer<S: Serve> {
    sender: Sender,
    open: Option<Open<S>>,
}

impl<S: Serve> Peer<S> {
    /// Why nothing more is taken from it.
    fn refusal(&self, shared: &Shared<S>) -> Option<Refusal> {
        let node = self.sender.node;
        if let Err(refusal) = shared.serve.admit(node) {
            return Some(refusal);
        }
        let is_past = self.open.as_ref().is_some_and(|open| !open.is_current());
        let at = shared.addresses(node).first().copied().unwrap_or(shared.advertised);
        is_past.then_some(Refusal::Twice { node, at })
    }
}

async fn node_connection<S: Serve>(
    shared: &Arc<Shared<S>>,
    stream: TlsStream<TcpStream>,
    peer: Peer<S>,
    mut renewals: watch::Receiver<()>,
) -> Result<(), Failed> {
    let (reader, writer) = tokio::io::split(stream);
    let (sender, answers) = mpsc::channel(QUEUE_MAX);
    tokio::select! {
        outcome = read(shared, reader, peer, sender) => outcome,
        // Connects again, and shows its present certificate.
        _ = renewals.changed() => Ok(()),
        outcome = write(writer, answers) => outcome,
    }
}

async fn read<S: Serve>(
    shared: &Arc<Shared<S>>,
    mut reader: impl AsyncRead + Unpin,
    peer: Peer<S>,
    answers: mpsc::Sender<Up>,
) -> Result<(), Failed> {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    let node = peer.sender.node;
    loop {
        let bytes = frame::read(&mut reader, FRAME_BYTES_MAX, PATIENCE).await?;
        if let Some(refusal) = peer.refusal(shared) {
            _ = answers.send(Up::Refused(refusal)).await;
            // The writer ends the connection once that is out.
            return std::future::pending().await;
        }
        shared.counters.received.fetch_add(1, Ordering::Relaxed);
        match decode(&bytes).ok_or(Failed::Malformed)? {
            Down::Alive => {}
            Down::Group(bytes) => {
                let message = Message::decode(&bytes).map_err(|_| Failed::Malformed)?;
                shared.serve.receive(peer.sender, message);
            }
            Down::Call { id, request } => match calls.clone().try_acquire_owned() {
                Ok(permit) => {
                    let (serve, answers) = (shared.serve.clone(), answers.clone());
                    shared.spawn(async move {
                        let response = serve.answer(Caller::Node(node), request).await;
                        // The connection may be gone by now.
                        _ = answers.send(Up::Answer { id, response }).await;
                        drop(permit);
                    });
                }
                Err(_) => {
                    let busy = Up::Answer { id, response: Response::Busy };
                    answers.send(busy).await.map_err(|_| FrameError::Closed)?;
                }
            },
        }
    }
}

async fn write(writer: impl AsyncWrite + Unpin, mut answers: mpsc::Receiver<Up>) -> Result<(), Failed> {
    let mut writer = BufWriter::new(writer);
    let mut beats = interval(ALIVE_INTERVAL);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut next = tokio::select! {
            up = answers.recv() => up,
            _ = beats.tick() => Some(Up::Alive),
        };
        if next.is_none() {
            return Ok(());
        }
        // All that is there goes out together.
        while let Some(up) = next {
            frame::write(&mut writer, &encode(&up)).await?;
            if let Up::Refused(refusal) = up {
                frame::flush(&mut writer).await?;
                _ = timeout(PATIENCE, writer.shutdown()).await;
                return Err(Failed::Refused(refusal.to_string()));
            }
            next = answers.try_recv().ok();
        }
        frame::flush(&mut writer).await?;
    }
}
