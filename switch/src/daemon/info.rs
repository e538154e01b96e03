//! The daemon and its host at a glance.

use std::collections::BTreeMap;

use vswitch_proto::api::{
    ClusterInfo, ClusterStatus, DataPlaneInfo, DockerInfo, Info, LimitsInfo, Membership, Port,
};
use vswitch_proto::command::{Driver, Role};

use super::handle::Handle;
use super::subnets;
use crate::config::{Config, Engine};
use crate::io::{features, process};
use crate::state::{ENDPOINTS_MAX, NETWORKS_MAX, Phase, Snapshot, View};
use crate::worker::EngineKind;

impl Handle {
    /// All but what only the API itself knows: its connections.
    pub async fn info(&self) -> Info {
        let shared = self.shared();
        let seen = self.snapshot();
        let version = self.version();
        let ports = self.ports();
        let count = |is: fn(&Phase) -> bool| seen.local.containers().filter(|c| is(&c.phase)).count() as u32;
        let mut info = Info {
            name: version.node_name,
            server_version: version.version,
            api_version: version.api,
            kernel_version: version.kernel,
            ncpu: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            uptime_s: shared.started_at.elapsed().as_secs(),
            containers: count(|_| true),
            containers_running: count(|phase| *phase == Phase::Running),
            containers_created: count(|phase| *phase == Phase::Created),
            containers_stopped: count(|phase| matches!(phase, Phase::Exited { .. })),
            networks: seen.view().networks().count() as u32,
            networks_by_driver: networks_by_driver(seen.view()),
            ports: ports.len() as u32,
            ports_down: ports.iter().filter(|port| !port.up).count() as u32,
            data_plane: self.data_plane_info(&seen),
            cluster: cluster_info(self.cluster().status(true).await),
            docker: self.docker_info(&seen),
            limits: self.limits_info(),
            kernel_features: self.kernel_features(),
            mode: if features::is_in_user_namespace() { "user namespace" } else { "root" }.into(),
            data_dir: shared.config.data_dir.display().to_string(),
            socket: shared.config.socket.display().to_string(),
            warnings: Vec::new(),
        };
        info.warnings = self.warnings(&info, &ports);
        info
    }

    fn data_plane_info(&self, seen: &Snapshot) -> DataPlaneInfo {
        let shared = self.shared();
        let (config, settings) = (&shared.config, shared.settings());
        let stats = self.stats();
        let me = seen.node.and_then(|node| seen.shared.node(node));
        DataPlaneInfo {
            engine: shared.dataplane.engine().to_string(),
            engine_reason: self.engine_reason(),
            workers: config.workers,
            mtu: settings.mtu,
            underlay_mtu: settings.underlay_mtu,
            vtep: me.map(|node| node.info.vtep.to_string()).unwrap_or_default(),
            vxlan_port: config.vxlan_port,
            offloads: offloads(config),
            storm_limit: config.storm_limit.unwrap_or(0),
            forwarding_entries: stats.fdb_entries,
            forwarding_capacity: stats.fdb_capacity,
        }
    }

    fn engine_reason(&self) -> String {
        let shared = self.shared();
        match (shared.config.engine, shared.dataplane.engine()) {
            (Engine::Auto, EngineKind::Uring) => "io_uring works here".into(),
            (Engine::Epoll, _) => "asked for, with --engine or --no-uring".into(),
            (Engine::Uring, EngineKind::Uring) => "asked for, with --engine".into(),
            (_, EngineKind::Epoll) => shared.dataplane.why_not_uring().unwrap_or_default().into(),
        }
    }

    fn docker_info(&self, seen: &Snapshot) -> DockerInfo {
        let shared = self.shared();
        let socket = shared.config.docker_plugin.as_ref().map(|path| path.display().to_string());
        DockerInfo {
            state: shared.lacking.contact().into(),
            socket: socket.unwrap_or_default(),
            engine: shared.config.docker_host.display().to_string(),
            networks: seen.local.docker_networks().count() as u32,
            endpoints: seen.local.docker_endpoints().count() as u32,
        }
    }

    fn limits_info(&self) -> LimitsInfo {
        LimitsInfo {
            descriptors: process::descriptors(),
            descriptors_max: process::descriptors_max(),
            changes_waiting: self.shared().turnstile.waiting() as u32,
            networks_max: NETWORKS_MAX as u32,
            endpoints_max: ENDPOINTS_MAX as u32,
            ..LimitsInfo::default()
        }
    }

    fn kernel_features(&self) -> BTreeMap<String, bool> {
        let mut found: BTreeMap<String, bool> =
            features::of_host().into_iter().map(|(name, is_there)| (name.into(), is_there)).collect();
        // Where it was ruled out it was not looked for.
        if self.shared().config.engine != Engine::Epoll {
            found.insert("io_uring".into(), self.shared().dataplane.engine() == EngineKind::Uring);
        }
        found
    }

    fn warnings(&self, info: &Info, ports: &[Port]) -> Vec<String> {
        let problems = self.shared().problems.list().into_iter();
        let mut warnings: Vec<String> = problems.map(|problem| problem.message).collect();
        warnings.extend(subnets::unmet_bip(&self.shared().config, &self.state()));
        if let Some(down) = ports.iter().find(|port| !port.up) {
            warnings.push(format!(
                "{} of {} ports are down, among them {} of container {}; see vswitchctl port ls",
                info.ports_down, info.ports, down.interface, down.container
            ));
        }
        if info.cluster.state == "fenced" || (info.cluster.state == "member" && !info.cluster.has_quorum) {
            warnings.push(format!("{}; see vswitchctl cluster health", info.cluster.reason));
        }
        if info.docker.state == "away" {
            warnings.push(format!(
                "the Docker engine does not answer at {}; start it, or name its socket with --docker-host",
                info.docker.engine
            ));
        }
        let LimitsInfo { descriptors, descriptors_max, .. } = info.limits;
        if descriptors > descriptors_max / 10 * 9 {
            warnings.push(format!(
                "{descriptors} of {descriptors_max} descriptors are in use; raise the daemon's limit (LimitNOFILE=)"
            ));
        }
        warnings
    }
}

fn networks_by_driver(view: View<'_>) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for network in view.networks() {
        let driver = match network.driver {
            Driver::Bridge => "bridge",
            Driver::Overlay => "overlay",
            Driver::None => "null",
            Driver::Host => "host",
        };
        *found.entry(driver.into()).or_default() += 1;
    }
    found
}

fn offloads(config: &Config) -> Vec<String> {
    let all = [
        ("tso", config.tso),
        ("uso", config.uso),
        ("udp-gso", config.udp_gso),
        ("udp-gro", config.udp_gro),
        ("coalesce", config.coalesce),
    ];
    all.into_iter().filter(|(_, is_on)| *is_on).map(|(name, _)| name.into()).collect()
}

fn cluster_info(status: ClusterStatus) -> ClusterInfo {
    let state = match status.membership {
        Membership::Alone => "alone",
        Membership::Member => "member",
        Membership::Fenced => "fenced",
    };
    let role = status.role.map(|role| match role {
        Role::Voter => "voter",
        Role::Learner => "learner",
    });
    ClusterInfo {
        state: state.into(),
        id: status.cluster.map(|id| id.to_string()).unwrap_or_default(),
        node_id: status.node.map(|id| id.0.to_string()).unwrap_or_default(),
        role: role.unwrap_or_default().into(),
        leader: status.leader_name.map(|name| name.to_string()).unwrap_or_default(),
        has_quorum: status.leader.is_some(),
        voters: status.voters.len() as u32,
        learners: status.learners.len() as u32,
        reason: status.reason.unwrap_or_default(),
    }
}
