//! A cluster of real processes when things go wrong: nothing is lost but what was cut, and it comes back.

use anyhow::ensure;
use vswitch_proto::api::{ClusterHealth, ClusterStatus, Membership, Node, NodeState};
use vswitch_tests::cluster::{daemon, join_request};
use vswitch_tests::lab::DATA_DIR;
use vswitch_tests::pinging::Pinging;
use vswitch_tests::wait::eventually;
use vswitch_tests::{Cluster, Lab};

/// A container on each host, all in the network `net`: `c0` on the first, and so on.
fn with_containers(cluster: &Cluster) -> Vec<String> {
    cluster.labs[0].ok(&["network", "create", "-d", "overlay", "net"]);
    for (index, lab) in cluster.labs.iter().enumerate() {
        lab.run_idle(&format!("c{index}"), &["--net=net"]);
    }
    wait_for_all_names(cluster);
    let addresses =
        cluster.labs.iter().enumerate().map(|(index, lab)| lab.address(&format!("c{index}"), "net"));
    addresses.collect()
}

fn wait_for_all_names(cluster: &Cluster) {
    for (index, lab) in cluster.labs.iter().enumerate() {
        eventually("every container knows the others", || {
            let hosts = lab.exec_ok(&format!("c{index}"), &["cat", "/etc/hosts"]);
            let count = hosts.lines().filter(|line| line.ends_with(".net")).count();
            ensure!(count == cluster.labs.len(), "{hosts}");
            Ok(())
        });
    }
}

/// Hosts other than this one.
fn others(cluster: &Cluster, not: usize) -> Vec<usize> {
    (0..cluster.labs.len()).filter(|index| *index != not).collect()
}

fn node(lab: &Lab, name: &str) -> Option<Node> {
    let nodes: Vec<Node> = lab.http("GET", "/v1/nodes", "").parsed();
    nodes.into_iter().find(|node| node.name.as_str() == name)
}

fn wait_for_state(lab: &Lab, name: &str, state: NodeState) {
    eventually(&format!("{name} is {state:?}"), || {
        let found = node(lab, name).map(|node| node.state);
        ensure!(found == Some(state), "{found:?}");
        Ok(())
    });
}

fn eventually_reaches(lab: &Lab, container: &str, address: &str) {
    eventually(&format!("{container} reaches {address}"), || {
        let ping = lab.ping(container, address);
        ensure!(ping.received == 1, "{:?}", ping.output);
        Ok(())
    });
}

#[test]
fn the_death_of_the_leader_loses_nothing_between_the_others() {
    let mut cluster = Cluster::joined(3);
    let addresses = with_containers(&cluster);
    let leader = cluster.leader(0);
    let [one, two] = others(&cluster, leader)[..] else { panic!("there are two others") };
    let pinging = Pinging::start(&cluster.labs[one], &format!("c{one}"), &addresses[two]);
    cluster.labs[leader].kill9();
    // A write in spite of it, once there is a new leader.
    cluster.labs[one].ok(&["network", "create", "-d", "overlay", "after"]);
    wait_for_state(&cluster.labs[one], &format!("host{leader}"), NodeState::Down);
    pinging.wait_for_more(20);
    assert_eq!(pinging.losses(), 0);
    cluster.labs[leader].start();
    eventually_reaches(&cluster.labs[leader], &format!("c{leader}"), &addresses[one]);
    cluster.wait_until_settled();
    cluster.wait_until_equal();
    cluster.labs[leader].ok(&["network", "inspect", "after"]);
}

#[test]
fn a_stopped_leader_is_replaced_and_follows_when_it_goes_on() {
    let cluster = Cluster::joined(3);
    let addresses = with_containers(&cluster);
    let leader = cluster.leader(0);
    let [one, two] = others(&cluster, leader)[..] else { panic!("there are two others") };
    let pinging = Pinging::start(&cluster.labs[one], &format!("c{one}"), &addresses[two]);
    cluster.labs[leader].pause();
    cluster.labs[two].ok(&["network", "create", "-d", "overlay", "after"]);
    pinging.wait_for_more(20);
    cluster.labs[leader].resume();
    cluster.wait_until_settled();
    assert_eq!(pinging.losses(), 0);
    cluster.wait_until_equal();
    eventually_reaches(&cluster.labs[leader], &format!("c{leader}"), &addresses[one]);
}

#[test]
fn a_minority_forwards_and_refuses_to_write() {
    let mut cluster = Cluster::joined(3);
    let addresses = with_containers(&cluster);
    let alone = 2;
    cluster.labs[alone].run_idle("neighbour", &["--net=net"]);
    let beside = cluster.labs[alone].address("neighbour", "net");
    let inside = Pinging::start(&cluster.labs[alone], "c2", &beside);
    let outside = Pinging::start(&cluster.labs[0], "c0", &addresses[1]);
    cluster.set_cable(alone, false);
    for command in [
        &["network", "create", "-d", "overlay", "more"][..],
        &["run", "-d", "--net=net", "--name=late", "--", "true"],
        &["network", "rm", "net"],
        &["network", "connect", "net", "local"],
    ] {
        if command[1] == "connect" {
            // What needs nobody goes on: a container in a network of this host.
            cluster.labs[alone].run_idle("local", &[]);
        }
        let error = cluster.labs[alone].fails(command, 5);
        assert!(error.contains("no quorum"), "{error}");
    }
    cluster.labs[0].ok(&["network", "create", "-d", "overlay", "majority"]);
    // Ending works everywhere; the others hear of it when they can.
    cluster.labs[alone].ok(&["rm", "-f", "local"]);
    inside.wait_for_more(5);
    outside.wait_for_more(5);
    assert_eq!((inside.losses(), outside.losses()), (0, 0));
    // A new daemon knows the others from its log, and forwards as the one before.
    cluster.labs[alone].kill9();
    cluster.labs[alone].start();
    cluster.labs[alone].assert_reaches("c2", &beside);
    cluster.labs[alone].ok(&["rm", "-f", "neighbour"]);
    let status: ClusterStatus = cluster.labs[alone].http("GET", "/v1/cluster", "").parsed();
    assert_eq!((status.confirmed, status.leader), (Some(false), None), "{status:?}");

    cluster.set_cable(alone, true);
    cluster.wait_until_settled();
    cluster.wait_until_equal();
    cluster.labs[alone].ok(&["network", "inspect", "majority"]);
    eventually_reaches(&cluster.labs[alone], "c2", &addresses[0]);
    eventually("the address that was given up is free", || {
        let network = cluster.labs[0].inspect_network("net");
        ensure!(network.containers.values().all(|c| c.name != "neighbour"), "{network:?}");
        Ok(())
    });
}

#[test]
fn a_link_that_works_one_way_does_not_stop_the_cluster() {
    let cluster = Cluster::joined(3);
    let addresses = with_containers(&cluster);
    let leader = cluster.leader(0);
    let [one, two] = others(&cluster, leader)[..] else { panic!("there are two others") };
    let pinging = Pinging::start(&cluster.labs[one], &format!("c{one}"), &addresses[two]);
    cluster.set_one_way_cut(leader, one, true);
    cluster.labs[two].ok(&["network", "create", "-d", "overlay", "first"]);
    cluster.labs[leader].ok(&["network", "create", "-d", "overlay", "second"]);
    pinging.wait_for_more(20);
    assert_eq!(pinging.losses(), 0);
    cluster.set_one_way_cut(leader, one, false);
    cluster.wait_until_settled();
    cluster.wait_until_equal();
    cluster.labs[one].ok(&["network", "inspect", "first", "second"]);
}

#[test]
fn a_full_disk_stops_writes_and_nothing_else() {
    let fabric = Cluster::unjoined(2);
    let host = fabric.plug(2);
    host.sh(&format!("mkdir -p {DATA_DIR} && mount -t tmpfs -o size=24m tmpfs {DATA_DIR}"));
    let mut cluster = fabric;
    cluster.labs.push(daemon(host, 2, &[]));
    cluster.join_all();
    let addresses = with_containers(&cluster);
    let pinging = Pinging::start(&cluster.labs[2], "c2", &addresses[0]);
    let fill = format!("dd if=/dev/zero of={DATA_DIR}/filler bs=64k 2>/dev/null || true");
    cluster.labs[2].sh(&fill);
    // The others are a majority.
    for name in ["n1", "n2", "n3"] {
        cluster.labs[0].ok(&["network", "create", "-d", "overlay", name]);
    }
    let refused = cluster.labs[2].ctl(&["network", "create", "local"]);
    if refused.code != 0 {
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        assert!(refused.stderr.contains("space"), "{refused:?}");
    }
    pinging.wait_for_more(10);
    assert_eq!(pinging.losses(), 0);
    cluster.labs[2].sh(&format!("rm {DATA_DIR}/filler"));
    cluster.labs[2].kill9();
    cluster.labs[2].start();
    cluster.wait_until_settled();
    cluster.wait_until_equal();
    cluster.labs[2].ok(&["network", "create", "another"]);
    eventually_reaches(&cluster.labs[2], "c2", &addresses[1]);
}

#[test]
fn a_wiped_host_joins_again_under_its_name() {
    let mut cluster = Cluster::joined(3);
    with_containers(&cluster);
    cluster.labs[2].kill9();
    cluster.labs[2].sh(&format!("rm -rf {DATA_DIR}"));
    cluster.labs[2].start();
    let token = cluster.token();
    let (_, error) = cluster.labs[2].http("POST", "/v1/cluster/join", &join_request(&token)).error();
    assert!(error.contains("host2"), "{error}");
    // Its endpoints are kept for it until somebody says that it is gone.
    assert_eq!(cluster.labs[0].inspect_network("net").containers.len(), 3);
    cluster.labs[0].ok(&["node", "rm", "--force", "host2"]);
    assert_eq!(cluster.labs[0].inspect_network("net").containers.len(), 2);
    let joined = cluster.labs[2].http("POST", "/v1/cluster/join", &join_request(&token));
    assert_eq!(joined.status, 200, "{joined:?}");
    cluster.wait_until_settled();
    cluster.labs[2].run_idle("again", &["--net=net"]);
    cluster.labs[2].assert_reaches("again", "c0");
    cluster.wait_until_equal();
}

#[test]
fn a_removed_node_that_returns_is_fenced() {
    let mut cluster = Cluster::joined(3);
    let addresses = with_containers(&cluster);
    cluster.labs[2].kill9();
    wait_for_state(&cluster.labs[0], "host2", NodeState::Down);
    cluster.labs[0].ok(&["node", "rm", "--force", "host2"]);
    let ip = format!("--ip={}", addresses[2]);
    cluster.labs[0].run_idle("successor", &["--net=net", &ip]);
    cluster.labs[2].start();
    eventually("it is told that it is no member any more", || {
        let status = cluster.status(2);
        ensure!(status.membership == Membership::Fenced, "{status:?}");
        let reason = status.reason.unwrap_or_default();
        ensure!(reason.contains("removed from the cluster"), "{reason}");
        Ok(())
    });
    // Its container cannot use the address: it has no interface any more.
    eventually("the interface goes", || {
        let links = cluster.labs[2].exec_ok("c2", &["ls", "/sys/class/net"]);
        ensure!(links.trim() == "lo", "{links}");
        Ok(())
    });
    let pinging = Pinging::start(&cluster.labs[1], "c1", &addresses[2]);
    pinging.wait_for_more(10);
    assert_eq!(pinging.losses(), 0);
    let error = cluster.labs[2].fails(&["network", "create", "-d", "overlay", "mine"], 1);
    assert!(error.contains("removed from the cluster"), "{error}");

    let leave = cluster.labs[2].ctl(&["cluster", "leave", "--force"]);
    assert_eq!(leave.code, 0, "{leave:?}");
    let token = cluster.token();
    let joined = cluster.labs[2].http("POST", "/v1/cluster/join", &join_request(&token));
    assert_eq!(joined.status, 200, "{joined:?}");
    // The address is another one's. When it is free, the container has it again.
    cluster.labs[0].ok(&["rm", "-f", "successor"]);
    cluster.labs[2].ok(&["network", "disconnect", "net", "c2"]);
    cluster.labs[2].ok(&["network", "connect", &ip, "net", "c2"]);
    eventually_reaches(&cluster.labs[1], "c1", &addresses[2]);
}

#[test]
fn a_node_whose_address_changes_is_found_again() {
    let mut cluster = Cluster::joined(3);
    let addresses = with_containers(&cluster);
    assert_eq!(cluster.labs[2].term(), 0);
    cluster.labs[2].sh("ip address del 10.8.0.3/24 dev u0 && ip address add 10.8.0.33/24 dev u0");
    cluster.labs[2].start_with(&["--listen=10.8.0.33:7946", "--node-name=host2"]);
    eventually("the others know its address", || {
        let found = node(&cluster.labs[0], "host2").map(|n| (n.address.to_string(), n.vtep.to_string()));
        ensure!(found == Some(("10.8.0.33:7946".into(), "10.8.0.33".into())), "{found:?}");
        Ok(())
    });
    cluster.wait_until_settled();
    eventually_reaches(&cluster.labs[0], "c0", &addresses[2]);
    eventually_reaches(&cluster.labs[2], "c2", &addresses[1]);
    cluster.wait_until_equal();
}

/// Those that moved find the one that did not, and through it each other.
#[test]
fn two_of_three_nodes_whose_addresses_change_are_found_again() {
    let mut cluster = Cluster::joined(3);
    let addresses = with_containers(&cluster);
    for index in [1, 2] {
        assert_eq!(cluster.labs[index].term(), 0);
    }
    for index in [1, 2] {
        let (before, after) = (format!("10.8.0.{}", index + 1), format!("10.8.0.{0}{0}", index + 1));
        let move_address = format!("ip address del {before}/24 dev u0 && ip address add {after}/24 dev u0");
        cluster.labs[index].sh(&move_address);
        let (listen, name) = (format!("--listen={after}:7946"), format!("--node-name=host{index}"));
        cluster.labs[index].start_with(&[&listen, &name]);
    }
    for index in [1, 2] {
        eventually("all know the address", || {
            let expected = format!("10.8.0.{0}{0}:7946", index + 1);
            for lab in &cluster.labs {
                let found = node(lab, &format!("host{index}")).map(|node| node.address.to_string());
                ensure!(found.as_ref() == Some(&expected), "{found:?}");
            }
            Ok(())
        });
    }
    cluster.wait_until_settled();
    eventually_reaches(&cluster.labs[0], "c0", &addresses[1]);
    eventually_reaches(&cluster.labs[1], "c1", &addresses[2]);
    cluster.wait_until_equal();
}

#[test]
fn all_are_restarted_one_after_the_other() {
    let mut cluster = Cluster::joined(3);
    let addresses = with_containers(&cluster);
    for restarted in 0..3 {
        let [one, two] = others(&cluster, restarted)[..] else { panic!("there are two others") };
        let pinging = Pinging::start(&cluster.labs[one], &format!("c{one}"), &addresses[two]);
        assert_eq!(cluster.labs[restarted].term(), 0);
        cluster.labs[one].ok(&["network", "create", "-d", "overlay", &format!("while{restarted}")]);
        cluster.labs[restarted].start();
        cluster.wait_until_settled();
        eventually_reaches(&cluster.labs[restarted], &format!("c{restarted}"), &addresses[one]);
        assert_eq!(pinging.losses(), 0);
    }
    cluster.wait_until_equal();
}

#[test]
fn one_of_three_recovers_alone() {
    let mut cluster = Cluster::joined(3);
    let addresses = with_containers(&cluster);
    cluster.labs[0].run_idle("beside", &["--net=net"]);
    let beside = cluster.labs[0].address("beside", "net");
    for lost in [1, 2] {
        cluster.labs[lost].kill9();
    }
    wait_for_health(&cluster.labs[0], |health| !health.has_quorum);
    let error = cluster.labs[0].fails(&["network", "create", "-d", "overlay", "more"], 5);
    assert!(error.contains("no quorum"), "{error}");
    cluster.labs[0].assert_reaches("c0", &beside);
    let running = cluster.labs[0].ctl(&["cluster", "recover", "--force-new-cluster", "--data-dir", DATA_DIR]);
    assert_ne!(running.code, 0, "{running:?}");
    assert!(running.stderr.contains("vswitchd"), "{running:?}");
    assert_eq!(cluster.labs[0].term(), 0);
    cluster.labs[0].ok(&["cluster", "recover", "--force-new-cluster", "--data-dir", DATA_DIR]);
    cluster.labs[0].start();
    cluster.labs[0].ok(&["network", "create", "-d", "overlay", "more"]);
    cluster.labs[0].assert_reaches("c0", &beside);
    // Who comes back with what it had is refused, and can join anew.
    cluster.labs[1].start();
    eventually("the old member is told", || {
        let status = cluster.status(1);
        ensure!(status.membership == Membership::Fenced, "{status:?}");
        Ok(())
    });
    assert_eq!(cluster.labs[1].ctl(&["cluster", "leave", "--force"]).code, 0);
    let token = cluster.token();
    let joined = cluster.labs[1].http("POST", "/v1/cluster/join", &join_request(&token));
    assert_eq!(joined.status, 200, "{joined:?}");
    // Its container has its address again, since nobody else took it.
    eventually_reaches(&cluster.labs[1], "c1", &addresses[0]);
}

fn wait_for_health(lab: &Lab, is_so: impl Fn(&ClusterHealth) -> bool) {
    eventually("the health of the cluster", || {
        let health: ClusterHealth = lab.http("GET", "/v1/cluster/health", "").parsed();
        ensure!(is_so(&health), "{health:?}");
        Ok(())
    });
}
