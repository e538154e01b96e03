//! The replicated control plane: three members as processes of their own, and what they take for what.
//!
//! The members are this program run again (`member`), each with the cluster's own code, TLS over loopback and a log on
//! the disk under `--dir`. They do what they are told on stdin and end with it, so nothing of them outlives the rig.
//! A member is killed as a crash kills it, with SIGKILL.
//!
//! | module | what it measures |
//! | --- | --- |
//! | `commit` | endpoints made by one client, and by 64 at once |
//! | `failover` | the time without a leader |
//! | `scale` | what 10,000 endpoints cost a node |
//! | `growth` | what a cluster of up to 200 hosts says, in simulated time |

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::machine::{self, CpuTime};
use crate::progress::Progress;
use crate::stop::{self, Stopped};
use figures::{Figures, Results, Suite};

mod commit;
mod disk;
mod failover;
pub mod figures;
mod growth;
pub mod member;
mod members;
mod orders;
mod report;
mod scale;

/// Long enough to see what else is running.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, clap::Args)]
pub struct Cluster {
    #[arg(long, value_enum, default_value = "quick")]
    suite: Suite,
    /// Measurements, separated by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Directory for cluster.json and cluster.md
    #[arg(long, default_value = "bench-out")]
    out: PathBuf,
    /// Where the members keep their logs; its disk is what is measured [default: the directory of --out]
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Commits of one client and of 64
    Commit,
    /// Leaders killed
    Failover,
    /// 10,000 endpoints
    Scale,
    /// Up to 200 simulated hosts
    Growth,
}

const PARTS: [Part; 4] = [Part::Commit, Part::Failover, Part::Scale, Part::Growth];

/// Measures, writes the report, and says whether everything could be measured.
pub fn run(args: &Cluster) -> anyhow::Result<bool> {
    let started = Instant::now();
    let started_unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let cannot = || format!("cannot use the directory {}", args.out.display());
    fs::create_dir_all(&args.out).with_context(cannot)?;
    let dir = args.dir.as_deref().unwrap_or(&args.out);
    let mut machine = machine::describe(LOOK)?;
    let cpu_before = CpuTime::now()?;

    let mut figures = Figures::default();
    let mut problems = Vec::new();
    let parts: Vec<Part> =
        PARTS.into_iter().filter(|part| args.only.is_empty() || args.only.contains(part)).collect();
    let progress = Progress::new(parts.len());
    for part in parts {
        stop::check()?;
        if let Err(error) = take(part, args.suite, dir, &progress, &mut figures) {
            if error.is::<Stopped>() {
                return Err(error);
            }
            let problem = format!("{part:?}: {error:#}");
            progress.say(&problem);
            problems.push(problem);
        }
    }
    drop(progress);

    machine.stolen_percent = CpuTime::now()?.since(&cpu_before).stolen_percent();
    let results = Results {
        format: figures::FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        suite: args.suite,
        started_unix_s,
        elapsed_s: started.elapsed().as_secs(),
        machine,
        series: figures.into_series(),
        problems,
    };
    report::write(&results, &args.out)?;
    println!("{}", report::terminal(&results));
    eprintln!("wrote {}", args.out.join("cluster.md").display());
    Ok(results.problems.is_empty() && !results.series.is_empty())
}

fn take(
    part: Part,
    suite: Suite,
    dir: &Path,
    progress: &Progress,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    match part {
        Part::Commit => commit::measure(suite, dir, progress, figures),
        Part::Failover => failover::measure(suite, dir, progress, figures),
        Part::Scale => scale::measure(suite, dir, progress, figures),
        Part::Growth => growth::measure(suite, progress, figures),
    }
}
