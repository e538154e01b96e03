//! Each rule can complain, and leaves alone what is right.

use super::*;

/// How many complaints `rule` has about `text` at `path`.
fn complaints(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> usize {
    rule(&Source::parse(path, text)).len()
}

#[test]
fn broken_walls_are_seen() {
    for (path, text) in [
        ("switch/src/forward/fdb.rs", "use crate::io::tap::Tap;"),
        ("switch/src/forward/fdb.rs", "use crate::{frame, state};"),
        ("switch/src/forward/fdb.rs", "use crate::{frame::{Frame, Batch}, worker as w};"),
        ("switch/src/forward/fdb.rs", "fn f() { super::super::publish::now() }"),
        ("switch/src/forward/fdb.rs", "mod inner { use super::super::super::api; }"),
        ("switch/src/forward/fdb.rs", "fn f() -> crate::counters::Counters { g() }"),
        ("switch/src/plan.rs", "use crate::forward::fdb::Fdb;"),
        ("switch/src/plan.rs", "use super::container;"),
        ("switch/src/state/ipam.rs", "fn f() { std::fs::read(p) }"),
        ("switch/src/state/ipam.rs", "use std::{collections::BTreeMap, thread};"),
        ("switch/src/gateway/mod.rs", "use tokio::net::UdpSocket;"),
        ("switch/src/api/mod.rs", "use crate::cluster::Replica;"),
        ("switch/src/daemon/mod.rs", "use crate::io::sys;"),
        ("switch/src/worker.rs", "use crate::io::{tap, sys::read};"),
        ("switch/src/main.rs", "fn main() { vswitch::forward::run() }"),
        ("switch/src/surprise.rs", "fn f() {}"),
        ("proto/src/id.rs", "use vswitch::state;"),
        ("ctl/src/main.rs", "use vswitch::state;"),
    ] {
        assert_eq!(complaints(walls, path, text), 1, "{path}: {text}");
    }
}

#[test]
fn standing_walls_are_left_alone() {
    for (path, text) in [
        ("switch/src/forward/fdb.rs", "use crate::frame::Frame; use super::tables::{self, Tables as T};"),
        ("switch/src/forward/fdb.rs", "#[cfg(test)] mod tests { use crate::io; fn f() { x.unwrap() } }"),
        ("switch/src/plan.rs", "use crate::forward::tables::Tables; pub(crate) fn f() {}"),
        (
            "switch/src/daemon/mod.rs",
            "use crate::{api, io::tap, forward::{ForwardConfig, flood::StormLimit}};",
        ),
        ("switch/src/io/tap.rs", "use super::sys::tun; use crate::io::sys;"),
        ("switch/src/main.rs", "fn main() { vswitch::daemon::run() }"),
        ("switch/src/api/mod.rs", "use crate::daemon::{Change, Handle}; // use crate::cluster"),
        ("ctl/src/main.rs", "use vswitch_proto::api;"),
    ] {
        assert_eq!(complaints(walls, path, text), 0, "{path}: {text}");
    }
}

#[test]
fn an_impure_head_is_seen() {
    let both = "#![forbid(unsafe_code)]\n#![deny(clippy::disallowed_methods)]\nfn f() {}";
    assert_eq!(complaints(purity, "switch/src/forward/mod.rs", both), 0);
    assert_eq!(complaints(purity, "switch/src/forward/mod.rs", "#![forbid(unsafe_code)]"), 1);
    assert_eq!(complaints(purity, "switch/src/plan.rs", "// #![forbid(unsafe_code)]"), 2);
    assert_eq!(complaints(purity, "switch/src/worker.rs", ""), 0);
}

#[test]
fn unsafe_elsewhere_is_seen() {
    let text = "fn f() { unsafe { g() } }";
    assert_eq!(complaints(unsafe_code, "switch/src/io/tap.rs", text), 1);
    assert_eq!(complaints(unsafe_code, "switch/src/io/sys/tun.rs", text), 0);
    assert_eq!(complaints(unsafe_code, "ctl/src/main.rs", "/// unsafe\nfn f() { g(\"unsafe\") }"), 0);
}

#[test]
fn panics_are_seen() {
    let path = "ctl/src/main.rs";
    assert_eq!(complaints(panics, path, "fn f() { vec![a.unwrap()]; todo!(); unimplemented!(\"x\") }"), 3);
    assert_eq!(complaints(panics, path, "fn f() { a.unwrap_or(b).expect(\"why\"); s = \".unwrap()\" }"), 0);
    let tests = "#[cfg(test)]\n#[expect(x)]\nmod tests { fn f() { a.unwrap() } }\nfn g() { b.unwrap() }";
    assert_eq!(complaints(panics, path, tests), 1);
    assert_eq!(complaints(panics, path, "#![cfg(test)] fn g() { b.unwrap() }"), 0);
}

#[test]
fn big_files_and_functions_are_seen() {
    let path = "ctl/src/main.rs";
    let function = |lines: usize| format!("fn f(a: [u8; 2]) {{\n{}}}", "    g();\n".repeat(lines - 2));
    assert_eq!(complaints(sizes, path, &function(FUNCTION_LINES_MAX)), 0);
    assert_eq!(complaints(sizes, path, &function(FUNCTION_LINES_MAX + 1)), 1);
    let file = "// line\n".repeat(FILE_LINES_MAX);
    let tests = "#[cfg(test)]\nmod tests {\n}\n";
    assert_eq!(complaints(sizes, path, &format!("{file}{tests}")), 0);
    assert_eq!(complaints(sizes, path, &format!("{file}fn f() {{}}\n{tests}")), 1);
}

#[test]
fn vague_names_are_seen() {
    assert_eq!(complaints(vague_names, "switch/src/io/utils.rs", ""), 1);
    assert_eq!(complaints(vague_names, "switch/src/lib.rs", "mod helpers; mod forward;"), 1);
    assert_eq!(complaints(vague_names, "switch/src/forward/fdb.rs", "mod aging {}"), 0);
}

#[test]
fn undocumented_dependencies_are_seen() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\nvswitch.workspace = true\nserde = \"1\"\n\
                    [target.'cfg(unix)'.dev-dependencies]\nrand.workspace = true\n[lints]\nworkspace = true\n";
    let documented = "| `serde` | the format of everything, unlike `rand` |";
    assert_eq!(undocumented_dependencies(manifest, documented).len(), 1);
    assert_eq!(undocumented_dependencies(manifest, &format!("{documented}\n| `rand` | dice |")).len(), 0);
}

#[test]
fn forbidden_words_are_seen() {
    let (pieces, whole) = forbidden();
    for word in pieces.into_iter().chain(whole) {
        assert_eq!(words("README.md", &format!("a\nb {word} c")), [format!("README.md:2: `{word}`")]);
    }
    assert!(words("README.md", "the network/address, homework, hacks, a.XXXXXX").is_empty());
}
