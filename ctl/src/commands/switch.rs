//! Ports, the forwarding table and counters. Here the rows are the API's own types, and so are the fields of
//! templates.

use serde::Serialize;
use vswitch_proto::api::{FdbChange, FdbEntry, FdbFlush, Flushed, Port, Stats};

use super::show;
use crate::age::duration;
use crate::args::{FdbCommand, PortCommand, StatsArgs};
use crate::client::{Call, Client};
use crate::failure::{Failure, print};
use crate::listing::Listing;
use crate::table::layout;

const PORTS: Listing = Listing {
    columns: &[
        ("PORT", "{{.id}}"),
        ("NETWORK", "{{.network}}"),
        ("CONTAINER", "{{.container}}"),
        ("INTERFACE", "{{.interface}}"),
        ("MAC ADDRESS", "{{.mac}}"),
        ("IPV4", "{{if .ipv4}}{{.ipv4}}{{else}}-{{end}}"),
        ("IPV6", "{{if .ipv6}}{{.ipv6}}{{else}}-{{end}}"),
        ("MTU", "{{.mtu}}"),
        ("STATE", "{{if .up}}up{{else}}down{{if .problem}}: {{.problem}}{{end}}{{end}}"),
    ],
    headings: &[
        ("id", "PORT"),
        ("network", "NETWORK"),
        ("network_id", "NETWORK ID"),
        ("container", "CONTAINER"),
        ("container_id", "CONTAINER ID"),
        ("endpoint_id", "ENDPOINT ID"),
        ("interface", "INTERFACE"),
        ("mac", "MAC ADDRESS"),
        ("ipv4", "IPV4"),
        ("ipv6", "IPV6"),
        ("mtu", "MTU"),
        ("up", "UP"),
        ("problem", "PROBLEM"),
        ("counters", "COUNTERS"),
    ],
    quiet: "{{.id}}",
};

const FDB: Listing = Listing {
    columns: &[
        ("NETWORK", "{{.network}}"),
        ("MAC ADDRESS", "{{.mac}}"),
        ("PORT", "{{if .vtep}}-{{else}}{{.port}}{{end}}"),
        ("VTEP", "{{if .vtep}}{{.vtep}}{{else}}-{{end}}"),
        ("CONTAINER", "{{if .container}}{{.container}}{{else}}-{{end}}"),
        ("TYPE", "{{.kind}}"),
        ("AGE", "{{if eq .kind \"learned\"}}{{.age_s}} s{{else}}-{{end}}"),
    ],
    headings: &[
        ("network", "NETWORK"),
        ("mac", "MAC ADDRESS"),
        ("port", "PORT"),
        ("vtep", "VTEP"),
        ("container", "CONTAINER"),
        ("kind", "TYPE"),
        ("age_s", "AGE (S)"),
    ],
    quiet: "{{.mac}}",
};

pub async fn ports(client: &Client, command: PortCommand) -> Result<u8, Failure> {
    let PortCommand::Ls { quiet, format } = command;
    let ports: Vec<Port> = client.fetch(Call::get(&["ports"])).await?;
    print(PORTS.print(&format, quiet, &ports)?)?;
    Ok(0)
}

pub async fn fdb(client: &Client, command: FdbCommand) -> Result<u8, Failure> {
    match command {
        FdbCommand::Show { format, network } => {
            let mut call = Call::get(&["fdb"]);
            if let Some(network) = network {
                call = call.query("network", &network);
            }
            let entries: Vec<FdbEntry> = client.fetch(call).await?;
            print(FDB.print(&format, false, &entries)?)?;
        }
        FdbCommand::Add { network, mac, container } => {
            let change = FdbChange { network, mac, container: Some(container) };
            client.perform(Call::post(&["fdb"]).body(&change)).await?;
        }
        FdbCommand::Del { network, mac } => {
            let change = FdbChange { network, mac, container: None };
            client.perform(Call::delete(&["fdb"]).body(&change)).await?;
        }
        FdbCommand::Flush { network } => {
            let call = Call::post(&["fdb", "flush"]).body(&FdbFlush { network });
            let flushed: Flushed = client.fetch(call).await?;
            print(format!("Flushed entries: {}\n", flushed.entries))?;
        }
    }
    Ok(0)
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    stats: Stats,
    /// `ports` is their number, in the API's own counters.
    by_port: Vec<Port>,
}

pub async fn stats(client: &Client, args: StatsArgs) -> Result<u8, Failure> {
    let stats = client.fetch(Call::get(&["stats"])).await?;
    let by_port = client.fetch(Call::get(&["ports"])).await?;
    let report = Report { stats, by_port };
    print(show(args.format.as_ref(), &report, tables)?)?;
    Ok(0)
}

fn tables(report: &Report) -> String {
    let Report { stats, by_port: ports } = report;
    let row = |cells: &[&dyn ToString]| cells.iter().map(|cell| cell.to_string()).collect::<Vec<String>>();
    let uptime = duration(i64::try_from(stats.uptime_s).unwrap_or(i64::MAX));
    let facts = layout(&[
        row(&[&"Uptime:", &uptime]),
        row(&[&"Workers:", &format!("{} ({})", stats.workers, stats.engine)]),
        row(&[&"Networks:", &stats.networks]),
        row(&[&"Containers running:", &stats.containers_running]),
        row(&[&"Ports:", &stats.ports]),
        row(&[&"Forwarding table:", &format!("{} of {} entries", stats.fdb_entries, stats.fdb_capacity)]),
        row(&[&"Memory:", &format!("{} KiB", stats.rss_kib)]),
    ]);
    let totals = layout(&[
        row(&[&"TOTAL", &"FRAMES", &"BYTES"]),
        row(&[&"received", &stats.rx_frames, &stats.rx_bytes]),
        row(&[&"sent", &stats.tx_frames, &stats.tx_bytes]),
        row(&[&"flooded", &stats.flooded_frames, &"-"]),
    ]);
    let tunnels = layout(&[
        row(&[&"TUNNELS", &"DATAGRAMS", &"BYTES"]),
        row(&[&"received", &stats.tunnel.rx_datagrams, &stats.tunnel.rx_bytes]),
        row(&[&"sent", &stats.tunnel.tx_datagrams, &stats.tunnel.tx_bytes]),
        row(&[&"lost before they were read", &stats.tunnel.rx_overflows, &"-"]),
        row(&[&"times that reading was deferred", &stats.tunnel.rx_deferred, &"-"]),
    ]);
    let mut drops = vec![row(&[&"DROPPED BECAUSE", &"FRAMES"])];
    drops.extend(stats.drops.iter().map(|(reason, frames)| row(&[reason, frames])));
    let mut by_port = vec![row(&[
        &"PORT",
        &"CONTAINER",
        &"NETWORK",
        &"RX FRAMES",
        &"RX BYTES",
        &"TX FRAMES",
        &"TX BYTES",
        &"RX DROPPED",
        &"TX DROPPED",
        &"OUTPUTS",
        &"DEFERRED",
    ])];
    by_port.extend(ports.iter().map(|port| {
        let c = &port.counters;
        row(&[
            &port.id,
            &port.container,
            &port.network,
            &c.rx_frames,
            &c.rx_bytes,
            &c.tx_frames,
            &c.tx_bytes,
            &c.rx_dropped,
            &c.tx_dropped,
            &c.rx_outputs,
            &c.rx_deferred,
        ])
    }));
    [facts, totals, tunnels, layout(&drops), layout(&by_port)].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::ListFormat;
    use crate::template::Value;
    use vswitch_proto::api::{FdbKind, PortCounters};
    use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, NetworkId, PortId};

    fn port() -> Port {
        Port {
            id: PortId(7),
            network: "bridge".parse().unwrap(),
            network_id: NetworkId([1; 32]),
            container: "container1".parse().unwrap(),
            container_id: ContainerId([2; 32]),
            endpoint_id: EndpointId([3; 32]),
            interface: "eth0".into(),
            mac: MacAddr([2, 0x42, 172, 17, 0, 2]),
            ipv4: Some("172.17.0.2".parse().unwrap()),
            ipv6: None,
            mtu: 1500,
            up: true,
            problem: None,
            counters: PortCounters { rx_frames: 5, rx_bytes: 420, ..PortCounters::default() },
        }
    }

    #[test]
    fn ports_are_listed() {
        let print = |format: &str| PORTS.print(&format.parse().unwrap(), false, &[port()]).unwrap();
        assert_eq!(
            print("table"),
            "PORT      NETWORK   CONTAINER    INTERFACE   MAC ADDRESS         IPV4         IPV6      MTU       STATE\n\
             7         bridge    container1   eth0        02:42:ac:11:00:02   172.17.0.2   -         1500      up\n"
        );
        assert_eq!(print("{{.id}} {{.counters.rx_frames}}"), "7 5\n");
        assert_eq!(print("table {{.mac}}\\t{{.up}}"), "MAC ADDRESS         UP\n02:42:ac:11:00:02   true\n");
        let line = print("json");
        assert_eq!(serde_json::from_str::<Port>(&line).unwrap(), port());
        let lost = Port { up: false, problem: Some("it was moved".into()), ..port() };
        let lost = PORTS.print(&"table".parse().unwrap(), false, &[lost]).unwrap();
        assert!(lost.ends_with("1500      down: it was moved\n"), "{lost}");
    }

    #[test]
    fn the_forwarding_table_is_listed() {
        let entry = |kind, age_s, container: Option<&str>, vtep: Option<std::net::IpAddr>| FdbEntry {
            network: "bridge".parse().unwrap(),
            mac: MacAddr([2; 6]),
            port: vtep.is_none().then_some(PortId(1)),
            vtep,
            container: container.map(|name| name.parse().unwrap()),
            kind,
            age_s,
        };
        let entries = [
            entry(FdbKind::Endpoint, None, Some("c1"), None),
            entry(FdbKind::Endpoint, None, Some("c2"), Some("10.8.0.2".parse().unwrap())),
            entry(FdbKind::Learned, Some(12), None, None),
        ];
        assert_eq!(
            FDB.print(&ListFormat::Table, false, &entries).unwrap(),
            "NETWORK   MAC ADDRESS         PORT      VTEP       CONTAINER   TYPE       AGE\n\
             bridge    02:02:02:02:02:02   1         -          c1          endpoint   -\n\
             bridge    02:02:02:02:02:02   -         10.8.0.2   c2          endpoint   -\n\
             bridge    02:02:02:02:02:02   1         -          -           learned    12 s\n"
        );
    }

    #[test]
    fn stats_show_totals_drops_and_ports() {
        let stats = Stats {
            uptime_s: 7200,
            rx_frames: 9,
            drops: [("hairpin".into(), 3), ("runt".into(), 0)].into(),
            ..Stats::default()
        };
        let report = Report { stats, by_port: vec![port()] };
        let text = tables(&report);
        for line in
            ["Uptime:               2 hours\n", "\nreceived   9         0\n", "\nhairpin           3\n"]
        {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert!(text.contains("\n7         container1   bridge    5           420        0 "), "{text}");
        let template: crate::template::Template = "{{.drops.hairpin}} {{len .by_port}}".parse().unwrap();
        assert_eq!(template.render(&Value::of(&report).unwrap()).as_deref(), Ok("3 1"));
    }
}
