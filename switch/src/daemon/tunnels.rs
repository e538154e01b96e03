//! The tunnel endpoint of this node: opened when there is somebody at another end, and again when the address changes.
//!
//! What does not work is tried again every second, and reported in [`Problems`](super::problems) until it does.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use vswitch_proto::api::{ProblemArea, Severity};

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
/// Smallest MTU of the network between hosts that leaves containers the 1280 bytes that IPv6 needs.
const UNDERLAY_MTU_MIN: u32 = 1350;
/// Calls of [`Tunnels::look_again`], one a second, between two looks at the interface.
const LOOK_TICKS: u32 = 5;

/// What is open, and what should be.
#[derive(Debug, Default)]
pub struct Tunnels {
    open: Option<IpAddr>,
    wanted: Option<IpAddr>,
    /// This node's address among the others, and the MTU of the interface that has it.
    measured: Option<(IpAddr, u32)>,
    /// The last error, as it was logged.
    trouble: Option<String>,
    ticks: u32,
}

impl Tunnels {
    /// Whether something is to be tried again.
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
        let others = now.shared.nodes().filter(|node| Some(node.id) != now.node);
        let mut beyond = others.map(|node| node.info.vtep).filter(|vtep| !vtep.is_loopback());
        self.report_underlay(beyond.next(), shared);
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
                shared.problems.set(ProblemArea::Tunnels, None);
            }
            Err(trouble) => {
                self.open = None;
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::error!("no tunnels to other nodes, trying again: {trouble}");
                }
                let message = format!("no tunnels to other nodes: {trouble}");
                shared.problems.set(ProblemArea::Tunnels, Some((Severity::Error, message)));
                self.trouble = Some(trouble);
            }
        }
    }

    /// Looks whether the address that tunnels begin at is still one of the host. To be called once a second.
    pub async fn look_again(&mut self, shared: &Arc<Shared>) {
        self.ticks += 1;
        let Some(vtep) = self.open.filter(|vtep| !vtep.is_loopback() && self.ticks >= LOOK_TICKS) else {
            return;
        };
        self.ticks = 0;
        // Not known is not gone.
        let gone = matches!(look_at(vtep).await, Ok(None));
        let message = format!(
            "no tunnels to other nodes: {vtep} is not an address of this host any more; give the address back, or \
             restart vswitchd with another --vtep"
        );
        shared.problems.set(ProblemArea::Tunnels, gone.then_some((Severity::Error, message)));
    }

    /// Reports an address or an MTU that packets to `other`, a node that is not on this host, cannot pass with.
    fn report_underlay(&self, other: Option<IpAddr>, shared: &Shared) {
        let configured = shared.config.underlay_mtu;
        let measured = self.measured.map(|(_, mtu)| mtu);
        let mtu = configured.or(measured).unwrap_or(UNDERLAY_MTU);
        let problem = match (self.wanted.filter(IpAddr::is_loopback), other, measured) {
            (Some(vtep), Some(other), _) => Some((
                Severity::Error,
                format!(
                    "tunnels begin at {vtep}, from where {other} is not reached: start vswitchd with --vtep IP, an \
                     address that the other nodes reach"
                ),
            )),
            _ if self.wanted.is_none() => None,
            (_, _, Some(found)) if configured.is_some_and(|configured| configured > found) => Some((
                Severity::Error,
                format!(
                    "--underlay-mtu {mtu} is more than the {found} bytes that the interface of the tunnels takes: \
                     large packets to other nodes are lost; lower it, or raise the MTU of the interface"
                ),
            )),
            _ if mtu < UNDERLAY_MTU_MIN => Some((
                Severity::Warning,
                format!(
                    "the network between the hosts has an MTU of {mtu} bytes, less than the {UNDERLAY_MTU_MIN} that \
                     IPv6 inside a tunnel needs: raise the MTU of the interface that tunnels begin at"
                ),
            )),
            _ => None,
        };
        shared.problems.set(ProblemArea::Underlay, problem);
    }
}

/// The sockets before are closed first: they may have the same port.
fn open(vtep: Option<IpAddr>, shared: &Shared) -> Result<(), String> {
    let dataplane = &shared.dataplane;
    dataplane.set_underlay(None).map_err(|error| error.to_string())?;
    shared.problems.set(ProblemArea::Offloads, None);
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
    report_offloads(&config, &underlay, shared);
    dataplane.set_underlay(Some(underlay)).map_err(|error| error.to_string())
}

/// Logs and reports offloads that were asked for and that the kernel lacks.
fn report_offloads(config: &UnderlayConfig, underlay: &Underlay, shared: &Shared) {
    let mut lacking = Vec::new();
    if config.gso && !underlay.has_gso() {
        lacking.push("this kernel does not cut datagrams (UDP_SEGMENT): each is sent by itself");
    }
    if config.gro && !underlay.has_gro() {
        lacking.push("this kernel does not put datagrams together (UDP_GRO): each is received by itself");
    }
    lacking.iter().for_each(|lack| tracing::warn!("{lack}"));
    let message = format!("tunnels are slower than they could be: {}", lacking.join("; "));
    shared.problems.set(ProblemArea::Offloads, (!lacking.is_empty()).then_some((Severity::Warning, message)));
}

/// The MTU of the interface that has this address; `None` if no interface of this host has it.
async fn look_at(vtep: IpAddr) -> Result<Option<u32>, String> {
    blocking(move || {
        let here = NetNs::current().map_err(|error| error.to_string())?;
        netlink::mtu_at(&here, vtep).map_err(|error| error.to_string())
    })
    .await
}

async fn mtu_at(vtep: IpAddr) -> Option<u32> {
    look_at(vtep).await.unwrap_or_else(|error| {
        tracing::warn!(%vtep, "the MTU of the network between hosts is not known: {error}");
        None
    })
}
