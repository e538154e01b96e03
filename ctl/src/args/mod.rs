//! What may be typed: docker's verbs and flags.

mod amounts;
mod cluster;
mod container;
mod logs;
mod network;
mod parse;
mod pflag;
mod refused;
mod settings;
mod switch;
mod volumes;

pub use cluster::*;
pub use container::*;
pub use network::*;
pub use parse::Socket;
pub use pflag::flatten;
pub use settings::*;
pub use switch::*;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

/// Containers and networks of a vswitchd, with docker's verbs and flags.
#[derive(Debug, Parser)]
#[command(
    name = "vswitchctl",
    version,
    propagate_version = false,
    after_help = "Wherever a network or container is named, its name, its id or a unique prefix of its id will do.\n\n\
Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 5 no quorum, 6 daemon unreachable; \
run, exec and attach exit with the code of the process."
)]
pub struct Cli {
    /// Socket of the daemon
    #[arg(
        short = 'H',
        long = "host",
        value_name = "unix://PATH",
        env = "VSWITCH_HOST",
        global = true,
        default_value = Socket::DEFAULT,
        help_heading = "Global options",
    )]
    pub host: Socket,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, change and show networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Create a container and run a command in it
    Run(RunArgs),
    /// Create a container without starting it, and print its id
    #[command(
        mut_arg("detach", |flag| flag.hide(true)),
        mut_arg("detach_keys", |flag| flag.hide(true)),
        mut_arg("sig_proxy", |flag| flag.hide(true)),
        after_help = "Example: vswitchctl create --name web --restart always -- busybox httpd -f"
    )]
    Create(RunArgs),
    /// Start containers that were created or have ended
    Start(References),
    /// List containers
    Ps(PsArgs),
    /// Show all about containers or networks, as JSON
    Inspect(InspectArgs),
    /// Connect the terminal to a running container
    Attach(AttachArgs),
    /// Run a further command in a running container
    Exec(ExecArgs),
    /// Show what a container has written
    Logs(LogsArgs),
    /// End containers: SIGTERM, then SIGKILL
    Stop(StopArgs),
    /// End containers and start them again
    Restart(RestartArgs),
    /// Give a container another name
    Rename(RenameArgs),
    /// Change the restart policy and the limits of containers
    Update(UpdateArgs),
    /// Show the processes of a container
    Top(TopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Wait until containers end and print their exit codes
    Wait(References),
    /// Connect a network namespace that somebody else made
    Adopt(AdoptArgs),
    /// Join hosts, and look after the cluster that they are
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// The nodes of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// The ports of the switch
    #[command(subcommand)]
    Port(PortCommand),
    /// The forwarding table
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// What passed through the switch and what it dropped
    Stats(StatsArgs),
    /// Follow every change of networks and containers
    Events(EventsArgs),
    /// Show the daemon and its host at a glance
    Info(InfoArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example: vswitchctl completion bash > /etc/bash_completion.d/vswitchctl")]
    Completion {
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Show the versions of this command and of the daemon
    Version(VersionArgs),
    /// Write the man pages
    #[command(hide = true)]
    Man {
        /// Existing directory
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Parses a command line, its first word being the program's name, with docker's conventions for flags. The definition
/// without them, [`Cli::command`], is the one that people read: in the help, man pages and completions.
pub fn parse_from<I>(words: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    let mut command = command();
    let matches = command.try_get_matches_from_mut(words)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn command() -> clap::Command {
    refused::add(pflag::adapt(Cli::command()))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[cfg(test)]
mod tests;
