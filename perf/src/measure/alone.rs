//! What is measured of vswitch alone: connecting, ports, addresses and floods.

use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::decision;
use super::rate::{self, Load};
use crate::closeness::Taking;
use crate::lab::Lab;
use crate::lab::process::{Process, SHORT};
use crate::machine::{kernel_memory_kib, process_cpu_s, process_rss_kib};
use crate::metric::Metric;
use crate::peers::vswitch::Daemon;
use crate::peers::{PeerKind, Setting, Station};
use crate::probe::frames::Mix;
use crate::probe::ping::{FirstAnswer, monotonic_s};
use crate::progress::Progress;
use crate::results::{Key, Samples, Suite};
use crate::stop::Stopped;

const CONNECT_REPEATS: usize = 20;
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const PORTS: usize = 500;
/// Over how many ports the time to create one is averaged.
const PORTS_STEP: usize = 100;
const PORT_SIZES: [usize; 6] = [2, 16, 64, 256, 512, 1024];
const FLOOD_SIZES: [usize; 4] = [2, 16, 64, 256];
const MAC_SIZES: [u32; 6] = [1, 100, 1000, 10_000, 30_000, 100_000];
const RATE_SECONDS: f64 = 2.0;
/// At each size: goals compare them.
const RATE_REPEATS: usize = 5;

/// One step, with a daemon and namespaces of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    Connect,
    Ports,
    PortScale,
    MacScale,
    Flood,
    Decision,
}

impl Alone {
    pub fn of_suite(suite: Suite) -> &'static [Alone] {
        match suite {
            Suite::Quick => &[Alone::Decision, Alone::Connect, Alone::Ports],
            Suite::Full => &[
                Alone::Decision,
                Alone::Connect,
                Alone::Ports,
                Alone::PortScale,
                Alone::MacScale,
                Alone::Flood,
            ],
        }
    }

    pub const fn title(self) -> &'static str {
        match self {
            Alone::Connect => "connect to first answer",
            Alone::Ports => "500 ports",
            Alone::PortScale => "port scale",
            Alone::MacScale => "address scale",
            Alone::Flood => "flood",
            Alone::Decision => "decision",
        }
    }

    pub fn take(self, setting: &Setting, taking: &mut Taking, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Alone::Connect => connect(setting, &mut taking.samples),
            Alone::Ports => ports(setting, &mut taking.samples),
            Alone::PortScale => port_scale(setting, taking, progress),
            Alone::MacScale => mac_scale(setting, taking, progress),
            Alone::Flood => flood(setting, taking, progress),
            Alone::Decision => decision::measure(&mut taking.samples),
        }
    }
}

/// A daemon and the namespaces it may adopt.
struct Bench {
    daemon: Daemon,
    adopted: usize,
    // The daemon ends before the namespaces do, and those before the files.
    lab: Lab,
    _dir: TempDir,
}

impl Bench {
    fn new(containers: usize, setting: &Setting, args: &[&str]) -> anyhow::Result<Bench> {
        let dir = tempfile::Builder::new().prefix("vswitch-perf-").tempdir()?;
        let lab = Lab::new(containers + 1, dir.path())?;
        let host = &lab.namespaces[containers];
        let daemon = Daemon::with_network(host, dir.path(), setting, args)?;
        Ok(Bench { daemon, adopted: 0, lab, _dir: dir })
    }

    /// Adopts until there are so many containers.
    fn grow_to(&mut self, count: usize) -> anyhow::Result<()> {
        while self.adopted < count {
            let name = format!("c{}", self.adopted);
            self.daemon.control().adopt(&self.lab.namespaces[self.adopted], &name)?;
            self.adopted += 1;
        }
        Ok(())
    }

    fn station(&self, index: usize) -> anyhow::Result<Station> {
        Station::of(&self.lab.namespaces[index])
    }

    fn cpu_s(&self) -> anyhow::Result<f64> {
        process_cpu_s(self.daemon.process.pid())
    }

    fn rss_kib(&self) -> anyhow::Result<f64> {
        Ok(process_rss_kib(self.daemon.process.pid())? as f64)
    }
}

fn add_at(samples: &mut Samples, metric: Metric, at: usize, value: f64) {
    samples.add_at(Key { metric, peer: PeerKind::Vswitch, at: Some(at as u64) }, value);
}

/// A container that is on one network is connected to a second one, on which another answers.
fn connect(setting: &Setting, samples: &mut Samples) -> anyhow::Result<()> {
    const SECOND: &str = "second";
    let mut bench = Bench::new(2, setting, &[])?;
    bench.grow_to(2)?;
    let control = bench.daemon.control().clone();
    control.ctl(&["network", "create", "--subnet", "10.98.0.0/16", SECOND])?;
    control.ctl(&["network", "connect", SECOND, "c1"])?;
    let other = Station::of_interface(&bench.lab.namespaces[1], "eth1")?;
    let from = &bench.lab.namespaces[0];
    for _ in 0..CONNECT_REPEATS {
        let mut command = from.rig();
        command.args(["ping", "--first", "--to", &other.ip.to_string()]);
        command.args(["--seconds", &CONNECT_PATIENCE.as_secs_f64().to_string()]);
        let pings = Process::start("the echoes", command, bench._dir.path())?;
        let start_s = monotonic_s()?;
        control.ctl(&["network", "connect", SECOND, "c0"])?;
        let text = pings.finish(CONNECT_PATIENCE + SHORT)?;
        let first: FirstAnswer = serde_json::from_str(&text).context("the echoes left no report")?;
        // An answer through the first network's gateway would come before the network is there at all.
        ensure!(first.at_s > start_s, "{} answers without being connected", other.ip);
        samples.add(PeerKind::Vswitch, Metric::Connect, (first.at_s - start_s) * 1e3);
        control.ctl(&["network", "disconnect", SECOND, "c0"])?;
    }
    Ok(())
}

fn ports(setting: &Setting, samples: &mut Samples) -> anyhow::Result<()> {
    let mut bench = Bench::new(PORTS, setting, &[])?;
    let before_kib = bench.rss_kib()?;
    let before_kernel_kib = kernel_memory_kib()?;
    for count in (PORTS_STEP..=PORTS).step_by(PORTS_STEP) {
        let start_s = monotonic_s()?;
        bench.grow_to(count)?;
        let elapsed_ms = (monotonic_s()? - start_s) * 1e3;
        add_at(samples, Metric::PortCreate, count, elapsed_ms / PORTS_STEP as f64);
        let switch_kib = bench.rss_kib()? - before_kib;
        let kernel_kib = kernel_memory_kib()? - before_kernel_kib;
        add_at(samples, Metric::PortMemory, count, switch_kib / count as f64);
        add_at(samples, Metric::PortMemoryAll, count, (switch_kib + kernel_kib) / count as f64);
    }
    let (first, last) = (bench.station(0)?, bench.station(PORTS - 1)?);
    first.reach(&last, CONNECT_PATIENCE).context("the first and the last port do not reach each other")
}

/// One of the sizes of a scale, with a daemon of its own.
struct Stage {
    size: usize,
    bench: Bench,
    from: Station,
    to: Vec<Station>,
}

/// Each size in each round, so that what changes on the machine meets all alike. A size that fails is left out from then on,
/// and the first failure is the answer.
fn in_rounds(
    stages: impl Iterator<Item = anyhow::Result<Stage>>,
    taking: &mut Taking,
    progress: &Progress,
    measure: impl Fn(&Stage, &mut Samples) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut failure = None;
    let mut note = |error: anyhow::Error| {
        if error.is::<Stopped>() {
            return Err(error);
        }
        failure.get_or_insert(error);
        Ok(())
    };
    let mut left = Vec::new();
    for stage in stages {
        match stage {
            Ok(stage) => left.push(stage),
            Err(error) => note(error)?,
        }
    }
    for _ in 0..RATE_REPEATS {
        for stage in std::mem::take(&mut left) {
            match taking.take(progress, |samples| measure(&stage, samples)) {
                Ok(()) => left.push(stage),
                Err(error) => note(error)?,
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// The first port and the second, of so many.
fn two_of(size: usize, setting: &Setting) -> anyhow::Result<Stage> {
    let mut bench = Bench::new(size, setting, &[])?;
    bench.grow_to(size)?;
    let (from, to) = (bench.station(0)?, bench.station(1)?);
    from.reach(&to, CONNECT_PATIENCE)?;
    Ok(Stage { size, bench, from, to: vec![to] })
}

/// Two ports talk, all others are silent.
fn port_scale(setting: &Setting, taking: &mut Taking, progress: &Progress) -> anyhow::Result<()> {
    let stages = PORT_SIZES.iter().map(|&size| two_of(size, setting));
    in_rounds(stages, taking, progress, |stage, samples| {
        let (rate, cpu) = rate_and_cpu(stage, Vec::new())?;
        add_at(samples, Metric::PortsRate, stage.size, rate);
        add_at(samples, Metric::PortsCpu, stage.size, cpu);
        Ok(())
    })
}

/// Frames to many addresses, as many behind each port as a port may have.
fn mac_scale(setting: &Setting, taking: &mut Taking, progress: &Progress) -> anyhow::Result<()> {
    let stages = MAC_SIZES.iter().map(|&size| taught(size, setting));
    in_rounds(stages, taking, progress, |stage, samples| {
        let extra = vec![String::from("--destinations"), stage.size.to_string()];
        let (rate, cpu) = rate_and_cpu(stage, extra)?;
        add_at(samples, Metric::MacsRate, stage.size, rate);
        add_at(samples, Metric::MacsCpu, stage.size, cpu);
        Ok(())
    })
}

/// A switch that has learned so many addresses.
fn taught(size: u32, setting: &Setting) -> anyhow::Result<Stage> {
    // Nothing ages while other sizes are measured.
    const ARGS: [&str; 4] = ["--fdb-capacity", "131072", "--fdb-ageing-s", "86400"];
    let ports = size.div_ceil(MACS_PER_PORT) as usize;
    let mut bench = Bench::new(1 + ports, setting, &ARGS)?;
    bench.grow_to(1 + ports)?;
    let from = bench.station(0)?;
    let to = (1..=ports).map(|at| bench.station(at)).collect::<anyhow::Result<Vec<Station>>>()?;
    for (port, receiver) in to.iter().enumerate() {
        let first = port as u32 * MACS_PER_PORT;
        teach(receiver, &from, first..size.min(first + MACS_PER_PORT))?;
    }
    let known = bench.daemon.control().known_addresses()?;
    ensure!(known >= u64::from(size), "{known} addresses are known where {size} should be");
    Ok(Stage { size: size as usize, bench, from, to })
}

/// Below what a vswitch lets one port have.
const MACS_PER_PORT: u32 = 4000;
/// Slow enough that a switch learns from every frame.
const TEACHING_RATE: f64 = 20_000.0;

/// Sends from all of a range of addresses, twice.
fn teach(from: &Station, to: &Station, addresses: std::ops::Range<u32>) -> anyhow::Result<()> {
    let count = addresses.len();
    let load = Load {
        seconds: 0.01 + count as f64 * 2.0 / TEACHING_RATE,
        frames_per_s: Some(TEACHING_RATE),
        extra: ["--sources", &count.to_string(), "--number-from", &addresses.start.to_string()]
            .map(str::to_owned)
            .to_vec(),
    };
    rate::send(from, to, Mix::Small, &load)?;
    Ok(())
}

/// Million frames per second that arrive, and the switch's processor seconds for a million.
fn rate_and_cpu(stage: &Stage, extra: Vec<String>) -> anyhow::Result<(f64, f64)> {
    let before_s = stage.bench.cpu_s()?;
    let load = Load { seconds: RATE_SECONDS, frames_per_s: None, extra };
    let arrived = rate::send_to_any(&stage.from, &stage.to, Mix::Small, &load)?;
    let used_s = stage.bench.cpu_s()? - before_s;
    Ok((arrived.frames_per_s() / 1e6, used_s / (arrived.received as f64 / 1e6)))
}

/// Broadcasts, well below the limit of storm control, at a rate that keeps the copies within reach of one core.
fn flood(setting: &Setting, taking: &mut Taking, progress: &Progress) -> anyhow::Result<()> {
    const FRAMES_PER_S_MAX: f64 = 10_000.0;
    const COPIES_PER_S_MAX: f64 = 200_000.0;
    let stages = FLOOD_SIZES.iter().map(|&size| two_of(size, setting));
    in_rounds(stages, taking, progress, |stage, samples| {
        let to = Station { mac: [0xff; 6], ..stage.bench.station(1)? };
        let copies = (stage.size - 1) as f64;
        let rate = FRAMES_PER_S_MAX.min(COPIES_PER_S_MAX / copies);
        let load = Load { seconds: RATE_SECONDS, frames_per_s: Some(rate), extra: Vec::new() };
        let before_s = stage.bench.cpu_s()?;
        let arrived = rate::send(&stage.from, &to, Mix::Small, &load)?;
        let used_us = (stage.bench.cpu_s()? - before_s) * 1e6;
        let lost = arrived.loss() * 100.0;
        ensure!(
            lost < 1.0,
            "{lost:.1}% of the broadcasts to {} ports were lost: the cost of a copy is unknown",
            stage.size
        );
        add_at(samples, Metric::FloodCpu, stage.size, used_us / (arrived.received as f64 * copies));
        Ok(())
    })
}
