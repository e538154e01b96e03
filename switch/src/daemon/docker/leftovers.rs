//! What an engine has forgotten: endpoints, networks, pools and addresses that are kept here and that it does not list.
//!
//! A call that makes something comes before the engine lists it, and a call that ends something may come after it stopped
//! to. So what is missing is only taken away after it has been missing for a while, in every [`Census`] of that time, and
//! none of these failed. A container's address goes after its endpoint.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use vswitch_proto::command::{AddressHolder, DockerChange};
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId};

use super::engine::Census;
use crate::state::{State, Wire};

/// In the order in which they are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    Endpoint(ContainerId),
    Reservation(EndpointId),
    Address(IpNet, IpAddr),
    Network(NetworkId),
    Pool(IpNet),
}

impl Leftover {
    /// Its end.
    pub fn change(self) -> DockerChange {
        match self {
            Leftover::Endpoint(endpoint) => DockerChange::RemoveEndpoint { endpoint },
            Leftover::Reservation(endpoint) => DockerChange::Unreserve { endpoint },
            Leftover::Address(subnet, address) => DockerChange::ReleaseAddress { subnet, address },
            Leftover::Network(network) => DockerChange::RemoveNetwork { network },
            Leftover::Pool(subnet) => DockerChange::ReclaimPool { subnet },
        }
    }

    /// What it is, with what it is known by.
    pub fn told(self) -> (&'static str, String) {
        match self {
            Leftover::Endpoint(id) => ("endpoint", id.to_string()),
            Leftover::Reservation(id) => ("lease", id.to_string()),
            Leftover::Address(_, address) => ("address", address.to_string()),
            Leftover::Network(id) => ("network", id.to_string()),
            Leftover::Pool(subnet) => ("pool", subnet.to_string()),
        }
    }
}

/// Since when each is missing.
#[derive(Debug, Default)]
pub struct Missing(BTreeMap<Leftover, Instant>);

impl Missing {
    /// Those that have been missing for `grace`, of those that are missing now.
    pub fn due(&mut self, now_missing: &BTreeSet<Leftover>, grace: Duration, now: Instant) -> Vec<Leftover> {
        self.0.retain(|leftover, _| now_missing.contains(leftover));
        for leftover in now_missing {
            self.0.entry(*leftover).or_insert(now);
        }
        let due = self.0.iter().filter(|(_, since)| now.duration_since(**since) >= grace);
        due.map(|(leftover, _)| *leftover).collect()
    }

    fn networks(&self) -> BTreeMap<NetworkId, Instant> {
        let network = |(leftover, since): (&Leftover, &Instant)| match leftover {
            Leftover::Network(id) => Some((*id, *since)),
            _ => None,
        };
        self.0.iter().filter_map(network).collect()
    }
}

/// How long an engine may take to list a network that it has just made.
const LISTED_AFTER: Duration = Duration::from_secs(2);

/// How long an engine has to be away before it is gone for good: a restart may take that long.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// What came of asking the engine for its lists.
#[derive(Debug, Default)]
enum Lists {
    /// Not asked so far, or in vain.
    #[default]
    NotKnown,
    /// Nothing listens at its socket, since then.
    Away(Instant),
    /// Networks here that they lack, and since when.
    Lack(BTreeMap<NetworkId, Instant>),
}

/// Whether an engine has a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// The engine cannot be asked, or may be about to list it.
    NotKnown,
    Yes,
    /// The engine has forgotten it, or has been away itself for a while.
    No,
}

/// Which networks here the engine's latest lists lack, for those who take no [`Census`] themselves.
#[derive(Debug, Default)]
pub struct Lacking {
    lists: Mutex<Lists>,
    is_followed: AtomicBool,
}

impl Lacking {
    /// From now on somebody keeps this current.
    pub fn follow(&self) {
        self.is_followed.store(true, Ordering::Relaxed);
    }

    pub fn is_followed(&self) -> bool {
        self.is_followed.load(Ordering::Relaxed)
    }

    /// How the engine was found when it was looked at last.
    pub fn contact(&self) -> &'static str {
        match &*self.lock() {
            _ if !self.is_followed() => "off",
            Lists::NotKnown => "waiting",
            Lists::Away(_) => "away",
            Lists::Lack(_) => "connected",
        }
    }

    /// Whether the engine was away when it was looked at last.
    pub fn is_away(&self) -> bool {
        matches!(&*self.lock(), Lists::Away(_))
    }

    pub fn set(&self, missing: &Missing) {
        *self.lock() = Lists::Lack(missing.networks());
    }

    /// There are no lists.
    pub fn unset(&self, is_away: bool, now: Instant) {
        let mut lists = self.lock();
        let since = if let Lists::Away(since) = &*lists { *since } else { now };
        *lists = if is_away { Lists::Away(since) } else { Lists::NotKnown };
    }

    /// Whether the engine is there and has no such network any more.
    pub fn is_forgotten(&self, network: &NetworkId, now: Instant) -> bool {
        let is_there = matches!(&*self.lock(), Lists::Lack(_));
        is_there && self.listed(network, now) == Listed::No
    }

    pub fn listed(&self, network: &NetworkId, now: Instant) -> Listed {
        match &*self.lock() {
            Lists::NotKnown => Listed::NotKnown,
            Lists::Away(since) if now.duration_since(*since) >= GONE_AFTER => Listed::No,
            Lists::Away(_) => Listed::NotKnown,
            Lists::Lack(missing) => match missing.get(network) {
                None => Listed::Yes,
                Some(since) if now.duration_since(*since) >= LISTED_AFTER => Listed::No,
                Some(_) => Listed::NotKnown,
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that the engine does not list.
pub fn missing(state: &State, census: &Census) -> BTreeSet<Leftover> {
    let mut missing = BTreeSet::new();
    let listed = |endpoint: &ContainerId| census.endpoints.contains_key(&EndpointId(endpoint.0));
    let endpoints = state.docker_endpoints().map(|(container, _)| container.id);
    missing.extend(endpoints.filter(|id| !listed(id)).map(Leftover::Endpoint));

    let in_use: BTreeSet<IpAddr> =
        census.endpoints.values().flat_map(|e| e.addresses.iter().copied()).collect();
    let unused = state.reservations().filter(|r| {
        state.endpoint(&r.endpoint).is_none() && !r.addresses.ips().any(|ip| in_use.contains(&ip))
    });
    missing.extend(unused.map(|r| Leftover::Reservation(r.endpoint)));

    // A list of networks may be short: what a listed endpoint is in is there.
    let in_engine: BTreeSet<NetworkId> = state
        .docker_endpoints()
        .filter(|(container, _)| listed(&container.id))
        .map(|(_, spec)| spec.network)
        .collect();
    let networks = state
        .docker_networks()
        .filter(|n| !census.networks.contains_key(&n.id) && !in_engine.contains(&n.id));
    missing.extend(networks.map(|n| Leftover::Network(n.id)));

    let endpoints = state.docker_endpoints().flat_map(|(container, _)| state.endpoints_of(&container.id));
    let held: BTreeSet<IpAddr> =
        endpoints.filter_map(|endpoint| endpoint.wire.as_ref()).flat_map(Wire::addresses).collect();
    let pools: BTreeSet<IpNet> = census.networks.values().flat_map(|n| n.pools.iter().copied()).collect();
    for pool in state.pools() {
        let is_used = pool.addresses.keys().any(|address| in_use.contains(address));
        if !pools.contains(&pool.subnet) && !is_used {
            missing.insert(Leftover::Pool(pool.subnet));
            continue;
        }
        let interfaces = pool.addresses.iter().filter(|(_, h)| matches!(h, AddressHolder::Interface(_)));
        let unused =
            interfaces.map(|(address, _)| *address).filter(|ip| !in_use.contains(ip) && !held.contains(ip));
        missing.extend(unused.map(|address| Leftover::Address(pool.subnet, address)));
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_all_the_time_is_due() {
        let (mut missing, start) = (Missing::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let grace = Duration::from_secs(60);
        let (a, b) = (Leftover::Endpoint(ContainerId([1; 32])), Leftover::Network(NetworkId([2; 32])));
        let both = BTreeSet::from([a, b]);
        assert_eq!(missing.due(&both, grace, at(0)), []);
        assert_eq!(missing.due(&BTreeSet::from([b]), grace, at(30)), []);
        assert_eq!(missing.due(&both, grace, at(59)), []);
        assert_eq!(missing.due(&both, grace, at(60)), [b], "the other one was there meanwhile");
        assert_eq!(missing.due(&both, grace, at(119)), [a, b]);
    }

    #[test]
    fn what_was_just_made_is_not_forgotten() {
        let (mut missing, lacking, start) = (Missing::default(), Lacking::default(), Instant::now());
        let (id, later) = (NetworkId([2; 32]), start + LISTED_AFTER);
        assert!(!lacking.is_forgotten(&id, later), "nobody has asked");
        assert_eq!(lacking.listed(&id, later), Listed::NotKnown);
        missing.due(&BTreeSet::from([Leftover::Network(id)]), Duration::from_secs(60), start);
        lacking.set(&missing);
        assert!(!lacking.is_forgotten(&id, start) && lacking.is_forgotten(&id, later));
        assert_eq!((lacking.listed(&id, start), lacking.listed(&id, later)), (Listed::NotKnown, Listed::No));
        assert_eq!(lacking.listed(&NetworkId([3; 32]), start), Listed::Yes);
        lacking.unset(false, later);
        assert_eq!(lacking.listed(&id, later), Listed::NotKnown, "the engine does not answer");
    }

    #[test]
    fn an_engine_that_restarts_is_not_gone() {
        let (lacking, id, start) = (Lacking::default(), NetworkId([2; 32]), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        lacking.unset(true, at(0));
        lacking.unset(true, at(20));
        assert_eq!(lacking.listed(&id, at(29)), Listed::NotKnown);
        assert_eq!(lacking.listed(&id, at(30)), Listed::No, "away all the time");
        assert!(!lacking.is_forgotten(&id, at(30)), "it may come back with it");
        lacking.unset(false, at(31));
        lacking.unset(true, at(32));
        assert_eq!(lacking.listed(&id, at(61)), Listed::NotKnown, "it was there meanwhile");
    }
}
