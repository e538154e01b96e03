//! Addresses that change their owner, for those who may remember the one before.
//!
//! An address comes back with another MAC address where a container was given one, or has one that its engine made up;
//! its peers would go on sending to the old one until their kernels ask again, for half a minute. So whoever is in the
//! network on this node is told, as RFC 5227 section 3 and RFC 4861 section 7.2.6 have an owner do it. Kernels that do
//! not know the address ignore it.

use std::collections::HashMap;
use std::net::IpAddr;

use vswitch_proto::command::Driver;
use vswitch_proto::id::{MacAddr, Vni};

use super::{Tables, View, changed_wires};

/// More addresses without an owner than this are forgotten, all at once.
const LEFT_MAX: usize = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    pub vni: Vni,
    pub ip: IpAddr,
    pub mac: MacAddr,
}

/// Addresses that come and go in networks that were here before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    pub gone: Vec<Announcement>,
    pub come: Vec<Announcement>,
}

/// Addresses that somebody had, until somebody has them again.
#[derive(Debug, Default)]
pub struct Left(HashMap<(Vni, IpAddr), MacAddr>);

impl Left {
    /// What has another owner than before.
    pub fn follow(&mut self, moves: Moves) -> Vec<Announcement> {
        if self.0.len() + moves.gone.len() > LEFT_MAX {
            self.0.clear();
        }
        self.0.extend(moves.gone.iter().map(|gone| ((gone.vni, gone.ip), gone.mac)));
        let mut come = moves.come;
        come.retain(|come| self.0.remove(&(come.vni, come.ip)).is_some_and(|before| before != come.mac));
        come
    }
}

/// Nobody is told who has not been in the network with the old view.
pub(super) fn moves(old: View<'_>, new: View<'_>, known: &Tables) -> Moves {
    let mut moves = Moves::default();
    let is_here = |vni: &Vni| known.networks.contains_key(vni);
    for (before, after) in changed_wires(old, new) {
        for (view, wired, to) in [(old, before, &mut moves.gone), (new, after, &mut moves.come)] {
            let Some((endpoint, wire)) = wired else { continue };
            let network = view.network(&endpoint.network).filter(|n| n.driver == Driver::Bridge);
            let Some(vni) = network.map(|n| n.vni).filter(is_here) else { continue };
            to.extend(wire.addresses().map(|ip| Announcement { vni, ip, mac: wire.mac }));
        }
    }
    if old.me != new.me {
        return moves;
    }
    for change in new.shared.changed_leases(old.shared) {
        for (view, lease, to) in
            [(old, change.before(), &mut moves.gone), (new, change.after(), &mut moves.come)]
        {
            let Some(lease) = lease else { continue };
            let network = view.shared.network(&lease.network);
            let Some(vni) = network.map(|n| n.vni).filter(is_here) else { continue };
            let mac = lease.addresses.mac;
            to.extend(lease.addresses.ips().map(|ip| Announcement { vni, ip, mac }));
        }
    }
    moves
}
