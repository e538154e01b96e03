//! What a member does by itself: follows the state, keeps its certificate fresh, and, while it leads, brings the
//! group to what the state says.
//!
//! The state says which nodes there are and who is to vote; the group is who takes part. The leader lets the group
//! follow, one change at a time: nodes of the state that are not in the group join it as learners, learners that are
//! to vote and have caught up are made voters as far as there is room, and so on.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use vswitch_proto::command::{Role as Vote, SharedChange};
use vswitch_proto::id::{NodeId, RequestId};
use vswitch_proto::peer::{MemberChange, VOTERS_MAX};

use super::super::group::Role;
use super::engine::View;
use super::error::ClusterError;
use super::manage::has_caught_up;
use super::member::Member;
use crate::state::shared::{Membership, Shared};

/// Between looks at the group, in ticks, if nothing happens meanwhile.
const LOOK_TICKS: u32 = 5;
const CHORES: Duration = Duration::from_secs(1);
/// After a chore failed.
const CHORES_RETRY: Duration = Duration::from_secs(5);

/// Passes on what changes, until the member stops.
pub(super) async fn follow(member: Arc<Member>, revision: watch::Sender<u64>) {
    let mut views = member.engine.watch();
    let mut last: Option<(Arc<Shared>, bool)> = None;
    loop {
        let state = views.borrow_and_update().state.clone();
        let is_in_effect = member.is_in_effect();
        if !last.as_ref().is_some_and(|(last, _)| last.shares_nodes(&state)) {
            note_nodes(&member, &state);
        }
        if !last.as_ref().is_some_and(|(last, was)| Arc::ptr_eq(last, &state) && *was == is_in_effect) {
            revision.send_modify(|revision| *revision += 1);
        }
        last = Some((state, is_in_effect));
        tokio::select! {
            changed = views.changed() => if changed.is_err() {
                return;
            },
            () = member.refusals.notified() => {}
        }
    }
}

fn note_nodes(member: &Member, state: &Shared) {
    let Some(transport) = member.transport() else { return };
    // After a join, until the state has come, what the answer told is all there is.
    if state.nodes().next().is_none() {
        return;
    }
    let others = state.nodes().filter(|node| node.id != member.node);
    transport.set_addresses(others.map(|node| (node.id, node.info.address)).collect());
    transport.forget(|node| state.membership(node) == Membership::Removed);
}

/// Brings the group to what the state says, while this node leads.
pub(super) async fn keep_group(member: Arc<Member>) {
    let mut views = member.engine.watch();
    let mut looks = interval(member.config.tick * LOOK_TICKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut nodes: Option<Arc<Shared>> = None;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            changed = views.changed() => {
                let state = views.borrow_and_update().state.clone();
                let same = nodes.as_ref().is_some_and(|last| last.shares_nodes(&state));
                nodes = Some(state);
                match changed {
                    Err(_) => return,
                    Ok(()) if same => continue,
                    Ok(()) => {}
                }
            }
        }
        if !member.is_leader() {
            continue;
        }
        // Somebody else is at it.
        let Ok(_managing) = member.managing.try_lock() else { continue };
        if let Some(generation) = member.may_drop_authority() {
            // Looked at again soon, as what is refused below.
            _ = member.settle(SharedChange::DropAuthority { generation }).await;
        }
        match next_step(&member.view(), member.node) {
            // A refusal now is looked at again soon.
            Some(Step::Group(change)) => _ = member.engine.change(vec![change]).await,
            Some(Step::Promote(node)) => {
                _ = member.settle(SharedChange::SetRole { node, role: Vote::Voter }).await;
            }
            None => {}
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Group(MemberChange),
    /// In the state; the group follows.
    Promote(NodeId),
}

/// What is to be done next, if anything.
fn next_step(view: &View, own: NodeId) -> Option<Step> {
    let View { state, status, .. } = view;
    let members = &status.members;
    let caught_up =
        |id: NodeId| status.peers.iter().any(|peer| peer.node == id && has_caught_up(peer, status.last));
    if members.is_joint() {
        return None;
    }
    if let Some(gone) = members.all().find(|id| *id != own && state.node(*id).is_none()) {
        return Some(Step::Group(MemberChange::Remove(gone)));
    }
    let new = state.nodes().find(|node| !members.all().any(|id| id == node.id));
    if let Some(node) = new {
        return Some(Step::Group(MemberChange::AddLearner(node.id)));
    }
    let demoted =
        |id: &&NodeId| **id != own && state.node(**id).is_some_and(|node| node.role == Vote::Learner);
    if let Some(id) = members.voters.iter().find(demoted) {
        return Some(Step::Group(MemberChange::Demote(*id)));
    }
    let mut promoted = state.voters().filter(|node| members.learners.contains(&node.id));
    if members.voters.len() < VOTERS_MAX
        && let Some(node) = promoted.find(|node| caught_up(node.id))
    {
        return Some(Step::Group(MemberChange::AddVoter(node.id)));
    }
    let ready = state.promotable().find(|node| members.learners.contains(&node.id) && caught_up(node.id));
    ready.map(|node| Step::Promote(node.id))
}

/// What every member keeps in order for itself.
pub(super) async fn keep_house(member: Arc<Member>) {
    let mut chores = interval(CHORES.min(member.config.tick * 10));
    chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut not_before = Instant::now();
    loop {
        chores.tick().await;
        if Instant::now() < not_before {
            continue;
        }
        let outcome = async {
            member.keep_authority().await?;
            member.keep_trust()?;
            member.keep_certificate().await?;
            member.tell_authority().await?;
            member.keep_info().await
        };
        if let Err(error) = outcome.await {
            tracing::warn!("this node cannot keep its place in the cluster in order: {error}");
            not_before = Instant::now() + CHORES_RETRY;
        }
    }
}

impl Member {
    /// The state says of this node what it says of itself: it may have moved, or run a new version.
    async fn keep_info(&self) -> Result<(), ClusterError> {
        let view = self.view();
        let info = self.info();
        let has_leader = view.status.leader.is_some() && view.status.role != Role::Down;
        let differs = view.state.node(self.node).is_some_and(|node| node.info != info);
        if differs && has_leader {
            self.tell(SharedChange::UpdateNode { node: self.node, info }, RequestId(rand::random())).await?;
        }
        Ok(())
    }

    /// Without a quorum now, it is told with later chores.
    pub(super) async fn tell(&self, change: SharedChange, request: RequestId) -> Result<(), ClusterError> {
        match self.propose(change, request).await {
            Ok(_) | Err(ClusterError::NoQuorum { .. } | ClusterError::Fenced(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
