//! `--filter KEY=VALUE`. Values of one key are alternatives, apart from labels, all of which must be there;
//! different keys must all hold. Names and ids are regular expressions, that need match a part only. As docker has it;
//! only that an expression which is none is an error here.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};
use vswitch_proto::api::{ContainerSummary, Network};

/// Memory of a compiled expression, bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone)]
pub struct Condition<K> {
    key: K,
    value: String,
    /// Of names and ids.
    pattern: Option<Regex>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("a filter is KEY=VALUE")]
    NoValue,
    #[error("unknown filter '{key}'; known are {known}")]
    UnknownKey { key: String, known: &'static str },
    #[error("'{value}' is no {key}; known are {known}")]
    UnknownValue { key: String, value: String, known: &'static str },
    #[error("'{value}' is no regular expression: {reason}")]
    Pattern { value: String, reason: String },
    #[error("the filter '{key}' is not supported: {reason}")]
    Refused { key: String, reason: &'static str },
    #[error("the filter '{0}' is given with different values; give it once")]
    Ambiguous(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKey {
    Dangling,
    Driver,
    Id,
    Label,
    Name,
    Scope,
    Type,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKey {
    Before,
    Exited,
    Health,
    Id,
    Label,
    Name,
    Network,
    Since,
    Status,
}

pub type NetworkFilter = Condition<NetworkKey>;
pub type ContainerFilter = Condition<ContainerKey>;

/// As docker reads it: the key in any case, white space around both parts.
fn split(text: &str) -> Result<(String, &str), FilterError> {
    let (key, value) = text.split_once('=').ok_or(FilterError::NoValue)?;
    Ok((key.trim().to_ascii_lowercase(), value.trim()))
}

fn one_of(key: &str, value: &str, values: &[&str], known: &'static str) -> Result<(), FilterError> {
    if values.contains(&value) {
        return Ok(());
    }
    Err(FilterError::UnknownValue { key: key.into(), value: value.into(), known })
}

fn pattern(value: &str) -> Result<Option<Regex>, FilterError> {
    let compiled = RegexBuilder::new(value).size_limit(PATTERN_BYTES_MAX).build();
    compiled.map(Some).map_err(|error| {
        // The last line of a syntax error says what is wrong, those before it where.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        FilterError::Pattern { value: value.into(), reason }
    })
}

impl FromStr for NetworkFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<NetworkFilter, FilterError> {
        let (name, value) = split(text)?;
        let key = match name.as_str() {
            "dangling" => NetworkKey::Dangling,
            "driver" => NetworkKey::Driver,
            "id" => NetworkKey::Id,
            "label" => NetworkKey::Label,
            "name" => NetworkKey::Name,
            "scope" => NetworkKey::Scope,
            "type" => NetworkKey::Type,
            _ => {
                let known = "dangling, driver, id, label, name, scope, type";
                return Err(FilterError::UnknownKey { key: name, known });
            }
        };
        match key {
            NetworkKey::Type => one_of(&name, value, &["builtin", "custom"], "builtin, custom")?,
            NetworkKey::Scope => one_of(&name, value, &["global", "local", "swarm"], "global, local, swarm")?,
            NetworkKey::Dangling => one_of(&name, value, &["0", "1", "false", "true"], "false, true")?,
            _ => {}
        }
        let is_pattern = matches!(key, NetworkKey::Name | NetworkKey::Id);
        let pattern = if is_pattern { pattern(value)? } else { None };
        Ok(Condition { key, value: value.into(), pattern })
    }
}

impl FromStr for ContainerFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<ContainerFilter, FilterError> {
        let (name, value) = split(text)?;
        let refused = |reason| Err(FilterError::Refused { key: name.clone(), reason });
        let key = match name.as_str() {
            "before" => ContainerKey::Before,
            "exited" => ContainerKey::Exited,
            "health" => ContainerKey::Health,
            "id" => ContainerKey::Id,
            "label" => ContainerKey::Label,
            "name" => ContainerKey::Name,
            "network" => ContainerKey::Network,
            "since" => ContainerKey::Since,
            "status" => ContainerKey::Status,
            "ancestor" => return refused("there are no images here"),
            "publish" | "expose" => return refused("published ports are not there yet"),
            "volume" => return refused("volumes are not listed; see 'vswitchctl inspect'"),
            "isolation" => return refused("it is for Windows"),
            "is-task" => return refused("there is no swarm"),
            _ => {
                let known = "before, exited, health, id, label, name, network, since, status";
                return Err(FilterError::UnknownKey { key: name, known });
            }
        };
        match key {
            ContainerKey::Status => {
                let states = &["created", "restarting", "running", "removing", "paused", "exited", "dead"];
                let known = "created, restarting, running, removing, paused, exited, dead";
                one_of(&name, value, states, known)?;
            }
            ContainerKey::Health => {
                let known = "starting, healthy, unhealthy, none";
                one_of(&name, value, &["starting", "healthy", "unhealthy", "none"], known)?;
            }
            ContainerKey::Exited if value.parse::<i32>().is_err() => {
                let known = "the numbers that processes exit with";
                return Err(FilterError::UnknownValue { key: name, value: value.into(), known });
            }
            _ => {}
        }
        let is_pattern = matches!(key, ContainerKey::Name | ContainerKey::Id);
        let pattern = if is_pattern { pattern(value)? } else { None };
        Ok(Condition { key, value: value.into(), pattern })
    }
}

impl<K> Condition<K> {
    /// Whether the name or id is the value, or matches it as an expression.
    fn finds(&self, text: &str) -> bool {
        self.value == text || self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
    }

    /// The value of a filter that is true or false.
    fn is_true(&self) -> bool {
        matches!(self.value.as_str(), "1" | "true")
    }
}

/// Every key that is asked for has a value that holds.
fn all_keys<K: Copy + PartialEq>(
    conditions: &[Condition<K>],
    holds: impl Fn(K, &Condition<K>) -> bool,
) -> bool {
    conditions.iter().all(|condition| {
        let mut same_key = conditions.iter().filter(|other| other.key == condition.key);
        same_key.any(|other| holds(other.key, other))
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

/// # Errors
/// When the filters contradict each other in a way that docker refuses.
pub fn check_networks(conditions: &[NetworkFilter]) -> Result<(), FilterError> {
    let mut dangling = conditions.iter().filter(|c| c.key == NetworkKey::Dangling).map(Condition::is_true);
    let first = dangling.next();
    if dangling.any(|value| Some(value) != first) { Err(FilterError::Ambiguous("dangling")) } else { Ok(()) }
}

pub fn network_matches(network: &Network, conditions: &[NetworkFilter]) -> bool {
    let is_used = is_builtin(network) || !network.containers.is_empty();
    has_labels(conditions, NetworkKey::Label, &network.labels)
        && all_keys(conditions, |key, condition| match key {
            NetworkKey::Dangling => is_used != condition.is_true(),
            NetworkKey::Driver => network.driver == condition.value,
            NetworkKey::Id => condition.finds(&network.id),
            NetworkKey::Label => true,
            NetworkKey::Name => condition.finds(&network.name),
            NetworkKey::Scope => network.scope == condition.value,
            NetworkKey::Type => is_builtin(network) == (condition.value == "builtin"),
        })
}

/// The containers and networks that the conditions name.
#[derive(Debug, Default)]
pub struct Named {
    /// Networks that are asked for, by their own names.
    pub networks: Vec<String>,
    /// When the containers of `before` and `since` were created, as their rows say.
    pub before: Vec<String>,
    pub since: Vec<String>,
}

pub fn container_matches(
    container: &ContainerSummary,
    conditions: &[ContainerFilter],
    named: &Named,
) -> bool {
    let created = &container.created_at;
    has_labels(conditions, ContainerKey::Label, &container.labels)
        && all_keys(conditions, |key, condition| match key {
            ContainerKey::Before => named.before.iter().all(|other| created < other),
            ContainerKey::Exited => exit_code(container).is_some_and(|code| code == condition.value),
            // Nothing has a health check.
            ContainerKey::Health => condition.value == "none",
            ContainerKey::Id => condition.finds(&container.id),
            ContainerKey::Label => true,
            ContainerKey::Name => {
                condition.finds(&container.names) || condition.finds(&format!("/{}", container.names))
            }
            ContainerKey::Network => container.networks.iter().any(|name| named.networks.contains(name)),
            ContainerKey::Since => named.since.iter().all(|other| created > other),
            ContainerKey::Status => container.state == condition.value,
        })
}

/// The code in `Exited (0) 2 minutes ago`.
fn exit_code(container: &ContainerSummary) -> Option<&str> {
    container.status.strip_prefix("Exited (")?.split(')').next()
}

/// Names or ids that the conditions of a key ask for.
pub fn references(conditions: &[ContainerFilter], key: ContainerKey) -> Vec<&str> {
    conditions.iter().filter(|c| c.key == key).map(|c| c.value.as_str()).collect()
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
            attachable: false,
            ingress: false,
            config_from: Default::default(),
            config_only: false,
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
            (&["id=bca"], true),
            (&["id=^bca"], false),
            (&["id=0$"], true),
            (&["id=g"], false),
            (&["name=^web$"], true),
            (&["name=^we$"], false),
            (&["name=^(db|we)b?"], true),
            (&["name=W"], false),
            (&["name=(?i)WEB"], true),
            (&["NAME = web "], true),
            (&["driver=bridg"], false),
            (&["dangling=true"], true),
            (&["dangling=0"], false),
            (&["dangling=1", "name=db"], false),
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
        let none = network("none", &[]);
        assert!(matches(&none, &["type=builtin"]) && matches(&none, &["dangling=false"]));
        assert!(!matches(&none, &["dangling=true"]), "docker never calls a default network dangling");
        let mut used = network("web", &[]);
        used.containers.insert("c".into(), Default::default());
        assert!(matches(&used, &["dangling=false"]) && !matches(&used, &["dangling=true"]));
        let both: Vec<NetworkFilter> = ["dangling=0", "dangling=true"].map(|f| f.parse().unwrap()).into();
        assert!(check_networks(&both).is_err() && check_networks(&both[..1]).is_ok());
    }

    #[test]
    fn containers_are_filtered_as_docker_does() {
        let container = ContainerSummary {
            id: "f2870c98".into(),
            names: "container1".into(),
            command: "sh".into(),
            created_at: "2026-02-01".into(),
            state: "running".into(),
            status: "Exited (12) 2 seconds ago".into(),
            kind: "lab".into(),
            networks: vec!["bridge".into(), "isolated_nw".into()],
            labels: BTreeMap::from([("a".into(), "1".into())]),
        };
        let check = |filters: &[&str], networks: &[&str]| {
            let conditions: Vec<ContainerFilter> = filters.iter().map(|f| f.parse().unwrap()).collect();
            let networks = networks.iter().map(|n| (*n).into()).collect();
            let named =
                Named { networks, before: vec!["2026-03-01".into()], since: vec!["2026-01-01".into()] };
            container_matches(&container, &conditions, &named)
        };
        assert!(check(&["name=tainer1", "id=f28", "status=running", "label=a=1"], &[]));
        assert!(check(&["status=exited", "status=running"], &[]));
        for (filters, expected) in [
            (&["name=^/?container1$"][..], true),
            (&["name=^ontainer"], false),
            (&["id=870"], true),
            (&["id=^870"], false),
            (&["exited=12"], true),
            (&["exited=1"], false),
            (&["exited=1", "exited=12"], true),
            (&["health=none"], true),
            (&["health=healthy"], false),
            (&["status=paused"], false),
            (&["before=x", "since=y"], true),
        ] {
            assert_eq!(check(filters, &[]), expected, "{filters:?}");
        }
        assert!(!check(&["status=exited"], &[]));
        assert!(check(&["network=isolated_nw"], &["isolated_nw"]));
        assert!(!check(&["network=8b05"], &[]));
        let conditions = ["network=a".parse().unwrap(), "status=exited".parse().unwrap()];
        assert_eq!(references(&conditions, ContainerKey::Network), ["a"]);
        assert!(asks_for_status(&conditions) && !asks_for_status(&conditions[..1]));
    }

    #[test]
    fn bad_filters_say_what_is_known() {
        for (text, message) in [
            ("name", "a filter is KEY=VALUE"),
            ("", "a filter is KEY=VALUE"),
            ("nope=1", "unknown filter 'nope'; known are dangling, driver, id, label, name, scope, type"),
            ("scope=odd", "'odd' is no scope; known are global, local, swarm"),
            ("dangling=maybe", "'maybe' is no dangling; known are false, true"),
            ("name=a(", "'a(' is no regular expression: unclosed group"),
            (
                "id=[z-a]",
                "'[z-a]' is no regular expression: invalid character class range, the start must be <= the end",
            ),
            ("type=odd", "'odd' is no type; known are builtin, custom"),
        ] {
            assert_eq!(text.parse::<NetworkFilter>().unwrap_err().to_string(), message);
        }
        for (text, message) in [
            (
                "status=odd",
                "'odd' is no status; known are created, restarting, running, removing, paused, exited, dead",
            ),
            ("exited=x", "'x' is no exited; known are the numbers that processes exit with"),
            ("health=well", "'well' is no health; known are starting, healthy, unhealthy, none"),
            ("ancestor=busybox", "the filter 'ancestor' is not supported: there are no images here"),
            (
                "driver=bridge",
                "unknown filter 'driver'; known are before, exited, health, id, label, name, network, since, status",
            ),
        ] {
            assert_eq!(text.parse::<ContainerFilter>().unwrap_err().to_string(), message);
        }
        let huge = format!("name={}", "(a{1000}){1000}");
        assert!(huge.parse::<NetworkFilter>().is_err(), "an expression has a bound");
    }
}
