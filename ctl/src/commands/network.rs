//! `vswitchctl network ...`

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use vswitch_proto::api::{Connect, Created, Disconnect, Network, NetworkCreate, Pruned};

use super::{inspect, labels_text, now_s};
use crate::age::as_docker;
use crate::args::{
    NetworkCommand, NetworkConnectArgs, NetworkCreateArgs, NetworkLsArgs, NetworkRmArgs, flatten,
};
use crate::client::{Call, Client};
use crate::failure::{FAILED, Failure, Outcomes, complain, print};
use crate::filter::{check_networks, network_matches};
use crate::listing::Listing;
use crate::pools::{Requested, assemble};
use crate::prune::{PruneFilter, assemble as assemble_filter};
use crate::table::short_id;
use crate::template::Lookup;

const LISTING: Listing = Listing {
    columns: &[
        ("NETWORK ID", "{{.ID}}"),
        ("NAME", "{{.Name}}"),
        ("DRIVER", "{{.Driver}}"),
        ("SCOPE", "{{.Scope}}"),
    ],
    headings: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    quiet: "{{.ID}}",
};

/// A row of docker's `network ls`: all fields are texts.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    created_at: String,
    driver: String,
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "IPv4")]
    ipv4: String,
    #[serde(rename = "IPv6")]
    ipv6: String,
    internal: String,
    /// docker's `.Label "key"`.
    label: Lookup,
    labels: String,
    name: String,
    scope: String,
}

pub async fn execute(client: &Client, command: NetworkCommand) -> Result<u8, Failure> {
    match command {
        NetworkCommand::Ls(args) => ls(client, args).await,
        NetworkCommand::Create(args) => create(client, args).await,
        NetworkCommand::Inspect(args) => inspect::networks(client, args).await,
        NetworkCommand::Rm(args) => rm(client, args).await,
        NetworkCommand::Prune { force, filters } => prune(client, force, &filters).await,
        NetworkCommand::Connect(args) => connect(client, args).await,
        NetworkCommand::Disconnect { force, network, container } => {
            let call = Call::post(&["networks", &network, "disconnect"]);
            client.perform(call.body(&Disconnect { container, force })).await.map(|()| 0)
        }
    }
}

async fn ls(client: &Client, args: NetworkLsArgs) -> Result<u8, Failure> {
    check_networks(&args.filters).map_err(|error| Failure::usage(format_args!("--filter: {error}")))?;
    LISTING.check(&args.format, &Row::default())?;
    let mut networks: Vec<Network> = client.fetch(Call::get(&["networks"])).await?;
    networks.retain(|network| network_matches(network, &args.filters));
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<Row> = networks.into_iter().map(|network| row(network, args.no_trunc)).collect();
    print(LISTING.print(&args.format, args.quiet, &rows)?)?;
    Ok(0)
}

fn row(network: Network, no_trunc: bool) -> Row {
    Row {
        created_at: as_docker(&network.created),
        driver: network.driver,
        id: if no_trunc { network.id } else { short_id(&network.id) },
        ipv4: network.enable_ipv4.to_string(),
        ipv6: network.enable_ipv6.to_string(),
        internal: network.internal.to_string(),
        labels: labels_text(&network.labels),
        label: Lookup(network.labels),
        name: network.name,
        scope: network.scope,
    }
}

async fn create(client: &Client, args: NetworkCreateArgs) -> Result<u8, Failure> {
    let requested = Requested {
        subnets: &flatten(&args.subnets),
        gateways: &flatten(&args.gateways),
        ip_ranges: &flatten(&args.ip_ranges),
        aux_addresses: &args.aux_addresses,
    };
    check_scope(args.scope.as_deref(), &args.driver)?;
    let request = NetworkCreate {
        attachable: args.attachable,
        config_only: args.config_only,
        config_from: args.config_from,
        pools: assemble(&requested).map_err(Failure::usage)?,
        name: args.name,
        driver: Some(args.driver),
        internal: args.internal,
        ipv6: args.ipv6,
        options: args.options.into_iter().collect(),
        labels: args.labels.into_iter().collect(),
    };
    let created: Created = client.fetch(Call::post(&["networks"]).body(&request)).await?;
    print_created(&created)
}

/// The scope is the driver's, and docker's flag can only say the same.
fn check_scope(scope: Option<&str>, driver: &str) -> Result<(), Failure> {
    let fits = match scope {
        None | Some("") => true,
        Some("local") => driver != "overlay",
        Some("global" | "swarm") => driver == "overlay",
        Some(_) => false,
    };
    if fits {
        return Ok(());
    }
    Err(Failure::usage("--scope: bridge networks are local, overlay networks (-d overlay) are global"))
}

/// Warnings for the person, the id for the script.
pub fn print_created(created: &Created) -> Result<u8, Failure> {
    created.warnings.iter().for_each(|warning| complain(format_args!("warning: {warning}")));
    print(format!("{}\n", created.id))?;
    Ok(0)
}

async fn rm(client: &Client, args: NetworkRmArgs) -> Result<u8, Failure> {
    let mut outcomes = Outcomes::default();
    for name in args.networks {
        let remove = Call::delete(&["networks", &name]).query("force", &args.force.to_string());
        match client.perform(remove).await {
            Ok(()) => print(format!("{name}\n"))?,
            Err(failure) if args.force && failure.is_not_found() => {}
            failed => outcomes.note(failed)?,
        }
    }
    Ok(outcomes.code())
}

async fn prune(client: &Client, force: bool, filters: &[PruneFilter]) -> Result<u8, Failure> {
    if !force && !confirmed()? {
        return Err(Failure::new(FAILED, "network prune has been cancelled"));
    }
    let filter = assemble_filter(filters, now_s())
        .map_err(|error| Failure::usage(format_args!("--filter: {error}")))?;
    let pruned: Pruned = client.fetch(Call::post(&["networks", "prune"]).body(&filter)).await?;
    if !pruned.networks.is_empty() {
        let names: String = pruned.networks.iter().map(|name| format!("{name}\n")).collect();
        print(format!("Deleted Networks:\n{names}\n"))?;
    }
    Ok(0)
}

fn confirmed() -> Result<bool, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage("network prune asks before it removes; without a terminal give --force"));
    }
    // The question is worth nothing without a terminal to ask it on, and the answer is then no.
    let _ = write!(
        io::stderr(),
        "WARNING! This will remove all custom networks not used by at least one container.\n\
         Are you sure you want to continue? [y/N] "
    );
    let mut answer = String::new();
    stdin.read_line(&mut answer).map_err(|e| Failure::new(FAILED, format_args!("no answer: {e}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn connect(client: &Client, args: NetworkConnectArgs) -> Result<u8, Failure> {
    let endpoint = args.endpoint();
    let call = Call::post(&["networks", &args.network, "connect"]);
    client.perform_warned(call.body(&Connect { container: args.container, endpoint })).await.map(|()| 0)
}
