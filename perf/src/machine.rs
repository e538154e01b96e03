//! What `/proc` says of the machine, its processors and a process.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::unistd::{SysconfVar, sysconf};

use crate::results::{Apart, Machine};

/// Processor time of the whole machine since it started, seconds over all cores.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CpuTime {
    pub busy_s: f64,
    pub idle_s: f64,
    /// Given to other machines by the hypervisor.
    pub stolen_s: f64,
}

impl CpuTime {
    pub fn now() -> anyhow::Result<CpuTime> {
        parse_stat(&read("/proc/stat")?, ticks_per_s()?)
    }

    pub fn since(&self, earlier: &CpuTime) -> CpuTime {
        CpuTime {
            busy_s: self.busy_s - earlier.busy_s,
            idle_s: self.idle_s - earlier.idle_s,
            stolen_s: self.stolen_s - earlier.stolen_s,
        }
    }

    pub fn busy_percent(&self) -> f64 {
        self.percent(self.busy_s)
    }

    pub fn stolen_percent(&self) -> f64 {
        self.percent(self.stolen_s)
    }

    fn percent(&self, part_s: f64) -> f64 {
        let all_s = self.busy_s + self.idle_s + self.stolen_s;
        if all_s > 0.0 { part_s / all_s * 100.0 } else { 0.0 }
    }
}

/// The first line of /proc/stat (proc(5)): user nice system idle iowait irq softirq steal guest guest_nice, where
/// user and nice include the guests.
fn parse_stat(text: &str, ticks_per_s: f64) -> anyhow::Result<CpuTime> {
    let line =
        text.lines().find(|line| line.starts_with("cpu ")).context("/proc/stat has no line for all cores")?;
    let fields: Result<Vec<u64>, _> = line.split_whitespace().skip(1).map(str::parse).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = fields?[..] else {
        bail!("/proc/stat has fewer columns than Linux 2.6.11");
    };
    let seconds = |ticks: u64| ticks as f64 / ticks_per_s;
    Ok(CpuTime {
        busy_s: seconds(user + nice + system + irq + softirq),
        idle_s: seconds(idle + iowait),
        stolen_s: seconds(steal),
    })
}

fn ticks_per_s() -> anyhow::Result<f64> {
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("the system does not say how long a tick is")?;
    Ok(ticks as f64)
}

/// Processor time that a process used, all of its threads, seconds.
pub fn process_cpu_s(pid: u32) -> anyhow::Result<f64> {
    parse_process_stat(&read(format!("/proc/{pid}/stat"))?, ticks_per_s()?)
}

/// Fields 14 and 15 of /proc/PID/stat, counted behind the name, which may hold anything.
fn parse_process_stat(text: &str, ticks_per_s: f64) -> anyhow::Result<f64> {
    let (_, rest) = text.rsplit_once(") ").context("/proc/PID/stat names no command")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<u64> {
        Ok(fields.get(at).context("/proc/PID/stat is short")?.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) as f64 / ticks_per_s)
}

/// Resident memory of a process, KiB.
pub fn process_rss_kib(pid: u32) -> anyhow::Result<u64> {
    kib_field(&read(format!("/proc/{pid}/status"))?, "VmRSS:")
}

/// Memory in use that is not processes' own and cannot be had without loss: mostly the kernel's, KiB.
pub fn kernel_memory_kib() -> anyhow::Result<f64> {
    let meminfo = read("/proc/meminfo")?;
    let field = |name| Ok::<f64, anyhow::Error>(kib_field(&meminfo, name)? as f64);
    Ok(field("MemTotal:")? - field("MemAvailable:")? - field("AnonPages:")?)
}

/// A line such as `VmRSS:     1234 kB`.
fn kib_field(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next());
    Ok(value.with_context(|| format!("no {name} line"))?.parse()?)
}

/// Frames that the interfaces of the calling thread's namespace received, by interface.
pub fn received_frames(interface: &str) -> anyhow::Result<u64> {
    parse_net_dev(&read("/proc/thread-self/net/dev")?, interface)
}

/// /proc/net/dev: `name: rx_bytes rx_packets ...`.
fn parse_net_dev(text: &str, interface: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let packets = line.and_then(|counters| counters.split_whitespace().nth(1));
    Ok(packets.with_context(|| format!("there is no interface {interface}"))?.parse()?)
}

/// Describes the machine, and looks for a moment at how busy it is.
pub fn describe(look_for: Duration) -> anyhow::Result<Machine> {
    let before = CpuTime::now()?;
    thread::sleep(look_for);
    let busy_before_percent = CpuTime::now()?.since(&before).busy_percent();
    let cpuinfo = read("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let release = read("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    Ok(Machine {
        cpu: model.map_or("unknown processor", |(_, name)| name.trim()).to_owned(),
        cores: thread::available_parallelism()?.get(),
        memory_mib: kib_field(&read("/proc/meminfo")?, "MemTotal:")? / 1024,
        kernel: kernel_release()?,
        system: pretty.map_or("unknown system", |name| name.trim_matches('"')).to_owned(),
        busy_before_percent,
        stolen_percent: 0.0,
        congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control")?.trim().to_owned(),
        apart: Apart::default(),
    })
}

pub fn kernel_release() -> anyhow::Result<String> {
    Ok(read("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

fn read(path: impl AsRef<Path>) -> anyhow::Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_idle_and_stolen() {
        let text = "cpu  100 50 250 4000 100 10 90 20 7 3\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let time = parse_stat(text, 100.0).unwrap();
        assert_eq!(time, CpuTime { busy_s: 5.0, idle_s: 41.0, stolen_s: 0.2 });
        let later = CpuTime { busy_s: 6.0, idle_s: 44.0, stolen_s: 0.2 };
        assert_eq!(later.since(&time).busy_percent(), 25.0);
        assert!(parse_stat("cpu 1 2 3\n", 100.0).is_err());
        assert!(parse_stat("cpu0 1 2 3\n", 100.0).is_err());
    }

    #[test]
    fn a_command_may_be_called_anything() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 100 1000 10 1\n";
        assert_eq!(parse_process_stat(stat, 100.0).unwrap(), 2.0);
        assert!(parse_process_stat("42 (a) S 1", 100.0).is_err());
    }

    #[test]
    fn this_process_and_machine_can_be_read() {
        let pid = std::process::id();
        assert!(process_rss_kib(pid).unwrap() > 0);
        assert!(kernel_memory_kib().unwrap() > 0.0);
        assert!(process_cpu_s(pid).unwrap() >= 0.0);
        assert!(CpuTime::now().unwrap().idle_s > 0.0);
        assert!(describe(Duration::ZERO).unwrap().memory_mib > 0);
    }

    #[test]
    fn interfaces_are_found_by_their_whole_name() {
        let text = "Inter-| Receive\n face |bytes packets\n  eth01: 1 2 0\n eth0: 300 4 0 0\n    lo:9 8 0\n";
        assert_eq!(parse_net_dev(text, "eth0").unwrap(), 4);
        assert_eq!(parse_net_dev(text, "lo").unwrap(), 8);
        assert!(parse_net_dev(text, "eth").is_err());
    }
}
