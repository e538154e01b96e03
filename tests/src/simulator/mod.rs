//! A cluster in one process: real groups on simulated disks, in a simulated network, under simulated clocks.
//!
//! A run follows from its seed alone, so that a failure can be replayed: `SIM_SEED=n` runs one seed and prints what
//! happens. Nothing here sleeps, has a thread or reads a clock.
//!
//! # What happens to the cluster
//! - Disks lose what was not synced, tear writes into sectors, fail for a moment and run full. Hosts go down between any
//!   two writes, syncs and messages of a turn, killed or without power, one by one and all at once, and come up again.
//! - The network delays, loses, doubles and reorders messages, and is cut between groups of hosts, in both
//!   directions or in one.
//! - Clocks run at different speeds, jump, and stop for a while.
//! - Nodes are added, promoted, demoted, replaced and removed; disks are lost for good, and their hosts come back as
//!   new nodes.
//!
//! # What is checked
//! - What clients asked and were answered is linearizable ([`linear`], [`history`]), also where some of them gave up.
//! - No address, MAC or VNI is given twice, in whatever a client reads.
//! - A term has one leader; what was applied up to an index is the same on all nodes, across restarts too.
//! - No node votes twice in a term, speaks in a lower one, or lacks what it confirmed (`promises`).
//! - After a crash a store opens. No honest node's message is taken for nonsense, no panic is caught.
//! - When everything is healed, all requests are answered, all members have the same state, and that is one that all
//!   acknowledged writes lead to.
//!
//! The self-tests plant a [`Bug`] and see that it is found.

use std::collections::BTreeMap;
use std::fmt;

mod admin;
mod chaos;
mod clients;
pub mod disk;
mod growth;
pub mod history;
pub mod linear;
mod promises;
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
    /// After a crash a node finds what was on its disk at the crash before.
    OldDisks,
    /// The machine of a node leaves an entry out.
    SkipsAnEntry,
}

/// What a run that found nothing wrong was like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How often things happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// Over everything that happened, in order.
    pub trace: u64,
}

/// What has to happen in a handful of runs, or they test less than they say.
pub const HAS_TO_HAPPEN: [&str; 22] = [
    "operations",
    "operations given up",
    "moves",
    "refusals",
    "messages",
    "snapshots sent",
    "elections",
    "crashes",
    "crashes at a write",
    "crashes at a sync",
    "crashes at a message",
    "blackouts",
    "writes lost",
    "writes torn",
    "disks lost",
    "failures of disks",
    "cuts in both directions",
    "cuts in one direction",
    "pauses",
    "jumps of a clock",
    "changes of the membership",
    "joint memberships",
];

impl Report {
    pub fn add(&mut self, other: &Report) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    /// Of [`HAS_TO_HAPPEN`], what did not.
    pub fn missing(&self) -> Vec<&'static str> {
        HAS_TO_HAPPEN.into_iter().filter(|what| !self.counts.contains_key(what)).collect()
    }
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
