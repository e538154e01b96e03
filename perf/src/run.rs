//! A run: every peer is set up, then measured in rounds, then taken down.
//!
//! All peers stay up for the whole run, idle while another is measured. Within a round each measurement goes from
//! peer to peer, and each round begins with another peer, so that what changes on the machine over time (its clock,
//! its neighbours, its temperature) meets all of them alike.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use nix::unistd::geteuid;

use crate::closeness::Taking;
use crate::machine::{self, CpuTime};
use crate::measure::Measurement;
use crate::measure::alone::Alone;
use crate::peers::{Peer, PeerKind, Setting, Unavailable};
use crate::progress::Progress;
use crate::report;
use crate::results::{FORMAT, PeerInfo, Results, Suite};
use crate::stop::{self, Stopped};

/// Long enough to see what else is running.
const LOOK: Duration = Duration::from_secs(1);

/// Above this the figures say more about the rest of the machine than about the peers.
const BUSY_PERCENT_MAX: f64 = 10.0;

#[derive(Debug, Clone, clap::Args)]
pub struct Run {
    /// Switches to measure vswitch beside, separated by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',', hide_default_value = true, default_values_t = PeerKind::ALL)]
    peers: Vec<PeerKind>,
    #[arg(long, value_enum, default_value = "quick")]
    suite: Suite,
    /// Samples of each figure [default: 3; in the full suite 5 of vswitch, bridge and bare and of what goals are about]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeats: Option<u32>,
    /// Take only the measurements of the suite whose names contain this, as "address scale"; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Directory for results.json, results.md, report.html and charts
    #[arg(long, default_value = "bench-out")]
    out: PathBuf,
    /// Directory with vswitchd and vswitchctl [default: where vswitch-perf is]
    #[arg(long)]
    bin_dir: Option<PathBuf>,
}

/// Peers that are up, and what is known about all that were asked for.
struct Field {
    peers: Vec<Peer>,
    infos: Vec<PeerInfo>,
    problems: Vec<String>,
}

/// What is measured.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    rounds: Vec<Measurement>,
    alone: Vec<Alone>,
}

impl Chosen {
    fn of(args: &Run) -> anyhow::Result<Chosen> {
        let (rounds, alone) = (Measurement::of_suite(args.suite), Alone::of_suite(args.suite).to_vec());
        let titles =
            || rounds.iter().map(|step| step.title()).chain(alone.iter().map(|step| step.title().into()));
        for name in &args.only {
            ensure!(
                titles().any(|title| is_named(&title, name)),
                "this suite has no measurement named {name}; it has: {}",
                titles().collect::<Vec<String>>().join("; ")
            );
        }
        let is_chosen =
            |title: &str| args.only.is_empty() || args.only.iter().any(|name| is_named(title, name));
        Ok(Chosen {
            rounds: rounds.iter().copied().filter(|step| is_chosen(&step.title())).collect(),
            alone: alone.iter().copied().filter(|step| is_chosen(step.title())).collect(),
        })
    }
}

fn is_named(title: &str, name: &str) -> bool {
    title.to_lowercase().contains(&name.to_lowercase())
}

/// Measures, writes the report, and says whether everything could be measured.
pub fn run(args: &Run) -> anyhow::Result<bool> {
    ensure!(
        geteuid().is_root(),
        "vswitch-perf makes network namespaces and TAPs, for which it needs to be root: run it with sudo"
    );
    let setting = Setting { bin_dir: bin_dir(args)? };
    let chosen = Chosen::of(args)?;
    let started = Instant::now();
    let started_unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut machine = machine::describe(LOOK)?;
    if machine.busy_before_percent > BUSY_PERCENT_MAX {
        eprintln!(
            "warning: {:.0}% of this machine is busy with other things; the figures will not mean much",
            machine.busy_before_percent
        );
    }
    let cpu_before = CpuTime::now()?;

    let mut field = set_up(args, &chosen, &setting)?;
    let mut taking = Taking::new();
    rounds(args, &chosen.rounds, &mut field, &mut taking)?;
    let has_vswitch = field.peers.iter().any(|peer| peer.kind == PeerKind::Vswitch);
    field.peers.clear();
    if has_vswitch {
        alone(&chosen.alone, &setting, &mut field.problems, &mut taking)?;
    }

    machine.stolen_percent = CpuTime::now()?.since(&cpu_before).stolen_percent();
    machine.apart = taking.apart();
    let results = Results {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        suite: args.suite,
        started_unix_s,
        elapsed_s: started.elapsed().as_secs(),
        machine,
        peers: field.infos,
        series: taking.samples.into_series(),
        problems: field.problems,
    };
    report::write(&results, &args.out)?;
    println!("{}", report::terminal(&results));
    eprintln!("wrote {}", args.out.join("report.html").display());
    Ok(results.problems.is_empty() && !results.series.is_empty())
}

fn bin_dir(args: &Run) -> anyhow::Result<PathBuf> {
    let own = || {
        let path = std::env::current_exe().context("cannot find where vswitch-perf is")?;
        Ok(path.parent().context("vswitch-perf is in no directory")?.to_owned())
    };
    // The daemon runs elsewhere, so a relative path would not do.
    let dir = args.bin_dir.clone().map_or_else(own, Ok::<PathBuf, anyhow::Error>)?;
    std::path::absolute(&dir).with_context(|| format!("cannot use {}", dir.display()))
}

fn set_up(args: &Run, chosen: &Chosen, setting: &Setting) -> anyhow::Result<Field> {
    let mut field = Field { peers: Vec::new(), infos: Vec::new(), problems: Vec::new() };
    // Nobody else takes part in what is measured of vswitch alone.
    let mut kinds = if chosen.rounds.is_empty() { Vec::new() } else { args.peers.clone() };
    let counterparts: Vec<PeerKind> = kinds.iter().filter_map(|kind| kind.counterpart()).collect();
    kinds.extend(counterparts.into_iter().chain([PeerKind::Vswitch]));
    kinds.sort_unstable();
    kinds.dedup();
    let progress = Progress::new(kinds.len());
    for kind in kinds {
        progress.step(&format!("setting up {kind}"));
        let mut info = PeerInfo { peer: kind, version: None, skipped: None };
        match Peer::set_up(kind, setting) {
            Ok(peer) => {
                info.version.clone_from(&peer.version);
                field.peers.push(peer);
            }
            Err(error) if error.is::<Stopped>() => return Err(error),
            Err(error) => {
                let reason = format!("{error:#}");
                progress.say(&format!("{kind} is skipped: {reason}"));
                if !error.is::<Unavailable>() {
                    field.problems.push(format!("{kind} could not be set up: {reason}"));
                }
                info.skipped = Some(reason);
            }
        }
        field.infos.push(info);
    }
    Ok(field)
}

/// In how many rounds a peer is measured so. What a goal is about is measured more often, where there is the time.
fn repeats(args: &Run, kind: PeerKind, measurement: Measurement) -> u32 {
    const MAIN: u32 = 5;
    const OTHER: u32 = 3;
    if !measurement.concerns(kind, args.suite) {
        return 0;
    }
    let is_main =
        args.suite == Suite::Full && (kind.is_main() || kind.is_in_goals() && measurement.is_in_goals());
    args.repeats.unwrap_or(if is_main { MAIN } else { OTHER })
}

fn rounds(
    args: &Run,
    measurements: &[Measurement],
    field: &mut Field,
    taking: &mut Taking,
) -> anyhow::Result<()> {
    let steps = field.peers.iter().flat_map(|peer| measurements.iter().map(|m| repeats(args, peer.kind, *m)));
    let progress = Progress::new(steps.clone().sum::<u32>() as usize);
    let last = steps.max().unwrap_or(0);
    for round in 0..last {
        for measurement in measurements {
            for at in order(field.peers.len(), round as usize) {
                let peer = &mut field.peers[at];
                if round >= repeats(args, peer.kind, *measurement) {
                    continue;
                }
                let step = format!("round {} of {last}, {}: {}", round + 1, peer.kind, measurement.title());
                progress.step(&step);
                stop::check()?;
                let taken = taking.take(&progress, |samples| measurement.take(peer, samples));
                if let Err(error) = taken {
                    note(error, &step, &progress, &mut field.problems)?;
                }
            }
        }
    }
    Ok(())
}

/// Indices of all peers, beginning with another one in each round.
fn order(peers: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..peers).map(move |at| (at + round) % peers)
}

fn alone(
    steps: &[Alone],
    setting: &Setting,
    problems: &mut Vec<String>,
    taking: &mut Taking,
) -> anyhow::Result<()> {
    let progress = Progress::new(steps.len());
    for step in steps {
        let title = format!("vswitch alone: {}", step.title());
        progress.step(&title);
        if let Err(error) = step.take(setting, taking, &progress) {
            note(error, &title, &progress, problems)?;
        }
    }
    Ok(())
}

/// A measurement that failed is a problem of the run, not its end; a signal is its end.
fn note(
    error: anyhow::Error,
    step: &str,
    progress: &Progress,
    problems: &mut Vec<String>,
) -> anyhow::Result<()> {
    if error.is::<Stopped>() {
        return Err(error);
    }
    let problem = format!("{step}: {error:#}");
    progress.say(&problem);
    problems.push(problem);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_every_peer_and_another_first_one() {
        assert_eq!(order(3, 0).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(order(3, 1).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(order(3, 5).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(order(0, 1).count(), 0);
    }

    #[test]
    fn measurements_are_chosen_by_name() {
        let chosen = |suite, only: &[&str]| {
            let only = only.iter().map(|&name| name.to_owned()).collect();
            let (peers, out) = (PeerKind::ALL.to_vec(), PathBuf::new());
            Chosen::of(&Run { peers, suite, repeats: None, only, out, bin_dir: None })
        };
        let all = chosen(Suite::Full, &[]).unwrap();
        assert_eq!((all.rounds.len(), all.alone.len()), (Measurement::of_suite(Suite::Full).len(), 6));
        let some = chosen(Suite::Full, &["address scale", "tcp, 1"]).unwrap();
        assert_eq!(some.rounds, [Measurement::Tcp { streams: 1, seconds: 3 }]);
        assert_eq!(some.alone, [Alone::MacScale]);
        let error = chosen(Suite::Quick, &["address scale"]).unwrap_err().to_string();
        assert!(error.contains("no measurement named address scale; it has: round trip; "), "{error}");
    }
}
