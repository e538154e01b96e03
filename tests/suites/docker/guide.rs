//! Docker's networking guide of 2015 from "User defined Networks" on, with vswitch as the driver.

use super::*;

/// Names with drivers, sorted.
fn networks(docker: &Docker) -> Vec<String> {
    let listed = docker.does(&["network", "ls", "--format={{.Name}} {{.Driver}}"]);
    let mut networks: Vec<String> = listed.lines().map(String::from).collect();
    networks.sort();
    networks
}

#[test]
fn the_guide() {
    let docker = Docker::new();
    for name in ["container1", "container2"] {
        docker.starts(name, &[]);
    }
    an_isolated_network(&docker);
    a_second_network_for_container2(&docker);
    container3_reaches_container2_only(&docker);
    container2_leaves_again(&docker);
    the_network_is_removed(&docker);
}

fn an_isolated_network(docker: &Docker) {
    let id = docker.does(&["network", "create", "-d", "vswitch", "isolated_nw"]);
    assert_eq!(docker.says("{{.Id}} {{.Driver}} {{.Scope}}", "isolated_nw"), format!("{id} vswitch local"));
    assert!(docker.members("isolated_nw").is_empty());
    let all = ["bridge bridge", "host host", "isolated_nw vswitch", "none null"];
    assert_eq!(networks(docker), all);
    docker.starts("container3", &["--net=isolated_nw"]);
    assert_eq!(docker.members("isolated_nw"), ["container3 172.18.0.2/16 02:42:ac:12:00:02"]);
}

fn a_second_network_for_container2(docker: &Docker) {
    docker.does(&["network", "connect", "isolated_nw", "container2"]);
    let expected =
        ["container2 172.18.0.3/16 02:42:ac:12:00:03", "container3 172.18.0.2/16 02:42:ac:12:00:02"];
    assert_eq!(docker.members("isolated_nw"), expected);
    let names = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}";
    assert_eq!(docker.says(names, "container2"), "bridge isolated_nw ");
    let ifconfig = docker.within("container2", &["ifconfig"]);
    for expected in ["eth0 ", "eth1 ", "HWaddr 02:42:AC:12:00:03", "inet addr:172.18.0.3 ", "MTU:1500"] {
        assert!(ifconfig.contains(expected), "no `{expected}` in {ifconfig}");
    }
}

fn container3_reaches_container2_only(docker: &Docker) {
    let ifconfig = docker.within("container3", &["ifconfig"]);
    assert!(ifconfig.contains("eth0 ") && !ifconfig.contains("eth1 "), "one interface, in {ifconfig}");
    docker.assert_pings("container3", "container2.isolated_nw");
    docker.assert_pings("container3", "container2");
    docker.assert_pings("container2", "container3");
    docker.assert_pings("container3", "172.18.0.1");
    let by_name = docker.docker(&["exec", "container3", "ping", "-c", "1", "container1"]);
    assert_eq!((by_name.code, by_name.stdout.as_str()), (1, ""), "{by_name:?}");
    assert_eq!(by_name.stderr.trim_end(), "ping: bad address 'container1'");
    for address in ["172.17.0.2", "172.17.0.3"] {
        docker.assert_pings_in_vain("container3", address);
    }
    docker.assert_pings("container2", "172.17.0.2");
}

fn container2_leaves_again(docker: &Docker) {
    docker.does(&["network", "disconnect", "isolated_nw", "container2"]);
    assert_eq!(docker.members("isolated_nw"), ["container3 172.18.0.2/16 02:42:ac:12:00:02"]);
    let ifconfig = docker.within("container2", &["ifconfig", "-a"]);
    assert!(ifconfig.contains("eth0 ") && !ifconfig.contains("eth1 "), "{ifconfig}");
    docker.assert_pings_in_vain("container2", "172.18.0.2");
    docker.assert_pings("container2", "172.17.0.2");
}

fn the_network_is_removed(docker: &Docker) {
    assert!(docker.refuses(&["network", "rm", "isolated_nw"]).contains("active endpoints"));
    docker.does(&["stop", "-t", "0", "container3"]);
    assert!(docker.members("isolated_nw").is_empty());
    docker.does(&["rm", "container3"]);
    docker.does(&["network", "rm", "isolated_nw"]);
    assert_eq!(networks(docker), ["bridge bridge", "host host", "none null"]);
    docker.wait_until_nothing_is_left();
    let mut ours: Vec<String> =
        docker.ok(&["network", "ls", "--format={{.Name}}"]).lines().map(String::from).collect();
    ours.sort();
    assert_eq!(ours, ["bridge", "host", "none"]);
}
