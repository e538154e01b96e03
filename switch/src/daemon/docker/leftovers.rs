//! What an engine has forgotten: endpoints, networks, pools and addresses that are kept here and that it does not list.
//!
//! A call that makes something comes before the engine lists it, and a call that ends something may come after it stopped
//! to. So what is missing is only taken away after it has been missing for a while, in every [`Census`] of that time, and
//! none of these failed. A container's address goes after its endpoint.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
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

/// Which networks here the engine's latest lists lack, for those who take no [`Census`] themselves. Nothing while the
/// engine is away.
#[derive(Debug, Default)]
pub struct Lacking(Mutex<Option<BTreeMap<NetworkId, Instant>>>);

impl Lacking {
    pub fn set(&self, missing: Option<&Missing>) {
        *self.lock() = missing.map(Missing::networks);
    }

    /// Whether the engine is there and has no such network any more.
    pub fn is_forgotten(&self, network: &NetworkId, now: Instant) -> bool {
        let since = self.lock().as_ref().and_then(|missing| missing.get(network).copied());
        since.is_some_and(|since| now.duration_since(since) >= LISTED_AFTER)
    }

    /// Whether the engine is there and has the network.
    pub fn is_listed(&self, network: &NetworkId) -> bool {
        self.lock().as_ref().is_some_and(|missing| !missing.contains_key(network))
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<NetworkId, Instant>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    let networks = state.docker_networks().filter(|n| !census.networks.contains_key(&n.id));
    missing.extend(networks.map(|n| Leftover::Network(n.id)));

    let endpoints = state.docker_endpoints().flat_map(|(container, _)| state.endpoints_of(&container.id));
    let held: BTreeSet<IpAddr> =
        endpoints.filter_map(|endpoint| endpoint.wire.as_ref()).flat_map(Wire::addresses).collect();
    let pools: BTreeSet<IpNet> = census.networks.values().flat_map(|n| n.pools.iter().copied()).collect();
    for pool in state.pools() {
        if !pools.contains(&pool.subnet) {
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
        assert!(!lacking.is_forgotten(&id, later) && !lacking.is_listed(&id), "nobody has asked");
        missing.due(&BTreeSet::from([Leftover::Network(id)]), Duration::from_secs(60), start);
        lacking.set(Some(&missing));
        assert!(!lacking.is_forgotten(&id, start) && lacking.is_forgotten(&id, later));
        assert!(!lacking.is_listed(&id) && lacking.is_listed(&NetworkId([3; 32])));
        lacking.set(None);
        assert!(!lacking.is_forgotten(&id, later), "the engine is away");
    }
}
