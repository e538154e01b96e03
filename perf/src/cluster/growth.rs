//! A cluster of many hosts in the simulator: real groups, simulated links of a millisecond, simulated time.

use vswitch_tests::simulator::{Growth, MILLISECOND, grow};

use super::figures::{Figure, Figures, Suite};
use crate::progress::Progress;
use crate::stop;

const ENDPOINTS_EACH: usize = 50;

pub fn measure(suite: Suite, progress: &Progress, figures: &mut Figures) -> anyhow::Result<()> {
    let sizes: &[usize] = match suite {
        Suite::Quick => &[10, 50, 200],
        Suite::Full => &[10, 25, 50, 100, 200],
    };
    progress.step("growth: simulated hosts");
    for hosts in sizes {
        stop::check()?;
        progress.say(&format!("growth: {hosts} hosts"));
        let Growth {
            messages_per_change,
            bytes_per_change,
            idle_messages_per_second,
            idle_bytes_per_second,
            slowest,
            snapshot_bytes,
            ..
        } = grow(*hosts, ENDPOINTS_EACH)?;
        let mut add = |figure, value: f64| figures.add_at(figure, *hosts as u64, value);
        add(Figure::Slowest, slowest as f64 / MILLISECOND as f64);
        add(Figure::MessagesPerChange, messages_per_change as f64);
        add(Figure::BytesPerChange, bytes_per_change as f64 / 1024.0);
        add(Figure::IdleMessages, idle_messages_per_second as f64);
        add(Figure::IdleBytes, idle_bytes_per_second as f64 / 1024.0);
        add(Figure::StateBytes, snapshot_bytes as f64 / 1024.0);
    }
    Ok(())
}
