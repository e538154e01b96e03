//! This node's leases of addresses in the cluster's networks: no more and no fewer than it has endpoints.
//!
//! # Theory of operation
//! A lease is reserved before its endpoint is made and released after it is gone, and in between anything may happen:
//! a command may be rejected, the daemon may be killed, the quorum may be away. So nobody releases a lease that it
//! reserved. Whoever reserves one [holds](Leases::hold) it while the endpoint is being made, and [`settle`] compares:
//! leases that neither have an endpoint nor are held are released, and endpoints without a lease (after this node was
//! removed and joined again) ask for the addresses that they have. If somebody else has these by now, the endpoint
//! stays without an interface, and the log says so.
//!
//! [`keep`] settles after every change, and again after a while where that did not work. So it does with the networks
//! that a Docker engine here has.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use vswitch_proto::command::{Attachment, Reserve, Scope, SharedChange};
use vswitch_proto::id::EndpointId;

use super::handle::Shared;
use super::{amend, docker, random_request_id};
use crate::cluster::service::ClusterError;
use crate::state::{Endpoint, Snapshot};

/// Between two comparisons, which look at all leases: changes elsewhere come by the thousand.
const PAUSE: Duration = Duration::from_millis(50);

/// After the cluster could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// After an endpoint was refused its addresses.
const REFUSED_RETRY: Duration = Duration::from_secs(30);

/// Released by one entry of the log.
const RELEASED_AT_ONCE: usize = 1024;

#[derive(Debug, Default)]
pub struct Leases {
    held: Mutex<HashSet<EndpointId>>,
    let_go: Notify,
    /// One comparison at a time.
    settling: tokio::sync::Mutex<HashMap<EndpointId, Instant>>,
}

/// While it lives, its lease is not released for lack of an endpoint.
#[derive(Debug)]
pub struct Held {
    leases: Arc<Leases>,
    endpoint: EndpointId,
}

impl Leases {
    /// Before the lease is reserved.
    pub fn hold(self: &Arc<Leases>, endpoint: EndpointId) -> Held {
        self.held().insert(endpoint);
        Held { leases: Arc::clone(self), endpoint }
    }

    fn held(&self) -> MutexGuard<'_, HashSet<EndpointId>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leases.held().remove(&self.endpoint);
        self.leases.let_go.notify_one();
    }
}

/// Settles for as long as the daemon runs.
pub async fn keep(shared: Arc<Shared>) {
    let mut cluster = shared.cluster.watch();
    let mut local = shared.revisions();
    loop {
        cluster.mark_unchanged();
        local.mark_unchanged();
        let patience = match settle(&shared).await {
            Ok(()) => REFUSED_RETRY,
            Err(error) => {
                tracing::debug!("leases stay as they are for now: {error}");
                RETRY
            }
        };
        tokio::select! {
            changed = cluster.changed() => if changed.is_err() { return },
            changed = local.changed() => if changed.is_err() { return },
            () = shared.leases.let_go.notified() => {}
            () = tokio::time::sleep(patience) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Brings the leases to what the endpoints are, once.
pub async fn settle(shared: &Shared) -> Result<(), ClusterError> {
    let mut refused = shared.leases.settling.lock().await;
    release(shared).await?;
    reserve_again(shared, &mut refused).await?;
    amend::settle_names(shared).await?;
    docker::bindings::settle(shared).await
}

async fn release(shared: &Shared) -> Result<(), ClusterError> {
    // In this order: a lease that is known here and no longer held has its endpoint by now, or will have none.
    let Some((leases, node)) = shared.cluster.in_effect() else { return Ok(()) };
    let held = shared.leases.held().clone();
    let seen = Snapshot { local: shared.state(), shared: leases, node: Some(node) };
    let stale = seen.view().stale_leases().map(|lease| lease.endpoint);
    let stale: Vec<EndpointId> = stale.filter(|endpoint| !held.contains(endpoint)).collect();
    for endpoints in stale.chunks(RELEASED_AT_ONCE) {
        let release = SharedChange::Release { endpoints: endpoints.to_vec() };
        shared.cluster.propose(release, random_request_id()).await?;
    }
    Ok(())
}

async fn reserve_again(
    shared: &Shared,
    refused: &mut HashMap<EndpointId, Instant>,
) -> Result<(), ClusterError> {
    // In this order: an endpoint that is known here had its lease before.
    let seen = shared.snapshot();
    if seen.node.is_none() {
        return Ok(());
    }
    let unleased: Vec<&Endpoint> = seen.view().unleased_endpoints().collect();
    refused.retain(|id, _| unleased.iter().any(|endpoint| endpoint.id == *id));
    for endpoint in unleased {
        if refused.get(&endpoint.id).is_some_and(|at| at.elapsed() < REFUSED_RETRY) {
            continue;
        }
        let Some(request) = request(&seen, endpoint) else { continue };
        match shared.cluster.propose(SharedChange::Reserve(request), random_request_id()).await {
            Ok(_) => {}
            Err(ClusterError::Rejected(reason)) => {
                if refused.insert(endpoint.id, Instant::now()).is_none() {
                    let container = seen.local.container(&endpoint.container).map(|c| c.name.as_str());
                    tracing::warn!(container, "it has no interface in its overlay network: {reason}");
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What an endpoint has already, to be leased to it.
fn request(seen: &Snapshot, endpoint: &Endpoint) -> Option<Reserve> {
    let container = seen.local.container(&endpoint.container)?;
    let wire = endpoint.wire.as_ref()?;
    let aliases = container.attachment(&endpoint.network).map_or_else(Vec::new, |a| a.aliases.clone());
    let attachment = Attachment {
        network: endpoint.network,
        scope: Scope::Cluster,
        ipv4: wire.ipv4,
        ipv6: wire.ipv6,
        mac: Some(wire.mac),
        aliases,
    };
    let container_name = container.name.clone();
    Some(Reserve { endpoint: endpoint.id, container: container.id, container_name, attachment })
}
