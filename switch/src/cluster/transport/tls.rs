//! TLS between nodes: version 1.3, always, both sides with a certificate of the cluster.
//!
//! A host that wants to join has none yet. It is let in to say so, and nothing else. It knows the digest of the
//! authority's certificate from its token and talks only to somebody whose certificate that authority signed.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use sha2::{Digest as _, Sha256};

use super::super::identity::Identity;

/// Protocol that both sides name in the handshake (ALPN, RFC 7301) if they know the parts of [`wire`](super::wire)
/// that came after protocol 2. A side that does not name it is spoken to as before.
pub const CURRENT: &[u8] = b"vswitch/3";

/// Wall clock: milliseconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[error("the certificates of this node cannot be used: {0}: remove the cluster's directory and join again")]
pub struct CredentialsError(#[from] Box<Error>);

/// What this node proves itself with, and both kinds of connections made with it.
#[derive(Clone)]
pub struct Credentials {
    pub identity: Arc<Identity>,
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
}

impl Credentials {
    pub fn new(identity: Arc<Identity>, clock: &Clock) -> Result<Credentials, CredentialsError> {
        let (server, client) = configs(&identity, clock).map_err(Box::new)?;
        Ok(Credentials { identity, server: Arc::new(server), client: Arc::new(client) })
    }
}

fn configs(identity: &Identity, clock: &Clock) -> Result<(ServerConfig, ClientConfig), Error> {
    let mut roots = RootCertStore::empty();
    for trusted in &identity.trusted {
        roots.add(CertificateDer::from(trusted.clone()))?;
    }
    let roots = Arc::new(roots);
    // The authority's own comes along, so that a joiner can check it against its token, and what the former authority
    // says of it, for nodes that know only that one.
    let chain = [&identity.issued.certificate, &identity.authority, &identity.cross];
    let chain = chain.into_iter().filter(|der| !der.is_empty());
    let chain: Vec<_> = chain.map(|der| CertificateDer::from(der.clone())).collect();
    let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(identity.key.0.clone()));

    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
    let clients = clients.allow_unauthenticated().build();
    let clients = clients.map_err(|error| Error::General(error.to_string()))?;
    let mut server = ServerConfig::builder_with_details(provider(), WallClock::of(clock))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.clone(), key())?;
    // A resumed session would bring an old certificate back.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.alpn_protocols = vec![CURRENT.to_vec()];

    let mut client = ClientConfig::builder_with_details(provider(), WallClock::of(clock))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key())?;
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![CURRENT.to_vec()];
    Ok((server, client))
}

/// For a host that knows nothing but the digest of the authority's certificate.
pub fn joiner(authority: [u8; 32], clock: &Clock) -> Result<ClientConfig, CredentialsError> {
    let verifier = Pinned { authority, provider: provider() };
    let builder = ClientConfig::builder_with_details(provider(), WallClock::of(clock));
    let builder = builder.with_protocol_versions(&[&TLS13]).map_err(Box::new)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut client = builder.with_no_client_auth();
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    Ok(client)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

struct WallClock(Clock);

impl WallClock {
    fn of(clock: &Clock) -> Arc<WallClock> {
        Arc::new(WallClock(clock.clone()))
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis((self.0)())))
    }
}

/// Trusts the authority with this digest, whichever node answers.
#[derive(Debug)]
struct Pinned {
    authority: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_pinned = |der: &&CertificateDer<'_>| Sha256::digest(der)[..] == self.authority;
        let Some(authority) = intermediates.iter().find(is_pinned) else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &roots, &[], now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
