use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use redb::{Database, TableDefinition};
use vswitch_proto::command::Command;
use vswitch_proto::id::ContainerId;

use std::path::Path;

use vswitch_proto::api::ErrorKind;
use vswitch_proto::command::Envelope;
use vswitch_proto::id::NodeId;
use vswitch_proto::peer::{COMMAND_BYTES_MAX, Entry, Payload};

use super::disk::{Disk, Survives};
use super::machine;
use super::*;
use crate::state::State;
use crate::state::testing::{Lab, adopted, to};

const LIMITS: Limits = Limits { entries: 1024, worth_percent: 50, bytes: 8 << 20, trailing: 0 };
const SMALL: Limits = Limits { entries: 7, worth_percent: 0, bytes: 1 << 20, trailing: 0 };
/// Index of the first proposal in a new store: a snapshot and the first entry of the leader come before it.
const FIRST: u64 = 3;

/// Every kind of command, accepted and rejected, more than once.
fn story(length: usize) -> Vec<Envelope> {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    let mut story = Vec::new();
    let mut rng = StdRng::seed_from_u64(1);
    let mut lab_after = Lab::default();
    for envelope in builtin(&mut lab_after) {
        story.push(envelope);
    }
    let mut n = 0;
    while story.len() < length {
        n += 1;
        let containers: Vec<ContainerId> = lab.state.containers().map(|c| c.id).collect();
        let some = |rng: &mut StdRng| containers.get(rng.random_range(0..containers.len().max(1))).copied();
        let command = match (rng.random_range(0..8), some(&mut rng)) {
            (0 | 1, _) | (_, None) => create(&mut lab, n, bridge),
            (2, _) => Command::CreateNetwork(crate::state::testing::bridge(
                lab.network_id(),
                &format!("n{}", n % 9),
            )),
            (3, Some(container)) => Command::StartContainer {
                container,
                endpoints: vec![lab.endpoint_id()],
                start: Default::default(),
            },
            (4, Some(container)) => Command::ContainerExited { container, exit_code: 1, error: "x".into() },
            (5, Some(container)) => Command::RemoveContainer { container },
            (6, Some(container)) => {
                let network = lab.state.networks().nth(n % lab.state.networks().count()).unwrap().id;
                Command::Connect { container, attachment: to(network), endpoint: lab.endpoint_id() }
            }
            (_, Some(container)) => Command::Disconnect { container, network: bridge },
        };
        let envelope = lab.envelope(command);
        let _outcome = lab.state.apply(&envelope);
        story.push(envelope);
    }
    story
}

/// What [`Lab::new`] applies.
fn builtin(lab: &mut Lab) -> Vec<Envelope> {
    use vswitch_proto::command::{CreateNetwork, Driver};
    let made =
        [("bridge", Driver::Bridge), ("host", Driver::Host), ("none", Driver::None)].map(|(name, driver)| {
            let request = CreateNetwork {
                driver,
                builtin: true,
                ..crate::state::testing::bridge(lab.network_id(), name)
            };
            lab.envelope(Command::CreateNetwork(request))
        });
    made.into()
}

fn create(lab: &mut Lab, n: usize, network: vswitch_proto::id::NetworkId) -> Command {
    let id = ContainerId(crate::state::testing::id32(lab.draw()));
    let name = format!("c{}", n % 20).parse().unwrap();
    let attachments = vec![(to(network), lab.endpoint_id())];
    Command::CreateContainer(vswitch_proto::command::CreateContainer {
        id,
        name,
        kind: adopted(n as u32),
        attachments,
    })
}

/// The digest after each prefix of `story`, the empty one first.
fn digests(story: &[Envelope]) -> Vec<[u8; 32]> {
    let mut state = State::new();
    let mut digests = vec![state.digest()];
    for envelope in story {
        let _outcome = state.apply(envelope);
        digests.push(state.digest());
    }
    digests
}

fn new_disk() -> Disk {
    let disk = Disk::default();
    let birth = Birth::Founder { machine: State::new().to_bytes() };
    initialise(disk.clone(), NodeId(1), birth).unwrap();
    disk
}

fn on(disk: &Disk, limits: Limits) -> Result<Replica, OpenError> {
    let disk = disk.clone();
    Replica::with(Store::on(move || disk.clone()), limits)
}

fn status(replica: &Replica) -> Status {
    replica.group().status()
}

fn snapshot_index(replica: &Replica) -> u64 {
    replica.group().position.snapshot_index
}

fn refused(path: &Path) -> OpenError {
    let error = Replica::open(path).err().expect("must not open");
    assert!(!error.to_string().contains('\n'), "{error}");
    error
}

fn store(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("state.redb")
}

#[test]
fn reopening_after_every_prefix_gives_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = store(&directory);
    let story = story(60);
    let digests = digests(&story);
    let mut rejected = 0;
    for (n, envelope) in story.iter().enumerate() {
        let mut replica = Replica::open(&path).unwrap();
        assert_eq!(replica.state().digest(), digests[n]);
        let outcome = replica.propose(envelope);
        rejected += usize::from(matches!(outcome, Err(ProposeError::Rejected(_))));
        assert_eq!(replica.state().digest(), digests[n + 1]);
        drop(replica);
        let mut replica = Replica::open(&path).unwrap();
        let again = replica.propose(envelope);
        assert_eq!(
            again.map_err(|e| e.to_string()),
            outcome.map_err(|e| e.to_string()),
            "answered once more"
        );
        assert_eq!(replica.state().digest(), digests[n + 1], "applied once");
    }
    assert!(rejected > 5 && rejected < 50, "{rejected} of both kinds");
}

#[test]
fn snapshots_bound_the_log() {
    let (disk, story) = (new_disk(), story(200));
    let digests = digests(&story);
    let mut replica = on(&disk, SMALL).unwrap();
    let mut length = 0;
    for (n, envelope) in story.iter().enumerate() {
        let _outcome = replica.propose(envelope);
        assert!(status(&replica).applied - snapshot_index(&replica) < SMALL.entries);
        if n == 100 {
            length = disk.length();
        }
        if n % 10 == 0 {
            drop(replica);
            replica = on(&disk, SMALL).unwrap();
            assert_eq!(replica.state().digest(), digests[n + 1]);
            assert!(status(&replica).applied > n as u64);
        }
    }
    assert!(disk.length() <= 2 * length, "the file grows with the state, not with time");
    drop(replica);
    let by_bytes = Limits { entries: u64::MAX, worth_percent: 0, bytes: 2000, trailing: 0 };
    let mut replica = on(&disk, by_bytes).unwrap();
    let mut lab = Lab::default();
    for _ in 0..1000 {
        lab.draw();
    }
    for _ in 0..100 {
        let container = ContainerId([9; 32]);
        let envelope = lab.envelope(Command::RemoveContainer { container });
        assert!(matches!(replica.propose(&envelope), Err(ProposeError::Rejected(_))));
        assert!(replica.group().position.bytes < by_bytes.bytes);
    }
}

/// Cuts the power at every call that changes the disk, loses and tears what was not synced, and opens again.
#[test]
fn what_was_answered_survives_a_power_cut() {
    let story = story(30);
    let digests = digests(&story);
    let start = new_disk();
    let all = {
        let disk = start.cut_power(|| Survives::All);
        let mut replica = on(&disk, SMALL).unwrap();
        let opened = disk.calls();
        story.iter().for_each(|envelope| drop(replica.propose(envelope)));
        opened..disk.calls()
    };
    assert!(all.clone().count() > 150, "{all:?}");
    for cut in all {
        let disk = start.cut_power(|| Survives::All);
        let mut replica = on(&disk, SMALL).unwrap();
        disk.fail(cut..u64::MAX);
        let answered = story.iter().take_while(|envelope| {
            matches!(replica.propose(envelope), Ok(_) | Err(ProposeError::Rejected(_)))
        });
        let answered = answered.count();
        assert!(answered < story.len() || replica.group().role() == Role::Down);
        let mut rng = StdRng::seed_from_u64(cut);
        let disk = disk.cut_power(|| match rng.random_range(0..3) {
            0 => Survives::Nothing,
            1 => Survives::Half,
            _ => Survives::All,
        });
        let mut replica = on(&disk, SMALL).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let found = replica.state().digest();
        let one_more = digests.get(answered + 1);
        assert!(found == digests[answered] || Some(&found) == one_more, "cut at {cut}: {answered} answered");
        story.iter().for_each(|envelope| drop(replica.propose(envelope)));
        assert_eq!(&replica.state().digest(), digests.last().unwrap(), "cut at {cut}: and it goes on");
    }
}

/// One call fails and the next works again: what was refused is not there, what was answered is there for good.
#[test]
fn a_passing_failure_is_settled() {
    let story = story(20);
    let digests = digests(&story);
    let start = new_disk();
    let calls = {
        let disk = start.cut_power(|| Survives::All);
        let mut replica = on(&disk, SMALL).unwrap();
        let opened = disk.calls();
        story.iter().for_each(|envelope| drop(replica.propose(envelope)));
        opened..disk.calls()
    };
    for call in calls {
        let disk = start.cut_power(|| Survives::All);
        let mut replica = on(&disk, SMALL).unwrap();
        disk.fail(call..call + 1);
        let mut settled = false;
        for (n, envelope) in story.iter().enumerate() {
            let mut outcome = replica.propose(envelope);
            if !matches!(outcome, Ok(_) | Err(ProposeError::Rejected(_))) {
                assert_eq!(replica.state().digest(), digests[n], "call {call}: {outcome:?}");
                outcome = replica.propose(envelope);
            }
            assert!(matches!(outcome, Ok(_) | Err(ProposeError::Rejected(_))), "call {call}: {outcome:?}");
            assert_eq!(replica.state().digest(), digests[n + 1], "call {call}");
            if std::mem::replace(&mut settled, disk.calls() > call) != settled {
                let disk = disk.cut_power(|| Survives::Nothing);
                let replica = on(&disk, SMALL).unwrap_or_else(|error| panic!("call {call}: {error}"));
                assert_eq!(replica.state().digest(), digests[n + 1], "call {call}: answered and lost");
            }
        }
        assert!(settled, "call {call} never came");
        let disk = disk.cut_power(|| Survives::Nothing);
        let replica = on(&disk, SMALL).unwrap_or_else(|error| panic!("call {call}: {error}"));
        assert_eq!(&replica.state().digest(), digests.last().unwrap(), "call {call}");
    }
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = new_disk();
    let mut replica = on(&disk, LIMITS).unwrap();
    let mut lab = Lab::default();
    for envelope in builtin(&mut lab) {
        replica.propose(&envelope).unwrap();
    }
    disk.limit(Some(disk.length()));
    let network = |lab: &mut Lab, n: u32| {
        let mut request = crate::state::testing::bridge(lab.network_id(), &format!("n{n}"));
        request.pools = vec![crate::state::testing::pool(&format!("10.{n}.0.0/16"))];
        request.labels.insert("note".into(), "x".repeat(400_000));
        lab.envelope(Command::CreateNetwork(request))
    };
    let (mut n, mut refused) = (0, Vec::new());
    while refused.len() < 3 {
        assert!(n < 200, "the disk never ran full");
        n += 1;
        let (envelope, before) = (network(&mut lab, n), replica.state().digest());
        if let Err(error) = replica.propose(&envelope) {
            assert_eq!(error.kind(), ErrorKind::Failed);
            assert!(
                !error.to_string().contains('\n') && error.to_string().contains("free some space"),
                "{error}"
            );
            assert_eq!(replica.state().digest(), before);
            refused.push(envelope);
        }
    }
    disk.limit(None);
    for envelope in &refused {
        replica.propose(envelope).unwrap();
    }
    let digest = replica.state().digest();
    drop(replica);
    assert_eq!(on(&disk, LIMITS).unwrap().state().digest(), digest);
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = store(&directory);
    let digest = {
        let mut replica = Replica::open(&path).unwrap();
        story(20).iter().for_each(|envelope| drop(replica.propose(envelope)));
        assert!(matches!(refused(&path), OpenError::Locked(_)), "a second one");
        replica.state().digest()
    };
    let whole = std::fs::read(&path).unwrap();
    let left_alone = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = refused(&path);
        assert!(std::fs::read(&path).unwrap() == bytes, "{error}: changed");
        error
    };
    for length in
        [0, 1, 8, 9, 31, 32, 319, 320, 4095, 4096, 5000, whole.len() / 2, whole.len() - 4096, whole.len() - 1]
    {
        let error = left_alone(&whole[..length]);
        assert!(matches!(error, OpenError::Truncated(_)), "{length}: {error}");
    }
    for foreign in [&b"SQLite format 3\0"[..], b"r", b"hello\n", &[0; 8192]] {
        let error = left_alone(foreign);
        assert!(matches!(error, OpenError::Foreign(_)) || foreign == b"r", "{error}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(Replica::open(&path).unwrap().state().digest(), digest, "and put back it is as before");
    let missing = directory.path().join("no/such/directory");
    assert!(matches!(refused(&missing), OpenError::Io { .. }));
    assert!(matches!(refused(directory.path()), OpenError::Io { .. }));
}

#[test]
fn other_formats_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = store(&directory);
    let put = |table: TableDefinition<'_, &str, &[u8]>, key: &str, value: &[u8]| {
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(table).unwrap().insert(key, value).unwrap();
        transaction.commit().unwrap();
    };
    put(TableDefinition::new("somebody"), "key", b"value");
    assert!(matches!(refused(&path), OpenError::Foreign(_)), "another program's redb database");
    std::fs::remove_file(&path).unwrap();
    drop(Replica::open(&path).unwrap());
    put(TableDefinition::new("meta"), "format", &[5]);
    assert!(matches!(refused(&path), OpenError::Newer { found: 5, .. }));
    assert!(matches!(refused(&path), OpenError::Newer { found: 5, .. }), "still, not reset");
    put(TableDefinition::new("meta"), "format", &[3]);
    assert!(matches!(refused(&path), OpenError::Older { found: 3, .. }));
    put(TableDefinition::new("meta"), "format", &[4]);
    let entry = |index: u64, value: &[u8]| {
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut log = transaction.open_table(TableDefinition::<u64, &[u8]>::new("log")).unwrap();
        log.retain(|_, _| false).unwrap();
        log.insert(index, value).unwrap();
        drop(log);
        transaction.commit().unwrap();
    };
    let encoded = |index, payload| postcard::to_extend(&Entry { term: 1, index, payload }, vec![1]).unwrap();
    let command = machine::encode(&story(1)[0]);
    let good = encoded(2, Payload::Command(command.clone()));
    entry(2, &good);
    assert_eq!(status(&Replica::open(&path).unwrap()).applied, FIRST);
    entry(3, &encoded(3, Payload::Command(command.clone())));
    assert!(matches!(refused(&path), OpenError::Corrupt(_)), "a gap");
    entry(2, &[&[2], &good[1..]].concat());
    assert!(matches!(refused(&path), OpenError::Newer { found: 2, .. }), "an entry of the future");
    entry(2, &encoded(2, Payload::Command([&[3], &command[1..]].concat())));
    assert!(matches!(refused(&path), OpenError::Newer { found: 3, .. }), "a command of the future");
    entry(2, &encoded(2, Payload::Command(command[..command.len() - 1].to_vec())));
    assert!(matches!(refused(&path), OpenError::Corrupt(_)), "half a command");
    for bad in [&[][..], &[1], &[0, 0], &good[..good.len() - 1], &[&good[..], &[0]].concat()] {
        entry(2, bad);
        assert!(matches!(refused(&path), OpenError::Corrupt(_)));
    }
}

#[test]
fn damage_is_refused_or_harmless() {
    let disk = new_disk();
    let mut replica = on(&disk, SMALL).unwrap();
    story(40).iter().for_each(|envelope| drop(replica.propose(envelope)));
    let digest = replica.state().digest();
    // Once as a daemon that was killed leaves it, once as one that ended.
    let killed = disk.cut_power(|| Survives::All);
    drop(replica);
    let ended = disk.cut_power(|| Survives::All);
    let mut rng = StdRng::seed_from_u64(7);
    let (mut opened, mut refused) = (0, 0);
    for round in 0..600 {
        let mut bytes = if round % 2 == 0 { killed.bytes() } else { ended.bytes() };
        // The used pages are near the beginning.
        let reach = [400, 4096, 64 << 10, bytes.len()][round % 4].min(bytes.len());
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..reach);
            let length = [1, 1, 8, 512][rng.random_range(0..4)].min(bytes.len() - at);
            rng.fill(&mut bytes[at..at + length]);
        }
        match on(&Disk::holding(bytes), SMALL) {
            Ok(replica) => {
                assert!(replica.state().digest() == digest, "round {round}: another state");
                opened += 1;
            }
            Err(OpenError::Corrupt(_) | OpenError::Foreign(_) | OpenError::Newer { .. }) => refused += 1,
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    assert!(opened > 50 && refused > 50, "{opened} opened, {refused} refused");
}

#[test]
fn large_requests_are_refused() {
    let mut replica = on(&new_disk(), LIMITS).unwrap();
    let container = ContainerId([1; 32]);
    let mut lab = Lab::default();
    let error = "x".repeat(COMMAND_BYTES_MAX);
    let envelope = lab.envelope(Command::ContainerExited { container, exit_code: 0, error });
    let refused = replica.propose(&envelope).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert_eq!(status(&replica).applied, FIRST - 1);
}

/// In this variable the test below finds the store when it is its own child.
const CHILD_STORE: &str = "VSWITCH_TEST_CHILD_STORE";

/// Starts itself as a child that proposes and says so, line by line, and kills it.
#[test]
fn what_was_answered_survives_sigkill() {
    if let Some(path) = std::env::var_os(CHILD_STORE) {
        let mut replica = Replica::open(Path::new(&path)).unwrap();
        for (n, envelope) in story(2000).iter().enumerate() {
            let _outcome = replica.propose(envelope);
            println!("answered {}", n + 1);
        }
        return;
    }
    let digests = digests(&story(2000));
    let directory = tempfile::tempdir().unwrap();
    let path = store(&directory);
    for kill_after in [1, 40, 90, 300] {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "cluster::tests::what_was_answered_survives_sigkill"])
            .env(CHILD_STORE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut answered = lines.filter_map(|line| line.rsplit_once("answered ")?.1.parse::<usize>().ok());
        answered.find(|n| *n >= kill_after).unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "killed in the middle");
        let last = answered.last().unwrap_or(kill_after);
        let replica = Replica::open(&path).unwrap();
        let found = replica.state().digest();
        let applied = digests.iter().position(|digest| *digest == found).expect("a state of the story");
        assert!(applied >= last, "{last} answered, {applied} there");
    }
}
