//! What a [`Group`](super::Group) says of what it did, and why it did not.

use vswitch_proto::api::ErrorKind;
use vswitch_proto::id::{NodeId, RequestId};
use vswitch_proto::peer::COMMAND_BYTES_MAX;

use super::check::Nonsense;
use super::log::{OpenError, WriteError};
use super::machine::Unreadable;
use super::role::Part;

/// What came of one turn.
#[derive(Debug)]
pub struct Output<O> {
    /// Outcomes of proposals made here, in the order of the log.
    pub applied: Vec<(RequestId, O)>,
    /// Proposals made here that this node will not hear of again; see the module's documentation.
    pub lost: Vec<RequestId>,
    /// Tokens of reads; of those that failed the leader is unknown or out of reach.
    pub reads: Vec<(u64, Result<(), ReadLost>)>,
    /// The machine is not what it was.
    pub advanced: bool,
    /// The membership is not what it was.
    pub members_changed: bool,
    pub failure: Option<Failure>,
}

impl<O> Default for Output<O> {
    fn default() -> Output<O> {
        Output {
            applied: Vec::new(),
            lost: Vec::new(),
            reads: Vec::new(),
            advanced: false,
            members_changed: false,
            failure: None,
        }
    }
}

impl<O> Output<O> {
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty()
            && self.lost.is_empty()
            && self.reads.is_empty()
            && !self.advanced
            && !self.members_changed
            && self.failure.is_none()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no leader confirmed the read: the cluster has no quorum at present, try again")]
pub struct ReadLost;

/// Why the node fell silent. It tries again by itself.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the log could not be written: {0}: free some space or check the disk")]
    Write(#[from] WriteError),
    #[error("the log could not be opened again: {0}")]
    Open(#[from] OpenError),
    #[error("an entry of the log cannot be read: {0}")]
    Entry(Unreadable),
    #[error("the protocol contradicted itself, which is a defect of vswitch: please report it")]
    Panicked,
}

/// Why a proposal was not taken. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotProposed {
    #[error("this node does not lead the cluster: ask the leader")]
    NotLeader { leader: Option<NodeId> },
    #[error("too many changes are under way: try again in a moment")]
    Busy,
    #[error("a request of {0} bytes is over the limit of {COMMAND_BYTES_MAX}: make it smaller")]
    TooLarge(usize),
    #[error("the log of this node is out of reach: check its disk")]
    Down,
}

impl NotProposed {
    pub fn kind(&self) -> ErrorKind {
        match self {
            NotProposed::TooLarge(_) => ErrorKind::Invalid,
            NotProposed::NotLeader { .. } | NotProposed::Busy | NotProposed::Down => ErrorKind::Failed,
        }
    }
}

/// Why a message was dropped. A sender that is what it claims to be sends none of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    #[error("the message is for node {}, this is node {}", .to.0, .here.0)]
    Misdirected { to: NodeId, here: NodeId },
    #[error("node {} sent a message in the name of node {}", .sender.0, .from.0)]
    Forged { sender: NodeId, from: NodeId },
    /// A node whose part in the group does not include such messages.
    #[error(
        "node {}, {}, sent {message}, which only a voter may send",
        .node.0,
        if *.part == Part::Learner { "a learner" } else { "not a member" }
    )]
    NotAllowed { node: NodeId, part: Part, message: &'static str },
    /// A learner that may not end a leadership now. It is heard once the leader's term is as high.
    #[error("node {}, a learner, is ahead by {terms} terms", .node.0)]
    Ahead { node: NodeId, terms: u64 },
    /// This node does not take part at present: it was refused by a voter.
    #[error("this node does not take part until the other voters take it again")]
    Muted,
    #[error("the message makes no sense: {0}")]
    Nonsense(#[from] Nonsense),
    #[error("the message holds what cannot be read: {0}")]
    Unreadable(#[from] Unreadable),
    /// The own log is out of reach.
    #[error("the log of this node is out of reach")]
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    /// Stands for election, or asks whether it should.
    Candidate,
    /// The log is out of reach.
    Down,
}
