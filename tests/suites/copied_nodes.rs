//! Data directories of voters that were copied to another host, or put back from a backup, as the operator sees it.

use anyhow::ensure;
use vswitch_proto::api::{ClusterHealth, NodeState};
use vswitch_tests::cluster::{address, daemon};
use vswitch_tests::lab::DATA_DIR;
use vswitch_tests::wait::eventually;
use vswitch_tests::{Cluster, Lab};

/// Until `cluster health` of a host has a line with all of these texts, and its exit code says so.
fn wait_for_problem(lab: &Lab, texts: &[&str]) {
    eventually(&format!("health tells of {texts:?}"), || {
        let shown = lab.ctl(&["cluster", "health"]);
        let is_told = |line: &str| texts.iter().all(|text| line.contains(text));
        ensure!(shown.code == 1 && shown.stdout.lines().any(is_told), "{shown:?}");
        Ok(())
    });
}

/// Until one of the hosts has logged a line with all of these texts. Not every host is in contact with every other.
fn wait_for_log(labs: &[&Lab], texts: &[&str]) {
    eventually(&format!("a log tells of {texts:?}"), || {
        let log: String = labs.iter().map(|lab| lab.log()).collect();
        ensure!(log.lines().any(|line| texts.iter().all(|text| line.contains(text))), "{log}");
        Ok(())
    });
}

/// The overlay networks that a host knows.
fn overlays(lab: &Lab) -> Vec<String> {
    let shown = lab.ok(&["network", "ls", "--filter=driver=overlay", "--format={{.Name}}"]);
    let mut names: Vec<String> = shown.lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn create(lab: &Lab, names: &mut Vec<String>) {
    let name = format!("net{}", names.len());
    lab.ok(&["network", "create", "-d", "overlay", &name]);
    names.push(name);
}

fn wait_for_all(labs: &[&Lab], names: &[String]) {
    for lab in labs {
        eventually("every network that was acknowledged is there", || {
            let shown = overlays(lab);
            ensure!(shown == names, "{shown:?}");
            Ok(())
        });
    }
}

/// Copies the data directory of a host to a path of the machine that runs the test.
fn copy(lab: &Lab, to: &str) {
    lab.sh(&format!("rm -rf {to}; cp -a {DATA_DIR} {to}"));
}

#[test]
fn a_copy_of_a_voter_is_refused_by_everybody_and_named() {
    let mut cluster = Cluster::joined(3);
    let mut names = Vec::new();
    create(&cluster.labs[0], &mut names);
    wait_for_all(&cluster.labs.iter().collect::<Vec<_>>(), &names);
    let copied = (cluster.leader(0) + 1) % 3;
    assert_eq!(cluster.labs[copied].term(), 0);
    // The disk of the copy is as that of the original was when it was shut down.
    let host = cluster.plug(3);
    let from = cluster.labs[copied].path(DATA_DIR);
    let to = host.path(DATA_DIR);
    let done = std::process::Command::new("cp").arg("-a").args([&from, &to]).status().unwrap();
    assert!(done.success());
    cluster.labs[copied].start();
    cluster.wait_until_settled();
    create(&cluster.labs[copied], &mut names);
    let copy = daemon(host, 3, &[]);

    let name = format!("node host{copied} was started twice");
    let at = address(3).to_string();
    for lab in &cluster.labs {
        wait_for_problem(lab, &[&name, &at, "stop the copy"]);
    }
    let others: Vec<&Lab> = (0..3).filter(|at| *at != copied).map(|at| &cluster.labs[at]).collect();
    wait_for_log(&others, &["a node is refused", &at]);
    wait_for_log(&[&copy], &["this node is refused, and takes no part", "same data directory"]);
    // Nobody gets a network acknowledged by the copy, and everybody by the others.
    let refused = copy.ctl(&["network", "create", "-d", "overlay", "lost"]);
    assert!(refused.code != 0 && refused.stderr.contains("same data directory"), "{refused:?}");
    for lab in &cluster.labs {
        create(lab, &mut names);
    }
    wait_for_all(&cluster.labs.iter().collect::<Vec<_>>(), &names);
    drop(copy);
    // All restart together, and have everything.
    for lab in &mut cluster.labs {
        lab.kill9();
    }
    for lab in &mut cluster.labs {
        lab.start();
    }
    cluster.wait_until_settled();
    wait_for_all(&cluster.labs.iter().collect::<Vec<_>>(), &names);
    cluster.wait_until_equal();
}

#[test]
fn a_voter_that_was_put_back_from_a_backup_is_refused_and_named() {
    let mut cluster = Cluster::joined(3);
    let mut names = Vec::new();
    create(&cluster.labs[0], &mut names);
    let restored = (cluster.leader(0) + 1) % 3;
    assert_eq!(cluster.labs[restored].term(), 0);
    copy(&cluster.labs[restored], "/tmp/backup");
    cluster.labs[restored].start();
    cluster.wait_until_settled();
    for _ in 0..3 {
        create(&cluster.labs[restored], &mut names);
    }
    cluster.labs[restored].kill9();
    cluster.labs[restored].sh(&format!("rm -rf {DATA_DIR}; cp -a /tmp/backup {DATA_DIR}"));
    cluster.labs[restored].start();

    let name = format!("node host{restored} at {}", address(restored));
    let others: Vec<usize> = (0..3).filter(|index| *index != restored).collect();
    for index in &others {
        wait_for_problem(&cluster.labs[*index], &[&name, "was put back from a backup", "node rm --force"]);
    }
    let labs: Vec<&Lab> = others.iter().map(|index| &cluster.labs[*index]).collect();
    wait_for_log(&labs, &["a node is refused", "was put back from a backup"]);
    wait_for_log(&[&cluster.labs[restored]], &["this node is refused, and takes no part"]);
    // The other two are a majority without it.
    create(&cluster.labs[others[0]], &mut names);
    wait_for_all(&labs, &names);

    // What health advises helps.
    let (lab, other) = (&cluster.labs[restored], &cluster.labs[others[0]]);
    other.ok(&["node", "rm", "--force", &format!("host{restored}")]);
    lab.ok(&["cluster", "leave", "--force"]);
    let token = other.ok(&["cluster", "token", "show", "-q"]);
    lab.ok(&["cluster", "join", "--token", token.trim_end(), &address(others[0]).to_string()]);
    eventually("it is a voter again, and all is well", || {
        let health: ClusterHealth = other.http("GET", "/v1/cluster/health", "").parsed();
        ensure!(health.problems.is_empty(), "{:?}", health.problems);
        let nodes: Vec<vswitch_proto::api::Node> = other.http("GET", "/v1/nodes", "").parsed();
        ensure!(nodes.len() == 3 && nodes.iter().all(|n| n.state == NodeState::Ready), "{nodes:?}");
        Ok(())
    });
    wait_for_all(&cluster.labs.iter().collect::<Vec<_>>(), &names);
}
