//! `vswitchctl node ...`, with docker's columns and fields.

use serde::Serialize;
use vswitch_proto::api::{Node, NodeState};

use super::cluster::{self, report};
use crate::args::{LsArgs, NodeCommand};
use crate::client::{Call, Client};
use crate::failure::{Failure, print};
use crate::listing::Listing;

const LISTING: Listing = Listing {
    columns: &[
        ("ID", "{{.ID}}{{if eq .Self \"true\"}} *{{end}}"),
        ("HOSTNAME", "{{.Hostname}}"),
        ("STATUS", "{{.Status}}"),
        ("ADDRESS", "{{.Address}}"),
        ("ENDPOINTS", "{{.Endpoints}}"),
        ("MANAGER STATUS", "{{.ManagerStatus}}"),
        ("ENGINE VERSION", "{{.EngineVersion}}"),
    ],
    headings: &[
        ("ID", "ID"),
        ("Hostname", "HOSTNAME"),
        ("Status", "STATUS"),
        ("ManagerStatus", "MANAGER STATUS"),
        ("Role", "ROLE"),
        ("Address", "ADDRESS"),
        ("Endpoints", "ENDPOINTS"),
        ("EngineVersion", "ENGINE VERSION"),
        ("Self", "SELF"),
    ],
    quiet: "{{.ID}}",
};

/// A row of docker's `node ls`: all fields are texts.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    address: String,
    endpoints: String,
    engine_version: String,
    hostname: String,
    #[serde(rename = "ID")]
    id: String,
    manager_status: String,
    role: String,
    #[serde(rename = "Self")]
    is_self: String,
    status: String,
}

pub async fn execute(client: &Client, command: NodeCommand) -> Result<u8, Failure> {
    match command {
        NodeCommand::Ls(args) => ls(client, &args).await,
        NodeCommand::Rm(args) => cluster::remove(client, args).await,
    }
}

async fn ls(client: &Client, args: &LsArgs) -> Result<u8, Failure> {
    LISTING.check(&args.format, &Row::default())?;
    let nodes: Vec<Node> = client.fetch(Call::get(&["nodes"])).await?;
    let rows: Vec<Row> = nodes.iter().map(row).collect();
    print(LISTING.print(&args.format, args.quiet, &rows)?)?;
    report::warn_of_nodes(&nodes);
    report::warn(client).await?;
    Ok(0)
}

fn row(node: &Node) -> Row {
    let status = match node.state {
        NodeState::Ready if report::errors(node).next().is_some() => "Degraded",
        NodeState::Ready => "Ready",
        NodeState::Down => "Down",
        NodeState::Unknown => "Unknown",
    };
    Row {
        address: node.address.to_string(),
        endpoints: node.leases.to_string(),
        engine_version: node.version.clone(),
        hostname: node.name.to_string(),
        id: node.id.0.to_string(),
        manager_status: report::manager_status(node).into(),
        role: report::role(node.role).into(),
        is_self: node.is_self.to_string(),
        status: status.into(),
    }
}

#[cfg(test)]
mod tests {
    use vswitch_proto::api::{Problem, ProblemArea, Severity};
    use vswitch_proto::command::Role;
    use vswitch_proto::id::NodeId;

    use super::*;

    #[test]
    fn nodes_are_listed_as_dockers_are() {
        let node = |id: u64, is_self, state| Node {
            id: NodeId(id),
            name: format!("host{id}").parse().unwrap(),
            address: ([10, 8, 0, id as u8], 7946).into(),
            vtep: [10, 8, 0, id as u8].into(),
            role: Role::Voter,
            wanted: Role::Voter,
            is_leader: id == 1,
            is_self,
            state,
            silent_ms: None,
            lag: None,
            version: "0.1.0".into(),
            joined_at_ms: 0,
            leases: 5,
            problems: Vec::new(),
        };
        let rows = [row(&node(1, false, NodeState::Ready)), row(&node(12, true, NodeState::Down))];
        let print = |format: &str, quiet| LISTING.print(&format.parse().unwrap(), quiet, &rows).unwrap();
        assert_eq!(
            print("table", false),
            "ID        HOSTNAME   STATUS    ADDRESS          ENDPOINTS   MANAGER STATUS   ENGINE VERSION\n\
             1         host1      Ready     10.8.0.1:7946    5           Leader           0.1.0\n\
             12 *      host12     Down      10.8.0.12:7946   5           Unreachable      0.1.0\n"
        );
        let broken = |severity| {
            let area = ProblemArea::Tunnels;
            let problems = vec![Problem { area, severity, message: "no tunnels".into() }];
            row(&Node { problems, ..node(1, false, NodeState::Ready) }).status
        };
        assert_eq!((&broken(Severity::Error)[..], &broken(Severity::Warning)[..]), ("Degraded", "Ready"));
        assert_eq!(print("table", true), "1\n12\n");
        assert_eq!(print("{{.Hostname}} {{.Self}}", false), "host1 false\nhost12 true\n");
    }
}
