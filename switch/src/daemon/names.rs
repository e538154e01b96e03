//! Names for containers that were given none.

use rand::seq::IndexedRandom;
use vswitch_proto::id::Name;

const ADJECTIVES: &[&str] = &[
    "brave", "bright", "calm", "clever", "eager", "fair", "fast", "gentle", "happy", "jolly", "keen", "kind",
    "lively", "lucid", "merry", "mighty", "nimble", "patient", "proud", "quick", "quiet", "steady", "swift",
    "wise",
];

const PEOPLE: &[&str] = &[
    "baran",
    "bell",
    "boggs",
    "cerf",
    "cohen",
    "davies",
    "dijkstra",
    "feinler",
    "floyd",
    "hamilton",
    "hopper",
    "jacobson",
    "kahn",
    "lamport",
    "liskov",
    "lovelace",
    "metcalfe",
    "perlman",
    "postel",
    "ritchie",
    "shannon",
    "thacker",
    "turing",
    "zimmermann",
];

/// Drawn at random; with a number where `taken` says that the plain name is in use.
pub fn random_name(taken: impl Fn(&str) -> bool) -> Name {
    let mut rng = rand::rng();
    let mut pick = |words: &[&'static str]| *words.choose(&mut rng).expect("the lists are not empty");
    let plain = format!("{}_{}", pick(ADJECTIVES), pick(PEOPLE));
    let numbered = (2_u32..).map(|n| format!("{plain}{n}"));
    let free = std::iter::once(plain.clone()).chain(numbered).find(|name| !taken(name));
    let free = free.expect("there are more numbers than containers");
    free.parse().expect("the words are made of letters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_gets_a_number() {
        let name = random_name(|name| !name.ends_with('3'));
        assert!(name.as_str().ends_with('3'));
        assert!(!random_name(|_| false).as_str().ends_with('3'));
    }
}
