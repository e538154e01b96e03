//! The plugin socket: made here, or passed on by a service manager, which keeps it while there is no daemon.
//!
//! Calls that come early wait in it. An engine starts its containers once, as soon as it runs: those on a network of the
//! cluster need a leader by then.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::super::handle::Handle;
use super::super::{remove_socket, socket};
use super::census;
use crate::io::listeners;

/// How long calls wait for a leader of the cluster. Other networks do not need one.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);

/// What runs for the engine, if anything does.
#[derive(Default)]
pub struct Plugin {
    tasks: Vec<JoinHandle<()>>,
    /// The socket, if it was made here.
    made: Option<PathBuf>,
}

impl Plugin {
    /// Calls that were not answered are the next daemon's.
    pub fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        if let Some(path) = self.made {
            remove_socket(&path);
        }
    }
}

/// Serves the engine, if that was asked for.
pub async fn start(handle: Handle) -> anyhow::Result<Plugin> {
    let passed = listeners::passed_on().context("cannot take over the sockets of the service manager")?;
    let wanted = handle.shared().config.docker_plugin.clone();
    let mut plugin = Plugin::default();
    let listener = match (passed, wanted) {
        (Some(passed), _) => {
            passed.set_nonblocking(true).context("cannot use the socket of the service manager")?;
            UnixListener::from_std(passed).context("cannot use the socket of the service manager")?
        }
        (None, Some(path)) => {
            let listener = socket::listen(&path, handle.shared().config.socket_group.as_deref()).await?;
            plugin.made = Some(path);
            listener
        }
        (None, None) => {
            // No engine is served, and none is asked.
            handle.shared().lacking.unset(true);
            return Ok(plugin);
        }
    };
    let at = listener.local_addr().ok();
    let at = at.as_ref().and_then(|address| address.as_pathname()).map(|path| path.display().to_string());
    tracing::info!(socket = at.unwrap_or_default(), "serving the Docker engine");
    plugin.tasks.push(tokio::spawn(census::keep(handle.clone())));
    plugin.tasks.push(tokio::spawn(async move {
        handle.cluster().wait_for_leader(LEADER_PATIENCE).await;
        crate::api::docker::serve(listener, handle).await;
    }));
    Ok(plugin)
}
