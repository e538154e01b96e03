//! The lab runner where it is not alone on a machine: in a namespace of its own kind, and without real root.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use vswitch::container::{Found, Shim, reconnect};

use crate::lab::{Lab, Terminal, VSWITCHD, busybox_root, exec, finish, prepare, sh, until};
use vswitch_proto::api::stream::Frame;
use vswitch_proto::command::LabSpec;

/// A process in namespaces of its own that launches one shim and stays, as their first process must.
struct Outer(Child);

impl Drop for Outer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn launch_inside(lab: &Lab, unshare: &[&str]) -> (Outer, Shim) {
    launch_after(lab, unshare, "").await
}

/// Runs `first` in the namespaces before the launch.
async fn launch_after(lab: &Lab, unshare: &[&str], first: &str) -> (Outer, Shim) {
    let script = lab.temp.path().join("outer.sh");
    let launch = "\"$1\" shim \"$2\" > \"$2/report\"; exec sleep 1000";
    fs::write(&script, format!("#!/bin/sh -e\n{first}\n{launch}\n")).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let outer = Command::new("unshare")
        .args(unshare)
        .args(["--fork", "--kill-child"])
        .arg(&script)
        .arg(VSWITCHD)
        .arg(lab.dir())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let outer = Outer(outer);
    let report = lab.dir().join("report");
    until("the shim reports", || fs::read_to_string(&report).is_ok_and(|report| report.ends_with('}'))).await;
    match reconnect(lab.dir()).await {
        Found::Running(shim) => (outer, shim),
        other => panic!("{other:?}: {}", fs::read_to_string(&report).unwrap()),
    }
}

const SCRIPT: &str = "echo $$; hostname; ls /sys/class/net; touch /etc/vswitch-was-here; \
                      echo x > /dev/null && echo null; touch /tmp/x && cat /etc/hosts";

async fn works_inside(unshare: &[&str]) {
    let lab = prepare(sh(SCRIPT));
    let (_outer, shim) = launch_inside(&lab, unshare).await;
    let (code, out, err) = finish(&shim).await;
    assert_eq!((code, out.as_str()), (0, "1\nbox1\nlo\nnull\n127.0.0.1\tlocalhost\n"), "{err}");
    assert!(err.contains("Read-only file system") && err.lines().count() == 1, "{err}");

    let spec = LabSpec { tty: true, open_stdin: true, command: vec!["sh".into()], ..LabSpec::default() };
    let lab = prepare(spec);
    let (_outer, shim) = launch_inside(&lab, unshare).await;
    let mut terminal = Terminal::new(shim.attach(false).await.unwrap());
    shim.start().await.unwrap();
    terminal.type_in("tty\n").await;
    terminal.expect("/dev/pts/0\r\n").await;
    assert_eq!(exec(&shim, &["hostname"]).await.1, "box1\n");
    terminal.type_in("exit 6\n").await;
    assert_eq!(terminal.end().await, Frame::Exit(6));

    let root = busybox_root(lab.temp.path());
    let script = "ls /sys/class/net; echo x > /x && cat /x; ls -d /proc/1; echo x > /dev/null";
    let lab = prepare(LabSpec { rootfs: Some(root.to_str().unwrap().into()), ..sh(script) });
    let (_outer, shim) = launch_inside(&lab, unshare).await;
    assert_eq!(finish(&shim).await, (0, "lo\nx\n/proc/1\n".into(), String::new()));
}

#[tokio::test]
async fn inside_a_container() {
    works_inside(&["--mount", "--pid", "--uts", "--ipc", "--net", "--mount-proc"]).await;
}

#[tokio::test]
async fn inside_a_user_namespace() {
    works_inside(&["--user", "--map-root-user", "--mount", "--pid", "--mount-proc"]).await;
}

#[tokio::test]
async fn where_the_kernel_refuses_a_new_sysfs() {
    // The network namespace belongs to the outer user namespace.
    let lab = prepare(sh("ls -d /sys/class /proc/1; echo well"));
    let mut launch = lab.launch.clone();
    launch.host_network = true;
    vswitch::container::files::prepare(&launch, "", "").unwrap();
    let unshare = ["--user", "--map-root-user", "--mount", "--pid", "--mount-proc"];
    let (_outer, shim) = launch_inside(&lab, &unshare).await;
    let (code, out, err) = finish(&shim).await;
    assert_eq!((code, out.as_str()), (0, "/proc/1\n/sys/class\nwell\n"), "{err}");
    let log = fs::read_to_string(lab.dir().join("log")).unwrap();
    assert_eq!(log.matches("vswitch: ").count(), 1, "{log}");
    assert!(log.contains("/sys shows the daemon's network interfaces"), "{log}");
}

#[tokio::test]
async fn on_a_host_with_an_odd_etc() {
    let lab = prepare(sh("cat /etc/hosts /etc/resolv.conf; ls /etc"));
    let etc = "mount -t tmpfs none /mnt; touch /mnt/hosts; mount --bind /mnt /etc; \
               ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf";
    let (_outer, shim) = launch_after(&lab, &["--mount", "--pid", "--mount-proc"], etc).await;
    let (code, out, err) = finish(&shim).await;
    assert_eq!((code, out.as_str()), (0, "127.0.0.1\tlocalhost\n# none\nhosts\nresolv.conf\n"), "{err}");
    let log = fs::read_to_string(lab.dir().join("log")).unwrap();
    assert_eq!(log.matches("vswitch: ").count(), 1, "{log}");
    assert!(log.contains("/etc/hostname is not the container's own: Read-only file system"), "{log}");
}
