//! What the decision on a frame for a known receiver costs, in this process: from the bytes of the frame to the verdict,
//! without any system call. `cargo bench -p vswitch-perf --bench forward` has more of it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use vswitch::forward::tables::{Network, Port, Tables};
use vswitch::forward::{Fdb, FdbConfig, ForwardConfig, Forwarder, Ingress, Verdict};
use vswitch::frame::Frame;
use vswitch_proto::id::{MacAddr, PortId, Vni};
use vswitch_proto::wire::vnet_hdr;

use crate::metric::Metric;
use crate::peers::PeerKind;
use crate::probe::frames;
use crate::results::Samples;

const SAMPLES: usize = 5;
const FRAMES: u32 = 5_000_000;

/// Two endpoints, each behind its port.
const ENDS: [(PortId, MacAddr); 2] =
    [(PortId(1), MacAddr([6, 0, 0, 0, 0, 1])), (PortId(2), MacAddr([6, 0, 0, 0, 0, 2]))];

pub fn measure(samples: &mut Samples) -> anyhow::Result<()> {
    let tables = tables()?;
    let now = Instant::now();
    let mut forwarder = Forwarder::new(Arc::new(Fdb::new(FdbConfig::default())), ForwardConfig::default());
    let [(from, source), (to, destination)] = ENDS;
    let mut raw = vec![0; vnet_hdr::HEADER_BYTES];
    raw.extend(frames::frame(destination.0, source.0, frames::FRAME_BYTES_MIN));
    for _ in 0..SAMPLES {
        let start = Instant::now();
        for _ in 0..FRAMES {
            let frame = Frame::parse(black_box(&raw)).context("the frame is refused")?;
            let verdict = forwarder.forward(&tables, &frame, Ingress::Port(from), now);
            ensure!(verdict == Verdict::Port(to), "the frame is not forwarded");
        }
        let ns = start.elapsed().as_secs_f64() * 1e9 / f64::from(FRAMES);
        samples.add(PeerKind::Vswitch, Metric::Decision, ns);
    }
    Ok(())
}

fn tables() -> anyhow::Result<Tables> {
    let vni = Vni::new(7).context("7 is no VNI")?;
    let network = Network {
        ports: ENDS.iter().map(|&(port, _)| port).collect(),
        endpoints: ENDS.iter().map(|&(port, mac)| (mac, port)).collect(),
        ..Network::default()
    };
    Ok(Tables {
        networks: [(vni, network.into())].into_iter().collect(),
        ports: ENDS
            .iter()
            .map(|&(port, mac)| (port, Port { vni, mac, mtu: 1500, ipv4: None, ipv6: None }))
            .collect(),
        ..Tables::default()
    })
}
