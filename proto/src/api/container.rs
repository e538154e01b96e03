//! Containers: the lab runner's and adopted namespaces. What is shown has the key names of `docker inspect`.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::EndpointConfig;
use crate::command::{Limits, RestartPolicy, Settings};
use crate::id::Name;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Made up by the daemon when absent.
    #[serde(default)]
    pub name: Option<Name>,
    /// `sh` when empty.
    #[serde(default)]
    pub command: Vec<String>,
    /// `KEY=VALUE`.
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub hostname: Option<String>,
    #[serde(default)]
    pub tty: bool,
    #[serde(default)]
    pub open_stdin: bool,
    #[serde(default)]
    pub auto_remove: bool,
    /// A directory on the daemon's host.
    #[serde(default)]
    pub rootfs: Option<String>,
    #[serde(default)]
    pub workdir: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `bridge` when empty. The first one becomes eth0.
    #[serde(default)]
    pub networks: Vec<RunNetwork>,
    /// Name or id of a container whose network this one shares; then `networks` is empty.
    #[serde(default)]
    pub network_container: Option<String>,
    #[serde(default)]
    pub settings: Settings,
    /// Create only, when false.
    #[serde(default = "yes")]
    pub start: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunNetwork {
    /// Name, id or unique prefix.
    pub network: String,
    #[serde(flatten)]
    pub endpoint: EndpointConfig,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    pub name: Name,
    /// A process of the daemon's host, whose network namespace is meant. Exactly one of `pid` and `netns`.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The path of a network namespace, as `/run/netns/NAME`.
    #[serde(default)]
    pub netns: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `bridge` when empty.
    #[serde(default)]
    pub networks: Vec<RunNetwork>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    pub command: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub tty: bool,
    /// Forward standard input.
    #[serde(default)]
    pub stdin: bool,
    #[serde(default)]
    pub workdir: Option<String>,
    /// That of the container when absent.
    #[serde(default)]
    pub user: Option<String>,
}

/// What `update` changes; what is absent stays. A limit of 0 is taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Update {
    pub restart: Option<RestartPolicy>,
    pub limits: Limits,
}

/// Processes of a container, as `docker top` has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Top {
    pub titles: Vec<String>,
    /// One row per process, with a text for each title.
    pub processes: Vec<Vec<String>>,
}

/// The outcome of a container or of an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The process's own code, 128 + N after signal N, 127 not found, 126 not executable.
    pub exit_code: i32,
    /// Why it did not start, when it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// A row of `ps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerSummary {
    #[serde(rename = "ID")]
    pub id: String,
    pub names: String,
    pub command: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// `created`, `running`, `restarting` or `exited`.
    pub state: String,
    /// For people, as `Up 3 minutes` or `Exited (0) 2 seconds ago`.
    pub status: String,
    /// `lab` or `adopted`.
    pub kind: String,
    /// Names of its networks, in the order of its interfaces.
    pub networks: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    pub id: String,
    /// With a leading slash, as Docker has it.
    pub name: String,
    pub created: String,
    pub path: String,
    pub args: Vec<String>,
    pub state: ContainerState,
    /// The root directory of `--rootfs`, in the place of Docker's image; empty without one.
    #[serde(default)]
    pub image: String,
    /// Always `linux`.
    #[serde(default)]
    pub platform: String,
    /// Of Docker's storage: always empty, as are the labels of security modules below.
    #[serde(default)]
    pub driver: String,
    #[serde(default)]
    pub mount_label: String,
    #[serde(default)]
    pub process_label: String,
    #[serde(default)]
    pub app_armor_profile: String,
    /// Always null: commands of `exec` have no ids.
    #[serde(default, rename = "ExecIDs")]
    pub exec_ids: Option<Vec<String>>,
    /// `lab` or `adopted`.
    pub kind: String,
    pub hostname_path: String,
    pub hosts_path: String,
    pub resolv_conf_path: String,
    pub log_path: String,
    pub config: ContainerConfig,
    /// By its restart policy, since somebody started it.
    #[serde(default)]
    pub restart_count: u32,
    #[serde(default)]
    pub mounts: Vec<MountPoint>,
    pub host_config: HostConfig,
    pub network_settings: NetworkSettings,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerState {
    /// `created`, `running`, `restarting` or `exited`.
    pub status: String,
    pub running: bool,
    /// It ended, and its restart policy starts it again in a moment.
    pub restarting: bool,
    /// Always false, as are the next two: containers are not paused, and the kernel's choice is not told.
    #[serde(default)]
    pub paused: bool,
    #[serde(default, rename = "OOMKilled")]
    pub oom_killed: bool,
    #[serde(default)]
    pub dead: bool,
    /// 0 when it does not run.
    pub pid: u32,
    pub exit_code: i32,
    pub error: String,
    pub started_at: String,
    pub finished_at: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    /// The root directory of `--rootfs`, in the place of Docker's image; empty without one.
    #[serde(default)]
    pub image: String,
    /// Always null: there are no ports to expose, no volumes of images and no triggers of builds.
    #[serde(default)]
    pub exposed_ports: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub volumes: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub on_build: Option<Vec<String>>,
    #[serde(default)]
    pub attach_stdin: bool,
    #[serde(default)]
    pub attach_stdout: bool,
    #[serde(default)]
    pub attach_stderr: bool,
    #[serde(default)]
    pub stdin_once: bool,
    pub tty: bool,
    pub open_stdin: bool,
    pub env: Vec<String>,
    pub cmd: Vec<String>,
    pub entrypoint: Option<Vec<String>>,
    pub working_dir: String,
    pub labels: BTreeMap<String, String>,
    /// As `SIGTERM`; empty when nobody asked for one.
    pub stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostConfig {
    pub network_mode: String,
    pub auto_remove: bool,
    pub rootfs: String,
    /// Path of the network namespace of an adopted one, or of its process.
    pub netns: String,
    #[serde(flatten, default)]
    pub settings: HostSettings,
}

/// The part of [`HostConfig`] that the flags of `run` set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostSettings {
    /// `HOST:CONTAINER` or `HOST:CONTAINER:ro`.
    pub binds: Vec<String>,
    /// Options by directory.
    pub tmpfs: BTreeMap<String, String>,
    pub restart_policy: RestartPolicyShown,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub dns: Vec<String>,
    pub dns_options: Vec<String>,
    pub dns_search: Vec<String>,
    /// `NAME:IP`.
    pub extra_hosts: Vec<String>,
    pub group_add: Vec<String>,
    pub readonly_rootfs: bool,
    pub init: bool,
    pub security_opt: Vec<String>,
    pub shm_size: u64,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: Vec<UlimitShown>,
    /// Bytes; 0 for no limit.
    pub memory: u64,
    /// Memory and swap together, bytes.
    pub memory_swap: u64,
    pub nano_cpus: u64,
    /// Null for no limit.
    pub pids_limit: Option<u32>,
    pub log_config: LogConfig,
}

/// How the output is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    /// `json-file`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `max-size` in bytes, -1 for no bound, and `max-file`.
    pub config: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RestartPolicyShown {
    /// `no`, `always`, `unless-stopped` or `on-failure`.
    pub name: String,
    pub maximum_retry_count: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UlimitShown {
    pub name: String,
    pub hard: i64,
    pub soft: i64,
}

/// A bind mount or a tmpfs of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// `bind` or `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(rename = "Source")]
    pub source: String,
    #[serde(rename = "Destination")]
    pub destination: String,
    #[serde(rename = "Mode")]
    pub mode: String,
    #[serde(rename = "RW")]
    pub rw: bool,
    #[serde(rename = "Propagation")]
    pub propagation: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkSettings {
    /// Always empty: the container's interfaces are TAPs, no ports of a kernel's bridge.
    #[serde(default)]
    pub bridge: String,
    /// Always empty, as for published ports there are none.
    #[serde(default)]
    pub ports: BTreeMap<String, String>,
    #[serde(default, rename = "SandboxID")]
    pub sandbox_id: String,
    /// Path of the network namespace of a container that runs.
    #[serde(default)]
    pub sandbox_key: String,
    /// From here on what the endpoint in the network `bridge` has.
    #[serde(default, rename = "EndpointID")]
    pub endpoint_id: String,
    #[serde(default)]
    pub gateway: String,
    #[serde(default, rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    #[serde(default, rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    #[serde(default, rename = "IPAddress")]
    pub ip_address: String,
    #[serde(default, rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    #[serde(default, rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    #[serde(default)]
    pub mac_address: String,
    /// By network name.
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// The addresses that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointIpamConfig {
    #[serde(rename = "IPv4Address", default, skip_serializing_if = "String::is_empty")]
    pub ipv4_address: String,
    #[serde(rename = "IPv6Address", default, skip_serializing_if = "String::is_empty")]
    pub ipv6_address: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSettings {
    /// Null when no address was asked for.
    #[serde(rename = "IPAMConfig", default)]
    pub ipam_config: Option<EndpointIpamConfig>,
    /// Always null: there are no links.
    #[serde(rename = "Links", default)]
    pub links: Option<Vec<String>>,
    /// Always null: an endpoint has no options.
    #[serde(rename = "DriverOpts", default)]
    pub driver_opts: Option<BTreeMap<String, String>>,
    /// Always 0: the first network has the default route.
    #[serde(rename = "GwPriority", default)]
    pub gw_priority: i32,
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    #[serde(rename = "InterfaceName")]
    pub interface_name: String,
    #[serde(rename = "MacAddress")]
    pub mac_address: String,
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    #[serde(rename = "Gateway")]
    pub gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    #[serde(rename = "Aliases")]
    pub aliases: Vec<String>,
    /// The names under which the container is found in this network.
    #[serde(rename = "DNSNames", default)]
    pub dns_names: Vec<String>,
}
