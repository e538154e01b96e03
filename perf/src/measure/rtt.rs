//! Round trips, on an idle switch and beside a TCP stream that takes all it can.

use std::time::Duration;

use anyhow::Context;

use super::iperf::Iperf;
use crate::lab::process::{self, SHORT};
use crate::metric::Metric;
use crate::peers::{Peer, Station};
use crate::probe::ping::Pinged;
use crate::results::Samples;
use crate::stop;

const COUNT: usize = 5000;
const IDLE_SECONDS: f64 = 2.0;
/// What a user's `ping` is more like: everything has gone to sleep in between.
const PACED_COUNT: usize = 100;
const PACE_MS: u32 = 10;
const LOADED_SECONDS: f64 = 1.8;
/// The stream begins before the echoes and ends after them.
const STREAM_SECONDS: u32 = 3;
const RAMP: Duration = Duration::from_millis(400);

pub fn idle(peer: &Peer, samples: &mut Samples) -> anyhow::Result<()> {
    let pinged = ping(&peer.a, &peer.b, IDLE_SECONDS, &["--count", &COUNT.to_string()])?;
    samples.add(peer.kind, Metric::RttMean, pinged.mean_us);
    samples.add(peer.kind, Metric::RttP50, pinged.p50_us);
    samples.add(peer.kind, Metric::RttP99, pinged.p99_us);
    let pace = ["--count", &PACED_COUNT.to_string(), "--every-ms", &PACE_MS.to_string()];
    let pinged = ping(&peer.a, &peer.b, IDLE_SECONDS, &pace)?;
    samples.add(peer.kind, Metric::RttPacedMean, pinged.mean_us);
    Ok(())
}

pub fn loaded(peer: &Peer, samples: &mut Samples) -> anyhow::Result<()> {
    let stream = Iperf::start(peer, 1, STREAM_SECONDS)?;
    stop::sleep(RAMP)?;
    let pinged = ping(&peer.a, &peer.b, LOADED_SECONDS, &["--count", &COUNT.to_string()])?;
    stream.finish()?;
    samples.add(peer.kind, Metric::RttLoadedMean, pinged.mean_us);
    samples.add(peer.kind, Metric::RttLoadedP50, pinged.p50_us);
    samples.add(peer.kind, Metric::RttLoadedP99, pinged.p99_us);
    let sent = pinged.answered + pinged.lost;
    samples.add(peer.kind, Metric::RttLoadedLoss, pinged.lost as f64 / sent as f64 * 100.0);
    Ok(())
}

fn ping(from: &Station, to: &Station, seconds: f64, args: &[&str]) -> anyhow::Result<Pinged> {
    let mut command = from.netns.rig();
    command.args(["ping", "--to", &to.ip.to_string(), "--seconds", &seconds.to_string()]);
    command.args(args);
    let text = process::run(command, Duration::from_secs_f64(seconds) + SHORT)?;
    serde_json::from_str(&text).context("the echoes left no report")
}
