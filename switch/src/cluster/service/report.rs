//! What the cluster says about itself.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vswitch_proto::api::{
    ClusterHash, ClusterHealth, ClusterStatus, Membership, Node, NodeHash, NodeState, SnapshotSummary,
};
use vswitch_proto::id::NodeId;

use super::super::token::hex;
use super::super::transport::CallError;
use super::super::transport::wire::{Progress, Request, Response};
use super::engine::View;
use super::error::ClusterError;
use super::member::Member;
use super::{ClusterHandle, snapshot};

/// Of one question to one node.
const CALL: Duration = Duration::from_secs(4);
/// Days before its end from which an expiring certificate is worth a word: it should have been renewed long ago.
const EXPIRY_WARNING_MS: u64 = 14 * 24 * 60 * 60 * 1000;
const SLOW_SYNC: Duration = Duration::from_millis(100);

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
        Ok(member.list(progress.as_ref()))
    }

    pub async fn health(&self) -> Result<ClusterHealth, ClusterError> {
        let member = self.member()?;
        let (read, progress) = tokio::join!(member.read(), member.ask_progress());
        let view = member.view();
        let nodes = member.list(progress.as_ref());
        let voters = view.status.members.voters.len() as u64;
        let is_ready =
            |id: &&NodeId| nodes.iter().any(|node| node.id == **id && node.state == NodeState::Ready);
        let reachable_voters = view.status.members.voters.iter().filter(is_ready).count() as u64;
        let identity = member.identity();
        let transport = member.transport();
        let count = |counter: fn(&super::super::transport::Counters) -> u64| {
            transport.as_ref().map_or(0, |transport| counter(transport.counters()))
        };
        let mut health = ClusterHealth {
            has_quorum: read.is_ok(),
            voters,
            reachable_voters,
            failure_tolerance: reachable_voters.saturating_sub(voters / 2 + 1),
            nodes,
            sync_median_us: view.syncs.median().map(micros),
            sync_max_us: view.syncs.max().map(micros),
            certificate_expires_at_ms: Some(identity.issued.expires_at_ms),
            messages_dropped: count(|counters| counters.dropped.load(Ordering::Relaxed)),
            connections_refused: count(|counters| counters.refused.load(Ordering::Relaxed)),
            problems: Vec::new(),
        };
        health.problems = problems(&member, &view, &health);
        if let Err(error) = read {
            health.problems.insert(0, with_remedy(&error));
        }
        Ok(health)
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

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// For somebody who looks at the health already.
fn with_remedy(error: &ClusterError) -> String {
    match error {
        ClusterError::NoQuorum { voters, needed, .. } => format!(
            "no quorum: {needed} of {voters} voters have to agree: bring nodes back, or, when they are lost for good, \
             `vswitchctl cluster recover --force-new-cluster`"
        ),
        other => other.to_string(),
    }
}

fn problems(member: &Member, view: &View, health: &ClusterHealth) -> Vec<String> {
    let mut problems = Vec::new();
    for node in health.nodes.iter().filter(|node| node.state == NodeState::Down) {
        problems.push(format!(
            "node {} does not answer: start it again, or `vswitchctl node rm --force {}`",
            node.name, node.name
        ));
    }
    let is_rotating = view.state.authorities().is_some_and(|authorities| !authorities.former.is_empty());
    if is_rotating {
        let behind = view.state.behind_authority().filter_map(|id| view.state.node(id));
        let names: Vec<&str> = behind.map(|node| node.info.name.as_str()).collect();
        problems.push(format!(
            "the authority of the cluster is being rotated and has to wait for {}: start what is down, or \
             `vswitchctl cluster ca rotate --finish` and join it again",
            names.join(", ")
        ));
    }
    let version = &member.config.version;
    for node in health.nodes.iter().filter(|node| node.version != *version) {
        problems
            .push(format!("node {} runs version {}, this one {version}: update it", node.name, node.version));
    }
    if let Some(failure) = &view.failure {
        problems.push(failure.to_string());
    }
    let expires = member.identity().issued.expires_at_ms;
    if (member.config.clock)() + EXPIRY_WARNING_MS > expires {
        problems.push(
            "the certificate of this node expires soon: check its clock and its link to the leader".into(),
        );
    }
    if view.syncs.median().is_some_and(|median| median > SLOW_SYNC) {
        problems.push("the disk of this node is slow: changes of the cluster wait for it".into());
    }
    problems
}

impl Member {
    /// By the leader. `None`: there is none in reach.
    async fn ask_progress(&self) -> Option<Progress> {
        match self.progress() {
            Some(progress) => Some(progress),
            None => match self.ask_leader(Request::Progress, CALL).await {
                Some(Response::Progress(progress)) => Some(progress),
                _ => None,
            },
        }
    }

    fn list(&self, progress: Option<&Progress>) -> Vec<Node> {
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
