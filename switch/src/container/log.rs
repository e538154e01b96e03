//! The log of a container: what it printed, on disk.
//!
//! One JSON object per line, as Docker's json-file driver has it:
//! `{"time":"2026-01-02T03:04:05.123456789Z","stream":"stdout","log":"hello\n"}`. An entry is what one read
//! returned, cut after each newline; a prompt without a newline is an entry as soon as it is printed. Bytes that
//! are not UTF-8 survive: such an entry has `"encoding":"latin1"`, and each character of `log` stands for the byte
//! of its number. The first line of a file is `{"file":N}`, counting the files of this container from 0.
//!
//! `log` grows to [`BYTES_MAX`], then it becomes `log.1`, in the place of an older one. What cannot be written, on
//! a full disk, is counted, and the count logged once it can be.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Size at which the log is rotated, bytes.
pub const BYTES_MAX: u64 = 10 << 20;
/// Longest text of one entry, bytes.
const ENTRY_BYTES_MAX: usize = 16 << 10;
/// What is written in one go, unless a single entry is longer, bytes.
const BATCH_BYTES_MAX: usize = 64 << 10;
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
#[derive(Serialize, Deserialize)]
struct Header {
    file: u64,
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

/// The one writer of a container's log.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    number: u64,
    length: u64,
    bytes_max: u64,
    /// Output that could not be written since the last time that something could.
    bytes_lost: u64,
}

impl Writer {
    /// Goes on with the log in `dir`.
    pub fn open(dir: &Path) -> io::Result<Writer> {
        Writer::open_bounded(dir, BYTES_MAX)
    }

    fn open_bounded(dir: &Path, bytes_max: u64) -> io::Result<Writer> {
        let path = dir.join("log");
        let file = open_append(&path)?;
        let length = file.metadata()?.len();
        let number = if length > 0 { file_number(&path)? } else { 0 };
        let mut writer = Writer { path, file, number, length, bytes_max, bytes_lost: 0 };
        if length == 0 {
            writer.start_file()?;
        }
        Ok(writer)
    }

    pub fn append(&mut self, stream: Stream, bytes: &[u8], now: SystemTime) {
        let time = rfc3339(now);
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let mut json = Vec::new();
        let mut unwritten = 0;
        for piece in lines.flat_map(|line| line.chunks(ENTRY_BYTES_MAX)) {
            let entry = Entry { time: time.clone(), stream, bytes: piece.into() }.encode();
            if json.len() + entry.len() > BATCH_BYTES_MAX {
                self.append_batch(&time, &json, unwritten);
                (json, unwritten) = (Vec::new(), 0);
            }
            json.extend(entry);
            unwritten += piece.len();
        }
        self.append_batch(&time, &json, unwritten);
    }

    /// Writes encoded entries that stand for `bytes` of output.
    fn append_batch(&mut self, time: &str, entries: &[u8], bytes: usize) {
        let mut json = Vec::new();
        if self.bytes_lost > 0 {
            let note = format!("vswitch: {} bytes of output could not be logged\n", self.bytes_lost);
            json = Entry { time: time.into(), stream: Stream::Stderr, bytes: note.into() }.encode();
        }
        json.extend(entries);
        match self.write(&json) {
            Ok(()) => self.bytes_lost = 0,
            Err(_) => self.bytes_lost += bytes as u64,
        }
    }

    /// All of `json` or nothing of it.
    fn write(&mut self, json: &[u8]) -> io::Result<()> {
        if self.length + json.len() as u64 > self.bytes_max {
            fs::rename(&self.path, old(&self.path))?;
            self.file = open_append(&self.path)?;
            self.number += 1;
            self.length = 0;
        }
        if self.length == 0 {
            self.start_file()?;
        }
        self.write_at_end(json)
    }

    fn start_file(&mut self) -> io::Result<()> {
        let mut header = serde_json::to_vec(&Header { file: self.number }).expect("a header is plain data");
        header.push(b'\n');
        self.write_at_end(&header)
    }

    fn write_at_end(&mut self, json: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(json) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += json.len() as u64;
        Ok(())
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

fn file_number(path: &Path) -> io::Result<u64> {
    let mut line = Vec::new();
    io::Read::take(BufReader::new(File::open(path)?), LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice::<Header>(&line).map_or(0, |header| header.file))
}

fn old(path: &Path) -> PathBuf {
    path.with_extension("1")
}

/// Reads a log from its oldest entry on, and what is appended and rotated meanwhile.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// The start of a line whose end is not written yet.
    partial: Vec<u8>,
    /// Of the file that is read.
    number: Option<u64>,
    /// Files that came and went while this reader was at an older one.
    pub files_missed: u64,
}

impl Reader {
    pub fn open(dir: &Path) -> io::Result<Reader> {
        let path = dir.join("log");
        let oldest = match File::open(old(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => open_existing(&path)?,
            other => Some(other?),
        };
        Ok(Reader {
            path,
            file: oldest.map(BufReader::new),
            partial: Vec::new(),
            number: None,
            files_missed: 0,
        })
    }

    /// The next entry; `None` when there is none now. Lines that are no entries are skipped.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        loop {
            let Some(file) = &mut self.file else {
                self.file = open_existing(&self.path)?.map(BufReader::new);
                match self.file {
                    None => return Ok(None),
                    Some(_) => continue,
                }
            };
            let limit = LINE_BYTES_MAX - self.partial.len() as u64;
            let read = io::Read::take(&mut *file, limit).read_until(b'\n', &mut self.partial)?;
            if self.partial.ends_with(b"\n") || self.partial.len() as u64 == LINE_BYTES_MAX {
                let line = std::mem::take(&mut self.partial);
                match Entry::decode(&line) {
                    Some(entry) => return Ok(Some(entry)),
                    None => self.see_header(&line),
                }
            } else if read == 0 && !self.go_on_to_the_next_file()? {
                return Ok(None);
            }
        }
    }

    fn see_header(&mut self, line: &[u8]) {
        let Ok(Header { file }) = serde_json::from_slice(line) else { return };
        let expected = self.number.map_or(file, |number| number + 1);
        self.files_missed += file.saturating_sub(expected);
        self.number = Some(file);
    }

    /// At the end of a file: false when it is the current one.
    fn go_on_to_the_next_file(&mut self) -> io::Result<bool> {
        let inode = |file: &File| file.metadata().map(|meta| meta.ino());
        let Some(current) = open_existing(&self.path)? else { return Ok(false) };
        let file = self.file.as_ref().expect("the caller reads it").get_ref();
        if inode(&current)? == inode(file)? {
            return Ok(false);
        }
        // The writer may have appended between our last read and its rotation.
        let at = io::Seek::stream_position(&mut &*file)?;
        if file.metadata()?.len() > at {
            return Ok(true);
        }
        let rotated = open_existing(&old(&self.path))?;
        let next = match rotated {
            Some(rotated) if inode(&rotated)? != inode(file)? => rotated,
            _ => current,
        };
        self.partial.clear();
        self.file = Some(BufReader::new(next));
        Ok(true)
    }

    /// Reads to the present end: the entries of the last `lines` lines, all without a number.
    pub fn tail(&mut self, lines: Option<usize>) -> io::Result<VecDeque<Entry>> {
        let mut kept = VecDeque::new();
        let mut line_ends = 0;
        while let Some(entry) = self.next_entry()? {
            line_ends += usize::from(entry.ends_line());
            kept.push_back(entry);
            // A last line without its end counts as one.
            let open_end = usize::from(kept.back().is_some_and(|last: &Entry| !last.ends_line()));
            while lines.is_some_and(|max| line_ends + open_end > max) {
                let Some(first) = kept.pop_front() else { break };
                line_ends -= usize::from(first.ends_line());
            }
        }
        Ok(kept)
    }
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
    use std::time::Duration;

    fn text(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
        entries.into_iter().flat_map(|entry| entry.bytes).collect()
    }

    proptest! {
        #[test]
        fn any_bytes_survive(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = Writer::open(dir.path()).unwrap();
            chunks.iter().for_each(|chunk| writer.append(Stream::Stdout, chunk, UNIX_EPOCH));
            let read = Reader::open(dir.path()).unwrap().tail(None).unwrap();
            prop_assert_eq!(text(read), chunks.concat());
        }
    }

    #[test]
    fn a_line_of_the_file_is_what_the_docs_say() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path()).unwrap();
        let time = UNIX_EPOCH + Duration::new(1_767_323_045, 123_456_789);
        writer.append(Stream::Stdout, b"hello\n\xff", time);
        assert_eq!(
            fs::read_to_string(dir.path().join("log")).unwrap(),
            "{\"file\":0}\n\
             {\"time\":\"2026-01-02T03:04:05.123456789Z\",\"stream\":\"stdout\",\"log\":\"hello\\n\"}\n\
             {\"time\":\"2026-01-02T03:04:05.123456789Z\",\"stream\":\"stdout\",\"encoding\":\"latin1\",\"log\":\"ÿ\"}\n"
        );
    }

    #[test]
    fn tail_counts_lines_not_entries() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path()).unwrap();
        for piece in ["one\n", "tw", "o\n", "three\n", "pro", "mpt"] {
            writer.append(Stream::Stdout, piece.as_bytes(), UNIX_EPOCH);
        }
        for (lines, want) in [
            (Some(0), ""),
            (Some(1), "prompt"),
            (Some(2), "three\nprompt"),
            (Some(3), "two\nthree\nprompt"),
            (Some(9), "one\ntwo\nthree\nprompt"),
            (None, "one\ntwo\nthree\nprompt"),
        ] {
            let read = Reader::open(dir.path()).unwrap().tail(lines).unwrap();
            assert_eq!(String::from_utf8(text(read)).unwrap(), want, "{lines:?}");
        }
    }

    #[test]
    fn the_log_is_bounded_and_a_reader_follows_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open_bounded(dir.path(), 1000).unwrap();
        let mut reader = Reader::open(dir.path()).unwrap();
        let mut seen = Vec::new();
        let mut written = Vec::new();
        for n in 0..100 {
            let line = format!("line {n}\n");
            writer.append(Stream::Stderr, line.as_bytes(), UNIX_EPOCH);
            written.extend(line.bytes());
            if n % 5 == 0 {
                seen.extend(text(reader.tail(None).unwrap()));
            }
        }
        seen.extend(text(reader.tail(None).unwrap()));
        assert_eq!(String::from_utf8(seen).unwrap(), String::from_utf8(written).unwrap());
        assert_eq!(reader.files_missed, 0);
        for name in ["log", "log.1"] {
            assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= 1000);
        }
        // A new reader has the newest entries only, without a gap.
        let kept = String::from_utf8(text(Reader::open(dir.path()).unwrap().tail(None).unwrap())).unwrap();
        let first: usize = kept.lines().next().unwrap()[5..].parse().unwrap();
        let want: Vec<String> = (first..100).map(|n| format!("line {n}")).collect();
        assert_eq!(kept.lines().collect::<Vec<_>>(), want);
        assert!((1..99).contains(&first));
    }

    #[test]
    fn a_reader_that_is_too_late_knows_what_it_missed() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open_bounded(dir.path(), 200).unwrap();
        writer.append(Stream::Stdout, b"first\n", UNIX_EPOCH);
        let mut reader = Reader::open(dir.path()).unwrap();
        assert_eq!(text(reader.tail(None).unwrap()), b"first\n");
        while writer.number < 4 {
            writer.append(Stream::Stdout, b"more\n", UNIX_EPOCH);
        }
        assert!(text(reader.tail(None).unwrap()).starts_with(b"more\n"));
        // It was at file 0, and files 3 and 4 are left.
        assert_eq!(reader.files_missed, 2);
        assert_eq!(Writer::open_bounded(dir.path(), 200).unwrap().number, 4);
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
