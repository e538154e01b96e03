//! The list of what this node cannot do at present, for everything that reports it: the API, `node ls` and
//! `cluster health` on all nodes, and the warnings of changes that will not work.
//!
//! Whoever finds a fault sets it, and clears it when it is over. There is one place for each [`ProblemArea`], so the
//! list is bounded.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vswitch_proto::api::{Problem, ProblemArea, Severity};

/// Present problems of this node, by area.
#[derive(Debug, Default)]
pub struct Problems(Mutex<BTreeMap<ProblemArea, Problem>>);

impl Problems {
    /// Replaces the problem of an area; `None` clears it.
    pub fn set(&self, area: ProblemArea, problem: Option<(Severity, String)>) {
        let mut problems = self.lock();
        match problem {
            Some((severity, message)) => {
                problems.insert(area, Problem { area, severity, message });
            }
            None => drop(problems.remove(&area)),
        }
    }

    /// All present problems, in the order of their areas.
    pub fn list(&self) -> Vec<Problem> {
        self.lock().values().cloned().collect()
    }

    /// Messages of what keeps frames from other hosts away from overlay networks of this node.
    pub fn of_overlays(&self) -> Vec<String> {
        let concerns = |problem: &&Problem| {
            problem.severity == Severity::Error
                && matches!(problem.area, ProblemArea::Tunnels | ProblemArea::Underlay)
        };
        self.lock().values().filter(concerns).map(|problem| problem.message.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProblemArea, Problem>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_area_has_its_latest_problem_until_it_is_cleared() {
        let problems = Problems::default();
        problems.set(ProblemArea::Workers, Some((Severity::Error, "worker".into())));
        problems.set(ProblemArea::Tunnels, Some((Severity::Error, "old".into())));
        problems.set(ProblemArea::Tunnels, Some((Severity::Error, "new".into())));
        problems.set(ProblemArea::Underlay, Some((Severity::Warning, "small".into())));
        let messages: Vec<_> = problems.list().into_iter().map(|problem| problem.message).collect();
        assert_eq!(messages, ["new", "small", "worker"]);
        assert_eq!(problems.of_overlays(), ["new"]);
        problems.set(ProblemArea::Tunnels, None);
        assert_eq!(problems.of_overlays(), [""; 0]);
    }
}
