//! Replacing the content of a file: by renaming, or in place for one whose inode is bind-mounted elsewhere.
//!
//! # In place
//!
//! A bind mount shows an inode, so a file that was renamed into its place would not appear behind it. Linux 6.1
//! cannot exchange a mount in one step either (`MOVE_MOUNT_BENEATH` is 6.5). And a write to a file is not atomic
//! for readers: ext4 and tmpfs copy to a reader without any lock against a writer.
//!
//! A write lease makes it so: the kernel grants it only while nobody else has the file open, and makes everybody
//! who opens the file wait until it is given back. A reader that opens, reads and closes therefore sees all of
//! the old content or all of the new, of any length. (An opener with `O_NONBLOCK` gets `EWOULDBLOCK` instead of
//! waiting some microseconds.)
//!
//! When somebody keeps the file open for longer than [`LEASE_WAIT_MAX`], or the file system has no leases, the
//! content is written regardless: one write of the new content, padded with newlines to the old length, then a
//! cut to the right length. Nobody sees an empty or a short file then, but a read during that very write can
//! return the head of the new content with the tail of the old one, and a reader of several pages can
//! see some of each. [`Written`] says which way it went.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::sys::lease;

/// How long a writer waits for readers to close the file.
pub const LEASE_WAIT_MAX: Duration = Duration::from_millis(20);
const LEASE_RETRY: Duration = Duration::from_micros(100);

/// How the content of a file was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// No reader can have seen anything but all of the old or all of the new content.
    Atomically,
    /// Somebody kept the file open; a read in that very moment may have seen parts of both.
    UnderReaders,
}

/// Replaces the content of an existing file without giving it another inode. Waits for readers for `lease_wait_max`,
/// normally [`LEASE_WAIT_MAX`]. A file that somebody else has a lease on is not waited for: `WouldBlock`.
pub fn in_place(path: &Path, content: &[u8], lease_wait_max: Duration) -> io::Result<Written> {
    let file = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let leased = wait_for_lease(&file, lease_wait_max);
    let result = overwrite(&file, content);
    if leased {
        lease::release(&file)?;
    }
    result?;
    Ok(if leased { Written::Atomically } else { Written::UnderReaders })
}

fn wait_for_lease(file: &File, wait_max: Duration) -> bool {
    let deadline = Instant::now() + wait_max;
    loop {
        match lease::take_write(file) {
            Ok(()) => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                thread::sleep(LEASE_RETRY);
            }
            Err(_) => return false,
        }
    }
}

fn overwrite(file: &File, content: &[u8]) -> io::Result<()> {
    let old_length = file.metadata()?.len() as usize;
    let mut padded = content.to_vec();
    padded.resize(content.len().max(old_length), b'\n');
    file.write_all_at(&padded, 0)?;
    file.set_len(content.len() as u64)
}

/// Replaces or creates a file so that it is there whole or not at all, also after a crash.
pub fn by_rename(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(new)?;
    // Whatever this process's umask is.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn readers_see_all_of_the_old_or_all_of_the_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        // Several pages, each line naming its generation: a mixture of two is seen at once.
        let content = |generation: usize| format!("{generation}\n").repeat(3000 + 500 * (generation % 7));
        fs::write(&path, content(0)).unwrap();
        let done = AtomicBool::new(false);
        let reads = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !done.load(Ordering::Relaxed) {
                    let text = fs::read_to_string(&path).unwrap();
                    let generation: usize = text.lines().next().expect("never empty").parse().unwrap();
                    assert!(text == content(generation), "a mixture in generation {generation}");
                    reads += 1;
                    thread::yield_now();
                }
                reads
            });
            // However long a busy machine keeps the reader from closing its file.
            let patient = Duration::from_secs(60);
            let results: Vec<_> =
                (1..=500).map(|g| in_place(&path, content(g).as_bytes(), patient)).collect();
            done.store(true, Ordering::Relaxed);
            let reads = reader.join().unwrap();
            assert!(results.iter().all(|result| matches!(result, Ok(Written::Atomically))), "{results:?}");
            reads
        });
        assert!(reads > 0);
        assert_eq!(fs::read_to_string(&path).unwrap(), content(500));
    }

    #[test]
    fn whoever_has_a_lease_on_a_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        fs::write(&path, "old\n").unwrap();
        let holder = File::options().write(true).open(&path).unwrap();
        lease::take_write(&holder).unwrap();
        let refused = in_place(&path, b"new\n", LEASE_WAIT_MAX).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(holder);
        assert_eq!(in_place(&path, b"new\n", LEASE_WAIT_MAX).unwrap(), Written::Atomically);
    }

    #[test]
    fn a_file_that_somebody_keeps_open_is_replaced_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        fs::write(&path, "a long old content\n").unwrap();
        let kept = File::open(&path).unwrap();
        assert_eq!(in_place(&path, b"new\n", LEASE_WAIT_MAX).unwrap(), Written::UnderReaders);
        let mut seen = [0; 8];
        let length = kept.read_at(&mut seen, 0).unwrap();
        assert_eq!(&seen[..length], b"new\n");
        drop(kept);
        assert_eq!(in_place(&path, b"", LEASE_WAIT_MAX).unwrap(), Written::Atomically);
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
}
