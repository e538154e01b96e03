//! `vswitchctl cluster ...`: what changes the cluster. What it looks like is in [`report`], its files in [`snapshot`].

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use vswitch_proto::address::HostPort;
use vswitch_proto::api::{
    ClusterFounded, ClusterInit, ClusterJoin, ClusterJoined, ClusterToken, JoinToken, Node, NodeAddress,
    TransferLeader,
};
use vswitch_proto::command::Role;

use super::each;
use crate::args::{
    CaCommand, ClusterCommand, JoinArgs, Nodes, RecoverArgs, RemoveArgs, TokenArgs, TokenCommand,
    TokenOutputArgs,
};
use crate::client::{Call, Client};
use crate::failure::{FAILED, Failure, NOT_FOUND, print};
use crate::private_file;

pub mod report;
mod snapshot;

/// A join waits for an election and for the state to come.
const JOIN_TIMEOUT: Duration = Duration::from_secs(120);
const LEADER_LOOKS_MAX: usize = 50;
const LEADER_LOOK_INTERVAL: Duration = Duration::from_millis(100);
const TOKEN_BYTES_MAX: usize = 4096;

pub async fn execute(client: &Client, command: ClusterCommand) -> Result<u8, Failure> {
    match command {
        ClusterCommand::Init => init(client).await,
        ClusterCommand::Join(args) => join(client, args).await,
        ClusterCommand::Leave { force } => {
            let call = Call::post(&["cluster", "leave"]).query("force", &force.to_string());
            client.perform(call).await?;
            print("This node has left the cluster.\n").map(|()| 0)
        }
        ClusterCommand::Status { stale, format } => report::status(client, stale, format.as_ref()).await,
        ClusterCommand::Members(args) => report::members(client, &args).await,
        ClusterCommand::Promote(Nodes { nodes }) => {
            each(client, nodes, |node| Call::post(&["nodes", node, "promote"])).await
        }
        ClusterCommand::Demote(Nodes { nodes }) => {
            each(client, nodes, |node| Call::post(&["nodes", node, "demote"])).await
        }
        ClusterCommand::Remove(args) => remove(client, args).await,
        ClusterCommand::UpdateAddr { node, address } => {
            let address = resolve(&address).await?[0];
            let call = Call::put(&["nodes", &node, "address"]).body(&NodeAddress { address });
            client.perform(call).await.map(|()| 0)
        }
        ClusterCommand::TransferLeader { node } => transfer_leader(client, node).await,
        ClusterCommand::Health { format } => report::health(client, format.as_ref()).await,
        ClusterCommand::Token(command) => token(client, command).await,
        ClusterCommand::Ca(CaCommand::Rotate { finish, format }) => {
            report::rotation(client, finish, format.as_ref()).await
        }
        ClusterCommand::Snapshot(command) => snapshot::execute(client, command).await,
        ClusterCommand::Recover(args) => Err(recover(&args)),
        ClusterCommand::Hash { no_trunc, format } => report::hash(client, no_trunc, &format).await,
    }
}

pub async fn remove(client: &Client, args: RemoveArgs) -> Result<u8, Failure> {
    let force = args.force.to_string();
    each(client, args.nodes.nodes, |node| Call::delete(&["nodes", node]).query("force", &force)).await
}

async fn init(client: &Client) -> Result<u8, Failure> {
    let founded: ClusterFounded =
        client.fetch(Call::post(&["cluster", "init"]).body(&ClusterInit {})).await?;
    let node = founded.node.0;
    print(format!("Cluster initialized: this is node {node}, a voter.\n\n{}", invitation(&founded)))?;
    Ok(0)
}

/// As `docker swarm init` does it.
fn invitation(founded: &ClusterFounded) -> String {
    let learner = "To add a node that does not vote, run 'vswitchctl cluster token show --role learner' and follow the \
                   instructions.";
    format!("{}\n{learner}\n", how_to_join(Role::Voter, &founded.token, founded.address))
}

fn how_to_join(role: Role, token: &JoinToken, address: SocketAddr) -> String {
    let what = match role {
        Role::Voter => "a node to this cluster",
        Role::Learner => "a node that does not vote",
    };
    let JoinToken(token) = token;
    format!(
        "To add {what}, run the following command there:\n\n    vswitchctl cluster join --token {token} {address}\n"
    )
}

async fn join(client: &Client, args: JoinArgs) -> Result<u8, Failure> {
    let token = read_token(args.token)?;
    let mut addresses = Vec::new();
    for address in &args.addresses {
        addresses.extend(resolve(address).await?);
    }
    let request = ClusterJoin { addresses, token, discard: args.discard };
    let call = Call::post(&["cluster", "join"]).body(&request).timeout(Some(JOIN_TIMEOUT));
    let joined: ClusterJoined = client.fetch(call).await?;
    let and = match joined.role {
        Role::Voter => "; it votes once it has caught up",
        Role::Learner => ", a learner",
    };
    print(format!("This node has joined the cluster as node {}{and}.\n", joined.node.0))?;
    Ok(0)
}

fn read_token(args: TokenArgs) -> Result<JoinToken, Failure> {
    let text = match (args.token, args.token_file) {
        (Some(token), _) => token,
        (None, Some(path)) => {
            let bytes = match path.to_str() {
                Some("-") => {
                    private_file::read_from(io::stdin(), Path::new("standard input"), TOKEN_BYTES_MAX)?
                }
                _ => private_file::read(&path, TOKEN_BYTES_MAX)?,
            };
            String::from_utf8_lossy(&bytes).into_owned()
        }
        (None, None) => return Err(Failure::usage("give --token or --token-file")),
    };
    Ok(JoinToken(text.trim().into()))
}

/// One address or more.
async fn resolve(address: &HostPort) -> Result<Vec<SocketAddr>, Failure> {
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
    let addresses: Vec<SocketAddr> = found.map(Iterator::collect).map_err(|error| {
        Failure::new(
            NOT_FOUND,
            format_args!("cannot find the address of {}: {error}; check the name", address.host),
        )
    })?;
    if addresses.is_empty() {
        return Err(Failure::new(NOT_FOUND, format_args!("{} has no address; check the name", address.host)));
    }
    Ok(addresses)
}

async fn transfer_leader(client: &Client, to: Option<String>) -> Result<u8, Failure> {
    let call = Call::post(&["cluster", "transfer-leader"]).body(&TransferLeader { to });
    client.perform(call).await?;
    // It is done; this node only may not have heard of the new leader yet.
    for _ in 0..LEADER_LOOKS_MAX {
        let nodes: Vec<Node> = client.fetch(Call::get(&["nodes"])).await?;
        if let Some(leader) = nodes.iter().find(|node| node.is_leader) {
            print(format!("{} leads the cluster.\n", leader.name))?;
            break;
        }
        tokio::time::sleep(LEADER_LOOK_INTERVAL).await;
    }
    Ok(0)
}

async fn token(client: &Client, command: TokenCommand) -> Result<u8, Failure> {
    let (call, args) = match command {
        TokenCommand::Show(args) => (Call::get(&["cluster", "token"]), args),
        TokenCommand::Rotate(args) => (Call::post(&["cluster", "token", "rotate"]), args),
    };
    let TokenOutputArgs { role, quiet, output } = args;
    let role = Role::from(role);
    let ClusterToken { token, address, .. } = client.fetch(call.query("role", report::role(role))).await?;
    match output {
        Some(path) => private_file::write(&path, format!("{}\n", token.0).as_bytes())?,
        None if quiet => print(format!("{}\n", token.0))?,
        None => print(how_to_join(role, &token, address))?,
    }
    Ok(0)
}

/// The daemon's own executable knows what is on the disk. Comes back only when it cannot be run.
fn recover(args: &RecoverArgs) -> Failure {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name("vswitchd"));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| "vswitchd".into());
    let mut command = Command::new(&program);
    command.args(["recover", "--force-new-cluster"]);
    for (flag, value) in [("--config", &args.config), ("--data-dir", &args.data_dir)] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    let error = command.exec();
    let program = program.display();
    Failure::new(FAILED, format_args!("cannot run {program}: {error}; install vswitchd on this host"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vswitch_proto::id::{ClusterId, NodeId};

    #[test]
    fn the_invitation_is_dockers() {
        let founded = ClusterFounded {
            cluster: ClusterId([1; 16]),
            node: NodeId(1),
            address: ([10, 8, 0, 1], 7946).into(),
            token: JoinToken("vswitch-1-voter-aa-bb".into()),
        };
        assert_eq!(
            invitation(&founded),
            "To add a node to this cluster, run the following command there:\n\n    \
             vswitchctl cluster join --token vswitch-1-voter-aa-bb 10.8.0.1:7946\n\n\
             To add a node that does not vote, run 'vswitchctl cluster token show --role learner' and follow the \
             instructions.\n"
        );
    }

    #[test]
    fn a_token_is_read_from_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, " vswitch-1-voter-aa-bb\n").unwrap();
        let from = |token: Option<&str>, token_file| {
            read_token(TokenArgs { token: token.map(Into::into), token_file })
        };
        let expected = JoinToken("vswitch-1-voter-aa-bb".into());
        assert_eq!(from(None, Some(path.clone())).unwrap(), expected);
        assert_eq!(from(Some("vswitch-1-voter-aa-bb"), None).unwrap(), expected);
        std::fs::write(&path, "x".repeat(TOKEN_BYTES_MAX + 1)).unwrap();
        assert_eq!(from(None, Some(path)).unwrap_err().code(), 2);
    }

    #[tokio::test]
    async fn names_become_addresses() {
        let ip = resolve(&"[::1]:80".parse().unwrap()).await.unwrap();
        assert_eq!(ip, ["[::1]:80".parse().unwrap()]);
        let failure = resolve(&"no-such-host.invalid".parse().unwrap()).await.unwrap_err();
        assert_eq!(failure.code(), NOT_FOUND);
    }
}
