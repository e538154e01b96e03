//! Looks for nodes that are not where the state says they are.
//!
//! A node that moved says so when it connects, to whom it finds. Two that moved at once do not find each other; but a
//! third one that both found knows. So a node that hears of no leader, and a leader that does not hear of everybody,
//! asks the voters where the others are. What they say is only tried: whoever answers there has to prove who it is.
//! What is known is kept in the file `whereabouts`, since a node that restarts may not know the last changes of the
//! state yet. Where all moved at once, the addresses of `--cluster-store` are tried, too.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use vswitch_proto::id::NodeId;

use super::super::identity::{load, save};
use super::super::transport::wire::{Request, Response};
use super::member::Member;

pub(super) const WHEREABOUTS: &str = "whereabouts";
/// Addresses that are kept: of voters, and of nodes that moved.
const KEPT_MAX: usize = 1024;
const LOOK: Duration = Duration::from_secs(1);
const CALL: Duration = Duration::from_secs(4);
/// For the name service.
const LOOKUP: Duration = Duration::from_secs(2);
/// Addresses of hints that are tried.
const HINTS_MAX: usize = 16;

/// Nodes, and where they listen.
type Whereabouts = Vec<(NodeId, SocketAddr)>;

/// Until the member stops.
pub(super) async fn keep_looking(member: Arc<Member>) {
    let mut looks = interval(LOOK.min(member.config.tick * 10));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept: Whereabouts = load(&member.dir.join(WHEREABOUTS)).ok().flatten().unwrap_or_default();
    // A node that has just started is about to hear of the others.
    looks.tick().await;
    loop {
        looks.tick().await;
        member.keep_whereabouts(&mut kept);
        member.expire_refusals();
        if member.lacks_somebody() {
            if let Some(transport) = member.transport() {
                transport.note_heard(kept.clone());
            }
            member.look_for_others().await;
        }
    }
}

impl Member {
    /// Writes down where the others are, if that changed and there is a leader, so that it is news.
    fn keep_whereabouts(&self, kept: &mut Whereabouts) {
        let mut found = self.whereabouts();
        found.truncate(KEPT_MAX);
        if found == *kept || self.view().status.leader.is_none() {
            return;
        }
        match save(&self.dir, WHEREABOUTS, &found) {
            Ok(()) => *kept = found,
            Err(error) => tracing::debug!("the addresses of other nodes are not kept: {error}"),
        }
    }

    fn lacks_somebody(&self) -> bool {
        let status = self.view().status;
        let is_lacking = || status.peers.iter().any(|peer| !peer.is_reachable);
        status.is_muted || status.leader.is_none() || (self.is_leader() && is_lacking())
    }

    async fn look_for_others(self: &Arc<Member>) {
        let Some(transport) = self.transport() else { return };
        if self.view().status.leader.is_none() && !self.config.hints.is_empty() {
            transport.set_hints(self.look_up_hints().await);
        }
        let view = self.view();
        let by_state = view.state.voters().map(|node| node.id);
        let voters: BTreeSet<NodeId> = view.status.members.all_voters().chain(by_state).collect();
        let mut asked = JoinSet::new();
        for voter in voters.into_iter().filter(|voter| *voter != self.node) {
            let member = self.clone();
            asked.spawn(async move { member.call(voter, Request::Whereabouts, CALL).await });
        }
        while let Some(answer) = asked.join_next().await {
            // Others do not answer, or are older.
            if let Ok(Ok(Response::Whereabouts(whereabouts))) = answer {
                transport.note_heard(whereabouts);
            }
        }
    }

    async fn look_up_hints(&self) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        for hint in &self.config.hints {
            let lookup = tokio::net::lookup_host((hint.host.as_str(), hint.port));
            // The next look asks again.
            if let Ok(Ok(addresses)) = timeout(LOOKUP, lookup).await {
                found.extend(addresses);
            }
        }
        found.truncate(HINTS_MAX);
        found
    }

    /// Where this node finds others.
    pub(super) fn whereabouts(&self) -> Whereabouts {
        let state = self.state();
        let by_state = state.voters().map(|node| (node.id, node.info.address));
        // What nodes have told themselves comes last, and counts.
        by_state.chain(self.transport().map(|transport| transport.told()).unwrap_or_default()).collect()
    }
}
