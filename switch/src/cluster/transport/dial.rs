//! Connecting: TCP, TLS, hello, introduction, verdict.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vswitch_proto::id::{ClusterId, NodeId};

use super::super::identity::dns_name;
use super::super::runs::Run;
use super::frame::{self, FrameError};
use super::tls::{CURRENT, Clock, Credentials, CredentialsError, joiner};
use super::wire::{
    Card, Down, FRAME_BYTES_MAX, HELLO_BYTES_MAX, Hello, Introduction, JOIN_BYTES_MAX, Join, PROTOCOL,
    Refusal, Request, Response, Up, Verdict, decode, encode,
};
use super::{INTRODUCTION, PATIENCE};

/// A join may wait for an election.
const JOIN_PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot connect to {address}: {source}: check the address, and that vswitchd listens there")]
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("{0} does not answer: check the address and the firewall")]
    Silent(SocketAddr),
    #[error(
        "whoever answers at {0} has no certificate of this cluster: check the address, and that the join token is the \
         present one"
    )]
    Foreign(SocketAddr),
    #[error(
        "{address} does not accept the certificate of this node: {source}: check the clocks and which cluster it is"
    )]
    NotAccepted { address: SocketAddr, source: std::io::Error },
    #[error(
        "the certificate of whoever answers at {address} is {when} by the clock of this host: set the clocks of both \
         hosts"
    )]
    OutOfTime { address: SocketAddr, when: OutOfTime },
    #[error(
        "by the clock of the host at {0} the certificate of this node is expired or not valid yet: set the clocks of \
         both hosts"
    )]
    FoundOutOfTime(SocketAddr),
    /// Its own certificate was found good before.
    #[error("{0} does not trust the authority of this node's certificate any more")]
    Distrusted(SocketAddr),
    #[error("TLS with {address} failed: {source}: check the clocks of both hosts and what listens there")]
    Tls { address: SocketAddr, source: std::io::Error },
    #[error("whoever answers at {0} is no vswitchd: check the address")]
    NotVswitch(SocketAddr),
    #[error(
        "{address} runs vswitchd {} with protocol {}, this is {} with protocol {}: run the same version on both",
        .theirs.version, .theirs.protocol, .ours.version, .ours.protocol
    )]
    Version { address: SocketAddr, ours: Hello, theirs: Hello },
    #[error("{address} refuses this node: {refusal}")]
    Refused { address: SocketAddr, refusal: Refusal },
    #[error("whoever answers at {address} is not taken for the node: {refusal}")]
    Copied { address: SocketAddr, refusal: Refusal },
    #[error("the connection with {address} failed: {source}")]
    Broken { address: SocketAddr, source: FrameError },
    #[error("{0} sends what makes no sense: run the same version on both nodes")]
    Malformed(SocketAddr),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// How a clock and a certificate disagree. Times are in seconds since the Unix epoch, where they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfTime {
    NotYet(Option<(u64, u64)>),
    Expired(Option<(u64, u64)>),
}

impl fmt::Display for OutOfTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, times, bound) = match self {
            OutOfTime::NotYet(times) => ("not valid yet", times, "from"),
            OutOfTime::Expired(times) => ("expired", times, "until"),
        };
        f.write_str(what)?;
        match times {
            Some((now, at)) => write!(f, " (it is {}, and valid {bound} {})", utc(*now), utc(*at)),
            None => Ok(()),
        }
    }
}

/// A time of a clock, for people.
pub(in super::super) fn utc(seconds: u64) -> impl fmt::Display {
    // The last second that can be shown, at the end of the year 9999.
    let seconds = seconds.min(253_402_300_799);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// A connection to a node that was made, introduced and accepted.
pub(super) struct Link {
    pub(super) stream: TlsStream<TcpStream>,
    /// The other side knows [`CURRENT`].
    pub(super) is_current: bool,
    /// Which run it is, if it can say so.
    pub(super) run: Option<Run>,
    /// Where it answered.
    pub(super) address: SocketAddr,
}

/// Connects to a node.
pub(super) async fn to_node(
    address: SocketAddr,
    node: NodeId,
    credentials: &Credentials,
    card: Card,
) -> Result<Link, LinkError> {
    let identity = &credentials.identity;
    let Card { cluster, incarnation, address: listens, .. } = card;
    let introduction = Introductions {
        current: Introduction::Member(Box::new(card)),
        older: Introduction::Node { cluster, incarnation, address: listens },
    };
    let name = server_name(identity.cluster, node);
    let work = connect(address, name, credentials.client.clone(), &introduction);
    let (stream, run) = timeout(INTRODUCTION, work).await.unwrap_or(Err(LinkError::Silent(address)))?;
    let is_current = knows_current(&stream);
    Ok(Link { stream, is_current, run, address })
}

/// Asks which run of a node answers at an address. `None`: it is of a version that cannot say.
pub(super) async fn who(
    address: SocketAddr,
    node: NodeId,
    credentials: &Credentials,
) -> Result<Option<Run>, LinkError> {
    let name = server_name(credentials.identity.cluster, node);
    let mut stream = open(address, name, credentials.client.clone()).await?;
    if !knows_current(&stream) {
        return Ok(None);
    }
    introduce(&mut stream, address, &Introduction::Who).await
}

fn server_name(cluster: ClusterId, node: NodeId) -> ServerName<'static> {
    ServerName::try_from(dns_name(cluster, node)).expect("made of letters, digits and dots")
}

/// What this side says of itself, by what the other side knows.
struct Introductions {
    current: Introduction,
    older: Introduction,
}

fn knows_current(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(CURRENT)
}

/// Asks whoever is at `address`, once it has proved to belong to the cluster of `authority`.
pub async fn join(
    address: SocketAddr,
    authority: [u8; 32],
    request: Join,
    clock: &Clock,
) -> Result<Response, LinkError> {
    let config = Arc::new(joiner(authority, clock)?);
    let name = ServerName::try_from("vswitch.internal").expect("made of letters and a dot");
    let introduction = Introductions { current: Introduction::Joiner, older: Introduction::Joiner };
    let work = connect(address, name, config, &introduction);
    let (mut stream, _) = timeout(INTRODUCTION, work).await.unwrap_or(Err(LinkError::Silent(address)))?;
    let broken = |source| LinkError::Broken { address, source };
    let call = encode(&Down::Call { id: 0, request: Request::Join(Box::new(request)) });
    frame::write(&mut stream, &call).await.map_err(broken)?;
    frame::flush(&mut stream).await.map_err(broken)?;
    let answer = frame::read(&mut stream, FRAME_BYTES_MAX, JOIN_PATIENCE).await.map_err(broken)?;
    match decode(&answer) {
        Some(Up::Answer { id: 0, response }) => Ok(response),
        Some(Up::Refused(refusal)) => Err(LinkError::Refused { address, refusal }),
        _ => Err(LinkError::Malformed(address)),
    }
}

async fn connect(
    address: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    introduction: &Introductions,
) -> Result<(TlsStream<TcpStream>, Option<Run>), LinkError> {
    let mut stream = open(address, name, config).await?;
    let introduction = if knows_current(&stream) { &introduction.current } else { &introduction.older };
    let run = introduce(&mut stream, address, introduction).await?;
    Ok((stream, run))
}

async fn open(
    address: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, LinkError> {
    let tcp = TcpStream::connect(address).await;
    let tcp = tcp.map_err(|source| LinkError::Connect { address, source })?;
    tcp.set_nodelay(true).map_err(|source| LinkError::Connect { address, source })?;
    let stream = TlsConnector::from(config).connect(name, tcp).await;
    stream.map_err(|source| tls_failure(address, source))
}

async fn introduce<T: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut T,
    address: SocketAddr,
    introduction: &Introduction,
) -> Result<Option<Run>, LinkError> {
    // In TLS 1.3 the other side's opinion of this side's certificate comes with the first bytes that are read.
    let broken = |source| match source {
        FrameError::Io(source) if is_unknown_ca(&source) => LinkError::Distrusted(address),
        FrameError::Io(source) if is_expired(&source) => LinkError::FoundOutOfTime(address),
        FrameError::Io(source) if is_alert(&source) => LinkError::NotAccepted { address, source },
        source => LinkError::Broken { address, source },
    };
    let ours = Hello::own();
    frame::write(stream, &ours.encode()).await.map_err(broken)?;
    frame::write(stream, &encode(introduction)).await.map_err(broken)?;
    frame::flush(stream).await.map_err(broken)?;
    let theirs = frame::read(stream, HELLO_BYTES_MAX, PATIENCE).await.map_err(broken)?;
    let theirs = Hello::decode(&theirs).ok_or(LinkError::NotVswitch(address))?;
    if theirs.protocol != PROTOCOL {
        return Err(LinkError::Version { address, ours, theirs });
    }
    let verdict = frame::read(stream, JOIN_BYTES_MAX, PATIENCE).await.map_err(broken)?;
    match decode(&verdict) {
        Some(Verdict::Welcome) => Ok(None),
        Some(Verdict::WelcomeBy(run)) => Ok(Some(run)),
        Some(Verdict::Refused(refusal)) => Err(LinkError::Refused { address, refusal }),
        None => Err(LinkError::Malformed(address)),
    }
}

fn tls_failure(address: SocketAddr, source: std::io::Error) -> LinkError {
    use rustls::{CertificateError, Error};
    match rustls_error(&source) {
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. },
        )) => LinkError::Foreign(address),
        Some(Error::InvalidCertificate(CertificateError::Expired)) => {
            LinkError::OutOfTime { address, when: OutOfTime::Expired(None) }
        }
        Some(Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after })) => {
            let when = OutOfTime::Expired(Some((time.as_secs(), not_after.as_secs())));
            LinkError::OutOfTime { address, when }
        }
        Some(Error::InvalidCertificate(CertificateError::NotValidYet)) => {
            LinkError::OutOfTime { address, when: OutOfTime::NotYet(None) }
        }
        Some(Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before })) => {
            let when = OutOfTime::NotYet(Some((time.as_secs(), not_before.as_secs())));
            LinkError::OutOfTime { address, when }
        }
        _ => LinkError::Tls { address, source },
    }
}

fn is_unknown_ca(error: &std::io::Error) -> bool {
    matches!(rustls_error(error), Some(rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA)))
}

/// What a node sends whose clock is outside the time of this node's certificate, on either side of it.
fn is_expired(error: &std::io::Error) -> bool {
    matches!(
        rustls_error(error),
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired))
    )
}

fn is_alert(error: &std::io::Error) -> bool {
    matches!(rustls_error(error), Some(rustls::Error::AlertReceived(_)))
}

fn rustls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
