//! What is measured of a cluster, what the project wants of it, and the samples.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::results::Machine;
use crate::stats::Summary;

/// Raised when a reader of older files would misunderstand newer ones.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Under three minutes
    Quick,
    /// More repeats, and more sizes of the simulated cluster
    Full,
}

/// In the order of the report. The names in files are these in snake case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    Sync,
    LeaderMedian,
    LeaderP99,
    FollowerMedian,
    FollowerP99,
    ReadMedian,
    ReadP99,
    MoveMedian,
    ManyRate,
    ManyMedian,
    ManyP99,
    ManyCpu,
    NewLeader,
    FirstWrite,
    Restart,
    RestartRead,
    Memory,
    SnapshotSave,
    SnapshotBytes,
    FullMedian,
    FullP99,
    FullRate,
    Slowest,
    MessagesPerChange,
    BytesPerChange,
    IdleMessages,
    IdleBytes,
    StateBytes,
}

/// What the median has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    Under(f64),
    Over(f64),
}

/// How a figure is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spec {
    pub title: &'static str,
    pub unit: &'static str,
    pub goal: Option<Goal>,
}

use Goal::{Over, Under};

impl Figure {
    pub fn spec(self) -> Spec {
        let (title, unit, goal) = match self {
            Figure::Sync => ("the disk alone: 4 KiB written and synced, median", "ms", None),
            Figure::LeaderMedian => ("an endpoint at the leader, 1 client, median", "ms", Some(Under(10.0))),
            Figure::LeaderP99 => ("an endpoint at the leader, 1 client, p99", "ms", None),
            Figure::FollowerMedian => {
                ("an endpoint at a follower, 1 client, median", "ms", Some(Under(10.0)))
            }
            Figure::FollowerP99 => ("an endpoint at a follower, 1 client, p99", "ms", None),
            Figure::ReadMedian => ("a linearizable read at a follower, median", "ms", None),
            Figure::ReadP99 => ("a linearizable read at a follower, p99", "ms", None),
            Figure::MoveMedian => ("a lease moved to another node, known on the third, median", "ms", None),
            Figure::ManyRate => ("endpoints, 64 clients on 3 nodes", "/s", Some(Over(2000.0))),
            Figure::ManyMedian => ("an endpoint among 64 clients, median", "ms", None),
            Figure::ManyP99 => ("an endpoint among 64 clients, p99", "ms", None),
            Figure::ManyCpu => ("CPU time of all 3 nodes for an endpoint among 64 clients", "ms", None),
            Figure::NewLeader => ("leader killed: until the next one is known", "s", None),
            Figure::FirstWrite => ("leader killed: until the first endpoint", "s", Some(Under(2.0))),
            Figure::Restart => ("start of a killed node with 10,000 endpoints", "s", Some(Under(3.0))),
            Figure::RestartRead => ("the same, until its first linearizable read", "s", Some(Under(3.0))),
            Figure::Memory => {
                ("memory of each node for an endpoint, 10,000 of them", "KiB", Some(Under(2.0)))
            }
            Figure::SnapshotSave => ("snapshot of 10,000 endpoints saved to the disk", "s", Some(Under(1.0))),
            Figure::SnapshotBytes => ("its size", "MiB", None),
            Figure::FullMedian => {
                ("an endpoint at the leader beside 10,000, 1 client, median", "ms", Some(Under(10.0)))
            }
            Figure::FullP99 => ("an endpoint at the leader beside 10,000, 1 client, p99", "ms", None),
            Figure::FullRate => ("endpoints beside 10,000, 64 clients on 3 nodes", "/s", Some(Over(2000.0))),
            Figure::Slowest => {
                ("slowest of 50 changes until all hosts have it", "ms simulated", Some(Under(1000.0)))
            }
            Figure::MessagesPerChange => ("messages for a change", "", None),
            Figure::BytesPerChange => ("bytes for a change", "KiB", None),
            Figure::IdleMessages => ("messages in a second without changes", "", None),
            Figure::IdleBytes => ("bytes in a second without changes", "KiB", None),
            Figure::StateBytes => ("the state as a snapshot", "KiB", None),
        };
        Spec { title, unit, goal }
    }
}

impl Goal {
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Goal::Under(bound) => value < bound,
            Goal::Over(bound) => value > bound,
        }
    }

    /// Of samples, the one that is furthest from the goal.
    pub fn worst(self, summary: &Summary) -> f64 {
        match self {
            Goal::Under(_) => summary.max,
            Goal::Over(_) => summary.min,
        }
    }
}

/// Collects samples while a run goes on.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<(Figure, Option<u64>), Vec<f64>>);

impl Figures {
    pub fn add(&mut self, figure: Figure, value: f64) {
        self.put(figure, None, value);
    }

    /// Of a cluster of so many hosts.
    pub fn add_at(&mut self, figure: Figure, hosts: u64, value: f64) {
        self.put(figure, Some(hosts), value);
    }

    fn put(&mut self, figure: Figure, at: Option<u64>, value: f64) {
        if value.is_finite() {
            self.0.entry((figure, at)).or_default().push(value);
        }
    }

    pub fn into_series(self) -> Vec<Series> {
        self.0.into_iter().map(|((figure, hosts), samples)| Series { figure, hosts, samples }).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub figure: Figure,
    /// For what is measured at several sizes of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<u64>,
    /// In the order they were taken.
    pub samples: Vec<f64>,
}

/// What a run leaves behind: `cluster.json` is this.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    pub format: u32,
    /// Of the rig.
    pub version: String,
    pub suite: Suite,
    pub started_unix_s: u64,
    pub elapsed_s: u64,
    pub machine: Machine,
    pub series: Vec<Series>,
    /// What went wrong, one line each. Where something is listed here, samples are missing.
    pub problems: Vec<String>,
}
