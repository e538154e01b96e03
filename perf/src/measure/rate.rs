//! Frames per second: as many as a generator can send, and as many as arrive with bounded loss.
//!
//! What counts is what the receiver's interface received, so nothing has to read the frames and take a core for it.

use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::{CpuWatch, DRAIN};
use crate::lab::process::{self, SHORT};
use crate::metric::Metric;
use crate::peers::{Peer, Station};
use crate::probe::blast::Blasted;
use crate::probe::frames::{Mix, format_mac};
use crate::results::Samples;

const SATURATED_SECONDS: f64 = 2.0;
/// Of each step of a search.
const STEP_SECONDS: f64 = 1.0;
/// Each halves what is left: 1/128 of the saturated rate.
const STEPS: u32 = 7;
const HALF_PERCENT: f64 = 0.005;

/// What a generator is told.
#[derive(Debug, Clone, Default)]
pub struct Load {
    pub seconds: f64,
    pub frames_per_s: Option<f64>,
    pub extra: Vec<String>,
}

/// What became of a load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrived {
    pub offered: u64,
    pub received: u64,
    pub seconds: f64,
}

impl Arrived {
    pub fn frames_per_s(&self) -> f64 {
        self.received as f64 / self.seconds
    }

    fn offered_per_s(&self) -> f64 {
        self.offered as f64 / self.seconds
    }

    /// Share of what was offered; other traffic may make up for a few.
    pub fn loss(&self) -> f64 {
        1.0 - self.received.min(self.offered) as f64 / self.offered as f64
    }
}

/// Sends frames from one station to another and counts them there.
pub fn send(from: &Station, to: &Station, mix: Mix, load: &Load) -> anyhow::Result<Arrived> {
    send_to_any(from, std::slice::from_ref(to), mix, load)
}

/// The same, where frames may arrive at several stations. Those without a numbered address are for the first.
pub fn send_to_any(from: &Station, to: &[Station], mix: Mix, load: &Load) -> anyhow::Result<Arrived> {
    let received = || to.iter().map(Station::received_frames).sum::<anyhow::Result<u64>>();
    let first = to.first().context("frames need a receiver")?;
    let before = received()?;
    let mut command = from.netns.rig();
    command.args(["blast", "--interface", crate::peers::INTERFACE]);
    command.args(["--source", &format_mac(from.mac), "--destination", &format_mac(first.mac)]);
    let mix_name = match mix {
        Mix::Small => "small",
        Mix::Imix => "imix",
        Mix::Large => "large",
    };
    command.args(["--mix", mix_name, "--mtu", &from.mtu.to_string()]);
    command.args(["--seconds", &load.seconds.to_string()]).args(&load.extra);
    if let Some(rate) = load.frames_per_s {
        command.args(["--rate", &rate.to_string()]);
    }
    let text = process::run(command, Duration::from_secs_f64(load.seconds) + SHORT)?;
    let Blasted { offered, seconds } = serde_json::from_str(&text).context("the generator left no report")?;
    thread::sleep(DRAIN);
    Ok(Arrived { offered, received: received()? - before, seconds })
}

pub fn saturated(peer: &Peer, mix: Mix, samples: &mut Samples) -> anyhow::Result<()> {
    let watch = CpuWatch::start(peer)?;
    let arrived = send(&peer.a, &peer.b, mix, &Load { seconds: SATURATED_SECONDS, ..Load::default() })?;
    let used = watch.stop(peer)?;
    let (rate, loss, cpu) = match mix {
        Mix::Small => (Metric::Rate64, Metric::Rate64Loss, Metric::Rate64Cpu),
        Mix::Imix => (Metric::RateImix, Metric::RateImixLoss, Metric::RateImixCpu),
        Mix::Large => (Metric::Rate1500, Metric::Rate1500Loss, Metric::Rate1500Cpu),
    };
    let millions = arrived.received as f64 / 1e6;
    samples.add(peer.kind, rate, arrived.frames_per_s() / 1e6);
    samples.add(peer.kind, loss, arrived.loss() * 100.0);
    samples.add(peer.kind, cpu, used.everything_s / millions);
    if let Some(switch_s) = used.switch_s.filter(|_| mix == Mix::Small) {
        samples.add(peer.kind, Metric::Rate64SwitchCpu, switch_s / millions);
    }
    Ok(())
}

pub fn bounded(peer: &Peer, mix: Mix, samples: &mut Samples) -> anyhow::Result<()> {
    let (half_percent, no_loss) = match mix {
        Mix::Small => (Metric::Rate64HalfPercent, Metric::Rate64NoLoss),
        Mix::Imix => (Metric::RateImixHalfPercent, Metric::RateImixNoLoss),
        Mix::Large => (Metric::Rate1500HalfPercent, Metric::Rate1500NoLoss),
    };
    let attempt = |frames_per_s| {
        send(&peer.a, &peer.b, mix, &Load { seconds: STEP_SECONDS, frames_per_s, ..Load::default() })
    };
    let full = attempt(None)?;
    let mut best = 0.0;
    // What passed without loss is within any bound.
    for (metric, loss_max) in [(no_loss, 0.0), (half_percent, HALF_PERCENT)] {
        best = if full.loss() <= loss_max {
            full.frames_per_s()
        } else {
            search(best, full.offered_per_s(), loss_max, |rate| attempt(Some(rate)))?
        };
        samples.add(peer.kind, metric, best / 1e6);
    }
    Ok(())
}

/// The highest rate below `limit` at which no more than `loss_max` is lost, by halving; `from` if none was found.
fn search(
    from: f64,
    limit: f64,
    loss_max: f64,
    mut attempt: impl FnMut(f64) -> anyhow::Result<Arrived>,
) -> anyhow::Result<f64> {
    let (mut low, mut high, mut best) = (from, limit, from);
    for _ in 0..STEPS {
        let rate = (low + high) / 2.0;
        let arrived = attempt(rate)?;
        if arrived.loss() <= loss_max {
            low = rate;
            best = best.max(arrived.frames_per_s());
        } else {
            high = rate;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A switch that forwards so much and drops the rest.
    fn switch(capacity: f64) -> impl FnMut(f64) -> anyhow::Result<Arrived> {
        move |rate| Ok(Arrived { offered: rate as u64, received: rate.min(capacity) as u64, seconds: 1.0 })
    }

    #[test]
    fn a_search_ends_just_below_the_capacity() {
        let found = search(0.0, 1_000_000.0, 0.0, switch(300_000.0)).unwrap();
        assert!((300_000.0 - 1_000_000.0 / 128.0..=300_000.0).contains(&found), "{found}");
        let found = search(0.0, 1_000_000.0, HALF_PERCENT, switch(300_000.0)).unwrap();
        assert!((290_000.0..=302_000.0).contains(&found), "{found}");
        assert_eq!(search(0.0, 1_000_000.0, 0.0, switch(0.0)).unwrap(), 0.0);
        assert_eq!(
            search(310_000.0, 1_000_000.0, 0.0, switch(300_000.0)).unwrap(),
            310_000.0,
            "known before"
        );
    }

    #[test]
    fn loss_is_a_share_of_what_was_offered() {
        let arrived = Arrived { offered: 200, received: 150, seconds: 2.0 };
        assert_eq!((arrived.loss(), arrived.frames_per_s()), (0.25, 75.0));
        assert_eq!(Arrived { received: 201, ..arrived }.loss(), 0.0);
    }
}
