//! Who gets a frame that has no single receiver, and how many of those a port or another host may send.
//!
//! Each other host of the network gets a copy of its own (head-end replication). What came from a tunnel goes to ports
//! only (split horizon), so nothing goes round.
//!
//! Storm control is a token bucket per ingress port, and per network and tunnel endpoint for what comes from tunnels, where
//! `TUNNEL_PORTS` containers may send as much as they can together. Broadcast, multicast and unknown unicast each take
//! one token per frame that is handed over; that a flooded frame costs one write per receiver is what the workers charge
//! the port for. Frames for one known receiver take none. Frames for the gateway have buckets of their own. A port
//! is read by one worker, so the buckets are that worker's own and need no lock (a tunnel endpoint has one bucket with
//! each worker); the bucket of a port that left the tables, and a tunnel endpoint's full bucket, is dropped when the
//! map next grows.
//!
//! The bucket is kept as a virtual schedule (the generic cell rate algorithm, ITU-T I.371 annex A): one instant per
//! port, no tokens to top up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use vswitch_proto::id::{PortId, Vni};

use super::Ingress;
use super::fdb::Place;
use super::tables::Tables;
use crate::frame::Frame;

/// Ports that get a flooded frame, ascending: all of the network it came from but the port it came from. None if
/// that port or network is unknown.
pub fn targets(tables: &Tables, ingress: Ingress) -> impl Iterator<Item = PortId> {
    let found = match ingress {
        Ingress::Port(from) => tables.port(from).map(|(port, network)| (port.vni, network)),
        Ingress::Tunnel { vni, .. } => tables.networks.get(&vni).map(|network| (vni, &**network)),
    };
    found.into_iter().flat_map(move |(vni, network)| {
        let members = network.ports.iter().copied();
        members.filter(move |&to| ingress != Ingress::Port(to) && tables.is_member(vni, to))
    })
}

/// Tunnel endpoints that get a flooded frame each: none for what came from one, and for a tagged frame only those that
/// take it ([`Tables::takes_tags`]).
pub fn vteps<'a>(
    tables: &'a Tables,
    frame: &Frame<'_>,
    ingress: Ingress,
) -> impl Iterator<Item = IpAddr> + Clone + use<'a> {
    let overlay = match ingress {
        Ingress::Port(from) => tables.port(from).and_then(|(_, network)| network.overlay.as_ref()),
        Ingress::Tunnel { .. } => None,
    };
    let is_tagged = frame.is_tagged();
    overlay.into_iter().flat_map(move |overlay| {
        let vteps = overlay.flood_vteps.iter().copied();
        vteps.filter(move |&vtep| !is_tagged || tables.takes_tags(overlay, vtep))
    })
}

/// Whether there are tunnel endpoints that get flooded frames from there, whichever these frames are.
pub(super) fn may_leave(tables: &Tables, ingress: Ingress) -> bool {
    let Ingress::Port(from) = ingress else { return false };
    let overlay = tables.port(from).and_then(|(_, network)| network.overlay.as_ref());
    overlay.is_some_and(|overlay| !overlay.flood_vteps.is_empty())
}

/// How many broadcast, multicast and unknown unicast frames one port, or one tunnel endpoint, may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StormLimit {
    pub frames_per_s: NonZeroU32,
    /// Frames that may come at once after a silence.
    pub burst: NonZeroU32,
}

impl Default for StormLimit {
    /// 20,000 frames per second and as many at once: a container that looks for hundreds of others stays far below,
    /// a loop or a flooding tool does not.
    fn default() -> StormLimit {
        const FRAMES: NonZeroU32 = NonZeroU32::new(20_000).expect("20,000 is not 0");
        StormLimit { frames_per_s: FRAMES, burst: FRAMES }
    }
}

/// Containers behind a tunnel endpoint that may flood at their limit before the endpoint's own is reached, so that one of
/// them, which its own host limits, does not take it all.
const TUNNEL_PORTS: u32 = 4;

/// The buckets of the places that one worker reads from.
#[derive(Debug)]
pub(super) struct StormControl {
    limit: Option<StormLimit>,
    /// When each bucket is full again. Places without an entry have a full bucket.
    full_at: HashMap<(Vni, Place), Instant>,
    /// Entries at which those that are of no use are looked for.
    tidy_at: usize,
}

const TIDY_AT_MIN: usize = 64;

impl StormControl {
    pub(super) fn new(limit: Option<StormLimit>) -> StormControl {
        StormControl { limit, full_at: HashMap::new(), tidy_at: TIDY_AT_MIN }
    }

    /// Takes a token of this place, if it has one.
    pub(super) fn admit(&mut self, tables: &Tables, from: (Vni, Place), now: Instant) -> bool {
        let Some(limit) = self.limit else { return true };
        let ports = if matches!(from.1, Place::Vtep(_)) { TUNNEL_PORTS } else { 1 };
        let interval = Duration::from_secs(1) / limit.frames_per_s.get() / ports;
        let debt_max = interval * limit.burst.get().saturating_mul(ports).saturating_sub(1);

        if self.full_at.len() >= self.tidy_at {
            self.forget_useless(tables, now);
        }
        let full_at = self.full_at.entry(from).or_insert(now);
        let begin = (*full_at).max(now);
        if begin - now > debt_max {
            return false;
        }
        *full_at = begin + interval;
        true
    }

    fn forget_useless(&mut self, tables: &Tables, now: Instant) {
        self.full_at.retain(|(_, place), full_at| match place {
            Place::Port(port) => tables.ports.contains_key(port),
            Place::Vtep(_) => *full_at > now,
        });
        self.tidy_at = TIDY_AT_MIN.max(2 * self.full_at.len());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::forward::tests::{instant, network, tables};

    fn limit(frames_per_s: u32, burst: u32) -> Option<StormLimit> {
        let positive = |n| NonZeroU32::new(n).unwrap();
        Some(StormLimit { frames_per_s: positive(frames_per_s), burst: positive(burst) })
    }

    fn vni() -> Vni {
        Vni::new(1).unwrap()
    }

    fn at(port: u32) -> (Vni, Place) {
        (vni(), Place::Port(PortId(port)))
    }

    #[test]
    fn everybody_of_the_network_but_the_sender() {
        let mut tables = tables(&[network(1, &[1, 2, 3]), network(2, &[4])]);
        let set =
            |tables: &Tables, id| targets(tables, Ingress::Port(PortId(id))).map(|p| p.0).collect::<Vec<_>>();
        assert_eq!(set(&tables, 2), [1, 3]);
        assert!(set(&tables, 4).is_empty());
        assert!(set(&tables, 5).is_empty());
        // Tables that contradict themselves are not followed out of the network.
        let network = tables.networks.get_mut(&vni()).unwrap();
        Arc::make_mut(network).ports.extend([PortId(4), PortId(9)]);
        assert_eq!(set(&tables, 2), [1, 3]);
    }

    #[test]
    fn a_bucket_empties_and_fills_by_time() {
        let tables = tables(&[network(1, &[1, 2])]);
        let (mut storm, t0) = (StormControl::new(limit(10, 3)), instant());
        let mut admitted = |port, ms| storm.admit(&tables, at(port), t0 + Duration::from_millis(ms));
        assert_eq!([(); 4].map(|()| admitted(1, 0)), [true, true, true, false]);
        assert!(admitted(2, 0), "the other port has its own");
        assert!(!admitted(1, 99));
        assert!(admitted(1, 100));
        assert!(!admitted(1, 100));
        assert_eq!([(); 4].map(|()| admitted(1, 60_000)), [true, true, true, false]);
    }

    #[test]
    fn no_limit_admits_all() {
        let mut storm = StormControl::new(None);
        assert!((0..100_000).all(|_| storm.admit(&Tables::default(), at(1), instant())));
        assert!(storm.full_at.is_empty());
    }

    #[test]
    fn buckets_of_gone_ports_are_dropped() {
        let tables = tables(&[network(1, &[1, 2])]);
        let (mut storm, t0) = (StormControl::new(limit(10, 3)), instant());
        for id in 0..10_000 {
            storm.admit(&tables, at(id), t0);
            assert!(storm.full_at.len() <= TIDY_AT_MIN);
        }
        // Those that stay keep their debt.
        (0..3).for_each(|_| _ = storm.admit(&tables, at(2), t0));
        (20_000..20_100).for_each(|id| _ = storm.admit(&tables, at(id), t0));
        assert!(!storm.admit(&tables, at(2), t0));
    }

    #[test]
    fn full_buckets_of_tunnel_endpoints_are_dropped() {
        let tables = Tables::default();
        let (mut storm, t0) = (StormControl::new(limit(10, 3)), instant());
        let vtep = |n: u32| (vni(), Place::Vtep(std::net::Ipv4Addr::from(n).into()));
        (0..3 * TUNNEL_PORTS).for_each(|_| _ = storm.admit(&tables, vtep(0), t0));
        let mut later = t0;
        for n in 1..1000 {
            storm.admit(&tables, vtep(n), later);
            later += Duration::from_micros(10);
        }
        assert!(!storm.admit(&tables, vtep(0), later), "its debt is kept");
        later += Duration::from_secs(1);
        (1000..3000).for_each(|n| {
            storm.admit(&tables, vtep(n), later);
            later += Duration::from_millis(10);
        });
        assert!(storm.full_at.len() <= TIDY_AT_MIN, "{} buckets", storm.full_at.len());
    }
}
