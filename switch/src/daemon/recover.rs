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

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinSet;
use vswitch_proto::api::Exit;
use vswitch_proto::command::{Driver, Start};
use vswitch_proto::id::ContainerId;

use super::control::Control;
use super::host_work::{HostWork, STUCK};
use super::lanes::Part;
use super::overlay::Prepared;
use super::random_request_id;
use crate::container::{self, Found};
use crate::state::Phase;

const BUILTIN: [(&str, Driver); 3] =
    [("bridge", Driver::Bridge), ("none", Driver::None), ("host", Driver::Host)];

/// How long a shim is waited for. It answers within microseconds, unless it is stopped or the host is overloaded.
const SHIM_PATIENCE: Duration = Duration::from_secs(2);

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
            asked.spawn(async move { (id, find_shim(dir).await) });
        }
        while !asked.is_empty() {
            self.take_found(asked.join_next().await).await;
        }
    }

    async fn take_found(&self, found: Option<Result<(ContainerId, Found), tokio::task::JoinError>>) {
        let Some(Ok((id, found))) = found else { return };
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
        }
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
                    end_unknown(entry.path()).await;
                    control.remove_files(&id);
                });
            }
        }
        Ok(())
    }
}

/// One that does not answer is taken as it was left, if its first process still runs.
async fn find_shim(dir: PathBuf) -> Found {
    if let Ok(found) = tokio::time::timeout(SHIM_PATIENCE, container::reconnect(&dir)).await {
        return found;
    }
    tracing::warn!(dir = %dir.display(), "the shim of a container does not answer: is it stopped?");
    match container::silent(&dir) {
        Some(shim) => Found::Running(shim),
        None => Found::Gone,
    }
}

/// A container whose creation or removal a crash has cut.
async fn end_unknown(dir: PathBuf) {
    if let Found::Running(shim) = container::reconnect(&dir).await {
        tracing::info!(dir = %dir.display(), "ending a container that a crash has left");
        let _ = shim.signal(nix::libc::SIGKILL).await;
        shim.wait().await;
    }
}
