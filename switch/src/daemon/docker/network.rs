//! Networks that an engine makes and removes.

use vswitch_proto::api::Error;
use vswitch_proto::command::{CreateNetwork, DockerChange, DockerNetwork, Driver, PoolRequest, Scope};
use vswitch_proto::docker::{self, Answer, IpamData, NETWORK_OPTION};
use vswitch_proto::id::{Name, NetworkId, RequestId};

use super::super::control::Control;
use super::{command, invalid};

impl Control {
    pub(super) async fn docker_create_network(
        &mut self,
        request: docker::CreateNetwork,
        id: RequestId,
    ) -> Result<Answer, Error> {
        if self.state().docker_network(&request.network).is_some() {
            return Ok(Answer::NOTHING);
        }
        let network = match request.options.generic.get(NETWORK_OPTION) {
            Some(name) => return Err(invalid(format!("there is no cluster to have a network {name}"))),
            None => local(request)?,
        };
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
        &mut self,
        network: &NetworkId,
        id: RequestId,
    ) -> Result<Answer, Error> {
        if self.state().docker_network(network).is_some() {
            self.commit(id, command(DockerChange::RemoveNetwork { network: *network }), None).await?;
        }
        Ok(Answer::NOTHING)
    }
}

/// What a network is called until the engine tells what it calls it.
fn provisional_name(network: &NetworkId) -> Name {
    format!("docker-{}", network.short()).parse().expect("letters, digits and a dash make a name")
}

/// A network of this node. The host's routes are no obstacle: the subnet is chosen, and nothing of it is routed.
fn local(request: docker::CreateNetwork) -> Result<CreateNetwork, Error> {
    if request.ipv4.is_empty() {
        return Err(invalid("a network of vswitch has an IPv4 subnet; leave out --ipv4=false"));
    }
    let ipv6 = !request.ipv6.is_empty();
    let pools = request.ipv4.into_iter().chain(request.ipv6).map(pool).collect::<Result<_, _>>()?;
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

fn pool(data: IpamData) -> Result<PoolRequest, Error> {
    let no_pool = || invalid("a subnet is missing; use --ipam-driver default or vswitch");
    Ok(PoolRequest {
        subnet: data.pool.ok_or_else(no_pool)?,
        gateway: data.gateway.map(|gateway| gateway.addr()),
        ip_range: None,
        aux_addresses: data.aux_addresses.into_iter().map(|(name, aux)| (name, aux.addr())).collect(),
    })
}
