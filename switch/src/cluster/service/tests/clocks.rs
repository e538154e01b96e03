//! Clocks that are outside the time of certificates.

use std::sync::atomic::AtomicI64;

use super::*;

/// Two voters, the second of which has a clock of its own: the days that it is ahead.
async fn pair() -> (Vec<Host>, [Arc<AtomicI64>; 2]) {
    let ahead = [Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0))];
    let mut hosts = Vec::new();
    for (name, ahead) in ["host1", "host2"].into_iter().zip(&ahead) {
        let mut host = Host::new(name).await;
        let ahead = ahead.clone();
        host.config.clock = Arc::new(move || {
            let days = ahead.load(Ordering::Relaxed) * DAY_MS as i64;
            crate::cluster::service::now_ms().saturating_add_signed(days)
        });
        host.start().await;
        hosts.push(host);
    }
    let founded = hosts[0].init().await.unwrap();
    hosts[1].join(&join(&hosts[0], &founded.token)).await.unwrap();
    voters(&hosts, 2).await;
    // A voter renews its own certificate with it.
    eventually("the key", async || hosts[1].config.dir.join("authority").exists()).await;
    (hosts, ahead)
}

async fn problems(host: &Host) -> Vec<String> {
    host.health().await.unwrap().problems
}

async fn a_clock_that_is_off(days: i64) {
    let (mut hosts, ahead) = pair().await;
    hosts[1].stop().await;
    ahead[1].store(days, Ordering::Relaxed);
    hosts[1].start().await;
    for host in &hosts {
        eventually("the clock to be named", async || {
            problems(host).await.iter().any(|line| line.contains("is not reached because of a clock"))
        })
        .await;
        let problems = problems(host).await;
        assert!(problems.iter().any(|line| line.contains("no quorum")), "{problems:?}");
        assert!(problems.iter().all(|line| !line.contains("recover")), "{problems:?}");
        // Both clocks can be read from what is said: what this host's says, and what the certificate bears.
        assert!(problems.iter().any(|line| line.contains("the clock of this host says 20")), "{problems:?}");
    }
    // Nothing but the clock has to be set.
    ahead[1].store(0, Ordering::Relaxed);
    eventually("the quorum", async || hosts[1].network("n1").await.is_ok()).await;
    eventually("good health", async || problems(&hosts[0]).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_far_ahead_is_named() {
    a_clock_that_is_off(100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_days_behind_is_named() {
    a_clock_that_is_off(-3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_clock_that_is_off_recovery_is_suggested_as_before() {
    let (mut hosts, _) = pair().await;
    hosts[1].stop().await;
    let problems = problems(&hosts[0]).await;
    assert!(problems.iter().any(|line| line.contains("recover --force-new-cluster")), "{problems:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_off_for_longer_than_its_certificates_comes_back() {
    let (mut hosts, ahead) = pair().await;
    for host in &mut hosts {
        host.stop().await;
    }
    ahead.iter().for_each(|ahead| ahead.store(120, Ordering::Relaxed));
    for host in &mut hosts {
        host.start().await;
    }
    eventually("the quorum", async || hosts[1].network("n1").await.is_ok()).await;
}
