//! `--filter KEY=VALUE`. Values of one key are alternatives, apart from labels, all of which must be there;
//! different keys must all hold. As docker has it.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::str::FromStr;

use vswitch_proto::api::{ContainerSummary, Network};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition<K> {
    key: K,
    value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("a filter is KEY=VALUE")]
    NoValue,
    #[error("unknown filter '{key}'; known are {known}")]
    UnknownKey { key: String, known: &'static str },
    #[error("'{value}' is no {key}; known are {known}")]
    UnknownValue { key: &'static str, value: String, known: &'static str },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKey {
    Name,
    Id,
    Driver,
    Label,
    Scope,
    Type,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKey {
    Name,
    Id,
    Status,
    Network,
    Label,
}

pub type NetworkFilter = Condition<NetworkKey>;
pub type ContainerFilter = Condition<ContainerKey>;

fn split(text: &str) -> Result<(&str, &str), FilterError> {
    text.split_once('=').ok_or(FilterError::NoValue)
}

impl FromStr for NetworkFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<NetworkFilter, FilterError> {
        let (key, value) = split(text)?;
        let key = match key {
            "name" => NetworkKey::Name,
            "id" => NetworkKey::Id,
            "driver" => NetworkKey::Driver,
            "label" => NetworkKey::Label,
            "scope" => NetworkKey::Scope,
            "type" => NetworkKey::Type,
            other => {
                let known = "driver, id, label, name, scope, type";
                return Err(FilterError::UnknownKey { key: other.into(), known });
            }
        };
        if key == NetworkKey::Type && !matches!(value, "builtin" | "custom") {
            let known = "builtin, custom";
            return Err(FilterError::UnknownValue { key: "type", value: value.into(), known });
        }
        Ok(Condition { key, value: value.into() })
    }
}

impl FromStr for ContainerFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<ContainerFilter, FilterError> {
        let (key, value) = split(text)?;
        let key = match key {
            "name" => ContainerKey::Name,
            "id" => ContainerKey::Id,
            "status" => ContainerKey::Status,
            "network" => ContainerKey::Network,
            "label" => ContainerKey::Label,
            other => {
                let known = "id, label, name, network, status";
                return Err(FilterError::UnknownKey { key: other.into(), known });
            }
        };
        if key == ContainerKey::Status && !matches!(value, "created" | "running" | "exited") {
            let known = "created, exited, running";
            return Err(FilterError::UnknownValue { key: "status", value: value.into(), known });
        }
        Ok(Condition { key, value: value.into() })
    }
}

/// Every key that is asked for has a value that holds.
fn all_keys<K: Copy + PartialEq>(conditions: &[Condition<K>], holds: impl Fn(K, &str) -> bool) -> bool {
    conditions.iter().all(|condition| {
        let mut same_key = conditions.iter().filter(|other| other.key == condition.key);
        same_key.any(|other| holds(other.key, &other.value))
    })
}

fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

fn has_labels<K: Copy + PartialEq>(
    conditions: &[Condition<K>],
    key: K,
    labels: &BTreeMap<String, String>,
) -> bool {
    conditions.iter().filter(|c| c.key == key).all(|c| has_label(labels, &c.value))
}

/// The three networks that are there from the start.
pub fn is_builtin(network: &Network) -> bool {
    matches!(network.name.as_str(), "bridge" | "none" | "host")
}

pub fn network_matches(network: &Network, conditions: &[NetworkFilter]) -> bool {
    has_labels(conditions, NetworkKey::Label, &network.labels)
        && all_keys(conditions, |key, value| match key {
            NetworkKey::Name => network.name.contains(value),
            NetworkKey::Id => network.id.starts_with(value),
            NetworkKey::Driver => network.driver == value,
            NetworkKey::Label => true,
            NetworkKey::Scope => network.scope == value,
            NetworkKey::Type => is_builtin(network) == (value == "builtin"),
        })
}

/// `networks` are those that [`wanted_networks`] stand for, by name.
pub fn container_matches(
    container: &ContainerSummary,
    conditions: &[ContainerFilter],
    networks: &[String],
) -> bool {
    has_labels(conditions, ContainerKey::Label, &container.labels)
        && all_keys(conditions, |key, value| match key {
            ContainerKey::Name => container.names.contains(value),
            ContainerKey::Id => container.id.starts_with(value),
            ContainerKey::Status => container.state == value,
            ContainerKey::Network => container.networks.iter().any(|name| networks.contains(name)),
            ContainerKey::Label => true,
        })
}

/// Names or ids of networks that the conditions ask for.
pub fn wanted_networks(conditions: &[ContainerFilter]) -> Vec<&str> {
    conditions.iter().filter(|c| c.key == ContainerKey::Network).map(|c| c.value.as_str()).collect()
}

/// Asking for a status means containers that do not run, too.
pub fn asks_for_status(conditions: &[ContainerFilter]) -> bool {
    conditions.iter().any(|c| c.key == ContainerKey::Status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, labels: &[(&str, &str)]) -> Network {
        Network {
            name: name.into(),
            id: "abc".repeat(21) + "0",
            created: String::new(),
            scope: "local".into(),
            driver: "bridge".into(),
            enable_ipv4: true,
            enable_ipv6: false,
            ipam: Default::default(),
            internal: false,
            containers: BTreeMap::new(),
            options: BTreeMap::new(),
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        }
    }

    fn matches(network: &Network, filters: &[&str]) -> bool {
        let conditions: Vec<NetworkFilter> = filters.iter().map(|f| f.parse().unwrap()).collect();
        network_matches(network, &conditions)
    }

    #[test]
    fn networks_are_filtered_as_docker_does() {
        let web = network("web", &[("app", "x"), ("tier", "")]);
        for (filters, expected) in [
            (&[][..], true),
            (&["name=we"], true),
            (&["name=db"], false),
            (&["name=db", "name=web"], true),
            (&["name=web", "driver=null"], false),
            (&["id=abcab"], true),
            (&["id=b"], false),
            (&["driver=bridge", "scope=local"], true),
            (&["scope=swarm"], false),
            (&["label=app"], true),
            (&["label=app=x", "label=tier"], true),
            (&["label=app=x", "label=nope"], false),
            (&["label=app=y"], false),
            (&["type=custom"], true),
            (&["type=builtin"], false),
            (&["type=builtin", "type=custom"], true),
        ] {
            assert_eq!(matches(&web, filters), expected, "{filters:?}");
        }
        assert!(matches(&network("none", &[]), &["type=builtin"]));
    }

    #[test]
    fn containers_are_filtered_as_docker_does() {
        let container = ContainerSummary {
            id: "f2870c98".into(),
            names: "container1".into(),
            command: "sh".into(),
            created_at: String::new(),
            state: "running".into(),
            status: String::new(),
            kind: "lab".into(),
            networks: vec!["bridge".into(), "isolated_nw".into()],
            labels: BTreeMap::from([("a".into(), "1".into())]),
        };
        let check = |filters: &[&str], networks: &[&str]| {
            let conditions: Vec<ContainerFilter> = filters.iter().map(|f| f.parse().unwrap()).collect();
            let networks: Vec<String> = networks.iter().map(|n| (*n).into()).collect();
            container_matches(&container, &conditions, &networks)
        };
        assert!(check(&["name=tainer1", "id=f28", "status=running", "label=a=1"], &[]));
        assert!(check(&["status=exited", "status=running"], &[]));
        assert!(!check(&["status=exited"], &[]));
        assert!(check(&["network=isolated_nw"], &["isolated_nw"]));
        assert!(!check(&["network=8b05"], &[]));
        let conditions = ["network=a".parse().unwrap(), "status=exited".parse().unwrap()];
        assert_eq!(wanted_networks(&conditions), ["a"]);
        assert!(asks_for_status(&conditions) && !asks_for_status(&conditions[..1]));
    }

    #[test]
    fn bad_filters_say_what_is_known() {
        for (text, message) in [
            ("name", "a filter is KEY=VALUE"),
            ("", "a filter is KEY=VALUE"),
            ("nope=1", "unknown filter 'nope'; known are driver, id, label, name, scope, type"),
            ("type=odd", "'odd' is no type; known are builtin, custom"),
        ] {
            assert_eq!(text.parse::<NetworkFilter>().unwrap_err().to_string(), message);
        }
        let error = "status=paused".parse::<ContainerFilter>().unwrap_err().to_string();
        assert_eq!(error, "'paused' is no status; known are created, exited, running");
        assert!("driver=bridge".parse::<ContainerFilter>().is_err());
    }
}
