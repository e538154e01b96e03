//! Networks that an engine makes and removes.

use std::time::Instant;

use ipnet::IpNet;
use vswitch_proto::api::Error;
use vswitch_proto::command::{
    Command, CreateNetwork, DockerChange, DockerNetwork, Driver, PoolRequest, Scope,
};
use vswitch_proto::docker::{self, ADDRESS_SPACE, Answer, IpamData, NETWORK_OPTION};
use vswitch_proto::id::{Name, NetworkId, RequestId};

use super::super::control::Control;
use super::super::random_request_id;
use super::address::parse_name;
use super::bound::shared_network;
use super::census::tell_reclaimed;
use super::leftovers::Leftover;
use super::planned::Planned;
use super::{command, invalid};
use crate::state::{Container, Network, Pool, Snapshot};

impl Control {
    pub(super) async fn docker_create_network(
        &self,
        request: docker::CreateNetwork,
        id: RequestId,
    ) -> Result<Answer, Error> {
        if self.state().docker_network(&request.network).is_some() {
            return Ok(Answer::NOTHING);
        }
        let network = match request.options.generic.get(NETWORK_OPTION) {
            Some(name) => {
                let bound = bind(&self.snapshot(), name, &request)?;
                self.commit(id, command(DockerChange::AddNetwork { network: bound, local: None }), None)
                    .await?;
                return Ok(Answer::NOTHING);
            }
            None => local(&self.snapshot(), &self.shared.planned, request)?,
        };
        let subnets: Vec<IpNet> = network.pools.iter().map(|pool| pool.subnet).collect();
        self.take_subnets_from_forgotten(&subnets).await?;
        let undo = command(DockerChange::RemoveNetwork { network: network.id });
        let record = DockerNetwork {
            id: network.id,
            network: network.id,
            scope: Scope::Local,
            internal: network.internal,
        };
        let add = DockerChange::AddNetwork { network: record, local: Some(network) };
        self.commit(id, command(add), Some(undo)).await?;
        Ok(Answer::NOTHING)
    }

    pub(super) async fn docker_delete_network(
        &self,
        network: &NetworkId,
        id: RequestId,
    ) -> Result<Answer, Error> {
        if self.state().docker_network(network).is_some() {
            self.drop_docker_network(network, id).await?;
        }
        Ok(Answer::NOTHING)
    }

    /// The engine deletes no network that has endpoints: those that are left here it has forgotten. Of other containers
    /// it knows nothing, and it deletes the network whatever it is answered: they are disconnected.
    pub(in super::super) async fn drop_docker_network(
        &self,
        network: &NetworkId,
        id: RequestId,
    ) -> Result<(), Error> {
        let state = self.state();
        let endpoints = state.docker_endpoints().filter(|(_, spec)| spec.network == *network);
        let forgotten = endpoints.map(|(container, _)| container.id).collect();
        self.reclaim_endpoints(forgotten).await?;
        if self.state().belongs_to_docker(network) {
            self.disconnect_others(network).await?;
        }
        self.commit(id, command(DockerChange::RemoveNetwork { network: *network }), None).await.map(|_| ())
    }

    async fn disconnect_others(&self, network: &NetworkId) -> Result<(), Error> {
        let state = self.state();
        let is_other = |c: &&Container| c.docker().is_none() && c.attachment(network).is_some();
        for container in state.containers().filter(is_other) {
            let disconnect = Command::Disconnect { container: container.id, network: *network };
            self.commit(random_request_id(), disconnect, None).await?;
            let (container, network) = (container.name.as_str(), network.short());
            tracing::warn!(container, network, "disconnected, since Docker has removed the network");
        }
        Ok(())
    }

    /// An engine hands out a subnet again that it has not got any more, long before what it has forgotten is taken away.
    pub(super) async fn take_subnets_from_forgotten(&self, wanted: &[IpNet]) -> Result<(), Error> {
        let overlaps = |pool: &Pool| {
            wanted.iter().any(|other| other.contains(&pool.subnet) || pool.subnet.contains(other))
        };
        let (state, now) = (self.state(), Instant::now());
        let forgotten: Vec<NetworkId> = state
            .networks()
            .filter(|network| state.belongs_to_docker(&network.id) && network.pools.iter().any(overlaps))
            .filter(|network| self.shared.lacking.is_forgotten(&network.id, now))
            .map(|network| network.id)
            .collect();
        for network in forgotten {
            self.drop_docker_network(&network, random_request_id()).await?;
            tell_reclaimed(&self.shared.feed, Leftover::Network(network));
        }
        Ok(())
    }
}

/// What a network is called until the engine tells what it calls it.
fn provisional_name(network: &NetworkId) -> Name {
    format!("docker-{}", network.short()).parse().expect("letters, digits and a dash make a name")
}

/// A network of this node. The host's routes are no obstacle: the subnet is chosen, and nothing of it is routed.
fn local(seen: &Snapshot, planned: &Planned, request: docker::CreateNetwork) -> Result<CreateNetwork, Error> {
    if request.ipv4.is_empty() {
        return Err(invalid("a network of vswitch has an IPv4 subnet; leave out --ipv4=false"));
    }
    if let Some(name) = of_cluster(seen, planned, &request) {
        return Err(invalid(format!(
            "its addresses are those of the network {name}; add -o {NETWORK_OPTION}={name}"
        )));
    }
    let ipv6 = !request.ipv6.is_empty();
    let data = request.ipv4.into_iter().chain(request.ipv6);
    let pools = data.map(|data| pool(seen, data)).collect::<Result<_, _>>()?;
    Ok(CreateNetwork {
        id: request.network,
        name: provisional_name(&request.network),
        driver: Driver::Bridge,
        pools,
        internal: request.options.internal,
        ipv6,
        options: request.options.generic,
        labels: Default::default(),
        occupied: Vec::new(),
        builtin: false,
    })
}

/// The network of the cluster that the address pool is, or is to be, if it is one.
fn of_cluster(seen: &Snapshot, planned: &Planned, request: &docker::CreateNetwork) -> Option<Name> {
    let ours = request.ipv4.iter().filter(|data| data.address_space == ADDRESS_SPACE);
    let mut subnets =
        ours.filter_map(|data| data.pool).filter(|pool| seen.local.address_pool(pool).is_none());
    let is = |network: &&Network, subnet| network.pools.iter().any(|pool| pool.subnet == subnet);
    subnets.find_map(|subnet| {
        let network = seen.shared.networks().find(|network| is(network, subnet));
        network.map(|network| network.name.clone()).or_else(|| planned.name_of(&subnet))
    })
}

/// The engine's network as one of the cluster, whose addresses it has to have.
fn bind(seen: &Snapshot, name: &str, request: &docker::CreateNetwork) -> Result<DockerNetwork, Error> {
    let how = format!("--ipam-driver vswitch --ipam-opt {NETWORK_OPTION}={name}");
    let mut data = request.ipv4.iter().chain(&request.ipv6);
    if data.any(|data| data.address_space != ADDRESS_SPACE) {
        return Err(invalid(format!(
            "network {name} is shared by all hosts, so its addresses are vswitch's: add {how}"
        )));
    }
    let name = parse_name(name)?;
    let network = shared_network(seen, &name);
    let network = network.ok_or_else(|| {
        invalid(format!("there is no network {name} in the cluster: add {how}; with that, try again"))
    })?;
    for data in request.ipv4.iter().chain(&request.ipv6) {
        let fits = |pool: &&Pool| {
            Some(pool.subnet) == data.pool && data.gateway.is_none_or(|g| g.addr() == pool.gateway)
        };
        // The right subnet, and addresses of it that this node alone hands out.
        let is_local = data.pool.is_some_and(|pool| seen.local.address_pool(&pool).is_some());
        if is_local || !network.pools.iter().any(|pool| fits(&pool)) {
            return Err(invalid(format!("its addresses are not those of the network {name}: add {how}")));
        }
    }
    // Its containers have leases of both families, and all hosts answer for both.
    if let Some(pool) = network.pool(true).filter(|_| request.ipv6.is_empty()) {
        return Err(invalid(format!(
            "network {name} has IPv6, so its containers need it here too: add --ipv6 --subnet {}",
            pool.subnet
        )));
    }
    let mut options = request.options.generic.iter().filter(|(key, _)| *key != NETWORK_OPTION);
    if let Some((key, _)) = options.find(|(key, value)| network.options.get(*key) != Some(value)) {
        return Err(invalid(format!(
            "{key} of a shared network is set when it is made; leave it out, or make network {name} anew"
        )));
    }
    let internal = request.options.internal;
    Ok(DockerNetwork { id: request.network, network: network.id, scope: Scope::Cluster, internal })
}

/// The network driver is not told an ip-range. That of a pool of ours is known.
fn pool(seen: &Snapshot, data: IpamData) -> Result<PoolRequest, Error> {
    let no_pool = || invalid("a subnet is missing; use --ipam-driver default or vswitch");
    let subnet = data.pool.ok_or_else(no_pool)?;
    let ours = seen.local.address_pool(&subnet).filter(|_| data.address_space == ADDRESS_SPACE);
    Ok(PoolRequest {
        subnet,
        gateway: data.gateway.map(|gateway| gateway.addr()),
        ip_range: ours.and_then(|pool| pool.ip_range),
        aux_addresses: data.aux_addresses.into_iter().map(|(name, aux)| (name, aux.addr())).collect(),
    })
}
