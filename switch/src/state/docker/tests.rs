use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use vswitch_proto::command::{
    AddressHolder, Addresses, Attachment, Command, ContainerKind, CreateContainer, DockerChange,
    DockerNetwork, DockerSpec, NewEndpoint, PoolRequest, Reservation, Scope,
};
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, NetworkId};

use super::super::shared::testing::{Fleet, into};
use super::super::testing::{Lab, bridge, id32, pool, to};
use super::super::{Applied, Phase, Rejected, State, View};

impl Lab {
    fn docker(&mut self, change: DockerChange) -> Result<Applied, Rejected> {
        self.apply(Command::Docker(change))
    }

    fn docker_network(&mut self, name: &str, subnet: &str) -> Result<NetworkId, Rejected> {
        let mut request = bridge(self.network_id(), name);
        request.pools = vec![pool(subnet)];
        let id = request.id;
        let network = DockerNetwork { id, network: id, scope: Scope::Local, internal: false };
        self.docker(DockerChange::AddNetwork { network, local: Some(request) }).map(|_| id)
    }

    fn endpoint(&mut self, docker: NetworkId, wanted: Attachment) -> Result<ContainerId, Rejected> {
        let id = id32(self.draw());
        self.endpoint_as(id, docker, wanted, EndpointId(id).into())
    }

    fn endpoint_as(
        &mut self,
        id: [u8; 32],
        docker: NetworkId,
        wanted: Attachment,
        new: NewEndpoint,
    ) -> Result<ContainerId, Rejected> {
        let id = ContainerId(id);
        let spec = DockerSpec { network: docker, sandbox: None, container: None };
        let name = format!("docker-{}", id.short()).parse().unwrap();
        let kind = ContainerKind::Docker(spec);
        let create = CreateContainer { id, name, kind, attachments: vec![(wanted, new)] };
        self.docker(DockerChange::AddEndpoint(create)).map(|_| id)
    }

    fn subnet_of(&mut self, subnet: Option<&str>, ipv6: bool) -> Result<String, Rejected> {
        let subnet = subnet.map(|subnet| subnet.parse().unwrap());
        let seed = id32(self.draw());
        let change = DockerChange::RequestPool { subnet, ip_range: None, ipv6, occupied: Vec::new(), seed };
        self.docker(change).map(|applied| match applied {
            Applied::PoolGiven { subnet } => subnet.to_string(),
            other => panic!("{other:?}"),
        })
    }

    fn address(
        &mut self,
        subnet: &str,
        address: Option<&str>,
        holder: AddressHolder,
    ) -> Result<String, Rejected> {
        let address = address.map(|ip| ip.parse().unwrap());
        let change = DockerChange::RequestAddress { subnet: subnet.parse().unwrap(), address, holder };
        self.docker(change).map(|applied| match applied {
            Applied::AddressGiven { address } => address.to_string(),
            other => panic!("{other:?}"),
        })
    }

    fn is_kept(&self) {
        assert_eq!(State::from_bytes(&self.state.to_bytes()).unwrap(), self.state);
    }
}

fn interface(last: u8) -> AddressHolder {
    AddressHolder::Interface(MacAddr([2, 0, 0, 0, 0, last]))
}

#[test]
fn a_network_comes_and_goes_with_the_engines() {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    // The engine has chosen what the default network has here already: frames never cross.
    let blue = lab.docker_network("docker-blue", "172.17.0.0/16").unwrap();
    assert!(lab.state.belongs_to_docker(&blue) && !lab.state.belongs_to_docker(&bridge));
    assert!(matches!(lab.docker_network("docker-red", "172.17.8.0/24"), Err(Rejected::SubnetOverlap { .. })));
    let next = lab.create("next", |_| ()).unwrap();
    let subnet = lab.state.network(&next).unwrap().pools[0].subnet.to_string();
    assert_eq!(subnet, "172.18.0.0/16", "what Docker has is taken for others");

    lab.docker(DockerChange::NameNetwork { network: blue, name: "blue".parse().unwrap() }).unwrap();
    assert_eq!(lab.named("blue"), blue);
    let taken = lab.docker(DockerChange::NameNetwork { network: blue, name: "bridge".parse().unwrap() });
    assert_eq!(taken, Err(Rejected::NetworkNameTaken("bridge".parse().unwrap())));
    let refused = lab.apply(Command::RemoveNetwork { network: blue });
    assert_eq!(refused, Err(Rejected::NetworkOfDocker("blue".parse().unwrap())));

    let endpoint = lab.endpoint(blue, to(blue)).unwrap();
    lab.is_kept();
    let in_use = lab.docker(DockerChange::RemoveNetwork { network: blue });
    assert!(matches!(in_use, Err(Rejected::DockerNetworkInUse(_))));
    lab.docker(DockerChange::RemoveEndpoint { endpoint }).unwrap();
    lab.docker(DockerChange::RemoveNetwork { network: blue }).unwrap();
    assert_eq!(lab.state.docker_networks().count(), 0);
    assert!(lab.state.network(&blue).is_none());
    lab.is_kept();
}

#[test]
fn an_endpoint_from_its_creation_to_its_end() {
    let mut lab = Lab::new();
    let blue = lab.docker_network("docker-blue", "10.1.0.0/24").unwrap();
    let asked = Attachment { ipv4: Some([10, 1, 0, 7].into()), ..to(blue) };
    let endpoint = lab.endpoint(blue, asked.clone()).unwrap();
    assert_eq!(lab.wire(endpoint, blue).mac.to_string(), "02:42:0a:01:00:07");
    assert!(matches!(lab.endpoint(blue, asked), Err(Rejected::AddressInUse { .. })));

    let sandbox = "/run/docker/netns/0".to_owned();
    lab.docker(DockerChange::Join { endpoint, sandbox: sandbox.clone() }).unwrap();
    let held = lab.state.container(&endpoint).unwrap();
    assert_eq!((&held.phase, held.docker().unwrap().sandbox.as_ref()), (&Phase::Running, Some(&sandbox)));

    // What the engine calls it may be what others are called.
    lab.run("web", vec![]).unwrap();
    let (container, name) = (ContainerId([9; 32]), "web".parse().unwrap());
    let aliases = vec!["front".parse().unwrap()];
    lab.docker(DockerChange::Describe { endpoint, container, name, aliases }).unwrap();
    let held = lab.state.find_container(&container.to_string()).unwrap();
    assert_eq!((held.id, held.name.as_str()), (endpoint, "web"));
    assert_eq!(held.attachments[0].aliases[0].as_str(), "front");
    lab.is_kept();

    let belongs = |done: Result<Applied, Rejected>| {
        assert!(matches!(done, Err(Rejected::ContainerOfDocker(_))), "{done:?}");
    };
    belongs(lab.start(endpoint));
    belongs(lab.exit(endpoint));
    belongs(lab.disconnect(endpoint, blue));
    belongs(lab.apply(Command::RemoveContainer { container: endpoint }));

    lab.docker(DockerChange::Leave { endpoint }).unwrap();
    assert_eq!(lab.state.container(&endpoint).unwrap().phase, Phase::Created);
    lab.docker(DockerChange::RemoveEndpoint { endpoint }).unwrap();
    assert_eq!(lab.docker(DockerChange::Leave { endpoint }), Err(Rejected::UnknownContainer(endpoint)));
    lab.is_kept();
}

#[test]
fn an_endpoint_belongs_to_its_engines_network() {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    let blue = lab.docker_network("docker-blue", "10.1.0.0/24").unwrap();
    assert_eq!(lab.endpoint(blue, to(bridge)), Err(Rejected::UnknownNetwork(blue)));
    assert_eq!(lab.endpoint(bridge, to(bridge)), Err(Rejected::UnknownNetwork(bridge)));
    assert_eq!(lab.state.docker_endpoints().count(), 0);
}

#[test]
fn pools_are_given_once_and_counted() {
    let mut lab = Lab::new();
    assert_eq!(lab.subnet_of(None, false).unwrap(), "172.18.0.0/16", "the default network has the first");
    assert_eq!(lab.subnet_of(None, false).unwrap(), "172.19.0.0/16");
    for _ in 0..2 {
        assert_eq!(lab.subnet_of(Some("10.1.0.0/24"), false).unwrap(), "10.1.0.0/24");
    }
    assert!(matches!(lab.subnet_of(Some("10.1.0.0/25"), false), Err(Rejected::PoolOverlap { .. })));
    assert!(matches!(lab.subnet_of(Some("10.1.0.1/24"), false), Err(Rejected::SubnetHostBits { .. })));
    let six = lab.subnet_of(None, true).unwrap();
    assert!(six.starts_with("fd") && six.ends_with("::/64"), "{six}");
    let subnet = "10.1.0.0/24".parse().unwrap();
    lab.docker(DockerChange::ReleasePool { subnet }).unwrap();
    assert!(lab.state.address_pool(&subnet).is_some());
    lab.is_kept();
    for _ in 0..2 {
        lab.docker(DockerChange::ReleasePool { subnet }).unwrap();
        assert!(lab.state.address_pool(&subnet).is_none());
    }
}

#[test]
fn a_pool_is_not_given_with_another_range_or_beside_its_network() {
    let mut lab = Lab::new();
    let mut ask = |subnet: &str, range: Option<&str>| {
        let (subnet, ip_range) = (subnet.parse().ok(), range.map(|range| range.parse().unwrap()));
        let occupied = Vec::new();
        let ask = DockerChange::RequestPool { subnet, ip_range, ipv6: false, occupied, seed: [0; 32] };
        lab.docker(ask)
    };
    for _ in 0..2 {
        assert!(ask("10.1.0.0/24", Some("10.1.0.128/25")).is_ok(), "the same call, the same answer");
    }
    for range in [None, Some("10.1.0.0/25")] {
        let refused = ask("10.1.0.0/24", range);
        assert!(matches!(refused, Err(Rejected::PoolRange { .. })), "{refused:?}");
    }
    lab.docker_network("net", "10.2.0.0/24").unwrap();
    let refused = lab.subnet_of(Some("10.2.0.0/25"), false);
    assert!(matches!(refused, Err(Rejected::SubnetOverlap { .. })), "{refused:?}");
}

#[test]
fn an_address_is_for_whoever_asked_for_it() {
    let mut lab = Lab::new();
    let subnet = lab.subnet_of(Some("10.1.0.0/29"), false).unwrap();
    assert_eq!(lab.address(&subnet, None, AddressHolder::Gateway).unwrap(), "10.1.0.1");
    assert_eq!(lab.address(&subnet, Some("10.1.0.2"), AddressHolder::Nobody).unwrap(), "10.1.0.2");
    for _ in 0..2 {
        assert_eq!(
            lab.address(&subnet, None, interface(1)).unwrap(),
            "10.1.0.3",
            "the same call, the same answer"
        );
    }
    assert_eq!(lab.address(&subnet, None, AddressHolder::Gateway).unwrap(), "10.1.0.1");
    let taken = lab.address(&subnet, Some("10.1.0.3"), interface(2));
    assert!(matches!(taken, Err(Rejected::PoolAddressInUse { .. })), "{taken:?}");
    assert!(matches!(lab.address(&subnet, Some("10.1.0.7"), interface(2)), Err(Rejected::NotAHost { .. })));
    assert!(matches!(
        lab.address(&subnet, Some("10.2.0.3"), interface(2)),
        Err(Rejected::OutsideSubnet { .. })
    ));
    // A container of the lab runner got its address from the network itself.
    let network = lab.docker_network("blue", "10.1.0.0/29").unwrap();
    let wanted = Attachment { ipv4: Some([10, 1, 0, 4].into()), ..to(network) };
    lab.run("lab", vec![wanted]).unwrap();
    assert_eq!(lab.address(&subnet, None, interface(2)).unwrap(), "10.1.0.5");
    assert_eq!(lab.address(&subnet, None, interface(3)).unwrap(), "10.1.0.6");
    assert!(matches!(lab.address(&subnet, None, interface(4)), Err(Rejected::AddressesExhausted(_))));
    let address: IpAddr = "10.1.0.3".parse().unwrap();
    for _ in 0..2 {
        lab.docker(DockerChange::ReleaseAddress { subnet: subnet.parse().unwrap(), address }).unwrap();
    }
    assert_eq!(lab.address(&subnet, None, interface(4)).unwrap(), "10.1.0.3");
    lab.is_kept();
    let unknown = lab.address("10.9.0.0/24", None, interface(1));
    assert!(matches!(unknown, Err(Rejected::UnknownPool(_))), "{unknown:?}");
}

#[test]
fn others_get_no_address_that_an_engine_hands_out_next() {
    let mut lab = Lab::new();
    let net = lab.docker_network("net", "10.1.0.0/29").unwrap();
    let ask = |last: u8| Attachment { ipv4: Some([10, 1, 0, last].into()), ..to(net) };
    lab.endpoint(net, ask(2)).unwrap();
    let guests: Vec<String> = ["g1", "g2", "g3"]
        .map(|name| lab.run(name, vec![to(net)]).map(|guest| lab.ipv4(guest, net)).unwrap())
        .into();
    assert_eq!(guests, ["10.1.0.6", "10.1.0.5", "10.1.0.4"]);
    lab.endpoint(net, ask(3)).unwrap();
    assert!(matches!(lab.run("g4", vec![to(net)]), Err(Rejected::PoolExhausted { .. })));
    // Not the one that was released last, while there is another.
    let g1 = lab.state.find_container("g1").unwrap().id;
    let g3 = lab.state.find_container("g3").unwrap().id;
    for guest in [g1, g3] {
        lab.disconnect(guest, net).unwrap();
    }
    let g5 = lab.run("g5", vec![to(net)]).unwrap();
    assert_eq!(lab.ipv4(g5, net), "10.1.0.6");
    lab.is_kept();
}

#[test]
fn others_get_no_address_that_a_pool_has_given() {
    let mut lab = Lab::new();
    let subnet = lab.subnet_of(Some("10.1.0.0/24"), false).unwrap();
    assert_eq!(lab.address(&subnet, None, AddressHolder::Gateway).unwrap(), "10.1.0.1");
    let own = lab.docker_network("own", &subnet).unwrap();
    assert_eq!(lab.address(&subnet, None, interface(1)).unwrap(), "10.1.0.2");
    let guest = lab.run("guest", vec![to(own)]).unwrap();
    assert_eq!(lab.ipv4(guest, own), "10.1.0.3");
    assert_eq!(lab.address(&subnet, None, interface(2)).unwrap(), "10.1.0.4");
    lab.endpoint(own, Attachment { ipv4: Some([10, 1, 0, 2].into()), ..to(own) }).unwrap();
    lab.is_kept();
}

#[test]
fn a_gateway_stays_for_the_other_use_of_its_pool() {
    let mut lab = Lab::new();
    let subnet = lab.subnet_of(Some("10.1.0.0/24"), false).unwrap();
    lab.subnet_of(Some("10.1.0.0/24"), false).unwrap();
    lab.address(&subnet, None, AddressHolder::Gateway).unwrap();
    lab.address(&subnet, Some("10.1.0.9"), AddressHolder::Nobody).unwrap();
    lab.address(&subnet, Some("10.1.0.2"), interface(1)).unwrap();
    let pool: IpNet = subnet.parse().unwrap();
    let mut left_after_release = || {
        for address in ["10.1.0.1", "10.1.0.2", "10.1.0.9"] {
            let address = address.parse().unwrap();
            lab.docker(DockerChange::ReleaseAddress { subnet: pool, address }).unwrap();
        }
        let left = lab.state.address_pool(&pool).unwrap().addresses.len();
        lab.docker(DockerChange::ReleasePool { subnet: pool }).unwrap();
        left
    };
    assert_eq!([left_after_release(), left_after_release()], [2, 0]);
    assert!(lab.state.address_pool(&pool).is_none());
}

#[test]
fn a_pool_stays_while_a_network_has_it() {
    let mut lab = Lab::new();
    let subnet = lab.subnet_of(Some("10.1.0.0/24"), false).unwrap();
    let gateway = lab.address(&subnet, None, AddressHolder::Gateway).unwrap().parse().unwrap();
    let net = lab.docker_network("net", &subnet).unwrap();
    // A second network with it was refused, and its end is told more than once.
    lab.subnet_of(Some("10.1.0.0/24"), false).unwrap();
    let pool: IpNet = subnet.parse().unwrap();
    for uses in [1, 0, 0] {
        lab.docker(DockerChange::ReleaseAddress { subnet: pool, address: gateway }).unwrap();
        lab.docker(DockerChange::ReleasePool { subnet: pool }).unwrap();
        let left = lab.state.address_pool(&pool).unwrap();
        assert_eq!((left.uses, left.addresses.len()), (uses, 1));
    }
    assert_eq!(lab.address(&subnet, None, interface(1)).unwrap(), "10.1.0.2");
    lab.is_kept();
    lab.docker(DockerChange::RemoveNetwork { network: net }).unwrap();
    assert!(lab.state.address_pool(&pool).is_none());
    lab.docker(DockerChange::ReleasePool { subnet: pool }).unwrap();
    assert!(lab.state.address_pool(&pool).is_none());
}

/// Engines release the addresses and pools of a network before they delete it; older ones afterwards.
#[test]
fn a_pool_is_free_as_soon_as_its_network_is_gone() {
    for releases_first in [true, false] {
        let mut lab = Lab::new();
        // More rounds than there are subnets to choose from, with both families.
        for round in 0..40 {
            let asked = if round % 2 == 0 { Some("10.99.0.0/16") } else { None };
            let four = lab.subnet_of(asked, false).unwrap();
            let six = lab.subnet_of(None, true).unwrap();
            let gateway = lab.address(&four, None, AddressHolder::Gateway).unwrap().parse().unwrap();
            let network = lab.docker_network(&format!("net{round}"), &four).unwrap();
            let [four, six]: [IpNet; 2] = [&four, &six].map(|subnet| subnet.parse().unwrap());
            let release = |lab: &mut Lab| {
                lab.docker(DockerChange::ReleaseAddress { subnet: four, address: gateway }).unwrap();
                for subnet in [four, six] {
                    lab.docker(DockerChange::ReleasePool { subnet }).unwrap();
                }
            };
            if releases_first {
                release(&mut lab);
            }
            lab.docker(DockerChange::RemoveNetwork { network }).unwrap();
            if !releases_first {
                release(&mut lab);
            }
            assert_eq!(lab.state.pools().count(), 0, "round {round}, {releases_first}");
        }
        // What overlaps with one that has gone, at once.
        lab.subnet_of(Some("10.99.0.0/24"), false).unwrap();
        lab.is_kept();
    }
}

#[test]
fn a_released_pool_that_is_asked_for_again_stays() {
    let mut lab = Lab::new();
    let subnet = lab.subnet_of(Some("10.1.0.0/24"), false).unwrap();
    let net = lab.docker_network("net", &subnet).unwrap();
    let pool: IpNet = subnet.parse().unwrap();
    lab.docker(DockerChange::ReleasePool { subnet: pool }).unwrap();
    assert_eq!(lab.subnet_of(Some("10.1.0.0/24"), false).unwrap(), subnet);
    lab.docker(DockerChange::RemoveNetwork { network: net }).unwrap();
    assert_eq!(lab.state.address_pool(&pool).map(|pool| pool.uses), Some(1));
    lab.docker(DockerChange::ReleasePool { subnet: pool }).unwrap();
    assert!(lab.state.address_pool(&pool).is_none());
}

#[test]
fn an_interface_is_given_one_address_of_a_pool() {
    let mut lab = Lab::new();
    let subnet = lab.subnet_of(Some("10.1.0.0/24"), false).unwrap();
    for _ in 0..2 {
        assert_eq!(lab.address(&subnet, Some("10.1.0.9"), interface(1)).unwrap(), "10.1.0.9");
    }
    let second = lab.address(&subnet, Some("10.1.0.10"), interface(1));
    assert!(matches!(second, Err(Rejected::PoolMacInUse { .. })), "{second:?}");
    assert_eq!(lab.address(&subnet, None, interface(1)).unwrap(), "10.1.0.9");
    lab.is_kept();
    // What has two of them already is a state all the same.
    let pool: IpNet = subnet.parse().unwrap();
    let pool = Arc::make_mut(lab.state.docker_mut().pools.get_mut(&pool).unwrap());
    pool.addresses.insert("10.1.0.10".parse().unwrap(), interface(1));
    lab.is_kept();
    assert_eq!(lab.address(&subnet, Some("10.1.0.10"), interface(1)).unwrap(), "10.1.0.10");
}

#[test]
fn what_an_endpoint_has_is_not_given_again() {
    let mut lab = Lab::new();
    let subnet = lab.subnet_of(Some("10.1.0.0/24"), false).unwrap();
    lab.address(&subnet, None, AddressHolder::Gateway).unwrap();
    let blue = lab.docker_network("blue", &subnet).unwrap();
    assert_eq!(lab.address(&subnet, None, interface(1)).unwrap(), "10.1.0.2");
    let mac = Some(MacAddr([2, 0, 0, 0, 0, 1]));
    let endpoint = lab.endpoint(blue, Attachment { ipv4: Some([10, 1, 0, 2].into()), mac, ..to(blue) });
    for address in [None, Some("10.1.0.2"), Some("10.1.0.3")] {
        let again = lab.address(&subnet, address, interface(1));
        assert!(matches!(again, Err(Rejected::PoolMacInUse { .. })), "{address:?}: {again:?}");
    }
    assert_eq!(lab.address(&subnet, None, AddressHolder::Gateway).unwrap(), "10.1.0.1");
    lab.docker(DockerChange::RemoveEndpoint { endpoint: endpoint.unwrap() }).unwrap();
    assert_eq!(lab.address(&subnet, None, interface(1)).unwrap(), "10.1.0.2");
}

#[test]
fn a_lease_is_kept_from_request_to_release() {
    const ME: vswitch_proto::id::NodeId = vswitch_proto::id::NodeId(1);
    let (mut lab, mut fleet) = (Lab::new(), Fleet::new(1));
    let blue = fleet.create("blue", |_| ()).unwrap();
    let (id, addresses) = fleet.reserve(ME, "docker-1", into(blue)).unwrap();
    let stale = |lab: &Lab, fleet: &Fleet| {
        View { local: &lab.state, shared: &fleet.shared, me: ME }.stale_leases().count()
    };
    assert_eq!(stale(&lab, &fleet), 1);
    lab.docker(DockerChange::Reserve(Reservation { endpoint: id, network: blue, addresses })).unwrap();
    assert_eq!(stale(&lab, &fleet), 0);

    let docker = NetworkId([5; 32]);
    let network = DockerNetwork { id: docker, network: blue, scope: Scope::Cluster, internal: false };
    lab.docker(DockerChange::AddNetwork { network, local: None }).unwrap();
    let Addresses { ipv4, .. } = addresses;
    let wanted = Attachment { ipv4, ..into(blue) };
    let new = NewEndpoint { id, lease: Some(addresses) };
    let endpoint = lab.endpoint_as([6; 32], docker, wanted, new).unwrap();
    assert_eq!(lab.wire(endpoint, blue).granted(), addresses);
    lab.is_kept();
    lab.docker(DockerChange::RemoveEndpoint { endpoint }).unwrap();
    assert_eq!(stale(&lab, &fleet), 0, "it is released when the engine says so");
    lab.docker(DockerChange::Unreserve { endpoint: id }).unwrap();
    assert_eq!(stale(&lab, &fleet), 1);
    lab.docker(DockerChange::RemoveNetwork { network: docker }).unwrap();
    lab.is_kept();
}

#[test]
fn what_contradicts_itself_is_no_state() {
    let mut lab = Lab::new();
    let blue = lab.docker_network("blue", "10.1.0.0/24").unwrap();
    let mut broken = lab.state.clone();
    broken.docker_mut().networks.get_mut(&blue).unwrap().network = NetworkId([1; 32]);
    assert!(State::from_bytes(&broken.to_bytes()).is_err());
    let paired =
        DockerNetwork { id: NetworkId([1; 32]), network: blue, scope: Scope::Local, internal: false };
    let request = super::super::testing::bridge(blue, "other");
    let refused = lab.docker(DockerChange::AddNetwork { network: paired, local: Some(request) });
    assert!(matches!(refused, Err(Rejected::IdTaken(_))), "{refused:?}");
    let many = PoolRequest { aux_addresses: Default::default(), ..pool("10.3.0.0/24") };
    let mut request = bridge(NetworkId([2; 32]), "two");
    request.pools = vec![many.clone(), PoolRequest { subnet: "10.4.0.0/24".parse().unwrap(), ..many }];
    let network = DockerNetwork { id: request.id, network: request.id, scope: Scope::Local, internal: false };
    let refused = lab.docker(DockerChange::AddNetwork { network, local: Some(request) });
    assert!(matches!(refused, Err(Rejected::TooManySubnets { .. })), "{refused:?}");
    assert_eq!(lab.state.docker_networks().count(), 1, "nothing of it was done");
}
