//! From creation to the end, in good order and not.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vswitch::container::{Found, LaunchError, ShimError, reconnect};
use vswitch_proto::command::{LabSpec, Settings};

use crate::lab::{
    VSWITCHD, create, eventually, exec, finish, members, own_namespaces, pids, prepare, run, sh, started,
    until,
};

fn command(words: &[&str]) -> LabSpec {
    LabSpec { command: words.iter().map(|word| (*word).to_owned()).collect(), ..LabSpec::default() }
}

#[tokio::test]
async fn runs_to_its_exit_code_and_is_known_to_have_ended() {
    let (lab, shim) = create(sh("echo out; echo err >&2; exit 3")).await;
    assert_eq!(finish(&shim).await, (3, "out\n".into(), "err\n".into()));
    for _ in 0..2 {
        let exit = shim.wait().await;
        assert_eq!((exit.exit_code, exit.error.as_str()), (3, ""));
    }
    assert!(matches!(reconnect(lab.dir()).await, Found::Exited(exit) if exit.exit_code == 3));
    assert!(matches!(shim.signal(libc::SIGTERM).await, Err(ShimError::NotRunning)));
    until("the shim ends", || lab.shims().is_empty()).await;
    assert!(!lab.dir().join("shim.sock").exists());
    assert_eq!(fs::read_to_string(lab.dir().join("shim.err")).unwrap(), "");
}

#[tokio::test]
async fn a_command_that_cannot_be_run_says_why_in_one_line() {
    for (words, code, line) in [
        (
            &["no-such-program"][..],
            127,
            "no-such-program: no such program in the container; look at its PATH",
        ),
        (&["/no/such"], 127, "/no/such: no such program in the container; look at its PATH"),
        (&["/etc/hostname"], 126, "/etc/hostname: not executable: permission denied"),
    ] {
        let (_lab, shim) = create(command(words)).await;
        let error = shim.start().await.unwrap_err();
        assert!(matches!(&error, ShimError::NotStarted(exit) if exit.exit_code == code), "{error:?}");
        assert_eq!(error.to_string(), line);
        let exit = shim.wait().await;
        assert_eq!((exit.exit_code, exit.error.as_str()), (code, line));
        let attached = run(command(words)).await;
        assert_eq!(attached, (code, String::new(), format!("vswitch: {line}\n")));
    }
    let spec = LabSpec { workdir: Some("/no/dir".into()), ..sh("true") };
    let (code, _, error) = run(spec).await;
    assert_eq!(code, 126);
    assert!(error.contains("/no/dir") && error.lines().count() == 1, "{error}");
}

#[tokio::test]
async fn the_program_has_a_clean_start() {
    let script =
        "echo pid $$; pwd; umask; echo $GREETING $HOME $HOSTNAME; ls /proc/self/fd | wc -w; env | wc -l";
    let spec = LabSpec { env: vec!["GREETING=hi there".into()], ..sh(script) };
    let (code, out, err) = run(spec).await;
    // The fourth descriptor is that of the listing. dash sets PWD; PATH, HOSTNAME, HOME and GREETING are given.
    assert_eq!((out.as_str(), err.as_str()), ("pid 1\n/\n0022\nhi there /root box1\n4\n5\n", ""));
    assert_eq!(code, 0);
    // Without a shell, which blocks signals now and then.
    let (code, out, _) = run(command(&["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])).await;
    assert_eq!(out, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    assert_eq!(code, 0);
}

#[tokio::test]
async fn signals_reach_init() {
    let (_lab, shim) =
        started(sh("trap 'exit 7' USR1; trap 'echo up' EXIT; while :; do sleep 0.02; done")).await;
    // The trap is set some time after the start; until then pid 1 ignores the signal.
    let waiting = tokio::spawn({
        let shim = shim.clone();
        async move { shim.wait().await }
    });
    eventually("the trap is set", async || {
        let _ = shim.signal(libc::SIGUSR1).await;
        waiting.is_finished()
    })
    .await;
    assert_eq!(waiting.await.unwrap().exit_code, 7);

    let (_lab, shim) = started(sh("sleep 1000")).await;
    assert!(matches!(shim.signal(65).await, Err(ShimError::Refused { .. })));
    shim.signal(libc::SIGKILL).await.unwrap();
    assert_eq!(shim.wait().await.exit_code, 137);

    let (_lab, shim) = create(sh("sleep 1000")).await;
    shim.signal(libc::SIGTERM).await.unwrap();
    assert_eq!(shim.wait().await.exit_code, 137);

    // One that would not end it waits until the program runs. Its pid 1 passes signals on from then on.
    let spec = LabSpec { settings: Settings { init: true, ..Settings::default() }, ..sh("sleep 1000") };
    let (_lab, shim) = create(spec).await;
    shim.signal(libc::SIGUSR1).await.unwrap();
    shim.start().await.unwrap();
    assert_eq!(shim.wait().await.exit_code, 138);
}

#[tokio::test]
async fn starts_again_in_the_same_directory() {
    let (lab, shim) = create(sh("echo once more")).await;
    assert!(matches!(lab.create().await, Err(LaunchError::Running)));
    assert_eq!(finish(&shim).await.0, 0);
    until("the first shim ends", || lab.shims().is_empty()).await;
    lab.prepare_files();
    let shim = lab.create().await.unwrap();
    assert!(!shim.started());
    assert_eq!(finish(&shim).await.0, 0);
    let log = fs::read_to_string(lab.dir().join("log")).unwrap();
    assert_eq!(log.matches("once more").count(), 2);
}

#[tokio::test]
async fn outlives_its_creator() {
    let lab = prepare(sh("sleep 0.05; exit 5"));
    // The creator is killed before it can do anything with what it created.
    let status = Command::new("sh")
        .args(["-c", "\"$0\" shim \"$1\"; kill -9 $$", VSWITCHD])
        .arg(lab.dir())
        .stdout(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .unwrap();
    assert!(!status.status.success() && !status.stdout.is_empty());
    let Found::Running(shim) = reconnect(lab.dir()).await else { panic!("it did not survive") };
    assert!(!shim.started());
    assert!(shim.netns_path().exists());
    shim.start().await.unwrap();
    match reconnect(lab.dir()).await {
        Found::Running(again) => assert!(again.started() && again.init_pid() == shim.init_pid()),
        Found::Exited(exit) => assert_eq!(exit.exit_code, 5),
        found @ (Found::Gone | Found::Unknown(_)) => panic!("{found:?}"),
    }
    assert_eq!(shim.wait().await.exit_code, 5);
}

#[tokio::test]
async fn a_killed_shim_leaves_nothing() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let spec = LabSpec { tty: true, ..sh("sleep 1000 & setsid sleep 1000 & wait") };
    let (lab, shim) = started(spec).await;
    let namespaces = own_namespaces(shim.init_pid());
    assert_eq!(namespaces.len(), 5);
    until("its three processes run", || members(&namespaces).len() >= 3).await;
    kill(Pid::from_raw(lab.shim_pid().unwrap()), Signal::SIGKILL).unwrap();
    let exit = shim.wait().await;
    assert_eq!(exit.exit_code, 137);
    assert!(exit.error.contains("shim process died"), "{}", exit.error);
    until("its processes are gone, and with the last one its namespaces", || members(&namespaces).is_empty())
        .await;
    until("so are their zombies", || !pids().any(|pid| pid == shim.init_pid())).await;
    assert!(matches!(reconnect(lab.dir()).await, Found::Gone));
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
}

#[tokio::test]
async fn an_init_that_lost_its_death_signal_is_ended_all_the_same() {
    // Another group id clears the parent-death signal, as prctl(2) says.
    let spec = command(&["setpriv", "--regid", "65534", "--clear-groups", "sleep", "1000"]);
    let (lab, shim) = started(spec).await;
    let status = format!("/proc/{}/status", shim.init_pid());
    until("it has the other group", || {
        fs::read_to_string(&status).unwrap_or_default().contains("Gid:\t65534")
            && fs::read(format!("/proc/{}/comm", shim.init_pid())).unwrap_or_default() == b"sleep\n"
    })
    .await;
    kill(Pid::from_raw(lab.shim_pid().unwrap()), Signal::SIGKILL).unwrap();
    until("the shim is gone", || lab.shims().is_empty()).await;
    assert_eq!(shim.wait().await.exit_code, 137);
    until("init is gone", || !pids().any(|pid| pid == shim.init_pid())).await;
}

#[tokio::test]
async fn a_terminated_shim_ends_its_container_in_good_order() {
    let (lab, shim) = started(sh("sleep 1000")).await;
    kill(Pid::from_raw(lab.shim_pid().unwrap()), Signal::SIGTERM).unwrap();
    let exit = shim.wait().await;
    assert_eq!((exit.exit_code, exit.error.as_str()), (137, ""));
    assert!(matches!(reconnect(lab.dir()).await, Found::Exited(_)));
}

#[tokio::test]
async fn a_launch_that_nobody_waits_for_leaves_nothing() {
    let lab = prepare(sh("sleep 1000"));
    let mut launcher =
        Command::new(VSWITCHD).arg("shim").arg(lab.dir()).stdout(Stdio::piped()).spawn().unwrap();
    drop(launcher.stdout.take());
    launcher.wait().unwrap();
    until("the shim gives up", || lab.shims().is_empty()).await;
    assert!(!lab.dir().join("shim.sock").exists());
    assert!(matches!(reconnect(lab.dir()).await, Found::Gone));
}

#[tokio::test]
async fn a_launch_that_fails_says_why_and_leaves_nothing() {
    let lab = prepare(LabSpec { rootfs: Some("/etc/hosts".into()), ..sh("true") });
    let error = lab.create().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the root directory /etc/hosts is not a directory: give the path of an unpacked file system"
    );
    until("the shim ends", || lab.shims().is_empty()).await;
    assert!(!lab.dir().join("shim.sock").exists());

    fs::write(lab.dir().join("config.json"), "{}").unwrap();
    assert!(lab.create().await.unwrap_err().to_string().starts_with("cannot read config.json: "));
    fs::remove_dir_all(lab.dir()).unwrap();
    assert!(
        lab.create().await.unwrap_err().to_string().starts_with("cannot enter the container's directory: ")
    );
}

#[tokio::test]
async fn no_zombie_stays() {
    let (lab, shim) = started(sh("sleep 1000")).await;
    for _ in 0..5 {
        assert_eq!(exec(&shim, &["true"]).await.0, 0);
    }
    let shim_pid = lab.shim_pid().unwrap();
    let children = fs::read_to_string(format!("/proc/{shim_pid}/task/{shim_pid}/children")).unwrap();
    assert_eq!(children.trim(), shim.init_pid().to_string());
}
