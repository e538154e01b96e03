//! Hosts, the network between them, and the order in which things happen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use vswitch::cluster::{
    Birth, Dropped, Failure, Group, Limits, Machine as _, Nonsense, Output, Part, Role, Sender, Settings,
    Store, initialise,
};
use vswitch_proto::id::{NodeId, RequestId};
use vswitch_proto::peer::{Body, Members, Message};

use super::admin::Admin;
use super::chaos::Weather;
use super::clients::Client;
use super::disk::{Call, Crash, Disk, Full};
use super::history::{Answer, History};
use super::promises::Promises;
use super::subject::{self, Subject, hash};
use super::{Bug, MILLISECOND, Report, SECOND, Setup, Time};

/// What has to happen after the healing, at most.
const SETTLING: Time = 60 * SECOND;
const CLIENTS: usize = 5;
/// Small, so that snapshots are made and sent all the time.
const LIMITS: Limits = Limits { entries: 40, worth_percent: 0, bytes: 1 << 20, trailing: 12 };

pub type Outcome = <Subject as vswitch::cluster::Machine>::Outcome;

#[derive(Debug)]
pub enum Event {
    Tick(NodeId, u64),
    /// A turn; the life of the host that it belongs to.
    Turn(NodeId, u64),
    Deliver {
        from: NodeId,
        to: NodeId,
        bytes: Vec<u8>,
    },
    Client(usize, u64),
    Admin,
    Chaos,
    Restart(NodeId),
    Resume(NodeId),
    Repair(NodeId),
    Heal(Vec<(NodeId, NodeId)>),
}

pub struct Host {
    pub disk: Disk,
    /// Absent while it is down.
    pub group: Option<Group<Subject>>,
    pub tick: Time,
    /// Counts crashes: what was meant for an earlier life does not reach a later one.
    pub life: u64,
    pub stopped: bool,
    /// Never comes back under this number.
    pub gone: bool,
    /// Goes down after so many messages.
    pub messages_left: Option<u32>,
    /// What was on the disk at the last crash, for one that plays tricks.
    image: Option<Vec<u8>>,
    inbox: VecDeque<(NodeId, Vec<u8>)>,
    turn_planned: bool,
    tick_planned: bool,
}

pub struct World {
    pub setup: Setup,
    pub rng: StdRng,
    pub now: Time,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, Event>,
    planned: u64,
    pub hosts: BTreeMap<NodeId, Host>,
    pub blocked: BTreeSet<(NodeId, NodeId)>,
    /// Nodes that have the key of the authority.
    keys: BTreeSet<NodeId>,
    pub weather: Weather,
    pub clients: Vec<Client>,
    pub admin: Admin,
    pub history: History,
    /// Operations whose clients gave up.
    pub given_up: Vec<(usize, RequestId)>,
    pub report: Report,
    /// Who led each term.
    leaders: BTreeMap<u64, NodeId>,
    /// The hash over everything applied up to an index.
    chains: BTreeMap<u64, u64>,
    promises: Promises,
    pub healing: bool,
}

impl World {
    pub fn new(setup: Setup) -> World {
        let mut world = World {
            setup,
            rng: StdRng::seed_from_u64(setup.seed),
            now: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            planned: 0,
            hosts: BTreeMap::new(),
            blocked: BTreeSet::new(),
            keys: BTreeSet::from([NodeId(1)]),
            weather: Weather::calm(),
            clients: (0..=CLIENTS).map(|_| Client::default()).collect(),
            admin: Admin::default(),
            history: History::default(),
            given_up: Vec::new(),
            report: Report::default(),
            leaders: BTreeMap::new(),
            chains: BTreeMap::new(),
            promises: Promises::default(),
            healing: false,
        };
        subject::plant(setup.bug == Some(Bug::SkipsAnEntry));
        world.admin.size = world.rng.random_range(3..=7);
        world
    }

    /// Host 1 founds, the others join, then chaos, then healing.
    pub fn run(&mut self) -> Result<Report, String> {
        self.build(NodeId(1), Birth::Founder { machine: Subject::default().to_bytes() })?;
        self.plan(0, Event::Admin);
        for client in 1..=CLIENTS {
            self.plan(2 * SECOND, Event::Client(client, 0));
        }
        self.plan(3 * SECOND, Event::Chaos);
        self.until(3 * SECOND + self.setup.duration)?;
        self.heal()?;
        let deadline = self.now + SETTLING;
        while !self.has_settled() {
            if self.now > deadline {
                return Err(format!("does not settle: {}", self.describe()));
            }
            self.until(self.now + 100 * MILLISECOND)?;
        }
        self.compare_digests()?;
        self.read_at_last(deadline)?;
        self.settle_given_up();
        self.history.check()?;
        self.count_many("operations", self.history.operations.len() as u64);
        self.count_many("refusals", self.history.refusals());
        Ok(self.report.clone())
    }

    fn compare_digests(&self) -> Result<(), String> {
        let leader = self.leader().and_then(|leader| self.hosts[&leader].group.as_ref());
        let Some(leader) = leader else { return Err("the leader is gone".into()) };
        let digest = leader.machine().shared.digest();
        let hosts = leader.members().all().filter_map(|id| self.hosts.get(&id));
        let differs = |group: &Group<Subject>| group.machine().shared.digest() != digest;
        match hosts.filter_map(|host| host.group.as_ref()).find(|group| differs(group)) {
            Some(group) => Err(format!("node {} has another state than the leader", group.node().0)),
            None => Ok(()),
        }
    }

    /// All members have the same state, and it remembers.
    fn settle_given_up(&mut self) {
        let leader = self.leader().and_then(|leader| self.hosts[&leader].group.as_ref());
        let Some(machine) = leader.map(|group| group.machine().clone()) else { return };
        for (operation, request) in std::mem::take(&mut self.given_up) {
            self.history.settle(operation, machine.outcome(&request).map(Answer::from));
        }
    }

    /// One read more, which has to see everything that was ever acknowledged.
    fn read_at_last(&mut self, deadline: Time) -> Result<(), String> {
        self.ask(0, super::history::Request::Read);
        while !self.clients[0].is_idle() {
            if self.now > deadline {
                return Err(format!("the last read is not answered: {}", self.describe()));
            }
            self.until(self.now + 10 * MILLISECOND)?;
        }
        Ok(())
    }

    pub fn plan(&mut self, after: Time, event: Event) {
        self.planned += 1;
        self.queue.push(Reverse((self.now + after, self.planned)));
        self.events.insert(self.planned, event);
    }

    fn until(&mut self, end: Time) -> Result<(), String> {
        while let Some(Reverse((at, number))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            let event = self.events.remove(&number).expect("every number in the queue has its event");
            self.handle(event)?;
        }
        self.now = end;
        Ok(())
    }

    pub fn count(&mut self, what: &'static str) {
        self.count_many(what, 1);
    }

    pub fn count_many(&mut self, what: &'static str, times: u64) {
        if times > 0 {
            *self.report.counts.entry(what).or_default() += times;
        }
    }

    pub fn trace(&mut self, what: impl FnOnce() -> String) {
        let line = what();
        self.report.trace = hash(self.report.trace, format!("{} {line}", self.now).as_bytes());
        if self.setup.verbose {
            eprintln!("{:>9} {line}", self.now);
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick(node, life) => self.tick(node, life),
            Event::Turn(node, life) => return self.turn(node, life),
            Event::Deliver { from, to, bytes } => return self.deliver(from, to, bytes),
            Event::Client(client, attempt) => return self.client(client, attempt),
            Event::Admin => return self.admin(),
            Event::Chaos => self.chaos(),
            Event::Restart(node) => return self.restart(node),
            Event::Resume(node) => return self.resume(node),
            Event::Repair(node) => {
                if let Some(host) = self.hosts.get(&node) {
                    host.disk.fill(Full::No);
                }
            }
            Event::Heal(links) => {
                for link in links {
                    self.blocked.remove(&link);
                }
            }
        }
        Ok(())
    }

    /// A new host with an empty disk.
    pub fn build(&mut self, node: NodeId, birth: Birth) -> Result<(), String> {
        let disk = Disk::default();
        initialise(disk.clone(), node, birth).map_err(|error| error.to_string())?;
        if self.setup.bug == Some(Bug::LyingDisks) {
            disk.lie();
        }
        let tick = self.rng.random_range(8..13) * MILLISECOND;
        let life = self.hosts.get(&node).map_or(0, |host| host.life + 1);
        let host = Host {
            disk,
            group: None,
            tick,
            life,
            stopped: false,
            gone: false,
            messages_left: None,
            image: None,
            inbox: VecDeque::new(),
            turn_planned: false,
            tick_planned: false,
        };
        if self.hosts.insert(node, host).is_some() {
            self.promises.forget(node);
        }
        self.restart(node)
    }

    fn restart(&mut self, node: NodeId) -> Result<(), String> {
        let seed = self.rng.random();
        let Some(host) = self.hosts.get_mut(&node) else { return Ok(()) };
        if host.group.is_some() || host.gone {
            return Ok(());
        }
        let disk = host.disk.clone();
        let settings = Settings { limits: LIMITS, ..Settings::new(seed) };
        let was_faulty = disk.is_faulty();
        match Group::open(Store::on(move || disk.clone()), settings) {
            Ok(group) => {
                host.group = Some(group);
                (host.stopped, host.turn_planned, host.tick_planned) = (false, false, true);
                let (life, tick) = (host.life, host.tick);
                self.trace(|| format!("{} is up", node.0));
                self.plan(tick, Event::Tick(node, life));
                self.check(node)?;
                self.check_promises(node)?;
                self.touch(node);
            }
            Err(_) if was_faulty => {
                if host.disk.is_frozen() {
                    host.disk.restart(Crash::PowerCut, &mut self.rng);
                }
                self.plan(50 * MILLISECOND, Event::Restart(node));
            }
            Err(error) => return Err(format!("node {} does not open: {error}", node.0)),
        }
        Ok(())
    }

    pub fn crash(&mut self, node: NodeId) {
        let how = if self.rng.random_bool(0.5) { Crash::Kill } else { Crash::PowerCut };
        self.crash_by(node, how);
    }

    /// Everybody loses power at once.
    pub fn black_out(&mut self) {
        self.count("blackouts");
        let up = self.hosts.iter().filter(|(_, host)| host.group.is_some()).map(|(node, _)| *node);
        for node in up.collect::<Vec<_>>() {
            self.crash_by(node, Crash::PowerCut);
        }
    }

    fn crash_by(&mut self, node: NodeId, how: Crash) {
        let down = self.rng.random_range(10..1500) * MILLISECOND;
        self.trace(|| format!("{} goes down: {how:?}", node.0));
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.disk.freeze();
        host.group = None;
        host.life += 1;
        host.messages_left = None;
        host.inbox.clear();
        let middle = host.disk.frozen_at();
        let losses = host.disk.restart(how, &mut self.rng);
        if self.setup.bug == Some(Bug::OldDisks) {
            let image = host.disk.image();
            if let Some(old) = host.image.replace(image) {
                host.disk.put_image(old);
            }
        }
        self.count("crashes");
        match middle {
            Some(Call::Write) => self.count("crashes at a write"),
            Some(Call::Resize) => self.count("crashes at a resize"),
            Some(Call::Sync) => self.count("crashes at a sync"),
            None => {}
        }
        self.count_many("writes lost", losses.lost);
        self.count_many("writes torn", losses.torn);
        self.plan(down, Event::Restart(node));
    }

    fn tick(&mut self, node: NodeId, life: u64) {
        let jitter = self.rng.random_range(90..110);
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.life == life) else { return };
        let Some(group) = host.group.as_mut() else { return };
        host.tick_planned = !host.stopped;
        if host.stopped {
            return;
        }
        group.tick();
        let next = host.tick * jitter / 100;
        self.plan(next, Event::Tick(node, life));
        self.touch(node);
    }

    pub fn jump(&mut self, node: NodeId, ticks: u32) {
        self.count("jumps of a clock");
        let Some(host) = self.hosts.get_mut(&node).filter(|host| !host.stopped) else { return };
        if let Some(group) = host.group.as_mut() {
            (0..ticks).for_each(|_| group.tick());
            self.touch(node);
        }
    }

    fn resume(&mut self, node: NodeId) -> Result<(), String> {
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.stopped) else { return Ok(()) };
        host.stopped = false;
        let (life, inbox) = (host.life, std::mem::take(&mut host.inbox));
        if host.group.is_some() && !std::mem::replace(&mut host.tick_planned, true) {
            self.plan(0, Event::Tick(node, life));
        }
        inbox.into_iter().try_for_each(|(from, bytes)| self.deliver(from, node, bytes))
    }

    /// A turn is due, once the disk is free.
    pub fn touch(&mut self, node: NodeId) {
        let slow = self.rng.random_bool(0.1);
        let delay = self.rng.random_range(if slow { 1000..5000 } else { 20..400 });
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let is_due = host.group.as_ref().is_some_and(Group::has_ready);
        if is_due && !host.turn_planned && !host.stopped {
            host.turn_planned = true;
            let life = host.life;
            self.plan(delay, Event::Turn(node, life));
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) -> Result<(), String> {
        if self.blocked.contains(&(from, to)) {
            return Ok(());
        }
        let Some(host) = self.hosts.get_mut(&to) else { return Ok(()) };
        if host.stopped {
            host.inbox.push_back((from, bytes));
            return Ok(());
        }
        let Some(group) = host.group.as_mut() else { return Ok(()) };
        let message = Message::decode(&bytes).map_err(|error| format!("{} to {}: {error}", from.0, to.0))?;
        let sender = Sender { node: from, has_key: self.keys.contains(&from) };
        match group.step(sender, message) {
            // An order to stand for election may come late, when somebody else leads.
            Ok(()) | Err(Dropped::Down | Dropped::Nonsense(Nonsense::NotTheLeader)) => {}
            // A node that was removed, or whose term an election took further than the cluster's.
            Err(Dropped::NotAllowed { part: Part::Stranger, .. } | Dropped::Ahead { .. }) => {}
            Err(dropped) => return Err(format!("{} refuses what {} sent: {dropped}", to.0, from.0)),
        }
        self.touch(to);
        Ok(())
    }

    fn send(&mut self, message: Message) -> Result<(), String> {
        self.promises.note(&message)?;
        let (from, to) = (message.from, message.to);
        if matches!(message.body, Body::Snapshot(_)) {
            self.count("snapshots sent");
        }
        let bytes = message.encode();
        self.count("messages");
        if self.rng.random_bool(self.weather.loss) {
            return Ok(());
        }
        let copies = if self.rng.random_bool(self.weather.doubling) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.weather.delay(&mut self.rng);
            self.plan(delay, Event::Deliver { from, to, bytes: bytes.clone() });
        }
        Ok(())
    }

    fn turn(&mut self, node: NodeId, life: u64) -> Result<(), String> {
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.life == life) else { return Ok(()) };
        host.turn_planned = false;
        let Some(group) = host.group.as_mut().filter(|_| !host.stopped) else { return Ok(()) };
        let (disk, mut left) = (host.disk.clone(), host.messages_left);
        let (mut sent, mut silenced) = (Vec::new(), false);
        let output = group.ready(|message| {
            if left == Some(0) {
                silenced |= !disk.is_frozen();
                disk.freeze();
            }
            left = left.map(|left| left.saturating_sub(1));
            if !disk.is_frozen() {
                sent.push(message);
            }
        });
        host.messages_left = left;
        let is_down = disk.is_frozen();
        sent.into_iter().try_for_each(|message| self.send(message))?;
        if silenced {
            self.count("crashes at a message");
        }
        if is_down {
            self.crash(node);
            return Ok(());
        }
        self.finish_turn(node, output)
    }

    fn finish_turn(&mut self, node: NodeId, output: Output<Outcome>) -> Result<(), String> {
        if let Some(failure) = &output.failure {
            self.trace(|| format!("{} falls silent: {failure}", node.0));
            self.count("failures of disks");
            if !matches!(failure, Failure::Write(_) | Failure::Open(_)) {
                return Err(format!("node {}: {failure}", node.0));
            }
        }
        if output.members_changed {
            self.count("changes of the membership");
            let members = self.hosts[&node].group.as_ref().map(|group| group.members().clone());
            // Who votes is given the key.
            if members.iter().flat_map(Members::all_voters).any(|voter| voter == node) {
                self.keys.insert(node);
            }
            if members.as_ref().is_some_and(Members::is_joint) {
                self.count("joint memberships");
            }
            self.trace(|| format!("{} sees members {members:?}", node.0));
        }
        self.check(node)?;
        for (request, outcome) in output.applied {
            self.answered(node, request, outcome);
        }
        for request in output.lost {
            self.lost(node, request);
        }
        for (token, outcome) in output.reads {
            self.read_done(node, token, outcome.is_ok())?;
        }
        self.touch(node);
        Ok(())
    }

    /// What holds at every moment.
    fn check(&mut self, node: NodeId) -> Result<(), String> {
        let Some(group) = self.hosts.get(&node).and_then(|host| host.group.as_ref()) else { return Ok(()) };
        let (index, chain) = (group.applied(), group.machine().chain);
        let term = (group.role() == Role::Leader).then(|| group.status().term);
        if let Some(term) = term {
            let elections = self.leaders.len();
            let leader = *self.leaders.entry(term).or_insert(node);
            self.count_many("elections", (self.leaders.len() - elections) as u64);
            if leader != node {
                return Err(format!("nodes {} and {} both lead term {term}", leader.0, node.0));
            }
        }
        let first = *self.chains.entry(index).or_insert(chain);
        if first != chain {
            return Err(format!("node {} applied something else up to entry {index}", node.0));
        }
        Ok(())
    }

    /// What a node that comes up again finds.
    fn check_promises(&self, node: NodeId) -> Result<(), String> {
        let Some(group) = self.hosts.get(&node).and_then(|host| host.group.as_ref()) else { return Ok(()) };
        let status = group.status();
        self.promises.is_kept(node, status.term, status.last)
    }

    /// The one with the highest term; there may be others that do not know yet.
    pub fn leader(&self) -> Option<NodeId> {
        let groups = self.hosts.iter().filter_map(|(node, host)| Some((*node, host.group.as_ref()?)));
        let leaders = groups.filter(|(_, group)| group.role() == Role::Leader);
        leaders.max_by_key(|(_, group)| group.status().term).map(|(node, _)| node)
    }

    pub fn group(&mut self, node: NodeId) -> Option<&mut Group<Subject>> {
        self.hosts.get_mut(&node).filter(|host| !host.stopped)?.group.as_mut()
    }

    fn heal(&mut self) -> Result<(), String> {
        self.trace(|| "everything is healed".into());
        self.healing = true;
        self.weather = Weather::calm();
        self.blocked.clear();
        let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
        for node in nodes {
            self.hosts[&node].disk.fill(Full::No);
            self.resume(node)?;
        }
        Ok(())
    }

    fn has_settled(&self) -> bool {
        let Some(leader) = self.leader().and_then(|leader| self.hosts[&leader].group.as_ref()) else {
            return false;
        };
        let status = leader.status();
        let is_level = status.members.all().all(|id| {
            let host = self.hosts.get(&id);
            let group = host.and_then(|host| host.group.as_ref());
            let is_gone = host.is_none_or(|host| host.gone);
            is_gone || group.is_some_and(|group| group.applied() == status.committed)
        });
        is_level && !status.members.is_joint() && self.clients.iter().all(Client::is_idle)
    }

    fn describe(&self) -> String {
        let hosts = self.hosts.iter().map(|(node, host)| {
            let status = host.group.as_ref().map(|group| {
                let s = group.status();
                format!(
                    "{:?} term {} leader {:?} applied {} of {}..{} committed {} members {:?}",
                    s.role, s.term, s.leader, s.applied, s.first, s.last, s.committed, s.members
                )
            });
            format!("\n  {} gone {} stopped {}: {status:?}", node.0, host.gone, host.stopped)
        });
        let clients = self.clients.iter().filter(|client| !client.is_idle()).map(|c| format!("\n  {c:?}"));
        hosts.chain(clients).collect()
    }
}
