//! Into a cluster and out of it: found, join, leave, restore, recover, and the start of the daemon.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep};
use vswitch_proto::api::{ClusterFounded, ClusterJoin, ClusterJoined, ClusterToken, JoinToken};
use vswitch_proto::command::Role;
use vswitch_proto::id::{ClusterId, NodeId, RequestId};
use vswitch_proto::peer::Payload;

use super::super::group::{Group, Settings};
use super::super::identity::{
    AUTHORITY, Authority, Identity, IdentityError, NEXT_AUTHORITY, PublicKey, Secret, load, make_private_dir,
    new_key, node_of, remove, save,
};
use super::super::log::{Birth, create};
use super::super::machine::{Machine, decode};
use super::super::runs::Run;
use super::super::store::Store;
use super::super::token::Token;
use super::super::transport::tls::Credentials;
use super::super::transport::wire::{Denied, Join, Joined, Manage, Refusal, Request, Response};
use super::super::transport::{self, LinkError, Transport};
use super::copies::{Copies, STARTS, next_start};
use super::engine::{Engine, Thread};
use super::error::ClusterError;
use super::member::{Member, Slot, Unsettled};
use super::snapshot::{self, SnapshotFileError};
use super::{ClusterHandle, Config, ELECTION_TICKS, seek, steward};
use crate::state::shared::Shared;

const LOG: &str = "log.redb";
const JOINING: &str = "joining";
/// While the cluster that is to be joined has no leader.
const JOIN_PATIENCE: Duration = Duration::from_secs(20);
const JOIN_RETRY: Duration = Duration::from_millis(200);
/// For the cluster's state to come, after a join.
const STATE_PATIENCE: Duration = Duration::from_secs(15);
const CALL: Duration = Duration::from_secs(5);
/// At the start. Nothing is forwarded meanwhile.
const CATCH_UP_PATIENCE: Duration = Duration::from_millis(500);
/// Of a node that listens for nobody.
const UNREACHED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A request to join whose answer may get lost: repeated, it gives the same node.
#[derive(Serialize, Deserialize)]
struct Joining {
    authority: [u8; 32],
    request: RequestId,
    key: Secret,
    public_key: PublicKey,
}

/// A member and all that keeps it going.
pub(super) struct Running {
    pub(super) member: Arc<Member>,
    thread: Option<Thread>,
    transport: Option<transport::Running>,
    tasks: JoinSet<()>,
}

impl Drop for Running {
    /// The thread ends by itself soon; [`Running::stop`] waits for it.
    fn drop(&mut self) {
        // A transport and what it serves hold each other.
        self.member.transport.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take() {
            let engine = self.member.engine.clone();
            std::thread::spawn(move || {
                engine.stop();
                // A panic of the thread was reported by itself.
                _ = thread.join();
            });
        }
    }
}

impl Running {
    async fn start(
        config: &Arc<Config>,
        identity: Identity,
        revision: watch::Sender<u64>,
    ) -> Result<Running, ClusterError> {
        let listen = config.listen.unwrap_or(UNREACHED);
        let failed = |source| ClusterError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let config = Arc::new(Config { listen: Some(bound), ..Config::clone(config) });
        let credentials = Credentials::new(Arc::new(identity.clone()), &config.clock)?;
        let authority = Authority::load(&config.dir)?;
        let group = open_group(&config, &identity).await?;
        let run = Run { starts: next_start(&config.dir)?, nonce: rand::random(), began: group.reached() };

        let slot = Slot::default();
        let outgoing = slot.clone();
        let send = move |message| {
            let transport = outgoing.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(transport) = transport.as_ref() {
                transport.send(message);
            }
        };
        let runtime = tokio::runtime::Handle::current();
        let send = move |message| {
            let _context = runtime.enter();
            send(message);
        };
        let (engine, thread) =
            Engine::start(group, config.tick, config.vitals.clone(), send).map_err(ClusterError::Thread)?;
        let member = Arc::new(Member {
            config: config.clone(),
            dir: config.dir.clone(),
            node: identity.node,
            engine,
            transport: slot.clone(),
            identity: RwLock::new(Arc::new(identity)),
            authority: RwLock::new(authority.map(Arc::new)),
            refused: RwLock::default(),
            refusals: tokio::sync::Notify::new(),
            managing: tokio::sync::Mutex::default(),
            unsettled: Unsettled::default(),
            clocks: Mutex::default(),
            copies: Copies::default(),
        });
        let (transport, going) =
            Transport::start(listener, config.address(), credentials, run, member.clone());
        *slot.write().unwrap_or_else(PoisonError::into_inner) = Some(transport);
        member.show_proof();
        let mut tasks = JoinSet::new();
        let vitals = || config.vitals.clone();
        tasks.spawn(vitals().watch("a cluster task", steward::follow(member.clone(), revision)));
        tasks.spawn(vitals().watch("a cluster task", steward::keep_group(member.clone())));
        tasks.spawn(vitals().watch("a cluster task", steward::keep_house(member.clone())));
        tasks.spawn(vitals().watch("a cluster task", seek::keep_looking(member.clone())));
        Ok(Running { member, thread: Some(thread), transport: Some(going), tasks })
    }

    /// Afterwards nothing listens, and its files are closed.
    async fn stop(mut self) {
        self.tasks.shutdown().await;
        let (engine, thread) = (self.member.engine.clone(), self.thread.take());
        if let Some(transport) = self.transport.take() {
            transport.stop().await;
        }
        drop(self);
        _ = spawn_blocking(move || {
            engine.stop();
            thread.map(Thread::join)
        })
        .await;
    }
}

async fn open_group(config: &Config, identity: &Identity) -> Result<Group<Shared>, ClusterError> {
    let path = config.dir.join(LOG);
    if !exists(&path)? {
        return Err(ClusterError::LogMissing(config.dir.clone()));
    }
    let settings =
        Settings { election_ticks: ELECTION_TICKS, limits: config.limits, ..Settings::new(rand::random()) };
    let opening = path.clone();
    let group = spawn_blocking(move || Group::open(Store::at(&opening), settings)).await;
    let mut group = group.map_err(|error| ClusterError::Thread(std::io::Error::other(error)))??;
    if group.node() != identity.node {
        return Err(IdentityError::Damaged(path).into());
    }
    if group.members().voters == [identity.node] {
        group.campaign();
    }
    Ok(group)
}

impl ClusterHandle {
    pub(super) async fn resume(&self) -> Result<(), ClusterError> {
        let _moving = self.0.moving.lock().await;
        let config = &self.0.config;
        match Identity::load(&config.dir)? {
            Some(identity) => {
                self.run(identity).await?;
                self.catch_up().await
            }
            // What is left of an attempt to found or join one.
            None => remove_files(&config.dir, false),
        }
    }

    /// What was agreed on in the last moment before the end is in the log, but not known to be agreed on. The others tell,
    /// if they are there.
    async fn catch_up(&self) -> Result<(), ClusterError> {
        let member = self.member()?;
        let last = member.view().status.last;
        _ = member.wait_for(Instant::now() + CATCH_UP_PATIENCE, |view| view.status.applied >= last).await;
        Ok(())
    }

    async fn run(&self, identity: Identity) -> Result<(), ClusterError> {
        let running = Running::start(&self.0.config, identity, self.0.revision.clone()).await?;
        *self.0.running.write().unwrap_or_else(PoisonError::into_inner) = Some(running);
        Ok(())
    }

    /// Waits until somebody leads, where there can be somebody, and not longer than `patience`.
    pub async fn wait_for_leader(&self, patience: Duration) {
        let Ok(member) = self.member() else { return };
        if member.fenced().is_none() {
            _ = member.wait_for(Instant::now() + patience, |view| view.status.leader.is_some()).await;
        }
    }

    /// Hands the leadership over, if this node has it, and stops: the end of the daemon.
    pub async fn retire(&self) {
        if let Ok(member) = self.member()
            && member.is_leader()
            && member.view().status.members.voters.len() > 1
        {
            // If nobody can take over, there is nothing to hand over.
            _ = member.lead(member.node, Manage::Transfer { to: None }).await;
        }
        self.stop().await;
    }

    /// Stops taking part for now. The others notice after a while.
    pub async fn stop(&self) {
        let running = self.0.running.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(running) = running {
            running.stop().await;
            self.0.revision.send_modify(|revision| *revision += 1);
        }
    }

    /// Founds a cluster with this node as its first, or makes known the one that it is alone in.
    pub async fn init(&self) -> Result<ClusterFounded, ClusterError> {
        if self.0.config.listen.is_none() {
            return Err(ClusterError::NotListening);
        }
        let Ok(member) = self.member() else { return self.found(Shared::new()).await };
        let identity = member.identity();
        if member.state().nodes().any(|node| node.id != member.node) {
            return Err(ClusterError::InACluster(identity.cluster));
        }
        let ClusterToken { token, address, .. } = self.token(Role::Voter).await?;
        Ok(ClusterFounded { cluster: identity.cluster, node: member.node, address, token })
    }

    /// Sees to it that this node is in a cluster, if only one of its own that nobody can join. To its end, also when the
    /// caller waits no longer: files without a member would be in the way of the next attempt.
    pub async fn found_alone(&self) -> Result<(), ClusterError> {
        if self.member().is_ok() {
            return Ok(());
        }
        let founder = self.clone();
        match tokio::spawn(async move { founder.found_for_network().await }).await {
            Ok(founded) => founded,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The daemon is stopping.
                Err(_) => Err(ClusterError::NotInACluster),
            },
        }
    }

    async fn found_for_network(&self) -> Result<(), ClusterError> {
        match self.found(Shared::new()).await {
            Ok(_) => {
                tracing::warn!(
                    "this node was in no cluster and has founded one, for an overlay network: others may join it, see \
                     vswitchctl cluster init; before it joins another one the network has to go"
                );
                Ok(())
            }
            // Somebody else was faster.
            Err(ClusterError::InACluster(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Founds a cluster with the networks of a snapshot. Nodes join anew. Where the snapshot has a node of this one's
    /// name, this one takes its place, with its leases.
    pub async fn restore(&self, bytes: &[u8]) -> Result<ClusterFounded, ClusterError> {
        self.found(snapshot::read(bytes)?.state).await
    }

    async fn found(&self, mut state: Shared) -> Result<ClusterFounded, ClusterError> {
        let _moving = self.0.moving.lock().await;
        let config = &self.0.config;
        if let Ok(member) = self.member() {
            return Err(ClusterError::InACluster(member.identity().cluster));
        }
        let now_ms = (config.clock)();
        let cluster = ClusterId(rand::random());
        let authority = Authority::found(cluster, now_ms)?;
        let node = snapshot::reduce(&mut state, None, &config.info(), authority.certificate(), now_ms)
            .map_err(SnapshotFileError::Misfit)?;
        let (key, public_key) = new_key()?;
        let issued = authority.sign(node, &public_key, now_ms)?;
        let certificate = authority.certificate().to_vec();
        let (trusted, cross) = (vec![certificate.clone()], Vec::new());
        let identity =
            Identity { cluster, incarnation: 0, node, issued, key, authority: certificate, cross, trusted };
        let token = authority.token(Role::Voter, state.token_epoch(Role::Voter)).reveal();

        make_private_dir(&config.dir)?;
        create(&config.dir.join(LOG), node, Birth::Founder { machine: state.to_bytes() })?;
        authority.save(&config.dir)?;
        identity.save(&config.dir)?;
        self.enter(identity).await?;
        let member = self.member()?;
        let deadline = Instant::now() + config.patience;
        if member.wait_for(deadline, |view| view.status.leader == Some(node)).await.is_none() {
            return Err(member.no_quorum());
        }
        Ok(ClusterFounded { cluster, node, address: config.address(), token: JoinToken(token) })
    }

    /// Starts as a member, or removes what was just written.
    async fn enter(&self, identity: Identity) -> Result<(), ClusterError> {
        let entered = self.run(identity).await;
        if entered.is_err() {
            remove_files(&self.0.config.dir, true)?;
        }
        entered
    }

    /// Joins the cluster that the token is of. When this returns, its state is here.
    pub async fn join(&self, request: &ClusterJoin) -> Result<ClusterJoined, ClusterError> {
        let _moving = self.0.moving.lock().await;
        let config = &self.0.config;
        let token: Token = request.token.0.parse()?;
        if config.listen.is_none() {
            return Err(ClusterError::NotListening);
        }
        self.check_free(&token, request.discard)?;
        let (joined, joining) = self.ask_in(request, &token).await?;
        check_joined(&joined, &token)?;
        self.stop().await;
        remove_files(&config.dir, true)?;

        let Joined { cluster, incarnation, node, issued, authority, cross, trusted, nodes } = joined;
        let key = joining.key;
        let identity = Identity { cluster, incarnation, node, issued, key, authority, cross, trusted };
        make_private_dir(&config.dir)?;
        create(&config.dir.join(LOG), node, Birth::Joiner)?;
        identity.save(&config.dir)?;
        self.enter(identity).await?;
        self.arrive(&nodes).await?;
        Ok(ClusterJoined { cluster, node, role: token.role })
    }

    async fn ask_in(&self, request: &ClusterJoin, token: &Token) -> Result<(Joined, Joining), ClusterError> {
        let config = &self.0.config;
        let mut is_first = true;
        loop {
            let joining = self.joining(token.authority)?;
            let outcome = ask_to_join(config, &request.addresses, token, &joining).await;
            if let Err(ClusterError::Denied(denied)) = &outcome {
                // The answer to this request is final: the next one has to be another.
                remove(&config.dir.join(JOINING))?;
                // An earlier attempt made a node, whose answer was lost and which was removed since.
                if is_first && matches!(denied, Denied::NotAMember(_)) {
                    is_first = false;
                    continue;
                }
            }
            return Ok((outcome?, joining));
        }
    }

    /// This node is in no cluster, or in one of its own that it may give up.
    fn check_free(&self, token: &Token, discard: bool) -> Result<(), ClusterError> {
        let Ok(member) = self.member() else { return Ok(()) };
        let (identity, state) = (member.identity(), member.state());
        if identity.authority_digest() == token.authority || state.nodes().any(|node| node.id != member.node)
        {
            return Err(ClusterError::InACluster(identity.cluster));
        }
        let networks: Vec<_> = state.networks().map(|network| network.name.clone()).collect();
        if networks.is_empty() || discard { Ok(()) } else { Err(ClusterError::HasNetworks(networks)) }
    }

    fn joining(&self, authority: [u8; 32]) -> Result<Joining, ClusterError> {
        let dir = &self.0.config.dir;
        if let Some(joining) = load::<Joining>(&dir.join(JOINING))?
            && joining.authority == authority
        {
            return Ok(joining);
        }
        let (key, public_key) = new_key()?;
        let joining = Joining { authority, request: RequestId(rand::random()), key, public_key };
        save(dir, JOINING, &joining)?;
        Ok(joining)
    }

    /// Waits for the state, which the leader sends. If it cannot, the join is taken back.
    async fn arrive(&self, nodes: &[(NodeId, SocketAddr)]) -> Result<(), ClusterError> {
        let member = self.member()?;
        if let Some(transport) = member.transport() {
            transport.set_addresses(nodes.iter().copied().collect());
        }
        let deadline = Instant::now() + STATE_PATIENCE;
        let here = |view: &super::engine::View| view.state.node(member.node).is_some();
        if member.wait_for(deadline, here).await.is_some() {
            return Ok(());
        }
        for (node, _) in nodes {
            let request = Request::Manage(Manage::Remove { node: member.node, force: true });
            if let Ok(Response::Done) = member.call(*node, request, CALL).await {
                break;
            }
        }
        self.stop().await;
        remove_files(&self.0.config.dir, true)?;
        Err(ClusterError::NotReached(self.0.config.address()))
    }

    /// Leaves the cluster, for good: its leases are released. `force`: without asking the others.
    pub async fn leave(&self, force: bool) -> Result<(), ClusterError> {
        let _moving = self.0.moving.lock().await;
        let member = self.member()?;
        let is_last = member.state().nodes().all(|node| node.id == member.node);
        if !force && !is_last && member.fenced().is_none() {
            let leave = Manage::Remove { node: member.node, force: true };
            match member.manage(leave).await {
                // Once it is removed, nobody answers it any more.
                Ok(_) | Err(ClusterError::Fenced(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.stop().await;
        remove_files(&self.0.config.dir, true)
    }
}

/// Asks one node after the other, and whom they point to.
async fn ask_to_join(
    config: &Config,
    addresses: &[SocketAddr],
    token: &Token,
    joining: &Joining,
) -> Result<Joined, ClusterError> {
    let deadline = Instant::now() + JOIN_PATIENCE;
    let mut queue: VecDeque<SocketAddr> = addresses.iter().copied().collect();
    let mut in_vain = 0;
    let mut last = None;
    loop {
        let Some(address) = queue.pop_front() else {
            if in_vain >= addresses.len() {
                return Err(last.map_or(ClusterError::NoAddress, ClusterError::Link));
            }
            (in_vain, queue) = (0, addresses.iter().copied().collect());
            continue;
        };
        let request = Join {
            request: joining.request,
            role: token.role,
            secret: token.secret,
            public_key: joining.public_key,
            info: config.info(),
        };
        match transport::join(address, token.authority, request, &config.clock).await {
            Ok(Response::Joined(joined)) => return Ok(*joined),
            Ok(Response::Denied(denied)) => return Err(denied.into()),
            Ok(Response::NotLeader { leader: Some((_, leader)) }) if Instant::now() < deadline => {
                queue.push_front(leader);
            }
            Ok(Response::NotLeader { .. } | Response::Busy | Response::Unsettled) => {}
            Ok(_) => return Err(ClusterError::Unexpected),
            Err(error @ (LinkError::Version { .. } | LinkError::Foreign(_))) => return Err(error.into()),
            Err(error) => {
                in_vain += 1;
                last = Some(error);
                continue;
            }
        }
        if Instant::now() >= deadline {
            return Err(ClusterError::NobodyLeads { address });
        }
        sleep(JOIN_RETRY).await;
    }
}

/// The answer came from the right cluster; what it says has to fit together, too.
fn check_joined(joined: &Joined, token: &Token) -> Result<(), ClusterError> {
    use sha2::{Digest as _, Sha256};
    let is_pinned = Sha256::digest(&joined.authority)[..] == token.authority;
    let named = node_of(&joined.issued.certificate.as_slice().into(), joined.cluster);
    if is_pinned && named == Some(joined.node) { Ok(()) } else { Err(IdentityError::Foreign.into()) }
}

/// Goes on with this node alone from what it has, after the others are lost for good. The daemon must not be running.
///
/// What was on the disk of this node counts, also what it did not know to be agreed on: it may have been answered.
/// The others have to join anew; whoever of them comes back with what it had is refused. Without an address in
/// `config` the node stays where it was.
pub fn recover(config: &Config) -> Result<NodeId, ClusterError> {
    let dir = &config.dir;
    let mut identity = Identity::load(dir)?.ok_or(ClusterError::NotInACluster)?;
    let path = dir.join(LOG);
    let mut state = everything(&path)?;
    let known = state.node(identity.node).map(|node| node.info.clone());
    let info = match (config.listen, known) {
        (Some(_), _) => config.info(),
        (None, Some(known)) => known,
        (None, None) => return Err(ClusterError::Fenced(Refusal::Fenced(identity.node))),
    };
    let authority = own_authority(dir, &state)?;
    let now_ms = (config.clock)();
    let reduced = snapshot::reduce(&mut state, Some(identity.node), &info, authority.certificate(), now_ms);
    reduced.map_err(SnapshotFileError::Misfit)?;
    authority.save(dir)?;

    let recovered = dir.join("log.recovered");
    remove(&recovered)?;
    create(&recovered, identity.node, Birth::Founder { machine: state.to_bytes() })?;
    // From here on the others are strangers.
    identity.incarnation += 1;
    identity.save(dir)?;
    let io = |source| IdentityError::Io { path: path.clone(), source };
    let kept = dir.join("log.before-recovery");
    remove(&kept)?;
    std::fs::hard_link(&path, &kept).map_err(io)?;
    std::fs::rename(&recovered, &path).map_err(io)?;
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    Ok(identity.node)
}

/// The authority that signs by the state, or else the former one, whose key this node has.
fn own_authority(dir: &Path, state: &Shared) -> Result<Authority, ClusterError> {
    let signs = |authority: &Authority| {
        state.authorities().is_some_and(|authorities| authorities.current == authority.certificate())
    };
    match (Authority::load(dir)?, Authority::load_next(dir)?.filter(signs)) {
        (_, Some(next)) => Ok(next),
        (Some(authority), None) => Ok(authority),
        (None, None) => Err(ClusterError::NoAuthority),
    }
}

/// The state after all that is in the log.
fn everything(path: &Path) -> Result<Shared, ClusterError> {
    let store = Store::at(path);
    let (_log, recovered) = store.open()?;
    let (mut state, applied) = match &recovered.snapshot {
        Some(snapshot) => {
            (Shared::from_bytes(&snapshot.machine).map_err(SnapshotFileError::from)?, snapshot.index)
        }
        None => (Shared::new(), 0),
    };
    for entry in recovered.entries.iter().filter(|entry| entry.index > applied) {
        if let Payload::Command(bytes) = &entry.payload {
            let envelope = decode(bytes).map_err(|_| store.corrupt())?;
            // A rejection is an outcome like another.
            _ = Machine::apply(&mut state, &envelope);
        }
    }
    Ok(state)
}

/// The identity goes first: without it, the rest is what is left of an attempt.
fn remove_files(dir: &Path, also_joining: bool) -> Result<(), ClusterError> {
    for name in [
        "identity",
        STARTS,
        seek::WHEREABOUTS,
        AUTHORITY,
        NEXT_AUTHORITY,
        LOG,
        "log.redb.new",
        "log.recovered",
        "log.recovered.new",
    ] {
        remove(&dir.join(name))?;
    }
    if also_joining {
        remove(&dir.join(JOINING))?;
    }
    Ok(())
}

fn exists(path: &Path) -> Result<bool, ClusterError> {
    path.try_exists().map_err(|source| IdentityError::Io { path: path.into(), source }.into())
}
