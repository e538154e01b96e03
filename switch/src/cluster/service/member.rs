//! A node that is in a cluster: what it proposes, reads, and asks of the leader.
//!
//! Whatever a node wants of the group it asks the present leader for, itself or another, until it has an answer or
//! the time is up. Asking again is harmless: a proposal carries a request id that the state remembers.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use vswitch_proto::command::{NodeInfo, Role as Vote, SharedChange, SharedCommand, SharedEnvelope};
use vswitch_proto::id::{NodeId, RequestId};

use super::super::group::{NotProposed, Role};
use super::super::identity::{Authority, Identity};
use super::super::transport::wire::{Asked, Denied, Manage, Refusal, Request, Response};
use super::super::transport::{CallError, Transport};
use super::copies::Copies;
use super::engine::{Engine, Proposed, View};
use super::error::ClusterError;
use super::{Config, MANAGE_PATIENCE};
use crate::state::Rejected;
use crate::state::shared::{Applied, Membership, Shared};

/// Between two attempts.
const RETRY: Duration = Duration::from_millis(50);
/// Of one attempt: a leader that died answers nothing.
const CALL: Duration = Duration::from_secs(1);
/// Of one attempt at a change of the membership, which takes several steps.
const MANAGE_CALL: Duration = Duration::from_secs(8);
const UNSETTLED_MAX: usize = 1024;

pub(super) type Slot = Arc<RwLock<Option<Transport<Member>>>>;

pub(super) struct Member {
    pub(super) config: Arc<Config>,
    pub(super) dir: PathBuf,
    pub(super) node: NodeId,
    pub(super) engine: Engine,
    /// Empty before the start and after the end.
    pub(super) transport: Slot,
    pub(super) identity: RwLock<Arc<Identity>>,
    pub(super) authority: RwLock<Option<Arc<Authority>>>,
    /// Somebody refused this node; with what was applied here then.
    pub(super) refused: RwLock<Option<(Refusal, u64)>>,
    /// That `refused` was set.
    pub(super) refusals: tokio::sync::Notify,
    /// Held while the membership is changed in several steps.
    pub(super) managing: tokio::sync::Mutex<()>,
    pub(super) unsettled: Unsettled,
    /// Nodes to which there is no connection because a clock is outside the time of a certificate, and how.
    pub(super) clocks: Mutex<BTreeMap<NodeId, (Arc<str>, Instant)>>,
    pub(super) copies: Copies,
}

/// Requests that this node gave up on, and when they were first asked, in [`Shared::requests`]: whoever asks again under
/// the same id asks no later. The ones that were given up on last.
#[derive(Default)]
pub(super) struct Unsettled(Mutex<VecDeque<(RequestId, u64)>>);

impl Unsettled {
    fn asked_at(&self, request: RequestId) -> Option<u64> {
        self.lock().iter().find(|(id, _)| *id == request).map(|(_, asked_at)| *asked_at)
    }

    fn note(&self, request: RequestId, asked_at: u64) {
        let mut unsettled = self.lock();
        if unsettled.iter().any(|(id, _)| *id == request) {
            return;
        }
        if unsettled.len() == UNSETTLED_MAX {
            unsettled.pop_front();
        }
        unsettled.push_back((request, asked_at));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(RequestId, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    pub(super) fn view(&self) -> View {
        self.engine.view()
    }

    pub(super) fn state(&self) -> Arc<Shared> {
        self.view().state
    }

    pub(super) fn identity(&self) -> Arc<Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn authority(&self) -> Option<Arc<Authority>> {
        self.authority.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_authority(&self, authority: Option<Authority>) {
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = authority.map(Arc::new);
        self.show_proof();
    }

    pub(super) fn transport(&self) -> Option<Transport<Member>> {
        self.transport.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why nobody talks to this node any more. What is heard of the cluster after that says otherwise.
    pub(super) fn fenced(&self) -> Option<Refusal> {
        let refused = self.refused.read().unwrap_or_else(PoisonError::into_inner).clone();
        let view = self.view();
        if view.state.membership(self.node) == Membership::Removed {
            return Some(Refusal::Fenced(self.node));
        }
        refused.filter(|(_, applied)| *applied == view.status.applied).map(|(refusal, _)| refusal)
    }

    /// Whether what the state says of this node's leases holds. It does not once the node is removed, or is refused and
    /// hears of no leader: others may have its addresses by now. A single node that refuses it while the others go on
    /// with it does not count.
    pub(super) fn is_in_effect(&self) -> bool {
        let view = self.view();
        let is_removed = view.state.membership(self.node) == Membership::Removed;
        !is_removed && (view.status.leader.is_some() || self.fenced().is_none())
    }

    pub(super) fn is_leader(&self) -> bool {
        self.view().status.role == Role::Leader
    }

    /// What this node tells of itself.
    pub(super) fn info(&self) -> NodeInfo {
        NodeInfo { certificate: Some(self.identity().issued.digest()), ..self.config.info() }
    }

    pub(super) fn envelope(&self, from: NodeId, asked: Asked, change: SharedChange) -> SharedEnvelope {
        let command = SharedCommand { from, asked_at: asked.at, change };
        SharedEnvelope { request_id: asked.request, at_ms: (self.config.clock)(), command }
    }

    /// Asked for the first time.
    pub(super) fn asked_now(&self, request: RequestId) -> Asked {
        Asked { request, at: self.state().requests() }
    }

    /// Makes a change in the name of this node. It is in [`Member::state`] when this returns.
    pub(super) async fn propose(
        &self,
        change: SharedChange,
        request: RequestId,
    ) -> Result<Applied, ClusterError> {
        let deadline = Instant::now() + self.config.patience;
        let at = self.unsettled.asked_at(request).unwrap_or_else(|| self.state().requests());
        let asked = Asked { request, at };
        let outcome = loop {
            if let Ok(Some(outcome)) = timeout_at(deadline, self.try_propose(&change, asked)).await {
                break outcome?;
            }
            if let Err(error) = self.pause(deadline).await {
                self.unsettled.note(request, at);
                return Err(error);
            }
        };
        // Settled by another node, it comes here with the next message of the leader.
        _ = self.wait_for(deadline, |view| view.state.is_settled(&request)).await;
        Ok(outcome?)
    }

    /// `None`: not settled, ask again.
    async fn try_propose(
        &self,
        change: &SharedChange,
        asked: Asked,
    ) -> Option<Result<Result<Applied, Rejected>, ClusterError>> {
        if self.is_leader() {
            let envelope = self.envelope(self.node, asked, change.clone());
            return match self.engine.propose(envelope).await {
                Proposed::Applied(outcome) => Some(Ok(outcome)),
                Proposed::Refused(error @ NotProposed::TooLarge(_)) => Some(Err(error.into())),
                Proposed::Refused(_) | Proposed::Lost => None,
            };
        }
        match self.ask_leader(Request::Propose { asked, change: change.clone() }, CALL).await? {
            Response::Proposed(outcome) => Some(Ok(outcome)),
            Response::Denied(denied) => Some(Err(denied.into())),
            _ => None,
        }
    }

    /// The state with everything that was answered to anybody before this was called.
    pub(super) async fn read(&self) -> Result<Arc<Shared>, ClusterError> {
        let deadline = Instant::now() + self.config.patience;
        while !matches!(timeout_at(deadline, self.engine.read()).await, Ok(Ok(()))) {
            self.pause(deadline).await?;
        }
        Ok(self.state())
    }

    /// Has the leader change who is in the cluster, and as what.
    pub(super) async fn manage(&self, manage: Manage) -> Result<Response, ClusterError> {
        let deadline = Instant::now() + self.config.patience.max(MANAGE_PATIENCE);
        let mut led_at = Instant::now();
        loop {
            match timeout_at(deadline, self.try_manage(&manage)).await {
                Ok(Some(Response::Denied(denied))) => return Err(denied.into()),
                Ok(Some(response @ (Response::Done | Response::Token(_) | Response::Rotated(_)))) => {
                    return Ok(response);
                }
                _ => {
                    // What takes several steps has its time, but not without anybody who takes them.
                    if self.view().status.leader.is_some() {
                        led_at = Instant::now();
                    }
                    self.pause(deadline.min(led_at + self.config.patience)).await?;
                }
            }
        }
    }

    async fn try_manage(&self, manage: &Manage) -> Option<Response> {
        if self.is_leader() {
            return Some(self.lead(self.node, manage.clone()).await);
        }
        self.ask_leader(Request::Manage(manage.clone()), MANAGE_CALL).await
    }

    /// Before the next attempt, if there may be one.
    async fn pause(&self, deadline: Instant) -> Result<(), ClusterError> {
        if let Some(refusal) = self.fenced() {
            return Err(ClusterError::Fenced(refusal));
        }
        if Instant::now() + RETRY >= deadline {
            return Err(self.no_quorum());
        }
        sleep(RETRY).await;
        Ok(())
    }

    /// `None`: there is no leader, or it does not answer.
    pub(super) async fn ask_leader(&self, request: Request, patience: Duration) -> Option<Response> {
        let leader = self.view().status.leader.filter(|leader| *leader != self.node)?;
        let mut leaders = self.engine.watch_leader();
        tokio::select! {
            response = self.call(leader, request, patience) => response.ok(),
            // The next one knows better.
            _ = leaders.wait_for(|next| *next != Some(leader)) => None,
        }
    }

    pub(super) async fn call(
        &self,
        node: NodeId,
        request: Request,
        patience: Duration,
    ) -> Result<Response, CallError> {
        let transport = self.transport().ok_or(CallError::Stopped)?;
        transport.call(node, request, patience).await
    }

    /// Until what is published satisfies `is_met`.
    pub(super) async fn wait_for(
        &self,
        deadline: Instant,
        mut is_met: impl FnMut(&View) -> bool,
    ) -> Option<View> {
        let mut views: watch::Receiver<View> = self.engine.watch();
        let met = timeout_at(deadline, views.wait_for(|view| is_met(view))).await;
        met.ok()?.ok().map(|view| view.clone())
    }

    /// Why nothing was settled in time.
    pub(super) fn no_quorum(&self) -> ClusterError {
        let view = self.view();
        if let Some(refusal) = self.fenced() {
            return ClusterError::Fenced(refusal);
        }
        if let Some(failure) = view.failure {
            return ClusterError::StoreFailed(failure.to_string());
        }
        let voters = view.status.members.voters.len();
        ClusterError::NoQuorum { voters, needed: voters / 2 + 1, leader: view.status.leader }
    }

    /// Whether a node may make this change by itself; the others are the leader's to make.
    pub(super) fn may_propose(&self, node: NodeId, change: &SharedChange) -> Result<(), Denied> {
        match change {
            SharedChange::AddNode { .. }
            | SharedChange::SetRole { .. }
            | SharedChange::RemoveNode { .. }
            | SharedChange::RotateToken { .. }
            | SharedChange::RotateAuthority { .. }
            | SharedChange::DropAuthority { .. } => Err(Denied::NotAllowed),
            SharedChange::UpdateNode { node: of, .. } if *of != node && !self.is_voter(node) => {
                Err(Denied::NotAllowed)
            }
            SharedChange::UpdateNode { .. }
            | SharedChange::TakeAuthority { .. }
            | SharedChange::CreateNetwork(_)
            | SharedChange::RemoveNetwork { .. }
            | SharedChange::Reserve(_)
            | SharedChange::Release { .. }
            | SharedChange::Describe { .. }
            | SharedChange::Bind { .. }
            | SharedChange::Unbind { .. } => Ok(()),
        }
    }

    pub(super) fn is_voter(&self, node: NodeId) -> bool {
        self.state().node(node).is_some_and(|node| node.role == Vote::Voter)
    }
}
