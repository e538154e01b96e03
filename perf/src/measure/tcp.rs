//! TCP throughput, and what it costs.

use super::CpuWatch;
use super::iperf::Iperf;
use crate::metric::Metric;
use crate::peers::Peer;
use crate::results::Samples;

pub fn measure(peer: &Peer, streams: u32, seconds: u32, samples: &mut Samples) -> anyhow::Result<()> {
    let watch = CpuWatch::start(peer)?;
    let transfer = Iperf::start(peer, streams, seconds)?.finish()?;
    let used = watch.stop(peer)?;
    let (rate, cpu) = match streams {
        1 => (Metric::TcpOne, Metric::TcpOneCpu),
        _ => (Metric::TcpFour, Metric::TcpFourCpu),
    };
    samples.add(peer.kind, rate, transfer.gbit_per_s);
    samples.add(peer.kind, cpu, used.everything_s / transfer.gbit);
    if let Some(switch_s) = used.switch_s.filter(|_| streams == 1) {
        samples.add(peer.kind, Metric::TcpOneSwitchCpu, switch_s / transfer.gbit);
    }
    Ok(())
}
