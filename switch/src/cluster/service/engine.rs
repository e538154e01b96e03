//! The thread that a group lives on.
//!
//! A turn of the protocol waits for the disk, so it has a thread of its own. The thread takes what has come in, gives
//! it to the group, does turns as long as there is something to do, and publishes what came of it. Whatever has come
//! in meanwhile goes into one turn, so that under load many proposals share a sync.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use vswitch_proto::command::SharedEnvelope;
use vswitch_proto::id::{NodeId, RequestId};
use vswitch_proto::peer::{MemberChange, Message};

use super::super::group::{Dropped, Group, NotProposed, Output, ReadLost, Role};
use super::super::membership::NotChanged;
use super::super::role::{Part, Sender};
use super::super::status::Status;
use crate::state::Rejected;
use crate::state::shared::{Applied, Shared};
use crate::vitals::Vitals;

/// Waiting for the thread.
const INPUTS_MAX: usize = 8192;
/// Taken in before the next turn.
const BATCH_MAX: usize = 1024;
/// Turns of which the time is remembered.
const SYNCS_MAX: usize = 256;

type Outcome = Result<Applied, Rejected>;

/// What came of a proposal.
#[derive(Debug)]
pub(super) enum Proposed {
    Applied(Outcome),
    Refused(NotProposed),
    /// May or may not be applied yet: ask again under the same id.
    Lost,
}

pub(super) enum Input {
    Message(Sender, Message),
    Propose(Box<SharedEnvelope>, oneshot::Sender<Proposed>),
    Read(oneshot::Sender<Result<(), ReadLost>>),
    Change(Vec<MemberChange>, oneshot::Sender<Result<(), NotChanged>>),
    Transfer(NodeId),
    Unreachable(NodeId),
    /// Take no part, or take part again.
    Mute(bool),
    Stop,
}

/// What the group is at, published after each turn and tick.
#[derive(Clone)]
pub(super) struct View {
    pub(super) state: Arc<Shared>,
    pub(super) status: Arc<Status>,
    pub(super) syncs: Arc<Syncs>,
    /// Why the group fell silent, in one line.
    pub(super) failure: Option<Arc<str>>,
    pub(super) offences: Arc<BTreeMap<NodeId, Offence>>,
}

/// Messages of a node that its part in the group does not include. They were refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offence {
    /// Name of the last one.
    pub(super) message: &'static str,
    pub(super) count: u64,
    pub(super) last: Instant,
}

/// How long the last turns that changed the state took.
#[derive(Debug, Clone, Default)]
pub(super) struct Syncs(VecDeque<Duration>);

impl Syncs {
    fn add(&mut self, took: Duration) {
        if self.0.len() == SYNCS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(took);
    }

    pub(super) fn median(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    pub(super) fn max(&self) -> Option<Duration> {
        self.0.iter().max().copied()
    }
}

/// The way to the thread. Clones are the same one.
#[derive(Clone)]
pub(super) struct Engine {
    inputs: SyncSender<Input>,
    view: watch::Receiver<View>,
    leader: watch::Receiver<Option<NodeId>>,
}

/// The thread, which ends after [`Input::Stop`].
pub(super) type Thread = JoinHandle<()>;

impl Engine {
    pub(super) fn start(
        group: Group<Shared>,
        tick: Duration,
        vitals: Vitals,
        send: impl FnMut(Message) + Send + 'static,
    ) -> std::io::Result<(Engine, Thread)> {
        let (inputs, received) = sync_channel(INPUTS_MAX);
        let view = View {
            state: group.machine().clone(),
            status: Arc::new(group.status()),
            syncs: Arc::new(Syncs::default()),
            failure: None,
            offences: Arc::default(),
        };
        let (publish_leader, leader) = watch::channel(view.status.leader);
        let (publish, view) = watch::channel(view);
        let turner = Turner {
            group,
            send: Box::new(send),
            proposals: HashMap::new(),
            reads: HashMap::new(),
            next_read: 0,
            syncs: Syncs::default(),
            published_syncs: Arc::default(),
            failure: None,
            offences: Arc::default(),
            publish,
            publish_leader,
            is_published: true,
        };
        let run = move || vitals.run("the cluster thread", || turner.run(&received, tick));
        let thread = std::thread::Builder::new().name("cluster".into()).spawn(run)?;
        Ok((Engine { inputs, view, leader }, thread))
    }

    pub(super) fn view(&self) -> View {
        self.view.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Changes when [`View`]'s leader does, and not with all else that happens.
    pub(super) fn watch_leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.leader.clone()
    }

    /// False: dropped, the thread is behind or gone.
    pub(super) fn offer(&self, input: Input) -> bool {
        self.inputs.try_send(input).is_ok()
    }

    pub(super) async fn propose(&self, envelope: SharedEnvelope) -> Proposed {
        let (sender, outcome) = oneshot::channel();
        match self.inputs.try_send(Input::Propose(Box::new(envelope), sender)) {
            Ok(()) => outcome.await.unwrap_or(Proposed::Lost),
            Err(TrySendError::Full(_)) => Proposed::Refused(NotProposed::Busy),
            Err(TrySendError::Disconnected(_)) => Proposed::Refused(NotProposed::Down),
        }
    }

    /// Afterwards the view has everything that was answered to anybody before.
    pub(super) async fn read(&self) -> Result<(), ReadLost> {
        let (sender, outcome) = oneshot::channel();
        if !self.offer(Input::Read(sender)) {
            return Err(ReadLost);
        }
        outcome.await.unwrap_or(Err(ReadLost))
    }

    /// Proposes a change of the membership; the view shows when it is in force.
    pub(super) async fn change(&self, changes: Vec<MemberChange>) -> Result<(), NotChanged> {
        let (sender, outcome) = oneshot::channel();
        if !self.offer(Input::Change(changes, sender)) {
            return Err(NotChanged::InProgress);
        }
        outcome.await.unwrap_or(Err(NotChanged::InProgress))
    }

    /// Waits for room, so that it is not lost.
    pub(super) fn stop(&self) {
        // An error says that the thread is gone already.
        _ = self.inputs.send(Input::Stop);
    }
}

struct Turner {
    group: Group<Shared>,
    send: Box<dyn FnMut(Message) + Send>,
    /// Several may wait for one: it was forwarded twice, for example.
    proposals: HashMap<RequestId, Vec<oneshot::Sender<Proposed>>>,
    reads: HashMap<u64, oneshot::Sender<Result<(), ReadLost>>>,
    next_read: u64,
    syncs: Syncs,
    /// As of the last tick.
    published_syncs: Arc<Syncs>,
    failure: Option<Arc<str>>,
    offences: Arc<BTreeMap<NodeId, Offence>>,
    publish: watch::Sender<View>,
    publish_leader: watch::Sender<Option<NodeId>>,
    /// Nothing happened since.
    is_published: bool,
}

impl Turner {
    fn run(mut self, inputs: &Receiver<Input>, tick: Duration) {
        let mut next_tick = Instant::now() + tick;
        loop {
            let mut stop = false;
            match inputs.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(input) => {
                    stop |= !self.take(input);
                    for input in inputs.try_iter().take(BATCH_MAX) {
                        stop |= !self.take(input);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => stop = true,
            }
            if stop {
                return;
            }
            let now = Instant::now();
            let ticks = now >= next_tick;
            if ticks {
                self.group.tick();
                self.published_syncs = Arc::new(self.syncs.clone());
                // After a pause of the process time does not run faster: that would look like a silent leader.
                next_tick = (next_tick + tick).max(now);
            }
            while self.group.has_ready() {
                self.turn();
            }
            if ticks || !self.is_published {
                self.publish();
            }
        }
    }

    /// False: stop.
    fn take(&mut self, input: Input) -> bool {
        match input {
            Input::Message(from, message) => {
                if let Err(dropped) = self.group.step(from, message) {
                    tracing::debug!(node = from.node.0, "a message was dropped: {dropped}");
                    self.note_offence(&dropped);
                }
            }
            Input::Propose(envelope, answer) => match self.group.propose(&envelope) {
                Ok(()) => self.proposals.entry(envelope.request_id).or_default().push(answer),
                // Whoever asked may have given up; so below.
                Err(error) => _ = answer.send(Proposed::Refused(error)),
            },
            Input::Read(answer) => {
                let token = self.next_read;
                self.next_read += 1;
                if self.group.read(token) {
                    self.reads.insert(token, answer);
                } else {
                    _ = answer.send(Err(ReadLost));
                }
            }
            Input::Change(changes, answer) => _ = answer.send(self.group.change_members(&changes)),
            Input::Transfer(to) => self.group.transfer_leader(to),
            Input::Unreachable(node) => self.group.report_unreachable(node),
            Input::Mute(is_muted) => {
                self.group.set_muted(is_muted);
                self.is_published = false;
            }
            Input::Stop => return false,
        }
        true
    }

    /// Counts what a node may not send, and logs the first one. A stranger is left out: it was just removed, or is about
    /// to be added.
    fn note_offence(&mut self, dropped: &Dropped) {
        let Dropped::NotAllowed { node, part: Part::Learner, message } = *dropped else { return };
        let offences = Arc::make_mut(&mut self.offences);
        let last = Instant::now();
        let offence = offences.entry(node).or_insert_with(|| {
            tracing::error!(node = node.0, "refused, and counted from now on: {dropped}");
            Offence { message, count: 0, last }
        });
        *offence = Offence { message, count: offence.count + 1, last };
        self.is_published = false;
    }

    fn turn(&mut self) {
        let begun = Instant::now();
        let output = self.group.ready(&mut self.send);
        if output.advanced {
            self.syncs.add(begun.elapsed());
        }
        self.is_published = false;
        let Output { applied, lost, reads, failure, advanced, .. } = output;
        if advanced || !applied.is_empty() {
            // Whoever is answered finds the change in the view.
            self.publish();
        }
        for (request, outcome) in applied {
            for answer in self.proposals.remove(&request).unwrap_or_default() {
                _ = answer.send(Proposed::Applied(outcome.clone()));
            }
        }
        for request in lost {
            for answer in self.proposals.remove(&request).unwrap_or_default() {
                _ = answer.send(Proposed::Lost);
            }
        }
        for (token, outcome) in reads {
            if let Some(answer) = self.reads.remove(&token) {
                _ = answer.send(outcome);
            }
        }
        if let Some(failure) = failure {
            tracing::error!("the cluster's log on this node: {failure}");
            self.failure = Some(failure.to_string().into());
        } else if self.group.role() != Role::Down {
            self.failure = None;
        }
    }

    fn publish(&mut self) {
        let view = View {
            state: self.group.machine().clone(),
            status: Arc::new(self.group.status()),
            syncs: self.published_syncs.clone(),
            failure: self.failure.clone(),
            offences: self.offences.clone(),
        };
        let leader = view.status.leader;
        self.publish.send_replace(view);
        self.publish_leader.send_if_modified(|before| std::mem::replace(before, leader) != leader);
        self.is_published = true;
    }
}
