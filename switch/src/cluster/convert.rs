//! Between our messages and the protocol library's.
//!
//! The library's types are generated from a protobuf schema. They are only built and taken apart here, never parsed:
//! an entry that changes the membership carries our encoding in its context, and no data.

use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry as RaftEntry,
    EntryType, Message as RaftMessage, MessageType, Snapshot as RaftSnapshot,
};
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::{
    AppendRejected, Body, Entry, MemberChange, Members, MembershipChange, Message, Payload, Snapshot,
};

/// Of a leader that hands over: its follower's election goes ahead at once (`raft::CAMPAIGN_TRANSFER`).
const TRANSFER: &[u8] = b"CampaignTransfer";

pub(super) fn encode_change(change: &MembershipChange) -> Vec<u8> {
    postcard::to_allocvec(change).expect("plain data into memory can always be encoded")
}

pub(super) fn change_of(entry: &RaftEntry) -> MembershipChange {
    postcard::from_bytes(&entry.context).expect("this module wrote every context in the log")
}

pub(super) fn entry_to_raft(entry: Entry) -> RaftEntry {
    let mut raft = RaftEntry { term: entry.term, index: entry.index, ..RaftEntry::default() };
    match entry.payload {
        Payload::Empty => {}
        Payload::Command(bytes) => raft.data = bytes.into(),
        Payload::Membership(change) => {
            raft.set_entry_type(EntryType::EntryConfChangeV2);
            raft.context = encode_change(&change).into();
        }
    }
    raft
}

pub(super) fn entry_from_raft(raft: &RaftEntry) -> Entry {
    let payload = match raft.get_entry_type() {
        EntryType::EntryNormal if raft.data.is_empty() => Payload::Empty,
        EntryType::EntryNormal => Payload::Command(raft.data.to_vec()),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => Payload::Membership(change_of(raft)),
    };
    Entry { term: raft.term, index: raft.index, payload }
}

/// Without data, which only the proposing leader's library reads.
pub(super) fn without_protobuf(mut raft: RaftEntry) -> RaftEntry {
    if raft.get_entry_type() != EntryType::EntryNormal {
        raft.data.clear();
    }
    raft
}

pub(super) fn change_to_raft(change: &MembershipChange) -> ConfChangeV2 {
    let single = |change: &MemberChange| {
        let (kind, id) = match *change {
            MemberChange::AddLearner(id) | MemberChange::Demote(id) => (ConfChangeType::AddLearnerNode, id),
            MemberChange::AddVoter(id) => (ConfChangeType::AddNode, id),
            MemberChange::Remove(id) => (ConfChangeType::RemoveNode, id),
        };
        let mut single = ConfChangeSingle { node_id: id.0, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        single
    };
    let mut raft = ConfChangeV2::default();
    raft.set_changes(change.0.iter().map(single).collect::<Vec<_>>().into());
    // Left when the leader says so, see `membership`.
    let joint = change.0.len() > 1;
    raft.set_transition(if joint { ConfChangeTransition::Explicit } else { ConfChangeTransition::Auto });
    raft
}

pub(super) fn members_to_raft(members: &Members) -> ConfState {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|id| id.0).collect::<Vec<_>>();
    let mut raft = ConfState::default();
    raft.set_voters(ids(&members.voters));
    raft.set_learners(ids(&members.learners));
    raft.set_voters_outgoing(ids(&members.outgoing));
    raft.set_learners_next(ids(&members.learners_next));
    raft
}

pub(super) fn members_from_raft(raft: &ConfState) -> Members {
    let ids = |raft: &[u64]| {
        let mut ids: Vec<NodeId> = raft.iter().copied().map(NodeId).collect();
        ids.sort_unstable();
        ids
    };
    Members {
        voters: ids(&raft.voters),
        learners: ids(&raft.learners),
        outgoing: ids(&raft.voters_outgoing),
        learners_next: ids(&raft.learners_next),
    }
}

pub(super) fn snapshot_to_raft(snapshot: Snapshot) -> RaftSnapshot {
    let mut raft = RaftSnapshot::default();
    let meta = raft.mut_metadata();
    (meta.index, meta.term) = (snapshot.index, snapshot.term);
    meta.set_conf_state(members_to_raft(&snapshot.members));
    raft.data = snapshot.machine.into();
    raft
}

pub(super) fn snapshot_from_raft(raft: &RaftSnapshot) -> Snapshot {
    let meta = raft.get_metadata();
    let members = members_from_raft(meta.get_conf_state());
    Snapshot { index: meta.index, term: meta.term, members, machine: raft.data.to_vec() }
}

pub(super) fn to_raft(message: Message) -> RaftMessage {
    let mut raft =
        RaftMessage { from: message.from.0, to: message.to.0, term: message.term, ..RaftMessage::default() };
    let kind = match message.body {
        Body::Append { index, log_term, commit, entries } => {
            (raft.index, raft.log_term, raft.commit) = (index, log_term, commit);
            raft.set_entries(entries.into_iter().map(entry_to_raft).collect::<Vec<_>>().into());
            MessageType::MsgAppend
        }
        Body::AppendAnswer { index, commit, rejected } => {
            (raft.index, raft.commit) = (index, commit);
            if let Some(AppendRejected { hint, log_term, request_snapshot }) = rejected {
                raft.reject = true;
                (raft.reject_hint, raft.log_term) = (hint, log_term);
                raft.request_snapshot = request_snapshot;
            }
            MessageType::MsgAppendResponse
        }
        Body::Vote { pre, index, log_term, commit, commit_term, transfer } => {
            (raft.index, raft.log_term) = (index, log_term);
            (raft.commit, raft.commit_term) = (commit, commit_term);
            if transfer {
                raft.context = TRANSFER.into();
            }
            if pre { MessageType::MsgRequestPreVote } else { MessageType::MsgRequestVote }
        }
        Body::VoteAnswer { pre, rejected, commit, commit_term } => {
            (raft.reject, raft.commit, raft.commit_term) = (rejected, commit, commit_term);
            if pre { MessageType::MsgRequestPreVoteResponse } else { MessageType::MsgRequestVoteResponse }
        }
        Body::Snapshot(snapshot) => {
            raft.set_snapshot(snapshot_to_raft(snapshot));
            MessageType::MsgSnapshot
        }
        Body::Heartbeat { commit, context } => {
            (raft.commit, raft.context) = (commit, context.into());
            MessageType::MsgHeartbeat
        }
        Body::HeartbeatAnswer { commit, context } => {
            (raft.commit, raft.context) = (commit, context.into());
            MessageType::MsgHeartbeatResponse
        }
        Body::TimeoutNow => MessageType::MsgTimeoutNow,
        Body::ReadIndex { context } => {
            raft.set_entries(vec![with_data(context)].into());
            MessageType::MsgReadIndex
        }
        Body::ReadIndexAnswer { index, context } => {
            raft.index = index;
            raft.set_entries(vec![with_data(context)].into());
            MessageType::MsgReadIndexResp
        }
    };
    raft.set_msg_type(kind);
    raft
}

fn with_data(data: Vec<u8>) -> RaftEntry {
    RaftEntry { data: data.into(), ..RaftEntry::default() }
}

/// `None` for what only concerns the node itself.
pub(super) fn from_raft(raft: RaftMessage) -> Option<Message> {
    let context = || raft.context.to_vec();
    let data = || raft.entries.first().map_or(Vec::new(), |entry| entry.data.to_vec());
    let kind = raft.get_msg_type();
    let body = match kind {
        MessageType::MsgAppend => Body::Append {
            index: raft.index,
            log_term: raft.log_term,
            commit: raft.commit,
            entries: raft.entries.iter().map(entry_from_raft).collect(),
        },
        MessageType::MsgAppendResponse => Body::AppendAnswer {
            index: raft.index,
            commit: raft.commit,
            rejected: raft.reject.then_some(AppendRejected {
                hint: raft.reject_hint,
                log_term: raft.log_term,
                request_snapshot: raft.request_snapshot,
            }),
        },
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => Body::Vote {
            pre: kind == MessageType::MsgRequestPreVote,
            index: raft.index,
            log_term: raft.log_term,
            commit: raft.commit,
            commit_term: raft.commit_term,
            transfer: raft.context == TRANSFER,
        },
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => Body::VoteAnswer {
            pre: kind == MessageType::MsgRequestPreVoteResponse,
            rejected: raft.reject,
            commit: raft.commit,
            commit_term: raft.commit_term,
        },
        MessageType::MsgSnapshot => Body::Snapshot(snapshot_from_raft(raft.get_snapshot())),
        MessageType::MsgHeartbeat => Body::Heartbeat { commit: raft.commit, context: context() },
        MessageType::MsgHeartbeatResponse => {
            Body::HeartbeatAnswer { commit: raft.commit, context: context() }
        }
        MessageType::MsgTimeoutNow => Body::TimeoutNow,
        MessageType::MsgReadIndex => Body::ReadIndex { context: data() },
        MessageType::MsgReadIndexResp => Body::ReadIndexAnswer { index: raft.index, context: data() },
        // Proposals and transfers are not passed on, the others never leave their node.
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => return None,
    };
    Some(Message { from: NodeId(raft.from), to: NodeId(raft.to), term: raft.term, body })
}
