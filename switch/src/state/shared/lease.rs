//! Leases: who has which addresses in an overlay network, on which node.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::command::{Addresses, Attachment, Reserve};
use vswitch_proto::id::{ContainerId, EndpointId, Name, NetworkId, NodeId};

use super::super::ALIASES_MAX;
use super::super::ledger::{Ledger, Member, Search};
use super::super::rejected::Holder;
use super::{Applied, LEASES_MAX, Network, Rejected, Shared};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The endpoint that uses it bears the same id in its node's own state.
    pub endpoint: EndpointId,
    pub network: NetworkId,
    pub node: NodeId,
    pub container: ContainerId,
    pub container_name: Name,
    pub aliases: Vec<Name>,
    pub addresses: Addresses,
}

impl Member for Lease {
    fn container(&self) -> ContainerId {
        self.container
    }

    fn addresses(&self) -> Option<Addresses> {
        Some(self.addresses)
    }
}

impl Shared {
    /// Whether the network exists and could give such addresses, whoever has them. For an attachment that is to be
    /// used later.
    pub fn check_wanted(&self, wanted: &Attachment) -> Result<&Network, Rejected> {
        let network = self.network(&wanted.network).ok_or(Rejected::UnknownNetwork(wanted.network))?;
        network.check_wanted(wanted)?;
        Ok(network)
    }

    pub(super) fn reserve(&mut self, from: NodeId, request: &Reserve) -> Result<Applied, Rejected> {
        let Reserve { endpoint, container, container_name, attachment } = request;
        if self.leases.contains_key(endpoint) {
            return Err(Rejected::IdTaken(endpoint.to_string()));
        }
        if self.leases.len() >= LEASES_MAX {
            return Err(Rejected::TooManyLeases);
        }
        let network = self.check_wanted(attachment)?;
        if attachment.aliases.len() > ALIASES_MAX {
            return Err(Rejected::TooManyAliases(container_name.clone()));
        }
        let ledger = self.ledgers.get(&network.id).expect("every network has a ledger");
        if let Some(lease) = ledger.at(container) {
            let holder = self.holder(lease);
            return Err(Rejected::AlreadyLeased { holder, network: network.name.clone() });
        }
        let grant = ledger.grant(network, attachment, Search::ALONE, &|lease| self.holder(lease))?;
        let lease = Arc::new(Lease {
            endpoint: *endpoint,
            network: network.id,
            node: from,
            container: *container,
            container_name: container_name.clone(),
            aliases: attachment.aliases.clone(),
            addresses: grant.addresses,
        });
        self.ledger_mut(&lease.network).enter(&lease, &grant);
        self.leases.insert(*endpoint, lease);
        Ok(Applied::Reserved { endpoint: *endpoint, addresses: grant.addresses })
    }

    pub(super) fn release(&mut self, from: NodeId, endpoints: &[EndpointId]) -> Result<Applied, Rejected> {
        let mut found = endpoints.iter().filter_map(|endpoint| self.lease(endpoint));
        if let Some(foreign) = found.find(|lease| lease.node != from) {
            return Err(Rejected::LeaseOfAnother(self.holder(foreign)));
        }
        let before = self.leases.len();
        endpoints.iter().for_each(|endpoint| self.take_back(endpoint));
        Ok(Applied::Released { released: before - self.leases.len() })
    }

    pub(super) fn describe(
        &mut self,
        from: NodeId,
        endpoint: &EndpointId,
        container: ContainerId,
        (name, aliases): (&Name, &[Name]),
    ) -> Result<Applied, Rejected> {
        let lease = self.lease(endpoint).ok_or(Rejected::UnknownLease(*endpoint))?;
        if lease.node != from {
            return Err(Rejected::LeaseOfAnother(self.holder(lease)));
        }
        if aliases.len() > ALIASES_MAX {
            return Err(Rejected::TooManyAliases(name.clone()));
        }
        let network = self.network(&lease.network).expect("a lease's network exists");
        if let Some(other) =
            self.lease_at(&container, &lease.network).filter(|other| other.endpoint != *endpoint)
        {
            return Err(Rejected::AlreadyLeased {
                holder: self.holder(other),
                network: network.name.clone(),
            });
        }
        let described = Arc::new(Lease {
            container,
            container_name: name.clone(),
            aliases: aliases.to_vec(),
            ..lease.clone()
        });
        self.take_back(endpoint);
        self.ledger_mut(&described.network).note(&described);
        self.leases.insert(*endpoint, described);
        Ok(Applied::Described { endpoint: *endpoint })
    }

    pub(super) fn take_back(&mut self, endpoint: &EndpointId) {
        let Some(lease) = self.leases.remove(endpoint) else { return };
        self.ledger_mut(&lease.network).strike(&lease);
    }

    fn ledger_mut(&mut self, network: &NetworkId) -> &mut Ledger<Lease> {
        Arc::make_mut(self.ledgers.get_mut(network).expect("every network has a ledger"))
    }

    pub(super) fn holder(&self, lease: &Lease) -> Holder {
        let node = self.node(lease.node).expect("a lease is a member's");
        Holder { container: lease.container_name.clone(), node: Some(node.info.name.clone()) }
    }
}
