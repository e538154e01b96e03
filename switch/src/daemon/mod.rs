//! The control loop: one closed [`Event`], and nothing in it that waits.
//!
//! The loop begins a task for each change. A change goes through these steps, and only here:
//!
//! 1. it takes its turn (`order`), so that changes of one container stay in order and others pass; names become ids, the
//!    host is asked what only it knows (its routes, a process's start time);
//! 2. [`Replica::propose`](crate::cluster::Replica::propose): durable, then applied, or rejected with nothing done;
//! 3. [`plan::diff`](crate::plan::diff) tells what that means for the host, which is done in the container's own lane
//!    (`lanes`), where what hangs hangs alone;
//! 4. the new state is published to readers, the change to the event stream, the answer to the client.
//!
//! What a change needs of the cluster is settled before it comes here (`overlay`); and when the cluster's state changes,
//! step 3 follows that too.
//!
//! If step 3 fails for what the change is about, a compensating command takes step 2 back, and the host follows it:
//! nothing is half done. What fails for others is told, and tried again (`trouble`).
//! Everything that a change waits for has a deadline. SIGTERM is heard at any time.

use std::io::IsTerminal;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;
use vswitch_proto::api::{self, Error, Exit};
use vswitch_proto::command::DockerChange;
use vswitch_proto::id::{ContainerId, Name, PortId, RequestId};

use crate::cluster::Replica;
use crate::config::{Config, Engine, LogFormat, LogLevel};
use crate::container::Shim;
use crate::forward::fdb::{Fdb, FdbConfig};
use crate::forward::{ForwardConfig, flood::StormLimit};
use crate::io::limits;
use crate::io::netns::NetNs;
use crate::vitals::Vitals;
use crate::worker::{Dataplane, DataplaneConfig, EngineKind};

mod amend;
mod changes;
mod client;
mod cluster;
mod configuration;
mod control;
mod docker;
mod feed;
mod handle;
mod health;
mod host;
mod host_work;
mod info;
mod join;
mod lanes;
mod launches;
mod leases;
mod lifecycle;
mod names;
mod observe;
mod order;
mod overlay;
mod ports;
mod recover;
mod restart;
mod run_settings;
mod socket;
mod subnets;
mod trouble;
mod tunnels;

pub use client::Client;
pub use cluster::recover_cluster;
pub use feed::Feed;
pub use handle::{Done, Handle};

use client::Turn;
use control::Control;
use handle::Shared;
use overlay::Prepared;

/// Events that wait for the loop. How many changes are among them is up to [`client`].
const QUEUE_MAX: usize = 256;

/// How often addresses are aged and adopted namespaces are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Between two looks at what the cluster changed, each of which may take some milliseconds: it changes by the thousand
/// when many hosts start.
const FOLLOW_PAUSE: Duration = Duration::from_millis(10);

/// For handing over to other nodes, at the end.
const RETIREMENT: Duration = Duration::from_secs(3);

/// For everything between SIGTERM and the end.
const STOP_PATIENCE: Duration = Duration::from_secs(8);

/// Threads for work that blocks: of each container that hangs there may be two.
const BLOCKING_THREADS_MAX: usize = 1024;

/// Everything that makes the loop act.
pub enum Event {
    /// Somebody wants something changed.
    Change {
        change: Box<Change>,
        id: RequestId,
        prepared: Prepared,
        /// Until the change is answered.
        turn: Turn,
        reply: oneshot::Sender<Result<Done, Error>>,
    },
    /// A container's process ended.
    Exited { container: ContainerId, shim: Arc<Shim>, exit: Exit },
    /// An adopted namespace was not there, or was another one, when it was looked at.
    Vanished(ContainerId),
    /// A port's TAP is gone without our doing.
    PortDied(PortId),
}

/// What clients may ask to have changed.
#[derive(Debug)]
pub enum Change {
    CreateNetwork(api::NetworkCreate),
    /// With `force` also what a lost Docker engine has left.
    RemoveNetwork {
        reference: String,
        force: bool,
    },
    PruneNetworks(api::NetworkPrune),
    Connect {
        network: String,
        request: api::Connect,
    },
    Disconnect {
        network: String,
        request: api::Disconnect,
    },
    Run(api::Run),
    Adopt(api::Adopt),
    Start(String),
    /// By its restart policy, unless that was taken back meanwhile.
    StartAgain(String),
    /// Its restart policy does not start it.
    StopByHand(ContainerId),
    Rename {
        reference: String,
        name: Name,
    },
    Update {
        reference: String,
        request: api::Update,
    },
    /// With `force` its process has been killed already.
    Remove {
        reference: String,
        force: bool,
    },
    /// A call of a Docker engine.
    Docker(vswitch_proto::docker::Call),
    /// What follows from a call after the cluster was asked.
    DockerState(DockerChange),
}

fn random_bytes<const N: usize>() -> [u8; N] {
    rand::random()
}

fn random_request_id() -> RequestId {
    RequestId(random_bytes())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Runs until SIGTERM or SIGINT. Containers go on without it.
pub fn run(config: Config) -> anyhow::Result<()> {
    start_log(&config);
    limits::raise_descriptors(None);
    check_rights()?;
    let lock = socket::lock_data_dir(&config.data_dir)?;
    let replica = Replica::open(&config.data_dir.join("state.redb"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("vswitch-control")
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .context("cannot start the control threads")?;
    let served = runtime.block_on(serve_until_signal(config, replica));
    // What still follows a log or an attached terminal is cut here.
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(lock);
    served
}

/// Interfaces are made inside network namespaces, which only root may enter, also the root of a user namespace.
fn check_rights() -> anyhow::Result<()> {
    let entered = NetNs::current().map(|here| here.run(|| ()));
    entered?.context("vswitchd may not enter network namespaces: run it as root, or in a user namespace")
}

fn start_log(config: &Config) {
    let level = match config.log_level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    // It warns of every attribute that a newer kernel has and it does not know.
    let levels =
        Targets::new().with_default(level).with_target("netlink_packet_route", tracing::Level::ERROR);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let log = tracing_subscriber::registry().with(levels);
    match config.log_format {
        LogFormat::Text => log.with(lines.with_ansi(std::io::stderr().is_terminal())).init(),
        LogFormat::Json => log.with(lines.json()).init(),
    }
}

/// Hears SIGTERM and SIGINT at any time: during the start as well, and whatever the rest waits for.
async fn serve_until_signal(config: Config, replica: Replica) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let (stop, stopping) = watch::channel(false);
    let mut serving = tokio::spawn(serve(config, replica, stopping));
    tokio::select! {
        served = &mut serving => return served.context("the control task failed")?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; containers go on");
    stop.send_replace(true);
    match tokio::time::timeout(STOP_PATIENCE, &mut serving).await {
        Ok(served) => served.context("the control task failed")?,
        Err(_) => {
            tracing::warn!("ending although something is not finished; the next start completes it");
            Ok(())
        }
    }
}

async fn serve(config: Config, replica: Replica, mut stopping: watch::Receiver<bool>) -> anyhow::Result<()> {
    let (events, queue) = mpsc::channel(QUEUE_MAX);
    let (vitals, mut failures) = vitals();
    let fdb = Arc::new(Fdb::new(FdbConfig {
        age: Duration::from_secs(config.fdb_ageing_s.into()),
        capacity: config.fdb_capacity as usize,
        ..FdbConfig::default()
    }));
    let dataplane = start_dataplane(&config, Arc::clone(&fdb), events.clone(), vitals.clone())?;
    let cluster = cluster::start(&config, vitals.clone()).await?;
    let shared = Arc::new(Shared::new(config, dataplane, fdb, Arc::clone(replica.state()), cluster.clone()));
    let listener = socket::listen(&shared.config.socket, shared.config.socket_group.as_deref()).await?;

    let control = Control::new(replica, Arc::clone(&shared), events.clone());
    tokio::select! {
        recovered = control.recover() => recovered?,
        _ = stopping.wait_for(|stop| *stop) => {
            remove_socket(&shared.config.socket);
            return Ok(());
        }
    }
    control.restart_all();
    let handle = Handle::new(events, Arc::clone(&shared));
    let watch_server = vitals.clone();
    let server = crate::api::serve(listener, handle.clone());
    let server = tokio::spawn(watch_server.watch("the API server", server));
    let plugin = docker::start(handle, &vitals).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = %shared.config.socket.display(),
        data_dir = %shared.config.data_dir.display(),
        "ready"
    );
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let joining = shared.config.cluster_store.clone();
    let joining = joining.map(|store| join::keep_joining(cluster.clone(), store));
    let joining = joining.map(|task| tokio::spawn(vitals.clone().watch("the task that joins", task)));
    let leases = leases::keep(Arc::clone(&shared));
    let leases = tokio::spawn(vitals.clone().watch("the task that keeps leases", leases));
    let looping = turn(control.clone(), queue);
    let looping = tokio::spawn(vitals.clone().watch("the control loop", looping));
    let outcome = tokio::select! {
        // An error means that whoever would tell has ended.
        _ = stopping.wait_for(|stop| *stop) => Ok(()),
        Some(failure) = failures.recv() => Err(anyhow!("{failure}; containers go on, start vswitchd again")),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    server.abort();
    // The loop goes on meanwhile, for what changes wait for.
    if tokio::time::timeout(STOP_PATIENCE, control.finish()).await.is_err() {
        tracing::warn!("something is not finished; the next start completes it");
    }
    looping.abort();
    leases.abort();
    if let Some(joining) = joining {
        joining.abort();
    }
    plugin.stop();
    if tokio::time::timeout(RETIREMENT, cluster.retire()).await.is_err() {
        tracing::warn!("the other nodes were not told of the end of this one; they will notice");
    }
    remove_socket(&shared.config.socket);
    outcome
}

/// Where the failure of a vital thread or task ends up: the first one ends the daemon.
fn vitals() -> (Vitals, mpsc::Receiver<String>) {
    let (sender, failures) = mpsc::channel(1);
    let vitals = Vitals::new(move |failure| {
        tracing::error!("{failure}");
        // When there is one already, that ends the daemon.
        let _ = sender.try_send(failure);
    });
    (vitals, failures)
}

async fn turn(control: Control, mut queue: mpsc::Receiver<Event>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut cluster = control.shared.cluster.watch();
    // What has changed since the recovery looked is followed now.
    cluster.mark_changed();
    let mut due = tokio::time::Instant::now();
    let mut is_due = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => control.tick().await,
            Ok(()) = cluster.changed(), if !is_due => is_due = true,
            () = tokio::time::sleep_until(due), if is_due => {
                cluster.mark_unchanged();
                control.follow_cluster().await;
                (due, is_due) = (tokio::time::Instant::now() + FOLLOW_PAUSE, false);
            }
            event = queue.recv() => match event {
                Some(event) => control.handle(event),
                None => break,
            },
        }
    }
}

fn start_dataplane(
    config: &Config,
    fdb: Arc<Fdb>,
    events: mpsc::Sender<Event>,
    vitals: Vitals,
) -> anyhow::Result<Dataplane> {
    let limit = config.storm_limit.and_then(NonZeroU32::new);
    let storm = limit.map(|limit| StormLimit { frames_per_s: limit, burst: limit });
    let config = DataplaneConfig {
        workers: NonZeroUsize::new(config.workers as usize).context("there must be a worker")?,
        engine: match config.engine {
            Engine::Auto => None,
            Engine::Epoll => Some(EngineKind::Epoll),
            Engine::Uring => Some(EngineKind::Uring),
        },
        pin_cpus: config.pin_cpus.clone(),
        poll: Duration::from_micros(config.poll_us.into()),
        burst_frames: DataplaneConfig::BURST_FRAMES,
        fdb,
        forward: ForwardConfig { storm, gateway: storm },
        coalesce: config.coalesce,
        on_port_death: Arc::new(move |port| {
            // A full queue means that the loop is busy; its next tick looks for dead ports anyway.
            let _ = events.try_send(Event::PortDied(port));
        }),
        vitals,
    };
    Dataplane::start(config).context("cannot start the workers")
}

fn remove_socket(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "the API socket was gone already");
    }
}
