//! The stream of events: every change, in order, and what a client missed.

use vswitch_proto::api::Event;
use vswitch_tests::Lab;
use vswitch_tests::http::{Events, Request};

fn listen(lab: &Lab) -> Events {
    Request::new("GET", "/v1/events").events(&lab.socket()).expect("the stream opens")
}

fn listen_from(lab: &Lab, last: u64) -> Events {
    let request = Request::new("GET", "/v1/events").header("Last-Event-ID", &last.to_string());
    request.events(&lab.socket()).expect("the stream opens")
}

/// What happened, as `container start c`.
fn told(events: &[Event]) -> Vec<String> {
    events.iter().map(|e| format!("{} {} {}", e.kind, e.action, e.name)).collect()
}

fn is(event: &Event, kind: &str, action: &str, name: &str) -> bool {
    (event.kind.as_str(), event.action.as_str(), event.name.as_str()) == (kind, action, name)
}

/// One of everything that can happen.
fn story(lab: &Lab) {
    lab.ok(&["network", "create", "net"]);
    lab.ok(&[
        "run",
        "-d",
        "--name=c",
        "--net=net",
        "--",
        "sh",
        "-c",
        "trap 'exit 9' TERM; sleep 100000 & wait",
    ]);
    lab.ok(&["network", "connect", "bridge", "c"]);
    lab.ok(&["network", "disconnect", "bridge", "c"]);
    lab.ok(&["kill", "c"]);
    lab.wait_until_exited("c");
    lab.ok(&["rm", "c"]);
    lab.ok(&["network", "rm", "net"]);
}

#[test]
fn every_change_is_told_in_order() {
    let lab = Lab::new();
    let mut streams = [listen(&lab), listen(&lab)];
    story(&lab);
    let last = |event: &Event| is(event, "network", "destroy", "net");
    let [one, two] = &mut streams;
    let events = one.until(last);
    assert_eq!(two.until(last), events, "both streams tell the same");
    assert!(events.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1), "{events:#?}");
    let told = told(&events);
    let order = [
        "network create net",
        "container create c",
        "network connect net",
        "container start c",
        "network connect bridge",
        "network disconnect bridge",
        "container die c",
        "container destroy c",
        "network destroy net",
    ];
    let mut rest = told.iter();
    for expected in order {
        assert!(rest.any(|event| event == expected), "no `{expected}` at its place in {told:#?}");
    }
    let die = events.iter().find(|e| e.action == "die").unwrap();
    assert_eq!(die.attributes["exitCode"], "137");
    for event in events.iter().filter(|e| e.action == "connect" || e.action == "disconnect") {
        assert_eq!(event.attributes["container"], die.id, "{event:?}");
    }
    let created = events.iter().find(|e| is(e, "network", "create", "net")).unwrap();
    assert!(created.id.len() == 64 && created.at_ms > 1_600_000_000_000, "{created:?}");
}

#[test]
fn a_client_that_comes_back_gets_what_it_missed() {
    let mut lab = Lab::new();
    let mut stream = listen(&lab);
    story(&lab);
    let events = stream.until(|event| is(event, "network", "destroy", "net"));
    drop(stream);
    for (i, event) in events.iter().enumerate().take(events.len() - 1) {
        let mut again = listen_from(&lab, event.seq);
        assert_eq!(again.until(|e| is(e, "network", "destroy", "net")), events[i + 1..]);
    }
    // One that has missed nothing gets what comes next.
    let last = events.last().unwrap().seq;
    let mut stream = listen_from(&lab, last);
    lab.ok(&["network", "create", "more"]);
    assert_eq!(told(&stream.until(|_| true)), ["network create more"]);
    // After a restart the daemon either still has it all or says that it has not.
    drop(stream);
    lab.kill9();
    lab.start();
    let mut stream = listen_from(&lab, events[0].seq);
    lab.ok(&["network", "create", "another"]);
    let seen = stream.until(|e| is(e, "network", "create", "another"));
    let resync = seen.iter().any(|e| e.kind == "stream" && e.action == "resync");
    assert!(resync || told(&seen).contains(&"network create more".into()), "{seen:#?}");
}

#[test]
fn what_failed_is_no_event() {
    let lab = Lab::new();
    let mut stream = listen(&lab);
    lab.fails(&["network", "create", "bridge"], 4);
    lab.fails(&["network", "rm", "nope"], 3);
    lab.fails(&["run", "-d", "--net=nope"], 3);
    lab.ok(&["network", "create", "net"]);
    assert_eq!(told(&stream.until(|event| event.action == "create")), ["network create net"]);
}
