//! What clients asked and were answered, and what they may be answered: a specification that knows nothing of how the
//! state is kept.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use vswitch::state::Rejected;
use vswitch::state::shared::{Applied, Shared};
use vswitch_proto::command::{
    Attachment, CreateNetwork, Driver, NodeInfo, Reserve, Role, Scope, SharedChange, SharedCommand,
};
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId, NodeId};
use vswitch_proto::peer::VOTERS_MAX;

use super::linear::{self, Event};

/// An operation as a client means it. Networks, endpoints and containers are numbers, see [`id32`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    AddNode {
        number: u32,
    },
    SetVoter {
        node: u64,
    },
    RemoveNode {
        node: u64,
    },
    CreateNetwork {
        network: u32,
        name: u8,
    },
    RemoveNetwork {
        network: u32,
    },
    Reserve {
        endpoint: u32,
        container: u32,
        network: u32,
        wanted: Option<Ipv4Addr>,
    },
    Release {
        endpoint: u32,
    },
    /// Of voters. It is the one request that makes a difference when it is carried out twice, whatever was before.
    RotateToken,
    Read,
}

/// What it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    NodeAdded(u64),
    Reserved(Ipv4Addr),
    Released(usize),
    Rotated(u64),
    Seen(View),
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Fenced,
    NotAMember,
    LastVoter,
    TooManyVoters,
    NameTaken,
    UnknownNetwork,
    NetworkInUse,
    AlreadyLeased,
    AddressInUse,
    /// One that no operation here can be given.
    Unexpected(String),
}

/// The state, as far as clients see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct View {
    /// Whether each node votes.
    pub nodes: BTreeMap<u64, bool>,
    pub networks: BTreeMap<u32, u8>,
    pub leases: BTreeMap<u32, Lease>,
    /// How often the token of voters was rotated.
    pub rotations: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    pub network: u32,
    pub container: u32,
    pub node: u64,
    pub address: Ipv4Addr,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Specification {
    view: View,
    last_node: u64,
}

#[derive(Debug, Clone)]
pub struct Operation {
    pub client: usize,
    /// The node that asks.
    pub from: u64,
    pub request: Request,
    pub answer: Option<Answer>,
}

/// All operations, with the order of their calls and returns.
#[derive(Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    events: Vec<Event>,
}

pub fn id32(number: u32) -> [u8; 32] {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    id[28..].copy_from_slice(&number.to_be_bytes());
    id
}

fn number(id: &[u8; 32]) -> u32 {
    u32::from_be_bytes([id[28], id[29], id[30], id[31]])
}

impl Request {
    /// `None`: a read.
    pub fn command(&self, from: u64, asked_at: u64) -> Option<SharedCommand> {
        let change = match *self {
            Request::AddNode { number } => {
                let [high, low] = (number as u16).to_be_bytes();
                let address = IpAddr::V4(Ipv4Addr::new(192, 0, high, low.wrapping_add(1)));
                let info = NodeInfo {
                    name: format!("host{number}").parse().expect("a name"),
                    address: SocketAddr::new(address, 7946),
                    vtep: address,
                    version: "simulated".into(),
                    certificate: None,
                };
                SharedChange::AddNode { info, role: Role::Voter }
            }
            Request::SetVoter { node } => SharedChange::SetRole { node: NodeId(node), role: Role::Voter },
            Request::RemoveNode { node } => SharedChange::RemoveNode { node: NodeId(node) },
            Request::CreateNetwork { network, name } => SharedChange::CreateNetwork(CreateNetwork {
                id: NetworkId(id32(network)),
                name: format!("net{name}").parse().expect("a name"),
                driver: Driver::Overlay,
                pools: Vec::new(),
                internal: false,
                ipv6: false,
                options: BTreeMap::new(),
                labels: BTreeMap::new(),
                occupied: Vec::new(),
                builtin: false,
            }),
            Request::RemoveNetwork { network } => {
                SharedChange::RemoveNetwork { network: NetworkId(id32(network)) }
            }
            Request::Reserve { endpoint, container, network, wanted } => SharedChange::Reserve(Reserve {
                endpoint: EndpointId(id32(endpoint)),
                container: ContainerId(id32(container)),
                container_name: format!("c{container}").parse().expect("a name"),
                attachment: Attachment {
                    network: NetworkId(id32(network)),
                    scope: Scope::Cluster,
                    ipv4: wanted,
                    ipv6: None,
                    mac: None,
                    aliases: Vec::new(),
                },
            }),
            Request::Release { endpoint } => {
                SharedChange::Release { endpoints: vec![EndpointId(id32(endpoint))] }
            }
            Request::RotateToken => SharedChange::RotateToken { role: Role::Voter },
            Request::Read => return None,
        };
        Some(SharedCommand { from: NodeId(from), asked_at, change })
    }
}

impl From<Result<Applied, Rejected>> for Answer {
    fn from(outcome: Result<Applied, Rejected>) -> Answer {
        let rejected = match outcome {
            Ok(Applied::NodeAdded { node }) => return Answer::NodeAdded(node.0),
            Ok(Applied::Reserved { addresses, .. }) => match addresses.ipv4 {
                Some(address) => return Answer::Reserved(address),
                None => return Answer::Refused(Refusal::Unexpected("a lease without an address".into())),
            },
            Ok(Applied::Released { released }) => return Answer::Released(released),
            Ok(Applied::TokenRotated { epoch, .. }) => return Answer::Rotated(epoch),
            Ok(_) => return Answer::Done,
            Err(rejected) => rejected,
        };
        Answer::Refused(match rejected {
            Rejected::Fenced(_) => Refusal::Fenced,
            Rejected::NotAMember(_) => Refusal::NotAMember,
            Rejected::LastVoter(_) => Refusal::LastVoter,
            Rejected::TooManyVoters => Refusal::TooManyVoters,
            Rejected::NetworkNameTaken(_) => Refusal::NameTaken,
            Rejected::UnknownNetwork(_) => Refusal::UnknownNetwork,
            Rejected::NetworkInUse { .. } => Refusal::NetworkInUse,
            Rejected::AlreadyLeased { .. } => Refusal::AlreadyLeased,
            Rejected::AddressInUse { .. } => Refusal::AddressInUse,
            other => Refusal::Unexpected(other.to_string()),
        })
    }
}

impl View {
    /// Refused if the state gives anything twice.
    pub fn of(shared: &Shared) -> Result<View, String> {
        let mut view = View { rotations: shared.token_epoch(Role::Voter), ..View::default() };
        let mut vnis = BTreeMap::new();
        for node in shared.nodes() {
            view.nodes.insert(node.id.0, node.role == Role::Voter);
        }
        for network in shared.networks() {
            let name =
                network.name.as_str().trim_start_matches("net").parse().map_err(|_| "a foreign name")?;
            view.networks.insert(number(&network.id.0), name);
            if let Some(other) = vnis.insert(network.vni, &network.name) {
                return Err(format!("networks {other} and {} have VNI {}", network.name, network.vni));
            }
        }
        let mut taken = BTreeMap::new();
        for lease in shared.leases() {
            let address = lease.addresses.ipv4.ok_or("a lease without an address")?;
            let network = number(&lease.network.0);
            for what in [address.to_string(), lease.addresses.mac.to_string()] {
                if let Some(other) = taken.insert((network, what.clone()), &lease.container_name) {
                    let name = &lease.container_name;
                    return Err(format!("{other} and {name} have {what} in network {network}"));
                }
            }
            let (container, node) = (number(&lease.container.0), lease.node.0);
            view.leases.insert(number(&lease.endpoint.0), Lease { network, container, node, address });
        }
        Ok(view)
    }
}

impl Specification {
    fn step(&self, operation: &Operation) -> Option<Specification> {
        let answer = operation.answer.as_ref()?;
        if operation.request == Request::Read {
            return (*answer == Answer::Seen(self.view.clone())).then(|| self.clone());
        }
        let is_first = self.last_node == 0 && matches!(operation.request, Request::AddNode { .. });
        if !is_first && !self.view.nodes.contains_key(&operation.from) {
            let removed = (1..=self.last_node).contains(&operation.from);
            let refusal = if removed { Refusal::Fenced } else { Refusal::NotAMember };
            return (*answer == Answer::Refused(refusal)).then(|| self.clone());
        }
        if let Some(refusal) = self.refusal(&operation.request) {
            return (*answer == Answer::Refused(refusal)).then(|| self.clone());
        }
        let mut next = self.clone();
        next.carry_out(operation, answer).then_some(next)
    }

    fn voters(&self) -> usize {
        self.view.nodes.values().filter(|votes| **votes).count()
    }

    fn refusal(&self, request: &Request) -> Option<Refusal> {
        let View { nodes, networks, leases, .. } = &self.view;
        match request {
            Request::SetVoter { node } => match nodes.get(node) {
                None => Some(Refusal::NotAMember),
                Some(false) if self.voters() >= VOTERS_MAX => Some(Refusal::TooManyVoters),
                Some(_) => None,
            },
            Request::RemoveNode { node } => match nodes.get(node) {
                None => Some(Refusal::NotAMember),
                Some(true) if self.voters() == 1 => Some(Refusal::LastVoter),
                Some(_) => None,
            },
            Request::CreateNetwork { name, .. } if networks.values().any(|other| other == name) => {
                Some(Refusal::NameTaken)
            }
            Request::RemoveNetwork { network } | Request::Reserve { network, .. }
                if !networks.contains_key(network) =>
            {
                Some(Refusal::UnknownNetwork)
            }
            Request::RemoveNetwork { network } if leases.values().any(|l| l.network == *network) => {
                Some(Refusal::NetworkInUse)
            }
            Request::Reserve { container, network, wanted, .. } => {
                let mut here = leases.values().filter(|lease| lease.network == *network);
                if here.clone().any(|lease| lease.container == *container) {
                    return Some(Refusal::AlreadyLeased);
                }
                let is_taken = here.any(|lease| Some(lease.address) == *wanted);
                is_taken.then_some(Refusal::AddressInUse)
            }
            _ => None,
        }
    }

    /// False if it cannot have come to `answer`.
    fn carry_out(&mut self, operation: &Operation, answer: &Answer) -> bool {
        let View { nodes, networks, leases, rotations } = &mut self.view;
        match (&operation.request, answer) {
            (Request::AddNode { .. }, Answer::NodeAdded(node)) => {
                let votes = nodes.is_empty();
                self.last_node += 1;
                nodes.insert(*node, votes);
                *node == self.last_node
            }
            (Request::SetVoter { node }, Answer::Done) => nodes.insert(*node, true).is_some(),
            (Request::RemoveNode { node }, Answer::Done) => {
                leases.retain(|_, lease| lease.node != *node);
                nodes.remove(node).is_some()
            }
            (Request::CreateNetwork { network, name }, Answer::Done) => {
                networks.insert(*network, *name).is_none()
            }
            (Request::RemoveNetwork { network }, Answer::Done) => networks.remove(network).is_some(),
            (Request::Reserve { endpoint, container, network, wanted }, Answer::Reserved(address)) => {
                let (network, container, address) = (*network, *container, *address);
                let is_free = !leases.values().any(|l| l.network == network && l.address == address);
                let lease = Lease { network, container, node: operation.from, address };
                let is_new = leases.insert(*endpoint, lease).is_none();
                is_free && is_new && wanted.is_none_or(|wanted| wanted == address)
            }
            (Request::Release { endpoint }, Answer::Released(released)) => {
                usize::from(leases.remove(endpoint).is_some()) == *released
            }
            (Request::RotateToken, Answer::Rotated(epoch)) => {
                *rotations += 1;
                rotations == epoch
            }
            _ => false,
        }
    }
}

impl History {
    pub fn refusals(&self) -> u64 {
        let answers = self.operations.iter().filter_map(|operation| operation.answer.as_ref());
        answers.filter(|answer| matches!(answer, Answer::Refused(_))).count() as u64
    }

    pub fn call(&mut self, client: usize, from: u64, request: Request) -> usize {
        let number = self.operations.len();
        self.operations.push(Operation { client, from, request, answer: None });
        self.events.push(Event::Call(number));
        number
    }

    pub fn answer(&mut self, number: usize, answer: Answer) {
        self.operations[number].answer = Some(answer);
        self.events.push(Event::Return(number));
    }

    /// Of an operation whose client gave up: what became of it, as all nodes say in the end. It happened at any time
    /// since its call, or never and never will.
    pub fn settle(&mut self, number: usize, answer: Option<Answer>) {
        match answer {
            Some(answer) => self.answer(number, answer),
            None => self.events.retain(|event| *event != Event::Call(number)),
        }
    }

    pub fn check(&self) -> Result<(), String> {
        let step = |state: &Specification, op: usize| state.step(&self.operations[op]);
        let Err(at) = linear::check(Specification::default(), &self.events, step) else { return Ok(()) };
        let shown = &self.events[at.saturating_sub(24)..=at];
        let lines = shown.iter().map(|event| match *event {
            Event::Call(op) => format!("  call   {op}: {:?}", self.operations[op].request),
            Event::Return(op) => format!("  return {op}: {:?}", self.operations[op]),
        });
        Err(format!("not linearizable at event {at}:\n{}", lines.collect::<Vec<_>>().join("\n")))
    }
}
