//! Whose aliases the engine could not tell so far.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use vswitch_proto::id::EndpointId;

use super::engine::Census;

/// Of one endpoint. An engine that fails as often with one container does so for ever.
const ATTEMPTS_MAX: u8 = 5;

/// How often each was asked for in vain.
#[derive(Debug, Default)]
pub struct Unanswered(BTreeMap<EndpointId, u8>);

impl Unanswered {
    /// Whether to ask again.
    pub fn is_due(&self, endpoint: &EndpointId) -> bool {
        self.0.get(endpoint).is_some_and(|attempts| *attempts < ATTEMPTS_MAX)
    }

    /// Learns from a census that asked for those that were due, and says which are given up with it.
    pub fn follow(&mut self, census: &Census) -> Vec<EndpointId> {
        self.0.retain(|endpoint, attempts| {
            let is_given_up = *attempts >= ATTEMPTS_MAX;
            census.endpoints.contains_key(endpoint) && (is_given_up || census.unanswered.contains(endpoint))
        });
        let mut given_up = Vec::new();
        for endpoint in &census.unanswered {
            let attempts = self.0.entry(*endpoint).or_default();
            *attempts = attempts.saturating_add(1);
            if *attempts == ATTEMPTS_MAX {
                given_up.push(*endpoint);
            }
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use vswitch_proto::id::ContainerId;

    use super::super::engine::EngineEndpoint;
    use super::*;

    const ONE: EndpointId = EndpointId([1; 32]);
    const TWO: EndpointId = EndpointId([2; 32]);

    /// With both endpoints, of which these could not be asked for.
    fn census(unanswered: &[EndpointId]) -> Census {
        let endpoint = EngineEndpoint {
            container: ContainerId([7; 32]),
            name: None,
            aliases: None,
            addresses: Vec::new(),
        };
        Census {
            endpoints: [ONE, TWO].map(|id| (id, endpoint.clone())).into(),
            unanswered: unanswered.iter().copied().collect(),
            ..Census::default()
        }
    }

    #[test]
    fn an_answer_ends_it() {
        let mut unanswered = Unanswered::default();
        assert!(!unanswered.is_due(&ONE), "nobody has asked");
        assert_eq!(unanswered.follow(&census(&[ONE])), []);
        assert!(unanswered.is_due(&ONE) && !unanswered.is_due(&TWO));
        assert_eq!(unanswered.follow(&census(&[])), []);
        assert!(!unanswered.is_due(&ONE));
    }

    #[test]
    fn it_is_asked_for_a_few_times_only() {
        let mut unanswered = Unanswered::default();
        let rounds: Vec<Vec<EndpointId>> =
            (0..ATTEMPTS_MAX).map(|_| unanswered.follow(&census(&[ONE]))).collect();
        assert_eq!(rounds.concat(), [ONE], "told once");
        assert_eq!(rounds.last(), Some(&vec![ONE]));
        assert!(!unanswered.is_due(&ONE));
        // Not asked for, so not unanswered; and still given up.
        unanswered.follow(&census(&[]));
        assert!(!unanswered.is_due(&ONE));
        // Until the endpoint is gone.
        unanswered.follow(&Census::default());
        assert_eq!(unanswered.follow(&census(&[ONE])), []);
        assert!(unanswered.is_due(&ONE));
    }
}
