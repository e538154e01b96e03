//! What ends without a word, on either side.

use super::*;

/// Two containers on a network of vswitch, which reach each other.
fn pair(docker: &Docker) {
    docker.does(&["network", "create", "-d", "vswitch", "net"]);
    docker.starts("c1", &["--net=net"]);
    docker.starts("c2", &["--net=net"]);
    docker.assert_pings("c1", "c2");
}

/// What `docker network inspect` says, all of it.
fn inspected(docker: &Docker, network: &str) -> Value {
    serde_json::from_str(&docker.does(&["network", "inspect", network])).expect("docker prints JSON")
}

#[test]
fn containers_outlive_a_daemon_that_is_killed() {
    let mut docker = Docker::new();
    pair(&docker);
    let before = inspected(&docker, "net");
    for killed in [true, false] {
        if killed {
            docker.kill9();
        } else {
            assert_eq!(docker.term(), 0);
        }
        docker.start();
        docker.assert_pings("c1", "172.18.0.3");
        docker.assert_pings("c2", "c1");
        assert_eq!(inspected(&docker, "net"), before);
    }
    // The interfaces are the daemon's as before: they go with their containers, and new ones come.
    docker.does(&["rm", "-f", "c2"]);
    docker.starts("c3", &["--net=net"]);
    docker.assert_pings("c3", "c1");
    docker.does(&["network", "disconnect", "net", "c1"]);
    docker.does(&["rm", "-f", "c3"]);
    docker.does(&["network", "rm", "net"]);
    docker.wait_until_nothing_is_left();
}

#[test]
fn a_container_outlives_nothing_of_what_was_its() {
    let mut docker = Docker::with(&["--docker-grace-s=2"]);
    pair(&docker);
    // It ends while there is nobody to tell.
    docker.kill9();
    docker.does(&["kill", "c2"]);
    docker.start();
    docker.does(&["rm", "-f", "c1", "c2"]);
    docker.does(&["network", "rm", "net"]);
    docker.wait_until_nothing_is_left();
}

#[test]
fn a_network_goes_with_the_endpoints_that_nobody_told_the_end_of() {
    let mut docker = Docker::new();
    let create = ["network", "create", "-d", "vswitch", "--subnet=10.7.0.0/24", "net"];
    docker.does(&create);
    docker.starts("c1", &["--net=net"]);
    docker.kill9();
    docker.does(&["rm", "-f", "c1"]);
    docker.start();
    docker.does(&["network", "rm", "net"]);
    docker.does(&create);
    docker.starts("c2", &["--net=net"]);
    docker.assert_pings("c2", "10.7.0.1");
    let networks = docker.ok(&["network", "ls", "--format={{.Name}}"]);
    assert_eq!(networks.lines().count(), 4, "{networks}");
    docker.does(&["rm", "-f", "c2"]);
    docker.does(&["network", "rm", "net"]);
    docker.wait_until_nothing_is_left();
}

#[test]
fn an_engine_that_is_killed_finds_its_networks_again() {
    let mut docker = Docker::with(&["--docker-grace-s=2"]);
    pair(&docker);
    let (id, subnet) = (docker.says("{{.Id}}", "net"), "172.18.0.0/16");
    docker.kill9_engine();
    docker.start_engine();
    let format = "{{.Id}} {{(index .IPAM.Config 0).Subnet}}";
    assert_eq!(docker.does(&["network", "inspect", "--format", format, "net"]), format!("{id} {subnet}"));
    // The engine ends what it cannot watch any more; it starts again as before.
    docker.does(&["start", "c1", "c2"]);
    docker.assert_pings("c1", "c2");
    docker.does(&["rm", "-f", "c1", "c2"]);
    docker.does(&["network", "rm", "net"]);
    docker.wait_until_nothing_is_left();
}

#[test]
fn what_an_engine_has_forgotten_is_taken_away() {
    let mut docker = Docker::with(&["--docker-grace-s=2"]);
    pair(&docker);
    docker.does(&["network", "create", "-d", "vswitch", "--ipam-driver=vswitch", "other"]);
    let events = vswitch_tests::http::Request::new("GET", "/v1/events").events(&docker.socket());
    let mut events = events.expect("there are events");
    docker.lose_engine();
    docker.start_engine();
    let mut reclaimed: Vec<String> = Vec::new();
    while reclaimed.len() < 5 {
        let event = events.until(|event| event.kind == "docker").pop().expect("until returns the last one");
        assert_eq!(event.action, "reclaim");
        reclaimed.push(event.attributes["what"].clone());
    }
    reclaimed.sort();
    assert_eq!(reclaimed, ["endpoint", "endpoint", "network", "network", "pool"]);
    docker.wait_until_nothing_is_left();
    assert!(docker.log().contains("the Docker engine has forgotten it"));
    let networks = docker.ok(&["network", "ls", "--format={{.Name}}"]);
    assert_eq!(networks.lines().count(), 3, "{networks}");
}

#[test]
fn an_engine_that_has_lost_all_gets_its_subnets_again() {
    let mut docker = Docker::with(&["--docker-grace-s=600"]);
    pair(&docker);
    docker.wait_for_network("net");
    docker.run_idle("guest", &["--net=net"]);
    let lost = docker.says("{{.Id}}", "net");
    let events = vswitch_tests::http::Request::new("GET", "/v1/events").events(&docker.socket());
    let mut events = events.expect("there are events");
    docker.lose_engine();
    docker.start_engine();
    docker.imports_image();
    // Not at once, since an engine does not list a network while it makes it.
    eventually("the subnet is free", || {
        let made = docker.docker(&["network", "create", "-d", "vswitch", "--subnet=172.18.0.0/16", "net"]);
        ensure!(made.code == 0, "{made:?}");
        Ok(())
    });
    let reclaimed = events.until(|event| {
        event.kind == "docker" && event.action == "reclaim" && event.attributes["what"] == "network"
    });
    assert_eq!(reclaimed.last().map(|event| event.id.as_str()), Some(lost.as_str()));
    docker.starts("c1", &["--net=net"]);
    docker.starts("c2", &["--net=net"]);
    docker.assert_pings("c1", "c2");
    // It is as if that engine had removed it.
    assert!(docker.inspect("guest").network_settings.networks.is_empty());
    docker.does(&["rm", "-f", "c1", "c2"]);
    docker.does(&["network", "rm", "net"]);
    docker.ok(&["rm", "-f", "guest"]);
    docker.wait_until_nothing_is_left();
}

#[test]
fn what_a_lost_engine_has_left_can_be_removed() {
    let mut docker = Docker::with(&["--docker-grace-s=600"]);
    pair(&docker);
    docker.wait_for_network("net");
    let refused = |docker: &Docker| {
        let refused = docker.ctl(&["network", "rm", "-f", "net"]);
        ensure!(refused.code != 0 && refused.stderr.contains("docker network rm"), "{refused:?}");
        Ok(())
    };
    eventually("the engine has the network", || refused(&docker));
    docker.lose_engine();
    assert!(docker.ctl(&["network", "rm", "net"]).stderr.contains("rm -f"));
    eventually("the engine is missed", || {
        let removed = docker.ctl(&["network", "rm", "-f", "net"]);
        ensure!(removed.code == 0, "{removed:?}");
        Ok(())
    });
    docker.wait_until_nothing_is_left();
}

#[test]
fn what_an_engine_has_is_not_taken_while_it_restarts() {
    let mut docker = Docker::new();
    docker.does(&["network", "create", "-d", "vswitch", "net"]);
    docker.wait_for_network("net");
    let refused = |docker: &Docker, part: &str| {
        let refused = docker.ctl(&["network", "rm", "-f", "net"]);
        ensure!(refused.code != 0 && refused.stderr.contains(part), "{refused:?}");
        Ok(())
    };
    docker.kill9_engine();
    eventually("it is missed", || refused(&docker, "try again"));
    refused(&docker, "try again").expect("it may come back");
    docker.start_engine();
    eventually("it has the network", || refused(&docker, "use docker network rm"));
    // Nor where no engine is served: then it is asked.
    docker.term();
    docker.start_with(&["--log-level=debug"]);
    refused(&docker, "use docker network rm").expect("the engine has the network");
    docker.kill9_engine();
    refused(&docker, "try again").expect("it may come back");
}

#[test]
fn an_engine_may_start_first() {
    let mut docker = Docker::new();
    pair(&docker);
    docker.term();
    docker.kill9_engine();
    docker.spawn_engine();
    docker.wait_for_engine();
    // It has its network, and cannot use it.
    let message = docker.refuses(&["run", "--rm", "--net=net", "busybox", "true"]);
    assert!(message.contains("vswitch"), "{message}");
    docker.start();
    docker.does(&["start", "c1", "c2"]);
    docker.assert_pings("c1", "c2");
}

#[test]
fn an_engine_that_is_killed_brings_back_what_always_restarts() {
    let mut docker = Docker::with(&["--docker-grace-s=2"]);
    docker.does(&["network", "create", "-d", "vswitch", "net"]);
    let before = ["c1", "c2"].map(|container| {
        docker.starts(container, &["--net=net", "--restart=always"]);
        docker.started(container)
    });
    docker.kill9_engine();
    docker.start_engine();
    docker.wait_for_restart("c1", &before[0]);
    docker.wait_for_restart("c2", &before[1]);
    docker.assert_pings("c1", "c2");
    docker.does(&["rm", "-f", "c1", "c2"]);
    docker.does(&["network", "rm", "net"]);
    docker.wait_until_nothing_is_left();
}

/// As with the units that are installed: the host starts, and vswitchd is the last.
#[test]
fn calls_of_an_engine_that_starts_first_wait_in_the_socket() {
    let mut docker = Docker::activated(&[]);
    let mut first = docker.spawns(&["network", "create", "-d", "vswitch", "net"]);
    docker.wait_for_caller();
    docker.start();
    assert_eq!(first.wait(), 0, "{}", first.output());
    docker.starts("c1", &["--net=net", "--restart=always"]);
    docker.starts("c2", &["--net=net", "--restart=always"]);
    docker.assert_pings("c1", "c2");
    let before = ["c1", "c2"].map(|container| docker.started(container));

    assert_eq!(docker.term(), 0);
    docker.kill9_engine();
    docker.spawn_engine();
    docker.wait_for_caller();
    docker.start();
    docker.wait_for_engine();
    docker.wait_for_restart("c1", &before[0]);
    docker.wait_for_restart("c2", &before[1]);
    docker.assert_pings("c1", "c2");
    docker.assert_pings("c2", "172.18.0.1");
}

#[test]
fn a_container_that_is_killed_while_it_starts_leaves_nothing() {
    let docker = Docker::with(&["--docker-grace-s=2"]);
    docker.does(&["network", "create", "-d", "vswitch", "net"]);
    // Wherever each of them is by then.
    docker.sh("for i in 1 2 3 4 5 6; do \
           docker run -d --net=net --name=v$i busybox sleep 1000 >/dev/null 2>&1 & \
           sleep 0.$i; docker rm -f v$i >/dev/null 2>&1 || true; \
         done; wait; docker ps -aq | xargs -r docker rm -f >/dev/null");
    docker.wait_until_nothing_is_left();
    docker.does(&["network", "rm", "net"]);
}

#[test]
fn fifty_containers_at_once() {
    let docker = Docker::new();
    docker.does(&["network", "create", "-d", "vswitch", "net"]);
    // Judged by the exit code: the client also writes warnings, such as that it stopped to wait for the container.
    let failed = docker.sh("for i in $(seq 50); do \
           { out=$(docker run -d --net=net --name=c$i busybox sleep 1000 2>&1) || echo \"c$i: $out\"; } & \
         done; wait");
    assert!(failed.is_empty(), "a run has failed: {failed}");
    let members = docker.members("net");
    assert_eq!(members.len(), 50, "{members:?}");
    let mut addresses: Vec<&str> = members.iter().filter_map(|m| m.split(' ').nth(1)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 50, "{members:?}");
    for i in [2, 17, 50] {
        docker.assert_pings("c1", &format!("c{i}"));
    }
    eventually("all have their names", || {
        let named = docker.ok(&["ps", "--format={{.Names}}"]);
        let count = named.lines().filter(|name| name.starts_with('c')).count();
        ensure!(count == 50, "{named}");
        Ok(())
    });
    docker.sh("docker ps -aq | xargs docker rm -f >/dev/null");
    // The network is not removed: engine 20.10 now and then goes on counting an endpoint of those that end at once,
    // though every call about them succeeded.
    docker.wait_until_nothing_is_left();
}
