//! The plugin socket: made here, or passed on by a service manager, which keeps it while there is no daemon.
//!
//! Calls that come early wait in it. An engine starts its containers once, as soon as it runs, and does not try again what
//! was refused: those on a network of the cluster need a leader by then. So the calls that cannot do without one wait for
//! it while the daemon is young, and no others do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use vswitch_proto::docker::{Call, NETWORK_OPTION};
use vswitch_proto::id::Name;

use super::super::handle::Handle;
use super::super::{remove_socket, socket};
use super::address::PoolId;
use super::bound::shared_network;
use super::census;
use crate::io::listeners;
use crate::vitals::Vitals;

/// From the daemon's start on, how long calls that need a leader of the cluster wait for one.
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
pub async fn start(handle: Handle, vitals: &Vitals) -> anyhow::Result<Plugin> {
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
        (None, None) => return Ok(plugin),
    };
    let at = listener.local_addr().ok();
    let at = at.as_ref().and_then(|address| address.as_pathname()).map(|path| path.display().to_string());
    tracing::info!(socket = at.unwrap_or_default(), "serving the Docker engine");
    let census =
        vitals.clone().watch("the task that follows the Docker engine", census::keep(handle.clone()));
    plugin.tasks.push(tokio::spawn(census));
    let server =
        vitals.clone().watch("the server of the Docker engine", crate::api::docker::serve(listener, handle));
    plugin.tasks.push(tokio::spawn(server));
    Ok(plugin)
}

impl Handle {
    /// For every call, whatever it is: there is an engine.
    pub fn engine_calls(&self) {
        self.shared().engine_calls.notify_waiters();
    }

    /// Soon after the daemon's start, lets a call wait that the cluster has to agree to. Later nothing is waited for here.
    pub async fn wait_for_leader(&self, call: &Call) {
        let left = LEADER_PATIENCE.saturating_sub(self.shared().started_at.elapsed());
        let is_known = |name: &Name| shared_network(&self.snapshot(), name).is_some();
        if !left.is_zero() && needs_leader(call, is_known) {
            self.cluster().wait_for_leader(left).await;
        }
    }
}

/// Whether the cluster makes something for it: a network, or an interface's lease.
fn needs_leader(call: &Call, is_known: impl Fn(&Name) -> bool) -> bool {
    let is_unknown = |options: &BTreeMap<String, String>| {
        let name = options.get(NETWORK_OPTION).and_then(|name| name.parse::<Name>().ok());
        name.is_some_and(|name| !is_known(&name))
    };
    match call {
        Call::RequestPool(request) => is_unknown(&request.options),
        Call::CreateNetwork(request) => is_unknown(&request.options.generic),
        Call::RequestAddress(request) => {
            !request.options.is_gateway()
                && request.pool.parse::<PoolId>().is_ok_and(|pool| !matches!(pool, PoolId::Local(_)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_cluster_makes_needs_its_leader() {
        let network = "7".repeat(64);
        let needs = |call: Call| needs_leader(&call, |name| name.as_str() == "known");
        let pool = |options: &str| {
            let json = format!(r#"{{"AddressSpace":"vswitch","Options":{options}}}"#);
            needs(Call::RequestPool(serde_json::from_str(&json).unwrap()))
        };
        assert!(pool(r#"{"vswitch.network":"new"}"#));
        assert!(!pool(r#"{"vswitch.network":"known"}"#) && !pool("{}") && !pool("null"));
        let create = |name: &str| {
            let generic = format!(r#"{{"com.docker.network.generic":{{"vswitch.network":"{name}"}}}}"#);
            let json = format!(r#"{{"NetworkID":"{network}","Options":{generic}}}"#);
            needs(Call::CreateNetwork(serde_json::from_str(&json).unwrap()))
        };
        assert!(create("new") && !create("known"));
        let address = |pool: &str, key: &str, value: &str| {
            let json = format!(r#"{{"PoolID":"{pool}","Options":{{"{key}":"{value}"}}}}"#);
            needs(Call::RequestAddress(serde_json::from_str(&json).unwrap()))
        };
        let interface = ("com.docker.network.endpoint.macaddress", "02:42:00:00:00:07");
        let cluster = String::from("cluster/blue/10.5.0.0/24");
        assert!(address(&cluster, interface.0, interface.1));
        assert!(address(&format!("cluster/{network}/4"), interface.0, interface.1));
        assert!(!address(&cluster, "RequestAddressType", "com.docker.network.gateway"));
        assert!(!address("local/10.8.0.0/24", interface.0, interface.1));
        let leave = format!(r#"{{"NetworkID":"{network}","EndpointID":"{network}"}}"#);
        assert!(!needs(Call::Leave(serde_json::from_str(&leave).unwrap())));
    }
}
