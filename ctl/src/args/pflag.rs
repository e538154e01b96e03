//! The conventions of docker's flag parser (Go's `pflag`), on top of clap's.
//!
//! | written | meaning |
//! | --- | --- |
//! | `--flag`, `-f` | a boolean flag that is set |
//! | `--flag=true`, `-f=0`, `-itd=F` | a boolean flag with a value, in Go's spellings; the value needs the `=` |
//! | `--name x`, `--name=x`, `-n x`, `-nx`, `-n=x` | a flag with a value, which may begin with a hyphen |
//! | `--name x --name y` | the last one counts, unless the flag is a list |
//! | `--subnet a,b --subnet c` | a list of the kind that docker calls `strings`: see [`Strings`] |
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::any::TypeId;
use std::fmt::Display;
use std::str::FromStr;

use clap::{Arg, ArgAction, Command};

/// Gives all flags of a command and of its subcommands docker's conventions.
pub fn adapt(command: Command) -> Command {
    command.args_override_self(true).mut_args(adapt_flag).mut_subcommands(adapt)
}

fn adapt_flag(flag: Arg) -> Arg {
    if flag.is_positional() || flag.is_required_set() && is_boolean(&flag) {
        return flag;
    }
    match flag.get_action() {
        ArgAction::SetTrue => optional_boolean(flag).action(ArgAction::Set).default_value("false"),
        ArgAction::Set if is_boolean(&flag) => optional_boolean(flag),
        ArgAction::Set | ArgAction::Append => flag.allow_hyphen_values(true),
        _ => flag,
    }
}

fn is_boolean(flag: &Arg) -> bool {
    matches!(flag.get_action(), ArgAction::SetTrue)
        || flag.get_value_parser().type_id() == TypeId::of::<bool>()
}

/// A flag that is true without a value, and may have one behind a `=`.
pub fn optional_boolean(flag: Arg) -> Arg {
    flag.num_args(0..=1).require_equals(true).default_missing_value("true").value_parser(boolean)
}

/// Go's spellings of a boolean.
pub fn boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("true or false is wanted"),
    }
}

/// One value of a flag that docker calls `strings`: comma-separated values, quoted as in CSV. An empty text has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strings<T>(Vec<T>);

impl<T> FromStr for Strings<T>
where
    T: FromStr<Err: Display>,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Strings<T>, String> {
        if text.is_empty() {
            return Ok(Strings(Vec::new()));
        }
        let value = |field: String| field.parse().map_err(|error| format!("'{field}': {error}"));
        fields(text)?.into_iter().map(value).collect::<Result<_, _>>().map(Strings)
    }
}

/// All values of all occurrences of a flag, in their order.
pub fn flatten<T: Clone>(occurrences: &[Strings<T>]) -> Vec<T> {
    occurrences.iter().flat_map(|strings| strings.0.iter().cloned()).collect()
}

/// The fields of one line of CSV.
fn fields(line: &str) -> Result<Vec<String>, &'static str> {
    const QUOTE: &str = "a quoted value must end with '\"', before a comma or the end";
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = rest.split_once(',').map_or((rest, None), |(f, a)| (f, Some(a)));
            if field.contains('"') {
                return Err("a '\"' inside of a value must be doubled, and the value be quoted");
            }
            fields.push(field.into());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let (field, after) = quoted_field(quoted).ok_or(QUOTE)?;
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err(QUOTE),
        }
    }
}

/// The text up to the closing quote, and what follows it. A doubled quote stands for one.
fn quoted_field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Result<Vec<String>, String> {
        text.parse::<Strings<String>>().map(|strings| strings.0)
    }

    #[test]
    fn strings_are_separated_by_commas_as_in_csv() {
        for (text, expected) in [
            ("", &[][..]),
            ("a", &["a"]),
            ("a,b", &["a", "b"]),
            ("a,,b,", &["a", "", "b", ""]),
            ("\"a,b\",c", &["a,b", "c"]),
            ("\"a\"\"b\"", &["a\"b"]),
            ("\"\"", &[""]),
        ] {
            assert_eq!(
                split(text).as_deref(),
                Ok(&expected.iter().map(|s| (*s).into()).collect::<Vec<_>>()[..])
            );
        }
        for text in ["a\"b", "\"a", "\"a\"b", "\""] {
            assert!(split(text).is_err(), "{text}");
        }
        assert_eq!(
            "1,x".parse::<Strings<u8>>(),
            Err("'x': invalid digit found in string".into()),
            "the error names the value"
        );
    }

    #[test]
    fn booleans_have_the_spellings_of_go() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(boolean(text), Ok(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(boolean(text), Ok(false));
        }
        for text in ["", "yes", "2", "tRUE", " true"] {
            assert!(boolean(text).is_err(), "{text}");
        }
    }
}
