//! `vswitchctl network ...`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use ipnet::IpNet;
use vswitch_proto::api::EndpointConfig;
use vswitch_proto::id::{MacAddr, Name};

use super::parse;
use super::pflag::{Strings, flatten};
use crate::filter::NetworkFilter;
use crate::listing::{ItemFormat, ListFormat};
use crate::prune::PruneFilter;

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// List networks
    #[command(
        visible_alias = "list",
        after_help = "Fields of templates: .ID .Name .Driver .Scope .IPv4 .IPv6 .Internal .Labels .CreatedAt\n\n\
Example: vswitchctl network ls --filter type=custom --format 'table {{.Name}}\\t{{.Driver}}'"
    )]
    Ls(NetworkLsArgs),
    /// Create a network and print its id
    #[command(
        after_help = "Without --subnet the next free default pool is taken, 172.18.0.0/16 and on. A gateway, range or aux \
address belongs to the subnet that contains it.\n\n\
Example: vswitchctl network create --subnet 10.1.0.0/16 --gateway 10.1.0.254 --ipv6 --subnet fd00:1::/64 web"
    )]
    Create(NetworkCreateArgs),
    /// Show all about networks, as JSON
    #[command(after_help = "Example: vswitchctl network inspect --format '{{json .Containers}}' bridge")]
    Inspect(NetworkInspectArgs),
    /// Remove networks to which no container is connected
    #[command(visible_alias = "remove")]
    Rm(NetworkRmArgs),
    /// Remove every network of yours to which no container is connected
    Prune {
        /// Do not ask
        #[arg(short, long)]
        force: bool,
        /// Only those created before until=24h|TIME, with label=KEY[=VALUE], or without label!=KEY[=VALUE]
        #[arg(long = "filter", value_name = "KEY=VALUE")]
        filters: Vec<PruneFilter>,
    },
    /// Connect a container to a network
    #[command(after_help = "Example: vswitchctl network connect --ip 10.1.0.9 --alias db web container2")]
    Connect(NetworkConnectArgs),
    /// Disconnect a container from a network
    Disconnect {
        /// Also when the container is gone or unreachable
        #[arg(short, long)]
        force: bool,
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        network: String,
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        container: String,
    },
}

#[derive(Debug, Args)]
pub struct NetworkLsArgs {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Only those with KEY=VALUE: name and id (regular expressions), driver, label, scope, type=builtin|custom,
    /// dangling=true|false
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<NetworkFilter>,
    /// 'table', 'table TEMPLATE', 'json' or a template
    #[arg(long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub format: ListFormat,
}

#[derive(Debug, Args)]
pub struct NetworkCreateArgs {
    /// Driver of the network
    #[arg(short, long, default_value = "bridge")]
    pub driver: String,
    /// Subnet in CIDR notation; several for IPv4 and IPv6
    #[arg(long = "subnet", value_name = "CIDR")]
    pub subnets: Vec<Strings<IpNet>>,
    /// Address of the subnet's gateway; the first usable one otherwise
    #[arg(long = "gateway", value_name = "IP")]
    pub gateways: Vec<Strings<IpAddr>>,
    /// Part of the subnet to take containers' addresses from
    #[arg(long = "ip-range", value_name = "CIDR")]
    pub ip_ranges: Vec<Strings<IpNet>>,
    /// Address that no container gets
    #[arg(long = "aux-address", value_name = "NAME=IP", value_parser = parse::aux_address)]
    pub aux_addresses: Vec<(String, IpAddr)>,
    /// Without a way out: containers get no default route
    #[arg(long)]
    pub internal: bool,
    /// With IPv6 addresses
    #[arg(long)]
    pub ipv6: bool,
    /// Metadata that filters find
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    pub labels: Vec<(String, String)>,
    /// Kept and shown: containers can be connected to any network
    #[arg(long)]
    pub attachable: bool,
    /// Make no network but a configuration, for --config-from
    #[arg(long)]
    pub config_only: bool,
    /// Configuration that has the subnets, options and labels
    #[arg(long, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub config_from: Option<String>,
    /// As the driver has it: local, and global or swarm for overlay networks
    #[arg(long)]
    pub scope: Option<String>,
    /// Option of the driver
    #[arg(short = 'o', long = "opt", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    pub options: Vec<(String, String)>,
    pub name: Name,
}

#[derive(Debug, Args)]
pub struct NetworkInspectArgs {
    /// 'json' or a template
    #[arg(short, long, value_name = "FORMAT", default_value = "json", hide_default_value = true)]
    pub format: ItemFormat,
    /// As without: all is shown
    #[arg(short, long)]
    verbose: bool,
    #[arg(required = true, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub networks: Vec<String>,
}

#[derive(Debug, Args)]
pub struct NetworkRmArgs {
    /// Also what a lost Docker engine of this host has left of it; one that does not exist is no error
    #[arg(short, long)]
    pub force: bool,
    #[arg(required = true, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub networks: Vec<String>,
}

#[derive(Debug, Args)]
pub struct NetworkConnectArgs {
    /// IPv4 address; the next free one otherwise
    #[arg(long, value_name = "IP")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address
    #[arg(long, value_name = "IP")]
    ip6: Option<Ipv6Addr>,
    /// MAC address; 02:42 and the IPv4 address otherwise
    #[arg(long, value_name = "MAC")]
    mac_address: Option<MacAddr>,
    /// Further name of the container in this network
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<Strings<Name>>,
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub container: String,
}

impl NetworkConnectArgs {
    pub fn endpoint(&self) -> EndpointConfig {
        EndpointConfig {
            ipv4: self.ip,
            ipv6: self.ip6,
            mac: self.mac_address,
            aliases: flatten(&self.aliases),
        }
    }
}
