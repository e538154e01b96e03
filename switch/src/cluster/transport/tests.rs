//! Real TLS over loopback: who gets in, who does not, and what is said to them.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::AtomicBool;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vswitch_proto::command::{NodeInfo, Role};
use vswitch_proto::id::{ClusterId, RequestId};

use super::super::identity::{Authority, Identity, dns_name, new_key};
use super::tls::Clock;
use super::wire::{Denied, Down, Hello, Introduction, Join, PROTOCOL, Up, Verdict, decode, encode};
use super::*;

const NOW_MS: u64 = 1_800_000_000_000;
const CLUSTER: ClusterId = ClusterId([7; 16]);
const LONG: Duration = Duration::from_secs(30);

fn clock() -> Clock {
    Arc::new(|| NOW_MS)
}

fn authority() -> Authority {
    Authority::found(CLUSTER, NOW_MS).unwrap()
}

fn identity(authority: &Authority, node: u64) -> Identity {
    let (key, public) = new_key().unwrap();
    let issued = authority.sign(NodeId(node), &public, NOW_MS).unwrap();
    let authority = authority.certificate().to_vec();
    let (cross, trusted) = (Vec::new(), vec![authority.clone()]);
    Identity { cluster: CLUSTER, incarnation: 0, node: NodeId(node), issued, key, authority, cross, trusted }
}

/// Answers calls with their own number, and remembers what else came.
#[derive(Default)]
struct Echo {
    received: StdMutex<Vec<(Sender, Message)>>,
    turned_away: StdMutex<Vec<Refusal>>,
    refusals: StdMutex<Vec<Refusal>>,
    removed: StdMutex<Vec<NodeId>>,
    is_slow: AtomicBool,
}

impl Serve for Echo {
    fn admit(&self, node: NodeId) -> Result<(), Refusal> {
        if self.removed.lock().unwrap().contains(&node) { Err(Refusal::Fenced(node)) } else { Ok(()) }
    }

    fn acknowledged(&self, _: NodeId) -> Option<Reached> {
        None
    }

    fn turned_away(&self, _: NodeId, _: SocketAddr, refusal: &Refusal) {
        self.turned_away.lock().unwrap().push(refusal.clone());
    }

    fn receive(&self, from: Sender, message: Message) {
        self.received.lock().unwrap().push((from, message));
    }

    async fn answer(&self, caller: Caller, request: Request) -> Response {
        if self.is_slow.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        match (caller, request) {
            (Caller::Node(_), Request::Digest { at_least }) => {
                Response::Digest { index: at_least, digest: [0; 32] }
            }
            (Caller::Joiner(_), Request::Join(_)) => Response::Denied(Denied::Token),
            _ => Response::Done,
        }
    }

    fn refused(&self, _: NodeId, refusal: Refusal) {
        self.refusals.lock().unwrap().push(refusal);
    }

    fn unreachable(&self, _: NodeId) {}

    fn connected(&self, _: NodeId) {}

    fn not_connected(&self, _: NodeId, _: &LinkError) {}
}

struct Host {
    address: SocketAddr,
    echo: Arc<Echo>,
    transport: Transport<Echo>,
    credentials: Credentials,
    _running: Running,
}

async fn host(identity: Identity) -> Host {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let credentials = Credentials::new(Arc::new(identity), &clock()).unwrap();
    let echo = Arc::new(Echo::default());
    static STARTS: AtomicU64 = AtomicU64::new(1);
    let starts = STARTS.fetch_add(1, Ordering::Relaxed);
    let run = Run { starts, nonce: rand::random(), began: Reached::default() };
    let (transport, running) = Transport::start(listener, address, credentials.clone(), run, echo.clone());
    Host { address, echo, transport, credentials, _running: running }
}

async fn pair() -> (Host, Host) {
    let authority = authority();
    let (a, b) = (host(identity(&authority, 1)).await, host(identity(&authority, 2)).await);
    a.transport.set_addresses(HashMap::from([(NodeId(2), b.address)]));
    (a, b)
}

fn heartbeat(to: u64) -> Message {
    let body = Body::Heartbeat { commit: 3, context: Vec::new() };
    Message { from: NodeId(1), to: NodeId(to), term: 1, body }
}

fn digest(at_least: u64) -> Request {
    Request::Digest { at_least }
}

async fn eventually(what: &str, mut is_met: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_met() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A connection with a certificate of choice, not introduced yet.
async fn tls(to: &Host, config: Arc<rustls::ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(to.address).await?;
    let node = to.credentials.identity.node;
    let name = ServerName::try_from(dns_name(CLUSTER, node)).unwrap();
    TlsConnector::from(config).connect(name, tcp).await
}

fn introduction() -> Introduction {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    Introduction::Node { cluster: CLUSTER, incarnation: 0, address }
}

fn join_request(authority: &Authority) -> Join {
    Join {
        request: RequestId([1; 16]),
        role: Role::Voter,
        secret: authority.token(Role::Voter, 0).secret,
        public_key: [3; 32],
        info: NodeInfo {
            name: "host9".parse().unwrap(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)),
            vtep: Ipv4Addr::LOCALHOST.into(),
            version: "1".into(),
            certificate: None,
        },
    }
}

#[tokio::test]
async fn messages_and_calls_arrive() {
    let (a, b) = pair().await;
    a.transport.send(heartbeat(2));
    let answers = (0..50).map(|at| a.transport.call(NodeId(2), digest(at), LONG));
    for (at, answer) in answers.enumerate() {
        assert_eq!(answer.await, Ok(Response::Digest { index: at as u64, digest: [0; 32] }));
    }
    eventually("the message", || *b.echo.received.lock().unwrap() == [(NodeId(1).into(), heartbeat(2))])
        .await;
    // The other side learned where the first one listens, and can answer on a connection of its own.
    assert!(b.transport.call(NodeId(1), digest(1), LONG).await.is_ok());
}

#[tokio::test]
async fn a_large_snapshot_does_not_stop_heartbeats() {
    let (a, b) = pair().await;
    let machine = vec![5; 12 << 20];
    let members = vswitch_proto::peer::Members { voters: vec![NodeId(1)], ..Default::default() };
    let snapshot = vswitch_proto::peer::Snapshot { index: 9, term: 1, members, machine };
    let large = Message { body: Body::Snapshot(snapshot), ..heartbeat(2) };
    a.transport.send(large.clone());
    a.transport.send(heartbeat(2));
    eventually("both messages", || b.echo.received.lock().unwrap().len() == 2).await;
    let received = b.echo.received.lock().unwrap();
    assert_eq!(received.iter().filter(|(_, message)| *message == large).count(), 1);
}

#[tokio::test]
async fn a_node_that_comes_back_elsewhere_is_found() {
    let authority = authority();
    let (a, b) = (host(identity(&authority, 1)).await, host(identity(&authority, 2)).await);
    a.transport.set_addresses(HashMap::from([(NodeId(2), b.address)]));
    assert!(a.transport.call(NodeId(2), digest(1), LONG).await.is_ok());
    drop(b);
    let again = host(identity(&authority, 2)).await;
    again.transport.set_addresses(HashMap::from([(NodeId(1), a.address)]));
    assert!(again.transport.call(NodeId(1), digest(1), LONG).await.is_ok());
    let deadline = Instant::now() + LONG;
    while a.transport.call(NodeId(2), digest(7), Duration::from_secs(2)).await.is_err() {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(a.transport.address(NodeId(2)), Some(again.address));
}

#[tokio::test]
async fn a_rotated_authority_is_trusted_by_who_knows_the_former_one_only() {
    let (former, next) = (authority(), authority());
    let cross = former.certify(&next, NOW_MS).unwrap();
    let trusted = vec![next.certificate().to_vec(), former.certificate().to_vec()];
    let moved_on = Identity { cross, trusted, ..identity(&next, 1) };
    let a = host(moved_on.clone()).await;
    let behind = host(identity(&former, 2)).await;
    a.transport.set_addresses(HashMap::from([(NodeId(2), behind.address)]));
    behind.transport.set_addresses(HashMap::from([(NodeId(1), a.address)]));
    assert!(a.transport.call(NodeId(2), digest(1), LONG).await.is_ok());
    assert!(behind.transport.call(NodeId(1), digest(1), LONG).await.is_ok());

    // Once the former one is dropped, connections that there are end too.
    let alone = Identity { trusted: vec![next.certificate().to_vec()], ..moved_on };
    a.transport.set_credentials(Credentials::new(Arc::new(alone), &clock()).unwrap());
    a.transport.reconnect();
    let deadline = Instant::now() + LONG;
    while behind.transport.call(NodeId(1), digest(1), LONG).await.is_ok() {
        assert!(Instant::now() < deadline);
    }
    while !behind.echo.refusals.lock().unwrap().contains(&Refusal::Distrusted) {
        assert!(behind.transport.call(NodeId(1), digest(1), LONG).await.is_err());
        assert!(Instant::now() < deadline, "it is not told why");
    }
    let error = a.transport.call(NodeId(2), digest(1), LONG).await.unwrap_err();
    assert!(error.to_string().contains("no certificate of this cluster"), "{error}");
    assert!(a.echo.refusals.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_node_of_another_authority_is_refused_on_both_sides() {
    let a = host(identity(&authority(), 1)).await;
    let foreign = host(identity(&authority(), 2)).await;
    a.transport.set_addresses(HashMap::from([(NodeId(2), foreign.address)]));
    let error = a.transport.call(NodeId(2), digest(1), LONG).await.unwrap_err();
    assert!(error.to_string().contains("no certificate of this cluster"), "{error}");

    // One that does not look at the other's certificate gets no further.
    let mut config = rustls::ClientConfig::clone(&foreign.credentials.client);
    config.dangerous().set_certificate_verifier(trusting(&a));
    let mut stream = tls(&a, Arc::new(config)).await.unwrap();
    let mut byte = [0];
    let outcome = stream.read(&mut byte).await;
    assert!(outcome.is_err(), "{outcome:?}");
    eventually("the refusal", || a.transport.counters().refused.load(Ordering::Relaxed) == 1).await;
    assert_eq!(a.transport.counters().received.load(Ordering::Relaxed), 0);
}

/// Accepts the host's certificate.
fn trusting(host: &Host) -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(host.credentials.identity.authority.clone().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap()
}

#[tokio::test]
async fn a_certificate_of_another_node_is_no_certificate_of_this_one() {
    let authority = authority();
    let (a, b) = (host(identity(&authority, 1)).await, host(identity(&authority, 2)).await);
    // Node 3 is looked for where node 2 is.
    a.transport.set_addresses(HashMap::from([(NodeId(3), b.address)]));
    let error = a.transport.call(NodeId(3), digest(1), LONG).await.unwrap_err();
    assert!(error.to_string().contains("no certificate of this cluster"), "{error}");
}

#[tokio::test]
async fn without_a_certificate_only_a_join_is_taken() {
    let authority = authority();
    let a = host(identity(&authority, 1)).await;
    let config = Arc::new(tls::joiner(authority.digest(), &clock()).unwrap());

    let mut stream = tls(&a, config.clone()).await.unwrap();
    let verdict = introduce(&mut stream, PROTOCOL, &introduction()).await.unwrap();
    assert_eq!(verdict, Verdict::Refused(Refusal::NoCertificate));

    let mut stream = tls(&a, config.clone()).await.unwrap();
    let verdict = introduce(&mut stream, PROTOCOL, &Introduction::Joiner).await.unwrap();
    assert_eq!(verdict, Verdict::Welcome);
    let call = encode(&Down::Call { id: 4, request: digest(0) });
    frame::write(&mut stream, &call).await.unwrap();
    let answer = frame::read(&mut stream, 4096, LONG).await.unwrap();
    let denied = Response::Denied(Denied::NoCertificate);
    assert_eq!(decode(&answer), Some(Up::Answer { id: 4, response: denied }));

    let mut stream = tls(&a, config).await.unwrap();
    introduce(&mut stream, PROTOCOL, &Introduction::Joiner).await.unwrap();
    frame::write(&mut stream, &encode(&Down::Group(heartbeat(1).encode()))).await.unwrap();
    assert!(frame::read(&mut stream, 4096, LONG).await.is_err());
    assert!(a.echo.received.lock().unwrap().is_empty());

    let answer = join(a.address, authority.digest(), join_request(&authority), &clock()).await;
    assert_eq!(answer.unwrap(), Response::Denied(Denied::Token));
}

#[tokio::test]
async fn a_joiner_talks_to_nobody_but_the_cluster_of_its_token() {
    let (ours, others) = (authority(), authority());
    let a = host(identity(&others, 1)).await;
    let error = join(a.address, ours.digest(), join_request(&ours), &clock()).await.unwrap_err();
    assert!(matches!(error, LinkError::Foreign(_)), "{error}");
    // Its certificate says so, but its own authority did not sign it.
    let mut forged = identity(&others, 1);
    forged.authority = ours.certificate().to_vec();
    let b = host(forged).await;
    let error = join(b.address, ours.digest(), join_request(&ours), &clock()).await.unwrap_err();
    assert!(matches!(error, LinkError::Foreign(_)), "{error}");
}

async fn introduce(
    stream: &mut TlsStream<TcpStream>,
    protocol: u16,
    introduction: &Introduction,
) -> Option<Verdict> {
    let hello = Hello { protocol, version: "9.9.9".into() };
    frame::write(stream, &hello.encode()).await.unwrap();
    frame::write(stream, &encode(introduction)).await.unwrap();
    frame::flush(stream).await.unwrap();
    let theirs = frame::read(stream, 256, LONG).await.unwrap();
    assert_eq!(Hello::decode(&theirs), Some(Hello::own()));
    decode(&frame::read(stream, 256, LONG).await.ok()?)
}

#[tokio::test]
async fn another_version_is_refused_and_both_are_named() {
    let authority = authority();
    let a = host(identity(&authority, 1)).await;
    let config = Credentials::new(Arc::new(identity(&authority, 2)), &clock()).unwrap().client;
    let mut stream = tls(&a, config).await.unwrap();
    assert_eq!(introduce(&mut stream, PROTOCOL + 1, &introduction()).await, None);
    eventually("the refusal", || a.transport.counters().refused.load(Ordering::Relaxed) == 1).await;

    // The other way round: a node of another version answers.
    let newer = Credentials::new(Arc::new(identity(&authority, 3)), &clock()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    a.transport.set_addresses(HashMap::from([(NodeId(3), listener.local_addr().unwrap())]));
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(newer.server).accept(tcp).await.unwrap();
        let hello = Hello { protocol: PROTOCOL + 1, version: "9.9.9".into() };
        frame::write(&mut stream, &hello.encode()).await.unwrap();
        frame::flush(&mut stream).await.unwrap();
        // Until the other side has read it and closes.
        while stream.read(&mut [0; 256]).await.is_ok_and(|count| count > 0) {}
    });
    let error = a.transport.call(NodeId(3), digest(1), LONG).await.unwrap_err().to_string();
    for part in ["9.9.9", "protocol 3", env!("CARGO_PKG_VERSION"), "protocol 2"] {
        assert!(error.contains(part), "{error}");
    }
    server.await.unwrap();
}

#[tokio::test]
async fn another_cluster_or_incarnation_is_refused() {
    let authority = authority();
    let a = host(identity(&authority, 1)).await;
    let mut recovered = identity(&authority, 2);
    recovered.incarnation = 1;
    let recovered = host(recovered).await;
    recovered.transport.set_addresses(HashMap::from([(NodeId(1), a.address)]));
    let error = recovered.transport.call(NodeId(1), digest(1), LONG).await.unwrap_err();
    assert!(error.to_string().contains("recovered without this node"), "{error}");
    assert_eq!(*recovered.echo.refusals.lock().unwrap(), [Refusal::Superseded]);

    let config = Credentials::new(Arc::new(identity(&authority, 3)), &clock()).unwrap().client;
    let mut stream = tls(&a, config).await.unwrap();
    let theirs = ClusterId([9; 16]);
    let address = a.address;
    let foreign = Introduction::Node { cluster: theirs, incarnation: 0, address };
    let verdict = introduce(&mut stream, PROTOCOL, &foreign).await;
    assert_eq!(verdict, Some(Verdict::Refused(Refusal::OtherCluster { ours: CLUSTER, theirs })));
}

#[tokio::test]
async fn a_removed_node_is_told_so() {
    let (a, b) = pair().await;
    assert!(a.transport.call(NodeId(2), digest(1), LONG).await.is_ok());
    b.echo.removed.lock().unwrap().push(NodeId(1));
    // On the connection that it has, and on new ones.
    eventually("the refusal", || !a.echo.refusals.lock().unwrap().is_empty()).await;
    let error = a.transport.call(NodeId(2), digest(1), LONG).await.unwrap_err();
    assert!(error.to_string().contains("was removed"), "{error}");
    assert!(a.echo.refusals.lock().unwrap().iter().all(|refusal| *refusal == Refusal::Fenced(NodeId(1))));
}

#[tokio::test]
async fn garbage_and_oversized_frames_end_the_connection() {
    let authority = authority();
    let a = host(identity(&authority, 1)).await;
    // Not even TLS.
    let mut tcp = TcpStream::connect(a.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(tcp.read_to_end(&mut Vec::new()).await.is_ok_and(|count| count < 64));

    let config = Credentials::new(Arc::new(identity(&authority, 2)), &clock()).unwrap().client;
    for garbage in [&[0, 0, 0, 3, 9, 9, 9][..], &[0x7f, 0xff, 0xff, 0xff], &[0x80, 0, 0, 0]] {
        let mut stream = tls(&a, config.clone()).await.unwrap();
        // In place of a hello, and after an introduction.
        stream.write_all(garbage).await.unwrap();
        stream.flush().await.unwrap();
        assert!(frame::read(&mut stream, 4096, LONG).await.is_err());

        let mut stream = tls(&a, config.clone()).await.unwrap();
        introduce(&mut stream, PROTOCOL, &introduction()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.flush().await.unwrap();
        while let Ok(up) = frame::read(&mut stream, 4096, LONG).await {
            assert_eq!(decode(&up), Some(Up::Alive));
        }
    }
    // A message of the group that is none.
    let mut stream = tls(&a, config).await.unwrap();
    introduce(&mut stream, PROTOCOL, &introduction()).await.unwrap();
    frame::write(&mut stream, &encode(&Down::Group(vec![9, 9, 9]))).await.unwrap();
    frame::flush(&mut stream).await.unwrap();
    while frame::read(&mut stream, 4096, LONG).await.is_ok() {}
    assert!(a.transport.counters().malformed.load(Ordering::Relaxed) >= 3);
    assert!(a.echo.received.lock().unwrap().is_empty());
}

#[tokio::test]
async fn slow_strangers_do_not_keep_nodes_out() {
    let (a, b) = pair().await;
    let mut strangers = Vec::new();
    for _ in 0..PENDING_PER_HOST_MAX {
        let mut tcp = TcpStream::connect(b.address).await.unwrap();
        tcp.write_all(&[22]).await.unwrap();
        strangers.push(tcp);
    }
    let full = || b.transport.counters().refused.load(Ordering::Relaxed);
    // From this address, nobody else gets in while they are there.
    let deadline = Instant::now() + LONG;
    while full() == 0 {
        assert!(Instant::now() < deadline);
        let mut tcp = TcpStream::connect(b.address).await.unwrap();
        _ = tokio::time::timeout(Duration::from_millis(200), tcp.read(&mut [0])).await;
    }
    // They say no more than one byte, and are thrown out for it.
    for mut tcp in strangers {
        assert!(matches!(tcp.read(&mut [0]).await, Ok(0) | Err(_)));
    }
    let deadline = Instant::now() + LONG;
    while a.transport.call(NodeId(2), digest(1), Duration::from_secs(2)).await.is_err() {
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_dropped_counted_and_told() {
    let (a, b) = pair().await;
    let address = b.address;
    drop(b);
    let error = a.transport.call(NodeId(2), digest(1), LONG).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert_eq!(a.transport.call(NodeId(9), digest(1), LONG).await, Err(CallError::Unknown(NodeId(9))));
    for _ in 0..2 * QUEUE_MAX {
        a.transport.send(heartbeat(2));
    }
    assert!(a.transport.counters().dropped.load(Ordering::Relaxed) as usize >= QUEUE_MAX - 1);
}

#[tokio::test]
async fn a_call_that_nobody_answers_ends() {
    let (a, b) = pair().await;
    b.echo.is_slow.store(true, Ordering::Relaxed);
    let patience = Duration::from_millis(200);
    let outcome = a.transport.call(NodeId(2), digest(1), patience).await;
    assert_eq!(outcome, Err(CallError::TimedOut(NodeId(2))));
}

#[tokio::test]
async fn a_renewed_certificate_is_used_from_then_on() {
    let authority = authority();
    let (a, b) = (host(identity(&authority, 1)).await, host(identity(&authority, 2)).await);
    a.transport.set_addresses(HashMap::from([(NodeId(2), b.address)]));
    let renewed = Credentials::new(Arc::new(identity(&authority, 1)), &clock()).unwrap();
    a.transport.set_credentials(renewed);
    assert!(a.transport.call(NodeId(2), digest(1), LONG).await.is_ok());
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = authority();
    let (a, b) = (host(identity(&authority, 1)).await, host(identity(&authority, 2)).await);
    let later: Clock = Arc::new(|| NOW_MS + 91 * 24 * 60 * 60 * 1000);
    a.transport.set_addresses(HashMap::from([(NodeId(2), b.address)]));
    a.transport.set_credentials(Credentials::new(a.credentials.identity.clone(), &later).unwrap());
    let error = a.transport.call(NodeId(2), digest(1), LONG).await.unwrap_err();
    assert!(error.to_string().contains("clocks"), "{error}");
}
