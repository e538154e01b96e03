//! What a Docker engine has made on this node: its networks, its endpoints, and the pools and addresses that its address
//! driver gave it.
//!
//! # Networks
//! The engine's id of a network is the id of a network here, which comes and goes with it, or is bound to a network of
//! the cluster, which does not. Subnets come from whichever address driver the engine uses, so those of other networks
//! here are no obstacle: frames never cross networks, and the engine would not choose others.
//!
//! # Endpoints
//! The engine makes an endpoint before it says, or knows, whose it is. So each is a [`Container`] of its own, of kind
//! Docker, with one attachment and the engine's id of the endpoint. What the engine calls the container is told later
//! and is no key: other containers may have the same name.
//!
//! # Pools and addresses
//! A pool is asked for before there is a network, and an address before there is an endpoint. Pools of this node are
//! lists of addresses by what they were asked for; a second request for the same is answered the same, until there is an
//! endpoint with it. In networks of the cluster the network is the pool, and an address is a lease: a [`Reservation`] keeps it from request to release,
//! whether or not an endpoint uses it.
//!
//! # Invariants
//! 1. A network of Docker that is of this node exists here under its id. No two of them overlap, nor do pools.
//! 2. A container of kind Docker has one attachment and is never exited.
//! 3. No pool holds an address twice or one that is outside of its subnet, nor is an interface given a second one.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vswitch_proto::command::{
    ContainerKind, CreateContainer, CreateNetwork, DockerChange, DockerNetwork, DockerSpec, Reservation,
    Scope,
};
use vswitch_proto::id::{ContainerId, EndpointId, Name, NetworkId};

use super::{
    ALIASES_MAX, Applied, Container, ENDPOINTS_MAX, NETWORKS_MAX, Network, Phase, Rejected, State, View,
};

mod pool;
#[cfg(test)]
mod tests;

pub use pool::AddressPool;

pub const POOLS_MAX: usize = NETWORKS_MAX;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Docker {
    networks: BTreeMap<NetworkId, DockerNetwork>,
    pools: BTreeMap<IpNet, Arc<AddressPool>>,
    reservations: BTreeMap<EndpointId, Reservation>,
}

impl State {
    pub fn docker_network(&self, id: &NetworkId) -> Option<&DockerNetwork> {
        self.docker.networks.get(id)
    }

    /// In the order of their ids.
    pub fn docker_networks(&self) -> impl Iterator<Item = &DockerNetwork> {
        self.docker.networks.values()
    }

    /// Whether a network here goes only with one of the engine's.
    pub fn belongs_to_docker(&self, network: &NetworkId) -> bool {
        self.docker.networks.get(network).is_some_and(|n| n.scope == Scope::Local)
    }

    /// Endpoints of the engine's, each with what is known of it.
    pub fn docker_endpoints(&self) -> impl Iterator<Item = (&Container, &DockerSpec)> {
        self.containers().filter_map(|container| Some((container, container.docker()?)))
    }

    pub fn pools(&self) -> impl Iterator<Item = &AddressPool> {
        self.docker.pools.values().map(Arc::as_ref)
    }

    pub fn address_pool(&self, subnet: &IpNet) -> Option<&AddressPool> {
        self.docker.pools.get(subnet).map(Arc::as_ref)
    }

    pub fn reservations(&self) -> impl Iterator<Item = &Reservation> {
        self.docker.reservations.values()
    }

    pub fn reservation(&self, endpoint: &EndpointId) -> Option<&Reservation> {
        self.docker.reservations.get(endpoint)
    }

    pub(super) fn apply_docker(&mut self, change: &DockerChange, at_ms: u64) -> Result<Applied, Rejected> {
        match change {
            DockerChange::AddNetwork { network, local } => self.add_network(network, local.as_ref(), at_ms),
            DockerChange::RemoveNetwork { network } => self.drop_network(network),
            DockerChange::NameNetwork { network, name } => self.name_network(network, name),
            DockerChange::AddEndpoint(request) => self.add_endpoint(request, at_ms),
            DockerChange::RemoveEndpoint { endpoint } => {
                self.docker_endpoint(endpoint)?;
                self.release_all(endpoint);
                self.containers.remove(endpoint);
                Ok(Applied::ContainerRemoved { container: *endpoint })
            }
            DockerChange::Join { endpoint, sandbox } => self.change_endpoint(endpoint, |container, spec| {
                spec.sandbox = Some(sandbox.clone());
                container.phase = Phase::Running;
                container.started_at_ms = Some(at_ms);
            }),
            DockerChange::Leave { endpoint } => self.change_endpoint(endpoint, |container, spec| {
                spec.sandbox = None;
                container.phase = Phase::Created;
            }),
            DockerChange::Describe { endpoint, container, name, aliases } => {
                self.describe(endpoint, container, name, aliases)
            }
            DockerChange::RequestPool { subnet, ip_range, ipv6, occupied, seed } => {
                self.request_pool(*subnet, *ip_range, (*ipv6, seed), occupied)
            }
            DockerChange::ReleasePool { subnet } => self.release_pool(subnet),
            DockerChange::RequestAddress { subnet, address, holder } => {
                self.request_address(subnet, *address, *holder)
            }
            DockerChange::ReleaseAddress { subnet, address } => self.release_address(subnet, *address),
            DockerChange::Reserve(reservation) => self.keep(reservation),
            DockerChange::Unreserve { endpoint } => {
                self.docker_mut().reservations.remove(endpoint);
                Ok(Applied::DockerChanged)
            }
            DockerChange::ReclaimPool { subnet } => {
                self.docker_mut().pools.remove(subnet);
                Ok(Applied::DockerChanged)
            }
        }
    }

    fn docker_mut(&mut self) -> &mut Docker {
        Arc::make_mut(&mut self.docker)
    }

    fn add_network(
        &mut self,
        network: &DockerNetwork,
        local: Option<&CreateNetwork>,
        at_ms: u64,
    ) -> Result<Applied, Rejected> {
        let paired = local.is_some_and(|request| request.id == network.id) && network.network == network.id;
        if self.docker.networks.contains_key(&network.id) || (network.scope == Scope::Local) != paired {
            return Err(Rejected::IdTaken(network.id.to_string()));
        }
        if self.docker.networks.len() >= NETWORKS_MAX {
            return Err(Rejected::TooManyNetworks);
        }
        if let Some(request) = local {
            let of_docker = self.docker.networks.clone();
            self.make_network(request, at_ms, |other: &Network| of_docker.contains_key(&other.id))?;
        }
        self.docker_mut().networks.insert(network.id, network.clone());
        Ok(Applied::NetworkCreated { network: network.network })
    }

    fn drop_network(&mut self, id: &NetworkId) -> Result<Applied, Rejected> {
        let network = self.docker_network(id).ok_or(Rejected::UnknownNetwork(*id))?.clone();
        if let Some((user, _)) = self.docker_endpoints().find(|(_, spec)| spec.network == *id) {
            return Err(Rejected::DockerNetworkInUse(user.name.clone()));
        }
        let pools = self.network(id).map_or(&[][..], |network| &network.pools);
        let subnets: Vec<IpNet> = pools.iter().map(|pool| pool.subnet).collect();
        if network.scope == Scope::Local {
            self.take_network(id)?;
        }
        self.docker_mut().networks.remove(id);
        self.drop_released_pools(&subnets);
        Ok(Applied::NetworkRemoved { network: network.network })
    }

    fn name_network(&mut self, id: &NetworkId, name: &Name) -> Result<Applied, Rejected> {
        if !self.belongs_to_docker(id) {
            return Err(Rejected::UnknownNetwork(*id));
        }
        if self.networks().any(|n| n.name == *name && n.id != *id) {
            return Err(Rejected::NetworkNameTaken(name.clone()));
        }
        let network = self.networks.get_mut(id).expect("a network of Docker that is local exists");
        Arc::make_mut(network).name = name.clone();
        Ok(Applied::DockerChanged)
    }

    fn add_endpoint(&mut self, request: &CreateContainer, at_ms: u64) -> Result<Applied, Rejected> {
        let ContainerKind::Docker(spec) = &request.kind else {
            return Err(Rejected::IdTaken(request.id.to_string()));
        };
        let network = self.docker_network(&spec.network).ok_or(Rejected::UnknownNetwork(spec.network))?;
        match request.attachments.as_slice() {
            [(attachment, _)] if attachment.network == network.network => {
                self.create_container(request, at_ms)
            }
            _ => Err(Rejected::UnknownNetwork(spec.network)),
        }
    }

    fn docker_endpoint(&self, id: &ContainerId) -> Result<(&Container, &DockerSpec), Rejected> {
        let found = self.container(id).and_then(|container| Some((container, container.docker()?)));
        found.ok_or(Rejected::UnknownContainer(*id))
    }

    fn change_endpoint(
        &mut self,
        id: &ContainerId,
        change: impl FnOnce(&mut Container, &mut DockerSpec),
    ) -> Result<Applied, Rejected> {
        let (container, spec) = self.docker_endpoint(id)?;
        let (mut container, mut spec) = (container.clone(), spec.clone());
        change(&mut container, &mut spec);
        container.kind = ContainerKind::Docker(spec);
        self.containers.insert(*id, Arc::new(container));
        Ok(Applied::DockerChanged)
    }

    fn describe(
        &mut self,
        endpoint: &ContainerId,
        container: &ContainerId,
        name: &Name,
        aliases: &[Name],
    ) -> Result<Applied, Rejected> {
        if aliases.len() > ALIASES_MAX {
            return Err(Rejected::TooManyAliases(name.clone()));
        }
        self.change_endpoint(endpoint, |held, spec| {
            spec.container = Some(*container);
            held.name = name.clone();
            held.attachments.iter_mut().for_each(|attachment| attachment.aliases = aliases.to_vec());
        })
    }

    fn keep(&mut self, reservation: &Reservation) -> Result<Applied, Rejected> {
        if self.docker.reservations.len() >= ENDPOINTS_MAX {
            return Err(Rejected::TooManyEndpoints);
        }
        self.docker_mut().reservations.insert(reservation.endpoint, *reservation);
        Ok(Applied::DockerChanged)
    }
}

impl Docker {
    /// Whether all of it could have come about.
    pub(super) fn contradiction(&self, state: &State) -> Option<&'static str> {
        let mut networks = self.networks.iter();
        let unpaired = |(id, network): (&NetworkId, &DockerNetwork)| {
            *id != network.id
                || (network.scope == Scope::Local)
                    != (network.network == *id && state.network(&network.network).is_some())
        };
        if networks.any(unpaired) {
            return Some("a network of Docker without its network");
        }
        if !self.pools.iter().all(|(subnet, pool)| *subnet == pool.subnet && pool.is_sound()) {
            return Some("a pool with impossible addresses");
        }
        if !self.reservations.iter().all(|(id, reservation)| *id == reservation.endpoint) {
            return Some("a reservation under another id");
        }
        let alone = |(container, _): (&Container, &DockerSpec)| {
            container.attachments.len() == 1 && container.is_live()
        };
        if !state.docker_endpoints().all(alone) {
            return Some("an endpoint of Docker with more than one network");
        }
        None
    }
}

impl<'a> View<'a> {
    /// The network here that a network of the engine's is.
    pub fn docker_network(&self, id: &NetworkId) -> Option<(&'a DockerNetwork, &'a Network)> {
        let docker = self.local.docker_network(id)?;
        Some((docker, self.network(&docker.network)?))
    }
}
