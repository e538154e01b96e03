//! What is true: networks, containers and endpoints, changed only by [`State::apply`].
//!
//! # Theory of operation
//! The state is a deterministic machine. Its input is a sequence of [`Envelope`]s; everything random or read from
//! the host travels in them. Two machines that applied the same sequence are equal, and so are their
//! [`State::digest`]s, which is what a replicated log needs. Addresses, MACs, VNIs, port and interface numbers are
//! allocated inside `apply`, never looked up before and asked for after.
//!
//! A command either applies as a whole or is [`Rejected`] and changes nothing but the memory of requests: each
//! handler first decides with `&self` and then changes with steps that cannot fail. The memory of requests
//! belongs to the state, rejections included, so a command that is proposed twice is answered the same twice.
//!
//! Values are behind [`Arc`], so that a copy of the state costs its maps, not its contents, and a comparison of
//! two states skips what is shared.
//!
//! # Invariants
//! 1. Names of networks are unique, so are names of containers, VNIs, port numbers and all ids.
//! 2. In one network no two endpoints share an address or a MAC, and none has the gateway's or an auxiliary address.
//! 3. A container has an endpoint for each of its attachments exactly while it is created or running, save where
//!    the attachment's network is gone, which only happens while it is exited.
//! 4. Subnets of networks do not overlap. Port numbers are never used twice; VNIs not at once.
//! 5. Every collection has a bound, named below; reaching it is a rejection that says so.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::command::{Command, Envelope};
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId, RequestId};

mod changes;
mod container;
mod endpoint;
mod ipam;
mod lookup;
#[cfg(test)]
mod model;
pub mod names;
mod network;
mod rejected;
mod requests;
mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use changes::Change;
pub use container::{Container, Phase};
pub use endpoint::{Endpoint, Wire, gateway_mac};
pub use ipam::Pool;
pub use lookup::LookupError;
pub use network::Network;
pub use rejected::{NotAHost, Rejected, ReservedRange};
pub use snapshot::SnapshotError;

use network::Ledger;
use requests::Requests;

pub const NETWORKS_MAX: usize = 1024;
pub const CONTAINERS_MAX: usize = 8192;
/// Over all networks.
pub const ENDPOINTS_MAX: usize = 16384;
/// Of one container.
pub const INTERFACES_MAX: usize = 64;
/// Of one container in one network.
pub const ALIASES_MAX: usize = 64;
/// Of one subnet.
pub const AUX_ADDRESSES_MAX: usize = 256;

/// The one driver option, bytes of the largest IP packet.
pub const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// RFC 791 section 3.2.
pub const MTU_MIN: u32 = 68;
/// RFC 8200 section 5.
pub const IPV6_MTU_MIN: u32 = 1280;

/// The machine. See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    networks: BTreeMap<NetworkId, Arc<Network>>,
    containers: BTreeMap<ContainerId, Arc<Container>>,
    endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    /// One per network.
    ledgers: BTreeMap<NetworkId, Arc<Ledger>>,
    next_port: u32,
    next_vni: u32,
    requests: Requests,
}

/// What a command made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    NetworkCreated {
        network: NetworkId,
    },
    NetworkRemoved {
        network: NetworkId,
    },
    ContainerCreated {
        container: ContainerId,
    },
    ContainerStarted {
        container: ContainerId,
    },
    ContainerExited {
        container: ContainerId,
    },
    ContainerRemoved {
        container: ContainerId,
    },
    /// Without an endpoint while the container does not live.
    Connected {
        container: ContainerId,
        network: NetworkId,
        endpoint: Option<EndpointId>,
    },
    Disconnected {
        container: ContainerId,
        network: NetworkId,
        endpoint: Option<EndpointId>,
    },
}

impl State {
    /// Nothing at all, the default networks neither.
    pub fn new() -> State {
        State::default()
    }

    /// Applies one entry of the log. A request id seen before is answered as then and changes nothing.
    pub fn apply(&mut self, envelope: &Envelope) -> Result<Applied, Rejected> {
        if let Some(outcome) = self.requests.get(&envelope.request_id) {
            return outcome.clone();
        }
        let outcome = self.apply_command(&envelope.command, envelope.at_ms);
        self.requests.put(envelope.request_id, outcome.clone());
        outcome
    }

    /// What was answered to a request that is still remembered.
    pub fn outcome(&self, request: &RequestId) -> Option<&Result<Applied, Rejected>> {
        self.requests.get(request)
    }

    fn apply_command(&mut self, command: &Command, at_ms: u64) -> Result<Applied, Rejected> {
        match command {
            Command::CreateNetwork(request) => self.create_network(request, at_ms),
            Command::RemoveNetwork { network } => self.remove_network(network),
            Command::CreateContainer(request) => self.create_container(request, at_ms),
            Command::StartContainer { container, endpoints } => {
                self.start_container(container, endpoints, at_ms)
            }
            Command::ContainerExited { container, exit_code, error } => {
                let phase = Phase::Exited { code: *exit_code, error: error.clone() };
                self.container_exited(container, phase, at_ms)
            }
            Command::RemoveContainer { container } => self.remove_container(container),
            Command::Connect { container, attachment, endpoint } => {
                self.connect(container, attachment, *endpoint)
            }
            Command::Disconnect { container, network } => self.disconnect(container, network),
        }
    }

    /// In the order of their ids.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values().map(Arc::as_ref)
    }

    pub fn network(&self, id: &NetworkId) -> Option<&Network> {
        self.networks.get(id).map(Arc::as_ref)
    }

    /// In the order of their ids.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.values().map(Arc::as_ref)
    }

    pub fn container(&self, id: &ContainerId) -> Option<&Container> {
        self.containers.get(id).map(Arc::as_ref)
    }

    /// In the order of their ids.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values().map(Arc::as_ref)
    }

    pub fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id).map(Arc::as_ref)
    }

    /// The endpoint of a container in a network.
    pub fn endpoint_at(&self, container: &ContainerId, network: &NetworkId) -> Option<&Endpoint> {
        self.ledgers.get(network)?.by_container.get(container).map(Arc::as_ref)
    }

    /// In the order of the interfaces; those without one first.
    pub fn endpoints_of(&self, container: &ContainerId) -> impl Iterator<Item = &Endpoint> + use<'_> {
        let attachments = self.containers.get(container).map_or(&[][..], |c| &c.attachments);
        let mut endpoints: Vec<&Endpoint> =
            attachments.iter().filter_map(|a| self.endpoint_at(container, &a.network)).collect();
        endpoints.sort_by_key(|e| e.wire.as_ref().map(|w| w.interface));
        endpoints.into_iter()
    }

    /// In the order of the containers' ids.
    pub fn endpoints_in(&self, network: &NetworkId) -> impl Iterator<Item = &Endpoint> + use<'_> {
        let endpoints = self.ledgers.get(network).map(|ledger| ledger.by_container.values());
        endpoints.into_iter().flatten().map(Arc::as_ref)
    }
}
