//! Nodes that come back under other addresses, several at once.

use super::super::super::identity::load;
use super::super::seek::WHEREABOUTS;
use super::*;

async fn move_away(host: &mut Host) {
    host.stop().await;
    host.config.listen = Some(address());
}

async fn wait_until_found(hosts: &[Host], round: usize) {
    for (at, host) in hosts.iter().enumerate() {
        let name = format!("round{round}by{at}");
        eventually("a change by each of them", async || host.network(&name).await.is_ok()).await;
    }
    eventually("the new addresses", async || {
        hosts.iter().all(|host| {
            let state = host.state();
            hosts.iter().all(|other| {
                let node = other.node().and_then(|node| state.node(node));
                node.is_some_and(|node| node.info.address == other.address())
            })
        })
    })
    .await;
}

/// Until a restart of any of them forgets nothing.
async fn wait_until_written_down(hosts: &[Host]) {
    let is_known = |host: &Host| {
        let kept: Vec<(NodeId, SocketAddr)> =
            load(&host.config.dir.join(WHEREABOUTS)).unwrap().unwrap_or_default();
        hosts.iter().all(|other| kept.contains(&(other.node().unwrap(), other.address())))
    };
    eventually("the addresses to be written down", async || hosts.iter().all(is_known)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_that_move_find_each_other_by_the_third() {
    let mut hosts = cluster(3).await;
    for round in 0..3 {
        // Each of them stays where it is once.
        for at in [(round + 1) % 3, (round + 2) % 3] {
            move_away(&mut hosts[at]).await;
        }
        for at in [(round + 1) % 3, (round + 2) % 3] {
            hosts[at].start().await;
        }
        wait_until_found(&hosts, round).await;
        wait_until_written_down(&hosts).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_move_at_once_are_found_by_hints() {
    let mut hosts = cluster(3).await;
    for host in &mut hosts {
        move_away(host).await;
    }
    let places: Vec<SocketAddr> = hosts.iter().map(Host::address).collect();
    for host in &mut hosts {
        // The first is enough: the others find each other by it.
        host.config.hints = vec![places[0].into()];
        host.start().await;
    }
    wait_until_found(&hosts, 0).await;
}
