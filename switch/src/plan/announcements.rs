//! Addresses that somebody has from now on, for those who may remember another owner.
//!
//! An address comes back with another MAC address where a container was given one, or has one that its engine made up;
//! its peers would go on sending to the old one until their kernels ask again, for half a minute. So whoever is in the
//! network on this node is told, as RFC 5227 section 3 and RFC 4861 section 7.2.6 have an owner do it. Kernels that do
//! not know the address ignore it.

use std::net::IpAddr;

use vswitch_proto::command::Driver;
use vswitch_proto::id::{MacAddr, Vni};

use super::{Tables, View, changed_wires};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    pub vni: Vni,
    pub ip: IpAddr,
    pub mac: MacAddr,
}

/// Nobody is told who has not been in the network with the old view.
pub(super) fn announcements(old: View<'_>, new: View<'_>, known: &Tables) -> Vec<Announcement> {
    let mut all = Vec::new();
    for (before, after) in changed_wires(old, new) {
        let Some((endpoint, wire)) = after else { continue };
        let had = |ip| before.is_some_and(|(_, old)| old.mac == wire.mac && old.addresses().any(|o| o == ip));
        let network = new.network(&endpoint.network).filter(|n| n.driver == Driver::Bridge);
        let Some(vni) = network.map(|n| n.vni).filter(|vni| known.networks.contains_key(vni)) else {
            continue;
        };
        let new = wire.addresses().filter(|ip| !had(*ip));
        all.extend(new.map(|ip| Announcement { vni, ip, mac: wire.mac }));
    }
    if old.me != new.me {
        return all;
    }
    for change in new.shared.changed_leases(old.shared) {
        let Some(lease) = change.after() else { continue };
        let before = change.before().map(|lease| lease.addresses);
        let vni = new.shared.network(&lease.network).map(|n| n.vni);
        let Some(vni) = vni.filter(|vni| known.networks.contains_key(vni)) else { continue };
        if before != Some(lease.addresses) {
            let mac = lease.addresses.mac;
            all.extend(lease.addresses.ips().map(|ip| Announcement { vni, ip, mac }));
        }
    }
    all
}
