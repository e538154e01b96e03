//! `vswitchctl cluster snapshot ...`

use std::path::Path;

use vswitch_proto::api::{ClusterFounded, SNAPSHOT_BYTES_MAX, SnapshotSummary};
use vswitch_proto::id::Name;

use super::super::show;
use super::invitation;
use crate::age::{as_docker, format_utc_ms};
use crate::args::SnapshotCommand;
use crate::client::{Call, Client};
use crate::failure::{Failure, print};
use crate::private_file;
use crate::table::layout;

pub async fn execute(client: &Client, command: SnapshotCommand) -> Result<u8, Failure> {
    match command {
        SnapshotCommand::Save { file } => save(client, &file).await,
        SnapshotCommand::Inspect { format, file } => {
            let bytes = private_file::read(&file, SNAPSHOT_BYTES_MAX)?;
            let summary = inspect(client, bytes).await?;
            print(show(format.as_ref(), &summary, text)?)?;
            Ok(0)
        }
        SnapshotCommand::Restore { file } => restore(client, &file).await,
    }
}

async fn save(client: &Client, file: &Path) -> Result<u8, Failure> {
    let bytes = client.fetch_bytes(Call::get(&["cluster", "snapshot"])).await?;
    private_file::write(file, &bytes)?;
    // What was written is what is looked at.
    let summary = inspect(client, private_file::read(file, SNAPSHOT_BYTES_MAX)?).await?;
    let (index, file) = (summary.applied, file.display());
    print(format!("Saved and verified snapshot to index {index}: {file}\n"))?;
    Ok(0)
}

async fn inspect(client: &Client, bytes: Vec<u8>) -> Result<SnapshotSummary, Failure> {
    client.fetch(Call::post(&["cluster", "snapshot", "inspect"]).bytes(bytes)).await
}

async fn restore(client: &Client, file: &Path) -> Result<u8, Failure> {
    let bytes = private_file::read(file, SNAPSHOT_BYTES_MAX)?;
    let founded: ClusterFounded =
        client.fetch(Call::post(&["cluster", "snapshot", "restore"]).bytes(bytes)).await?;
    let node = founded.node.0;
    print(format!(
        "Cluster restored from {}: this is node {node}, a voter.\n\n{}",
        file.display(),
        invitation(&founded)
    ))?;
    Ok(0)
}

fn text(summary: &SnapshotSummary) -> String {
    let names = |names: &[Name]| match names {
        [] => "-".into(),
        names => names.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
    };
    let row = |heading: &str, value: String| vec![heading.into(), value];
    layout(&[
        row("Cluster:", summary.cluster.to_string()),
        row("Taken at:", as_docker(&format_utc_ms(summary.taken_at_ms))),
        row("Index:", summary.applied.to_string()),
        row("Digest:", summary.digest.clone()),
        row("Nodes:", names(&summary.nodes)),
        row("Networks:", names(&summary.networks)),
        row("Endpoints:", summary.leases.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use vswitch_proto::id::ClusterId;

    use super::*;

    #[test]
    fn a_summary_is_read_at_a_glance() {
        let summary = SnapshotSummary {
            cluster: ClusterId([0xab; 16]),
            applied: 42,
            taken_at_ms: 1_431_431_490_042,
            digest: "cd".repeat(32),
            nodes: vec!["host1".parse().unwrap(), "host2".parse().unwrap()],
            networks: Vec::new(),
            leases: 3,
        };
        assert_eq!(
            text(&summary),
            format!(
                "Cluster:     {}\nTaken at:    2015-05-12 11:51:30.042 +0000 UTC\nIndex:       42\n\
                 Digest:      {}\nNodes:       host1, host2\nNetworks:    -\nEndpoints:   3\n",
                "ab".repeat(16),
                "cd".repeat(32)
            )
        );
    }
}
