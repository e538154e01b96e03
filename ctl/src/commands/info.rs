//! The daemon and its host at a glance, laid out as `docker info` does it.

use std::fmt::Display;

use vswitch_proto::api::{ClusterInfo, DockerInfo, Info, LimitsInfo};

use super::show;
use crate::age::duration;
use crate::args::InfoArgs;
use crate::client::{Call, Client};
use crate::failure::{Failure, complain, print};

pub async fn info(client: &Client, args: InfoArgs) -> Result<u8, Failure> {
    let info: Info = client.fetch(Call::get(&["info"])).await?;
    print(show(args.format.as_ref(), &info, for_people)?)?;
    if args.format.is_none() {
        info.warnings.iter().for_each(|warning| complain(format_args!("warning: {warning}")));
    }
    Ok(0)
}

/// Lines of `key: value`, indented by level.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, level: usize, key: &str, value: impl Display) {
        self.0.push_str(&format!("{:level$}{key}: {value}\n", ""));
    }

    /// Without a value the line is left out.
    fn add_text(&mut self, level: usize, key: &str, value: &str) {
        if !value.is_empty() {
            self.add(level, key, value);
        }
    }
}

fn for_people(info: &Info) -> String {
    let mut lines = Lines::default();
    lines.0.push_str(&format!("Client:\n Version: {}\n\nServer:\n", env!("CARGO_PKG_VERSION")));
    lines.add(1, "Containers", info.containers);
    lines.add(2, "Running", info.containers_running);
    lines.add(2, "Created", info.containers_created);
    lines.add(2, "Stopped", info.containers_stopped);
    lines.add(1, "Networks", info.networks);
    for (driver, count) in &info.networks_by_driver {
        lines.add(2, driver, count);
    }
    lines.add(1, "Ports", format_args!("{} ({} down)", info.ports, info.ports_down));
    lines.add(1, "Server Version", &info.server_version);
    data_plane(&mut lines, info);
    cluster(&mut lines, &info.cluster);
    docker(&mut lines, &info.docker);
    limits(&mut lines, &info.limits);
    let features = info.kernel_features.iter();
    let features =
        features.map(|(name, is_there)| format!("{name} {}", if *is_there { "yes" } else { "no" }));
    lines.add(1, "Kernel Features", features.collect::<Vec<_>>().join(", "));
    lines.add(1, "Kernel Version", &info.kernel_version);
    lines.add(1, "CPUs", info.ncpu);
    lines.add(1, "Name", &info.name);
    lines.add(1, "Mode", &info.mode);
    lines.add(1, "Uptime", duration(i64::try_from(info.uptime_s).unwrap_or(i64::MAX)));
    lines.add(1, "Data Dir", &info.data_dir);
    lines.add(1, "Socket", &info.socket);
    lines.0
}

fn data_plane(lines: &mut Lines, info: &Info) {
    let plane = &info.data_plane;
    lines.0.push_str(" Data Plane:\n");
    lines.add(2, "Engine", format_args!("{} ({})", plane.engine, plane.engine_reason));
    lines.add(2, "Workers", plane.workers);
    lines.add(2, "MTU", plane.mtu);
    lines.add(2, "Underlay MTU", plane.underlay_mtu);
    lines.add_text(2, "VXLAN Address", &plane.vtep);
    lines.add(2, "VXLAN Port", plane.vxlan_port);
    lines.add_text(2, "Offloads", &plane.offloads.join(" "));
    match plane.storm_limit {
        0 => lines.add(2, "Storm Limit", "none"),
        limit => lines.add(2, "Storm Limit", format_args!("{limit} frames/s")),
    }
    lines.add(
        2,
        "Forwarding Table",
        format_args!("{} of {} entries", plane.forwarding_entries, plane.forwarding_capacity),
    );
}

fn cluster(lines: &mut Lines, cluster: &ClusterInfo) {
    lines.add(1, "Cluster", &cluster.state);
    lines.add_text(2, "ID", &cluster.id);
    lines.add_text(2, "Node ID", &cluster.node_id);
    lines.add_text(2, "Role", &cluster.role);
    if cluster.state == "member" {
        lines.add(2, "Leader", if cluster.leader.is_empty() { "none" } else { &cluster.leader });
        lines.add(2, "Quorum", if cluster.has_quorum { "yes" } else { "no" });
        lines.add(2, "Voters", cluster.voters);
        lines.add(2, "Learners", cluster.learners);
    }
    lines.add_text(2, "Reason", &cluster.reason);
}

fn docker(lines: &mut Lines, docker: &DockerInfo) {
    lines.add(1, "Docker Plugin", &docker.state);
    if docker.state != "off" {
        lines.add_text(2, "Socket", &docker.socket);
        lines.add(2, "Engine", &docker.engine);
        lines.add(2, "Networks", docker.networks);
        lines.add(2, "Endpoints", docker.endpoints);
    }
}

fn limits(lines: &mut Lines, limits: &LimitsInfo) {
    lines.0.push_str(" Limits:\n");
    lines.add(2, "Descriptors", format_args!("{} of {}", limits.descriptors, limits.descriptors_max));
    lines.add(2, "API Connections", format_args!("{} of {}", limits.connections, limits.connections_max));
    lines.add(2, "API Streams", format_args!("{} of {}", limits.streams, limits.streams_max));
    lines.add(2, "Refused", limits.refusals);
    lines.add(2, "Changes Waiting", limits.changes_waiting);
    lines.add(2, "Networks", format_args!("at most {}", limits.networks_max));
    lines.add(2, "Endpoints", format_args!("at most {}", limits.endpoints_max));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_is_shown_and_nothing_else() {
        let mut info = Info {
            name: "lab-one".into(),
            containers: 3,
            containers_running: 2,
            networks_by_driver: [("bridge".into(), 2)].into(),
            kernel_features: [("io_uring".into(), true), ("tun".into(), false)].into(),
            ..Info::default()
        };
        info.data_plane.engine = "epoll".into();
        info.data_plane.engine_reason = "asked for".into();
        info.cluster.state = "alone".into();
        info.docker.state = "off".into();
        let text = for_people(&info);
        for line in [
            " Containers: 3\n  Running: 2\n",
            "  bridge: 2\n",
            "  Engine: epoll (asked for)\n",
            "  Storm Limit: none\n",
            " Cluster: alone\n Docker Plugin: off\n",
            " Kernel Features: io_uring yes, tun no\n",
            " Name: lab-one\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        info.cluster.state = "member".into();
        info.docker.state = "away".into();
        info.data_plane.storm_limit = 7;
        let text = for_people(&info);
        for line in
            ["  Leader: none\n  Quorum: no\n", " Docker Plugin: away\n  Engine: ", "Limit: 7 frames/s\n"]
        {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }
}
