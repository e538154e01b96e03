//! `vswitchctl cluster` and `vswitchctl node`: what they do, print, refuse and exit with.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::ensure;
use vswitch_proto::api::{ClusterHealth, ClusterStatus, Error, Membership, Node, NodeState, SnapshotSummary};
use vswitch_proto::command::Role;
use vswitch_tests::cluster::{address, daemon};
use vswitch_tests::ctl::only_line;
use vswitch_tests::http::Request;
use vswitch_tests::lab::DATA_DIR;
use vswitch_tests::wait::eventually;
use vswitch_tests::{Cluster, Host, Lab};

/// Where tests keep a token on a machine.
const TOKEN: &str = "/tmp/token";

/// Writes the token of a role to [`TOKEN`] of `to`.
fn carry_token(from: &Lab, to: &Host, role: &str) {
    let token = from.ok(&["cluster", "token", "show", "-q", "--role", role]);
    std::fs::write(to.path(TOKEN), token).unwrap();
}

fn join(address: &str) -> [&str; 5] {
    ["cluster", "join", "--token-file", TOKEN, address]
}

fn nodes(lab: &Lab) -> Vec<Node> {
    lab.http("GET", "/v1/nodes", "").parsed()
}

fn wait_for_node(lab: &Lab, name: &str, is_so: impl Fn(&Node) -> bool) {
    eventually(&format!("{name} is as it should be"), || {
        let nodes = nodes(lab);
        ensure!(nodes.iter().any(|node| node.name.as_str() == name && is_so(node)), "{nodes:?}");
        Ok(())
    });
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Heading and value of a report for people.
fn value<'a>(report: &'a str, heading: &str) -> &'a str {
    let line = report.lines().find(|line| line.starts_with(heading));
    line.map(|line| line[heading.len()..].trim()).unwrap_or_else(|| panic!("no {heading} in {report}"))
}

/// Every line of a table has as many cells as its head, and they begin where its headings do.
fn assert_aligned(table: &str) {
    let head = table.lines().next().unwrap();
    let starts: Vec<usize> = head
        .char_indices()
        .filter(|(at, c)| *c != ' ' && (*at == 0 || head[..*at].ends_with("  ")))
        .map(|(at, _)| at)
        .collect();
    for line in table.lines().skip(1) {
        for at in starts.iter().filter(|at| **at > 0 && **at < line.len()) {
            let ends = line[..*at].ends_with("  ") && !line[*at..].starts_with(' ');
            let is_empty = line[*at..].starts_with("  ");
            assert!(ends || is_empty, "column {at} of {line:?} in\n{table}");
        }
    }
}

#[test]
fn a_cluster_is_founded_and_joined_as_the_output_says() {
    let cluster = Cluster::with(3, &["--log-level=trace"]);
    let [one, two, three] = &cluster.labs[..] else { panic!("there are three") };
    assert_eq!(one.ok(&["cluster", "status"]), "State:    in no cluster\n");
    let alone = one.fails(&["node", "ls"], 2);
    assert!(alone.contains("cluster init") && alone.contains("cluster join"), "{alone}");

    let founded = one.ok(&["cluster", "init"]);
    assert!(founded.starts_with("Cluster initialized: this is node 1, a voter.\n\n"), "{founded}");
    let command = founded.lines().find_map(|line| line.strip_prefix("    vswitchctl ")).unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[..3], ["cluster", "join", "--token"]);
    let voter = words[3];
    let joined = two.ok(&words);
    assert_eq!(joined, "This node has joined the cluster as node 2; it votes once it has caught up.\n");

    // The file is private, and so is the way.
    one.ok(&["cluster", "token", "show", "--role", "learner", "-o", TOKEN]);
    assert_eq!(mode(&one.path(TOKEN)), 0o600);
    let learner = std::fs::read_to_string(one.path(TOKEN)).unwrap();
    std::fs::copy(one.path(TOKEN), three.path(TOKEN)).unwrap();
    // One address of several is enough, also that of a node that does not lead.
    let joined = three.ok(&join("10.8.0.99:1,10.8.0.2"));
    assert_eq!(joined, "This node has joined the cluster as node 3, a learner.\n");
    wait_for_node(one, "host1", |node| node.role == Role::Voter);

    for again in [&words[..], &join("10.8.0.1")] {
        let refused = three.fails(again, 4);
        assert!(refused.contains("in cluster") && refused.contains("cluster leave"), "{refused}");
    }
    assert!(one.fails(&["cluster", "init"], 4).contains("cluster leave"));

    for lab in &cluster.labs {
        let data = lab.path(DATA_DIR).join("cluster");
        assert_eq!(mode(&data), 0o700);
        for file in std::fs::read_dir(&data).unwrap() {
            let path = file.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
        for token in [voter, learner.trim_end()] {
            let secret = token.rsplit('-').next().unwrap();
            assert!(!lab.log().contains(secret), "a log has the secret of a token");
        }
    }
}

#[test]
fn everything_that_is_shown_is_so() {
    let cluster = Cluster::joined(3);
    let lab = &cluster.labs[1];
    let leader = format!("host{}", cluster.leader(1));
    let status = lab.ok(&["cluster", "status"]);
    assert_eq!(value(&status, "State:"), "member");
    assert_eq!(value(&status, "Node:"), "2");
    assert_eq!(value(&status, "Confirmed:"), "yes, by a majority");
    assert_eq!(value(&status, "Voters:"), "1, 2, 3");
    assert!(value(&status, "Leader:").ends_with(&format!("({leader})")), "{status}");
    assert!(value(&status, "Certificate:").starts_with("good for 89 days, until 2"), "{status}");
    let stale = lab.ok(&["cluster", "status", "--stale"]);
    assert_eq!(value(&stale, "Confirmed:"), "not asked for");
    let json: ClusterStatus = serde_json::from_str(&lab.ok(&["cluster", "status", "--format=json"])).unwrap();
    assert_eq!((json.membership, json.confirmed), (Membership::Member, Some(true)));
    let name = lab.ok(&["cluster", "status", "--format={{.leader_name}} {{len .voters}}"]);
    assert_eq!(name, format!("{leader} 3\n"));

    let members = lab.ok(&["cluster", "members"]);
    assert!(members.starts_with("ID        NAME      ADDRESS         ROLE      STATE "), "{members}");
    assert_aligned(&members);
    assert_eq!(lab.ok(&["cluster", "members", "-q"]), "1\n2\n3\n");
    let list = lab.ok(&["node", "ls"]);
    assert_aligned(&list);
    assert!(
        list.lines().nth(2).unwrap().starts_with("2 *       host1      Ready     10.8.0.2:7946 "),
        "{list}"
    );
    assert_eq!(list.matches("Leader").count(), 1);
    let rows = lab.ok(&["node", "ls", "--format={{.ID}} {{.Hostname}} {{.Self}}"]);
    assert_eq!(rows, "1 host0 false\n2 host1 true\n3 host2 false\n");
    let version = lab.ok(&["version", "--format={{.Server.Version}} {{.Server.NodeName}}"]);
    let versions = lab.ok(&["node", "ls", "--format={{.EngineVersion}}"]);
    assert!(versions.lines().all(|line| version == format!("{line} host1\n")), "{version} {versions}");

    let health = lab.ok(&["cluster", "health"]);
    assert_eq!(value(&health, "Voters:"), "3 of 3 answer");
    assert_eq!(value(&health, "Failure tolerance:"), "1");
    assert!(value(&health, "Disk sync:").ends_with(" longest"), "{health}");
    assert!(health.ends_with("\nNo problems.\n"), "{health}");
    let json: ClusterHealth = serde_json::from_str(&lab.ok(&["cluster", "health", "--format=json"])).unwrap();
    assert!(json.has_quorum && json.nodes.len() == 3);

    let hash = lab.ok(&["cluster", "hash"]);
    assert_aligned(&hash);
    let digests = lab.ok(&["cluster", "hash", "--no-trunc", "--format={{.digest}}"]);
    let digests: Vec<&str> = digests.lines().collect();
    assert!(digests.len() == 3 && digests.iter().all(|d| d.len() == 64 && *d == digests[0]), "{digests:?}");
    assert!(hash.lines().skip(1).all(|line| line.ends_with(&digests[0][..12])), "{hash}");
}

#[test]
fn tokens_are_refused_for_what_they_are() {
    let cluster = Cluster::unjoined(3);
    let [one, other, fresh] = &cluster.labs[..] else { panic!("there are three") };
    one.ok(&["cluster", "init"]);
    other.ok(&["cluster", "init"]);
    let first = one.ok(&["cluster", "token", "show", "-q"]);
    assert_eq!(first, one.ok(&["cluster", "token", "show", "-q"]), "it stays");
    let rotated = one.ok(&["cluster", "token", "rotate"]);
    assert!(!rotated.contains(first.trim_end()) && rotated.contains("10.8.0.1:7946"), "{rotated}");

    let refused = |token: &str, code| {
        std::fs::write(fresh.path(TOKEN), token).unwrap();
        fresh.fails(&join("10.8.0.1"), code)
    };
    let message = refused(&first, 1);
    assert!(message.contains("wrong or was rotated") && message.contains("token show"), "{message}");
    let good = one.ok(&["cluster", "token", "show", "-q"]);
    let last = if good.ends_with("0\n") { "1" } else { "0" };
    let forged = format!("{}{last}", &good[..good.len() - 2]);
    assert!(refused(&forged, 1).contains("wrong or was rotated"));
    let foreign = other.ok(&["cluster", "token", "show", "-q"]);
    assert!(refused(&foreign, 1).contains("no certificate of this cluster"));
    for malformed in ["", "secret", good.trim_end().trim_end_matches(char::is_alphanumeric)] {
        assert!(refused(malformed, 2).contains("not a join token"), "{malformed:?}");
    }
    assert!(refused(&"x".repeat(5000), 2).contains("more than 4096 bytes"));
    assert!(fresh.fails(&["cluster", "join", "--token-file=/nowhere", "10.8.0.1"], 1).contains("/nowhere"));
    // Where nobody is, and where somebody else is.
    std::fs::write(fresh.path(TOKEN), &good).unwrap();
    assert!(fresh.fails(&join("10.8.0.1:9"), 1).contains("check the address"));
    assert!(fresh.fails(&join("10.8.0.2"), 1).contains("no certificate of this cluster"));
    assert!(fresh.fails(&join("no-such-host.invalid"), 3).contains("no-such-host.invalid"));
    assert_eq!(fresh.ok(&["cluster", "status"]), "State:    in no cluster\n");
    assert_eq!(nodes(one).len(), 1, "nobody was taken in");
    // From standard input, with the line end that it has there.
    let words = ["cluster", "join", "--token-file", "-", "10.8.0.1"];
    let joined = fresh.ctl_with_input(&words, good.as_bytes());
    assert_eq!((joined.code, joined.stderr.as_str()), (0, ""), "{joined:?}");
}

#[test]
fn a_host_joins_at_its_start() {
    let mut cluster = Cluster::unjoined(2);
    cluster.labs[0].ok(&["cluster", "init"]);
    cluster.labs[1].ok(&["cluster", "init"]);
    let host = cluster.plug(2);
    let store = ["--cluster-store=raft://10.8.0.1:7946,10.8.0.99", "--join-token-file=/tmp/token"];
    carry_token(&cluster.labs[0], &host, "voter");
    assert_eq!(cluster.labs[0].term(), 0);
    let mut late = daemon(host, 2, &store);
    eventually("the daemon tries", || {
        let log = late.log();
        ensure!(log.contains("cannot join the cluster yet, next attempt in 1 s"), "{log}");
        Ok(())
    });
    // Nobody leads where it asks: it is a switch all the same.
    late.run_idle("a", &[]);
    cluster.labs[0].start();
    wait_for_node(&cluster.labs[0], "host2", |node| node.role == Role::Voter);
    assert!(late.log().contains("others may read the join token"), "{}", late.log());

    // Once it is in, nothing is left to do, and the token is not needed.
    assert_eq!(late.term(), 0);
    std::fs::remove_file(late.path(TOKEN)).unwrap();
    let before = late.log().len();
    late.start();
    wait_for_node(&cluster.labs[0], "host2", |node| node.state == NodeState::Ready);
    assert_eq!(value(&late.ok(&["cluster", "status"]), "Node:"), "2");
    assert!(!late.log()[before..].contains("join"), "{}", late.log());

    // A refusal is final, and no reason to end.
    let host = cluster.plug(3);
    carry_token(&cluster.labs[1], &host, "voter");
    let stranger = daemon(host, 3, &store);
    eventually("the refusal", || {
        let log = stranger.log();
        ensure!(log.contains("ERROR this node cannot join the cluster: "), "{log}");
        Ok(())
    });
    stranger.run_idle("a", &[]);
    assert_eq!(stranger.ok(&["cluster", "status"]), "State:    in no cluster\n");
}

#[test]
fn a_store_that_is_no_raft_is_refused() {
    let host = Host::new();
    for (arguments, part) in [
        (&["--cluster-store=consul://10.8.0.1:8500"][..], "needs no consul: its nodes replicate"),
        (&["--cluster-store=etcd://10.8.0.1:2379"], "by an embedded Raft"),
        (&["--cluster-store=raft://10.8.0.1"], "give --listen IP:PORT, too"),
        (&["--cluster-store=raft://10.8.0.1", "--listen=10.8.0.2"], "give --join-token-file"),
        (&["--listen=0.0.0.0"], "give an address of this host"),
    ] {
        let output = host.run(&[&["vswitchd", "--data-dir=/tmp/data"], arguments].concat());
        assert!(output.code != 0 && output.stdout.is_empty(), "{output:?}");
        let line = only_line(&output.stderr).unwrap_or_else(|| panic!("{output:?}"));
        assert!(line.contains(part), "{line}");
    }
    let lab = Lab::with(host, &[]);
    assert!(lab.fails(&["cluster", "init"], 2).contains("--listen IP:PORT"));
}

#[test]
fn roles_change_and_the_leadership_moves() {
    let cluster = Cluster::joined(3);
    let [one, two, three] = &cluster.labs[..] else { panic!("there are three") };
    for name in ["host1", "host2", "host0"] {
        assert_eq!(three.ok(&["cluster", "transfer-leader", name]), format!("{name} leads the cluster.\n"));
    }
    let moved = one.ok(&["cluster", "transfer-leader"]);
    assert!(moved.ends_with(" leads the cluster.\n") && !moved.starts_with("host0 "), "{moved}");
    assert!(one.fails(&["cluster", "transfer-leader", "nobody"], 3).contains("nobody"));

    assert_eq!(one.ok(&["cluster", "demote", "host1"]), "host1\n");
    assert_eq!(value(&three.ok(&["cluster", "status"]), "Learners:"), "2");
    assert!(one.fails(&["cluster", "demote", "2"], 4).contains("no voter"));
    assert!(one.fails(&["cluster", "transfer-leader", "host1"], 4).contains("no voter"));
    let error = two.fails(&["cluster", "token", "show"], 1);
    assert!(error.contains("only voters"), "{error}");
    assert!(two.fails(&["cluster", "promote", "host1"], 1).contains("only voters"));
    assert_eq!(one.ok(&["cluster", "promote", "2"]), "2\n");
    assert!(one.fails(&["cluster", "promote", "host1"], 4).contains("a voter already"));
    assert!(one.fails(&["cluster", "promote", "9"], 3).contains("no node 9"));
    wait_for_node(three, "host1", |node| node.role == Role::Voter);
    cluster.wait_until_settled();
    cluster.wait_until_equal();
}

#[test]
fn nodes_are_removed_as_far_as_the_quorum_allows() {
    let mut cluster = Cluster::joined(3);
    let refused = cluster.labs[0].fails(&["node", "rm", "host2"], 4);
    assert!(refused.contains("can be reached") && refused.contains("cluster leave"), "{refused}");
    cluster.labs[2].kill9();
    wait_for_node(&cluster.labs[0], "host2", |node| node.state == NodeState::Down);
    let list = cluster.labs[0].ok(&["node", "ls", "--format={{.Hostname}} {{.Status}} {{.ManagerStatus}}"]);
    assert!(list.ends_with("\nhost2 Down Unreachable\n"), "{list}");
    let health = cluster.labs[0].ctl(&["cluster", "health"]);
    assert_eq!((health.code, health.stderr.as_str()), (1, ""), "{health:?}");
    assert!(
        health.stdout.contains("\nProblems:\n  - node host2 does not answer: start it again"),
        "{health:?}"
    );
    let hash = cluster.labs[0].ctl(&["cluster", "hash"]);
    assert!(hash.code == 1 && hash.stderr.contains("not every node answers: host2: "), "{hash:?}");

    let broken = cluster.labs[0].fails(&["node", "rm", "--force", "host1"], 4);
    assert!(broken.contains("break the quorum"), "{broken}");
    // Where it is now, by hand: another node cannot have that address.
    let taken = cluster.labs[0].fails(&["cluster", "update-addr", "host2", "10.8.0.1"], 4);
    assert!(taken.contains("host0"), "{taken}");
    cluster.labs[0].fails(&["cluster", "update-addr", "host2", "0.0.0.0"], 2);
    cluster.labs[0].fails(&["cluster", "update-addr", "host9", "10.8.0.9"], 3);
    assert_eq!(cluster.labs[0].ok(&["cluster", "update-addr", "host2", "10.8.0.33:1234"]), "");
    wait_for_node(&cluster.labs[1], "host2", |node| node.address == "10.8.0.33:1234".parse().unwrap());
    // It knows better once it is back.
    cluster.labs[2].start();
    wait_for_node(&cluster.labs[0], "host2", |node| node.address.ip() == address(2));
    wait_for_node(&cluster.labs[0], "host2", |node| node.state == NodeState::Ready);

    cluster.labs[2].kill9();
    wait_for_node(&cluster.labs[0], "host2", |node| node.state == NodeState::Down);
    let removed = cluster.labs[0].ctl(&["node", "rm", "host2", "host9"]);
    assert_eq!((removed.code, removed.stdout.as_str()), (3, "host2\n"), "{removed:?}");
    cluster.labs[2].start();
    eventually("the fence", || {
        let status = cluster.status(2);
        ensure!(status.membership == Membership::Fenced, "{status:?}");
        Ok(())
    });
    let fenced = cluster.labs[2].ctl(&["cluster", "status"]);
    assert_eq!(fenced.code, 1, "{fenced:?}");
    assert_eq!(value(&fenced.stdout, "State:"), "fenced");
    let reason = value(&fenced.stdout, "Reason:");
    assert!(reason.contains("removed") && fenced.stderr.contains(reason), "{fenced:?}");
    let list = cluster.labs[2].ctl(&["node", "ls"]);
    assert!(list.code == 0 && list.stderr.contains("fenced") && list.stderr.contains(reason), "{list:?}");
    cluster.labs[2].ok(&["cluster", "leave"]);
    carry_token(&cluster.labs[0], &cluster.labs[2], "voter");
    assert!(cluster.labs[2].ok(&join("10.8.0.1")).contains("as node 4;"));
}

#[test]
fn without_a_quorum_the_exit_code_is_five() {
    let mut cluster = Cluster::joined(2);
    cluster.labs[1].kill9();
    let lab = &cluster.labs[0];
    eventually("the loss is noticed", || {
        let status = cluster.status(0);
        ensure!(status.leader.is_none(), "{status:?}");
        Ok(())
    });
    // Each of them waits for a while; they need not wait for each other.
    std::thread::scope(|scope| {
        for arguments in [
            &["cluster", "token", "show"][..],
            &["cluster", "promote", "host1"],
            &["cluster", "remove", "--force", "host1"],
            &["cluster", "update-addr", "host1", "10.8.0.9"],
            &["cluster", "snapshot", "save", "/tmp/snapshot"],
            &["cluster", "hash"],
            &["network", "create", "-d", "overlay", "net"],
        ] {
            scope.spawn(move || {
                let error = lab.fails(arguments, 5);
                assert!(error.contains("no quorum: 2 of 2 voters"), "{arguments:?}: {error}");
            });
        }
    });
    assert!(!lab.path("/tmp/snapshot").exists());
    let status = lab.ctl(&["cluster", "status"]);
    assert!(status.code == 5 && only_line(&status.stderr).is_some(), "{status:?}");
    assert_eq!(value(&status.stdout, "Confirmed:"), "no");
    assert_eq!(lab.ctl(&["cluster", "status", "--stale"]).code, 0);
    let health = lab.ctl(&["cluster", "health"]);
    assert_eq!((health.code, health.stderr.as_str()), (5, ""), "{health:?}");
    assert!(health.stdout.contains("\n  - no quorum: ") && health.stdout.contains("recover"), "{health:?}");
    let list = lab.ctl(&["node", "ls"]);
    assert!(list.code == 0 && list.stderr.contains("warning: no quorum"), "{list:?}");

    let leave = lab.fails(&["cluster", "leave"], 5);
    assert!(leave.contains("--force"), "{leave}");
    assert_eq!(lab.ok(&["cluster", "leave", "--force"]), "This node has left the cluster.\n");
    assert_eq!(lab.ok(&["cluster", "status"]), "State:    in no cluster\n");
}

#[test]
fn a_node_leaves_when_nothing_needs_it() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "net"]);
    two.run_idle("b", &["--net=net"]);
    two.run_idle("c", &["--net=net"]);
    let refused = two.fails(&["cluster", "leave"], 4);
    assert!(refused.contains("b, c") && refused.contains("--force"), "{refused}");
    two.ok(&["rm", "-f", "b", "c"]);
    assert_eq!(two.ok(&["cluster", "leave"]), "This node has left the cluster.\n");
    two.fails(&["network", "inspect", "net"], 3);
    two.fails(&["cluster", "leave"], 2);
    let last = one.fails(&["cluster", "leave"], 4);
    assert!(last.contains("the last of its cluster") && last.contains("net"), "{last}");
    one.ok(&["cluster", "leave", "--force"]);
    one.fails(&["network", "inspect", "net"], 3);
    one.ok(&["cluster", "init"]);
}

#[test]
fn snapshots_are_saved_looked_at_and_restored() {
    let cluster = Cluster::joined(2);
    let fresh = daemon(cluster.plug(2), 2, &[]);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "--subnet=10.9.0.0/24", "net"]);
    one.run_idle("a", &["--net=net"]);
    let file = "/tmp/snapshot";
    let saved = two.ok(&["cluster", "snapshot", "save", file]);
    assert!(saved.starts_with("Saved and verified snapshot to index ") && saved.contains(file), "{saved}");
    assert_eq!(mode(&two.path(file)), 0o600);
    let report = two.ok(&["cluster", "snapshot", "inspect", file]);
    assert_eq!(value(&report, "Nodes:"), "host0, host1");
    assert_eq!((value(&report, "Networks:"), value(&report, "Endpoints:")), ("net", "1"));
    let json = two.ok(&["cluster", "snapshot", "inspect", "--format=json", file]);
    let summary: SnapshotSummary = serde_json::from_str(&json).unwrap();
    assert_eq!(summary.digest, value(&report, "Digest:"));
    assert!(saved.contains(&format!("index {}:", summary.applied)), "{saved}");
    assert_eq!(two.ok(&["cluster", "snapshot", "inspect", "--format={{.leases}}", file]), "1\n");
    assert!(two.fails(&["cluster", "snapshot", "restore", file], 4).contains("cluster leave"));

    let bytes = std::fs::read(two.path(file)).unwrap();
    let bad = |bytes: &[u8], part: &str| {
        std::fs::write(fresh.path("/tmp/bad"), bytes).unwrap();
        for verb in ["inspect", "restore"] {
            let error = fresh.fails(&["cluster", "snapshot", verb, "/tmp/bad"], 2);
            assert!(error.contains(part), "{error}");
        }
    };
    bad(&bytes[..bytes.len() - 1], "damaged or cut short");
    bad(&bytes[..20], "damaged or cut short");
    bad(&[&bytes[..], b"x"].concat(), "damaged or cut short");
    bad(b"", "no snapshot of a vswitch cluster");
    bad(b"PK\x03\x04 something else", "no snapshot of a vswitch cluster");
    fresh.sh("truncate -s 65M /tmp/bad");
    assert!(fresh.fails(&["cluster", "snapshot", "restore", "/tmp/bad"], 2).contains("more than 67108864"));
    assert!(fresh.fails(&["cluster", "snapshot", "inspect", "/nowhere"], 1).contains("/nowhere"));
    assert!(two.fails(&["cluster", "snapshot", "save", "/nowhere/file"], 1).contains("/nowhere/file"));
    assert_eq!(fresh.ok(&["cluster", "status"]), "State:    in no cluster\n");

    std::fs::write(fresh.path(file), &bytes).unwrap();
    let restored = fresh.ok(&["cluster", "snapshot", "restore", file]);
    assert!(restored.starts_with(&format!("Cluster restored from {file}: this is node ")), "{restored}");
    assert!(restored.contains("vswitchctl cluster join --token vswitch-1-voter-"), "{restored}");
    // It has taken the place of a node whose containers it does not have.
    eventually("the addresses of the others are free", || {
        let network = fresh.inspect_network("net");
        ensure!(network.containers.is_empty(), "{network:?}");
        Ok(())
    });
    assert_eq!(fresh.ok(&["node", "ls", "--format={{.Hostname}}"]), "host2\n");
    fresh.run_idle("a", &["--net=net", "--ip=10.9.0.2"]);
}

#[test]
fn recovery_is_for_a_stopped_voter() {
    let mut cluster = Cluster::joined(2);
    let recover = ["cluster", "recover", "--force-new-cluster", "--data-dir", DATA_DIR];
    let token = cluster.labs[0].ok(&["cluster", "token", "show", "-q"]);
    let learner = cluster.plug(2);
    carry_token(&cluster.labs[0], &learner, "learner");
    let mut learner = daemon(learner, 2, &[]);
    learner.ok(&join("10.8.0.1"));
    cluster.labs[0].ok(&["network", "create", "-d", "overlay", "net"]);

    let pid = cluster.labs[0].daemon_pid();
    let error = cluster.labs[0].ctl(&recover);
    assert_eq!(error.code, 1, "{error:?}");
    assert!(error.stderr.contains(&format!("(pid {pid}) still runs")), "{error:?}");
    assert_eq!(learner.term(), 0);
    assert!(learner.ctl(&recover).stderr.contains("it was no voter"));
    cluster.labs[1].kill9();
    assert_eq!(cluster.labs[0].term(), 0);
    let lab = &cluster.labs[0];
    for (arguments, code, part) in [
        (&["vswitchctl", "cluster", "recover"][..], 2, "--force-new-cluster"),
        (&["vswitchd", "recover"], 2, "say so with --force-new-cluster"),
        (
            &["vswitchd", "recover", "--force-new-cluster", "--data-dir=/nowhere"],
            1,
            "no data directory /nowhere",
        ),
        (&["vswitchd", "recover", "--force-new-cluster", "--data-dir=/tmp"], 1, "a node in no cluster"),
    ] {
        let output = lab.run(arguments);
        assert!(output.code == code && output.stdout.is_empty(), "{output:?}");
        let line = only_line(&output.stderr).unwrap_or_else(|| panic!("{output:?}"));
        assert!(line.contains(part), "{line}");
    }
    assert!(!lab.path("/nowhere").exists());

    let said = lab.ok(&recover);
    assert!(said.starts_with("Node 1 is its whole cluster now;"), "{said}");
    assert!(lab.path(DATA_DIR).join("cluster/log.before-recovery").exists());
    cluster.labs[0].start();
    let lab = &cluster.labs[0];
    assert_eq!(lab.ok(&["node", "ls", "--format={{.Hostname}} {{.ManagerStatus}}"]), "host0 Leader\n");
    lab.inspect_network("net");
    assert_eq!(lab.ok(&["cluster", "token", "show", "-q"]), token, "the authority is the same");
}

#[test]
fn the_authority_is_rotated() {
    let cluster = Cluster::joined(2);
    let fresh = daemon(cluster.plug(2), 2, &[]);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    let before = cluster.token();
    let begun = two.ok(&["cluster", "ca", "rotate"]);
    assert!(value(&begun, "Authority:").ends_with("(generation 2)"), "{begun}");
    assert!(begun.contains("token show"), "{begun}");
    eventually("all have new certificates", || {
        let health = one.ctl(&["cluster", "health"]);
        ensure!(health.code == 0, "{health:?}");
        Ok(())
    });
    std::fs::write(fresh.path("/tmp/before"), &before).unwrap();
    let error = fresh.ctl(&["cluster", "join", "--token-file=/tmp/before", "10.8.0.1"]);
    assert_ne!(error.code, 0, "{error:?}");
    assert!(only_line(&error.stderr).is_some(), "{error:?}");
    let after = cluster.token();
    assert_ne!(after, before);
    std::fs::write(fresh.path("/tmp/after"), &after).unwrap();
    fresh.ok(&["cluster", "join", "--token-file=/tmp/after", "10.8.0.1"]);
    two.ok(&["network", "create", "-d", "overlay", "net"]);
}

#[test]
fn the_api_tells_what_makes_no_sense_and_finishes_what_it_began() {
    let cluster = Cluster::unjoined(1);
    let lab = &cluster.labs[0];
    for (method, path, body, status) in [
        ("GET", "/v1/nodes", "", 400),
        ("GET", "/v1/cluster?stale=perhaps", "", 400),
        ("GET", "/v1/cluster/token?role=boss", "", 400),
        ("POST", "/v1/cluster/join", "{}", 400),
        ("POST", "/v1/cluster/join", r#"{"addresses":["host1:7946"],"token":"x"}"#, 400),
        ("POST", "/v1/cluster/join", r#"{"addresses":[],"token":"x"}"#, 400),
        ("PUT", "/v1/nodes/host0/address", r#"{"address":"nowhere"}"#, 400),
        ("POST", "/v1/nodes/host0/address", "{}", 405),
        ("DELETE", "/v1/nodes/host0?force=maybe", "", 400),
        ("POST", "/v1/cluster/snapshot/inspect", "no snapshot", 400),
        ("POST", "/v1/cluster/snapshot/restore", "no snapshot", 400),
    ] {
        let answer = lab.http(method, path, body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        let error: Error = serde_json::from_str(&answer.body).unwrap();
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error:?}");
    }
    // Who hangs up at once may be gone before the request is read; then nothing was begun.
    eventually("the cluster is founded all the same", || {
        let mut impatient = UnixStream::connect(lab.socket())?;
        impatient.write_all(&Request::new("POST", "/v1/cluster/init").to_bytes())?;
        drop(impatient);
        let status = cluster.status(0);
        ensure!(status.membership == Membership::Member && status.leader.is_some(), "{status:?}");
        Ok(())
    });
    assert_eq!(nodes(lab).len(), 1);
}
