//! Whether a history is linearizable: whether each operation can have happened at one moment between its call and its
//! return, so that all of them together are a run of the specification.
//!
//! Wing and Gong's search (1993) with Lowe's two improvements ("Testing for linearizability", 2017): operations are
//! linearized as late as possible, when one returns, and a set of configurations is carried along instead of
//! backtracking, so that no configuration is looked at twice.

use std::collections::HashSet;
use std::hash::Hash;

/// One event of a history. Operations are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Call(usize),
    Return(usize),
}

/// A state, and the calls that have not returned, with whether they have happened in it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration<S> {
    state: S,
    /// In the order of their calls.
    open: Vec<(usize, bool)>,
}

/// At which event the history stops being one of the specification. `step` says what an operation makes of a state, or
/// that it cannot have had its result there.
pub fn check<S: Clone + Eq + Hash>(
    initial: S,
    events: &[Event],
    step: impl Fn(&S, usize) -> Option<S>,
) -> Result<(), usize> {
    let mut configurations = HashSet::from([Configuration { state: initial, open: Vec::new() }]);
    for (at, event) in events.iter().enumerate() {
        match *event {
            Event::Call(op) => {
                let opened = configurations.into_iter().map(|mut configuration| {
                    configuration.open.push((op, false));
                    configuration
                });
                configurations = opened.collect();
            }
            Event::Return(op) => {
                configurations = happened(configurations, op, &step);
                if configurations.is_empty() {
                    return Err(at);
                }
            }
        }
    }
    Ok(())
}

/// All configurations that can be reached in which `op` has happened, with it closed.
fn happened<S: Clone + Eq + Hash>(
    configurations: HashSet<Configuration<S>>,
    op: usize,
    step: &impl Fn(&S, usize) -> Option<S>,
) -> HashSet<Configuration<S>> {
    let mut done = HashSet::new();
    let mut seen = configurations.clone();
    let mut todo: Vec<Configuration<S>> = configurations.into_iter().collect();
    while let Some(mut configuration) = todo.pop() {
        if configuration.open.contains(&(op, true)) {
            configuration.open.retain(|(open, _)| *open != op);
            done.insert(configuration);
            continue;
        }
        for (nth, (open, has_happened)) in configuration.open.iter().enumerate() {
            if *has_happened {
                continue;
            }
            let Some(state) = step(&configuration.state, *open) else { continue };
            let mut next = Configuration { state, open: configuration.open.clone() };
            next.open[nth].1 = true;
            if seen.insert(next.clone()) {
                todo.push(next);
            }
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::Event::{Call, Return};
    use super::*;

    /// A register: operation `n` writes `Ok(value)` or reads `Err(value)`.
    fn register(events: &[Event], operations: &[Result<u32, u32>]) -> Result<(), usize> {
        check(0, events, |state, op| match operations[op] {
            Ok(written) => Some(written),
            Err(read) => (*state == read).then_some(*state),
        })
    }

    #[test]
    fn what_happens_one_after_the_other() {
        let events = [Call(0), Return(0), Call(1), Return(1)];
        assert_eq!(register(&events, &[Ok(1), Err(1)]), Ok(()));
        assert_eq!(register(&events, &[Ok(1), Err(0)]), Err(3), "an old value");
    }

    #[test]
    fn what_happens_at_once_has_either_order() {
        let events = [Call(0), Call(1), Return(1), Return(0)];
        assert_eq!(register(&events, &[Ok(1), Err(1)]), Ok(()));
        assert_eq!(register(&events, &[Ok(1), Err(0)]), Ok(()));
        assert_eq!(register(&events, &[Ok(1), Err(2)]), Err(2), "nobody's value");
    }

    #[test]
    fn what_was_seen_stays_seen() {
        // A write that is under way all the time; two reads one after the other.
        let events = [Call(0), Call(1), Return(1), Call(2), Return(2), Return(0)];
        assert_eq!(register(&events, &[Ok(1), Err(0), Err(1)]), Ok(()));
        assert_eq!(register(&events, &[Ok(1), Err(1), Err(0)]), Err(4));
    }

    #[test]
    fn what_was_lost_is_missed() {
        let events = [Call(0), Return(0), Call(1), Return(1), Call(2), Return(2)];
        assert_eq!(register(&events, &[Ok(1), Ok(2), Err(1)]), Err(5));
    }
}
