//! What the nodes of a cluster have together: who they are, overlay networks, and leases of addresses in them.
//!
//! # Theory of operation
//! A machine like [`State`](super::State), with the same rules: [`Shared::apply`] is deterministic, takes a command as
//! a whole or not at all, remembers requests, and allocates node ids, VNIs, addresses and MACs by itself.
//!
//! A **lease** is an endpoint's place in an overlay network: addresses of a container on one node. The node reserves
//! it before its own state makes the endpoint, and releases it after the endpoint is gone. An address is free again at
//! once, so that a container that moves to another node takes its addresses along.
//!
//! Every command names the node that asks. Only members are heard. A node that was removed is told that it is fenced,
//! for ever: ids rise and are never used again, so an id below the next one that is no member's was removed.
//!
//! # Invariants
//! 1. Names, addresses and tunnel endpoints of nodes are unique; tunnel endpoints are of one family. While there is a
//!    node there is a voter, and there are at most [`VOTERS_MAX`].
//! 2. Names and VNIs of networks are unique, and subnets do not overlap. VNIs are not below
//!    [`Vni::FIRST_OVERLAY`](vswitch_proto::id::Vni::FIRST_OVERLAY).
//! 3. In one network no two leases share an address, a MAC or a container, and none has the gateway's or an auxiliary
//!    address. Every lease is a member's.
//! 4. A [`Binding`] is a member's, and its network exists.
//! 5. Every collection has a bound, named below; reaching it is a rejection that says so.
//!
//! # Limits
//! Whether a name or a subnet is that of a node's own network is not known here. The proposer passes the subnets of
//! its own networks among those that are `occupied`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::command::{Addresses, Role, SharedChange, SharedCommand, SharedEnvelope};
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId, NodeId, RequestId};

use super::ledger::Ledger;
use super::requests::Requests;
use super::sharded::Sharded;
use super::{Change, Network, Rejected};

mod authority;
mod binding;
mod lease;
#[cfg(test)]
mod model;
mod network;
mod node;
mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use authority::{Authorities, CERTIFICATE_BYTES_MAX};
pub use binding::Binding;
pub use lease::Lease;
pub use node::{Membership, Node};

pub const NODES_MAX: usize = 1024;
pub const VOTERS_MAX: usize = 7;
/// Over all networks.
pub const LEASES_MAX: usize = 65536;
/// Over all nodes.
pub const BINDINGS_MAX: usize = 65536;
/// Of the requests that are remembered: 32,768 to 36,864. At 6,000 requests a second those are the last five seconds,
/// which is how long a node asks again by itself.
const GENERATION: usize = 4096;
/// Of a node's version.
pub const VERSION_BYTES_MAX: usize = 64;

/// The machine. See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared {
    nodes: Sharded<NodeId, Arc<Node>>,
    networks: Sharded<NetworkId, Arc<Network>>,
    leases: Sharded<EndpointId, Arc<Lease>>,
    /// By Docker's ids.
    bindings: Sharded<NetworkId, Arc<Binding>>,
    /// One per network.
    ledgers: Sharded<NetworkId, Arc<Ledger<Lease>>>,
    /// The highest id that a node ever had.
    last_node: u64,
    next_vni: u32,
    tokens: TokenEpochs,
    authorities: Option<Arc<Authorities>>,
    requests: Requests<Applied, GENERATION>,
}

/// How often the join token of each role was rotated. The tokens themselves are no part of the state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct TokenEpochs {
    voter: u64,
    learner: u64,
}

/// What a command made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    NodeAdded { node: NodeId },
    NodeUpdated { node: NodeId },
    RoleSet { node: NodeId, role: Role },
    NodeRemoved { node: NodeId, released: usize },
    NetworkCreated { network: NetworkId },
    NetworkRemoved { network: NetworkId },
    Reserved { endpoint: EndpointId, addresses: Addresses },
    Released { released: usize },
    TokenRotated { role: Role, epoch: u64 },
    Described { endpoint: EndpointId },
    AuthorityRotated { generation: u64 },
    AuthorityTaken { node: NodeId },
    AuthorityDropped { generation: u64 },
    Bound { docker: NetworkId },
    Unbound { unbound: usize },
}

impl Shared {
    /// Without nodes.
    pub const fn new() -> Shared {
        Shared {
            nodes: Sharded::new(),
            networks: Sharded::new(),
            leases: Sharded::new(),
            bindings: Sharded::new(),
            ledgers: Sharded::new(),
            last_node: 0,
            next_vni: 0,
            tokens: TokenEpochs { voter: 0, learner: 0 },
            authorities: None,
            requests: Requests::new(),
        }
    }

    /// Applies one entry of the log. A request id seen before is answered as then and changes nothing; one that may
    /// have been seen before what is remembered is refused.
    pub fn apply(&mut self, envelope: &SharedEnvelope) -> Result<Applied, Rejected> {
        if let Some(outcome) = self.requests.get(&envelope.request_id) {
            return outcome.cloned().map_err(Clone::clone);
        }
        let outcome = if self.requests.may_be_forgotten(envelope.command.asked_at) {
            Err(Rejected::TooLate)
        } else {
            self.apply_command(&envelope.command, envelope.at_ms)
        };
        self.requests.put(envelope.request_id, outcome.clone());
        outcome
    }

    /// What was answered to a request that is still remembered.
    pub fn outcome(&self, request: &RequestId) -> Option<Result<&Applied, &Rejected>> {
        self.requests.get(request)
    }

    /// Whether a request was answered and is still remembered.
    pub fn is_settled(&self, request: &RequestId) -> bool {
        self.requests.contains(request)
    }

    /// How many there ever were. Whoever asks notes it before the first attempt, see
    /// [`asked_at`](vswitch_proto::command::SharedCommand::asked_at).
    pub fn requests(&self) -> u64 {
        self.requests.count()
    }

    fn apply_command(&mut self, command: &SharedCommand, at_ms: u64) -> Result<Applied, Rejected> {
        let from = command.from;
        self.check_asker(command)?;
        match &command.change {
            SharedChange::AddNode { info, role } => self.add_node(info, *role, at_ms),
            SharedChange::UpdateNode { node, info } => self.update_node(*node, info),
            SharedChange::SetRole { node, role } => self.set_role(*node, *role),
            SharedChange::RemoveNode { node } => self.remove_node(*node),
            SharedChange::CreateNetwork(request) => self.create_network(request, at_ms),
            SharedChange::RemoveNetwork { network } => self.remove_network(network),
            SharedChange::Reserve(request) => self.reserve(from, request),
            SharedChange::Release { endpoints } => self.release(from, endpoints),
            SharedChange::RotateToken { role } => self.rotate_token(*role),
            SharedChange::Describe { endpoint, container, container_name, aliases } => {
                self.describe(from, endpoint, *container, (container_name, aliases))
            }
            SharedChange::RotateAuthority { certificate, cross } => {
                self.rotate_authority(certificate, cross, at_ms)
            }
            SharedChange::TakeAuthority { generation } => self.take_authority(from, *generation),
            SharedChange::DropAuthority { generation } => self.drop_authority(*generation),
            SharedChange::Bind { network, docker, name } => {
                self.bind(Binding { docker: *docker, network: *network, node: from, name: name.clone() })
            }
            SharedChange::Unbind { docker } => self.unbind(from, docker),
        }
    }

    fn rotate_token(&mut self, role: Role) -> Result<Applied, Rejected> {
        let epoch = match role {
            Role::Voter => &mut self.tokens.voter,
            Role::Learner => &mut self.tokens.learner,
        };
        *epoch += 1;
        Ok(Applied::TokenRotated { role, epoch: *epoch })
    }

    /// Of the join token that is valid at present.
    pub fn token_epoch(&self, role: Role) -> u64 {
        match role {
            Role::Voter => self.tokens.voter,
            Role::Learner => self.tokens.learner,
        }
    }

    fn check_asker(&self, command: &SharedCommand) -> Result<(), Rejected> {
        let first = self.last_node == 0 && matches!(command.change, SharedChange::AddNode { .. });
        match self.membership(command.from) {
            Membership::Member => Ok(()),
            _ if first => Ok(()),
            Membership::Removed => Err(Rejected::Fenced(command.from)),
            Membership::Unknown => Err(Rejected::NotAMember(command.from)),
        }
    }

    /// In the order of their ids.
    pub fn networks(&self) -> impl Iterator<Item = &Network> + Clone {
        self.networks.values().map(Arc::as_ref)
    }

    pub fn network(&self, id: &NetworkId) -> Option<&Network> {
        self.networks.get(id).map(Arc::as_ref)
    }

    /// In the order of their ids.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> + Clone {
        self.leases.values().map(Arc::as_ref)
    }

    pub fn lease(&self, id: &EndpointId) -> Option<&Lease> {
        self.leases.get(id).map(Arc::as_ref)
    }

    /// The lease of a container in a network, whichever node it is on.
    pub fn lease_at(&self, container: &ContainerId, network: &NetworkId) -> Option<&Lease> {
        self.ledgers.get(network)?.at(container)
    }

    /// In the order of the containers' ids.
    pub fn leases_in(&self, network: &NetworkId) -> impl Iterator<Item = &Lease> + Clone + use<'_> {
        self.ledgers.get(network).into_iter().flat_map(|ledger| ledger.members())
    }

    /// In the order of their ids. Looks at all leases.
    pub fn leases_of(&self, node: NodeId) -> impl Iterator<Item = &Lease> + Clone + use<'_> {
        self.leases().filter(move |lease| lease.node == node)
    }

    pub fn changed_leases<'a>(&'a self, old: &'a Shared) -> Vec<Change<'a, Lease>> {
        self.leases.changes(&old.leases)
    }

    /// Whether nothing happened to a network and its leases between a copy of this state and the other. Says no also
    /// where what is compared is equal and not shared.
    pub fn shares_network(&self, other: &Shared, id: &NetworkId) -> bool {
        super::same(self.networks.get(id), other.networks.get(id))
            && super::same(self.ledgers.get(id), other.ledgers.get(id))
    }

    /// The same for the nodes.
    pub fn shares_nodes(&self, other: &Shared) -> bool {
        self.nodes.is_same(&other.nodes)
    }

    /// The same for what engines have of the networks.
    pub fn shares_bindings(&self, other: &Shared) -> bool {
        self.bindings.is_same(&other.bindings)
    }
}
