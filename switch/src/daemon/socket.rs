//! One daemon per data directory, one listener per socket.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Group;
use tokio::net::{UnixListener, UnixStream};

#[derive(Debug, thiserror::Error)]
#[error("another vswitchd (pid {pid}) uses {}; stop it, or give this one its own --data-dir", dir.display())]
pub struct InUse {
    pub pid: String,
    pub dir: PathBuf,
}

/// Held until the daemon ends, however it ends.
pub fn lock_data_dir(dir: &Path) -> anyhow::Result<Flock<File>> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create the data directory {}", dir.display()))?;
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)
                .and_then(|()| writeln!(lock, "{}", std::process::id()))
                .context("cannot write the lock")?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            Err(InUse { pid: pid.trim().into(), dir: dir.into() }.into())
        }
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Listens on `path`, for its owner and `group` only. What a crashed daemon left there is replaced.
pub async fn listen(path: &Path, group: Option<&str>) -> anyhow::Result<UnixListener> {
    let gid = group.map(find_group).transpose()?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        bail!("another process serves {}; stop it, or give this daemon its own --socket", path.display());
    }
    if path.exists() {
        std::fs::remove_file(path).with_context(|| format!("cannot replace the stale {}", path.display()))?;
    }
    // Nobody else may connect in the moment between bind and chmod.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.with_context(|| format!("cannot listen on {}", path.display()))?;
    chown(path, None, gid).with_context(|| format!("cannot give {} to its group", path.display()))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    Ok(listener)
}

fn find_group(group: &str) -> anyhow::Result<u32> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    match Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => {
            bail!("there is no group {group:?}; create it with groupadd, or give another --socket-group")
        }
        Err(error) => Err(error).with_context(|| format!("cannot look up the group {group:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock_data_dir(dir.path()).unwrap();
        let message = lock_data_dir(dir.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("pid {}", std::process::id())), "{message}");
        drop(first);
        lock_data_dir(dir.path()).unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/api.sock");
        drop(listen(&path, None).await.unwrap());
        let live = listen(&path, Some("0")).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(listen(&path, None).await.unwrap_err().to_string().contains("another process serves"));
        drop(live);
        assert!(listen(&path, Some("no-such-group")).await.is_err());
    }
}
