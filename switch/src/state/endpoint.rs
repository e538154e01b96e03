//! Endpoints: what an attachment has while its container lives, and how it is allocated and released.
//!
//! Allocation is in two steps, so that a command is all or nothing: [`State::allocate`] looks and decides,
//! [`State::insert`] puts in place and cannot fail. In a network of the cluster the addresses were leased there
//! before; what is allocated here is the port and the interface.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::command::{Addresses, Attachment, Driver, NewEndpoint, Scope};
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, Name, NetworkId, PortId};

use super::ledger::{Grant, Ledger, Member, Search};
use super::rejected::Holder;
use super::{Container, ENDPOINTS_MAX, Rejected, State};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: EndpointId,
    pub network: NetworkId,
    pub container: ContainerId,
    /// Absent on the networks none and host, as are port, addresses and interface.
    pub wire: Option<Wire>,
}

/// An endpoint that has an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    pub port: PortId,
    pub mac: MacAddr,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// N of `ethN`.
    pub interface: u8,
}

impl Wire {
    pub fn interface_name(&self) -> String {
        format!("eth{}", self.interface)
    }

    /// IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.granted().ips()
    }

    pub fn granted(&self) -> Addresses {
        Addresses { mac: self.mac, ipv4: self.ipv4, ipv6: self.ipv6 }
    }
}

impl Member for Endpoint {
    fn container(&self) -> ContainerId {
        self.container
    }

    fn addresses(&self) -> Option<Addresses> {
        self.wire.as_ref().map(Wire::granted)
    }
}

/// Endpoints that can be put in place.
#[derive(Debug, Default)]
pub(super) struct Allocation(Vec<(Endpoint, Option<Grant>)>);

impl State {
    /// Endpoints for `attachments`, which belong to `container` and have none yet.
    pub(super) fn allocate(
        &self,
        container: &Container,
        attachments: &[Attachment],
        wanted: &[NewEndpoint],
    ) -> Result<Allocation, Rejected> {
        if self.endpoints.len() + attachments.len() > ENDPOINTS_MAX {
            return Err(Rejected::TooManyEndpoints);
        }
        let wires = self.endpoints_of(&container.id).filter_map(|e| e.wire.as_ref());
        let mut interfaces: BTreeSet<u8> = wires.map(|w| w.interface).collect();
        let mut drawn = BTreeSet::new();
        let mut port = self.next_port;
        let mut allocated = Vec::with_capacity(attachments.len());
        for (attachment, new) in attachments.iter().zip(wanted) {
            if self.endpoints.contains_key(&new.id) || !drawn.insert(new.id) {
                return Err(Rejected::IdTaken(new.id.to_string()));
            }
            let grant = self.grant(container, attachment, new)?;
            let mut endpoint =
                Endpoint { id: new.id, network: attachment.network, container: container.id, wire: None };
            if let Some(Grant { addresses: Addresses { mac, ipv4, ipv6 }, .. }) = grant {
                let free = (0..=u8::MAX).find(|n| !interfaces.contains(n));
                let interface = free.ok_or_else(|| Rejected::TooManyInterfaces(container.name.clone()))?;
                interfaces.insert(interface);
                endpoint.wire = Some(Wire { port: PortId(port), mac, ipv4, ipv6, interface });
                port = port.checked_add(1).ok_or(Rejected::PortsExhausted)?;
            }
            allocated.push((endpoint, grant));
        }
        Ok(Allocation(allocated))
    }

    /// The addresses of a new endpoint; none on a network without interfaces.
    fn grant(
        &self,
        container: &Container,
        attachment: &Attachment,
        new: &NewEndpoint,
    ) -> Result<Option<Grant>, Rejected> {
        let id = attachment.network;
        let who = |endpoint: &Endpoint| self.holder(endpoint);
        if attachment.scope == Scope::Cluster {
            let missing = || Rejected::LeaseMissing { container: container.name.clone(), network: id };
            let lease = new.lease.filter(|lease| lease.ipv4.is_some()).ok_or_else(missing)?;
            if let Some(ledger) = self.ledgers.get(&id) {
                ledger.check_free(&short_name(&id), &lease, &who)?;
            }
            return Ok(Some(Grant::given(lease)));
        }
        let network = self.network(&id).ok_or(Rejected::UnknownNetwork(id))?;
        if new.lease.is_some() {
            return Err(Rejected::LeaseUnwanted { network: network.name.clone() });
        }
        if network.driver != Driver::Bridge {
            return Ok(None);
        }
        let ledger = self.ledgers.get(&id).expect("every local network has a ledger");
        let pools: Vec<_> = network.pools.iter().filter_map(|p| self.address_pool(&p.subnet)).collect();
        let is_reserved = |ip: IpAddr| pools.iter().any(|pool| pool.addresses.contains_key(&ip));
        let kept = self.kept_in(&id);
        let is_kept = |ip: IpAddr| kept.has(ip);
        let search = if self.belongs_to_docker(&id) {
            // An engine's own address driver does not tell what it hands out next.
            Search { downwards: pools.is_empty(), is_reserved: &is_reserved, is_kept: &is_kept }
        } else {
            Search { is_kept: &is_kept, ..Search::ALONE }
        };
        let again = self.as_before(&container.id, attachment);
        ledger.grant(network, &again, search, &who).map(Some)
    }

    pub(super) fn insert(&mut self, allocation: Allocation) {
        for (endpoint, grant) in allocation.0 {
            let endpoint = Arc::new(endpoint);
            let ledger = self.ledger_mut(&endpoint.network);
            match &grant {
                Some(grant) => ledger.enter(&endpoint, grant),
                None => ledger.note(&endpoint),
            }
            if let Some(wire) = &endpoint.wire {
                self.next_port = wire.port.0 + 1;
            }
            self.endpoints.insert(endpoint.id, endpoint);
        }
    }

    /// Made as the first endpoint comes, in a network of the cluster.
    fn ledger_mut(&mut self, network: &NetworkId) -> &mut Ledger<Endpoint> {
        if !self.ledgers.contains_key(network) {
            self.ledgers.insert(*network, Arc::default());
        }
        Arc::make_mut(self.ledgers.get_mut(network).expect("it was just inserted"))
    }

    pub(super) fn release(&mut self, id: &EndpointId) {
        let Some(endpoint) = self.endpoints.remove(id) else { return };
        let ledger = self.ledger_mut(&endpoint.network);
        ledger.strike(&endpoint);
        if ledger.is_empty() && !self.networks.contains_key(&endpoint.network) {
            self.ledgers.remove(&endpoint.network);
        }
    }

    pub(super) fn release_all(&mut self, container: &ContainerId) {
        let ids: Vec<EndpointId> = self.endpoints_of(container).map(|e| e.id).collect();
        ids.iter().for_each(|id| self.release(id));
    }

    pub(super) fn holder(&self, endpoint: &Endpoint) -> Holder {
        let container = self.container(&endpoint.container).expect("an endpoint belongs to a container");
        Holder { container: container.name.clone(), node: None }
    }
}

/// What a network of the cluster is called here, where its name is not known.
pub(super) fn short_name(network: &NetworkId) -> Name {
    network.short().parse().expect("hexadecimal digits make a name")
}
