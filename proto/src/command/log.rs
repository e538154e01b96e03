//! Bounds of what is kept of a container's output.

use core::num::{NonZeroU32, NonZeroU64};

use serde::{Deserialize, Serialize};

/// `--log-opt` of a container: files of so many bytes, so many of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogLimits {
    /// Size at which a file is full; 0 for no bound, [`LogLimits::BYTES`] when absent.
    pub max_bytes: Option<u64>,
    /// How many files there are; [`LogLimits::FILES`] when absent.
    pub max_files: Option<u32>,
}

impl LogLimits {
    /// Docker's default for its driver `local`.
    pub const BYTES: u64 = 20_000_000;
    /// Docker's default for its driver `local`.
    pub const FILES: u32 = 5;
    /// Largest number of files.
    pub const FILES_MAX: u32 = 100;

    /// `None` without a bound.
    pub fn bytes_max(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.max_bytes.unwrap_or(LogLimits::BYTES))
    }

    pub fn files_max(&self) -> NonZeroU32 {
        let files = self.max_files.unwrap_or(LogLimits::FILES).min(LogLimits::FILES_MAX);
        NonZeroU32::new(files).unwrap_or(NonZeroU32::MIN)
    }
}
