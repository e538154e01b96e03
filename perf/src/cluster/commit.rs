//! Endpoints made by one client and by many.

use std::path::Path;

use anyhow::bail;

use super::disk;
use super::figures::{Figure, Figures, Suite};
use super::members::{Member, Members};
use super::orders::{Answer, Order, Took, Until};
use crate::machine::process_cpu_s;
use crate::progress::Progress;
use crate::stats::quantile;

pub const CLIENTS: usize = 64;
/// Until connections are made and caches are warm.
const WARM_UP: usize = 600;
const COMMITS: usize = 150;
const READS: usize = 100;
const MOVES: usize = 20;
const MANY_MS: u64 = 3000;

pub fn measure(suite: Suite, dir: &Path, progress: &Progress, figures: &mut Figures) -> anyhow::Result<()> {
    let rounds = match suite {
        Suite::Quick => 5,
        Suite::Full => 15,
    };
    progress.step("commits: three nodes");
    let mut members = Members::start(dir)?;
    members.reserve(CLIENTS, Until::Made(WARM_UP))?;
    for round in 1..=rounds {
        progress.say(&format!("commits: round {round} of {rounds}"));
        figures.add(Figure::Sync, median(disk::syncs(members.dir())?));
        let leader = members.leader()?;
        let follower = leader + 1 + round % 2;
        one_client(members.at(leader), [Figure::LeaderMedian, Figure::LeaderP99], figures)?;
        one_client(members.at(follower), [Figure::FollowerMedian, Figure::FollowerP99], figures)?;
        reads(members.at(follower), figures)?;
        moves(&mut members, follower, figures)?;
        many(&mut members, figures)?;
        members.release()?;
    }
    Ok(())
}

fn median(samples: Vec<f64>) -> f64 {
    at(samples, 0.5)
}

fn at(mut samples: Vec<f64>, q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    quantile(&samples, q).unwrap_or(f64::NAN)
}

/// Milliseconds.
fn latency(took: &Took, q: f64) -> f64 {
    at(took.each_us.iter().map(|us| *us as f64 / 1e3).collect(), q)
}

/// Median and 99th percentile of one client's endpoints.
pub fn one_client(member: &mut Member, into: [Figure; 2], figures: &mut Figures) -> anyhow::Result<()> {
    member.tell(&Order::Reserve { clients: 1, until: Until::Made(COMMITS) })?;
    let took = member.took()?;
    figures.add(into[0], latency(&took, 0.5));
    figures.add(into[1], latency(&took, 0.99));
    Ok(())
}

fn reads(member: &mut Member, figures: &mut Figures) -> anyhow::Result<()> {
    member.tell(&Order::Read { count: READS })?;
    let took = member.took()?;
    figures.add(Figure::ReadMedian, latency(&took, 0.5));
    figures.add(Figure::ReadP99, latency(&took, 0.99));
    Ok(())
}

/// A container goes round: given up by one node, taken by the next, known by the third.
fn moves(members: &mut Members, from: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let mut took_ms = Vec::with_capacity(MOVES);
    for nth in 0..MOVES {
        let begun = std::time::Instant::now();
        let Answer::Lease(held) = members.at(from + nth).ask(&Order::GiveUp)? else {
            bail!("nothing was given up")
        };
        let Answer::Lease(held) = members.at(from + nth + 1).ask(&Order::Take(held))? else {
            bail!("nothing was taken")
        };
        members.at(from + nth + 2).done(&Order::Await(held.endpoint))?;
        took_ms.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    figures.add(Figure::MoveMedian, median(took_ms));
    Ok(())
}

fn many(members: &mut Members, figures: &mut Figures) -> anyhow::Result<()> {
    let before_s = cpu_s(members)?;
    let took = members.reserve(CLIENTS, Until::Ms(MANY_MS))?;
    let cpu_ms = (cpu_s(members)? - before_s) * 1e3;
    figures.add(Figure::ManyRate, rate(&took));
    figures.add(Figure::ManyMedian, latency(&took, 0.5));
    figures.add(Figure::ManyP99, latency(&took, 0.99));
    figures.add(Figure::ManyCpu, cpu_ms / took.each_us.len() as f64);
    Ok(())
}

pub fn rate(took: &Took) -> f64 {
    took.each_us.len() as f64 / (took.all_us as f64 / 1e6)
}

fn cpu_s(members: &mut Members) -> anyhow::Result<f64> {
    members.each().map(|member| process_cpu_s(member.pid())).sum()
}
