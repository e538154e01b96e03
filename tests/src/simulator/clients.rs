//! Clients: each asks one thing at a time, of whichever host, and asks again under the same id until it is answered.

use std::net::Ipv4Addr;

use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use vswitch::cluster::{Machine as _, NotProposed};
use vswitch_proto::command::SharedEnvelope;
use vswitch_proto::id::{NodeId, RequestId};

use super::history::{Answer, Request, View};
use super::world::{Event, Outcome, World};
use super::{Bug, MILLISECOND, Time};

/// Names that networks have.
const NAMES: u8 = 4;
const CONTAINERS: u32 = 24;
/// Networks that clients remember.
const NETWORKS_KNOWN: usize = 6;
/// How often an answer gets lost on its way.
const ANSWER_LOSS: f64 = 0.03;
/// How often a client that has tried before gives up.
const GIVING_UP: f64 = 0.05;
/// Of one run: each is one more that may have happened at any time.
const GIVEN_UP_MAX: usize = 6;

/// Client 0 is the administrator, whose requests are not drawn here.
#[derive(Debug, Default)]
pub struct Client {
    asking: Option<Asking>,
    /// To be asked next: the second half of a move.
    next: Option<(u64, Request)>,
    leases: Vec<Held>,
    pub last: Option<Answer>,
}

#[derive(Debug)]
struct Asking {
    operation: usize,
    request_id: RequestId,
    command: Option<SharedEnvelope>,
    attempt: u64,
    /// Who said to know better.
    hint: Option<NodeId>,
    /// The attempt's, if it is a read.
    token: u64,
    host: Option<NodeId>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    endpoint: u32,
    network: u32,
    container: u32,
    node: u64,
    address: Ipv4Addr,
}

impl Client {
    pub fn is_idle(&self) -> bool {
        self.asking.is_none()
    }
}

impl World {
    pub fn client(&mut self, client: usize, attempt: u64) -> Result<(), String> {
        let asked = self.clients[client].asking.as_ref().map(|asking| asking.attempt);
        match asked {
            Some(last) if last == attempt && !self.gives_up(client) => self.attempt(client),
            Some(_) => {}
            None if attempt == 0 && client > 0 && !self.healing => {
                let (from, request) = self.draw(client);
                self.ask_as(client, from, request);
            }
            None => {}
        }
        Ok(())
    }

    /// A client forgets what it asked for, and goes on with something else.
    fn gives_up(&mut self, client: usize) -> bool {
        let is_command = self.clients[client].asking.as_ref().is_some_and(|asking| asking.command.is_some());
        if client == 0 || !is_command || self.healing || self.given_up.len() >= GIVEN_UP_MAX {
            return false;
        }
        let gives_up = self.rng.random_bool(GIVING_UP);
        if let Some(asking) = self.clients[client].asking.take_if(|_| gives_up) {
            self.trace(|| format!("client {client} gives up"));
            self.count("operations given up");
            self.given_up.push((asking.operation, asking.request_id));
            self.plan(MILLISECOND, Event::Client(client, 0));
        }
        gives_up
    }

    /// As a node that is a member for all the client knows.
    pub fn ask(&mut self, client: usize, request: Request) {
        let from = self.leader().map_or(1, |leader| leader.0);
        self.ask_as(client, from, request);
    }

    fn ask_as(&mut self, client: usize, from: u64, request: Request) {
        self.trace(|| format!("client {client} of {from}: {request:?}"));
        let operation = self.history.call(client, from, request.clone());
        let request_id = self.new_request_id();
        let command = request.command(from, self.requests_somewhere());
        let command = command.map(|command| SharedEnvelope { request_id, at_ms: self.now / 1000, command });
        let asking = Asking { operation, request_id, command, attempt: 1, hint: None, token: 0, host: None };
        self.clients[client].asking = Some(asking);
        self.clients[client].last = None;
        self.attempt(client);
    }

    /// What some host knows, which may be little.
    fn requests_somewhere(&mut self) -> u64 {
        let groups = self.hosts.values().filter_map(|host| host.group.as_ref());
        let counts: Vec<u64> = groups.map(|group| group.machine().shared.requests()).collect();
        counts.choose(&mut self.rng).copied().unwrap_or(0)
    }

    fn new_request_id(&mut self) -> RequestId {
        RequestId(self.rng.random())
    }

    fn draw(&mut self, client: usize) -> (u64, Request) {
        if let Some(next) = self.clients[client].next.take() {
            return next;
        }
        let members: Vec<u64> = self.admin.nodes.clone();
        let from = *members.choose(&mut self.rng).unwrap_or(&1);
        let network = self.admin.networks.choose(&mut self.rng).copied();
        let number = self.admin.next_number();
        let held = self.clients[client].leases.len();
        let request = match (self.rng.random_range(0..100), network) {
            (0..25, _) => Request::Read,
            (25..35, _) | (_, None) => {
                Request::CreateNetwork { network: number, name: self.rng.random_range(0..NAMES) }
            }
            (35..39, Some(network)) => Request::RemoveNetwork { network },
            (39..42, Some(_)) => Request::RotateToken,
            (42..75, Some(network)) => {
                let container = self.rng.random_range(0..CONTAINERS);
                Request::Reserve { endpoint: number, container, network, wanted: None }
            }
            (_, Some(_)) if held == 0 => Request::Read,
            (roll, Some(_)) => {
                let at = self.rng.random_range(0..held);
                let lease = self.clients[client].leases.swap_remove(at);
                if roll >= 88 {
                    // A move: somewhere else, under the same address.
                    let Held { container, network, address, .. } = lease;
                    let wanted = Some(address);
                    let reserve = Request::Reserve { endpoint: number, container, network, wanted };
                    self.clients[client].next = Some((from, reserve));
                    self.count("moves");
                }
                return (lease.node, Request::Release { endpoint: lease.endpoint });
            }
        };
        (from, request)
    }

    /// Asks a host, and comes back if nothing is heard.
    fn attempt(&mut self, client: usize) {
        let patience = self.rng.random_range(100..600) * MILLISECOND;
        let leader = self.leader();
        let hosts: Vec<NodeId> = self.hosts.keys().copied().collect();
        let any = *hosts.choose(&mut self.rng).expect("there is a host");
        let knows = self.rng.random_bool(0.6);
        let fresh = self.new_request_id();
        let (bug, token) = (self.setup.bug, self.admin.next_token());
        let Some(asking) = self.clients[client].asking.as_mut() else { return };
        if bug == Some(Bug::AppliesRetries) && asking.attempt > 1 {
            asking.request_id = fresh;
            if let Some(command) = asking.command.as_mut() {
                command.request_id = fresh;
            }
        }
        asking.attempt += 1;
        let node = asking.hint.take().or(leader.filter(|_| knows)).unwrap_or(any);
        (asking.token, asking.host) = (token, Some(node));
        let (attempt, command) = (asking.attempt, asking.command.clone());
        let retry = match command {
            Some(command) => self.propose(client, node, &command, patience),
            None => self.read(client, node, token, patience),
        };
        self.plan(retry, Event::Client(client, attempt));
    }

    /// After how long to try again.
    fn propose(&mut self, client: usize, node: NodeId, command: &SharedEnvelope, patience: Time) -> Time {
        let Some(group) = self.group(node) else { return patience };
        let refused = group.propose(command).err();
        let soon = self.rng.random_range(1..20) * MILLISECOND;
        let retry = match refused {
            None => {
                if self.setup.bug == Some(Bug::AnswersBeforePersist) {
                    self.answer_early(client, node, command);
                }
                patience
            }
            Some(NotProposed::NotLeader { leader }) => {
                if let Some(asking) = self.clients[client].asking.as_mut() {
                    asking.hint = leader;
                }
                soon
            }
            Some(_) => soon,
        };
        self.touch(node);
        retry
    }

    fn answer_early(&mut self, client: usize, node: NodeId, command: &SharedEnvelope) {
        let Some(machine) = self.group(node).map(|group| group.machine().clone()) else { return };
        let outcome = (*machine).clone().apply(command);
        self.complete(client, Answer::from(outcome));
    }

    fn read(&mut self, client: usize, node: NodeId, token: u64, patience: Time) -> Time {
        let is_planted = self.setup.bug == Some(Bug::StaleReads);
        let Some(group) = self.group(node) else { return patience };
        if is_planted {
            let view = View::of(&group.machine().shared);
            if let Ok(view) = view {
                self.complete(client, Answer::Seen(view));
            }
        } else if !group.read(token) {
            return MILLISECOND;
        }
        self.touch(node);
        patience
    }

    /// A node has the outcome of what was proposed to it.
    pub fn answered(&mut self, _node: NodeId, request: RequestId, outcome: Outcome) {
        if self.rng.random_bool(ANSWER_LOSS) && !self.healing {
            return;
        }
        let asked =
            |client: &Client| client.asking.as_ref().is_some_and(|asking| asking.request_id == request);
        if let Some(client) = self.clients.iter().position(asked) {
            self.complete(client, Answer::from(outcome));
        }
    }

    /// A node gave up on what was proposed to it.
    pub fn lost(&mut self, node: NodeId, request: RequestId) {
        let asked = |client: &Client| {
            let asking = client.asking.as_ref();
            asking.is_some_and(|asking| asking.request_id == request && asking.host == Some(node))
        };
        if let Some(client) = self.clients.iter().position(asked) {
            self.retry(client);
        }
    }

    fn retry(&mut self, client: usize) {
        let soon = self.rng.random_range(1..30) * MILLISECOND;
        if let Some(asking) = &self.clients[client].asking {
            let attempt = asking.attempt;
            self.plan(soon, Event::Client(client, attempt));
        }
    }

    pub fn read_done(&mut self, node: NodeId, token: u64, done: bool) -> Result<(), String> {
        let asked = |client: &Client| {
            client.asking.as_ref().is_some_and(|asking| asking.token == token && asking.command.is_none())
        };
        let Some(client) = self.clients.iter().position(asked) else { return Ok(()) };
        if !done {
            self.retry(client);
            return Ok(());
        }
        if let Some(group) = self.group(node) {
            let view = View::of(&group.machine().shared)?;
            self.complete(client, Answer::Seen(view));
        }
        Ok(())
    }

    fn complete(&mut self, client: usize, answer: Answer) {
        let Some(asking) = self.clients[client].asking.take() else { return };
        let operation = self.history.operations[asking.operation].clone();
        self.trace(|| format!("client {client} is answered: {answer:?}"));
        self.history.answer(asking.operation, answer.clone());
        self.remember(client, &operation.request, operation.from, &answer);
        self.clients[client].last = Some(answer);
        let think = self.rng.random_range(1..40) * MILLISECOND;
        self.plan(think, Event::Client(client, 0));
    }

    fn remember(&mut self, client: usize, request: &Request, from: u64, answer: &Answer) {
        match (request, answer) {
            (Request::CreateNetwork { network, .. }, Answer::Done) => {
                self.admin.networks.push(*network);
                if self.admin.networks.len() > NETWORKS_KNOWN {
                    self.admin.networks.remove(0);
                }
            }
            (Request::Reserve { endpoint, container, network, .. }, Answer::Reserved(address)) => {
                let (endpoint, network, container) = (*endpoint, *network, *container);
                let held = Held { endpoint, network, container, node: from, address: *address };
                self.clients[client].leases.push(held);
            }
            _ => {}
        }
    }
}
