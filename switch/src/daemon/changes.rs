//! Networks and who is connected to them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::IpNet;
use vswitch_proto::api::{
    Connect, Disconnect, EndpointConfig, Error, ErrorKind, NetworkCreate, NetworkPrune, Pool,
};
use vswitch_proto::command::{Attachment, Command, CreateNetwork, Driver, NewEndpoint, PoolRequest, Scope};
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId, RequestId};

use super::configuration::{check_connection, check_removal, may_prune};
use super::control::{Control, done, rejected};
use super::docker::leftovers::Listed;
use super::handle::error;
use super::overlay::Prepared;
use super::{Done, random_bytes, random_request_id, subnets};
use crate::state::configuration::CONFIG_ONLY_OPTION;
use crate::state::default_pools;
use crate::state::{LookupError, Network, Rejected};

/// How often a subnet is chosen for a network that asks for none.
const CHOICES: usize = 8;

fn lookup(failed: LookupError) -> Error {
    error(failed.kind(), failed.to_string())
}

impl Control {
    pub(super) fn network_id(&self, reference: &str) -> Result<NetworkId, Error> {
        self.snapshot().view().find_network(reference).map(|network| network.id).map_err(lookup)
    }

    /// What a container asks of a network, and the endpoint that it gets there: with what was leased for it, in a network
    /// of the cluster.
    pub(super) fn wanted(
        &self,
        reference: &str,
        endpoint: EndpointConfig,
        prepared: &Prepared,
    ) -> Result<(Attachment, NewEndpoint), Error> {
        let network = self.network_id(reference)?;
        self.state().network(&network).map_or(Ok(()), check_connection)?;
        let is_local = self.state().network(&network).is_some();
        let scope = if is_local { Scope::Local } else { Scope::Cluster };
        let leased = prepared.leases.get(&network).copied();
        let new = leased.unwrap_or_else(|| EndpointId(random_bytes()).into());
        Ok((attachment(network, scope, endpoint), new))
    }

    /// Keeps the names of networks of the cluster that a container is about to be attached to: they may be gone by the
    /// time that it starts again.
    pub(super) async fn note_networks(&self, attachments: &[(Attachment, NewEndpoint)]) -> Result<(), Error> {
        let seen = self.snapshot();
        for (attachment, _) in attachments.iter().filter(|(a, _)| a.scope == Scope::Cluster) {
            let network = attachment.network;
            let Some(name) = seen.shared.network(&network).map(|network| network.name.clone()) else {
                continue;
            };
            if seen.local.remembered_name(&network) != Some(&name) {
                let note = Command::NoteNetwork { network, name };
                self.commit(random_request_id(), note, None).await?;
            }
        }
        Ok(())
    }

    pub(super) fn container_id(&self, reference: &str) -> Result<ContainerId, Error> {
        self.state().find_container(reference).map(|container| container.id).map_err(lookup)
    }

    pub(super) async fn create_network(&self, request: NetworkCreate, id: RequestId) -> Result<Done, Error> {
        let driver = driver(request.driver.as_deref().unwrap_or("bridge"))?;
        let is_config = request.options.contains_key(CONFIG_ONLY_OPTION);
        if matches!(driver, Driver::None | Driver::Host) && !is_config {
            let name = request.driver.unwrap_or_default();
            let message =
                format!("only one network of the driver {name} exists, and it is there already; use bridge");
            return Err(error(ErrorKind::Conflict, message));
        }
        if self.snapshot().shared.networks().any(|network| network.name == request.name) {
            return Err(rejected(&Rejected::NetworkNameTaken(request.name)));
        }
        let asked: Vec<PoolRequest> = request.pools.into_iter().map(pool).collect();
        let mut command = CreateNetwork {
            id: NetworkId(random_bytes()),
            name: request.name,
            driver,
            pools: asked.clone(),
            internal: request.internal,
            ipv6: request.ipv6,
            options: request.options,
            labels: request.labels,
            occupied: Vec::new(),
            builtin: false,
        };
        let mut id = id;
        for _ in 0..CHOICES {
            command.pools.clone_from(&asked);
            let warnings = match driver {
                Driver::Bridge => {
                    subnets::complete(&mut command, &self.snapshot(), &self.shared.config).await?
                }
                _ => Vec::new(),
            };
            let undo = Command::RemoveNetwork { network: command.id };
            let made = self.commit(id, Command::CreateNetwork(command.clone()), Some(undo)).await;
            // An engine may have made a network with a subnet that was free when it was chosen.
            let is_chosen = command.pools.len() > asked.len();
            if made.is_ok() || !is_chosen || !self.has_taken_one_of(&command.pools) {
                return made.map(|applied| done(&applied).with_warnings(warnings));
            }
            id = random_request_id();
        }
        Err(error(ErrorKind::Conflict, "every subnet that was chosen was taken meanwhile: give a --subnet"))
    }

    /// Whether a network has a subnet that overlaps with one of these.
    fn has_taken_one_of(&self, pools: &[PoolRequest]) -> bool {
        let state = self.state();
        let taken: Vec<IpNet> = state.networks().flat_map(|n| &n.pools).map(|pool| pool.subnet).collect();
        let wanted: Vec<IpNet> = pools.iter().map(|pool| pool.subnet).collect();
        default_pools::overlapping(&wanted, &taken).is_some()
    }

    /// The three that are always there.
    pub(super) async fn create_builtin(&self, name: &str, driver: Driver) -> Result<(), Error> {
        let mut command = CreateNetwork {
            id: NetworkId(random_bytes()),
            name: name.parse().expect("the names of the default networks are names"),
            driver,
            pools: Vec::new(),
            internal: false,
            ipv6: false,
            options: Default::default(),
            labels: Default::default(),
            occupied: Vec::new(),
            builtin: true,
        };
        if driver == Driver::Bridge {
            command.pools.extend(subnets::bridge_pool(&self.shared.config));
            for warning in subnets::complete(&mut command, &self.snapshot(), &self.shared.config).await? {
                tracing::warn!(network = name, "{warning}");
            }
        }
        self.commit(random_request_id(), Command::CreateNetwork(command), None).await.map(|_| ())
    }

    pub(super) async fn remove_network(
        &self,
        reference: &str,
        force: bool,
        id: RequestId,
    ) -> Result<Done, Error> {
        let network = self.network_id(reference)?;
        if force && self.state().belongs_to_docker(&network) {
            match self.shared.lacking.listed(&network, Instant::now()) {
                Listed::NotKnown => return Err(engine_unasked()),
                // Refused below.
                Listed::Yes => {}
                Listed::No => {
                    self.drop_docker_network(&network, id).await?;
                    return Ok(Done::Nothing);
                }
            }
        }
        if let Some(found) = self.state().network(&network) {
            check_removal(found, &self.state())?;
        }
        self.commit(id, Command::RemoveNetwork { network }, None).await?;
        Ok(Done::Nothing)
    }

    /// Removes every network that nobody uses and that the filter lets through, the default ones aside.
    pub(super) async fn prune_networks(&self, filter: &NetworkPrune) -> Result<Done, Error> {
        let state = self.state();
        let unused = |network: &&Network| {
            !network.builtin
                && may_prune(network, filter)
                && !state.belongs_to_docker(&network.id)
                && state.endpoints_in(&network.id).next().is_none()
        };
        let unused: Vec<_> = state.networks().filter(unused).map(|n| (n.id, n.name.clone())).collect();
        let mut names = Vec::new();
        for (network, name) in unused {
            self.commit(random_request_id(), Command::RemoveNetwork { network }, None).await?;
            names.push(name);
        }
        Ok(Done::Pruned(names))
    }

    pub(super) async fn connect(
        &self,
        network: &str,
        request: Connect,
        id: RequestId,
        prepared: &Prepared,
    ) -> Result<Done, Error> {
        let (attachment, endpoint) = self.wanted(network, request.endpoint, prepared)?;
        let network = attachment.network;
        let container = self.container_id(&request.container)?;
        let undo = Command::Disconnect { container, network };
        self.note_networks(&[(attachment.clone(), endpoint)]).await?;
        self.commit(id, Command::Connect { container, attachment, endpoint }, Some(undo)).await?;
        Ok(Done::Nothing)
    }

    pub(super) async fn disconnect(
        &self,
        network: &str,
        request: &Disconnect,
        id: RequestId,
    ) -> Result<Done, Error> {
        let container = self.container_id(&request.container)?;
        let network = self.snapshot().view().find_attached(&container, network).map_err(lookup)?;
        self.commit(id, Command::Disconnect { container, network }, None).await?;
        Ok(Done::Nothing)
    }
}

/// Nothing is taken from an engine that may have it.
pub(super) fn engine_unasked() -> Error {
    let message = "whether Docker's engine has the network is not known so far: try again in some seconds, or in half a \
                   minute if the engine is away";
    error(ErrorKind::Conflict, message)
}

pub(super) fn attachment(network: NetworkId, scope: Scope, wanted: EndpointConfig) -> Attachment {
    let EndpointConfig { ipv4, ipv6, mac, aliases } = wanted;
    let ipv4 = ipv4.filter(|ip| *ip != Ipv4Addr::UNSPECIFIED);
    let ipv6 = ipv6.filter(|ip| *ip != Ipv6Addr::UNSPECIFIED);
    Attachment { network, scope, ipv4, ipv6, mac, aliases }
}

pub(super) fn pool(pool: Pool) -> PoolRequest {
    let Pool { subnet, gateway, ip_range, aux_addresses } = pool;
    PoolRequest { subnet, gateway, ip_range, aux_addresses }
}

fn driver(name: &str) -> Result<Driver, Error> {
    match name {
        "bridge" => Ok(Driver::Bridge),
        "null" | "none" => Ok(Driver::None),
        "host" => Ok(Driver::Host),
        other => {
            Err(error(ErrorKind::Invalid, format!("there is no driver {other:?}; use bridge or overlay")))
        }
    }
}
