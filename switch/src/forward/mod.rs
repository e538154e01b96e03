//! The data plane: what becomes of a frame.
//!
//! # Goals
//! One pure function, [`Forwarder::forward`], decides about each frame: which port gets it, whether all do, whether it
//! is for the gateway, or why it is dropped. It performs nothing: the worker writes, sends and counts. The time is an
//! argument and the tables are an argument, so everything here is tested without root, clock or threads.
//!
//! # Theory of operation
//! ```text
//! Frame::parse -> ingress port and its network -> checks -> learn the source -> look the destination up -> verdict
//! ```
//! The destination is looked for in this order: the network's gateway, its registered endpoints, static entries,
//! learned ones. Not found, broadcast and multicast are flooded, within the port's [`StormLimit`].
//!
//! A question for the gateway's own address (ARP or neighbour solicitation) goes to the gateway only. Nobody else
//! could answer it, and a container that claims the address in such a question is not heard by its neighbours.
//!
//! # Invariants
//! 1. A frame is judged inside the network of the port it came from. No verdict and no flood set names a port that the
//!    tables do not have in that network, whatever the database or a stale entry says.
//! 2. No verdict names the port the frame came from.
//! 3. A registered address is never learned, so nobody can draw its traffic. The gateway's is never accepted as a
//!    source.
//! 4. After a move, a removal or a new static entry has returned to whoever made it, no forwarder answers from before.
//! 5. For a frame with a known receiver nothing is allocated, and in the steady state no shared memory is written.
//! 6. Everything is bounded: the database by [`FdbConfig`], the buckets of storm control by the ports in the tables,
//!    the cache by its slots. Reaching a bound is counted: [`FdbStats::refused`], [`DropReason::StormControl`].
//!
//! # Limits
//! - Source addresses are learned, not authenticated: within one network, a container may send with any source but the
//!   gateway's, as on the kernel's bridge. Only registered addresses are safe from being taken over.
//! - No spanning tree, no multicast snooping: multicast is broadcast. Link-local control frames stop here.
//! - VLAN tags pass through untouched, and all tags of a network share one forwarding table.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::sync::Arc;
use std::time::Instant;

use vswitch_proto::id::{MacAddr, PortId};
use vswitch_proto::wire::neighbor;

use crate::frame::Frame;
use cache::Cache;
use flood::StormControl;
use tables::{Gateway, Network, Port, Tables};

mod cache;
pub mod fdb;
pub mod flood;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod verdict;

pub use fdb::{Fdb, FdbConfig, FdbStats};
pub use flood::StormLimit;
pub use verdict::{DropReason, Verdict};

/// Where a frame entered the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    Port(PortId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardConfig {
    /// Per port; `None` for no limit.
    pub storm: Option<StormLimit>,
}

impl Default for ForwardConfig {
    fn default() -> ForwardConfig {
        ForwardConfig { storm: Some(StormLimit::default()) }
    }
}

/// One worker's view of the data plane. The forwarding database behind it is shared.
#[derive(Debug)]
pub struct Forwarder {
    fdb: Arc<Fdb>,
    cache: Cache,
    storm: StormControl,
}

impl Forwarder {
    pub fn new(fdb: Arc<Fdb>, config: ForwardConfig) -> Forwarder {
        Forwarder { fdb, cache: Cache::new(), storm: StormControl::new(config.storm) }
    }

    /// The whole path. `now` must not go back.
    pub fn forward(&mut self, tables: &Tables, frame: &Frame<'_>, ingress: Ingress, now: Instant) -> Verdict {
        let Ingress::Port(from) = ingress;
        let Some((port, network)) = tables.port(from) else {
            return Verdict::Drop(DropReason::UnknownPort);
        };
        if let Err(reason) = check(frame, port, network) {
            return Verdict::Drop(reason);
        }

        let source = frame.ethernet().source();
        if !network.endpoints.contains_key(&source) {
            self.cache.learn(&self.fdb, port.vni, source, from, now);
        }

        let destination = frame.ethernet().destination();
        if let Some(gateway) = &network.gateway {
            if destination == gateway.mac {
                return Verdict::Gateway;
            }
            if destination.is_multicast() && is_question_for(gateway, frame) {
                return self.limited(tables, from, now, Verdict::Gateway);
            }
        }
        match self.locate(network, port, destination, now) {
            Some(to) if to == from => Verdict::Drop(DropReason::Hairpin),
            Some(to) if tables.is_member(port.vni, to) => Verdict::Port(to),
            _ if flood::targets(tables, ingress).next().is_none() => Verdict::Drop(DropReason::NoReceiver),
            _ => self.limited(tables, from, now, Verdict::Flood),
        }
    }

    /// The port behind which an address is, as far as anybody knows.
    fn locate(&mut self, network: &Network, port: &Port, mac: MacAddr, now: Instant) -> Option<PortId> {
        if mac.is_multicast() {
            return None;
        }
        let registered = network.endpoints.get(&mac).copied();
        registered.or_else(|| self.cache.look_up(&self.fdb, port.vni, mac, now))
    }

    /// `verdict`, if the port has a token left for it.
    fn limited(&mut self, tables: &Tables, from: PortId, now: Instant, verdict: Verdict) -> Verdict {
        if self.storm.admit(tables, from, now) { verdict } else { Verdict::Drop(DropReason::StormControl) }
    }
}

/// What a bridge must not forward, and what the ingress port may not send.
fn check(frame: &Frame<'_>, port: &Port, network: &Network) -> Result<(), DropReason> {
    let source = frame.ethernet().source();
    if !source.is_unicast() || network.gateway.is_some_and(|gateway| gateway.mac == source) {
        return Err(DropReason::BadSource);
    }
    if is_link_local(frame.ethernet().destination()) {
        return Err(DropReason::LinkLocal);
    }
    if frame.packet_bytes() > port.mtu as usize {
        return Err(DropReason::Oversized);
    }
    Ok(())
}

/// 01:80:c2:00:00:00 to 0f (IEEE 802.1Q table 8-1).
fn is_link_local(mac: MacAddr) -> bool {
    matches!(mac.0, [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f])
}

fn is_question_for(gateway: &Gateway, frame: &Frame<'_>) -> bool {
    match neighbor::solicited(frame.ethernet()) {
        Some(std::net::IpAddr::V4(ip)) => gateway.ipv4 == Some(ip),
        Some(std::net::IpAddr::V6(ip)) => gateway.ipv6 == Some(ip),
        None => false,
    }
}
