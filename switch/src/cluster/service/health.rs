//! The health of the cluster: what is wrong on any node, and what to do about it.
//!
//! Each node keeps its own faults ([`Problems`](crate::problems::Problems)) and tells them when it is asked. So the
//! health that one node shows has those of all nodes that answer in time; of the others it says that they do not.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use vswitch_proto::api::{ClusterHealth, Node, NodeState, Severity};
use vswitch_proto::id::NodeId;

use super::super::identity::SLACK_MS;
use super::super::transport::wire::{Facts, Request, Response};
use super::super::transport::{Counters, utc};
use super::ClusterHandle;
use super::engine::View;
use super::error::ClusterError;
use super::member::Member;

/// Days before its end from which an expiring certificate is worth a word: it should have been renewed long ago.
const EXPIRY_WARNING_MS: u64 = 14 * 24 * 60 * 60 * 1000;
const SLOW_SYNC: Duration = Duration::from_millis(100);
/// How long one node has to tell its facts.
const FACTS: Duration = Duration::from_secs(1);
/// How long a clock is shown after it last kept a node away. Another attempt is made every second.
const CLOCK_SHOWN: Duration = Duration::from_secs(30);
/// Difference of two clocks that is reported. Certificates bear a day.
const SKEW_MS: u64 = 60 * 60 * 1000;

impl ClusterHandle {
    pub async fn health(&self) -> Result<ClusterHealth, ClusterError> {
        let member = self.member()?;
        let (read, progress) = tokio::join!(member.read(), member.ask_progress());
        let view = member.view();
        let mut nodes = member.list(progress.as_ref());
        let facts = member.ask_facts(&nodes).await;
        attach_problems(&mut nodes, &facts);
        let voters = view.status.members.voters.len() as u64;
        let is_ready =
            |id: &&NodeId| nodes.iter().any(|node| node.id == **id && node.state == NodeState::Ready);
        let reachable_voters = view.status.members.voters.iter().filter(is_ready).count() as u64;
        let identity = member.identity();
        let transport = member.transport();
        let count = |counter: fn(&Counters) -> u64| {
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
            warnings: Vec::new(),
        };
        let clocks = member.clock_problems(&facts);
        if let Err(error) = read {
            health.problems.push(with_remedy(&error, !clocks.is_empty()));
        }
        health.problems.extend(clocks);
        health.problems.extend(problems(&member, &view, &health));
        report_nodes(&mut health);
        Ok(health)
    }
}

/// Adds to each node what it says of itself.
pub(super) fn attach_problems(nodes: &mut [Node], facts: &BTreeMap<NodeId, Facts>) {
    for node in nodes {
        if let Some(facts) = facts.get(&node.id) {
            node.problems.clone_from(&facts.problems);
        }
    }
}

/// Adds what nodes say of themselves to the problems and warnings of all.
fn report_nodes(health: &mut ClusterHealth) {
    let ClusterHealth { nodes, problems, warnings, .. } = health;
    for node in nodes {
        for problem in &node.problems {
            let line = format!("node {}: {}", node.name, problem.message);
            match problem.severity {
                Severity::Error => problems.push(line),
                Severity::Warning => warnings.push(line),
            }
        }
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// For somebody who looks at the health already. Nodes whose clocks are off come back once these are set, so a
/// recovery, which gives up the others, is not suggested.
fn with_remedy(error: &ClusterError, is_clock: bool) -> String {
    match error {
        ClusterError::NoQuorum { voters, needed, .. } if is_clock => format!(
            "no quorum: {needed} of {voters} voters have to agree, and nodes do not accept each other's certificates: \
             set the clocks, as said below"
        ),
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
        // Its clock is the reason, which is said already.
        if member.clocks().contains_key(&node.id) {
            continue;
        }
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
    let (now_ms, expires) = ((member.config.clock)(), member.identity().issued.expires_at_ms);
    if (now_ms..now_ms + EXPIRY_WARNING_MS).contains(&expires) {
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
    /// What this node tells others of itself.
    pub(super) fn facts(&self) -> Facts {
        let mut problems = self.node_problems();
        problems.extend(self.config.problems.list());
        Facts { at_ms: (self.config.clock)(), problems }.bounded()
    }

    /// Asks the nodes that answer the leader, all at once.
    pub(super) async fn ask_facts(self: &Arc<Member>, nodes: &[Node]) -> BTreeMap<NodeId, Facts> {
        let mut facts = BTreeMap::from([(self.node, self.facts())]);
        let mut asked = JoinSet::new();
        for node in nodes.iter().filter(|node| !node.is_self && node.state == NodeState::Ready) {
            let (member, id) = (self.clone(), node.id);
            asked.spawn(async move { (id, member.call(id, Request::Facts, FACTS).await) });
        }
        for (id, answer) in asked.join_all().await {
            // One that is older, or busy, is listed without.
            if let Ok(Response::Facts(told)) = answer {
                facts.insert(id, told.bounded());
            }
        }
        facts
    }

    /// Remembers, or forgets, that a clock keeps a node away.
    pub(super) fn note_clock(&self, node: NodeId, reason: Option<Arc<str>>) {
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => {
                if clocks.insert(node, (reason.clone(), Instant::now())).is_none() {
                    tracing::error!(node = node.0, "{reason}");
                }
            }
            None => drop(clocks.remove(&node)),
        }
    }

    pub(super) fn clocks(&self) -> BTreeMap<NodeId, Arc<str>> {
        let clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = clocks.iter().filter(|(_, (_, last))| last.elapsed() < CLOCK_SHOWN);
        recent.map(|(node, (reason, _))| (*node, reason.clone())).collect()
    }

    /// Clocks that are outside the time of a certificate, and clocks that are far from this one.
    fn clock_problems(&self, facts: &BTreeMap<NodeId, Facts>) -> Vec<String> {
        let state = self.state();
        let name = |id: &NodeId| state.node(*id).map_or(id.0.to_string(), |node| node.info.name.to_string());
        let now_ms = (self.config.clock)();
        let issued = self.identity().issued.clone();
        let mut problems = Vec::new();
        let (from, until) = (issued.issued_at_ms.saturating_sub(SLACK_MS), issued.expires_at_ms);
        if !(from..until).contains(&now_ms) {
            problems.push(format!(
                "the clock of this host says {}, and the certificate of this node is valid from {} until {}: set the \
                 clock; if it is right, the node gets a new certificate as soon as it reaches the leader, or, as a \
                 voter, makes one",
                utc(now_ms / 1000),
                utc(from / 1000),
                utc(until / 1000)
            ));
        }
        for (node, reason) in self.clocks() {
            problems.push(format!(
                "node {} is not reached because of a clock: {reason}; the clock of this host says {}",
                name(&node),
                utc(now_ms / 1000)
            ));
        }
        for (node, facts) in facts {
            if facts.at_ms.abs_diff(now_ms) > SKEW_MS {
                problems.push(format!(
                    "the clock of node {} says {}, the one of this host {}: set the one that is wrong, certificates \
                     bear a difference of a day",
                    name(node),
                    utc(facts.at_ms / 1000),
                    utc(now_ms / 1000)
                ));
            }
        }
        problems
    }
}
