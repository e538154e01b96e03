//! The one decision about the cluster that is the daemon's: whether this node may leave it.

use std::collections::BTreeSet;

use vswitch_proto::api::{Error, ErrorKind};

use super::Handle;
use super::handle::error;
use crate::cluster::service::ClusterError;

impl Handle {
    /// Leaves the cluster. Containers in overlay networks are in the way, unless `force`: then they lose these
    /// networks, and a cluster that does not answer is left all the same.
    pub async fn leave_cluster(&self, force: bool) -> Result<(), Error> {
        if !force {
            self.check_unused()?;
        }
        match self.cluster().leave(false).await {
            Err(ClusterError::NotInACluster) => Err(told(&ClusterError::NotInACluster)),
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
        if containers.is_empty() {
            return Ok(());
        }
        let names = containers.into_iter().collect::<Vec<_>>().join(", ");
        Err(error(
            ErrorKind::Conflict,
            format!(
                "containers of this node are in overlay networks: {names}: remove or disconnect them first, or leave \
                 with --force"
            ),
        ))
    }
}

fn told(failure: &ClusterError) -> Error {
    error(failure.kind(), failure.to_string())
}
