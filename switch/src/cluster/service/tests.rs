//! Clusters of real services: TLS over loopback, logs on the disk.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use vswitch_proto::api::{ClusterJoin, ErrorKind, Membership, NodeState};
use vswitch_proto::command::{CreateNetwork, Driver};
use vswitch_proto::id::NetworkId;

use super::super::token::Token;
use super::super::transport::wire::{Denied, Refusal, Request};
use super::*;

mod clocks;
mod copies;
mod learner;
mod moves;
mod rotation;

const LONG: Duration = Duration::from_secs(60);
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// An address that no other test has: of the process, and of the node.
fn address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed)], 7946))
}

/// A host with a directory, and a daemon's worth of cluster on it.
struct Host {
    _dir: TempDir,
    config: Config,
    handle: Option<ClusterHandle>,
}

impl std::ops::Deref for Host {
    type Target = ClusterHandle;

    fn deref(&self) -> &ClusterHandle {
        self.handle.as_ref().unwrap()
    }
}

impl Host {
    async fn new(name: &str) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            listen: Some(address()),
            tick: Duration::from_millis(50),
            ..Config::new(dir.path().join("cluster"), name.parse().unwrap())
        };
        let handle = Some(ClusterHandle::start(config.clone()).await.unwrap());
        Host { _dir: dir, config, handle }
    }

    fn address(&self) -> SocketAddr {
        self.config.address()
    }

    /// As a crash: whatever was not on the disk is gone.
    async fn stop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop().await;
        }
    }

    async fn start(&mut self) {
        self.handle = Some(ClusterHandle::start(self.config.clone()).await.unwrap());
    }

    async fn network(&self, name: &str) -> Result<NetworkId, ClusterError> {
        let id = NetworkId(rand::random());
        self.propose(SharedChange::CreateNetwork(network(id, name)), RequestId(rand::random())).await?;
        Ok(id)
    }

    fn networks(&self) -> Vec<String> {
        self.state().networks().map(|network| network.name.to_string()).collect()
    }
}

fn network(id: NetworkId, name: &str) -> CreateNetwork {
    CreateNetwork {
        id,
        name: name.parse().unwrap(),
        driver: Driver::Overlay,
        pools: Vec::new(),
        internal: false,
        ipv6: false,
        options: Default::default(),
        labels: Default::default(),
        occupied: Vec::new(),
        builtin: false,
    }
}

async fn eventually(what: &str, mut is_met: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_met().await {
        assert!(Instant::now() < deadline, "{what} did not happen");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_founded_though_nobody_waits_for_it() {
    let host = Host::new("host1").await;
    // Polled once: it has begun, and is given up.
    tokio::select! {
        biased;
        _ = host.found_alone() => {}
        () = std::future::ready(()) => {}
    }
    eventually("the cluster is founded", async || host.found_alone().await.is_ok()).await;
    eventually("it makes networks", async || host.network("blue").await.is_ok()).await;
    assert_eq!(host.networks(), ["blue"]);
}

fn join(at: &Host, token: &JoinToken) -> ClusterJoin {
    ClusterJoin { addresses: vec![at.address()], token: token.clone(), discard: false }
}

/// Of so many nodes that all vote.
async fn cluster(count: usize) -> Vec<Host> {
    let mut hosts = vec![Host::new("host1").await];
    let founded = hosts[0].init().await.unwrap();
    for at in 2..=count {
        let host = Host::new(&format!("host{at}")).await;
        let joined = host.join(&join(&hosts[0], &founded.token)).await.unwrap();
        assert_eq!((joined.cluster, joined.node), (founded.cluster, NodeId(at as u64)));
        hosts.push(host);
    }
    voters(&hosts, count).await;
    hosts
}

async fn voters(hosts: &[Host], count: usize) {
    for host in hosts.iter().filter(|host| host.handle.is_some()) {
        eventually("the promotion", async || host.status(true).await.voters.len() == count).await;
    }
}

async fn leader(hosts: &[Host]) -> usize {
    let deadline = Instant::now() + LONG;
    loop {
        for (at, host) in hosts.iter().enumerate().filter(|(_, host)| host.handle.is_some()) {
            if host.member().is_ok_and(|member| member.is_leader()) {
                return at;
            }
        }
        assert!(Instant::now() < deadline, "nobody leads");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_there_is_nothing() {
    let host = Host::new("host1").await;
    assert_eq!(host.status(false).await.membership, Membership::Alone);
    assert_eq!(host.state().nodes().count(), 0);
    assert!(!host.config.dir.exists());
    let refused = host.network("n1").await.unwrap_err();
    assert!(matches!(refused, ClusterError::NotInACluster), "{refused}");
    assert!(std::net::TcpListener::bind(host.address()).is_ok(), "nothing listens");
    let silent = Config { listen: None, ..host.config.clone() };
    let silent = ClusterHandle::start(silent).await.unwrap();
    assert!(matches!(silent.init().await, Err(ClusterError::NotListening)));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hosts_agree_and_survive_their_leader() {
    let mut hosts = cluster(3).await;
    let mut revisions = hosts[2].watch();
    revisions.mark_unchanged();
    // From a follower; it is there when the answer is.
    hosts[1].network("n1").await.unwrap();
    assert_eq!(hosts[1].networks(), ["n1"]);
    revisions.changed().await.unwrap();
    let read = hosts[2].linearizable_read().await.unwrap();
    assert_eq!(read.networks().count(), 1);
    let hash = hosts[2].hash().await.unwrap();
    assert!(hash.is_equal && hash.nodes.len() == 3, "{hash:?}");
    let nodes = hosts[0].nodes().await.unwrap();
    assert!(nodes.iter().all(|node| node.state == NodeState::Ready), "{nodes:?}");
    let health = hosts[1].health().await.unwrap();
    assert!(health.has_quorum && health.failure_tolerance == 1 && health.problems.is_empty(), "{health:?}");

    let old = leader(&hosts).await;
    hosts[old].stop().await;
    let next = (old + 1) % 3;
    hosts[next].network("n2").await.unwrap();
    let health = hosts[next].health().await.unwrap();
    assert!(health.has_quorum);
    eventually("the node to be shown as down", async || {
        let nodes = hosts[next].nodes().await.unwrap();
        nodes.iter().filter(|node| node.state == NodeState::Down).count() == 1
    })
    .await;

    hosts[old].start().await;
    eventually("the state", async || hosts[old].networks().len() == 2).await;
    let hash = hosts[old].hash().await.unwrap();
    assert!(hash.is_equal, "{hash:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_restarts_and_everything_is_there() {
    let mut hosts = cluster(3).await;
    hosts[0].network("n1").await.unwrap();
    for host in &mut hosts {
        host.stop().await;
    }
    for host in &mut hosts {
        host.start().await;
    }
    hosts[2].network("n2").await.unwrap();
    assert_eq!(hosts[2].linearizable_read().await.unwrap().networks().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_applied_once() {
    let hosts = cluster(2).await;
    let request = RequestId([5; 16]);
    let change = SharedChange::CreateNetwork(network(NetworkId([1; 32]), "n1"));
    let outcomes = hosts.iter().map(|host| host.propose(change.clone(), request));
    for outcome in outcomes {
        assert!(matches!(outcome.await, Ok(Applied::NetworkCreated { .. })));
    }
    // What the state rejects comes as its rejection, from a follower too.
    for host in &hosts {
        let rejected = host.network("n1").await.unwrap_err();
        assert_eq!(rejected.kind(), ErrorKind::Conflict, "{rejected}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_changes_fail_in_time_and_the_state_stays() {
    let mut hosts = cluster(3).await;
    hosts[0].network("n1").await.unwrap();
    eventually("the state", async || hosts[1].networks() == ["n1"]).await;
    hosts[0].stop().await;
    hosts[2].stop().await;
    let error = hosts[1].network("n2").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoQuorum, "{error}");
    let error = hosts[1].linearizable_read().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoQuorum, "{error}");
    assert_eq!(hosts[1].networks(), ["n1"]);
    let status = hosts[1].status(false).await;
    assert_eq!((status.confirmed, status.leader), (Some(false), None));
    assert!(status.reason.unwrap().contains("no quorum"));
    hosts[0].start().await;
    hosts[1].network("n3").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_is_fenced_and_may_join_again() {
    let mut hosts = cluster(3).await;
    let founded = hosts[0].token(Role::Voter).await.unwrap();
    let error = hosts[0].remove("host3", false).await.unwrap_err();
    assert!(error.to_string().contains("can be reached"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    hosts[2].stop().await;
    hosts[0].remove("host3", true).await.unwrap();
    assert_eq!(hosts[0].state().nodes().count(), 2);
    voters(&hosts, 2).await;

    hosts[2].start().await;
    eventually("the fence", async || hosts[2].status(true).await.membership == Membership::Fenced).await;
    let error = hosts[2].network("n1").await.unwrap_err();
    assert!(matches!(error, ClusterError::Fenced(Refusal::Fenced(NodeId(3)))), "{error}");
    hosts[2].leave(false).await.unwrap();
    let joined = hosts[2].join(&join(&hosts[1], &founded.token)).await.unwrap();
    assert_eq!(joined.node, NodeId(4));
    hosts[2].network("n1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_leave_the_leader_too() {
    let hosts = cluster(3).await;
    let leading = leader(&hosts).await;
    hosts[leading].leave(false).await.unwrap();
    assert!(!hosts[leading].config.dir.join("identity").exists());
    let rest: Vec<&Host> = (0..3).filter(|at| *at != leading).map(|at| &hosts[at]).collect();
    rest[0].network("n1").await.unwrap();
    rest[1].leave(false).await.unwrap();
    eventually("one node to be left", async || rest[0].status(true).await.voters.len() == 1).await;
    rest[0].network("n2").await.unwrap();
    rest[0].leave(false).await.unwrap();
    assert_eq!(rest[0].status(true).await.membership, Membership::Alone);
    rest[0].init().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_for_one_cluster_one_role_and_until_rotated() {
    let hosts = cluster(1).await;
    let other = cluster(1).await;
    let fresh = Host::new("fresh").await;
    let old = hosts[0].token(Role::Learner).await.unwrap().token;
    let foreign = other[0].token(Role::Voter).await.unwrap().token;
    let error = fresh.join(&join(&hosts[0], &foreign)).await.unwrap_err();
    assert!(error.to_string().contains("no certificate of this cluster"), "{error}");
    let forged = Token { role: Role::Voter, ..old.0.parse().unwrap() };
    let error = fresh.join(&join(&hosts[0], &JoinToken(forged.reveal()))).await.unwrap_err();
    assert!(error.to_string().contains("wrong or was rotated"), "{error}");

    let new = hosts[0].rotate_token(Role::Learner).await.unwrap().token;
    assert_ne!(old, new);
    let error = fresh.join(&join(&hosts[0], &old)).await.unwrap_err();
    assert!(error.to_string().contains("wrong or was rotated"), "{error}");
    assert_eq!(hosts[0].state().nodes().count(), 1);
    assert!(!format!("{new:?}{error:?}").contains(&new.0));
    fresh.join(&join(&hosts[0], &new)).await.unwrap();
    eventually("the learner", async || hosts[0].status(true).await.learners == [NodeId(2)]).await;

    // A learner has no key of the authority and no say in the membership.
    assert!(!fresh.config.dir.join("authority").exists());
    let error = fresh.token(Role::Voter).await.unwrap_err();
    assert!(error.to_string().contains("only voters"), "{error}");
    let grab = SharedChange::SetRole { node: NodeId(2), role: Role::Voter };
    let error = fresh.propose(grab, RequestId([1; 16])).await.unwrap_err();
    assert!(matches!(error, ClusterError::Denied(_)), "{error}");
    hosts[0].promote("fresh").await.unwrap();
    eventually("the key", async || fresh.config.dir.join("authority").exists()).await;
    fresh.token(Role::Voter).await.unwrap();
    hosts[0].demote("fresh").await.unwrap();
    eventually("the end of the key", async || !fresh.config.dir.join("authority").exists()).await;
    let error = hosts[0].demote("host1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_twice_and_with_networks_of_its_own() {
    let hosts = cluster(2).await;
    let token = hosts[0].token(Role::Voter).await.unwrap().token;
    let error = hosts[1].join(&join(&hosts[0], &token)).await.unwrap_err();
    assert!(matches!(error, ClusterError::InACluster(_)), "{error}");
    assert!(matches!(hosts[1].init().await, Err(ClusterError::InACluster(_))));

    // A name that is taken is free once its node is removed; the same host may try again.
    let third = Host::new("host2").await;
    let error = third.join(&join(&hosts[0], &token)).await.unwrap_err();
    assert!(error.to_string().contains("host2") && error.kind() == ErrorKind::Conflict, "{error}");
    hosts[1].leave(false).await.unwrap();
    third.join(&join(&hosts[0], &token)).await.unwrap();
    hosts[1].join(&join(&hosts[0], &token)).await.unwrap_err();

    let own = Host::new("own").await;
    own.init().await.unwrap();
    own.network("mine").await.unwrap();
    let mut request = join(&third, &token);
    let error = own.join(&request).await.unwrap_err();
    assert!(error.to_string().contains("mine") && error.kind() == ErrorKind::Conflict, "{error}");
    request.discard = true;
    own.join(&request).await.unwrap();
    assert_eq!(own.state().nodes().count(), 3);
    assert!(own.networks().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_is_not_broken_by_a_removal() {
    let mut hosts = cluster(3).await;
    hosts[2].stop().await;
    eventually("the node to be down", async || {
        hosts[0].nodes().await.unwrap().iter().any(|node| node.state == NodeState::Down)
    })
    .await;
    let error = hosts[0].remove("host2", true).await.unwrap_err();
    assert!(error.to_string().contains("break the quorum"), "{error}");
    assert_eq!(hosts[0].state().nodes().count(), 3);
    hosts[1].network("n1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leadership_is_handed_over() {
    let hosts = cluster(3).await;
    for name in ["host2", "host3", "host1"] {
        hosts[0].transfer_leader(Some(name)).await.unwrap();
        eventually("the new leader", async || {
            hosts[1].status(true).await.leader_name.is_some_and(|leader| leader.as_str() == name)
        })
        .await;
    }
    hosts[0].transfer_leader(None).await.unwrap();
    let leading = leader(&hosts).await;
    assert_ne!(leading, 0);
    hosts[leading].retire().await;
    // Nobody had to notice: the next one leads already.
    let next = hosts[0].status(true).await.leader;
    assert!(next.is_some_and(|next| next.0 != leading as u64 + 1), "{next:?}");
    assert!(matches!(hosts[0].transfer_leader(Some("nobody")).await, Err(ClusterError::NoSuchNode(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_in_time() {
    let started_ms = super::now_ms();
    let now_ms = Arc::new(AtomicU64::new(started_ms));
    let mut hosts = Vec::new();
    for name in ["host1", "host2"] {
        let mut host = Host::new(name).await;
        let now_ms = now_ms.clone();
        host.config.clock = Arc::new(move || now_ms.load(Ordering::Relaxed));
        host.start().await;
        hosts.push(host);
    }
    let founded = hosts[0].init().await.unwrap();
    hosts[1].join(&join(&hosts[0], &founded.token)).await.unwrap();
    voters(&hosts, 2).await;
    let expiry = async |host: &Host| host.status(true).await.certificate_expires_at_ms.unwrap();
    assert_eq!(expiry(&hosts[1]).await, started_ms + 90 * DAY_MS);
    for days in [61, 122, 183] {
        now_ms.store(started_ms + days * DAY_MS, Ordering::Relaxed);
        for host in &hosts {
            let renewed = started_ms + (days + 90) * DAY_MS;
            eventually("the renewal", async || expiry(host).await == renewed).await;
        }
    }
    // The first certificates are long past; new connections are made all the same.
    hosts[1].stop().await;
    hosts[1].start().await;
    hosts[1].network("n1").await.unwrap();
    let digests = async || {
        let state = hosts[0].linearizable_read().await.unwrap();
        state.nodes().map(|node| node.info.certificate.unwrap()).collect::<Vec<_>>()
    };
    let own = |host: &Host| host.member().unwrap().identity().issued.digest();
    eventually("the certificates to be told", async || digests().await == [own(&hosts[0]), own(&hosts[1])])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moves_is_found_again() {
    let mut hosts = cluster(3).await;
    // With another one down, there is no quorum before it is found.
    hosts[2].stop().await;
    hosts[1].stop().await;
    hosts[1].config.listen = Some(address());
    hosts[1].start().await;
    hosts[1].network("n1").await.unwrap();
    let moved = hosts[1].address();
    eventually("the new address", async || {
        let state = hosts[0].state();
        state.nodes().any(|node| node.info.address == moved)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_two_of_three_are_lost_one_goes_on() {
    let mut hosts = cluster(3).await;
    hosts[0].network("n1").await.unwrap();
    let last = leader(&hosts).await;
    for host in &mut hosts {
        host.stop().await;
    }
    let config = hosts[last].config.clone();
    let own = tokio::task::spawn_blocking(move || recover(&config)).await.unwrap().unwrap();
    hosts[last].start().await;
    hosts[last].network("n2").await.unwrap();
    let state = hosts[last].state();
    assert_eq!(state.nodes().map(|node| node.id).collect::<Vec<_>>(), [own]);
    assert_eq!(state.networks().count(), 2);

    // One of the others comes back with what it had.
    let back = (last + 1) % 3;
    hosts[back].start().await;
    eventually("the fence", async || hosts[back].status(true).await.membership == Membership::Fenced).await;
    hosts[back].leave(true).await.unwrap();
    let token = hosts[last].token(Role::Voter).await.unwrap().token;
    hosts[back].join(&join(&hosts[last], &token)).await.unwrap();
    eventually("two voters", async || hosts[last].status(true).await.voters.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_saved_looked_at_and_restored() {
    let hosts = cluster(2).await;
    hosts[1].network("n1").await.unwrap();
    let bytes = hosts[1].save_snapshot().await.unwrap();
    let summary = inspect(&bytes).unwrap();
    assert_eq!((summary.nodes.len(), summary.networks.len()), (2, 1));
    assert!(matches!(hosts[0].restore(&bytes).await, Err(ClusterError::InACluster(_))));
    let fresh = Host::new("fresh").await;
    assert!(matches!(fresh.restore(&bytes[..99]).await, Err(ClusterError::Snapshot(_))));
    assert_eq!(fresh.status(true).await.membership, Membership::Alone);
    let founded = fresh.restore(&bytes).await.unwrap();
    assert_ne!(founded.cluster, summary.cluster);
    assert_eq!((fresh.networks(), fresh.state().nodes().count()), (vec!["n1".into()], 1));
    fresh.network("n2").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_seven_nodes_learn_and_take_the_place_of_a_voter() {
    let mut hosts = cluster(7).await;
    let token = hosts[0].token(Role::Voter).await.unwrap().token;
    let eighth = Host::new("host8").await;
    eighth.join(&join(&hosts[0], &token)).await.unwrap();
    eventually("the learner", async || hosts[0].status(true).await.learners == [NodeId(8)]).await;
    hosts[6].leave(false).await.unwrap();
    hosts.pop();
    let wanted: Vec<NodeId> = [1, 2, 3, 4, 5, 6, 8].map(NodeId).into();
    eventually("the promotion", async || hosts[0].status(true).await.voters == wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_attempt_left_is_cleared_and_a_lost_log_is_not_made_up() {
    let mut hosts = cluster(1).await;
    let dir = hosts[0].config.dir.clone();
    hosts[0].stop().await;
    std::fs::rename(dir.join("log.redb"), dir.join("elsewhere")).unwrap();
    let error = ClusterHandle::start(hosts[0].config.clone()).await.err().unwrap();
    assert!(matches!(error, ClusterError::LogMissing(_)), "{error}");
    std::fs::rename(dir.join("elsewhere"), dir.join("log.redb")).unwrap();
    // The identity is written last: without it nobody was told of the rest.
    std::fs::remove_file(dir.join("identity")).unwrap();
    hosts[0].start().await;
    assert_eq!(hosts[0].status(true).await.membership, Membership::Alone);
    hosts[0].init().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_be_reached_is_not_kept() {
    let hosts = cluster(1).await;
    let token = hosts[0].token(Role::Voter).await.unwrap().token;
    let mut fresh = Host::new("fresh").await;
    // Others would reach somebody else there.
    fresh.config.advertise = Some(address());
    fresh.start().await;
    let error = fresh.join(&join(&hosts[0], &token)).await.unwrap_err();
    assert!(matches!(error, ClusterError::NotReached(_)), "{error}");
    assert_eq!(fresh.status(true).await.membership, Membership::Alone);
    assert_eq!(hosts[0].linearizable_read().await.unwrap().nodes().count(), 1);
}
