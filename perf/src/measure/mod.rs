//! What is measured of a peer. Each measurement is bounded in time and leaves one sample of each of its metrics.

use std::time::Duration;

use crate::machine::CpuTime;
use crate::metric::Metric;
use crate::peers::{Peer, PeerKind};
use crate::probe::frames::Mix;
use crate::results::{Samples, Suite};

pub mod alone;
mod decision;
mod iperf;
mod rate;
mod rtt;
mod tcp;

/// One step of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measurement {
    RoundTrip,
    RoundTripLoaded,
    Tcp {
        streams: u32,
        seconds: u32,
    },
    Rate(Mix),
    /// The highest rates at which at most half a percent, and nothing, is lost.
    RateBounded(Mix),
    Memory,
}

impl Measurement {
    pub fn title(self) -> String {
        match self {
            Measurement::RoundTrip => String::from("round trip"),
            Measurement::RoundTripLoaded => String::from("round trip under load"),
            Measurement::Tcp { streams, .. } => format!("TCP, {streams} at once"),
            Measurement::Rate(mix) => format!("{mix:?} frames").to_lowercase(),
            Measurement::RateBounded(mix) => format!("{mix:?} frames, bounded loss").to_lowercase(),
            Measurement::Memory => String::from("memory"),
        }
    }

    /// Those of a suite, in order. Memory comes last, when everything has been used.
    pub fn of_suite(suite: Suite) -> Vec<Measurement> {
        let seconds = match suite {
            Suite::Quick => 2,
            Suite::Full => 3,
        };
        let mut steps = vec![
            Measurement::RoundTrip,
            Measurement::Tcp { streams: 1, seconds },
            Measurement::Tcp { streams: 4, seconds },
            Measurement::Rate(Mix::Small),
            Measurement::RoundTripLoaded,
        ];
        if suite == Suite::Full {
            steps.extend([Mix::Imix, Mix::Large].map(Measurement::Rate));
            steps.extend([Mix::Small, Mix::Imix, Mix::Large].map(Measurement::RateBounded));
        }
        steps.push(Measurement::Memory);
        steps
    }

    /// Whether a peer is measured so. Both suites leave out what no goal is about and takes long.
    pub fn concerns(self, kind: PeerKind, suite: Suite) -> bool {
        match self {
            Measurement::RoundTripLoaded => suite == Suite::Full || kind.is_main(),
            Measurement::RateBounded(mix) => mix == Mix::Small || kind.is_main(),
            _ => true,
        }
    }

    /// Whether a goal is about more than the main peers in it.
    pub const fn is_in_goals(self) -> bool {
        matches!(self, Measurement::Tcp { streams: 1, .. } | Measurement::Rate(Mix::Small))
    }

    pub fn take(self, peer: &mut Peer, samples: &mut Samples) -> anyhow::Result<()> {
        peer.warm()?;
        match self {
            Measurement::RoundTrip => rtt::idle(peer, samples),
            Measurement::RoundTripLoaded => rtt::loaded(peer, samples),
            Measurement::Tcp { streams, seconds } => tcp::measure(peer, streams, seconds, samples),
            Measurement::Rate(mix) => rate::saturated(peer, mix, samples),
            Measurement::RateBounded(mix) => rate::bounded(peer, mix, samples),
            Measurement::Memory => memory(peer, samples),
        }
    }
}

fn memory(peer: &Peer, samples: &mut Samples) -> anyhow::Result<()> {
    if let Some(kib) = peer.switch_rss_kib()? {
        samples.add(peer.kind, Metric::Memory, kib / 1024.0);
    }
    Ok(())
}

/// Processor time between two moments: of the whole machine, and of the processes of the switch.
struct CpuWatch {
    machine: CpuTime,
    switch_s: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct CpuUsed {
    everything_s: f64,
    switch_s: Option<f64>,
}

impl CpuWatch {
    fn start(peer: &Peer) -> anyhow::Result<CpuWatch> {
        Ok(CpuWatch { machine: CpuTime::now()?, switch_s: peer.switch_cpu_s()? })
    }

    fn stop(self, peer: &Peer) -> anyhow::Result<CpuUsed> {
        let everything_s = CpuTime::now()?.since(&self.machine).busy_s;
        let switch_s = peer.switch_cpu_s()?.zip(self.switch_s).map(|(now, before)| now - before);
        Ok(CpuUsed { everything_s, switch_s })
    }
}

/// For what is on its way when a generator stops.
const DRAIN: Duration = Duration::from_millis(100);
