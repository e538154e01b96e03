//! Names across hosts, where Docker's own resolver has several servers to ask.

use super::*;

/// Makes a shared network on this host, under a name of its own.
fn share(docker: &Docker, network: &str, subnet: &str, name: &str) {
    docker.does(&[
        "network",
        "create",
        "--driver=vswitch",
        "--ipam-driver=vswitch",
        &format!("--opt=vswitch.network={network}"),
        &format!("--ipam-opt=vswitch.network={network}"),
        &format!("--subnet={subnet}"),
        name,
    ]);
}

#[test]
fn a_container_finds_names_of_each_of_its_networks() {
    let (hosts, _fabric) = hosts::engines(&[], 2);
    let [one, two] = &hosts[..] else { panic!("there are two") };
    for (docker, red) in [(one, "front"), (two, "red")] {
        share(docker, "blue", "10.0.0.0/24", "blue");
        share(docker, "red", "10.1.0.0/24", red);
    }
    two.starts("b1", &["--net=blue"]);
    two.starts("r1", &["--net=red"]);
    one.starts("both", &["--net=blue", "--dns=10.0.0.1", "--dns=10.1.0.1"]);
    one.does(&["network", "connect", "front", "both"]);
    one.wait_for_ping("both", "b1");
    // The first server does not know it.
    one.wait_for_ping("both", "r1");
    for name in ["b1.blue", "r1.red"] {
        one.assert_pings("both", name);
    }
    // As Docker calls the network on this host, and not on the other.
    one.wait_for_ping("both", "r1.front");
    two.starts("r2", &["--net=red"]);
    for (docker, container, name) in
        [(two, "r2", "b1"), (two, "r2", "r1.front"), (one, "both", "nosuch"), (one, "both", "nosuch.blue")]
    {
        let unknown = docker.docker(&["exec", container, "ping", "-c", "1", name]);
        assert!(unknown.stderr.contains("bad address"), "{unknown:?}");
    }
    for host in [one, two] {
        host.sh("docker ps -aq | xargs -r docker rm -f");
        host.wait_until_nothing_is_left();
    }
}
