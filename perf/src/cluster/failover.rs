//! The leader is killed, and another node takes over.

use std::path::Path;

use anyhow::bail;

use super::figures::{Figure, Figures, Suite};
use super::members::Members;
use super::orders::{Answer, Order, Until};
use crate::progress::Progress;

/// Endpoints that are there.
const ENDPOINTS: usize = 300;

pub fn measure(suite: Suite, dir: &Path, progress: &Progress, figures: &mut Figures) -> anyhow::Result<()> {
    let kills = match suite {
        Suite::Quick => 7,
        Suite::Full => 30,
    };
    progress.step("failover: three nodes");
    let mut members = Members::start(dir)?;
    members.reserve(3, Until::Made(ENDPOINTS))?;
    for kill in 1..=kills {
        progress.say(&format!("failover: leader {kill} of {kills} is killed"));
        let leader = members.leader()?;
        let old = members.kill(leader)?;
        // Either of the others may become the next one.
        match members.at(leader + 1 + kill % 2).ask(&Order::Recover { old })? {
            Answer::Recovered { leader_us, write_us } => {
                figures.add(Figure::NewLeader, leader_us as f64 / 1e6);
                figures.add(Figure::FirstWrite, write_us as f64 / 1e6);
            }
            other => bail!("{other:?} is no recovery"),
        }
        members.start_again(leader)?;
        members.at(leader).done(&Order::AwaitCount(ENDPOINTS + kill))?;
    }
    Ok(())
}
