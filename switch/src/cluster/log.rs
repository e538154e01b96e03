//! The log on disk: a redb database with entries, one snapshot, and the version of the format.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | `format` | one byte, [`FORMAT`] |
//! | `snapshot` | index of the last entry in it | [`State::to_bytes`] |
//! | `log` | index, from 1 on, without gaps behind the snapshot | a version byte, then the envelope in postcard |
//!
//! Every transaction is committed in two phases: the new root becomes valid only after all it points to is on the
//! disk. It costs a second sync, which doubles the time of a proposal, and buys that a damaged page is told from a
//! torn write: with one phase a damaged last commit would be taken for an unfinished one and rolled back in silence.
//!
//! A new store is made under another name and renamed when it is whole, so a file of zero bytes under the store's
//! name is a damaged store, not a new one. Nothing that is found there is ever reset.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageBackend};
use redb::{TableDefinition, WriteTransaction};
use vswitch_proto::command::Envelope;

use crate::state::{SnapshotError, State};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const SNAPSHOT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshot");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

const FORMAT_KEY: &str = "format";
/// Of the tables above.
const FORMAT: u8 = 1;
/// First byte of an entry.
const ENTRY_VERSION: u8 = 1;
/// Memory for pages of the database, bytes.
const CACHE_BYTES: usize = 4 << 20;

/// Why a store cannot be used. It is left as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use the store {}: {source}: check the path and its permissions", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the store {} is in use by another vswitchd: stop that one or give another --data-dir", .0.display())]
    Locked(PathBuf),
    #[error("{} is not a store of vswitch: move it away or give another --data-dir", .0.display())]
    Foreign(PathBuf),
    #[error("the store {} is cut short: restore it from a backup, or move it away to begin anew", .0.display())]
    Truncated(PathBuf),
    #[error("the store {} is damaged: restore it from a backup, or move it away to begin anew", .0.display())]
    Corrupt(PathBuf),
    #[error(
        "the store {} has format {found}, newer than this version of vswitchd knows: use the one that wrote it",
        path.display()
    )]
    Newer { path: PathBuf, found: u8 },
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0}")]
    Store(Box<redb::Error>),
    #[error("the database gave up on damaged data")]
    Panicked,
}

impl<E: Into<redb::Error>> From<E> for WriteError {
    fn from(error: E) -> WriteError {
        WriteError::Store(Box::new(error.into()))
    }
}

/// What an open store holds.
pub(super) struct Recovered {
    pub(super) snapshot: State,
    /// 0 without a snapshot.
    pub(super) snapshot_index: u64,
    /// The entries behind the snapshot, in order, each with its encoded size in bytes.
    pub(super) entries: Vec<(Envelope, usize)>,
}

pub(super) struct Log {
    database: Database,
}

pub(super) fn encode(envelope: &Envelope) -> Vec<u8> {
    postcard::to_extend(envelope, vec![ENTRY_VERSION]).expect("plain data into memory can always be encoded")
}

impl Log {
    pub(super) fn open(path: &Path) -> Result<(Log, Recovered), OpenError> {
        let io = |source| OpenError::Io { path: path.into(), source };
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => {
                check_header(&file, path)?;
                let backend = FileBackend::new(file).map_err(|error| refused(error, path))?;
                Log::open_backend(backend, path)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create(path).map_err(io)?;
                let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
                let backend = FileBackend::new(file).map_err(|error| refused(error, path))?;
                Log::open_backend(backend, path)
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Opens what `backend` holds; `path` is for messages.
    pub(super) fn open_backend(
        backend: impl StorageBackend,
        path: &Path,
    ) -> Result<(Log, Recovered), OpenError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let open = || {
            let database = builder.create_with_backend(backend).map_err(|error| refused(error, path))?;
            let log = Log { database };
            let recovered = log.recover(path)?;
            Ok((log, recovered))
        };
        // What redb takes for impossible, it asserts; damage by others makes it possible.
        catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(OpenError::Corrupt(path.into())))
    }

    /// Durable when it returns.
    pub(super) fn append(&mut self, index: u64, entry: &[u8]) -> Result<(), WriteError> {
        self.write(|transaction| {
            transaction.open_table(LOG)?.insert(index, entry)?;
            Ok(())
        })
    }

    /// Replaces every entry up to `index` by a snapshot.
    pub(super) fn compact(&mut self, index: u64, snapshot: &[u8]) -> Result<(), WriteError> {
        self.write(|transaction| {
            let mut snapshots = transaction.open_table(SNAPSHOT)?;
            snapshots.retain(|_, _| false)?;
            snapshots.insert(index, snapshot)?;
            transaction.open_table(LOG)?.retain(|at, _| at > index)?;
            Ok(())
        })
    }

    fn write(
        &mut self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let run = || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_two_phase_commit(true);
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(WriteError::Panicked))
    }

    fn recover(&self, path: &Path) -> Result<Recovered, OpenError> {
        let refused = |error: redb::Error| refused_by(error, path);
        let corrupt = || OpenError::Corrupt(path.into());
        let transaction = self.database.begin_read().map_err(|e| refused(e.into()))?;
        let meta = match transaction.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::Storage(error)) => return Err(refused(error.into())),
            Err(_) => return Err(OpenError::Foreign(path.into())),
        };
        let format = meta.get(FORMAT_KEY).map_err(|e| refused(e.into()))?;
        match format.as_ref().map(redb::AccessGuard::value) {
            Some([FORMAT]) => {}
            Some(&[found]) if found > FORMAT => return Err(OpenError::Newer { path: path.into(), found }),
            _ => return Err(OpenError::Foreign(path.into())),
        }
        let snapshots = transaction.open_table(SNAPSHOT).map_err(|e| refused(e.into()))?;
        let mut recovered = Recovered { snapshot: State::new(), snapshot_index: 0, entries: Vec::new() };
        if let Some((index, bytes)) = snapshots.last().map_err(|e| refused(e.into()))? {
            recovered.snapshot_index = index.value();
            recovered.snapshot = State::from_bytes(bytes.value()).map_err(|error| match error {
                SnapshotError::Newer(found) => OpenError::Newer { path: path.into(), found },
                SnapshotError::Foreign | SnapshotError::Malformed | SnapshotError::Inconsistent(_) => {
                    corrupt()
                }
            })?;
        }
        let log = transaction.open_table(LOG).map_err(|e| refused(e.into()))?;
        for item in log.iter().map_err(|e| refused(e.into()))? {
            let (index, bytes) = item.map_err(|e| refused(e.into()))?;
            let expected = recovered.snapshot_index + recovered.entries.len() as u64 + 1;
            if index.value() != expected {
                return Err(corrupt());
            }
            let envelope = decode(bytes.value(), path)?;
            recovered.entries.push((envelope, bytes.value().len()));
        }
        Ok(recovered)
    }
}

fn decode(bytes: &[u8], path: &Path) -> Result<Envelope, OpenError> {
    match bytes.split_first() {
        Some((&ENTRY_VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((envelope, [])) => Ok(envelope),
            _ => Err(OpenError::Corrupt(path.into())),
        },
        Some((&found, _)) if found > ENTRY_VERSION => Err(OpenError::Newer { path: path.into(), found }),
        _ => Err(OpenError::Corrupt(path.into())),
    }
}

/// Makes an empty store. One that was not finished, because the daemon or the machine died, is made again.
fn create(path: &Path) -> std::io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let backend = FileBackend::new(file).map_err(std::io::Error::other)?;
    initialise(backend).map_err(std::io::Error::other)?;
    std::fs::rename(&unfinished, path)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// An empty store in empty storage.
pub(super) fn initialise(backend: impl StorageBackend) -> Result<(), redb::Error> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.open_table(META)?.insert(FORMAT_KEY, &[FORMAT][..])?;
    transaction.open_table(SNAPSHOT)?;
    transaction.open_table(LOG)?;
    transaction.commit()?;
    Ok(())
}

/// Tells a foreign and a shortened file from a damaged one, before redb sees it.
///
/// The layout of the header is redb's file format, version 3: magic number at 0, then little-endian 32-bit counts:
/// page size at 12, header pages and data pages of a region at 16 and 20, full regions at 24, data pages of the
/// last region at 28. A page of file header comes before the first region.
fn check_header(mut file: &File, path: &Path) -> Result<(), OpenError> {
    const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";
    let io = |source| OpenError::Io { path: path.into(), source };
    let length = file.metadata().map_err(io)?.len();
    let mut header = Vec::new();
    file.by_ref().take(32).read_to_end(&mut header).map_err(io)?;
    if !header.starts_with(&MAGIC[..header.len().min(MAGIC.len())]) {
        return Err(OpenError::Foreign(path.into()));
    }
    let Some(counts) = header.get(12..32) else { return Err(OpenError::Truncated(path.into())) };
    let mut counts = counts.chunks_exact(4).map(|c| u128::from(u32::from_le_bytes([c[0], c[1], c[2], c[3]])));
    let mut next = || counts.next().expect("five counts in twenty bytes");
    let (page, region_header, region_data, full, last) = (next(), next(), next(), next(), next());
    let pages = 1 + full * (region_header + region_data) + if last > 0 { region_header + last } else { 0 };
    if u128::from(length) < pages * page { Err(OpenError::Truncated(path.into())) } else { Ok(()) }
}

fn refused(error: DatabaseError, path: &Path) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::Locked(path.into()),
        error => refused_by(error.into(), path),
    }
}

fn refused_by(error: redb::Error, path: &Path) -> OpenError {
    match error {
        redb::Error::Io(source) if source.kind() != ErrorKind::InvalidData => {
            OpenError::Io { path: path.into(), source }
        }
        _ => OpenError::Corrupt(path.into()),
    }
}
