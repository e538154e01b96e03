//! The keys that leave an attached terminal, ctrl-p ctrl-q unless `--detach-keys` says otherwise.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::str::FromStr;

/// Longest sequence, keys.
const KEYS_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("unknown key '{0}'; a key is a character, DEL, or ctrl- with a letter or one of @ [ \\ ] ^ _")]
    UnknownKey(String),
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
}

impl Default for DetachKeys {
    fn default() -> DetachKeys {
        DetachKeys(vec![0x10, 0x11])
    }
}

impl FromStr for DetachKeys {
    type Err = KeysError;

    /// Keys separated by commas; the default when there is none.
    fn from_str(text: &str) -> Result<DetachKeys, KeysError> {
        if text.is_empty() {
            return Ok(DetachKeys::default());
        }
        let keys = text.split(',').map(key).collect::<Result<Vec<u8>, KeysError>>()?;
        if keys.len() > KEYS_MAX { Err(KeysError::TooMany) } else { Ok(DetachKeys(keys)) }
    }
}

fn key(text: &str) -> Result<u8, KeysError> {
    if let &[byte @ 0..=127] = text.as_bytes() {
        return Ok(byte);
    }
    if text.eq_ignore_ascii_case("del") {
        return Ok(127);
    }
    let lower = text.to_ascii_lowercase();
    match lower.strip_prefix("ctrl-").map(str::as_bytes) {
        Some(&[letter @ b'a'..=b'z']) => Ok(letter - b'a' + 1),
        Some(&[sign @ (b'@' | b'['..=b'_')]) => Ok(sign & 0x1f),
        _ => Err(KeysError::UnknownKey(text.into())),
    }
}

/// Looks for the keys in what is typed. Bytes that may be the beginning of the sequence are held back until the
/// next one decides.
#[derive(Debug)]
pub struct Watcher {
    keys: Vec<u8>,
    /// How many of `keys` have come so far.
    held: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    /// For the process.
    pub passed: Vec<u8>,
    /// The sequence is complete; what follows it is not passed on.
    pub detached: bool,
}

impl Watcher {
    pub fn new(keys: &DetachKeys) -> Watcher {
        Watcher { keys: keys.0.clone(), held: 0 }
    }

    pub fn push(&mut self, typed: &[u8]) -> Typed {
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            let mut candidate = self.keys[..self.held].to_vec();
            candidate.push(byte);
            while !self.keys.starts_with(&candidate) {
                passed.push(candidate.remove(0));
            }
            self.held = candidate.len();
            if self.held == self.keys.len() {
                self.held = 0;
                return Typed { passed, detached: true };
            }
        }
        Typed { passed, detached: false }
    }

    /// What is still held back when the input ends.
    pub fn finish(&mut self) -> Vec<u8> {
        let held = self.keys[..self.held].to_vec();
        self.held = 0;
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_for_docker() {
        for (text, bytes) in [
            ("", &[0x10, 0x11][..]),
            ("ctrl-p,ctrl-q", &[0x10, 0x11]),
            ("a", b"a"),
            ("ctrl-a,d", &[1, b'd']),
            ("CTRL-Z", &[26]),
            ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", &[0, 27, 28, 29, 30, 31]),
            ("DEL,Q", &[127, b'Q']),
        ] {
            assert_eq!(text.parse(), Ok(DetachKeys(bytes.into())), "{text}");
        }
        for bad in ["ctrl-", "ctrl-1", "ctrl-pp", "ab", ",", "a,", "é", "ctrl-é", "alt-x"] {
            assert!(matches!(bad.parse::<DetachKeys>(), Err(KeysError::UnknownKey(_))), "{bad}");
        }
        assert_eq!("a,".repeat(KEYS_MAX).parse::<DetachKeys>(), Err(KeysError::UnknownKey(String::new())));
        assert_eq!(vec!["a"; KEYS_MAX + 1].join(",").parse::<DetachKeys>(), Err(KeysError::TooMany));
    }

    /// Feeds the bytes in every way of cutting them in two.
    fn watch(keys: &str, typed: &[u8]) -> (Vec<u8>, bool) {
        let run = |cut: usize| {
            let mut watcher = Watcher::new(&keys.parse().unwrap());
            let mut passed = Vec::new();
            for part in [&typed[..cut], &typed[cut..]] {
                let step = watcher.push(part);
                passed.extend(step.passed);
                if step.detached {
                    return (passed, true);
                }
            }
            passed.extend(watcher.finish());
            (passed, false)
        };
        let whole = run(0);
        (1..=typed.len()).for_each(|cut| assert_eq!(run(cut), whole, "cut at {cut}"));
        whole
    }

    #[test]
    fn the_sequence_detaches_and_its_parts_pass() {
        for (keys, typed, passed, detached) in [
            ("", &b"ls\n"[..], &b"ls\n"[..], false),
            ("", b"ls\x10\x11rest", b"ls", true),
            ("", b"\x10x\x11", b"\x10x\x11", false),
            ("", b"\x10\x10\x11", b"\x10", true),
            ("", b"\x10", b"\x10", false),
            ("a,a,b", b"aaab", b"a", true),
            ("a,b,a,c", b"ababac", b"ab", true),
            ("x", b"yx", b"y", true),
            ("", b"", b"", false),
        ] {
            assert_eq!(watch(keys, typed), (passed.to_vec(), detached), "{keys} {typed:?}");
        }
    }

    #[test]
    fn held_bytes_wait_for_the_next_one() {
        let mut watcher = Watcher::new(&DetachKeys::default());
        assert_eq!(watcher.push(b"a\x10"), Typed { passed: b"a".to_vec(), detached: false });
        assert_eq!(watcher.push(b"b"), Typed { passed: b"\x10b".to_vec(), detached: false });
    }
}
