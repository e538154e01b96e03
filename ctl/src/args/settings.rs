//! Flags of `run` and `create` that set what a container is beyond its command and networks.
#![allow(rustdoc::broken_intra_doc_links, reason = "brackets in help texts are no links")]

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use vswitch_proto::command::{
    Bind, Dns, ExtraHost, Limits, LogLimits, RestartPolicy, Settings, TmpfsMount, Ulimit,
};

use super::logs::{self, LogOption};
use super::volumes::{self, Mount};
use super::{amounts, parse};

#[derive(Debug, Default, Args)]
pub struct SettingsArgs {
    /// Line of its /etc/hosts
    #[arg(long = "add-host", value_name = "NAME:IP", value_parser = extra_host)]
    extra_hosts: Vec<ExtraHost>,
    /// Capability to add, as NET_ADMIN; it has all of the daemon's without that
    #[arg(long, value_name = "CAPABILITY", value_parser = capability)]
    cap_add: Vec<String>,
    /// Capability to drop, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = capability)]
    cap_drop: Vec<String>,
    /// Write its id to this file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Processors that it may use, as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = amounts::nano_cpus)]
    cpus: Option<u64>,
    /// Name server of its /etc/resolv.conf
    #[arg(long, value_name = "IP")]
    dns: Vec<IpAddr>,
    /// Option of its resolver
    #[arg(long = "dns-option", alias = "dns-opt", value_name = "OPTION")]
    dns_options: Vec<String>,
    /// Search domain; a single '.' for none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Its domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Program that the command's words are given to; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// File with environment variables, a line each
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<PathBuf>,
    /// Additional group of its processes
    #[arg(long = "group-add", value_name = "GROUP")]
    groups: Vec<String>,
    /// Have a pid 1 that reaps orphans and forwards signals to the command
    #[arg(long)]
    init: bool,
    /// File with labels, a line each
    #[arg(long = "label-file", value_name = "FILE")]
    pub label_files: Vec<PathBuf>,
    /// max-size=SIZE, at which a file of its output is full (20m), or max-file=NUMBER of such files (5)
    #[arg(long = "log-opt", value_name = "KEY=VALUE", value_parser = logs::option)]
    log_options: Vec<LogOption>,
    /// Memory that it may use, as 512m
    #[arg(short, long, value_name = "SIZE", value_parser = amounts::bytes)]
    memory: Option<u64>,
    /// type=bind,source=HOST,target=CONTAINER[,readonly] or type=tmpfs,target=CONTAINER
    #[arg(long = "mount", value_name = "MOUNT", value_parser = volumes::mount)]
    mounts: Vec<Mount>,
    /// Processes that it may have; -1 for any number
    #[arg(long, value_name = "NUMBER", value_parser = amounts::pids, allow_hyphen_values = true)]
    pids_limit: Option<u32>,
    /// Make its root read-only; volumes and --tmpfs stay as they are
    #[arg(long)]
    read_only: bool,
    /// When it is started again: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = amounts::restart)]
    restart: Option<RestartPolicy>,
    /// no-new-privileges
    #[arg(long = "security-opt", value_name = "OPTION", value_parser = security_option)]
    security_options: Vec<bool>,
    /// Size of /dev/shm, as 64m
    #[arg(long, value_name = "SIZE", value_parser = amounts::bytes)]
    shm_size: Option<u64>,
    /// Signal that asks it to end; TERM otherwise
    #[arg(long, value_name = "SIGNAL", value_parser = parse::signal_number)]
    stop_signal: Option<i32>,
    /// Seconds until it is killed when it is to stop; 10 otherwise, -1 for never
    #[arg(long, value_name = "SECONDS", value_parser = amounts::patience_s, allow_hyphen_values = true)]
    stop_timeout: Option<u32>,
    /// Setting of its network, as net.ipv4.ip_forward=1
    #[arg(long = "sysctl", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    sysctls: Vec<(String, String)>,
    /// Empty file system in memory, as /run:size=64m
    #[arg(long, value_name = "DIR[:OPTIONS]", value_parser = volumes::tmpfs)]
    tmpfs: Vec<TmpfsMount>,
    /// Limit of each process, as nofile=1024:2048
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = amounts::ulimit)]
    ulimits: Vec<Ulimit>,
    /// User and group of its processes, as NAME, UID or UID:GID; root otherwise
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Directory of the host inside of it, as ./data:/data or /etc:/host:ro
    #[arg(short, long = "volume", value_name = "HOST:CONTAINER[:ro]", value_parser = volumes::volume)]
    volumes: Vec<Bind>,
}

impl SettingsArgs {
    pub fn settings(&self) -> Settings {
        let binds = self.mounts.iter().filter_map(|mount| match mount {
            Mount::Bind(bind) => Some(bind),
            Mount::Tmpfs(_) => None,
        });
        let tmpfs = self.mounts.iter().filter_map(|mount| match mount {
            Mount::Tmpfs(tmpfs) => Some(tmpfs),
            Mount::Bind(_) => None,
        });
        Settings {
            entrypoint: self.entrypoint.iter().filter(|word| !word.is_empty()).cloned().collect(),
            domainname: self.domainname.clone().filter(|name| !name.is_empty()),
            user: self.user.clone().filter(|user| !user.is_empty()),
            groups: self.groups.clone(),
            init: self.init,
            read_only: self.read_only,
            no_new_privileges: self.security_options.last().copied().unwrap_or(false),
            binds: self.volumes.iter().chain(binds).cloned().collect(),
            tmpfs: self.tmpfs.iter().chain(tmpfs).cloned().collect(),
            shm_bytes: self.shm_size.filter(|size| *size > 0),
            sysctls: self.sysctls.iter().cloned().collect(),
            ulimits: self.ulimits.clone(),
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            extra_hosts: self.extra_hosts.clone(),
            dns: Dns {
                servers: self.dns.clone(),
                search: self.dns_search.clone(),
                options: self.dns_options.clone(),
            },
            restart: self.restart.unwrap_or_default(),
            stop_signal: self.stop_signal,
            stop_timeout_s: self.stop_timeout,
            limits: Limits {
                memory_bytes: self.memory.filter(|bytes| *bytes > 0),
                nano_cpus: self.cpus.filter(|nano_cpus| *nano_cpus > 0),
                pids: self.pids_limit.filter(|pids| *pids > 0),
            },
            log: self.log_options.iter().fold(LogLimits::default(), |limits, option| option.apply(limits)),
        }
    }
}

/// What `update` changes.
#[derive(Debug, Args)]
#[command(after_help = "Example: vswitchctl update --restart unless-stopped web")]
pub struct UpdateArgs {
    /// Processors that it may use, as 1.5; 0 for any number
    #[arg(long, value_name = "NUMBER", value_parser = amounts::nano_cpus)]
    pub cpus: Option<u64>,
    /// Memory that it may use, as 512m; 0 for any amount
    #[arg(short, long, value_name = "SIZE", value_parser = amounts::bytes)]
    pub memory: Option<u64>,
    /// Processes that it may have; -1 for any number
    #[arg(long, value_name = "NUMBER", value_parser = amounts::pids, allow_hyphen_values = true)]
    pub pids_limit: Option<u32>,
    /// When it is started again: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = amounts::restart)]
    pub restart: Option<RestartPolicy>,
    #[command(flatten)]
    pub references: super::References,
}

/// `NAME:IP`; an IPv6 address has further colons.
fn extra_host(text: &str) -> Result<ExtraHost, String> {
    let (name, address) = text.split_once(':').ok_or("NAME:IP is wanted")?;
    if name.is_empty() {
        return Err("NAME:IP is wanted".into());
    }
    if address == "host-gateway" {
        return Err("the host does not listen at the gateway of a network; give an address".into());
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse().map_err(|_| format!("invalid IP address in add-host: '{address}'"))?;
    Ok(ExtraHost { name: name.into(), address })
}

/// With or without `CAP_`, in any case.
fn capability(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name.is_empty() { Err("a capability is wanted, as NET_ADMIN".into()) } else { Ok(name.into()) }
}

fn security_option(text: &str) -> Result<bool, String> {
    match text {
        "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => Ok(true),
        "no-new-privileges:false" | "no-new-privileges=false" => Ok(false),
        _ => Err("there is no-new-privileges only; containers have no profiles".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_hosts_files() {
        let extra = |name: &str, ip: &str| Ok(ExtraHost { name: name.into(), address: ip.parse().unwrap() });
        assert_eq!(extra_host("db:192.0.2.1"), extra("db", "192.0.2.1"));
        assert_eq!(extra_host("db:2001:db8::1"), extra("db", "2001:db8::1"));
        assert_eq!(extra_host("db:[::1]"), extra("db", "::1"));
        for (bad, message) in [
            ("db", "NAME:IP"),
            (":1.2.3.4", "NAME:IP"),
            ("db:", "invalid IP"),
            ("db:1.2.3", "invalid IP"),
            ("h:host-gateway", "gateway"),
        ] {
            let error = extra_host(bad).unwrap_err();
            assert!(error.contains(message), "{bad}: {error}");
        }
    }

    #[test]
    fn capabilities_and_security() {
        assert_eq!(capability("cap_net_raw").as_deref(), Ok("NET_RAW"));
        assert_eq!(capability("All").as_deref(), Ok("ALL"));
        assert!(capability("").is_err() && capability("CAP_").is_err());
        assert_eq!(
            (security_option("no-new-privileges"), security_option("no-new-privileges:false")),
            (Ok(true), Ok(false))
        );
        assert!(security_option("seccomp=unconfined").is_err());
    }
}
