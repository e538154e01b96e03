//! The data plane: what becomes of a frame.
//!
//! # Goals
//! One pure function, [`Forwarder::forward`], decides about each frame: which port or other host gets it, whether all
//! do, whether it is for the switch itself, or why it is dropped. It performs nothing: the worker writes, sends and
//! counts. The time is an argument and the tables are an argument, so everything here is tested without root, clock or
//! threads.
//!
//! # Theory of operation
//! ```text
//! Frame::parse -> ingress and its network -> checks -> guards -> learn the source -> look the destination up -> verdict
//! ```
//! The destination is looked for in this order: the network's gateway, its registered endpoints here, those on other
//! hosts, static entries, learned ones. Not found, broadcast and multicast are flooded, within the [`StormLimit`].
//!
//! A question for the gateway's own address (ARP or neighbour solicitation) goes to the gateway only. Nobody else
//! could answer it. In an overlay network a question for any registered address is answered from the tables ([`neighbor`]).
//!
//! # Port security
//! A frame that claims an address of another endpoint, or of the gateway, is dropped before anything is learned from
//! it; so are router advertisements and DHCP answers, unless the network allows them (`guard`).
//!
//! # Tunnels
//! What another host sent enters here like a frame from a port, after [`vxlan::decapsulate`]: with the network that its
//! VNI names and the tunnel endpoint that it came from, which must be one that the tables accept. It goes to ports of
//! this host only, never into a tunnel again, so no two hosts can send a frame in circles. Every host has the network's
//! gateway itself, so nothing that comes from a tunnel is for the gateway or from it. Addresses that nobody registered,
//! which are those behind tunnel endpoints that are not of this cluster, are learned.
//!
//! A frame for a tunnel is encapsulated and, if it stands for several segments, cut by [`gso`]; TCP that comes from one
//! is put together again by [`coalesce`].
//!
//! # Invariants
//! 1. A frame is judged inside the network of the port, or of the VNI, that it came from. No verdict and no flood set
//!    names a port that the tables do not have in that network, whatever the database or a stale entry says.
//! 2. No verdict names the port the frame came from, and none names a tunnel for what came from one.
//! 3. A registered address is never learned, so nobody can draw its traffic, and it is accepted as a source from its
//!    owner only, unless the network's port security is off. The gateway's MAC address is never accepted as a source.
//! 4. After a move, a removal or a new static entry has returned to whoever made it, no forwarder answers from before.
//! 5. For a frame with a known receiver nothing is allocated, and in the steady state no shared memory is written, but for
//!    the time of each learned address once per second.
//! 6. Everything is bounded: the database by [`FdbConfig`], the buckets of storm control by the ports and tunnel
//!    endpoints in the tables. Reaching a bound is counted: [`FdbStats::refused`], [`DropReason::StormControl`],
//!    [`DropReason::GatewayLimit`].
//!
//! # Limits
//! - Addresses that nobody has registered are learned, not authenticated: within one network, a container may send with
//!   any of them, unless the network's port security is strict.
//! - No spanning tree, no multicast snooping: multicast is broadcast. Link-local control frames stop here.
//! - VLAN tags pass through untouched, and all tags of a network share one forwarding table. Static remotes get and send
//!   tagged frames only where the network says so ([`Tables::takes_tags`]).
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use vswitch_proto::id::{MacAddr, PortId, Vni};
use vswitch_proto::wire::neighbor::solicited;

use crate::frame::{self, Frame};
use fdb::Place;
use flood::StormControl;
use guard::{Refusal, Source};
use tables::{Network, Port, Tables};

pub mod coalesce;
pub mod fdb;
pub mod flood;
pub mod gso;
mod guard;
mod keyed;
pub mod neighbor;
mod slots;
pub mod stale;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod verdict;
pub mod vxlan;

pub use fdb::{Fdb, FdbConfig, FdbStats};
pub use flood::StormLimit;
pub use verdict::{DropReason, Verdict};

/// Where a frame entered the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    Port(PortId),
    /// From another host, in the network with this VNI.
    Tunnel {
        vni: Vni,
        vtep: IpAddr,
    },
}

impl Network {
    /// Whether an endpoint of the network, here or on another host, has this address.
    #[inline]
    fn registers(&self, mac: MacAddr) -> bool {
        self.endpoints.contains_key(&mac)
            || self.overlay.as_ref().is_some_and(|overlay| overlay.remotes.contains_key(&mac))
    }

    /// Where the endpoint that is registered with this address is.
    #[inline]
    fn place(&self, mac: MacAddr) -> Option<Place> {
        let here = self.endpoints.get(&mac).map(|&port| Place::Port(port));
        let there = || self.overlay.as_ref()?.remotes.get(&mac).map(|&vtep| Place::Vtep(vtep));
        here.or_else(there)
    }
}

impl Ingress {
    #[inline]
    fn place(self) -> Place {
        match self {
            Ingress::Port(port) => Place::Port(port),
            Ingress::Tunnel { vtep, .. } => Place::Vtep(vtep),
        }
    }

    #[inline]
    fn is_tunnel(self) -> bool {
        matches!(self, Ingress::Tunnel { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardConfig {
    /// Of flooded frames and questions for neighbours, per port and per tunnel endpoint of a network; `None` for no limit.
    pub storm: Option<StormLimit>,
    /// Of frames for the gateway, per port; `None` for no limit.
    pub gateway: Option<StormLimit>,
}

impl Default for ForwardConfig {
    fn default() -> ForwardConfig {
        ForwardConfig { storm: Some(StormLimit::default()), gateway: Some(StormLimit::default()) }
    }
}

/// One worker's view of the data plane. The forwarding database behind it is shared.
#[derive(Debug)]
pub struct Forwarder {
    fdb: Arc<Fdb>,
    storm: StormControl,
    gateway: StormControl,
}

impl Forwarder {
    pub fn new(fdb: Arc<Fdb>, config: ForwardConfig) -> Forwarder {
        let (storm, gateway) = (StormControl::new(config.storm), StormControl::new(config.gateway));
        Forwarder { fdb, storm, gateway }
    }

    /// The whole path. `now` must not go back.
    pub fn forward(&mut self, tables: &Tables, frame: &Frame<'_>, ingress: Ingress, now: Instant) -> Verdict {
        let entered = match enter(tables, frame, ingress) {
            Ok(entered) => entered,
            Err(reason) => return Verdict::Drop(reason),
        };
        let Entered { vni, network, .. } = entered;

        match guard::check(&entered, frame.ethernet(), ingress) {
            Ok(Source::Registered) => {}
            Ok(Source::Unknown) => self.fdb.learn(vni, frame.ethernet().source(), ingress.place(), now),
            Err(Refusal::Drop(reason)) => return Verdict::Drop(reason),
            Err(Refusal::Defend(owner)) => {
                return self.limited(tables, (vni, ingress), now, Verdict::Neighbor(owner));
            }
        }

        let destination = frame.ethernet().destination();
        if network.gateway.is_some_and(|gateway| gateway.mac == destination) {
            return self.limited(tables, (vni, ingress), now, own(Verdict::Gateway, ingress));
        }
        if destination.is_multicast() {
            let verdict = ask(network, frame, ingress).unwrap_or_else(|| flood(tables, frame, ingress));
            return self.limited(tables, (vni, ingress), now, verdict);
        }
        let place = network.place(destination);
        let place = place.or_else(|| self.fdb.look_up(vni, destination, now));
        match place {
            Some(Place::Port(to)) if ingress == Ingress::Port(to) => Verdict::Drop(DropReason::Hairpin),
            Some(Place::Port(to)) if tables.is_member(vni, to) => Verdict::Port(to),
            Some(Place::Vtep(_)) if ingress.is_tunnel() => Verdict::Drop(DropReason::SplitHorizon),
            Some(Place::Vtep(to)) if tables.accepts(network, to) => tunnel(tables, network, frame, to),
            _ => self.limited(tables, (vni, ingress), now, flood(tables, frame, ingress)),
        }
    }

    /// Has the processor fetch what the decisions about the next few frames will ask the database for, all at once:
    /// in a large database each decision would wait for the memory. The frames begin with their virtio-net header.
    pub fn foresee<'f>(&self, tables: &Tables, frames: impl Iterator<Item = (PortId, &'f [u8])>) {
        if !self.fdb.is_large() {
            return;
        }
        let asked = frames.filter_map(|(port, raw)| {
            let (port, network) = tables.port(port)?;
            let (destination, source) = frame::addresses(raw)?;
            let destination =
                Some(destination).filter(|mac| mac.is_unicast() && network.place(*mac).is_none());
            let source = Some(source).filter(|mac| !network.registers(*mac));
            Some([destination, source].into_iter().flatten().map(|mac| (port.vni, mac)))
        });
        self.fdb.touch(asked.flatten());
    }

    /// `verdict`, if whoever sent the frame has a token left for it.
    fn limited(
        &mut self,
        tables: &Tables,
        (vni, ingress): (Vni, Ingress),
        now: Instant,
        verdict: Verdict,
    ) -> Verdict {
        let (limit, reason) = match verdict {
            Verdict::Drop(_) => return verdict,
            Verdict::Gateway => (&mut self.gateway, DropReason::GatewayLimit),
            _ => (&mut self.storm, DropReason::StormControl),
        };
        if limit.admit(tables, (vni, ingress.place()), now) { verdict } else { Verdict::Drop(reason) }
    }
}

/// The network that a frame came into.
struct Entered<'t> {
    vni: Vni,
    network: &'t Network,
    /// The port that it came from; `None` for a tunnel.
    port: Option<&'t Port>,
}

/// The network of a frame, if it may enter there.
#[inline]
fn enter<'t>(tables: &'t Tables, frame: &Frame<'_>, ingress: Ingress) -> Result<Entered<'t>, DropReason> {
    let (vni, network, port) = match ingress {
        Ingress::Port(from) => {
            let (port, network) = tables.port(from).ok_or(DropReason::UnknownPort)?;
            (port.vni, network, Some(port))
        }
        Ingress::Tunnel { vni, vtep } => {
            let network: &Network = tables.networks.get(&vni).ok_or(DropReason::UnknownVni)?;
            if network.overlay.is_none() {
                return Err(DropReason::UnknownVni);
            }
            if !tables.accepts(network, vtep) {
                return Err(DropReason::UnknownVtep);
            }
            if !may_cross(tables, network, frame, vtep) {
                return Err(DropReason::InnerVlan);
            }
            (vni, network, None)
        }
    };
    let source = frame.ethernet().source();
    if !source.is_unicast() || network.gateway.is_some_and(|gateway| gateway.mac == source) {
        return Err(DropReason::BadSource);
    }
    if is_link_local(frame.ethernet().destination()) {
        return Err(DropReason::LinkLocal);
    }
    if port.is_some_and(|port| frame.packet_bytes() > port.mtu as usize) {
        return Err(DropReason::Oversized);
    }
    Ok(Entered { vni, network, port })
}

/// What becomes of a question that the switch itself knows the answer to.
fn ask(network: &Network, frame: &Frame<'_>, ingress: Ingress) -> Option<Verdict> {
    let target = solicited(frame.ethernet())?;
    if let Some(gateway) = &network.gateway
        && (gateway.ipv4.map(IpAddr::V4) == Some(target) || gateway.ipv6.map(IpAddr::V6) == Some(target))
    {
        return Some(own(Verdict::Gateway, ingress));
    }
    network.overlay.as_ref().filter(|_| !ingress.is_tunnel())?;
    neighbor::owner(network, target, frame.ethernet().source()).map(Verdict::Neighbor)
}

/// What is for the switch itself is answered to ports only.
fn own(verdict: Verdict, ingress: Ingress) -> Verdict {
    if ingress.is_tunnel() { Verdict::Drop(DropReason::GatewayUnhandled) } else { verdict }
}

/// The verdict on a frame for an endpoint behind this tunnel endpoint.
fn tunnel(tables: &Tables, network: &Network, frame: &Frame<'_>, to: IpAddr) -> Verdict {
    if may_cross(tables, network, frame, to) {
        Verdict::Tunnel(to)
    } else {
        Verdict::Drop(DropReason::InnerVlan)
    }
}

/// Whether the frame has no VLAN tag, or the tunnel endpoint exchanges tagged frames.
fn may_cross(tables: &Tables, network: &Network, frame: &Frame<'_>, vtep: IpAddr) -> bool {
    !frame.is_tagged() || network.overlay.as_ref().is_some_and(|overlay| tables.takes_tags(overlay, vtep))
}

fn flood(tables: &Tables, frame: &Frame<'_>, ingress: Ingress) -> Verdict {
    let is_heard = flood::targets(tables, ingress).next().is_some()
        || flood::vteps(tables, frame, ingress).next().is_some();
    if is_heard {
        Verdict::Flood
    } else if frame.is_tagged() && flood::may_leave(tables, ingress) {
        Verdict::Drop(DropReason::InnerVlan)
    } else {
        Verdict::Drop(DropReason::NoReceiver)
    }
}

/// 01:80:c2:00:00:00 to 0f (IEEE 802.1Q table 8-1).
fn is_link_local(mac: MacAddr) -> bool {
    matches!(mac.0, [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f])
}
