//! Requests for networks that are only a configuration or are made from one, and the filter of a pruning.

use vswitch_proto::api::{Error, ErrorKind, NetworkCreate, NetworkPrune};

use super::handle::error;
use crate::state::configuration::{ATTACHABLE_OPTION, CONFIG_FROM_OPTION, CONFIG_ONLY_OPTION, is_reserved};
use crate::state::{Network, State};

fn invalid(message: impl Into<String>) -> Error {
    error(ErrorKind::Invalid, message)
}

/// The request with the configuration that it names, and with the options that its record keeps. The rules are docker's.
pub(super) fn resolve(mut request: NetworkCreate, state: &State) -> Result<NetworkCreate, Error> {
    if let Some(option) = request.options.keys().find(|option| is_reserved(option)) {
        let flag = option.trim_start_matches("vswitch.");
        return Err(invalid(format!("the option {option} cannot be given; use --{flag}")));
    }
    match (request.config_only, request.config_from.take()) {
        (true, Some(_)) => Err(invalid(
            "a configuration network cannot be made from another one: --config-only or --config-from",
        )),
        (true, None) => only(request),
        (false, Some(name)) => from(request, &name, state),
        (false, None) => Ok(attachable(request)),
    }
}

fn only(request: NetworkCreate) -> Result<NetworkCreate, Error> {
    if request.internal || request.attachable {
        return Err(invalid(
            "a configuration network has addresses, options and labels only: give --internal and --attachable to the \
             network that is made from it",
        ));
    }
    let kept = NetworkCreate { config_only: false, ..request.clone() };
    let text = serde_json::to_string(&kept).map_err(|e| invalid(format!("the configuration: {e}")))?;
    Ok(NetworkCreate {
        driver: Some("null".into()),
        pools: Vec::new(),
        ipv6: false,
        options: [(CONFIG_ONLY_OPTION.into(), text)].into(),
        ..request
    })
}

fn from(request: NetworkCreate, name: &str, state: &State) -> Result<NetworkCreate, Error> {
    let network = state.networks().find(|network| network.name.as_str() == name).ok_or_else(|| {
        error(ErrorKind::NotFound, format!("no configuration network '{name}'; see vswitchctl network ls"))
    })?;
    let configuration = network
        .configuration()
        .ok_or_else(|| invalid(format!("{name} is no configuration network; make one with --config-only")))?;
    let plain =
        request.pools.is_empty() && !request.ipv6 && request.options.is_empty() && request.labels.is_empty();
    if !plain {
        return Err(invalid(format!(
            "subnets, options and labels come from the configuration {name}; leave them out"
        )));
    }
    let is_local = request.driver.as_deref() != Some("overlay");
    let mut options = configuration.options;
    if is_local {
        options.insert(CONFIG_FROM_OPTION.into(), name.into());
    }
    let made = NetworkCreate {
        pools: configuration.pools,
        ipv6: configuration.ipv6,
        options,
        labels: configuration.labels,
        ..request
    };
    Ok(attachable(made))
}

/// Containers can be connected to any network: the flag is only kept, and an overlay network needs none.
fn attachable(mut request: NetworkCreate) -> NetworkCreate {
    if request.attachable && request.driver.as_deref() != Some("overlay") {
        request.options.insert(ATTACHABLE_OPTION.into(), "true".into());
    }
    request
}

/// # Errors
/// While networks were made from this configuration.
pub(super) fn check_removal(network: &Network, state: &State) -> Result<(), Error> {
    let made = state
        .networks()
        .filter(|other| network.is_config_only() && other.config_from() == Some(network.name.as_str()));
    let made: Vec<&str> = made.map(|other| other.name.as_str()).collect();
    if made.is_empty() {
        return Ok(());
    }
    let message =
        format!("the configuration {} is used by {}: remove them first", network.name, made.join(", "));
    Err(error(ErrorKind::Conflict, message))
}

/// # Errors
/// For a network that is only a configuration.
pub(super) fn check_connection(network: &Network) -> Result<(), Error> {
    if !network.is_config_only() {
        return Ok(());
    }
    let name = &network.name;
    let message = format!(
        "{name} is only a configuration; connect to a network made from it: vswitchctl network create --config-from {name} NETWORK"
    );
    Err(error(ErrorKind::Conflict, message))
}

/// Whether a pruning may remove an unused network.
pub(super) fn may_prune(network: &Network, filter: &NetworkPrune) -> bool {
    let has = |label: &String| match label.split_once('=') {
        Some((key, value)) => network.labels.get(key).is_some_and(|found| found == value),
        None => network.labels.contains_key(label),
    };
    !network.is_config_only()
        && filter.until_ms.is_none_or(|until| network.created_at_ms < until)
        && filter.labels.iter().all(has)
        && !filter.labels_absent.iter().any(has)
}
