//! `vswitchctl`: arguments in, requests to the daemon, tables and JSON out.
//!
//! [`args`] says what may be typed, [`commands`] what is done about it, [`client`] speaks HTTP over the daemon's
//! socket, [`session`], [`output`] and [`terminal`] carry an attached stream. What can be wrong without a daemon (a template, a
//! filter, a subnet) is found before the daemon is asked. Pure, and tested as such: [`template`], [`listing`],
//! [`table`], [`filter`], [`pools`], [`prune`], [`detach`], [`age`].

mod age;
mod args;
mod client;
mod commands;
mod detach;
mod failure;
mod filter;
mod key_files;
mod listing;
mod output;
mod pools;
mod private_file;
mod prune;
mod session;
mod table;
mod template;
mod terminal;
mod usage;

use std::process::ExitCode;

use args::Cli;
use failure::{FAILED, Failure, complain};

fn main() -> ExitCode {
    let code = match args::parse_from(std::env::args_os()) {
        Ok(cli) => run(cli),
        Err(error) => usage::report(&error),
    };
    ExitCode::from(code)
}

fn run(cli: Cli) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return FAILED;
        }
    };
    match runtime.block_on(commands::execute(cli)) {
        Ok(code) => code,
        Err(Failure::OutputClosed) => 0,
        Err(failure) => {
            complain(&failure);
            failure.code()
        }
    }
}
