//! `vswitchctl` on a machine.

use serde::de::DeserializeOwned;
use vswitch_proto::api::{Container, Network};

use crate::Host;
use crate::process::Output;

/// What `ping` found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    pub sent: u32,
    pub received: u32,
    pub output: Output,
}

impl Host {
    /// Runs `vswitchctl`.
    pub fn ctl(&self, args: &[&str]) -> Output {
        self.ctl_with_input(args, b"")
    }

    pub fn ctl_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        self.run_with_input(&[&["vswitchctl"], args].concat(), input)
    }

    /// Runs `vswitchctl`, which has to succeed, and returns what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert_eq!(output.code, 0, "vswitchctl {args:?}: {output:?}");
        output.stdout
    }

    /// Runs `vswitchctl`, which has to fail with this exit code, and returns the one line that it says.
    pub fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.ctl(args);
        assert_eq!(output.code, code, "vswitchctl {args:?}: {output:?}");
        assert!(output.prints_nothing(), "vswitchctl {args:?}: {output:?}");
        only_line(&output.stderr)
            .unwrap_or_else(|| panic!("vswitchctl {args:?} says {:?}", output.stderr))
            .into()
    }

    /// Starts a container that does nothing and returns its id. `options` come before the name.
    pub fn run_idle(&self, name: &str, options: &[&str]) -> String {
        let name = format!("--name={name}");
        let id = self.ok(&[&["run", "-d"], options, &[&name, "--", "sleep", "100000"]].concat());
        id.trim_end().into()
    }

    /// Runs a command in a container.
    pub fn exec(&self, container: &str, args: &[&str]) -> Output {
        self.ctl(&[&["exec", container], args].concat())
    }

    /// Runs a command in a container, which has to succeed, and returns what it printed.
    pub fn exec_ok(&self, container: &str, args: &[&str]) -> String {
        self.ok(&[&["exec", container], args].concat())
    }

    pub fn inspect(&self, container: &str) -> Container {
        only(&self.ok(&["inspect", container]))
    }

    pub fn inspect_network(&self, network: &str) -> Network {
        only(&self.ok(&["network", "inspect", network]))
    }

    /// The container's IPv4 address in a network.
    pub fn address(&self, container: &str, network: &str) -> String {
        let settings = self.inspect(container).network_settings;
        settings
            .networks
            .get(network)
            .unwrap_or_else(|| panic!("{container} is not in {network}"))
            .ip_address
            .clone()
    }

    /// Pings once; a healthy network answers at once.
    pub fn ping(&self, container: &str, target: &str) -> Ping {
        self.ping_with(container, &["busybox", "ping", "-c", "1", "-W", "10", target])
    }

    pub fn ping6(&self, container: &str, target: &str) -> Ping {
        self.ping_with(container, &["busybox", "ping6", "-c", "1", "-W", "10", target])
    }

    /// Pings twice where no answer is expected.
    pub fn ping_in_vain(&self, container: &str, target: &str) -> Ping {
        self.ping_with(container, &["busybox", "ping", "-c", "2", "-i", "0.2", "-W", "1", target])
    }

    fn ping_with(&self, container: &str, command: &[&str]) -> Ping {
        Ping::of(self.exec(container, command))
    }
}

impl Ping {
    /// What busybox's ping printed.
    pub fn of(output: Output) -> Ping {
        let summary = output.stdout.lines().find(|line| line.contains("packets transmitted"));
        let counts: Vec<u32> = summary
            .into_iter()
            .flat_map(|line| line.split(", "))
            .filter_map(|part| part.split(' ').next()?.parse().ok())
            .collect();
        let (sent, received) = (counts.first().copied().unwrap_or(0), counts.get(1).copied().unwrap_or(0));
        Ping { sent, received, output }
    }
}

impl Host {
    /// # Panics
    /// Unless the container reaches the target.
    pub fn assert_reaches(&self, container: &str, target: &str) {
        let ping = self.ping(container, target);
        assert_eq!((ping.sent, ping.received), (1, 1), "{container} pings {target}: {:?}", ping.output);
    }

    /// # Panics
    /// Unless the address can be pinged and nobody answers.
    pub fn assert_cannot_reach(&self, container: &str, address: &str) {
        let ping = self.ping_in_vain(container, address);
        assert_eq!((ping.sent, ping.received), (2, 0), "{container} pings {address}: {:?}", ping.output);
        assert!(ping.output.stdout.contains("100% packet loss"), "{:?}", ping.output);
        assert_eq!(ping.output.code, 1, "{:?}", ping.output);
    }
}

impl Output {
    /// Nothing on standard output but, as `docker inspect` has it, the empty list.
    pub fn prints_nothing(&self) -> bool {
        self.stdout.is_empty() || self.stdout == "[]\n"
    }
}

/// The text without its line end, if it is exactly one line that is not empty.
pub fn only_line(text: &str) -> Option<&str> {
    let line = text.strip_suffix('\n')?;
    (!line.trim().is_empty() && !line.contains('\n')).then_some(line)
}

/// What `inspect` printed about one thing.
fn only<T: DeserializeOwned>(json: &str) -> T {
    let mut all: Vec<T> = serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"));
    assert_eq!(all.len(), 1, "{json}");
    all.remove(0)
}
