//! A machine with a Docker engine on it, whose plugin the daemon is.
//!
//! The engine is Debian's. It has everything of its own: the machine's namespaces, `/run` with its sockets, its data
//! below `/tmp`, and a control group that goes with the machine. Its one image is made of the static or dynamic busybox
//! that the set-up installs.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{bail, ensure};

use crate::ctl::Ping;
use crate::process::{Output, Process};
use crate::wait::eventually;
use crate::{Host, Lab, http};

/// The engine's socket, on the machine.
const ENGINE: &str = "/run/docker.sock";

/// The plugin's socket, on the machine.
pub const PLUGIN: &str = "/run/docker/plugins/vswitch.sock";

const STARTED: &str = "{{.State.Running}} {{.State.StartedAt}}";

/// A client that somebody has put before that of the engine may be too new for it.
const OWN_CLIENT: &str = r#"
client=$(command -v docker)
if [ -x /usr/bin/docker ] && [ "$client" != /usr/bin/docker ]; then mount --bind /usr/bin/docker "$client"; fi
"#;

/// Puts busybox, the libraries it needs and links of its applets below the directory `image`.
const MAKE_IMAGE: &str = r#"
mkdir -p /tmp/image/bin /tmp/image/etc
busybox=$(command -v busybox)
cp "$busybox" /tmp/image/bin/busybox
for library in $(ldd "$busybox" 2>/dev/null | grep -o '/[^ ]*' || true); do
    mkdir -p "/tmp/image$(dirname "$library")"
    cp -L "$library" "/tmp/image$library"
done
for applet in $(busybox --list); do
    [ -e "/tmp/image/bin/$applet" ] || ln -s busybox "/tmp/image/bin/$applet"
done
tar -C /tmp/image -c . | docker import --change 'CMD ["sh"]' - busybox:latest
rm -rf /tmp/image
"#;

/// Kills `$containers` and all processes of an engine that work in its directory, and prints the pids that were found.
const KILL_ENGINE: &str = r#"
for process in $containers $(grep -l 'docker-engin[e]' /proc/[0-9]*/cmdline 2>/dev/null | cut -d / -f 3); do
    if kill -9 "$process" 2>/dev/null; then echo "$process"; fi
done
"#;

/// Unmounts and removes what an engine has made below its directories.
const REMOVE_ENGINE: &str = r#"
cut -d ' ' -f 5 /proc/self/mountinfo | grep -E '^(/run/docker-engine|/run/docker/netns|/tmp/docker)(/|$)' |
    sort -r | while read -r at; do umount "$at" || exit 1; done || exit 1
rm -rf /run/docker-engine /tmp/docker
"#;

/// A [`Lab`] whose daemon is the plugin of an engine beside it. Both are ready when the constructor returns.
pub struct Docker {
    engine: Option<Process>,
    /// Logs of the engines that have ended.
    past: String,
    lab: Lab,
    group: ControlGroup,
    /// Whether the engine's mounts are seen by nobody else.
    has_own_mounts: bool,
}

impl Docker {
    #[expect(clippy::new_without_default, reason = "a machine is not a default value")]
    pub fn new() -> Docker {
        Docker::with(&[])
    }

    /// With these arguments for the daemon.
    pub fn with(arguments: &[&str]) -> Docker {
        let lab = Lab::with(Host::new(), &[&["--docker-plugin", "--log-level=debug"], arguments].concat());
        Docker::beside(lab)
    }

    /// With a plugin socket as systemd makes it, and no daemon so far.
    pub fn activated(arguments: &[&str]) -> Docker {
        Docker::beside(Lab::with_socket(Host::new(), PLUGIN, &[&["--log-level=debug"], arguments].concat()))
    }

    /// With an engine beside this daemon.
    pub fn beside(lab: Lab) -> Docker {
        Docker::apart(lab, false)
    }

    /// With an engine that has a mount namespace of its own, as a service with `PrivateMounts=`.
    pub fn with_own_mounts(arguments: &[&str]) -> Docker {
        let lab = Lab::with(Host::new(), &[&["--docker-plugin", "--log-level=debug"], arguments].concat());
        Docker::apart(lab, true)
    }

    fn apart(lab: Lab, has_own_mounts: bool) -> Docker {
        let (engine, past, group) = (None, String::new(), ControlGroup::new());
        let mut docker = Docker { engine, past, lab, group, has_own_mounts };
        docker.sh(OWN_CLIENT);
        docker.start_engine();
        docker.imports_image();
        docker
    }

    /// Again for an engine that has lost all.
    pub fn imports_image(&self) {
        self.sh(MAKE_IMAGE);
    }

    /// Starts the engine (again) and waits until it answers.
    pub fn start_engine(&mut self) {
        self.spawn_engine();
        self.wait_for_engine();
    }

    pub fn spawn_engine(&mut self) {
        assert!(self.engine.is_none(), "the engine runs already");
        let group = format!("--cgroup-parent=/{}", self.group.name);
        let apart = ["unshare", "--mount", "--propagation=private"];
        let command = [
            "dockerd",
            "--data-root=/tmp/docker",
            "--exec-root=/run/docker-engine",
            "--pidfile=/run/docker.pid",
            "--host=unix:///run/docker.sock",
            "--storage-driver=vfs",
            "--iptables=false",
            "--ip-forward=false",
            "--userland-proxy=false",
            &group,
        ];
        let apart = if self.has_own_mounts { &apart[..] } else { &[] };
        self.engine = Some(Process::spawn(&self.lab, &[apart, &command].concat()));
    }

    pub fn wait_for_engine(&mut self) {
        eventually("the engine answers", || {
            if let Some(code) = self.engine.as_mut().and_then(Process::try_wait) {
                panic!("the engine ended with {code}: {}", self.engine_log());
            }
            let answer = http::Request::new("GET", "/_ping").send(&self.lab.path(ENGINE))?;
            ensure!(answer.status == 200, "GET /_ping answers {answer:?}");
            Ok(())
        });
    }

    /// Kills the engine with SIGKILL. Its containers go on.
    pub fn kill9_engine(&mut self) {
        let mut engine = self.engine.take().expect("the engine runs");
        engine.signal("KILL");
        engine.wait();
        self.past.push_str(&engine.output());
    }

    /// Ends the engine with its containers, and removes all that it knew.
    pub fn lose_engine(&mut self) {
        let containers = self.sh("docker ps -q | xargs -r docker inspect --format '{{.State.Pid}}'");
        let containers = containers.split_whitespace().collect::<Vec<_>>().join(" ");
        self.kill9_engine();
        // Containerd and its shims may start further processes until the last of them has ended, and each keeps mounts.
        eventually("the engine's processes end", || {
            let left = self.sh(&format!("containers='{containers}'\n{KILL_ENGINE}"));
            ensure!(left.is_empty(), "processes {left} run");
            Ok(())
        });
        eventually("the engine's files are removed", || {
            let removed = self.run(&["sh", "-c", REMOVE_ENGINE]);
            ensure!(removed.code == 0, "{removed:?}");
            Ok(())
        });
    }

    pub fn engine_log(&self) -> String {
        let now = self.engine.as_ref().map(Process::output).unwrap_or_default();
        format!("{}{now}", self.past)
    }

    /// Runs `docker`.
    pub fn docker(&self, args: &[&str]) -> Output {
        self.run(&[&["docker"], args].concat())
    }

    /// Runs `docker`, which has to succeed, and returns what it printed, without the last line end.
    pub fn does(&self, args: &[&str]) -> String {
        let output = self.docker(args);
        assert_eq!(output.code, 0, "docker {args:?}: {output:?}");
        output.stdout.trim_end_matches('\n').into()
    }

    /// Runs `docker` beside the test.
    pub fn spawns(&self, args: &[&str]) -> Process {
        Process::spawn(&self.lab, &[&["docker"], args].concat())
    }

    /// Runs `docker`, which has to fail, and returns what it said.
    pub fn refuses(&self, args: &[&str]) -> String {
        let output = self.docker(args);
        assert_ne!(output.code, 0, "docker {args:?}: {output:?}");
        output.stderr
    }

    /// Starts a container that does nothing and returns its id. `options` come before the name.
    pub fn starts(&self, name: &str, options: &[&str]) -> String {
        let name = format!("--name={name}");
        self.does(&[&["run", "-itd"], options, &[&name, "busybox"]].concat())
    }

    /// Runs a command in a container, which has to succeed, and returns what it printed.
    pub fn within(&self, container: &str, args: &[&str]) -> String {
        self.does(&[&["exec", container], args].concat())
    }

    /// What `docker inspect` says in this format.
    pub fn says(&self, format: &str, thing: &str) -> String {
        self.does(&["inspect", "--format", format, thing])
    }

    /// Waits until the daemon knows what the engine calls its network.
    pub fn wait_for_network(&self, name: &str) {
        eventually(&format!("{name} is known"), || {
            let found = self.ctl(&["network", "inspect", name]);
            ensure!(found.code == 0, "{found:?}");
            Ok(())
        });
    }

    /// Waits until the container runs, and has done so only after it was started as `before` says.
    pub fn wait_for_restart(&self, container: &str, before: &str) {
        eventually(&format!("{container} is started again"), || {
            let started = self.docker(&["inspect", "--format", STARTED, container]).stdout;
            ensure!(
                started.starts_with("true ") && started.trim_end() != before,
                "{started}, before {before}"
            );
            Ok(())
        });
    }

    /// Whether the container runs, and since when.
    pub fn started(&self, container: &str) -> String {
        self.says(STARTED, container)
    }

    /// What `docker network inspect` says of the containers: names with addresses and MAC addresses, sorted.
    pub fn members(&self, network: &str) -> Vec<String> {
        let format =
            "{{range $id, $c := .Containers}}{{$c.Name}} {{$c.IPv4Address}} {{$c.MacAddress}}\n{{end}}";
        let text = self.does(&["network", "inspect", "--format", format, network]);
        let mut members: Vec<String> =
            text.lines().filter(|line| !line.is_empty()).map(String::from).collect();
        members.sort();
        members
    }

    /// Sends a call to the plugin, as an engine does, and returns the answer's JSON.
    pub fn call(&self, path: &str, body: &str) -> serde_json::Value {
        let answer = http::Request::new("POST", path).body(body).send(&self.lab.path(PLUGIN));
        let answer = answer.unwrap_or_else(|e| panic!("POST {path} {body}: {e:#}"));
        serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("POST {path} {body}: {e}: {answer:?}"))
    }

    fn pings(&self, container: &str, command: &[&str]) -> Ping {
        Ping::of(self.docker(&[&["exec", container], command].concat()))
    }

    /// # Panics
    /// Unless the container reaches the target.
    pub fn assert_pings(&self, container: &str, target: &str) {
        let ping = self.pings(container, &["ping", "-c", "1", "-W", "10", target]);
        let ports = || self.sh("/mnt/vswitchctl port ls; /mnt/vswitchctl stats");
        assert_eq!(
            (ping.sent, ping.received),
            (1, 1),
            "{container} pings {target}: {:?}\n{}",
            ping.output,
            ports()
        );
    }

    /// Waits until the container reaches the target.
    pub fn wait_for_ping(&self, container: &str, target: &str) {
        eventually(&format!("{container} pings {target}"), || {
            let ping = self.pings(container, &["ping", "-c", "1", "-W", "1", target]);
            ensure!(ping.received == 1, "{:?}", ping.output);
            Ok(())
        });
    }

    /// # Panics
    /// Unless the address can be pinged and nobody answers.
    pub fn assert_pings_in_vain(&self, container: &str, address: &str) {
        let ping = self.pings(container, &["ping", "-c", "2", "-i", "0.2", "-W", "1", address]);
        assert_eq!((ping.sent, ping.received), (2, 0), "{container} pings {address}: {:?}", ping.output);
    }

    /// Waits until the daemon holds no endpoint of Docker's, and the machine no interface of one.
    pub fn wait_until_nothing_is_left(&self) {
        eventually("no endpoint is left", || {
            let containers = self.ok(&["ps", "-a", "--format={{.ID}} {{.Names}}"]);
            ensure!(containers.is_empty(), "there are {containers}");
            let links = self.sh("ip -o link show type tun 2>/dev/null || true");
            if !links.is_empty() {
                bail!("there are {links}");
            }
            Ok(())
        });
    }
}

impl Deref for Docker {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl DerefMut for Docker {
    fn deref_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of dockerd\n{}--- end of the log", self.engine_log());
        }
    }
}

/// The control group that an engine puts its containers into. The kernel keeps it when the machine is gone.
struct ControlGroup {
    name: String,
}

impl ControlGroup {
    fn new() -> ControlGroup {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        ControlGroup { name: format!("vswitch-test-{}-{number}", std::process::id()) }
    }

    /// One directory in the unified hierarchy, or one in each of the older ones.
    fn directories(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies =
            fs::read_dir(root).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let all = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(&self.name));
        all.filter(|directory| directory.is_dir()).collect()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // The last processes of the machine may still be on their way out.
        for _ in 0..100 {
            self.directories().iter().for_each(|directory| remove_tree(directory));
            if self.directories().is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        if !std::thread::panicking() {
            panic!("the control group {} cannot be removed", self.name);
        }
    }
}

/// Directories only: what else they show is the kernel's.
fn remove_tree(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    // Tried again while there is somebody in it.
    let _ = fs::remove_dir(directory);
}
