//! `vswitchctl cluster ...` and `vswitchctl node ...`

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use vswitch_proto::address::HostPort;
use vswitch_proto::command::Role;

use crate::listing::{ItemFormat, ListFormat};

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Found a cluster with this node as its first
    #[command(
        after_help = "The daemon of each node has to listen for the others: vswitchd --listen IP:PORT.\n\
The join token that is printed lets a host become a node: keep it as a password."
    )]
    Init,
    /// Make this node part of a cluster
    #[command(
        after_help = "Addresses are tried in their order; one is enough. A token on the command line can be seen in the \
list of processes, one in a file cannot: its mode is 0600.\n\n\
Example: vswitchctl cluster join --token-file /root/token 10.8.0.1:7946"
    )]
    Join(JoinArgs),
    /// Leave the cluster for good
    #[command(after_help = "The last node takes the cluster with it.")]
    Leave {
        /// Also with containers in overlay networks, and when the others do not answer
        #[arg(short, long)]
        force: bool,
    },
    /// Show this node's view of the cluster
    #[command(
        after_help = "A majority of the voters is asked to confirm the view; without one the exit code is 5.\n\n\
Fields of templates are the keys that --format json shows."
    )]
    Status {
        /// What this node knows, without asking the others
        #[arg(long)]
        stale: bool,
        /// 'json' or a template; text otherwise
        #[arg(long, value_name = "FORMAT")]
        format: Option<ItemFormat>,
    },
    /// List the members of the cluster as the replication sees them
    #[command(
        after_help = "LAG counts entries of the log that a node is behind the leader; SILENT is how long ago the \
leader heard of it. Fields of templates are the keys that --format json shows."
    )]
    Members(LsArgs),
    /// Let nodes vote
    Promote(Nodes),
    /// Let nodes learn without voting
    Demote(Nodes),
    /// Remove nodes for good; their endpoints in overlay networks are released
    #[command(visible_alias = "rm", after_help = REMOVAL)]
    Remove(RemoveArgs),
    /// Say where a node is that moved while there was no quorum
    #[command(after_help = "A node that can reach the leader says so by itself.\n\n\
Example: vswitchctl cluster update-addr host3 10.8.0.33:7946")]
    UpdateAddr {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        node: String,
        #[arg(value_name = "ADDR[:PORT]")]
        address: HostPort,
    },
    /// Hand the leadership over, to any other voter or to this one
    TransferLeader {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        node: Option<String>,
    },
    /// Check the cluster: quorum, nodes, disk, certificate
    #[command(after_help = "Exit codes: 0 healthy, 5 without a quorum, 1 with other problems.\n\n\
Fields of templates are the keys that --format json shows.")]
    Health {
        /// 'json' or a template; text otherwise
        #[arg(long, value_name = "FORMAT")]
        format: Option<ItemFormat>,
    },
    /// The tokens that let hosts become nodes
    #[command(subcommand)]
    Token(TokenCommand),
    /// The certificate authority of the cluster
    #[command(subcommand)]
    Ca(CaCommand),
    /// Keep, look at and bring back the state of the cluster
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Go on with this node alone, after the others are lost for good; vswitchd must be stopped
    #[command(
        after_help = "Runs 'vswitchd recover' on this host. The node keeps its networks, the addresses of its containers and \
the authority of the cluster. Nodes that come back are refused: they leave with --force and join again.\n\n\
Example: systemctl stop vswitchd && vswitchctl cluster recover --force-new-cluster && systemctl start vswitchd"
    )]
    Recover(RecoverArgs),
    /// Compare the state of all nodes
    #[command(after_help = "Exit codes: 0 equal, 1 not equal, or a node did not answer.\n\n\
Fields of templates: {{.node}} {{.name}} {{.applied}} {{.digest}} {{.error}}")]
    Hash {
        /// Do not shorten digests
        #[arg(long)]
        no_trunc: bool,
        /// 'table', 'table TEMPLATE', 'json' or a template
        #[arg(long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
        format: ListFormat,
    },
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes of the cluster
    #[command(
        visible_alias = "list",
        after_help = "The node that answers is marked with '*'.\n\n\
Fields of templates: .ID .Hostname .Status .ManagerStatus .Role .Address .Endpoints .EngineVersion .Self"
    )]
    Ls(LsArgs),
    /// Remove nodes from the cluster for good, as 'cluster remove' does
    #[command(visible_alias = "remove", after_help = REMOVAL)]
    Rm(RemoveArgs),
}

const REMOVAL: &str = "A node that answers leaves by itself: run 'vswitchctl cluster leave' there. With --force it is \
removed all the same, and its endpoints are reclaimed. No removal may break the quorum.";

#[derive(Debug, Args)]
pub struct LsArgs {
    /// Print numbers only
    #[arg(short, long)]
    pub quiet: bool,
    /// 'table', 'table TEMPLATE', 'json' or a template
    #[arg(long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub format: ListFormat,
}

#[derive(Debug, Args)]
pub struct Nodes {
    /// Names or numbers
    #[arg(required = true, value_name = "NODE", value_parser = NonEmptyStringValueParser::new())]
    pub nodes: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Also one that answers or has endpoints
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub nodes: Nodes,
}

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// Nodes of the cluster; the port is 7946 unless given
    #[arg(required = true, value_name = "ADDR[:PORT]", value_delimiter = ',')]
    pub addresses: Vec<HostPort>,
    #[command(flatten)]
    pub token: TokenArgs,
    /// Give up the overlay networks of this node, which is in a cluster of its own
    #[arg(long)]
    pub discard: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct TokenArgs {
    /// Join token, as 'cluster token show' prints it
    #[arg(long)]
    pub token: Option<String>,
    /// File with the join token; '-' for standard input
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Replace the authority: nodes get new certificates by themselves, and all join tokens so far are refused
    #[command(
        after_help = "The former authority is trusted until every node has its new certificate, or for a week."
    )]
    Rotate {
        /// Begin none: trust the former authority no longer. Nodes that are waited for have to join again
        #[arg(long)]
        finish: bool,
        /// 'json' or a template; text otherwise
        #[arg(long, value_name = "FORMAT")]
        format: Option<ItemFormat>,
    },
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Show the token, with the command that uses it
    Show(TokenOutputArgs),
    /// Make a new token; the old one is refused from then on
    #[command(after_help = "Nodes that have joined are not affected.")]
    Rotate(TokenOutputArgs),
}

#[derive(Debug, Args)]
pub struct TokenOutputArgs {
    /// What nodes become that join with it
    #[arg(long, value_enum, default_value_t = RoleName::Voter)]
    pub role: RoleName,
    /// Print the token only
    #[arg(short, long)]
    pub quiet: bool,
    /// Write the token to a file of mode 0600, and print nothing
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Votes, once it has caught up and there is room
    Voter,
    /// Has the state and does not vote
    Learner,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Voter => Role::Voter,
            RoleName::Learner => Role::Learner,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Write the state of the cluster to a file of mode 0600
    #[command(
        after_help = "It has the networks, the nodes and who has which address; no keys and no tokens."
    )]
    Save { file: PathBuf },
    /// Show what is in a snapshot
    #[command(after_help = "Fields of templates are the keys that --format json shows.")]
    Inspect {
        /// 'json' or a template; text otherwise
        #[arg(long, value_name = "FORMAT")]
        format: Option<ItemFormat>,
        file: PathBuf,
    },
    /// Found a new cluster with the networks of a snapshot
    #[command(
        after_help = "This node must be in no cluster. It takes the place of the node of its name in the snapshot, and the \
addresses that were its containers'. All other nodes join anew."
    )]
    Restore { file: PathBuf },
}

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Yes: the other nodes, and what only they know, are given up
    #[arg(long, required = true)]
    pub force_new_cluster: bool,
    /// Data directory of the daemon, if neither the file nor the default is right
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration file of the daemon
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
