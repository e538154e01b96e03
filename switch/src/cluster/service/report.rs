//! What the cluster says about itself.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use vswitch_proto::api::{
    ClusterHash, ClusterStatus, Membership, Node, NodeHash, NodeState, SnapshotSummary,
};
use vswitch_proto::id::NodeId;

use super::super::token::hex;
use super::super::transport::CallError;
use super::super::transport::wire::{Progress, Request, Response};
use super::engine::View;
use super::error::ClusterError;
use super::health::attach_problems;
use super::member::Member;
use super::{ClusterHandle, snapshot};

/// Of one question to one node.
const CALL: Duration = Duration::from_secs(4);

/// What is in a snapshot.
pub fn inspect(bytes: &[u8]) -> Result<SnapshotSummary, ClusterError> {
    Ok(snapshot::read(bytes)?.summary())
}

impl ClusterHandle {
    /// `stale`: what this node knows, without asking a majority.
    pub async fn status(&self, stale: bool) -> ClusterStatus {
        let Ok(member) = self.member() else { return alone() };
        let confirmed = match stale {
            true => None,
            false => Some(member.read().await.is_ok()),
        };
        let View { state, status, failure, .. } = member.view();
        let identity = member.identity();
        let fenced = member.fenced();
        let reason = match (&fenced, failure, status.leader) {
            (Some(refusal), ..) => Some(refusal.to_string()),
            (None, Some(failure), _) => Some(failure.to_string()),
            (None, None, None) => Some(member.no_quorum().to_string()),
            (None, None, Some(_)) => None,
        };
        ClusterStatus {
            membership: if fenced.is_some() { Membership::Fenced } else { Membership::Member },
            reason,
            cluster: Some(identity.cluster),
            node: Some(member.node),
            role: state.node(member.node).map(|node| node.role),
            leader: status.leader,
            leader_name: status.leader.and_then(|leader| Some(state.node(leader)?.info.name.clone())),
            term: status.term,
            committed: status.committed,
            applied: status.applied,
            voters: status.members.voters.clone(),
            learners: status.members.learners.clone(),
            confirmed,
            certificate_expires_at_ms: Some(identity.issued.expires_at_ms),
        }
    }

    /// All nodes, and whether they answer, by the leader.
    pub async fn nodes(&self) -> Result<Vec<Node>, ClusterError> {
        let member = self.member()?;
        let progress = member.ask_progress().await;
        let mut nodes = member.list(progress.as_ref());
        let facts = member.ask_facts(&nodes).await;
        attach_problems(&mut nodes, &facts);
        Ok(nodes)
    }

    /// The digest of every node's state, at one point or later.
    pub async fn hash(&self) -> Result<ClusterHash, ClusterError> {
        let member = self.member()?;
        member.read().await?;
        let view = member.view();
        let at_least = view.status.applied;
        let mut asked = tokio::task::JoinSet::new();
        for node in view.state.nodes() {
            let (member, id, name) = (member.clone(), node.id, node.info.name.clone());
            asked.spawn(async move {
                let answer = member.ask_digest(id, at_least).await;
                let (applied, digest, error) = match answer {
                    Ok((applied, digest)) => (Some(applied), Some(hex(&digest)), None),
                    Err(error) => (None, None, Some(error)),
                };
                NodeHash { node: id, name, applied, digest, error }
            });
        }
        let mut nodes = asked.join_all().await;
        nodes.sort_by_key(|node| node.node);
        let first = nodes.first().and_then(|node| node.digest.clone());
        let is_equal = first.is_some() && nodes.iter().all(|node| node.digest == first);
        Ok(ClusterHash { is_equal, nodes })
    }

    /// The state as a file, with everything that was answered before.
    pub async fn save_snapshot(&self) -> Result<Vec<u8>, ClusterError> {
        let member = self.member()?;
        member.read().await?;
        let view = member.view();
        let (cluster, now_ms) = (member.identity().cluster, (member.config.clock)());
        Ok(snapshot::write(&view.state, cluster, view.status.applied, now_ms))
    }
}

fn alone() -> ClusterStatus {
    ClusterStatus {
        membership: Membership::Alone,
        reason: None,
        cluster: None,
        node: None,
        role: None,
        leader: None,
        leader_name: None,
        term: 0,
        committed: 0,
        applied: 0,
        voters: Vec::new(),
        learners: Vec::new(),
        confirmed: None,
        certificate_expires_at_ms: None,
    }
}

impl Member {
    /// By the leader. `None`: there is none in reach.
    pub(super) async fn ask_progress(&self) -> Option<Progress> {
        match self.progress() {
            Some(progress) => Some(progress),
            None => match self.ask_leader(Request::Progress, CALL).await {
                Some(Response::Progress(progress)) => Some(progress),
                _ => None,
            },
        }
    }

    pub(super) fn list(&self, progress: Option<&Progress>) -> Vec<Node> {
        let View { state, .. } = self.view();
        let mut leases = std::collections::BTreeMap::<NodeId, u64>::new();
        state.leases().for_each(|lease| *leases.entry(lease.node).or_default() += 1);
        let node = |node: &crate::state::shared::Node| {
            let known =
                progress.and_then(|progress| progress.nodes.iter().find(|known| known.node == node.id));
            let state = match known {
                None => NodeState::Unknown,
                Some(known) if known.is_reachable => NodeState::Ready,
                Some(_) => NodeState::Down,
            };
            let lag = |progress: &Progress| Some(progress.last.saturating_sub(known?.matched));
            Node {
                id: node.id,
                name: node.info.name.clone(),
                address: node.info.address,
                vtep: node.info.vtep,
                role: node.role,
                wanted: node.wanted,
                is_leader: progress.is_some_and(|progress| progress.leader == node.id),
                is_self: node.id == self.node,
                state,
                silent_ms: known.and_then(|known| known.silent_ms),
                lag: progress.and_then(lag),
                version: node.info.version.clone(),
                joined_at_ms: node.joined_at_ms,
                leases: leases.get(&node.id).copied().unwrap_or(0),
                problems: Vec::new(),
            }
        };
        state.nodes().map(node).collect()
    }

    async fn ask_digest(self: Arc<Member>, node: NodeId, at_least: u64) -> Result<(u64, [u8; 32]), String> {
        let answer = if node == self.node {
            Ok(self.digest(at_least).await)
        } else {
            self.call(node, Request::Digest { at_least }, CALL).await
        };
        match answer {
            Ok(Response::Digest { index, digest }) => Ok((index, digest)),
            Ok(_) => Err(CallError::TimedOut(node).to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}
