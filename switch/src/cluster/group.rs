//! One replicated group as one of its members sees it: Raft around a machine and a log on disk.
//!
//! # Theory of operation
//! A group knows no socket, no clock and no thread. Time comes as calls of [`Group::tick`], messages come as calls of
//! [`Group::step`], and everything that goes out comes from [`Group::ready`], which does one turn of the protocol
//! (see its module for the numbered steps) and is called as long as [`Group::has_ready`]. The same code
//! with one voter is the log of a node on its own, and under the simulator it is every node of a cluster.
//!
//! The protocol is the `raft` crate, with pre-vote (a node that was cut off does not disturb its group when it comes
//! back), check-quorum (a leader that hears of no majority steps down) and reads that are confirmed by a majority
//! rather than by clocks.
//!
//! # What a caller may rely on
//! 1. An outcome in [`Output::applied`] is of a command that is durable on a majority and applied here.
//! 2. A request in [`Output::lost`] may still be applied or not: ask the present leader again, under the same id. The
//!    machine remembers its last requests and applies none of them twice.
//! 3. After a read in [`Output::reads`] succeeded, [`Group::machine`] has everything that was answered to anybody
//!    before [`Group::read`] was called. Reads that a new leader drops are asked again, and fail in the end.
//! 4. No message claims anything that is not on the disk. When a write fails, the node falls silent, drops what it
//!    was about to say, opens its store again after a while and goes on as a follower from what is there.
//!
//! # Traps
//! - A data directory that was lost takes its node number along: a node that comes back without its log joins under
//!   a new number. Under the old one it could vote twice, or deny entries that it had acknowledged.
//! - Proposals are matched by request id. The position in a queue says nothing once a leader was replaced.
//! - Proposals and transfers are not passed on to the leader here; the callers' own protocol does that, and tells
//!   the client who the leader is.
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use raft::eraftpb::{Entry as RaftEntry, HardState, Message as RaftMessage, MessageType};
use raft::{Config, RaftState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use slog::Logger;
use vswitch_proto::id::{NodeId, RequestId};
use vswitch_proto::peer::{Body, COMMAND_BYTES_MAX, Members, Message};

use super::check;
use super::convert::{entry_to_raft, members_to_raft, to_raft};
use super::entries::Entries;
use super::log::{Hard, Log, OpenError, Recovered};
use super::machine::{Machine, Unreadable, decode, encode};
pub use super::outcome::{Dropped, Failure, NotProposed, Output, ReadLost, Role};
use super::reads::Reads;
use super::role::Sender;
use super::runs::Reached;
use super::store::Store;

/// Proposals of this node that are under way.
const PROPOSALS_MAX: usize = 4096;
/// Of proposals that are not committed yet, together.
const UNCOMMITTED_BYTES_MAX: usize = 4 << 20;
/// After a failed write, how long the node does not stand for election, in election timeouts: another one, whose
/// disk works, should lead.
const COOL_DOWN_TIMEOUTS: u64 = 4;

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Drawn anew for each start of the node: spreads elections, and tells reads of this start from earlier ones'.
    pub seed: u64,
    /// Ticks without a leader before an election, at least; twice as many at most.
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    pub limits: Limits,
}

impl Settings {
    pub fn new(seed: u64) -> Settings {
        Settings { seed, election_ticks: 10, heartbeat_ticks: 2, limits: Limits::default() }
    }
}

/// When a snapshot is made, and what it leaves: after so many entries if they are worth it, and after so many bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries since the last snapshot.
    pub entries: u64,
    /// Their encoded size, of the last snapshot's. A large machine is written less often.
    pub worth_percent: u64,
    /// Their encoded size.
    pub bytes: u64,
    /// Entries that stay in front of the snapshot, for followers that are a little behind.
    pub trailing: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entries: 1024, worth_percent: 50, bytes: 8 << 20, trailing: 512 }
    }
}

/// One member of a group. See the module's documentation.
pub struct Group<M: Machine> {
    pub(super) store: Store,
    pub(super) settings: Settings,
    pub(super) node: NodeId,
    /// Absent after a failure, until the store was opened again.
    pub(super) engine: Option<Engine>,
    pub(super) position: Position<M>,
    /// Of this node, appended and not applied, and the term they were proposed in.
    pub(super) proposals: BTreeSet<RequestId>,
    pub(super) proposals_term: u64,
    /// Those of `proposals` that the next turn appends, all at once, encoded.
    pub(super) queue: Vec<(RequestId, Vec<u8>)>,
    pub(super) queue_bytes: usize,
    pub(super) reads: Reads,
    /// What the next turn returns.
    pub(super) output: Output<M::Outcome>,
    /// Messages that claim nothing, for the next turn.
    pub(super) outbox: Vec<Message>,
    /// A snapshot that was checked when it came in, with its index.
    pub(super) received: Option<(u64, M)>,
    pub(super) ticks: Ticks,
    /// How far other members have got, by what they acknowledged to this node.
    pub(super) acknowledged: BTreeMap<NodeId, Reached>,
    /// Neither votes nor acknowledges, see [`Group::set_muted`].
    pub(super) is_muted: bool,
    rng: StdRng,
}

/// The protocol and the log under it.
pub(super) struct Engine {
    pub(super) raw: RawNode<Entries>,
    pub(super) log: Log,
    /// As it is on the disk.
    pub(super) hard: Hard,
    /// As the protocol has it. Nobody was told of a term or vote that is not on the disk.
    pub(super) known: Hard,
    /// On the disk at the last tick.
    commit_at_tick: u64,
    /// `known` goes to the disk with the next turn.
    pub(super) commit_is_due: bool,
}

/// What was applied, and how far.
#[derive(Debug, Clone)]
pub(super) struct Position<M> {
    pub(super) machine: Arc<M>,
    /// Index and term of the last entry that is applied.
    pub(super) applied: (u64, u64),
    pub(super) members: Members,
    /// Index of the last applied change of `members`, or of a snapshot that has it.
    pub(super) members_index: u64,
    pub(super) snapshot_index: u64,
    /// Size of its machine.
    pub(super) snapshot_bytes: u64,
    /// Encoded size of the entries behind the snapshot, roughly: replaced ones count too.
    pub(super) bytes: u64,
}

/// When things happened, in ticks since the start.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    pub(super) now: u64,
    pub(super) heard: BTreeMap<NodeId, u64>,
    /// Followers that a snapshot is on its way to.
    pub(super) snapshots: BTreeMap<NodeId, u64>,
    /// When a snapshot was last made for a follower.
    pub(super) offered: Option<u64>,
    /// When a learner last raised the term.
    pub(super) raised: Option<u64>,
    reopen_at: u64,
    no_election_before: u64,
    /// What the election timeout was drawn for.
    drawn_for: Option<(u64, StateRole, u64)>,
    election_timeout: usize,
}

impl<M: Machine> Group<M> {
    /// Opens the store and applies what is known to be committed. Sends nothing.
    pub fn open(store: Store, settings: Settings) -> Result<Group<M>, OpenError> {
        let (log, recovered) = store.open()?;
        let position = Position::of(&recovered, &store)?;
        let node = recovered.node;
        let engine = Engine::start(log, recovered, &position, &settings);
        let engine = engine.ok_or_else(|| store.corrupt())?;
        let mut group = Group {
            store,
            settings,
            node,
            engine: Some(engine),
            position,
            proposals: BTreeSet::new(),
            proposals_term: 0,
            queue: Vec::new(),
            queue_bytes: 0,
            reads: Reads::new(node, settings),
            output: Output::default(),
            outbox: Vec::new(),
            received: None,
            ticks: Ticks::default(),
            acknowledged: BTreeMap::new(),
            is_muted: false,
            rng: StdRng::seed_from_u64(settings.seed),
        };
        group.apply_committed()?;
        Ok(group)
    }

    /// What is committed is applied before anything else happens, above all before this node votes.
    fn apply_committed(&mut self) -> Result<(), OpenError> {
        while self.has_ready() {
            if let Some(failure) = self.ready(|_| {}).failure {
                return Err(self.unopened(failure));
            }
        }
        Ok(())
    }

    /// Of a failure while opening.
    pub(super) fn unopened(&self, failure: Failure) -> OpenError {
        match failure {
            Failure::Open(error) => error,
            Failure::Entry(Unreadable::Newer(found)) => self.store.newer(found),
            Failure::Entry(Unreadable::Damaged) | Failure::Panicked => self.store.corrupt(),
            Failure::Write(error) => self.store.unwritable(error),
        }
    }

    /// Opens the store again after a failure. [`Group::tick`] does so by itself.
    pub fn reopen(&mut self) -> Result<(), OpenError> {
        // The old handle refuses further work, and holds the file's lock.
        self.engine = None;
        let (log, recovered) = self.store.open()?;
        let applied_is_there = {
            let (index, term) = self.position.applied;
            let nth = index.checked_sub(recovered.base.0);
            let found = match nth {
                Some(0) => Some(recovered.base.1),
                Some(nth) => recovered.entries.get(nth as usize - 1).map(|entry| entry.term),
                None => None,
            };
            found == Some(term)
        };
        // What is applied stays applied: the commit index on the disk may be behind.
        if !applied_is_there {
            self.position = Position::of(&recovered, &self.store)?;
            (self.output.advanced, self.output.members_changed) = (true, true);
        }
        let engine = Engine::start(log, recovered, &self.position, &self.settings);
        self.engine = Some(engine.ok_or_else(|| self.store.corrupt())?);
        Ok(())
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// What was applied so far. Linearizable only behind a [`Group::read`].
    pub fn machine(&self) -> &Arc<M> {
        &self.position.machine
    }

    /// Index of the last entry that [`Group::machine`] has.
    pub fn applied(&self) -> u64 {
        self.position.applied.0
    }

    pub fn members(&self) -> &Members {
        &self.position.members
    }

    pub fn role(&self) -> Role {
        match self.engine.as_ref().map(|engine| engine.raw.raft.state) {
            Some(StateRole::Leader) => Role::Leader,
            Some(StateRole::Follower) => Role::Follower,
            Some(StateRole::Candidate | StateRole::PreCandidate) => Role::Candidate,
            None => Role::Down,
        }
    }

    pub fn leader(&self) -> Option<NodeId> {
        let leader = self.engine.as_ref()?.raw.raft.leader_id;
        (leader != 0).then_some(NodeId(leader))
    }

    /// One unit of time has passed.
    pub fn tick(&mut self) {
        self.ticks.now += 1;
        if self.engine.is_none() {
            if self.ticks.now >= self.ticks.reopen_at
                && let Err(error) = self.reopen()
            {
                self.fail(error.into());
            }
            return;
        }
        self.catching(|group| {
            group.tick_engine();
            group.note_commit();
            group.retry_snapshots();
            group.tick_reads();
        });
    }

    fn tick_engine(&mut self) {
        let Some(engine) = self.engine.as_mut() else { return };
        let raft = &mut engine.raw.raft;
        let may_not_stand = self.ticks.now < self.ticks.no_election_before || self.is_muted;
        if raft.state != StateRole::Leader && may_not_stand {
            return;
        }
        // The library draws from the thread's generator; a run of the simulator has to be repeatable.
        let drawn_for = Some((raft.term, raft.state, raft.leader_id));
        if self.ticks.drawn_for != drawn_for {
            let election = self.settings.election_ticks;
            self.ticks.election_timeout = self.rng.random_range(election..2 * election);
            self.ticks.drawn_for = drawn_for;
        }
        raft.set_randomized_election_timeout(self.ticks.election_timeout);
        engine.raw.tick();
        if engine.raw.raft.state != StateRole::Leader && engine.raw.raft.election_elapsed == 0 {
            self.ticks.drawn_for = None;
        }
    }

    /// A commit index that no entries took to the disk since the last tick goes there by itself.
    fn note_commit(&mut self) {
        let Some(engine) = self.engine.as_mut() else { return };
        engine.commit_is_due = engine.known != engine.hard && engine.hard.commit == engine.commit_at_tick;
        engine.commit_at_tick = engine.hard.commit;
    }

    /// A snapshot that was sent and not confirmed for long is lost; nobody else would tell the protocol.
    fn retry_snapshots(&mut self) {
        let Some(engine) = self.engine.as_mut() else { return };
        let patience = 4 * self.settings.election_ticks as u64;
        let pending = engine.raw.raft.prs().iter();
        let pending = pending.filter(|(_, progress)| progress.state == raft::ProgressState::Snapshot);
        let pending: BTreeSet<NodeId> = pending.map(|(id, _)| NodeId(*id)).collect();
        self.ticks.snapshots.retain(|id, _| pending.contains(id));
        for id in pending {
            let since = *self.ticks.snapshots.entry(id).or_insert(self.ticks.now);
            if self.ticks.now - since >= patience {
                engine.raw.report_snapshot(id.0, SnapshotStatus::Failure);
            }
        }
    }

    /// Takes a message from an authenticated node.
    pub fn step(&mut self, sender: impl Into<Sender>, message: Message) -> Result<(), Dropped> {
        let sender = sender.into();
        if message.from != sender.node {
            return Err(Dropped::Forged { sender: sender.node, from: message.from });
        }
        if message.to != self.node {
            return Err(Dropped::Misdirected { to: message.to, here: self.node });
        }
        let Some(engine) = &self.engine else { return Err(Dropped::Down) };
        check::message(&message, &engine.raw)?;
        self.check_role(sender, &message)?;
        self.note_acknowledged(&message);
        match &message.body {
            Body::Append { entries, .. } => check::entries::<M>(entries)?,
            Body::Snapshot(snapshot) => {
                self.received = Some((snapshot.index, M::from_bytes(&snapshot.machine)?));
            }
            _ => {}
        }
        if self.position.members.all().any(|id| id == sender.node) {
            self.ticks.heard.insert(sender.node, self.ticks.now);
        }
        if !self.refuses_vote(&message) {
            // An error says that the message came too late to matter.
            self.with_engine(|engine| drop(engine.raw.step(to_raft(message))));
        }
        Ok(())
    }

    /// Appends a command to the log, if this node leads. Its outcome comes from a later turn.
    pub fn propose(&mut self, command: &M::Command) -> Result<(), NotProposed> {
        let leader = self.leader();
        let Some(engine) = self.engine.as_ref() else { return Err(NotProposed::Down) };
        if engine.raw.raft.state != StateRole::Leader {
            return Err(NotProposed::NotLeader { leader });
        }
        let request = M::request(command);
        if let Some(outcome) = self.position.machine.outcome(&request) {
            self.output.applied.push((request, outcome));
            return Ok(());
        }
        self.settle_leadership();
        if self.proposals.contains(&request) {
            return Ok(());
        }
        let bytes = encode(command);
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(NotProposed::TooLarge(bytes.len()));
        }
        let Some(engine) = self.engine.as_ref() else { return Err(NotProposed::Down) };
        let raft = &engine.raw.raft;
        let uncommitted = raft.uncommitted_size() + self.queue_bytes;
        let is_full = self.proposals.len() >= PROPOSALS_MAX
            || (uncommitted > 0 && uncommitted + bytes.len() > UNCOMMITTED_BYTES_MAX);
        if is_full || raft.lead_transferee.is_some() {
            return Err(NotProposed::Busy);
        }
        self.queue_bytes += bytes.len();
        self.queue.push((request, bytes));
        self.proposals.insert(request);
        Ok(())
    }

    /// Appends what was proposed since the last turn, in one step: one message to each follower.
    pub(super) fn propose_queued(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        self.queue_bytes = 0;
        let (requests, commands): (Vec<_>, Vec<_>) = std::mem::take(&mut self.queue).into_iter().unzip();
        let data = commands.into_iter().map(|bytes| RaftEntry { data: bytes.into(), ..RaftEntry::default() });
        let mut message = RaftMessage { from: self.node.0, ..RaftMessage::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(data.collect::<Vec<_>>().into());
        let mut taken = false;
        self.with_engine(|engine| taken = engine.raw.step(message).is_ok());
        if !taken {
            self.proposals.retain(|request| !requests.contains(request));
            self.output.lost.extend(requests);
        }
    }

    /// Asks for a moment from which on [`Group::machine`] is as new as anything that was answered before. `token`
    /// comes back in [`Output::reads`]. Any member may ask. False: too many reads are under way.
    #[must_use]
    pub fn read(&mut self, token: u64) -> bool {
        self.reads.add(token)
    }

    /// Stands for election at once.
    pub fn campaign(&mut self) {
        if self.is_muted {
            return;
        }
        // Refused where it would make no sense, by a leader for one.
        self.with_engine(|engine| drop(engine.raw.campaign()));
    }

    /// Hands leadership to a voter that has the whole log; dropped unless this node leads.
    pub fn transfer_leader(&mut self, to: NodeId) {
        if self.role() == Role::Leader && to != self.node {
            self.with_engine(|engine| engine.raw.transfer_leader(to.0));
        }
    }

    /// The transport could not deliver to `node`.
    pub fn report_unreachable(&mut self, node: NodeId) {
        self.with_engine(|engine| engine.raw.report_unreachable(node.0));
    }

    /// Whether a turn has something to do.
    pub fn has_ready(&self) -> bool {
        let engine_has = self.engine.as_ref().is_some_and(|engine| {
            engine.raw.has_ready()
                || engine.commit_is_due
                || !self.queue.is_empty()
                || self.reads.can_issue()
                || !self.outbox.is_empty()
        });
        let fails_reads = self.engine.is_none() && !self.reads.is_empty();
        engine_has || fails_reads || !self.output.is_empty()
    }

    /// Runs a step of the protocol; a panic of it costs the engine, not the process.
    pub(super) fn catching(&mut self, run: impl FnOnce(&mut Group<M>)) {
        if catch_unwind(AssertUnwindSafe(|| run(self))).is_err() {
            self.fail(Failure::Panicked);
        }
    }

    fn with_engine(&mut self, run: impl FnOnce(&mut Engine)) {
        self.catching(|group| {
            if let Some(engine) = group.engine.as_mut() {
                run(engine);
            }
        });
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        if self.engine.take().is_some() {
            tracing::warn!("node {} left its group: {failure}", self.node.0);
        }
        self.received = None;
        self.outbox.clear();
        self.queue.clear();
        self.queue_bytes = 0;
        self.output.lost.extend(std::mem::take(&mut self.proposals));
        self.output.reads.extend(self.reads.fail_all());
        let timeout = self.settings.election_ticks as u64;
        self.ticks.reopen_at = self.ticks.now + timeout;
        self.ticks.no_election_before = self.ticks.now + COOL_DOWN_TIMEOUTS * timeout;
        self.output.failure = Some(failure);
    }

    /// Gives up the proposals of a leadership that is over.
    pub(super) fn settle_leadership(&mut self) {
        let led = self.engine.as_ref().map(|engine| &engine.raw.raft);
        let term = led.filter(|raft| raft.state == StateRole::Leader).map_or(0, |raft| raft.term);
        if term != self.proposals_term {
            self.queue.clear();
            self.queue_bytes = 0;
            self.output.lost.extend(std::mem::take(&mut self.proposals));
            self.proposals_term = term;
        }
    }
}

impl<M: Machine> Position<M> {
    fn of(recovered: &Recovered, store: &Store) -> Result<Position<M>, OpenError> {
        let unreadable = |error| match error {
            Unreadable::Newer(found) => store.newer(found),
            Unreadable::Damaged => store.corrupt(),
        };
        for entry in &recovered.entries {
            if let vswitch_proto::peer::Payload::Command(bytes) = &entry.payload {
                decode::<M::Command>(bytes).map_err(unreadable)?;
            }
        }
        let (machine, applied, members) = match &recovered.snapshot {
            Some(snapshot) => {
                let machine = M::from_bytes(&snapshot.machine).map_err(unreadable)?;
                (machine, (snapshot.index, snapshot.term), snapshot.members.clone())
            }
            None => (M::default(), (0, 0), Members::default()),
        };
        Ok(Position {
            machine: Arc::new(machine),
            applied,
            members,
            members_index: applied.0,
            snapshot_index: applied.0,
            snapshot_bytes: recovered.snapshot.as_ref().map_or(0, |snapshot| snapshot.machine.len() as u64),
            bytes: recovered.bytes,
        })
    }
}

impl Engine {
    /// `None` if what was recovered contradicts itself in a way that only the protocol sees.
    fn start<M>(
        log: Log,
        recovered: Recovered,
        position: &Position<M>,
        settings: &Settings,
    ) -> Option<Engine> {
        let mut hard = HardState::default();
        (hard.term, hard.vote) = (recovered.hard.term, recovered.hard.vote);
        let commit = recovered.hard.commit.max(position.applied.0);
        hard.commit = commit;
        let initial = RaftState::new(hard, members_to_raft(&position.members));
        let entries = recovered.entries.into_iter().map(entry_to_raft).collect();
        let config = Config {
            id: recovered.node.0,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: position.applied.0,
            max_size_per_msg: 64 << 10,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            // The library's batching joins entries to a message of before, whose index they do not follow where the
            // follower's progress changed in between. `propose_queued` does without.
            batch_append: false,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX as u64,
            ..Config::default()
        };
        let storage = Entries::new(initial, recovered.base, entries);
        let logger = Logger::root(slog::Discard, slog::o!());
        let started = catch_unwind(AssertUnwindSafe(|| RawNode::new(&config, storage, &logger)));
        Some(Engine {
            raw: started.ok()?.ok()?,
            log,
            hard: recovered.hard,
            known: Hard { commit, ..recovered.hard },
            commit_at_tick: recovered.hard.commit,
            commit_is_due: false,
        })
    }

    /// Whether something is known that has to be on the disk before anybody is told or it is applied.
    pub(super) fn owes_the_disk(&self) -> bool {
        let Engine { raw, hard, known, .. } = self;
        (known.term, known.vote) != (hard.term, hard.vote)
            || raw.store().has_change_between(hard.commit, known.commit)
    }
}
