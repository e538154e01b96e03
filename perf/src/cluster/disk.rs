//! What the disk alone takes, to compare commits with.

use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

const WRITES: usize = 200;
const BLOCK: [u8; 4096] = [0x5a; 4096];

/// Milliseconds of writing a block over an old one and syncing it, one for each time.
pub fn syncs(dir: &Path) -> anyhow::Result<Vec<f64>> {
    let cannot = || format!("cannot write in {}", dir.display());
    let mut file = tempfile::tempfile_in(dir).with_context(cannot)?;
    file.write_all(&BLOCK)?;
    file.sync_all()?;
    let mut took = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let begun = Instant::now();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}

/// Writes a whole file and syncs it.
pub fn save(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).open(path).with_context(cannot)?;
    file.write_all(bytes).with_context(cannot)?;
    file.sync_all().with_context(cannot)
}
