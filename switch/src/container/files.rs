//! The files of a container's directory.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use vswitch_proto::api::Exit;

use vswitch_proto::command::Dns;

use super::Launch;
use super::protocol::Status;
use crate::io::replace;
pub use crate::io::replace::{LEASE_WAIT_MAX as HOSTS_PATIENCE, Written};

const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

/// What a container's resolver is told: nothing of the host's name servers when the network is its own, since they
/// are out of its reach and would make each unknown name wait for their answer.
pub fn resolv_conf(host_network: bool, asked: &Dns) -> String {
    let own = "# Names are in /etc/hosts.\n".to_owned();
    let base = if host_network { fs::read_to_string("/etc/resolv.conf").unwrap_or(own) } else { own };
    with_dns(&base, asked)
}

/// The content of a `resolv.conf(5)` in which what was asked for replaces the lines of its kind, as Docker writes it.
fn with_dns(base: &str, asked: &Dns) -> String {
    if asked.is_empty() {
        return base.into();
    }
    let of_base = |keyword: &str| -> Vec<String> {
        let words = base.lines().filter_map(|line| line.trim_start().strip_prefix(keyword));
        words.filter(|rest| rest.starts_with([' ', '\t'])).map(|rest| rest.trim().to_owned()).collect()
    };
    let either = |asked: Vec<String>, keyword: &str| if asked.is_empty() { of_base(keyword) } else { asked };
    let joined = |words: &[String]| if words.is_empty() { Vec::new() } else { vec![words.join(" ")] };
    let mut text = String::new();
    let search = if asked.search == ["."] { Vec::new() } else { either(joined(&asked.search), "search") };
    let servers = either(asked.servers.iter().map(ToString::to_string).collect(), "nameserver");
    let options = either(joined(&asked.options), "options");
    for (keyword, values) in [("search", search), ("nameserver", servers), ("options", options)] {
        for value in values {
            text.push_str(&format!("{keyword} {value}\n"));
        }
    }
    text
}

/// Makes the directory and what a shim needs in it. Done again before each start: the log stays, the end of the
/// last run goes.
pub fn prepare(launch: &Launch, hosts: &str, resolv_conf: &str) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(&launch.dir)?;
    for name in ["exit.json", "shim.json", "shim.sock"] {
        ignore_absent(fs::remove_file(launch.dir.join(name)))?;
    }
    let hostname = format!("{}\n", launch.hostname);
    for (name, content) in [("hosts", hosts), ("hostname", &hostname), ("resolv.conf", resolv_conf)] {
        replace::by_rename(&launch.dir.join(name), content.as_bytes(), PUBLIC)?;
    }
    let config = serde_json::to_vec(launch)?;
    replace::by_rename(&launch.dir.join("config.json"), &config, PRIVATE)
}

/// Replaces the content of the hosts file, which the running container sees at once; how, see [`replace`]. Waits for
/// readers for up to `patience`.
pub fn write_hosts(dir: &Path, content: &str, patience: Duration) -> io::Result<Written> {
    replace::in_place(&dir.join("hosts"), content.as_bytes(), patience)
}

/// Removes the directory of a container that does not run.
pub fn remove(dir: &Path) -> io::Result<()> {
    ignore_absent(fs::remove_dir_all(dir))
}

pub(super) fn read_config(dir: &Path) -> io::Result<Launch> {
    Ok(serde_json::from_slice(&fs::read(dir.join("config.json"))?)?)
}

pub(super) fn write_exit(dir: &Path, exit: &Exit) -> io::Result<()> {
    replace::by_rename(&dir.join("exit.json"), &serde_json::to_vec(exit)?, PRIVATE)
}

/// How the container ended; `None` while it has not.
///
/// # Errors
/// When that cannot be told, for example because there are no descriptors left.
pub(super) fn read_exit(dir: &Path) -> io::Result<Option<Exit>> {
    read_json(&dir.join("exit.json"))
}

pub(super) fn write_status(dir: &Path, status: &Status) -> io::Result<()> {
    replace::by_rename(&dir.join("shim.json"), &serde_json::to_vec(status)?, PRIVATE)
}

/// Who the shim and init are; `None` when no shim has written it.
///
/// # Errors
/// When that cannot be told.
pub(super) fn read_status(dir: &Path) -> io::Result<Option<Status>> {
    read_json(&dir.join("shim.json"))
}

/// `None` for a file that is absent, or that is not of this form: it is replaced as a whole, so a damaged one is of
/// no use to anybody.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(json) => Ok(serde_json::from_slice(&json).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where a shim's own failures go.
pub(super) fn error_file(dir: &Path) -> io::Result<File> {
    File::options().create(true).write(true).truncate(true).mode(PRIVATE).open(dir.join("shim.err"))
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use vswitch_proto::command::LabSpec;
    use vswitch_proto::id::ContainerId;

    #[test]
    fn what_was_asked_of_the_resolver_replaces_lines_of_its_kind() {
        let base =
            "# a comment\nsearch host.example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions edns0\n";
        let servers = vec!["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let dns = Dns { servers, ..Dns::default() };
        assert_eq!(with_dns(base, &Dns::default()), base);
        assert_eq!(
            with_dns(base, &dns),
            "search host.example\nnameserver 198.51.100.1\nnameserver 2001:db8::1\noptions edns0\n"
        );
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let dns =
            Dns { search: words(&["a.example", "b.example"]), options: words(&["ndots:1", "rotate"]), ..dns };
        assert_eq!(
            with_dns("# Names are in /etc/hosts.\n", &dns),
            "search a.example b.example\nnameserver 198.51.100.1\nnameserver 2001:db8::1\noptions ndots:1 rotate\n"
        );
        let none = Dns { search: words(&["."]), ..Dns::default() };
        assert_eq!(with_dns(base, &none), "nameserver 192.0.2.1\nnameserver 192.0.2.2\noptions edns0\n");
    }

    #[test]
    fn a_second_start_keeps_the_log_and_forgets_the_end() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("containers/x");
        let launch = Launch {
            id: ContainerId([7; 32]),
            dir: dir.clone(),
            spec: LabSpec::default(),
            hostname: "box".into(),
            host_network: false,
            hidden: Vec::new(),
            files: dir.clone(),
            network_of: None,
            cgroup: None,
        };
        prepare(&launch, "127.0.0.1 localhost\n", "").unwrap();
        assert_eq!(read_config(&dir).unwrap(), launch);
        assert_eq!(fs::read_to_string(dir.join("hostname")).unwrap(), "box\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&dir), mode(&dir.join("hosts")), mode(&dir.join("config.json"))),
            (0o700, 0o644, 0o600)
        );

        write_exit(&dir, &Exit { exit_code: 3, error: String::new() }).unwrap();
        assert_eq!(read_exit(&dir).unwrap().map(|exit| exit.exit_code), Some(3));
        fs::write(dir.join("log"), "kept").unwrap();
        prepare(&launch, "", "").unwrap();
        assert_eq!(read_exit(&dir).unwrap(), None);
        assert_eq!(fs::read_to_string(dir.join("log")).unwrap(), "kept");

        let inode = fs::metadata(dir.join("hosts")).unwrap().ino();
        write_hosts(&dir, "10.0.0.1 a\n", HOSTS_PATIENCE).unwrap();
        assert_eq!(fs::metadata(dir.join("hosts")).unwrap().ino(), inode);
        remove(&dir).unwrap();
        remove(&dir).unwrap();
        assert!(!dir.exists());
    }
}
