//! The machine against a naive model: lists, linear searches, and no allocation of its own. The model says of
//! every change whether it must be taken, and takes from the machine which address was chosen, after checking
//! that it could be.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use vswitch_proto::command::{Addresses, Attachment, Reserve, Role, SharedChange, SharedEnvelope};
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, NetworkId, NodeId, RequestId, Vni};

use super::super::VXLAN_ID_OPTION;
use super::super::testing::pool;
use super::testing::{Fleet, info, into, overlay};
use super::{Applied, Shared, VOTERS_MAX};

/// A random step. Small numbers name things, so that steps meet.
#[derive(Debug, Clone)]
enum Step {
    AddNode {
        told: u8,
        role: Role,
    },
    UpdateNode {
        node: u8,
        told: u8,
    },
    SetRole {
        node: u8,
        role: Role,
    },
    RemoveNode(u8),
    RotateToken(Role),
    /// By the first byte of its certificate.
    RotateAuthority(u8),
    TakeAuthority(u8),
    DropAuthority(u8),
    CreateNetwork {
        name: u8,
        subnet: u8,
        vni: Option<u8>,
    },
    RemoveNetwork(u8),
    Reserve {
        network: u8,
        container: u8,
        ip: Option<u8>,
        mac: Option<u8>,
    },
    /// Some of the leases there are, and one that is not.
    Release(Vec<prop::sample::Index>),
    Bind {
        network: u8,
        docker: u8,
    },
    Unbind(u8),
    Again(prop::sample::Index),
}

const NODES: u8 = 12;

fn role() -> impl Strategy<Value = Role> {
    prop::sample::select(&[Role::Voter, Role::Learner][..])
}

fn step() -> impl Strategy<Value = (u8, Step)> {
    let ip = prop::option::weighted(0.3, 0..10u8);
    let mac = prop::option::weighted(0.2, 0..8u8);
    let step = prop_oneof![
        3 => (0..NODES, role()).prop_map(|(told, role)| Step::AddNode { told, role }),
        1 => (1..NODES, 0..NODES).prop_map(|(node, told)| Step::UpdateNode { node, told }),
        2 => (1..NODES, role()).prop_map(|(node, role)| Step::SetRole { node, role }),
        1 => (1..NODES).prop_map(Step::RemoveNode),
        1 => role().prop_map(Step::RotateToken),
        1 => (1..4u8).prop_map(Step::RotateAuthority),
        1 => (0..4u8).prop_map(Step::TakeAuthority),
        1 => (0..4u8).prop_map(Step::DropAuthority),
        3 => (0..5u8, 0..6u8, prop::option::weighted(0.3, 0..4u8))
            .prop_map(|(name, subnet, vni)| Step::CreateNetwork { name, subnet, vni }),
        1 => (0..5u8).prop_map(Step::RemoveNetwork),
        8 => (0..5u8, 0..9u8, ip, mac)
            .prop_map(|(network, container, ip, mac)| Step::Reserve { network, container, ip, mac }),
        3 => prop::collection::vec(any::<prop::sample::Index>(), 0..3).prop_map(Step::Release),
        2 => (0..5u8, 0..4u8).prop_map(|(network, docker)| Step::Bind { network, docker }),
        1 => (0..4u8).prop_map(Step::Unbind),
        1 => any::<prop::sample::Index>().prop_map(Step::Again),
    ];
    // Mostly the first node asks.
    (prop_oneof![3 => Just(1), 1 => 0..NODES], step)
}

#[derive(Debug, Clone)]
struct ModelNode {
    id: NodeId,
    told: u8,
    votes: bool,
    wanted: Role,
    authority: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct AuthorityModel {
    generation: u64,
    current: Option<u8>,
    former: Option<u8>,
}

#[derive(Debug, Clone)]
struct ModelNetwork {
    id: NetworkId,
    name: u8,
    /// Third byte of 10.0.N.0/29.
    subnet: u8,
    vni: Vni,
}

#[derive(Debug, Clone)]
struct ModelLease {
    endpoint: EndpointId,
    network: NetworkId,
    node: NodeId,
    container: ContainerId,
    addresses: Addresses,
}

#[derive(Debug, Default)]
struct Model {
    nodes: Vec<ModelNode>,
    added: u64,
    networks: Vec<ModelNetwork>,
    leases: Vec<ModelLease>,
    /// Docker's id, network and node.
    bindings: Vec<(NetworkId, NetworkId, NodeId)>,
    /// How often the tokens of voters and of learners were.
    rotated: (u64, u64),
    authority: AuthorityModel,
    sent: Vec<SharedEnvelope>,
}

fn container(n: u8) -> ContainerId {
    ContainerId([n + 1; 32])
}

fn docker(n: u8) -> NetworkId {
    NetworkId([n + 100; 32])
}

impl Model {
    fn change(&self, step: &Step, fleet: &mut Fleet) -> Option<SharedChange> {
        let network = |name: u8| self.networks.iter().find(|n| n.name == name);
        Some(match *step {
            Step::AddNode { told, role } => SharedChange::AddNode { info: info(told + 1), role },
            Step::UpdateNode { node, told } => {
                SharedChange::UpdateNode { node: NodeId(node.into()), info: info(told + 1) }
            }
            Step::SetRole { node, role } => SharedChange::SetRole { node: NodeId(node.into()), role },
            Step::RemoveNode(node) => SharedChange::RemoveNode { node: NodeId(node.into()) },
            Step::RotateToken(role) => SharedChange::RotateToken { role },
            Step::RotateAuthority(first) => {
                SharedChange::RotateAuthority { certificate: vec![first; 9], cross: Vec::new() }
            }
            Step::TakeAuthority(n) => SharedChange::TakeAuthority { generation: n.into() },
            Step::DropAuthority(n) => SharedChange::DropAuthority { generation: n.into() },
            Step::CreateNetwork { name, subnet, vni } => {
                let mut request = overlay(fleet.network_id(), &format!("n{name}"));
                request.pools = vec![pool(&format!("10.0.{subnet}.0/29"))];
                if let Some(n) = vni {
                    request.options.insert(VXLAN_ID_OPTION.into(), format!("{}", 4096 + u32::from(n)));
                }
                SharedChange::CreateNetwork(request)
            }
            Step::RemoveNetwork(name) => {
                SharedChange::RemoveNetwork { network: network(name).map_or(NetworkId([9; 32]), |n| n.id) }
            }
            Step::Reserve { network: name, container: n, ip, mac } => {
                let (id, subnet) = network(name).map_or((NetworkId([9; 32]), 0), |n| (n.id, n.subnet));
                let attachment = Attachment {
                    ipv4: ip.map(|ip| Ipv4Addr::new(10, 0, subnet, ip)),
                    mac: mac.map(|last| MacAddr([2, 0x42, 10, 0, subnet, last])),
                    ..into(id)
                };
                let (endpoint, container_name) = (fleet.endpoint_id(), format!("c{n}").parse().unwrap());
                SharedChange::Reserve(Reserve {
                    endpoint,
                    container: container(n),
                    container_name,
                    attachment,
                })
            }
            Step::Release(ref which) => {
                let mut endpoints = vec![EndpointId([9; 32])];
                if !self.leases.is_empty() {
                    endpoints.extend(which.iter().map(|index| index.get(&self.leases).endpoint));
                }
                SharedChange::Release { endpoints }
            }
            Step::Bind { network: name, docker: n } => SharedChange::Bind {
                network: network(name).map_or(NetworkId([9; 32]), |n| n.id),
                docker: docker(n),
                name: None,
            },
            Step::Unbind(n) => SharedChange::Unbind { docker: vec![docker(n)] },
            Step::Again(_) => return None,
        })
    }

    fn node(&self, id: NodeId) -> Option<&ModelNode> {
        self.nodes.iter().find(|n| n.id == id)
    }

    fn voters(&self) -> usize {
        self.nodes.iter().filter(|n| n.votes).count()
    }

    fn is_told(&self, name: &str, except: Option<NodeId>) -> bool {
        self.nodes.iter().any(|n| Some(n.id) != except && info(n.told + 1).name.as_str() == name)
    }

    /// Whether there is a place like this one, or any where it does not matter.
    fn has_room(&self, network: &ModelNetwork, wanted: &Attachment) -> bool {
        let held: Vec<_> =
            self.leases.iter().filter(|l| l.network == network.id).map(|l| l.addresses).collect();
        let gateway = MacAddr([2, 0x42, 10, 0, network.subnet, 1]);
        let free_mac = |mac: MacAddr| mac != gateway && held.iter().all(|a| a.mac != mac);
        let free_ip = |ip: &Ipv4Addr| held.iter().all(|a| a.ipv4 != Some(*ip));
        let mut hosts = (2..=6).map(|last| Ipv4Addr::new(10, 0, network.subnet, last));
        match (wanted.ipv4, wanted.mac) {
            (Some(ip), mac) => {
                let mac = mac.unwrap_or(MacAddr::from_ipv4(ip));
                hosts.any(|host| host == ip) && free_ip(&ip) && free_mac(mac)
            }
            (None, Some(mac)) => free_mac(mac) && hosts.any(|ip| free_ip(&ip)),
            (None, None) => hosts.any(|ip| free_ip(&ip) && free_mac(MacAddr::from_ipv4(ip))),
        }
    }

    fn expects(&self, from: NodeId, change: &SharedChange) -> bool {
        let first = self.added == 0 && matches!(change, SharedChange::AddNode { .. });
        if self.node(from).is_none() && !first {
            return false;
        }
        match change {
            SharedChange::AddNode { info, .. } => !self.is_told(info.name.as_str(), None),
            SharedChange::UpdateNode { node, info } => {
                self.node(*node).is_some() && !self.is_told(info.name.as_str(), Some(*node))
            }
            SharedChange::SetRole { node, role } => self.node(*node).is_some_and(|n| match role {
                Role::Voter => n.votes || self.voters() < VOTERS_MAX,
                Role::Learner => !n.votes || self.voters() > 1,
            }),
            SharedChange::RemoveNode { node } => {
                self.node(*node).is_some_and(|n| !n.votes || self.voters() > 1)
            }
            SharedChange::RotateToken { .. } => true,
            SharedChange::RotateAuthority { certificate, .. } => {
                let AuthorityModel { current, former, .. } = self.authority;
                former.is_none() && current != Some(certificate[0])
            }
            SharedChange::TakeAuthority { generation } => *generation <= self.authority.generation,
            SharedChange::DropAuthority { generation } => {
                self.authority.former.is_some() && *generation == self.authority.generation
            }
            SharedChange::CreateNetwork(request) => {
                let subnet = request.pools[0].subnet.to_string();
                let vni = request.options.get(VXLAN_ID_OPTION).map(|vni| vni.parse().unwrap());
                let free = |n: &ModelNetwork| {
                    format!("n{}", n.name) != request.name.as_str()
                        && format!("10.0.{}.0/29", n.subnet) != subnet
                        && Some(n.vni.get()) != vni
                };
                self.networks.iter().all(free)
            }
            SharedChange::RemoveNetwork { network } => {
                self.networks.iter().any(|n| n.id == *network)
                    && self.leases.iter().all(|l| l.network != *network)
                    && self.bindings.iter().all(|(_, bound, _)| bound != network)
            }
            SharedChange::Reserve(request) => {
                let wanted = &request.attachment;
                let there = |l: &ModelLease| l.network == wanted.network && l.container == request.container;
                let network = self.networks.iter().find(|n| n.id == wanted.network);
                !self.leases.iter().any(there) && network.is_some_and(|n| self.has_room(n, wanted))
            }
            SharedChange::Release { endpoints } => {
                self.leases.iter().filter(|l| endpoints.contains(&l.endpoint)).all(|l| l.node == from)
            }
            SharedChange::Bind { network, docker, .. } => {
                let is_own = |(id, _, node): &(NetworkId, NetworkId, NodeId)| id != docker || *node == from;
                self.networks.iter().any(|n| n.id == *network) && self.bindings.iter().all(is_own)
            }
            SharedChange::Unbind { docker } => {
                self.bindings.iter().all(|(id, _, node)| *id != docker[0] || *node == from)
            }
            SharedChange::Describe { .. } => unreachable!("the model makes none"),
        }
    }

    /// Takes over what an accepted change brought about, numbers and addresses as the machine chose them.
    fn follow(&mut self, from: NodeId, change: &SharedChange, applied: &Applied, shared: &Shared) {
        let told =
            |info: &vswitch_proto::command::NodeInfo| info.name.as_str()[4..].parse::<u8>().unwrap() - 1;
        match (change, *applied) {
            (SharedChange::AddNode { info, role }, Applied::NodeAdded { node }) => {
                self.added += 1;
                assert_eq!(node, NodeId(self.added), "ids rise, and none is used again");
                let votes = self.nodes.is_empty();
                let wanted = if votes { Role::Voter } else { *role };
                let authority = self.authority.generation;
                self.nodes.push(ModelNode { id: node, told: told(info), votes, wanted, authority });
            }
            (SharedChange::UpdateNode { node, info }, _) => {
                self.nodes.iter_mut().find(|n| n.id == *node).unwrap().told = told(info);
            }
            (SharedChange::SetRole { node, role }, _) => {
                let node = self.nodes.iter_mut().find(|n| n.id == *node).unwrap();
                (node.votes, node.wanted) = (*role == Role::Voter, *role);
            }
            (SharedChange::RemoveNode { node }, Applied::NodeRemoved { released, .. }) => {
                let before = self.leases.len();
                self.nodes.retain(|n| n.id != *node);
                self.leases.retain(|l| l.node != *node);
                self.bindings.retain(|(_, _, of)| of != node);
                assert_eq!(before - self.leases.len(), released);
            }
            (SharedChange::RotateToken { role }, Applied::TokenRotated { role: of, epoch }) => {
                let rotated = match role {
                    Role::Voter => &mut self.rotated.0,
                    Role::Learner => &mut self.rotated.1,
                };
                *rotated += 1;
                assert_eq!((of, epoch), (*role, *rotated));
                assert_eq!(shared.token_epoch(*role), epoch);
            }
            (SharedChange::RotateAuthority { certificate, .. }, Applied::AuthorityRotated { generation }) => {
                let before = self.authority;
                let current = Some(certificate[0]);
                self.authority = AuthorityModel { generation, current, former: before.current };
                assert_eq!(generation, before.generation + 1);
            }
            (SharedChange::TakeAuthority { generation }, Applied::AuthorityTaken { node }) => {
                assert_eq!(node, from);
                let node = self.nodes.iter_mut().find(|n| n.id == from).unwrap();
                node.authority = node.authority.max(*generation);
            }
            (SharedChange::DropAuthority { .. }, Applied::AuthorityDropped { .. }) => {
                self.authority.former = None;
            }
            (SharedChange::CreateNetwork(request), _) => {
                let vni = shared.network(&request.id).unwrap().vni;
                if let Some(asked) = request.options.get(VXLAN_ID_OPTION) {
                    assert_eq!(vni.to_string(), *asked);
                }
                let name = request.name.as_str()[1..].parse().unwrap();
                let subnet = request.pools[0].subnet.to_string().split('.').nth(2).unwrap().parse().unwrap();
                self.networks.push(ModelNetwork { id: request.id, name, subnet, vni });
            }
            (SharedChange::RemoveNetwork { network }, _) => self.networks.retain(|n| n.id != *network),
            (SharedChange::Reserve(request), Applied::Reserved { endpoint, addresses }) => {
                self.check_given(&request.attachment, addresses);
                let (network, container) = (request.attachment.network, request.container);
                self.leases.push(ModelLease { endpoint, network, node: from, container, addresses });
            }
            (SharedChange::Release { endpoints }, Applied::Released { released }) => {
                let before = self.leases.len();
                self.leases.retain(|l| !endpoints.contains(&l.endpoint));
                assert_eq!(before - self.leases.len(), released);
            }
            (SharedChange::Bind { network, docker, .. }, Applied::Bound { .. }) => {
                self.bindings.retain(|(id, ..)| id != docker);
                self.bindings.push((*docker, *network, from));
            }
            (SharedChange::Unbind { docker }, Applied::Unbound { unbound }) => {
                let before = self.bindings.len();
                self.bindings.retain(|(id, ..)| *id != docker[0]);
                assert_eq!(before - self.bindings.len(), unbound);
            }
            (change, applied) => panic!("{change:?} was answered by {applied:?}"),
        }
    }

    /// Addresses just given: allowed, free, and as they were asked for.
    fn check_given(&self, wanted: &Attachment, given: Addresses) {
        let network = self.networks.iter().find(|n| n.id == wanted.network).unwrap();
        let ipv4 = given.ipv4.unwrap();
        assert_eq!(ipv4.octets()[..3], [10, 0, network.subnet]);
        assert!((2..=6).contains(&ipv4.octets()[3]), "{ipv4} is not for hosts");
        assert_eq!(wanted.ipv4.unwrap_or(ipv4), ipv4);
        assert_eq!(given.mac, wanted.mac.unwrap_or(MacAddr::from_ipv4(ipv4)));
        for other in self.leases.iter().filter(|l| l.network == network.id) {
            assert!(other.addresses.ipv4 != given.ipv4 && other.addresses.mac != given.mac, "given twice");
        }
    }

    /// The machine holds what the model holds and nothing else.
    fn check_all(&self, shared: &Shared) {
        assert_eq!(shared.networks().count(), self.networks.len());
        assert_eq!(shared.leases().count(), self.leases.len());
        let mut bindings = self.bindings.clone();
        bindings.sort_unstable();
        assert!(shared.bindings().map(|b| (b.docker, b.network, b.node)).eq(bindings));
        let expected = self.nodes.iter().map(|n| (n.id, info(n.told + 1), n.votes, n.wanted));
        let nodes = shared.nodes().map(|n| (n.id, n.info.clone(), n.role == Role::Voter, n.wanted));
        assert!(nodes.eq(expected));
        assert!(self.nodes.is_empty() || (1..=VOTERS_MAX).contains(&shared.voters().count()));
        let AuthorityModel { generation, current, former } = self.authority;
        let trusted = shared.authorities().into_iter().flat_map(|a| a.trusted().map(|c| c[0]));
        assert!(trusted.eq(current.into_iter().chain(former)));
        let behind = self.nodes.iter().filter(|n| n.authority < generation).map(|n| n.id);
        assert!(shared.behind_authority().eq(behind));
        for lease in &self.leases {
            let held = shared.lease(&lease.endpoint).unwrap();
            assert_eq!((held.node, held.addresses), (lease.node, lease.addresses), "a lease does not change");
            assert_eq!(shared.lease_at(&lease.container, &lease.network), Some(held));
        }
        let vnis: BTreeSet<Vni> = shared.networks().map(|n| n.vni).collect();
        assert_eq!(vnis.len(), self.networks.len());
        assert!(vnis.iter().all(|vni| vni.get() >= Vni::FIRST_OVERLAY));
    }
}

/// Everything but the memory of requests.
fn content(shared: &Shared) -> Shared {
    Shared { requests: Default::default(), ..shared.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn machine_and_model_agree(steps in prop::collection::vec(step(), 1..120)) {
        let (mut fleet, mut model, mut twin) = (Fleet::default(), Model::default(), Shared::new());
        for (from, step) in &steps {
            let from = NodeId((*from).into());
            let Some(change) = model.change(step, &mut fleet) else {
                let Step::Again(which) = step else { unreachable!() };
                if !model.sent.is_empty() {
                    let sent = which.get(&model.sent);
                    let before = fleet.shared.clone();
                    let again = fleet.shared.apply(sent);
                    prop_assert_eq!(Some(again.as_ref()), before.outcome(&sent.request_id));
                    prop_assert_eq!(fleet.shared.digest(), before.digest());
                }
                continue;
            };
            let expected = model.expects(from, &change);
            let envelope = fleet.envelope(from, change);
            let before = content(&fleet.shared);
            let outcome = fleet.shared.apply(&envelope);
            prop_assert_eq!(outcome.is_ok(), expected, "{:?} gave {:?}", &envelope.command, &outcome);
            match &outcome {
                Ok(applied) => model.follow(from, &envelope.command.change, applied, &fleet.shared),
                Err(rejected) => {
                    prop_assert_eq!(content(&fleet.shared), before);
                    prop_assert!(!rejected.to_string().contains('\n'));
                }
            }
            model.check_all(&fleet.shared);
            prop_assert_eq!(twin.apply(&envelope), outcome);
            model.sent.push(envelope);
        }
        prop_assert_eq!(twin.digest(), fleet.shared.digest());
        let read = Shared::from_bytes(&fleet.shared.to_bytes()).unwrap();
        prop_assert_eq!(read.digest(), fleet.shared.digest());
        prop_assert_eq!(read, fleet.shared);
    }

    #[test]
    fn damaged_snapshots_are_refused_or_read(flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4)) {
        let mut fleet = Fleet::new(2);
        let blue = fleet.create("blue", |_| ()).unwrap();
        let (lease, _) = fleet.reserve(NodeId(1), "c", into(blue)).unwrap();
        fleet.reserve(NodeId(2), "d", into(blue)).unwrap();
        let mut bytes = fleet.shared.to_bytes();
        for (at, flip) in &flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        // Never a panic, and what is read can be written, read and used.
        if let Ok(mut shared) = Shared::from_bytes(&bytes) {
            prop_assert_eq!(Shared::from_bytes(&shared.to_bytes()), Ok(shared.clone()));
            for from in [NodeId(1), NodeId(2)] {
                let release = SharedChange::Release { endpoints: vec![lease] };
                let mut envelope = fleet.envelope(from, release);
                envelope.request_id = RequestId([0xff - from.0 as u8; 16]);
                let _outcome = shared.apply(&envelope);
                let remove = SharedChange::RemoveNode { node: from };
                let _outcome = shared.apply(&fleet.envelope(from, remove));
            }
        }
    }
}
