//! The rig itself, run as its users run it.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// By which the processes of this test are found.
const MARK: &str = "VSWITCH_RIG_TEST";

#[test]
fn a_missing_peer_is_named_and_a_signal_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (programs, temporary, out) = (dir.path().join("bin"), dir.path().join("tmp"), dir.path().join("out"));
    fs::create_dir_all(&programs).unwrap();
    fs::create_dir_all(&temporary).unwrap();
    // Everything but what a peer needs.
    symlink(find("ip"), programs.join("ip")).unwrap();
    let mark = std::process::id().to_string();
    let mut rig = Command::new(env!("CARGO_BIN_EXE_vswitch-perf"))
        .args(["run", "--peers", "bridge,vde", "--repeats", "1", "--only", "round trip", "--out"])
        .arg(&out)
        .env("PATH", &programs)
        .env("TMPDIR", &temporary)
        .env(MARK, &mark)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = until_it_measures(&mut rig);
    assert!(
        lines.iter().any(|line| line.starts_with("setting up vswitch")),
        "vswitch takes part: {lines:#?}"
    );
    let skipped = lines.iter().find(|line| line.starts_with("vde is skipped: "));
    assert!(skipped.is_some_and(|line| line.contains("vde2")), "it says what to install: {lines:#?}");
    assert!(processes(&mark).len() > 1, "the namespaces belong to a process");
    kill(Pid::from_raw(rig.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(end(&mut rig).code(), Some(130));
    assert!(!out.exists(), "nothing is written");
    let left: Vec<_> = fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let patience = Instant::now() + Duration::from_secs(10);
    while !processes(&mark).is_empty() {
        assert!(Instant::now() < patience, "{:?} are left", processes(&mark));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_was_chosen_is_measured_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let rig = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_vswitch-perf"))
            .args(args)
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let path = out.to_str().unwrap();
    let chosen = ["--repeats", "2", "--only", "SMALL frames", "--only", "memory"];
    rig(&[&["run", "--peers", "bridge", "--out", path][..], &chosen].concat());
    let results: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join("results.json")).unwrap()).unwrap();
    let series = results["series"].as_array().unwrap();
    let counted = |peer: &str| series.iter().filter(|series| series["peer"] == peer).count();
    assert!(counted("bridge") > 0 && counted("vswitch") > counted("bridge"), "{results:#}");
    let metrics: HashSet<&str> = series.iter().map(|series| series["metric"].as_str().unwrap()).collect();
    assert!(metrics.iter().all(|metric| metric.starts_with("rate64") || *metric == "memory"), "{metrics:?}");
    let samples = series.iter().map(|series| series["samples"].as_array().unwrap());
    assert!(samples.clone().all(|samples| samples.iter().all(|sample| sample.as_f64() >= Some(0.0))));
    assert!(samples.map(Vec::len).all(|taken| taken == 2), "{results:#}");
    for written in ["results.md", "report.html", "rate64.svg"] {
        assert!(fs::metadata(out.join(written)).unwrap().len() > 0, "{written}");
    }
    let judged = rig(&["compare", path, path]);
    assert!(judged.contains("vswitch") && judged.contains("0 better, 0 worse"), "{judged}");
}

/// What it said until then.
fn until_it_measures(rig: &mut Child) -> Vec<String> {
    let mut said = BufReader::new(rig.stderr.take().unwrap()).lines();
    let mut lines = Vec::new();
    while let Some(line) = said.next() {
        lines.push(line.unwrap());
        if lines.last().is_some_and(|line| line.starts_with("round 1 of 1, ")) {
            // It has more to say.
            thread::spawn(move || said.for_each(drop));
            return lines;
        }
    }
    panic!("it ended: {lines:#?}");
}

fn end(rig: &mut Child) -> ExitStatus {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = rig.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < patience, "it does not end");
        thread::sleep(Duration::from_millis(20));
    }
}

/// All with the mark in their environment.
fn processes(mark: &str) -> Vec<String> {
    let sought = format!("{MARK}={mark}").into_bytes();
    let is_marked = |process: &Path| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == sought)
    };
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let marked = all.filter(|process| is_marked(process));
    marked.map(|process| fs::read_to_string(process.join("cmdline")).unwrap_or_default()).collect()
}

fn find(program: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let in_any = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    in_any.map(|dir| dir.join(program)).find(|file| file.is_file()).expect("iproute2 is installed")
}
