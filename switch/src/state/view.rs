//! Both states as one node sees them: what it has for itself, and what the cluster has.
//!
//! An endpoint in a network of the cluster is in effect while its lease is: while [`Shared`] has a lease of the same id
//! for this node. Without one (the node was removed, or its lease was released by hand) its interface is none, so it
//! cannot use an address that may be another one's by now.

use vswitch_proto::id::{ContainerId, NetworkId, NodeId};

use super::shared::Lease;
use super::{Endpoint, Network, Shared, State, Wire};

#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub local: &'a State,
    pub shared: &'a Shared,
    /// This node.
    pub me: NodeId,
}

/// A cluster that does not exist.
static NOBODY: Shared = Shared::new();

impl<'a> View<'a> {
    /// Of a daemon without a cluster.
    pub fn alone(local: &'a State) -> View<'a> {
        View { local, shared: &NOBODY, me: NodeId(1) }
    }

    /// A network of this node or of the cluster.
    pub fn network(&self, id: &NetworkId) -> Option<&'a Network> {
        self.local.network(id).or_else(|| self.shared.network(id))
    }

    /// The endpoint's interface, if it has one and it is in effect.
    pub fn wire(&self, endpoint: &'a Endpoint) -> Option<&'a Wire> {
        let wire = endpoint.wire.as_ref()?;
        let in_effect = self.local.network(&endpoint.network).is_some() || self.is_leased(endpoint, wire);
        in_effect.then_some(wire)
    }

    fn is_leased(&self, endpoint: &Endpoint, wire: &Wire) -> bool {
        let fits = |lease: &Lease| {
            (lease.node, lease.network, lease.addresses) == (self.me, endpoint.network, wire.granted())
        };
        self.shared.lease(&endpoint.id).is_some_and(fits)
    }

    /// The interfaces of a container that are in effect, in their order.
    pub fn wires_of(
        self,
        container: &ContainerId,
    ) -> impl Iterator<Item = (&'a Endpoint, &'a Wire)> + use<'a> {
        self.local.endpoints_of(container).filter_map(move |e| Some((e, self.wire(e)?)))
    }

    /// The interfaces in a network that are in effect, in the order of the containers' ids.
    pub fn wires_in(self, network: &NetworkId) -> impl Iterator<Item = (&'a Endpoint, &'a Wire)> + use<'a> {
        self.local.endpoints_in(network).filter_map(move |e| Some((e, self.wire(e)?)))
    }

    /// Leases of this node that no endpoint has: to be released.
    pub fn stale_leases(self) -> impl Iterator<Item = &'a Lease> + use<'a> {
        self.shared.leases_of(self.me).filter(move |lease| self.local.endpoint(&lease.endpoint).is_none())
    }

    /// Endpoints in networks of the cluster that have no lease: to be reserved again, with the same id and addresses.
    pub fn unleased_endpoints(self) -> impl Iterator<Item = &'a Endpoint> + use<'a> {
        let unleased = move |e: &&'a Endpoint| e.wire.is_some() && self.wire(e).is_none();
        self.local.overlays().flat_map(move |id| self.local.endpoints_in(id)).filter(unleased)
    }
}
