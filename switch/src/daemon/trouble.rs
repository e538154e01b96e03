//! What the host could not be brought to. It is tried again until it works, or is not wanted any more.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use vswitch_proto::id::{ContainerId, PortId};

use crate::plan::Action;

/// Tried again at one time: each may take some milliseconds, and others wait meanwhile.
const AGAIN_MAX: usize = 16;

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
        match &self.action {
            Action::Attach(attach) => attach.container,
            Action::Detach { container, .. }
            | Action::SetRoutes { container, .. }
            | Action::WriteHosts { container, .. } => *container,
        }
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

    pub fn note(&mut self, failures: Vec<Failure>) {
        self.0.extend(failures);
    }

    /// Takes those whose turn it is.
    pub fn due(&mut self) -> Vec<Failure> {
        self.0.drain(..self.0.len().min(AGAIN_MAX)).collect()
    }
}

/// What an action settles.
#[derive(PartialEq, Eq)]
enum Target {
    Port(PortId),
    Routes(ContainerId),
    Hosts(ContainerId),
}

fn target(action: &Action) -> Target {
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
        trouble.note([hosts(1, "old"), routes(1), hosts(2, "other")].map(failure).into());
        trouble.supersede(&[hosts(1, "new"), routes(3)]);
        assert_eq!(trouble.due(), [routes(1), hosts(2, "other")].map(failure));
        assert_eq!(trouble.due(), [], "whoever fails again is noted again");
    }

    #[test]
    fn everybody_has_a_turn() {
        let mut trouble = Trouble::default();
        trouble.note((0..40).map(|n| failure(routes(n))).collect());
        let mut seen: Vec<ContainerId> = Vec::new();
        while seen.len() < 40 {
            let due = trouble.due();
            assert!(!due.is_empty() && due.len() <= AGAIN_MAX);
            // The first ones fail for ever.
            trouble.note(due.iter().filter(|failure| failure.container().0[0] < 20).cloned().collect());
            for failure in due {
                if !seen.contains(&failure.container()) {
                    seen.push(failure.container());
                }
            }
        }
    }
}
