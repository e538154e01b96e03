//! `vswitchctl` against `docs/docker-cli.md`: what the page says of each flag of docker's is so.

use std::process::{Command, Output};

use vswitch_tests::flags::{Row, documented};

const PAGE: &str = include_str!("../../docs/docker-cli.md");

/// With `--help` behind the flag nothing is done, whether the flag is right or wrong.
fn ctl(command: &str, words: &[&str]) -> Output {
    let mut ctl = Command::new(vswitch_tests::binary("vswitchctl"));
    ctl.args(command.split(' ')).args(words).arg("--help").output().expect("vswitchctl runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A value for any flag. One that the flag does not take is an error that names the flag.
fn is_accepted(command: &str, flag: &str) -> Result<(), String> {
    for words in [&[flag, "1"][..], &[flag]] {
        let said = said(&ctl(command, words));
        if said.contains(&format!("unexpected argument '{flag}'")) || said.contains("is not supported") {
            return Err(said);
        }
    }
    Ok(())
}

/// For one of the values that a flag may have, all of which ask for something.
fn is_refused(command: &str, flag: &str, long: &str, row: &Row) -> Result<(), String> {
    let reason =
        format!("vswitchctl: {long} is not supported: {}; see 'vswitchctl {command} --help'\n", row.text);
    let tries =
        [&[flag, "something"][..], &[flag], &[&format!("{flag}=false")]].map(|words| ctl(command, words));
    let refused = tries.iter().any(|output| output.status.code() == Some(2) && said(output) == reason);
    let all: Vec<String> = tries.iter().map(said).collect();
    if refused { Ok(()) } else { Err(format!("not {reason:?} but {all:?}")) }
}

#[test]
fn flags_are_what_the_page_says() {
    let commands = documented(PAGE);
    assert_eq!(commands.len(), 8, "{:?}", commands.keys());
    let mut wrong = Vec::new();
    for (command, rows) in &commands {
        for (long, row) in rows {
            for flag in [Some(long), row.short.as_ref()].into_iter().flatten() {
                let result = match row.here.as_str() {
                    "refused" => is_refused(command, flag, long, row),
                    _ => is_accepted(command, flag),
                };
                wrong.extend(result.err().map(|why| format!("{command} {flag} ({}): {why}", row.here)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// So that the test above can fail.
#[test]
fn an_unknown_flag_is_neither_accepted_nor_refused() {
    let row = Row { short: None, here: "refused".into(), text: "it is not there".into() };
    assert!(is_accepted("run", "--no-such-flag").is_err());
    assert!(is_refused("run", "--no-such-flag", "--no-such-flag", &row).is_err());
    assert!(is_refused("run", "--detach", "--detach", &row).is_err());
    assert!(is_accepted("run", "--privileged").is_err());
}
