//! docker's flags that vswitchctl does not have, each with the reason that its user reads.
//!
//! To implement one, remove its line here and declare the flag; `docs/docker-cli.md` has a row for each and a suite
//! compares both with docker's own help.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::ffi::OsStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

use super::pflag;

/// A flag of docker's that is refused by name.
#[derive(Debug)]
struct Refused {
    long: &'static str,
    short: Option<char>,
    kind: Kind,
    reason: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A boolean flag with docker's default, which is the only value that is accepted.
    Boolean(bool),
    /// A flag with a value; those listed, and the empty one, ask for nothing that is not so anyway.
    Value(&'static [&'static str]),
}

const fn value(long: &'static str, reason: &'static str) -> Refused {
    Refused { long, short: None, kind: Kind::Value(&[]), reason }
}

const fn neutral(long: &'static str, values: &'static [&'static str], reason: &'static str) -> Refused {
    Refused { long, short: None, kind: Kind::Value(values), reason }
}

const fn boolean(long: &'static str, reason: &'static str) -> Refused {
    Refused { long, short: None, kind: Kind::Boolean(false), reason }
}

impl Refused {
    const fn short(self, short: char) -> Refused {
        Refused { short: Some(short), ..self }
    }
}

/// The commands that have docker's flags for a new container.
const NEW_CONTAINER: &[&str] = &["run", "create"];

const NO_PORTS: &str = "published ports are not there yet; reach the container by its own address";
const NO_IMAGES: &str = "there are no images here; the files are the host's own, or those of --rootfs";
const NO_LINKS: &str =
    "links are not kept; containers of a network find each other by name and by --network-alias";
const NO_LINK_LOCAL: &str = "an interface has one address of each family; give --ip or --ip6";
const NO_BLOCK_IO: &str =
    "block devices are not limited; --memory, --cpus and --pids-limit are what can be limited";
const NO_DEVICES: &str = "devices cannot be given to a container; it has those that every container has";
const NO_CPU: &str = "processors are limited by --cpus only";
const NO_MEMORY: &str = "memory is limited by --memory only";
const NO_OOM: &str = "the kernel's choice when memory runs out is not changed";
const NO_HEALTH: &str = "there are no health checks; 'vswitchctl exec' can run one";
const NO_SANDBOX: &str = "every container has its own namespaces and all of the lab runner's privileges; \
there are no others to choose";
const NO_WINDOWS: &str = "it is for Windows";

const RUN: &[Refused] = &[
    value("publish", NO_PORTS).short('p'),
    boolean("publish-all", NO_PORTS).short('P'),
    value("expose", NO_PORTS),
    value("annotation", "there is no OCI runtime to pass it to; use --label"),
    value("attach", "run shows what the command writes, and forwards input with -i; there is no choice")
        .short('a'),
    neutral("blkio-weight", &["0"], NO_BLOCK_IO),
    value("blkio-weight-device", NO_BLOCK_IO),
    value("cgroup-parent", NO_SANDBOX),
    neutral("cgroupns", &["private"], NO_SANDBOX),
    neutral("cpu-count", &["0"], NO_WINDOWS),
    neutral("cpu-percent", &["0"], NO_WINDOWS),
    neutral("cpu-period", &["0"], NO_CPU),
    neutral("cpu-quota", &["0"], NO_CPU),
    neutral("cpu-rt-period", &["0"], NO_CPU),
    neutral("cpu-rt-runtime", &["0"], NO_CPU),
    neutral("cpu-shares", &["0"], NO_CPU).short('c'),
    value("cpuset-cpus", NO_CPU),
    value("cpuset-mems", NO_CPU),
    value("device", NO_DEVICES),
    value("device-cgroup-rule", NO_DEVICES),
    value("device-read-bps", NO_BLOCK_IO),
    value("device-read-iops", NO_BLOCK_IO),
    value("device-write-bps", NO_BLOCK_IO),
    value("device-write-iops", NO_BLOCK_IO),
    Refused { long: "disable-content-trust", short: None, kind: Kind::Boolean(true), reason: NO_IMAGES },
    value("gpus", NO_DEVICES),
    value("health-cmd", NO_HEALTH),
    neutral("health-interval", &["0s", "0"], NO_HEALTH),
    neutral("health-retries", &["0"], NO_HEALTH),
    neutral("health-start-interval", &["0s", "0"], NO_HEALTH),
    neutral("health-start-period", &["0s", "0"], NO_HEALTH),
    neutral("health-timeout", &["0s", "0"], NO_HEALTH),
    neutral("io-maxbandwidth", &["0"], NO_WINDOWS),
    neutral("io-maxiops", &["0"], NO_WINDOWS),
    neutral("ipc", &["private", "shareable"], NO_SANDBOX),
    neutral("isolation", &["default"], NO_WINDOWS),
    neutral("kernel-memory", &["0"], NO_MEMORY),
    value("link", NO_LINKS),
    value("link-local-ip", NO_LINK_LOCAL),
    neutral(
        "log-driver",
        &["json-file", "local"],
        "logs are kept by vswitchd, as docker's json-file; see 'vswitchctl logs'",
    ),
    neutral("memory-reservation", &["0"], NO_MEMORY),
    neutral("memory-swap", &["0"], NO_MEMORY),
    neutral("memory-swappiness", &["-1"], NO_MEMORY),
    boolean("oom-kill-disable", NO_OOM),
    neutral("oom-score-adj", &["0"], NO_OOM),
    value("pid", NO_SANDBOX),
    value("platform", NO_IMAGES),
    boolean("privileged", NO_SANDBOX),
    neutral("pull", &["missing", "never"], NO_IMAGES),
    boolean("no-healthcheck", NO_HEALTH),
    boolean("quiet", NO_IMAGES).short('q'),
    neutral("runtime", &["runc"], "vswitchd runs containers itself; there is no runtime to choose"),
    value("storage-opt", NO_IMAGES),
    boolean("use-api-socket", "there is no Docker socket to hand in"),
    value("userns", NO_SANDBOX),
    value("uts", NO_SANDBOX),
    neutral("volume-driver", &["local"], "volumes are directories of the host; give --volume HOST:CONTAINER"),
    value("volumes-from", "volumes are directories of the host; give the same --volume to both containers"),
];

const NETWORK_CREATE: &[Refused] = &[
    boolean("ingress", "there is no swarm, so no routing mesh"),
    neutral(
        "ipam-driver",
        &["default", "vswitch"],
        "addresses are always assigned by vswitchd; --subnet and --ip-range say which",
    ),
    value("ipam-opt", "the assignment of addresses has no options; --subnet and --ip-range say which"),
    Refused {
        long: "ipv4",
        short: None,
        kind: Kind::Boolean(true),
        reason: "every network has IPv4; --ipv6 adds IPv6",
    },
];

const NETWORK_CONNECT: &[Refused] = &[
    value("driver-opt", "an endpoint has no options; those of the network are given to network create"),
    neutral("gw-priority", &["0"], "the default route is that of the container's first network"),
    value("link", NO_LINKS),
    value("link-local-ip", NO_LINK_LOCAL),
];

/// Gives each command the flags that it refuses. They are not in its help.
pub fn add(command: Command) -> Command {
    let command = NEW_CONTAINER.iter().fold(command, |command, name| add_below(command, &[name], RUN));
    [("create", NETWORK_CREATE), ("connect", NETWORK_CONNECT)]
        .into_iter()
        .fold(command, |command, (verb, flags)| add_below(command, &["network", verb], flags))
}

/// A command that does not exist has no flags to refuse.
fn add_below(command: Command, path: &[&str], flags: &'static [Refused]) -> Command {
    let Some((name, rest)) = path.split_first() else {
        return command.args(flags.iter().map(argument));
    };
    let Some(name) = command.find_subcommand(name).map(|below| below.get_name().to_owned()) else {
        return command;
    };
    command.mut_subcommand(name, |below| add_below(below, rest, flags))
}

fn argument(flag: &'static Refused) -> Arg {
    let argument = Arg::new(flag.long).long(flag.long).hide(true);
    let argument = match flag.short {
        Some(short) => argument.short(short),
        None => argument,
    };
    let argument = match flag.kind {
        Kind::Boolean(_) => pflag::optional_boolean(argument),
        Kind::Value(_) => argument.num_args(1).allow_hyphen_values(true),
    };
    argument.value_parser(Refusal(flag))
}

/// Parses a value of a refused flag, which is an error unless it asks for nothing.
#[derive(Debug, Clone, Copy)]
struct Refusal(&'static Refused);

impl TypedValueParser for Refusal {
    type Value = String;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<String, Error> {
        let Refused { long, kind, reason, .. } = self.0;
        let text = value.to_string_lossy();
        let accepted = match kind {
            Kind::Boolean(default) => pflag::boolean(&text) == Ok(*default),
            Kind::Value(values) => text.is_empty() || values.contains(&&*text),
        };
        if accepted {
            return Ok(text.into_owned());
        }
        let message = format!("--{long} is not supported: {reason}");
        Err(Error::raw(ErrorKind::ValueValidation, message).with_cmd(command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::parse_from;

    fn refusal(line: &str) -> String {
        parse_from(line.split(' ')).expect_err(line).to_string().trim().into()
    }

    #[test]
    fn refused_flags_are_named_with_their_reason() {
        for (line, message) in [
            ("vswitchctl run -p 80:80 nginx", format!("--publish is not supported: {NO_PORTS}")),
            ("vswitchctl run -itdP nginx", format!("--publish-all is not supported: {NO_PORTS}")),
            ("vswitchctl run -p80:80 --nope", format!("--publish is not supported: {NO_PORTS}")),
            ("vswitchctl run --privileged sh", format!("--privileged is not supported: {NO_SANDBOX}")),
            ("vswitchctl run --pid host sh", format!("--pid is not supported: {NO_SANDBOX}")),
            ("vswitchctl network connect --link a:b n c", format!("--link is not supported: {NO_LINKS}")),
        ] {
            assert_eq!(refusal(line), format!("error: {message}"), "{line}");
        }
    }

    #[test]
    fn what_asks_for_nothing_is_no_error() {
        for line in [
            "vswitchctl run --privileged=false --pull never --memory-swappiness -1 sh",
            "vswitchctl run --disable-content-trust --platform= sh",
        ] {
            assert!(parse_from(line.split(' ')).is_ok(), "{line}");
        }
        assert!(refusal("vswitchctl run --disable-content-trust=0 sh").contains(NO_IMAGES));
    }

    #[test]
    fn every_reason_is_one_short_line() {
        for flag in RUN.iter().chain(NETWORK_CREATE).chain(NETWORK_CONNECT) {
            let reason = flag.reason;
            assert!(!reason.is_empty() && reason.len() < 120, "--{}: {reason}", flag.long);
            assert!(!reason.contains('\n') && !reason.ends_with('.'), "--{}: {reason}", flag.long);
        }
    }
}
