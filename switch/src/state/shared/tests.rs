use std::net::{IpAddr, SocketAddr};

use vswitch_proto::api::ErrorKind;
use vswitch_proto::command::{Attachment, Driver, NodeInfo, Role, SharedChange};
use vswitch_proto::id::{MacAddr, NetworkId, NodeId, Vni};
use vswitch_proto::security::PortSecurity;

use super::super::testing::{Lab, bridge, pool};
use super::super::{
    IPV6_MTU_MIN, MTU_OPTION, PORT_SECURITY_OPTION, SERVERS_OPTION, SnapshotError, State, VXLAN_ID_OPTION,
    VXLAN_INNER_VLAN_OPTION, VXLAN_REMOTE_OPTION,
};
use super::testing::{Fleet, info, into, overlay};
use super::*;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

/// The rejection's only line, as a person sees it.
fn line<T: std::fmt::Debug>(result: Result<T, Rejected>) -> String {
    let text = result.unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

fn at(network: NetworkId, ip: &str) -> Attachment {
    Attachment { ipv4: Some(ip.parse().unwrap()), ..into(network) }
}

fn remove(node: NodeId) -> SharedChange {
    SharedChange::RemoveNode { node }
}

fn role(node: NodeId, role: Role) -> SharedChange {
    SharedChange::SetRole { node, role }
}

#[test]
fn the_first_node_votes_and_others_learn_first() {
    let mut fleet = Fleet::default();
    let early = fleet.apply(ONE, SharedChange::Release { endpoints: vec![] });
    assert_eq!(line(early), "node 1 is not a member of this cluster: see `vswitchctl node ls`");
    assert_eq!(fleet.add(info(1), Role::Learner), Ok(ONE));
    assert_eq!(fleet.add(info(2), Role::Voter), Ok(TWO));
    assert_eq!(fleet.add(info(3), Role::Learner), Ok(THREE));
    let roles = |fleet: &Fleet| fleet.shared.nodes().map(|n| (n.role, n.wanted)).collect::<Vec<_>>();
    let (voter, learner) = (Role::Voter, Role::Learner);
    assert_eq!(roles(&fleet), [(voter, voter), (learner, voter), (learner, learner)]);
    let promotable = |fleet: &Fleet| fleet.shared.promotable().map(|n| n.id.0).collect::<Vec<_>>();
    assert_eq!(promotable(&fleet), [2]);
    assert_eq!(
        line(fleet.apply(ONE, role(ONE, learner))),
        "node host1 is the last voter: promote another node first"
    );
    fleet.apply(ONE, role(TWO, voter)).unwrap();
    fleet.apply(TWO, role(ONE, learner)).unwrap();
    assert_eq!(roles(&fleet), [(learner, learner), (voter, voter), (learner, learner)]);
    assert_eq!(promotable(&fleet), [0; 0], "who was demoted stays so");
    assert_eq!(fleet.apply(ONE, remove(TWO)), Err(Rejected::LastVoter("host2".parse().unwrap())));
    fleet.apply(ONE, remove(ONE)).expect("a learner may go, and may say so itself");
}

#[test]
fn an_authority_is_rotated_and_the_former_one_dropped() {
    let mut fleet = Fleet::new(2);
    let rotate = |first: u8| SharedChange::RotateAuthority { certificate: vec![first; 500], cross: vec![1] };
    assert!(fleet.shared.authorities().is_none());
    fleet.apply(ONE, rotate(1)).unwrap();
    assert_eq!(fleet.shared.authorities().unwrap().trusted().count(), 1, "the first one follows none");
    for node in [ONE, TWO] {
        fleet.apply(node, SharedChange::TakeAuthority { generation: 1 }).unwrap();
    }
    assert_eq!(fleet.apply(ONE, rotate(1)), Err(Rejected::InvalidAuthority), "the same");
    assert_eq!(fleet.apply(ONE, rotate(2)), Ok(Applied::AuthorityRotated { generation: 2 }));
    assert!(line(fleet.apply(ONE, rotate(3))).contains("is being rotated already"));
    let trusted: Vec<u8> = fleet.shared.authorities().unwrap().trusted().map(|c| c[0]).collect();
    assert_eq!(trusted, [2, 1]);
    assert_eq!(fleet.add(info(3), Role::Learner), Ok(THREE), "it begins with the new one");
    fleet.apply(TWO, SharedChange::TakeAuthority { generation: 2 }).unwrap();
    fleet.apply(TWO, SharedChange::TakeAuthority { generation: 1 }).expect("late, and nothing changes");
    assert_eq!(fleet.shared.behind_authority().collect::<Vec<_>>(), [ONE]);
    let ahead = fleet.apply(ONE, SharedChange::TakeAuthority { generation: 3 });
    assert_eq!(ahead, Err(Rejected::InvalidAuthority));
    let early = fleet.apply(ONE, SharedChange::DropAuthority { generation: 1 });
    assert_eq!(early, Err(Rejected::NoFormerAuthority), "of another rotation");
    fleet.apply(ONE, SharedChange::DropAuthority { generation: 2 }).unwrap();
    assert_eq!(fleet.shared.authorities().unwrap().trusted().count(), 1);
    let large =
        SharedChange::RotateAuthority { certificate: vec![9; CERTIFICATE_BYTES_MAX + 1], cross: Vec::new() };
    assert_eq!(fleet.apply(ONE, large), Err(Rejected::InvalidAuthority));
    assert_eq!(Shared::from_bytes(&fleet.shared.to_bytes()).unwrap(), fleet.shared);
}

#[test]
fn there_are_seven_voters_at_most() {
    let mut fleet = Fleet::new(9);
    for n in 2..=7 {
        fleet.apply(ONE, role(NodeId(n), Role::Voter)).unwrap();
    }
    assert_eq!((fleet.shared.voters().count(), fleet.shared.promotable().count()), (VOTERS_MAX, 0));
    assert_eq!(fleet.apply(ONE, role(NodeId(8), Role::Voter)), Err(Rejected::TooManyVoters));
    fleet.apply(ONE, role(NodeId(7), Role::Voter)).expect("it is one already");
    fleet.apply(ONE, remove(NodeId(4))).unwrap();
    let next: Vec<_> = fleet.shared.promotable().map(|n| n.id.0).collect();
    assert_eq!(next, [8, 9], "somebody takes its place");
}

#[test]
fn a_removed_node_is_fenced_for_ever() {
    let mut fleet = Fleet::new(3);
    let blue = fleet.create("blue", |_| ()).unwrap();
    let (lease, addresses) = fleet.reserve(THREE, "c", into(blue)).unwrap();
    fleet.reserve(TWO, "d", into(blue)).unwrap();
    assert_eq!(fleet.apply(ONE, remove(THREE)), Ok(Applied::NodeRemoved { node: THREE, released: 1 }));
    assert!(fleet.shared.lease(&lease).is_none());
    let refused = fleet.reserve(THREE, "c", into(blue)).unwrap_err();
    assert_eq!((refused.kind(), &refused), (ErrorKind::Conflict, &Rejected::Fenced(THREE)));
    assert!(line::<()>(Err(refused)).contains("was removed from this cluster: join it again"));
    for change in [remove(THREE), role(THREE, Role::Voter), SharedChange::Release { endpoints: vec![] }] {
        assert_eq!(fleet.apply(THREE, change), Err(Rejected::Fenced(THREE)));
    }
    assert_eq!(fleet.apply(ONE, remove(THREE)), Err(Rejected::NotAMember(THREE)));
    assert_eq!(fleet.add(info(3), Role::Voter), Ok(NodeId(4)), "the same host under a new id");
    assert_eq!(fleet.shared.membership(THREE), Membership::Removed);
    assert_eq!(fleet.shared.membership(NodeId(4)), Membership::Member);
    for unknown in [NodeId(0), NodeId(5), NodeId(u64::MAX)] {
        assert_eq!(fleet.shared.membership(unknown), Membership::Unknown);
        assert_eq!(fleet.apply(unknown, remove(ONE)), Err(Rejected::NotAMember(unknown)));
    }
    let (_, again) = fleet.reserve(NodeId(4), "c", at(blue, &addresses.ipv4.unwrap().to_string())).unwrap();
    assert_eq!(again, addresses);
    let read = Shared::from_bytes(&fleet.shared.to_bytes()).unwrap();
    assert_eq!(read.membership(THREE), Membership::Removed, "for ever");
}

#[test]
fn what_nodes_tell_is_checked_and_unique() {
    let mut fleet = Fleet::new(2);
    let mut refused = |change: &dyn Fn(&mut NodeInfo)| {
        let mut told = info(9);
        change(&mut told);
        let added = fleet.add(told.clone(), Role::Voter).unwrap_err();
        let updated = fleet.apply(ONE, SharedChange::UpdateNode { node: TWO, info: told }).unwrap_err();
        assert_eq!(added, updated);
        assert!(matches!(added.kind(), ErrorKind::Conflict | ErrorKind::Invalid));
        line::<()>(Err(added))
    };
    for (text, said) in [
        (refused(&|i| i.name = "host1".parse().unwrap()), "the node name host1 is already in use by node 1"),
        (refused(&|i| i.address = info(1).address), "192.0.2.1:7946 is already that of node host1"),
        (refused(&|i| i.vtep = info(1).vtep), "192.0.2.1 is already that of node host1"),
        (refused(&|i| i.vtep = "2001:db8::1".parse().unwrap()), "is IPv6, the cluster's are IPv4"),
        (refused(&|i| i.vtep = "::ffff:192.0.2.9".parse().unwrap()), "invalid tunnel endpoint"),
        (refused(&|i| i.vtep = "fe80::1".parse().unwrap()), "invalid tunnel endpoint"),
        (refused(&|i| i.vtep = "0.0.0.0".parse().unwrap()), "invalid tunnel endpoint"),
        (refused(&|i| i.vtep = "224.0.0.1".parse().unwrap()), "invalid tunnel endpoint"),
        (refused(&|i| i.vtep = "255.255.255.255".parse().unwrap()), "invalid tunnel endpoint"),
        (refused(&|i| i.address.set_port(0)), "invalid node address 192.0.2.9:0"),
        (refused(&|i| i.address.set_ip("::".parse().unwrap())), "invalid node address"),
        (refused(&|i| i.version = "9".repeat(65)), "longer than 64 bytes"),
    ] {
        assert!(text.contains(said), "{text}");
    }
    let moved = NodeInfo { address: SocketAddr::from(([198, 51, 100, 2], 7946)), ..info(2) };
    fleet.apply(TWO, SharedChange::UpdateNode { node: TWO, info: moved.clone() }).expect("it keeps the rest");
    assert_eq!(fleet.shared.node(TWO).unwrap().info, moved);
    fleet.add(NodeInfo { vtep: [192, 0, 2, 3].into(), ..info(3) }, Role::Learner).unwrap();
    assert_eq!(fleet.shared.find_node("host2").map(|n| n.id), Ok(TWO));
    assert_eq!(fleet.shared.find_node("3").map(|n| n.id), Ok(THREE));
    let text = fleet.shared.find_node("a\nb").unwrap_err();
    assert!(text.kind() == ErrorKind::NotFound && !text.to_string().contains('\n'));
}

#[test]
fn networks_get_the_next_vni_and_the_first_free_pool() {
    let mut fleet = Fleet::new(1);
    let described = |fleet: &Fleet, id| {
        let network: &Network = fleet.shared.network(&id).unwrap();
        (network.vni.get(), network.pools[0].subnet.to_string())
    };
    let a = fleet.create("a", |_| ()).unwrap();
    assert_eq!(described(&fleet, a), (4096, "10.0.0.0/24".into()));
    let occupied = |r: &mut vswitch_proto::command::CreateNetwork| {
        r.occupied = ["10.0.1.128/25", "10.0.2.0/23", "10.0.4.7/32", "172.17.0.0/16", "fd00::/8"]
            .map(|net| net.parse().unwrap())
            .into();
    };
    let b = fleet.create("b", occupied).unwrap();
    assert_eq!(described(&fleet, b), (4097, "10.0.5.0/24".into()));
    fleet.apply(ONE, SharedChange::RemoveNetwork { network: a }).unwrap();
    let c = fleet.create("c", |_| ()).unwrap();
    assert_eq!(described(&fleet, c), (4098, "10.0.0.0/24".into()), "the VNI not at once");
    let with = |key: &'static str, value: &str| {
        let value = value.to_owned();
        move |r: &mut vswitch_proto::command::CreateNetwork| _ = r.options.insert(key.into(), value)
    };
    let max = fleet.create("max", with(VXLAN_ID_OPTION, "16777215")).unwrap();
    assert_eq!(described(&fleet, max).0, Vni::MAX);
    let next = fleet.create("next", |_| ()).unwrap();
    assert_eq!(described(&fleet, next).0, 4099, "one that was asked for moves nothing");
    assert_eq!(
        line(fleet.create("again", with(VXLAN_ID_OPTION, "4099"))),
        "vxlan.id 4099 is already in use by network next: choose another one or leave it out"
    );
    for bad in ["4095", "0", "16777216", "+4096", "", "x", "99999999999"] {
        let refused = fleet.create("bad", with(VXLAN_ID_OPTION, bad));
        assert_eq!(refused, Err(Rejected::InvalidVni(bad.into())));
        assert!(line(refused).ends_with("give a number from 4096 to 16777215"));
    }
    assert_eq!(
        line(fleet.create("taken", |r| r.pools = vec![pool("10.0.5.0/25")])),
        "subnet 10.0.5.0/25 overlaps with 10.0.5.0/24 of network b: choose another subnet"
    );
    let full =
        |r: &mut vswitch_proto::command::CreateNetwork| r.occupied = vec!["0.0.0.0/1".parse().unwrap()];
    assert_eq!(fleet.create("full", full), Err(Rejected::NoFreePool { ipv6: false }));
    let six = fleet.create("six", |r| r.ipv6 = true).unwrap();
    assert_eq!(fleet.shared.network(&six).unwrap().pools.len(), 2);
}

#[test]
fn options_of_overlay_networks() {
    let mut fleet = Fleet::new(1);
    let mut with = |key: &str, value: &str| {
        let made = fleet.create("n", |r| _ = r.options.insert(key.into(), value.into()));
        let found = made.as_ref().map(|id| fleet.shared.network(id).unwrap().clone());
        if let Ok(network) = made {
            fleet.apply(ONE, SharedChange::RemoveNetwork { network }).unwrap();
        }
        found.map_err(Clone::clone)
    };
    let remotes =
        with(VXLAN_REMOTE_OPTION, "198.51.100.2, 198.51.100.1,198.51.100.2").unwrap().static_vteps();
    assert_eq!(remotes, [IpAddr::from([198, 51, 100, 1]), IpAddr::from([198, 51, 100, 2])]);
    for bad in ["", "x", "1.2.3.4,", "0.0.0.0", "239.0.0.1", "1.2.3.4:4789", "fe80::1"] {
        assert_eq!(with(VXLAN_REMOTE_OPTION, bad), Err(Rejected::InvalidRemotes(bad.into())));
    }
    let many = |n: u8| (1..=n).map(|i| format!("198.51.100.{i}")).collect::<Vec<_>>().join(",");
    assert_eq!(with(VXLAN_REMOTE_OPTION, &many(64)).unwrap().static_vteps().len(), 64);
    assert!(line(with(VXLAN_REMOTE_OPTION, &many(65))).contains("up to 64 IP addresses"));
    assert!(line(with(VXLAN_REMOTE_OPTION, "2001:db8::1")).contains("is IPv6, the cluster's are IPv4"));
    assert_eq!(with(MTU_OPTION, "9000").unwrap().mtu(), Some(9000));
    assert_eq!(with(MTU_OPTION, "67"), Err(Rejected::InvalidMtu("67".into())));
    let all = [
        MTU_OPTION,
        PORT_SECURITY_OPTION,
        SERVERS_OPTION,
        VXLAN_ID_OPTION,
        VXLAN_REMOTE_OPTION,
        VXLAN_INNER_VLAN_OPTION,
    ];
    for option in all {
        assert!(line(with("encrypted", "")).contains(option));
    }
    assert!(with(VXLAN_INNER_VLAN_OPTION, "true").unwrap().inner_vlan());
    assert!(!with(VXLAN_INNER_VLAN_OPTION, "false").unwrap().inner_vlan());
    assert!(line(with(VXLAN_INNER_VLAN_OPTION, "yes")).contains("give true or false"));
    assert_eq!(with(PORT_SECURITY_OPTION, "strict").unwrap().port_security(), PortSecurity::Strict);
    assert_eq!(with(PORT_SECURITY_OPTION, "none"), Err(Rejected::InvalidPortSecurity("none".into())));
    assert!(with(SERVERS_OPTION, "router").unwrap().servers().router);
    let low = (IPV6_MTU_MIN - 1).to_string();
    let refused = fleet.create("n", |r| {
        r.ipv6 = true;
        r.options.insert(MTU_OPTION.into(), low.clone());
    });
    assert_eq!(refused, Err(Rejected::InvalidMtu(low)));
}

#[test]
fn each_network_is_kept_where_it_belongs() {
    let mut fleet = Fleet::new(1);
    let id = fleet.network_id();
    for driver in [Driver::Bridge, Driver::None, Driver::Host] {
        let request = vswitch_proto::command::CreateNetwork { driver, ..bridge(id, "n") };
        let refused = fleet.apply(ONE, SharedChange::CreateNetwork(request));
        assert_eq!(refused, Err(Rejected::DriverElsewhere(driver)));
    }
    let mut lab = Lab::new();
    let refused = lab.create("n", |r| r.driver = Driver::Overlay);
    assert_eq!(refused, Err(Rejected::DriverElsewhere(Driver::Overlay)));
    fleet.apply(ONE, SharedChange::CreateNetwork(overlay(id, "n"))).unwrap();
    let again = fleet.network_id();
    let refused = fleet.apply(ONE, SharedChange::CreateNetwork(overlay(again, "n")));
    assert_eq!(refused, Err(Rejected::NetworkNameTaken("n".parse().unwrap())));
    let refused = fleet.apply(ONE, SharedChange::CreateNetwork(overlay(id, "m")));
    assert_eq!(refused, Err(Rejected::IdTaken(id.to_string())));
    assert_eq!(fleet.shared.find_network("n").map(|n| n.id), Ok(id));
    assert_eq!(fleet.shared.find_network(&id.short()).map(|n| n.id), Ok(id));
}

#[test]
fn a_container_takes_its_addresses_along() {
    let mut fleet = Fleet::new(2);
    let blue = fleet.create("blue", |_| ()).unwrap();
    let wanted = Attachment { mac: Some("02:42:de:ad:be:ef".parse().unwrap()), ..at(blue, "10.0.0.77") };
    let (old, addresses) = fleet.reserve(ONE, "c1", wanted.clone()).unwrap();
    assert_eq!(
        line(fleet.reserve(TWO, "c1", wanted.clone())),
        "address 10.0.0.77 is already in use in network blue by container c1 on node host1: choose another one"
    );
    let mac_only = Attachment { ipv4: None, ..wanted.clone() };
    assert_eq!(
        line(fleet.reserve(TWO, "c1", mac_only)),
        "MAC address 02:42:de:ad:be:ef is already in use in network blue by container c1 on node host1: choose another one"
    );
    assert_eq!(
        line(fleet.release(TWO, old)),
        "the lease belongs to container c1 on node host1: only its own node can release it"
    );
    assert_eq!(
        line(fleet.apply(ONE, SharedChange::RemoveNetwork { network: blue })),
        "network blue is in use by c1 on node host1: disconnect or remove them first"
    );
    assert_eq!(fleet.release(ONE, old), Ok(Applied::Released { released: 1 }));
    let (new, moved) = fleet.reserve(TWO, "c1", wanted).unwrap();
    assert_eq!(moved, addresses, "at once");
    assert_eq!(fleet.shared.lease(&new).unwrap().node, TWO);
    assert_eq!(fleet.release(ONE, old), Ok(Applied::Released { released: 0 }), "gone already");
    let (next, _) = fleet.reserve(ONE, "d", into(blue)).unwrap();
    assert_eq!(fleet.ipv4(next), "10.0.0.2");
    fleet.release(ONE, next).unwrap();
    let (next, _) = fleet.reserve(ONE, "d", into(blue)).unwrap();
    assert_eq!(fleet.ipv4(next), "10.0.0.3", "next fit");
}

#[test]
fn leases_are_refused_for_reasons() {
    let mut fleet = Fleet::new(2);
    let blue = fleet.create("blue", |r| r.pools = vec![pool("10.5.0.0/29")]).unwrap();
    let container = fleet.container_id();
    let (lease, addresses) = fleet.reserve_for(ONE, container, "c", into(blue)).unwrap();
    assert_eq!(addresses.mac, MacAddr::from_ipv4(addresses.ipv4.unwrap()));
    assert_eq!(fleet.shared.lease_at(&container, &blue).unwrap().endpoint, lease);
    assert_eq!(
        line(fleet.reserve_for(TWO, container, "c", into(blue))),
        "container c on node host1 is connected to network blue already: disconnect or remove it there first"
    );
    let request = |attachment| {
        SharedChange::Reserve(vswitch_proto::command::Reserve {
            endpoint: lease,
            container: vswitch_proto::id::ContainerId([7; 32]),
            container_name: "x".parse().unwrap(),
            attachment,
        })
    };
    assert_eq!(fleet.apply(ONE, request(into(blue))), Err(Rejected::IdTaken(lease.to_string())));
    let missing = fleet.network_id();
    assert_eq!(fleet.reserve(ONE, "d", into(missing)), Err(Rejected::UnknownNetwork(missing)));
    let aliases = (0..=super::super::ALIASES_MAX).map(|i| format!("a{i}").parse().unwrap()).collect();
    let refused = fleet.reserve(ONE, "d", Attachment { aliases, ..into(blue) });
    assert_eq!(refused, Err(Rejected::TooManyAliases("d".parse().unwrap())));
    for (wanted, said) in [
        (at(blue, "10.5.0.1"), "reserved in network blue as gateway"),
        (at(blue, "10.6.0.1"), "not in the subnet 10.5.0.0/29"),
        (Attachment { ipv6: Some("fd00::1".parse().unwrap()), ..into(blue) }, "has no IPv6 subnet"),
        (Attachment { mac: Some(MacAddr::BROADCAST), ..into(blue) }, "invalid MAC address"),
        (
            Attachment { mac: Some("02:42:0a:05:00:01".parse().unwrap()), ..into(blue) },
            "in use in network blue by the gateway",
        ),
    ] {
        let checked = fleet.shared.check_wanted(&wanted).map(|_| ());
        let text = line(fleet.reserve(TWO, "d", wanted));
        assert!(text.contains(said), "{text}");
        assert!(checked.is_ok() || text == line(checked), "the same before it is asked for");
    }
    for n in 0..4 {
        fleet.reserve(TWO, &format!("d{n}"), into(blue)).unwrap();
    }
    assert!(
        line(fleet.reserve(TWO, "e", into(blue))).starts_with("no available IPv4 addresses in 10.5.0.0/29")
    );
}

#[test]
fn many_leases_are_released_at_once() {
    let mut fleet = Fleet::new(2);
    let blue = fleet.create("blue", |_| ()).unwrap();
    let mine: Vec<_> = (0..5).map(|n| fleet.reserve(ONE, &format!("c{n}"), into(blue)).unwrap().0).collect();
    let (other, _) = fleet.reserve(TWO, "d", into(blue)).unwrap();
    let mut all = mine.clone();
    all.push(other);
    let refused = fleet.apply(ONE, SharedChange::Release { endpoints: all });
    assert!(line(refused).contains("container d on node host2"));
    assert_eq!(fleet.shared.leases_of(ONE).count(), 5, "all or nothing");
    let mut endpoints = mine[1..].to_vec();
    endpoints.extend([mine[1], fleet.endpoint_id()]);
    let released = fleet.apply(ONE, SharedChange::Release { endpoints });
    assert_eq!(released, Ok(Applied::Released { released: 4 }));
    let left: Vec<_> = fleet.shared.leases_in(&blue).map(|lease| lease.node).collect();
    assert!(left.contains(&ONE) && left.contains(&TWO) && left.len() == 2);
}

#[test]
fn a_request_applies_once() {
    let mut fleet = Fleet::new(1);
    let reserve = |fleet: &mut Fleet, network| {
        let (endpoint, container) = (fleet.endpoint_id(), fleet.container_id());
        let container_name = "c".parse().unwrap();
        let attachment = into(network);
        let request = vswitch_proto::command::Reserve { endpoint, container, container_name, attachment };
        fleet.envelope(ONE, SharedChange::Reserve(request))
    };
    let blue = fleet.create("blue", |_| ()).unwrap();
    let first = reserve(&mut fleet, blue);
    let answer = fleet.shared.apply(&first);
    let Ok(Applied::Reserved { endpoint, .. }) = answer else { panic!("{answer:?}") };
    fleet.release(ONE, endpoint).unwrap();
    let digest = fleet.shared.digest();
    assert_eq!(fleet.shared.apply(&first), answer, "as then, although it is gone");
    assert_eq!(fleet.shared.outcome(&first.request_id), Some(answer.as_ref()));
    assert_eq!(fleet.shared.digest(), digest);
    assert!(fleet.shared.lease(&endpoint).is_none());
}

#[test]
fn a_request_that_may_be_forgotten_is_not_applied_again() {
    let mut fleet = Fleet::new(2);
    let create = |fleet: &mut Fleet, name: &str| {
        let request = overlay(fleet.network_id(), name);
        fleet.envelope(ONE, SharedChange::CreateNetwork(request))
    };
    let (first, never) = (create(&mut fleet, "first"), create(&mut fleet, "never"));
    fleet.shared.apply(&first).unwrap();
    let blue = fleet.shared.find_network("first").unwrap().id;
    fleet.apply(ONE, SharedChange::RemoveNetwork { network: blue }).unwrap();
    let pass = |fleet: &mut Fleet, requests: usize| {
        for _ in 0..requests {
            fleet.apply(TWO, SharedChange::Release { endpoints: Vec::new() }).unwrap();
        }
    };
    // Behind `first`'s count there were itself, the removal, and these.
    pass(&mut fleet, 8 * GENERATION - 2);
    assert_eq!(fleet.shared.apply(&first), Ok(Applied::NetworkCreated { network: blue }), "remembered");
    assert_eq!(fleet.shared.networks().count(), 0);
    pass(&mut fleet, GENERATION);
    assert!(!fleet.shared.is_settled(&first.request_id));
    let late = fleet.shared.apply(&first);
    assert_eq!(late, Err(Rejected::TooLate), "although the name is free");
    assert!(line(late).contains("look whether it was"));
    assert_eq!(fleet.shared.apply(&never), Err(Rejected::TooLate), "nobody can tell the two apart");
    let anew = SharedEnvelope { request_id: RequestId([9; 16]), ..create(&mut fleet, "anew") };
    fleet.shared.apply(&anew).unwrap();
    let read = Shared::from_bytes(&fleet.shared.to_bytes()).unwrap();
    assert_eq!(read.requests(), fleet.shared.requests());
}

#[test]
fn every_collection_has_its_bound() {
    let mut fleet = Fleet::default();
    let told = |n: u16| {
        let ip = IpAddr::from([10, 255, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        NodeInfo { name: format!("h{n}").parse().unwrap(), address: (ip, 7946).into(), vtep: ip, ..info(1) }
    };
    for n in 0..NODES_MAX as u16 {
        fleet.add(told(n), Role::Voter).unwrap();
    }
    assert_eq!(fleet.add(told(9999), Role::Voter), Err(Rejected::TooManyNodes));
    let mut made = 0;
    let refused = loop {
        match fleet.create(&format!("n{made}"), |_| ()) {
            Ok(_) => made += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((made, refused), (super::super::NETWORKS_MAX, Rejected::TooManyNetworks));
    let first = fleet.shared.find_network("n0").unwrap().id;
    let wide = fleet.shared.find_network("n1").unwrap().id;
    fleet.apply(ONE, SharedChange::RemoveNetwork { network: wide }).unwrap();
    let wide = fleet.create("wide", |r| r.pools = vec![pool("11.0.0.0/8")]).unwrap();
    for n in 0..LEASES_MAX {
        fleet.reserve(NodeId(n as u64 % 1024 + 1), "c", into(wide)).unwrap();
    }
    assert_eq!(fleet.reserve(ONE, "c", into(first)), Err(Rejected::TooManyLeases));
    let read = Shared::from_bytes(&fleet.shared.to_bytes()).unwrap();
    assert_eq!(read.digest(), fleet.shared.digest());
}

fn sample() -> Fleet {
    let mut fleet = Fleet::new(3);
    fleet.apply(ONE, role(TWO, Role::Voter)).unwrap();
    let blue = fleet.create("blue", |r| r.ipv6 = true).unwrap();
    fleet.create("red", |r| r.pools = vec![pool("10.9.0.0/16")]).unwrap();
    fleet.reserve(ONE, "a", into(blue)).unwrap();
    fleet.reserve(TWO, "b", at(blue, "10.0.0.9")).unwrap();
    let (docker, name) = (NetworkId([0xd2; 32]), "front".parse().ok());
    fleet.apply(TWO, SharedChange::Bind { network: blue, docker, name }).unwrap();
    fleet.apply(ONE, remove(THREE)).unwrap();
    fleet
}

#[test]
fn what_is_read_goes_on_as_what_was_written() {
    let mut fleet = sample();
    let bytes = fleet.shared.to_bytes();
    let mut read = fleet.clone();
    read.shared = Shared::from_bytes(&bytes).unwrap();
    assert_eq!(read.shared, fleet.shared);
    let blue = fleet.shared.find_network("blue").unwrap().id;
    for fleet in [&mut fleet, &mut read] {
        let (lease, _) = fleet.reserve(ONE, "c", into(blue)).unwrap();
        assert_eq!(fleet.ipv4(lease), "10.0.0.3", "the cursor was kept");
        assert_eq!(fleet.add(info(7), Role::Voter), Ok(NodeId(4)), "and the ids");
    }
    assert_eq!(read.shared.digest(), fleet.shared.digest());
    for length in 0..bytes.len() {
        assert!(Shared::from_bytes(&bytes[..length]).is_err(), "{length}");
    }
    assert_eq!(Shared::from_bytes(&[&bytes[..], &[0]].concat()), Err(SnapshotError::Malformed));
    assert_eq!(State::from_bytes(&bytes), Err(SnapshotError::Foreign));
    assert_eq!(Shared::from_bytes(&Lab::new().state.to_bytes()), Err(SnapshotError::Foreign));
    let newer = [&bytes[..4], &[bytes[4] + 1], &bytes[5..]].concat();
    assert_eq!(Shared::from_bytes(&newer), Err(SnapshotError::Newer(bytes[4] + 1)));
}

#[test]
fn contradictions_are_refused() {
    let broken = |change: &dyn Fn(&mut Shared)| {
        let mut shared = sample().shared;
        change(&mut shared);
        Shared::from_bytes(&shared.to_bytes()).unwrap_err()
    };
    let network = |s: &mut Shared, change: &dyn Fn(&mut Network)| {
        let id = s.find_network("blue").unwrap().id;
        change(Arc::make_mut(s.networks.get_mut(&id).unwrap()));
    };
    let lease = |s: &mut Shared, change: &dyn Fn(&mut Lease)| {
        let id = *s.leases.keys().next().unwrap();
        change(Arc::make_mut(s.leases.get_mut(&id).unwrap()));
    };
    let binding = |s: &mut Shared, change: &dyn Fn(&mut Binding)| {
        let id = *s.bindings.keys().next().unwrap();
        change(Arc::make_mut(s.bindings.get_mut(&id).unwrap()));
    };
    let node =
        |s: &mut Shared, change: &dyn Fn(&mut Node)| change(Arc::make_mut(s.nodes.get_mut(&TWO).unwrap()));
    for error in [
        broken(&|s| network(s, &|n| n.pools.clear())),
        broken(&|s| network(s, &|n| n.driver = Driver::Bridge)),
        broken(&|s| network(s, &|n| n.vni = Vni::new(4095).unwrap())),
        broken(&|s| network(s, &|n| n.vni = Vni::new(4097).unwrap())),
        broken(&|s| network(s, &|n| n.name = "red".parse().unwrap())),
        broken(&|s| {
            let blue = s.find_network("blue").unwrap().id;
            s.networks.remove(&blue);
        }),
        broken(&|s| lease(s, &|l| l.node = THREE)),
        broken(&|s| lease(s, &|l| l.network = NetworkId([9; 32]))),
        broken(&|s| lease(s, &|l| l.addresses.ipv4 = Some([10, 0, 1, 1].into()))),
        broken(&|s| lease(s, &|l| l.addresses.ipv4 = Some([10, 0, 0, 1].into()))),
        broken(&|s| lease(s, &|l| l.addresses.ipv4 = None)),
        broken(&|s| {
            let addresses: Vec<_> = s.leases().map(|l| l.addresses).collect();
            lease(s, &|l| l.addresses = addresses[1]);
        }),
        broken(&|s| {
            let containers: Vec<_> = s.leases().map(|l| l.container).collect();
            lease(s, &|l| l.container = containers[1]);
        }),
        broken(&|s| node(s, &|n| n.info.name = "host1".parse().unwrap())),
        broken(&|s| node(s, &|n| n.info.vtep = info(1).vtep)),
        broken(&|s| node(s, &|n| n.info.vtep = "2001:db8::1".parse().unwrap())),
        broken(&|s| node(s, &|n| n.id = ONE)),
        broken(&|s| s.last_node = 1),
        broken(&|s| binding(s, &|b| b.node = THREE)),
        broken(&|s| binding(s, &|b| b.network = NetworkId([9; 32]))),
        broken(&|s| node(s, &|n| n.authority = 1)),
        broken(&|s| {
            s.rotate_authority(&[1], &[], 5).unwrap();
            Arc::make_mut(s.authorities.as_mut().unwrap()).current.clear();
        }),
        broken(&|s| {
            [ONE, TWO].iter().for_each(|n| Arc::make_mut(s.nodes.get_mut(n).unwrap()).role = Role::Learner);
        }),
    ] {
        assert!(matches!(error, SnapshotError::Inconsistent(_)), "{error}");
    }
}
