//! Features of the host that the daemon can use, where they are there.

use std::fs;
use std::path::Path;

/// Whether this process is in a user namespace other than the first one (user_namespaces(7)).
pub fn is_in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    maps_less_than_all(&map)
}

/// The first namespace maps all ids to themselves.
fn maps_less_than_all(map: &str) -> bool {
    let fields: Vec<&str> = map.split_whitespace().collect();
    !fields.is_empty() && fields != ["0", "0", "4294967295"]
}

/// Names of features, and whether the host has them.
pub fn of_host() -> [(&'static str, bool); 3] {
    let user_namespaces = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    [
        ("tun", Path::new("/dev/net/tun").exists()),
        ("cgroup v2", Path::new("/sys/fs/cgroup/cgroup.controllers").exists()),
        ("user namespaces", user_namespaces.trim().parse::<u64>().is_ok_and(|most| most > 0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_namespace_maps_all_ids() {
        assert!(!maps_less_than_all("         0          0 4294967295\n"));
        assert!(maps_less_than_all("         0       1000          1\n"));
        assert!(maps_less_than_all("         0     100000      65536\n     65536 0 1\n"));
    }
}
