//! A cluster in one process: real groups on simulated disks, in a simulated network, under simulated clocks.
//!
//! A run follows from its seed alone, so that a failure can be replayed: `SIM_SEED=n` runs one seed and prints what
//! happens. Nothing here sleeps, has a thread or reads a clock.
//!
//! # What happens to the cluster
//! - Disks lose what was not synced, tear writes, fail for a moment and run full. Hosts go down between any two
//!   writes, syncs and messages of a turn, killed or without power, and come up again.
//! - The network delays, loses, doubles and reorders messages, and is cut between groups of hosts, in both
//!   directions or in one.
//! - Clocks run at different speeds, jump, and stop for a while.
//! - Nodes are added, promoted, demoted, replaced and removed; disks are lost for good, and their hosts come back as
//!   new nodes.
//!
//! # What is checked
//! - What clients asked and were answered is linearizable ([`linear`], [`history`]).
//! - No address, MAC or VNI is given twice, in whatever a client reads.
//! - A term has one leader; what was applied up to an index is the same on all nodes, across restarts too.
//! - After a crash a store opens. No honest node's message is taken for nonsense, no panic is caught.
//! - When everything is healed, all requests are answered, all members have the same state, and that is one that all
//!   acknowledged writes lead to.
//!
//! The self-tests plant a [`Bug`] and see that it is found.

use std::fmt;

mod admin;
mod chaos;
mod clients;
pub mod disk;
mod growth;
pub mod history;
pub mod linear;
mod subject;
mod world;

pub use growth::{Growth, grow};
use world::World;

/// Microseconds of simulated time.
pub type Time = u64;

pub const MILLISECOND: Time = 1000;
pub const SECOND: Time = 1000 * MILLISECOND;

#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub seed: u64,
    /// How long clients and chaos go on, before everything is healed.
    pub duration: Time,
    pub bug: Option<Bug>,
    /// Prints what happens.
    pub verbose: bool,
}

impl Setup {
    pub fn new(seed: u64) -> Setup {
        Setup { seed, duration: 10 * SECOND, bug: None, verbose: false }
    }
}

/// What a self-test plants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A leader answers when it has proposed.
    AnswersBeforePersist,
    /// Any node answers reads from what it has.
    StaleReads,
    /// A retry is taken for a new request.
    AppliesRetries,
    /// Disks confirm syncs that they do not do.
    LyingDisks,
    /// A node whose disk was lost comes back under its old number.
    WipedUnderOldNumber,
}

/// What a run that found nothing wrong was like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    pub operations: usize,
    pub messages: u64,
    pub bytes: u64,
    pub crashes: u64,
    pub disk_failures: u64,
    pub snapshots: u64,
    pub elections: u64,
    pub membership_changes: u64,
    /// Over everything that happened, in order.
    pub trace: u64,
}

/// What must not happen has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub seed: u64,
    pub at: Time,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { seed, at, what } = self;
        write!(f, "seed {seed}, after {} ms: {what}\nreplay with SIM_SEED={seed}", at / MILLISECOND)
    }
}

impl std::error::Error for Violation {}

/// One run from its beginning to its end.
pub fn run(setup: Setup) -> Result<Report, Violation> {
    let mut world = World::new(setup);
    world.run().map_err(|what| Violation { seed: setup.seed, at: world.now, what })
}
