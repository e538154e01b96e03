//! Values of the flags that set limits, in docker's notation.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use vswitch_proto::command::{RestartPolicy, Ulimit};

/// Digits behind the point of a number of processors.
const CPU_DIGITS_MAX: usize = 9;

/// A size in bytes: a number with `b`, `k`, `m`, `g`, `t` or `p`, powers of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let bad = || "a size is wanted, as 512m or 1g".to_owned();
    let lower = text.to_ascii_lowercase();
    let unit = lower.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = &lower[..lower.len() - unit.len()];
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let unit = unit.strip_suffix('b').unwrap_or(unit);
    let unit = unit.strip_suffix('i').filter(|unit| !unit.is_empty()).unwrap_or(unit);
    let power = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == unit).ok_or_else(bad)?;
    let factor = 1_u64 << (10 * power);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    if fraction.is_empty() || fraction.len() > 15 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let parts: u128 = fraction.parse().map_err(|_| bad())?;
    let part = u128::from(factor) * parts / 10_u128.pow(fraction.len() as u32);
    whole.checked_mul(factor).and_then(|bytes| bytes.checked_add(part as u64)).ok_or_else(bad)
}

/// A number of processors, as 1.5, in billionths.
pub fn nano_cpus(text: &str) -> Result<u64, String> {
    let bad = || "a number of processors is wanted, as 1.5".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > CPU_DIGITS_MAX {
        return Err("the value is too precise: at most 9 digits behind the point".into());
    }
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !digits(whole) || !digits(fraction) {
        return Err(bad());
    }
    let billionths = format!("{whole}{fraction:0<CPU_DIGITS_MAX$}");
    billionths.parse().map_err(|_| bad())
}

/// A number of processes; 0 and -1 are no limit, which is 0.
pub fn pids(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(0),
        Ok(number) => {
            u32::try_from(number).map_err(|_| "a number of processes is wanted, or -1 for no limit".into())
        }
        Err(_) => Err("a number of processes is wanted, or -1 for no limit".into()),
    }
}

/// Seconds; -1 is for ever.
pub fn patience_s(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(u32::MAX),
        Ok(number) => {
            u32::try_from(number).map_err(|_| "a number of seconds is wanted, or -1 for ever".into())
        }
        Err(_) => Err("a number of seconds is wanted, or -1 for ever".into()),
    }
}

/// `no`, `always`, `unless-stopped` or `on-failure[:N]`.
pub fn restart(text: &str) -> Result<RestartPolicy, String> {
    let (name, retries) = text.split_once(':').map_or((text, None), |(name, retries)| (name, Some(retries)));
    let policy = match name {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => {
            let retries_max = retries.map_or(Ok(0), str::parse);
            let retries_max =
                retries_max.map_err(|_| "the maximum retry count must be a number, as on-failure:3")?;
            return Ok(RestartPolicy::OnFailure { retries_max });
        }
        _ => return Err("the policies are no, on-failure[:N], always and unless-stopped".into()),
    };
    match retries {
        Some(_) => Err(format!("a maximum retry count cannot be used with restart policy '{name}'")),
        None => Ok(policy),
    }
}

/// `NAME=SOFT[:HARD]`; -1 is none.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let bad = || "invalid ulimit argument; write it as nofile=1024:2048".to_owned();
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let limit = |text: &str| text.parse::<i64>().ok().filter(|limit| *limit >= -1).ok_or_else(bad);
    if name.is_empty() {
        return Err(bad());
    }
    Ok(Ulimit { name: name.into(), soft: limit(soft)?, hard: limit(hard)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", 0),
            ("1024", 1024),
            ("1k", 1024),
            ("512m", 512 << 20),
            ("512MB", 512 << 20),
            ("1.5g", 3 << 29),
            ("1GiB", 1 << 30),
            ("10b", 10),
            ("2 t", 2 << 40),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for bad in ["", "m", "-1", "1.m", "1x", "1mm", "1 2m", "1.2.3m", "99999999999p", "i", "1i i"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_and_processes() {
        for (text, nanos) in [("1", 1_000_000_000), ("1.5", 1_500_000_000), (".01", 10_000_000), ("0", 0)] {
            assert_eq!(nano_cpus(text), Ok(nanos), "{text}");
        }
        for bad in ["", ".", "-1", "1,5", "0.0000000001", "one", "99999999999999999999"] {
            assert!(nano_cpus(bad).is_err(), "{bad}");
        }
        assert_eq!((pids("100"), pids("-1"), pids("0")), (Ok(100), Ok(0), Ok(0)));
        assert!(pids("-2").is_err() && pids("x").is_err());
        assert_eq!((patience_s("0"), patience_s("-1")), (Ok(0), Ok(u32::MAX)));
        assert!(patience_s("-2").is_err() && patience_s("1s").is_err());
    }

    #[test]
    fn policies() {
        use RestartPolicy::*;
        for (text, policy) in [
            ("no", No),
            ("", No),
            ("always", Always),
            ("unless-stopped", UnlessStopped),
            ("on-failure", OnFailure { retries_max: 0 }),
            ("on-failure:3", OnFailure { retries_max: 3 }),
        ] {
            assert_eq!(restart(text), Ok(policy), "{text}");
        }
        for bad in ["never", "always:3", "on-failure:", "on-failure:x", "on-failure:-1", "no:1"] {
            assert!(restart(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_of_processes() {
        let limit = |soft, hard| Ok(Ulimit { name: "nofile".into(), soft, hard });
        assert_eq!(ulimit("nofile=10"), limit(10, 10));
        assert_eq!(ulimit("nofile=10:20"), limit(10, 20));
        assert_eq!(ulimit("nofile=-1"), limit(-1, -1));
        for bad in ["nofile", "nofile=", "=1", "nofile=1:2:3", "nofile=-2", "nofile=a"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }
}
