//! Two workers' forwarders over one database, against a model that is a `Vec` and does everything the slow way.
//!
//! Random frames, ports that come, go and change their network, endpoints, static entries, time, sweeps, flushes, and
//! bounds small enough to be hit all the time. After each step the verdict, the flood set, what the database shows and
//! what it counted must be the model's.

use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vswitch::forward::fdb::{FdbRow, Place};
use vswitch::forward::tables::{Gateway, Network, Port, Tables};
use vswitch::forward::{DropReason, Fdb, FdbConfig, FdbStats, ForwardConfig, Forwarder, Ingress};
use vswitch::forward::{StormLimit, Verdict, flood};
use vswitch::frame::Frame;
use vswitch_proto::id::{MacAddr, PortId, Vni};

const PORTS: u32 = 6;
const NETWORKS: u32 = 2;
const MACS: u8 = 12;
const MTU: u32 = 100;
const AGE_MS: u64 = 10_000;
const CAPACITY: usize = 9;
const CAPACITY_PER_PORT: usize = 4;
/// Ten frames per second, six at once.
const STORM_INTERVAL_MS: u64 = 100;
const STORM_BURST: u64 = 6;

fn vni(n: u32) -> Vni {
    Vni::new(n + 1).unwrap()
}

/// Few enough that they meet; the last ones are the gateway, broadcast, zero and a bridge's own group.
fn mac(n: u8) -> MacAddr {
    match n {
        MACS => MacAddr([2, 0x42, 10, 0, 0, 1]),
        n if n == MACS + 1 => MacAddr::BROADCAST,
        n if n == MACS + 2 => MacAddr::ZERO,
        n if n == MACS + 3 => MacAddr([1, 0x80, 0xc2, 0, 0, 3]),
        n => MacAddr([2, 0, 0, 0, 0, n]),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Frame { port: u32, destination: u8, source: u8, packet_bytes: usize, arp_target: Option<u8> },
    Advance { ms: u64 },
    PortUp { port: u32, network: u32 },
    PortDown { port: u32, forget: bool },
    Register { network: u32, mac: u8, port: u32 },
    Unregister { network: u32, mac: u8 },
    AddStatic { network: u32, mac: u8, port: u32 },
    Remove { network: u32, mac: u8 },
    Flush { network: Option<u32> },
    Sweep,
}

fn steps() -> impl Strategy<Value = Step> {
    let (port, network, any_mac) = (0..PORTS, 0..NETWORKS, 0..MACS);
    // Mostly unicast between the few, sometimes one of the special ones.
    let address = prop_oneof![9 => 0..MACS, 1 => MACS..MACS + 4];
    let size = prop_oneof![9 => Just(46usize), 1 => 98..103usize];
    let frame = (port.clone(), address.clone(), address, size, prop::option::weighted(0.1, 1..4u8));
    prop_oneof![
        60 => frame.prop_map(|(port, destination, source, packet_bytes, arp_target)| {
            Step::Frame { port, destination, source, packet_bytes, arp_target }
        }),
        10 => prop_oneof![0..300u64, 900..1100u64, 4000..12_000u64].prop_map(|ms| Step::Advance { ms }),
        5 => (port.clone(), network.clone()).prop_map(|(port, network)| Step::PortUp { port, network }),
        2 => (port.clone(), any::<bool>()).prop_map(|(port, forget)| Step::PortDown { port, forget }),
        2 => (network.clone(), any_mac.clone(), port.clone())
            .prop_map(|(network, mac, port)| Step::Register { network, mac, port }),
        2 => (network.clone(), any_mac.clone()).prop_map(|(network, mac)| Step::Unregister { network, mac }),
        2 => (network.clone(), any_mac.clone(), port)
            .prop_map(|(network, mac, port)| Step::AddStatic { network, mac, port }),
        2 => (network.clone(), any_mac).prop_map(|(network, mac)| Step::Remove { network, mac }),
        1 => prop::option::of(network).prop_map(|network| Step::Flush { network }),
        2 => Just(Step::Sweep),
    ]
}

/// Everything in lists, nothing remembered twice.
#[derive(Default)]
struct Model {
    now_ms: u64,
    /// (port, network)
    ports: Vec<(u32, u32)>,
    /// (network, mac, port)
    endpoints: Vec<(u32, u8, u32)>,
    /// (network, mac, port, seen), the last `None` for static ones.
    entries: Vec<(u32, u8, u32, Option<u64>)>,
    /// (port in its network, level, when it was measured); a level of [`STORM_INTERVAL_MS`] is one frame.
    buckets: Vec<(u32, u64, u64)>,
    stats: FdbStats,
}

impl Model {
    fn network_of(&self, port: u32) -> Option<u32> {
        self.ports.iter().find(|p| p.0 == port).map(|p| p.1)
    }

    fn others(&self, port: u32) -> Vec<PortId> {
        let network = self.network_of(port);
        let mut others: Vec<PortId> =
            self.ports.iter().filter(|p| Some(p.1) == network && p.0 != port).map(|p| PortId(p.0)).collect();
        others.sort_unstable();
        others
    }

    fn registered(&self, network: u32, mac: u8) -> Option<u32> {
        self.endpoints.iter().find(|e| e.0 == network && e.1 == mac).map(|e| e.2)
    }

    fn learned_behind(&self, port: u32) -> usize {
        self.entries.iter().filter(|e| e.2 == port && e.3.is_some()).count()
    }

    fn learn(&mut self, network: u32, mac: u8, port: u32) {
        let now_ms = self.now_ms;
        let room = self.learned_behind(port) < CAPACITY_PER_PORT;
        let total = self.entries.iter().filter(|e| e.3.is_some()).count();
        match self.entries.iter_mut().find(|e| e.0 == network && e.1 == mac) {
            Some((_, _, _, None)) => {}
            Some((_, _, at, Some(seen))) if *at == port => {
                if now_ms - *seen >= 1000 {
                    *seen = now_ms;
                }
            }
            Some((_, _, at, Some(seen))) if room => {
                (*at, *seen) = (port, now_ms);
                self.stats.moved += 1;
            }
            None if room && total < CAPACITY => {
                self.entries.push((network, mac, port, Some(now_ms)));
                self.stats.learned += 1;
            }
            _ => self.stats.refused += 1,
        }
    }

    fn look_up(&self, network: u32, mac: u8) -> Option<u32> {
        let fresh = |seen: Option<u64>| seen.is_none_or(|seen| self.now_ms - seen < AGE_MS);
        let entry = self.entries.iter().find(|e| e.0 == network && e.1 == mac && fresh(e.3)).map(|e| e.2);
        self.registered(network, mac).or(entry)
    }

    fn take_token(&mut self, network: u32, port: u32) -> bool {
        // A port that comes back in another network begins with a full bucket there.
        let port = network * PORTS + port;
        let full = STORM_BURST * STORM_INTERVAL_MS;
        let (mut tokens, mut at) = (full, self.now_ms);
        if let Some(bucket) = self.buckets.iter().find(|b| b.0 == port) {
            (tokens, at) = (bucket.1, bucket.2);
        }
        tokens = full.min(tokens + self.now_ms - at);
        let admitted = tokens >= STORM_INTERVAL_MS;
        self.buckets.retain(|b| b.0 != port);
        self.buckets.push((port, tokens - if admitted { STORM_INTERVAL_MS } else { 0 }, self.now_ms));
        admitted
    }

    fn forward(&mut self, step: &Step) -> Verdict {
        let &Step::Frame { port, destination, source, packet_bytes, arp_target } = step else {
            unreachable!()
        };
        let Some(network) = self.network_of(port) else { return Verdict::Drop(DropReason::UnknownPort) };
        if source >= MACS {
            return Verdict::Drop(DropReason::BadSource);
        }
        if destination == MACS + 3 {
            return Verdict::Drop(DropReason::LinkLocal);
        }
        if packet_bytes > MTU as usize {
            return Verdict::Drop(DropReason::Oversized);
        }
        match self.registered(network, source) {
            None => self.learn(network, source, port),
            Some(owner) if owner != port => return Verdict::Drop(DropReason::GuardMac),
            Some(_) => {}
        }
        let broadcast = destination == MACS + 1;
        let found = if broadcast { None } else { self.look_up(network, destination) };
        let verdict = match found {
            _ if destination == MACS => return Verdict::Gateway,
            _ if broadcast && arp_target == Some(1) => return Verdict::Gateway,
            Some(to) if to == port => return Verdict::Drop(DropReason::Hairpin),
            Some(to) if self.network_of(to) == Some(network) => return Verdict::Port(PortId(to)),
            _ if self.others(port).is_empty() => return Verdict::Drop(DropReason::NoReceiver),
            _ => Verdict::Flood,
        };
        if self.take_token(network, port) { verdict } else { Verdict::Drop(DropReason::StormControl) }
    }

    fn rows(&self) -> Vec<FdbRow> {
        let mut rows: Vec<FdbRow> = self
            .entries
            .iter()
            .filter(|e| e.3.is_none_or(|seen| self.now_ms - seen < AGE_MS))
            .map(|e| FdbRow {
                vni: vni(e.0),
                mac: mac(e.1),
                place: Place::Port(PortId(e.2)),
                age: e.3.map(|seen| Duration::from_millis(self.now_ms - seen)),
            })
            .collect();
        rows.sort_unstable_by_key(|row| (row.vni, row.mac));
        rows
    }

    fn tables(&self) -> Tables {
        let mut tables = Tables::default();
        let gateway = Gateway { mac: mac(MACS), ipv4: Some(Ipv4Addr::new(10, 0, 0, 1)), ipv6: None };
        for n in 0..NETWORKS {
            let network = Network { gateway: Some(gateway), ..Network::default() };
            tables.networks.insert(vni(n), network.into());
        }
        let mut ports = self.ports.clone();
        ports.sort_unstable();
        for (id, n) in ports {
            tables.ports.insert(
                PortId(id),
                Port { vni: vni(n), mac: MacAddr([2, 1, 0, 0, 0, 0]), mtu: MTU, ipv4: None, ipv6: None },
            );
            Arc::make_mut(tables.networks.get_mut(&vni(n)).unwrap()).ports.push(PortId(id));
        }
        for (n, m, port) in &self.endpoints {
            // Whatever port it names: also one of another network, or of none.
            Arc::make_mut(tables.networks.get_mut(&vni(*n)).unwrap())
                .endpoints
                .insert(mac(*m), PortId(*port));
        }
        tables
    }
}

fn bytes_of(step: &Step) -> Vec<u8> {
    let &Step::Frame { destination, source, packet_bytes, arp_target, .. } = step else { unreachable!() };
    let mut raw = [&[0; 12][..], &mac(destination).0, &mac(source).0].concat();
    match arp_target {
        None => raw.extend([0x08, 0x00]),
        Some(host) => {
            raw.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
            raw.extend([0; 16]);
            raw.extend([10, 0, 0, host]);
        }
    }
    raw.resize(12 + 14 + packet_bytes, 0);
    raw
}

struct Real {
    fdb: Arc<Fdb>,
    /// A port is always read by the same one.
    workers: [Forwarder; 2],
    t0: Instant,
}

impl Real {
    fn new() -> Real {
        let age = Duration::from_millis(AGE_MS);
        let config = FdbConfig { age, capacity: CAPACITY, capacity_per_port: CAPACITY_PER_PORT };
        let fdb = Arc::new(Fdb::new(config));
        let positive = |n| NonZeroU32::new(n).unwrap();
        let frames_per_s = positive(1000 / STORM_INTERVAL_MS as u32);
        let storm = Some(StormLimit { frames_per_s, burst: positive(STORM_BURST as u32) });
        let worker = || Forwarder::new(fdb.clone(), ForwardConfig { storm, gateway: None });
        Real { workers: [worker(), worker()], fdb, t0: Instant::now() }
    }
}

/// Applies one step that is not a frame to both.
fn change(model: &mut Model, fdb: &Fdb, now: Instant, step: &Step) {
    let before = model.entries.len();
    match *step {
        Step::Frame { .. } => unreachable!("not a change"),
        Step::Advance { ms } => model.now_ms += ms,
        Step::PortUp { port, network } => {
            model.ports.retain(|p| p.0 != port);
            model.ports.push((port, network));
        }
        Step::PortDown { port, forget } => {
            model.ports.retain(|p| p.0 != port);
            if forget {
                model.entries.retain(|e| e.2 != port);
                assert_eq!(fdb.forget_port(PortId(port)), before - model.entries.len());
            }
        }
        Step::Register { network, mac, port } => {
            model.endpoints.retain(|e| (e.0, e.1) != (network, mac));
            model.endpoints.push((network, mac, port));
        }
        Step::Unregister { network, mac } => model.endpoints.retain(|e| (e.0, e.1) != (network, mac)),
        Step::AddStatic { network, mac: m, port } => {
            model.entries.retain(|e| (e.0, e.1) != (network, m));
            model.entries.push((network, m, port, None));
            fdb.add_static(vni(network), mac(m), PortId(port)).unwrap();
        }
        Step::Remove { network, mac: m } => {
            model.entries.retain(|e| (e.0, e.1) != (network, m));
            assert_eq!(fdb.remove(vni(network), mac(m)), model.entries.len() < before);
        }
        Step::Flush { network } => {
            model.entries.retain(|e| e.3.is_none() || network.is_some_and(|n| e.0 != n));
            assert_eq!(fdb.flush(network.map(vni)), before - model.entries.len());
        }
        Step::Sweep => {
            let now_ms = model.now_ms;
            model.entries.retain(|e| e.3.is_none_or(|seen| now_ms - seen < AGE_MS));
            model.stats.aged += (before - model.entries.len()) as u64;
            assert_eq!(fdb.sweep(now), before - model.entries.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_forwarder_does_what_the_model_does(steps in prop::collection::vec(steps(), 1..400)) {
        let (mut model, mut real) = (Model::default(), Real::new());
        for port in 0..PORTS {
            model.ports.push((port, port % NETWORKS));
        }
        let mut tables = model.tables();
        for step in &steps {
            let now = real.t0 + Duration::from_millis(model.now_ms);
            if let Step::Frame { port, .. } = step {
                let bytes = bytes_of(step);
                let frame = Frame::parse(&bytes).unwrap();
                let (expected, ingress) = (model.forward(step), Ingress::Port(PortId(*port)));
                let worker = &mut real.workers[(port / NETWORKS % 2) as usize];
                prop_assert_eq!(worker.forward(&tables, &frame, ingress, now), expected, "{:?}", step);
                let flooded: Vec<PortId> = flood::targets(&tables, ingress).collect();
                prop_assert_eq!(flooded, model.others(*port));
            } else {
                change(&mut model, &real.fdb, now, step);
                tables = model.tables();
            }
            let now = real.t0 + Duration::from_millis(model.now_ms);
            prop_assert_eq!(real.fdb.rows(None, now), model.rows(), "after {:?}", step);
            prop_assert_eq!(real.fdb.len(), model.entries.len());
            prop_assert_eq!(real.fdb.stats(), model.stats);
        }
    }
}
