//! Address pools, whose end the engine tells before that of their network.

use super::*;

fn create(docker: &Docker, options: &[&str]) -> vswitch_tests::process::Output {
    let fixed = ["network", "create", "-d", "vswitch", "--ipam-driver=vswitch"];
    docker.docker(&[&fixed, options, &["n"]].concat())
}

#[test]
fn a_subnet_is_free_as_soon_as_its_network_is_gone() {
    let docker = Docker::new();
    for subnet in ["10.99.0.0/16", "10.99.0.0/24", "10.99.0.0/16"] {
        let created = create(&docker, &["--subnet", subnet]);
        assert_eq!(created.code, 0, "{subnet}: {created:?}");
        docker.starts("c1", &["--net=n"]);
        docker.assert_pings("c1", "10.99.0.1");
        docker.does(&["rm", "-f", "c1"]);
        docker.does(&["network", "rm", "n"]);
    }
    // Both families, and more rounds than there are subnets that are chosen.
    for round in 0..30 {
        let ipv6: &[&str] = if round % 3 == 0 { &["--ipv6", "--subnet=fd99::/64"] } else { &[] };
        let created = create(&docker, ipv6);
        assert_eq!(created.code, 0, "round {round}: {created:?}");
        docker.does(&["network", "rm", "n"]);
    }
    // And beside a container of the lab runner, which goes from the network with it.
    assert_eq!(create(&docker, &["--subnet=10.99.0.0/16"]).code, 0);
    docker.wait_for_network("n");
    docker.run_idle("guest", &["--net=n"]);
    docker.does(&["network", "rm", "n"]);
    assert_eq!(create(&docker, &["--subnet=10.99.0.0/24"]).code, 0);
    docker.does(&["network", "rm", "n"]);
    docker.ok(&["rm", "-f", "guest"]);
    docker.wait_until_nothing_is_left();
}
