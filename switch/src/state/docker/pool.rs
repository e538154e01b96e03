//! Pools of addresses that are this node's: which subnets an engine gets, and which addresses of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vswitch_proto::command::AddressHolder;
use vswitch_proto::id::NetworkId;

use super::super::ipam::{self, Pool};
use super::super::{Applied, Network, Rejected, State};
use super::POOLS_MAX;

/// Of one pool.
const ADDRESSES_MAX: usize = super::ENDPOINTS_MAX;

/// A subnet, and who has which address of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPool {
    pub subnet: IpNet,
    pub ip_range: Option<IpNet>,
    /// Requests that were not released. 0 for a pool whose network is still there: it ends with the network.
    pub uses: u32,
    pub addresses: BTreeMap<IpAddr, AddressHolder>,
    cursor: Option<IpAddr>,
}

impl AddressPool {
    /// The address that the gateway has, or an interface: a second request gets it again. Auxiliary addresses are told
    /// apart by themselves only.
    fn held_by(&self, holder: AddressHolder) -> Option<IpAddr> {
        let held =
            self.addresses.iter().find(|(_, held)| **held == holder && holder != AddressHolder::Nobody);
        held.map(|(address, _)| *address)
    }

    /// An interface has one address, so that a second request can be answered the same.
    fn check_has_none(&self, holder: AddressHolder) -> Result<(), Rejected> {
        match (holder, self.held_by(holder)) {
            (AddressHolder::Interface(mac), Some(address)) => {
                Err(Rejected::PoolMacInUse { mac, address, subnet: self.subnet })
            }
            _ => Ok(()),
        }
    }

    /// What the holder has already. Once an endpoint uses it, whoever asks is another one with the same MAC address.
    fn give_again(
        &self,
        address: IpAddr,
        holder: AddressHolder,
        is_taken: impl Fn(IpAddr) -> bool,
    ) -> Result<IpAddr, Rejected> {
        match holder {
            AddressHolder::Interface(mac) if is_taken(address) => {
                Err(Rejected::PoolMacInUse { mac, address, subnet: self.subnet })
            }
            _ => Ok(address),
        }
    }

    /// The rules of what may be handed out, as for a network whose gateway is not set apart.
    fn rules(&self) -> Pool {
        Pool {
            subnet: self.subnet,
            gateway: self.subnet.network(),
            ip_range: self.ip_range,
            aux_addresses: BTreeMap::new(),
        }
    }

    /// What a request gets: an address that `is_taken` elsewhere is not handed out, but may be asked for.
    fn choose(
        &self,
        address: Option<IpAddr>,
        holder: AddressHolder,
        is_taken: impl Fn(IpAddr) -> bool,
    ) -> Result<IpAddr, Rejected> {
        let rules = self.rules();
        if let Some(address) = address {
            rules.check_host("address", address)?;
            return match self.addresses.get(&address) {
                Some(held) if *held != holder => {
                    Err(Rejected::PoolAddressInUse { address, subnet: self.subnet })
                }
                Some(_) => self.give_again(address, holder, is_taken),
                None => self.check_has_none(holder).map(|()| address),
            };
        }
        if let Some(held) = self.held_by(holder) {
            return self.give_again(held, holder, is_taken);
        }
        let (rules, cursor) = match holder {
            // The first address that is free of the whole subnet.
            AddressHolder::Gateway => (Pool { ip_range: None, ..rules }, None),
            _ => (rules, self.cursor),
        };
        let free = rules.next_free(cursor, |ip| self.addresses.contains_key(&ip) || is_taken(ip));
        free.ok_or(Rejected::AddressesExhausted(rules.range()))
    }

    /// An interface may be there twice: that was once given.
    pub(super) fn is_sound(&self) -> bool {
        let within = |ip: &IpAddr| self.subnet.contains(ip);
        self.rules().is_sound()
            && self.addresses.keys().all(within)
            && self.cursor.as_ref().is_none_or(within)
    }
}

impl State {
    /// `kind` is whether it is to be of IPv6, and the seed for the search then.
    pub(super) fn request_pool(
        &mut self,
        subnet: Option<IpNet>,
        ip_range: Option<IpNet>,
        (ipv6, seed): (bool, &[u8; 32]),
        occupied: &[IpNet],
    ) -> Result<Applied, Rejected> {
        let pools = || self.docker.pools.keys();
        let subnet = match subnet {
            Some(subnet) => {
                ipam::check_subnet(subnet)?;
                let other = pools().find(|other| **other != subnet && ipam::overlap(**other, subnet));
                if let Some(other) = other {
                    return Err(Rejected::PoolOverlap { subnet, other: *other });
                }
                match self.address_pool(&subnet) {
                    Some(pool) if pool.ip_range != ip_range => {
                        let range = pool.ip_range.unwrap_or(subnet);
                        return Err(Rejected::PoolRange { subnet, range });
                    }
                    Some(_) => {}
                    None => self.check_no_network_has(subnet)?,
                }
                subnet
            }
            None => {
                let networks = self.networks().flat_map(|n| n.pools.iter().map(|pool| pool.subnet));
                let taken: Vec<IpNet> =
                    networks.chain(pools().copied()).chain(occupied.iter().copied()).collect();
                let is_free = |subnet: &IpNet| !taken.iter().any(|other| ipam::overlap(*other, *subnet));
                let found = if ipv6 {
                    ipam::unique_local(&NetworkId(*seed)).find(is_free)
                } else {
                    ipam::default_ipv4().find(is_free)
                };
                found.ok_or(Rejected::NoFreePool { ipv6 })?
            }
        };
        if let Some(range) = ip_range {
            ipam::check_range(range, subnet)?;
        }
        if !self.docker.pools.contains_key(&subnet) && self.docker.pools.len() >= POOLS_MAX {
            return Err(Rejected::TooManyPools);
        }
        let new = AddressPool { subnet, ip_range, uses: 0, addresses: BTreeMap::new(), cursor: None };
        let pool = self.docker_mut().pools.entry(subnet).or_insert_with(|| Arc::new(new));
        let pool = Arc::make_mut(pool);
        pool.uses = pool.uses.saturating_add(1);
        Ok(Applied::PoolGiven { subnet })
    }

    /// Releases one use of a pool. One that is gone already is passed over. Engines release the pools of a network before
    /// they delete it, and repeat that: the last use leaves a pool that a network has, which then ends with the network.
    pub(super) fn release_pool(&mut self, subnet: &IpNet) -> Result<Applied, Rejected> {
        let is_needed = self.network_of_pool(subnet).is_some();
        let pools = &mut self.docker_mut().pools;
        if let Some(pool) = pools.get_mut(subnet) {
            let left = pool.uses.saturating_sub(1);
            if left > 0 || is_needed {
                Arc::make_mut(pool).uses = left;
            } else {
                pools.remove(subnet);
            }
        }
        Ok(Applied::DockerChanged)
    }

    /// Removes the pools of a network that has gone, as far as nobody uses them any more.
    pub(super) fn drop_released_pools(&mut self, subnets: &[IpNet]) {
        for subnet in subnets {
            let is_released = self.address_pool(subnet).is_some_and(|pool| pool.uses == 0);
            if is_released && self.network_of_pool(subnet).is_none() {
                self.docker_mut().pools.remove(subnet);
            }
        }
    }

    /// A pool that a network does not have from here would be taken for that network's.
    fn check_no_network_has(&self, subnet: IpNet) -> Result<(), Rejected> {
        for network in self.networks().filter(|network| self.belongs_to_docker(&network.id)) {
            if let Some(other) = network.pools.iter().find(|pool| ipam::overlap(pool.subnet, subnet)) {
                let network = network.name.clone();
                return Err(Rejected::SubnetOverlap { subnet, other: other.subnet, network });
            }
        }
        Ok(())
    }

    /// The engine's network with this subnet.
    fn network_of_pool(&self, subnet: &IpNet) -> Option<&Network> {
        self.networks().find(|network| {
            self.belongs_to_docker(&network.id) && network.pools.iter().any(|pool| pool.subnet == *subnet)
        })
    }

    pub(super) fn request_address(
        &mut self,
        subnet: &IpNet,
        address: Option<IpAddr>,
        holder: AddressHolder,
    ) -> Result<Applied, Rejected> {
        let pool = self.address_pool(subnet).ok_or(Rejected::UnknownPool(*subnet))?;
        if pool.addresses.len() >= ADDRESSES_MAX {
            return Err(Rejected::TooManyEndpoints);
        }
        // Containers of the lab runner get their addresses from the network itself.
        let ledger = self.network_of_pool(subnet).and_then(|network| self.ledgers.get(&network.id));
        let given = pool.choose(address, holder, |ip| ledger.is_some_and(|ledger| ledger.has(&ip)))?;
        let pool = self.docker_mut().pools.get_mut(subnet).expect("it was just found");
        let pool = Arc::make_mut(pool);
        pool.addresses.insert(given, holder);
        if address.is_none() && holder != AddressHolder::Gateway {
            pool.cursor = ipam::successor(given).filter(|next| subnet.contains(next));
        }
        Ok(Applied::AddressGiven { address: given })
    }

    /// One that nobody has is passed over. What is not an interface's was asked for once for each use of the pool: it
    /// stays until the last, and while a network has the pool.
    pub(super) fn release_address(&mut self, subnet: &IpNet, address: IpAddr) -> Result<Applied, Rejected> {
        let is_needed = self.network_of_pool(subnet).is_some();
        if let Some(pool) = self.docker_mut().pools.get_mut(subnet) {
            let pool = Arc::make_mut(pool);
            let is_interface = |holder: &AddressHolder| matches!(holder, AddressHolder::Interface(_));
            if (pool.uses <= 1 && !is_needed) || pool.addresses.get(&address).is_some_and(is_interface) {
                pool.addresses.remove(&address);
            }
        }
        Ok(Applied::DockerChanged)
    }
}
