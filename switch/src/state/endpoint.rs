//! Endpoints: what an attachment has while its container lives, and how it is allocated and released.
//!
//! Allocation is in two steps, so that a command is all or nothing: [`State::allocate`] looks and decides,
//! [`State::insert`] puts in place and cannot fail.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::command::{Attachment, Driver};
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, NetworkId, PortId};

use super::ipam::{self, Pool};
use super::network::Ledger;
use super::{Container, ENDPOINTS_MAX, Network, Rejected, State};

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
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}

/// Endpoints that can be put in place.
#[derive(Debug, Default)]
pub(super) struct Allocation(Vec<Granted>);

#[derive(Debug)]
struct Granted {
    endpoint: Endpoint,
    /// Addresses that the pool chose: its search goes on behind them.
    chosen: Vec<IpAddr>,
}

impl State {
    /// Endpoints for `attachments`, which belong to `container` and have none yet.
    pub(super) fn allocate(
        &self,
        container: &Container,
        attachments: &[Attachment],
        ids: &[EndpointId],
    ) -> Result<Allocation, Rejected> {
        if self.endpoints.len() + attachments.len() > ENDPOINTS_MAX {
            return Err(Rejected::TooManyEndpoints);
        }
        let mut interfaces: BTreeSet<u8> =
            self.endpoints_of(&container.id).filter_map(|e| e.wire.as_ref()).map(|w| w.interface).collect();
        let mut drawn = BTreeSet::new();
        let mut port = self.next_port;
        let mut granted = Vec::with_capacity(attachments.len());
        for (attachment, id) in attachments.iter().zip(ids) {
            if self.endpoints.contains_key(id) || !drawn.insert(*id) {
                return Err(Rejected::IdTaken(id.to_string()));
            }
            let network =
                self.network(&attachment.network).ok_or(Rejected::UnknownNetwork(attachment.network))?;
            let mut endpoint = Endpoint { id: *id, network: network.id, container: container.id, wire: None };
            let mut chosen = Vec::new();
            if network.driver == Driver::Bridge {
                let interface = (0..=u8::MAX).find(|n| !interfaces.contains(n));
                let interface =
                    interface.ok_or_else(|| Rejected::TooManyInterfaces(container.name.clone()))?;
                interfaces.insert(interface);
                let addresses = self.addresses(network, attachment)?;
                let wire = Wire {
                    port: PortId(port),
                    mac: addresses.mac,
                    ipv4: addresses.ipv4,
                    ipv6: addresses.ipv6,
                    interface,
                };
                port = port.checked_add(1).ok_or(Rejected::PortsExhausted)?;
                chosen = addresses.chosen;
                endpoint.wire = Some(wire);
            }
            granted.push(Granted { endpoint, chosen });
        }
        Ok(Allocation(granted))
    }

    pub(super) fn insert(&mut self, allocation: Allocation) {
        for Granted { endpoint, chosen } in allocation.0 {
            let ledger = self.ledgers.get_mut(&endpoint.network).expect("every network has a ledger");
            let ledger = Arc::make_mut(ledger);
            let endpoint = Arc::new(endpoint);
            ledger.note(&endpoint);
            for address in chosen {
                let cursor = match address {
                    IpAddr::V4(_) => &mut ledger.cursors.ipv4,
                    IpAddr::V6(_) => &mut ledger.cursors.ipv6,
                };
                *cursor = ipam::successor(address);
            }
            if let Some(wire) = &endpoint.wire {
                self.next_port = wire.port.0 + 1;
            }
            self.endpoints.insert(endpoint.id, endpoint);
        }
    }

    pub(super) fn release(&mut self, id: &EndpointId) {
        let Some(endpoint) = self.endpoints.remove(id) else { return };
        let ledger = self.ledgers.get_mut(&endpoint.network).expect("a network with endpoints has a ledger");
        let ledger = Arc::make_mut(ledger);
        ledger.by_container.remove(&endpoint.container);
        if let Some(wire) = &endpoint.wire {
            ledger.by_mac.remove(&wire.mac);
            wire.addresses().for_each(|address| {
                ledger.by_address.remove(&address);
            });
        }
    }

    pub(super) fn release_all(&mut self, container: &ContainerId) {
        let ids: Vec<EndpointId> = self.endpoints_of(container).map(|e| e.id).collect();
        ids.iter().for_each(|id| self.release(id));
    }

    fn addresses(&self, network: &Network, wanted: &Attachment) -> Result<Addresses, Rejected> {
        let ledger = self.ledgers.get(&network.id).expect("every network has a ledger");
        let mut addresses = Addresses { mac: MacAddr::ZERO, ipv4: None, ipv6: None, chosen: Vec::new() };
        for pool in &network.pools {
            let asked = match pool.is_ipv6() {
                false => wanted.ipv4.map(IpAddr::V4),
                true => wanted.ipv6.map(IpAddr::V6),
            };
            let address = match asked {
                Some(address) => self.check_unused(network, ledger, address)?,
                None => {
                    let avoid_mac = wanted.mac.is_none() && !pool.is_ipv6();
                    let address = choose(network, pool, ledger, avoid_mac)?;
                    addresses.chosen.push(address);
                    address
                }
            };
            match address {
                IpAddr::V4(ip) => addresses.ipv4 = Some(ip),
                IpAddr::V6(ip) => addresses.ipv6 = Some(ip),
            }
        }
        let derived = addresses.ipv4.map(MacAddr::from_ipv4).or(addresses.ipv6.map(MacAddr::from_ipv6));
        addresses.mac = wanted.mac.or(derived).expect("a bridge network has an IPv4 pool");
        let in_use =
            |holder| Err(Rejected::MacInUse { mac: addresses.mac, network: network.name.clone(), holder });
        if gateway_mac(network) == Some(addresses.mac) {
            return in_use("the gateway".into());
        }
        match ledger.by_mac.get(&addresses.mac) {
            Some(holder) => in_use(format!("container {}", self.holder(holder))),
            None => Ok(addresses),
        }
    }

    fn check_unused(&self, network: &Network, ledger: &Ledger, address: IpAddr) -> Result<IpAddr, Rejected> {
        match ledger.by_address.get(&address) {
            Some(holder) => {
                let holder = self.holder(holder);
                Err(Rejected::AddressInUse { address, network: network.name.clone(), holder })
            }
            None => Ok(address),
        }
    }

    fn holder(&self, endpoint: &EndpointId) -> vswitch_proto::id::Name {
        let container = self.endpoint(endpoint).and_then(|e| self.container(&e.container));
        container.expect("an endpoint belongs to a container").name.clone()
    }
}

struct Addresses {
    mac: MacAddr,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    chosen: Vec<IpAddr>,
}

/// The MAC that the switch answers with at the network's gateway address.
pub fn gateway_mac(network: &Network) -> Option<MacAddr> {
    network.ipv4_gateway().map(MacAddr::from_ipv4).or_else(|| network.ipv6_gateway().map(MacAddr::from_ipv6))
}

/// The next free address; with `avoid_mac` one whose derived MAC is not somebody's explicit one.
fn choose(network: &Network, pool: &Pool, ledger: &Ledger, avoid_mac: bool) -> Result<IpAddr, Rejected> {
    let cursor = if pool.is_ipv6() { ledger.cursors.ipv6 } else { ledger.cursors.ipv4 };
    let mac_taken = |address| match address {
        IpAddr::V4(ip) => avoid_mac && ledger.by_mac.contains_key(&MacAddr::from_ipv4(ip)),
        IpAddr::V6(_) => false,
    };
    let is_taken = |address| ledger.by_address.contains_key(&address) || mac_taken(address);
    let exhausted = || Rejected::PoolExhausted { range: pool.range(), network: network.name.clone() };
    pool.next_free(cursor, is_taken).ok_or_else(exhausted)
}

impl Ledger {
    pub(super) fn note(&mut self, endpoint: &Arc<Endpoint>) {
        self.by_container.insert(endpoint.container, Arc::clone(endpoint));
        let Some(wire) = &endpoint.wire else { return };
        self.by_mac.insert(wire.mac, endpoint.id);
        wire.addresses().for_each(|address| {
            self.by_address.insert(address, endpoint.id);
        });
    }
}
