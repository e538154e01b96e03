//! What users of `docker network create`, `docker run` and `docker compose` expect of their options.

use super::*;

#[test]
fn addresses_and_mtu_are_what_was_asked_for() {
    let docker = Docker::new();
    for (network, driver) in [("net", "default"), ("own", "vswitch")] {
        let octet = if network == "net" { 7 } else { 8 };
        let subnet = |rest: &str| format!("10.{octet}.0.{rest}");
        docker.does(&[
            "network",
            "create",
            "--driver=vswitch",
            &format!("--ipam-driver={driver}"),
            &format!("--subnet={}", subnet("0/24")),
            &format!("--gateway={}", subnet("254")),
            &format!("--ip-range={}", subnet("128/28")),
            &format!("--aux-address=router={}", subnet("129")),
            "--opt=com.docker.network.driver.mtu=1400",
            network,
        ]);
        let options = [
            format!("--net={network}"),
            format!("--ip={}", subnet("9")),
            "--mac-address=02:11:22:33:44:55".into(),
        ];
        docker.starts(&format!("{network}1"), &options.each_ref().map(String::as_str));
        docker.starts(&format!("{network}2"), &[&format!("--net={network}")]);
        let ifconfig = docker.within(&format!("{network}1"), &["ifconfig", "eth0"]);
        for part in ["HWaddr 02:11:22:33:44:55", &format!("inet addr:{} ", subnet("9")), "MTU:1400"] {
            assert!(ifconfig.contains(part), "no `{part}` in {ifconfig}");
        }
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}";
        let second = docker.says(format, &format!("{network}2"));
        let (address, gateway) = second.split_once(' ').expect("two addresses");
        let last: u8 = address.rsplit('.').next().and_then(|n| n.parse().ok()).expect("an address");
        assert!((128..144).contains(&last) && last != 129, "{address}");
        assert_eq!(gateway, subnet("254"));
        docker.assert_pings(&format!("{network}1"), &format!("{network}2"));
        docker.assert_pings(&format!("{network}2"), &subnet("254"));
    }
    assert!(
        docker.refuses(&["run", "--rm", "--net=net", "--ip=10.7.0.9", "busybox", "true"]).contains("in use")
    );
    docker.sh("docker ps -aq | xargs docker rm -f && docker network rm net own");
    docker.wait_until_nothing_is_left();
}

#[test]
fn a_mac_address_is_that_of_one_container() {
    let docker = Docker::new();
    docker.does(&["network", "create", "-d", "vswitch", "--ipam-driver=vswitch", "net"]);
    let mac = "--mac-address=02:11:22:33:44:55";
    docker.starts("c1", &["--net=net", mac]);
    docker.starts("c3", &["--net=net"]);
    let refused = docker.refuses(&["run", "--rm", "--net=net", mac, "busybox", "true"]);
    assert!(refused.contains("MAC address 02:11:22:33:44:55 has "), "{refused}");
    docker.assert_pings("c1", "c3");
    docker.does(&["restart", "--time=0", "c1"]);
    docker.assert_pings("c1", "c3");
    docker.sh("docker ps -aq | xargs docker rm -f && docker network rm net");
    docker.wait_until_nothing_is_left();
}

#[test]
fn an_interface_has_its_offloads_and_no_queue_of_the_kernels() {
    let docker = Docker::new();
    for network in ["net", "other"] {
        docker.does(&["network", "create", "-d", "vswitch", network]);
    }
    docker.starts("c1", &["--net=net"]);
    docker.does(&["network", "connect", "other", "c1"]);
    let sandbox = docker.says("{{.NetworkSettings.SandboxKey}}", "c1");
    let inside = |command: &str| docker.sh(&format!("nsenter --net={sandbox} {command}"));
    for interface in ["eth0", "eth1"] {
        let features = inside(&format!("ethtool -k {interface}"));
        for part in ["tx-checksumming: on", "scatter-gather: on", "tcp-segmentation-offload: on"] {
            assert!(features.contains(part), "no `{part}` in {features}");
        }
        eventually("it has no queue", || {
            let link = inside(&format!("ip -o link show dev {interface}"));
            ensure!(link.contains(" qdisc noqueue "), "{link}");
            Ok(())
        });
    }
    docker.does(&["restart", "--time=0", "c1"]);
    docker.assert_pings("c1", "172.18.0.1");
}

#[test]
fn a_range_of_ports_is_accepted() {
    let docker = Docker::new();
    docker.does(&["network", "create", "-d", "vswitch", "net"]);
    docker.starts("c1", &["--net=net", "--publish=20000-44999:20000-44999"]);
    docker.assert_pings("c1", "172.18.0.1");
    docker.does(&["rm", "-f", "c1"]);
    docker.wait_until_nothing_is_left();
}

#[test]
fn a_container_pauses_stops_and_starts() {
    let docker = Docker::new();
    docker.does(&["network", "create", "-d", "vswitch", "--subnet=10.7.0.0/24", "net"]);
    containers_that_pause_and_stop_come_back(&docker, "net", "10.7.0.99");
}

/// In this network, whose address `fixed` is free.
pub fn containers_that_pause_and_stop_come_back(docker: &Docker, network: &str, fixed: &str) {
    let (net, ip) = (format!("--net={network}"), format!("--ip={fixed}"));
    docker.starts("s1", &[&net]);
    docker.starts("s2", &[&net, &ip, "--network-alias=second"]);
    docker.does(&["pause", "s2"]);
    docker.does(&["unpause", "s2"]);
    docker.assert_pings("s1", "s2");
    for command in [&["stop", "-t", "0", "s2"][..], &["kill", "s2"]] {
        docker.does(command);
        docker.assert_pings_in_vain("s1", fixed);
        docker.does(&["start", "s2"]);
        docker.assert_pings("s1", fixed);
        docker.assert_pings("s2", "s1");
        docker.assert_pings("s1", "second");
    }
    assert!(docker.members(network).iter().any(|member| member.starts_with(&format!("s2 {fixed}/24 "))));

    // Without an address of its own choice it may get another one, under its name.
    docker.does(&["stop", "-t", "0", "s1"]);
    docker.starts("s3", &[&net]);
    docker.does(&["start", "s1"]);
    docker.assert_pings("s2", "s1");
    docker.assert_pings("s3", "s1");

    // Connected while it does not run.
    docker.does(&["create", "--name=s4", "-it", "busybox"]);
    docker.does(&["network", "connect", network, "s4"]);
    docker.does(&["start", "s4"]);
    docker.assert_pings("s4", "s1");
    docker.assert_pings("s1", "s4");
    eventually("all are shown under their names", || {
        let shown = docker.inspect_network(network);
        let mut names: Vec<&str> = shown.containers.values().map(|c| c.name.as_str()).collect();
        names.retain(|name| name.starts_with('s'));
        names.sort_unstable();
        ensure!(names == ["s1", "s2", "s3", "s4"], "{names:?}");
        Ok(())
    });
    docker.does(&["rm", "-f", "s1", "s2", "s3", "s4"]);
}

#[test]
fn an_internal_network_has_no_way_out() {
    let docker = Docker::new();
    docker.does(&["network", "create", "-d", "vswitch", "net"]);
    docker.does(&["network", "create", "-d", "vswitch", "--internal", "inner"]);
    docker.starts("outer1", &["--net=net"]);
    docker.starts("inner1", &["--net=inner"]);
    assert!(docker.within("outer1", &["ip", "route"]).contains("default via 172.18.0.1"));
    let routes = docker.within("inner1", &["ip", "route"]);
    assert!(!routes.contains("default"), "{routes}");
    for container in ["outer1", "inner1"] {
        let links = docker.within(container, &["ip", "-o", "link"]);
        assert_eq!(links.lines().count(), 2, "lo and eth0, and nothing of the engine's, in {links}");
    }
}

#[test]
fn port_security_is_an_option_of_the_driver() {
    let docker = Docker::new();
    let refused =
        docker.refuses(&["network", "create", "-d", "vswitch", "-o", "vswitch.port-security=on", "net"]);
    assert!(refused.contains("give registered (the default), strict or off"), "{refused}");
    for (network, option) in [("free", "vswitch.servers=dhcp"), ("bound", "vswitch.port-security=strict")] {
        docker.does(&["network", "create", "-d", "vswitch", "--subnet=10.7.0.0/24", "-o", option, "net"]);
        docker.starts("c1", &["--net=net", "--cap-add=NET_ADMIN"]);
        docker.starts("c2", &["--net=net"]);
        docker.assert_pings("c1", "c2");
        docker.within("c1", &["ip", "address", "add", "10.7.0.77/24", "dev", "eth0"]);
        let ping = docker.docker(&["exec", "c2", "ping", "-c", "2", "-W", "1", "10.7.0.77"]);
        assert_eq!(ping.code == 0, network == "free", "{ping:?}");
        docker.does(&["rm", "-f", "c1", "c2"]);
        docker.does(&["network", "rm", "net"]);
    }
    docker.wait_until_nothing_is_left();
}

#[test]
fn ipv6_beside_ipv4() {
    let docker = Docker::new();
    docker.does(&["network", "create", "-d", "vswitch", "--ipv6", "--subnet=fd07::/64", "six"]);
    docker.does(&["network", "create", "-d", "vswitch", "--ipv6", "--ipam-driver=vswitch", "own"]);
    for network in ["six", "own"] {
        let (one, two) = (format!("{network}1"), format!("{network}2"));
        docker.starts(&one, &[&format!("--net={network}")]);
        docker.starts(&two, &[&format!("--net={network}")]);
        let format = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}} {{.IPv6Gateway}}{{end}}";
        let said = docker.says(format, &two);
        let (address, gateway) = said.split_once(' ').expect("two addresses");
        for target in [address, gateway] {
            let ping = docker.docker(&["exec", &one, "ping6", "-c", "1", "-W", "10", target]);
            assert_eq!(ping.code, 0, "{one} pings {target}: {ping:?}");
        }
    }
    docker.starts("fixed", &["--net=six", "--ip6=fd07::77"]);
    assert!(docker.within("fixed", &["ip", "-6", "address"]).contains("fd07::77/64"));
}

#[test]
fn a_guest_takes_no_address_of_the_engines() {
    let docker = Docker::new();
    for ipam in ["default", "vswitch"] {
        docker.does(&["network", "create", "-d", "vswitch", "--ipam-driver", ipam, "net"]);
        docker.wait_for_network("net");
        docker.starts("c1", &["--net=net"]);
        docker.run_idle("guest", &["--net=net"]);
        docker.starts("c2", &["--net=net"]);
        docker.starts("c3", &["--net=net"]);
        for container in ["c1", "c2", "c3"] {
            docker.wait_for_ping(container, "guest");
        }
        docker.assert_pings("c1", "c2");
        docker.assert_pings("c3", "c1");
        docker.ok(&["rm", "-f", "guest"]);
        docker.does(&["rm", "-f", "c1", "c2", "c3"]);
        docker.does(&["network", "rm", "net"]);
        docker.wait_until_nothing_is_left();
    }
}

#[test]
fn containers_of_docker_are_shown_beside_others() {
    let docker = Docker::new();
    docker.does(&["network", "create", "-d", "vswitch", "blue"]);
    docker.does(&["network", "create", "-d", "vswitch", "red"]);
    let id = docker.starts("web", &["--net=blue", "--network-alias=front"]);
    docker.does(&["network", "connect", "red", "web"]);
    docker.run_idle("lab", &["--net=bridge"]);
    eventually("the names are known", || {
        let rows = docker.ok(&["ps", "--no-trunc", "--format={{.ID}} {{.Names}} {{.Networks}}"]);
        let mut rows: Vec<&str> = rows.lines().filter(|row| !row.contains("lab")).collect();
        rows.sort_unstable();
        ensure!(rows.len() == 1 && rows[0].starts_with(&format!("{id} web ")), "{rows:?}");
        ensure!(rows[0].contains("blue") && rows[0].contains("red"), "{rows:?}");
        Ok(())
    });
    let network = docker.inspect_network("blue");
    let member = &network.containers[&id];
    assert_eq!((member.name.as_str(), member.ipv4_address.as_str()), ("web", "172.18.0.2/16"));
    let ports = docker.ok(&["port", "ls"]);
    assert!(ports.lines().any(|row| row.contains("web") && row.contains("blue")), "{ports}");
    let shown = docker.inspect(&id[..12]);
    assert_eq!(
        (shown.name.as_str(), shown.kind.as_str(), shown.network_settings.networks.len()),
        ("/web", "docker", 2)
    );
    assert_eq!(shown.network_settings.networks["blue"].aliases[0], "front");
    // What is Docker's is done with docker.
    for (command, part) in [
        (&["network", "rm", "blue"][..], "docker network rm"),
        (&["stop", "web"], "use docker"),
        (&["rm", "web"], "use docker"),
        (&["network", "disconnect", "blue", "web"], "use docker"),
    ] {
        let output = docker.ctl(command);
        assert!(output.code != 0 && output.stderr.contains(part), "{command:?}: {output:?}");
    }
    docker.ok(&["network", "prune", "--force"]);
    assert_eq!(docker.inspect_network("red").name, "red");
    // A container of the lab runner is in the same network as any other.
    docker.run_idle("guest", &["--net=blue"]);
    docker.assert_reaches("guest", "web");
    docker.assert_reaches("guest", "front.blue");
    docker.wait_for_ping("web", "guest");
    docker.does(&["rename", "web", "site"]);
    eventually("the new name is known", || {
        let names = docker.ok(&["ps", "--format={{.Names}}"]);
        ensure!(names.lines().any(|name| name == "site"), "{names}");
        Ok(())
    });
    docker_removes_a_network_of_others(&docker);
}

/// Of a container of the lab runner, of which Docker knows nothing.
fn docker_removes_a_network_of_others(docker: &Docker) {
    let events = vswitch_tests::http::Request::new("GET", "/v1/events").events(&docker.socket());
    let mut events = events.expect("there are events");
    docker.does(&["rm", "-f", "site"]);
    docker.does(&["network", "rm", "blue"]);
    let guest = docker.inspect("guest").id;
    let seen = events.until(|event| {
        event.action == "disconnect" && event.attributes.get("container").is_some_and(|id| *id == guest)
    });
    assert_eq!(seen.last().map(|event| event.name.as_str()), Some("blue"));
    let left = docker.ctl(&["network", "inspect", "blue"]);
    assert!(left.code != 0 && left.stderr.contains("blue"), "{left:?}");
    assert!(docker.inspect("guest").network_settings.networks.is_empty());
    // It runs, and is welcome in the next one.
    docker.does(&["network", "create", "-d", "vswitch", "blue"]);
    docker.starts("web", &["--net=blue"]);
    docker.wait_for_network("blue");
    docker.ok(&["network", "connect", "blue", "guest"]);
    docker.wait_for_ping("web", "guest");
}

const COMPOSE: &str = r#"
version: "3.5"
services:
  web:
    image: busybox
    command: sleep 1000
    networks:
      back:
        aliases: [site]
  db:
    image: busybox
    command: sleep 1000
    networks: [back]
networks:
  back:
    driver: vswitch
    driver_opts:
      com.docker.network.driver.mtu: "1400"
    ipam:
      config:
        - subnet: 10.77.0.0/24
"#;

/// What a file of a project on this machine asks for.
fn composes(docker: &Docker, file: &str) {
    docker.sh("mkdir -p /tmp/project");
    std::fs::write(docker.path("/tmp/project/docker-compose.yml"), file).expect("the machine has a /tmp");
    compose(docker, "up -d");
}

fn compose(docker: &Docker, command: &str) {
    docker.sh(&format!(
        "cd /tmp/project; if docker compose version >/dev/null 2>&1; then docker compose {command}; \
         else docker-compose {command}; fi 2>&1"
    ));
}

/// The container of a service.
fn service(docker: &Docker, name: &str) -> String {
    docker.does(&["ps", "-q", "--filter", &format!("label=com.docker.compose.service={name}")])
}

#[test]
fn a_compose_file_names_the_driver() {
    let docker = Docker::new();
    composes(&docker, COMPOSE);
    let (web, db) = (service(&docker, "web"), service(&docker, "db"));
    docker.assert_pings(&db, "site");
    docker.assert_pings(&web, "db");
    assert!(docker.within(&web, &["ifconfig"]).contains("inet addr:10.77.0."));
    compose(&docker, "down -t 0");
    docker.wait_until_nothing_is_left();
}

/// The project of one of two hosts, where NAME is the only service.
const SHARED_COMPOSE: &str = r#"
version: "3.5"
services:
  NAME:
    image: busybox
    command: sleep 1000
    networks: [blue]
networks:
  blue:
    driver: vswitch
    driver_opts:
      vswitch.network: blue
    ipam:
      driver: vswitch
      options:
        vswitch.network: blue
      config:
        - subnet: 10.5.0.0/24
"#;

#[test]
fn compose_files_of_two_hosts_have_one_network() {
    let (hosts, _fabric) = hosts::engines(&[], 2);
    let [one, two] = &hosts[..] else { panic!("there are two") };
    for (docker, name) in [(one, "web"), (two, "db")] {
        composes(docker, &SHARED_COMPOSE.replace("NAME", name));
    }
    let (web, db) = (service(one, "web"), service(two, "db"));
    // By the name of the service, and by the short id.
    one.wait_for_ping(&web, "db");
    two.wait_for_ping(&db, "web");
    one.wait_for_ping(&web, &db[..12]);
    assert_eq!(one.inspect_network("blue").containers.len(), 2);
    for docker in [one, two] {
        compose(docker, "down -t 0");
        docker.wait_until_nothing_is_left();
    }
}
