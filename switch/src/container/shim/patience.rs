//! For how long clients that are not the foreground one may hold up a container's output.

use std::time::{Duration, Instant};

/// Saved up at most.
const MOST: Duration = Duration::from_secs(3);
/// Saved up at least before output waits again: a wait may last longer than was left by one look at the clients.
const LEAST: Duration = Duration::from_millis(500);
/// One part of the time that passes is saved: clients that come again and again take no more than this of the
/// container's time.
const SAVED_PART: u32 = 50;

/// A budget of time that all further clients of a container share. While it lasts, output waits for one that is full,
/// so that a client that does read keeps up with bursts; when it is spent, output goes on.
#[derive(Debug)]
pub(super) struct Patience {
    left: Duration,
    seen: Instant,
    holding: bool,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Patience {
        Patience { left: MOST, seen: now, holding: false }
    }

    /// Accounts for the time since the last call. Whether output waits from now until the next one, given that a
    /// further client is full.
    pub(super) fn holds(&mut self, now: Instant, is_full: bool) -> bool {
        let passed = now.saturating_duration_since(self.seen);
        self.seen = now;
        self.left = if self.holding {
            self.left.saturating_sub(passed)
        } else {
            MOST.min(self.left.saturating_add(passed / SAVED_PART))
        };
        let is_enough = if self.holding { !self.left.is_zero() } else { self.left >= LEAST };
        self.holding = is_full && is_enough;
        self.holding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    /// The part of `steps` for which output waited.
    fn held(patience: &mut Patience, now: &mut Instant, steps: u32) -> u32 {
        let mut held = 0;
        for _ in 0..steps {
            held += u32::from(patience.holds(*now, true));
            *now += STEP;
        }
        held
    }

    #[test]
    fn clients_that_are_always_full_hold_for_a_time_and_then_for_a_small_part() {
        let mut now = Instant::now();
        let mut patience = Patience::new(now);
        assert_eq!(held(&mut patience, &mut now, 30), 30);
        let later = held(&mut patience, &mut now, 10_000);
        // A part, and one step too much for each time that output waits.
        assert!(later > 0 && later <= 10_000 / SAVED_PART * 5 / 4, "{later}");
    }

    #[test]
    fn patience_returns_when_nobody_is_full() {
        let mut now = Instant::now();
        let mut patience = Patience::new(now);
        held(&mut patience, &mut now, 40);
        patience.holds(now, false);
        now += MOST * SAVED_PART * 2;
        assert!(patience.holds(now, true));
        assert_eq!(held(&mut patience, &mut now, 30), 30, "no more than the most is saved");
        assert!(!patience.holds(now, true));
    }
}
