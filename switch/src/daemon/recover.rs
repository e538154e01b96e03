//! From what a crash or a restart left to what the state says.
//!
//! 1. Default networks that are missing are made.
//! 2. Each container's shim is looked for. One that runs is watched again; one that ended meanwhile, or is gone,
//!    makes its container `exited`; one that began just before a crash makes it `running`.
//! 3. Directories (and shims) of containers that the state does not know are removed.
//! 4. Interfaces are opened again, or made, as for a host on which there is nothing yet; interfaces of ours that the
//!    state does not know are deleted.
//!
//! Nothing here waits for long for a container: a shim that does not answer is watched as it is, and an interface that
//! somebody else holds is tried again by whoever follows changes.

use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use vswitch_proto::api::Exit;
use vswitch_proto::command::{Driver, Start};
use vswitch_proto::id::ContainerId;

use super::control::Control;
use super::host_work::{HostWork, STUCK};
use super::lanes::Part;
use super::overlay::Prepared;
use super::{random_request_id, subnets};
use crate::container::{self, Found};
use crate::state::Phase;

const BUILTIN: [(&str, Driver); 3] =
    [("bridge", Driver::Bridge), ("none", Driver::None), ("host", Driver::Host)];

/// Between two looks at a container of which it could not be told whether it runs.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Shims that are asked at once.
const ASKED_AT_ONCE: usize = 64;

impl Control {
    pub async fn recover(&self) -> anyhow::Result<()> {
        for (name, driver) in BUILTIN {
            if !self.state().networks().any(|network| network.builtin && network.driver == driver) {
                let made = self.create_builtin(name, driver).await;
                made.map_err(|error| anyhow::anyhow!("cannot make the network {name}: {}", error.message))?;
            }
        }
        if let Some(warning) = subnets::unmet_bip(&self.shared.config, &self.state()) {
            tracing::warn!("{warning}");
        }
        self.find_shims().await;
        self.remove_unknown().await?;
        self.host.remove_unknown_of_docker(&self.state()).await;
        self.look_after_adopted();
        self.follow_from_nothing().await;
        // After the interfaces that are wanted, so that these do not wait for one that somebody holds.
        for container in self.state().containers().filter(|c| c.is_live() && c.docker().is_none()) {
            self.lanes.push((container.id, Part::Interfaces), HostWork::Clean);
        }
        self.lanes.settle(STUCK).await;
        Ok(())
    }

    async fn find_shims(&self) {
        let state = self.state();
        let lab = state.containers().filter(|c| c.is_lab() && self.is_active(&c.id));
        let mut asked = JoinSet::new();
        for id in lab.map(|container| container.id) {
            if asked.len() >= ASKED_AT_ONCE {
                self.take_found(asked.join_next().await).await;
            }
            let dir = self.shared.container_dir(&id);
            asked.spawn(async move { (id, container::reconnect(&dir).await) });
        }
        while !asked.is_empty() {
            self.take_found(asked.join_next().await).await;
        }
    }

    async fn take_found(&self, found: Option<Result<(ContainerId, Found), tokio::task::JoinError>>) {
        let Some(Ok((id, found))) = found else { return };
        let Err(reason) = self.settle_found(id, found).await else { return };
        tracing::error!(container = %id, reason, "cannot tell whether a container runs; it is left as it is and looked at again");
        let control = self.clone();
        tokio::spawn(async move {
            let dir = control.shared.container_dir(&id);
            loop {
                tokio::time::sleep(LOOK_AGAIN).await;
                if control.settle_found(id, container::reconnect(&dir).await).await.is_ok() {
                    break;
                }
            }
        });
    }

    /// Notes what was found. An error is the reason why it cannot be told.
    async fn settle_found(&self, id: ContainerId, found: Found) -> Result<(), String> {
        match found {
            Found::Running(shim) => {
                let begun = shim.started();
                self.watch(id, shim);
                let phase = self.state().container(&id).map(|c| c.phase.clone());
                if begun
                    && phase == Some(Phase::Created)
                    && let Err(error) = self
                        .propose(
                            random_request_id(),
                            self.start_command(&id, &Prepared::default(), Start::Asked),
                        )
                        .await
                {
                    tracing::warn!(error = %error.message, "cannot note that a container runs");
                }
            }
            Found::Exited(exit) => self.ended(&id, exit).await,
            Found::Gone => {
                let error = "its process went while vswitchd was away".into();
                self.ended(&id, Exit { exit_code: 137, error }).await;
            }
            Found::Unknown(reason) => return Err(reason),
        }
        Ok(())
    }

    async fn remove_unknown(&self) -> anyhow::Result<()> {
        let dir = self.shared.config.data_dir.join("containers");
        std::fs::create_dir_all(&dir)?;
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse::<ContainerId>().ok());
            let Some(id) = id else { continue };
            if self.state().container(&id).is_none() {
                let control = self.clone();
                tokio::spawn(async move {
                    if end_unknown(&entry.path()).await {
                        control.remove_files(&id);
                    }
                });
            }
        }
        Ok(())
    }
}

/// Ends a container whose creation or removal a crash has cut. False when it may still run.
async fn end_unknown(dir: &Path) -> bool {
    match container::reconnect(dir).await {
        Found::Running(shim) => {
            tracing::info!(dir = %dir.display(), "ending a container that a crash has left");
            let _ = shim.signal(nix::libc::SIGKILL).await;
            shim.wait().await;
            true
        }
        Found::Exited(_) | Found::Gone => true,
        Found::Unknown(reason) => {
            tracing::warn!(dir = %dir.display(), reason, "cannot tell whether a container that a crash has left runs");
            false
        }
    }
}
