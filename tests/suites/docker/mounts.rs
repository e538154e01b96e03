//! An engine whose mounts are its own, as with snap, in a container, or with `PrivateMounts=`: the paths that it names
//! lead nowhere for the daemon.

use super::*;

/// Whether the path that the engine has for a container's namespace is one for others, too.
fn is_visible(docker: &Docker, container: &str) -> bool {
    let key = docker.says("{{.NetworkSettings.SandboxKey}}", container);
    docker.run(&["nsenter", &format!("--net={key}"), "true"]).code == 0
}

#[test]
fn a_daemon_that_is_killed_finds_containers_by_their_processes() {
    let mut docker = Docker::with_own_mounts(&[]);
    docker.does(&["network", "create", "-d", "vswitch", "--subnet=10.7.0.0/24", "net"]);
    docker.starts("c1", &["--net=net"]);
    docker.starts("c2", &["--net=net"]);
    docker.assert_pings("c1", "c2");
    assert!(!is_visible(&docker, "c1"), "the engine has no mounts of its own");
    for killed in [true, false] {
        if killed {
            docker.kill9();
        } else {
            assert_eq!(docker.term(), 0);
        }
        docker.start();
        docker.wait_for_ping("c1", "10.7.0.3");
        docker.wait_for_ping("c2", "c1");
        eventually("all ports are up", || {
            let ports = docker.ok(&["port", "ls", "--format={{.container}} {{.up}}"]);
            ensure!(ports.lines().count() == 2 && !ports.contains("false"), "{ports}");
            Ok(())
        });
    }
    // A container that ends meanwhile is no other one's.
    docker.kill9();
    docker.does(&["rm", "-f", "c2"]);
    docker.starts("alone", &[]);
    docker.start();
    docker.wait_for_ping("c1", "10.7.0.1");
    docker.starts("c3", &["--net=net"]);
    docker.wait_for_ping("c3", "c1");
    docker.does(&["rm", "-f", "c1", "c3", "alone"]);
    docker.does(&["network", "rm", "net"]);
}
