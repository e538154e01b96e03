//! What the database forgets when tables change.

use std::net::IpAddr;

use super::overlay::{NODE, STATIC, bench, ip, remote};
use super::*;
use crate::forward::fdb::Place;
use crate::forward::stale::Stale;

impl Bench {
    /// Changes the tables and has the database forget what that makes stale.
    fn change(&mut self, change: impl FnOnce(&mut Tables)) -> usize {
        let before = self.tables.clone();
        change(&mut self.tables);
        self.fdb.forget_stale(&Stale::between(&before, &self.tables), &self.tables)
    }

    fn learn(&self, mac: MacAddr, place: Place) {
        self.fdb.learn(Vni::new(1).unwrap(), mac, place, self.now);
    }

    fn known(&self) -> Vec<MacAddr> {
        self.fdb.rows(None, self.now).iter().map(|row| row.mac).collect()
    }
}

fn overlay(tables: &mut Tables) -> &mut tables::Overlay {
    let network = tables.networks.get_mut(&Vni::new(1).unwrap()).unwrap();
    Arc::make_mut(network).overlay.as_mut().unwrap()
}

fn behind(vtep: &str) -> Place {
    Place::Vtep(ip(vtep))
}

#[test]
fn an_address_that_is_registered_is_no_longer_a_learned_one() {
    let mut bench = bench(None);
    (1..=100).for_each(|n| bench.learn(MacAddr([2, 0, 0, 0, 9, n]), behind(NODE)));
    bench.learn(stranger(1), behind(NODE));
    let node: IpAddr = ip(NODE);
    let come = (1..=100).map(|n| (MacAddr([2, 0, 0, 0, 9, n]), node));
    assert_eq!(bench.change(|tables| overlay(tables).remotes.extend(come)), 100);
    assert_eq!(bench.known(), [stranger(1)]);
}

#[test]
fn late_frames_of_an_endpoint_that_went_leave_nothing() {
    let mut bench = bench(None);
    let before = bench.tables.clone();
    assert_eq!(bench.change(|tables| _ = overlay(tables).remotes.remove(&remote(1))), 0);
    // Of the burst that was under way, and of somebody else who uses the address now.
    bench.learn(remote(1), behind(NODE));
    let stale = Stale::between(&before, &bench.tables);
    assert_eq!(bench.fdb.forget_stale(&stale, &bench.tables), 1);
    bench.learn(remote(1), Place::Port(PortId(2)));
    assert_eq!(bench.fdb.forget_stale(&stale, &bench.tables), 0);
    assert_eq!(bench.known(), [remote(1)]);
}

#[test]
fn a_tunnel_endpoint_takes_along_what_is_behind_it() {
    let nested = stranger(7);
    for change in [
        // The node leaves the cluster; it has no endpoints in the network any more; the network is no longer here.
        (|tables: &mut Tables| _ = tables.vteps.remove(&ip(NODE))) as fn(&mut Tables),
        |tables| overlay(tables).flood_vteps.retain(|vtep| *vtep != ip(NODE)),
        |tables| _ = tables.networks.remove(&Vni::new(1).unwrap()),
    ] {
        let mut bench = bench(None);
        bench.learn(nested, behind(NODE));
        assert_eq!(bench.change(|_| ()), 0);
        assert_eq!(bench.change(change), 1);
        assert!(bench.known().is_empty());
    }
    let mut bench = bench(None);
    bench.learn(nested, behind(NODE));
    bench.learn(stranger(8), behind(STATIC));
    bench.learn(stranger(9), Place::Port(PortId(1)));
    bench.fdb.add_static(Vni::new(1).unwrap(), stranger(6), PortId(1)).unwrap();
    bench.change(|tables| _ = tables.vteps.remove(&ip(NODE)));
    assert_eq!(bench.known(), [stranger(6), stranger(8), stranger(9)], "and nothing else");
}

#[test]
fn what_has_come_back_is_not_forgotten() {
    let bench = bench(None);
    let with = bench.tables.clone();
    let mut without = with.clone();
    without.vteps.clear();
    overlay(&mut without).remotes.clear();
    let mut stale = Stale::between(&with, &without);
    stale.extend(Stale::between(&without, &with));
    bench.learn(stranger(7), behind(NODE));
    assert_eq!(bench.fdb.forget_stale(&stale, &bench.tables), 0);
    assert!(Stale::between(&with, &with).is_empty());
}
