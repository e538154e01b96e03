//! What other nodes are answered.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;
use vswitch_proto::command::{Role as Vote, SharedChange};
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::Message;

use super::super::group::{NotProposed, Role};
use super::super::identity::PublicKey;
use super::super::role::Sender;
use super::super::runs::Reached;
use super::super::transport::wire::{
    Asked, Denied, Join, Joined, NodeProgress, Progress, Refusal, Request, Response,
};
use super::super::transport::{Caller, LinkError, Serve};
use super::engine::{Input, Proposed};
use super::member::Member;
use crate::state::shared::{Applied, Membership};

/// For applying what a digest is asked for.
const CATCH_UP: Duration = Duration::from_secs(3);

impl Serve for Member {
    /// An id that this node has not heard of yet is that of a newer node: the authority signs for members only.
    fn admit(&self, node: NodeId) -> Result<(), Refusal> {
        match self.state().membership(node) {
            Membership::Removed => Err(Refusal::Fenced(node)),
            Membership::Member | Membership::Unknown => Ok(()),
        }
    }

    fn acknowledged(&self, node: NodeId) -> Option<Reached> {
        let view = self.view();
        view.status.peers.iter().find(|peer| peer.node == node)?.acknowledged
    }

    fn turned_away(&self, node: NodeId, at: SocketAddr, refusal: &Refusal) {
        self.note_copy(node, at, refusal);
    }

    fn receive(&self, from: Sender, message: Message) {
        if !self.engine.offer(Input::Message(from, message)) {
            tracing::debug!(node = from.node.0, "a message was dropped: the cluster's thread is behind");
        }
    }

    async fn answer(&self, caller: Caller, request: Request) -> Response {
        match (caller, request) {
            (Caller::Joiner(_), Request::Join(join)) => self.take_in(*join).await,
            (Caller::Joiner(_), _) | (Caller::Passing, _) => Response::Denied(Denied::NoCertificate),
            (Caller::Node(_), Request::Join(_)) => Response::Denied(Denied::NotAllowed),
            (Caller::Node(node), request) => self.answer_node(node, request).await,
        }
    }

    fn refused(&self, by: NodeId, refusal: Refusal) {
        let applied = self.view().status.applied;
        match refusal {
            Refusal::Twice { .. } | Refusal::Restored(_) => self.mute(by, refusal),
            Refusal::Fenced(_) | Refusal::Superseded | Refusal::Distrusted => {
                let mut refused = self.refused.write().unwrap_or_else(PoisonError::into_inner);
                if refused.is_none() {
                    tracing::warn!(node = by.0, "this node is refused: {refusal}");
                }
                *refused = Some((refusal, applied));
                self.refusals.notify_one();
            }
            Refusal::OtherCluster { .. } | Refusal::NoCertificate | Refusal::Busy => {
                tracing::warn!(node = by.0, "this node is refused: {refusal}");
            }
        }
    }

    fn unreachable(&self, node: NodeId) {
        _ = self.engine.offer(Input::Unreachable(node));
    }

    fn connected(&self, node: NodeId) {
        self.note_clock(node, None);
        self.unmute(node);
    }

    fn not_connected(&self, node: NodeId, error: &LinkError) {
        // Another error says nothing about the clock: the connection may break before the reason comes.
        if matches!(error, LinkError::OutOfTime { .. } | LinkError::FoundOutOfTime(_)) {
            self.note_clock(node, Some(error.to_string().into()));
        }
    }
}

impl Member {
    async fn answer_node(&self, node: NodeId, request: Request) -> Response {
        match request {
            Request::Propose { asked, change } => self.propose_for(node, asked, change).await,
            Request::Renew { public_key } => self.renew(node, &public_key),
            Request::Authority => self.give_authority(node).await,
            Request::NextAuthority(key) => self.keep_next_authority(node, &key).await,
            Request::Digest { at_least } => self.digest(at_least).await,
            Request::Progress => self.progress().map_or_else(|| self.not_leader(), Response::Progress),
            Request::Manage(manage) => self.lead(node, manage).await,
            Request::Facts => Response::Facts(self.facts()),
            Request::Whereabouts => Response::Whereabouts(self.whereabouts()),
            Request::Join(_) => Response::Denied(Denied::NotAllowed),
        }
    }

    async fn propose_for(&self, node: NodeId, asked: Asked, change: SharedChange) -> Response {
        if let Err(denied) = self.may_propose(node, &change) {
            return Response::Denied(denied);
        }
        match self.engine.propose(self.envelope(node, asked, change)).await {
            Proposed::Applied(outcome) => Response::Proposed(outcome),
            other => self.not_proposed(other),
        }
    }

    pub(super) fn not_proposed(&self, proposed: Proposed) -> Response {
        match proposed {
            Proposed::Refused(NotProposed::NotLeader { .. }) => self.not_leader(),
            Proposed::Refused(NotProposed::TooLarge(_)) => Response::Denied(Denied::TooLarge),
            Proposed::Refused(NotProposed::Busy | NotProposed::Down) => Response::Busy,
            Proposed::Applied(Err(rejected)) => Response::Denied(Denied::Rejected(rejected)),
            Proposed::Applied(Ok(_)) => Response::Done,
            Proposed::Lost => Response::Unsettled,
        }
    }

    pub(super) fn not_leader(&self) -> Response {
        let leader = self.view().status.leader.filter(|leader| *leader != self.node);
        let address = |node| Some((node, self.transport()?.address(node)?));
        Response::NotLeader { leader: leader.and_then(address) }
    }

    /// A host that shows a token becomes a node.
    async fn take_in(&self, join: Join) -> Response {
        let Join { request, role, secret, public_key, info } = join;
        if !self.is_leader() {
            return self.not_leader();
        }
        // A leader that was replaced and does not know yet may not know of a rotation either.
        if self.engine.read().await.is_err() {
            return self.not_leader();
        }
        let Some(authority) = self.present_authority() else { return Response::Busy };
        if !authority.accepts(role, self.state().token_epoch(role), &secret) {
            return Response::Denied(Denied::Token);
        }
        let change = SharedChange::AddNode { info, role };
        let node = match self.engine.propose(self.envelope(self.node, self.asked_now(request), change)).await
        {
            Proposed::Applied(Ok(Applied::NodeAdded { node })) => node,
            other => return self.not_proposed(other),
        };
        if self.admit(node).is_err() {
            return Response::Denied(Denied::NotAMember(node));
        }
        // It may have been replaced meanwhile; asked again, the next one signs.
        let Some(authority) = self.present_authority() else { return Response::Busy };
        let Ok(issued) = authority.sign(node, &public_key, (self.config.clock)()) else {
            return Response::Denied(Denied::Certificate);
        };
        let (identity, state) = (self.identity(), self.state());
        let Some(authorities) = state.authorities() else { return Response::Busy };
        tracing::info!(node = node.0, "a node joins");
        Response::Joined(Box::new(Joined {
            cluster: identity.cluster,
            incarnation: identity.incarnation,
            node,
            issued,
            authority: authority.certificate().to_vec(),
            cross: authorities.cross.clone(),
            trusted: authorities.trusted().map(<[u8]>::to_vec).collect(),
            nodes: state.voters().map(|node| (node.id, node.info.address)).collect(),
        }))
    }

    /// A new certificate for a node that has one.
    pub(super) fn renew(&self, node: NodeId, key: &PublicKey) -> Response {
        let Some(authority) = self.present_authority() else { return Response::Denied(Denied::NoAuthority) };
        if self.state().membership(node) != Membership::Member {
            return Response::Denied(Denied::NotAMember(node));
        }
        match authority.sign(node, key, (self.config.clock)()) {
            Ok(issued) => Response::Renewed { issued, authority: authority.certificate().to_vec() },
            Err(error) => {
                tracing::error!(node = node.0, "cannot sign a certificate: {error}");
                Response::Denied(Denied::Certificate)
            }
        }
    }

    pub(super) async fn digest(&self, at_least: u64) -> Response {
        let deadline = Instant::now() + CATCH_UP;
        let view = self.wait_for(deadline, |view| view.status.applied >= at_least).await;
        let view = view.unwrap_or_else(|| self.view());
        let digest = tokio::task::spawn_blocking(move || view.state.digest()).await;
        match digest {
            Ok(digest) => Response::Digest { index: view.status.applied, digest },
            // Only a runtime that is stopping drops its tasks.
            Err(_) => Response::Busy,
        }
    }

    /// `None`: this node does not lead.
    pub(super) fn progress(&self) -> Option<Progress> {
        let status = self.view().status;
        if status.role != Role::Leader {
            return None;
        }
        let tick_ms = self.config.tick.as_millis() as u64;
        let own = NodeProgress {
            node: self.node,
            voter: true,
            matched: status.last,
            silent_ms: Some(0),
            is_reachable: true,
        };
        let others = status.peers.iter().map(|peer| NodeProgress {
            node: peer.node,
            voter: status.members.all_voters().any(|voter| voter == peer.node),
            matched: peer.matched,
            silent_ms: peer.silent_ticks.map(|ticks| ticks * tick_ms),
            is_reachable: peer.is_reachable,
        });
        Some(Progress {
            leader: self.node,
            term: status.term,
            last: status.last,
            committed: status.committed,
            nodes: std::iter::once(own).chain(others).collect(),
        })
    }

    /// Whether a node votes by the state.
    pub(super) fn votes(&self, node: NodeId) -> bool {
        self.state().node(node).is_some_and(|node| node.role == Vote::Voter)
    }
}
