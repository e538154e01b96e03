//! Changes of a container that exists: its name, its restart policy and its limits.

use vswitch_proto::api::{Error, ErrorKind, Top, Update};
use vswitch_proto::command::{Command, ContainerKind, LabSpec, Limits, SharedChange};
use vswitch_proto::id::{ContainerId, Name, RequestId};

use super::Done;
use super::control::Control;
use super::handle::{Handle, Shared, error};
use super::host::blocking;
use super::random_request_id;
use super::run_settings::check_limits;
use crate::cluster::service::ClusterError;
use crate::container::{cgroup, processes};
use crate::state::Container;

/// Rounds in which the processes of a running container are moved into its new control group: each may have forked
/// before it was moved.
const MOVE_ROUNDS_MAX: u32 = 16;

impl Control {
    pub(super) async fn rename(&self, reference: &str, name: Name, id: RequestId) -> Result<Done, Error> {
        let container = self.container_id(reference)?;
        self.commit(id, Command::RenameContainer { container, name }, None).await?;
        Ok(Done::Nothing)
    }

    pub(super) async fn update(
        &self,
        reference: &str,
        request: Update,
        id: RequestId,
    ) -> Result<Done, Error> {
        let container = self.container_id(reference)?;
        let state = self.state();
        let found = state.container(&container).expect("it was just looked up");
        let name = found.name.clone();
        let spec = match &found.kind {
            ContainerKind::Lab(spec) => &spec.settings,
            // The state refuses the command below.
            _ => &LabSpec::default().settings,
        };
        let (old, restart) = (spec.limits, request.restart.unwrap_or(spec.restart));
        let limits = merged(&old, &request.limits);
        check_limits(&limits)?;
        if limits != old
            && let Some(shim) = self.shared.shim(&container)
        {
            let init_pid = shim.init_pid();
            let limited = blocking(move || limit_running(&container, &limits, init_pid)).await;
            limited.map_err(|message| error(ErrorKind::Failed, format!("cannot limit {name}: {message}")))?;
        }
        if request.restart.is_some() {
            self.shared.restarts.take(&container);
        }
        self.commit(id, Command::UpdateContainer { container, restart, limits }, None).await?;
        self.restart_if_wanted(&container);
        Ok(Done::Nothing)
    }
}

/// What is given replaces what was; 0 takes a limit away.
fn merged(old: &Limits, new: &Limits) -> Limits {
    Limits {
        memory_bytes: new.memory_bytes.or(old.memory_bytes).filter(|bytes| *bytes > 0),
        nano_cpus: new.nano_cpus.or(old.nano_cpus).filter(|nano_cpus| *nano_cpus > 0),
        pids: new.pids.or(old.pids).filter(|pids| *pids > 0),
    }
}

fn limit_running(id: &ContainerId, limits: &Limits, init_pid: i32) -> Result<(), String> {
    let group = cgroup::create(id, limits).map_err(|e| e.to_string())?;
    for _ in 0..MOVE_ROUNDS_MAX {
        let pids = processes::pids(init_pid).map_err(|e| e.to_string())?;
        let outside = cgroup::outside(&group, pids);
        if outside.is_empty() {
            break;
        }
        cgroup::adopt(&group, &outside).map_err(|e| e.to_string())?;
    }
    Ok(())
}

impl Handle {
    pub async fn top(&self, reference: &str) -> Result<Top, Error> {
        let init_pid = self.started_shim(reference)?.init_pid();
        let read = blocking(move || processes::top(init_pid)).await;
        read.map_err(|e| error(ErrorKind::Failed, format!("cannot read the processes: {e}")))
    }
}

/// Tells the cluster of containers with a lease that were renamed.
pub(super) async fn settle_names(shared: &Shared) -> Result<(), ClusterError> {
    let seen = shared.snapshot();
    let Some(node) = seen.node else { return Ok(()) };
    for lease in seen.shared.leases_of(node) {
        let container = seen.local.container(&lease.container).filter(|c| c.docker().is_none());
        let Some(Container { name, .. }) = container.filter(|c| c.name != lease.container_name) else {
            continue;
        };
        let described = SharedChange::Describe {
            endpoint: lease.endpoint,
            container: lease.container,
            container_name: name.clone(),
            aliases: lease.aliases.clone(),
        };
        match shared.cluster.propose(described, random_request_id()).await {
            // Released meanwhile.
            Ok(_) | Err(ClusterError::Rejected(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_changed_one_by_one() {
        let old = Limits { memory_bytes: Some(1), nano_cpus: Some(2), pids: None };
        let new = Limits { memory_bytes: Some(0), nano_cpus: None, pids: Some(7) };
        assert_eq!(merged(&old, &new), Limits { memory_bytes: None, nano_cpus: Some(2), pids: Some(7) });
        assert_eq!(merged(&old, &Limits::default()), old);
    }
}
