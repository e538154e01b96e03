//! The fuzz functions over the committed corpus, and over a bounded number of mutations of it.
//!
//! The mutations come from a fixed seed, so a run is repeatable. A failure prints the seed and the input.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use vswitch_tests::fuzz;

const SEED: u64 = 0x7673_7769_7463_6800;
const MUTATIONS: usize = 20_000;
/// Longer ones are cut, except for what the corpus holds.
const INPUT_BYTES_MAX: usize = 4096;

/// Prints the input if the test panics while it lives.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut hex = String::new();
            self.1.iter().for_each(|byte| _ = write!(hex, "{byte:02x}"));
            eprintln!("seed {SEED:#x}, {}, input {hex}", self.0);
        }
    }
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

fn mutate(random: &mut StdRng, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let pick = |random: &mut StdRng| files.choose(random).map(|file| file.1.clone()).unwrap_or_default();
    let mut input = pick(random);
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=input.len());
        match random.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => input.truncate(at),
            3 => input.insert(at, random.random()),
            4 => {
                let other = pick(random);
                let from = random.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let end = (at + random.random_range(0..64)).min(input.len());
                input.extend_from_within(at..end);
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn run(target: &str, check: fn(&[u8])) {
    println!("seed {SEED:#x}");
    let files = corpus(target);
    for (name, input) in &files {
        let _shown = Shown(name, input);
        check(input);
    }
    let mut random = StdRng::seed_from_u64(SEED);
    for i in 0..MUTATIONS {
        let input = mutate(&mut random, &files);
        let label = format!("mutation {i}");
        let _shown = Shown(&label, &input);
        check(&input);
    }
}

#[test]
fn forward_path() {
    run("forward_path", fuzz::forward_path);
}

#[test]
fn api_decoding() {
    run("api_decoding", fuzz::api_decoding);
}

#[test]
fn stream_decoding() {
    run("stream_decoding", fuzz::stream_decoding);
}

#[test]
fn docker_calls() {
    run("docker_calls", fuzz::docker_calls);
}

#[test]
fn dns() {
    run("dns", fuzz::dns);
}

#[test]
fn gso() {
    run("gso", fuzz::gso);
}

#[test]
fn vxlan() {
    run("vxlan", fuzz::vxlan);
}
