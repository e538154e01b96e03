//! Replicated state: a machine, a durable log in front of it, and agreement on what is in the log.
//!
//! # Theory of operation
//! A proposal is appended to the log of a majority of the group's members, synced there, then applied to the machine
//! by everybody, then answered. What was answered is there after a crash. Opening reads the last snapshot and applies
//! the entries behind it; snapshots replace entries in time, which bounds the log.
//!
//! Every proposal is logged, also one that `apply` then rejects: the log decides the order, `apply` decides the
//! outcome, and the outcome, rejections included, is remembered under the request's id. So the same log gives the
//! same machine on each node, to the last byte. Only a request that is remembered already is answered unlogged.
//!
//! There are two groups, run by the same code. The local one has one voter, this node, and is driven by [`Replica`];
//! its networks need nobody else. The other one spans the hosts that were joined.
//!
//! Modules in reading order:
//!
//! 1. [`group`]: one member of a group, without sockets or clocks.
//! 2. `ready`: one turn of the protocol, in numbered steps.
//! 3. `membership` and `reads`: what changes who takes part, and what readers may rely on.
//! 4. `machine`: what is replicated.
//! 5. `log` and `store`: what is on the disk; `entries`: the copy of it in memory.
//! 6. `role`, `proof`, `guard` and `check`: which messages are taken from whom; `convert`: the library's types;
//!    `runs`: which start of a node is talked to.
//! 7. `replica`: a group of one.
#![forbid(unsafe_code)]

mod check;
mod convert;
#[cfg(test)]
mod disk;
mod entries;
pub mod group;
#[cfg(test)]
mod group_tests;
mod guard;
pub mod identity;
mod log;
mod machine;
mod membership;
mod outcome;
mod proof;
mod reads;
mod ready;
mod replica;
mod role;
mod runs;
pub mod service;
mod status;
mod store;
#[cfg(test)]
mod tests;
pub mod token;
pub mod transport;

pub use check::Nonsense;
pub use group::{Dropped, Failure, Group, Limits, NotProposed, Output, ReadLost, Role, Settings};
pub use log::{Birth, OpenError, WriteError, create, initialise};
pub use machine::{Machine, Unreadable};
pub use membership::NotChanged;
pub use replica::{ProposeError, Replica};
pub use role::{Part, Sender};
pub use runs::{Meeting, Reached, Run, Runs, Unfit};
pub use status::{Peer, PeerState, Status};
pub use store::Store;
