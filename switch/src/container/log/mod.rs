//! The log of a container: what it printed, on disk.
//!
//! One JSON object per line, as Docker's json-file driver has it:
//! `{"time":"2026-01-02T03:04:05.123456789Z","stream":"stdout","log":"hello\n"}`. An entry is what one read
//! returned, cut after each newline; a prompt without a newline is an entry as soon as it is printed. Bytes that
//! are not UTF-8 survive: such an entry has `"encoding":"latin1"`, and each character of `log` stands for the byte
//! of its number. The first line of a file is `{"file":N,"lines":L,"bytes":B}`: its number, counted from 0, and how much
//! output the files before it have held, so that a reader knows what is missing.
//!
//! `log` grows to the size that [`LogLimits`] gives, then it becomes `log.1`, that `log.2`, and so on; the oldest beyond
//! the number of files is removed. What cannot be written, on a full disk, is counted, and the count logged once it can
//! be.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use vswitch_proto::command::LogLimits;

mod reader;
mod writer;

pub use reader::{Gap, Item, Reader};
pub use writer::Writer;

/// Longest text of one entry, bytes.
const ENTRY_BYTES_MAX: usize = 16 << 10;
/// Longest line of the file that a reader takes: every byte of an entry escaped, and the rest.
const LINE_BYTES_MAX: u64 = 8 * ENTRY_BYTES_MAX as u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
}

#[derive(Serialize, Deserialize)]
struct Line {
    time: String,
    stream: Stream,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<String>,
    log: String,
}

/// The first line of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    file: u64,
    #[serde(flatten)]
    before: Amount,
}

/// An amount of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Line ends.
    #[serde(default)]
    pub lines: u64,
    #[serde(default)]
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, entry: &Entry) {
        self.lines += u64::from(entry.ends_line());
        self.bytes += entry.bytes.len() as u64;
    }

    fn less(self, other: Amount) -> Amount {
        Amount {
            lines: self.lines.saturating_sub(other.lines),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// RFC 3339, UTC, nanoseconds.
    pub time: String,
    pub stream: Stream,
    pub bytes: Vec<u8>,
}

impl Entry {
    fn ends_line(&self) -> bool {
        self.bytes.ends_with(b"\n")
    }

    fn encode(&self) -> Vec<u8> {
        let (encoding, log) = match std::str::from_utf8(&self.bytes) {
            Ok(text) => (None, text.to_owned()),
            Err(_) => (Some("latin1".to_owned()), self.bytes.iter().map(|byte| char::from(*byte)).collect()),
        };
        let line = Line { time: self.time.clone(), stream: self.stream, encoding, log };
        let mut json = serde_json::to_vec(&line).expect("a line is plain data");
        json.push(b'\n');
        json
    }

    /// `None` for what no writer of ours wrote.
    fn decode(json: &[u8]) -> Option<Entry> {
        let line: Line = serde_json::from_slice(json).ok()?;
        let bytes = match line.encoding.as_deref() {
            None => line.log.into_bytes(),
            Some("latin1") => {
                line.log.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<_>>()?
            }
            Some(_) => return None,
        };
        Some(Entry { time: line.time, stream: line.stream, bytes })
    }
}

/// The `number`th file before the present one; the present one for 0.
fn path_of(dir: &Path, number: u32) -> PathBuf {
    if number == 0 { dir.join("log") } else { dir.join(format!("log.{number}")) }
}

fn open_existing(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// As Docker writes times: UTC, nanoseconds.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let (year, month, day) = civil(days);
    let mut text = format!("{year:04}-{month:02}-{day:02}T");
    write!(text, "{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
        .expect("a String takes all");
    write!(text, ".{:09}Z", since.subsec_nanos()).expect("a String takes all");
    text
}

/// The Gregorian date of a day since 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years that start in March put the leap day last; 719468 days lie between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::time::Duration;

    /// What there is to read now: the text, and the gaps.
    fn read(reader: &mut Reader) -> (Vec<u8>, Vec<Gap>) {
        let (mut text, mut gaps) = (Vec::new(), Vec::new());
        while let Some(item) = reader.next_item().unwrap() {
            match item {
                Item::Entry(entry) => text.extend(entry.bytes),
                Item::Gap(gap) => gaps.push(gap),
            }
        }
        (text, gaps)
    }

    fn text(reader: &mut Reader) -> String {
        let (text, gaps) = read(reader);
        assert_eq!(gaps, []);
        String::from_utf8(text).unwrap()
    }

    fn limits(bytes: u64, files: u32) -> LogLimits {
        LogLimits { max_bytes: Some(bytes), max_files: Some(files) }
    }

    fn gap(lines: u64, bytes: u64, at_start: bool) -> Gap {
        Gap { missing: Amount { lines, bytes }, at_start }
    }

    proptest! {
        #[test]
        fn any_bytes_survive(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = Writer::open(dir.path(), LogLimits::default()).unwrap();
            chunks.iter().for_each(|chunk| writer.append(Stream::Stdout, chunk, UNIX_EPOCH));
            let (text, gaps) = read(&mut Reader::open(dir.path()).unwrap());
            prop_assert_eq!(text, chunks.concat());
            prop_assert_eq!(gaps, vec![]);
        }
    }

    #[test]
    fn a_line_of_the_file_is_what_the_docs_say() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), LogLimits::default()).unwrap();
        let time = UNIX_EPOCH + Duration::new(1_767_323_045, 123_456_789);
        writer.append(Stream::Stdout, b"hello\n\xff", time);
        assert_eq!(
            fs::read_to_string(dir.path().join("log")).unwrap(),
            "{\"file\":0,\"lines\":0,\"bytes\":0}\n\
             {\"time\":\"2026-01-02T03:04:05.123456789Z\",\"stream\":\"stdout\",\"log\":\"hello\\n\"}\n\
             {\"time\":\"2026-01-02T03:04:05.123456789Z\",\"stream\":\"stdout\",\"encoding\":\"latin1\",\"log\":\"ÿ\"}\n"
        );
    }

    #[test]
    fn tail_counts_lines_not_entries() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), LogLimits::default()).unwrap();
        for piece in ["one\n", "tw", "o\n", "three\n", "pro", "mpt"] {
            writer.append(Stream::Stdout, piece.as_bytes(), UNIX_EPOCH);
        }
        for (lines, want) in [
            (Some(0), ""),
            (Some(1), "prompt"),
            (Some(2), "three\nprompt"),
            (Some(3), "two\nthree\nprompt"),
            (Some(9), "one\ntwo\nthree\nprompt"),
        ] {
            let read = text(&mut match lines {
                Some(lines) => Reader::open_tail(dir.path(), lines).unwrap(),
                None => Reader::open(dir.path()).unwrap(),
            });
            assert_eq!(read, want, "{lines:?}");
        }
        // What comes later is no part of what is left out.
        let mut reader = Reader::open_tail(dir.path(), 0).unwrap();
        assert_eq!(text(&mut reader), "");
        writer.append(Stream::Stdout, b"!\nfour\n", UNIX_EPOCH);
        assert_eq!(text(&mut reader), "!\nfour\n");
    }

    #[test]
    fn the_log_is_bounded_and_a_reader_follows_rotations() {
        for files in [1, 2, 5] {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = Writer::open(dir.path(), limits(1000, files)).unwrap();
            let mut reader = Reader::open(dir.path()).unwrap();
            let (mut seen, mut written) = (String::new(), String::new());
            for n in 0..100 {
                let line = format!("line {n}\n");
                writer.append(Stream::Stderr, line.as_bytes(), UNIX_EPOCH);
                written.push_str(&line);
                if n % 5 == 0 {
                    seen.push_str(&text(&mut reader));
                }
                if n == 50 {
                    // The container ends and is started again.
                    writer = Writer::open(dir.path(), limits(1000, files)).unwrap();
                }
            }
            seen.push_str(&text(&mut reader));
            assert_eq!(seen, written);
            let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap()).collect();
            assert_eq!(names.len(), files as usize, "{names:?}");
            assert!(names.iter().all(|name| name.metadata().unwrap().len() <= 1000));
            // A new reader has the newest entries only, and knows how much came before.
            let (kept, gaps) = read(&mut Reader::open(dir.path()).unwrap());
            let kept = String::from_utf8(kept).unwrap();
            assert!(written.ends_with(&kept) && !kept.is_empty());
            let missing = written.strip_suffix(&kept).unwrap();
            assert_eq!(gaps, [gap(missing.lines().count() as u64, missing.len() as u64, true)]);
            // The last lines are all there, so nothing of them is missing.
            let lines = kept.lines().count();
            assert_eq!(text(&mut Reader::open_tail(dir.path(), lines).unwrap()), kept);
            let (more, gaps) = read(&mut Reader::open_tail(dir.path(), lines + 1).unwrap());
            assert_eq!((more, gaps.len()), (kept.into_bytes(), 1));
        }
    }

    #[test]
    fn a_reader_that_is_too_late_knows_what_it_missed() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), limits(200, 2)).unwrap();
        writer.append(Stream::Stdout, b"first\n", UNIX_EPOCH);
        let mut reader = Reader::open(dir.path()).unwrap();
        assert_eq!(text(&mut reader), "first\n");
        let mut lines = 0;
        while writer.file_number() < 4 {
            writer.append(Stream::Stdout, b"more\n", UNIX_EPOCH);
            lines += 1;
        }
        let (read, gaps) = read(&mut reader);
        let missed = lines - read.len() as u64 / 5;
        assert_eq!(gaps, [gap(missed, missed * 5, false)]);
        assert!(read.starts_with(b"more\n"));
    }

    #[test]
    fn without_a_bound_there_is_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), limits(0, 1)).unwrap();
        for _ in 0..1000 {
            writer.append(Stream::Stdout, &[b'x'; 1000], UNIX_EPOCH);
        }
        assert_eq!(read(&mut Reader::open(dir.path()).unwrap()).0.len(), 1_000_000);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_log_of_an_older_version_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let line = "{\"time\":\"2026-01-02T03:04:05.123456789Z\",\"stream\":\"stdout\",\"log\":\"old\\n\"}\n";
        fs::write(dir.path().join("log"), format!("{{\"file\":3}}\n{line}")).unwrap();
        Writer::open(dir.path(), LogLimits::default()).unwrap().append(Stream::Stdout, b"new\n", UNIX_EPOCH);
        let (read, gaps) = read(&mut Reader::open(dir.path()).unwrap());
        assert_eq!((read.as_slice(), gaps.as_slice()), (&b"old\nnew\n"[..], &[gap(0, 0, true)][..]));
    }

    #[test]
    fn dates() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), want);
        }
    }
}
