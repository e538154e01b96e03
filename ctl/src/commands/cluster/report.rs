//! What the cluster says about itself. The rows are the API's own types, and so are the fields of templates.

use vswitch_proto::api::{
    AuthorityRotation, ClusterHash, ClusterHealth, ClusterStatus, Membership, Node, NodeHash, NodeState,
    Problem, Severity,
};
use vswitch_proto::command::Role;
use vswitch_proto::id::{Name, NodeId};

use super::super::{now_s, show};
use crate::age::{as_docker, duration, format_utc_ms};
use crate::args::LsArgs;
use crate::client::{Call, Client};
use crate::failure::{FAILED, Failure, NO_QUORUM, complain, print};
use crate::listing::{ItemFormat, ListFormat, Listing};
use crate::table::{layout, short_id};

const MEMBERS: Listing = Listing {
    columns: &[
        ("ID", "{{.id}}"),
        ("NAME", "{{.name}}"),
        ("ADDRESS", "{{.address}}"),
        ("ROLE", "{{.role}}{{if ne .role .wanted}} (to be {{.wanted}}){{end}}"),
        ("STATE", "{{.state}}"),
        ("LEADER", "{{if .is_leader}}yes{{else}}-{{end}}"),
        ("LAG", "{{if .lag}}{{.lag}}{{else}}{{if eq .state \"ready\"}}0{{else}}-{{end}}{{end}}"),
        ("SILENT", "{{if .silent_ms}}{{.silent_ms}} ms{{else}}-{{end}}"),
        ("VTEP", "{{.vtep}}"),
        ("VERSION", "{{.version}}"),
    ],
    headings: &[
        ("id", "ID"),
        ("name", "NAME"),
        ("address", "ADDRESS"),
        ("vtep", "VTEP"),
        ("role", "ROLE"),
        ("wanted", "WANTED"),
        ("is_leader", "LEADER"),
        ("is_self", "SELF"),
        ("state", "STATE"),
        ("silent_ms", "SILENT (MS)"),
        ("lag", "LAG"),
        ("version", "VERSION"),
        ("joined_at_ms", "JOINED AT (MS)"),
        ("leases", "ENDPOINTS"),
        ("problems", "PROBLEMS"),
    ],
    quiet: "{{.id}}",
};

const HASHES: Listing = Listing {
    columns: &[
        ("NODE", "{{.node}}"),
        ("NAME", "{{.name}}"),
        ("APPLIED", "{{if .digest}}{{.applied}}{{else}}-{{end}}"),
        ("DIGEST", "{{if .digest}}{{.digest}}{{else}}-{{end}}"),
    ],
    headings: &[
        ("node", "NODE"),
        ("name", "NAME"),
        ("applied", "APPLIED"),
        ("digest", "DIGEST"),
        ("error", "ERROR"),
    ],
    quiet: "{{.digest}}",
};

/// From here on days are exact enough, and weeks and months are not.
const TWO_DAYS_S: i64 = 2 * 24 * 60 * 60;

pub fn role(role: Role) -> &'static str {
    match role {
        Role::Voter => "voter",
        Role::Learner => "learner",
    }
}

pub async fn status(client: &Client, stale: bool, format: Option<&ItemFormat>) -> Result<u8, Failure> {
    let status: ClusterStatus =
        client.fetch(Call::get(&["cluster"]).query("stale", &stale.to_string())).await?;
    let now_s = now_s();
    print(show(format, &status, |status| status_text(status, now_s))?)?;
    match (status.membership, status.confirmed) {
        (Membership::Member, Some(false)) => {
            let reason = status.reason.unwrap_or_else(|| "no quorum: the others do not answer".into());
            Err(Failure::new(NO_QUORUM, reason))
        }
        (Membership::Fenced, _) if !stale => {
            let reason = status.reason.unwrap_or_default();
            Err(Failure::new(FAILED, format_args!("the cluster refuses this node: {reason}")))
        }
        _ => Ok(0),
    }
}

fn status_text(status: &ClusterStatus, now_s: i64) -> String {
    let row = |heading: &str, value: String| vec![heading.into(), value];
    let (state, reason) = match (status.membership, &status.reason) {
        (Membership::Alone, _) => ("in no cluster", None),
        (Membership::Member, reason) => ("member", reason.as_ref()),
        (Membership::Fenced, reason) => ("fenced", reason.as_ref()),
    };
    let mut rows = vec![row("State:", state.into())];
    rows.extend(reason.map(|reason| row("Reason:", reason.clone())));
    if status.membership == Membership::Alone {
        return layout(&rows);
    }
    let number = |node: Option<NodeId>| node.map_or("-".into(), |node| node.0.to_string());
    let leader = match (status.leader, &status.leader_name) {
        (Some(node), Some(name)) => format!("{} ({name})", node.0),
        (leader, _) => number(leader),
    };
    let confirmed = match status.confirmed {
        Some(true) => "yes, by a majority",
        Some(false) => "no",
        None => "not asked for",
    };
    rows.extend([
        row("Cluster:", status.cluster.map_or("-".into(), |cluster| cluster.to_string())),
        row("Node:", number(status.node)),
        row("Role:", status.role.map_or("-", role).into()),
        row("Leader:", leader),
        row("Confirmed:", confirmed.into()),
        row("Voters:", numbers(&status.voters)),
        row("Learners:", numbers(&status.learners)),
        row("Term:", status.term.to_string()),
        row("Committed:", status.committed.to_string()),
        row("Applied:", status.applied.to_string()),
    ]);
    rows.extend(status.certificate_expires_at_ms.map(|ms| row("Certificate:", expiry(ms, now_s))));
    layout(&rows)
}

fn numbers(nodes: &[NodeId]) -> String {
    if nodes.is_empty() {
        return "-".into();
    }
    nodes.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(", ")
}

fn expiry(at_ms: u64, now_s: i64) -> String {
    let at = as_docker(&format_utc_ms(at_ms / 1000 * 1000)).replace(".000", "");
    let left_s = i64::try_from(at_ms / 1000).unwrap_or(i64::MAX) - now_s;
    match left_s {
        ..=0 => format!("expired {} ago, at {at}", duration(-left_s)),
        TWO_DAYS_S.. => format!("good for {} days, until {at}", left_s / (24 * 60 * 60)),
        _ => format!("good for {}, until {at}", duration(left_s)),
    }
}

pub async fn members(client: &Client, args: &LsArgs) -> Result<u8, Failure> {
    let nodes: Vec<Node> = client.fetch(Call::get(&["nodes"])).await?;
    print(MEMBERS.print(&args.format, args.quiet, &nodes)?)?;
    warn_of_nodes(&nodes);
    warn(client).await?;
    Ok(0)
}

/// What does not work on a node.
pub fn errors(node: &Node) -> impl Iterator<Item = &Problem> {
    node.problems.iter().filter(|problem| problem.severity == Severity::Error)
}

/// Tells beside a list of nodes what does not work on them.
pub fn warn_of_nodes(nodes: &[Node]) {
    for node in nodes {
        errors(node)
            .for_each(|error| complain(format_args!("warning: node {}: {}", node.name, error.message)));
    }
}

/// Of a list that nobody vouches for.
pub async fn warn(client: &Client) -> Result<(), Failure> {
    let status: ClusterStatus = client.fetch(Call::get(&["cluster"]).query("stale", "true")).await?;
    if let Some(reason) = status.reason {
        let whose = match status.membership {
            Membership::Fenced => "this node is fenced, and shows what it knew: ",
            Membership::Member | Membership::Alone => "",
        };
        complain(format_args!("warning: {whose}{reason}"));
    }
    Ok(())
}

pub async fn health(client: &Client, format: Option<&ItemFormat>) -> Result<u8, Failure> {
    let health: ClusterHealth = client.fetch(Call::get(&["cluster", "health"])).await?;
    let now_s = now_s();
    print(show(format, &health, |health| health_text(health, now_s))?)?;
    let code = match health.problems.len() {
        _ if !health.has_quorum => NO_QUORUM,
        0 => 0,
        _ => FAILED,
    };
    Ok(code)
}

/// Begins a rotation of the authority, or with `finish` ends one.
pub async fn rotation(client: &Client, finish: bool, format: Option<&ItemFormat>) -> Result<u8, Failure> {
    let call = Call::post(&["cluster", "ca", "rotate"]).query("finish", &finish.to_string());
    let rotation: AuthorityRotation = client.fetch(call).await?;
    print(show(format, &rotation, rotation_text)?)?;
    Ok(0)
}

fn rotation_text(rotation: &AuthorityRotation) -> String {
    let AuthorityRotation { generation, authority, waiting, former_is_trusted } = rotation;
    let names: Vec<&str> = waiting.iter().map(Name::as_str).collect();
    let former = match (former_is_trusted, names.is_empty()) {
        (true, true) => "trusted for some moments more".into(),
        (true, false) => format!("trusted until these have new certificates: {}", names.join(", ")),
        (false, true) => "not trusted any more".into(),
        (false, false) => format!("not trusted any more; these have to join again: {}", names.join(", ")),
    };
    let facts = layout(&[
        vec!["Authority:".into(), format!("{} (generation {generation})", short_id(authority))],
        vec!["Former authority:".into(), former],
    ]);
    format!("{facts}\nJoin tokens so far are refused: 'vswitchctl cluster token show' has the new one.\n")
}

fn health_text(health: &ClusterHealth, now_s: i64) -> String {
    let row = |heading: &str, value: String| vec![heading.into(), value];
    let sync = match (health.sync_median_us, health.sync_max_us) {
        (Some(median), Some(max)) => format!("{} median, {} longest", millis(median), millis(max)),
        _ => "-".into(),
    };
    let is_known = health.nodes.iter().any(|node| node.state != NodeState::Unknown);
    let voters = if is_known {
        format!("{} of {} answer", health.reachable_voters, health.voters)
    } else {
        format!("{}, and no leader to tell which of them answer", health.voters)
    };
    let mut rows = vec![
        row("Quorum:", if health.has_quorum { "yes" } else { "no" }.into()),
        row("Voters:", voters),
        row("Failure tolerance:", health.failure_tolerance.to_string()),
        row("Disk sync:", sync),
    ];
    rows.extend(health.certificate_expires_at_ms.map(|ms| row("Certificate:", expiry(ms, now_s))));
    rows.extend([
        row("Messages dropped:", health.messages_dropped.to_string()),
        row("Connections refused:", health.connections_refused.to_string()),
    ]);
    let nodes = MEMBERS
        .print(&ListFormat::Table, false, &health.nodes)
        .expect("the templates of the program fit its rows");
    let problems = match health.problems.as_slice() {
        [] => "No problems.\n".into(),
        problems => {
            problems.iter().fold("Problems:\n".into(), |text, problem| format!("{text}  - {problem}\n"))
        }
    };
    let warnings = match health.warnings.as_slice() {
        [] => String::new(),
        warnings => {
            warnings.iter().fold("Warnings:\n".into(), |text, warning| format!("{text}  - {warning}\n"))
        }
    };
    format!("{}\n{nodes}\n{problems}{warnings}", layout(&rows))
}

fn millis(us: u64) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}

pub async fn hash(client: &Client, no_trunc: bool, format: &ListFormat) -> Result<u8, Failure> {
    let ClusterHash { is_equal, mut nodes } = client.fetch(Call::get(&["cluster", "hash"])).await?;
    if !no_trunc && matches!(format, ListFormat::Table | ListFormat::TableOf(_)) {
        for node in &mut nodes {
            node.digest = node.digest.as_deref().map(short_id);
        }
    }
    print(HASHES.print(format, false, &nodes)?)?;
    if is_equal {
        return Ok(0);
    }
    Err(Failure::new(FAILED, difference(&nodes)))
}

fn difference(nodes: &[NodeHash]) -> String {
    let silent = |node: &NodeHash| Some(format!("{}: {}", node.name, node.error.as_ref()?));
    let silent: Vec<String> = nodes.iter().filter_map(silent).collect();
    if silent.is_empty() {
        "the states are not equal; if they stay so while nothing changes, save a snapshot of each node and report it"
            .into()
    } else {
        format!("not every node answers: {}", silent.join("; "))
    }
}

/// What docker's `MANAGER STATUS` says.
pub fn manager_status(node: &Node) -> &'static str {
    match (node.role, node.state) {
        (Role::Voter, _) if node.is_leader => "Leader",
        (Role::Voter, NodeState::Ready) => "Reachable",
        (Role::Voter, NodeState::Down) => "Unreachable",
        (Role::Voter, NodeState::Unknown) => "Unknown",
        (Role::Learner, _) => "",
    }
}

#[cfg(test)]
mod tests;
