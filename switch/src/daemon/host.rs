//! What the host holds: TAPs in namespaces, and the containers' names files. Carries out what [`plan`](crate::plan)
//! decided; every action may be repeated.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::command::{ContainerKind, DockerSpec, NetnsSource};
use vswitch_proto::id::{ContainerId, EndpointId, PortId};

use super::docker::interface;
use super::handle::{Shared, error};
use super::trouble::Failure;
use crate::config::Config;
use crate::container::files;
use crate::forward::gso;
use crate::io::netlink::{self, LinkConfig};
use crate::io::netns::{self, NetNs, NetNsError, NetNsId};
use crate::io::tap::{Offloads, Tap, TapConfig};
use crate::plan::{Action, Attach, DefaultRoute};
use crate::state::{Container, State, View};
use crate::worker::DetachError;

pub struct Host {
    shared: Arc<Shared>,
    /// The namespaces that adopted containers had when their first interface was made: another one under the same
    /// path is not theirs.
    adopted: Mutex<HashMap<ContainerId, NetNsId>>,
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("{name}: its network namespace is gone")]
    NoNamespace { name: String },
    #[error("{name}: cannot open its network namespace: {error}")]
    Namespace { name: String, error: NetNsError },
    #[error("{name}: cannot make {interface}: {reason}")]
    Attach { name: String, interface: String, reason: String },
    #[error("{name}: cannot set the routes: {reason}")]
    Routes { name: String, reason: String },
    #[error("{name}: cannot write its hosts file: {error}")]
    Hosts { name: String, error: std::io::Error },
}

impl Host {
    pub fn new(shared: Arc<Shared>) -> Host {
        Host { shared, adopted: Mutex::default() }
    }

    /// Does all of it even where a part fails, and tells what did. `recovering` takes interfaces over that an earlier
    /// daemon has made; otherwise one that is there already is somebody else's.
    pub async fn execute(&self, state: &State, actions: Vec<Action>, recovering: bool) -> Vec<Failure> {
        let mut failures = Vec::new();
        for action in actions {
            let done = match action.clone() {
                Action::Attach(attach) => self.attach(state, attach, !recovering).await,
                Action::Detach { container, endpoint, port, interface } => {
                    let inside = state.container(&container).filter(|container| container.docker().is_none());
                    let inside = inside.and_then(|container| self.netns(container).ok());
                    let is_kept = is_kept(state, &container, &endpoint);
                    self.detach(port, is_kept, inside.map(|ns| (ns, interface))).await;
                    Ok(())
                }
                Action::SetRoutes { container, routes } => self.set_routes(state, &container, routes).await,
                Action::WriteHosts { container, content } => {
                    self.write_hosts(state, &container, content).await
                }
            };
            if let Err(error) = done {
                failures.push(Failure { action, recovering, reason: error.to_string() });
            }
        }
        failures
    }

    async fn attach(&self, state: &State, attach: Attach, must_be_new: bool) -> Result<(), HostError> {
        let container = state.container(&attach.container);
        let Some(container) = container else { return Ok(()) };
        let name = container.name.to_string();
        let Config { tso, uso, .. } = self.shared.config;
        let offloads = Offloads { no_tso: !tso, no_uso: !uso, no_csum: false };
        let config = TapConfig { persistent: true, must_be_new, offloads };
        let (port, interface) = (attach.port, attach.interface.clone());
        let tap = match container.docker() {
            Some(spec) => {
                let (mac, mtu, sandbox) = (attach.mac, attach.mtu, spec.sandbox.clone());
                let gso_bytes = gso_bytes(&attach);
                let wanted = interface::Wanted { endpoint: container.id, mac, mtu, gso_bytes, sandbox };
                blocking(move || interface::open(&wanted, config)).await
            }
            None => {
                let ns = self.netns(container)?;
                blocking(move || make_interface(&ns, &attach, config)).await
            }
        };
        let attached = tap.and_then(|tap| self.shared.dataplane.attach(port, tap).map_err(|e| e.to_string()));
        attached.map_err(|reason| HostError::Attach { name, interface, reason })
    }

    /// The interface goes with its TAP, once the workers have let go of it, unless it `is_kept`. If they cannot, it
    /// goes from inside of its namespace, where that is known.
    async fn detach(&self, port: PortId, is_kept: bool, inside: Option<(NetNs, String)>) {
        self.shared.fdb.forget_port(port);
        let shared = Arc::clone(&self.shared);
        let gone = blocking(move || match shared.dataplane.detach(port) {
            Ok(Some(_)) if is_kept => Ok(()),
            Ok(Some(tap)) => tap.delete().map_err(|error| error.to_string()),
            Ok(None) => Ok(()),
            Err(error @ DetachError::Held { .. }) => match inside {
                Some((ns, interface)) => {
                    tracing::warn!(%port, "removing the interface {interface} all the same: {error}");
                    netlink::delete_link(&ns, &interface).map(drop).map_err(|error| error.to_string())
                }
                None => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
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
        let ns = self.netns(container)?;
        let name = container.name.to_string();
        let routes = routes.into_iter().map(|route| (route.interface, route.gateway)).collect::<Vec<_>>();
        let set = blocking(move || netlink::set_default_routes(&ns, &routes)).await;
        set.map_err(|error| HostError::Routes { name, reason: error.to_string() })
    }

    async fn write_hosts(&self, state: &State, id: &ContainerId, content: String) -> Result<(), HostError> {
        let Some(container) = state.container(id) else { return Ok(()) };
        let dir = self.shared.container_dir(id);
        let written = blocking(move || files::write_hosts(&dir, &content)).await;
        written.map(|_| ()).map_err(|error| HostError::Hosts { name: container.name.to_string(), error })
    }

    /// The network namespace of a container that is alive.
    pub fn netns(&self, container: &Container) -> Result<NetNs, HostError> {
        let name = || container.name.to_string();
        let opened = match &container.kind {
            ContainerKind::Docker(DockerSpec { sandbox: Some(path), .. }) => NetNs::open(Path::new(path)),
            ContainerKind::Docker(_) => return Err(HostError::NoNamespace { name: name() }),
            ContainerKind::Lab(_) => match self.shared.shim(&container.id) {
                Some(shim) => NetNs::of_pid(shim.init_pid() as u32),
                None => return Err(HostError::NoNamespace { name: name() }),
            },
            ContainerKind::Adopted(spec) => match &spec.source {
                NetnsSource::Path(path) => NetNs::open(Path::new(path)),
                NetnsSource::Pid { pid, start_ticks } => match netns::start_time(*pid) {
                    Ok(ticks) if ticks == *start_ticks => NetNs::of_pid(*pid),
                    _ => return Err(HostError::NoNamespace { name: name() }),
                },
            },
        };
        opened.map_err(|error| HostError::Namespace { name: name(), error })
    }

    /// Interfaces that a crash has left between a change's being true and the host's following it, and those whose lease
    /// went while no daemon ran: TAPs of our names that no endpoint has, and that no process is attached to.
    pub async fn remove_unknown_interfaces(&self, view: View<'_>) {
        let endpoints = view.local.docker_endpoints().map(|(container, _)| interface::name(&container.id));
        let known: Vec<String> = endpoints.collect();
        blocking(move || interface::remove_unknown(&known)).await;
        for container in view.local.containers().filter(|c| c.is_live() && c.docker().is_none()) {
            let Ok(ns) = self.netns(container) else { continue };
            let known: Vec<String> =
                view.wires_of(&container.id).map(|(_, wire)| wire.interface_name()).collect();
            let name = container.name.clone();
            blocking(move || {
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
    }

    /// Whether an adopted namespace is still the one that it was.
    pub fn is_there(&self, container: &Container) -> bool {
        let Ok(ns) = self.netns(container) else { return false };
        let mut adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        *adopted.entry(container.id).or_insert(ns.id()) == ns.id()
    }

    /// It has ended, or is somebody else's again.
    pub fn forget_namespace(&self, id: &ContainerId) {
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// What a client asks to adopt, checked to be a network namespace of somebody else's.
    pub fn netns_source(&self, pid: Option<u32>, path: Option<String>) -> Result<NetnsSource, Error> {
        let invalid = |message: String| error(ErrorKind::Invalid, message);
        let (source, opened) = match (pid, path) {
            (Some(pid), None) => {
                let start_ticks = netns::start_time(pid)
                    .map_err(|_| error(ErrorKind::NotFound, format!("there is no process {pid}")))?;
                (NetnsSource::Pid { pid, start_ticks }, NetNs::of_pid(pid))
            }
            (None, Some(path)) if !Path::new(&path).is_absolute() => {
                return Err(invalid(format!("the namespace {path:?} is not absolute; it begins with /")));
            }
            (None, Some(path)) => {
                let opened = NetNs::open(Path::new(&path));
                (NetnsSource::Path(path), opened)
            }
            _ => {
                return Err(invalid(
                    "give either a pid or a netns to adopt, not both and not neither".into(),
                ));
            }
        };
        let opened = opened.map_err(|e| error(adopt_error_kind(&e), format!("cannot adopt: {e}")))?;
        let own = NetNs::current().map_err(|e| error(ErrorKind::Failed, e.to_string()))?;
        if opened.id() == own.id() {
            return Err(invalid(format!("{} is the network namespace of vswitchd itself", told(&source))));
        }
        Ok(source)
    }
}

/// Prefixes that this host routes to, none of which a network may overlap.
pub async fn routes() -> Result<Vec<IpNet>, Error> {
    let read = blocking(|| {
        NetNs::current()
            .map_err(|e| e.to_string())
            .and_then(|ns| netlink::routes(&ns).map_err(|e| e.to_string()))
    });
    read.await.map_err(|reason| error(ErrorKind::Failed, format!("cannot read the host's routes: {reason}")))
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

/// Either the whole interface, or nothing of it.
fn make_interface(ns: &NetNs, attach: &Attach, config: TapConfig) -> Result<Tap, String> {
    let tap = Tap::open(ns, &attach.interface, config).map_err(|error| error.to_string())?;
    let link = LinkConfig {
        mac: attach.mac,
        mtu: attach.mtu,
        tx_queue_frames: netlink::TX_QUEUE_FRAMES,
        gso_bytes: gso_bytes(attach),
        addresses: attach.addresses.clone(),
        gateways: attach.gateways.clone(),
        route_metric: netlink::ROUTE_METRIC,
    };
    let Err(error) = netlink::configure(ns, &attach.interface, &link) else { return Ok(tap) };
    // What is reported is the first failure.
    let _ = tap.delete();
    Err(error.to_string())
}

/// System calls that may take a while, away from the threads that serve others.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the work does not panic")
}
