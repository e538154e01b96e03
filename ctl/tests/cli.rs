//! The program itself against a daemon in this process that says what each test needs: exit codes, streams, the
//! terminal.

mod daemon;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use daemon::{Daemon, Reply};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use serde_json::{Value, json};
use vswitch_proto::api::stream::Frame;

const ID: &str = "f2870c98fd504370fb86e59f32cd0753b1ac9b69b7d80566ffc7192a82b3ed27";

fn vswitchctl(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vswitchctl"));
    command.arg("-H").arg(daemon.url()).args(arguments).stdin(Stdio::null()).env_remove("VSWITCH_HOST");
    command
}

/// Exit code, standard output, standard error.
fn outcome(daemon: &Daemon, arguments: &[&str]) -> (i32, String, String) {
    let output = vswitchctl(daemon, arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn not_found(what: &str) -> Reply {
    Reply::Json(404, json!({"kind": "not_found", "message": format!("no {what}")}))
}

fn network(name: &str) -> Value {
    json!({
        "Name": name, "Id": ID, "Created": "2015-05-12T11:51:30Z", "Scope": "local", "Driver": "bridge",
        "EnableIPv4": true, "EnableIPv6": false, "IPAM": {"Driver": "default", "Options": {}, "Config": []},
        "Internal": false, "Containers": {}, "Options": {}, "Labels": {"b": "2", "a": "1"}
    })
}

fn container(tty: bool, networks: Value) -> Value {
    json!({
        "Id": ID, "Name": "/c", "Created": "2015-05-12T11:51:30Z", "Path": "sh", "Args": [],
        "State": {"Status": "running", "Running": true, "Pid": 1, "ExitCode": 0, "Error": "",
                  "StartedAt": "", "FinishedAt": ""},
        "Kind": "lab", "HostnamePath": "", "HostsPath": "", "ResolvConfPath": "", "LogPath": "",
        "Config": {"Hostname": "", "Tty": tty, "OpenStdin": true, "Env": [], "Cmd": [], "WorkingDir": "",
                   "Labels": {}},
        "HostConfig": {"NetworkMode": "", "AutoRemove": false, "Rootfs": "", "Netns": ""},
        "NetworkSettings": {"Networks": networks}
    })
}

fn endpoint() -> Value {
    json!({
        "NetworkID": "", "EndpointID": "", "InterfaceName": "eth0", "MacAddress": "", "IPAddress": "172.17.0.2",
        "IPPrefixLen": 16, "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "IPv6Gateway": "",
        "Aliases": []
    })
}

#[test]
fn networks_are_listed_inspected_and_created() {
    let daemon = Daemon::start(|request| match request.line.as_str() {
        "GET /v1/networks" => Reply::Json(200, json!([network("web"), network("bridge")])),
        "GET /v1/networks/web" => Reply::Json(200, network("web")),
        "POST /v1/networks" => Reply::Json(201, json!({"id": ID})),
        _ => not_found("network 'x'; see vswitchctl network ls"),
    });
    let table = "NETWORK ID     NAME      DRIVER    SCOPE\n\
                 f2870c98fd50   bridge    bridge    local\nf2870c98fd50   web       bridge    local\n";
    assert_eq!(outcome(&daemon, &["network", "ls"]), (0, table.into(), String::new()));
    assert_eq!(
        outcome(&daemon, &["network", "ls", "-q", "--no-trunc", "-f", "name=we"]).1,
        format!("{ID}\n")
    );
    let line = "{\"CreatedAt\":\"2015-05-12 11:51:30 +0000 UTC\",\"Driver\":\"bridge\",\"ID\":\"f2870c98fd50\",\
                \"IPv4\":\"true\",\"IPv6\":\"false\",\"Internal\":\"false\",\"Labels\":\"a=1,b=2\",\
                \"Name\":\"web\",\"Scope\":\"local\"}\n";
    assert_eq!(outcome(&daemon, &["network", "ls", "-f", "type=custom", "--format", "json"]).1, line);

    let (code, out, err) = outcome(&daemon, &["network", "inspect", "web", "x"]);
    assert_eq!((code, err.as_str()), (3, "vswitchctl: no network 'x'; see vswitchctl network ls\n"));
    let shown: Value = serde_json::from_str(&out).unwrap();
    for (key, value) in network("web").as_object().unwrap() {
        assert_eq!(shown[0][key], *value, "{key}");
    }
    assert!(out.starts_with("[\n    {\n        \"Name\": \"web\",\n"), "{out}");

    let arguments =
        ["network", "create", "--subnet", "10.1.0.0/16", "--gateway", "10.1.0.9", "--label", "a=1", "n"];
    assert_eq!(outcome(&daemon, &arguments), (0, format!("{ID}\n"), String::new()));
    let created = daemon.requests().into_iter().find(|r| r.line == "POST /v1/networks").unwrap();
    let body: Value = serde_json::from_slice(&created.body).unwrap();
    assert_eq!(body["pools"], json!([{"subnet": "10.1.0.0/16", "gateway": "10.1.0.9"}]));
    assert_eq!(body["labels"], json!({"a": "1"}));
}

#[test]
fn inspect_shows_the_guides_networks() {
    let daemon = Daemon::start(|request| match request.line.as_str() {
        "GET /v1/containers/container2" => {
            Reply::Json(200, container(false, json!({"isolated_nw": endpoint(), "bridge": endpoint()})))
        }
        "GET /v1/networks/web" => Reply::Json(200, network("web")),
        _ => not_found("such thing"),
    });
    let template = "--format={{.NetworkSettings.Networks}}";
    assert_eq!(outcome(&daemon, &["inspect", template, "container2"]).1, "[bridge isolated_nw]\n");
    let (code, out, err) = outcome(&daemon, &["inspect", "-f", "{{.Name}}", "container2", "nope", "web"]);
    assert_eq!((code, out.as_str()), (3, "/c\nweb\n"));
    assert!(err.starts_with("vswitchctl: no such object: nope") && err.lines().count() == 1, "{err}");
    let before = daemon.requests().len();
    assert_eq!(outcome(&daemon, &["inspect", "-f", "{{.Name", "container2"]).0, 2);
    assert_eq!(daemon.requests().len(), before, "a bad template reached the daemon");
}

#[test]
fn removing_goes_on_after_an_error() {
    let daemon = Daemon::start(|request| match request.line.as_str() {
        "DELETE /v1/networks/busy?force=false" => {
            Reply::Json(409, json!({"kind": "conflict", "message": "in use by c"}))
        }
        "DELETE /v1/networks/a?force=false" | "DELETE /v1/networks/b?force=false" => Reply::Empty,
        "DELETE /v1/networks/lost?force=true" => Reply::Empty,
        _ => not_found("network"),
    });
    let (code, out, err) = outcome(&daemon, &["network", "rm", "a", "busy", "gone", "b"]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (4, "a\nb\n", "vswitchctl: in use by c\nvswitchctl: no network\n")
    );
    assert_eq!(outcome(&daemon, &["network", "rm", "-f", "gone"]), (0, String::new(), String::new()));
    assert_eq!(outcome(&daemon, &["network", "rm", "-f", "lost"]), (0, "lost\n".into(), String::new()));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let daemon = Daemon::start(|_| Reply::Json(200, json!([network("web")])));
    let mut command = vswitchctl(&daemon, &["network", "ls"]);
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(reader);
    let output = command.stdout(OwnedFd::from(writer)).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

/// A daemon whose container runs `process` on its stream once it was attached.
fn with_process(process: fn(daemon::Stream)) -> Daemon {
    let line = |rest: &str| format!("/v1/containers/{ID}{rest}");
    Daemon::start(move |request| {
        let (method, path) = request.line.split_once(' ').unwrap();
        match (method, path) {
            ("POST", "/v1/containers") => Reply::Json(201, json!({"id": ID})),
            ("GET", "/v1/containers/c") => Reply::Json(200, container(true, json!({}))),
            ("POST", path) if path == line("/wait") => Reply::Json(200, json!({"exit_code": 9})),
            ("POST", path) if path.contains("/attach") || path.ends_with("/exec") => Reply::Stream(process),
            ("POST", path) if path.starts_with(&line("/")) => Reply::Empty,
            _ => not_found("container"),
        }
    })
}

#[test]
fn run_exits_with_the_code_of_the_process() {
    let daemon = with_process(|mut stream| {
        stream.send(&[Frame::Stdout(b"out\n".to_vec()), Frame::Stderr(b"err\n".to_vec()), Frame::Exit(7)]);
    });
    let result = outcome(&daemon, &["run", "--rm", "--name", "c", "sh", "-c", "exit 7"]);
    assert_eq!(result, (7, "out\n".into(), "err\n".into()));
    let requests: Vec<String> = daemon.requests().into_iter().map(|r| r.line).collect();
    let expected = [
        "POST /v1/containers".to_string(),
        format!("POST /v1/containers/{ID}/attach?foreground=true"),
        format!("POST /v1/containers/{ID}/start"),
        format!("GET /v1/containers/{ID}"),
    ];
    assert_eq!(requests, expected);
    let body: Value = serde_json::from_slice(&daemon.requests()[0].body).unwrap();
    assert_eq!((&body["start"], &body["auto_remove"]), (&json!(false), &json!(true)));
    assert_eq!(body["command"], json!(["sh", "-c", "exit 7"]));
}

#[test]
fn a_process_that_did_not_start_and_a_stream_that_broke() {
    let daemon = with_process(|mut stream| stream.send(&[Frame::Error(b"no\x1b such\nfile".to_vec())]));
    let (code, _, err) = outcome(&daemon, &["exec", "c", "nope"]);
    assert_eq!((code, err.as_str()), (1, "vswitchctl: no  such file\n"));
    let daemon = with_process(drop);
    assert_eq!(outcome(&daemon, &["run", "sh"]).0, 9, "the exit code that wait tells");
    let (code, _, err) = outcome(&daemon, &["exec", "c", "sh"]);
    assert!(code == 1 && err.contains("before the command ended"), "{err}");
}

#[test]
fn input_is_forwarded_while_output_comes() {
    let daemon = with_process(|mut stream| {
        let mut total = 0;
        loop {
            match stream.receive() {
                Some(Frame::Stdin(data)) => {
                    total += data.len();
                    stream.send(&[Frame::Stdout(data)]);
                }
                Some(Frame::StdinClosed) => break,
                other => panic!("{other:?}"),
            }
        }
        stream.send(&[Frame::Exit(i32::from(total != 4 << 20))]);
    });
    let mut child = vswitchctl(&daemon, &["exec", "-i", "c", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let data: Vec<u8> = (0..4 << 20).map(|i: u32| (i % 251) as u8).collect();
    let sent = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == data, "the echo differs");
}

#[test]
fn signals_reach_the_container() {
    let daemon = with_process(|mut stream| {
        stream.send(&[Frame::Stdout(b"ready".to_vec())]);
        // Until the client is gone.
        assert!(stream.receive().is_none());
    });
    let mut child = vswitchctl(&daemon, &["run", "sh"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let wanted = format!("POST /v1/containers/{ID}/kill?signal=INT");
    daemon.wait_for(|request| request.line == wanted);
    child.kill().unwrap();
    child.wait().unwrap();
}

struct Terminal {
    master: std::fs::File,
    slave: OwnedFd,
}

fn terminal() -> Terminal {
    let size = nix::pty::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(Some(&size), None).unwrap();
    Terminal { master: pty.master.into(), slave: pty.slave }
}

fn is_canonical(terminal: &Terminal) -> bool {
    tcgetattr(&terminal.slave).unwrap().local_flags.contains(LocalFlags::ICANON)
}

/// Echoes what is typed after the size of the terminal has come.
fn interactive(mut stream: daemon::Stream) {
    assert_eq!(stream.receive(), Some(Frame::Resize { rows: 25, columns: 80 }));
    assert_eq!(stream.receive(), Some(Frame::Resize { rows: 24, columns: 80 }));
    stream.send(&[Frame::Stdout(b"ready".to_vec())]);
    while let Some(Frame::Stdin(data)) = stream.receive() {
        stream.send(&[Frame::Stdout(data)]);
    }
}

fn attached(daemon: &Daemon, terminal: &mut Terminal) -> std::process::Child {
    let end = || Stdio::from(terminal.slave.try_clone().unwrap());
    let child = vswitchctl(daemon, &["attach", "c"])
        .stdin(end())
        .stdout(end())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    expect(&mut terminal.master, b"ready");
    child
}

fn expect(master: &mut std::fs::File, wanted: &[u8]) {
    let mut seen = vec![0; wanted.len()];
    master.read_exact(&mut seen).unwrap();
    assert_eq!(seen, wanted);
}

#[test]
fn the_detach_keys_leave_and_restore_the_terminal() {
    let daemon = with_process(interactive);
    let mut terminal = terminal();
    assert!(is_canonical(&terminal));
    let child = attached(&daemon, &mut terminal);
    assert!(!is_canonical(&terminal));
    // The first ctrl-p is passed on once the next key shows that it began no sequence.
    terminal.master.write_all(b"ls\x10x").unwrap();
    expect(&mut terminal.master, b"ls\x10x");
    terminal.master.write_all(b"\x10\x11").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "vswitchctl: read escape sequence\n");
    assert!(is_canonical(&terminal));
}

#[test]
fn a_signal_and_the_end_of_the_process_restore_the_terminal() {
    let daemon = with_process(interactive);
    let mut ended = terminal();
    let child = attached(&daemon, &mut ended);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert!(is_canonical(&ended));

    let daemon = with_process(|mut stream| {
        stream.send(&[Frame::Stdout(b"ready".to_vec()), Frame::Exit(3)]);
        // The client is the first to close.
        while stream.receive().is_some() {}
    });
    let mut exited = terminal();
    let child = attached(&daemon, &mut exited);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(3));
    assert!(is_canonical(&exited));
}

#[test]
fn a_terminal_inside_needs_one_outside() {
    let daemon = with_process(drop);
    for arguments in [&["run", "-it", "sh"][..], &["exec", "-it", "c", "sh"], &["attach", "c"]] {
        let (code, _, err) = outcome(&daemon, arguments);
        assert_eq!((code, err.as_str()), (1, "vswitchctl: the input device is not a TTY\n"), "{arguments:?}");
    }
    let created = |requests: Vec<daemon::Seen>| requests.iter().any(|r| r.line == "POST /v1/containers");
    assert!(!created(daemon.requests()), "the container was created all the same");
    assert_eq!(outcome(&daemon, &["run", "-itd", "sh"]), (0, format!("{ID}\n"), String::new()));
}

#[test]
fn logs_are_split_and_end() {
    let daemon = Daemon::start(|request| {
        assert_eq!(request.line, "GET /v1/containers/c/logs?follow=true&timestamps=false&tail=2");
        let frames = [Frame::Stdout(b"a\n".to_vec()), Frame::Stderr(b"b\n".to_vec())];
        Reply::Bytes(frames.iter().flat_map(Frame::to_bytes).collect())
    });
    assert_eq!(outcome(&daemon, &["logs", "-f", "-n", "2", "c"]), (0, "a\n".into(), "b\n".into()));
}
