//! The administrator: adds, promotes, demotes, replaces and removes nodes while everything else goes on.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use vswitch::cluster::{Birth, Role};
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::{MemberChange, Members};

use super::history::{Answer, Refusal, Request};
use super::world::{Event, World};
use super::{Bug, MILLISECOND};

const VOTERS_MIN: usize = 3;
const HOSTS_MAX: usize = 8;
/// Looks at a change before it is given up.
const PATIENCE: u32 = 60;

#[derive(Debug, Default)]
pub struct Admin {
    /// Hosts that the cluster begins with.
    pub size: usize,
    /// Nodes that were ever added, removed ones too: those are to find out.
    pub nodes: Vec<u64>,
    /// Networks that clients know of.
    pub networks: Vec<u32>,
    task: Option<Task>,
    /// Lost its disk and is a member still.
    wiped: Option<NodeId>,
    /// A change was given up that may come true all the same.
    in_doubt: bool,
    numbers: u32,
    tokens: u64,
}

#[derive(Debug, Clone)]
enum Task {
    /// Waits for the number of a new node.
    Adding,
    /// Waits for the answer to something else.
    Asking,
    Changing {
        changes: Vec<MemberChange>,
        then: Option<Request>,
        looks: u32,
        taken: bool,
    },
}

impl Admin {
    pub fn next_number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    pub fn next_token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }
}

/// Whether all of `changes` are in force.
fn is_done(members: &Members, changes: &[MemberChange]) -> bool {
    !members.is_joint()
        && changes.iter().all(|change| match change {
            MemberChange::AddLearner(id) | MemberChange::Demote(id) => members.learners.contains(id),
            MemberChange::AddVoter(id) => members.voters.contains(id),
            MemberChange::Remove(id) => members.all().all(|member| member != *id),
        })
}

impl World {
    pub fn admin(&mut self) -> Result<(), String> {
        let next = self.rng.random_range(20..60) * MILLISECOND;
        self.plan(next, Event::Admin);
        match self.admin.task.clone() {
            None if self.healing => {}
            None => self.choose()?,
            Some(Task::Adding) => {
                if let Some(answer) = self.clients[0].last.take() {
                    self.admin.task = None;
                    if let Answer::NodeAdded(node) = answer {
                        self.added(NodeId(node))?;
                    }
                }
            }
            Some(Task::Asking) => {
                if let Some(answer) = self.clients[0].last.take() {
                    if let Answer::Refused(Refusal::Unexpected(why)) = answer {
                        return Err(why);
                    }
                    self.admin.task = None;
                }
            }
            Some(Task::Changing { changes, then, looks, taken }) => self.pursue(changes, then, looks, taken),
        }
        Ok(())
    }

    fn added(&mut self, node: NodeId) -> Result<(), String> {
        self.admin.nodes.push(node.0);
        if !self.hosts.contains_key(&node) {
            self.build(node, Birth::Joiner)?;
            self.change(vec![MemberChange::AddLearner(node)], None);
        }
        Ok(())
    }

    fn change(&mut self, changes: Vec<MemberChange>, then: Option<Request>) {
        self.trace(|| format!("wanted: {changes:?}"));
        self.admin.task = Some(Task::Changing { changes, then, looks: 0, taken: false });
    }

    fn command(&mut self, request: Request) {
        self.admin.task = Some(Task::Asking);
        self.ask(0, request);
    }

    /// Asks for a change until it is there, or for long enough.
    fn pursue(&mut self, changes: Vec<MemberChange>, then: Option<Request>, looks: u32, taken: bool) {
        let mut taken = taken;
        let members = self.leader_members();
        if members.as_ref().is_some_and(|members| is_done(members, &changes)) {
            self.admin.task = None;
            self.admin.in_doubt &= !taken;
            for change in &changes {
                if let MemberChange::Remove(id) = change {
                    self.removed(*id);
                }
            }
            if let Some(request) = then {
                self.command(request);
            }
            return;
        }
        if looks >= PATIENCE || self.healing {
            self.admin.task = None;
            self.admin.in_doubt |= taken;
            return;
        }
        if let Some(leader) = self.leader()
            && let Some(group) = self.group(leader)
        {
            // Refused as often as not: another change under way, no quorum, no leader any more.
            taken |= group.change_members(&changes).is_ok();
            self.touch(leader);
        }
        self.admin.task = Some(Task::Changing { changes, then, looks: looks + 1, taken });
    }

    fn removed(&mut self, node: NodeId) {
        if self.admin.wiped == Some(node) {
            self.admin.wiped = None;
        }
        // Half of them run on for good, and find out that nobody listens.
        let stops = self.rng.random_bool(0.5);
        if let Some(host) = self.hosts.get_mut(&node).filter(|_| stops) {
            host.group = None;
            host.gone = true;
        }
    }

    fn leader_members(&self) -> Option<Members> {
        let leader = self.hosts.get(&self.leader()?)?.group.as_ref()?;
        Some(leader.members().clone())
    }

    fn choose(&mut self) -> Result<(), String> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let Some(members) = self.leader_members().filter(|members| !members.is_joint()) else {
            return Ok(());
        };
        if self.admin.nodes.is_empty() || self.admin.nodes.len() < self.admin.size {
            return self.grow(&members);
        }
        if let Some(wiped) = self.admin.wiped {
            let then = Some(Request::RemoveNode { node: wiped.0 });
            self.change(vec![MemberChange::Remove(wiped)], then);
            return Ok(());
        }
        let others: Vec<NodeId> = members.voters.iter().copied().filter(|id| *id != leader).collect();
        let voter = others.choose(&mut self.rng).copied();
        let learner = members.learners.choose(&mut self.rng).copied();
        let can_lose_voter = members.voters.len() > VOTERS_MIN;
        let alive = self.hosts.values().filter(|host| !host.gone).count();
        match (self.rng.random_range(0..10), voter, learner) {
            (0 | 1, ..) if alive < HOSTS_MAX => self.add(),
            (2, _, Some(learner)) => self.promote(vec![MemberChange::AddVoter(learner)], learner),
            // A replacement in one step, through a joint configuration.
            (3 | 4, Some(voter), Some(learner)) => {
                let out = if self.rng.random_bool(0.5) {
                    MemberChange::Demote(voter)
                } else {
                    MemberChange::Remove(voter)
                };
                self.promote(vec![MemberChange::AddVoter(learner), out], learner);
            }
            (5, Some(voter), _) if can_lose_voter => self.change(vec![MemberChange::Demote(voter)], None),
            (6, Some(voter), _) if can_lose_voter => {
                let then = Some(Request::RemoveNode { node: voter.0 });
                self.change(vec![MemberChange::Remove(voter)], then);
            }
            (7, _, Some(learner)) if members.learners.len() > 1 => {
                let then = Some(Request::RemoveNode { node: learner.0 });
                self.change(vec![MemberChange::Remove(learner)], then);
            }
            (8, Some(voter), _) => {
                if let Some(group) = self.group(leader) {
                    group.transfer_leader(voter);
                    self.touch(leader);
                }
            }
            (9, Some(voter), _) => self.wipe(voter, &members)?,
            _ => {}
        }
        Ok(())
    }

    /// The first hosts become voters one after the other.
    fn grow(&mut self, members: &Members) -> Result<(), String> {
        match members.learners.first() {
            Some(learner) => self.promote(vec![MemberChange::AddVoter(*learner)], *learner),
            None => self.add(),
        }
        Ok(())
    }

    fn add(&mut self) {
        let number = self.admin.next_number();
        self.ask(0, Request::AddNode { number });
        self.admin.task = Some(Task::Adding);
    }

    /// Once the learner has most of the log.
    fn promote(&mut self, changes: Vec<MemberChange>, learner: NodeId) {
        let Some(leader) = self.leader() else { return };
        let Some(group) = self.group(leader) else { return };
        let status = group.status();
        let has_caught_up = status
            .peers
            .iter()
            .any(|peer| peer.node == learner && peer.is_reachable && peer.matched + 20 >= status.committed);
        if has_caught_up && status.role == Role::Leader {
            self.change(changes, Some(Request::SetVoter { node: learner.0 }));
        }
    }

    /// A disk is lost for good, where the others can do without.
    fn wipe(&mut self, victim: NodeId, members: &Members) -> Result<(), String> {
        let whole = members.voters.iter().filter(|id| self.hosts.get(id).is_some_and(|host| !host.gone));
        if self.admin.in_doubt || members.voters.len() < VOTERS_MIN || whole.count() < members.voters.len() {
            return Ok(());
        }
        self.trace(|| format!("{} loses its disk", victim.0));
        self.count("disks lost");
        if self.setup.bug == Some(Bug::WipedUnderOldNumber) {
            return self.build(victim, Birth::Joiner);
        }
        let Some(host) = self.hosts.get_mut(&victim) else { return Ok(()) };
        host.group = None;
        host.gone = true;
        host.life += 1;
        self.admin.wiped = Some(victim);
        Ok(())
    }
}
