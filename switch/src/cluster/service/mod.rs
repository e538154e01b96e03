//! The cluster as the daemon sees it: in or out of one, and if in, what it holds.
//!
//! # Theory of operation
//! A daemon that was never told of a cluster runs none of this: [`ClusterHandle::state`] is empty and changes are
//! refused. Founding or joining a cluster starts a member: the group on a thread of its own (`engine`), the transport
//! (`answer` is what it serves), and three tasks (`steward`). Leaving stops them and removes what was on the disk.
//!
//! Any node takes any request and asks the leader for what only a leader can do; an answer means that the change is
//! durable on a majority. Without one there is [`ClusterError::NoQuorum`], in time, and [`ClusterHandle::state`] goes
//! on to give what was applied last.
//!
//! # On the disk
//! In the cluster's directory: `identity` and `authority` (see [`identity`](super::identity)), `log.redb`, and while
//! a join is under way `joining`. The identity is written last and removed first: without it, there is no member, and
//! a log that is found is what is left of an attempt.
//!
//! Modules in reading order: `member`, `engine`, `answer`, `manage`, `steward`, `seek`, `copies`, `authority`, `lifecycle`, `report`,
//! `health`, `snapshot`.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use vswitch_proto::address::HostPort;
use vswitch_proto::api::{AuthorityRotation, ClusterToken, JoinToken, Problem};
use vswitch_proto::command::{NodeInfo, Role, SharedChange};
use vswitch_proto::id::{Name, NodeId, RequestId};

use super::group::Limits;
use super::token::hex;
use super::transport::tls::Clock;
use super::transport::wire::{Manage, Response, Rotated};
use crate::problems::Problems;
use crate::state::shared::{Applied, Shared};
use crate::vitals::Vitals;

mod answer;
mod authority;
mod copies;
mod engine;
mod error;
mod health;
mod lifecycle;
mod manage;
mod member;
mod report;
mod seek;
mod snapshot;
mod steward;
#[cfg(test)]
mod tests;

pub use error::ClusterError;
use lifecycle::Running;
pub use lifecycle::recover;
use member::Member;
pub use report::inspect;
pub use snapshot::SnapshotFileError;

/// How long a change waits for a quorum.
pub const PATIENCE: Duration = Duration::from_secs(5);
pub const TICK: Duration = Duration::from_millis(100);
/// Ticks without a leader before an election, at least.
const ELECTION_TICKS: usize = 8;
/// A change of the membership takes several steps.
const MANAGE_PATIENCE: Duration = Duration::from_secs(15);
/// Of one step of it.
const STEP_PATIENCE: Duration = Duration::from_secs(4);

/// How this node takes part.
#[derive(Clone)]
pub struct Config {
    /// `D/cluster`; made when there is something to put there.
    pub dir: PathBuf,
    pub name: Name,
    /// Where other nodes are answered. `None`: nowhere, this node can be in no cluster but one of its own.
    pub listen: Option<SocketAddr>,
    /// Where other nodes reach this one, if that is not `listen`.
    pub advertise: Option<SocketAddr>,
    /// Where VXLAN packets are sent and received, if that is not at the address of `advertise`.
    pub vtep: Option<IpAddr>,
    pub version: String,
    pub patience: Duration,
    pub tick: Duration,
    pub limits: Limits,
    /// Milliseconds since the Unix epoch.
    pub clock: Clock,
    /// Where some node of the cluster may be found, if none is where the state says.
    pub hints: Vec<HostPort>,
    /// Faults of this node, told to other nodes that ask.
    pub problems: Arc<Problems>,
    /// Told when a part of a member panics.
    pub vitals: Vitals,
}

/// Of a node that is alone in its cluster and listens for nobody.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7946);

impl Config {
    pub fn new(dir: PathBuf, name: Name) -> Config {
        Config {
            dir,
            name,
            listen: None,
            advertise: None,
            vtep: None,
            version: env!("CARGO_PKG_VERSION").into(),
            patience: PATIENCE,
            tick: TICK,
            limits: Limits::default(),
            clock: Arc::new(now_ms),
            hints: Vec::new(),
            problems: Arc::default(),
            vitals: Vitals::default(),
        }
    }

    /// Where others reach this node.
    fn address(&self) -> SocketAddr {
        self.advertise.or(self.listen).unwrap_or(NOWHERE)
    }

    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: self.name.clone(),
            address: self.address(),
            vtep: self.vtep.unwrap_or_else(|| self.address().ip()),
            version: self.version.clone(),
            certificate: None,
        }
    }
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}

/// The daemon's way to the cluster. Clones are the same one.
#[derive(Clone)]
pub struct ClusterHandle(Arc<Inner>);

struct Inner {
    config: Arc<Config>,
    running: RwLock<Option<Running>>,
    /// Held while this node enters or leaves a cluster.
    moving: tokio::sync::Mutex<()>,
    revision: watch::Sender<u64>,
    nothing: Arc<Shared>,
}

impl ClusterHandle {
    /// Takes part again in the cluster that this node is in, if any.
    pub async fn start(config: Config) -> Result<ClusterHandle, ClusterError> {
        let handle = ClusterHandle(Arc::new(Inner {
            config: Arc::new(config),
            running: RwLock::default(),
            moving: tokio::sync::Mutex::default(),
            revision: watch::Sender::new(0),
            nothing: Arc::new(Shared::new()),
        }));
        handle.resume().await?;
        Ok(handle)
    }

    /// What was applied here last; empty in no cluster. Never waits.
    pub fn state(&self) -> Arc<Shared> {
        self.member().map_or_else(|_| self.0.nothing.clone(), |member| member.state())
    }

    /// The state and this node's number, while this node may act by it: not in no cluster, nor once it was removed.
    pub fn in_effect(&self) -> Option<(Arc<Shared>, NodeId)> {
        let member = self.member().ok()?;
        member.is_in_effect().then(|| (member.state(), member.node))
    }

    /// Changes whenever [`ClusterHandle::state`] or [`ClusterHandle::in_effect`] does.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// Faults of this node; the daemon sets them.
    pub fn problems(&self) -> &Arc<Problems> {
        &self.0.config.problems
    }

    /// All faults of this node at present, those in the cluster included.
    pub fn faults(&self) -> Vec<Problem> {
        self.member().map_or_else(|_| self.problems().list(), |member| member.facts().problems)
    }

    /// This node's number in its cluster.
    pub fn node(&self) -> Option<NodeId> {
        self.member().ok().map(|member| member.node)
    }

    /// Makes a change in the name of this node; on any node. It is in [`ClusterHandle::state`] when this returns. After
    /// [`ClusterError::NoQuorum`] it may still happen: ask again under the same id.
    pub async fn propose(&self, change: SharedChange, request: RequestId) -> Result<Applied, ClusterError> {
        self.member()?.propose(change, request).await
    }

    /// The state with everything that was answered to anybody before this was called.
    pub async fn linearizable_read(&self) -> Result<Arc<Shared>, ClusterError> {
        self.member()?.read().await
    }

    /// Lets a learner vote.
    pub async fn promote(&self, node: &str) -> Result<(), ClusterError> {
        let node = self.find(node)?;
        self.manage(Manage::Promote(node)).await
    }

    pub async fn demote(&self, node: &str) -> Result<(), ClusterError> {
        let node = self.find(node)?;
        self.manage(Manage::Demote(node)).await
    }

    /// For good. Its leases are released.
    pub async fn remove(&self, node: &str, force: bool) -> Result<(), ClusterError> {
        let node = self.find(node)?;
        self.manage(Manage::Remove { node, force }).await
    }

    /// To another voter, or to this one.
    pub async fn transfer_leader(&self, to: Option<&str>) -> Result<(), ClusterError> {
        let to = to.map(|node| self.find(node)).transpose()?;
        self.manage(Manage::Transfer { to }).await
    }

    /// Of a node that moved while there was no quorum for it to say so.
    pub async fn update_address(&self, node: &str, address: SocketAddr) -> Result<(), ClusterError> {
        let node = self.find(node)?;
        let info = self.state().node(node).map(|node| NodeInfo { address, ..node.info.clone() });
        let info = info.ok_or_else(|| ClusterError::NoSuchNode(node.0.to_string()))?;
        self.propose(SharedChange::UpdateNode { node, info }, RequestId(rand::random())).await?;
        Ok(())
    }

    pub async fn token(&self, role: Role) -> Result<ClusterToken, ClusterError> {
        self.ask_for_token(role, Manage::ShowToken(role)).await
    }

    /// The tokens of the role so far are refused from then on.
    pub async fn rotate_token(&self, role: Role) -> Result<ClusterToken, ClusterError> {
        let asked = self.member()?.asked_now(RequestId(rand::random()));
        self.ask_for_token(role, Manage::RotateToken { role, asked }).await
    }

    /// Replaces the authority that signs the certificates of nodes, and with it all join tokens. Nodes get new
    /// certificates by themselves; the former ones are trusted until all have, or for a week, or until
    /// [`ClusterHandle::drop_former_authority`].
    pub async fn rotate_authority(&self) -> Result<AuthorityRotation, ClusterError> {
        let asked = self.member()?.asked_now(RequestId(rand::random()));
        self.ask_for_rotation(Manage::RotateAuthority { asked }).await
    }

    /// Nodes that have no certificate of the present authority yet have to join again.
    pub async fn drop_former_authority(&self) -> Result<AuthorityRotation, ClusterError> {
        self.ask_for_rotation(Manage::DropAuthority).await
    }

    async fn ask_for_rotation(&self, manage: Manage) -> Result<AuthorityRotation, ClusterError> {
        let member = self.member()?;
        let Response::Rotated(Rotated { generation, digest, waiting, former_is_trusted }) =
            member.manage(manage).await?
        else {
            return Err(ClusterError::Unexpected);
        };
        let state = member.state();
        let name = |id: NodeId| state.node(id).map(|node| node.info.name.clone());
        let waiting = waiting.into_iter().filter_map(name).collect();
        Ok(AuthorityRotation { generation, authority: hex(&digest), waiting, former_is_trusted })
    }

    async fn ask_for_token(&self, role: Role, manage: Manage) -> Result<ClusterToken, ClusterError> {
        match self.member()?.manage(manage).await? {
            Response::Token(text) => {
                Ok(ClusterToken { role, token: JoinToken(text), address: self.0.config.address() })
            }
            _ => Err(ClusterError::Unexpected),
        }
    }

    async fn manage(&self, manage: Manage) -> Result<(), ClusterError> {
        match self.member()?.manage(manage).await? {
            Response::Done => Ok(()),
            _ => Err(ClusterError::Unexpected),
        }
    }

    /// A node by its name or number.
    fn find(&self, node: &str) -> Result<NodeId, ClusterError> {
        let state = self.member()?.state();
        let number = node.parse().ok().map(NodeId);
        let mut nodes = state.nodes();
        let found = nodes.find(|found| found.info.name.as_str() == node || Some(found.id) == number);
        found.map(|found| found.id).ok_or_else(|| ClusterError::NoSuchNode(node.into()))
    }

    fn member(&self) -> Result<Arc<Member>, ClusterError> {
        let running = self.0.running.read().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|running| running.member.clone()).ok_or(ClusterError::NotInACluster)
    }
}
