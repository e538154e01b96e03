//! Settings of the kernel that belong to a container's own network namespace.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What speaks against setting `name` for a container alone, if anything does.
pub fn check(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
    if !name.starts_with("net.") {
        return Err(format!(
            "sysctl {name:?} is not one of the container's own: only those of its network are, which begin with net."
        ));
    }
    let has_empty_part = name.split(['.', '/']).any(str::is_empty);
    if !name.bytes().all(allowed) || has_empty_part {
        return Err(format!("{name:?} is no name of a sysctl; write it as net.ipv4.ip_forward"));
    }
    Ok(())
}

/// As `sysctl(8)` has it: dots and slashes change places.
fn path(name: &str) -> PathBuf {
    let turned = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    Path::new("/proc/sys").join(turned.collect::<String>())
}

/// Writes them, in the container's namespaces and with its /proc.
pub(super) fn apply(sysctls: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in sysctls {
        fs::write(path(name), value)
            .map_err(|error| format!("cannot set sysctl {name} to {value:?}: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_of_the_network() {
        for good in ["net.ipv4.ip_forward", "net.ipv6.conf.eth0/100.disable_ipv6", "net.core.somaxconn"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in
            ["kernel.msgmax", "vm.swappiness", "net", "net.", "net..x", "net.a b", "net./../kernel", ""]
        {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert_eq!(
            path("net.ipv6.conf.eth0/100.disable_ipv6"),
            Path::new("/proc/sys/net/ipv6/conf/eth0.100/disable_ipv6")
        );
    }
}
