use vswitch_proto::id::ClusterId;

use super::*;

const HOUR_MS: u64 = 60 * 60 * 1000;

fn node(id: u64, state: NodeState) -> Node {
    Node {
        id: NodeId(id),
        name: format!("host{id}").parse().unwrap(),
        address: ([10, 8, 0, id as u8], 7946).into(),
        vtep: [10, 8, 0, id as u8].into(),
        role: Role::Voter,
        wanted: Role::Voter,
        is_leader: false,
        is_self: false,
        state,
        silent_ms: None,
        lag: None,
        version: "0.1.0".into(),
        joined_at_ms: 0,
        leases: 0,
        problems: Vec::new(),
    }
}

fn nodes() -> [Node; 3] {
    let leader = Node { is_leader: true, lag: Some(0), ..node(1, NodeState::Ready) };
    let down = Node { silent_ms: Some(61_000), lag: Some(12), ..node(2, NodeState::Down) };
    let learner =
        Node { role: Role::Learner, lag: Some(0), silent_ms: Some(40), ..node(3, NodeState::Ready) };
    [leader, down, learner]
}

#[test]
fn members_are_listed() {
    let print = |format: &str| MEMBERS.print(&format.parse().unwrap(), false, &nodes()).unwrap();
    assert_eq!(
        print("table"),
        "ID        NAME      ADDRESS         ROLE                    STATE     LEADER    LAG       SILENT     VTEP       VERSION\n\
         1         host1     10.8.0.1:7946   voter                   ready     yes       0         -          10.8.0.1   0.1.0\n\
         2         host2     10.8.0.2:7946   voter                   down      -         12        61000 ms   10.8.0.2   0.1.0\n\
         3         host3     10.8.0.3:7946   learner (to be voter)   ready     -         0         40 ms      10.8.0.3   0.1.0\n"
    );
    assert_eq!(print("{{.name}} {{.is_leader}}"), "host1 true\nhost2 false\nhost3 false\n");
    assert_eq!(MEMBERS.print(&ListFormat::Table, true, &nodes()).unwrap(), "1\n2\n3\n");
    let status: Vec<&str> = nodes().iter().map(manager_status).collect();
    assert_eq!(status, ["Leader", "Unreachable", ""]);
}

#[test]
fn a_status_says_who_leads_or_why_nobody_does() {
    let mut status = ClusterStatus {
        membership: Membership::Member,
        reason: None,
        cluster: Some(ClusterId([0xab; 16])),
        node: Some(NodeId(2)),
        role: Some(Role::Voter),
        leader: Some(NodeId(1)),
        leader_name: Some("host1".parse().unwrap()),
        term: 3,
        committed: 20,
        applied: 19,
        voters: vec![NodeId(1), NodeId(2)],
        learners: Vec::new(),
        confirmed: Some(true),
        certificate_expires_at_ms: Some(1_431_431_490_042),
    };
    let text = status_text(&status, 1_431_431_490 - 7200);
    assert_eq!(
        text,
        "State:         member\n\
         Cluster:       abababababababababababababababab\n\
         Node:          2\n\
         Role:          voter\n\
         Leader:        1 (host1)\n\
         Confirmed:     yes, by a majority\n\
         Voters:        1, 2\n\
         Learners:      -\n\
         Term:          3\n\
         Committed:     20\n\
         Applied:       19\n\
         Certificate:   good for 2 hours, until 2015-05-12 11:51:30 +0000 UTC\n"
    );
    status.membership = Membership::Fenced;
    status.reason = Some("node 2 was removed".into());
    let text = status_text(&status, 1_431_431_490 + 7200);
    assert!(text.starts_with("State:         fenced\nReason:        node 2 was removed\n"), "{text}");
    assert!(
        text.contains("Certificate:   expired 2 hours ago, at 2015-05-12 11:51:30 +0000 UTC\n"),
        "{text}"
    );
    status.membership = Membership::Alone;
    status.reason = None;
    assert_eq!(status_text(&status, 0), "State:    in no cluster\n");
}

#[test]
fn health_ends_with_what_is_to_be_done() {
    let mut health = ClusterHealth {
        has_quorum: true,
        voters: 2,
        reachable_voters: 1,
        failure_tolerance: 0,
        nodes: nodes().into(),
        sync_median_us: Some(1_234),
        sync_max_us: Some(20_009),
        certificate_expires_at_ms: Some(100 * HOUR_MS),
        messages_dropped: 7,
        connections_refused: 0,
        problems: vec!["node host2 does not answer: start it again".into()],
        warnings: vec!["node host1: slow".into()],
    };
    let text = health_text(&health, 0);
    for part in [
        "Quorum:                yes\n",
        "Voters:                1 of 2 answer\n",
        "Disk sync:             1.23 ms median, 20.00 ms longest\n",
        "Certificate:           good for 4 days, until 1970-01-05 04:00:00 +0000 UTC\n",
        "\nID        NAME      ADDRESS",
        "\nProblems:\n  - node host2 does not answer: start it again\nWarnings:\n  - node host1: slow\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    health.nodes = vec![node(1, NodeState::Unknown)];
    assert!(health_text(&health, 0).contains("Voters:                2, and no leader to tell which"));
    health.problems.clear();
    health.warnings.clear();
    assert!(health_text(&health, 0).ends_with("\nNo problems.\n"));
}

#[test]
fn digests_are_compared() {
    let hash = |node: u64, digest: Option<&str>, error: Option<&str>| NodeHash {
        node: NodeId(node),
        name: format!("host{node}").parse().unwrap(),
        applied: digest.map(|_| 0),
        digest: digest.map(Into::into),
        error: error.map(Into::into),
    };
    let rows = [hash(1, Some("aa"), None), hash(2, None, Some("node 2 did not answer in time"))];
    assert_eq!(
        HASHES.print(&ListFormat::Table, false, &rows).unwrap(),
        "NODE      NAME      APPLIED   DIGEST\n\
         1         host1     0         aa\n\
         2         host2     -         -\n"
    );
    assert_eq!(difference(&rows), "not every node answers: host2: node 2 did not answer in time");
    assert!(difference(&[hash(1, Some("aa"), None), hash(2, Some("bb"), None)]).contains("not equal"));
}
