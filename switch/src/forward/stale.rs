//! Learned addresses that new tables have made wrong.
//!
//! A frame of an endpoint can arrive before the tables that register the endpoint do, most often from another host. Then
//! its address has been learned, and would be shown, and take room, until it ages. The same goes for addresses behind
//! tunnel endpoints that no longer belong to a network, and for networks that are gone. What was behind a port goes with
//! the port, see [`Fdb::forget_port`].
//!
//! A worker may still use the old tables for the burst that it is in, so the owner of a [`Stale`] has the database
//! forget it again some time later.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use vswitch_proto::id::{MacAddr, Vni};

use super::fdb::{Fdb, FdbRow, Place};
use super::tables::{Network, Tables};

/// Registered addresses that come or go and are remembered. More at once are left to age.
const ADDRESSES_MAX: usize = 65_536;

/// What the forwarding database should no longer hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stale {
    networks: HashSet<Vni>,
    /// Tunnel endpoints of which a network accepts nothing more, or which have no endpoints in it any more.
    vteps: HashSet<(Vni, IpAddr)>,
    /// Addresses that are registered now, wherever they were learned; and those that were, where they were.
    addresses: HashMap<(Vni, MacAddr), Option<Place>>,
}

impl Stale {
    /// Compares the tables of before with those of now.
    pub fn between(old: &Tables, new: &Tables) -> Stale {
        let mut stale = Stale::default();
        for (vni, before) in &old.networks {
            match new.networks.get(vni) {
                None => _ = stale.networks.insert(*vni),
                Some(after) if before != after || old.vteps != new.vteps => {
                    stale.compare(*vni, (old, before), (new, after));
                }
                Some(_) => {}
            }
        }
        stale
    }

    fn compare(&mut self, vni: Vni, (old, before): (&Tables, &Network), (new, after): (&Tables, &Network)) {
        let served = |tables: &Tables, network: &Network| -> HashSet<IpAddr> {
            let vteps = network.overlay.iter().flat_map(|overlay| &overlay.flood_vteps).copied();
            vteps.filter(|vtep| tables.accepts(network, *vtep)).collect()
        };
        let gone = &served(old, before) - &served(new, after);
        self.vteps.extend(gone.into_iter().map(|vtep| (vni, vtep)));
        for mac in registered(before).filter(|mac| !after.registers(*mac)) {
            self.remember((vni, mac), before.place(mac));
        }
        for mac in registered(after).filter(|mac| before.place(*mac) != after.place(*mac)) {
            self.remember((vni, mac), None);
        }
    }

    fn remember(&mut self, address: (Vni, MacAddr), place: Option<Place>) {
        if self.addresses.len() < ADDRESSES_MAX || self.addresses.contains_key(&address) {
            self.addresses.insert(address, place);
        }
    }

    /// Adds what has become stale since. Of an address, the later word counts.
    pub fn extend(&mut self, later: Stale) {
        self.networks.extend(later.networks);
        self.vteps.extend(later.vteps);
        for (address, place) in later.addresses {
            self.remember(address, place);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.vteps.is_empty() && self.addresses.is_empty()
    }

    /// Whether a learned entry should go. `tables` are those of now: what has come back meanwhile stays.
    fn holds(&self, tables: &Tables, row: &FdbRow) -> bool {
        let Some(network) = tables.networks.get(&row.vni) else { return self.networks.contains(&row.vni) };
        let is_behind_gone = match row.place {
            Place::Vtep(vtep) => self.vteps.contains(&(row.vni, vtep)) && !is_served(tables, network, vtep),
            Place::Port(_) => false,
        };
        let is_of_endpoint = match self.addresses.get(&(row.vni, row.mac)) {
            Some(None) => network.registers(row.mac),
            Some(place) => *place == Some(row.place),
            None => false,
        };
        is_behind_gone || is_of_endpoint
    }
}

impl Fdb {
    /// Forgets what is stale by the tables of now, and returns how many entries that were. Static entries stay.
    pub fn forget_stale(&self, stale: &Stale, tables: &Tables) -> usize {
        if stale.is_empty() { 0 } else { self.remove_rows(|row| stale.holds(tables, row)) }
    }
}

fn is_served(tables: &Tables, network: &Network, vtep: IpAddr) -> bool {
    let has_part = network.overlay.as_ref().is_some_and(|overlay| overlay.flood_vteps.contains(&vtep));
    has_part && tables.accepts(network, vtep)
}

fn registered(network: &Network) -> impl Iterator<Item = MacAddr> {
    let remotes = network.overlay.iter().flat_map(|overlay| overlay.remotes.keys());
    network.endpoints.keys().chain(remotes).copied()
}
