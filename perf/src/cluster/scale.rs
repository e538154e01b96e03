//! What 10,000 endpoints cost.

use std::path::Path;
use std::time::Instant;

use anyhow::bail;

use super::commit::{CLIENTS, one_client, rate};
use super::figures::{Figure, Figures, Suite};
use super::members::Members;
use super::orders::{Answer, Order, Until};
use crate::machine::process_rss_kib;
use crate::progress::Progress;

const ENDPOINTS: usize = 10_000;
/// Few endpoints at a time, many times: the log, the requests and the caches get as large as they ever are, and there
/// is no memory of former endpoints that later ones could use.
const WARM_UP: usize = 300;
const WARM_UPS: usize = 20;

pub fn measure(suite: Suite, dir: &Path, progress: &Progress, figures: &mut Figures) -> anyhow::Result<()> {
    let repeats = match suite {
        Suite::Quick => 3,
        Suite::Full => 9,
    };
    progress.step("scale: three nodes");
    let mut members = Members::start(dir)?;
    for _ in 0..WARM_UPS {
        members.reserve(CLIENTS, Until::Made(WARM_UP))?;
        members.release()?;
    }
    let before = rss_kib(&mut members)?;
    progress.say("scale: 10,000 endpoints are made");
    figures.add(Figure::FullRate, rate(&members.reserve(CLIENTS, Until::Made(ENDPOINTS))?));
    members.each().try_for_each(|member| member.done(&Order::AwaitCount(ENDPOINTS)))?;
    for (before_kib, after_kib) in before.into_iter().zip(rss_kib(&mut members)?) {
        figures.add(Figure::Memory, (after_kib - before_kib) / ENDPOINTS as f64);
    }
    for repeat in 0..repeats {
        progress.say(&format!("scale: restart and snapshot {} of {repeats}", repeat + 1));
        let leader = members.leader()?;
        restart(&mut members, (leader + 1 + repeat % 2) % 3, figures)?;
        snapshot(&mut members, leader, figures)?;
        one_client(members.at(leader), [Figure::FullMedian, Figure::FullP99], figures)?;
    }
    Ok(())
}

fn rss_kib(members: &mut Members) -> anyhow::Result<Vec<f64>> {
    members.each().map(|member| Ok(process_rss_kib(member.pid())? as f64)).collect()
}

fn restart(members: &mut Members, index: usize, figures: &mut Figures) -> anyhow::Result<()> {
    members.kill(index)?;
    let begun = Instant::now();
    members.start_again(index)?;
    figures.add(Figure::Restart, begun.elapsed().as_secs_f64());
    match members.at(index).ask(&Order::Read { count: 1 })? {
        Answer::Took(_) => figures.add(Figure::RestartRead, begun.elapsed().as_secs_f64()),
        other => bail!("{other:?} is no read"),
    }
    let seen = members.at(index).look()?;
    anyhow::ensure!(seen.leases >= ENDPOINTS, "{} endpoints were there after a restart", seen.leases);
    Ok(())
}

fn snapshot(members: &mut Members, index: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let to = members.dir().join("snapshot");
    match members.at(index).ask(&Order::Snapshot { to })? {
        Answer::Saved { took_us, bytes } => {
            figures.add(Figure::SnapshotSave, took_us as f64 / 1e6);
            figures.add(Figure::SnapshotBytes, bytes as f64 / f64::from(1 << 20));
            Ok(())
        }
        other => bail!("{other:?} is no snapshot"),
    }
}
