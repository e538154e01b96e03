//! No verdict leaves the network, whatever the frame, the tables and the database say.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use vswitch::forward::tables::{Gateway, Network, Port, Tables};
use vswitch::forward::{Fdb, FdbConfig, ForwardConfig, Forwarder, Ingress, Verdict, flood};
use vswitch::frame::Frame;
use vswitch_proto::id::{MacAddr, PortId, Vni};
use vswitch_proto::security::PortSecurity;

const NETWORKS: u32 = 3;
const PORTS_EACH: u32 = 4;
const PORTS: u32 = NETWORKS * PORTS_EACH;

fn vni(n: u32) -> Vni {
    Vni::new(100 + n).unwrap()
}

/// What the port with this number is registered with. In every network the same addresses are in use.
fn mac(port: u32) -> MacAddr {
    MacAddr::from_ipv4(Ipv4Addr::from(0xac11_0002 + port % PORTS_EACH))
}

fn any_mac() -> impl Strategy<Value = MacAddr> {
    let registered = (0..PORTS_EACH).prop_map(mac);
    prop_oneof![
        4 => registered,
        3 => (0..4u8).prop_map(|n| MacAddr([2, 0, 0, 0, 0, n])),
        1 => Just(MacAddr::BROADCAST),
        1 => any::<[u8; 6]>().prop_map(MacAddr),
    ]
}

/// Network of each port, and lies: (network, port) members and (network, address, port) endpoints.
type Lies = (Vec<(u32, u32)>, Vec<(u32, MacAddr, u32)>);

fn lies() -> impl Strategy<Value = Lies> {
    let member = (0..NETWORKS, 0..PORTS + 2);
    let endpoint = (0..NETWORKS, any_mac(), 0..PORTS + 2);
    (prop::collection::vec(member, 0..4), prop::collection::vec(endpoint, 0..8))
}

fn tables((members, endpoints): &Lies) -> Tables {
    let mut tables = Tables::default();
    for n in 0..NETWORKS {
        let (ipv4, ipv6) = (Ipv4Addr::new(172, 17, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
        let gateway = Gateway { mac: MacAddr::from_ipv4(ipv4), ipv4: Some(ipv4), ipv6: Some(ipv6) };
        let ids = (n * PORTS_EACH..(n + 1) * PORTS_EACH).map(PortId);
        // Without port security, frames with any source come as far as a verdict on their destination.
        let security = if n == 0 { PortSecurity::default() } else { PortSecurity::Off };
        let ports = ids.clone().collect();
        let mut network = Network { ports, gateway: Some(gateway), security, ..Network::default() };
        for id in ids {
            tables.ports.insert(id, Port { vni: vni(n), mac: mac(id.0), mtu: 1500, ipv4: None, ipv6: None });
            network.endpoints.insert(mac(id.0), id);
        }
        tables.networks.insert(vni(n), network.into());
    }
    for &(n, port) in members {
        Arc::make_mut(tables.networks.get_mut(&vni(n)).unwrap()).ports.push(PortId(port));
    }
    for &(n, mac, port) in endpoints {
        Arc::make_mut(tables.networks.get_mut(&vni(n)).unwrap()).endpoints.insert(mac, PortId(port));
    }
    tables
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_verdict_leaves_the_network(
        lies in lies(),
        statics in prop::collection::vec((0..NETWORKS, any_mac(), 0..PORTS + 2), 0..8),
        frames in prop::collection::vec(
            (0..PORTS, any_mac(), any_mac(), prop::collection::vec(any::<u8>(), 2..80)), 1..200),
    ) {
        let fdb = Arc::new(Fdb::new(FdbConfig::default()));
        for (n, mac, port) in statics {
            // An address that is not unicast is refused, as it should be.
            let added = fdb.add_static(vni(n), mac, PortId(port));
            prop_assert_eq!(added.is_ok(), mac.is_unicast());
        }
        let tables = tables(&lies);
        let mut forwarder = Forwarder::new(fdb, ForwardConfig { storm: None, gateway: None });
        let now = Instant::now();
        for (port, destination, source, rest) in frames {
            let raw = [&[0; 12][..], &destination.0, &source.0, &rest].concat();
            let frame = Frame::parse(&raw).unwrap();
            let ingress = Ingress::Port(PortId(port));
            let receivers: Vec<PortId> = match forwarder.forward(&tables, &frame, ingress, now) {
                Verdict::Port(to) => vec![to],
                Verdict::Flood => flood::targets(&tables, ingress).collect(),
                Verdict::Gateway | Verdict::Drop(_) => vec![],
                Verdict::Tunnel(_) | Verdict::Neighbor(_) => panic!("there is no overlay"),
            };
            for to in receivers {
                prop_assert_ne!(to, PortId(port), "back to where it came from");
                prop_assert_eq!(to.0 / PORTS_EACH, port / PORTS_EACH, "{:?} is in another network", to);
            }
        }
    }
}
