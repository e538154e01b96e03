//! What the data plane of a host cannot do is told on every host: by `run` and `network connect` on an overlay network,
//! by `node ls` and by `cluster health`.

use anyhow::ensure;
use vswitch_proto::api::{ClusterHealth, Problem, ProblemArea};
use vswitch_tests::cluster::daemon;
use vswitch_tests::wait::eventually;
use vswitch_tests::{Cluster, Lab};

/// Two hosts in one cluster, the second of them prepared by `prepare` and started with `arguments`.
fn pair(prepare: &str, arguments: &[&str]) -> Cluster {
    let mut cluster = Cluster::unjoined(1);
    let host = cluster.plug(1);
    host.sh(prepare);
    cluster.labs.push(daemon(host, 1, arguments));
    cluster.join_all();
    cluster
}

/// Until the health that one host shows has a line with all of these texts, among what is wrong.
fn wait_for_problem(lab: &Lab, texts: &[&str]) {
    eventually(&format!("health tells of {texts:?}"), || {
        let health: ClusterHealth = lab.http("GET", "/v1/cluster/health", "").parsed();
        let is_told = |line: &String| texts.iter().all(|text| line.contains(text));
        ensure!(health.problems.iter().any(is_told), "{:?}", health.problems);
        Ok(())
    });
    let shown = lab.ctl(&["cluster", "health"]);
    assert_eq!(shown.code, 1, "{shown:?}");
}

fn wait_for_no_problem(lab: &Lab) {
    eventually("health is good", || {
        let shown = lab.ctl(&["cluster", "health"]);
        ensure!(shown.code == 0 && shown.stdout.contains("No problems.\n"), "{shown:?}");
        Ok(())
    });
}

fn problems(lab: &Lab) -> Vec<Problem> {
    lab.http("GET", "/v1/problems", "").parsed()
}

#[test]
fn a_tunnel_port_that_the_kernel_has_is_told_on_all_hosts_until_it_is_free() {
    let cluster = pair("ip link add vx0 type vxlan id 7 dstport 4789 dev u0 && ip link set vx0 up", &[]);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "net"]);
    wait_for_problem(one, &["node host1: no tunnels", "port 4789", "is in use"]);
    wait_for_problem(two, &["node host1: no tunnels", "port 4789"]);
    for lab in [one, two] {
        let listed = lab.ctl(&["node", "ls"]);
        assert_eq!(listed.code, 0, "{listed:?}");
        let line = |name: &str| listed.stdout.lines().find(|line| line.contains(name)).unwrap().to_owned();
        assert!(line("host1 ").contains(" Degraded "), "{listed:?}");
        assert!(line("host0 ").contains(" Ready "), "{listed:?}");
        assert!(listed.stderr.contains("warning: node host1: no tunnels"), "{listed:?}");
    }
    // On the host that it is about; the container runs, and reaches its neighbours.
    let ran = two.ctl(&["run", "-d", "--name=c1", "--net=net", "--", "sleep", "1000000"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("warning: no tunnels") && ran.stderr.contains("4789"), "{ran:?}");
    two.run_idle("c2", &[]);
    let connected = two.ctl(&["network", "connect", "net", "c2"]);
    assert_eq!(connected.code, 0, "{connected:?}");
    assert!(connected.stderr.contains("warning: no tunnels"), "{connected:?}");
    two.assert_reaches("c1", &two.address("c2", "net"));
    let elsewhere = one.ctl(&["run", "-d", "--name=c0", "--net=net", "--", "sleep", "1000000"]);
    assert_eq!((elsewhere.code, elsewhere.stderr.as_str()), (0, ""), "{elsewhere:?}");

    two.sh("ip link del vx0");
    wait_for_no_problem(one);
    assert!(problems(two).iter().all(|problem| problem.area != ProblemArea::Tunnels));
    let again = two.ctl(&["run", "-d", "--net=net", "--", "sleep", "1000000"]);
    assert_eq!((again.code, again.stderr.as_str()), (0, ""), "{again:?}");
    one.assert_reaches("c0", &two.address("c1", "net"));
}

#[test]
fn a_tunnel_address_that_is_not_the_hosts_is_told() {
    let cluster = pair("", &["--vtep=10.8.77.1"]);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    wait_for_problem(one, &["node host1: no tunnels", "10.8.77.1 is not an address of this host"]);
    one.ok(&["network", "create", "-d", "overlay", "net"]);
    let ran = two.ctl(&["run", "-d", "--net=net", "--", "sleep", "1000000"]);
    assert!(ran.code == 0 && ran.stderr.contains("10.8.77.1 is not an address"), "{ran:?}");
    // It comes later, as with an interface that is slow, and goes again.
    two.sh("ip address add 10.8.77.1/32 dev u0");
    wait_for_no_problem(one);
    two.sh("ip address del 10.8.77.1/32 dev u0");
    wait_for_problem(one, &["node host1: no tunnels", "not an address of this host any more"]);
}

#[test]
fn a_network_between_hosts_that_takes_less_than_was_said_is_told() {
    let cluster = pair("ip link set u0 mtu 1400", &["--underlay-mtu=1500"]);
    wait_for_problem(&cluster.labs[0], &["node host1: ", "--underlay-mtu 1500 is more than the 1400"]);
    let cluster = pair("ip link set u0 mtu 1280", &[]);
    let shown = cluster.labs[0].ctl(&["cluster", "health"]);
    assert_eq!(shown.code, 0, "it works with less: {shown:?}");
    assert!(shown.stdout.contains("Warnings:\n  - node host1: "), "{shown:?}");
    assert!(shown.stdout.contains("an MTU of 1280 bytes"), "{shown:?}");
}

#[test]
fn a_host_without_the_device_for_interfaces_is_told() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    wait_for_no_problem(one);
    two.sh("mount -t tmpfs tmpfs /dev/net");
    wait_for_problem(one, &["node host1: no interface can be made", "/dev/net/tun"]);
    two.sh("umount /dev/net");
    wait_for_no_problem(one);
}
