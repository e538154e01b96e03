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
    Below { bound: f64, aim: Option<f64> },
}

/// What is held against a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// Median of a switch over the median of another one.
    Ratio { metric: Metric, of: PeerKind, to: PeerKind },
    /// Median of vswitch.
    Median(Metric),
    /// Of a metric over a size, at its largest size.
    AtLargest(Metric),
    /// Largest over smallest median of a metric over a size, up to a size.
    Flatness(Metric, u64),
}

use PeerKind::{
    Bare, Bridge, KernelVxlan, KernelVxlanSeg, Ovs, Vde, Vswitch, VswitchEpoll, VswitchVxlan, VswitchVxlanSeg,
};

const fn at_least(bound: f64, aim: f64) -> Bound {
    Bound::AtLeast { bound, aim }
}

const fn at_most(bound: f64, aim: f64) -> Bound {
    Bound::AtMost { bound, aim }
}

/// Of vswitch on one host to another switch.
const fn to(metric: Metric, to: PeerKind) -> Measure {
    Measure::Ratio { metric, of: Vswitch, to }
}

/// With the engine that the bare forwarder has.
const fn to_bare(metric: Metric) -> Measure {
    Measure::Ratio { metric, of: VswitchEpoll, to: Bare }
}

const fn tunnel(of: PeerKind, to: PeerKind) -> Measure {
    Measure::Ratio { metric: Metric::TcpOne, of, to }
}

const GOALS: [(&str, Measure, Bound); 17] = [
    ("TCP, 1 stream / bridge", to(Metric::TcpOne, Bridge), at_least(0.85, 1.0)),
    ("TCP, 1 stream, epoll / bare", to_bare(Metric::TcpOne), at_least(0.95, 1.0)),
    ("TCP, 1 stream / ovs", to(Metric::TcpOne, Ovs), at_least(6.0, 8.0)),
    ("TCP, 1 stream / vde", to(Metric::TcpOne, Vde), at_least(6.0, 8.0)),
    ("64-byte frames / bridge", to(Metric::Rate64, Bridge), at_least(1.0, 1.5)),
    ("64-byte frames, epoll / bare", to_bare(Metric::Rate64), at_least(0.9, 1.0)),
    ("64-byte frames / ovs", to(Metric::Rate64, Ovs), at_least(1.5, 2.0)),
    ("64-byte frames / vde", to(Metric::Rate64, Vde), at_least(1.5, 2.0)),
    ("ICMP round trip, one after the other, mean / bridge", to(Metric::RttMean, Bridge), at_most(2.5, 1.5)),
    ("ICMP round trip, one every 10 ms, mean / bridge", to(Metric::RttPacedMean, Bridge), at_most(2.5, 1.5)),
    (
        "two hosts, TCP, 1 stream / kernel-vxlan, the wire passes GSO",
        tunnel(VswitchVxlan, KernelVxlan),
        at_least(0.7, 1.0),
    ),
    (
        "two hosts, TCP, 1 stream / kernel-vxlan, segments are cut",
        tunnel(VswitchVxlanSeg, KernelVxlanSeg),
        at_least(0.8, 1.1),
    ),
    (
        "CPU for a frame, 2 to 256 ports, largest / smallest",
        Measure::Flatness(Metric::PortsCpu, 256),
        at_most(1.1, 1.0),
    ),
    (
        "CPU for a frame, 1 to 100,000 addresses, largest / smallest",
        Measure::Flatness(Metric::MacsCpu, 100_000),
        at_most(1.1, 1.0),
    ),
    (
        "decision on a frame for a known receiver, ns",
        Measure::Median(Metric::Decision),
        Bound::Below { bound: 60.0, aim: Some(30.0) },
    ),
    (
        "`network connect` to first answered ping, ms",
        Measure::Median(Metric::Connect),
        Bound::Below { bound: 50.0, aim: None },
    ),
    (
        "memory for a port, KiB",
        Measure::AtLargest(Metric::PortMemoryAll),
        Bound::Below { bound: 200.0, aim: None },
    ),
];

impl Measure {
    fn of(self, results: &Results) -> Option<f64> {
        let vswitch = |metric, at| results.summary(Key { metric, peer: Vswitch, at }).map(|s| s.median);
        match self {
            Measure::Median(metric) => vswitch(metric, None),
            Measure::AtLargest(metric) => vswitch(metric, Some(*results.sizes(metric).last()?)),
            Measure::Ratio { metric, of, to } => {
                let other = results.plain(metric, to)?.median;
                (other > 0.0).then_some(results.plain(metric, of)?.median / other)
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
            Bound::Below { bound, aim } => {
                [format!("under {bound}"), aim.map_or_else(String::new, |aim| aim.to_string())]
            }
        }
    }

    fn verdict(self, value: f64) -> String {
        let (is_reached, beyond, is_aim) = match self {
            Bound::AtLeast { bound, aim } => (value >= bound, 1.0 - value / bound, value >= aim),
            Bound::AtMost { bound, aim } => (value <= bound, value / bound - 1.0, value <= aim),
            Bound::Below { bound, aim } => {
                (value < bound, value / bound - 1.0, aim.is_some_and(|aim| value <= aim))
            }
        };
        match (is_reached, is_aim) {
            (false, _) => format!("missed by {:.0}%", beyond * 100.0),
            (true, true) => String::from("reached, the aim too"),
            (true, false) => String::from("reached"),
        }
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
            (Metric::TcpOne, PeerKind::VswitchEpoll, None, &[9.0]),
            (Metric::Connect, PeerKind::Vswitch, None, &[60.0]),
            (Metric::Decision, PeerKind::Vswitch, None, &[29.0]),
            (Metric::TcpOne, PeerKind::VswitchVxlanSeg, None, &[6.0]),
            (Metric::TcpOne, PeerKind::KernelVxlanSeg, None, &[5.0]),
        ]))
        .to_markdown();
        assert!(
            table.contains("| TCP, 1 stream / bridge | at least 0.85 | 1 | 0.900 | reached |"),
            "{table}"
        );
        assert!(
            table.contains("| TCP, 1 stream, epoll / bare | at least 0.95 | 1 | 0.750 | missed by 21% |"),
            "{table}"
        );
        assert!(table.contains("| under 50 |  | 60.0 | missed by 20% |"), "{table}");
        assert!(table.contains("| under 60 | 30 | 29.0 | reached, the aim too |"), "{table}");
        assert!(table.contains("cut | at least 0.8 | 1.1 | 1.20 | reached, the aim too |"), "{table}");
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
