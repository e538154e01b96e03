//! What the switch knows and counts.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use vswitch_proto::id::MacAddr;

use crate::listing::{ItemFormat, ListFormat};

#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// List ports
    #[command(
        visible_alias = "list",
        after_help = "Fields of templates are the keys that --format json shows, as {{.id}} {{.mac}} {{.counters.rx_frames}}; \
rx is what the switch received from the container."
    )]
    Ls {
        /// Print ids only
        #[arg(short, long)]
        quiet: bool,
        /// 'table', 'table TEMPLATE', 'json' or a template
        #[arg(long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
        format: ListFormat,
    },
}

#[derive(Debug, Subcommand)]
pub enum FdbCommand {
    /// List MAC addresses and the ports that they are behind
    #[command(
        visible_alias = "ls",
        after_help = "Fields of templates are the keys that --format json shows: {{.network}} {{.mac}} {{.port}} {{.container}} \
{{.kind}} {{.age_s}}. Ages are seconds since the address was last seen."
    )]
    Show {
        /// 'table', 'table TEMPLATE', 'json' or a template
        #[arg(long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
        format: ListFormat,
        /// Only this one
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        network: Option<String>,
    },
    /// Put a MAC address behind a container's port, until vswitchd restarts
    #[command(after_help = "Example: vswitchctl fdb add bridge 02:00:00:00:00:99 container1")]
    Add {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        network: String,
        mac: MacAddr,
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        container: String,
    },
    /// Forget a MAC address
    #[command(visible_alias = "rm")]
    Del {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        network: String,
        mac: MacAddr,
    },
    /// Forget every learned MAC address
    Flush {
        /// Only of this one
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        network: Option<String>,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Counts are since the daemon started. rx is what the switch received from containers."
)]
pub struct StatsArgs {
    /// 'json' or a template over what it shows; tables otherwise
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<ItemFormat>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Ends with ctrl-c. Fields of templates: {{.seq}} {{.at_ms}} {{.type}} {{.action}} {{.id}} {{.name}} {{.attributes}}"
)]
pub struct EventsArgs {
    /// 'json' or a template for each
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<ItemFormat>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Fields of templates are the keys that --format json shows, as {{.ContainersRunning}} {{.Cluster.Leader}}. \
What is wrong goes to standard error."
)]
pub struct InfoArgs {
    /// 'json' or a template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<ItemFormat>,
}

#[derive(Debug, Args)]
pub struct VersionArgs {
    /// 'json' or a template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<ItemFormat>,
}
