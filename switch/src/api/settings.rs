//! Settings of a container as `docker inspect` shows them.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use vswitch_proto::api::{
    Container, ContainerSummary, HostSettings, LogConfig, MountPoint, RestartPolicyShown, UlimitShown,
};
use vswitch_proto::command::{Bind, LogLimits, Settings};

pub fn host(settings: &Settings) -> HostSettings {
    let dns = &settings.dns;
    let memory = settings.limits.memory_bytes.unwrap_or(0);
    HostSettings {
        binds: settings.binds.iter().map(bind_text).collect(),
        tmpfs: settings.tmpfs.iter().map(|t| (t.target.clone(), t.options.clone())).collect(),
        restart_policy: RestartPolicyShown {
            name: settings.restart.name().into(),
            maximum_retry_count: settings.restart.retries_max(),
        },
        cap_add: settings.cap_add.clone(),
        cap_drop: settings.cap_drop.clone(),
        dns: dns.servers.iter().map(ToString::to_string).collect(),
        dns_options: dns.options.clone(),
        dns_search: dns.search.clone(),
        extra_hosts: settings.extra_hosts.iter().map(|e| format!("{}:{}", e.name, e.address)).collect(),
        group_add: settings.groups.clone(),
        readonly_rootfs: settings.read_only,
        init: settings.init,
        security_opt: if settings.no_new_privileges { vec!["no-new-privileges".into()] } else { Vec::new() },
        shm_size: settings.shm_bytes.unwrap_or(0),
        sysctls: settings.sysctls.clone(),
        ulimits: settings
            .ulimits
            .iter()
            .map(|u| UlimitShown { name: u.name.clone(), hard: u.hard, soft: u.soft })
            .collect(),
        memory,
        memory_swap: memory.saturating_mul(2),
        nano_cpus: settings.limits.nano_cpus.unwrap_or(0),
        pids_limit: settings.limits.pids,
        log_config: log_config(&settings.log),
    }
}

fn log_config(limits: &LogLimits) -> LogConfig {
    let size = limits.bytes_max().map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string());
    let config = [("max-size", size), ("max-file", limits.files_max().to_string())];
    LogConfig {
        kind: "json-file".into(),
        config: config.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

fn bind_text(bind: &Bind) -> String {
    let mode = if bind.read_only { ":ro" } else { "" };
    format!("{}:{}{mode}", bind.source, bind.target)
}

pub fn mounts(settings: &Settings) -> Vec<MountPoint> {
    let bind = |bind: &Bind| MountPoint {
        kind: "bind".into(),
        source: bind.source.clone(),
        destination: bind.target.clone(),
        mode: if bind.read_only { "ro".into() } else { String::new() },
        rw: !bind.read_only,
        propagation: "rprivate".into(),
    };
    settings.binds.iter().map(bind).collect()
}

/// `SIGTERM`, or the number of one without a name.
pub fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number).map_or_else(|_| number.to_string(), |s| s.as_str().into())
}

/// A container that ended and is started again in a moment.
pub fn restarting(mut shown: Container) -> Container {
    shown.state.status = "restarting".into();
    (shown.state.running, shown.state.restarting) = (true, true);
    shown
}

pub fn restarting_summary(mut row: ContainerSummary) -> ContainerSummary {
    row.state = "restarting".into();
    row.status = row.status.replacen("Exited", "Restarting", 1);
    row
}

#[cfg(test)]
mod tests {
    use vswitch_proto::command::{Limits, RestartPolicy};

    use super::*;

    #[test]
    fn under_dockers_keys() {
        let bind =
            |read_only| Bind { source: "/a".into(), target: "/b".into(), read_only, ..Bind::default() };
        let settings = Settings {
            binds: vec![bind(false), bind(true)],
            restart: RestartPolicy::OnFailure { retries_max: 3 },
            limits: Limits { memory_bytes: Some(64 << 20), ..Limits::default() },
            no_new_privileges: true,
            ..Settings::default()
        };
        let json = serde_json::to_value(host(&settings)).unwrap();
        for (pointer, value) in [
            ("/Binds/1", serde_json::json!("/a:/b:ro")),
            ("/RestartPolicy/Name", serde_json::json!("on-failure")),
            ("/RestartPolicy/MaximumRetryCount", serde_json::json!(3)),
            ("/Memory", serde_json::json!(64 << 20)),
            ("/MemorySwap", serde_json::json!(128 << 20)),
            ("/PidsLimit", serde_json::json!(null)),
            ("/ReadonlyRootfs", serde_json::json!(false)),
            ("/SecurityOpt/0", serde_json::json!("no-new-privileges")),
        ] {
            assert_eq!(json.pointer(pointer), Some(&value), "{pointer}");
        }
        assert_eq!(mounts(&settings).iter().map(|m| m.rw).collect::<Vec<_>>(), [true, false]);
        assert_eq!((signal_name(15).as_str(), signal_name(40).as_str()), ("SIGTERM", "40"));
    }
}
