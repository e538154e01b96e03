//! The rules of the house, checked on the sources themselves.
//!
//! Each rule is a function from a file to a list of complaints: one test runs it over the tree, another proves on a bad
//! snippet that it can complain.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use source::{Source, end_of_item, is_identifier, matches_at, paths};

#[path = "tidy/self_tests.rs"]
mod self_tests;
#[path = "tidy/source.rs"]
mod source;

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// "Who may import whom" of docs/architecture.md: a module of the daemon, then the paths below `crate` that it may
/// name besides its own. A module that is not listed here fails the test, so none escapes.
const WALLS: &[(&str, &[&str])] = &[
    ("", &[]),
    ("main", &["api", "cluster", "config", "container", "daemon", "io", "state", "worker"]),
    ("config", &[]),
    ("frame", &[]),
    ("forward", &["frame"]),
    ("gateway", &["frame", "forward::tables"]),
    ("state", &[]),
    ("plan", &["state", "forward::tables"]),
    ("problems", &[]),
    ("publish", &["forward::tables"]),
    ("counters", &["forward::verdict"]),
    ("vitals", &[]),
    ("worker", &["frame", "forward", "gateway", "publish", "counters", "io", "vitals"]),
    ("cluster", &["problems", "state", "vitals"]),
    ("container", &["io"]),
    (
        "api",
        &["state", "container", "cluster::service", "daemon::Change", "daemon::Client", "daemon::Handle"],
    ),
    (
        "daemon",
        &[
            "api",
            "cluster",
            "config",
            "container",
            "counters",
            "forward",
            "frame",
            "gateway",
            "io",
            "plan",
            "problems",
            "publish",
            "state",
            "vitals",
            "worker",
        ],
    ),
    ("io", &["frame"]),
];

/// Nobody outside `io` touches the raw system calls, whatever else the table grants.
const SYSTEM_CALLS: &str = "io::sys";

const PURE: &[&str] = &["frame", "forward", "gateway", "state", "plan"];

/// What a pure module has no use for.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "tokio",
    "mio",
    "libc",
    "nix",
    "rand",
    "rtnetlink",
    "redb",
];

const VAGUE: &[&str] =
    &["utils", "util", "helpers", "helper", "common", "manager", "core", "data", "internal", "misc", "stuff"];

// --- rules over Rust files -----------------------------------------------------------------------------------------

fn below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn walls(source: &Source) -> Vec<String> {
    let package = source.path.split('/').next().unwrap_or_default();
    let module = source.module();
    let own = module.first().copied().unwrap_or_default();
    let mut complaints = Vec::new();
    let granted = match WALLS.iter().find(|(name, _)| *name == own) {
        _ if package != "switch" => &[],
        Some((_, granted)) => *granted,
        None => return vec![format!("{}: module `{own}` has no entry in the table of walls", source.path)],
    };
    for (token, path) in paths(source) {
        let crate_name = path[0].as_str();
        let inside = path[1..].join("::");
        let allowed = match (package, crate_name) {
            ("proto", "vswitch" | "vswitch_ctl") | ("ctl", "vswitch") => false,
            ("switch", "crate" | "vswitch")
                if !inside.is_empty() && own != inside && !below(&inside, own) =>
            {
                granted.iter().any(|prefix| below(&inside, prefix))
                    && (own == "io" || !below(&inside, SYSTEM_CALLS))
            }
            ("switch", _) if PURE.contains(&own) => !IMPURE.iter().any(|bad| below(&path.join("::"), bad)),
            _ => true,
        };
        if !allowed {
            complaints
                .push(source.complain(&token, format_args!("`{own}` may not import {}", path.join("::"))));
        }
    }
    complaints
}

fn purity(source: &Source) -> Vec<String> {
    let head = match (source.path.as_str(), source.module().as_slice()) {
        ("proto/src/lib.rs", _) => true,
        (path, [module]) => path.starts_with("switch/") && PURE.contains(module),
        _ => false,
    };
    if !head {
        return Vec::new();
    }
    ["forbid ( unsafe_code )", "deny ( clippy : : disallowed_methods )"]
        .iter()
        .filter(|lint| {
            let pattern = format!("# ! [ {lint} ]");
            !(0..source.all.len()).any(|at| matches_at(&source.all, at, &pattern))
        })
        .map(|lint| format!("{}: a pure module lacks #![{}]", source.path, lint.replace(' ', "")))
        .collect()
}

fn unsafe_code(source: &Source) -> Vec<String> {
    if source.path.starts_with("switch/src/io/sys/") || source.path == "switch/src/io/sys.rs" {
        return Vec::new();
    }
    let found = source.all.iter().filter(|token| token.text == "unsafe");
    found.map(|token| source.complain(token, "`unsafe` outside of io/sys")).collect()
}

fn panics(source: &Source) -> Vec<String> {
    let code = &source.code;
    let mut complaints = Vec::new();
    for at in 0..code.len() {
        if matches_at(code, at, ". unwrap ( )") {
            complaints.push(
                source.complain(&code[at], "unwrap(): return an error, or name the invariant in expect()"),
            );
        }
        for name in ["todo", "unimplemented", "dbg"] {
            if matches_at(code, at, &format!("{name} !")) {
                complaints.push(source.complain(&code[at], format_args!("{name}! is not finished code")));
            }
        }
    }
    complaints
}

fn sizes(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    if source.lines_before_tests > FILE_LINES_MAX {
        let lines = source.lines_before_tests;
        complaints.push(format!("{}: {lines} lines before its tests, split it by idea", source.path));
    }
    for (at, token) in source.code.iter().enumerate() {
        let named = source.code.get(at + 1).is_some_and(|name| is_identifier(&name.text));
        if token.text != "fn" || !named {
            continue;
        }
        let end = end_of_item(&source.code, at);
        let lines = source.code[end - 1].line - token.line + 1;
        if lines > FUNCTION_LINES_MAX {
            let name = &source.code[at + 1].text;
            complaints.push(source.complain(token, format_args!("fn {name} has {lines} lines")));
        }
    }
    complaints
}

fn vague_names(source: &Source) -> Vec<String> {
    let mut names: BTreeSet<&str> = source.module().into_iter().collect();
    for pair in source.all.windows(2).filter(|pair| pair[0].text == "mod") {
        names.insert(&pair[1].text);
    }
    let vague = names.into_iter().filter(|name| VAGUE.contains(name));
    vague.map(|name| format!("{}: module name `{name}` says nothing", source.path)).collect()
}

// --- rules over other files ----------------------------------------------------------------------------------------

/// Names under `[dependencies]`, `[dev-dependencies]`, `[build-dependencies]` and their target-specific forms.
fn direct_dependencies(manifest: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside =
                section.trim_end_matches(']').ends_with("dependencies") && !section.starts_with("workspace");
        } else if inside && line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            names.extend(line.split(['.', '=', ' ']).next());
        }
    }
    names
}

fn undocumented_dependencies(manifest: &str, architecture: &str) -> Vec<String> {
    let documented = |name: &str| architecture.lines().any(|line| row_names(line, name));
    let names = direct_dependencies(manifest).into_iter();
    let ours = |name: &str| name == "vswitch" || name.starts_with("vswitch-");
    names
        .filter(|name| !ours(name) && !documented(name))
        .map(|name| format!("dependency `{name}` has no line in docs/architecture.md"))
        .collect()
}

/// Whether a line is a row of a table whose first cell names `name`.
fn row_names(line: &str, name: &str) -> bool {
    line.strip_prefix('|')
        .and_then(|row| row.split('|').next())
        .is_some_and(|cell| cell.contains(&format!("`{name}`")))
}

/// What belongs to somebody's machine or to unfinished work, not to the repository: pieces of paths, and whole words.
/// Put together here, so that this file passes its own rule.
fn forbidden() -> (Vec<String>, Vec<String>) {
    let join = |halves: &[(&str, &str)]| halves.iter().map(|(a, b)| format!("{a}{b}")).collect();
    (join(&[("/wo", "rk/"), ("/ho", "me/")]), join(&[("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("HA", "CK")]))
}

fn words(path: &str, text: &str) -> Vec<String> {
    let (pieces, whole) = forbidden();
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let pieces = pieces.iter().filter(|piece| line.contains(piece.as_str()));
        let in_line: Vec<&str> = line.split(|c: char| !c.is_alphanumeric()).collect();
        let whole = whole.iter().filter(|word| in_line.contains(&word.as_str()));
        complaints.extend(pieces.chain(whole).map(|word| format!("{path}:{}: `{word}`", number + 1)));
    }
    complaints
}

// --- the tree ------------------------------------------------------------------------------------------------------

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// Text files below `start`, as paths from the root, with their content.
fn texts(start: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(start)];
    while let Some(path) = open.pop() {
        if path.ends_with("tests/fuzz/target") || path.ends_with("tests/fuzz/artifacts") {
            continue;
        }
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            open.extend(entries.map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = fs::read_to_string(&path) {
            let relative = path.strip_prefix(root()).unwrap().to_str().unwrap();
            found.push((relative.to_owned(), text));
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let files = ["proto/src", "switch/src", "ctl/src"].into_iter().flat_map(texts);
    let rust = files.filter(|(path, _)| path.ends_with(".rs"));
    let mut sources: Vec<Source> = rust.map(|(path, text)| Source::parse(&path, &text)).collect();
    // A file declared as `#[cfg(test)] mod name;` is a test as a whole.
    let mut tests = BTreeSet::new();
    for source in &sources {
        let stem = source.path.trim_end_matches(".rs");
        let directory = ["/mod", "/lib", "/main"].iter().find_map(|s| stem.strip_suffix(s)).unwrap_or(stem);
        tests.extend(source.test_modules.iter().map(|name| format!("{directory}/{name}")));
    }
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
        if tests.iter().any(|test| stem == test || stem.starts_with(&format!("{test}/"))) {
            source.code.clear();
            source.lines_before_tests = 0;
        }
    }
    sources
}

fn over_the_tree(rule: fn(&Source) -> Vec<String>) {
    let complaints: Vec<String> = sources().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn the_tree_is_read() {
    let sources = sources();
    for path in ["proto/src/lib.rs", "switch/src/lib.rs", "switch/src/main.rs", "ctl/src/main.rs"] {
        assert!(sources.iter().any(|source| source.path == path), "{path} was not read");
    }
    assert!(sources.iter().map(|source| paths(source).len()).sum::<usize>() > 1000);
}

#[test]
fn walls_stand() {
    over_the_tree(walls);
}

#[test]
fn pure_modules_say_so() {
    over_the_tree(purity);
}

#[test]
fn unsafe_is_in_one_place() {
    over_the_tree(unsafe_code);
}

#[test]
fn nothing_panics_by_convenience() {
    over_the_tree(panics);
}

#[test]
fn files_and_functions_are_small() {
    over_the_tree(sizes);
}

#[test]
fn module_names_say_something() {
    over_the_tree(vague_names);
}

#[test]
fn each_dependency_has_its_reason() {
    let architecture = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let packages = ["proto", "switch", "ctl", "perf", "tests"];
    let manifests: Vec<_> =
        packages.into_iter().flat_map(texts).filter(|(path, _)| path.ends_with("/Cargo.toml")).collect();
    assert!(manifests.len() >= packages.len());
    let complaints: Vec<String> =
        manifests.iter().flat_map(|(_, text)| undocumented_dependencies(text, &architecture)).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn texts_are_at_home_anywhere() {
    let starts = [
        "proto",
        "switch",
        "ctl",
        "perf",
        "tests",
        "docs",
        "packaging",
        ".ci",
        ".config",
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.toml",
        "deny.toml",
        "clippy.toml",
    ];
    let complaints: Vec<String> =
        starts.into_iter().flat_map(texts).flat_map(|(path, text)| words(&path, &text)).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
