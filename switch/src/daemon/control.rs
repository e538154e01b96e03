//! What changes and ticks have in common, and the path that every change takes.
//!
//! A change is a task: it takes its [turn](super::order), calls [`Control::commit`], and waits for what takes long. What
//! two changes must not do at once (propose a command, plan what it means for the host, publish it) happens under the
//! lock of [`Core`], which nobody holds while the host works: that is done in [`lanes`](super::lanes).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use vswitch_proto::api::{Created, Error, ErrorKind};
use vswitch_proto::command::{Command, Envelope, Start};
use vswitch_proto::id::{ContainerId, RequestId};

use super::handle::{Shared, error};
use super::health::HostHealth;
use super::host::Host;
use super::host_work::{Begun, HostWork, HostWorker};
use super::lanes::Lanes;
use super::order::{Order, Subject};
use super::overlay::Prepared;
use super::ports::LookedAt;
use super::trouble::{self, Failure, Trouble};
use super::tunnels::Tunnels;
use super::{Change, Done, Event, docker, feed, now_ms, random_request_id};
use crate::cluster::Replica;
use crate::forward::stale::Stale;
use crate::forward::tables::Tables;
use crate::plan::{self, Announcement, Left};
use crate::state::{Applied, Phase, Rejected, Snapshot, State};

/// Frames that announce what one change brought, over all ports: some milliseconds of writing.
const ANNOUNCED_COPIES_MAX: usize = 16_384;

/// Changes under way at once. Most take milliseconds; those that wait for a file system wait for seconds.
const CHANGES_MAX: u32 = 1024;

/// For the changes that are under way when the daemon is to end.
const FINISH_PATIENCE: Duration = Duration::from_secs(2);

/// Cheap to clone; each change has one.
#[derive(Clone)]
pub struct Control {
    core: Arc<tokio::sync::Mutex<Core>>,
    trouble: Arc<Mutex<Trouble>>,
    places: Arc<Semaphore>,
    pub(super) lanes: Lanes<HostWork>,
    pub(super) order: Arc<Order>,
    pub(super) looked_at: LookedAt,
    pub(super) shared: Arc<Shared>,
    pub(super) host: Arc<Host>,
    pub(super) events: mpsc::Sender<Event>,
}

/// What one change after the other reads and writes.
struct Core {
    replica: Replica,
    /// What the host was last brought to, or is being brought to in the lanes.
    followed: Snapshot,
    /// What the data plane was told of it.
    tables: Tables,
    left: Left,
    /// Learned addresses to be forgotten once more: of this second and of the one before.
    stale: [Stale; 2],
    tunnels: Tunnels,
    health: HostHealth,
    /// From the end of the recovery on, the host follows every change.
    is_following: bool,
}

impl Core {
    /// What a worker has learned by the tables of before, in the burst that it was in, goes too.
    fn forget_stale(&mut self, shared: &Shared) {
        let [recent, older] = &mut self.stale;
        let due = std::mem::replace(older, std::mem::take(recent));
        shared.fdb.forget_stale(&due, &self.tables);
    }
}

pub fn rejected(rejected: &Rejected) -> Error {
    error(rejected.kind(), rejected.to_string())
}

impl Control {
    pub fn new(replica: Replica, shared: Arc<Shared>, events: mpsc::Sender<Event>) -> Control {
        let host = Arc::new(Host::new(Arc::clone(&shared)));
        let trouble: Arc<Mutex<Trouble>> = Arc::default();
        let core = Core {
            replica,
            followed: Snapshot::default(),
            tables: Tables::default(),
            left: Left::default(),
            stale: Default::default(),
            tunnels: Tunnels::default(),
            health: HostHealth::default(),
            is_following: false,
        };
        let worker =
            HostWorker::new(Arc::clone(&host), Arc::clone(&shared), Arc::clone(&trouble), events.clone());
        Control {
            core: Arc::new(tokio::sync::Mutex::new(core)),
            trouble,
            places: Arc::new(Semaphore::new(CHANGES_MAX as usize)),
            lanes: worker.lanes(),
            order: Arc::default(),
            looked_at: LookedAt::default(),
            shared,
            host,
            events,
        }
    }

    pub fn state(&self) -> Arc<State> {
        self.shared.state()
    }

    /// This node's state and the cluster's.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Begins what an event asks for. Nothing is waited for here.
    pub fn handle(&self, event: Event) {
        let control = self.clone();
        match event {
            Event::Change { change, id, prepared, turn, reply } => {
                let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                    let message = format!("{CHANGES_MAX} changes are under way already: try again later");
                    // A client that went away need not be told.
                    let _ = reply.send(Err(error(ErrorKind::Conflict, message)));
                    return;
                };
                tokio::spawn(async move {
                    let answer = control.answer(*change, id, &prepared).await;
                    // Before the client knows: what was leased in vain is free then.
                    drop(prepared);
                    // A client that went away has its change all the same.
                    let _ = reply.send(answer);
                    drop((place, turn));
                });
            }
            Event::Exited { container, shim, exit } => {
                tokio::spawn(async move { control.exited(container, &shim, exit).await });
            }
            Event::Vanished(container) => {
                tokio::spawn(async move { control.vanished(container).await });
            }
            Event::PortDied(port) => self.port_died(port),
        }
    }

    /// Waits, for a while, for the changes that are under way.
    pub async fn finish(&self) {
        let all = self.places.acquire_many(CHANGES_MAX);
        if tokio::time::timeout(FINISH_PATIENCE, all).await.is_err() {
            tracing::warn!("some changes are not finished; the next start completes them or takes them back");
        }
    }

    /// What a change is ordered by.
    fn subject(&self, change: &Change, prepared: &Prepared) -> Option<Subject> {
        let state = self.state();
        let container = |reference: &str| {
            state.find_container(reference).ok().map(|container| Subject::Container(container.id))
        };
        match change {
            Change::CreateNetwork(_) | Change::PruneNetworks(_) => Some(Subject::Subnets),
            Change::RemoveNetwork { reference, .. } => {
                state.find_network(reference).ok().map(|network| Subject::Network(network.id))
            }
            Change::Run(_) | Change::Adopt(_) => {
                prepared.container.as_ref().map(|(container, _)| Subject::Container(*container))
            }
            Change::Connect { request, .. } => container(&request.container),
            Change::Disconnect { request, .. } => container(&request.container),
            Change::Start(reference)
            | Change::StartAgain(reference)
            | Change::Rename { reference, .. }
            | Change::Update { reference, .. }
            | Change::Remove { reference, .. } => container(reference),
            // One command, which is not to wait for a start that hangs.
            Change::StopByHand(_) => None,
            Change::Docker(call) => docker::subject(call),
            Change::DockerState(change) => docker::state_subject(change),
        }
    }

    /// Once for each request, also while it is carried out.
    async fn answer(&self, change: Change, id: RequestId, prepared: &Prepared) -> Result<Done, Error> {
        let _once = self.order.turn(Subject::Request(id)).await;
        match self.state().outcome(&id) {
            Some(Ok(applied)) => return Ok(done(applied)),
            Some(Err(reason)) => return Err(rejected(reason)),
            None => {}
        }
        let subject = self.subject(&change, prepared);
        let _turn = match subject {
            Some(subject) => Some(self.order.turn(subject).await),
            None => None,
        };
        self.change(change, id, prepared).await
    }

    /// What is due once a second. Nothing is waited for here but the lock.
    pub async fn tick(&self) {
        self.shared.fdb.sweep(Instant::now());
        self.look_after_adopted();
        self.look_after_ports();
        let is_wanting = {
            let mut core = self.core.lock().await;
            core.forget_stale(&self.shared);
            core.health.look(&self.shared);
            core.tunnels.look_again(&self.shared).await;
            core.tunnels.is_wanting()
        };
        if is_wanting {
            self.follow_cluster().await;
        }
        self.try_again().await;
    }

    /// What failed is derived anew from what is true now.
    async fn try_again(&self) {
        let core = self.core.lock().await;
        let due = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).due();
        for failure in due {
            let settings = self.shared.settings();
            if let Some(action) = plan::again(core.followed.view(), &failure.action, &settings) {
                HostWork::again(Failure { action, ..failure }).push_again(&self.lanes);
            }
        }
    }

    /// The cluster's state has changed, or this node's part in it.
    pub async fn follow_cluster(&self) {
        let mut core = self.core.lock().await;
        // Failures are told by the lanes.
        drop(self.bring_host(&mut core, self.snapshot(), &BTreeSet::new(), false).await);
    }

    async fn change(&self, change: Change, id: RequestId, prepared: &Prepared) -> Result<Done, Error> {
        match change {
            Change::CreateNetwork(request) => self.create_network(request, id).await,
            Change::RemoveNetwork { reference, force } => self.remove_network(&reference, force, id).await,
            Change::PruneNetworks(filter) => self.prune_networks(&filter).await,
            Change::Connect { network, request } => self.connect(&network, request, id, prepared).await,
            Change::Disconnect { network, request } => self.disconnect(&network, &request, id).await,
            Change::Run(request) => self.run(request, id, prepared).await,
            Change::Adopt(request) => self.adopt(request, id, prepared).await,
            Change::Start(reference) => self.start(&reference, id, prepared, Start::Asked).await,
            Change::StartAgain(reference) => self.start(&reference, id, prepared, Start::Again).await,
            Change::StopByHand(container) => self.note_stop(&container, id).await,
            Change::Rename { reference, name } => self.rename(&reference, name, id).await,
            Change::Update { reference, request } => self.update(&reference, request, id).await,
            Change::Remove { reference, force } => self.remove(&reference, force, id).await,
            Change::Docker(call) => self.docker(call, id).await,
            Change::DockerState(change) => self.docker_state(change, id).await,
        }
    }

    /// Makes a command durable and true, and begins what it means for the host.
    pub(super) async fn propose(&self, id: RequestId, command: Command) -> Result<(Applied, Begun), Error> {
        let mut core = self.core.lock().await;
        let old = self.snapshot();
        let envelope = Envelope { request_id: id, at_ms: now_ms(), command };
        // The log waits for the disk; other tasks of this thread move elsewhere meanwhile.
        let applied = tokio::task::block_in_place(|| core.replica.propose(&envelope))
            .map_err(|e| error(e.kind(), e.to_string()))?;
        let state = Arc::clone(core.replica.state());
        self.shared.publish(Arc::clone(&state));
        let changed = state.changed_containers(&old.local);
        let changed = changed.iter().filter_map(|change| change.after().or(change.before()));
        let changed: BTreeSet<ContainerId> = changed.map(|container| container.id).collect();
        let new = self.snapshot();
        let changes = feed::changes(&envelope.command, old.view(), new.view());
        self.shared.feed.publish(envelope.at_ms, changes);
        let begun = if core.is_following {
            self.bring_host(&mut core, new, &changed, false).await
        } else {
            Begun::default()
        };
        Ok((applied, begun))
    }

    /// Begins to bring a host, of which nothing is known but that an earlier daemon may have left things on it, to
    /// the present state. From now on it follows every change.
    pub(super) async fn follow_from_nothing(&self) {
        let mut core = self.core.lock().await;
        core.followed = Snapshot::default();
        core.tables = Tables::default();
        core.is_following = true;
        let begun = self.bring_host(&mut core, self.snapshot(), &BTreeSet::new(), true).await;
        drop(begun);
    }

    /// Plans what turns the host into one that fits `new`, publishes what the data plane is to know, and puts the rest
    /// into the lanes. What is done for the containers in `changed` can be waited for; failures elsewhere are told.
    async fn bring_host(
        &self,
        core: &mut Core,
        new: Snapshot,
        changed: &BTreeSet<ContainerId>,
        recovering: bool,
    ) -> Begun {
        core.tunnels.follow(&new, &self.shared).await;
        let settings = core.tunnels.settings(&self.shared.config);
        let (before, nothing) = (std::mem::take(&mut core.tables), Tables::default());
        let mut known = &before;
        if settings != self.shared.settings() {
            self.shared.set_settings(settings);
            known = &nothing;
        }
        let old = std::mem::replace(&mut core.followed, new.clone());
        let plan = plan::diff(old.view(), new.view(), known, &settings);
        let stale = Stale::between(&before, &plan.tables);
        core.tables.clone_from(&plan.tables);
        self.shared.dataplane.publish(plan.tables);
        self.shared.fdb.forget_stale(&stale, &core.tables);
        core.stale[0].extend(stale);
        if !Arc::ptr_eq(&old.shared, &new.shared) {
            self.shared.feed.publish(now_ms(), feed::shared_changes(&old.shared, &new.shared));
        }
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).supersede(&plan.actions);
        let mut begun = Begun::default();
        for action in plan.actions {
            let is_own = changed.contains(&trouble::container_of(&action));
            begun.push(&self.lanes, action, is_own, recovering);
        }
        self.announce(&core.tables, &core.left.follow(plan.moves));
        begun
    }

    /// In a thread of its own, since each copy is a system call.
    fn announce(&self, tables: &Tables, announcements: &[Announcement]) {
        let mut copies = Vec::new();
        for Announcement { vni, ip, mac } in announcements {
            let Some(network) = tables.networks.get(vni) else { continue };
            if copies.len() + network.ports.len() > ANNOUNCED_COPIES_MAX {
                tracing::debug!(?ip, "not announced, with all others that would take too long");
                continue;
            }
            let owner = network.endpoints.get(mac);
            let others = network.ports.iter().filter(|port| owner != Some(*port));
            copies.extend(others.map(|port| (*port, *ip, *mac)));
        }
        if !copies.is_empty() {
            let shared = Arc::clone(&self.shared);
            tokio::task::spawn_blocking(move || {
                for (port, ip, mac) in copies {
                    shared.dataplane.announce(port, ip, mac);
                }
            });
        }
    }

    /// Proposes, waits for the host, and where the host cannot follow, takes the command back with `undo`.
    pub(super) async fn commit(
        &self,
        id: RequestId,
        command: Command,
        undo: Option<Command>,
    ) -> Result<Applied, Error> {
        let (applied, begun) = self.propose(id, command).await?;
        let Err(failure) = begun.done().await else { return Ok(applied) };
        if let Some(undo) = undo {
            self.take_back(undo).await;
        }
        Err(failure)
    }

    /// For what must not fail: a compensation, or something that has happened already. Trouble is logged.
    pub(super) async fn take_back(&self, command: Command) {
        let taken = match self.propose(random_request_id(), command).await {
            Ok((_, begun)) => begun.done().await,
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            tracing::warn!(error = %error.message, "the host could not follow a change; the next start tries again");
        }
    }

    /// Whether the host is to have an interface of the container's.
    pub(super) async fn is_attached(&self, id: &ContainerId) -> bool {
        self.core.lock().await.followed.view().wires_of(id).next().is_some()
    }

    pub(super) fn is_active(&self, id: &ContainerId) -> bool {
        let state = self.state();
        let phase = state.container(id).map(|container| &container.phase);
        matches!(phase, Some(Phase::Created | Phase::Running))
    }
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
