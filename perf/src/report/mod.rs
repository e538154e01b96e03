//! From results to what people read: `results.json`, `results.md` with its charts, and `report.html` with them
//! embedded.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::metric::Metric;
use crate::peers::PeerKind;
use crate::results::{Apart, Key, Results, Suite};
use chart::{Bar, Line};
use document::{Block, Chart};
use table::Table;

mod chart;
pub mod document;
mod goals;
mod html;
pub mod number;
pub mod table;

const TITLE: &str = "vswitch beside its peers";
const CHARTS: &str = "Charts";

/// Writes everything into a directory, which is made if it is not there.
pub fn write(results: &Results, out: &Path) -> anyhow::Result<()> {
    let cannot = |file: &str| format!("cannot write {}", out.join(file).display());
    fs::create_dir_all(out).with_context(|| cannot(""))?;
    let blocks = blocks(results);
    let put = |file: &str, text: &str| fs::write(out.join(file), text).with_context(|| cannot(file));
    put("results.json", &results.to_json()?)?;
    put("results.md", &document::to_markdown(TITLE, &blocks))?;
    put("report.html", &document::to_html(TITLE, &blocks))?;
    for block in &blocks {
        if let Block::Chart(chart) = block {
            put(&chart.file, &chart.svg)?;
        }
    }
    Ok(())
}

/// Puts the tables of a run into a document, between the two lines that mark their place.
pub fn publish(results: &Results, document: &Path) -> anyhow::Result<()> {
    let name = document.display();
    let text = fs::read_to_string(document).with_context(|| format!("cannot read {name}"))?;
    let text = replaced(&text, results).with_context(|| {
        format!("{name} lacks the lines `{BEGIN}` and `{END}`, between which the figures belong")
    })?;
    fs::write(document, text).with_context(|| format!("cannot write {name}"))
}

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

fn replaced(text: &str, results: &Results) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    let mut tables = blocks(results);
    tables.retain(|block| !matches!(block, Block::Chart(_)));
    // A heading that only had charts below it.
    let charts = Block::Heading(String::from(CHARTS));
    tables.retain(|block| *block != charts);
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", document::below(&tables, "###")))
}

/// The figures as they are shown at the end of a run.
pub fn terminal(results: &Results) -> String {
    let peers = results.measured_peers();
    let mut text = medians(results, &plain_metrics(results, &peers), &peers).to_terminal();
    let goals = goals::table(results);
    if !goals.is_empty() {
        text = text + "\n" + &goals.to_terminal();
    }
    text
}

fn plain_metrics(results: &Results, peers: &[PeerKind]) -> Vec<Metric> {
    let has_figures = |&metric: &Metric| peers.iter().any(|&peer| results.plain(metric, peer).is_some());
    Metric::ALL.into_iter().filter(has_figures).collect()
}

fn blocks(results: &Results) -> Vec<Block> {
    let mut blocks = vec![Block::List(facts(results))];
    if !results.problems.is_empty() {
        blocks.push(Block::Text(String::from("Not everything could be measured:")));
        blocks.push(Block::List(results.problems.clone()));
    }
    let goals = goals::table(results);
    if !goals.is_empty() {
        blocks.push(Block::Heading(String::from("Goals")));
        blocks.push(Block::Text(String::from(
            "Ratios are of the medians of vswitch and the peer in this run.",
        )));
        blocks.push(Block::Table(goals));
    }
    blocks.extend(figures(results));
    blocks.extend(scales(results));
    blocks
}

/// The machine, the run, and who took part.
fn facts(results: &Results) -> Vec<String> {
    let machine = &results.machine;
    let suite = match results.suite {
        Suite::Quick => "quick",
        Suite::Full => "full",
    };
    let mut facts = vec![
        format!(
            "Machine: {}, {} cores, {} MiB, {}, Linux {}",
            machine.cpu, machine.cores, machine.memory_mib, machine.system, machine.kernel
        ),
        format!("Suite {suite}, vswitch-perf {}, {} s", results.version, results.elapsed_s),
        format!(
            "Before the first measurement other work took {:.1}% of the machine; while it ran the hypervisor took {:.1}%",
            machine.busy_before_percent, machine.stolen_percent
        ),
    ];
    if !machine.congestion_control.is_empty() {
        facts.push(format!("TCP's congestion control: {}", machine.congestion_control));
    }
    let Apart { near_ns, far_ns, retaken, kept } = machine.apart;
    if near_ns > 0.0 {
        facts.push(format!(
            "A line of memory took {near_ns:.0} to {far_ns:.0} ns from processor to processor; {retaken} samples were taken again \
             because the processors were moved apart meanwhile, {kept} were kept that began or ended so"
        ));
    }
    for info in &results.peers {
        let what = match (&info.skipped, &info.version) {
            (Some(reason), _) => format!("skipped: {reason}"),
            (None, Some(version)) => format!("{} ({version})", info.peer.about()),
            (None, None) => info.peer.about().to_owned(),
        };
        facts.push(format!("{}: {what}", info.peer));
    }
    facts
}

/// Medians, spreads and ratios of what has no axis, and a bar chart of each metric that several peers have.
fn figures(results: &Results) -> Vec<Block> {
    let peers = results.measured_peers();
    let metrics = plain_metrics(results, &peers);
    if metrics.is_empty() {
        return Vec::new();
    }
    let mut blocks = vec![
        Block::Heading(String::from("Figures")),
        Block::Text(String::from(
            "Median, and in brackets the range of all samples (of the middle half from 8 samples on).",
        )),
        Block::Table(medians(results, &metrics, &peers)),
    ];
    for base in [PeerKind::Bridge, PeerKind::Bare] {
        if peers.contains(&base) && peers.len() > 1 {
            blocks.push(Block::Heading(format!("Ratios to {base}")));
            blocks.push(Block::Table(ratios(results, &metrics, &peers, base)));
        }
    }
    let charts: Vec<Block> =
        metrics.iter().filter_map(|&metric| bar_chart(results, metric, &peers)).collect();
    if !charts.is_empty() {
        blocks.push(Block::Heading(String::from(CHARTS)));
        blocks.extend(charts);
    }
    blocks
}

fn medians(results: &Results, metrics: &[Metric], peers: &[PeerKind]) -> Table {
    peer_table(metrics, peers, |metric, peer| {
        results.plain(metric, peer).map_or(String::from("-"), |summary| number::with_spread(&summary))
    })
}

fn ratios(results: &Results, metrics: &[Metric], peers: &[PeerKind], base: PeerKind) -> Table {
    let others: Vec<PeerKind> = peers.iter().copied().filter(|&peer| peer != base).collect();
    let comparable: Vec<Metric> =
        metrics.iter().copied().filter(|&metric| results.plain(metric, base).is_some()).collect();
    peer_table(&comparable, &others, |metric, peer| {
        match (results.plain(metric, peer), results.plain(metric, base)) {
            (Some(of), Some(to)) => number::ratio(of.median, to.median),
            _ => String::from("-"),
        }
    })
}

/// A row for each metric, a column for each peer.
fn peer_table(metrics: &[Metric], peers: &[PeerKind], cell: impl Fn(Metric, PeerKind) -> String) -> Table {
    let names = peers.iter().map(ToString::to_string);
    let mut table = Table::new(std::iter::once(String::from("metric")).chain(names));
    for &metric in metrics {
        let spec = metric.spec();
        let title = format!("{}, {}", spec.title, spec.unit);
        let cells = peers.iter().map(|&peer| cell(metric, peer));
        table.push(std::iter::once(title).chain(cells));
    }
    table
}

fn bar_chart(results: &Results, metric: Metric, peers: &[PeerKind]) -> Option<Block> {
    let bars: Vec<Bar> = peers
        .iter()
        .filter_map(|&peer| {
            let summary = results.plain(metric, peer)?;
            Some(Bar { label: peer.to_string(), summary, highlighted: peer.is_ours() })
        })
        .collect();
    if bars.len() < 2 {
        return None;
    }
    let spec = metric.spec();
    Some(chart_block(metric, chart::bars(spec.title, spec.unit, &bars)))
}

/// A table and a line chart of each metric that was measured at several sizes.
fn scales(results: &Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    for metric in Metric::ALL {
        let spec = metric.spec();
        let (Some(axis), sizes) = (spec.axis, results.sizes(metric)) else { continue };
        let peers = results.measured_peers();
        let lines: Vec<Line> = peers
            .iter()
            .map(|&peer| {
                let at = |size: u64| Some((size, results.summary(Key { metric, peer, at: Some(size) })?));
                Line { label: peer.to_string(), points: sizes.iter().filter_map(|&size| at(size)).collect() }
            })
            .filter(|line| !line.points.is_empty())
            .collect();
        if lines.is_empty() {
            continue;
        }
        if blocks.is_empty() {
            blocks.push(Block::Heading(String::from("Scale")));
        }
        let mut table =
            Table::new([axis.to_owned(), String::from("peer"), format!("{}, {}", spec.title, spec.unit)]);
        for line in &lines {
            for (size, summary) in &line.points {
                table.push([size.to_string(), line.label.clone(), number::with_spread(summary)]);
            }
        }
        blocks.push(Block::Table(table));
        if sizes.len() > 1 {
            blocks.push(chart_block(metric, chart::lines(spec.title, spec.unit, axis, &lines)));
        }
    }
    blocks
}

fn chart_block(metric: Metric, svg: String) -> Block {
    let name = format!("{metric:?}");
    let mut file = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !file.is_empty() {
            file.push('-');
        }
        file.push(c.to_ascii_lowercase());
    }
    Block::Chart(Chart { file: file + ".svg", title: metric.spec().title.to_owned(), svg })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    fn some() -> Results {
        let mut results = results(&[
            (Metric::TcpOne, PeerKind::Vswitch, None, &[9.0, 9.5]),
            (Metric::TcpOne, PeerKind::Bridge, None, &[10.0, 12.0]),
            (Metric::Memory, PeerKind::Vswitch, None, &[20.0]),
            (Metric::PortsRate, PeerKind::Vswitch, Some(2), &[0.5]),
            (Metric::PortsRate, PeerKind::Vswitch, Some(1024), &[0.4]),
        ]);
        results.peers[3].skipped = Some(String::from("vde_switch is not installed (apt install vde2)"));
        results.problems.push(String::from("bare: it broke"));
        results
    }

    #[test]
    fn markdown_has_the_machine_the_figures_and_the_reasons() {
        let text = document::to_markdown(TITLE, &blocks(&some()));
        for part in [
            "Some <CPU>, 2 cores",
            "- vde: skipped: vde_switch is not installed (apt install vde2)",
            "- bare: it broke",
            "| TCP, 1 stream, Gbit/s | 9.25 (9.00-9.50) | 11.0 (10.0-12.0) |",
            "## Ratios to bridge",
            "| TCP, 1 stream, Gbit/s | 0.84 |",
            "| 1024 | vswitch | 0.400 |",
            "![TCP, 1 stream](tcp-one.svg)",
            "![64-byte frames between 2 of N ports](ports-rate.svg)",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        // One peer alone is no comparison.
        assert!(!text.contains("memory.svg"));
        assert!(!text.contains("Ratios to bare"));
    }

    #[test]
    fn a_document_gets_the_tables_of_a_run_in_place_of_others() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replaced(&text, &some()).unwrap();
        assert!(new.starts_with(&format!("before\n{BEGIN}\n\n- Machine: ")), "{new}");
        assert!(new.ends_with(&format!("\n{END}\nafter\n")), "{new}");
        assert!(new.contains("### Goals") && !new.contains("old"), "{new}");
        assert!(!new.contains("Charts") && !new.contains("svg"), "{new}");
        assert_eq!(replaced(&new, &some()), Some(new));
        assert_eq!(replaced("no place for it", &some()), None);
    }

    #[test]
    fn the_directory_holds_everything_and_the_page_stands_alone() {
        let out = tempfile::tempdir().unwrap();
        let nested = out.path().join("a/b");
        write(&some(), &nested).unwrap();
        let page = fs::read_to_string(nested.join("report.html")).unwrap();
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(page.contains("Some &lt;CPU&gt;"));
        assert!(nested.join("tcp-one.svg").exists() && nested.join("results.md").exists());
        let json = fs::read_to_string(nested.join("results.json")).unwrap();
        assert_eq!(Results::from_json(&json).unwrap().series, some().series);
    }
}
