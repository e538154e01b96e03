//! attach, exec and logs.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use vswitch::container::{Exec, LogOptions, ShimError, logs};
use vswitch_proto::api::stream::Frame;
use vswitch_proto::command::LabSpec;

use crate::lab::{Terminal, create, eventually, exec, finish, members, own_namespaces, sh, started, until};

fn exec_of(script: &str) -> Exec {
    Exec { command: vec!["sh".into(), "-c".into(), script.into()], ..Exec::default() }
}

async fn text(frames: &mut Receiver<Frame>) -> String {
    let mut all = String::new();
    while let Some(frame) = frames.recv().await {
        match frame {
            Frame::Stdout(data) | Frame::Stderr(data) => all.push_str(&String::from_utf8(data).unwrap()),
            other => panic!("{other:?}"),
        }
    }
    all
}

#[tokio::test]
async fn a_terminal_echoes_and_has_a_size() {
    let spec = LabSpec { tty: true, open_stdin: true, command: vec!["sh".into()], ..LabSpec::default() };
    let (_lab, shim) = create(spec).await;
    let mut terminal = Terminal::new(shim.attach(false).await.unwrap());
    terminal.send(Frame::Resize { rows: 33, columns: 101 }).await;
    shim.start().await.unwrap();
    terminal.expect("# ").await;
    terminal.type_in("echo sum-$((20+3)); tty; stty size; echo $TERM\n").await;
    terminal.expect("sum-23\r\n/dev/pts/0\r\n33 101\r\nxterm\r\n").await;
    assert!(terminal.out().contains("echo sum-$((20+3))"), "no echo: {:?}", terminal.out());
    shim.resize(24, 80).await.unwrap();
    terminal.type_in("stty size\n").await;
    terminal.expect("24 80\r\n").await;
    // An interrupt reaches the foreground process only.
    terminal.type_in("sh -c 'echo rea''dy; exec sleep 1000'\n").await;
    terminal.expect("ready\r\n").await;
    terminal.type_in("\x03").await;
    terminal.expect("^C").await;
    terminal.type_in("echo code-$?\n").await;
    terminal.expect("code-130\r\n").await;
    terminal.type_in("exit 4\n").await;
    assert_eq!(terminal.end().await, Frame::Exit(4));
    assert_eq!(terminal.err(), "");
}

#[tokio::test]
async fn standard_input_ends_when_its_only_client_says_so() {
    let spec = LabSpec { open_stdin: true, command: vec!["cat".into()], ..LabSpec::default() };
    let (_lab, shim) = create(spec.clone()).await;
    let mut terminal = Terminal::new(shim.attach(false).await.unwrap());
    shim.start().await.unwrap();
    let line = "x".repeat(1000) + "\n";
    for _ in 0..1000 {
        terminal.type_in(&line).await;
    }
    terminal.send(Frame::StdinClosed).await;
    assert_eq!(terminal.end().await, Frame::Exit(0));
    assert_eq!(terminal.out(), line.repeat(1000));

    let (_lab, shim) = started(spec).await;
    let mut one = Terminal::new(shim.attach(false).await.unwrap());
    let mut other = Terminal::new(shim.attach(false).await.unwrap());
    one.send(Frame::StdinClosed).await;
    one.type_in("still open\n").await;
    other.expect("still open\n").await;
    drop(one);
    // The detached one is gone when the shim has seen it.
    eventually("the remaining one can end the input", async || {
        other.send(Frame::StdinClosed).await;
        tokio::time::timeout(Duration::from_millis(50), shim.wait()).await.is_ok()
    })
    .await;
    assert_eq!(other.end().await, Frame::Exit(0));
}

#[tokio::test]
async fn without_open_stdin_there_is_none() {
    let (_lab, shim) = create(sh("cat; echo done")).await;
    assert_eq!(finish(&shim).await, (0, "done\n".into(), String::new()));
}

#[tokio::test]
async fn one_that_attaches_late_sees_what_is_printed_from_then_on() {
    let spec = LabSpec { open_stdin: true, ..sh("echo first; read x; echo second $x") };
    let (_lab, shim) = create(spec).await;
    let mut early = Terminal::new(shim.attach(false).await.unwrap());
    shim.start().await.unwrap();
    early.expect("first\n").await;
    let mut late = Terminal::new(shim.attach(false).await.unwrap());
    early.type_in("a\n").await;
    assert_eq!((early.end().await, late.end().await), (Frame::Exit(0), Frame::Exit(0)));
    assert_eq!((early.out().as_str(), late.out().as_str()), ("first\nsecond a\n", "second a\n"));
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_nobody() {
    const BYTES: usize = 20_000_000;
    let (_lab, shim) = create(sh(&format!("yes {} | head -c {BYTES}", "x".repeat(99)))).await;
    let mut lazy = Terminal::new(shim.attach(false).await.unwrap());
    let mut eager = Terminal::new(shim.attach(false).await.unwrap());
    shim.start().await.unwrap();
    assert_eq!(eager.end().await, Frame::Exit(0));
    assert_eq!(eager.stdout.len(), BYTES);
    assert!(matches!(lazy.end().await, Frame::Error(line) if line.starts_with(b"this client did not read")));
    assert!(lazy.stdout.len() < BYTES / 2 && !lazy.stdout.is_empty());
}

#[tokio::test]
async fn exec_joins_the_container() {
    let (_lab, shim) = started(sh("exec sleep 1000")).await;
    until("sleep runs", || {
        std::fs::read(format!("/proc/{}/comm", shim.init_pid())).is_ok_and(|name| name == b"sleep\n")
    })
    .await;
    let script =
        "hostname; cat /proc/1/comm; ls /sys/class/net; test $$ -gt 1 && echo child; echo e >&2; exit 9";
    let joined = exec(&shim, &["sh", "-c", script]).await;
    assert_eq!(joined, (9, "box1\nsleep\nlo\nchild\n".into(), "e\n".into()));
    assert_eq!(exec(&shim, &["sh", "-c", "kill -9 $$"]).await.0, 137);
    let missing = exec(&shim, &["no-such"]).await;
    assert_eq!(missing.0, 127);
    assert_eq!(missing.2, "vswitch: no-such: no such program in the container; look at its PATH\n");
    assert_eq!(exec(&shim, &[]).await.0, 127);

    let cat = Exec { command: vec!["cat".into()], stdin: true, ..Exec::default() };
    let mut terminal = Terminal::new(shim.exec(&cat).await.unwrap().0);
    terminal.type_in("through\n").await;
    terminal.send(Frame::StdinClosed).await;
    assert_eq!((terminal.end().await, terminal.out().as_str()), (Frame::Exit(0), "through\n"));
}

#[tokio::test]
async fn exec_before_the_start_is_refused() {
    let (_lab, shim) = create(sh("true")).await;
    let error = shim.exec(&exec_of("true")).await.unwrap_err();
    assert!(matches!(&error, ShimError::Refused { line } if line.contains("not been started")), "{error:?}");
}

#[tokio::test]
async fn exec_with_a_terminal_hangs_up_with_its_client() {
    let (_lab, shim) = started(sh("exec sleep 1000")).await;
    let namespaces = own_namespaces(shim.init_pid());
    let before = members(&namespaces).len();
    let spec =
        Exec { tty: true, stdin: true, ..exec_of("tty; stty size; read x; echo got $x; exec sleep 1000") };
    let mut terminal = Terminal::new(shim.exec(&spec).await.unwrap().0);
    terminal.send(Frame::Resize { rows: 10, columns: 20 }).await;
    terminal.expect("/dev/pts/").await;
    terminal.type_in("it\n").await;
    terminal.expect("got it\r\n").await;
    drop(terminal);
    until("it is gone", || members(&namespaces).len() <= before).await;
}

#[tokio::test]
async fn exec_without_a_terminal_goes_on_without_its_client_and_dies_with_the_container() {
    let (_lab, shim) = started(sh("sleep 1000")).await;
    let namespaces = own_namespaces(shim.init_pid());
    let script = "echo up; read x; yes | head -c 1000000; echo on > /tmp/went; exec sleep 1000";
    let spec = Exec { stdin: true, ..exec_of(script) };
    let mut terminal = Terminal::new(shim.exec(&spec).await.unwrap().0);
    terminal.expect("up\n").await;
    drop(terminal);
    eventually("it goes on", async || exec(&shim, &["cat", "/tmp/went"]).await.1 == "on\n").await;
    shim.signal(libc::SIGKILL).await.unwrap();
    assert_eq!(shim.wait().await.exit_code, 137);
    assert!(members(&namespaces).is_empty());
}

#[tokio::test]
async fn logs_have_all_of_it_the_tail_of_it_and_what_follows() {
    let spec = LabSpec {
        open_stdin: true,
        ..sh("echo one; echo two; printf three; read x; echo; echo $x; echo five >&2")
    };
    let (lab, shim) = started(spec).await;
    let options = LogOptions { follow: true, tail: Some(2), ..LogOptions::default() };
    let all = || async { text(&mut logs(lab.dir(), LogOptions::default())).await };
    eventually("it has printed", async || all().await.contains("three")).await;
    let mut following = logs(lab.dir(), options);
    let mut seen = String::new();
    while !seen.contains("three") {
        match following.recv().await {
            Some(Frame::Stdout(data) | Frame::Stderr(data)) => {
                seen.push_str(&String::from_utf8(data).unwrap());
            }
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    Terminal::new(shim.attach(false).await.unwrap()).type_in("four\n").await;
    seen.push_str(&text(&mut following).await);
    // Standard output and error are different pipes, read in no certain order.
    let (five, rest) = (seen.matches("five\n").count(), seen.replace("five\n", ""));
    assert_eq!((five, rest.as_str()), (1, "two\nthree\nfour\n"));
    let whole = all().await;
    assert_eq!(whole, format!("one\n{seen}"));

    let options = LogOptions { timestamps: true, tail: Some(1), ..LogOptions::default() };
    let last = text(&mut logs(lab.dir(), options)).await;
    let (time, rest) = last.split_once(' ').unwrap();
    assert!(rest == "four\n" || rest == "five\n", "{rest}");
    assert!(time.len() == 30 && time.ends_with('Z') && time.starts_with("20"), "{time}");
    // Of an ended container, following ends at once.
    let options = LogOptions { follow: true, ..LogOptions::default() };
    assert_eq!(text(&mut logs(lab.dir(), options)).await, whole);
    let mut none = logs(Path::new("/no/such/container"), LogOptions::default());
    assert_eq!(text(&mut none).await, "");
}

#[tokio::test]
async fn a_follower_of_a_busy_log_misses_nothing() {
    let (lab, shim) = create(sh("seq 1 30000")).await;
    let mut following = logs(lab.dir(), LogOptions { follow: true, ..LogOptions::default() });
    shim.start().await.unwrap();
    let want: String = (1..=30000).map(|n| format!("{n}\n")).collect();
    assert!(text(&mut following).await == want);
}

#[tokio::test]
async fn nonsense_on_the_socket_harms_nobody() {
    let (lab, shim) = started(sh("sleep 1000")).await;
    let directory = std::fs::File::open(lab.dir()).unwrap();
    let path = format!("/proc/self/fd/{}/shim.sock", std::os::fd::AsRawFd::as_raw_fd(&directory));
    let request = |json: &str| Frame::Request(json.into()).to_bytes();
    for nonsense in [
        vec![0xff; 100],
        vec![7, 0xff, 0xff, 0xff, 0xff],
        request("{"),
        request("{\"signal\":-1}"),
        request("\"exec\""),
        Frame::Stdin(b"x".to_vec()).to_bytes(),
        [request("\"attach\""), request("\"attach\"")].concat(),
    ] {
        let mut stream = StdUnixStream::connect(&path).unwrap();
        std::io::Write::write_all(&mut stream, &nonsense).unwrap();
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut answer).unwrap();
        assert!(matches!(answer.first(), Some(6 | 8)), "{nonsense:?}: {answer:?}");
    }
    // Cut off in the middle, and never anything.
    let mut half = StdUnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut half, &request("\"status\"")[..7]).unwrap();
    drop(half);
    let _silent = StdUnixStream::connect(&path).unwrap();
    assert_eq!(exec(&shim, &["echo", "well"]).await.1, "well\n");
}
