//! Docker with vswitch as its driver beside Docker's own bridge: what a container's start takes, and TCP between two.
//!
//! An engine of its own runs in namespaces of its own ([`stage`]). Both networks are user-defined ones of the same
//! engine, so that both have Docker's resolver in the containers and all else is equal. Measurements alternate between
//! the two, and each round begins with the other one.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::lab::process;
use crate::machine;
use crate::report::table::Table;
use crate::stats::Summary;
use crate::stop;

mod stage;

use stage::Stage;

/// Containers that serve and ask for TCP streams, on each network.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of one stream, seconds.
const STREAM_S: u32 = 3;

/// Goal for the median of a container's start beside Docker's bridge.
const START_GOAL_MS: f64 = 50.0;

#[derive(Debug, Clone, clap::Args)]
pub struct Docker {
    /// Containers started on each network
    #[arg(long, default_value_t = 20)]
    runs: u32,
    /// Streams on each network
    #[arg(long, default_value_t = 5)]
    streams: u32,
    /// Directory for docker.md
    #[arg(long, default_value = "bench-out")]
    out: PathBuf,
    /// Set by the rig for itself, once it is in namespaces of its own
    #[arg(long, hide = true)]
    inside: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Vswitch,
    Bridge,
}

impl Driver {
    const BOTH: [Driver; 2] = [Driver::Vswitch, Driver::Bridge];

    /// Also that of its network.
    const fn name(self) -> &'static str {
        match self {
            Driver::Vswitch => "vswitch",
            Driver::Bridge => "bridge",
        }
    }

    fn network(self) -> String {
        format!("bench-{}", self.name())
    }
}

/// The samples of one figure, by driver.
#[derive(Debug, Default)]
struct Samples {
    vswitch: Vec<f64>,
    bridge: Vec<f64>,
}

impl Samples {
    fn of(&mut self, driver: Driver) -> &mut Vec<f64> {
        match driver {
            Driver::Vswitch => &mut self.vswitch,
            Driver::Bridge => &mut self.bridge,
        }
    }
}

/// Measures, writes the report, and says whether the goal was met.
pub fn run(args: &Docker) -> anyhow::Result<bool> {
    fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot use the directory {}", args.out.display()))?;
    if !args.inside {
        return stage::inside(args);
    }
    let machine = machine::describe(Duration::from_secs(1))?;
    let stage = Stage::set()?;
    for driver in Driver::BOTH {
        stage.docker(&["network", "create", "-d", driver.name(), &driver.network()])?;
    }
    let starts = starts(&stage, args.runs)?;
    let streams = streams(&stage, args.streams)?;
    let (table, met) = table(&starts, &streams);
    let text = format!(
        "# Docker with vswitch beside Docker's bridge\n\n- Machine: {}, {} cores, Linux {}\n- {}\n- Before the first \
         measurement other work took {:.1}% of the machine\n\n{}",
        machine.cpu,
        machine.cores,
        machine.kernel,
        stage.version()?,
        machine.busy_before_percent,
        table.to_markdown()
    );
    let file = args.out.join("docker.md");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}", table.to_terminal());
    eprintln!("wrote {}", file.display());
    Ok(met)
}

/// Both, the one that is first changing from round to round.
fn round(round: u32) -> [Driver; 2] {
    let [a, b] = Driver::BOTH;
    if round.is_multiple_of(2) { [a, b] } else { [b, a] }
}

/// From the command to its end, milliseconds: the container is made, does nothing and is removed.
fn starts(stage: &Stage, runs: u32) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    // The first container of an engine takes longer.
    for driver in Driver::BOTH {
        start(stage, driver)?;
    }
    for number in 0..runs {
        for driver in round(number) {
            stop::check()?;
            let began = Instant::now();
            start(stage, driver)?;
            samples.of(driver).push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(samples)
}

fn start(stage: &Stage, driver: Driver) -> anyhow::Result<()> {
    stage.docker(&["run", "--rm", &format!("--net={}", driver.network()), stage::IMAGE, "true"]).map(|_| ())
}

/// One stream between two containers, gigabits per second.
fn streams(stage: &Stage, streams: u32) -> anyhow::Result<Samples> {
    for driver in Driver::BOTH {
        let net = format!("--net={}", driver.network());
        for (name, command) in [("server", &["iperf3", "--server"][..]), ("client", &["sleep", "100000"])] {
            let name = format!("--name={name}-{}", driver.name());
            stage.docker(&[&["run", "-d", &net, &name, stage::IMAGE], command].concat())?;
        }
        let (client, server) = (format!("client-{}", driver.name()), format!("server-{}", driver.name()));
        process::wait_until("the server to answer", PATIENCE, || {
            let asked = stage.docker(&["exec", &client, "iperf3", "--client", &server, "--time", "1"]);
            Ok(asked.ok())
        })?;
    }
    let mut samples = Samples::default();
    for number in 0..streams {
        for driver in round(number) {
            stop::check()?;
            let (client, server) = (format!("client-{}", driver.name()), format!("server-{}", driver.name()));
            let time = STREAM_S.to_string();
            let text =
                stage.docker(&["exec", &client, "iperf3", "--client", &server, "--time", &time, "--json"])?;
            let said: serde_json::Value = serde_json::from_str(&text).context("iperf3 gave no JSON")?;
            let rate = said["end"]["sum_received"]["bits_per_second"].as_f64();
            samples.of(driver).push(rate.context("iperf3 does not say how much arrived")? / 1e9);
        }
    }
    Ok(samples)
}

fn table(starts: &Samples, streams: &Samples) -> (Table, bool) {
    let mut table = Table::new(["figure", "vswitch", "Docker's bridge", "vswitch less bridge"]);
    let shown = |samples: &[f64], digits: usize| {
        let summary = Summary::of(samples)?;
        let (low, high) = summary.spread();
        Some(format!("{:.digits$} [{low:.digits$}, {high:.digits$}]", summary.median))
    };
    let mut met = true;
    for (figure, samples, digits) in
        [("docker run --rm, ms", starts, 0), ("TCP, one stream, Gbit/s", streams, 1)]
    {
        let (Some(ours), Some(theirs)) = (Summary::of(&samples.vswitch), Summary::of(&samples.bridge)) else {
            continue;
        };
        let difference = ours.median - theirs.median;
        if std::ptr::eq(samples, starts) {
            met = difference <= START_GOAL_MS;
        }
        table.push([
            figure.to_owned(),
            shown(&samples.vswitch, digits).unwrap_or_default(),
            shown(&samples.bridge, digits).unwrap_or_default(),
            format!("{difference:+.digits$}"),
        ]);
    }
    (table, met)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goal_is_about_medians() {
        let samples =
            |vswitch: [f64; 3], bridge: [f64; 3]| Samples { vswitch: vswitch.into(), bridge: bridge.into() };
        let streams = samples([9.0, 10.0, 11.0], [19.0, 20.0, 21.0]);
        assert!(table(&samples([300.0, 340.0, 900.0], [300.0; 3]), &streams).1);
        let (slow, met) = table(&samples([340.0, 351.0, 352.0], [300.0; 3]), &streams);
        assert!(!met && slow.to_terminal().contains("+51"), "{}", slow.to_terminal());
    }

    #[test]
    fn both_are_first_in_turn() {
        assert_eq!((round(0)[0], round(1)[0]), (Driver::Vswitch, Driver::Bridge));
    }
}
