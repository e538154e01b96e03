//! What is measured, and whether more of it is better.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// How a metric is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    pub title: &'static str,
    pub unit: &'static str,
    pub better: Better,
    /// What [`Point::at`](crate::results::Key::at) counts, for metrics that are measured at several sizes.
    pub axis: Option<&'static str>,
}

/// In the order of the report. The names in files are these in snake case: renaming one breaks `compare` with older
/// files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    TcpOne,
    TcpOneCpu,
    TcpOneSwitchCpu,
    TcpFour,
    TcpFourCpu,
    RttMean,
    RttP50,
    RttP99,
    RttPacedMean,
    RttLoadedMean,
    RttLoadedP50,
    RttLoadedP99,
    RttLoadedLoss,
    Rate64,
    Rate64Loss,
    Rate64Cpu,
    Rate64SwitchCpu,
    Rate64HalfPercent,
    Rate64NoLoss,
    RateImix,
    RateImixLoss,
    RateImixCpu,
    RateImixHalfPercent,
    RateImixNoLoss,
    Rate1500,
    Rate1500Loss,
    Rate1500Cpu,
    Rate1500HalfPercent,
    Rate1500NoLoss,
    Memory,
    Connect,
    PortCreate,
    PortMemory,
    PortMemoryAll,
    PortsRate,
    PortsCpu,
    MacsRate,
    MacsCpu,
    FloodCpu,
    Decision,
}

use Better::{Higher, Lower};

const CPU_PER_GBIT: &str = "CPU s/Gbit";
const CPU_PER_MILLION: &str = "CPU s/M frames";

impl Metric {
    pub const ALL: [Metric; 40] = [
        Metric::TcpOne,
        Metric::TcpOneCpu,
        Metric::TcpOneSwitchCpu,
        Metric::TcpFour,
        Metric::TcpFourCpu,
        Metric::RttMean,
        Metric::RttP50,
        Metric::RttP99,
        Metric::RttPacedMean,
        Metric::RttLoadedMean,
        Metric::RttLoadedP50,
        Metric::RttLoadedP99,
        Metric::RttLoadedLoss,
        Metric::Rate64,
        Metric::Rate64Loss,
        Metric::Rate64Cpu,
        Metric::Rate64SwitchCpu,
        Metric::Rate64HalfPercent,
        Metric::Rate64NoLoss,
        Metric::RateImix,
        Metric::RateImixLoss,
        Metric::RateImixCpu,
        Metric::RateImixHalfPercent,
        Metric::RateImixNoLoss,
        Metric::Rate1500,
        Metric::Rate1500Loss,
        Metric::Rate1500Cpu,
        Metric::Rate1500HalfPercent,
        Metric::Rate1500NoLoss,
        Metric::Memory,
        Metric::Connect,
        Metric::PortCreate,
        Metric::PortMemory,
        Metric::PortMemoryAll,
        Metric::PortsRate,
        Metric::PortsCpu,
        Metric::MacsRate,
        Metric::MacsCpu,
        Metric::FloodCpu,
        Metric::Decision,
    ];

    pub const fn spec(self) -> Spec {
        match self {
            Metric::TcpOne => plain("TCP, 1 stream", "Gbit/s", Higher),
            Metric::TcpOneCpu => plain("TCP, 1 stream: CPU of everything", CPU_PER_GBIT, Lower),
            Metric::TcpOneSwitchCpu => plain("TCP, 1 stream: CPU of the switch", CPU_PER_GBIT, Lower),
            Metric::TcpFour => plain("TCP, 4 streams", "Gbit/s", Higher),
            Metric::TcpFourCpu => plain("TCP, 4 streams: CPU of everything", CPU_PER_GBIT, Lower),
            Metric::RttMean => plain("ICMP round trip, idle: mean", "µs", Lower),
            Metric::RttP50 => plain("ICMP round trip, idle: p50", "µs", Lower),
            Metric::RttP99 => plain("ICMP round trip, idle: p99", "µs", Lower),
            Metric::RttPacedMean => plain("ICMP round trip, one every 10 ms: mean", "µs", Lower),
            Metric::RttLoadedMean => plain("ICMP round trip beside 1 TCP stream: mean", "µs", Lower),
            Metric::RttLoadedP50 => plain("ICMP round trip beside 1 TCP stream: p50", "µs", Lower),
            Metric::RttLoadedP99 => plain("ICMP round trip beside 1 TCP stream: p99", "µs", Lower),
            Metric::RttLoadedLoss => plain("ICMP echoes beside 1 TCP stream: lost", "%", Lower),
            Metric::Rate64 => plain("64-byte frames, saturated", "Mpps", Higher),
            Metric::Rate64Loss => plain("64-byte frames, saturated: loss", "%", Lower),
            Metric::Rate64Cpu => plain("64-byte frames: CPU of everything", CPU_PER_MILLION, Lower),
            Metric::Rate64SwitchCpu => plain("64-byte frames: CPU of the switch", CPU_PER_MILLION, Lower),
            Metric::Rate64HalfPercent => plain("64-byte frames, at most 0.5% lost", "Mpps", Higher),
            Metric::Rate64NoLoss => plain("64-byte frames, none lost", "Mpps", Higher),
            Metric::RateImix => plain("IMIX, saturated", "Mpps", Higher),
            Metric::RateImixLoss => plain("IMIX, saturated: loss", "%", Lower),
            Metric::RateImixCpu => plain("IMIX: CPU of everything", CPU_PER_MILLION, Lower),
            Metric::RateImixHalfPercent => plain("IMIX, at most 0.5% lost", "Mpps", Higher),
            Metric::RateImixNoLoss => plain("IMIX, none lost", "Mpps", Higher),
            Metric::Rate1500 => plain("Frames of a full MTU, saturated", "Mpps", Higher),
            Metric::Rate1500Loss => plain("Frames of a full MTU, saturated: loss", "%", Lower),
            Metric::Rate1500Cpu => plain("Frames of a full MTU: CPU of everything", CPU_PER_MILLION, Lower),
            Metric::Rate1500HalfPercent => plain("Frames of a full MTU, at most 0.5% lost", "Mpps", Higher),
            Metric::Rate1500NoLoss => plain("Frames of a full MTU, none lost", "Mpps", Higher),
            Metric::Memory => plain("Resident memory of the switch", "MiB", Lower),
            Metric::Connect => plain("`network connect` to first answered ping", "ms", Lower),
            Metric::PortCreate => {
                sized("Adopting a namespace, mean of the last hundred", "ms", Lower, "ports")
            }
            Metric::PortMemory => sized("Resident memory of the switch for a port", "KiB", Lower, "ports"),
            Metric::PortMemoryAll => sized("Memory for a port, the kernel's included", "KiB", Lower, "ports"),
            Metric::PortsRate => sized("64-byte frames between 2 of N ports", "Mpps", Higher, "ports"),
            Metric::PortsCpu => sized("The same: CPU of the switch", CPU_PER_MILLION, Lower, "ports"),
            Metric::MacsRate => sized("64-byte frames to N addresses in turn", "Mpps", Higher, "addresses"),
            Metric::MacsCpu => sized("The same: CPU of the switch", CPU_PER_MILLION, Lower, "addresses"),
            Metric::FloodCpu => sized("Broadcast: CPU of the switch for a copy", "µs", Lower, "ports"),
            Metric::Decision => plain("The decision on a frame for a known receiver", "ns", Lower),
        }
    }
}

const fn plain(title: &'static str, unit: &'static str, better: Better) -> Spec {
    Spec { title, unit, better, axis: None }
}

const fn sized(title: &'static str, unit: &'static str, better: Better, axis: &'static str) -> Spec {
    Spec { title, unit, better, axis: Some(axis) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn all_has_every_metric_once_and_in_order() {
        assert!(Metric::ALL.is_sorted());
        let names: BTreeSet<String> = Metric::ALL.iter().map(|m| serde_json::to_string(m).unwrap()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        assert_eq!(Metric::ALL.len(), Metric::Decision as usize + 1);
    }
}
