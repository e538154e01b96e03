//! From arguments, environment and a TOML file to one [`Config`], once.
//!
//! A flag beats the environment, which beats the file. Every key has the same name in all three: `--data-dir`,
//! `VSWITCH_DATA_DIR`, `data-dir = "..."`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Parser;
use ipnet::IpNet;
use serde::Deserialize;
use vswitch_proto::id::Name;

mod cluster;
mod pools;

pub use cluster::ClusterStore;
use cluster::{IpPort, RaftStore};
pub use pools::AddressPool;

const DOCKER_PLUGIN: &str = "/run/docker/plugins/vswitch.sock";

/// A second. More is a mistake in the unit.
const POLL_US_MAX: u32 = 1_000_000;

#[derive(Debug, Parser)]
#[command(
    name = "vswitchd",
    version,
    about = "Userspace virtual switch for containers: the daemon",
    long_about = "vswitchd owns a TAP interface per container, learns MAC addresses and forwards Ethernet frames per \
                  network. vswitchctl is its command.",
    after_help = "A flag beats its VSWITCH_* variable, which beats the file given with --config.\n\
                  Stop it with SIGTERM: containers go on, and the next start finds them again.\n\
                  After most nodes of a cluster are lost for good: vswitchd recover --help"
)]
pub struct Arguments {
    /// TOML file whose keys are the names of these flags
    #[arg(long, value_name = "FILE", env = "VSWITCH_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    raw: Raw,
}

#[derive(Debug, Parser)]
#[command(
    name = "vswitchd recover",
    bin_name = "vswitchd recover",
    about = "Goes on with this node alone, after the others are lost for good; vswitchd must be stopped",
    after_help = "Takes all flags of vswitchd, of which the data directory is needed. The node keeps its networks, the \
                  addresses of its containers and the authority of the cluster. Nodes that come back are refused: \
                  they leave with 'vswitchctl cluster leave --force' and join again."
)]
pub struct RecoverArguments {
    /// Yes: the other nodes, and what only they know, are given up
    #[arg(long)]
    pub force_new_cluster: bool,
    #[command(flatten)]
    pub daemon: Arguments,
}

/// What may be said, in whichever of the three places.
#[derive(Debug, Default, Clone, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    /// Where networks, containers and their logs are kept [default: /var/lib/vswitch]
    #[arg(long, value_name = "DIR", env = "VSWITCH_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Unix socket of the API [default: /run/vswitch/vswitchd.sock]
    #[arg(long, value_name = "PATH", env = "VSWITCH_SOCKET")]
    socket: Option<PathBuf>,
    /// Group that may use the socket, by name or number [default: the daemon's own]
    #[arg(long, value_name = "GROUP", env = "VSWITCH_SOCKET_GROUP")]
    socket_group: Option<String>,
    /// Name of this host [default: its host name]
    #[arg(long, value_name = "NAME", env = "VSWITCH_NODE_NAME")]
    node_name: Option<String>,
    /// Where other nodes of a cluster are answered; the port is 7946 unless given [default: in no cluster]
    #[arg(long, value_name = "IP:PORT", env = "VSWITCH_LISTEN")]
    listen: Option<IpPort>,
    /// Where other nodes reach this one, if that is not where it listens
    #[arg(long, value_name = "IP:PORT", env = "VSWITCH_ADVERTISE")]
    advertise: Option<IpPort>,
    /// Address for VXLAN packets [default: that of --advertise or --listen]
    #[arg(long, value_name = "IP", env = "VSWITCH_VTEP")]
    vtep: Option<IpAddr>,
    /// UDP port of VXLAN, on all hosts the same [default: 4789]
    #[arg(long, value_name = "PORT", env = "VSWITCH_VXLAN_PORT")]
    vxlan_port: Option<u16>,
    /// MTU of the network between the hosts, in bytes [default: that of the interface with the VXLAN address]
    #[arg(long, value_name = "BYTES", env = "VSWITCH_UNDERLAY_MTU")]
    underlay_mtu: Option<u32>,
    /// Nodes of a cluster that this one joins at its start, unless it is in one
    #[arg(long, value_name = "raft://HOST:PORT[,HOST:PORT...]", env = "VSWITCH_CLUSTER_STORE")]
    cluster_store: Option<RaftStore>,
    /// File with the join token for --cluster-store
    #[arg(long, value_name = "FILE", env = "VSWITCH_JOIN_TOKEN_FILE")]
    join_token_file: Option<PathBuf>,
    /// Threads that move frames, 1 to 64 [default: half of the processors, at most 4]
    #[arg(long, value_name = "N", env = "VSWITCH_WORKERS")]
    workers: Option<u32>,
    /// How frames are moved: epoll, uring (io_uring), or auto for io_uring where it works well [default: auto]
    #[arg(long, value_name = "ENGINE", env = "VSWITCH_ENGINE")]
    engine: Option<Engine>,
    /// Do not use io_uring, even where it works
    #[arg(long, env = "VSWITCH_NO_URING", num_args = 0..=1, default_missing_value = "true")]
    no_uring: Option<bool>,
    /// Processors that workers are bound to, the first worker to the first one [default: to none]
    #[arg(long, value_name = "CPU[,CPU...]", env = "VSWITCH_PIN_CPUS", value_delimiter = ',')]
    pin_cpus: Option<Vec<usize>>,
    /// Microseconds for which a worker looks for more frames before it sleeps; needs spare processors [default: 0]
    #[arg(long, value_name = "US", env = "VSWITCH_POLL_US")]
    poll_us: Option<u32>,
    /// MTU of containers' interfaces in bytes, unless their network says otherwise [default: 1500]
    #[arg(long, value_name = "BYTES", env = "VSWITCH_MTU")]
    mtu: Option<u32>,
    /// Pool for subnets of networks that ask for none; may be given several times [default: Docker's]
    #[arg(
        long,
        value_name = "base=PREFIX,size=LENGTH",
        env = "VSWITCH_DEFAULT_ADDRESS_POOL",
        value_delimiter = ' '
    )]
    default_address_pool: Option<Vec<AddressPool>>,
    /// Gateway address and prefix length of the network bridge, when it is made at the first start
    #[arg(long, value_name = "IP/LENGTH", env = "VSWITCH_BIP")]
    bip: Option<IpNet>,
    /// Seconds after which a learned address that was not seen is forgotten [default: 300]
    #[arg(long, value_name = "S", env = "VSWITCH_FDB_AGEING_S")]
    fdb_ageing_s: Option<u32>,
    /// Most addresses that are learned, in all networks together [default: 65536]
    #[arg(long, value_name = "N", env = "VSWITCH_FDB_CAPACITY")]
    fdb_capacity: Option<u32>,
    /// Broadcast, unknown and multicast frames per second and port, and as many questions to the gateway; 0 for no limit
    /// [default: 20000]
    #[arg(long, value_name = "FRAMES", env = "VSWITCH_STORM_LIMIT")]
    storm_limit: Option<u32>,
    /// Do not offer TCP segmentation offload to containers
    #[arg(long, env = "VSWITCH_NO_TSO", num_args = 0..=1, default_missing_value = "true")]
    no_tso: Option<bool>,
    /// Do not offer UDP segmentation offload to containers
    #[arg(long, env = "VSWITCH_NO_USO", num_args = 0..=1, default_missing_value = "true")]
    no_uso: Option<bool>,
    /// Be a network and address plugin of Docker, on this socket [default without a path: /run/docker/plugins/vswitch.sock]
    #[arg(long, value_name = "PATH", env = "VSWITCH_DOCKER_PLUGIN", num_args = 0..=1, require_equals = true,
          default_missing_value = DOCKER_PLUGIN)]
    docker_plugin: Option<PathBuf>,
    /// API of the Docker engine that the plugin is for [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "URL", env = "VSWITCH_DOCKER_HOST")]
    docker_host: Option<String>,
    /// Seconds after which what Docker has left behind is taken away [default: 60]
    #[arg(long, value_name = "S", env = "VSWITCH_DOCKER_GRACE_S")]
    docker_grace_s: Option<u32>,
    /// Send VXLAN packets one by one, without UDP segmentation offload
    #[arg(long, env = "VSWITCH_NO_UDP_GSO", num_args = 0..=1, default_missing_value = "true")]
    no_udp_gso: Option<bool>,
    /// Receive VXLAN packets one by one, without UDP receive offload
    #[arg(long, env = "VSWITCH_NO_UDP_GRO", num_args = 0..=1, default_missing_value = "true")]
    no_udp_gro: Option<bool>,
    /// Pass TCP from other hosts on segment by segment, as it came
    #[arg(long, env = "VSWITCH_NO_COALESCE", num_args = 0..=1, default_missing_value = "true")]
    no_coalesce: Option<bool>,
    /// text or json, to standard error [default: text]
    #[arg(long, value_name = "FORMAT", env = "VSWITCH_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", env = "VSWITCH_LOG_LEVEL")]
    log_level: Option<LogLevel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    Auto,
    Epoll,
    Uring,
}

/// Checked, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub data_dir: PathBuf,
    pub socket: PathBuf,
    pub socket_group: Option<String>,
    pub node_name: Name,
    /// Where other nodes are answered. `None`: this node can be in no cluster.
    pub listen: Option<SocketAddr>,
    /// Where other nodes reach this one, if that is not `listen`.
    pub advertise: Option<SocketAddr>,
    /// Where VXLAN packets are sent and received, if that is not at the address of `advertise` or `listen`.
    pub vtep: Option<IpAddr>,
    pub vxlan_port: u16,
    /// Bytes; `None`: that of the interface with the VXLAN address.
    pub underlay_mtu: Option<u32>,
    /// What is to be joined at the start.
    pub cluster_store: Option<ClusterStore>,
    pub workers: u32,
    pub engine: Engine,
    /// None, or one for each worker.
    pub pin_cpus: Vec<usize>,
    pub poll_us: u32,
    /// Bytes.
    pub mtu: u32,
    /// In the order in which they are used; empty for Docker's.
    pub default_address_pools: Vec<AddressPool>,
    /// The gateway of the network bridge, with the prefix length of its subnet.
    pub bip: Option<IpNet>,
    pub fdb_ageing_s: u32,
    pub fdb_capacity: u32,
    /// Frames per second; `None` for no limit.
    pub storm_limit: Option<u32>,
    pub tso: bool,
    pub uso: bool,
    /// The plugin socket; `None` for no plugin, unless a service manager passes a socket.
    pub docker_plugin: Option<PathBuf>,
    /// The engine's socket.
    pub docker_host: PathBuf,
    pub docker_grace_s: u32,
    /// Whether VXLAN packets are sent, and received, several at once.
    pub udp_gso: bool,
    pub udp_gro: bool,
    /// Whether TCP from tunnels is put together; only if they are received several at once.
    pub coalesce: bool,
    pub log_format: LogFormat,
    pub log_level: LogLevel,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {error}; check the path given with --config", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{}: {message}; its keys are the long flags of vswitchd --help", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("workers is {0}, it must be between 1 and 64")]
    Workers(u32),
    #[error("pin-cpus has {0} processors for {1} workers; give as many as there are workers")]
    PinCpus(usize, u32),
    #[error(
        "poll-us needs a spare processor: with {workers} workers at least {needed}, here are {processors}; \
         leave it out or lower workers"
    )]
    NoSpareProcessor { workers: u32, needed: usize, processors: usize },
    #[error("poll-us is {0}, it must be at most 1000000")]
    PollUs(u32),
    #[error("engine is uring and no-uring is set; leave out one of them")]
    NoEngine,
    #[error("mtu is {0}, it must be between 68 and 65521 bytes")]
    Mtu(u32),
    #[error("fdb-capacity is {0}, it must be between 1 and 16777216 addresses")]
    FdbCapacity(u32),
    #[error("docker-host is {0:?}, it must be the engine's unix socket, as unix:///var/run/docker.sock")]
    DockerHost(String),
    #[error("bip is {0}, it must be an IPv4 address of a host with its prefix length, as 192.168.5.1/24")]
    Bip(IpNet),
    #[error("data-dir and socket must not be empty")]
    EmptyPath,
    #[error(
        "node-name is {name:?}: {error}; give the host one with --node-name",
        error = vswitch_proto::id::ParseIdError::Name
    )]
    NodeName { name: String },
    #[error(transparent)]
    Cluster(#[from] cluster::Mistake),
}

impl Config {
    pub fn load(arguments: Arguments, host_name: &str, processors: usize) -> Result<Config, ConfigError> {
        let file = arguments.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        Config::check(arguments.raw.over(file), host_name, processors)
    }

    fn check(raw: Raw, host_name: &str, processors: usize) -> Result<Config, ConfigError> {
        let name = raw.node_name.as_deref().unwrap_or(host_name);
        let node_name = name.parse().map_err(|_| ConfigError::NodeName { name: name.into() })?;
        let cluster_store = cluster::check(&raw)?;
        let bip = pools::bip(&raw)?;
        let config = Config {
            data_dir: raw.data_dir.unwrap_or_else(|| "/var/lib/vswitch".into()),
            socket: raw.socket.unwrap_or_else(|| "/run/vswitch/vswitchd.sock".into()),
            socket_group: raw.socket_group,
            node_name,
            listen: raw.listen.map(|listen| listen.0),
            advertise: raw.advertise.map(|advertise| advertise.0),
            vtep: raw.vtep,
            vxlan_port: raw.vxlan_port.unwrap_or(4789),
            underlay_mtu: raw.underlay_mtu,
            cluster_store,
            workers: raw.workers.unwrap_or_else(|| (processors / 2).clamp(1, 4) as u32),
            engine: match (raw.engine.unwrap_or(Engine::Auto), raw.no_uring) {
                (Engine::Uring, Some(true)) => return Err(ConfigError::NoEngine),
                (Engine::Auto, Some(true)) => Engine::Epoll,
                (engine, _) => engine,
            },
            pin_cpus: raw.pin_cpus.unwrap_or_default(),
            poll_us: raw.poll_us.unwrap_or(0),
            mtu: raw.mtu.unwrap_or(1500),
            default_address_pools: raw.default_address_pool.unwrap_or_default(),
            bip,
            fdb_ageing_s: raw.fdb_ageing_s.unwrap_or(300),
            fdb_capacity: raw.fdb_capacity.unwrap_or(65_536),
            storm_limit: match raw.storm_limit {
                Some(0) => None,
                limit => limit.or(Some(20_000)),
            },
            tso: raw.no_tso != Some(true),
            uso: raw.no_uso != Some(true),
            docker_plugin: raw.docker_plugin,
            docker_host: docker_host(raw.docker_host)?,
            docker_grace_s: raw.docker_grace_s.unwrap_or(60),
            udp_gso: raw.no_udp_gso != Some(true),
            udp_gro: raw.no_udp_gro != Some(true),
            coalesce: raw.no_coalesce != Some(true),
            log_format: raw.log_format.unwrap_or(LogFormat::Text),
            log_level: raw.log_level.unwrap_or(LogLevel::Info),
        };
        if !(1..=64).contains(&config.workers) {
            return Err(ConfigError::Workers(config.workers));
        }
        config.check_processors(processors)?;
        if !(68..=65_521).contains(&config.mtu) {
            return Err(ConfigError::Mtu(config.mtu));
        }
        if !(1..=1 << 24).contains(&config.fdb_capacity) {
            return Err(ConfigError::FdbCapacity(config.fdb_capacity));
        }
        if config.data_dir.as_os_str().is_empty() || config.socket.as_os_str().is_empty() {
            return Err(ConfigError::EmptyPath);
        }
        Ok(config)
    }

    fn check_processors(&self, processors: usize) -> Result<(), ConfigError> {
        let workers = self.workers;
        if !self.pin_cpus.is_empty() && self.pin_cpus.len() != workers as usize {
            return Err(ConfigError::PinCpus(self.pin_cpus.len(), workers));
        }
        if self.poll_us > POLL_US_MAX {
            return Err(ConfigError::PollUs(self.poll_us));
        }
        // A worker that polls leaves its processor to nobody, and both ends of a conversation need one.
        let needed = workers as usize + 2;
        if self.poll_us > 0 && processors < needed {
            return Err(ConfigError::NoSpareProcessor { workers, needed, processors });
        }
        Ok(())
    }
}

impl Raw {
    fn over(self, below: Raw) -> Raw {
        Raw {
            data_dir: self.data_dir.or(below.data_dir),
            socket: self.socket.or(below.socket),
            socket_group: self.socket_group.or(below.socket_group),
            node_name: self.node_name.or(below.node_name),
            listen: self.listen.or(below.listen),
            advertise: self.advertise.or(below.advertise),
            vtep: self.vtep.or(below.vtep),
            vxlan_port: self.vxlan_port.or(below.vxlan_port),
            underlay_mtu: self.underlay_mtu.or(below.underlay_mtu),
            cluster_store: self.cluster_store.or(below.cluster_store),
            join_token_file: self.join_token_file.or(below.join_token_file),
            workers: self.workers.or(below.workers),
            engine: self.engine.or(below.engine),
            no_uring: self.no_uring.or(below.no_uring),
            pin_cpus: self.pin_cpus.or(below.pin_cpus),
            poll_us: self.poll_us.or(below.poll_us),
            mtu: self.mtu.or(below.mtu),
            default_address_pool: self.default_address_pool.or(below.default_address_pool),
            bip: self.bip.or(below.bip),
            fdb_ageing_s: self.fdb_ageing_s.or(below.fdb_ageing_s),
            fdb_capacity: self.fdb_capacity.or(below.fdb_capacity),
            storm_limit: self.storm_limit.or(below.storm_limit),
            no_tso: self.no_tso.or(below.no_tso),
            no_uso: self.no_uso.or(below.no_uso),
            docker_plugin: self.docker_plugin.or(below.docker_plugin),
            docker_host: self.docker_host.or(below.docker_host),
            docker_grace_s: self.docker_grace_s.or(below.docker_grace_s),
            no_udp_gso: self.no_udp_gso.or(below.no_udp_gso),
            no_udp_gro: self.no_udp_gro.or(below.no_udp_gro),
            no_coalesce: self.no_coalesce.or(below.no_coalesce),
            log_format: self.log_format.or(below.log_format),
            log_level: self.log_level.or(below.log_level),
        }
    }
}

fn docker_host(url: Option<String>) -> Result<PathBuf, ConfigError> {
    let url = url.unwrap_or_else(|| "unix:///var/run/docker.sock".into());
    let path = url.strip_prefix("unix://").filter(|path| path.starts_with('/')).map(PathBuf::from);
    path.ok_or(ConfigError::DockerHost(url))
}

fn read_file(path: &Path) -> Result<Raw, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.into(), error })?;
    toml::from_str(&text).map_err(|error: toml::de::Error| ConfigError::Parse {
        path: path.into(),
        message: error.message().lines().next().unwrap_or_default().into(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(super) fn load(flags: &[&str], file: Option<&str>) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vswitchd.toml");
        let mut args = vec!["vswitchd"];
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
            args.extend(["--config", path.to_str().unwrap()]);
        }
        args.extend(flags);
        Config::load(Arguments::try_parse_from(args).unwrap(), "host1", 2)
    }

    #[test]
    fn defaults() {
        let config = load(&[], None).unwrap();
        assert_eq!(config.data_dir, Path::new("/var/lib/vswitch"));
        assert_eq!((config.workers, config.mtu, config.storm_limit), (1, 1500, Some(20_000)));
        assert_eq!(config.node_name.as_str(), "host1");
        assert_eq!((config.listen, config.vxlan_port, config.cluster_store), (None, 4789, None));
        assert!(config.tso && config.uso);
    }

    #[test]
    fn a_flag_beats_the_file() {
        let file = "mtu = 9000\nworkers = 3\nno-tso = true\nlog-format = \"json\"\n";
        let config = load(&["--mtu", "1400", "--storm-limit", "0"], Some(file)).unwrap();
        assert_eq!((config.mtu, config.workers, config.storm_limit), (1400, 3, None));
        assert_eq!(config.log_format, LogFormat::Json);
        assert!(!config.tso && config.uso);
        assert!(load(&["--no-tso", "false"], Some(file)).unwrap().tso);
    }

    #[test]
    fn each_offload_of_tunnels_has_a_kill_switch() {
        let offloads = |flags: &[&str], file| {
            load(flags, file).map(|config| (config.udp_gso, config.udp_gro, config.coalesce)).unwrap()
        };
        assert_eq!(offloads(&[], None), (true, true, true));
        assert_eq!(offloads(&["--no-udp-gso"], None), (false, true, true));
        assert_eq!(offloads(&["--no-udp-gro"], None), (true, false, true));
        assert_eq!(offloads(&["--no-coalesce"], None), (true, true, false));
        assert_eq!(offloads(&[], Some("no-coalesce = true")), (true, true, false));
    }

    #[test]
    fn the_plugin_has_a_usual_place() {
        assert_eq!(load(&[], None).unwrap().docker_plugin, None);
        let usual = load(&["--docker-plugin"], None).unwrap();
        assert_eq!(usual.docker_plugin, Some(DOCKER_PLUGIN.into()));
        assert_eq!(usual.docker_host, Path::new("/var/run/docker.sock"));
        let other = load(&["--docker-plugin=/p.sock", "--docker-host", "unix:///d.sock"], None).unwrap();
        assert_eq!((other.docker_plugin, other.docker_host), (Some("/p.sock".into()), "/d.sock".into()));
    }

    #[test]
    fn io_uring_has_a_kill_switch() {
        let engine = |flags: &[&str], file| load(flags, file).map(|config| config.engine);
        assert_eq!(engine(&[], None).unwrap(), Engine::Auto);
        assert_eq!(engine(&["--engine", "uring"], None).unwrap(), Engine::Uring);
        assert_eq!(engine(&["--no-uring"], None).unwrap(), Engine::Epoll);
        assert_eq!(engine(&["--engine", "auto"], Some("no-uring = true")).unwrap(), Engine::Epoll);
        assert_eq!(engine(&["--no-uring", "false"], Some("engine = \"uring\"")).unwrap(), Engine::Uring);
        assert!(engine(&["--engine", "uring"], Some("no-uring = true")).is_err());
    }

    #[test]
    fn address_pools_are_written_as_docker_has_them() {
        let flags = ["--default-address-pool", "base=10.10.0.0/16,size=24", "--bip=10.9.0.1/24"];
        let config = load(&flags, Some("default-address-pool = [\"base=10.11.0.0/16,size=24\"]")).unwrap();
        let pool = AddressPool { base: "10.10.0.0/16".parse().unwrap(), size: 24 };
        assert_eq!((config.default_address_pools, config.bip), (vec![pool], "10.9.0.1/24".parse().ok()));
        let twice = ["base=10.1.0.0/16,size=24", "size=64,base=fd00::/48"];
        let flags: Vec<String> = twice.iter().map(|pool| format!("--default-address-pool={pool}")).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        assert_eq!(load(&flags, None).unwrap().default_address_pools.len(), 2);
    }

    #[test]
    fn workers_poll_only_beside_spare_processors() {
        let path = |flags: &[&str], processors| {
            let arguments = Arguments::try_parse_from([&["vswitchd"], flags].concat()).unwrap();
            Config::load(arguments, "host1", processors)
        };
        let flags = ["--poll-us", "50", "--workers", "2", "--pin-cpus", "1,3"];
        let config = path(&flags, 4).unwrap();
        assert_eq!((config.poll_us, config.pin_cpus), (50, vec![1, 3]));
        let refused = path(&flags, 3).unwrap_err().to_string();
        assert!(
            refused.starts_with("poll-us needs a spare processor: with 2 workers at least 4"),
            "{refused}"
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (flags, file, part) in [
            (&["--workers", "0"][..], None, "workers is 0"),
            (&["--mtu", "70000"], None, "mtu is 70000"),
            (&["--bip", "10.0.0.0/24"], None, "bip is 10.0.0.0/24"),
            (&["--bip", "fd00::1/64"], None, "bip is fd00::1/64"),
            (&[], Some("default-address-pool = [\"base=10.0.0.1/8,size=24\"]"), "did you mean 10.0.0.0/8?"),
            (&[], Some("default-address-pool = [\"base=10.0.0.0/16,size=8\"]"), "the size 8 is none"),
            (&[], Some("default-address-pool = [\"10.0.0.0/16\"]"), "neither base=PREFIX nor size"),
            (&["--docker-host", "tcp://127.0.0.1:2375"], None, "docker-host is"),
            (&["--pin-cpus", "0,1"], None, "pin-cpus has 2 processors for 1 workers"),
            (&["--poll-us", "2000000"], None, "poll-us is 2000000"),
            (&["--engine", "uring", "--no-uring"], None, "engine is uring and no-uring is set"),
            (&["--node-name", "host 1"], None, "node-name is \"host 1\": a name starts with"),
            (&[], Some("mut = 1500"), "unknown field `mut`"),
            (&[], Some("mtu = \"big\""), "invalid type"),
        ] {
            let message = load(flags, file).unwrap_err().to_string();
            assert!(message.contains(part) && !message.contains('\n'), "{message}");
        }
    }
}
