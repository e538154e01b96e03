//! Reads that see everything that was answered before them.
//!
//! A reader asks the leader for its commit index; the leader answers once a majority confirmed that it still leads
//! (thesis, section 6.4), and the read is good as soon as that much is applied here. Reads that arrive while a round
//! is being asked for share the next one.
//!
//! Leaders drop questions in silence: when they have committed nothing in their term yet, when they step down, when
//! a message is lost. So a round is asked again, under a new number, and given up in the end. Any answer to any of
//! its questions will do: each was asked after the reads began.

use vswitch_proto::id::NodeId;

use super::group::{Group, ReadLost, Settings};
use super::machine::Machine;

/// Reads under way.
const READS_MAX: usize = 16384;
const ROUNDS_MAX: usize = 64;
/// After which a round is given up, in election timeouts.
const PATIENCE_TIMEOUTS: u64 = 4;

#[derive(Debug)]
pub(super) struct Reads {
    node: NodeId,
    start: u64,
    /// Number of the next question.
    next: u64,
    new: Vec<u64>,
    asked: Vec<Round>,
    /// Answered, waiting for the index to be applied.
    answered: Vec<(u64, Round)>,
    count: usize,
}

#[derive(Debug)]
struct Round {
    tokens: Vec<u64>,
    /// Its questions.
    numbers: Vec<u64>,
    since_tick: u64,
    asked_tick: u64,
}

impl Reads {
    pub(super) fn new(node: NodeId, settings: Settings) -> Reads {
        let (new, asked, answered) = (Vec::new(), Vec::new(), Vec::new());
        Reads { node, start: settings.seed, next: 1, new, asked, answered, count: 0 }
    }

    pub(super) fn add(&mut self, token: u64) -> bool {
        let has_room = self.count < READS_MAX;
        if has_room {
            self.new.push(token);
            self.count += 1;
        }
        has_room
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn can_issue(&self) -> bool {
        !self.new.is_empty() && self.asked.len() < ROUNDS_MAX
    }

    /// What tells this question from all others that anybody asks.
    fn context(&mut self) -> (u64, Vec<u8>) {
        let number = self.next;
        self.next += 1;
        let parts = [self.node.0, self.start, number];
        (number, parts.iter().flat_map(|part| part.to_be_bytes()).collect())
    }

    fn start_round(&mut self, now: u64) -> Option<Vec<u8>> {
        if !self.can_issue() {
            return None;
        }
        let (number, context) = self.context();
        let tokens = std::mem::take(&mut self.new);
        self.asked.push(Round { tokens, numbers: vec![number], since_tick: now, asked_tick: now });
        Some(context)
    }

    /// Rounds to ask again.
    fn overdue(&mut self, now: u64, interval: u64) -> Vec<Vec<u8>> {
        let due: Vec<usize> =
            (0..self.asked.len()).filter(|at| now - self.asked[*at].asked_tick >= interval).collect();
        let ask = |at: usize| {
            let (number, context) = self.context();
            self.asked[at].numbers.push(number);
            self.asked[at].asked_tick = now;
            context
        };
        due.into_iter().map(ask).collect()
    }

    pub(super) fn answer(&mut self, context: &[u8], index: u64) {
        let Some(number) = context.last_chunk().map(|number| u64::from_be_bytes(*number)) else { return };
        let start = [self.node.0, self.start].into_iter().flat_map(u64::to_be_bytes);
        if context.len() != 24 || !start.eq(context[..16].iter().copied()) {
            return;
        }
        if let Some(at) = self.asked.iter().position(|round| round.numbers.contains(&number)) {
            self.answered.push((index, self.asked.swap_remove(at)));
        }
    }

    pub(super) fn take_done(&mut self, applied: u64) -> Vec<(u64, Result<(), ReadLost>)> {
        let done = self.answered.extract_if(.., |(index, _)| *index <= applied);
        let done: Vec<_> = done.flat_map(|(_, round)| round.tokens).map(|token| (token, Ok(()))).collect();
        self.count -= done.len();
        done
    }

    fn take_overdue(&mut self, now: u64, patience: u64) -> Vec<(u64, Result<(), ReadLost>)> {
        let is_overdue = |round: &Round| now - round.since_tick >= patience;
        let asked = self.asked.extract_if(.., |round| is_overdue(round));
        let answered = self.answered.extract_if(.., |(_, round)| is_overdue(round)).map(|(_, round)| round);
        let tokens = asked.chain(answered).flat_map(|round| round.tokens);
        let lost: Vec<_> = tokens.map(|token| (token, Err(ReadLost))).collect();
        self.count -= lost.len();
        lost
    }

    pub(super) fn fail_all(&mut self) -> Vec<(u64, Result<(), ReadLost>)> {
        let asked = self.asked.drain(..).map(|round| round.tokens);
        let answered = self.answered.drain(..).map(|(_, round)| round.tokens);
        let tokens = asked.chain(answered).flatten().chain(self.new.drain(..));
        let lost = tokens.map(|token| (token, Err(ReadLost))).collect();
        self.count = 0;
        lost
    }
}

impl<M: Machine> Group<M> {
    pub(super) fn issue_reads(&mut self) {
        if self.engine.is_none() {
            let lost = self.reads.fail_all();
            self.output.reads.extend(lost);
        }
        let Some(engine) = self.engine.as_mut() else { return };
        if let Some(context) = self.reads.start_round(self.ticks.now) {
            engine.raw.read_index(context);
        }
    }

    pub(super) fn tick_reads(&mut self) {
        let patience = PATIENCE_TIMEOUTS * self.settings.election_ticks as u64;
        let lost = self.reads.take_overdue(self.ticks.now, patience);
        self.output.reads.extend(lost);
        let Some(engine) = self.engine.as_mut() else { return };
        let interval = 2 * self.settings.heartbeat_ticks as u64;
        for context in self.reads.overdue(self.ticks.now, interval) {
            engine.raw.read_index(context);
        }
    }
}
