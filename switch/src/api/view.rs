//! What the API shows of the state: Docker's shapes, made from one consistent state. Pure; `now` is an argument.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vswitch_proto::api;
use vswitch_proto::command::{Addresses, Attachment, ContainerKind, Driver, NetnsSource};
use vswitch_proto::id::{EndpointId, Name};

use super::settings;
use crate::state::shared::Lease;
use crate::state::{Container, Endpoint, Network, Phase, State, View, Wire};

/// With the containers that run in it: on all nodes, in a network of the cluster.
pub fn network(view: View<'_>, network: &Network) -> api::Network {
    let is_shared = network.driver == Driver::Overlay;
    let containers = if is_shared { leased(view, network) } else { running(view.local, network) };
    let configuration = network.configuration();
    if let Some(configuration) = configuration {
        return config_only(network, configuration);
    }
    api::Network {
        name: network.name.to_string(),
        id: network.id.to_string(),
        created: rfc3339(network.created_at_ms),
        scope: if is_shared { "global" } else { "local" }.into(),
        driver: driver_name(network.driver).into(),
        enable_ipv4: network.pools.iter().any(|pool| pool.gateway.is_ipv4()),
        enable_ipv6: network.ipv6,
        ipam: ipam(network),
        internal: network.internal,
        attachable: is_shared || network.is_attachable(),
        ingress: false,
        config_from: api::ConfigFrom { network: network.config_from().unwrap_or_default().into() },
        config_only: false,
        containers,
        options: network.driver_options(),
        labels: network.labels.clone(),
    }
}

/// A network that is only a configuration, with what networks made from it will have.
fn config_only(network: &Network, configuration: api::NetworkCreate) -> api::Network {
    let config = configuration.pools.iter().map(|pool| api::IpamConfig {
        subnet: pool.subnet.to_string(),
        ip_range: pool.ip_range.map(|range| range.to_string()).unwrap_or_default(),
        gateway: pool.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
        auxiliary_addresses: pool.aux_addresses.iter().map(|(k, v)| (k.clone(), v.to_string())).collect(),
    });
    api::Network {
        name: network.name.to_string(),
        id: network.id.to_string(),
        created: rfc3339(network.created_at_ms),
        scope: "local".into(),
        driver: driver_name(network.driver).into(),
        enable_ipv4: true,
        enable_ipv6: configuration.ipv6,
        ipam: api::Ipam { driver: "default".into(), options: BTreeMap::new(), config: config.collect() },
        internal: false,
        attachable: false,
        ingress: false,
        config_from: api::ConfigFrom::default(),
        config_only: true,
        containers: BTreeMap::new(),
        options: configuration.options,
        labels: configuration.labels,
    }
}

fn ipam(network: &Network) -> api::Ipam {
    let config = network.pools.iter().map(|pool| api::IpamConfig {
        subnet: pool.subnet.to_string(),
        ip_range: pool.ip_range.map(|range| range.to_string()).unwrap_or_default(),
        gateway: pool.gateway.to_string(),
        auxiliary_addresses: pool.aux_addresses.iter().map(|(k, v)| (k.clone(), v.to_string())).collect(),
    });
    api::Ipam { driver: "default".into(), options: BTreeMap::new(), config: config.collect() }
}

fn running(state: &State, network: &Network) -> BTreeMap<String, api::NetworkContainer> {
    let shown = |endpoint: &Endpoint| {
        let container = state.container(&endpoint.container).filter(|c| c.phase == Phase::Running)?;
        let addresses = endpoint.wire.as_ref().map(Wire::granted);
        let row = network_container(network, &container.name, &endpoint.id, addresses);
        Some((container.shown_id().to_string(), row))
    };
    state.endpoints_in(&network.id).filter_map(shown).collect()
}

fn leased(view: View<'_>, network: &Network) -> BTreeMap<String, api::NetworkContainer> {
    let shown = |lease: &Lease| {
        let row = network_container(network, &lease.container_name, &lease.endpoint, Some(lease.addresses));
        (lease.container.to_string(), row)
    };
    view.shared.leases_in(&network.id).map(shown).collect()
}

fn network_container(
    network: &Network,
    name: &Name,
    endpoint: &EndpointId,
    addresses: Option<Addresses>,
) -> api::NetworkContainer {
    let cidr = |address: Option<String>, v6: bool| match (address, prefix_len(network, v6)) {
        (Some(address), Some(len)) => format!("{address}/{len}"),
        _ => String::new(),
    };
    api::NetworkContainer {
        name: name.to_string(),
        endpoint_id: endpoint.to_string(),
        mac_address: addresses.map(|a| a.mac.to_string()).unwrap_or_default(),
        ipv4_address: cidr(addresses.and_then(|a| a.ipv4).map(|ip| ip.to_string()), false),
        ipv6_address: cidr(addresses.and_then(|a| a.ipv6).map(|ip| ip.to_string()), true),
    }
}

fn prefix_len(network: &Network, v6: bool) -> Option<u8> {
    network
        .pools
        .iter()
        .map(|pool| pool.subnet)
        .find(|net| net.addr().is_ipv6() == v6)
        .map(|net| net.prefix_len())
}

pub fn driver_name(driver: Driver) -> &'static str {
    match driver {
        Driver::Bridge => "bridge",
        Driver::None => "null",
        Driver::Host => "host",
        Driver::Overlay => "overlay",
    }
}

pub fn summary(view: View<'_>, container: &Container, now: SystemTime) -> api::ContainerSummary {
    let (command, kind, labels) = match &container.kind {
        ContainerKind::Lab(spec) => {
            let words: Vec<&str> = spec.words().map(String::as_str).collect();
            (words.join(" "), "lab", &spec.labels)
        }
        ContainerKind::Adopted(spec) => (netns_path(&spec.source), "adopted", &spec.labels),
        ContainerKind::Docker(_) => (String::new(), "docker", &NO_LABELS),
    };
    let networks = attachments(view.local, container).filter_map(|(_, a)| view.network(&a.network));
    api::ContainerSummary {
        id: container.shown_id().to_string(),
        names: container.name.to_string(),
        command,
        created_at: rfc3339(container.created_at_ms),
        state: phase_name(&container.phase).into(),
        status: status(container, now),
        kind: kind.into(),
        networks: networks.map(|network| network.name.to_string()).collect(),
        labels: labels.clone(),
    }
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

fn kind_name(kind: &ContainerKind) -> &'static str {
    match kind {
        ContainerKind::Lab(_) => "lab",
        ContainerKind::Adopted(_) => "adopted",
        ContainerKind::Docker(_) => "docker",
    }
}

/// Whether it stands for its container: of the endpoints of one container of Docker's, the first does.
pub fn is_shown(state: &State, container: &Container) -> bool {
    attachments(state, container).next().is_none_or(|(first, _)| first.id == container.id)
}

/// What a container is attached to, with who holds it: a container of Docker's has an endpoint for each.
fn attachments<'a>(
    state: &'a State,
    container: &'a Container,
) -> impl Iterator<Item = (&'a Container, &'a Attachment)> {
    let id = container.docker().and_then(|spec| spec.container);
    let others = state.docker_endpoints().filter(move |(_, spec)| id.is_some() && spec.container == id);
    let alone = Some(container).filter(|_| id.is_none());
    let holders = alone.into_iter().chain(others.map(|(holder, _)| holder));
    holders.flat_map(|holder| holder.attachments.iter().map(move |attachment| (holder, attachment)))
}

fn phase_name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Created => "created",
        Phase::Running => "running",
        Phase::Exited { .. } => "exited",
    }
}

fn status(container: &Container, now: SystemTime) -> String {
    let since = |at_ms: Option<u64>| {
        let at = UNIX_EPOCH + Duration::from_millis(at_ms.unwrap_or(container.created_at_ms));
        roughly(now.duration_since(at).unwrap_or_default())
    };
    match &container.phase {
        Phase::Created => "Created".into(),
        Phase::Running => format!("Up {}", since(container.started_at_ms)),
        Phase::Exited { code, .. } => format!("Exited ({code}) {} ago", since(container.finished_at_ms)),
    }
}

/// As Docker words a duration: the largest unit that is not too coarse.
fn roughly(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{s} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{} minutes", s / 60),
        3600..7200 => "About an hour".into(),
        7200..172_800 => format!("{} hours", s / 3600),
        172_800..1_209_600 => format!("{} days", s / 86_400),
        1_209_600..5_184_000 => format!("{} weeks", s / 604_800),
        _ => format!("{} months", s / 2_592_000),
    }
}

/// `pid` is 0 for a container that does not run; `dir` is where its files are.
pub fn container(view: View<'_>, container: &Container, pid: u32, dir: &Path) -> api::Container {
    let file = |name: &str| match container.kind {
        ContainerKind::Lab(_) => dir.join(name).display().to_string(),
        ContainerKind::Adopted(_) | ContainerKind::Docker(_) => String::new(),
    };
    let words: Vec<String> = container.lab().map(|spec| spec.words().cloned().collect()).unwrap_or_default();
    let mut words = words.into_iter();
    api::Container {
        id: container.shown_id().to_string(),
        name: format!("/{}", container.name),
        created: rfc3339(container.created_at_ms),
        path: words.next().unwrap_or_default(),
        args: words.collect(),
        state: container_state(container, pid),
        image: rootfs(container),
        platform: "linux".into(),
        driver: String::new(),
        mount_label: String::new(),
        process_label: String::new(),
        app_armor_profile: String::new(),
        exec_ids: None,
        kind: kind_name(&container.kind).into(),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        resolv_conf_path: file("resolv.conf"),
        log_path: file("log"),
        restart_count: container.restarts,
        mounts: container.lab().map(|spec| settings::mounts(&spec.settings)).unwrap_or_default(),
        config: container_config(container),
        host_config: host_config(view, container),
        network_settings: network_settings(view, container, pid),
    }
}

/// The directory that a container has for its root, where Docker has an image.
fn rootfs(container: &Container) -> String {
    match &container.kind {
        ContainerKind::Lab(spec) => spec.rootfs.clone().unwrap_or_default(),
        ContainerKind::Adopted(_) | ContainerKind::Docker(_) => String::new(),
    }
}

fn container_state(container: &Container, pid: u32) -> api::ContainerState {
    let (exit_code, error) = match &container.phase {
        Phase::Exited { code, error } => (*code, error.clone()),
        _ => (0, String::new()),
    };
    api::ContainerState {
        status: phase_name(&container.phase).into(),
        running: container.phase == Phase::Running,
        restarting: false,
        paused: false,
        oom_killed: false,
        dead: false,
        pid,
        exit_code,
        error,
        // Docker's zero time stands for "never".
        started_at: container.started_at_ms.map_or("0001-01-01T00:00:00Z".into(), rfc3339),
        finished_at: container.finished_at_ms.map_or("0001-01-01T00:00:00Z".into(), rfc3339),
    }
}

fn container_config(container: &Container) -> api::ContainerConfig {
    match &container.kind {
        ContainerKind::Lab(spec) => api::ContainerConfig {
            hostname: container.hostname(),
            domainname: spec.settings.domainname.clone().unwrap_or_default(),
            user: spec.settings.user.clone().unwrap_or_default(),
            entrypoint: Some(spec.settings.entrypoint.clone()).filter(|words| !words.is_empty()),
            stop_signal: spec.settings.stop_signal.map(settings::signal_name).unwrap_or_default(),
            stop_timeout: spec.settings.stop_timeout_s,
            image: rootfs(container),
            attach_stdin: spec.open_stdin,
            attach_stdout: true,
            attach_stderr: true,
            tty: spec.tty,
            open_stdin: spec.open_stdin,
            env: spec.env.clone(),
            cmd: spec.command.clone(),
            working_dir: spec.workdir.clone().unwrap_or_default(),
            labels: spec.labels.clone(),
            ..api::ContainerConfig::default()
        },
        ContainerKind::Adopted(spec) => {
            api::ContainerConfig { labels: spec.labels.clone(), ..api::ContainerConfig::default() }
        }
        ContainerKind::Docker(_) => api::ContainerConfig::default(),
    }
}

fn host_config(view: View<'_>, container: &Container) -> api::HostConfig {
    let mode = container.attachments.first().and_then(|a| view.network(&a.network));
    let network_mode = mode.map(|network| network.name.to_string()).unwrap_or_default();
    match &container.kind {
        ContainerKind::Lab(spec) => api::HostConfig {
            network_mode: spec.network_of.map_or(network_mode, |owner| format!("container:{owner}")),
            settings: settings::host(&spec.settings),
            auto_remove: spec.auto_remove,
            rootfs: spec.rootfs.clone().unwrap_or_default(),
            netns: String::new(),
        },
        ContainerKind::Adopted(spec) => {
            api::HostConfig { network_mode, netns: netns_path(&spec.source), ..api::HostConfig::default() }
        }
        ContainerKind::Docker(spec) => {
            let netns = spec.sandbox.clone().unwrap_or_default();
            api::HostConfig { network_mode, netns, ..api::HostConfig::default() }
        }
    }
}

fn netns_path(source: &NetnsSource) -> String {
    match source {
        NetnsSource::Pid { pid, .. } => format!("/proc/{pid}/ns/net"),
        NetnsSource::Path(path) => path.clone(),
    }
}

fn network_settings(view: View<'_>, container: &Container, pid: u32) -> api::NetworkSettings {
    let networks: BTreeMap<String, api::EndpointSettings> = attachments(view.local, container)
        .filter_map(|(holder, attachment)| {
            let network = view.network(&attachment.network)?;
            let endpoint = view.local.endpoint_at(&holder.id, &network.id);
            let wire = endpoint.and_then(|endpoint| view.wire(endpoint));
            let settings = endpoint_settings(network, endpoint, wire);
            Some((network.name.to_string(), asked(settings, container, attachment)))
        })
        .collect();
    let bridge = networks.get("bridge").cloned().unwrap_or_default();
    let sandbox_key = sandbox(container, pid);
    api::NetworkSettings {
        bridge: String::new(),
        ports: BTreeMap::new(),
        sandbox_id: if sandbox_key.is_empty() { String::new() } else { container.shown_id().to_string() },
        sandbox_key,
        endpoint_id: bridge.endpoint_id,
        gateway: bridge.gateway,
        global_ipv6_address: bridge.global_ipv6_address,
        global_ipv6_prefix_len: bridge.global_ipv6_prefix_len,
        ip_address: bridge.ip_address,
        ip_prefix_len: bridge.ip_prefix_len,
        ipv6_gateway: bridge.ipv6_gateway,
        mac_address: bridge.mac_address,
        networks,
    }
}

/// Path of the network namespace of a container that runs.
fn sandbox(container: &Container, pid: u32) -> String {
    match &container.kind {
        _ if container.phase != Phase::Running => String::new(),
        ContainerKind::Lab(_) if pid > 0 => format!("/proc/{pid}/ns/net"),
        ContainerKind::Lab(_) => String::new(),
        ContainerKind::Adopted(spec) => netns_path(&spec.source),
        ContainerKind::Docker(spec) => spec.sandbox.clone().unwrap_or_default(),
    }
}

/// The settings with what was asked of the attachment.
fn asked(
    settings: api::EndpointSettings,
    container: &Container,
    attachment: &Attachment,
) -> api::EndpointSettings {
    let aliases: Vec<String> = attachment.aliases.iter().map(ToString::to_string).collect();
    let text = |address: Option<String>| address.unwrap_or_default();
    let ipam_config = api::EndpointIpamConfig {
        ipv4_address: text(attachment.ipv4.map(|ip| ip.to_string())),
        ipv6_address: text(attachment.ipv6.map(|ip| ip.to_string())),
    };
    let short = container.shown_id().to_string().chars().take(12).collect();
    let names = [container.name.to_string()].into_iter().chain(aliases.clone()).chain([short]);
    api::EndpointSettings {
        ipam_config: Some(ipam_config).filter(|config| *config != api::EndpointIpamConfig::default()),
        dns_names: names.collect(),
        aliases,
        ..settings
    }
}

fn endpoint_settings(
    network: &Network,
    endpoint: Option<&Endpoint>,
    wire: Option<&Wire>,
) -> api::EndpointSettings {
    let gateway = |v6: bool| {
        let pool = network.pools.iter().find(|pool| pool.gateway.is_ipv6() == v6);
        wire.and(pool).map(|pool| pool.gateway.to_string()).unwrap_or_default()
    };
    let ipv4 = wire.and_then(|w| w.ipv4);
    let ipv6 = wire.and_then(|w| w.ipv6);
    api::EndpointSettings {
        network_id: network.id.to_string(),
        endpoint_id: endpoint.map(|e| e.id.to_string()).unwrap_or_default(),
        interface_name: wire.map(|w| format!("eth{}", w.interface)).unwrap_or_default(),
        mac_address: wire.map(|w| w.mac.to_string()).unwrap_or_default(),
        ip_address: ipv4.map(|ip| ip.to_string()).unwrap_or_default(),
        ip_prefix_len: ipv4.and(prefix_len(network, false)).unwrap_or(0),
        gateway: gateway(false),
        global_ipv6_address: ipv6.map(|ip| ip.to_string()).unwrap_or_default(),
        global_ipv6_prefix_len: ipv6.and(prefix_len(network, true)).unwrap_or(0),
        ipv6_gateway: gateway(true),
        ..api::EndpointSettings::default()
    }
}

fn rfc3339(at_ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_docker_words_them() {
        for (s, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (86_400, "24 hours"),
            (172_800, "2 days"),
            (1_209_600, "2 weeks"),
            (5_184_000, "2 months"),
        ] {
            assert_eq!(roughly(Duration::from_secs(s)), text);
        }
        assert_eq!(rfc3339(1_500), "1970-01-01T00:00:01.500Z");
    }
}
