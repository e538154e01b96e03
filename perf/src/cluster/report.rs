//! From samples to tables: each figure with its goal, its median and its spread.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::figures::{Goal, Results, Series, Suite};
use crate::report::document::{self, Block};
use crate::report::number;
use crate::report::table::Table;
use crate::stats::Summary;

const TITLE: &str = "The cluster's control plane";

pub fn write(results: &Results, out: &Path) -> anyhow::Result<()> {
    let put = |file: &str, text: &str| {
        fs::write(out.join(file), text).with_context(|| format!("cannot write {}", out.join(file).display()))
    };
    put("cluster.json", &(serde_json::to_string_pretty(results)? + "\n"))?;
    put("cluster.md", &document::to_markdown(TITLE, &blocks(results)))
}

pub fn terminal(results: &Results) -> String {
    let mut text = plain(results).to_terminal();
    let sizes = sizes(results);
    if !sizes.is_empty() {
        text = text + "\n" + &sizes.to_terminal();
    }
    text
}

fn blocks(results: &Results) -> Vec<Block> {
    let mut blocks = vec![Block::List(facts(results))];
    if !results.problems.is_empty() {
        blocks.push(Block::Text(String::from("Not everything could be measured:")));
        blocks.push(Block::List(results.problems.clone()));
    }
    blocks.push(Block::Text(String::from(
        "Median of the repeats, their range (of the middle half from 8 on), and the worst of them.",
    )));
    blocks.push(Block::Table(plain(results)));
    let sizes = sizes(results);
    if !sizes.is_empty() {
        blocks.push(Block::Heading(String::from("By the number of hosts")));
        blocks.push(Block::Table(sizes));
    }
    blocks
}

fn facts(results: &Results) -> Vec<String> {
    let machine = &results.machine;
    let suite = match results.suite {
        Suite::Quick => "quick",
        Suite::Full => "full",
    };
    vec![
        format!(
            "Machine: {}, {} cores, {} MiB, {}, Linux {}",
            machine.cpu, machine.cores, machine.memory_mib, machine.system, machine.kernel
        ),
        format!("Suite {suite}, vswitch-perf {}, {} s", results.version, results.elapsed_s),
        format!(
            "Before the first measurement other work took {:.1}% of the machine; while it ran the hypervisor took {:.1}%",
            machine.busy_before_percent, machine.stolen_percent
        ),
    ]
}

fn plain(results: &Results) -> Table {
    let mut table = Table::new(["figure", "goal", "median", "spread", "worst", ""]);
    for series in results.series.iter().filter(|series| series.hosts.is_none()) {
        if let Some(row) = row(series) {
            table.push(row);
        }
    }
    table
}

fn row(series: &Series) -> Option<[String; 6]> {
    let spec = series.figure.spec();
    let summary = Summary::of(&series.samples)?;
    let (goal, verdict) = spec.goal.map_or_else(Default::default, |goal| judge(goal, &summary));
    let (low, high) = summary.spread();
    let worst = spec.goal.map_or(summary.max, |goal| goal.worst(&summary));
    Some([
        format!("{}, {}", spec.title, spec.unit),
        goal,
        number::short(summary.median),
        format!("{}-{}", number::short(low), number::short(high)),
        number::short(worst),
        verdict,
    ])
}

fn judge(goal: Goal, summary: &Summary) -> (String, String) {
    let bound = match goal {
        Goal::Under(bound) => format!("under {bound}"),
        Goal::Over(bound) => format!("over {bound}"),
    };
    let verdict = match (goal.is_met(summary.median), goal.is_met(goal.worst(summary))) {
        (true, true) => "reached",
        (true, false) => "reached, not always",
        (false, _) => "missed",
    };
    (bound, verdict.to_owned())
}

/// A row for each figure, a column for each size.
fn sizes(results: &Results) -> Table {
    let mut hosts: Vec<u64> = results.series.iter().filter_map(|series| series.hosts).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let names = hosts.iter().map(|hosts| format!("{hosts} hosts"));
    let mut table = Table::new(["figure", "goal"].map(String::from).into_iter().chain(names));
    let mut figures: Vec<_> =
        results.series.iter().filter(|series| series.hosts.is_some()).map(|series| series.figure).collect();
    figures.dedup();
    for figure in figures {
        let spec = figure.spec();
        let at = |hosts: u64| {
            let found = results.series.iter().find(|s| s.figure == figure && s.hosts == Some(hosts));
            found.and_then(|series| Summary::of(&series.samples))
        };
        let cells = hosts.iter().map(|hosts| match (at(*hosts), spec.goal) {
            (None, _) => String::from("-"),
            (Some(summary), Some(goal)) => {
                format!("{} ({})", number::short(summary.median), judge(goal, &summary).1)
            }
            (Some(summary), None) => number::short(summary.median),
        });
        let goal = match spec.goal {
            Some(Goal::Under(bound)) => format!("under {bound}"),
            Some(Goal::Over(bound)) => format!("over {bound}"),
            None => String::new(),
        };
        let title = if spec.unit.is_empty() {
            spec.title.to_owned()
        } else {
            format!("{}, {}", spec.title, spec.unit)
        };
        table.push([title, goal].into_iter().chain(cells));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::figures::{FORMAT, Figure, Figures};
    use super::*;

    #[test]
    fn goals_are_held_against_medians_and_the_worst() {
        let mut figures = Figures::default();
        for (figure, samples) in [
            (Figure::LeaderMedian, [1.0, 2.0, 3.0]),
            (Figure::FollowerMedian, [9.0, 9.5, 11.0]),
            (Figure::ManyRate, [1500.0, 1900.0, 2500.0]),
            (Figure::LeaderP99, [4.0, 5.0, f64::NAN]),
        ] {
            samples.iter().for_each(|sample| figures.add(figure, *sample));
        }
        figures.add_at(Figure::Slowest, 10, 4.0);
        figures.add_at(Figure::Slowest, 200, 1004.0);
        let results = Results {
            format: FORMAT,
            version: "0.1.0".into(),
            suite: Suite::Quick,
            started_unix_s: 1,
            elapsed_s: 2,
            machine: crate::results::tests::results(&[]).machine,
            series: figures.into_series(),
            problems: vec!["Growth: it broke".into()],
        };
        let text = document::to_markdown(TITLE, &blocks(&results));
        for part in [
            "| an endpoint at the leader, 1 client, median, ms | under 10 | 2.00 | 1.00-3.00 | 3.00 | reached |",
            "| an endpoint at a follower, 1 client, median, ms | under 10 | 9.50 | 9.00-11.0 | 11.0 | reached, not always |",
            "| endpoints, 64 clients on 3 nodes, /s | over 2000 | 1900 | 1500-2500 | 1500 | missed |",
            "| an endpoint at the leader, 1 client, p99, ms |  | 4.50 | 4.00-5.00 | 5.00 |  |",
            "| figure | goal | 10 hosts | 200 hosts |",
            "| under 1000 | 4.00 (reached) | 1004 (missed) |",
            "- Growth: it broke",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let again: Results = serde_json::from_str(&serde_json::to_string(&results).unwrap()).unwrap();
        assert_eq!(again.series, results.series);
    }
}
