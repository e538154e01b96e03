//! Where this node's tunnels begin: opened when there is somebody at another end, and again when the address changes.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::handle::Shared;
use super::host::blocking;
use crate::config::Config;
use crate::io::netlink;
use crate::io::netns::NetNs;
use crate::io::underlay::{Underlay, UnderlayConfig};
use crate::plan::Settings;
use crate::state::Snapshot;

/// Assumed while it is not known, bytes.
const UNDERLAY_MTU: u32 = 1500;

/// What is open, and what should be.
#[derive(Debug, Default)]
pub struct Tunnels {
    open: Option<IpAddr>,
    wanted: Option<IpAddr>,
    /// This node's address among the others, and the MTU of the interface that has it.
    measured: Option<(IpAddr, u32)>,
    /// What stands in the way, as it was logged.
    trouble: Option<String>,
}

impl Tunnels {
    /// Something is to be tried again.
    pub fn is_wanting(&self) -> bool {
        self.open != self.wanted
    }

    pub fn settings(&self, config: &Config) -> Settings {
        let measured = self.measured.map(|(_, mtu)| mtu);
        let underlay_mtu = config.underlay_mtu.or(measured).unwrap_or(UNDERLAY_MTU);
        Settings { mtu: config.mtu, underlay_mtu }
    }

    /// Brings the sockets to what the state says. What does not work now is logged and tried again.
    pub async fn follow(&mut self, now: &Snapshot, shared: &Arc<Shared>) {
        let me = now.node.and_then(|node| now.shared.node(node)).map(|node| node.info.vtep);
        let has_peers = now.shared.nodes().nth(1).is_some();
        let has_remotes = || now.shared.networks().any(|network| !network.static_vteps().is_empty());
        self.wanted = me.filter(|_| has_peers || has_remotes());
        if let Some(vtep) = me.filter(|vtep| self.measured.is_none_or(|(measured, _)| measured != *vtep)) {
            // Nobody else is reached from a loopback address: what is behind it is not known yet.
            let mtu = if vtep.is_loopback() { None } else { mtu_at(vtep).await };
            self.measured = mtu.map(|mtu| (vtep, mtu));
        }
        if !self.is_wanting() {
            return;
        }
        let (wanted, worker) = (self.wanted, Arc::clone(shared));
        match blocking(move || open(wanted, &worker)).await {
            Ok(()) => {
                if let Some(vtep) = wanted {
                    tracing::info!(%vtep, port = shared.config.vxlan_port, "tunnels to other nodes begin here");
                }
                (self.open, self.trouble) = (wanted, None);
            }
            Err(trouble) => {
                self.open = None;
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::error!("no tunnels to other nodes, trying again: {trouble}");
                }
                self.trouble = Some(trouble);
            }
        }
    }
}

/// The sockets before are closed first: they may have the same port.
fn open(vtep: Option<IpAddr>, shared: &Shared) -> Result<(), String> {
    let dataplane = &shared.dataplane;
    dataplane.set_underlay(None).map_err(|error| error.to_string())?;
    let Some(vtep) = vtep else { return Ok(()) };
    let config = UnderlayConfig {
        vtep,
        port: shared.config.vxlan_port,
        sockets: UnderlayConfig::SOCKETS,
        receivers: NonZeroUsize::new(shared.config.workers as usize).unwrap_or(NonZeroUsize::MIN),
        gso: shared.config.udp_gso,
        gro: shared.config.udp_gro,
    };
    let underlay = Underlay::open(config).map_err(|error| error.to_string())?;
    if config.gso && !underlay.has_gso() {
        tracing::warn!("this kernel does not cut datagrams (UDP_SEGMENT): each is sent by itself");
    }
    if config.gro && !underlay.has_gro() {
        tracing::warn!("this kernel does not put datagrams together (UDP_GRO): each is received by itself");
    }
    dataplane.set_underlay(Some(underlay)).map_err(|error| error.to_string())
}

async fn mtu_at(vtep: IpAddr) -> Option<u32> {
    blocking(move || {
        let here = NetNs::current().map_err(|error| error.to_string())?;
        netlink::mtu_at(&here, vtep).map_err(|error| error.to_string())
    })
    .await
    .unwrap_or_else(|error| {
        tracing::warn!(%vtep, "the MTU of the network between hosts is not known: {error}");
        None
    })
}
