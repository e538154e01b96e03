//! Reading the log of a container, also while it grows.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Amount, Entry, Header, LINE_BYTES_MAX, open_existing, path_of};

/// Highest number of files that a log may have: its reader looks for them by number.
const FILES_MAX: u32 = vswitch_proto::command::LogLimits::FILES_MAX;

/// How often the next file is looked for while files are renamed.
const SEARCHES_MAX: u32 = 5;
const HEADER_BYTES_MAX: u64 = 256;

/// Output that is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Nothing where it was written before it was counted.
    pub missing: Amount,
    /// Before everything that this reader gave.
    pub at_start: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Entry(Entry),
    Gap(Gap),
}

/// Reads a log from its oldest entry on, and what is appended and rotated meanwhile.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    file: Option<BufReader<File>>,
    /// The start of a line whose end is not written yet.
    partial: Vec<u8>,
    /// Header of the file that is read, with the output up to here.
    position: Option<Header>,
    /// Further entries that are skipped, while lines are: those before a tail.
    skipped: Skip,
}

#[derive(Debug, Clone, Copy, Default)]
struct Skip {
    entries: u64,
    lines: u64,
    gap: bool,
}

impl Reader {
    pub fn open(dir: &Path) -> io::Result<Reader> {
        let file = open_oldest(dir)?.map(BufReader::new);
        Ok(Reader { dir: dir.into(), file, partial: Vec::new(), position: None, skipped: Skip::default() })
    }

    /// Only the last `lines` lines of what is there now, and what is appended. A last line without its end counts as
    /// one. Reads everything once; takes no memory for it.
    pub fn open_tail(dir: &Path, lines: usize) -> io::Result<Reader> {
        // Opened first, so that it holds everything that is counted.
        let mut reader = Reader::open(dir)?;
        let mut counting = Reader::open(dir)?;
        let mut skip = Skip::default();
        let mut open_end = false;
        while let Some(item) = counting.next_item()? {
            if let Item::Entry(entry) = item {
                skip.entries += 1;
                skip.lines += u64::from(entry.ends_line());
                open_end = !entry.ends_line();
            }
        }
        let all = skip.lines + u64::from(open_end);
        skip.lines = all.saturating_sub(lines as u64);
        // What is missing lies before the lines that are asked for.
        skip.gap = all >= lines as u64;
        if skip.lines == 0 {
            skip.entries = 0;
        }
        reader.skipped = skip;
        Ok(reader)
    }

    /// The next entry or gap; `None` when there is none now. Lines that are no entries are skipped.
    pub fn next_item(&mut self) -> io::Result<Option<Item>> {
        while let Some(item) = self.next_unskipped()? {
            match &item {
                Item::Gap(gap) if self.skipped.gap && gap.at_start => {}
                Item::Entry(entry) if self.skipped.entries > 0 => {
                    self.skipped.entries -= 1;
                    self.skipped.lines -= u64::from(entry.ends_line()).min(self.skipped.lines);
                    if self.skipped.lines == 0 {
                        self.skipped.entries = 0;
                    }
                }
                _ => return Ok(Some(item)),
            }
        }
        Ok(None)
    }

    fn next_unskipped(&mut self) -> io::Result<Option<Item>> {
        loop {
            let Some(file) = &mut self.file else {
                self.file = open_existing(&path_of(&self.dir, 0))?.map(BufReader::new);
                match self.file {
                    None => return Ok(None),
                    Some(_) => continue,
                }
            };
            let limit = LINE_BYTES_MAX - self.partial.len() as u64;
            let read = io::Read::take(&mut *file, limit).read_until(b'\n', &mut self.partial)?;
            if self.partial.ends_with(b"\n") || self.partial.len() as u64 == LINE_BYTES_MAX {
                let line = std::mem::take(&mut self.partial);
                if let Some(item) = self.take_line(&line) {
                    return Ok(Some(item));
                }
            } else if read == 0 && !self.go_on_to_the_next_file()? {
                return Ok(None);
            }
        }
    }

    fn take_line(&mut self, line: &[u8]) -> Option<Item> {
        if let Some(entry) = Entry::decode(line) {
            self.position.get_or_insert_default().before.add(&entry);
            return Some(Item::Entry(entry));
        }
        let header: Header = serde_json::from_slice(line).ok()?;
        let at_start = self.position.is_none();
        let seen = self.position.replace(header).unwrap_or_default();
        let next = if at_start { 0 } else { seen.file + 1 };
        let is_gap = header.file > next;
        is_gap.then_some(Item::Gap(Gap { missing: header.before.less(seen.before), at_start }))
    }

    /// At the end of a file: false when it is the current one.
    fn go_on_to_the_next_file(&mut self) -> io::Result<bool> {
        let file = self.file.as_ref().expect("the caller reads it").get_ref();
        let inode = file.metadata()?.ino();
        match fs::metadata(path_of(&self.dir, 0)) {
            Ok(current) if current.ino() != inode => {}
            // In the middle of a rotation there is none.
            _ => return Ok(false),
        }
        // The writer may have appended between the last read and its rotation.
        let at = io::Seek::stream_position(&mut &*file)?;
        if file.metadata()?.len() > at {
            return Ok(true);
        }
        let after = self.position.unwrap_or_default().file;
        for attempt in 0..SEARCHES_MAX {
            match next_file(&self.dir, after)? {
                // A rotation renames the files one after the other, so one may be missed: it is looked for again.
                Some((number, _)) if number > after + 1 && attempt + 1 < SEARCHES_MAX => {}
                Some((_, file)) => {
                    self.partial.clear();
                    self.file = Some(BufReader::new(file));
                    return Ok(true);
                }
                None => {}
            }
        }
        Ok(false)
    }
}

/// The oldest file with a number above this one, and its number.
fn next_file(dir: &Path, after: u64) -> io::Result<Option<(u64, File)>> {
    let mut next: Option<(u64, File)> = None;
    for place in 0..FILES_MAX {
        let Some(file) = open_existing(&path_of(dir, place))? else { continue };
        let number = number_of(&file)?;
        if number > after && next.as_ref().is_none_or(|(least, _)| number < *least) {
            next = Some((number, file));
        }
    }
    Ok(next)
}

/// The number in the header of a file, which is read from its start on afterwards.
fn number_of(mut file: &File) -> io::Result<u64> {
    let mut line = Vec::new();
    io::Read::take(BufReader::new(file), HEADER_BYTES_MAX).read_until(b'\n', &mut line)?;
    io::Seek::rewind(&mut file)?;
    Ok(serde_json::from_slice::<Header>(&line).unwrap_or_default().file)
}

fn open_oldest(dir: &Path) -> io::Result<Option<File>> {
    let mut oldest = open_existing(&path_of(dir, 0))?;
    for place in 1..FILES_MAX {
        if let Some(older) = open_existing(&path_of(dir, place))? {
            oldest = Some(older);
        }
    }
    Ok(oldest)
}
