//! What a change needs of the cluster, asked for before the control loop makes it.
//!
//! The cluster may take seconds to answer, or not answer at all, and the loop serves one change at a time: so it never
//! waits for the cluster. Whoever asks for a change does that in a task of its own. Networks of the cluster are made
//! and removed there altogether; for a container's endpoint in one, addresses are leased, and the loop gets them with
//! the change as [`Prepared`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vswitch_proto::api::{Connect, Created, Error, ErrorKind, NetworkCreate, NetworkPrune, RunNetwork};
use vswitch_proto::command::{
    Addresses, Attachment, CreateNetwork, DockerChange, Driver, NewEndpoint, Reserve, Scope, SharedChange,
};
use vswitch_proto::id::{ContainerId, EndpointId, Name, NetworkId, RequestId};

use super::changes::{attachment, engine_unasked, pool};
use super::configuration::{self, may_prune};
use super::control::rejected;
use super::docker::leftovers::Listed;
use super::handle::{Done, Handle, error};
use super::leases::{self, Held};
use super::names::random_name;
use super::{Change, random_bytes, random_request_id, subnets};
use crate::cluster::service::ClusterError;
use crate::state::shared::Applied;
use crate::state::{LookupError, Network, Rejected, Snapshot};

/// How long the end of an endpoint waits for its addresses to be free for others.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

/// How long a change waits for the cluster to say whether a network that is not known here exists.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(2);

/// Names that are made up and taken before they are used.
const NAME_ATTEMPTS: usize = 16;

/// What was settled before the loop makes a change.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Of a container that is to be made.
    pub container: Option<(ContainerId, Name)>,
    /// What the cluster leased, by network.
    pub leases: BTreeMap<NetworkId, NewEndpoint>,
    held: Vec<Held>,
}

/// The networks that a change names.
fn networks(change: &Change) -> Vec<&str> {
    let wanted = match change {
        Change::RemoveNetwork { reference: network, .. } | Change::Connect { network, .. } => {
            return vec![network];
        }
        Change::Run(request) => &request.networks,
        Change::Adopt(request) => &request.networks,
        _ => return Vec::new(),
    };
    wanted.iter().map(|wanted| wanted.network.as_str()).collect()
}

fn failed(failed: ClusterError) -> Error {
    error(failed.kind(), failed.to_string())
}

impl Handle {
    /// Has it done: by the cluster what is the cluster's, by the control loop, in its turn, the rest.
    pub async fn change(&self, change: Change, id: Option<RequestId>) -> Result<Done, Error> {
        let id = id.unwrap_or_else(random_request_id);
        if self.state().outcome(&id).is_some() {
            return self.enqueue(change, id, Prepared::default()).await;
        }
        let change = match change {
            Change::CreateNetwork(request) => {
                Change::CreateNetwork(configuration::resolve(request, &self.state())?)
            }
            change => change,
        };
        self.catch_up(&change).await;
        match change {
            Change::CreateNetwork(request) if request.driver.as_deref() == Some("overlay") => {
                self.create_overlay(request, id).await
            }
            Change::CreateNetwork(_) => self.enqueue(change, id, Prepared::default()).await,
            Change::RemoveNetwork { ref reference, force } => {
                if force {
                    self.ask_engine().await;
                }
                match self.overlay(reference) {
                    Some(network) => self.remove_overlay(network, force, id).await,
                    None => self.enqueue(change, id, Prepared::default()).await,
                }
            }
            Change::PruneNetworks(filter) => self.prune(filter, id).await,
            Change::Connect { network, request } => self.connect(network, request, id).await,
            Change::Run(request) => {
                let (name, networks) = (request.name.clone(), request.networks.clone());
                self.make(name, &networks, || Change::Run(request.clone()), id).await
            }
            Change::Adopt(request) => {
                let (name, networks) = (Some(request.name.clone()), request.networks.clone());
                self.make(name, &networks, || Change::Adopt(request.clone()), id).await
            }
            Change::Start(ref reference) | Change::StartAgain(ref reference) => {
                let reference = reference.clone();
                self.start(&reference, change, id).await
            }
            // What the cluster calls a container is settled afterwards.
            Change::Disconnect { .. } | Change::Remove { .. } | Change::Rename { .. } => {
                self.end(change, id).await
            }
            Change::StopByHand(_) | Change::Update { .. } => {
                self.enqueue(change, id, Prepared::default()).await
            }
            Change::Docker(_) | Change::DockerState(_) => self.enqueue(change, id, Prepared::default()).await,
        }
    }

    /// A network that is not known here may have been made on another host a moment ago.
    async fn catch_up(&self, change: &Change) {
        let seen = self.snapshot();
        let is_known =
            |reference: &str| !matches!(seen.view().find_network(reference), Err(LookupError::NoNetwork(_)));
        if self.cluster().node().is_some() && !networks(change).into_iter().all(is_known) {
            // Without an answer the network stays unknown, and the change says so.
            _ = tokio::time::timeout(CATCH_UP_PATIENCE, self.cluster().linearizable_read()).await;
        }
    }

    /// If it is one of the cluster's.
    fn overlay(&self, reference: &str) -> Option<NetworkId> {
        let seen = self.snapshot();
        let found = seen.view().find_network(reference).ok().filter(|n| n.driver == Driver::Overlay);
        found.map(|network| network.id)
    }

    pub(super) async fn create_overlay(&self, request: NetworkCreate, id: RequestId) -> Result<Done, Error> {
        let (cluster, seen) = (self.cluster(), self.snapshot());
        if seen.local.networks().any(|network| network.name == request.name) {
            return Err(rejected(&Rejected::NetworkNameTaken(request.name)));
        }
        cluster.found_alone().await.map_err(failed)?;
        let seen = self.snapshot();
        let mut network = CreateNetwork {
            id: NetworkId(random_bytes()),
            name: request.name,
            driver: Driver::Overlay,
            pools: request.pools.into_iter().map(pool).collect(),
            internal: request.internal,
            ipv6: request.ipv6,
            options: request.options,
            labels: request.labels,
            occupied: Vec::new(),
            builtin: false,
        };
        let mut warnings = subnets::complete_overlay(&mut network, &seen).await?;
        match cluster.propose(SharedChange::CreateNetwork(network), id).await.map_err(failed)? {
            Applied::NetworkCreated { network } => {
                warnings.extend(self.warnings_of(&network));
                Ok(Done::Created(Created { id: network.to_string(), warnings }))
            }
            _ => Err(failed(ClusterError::Unexpected)),
        }
    }

    /// Static remotes that packets of this node cannot reach.
    fn warnings_of(&self, network: &NetworkId) -> Vec<String> {
        let seen = self.snapshot();
        let vtep = seen.node.and_then(|node| seen.shared.node(node)).map(|node| node.info.vtep);
        let remotes = seen.shared.network(network).map(Network::static_vteps).unwrap_or_default();
        match vtep.filter(IpAddr::is_loopback) {
            Some(vtep) if remotes.iter().any(|remote| !remote.is_loopback()) => vec![format!(
                "this node's tunnels begin at {vtep}, from where no remote is reached: start vswitchd with --vtep IP"
            )],
            _ => Vec::new(),
        }
    }

    async fn remove_overlay(&self, network: NetworkId, force: bool, id: RequestId) -> Result<Done, Error> {
        if force {
            let seen = self.snapshot();
            seen.shared.check_unused(&network, seen.node).map_err(|e| rejected(&e))?;
            self.forget_engine(network).await?;
        }
        self.cluster().propose(SharedChange::RemoveNetwork { network }, id).await.map_err(failed)?;
        Ok(Done::Nothing)
    }

    /// What a lost engine of this node has left in a network of the cluster: the networks that it was, with their
    /// endpoints, and addresses. Of an engine that has such a network nothing is taken.
    async fn forget_engine(&self, network: NetworkId) -> Result<(), Error> {
        let state = self.state();
        let here: Vec<_> = state.docker_networks().filter(|docker| docker.network == network).collect();
        let now = Instant::now();
        for docker in &here {
            match self.shared().lacking.listed(&docker.id, now) {
                Listed::NotKnown => return Err(engine_unasked()),
                Listed::Yes => return Ok(()),
                Listed::No => {}
            }
        }
        for docker in here {
            self.note(DockerChange::RemoveNetwork { network: docker.id }).await?;
        }
        for left in state.reservations().filter(|left| left.network == network) {
            self.note(DockerChange::Unreserve { endpoint: left.endpoint }).await?;
        }
        self.settle().await;
        Ok(())
    }

    /// Those of the cluster first: if it cannot be asked, nothing was done. One that a Docker network of this node is stays,
    /// also while it has no containers.
    async fn prune(&self, filter: NetworkPrune, id: RequestId) -> Result<Done, Error> {
        let seen = self.snapshot();
        let is_unused = |network: &&Network| {
            may_prune(network, &filter)
                && seen.shared.leases_in(&network.id).next().is_none()
                && !seen.local.docker_networks().any(|docker| docker.network == network.id)
        };
        let mut names = Vec::new();
        for network in seen.shared.networks().filter(is_unused) {
            let remove = SharedChange::RemoveNetwork { network: network.id };
            match self.cluster().propose(remove, random_request_id()).await {
                Ok(_) => names.push(network.name.clone()),
                // Somebody uses it by now, or has removed it.
                Err(ClusterError::Rejected(_)) => {}
                Err(other) => return Err(failed(other)),
            }
        }
        let prune = Change::PruneNetworks(filter.clone());
        names.extend(self.enqueue(prune, id, Prepared::default()).await?.pruned());
        Ok(Done::Pruned(names))
    }

    async fn connect(&self, network: String, request: Connect, id: RequestId) -> Result<Done, Error> {
        let mut prepared = Prepared::default();
        let seen = self.snapshot();
        let container = seen.local.find_container(&request.container).ok();
        if let (Some(network), Some(container)) = (self.overlay(&network), container) {
            let wanted = attachment(network, Scope::Cluster, request.endpoint.clone());
            seen.shared.check_wanted(&wanted).map_err(|e| rejected(&e))?;
            let has_one = seen.local.endpoint_at(&container.id, &network).is_some();
            if container.is_live() && !has_one {
                self.lease(&mut prepared, (container.id, container.name.clone()), wanted).await?;
            }
        }
        let is_leased = !prepared.leases.is_empty();
        let done = self.enqueue_leased(Change::Connect { network, request }, id, prepared).await?;
        Ok(self.warned(done, is_leased))
    }

    /// Adds what keeps other hosts out of reach at present, for a change that gives a container an overlay network.
    /// Containers of this host reach each other all the same, and the tunnels are tried again, so it is no error.
    fn warned(&self, done: Done, is_leased: bool) -> Done {
        let warnings = if is_leased { self.shared().problems.of_overlays() } else { Vec::new() };
        match done {
            _ if warnings.is_empty() => done,
            Done::Created(mut created) => {
                created.warnings.extend(warnings);
                Done::Created(created)
            }
            Done::Nothing => Done::Warned(warnings),
            other => other,
        }
    }

    async fn start(&self, reference: &str, change: Change, id: RequestId) -> Result<Done, Error> {
        let mut prepared = Prepared::default();
        let seen = self.snapshot();
        if let Ok(container) = seen.local.find_container(reference) {
            let needed = container.attachments.iter().filter(|a| {
                a.scope == Scope::Cluster && seen.local.endpoint_at(&container.id, &a.network).is_none()
            });
            for wanted in needed.cloned() {
                if seen.shared.network(&wanted.network).is_none() {
                    return Err(rejected(&seen.local.network_gone(&container.name, &wanted.network)));
                }
                let who = (container.id, container.name.clone());
                let before = seen.local.remembered_addresses(&container.id, &wanted.network);
                self.lease_as_before(&mut prepared, who, wanted, before).await?;
            }
        }
        let is_leased = !prepared.leases.is_empty();
        let done = self.enqueue_leased(change, id, prepared).await?;
        Ok(self.warned(done, is_leased))
    }

    /// A new container. A name that was made up and is taken meanwhile is another one's: then it gets another.
    async fn make(
        &self,
        name: Option<Name>,
        networks: &[RunNetwork],
        change: impl Fn() -> Change,
        id: RequestId,
    ) -> Result<Done, Error> {
        let mut id = id;
        for _ in 0..NAME_ATTEMPTS {
            let (chosen, is_random) = match &name {
                Some(name) => (name.clone(), false),
                None => (self.free_name(), true),
            };
            let prepared = self.prepare(chosen.clone(), networks).await?;
            let is_leased = !prepared.leases.is_empty();
            let made = self.enqueue_leased(change(), id, prepared).await;
            let is_taken = || self.state().containers().any(|container| container.name == chosen);
            let lost = made.as_ref().is_err_and(|e| e.kind == ErrorKind::Conflict) && is_random && is_taken();
            if !lost {
                return made.map(|done| self.warned(done, is_leased));
            }
            id = random_request_id();
        }
        Err(error(
            ErrorKind::Conflict,
            "every name that was made up was taken meanwhile: give one with --name",
        ))
    }

    fn free_name(&self) -> Name {
        let state = self.state();
        random_name(|name| state.containers().any(|container| container.name.as_str() == name))
    }

    async fn prepare(&self, name: Name, networks: &[RunNetwork]) -> Result<Prepared, Error> {
        let container = (ContainerId(random_bytes()), name);
        let mut prepared = Prepared { container: Some(container.clone()), ..Prepared::default() };
        let is_taken = self.state().containers().any(|c| c.name == container.1);
        for wanted in networks.iter().filter(|_| !is_taken) {
            if let Some(network) = self.overlay(&wanted.network) {
                let wanted = attachment(network, Scope::Cluster, wanted.endpoint.clone());
                self.lease(&mut prepared, container.clone(), wanted).await?;
            }
        }
        Ok(prepared)
    }

    /// With the addresses that the container had, unless somebody else has one of them by now.
    async fn lease_as_before(
        &self,
        prepared: &mut Prepared,
        who: (ContainerId, Name),
        wanted: Attachment,
        before: Option<Addresses>,
    ) -> Result<(), Error> {
        let fits = |before: &Addresses| {
            wanted.ipv4.is_none_or(|ip| before.ipv4 == Some(ip))
                && wanted.ipv6.is_none_or(|ip| before.ipv6 == Some(ip))
                && wanted.mac.is_none_or(|mac| before.mac == mac)
        };
        if let Some(Addresses { mac, ipv4, ipv6 }) = before.filter(fits) {
            let again = Attachment { ipv4, ipv6, mac: Some(mac), ..wanted.clone() };
            match self.lease(prepared, who.clone(), again).await {
                Err(taken) if taken.kind == ErrorKind::Conflict => {}
                leased => return leased,
            }
        }
        self.lease(prepared, who, wanted).await
    }

    async fn lease(
        &self,
        prepared: &mut Prepared,
        (container, container_name): (ContainerId, Name),
        attachment: Attachment,
    ) -> Result<(), Error> {
        let (network, endpoint) = (attachment.network, EndpointId(random_bytes()));
        prepared.held.push(self.shared().leases.hold(endpoint));
        let request = Reserve { endpoint, container, container_name, attachment };
        let reserved = self.cluster().propose(SharedChange::Reserve(request), random_request_id()).await;
        match reserved.map_err(failed)? {
            Applied::Reserved { endpoint, addresses } => {
                prepared.leases.insert(network, NewEndpoint { id: endpoint, lease: Some(addresses) });
                Ok(())
            }
            _ => Err(failed(ClusterError::Unexpected)),
        }
    }

    /// If it fails, what was leased for it is free again when this returns.
    async fn enqueue_leased(&self, change: Change, id: RequestId, prepared: Prepared) -> Result<Done, Error> {
        let has_leases = !prepared.leases.is_empty();
        let done = self.enqueue(change, id, prepared).await;
        if done.is_err() && has_leases {
            self.settle().await;
        }
        done
    }

    /// Afterwards the addresses that became free are free everywhere, if the cluster answers.
    async fn end(&self, change: Change, id: RequestId) -> Result<Done, Error> {
        // Ending a container takes as long as it takes: that is waited for here, not in the loop.
        if let Change::Remove { reference, force: true } = &change {
            self.kill_and_wait(reference).await?;
        }
        let done = self.enqueue(change, id, Prepared::default()).await;
        self.settle().await;
        done
    }

    /// What is not settled in time is settled later.
    pub async fn settle(&self) {
        let Snapshot { node, .. } = self.snapshot();
        if node.is_some() {
            _ = tokio::time::timeout(RELEASE_PATIENCE, leases::settle(self.shared())).await;
        }
    }
}
