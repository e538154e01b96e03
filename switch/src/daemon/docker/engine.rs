//! The engine's own API: what it has, and when that changes. It is only read.
//!
//! The plugin's calls tell neither names nor when an engine has forgotten something. Both are in the engine's lists of
//! networks and containers, its [`Census`]. One is taken when the engine is found, a moment after each of its events, and
//! now and then without one; while the engine is away there is none, and nothing follows from that.
//!
//! The engine may hold its answer back until a call to the plugin is answered, so this waits in a task of its own.
//!
//! # An engine that was stopped stays so
//! Where a service manager holds the engine's socket (`docker.socket`), whoever connects to it starts the engine, and
//! whoever does so while it is ending starts it again. So all lists are asked for on one connection that was made while the
//! engine ran, and when the stream of its events has ended nothing connects until the next engine calls the plugin.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use vswitch_proto::id::{ContainerId, EndpointId, Name, NetworkId};

use super::sandbox::FirstProcess;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// While the engine is away.
const RETRY: Duration = Duration::from_secs(2);

/// One census for events that come together.
const GATHERING: Duration = Duration::from_millis(50);

/// The list of some ten thousand containers.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Of one event.
const EVENT_BYTES_MAX: usize = 1 << 20;

const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";

/// Events after which an engine has something else, or calls it something else.
const ACTIONS: [&str; 9] =
    ["start", "die", "destroy", "rename", "connect", "disconnect", "create", "remove", "restart"];

/// What an engine has.
#[derive(Debug, Clone, Default)]
pub struct Census {
    pub networks: BTreeMap<NetworkId, EngineNetwork>,
    pub endpoints: BTreeMap<EndpointId, EngineEndpoint>,
    /// Those whose aliases were asked for in vain.
    pub unanswered: BTreeSet<EndpointId>,
}

#[derive(Debug, Clone)]
pub struct EngineNetwork {
    /// `None` if it cannot be a name here.
    pub name: Option<Name>,
    /// Whichever driver gave them: this plugin is called what its socket is called.
    pub pools: Vec<IpNet>,
}

#[derive(Debug, Clone)]
pub struct EngineEndpoint {
    pub container: ContainerId,
    /// `None` if it cannot be a name here.
    pub name: Option<Name>,
    /// `None` where that was not asked.
    pub aliases: Option<Vec<Name>>,
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the Docker engine cannot be reached: {0}")]
    Away(#[from] std::io::Error),
    #[error("the Docker engine broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the Docker engine has ended")]
    Ended,
    #[error("the Docker engine did not answer {0} in time")]
    Late(String),
    #[error("the Docker engine answers {path} with {status}")]
    Refused { path: String, status: u16 },
    #[error("what the Docker engine answers to {path} is not understood: {reason}")]
    Foreign { path: String, reason: String },
}

impl EngineError {
    /// Whether nothing listens at the engine's socket, or only somebody who would start it: there is no engine.
    pub fn is_absence(&self) -> bool {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        match self {
            EngineError::Ended => true,
            EngineError::Away(error) => matches!(error.kind(), ConnectionRefused | NotFound),
            _ => false,
        }
    }
}

/// What is heard of an engine. Only the last counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Its lists may be others than before.
    Changed,
    /// It has ended, and is not to be asked.
    Ended,
}

type Sender = SendRequest<Empty<Bytes>>;

pub struct Engine {
    socket: PathBuf,
    /// Where the next request goes, if there was one before.
    kept: Mutex<Option<Sender>>,
    /// Whether the process that listens is not the engine but who starts it.
    is_activated: AtomicBool,
    /// The engine's process id. 0 while it is not known.
    process: AtomicI32,
    /// The service manager's process id.
    manager: i32,
}

impl Engine {
    pub fn new(socket: PathBuf) -> Engine {
        let (is_activated, process) = (AtomicBool::new(false), AtomicI32::new(0));
        Engine { socket, kept: Mutex::default(), is_activated, process, manager: 1 }
    }

    /// Tells `heard` of everything that may have changed, for ever: when the engine is found, after events, after each
    /// `interval` without any, when it ends, and now and then while it is away. Each of `calls` is a sign that it is
    /// there.
    pub async fn watch(&self, interval: Duration, heard: &watch::Sender<Heard>, calls: &Notify) {
        loop {
            match self.events().await {
                Ok(events) => match follow(events.into_body(), interval, heard).await {
                    Ok(()) | Err(EngineError::Broken(_)) => {
                        tracing::debug!("the events of the engine ended");
                        heard.send_replace(Heard::Ended);
                        self.kept().take();
                        if self.is_activated.load(Ordering::Relaxed) {
                            calls.notified().await;
                            continue;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the events of the engine stopped");
                        heard.send_replace(Heard::Changed);
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "the engine does not tell its events");
                    heard.send_replace(Heard::Changed);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = calls.notified() => {}
            }
        }
    }

    /// What the engine has; with the aliases of those containers that have one of the endpoints `nameless`.
    pub async fn census(&self, nameless: impl Fn(&EndpointId) -> bool) -> Result<Census, EngineError> {
        let mut census = Census::default();
        for network in self.json::<Vec<ListedNetwork>>("/networks").await? {
            if let Ok(id) = network.id.parse() {
                census.networks.insert(id, network.checked());
            }
        }
        for container in self.json::<Vec<ListedContainer>>("/containers/json?all=true").await? {
            let Ok(id) = container.id.parse::<ContainerId>() else { continue };
            let name = container
                .names
                .into_iter()
                .flatten()
                .find_map(|name| name.trim_start_matches('/').parse().ok());
            let mut networks = container.settings.unwrap_or_default().checked(id, &name);
            if networks.iter().any(|(endpoint, _)| nameless(endpoint)) {
                match self.json::<Inspected>(&format!("/containers/{id}/json")).await {
                    Ok(inspected) => {
                        networks = inspected.settings.unwrap_or_default().checked(id, &name);
                        // Asked, and none is none.
                        networks
                            .values_mut()
                            .for_each(|endpoint| _ = endpoint.aliases.get_or_insert_default());
                    }
                    // It has ended since.
                    Err(EngineError::Refused { status: 404, .. }) => {}
                    Err(error) => {
                        tracing::debug!(%error, "the aliases of a container are asked for again");
                        census.unanswered.extend(networks.keys().filter(|endpoint| nameless(endpoint)));
                    }
                }
            }
            census.endpoints.extend(networks);
        }
        Ok(census)
    }

    /// The endpoints of a network, also those of containers that have not started so far, which the census lacks. A
    /// network that is gone has none.
    pub async fn endpoints_of(&self, network: &NetworkId) -> Result<BTreeSet<EndpointId>, EngineError> {
        match self.json::<InspectedNetwork>(&format!("/networks/{network}")).await {
            Ok(inspected) => Ok(inspected.checked()),
            Err(EngineError::Refused { status: 404, .. }) => Ok(BTreeSet::new()),
            Err(other) => Err(other),
        }
    }

    /// The first process of a container that runs.
    pub async fn first_process(&self, container: &ContainerId) -> Result<Option<FirstProcess>, EngineError> {
        let inspected = self.json::<InspectedState>(&format!("/containers/{container}/json")).await?;
        let engine = Some(self.process.load(Ordering::Relaxed)).filter(|pid| *pid > 0);
        Ok(Some(inspected.state.pid).filter(|pid| *pid > 0).and_then(|pid| FirstProcess::find(pid, engine)))
    }

    async fn connect(&self) -> Result<Sender, EngineError> {
        let stream = UnixStream::connect(&self.socket).await?;
        let listener = stream.peer_cred()?.pid();
        let is_activated = listener == Some(self.manager);
        self.is_activated.store(is_activated, Ordering::Relaxed);
        self.process.store(listener.filter(|_| !is_activated).unwrap_or(0), Ordering::Relaxed);
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the last request, or its answer; how is seen there.
        tokio::spawn(async move { _ = connection.await });
        Ok(sender)
    }

    async fn events(&self) -> Result<Response<Incoming>, EngineError> {
        let mut sender = self.connect().await?;
        let response = send(&mut sender, EVENTS).await?;
        checked(response.status(), EVENTS).map(|()| response)
    }

    /// On the connection that was kept, also where that fails: another one is for the next time.
    async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let kept = self.kept().take();
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = send(&mut sender, path).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        let body = timeout(PATIENCE, body).await.map_err(|_| EngineError::Late(path.into()))?;
        let foreign = |reason: String| EngineError::Foreign { path: path.into(), reason };
        let body = body.map_err(|e| foreign(e.to_string()))?.to_bytes();
        *self.kept() = Some(sender);
        checked(status, path)?;
        serde_json::from_slice(&body).map_err(|e| foreign(e.to_string()))
    }

    fn kept(&self) -> MutexGuard<'_, Option<Sender>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

async fn send(sender: &mut Sender, path: &str) -> Result<Response<Incoming>, EngineError> {
    let request = Request::get(path).header(HOST, "docker").body(Empty::<Bytes>::new());
    let request = request.expect("the paths here are paths");
    let answered = async {
        sender.ready().await?;
        sender.send_request(request).await
    };
    Ok(timeout(PATIENCE, answered).await.map_err(|_| EngineError::Late(path.into()))??)
}

fn checked(status: StatusCode, path: &str) -> Result<(), EngineError> {
    if status.is_success() {
        return Ok(());
    }
    Err(EngineError::Refused { path: path.into(), status: status.as_u16() })
}

async fn follow(
    mut events: Incoming,
    interval: Duration,
    heard: &watch::Sender<Heard>,
) -> Result<(), EngineError> {
    heard.send_replace(Heard::Changed);
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        let Ok(frame) = timeout(interval, events.frame()).await else {
            heard.send_replace(Heard::Changed);
            continue;
        };
        let Some(frame) = frame else { return Ok(()) };
        let Ok(chunk) = frame?.into_data() else { continue };
        buffer.extend_from_slice(&chunk);
        let whole = buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = buffer.drain(..whole).collect();
        if buffer.len() > EVENT_BYTES_MAX {
            let reason = format!("an event of over {EVENT_BYTES_MAX} bytes");
            return Err(EngineError::Foreign { path: EVENTS.into(), reason });
        }
        if lines.split(|byte| *byte == b'\n').any(matters) {
            tokio::time::sleep(GATHERING).await;
            heard.send_replace(Heard::Changed);
        }
    }
}

/// Whether a line is an event that changes what the engine has.
fn matters(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "Action", default)]
        action: String,
    }
    serde_json::from_slice::<Event>(line).is_ok_and(|event| ACTIONS.contains(&event.action.as_str()))
}

#[derive(Deserialize)]
struct ListedNetwork {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "IPAM", default)]
    ipam: Option<Ipam>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    config: Option<Vec<IpamConfig>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct IpamConfig {
    subnet: String,
}

impl ListedNetwork {
    fn checked(&self) -> EngineNetwork {
        let config = self.ipam.as_ref().and_then(|ipam| ipam.config.as_ref()).into_iter().flatten();
        let pools = config.filter_map(|c| c.subnet.parse().ok()).collect();
        EngineNetwork { name: self.name.parse().ok(), pools }
    }
}

#[derive(Deserialize)]
struct InspectedNetwork {
    /// By the container's id, or by something else where it is not known.
    #[serde(rename = "Containers", default)]
    containers: Option<HashMap<String, Member>>,
}

#[derive(Deserialize)]
struct Member {
    #[serde(rename = "EndpointID", default)]
    endpoint: String,
}

impl InspectedNetwork {
    fn checked(self) -> BTreeSet<EndpointId> {
        let members = self.containers.unwrap_or_default().into_values();
        members.filter_map(|member| member.endpoint.parse().ok()).collect()
    }
}

#[derive(Deserialize)]
struct ListedContainer {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Names", default)]
    names: Option<Vec<String>>,
    #[serde(rename = "NetworkSettings", default)]
    settings: Option<Settings>,
}

#[derive(Deserialize)]
struct Inspected {
    #[serde(rename = "NetworkSettings", default)]
    settings: Option<Settings>,
}

#[derive(Deserialize)]
struct InspectedState {
    #[serde(rename = "State")]
    state: ProcessState,
}

#[derive(Deserialize)]
struct ProcessState {
    /// 0 for a container that does not run.
    #[serde(rename = "Pid", default)]
    pid: u32,
}

#[derive(Deserialize, Default)]
struct Settings {
    #[serde(rename = "Networks", default)]
    networks: Option<HashMap<String, Attached>>,
}

#[derive(Deserialize)]
struct Attached {
    #[serde(rename = "EndpointID", default)]
    endpoint: String,
    #[serde(rename = "Aliases", default)]
    aliases: Option<Vec<String>>,
    /// What newer engines have in its place, with the container's name and short id.
    #[serde(rename = "DNSNames", default)]
    dns_names: Option<Vec<String>>,
    #[serde(rename = "IPAddress", default)]
    ipv4: String,
    #[serde(rename = "GlobalIPv6Address", default)]
    ipv6: String,
}

impl Settings {
    /// Without those that a container which does not run has not got.
    fn checked(self, container: ContainerId, name: &Option<Name>) -> BTreeMap<EndpointId, EngineEndpoint> {
        let attached = self.networks.unwrap_or_default().into_values();
        let endpoints = attached.filter_map(|attached| {
            let names = attached.dns_names.or(attached.aliases);
            let is_alias =
                |alias: &Name| Some(alias) != name.as_ref() && *alias.as_str() != container.short();
            let aliases =
                names.map(|names| names.iter().filter_map(|n| n.parse().ok()).filter(is_alias).collect());
            let addresses = [&attached.ipv4, &attached.ipv6].into_iter().filter_map(|ip| ip.parse().ok());
            let addresses = addresses.collect();
            let endpoint = attached.endpoint.parse().ok()?;
            Some((endpoint, EngineEndpoint { container, name: name.clone(), aliases, addresses }))
        });
        endpoints.collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    const ID: &str = "777344ef4943d34827a3504a802bf15db69327d7abe4af28a05084ca7406f843";

    #[test]
    fn events_that_matter() {
        assert!(matters(br#"{"Type":"container","Action":"start","id":"x"}"#));
        assert!(!matters(br#"{"Type":"container","Action":"exec_create: ps"}"#));
        assert!(!matters(b"") && !matters(b"{"));
    }

    #[test]
    fn names_of_older_and_newer_engines() {
        for (key, text) in [
            ("Aliases", r#"["front","777344ef4943","no name"]"#),
            ("DNSNames", r#"["c3","front","777344ef4943"]"#),
        ] {
            let json = format!(
                r#"{{"Networks":{{"blue":{{"EndpointID":"{ID}","{key}":{text},"IPAddress":"10.0.0.2",
                    "GlobalIPv6Address":""}},"off":{{"EndpointID":"","Aliases":null}}}}}}"#
            );
            let settings: Settings = serde_json::from_str(&json).unwrap();
            let found = settings.checked(ID.parse().unwrap(), &"c3".parse().ok());
            assert_eq!(found.len(), 1, "a container that does not run has no endpoint");
            let endpoint = &found[&ID.parse().unwrap()];
            assert_eq!(endpoint.aliases, Some(vec!["front".parse().unwrap()]));
            assert_eq!(endpoint.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        }
    }

    fn listen() -> (tempfile::TempDir, UnixListener, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&path).unwrap();
        (dir, listener, path)
    }

    async fn answer(stream: &mut UnixStream, body: &str) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn all_lists_are_asked_for_on_one_connection() {
        let (_dir, listener, path) = listen();
        let engine = Engine::new(path);
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            for _ in 0..4 {
                answer(&mut stream, "[]").await;
            }
        };
        let ask = async {
            for _ in 0..2 {
                engine.census(|_| false).await.unwrap();
            }
        };
        tokio::join!(serve, ask);
        let ended = engine.census(|_| false).await;
        assert!(matches!(ended, Err(EngineError::Broken(_))), "{ended:?}");
    }

    #[tokio::test]
    async fn an_engine_that_ended_is_not_started_by_a_question() {
        let (_dir, listener, path) = listen();
        // As if this process were the service manager.
        let engine = Engine { manager: std::process::id() as i32, ..Engine::new(path) };
        let ((heard, mut hints), calls) = (watch::channel(Heard::Changed), Notify::new());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            answer(&mut stream, "{}").await;
            drop(stream);
            hints.wait_for(|heard| *heard == Heard::Ended).await.unwrap();
            tokio::time::pause();
            let connected = timeout(RETRY * 10, listener.accept()).await;
            assert!(connected.is_err(), "it is asked again");
            tokio::time::resume();
            loop {
                tokio::select! {
                    connected = listener.accept() => {
                        connected.unwrap();
                        return;
                    }
                    () = tokio::time::sleep(Duration::from_millis(1)) => calls.notify_waiters(),
                }
            }
        };
        tokio::select! {
            () = engine.watch(Duration::from_secs(60), &heard, &calls) => unreachable!("it watches for ever"),
            () = serve => {}
        }
    }

    #[test]
    fn endpoints_of_containers_that_start() {
        let endpoints = |containers: &str| {
            let json = format!(r#"{{"Id":"{ID}","Containers":{containers}}}"#);
            serde_json::from_str::<InspectedNetwork>(&json).unwrap().checked()
        };
        let starting = format!(r#"{{"ep-{ID}":{{"Name":"c1","EndpointID":"{ID}","MacAddress":""}}}}"#);
        assert_eq!(endpoints(&starting), BTreeSet::from([ID.parse().unwrap()]));
        assert!(endpoints("{}").is_empty() && endpoints("null").is_empty());
    }

    #[test]
    fn pools_of_whichever_driver() {
        let pools = |ipam: &str| {
            let json = format!(r#"{{"Id":"{ID}","Name":"blue","IPAM":{ipam}}}"#);
            serde_json::from_str::<ListedNetwork>(&json).unwrap().checked().pools
        };
        for driver in ["vswitch", "other"] {
            let ipam = format!(
                r#"{{"Driver":"{driver}","Options":null,"Config":[
                    {{"Subnet":"10.1.0.0/24","Gateway":"10.1.0.1","AuxiliaryAddresses":{{"a":"10.1.0.9"}}}}]}}"#
            );
            assert_eq!(pools(&ipam), ["10.1.0.0/24".parse::<IpNet>().unwrap()]);
        }
        assert!(pools(r#"{"Driver":"default","Config":null}"#).is_empty() && pools("null").is_empty());
    }
}
