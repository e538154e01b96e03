//! Containers as a whole: list, stop, wait, adopt.

use std::time::Duration;

use serde::Serialize;
use vswitch_proto::api::{Adopt, Container, ContainerSummary, Created, Exit, Network};

use super::network::print_created;
use super::{each, labels_text, now_s};
use crate::age::{ago, as_docker, parse_utc};
use crate::args::{AdoptArgs, PsArgs, References, StopArgs};
use crate::client::{ANSWER_TIMEOUT, Call, Client};
use crate::failure::{Failure, Outcomes, complain, print};
use crate::filter::{ContainerFilter, ContainerKey, Named, asks_for_status, container_matches, references};
use crate::listing::Listing;
use crate::table::{ellipsis, short_id};
use crate::template::Lookup;

/// Characters of a command that a table shows.
const COMMAND_WIDTH: usize = 20;

const LISTING: Listing = Listing {
    columns: &[
        ("CONTAINER ID", "{{.ID}}"),
        ("COMMAND", "{{.Command}}"),
        ("CREATED", "{{.RunningFor}}"),
        ("STATUS", "{{.Status}}"),
        ("NETWORKS", "{{.Networks}}"),
        ("NAMES", "{{.Names}}"),
    ],
    headings: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Ports", "PORTS"),
        ("Size", "SIZE"),
        ("Mounts", "MOUNTS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Names", "NAMES"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("State", "STATE"),
        ("Networks", "NETWORKS"),
        ("Labels", "LABELS"),
    ],
    quiet: "{{.ID}}",
};

/// A row of docker's `ps`: all fields are texts.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    command: String,
    created_at: String,
    #[serde(rename = "ID")]
    id: String,
    /// What it runs, as far as there is something like an image.
    image: String,
    /// docker's `.Label "key"`.
    label: Lookup,
    labels: String,
    local_volumes: String,
    mounts: String,
    names: String,
    networks: String,
    ports: String,
    running_for: String,
    size: String,
    state: String,
    status: String,
}

pub async fn ps(client: &Client, args: PsArgs) -> Result<u8, Failure> {
    LISTING.check(&args.format, &Row::default())?;
    let named = named(client, &args.filters).await?;
    let all = args.all || asks_for_status(&args.filters);
    let call = Call::get(&["containers"]).query("all", &all.to_string());
    let mut containers: Vec<ContainerSummary> = client.fetch(call).await?;
    containers.retain(|container| container_matches(container, &args.filters, &named));
    // The newest first.
    containers.sort_by_key(|container| std::cmp::Reverse(parse_utc(&container.created_at)));
    let now_s = now_s();
    let rows: Vec<Row> = containers.into_iter().map(|c| row(c, args.no_trunc, now_s)).collect();
    print(LISTING.print(&args.format, args.quiet, &rows)?)?;
    Ok(0)
}

fn row(container: ContainerSummary, no_trunc: bool, now_s: i64) -> Row {
    let command = if no_trunc { container.command } else { ellipsis(&container.command, COMMAND_WIDTH) };
    Row {
        command: format!("{command:?}"),
        created_at: as_docker(&container.created_at),
        id: if no_trunc { container.id } else { short_id(&container.id) },
        image: String::new(),
        labels: labels_text(&container.labels),
        label: Lookup(container.labels),
        local_volumes: "0".into(),
        mounts: String::new(),
        names: container.names,
        networks: container.networks.join(","),
        ports: String::new(),
        running_for: ago(&container.created_at, now_s),
        size: "0B".into(),
        state: container.state,
        status: container.status,
    }
}

/// What the filters refer to.
async fn named(client: &Client, filters: &[ContainerFilter]) -> Result<Named, Failure> {
    Ok(Named {
        networks: network_names(client, &references(filters, ContainerKey::Network)).await?,
        before: created(client, &references(filters, ContainerKey::Before)).await?,
        since: created(client, &references(filters, ContainerKey::Since)).await?,
    })
}

/// When containers were created.
async fn created(client: &Client, references: &[&str]) -> Result<Vec<String>, Failure> {
    let mut times = Vec::new();
    for reference in references {
        let container: Container = client.fetch(Call::get(&["containers", reference])).await?;
        times.push(container.created);
    }
    Ok(times)
}

/// The names of networks given by name, id or prefix. One that does not exist has no containers.
async fn network_names(client: &Client, wanted: &[&str]) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for reference in wanted.iter().filter(|reference| !reference.is_empty()) {
        match client.fetch::<Network>(Call::get(&["networks", reference])).await {
            Ok(network) => names.push(network.name),
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(names)
}

pub async fn stop(client: &Client, args: StopArgs) -> Result<u8, Failure> {
    each(client, args.references.containers, |container| stop_call(container, "stop", args.time)).await
}

/// A call that may take until the container has ended. Without a time it is the container's own one, which may be any.
pub fn stop_call(container: &str, verb: &str, time_s: Option<u32>) -> Call {
    let call = Call::post(&["containers", container, verb]);
    match time_s {
        Some(time_s) => call
            .query("timeout_s", &time_s.to_string())
            .timeout(Some(ANSWER_TIMEOUT + Duration::from_secs(time_s.into()))),
        None => call.timeout(None),
    }
}

pub async fn wait(client: &Client, references: References) -> Result<u8, Failure> {
    let mut outcomes = Outcomes::default();
    for container in references.containers {
        let call = Call::post(&["containers", &container, "wait"]).timeout(None);
        match client.fetch::<Exit>(call).await {
            Ok(exit) => {
                if !exit.error.is_empty() {
                    complain(format_args!("{container}: {}", exit.error));
                }
                print(format!("{}\n", exit.exit_code))?;
            }
            Err(failure) => outcomes.note(Err(failure))?,
        }
    }
    Ok(outcomes.code())
}

pub async fn adopt(client: &Client, args: AdoptArgs) -> Result<u8, Failure> {
    let networks = args.network.attachments();
    let netns = match args.netns.map(std::path::absolute).transpose() {
        Ok(path) => path,
        Err(e) => return Err(Failure::usage(format_args!("--netns: {e}"))),
    };
    let netns = netns.map(|path| path.into_os_string().into_string()).transpose();
    let request = Adopt {
        name: args.name,
        pid: args.pid,
        netns: netns.map_err(|_| Failure::usage("--netns: the path is not UTF-8"))?,
        labels: args.labels.into_iter().collect(),
        networks,
    };
    let created: Created = client.fetch(Call::post(&["containers", "adopt"]).body(&request)).await?;
    print_created(&created)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::ListFormat;

    #[test]
    fn the_table_is_dockers_to_the_byte() {
        let container = ContainerSummary {
            id: "f2870c98fd504370fb86e59f32cd0753b1ac9b69b7d80566ffc7192a82b3ed27".into(),
            names: "container1".into(),
            command: "sh -c \"sleep 1000 && true\"".into(),
            created_at: "2015-05-12T11:51:30Z".into(),
            state: "running".into(),
            status: "Up 3 minutes".into(),
            kind: "lab".into(),
            networks: vec!["bridge".into(), "isolated_nw".into()],
            labels: [("a".into(), "1".into()), ("b".into(), String::new())].into(),
        };
        let now_s = 1_431_431_490 + 200;
        let rows = [row(container.clone(), false, now_s)];
        assert_eq!(
            LISTING.print(&ListFormat::Table, false, &rows).unwrap(),
            "CONTAINER ID   COMMAND                   CREATED         STATUS         NETWORKS             NAMES\n\
             f2870c98fd50   \"sh -c \\\"sleep 1000 &…\"   3 minutes ago   Up 3 minutes   bridge,isolated_nw   container1\n"
        );
        let long = row(container, true, now_s);
        assert_eq!(long.id.len(), 64);
        assert_eq!(long.command, "\"sh -c \\\"sleep 1000 && true\\\"\"");
        assert_eq!(long.labels, "a=1,b=");
        assert_eq!(long.created_at, "2015-05-12 11:51:30 +0000 UTC");
    }
}
