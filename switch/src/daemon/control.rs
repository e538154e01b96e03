//! The loop's own state, and the path that every change takes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use vswitch_proto::api::{Created, Error, ErrorKind};
use vswitch_proto::command::{Command, Envelope};
use vswitch_proto::id::{ContainerId, NetworkId, RequestId};

use super::handle::{Shared, error};
use super::health::HostHealth;
use super::host::Host;
use super::overlay::Prepared;
use super::trouble::{Failure, Trouble};
use super::tunnels::Tunnels;
use super::{Change, Done, Event, feed, now_ms, random_request_id};
use crate::cluster::Replica;
use crate::forward::tables::Tables;
use crate::plan::{self, Announcement, Left};
use crate::state::{Applied, Phase, Rejected, Snapshot, State};

/// Frames that announce what one change brought, over all ports: some milliseconds of writing.
const ANNOUNCED_COPIES_MAX: usize = 16_384;

pub struct Control {
    replica: Replica,
    /// What the host was last brought to.
    followed: Snapshot,
    /// What the data plane was told of it.
    tables: Tables,
    left: Left,
    /// What commands have changed and the host has not followed so far.
    changed: BTreeSet<ContainerId>,
    trouble: Trouble,
    /// Containers that have ended, each with a network of the cluster that it was in and that is gone.
    orphans: Vec<(ContainerId, NetworkId)>,
    pub(super) tunnels: Tunnels,
    health: HostHealth,
    pub(super) shared: Arc<Shared>,
    pub(super) host: Host,
    pub(super) events: mpsc::Sender<Event>,
}

pub fn rejected(rejected: &Rejected) -> Error {
    error(rejected.kind(), rejected.to_string())
}

impl Control {
    pub fn new(replica: Replica, shared: Arc<Shared>, events: mpsc::Sender<Event>) -> Control {
        let host = Host::new(Arc::clone(&shared));
        Control {
            replica,
            followed: Snapshot::default(),
            tables: Tables::default(),
            left: Left::default(),
            changed: BTreeSet::new(),
            trouble: Trouble::default(),
            orphans: Vec::new(),
            tunnels: Tunnels::default(),
            health: HostHealth::default(),
            shared,
            host,
            events,
        }
    }

    pub fn state(&self) -> &Arc<State> {
        self.replica.state()
    }

    /// This node's state and the cluster's.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    pub async fn handle(&mut self, event: Event) {
        match event {
            Event::Change { change, id, prepared, reply } => {
                let answer = match self.state().outcome(&id) {
                    Some(Ok(applied)) => Ok(done(applied)),
                    Some(Err(reason)) => Err(rejected(reason)),
                    None => self.change(*change, id, &prepared).await,
                };
                // Before the client knows: what was leased in vain is free then.
                drop(prepared);
                // A client that went away has its change all the same.
                let _ = reply.send(answer);
            }
            Event::Exited { container, shim } => self.exited(container, &shim).await,
            Event::PortDied(port) => {
                tracing::debug!(%port, "a TAP is gone without a detach");
                self.check_adopted().await;
            }
        }
    }

    /// What is due once a second.
    pub async fn tick(&mut self) {
        self.shared.fdb.sweep(Instant::now());
        self.check_adopted().await;
        self.health.look(&self.shared);
        self.tunnels.look_again(&self.shared).await;
        if self.tunnels.is_wanting() {
            self.follow_cluster().await;
        }
        self.try_again().await;
    }

    async fn try_again(&mut self) {
        for failure in self.trouble.due() {
            let state = Arc::clone(&self.followed.local);
            let Some(container) = state.container(&failure.container()).filter(|c| c.is_live()) else {
                continue;
            };
            let again = self.host.execute(&state, vec![failure.action], failure.recovering).await;
            match again.first() {
                None => tracing::info!(container = container.name.as_str(), "the host has followed now"),
                Some(other) if other.reason == failure.reason => {}
                Some(other) => self.tell(other, &state),
            }
            self.trouble.note(again);
        }
    }

    /// In the log and as an event.
    fn tell(&self, failure: &Failure, state: &State) {
        let Failure { reason, .. } = failure;
        tracing::warn!(error = reason, "the host could not follow a change; it is tried again");
        let id = failure.container();
        let name = state.container(&id).map(|container| container.name.to_string()).unwrap_or_default();
        let attributes = [("error".to_owned(), reason.clone())].into();
        let change =
            feed::Change { kind: "container", action: "trouble", id: id.to_string(), name, attributes };
        self.shared.feed.publish(now_ms(), vec![change]);
    }

    /// The cluster's state has changed, or this node's part in it.
    pub async fn follow_cluster(&mut self) {
        if let Err(error) = self.follow().await {
            tracing::warn!(error = %error.message, "the host could not follow a change of the cluster");
        }
        self.disconnect_orphans().await;
    }

    /// A container that has ended keeps no network of the cluster, since it holds no lease there, and could not start
    /// with one that is gone.
    async fn disconnect_orphans(&mut self) {
        for (container, network) in std::mem::take(&mut self.orphans) {
            let seen = self.snapshot();
            let attached = seen.local.container(&container).filter(|c| c.attachment(&network).is_some());
            let Some(ended) = attached.filter(|c| !c.is_live()) else { continue };
            if seen.shared.network(&network).is_none() {
                let (name, network_id) = (ended.name.as_str(), network.short());
                tracing::info!(
                    container = name,
                    network = network_id,
                    "disconnected: the network was removed"
                );
                self.take_back(Command::Disconnect { container, network }).await;
            }
        }
    }

    async fn change(&mut self, change: Change, id: RequestId, prepared: &Prepared) -> Result<Done, Error> {
        match change {
            Change::CreateNetwork(request) => self.create_network(request, id).await,
            Change::RemoveNetwork { reference, force } => self.remove_network(&reference, force, id).await,
            Change::PruneNetworks => self.prune_networks().await,
            Change::Connect { network, request } => self.connect(&network, request, id, prepared).await,
            Change::Disconnect { network, request } => self.disconnect(&network, &request, id).await,
            Change::Run(request) => self.run(request, id, prepared).await,
            Change::Adopt(request) => self.adopt(request, id, prepared).await,
            Change::Start(reference) => self.start(&reference, id, prepared).await,
            Change::Remove { reference, force } => self.remove(&reference, force, id).await,
            Change::Docker(call) => self.docker(call, id).await,
            Change::DockerState(change) => self.docker_state(change, id).await,
        }
    }

    /// Makes a command durable and true. The host does not know of it yet: [`Control::follow`] is next.
    pub(super) fn propose(&mut self, id: RequestId, command: Command) -> Result<Applied, Error> {
        let old = self.snapshot();
        let envelope = Envelope { request_id: id, at_ms: now_ms(), command };
        // The log waits for the disk; other tasks of this thread move elsewhere meanwhile.
        let applied = tokio::task::block_in_place(|| self.replica.propose(&envelope))
            .map_err(|e| error(e.kind(), e.to_string()))?;
        self.shared.publish(Arc::clone(self.state()));
        let state = Arc::clone(self.state());
        let changed = state.changed_containers(&old.local);
        let changed = changed.iter().filter_map(|change| change.after().or(change.before()));
        self.changed.extend(changed.map(|container| container.id));
        let changes = feed::changes(&envelope.command, old.view(), self.snapshot().view());
        self.shared.feed.publish(envelope.at_ms, changes);
        Ok(applied)
    }

    /// Brings the host and the data plane to the present state. It fails where it did for a container that a command
    /// has changed since the last time; what fails for others is told, and tried again.
    pub(super) async fn follow(&mut self) -> Result<(), Error> {
        self.bring_host(self.snapshot(), false).await
    }

    /// The same for a host of which nothing is known but that an earlier daemon may have left things on it.
    pub(super) async fn follow_from_nothing(&mut self, to: Snapshot) -> Result<(), Error> {
        self.followed = Snapshot::default();
        self.tables = Tables::default();
        self.bring_host(to, true).await
    }

    async fn bring_host(&mut self, new: Snapshot, recovering: bool) -> Result<(), Error> {
        self.tunnels.follow(&new, &self.shared).await;
        let settings = self.tunnels.settings(&self.shared.config);
        if settings != self.shared.settings() {
            self.shared.set_settings(settings);
            self.tables = Tables::default();
        }
        let old = std::mem::replace(&mut self.followed, new.clone());
        let plan = plan::diff(old.view(), new.view(), &self.tables, &settings);
        let gone: Vec<_> = self.tables.vteps.difference(&plan.tables.vteps).copied().collect();
        self.tables.clone_from(&plan.tables);
        self.shared.dataplane.publish(plan.tables);
        for vtep in gone {
            self.shared.fdb.forget_vtep(vtep);
        }
        if !Arc::ptr_eq(&old.shared, &new.shared) {
            self.shared.feed.publish(now_ms(), feed::shared_changes(&old.shared, &new.shared));
            self.orphans.extend(orphans(&old, &new));
        }
        self.trouble.supersede(&plan.actions);
        let failures = self.host.execute(&new.local, plan.actions, recovering).await;
        let announcements = self.left.follow(plan.moves);
        if !announcements.is_empty() {
            tokio::task::block_in_place(|| self.announce(&announcements));
        }
        let changed = std::mem::take(&mut self.changed);
        let (own, others): (Vec<_>, Vec<_>) =
            failures.iter().partition(|failure| changed.contains(&failure.container()));
        others.into_iter().for_each(|failure| self.tell(failure, &new.local));
        let outcome =
            own.first().map_or(Ok(()), |failure| Err(error(ErrorKind::Failed, failure.reason.as_str())));
        self.trouble.note(failures);
        outcome
    }

    fn announce(&self, announcements: &[Announcement]) {
        let mut copies = 0;
        for Announcement { vni, ip, mac } in announcements {
            let Some(network) = self.tables.networks.get(vni) else { continue };
            if copies + network.ports.len() > ANNOUNCED_COPIES_MAX {
                tracing::debug!(?ip, "not announced, with all others that would take too long");
                continue;
            }
            copies += network.ports.len();
            let owner = network.endpoints.get(mac);
            for port in network.ports.iter().filter(|port| owner != Some(*port)) {
                self.shared.dataplane.announce(*port, *ip, *mac);
            }
        }
    }

    /// Proposes, follows, and where the host cannot follow, takes the command back with `undo`.
    pub(super) async fn commit(
        &mut self,
        id: RequestId,
        command: Command,
        undo: Option<Command>,
    ) -> Result<Applied, Error> {
        let applied = self.propose(id, command)?;
        let Err(failure) = self.follow().await else { return Ok(applied) };
        if let Some(undo) = undo {
            self.take_back(undo).await;
        }
        Err(failure)
    }

    /// For what must not fail: a compensation, or something that has happened already. Trouble is logged.
    pub(super) async fn take_back(&mut self, command: Command) {
        let taken = match self.propose(random_request_id(), command) {
            Ok(_) => self.follow().await,
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            tracing::warn!(error = %error.message, "the host could not follow a change; the next start tries again");
        }
    }

    /// Whether the host was brought to have an interface of the container's.
    pub(super) fn is_attached(&self, id: &ContainerId) -> bool {
        self.followed.view().wires_of(id).next().is_some()
    }

    pub(super) fn is_active(&self, id: &ContainerId) -> bool {
        let phase = self.state().container(id).map(|container| &container.phase);
        matches!(phase, Some(Phase::Created | Phase::Running))
    }
}

/// Who of those that have ended lost a network between two states of one cluster.
fn orphans(old: &Snapshot, new: &Snapshot) -> Vec<(ContainerId, NetworkId)> {
    let before = old.shared.networks().map(|network| network.id);
    let gone: BTreeSet<NetworkId> = before.filter(|id| new.shared.network(id).is_none()).collect();
    let mut found = Vec::new();
    if gone.is_empty() || old.node != new.node {
        return found;
    }
    for container in new.local.containers().filter(|c| c.docker().is_none() && !c.is_live()) {
        let lost = container.attachments.iter().filter(|attachment| gone.contains(&attachment.network));
        found.extend(lost.map(|attachment| (container.id, attachment.network)));
    }
    found
}

/// What a client is told of an applied command.
pub fn done(applied: &Applied) -> Done {
    match applied {
        Applied::NetworkCreated { network: id } => {
            Done::Created(Created { id: id.to_string(), warnings: Vec::new() })
        }
        Applied::ContainerCreated { container: id } => {
            Done::Created(Created { id: id.to_string(), warnings: Vec::new() })
        }
        _ => Done::Nothing,
    }
}
