//! From what a crash or a restart left to what the state says.
//!
//! 1. Default networks that are missing are made.
//! 2. Each container's shim is looked for. One that runs is watched again; one that ended meanwhile, or is gone,
//!    makes its container `exited`; one that began just before a crash makes it `running`.
//! 3. Directories (and shims) of containers that the state does not know are removed.
//! 4. Interfaces are opened again, or made, as for a host on which there is nothing yet; interfaces of ours that the
//!    state does not know are deleted.

use std::path::Path;

use vswitch_proto::api::Exit;
use vswitch_proto::command::{ContainerKind, Driver};
use vswitch_proto::id::ContainerId;

use super::control::Control;
use super::overlay::Prepared;
use super::random_request_id;
use crate::container::{self, Found};
use crate::state::Phase;

const BUILTIN: [(&str, Driver); 3] =
    [("bridge", Driver::Bridge), ("none", Driver::None), ("host", Driver::Host)];

impl Control {
    pub async fn recover(&mut self) -> anyhow::Result<()> {
        for (name, driver) in BUILTIN {
            if !self.state().networks().any(|network| network.builtin && network.driver == driver) {
                let made = self.create_builtin(name, driver).await;
                made.map_err(|error| anyhow::anyhow!("cannot make the network {name}: {}", error.message))?;
            }
        }
        self.find_shims().await;
        self.remove_unknown().await?;
        self.check_adopted().await;
        // One and the same for both: what is left now goes when it is followed that its lease went.
        let seen = self.snapshot();
        self.host.remove_unknown_interfaces(seen.view()).await;
        if let Err(error) = self.follow_from_nothing(seen).await {
            tracing::warn!(error = %error.message, "part of the host is not as it should be");
        }
        Ok(())
    }

    async fn find_shims(&mut self) {
        let lab = |kind: &ContainerKind| matches!(kind, ContainerKind::Lab(_));
        let state = self.state();
        let ids: Vec<_> =
            state.containers().filter(|c| lab(&c.kind) && self.is_active(&c.id)).map(|c| c.id).collect();
        for id in ids {
            match container::reconnect(&self.shared.container_dir(&id)).await {
                Found::Running(shim) => {
                    let begun = shim.started();
                    self.watch(id, shim);
                    let phase = self.state().container(&id).map(|c| c.phase.clone());
                    if begun
                        && phase == Some(Phase::Created)
                        && let Err(error) =
                            self.propose(random_request_id(), self.start_command(&id, &Prepared::default()))
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
    }

    async fn remove_unknown(&mut self) -> anyhow::Result<()> {
        let dir = self.shared.config.data_dir.join("containers");
        std::fs::create_dir_all(&dir)?;
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse::<ContainerId>().ok());
            let Some(id) = id else { continue };
            if self.state().container(&id).is_none() {
                end_unknown(&entry.path()).await;
                self.remove_files(&id);
            }
        }
        Ok(())
    }
}

/// A container whose creation or removal a crash has cut.
async fn end_unknown(dir: &Path) {
    if let Found::Running(shim) = container::reconnect(dir).await {
        tracing::info!(dir = %dir.display(), "ending a container that a crash has left");
        let _ = shim.signal(nix::libc::SIGKILL).await;
        shim.wait().await;
    }
}
