//! `--log-opt`.

use vswitch_proto::command::LogLimits;

use super::amounts;

/// One `--log-opt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogOption {
    /// Bytes; `None` for no bound.
    MaxSize(Option<u64>),
    MaxFile(u32),
}

impl LogOption {
    /// The limits with this option; a later one of the same key replaces an earlier one.
    pub fn apply(self, limits: LogLimits) -> LogLimits {
        match self {
            LogOption::MaxSize(bytes) => LogLimits { max_bytes: Some(bytes.unwrap_or(0)), ..limits },
            LogOption::MaxFile(files) => LogLimits { max_files: Some(files), ..limits },
        }
    }
}

/// `max-size=SIZE`, where -1 means no bound as in docker, or `max-file=NUMBER`.
pub fn option(text: &str) -> Result<LogOption, String> {
    match text.split_once('=') {
        Some(("max-size", "-1")) => Ok(LogOption::MaxSize(None)),
        Some(("max-size", size)) => match amounts::bytes(size)? {
            0 => Err("a file has more than 0 bytes; -1 is for no bound".into()),
            bytes => Ok(LogOption::MaxSize(Some(bytes))),
        },
        Some(("max-file", files)) => match files.parse() {
            Ok(files @ 1..=LogLimits::FILES_MAX) => Ok(LogOption::MaxFile(files)),
            _ => Err(format!("max-file is a number from 1 to {}", LogLimits::FILES_MAX)),
        },
        Some((key, _)) => Err(format!("there is no log option {key}; there are max-size and max-file")),
        None => Err("KEY=VALUE is wanted".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_logs() {
        assert_eq!(option("max-size=10m"), Ok(LogOption::MaxSize(Some(10 << 20))));
        assert_eq!(option("max-size=-1"), Ok(LogOption::MaxSize(None)));
        assert_eq!(option("max-file=3"), Ok(LogOption::MaxFile(3)));
        for bad in ["max-size", "max-size=0", "max-size=x", "max-file=0", "max-file=1000", "tag=x", "=1"] {
            assert!(option(bad).is_err(), "{bad}");
        }
        let both = ["max-size=1k", "max-file=2", "max-size=2k"].map(|text| option(text).unwrap());
        let limits = both.into_iter().fold(LogLimits::default(), |limits, option| option.apply(limits));
        assert_eq!(limits, LogLimits { max_bytes: Some(2048), max_files: Some(2) });
    }
}
