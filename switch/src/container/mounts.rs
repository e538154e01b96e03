//! The mount namespace of a container.
//!
//! Runs in init, alone in its new namespaces. What is taken from the host is taken first ([`Sources`]), then the
//! root is made read-only or replaced, then everything is put in place; so no step depends on what an earlier one
//! hid. A piece that the container can do without is reported to `warn` when it is missing; the rest is an error.

use std::ffi::CStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::volumes::{VolumeError, Volumes};
use super::{Launch, root_check};
use crate::io::mount::{self, Tree};

const DEVICES: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "net/tun"];
const OWN_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];
/// What in /proc/sys and beside it would change the host itself, as Docker has it.
const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

#[derive(Debug, thiserror::Error)]
pub(super) enum MountError {
    #[error("the root directory {} is not a directory: give the path of an unpacked file system", .0.display())]
    NotADirectory(PathBuf),
    #[error("the root directory {} would show the data of vswitchd: give one that neither contains its data directory nor lies in it", .0.display())]
    ShowsData(PathBuf),
    #[error("cannot {step}: {source}")]
    Step { step: &'static str, source: io::Error },
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

impl MountError {
    /// Whether it is the root directory itself that cannot be used.
    pub(super) fn is_root(&self) -> bool {
        matches!(self, MountError::NotADirectory(_) | MountError::ShowsData(_))
    }
}

trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, MountError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, MountError> {
        self.map_err(|source| MountError::Step { step, source: source.into() })
    }
}

/// What a container keeps of its host.
struct Sources {
    own_files: Vec<(&'static str, Tree)>,
    devices: Vec<(&'static str, Tree)>,
    proc: Fresh,
    sys: Fresh,
    hidden: Vec<PathBuf>,
}

/// A file system of the container's namespaces; the daemon's, with why, where the kernel refuses that.
enum Fresh {
    Own(Tree),
    Daemons(io::Error, io::Result<Tree>),
}

impl Fresh {
    fn take(kind: &CStr, path: &Path, read_only: bool) -> Fresh {
        Tree::new(kind, read_only).map_or_else(|error| Fresh::Daemons(error, Tree::of_all(path)), Fresh::Own)
    }
}

/// Builds the whole tree. The current directory is the container's.
pub(super) fn build(launch: &Launch, warn: &mut dyn FnMut(String)) -> Result<(), MountError> {
    mount::make_all_private().step("make the mounts private")?;
    let sources = take_sources(launch)?;
    let volumes = Volumes::take(&launch.spec.settings)?;
    match &launch.spec.rootfs {
        None => {
            mount::make_all_read_only().step("make the host's files read-only")?;
            hide(&sources.hidden, warn)?;
        }
        Some(root) => enter(Path::new(root), &sources.hidden)?,
    }
    populate(sources, launch, warn)?;
    volumes.put()?;
    if launch.spec.settings.read_only {
        close_root(launch.spec.rootfs.is_some())?;
    }
    Ok(())
}

/// Makes the root read-only, or, where that is so already, the two directories that are not. Volumes stay as they are.
fn close_root(has_rootfs: bool) -> Result<(), MountError> {
    let points = if has_rootfs { &["/"][..] } else { &["/tmp", "/run"] };
    let mut closed = points.iter().map(|point| mount::make_read_only(Path::new(point)));
    closed.try_for_each(|result| result).step("make the root read-only")
}

fn take_sources(launch: &Launch) -> Result<Sources, MountError> {
    let own_files = OWN_FILES.iter().map(|name| Ok((*name, Tree::of(&launch.files.join(name))?)));
    Ok(Sources {
        own_files: own_files.collect::<io::Result<_>>().step("take the container's own files")?,
        // One that the host lacks cannot be given.
        devices: DEVICES
            .iter()
            .filter_map(|name| Some((*name, Tree::of(&Path::new("/dev").join(name)).ok()?)))
            .collect(),
        proc: Fresh::take(c"proc", Path::new("/proc"), false),
        sys: Fresh::take(c"sysfs", Path::new("/sys"), true),
        hidden: launch.hidden.iter().filter(|path| path.is_dir()).cloned().collect(),
    })
}

fn enter(root: &Path, hidden: &[PathBuf]) -> Result<(), MountError> {
    if !root.is_dir() {
        return Err(MountError::NotADirectory(root.into()));
    }
    // Before anything is made in it.
    if root_check::overlaps(root, hidden).step("look where the root directory lies")? {
        return Err(MountError::ShowsData(root.into()));
    }
    mount::enter_root(root).step("enter the root directory")?;
    for name in ["proc", "sys", "dev", "etc", "tmp"] {
        match fs::create_dir(Path::new("/").join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).step("make the directories that the root directory lacks");
            }
            _ => {}
        }
    }
    Ok(())
}

fn hide(directories: &[PathBuf], warn: &mut dyn FnMut(String)) -> Result<(), MountError> {
    let private = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount::mount_new("tmpfs", Path::new("/tmp"), private, "mode=1777").step("mount /tmp")?;
    if let Err(error) = mount::mount_new("tmpfs", Path::new("/run"), private, "mode=755") {
        warn(format!("the host's /run stays visible: {error}"));
    }
    // One below /tmp or /run is hidden already.
    for directory in directories.iter().filter(|path| path.is_dir()) {
        let flags = private | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
        mount::mount_new("tmpfs", directory, flags, "mode=755,size=4k").step("hide the daemon's data")?;
    }
    Ok(())
}

fn populate(sources: Sources, launch: &Launch, warn: &mut dyn FnMut(String)) -> Result<(), MountError> {
    mount_proc(sources.proc, launch.host_network, warn)?;
    mount_sys(sources.sys, warn)?;
    mount_dev(sources.devices, launch.spec.settings.shm_bytes, warn)?;
    for (name, tree) in sources.own_files {
        let path = Path::new("/etc").join(name);
        if let Err(error) = make_file(&path).and_then(|()| tree.attach(&path)) {
            warn(format!("{} is not the container's own: {error}", path.display()));
        }
    }
    Ok(())
}

fn mount_proc(source: Fresh, host_network: bool, warn: &mut dyn FnMut(String)) -> Result<(), MountError> {
    let proc = Path::new("/proc");
    match source {
        Fresh::Own(tree) => tree.attach(proc).step("mount /proc")?,
        Fresh::Daemons(error, tree) => {
            warn(format!("/proc shows the daemon's processes, not the container's: {error}"));
            return tree.and_then(|tree| tree.attach_read_only(proc)).step("mount /proc");
        }
    }
    // The settings of its own network stay its own to change.
    let network = (!host_network).then(|| Tree::of(Path::new("/proc/sys/net")));
    for name in PROC_READ_ONLY {
        let path = proc.join(name);
        match Tree::of(&path).and_then(|tree| tree.attach_read_only(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn(format!("{} stays writable: {error}", path.display()));
            }
            _ => {}
        }
    }
    if let Some(Err(error)) = network.map(|tree| tree?.attach(Path::new("/proc/sys/net"))) {
        warn(format!("/proc/sys/net is read-only: {error}"));
    }
    Ok(())
}

/// Its own one shows the interfaces of the container's network namespace.
fn mount_sys(source: Fresh, warn: &mut dyn FnMut(String)) -> Result<(), MountError> {
    let sys = Path::new("/sys");
    match source {
        Fresh::Own(tree) => tree.attach(sys).step("mount /sys"),
        Fresh::Daemons(error, tree) => {
            warn(format!("/sys shows the daemon's network interfaces, not the container's: {error}"));
            tree.and_then(|tree| tree.attach_read_only(sys)).step("mount /sys")
        }
    }
}

fn mount_dev(
    devices: Vec<(&str, Tree)>,
    shm_bytes: Option<u64>,
    warn: &mut dyn FnMut(String),
) -> Result<(), MountError> {
    let dev = Path::new("/dev");
    mount::mount_new("tmpfs", dev, MsFlags::MS_NOSUID, "mode=755,size=64k").step("mount /dev")?;
    for directory in ["net", "pts", "shm"] {
        fs::create_dir(dev.join(directory)).step("make the directories of /dev")?;
    }
    for (name, tree) in devices {
        let path = dev.join(name);
        if let Err(error) = make_file(&path).and_then(|()| tree.attach(&path)) {
            warn(format!("no {}: {error}", path.display()));
        }
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = "newinstance,ptmxmode=0666,mode=0620";
    let pts = dev.join("pts");
    // Group 5 is tty. A user namespace may not know it.
    mount::mount_new("devpts", &pts, flags, &format!("{options},gid=5"))
        .or_else(|_| mount::mount_new("devpts", &pts, flags, options))
        .step("mount /dev/pts")?;
    let shm = dev.join("shm");
    let size = shm_bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    mount::mount_new("tmpfs", &shm, flags | MsFlags::MS_NODEV, &format!("mode=1777{size}"))
        .step("mount /dev/shm")?;
    for (link, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(link)).step("make the links of /dev")?;
    }
    Ok(())
}

/// Something at `path` to mount a file on. What a symbolic link points to is made, with its directories: the
/// host's /etc/resolv.conf may point into /run, which is empty by now.
pub(super) fn make_file(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Ok(target) = fs::read_link(path) {
        let target = path.with_file_name(target);
        fs::create_dir_all(target.parent().unwrap_or(Path::new("/")))?;
    }
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))
}
