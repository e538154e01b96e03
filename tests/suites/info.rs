//! `vswitchctl info`: the daemon and its host at a glance.

use anyhow::ensure;
use vswitch_proto::api::Info;
use vswitch_tests::wait::eventually;
use vswitch_tests::{Cluster, Host, Lab};

fn info(lab: &Lab) -> Info {
    let json = lab.ok(&["info", "--format", "json"]);
    serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json}"))
}

#[test]
fn what_there_is_is_counted() {
    let lab =
        Lab::with(Host::new(), &["--node-name=lab-one", "--engine=epoll", "--workers=2", "--storm-limit=0"]);
    lab.ok(&["network", "create", "net"]);
    lab.run_idle("a", &[]);
    lab.run_idle("b", &["--net=net"]);
    lab.ok(&["run", "-d", "--name=ended", "--", "true"]);
    lab.wait_until_exited("ended");
    let seen = info(&lab);
    assert_eq!((seen.name.as_str(), seen.containers, seen.containers_running), ("lab-one", 3, 2));
    assert_eq!((seen.containers_stopped, seen.containers_created), (1, 0));
    assert_eq!(
        (seen.networks, seen.networks_by_driver["bridge"], seen.networks_by_driver["null"]),
        (4, 2, 1)
    );
    assert_eq!((seen.ports, seen.ports_down), (2, 0));
    let plane = &seen.data_plane;
    assert_eq!((plane.engine.as_str(), plane.workers, plane.storm_limit), ("epoll", 2, 0));
    assert!(plane.engine_reason.contains("--engine"), "{plane:?}");
    assert_eq!((seen.cluster.state.as_str(), seen.docker.state.as_str()), ("alone", "off"));
    assert!(seen.limits.connections >= 1 && seen.limits.connections_max >= 16, "{:?}", seen.limits);
    assert!(seen.limits.descriptors > 0 && seen.kernel_features["tun"], "{seen:?}");
    assert_eq!((seen.data_dir.as_str(), seen.warnings.as_slice()), ("/tmp/vswitch", &[][..]));

    let text = lab.ok(&["info"]);
    for line in [
        " Containers: 3\n  Running: 2\n",
        "  Engine: epoll (asked for, with --engine or --no-uring)\n",
        " Cluster: alone\n",
        " Docker Plugin: off\n",
        " Name: lab-one\n",
        "  Storm Limit: none\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    let template = "{{.ContainersRunning}} {{.DataPlane.Engine}} {{.ServerVersion}} {{.Cluster.HasQuorum}}";
    assert_eq!(lab.ok(&["info", "-f", template]), format!("2 epoll {} false\n", env!("CARGO_PKG_VERSION")));
    lab.fails(&["info", "--format", "{{.NoSuchKey}}"], 2);
}

#[test]
fn what_is_wrong_is_a_warning() {
    let lab = Lab::with(Host::new(), &["--docker-plugin", "--docker-host=unix:///tmp/nobody.sock"]);
    eventually("the engine is missed", || {
        let seen = info(&lab);
        ensure!(seen.docker.state == "away", "{:?}", seen.docker);
        ensure!(seen.warnings.iter().any(|line| line.contains("/tmp/nobody.sock")), "{:?}", seen.warnings);
        Ok(())
    });
    let shown = lab.ctl(&["info"]);
    assert_eq!(shown.code, 0);
    assert!(shown.stdout.contains(" Docker Plugin: away\n  Socket: /run/docker/plugins/"), "{shown:?}");
    assert!(shown.stderr.starts_with("vswitchctl: warning: the Docker engine does not answer"), "{shown:?}");
}

#[test]
fn a_member_of_a_cluster_says_who_leads() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    for lab in [one, two] {
        let seen = eventually("a leader is known", || {
            let seen = info(lab);
            ensure!(seen.cluster.has_quorum && seen.cluster.role == "voter", "{:?}", seen.cluster);
            Ok(seen)
        });
        assert_eq!((seen.cluster.state.as_str(), seen.cluster.voters), ("member", 2));
        assert!(["host0", "host1"].contains(&seen.cluster.leader.as_str()), "{:?}", seen.cluster);
        assert!(!seen.data_plane.vtep.is_empty(), "{:?}", seen.data_plane);
    }
    // Without the other one there is no majority.
    cluster.set_cable(1, false);
    eventually("the loss is told", || {
        let seen = info(two);
        ensure!(!seen.cluster.has_quorum, "{:?}", seen.cluster);
        ensure!(seen.warnings.iter().any(|line| line.contains("cluster health")), "{:?}", seen.warnings);
        Ok(())
    });
}
