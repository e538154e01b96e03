//! Networks beyond the guide: pools, addresses, IPv6, drivers, tables and templates.

use std::fs;

use anyhow::ensure;
use serde_json::Value;
use vswitch_tests::wait::eventually;
use vswitch_tests::{Host, Lab};

#[test]
fn tables_ids_filters_and_formats() {
    let lab = Lab::new();
    let id = lab.ok(&["network", "create", "--label", "tier=web", "front"]);
    let id = id.trim_end();
    let table = lab.ok(&["network", "ls"]);
    let header: Vec<_> =
        table.lines().next().unwrap().split("   ").map(str::trim).filter(|c| !c.is_empty()).collect();
    assert_eq!(header, ["NETWORK ID", "NAME", "DRIVER", "SCOPE"], "{table}");
    assert!(table.contains(&id[..12]) && !table.contains(&id[..13]), "{table}");
    assert!(lab.ok(&["network", "ls", "--no-trunc"]).contains(id));
    let quiet = lab.ok(&["network", "ls", "-q"]);
    assert_eq!(quiet.lines().count(), 4, "{quiet}");
    assert!(quiet.lines().all(|line| line.len() == 12), "{quiet}");
    assert_eq!(lab.ok(&["network", "ls", "-q", "--no-trunc", "--filter", "name=front"]), format!("{id}\n"));
    for filter in ["label=tier=web", "label=tier", "name=fron", &format!("id={}", &id[..20])] {
        let names = lab.ok(&["network", "ls", "--filter", filter, "--format", "{{.Name}}"]);
        assert_eq!(names, "front\n", "{filter}");
    }
    assert_eq!(
        lab.ok(&["network", "ls", "--filter", "driver=null", "--format", "{{.Name}} {{.Driver}}"]),
        "none null\n"
    );
    assert_eq!(lab.ok(&["network", "ls", "--filter", "label=tier=db", "-q"]), "");
    let json = lab.ok(&["network", "ls", "--format", "json"]);
    assert!(json.contains("\"front\"") && json.contains("\"bridge\""), "{json}");
}

#[test]
fn templates_of_inspect() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--subnet", "10.9.0.0/24", "net"]);
    let id = lab.run_idle("c", &["--net=net"]);
    for (template, expected) in [
        ("{{.Name}}", "net"),
        ("{{json .Name}}", "\"net\""),
        ("{{.Driver}} of {{.Scope}}", "bridge of local"),
        ("{{range .IPAM.Config}}{{.Subnet}} by {{.Gateway}}{{end}}", "10.9.0.0/24 by 10.9.0.1"),
        ("{{range $id, $c := .Containers}}{{$c.Name}}={{$c.IPv4Address}}{{end}}", "c=10.9.0.2/24"),
    ] {
        assert_eq!(
            lab.ok(&["network", "inspect", "-f", template, "net"]),
            format!("{expected}\n"),
            "{template}"
        );
    }
    for (template, expected) in [
        ("{{.Name}}", "/c"),
        ("{{.Id}}", id.as_str()),
        ("{{.State.Running}}", "true"),
        (
            "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}",
            "10.9.0.2 02:42:0a:09:00:02",
        ),
    ] {
        assert_eq!(lab.ok(&["inspect", "--format", template, "c"]), format!("{expected}\n"), "{template}");
    }
    let all: Value = serde_json::from_str(&lab.ok(&["network", "inspect", "net", "bridge"])).unwrap();
    assert_eq!(all[0]["Name"], "net");
    assert_eq!(all[1]["Name"], "bridge");
    for key in [
        "Name",
        "Id",
        "Created",
        "Scope",
        "Driver",
        "EnableIPv6",
        "IPAM",
        "Internal",
        "Containers",
        "Options",
    ] {
        assert!(all[0].get(key).is_some(), "no {key} in {all}");
    }
}

#[test]
fn addresses_come_in_order_from_the_range_that_was_asked_for() {
    let lab = Lab::new();
    lab.ok(&[
        "network",
        "create",
        "--subnet",
        "10.8.0.0/16",
        "--gateway",
        "10.8.3.1",
        "--ip-range",
        "10.8.3.0/29",
        "--aux-address",
        "router=10.8.3.3",
        "ranged",
    ]);
    let config = lab.inspect_network("ranged").ipam.config.remove(0);
    assert_eq!(config.subnet, "10.8.0.0/16");
    assert_eq!(config.ip_range, "10.8.3.0/29");
    assert_eq!(config.gateway, "10.8.3.1");
    assert_eq!(config.auxiliary_addresses["router"], "10.8.3.3");
    let mut addresses = Vec::new();
    for name in ["a", "b", "c"] {
        lab.run_idle(name, &["--net=ranged"]);
        addresses.push(lab.address(name, "ranged"));
    }
    let allowed = ["10.8.3.0", "10.8.3.2", "10.8.3.4", "10.8.3.5"];
    assert!(addresses.iter().all(|a| allowed.contains(&a.as_str())), "{addresses:?}");
    assert!(
        addresses.is_sorted() && addresses[0] != addresses[1] && addresses[1] != addresses[2],
        "{addresses:?}"
    );
    // Outside the range and inside the subnet is fine when somebody asks for it.
    lab.run_idle("far", &["--net=ranged", "--ip=10.8.200.7"]);
    assert_eq!(lab.inspect("far").network_settings.networks["ranged"].mac_address, "02:42:0a:08:c8:07");
    lab.assert_reaches("a", "10.8.200.7");
    lab.assert_reaches("far", "10.8.3.1");
}

#[test]
fn the_next_pool_avoids_networks_and_routes_of_the_host() {
    let host = Host::new();
    host.sh("ip tuntap add tap9 mode tap; ip link set tap9 up
         ip addr add 172.18.5.1/24 dev tap9; ip route add 172.20.0.0/14 dev tap9");
    let lab = Lab::with(host, &[]);
    let mut subnets = Vec::new();
    for name in ["one", "two"] {
        lab.ok(&["network", "create", name]);
        subnets.push(lab.inspect_network(name).ipam.config[0].subnet.clone());
    }
    assert_eq!(subnets, ["172.19.0.0/16", "172.24.0.0/16"]);
    lab.ok(&["network", "rm", "one"]);
    lab.ok(&["network", "create", "three"]);
    assert_eq!(lab.inspect_network("three").ipam.config[0].subnet, "172.19.0.0/16");
}

#[test]
fn an_ipv6_network() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--ipv6", "--subnet", "fd00:1::/64", "six"]);
    let network = lab.inspect_network("six");
    assert!(network.enable_ipv6);
    let subnets: Vec<_> =
        network.ipam.config.iter().map(|c| (c.subnet.as_str(), c.gateway.as_str())).collect();
    assert!(subnets.contains(&("fd00:1::/64", "fd00:1::1")), "{subnets:?}");
    lab.run_idle("a", &["--net=six"]);
    lab.run_idle("b", &["--net=six"]);
    let a = lab.inspect("a").network_settings.networks.remove("six").unwrap();
    assert_eq!((a.global_ipv6_address.as_str(), a.global_ipv6_prefix_len), ("fd00:1::2", 64));
    assert_eq!(a.ipv6_gateway, "fd00:1::1");
    let members: Vec<_> =
        lab.inspect_network("six").containers.into_values().map(|c| c.ipv6_address).collect();
    assert!(
        members.contains(&"fd00:1::2/64".into()) && members.contains(&"fd00:1::3/64".into()),
        "{members:?}"
    );
    for target in ["fd00:1::3", "fd00:1::1"] {
        // The addresses may still be tentative (RFC 4862 section 5.4).
        eventually(&format!("a reaches {target}"), || {
            let ping = lab.ping6("a", target);
            ensure!(ping.received == 1, "{ping:?}");
            Ok(())
        });
    }
    lab.assert_reaches("a", "b");
    let routes = lab.exec_ok("a", &["ip", "-6", "route"]);
    assert!(routes.contains("default via fd00:1::1 dev eth0"), "{routes}");
}

#[test]
fn what_run_and_connect_ask_for() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--subnet", "10.7.0.0/24", "net"]);
    lab.run_idle(
        "a",
        &["--net=net", "--ip=10.7.0.99", "--mac-address=02:00:00:00:00:aa", "--hostname=alpha"],
    );
    lab.run_idle("b", &[]);
    lab.ok(&["network", "connect", "--ip", "10.7.0.50", "--alias", "database", "--alias", "db", "net", "b"]);
    let a = lab.inspect("a");
    assert_eq!(a.config.hostname, "alpha");
    assert_eq!(a.network_settings.networks["net"].ip_address, "10.7.0.99");
    assert_eq!(a.network_settings.networks["net"].mac_address, "02:00:00:00:00:aa");
    assert_eq!(lab.exec_ok("a", &["hostname"]), "alpha\n");
    assert_eq!(lab.exec_ok("a", &["cat", "/etc/hostname"]), "alpha\n");
    assert_eq!(lab.exec_ok("a", &["cat", "/sys/class/net/eth0/address"]), "02:00:00:00:00:aa\n");
    let b = lab.inspect("b").network_settings.networks.remove("net").unwrap();
    assert_eq!((b.ip_address.as_str(), b.interface_name.as_str()), ("10.7.0.50", "eth1"));
    assert_eq!(b.aliases, ["database", "db"]);
    for target in ["b", "b.net", "database", "db", "10.7.0.50"] {
        lab.assert_reaches("a", target);
    }
    lab.assert_reaches("b", "10.7.0.99");
    // The hostname is no name on the network; the container's name is.
    assert_eq!(lab.ping("b", "alpha").output.stderr, "ping: bad address 'alpha'\n");
}

#[test]
fn gateways_answer_and_internal_networks_have_no_way_out() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--internal", "inside"]);
    lab.run_idle("open", &[]);
    lab.run_idle("a", &["--net=inside"]);
    lab.run_idle("b", &["--net=inside"]);
    lab.assert_reaches("open", "172.17.0.1");
    let routes = lab.exec_ok("open", &["ip", "route"]);
    assert!(routes.contains("default via 172.17.0.1 dev eth0"), "{routes}");
    assert!(lab.inspect_network("inside").internal);
    lab.assert_reaches("a", "b");
    let routes = lab.exec_ok("a", &["ip", "route"]);
    assert!(!routes.contains("default"), "{routes}");
    let outside = lab.ping("a", "172.17.0.2").output;
    assert!(outside.code == 1 && outside.stderr.contains("Network"), "{outside:?}");
}

#[test]
fn the_drivers_none_and_host() {
    let lab = Lab::new();
    lab.run_idle("alone", &["--net=none"]);
    lab.run_idle("open", &["--net=host"]);
    assert_eq!(lab.exec_ok("alone", &["sh", "-c", "ls /sys/class/net"]), "lo\n");
    let interfaces = lab.exec_ok("alone", &["ip", "-o", "link"]);
    assert_eq!(interfaces.lines().count(), 1, "{interfaces}");
    assert!(interfaces.contains("lo:") && interfaces.contains("UP"), "{interfaces}");
    let own = fs::read_link(lab.path("/proc/1/ns/net")).unwrap();
    assert_eq!(fs::read_link(lab.netns("open")).unwrap(), own);
    assert_ne!(fs::read_link(lab.netns("alone")).unwrap(), own);
    let attached = lab.ok(&["inspect", "--format={{.NetworkSettings.Networks}}", "alone"]);
    assert_eq!(attached, "[none]\n");
    assert_eq!(lab.ok(&["inspect", "--format={{.NetworkSettings.Networks}}", "open"]), "[host]\n");
}

#[test]
fn prune_removes_what_nobody_uses() {
    let lab = Lab::new();
    for name in ["idle1", "idle2", "busy"] {
        lab.ok(&["network", "create", name]);
    }
    lab.run_idle("c", &["--net=busy"]);
    let printed = lab.ok(&["network", "prune", "-f"]);
    assert!(printed.contains("idle1") && printed.contains("idle2") && !printed.contains("busy"), "{printed}");
    let mut names: Vec<_> =
        lab.ok(&["network", "ls", "--format", "{{.Name}}"]).lines().map(String::from).collect();
    names.sort();
    assert_eq!(names, ["bridge", "busy", "host", "none"]);
    lab.ok(&["rm", "-f", "c"]);
    assert_eq!(lab.ok(&["network", "rm", "busy"]), "busy\n");
}

#[test]
fn ports_table_and_forwarding_table() {
    let lab = Lab::new();
    lab.run_idle("a", &[]);
    lab.run_idle("b", &[]);
    lab.assert_reaches("a", "b");
    let ports = lab.http("GET", "/v1/ports", "").parsed::<Vec<vswitch_proto::api::Port>>();
    assert_eq!(ports.len(), 2);
    for port in &ports {
        assert!(port.up && port.interface == "eth0" && port.network.as_str() == "bridge", "{port:?}");
        assert!(port.counters.rx_frames >= 1 && port.counters.tx_frames >= 1, "{port:?}");
        assert!(port.counters.rx_bytes >= 98, "{port:?}");
    }
    let table = lab.ok(&["port", "ls"]);
    assert!(table.contains("02:42:ac:11:00:02") && table.contains('a'), "{table}");
    let shown = lab.ok(&["fdb", "show"]);
    assert!(shown.contains("02:42:ac:11:00:02") && shown.contains("02:42:ac:11:00:03"), "{shown}");
    lab.ok(&["fdb", "add", "bridge", "02:00:00:00:00:77", "b"]);
    let entry = |lab: &Lab| {
        lab.ok(&["fdb", "show"]).lines().find(|l| l.contains("02:00:00:00:00:77")).map(String::from)
    };
    assert!(entry(&lab).is_some_and(|line| line.contains("static")));
    lab.ok(&["fdb", "flush"]);
    assert!(entry(&lab).is_some(), "flushing takes what was learned only");
    lab.ok(&["fdb", "del", "bridge", "02:00:00:00:00:77"]);
    assert_eq!(entry(&lab), None);
    let stats: Value = serde_json::from_str(&lab.ok(&["stats", "--format", "json"])).unwrap();
    assert_eq!(stats["ports"], 2, "{stats}");
    assert_eq!(stats["containers_running"], 2, "{stats}");
}

#[test]
fn networks_are_made_from_configurations() {
    let lab = Lab::new();
    lab.ok(&[
        "network",
        "create",
        "--config-only",
        "--subnet=10.94.0.0/24",
        "--label=a=b",
        "-o",
        MTU,
        "plan",
    ]);
    let show = |template: &str, name: &str| lab.ok(&["network", "inspect", "-v", "-f", template, name]);
    let template =
        "{{.ConfigOnly}} {{.Driver}} {{.Scope}} {{json .IPAM.Config}} {{json .Labels}} {{json .Options}}";
    let expected = "true null local [{\"Subnet\":\"10.94.0.0/24\"}] {\"a\":\"b\"} \
                    {\"com.docker.network.driver.mtu\":\"1400\"}\n";
    assert_eq!(show(template, "plan"), expected);
    // What it is not.
    assert!(lab.fails(&["run", "-d", "--net=plan"], 4).contains("plan is only a configuration"));
    assert!(lab.fails(&["network", "create", "--config-only", "--internal", "x"], 2).contains("--internal"));
    assert!(
        lab.fails(&["network", "create", "--config-only", "--config-from=plan", "x"], 2)
            .contains("--config-only")
    );
    assert!(
        lab.fails(&["network", "create", "--config-from=bridge", "x"], 2)
            .contains("no configuration network")
    );
    assert!(lab.fails(&["network", "create", "--config-from=none-such", "x"], 3).contains("none-such"));
    assert!(
        lab.fails(&["network", "create", "--config-from=plan", "--label=c", "x"], 2)
            .contains("leave them out")
    );
    assert!(
        lab.fails(&["network", "create", "-o", "vswitch.config-from=plan", "x"], 2).contains("--config-from")
    );

    lab.ok(&["network", "create", "--config-from=plan", "--attachable", "net"]);
    let template = "{{.ConfigFrom.Network}} {{.Attachable}} {{(index .IPAM.Config 0).Subnet}} {{json .Labels}} {{json .Options}}";
    let expected = "plan true 10.94.0.0/24 {\"a\":\"b\"} {\"com.docker.network.driver.mtu\":\"1400\"}\n";
    assert_eq!(show(template, "net"), expected);
    lab.run_idle("c", &["--net=net"]);
    assert_eq!(lab.ok(&["inspect", "-f", "{{.NetworkSettings.Networks.net.IPAddress}}", "c"]), "10.94.0.2\n");
    assert!(lab.fails(&["network", "rm", "plan"], 4).contains("used by net"));
    assert!(lab.fails(&["network", "create", "--config-from=plan", "second"], 4).contains("10.94.0.0/24"));
    lab.ok(&["rm", "-f", "c"]);
    assert_eq!(lab.ok(&["network", "prune", "-f"]), "Deleted Networks:\nnet\n\n", "a configuration stays");
    lab.ok(&["network", "rm", "plan"]);
}

const MTU: &str = "com.docker.network.driver.mtu=1400";

#[test]
fn a_pruning_is_filtered() {
    let lab = Lab::new();
    for (name, label) in [("old", "tier=a"), ("new", "tier=b"), ("plain", "other")] {
        lab.ok(&["network", "create", "--label", label, name]);
    }
    let prune = |filters: &[&str]| lab.ok(&[&["network", "prune", "-f"], filters].concat());
    assert_eq!(prune(&["--filter", "until=1h"]), "");
    assert_eq!(prune(&["--filter", "label=tier", "--filter", "label=tier=c"]), "");
    assert_eq!(prune(&["--filter=label=tier=a", "--filter=until=2099-01-01"]), "Deleted Networks:\nold\n\n");
    assert_eq!(prune(&["--filter=label!=tier"]), "Deleted Networks:\nplain\n\n");
    assert!(lab.fails(&["network", "prune", "-f", "--filter=name=x"], 2).contains("unknown filter 'name'"));
    assert_eq!(prune(&[]), "Deleted Networks:\nnew\n\n");
}

/// Keys that templates for docker use, of containers and networks.
#[test]
fn inspect_has_the_keys_of_docker() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--subnet=10.95.0.0/24", "net"]);
    let id = lab.run_idle("c", &["--net=name=net,ip=10.95.0.9,alias=web"]);
    lab.run_idle("plain", &[]);
    let show = |template: &str, name: &str| lab.ok(&["inspect", "-f", template, name]);
    for (template, expected) in [
        ("{{.ID}} {{.Id}}", format!("{id} {id}")),
        ("{{.NetworkSettings.Networks.net.IPAMConfig.IPv4Address}}", "10.95.0.9".into()),
        ("{{json .NetworkSettings.Networks.net.IPAMConfig}}", "{\"IPv4Address\":\"10.95.0.9\"}".into()),
        ("{{json .NetworkSettings.Networks.net.DNSNames}}", format!("[\"c\",\"web\",\"{}\"]", &id[..12])),
        (
            "{{.NetworkSettings.IPAddress}}|{{.NetworkSettings.Bridge}}|{{.NetworkSettings.Ports}}",
            "||map[]".into(),
        ),
        ("{{.Config.Image}}|{{.Image}}|{{.Platform}}|{{.Config.Tty}}", "||linux|false".into()),
        ("{{.State.Paused}} {{.State.OOMKilled}} {{.State.Dead}}", "false false false".into()),
        (
            "{{with .NetworkSettings.Networks.net}}{{.GwPriority}}{{json .Links}}{{json .DriverOpts}}{{end}}",
            "0nullnull".into(),
        ),
        ("{{.NetworkSettings.SandboxKey}}", show("/proc/{{.State.Pid}}/ns/net", "c").trim_end().into()),
    ] {
        assert_eq!(show(template, "c"), format!("{expected}\n"), "{template}");
    }
    let shown =
        show("{{.NetworkSettings.IPAddress}} {{.NetworkSettings.Networks.bridge.IPAddress}}", "plain");
    let (old, new) = shown.trim_end().split_once(' ').expect("two addresses");
    assert!(old == new && !old.is_empty(), "{shown}");
    lab.ok(&["kill", "c"]);
    eventually("it has ended", || {
        ensure!(show("{{.State.Running}}{{.NetworkSettings.SandboxKey}}", "c") == "false\n");
        Ok(())
    });
    let keys = "{{.Attachable}} {{.Ingress}} {{.ConfigOnly}} {{.ConfigFrom.Network}}| {{.Internal}}";
    assert_eq!(show(keys, "net"), "false false false | false\n");
}
