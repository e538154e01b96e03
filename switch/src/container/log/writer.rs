//! Writing the log of a container.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{
    Amount, ENTRY_BYTES_MAX, Entry, Header, LINE_BYTES_MAX, LogLimits, Stream, open_existing, path_of,
    rfc3339,
};

/// Bytes that are written in one go, unless a single entry is longer.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// The one writer of a container's log.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    file: File,
    number: u64,
    length: u64,
    /// Output in all files of this log, also those that are removed.
    written: Amount,
    limits: LogLimits,
    /// Output that could not be written since the last time that something could.
    bytes_lost: u64,
}

impl Writer {
    /// Goes on with the log in `dir`.
    pub fn open(dir: &Path, limits: LogLimits) -> io::Result<Writer> {
        let path = path_of(dir, 0);
        let (header, held) = measure(&path)?;
        let file = open_append(&path)?;
        let length = file.metadata()?.len();
        let mut written = header.before;
        written.lines += held.lines;
        written.bytes += held.bytes;
        let mut writer =
            Writer { dir: dir.into(), file, number: header.file, length, written, limits, bytes_lost: 0 };
        if length == 0 {
            writer.start_file()?;
        }
        Ok(writer)
    }

    pub fn append(&mut self, stream: Stream, bytes: &[u8], now: SystemTime) {
        let time = rfc3339(now);
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let mut json = Vec::new();
        let mut unwritten = Amount::default();
        for piece in lines.flat_map(|line| line.chunks(ENTRY_BYTES_MAX)) {
            let entry = Entry { time: time.clone(), stream, bytes: piece.into() };
            let encoded = entry.encode();
            if json.len() + encoded.len() > BATCH_BYTES_MAX {
                self.append_batch(&time, &json, unwritten);
                (json, unwritten) = (Vec::new(), Amount::default());
            }
            json.extend(encoded);
            unwritten.add(&entry);
        }
        self.append_batch(&time, &json, unwritten);
    }

    /// Writes encoded entries that stand for `output`.
    fn append_batch(&mut self, time: &str, entries: &[u8], output: Amount) {
        let mut json = Vec::new();
        let mut added = output;
        if self.bytes_lost > 0 {
            let note = format!("vswitch: {} bytes of output could not be logged\n", self.bytes_lost);
            let note = Entry { time: time.into(), stream: Stream::Stderr, bytes: note.into() };
            json = note.encode();
            added.add(&note);
        }
        json.extend(entries);
        match self.write(&json) {
            Ok(()) => {
                self.bytes_lost = 0;
                self.written.lines += added.lines;
                self.written.bytes += added.bytes;
            }
            Err(_) => self.bytes_lost += output.bytes,
        }
    }

    /// All of `json` or nothing of it.
    fn write(&mut self, json: &[u8]) -> io::Result<()> {
        let length = self.length + json.len() as u64;
        if self.limits.bytes_max().is_some_and(|bytes_max| length > bytes_max.get()) {
            self.rotate()?;
        }
        if self.length == 0 {
            self.start_file()?;
        }
        self.write_at_end(json)
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.limits.files_max().get()).rev() {
            ignore_absent(fs::rename(path_of(&self.dir, number - 1), path_of(&self.dir, number)))?;
        }
        // With a single file it is replaced, so that a reader of the old one knows that it has ended.
        ignore_absent(fs::remove_file(path_of(&self.dir, 0)))?;
        self.file = open_append(&path_of(&self.dir, 0))?;
        self.number += 1;
        self.length = 0;
        Ok(())
    }

    fn start_file(&mut self) -> io::Result<()> {
        let header = Header { file: self.number, before: self.written };
        let mut header = serde_json::to_vec(&header).expect("a header is plain data");
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

    #[cfg(test)]
    pub(super) fn file_number(&self) -> u64 {
        self.number
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The header of a file, and the output that the file holds.
fn measure(path: &Path) -> io::Result<(Header, Amount)> {
    let (mut header, mut held) = (Header::default(), Amount::default());
    let Some(file) = open_existing(path)? else { return Ok((header, held)) };
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        if io::Read::take(&mut file, LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok((header, held));
        }
        match (Entry::decode(&line), serde_json::from_slice(&line)) {
            (Some(entry), _) => held.add(&entry),
            (None, Ok(read)) => header = read,
            (None, Err(_)) => {}
        }
    }
}
