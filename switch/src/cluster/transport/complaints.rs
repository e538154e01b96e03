//! What is said again and again is logged now and then: a node that is refused asks every second, for days.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between two lines that say the same.
const QUIET: Duration = Duration::from_secs(600);

/// Texts that are remembered; with more at a time, the oldest may be said again earlier.
const KEPT_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Complaints(Mutex<VecDeque<(String, Instant)>>);

impl Complaints {
    /// Whether it is time to say this.
    pub(super) fn is_due(&self, text: &str) -> bool {
        let now = Instant::now();
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|(_, at)| now.duration_since(*at) < QUIET);
        if said.iter().any(|(before, _)| before == text) {
            return false;
        }
        if said.len() == KEPT_MAX {
            said.pop_front();
        }
        said.push_back((text.into(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_is_said_once_in_a_while() {
        let complaints = Complaints::default();
        assert!(complaints.is_due("a") && complaints.is_due("b") && !complaints.is_due("a"));
        tokio::time::advance(QUIET).await;
        assert!(complaints.is_due("a") && !complaints.is_due("a"));
        for number in 0..KEPT_MAX {
            assert!(complaints.is_due(&number.to_string()));
        }
        assert!(complaints.is_due("a"), "it was pushed out");
    }
}
