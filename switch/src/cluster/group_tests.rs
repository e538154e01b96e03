//! Three groups in a row, and messages that no group sends.

use std::collections::VecDeque;

use proptest::prelude::*;
use vswitch_proto::command::{Command, Envelope};
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::{
    AppendRejected, Body, Entry, MemberChange, Members, MembershipChange, Message, Payload, Snapshot,
};

use super::disk::Disk;
use super::*;
use crate::state::State;
use crate::state::testing::{Lab, bridge};

struct Net {
    groups: Vec<Group<State>>,
    disks: Vec<Disk>,
    lab: Lab,
    /// Hears and says nothing.
    cut_off: Option<NodeId>,
}

impl Net {
    fn of_one() -> Net {
        let mut net = Net { groups: Vec::new(), disks: Vec::new(), lab: Lab::default(), cut_off: None };
        net.start(1, Birth::Founder { machine: State::new().to_bytes() });
        net.groups[0].campaign();
        net.settle();
        net
    }

    /// Node 1 leads, 2 and 3 vote.
    fn of_three() -> Net {
        let mut net = Net::of_one();
        for id in [2, 3] {
            net.start(id, Birth::Joiner);
            net.change(&[MemberChange::AddLearner(NodeId(id))]).unwrap();
            net.change(&[MemberChange::AddVoter(NodeId(id))]).unwrap();
        }
        net
    }

    fn start(&mut self, id: u64, birth: Birth) {
        let disk = Disk::default();
        initialise(disk.clone(), NodeId(id), birth).unwrap();
        self.disks.push(disk.clone());
        let group = Group::open(Store::on(move || disk.clone()), Settings::new(id)).unwrap();
        self.groups.push(group);
    }

    /// Delivers until nobody has anything to say.
    fn settle(&mut self) -> Vec<Output<<State as Machine>::Outcome>> {
        let (mut outputs, mut messages) = (Vec::new(), VecDeque::new());
        loop {
            for group in &mut self.groups {
                while group.has_ready() {
                    outputs.push(group.ready(|message| messages.push_back(message)));
                }
            }
            let Some(message) = messages.pop_front() else { return outputs };
            let to = message.to.0 as usize - 1;
            if ![message.from, message.to].iter().any(|id| Some(*id) == self.cut_off) {
                let sender = self.sender(message.from);
                let taken = self.groups[to].step(sender, message);
                assert!(matches!(taken, Ok(()) | Err(Dropped::Down)), "{taken:?}");
            }
        }
    }

    /// A node that votes has the key of the authority.
    fn sender(&self, node: NodeId) -> Sender {
        let members = self.groups[node.0 as usize - 1].members();
        Sender { node, has_key: members.all_voters().any(|voter| voter == node) }
    }

    /// Time passes for the leader only, so that nobody else stands for election.
    fn beat(&mut self) {
        for _ in 0..4 {
            self.groups[0].tick();
            self.settle();
        }
    }

    fn change(&mut self, changes: &[MemberChange]) -> Result<(), NotChanged> {
        self.beat();
        self.groups[0].change_members(changes)?;
        self.settle();
        self.beat();
        Ok(())
    }

    fn envelope(&mut self, name: &str) -> Envelope {
        let request = bridge(self.lab.network_id(), name);
        self.lab.envelope(Command::CreateNetwork(request))
    }
}

fn ids(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

#[test]
fn what_the_leader_proposes_everybody_applies() {
    let mut net = Net::of_three();
    let (one, two) = (net.envelope("one"), net.envelope("two"));
    net.groups[0].propose(&one).unwrap();
    net.groups[0].propose(&two).unwrap();
    net.groups[0].propose(&one).unwrap();
    let outputs = net.settle();
    let applied: Vec<_> = outputs.iter().flat_map(|output| &output.applied).collect();
    assert_eq!(
        applied.iter().map(|(request, _)| *request).collect::<Vec<_>>(),
        [one.request_id, two.request_id]
    );
    assert!(applied.iter().all(|(_, outcome)| outcome.is_ok()));
    let digest = net.groups[0].machine().digest();
    net.beat();
    assert!(net.groups.iter().all(|group| group.machine().digest() == digest));
    let leader = Some(NodeId(1));
    assert_eq!(net.groups[1].propose(&one), Err(NotProposed::NotLeader { leader }));
    net.groups[0].propose(&one).unwrap();
    let again = net.groups[0].ready(|_| {});
    assert_eq!(again.applied.len(), 1, "answered from memory");
    assert!(net.groups[1].read(7));
    let outputs = net.settle();
    assert_eq!(outputs.iter().flat_map(|output| &output.reads).collect::<Vec<_>>(), [&(7, Ok(()))]);
}

#[test]
fn one_transaction_a_proposal() {
    let mut net = Net::of_one();
    let envelopes: Vec<Envelope> = (0..3).map(|n| net.envelope(&format!("n{n}"))).collect();
    let mut syncs = Vec::new();
    for envelope in envelopes {
        let before = net.disks[0].syncs();
        net.groups[0].propose(&envelope).unwrap();
        net.settle();
        syncs.push(net.disks[0].syncs() - before);
    }
    assert_eq!(syncs, [2, 2, 2], "one of two phases");
    let mut envelopes: Vec<Envelope> = (3..40).map(|n| net.envelope(&format!("n{n}"))).collect();
    let before = net.disks[0].syncs();
    envelopes.drain(..).for_each(|envelope| net.groups[0].propose(&envelope).unwrap());
    net.settle();
    assert_eq!(net.disks[0].syncs() - before, 2, "for all of them together");
}

#[test]
fn a_leader_without_a_majority_gives_up() {
    let mut net = Net::of_three();
    net.cut_off = Some(NodeId(1));
    let envelope = net.envelope("lost");
    net.groups[0].propose(&envelope).unwrap();
    assert!(net.groups[0].read(1));
    let mut outputs = net.settle();
    for _ in 0..60 {
        net.groups[0].tick();
        outputs.extend(net.settle());
    }
    assert_ne!(net.groups[0].role(), Role::Leader);
    let lost: Vec<_> = outputs.iter().flat_map(|output| &output.lost).collect();
    assert_eq!(lost, [&envelope.request_id]);
    let reads: Vec<_> = outputs.iter().flat_map(|output| &output.reads).collect();
    assert_eq!(reads, [&(1, Err(ReadLost))]);
    assert!(matches!(net.groups[0].propose(&envelope), Err(NotProposed::NotLeader { leader: None })));
}

#[test]
fn members_change_one_step_at_a_time() {
    let mut net = Net::of_three();
    assert_eq!(net.groups[2].members().voters, ids(&[1, 2, 3]));
    use MemberChange::{AddLearner, AddVoter, Demote, Remove};
    let refused =
        |net: &mut Net, changes: &[MemberChange]| net.groups[0].change_members(changes).unwrap_err();
    assert_eq!(refused(&mut net, &[]), NotChanged::Nothing);
    assert_eq!(refused(&mut net, &[AddVoter(NodeId(2))]), NotChanged::IsVoter(NodeId(2)));
    assert_eq!(refused(&mut net, &[AddLearner(NodeId(2))]), NotChanged::IsMember(NodeId(2)));
    assert_eq!(refused(&mut net, &[Remove(NodeId(9))]), NotChanged::NotAMember(NodeId(9)));
    assert_eq!(refused(&mut net, &[Demote(NodeId(9))]), NotChanged::NotAVoter(NodeId(9)));
    assert_eq!(refused(&mut net, &[Remove(NodeId(1))]), NotChanged::IsLeader(NodeId(1)));
    assert_eq!(refused(&mut net, &[Remove(NodeId(2)), AddLearner(NodeId(2))]), NotChanged::Twice(NodeId(2)));
    let unheard = refused(&mut net, &[AddVoter(NodeId(4)), AddVoter(NodeId(5)), AddVoter(NodeId(6))]);
    assert_eq!(unheard, NotChanged::BreaksQuorum { reachable: 3, voters: 6 });
    let leader = Some(NodeId(1));
    assert_eq!(net.groups[1].change_members(&[Remove(NodeId(3))]), Err(NotChanged::NotLeader { leader }));
    net.start(4, Birth::Joiner);
    net.change(&[AddLearner(NodeId(4))]).unwrap();
    // A replacement, through a joint configuration, which is left without being asked for.
    net.change(&[AddVoter(NodeId(4)), Demote(NodeId(3))]).unwrap();
    for group in &net.groups {
        assert_eq!((&group.members().voters, &group.members().learners), (&ids(&[1, 2, 4]), &ids(&[3])));
        assert!(!group.members().is_joint());
    }
}

/// The two rules of `membership`.
#[test]
fn a_former_configuration_elects_nobody() {
    let mut net = Net::of_three();
    // Node 3 has the entry of a change, and does not hear that it is committed.
    net.start(4, Birth::Joiner);
    net.beat();
    net.groups[0].change_members(&[MemberChange::AddLearner(NodeId(4))]).unwrap();
    net.cut_off = Some(NodeId(3));
    net.settle();
    let members = net.groups[0].members().clone();
    assert_eq!((members.learners, net.groups[2].members().learners.len()), (ids(&[4]), 0));
    let status = net.groups[2].status();
    let (index, log_term, commit) = (status.last, status.term, status.committed);
    let body =
        Body::Vote { pre: true, index: index + 1, log_term, commit, commit_term: log_term, transfer: false };
    let vote = Message { from: NodeId(3), to: NodeId(2), term: status.term + 1, body };
    net.groups[1].step(NodeId(3), vote).unwrap();
    let mut answers = Vec::new();
    while net.groups[1].has_ready() {
        net.groups[1].ready(|message| answers.push(message));
    }
    let applied = net.groups[1].status().committed;
    assert!(applied > commit, "node 2 knows of the change");
    let body = Body::VoteAnswer { pre: true, rejected: true, commit: applied, commit_term: status.term };
    assert!(answers.iter().any(|answer| answer.body == body), "and says so: {answers:?}");
}

#[test]
fn a_full_disk_costs_the_leadership() {
    let mut net = Net::of_three();
    let calls = net.disks[0].calls();
    net.disks[0].fail(calls..u64::MAX);
    let envelope = net.envelope("refused");
    net.groups[0].propose(&envelope).unwrap();
    let outputs = net.settle();
    assert_eq!(net.groups[0].role(), Role::Down);
    assert!(outputs.iter().any(|output| matches!(output.failure, Some(Failure::Write(_)))));
    assert!(outputs.iter().any(|output| output.lost == [envelope.request_id]));
    assert_eq!(net.groups[0].propose(&envelope), Err(NotProposed::Down));
    net.disks[0].fail(0..0);
    for _ in 0..10 {
        net.groups[0].tick();
    }
    assert_eq!(net.groups[0].role(), Role::Follower, "it comes back by itself");
}

/// Mostly such as occur, and some that are too large for arithmetic.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..15u64, 1 => (u64::MAX - 2)..=u64::MAX]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let member = (0..6u64).prop_map(NodeId);
    let payload = prop_oneof![
        Just(Payload::Empty),
        prop::collection::vec(any::<u8>(), 0..4).prop_map(Payload::Command),
        prop::collection::vec(member.prop_map(MemberChange::Remove), 0..3)
            .prop_map(|changes| Payload::Membership(MembershipChange(changes))),
    ];
    let entry =
        (number(), number(), payload).prop_map(|(term, index, payload)| Entry { term, index, payload });
    prop::collection::vec(entry, 0..4)
}

fn members() -> impl Strategy<Value = Members> {
    let nodes = || prop::collection::vec((0..6u64).prop_map(NodeId), 0..4);
    (nodes(), nodes(), nodes(), nodes()).prop_map(|(voters, learners, outgoing, learners_next)| Members {
        voters,
        learners,
        outgoing,
        learners_next,
    })
}

fn bodies() -> impl Strategy<Value = Body> {
    let context = || prop::collection::vec(any::<u8>(), 0..25);
    let rejected = (number(), number(), number())
        .prop_map(|(hint, log_term, request_snapshot)| AppendRejected { hint, log_term, request_snapshot });
    prop_oneof![
        (number(), number(), number(), entries())
            .prop_map(|(index, log_term, commit, entries)| Body::Append { index, log_term, commit, entries }),
        (number(), number(), prop::option::of(rejected))
            .prop_map(|(index, commit, rejected)| Body::AppendAnswer { index, commit, rejected }),
        (any::<bool>(), number(), number(), number(), any::<bool>()).prop_map(
            |(pre, index, log_term, commit, transfer)| {
                Body::Vote { pre, index, log_term, commit, commit_term: log_term, transfer }
            }
        ),
        (any::<bool>(), any::<bool>(), number(), number()).prop_map(
            |(pre, rejected, commit, commit_term)| {
                Body::VoteAnswer { pre, rejected, commit, commit_term }
            }
        ),
        (number(), number(), members()).prop_map(|(index, term, members)| {
            Body::Snapshot(Snapshot { index, term, members, machine: State::new().to_bytes() })
        }),
        (number(), context()).prop_map(|(commit, context)| Body::Heartbeat { commit, context }),
        (number(), context()).prop_map(|(commit, context)| Body::HeartbeatAnswer { commit, context }),
        Just(Body::TimeoutNow),
        context().prop_map(|context| Body::ReadIndex { context }),
        (number(), context()).prop_map(|(index, context)| Body::ReadIndexAnswer { index, context }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A member that lies can stop the others from agreeing; it cannot make them fall over.
    #[test]
    fn no_message_brings_a_node_down(
        at in 0..3usize,
        messages in prop::collection::vec((0..5u64, number(), bodies()), 1..12),
    ) {
        let mut net = Net::of_three();
        let to = NodeId(at as u64 + 1);
        for (from, term, body) in messages {
            let from = NodeId(from);
            let _refused = net.groups[at].step(from, Message { from, to, term, body });
            while net.groups[at].has_ready() {
                let output = net.groups[at].ready(|_| {});
                prop_assert!(output.failure.is_none(), "{:?}", output.failure);
            }
            net.groups[at].tick();
        }
        prop_assert!(net.groups[at].role() != Role::Down);
    }
}
