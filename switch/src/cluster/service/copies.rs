//! Nodes that run twice, or from a directory of old: what this node does about others, and about itself.
//!
//! The transport tells which start of a node it refused (see [`runs`](super::super::runs)); here that is remembered for
//! whoever looks at the health. And when this node is the one that is refused, it takes no part until it is taken
//! again by those voters that refused it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use vswitch_proto::api::{Problem, ProblemArea, Severity};
use vswitch_proto::id::NodeId;

use super::super::identity::{load, save};
use super::super::transport::wire::Refusal;
use super::engine::Input;
use super::error::ClusterError;
use super::member::Member;

pub(super) const STARTS: &str = "starts";
/// How long a refusal is shown that is not repeated. Whoever is refused tries again every second.
const SHOWN: Duration = Duration::from_secs(30);
/// The same for a message that was refused: somebody should look into that.
const OFFENCE_SHOWN: Duration = Duration::from_secs(60 * 60);

/// A refusal is repeated every second, as long as the one that refuses is there.
const REPEATED: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Copies {
    /// Of others: where, why, and when last.
    refused: Mutex<BTreeMap<NodeId, (SocketAddr, Refusal, Instant)>>,
    /// Voters that refuse this node, and since when they have not said so again.
    refusers: Mutex<BTreeMap<NodeId, (Refusal, Instant)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often members were started on this directory.
#[derive(Serialize, Deserialize)]
struct Starts(u64);

/// Counts a start, durably, before anybody hears of it.
pub(super) fn next_start(dir: &Path) -> Result<u64, ClusterError> {
    let before = load::<Starts>(&dir.join(STARTS))?.map_or(0, |Starts(before)| before);
    save(dir, STARTS, &Starts(before + 1))?;
    Ok(before + 1)
}

impl Member {
    /// A start of another node was refused.
    pub(super) fn note_copy(&self, node: NodeId, at: SocketAddr, refusal: &Refusal) {
        let mut refused = lock(&self.copies.refused);
        let before = refused.insert(node, (at, refusal.clone(), Instant::now()));
        if before.is_none_or(|(_, before, _)| before != *refusal) {
            tracing::error!(node = node.0, %at, "a node is refused: {refusal}");
        }
    }

    /// A voter refuses this start of this node.
    pub(super) fn mute(&self, by: NodeId, refusal: Refusal) {
        // What a learner says stops nobody from voting.
        if !self.is_voter(by) {
            return;
        }
        let refused = (refusal.clone(), Instant::now());
        let is_first = lock(&self.copies.refusers).insert(by, refused).is_none();
        if is_first {
            tracing::error!(node = by.0, "this node is refused, and takes no part: {refusal}");
        }
        let applied = self.view().status.applied;
        *self.refused.write().unwrap_or_else(PoisonError::into_inner) = Some((refusal, applied));
        self.refusals.notify_one();
        _ = self.engine.offer(Input::Mute(true));
    }

    /// A node talks to this one.
    pub(super) fn unmute(&self, by: NodeId) {
        let mut refusers = lock(&self.copies.refusers);
        if refusers.remove(&by).is_none() || !refusers.is_empty() {
            return;
        }
        drop(refusers);
        self.take_part_again();
    }

    /// A voter that said that this node runs twice, and does not answer any more, may be gone for good: it keeps this
    /// node out no longer. One that knows what this node has forgotten does so for good.
    pub(super) fn expire_refusals(&self) {
        let mut refusers = lock(&self.copies.refusers);
        let before = refusers.len();
        refusers.retain(|_, (refusal, last)| {
            matches!(refusal, Refusal::Restored(_)) || last.elapsed() < REPEATED
        });
        let is_over = refusers.is_empty() && before > 0;
        drop(refusers);
        if is_over {
            self.take_part_again();
        }
    }

    fn take_part_again(&self) {
        tracing::info!("this node is refused no longer, and takes part again");
        let mut refused = self.refused.write().unwrap_or_else(PoisonError::into_inner);
        refused.take_if(|(refusal, _)| matches!(refusal, Refusal::Twice { .. } | Refusal::Restored(_)));
        self.refusals.notify_one();
        _ = self.engine.offer(Input::Mute(false));
    }

    /// What is wrong with nodes, as this one sees it.
    pub(super) fn node_problems(&self) -> Vec<Problem> {
        let view = self.view();
        let name = |node: NodeId| {
            view.state.node(node).map_or(node.0.to_string(), |node| node.info.name.to_string())
        };
        let mut messages = Vec::new();
        for (node, (at, refusal, last)) in lock(&self.copies.refused).iter() {
            if last.elapsed() > SHOWN {
                continue;
            }
            messages.push(match refusal {
                Refusal::Twice { at: other, .. } => format!(
                    "node {0} was started twice, from copies of one data directory: the one at {at} is refused, the \
                     one at {other} was there before; stop the copy, `vswitchctl cluster leave --force` there, then \
                     join it as a node of its own",
                    name(*node)
                ),
                _ => format!(
                    "node {0} at {at} is refused: its data directory is a copy or was put back from a backup, and has \
                     forgotten what the node acknowledged; `vswitchctl node rm --force {0}`, then `vswitchctl cluster \
                     leave --force` there, and join it again",
                    name(*node)
                ),
            });
        }
        for (node, offence) in view.offences.iter() {
            if offence.last.elapsed() < OFFENCE_SHOWN && view.state.node(*node).is_some() {
                messages.push(format!(
                    "node {0}, a learner, sent {1} messages that only a voter may send, the last an {2}; they were \
                     refused: somebody may have its certificate; look at that host, or `vswitchctl node rm --force {0}`",
                    name(*node),
                    offence.count,
                    offence.message
                ));
            }
        }
        let problem = |message| Problem { area: ProblemArea::Cluster, severity: Severity::Error, message };
        messages.into_iter().map(problem).collect()
    }
}
