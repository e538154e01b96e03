//! Connecting: TCP, TLS, hello, introduction, verdict.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vswitch_proto::id::NodeId;

use super::super::identity::dns_name;
use super::frame::{self, FrameError};
use super::tls::{Clock, Credentials, CredentialsError, joiner};
use super::wire::{
    Down, FRAME_BYTES_MAX, HELLO_BYTES_MAX, Hello, Introduction, JOIN_BYTES_MAX, Join, PROTOCOL, Refusal,
    Request, Response, Up, Verdict, decode, encode,
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
    #[error("the connection with {address} failed: {source}")]
    Broken { address: SocketAddr, source: FrameError },
    #[error("{0} sends what makes no sense: run the same version on both nodes")]
    Malformed(SocketAddr),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// A connection to a node that was made, introduced and accepted.
pub(super) async fn to_node(
    address: SocketAddr,
    node: NodeId,
    credentials: &Credentials,
    advertised: SocketAddr,
) -> Result<TlsStream<TcpStream>, LinkError> {
    let identity = &credentials.identity;
    let name =
        ServerName::try_from(dns_name(identity.cluster, node)).expect("made of letters, digits and dots");
    let introduction = Introduction::Node {
        cluster: identity.cluster,
        incarnation: identity.incarnation,
        address: advertised,
    };
    let work = connect(address, name, credentials.client.clone(), &introduction);
    timeout(INTRODUCTION, work).await.unwrap_or(Err(LinkError::Silent(address)))
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
    let work = connect(address, name, config, &Introduction::Joiner);
    let mut stream = timeout(INTRODUCTION, work).await.unwrap_or(Err(LinkError::Silent(address)))?;
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
    introduction: &Introduction,
) -> Result<TlsStream<TcpStream>, LinkError> {
    let tcp = TcpStream::connect(address).await;
    let tcp = tcp.map_err(|source| LinkError::Connect { address, source })?;
    tcp.set_nodelay(true).map_err(|source| LinkError::Connect { address, source })?;
    let stream = TlsConnector::from(config).connect(name, tcp).await;
    let mut stream = stream.map_err(|source| tls_failure(address, source))?;
    introduce(&mut stream, address, introduction).await?;
    Ok(stream)
}

async fn introduce<T: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut T,
    address: SocketAddr,
    introduction: &Introduction,
) -> Result<(), LinkError> {
    // In TLS 1.3 the other side's opinion of this side's certificate comes with the first bytes that are read.
    let broken = |source| match source {
        FrameError::Io(source) if is_unknown_ca(&source) => LinkError::Distrusted(address),
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
        Some(Verdict::Welcome) => Ok(()),
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
        _ => LinkError::Tls { address, source },
    }
}

fn is_unknown_ca(error: &std::io::Error) -> bool {
    matches!(rustls_error(error), Some(rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA)))
}

fn is_alert(error: &std::io::Error) -> bool {
    matches!(rustls_error(error), Some(rustls::Error::AlertReceived(_)))
}

fn rustls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
