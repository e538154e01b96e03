//! Networks: creation and removal, and the ledger of who has what in one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vswitch_proto::command::{CreateNetwork, Driver};
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, Name, NetworkId, Vni};

use super::ipam::{self, Pool};
use super::{Applied, Endpoint, IPV6_MTU_MIN, MTU_MIN, MTU_OPTION, NETWORKS_MAX, Rejected, State};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub name: Name,
    pub driver: Driver,
    pub vni: Vni,
    /// At most one of each family, IPv4 first; a bridge network always has an IPv4 one.
    pub pools: Vec<Pool>,
    pub internal: bool,
    pub ipv6: bool,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub builtin: bool,
    pub created_at_ms: u64,
}

impl Network {
    pub fn pool(&self, ipv6: bool) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.is_ipv6() == ipv6)
    }

    pub fn ipv4_gateway(&self) -> Option<Ipv4Addr> {
        self.pools.iter().find_map(|pool| if let IpAddr::V4(ip) = pool.gateway { Some(ip) } else { None })
    }

    pub fn ipv6_gateway(&self) -> Option<Ipv6Addr> {
        self.pools.iter().find_map(|pool| if let IpAddr::V6(ip) = pool.gateway { Some(ip) } else { None })
    }

    /// The MTU that was asked for, bytes; otherwise the daemon's default holds.
    pub fn mtu(&self) -> Option<u32> {
        self.options.get(MTU_OPTION).and_then(|value| value.parse().ok())
    }
}

/// Who has what in one network. Everything but the cursors follows from the endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) by_container: BTreeMap<ContainerId, Arc<Endpoint>>,
    pub(super) by_address: BTreeMap<IpAddr, EndpointId>,
    pub(super) by_mac: BTreeMap<MacAddr, EndpointId>,
    pub(super) cursors: Cursors,
}

/// Where the search for a free address goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursors {
    pub(super) ipv4: Option<IpAddr>,
    pub(super) ipv6: Option<IpAddr>,
}

/// Containers that an error names; it counts the rest.
const NAMED_MAX: usize = 10;

impl State {
    pub(super) fn create_network(
        &mut self,
        request: &CreateNetwork,
        at_ms: u64,
    ) -> Result<Applied, Rejected> {
        if self.networks().any(|n| n.name == request.name) {
            return Err(Rejected::NetworkNameTaken(request.name.clone()));
        }
        if self.networks.contains_key(&request.id) {
            return Err(Rejected::IdTaken(request.id.to_string()));
        }
        if self.networks.len() >= NETWORKS_MAX {
            return Err(Rejected::TooManyNetworks);
        }
        let pools = match request.driver {
            Driver::Bridge => {
                check_options(request)?;
                ipam::pools(request, &self.subnets())?
            }
            Driver::None | Driver::Host => {
                self.check_single(request)?;
                Vec::new()
            }
        };
        let vni = self.next_vni();
        let network = Network {
            id: request.id,
            name: request.name.clone(),
            driver: request.driver,
            vni,
            pools,
            internal: request.internal,
            ipv6: request.ipv6,
            options: request.options.clone(),
            labels: request.labels.clone(),
            builtin: request.builtin,
            created_at_ms: at_ms,
        };
        self.next_vni = vni.get() + 1;
        self.networks.insert(network.id, Arc::new(network));
        self.ledgers.insert(request.id, Arc::default());
        Ok(Applied::NetworkCreated { network: request.id })
    }

    pub(super) fn remove_network(&mut self, id: &NetworkId) -> Result<Applied, Rejected> {
        let network = self.network(id).ok_or(Rejected::UnknownNetwork(*id))?;
        if network.builtin {
            return Err(Rejected::Builtin(network.name.clone()));
        }
        let mut containers: Vec<Name> = self
            .endpoints_in(id)
            .filter_map(|e| self.container(&e.container))
            .map(|c| c.name.clone())
            .collect();
        if !containers.is_empty() {
            containers.sort();
            let more = containers.len().saturating_sub(NAMED_MAX);
            containers.truncate(NAMED_MAX);
            return Err(Rejected::NetworkInUse { network: network.name.clone(), containers, more });
        }
        self.networks.remove(id);
        self.ledgers.remove(id);
        Ok(Applied::NetworkRemoved { network: *id })
    }

    /// There is one null and one host network, and neither has anything to set.
    fn check_single(&self, request: &CreateNetwork) -> Result<(), Rejected> {
        if let Some(existing) = self.networks().find(|n| n.driver == request.driver) {
            return Err(Rejected::OneInstance { driver: request.driver, existing: existing.name.clone() });
        }
        let plain =
            request.pools.is_empty() && request.options.is_empty() && !request.internal && !request.ipv6;
        if plain { Ok(()) } else { Err(Rejected::DriverTakesNothing(request.driver)) }
    }

    fn subnets(&self) -> Vec<(IpNet, Name)> {
        self.networks().flat_map(|n| n.pools.iter().map(|pool| (pool.subnet, n.name.clone()))).collect()
    }

    /// The next VNI for a local network, going around, so that one just released is not used again at once.
    fn next_vni(&self) -> Vni {
        let start = self.next_vni.clamp(1, Vni::FIRST_OVERLAY);
        let taken: std::collections::BTreeSet<Vni> = self.networks().map(|n| n.vni).collect();
        let mut candidates = (start..Vni::FIRST_OVERLAY).chain(1..start).filter_map(Vni::new);
        candidates.find(|vni| !taken.contains(vni)).expect("fewer networks than local VNIs")
    }
}

const _: () = assert!(NETWORKS_MAX < Vni::FIRST_OVERLAY as usize, "each network has a VNI of its own");

fn check_options(request: &CreateNetwork) -> Result<(), Rejected> {
    for (key, value) in &request.options {
        if key != MTU_OPTION {
            return Err(Rejected::UnknownOption(key.clone()));
        }
        let least = if request.ipv6 { IPV6_MTU_MIN } else { MTU_MIN };
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        let mtu: Option<u16> = if digits { value.parse().ok() } else { None };
        if mtu.is_none_or(|mtu| u32::from(mtu) < least) {
            return Err(Rejected::InvalidMtu(value.clone()));
        }
    }
    Ok(())
}
