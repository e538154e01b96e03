//! Overlay networks: creation and removal.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use vswitch_proto::command::{CreateNetwork, Driver};
use vswitch_proto::id::{Name, NetworkId, NodeId, Vni};

use super::super::network::{check_options, in_use, overlay_vni, subnets};
use super::super::rejected::Holder;
use super::super::{NETWORKS_MAX, VXLAN_ID_OPTION, ipam};
use super::{Applied, Network, Rejected, Shared};

impl Shared {
    pub(super) fn create_network(
        &mut self,
        request: &CreateNetwork,
        at_ms: u64,
    ) -> Result<Applied, Rejected> {
        if request.driver != Driver::Overlay {
            return Err(Rejected::DriverElsewhere(request.driver));
        }
        if self.networks().any(|n| n.name == request.name) {
            return Err(Rejected::NetworkNameTaken(request.name.clone()));
        }
        if self.networks.contains_key(&request.id) {
            return Err(Rejected::IdTaken(request.id.to_string()));
        }
        if self.networks.len() >= NETWORKS_MAX {
            return Err(Rejected::TooManyNetworks);
        }
        check_options(request)?;
        let pools = ipam::pools(request, &subnets(self.networks()))?;
        let asked = request.options.get(VXLAN_ID_OPTION).and_then(|value| overlay_vni(value));
        let vni = self.free_vni(asked)?;
        let network = Network::new(request, vni, pools, at_ms);
        network.static_vteps().into_iter().try_for_each(|remote| self.check_family(remote))?;
        if asked.is_none() {
            self.next_vni = vni.get() + 1;
        }
        self.networks.insert(network.id, Arc::new(network));
        self.ledgers.insert(request.id, Arc::default());
        Ok(Applied::NetworkCreated { network: request.id })
    }

    /// The subnet that a network to come is going to have: what is `asked` for, or the first that is free. Whether the
    /// former is free as well is known when it is made.
    pub fn plan_subnet(
        &self,
        asked: Option<IpNet>,
        (ipv6, network): (bool, &NetworkId),
        occupied: &[IpNet],
    ) -> Result<IpNet, Rejected> {
        if let Some(subnet) = asked {
            ipam::check_subnet(subnet)?;
            return Ok(subnet);
        }
        let taken = self.networks().flat_map(|n| n.pools.iter().map(|pool| pool.subnet));
        let free = ipam::free_overlay(ipv6, network, taken.chain(occupied.iter().copied()));
        free.ok_or(Rejected::NoFreePool { ipv6 })
    }

    pub(super) fn remove_network(&mut self, id: &NetworkId) -> Result<Applied, Rejected> {
        self.check_unused(id, None)?;
        self.networks.remove(id);
        self.ledgers.remove(id);
        Ok(Applied::NetworkRemoved { network: *id })
    }

    /// Whether it can be removed, once the node `except` has given back what it has in it.
    pub fn check_unused(&self, id: &NetworkId, except: Option<NodeId>) -> Result<(), Rejected> {
        let network = self.network(id).ok_or(Rejected::UnknownNetwork(*id))?;
        if network.builtin {
            return Err(Rejected::Builtin(network.name.clone()));
        }
        let leases = self.leases_in(id).filter(|lease| Some(lease.node) != except);
        let holders: Vec<Holder> = leases.map(|lease| self.holder(lease)).collect();
        if !holders.is_empty() {
            return Err(in_use(network, holders));
        }
        self.check_unbound(network, except)
    }

    /// The VNI asked for, or the next one, going around, so that one just released is not used again at once.
    fn free_vni(&self, asked: Option<Vni>) -> Result<Vni, Rejected> {
        let taken: BTreeMap<Vni, &Name> = self.networks().map(|n| (n.vni, &n.name)).collect();
        if let Some(vni) = asked {
            return match taken.get(&vni) {
                Some(network) => Err(Rejected::VniInUse { vni, network: (*network).clone() }),
                None => Ok(vni),
            };
        }
        let start = self.next_vni.clamp(Vni::FIRST_OVERLAY, Vni::MAX + 1);
        let mut candidates = (start..=Vni::MAX).chain(Vni::FIRST_OVERLAY..start).filter_map(Vni::new);
        Ok(candidates.find(|vni| !taken.contains_key(vni)).expect("fewer networks than overlay VNIs"))
    }
}

const _: () = assert!(NETWORKS_MAX < (Vni::MAX - Vni::FIRST_OVERLAY) as usize, "each network has a VNI");

#[cfg(test)]
mod tests {
    use super::super::super::testing::pool;
    use super::super::testing::Fleet;
    use super::*;

    #[test]
    fn a_subnet_is_planned_beside_those_that_there_are() {
        let mut fleet = Fleet::new(1);
        let ipv6 = Some(NetworkId([5; 32]));
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        fleet.create("blue", |r| r.pools.push(pool("10.0.0.0/24"))).unwrap();
        let plan = |asked: Option<&str>, ipv6: Option<NetworkId>, occupied: &[IpNet]| {
            let network = ipv6.unwrap_or(NetworkId([0; 32]));
            fleet.shared.plan_subnet(asked.map(net), (ipv6.is_some(), &network), occupied)
        };
        assert_eq!(plan(None, None, &[]), Ok(net("10.0.1.0/24")));
        assert_eq!(plan(None, None, &[net("10.0.0.0/15")]), Ok(net("10.2.0.0/24")));
        assert_eq!(plan(Some("10.9.0.0/16"), None, &[]), Ok(net("10.9.0.0/16")));
        assert!(matches!(plan(Some("10.9.0.1/16"), None, &[]), Err(Rejected::SubnetHostBits { .. })));
        assert!(matches!(plan(None, None, &[net("10.0.0.0/8")]), Err(Rejected::NoFreePool { ipv6: false })));
        let first = plan(None, ipv6, &[]).unwrap();
        assert_eq!(first, net("fd05:505:505:505::/64"));
        assert_ne!(plan(None, ipv6, &[first]).unwrap(), first);
    }
}
