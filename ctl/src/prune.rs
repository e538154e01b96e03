//! `--filter` of `network prune`: until, label and label!, as docker has them.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::str::FromStr;

use vswitch_proto::api::NetworkPrune;

use crate::age::parse_utc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PruneFilter {
    Until(Until),
    Label(String),
    LabelAbsent(String),
}

/// A moment, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    AgoMs(u64),
    AtMs(u64),
}

impl FromStr for PruneFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<PruneFilter, String> {
        let (key, value) = text.split_once('=').ok_or("a filter is KEY=VALUE")?;
        let value = value.trim();
        match key.trim().to_ascii_lowercase().as_str() {
            "until" => until(value).map(PruneFilter::Until).ok_or_else(|| {
                format!("'{value}' is no time; give 10m, 1h30m, 2026-01-31, 2026-01-31T12:00:00Z or seconds since 1970")
            }),
            "label" if !value.is_empty() => Ok(PruneFilter::Label(value.into())),
            "label!" if !value.is_empty() => Ok(PruneFilter::LabelAbsent(value.into())),
            "label" | "label!" => Err("the name of a label is wanted".into()),
            other => Err(format!("unknown filter '{other}'; known are label, label!, until")),
        }
    }
}

fn until(text: &str) -> Option<Until> {
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.checked_mul(1000).map(Until::AtMs);
    }
    let moment = match text.len() {
        10 => parse_utc(&format!("{text}T00:00:00Z")),
        19 => parse_utc(&format!("{text}Z")),
        _ => parse_utc(text),
    };
    match moment {
        Some(seconds) => u64::try_from(seconds).ok()?.checked_mul(1000).map(Until::AtMs),
        None => duration_ms(text).map(Until::AgoMs),
    }
}

/// A duration as Go writes it: `1h30m`, `1.5h`, `300ms`.
fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_ms = match unit {
            "ns" => 1e-6,
            "us" | "µs" => 1e-3,
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 60e3,
            "h" => 3600e3,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * unit_ms;
        rest = after;
    }
    // A century is more than any network is old.
    (!text.is_empty() && sum < 3.2e12).then_some(sum as u64)
}

/// # Errors
/// When there are several moments.
pub fn assemble(filters: &[PruneFilter], now_s: i64) -> Result<NetworkPrune, &'static str> {
    let mut prune = NetworkPrune::default();
    for filter in filters {
        match filter {
            PruneFilter::Label(label) => prune.labels.push(label.clone()),
            PruneFilter::LabelAbsent(label) => prune.labels_absent.push(label.clone()),
            PruneFilter::Until(until) => {
                let now_ms = u64::try_from(now_s).unwrap_or(0) * 1000;
                let moment = match until {
                    Until::AtMs(moment) => *moment,
                    Until::AgoMs(age) => now_ms.saturating_sub(*age),
                };
                if prune.until_ms.replace(moment).is_some() {
                    return Err("until is given twice; give one");
                }
            }
        }
    }
    Ok(prune)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_a_pruning_are_dockers() {
        for (text, expected) in [
            ("label=a", PruneFilter::Label("a".into())),
            ("label!=a=1", PruneFilter::LabelAbsent("a=1".into())),
            ("until=10m", PruneFilter::Until(Until::AgoMs(600_000))),
            ("until=1h30m", PruneFilter::Until(Until::AgoMs(5_400_000))),
            ("until=1.5h", PruneFilter::Until(Until::AgoMs(5_400_000))),
            ("until=250ms", PruneFilter::Until(Until::AgoMs(250))),
            ("until=1431431490", PruneFilter::Until(Until::AtMs(1_431_431_490_000))),
            ("until=2015-05-12T11:51:30Z", PruneFilter::Until(Until::AtMs(1_431_431_490_000))),
            ("until=2015-05-12T11:51:30", PruneFilter::Until(Until::AtMs(1_431_431_490_000))),
            ("until=2015-05-12", PruneFilter::Until(Until::AtMs(1_431_388_800_000))),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["label", "label=", "until=", "until=soon", "until=5", "until=9h9", "until=-1h", "name=x"]
        {
            assert_eq!(text.parse::<PruneFilter>().is_err(), text != "until=5", "{text}");
        }
    }

    #[test]
    fn a_pruning_has_one_moment() {
        let parse = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<PruneFilter>>();
        let prune = assemble(&parse(&["until=10s", "label=a", "label=b", "label!=c"]), 1000).unwrap();
        assert_eq!(prune.until_ms, Some(990_000));
        assert_eq!((prune.labels.len(), prune.labels_absent.len()), (2, 1));
        assert_eq!(assemble(&[], 1000), Ok(NetworkPrune::default()));
        assert!(assemble(&parse(&["until=10s", "until=1m"]), 1000).is_err());
    }
}
