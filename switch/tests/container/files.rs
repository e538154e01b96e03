//! What a container sees of its host.

use std::fs;
use std::path::Path;

use vswitch::container::files;
use vswitch_proto::command::LabSpec;

use crate::lab::{HOSTS, busybox_root, create, exec, finish, prepare, run, sh, started};

#[tokio::test]
async fn the_files_of_the_host_are_read_only() {
    let lab = prepare(sh(
        "for d in /etc /usr /var/tmp /root; do touch $d/vswitch-was-here && echo wrote $d; done; \
                          touch /tmp/mine && ls -A /tmp /run; ls -A $DATA; stat -f -c %T /tmp /run",
    ));
    let mut launch = lab.launch.clone();
    launch.spec.env = vec![format!("DATA={}", launch.hidden[0].display())];
    files::prepare(&launch, HOSTS, "").unwrap();
    let shim = lab.create().await.unwrap();
    let (code, out, err) = finish(&shim).await;
    assert_eq!((code, out.as_str()), (0, "/run:\n\n/tmp:\nmine\ntmpfs\ntmpfs\n"), "{err}");
    assert_eq!(err.matches("Read-only file system").count(), 4, "{err}");
    assert!(!Path::new("/tmp/mine").exists());
}

#[tokio::test]
async fn etc_proc_sys_and_dev_are_its_own() {
    let script = "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; ls /sys/class/net; \
                  ls -d /proc/[0-9]*; ip link show lo | grep -o LOOPBACK,UP; \
                  echo x > /dev/null; head -c 3 /dev/zero | wc -c; ls /dev; echo $(ls /dev/net /dev/pts); \
                  ls -A /dev/shm; touch /dev/shm/x; echo 1 > /proc/sys/net/ipv4/ip_forward; \
                  cat /proc/sys/net/ipv4/ip_forward; echo x > /proc/sys/kernel/hostname; \
                  echo x > /sys/class/net/lo/mtu; hostname";
    let (_, out, err) = run(sh(script)).await;
    let expected = "box1\nbox1\n127.0.0.1\tlocalhost\n# none\nlo\n/proc/1\nLOOPBACK,UP\n3\n\
                    fd\nfull\nnet\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
                    /dev/net: tun /dev/pts: ptmx\n1\nbox1\n";
    assert_eq!(out, expected, "{err}");
    assert_eq!(err.matches("Read-only file system").count(), 2, "{err}");
}

#[tokio::test]
async fn a_new_hosts_file_is_seen_at_once_and_whole() {
    let (lab, shim) = started(sh("sleep 1000")).await;
    for content in ["127.0.0.1 localhost\n172.17.0.3\tcontainer2\n", "", "10.0.0.1 a\n"] {
        files::write_hosts(lab.dir(), content, files::HOSTS_PATIENCE).unwrap();
        assert_eq!(exec(&shim, &["cat", "/etc/hosts"]).await, (0, content.into(), String::new()));
    }
}

#[tokio::test]
async fn a_root_directory_is_writable_and_all_there_is() {
    let place = tempfile::Builder::new().prefix("vswitch-root-").tempdir_in("/var/tmp").unwrap();
    let root = busybox_root(place.path());
    // What points out of the root, leads nowhere outside of it.
    fs::create_dir(root.join("etc")).unwrap();
    std::os::unix::fs::symlink("../../../run/names/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    let script = "echo data > /written; ls / | grep -v ^lib; cat /etc/hostname /etc/resolv.conf; ls -d /proc/[0-9]*; \
                  ls /sys/class/net; ls /var/tmp; cat /proc/mounts | grep -c /var";
    let spec = LabSpec { rootfs: Some(root.to_str().unwrap().into()), ..sh(script) };
    let (lab, shim) = create(spec).await;
    let (_, out, err) = finish(&shim).await;
    let want = "bin\ndev\netc\nproc\nrun\nsys\ntmp\nwritten\nbox1\n# none\n/proc/1\n";
    let rest = out.strip_prefix(want).unwrap_or_else(|| panic!("{out}\n{err}"));
    assert_eq!(rest, "lo\n0\n");
    assert_eq!(err.lines().count(), 1, "/var/tmp only: {err}");
    assert_eq!(fs::read_to_string(root.join("written")).unwrap(), "data\n");
    let log = fs::read_to_string(lab.dir().join("log")).unwrap();
    assert!(!log.contains("vswitch: "), "warnings: {log}");
}

#[tokio::test]
async fn the_network_of_the_host_is_the_hosts() {
    let place = tempfile::Builder::new().prefix("vswitch-root-").tempdir_in("/var/tmp").unwrap();
    let root = busybox_root(place.path());
    let here = || {
        let names = fs::read_dir("/sys/class/net").unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for rootfs in [None, Some(root.to_str().unwrap().to_owned())] {
        let lab = prepare(LabSpec { rootfs, ..sh("readlink /proc/self/ns/net; echo $(ls /sys/class/net)") });
        let mut launch = lab.launch.clone();
        launch.host_network = true;
        files::prepare(&launch, HOSTS, "").unwrap();
        let shim = lab.create().await.unwrap();
        let (code, out, err) = finish(&shim).await;
        let namespace = fs::read_link("/proc/self/ns/net").unwrap();
        // Other tests may add and remove interfaces of the host meanwhile; these stay.
        let (first, names) = out.split_once('\n').unwrap();
        assert_eq!((code, first), (0, namespace.to_str().unwrap()), "{err}");
        assert!(
            here().iter().filter(|name| *name == "lo").all(|name| names.contains(name.as_str())),
            "{names}"
        );
        let log = fs::read_to_string(lab.dir().join("log")).unwrap();
        assert!(!log.contains("vswitch: "), "warnings: {log}");
    }
}
