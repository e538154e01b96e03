//! Two hosts, each with an engine of its own, and one network.

use std::time::Instant;

use vswitch_tests::Cluster;
use vswitch_tests::process::Process;

use super::*;

/// One per machine of a cluster. The machines go with them, the bridge between with the second.
pub fn engines(arguments: &[&str], count: usize) -> (Vec<Docker>, Cluster) {
    engines_and_others(arguments, count, 0)
}

/// With `others` machines more in the cluster, which have no engine. They go with the bridge.
fn engines_and_others(arguments: &[&str], count: usize, others: usize) -> (Vec<Docker>, Cluster) {
    let mut cluster = Cluster::with(count + others, &[&["--docker-plugin"], arguments].concat());
    cluster.join_all();
    let labs: Vec<_> = cluster.labs.drain(..count).collect();
    (labs.into_iter().map(Docker::beside).collect(), cluster)
}

/// The line that is the same on each host.
const CREATE: [&str; 9] = [
    "network",
    "create",
    "-d",
    "vswitch",
    "--ipam-driver=vswitch",
    "--opt=vswitch.network=blue",
    "--ipam-opt=vswitch.network=blue",
    "--subnet=10.0.0.0/24",
    "blue",
];

#[test]
fn containers_on_two_hosts_find_each_other_by_name() {
    let (hosts, _fabric) = engines(&["--docker-grace-s=2"], 2);
    let [one, two] = &hosts[..] else { panic!("there are two") };
    one.does(&CREATE);
    two.does(&CREATE);
    one.starts("c1", &["--net=blue"]);
    two.starts("c2", &["--net=blue", "--network-alias=second"]);
    let addresses = [one.members("blue"), two.members("blue")].concat();
    assert!(
        addresses[0].starts_with("c1 10.0.0.2/24") && addresses[1].starts_with("c2 10.0.0.3/24"),
        "{addresses:?}"
    );
    one.assert_pings("c1", "10.0.0.3");
    one.wait_for_ping("c1", "c2");
    two.wait_for_ping("c2", "c1");
    one.assert_pings("c1", "second");
    one.assert_pings("c1", "c2.blue");
    assert!(one.within("c1", &["ifconfig", "eth0"]).contains("MTU:1450"), "a tunnel needs 50 bytes");
    // The resolver is the gateway, which may be asked directly.
    let answer = one.within("c1", &["nslookup", "c2", "10.0.0.1"]);
    assert!(answer.contains("10.0.0.3"), "{answer}");
    let unknown = one.docker(&["exec", "c1", "ping", "-c", "1", "c9"]);
    assert!(unknown.stderr.contains("bad address"), "{unknown:?}");
    let shown = two.inspect_network("blue");
    let mut names: Vec<&str> = shown.containers.values().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["c1", "c2"]);

    // Another network knows nothing of them.
    one.does(&["network", "create", "-d", "vswitch", "red"]);
    one.starts("r1", &["--net=red"]);
    let by_name = one.docker(&["exec", "r1", "ping", "-c", "1", "c2"]);
    assert!(by_name.stderr.contains("bad address"), "{by_name:?}");
    one.assert_pings_in_vain("r1", "10.0.0.3");

    // A container that moves takes its address along, with another MAC address.
    two.does(&["rm", "-f", "c2"]);
    one.starts("c2", &["--net=blue", "--ip=10.0.0.3"]);
    one.assert_pings("c1", "10.0.0.3");
    one.wait_for_ping("c1", "c2");
    let taken = two.refuses(&["run", "--rm", "--net=blue", "--ip=10.0.0.3", "busybox", "true"]);
    assert!(taken.contains("10.0.0.3 is already in use"), "{taken}");
    for host in [one, two] {
        host.sh("docker ps -aq | xargs -r docker rm -f");
        host.wait_until_nothing_is_left();
    }
    one.does(&["network", "rm", "blue"]);
    eventually("no lease is left", || {
        let network = one.inspect_network("blue");
        ensure!(network.containers.is_empty(), "{:?}", network.containers);
        Ok(())
    });
    // The other host's Docker has it still.
    eventually("it is refused, with the engine's name", || {
        let refused = one.ctl(&["network", "rm", "blue"]);
        ensure!(refused.code != 0, "{refused:?}");
        ensure!(refused.stderr.contains("is the Docker network blue of node host1: "), "{refused:?}");
        Ok(())
    });
    one.ok(&["network", "prune", "--force"]);
    two.starts("c3", &["--net=blue"]);
    two.does(&["rm", "-f", "c3"]);
    two.does(&["network", "rm", "blue"]);
    eventually("it is nobody's", || {
        let removed = one.ctl(&["network", "rm", "blue"]);
        ensure!(removed.code == 0, "{removed:?}");
        Ok(())
    });
}

#[test]
fn the_first_host_says_what_a_shared_network_is_like() {
    let (hosts, _fabric) = engines(&["--docker-grace-s=2"], 2);
    let [one, two] = &hosts[..] else { panic!("there are two") };
    let shared = ["--ipam-driver=vswitch", "--opt=vswitch.network=blue", "--ipam-opt=vswitch.network=blue"];
    for (options, part) in [
        (&[shared[0], shared[2]][..], "add -o vswitch.network=blue"),
        (&[shared[0], shared[1]], "add --ipam-driver vswitch --ipam-opt vswitch.network=blue"),
        (&[shared[0], shared[1], shared[2], "--opt=colour=red"], "unknown driver option"),
        (&[shared[0], shared[1], shared[2], "--opt=com.docker.network.driver.mtu=7"], "mtu"),
        (&[shared[0], shared[1], shared[2], "--ipam-opt=vswitch.colour=red"], "vswitch.colour"),
    ] {
        let message = one.refuses(&[&["network", "create", "-d", "vswitch"], options, &["blue"]].concat());
        assert!(message.contains(part), "no `{part}` in {message}");
        let left = one.ctl(&["network", "inspect", "blue"]);
        assert!(left.code != 0, "{options:?} leaves {left:?}");
    }
    let asked = [
        "--subnet=10.5.0.0/24",
        "--gateway=10.5.0.254",
        "--ip-range=10.5.0.128/28",
        "--aux-address=router=10.5.0.129",
        "--ipv6",
        "--subnet=fd05::/64",
        "--opt=com.docker.network.driver.mtu=1300",
    ];
    one.does(&[&["network", "create", "-d", "vswitch"], &shared[..], &asked, &["blue"]].concat());
    // Names stand for addresses of both families.
    let without_ipv6 = [&["network", "create", "-d", "vswitch"], &shared[..], &["blue"]].concat();
    let message = two.refuses(&without_ipv6);
    assert!(message.contains("add --ipv6 --subnet fd05::/64"), "{message}");
    let ipv6 = ["--ipv6", "--subnet=fd05::/64"];
    two.does(&[&["network", "create", "-d", "vswitch"], &shared[..], &ipv6, &["blue"]].concat());
    one.starts("c1", &["--net=blue"]);
    two.starts("c2", &["--net=blue"]);
    let members = [one.members("blue"), two.members("blue")].concat();
    assert!(members[0].starts_with("c1 10.5.0.128/24"), "{members:?}");
    assert!(members[1].starts_with("c2 10.5.0.130/24"), "{members:?}");
    for (host, container) in [(one, "c1"), (two, "c2")] {
        host.assert_pings(container, "10.5.0.254");
        assert!(host.within(container, &["ifconfig", "eth0"]).contains("MTU:1300"));
        assert!(host.within(container, &["ip", "route"]).contains("default via 10.5.0.254"));
    }
    let told = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}} {{.IPv6Gateway}}{{end}}";
    for (host, container) in [(one, "c1"), (two, "c2")] {
        let told = host.says(told, container);
        assert!(told.starts_with("fd05::") && told.trim_end().ends_with(" fd05::1"), "{container}: {told}");
    }
    one.wait_for_ping("c1", "10.5.0.130");
    one.wait_for_ping("c1", "c2");
    two.wait_for_ping("c2", "c1");
    for host in [one, two] {
        host.sh("docker ps -aq | xargs -r docker rm -f");
        host.does(&["network", "rm", "blue"]);
        host.wait_until_nothing_is_left();
    }
    one_that_is_internal(one, two);
}

fn one_that_is_internal(one: &Docker, two: &Docker) {
    let shared = ["--ipam-driver=vswitch", "--opt=vswitch.network=inner", "--ipam-opt=vswitch.network=inner"];
    let first = ["network", "create", "-d", "vswitch", "--internal", "--subnet=10.7.0.0/24"];
    one.does(&[&first[..], &shared[..], &["inner"]].concat());
    two.does(&[&["network", "create", "-d", "vswitch"], &shared[..], &["inner"]].concat());
    for (host, container) in [(one, "i1"), (two, "i2")] {
        // Without a default route no question passes by the gateway.
        host.starts(container, &["--net=inner", "--dns=10.7.0.1"]);
        let routes = host.within(container, &["ip", "route"]);
        assert!(!routes.contains("default"), "{routes}");
    }
    two.wait_for_ping("i2", "i1");
    for host in [one, two] {
        host.sh("docker ps -aq | xargs -r docker rm -f");
        host.does(&["network", "rm", "inner"]);
        host.wait_until_nothing_is_left();
    }
}

#[test]
fn a_shared_network_says_what_it_needs() {
    let (mut hosts, _fabric) = engines(&[], 1);
    let docker = &hosts[0];
    docker.ok(&[
        "network",
        "create",
        "-d",
        "overlay",
        "--subnet=10.5.0.0/24",
        "-o",
        "com.docker.network.driver.mtu=1300",
        "blue",
    ]);
    let create = |options: &[&str]| {
        docker.refuses(&[&["network", "create", "-d", "vswitch"], options, &["blue"]].concat())
    };
    let (network, ipam) = ("--opt=vswitch.network=blue", "--ipam-opt=vswitch.network=blue");
    for (options, part) in [
        (&[network][..], "add --ipam-driver vswitch --ipam-opt vswitch.network=blue"),
        (&[network, "--ipam-driver=vswitch"], "add --ipam-driver vswitch --ipam-opt vswitch.network=blue"),
        (
            &[network, "--ipam-driver=vswitch", "--subnet=10.5.0.0/24"],
            "add --ipam-driver vswitch --ipam-opt vswitch.network=blue",
        ),
        (&["--ipam-driver=vswitch", ipam], "add -o vswitch.network=blue"),
        (&[network, "--ipam-driver=vswitch", ipam, "--subnet=10.6.0.0/24"], "has the subnet 10.5.0.0/24"),
        (&[network, "--ipam-driver=vswitch", ipam, "--ipv6"], "has no IPv6 subnet"),
        (
            &[network, "--ipam-driver=vswitch", ipam, "--opt=com.docker.network.driver.mtu=1400"],
            "is set when it is made",
        ),
    ] {
        let message = create(options);
        assert!(message.contains(part), "no `{part}` in {message}");
    }
    assert_eq!(docker.does(&["network", "ls", "-q", "--filter=driver=vswitch"]), "");
    docker.does(&[
        "network",
        "create",
        "-d",
        "vswitch",
        "--ipam-driver=vswitch",
        network,
        ipam,
        "--subnet=10.5.0.0/24",
        "blue",
    ]);
    docker.ok(&["network", "prune", "--force"]);
    docker.starts("c1", &["--net=blue"]);
    docker.run_idle("lab", &["--net=blue"]);
    assert!(docker.within("c1", &["ifconfig", "eth0"]).contains("MTU:1300"));
    docker.wait_for_ping("c1", "lab");
    eventually("the lab's container knows the name", || {
        let ping = docker.ping("lab", "c1");
        ensure!(ping.received == 1, "{ping:?}");
        Ok(())
    });
    options::containers_that_pause_and_stop_come_back(docker, "blue", "10.5.0.99");
    an_engine_is_lost(&mut hosts[0]);
}

/// With a container in the network.
fn an_engine_is_lost(docker: &mut Docker) {
    docker.ok(&["rm", "-f", "lab"]);
    docker.lose_engine();
    let refused = docker.ctl(&["network", "rm", "blue"]);
    assert!(refused.stderr.contains("c1 on node host0"), "{refused:?}");
    docker.ok(&["rm", "-f", "c1"]);
    eventually("the engine is missed", || {
        let removed = docker.ctl(&["network", "rm", "-f", "blue"]);
        ensure!(removed.code == 0, "{removed:?}");
        Ok(())
    });
    docker.wait_until_nothing_is_left();
}

#[test]
fn without_a_quorum_what_runs_goes_on() {
    // Two of four voters are no majority.
    let (mut hosts, mut cluster) = engines_and_others(&["--docker-grace-s=2"], 2, 2);
    for host in &hosts {
        host.does(&CREATE);
    }
    hosts[0].starts("c1", &["--net=blue"]);
    hosts[1].starts("c2", &["--net=blue"]);
    hosts[0].wait_for_ping("c1", "c2");
    hosts[1].wait_for_ping("c2", "c1");
    for other in &mut cluster.labs {
        other.kill9();
    }
    let (message, took) = eventually("the loss of the quorum is noticed", || {
        let start = Instant::now();
        let output = hosts[0].docker(&["run", "--rm", "--net=blue", "busybox", "true"]);
        ensure!(output.code != 0, "it ran: {output:?}");
        Ok((output.stderr, start.elapsed()))
    });
    println!("docker run without a quorum is refused after {took:?}: {message}");
    assert!(message.contains("quorum") || message.contains("the cluster does not answer"), "{message}");
    // What runs goes on, through the tunnel and by name.
    hosts[0].assert_pings("c1", "10.0.0.3");
    hosts[0].assert_pings("c1", "c2");
    hosts[1].assert_pings("c2", "c1");
    hosts[0].does(&["network", "create", "-d", "vswitch", "local"]);
    hosts[0].starts("l1", &["--net=local"]);
    hosts[0].starts("l2", &["--net=local"]);
    hosts[0].assert_pings("l1", "l2");
    hosts[0].assert_pings("c1", "10.0.0.1");
    // Nor does it get one by a start, after which calls wait for a leader for a while.
    hosts[0].kill9();
    hosts[0].start();
    hosts[0].starts("l3", &["--net=local"]);
    hosts[0].wait_for_ping("l3", "l1");
    let message = hosts[0].refuses(&["run", "--rm", "--net=blue", "busybox", "true"]);
    assert!(message.contains("quorum") || message.contains("the cluster does not answer"), "{message}");
    hosts[0].does(&["rm", "-f", "l1", "l2", "l3"]);
    hosts[0].does(&["network", "rm", "local"]);
    for other in &mut cluster.labs {
        other.start();
    }
    hosts[0].wait_for_ping("c1", "c2");
    eventually("containers start again", || {
        let output = hosts[0].docker(&["run", "--rm", "--net=blue", "busybox", "true"]);
        ensure!(output.code == 0, "{output:?}");
        Ok(())
    });
    drop(hosts);
    drop(cluster);
}

#[test]
fn many_containers_at_once_on_two_hosts() {
    const EACH: usize = 10;
    let (hosts, _fabric) = engines(&["--docker-grace-s=2"], 2);
    for host in &hosts {
        host.does(&CREATE);
    }
    let mut starting: Vec<Process> = hosts
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let script = format!(
                "for i in $(seq {EACH}); do \
                   docker run -d --net=blue --name=h{index}c$i busybox sleep 1000 & \
                 done; wait"
            );
            Process::spawn(host, &["sh", "-c", &script])
        })
        .collect();
    let said: Vec<String> = starting
        .iter_mut()
        .map(|process| {
            process.wait();
            process.output()
        })
        .collect();
    let members: Vec<String> = hosts.iter().flat_map(|host| host.members("blue")).collect();
    assert_eq!(members.len(), 2 * EACH, "{members:?}: {said:?}");
    let mut addresses: Vec<&str> = members.iter().filter_map(|member| member.split(' ').nth(1)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 2 * EACH, "{members:?}");
    for i in [1, EACH / 2, EACH] {
        hosts[0].wait_for_ping("h0c1", &format!("h1c{i}"));
        hosts[1].wait_for_ping("h1c1", &format!("h0c{i}"));
    }
    for host in &hosts {
        host.sh("docker ps -aq | xargs docker rm -f >/dev/null");
        host.does(&["network", "rm", "blue"]);
        host.wait_until_nothing_is_left();
    }
}

#[test]
fn containers_on_two_hosts_outlive_a_daemon_and_an_engine_that_are_killed() {
    let (mut hosts, _fabric) = engines(&["--docker-grace-s=2"], 2);
    for host in &hosts {
        host.does(&CREATE);
    }
    hosts[0].starts("c1", &["--net=blue"]);
    hosts[1].starts("c2", &["--net=blue", "--restart=always"]);
    let before = hosts[1].started("c2");
    hosts[0].wait_for_ping("c1", "c2");
    // Its leases are in effect again only when somebody leads.
    hosts[0].kill9();
    hosts[0].start();
    hosts[0].wait_for_ping("c1", "10.0.0.3");
    hosts[0].wait_for_ping("c1", "c2");
    hosts[1].wait_for_ping("c2", "10.0.0.2");
    hosts[1].wait_for_ping("c2", "c1");
    hosts[1].kill9_engine();
    hosts[1].start_engine();
    hosts[1].wait_for_restart("c2", &before);
    hosts[1].wait_for_ping("c2", "c1");
    hosts[0].wait_for_ping("c1", "c2");
    for host in &hosts {
        host.sh("docker ps -aq | xargs -r docker rm -f");
        host.does(&["network", "rm", "blue"]);
        host.wait_until_nothing_is_left();
    }
}
