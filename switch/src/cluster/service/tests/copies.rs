//! Data directories of voters that were copied, or put back.

use std::path::Path;

use super::*;

/// Copies the files of a directory, as a backup does, while they are written.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A host with the directory of another.
async fn copied(original: &Host) -> Host {
    let dir = tempfile::tempdir().unwrap();
    let config =
        Config { dir: dir.path().join("cluster"), listen: Some(address()), ..original.config.clone() };
    copy(&original.config.dir, &config.dir);
    let handle = Some(ClusterHandle::start(config.clone()).await.unwrap());
    Host { _dir: dir, config, handle }
}

async fn wait_for_problem(host: &Host, texts: &[&str]) {
    eventually("the problem to be told", async || {
        let problems = host.health().await.unwrap().problems;
        problems.iter().any(|line| texts.iter().all(|text| line.contains(text)))
    })
    .await;
}

async fn wait_until_healthy(hosts: &[Host]) {
    for host in hosts {
        eventually("good health", async || host.health().await.unwrap().problems.is_empty()).await;
    }
    let hash = hosts[0].hash().await.unwrap();
    assert!(hash.is_equal && hash.nodes.len() == hosts.len(), "{hash:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_runs_beside_the_original_is_refused_and_named() {
    let mut hosts = cluster(3).await;
    hosts[0].network("before").await.unwrap();
    // Of the leader, and of one that follows.
    let leading = leader(&hosts).await;
    for original in [leading, (leading + 1) % 3] {
        let mut copy = copied(&hosts[original]).await;
        let name = format!("node host{} was started twice", original + 1);
        let at = copy.address().to_string();
        for host in &hosts {
            wait_for_problem(host, &[&name, &at]).await;
        }
        eventually("the copy to know", async || {
            copy.status(true)
                .await
                .reason
                .is_some_and(|reason| reason.contains("from the same data directory"))
        })
        .await;
        assert!(copy.in_effect().is_none(), "it does not act by what it knows");
        // All go on, the original too.
        for (at, host) in hosts.iter().enumerate() {
            host.network(&format!("of{original}by{at}")).await.unwrap();
        }
        assert!(matches!(copy.network("copied").await, Err(ClusterError::Fenced(_))));
        copy.stop().await;
    }
    eventually("equal states", async || hosts.iter().all(|host| host.networks().len() == 7)).await;
    // A restart is no copy.
    for (at, host) in hosts.iter_mut().enumerate() {
        host.stop().await;
        host.start().await;
        host.network(&format!("again{at}")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_there_first_keeps_the_original_out() {
    let mut hosts = cluster(3).await;
    let follower = (leader(&hosts).await + 1) % 3;
    hosts[follower].stop().await;
    let original = hosts[follower].config.clone();
    // Started where the node was: it is the node, as after a move to another machine.
    let moved = copied(&hosts[follower]).await;
    moved.network("moved").await.unwrap();
    hosts[follower].handle = Some(ClusterHandle::start(original).await.unwrap());
    let name = format!("node host{} ", follower + 1);
    wait_for_problem(&moved, &[&name, "refused"]).await;
    eventually("the original to know", async || hosts[follower].status(true).await.reason.is_some()).await;
    moved.network("still").await.unwrap();
}

/// What is put back was copied `before_restart` of the node, or after it.
async fn a_directory_that_was_put_back(before_restart: bool) {
    let mut hosts = cluster(3).await;
    let follower = (leader(&hosts).await + 1) % 3;
    let backup = tempfile::tempdir().unwrap();
    if before_restart {
        copy(&hosts[follower].config.dir, backup.path());
        hosts[follower].stop().await;
        hosts[follower].start().await;
        hosts[follower].network("restarted").await.unwrap();
    } else {
        copy(&hosts[follower].config.dir, backup.path());
    }
    for n in 0..5 {
        hosts[follower].network(&format!("n{n}")).await.unwrap();
    }
    hosts[follower].stop().await;
    std::fs::remove_dir_all(&hosts[follower].config.dir).unwrap();
    copy(backup.path(), &hosts[follower].config.dir);
    hosts[follower].start().await;
    let name = format!("host{}", follower + 1);
    for host in hosts.iter().filter(|host| host.node() != hosts[follower].node()) {
        wait_for_problem(host, &[&format!("node {name} "), "was put back from a backup"]).await;
    }
    eventually("the node to know", async || {
        hosts[follower]
            .status(true)
            .await
            .reason
            .is_some_and(|reason| reason.contains("put back from a backup"))
    })
    .await;
    let is_muted = async || hosts[follower].member().unwrap().view().status.is_muted;
    eventually("the node to fall silent", is_muted).await;
    // The others are a quorum, and the advice helps.
    let other = (follower + 1) % 3;
    hosts[other].network("after").await.unwrap();
    hosts[other].remove(&name, true).await.unwrap();
    hosts[follower].leave(true).await.unwrap();
    let token = hosts[other].token(Role::Voter).await.unwrap();
    hosts[follower].join(&join(&hosts[other], &token.token)).await.unwrap();
    voters(&hosts, 3).await;
    wait_until_healthy(&hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_before_the_last_start_is_refused() {
    a_directory_that_was_put_back(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_lacks_what_was_acknowledged_is_refused() {
    a_directory_that_was_put_back(false).await;
}
