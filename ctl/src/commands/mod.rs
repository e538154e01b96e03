//! What each command does: ask the daemon, print the answer.

mod amend;
mod cluster;
mod container;
mod info;
mod inspect;
mod local;
mod network;
mod node;
mod run;
mod stream;
mod switch;

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::args::{Cli, Command};
use crate::client::{Call, Client};
use crate::failure::{Failure, Outcomes, print};
use crate::listing::{ItemFormat, pretty};
use crate::template::Value;

/// The exit code.
///
/// # Errors
/// When the command failed as a whole.
pub async fn execute(cli: Cli) -> Result<u8, Failure> {
    let client = Client::new(cli.host);
    match cli.command {
        Command::Network(command) => network::execute(&client, command).await,
        Command::Run(args) => run::run(&client, args).await,
        Command::Create(args) => run::create(&client, args).await,
        Command::Start(references) => {
            each(&client, references.containers, |c| Call::post(&["containers", c, "start"])).await
        }
        Command::Ps(args) => container::ps(&client, args).await,
        Command::Inspect(args) => inspect::inspect(&client, args).await,
        Command::Attach(args) => run::attach(&client, args).await,
        Command::Exec(args) => run::exec(&client, args).await,
        Command::Logs(args) => stream::logs(&client, args).await,
        Command::Stop(args) => container::stop(&client, args).await,
        Command::Restart(args) => amend::restart(&client, args).await,
        Command::Rename(args) => amend::rename(&client, &args).await,
        Command::Update(args) => amend::update(&client, args).await,
        Command::Top(args) => amend::top(&client, args).await,
        Command::Kill(args) => {
            let signal = args.signal;
            each(&client, args.references.containers, |c| {
                Call::post(&["containers", c, "kill"]).query("signal", &signal)
            })
            .await
        }
        Command::Rm(args) => {
            let force = args.force.to_string();
            each(&client, args.references.containers, |c| {
                Call::delete(&["containers", c]).query("force", &force)
            })
            .await
        }
        Command::Wait(references) => container::wait(&client, references).await,
        Command::Adopt(args) => container::adopt(&client, args).await,
        Command::Cluster(command) => cluster::execute(&client, command).await,
        Command::Node(command) => node::execute(&client, command).await,
        Command::Port(command) => switch::ports(&client, command).await,
        Command::Fdb(command) => switch::fdb(&client, command).await,
        Command::Stats(args) => switch::stats(&client, args).await,
        Command::Events(args) => stream::events(&client, args).await,
        Command::Info(args) => info::info(&client, args).await,
        Command::Completion { shell } => local::completion(shell),
        Command::Version(args) => local::version(&client, args).await,
        Command::Man { out } => local::man(&out),
    }
}

/// Sends a call for each name and prints the names for which it was done.
async fn each(client: &Client, names: Vec<String>, call: impl Fn(&str) -> Call) -> Result<u8, Failure> {
    let mut outcomes = Outcomes::default();
    for name in names {
        match client.perform_warned(call(&name)).await {
            Ok(()) => print(format!("{name}\n"))?,
            failed => outcomes.note(failed)?,
        }
    }
    Ok(outcomes.code())
}

/// One thing as `--format` has it; without a format for people.
fn show<T: Serialize>(
    format: Option<&ItemFormat>,
    thing: &T,
    for_people: impl FnOnce(&T) -> String,
) -> Result<String, Failure> {
    match format {
        None => Ok(for_people(thing)),
        Some(ItemFormat::Json) => Ok(pretty(thing)),
        Some(ItemFormat::Template(template)) => {
            let value = Value::of(thing).expect("answers of the API are JSON");
            Ok(template.render(&value)? + "\n")
        }
    }
}

/// As docker's listings show labels.
fn labels_text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<String>>().join(",")
}

fn now_s() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
