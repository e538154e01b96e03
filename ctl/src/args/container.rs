//! Everything about containers.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, ArgGroup, Args};
use vswitch_proto::api::RunNetwork;
use vswitch_proto::id::{MacAddr, Name};

use super::amounts;
use super::parse::{self, NetworkAttachment, Tail};
use super::settings::SettingsArgs;
use crate::detach::DetachKeys;
use crate::filter::ContainerFilter;
use crate::listing::{ItemFormat, ListFormat};

#[derive(Debug, Args)]
pub struct References {
    #[arg(required = true, value_name = "CONTAINER", value_parser = NonEmptyStringValueParser::new())]
    pub containers: Vec<String>,
}

/// Which networks a new container is connected to.
#[derive(Debug, Args)]
pub struct NetworkArgs {
    /// Network to connect to, bridge otherwise; the first one becomes eth0. Also container:NAME, to share the network of
    /// that container, and name=NETWORK,ip=IP,ip6=IP,mac-address=MAC,alias=NAME
    #[arg(long = "network", visible_alias = "net", value_name = "NETWORK")]
    pub networks: Vec<NetworkAttachment>,
    /// IPv4 address in the first network
    #[arg(long, value_name = "IP")]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address in the first network
    #[arg(long, value_name = "IP")]
    pub ip6: Option<Ipv6Addr>,
    /// MAC address in the first network
    #[arg(long, value_name = "MAC")]
    pub mac_address: Option<MacAddr>,
    /// Further name of the container in the first network
    #[arg(long = "network-alias", visible_alias = "net-alias", value_name = "NAME")]
    pub aliases: Vec<Name>,
}

/// Before the name of a container whose network is shared.
const SHARED: &str = "container:";

impl NetworkArgs {
    /// The container whose network is shared, if one is.
    ///
    /// # Errors
    /// When something is asked of that network, or of another one.
    pub fn shared_with(&self) -> Result<Option<String>, &'static str> {
        let names = || self.networks.iter().map(|wanted| wanted.0.network.as_str());
        let Some(container) = names().find_map(|name| name.strip_prefix(SHARED)) else { return Ok(None) };
        if container.is_empty() {
            return Err("--network container:NAME wants the name of a container");
        }
        if self.networks.len() > 1 {
            return Err("conflicting options: the network of a container and other networks");
        }
        if self.mac_address.is_some() {
            return Err("conflicting options: mac-address and the network mode");
        }
        let is_plain = self.networks[0].0.endpoint == Default::default();
        if self.ip.is_some() || self.ip6.is_some() || !self.aliases.is_empty() || !is_plain {
            return Err("conflicting options: an address or alias and the network of a container");
        }
        Ok(Some(container.into()))
    }

    /// The networks asked for; `bridge` when something is asked of a network that is not named.
    pub fn attachments(&self) -> Vec<RunNetwork> {
        let mut networks: Vec<RunNetwork> = self.networks.iter().map(|n| n.0.clone()).collect();
        let says_more =
            self.ip.is_some() || self.ip6.is_some() || self.mac_address.is_some() || !self.aliases.is_empty();
        if networks.is_empty() && says_more {
            networks.push(RunNetwork { network: "bridge".into(), ..RunNetwork::default() });
        }
        if let Some(first) = networks.first_mut() {
            let endpoint = &mut first.endpoint;
            endpoint.ipv4 = self.ip.or(endpoint.ipv4);
            endpoint.ipv6 = self.ip6.or(endpoint.ipv6);
            endpoint.mac = self.mac_address.or(endpoint.mac);
            endpoint.aliases.extend(self.aliases.iter().cloned());
        }
        networks
    }
}

#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Without -d the command's output is shown and vswitchctl exits with its code; ctrl-p ctrl-q leaves a \
terminal without ending the container.\n\n\
Examples:\n  vswitchctl run -itd --name=container1\n  \
vswitchctl run --rm --net=isolated_nw -- ping -c 3 container2"
)]
pub struct RunArgs {
    /// Do not wait for it: print its id
    #[arg(short, long)]
    pub detach: bool,
    /// Keep its standard input open, and forward it
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove it as soon as it ends
    #[arg(long)]
    pub rm: bool,
    /// Its name; made up otherwise
    #[arg(long)]
    pub name: Option<Name>,
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Its host name; its short id otherwise
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Environment variable; without a value it is taken from here
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = parse::environment)]
    pub env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Metadata that filters find
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    pub labels: Vec<(String, String)>,
    /// Directory of the daemon's host to be its root; otherwise the host's own files, read-only
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<String>,
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Pass signals that this command gets on to the container
    #[arg(long, action = ArgAction::Set, default_value_t = true, hide_default_value = true, value_name = "true|false")]
    pub sig_proxy: bool,
    /// Keys that leave the terminal
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Command and its arguments; sh otherwise
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Fields of templates: .ID .Names .Command .CreatedAt .RunningFor .Status .State .Networks .Labels\n\n\
Example: vswitchctl ps -a --filter status=exited --format '{{.Names}}: {{.Status}}'"
)]
pub struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// Only those with KEY=VALUE: name and id (regular expressions), status, network, label, exited, before, since, health
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<ContainerFilter>,
    /// 'table', 'table TEMPLATE', 'json' or a template
    #[arg(long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub format: ListFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: vswitchctl inspect --format '{{.NetworkSettings.Networks}}' container2")]
pub struct InspectArgs {
    /// 'json' or a template
    #[arg(short, long, value_name = "FORMAT", default_value = "json", hide_default_value = true)]
    pub format: ItemFormat,
    #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Keys that leave the container
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// Do not forward standard input
    #[arg(long)]
    pub no_stdin: bool,
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub container: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: vswitchctl exec -it container1 sh")]
pub struct ExecArgs {
    /// Forward standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Environment variable; without a value it is taken from here
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = parse::environment)]
    pub env: Vec<String>,
    /// File with environment variables, a line each
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<PathBuf>,
    /// User and group of the command, as NAME, UID or UID:GID; the container's otherwise
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Keys that leave the command
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub container: String,
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = parse::tail)]
    pub tail: Tail,
    /// With the time of each line
    #[arg(short, long)]
    pub timestamps: bool,
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub container: String,
}

#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds until SIGKILL, -1 for never; the container's own --stop-timeout otherwise, which is 10
    #[arg(
        short = 't',
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        value_parser = amounts::patience_s,
        allow_hyphen_values = true
    )]
    pub time: Option<u32>,
    #[command(flatten)]
    pub references: References,
}

#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Seconds until SIGKILL, -1 for never; the container's own --stop-timeout otherwise, which is 10
    #[arg(
        short = 't',
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        value_parser = amounts::patience_s,
        allow_hyphen_values = true
    )]
    pub time: Option<u32>,
    #[command(flatten)]
    pub references: References,
}

#[derive(Debug, Args)]
pub struct RenameArgs {
    #[arg(value_name = "CONTAINER", value_parser = NonEmptyStringValueParser::new())]
    pub container: String,
    #[arg(value_name = "NEW_NAME")]
    pub name: Name,
}

#[derive(Debug, Args)]
pub struct TopArgs {
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub container: String,
    /// Only -ef, whose columns are shown
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    pub options: Vec<String>,
}

#[derive(Debug, Args)]
pub struct KillArgs {
    /// As KILL, SIGKILL or 9
    #[arg(short, long, default_value = "KILL", value_parser = parse::signal)]
    pub signal: String,
    #[command(flatten)]
    pub references: References,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// Also those that run, by SIGKILL
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub references: References,
}

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("source").required(true),
    after_help = "Example: ip netns add lab && vswitchctl adopt --netns /run/netns/lab --name lab"
)]
pub struct AdoptArgs {
    /// Process whose network namespace is meant
    #[arg(long, group = "source", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,
    /// Path of the namespace, as /run/netns/NAME
    #[arg(long, group = "source", value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// Its name among the containers
    #[arg(long)]
    pub name: Name,
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Metadata that filters find
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    pub labels: Vec<(String, String)>,
}
