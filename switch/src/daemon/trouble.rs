//! What the host could not be brought to. It is tried again until it works, or is not wanted any more.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use vswitch_proto::id::{ContainerId, PortId};

use crate::plan::Action;

/// Failures that are tried again at one time, each in the lane of its container.
const AGAIN_MAX: usize = 64;

/// An action that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub action: Action,
    /// Whether interfaces that are there already were to be taken over.
    pub recovering: bool,
    pub reason: String,
}

impl Failure {
    pub fn container(&self) -> ContainerId {
        container_of(&self.action)
    }
}

/// In the order in which they are tried again.
#[derive(Debug, Default)]
pub struct Trouble(VecDeque<Failure>);

impl Trouble {
    /// Of what these actions settle anew, nothing is tried again.
    pub fn supersede(&mut self, actions: &[Action]) {
        self.0.retain(|failure| actions.iter().all(|action| target(action) != target(&failure.action)));
    }

    /// A failure takes the place of an earlier one of the same target.
    pub fn note(&mut self, failure: Failure) {
        self.0.retain(|earlier| target(&earlier.action) != target(&failure.action));
        self.0.push_back(failure);
    }

    /// Takes those whose turn it is.
    pub fn due(&mut self) -> Vec<Failure> {
        self.0.drain(..self.0.len().min(AGAIN_MAX)).collect()
    }
}

/// The container that an action is about.
pub fn container_of(action: &Action) -> ContainerId {
    match action {
        Action::Attach(attach) => attach.container,
        Action::Detach { container, .. }
        | Action::SetRoutes { container, .. }
        | Action::WriteHosts { container, .. } => *container,
    }
}

/// What an action settles.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    Port(PortId),
    Routes(ContainerId),
    Hosts(ContainerId),
}

pub fn target(action: &Action) -> Target {
    match action {
        Action::Attach(attach) => Target::Port(attach.port),
        Action::Detach { port, .. } => Target::Port(*port),
        Action::SetRoutes { container, .. } => Target::Routes(*container),
        Action::WriteHosts { container, .. } => Target::Hosts(*container),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(container: u8, content: &str) -> Action {
        Action::WriteHosts { container: ContainerId([container; 32]), content: content.into() }
    }

    fn routes(container: u8) -> Action {
        Action::SetRoutes { container: ContainerId([container; 32]), routes: Vec::new() }
    }

    fn failure(action: Action) -> Failure {
        Failure { action, recovering: false, reason: "no".into() }
    }

    #[test]
    fn what_is_settled_anew_is_not_tried_again() {
        let mut trouble = Trouble::default();
        for action in [hosts(1, "older"), hosts(1, "old"), routes(1), hosts(2, "other")] {
            trouble.note(failure(action));
        }
        assert_eq!(trouble.0.len(), 3, "the newest of each target");
        trouble.supersede(&[hosts(1, "new"), routes(3)]);
        assert_eq!(trouble.due(), [routes(1), hosts(2, "other")].map(failure));
        assert_eq!(trouble.due(), [], "whoever fails again is noted again");
    }

    #[test]
    fn everybody_has_a_turn() {
        let mut trouble = Trouble::default();
        (0..200).for_each(|n| trouble.note(failure(routes(n))));
        let mut seen: Vec<ContainerId> = Vec::new();
        while seen.len() < 200 {
            let due = trouble.due();
            assert!(!due.is_empty() && due.len() <= AGAIN_MAX);
            // The first ones fail for ever.
            due.iter().filter(|failure| failure.container().0[0] < 100).for_each(|f| trouble.note(f.clone()));
            for failure in due {
                if !seen.contains(&failure.container()) {
                    seen.push(failure.container());
                }
            }
        }
    }
}
