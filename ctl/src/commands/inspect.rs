//! `inspect` and `network inspect`: what was found on standard output, then a line for each that was not.

use serde::Serialize;
use vswitch_proto::api::{Container, Network};

use crate::args::{InspectArgs, NetworkInspectArgs};
use crate::client::{Call, Client};
use crate::failure::{Failure, NOT_FOUND, Outcomes, print};
use crate::listing::{ItemFormat, pretty};
use crate::template::Value;

/// What a name may stand for.
#[derive(Serialize)]
#[serde(untagged)]
enum Thing {
    Container(Box<Container>),
    Network(Box<Network>),
}

pub async fn inspect(client: &Client, args: InspectArgs) -> Result<u8, Failure> {
    let mut results = Vec::new();
    for name in &args.names {
        results.push(thing(client, name).await);
    }
    show(&args.format, results)
}

/// Containers first, as docker does.
async fn thing(client: &Client, name: &str) -> Result<Thing, Failure> {
    match client.fetch(Call::get(&["containers", name])).await {
        Err(failure) if failure.is_not_found() => {}
        other => return other.map(|container| Thing::Container(Box::new(container))),
    }
    match client.fetch(Call::get(&["networks", name])).await {
        Err(failure) if failure.is_not_found() => Err(Failure::new(
            NOT_FOUND,
            format_args!("no such object: {name}; see vswitchctl ps -a and vswitchctl network ls"),
        )),
        other => other.map(|network| Thing::Network(Box::new(network))),
    }
}

pub async fn networks(client: &Client, args: NetworkInspectArgs) -> Result<u8, Failure> {
    let mut results: Vec<Result<Network, Failure>> = Vec::new();
    for name in &args.networks {
        results.push(client.fetch(Call::get(&["networks", name])).await);
    }
    show(&args.format, results)
}

fn show<T: Serialize>(format: &ItemFormat, results: Vec<Result<T, Failure>>) -> Result<u8, Failure> {
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(item) => found.push(item),
            Err(failure) => failures.push(failure),
        }
    }
    print(match format {
        ItemFormat::Json => pretty(&found),
        ItemFormat::Template(template) => {
            let mut out = String::new();
            for item in &found {
                let value = Value::of(item).expect("answers of the API are JSON");
                out.push_str(&template.render(&value)?);
                out.push('\n');
            }
            out
        }
    })?;
    let mut outcomes = Outcomes::default();
    failures.into_iter().try_for_each(|failure| outcomes.note(Err(failure)))?;
    Ok(outcomes.code())
}
