//! Changes of containers that exist, and their processes: restart, rename, update, top.

use vswitch_proto::api::{Top, Update};
use vswitch_proto::command::Limits;

use super::container::stop_call;
use super::each;
use crate::args::{RenameArgs, RestartArgs, TopArgs, UpdateArgs};
use crate::client::{Call, Client};
use crate::failure::{Failure, print};

/// Docker's: the least width of a column, and the blanks between two.
const COLUMN_WIDTH_MIN: usize = 20;
const COLUMN_GAP: usize = 3;

pub async fn restart(client: &Client, args: RestartArgs) -> Result<u8, Failure> {
    each(client, args.references.containers, |container| stop_call(container, "restart", args.time)).await
}

pub async fn rename(client: &Client, args: &RenameArgs) -> Result<u8, Failure> {
    let call = Call::post(&["containers", &args.container, "rename"]).query("name", args.name.as_str());
    client.perform(call).await?;
    Ok(0)
}

pub async fn update(client: &Client, args: UpdateArgs) -> Result<u8, Failure> {
    let limits = Limits { memory_bytes: args.memory, nano_cpus: args.cpus, pids: args.pids_limit };
    if args.restart.is_none() && limits.is_empty() {
        return Err(Failure::usage("you must provide one or more flags when using this command"));
    }
    let request = Update { restart: args.restart, limits };
    each(client, args.references.containers, |container| {
        Call::post(&["containers", container, "update"]).body(&request)
    })
    .await
}

pub async fn top(client: &Client, args: TopArgs) -> Result<u8, Failure> {
    if !matches!(args.options.as_slice(), [] | [_] if args.options.first().is_none_or(|option| option == "-ef"))
    {
        return Err(Failure::usage("options of ps are not supported: top shows the columns of ps -ef"));
    }
    let top: Top = client.fetch(Call::get(&["containers", &args.container, "top"])).await?;
    print(table(&top))?;
    Ok(0)
}

/// As docker prints it: all columns but the last are padded.
fn table(top: &Top) -> String {
    let rows: Vec<&Vec<String>> = std::iter::once(&top.titles).chain(&top.processes).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        (longest + COLUMN_GAP).max(COLUMN_WIDTH_MIN)
    };
    let widths: Vec<usize> = (0..top.titles.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            let is_last = at + 1 == row.len();
            text.push_str(&if is_last { cell.clone() } else { format!("{cell:<0$}", widths[at]) });
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_dockers() {
        let row = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>();
        let top = Top {
            titles: row(&["UID", "PID", "CMD"]),
            processes: vec![row(&["root", "12", "sleep 1"]), row(&["a-very-long-user-name", "3", "x"])],
        };
        assert_eq!(
            table(&top),
            "UID                     PID                 CMD\n\
             root                    12                  sleep 1\n\
             a-very-long-user-name   3                   x\n"
        );
    }
}
