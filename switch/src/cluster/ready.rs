//! One turn of the protocol.
//!
//! The order is the library's contract (`raft::RawNode::ready`), and the numbers below are those in the code:
//!
//! 1. Send messages. Only a leader has any here; they claim nothing about its own disk.
//! 2. Apply a snapshot. It was checked when it came in.
//! 3. Note the answers to reads.
//! 4. Apply committed entries. They are on the disk already.
//! 5. Append entries, and
//! 6. persist term, vote and, where it has to be (below), the commit index, with 2 and 5 in one transaction.
//! 7. Send the messages that claim what was persisted: acknowledgements and votes.
//! 8. Tell the protocol that it is persisted, which may commit more.
//! 9. Persist the new commit index where it has to be, send, and apply what became committed.
//! 10. Tell the protocol what is applied.
//!
//! A write that fails ends the turn where it is: later messages are not sent, and nothing more is applied.
//!
//! # The commit index
//! What is committed stays so without anybody's commit index: a majority has the entries. So a commit index alone is
//! not worth a transaction of its own, which would double what a change costs each node. It goes along with the next
//! entries, or with the next tick if there are none, so that a node that comes back while there is no leader has all
//! but the last moment.
//!
//! The exception is a change of the membership. A node that restarts has to know which changes are in force, or it
//! might stand for election in a configuration that is long gone. So **the commit index on the disk is never behind a
//! change of the membership that is known here to be committed** when anybody is told or when 9 applies it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use raft::eraftpb::{Entry as RaftEntry, EntryType, Message as RaftMessage, Snapshot as RaftSnapshot};
use vswitch_proto::peer::Message;

use super::convert::{
    change_of, entry_from_raft, from_raft, members_to_raft, snapshot_from_raft, without_protobuf,
};
use super::group::{Failure, Group, Output, Position};
use super::log::{Batch, Hard};
use super::machine::{Machine, decode};

impl<M: Machine> Group<M> {
    /// Does one turn. Messages go to `send` as soon as they may be sent.
    pub fn ready(&mut self, mut send: impl FnMut(Message)) -> Output<M::Outcome> {
        self.settle_leadership();
        self.propose_queued();
        self.catching(Group::issue_reads);
        if self.engine.as_ref().is_some_and(|engine| engine.raw.has_ready()) {
            match catch_unwind(AssertUnwindSafe(|| self.turn(&mut send))) {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => self.fail(failure),
                Err(_) => self.fail(Failure::Panicked),
            }
        }
        self.outbox.drain(..).for_each(&mut send);
        self.catching(|group| {
            group.keep_membership();
            group.offer_snapshot();
            group.settle_leadership();
        });
        if let Err(failure) = self.persist_commit().and_then(|()| self.compact_when_due()) {
            self.fail(failure);
        }
        let done = self.reads.take_done(self.position.applied.0);
        self.output.reads.extend(done);
        std::mem::take(&mut self.output)
    }

    fn turn(&mut self, send: &mut impl FnMut(Message)) -> Result<(), Failure> {
        let Some(engine) = self.engine.as_mut() else { return Ok(()) };
        let mut ready = engine.raw.ready();
        // 1
        self.dispatch(ready.take_messages(), send);
        // 2
        let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().clone());
        if let Some(snapshot) = &snapshot {
            self.restore(snapshot)?;
        }
        // 3
        for state in ready.take_read_states() {
            self.reads.answer(&state.request_ctx, state.index);
        }
        // 4
        self.apply(ready.take_committed_entries())?;
        // 5, 6
        if let (Some(hs), Some(engine)) = (ready.hs(), self.engine.as_mut()) {
            engine.known = Hard { term: hs.term, vote: hs.vote, commit: hs.commit };
        }
        self.persist(snapshot.as_ref(), ready.take_entries())?;
        // 7
        self.dispatch(ready.take_persisted_messages(), send);
        // 8
        let Some(engine) = self.engine.as_mut() else { return Ok(()) };
        let mut light = engine.raw.advance_append(ready);
        // 9
        if let Some(commit) = light.commit_index() {
            engine.known.commit = commit;
            self.persist(None, Vec::new())?;
        }
        self.dispatch(light.take_messages(), send);
        self.apply(light.take_committed_entries())?;
        // 10
        if let Some(engine) = self.engine.as_mut() {
            engine.raw.advance_apply();
        }
        Ok(())
    }

    fn dispatch(&self, messages: Vec<RaftMessage>, send: &mut impl FnMut(Message)) {
        // A question of another node that reached a follower would go on in that node's name: it asks again itself.
        let own = messages.into_iter().filter_map(from_raft).filter(|message| message.from == self.node);
        own.for_each(send);
    }

    fn restore(&mut self, snapshot: &RaftSnapshot) -> Result<(), Failure> {
        let meta = snapshot.get_metadata();
        let machine = match self.received.take() {
            Some((index, machine)) if index == meta.index => machine,
            _ => M::from_bytes(&snapshot.data).map_err(Failure::Entry)?,
        };
        self.position = Position {
            machine: Arc::new(machine),
            applied: (meta.index, meta.term),
            members: super::convert::members_from_raft(meta.get_conf_state()),
            members_index: meta.index,
            snapshot_index: meta.index,
            snapshot_bytes: snapshot.data.len() as u64,
            bytes: 0,
        };
        (self.output.advanced, self.output.members_changed) = (true, true);
        Ok(())
    }

    fn apply(&mut self, entries: Vec<RaftEntry>) -> Result<(), Failure> {
        for entry in entries {
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => self.apply_command(&entry.data)?,
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    self.apply_change(entry.index, &change_of(&entry));
                }
            }
            self.position.applied = (entry.index, entry.term);
        }
        Ok(())
    }

    fn apply_command(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let command: M::Command = decode(bytes).map_err(Failure::Entry)?;
        let request = M::request(&command);
        let outcome = Arc::make_mut(&mut self.position.machine).apply(&command);
        self.output.advanced = true;
        if self.proposals.remove(&request) {
            self.output.applied.push((request, outcome));
        }
        Ok(())
    }

    fn persist(&mut self, snapshot: Option<&RaftSnapshot>, entries: Vec<RaftEntry>) -> Result<(), Failure> {
        let Some(engine) = self.engine.as_mut() else { return Ok(()) };
        if snapshot.is_none() && entries.is_empty() && !engine.owes_the_disk() {
            return Ok(());
        }
        let hard = Some(engine.known).filter(|known| *known != engine.hard);
        let own_entries: Vec<_> = entries.iter().map(entry_from_raft).collect();
        let own_snapshot = snapshot.map(snapshot_from_raft);
        let batch = Batch { hard, snapshot: own_snapshot.as_ref(), entries: &own_entries };
        self.position.bytes += engine.log.persist(&batch)?;
        engine.hard = engine.known;
        let storage = engine.raw.mut_store();
        if let Some(snapshot) = &own_snapshot {
            storage.reset((snapshot.index, snapshot.term));
        }
        storage.append(entries.into_iter().map(without_protobuf).collect());
        Ok(())
    }

    /// A commit index that nothing took along since the last tick.
    pub(super) fn persist_commit(&mut self) -> Result<(), Failure> {
        let Some(engine) = self.engine.as_mut() else { return Ok(()) };
        if !std::mem::take(&mut engine.commit_is_due) || engine.known == engine.hard {
            return Ok(());
        }
        engine.log.persist(&Batch { hard: Some(engine.known), ..Batch::default() })?;
        engine.hard = engine.known;
        Ok(())
    }

    fn snapshot(&self) -> RaftSnapshot {
        let mut snapshot = RaftSnapshot::default();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = self.position.applied;
        meta.set_conf_state(members_to_raft(&self.position.members));
        snapshot.data = self.position.machine.to_bytes().into();
        snapshot
    }

    /// For a follower that needs what was compacted: made when asked for, kept until everybody has caught up.
    fn offer_snapshot(&mut self) {
        let Some(engine) = self.engine.as_ref() else { return };
        if engine.raw.store().take_wanted() {
            self.ticks.offered = Some(self.ticks.now);
            self.offer(Some(self.snapshot()));
            return;
        }
        let patience = self.settings.election_ticks as u64;
        let is_old = self.ticks.offered.is_some_and(|at| self.ticks.now - at > patience);
        if is_old && !engine.raw.raft.prs().iter().any(|(_, p)| p.state == raft::ProgressState::Snapshot) {
            self.ticks.offered = None;
            self.offer(None);
        }
    }

    fn offer(&mut self, snapshot: Option<RaftSnapshot>) {
        if let Some(engine) = self.engine.as_mut() {
            engine.raw.mut_store().offer(snapshot);
        }
    }

    fn compact_when_due(&mut self) -> Result<(), Failure> {
        let limits = self.settings.limits;
        let Position { applied: (applied, _), snapshot_index, snapshot_bytes, bytes, .. } = self.position;
        let is_worth_it = bytes >= snapshot_bytes.saturating_mul(limits.worth_percent) / 100;
        let is_due = (applied - snapshot_index >= limits.entries && is_worth_it) || bytes >= limits.bytes;
        if !is_due || applied == snapshot_index {
            return Ok(());
        }
        let snapshot = snapshot_from_raft(&self.snapshot());
        let Some(engine) = self.engine.as_mut() else { return Ok(()) };
        let storage = engine.raw.store();
        let base = applied.saturating_sub(limits.trailing).max(storage.first() - 1);
        let base = (base, storage.term_at(base));
        // What is applied is committed, and may not be on the disk as such yet.
        engine.log.compact(engine.known, &snapshot, base)?;
        engine.hard = engine.known;
        engine.raw.mut_store().compact(base.0);
        self.position.snapshot_index = applied;
        self.position.snapshot_bytes = snapshot.machine.len() as u64;
        self.position.bytes = 0;
        Ok(())
    }
}
