//! Interfaces that are deleted inside of their container, or moved out of it: told, and made again.

use anyhow::ensure;
use vswitch_proto::api::Port;
use vswitch_tests::Lab;
use vswitch_tests::wait::eventually;

fn port(lab: &Lab, container: &str, network: &str) -> Port {
    let ports: Vec<Port> = lab.http("GET", "/v1/ports", "").parsed();
    let is_it = |p: &Port| p.container.as_str() == container && p.network.as_str() == network;
    ports.into_iter().find(is_it).unwrap_or_else(|| panic!("{container} has no port in {network}"))
}

fn wait_until_up(lab: &Lab, container: &str, network: &str) {
    eventually(&format!("the port of {container} in {network} is up"), || {
        let port = port(lab, container, network);
        ensure!(port.up && port.problem.is_none(), "{port:?}");
        Ok(())
    });
}

/// Runs a command in the network namespace of a container, with the tools of the machine.
fn inside(lab: &Lab, container: &str, command: &str) -> String {
    let pid = lab.inspect(container).state.pid;
    lab.sh(&format!("nsenter --net=/proc/{pid}/ns/net {command}"))
}

fn wait_until_moved(lab: &Lab) {
    eventually("port ls says so", || {
        let rows = lab.ok(&["port", "ls"]);
        ensure!(rows.contains("down: its interface was moved to another network namespace"), "{rows}");
        Ok(())
    });
}

/// The IPv4 side of a container's network.
fn addresses_and_routes(lab: &Lab, container: &str) -> String {
    let addresses = inside(lab, container, "ip -4 -o addr show scope global");
    let shown =
        addresses.lines().map(|line| line.split_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" "));
    let shown: Vec<String> = shown.collect();
    let routes = inside(lab, container, "ip -4 route show");
    let routes: Vec<&str> = routes.lines().map(str::trim_end).collect();
    format!("{}\n{}", shown.join("\n"), routes.join("\n"))
}

/// Waits until the interface is there with what it had.
fn wait_until_repaired(lab: &Lab, before: &str, addresses: impl Fn() -> String) {
    eventually("the interface is made again", || {
        let now = addresses();
        ensure!(now == before, "{now} instead of {before}");
        Ok(())
    });
    assert!(lab.log().contains("was deleted inside of the container"), "{}", lab.log());
}

#[test]
fn one_that_is_deleted_is_made_again_as_it_was() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--ipv6", "--subnet=10.6.0.0/24", "--subnet=fd00:6::/64", "net"]);
    lab.run_idle("victim", &[]);
    lab.ok(&["network", "connect", "net", "victim"]);
    lab.run_idle("beside", &[]);
    lab.ok(&["network", "connect", "net", "beside"]);
    let shown = || {
        let addresses = "ip -o addr show scope global | awk '{print $2, $4}' | sort";
        let routes = "ip route show default; ip -6 route show default | grep -v -e ra -e expires; ip -o link | grep -o 'link/ether [^ ]*' | sort";
        let pid = lab.inspect("victim").state.pid;
        lab.sh(&format!(
            "nsenter --net=/proc/{pid}/ns/net sh -c \"{}; {routes}\"",
            addresses.replace('$', "\\$")
        ))
    };
    let before = shown();
    assert!(before.contains("172.17.0.2/16") && before.contains("fd00:6::2/64"), "{before}");
    for interface in ["eth0", "eth1"] {
        inside(&lab, "victim", &format!("ip link del {interface}"));
        wait_until_repaired(&lab, &before, shown);
    }
    for network in ["bridge", "net"] {
        wait_until_up(&lab, "victim", network);
    }
    lab.assert_reaches("victim", "beside");
    lab.assert_reaches("beside", "10.6.0.2");
    // As often as it is done.
    for _ in 0..3 {
        inside(&lab, "victim", "sh -c 'ip link del eth0; ip link del eth1'");
        wait_until_repaired(&lab, &before, shown);
    }
    lab.ok(&["network", "disconnect", "net", "victim"]);
    lab.ok(&["rm", "-f", "victim"]);
}

#[test]
fn one_of_an_adopted_namespace_is_made_again() {
    let lab = Lab::new();
    lab.sh("ip netns add outside");
    lab.ok(&["adopt", "--netns=/run/netns/outside", "--name=outside"]);
    lab.sh("ip -n outside link del eth0");
    wait_until_up(&lab, "outside", "bridge");
    eventually("it answers", || {
        let ping =
            lab.run(&["ip", "netns", "exec", "outside", "busybox", "ping", "-c1", "-W1", "172.17.0.1"]);
        ensure!(ping.code == 0, "{ping:?}");
        Ok(())
    });
}

#[test]
fn one_whose_name_is_taken_meanwhile_is_reported() {
    let lab = Lab::new();
    lab.run_idle("victim", &[]);
    inside(
        &lab,
        "victim",
        "sh -ec 'ip link set eth0 down; ip link set eth0 name old; ip tuntap add eth0 mode tap; ip link del old'",
    );
    eventually("port ls says that it is down", || {
        let rows = lab.ok(&["port", "ls"]);
        ensure!(rows.contains("down: its interface could not be made"), "{rows}");
        Ok(())
    });
    inside(&lab, "victim", "ip link del eth0");
    wait_until_up(&lab, "victim", "bridge");
}

#[test]
fn one_that_is_moved_away_is_reported_until_it_is_back() {
    let lab = Lab::new();
    lab.run_idle("mover", &[]);
    lab.run_idle("beside", &[]);
    lab.sh("ip netns add elsewhere");
    let before = addresses_and_routes(&lab, "mover");
    inside(&lab, "mover", "ip link set eth0 netns elsewhere");
    wait_until_moved(&lab);
    assert!(port(&lab, "beside", "bridge").up);
    assert!(lab.log().contains("was moved to another network namespace"), "{}", lab.log());
    let pid = lab.inspect("mover").state.pid;
    lab.sh(&format!("ip -n elsewhere link set eth0 netns {pid}"));
    wait_until_up(&lab, "mover", "bridge");
    // The kernel has taken its addresses and routes away and has set it down: it is set up again.
    assert_eq!(addresses_and_routes(&lab, "mover"), before);
    lab.assert_reaches("mover", "beside");
    lab.assert_reaches("beside", "mover");
    // Under another name as well.
    inside(&lab, "mover", "ip link set eth0 netns elsewhere");
    wait_until_moved(&lab);
    lab.sh(&format!("ip -n elsewhere link set eth0 netns {pid} name uplink0"));
    wait_until_up(&lab, "mover", "bridge");
    assert_eq!(addresses_and_routes(&lab, "mover"), before.replace("eth0", "uplink0"));
    lab.assert_reaches("mover", "beside");
    inside(&lab, "mover", "sh -ec 'ip link set uplink0 down; ip link set uplink0 name eth0 up'");
    // With the namespace that it was moved to it goes, and is made again.
    inside(&lab, "mover", "ip link set eth0 netns elsewhere");
    lab.sh("ip netns del elsewhere");
    eventually("it reaches its neighbour again", || {
        let ping = lab.ping("mover", "beside");
        ensure!(ping.received == 1, "{ping:?}");
        Ok(())
    });
}

#[test]
fn one_that_is_set_down_and_up_again_goes_on() {
    let lab = Lab::new();
    lab.run_idle("victim", &[]);
    lab.run_idle("beside", &[]);
    for _ in 0..3 {
        inside(&lab, "victim", "ip link set eth0 down");
        let address = lab.address("victim", "bridge");
        lab.assert_cannot_reach("beside", &address);
        inside(&lab, "victim", "ip link set eth0 up");
        lab.assert_reaches("beside", "victim");
        lab.assert_reaches("victim", "beside");
        wait_until_up(&lab, "victim", "bridge");
    }
}

#[test]
fn one_that_is_renamed_goes_on_also_after_a_restart_of_the_daemon() {
    let mut lab = Lab::new();
    lab.ok(&["network", "create", "net"]);
    lab.run_idle("victim", &[]);
    lab.run_idle("beside", &[]);
    lab.ok(&["network", "connect", "net", "beside"]);
    inside(
        &lab,
        "victim",
        "sh -ec 'ip link set eth0 down; ip link set eth0 name uplink0 up; ip route add default via 172.17.0.1'",
    );
    let works = |lab: &Lab| {
        wait_until_up(lab, "victim", "bridge");
        lab.assert_reaches("beside", "victim");
        lab.assert_reaches("victim", "beside");
    };
    works(&lab);
    // The default route is set anew with each connection.
    lab.ok(&["network", "connect", "net", "victim"]);
    works(&lab);
    lab.ok(&["network", "disconnect", "net", "victim"]);
    works(&lab);
    for _ in 0..2 {
        lab.kill9();
        lab.start();
        works(&lab);
        let links = inside(&lab, "victim", "ip -o link");
        assert!(links.contains("uplink0") && !links.contains("eth0"), "there is no second one: {links}");
    }
    // One that is deleted comes back under its own name.
    inside(&lab, "victim", "ip link del uplink0");
    wait_until_up(&lab, "victim", "bridge");
    assert!(inside(&lab, "victim", "ip -o link").contains("eth0"));
    lab.assert_reaches("victim", "beside");
    lab.ok(&["rm", "-f", "victim"]);
}
