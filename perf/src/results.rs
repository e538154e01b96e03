//! What a run leaves behind: every sample, who was measured, on what machine. `results.json` is this, and everything
//! else in the output is made from it.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::metric::Metric;
use crate::peers::PeerKind;
use crate::stats::Summary;

/// Raised when a reader of older files would misunderstand newer ones.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    pub format: u32,
    /// Of the rig.
    pub version: String,
    pub suite: Suite,
    pub started_unix_s: u64,
    pub elapsed_s: u64,
    pub machine: Machine,
    pub peers: Vec<PeerInfo>,
    pub series: Vec<Series>,
    /// What went wrong, one line each. Where something is listed here, samples are missing.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Throughput, round trip, 64-byte frames, connecting and 500 ports.
    Quick,
    /// Also IMIX and full frames, rates with bounded loss, and the scale of ports, addresses and floods.
    Full,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub system: String,
    /// How busy the machine was with other things before the first measurement, percent of all cores.
    pub busy_before_percent: f64,
    /// Time that the hypervisor gave to others while this ran, percent.
    pub stolen_percent: f64,
    /// What TCP does about congestion here.
    #[serde(default)]
    pub congestion_control: String,
    #[serde(default)]
    pub apart: Apart,
}

/// What was seen of the way between processors, see [`crate::closeness`].
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Apart {
    /// Nanoseconds for a line of memory from one to another, when they were nearest. 0 if there is only one.
    pub near_ns: f64,
    /// The same when they were farthest apart.
    pub far_ns: f64,
    /// Samples that were taken again.
    pub retaken: u32,
    /// Samples that were kept although the processors were apart.
    pub kept: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerInfo {
    pub peer: PeerKind,
    pub version: Option<String>,
    /// Why there is no figure.
    pub skipped: Option<String>,
}

/// What a series of samples is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub metric: Metric,
    pub peer: PeerKind,
    /// The size at which it was measured, for metrics that have an axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    #[serde(flatten)]
    pub key: Key,
    /// In the order they were taken.
    pub samples: Vec<f64>,
}

/// Collects samples while a run goes on.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<Key, Vec<f64>>);

impl Samples {
    /// Keeps a sample. One that is not a number (nothing passed, so nothing can be divided by it) is left out.
    pub fn add(&mut self, peer: PeerKind, metric: Metric, value: f64) {
        self.add_at(Key { metric, peer, at: None }, value);
    }

    pub fn add_at(&mut self, key: Key, value: f64) {
        if value.is_finite() {
            self.0.entry(key).or_default().push(value);
        }
    }

    /// Keeps those of another collection behind its own.
    pub fn append(&mut self, later: Samples) {
        for (key, samples) in later.0 {
            self.0.entry(key).or_default().extend(samples);
        }
    }

    pub fn into_series(self) -> Vec<Series> {
        self.0.into_iter().map(|(key, samples)| Series { key, samples }).collect()
    }
}

impl Results {
    pub fn from_json(text: &str) -> anyhow::Result<Results> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_str(text).context("not a results.json of vswitch-perf")?;
        if head.format != FORMAT {
            bail!(
                "format {} of results.json is not the format {FORMAT} that this vswitch-perf reads",
                head.format
            );
        }
        serde_json::from_str(text).context("a damaged results.json")
    }

    pub fn to_json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    pub fn summary(&self, key: Key) -> Option<Summary> {
        let series = self.series.iter().find(|series| series.key == key)?;
        Summary::of(&series.samples)
    }

    /// The summary of a metric that has no axis.
    pub fn plain(&self, metric: Metric, peer: PeerKind) -> Option<Summary> {
        self.summary(Key { metric, peer, at: None })
    }

    /// Peers with any figure, in the order they were asked for.
    pub fn measured_peers(&self) -> Vec<PeerKind> {
        let has_figures = |peer: &PeerKind| self.series.iter().any(|series| series.key.peer == *peer);
        self.peers.iter().map(|info| info.peer).filter(has_figures).collect()
    }

    /// Sizes at which a metric was measured, ascending.
    pub fn sizes(&self, metric: Metric) -> Vec<u64> {
        let mut sizes: Vec<u64> =
            self.series.iter().filter(|s| s.key.metric == metric).filter_map(|s| s.key.at).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Results with the given series, everything else as on some machine.
    pub fn results(series: &[(Metric, PeerKind, Option<u64>, &[f64])]) -> Results {
        let mut samples = Samples::default();
        for &(metric, peer, at, values) in series {
            values.iter().for_each(|&value| samples.add_at(Key { metric, peer, at }, value));
        }
        let kinds = [PeerKind::Vswitch, PeerKind::Bridge, PeerKind::Bare, PeerKind::Vde];
        Results {
            format: FORMAT,
            version: "0.1.0".into(),
            suite: Suite::Quick,
            started_unix_s: 1_700_000_000,
            elapsed_s: 300,
            machine: Machine {
                cpu: "Some <CPU>".into(),
                cores: 2,
                memory_mib: 4096,
                kernel: "6.1".into(),
                system: "Debian".into(),
                busy_before_percent: 1.0,
                stolen_percent: 0.0,
                congestion_control: "cubic".into(),
                apart: Apart { near_ns: 30.0, far_ns: 160.0, retaken: 4, kept: 1 },
            },
            peers: kinds.map(|peer| PeerInfo { peer, version: None, skipped: None }).to_vec(),
            series: samples.into_series(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn json_round_trip() {
        let before = results(&[
            (Metric::TcpOne, PeerKind::Bridge, None, &[10.0, 11.0]),
            (Metric::PortsRate, PeerKind::Vswitch, Some(64), &[0.5]),
        ]);
        let text = before.to_json().unwrap();
        let after = Results::from_json(&text).unwrap();
        assert_eq!(after.series, before.series);
        assert_eq!(after.machine, before.machine);
        assert_eq!(after.measured_peers(), [PeerKind::Vswitch, PeerKind::Bridge]);
        assert_eq!(after.sizes(Metric::PortsRate), [64]);
        assert_eq!(after.plain(Metric::TcpOne, PeerKind::Bridge).unwrap().median, 10.5);
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        let error = Results::from_json("{\"format\": 2}").unwrap_err().to_string();
        assert!(error.contains("format 2"), "{error}");
        assert!(Results::from_json("[]").is_err());
        assert!(Results::from_json("{\"format\": 1}").unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn samples_that_are_no_numbers_are_left_out() {
        let mut samples = Samples::default();
        samples.add(PeerKind::Bare, Metric::Rate64, f64::NAN);
        samples.add(PeerKind::Bare, Metric::Rate64, f64::INFINITY);
        assert!(samples.into_series().is_empty());
    }
}
