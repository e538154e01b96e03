//! Who a node is: the cluster's certificate authority, and the certificates that it gives to nodes.
//!
//! # Theory of operation
//! A cluster has one authority: a self-signed certificate that every node knows, and its key, which only voters
//! have. A node's certificate names the node and the cluster in a DNS name ([`dns_name`]), so that plain TLS
//! verification says which node is at the other end. It is valid for [`NODE_DAYS`] and is replaced after two thirds
//! of that. A node makes its own key and sends only the public half, so no node's key ever travels.
//!
//! The authority can be replaced by another one, see [`rotation`](super::service). Its name has a digest of its key, so
//! that verifiers tell the two apart. The former authority certifies the key of the next one: with that certificate
//! beside its own, a node is trusted by those who know only the former.
//!
//! # On the disk
//! | file | what | mode |
//! | --- | --- | --- |
//! | `identity` | [`Identity`]: the node, its key and certificate, the authority's certificate | 0600 |
//! | `authority` | [`Authority`]: the key that signs; voters only | 0600 |
//! | `authority.next` | the same, of the authority that is about to be the next one | 0600 |
//!
//! They are postcard behind a version byte, and are replaced as a whole by renaming, so that a key and a certificate
//! that do not belong together are never read.
//!
//! The clock is an argument everywhere: milliseconds since the Unix epoch.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
    SigningKey as _,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use vswitch_proto::id::{ClusterId, NodeId};

use super::proof::statement;
use super::token::hex;

/// Life of a node's certificate.
pub const NODE_DAYS: u64 = 90;
/// Life of the authority's.
const AUTHORITY_DAYS: u64 = 20 * 365;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Certificates are valid from this long before they are made: clocks of nodes differ.
pub(super) const SLACK_MS: u64 = DAY_MS;
/// Of each file.
const FILE_BYTES_MAX: u64 = 64 << 10;
const VERSION: u8 = 1;
const IDENTITY: &str = "identity";
pub(super) const AUTHORITY: &str = "authority";
pub(super) const NEXT_AUTHORITY: &str = "authority.next";
const DOMAIN: &str = "vswitch.internal";

/// The public half of a node's Ed25519 key.
pub type PublicKey = [u8; 32];

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot use {}: {source}: check the path and its permissions", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{} is damaged: restore it from a backup, or move the directory away and join the cluster again",
        .0.display()
    )]
    Damaged(PathBuf),
    #[error(
        "{} has version {found}, newer than this version of vswitchd knows: use the one that wrote it",
        path.display()
    )]
    Newer { path: PathBuf, found: u8 },
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("the cluster's answer does not fit its own certificate authority: check which cluster is asked")]
    Foreign,
}

/// Bytes that must not be seen.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A certificate that was given to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// X.509 in DER.
    pub certificate: Vec<u8>,
    pub issued_at_ms: u64,
    pub expires_at_ms: u64,
}

impl Issued {
    /// After two thirds of its life.
    pub fn renew_at_ms(&self) -> u64 {
        self.issued_at_ms + self.expires_at_ms.saturating_sub(self.issued_at_ms) / 3 * 2
    }

    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }
}

/// Who this node is in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub cluster: ClusterId,
    /// Raised when the cluster is founded anew from what one node has. Nodes of a lower one are strangers then.
    pub incarnation: u32,
    pub node: NodeId,
    pub issued: Issued,
    /// PKCS #8 in DER.
    pub key: Secret,
    /// In DER, of the authority that issued the certificate.
    pub authority: Vec<u8>,
    /// The same authority as the former one certified it; empty where there was none.
    pub cross: Vec<u8>,
    /// Of all authorities whose nodes are trusted.
    pub trusted: Vec<Vec<u8>>,
}

impl Identity {
    pub fn load(dir: &Path) -> Result<Option<Identity>, IdentityError> {
        load(&dir.join(IDENTITY))
    }

    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        save(dir, IDENTITY, self)
    }

    pub fn authority_digest(&self) -> [u8; 32] {
        Sha256::digest(&self.authority).into()
    }

    /// As [`dns_name`] of this node.
    pub fn dns_name(&self) -> String {
        dns_name(self.cluster, self.node)
    }
}

/// What signs the certificates of nodes.
pub struct Authority {
    cluster: ClusterId,
    certificate: Vec<u8>,
    key: KeyPair,
}

/// An authority as it is written and sent to voters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityKey {
    pub cluster: ClusterId,
    pub certificate: Vec<u8>,
    pub key: Secret,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Authority {
    /// Of a new cluster.
    pub fn found(cluster: ClusterId, now_ms: u64) -> Result<Authority, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = authority_params(cluster, &key);
        (params.not_before, params.not_after) = validity(now_ms, AUTHORITY_DAYS);
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Authority { cluster, certificate, key })
    }

    pub fn of(written: &AuthorityKey) -> Result<Authority, IdentityError> {
        let der = PrivatePkcs8KeyDer::from(&written.key.0[..]);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519)?;
        Ok(Authority { cluster: written.cluster, certificate: written.certificate.clone(), key })
    }

    pub fn load(dir: &Path) -> Result<Option<Authority>, IdentityError> {
        load(&dir.join(AUTHORITY))?.as_ref().map(Authority::of).transpose()
    }

    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        save(dir, AUTHORITY, &self.key())
    }

    /// The one that is about to be the next.
    pub fn load_next(dir: &Path) -> Result<Option<Authority>, IdentityError> {
        load(&dir.join(NEXT_AUTHORITY))?.as_ref().map(Authority::of).transpose()
    }

    pub fn save_as_next(&self, dir: &Path) -> Result<(), IdentityError> {
        save(dir, NEXT_AUTHORITY, &self.key())
    }

    pub fn forget_next(dir: &Path) -> Result<(), IdentityError> {
        remove(&dir.join(NEXT_AUTHORITY))
    }

    /// When the node is no voter any more.
    pub fn forget(dir: &Path) -> Result<(), IdentityError> {
        Authority::forget_next(dir)?;
        remove(&dir.join(AUTHORITY))
    }

    pub fn key(&self) -> AuthorityKey {
        AuthorityKey {
            cluster: self.cluster,
            certificate: self.certificate.clone(),
            key: Secret(self.key.serialize_der()),
        }
    }

    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }

    /// A certificate for the key of the next authority.
    pub fn certify(&self, next: &Authority, now_ms: u64) -> Result<Vec<u8>, IdentityError> {
        let mut params = authority_params(next.cluster, &next.key);
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(now_ms, AUTHORITY_DAYS);
        let own = authority_params(self.cluster, &self.key);
        let issuer = Issuer::from_params(&own, &self.key);
        Ok(params.signed_by(&next.key, &issuer)?.der().to_vec())
    }

    /// Signs that a node is a voter, see `proof`.
    pub fn prove_voter(&self, node: NodeId) -> Result<Vec<u8>, IdentityError> {
        Ok(self.key.sign(&statement(self.cluster, node))?)
    }

    /// A certificate for a node.
    pub fn sign(&self, node: NodeId, key: &PublicKey, now_ms: u64) -> Result<Issued, IdentityError> {
        let name = dns_name(self.cluster, node);
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("vswitch node {}", node.0), self.cluster);
        params.subject_alt_names = vec![SanType::DnsName(name.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
        (params.not_before, params.not_after) = validity(now_ms, NODE_DAYS);
        let authority = authority_params(self.cluster, &self.key);
        let issuer = Issuer::from_params(&authority, &self.key);
        let certificate = params.signed_by(&NodeKey(key), &issuer)?.der().to_vec();
        Ok(Issued { certificate, issued_at_ms: now_ms, expires_at_ms: now_ms + NODE_DAYS * DAY_MS })
    }
}

/// SHA-256 of a certificate.
pub fn digest(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// A new key for a node: both halves.
pub fn new_key() -> Result<(Secret, PublicKey), IdentityError> {
    let pair = KeyPair::generate_for(&PKCS_ED25519)?;
    let public = pair.public_key_raw().try_into().expect("an Ed25519 key has 32 bytes");
    Ok((Secret(pair.serialize_der()), public))
}

/// The name that a node's certificate is for.
pub fn dns_name(cluster: ClusterId, node: NodeId) -> String {
    format!("node-{}.{cluster}.{DOMAIN}", node.0)
}

/// The node that a verified certificate names.
pub fn node_of(certificate: &CertificateDer<'_>, cluster: ClusterId) -> Option<NodeId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate.valid_dns_names();
    let (name, None) = (names.next()?, names.next()) else { return None };
    let (node, rest) = name.strip_prefix("node-")?.split_once('.')?;
    let node = NodeId(node.parse().ok()?);
    (rest == format!("{cluster}.{DOMAIN}") && name == dns_name(cluster, node)).then_some(node)
}

struct NodeKey<'a>(&'a PublicKey);

impl PublicKeyData for NodeKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

fn named(name: &str, cluster: ClusterId) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished.push(DnType::OrganizationName, format!("vswitch cluster {cluster}"));
    distinguished
}

/// What a verifier compares between a certificate and its issuer's is made from this both times.
fn authority_params(cluster: ClusterId, key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let digest = hex(&Sha256::digest(key.public_key_raw())[..8]);
    params.distinguished_name = named(&format!("vswitch certificate authority {digest}"), cluster);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn validity(now_ms: u64, days: u64) -> (OffsetDateTime, OffsetDateTime) {
    let at = |ms: u64| {
        let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
        // X.509 cannot write years of more than four digits.
        let last = OffsetDateTime::new_utc(
            time::Date::from_ordinal_date(9999, 365).expect("every year has 365 days"),
            time::Time::MIDNIGHT,
        );
        OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(last).min(last)
    };
    (at(now_ms.saturating_sub(SLACK_MS)), at(now_ms.saturating_add(days * DAY_MS)))
}

/// Makes the directory, for its owner only.
pub(super) fn make_private_dir(dir: &Path) -> Result<(), IdentityError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| IdentityError::Io { path: dir.into(), source })
}

/// Replaces a file as a whole. Durable when it returns.
pub(super) fn save(dir: &Path, name: &str, value: &impl Serialize) -> Result<(), IdentityError> {
    make_private_dir(dir)?;
    let bytes =
        postcard::to_extend(value, vec![VERSION]).expect("plain data into memory can always be encoded");
    let unfinished = dir.join(format!("{name}.new"));
    let write = || {
        remove_if_there(&unfinished)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, dir.join(name))?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| IdentityError::Io { path: dir.join(name), source })
}

pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, IdentityError> {
    let io = |source| IdentityError::Io { path: path.into(), source };
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    if length > FILE_BYTES_MAX {
        return Err(IdentityError::Damaged(path.into()));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    match bytes.split_first() {
        Some((&VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(Some(value)),
            _ => Err(IdentityError::Damaged(path.into())),
        },
        Some((&found, _)) if found > VERSION => Err(IdentityError::Newer { path: path.into(), found }),
        _ => Err(IdentityError::Damaged(path.into())),
    }
}

pub(super) fn remove(path: &Path) -> Result<(), IdentityError> {
    remove_if_there(path).map_err(|source| IdentityError::Io { path: path.into(), source })
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn identity(authority: &Authority, node: u64) -> Identity {
        let (key, public) = new_key().unwrap();
        let issued = authority.sign(NodeId(node), &public, NOW_MS).unwrap();
        let authority = authority.certificate().to_vec();
        Identity {
            cluster: ClusterId([7; 16]),
            incarnation: 0,
            node: NodeId(node),
            issued,
            key,
            trusted: vec![authority.clone()],
            authority,
            cross: Vec::new(),
        }
    }

    #[test]
    fn a_certificate_names_its_node_and_cluster() {
        let authority = Authority::found(ClusterId([7; 16]), NOW_MS).unwrap();
        let identity = identity(&authority, 42);
        let der = CertificateDer::from(identity.issued.certificate.clone());
        assert_eq!(node_of(&der, ClusterId([7; 16])), Some(NodeId(42)));
        assert_eq!(node_of(&der, ClusterId([8; 16])), None);
        assert_eq!(
            node_of(&CertificateDer::from(authority.certificate().to_vec()), ClusterId([7; 16])),
            None
        );
        assert_eq!(node_of(&CertificateDer::from(vec![0x30, 0]), ClusterId([7; 16])), None);
    }

    #[test]
    fn a_certificate_is_due_after_two_thirds_of_ninety_days() {
        let authority = Authority::found(ClusterId([7; 16]), NOW_MS).unwrap();
        let issued = identity(&authority, 1).issued;
        assert_eq!(issued.expires_at_ms - NOW_MS, 90 * DAY_MS);
        assert_eq!(issued.renew_at_ms() - NOW_MS, 60 * DAY_MS);
    }

    #[test]
    fn a_clock_that_is_far_off_makes_a_certificate_all_the_same() {
        for now_ms in [0, u64::MAX / 2, u64::MAX - 100 * DAY_MS] {
            let authority = Authority::found(ClusterId([7; 16]), now_ms).unwrap();
            authority.sign(NodeId(1), &[9; 32], now_ms).unwrap();
        }
    }

    #[test]
    fn files_are_private_whole_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("cluster");
        assert!(Identity::load(&dir).unwrap().is_none());
        let authority = Authority::found(ClusterId([7; 16]), NOW_MS).unwrap();
        let identity = identity(&authority, 3);
        identity.save(&dir).unwrap();
        identity.save(&dir).unwrap();
        authority.save(&dir).unwrap();
        assert_eq!(Identity::load(&dir).unwrap().unwrap(), identity);
        let loaded = Authority::load(&dir).unwrap().unwrap();
        assert_eq!(loaded.key(), authority.key());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join(IDENTITY))), (0o700, 0o600));
        assert_eq!(mode(&dir.join(AUTHORITY)), 0o600);

        let good = std::fs::read(dir.join(IDENTITY)).unwrap();
        for bad in [&good[..good.len() - 1], &[], &[0], &[&good[..], &[0]].concat()] {
            std::fs::write(dir.join(IDENTITY), bad).unwrap();
            assert!(matches!(Identity::load(&dir), Err(IdentityError::Damaged(_))));
        }
        std::fs::write(dir.join(IDENTITY), [9, 9]).unwrap();
        assert!(matches!(Identity::load(&dir), Err(IdentityError::Newer { found: 9, .. })));
        authority.save_as_next(&dir).unwrap();
        assert_eq!(Authority::load_next(&dir).unwrap().unwrap().key(), authority.key());
        Authority::forget(&dir).unwrap();
        Authority::forget(&dir).unwrap();
        assert!(Authority::load(&dir).unwrap().is_none() && Authority::load_next(&dir).unwrap().is_none());
    }

    #[test]
    fn no_secret_is_printed() {
        let authority = Authority::found(ClusterId([7; 16]), NOW_MS).unwrap();
        let secret = format!("{:?}", &authority.key().key.0);
        let identity = identity(&authority, 3);
        for text in [format!("{authority:?}"), format!("{:?}", authority.key()), format!("{identity:?}")] {
            assert!(!text.contains(secret.trim_matches(['[', ']'])), "{text}");
            assert!(!text.contains(format!("{:?}", identity.key.0).trim_matches(['[', ']'])), "{text}");
        }
    }
}
