use super::*;
use crate::forward::tests::instant;

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const SMALL: FdbConfig = FdbConfig { age: Duration::from_secs(10), capacity: 4, capacity_per_port: 3 };
const P1: PortId = PortId(1);
const P2: PortId = PortId(2);
const AT_1: Place = Place::Port(P1);
const AT_2: Place = Place::Port(P2);

fn place_of(fdb: &Fdb, n: u8, now: Instant) -> Option<Place> {
    fdb.look_up(vni(1), mac(n), now)
}

#[test]
fn entries_age_and_are_swept() {
    let (fdb, t0) = (Fdb::new(SMALL), instant());
    fdb.learn(vni(1), mac(1), AT_1, t0);
    fdb.learn(vni(1), mac(2), AT_1, t0 + ms(5000));
    assert_eq!(place_of(&fdb, 1, t0 + ms(9999)), Some(AT_1));
    assert_eq!(place_of(&fdb, 1, t0 + ms(10_000)), None);
    let rows = fdb.rows(None, t0 + ms(10_000));
    assert_eq!(rows, [FdbRow { vni: vni(1), mac: mac(2), place: AT_1, age: Some(ms(5000)) }]);
    assert_eq!((fdb.len(), fdb.sweep(t0 + ms(10_000)), fdb.len()), (2, 1, 1));
    assert_eq!(fdb.stats(), FdbStats { learned: 2, aged: 1, ..FdbStats::default() });
}

#[test]
fn time_is_kept_by_the_second() {
    let (fdb, t0) = (Fdb::new(SMALL), instant());
    let age_after = |seen, asked| {
        fdb.learn(vni(1), mac(1), AT_1, t0 + seen);
        fdb.rows(None, t0 + asked)[0].age
    };
    assert_eq!(age_after(ms(0), ms(400)), Some(ms(400)));
    assert_eq!(age_after(ms(999), ms(999)), Some(ms(999)));
    assert_eq!(age_after(ms(1000), ms(1000)), Some(ms(0)));
    // A worker whose burst began earlier does not turn it back.
    assert_eq!(age_after(ms(0), ms(1001)), Some(ms(1)));
}

#[test]
fn one_port_cannot_fill_it_and_its_room_comes_back() {
    let (fdb, t0) = (Fdb::new(SMALL), instant());
    (0..10).for_each(|n| fdb.learn(vni(1), mac(n), AT_1, t0));
    assert_eq!(fdb.len(), 3, "per port");
    (10..20).for_each(|n| fdb.learn(vni(1), mac(n), AT_2, t0));
    assert_eq!(fdb.len(), 4, "in all");
    assert_eq!(fdb.stats().refused, 7 + 9);

    let place_after = |n, place| {
        fdb.learn(vni(1), mac(n), place, t0);
        place_of(&fdb, n, t0)
    };
    assert_eq!(place_after(10, AT_1), Some(AT_2), "a move without room");
    assert_eq!(place_after(0, AT_2), Some(AT_2), "a move");
    assert_eq!(place_after(10, AT_1), Some(AT_1), "which made room");
    assert_eq!(fdb.stats().moved, 2);

    assert_eq!((fdb.forget_port(P1), fdb.flush(None), fdb.len()), (3, 1, 0));
    assert!(fdb.entries.lock().held.is_empty());
    assert_eq!(place_after(0, AT_1), Some(AT_1));
}

#[test]
fn who_had_no_room_waits_for_nobody() {
    let (fdb, t0) = (Fdb::new(SMALL), instant());
    (0..4).for_each(|n| fdb.learn(vni(1), mac(n), AT_1, t0));
    let writing = fdb.entries.lock();
    fdb.learn(vni(1), mac(5), AT_1, t0);
    drop(writing);
    assert_eq!(fdb.stats().refused, 2);
    assert!(fdb.remove(vni(1), mac(0)));
    fdb.learn(vni(1), mac(5), AT_1, t0);
    assert_eq!(place_of(&fdb, 5, t0), Some(AT_1));
    assert!(!fdb.is_full(AT_1));
}

#[test]
fn static_entries_stay() {
    let (fdb, t0) = (Fdb::new(SMALL), instant());
    (1..=3).for_each(|n| fdb.learn(vni(1), mac(n), AT_1, t0));
    assert_eq!(fdb.add_static(vni(1), mac(1), P2), Ok(()));
    fdb.learn(vni(1), mac(4), AT_1, t0);
    assert_eq!(place_of(&fdb, 4, t0), Some(AT_1), "the learned one gave its room back");
    fdb.learn(vni(1), mac(1), AT_1, t0);
    assert_eq!(place_of(&fdb, 1, t0 + ms(1_000_000)), Some(AT_2));
    assert_eq!(fdb.add_static(vni(1), mac(1), P1), Ok(()), "redirected");
    assert_eq!((fdb.flush(None), fdb.sweep(t0 + ms(1_000_000)), fdb.len()), (3, 0, 1));
    assert_eq!((fdb.remove(vni(2), mac(1)), fdb.remove(vni(1), mac(1)), fdb.len()), (false, true, 0));

    let broadcast = MacAddr::BROADCAST;
    assert_eq!(fdb.add_static(vni(1), broadcast, P1), Err(StaticError::NotUnicast(broadcast)));
    for n in 0..STATIC_MAX as u32 {
        let [.., a, b] = n.to_be_bytes();
        fdb.add_static(vni(1), MacAddr([2, 0, 0, 0, a, b]), P1).unwrap();
    }
    assert_eq!(fdb.add_static(vni(2), mac(1), P1), Err(StaticError::Full));
    assert_eq!(fdb.add_static(vni(1), mac(1), P2), Ok(()), "no further entry");
    assert_eq!(fdb.forget_port(P1), STATIC_MAX - 1);
}

#[test]
fn without_an_age_nothing_is_learned() {
    let fdb = Fdb::new(FdbConfig { age: Duration::ZERO, ..FdbConfig::default() });
    fdb.learn(vni(1), mac(1), AT_1, instant());
    assert!(fdb.is_empty());
    fdb.add_static(vni(1), mac(1), P2).unwrap();
    assert_eq!(place_of(&fdb, 1, instant()), Some(AT_2));
}

/// Threads learn, move, flush and sweep the same few addresses; the books must balance when they are done.
#[test]
fn counts_survive_concurrent_changes() {
    let (fdb, t0) = (&Fdb::new(SMALL), instant());
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            scope.spawn(move || {
                for i in 0..20_000u32 {
                    let n = (i.wrapping_mul(7 + thread) % 8) as u8;
                    match i % 50 {
                        0 => _ = fdb.flush(None),
                        1 => _ = fdb.forget_port(PortId(thread)),
                        2 => _ = fdb.add_static(vni(1), mac(n), PortId(thread)),
                        3 => _ = fdb.remove(vni(1), mac(n)),
                        4 => _ = fdb.sweep(t0 + ms(10_000)),
                        _ => fdb.learn(vni(1), mac(n), Place::Port(PortId(thread)), t0),
                    }
                    assert!(fdb.entries.lock().learned_len <= SMALL.capacity);
                }
            });
        }
    });
    let book = fdb.entries.lock();
    let learned = book.entries().filter(|(_, value)| !fdb.entry(*value).is_static()).count();
    assert_eq!(book.learned_len, learned);
    assert_eq!(book.static_len, book.entries().count() - learned);
    assert_eq!(book.held.values().sum::<usize>(), learned);
    drop(book);
    (0..4).for_each(|port| _ = fdb.forget_port(PortId(port)));
    assert!(fdb.is_empty() && fdb.entries.lock().held.is_empty());
}

#[test]
fn tunnel_endpoints_are_places_like_ports() {
    let (fdb, t0) = (Fdb::new(SMALL), instant());
    let (here, there) = ("10.8.0.2".parse().unwrap(), "10.8.0.3".parse().unwrap());
    (0..4).for_each(|n| fdb.learn(vni(1), mac(n), Place::Vtep(here), t0));
    assert_eq!(fdb.stats().refused, 1, "one host cannot use up the room of the others");
    assert_eq!(place_of(&fdb, 0, t0), Some(Place::Vtep(here)));
    fdb.learn(vni(1), mac(0), Place::Vtep(there), t0);
    fdb.learn(vni(1), mac(1), AT_1, t0);
    assert_eq!(fdb.stats().moved, 2);
    let six = Place::Vtep("fd00::8:3".parse().unwrap());
    fdb.learn(vni(1), mac(4), six, t0);
    assert_eq!(place_of(&fdb, 4, t0), Some(six));
    assert_eq!((fdb.forget_vtep(here), fdb.forget_vtep(there), fdb.forget_port(P1)), (1, 1, 1));
}

/// Numbers for IPv6 tunnel endpoints are used up: nothing is learned behind another one, and what was known stays.
#[test]
fn an_endpoint_without_a_number_is_a_place_without_room() {
    let room = vteps::VTEPS_MAX + 2;
    let (fdb, t0) = (Fdb::new(FdbConfig { capacity: room, capacity_per_port: room, ..SMALL }), instant());
    let vtep = |at: usize| Place::Vtep(std::net::Ipv6Addr::from_bits(0xfd00 << 112 | at as u128).into());
    // One address moves from endpoint to endpoint; each of these keeps its number.
    (0..vteps::VTEPS_MAX).for_each(|at| fdb.learn(vni(1), mac(0), vtep(at), t0));
    let (last, numberless) = (vtep(vteps::VTEPS_MAX - 1), vtep(vteps::VTEPS_MAX));
    assert_eq!((place_of(&fdb, 0, t0), fdb.stats().refused), (Some(last), 0));
    fdb.learn(vni(1), mac(0), numberless, t0);
    fdb.learn(vni(1), mac(1), numberless, t0);
    assert_eq!((place_of(&fdb, 0, t0), place_of(&fdb, 1, t0)), (Some(last), None));
    assert_eq!((fdb.stats().refused, fdb.len()), (2, 1));
    assert!(fdb.is_full(numberless), "so nobody waits there");
    fdb.learn(vni(1), mac(1), vtep(7), t0);
    assert_eq!(place_of(&fdb, 1, t0), Some(vtep(7)), "a known endpoint has its number");
}
