//! How much a cluster says, by its size: healthy hosts, links of one millisecond, and disks that take no time.
//!
//! As many vote as can, and all others learn, so it is the leader that talks to everybody.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow, bail, ensure};
use redb::StorageBackend;
use vswitch::cluster::{Birth, Group, Sender, Settings, Store, initialise};
use vswitch::state::shared::Shared;
use vswitch_proto::command::{
    Attachment, CreateNetwork, Driver, NodeInfo, PoolRequest, Reserve, Role, Scope, SharedChange,
    SharedCommand, SharedEnvelope,
};
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId, NodeId, RequestId};
use vswitch_proto::peer::{MemberChange, Message, VOTERS_MAX};

use super::history::id32;
use super::{MILLISECOND, SECOND, Time};

const LINK: Time = MILLISECOND;
const TICK: Time = 50 * MILLISECOND;
/// Changes that are measured one by one.
const CHANGES: u64 = 50;
/// Proposals at once while the state is filled.
const BATCH: u32 = 200;
const PATIENCE: Time = 60 * SECOND;

/// What a cluster of so many hosts costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    pub hosts: usize,
    pub endpoints: usize,
    /// Messages and bytes in all links together for one change, until everybody has it, heartbeats included.
    pub messages_per_change: u64,
    pub bytes_per_change: u64,
    /// The same for a second without changes.
    pub idle_messages_per_second: u64,
    pub idle_bytes_per_second: u64,
    /// Simulated time until the last host had a change, in the slowest case.
    pub slowest: Time,
    /// The state as a snapshot.
    pub snapshot_bytes: usize,
}

/// Storage that never fails, kept between two openings.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn with<R>(&self, run: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        run(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let at = offset as usize;
        self.with(|bytes| out.copy_from_slice(&bytes[at..at + out.len()]));
        Ok(())
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.with(|bytes| bytes.resize(length as usize, 0));
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let at = offset as usize;
        self.with(|bytes| bytes[at..at + data.len()].copy_from_slice(data));
        Ok(())
    }
}

enum Event {
    Tick(NodeId),
    Deliver(Vec<u8>),
}

#[derive(Default)]
struct Cluster {
    groups: BTreeMap<NodeId, Group<Shared>>,
    now: Time,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, Event>,
    planned: u64,
    messages: u64,
    bytes: u64,
    requests: u64,
    answered: BTreeSet<RequestId>,
}

const LEADER: NodeId = NodeId(1);

/// Builds a cluster of `hosts` with `endpoints_each` leases and measures it.
pub fn grow(hosts: usize, endpoints_each: usize) -> anyhow::Result<Growth> {
    let mut cluster = Cluster::default();
    cluster.found(hosts)?;
    let network = cluster.fill(hosts, endpoints_each)?;
    let (messages, bytes) = (cluster.messages, cluster.bytes);
    cluster.run(10 * SECOND)?;
    let idle = (cluster.messages - messages, cluster.bytes - bytes);
    let (messages, bytes) = (cluster.messages, cluster.bytes);
    let mut slowest = 0;
    for n in 0..CHANGES {
        let started = cluster.now;
        let node = NodeId(1 + n % hosts as u64);
        cluster.propose(node, reserve(network, (hosts * endpoints_each) as u32 + 1 + n as u32))?;
        cluster.until_level()?;
        slowest = slowest.max(cluster.now - started);
    }
    let leader = &cluster.groups[&LEADER];
    Ok(Growth {
        hosts,
        endpoints: leader.machine().leases().count(),
        messages_per_change: (cluster.messages - messages) / CHANGES,
        bytes_per_change: (cluster.bytes - bytes) / CHANGES,
        idle_messages_per_second: idle.0 / 10,
        idle_bytes_per_second: idle.1 / 10,
        slowest,
        snapshot_bytes: leader.machine().to_bytes().len(),
    })
}

fn reserve(network: NetworkId, number: u32) -> SharedChange {
    SharedChange::Reserve(Reserve {
        endpoint: EndpointId(id32(number)),
        container: ContainerId(id32(number)),
        container_name: format!("container{number}").parse().expect("a name"),
        attachment: Attachment {
            network,
            scope: Scope::Cluster,
            ipv4: None,
            ipv6: None,
            mac: None,
            aliases: Vec::new(),
        },
    })
}

fn info(number: usize) -> NodeInfo {
    let [high, low] = (number as u16).to_be_bytes();
    let address = IpAddr::V4(Ipv4Addr::new(192, 168, high, low));
    NodeInfo {
        name: format!("host{number}").parse().expect("a name"),
        address: (address, 7946).into(),
        vtep: address,
        version: "simulated".into(),
        certificate: None,
    }
}

impl Cluster {
    fn start(&mut self, node: NodeId, birth: Birth) -> anyhow::Result<()> {
        let memory = Memory::default();
        initialise(memory.clone(), node, birth)?;
        let settings = Settings::new(node.0);
        let group = Group::open(Store::on(move || memory.clone()), settings)?;
        self.groups.insert(node, group);
        // Not all at once.
        self.plan(TICK * (node.0 % 50) / 50, Event::Tick(node));
        Ok(())
    }

    /// One leader, all others join as learners, and some are made voters.
    fn found(&mut self, hosts: usize) -> anyhow::Result<()> {
        self.start(LEADER, Birth::Founder { machine: Shared::new().to_bytes() })?;
        self.groups.get_mut(&LEADER).context("just started")?.campaign();
        self.turn(LEADER);
        for number in 1..=hosts {
            self.propose(LEADER, SharedChange::AddNode { info: info(number), role: Role::Voter })?;
        }
        self.until_level()?;
        let others: Vec<NodeId> = (2..=hosts as u64).map(NodeId).collect();
        if others.is_empty() {
            return Ok(());
        }
        for node in &others {
            self.start(*node, Birth::Joiner)?;
        }
        let learners: Vec<_> = others.iter().copied().map(MemberChange::AddLearner).collect();
        self.change(&learners)?;
        let voters = others.iter().take(VOTERS_MAX - 1);
        self.change(&voters.copied().map(MemberChange::AddVoter).collect::<Vec<_>>())
    }

    fn change(&mut self, changes: &[MemberChange]) -> anyhow::Result<()> {
        let deadline = self.now + PATIENCE;
        loop {
            let leader = self.groups.get_mut(&LEADER).context("the leader is there")?;
            if leader.change_members(changes).is_ok() {
                break;
            }
            ensure!(self.now < deadline, "the membership cannot be changed");
            self.run(TICK)?;
        }
        self.turn(LEADER);
        while self.groups[&LEADER].members().is_joint() || self.groups[&LEADER].status().proposals > 0 {
            ensure!(self.now < deadline, "the membership does not settle");
            self.run(TICK)?;
        }
        self.until_level()
    }

    fn fill(&mut self, hosts: usize, endpoints_each: usize) -> anyhow::Result<NetworkId> {
        let network = NetworkId(id32(1));
        let subnet = "10.0.0.0/8".parse().context("a subnet")?;
        let pool = PoolRequest { subnet, gateway: None, ip_range: None, aux_addresses: BTreeMap::new() };
        let request = CreateNetwork {
            id: network,
            name: "net".parse().map_err(|error| anyhow!("{error}"))?,
            driver: Driver::Overlay,
            pools: vec![pool],
            internal: false,
            ipv6: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            occupied: Vec::new(),
            builtin: false,
        };
        self.propose(LEADER, SharedChange::CreateNetwork(request))?;
        let total = (hosts * endpoints_each) as u32;
        for number in 1..=total {
            let node = NodeId(1 + u64::from(number) % hosts as u64);
            self.propose(node, reserve(network, number))?;
            if number % BATCH == 0 {
                self.until_level()?;
            }
        }
        self.until_level()?;
        Ok(network)
    }

    /// In the name of `from`; what is refused ends the measurement.
    fn propose(&mut self, from: NodeId, change: SharedChange) -> anyhow::Result<()> {
        self.requests += 1;
        let request_id = RequestId(u128::from(self.requests).to_be_bytes());
        let leader = self.groups.get_mut(&LEADER).context("the leader is there")?;
        let command = SharedCommand { from, asked_at: leader.machine().requests(), change };
        let envelope = SharedEnvelope { request_id, at_ms: self.now / MILLISECOND, command };
        leader.propose(&envelope)?;
        Ok(())
    }

    fn plan(&mut self, after: Time, event: Event) {
        self.planned += 1;
        self.queue.push(Reverse((self.now + after, self.planned)));
        self.events.insert(self.planned, event);
    }

    fn run(&mut self, time: Time) -> anyhow::Result<()> {
        let end = self.now + time;
        while self.queue.peek().is_some_and(|Reverse((at, _))| *at <= end) {
            self.next()?;
        }
        self.now = end;
        Ok(())
    }

    fn next(&mut self) -> anyhow::Result<()> {
        let Reverse((at, number)) = self.queue.pop().context("ticks go on for ever")?;
        self.now = at;
        match self.events.remove(&number).context("every number has its event")? {
            Event::Tick(node) => {
                self.groups.get_mut(&node).context("no host goes away")?.tick();
                self.plan(TICK, Event::Tick(node));
                self.turn(node);
            }
            Event::Deliver(bytes) => {
                let message = Message::decode(&bytes)?;
                let to = message.to;
                // The first hosts lead; a host that has just come does not know yet that they vote.
                let from = self.groups.get(&message.from).context("no host goes away")?;
                let has_key = from.members().all_voters().any(|voter| voter == message.from);
                let sender = Sender { node: message.from, has_key };
                self.groups.get_mut(&to).context("no host goes away")?.step(sender, message)?;
                self.turn(to);
            }
        }
        Ok(())
    }

    fn turn(&mut self, node: NodeId) {
        let Some(group) = self.groups.get_mut(&node) else { return };
        let mut sent = Vec::new();
        while group.has_ready() {
            let output = group.ready(|message| sent.push(message.encode()));
            let done = output.applied.into_iter().filter(|(_, outcome)| outcome.is_ok());
            self.answered.extend(done.map(|(request, _)| request));
        }
        for bytes in sent {
            self.messages += 1;
            self.bytes += bytes.len() as u64;
            self.plan(LINK, Event::Deliver(bytes));
        }
    }

    /// Until all that was asked is answered, and everybody has it.
    fn until_level(&mut self) -> anyhow::Result<()> {
        self.turn(LEADER);
        let deadline = self.now + PATIENCE;
        let is_level = |cluster: &Cluster| {
            let applied = cluster.groups[&LEADER].applied();
            cluster.answered.len() as u64 == cluster.requests
                && cluster.groups.values().all(|group| group.applied() == applied)
        };
        while !is_level(self) {
            if self.now > deadline {
                bail!("{} of {} changes were answered", self.answered.len(), self.requests);
            }
            self.next()?;
        }
        Ok(())
    }
}
