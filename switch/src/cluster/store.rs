//! Where a group's log is, and how to open it, more than once.

use std::path::{Path, PathBuf};

use redb::StorageBackend;

use super::log::{Log, OpenError, Recovered, WriteError};

type Opener = Box<dyn Fn() -> Result<(Log, Recovered), OpenError> + Send>;

/// The store of one member of a group; see [`create`](super::create) for how it comes into being.
pub struct Store {
    /// For messages.
    path: PathBuf,
    open: Opener,
}

impl Store {
    pub fn at(path: &Path) -> Store {
        let path = path.to_owned();
        let open = {
            let path = path.clone();
            move || Log::open(&path)
        };
        Store { path, open: Box::new(open) }
    }

    /// In storage that [`initialise`](super::initialise) made, each opening through a new backend.
    pub fn on<B: StorageBackend>(backend: impl Fn() -> B + Send + 'static) -> Store {
        let path = PathBuf::from("storage");
        let open = {
            let path = path.clone();
            move || Log::open_backend(backend(), &path)
        };
        Store { path, open: Box::new(open) }
    }

    pub(super) fn open(&self) -> Result<(Log, Recovered), OpenError> {
        (self.open)()
    }

    pub(super) fn corrupt(&self) -> OpenError {
        OpenError::Corrupt(self.path.clone())
    }

    pub(super) fn newer(&self, found: u8) -> OpenError {
        OpenError::Newer { path: self.path.clone(), found }
    }

    pub(super) fn unwritable(&self, error: WriteError) -> OpenError {
        OpenError::Unwritable { path: self.path.clone(), source: std::io::Error::other(error) }
    }
}
