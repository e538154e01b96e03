//! Judges one run against another, with the spread of both.
//!
//! A difference counts when the spreads of the two runs do not touch and the medians are at least
//! [`NOTICEABLE`] apart. With five samples on each side and nothing changed, ranges miss each other in one
//! comparison of 126; with three, in one of ten. A single sample has no spread and is not judged.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::fmt;

use crate::metric::Better;
use crate::report::number;
use crate::report::table::Table;
use crate::results::{Key, Results};
use crate::stats::Summary;

/// A smaller relative difference of the medians is called the same, however small the spreads are.
const NOTICEABLE: f64 = 0.02;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    Better,
    Worse,
    Same,
    /// A single sample on one side.
    Unjudged,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Judgement::Better => "better",
            Judgement::Worse => "worse",
            Judgement::Same => "same",
            Judgement::Unjudged => "one sample",
        })
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub key: Key,
    pub old: Summary,
    pub new: Summary,
    pub judgement: Judgement,
}

/// Everything that both runs measured, in the order of the report.
pub fn compare(old: &Results, new: &Results) -> Vec<Row> {
    let pairs = new.series.iter().filter_map(|series| {
        let key = series.key;
        Some((key, old.summary(key)?, Summary::of(&series.samples)?))
    });
    let mut rows: Vec<Row> = pairs
        .map(|(key, old, new)| Row { key, old, new, judgement: judge(key.metric.spec().better, &old, &new) })
        .collect();
    rows.sort_by_key(|row| row.key);
    rows
}

pub fn judge(better: Better, old: &Summary, new: &Summary) -> Judgement {
    if old.count < 2 || new.count < 2 {
        return Judgement::Unjudged;
    }
    let ((old_low, old_high), (new_low, new_high)) = (old.spread(), new.spread());
    let noticeable = (new.median - old.median).abs() >= NOTICEABLE * old.median.abs();
    let (higher, lower) = (new_low > old_high && noticeable, new_high < old_low && noticeable);
    match (higher, lower, better) {
        (true, _, Better::Higher) | (_, true, Better::Lower) => Judgement::Better,
        (true, _, Better::Lower) | (_, true, Better::Higher) => Judgement::Worse,
        _ => Judgement::Same,
    }
}

/// The rows as a table to print.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(["metric", "peer", "before", "after", "change", "judgement"]);
    for row in rows {
        let spec = row.key.metric.spec();
        let size = match (row.key.at, spec.axis) {
            (Some(at), Some(axis)) => format!(", {at} {axis}"),
            _ => String::new(),
        };
        table.push([
            format!("{}{size}, {}", spec.title, spec.unit),
            row.key.peer.to_string(),
            number::with_spread(&row.old),
            number::with_spread(&row.new),
            change(row),
            row.judgement.to_string(),
        ]);
    }
    table
}

fn change(row: &Row) -> String {
    if row.old.median == 0.0 {
        return String::from("-");
    }
    format!("{:+.1}%", (row.new.median / row.old.median - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Metric;
    use crate::peers::PeerKind;
    use crate::results::tests::results;

    fn judged(better: Better, old: &[f64], new: &[f64]) -> Judgement {
        judge(better, &Summary::of(old).unwrap(), &Summary::of(new).unwrap())
    }

    #[test]
    fn spreads_that_touch_are_the_same() {
        assert_eq!(judged(Better::Higher, &[10.0, 11.0, 12.0], &[12.0, 13.0, 14.0]), Judgement::Same);
        assert_eq!(judged(Better::Higher, &[10.0, 11.0, 12.0], &[12.1, 13.0, 14.0]), Judgement::Better);
        assert_eq!(judged(Better::Higher, &[12.1, 13.0, 14.0], &[10.0, 11.0, 12.0]), Judgement::Worse);
    }

    #[test]
    fn the_direction_of_the_metric_decides() {
        assert_eq!(judged(Better::Lower, &[10.0, 11.0], &[20.0, 21.0]), Judgement::Worse);
        assert_eq!(judged(Better::Lower, &[20.0, 21.0], &[10.0, 11.0]), Judgement::Better);
    }

    #[test]
    fn what_is_too_small_or_too_few_is_not_a_difference() {
        assert_eq!(judged(Better::Higher, &[100.0, 100.1], &[101.0, 101.1]), Judgement::Same);
        assert_eq!(judged(Better::Higher, &[1.0], &[9.0, 9.1]), Judgement::Unjudged);
    }

    #[test]
    fn only_what_both_measured_is_compared() {
        let old = results(&[
            (Metric::TcpOne, PeerKind::Bridge, None, &[10.0, 10.1]),
            (Metric::PortsRate, PeerKind::Vswitch, Some(2), &[0.5, 0.51]),
        ]);
        let new = results(&[
            (Metric::TcpOne, PeerKind::Bridge, None, &[5.0, 5.1]),
            (Metric::TcpOne, PeerKind::Vde, None, &[1.0, 1.1]),
            (Metric::PortsRate, PeerKind::Vswitch, Some(2), &[0.6, 0.61]),
            (Metric::PortsRate, PeerKind::Vswitch, Some(4), &[0.6, 0.61]),
        ]);
        let rows = compare(&old, &new);
        let judgements: Vec<_> = rows.iter().map(|row| (row.key.metric, row.judgement)).collect();
        assert_eq!(judgements, [(Metric::TcpOne, Judgement::Worse), (Metric::PortsRate, Judgement::Better)]);
        let text = table(&rows).to_markdown();
        assert!(
            text.contains(
                "| TCP, 1 stream, Gbit/s | bridge | 10.1 (10.0-10.1) | 5.05 (5.00-5.10) | -49.8% | worse |"
            ),
            "{text}"
        );
        assert!(text.contains("64-byte frames between 2 of N ports, 2 ports, Mpps"), "{text}");
    }
}
