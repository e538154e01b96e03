//! What the settings of a new container may be, before anything is made.

use std::path::{Component, Path};

use vswitch_proto::api::{Error, ErrorKind, Run};
use vswitch_proto::command::{Bind, Limits, RestartPolicy, Settings};

use super::handle::error;
use crate::container;

/// Docker's.
const MEMORY_BYTES_MIN: u64 = 6 << 20;
const NANO_CPUS_MIN: u64 = 10_000_000;
const NANOS_PER_CPU: u64 = 1_000_000_000;
/// Mounts of one container.
const MOUNTS_MAX: usize = 256;
/// Lines of its hosts file and of its resolv.conf, and other lists.
const LIST_MAX: usize = 256;

fn refuse<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(error(ErrorKind::Invalid, message))
}

pub(super) fn check(request: &Run, data_dir: &Path) -> Result<(), Error> {
    let settings = &request.settings;
    if request.auto_remove && settings.restart != RestartPolicy::No {
        return refuse("conflicting options: --restart and --rm");
    }
    if request.network_container.is_some() {
        check_shared_network(request)?;
    }
    check_texts(settings)?;
    check_mounts(settings, data_dir)?;
    check_privileges(settings)?;
    check_resolver(settings)?;
    check_limits(&settings.limits)?;
    let is_signal = |number: &i32| (1..=64).contains(number);
    match settings.stop_signal.filter(|number| !is_signal(number)) {
        Some(number) => refuse(format!("{number} is no signal to stop by; signals are 1 to 64")),
        None => Ok(()),
    }
}

/// What belongs to the container whose network is shared, as Docker words it.
fn check_shared_network(request: &Run) -> Result<(), Error> {
    let settings = &request.settings;
    let dns = !settings.dns.is_empty();
    for (given, what) in [
        (request.hostname.is_some(), "hostname"),
        (settings.domainname.is_some(), "domainname"),
        (!settings.extra_hosts.is_empty(), "custom host-to-IP mapping"),
        (dns, "dns"),
        (!request.networks.is_empty(), "further networks, addresses or aliases"),
    ] {
        if given {
            return refuse(format!("conflicting options: {what} and the network of another container"));
        }
    }
    Ok(())
}

fn check_texts(settings: &Settings) -> Result<(), Error> {
    let mut texts = settings.entrypoint.iter().chain(&settings.user).chain(&settings.groups);
    let mut more = settings.sysctls.iter().flat_map(|(name, value)| [name, value]);
    if texts.any(|text| text.contains('\0')) || more.any(|text| text.contains('\0')) {
        return refuse("an entrypoint, user, group or sysctl cannot hold a NUL byte");
    }
    let is_domain = |name: &str| {
        name.len() <= 64 && name.split('.').all(|label| !label.is_empty() && label.bytes().all(is_name_byte))
    };
    match settings.domainname.as_deref().filter(|name| !is_domain(name)) {
        Some(name) => refuse(format!(
            "{name:?} is no domain name; it takes letters, digits, '.', '_' and '-', at most 64"
        )),
        None => Ok(()),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn check_mounts(settings: &Settings, data_dir: &Path) -> Result<(), Error> {
    let targets = || settings.binds.iter().map(|b| &b.target).chain(settings.tmpfs.iter().map(|t| &t.target));
    if targets().count() > MOUNTS_MAX {
        return refuse(format!("a container takes at most {MOUNTS_MAX} volumes"));
    }
    let mut seen = std::collections::BTreeSet::new();
    for target in targets() {
        let path = Path::new(target);
        let mut parts = path.components();
        let climbs = parts.any(|part| part == Component::ParentDir);
        if !path.is_absolute() || climbs || target.contains('\0') {
            return refuse(format!("invalid mount target {target:?}: it is an absolute path without '..'"));
        }
        if path.components().count() < 2 {
            return refuse("invalid mount target: the destination can't be '/'");
        }
        if !seen.insert(path.components().collect::<Vec<_>>()) {
            return refuse(format!("duplicate mount point: {target}"));
        }
    }
    for bind in &settings.binds {
        check_source(bind, data_dir)?;
    }
    for tmpfs in &settings.tmpfs {
        if let Err(option) = container::tmpfs_options(&tmpfs.options) {
            return refuse(format!("invalid tmpfs option {option:?} for {}", tmpfs.target));
        }
    }
    Ok(())
}

fn check_source(bind: &Bind, data_dir: &Path) -> Result<(), Error> {
    let source = Path::new(&bind.source);
    if !source.is_absolute() || bind.source.contains('\0') {
        return refuse(format!(
            "the volume {:?} is no absolute path: named volumes are not kept, give a directory of the host",
            bind.source
        ));
    }
    if source.components().any(|part| part == Component::ParentDir) || source.starts_with(data_dir) {
        return refuse(format!(
            "the directory {} cannot be a volume: it is vswitchd's own, or has '..'",
            bind.source
        ));
    }
    Ok(())
}

fn check_privileges(settings: &Settings) -> Result<(), Error> {
    for (name, flag) in settings
        .cap_add
        .iter()
        .map(|name| (name, "CapAdd"))
        .chain(settings.cap_drop.iter().map(|name| (name, "CapDrop")))
    {
        if container::capability_name(name).as_ref() != Some(name) {
            return refuse(format!("invalid {flag}: unknown capability: {name:?}; write it as NET_ADMIN"));
        }
    }
    for limit in &settings.ulimits {
        let unbounded = |value: i64| if value < 0 { u64::MAX } else { value as u64 };
        if !container::is_resource(&limit.name) {
            return refuse(format!("invalid ulimit type: {}", limit.name));
        }
        if unbounded(limit.soft) > unbounded(limit.hard) {
            return refuse(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                limit.soft, limit.hard
            ));
        }
    }
    settings.sysctls.keys().try_for_each(|name| container::check_sysctl(name)).or_else(refuse)
}

fn check_resolver(settings: &Settings) -> Result<(), Error> {
    let dns = &settings.dns;
    let lists = [settings.extra_hosts.len(), dns.servers.len(), dns.search.len(), dns.options.len()];
    if lists.iter().any(|count| *count > LIST_MAX) {
        return refuse(format!("at most {LIST_MAX} of --add-host, --dns, --dns-search and --dns-option"));
    }
    let is_word =
        |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    let mut words =
        settings.extra_hosts.iter().map(|extra| &extra.name).chain(&dns.search).chain(&dns.options);
    match words.find(|word| !is_word(word)) {
        Some(word) => refuse(format!("{word:?} is no host, domain or option of a resolver: it is one word")),
        None => Ok(()),
    }
}

pub(super) fn check_limits(limits: &Limits) -> Result<(), Error> {
    if limits.memory_bytes.is_some_and(|bytes| bytes < MEMORY_BYTES_MIN) {
        return refuse("minimum memory limit allowed is 6MB");
    }
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let max = processors * NANOS_PER_CPU;
    match limits.nano_cpus {
        Some(nano_cpus) if !(NANO_CPUS_MIN..=max).contains(&nano_cpus) => refuse(format!(
            "range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vswitch_proto::command::{ExtraHost, TmpfsMount, Ulimit};

    use super::*;

    fn refused(change: impl FnOnce(&mut Run)) -> String {
        let mut request = Run::default();
        change(&mut request);
        check(&request, Path::new("/var/lib/vswitch")).map_or_else(|e| e.message, |()| String::new())
    }

    fn bind(source: &str, target: &str) -> Bind {
        Bind { source: source.into(), target: target.into(), ..Bind::default() }
    }

    #[test]
    fn what_is_possible_is_let_through() {
        let settings = Settings {
            binds: vec![bind("/srv", "/data"), bind("/srv", "/data/x")],
            tmpfs: vec![TmpfsMount { target: "/run".into(), options: "size=64k".into() }],
            cap_drop: vec!["ALL".into()],
            cap_add: vec!["NET_RAW".into()],
            ulimits: vec![Ulimit { name: "nofile".into(), soft: 10, hard: -1 }],
            sysctls: BTreeMap::from([("net.ipv4.ip_forward".into(), "1".into())]),
            domainname: Some("a.example".into()),
            stop_signal: Some(64),
            ..Settings::default()
        };
        assert_eq!(refused(|r| r.settings = settings), "");
    }

    #[test]
    fn what_is_impossible_is_refused() {
        for (said, message) in [
            (
                refused(|r| (r.auto_remove, r.settings.restart) = (true, RestartPolicy::Always)),
                "--restart and --rm",
            ),
            (refused(|r| r.settings.binds = vec![bind("data", "/data")]), "named volumes"),
            (refused(|r| r.settings.binds = vec![bind("/srv", "data")]), "absolute path"),
            (refused(|r| r.settings.binds = vec![bind("/srv", "/")]), "can't be '/'"),
            (refused(|r| r.settings.binds = vec![bind("/srv", "/a/../b")]), "without '..'"),
            (refused(|r| r.settings.binds = vec![bind("/srv", "/a"), bind("/x", "/a/")]), "duplicate"),
            (refused(|r| r.settings.binds = vec![bind("/var/lib/vswitch/x", "/a")]), "vswitchd's own"),
            (
                refused(|r| {
                    r.settings.tmpfs = vec![TmpfsMount { target: "/a".into(), options: "huge".into() }];
                }),
                "\"huge\"",
            ),
            (refused(|r| r.settings.cap_add = vec!["NET".into()]), "unknown capability"),
            (
                refused(|r| r.settings.ulimits = vec![Ulimit { name: "nofile".into(), soft: 2, hard: 1 }]),
                "2 > 1",
            ),
            (
                refused(|r| r.settings.ulimits = vec![Ulimit { name: "nofile".into(), soft: -1, hard: 1 }]),
                "-1 > 1",
            ),
            (
                refused(|r| r.settings.ulimits = vec![Ulimit { name: "x".into(), soft: 1, hard: 1 }]),
                "type: x",
            ),
            (refused(|r| r.settings.sysctls = [("kernel.sem".into(), "1".into())].into()), "network"),
            (refused(|r| r.settings.domainname = Some("a b".into())), "domain name"),
            (refused(|r| r.settings.stop_signal = Some(65)), "no signal"),
            (refused(|r| r.settings.limits.memory_bytes = Some(1 << 20)), "6MB"),
            (refused(|r| r.settings.limits.nano_cpus = Some(1)), "0.01"),
            (refused(|r| r.settings.limits.nano_cpus = Some(u64::MAX)), "available"),
            (refused(|r| r.settings.dns.search = vec!["a b".into()]), "one word"),
            (
                refused(|r| {
                    let address = "192.0.2.1".parse().unwrap();
                    r.settings.extra_hosts = vec![ExtraHost { name: "a\n".into(), address }];
                }),
                "one word",
            ),
            (
                refused(|r| (r.network_container, r.hostname) = (Some("c".into()), Some("h".into()))),
                "hostname and the network",
            ),
            (
                refused(|r| {
                    r.network_container = Some("c".into());
                    r.settings.dns.options = vec!["x".into()];
                }),
                "dns and the network",
            ),
        ] {
            assert!(said.contains(message), "{said:?} does not say {message:?}");
        }
    }
}
