//! From what a person typed to what is meant: a full id, a name, or a unique prefix of an id, in this order, so
//! that a name wins over a prefix that looks the same.

use std::collections::BTreeMap;

use vswitch_proto::api::ErrorKind;
use vswitch_proto::id::{ContainerId, NetworkId, NodeId};

use super::shared::Node;
use super::{Container, Network, Shared, State, View};

/// Nothing, or more than one thing, is called that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("network {0} not found: see `vswitchctl network ls`")]
    NoNetwork(String),
    #[error("no such container: {0}: see `vswitchctl ps -a`")]
    NoContainer(String),
    #[error("no such node: {0}: see `vswitchctl node ls`")]
    NoNode(String),
    #[error("network {reference} is ambiguous: {matches} ids begin with it, give more digits")]
    AmbiguousNetwork { reference: String, matches: usize },
    #[error("container {reference} is ambiguous: {matches} ids begin with it, give more digits")]
    AmbiguousContainer { reference: String, matches: usize },
}

impl LookupError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            LookupError::NoNetwork(_) | LookupError::NoContainer(_) | LookupError::NoNode(_) => {
                ErrorKind::NotFound
            }
            LookupError::AmbiguousNetwork { .. } | LookupError::AmbiguousContainer { .. } => {
                ErrorKind::Invalid
            }
        }
    }
}

impl State {
    pub fn find_network(&self, reference: &str) -> Result<&Network, LookupError> {
        let by_id = reference.parse().ok().and_then(|id: NetworkId| self.network(&id));
        by_id.map_or_else(|| find_network(self.networks(), reference), Ok)
    }

    /// A container; its name may have a leading slash, as `inspect` shows it.
    pub fn find_container(&self, reference: &str) -> Result<&Container, LookupError> {
        let name = reference.strip_prefix('/').unwrap_or(reference);
        let is = |id: ContainerId| self.containers().find(|c| *c.shown_id() == id);
        let by_id = reference.parse().ok().and_then(|id| self.container(&id).or_else(|| is(id)));
        if let Some(found) = by_id.or_else(|| self.containers().find(|c| c.name.as_str() == name)) {
            return Ok(found);
        }
        // Endpoints of one container of Docker's count once.
        let shown: BTreeMap<_, _> = self.containers().map(|c| (c.shown_id(), c)).collect();
        match by_prefix(shown.into_values(), |container| &container.shown_id().0, reference) {
            Matches::One(found) => Ok(found),
            Matches::None => Err(LookupError::NoContainer(printable(reference))),
            Matches::Many(matches) => {
                Err(LookupError::AmbiguousContainer { reference: printable(reference), matches })
            }
        }
    }

    /// The network that a container is to be disconnected from. A network that was removed under a stopped
    /// container is found by the name that it had, its id or a prefix of that, so that the leftover attachment can be
    /// taken away.
    pub fn find_attached(&self, container: &ContainerId, reference: &str) -> Result<NetworkId, LookupError> {
        View::alone(self).find_attached(container, reference)
    }
}

impl Shared {
    pub fn find_network(&self, reference: &str) -> Result<&Network, LookupError> {
        let by_id = reference.parse().ok().and_then(|id: NetworkId| self.network(&id));
        by_id.map_or_else(|| find_network(self.networks(), reference), Ok)
    }

    /// A node by its name or number.
    pub fn find_node(&self, reference: &str) -> Result<&Node, LookupError> {
        let by_name = self.nodes().find(|node| node.info.name.as_str() == reference);
        let by_id = || reference.parse().ok().and_then(|id| self.node(NodeId(id)));
        by_name.or_else(by_id).ok_or_else(|| LookupError::NoNode(printable(reference)))
    }
}

impl<'a> View<'a> {
    /// A network of this node or of the cluster. A name that both have means this node's; the other one is found by
    /// its id.
    pub fn find_network(&self, reference: &str) -> Result<&'a Network, LookupError> {
        let by_id = reference.parse().ok().and_then(|id: NetworkId| self.network(&id));
        by_id.map_or_else(|| find_network(self.networks(), reference), Ok)
    }

    /// As [`State::find_attached`], among all networks.
    pub fn find_attached(&self, container: &ContainerId, reference: &str) -> Result<NetworkId, LookupError> {
        let attachments = self.local.container(container).map_or(&[][..], |c| &c.attachments);
        let found = self.find_network(reference);
        let is_attached = |network: &Network| attachments.iter().any(|a| a.network == network.id);
        // Another network may have the name by now, which the container is not in.
        let mut gone = attachments.iter().map(|a| a.network).filter(|id| self.network(id).is_none());
        let is_called =
            |id: &NetworkId| self.local.remembered_name(id).is_some_and(|name| name.as_str() == reference);
        match found {
            Ok(network) if is_attached(network) => Ok(network.id),
            Ok(network) => Ok(gone.find(is_called).unwrap_or(network.id)),
            Err(error @ LookupError::NoNetwork(_)) => {
                let by_prefix = |id: &NetworkId| has_prefix(&id.0, reference);
                gone.clone().find(is_called).or_else(|| gone.find(by_prefix)).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }
}

fn find_network<'a>(
    networks: impl Iterator<Item = &'a Network> + Clone,
    reference: &str,
) -> Result<&'a Network, LookupError> {
    if let Some(found) = networks.clone().find(|n| n.name.as_str() == reference) {
        return Ok(found);
    }
    match by_prefix(networks, |network| &network.id.0, reference) {
        Matches::One(found) => Ok(found),
        Matches::None => Err(LookupError::NoNetwork(printable(reference))),
        Matches::Many(matches) => {
            Err(LookupError::AmbiguousNetwork { reference: printable(reference), matches })
        }
    }
}

enum Matches<'a, T> {
    None,
    One(&'a T),
    Many(usize),
}

fn by_prefix<'a, T>(
    values: impl Iterator<Item = &'a T>,
    id: impl Fn(&T) -> &[u8; 32],
    prefix: &str,
) -> Matches<'a, T> {
    let mut matching = values.filter(|value| has_prefix(id(value), prefix));
    match (matching.next(), matching.count()) {
        (None, _) => Matches::None,
        (Some(only), 0) => Matches::One(only),
        (Some(_), others) => Matches::Many(others + 1),
    }
}

/// Whether the id's 64 hexadecimal digits begin with `prefix`, of which there is at least one.
fn has_prefix(id: &[u8; 32], prefix: &str) -> bool {
    let digits = prefix.as_bytes();
    let matches = |(i, digit): (usize, &u8)| {
        let nibble = if i % 2 == 0 { id[i / 2] >> 4 } else { id[i / 2] & 15 };
        char::from(*digit).to_digit(16) == Some(u32::from(nibble))
    };
    !digits.is_empty() && digits.len() <= 64 && digits.iter().enumerate().all(matches)
}

/// One line of bounded length, whatever was typed.
fn printable(reference: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let mut text: String = reference.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if reference.chars().nth(SHOWN_CHARS_MAX).is_some() {
        text.push_str("...");
    }
    if text.is_empty() { "\"\"".into() } else { text }
}

#[cfg(test)]
mod tests {
    use vswitch_proto::command::{Command, ContainerKind, LabSpec};

    use super::super::testing::{Lab, bridge};
    use super::*;

    fn network(lab: &mut Lab, id: &str, name: &str) -> NetworkId {
        let id = format!("{id:0<64}").parse().unwrap();
        lab.apply(Command::CreateNetwork(bridge(id, name))).unwrap();
        id
    }

    #[test]
    fn full_id_then_name_then_unique_prefix() {
        let mut lab = Lab::default();
        let a = network(&mut lab, "7fca4eb8c647", "bridge");
        let b = network(&mut lab, "7fca4eb8c6ff", "isolated_nw");
        let c = network(&mut lab, "8b05faa32aeb", "7fca4eb8c647");
        let found = |reference: &str| lab.state.find_network(reference).map(|n| n.id);
        assert_eq!(found("isolated_nw"), Ok(b));
        assert_eq!(found(&a.to_string()), Ok(a));
        assert_eq!(found("7fca4eb8c647"), Ok(c), "a name wins over a prefix");
        assert_eq!(found("7fca4eb8c6470"), Ok(a));
        assert_eq!(found("7FCA4EB8C6F"), Ok(b), "an odd number of digits in either case");
        assert_eq!(found("8"), Ok(c));
        let ambiguous = found("7fca4").unwrap_err();
        assert_eq!(ambiguous, LookupError::AmbiguousNetwork { reference: "7fca4".into(), matches: 2 });
        assert_eq!(ambiguous.kind(), ErrorKind::Invalid);
        for missing in ["", "9", "bridg", "7fca4eb8c647g", &"7".repeat(65), "isolated_nw "] {
            let error = found(missing).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{missing}");
        }
    }

    #[test]
    fn containers_and_hostile_text() {
        let mut lab = Lab::default();
        let id: ContainerId = format!("{:0<64}", "f2870c98fd50").parse().unwrap();
        lab.container_with_id(id, "container1", ContainerKind::Lab(LabSpec::default()), vec![]).unwrap();
        for reference in ["container1", "/container1", "f", "f2870c98fd50"] {
            assert_eq!(lab.state.find_container(reference).map(|c| c.id), Ok(id), "{reference}");
        }
        let error = lab.state.find_container(&format!("a\n\u{1b}[2J{}", "x".repeat(10_000))).unwrap_err();
        let text = error.to_string();
        assert!(!text.contains(['\n', '\u{1b}']) && text.len() < 200, "{text}");
        assert!(lab.state.find_attached(&id, "f").is_err());
    }
}
