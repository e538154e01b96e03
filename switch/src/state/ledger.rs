//! Who has what in one network, and the search for what is free: the same for endpoints of a node's own networks and
//! for leases in the cluster's.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::command::{Addresses, Attachment};
use vswitch_proto::id::{ContainerId, MacAddr, Name};

use super::ipam::{self, Pool};
use super::rejected::Holder;
use super::sharded::Sharded;
use super::{Network, Rejected, gateway_mac};

/// What has a place in a network.
pub(super) trait Member: PartialEq {
    fn container(&self) -> ContainerId;

    /// None without an interface.
    fn addresses(&self) -> Option<Addresses>;
}

/// The members of one network. Everything but the cursors follows from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ledger<M> {
    by_container: Sharded<ContainerId, Arc<M>>,
    by_address: Sharded<IpAddr, Arc<M>>,
    by_mac: Sharded<MacAddr, Arc<M>>,
    pub(super) cursors: Cursors,
}

impl<M> Default for Ledger<M> {
    fn default() -> Ledger<M> {
        Ledger {
            by_container: Sharded::new(),
            by_address: Sharded::new(),
            by_mac: Sharded::new(),
            cursors: Cursors::default(),
        }
    }
}

/// Where the search for a free address goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursors {
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
}

impl Cursors {
    /// Both point into what they are cursors of.
    pub(super) fn is_sound(&self) -> bool {
        self.ipv4.is_none_or(|ip| ip.is_ipv4()) && self.ipv6.is_none_or(|ip| ip.is_ipv6())
    }
}

/// How a free address is looked for.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    /// From the end of the range: somebody else hands out addresses of it from the beginning.
    pub(super) downwards: bool,
    /// What nobody in the network has, and is kept for somebody.
    pub(super) is_reserved: &'a dyn Fn(IpAddr) -> bool,
    /// What is left to somebody else as long as there are others.
    pub(super) is_kept: &'a dyn Fn(IpAddr) -> bool,
}

impl Search<'_> {
    /// Where nobody else hands out addresses.
    pub(super) const ALONE: Search<'static> =
        Search { downwards: false, is_reserved: &|_| false, is_kept: &|_| false };
}

/// Addresses that can be given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    pub(super) addresses: Addresses,
    /// Behind addresses that the pools chose, where their search goes on.
    next: Cursors,
}

impl Grant {
    /// Addresses that were chosen elsewhere.
    pub(super) fn given(addresses: Addresses) -> Grant {
        Grant { addresses, next: Cursors::default() }
    }
}

impl<M: Member> Ledger<M> {
    pub(super) fn with_cursors(cursors: Cursors) -> Ledger<M> {
        Ledger { cursors, ..Ledger::default() }
    }

    pub(super) fn at(&self, container: &ContainerId) -> Option<&M> {
        self.by_container.get(container).map(Arc::as_ref)
    }

    /// In the order of the containers' ids.
    pub(super) fn members(&self) -> impl Iterator<Item = &M> + Clone {
        self.by_container.values().map(Arc::as_ref)
    }

    pub(super) fn has(&self, address: &IpAddr) -> bool {
        self.by_address.contains_key(address)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_container.is_empty()
    }

    /// What an attachment gets in `network`, whose ledger this is. `who` names a member.
    pub(super) fn grant(
        &self,
        network: &Network,
        wanted: &Attachment,
        search: Search<'_>,
        who: &dyn Fn(&M) -> Holder,
    ) -> Result<Grant, Rejected> {
        let (mut ipv4, mut ipv6, mut next) = (None, None, Cursors::default());
        for pool in &network.pools {
            match pool.is_ipv6() {
                false if wanted.ipv4.is_some() => ipv4 = wanted.ipv4,
                true if wanted.ipv6.is_some() => ipv6 = wanted.ipv6,
                is_ipv6 => {
                    let chosen = self.choose(network, pool, search, wanted.mac.is_none() && !is_ipv6)?;
                    let behind =
                        if search.downwards { ipam::predecessor(chosen) } else { ipam::successor(chosen) };
                    match chosen {
                        IpAddr::V4(ip) => (ipv4, next.ipv4) = (Some(ip), behind),
                        IpAddr::V6(ip) => (ipv6, next.ipv6) = (Some(ip), behind),
                    }
                }
            }
        }
        let derived = ipv4.map(MacAddr::from_ipv4).or(ipv6.map(MacAddr::from_ipv6));
        let mac = wanted.mac.or(derived).expect("a network with interfaces has an IPv4 pool");
        let addresses = Addresses { mac, ipv4, ipv6 };
        if gateway_mac(network) == Some(mac) {
            return Err(Rejected::MacInUse {
                mac,
                network: network.name.clone(),
                holder: "the gateway".into(),
            });
        }
        self.check_free(&network.name, &addresses, who)?;
        Ok(Grant { addresses, next })
    }

    /// Whether nobody in the network has one of these.
    pub(super) fn is_free(&self, addresses: &Addresses) -> bool {
        !self.by_mac.contains_key(&addresses.mac) && addresses.ips().all(|ip| !self.has(&ip))
    }

    /// Whether nobody in the network, which is called `network`, has one of these.
    pub(super) fn check_free(
        &self,
        network: &Name,
        addresses: &Addresses,
        who: &dyn Fn(&M) -> Holder,
    ) -> Result<(), Rejected> {
        for address in addresses.ips() {
            if let Some(holder) = self.by_address.get(&address) {
                return Err(Rejected::AddressInUse {
                    address,
                    network: network.clone(),
                    holder: who(holder),
                });
            }
        }
        match self.by_mac.get(&addresses.mac) {
            Some(holder) => Err(Rejected::MacInUse {
                mac: addresses.mac,
                network: network.clone(),
                holder: format!("container {}", who(holder)),
            }),
            None => Ok(()),
        }
    }

    /// The next free address; with `avoid_mac` one whose derived MAC is not somebody's explicit one.
    fn choose(
        &self,
        network: &Network,
        pool: &Pool,
        search: Search<'_>,
        avoid_mac: bool,
    ) -> Result<IpAddr, Rejected> {
        let cursor = if pool.is_ipv6() { self.cursors.ipv6 } else { self.cursors.ipv4 };
        let mac_taken = |address| match address {
            IpAddr::V4(ip) => avoid_mac && self.by_mac.contains_key(&MacAddr::from_ipv4(ip)),
            IpAddr::V6(_) => false,
        };
        let is_taken = |address| {
            self.by_address.contains_key(&address) || mac_taken(address) || (search.is_reserved)(address)
        };
        let exhausted = || Rejected::PoolExhausted { range: pool.range(), network: network.name.clone() };
        let find = |is_taken: &dyn Fn(IpAddr) -> bool| {
            if search.downwards {
                pool.previous_free(cursor, is_taken)
            } else {
                pool.next_free(cursor, is_taken)
            }
        };
        let free = find(&|address| is_taken(address) || (search.is_kept)(address));
        free.or_else(|| find(&is_taken)).ok_or_else(exhausted)
    }

    /// Enters a member that got what was granted.
    pub(super) fn enter(&mut self, member: &Arc<M>, grant: &Grant) {
        let Cursors { ipv4, ipv6 } = grant.next;
        self.cursors.ipv4 = ipv4.or(self.cursors.ipv4);
        self.cursors.ipv6 = ipv6.or(self.cursors.ipv6);
        self.note(member);
    }

    /// Enters a member, whose addresses are free.
    pub(super) fn note(&mut self, member: &Arc<M>) {
        self.by_container.insert(member.container(), Arc::clone(member));
        let Some(addresses) = member.addresses() else { return };
        self.by_mac.insert(addresses.mac, Arc::clone(member));
        for ip in addresses.ips() {
            self.by_address.insert(ip, Arc::clone(member));
        }
    }

    pub(super) fn strike(&mut self, member: &M) {
        self.by_container.remove(&member.container());
        let Some(addresses) = member.addresses() else { return };
        self.by_mac.remove(&addresses.mac);
        for ip in addresses.ips() {
            self.by_address.remove(&ip);
        }
    }

    /// What [`Ledger::note`] would overwrite.
    pub(super) fn contradiction(&self, member: &M) -> Option<&'static str> {
        if self.by_container.contains_key(&member.container()) {
            return Some("a container twice in a network");
        }
        let addresses = member.addresses()?;
        if self.by_mac.contains_key(&addresses.mac) {
            return Some("a MAC address twice in a network");
        }
        let twice = addresses.ips().any(|ip| self.by_address.contains_key(&ip));
        twice.then_some("an address twice in a network")
    }
}
