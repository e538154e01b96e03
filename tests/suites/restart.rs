//! Daemons that are killed, ended and started again; and that nothing is left over.

use std::thread;

use anyhow::ensure;
use vswitch_proto::api::Container;
use vswitch_tests::Lab;
use vswitch_tests::ctl::only_line;
use vswitch_tests::footprint::Footprint;
use vswitch_tests::lab::DATA_DIR;
use vswitch_tests::wait::eventually;

/// Networks and containers as `inspect` shows them.
fn everything(lab: &Lab) -> Vec<String> {
    let mut shown = vec![lab.ok(&["network", "inspect", "bridge", "net", "host", "none"])];
    for name in ["a", "b", "c"] {
        shown.push(lab.ok(&["inspect", name]));
    }
    shown
}

/// A lab with containers a, b and c in two networks; a pings b all the time.
fn populated() -> Lab {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--ipv6", "--subnet", "10.6.0.0/24", "--subnet", "fd00:6::/64", "net"]);
    lab.run_idle("b", &[]);
    lab.ok(&["network", "connect", "--alias", "bee", "net", "b"]);
    lab.run_idle("c", &["--net=net"]);
    lab.ok(&["run", "-d", "--name=a", "--", "busybox", "ping", "-i", "0.1", "b"]);
    lab.assert_reaches("b", "c");
    lab
}

/// How many answers a's ping has had.
fn answers(lab: &Lab) -> usize {
    lab.ok(&["logs", "a"]).lines().filter(|line| line.contains("bytes from")).count()
}

fn wait_for_answers(lab: &Lab, more_than: usize) {
    eventually("the running ping gets answers", || {
        let now = answers(lab);
        ensure!(now > more_than, "{now} answers");
        Ok(())
    });
}

#[test]
fn killed_and_started_again_everything_is_as_before() {
    let mut lab = populated();
    wait_for_answers(&lab, 3);
    let before = everything(&lab);
    for _ in 0..2 {
        lab.kill9();
        lab.start();
        assert_eq!(everything(&lab), before);
        let at_start = answers(&lab);
        wait_for_answers(&lab, at_start + 3);
        lab.assert_reaches("b", "c.net");
        assert!(lab.exec_ok("c", &["cat", "/etc/hosts"]).contains("\tbee"));
    }
    // The new daemon can do with them what the old one could.
    lab.ok(&["network", "disconnect", "net", "b"]);
    lab.assert_cannot_reach("c", "10.6.0.2");
    lab.ok(&["network", "connect", "net", "b"]);
    lab.assert_reaches("c", "b");
    lab.run_idle("d", &[]);
    lab.assert_reaches("d", "a");
}

#[test]
fn sigterm_ends_the_daemon_and_no_container() {
    let mut lab = populated();
    wait_for_answers(&lab, 3);
    let before = everything(&lab);
    assert_eq!(lab.term(), 0, "{}", lab.log());
    for name in ["a", "b", "c"] {
        let shown = before.iter().find(|json| json.contains(&format!("\"Name\": \"/{name}\""))).unwrap();
        let container: Vec<Container> = serde_json::from_str(shown).unwrap();
        assert!(lab.path(format!("/proc/{}/ns", container[0].state.pid)).exists(), "{name} runs on");
    }
    lab.start();
    assert_eq!(everything(&lab), before);
    let at_start = answers(&lab);
    wait_for_answers(&lab, at_start + 3);
}

#[test]
fn containers_that_end_while_the_daemon_is_down_are_found_ended() {
    let mut lab = Lab::new();
    let ends_with_7 = "trap 'exit 7' TERM; echo ready; while :; do sleep 100000 & wait $!; done";
    lab.ok(&["run", "-d", "--name=seven", "--", "sh", "-c", ends_with_7]);
    lab.run_idle("killed", &[]);
    lab.ok(&["run", "-d", "--rm", "--name=removed", "--", "sleep", "100000"]);
    lab.run_idle("stays", &[]);
    eventually("the trap is set", || {
        ensure!(lab.ok(&["logs", "seven"]) == "ready\n");
        Ok(())
    });
    let pids = ["seven", "killed", "removed"].map(|name| lab.inspect(name).state.pid);
    lab.kill9();
    for (pid, signal) in pids.into_iter().zip(["TERM", "KILL", "KILL"]) {
        lab.sh(&format!("kill -s {signal} {pid}"));
    }
    for pid in pids {
        eventually("the process is gone", || {
            ensure!(!lab.path(format!("/proc/{pid}/ns/net")).exists());
            Ok(())
        });
    }
    lab.start();
    assert_eq!(lab.wait_until_exited("seven"), 7);
    assert_eq!(lab.wait_until_exited("killed"), 137);
    lab.wait_until_gone("removed");
    let rows = lab.ok(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]);
    assert!(rows.contains("seven Exited (7)") && rows.contains("killed Exited (137)"), "{rows}");
    assert!(lab.inspect("stays").state.running);
    let members: Vec<_> = lab.inspect_network("bridge").containers.into_values().map(|c| c.name).collect();
    assert_eq!(members, ["stays"]);
    assert_eq!(lab.ok(&["logs", "seven"]), "ready\n");
}

#[test]
fn a_shim_that_is_killed_takes_its_container_with_it_and_no_more() {
    let mut lab = Lab::new();
    let before = Footprint::of(&lab);
    for daemon_is_down in [false, true] {
        let id = lab.run_idle("victim", &[]);
        lab.run_idle("other", &[]);
        let pid = lab.inspect("victim").state.pid;
        if daemon_is_down {
            lab.kill9();
        }
        lab.sh(&format!("kill -KILL $(pgrep -f '[v]switchd shim .*{id}')"));
        if daemon_is_down {
            lab.start();
        }
        lab.wait_until_exited("victim");
        eventually("its process is gone", || {
            ensure!(!lab.path(format!("/proc/{pid}/ns/net")).exists());
            Ok(())
        });
        lab.assert_reaches("other", "172.17.0.1");
        lab.ok(&["rm", "victim"]);
        lab.ok(&["rm", "-f", "other"]);
        lab.wait_for_footprint(&before);
    }
}

#[test]
fn after_everything_is_removed_nothing_is_left() {
    let mut lab = Lab::new();
    let before = Footprint::of(&lab);
    for restarted in [false, true] {
        lab.ok(&["network", "create", "net"]);
        lab.run_idle("a", &[]);
        lab.run_idle("b", &["--net=net"]);
        lab.run_idle("alone", &["--net=none"]);
        lab.run_idle("open", &["--net=host"]);
        lab.ok(&["run", "-d", "--rm", "--name=short", "--", "true"]);
        lab.ok(&["network", "connect", "net", "a"]);
        lab.sh("ip netns add adopted");
        lab.ok(&["adopt", "--netns", "/run/netns/adopted", "--name", "adopted"]);
        lab.assert_reaches("a", "b");
        if restarted {
            lab.kill9();
            lab.start();
        }
        lab.ok(&["network", "disconnect", "net", "b"]);
        lab.ok(&["rm", "-f", "a", "b", "alone", "open", "adopted"]);
        lab.ok(&["network", "rm", "net"]);
        // `ip netns` keeps its directory as a mount point of its own.
        lab.sh("ip netns del adopted; busybox umount /run/netns; rmdir /run/netns");
        lab.wait_for_footprint(&before);
    }
    assert_eq!(lab.ok(&["ps", "-aq"]), "");
}

/// Starts, connects and removes containers until the daemon goes away.
fn churn(lab: &Lab, thread: usize) {
    for round in 0.. {
        let name = format!("c{thread}x{round}");
        let run = lab.ctl(&["run", "-d", "--name", &name, "--", "sleep", "100000"]);
        let connect = lab.ctl(&["network", "connect", "net", &name]);
        // Every third one stays.
        let removed = round % 3 == 0 || lab.ctl(&["rm", "-f", &name]).code != 6;
        if run.code == 6 || connect.code == 6 || !removed {
            return;
        }
    }
}

#[test]
fn killed_in_the_middle_of_many_changes_it_stays_consistent() {
    let mut lab = Lab::new();
    let before = Footprint::of(&lab);
    for round in 0..3 {
        lab.ok(&["network", "create", "net"]);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|i| {
                    let lab = &lab;
                    scope.spawn(move || churn(lab, i))
                })
                .collect();
            eventually("some containers are there", || {
                let rows = lab.ok(&["ps", "-aq"]).lines().count();
                ensure!(rows >= 2 + round, "{rows}");
                Ok(())
            });
            lab.sh(&format!("kill -KILL {}", lab.daemon_pid()));
            threads.into_iter().for_each(|t| t.join().expect("a thread of changes ends with its daemon"));
        });
        lab.kill9();
        lab.start();
        check_consistency(&lab);
        let names = lab.ok(&["ps", "-a", "--format", "{{.Names}}"]);
        let names: Vec<_> = names.lines().collect();
        if !names.is_empty() {
            lab.ok(&[&["rm", "-f"], &names[..]].concat());
        }
        lab.ok(&["network", "rm", "net"]);
        lab.wait_for_footprint(&before);
    }
}

/// Each running container has the addresses that its networks say, and they work.
fn check_consistency(lab: &Lab) {
    for network in ["bridge", "net"] {
        let mut running = Vec::new();
        for member in lab.inspect_network(network).containers.into_values() {
            let container = lab.inspect(&member.name);
            let endpoint = &container.network_settings.networks[network].endpoint_id;
            assert_eq!(*endpoint, member.endpoint_id);
            match container.state.status.as_str() {
                "running" => running.push(member),
                // The kill came between its creation and its start.
                "created" => {}
                _ => panic!("{container:?} holds an address of {network}"),
            }
        }
        for member in &running {
            let addresses = lab.exec_ok(&member.name, &["ip", "addr"]);
            assert!(
                addresses.contains(&format!("inet {} ", member.ipv4_address)),
                "{member:?} has {addresses}"
            );
            let (address, _) = running[0].ipv4_address.split_once('/').expect("it has a prefix length");
            lab.assert_reaches(&member.name, address);
        }
    }
    for name in lab.ok(&["ps", "--format", "{{.Names}}"]).lines() {
        assert!(!lab.inspect(name).network_settings.networks.is_empty(), "{name} runs");
    }
}

#[test]
fn a_second_daemon_on_the_same_data_is_refused() {
    let lab = Lab::new();
    lab.run_idle("a", &[]);
    let before = lab.ok(&["inspect", "a"]);
    let second = lab.run(&["vswitchd", "--data-dir", DATA_DIR, "--socket", "/run/second.sock"]);
    assert_ne!(second.code, 0, "{second:?}");
    let line = only_line(&second.stderr).unwrap_or_else(|| panic!("{second:?}"));
    assert!(line.contains(DATA_DIR), "{line}");
    assert!(!lab.path("/run/second.sock").exists());
    // Nor does a daemon with other data take over the socket of one that runs.
    let other = lab.run(&["vswitchd", "--data-dir", "/tmp/other"]);
    assert_ne!(other.code, 0, "{other:?}");
    assert!(only_line(&other.stderr).is_some(), "{other:?}");
    assert_eq!(lab.ok(&["inspect", "a"]), before);
}

/// The daemon refuses this store with one line, and leaves it alone.
fn assert_store_refused(lab: &Lab, what: &str) -> String {
    let store = lab.path(format!("{DATA_DIR}/state.redb"));
    let before = std::fs::read(&store).unwrap();
    let refused = lab.run(&["vswitchd", "--data-dir", DATA_DIR]);
    assert_ne!(refused.code, 0, "{what}: {refused:?}");
    let line = only_line(&refused.stderr).unwrap_or_else(|| panic!("{what}: {refused:?}"));
    assert!(line.contains("state.redb"), "{what}: {line}");
    let after = std::fs::read(&store).unwrap();
    let changed = before.iter().zip(&after).position(|(before, after)| before != after);
    assert_eq!((changed, after.len()), (None, before.len()), "{what}: the file was changed");
    line.into()
}

#[test]
fn a_corrupt_or_newer_store_is_refused_and_left_alone() {
    let mut lab = Lab::new();
    lab.ok(&["network", "create", "net"]);
    assert_eq!(lab.term(), 0);
    let store = lab.path(format!("{DATA_DIR}/state.redb"));
    let good = std::fs::read(&store).unwrap();
    let mut garbled = good.clone();
    garbled.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
    for (what, bad) in [
        ("text", b"this is no store\n".repeat(400)),
        ("truncated", good[..good.len() / 2].to_vec()),
        ("garbled", garbled),
        ("header only", good[..64].to_vec()),
    ] {
        std::fs::write(&store, &bad).unwrap();
        assert_store_refused(&lab, what);
    }
    std::fs::write(&store, &good).unwrap();
    let set_format = |format: u8| {
        let database = redb::Database::open(&store).unwrap();
        let transaction = database.begin_write().unwrap();
        let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
        transaction.open_table(meta).unwrap().insert("format", &[format][..]).unwrap();
        transaction.commit().unwrap();
    };
    set_format(u8::MAX);
    let line = assert_store_refused(&lab, "newer");
    assert!(line.contains("newer"), "{line}");
    set_format(3);
    let line = assert_store_refused(&lab, "older");
    assert!(line.contains("earlier"), "{line}");
    set_format(4);
    lab.start();
    assert_eq!(lab.inspect_network("net").name, "net");
}
