//! Networks: creation and removal, and what may be asked of one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vswitch_proto::command::{Attachment, CreateNetwork, Driver};
use vswitch_proto::id::{MacAddr, Name, NetworkId, Vni};
use vswitch_proto::security::{PortSecurity, Servers};

use super::configuration::{ATTACHABLE_OPTION, CONFIG_FROM_OPTION, CONFIG_ONLY_OPTION};
use super::ipam::{self, Pool};
use super::rejected::Holder;
use super::{
    Applied, IPV6_MTU_MIN, MTU_MIN, MTU_OPTION, NETWORKS_MAX, PORT_SECURITY_OPTION, REMOTES_MAX, Rejected,
    SERVERS_OPTION, State, VXLAN_ID_OPTION, VXLAN_INNER_VLAN_OPTION, VXLAN_REMOTE_OPTION,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub name: Name,
    pub driver: Driver,
    pub vni: Vni,
    /// At most one of each family, IPv4 first; a bridge or overlay network always has an IPv4 one.
    pub pools: Vec<Pool>,
    pub internal: bool,
    pub ipv6: bool,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub builtin: bool,
    pub created_at_ms: u64,
}

impl Network {
    pub(super) fn new(request: &CreateNetwork, vni: Vni, pools: Vec<Pool>, created_at_ms: u64) -> Network {
        Network {
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
            created_at_ms,
        }
    }

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

    /// The port security that was asked for, or the default.
    pub fn port_security(&self) -> PortSecurity {
        self.options.get(PORT_SECURITY_OPTION).and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// Servers that the network's containers may run.
    pub fn servers(&self) -> Servers {
        self.options.get(SERVERS_OPTION).and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// Tunnel endpoints that are not of the cluster, ascending, each once.
    pub fn static_vteps(&self) -> Vec<IpAddr> {
        self.options.get(VXLAN_REMOTE_OPTION).and_then(|value| remotes(value)).unwrap_or_default()
    }

    /// Whether frames with VLAN tags pass to and from tunnel endpoints that are not of the cluster.
    pub fn inner_vlan(&self) -> bool {
        self.options.get(VXLAN_INNER_VLAN_OPTION).is_some_and(|value| value == "true")
    }

    /// What can be said about the addresses asked for without knowing who else has some.
    pub(super) fn check_wanted(&self, wanted: &Attachment) -> Result<(), Rejected> {
        let asked = [wanted.ipv4.map(IpAddr::V4), wanted.ipv6.map(IpAddr::V6)];
        for address in asked.into_iter().flatten() {
            let ipv6 = address.is_ipv6();
            let no_subnet = || Rejected::NoSubnetFor { network: self.name.clone(), ipv6 };
            let pool = self.pool(ipv6).ok_or_else(no_subnet)?;
            pool.check_host("address", address)?;
            if let Some(what) = pool.reserved_as(address) {
                return Err(Rejected::AddressReserved { address, network: self.name.clone(), what });
            }
        }
        match wanted.mac {
            Some(mac) if !mac.is_unicast() => Err(Rejected::MacNotUnicast(mac)),
            _ => Ok(()),
        }
    }

    /// Whether the addresses could have been given by this network.
    pub(super) fn fits(&self, mut addresses: impl Iterator<Item = IpAddr>) -> bool {
        let mut ipv4 = false;
        let in_pool = |ip: IpAddr| {
            ipv4 |= ip.is_ipv4();
            let pool = self.pool(ip.is_ipv6());
            pool.is_some_and(|pool| pool.subnet.contains(&ip) && pool.reserved_as(ip).is_none())
        };
        addresses.all(in_pool) && ipv4
    }

    /// Whether its subnets could have been asked for.
    pub(super) fn is_sound(&self) -> bool {
        let has_interfaces = matches!(self.driver, Driver::Bridge | Driver::Overlay);
        let ipv4_first = self.pools.first().is_some_and(|pool| !pool.is_ipv6());
        let shaped = ipv4_first && self.pools.iter().skip(1).all(Pool::is_ipv6) && self.pools.len() <= 2;
        self.pools.iter().all(Pool::is_sound) && (shaped || !has_interfaces)
    }
}

/// The MAC that the switch answers with at the network's gateway address.
pub fn gateway_mac(network: &Network) -> Option<MacAddr> {
    network.ipv4_gateway().map(MacAddr::from_ipv4).or_else(|| network.ipv6_gateway().map(MacAddr::from_ipv6))
}

/// Containers that an error names; it counts the rest.
const NAMED_MAX: usize = 10;

/// A network's removal while somebody is in it.
pub(super) fn in_use(network: &Network, mut holders: Vec<Holder>) -> Rejected {
    holders.sort();
    let more = holders.len().saturating_sub(NAMED_MAX);
    holders.truncate(NAMED_MAX);
    Rejected::NetworkInUse { network: network.name.clone(), holders, more }
}

impl State {
    pub(super) fn create_network(
        &mut self,
        request: &CreateNetwork,
        at_ms: u64,
    ) -> Result<Applied, Rejected> {
        self.make_network(request, at_ms, |_| true)
    }

    /// `matters` says with which other networks it may not overlap.
    pub(super) fn make_network(
        &mut self,
        request: &CreateNetwork,
        at_ms: u64,
        matters: impl Fn(&Network) -> bool,
    ) -> Result<Applied, Rejected> {
        if self.networks().any(|n| n.name == request.name) {
            return Err(Rejected::NetworkNameTaken(request.name.clone()));
        }
        if self.networks.contains_key(&request.id) || self.ledgers.contains_key(&request.id) {
            return Err(Rejected::IdTaken(request.id.to_string()));
        }
        if self.networks.len() >= NETWORKS_MAX {
            return Err(Rejected::TooManyNetworks);
        }
        let pools = match request.driver {
            Driver::Bridge => {
                check_options(request)?;
                ipam::pools(request, &subnets(self.networks().filter(|other| matters(other))))?
            }
            Driver::None | Driver::Host => {
                self.check_single(request)?;
                Vec::new()
            }
            Driver::Overlay => return Err(Rejected::DriverElsewhere(request.driver)),
        };
        let vni = self.next_vni();
        let network = Network::new(request, vni, pools, at_ms);
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
        if self.belongs_to_docker(id) {
            return Err(Rejected::NetworkOfDocker(network.name.clone()));
        }
        self.take_network(id)
    }

    pub(super) fn take_network(&mut self, id: &NetworkId) -> Result<Applied, Rejected> {
        let network = self.network(id).ok_or(Rejected::UnknownNetwork(*id))?;
        let holders: Vec<Holder> = self.endpoints_in(id).map(|endpoint| self.holder(endpoint)).collect();
        if !holders.is_empty() {
            return Err(in_use(network, holders));
        }
        self.remember_network(id);
        self.networks.remove(id);
        self.ledgers.remove(id);
        Ok(Applied::NetworkRemoved { network: *id })
    }

    /// There is one null and one host network, and neither has anything to set. Configurations have the driver null and
    /// are as many as there is room for.
    fn check_single(&self, request: &CreateNetwork) -> Result<(), Rejected> {
        let is_config = request.options.contains_key(CONFIG_ONLY_OPTION);
        let is_single = |n: &&Network| n.driver == request.driver && !n.is_config_only();
        if let Some(existing) = self.networks().find(is_single).filter(|_| !is_config) {
            return Err(Rejected::OneInstance { driver: request.driver, existing: existing.name.clone() });
        }
        let plain = request.pools.is_empty()
            && (request.options.is_empty() || is_config)
            && !request.internal
            && !request.ipv6;
        if plain { Ok(()) } else { Err(Rejected::DriverTakesNothing(request.driver)) }
    }

    /// The next VNI for a local network, going around, so that one just released is not used again at once.
    fn next_vni(&self) -> Vni {
        let start = self.next_vni.clamp(1, Vni::FIRST_OVERLAY);
        let taken: BTreeSet<Vni> = self.networks().map(|n| n.vni).collect();
        let mut candidates = (start..Vni::FIRST_OVERLAY).chain(1..start).filter_map(Vni::new);
        candidates.find(|vni| !taken.contains(vni)).expect("fewer networks than local VNIs")
    }
}

const _: () = assert!(NETWORKS_MAX < Vni::FIRST_OVERLAY as usize, "each network has a VNI of its own");

/// Every subnet in use, with its network's name.
pub(super) fn subnets<'a>(networks: impl Iterator<Item = &'a Network>) -> Vec<(IpNet, Name)> {
    networks.flat_map(|n| n.pools.iter().map(|pool| (pool.subnet, n.name.clone()))).collect()
}

/// Whether the driver has these options, and the values make sense by themselves.
pub(super) fn check_options(request: &CreateNetwork) -> Result<(), Rejected> {
    for (key, value) in &request.options {
        match (key.as_str(), request.driver) {
            (ATTACHABLE_OPTION | CONFIG_FROM_OPTION, Driver::Bridge) => {}
            (MTU_OPTION, _) => check_mtu(value, request.ipv6)?,
            (PORT_SECURITY_OPTION, _) if value.parse::<PortSecurity>().is_err() => {
                return Err(Rejected::InvalidPortSecurity(value.clone()));
            }
            (SERVERS_OPTION, _) if value.parse::<Servers>().is_err() => {
                return Err(Rejected::InvalidServers(value.clone()));
            }
            (PORT_SECURITY_OPTION | SERVERS_OPTION, _) => {}
            (VXLAN_ID_OPTION, Driver::Overlay) if overlay_vni(value).is_none() => {
                return Err(Rejected::InvalidVni(value.clone()));
            }
            (VXLAN_REMOTE_OPTION, Driver::Overlay) if remotes(value).is_none() => {
                return Err(Rejected::InvalidRemotes(value.clone()));
            }
            (VXLAN_INNER_VLAN_OPTION, Driver::Overlay) if value.parse::<bool>().is_err() => {
                return Err(Rejected::InvalidInnerVlan(value.clone()));
            }
            (VXLAN_ID_OPTION | VXLAN_REMOTE_OPTION | VXLAN_INNER_VLAN_OPTION, Driver::Overlay) => {}
            _ => return Err(Rejected::UnknownOption { option: key.clone(), driver: request.driver }),
        }
    }
    Ok(())
}

fn check_mtu(value: &str, ipv6: bool) -> Result<(), Rejected> {
    let least = if ipv6 { IPV6_MTU_MIN } else { MTU_MIN };
    let mtu: Option<u16> = if is_digits(value) { value.parse().ok() } else { None };
    match mtu {
        Some(mtu) if u32::from(mtu) >= least => Ok(()),
        _ => Err(Rejected::InvalidMtu(value.into())),
    }
}

/// The VNI that an option asks for.
pub(super) fn overlay_vni(value: &str) -> Option<Vni> {
    let vni = if is_digits(value) { value.parse().ok().and_then(Vni::new) } else { None };
    vni.filter(|vni| vni.get() >= Vni::FIRST_OVERLAY)
}

/// The tunnel endpoints that an option names: at most [`REMOTES_MAX`], ascending, each once.
fn remotes(value: &str) -> Option<Vec<IpAddr>> {
    let found: Option<BTreeSet<IpAddr>> =
        value.split(',').map(|ip| ip.trim().parse().ok().filter(is_vtep)).collect();
    found.filter(|found| found.len() <= REMOTES_MAX).map(|found| found.into_iter().collect())
}

/// Whether a tunnel can end at this address: one host's, of either family, written without a zone.
pub(super) fn is_vtep(ip: &IpAddr) -> bool {
    let single = !ip.is_unspecified() && !ip.is_multicast() && ip.to_canonical() == *ip;
    single
        && match ip {
            IpAddr::V4(ip) => !ip.is_broadcast(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        }
}

fn is_digits(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit())
}
