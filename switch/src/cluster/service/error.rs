//! Why the cluster did not do what it was asked.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use vswitch_proto::api::ErrorKind;
use vswitch_proto::id::{ClusterId, Name, NodeId};

use super::super::group::NotProposed;
use super::super::identity::IdentityError;
use super::super::log::OpenError;
use super::super::token::TokenError;
use super::super::transport::LinkError;
use super::super::transport::tls::CredentialsError;
use super::super::transport::wire::{Denied, Refusal};
use super::snapshot::SnapshotFileError;
use crate::state::Rejected;

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("this node is in no cluster: run `vswitchctl cluster init` or `vswitchctl cluster join`")]
    NotInACluster,
    #[error("this node is in cluster {0} already: run `vswitchctl cluster leave` first")]
    InACluster(ClusterId),
    #[error("this node listens for no other nodes: start vswitchd with --listen IP:PORT")]
    NotListening,
    #[error(
        "no quorum: {needed} of {voters} voters have to agree and {}: see `vswitchctl cluster health`",
        match leader {
            Some(node) => format!("node {} does not answer in time", node.0),
            None => "no leader is in reach".into(),
        }
    )]
    NoQuorum { voters: usize, needed: usize, leader: Option<NodeId> },
    #[error("the cluster refuses this node: {0}")]
    Fenced(Refusal),
    #[error("{0}")]
    StoreFailed(String),
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    NotProposed(#[from] NotProposed),
    #[error(
        "this node has overlay networks of its own: {}: remove them first (docker network rm for what Docker has of \
         them, then vswitchctl network rm), or join with --discard",
        list(.0)
    )]
    HasNetworks(Vec<Name>),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("no address to join was given: pass the address of a node of the cluster")]
    NoAddress,
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{address} answered, but the cluster has no leader at present: try again in a moment")]
    NobodyLeads { address: SocketAddr },
    #[error(
        "the cluster took this node in and cannot reach it at {0}: check --listen and the firewall, then join again"
    )]
    NotReached(SocketAddr),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(
        "the cluster's log is missing beside its identity in {}: restore it, or move the directory away and join again",
        .0.display()
    )]
    LogMissing(std::path::PathBuf),
    #[error(
        "this node has no key of the cluster's authority, it was no voter: recover on one that was, or found a new \
         cluster from a snapshot"
    )]
    NoAuthority,
    #[error("cannot listen on {address}: {source}: check --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot start the thread of the cluster: {0}")]
    Thread(std::io::Error),
    #[error(transparent)]
    Snapshot(#[from] SnapshotFileError),
    #[error("there is no node {0}: see `vswitchctl node ls`")]
    NoSuchNode(String),
    #[error("the cluster answered what was not asked: run the same version on all nodes")]
    Unexpected,
}

fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

impl ClusterError {
    pub fn kind(&self) -> ErrorKind {
        use ClusterError::*;
        match self {
            NoQuorum { .. } | NobodyLeads { .. } => ErrorKind::NoQuorum,
            Rejected(rejected) => rejected.kind(),
            NotProposed(error) => error.kind(),
            Denied(denied) => denied_kind(denied),
            InACluster(_) | HasNetworks(_) => ErrorKind::Conflict,
            NotInACluster | NotListening | Token(_) | NoAddress => ErrorKind::Invalid,
            NoSuchNode(_) => ErrorKind::NotFound,
            Snapshot(_) => ErrorKind::Invalid,
            Fenced(_)
            | StoreFailed(_)
            | Link(_)
            | NotReached(_)
            | Identity(_)
            | Credentials(_)
            | Open(_)
            | LogMissing(_)
            | NoAuthority
            | Listen { .. }
            | Thread(_)
            | Unexpected => ErrorKind::Failed,
        }
    }
}

fn denied_kind(denied: &Denied) -> ErrorKind {
    match denied {
        Denied::Rejected(rejected) => rejected.kind(),
        Denied::NotAMember(_) => ErrorKind::NotFound,
        Denied::BreaksQuorum { .. }
        | Denied::NoVoter(_)
        | Denied::VoterAlready(_)
        | Denied::TooManyVoters
        | Denied::Reachable(_)
        | Denied::HasLeases { .. }
        | Denied::NoSuccessor => ErrorKind::Conflict,
        Denied::TooLarge => ErrorKind::Invalid,
        Denied::Token
        | Denied::NotAVoter
        | Denied::NotAllowed
        | Denied::NoCertificate
        | Denied::NotCaughtUp(_)
        | Denied::NoAuthority
        | Denied::Certificate => ErrorKind::Failed,
    }
}
