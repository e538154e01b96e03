//! What nodes say to each other, beside the protocol of the group itself.
//!
//! A connection begins with a [`Hello`] from each side, whose layout never changes, so that any two versions can name
//! each other. Then the side that connected introduces itself, is answered with a [`Verdict`], and sends [`Down`]
//! frames, which are answered with [`Up`] frames. All but the hello is postcard.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vswitch_proto::api::{PROBLEM_CHARS_MAX, PROBLEMS_MAX, Problem};
use vswitch_proto::command::{NodeInfo, Role, SharedChange};
use vswitch_proto::id::{ClusterId, NodeId, RequestId};
use vswitch_proto::peer::MESSAGE_BYTES_MAX;

use super::super::identity::{AuthorityKey, Issued, PublicKey};
use super::super::runs::Run;
use super::super::token::TokenSecret;
use crate::state::Rejected;
use crate::state::shared::Applied;

/// Raised when nodes of this version and of the one before cannot understand each other.
pub const PROTOCOL: u16 = 2;
/// Of one frame from a node.
pub const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 64;
/// Of one frame from somebody who has no certificate.
pub const JOIN_BYTES_MAX: usize = 4096;
/// Of a hello and of an introduction.
pub const HELLO_BYTES_MAX: usize = 256;
const MAGIC: &[u8] = b"vswitch\n";
const VERSION_CHARS_MAX: usize = 64;

/// Who is there: magic, protocol as two bytes in big-endian order, version as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub protocol: u16,
    pub version: String,
}

impl Hello {
    pub fn own() -> Hello {
        Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").into() }
    }

    pub fn encode(&self) -> Vec<u8> {
        [MAGIC, &self.protocol.to_be_bytes(), self.version.as_bytes()].concat()
    }

    pub fn decode(bytes: &[u8]) -> Option<Hello> {
        let (protocol, version) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
        let version = std::str::from_utf8(version).ok()?;
        let printable = version.chars().all(|c| c.is_ascii_graphic()) && version.len() <= VERSION_CHARS_MAX;
        printable.then(|| Hello { protocol: u16::from_be_bytes(*protocol), version: version.into() })
    }
}

/// From the side that connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Introduction {
    /// Its certificate says which one.
    Node { cluster: ClusterId, incarnation: u32, address: SocketAddr },
    /// Somebody without a certificate, who may only ask to join.
    Joiner,
    /// As `Node`, to a side that knows [`CURRENT`](super::tls::CURRENT), as what follows.
    Member(Box<Card>),
    /// Asks only which run answers, and ends.
    Who,
}

/// What a node shows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    pub cluster: ClusterId,
    pub incarnation: u32,
    /// Where it listens.
    pub address: SocketAddr,
    pub run: Run,
    /// The voter's proof that it is one (`cluster/proof.rs`); empty if the node has none.
    pub proof: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Welcome,
    Refused(Refusal),
    /// As `Welcome`, by this run, to a `Member` or `Who`.
    WelcomeBy(Run),
}

/// Why a node does not talk to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error(
        "node {} was removed from the cluster: `vswitchctl cluster leave --force` there, then join it again", .0.0
    )]
    Fenced(NodeId),
    #[error(
        "the cluster was recovered without this node: `vswitchctl cluster leave --force` there, then join it again"
    )]
    Superseded,
    #[error(
        "the cluster's authority was replaced while this node was away, and its certificate is not trusted any more: \
         `vswitchctl node rm --force` it on another node, `vswitchctl cluster leave --force` there, then join it again \
         with a new token"
    )]
    Distrusted,
    #[error("it belongs to cluster {theirs}, this is cluster {ours}")]
    OtherCluster { ours: ClusterId, theirs: ClusterId },
    #[error("it has no certificate of this cluster: join it first")]
    NoCertificate,
    #[error("too many connections: try again in a moment")]
    Busy,
    #[error(
        "node {} runs already, at {at}, from the same data directory as this one, of which one is a copy: stop the copy, \
         `vswitchctl cluster leave --force` there, then join it as a node of its own", .node.0
    )]
    Twice { node: NodeId, at: SocketAddr },
    #[error(
        "the data directory of node {} is a copy or was put back from a backup: it has forgotten what the node \
         acknowledged. `vswitchctl node rm --force` it on another node, `vswitchctl cluster leave --force` there, then \
         join it again", .0.0
    )]
    Restored(NodeId),
}

/// To the side that accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Down {
    /// An encoded [`Message`](vswitch_proto::peer::Message).
    Group(#[serde(with = "serde_bytes")] Vec<u8>),
    Call {
        id: u64,
        request: Request,
    },
    /// Nothing to say, and still there.
    Alive,
}

/// To the side that connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Up {
    Answer {
        id: u64,
        response: Response,
    },
    /// Nothing to say, and still there.
    Alive,
    /// From now on; the connection ends.
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The only one that needs no certificate.
    Join(Box<Join>),
    /// Answered by the leader, in the name of the asking node.
    Propose {
        asked: Asked,
        change: SharedChange,
    },
    Renew {
        public_key: PublicKey,
    },
    /// The authority's key; for voters.
    Authority,
    /// By the leader to voters: what they keep in case it becomes the next one.
    NextAuthority(AuthorityKey),
    /// How far the answering node is, as soon as it has applied this much.
    Digest {
        at_least: u64,
    },
    /// What the leader knows of all nodes.
    Progress,
    /// By the leader, and but for leaving, in the name of a voter.
    Manage(Manage),
    /// What the answering node says of itself. Since [`CURRENT`](super::tls::CURRENT), as all that follow.
    Facts,
    /// Where the answering node has found others that moved.
    Whereabouts,
}

impl Request {
    /// Whether a node that does not know [`CURRENT`](super::tls::CURRENT) understands it.
    pub fn is_known_to_all(&self) -> bool {
        !matches!(self, Request::Facts | Request::Whereabouts)
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its clock, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub problems: Vec<Problem>,
}

impl Facts {
    /// Keeps to the bounds of what one node takes from another.
    pub fn bounded(mut self) -> Facts {
        self.problems.truncate(PROBLEMS_MAX);
        for problem in &mut self.problems {
            // One line, and nothing that a terminal acts on.
            let printable = problem.message.chars().filter(|c| !c.is_control());
            problem.message = printable.take(PROBLEM_CHARS_MAX).collect();
        }
        self
    }
}

/// Sent to a node that may have been the leader of old; it answers where to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Repeated, it gives the same node.
    pub request: RequestId,
    pub role: Role,
    pub secret: TokenSecret,
    pub public_key: PublicKey,
    pub info: NodeInfo,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manage {
    Promote(NodeId),
    Demote(NodeId),
    /// `force`: although it can be reached.
    Remove {
        node: NodeId,
        force: bool,
    },
    /// To another voter; `None`: to any.
    Transfer {
        to: Option<NodeId>,
    },
    ShowToken(Role),
    RotateToken {
        role: Role,
        asked: Asked,
    },
    RotateAuthority {
        asked: Asked,
    },
    /// Trusts nobody any more for a certificate of the former authority.
    DropAuthority,
}

/// How far the replacement of the authority is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    pub generation: u64,
    /// SHA-256 of the new certificate.
    pub digest: [u8; 32],
    /// Nodes that have none of its certificates yet.
    pub waiting: Vec<NodeId>,
    pub former_is_trusted: bool,
}

/// The same for every attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub request: RequestId,
    /// As [`asked_at`](vswitch_proto::command::SharedCommand::asked_at).
    pub at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Joined(Box<Joined>),
    Proposed(Result<Applied, Rejected>),
    Renewed {
        issued: Issued,
        /// The certificate of the authority that signed.
        authority: Vec<u8>,
    },
    Authority(AuthorityKey),
    Digest {
        index: u64,
        digest: [u8; 32],
    },
    Progress(Progress),
    /// The text of a token.
    Token(String),
    Rotated(Rotated),
    Done,
    /// The leader is somewhere else; `None`: nobody leads at present.
    NotLeader {
        leader: Option<(NodeId, SocketAddr)>,
    },
    /// May or may not happen yet.
    Unsettled,
    Busy,
    Denied(Denied),
    Facts(Facts),
    Whereabouts(Vec<(NodeId, SocketAddr)>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub cluster: ClusterId,
    pub incarnation: u32,
    pub node: NodeId,
    pub issued: Issued,
    /// As in [`Identity`](super::super::identity::Identity).
    pub authority: Vec<u8>,
    pub cross: Vec<u8>,
    pub trusted: Vec<Vec<u8>>,
    /// Where to find the cluster before its state has come.
    pub nodes: Vec<(NodeId, SocketAddr)>,
}

/// How far each node is, by the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub leader: NodeId,
    pub term: u64,
    pub last: u64,
    pub committed: u64,
    pub nodes: Vec<NodeProgress>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProgress {
    pub node: NodeId,
    pub voter: bool,
    pub matched: u64,
    /// `None`: never since the leader leads.
    pub silent_ms: Option<u64>,
    pub is_reachable: bool,
}

/// Why a request was turned down for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Denied {
    #[error(
        "the join token is wrong or was rotated: get the present one with `vswitchctl cluster token show`"
    )]
    Token,
    #[error("{0}")]
    Rejected(Rejected),
    #[error("only voters may do this: run it on a voter, see `vswitchctl cluster members`")]
    NotAVoter,
    #[error("only a request to join is taken without a certificate")]
    NoCertificate,
    #[error(
        "the change would break the quorum: {reachable} of {voters} voters can be reached, {} are needed: bring nodes \
         back or add some first", .voters / 2 + 1
    )]
    BreaksQuorum { reachable: u64, voters: u64 },
    #[error("node {} is not a member of the cluster: see `vswitchctl cluster members`", .0.0)]
    NotAMember(NodeId),
    #[error("node {} is no voter: see `vswitchctl cluster members`", .0.0)]
    NoVoter(NodeId),
    #[error("node {} is a voter already", .0.0)]
    VoterAlready(NodeId),
    #[error("the cluster has as many voters as it can have: demote one first")]
    TooManyVoters,
    #[error("node {} has not caught up with the cluster yet: try again in a moment", .0.0)]
    NotCaughtUp(NodeId),
    #[error("node {} still has {leases} endpoints in overlay networks: remove them, or force its removal", .node.0)]
    HasLeases { node: NodeId, leases: u64 },
    #[error("only the node itself or a voter may ask for this change")]
    NotAllowed,
    #[error("a request of this size is over the limit: make it smaller")]
    TooLarge,
    #[error("node {} can be reached: run `vswitchctl cluster leave` there, or force its removal", .0.0)]
    Reachable(NodeId),
    #[error("no other voter can take over: promote one first")]
    NoSuccessor,
    #[error("the key of the cluster's authority is not on this node yet: try again in a moment")]
    NoAuthority,
    #[error("the certificate could not be made: see the log of the leader")]
    Certificate,
}

pub fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain data into memory can always be encoded")
}

/// `None`: damaged, or not of this protocol.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_can_be_read_by_every_version() {
        let hello = Hello { protocol: 258, version: "12.0.1-rc.1".into() };
        assert_eq!(hello.encode(), b"vswitch\n\x01\x0212.0.1-rc.1");
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        for bad in
            [&b""[..], b"vswitch\n\x01", b"http/1.1", b"vswitch\n\x00\x01a\x1b[0m", b"vswitch\n\x00\x01\xff"]
        {
            assert_eq!(Hello::decode(bad), None);
        }
        assert_eq!(Hello::decode(&[MAGIC, &[0, 1], &[b'1'; 65]].concat()), None);
        assert!(Hello::own().encode().len() < HELLO_BYTES_MAX);
    }

    #[test]
    fn damaged_frames_are_told() {
        let frame = Down::Call { id: 7, request: Request::Digest { at_least: 9 } };
        let bytes = encode(&frame);
        assert_eq!(decode(&bytes), Some(frame));
        assert_eq!(decode::<Down>(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode::<Down>(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(decode::<Down>(&[200]), None);
    }
}
