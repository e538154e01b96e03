//! What the API sees of the daemon: the published state to read, a queue for changes, and the running containers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use vswitch_proto::api::stream::Frame;
use vswitch_proto::api::{Created, Error, ErrorKind, Exit, Version};
use vswitch_proto::command::ContainerKind;
use vswitch_proto::docker::Answer;
use vswitch_proto::id::{ContainerId, Name, RequestId};

use super::client::{Client, Turnstile, WAITING_MAX};
use super::docker::leftovers::Lacking;
use super::docker::planned::Planned;
use super::docker::sandbox::FirstProcesses;
use super::feed::Feed;
use super::launches::Launches;
use super::leases::Leases;
use super::overlay::Prepared;
use super::ports::PortProblems;
use super::restart::Restarts;
use super::tunnels::Tunnels;
use super::{Change, Event};
use crate::cluster::service::ClusterHandle;
use crate::config::Config;
use crate::container::{self, LogOptions, Shim};
use crate::forward::Fdb;
use crate::io::process;
use crate::plan::Settings;
use crate::problems::Problems;
use crate::state::{Container, Network, Phase, Snapshot, State, View};
use crate::worker::Dataplane;

/// Seconds between the signal to stop and SIGKILL, for a container that has no time of its own.
const STOP_TIMEOUT_S: u32 = 10;

/// Cheap to clone; one for each connection.
#[derive(Clone)]
pub struct Handle {
    events: mpsc::Sender<Event>,
    shared: Arc<Shared>,
    client: Client,
}

/// Written by the control loop, read by everybody.
pub struct Shared {
    pub config: Config,
    pub dataplane: Dataplane,
    pub fdb: Arc<Fdb>,
    pub feed: Feed,
    pub cluster: ClusterHandle,
    pub started_at: Instant,
    state: ArcSwap<State>,
    /// Counts changes, for those who wait for one.
    revision: watch::Sender<u64>,
    shims: Mutex<HashMap<ContainerId, Arc<Shim>>>,
    pub planned: Planned,
    pub leases: Arc<Leases>,
    pub lacking: Lacking,
    pub first_processes: FirstProcesses,
    /// Wakes who waits for a sign of the Docker engine.
    pub engine_calls: Notify,
    settings: ArcSwap<Settings>,
    pub problems: Arc<Problems>,
    /// What is wrong with ports.
    pub port_problems: PortProblems,
    pub turnstile: Arc<Turnstile>,
    pub restarts: Restarts,
    pub launches: Launches,
}

/// What a change answers.
#[derive(Debug)]
pub enum Done {
    Nothing,
    Created(Created),
    Pruned(Vec<Name>),
    Docker(Answer),
    /// It was done, and will not work as long as something else does not.
    Warned(Vec<String>),
}

impl Done {
    /// The same with warnings for whoever created something.
    pub fn with_warnings(self, warnings: Vec<String>) -> Done {
        match self {
            Done::Created(created) => Done::Created(Created { warnings, ..created }),
            other => other,
        }
    }

    pub fn created(self) -> Created {
        match self {
            Done::Created(created) => created,
            other => unreachable!("a creation answers Created, not {other:?}"),
        }
    }

    pub fn docker(self) -> Answer {
        match self {
            Done::Docker(answer) => answer,
            other => unreachable!("a call is answered as one, not with {other:?}"),
        }
    }

    /// What the client is to be warned of.
    pub fn warnings(self) -> Vec<String> {
        match self {
            Done::Warned(warnings) => warnings,
            _ => Vec::new(),
        }
    }

    pub fn pruned(self) -> Vec<Name> {
        match self {
            Done::Pruned(names) => names,
            other => unreachable!("a pruning answers Pruned, not {other:?}"),
        }
    }
}

pub fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error { kind, message: message.into(), exit_code: None }
}

impl Shared {
    pub fn new(
        config: Config,
        dataplane: Dataplane,
        fdb: Arc<Fdb>,
        state: Arc<State>,
        cluster: ClusterHandle,
    ) -> Shared {
        let settings = ArcSwap::from_pointee(Tunnels::default().settings(&config));
        Shared {
            config,
            dataplane,
            fdb,
            feed: Feed::new(super::now_ms()),
            problems: Arc::clone(cluster.problems()),
            cluster,
            started_at: Instant::now(),
            state: ArcSwap::new(state),
            revision: watch::Sender::new(0),
            shims: Mutex::default(),
            planned: Planned::default(),
            leases: Arc::default(),
            lacking: Lacking::default(),
            first_processes: FirstProcesses::default(),
            engine_calls: Notify::new(),
            settings,
            port_problems: PortProblems::default(),
            turnstile: Arc::default(),
            restarts: Restarts::default(),
            launches: Launches::default(),
        }
    }

    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// This node's state, and then the cluster's: what an endpoint was leased is in it.
    pub fn snapshot(&self) -> Snapshot {
        let local = self.state();
        let cluster = self.cluster.in_effect();
        let node = cluster.as_ref().map(|(_, node)| *node);
        Snapshot { local, shared: cluster.map_or_else(Arc::default, |(shared, _)| shared), node }
    }

    /// What interfaces are made by.
    pub fn settings(&self) -> Settings {
        **self.settings.load()
    }

    pub fn set_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Changes with [`Shared::state`].
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub fn publish(&self, state: Arc<State>) {
        self.state.store(state);
        self.revision.send_modify(|revision| *revision += 1);
    }

    pub fn shims(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Shim>>> {
        self.shims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn shim(&self, id: &ContainerId) -> Option<Arc<Shim>> {
        self.shims().get(id).cloned()
    }

    /// For a process that has ended, once the state says so too. Wakes those who wait for that.
    pub fn forget_shim(&self, id: &ContainerId) -> Option<Arc<Shim>> {
        let shim = self.shims().remove(id);
        self.revision.send_modify(|revision| *revision += 1);
        shim
    }

    /// Wakes those who wait for a change of a container.
    pub fn wake(&self) {
        self.revision.send_modify(|revision| *revision += 1);
    }

    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.data_dir.join("containers").join(id.to_string())
    }
}

impl Handle {
    pub fn new(events: mpsc::Sender<Event>, shared: Arc<Shared>) -> Handle {
        Handle { events, shared, client: Client::DAEMON }
    }

    /// The same for what a client asks for.
    pub fn of(self, client: Client) -> Handle {
        Handle { client, ..self }
    }

    /// Has the control loop do it, in its turn.
    pub(super) async fn enqueue(
        &self,
        change: Change,
        id: RequestId,
        prepared: Prepared,
    ) -> Result<Done, Error> {
        let (reply, answer) = oneshot::channel();
        let gone = || error(ErrorKind::Failed, "vswitchd is stopping; try again when it is back");
        let crowded =
            || error(ErrorKind::Busy, format!("{WAITING_MAX} changes wait already; try again in a while"));
        let turn = self.shared.turnstile.enter(self.client).await.map_err(|_| crowded())?;
        let event = Event::Change { change: Box::new(change), id, prepared, turn, reply };
        self.events.send(event).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    pub fn state(&self) -> Arc<State> {
        self.shared.state()
    }

    /// This node's state and the cluster's.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    pub fn feed(&self) -> &Feed {
        &self.shared.feed
    }

    pub fn cluster(&self) -> &ClusterHandle {
        &self.shared.cluster
    }

    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.shared.container_dir(id)
    }

    pub fn find_network<'a>(&self, view: View<'a>, reference: &str) -> Result<&'a Network, Error> {
        view.find_network(reference).map_err(|e| error(e.kind(), e.to_string()))
    }

    pub fn find_container<'a>(&self, state: &'a State, reference: &str) -> Result<&'a Container, Error> {
        state.find_container(reference).map_err(|e| error(e.kind(), e.to_string()))
    }

    /// How many descriptors the daemon may have open.
    pub fn descriptors_max(&self) -> u64 {
        process::descriptors_max()
    }

    /// 0 for a container that does not run, and for one that was adopted by path.
    pub fn pid(&self, id: &ContainerId) -> u32 {
        self.shared.shim(id).map_or(0, |shim| shim.init_pid() as u32)
    }

    pub fn version(&self) -> Version {
        let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        Version {
            version: env!("CARGO_PKG_VERSION").into(),
            api: "v1".into(),
            node_name: self.shared.config.node_name.to_string(),
            kernel: kernel.unwrap_or_default(),
        }
    }

    /// The shim of a container that runs or waits to be started.
    pub fn running_shim(&self, reference: &str) -> Result<Arc<Shim>, Error> {
        let state = self.state();
        let container = self.find_container(&state, reference)?;
        self.lab_shim(container)?.ok_or_else(|| not_running(container))
    }

    /// The shim of a container whose process has begun.
    pub fn started_shim(&self, reference: &str) -> Result<Arc<Shim>, Error> {
        let state = self.state();
        let container = self.find_container(&state, reference)?;
        let shim = self.lab_shim(container)?;
        if container.phase == Phase::Running { shim } else { None }.ok_or_else(|| not_running(container))
    }

    fn lab_shim(&self, container: &Container) -> Result<Option<Arc<Shim>>, Error> {
        match container.kind {
            ContainerKind::Lab(_) => Ok(self.shared.shim(&container.id)),
            ContainerKind::Adopted(_) => Err(error(
                ErrorKind::Invalid,
                format!(
                    "{} is adopted: its processes belong to whoever made it; only its network is ours",
                    container.name
                ),
            )),
            ContainerKind::Docker(_) => Err(error(
                ErrorKind::Invalid,
                format!(
                    "{} is Docker's: use docker for its processes; only its network is ours",
                    container.name
                ),
            )),
        }
    }

    /// Waits until the container is not being started any more: its command runs, or never will.
    async fn launched(&self, id: &ContainerId) {
        let mut revision = self.shared.revision.subscribe();
        while self.shared.launches.is_under_way(id) && revision.changed().await.is_ok() {}
    }

    /// One that is being started gets the signal once its command runs. SIGKILL ends the start.
    pub async fn kill(&self, reference: &str, signal: i32) -> Result<(), Error> {
        let id = self.find_container(&self.state(), reference)?.id;
        let reference = &id.to_string();
        if signal == nix::libc::SIGKILL && self.shared.launches.end(&id) {
            return self.kill_and_wait(reference).await;
        }
        self.launched(&id).await;
        let shim = self.started_shim(reference)?;
        let state = self.state();
        let container = self.find_container(&state, reference)?;
        let stop_signal = container.lab().and_then(|spec| spec.settings.stop_signal);
        // As Docker: another signal than the one to stop by leaves the restart policy in force.
        if signal == nix::libc::SIGKILL || stop_signal.is_none_or(|stop| stop == signal) {
            self.stop_by_hand(&container.id).await?;
        }
        shim.signal(signal).await.map_err(|e| error(ErrorKind::Failed, e.to_string()))
    }

    /// The container's signal to stop, and SIGKILL to one that does not end in time. Nothing to do for one that does not
    /// run, but that it is not restarted.
    pub async fn stop(&self, reference: &str, patience: Option<Duration>) -> Result<(), Error> {
        let state = self.state();
        let container = self.find_container(&state, reference)?;
        self.lab_shim(container)?;
        self.stop_by_hand(&container.id).await?;
        let settings = container.lab().map(|spec| &spec.settings);
        let signal = settings.and_then(|settings| settings.stop_signal).unwrap_or(nix::libc::SIGTERM);
        let own_s = settings.and_then(|settings| settings.stop_timeout_s).unwrap_or(STOP_TIMEOUT_S);
        let patience = patience.unwrap_or(Duration::from_secs(own_s.into()));
        let id = container.id;
        // One that is being started is stopped as soon as its command runs. A start that takes too long is ended.
        let began = Instant::now();
        if tokio::time::timeout(patience, self.launched(&id)).await.is_err() {
            self.shared.launches.end(&id);
            self.launched(&id).await;
        }
        let patience = patience.saturating_sub(began.elapsed());
        let Some(shim) = self.shared.shim(&id) else { return Ok(()) };
        // A failure to signal means that it ended meanwhile, which is what is waited for.
        let _ = shim.signal(signal).await;
        if tokio::time::timeout(patience, shim.wait()).await.is_err() {
            let _ = shim.signal(nix::libc::SIGKILL).await;
        }
        self.ended(&id, &shim).await;
        self.settle().await;
        Ok(())
    }

    /// Ends a start that is under way, too.
    pub(super) async fn kill_and_wait(&self, reference: &str) -> Result<(), Error> {
        let state = self.state();
        let container = self.find_container(&state, reference)?;
        self.stop_by_hand(&container.id).await?;
        self.shared.launches.end(&container.id);
        if let Some(shim) = self.shared.shim(&container.id) {
            let _ = shim.signal(nix::libc::SIGKILL).await;
            self.ended(&container.id, &shim).await;
        }
        Ok(())
    }

    /// Waits until the state knows that the process behind `shim` has ended.
    async fn ended(&self, id: &ContainerId, shim: &Arc<Shim>) -> Exit {
        let exit = shim.wait().await;
        let mut revision = self.shared.revision.subscribe();
        while self.shared.shim(id).is_some_and(|current| Arc::ptr_eq(&current, shim)) {
            if revision.changed().await.is_err() {
                break;
            }
        }
        exit
    }

    pub async fn wait(&self, reference: &str) -> Result<Exit, Error> {
        let mut revision = self.shared.revision.subscribe();
        let mut id = self.find_container(&self.state(), reference)?.id;
        let mut last = None;
        loop {
            revision.mark_unchanged();
            let state = self.state();
            let container = match (state.container(&id), last.clone()) {
                (Some(container), _) => container,
                // It was removed when it had ended.
                (None, Some(exit)) => return Ok(exit),
                (None, None) => self.find_container(&state, reference)?,
            };
            id = container.id;
            let restarts = container.restarts;
            let exit = match (&container.phase, self.lab_shim(container)?) {
                (_, Some(shim)) => self.ended(&id, &shim).await,
                (Phase::Exited { code, error }, None) => Exit { exit_code: *code, error: error.clone() },
                // It is being started.
                (Phase::Running, None) if revision.changed().await.is_ok() => continue,
                (_, None) => return Err(not_running(container)),
            };
            let waits = self.shared.restarts.is_pending(&id);
            // In this order: a restart that waits no more is counted.
            let is_again = self.state().container(&id).is_some_and(|c| c.restarts > restarts);
            if !waits && !is_again {
                return Ok(exit);
            }
            last = Some(exit);
            if waits && revision.changed().await.is_err() {
                return Err(not_running(container));
            }
        }
    }

    pub fn logs(&self, reference: &str, options: LogOptions) -> Result<mpsc::Receiver<Frame>, Error> {
        let state = self.state();
        let container = self.find_container(&state, reference)?;
        self.lab_shim(container)?;
        Ok(container::logs(&self.container_dir(&container.id), options))
    }
}

fn not_running(container: &Container) -> Error {
    error(
        ErrorKind::Conflict,
        format!("container {0} is not running; start it with: vswitchctl start {0}", container.name),
    )
}
