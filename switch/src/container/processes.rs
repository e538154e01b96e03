//! Processes of a container, as `ps -ef` shows them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use vswitch_proto::api::Top;

use crate::io::process;

const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
const DAY_S: u64 = 86_400;
/// Characters of a command line that are shown.
const COMMAND_CHARS_MAX: usize = 4096;

/// Every process in the pid namespace of `init_pid`, by pid, with pids of the daemon's own namespace.
pub fn pids(init_pid: i32) -> io::Result<Vec<i32>> {
    let wanted = pid_namespace(init_pid)?;
    let entries = fs::read_dir("/proc")?;
    let all = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let mut pids: Vec<i32> =
        all.filter(|pid| pid_namespace(*pid).is_ok_and(|namespace| namespace == wanted)).collect();
    pids.sort_unstable();
    Ok(pids)
}

fn pid_namespace(pid: i32) -> io::Result<(u64, u64)> {
    let found = fs::metadata(format!("/proc/{pid}/ns/pid"))?;
    Ok((found.dev(), found.ino()))
}

/// The processes of a container with the columns of `ps -ef`. One that ends meanwhile is left out.
pub fn top(init_pid: i32) -> io::Result<Top> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime_s = uptime.split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0);
    let clock =
        Clock { now_s, boot_s: now_s.saturating_sub(uptime_s), ticks_per_s: process::clock_ticks_per_s() };
    let names = user_names(&fs::read_to_string("/etc/passwd").unwrap_or_default());
    let processes = pids(init_pid)?.into_iter().filter_map(|pid| row(pid, &clock, &names)).collect();
    Ok(Top { titles: TITLES.map(Into::into).to_vec(), processes })
}

struct Clock {
    now_s: u64,
    boot_s: u64,
    ticks_per_s: u64,
}

fn user_names(passwd: &str) -> HashMap<u32, String> {
    let lines = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        Some((uid, name.to_owned()))
    });
    // The first line of a number counts.
    lines.fold(HashMap::new(), |mut names, (uid, name)| {
        names.entry(uid).or_insert(name);
        names
    })
}

fn row(pid: i32, clock: &Clock, names: &HashMap<u32, String>) -> Option<Vec<String>> {
    let directory = Path::new("/proc").join(pid.to_string());
    let stat = Stat::parse(&fs::read_to_string(directory.join("stat")).ok()?)?;
    let status = fs::read_to_string(directory.join("status")).ok()?;
    // The effective one is the second of four.
    let uid: u32 =
        status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()?;
    let command = command_line(&fs::read(directory.join("cmdline")).ok()?, &stat.name);
    let user = names.get(&uid).cloned().unwrap_or_else(|| uid.to_string());
    Some(vec![
        user,
        pid.to_string(),
        stat.parent.to_string(),
        stat.load(clock).to_string(),
        stat.start(clock),
        terminal(stat.terminal),
        stat.time(clock),
        command,
    ])
}

fn command_line(raw: &[u8], name: &str) -> String {
    let words: Vec<String> = raw
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    // One that has none, as a zombie, is shown by its name.
    let line = if words.is_empty() { format!("[{name}]") } else { words.join(" ") };
    line.chars().map(|c| if c.is_control() { '?' } else { c }).take(COMMAND_CHARS_MAX).collect()
}

/// Major and minor number as `tty_nr` of `proc_pid_stat(5)` has them.
fn terminal(number: u32) -> String {
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match major {
        0 => "?".into(),
        4 => format!("tty{minor}"),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("{major}:{minor}"),
    }
}

/// What is used of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: i32,
    terminal: u32,
    /// User and system time, clock ticks.
    used: u64,
    /// Since the start of the machine, clock ticks.
    started: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The name may hold anything, parentheses too.
        let (head, rest) = text.rsplit_once(") ")?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Stat {
            name,
            parent: fields.get(1)?.parse().ok()?,
            terminal: fields.get(4)?.parse::<i32>().ok()? as u32,
            used: number(11)? + number(12)?,
            started: number(19)?,
        })
    }

    fn started_s(&self, clock: &Clock) -> u64 {
        clock.boot_s + self.started / clock.ticks_per_s
    }

    /// Percent of a processor over the process's life, at most 99.
    fn load(&self, clock: &Clock) -> u64 {
        let lived_s = clock.now_s.saturating_sub(self.started_s(clock)).max(1);
        (self.used * 100 / clock.ticks_per_s / lived_s).min(99)
    }

    /// The time of the day, for one that is older the day, in UTC.
    fn start(&self, clock: &Clock) -> String {
        let started_s = self.started_s(clock);
        let day_time = started_s % DAY_S;
        if clock.now_s.saturating_sub(started_s) < DAY_S {
            return format!("{:02}:{:02}", day_time / 3600, day_time % 3600 / 60);
        }
        let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + std::time::Duration::from_secs(started_s))
            .to_string();
        text[5..10].into()
    }

    fn time(&self, clock: &Clock) -> String {
        let s = self.used / clock.ticks_per_s;
        format!("{:02}:{:02}:{:02}", s / 3600, s % 3600 / 60, s % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "77 (a) b (c) S 5 77 77 34817 77 4194304 100 0 0 0 250 150 0 0 20 0 1 0 90000 1000 10 18446744073709551615";

    #[test]
    fn columns_of_a_process() {
        let stat = Stat::parse(STAT).unwrap();
        let expected =
            Stat { name: "a) b (c".into(), parent: 5, terminal: 34817, used: 400, started: 90_000 };
        assert_eq!(stat, expected);
        let clock = Clock { now_s: 1_000_000 + 910, boot_s: 1_000_000, ticks_per_s: 100 };
        assert_eq!((stat.load(&clock), stat.time(&clock).as_str()), (40, "00:00:04"));
        assert_eq!(stat.start(&clock), "14:01");
        assert_eq!(stat.start(&Clock { now_s: clock.now_s + 2 * DAY_S, ..clock }), "01-12");
        assert_eq!(terminal(stat.terminal), "pts/1");
        assert_eq!((terminal(0).as_str(), terminal(1025).as_str()), ("?", "tty1"));
        assert_eq!(Stat::parse("77 (a"), None);
    }

    #[test]
    fn command_lines() {
        assert_eq!(command_line(b"sh\0-c\0echo  a\0", "sh"), "sh -c echo  a");
        assert_eq!(command_line(b"", "dead"), "[dead]");
        assert_eq!(command_line(b"a\nb\0", "x"), "a?b");
    }

    #[test]
    fn this_process_is_in_its_own_namespace() {
        let me = std::process::id() as i32;
        assert!(pids(me).unwrap().contains(&me));
        let top = top(me).unwrap();
        assert!(top.processes.iter().any(|row| row[1] == me.to_string() && row.len() == TITLES.len()));
    }
}
