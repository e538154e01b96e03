//! What the daemon has to do with the cluster itself: taking part, the decision to leave, and recovery without it.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use vswitch_proto::api::{Error, ErrorKind};

use super::handle::error;
use super::{Handle, socket};
use crate::cluster::service::{self, ClusterError, ClusterHandle};
use crate::config::Config;
use crate::vitals::Vitals;

/// Takes part again in the cluster that this node is in, if any.
pub async fn start(config: &Config, vitals: Vitals) -> anyhow::Result<ClusterHandle> {
    ClusterHandle::start(service::Config { vitals, ..settings(config) })
        .await
        .context("cannot take part in the cluster")
}

fn settings(config: &Config) -> service::Config {
    service::Config {
        listen: config.listen,
        advertise: config.advertise,
        vtep: config.vtep,
        hints: config.cluster_store.iter().flat_map(|store| store.nodes.clone()).collect(),
        ..service::Config::new(config.data_dir.join("cluster"), config.node_name.clone())
    }
}

/// Makes a cluster of this node alone, after the others are lost for good, and says so. No daemon may be running.
pub fn recover_cluster(config: &Config) -> anyhow::Result<String> {
    let dir = &config.data_dir;
    if !dir.is_dir() {
        bail!("there is no data directory {}; name it with --data-dir", dir.display());
    }
    let _lock = socket::lock_data_dir(dir).map_err(|error| match error.downcast::<socket::InUse>() {
        Ok(socket::InUse { pid, dir }) => anyhow::anyhow!(
            "the daemon (pid {pid}) still runs on {}; stop it first, containers go on without it",
            dir.display()
        ),
        Err(other) => other,
    })?;
    let node = match service::recover(&settings(config)) {
        Err(ClusterError::NotInACluster) => {
            bail!("{} is of a node in no cluster; name another one with --data-dir", dir.display())
        }
        recovered => recovered?.0,
    };
    let kept = dir.join("cluster/log.before-recovery");
    Ok(format!(
        "Node {node} is its whole cluster now; the log as it was is kept in {}.\nStart vswitchd again. Nodes that come \
         back are refused: run 'vswitchctl cluster leave --force' there, then join them again.",
        kept.display()
    ))
}

impl Handle {
    /// Leaves the cluster. Containers in overlay networks are in the way, unless `force`: then they lose these
    /// networks, and a cluster that does not answer is left all the same.
    pub async fn leave_cluster(&self, force: bool) -> Result<(), Error> {
        if !force {
            self.check_unused()?;
        }
        match self.cluster().leave(false).await {
            Err(ClusterError::NotInACluster) => Err(told(&ClusterError::NotInACluster)),
            Err(refusal @ ClusterError::NoQuorum { .. }) if !force => Err(error(
                refusal.kind(),
                format!("{refusal}; to leave without the consent of the others: --force"),
            )),
            Err(refusal) if force => {
                tracing::warn!("the cluster was left without its consent: {refusal}");
                self.cluster().leave(true).await.map_err(|e| told(&e))
            }
            other => other.map_err(|e| told(&e)),
        }
    }

    fn check_unused(&self) -> Result<(), Error> {
        let Some(node) = self.cluster().node() else { return Ok(()) };
        let state = self.cluster().state();
        let containers: BTreeSet<&str> =
            state.leases_of(node).map(|lease| lease.container_name.as_str()).collect();
        if !containers.is_empty() {
            return Err(in_the_way(format!(
                "containers of this node are in overlay networks: {}: remove or disconnect them first, or leave with \
                 --force",
                list(containers)
            )));
        }
        let is_last = state.nodes().all(|other| other.id == node);
        if is_last && state.networks().next().is_some() {
            let networks = list(state.networks().map(|network| network.name.as_str()));
            return Err(in_the_way(format!(
                "this node is the last of its cluster, whose overlay networks would be lost: {networks}: remove them \
                 first, or leave with --force"
            )));
        }
        Ok(())
    }
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn in_the_way(message: String) -> Error {
    error(ErrorKind::Conflict, message)
}

fn told(failure: &ClusterError) -> Error {
    error(failure.kind(), failure.to_string())
}
