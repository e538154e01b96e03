//! Files of `--env-file` and `--label-file`, with docker's syntax: a `KEY=VALUE` or `KEY` on each line, taken as it is;
//! empty lines, and those that begin with `#`, are skipped.

use std::fs;
use std::path::Path;

use crate::failure::Failure;

/// Largest file that is read, bytes: about what a process may be given.
const FILE_BYTES_MAX: u64 = 4 << 20;
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The lines of a file, for a flag of this name.
///
/// # Errors
/// When it cannot be read, or a line is not as described.
pub fn read(flag: &str, path: &Path) -> Result<Vec<String>, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::usage(format_args!("--{flag} {}: {error}", path.display()));
    let size = fs::metadata(path).map_err(|error| failed(&error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(failed(&"the file is over 4 MiB"));
    }
    let bytes = fs::read(path).map_err(|error| failed(&error))?;
    parse(&bytes).map_err(|error| failed(&error))
}

fn parse(bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = at + 1;
        let line = std::str::from_utf8(line).map_err(|_| format!("line {number} is not UTF-8"))?;
        let line = line.strip_suffix('\r').unwrap_or(line);
        let line = if at == 0 { line.trim_start_matches(BYTE_ORDER_MARK) } else { line };
        // Docker trims the left of a line and takes the rest as it is.
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split_once('=').map_or(line, |(key, _)| key);
        if key.is_empty() {
            return Err(format!("no variable name on line {number}: '{line}'"));
        }
        if key.contains(char::is_whitespace) {
            return Err(format!("line {number}: variable '{key}' contains whitespaces"));
        }
        found.push(line.into());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_as_they_are() {
        let text = "\u{feff}A=1\n# comment\n\n  B= two words \nC=\nPATH\r\nD=\"quoted\" # kept\n#E=5\nF=a=b";
        assert_eq!(
            parse(text.as_bytes()).unwrap(),
            ["A=1", "B= two words ", "C=", "PATH", "D=\"quoted\" # kept", "F=a=b"]
        );
        assert_eq!(parse(b"").unwrap(), [""; 0]);
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, message) in [
            (&b"A=1\nB C=2\n"[..], "line 2: variable 'B C' contains whitespaces"),
            (b"=x", "no variable name on line 1: '=x'"),
            (b"A=1\n\xff\xfe", "line 2 is not UTF-8"),
            (b"A B", "line 1: variable 'A B' contains whitespaces"),
        ] {
            assert_eq!(parse(text).unwrap_err(), message);
        }
    }
}
