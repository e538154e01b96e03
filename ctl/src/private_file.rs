//! Files for one pair of eyes: tokens and snapshots.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::{FAILED, Failure};

/// Writes a file of mode 0600: the whole of it, or what was there stays.
///
/// # Errors
/// When it cannot be written; also when there is something that is no file.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    put(path, bytes).map_err(|error| failed("write", path, &error))
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other("it exists and is no regular file"));
    }
    let Some(name) = path.file_name() else { return Err(io::Error::other("it names no file")) };
    let mut draft = name.to_owned();
    draft.push(format!(".{:016x}", rand::random::<u64>()));
    let draft = path.with_file_name(draft);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    })();
    if written.is_err() {
        // What is left of it has no value; the first error says what is wrong.
        let _ = std::fs::remove_file(&draft);
    }
    written
}

/// Reads a file that has at most so many bytes.
///
/// # Errors
/// When it cannot be read or is larger.
pub fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let file = File::open(path).map_err(|error| failed("read", path, &error))?;
    read_from(file, path, bytes_max)
}

/// The same from something that is open; `path` is what it is called.
///
/// # Errors
/// As [`read`].
pub fn read_from(from: impl Read, path: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut from = from.take(bytes_max as u64 + 1);
    from.read_to_end(&mut bytes).map_err(|error| failed("read", path, &error))?;
    if bytes.len() > bytes_max {
        let path = path.display();
        return Err(Failure::usage(format_args!(
            "{path} has more than {bytes_max} bytes; check which file it is"
        )));
    }
    Ok(bytes)
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        FAILED,
        format_args!("cannot {what} {}: {error}; check the path and its rights", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_private_and_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "old and longer").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/dev/null", &link).unwrap();
        for path in [dir.path(), &link, Path::new("/"), &dir.path().join("missing/file")] {
            let message = write(path, b"x").unwrap_err().to_string();
            assert!(message.starts_with("cannot write") && !message.contains('\n'), "{message}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_so_much_is_read() {
        let path = Path::new("-");
        assert_eq!(read_from(&b"abc"[..], path, 3).unwrap(), b"abc");
        assert!(read_from(&b"abcd"[..], path, 3).unwrap_err().to_string().contains("more than 3 bytes"));
        assert!(read(Path::new("/nonexistent"), 3).unwrap_err().to_string().starts_with("cannot read"));
    }
}
