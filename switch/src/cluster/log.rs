//! The log on disk: a redb database with entries, one snapshot, and what must not be forgotten beside them.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | `format` | one byte, [`FORMAT`] |
//! | `meta` | `node` | the number of this node in the group; it never changes |
//! | `meta` | `hard` | [`Hard`]: term, vote, commit index |
//! | `meta` | `base` | index and term of the entry before the first one in `log` |
//! | `snapshot` | index of the last entry in it | a version byte, then [`Snapshot`] |
//! | `log` | index, without gaps from `base` on | a version byte, then [`Entry`] |
//!
//! Values are in postcard. What one turn of the protocol asks for is one transaction.
//!
//! Every transaction is committed in two phases: the new root becomes valid only after all it points to is on the
//! disk. It costs a second sync, which doubles the time of a proposal, and buys that a damaged page is told from a
//! torn write: with one phase a damaged last commit would be taken for an unfinished one and rolled back in silence.
//!
//! A new store is made under another name and renamed when it is whole, so a file of zero bytes under the store's
//! name is a damaged store, not a new one. Nothing that is found there is ever reset.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable as _, StorageBackend,
};
use redb::{TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::{Entry, Members, Snapshot};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const SNAPSHOT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshot");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

const FORMAT_KEY: &str = "format";
const NODE_KEY: &str = "node";
const HARD_KEY: &str = "hard";
const BASE_KEY: &str = "base";
/// Of the tables above and of what is in them. Since format 4 the namespaces of adopted containers have an identity.
const FORMAT: u8 = 4;
/// First byte of an entry and of a snapshot.
const VALUE_VERSION: u8 = 1;
/// Memory for pages of the database, bytes.
const CACHE_BYTES: usize = 4 << 20;

/// Why a store cannot be used. It is left as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use the store {}: {source}: check the path and its permissions", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("cannot write the store {}: {source}: free some space or check the disk", path.display())]
    Unwritable { path: PathBuf, source: std::io::Error },
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
    #[error(
        "the store {} has format {found} of an earlier vswitchd, which this version does not read: use that one, or move \
         the store away to begin anew",
        path.display()
    )]
    Older { path: PathBuf, found: u8 },
    #[error("there is a store at {} already: move it away first", .0.display())]
    Exists(PathBuf),
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

/// What a new store begins as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Birth {
    /// The first member of a group, alone, with this machine. The log begins with a snapshot at index 1, so that
    /// whoever joins later gets the membership from a snapshot: it cannot be in the log before the first change.
    Founder { machine: Vec<u8> },
    /// Nothing, until a leader sends a snapshot.
    Joiner,
}

/// Raft's persistent state beside the log (thesis, figure 3.1), and the commit index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hard {
    pub(super) term: u64,
    /// 0: for nobody.
    pub(super) vote: u64,
    pub(super) commit: u64,
}

/// What an open store holds.
pub(super) struct Recovered {
    pub(super) node: NodeId,
    pub(super) hard: Hard,
    /// A joiner has none at first.
    pub(super) snapshot: Option<Snapshot>,
    /// Index and term of the entry before the first of `entries`; not behind the snapshot.
    pub(super) base: (u64, u64),
    pub(super) entries: Vec<Entry>,
    /// Encoded size of the entries behind the snapshot.
    pub(super) bytes: u64,
}

/// What one turn of the protocol makes durable.
#[derive(Default)]
pub(super) struct Batch<'a> {
    pub(super) hard: Option<Hard>,
    /// From the leader, in place of everything here.
    pub(super) snapshot: Option<&'a Snapshot>,
    /// Entries with the same or a higher index go.
    pub(super) entries: &'a [Entry],
}

pub(super) struct Log {
    database: Database,
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, vec![VALUE_VERSION]).expect("plain data into memory can always be encoded")
}

impl Log {
    pub(super) fn open(path: &Path) -> Result<(Log, Recovered), OpenError> {
        let io = |source| OpenError::Io { path: path.into(), source };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        check_header(&file, path)?;
        // Holds the lock from here on.
        let locked = file.try_clone().map_err(io)?;
        let backend = FileBackend::new(locked).map_err(|error| refused(error, path))?;
        rehearse(&file, path)?;
        Log::open_backend(backend, path)
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

    /// Durable when it returns, with the encoded size of the entries.
    pub(super) fn persist(&mut self, batch: &Batch<'_>) -> Result<u64, WriteError> {
        let mut bytes = 0;
        self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            let mut log = transaction.open_table(LOG)?;
            if let Some(hard) = &batch.hard {
                meta.insert(HARD_KEY, &encode(hard)[..])?;
            }
            if let Some(snapshot) = batch.snapshot {
                put_snapshot(transaction, snapshot)?;
                meta.insert(BASE_KEY, &encode(&(snapshot.index, snapshot.term))[..])?;
                log.retain(|_, _| false)?;
            }
            if let Some(first) = batch.entries.first() {
                log.retain_in(first.index.., |_, _| false)?;
            }
            for entry in batch.entries {
                let value = encode(entry);
                bytes += value.len() as u64;
                log.insert(entry.index, &value[..])?;
            }
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Puts a snapshot in place of the last one, and drops the entries up to `base`, an index and its term.
    pub(super) fn compact(
        &mut self,
        hard: Hard,
        snapshot: &Snapshot,
        base: (u64, u64),
    ) -> Result<(), WriteError> {
        self.write(|transaction| {
            put_snapshot(transaction, snapshot)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert(HARD_KEY, &encode(&hard)[..])?;
            meta.insert(BASE_KEY, &encode(&base)[..])?;
            transaction.open_table(LOG)?.retain_in(..=base.0, |_, _| false)?;
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
        check_format(&transaction, path)?;
        let meta = transaction.open_table(META).map_err(|e| refused(e.into()))?;
        let value = |key| -> Result<Vec<u8>, OpenError> {
            let value = meta.get(key).map_err(|e| refused(e.into()))?;
            Ok(value.ok_or_else(corrupt)?.value().to_vec())
        };
        let mut recovered = Recovered {
            node: decode(&value(NODE_KEY)?, path)?,
            hard: decode(&value(HARD_KEY)?, path)?,
            snapshot: None,
            base: decode(&value(BASE_KEY)?, path)?,
            entries: Vec::new(),
            bytes: 0,
        };
        let snapshots = transaction.open_table(SNAPSHOT).map_err(|e| refused(e.into()))?;
        if let Some((index, bytes)) = snapshots.last().map_err(|e| refused(e.into()))? {
            let snapshot: Snapshot = decode(bytes.value(), path)?;
            if snapshot.index != index.value() {
                return Err(corrupt());
            }
            recovered.snapshot = Some(snapshot);
        }
        let log = transaction.open_table(LOG).map_err(|e| refused(e.into()))?;
        let snapshot_index = recovered.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        for item in log.iter().map_err(|e| refused(e.into()))? {
            let (index, bytes) = item.map_err(|e| refused(e.into()))?;
            let entry: Entry = decode(bytes.value(), path)?;
            if entry.index != index.value() {
                return Err(corrupt());
            }
            if entry.index > snapshot_index {
                recovered.bytes += bytes.value().len() as u64;
            }
            recovered.entries.push(entry);
        }
        if recovered.is_consistent() { Ok(recovered) } else { Err(corrupt()) }
    }
}

impl Recovered {
    fn is_consistent(&self) -> bool {
        let (base_index, base_term) = self.base;
        let mut term = base_term;
        let follows = self.entries.iter().zip(base_index + 1..).all(|(entry, index)| {
            let in_order = entry.index == index && entry.term >= term && entry.term <= self.hard.term;
            term = entry.term;
            in_order
        });
        let last = base_index + self.entries.len() as u64;
        let (index, members_are_sound) = match &self.snapshot {
            Some(snapshot) => (snapshot.index, snapshot.members.is_sound()),
            None => (0, true),
        };
        let snapshot_fits =
            (base_index..=last).contains(&index) && (index..=last).contains(&self.hard.commit);
        follows && members_are_sound && snapshot_fits && self.node.0 != 0
    }
}

fn check_format(transaction: &ReadTransaction, path: &Path) -> Result<(), OpenError> {
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::Storage(error)) => return Err(refused_by(error.into(), path)),
        Err(_) => return Err(OpenError::Foreign(path.into())),
    };
    let format = meta.get(FORMAT_KEY).map_err(|e| refused_by(e.into(), path))?;
    match format.as_ref().map(redb::AccessGuard::value) {
        Some([FORMAT]) => Ok(()),
        Some(&[found]) if found > FORMAT => Err(OpenError::Newer { path: path.into(), found }),
        Some(&[found]) if found > 0 => Err(OpenError::Older { path: path.into(), found }),
        _ => Err(OpenError::Foreign(path.into())),
    }
}

fn put_snapshot(transaction: &WriteTransaction, snapshot: &Snapshot) -> Result<(), WriteError> {
    let mut snapshots = transaction.open_table(SNAPSHOT)?;
    snapshots.retain(|_, _| false)?;
    snapshots.insert(snapshot.index, &encode(snapshot)[..])?;
    Ok(())
}

fn decode<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T, OpenError> {
    match bytes.split_first() {
        Some((&VALUE_VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            _ => Err(OpenError::Corrupt(path.into())),
        },
        Some((&found, _)) if found > VALUE_VERSION => Err(OpenError::Newer { path: path.into(), found }),
        _ => Err(OpenError::Corrupt(path.into())),
    }
}

/// Opens a copy in memory first: redb writes to a file as soon as it opens it, and one that is refused is left as it
/// was, byte for byte. Whoever can read it gets it whole.
fn rehearse(mut file: &File, path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.into(), source };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).map_err(io)?;
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64).and_then(|()| copy.write(0, &bytes)).map_err(io)?;
    drop(bytes);
    Log::open_backend(copy, path).map(|_| ())
}

/// Makes a store where nothing is. One that was not finished, because the daemon or the machine died, is made again.
pub fn create(path: &Path, node: NodeId, birth: Birth) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.into(), source };
    if path.try_exists().map_err(io)? {
        return Err(OpenError::Exists(path.into()));
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&unfinished).map_err(io)?;
    let backend = FileBackend::new(file).map_err(|error| io(std::io::Error::other(error)))?;
    initialise(backend, node, birth).map_err(|error| io(std::io::Error::other(error)))?;
    std::fs::rename(&unfinished, path).map_err(io)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(io)
}

/// A new store in empty storage.
pub fn initialise(backend: impl StorageBackend, node: NodeId, birth: Birth) -> Result<(), redb::Error> {
    let (hard, base, snapshot): (Hard, (u64, u64), Option<Snapshot>) = match birth {
        Birth::Joiner => (Hard::default(), (0, 0), None),
        Birth::Founder { machine } => {
            let members = Members { voters: vec![node], ..Members::default() };
            let snapshot = Snapshot { index: 1, term: 1, members, machine };
            (Hard { term: 1, vote: 0, commit: 1 }, (1, 1), Some(snapshot))
        }
    };
    let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(FORMAT_KEY, &[FORMAT][..])?;
        meta.insert(NODE_KEY, &encode(&node)[..])?;
        meta.insert(HARD_KEY, &encode(&hard)[..])?;
        meta.insert(BASE_KEY, &encode(&base)[..])?;
        let mut snapshots = transaction.open_table(SNAPSHOT)?;
        if let Some(snapshot) = snapshot {
            snapshots.insert(snapshot.index, &encode(&snapshot)[..])?;
        }
        transaction.open_table(LOG)?;
    }
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
        redb::Error::Io(source) if source.kind() == ErrorKind::StorageFull => {
            OpenError::Unwritable { path: path.into(), source }
        }
        redb::Error::Io(source) if source.kind() != ErrorKind::InvalidData => {
            OpenError::Io { path: path.into(), source }
        }
        _ => OpenError::Corrupt(path.into()),
    }
}
