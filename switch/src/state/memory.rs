//! What is remembered of what is gone: names of networks that containers are still attached to, and addresses of
//! containers that have ended.
//!
//! An address stays with its container over stop and start, with the MAC address and of both families, while nobody else
//! needs it: others are given addresses that nobody is remembered to have had, as long as there are any, and whoever asks
//! for an address gets it.
//!
//! # Bounds
//! There is at most one entry for each attachment of a container.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::command::{Addresses, Attachment};
use vswitch_proto::id::{ContainerId, MacAddr, Name, NetworkId};

use super::{Applied, Container, ENDPOINTS_MAX, Rejected, State};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Names of networks of the cluster that containers are attached to, and of networks of this node that were removed
    /// while ended containers were attached to them.
    names: BTreeMap<NetworkId, Name>,
    /// Addresses of containers that have ended.
    kept: BTreeMap<(NetworkId, ContainerId), Addresses>,
}

/// Addresses of a network that are left to those who had them, as long as others are free.
#[derive(Debug, Default)]
pub(super) struct Kept {
    ips: BTreeSet<IpAddr>,
    macs: BTreeSet<MacAddr>,
}

impl Kept {
    pub(super) fn has(&self, ip: IpAddr) -> bool {
        let mac = match ip {
            IpAddr::V4(ip) => MacAddr::from_ipv4(ip),
            IpAddr::V6(ip) => MacAddr::from_ipv6(ip),
        };
        self.ips.contains(&ip) || self.macs.contains(&mac)
    }
}

impl State {
    /// What a network that a container is attached to is called, or was called.
    pub fn remembered_name(&self, network: &NetworkId) -> Option<&Name> {
        self.memory.names.get(network)
    }

    /// The addresses that an ended container had in a network.
    pub fn remembered_addresses(&self, container: &ContainerId, network: &NetworkId) -> Option<Addresses> {
        self.memory.kept.get(&(*network, *container)).copied()
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    fn memory_mut(&mut self) -> &mut Memory {
        Arc::make_mut(&mut self.memory)
    }

    /// The name of a network of the cluster, told before a container is attached to it.
    pub(super) fn note_network(&mut self, network: &NetworkId, name: &Name) -> Result<Applied, Rejected> {
        let used = self.attached_networks();
        let names = &mut self.memory_mut().names;
        names.retain(|network, _| used.contains(network));
        names.insert(*network, name.clone());
        Ok(Applied::NetworkNoted { network: *network })
    }

    /// A network of this node goes; containers that have ended may be attached to it.
    pub(super) fn remember_network(&mut self, network: &NetworkId) {
        let name = self.network(network).map(|network| network.name.clone());
        if let Some(name) = name.filter(|_| self.is_attached_to(network)) {
            self.memory_mut().names.insert(*network, name);
        }
        self.forget_addresses(|(of, _)| of == network);
    }

    /// The addresses of a container that ends.
    pub(super) fn remember_addresses(&mut self, container: &ContainerId) {
        let had: Vec<_> = self.endpoints_of(container).map(|e| (e.network, e.wire.clone())).collect();
        for (network, wire) in had {
            if let Some(wire) = wire.filter(|_| self.memory.kept.len() < ENDPOINTS_MAX) {
                self.memory_mut().kept.insert((network, *container), wire.granted());
            }
        }
    }

    /// What was remembered of a container that lives again, or is gone.
    pub(super) fn forget_container(&mut self, container: &ContainerId) {
        self.forget_addresses(|(_, of)| of == container);
        self.forget_names();
    }

    /// What was remembered of an attachment that is gone.
    pub(super) fn forget_attachment(&mut self, container: &ContainerId, network: &NetworkId) {
        self.forget_addresses(|place| *place == (*network, *container));
        self.forget_names();
    }

    /// An attachment that asks for what the container had, if that is still free.
    pub(super) fn as_before(&self, container: &ContainerId, wanted: &Attachment) -> Attachment {
        let mut again = wanted.clone();
        let Some(had) = self.remembered_addresses(container, &wanted.network) else { return again };
        let fits = wanted.ipv4.is_none_or(|ip| had.ipv4 == Some(ip))
            && wanted.ipv6.is_none_or(|ip| had.ipv6 == Some(ip))
            && wanted.mac.is_none_or(|mac| had.mac == mac);
        let ledger = self.ledgers.get(&wanted.network);
        if fits && ledger.is_none_or(|ledger| ledger.is_free(&had)) {
            (again.ipv4, again.ipv6, again.mac) = (had.ipv4, had.ipv6, Some(had.mac));
        }
        again
    }

    pub(super) fn kept_in(&self, network: &NetworkId) -> Kept {
        let mut kept = Kept::default();
        let first = (*network, ContainerId([0; 32]));
        for (_, had) in self.memory.kept.range(first..).take_while(|((of, _), _)| of == network) {
            kept.ips.extend(had.ips());
            kept.macs.insert(had.mac);
        }
        kept
    }

    fn forget_addresses(&mut self, is_it: impl Fn(&(NetworkId, ContainerId)) -> bool) {
        if self.memory.kept.keys().any(&is_it) {
            self.memory_mut().kept.retain(|place, _| !is_it(place));
        }
    }

    fn forget_names(&mut self) {
        if self.memory.names.is_empty() {
            return;
        }
        let used = self.attached_networks();
        if self.memory.names.keys().any(|network| !used.contains(network)) {
            self.memory_mut().names.retain(|network, _| used.contains(network));
        }
    }

    fn attached_networks(&self) -> BTreeSet<NetworkId> {
        self.containers().flat_map(|container| container.attachments.iter().map(|a| a.network)).collect()
    }

    fn is_attached_to(&self, network: &NetworkId) -> bool {
        self.containers().any(|container| container.attachment(network).is_some())
    }
}

impl Memory {
    /// Whether all of it could have come about.
    pub(super) fn contradiction(&self, state: &State) -> Option<&'static str> {
        let has_ended = |(network, container): &(NetworkId, ContainerId)| {
            let container = state.container(container).filter(|container| !container.is_live());
            container.is_some_and(|container: &Container| container.attachment(network).is_some())
        };
        (!self.kept.keys().all(has_ended)).then_some("addresses kept for a container that lives")
    }
}

#[cfg(test)]
mod tests {
    use vswitch_proto::command::Command;

    use super::super::testing::{Lab, pool, to};
    use super::*;

    fn wires(lab: &Lab, containers: &[ContainerId], network: NetworkId) -> Vec<super::super::Wire> {
        containers.iter().map(|container| lab.wire(*container, network)).collect()
    }

    #[test]
    fn addresses_stay_over_stop_and_start() {
        let mut lab = Lab::new();
        let make = |r: &mut vswitch_proto::command::CreateNetwork| {
            r.ipv6 = true;
            r.pools = vec![pool("10.0.0.0/29"), pool("fd00::/125")];
        };
        let net = lab.create("net", make).unwrap();
        let mac = Some("02:00:00:00:00:01".parse().unwrap());
        let a = lab.run("a", vec![to(net)]).unwrap();
        let b = lab.run("b", vec![Attachment { mac, ..to(net) }]).unwrap();
        let before = wires(&lab, &[a, b], net);
        let same = |lab: &Lab| {
            wires(lab, &[a, b], net)
                .iter()
                .zip(&before)
                .all(|(now, before)| now.granted() == before.granted())
        };
        lab.exit(a).unwrap();
        lab.exit(b).unwrap();
        // Others come and go around them, more often than there are addresses.
        for n in 0..12 {
            let other = lab.run(&format!("o{n}"), vec![to(net)]).unwrap();
            let given = lab.wire(other, net);
            assert!(
                before.iter().all(|b| b.ipv4 != given.ipv4 && b.ipv6 != given.ipv6 && b.mac != given.mac)
            );
            lab.exit(other).unwrap();
            lab.apply(Command::RemoveContainer { container: other }).unwrap();
        }
        lab.start(b).unwrap();
        lab.start(a).unwrap();
        assert!(same(&lab));
        assert!(lab.state.memory.kept.is_empty());
    }

    #[test]
    fn whoever_needs_an_address_gets_it() {
        let mut lab = Lab::new();
        let net = lab.subnet("net", "10.0.0.0/29").unwrap();
        let a = lab.run("a", vec![to(net)]).unwrap();
        assert_eq!(lab.ipv4(a, net), "10.0.0.2");
        lab.exit(a).unwrap();
        let all: Vec<_> = (0..5).map(|n| lab.run(&format!("c{n}"), vec![to(net)]).unwrap()).collect();
        assert_eq!(lab.ipv4(all[4], net), "10.0.0.2", "the last one that there is");
        assert!(matches!(lab.start(a), Err(Rejected::PoolExhausted { .. })));
        lab.exit(all[0]).unwrap();
        lab.start(a).unwrap();
        assert_eq!(
            lab.ipv4(a, net),
            "10.0.0.3",
            "another one, which is kept for somebody who does not need it now"
        );
        // Asked for.
        lab.exit(a).unwrap();
        let wanted = Attachment { ipv4: Some([10, 0, 0, 3].into()), ..to(net) };
        let asking = lab.run("asking", vec![wanted]).unwrap();
        assert_eq!(lab.ipv4(asking, net), "10.0.0.3");
    }

    #[test]
    fn nothing_is_remembered_of_what_is_gone_for_good() {
        let mut lab = Lab::new();
        let (net, other) = (lab.create("net", |_| ()).unwrap(), lab.create("other", |_| ()).unwrap());
        let a = lab.run("a", vec![to(net), to(other)]).unwrap();
        lab.exit(a).unwrap();
        assert_eq!(lab.state.memory.kept.len(), 2);
        lab.disconnect(a, other).unwrap();
        assert_eq!(lab.state.memory.kept.len(), 1);
        lab.apply(Command::RemoveNetwork { network: net }).unwrap();
        assert_eq!((lab.state.memory.kept.len(), lab.state.memory.names.len()), (0, 1));
        let read = State::from_bytes(&lab.state.to_bytes()).unwrap();
        assert_eq!(read.digest(), lab.state.digest());
        assert_eq!(read.remembered_name(&net).map(Name::as_str), Some("net"));
        lab.apply(Command::RemoveContainer { container: a }).unwrap();
        assert_eq!(*lab.state.memory, Memory::default());
    }

    #[test]
    fn a_network_that_is_gone_is_called_by_its_name() {
        let mut lab = Lab::new();
        let net = lab.create("net", |_| ()).unwrap();
        let a = lab.run("a", vec![to(net)]).unwrap();
        lab.exit(a).unwrap();
        lab.apply(Command::RemoveNetwork { network: net }).unwrap();
        let refused = lab.start(a).unwrap_err().to_string();
        assert!(refused.starts_with("network net that container a was connected to is gone"), "{refused}");
        assert_eq!(lab.state.find_attached(&a, "net"), Ok(net));
        // Another one that has the name now is not meant, as long as the container is not in it.
        let second = lab.create("net", |_| ()).unwrap();
        assert_eq!(lab.state.find_attached(&a, "net"), Ok(net));
        lab.disconnect(a, net).unwrap();
        assert_eq!(lab.state.find_attached(&a, "net"), Ok(second));
        // One of the cluster is told by name before.
        let elsewhere = NetworkId([9; 32]);
        let note = Command::NoteNetwork { network: elsewhere, name: "blue".parse().unwrap() };
        lab.apply(note).unwrap();
        assert_eq!(lab.state.remembered_name(&elsewhere).map(Name::as_str), Some("blue"));
        lab.start(a).unwrap();
        lab.exit(a).unwrap();
        lab.apply(Command::RemoveContainer { container: a }).unwrap();
        assert_eq!(lab.state.remembered_name(&elsewhere), None, "nobody is attached to it");
    }
}
