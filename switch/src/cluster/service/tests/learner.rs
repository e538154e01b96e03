//! A learner's certificate, used by hand: nothing that it sends may change what the others agree on.

use tokio::net::TcpListener;
use vswitch_proto::peer::{Body, Entry, MemberChange, Members, MembershipChange, Message, Payload, Snapshot};

use super::super::super::identity::Identity;
use super::super::super::role::Sender;
use super::super::super::runs::{Reached, Run};
use super::super::super::transport::tls::Credentials;
use super::super::super::transport::wire::Response;
use super::super::super::transport::{self, Caller, LinkError, Serve, Transport};
use super::*;

/// Says nothing by itself.
struct Silent;

impl Serve for Silent {
    fn admit(&self, _: NodeId) -> Result<(), Refusal> {
        Ok(())
    }

    fn receive(&self, _: Sender, _: Message) {}

    async fn answer(&self, _: Caller, _: Request) -> Response {
        Response::Busy
    }

    fn acknowledged(&self, _: NodeId) -> Option<Reached> {
        None
    }

    fn turned_away(&self, _: NodeId, _: SocketAddr, _: &Refusal) {}

    fn refused(&self, _: NodeId, _: Refusal) {}

    fn unreachable(&self, _: NodeId) {}

    fn connected(&self, _: NodeId) {}

    fn not_connected(&self, _: NodeId, _: &LinkError) {}
}

/// Whoever has the directory of a node, and speaks in its name.
struct Impostor {
    node: NodeId,
    transport: Transport<Silent>,
    running: transport::Running,
}

impl Impostor {
    async fn with_directory_of(host: &Host, others: &[Host]) -> Impostor {
        let identity = Identity::load(&host.config.dir).unwrap().unwrap();
        let node = identity.node;
        let credentials = Credentials::new(Arc::new(identity), &host.config.clock).unwrap();
        let listener = TcpListener::bind(host.address()).await.unwrap();
        let run = Run { starts: 100, nonce: rand::random(), began: Reached { term: 1 << 40, last: 1 << 40 } };
        let (transport, running) =
            Transport::start(listener, host.address(), credentials, run, Arc::new(Silent));
        let nodes = others.iter().map(|host| (host.node().unwrap(), host.address()));
        transport.set_addresses(nodes.collect());
        Impostor { node, transport, running }
    }

    fn send(&self, to: NodeId, term: u64, body: Body) {
        self.transport.send(Message { from: self.node, to, term, body });
    }
}

/// Everything that a leader or a candidate sends.
fn claims(index: u64, log_term: u64, term: u64, own: NodeId) -> Vec<Body> {
    let change = MembershipChange(vec![MemberChange::AddVoter(own)]);
    let entries = vec![Entry { term, index: index + 1, payload: Payload::Membership(change) }];
    let members = Members { voters: vec![own], ..Members::default() };
    let machine = crate::state::shared::Shared::new().to_bytes();
    vec![
        Body::Append { index, log_term, commit: index + 1, entries },
        Body::Append { index, log_term, commit: index, entries: Vec::new() },
        Body::Heartbeat { commit: index, context: vec![1] },
        Body::Snapshot(Snapshot { index: index + 100, term, members, machine }),
        Body::TimeoutNow,
        Body::Vote {
            pre: false,
            index: index + 9,
            log_term: term,
            commit: index,
            commit_term: log_term,
            transfer: true,
        },
        Body::VoteAnswer { pre: false, rejected: true, commit: 0, commit_term: 0 },
        Body::ReadIndexAnswer { index: 1, context: vec![1] },
        Body::AppendAnswer { index, commit: index, rejected: None },
        Body::HeartbeatAnswer { commit: index, context: vec![1] },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learners_certificate_changes_nothing() {
    let mut hosts = cluster(3).await;
    let token = hosts[0].token(Role::Learner).await.unwrap();
    let mut learner = Host::new("learner").await;
    learner.join(&join(&hosts[0], &token.token)).await.unwrap();
    eventually("the learner to be one", async || hosts[0].status(true).await.learners.len() == 1).await;
    learner.stop().await;
    let impostor = Impostor::with_directory_of(&learner, &hosts).await;
    let before = hosts[leader(&hosts).await].status(true).await;

    for round in 1..=10 {
        for host in &hosts {
            let status = host.member().unwrap().view().status;
            // A term that rises with every message, by one and by much.
            for (step, body) in
                claims(status.last, status.term, status.term + round, impostor.node).into_iter().enumerate()
            {
                let ahead = if step % 2 == 0 { round } else { 1000 * round };
                impostor.send(host.node().unwrap(), status.term + ahead, body);
            }
        }
        hosts[round as usize % 3].network(&format!("n{round}")).await.unwrap();
    }
    for host in &hosts {
        let view = host.member().unwrap().view();
        assert_eq!(view.status.members.voters.len(), 3, "{:?}", view.status.members);
        // An answer of a learner may end a leadership once in a while, see `role`.
        assert!(view.status.term <= before.term + 3 + 16, "{} after {}", view.status.term, before.term);
    }
    eventually("everybody to tell", async || {
        let health = hosts[1].health().await.unwrap();
        let is_told = |name: &str| {
            let line = format!("node {name}: node learner, a learner, sent ");
            health.problems.iter().any(|problem| problem.starts_with(&line))
        };
        is_told("host1") && is_told("host2") && is_told("host3")
    })
    .await;
    eventually("equal states", async || {
        let digests: Vec<_> = hosts.iter().map(|host| host.state().digest()).collect();
        digests.iter().all(|digest| *digest == digests[0])
    })
    .await;
    impostor.running.stop().await;
    for host in &mut hosts {
        host.stop().await;
    }
}
