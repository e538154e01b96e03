//! What follows from an engine's lists: names for what has none so far, and the end of what it has forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vswitch_proto::command::{DockerChange, SharedChange};
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, Name, NetworkId};

use super::super::handle::Handle;
use super::super::host::blocking;
use super::super::overlay::Prepared;
use super::super::{Change, Feed, feed, now_ms, random_request_id};
use super::aliases::Unanswered;
use super::engine::{Census, Engine, EngineEndpoint, EngineError, Heard};
use super::interface;
use super::leftovers::{self, Leftover, Missing};
use super::sandbox::Sandbox;
use crate::cluster::service::ClusterError;
use crate::state::shared::Lease;
use crate::state::{ALIASES_MAX, Container, Phase, State};

/// Without events, and not more often than the grace period allows to be needed.
const INTERVAL_MAX: Duration = Duration::from_secs(15);

/// Interfaces that are looked at after one census: each is a visit to its container.
const VISITED_AT_ONCE: usize = 64;

/// An endpoint in the sandbox of its container.
type Place = (ContainerId, String);

/// What is kept from one census to the next.
#[derive(Default)]
struct Known {
    missing: Missing,
    unanswered: Unanswered,
    queues: Queues,
}

/// Whose queueing disciplines were looked at.
#[derive(Default)]
struct Queues {
    taken: BTreeSet<Place>,
    /// The last visit.
    last: Option<Place>,
}

impl Queues {
    /// Which of the places that there are come next. Those that cannot be done so far do not keep the others waiting.
    fn due(&mut self, joined: BTreeMap<Place, MacAddr>) -> Vec<(Place, MacAddr)> {
        self.taken.retain(|place| joined.contains_key(place));
        let mut due: Vec<_> = joined.into_iter().filter(|(place, _)| !self.taken.contains(place)).collect();
        let visited = due.partition_point(|(place, _)| Some(place) <= self.last.as_ref());
        due.rotate_left(visited);
        due.truncate(VISITED_AT_ONCE);
        self.last = due.last().map(|(place, _)| place.clone());
        due
    }
}

/// Follows the engine for as long as the daemon runs.
pub async fn keep(handle: Handle) {
    let config = &handle.shared().config;
    let grace = Duration::from_secs(config.docker_grace_s.into());
    let interval = (grace / 4).clamp(Duration::from_secs(1), INTERVAL_MAX);
    let engine = Engine::new(config.docker_host.clone());
    handle.shared().lacking.follow();
    let (heard, mut hints) = watch::channel(Heard::Changed);
    let watching = engine.watch(interval, &heard, &handle.shared().engine_calls);
    let (mut known, mut is_away) = (Known::default(), false);
    let following = async {
        while hints.changed().await.is_ok() {
            let heard = *hints.borrow_and_update();
            let followed = match heard {
                Heard::Changed => follow(&handle, &engine, &mut known, grace).await,
                Heard::Ended => Err(EngineError::Ended),
            };
            match followed {
                Ok(()) if std::mem::take(&mut is_away) => tracing::info!("the Docker engine is back"),
                Ok(()) => {}
                Err(error) => {
                    // Nobody knows what was there meanwhile.
                    known.missing = Missing::default();
                    handle.shared().lacking.unset(error.is_absence(), Instant::now());
                    if !std::mem::replace(&mut is_away, true) {
                        let engine = engine.socket().display();
                        tracing::warn!(%error, %engine, "names of containers are not learned");
                    }
                }
            }
        }
    };
    tokio::join!(watching, following);
}

impl Handle {
    /// Before something is taken from an engine that nobody serves, and so nobody follows: it is asked once. One that was
    /// away when it was last looked at may be back.
    pub(in super::super) async fn ask_engine(&self) {
        let (shared, state) = (self.shared(), self.state());
        let lacking = &shared.lacking;
        let is_due = !lacking.is_followed() || lacking.is_away();
        if !is_due || state.docker_networks().next().is_none() {
            return;
        }
        let engine = Engine::new(shared.config.docker_host.clone());
        match engine.census(|_| false).await {
            // Whoever follows it will know more.
            Ok(_) if lacking.is_followed() => {
                lacking.unset(false, Instant::now());
                shared.engine_calls.notify_waiters();
            }
            Ok(census) => {
                let mut missing = Missing::default();
                // It made none since, which takes the plugin.
                missing.due(&leftovers::missing(&state, &census), Duration::MAX, shared.started_at);
                lacking.set(&missing);
            }
            Err(error) => {
                tracing::debug!(%error, "the engine was asked in vain");
                lacking.unset(error.is_absence(), Instant::now());
            }
        }
    }
}

async fn follow(
    handle: &Handle,
    engine: &Engine,
    known: &mut Known,
    grace: Duration,
) -> Result<(), EngineError> {
    let nameless = |endpoint: &EndpointId| {
        let found = handle.state();
        let container = found.container(&super::container_of(endpoint));
        let is_new = container.and_then(Container::docker).is_some_and(|spec| spec.container.is_none());
        is_new || known.unanswered.is_due(endpoint)
    };
    // In this order: a network that is made meanwhile is not missing.
    let state = handle.state();
    let census = engine.census(nameless).await?;
    let due = known.missing.due(&leftovers::missing(&state, &census), grace, Instant::now());
    handle.shared().lacking.set(&known.missing);
    for endpoint in known.unanswered.follow(&census) {
        tracing::warn!(
            endpoint = endpoint.short(),
            "the Docker engine does not tell the aliases of its container"
        );
    }
    let starting = listed_by_networks(engine, &state, &due).await?;
    for leftover in due {
        if matches!(leftover, Leftover::Endpoint(id) if starting.contains(&EndpointId(id.0))) {
            continue;
        }
        if note(handle, leftover.change()).await {
            tell_reclaimed(handle.feed(), leftover);
        }
    }
    find_processes(handle, engine, &census).await;
    take_queues(handle, &mut known.queues).await;
    // These may wait, the last two for the cluster.
    name(handle, &census).await;
    describe_leases(handle).await;
    name_bindings(handle, &census).await;
    Ok(())
}

/// First processes of the containers whose namespaces are not visible under their paths. What is missing is found with one
/// of the next censuses.
async fn find_processes(handle: &Handle, engine: &Engine, census: &Census) {
    let state = handle.state();
    let found = &handle.shared().first_processes;
    found.retain(|endpoint| state.container(endpoint).is_some_and(|c| c.phase == Phase::Running));
    let joined = state.docker_endpoints().filter_map(|(endpoint, spec)| {
        Some((endpoint.id, found.sandbox(&endpoint.id, spec.sandbox.clone()?)))
    });
    let joined: Vec<(ContainerId, Sandbox)> = joined.collect();
    let hidden = blocking(move || {
        let hidden = joined.into_iter().filter(|(_, sandbox)| sandbox.open().is_none());
        hidden.map(|(endpoint, _)| endpoint).take(VISITED_AT_ONCE).collect::<Vec<_>>()
    });
    for endpoint in hidden.await {
        let Some(listed) = census.endpoints.get(&EndpointId(endpoint.0)) else { continue };
        match engine.first_process(&listed.container).await {
            Ok(Some(process)) => found.set(endpoint, process),
            Ok(None) => {}
            Err(error) => {
                let container = listed.container.short();
                tracing::debug!(%error, container, "the process of a container is not known");
            }
        }
    }
}

/// Of the interfaces that the engine has set up since.
async fn take_queues(handle: &Handle, queues: &mut Queues) {
    let seen = handle.snapshot();
    let joined = seen.local.docker_endpoints().filter_map(|(endpoint, spec)| {
        let (_, wire) = seen.view().wires_of(&endpoint.id).next()?;
        Some(((endpoint.id, spec.sandbox.clone()?), wire.mac))
    });
    for (place, mac) in queues.due(joined.collect()) {
        let sandbox = handle.shared().first_processes.sandbox(&place.0, place.1.clone());
        match blocking(move || interface::take_queue(&sandbox, mac)).await {
            Ok(true) => _ = queues.taken.insert(place),
            Ok(false) => {}
            Err(error) => {
                let endpoint = place.0.short();
                tracing::debug!(endpoint, error, "an interface keeps its queueing discipline for now");
            }
        }
    }
}

/// Endpoints of the networks that the endpoints which are due belong to: a container that takes its time to start is in
/// no other list.
async fn listed_by_networks(
    engine: &Engine,
    state: &State,
    due: &[Leftover],
) -> Result<BTreeSet<EndpointId>, EngineError> {
    let networks = due.iter().filter_map(|leftover| match leftover {
        Leftover::Endpoint(id) => Some(state.container(id)?.docker()?.network),
        _ => None,
    });
    let networks: BTreeSet<NetworkId> = networks.collect();
    let mut listed = BTreeSet::new();
    for network in &networks {
        listed.extend(engine.endpoints_of(network).await?);
    }
    Ok(listed)
}

/// In the log and as an event.
pub fn tell_reclaimed(feed: &Feed, leftover: Leftover) {
    let (what, id) = leftover.told();
    tracing::warn!(what, id, "the Docker engine has forgotten it; it was taken away");
    let attributes = [("what".to_owned(), what.to_owned())].into();
    let change = feed::Change { kind: "docker", action: "reclaim", id, name: String::new(), attributes };
    feed.publish(now_ms(), vec![change]);
}

/// What the engine calls its networks and the containers that its endpoints are of.
async fn name(handle: &Handle, census: &Census) {
    let state = handle.state();
    let cluster = handle.snapshot().shared;
    for (id, network) in &census.networks {
        let Some(name) = network.name.clone().filter(|_| state.belongs_to_docker(id)) else { continue };
        let is_taken = state.networks().chain(cluster.networks()).any(|n| n.name == name);
        if !is_taken {
            note(handle, DockerChange::NameNetwork { network: *id, name }).await;
        }
    }
    for (id, endpoint) in &census.endpoints {
        let Some(change) = description(&state, id, endpoint) else { continue };
        let told = endpoint.aliases.as_ref().map_or(0, Vec::len);
        // Once: with the next census it is as described.
        if note(handle, change).await && told > ALIASES_MAX {
            let container = endpoint.container.short();
            tracing::warn!(container, told, "only the first {ALIASES_MAX} aliases of a container are known");
        }
    }
}

fn description(state: &State, id: &EndpointId, listed: &EngineEndpoint) -> Option<DockerChange> {
    let held = state.container(&super::container_of(id))?;
    let known = held.docker()?.container == Some(listed.container);
    let name = listed.name.clone().unwrap_or_else(|| held.name.clone());
    let before = held.attachments.first().map_or(&[][..], |attachment| &attachment.aliases);
    let mut aliases: Vec<Name> = listed.aliases.clone().unwrap_or_else(|| before.to_vec());
    aliases.truncate(ALIASES_MAX);
    let same = known && held.name == name && before == aliases;
    let (endpoint, container) = (held.id, listed.container);
    (!same).then_some(DockerChange::Describe { endpoint, container, name, aliases })
}

/// Leases were made before it was known for whom.
async fn describe_leases(handle: &Handle) {
    let seen = handle.snapshot();
    let Some(node) = seen.node else { return };
    for lease in seen.shared.leases_of(node) {
        let Some(change) = lease_description(&seen.local, lease) else { continue };
        if let Err(error) = handle.cluster().propose(change, random_request_id()).await {
            tracing::debug!(%error, "other hosts do not know the name of a container so far");
            // What is wrong with one is not wrong with the next.
            if !matches!(error, ClusterError::Rejected(_)) {
                return;
            }
        }
    }
}

/// What the engine calls its networks of the cluster.
async fn name_bindings(handle: &Handle, census: &Census) {
    let seen = handle.snapshot();
    let Some(node) = seen.node else { return };
    for binding in seen.shared.bindings_of(node) {
        let name = census.networks.get(&binding.docker).and_then(|network| network.name.clone());
        if name.is_none() || name == binding.name {
            continue;
        }
        let change = SharedChange::Bind { network: binding.network, docker: binding.docker, name };
        if let Err(error) = handle.cluster().propose(change, random_request_id()).await {
            tracing::debug!(%error, "other hosts do not know the name of a network so far");
            // What is wrong with one is not wrong with the next.
            if !matches!(error, ClusterError::Rejected(_)) {
                return;
            }
        }
    }
}

fn lease_description(state: &State, lease: &Lease) -> Option<SharedChange> {
    let endpoint = state.endpoint(&lease.endpoint)?;
    let container = state.container(&endpoint.container)?;
    let id = container.docker()?.container?;
    let aliases = container.attachment(&lease.network).map_or_else(Vec::new, |a| a.aliases.clone());
    let same = (lease.container, &lease.container_name, &lease.aliases) == (id, &container.name, &aliases);
    (!same).then(|| SharedChange::Describe {
        endpoint: lease.endpoint,
        container: id,
        container_name: container.name.clone(),
        aliases,
    })
}

/// Whether it was done. What was not is tried again with the next census.
async fn note(handle: &Handle, change: DockerChange) -> bool {
    let done = handle.enqueue(Change::DockerState(change), random_request_id(), Prepared::default()).await;
    if let Err(error) = &done {
        tracing::debug!(error = error.message, "a change after the engine's lists was refused");
    }
    done.is_ok()
}

#[cfg(test)]
mod tests {
    use vswitch_proto::command::{Command, ContainerKind, CreateContainer, DockerNetwork, DockerSpec, Scope};

    use super::*;
    use crate::state::testing::{Lab, bridge, id32, to};

    #[test]
    fn all_interfaces_have_their_turn() {
        let mut queues = Queues::default();
        let count = VISITED_AT_ONCE + 2;
        let place = |n: usize| (ContainerId(id32(n as u64)), String::from("/ns"));
        let joined = || (0..count).map(|n| (place(n), MacAddr::ZERO)).collect::<BTreeMap<_, _>>();
        let all: Vec<Place> = joined().into_keys().collect();
        let mut due = || -> Vec<Place> { queues.due(joined()).into_iter().map(|(place, _)| place).collect() };
        assert_eq!(due(), all[..VISITED_AT_ONCE]);
        let next = due();
        assert_eq!(
            (next.len(), &next[..3]),
            (VISITED_AT_ONCE, &[&all[VISITED_AT_ONCE..], &all[..1]].concat()[..])
        );
        queues.taken = all[1..].iter().cloned().collect();
        assert_eq!(queues.due(joined()), [(all[0].clone(), MacAddr::ZERO)]);
        assert_eq!(queues.due(BTreeMap::new()), []);
        assert!(queues.taken.is_empty());
    }

    #[test]
    fn of_too_many_aliases_the_first_are_taken() {
        let mut lab = Lab::new();
        let mut docker = |change| lab.apply(Command::Docker(change)).unwrap();
        let (id, endpoint) = (NetworkId(id32(1001)), EndpointId(id32(1002)));
        let network = DockerNetwork { id, network: id, scope: Scope::Local, internal: false };
        docker(DockerChange::AddNetwork { network, local: Some(bridge(id, "net")) });
        let spec = DockerSpec { network: id, sandbox: None, container: None };
        let made = CreateContainer {
            id: super::super::container_of(&endpoint),
            name: "docker-1002".parse().unwrap(),
            kind: ContainerKind::Docker(spec),
            attachments: vec![(to(id), endpoint.into())],
        };
        docker(DockerChange::AddEndpoint(made));
        let aliases: Vec<Name> = (0..100).map(|i| format!("a{i}").parse().unwrap()).collect();
        let listed = EngineEndpoint {
            container: ContainerId(id32(1003)),
            name: "web".parse().ok(),
            aliases: Some(aliases.clone()),
            addresses: Vec::new(),
        };
        let change = description(&lab.state, &endpoint, &listed).unwrap();
        let DockerChange::Describe { aliases: described, .. } = &change else { panic!("{change:?}") };
        assert_eq!(*described, aliases[..ALIASES_MAX]);
        lab.apply(Command::Docker(change)).unwrap();
        assert_eq!(description(&lab.state, &endpoint, &listed), None, "told once");
    }
}
