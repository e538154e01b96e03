//! What the leader does about the membership when somebody asks for it.
//!
//! The state says who is to be in the cluster and as what, and the group follows it (see `steward`). Removal is the
//! other way round: the node leaves the group first, because from the moment that the state knows it no more, nobody
//! talks to it, and the group might still need its vote for the change itself.
#![forbid(unsafe_code)]

use tokio::time::Instant;
use vswitch_proto::command::{Role as Vote, SharedChange};
use vswitch_proto::id::{NodeId, RequestId};
use vswitch_proto::peer::{MemberChange, VOTERS_MAX};

use super::super::membership::NotChanged;
use super::super::status::{Peer, PeerState, Status};
use super::super::transport::wire::{Asked, Denied, Manage, Response};
use super::STEP_PATIENCE;
use super::engine::{Input, Proposed, View};
use super::member::Member;

/// Entries that a node may be behind and still count as having caught up.
const LAG_MAX: u64 = 128;
/// In which a leader hears of every node that answers.
const HEARING_TICKS: u32 = 16;

impl Member {
    /// Does what `caller` asks for, if this node leads.
    pub(super) async fn lead(&self, caller: NodeId, manage: Manage) -> Response {
        if !self.is_leader() {
            return self.not_leader();
        }
        // A leader that was replaced and does not know yet may not know either who was demoted.
        if self.engine.read().await.is_err() {
            return self.not_leader();
        }
        let leaves = matches!(manage, Manage::Remove { node, .. } if node == caller);
        if !leaves && !self.votes(caller) {
            return Response::Denied(Denied::NotAVoter);
        }
        let _managing = self.managing.lock().await;
        let outcome = match manage {
            Manage::Promote(node) => self.promote(node).await,
            Manage::Demote(node) => self.demote(node).await,
            Manage::Remove { node, force } => self.remove(node, force || leaves).await,
            Manage::Transfer { to } => self.transfer(to).await,
            Manage::ShowToken(role) => self.show_token(role),
            Manage::RotateToken { role, asked } => self.rotate_token(role, asked).await,
            Manage::RotateAuthority { asked } => self.rotate_authority(asked).await,
            Manage::DropAuthority => self.drop_authority().await,
        };
        outcome.unwrap_or_else(|response| response)
    }

    async fn promote(&self, node: NodeId) -> Result<Response, Response> {
        let view = self.view();
        let member = view.state.node(node).ok_or(Response::Denied(Denied::NotAMember(node)))?;
        if view.status.members.voters.contains(&node) && member.role == Vote::Voter {
            return Err(Response::Denied(Denied::VoterAlready(node)));
        }
        if member.role != Vote::Voter && view.state.voters().count() >= VOTERS_MAX {
            return Err(Response::Denied(Denied::TooManyVoters));
        }
        let deadline = Instant::now() + STEP_PATIENCE;
        let caught_up = |view: &View| {
            let (peers, last) = (&view.status.peers, view.status.last);
            peers.iter().any(|peer| peer.node == node && has_caught_up(peer, last))
        };
        if self.wait_for(deadline, caught_up).await.is_none() {
            return Err(Response::Denied(Denied::NotCaughtUp(node)));
        }
        self.settle(SharedChange::SetRole { node, role: Vote::Voter }).await?;
        self.change_until(MemberChange::AddVoter(node), |voters, _| voters.contains(&node)).await
    }

    async fn demote(&self, node: NodeId) -> Result<Response, Response> {
        let view = self.view();
        view.state.node(node).ok_or(Response::Denied(Denied::NotAMember(node)))?;
        if !view.status.members.voters.contains(&node) {
            return Err(Response::Denied(Denied::NoVoter(node)));
        }
        self.check_quorum_without(node).await?;
        if node == self.node {
            return self.step_aside().await;
        }
        self.settle(SharedChange::SetRole { node, role: Vote::Learner }).await?;
        self.change_until(MemberChange::Demote(node), |voters, _| !voters.contains(&node)).await
    }

    async fn remove(&self, node: NodeId, force: bool) -> Result<Response, Response> {
        let view = self.view();
        let Some(member) = view.state.node(node) else {
            return Err(Response::Denied(Denied::NotAMember(node)));
        };
        if !force && (node == self.node || self.comes_about(|view| reaches(view, node)).await) {
            return Err(Response::Denied(Denied::Reachable(node)));
        }
        let leases = view.state.leases_of(node).count() as u64;
        if !force && leases > 0 {
            return Err(Response::Denied(Denied::HasLeases { node, leases }));
        }
        if member.role == Vote::Voter {
            self.check_quorum_without(node).await?;
        }
        if node == self.node {
            return self.step_aside().await;
        }
        if view.status.members.all().any(|member| member == node) {
            self.change_until(MemberChange::Remove(node), |_, all| !all.contains(&node)).await?;
        }
        self.settle(SharedChange::RemoveNode { node }).await?;
        tracing::info!(node = node.0, "the node was removed");
        Ok(Response::Done)
    }

    /// The present leader cannot do this to itself: the next one is asked again.
    async fn step_aside(&self) -> Result<Response, Response> {
        self.transfer(None).await?;
        Err(self.not_leader())
    }

    async fn transfer(&self, to: Option<NodeId>) -> Result<Response, Response> {
        let status = self.view().status;
        if to == Some(self.node) {
            return Ok(Response::Done);
        }
        if let Some(to) = to
            && !status.members.voters.contains(&to)
        {
            return Err(Response::Denied(Denied::NoVoter(to)));
        }
        let successor = |view: &View| {
            let Status { members, peers, .. } = &*view.status;
            let fits = |peer: &&Peer| {
                members.voters.contains(&peer.node)
                    && to.is_none_or(|to| to == peer.node)
                    && peer.is_reachable
            };
            peers.iter().filter(fits).max_by_key(|peer| peer.matched).map(|peer| peer.node)
        };
        if !self.comes_about(|view| successor(view).is_some()).await {
            return Err(Response::Denied(Denied::NoSuccessor));
        }
        let Some(successor) = successor(&self.view()) else { return Err(Response::Unsettled) };
        _ = self.engine.offer(Input::Transfer(successor));
        let deadline = Instant::now() + STEP_PATIENCE;
        let moved = |leader: Option<NodeId>| leader.is_some_and(|leader| leader != self.node);
        match self.wait_for(deadline, |view| moved(view.status.leader)).await {
            Some(_) => Ok(Response::Done),
            None => Err(Response::Unsettled),
        }
    }

    fn show_token(&self, role: Vote) -> Result<Response, Response> {
        let authority = self.present_authority().ok_or(Response::Denied(Denied::NoAuthority))?;
        Ok(Response::Token(authority.token(role, self.state().token_epoch(role)).reveal()))
    }

    async fn rotate_token(&self, role: Vote, asked: Asked) -> Result<Response, Response> {
        let change = SharedChange::RotateToken { role };
        match self.engine.propose(self.envelope(self.node, asked, change)).await {
            Proposed::Applied(Ok(_)) => self.show_token(role),
            other => Err(self.not_proposed(other)),
        }
    }

    /// Proposes a change of the state and waits for it.
    pub(super) async fn settle(&self, change: SharedChange) -> Result<(), Response> {
        let envelope = self.envelope(self.node, self.asked_now(RequestId(rand::random())), change);
        match self.engine.propose(envelope).await {
            Proposed::Applied(Ok(_)) => Ok(()),
            other => Err(self.not_proposed(other)),
        }
    }

    /// Proposes a change of the group until it is in force.
    async fn change_until(
        &self,
        change: MemberChange,
        is_met: impl Fn(&[NodeId], &[NodeId]) -> bool,
    ) -> Result<Response, Response> {
        let deadline = Instant::now() + STEP_PATIENCE;
        loop {
            match self.engine.change(vec![change]).await {
                Ok(()) | Err(NotChanged::InProgress) => {}
                Err(NotChanged::NotLeader { .. }) => return Err(self.not_leader()),
                Err(NotChanged::BreaksQuorum { reachable, voters }) => {
                    let (reachable, voters) = (reachable as u64, voters as u64);
                    return Err(Response::Denied(Denied::BreaksQuorum { reachable, voters }));
                }
                Err(NotChanged::TooManyVoters) => return Err(Response::Denied(Denied::TooManyVoters)),
                // The steward, or an earlier attempt, was faster.
                Err(_) => {}
            }
            let soon = (Instant::now() + self.config.tick * 5).min(deadline);
            let met = self.wait_for(soon, |view| {
                let members = &view.status.members;
                let all: Vec<NodeId> = members.all().collect();
                !members.is_joint() && is_met(&members.voters, &all)
            });
            if met.await.is_some() {
                return Ok(Response::Done);
            }
            if Instant::now() >= deadline {
                return Err(Response::Unsettled);
            }
        }
    }

    /// Whether a majority of the voters that would be left can be reached.
    async fn check_quorum_without(&self, node: NodeId) -> Result<(), Response> {
        let count = |view: &View| {
            let voters = view.status.members.voters.iter().filter(|voter| **voter != node);
            let answers = |voter: &NodeId| *voter == self.node || reaches(view, *voter);
            voters.fold((0, 0), |(reachable, all), voter| (reachable + usize::from(answers(voter)), all + 1))
        };
        let holds = |view: &View| {
            let (reachable, voters) = count(view);
            reachable > voters / 2
        };
        if self.comes_about(holds).await {
            return Ok(());
        }
        match count(&self.view()) {
            (_, 0) => Err(Response::Denied(Denied::NoSuccessor)),
            (reachable, voters) => {
                let (reachable, voters) = (reachable as u64, voters as u64);
                Err(Response::Denied(Denied::BreaksQuorum { reachable, voters }))
            }
        }
    }

    /// Whether it is so, or soon will be: a new leader has not heard of everybody yet.
    async fn comes_about(&self, is_met: impl FnMut(&View) -> bool) -> bool {
        let deadline = Instant::now() + self.config.tick * HEARING_TICKS;
        self.wait_for(deadline, is_met).await.is_some()
    }
}

fn reaches(view: &View, node: NodeId) -> bool {
    view.status.peers.iter().any(|peer| peer.node == node && peer.is_reachable)
}

pub(super) fn has_caught_up(peer: &Peer, last: u64) -> bool {
    peer.is_reachable && peer.state == PeerState::Replicate && peer.matched + LAG_MAX >= last
}
