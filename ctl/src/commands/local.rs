//! What this command knows by itself: its version, completions and man pages.

use std::path::Path;

use clap::CommandFactory;
use serde::Serialize;
use vswitch_proto::api::Version;

use super::show;
use crate::args::{Cli, Shell, VersionArgs};
use crate::client::{Call, Client};
use crate::failure::{FAILED, Failure, print};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Versions {
    client: ClientVersion,
    server: Option<ServerVersion>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ClientVersion {
    version: &'static str,
    api_version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServerVersion {
    version: String,
    api_version: String,
    node_name: String,
    kernel: String,
}

/// The client's own even when the daemon cannot be reached, as docker does.
pub async fn version(client: &Client, args: VersionArgs) -> Result<u8, Failure> {
    let answer = client.fetch::<Version>(Call::get(&["version"])).await;
    let (server, failure) = match answer {
        Ok(v) => {
            let Version { version, api, node_name, kernel } = v;
            (Some(ServerVersion { version, api_version: api, node_name, kernel }), None)
        }
        Err(failure) => (None, Some(failure)),
    };
    let own = ClientVersion { version: env!("CARGO_PKG_VERSION"), api_version: "v1" };
    let versions = Versions { client: own, server };
    print(show(args.format.as_ref(), &versions, for_people)?)?;
    failure.map_or(Ok(0), Err)
}

fn for_people(versions: &Versions) -> String {
    let Versions { client, server } = versions;
    let mut text =
        format!("Client:\n Version:       {}\n API version:   {}\n", client.version, client.api_version);
    if let Some(server) = server {
        text.push_str(&format!(
            "\nServer:\n Version:       {}\n API version:   {}\n Node:          {}\n Kernel:        {}\n",
            server.version, server.api_version, server.node_name, server.kernel
        ));
    }
    text
}

pub fn completion(shell: Shell) -> Result<u8, Failure> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vswitchctl", &mut script);
    print(script)?;
    Ok(0)
}

/// `vswitchctl.1` and one page for each command below it, as `vswitchctl-network-ls.1`.
pub fn man(directory: &Path) -> Result<u8, Failure> {
    clap_mangen::generate_to(Cli::command(), directory).map_err(|e| {
        Failure::new(FAILED, format_args!("cannot write man pages to {}: {e}", directory.display()))
    })?;
    Ok(0)
}
