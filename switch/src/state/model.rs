//! The machine against a naive model: lists, linear searches, and no allocation of its own. The model says of
//! every command whether it must be taken, and takes from the machine which address was chosen, after checking
//! that it could be.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use vswitch_proto::command::{
    Attachment, Command, ContainerKind, CreateContainer, CreateNetwork, Envelope, LabSpec, Start,
};
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, NetworkId, PortId, RequestId};

use super::State;
use super::testing::{Lab, bridge, id32, pool, to};

/// A random step. Small numbers name things, so that steps meet.
#[derive(Debug, Clone)]
enum Step {
    CreateNetwork { name: u8, subnet: u8, ipv6: bool },
    RemoveNetwork(u8),
    CreateContainer { name: u8, on: Vec<Wish> },
    Start(u8),
    Exit(u8),
    Remove(u8),
    Connect(u8, Wish),
    Disconnect(u8, u8),
    Again(u8),
}

#[derive(Debug, Clone, Copy)]
struct Wish {
    network: u8,
    /// Last byte of the address, within the subnet.
    ip: Option<u8>,
    mac: Option<u8>,
}

const NAMES: u8 = 5;

fn wish() -> impl Strategy<Value = Wish> {
    (0..NAMES, prop::option::weighted(0.3, 0..10u8), prop::option::weighted(0.2, 0..8u8))
        .prop_map(|(network, ip, mac)| Wish { network, ip, mac })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..NAMES, 0..6u8, any::<bool>())
            .prop_map(|(name, subnet, ipv6)| Step::CreateNetwork { name, subnet, ipv6 }),
        1 => (0..NAMES).prop_map(Step::RemoveNetwork),
        6 => (0..12u8, prop::collection::vec(wish(), 0..3)).prop_map(|(name, on)| Step::CreateContainer { name, on }),
        3 => (0..12u8).prop_map(Step::Start),
        2 => (0..12u8).prop_map(Step::Exit),
        2 => (0..12u8).prop_map(Step::Remove),
        3 => ((0..12u8), wish()).prop_map(|(container, wish)| Step::Connect(container, wish)),
        2 => ((0..12u8), (0..NAMES)).prop_map(|(container, network)| Step::Disconnect(container, network)),
        1 => any::<u8>().prop_map(Step::Again),
    ]
}

#[derive(Debug, Clone)]
struct ModelNetwork {
    id: NetworkId,
    name: u8,
    /// Third byte of 10.0.N.0/29.
    subnet: u8,
    ipv6: bool,
}

#[derive(Debug, Clone)]
struct ModelContainer {
    id: ContainerId,
    name: u8,
    running: bool,
    live: bool,
    on: Vec<Attachment>,
}

/// Somebody's place in a network.
#[derive(Debug, Clone)]
struct Place {
    network: NetworkId,
    container: ContainerId,
    endpoint: EndpointId,
    ipv4: Ipv4Addr,
    mac: MacAddr,
}

#[derive(Debug, Default)]
struct Model {
    networks: Vec<ModelNetwork>,
    containers: Vec<ModelContainer>,
    places: Vec<Place>,
    /// What containers had that have ended, until they have places again or are gone.
    kept: Vec<Place>,
    ports: BTreeSet<PortId>,
    sent: Vec<Envelope>,
}

impl Model {
    fn network(&self, name: u8) -> NetworkId {
        self.networks.iter().find(|n| n.name == name).map_or(NetworkId([0xee; 32]), |n| n.id)
    }

    fn container(&self, name: u8) -> ContainerId {
        self.containers.iter().find(|c| c.name == name).map_or(ContainerId([0xee; 32]), |c| c.id)
    }

    fn attachment(&self, wish: Wish) -> Attachment {
        let subnet = self.networks.iter().find(|n| n.name == wish.network).map_or(0, |n| n.subnet);
        Attachment {
            ipv4: wish.ip.map(|ip| Ipv4Addr::new(10, 0, subnet, ip)),
            mac: wish.mac.map(|last| MacAddr([2, 0x42, 10, 0, subnet, last])),
            ..to(self.network(wish.network))
        }
    }

    fn command(&self, step: &Step, lab: &mut Lab) -> Command {
        match step {
            Step::CreateNetwork { name, subnet, ipv6 } => {
                let mut request: CreateNetwork = bridge(lab.network_id(), &format!("n{name}"));
                request.pools = vec![pool(&format!("10.0.{subnet}.0/29"))];
                request.ipv6 = *ipv6;
                Command::CreateNetwork(request)
            }
            Step::RemoveNetwork(name) => Command::RemoveNetwork { network: self.network(*name) },
            Step::CreateContainer { name, on } => Command::CreateContainer(CreateContainer {
                id: ContainerId(id32(lab.draw())),
                name: format!("c{name}").parse().unwrap(),
                kind: ContainerKind::Lab(LabSpec::default()),
                attachments: on.iter().map(|wish| (self.attachment(*wish), lab.endpoint_id())).collect(),
            }),
            Step::Start(name) => {
                let container = self.container(*name);
                let count = self.containers.iter().find(|c| c.id == container).map_or(0, |c| c.on.len());
                Command::StartContainer {
                    container,
                    endpoints: (0..count).map(|_| lab.endpoint_id()).collect(),
                    start: Start::Asked,
                }
            }
            Step::Exit(name) => Command::ContainerExited {
                container: self.container(*name),
                exit_code: 1,
                error: String::new(),
            },
            Step::Remove(name) => Command::RemoveContainer { container: self.container(*name) },
            Step::Connect(name, wish) => Command::Connect {
                container: self.container(*name),
                attachment: self.attachment(*wish),
                endpoint: lab.endpoint_id(),
            },
            Step::Disconnect(name, network) => {
                Command::Disconnect { container: self.container(*name), network: self.network(*network) }
            }
            Step::Again(_) => unreachable!("a step without a command of its own"),
        }
    }

    /// Whether there is a place in the network for somebody who asks for this.
    fn has_room(&self, wanted: &Attachment) -> bool {
        let Some(network) = self.networks.iter().find(|n| n.id == wanted.network) else { return false };
        let inside = |ip: Ipv4Addr| (2..=6).contains(&ip.octets()[3]);
        let others: Vec<&Place> = self.places.iter().filter(|p| p.network == network.id).collect();
        let free_ip = |ip: Ipv4Addr| others.iter().all(|p| p.ipv4 != ip);
        let free_mac = |mac: MacAddr| others.iter().all(|p| p.mac != mac) && mac.0[5] != 1;
        let mut hosts = (2..=6).map(|last| Ipv4Addr::new(10, 0, network.subnet, last));
        match (wanted.ipv4, wanted.mac) {
            (Some(ip), mac) => inside(ip) && free_ip(ip) && free_mac(mac.unwrap_or(MacAddr::from_ipv4(ip))),
            (None, Some(mac)) => free_mac(mac) && hosts.any(free_ip),
            (None, None) => hosts.any(|ip| free_ip(ip) && free_mac(MacAddr::from_ipv4(ip))),
        }
    }

    /// Inside the subnet and not set aside, whoever else is there.
    fn sensible(&self, wanted: &Attachment) -> bool {
        let exists = self.networks.iter().any(|n| n.id == wanted.network);
        exists && wanted.ipv4.is_none_or(|ip| (2..=6).contains(&ip.octets()[3]))
    }

    fn distinct(attachments: &[&Attachment]) -> bool {
        let networks: BTreeSet<NetworkId> = attachments.iter().map(|a| a.network).collect();
        networks.len() == attachments.len()
    }

    fn expects(&self, command: &Command) -> bool {
        let known = |id: &ContainerId| self.containers.iter().find(|c| c.id == *id);
        match command {
            Command::CreateNetwork(request) => {
                let IpAddr::V4(ip) = request.pools[0].subnet.addr() else { unreachable!("an IPv4 pool") };
                let free = |n: &ModelNetwork| {
                    format!("n{}", n.name) != request.name.as_str() && n.subnet != ip.octets()[2]
                };
                self.networks.iter().all(free)
            }
            Command::RemoveNetwork { network } => {
                self.networks.iter().any(|n| n.id == *network)
                    && self.places.iter().all(|p| p.network != *network)
            }
            Command::CreateContainer(request) => {
                let wanted: Vec<&Attachment> = request.attachments.iter().map(|(a, _)| a).collect();
                self.containers.iter().all(|c| format!("c{}", c.name) != request.name.as_str())
                    && Model::distinct(&wanted)
                    && wanted.iter().all(|a| self.has_room(a))
            }
            Command::StartContainer { container, .. } => known(container).is_some_and(|c| {
                !c.running
                    && c.on.iter().all(|a| self.networks.iter().any(|n| n.id == a.network))
                    && (c.live || c.on.iter().all(|a| self.has_room(a)))
            }),
            Command::ContainerExited { container, .. } => known(container).is_some_and(|c| c.live),
            Command::RemoveContainer { container } => known(container).is_some_and(|c| !c.running),
            Command::Connect { container, attachment, .. } => known(container).is_some_and(|c| {
                let new = c.on.iter().all(|a| a.network != attachment.network);
                new && self.sensible(attachment) && (!c.live || self.has_room(attachment))
            }),
            Command::Disconnect { container, network } => {
                known(container).is_some_and(|c| c.on.iter().any(|a| a.network == *network))
            }
            Command::Docker(_)
            | Command::NoteNetwork { .. }
            | Command::NoteNamespace { .. }
            | Command::StopByHand { .. }
            | Command::RenameContainer { .. }
            | Command::UpdateContainer { .. } => {
                unreachable!("the model makes none; they have tests of their own")
            }
        }
    }

    /// Takes over what an accepted command brought about, addresses as the machine chose them.
    fn follow(&mut self, command: &Command, state: &State) {
        match command {
            Command::CreateNetwork(request) => self.networks.push(ModelNetwork {
                id: request.id,
                name: request.name.as_str()[1..].parse().unwrap(),
                subnet: request.pools[0].subnet.to_string().split('.').nth(2).unwrap().parse().unwrap(),
                ipv6: request.ipv6,
            }),
            Command::RemoveNetwork { network } => self.networks.retain(|n| n.id != *network),
            Command::CreateContainer(request) => {
                let on: Vec<Attachment> = request.attachments.iter().map(|(a, _)| a.clone()).collect();
                let name = request.name.as_str()[1..].parse().unwrap();
                self.containers.push(ModelContainer { id: request.id, name, running: false, live: true, on });
            }
            Command::StartContainer { container, .. } => {
                self.with(container, |c| (c.running, c.live) = (true, true));
            }
            Command::ContainerExited { container, .. } => {
                self.with(container, |c| (c.running, c.live) = (false, false));
            }
            Command::RemoveContainer { container } => self.containers.retain(|c| c.id != *container),
            Command::Connect { container, attachment, .. } => {
                self.with(container, |c| c.on.push(attachment.clone()));
            }
            Command::Disconnect { container, network } => {
                self.with(container, |c| c.on.retain(|a| a.network != *network));
            }
            Command::Docker(_)
            | Command::NoteNetwork { .. }
            | Command::NoteNamespace { .. }
            | Command::StopByHand { .. }
            | Command::RenameContainer { .. }
            | Command::UpdateContainer { .. } => {
                unreachable!("the model makes none; they have tests of their own")
            }
        }
        let expected: Vec<(ContainerId, NetworkId)> = (self.containers.iter().filter(|c| c.live))
            .flat_map(|c| c.on.iter().map(|a| (c.id, a.network)))
            .collect();
        let is_attached = |p: &Place| {
            let ended = self.containers.iter().find(|c| c.id == p.container && !c.live);
            ended.is_some_and(|c| c.on.iter().any(|a| a.network == p.network))
        };
        let known = |p: &Place| self.networks.iter().any(|n| n.id == p.network);
        let released = self.places.iter().filter(|p| !expected.contains(&(p.container, p.network)));
        let mut kept: Vec<Place> = released.filter(|p| is_attached(p)).cloned().collect();
        kept.extend(self.kept.iter().filter(|p| known(p)).cloned());
        self.kept = kept;
        self.places.retain(|p| expected.contains(&(p.container, p.network)));
        for (container, network) in expected {
            let endpoint = state
                .endpoint_at(&container, &network)
                .expect("a live container's attachment has an endpoint");
            if self.places.iter().all(|p| p.endpoint != endpoint.id) {
                self.check_new(endpoint);
            }
        }
        let gone = |p: &Place| {
            let container = self.containers.iter().find(|c| c.id == p.container);
            container.is_none_or(|c| c.live || c.on.iter().all(|a| a.network != p.network))
        };
        let kept = self.kept.iter().filter(|p| !gone(p)).cloned().collect();
        self.kept = kept;
    }

    fn with(&mut self, id: &ContainerId, change: impl FnOnce(&mut ModelContainer)) {
        change(self.containers.iter_mut().find(|c| c.id == *id).unwrap());
    }

    /// A container that starts again has what it had, if nobody else has it now; others have it only where nothing is left.
    fn check_kept(&self, container: ContainerId, network: NetworkId, (ipv4, mac): (Ipv4Addr, MacAddr)) {
        let in_use: Vec<&Place> = self.places.iter().filter(|p| p.network == network).collect();
        let is_free = |kept: &&Place| in_use.iter().all(|p| p.ipv4 != kept.ipv4 && p.mac != kept.mac);
        let mine = self.kept.iter().find(|p| p.container == container && p.network == network);
        if let Some(mine) = mine.filter(is_free) {
            assert_eq!((ipv4, mac), (mine.ipv4, mine.mac), "not what it had");
        }
    }

    /// A place just given: allowed, free, and as it was asked for.
    fn check_new(&mut self, endpoint: &super::Endpoint) {
        let network = self.networks.iter().find(|n| n.id == endpoint.network).unwrap();
        let container = self.containers.iter().find(|c| c.id == endpoint.container).unwrap();
        let wanted = container.on.iter().find(|a| a.network == network.id).unwrap();
        let wire = endpoint.wire.as_ref().unwrap();
        let ipv4 = wire.ipv4.unwrap();
        assert_eq!(ipv4.octets()[..3], [10, 0, network.subnet]);
        assert!((2..=6).contains(&ipv4.octets()[3]), "{ipv4} is not for hosts");
        assert_eq!(wanted.ipv4.unwrap_or(ipv4), ipv4);
        self.check_kept(container.id, network.id, (ipv4, wire.mac));
        assert_eq!(wire.mac, wanted.mac.unwrap_or(MacAddr::from_ipv4(ipv4)));
        assert_eq!(wire.ipv6.is_some(), network.ipv6);
        for other in self.places.iter().filter(|p| p.network == network.id) {
            assert!(other.ipv4 != ipv4 && other.mac != wire.mac, "{ipv4} or {} given twice", wire.mac);
        }
        assert!(self.ports.insert(wire.port), "{:?} used twice", wire.port);
        self.places.push(Place {
            network: network.id,
            container: container.id,
            endpoint: endpoint.id,
            ipv4,
            mac: wire.mac,
        });
    }

    /// The machine holds what the model holds and nothing else.
    fn check_all(&self, state: &State) {
        assert_eq!(state.networks().count(), self.networks.len());
        assert_eq!(state.containers().count(), self.containers.len());
        assert_eq!(state.endpoints().count(), self.places.len());
        for place in &self.places {
            let wire = state.endpoint(&place.endpoint).unwrap().wire.as_ref().unwrap();
            assert_eq!((wire.ipv4, wire.mac), (Some(place.ipv4), place.mac), "an endpoint does not change");
        }
        for container in &self.containers {
            let held = state.container(&container.id).unwrap();
            assert_eq!(held.attachments, container.on);
            assert_eq!(held.is_live(), container.live);
            let interfaces: Vec<u8> =
                state.endpoints_of(&container.id).map(|e| e.wire.as_ref().unwrap().interface).collect();
            assert!(interfaces.is_sorted_by(|a, b| a < b), "{interfaces:?}");
        }
        let mut seen: Vec<IpAddr> = Vec::new();
        for wire in state.endpoints().filter_map(|e| e.wire.as_ref()) {
            for address in wire.addresses() {
                assert!(!seen.contains(&address), "{address} in two networks or twice in one");
                seen.push(address);
            }
        }
        let vnis: BTreeSet<_> = state.networks().map(|n| n.vni).collect();
        assert_eq!(vnis.len(), self.networks.len());
    }
}

/// Everything but the memory of requests.
fn content(state: &State) -> State {
    State { requests: Default::default(), ..state.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn machine_and_model_agree(steps in prop::collection::vec(step(), 1..80)) {
        let (mut lab, mut model, mut twin) = (Lab::default(), Model::default(), State::new());
        for step in &steps {
            if let Step::Again(n) = step {
                let Some(sent) = model.sent.get(usize::from(*n) % model.sent.len().max(1)) else { continue };
                let before = lab.state.clone();
                let again = lab.state.apply(sent);
                prop_assert_eq!(Some(again.as_ref()), before.outcome(&sent.request_id));
                prop_assert_eq!(lab.state.digest(), before.digest());
                continue;
            }
            let command = model.command(step, &mut lab);
            let envelope = lab.envelope(command);
            let before = content(&lab.state);
            let expected = model.expects(&envelope.command);
            let outcome = lab.state.apply(&envelope);
            prop_assert_eq!(outcome.is_ok(), expected, "{:?} gave {:?}", &envelope.command, &outcome);
            match &outcome {
                Ok(_) => model.follow(&envelope.command, &lab.state),
                Err(rejected) => {
                    prop_assert_eq!(content(&lab.state), before);
                    prop_assert!(!rejected.to_string().contains('\n'));
                }
            }
            model.check_all(&lab.state);
            prop_assert_eq!(twin.apply(&envelope), outcome);
            model.sent.push(envelope);
        }
        prop_assert_eq!(twin.digest(), lab.state.digest());
        let read = State::from_bytes(&lab.state.to_bytes()).unwrap();
        prop_assert_eq!(read.digest(), lab.state.digest());
        prop_assert_eq!(read, lab.state);
    }

    #[test]
    fn damaged_snapshots_are_refused_or_read(flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4)) {
        let mut lab = Lab::new();
        let network = lab.named("bridge");
        let c = lab.run("c", vec![to(network)]).unwrap();
        lab.exit(c).unwrap();
        lab.run("d", vec![to(network)]).unwrap();
        let mut bytes = lab.state.to_bytes();
        for (at, flip) in &flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        // Never a panic, and what is read can be written, read and used.
        if let Ok(mut state) = State::from_bytes(&bytes) {
            prop_assert_eq!(State::from_bytes(&state.to_bytes()), Ok(state.clone()));
            let request_id = RequestId([0xff; 16]);
            let command = Command::RemoveContainer { container: c };
            let _outcome = state.apply(&Envelope { request_id, at_ms: 0, command });
        }
    }
}
