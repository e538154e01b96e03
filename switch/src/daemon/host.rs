//! What the host holds: TAPs in namespaces, and the containers' names files. Carries out what [`plan`](crate::plan)
//! decided; every action may be repeated.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::command::{ContainerKind, DockerSpec, NetnsIdentity, NetnsSource};
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, PortId};

use super::docker::interface;
use super::handle::{Shared, error};
use crate::config::Config;
use crate::container::files::{self, Written};
use crate::forward::gso;
use crate::io::netlink::{self, Link, LinkConfig};
use crate::io::netns::{self, NetNs, NetNsError, NetNsId};
use crate::io::tap::{Offloads, Tap, TapConfig};
use crate::plan::{Action, Attach, DefaultRoute};
use crate::state::{Container, State};
use crate::worker::DetachError;

/// For opening a namespace, which may be on a file system that does not answer.
const ADOPT_PATIENCE: Duration = Duration::from_secs(5);

pub struct Host {
    shared: Arc<Shared>,
    /// The namespaces that were adopted: another one under the same path is not theirs. They are kept open, so that none
    /// of their numbers is used again meanwhile.
    adopted: Mutex<HashMap<ContainerId, Arc<NetNs>>>,
    /// Containers in which somebody keeps the names file open: a write does not wait for them again.
    held_open: Mutex<HashSet<ContainerId>>,
}

/// Where a container's network namespace is found.
#[derive(Debug, Clone)]
enum Place {
    Path(PathBuf),
    /// With when the process began, where that is known.
    Process(u32, Option<u64>),
}

/// How to open a container's network namespace, which may take a while.
#[derive(Debug)]
pub struct Way {
    name: String,
    place: Option<Place>,
    /// The namespace that it was when it was adopted, where it is kept open.
    known: Option<Arc<NetNs>>,
    /// The same as the state has it, from before a restart of the daemon.
    recorded: Option<NetnsIdentity>,
}

/// A network namespace of somebody else's that is to be adopted.
#[derive(Debug)]
pub struct Adoptable {
    pub source: NetnsSource,
    pub identity: NetnsIdentity,
    pub namespace: NetNs,
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("{name}: its network namespace is gone")]
    NoNamespace { name: String },
    #[error("{name}: cannot open its network namespace: {error}")]
    Namespace { name: String, error: NetNsError },
    #[error("{name}: its network namespace cannot be opened: the file system of its path does not answer")]
    NoAnswer { name: String },
    #[error("{name}: cannot make {interface}: {reason}")]
    Attach { name: String, interface: String, reason: String },
    #[error("{name}: cannot set the routes: {reason}")]
    Routes { name: String, reason: String },
    #[error("{name}: cannot write its hosts file: {error}")]
    Hosts { name: String, error: std::io::Error },
}

impl HostError {
    /// Whether there is no such namespace, which is more than that it could not be opened.
    fn is_absence(&self) -> bool {
        match self {
            HostError::NoNamespace { .. } => true,
            HostError::Namespace { error, .. } => match error {
                NetNsError::NoProcess(_) | NetNsError::NotNetNs { .. } => true,
                NetNsError::Open { source, .. } => {
                    matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
                }
                NetNsError::Create(_) | NetNsError::Identify { .. } => false,
            },
            _ => false,
        }
    }
}

impl Host {
    pub fn new(shared: Arc<Shared>) -> Host {
        Host { shared, adopted: Mutex::default(), held_open: Mutex::default() }
    }

    /// Carries out one action. `recovering` takes interfaces over that an earlier daemon has made; otherwise one that is
    /// there already is somebody else's. One that is in use is waited for when it `is_first` tried.
    pub async fn execute(&self, action: &Action, recovering: bool, is_first: bool) -> Result<(), HostError> {
        let state = self.shared.state();
        match action.clone() {
            Action::Attach(attach) => {
                let patience = if is_first { TapConfig::PATIENCE } else { Duration::ZERO };
                self.attach(&state, attach, !recovering, patience).await
            }
            Action::Detach { container, endpoint, port, interface } => {
                let inside = state.container(&container).filter(|container| container.docker().is_none());
                let way = inside.map(|container| (self.way(container), interface));
                let is_kept = is_kept(&state, &container, &endpoint);
                self.detach(port, is_kept, way).await;
                Ok(())
            }
            Action::SetRoutes { container, routes } => self.set_routes(&state, &container, routes).await,
            Action::WriteHosts { container, content } => self.write_hosts(&state, &container, content).await,
        }
    }

    async fn attach(
        &self,
        state: &State,
        attach: Attach,
        must_be_new: bool,
        patience: Duration,
    ) -> Result<(), HostError> {
        let found = state.container(&attach.container).filter(|_| state.endpoint(&attach.endpoint).is_some());
        let Some(container) = found else { return Ok(()) };
        let name = container.name.to_string();
        let Config { tso, uso, .. } = self.shared.config;
        let offloads = Offloads { no_tso: !tso, no_uso: !uso, no_csum: false };
        let config = TapConfig { persistent: true, must_be_new, offloads, patience };
        let (port, interface) = (attach.port, attach.interface.clone());
        let shared = Arc::clone(&self.shared);
        let give = move |tap| shared.dataplane.attach(port, tap).map_err(|e| e.to_string());
        let attached = match container.docker() {
            Some(spec) => {
                let sandbox = spec.sandbox.clone();
                let sandbox = sandbox.map(|path| self.shared.first_processes.sandbox(&container.id, path));
                let (mac, mtu) = (attach.mac, attach.mtu);
                let gso_bytes = gso_bytes(&attach);
                let wanted = interface::Wanted { endpoint: container.id, mac, mtu, gso_bytes, sandbox };
                blocking(move || interface::open(&wanted, config).and_then(give)).await
            }
            None => {
                let way = self.way(container);
                blocking(move || Ok(make_interface(&way.open()?, &attach, config).and_then(give))).await?
            }
        };
        attached.map_err(|reason| HostError::Attach { name, interface, reason })
    }

    /// The interface goes with its TAP, once the workers have let go of it, unless it `is_kept`. If they cannot, it
    /// goes from inside of its namespace, where that is known.
    pub async fn detach(&self, port: PortId, is_kept: bool, inside: Option<(Way, String)>) {
        let shared = Arc::clone(&self.shared);
        let gone = blocking(move || {
            let detached = shared.dataplane.detach(port);
            // Before, a worker could have gone on to learn from its frames.
            shared.fdb.forget_port(port);
            match detached {
                Ok(Some(_)) if is_kept => Ok(()),
                Ok(Some(tap)) => tap.delete().map_err(|error| error.to_string()),
                Ok(None) => Ok(()),
                Err(error @ DetachError::Held { .. }) => match inside.map(|(way, name)| (way.open(), name)) {
                    Some((Ok(ns), interface)) => {
                        tracing::warn!(%port, "removing the interface {interface} all the same: {error}");
                        netlink::delete_link(&ns, &interface).map(drop).map_err(|error| error.to_string())
                    }
                    _ => Err(error.to_string()),
                },
                Err(error) => Err(error.to_string()),
            }
        });
        if let Err(error) = gone.await {
            tracing::warn!(error, %port, "an interface may be left; the next start takes it away");
        }
    }

    /// The interface of a Docker endpoint that has ended, if it was kept.
    pub async fn remove_kept(&self, endpoint: ContainerId) {
        if let Err(error) = blocking(move || interface::remove(&endpoint)).await {
            tracing::warn!(error, "an interface may be left; the next start takes it away");
        }
    }

    async fn set_routes(
        &self,
        state: &State,
        container: &ContainerId,
        routes: Vec<DefaultRoute>,
    ) -> Result<(), HostError> {
        let Some(container) = state.container(container) else { return Ok(()) };
        let way = self.way(container);
        let name = container.name.to_string();
        let seen = self.shared.snapshot();
        let macs: HashMap<String, MacAddr> =
            seen.view().wires_of(&container.id).map(|(_, wire)| (wire.interface_name(), wire.mac)).collect();
        let set = blocking(move || {
            let ns = way.open()?;
            let links = if routes.is_empty() { Ok(Vec::new()) } else { netlink::links(&ns) };
            Ok(links.and_then(|links| {
                let present = |name: String| match macs.get(&name) {
                    Some(mac) => present_name(&links, &name, *mac),
                    None => name,
                };
                let routes: Vec<_> =
                    routes.into_iter().map(|route| (present(route.interface), route.gateway)).collect();
                netlink::set_default_routes(&ns, &routes)
            }))
        })
        .await?;
        set.map_err(|error| HostError::Routes { name, reason: error.to_string() })
    }

    async fn write_hosts(&self, state: &State, id: &ContainerId, content: String) -> Result<(), HostError> {
        let Some(container) = state.container(id) else { return Ok(()) };
        let dir = self.shared.container_dir(id);
        let held_open = || self.held_open.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = if held_open().contains(id) { Duration::ZERO } else { files::HOSTS_PATIENCE };
        let written = blocking(move || files::write_hosts(&dir, &content, patience)).await;
        match written {
            Ok(Written::UnderReaders) => held_open().insert(*id),
            Ok(Written::Atomically) | Err(_) => held_open().remove(id),
        };
        written.map(|_| ()).map_err(|error| HostError::Hosts { name: container.name.to_string(), error })
    }

    /// How to open the network namespace of a container that is alive.
    fn way(&self, container: &Container) -> Way {
        let place = match &container.kind {
            ContainerKind::Docker(DockerSpec { sandbox, .. }) => {
                sandbox.as_ref().map(|path| Place::Path(path.into()))
            }
            ContainerKind::Lab(_) => {
                self.shared.shim(&container.id).map(|shim| Place::Process(shim.init_pid() as u32, None))
            }
            ContainerKind::Adopted(spec) => Some(match &spec.source {
                NetnsSource::Path(path) => Place::Path(path.into()),
                NetnsSource::Pid { pid, start_ticks } => Place::Process(*pid, Some(*start_ticks)),
            }),
        };
        let known = self.adopted.lock().unwrap_or_else(PoisonError::into_inner).get(&container.id).cloned();
        let recorded = match &container.kind {
            ContainerKind::Adopted(spec) => Some(spec.namespace.clone()),
            ContainerKind::Docker(_) | ContainerKind::Lab(_) => None,
        };
        Way { name: container.name.to_string(), place, known, recorded }
    }

    /// Interfaces that a crash has left between a change's being true and the host's following it, and those whose lease
    /// went while no daemon ran: TAPs of our names that no endpoint of the container has, and that no process is
    /// attached to.
    pub async fn remove_unknown_interfaces(&self, container: &ContainerId) {
        let seen = self.shared.snapshot();
        let Some(container) = seen.local.container(container).filter(|c| c.docker().is_none()) else {
            return;
        };
        let known: Vec<String> =
            seen.view().wires_of(&container.id).map(|(_, wire)| wire.interface_name()).collect();
        let (way, name) = (self.way(container), container.name.clone());
        blocking(move || {
            let Ok(ns) = way.open() else { return };
            for link in netlink::links(&ns).unwrap_or_default() {
                if !link.is_tap || !is_ours(&link.name) || known.contains(&link.name) {
                    continue;
                }
                // Refused while another process is attached: then it is that one's.
                let attached = Tap::open(&ns, &link.name, TapConfig::default());
                if attached.is_ok_and(|tap| tap.delete().is_ok()) {
                    tracing::info!(container = %name, interface = link.name, "removed an interface that a crash has left");
                }
            }
        })
        .await;
    }

    /// For each port that has an interface, whether that is in another namespace than it should be: that of the container,
    /// or of the host where an engine moves it.
    pub async fn find_moved(&self, container: &Container, ports: Vec<PortId>) -> Vec<(PortId, bool)> {
        let is_docker = container.docker().is_some();
        let (way, shared) = (self.way(container), Arc::clone(&self.shared));
        blocking(move || {
            let host = if is_docker { NetNs::current().ok() } else { None };
            // Without it nothing can be said.
            let Ok(inside) = way.open() else { return Vec::new() };
            let places: Vec<NetNsId> = host.iter().chain([&inside]).map(NetNs::id).collect();
            let located = ports.into_iter().filter_map(|port| Some((port, shared.dataplane.locate(port)?)));
            located.map(|(port, place)| (port, !places.contains(&place))).collect()
        })
        .await
    }

    /// Sets an interface up again that is back from another namespace: the kernel takes its addresses and routes away
    /// when it is moved, and leaves it down.
    pub async fn set_up_again(&self, container: &Container, attach: Attach) -> Result<(), HostError> {
        let (way, interface) = (self.way(container), attach.interface.clone());
        let name = container.name.to_string();
        let done = blocking(move || {
            let ns = way.open()?;
            Ok(netlink::links(&ns).and_then(|links| {
                let name = present_name(&links, &attach.interface, attach.mac);
                netlink::configure(&ns, &name, &link_config(&attach))
            }))
        })
        .await?;
        done.map_err(|error| HostError::Attach { name, interface, reason: error.to_string() })
    }

    /// The same beside the host's own interfaces, for Docker's endpoints.
    pub async fn remove_unknown_of_docker(&self, state: &State) {
        let endpoints = state.docker_endpoints().map(|(container, _)| interface::name(&container.id));
        let known: Vec<String> = endpoints.collect();
        blocking(move || interface::remove_unknown(&known)).await;
    }

    /// Whether an adopted namespace is gone, or is another one than it was. One that cannot be looked at is not gone.
    pub async fn is_gone(&self, container: &Container) -> bool {
        let way = self.way(container);
        match blocking(move || way.open()).await {
            Ok(ns) => {
                let mut adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
                adopted.entry(container.id).or_insert_with(|| Arc::new(ns));
                false
            }
            Err(error) => error.is_absence(),
        }
    }

    /// From now on no other namespace is the container's.
    pub fn remember_namespace(&self, id: ContainerId, namespace: NetNs) {
        let mut adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        adopted.insert(id, Arc::new(namespace));
    }

    /// It has ended, or is somebody else's again.
    pub fn forget_namespace(&self, id: &ContainerId) {
        self.held_open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// What a client asks to adopt, checked to be a network namespace of somebody else's.
    pub async fn netns_source(&self, pid: Option<u32>, path: Option<String>) -> Result<Adoptable, Error> {
        let invalid = |message: String| error(ErrorKind::Invalid, message);
        match (pid, &path) {
            (Some(_), None) => {}
            (None, Some(path)) if Path::new(path).is_absolute() => {}
            (None, Some(path)) => {
                return Err(invalid(format!("the namespace {path:?} is not absolute; it begins with /")));
            }
            _ => {
                return Err(invalid(
                    "give either a pid or a netns to adopt, not both and not neither".into(),
                ));
            }
        }
        let looking = blocking(move || {
            let (source, namespace) = match pid {
                Some(pid) => process_source(pid),
                None => path_source(path.unwrap_or_default()),
            }?;
            let identity = identify(&namespace, &told(&source)).map_err(|e| cannot_adopt(&e))?;
            Ok(Adoptable { source, identity, namespace })
        });
        let late = |_| {
            error(ErrorKind::Failed, "cannot adopt: the file system of the namespace's path does not answer")
        };
        let found: Adoptable = tokio::time::timeout(ADOPT_PATIENCE, looking).await.map_err(late)??;
        let own = NetNs::current().map_err(|e| error(ErrorKind::Failed, e.to_string()))?;
        if found.namespace.id() == own.id() {
            let source = told(&found.source);
            return Err(invalid(format!("{source} is the network namespace of vswitchd itself")));
        }
        Ok(found)
    }

    /// Opens the namespace that is now where that of an adopted container was.
    pub async fn reopen(&self, container: &Container) -> Result<(NetNs, NetnsIdentity), HostError> {
        self.forget_namespace(&container.id);
        let way = Way { recorded: None, ..self.way(container) };
        let name = way.name.clone();
        let opening = blocking(move || {
            let namespace = way.open()?;
            let identity = way.identify(&namespace)?;
            Ok((namespace, identity))
        });
        let opening = tokio::time::timeout(ADOPT_PATIENCE, opening);
        opening.await.unwrap_or(Err(HostError::NoAnswer { name }))
    }
}

impl Way {
    /// Takes as long as the file system of the path does.
    fn open(&self) -> Result<NetNs, HostError> {
        let gone = || HostError::NoNamespace { name: self.name.clone() };
        let opened = match self.place.as_ref().ok_or_else(gone)? {
            Place::Path(path) => NetNs::open(path),
            Place::Process(pid, began) => NetNs::of_pid(*pid).and_then(|ns| {
                // Looked at last: whatever was opened is that process's.
                let is_it =
                    began.is_none_or(|began| netns::start_time(*pid).is_ok_and(|ticks| ticks == began));
                if is_it { Ok(ns) } else { Err(NetNsError::NoProcess(*pid)) }
            }),
        };
        let opened = opened.map_err(|error| HostError::Namespace { name: self.name.clone(), error })?;
        let is_it = match (&self.known, &self.recorded) {
            (Some(known), _) => **known == opened,
            (None, Some(recorded)) => self.identify(&opened)? == *recorded,
            (None, None) => true,
        };
        if is_it { Ok(opened) } else { Err(gone()) }
    }

    fn identify(&self, namespace: &NetNs) -> Result<NetnsIdentity, HostError> {
        let failed = |error| HostError::Namespace { name: self.name.clone(), error };
        identify(namespace, &self.name).map_err(failed)
    }
}

fn identify(namespace: &NetNs, path: &str) -> Result<NetnsIdentity, NetNsError> {
    namespace.identity().map_err(|source| NetNsError::Identify { path: path.into(), source })
}

fn process_source(pid: u32) -> Result<(NetnsSource, NetNs), Error> {
    let absent = |_| error(ErrorKind::NotFound, format!("there is no process {pid}"));
    let start_ticks = netns::start_time(pid).map_err(absent)?;
    let opened = NetNs::of_pid(pid).map_err(|e| cannot_adopt(&e))?;
    // Another process may have got the number meanwhile.
    if netns::start_time(pid).map_err(absent)? != start_ticks {
        return Err(error(ErrorKind::NotFound, format!("process {pid} has ended just now")));
    }
    Ok((NetnsSource::Pid { pid, start_ticks }, opened))
}

fn path_source(path: String) -> Result<(NetnsSource, NetNs), Error> {
    let opened = NetNs::open(Path::new(&path)).map_err(|e| cannot_adopt(&e))?;
    Ok((NetnsSource::Path(path), opened))
}

fn cannot_adopt(failed: &NetNsError) -> Error {
    error(adopt_error_kind(failed), format!("cannot adopt: {failed}"))
}

/// Docker has put the interface into a container, which cannot be given another one: it stays there without frames, and
/// is found when its lease is in effect again.
fn is_kept(state: &State, container: &ContainerId, endpoint: &EndpointId) -> bool {
    let docker = state.container(container).and_then(Container::docker);
    docker.is_some_and(|spec| spec.sandbox.is_some()) && state.endpoint(endpoint).is_some()
}

/// `eth` and a number.
fn is_ours(interface: &str) -> bool {
    interface.strip_prefix("eth").is_some_and(|number| number.parse::<u8>().is_ok())
}

fn adopt_error_kind(failed: &NetNsError) -> ErrorKind {
    match failed {
        NetNsError::NoProcess(_) => ErrorKind::NotFound,
        NetNsError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            ErrorKind::NotFound
        }
        _ => ErrorKind::Invalid,
    }
}

fn told(source: &NetnsSource) -> String {
    match source {
        NetnsSource::Pid { pid, .. } => format!("the namespace of process {pid}"),
        NetnsSource::Path(path) => path.clone(),
    }
}

/// Most of what leaves an overlay network's interface goes into a tunnel, where a frame has room in one send or not.
fn gso_bytes(attach: &Attach) -> u32 {
    if attach.is_overlay { gso::frame_bytes(attach.mtu) } else { netlink::GSO_BYTES }
}

/// What an interface is called now: whoever has the namespace may have renamed it.
fn present_name(links: &[Link], name: &str, mac: MacAddr) -> String {
    let is_there = links.iter().any(|link| link.name == name);
    let renamed = links.iter().find(|link| link.is_tap && link.mac == Some(mac) && !is_there);
    renamed.map_or(name, |link| &link.name).to_owned()
}

fn link_config(attach: &Attach) -> LinkConfig {
    LinkConfig {
        mac: attach.mac,
        mtu: attach.mtu,
        tx_queue_frames: netlink::TX_QUEUE_FRAMES,
        gso_bytes: gso_bytes(attach),
        addresses: attach.addresses.clone(),
        gateways: attach.gateways.clone(),
        route_metric: netlink::ROUTE_METRIC,
    }
}

/// Either the whole interface, or nothing of it.
fn make_interface(ns: &NetNs, attach: &Attach, config: TapConfig) -> Result<Tap, String> {
    let name = if config.must_be_new {
        attach.interface.clone()
    } else {
        present_name(&netlink::links(ns).map_err(|error| error.to_string())?, &attach.interface, attach.mac)
    };
    let tap = Tap::open(ns, &name, config).map_err(|error| error.to_string())?;
    let Err(error) = netlink::configure(ns, &name, &link_config(attach)) else { return Ok(tap) };
    // What is reported is the first failure.
    let _ = tap.delete();
    Err(error.to_string())
}

/// System calls that may take a while, away from the threads that serve others.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the work does not panic")
}
