//! Many clients, clients that do not read, and shims that do not answer: none of them is the container's end.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vswitch::container::{Exec, Found, LogOptions, ShimError, logs, reconnect};
use vswitch_proto::api::stream::Frame;
use vswitch_proto::command::LabSpec;

use crate::lab::{Terminal, VSWITCHD, create, eventually, exec, prepare, sh, started, until};

fn words(command: &[&str]) -> Exec {
    Exec { command: command.iter().map(|word| (*word).to_owned()).collect(), ..Exec::default() }
}

#[tokio::test]
async fn clients_beyond_the_bound_are_refused_and_the_container_lives() {
    let (lab, shim) = started(sh("sleep 1000")).await;
    let mut attached = Vec::new();
    let refusal = loop {
        match shim.attach(false).await {
            Ok(stream) => attached.push(stream),
            Err(refusal) => break refusal,
        }
        assert!(attached.len() < 1000, "no bound");
    };
    assert!(matches!(&refusal, ShimError::Refused { line } if line.contains("close one")), "{refusal:?}");
    assert!(attached.len() >= 200, "only {} clients had a place", attached.len());
    // A follower of the log takes the same places, and is told.
    let mut following = logs(lab.dir(), LogOptions { follow: true, ..LogOptions::default() });
    assert!(matches!(following.recv().await, Some(Frame::Error(line)) if line.ends_with(b"close one")));
    // What is no stream has places of its own.
    let waiting = tokio::spawn({
        let shim = shim.clone();
        async move { shim.wait().await }
    });
    assert_eq!(exec(&shim, &["echo", "well"]).await.1, "well\n");
    shim.resize(1, 1).await.unwrap();
    assert!(matches!(reconnect(lab.dir()).await, Found::Running(_)));
    assert!(!waiting.is_finished());
    drop(attached);
    eventually("there is room again", async || shim.attach(false).await.is_ok()).await;
    shim.signal(libc::SIGKILL).await.unwrap();
    assert_eq!(waiting.await.unwrap().exit_code, 137);
}

#[tokio::test]
async fn any_number_may_wait() {
    let (_lab, shim) = started(LabSpec { open_stdin: true, ..sh("read x; exit 3") }).await;
    let waiting: Vec<_> = (0..1000)
        .map(|_| {
            let shim = shim.clone();
            tokio::spawn(async move { shim.wait().await.exit_code })
        })
        .collect();
    Terminal::new(shim.attach(false).await.unwrap()).type_in("go\n").await;
    for one in waiting {
        assert_eq!(one.await.unwrap(), 3);
    }
}

#[tokio::test]
async fn a_stopped_shim_is_alive_and_is_ended_by_force_only() {
    let (lab, shim) = started(sh("sleep 1000")).await;
    let pid = Pid::from_raw(lab.shim_pid().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let waiting = tokio::spawn({
        let shim = shim.clone();
        async move { shim.wait().await }
    });
    // It is found without being asked.
    let Found::Running(again) = reconnect(lab.dir()).await else { panic!("it is stopped, not gone") };
    assert!(again.started() && again.init_pid() == shim.init_pid());
    let error = shim.signal(libc::SIGTERM).await.unwrap_err();
    assert!(matches!(error, ShimError::Unanswered(named) if named == pid.as_raw()), "{error:?}");
    assert!(!waiting.is_finished(), "no answer is not the end");
    shim.signal(libc::SIGKILL).await.unwrap();
    assert_eq!(waiting.await.unwrap().exit_code, 137);
    let init = shim.init_pid();
    until("the container is gone with it", || !crate::lab::pids().any(|pid| pid == init)).await;
}

#[tokio::test]
async fn a_socket_that_is_gone_is_not_the_end_of_a_container() {
    let (lab, shim) = started(sh("sleep 1000")).await;
    let (away, back) = (lab.dir().join("shim.sock"), lab.dir().join("shim.sock.away"));
    std::fs::rename(&away, &back).unwrap();
    let waiting = tokio::spawn({
        let shim = shim.clone();
        async move { shim.wait().await }
    });
    assert!(shim.resize(1, 1).await.is_err());
    assert!(matches!(reconnect(lab.dir()).await, Found::Running(_)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "it was taken for dead");
    std::fs::rename(&back, &away).unwrap();
    shim.signal(libc::SIGKILL).await.unwrap();
    assert_eq!(waiting.await.unwrap().exit_code, 137);
}

#[tokio::test]
async fn a_shim_works_with_few_descriptors() {
    let lab = prepare(sh("ulimit -n; sleep 1000"));
    let script = "ulimit -n 64; exec \"$0\" shim \"$1\"";
    let launched = Command::new("sh")
        .args(["-c", script, VSWITCHD])
        .arg(lab.dir())
        .stdout(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .unwrap();
    let report = String::from_utf8_lossy(&launched.stdout).into_owned();
    let Found::Running(shim) = reconnect(lab.dir()).await else { panic!("it does not run: {report}") };
    shim.start().await.unwrap();
    let mut clients = Vec::new();
    while let Ok(stream) = shim.attach(false).await {
        clients.push(stream);
    }
    assert!(!clients.is_empty());
    let mut execs = Vec::new();
    while let Ok((stream, _)) = shim.exec(&words(&["sleep", "1000"])).await {
        execs.push(stream);
    }
    assert!(!execs.is_empty());
    drop(execs.pop());
    drop(clients);
    shim.signal(libc::SIGKILL).await.unwrap();
    assert_eq!(shim.wait().await.exit_code, 137);
}

#[tokio::test]
async fn a_container_has_the_limit_on_descriptors_that_it_was_started_with() {
    for (limit, inherited) in [("200", ""), ("4000", "300")] {
        let lab = prepare(sh("ulimit -Sn"));
        let script = format!("ulimit -Sn {limit}; exec \"$0\" shim \"$1\" {inherited}");
        let status =
            Command::new("sh").args(["-c", &script, VSWITCHD]).arg(lab.dir()).stdout(Stdio::piped()).spawn();
        status.and_then(std::process::Child::wait_with_output).unwrap();
        let Found::Running(shim) = reconnect(lab.dir()).await else { panic!("it does not run") };
        let (_, out, _) = crate::lab::finish(&shim).await;
        assert_eq!(out.trim(), if inherited.is_empty() { limit } else { inherited });
    }
}

#[tokio::test]
async fn execs_that_were_left_do_not_take_the_places_of_others() {
    let (_lab, shim) = started(sh("sleep 1000")).await;
    for _ in 0..70 {
        let (stream, number) = shim.exec(&words(&["sleep", "1000"])).await.unwrap();
        assert!(number.is_some());
        drop(stream);
    }
    assert_eq!(exec(&shim, &["echo", "well"]).await.1, "well\n");
}

#[tokio::test]
async fn a_signal_reaches_the_group_of_an_exec_and_a_hang_up_ends_it() {
    let (_lab, shim) = create(sh("sleep 1000")).await;
    shim.start().await.unwrap();
    let script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done";
    let (stream, number) = shim.exec(&words(&["sh", "-c", script])).await.unwrap();
    let mut terminal = Terminal::new(stream);
    terminal.expect("ready\n").await;
    shim.signal_exec(number.unwrap(), libc::SIGINT).await.unwrap();
    assert_eq!((terminal.end().await, terminal.out().as_str()), (Frame::Exit(5), "ready\ncaught\n"));
    let refused = shim.signal_exec(number.unwrap(), libc::SIGINT).await.unwrap_err();
    assert!(matches!(refused, ShimError::Refused { line } if line.contains("has ended")));

    let (stream, number) = shim.exec(&words(&["sh", "-c", "echo ready; sleep 1000; true"])).await.unwrap();
    let mut terminal = Terminal::new(stream);
    terminal.expect("ready\n").await;
    shim.hang_up(number.unwrap()).await.unwrap();
    assert_eq!(terminal.end().await, Frame::Exit(129));
}

#[tokio::test]
async fn an_exec_that_its_client_detached_from_goes_on() {
    let (_lab, shim) = started(sh("sleep 1000")).await;
    let script = "echo ready; sleep 0.2; echo more; echo on > /tmp/went; exec sleep 1000";
    let spec = Exec { tty: true, stdin: true, ..words(&["sh", "-c", script]) };
    let (stream, number) = shim.exec(&spec).await.unwrap();
    let mut terminal = Terminal::new(stream);
    terminal.expect("ready\r\n").await;
    terminal.send(Frame::Detach).await;
    drop(terminal);
    shim.hang_up(number.unwrap()).await.unwrap();
    eventually("it goes on", async || exec(&shim, &["cat", "/tmp/went"]).await.1 == "on\n").await;
}

#[tokio::test]
async fn a_foreground_client_and_an_exec_hold_their_process_up_and_lose_nothing() {
    const BYTES: usize = 3_000_000;
    // Long enough for the dropping of a client that output does not wait for.
    let pause = Duration::from_millis(1500);
    let (_lab, shim) = create(sh(&format!("head -c {BYTES} /dev/zero; exit 3"))).await;
    let mut client = Terminal::new(shim.attach(true).await.unwrap());
    shim.start().await.unwrap();
    tokio::time::sleep(pause).await;
    assert_eq!(client.end().await, Frame::Exit(3));
    assert_eq!(client.stdout.len(), BYTES);

    let (_lab, shim) = started(sh("sleep 1000")).await;
    let script = format!("head -c {BYTES} /dev/zero; exit 4");
    let mut client = Terminal::new(shim.exec(&words(&["sh", "-c", &script])).await.unwrap().0);
    let mut same = Terminal::new(shim.exec(&words(&["sh", "-c", &script])).await.unwrap().0);
    tokio::time::sleep(pause).await;
    assert_eq!((client.end().await, client.stdout.len()), (Frame::Exit(4), BYTES));
    // With the container's end in between.
    shim.signal(libc::SIGKILL).await.unwrap();
    assert_eq!(shim.wait().await.exit_code, 137);
    assert!(matches!(same.end().await, Frame::Exit(4 | 137)));
}

#[tokio::test]
async fn the_rest_of_the_output_is_taken_after_the_container_has_ended() {
    // As much as fits the queues, so that the container ends while nothing is read.
    const BYTES: usize = 250_000;
    let (lab, shim) = create(sh(&format!("head -c {BYTES} /dev/zero"))).await;
    let mut client = Terminal::new(shim.attach(true).await.unwrap());
    shim.start().await.unwrap();
    assert_eq!(shim.wait().await.exit_code, 0);
    // Longer than a client that output does not wait for is given.
    tokio::time::sleep(Duration::from_millis(5500)).await;
    assert_eq!(client.end().await, Frame::Exit(0));
    assert_eq!(client.stdout.len(), BYTES);
    until("the shim ends", || lab.shims().is_empty()).await;
}

#[tokio::test]
async fn a_second_foreground_client_is_a_further_one() {
    const BYTES: usize = 20_000_000;
    let (_lab, shim) = create(sh(&format!("yes {} | head -c {BYTES}", "x".repeat(99)))).await;
    let mut first = Terminal::new(shim.attach(true).await.unwrap());
    let mut lazy = Terminal::new(shim.attach(true).await.unwrap());
    shim.start().await.unwrap();
    assert_eq!(first.end().await, Frame::Exit(0));
    assert_eq!(first.stdout.len(), BYTES);
    assert!(matches!(lazy.end().await, Frame::Error(line) if line.starts_with(b"this client did not read")));
}

#[tokio::test]
async fn a_half_closed_connection_is_the_end_of_input() {
    let (_lab, shim) = started(sh("sleep 1000")).await;
    let spec = Exec { stdin: true, ..words(&["sh", "-c", "cat; echo end"]) };
    let (mut stream, _) = shim.exec(&spec).await.unwrap();
    use tokio::io::AsyncWriteExt;
    stream.write_all(&Frame::Stdin(b"all\n".to_vec()).to_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut terminal = Terminal::new(stream);
    assert_eq!((terminal.end().await, terminal.out().as_str()), (Frame::Exit(0), "all\nend\n"));
}

#[tokio::test]
async fn a_root_directory_that_shows_the_data_is_refused_and_left_as_it_is() {
    let lab = prepare(sh("true"));
    let data = lab.launch.hidden[0].clone();
    let (link, empty) = (lab.temp.path().join("link"), data.join("empty"));
    std::os::unix::fs::symlink(&data, &link).unwrap();
    std::fs::create_dir(&empty).unwrap();
    for root in [data.as_path(), lab.temp.path(), &link, &empty, std::path::Path::new("/")] {
        let spec = LabSpec { rootfs: Some(root.to_str().unwrap().into()), ..sh("true") };
        let launch = vswitch::container::Launch { spec, ..lab.launch.clone() };
        vswitch::container::files::prepare(&launch, "", "").unwrap();
        let before = names(root);
        let error = vswitch::container::create_with(VSWITCHD.as_ref(), &launch).await.unwrap_err();
        let line = error.to_string();
        assert!(line.contains("would show the data of vswitchd"), "{}: {line}", root.display());
        assert_eq!(names(root), before);
        until("the shim ends", || lab.shims().is_empty()).await;
    }
}

fn names(directory: &std::path::Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}
