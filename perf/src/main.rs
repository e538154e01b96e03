//! `vswitch-perf`: measures vswitch beside its peers.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`run`] | a run from beginning to end |
//! | [`cluster`] | the replicated control plane, apart from the rest |
//! | [`docker`] | Docker with vswitch beside Docker's bridge |
//! | [`fairness`] | what a container at full power costs the others |
//! | [`mod@compare`] | two runs, judged |
//! | [`peers`] | the switches, each set up in namespaces of its own |
//! | [`measure`] | what is measured of them |
//! | [`probe`] | traffic and the bare forwarder, run inside the namespaces |
//! | [`lab`] | namespaces and processes that cannot outlive the rig |
//! | [`machine`] | processors, memory and interfaces, from `/proc` |
//! | [`metric`], [`results`], [`stats`] | the samples and what they say |
//! | [`report`] | Markdown, charts and HTML |

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use results::Results;

mod closeness;
mod cluster;
mod compare;
mod docker;
mod fairness;
mod lab;
mod machine;
mod measure;
mod metric;
mod peers;
mod probe;
mod progress;
mod report;
mod results;
mod run;
mod stats;
mod stop;

#[derive(Debug, Parser)]
#[command(version, about = "Measures vswitch beside its peers")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure switches side by side and write a report (needs root)
    #[command(after_help = "Example: vswitch-perf run --peers vswitch,bridge,bare --out before")]
    Run(run::Run),
    /// Judge a run against an earlier one
    #[command(after_help = "Example: vswitch-perf compare before after")]
    Compare {
        /// The earlier results.json, or its directory
        before: PathBuf,
        /// The later results.json, or its directory
        after: PathBuf,
        /// Exit with 1 if anything is worse
        #[arg(long)]
        strict: bool,
    },
    /// Put the tables of a run into a document, between its marks for figures
    #[command(after_help = "Example: vswitch-perf publish bench-out docs/performance.md")]
    Publish {
        /// The results.json, or its directory
        results: PathBuf,
        document: PathBuf,
    },
    /// Measure the cluster's control plane: three nodes as processes on loopback, and simulated ones
    #[command(after_help = "Example: vswitch-perf cluster --suite quick --only commit,failover")]
    Cluster(cluster::Cluster),
    /// Measure Docker with vswitch beside Docker's own bridge, with an engine of its own (needs root)
    #[command(after_help = "Example: vswitch-perf docker --runs 20")]
    Docker(docker::Docker),
    /// Measure what a container at full power costs the others, by each kind of attack (needs root)
    #[command(after_help = "Example: vswitch-perf fairness --only segments,broadcast")]
    Fairness(fairness::Fairness),
    #[command(hide = true)]
    Member(cluster::member::Member),
    #[command(hide = true)]
    Inside(lab::inside::Inside),
    #[command(hide = true)]
    Hold { count: usize },
    #[command(hide = true)]
    Bare(probe::bare::Bare),
    #[command(hide = true)]
    Blast(probe::blast::Blast),
    #[command(hide = true)]
    Ping(probe::ping::Ping),
}

fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<stop::Stopped>() => {
            eprintln!("vswitch-perf: {error}");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("vswitch-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn act(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Run(args) => {
            stop::watch()?;
            return run::run(&args);
        }
        Command::Compare { before, after, strict } => return compare(&before, &after, strict),
        Command::Publish { results, document } => report::publish(&load(&results)?, &document),
        Command::Cluster(args) => {
            stop::watch()?;
            return cluster::run(&args);
        }
        Command::Docker(args) => {
            stop::watch()?;
            return docker::run(&args);
        }
        Command::Fairness(args) => return fairness::run(&args),
        Command::Member(args) => cluster::member::run(&args),
        Command::Inside(args) => lab::inside::become_command(args),
        Command::Hold { count } => lab::inside::hold(count),
        Command::Bare(args) => probe::bare::run(&args),
        Command::Blast(args) => probe::blast::run(&args),
        Command::Ping(args) => probe::ping::run(&args),
    }?;
    Ok(true)
}

fn compare(before: &Path, after: &Path, strict: bool) -> anyhow::Result<bool> {
    let (before, after) = (load(before)?, load(after)?);
    if before.machine.cpu != after.machine.cpu || before.machine.kernel != after.machine.kernel {
        eprintln!("warning: the two runs are of different machines or kernels");
    }
    let rows = compare::compare(&before, &after);
    anyhow::ensure!(!rows.is_empty(), "the two runs have no figure in common");
    print!("{}", compare::table(&rows).to_terminal());
    let count = |judgement| rows.iter().filter(|row| row.judgement == judgement).count();
    let (better, worse) = (count(compare::Judgement::Better), count(compare::Judgement::Worse));
    println!("\n{better} better, {worse} worse, {} others", rows.len() - better - worse);
    Ok(!strict || worse == 0)
}

fn load(path: &Path) -> anyhow::Result<Results> {
    let file = if path.is_dir() { path.join("results.json") } else { path.to_owned() };
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Results::from_json(&text).with_context(|| format!("cannot use {}", file.display()))
}
