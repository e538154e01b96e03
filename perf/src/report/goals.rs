//! What the project wants to reach, as ratios of medians in one run, beside what the run measured.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use super::number;
use super::table::Table;
use crate::metric::Metric;
use crate::peers::PeerKind;
use crate::results::{Key, Results};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    AtLeast { bound: f64, aim: f64 },
    AtMost { bound: f64, aim: f64 },
    Below(f64),
}

/// What is held against a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// Median of vswitch over the median of another peer.
    Ratio(Metric, PeerKind),
    /// Median of vswitch.
    Median(Metric),
    /// Of a metric over a size, at its largest size.
    AtLargest(Metric),
    /// Largest over smallest median of a metric over a size, up to a size.
    Flatness(Metric, u64),
}

const fn at_least(bound: f64, aim: f64) -> Bound {
    Bound::AtLeast { bound, aim }
}

const GOALS: [(&str, Measure, Bound); 13] = [
    ("TCP, 1 stream / bridge", Measure::Ratio(Metric::TcpOne, PeerKind::Bridge), at_least(0.85, 1.0)),
    ("TCP, 1 stream / bare", Measure::Ratio(Metric::TcpOne, PeerKind::Bare), at_least(0.95, 1.0)),
    ("TCP, 1 stream / ovs", Measure::Ratio(Metric::TcpOne, PeerKind::Ovs), at_least(6.0, 8.0)),
    ("TCP, 1 stream / vde", Measure::Ratio(Metric::TcpOne, PeerKind::Vde), at_least(6.0, 8.0)),
    ("64-byte frames / bridge", Measure::Ratio(Metric::Rate64, PeerKind::Bridge), at_least(1.0, 1.5)),
    ("64-byte frames / bare", Measure::Ratio(Metric::Rate64, PeerKind::Bare), at_least(0.9, 1.0)),
    ("64-byte frames / ovs", Measure::Ratio(Metric::Rate64, PeerKind::Ovs), at_least(1.5, 2.0)),
    ("64-byte frames / vde", Measure::Ratio(Metric::Rate64, PeerKind::Vde), at_least(1.5, 2.0)),
    (
        "ICMP round trip, mean / bridge",
        Measure::Ratio(Metric::RttMean, PeerKind::Bridge),
        Bound::AtMost { bound: 2.5, aim: 1.5 },
    ),
    ("`network connect` to first answered ping, ms", Measure::Median(Metric::Connect), Bound::Below(50.0)),
    ("Memory for a port, KiB", Measure::AtLargest(Metric::PortMemoryAll), Bound::Below(200.0)),
    (
        "CPU for a frame, 2 to 256 ports, largest / smallest",
        Measure::Flatness(Metric::PortsCpu, 256),
        Bound::AtMost { bound: 1.1, aim: 1.0 },
    ),
    (
        "CPU for a frame, 1 to 100,000 addresses, largest / smallest",
        Measure::Flatness(Metric::MacsCpu, 100_000),
        Bound::AtMost { bound: 1.1, aim: 1.0 },
    ),
];

impl Measure {
    fn of(self, results: &Results) -> Option<f64> {
        let vswitch =
            |metric, at| results.summary(Key { metric, peer: PeerKind::Vswitch, at }).map(|s| s.median);
        match self {
            Measure::Median(metric) => vswitch(metric, None),
            Measure::AtLargest(metric) => vswitch(metric, Some(*results.sizes(metric).last()?)),
            Measure::Ratio(metric, peer) => {
                let other = results.plain(metric, peer)?.median;
                (other > 0.0).then_some(vswitch(metric, None)? / other)
            }
            Measure::Flatness(metric, up_to) => {
                let sizes = results.sizes(metric).into_iter().filter(|&size| size <= up_to);
                let medians: Vec<f64> = sizes.filter_map(|size| vswitch(metric, Some(size))).collect();
                let (low, high) =
                    medians.iter().fold((f64::INFINITY, 0.0_f64), |(l, h), &m| (l.min(m), h.max(m)));
                (medians.len() > 1 && low > 0.0).then_some(high / low)
            }
        }
    }
}

impl Bound {
    fn cells(self) -> [String; 2] {
        match self {
            Bound::AtLeast { bound, aim } => [format!("at least {bound}"), aim.to_string()],
            Bound::AtMost { bound, aim } => [format!("at most {bound}"), aim.to_string()],
            Bound::Below(bound) => [format!("under {bound}"), String::new()],
        }
    }

    fn verdict(self, value: f64) -> String {
        let shortfall = match self {
            Bound::AtLeast { bound, .. } if value < bound => 1.0 - value / bound,
            Bound::AtMost { bound, .. } if value > bound => value / bound - 1.0,
            Bound::Below(bound) if value >= bound => value / bound - 1.0,
            _ => return String::from("reached"),
        };
        format!("missed by {:.0}%", shortfall * 100.0)
    }
}

/// The goals about which the run says something.
pub fn table(results: &Results) -> Table {
    let mut table = Table::new(["goal", "bound", "aim", "measured", ""]);
    for (title, measure, bound) in GOALS {
        if let Some(value) = measure.of(results) {
            let [required, aim] = bound.cells();
            table.push([title.to_owned(), required, aim, number::short(value), bound.verdict(value)]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn reached_missed_and_unknown() {
        let table = table(&results(&[
            (Metric::TcpOne, PeerKind::Vswitch, None, &[9.0]),
            (Metric::TcpOne, PeerKind::Bridge, None, &[10.0]),
            (Metric::TcpOne, PeerKind::Bare, None, &[12.0]),
            (Metric::Connect, PeerKind::Vswitch, None, &[60.0]),
        ]))
        .to_markdown();
        assert!(
            table.contains("| TCP, 1 stream / bridge | at least 0.85 | 1 | 0.900 | reached |"),
            "{table}"
        );
        assert!(
            table.contains("| TCP, 1 stream / bare | at least 0.95 | 1 | 0.750 | missed by 21% |"),
            "{table}"
        );
        assert!(table.contains("| under 50 |  | 60.0 | missed by 20% |"), "{table}");
        assert!(!table.contains("vde"), "{table}");
    }

    #[test]
    fn flatness_is_over_the_sizes_of_the_goal_only() {
        let measured = results(&[
            (Metric::PortsCpu, PeerKind::Vswitch, Some(2), &[1.0]),
            (Metric::PortsCpu, PeerKind::Vswitch, Some(256), &[1.05]),
            (Metric::PortsCpu, PeerKind::Vswitch, Some(1024), &[3.0]),
        ]);
        assert_eq!(Measure::Flatness(Metric::PortsCpu, 256).of(&measured), Some(1.05));
        assert_eq!(Measure::AtLargest(Metric::PortsCpu).of(&measured), Some(3.0));
        assert_eq!(Measure::Flatness(Metric::MacsCpu, 256).of(&measured), None);
    }
}
