//! Which networks of the cluster the engine here has, told to the cluster: no more and no fewer than this node's own
//! state says. Until then, or without a quorum, only this node knows.

use vswitch_proto::command::{Scope, SharedChange};
use vswitch_proto::id::NetworkId;

use super::super::handle::Shared;
use super::super::random_request_id;
use crate::cluster::service::ClusterError;
use crate::state::Rejected;
use crate::state::shared::Binding;

/// Brings the cluster's knowledge to what is so, once.
pub async fn settle(shared: &Shared) -> Result<(), ClusterError> {
    unbind(shared).await?;
    bind(shared).await
}

async fn unbind(shared: &Shared) -> Result<(), ClusterError> {
    // In this order: what the cluster knows of this node was in the node's own state before.
    let Some((cluster, node)) = shared.cluster.in_effect() else { return Ok(()) };
    let state = shared.state();
    let is_gone = |binding: &&Binding| {
        state.docker_network(&binding.docker).is_none_or(|docker| docker.network != binding.network)
    };
    let docker: Vec<NetworkId> = cluster.bindings_of(node).filter(is_gone).map(|b| b.docker).collect();
    if docker.is_empty() {
        return Ok(());
    }
    shared.cluster.propose(SharedChange::Unbind { docker }, random_request_id()).await.map(|_| ())
}

async fn bind(shared: &Shared) -> Result<(), ClusterError> {
    let seen = shared.snapshot();
    if seen.node.is_none() {
        return Ok(());
    }
    for docker in seen.local.docker_networks().filter(|docker| docker.scope == Scope::Cluster) {
        let is_gone = seen.shared.network(&docker.network).is_none();
        if is_gone || seen.shared.binding(&docker.id).is_some() {
            continue;
        }
        if !seen.shared.can_bind() {
            // A refusal is an entry of the log too, and each entry wakes who would propose the next.
            let reason = Rejected::TooManyBindings;
            tracing::warn!(docker = docker.id.short(), "others may remove the network of Docker's: {reason}");
            return Ok(());
        }
        let bind = SharedChange::Bind { network: docker.network, docker: docker.id, name: None };
        match shared.cluster.propose(bind, random_request_id()).await {
            Ok(_) => {}
            Err(ClusterError::Rejected(reason)) => {
                tracing::warn!(
                    docker = docker.id.short(),
                    "others may remove the network of Docker's: {reason}"
                );
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}
