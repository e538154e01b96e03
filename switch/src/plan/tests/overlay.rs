//! Networks of the cluster, as one of its nodes plans them.

use std::sync::Arc;

use proptest::prelude::*;
use vswitch_proto::command::{
    Attachment, Command, ContainerKind, CreateContainer, LabSpec, NewEndpoint, NodeInfo, Reserve, Scope,
    SharedChange, Start,
};
use vswitch_proto::id::{Name, NodeId};

use super::*;
use crate::forward::tables::Map;
use crate::state::shared::testing::{Fleet, info, into};
use crate::state::{Shared, VXLAN_REMOTE_OPTION};

const ME: NodeId = NodeId(2);

/// One node of three, and what its daemon does to attach a container to an overlay network.
#[derive(Clone)]
struct Node {
    lab: Lab,
    fleet: Fleet,
}

impl Node {
    fn new() -> Node {
        Node { lab: Lab::new(), fleet: Fleet::new(3) }
    }

    fn view(&self) -> View<'_> {
        View { local: &self.lab.state, shared: &self.fleet.shared, me: ME }
    }

    /// Reserves a lease where one is needed.
    fn endpoint(&mut self, id: ContainerId, name: &Name, attachment: &Attachment) -> Option<NewEndpoint> {
        let new = self.lab.endpoint_id();
        if attachment.scope == Scope::Local {
            return Some(new);
        }
        let container_name = name.clone();
        let attachment = attachment.clone();
        let request = Reserve { endpoint: new.id, container: id, container_name, attachment };
        self.fleet.apply(ME, SharedChange::Reserve(request)).ok()?;
        let lease = self.fleet.shared.lease(&new.id).map(|lease| lease.addresses);
        Some(NewEndpoint { lease, ..new })
    }

    fn create(&mut self, name: &str, kind: ContainerKind, on: Vec<Attachment>) -> Option<ContainerId> {
        let id = ContainerId(crate::state::testing::id32(self.lab.draw()));
        let name: Name = name.parse().unwrap();
        let mut attachments = Vec::new();
        for attachment in on {
            let Some(endpoint) = self.endpoint(id, &name, &attachment) else { continue };
            attachments.push((attachment, endpoint));
        }
        let request = CreateContainer { id, name, kind, attachments };
        let made = self.lab.apply(Command::CreateContainer(request)).is_ok();
        made.then_some(id)
    }

    fn run(&mut self, name: &str, on: Vec<Attachment>) -> ContainerId {
        let id = self.create(name, ContainerKind::Lab(LabSpec::default()), on).unwrap();
        self.start(id);
        id
    }

    fn start(&mut self, container: ContainerId) {
        let found = self.lab.state.container(&container).unwrap().clone();
        let mut endpoints = Vec::new();
        for attachment in &found.attachments {
            let live = found.is_live();
            let new = if live { None } else { self.endpoint(container, &found.name, attachment) };
            endpoints.push(new.unwrap_or_else(|| self.lab.endpoint_id()));
        }
        // Refused where a lease is missing.
        let _outcome = self.lab.apply(Command::StartContainer { container, endpoints, start: Start::Asked });
    }

    fn connect(&mut self, container: ContainerId, attachment: Attachment) {
        let found = self.lab.state.container(&container).unwrap().clone();
        let live = found.is_live();
        let new = if live { self.endpoint(container, &found.name, &attachment) } else { None };
        let endpoint = new.unwrap_or_else(|| self.lab.endpoint_id());
        let _outcome = self.lab.apply(Command::Connect { container, attachment, endpoint });
    }

    /// What the daemon does from time to time.
    fn reconcile(&mut self) {
        let stale: Vec<EndpointId> = self.view().stale_leases().map(|lease| lease.endpoint).collect();
        self.fleet.apply(ME, SharedChange::Release { endpoints: stale }).unwrap();
        let unleased: Vec<Endpoint> = self.view().unleased_endpoints().cloned().collect();
        for endpoint in unleased {
            let container = self.lab.state.container(&endpoint.container).unwrap();
            let wire = endpoint.wire.unwrap();
            let attachment = Attachment {
                ipv4: wire.ipv4,
                ipv6: wire.ipv6,
                mac: Some(wire.mac),
                ..container.attachment(&endpoint.network).unwrap().clone()
            };
            let container_name = container.name.clone();
            let (endpoint, container) = (endpoint.id, container.id);
            let request = Reserve { endpoint, container, container_name, attachment };
            // Refused where somebody else took the address meanwhile.
            let _outcome = self.fleet.apply(ME, SharedChange::Reserve(request));
        }
    }
}

/// As a node is left that took part in nothing yet.
fn nothing() -> (State, Shared) {
    (State::new(), Shared::new())
}

#[test]
fn a_lease_becomes_an_interface() {
    let mut node = Node::new();
    let blue = node.fleet.create("blue", |_| ()).unwrap();
    node.fleet.reserve(NodeId(1), "remote", into(blue)).unwrap();
    let before = node.clone();
    let c = node.run("c", vec![into(blue)]);
    let done = actions(before.view(), node.view(), &SETTINGS);
    let [Action::Attach(attach), Action::WriteHosts { content, .. }] = &done[..] else { panic!("{done:?}") };
    assert_eq!((attach.container, attach.interface.as_str(), attach.mtu), (c, "eth0", 1550));
    assert_eq!(attach.addresses, ["10.0.0.3/24".parse::<IpNet>().unwrap()]);
    assert_eq!(attach.mac.to_string(), "02:42:0a:00:00:03");
    assert_eq!(attach.gateways, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    let lines = "10.0.0.2\tremote\n10.0.0.2\tremote.blue\n10.0.0.3\tc\n10.0.0.3\tc.blue\n";
    assert!(content.contains(lines), "{content}");
    assert!(content.ends_with(&format!("\n10.0.0.3\t{}\n", c.short())), "{content}");
    assert!(content.starts_with("10.0.0.3\t"), "{content}");

    let before = node.clone();
    let (moved, _) = node.fleet.reserve(NodeId(3), "another", into(blue)).unwrap();
    let done = actions(before.view(), node.view(), &SETTINGS);
    let [Action::WriteHosts { container, content }] = &done[..] else { panic!("{done:?}") };
    assert_eq!(*container, c);
    assert!(content.contains("\n10.0.0.4\tanother\n10.0.0.4\tanother.blue\n"), "{content}");
    let before = node.clone();
    node.fleet.release(NodeId(3), moved).unwrap();
    assert_eq!(kinds(&actions(before.view(), node.view(), &SETTINGS)), ["hosts"]);
}

#[test]
fn without_its_lease_an_endpoint_has_no_interface() {
    let mut node = Node::new();
    let blue = node.fleet.create("blue", |r| r.internal = true).unwrap();
    let c = node.run("c", vec![into(blue)]);
    let endpoint = node.lab.state.endpoint_at(&c, &blue).unwrap().id;
    let attached = node.clone();
    node.fleet.release(ME, endpoint).unwrap();
    let done = actions(attached.view(), node.view(), &SETTINGS);
    assert_eq!(kinds(&done), ["detach", "hosts"]);
    let vni = node.fleet.shared.network(&blue).unwrap().vni;
    assert!(tables(attached.view(), &SETTINGS).networks.contains_key(&vni));
    let alone = tables(node.view(), &SETTINGS);
    assert!(!alone.networks.contains_key(&vni) && alone.ports.is_empty());

    let detached = node.clone();
    node.reconcile();
    let done = actions(detached.view(), node.view(), &SETTINGS);
    assert_eq!(kinds(&done), ["attach", "hosts"], "with the same addresses");
    assert_eq!(tables(node.view(), &SETTINGS), tables(attached.view(), &SETTINGS));
    let Action::Attach(attach) = &done[0] else { unreachable!() };
    assert!(attach.gateways.is_empty(), "the network is internal");

    let leased = node.clone();
    node.fleet.apply(NodeId(1), SharedChange::RemoveNode { node: ME }).unwrap();
    assert_eq!(kinds(&actions(leased.view(), node.view(), &SETTINGS)), ["detach", "hosts"]);
    let as_another = View { me: NodeId(3), ..leased.view() };
    assert_eq!(kinds(&actions(leased.view(), as_another, &SETTINGS)), ["detach", "hosts"], "a new id");
    assert_eq!(kinds(&actions(as_another, leased.view(), &SETTINGS)), ["attach", "hosts"]);
}

#[test]
fn the_mtu_leaves_room_for_the_tunnel() {
    let mut node = Node::new();
    let blue = node.fleet.create("blue", |_| ()).unwrap();
    let set = |r: &mut vswitch_proto::command::CreateNetwork| {
        r.options.insert(MTU_OPTION.into(), "1400".into());
    };
    let given = node.fleet.create("given", set).unwrap();
    node.run("c", vec![into(blue), into(given)]);
    let mtus = |node: &Node, settings: &Settings| {
        let mut mtus: Vec<u32> = tables(node.view(), settings).ports.values().map(|port| port.mtu).collect();
        mtus.sort_unstable();
        mtus
    };
    assert_eq!(mtus(&node, &SETTINGS), [1400, 1550]);
    assert_eq!(mtus(&node, &Settings { underlay_mtu: 9000, ..SETTINGS }), [1400, 8950]);
    for id in [1, 3] {
        node.fleet
            .apply(ME, SharedChange::SetRole { node: ME, role: vswitch_proto::command::Role::Voter })
            .unwrap();
        node.fleet.apply(ME, SharedChange::RemoveNode { node: NodeId(id) }).unwrap();
    }
    let vtep = "2001:db8::2".parse().unwrap();
    let told = SharedChange::UpdateNode { node: ME, info: NodeInfo { vtep, ..info(2) } };
    node.fleet.apply(ME, told).unwrap();
    assert_eq!(mtus(&node, &SETTINGS), [1400, 1530]);
}

#[test]
fn tables_know_who_is_where() {
    let mut node = Node::new();
    let statics = |r: &mut vswitch_proto::command::CreateNetwork| {
        r.ipv6 = true;
        r.options.insert(VXLAN_REMOTE_OPTION.into(), "198.51.100.9,192.0.2.3,192.0.2.2".into());
    };
    let blue = node.fleet.create("blue", statics).unwrap();
    let empty = node.fleet.create("empty", |_| ()).unwrap();
    let (there, _) = node.fleet.reserve(NodeId(1), "there", into(blue)).unwrap();
    node.fleet.reserve(NodeId(1), "too", into(blue)).unwrap();
    node.fleet.reserve(NodeId(1), "elsewhere", into(empty)).unwrap();
    let c = node.run("c", vec![into(blue)]);
    let tables = tables(node.view(), &SETTINGS);
    assert_eq!(tables.networks.len(), 2, "the default bridge, and no network without an endpoint here");
    let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
    assert_eq!(tables.vteps, [ip(1), ip(3)].into_iter().collect());
    let table = &tables.networks[&node.fleet.shared.network(&blue).unwrap().vni];
    let wire = node.lab.wire(c, blue);
    assert_eq!(table.endpoints, [(wire.mac, wire.port)].into_iter().collect());
    assert_eq!(table.gateway.unwrap().ipv4, Some([10, 0, 0, 1].into()));
    let overlay = table.overlay.as_ref().unwrap();
    assert_eq!((overlay.vtep, overlay.remotes.len()), (ip(2), 2));
    let there = node.fleet.shared.lease(&there).unwrap().addresses;
    assert_eq!(overlay.remotes[&there.mac], ip(1));
    let stranger = IpAddr::from([198, 51, 100, 9]);
    assert_eq!(overlay.flood_vteps, [ip(1), ip(3), stranger], "not this node");
    assert_eq!(table.neighbors.len(), 6, "both families, here and there");
    assert_eq!(table.neighbors[&there.ipv6.unwrap().into()], there.mac);
    assert_eq!(table.neighbors[&wire.ipv4.unwrap().into()], wire.mac);
    for (vtep, accepted) in [(ip(1), true), (ip(3), true), (stranger, true), (ip(2), false), (ip(4), false)] {
        assert_eq!(tables.accepts(table, vtep), accepted, "{vtep}");
    }
    let bridge = &tables.networks[&node.lab.state.find_network("bridge").unwrap().vni];
    assert!(!tables.accepts(bridge, ip(1)), "no tunnel ends in a local network");
}

#[test]
fn tables_of_networks_that_are_not_touched_are_kept() {
    let mut node = Node::new();
    let blue = node.fleet.create("blue", |_| ()).unwrap();
    let red = node.fleet.create("red", |_| ()).unwrap();
    let bridge = node.lab.named("bridge");
    node.run("c", vec![into(blue), into(red), to(bridge)]);
    let vni = |node: &Node, id| node.view().network(&id).unwrap().vni;
    let mut known = tables(node.view(), &SETTINGS);
    let mut kept = |node: &mut Node, change: &dyn Fn(&mut Node)| {
        let before = node.clone();
        change(node);
        let plan = diff(before.view(), node.view(), &known, &SETTINGS);
        assert_eq!(plan.tables, tables(node.view(), &SETTINGS));
        let same = |id: &NetworkId| {
            let vni = vni(node, *id);
            Arc::ptr_eq(&known.networks[&vni], &plan.tables.networks[&vni])
        };
        let kept = [blue, red, bridge].map(|id| same(&id));
        known = plan.tables;
        kept
    };
    assert_eq!(kept(&mut node, &|_| ()), [true; 3]);
    let remote = |node: &mut Node| _ = node.fleet.reserve(NodeId(1), "r", into(red)).unwrap();
    assert_eq!(kept(&mut node, &remote), [true, false, true]);
    assert_eq!(kept(&mut node, &|node| _ = node.run("d", vec![to(bridge)])), [true, true, false]);
    assert_eq!(kept(&mut node, &|node| _ = node.run("e", vec![into(blue)])), [false, true, true]);
    let moved = NodeInfo { vtep: [192, 0, 2, 99].into(), ..info(1) };
    let update = |node: &mut Node| {
        let change = SharedChange::UpdateNode { node: NodeId(1), info: moved.clone() };
        node.fleet.apply(ME, change).unwrap();
    };
    assert_eq!(kept(&mut node, &update), [false, false, true]);
    let bind = |of: NodeId, name: Option<&str>| {
        let name = name.map(|name| name.parse().unwrap());
        let change = SharedChange::Bind { network: blue, docker: NetworkId([of.0 as u8; 32]), name };
        move |node: &mut Node| _ = node.fleet.apply(of, change.clone()).unwrap()
    };
    assert_eq!(kept(&mut node, &bind(ME, None)), [true; 3], "it has no name so far");
    assert_eq!(kept(&mut node, &bind(ME, Some("Front"))), [false, true, true]);
    assert_eq!(kept(&mut node, &bind(NodeId(1), Some("other"))), [true; 3]);
    let tables = tables(node.view(), &SETTINGS);
    let names = &tables.networks[&vni(&node, blue)].names;
    assert_eq!(*names.docker, [Box::<str>::from("front")]);
}

#[derive(Debug, Clone)]
enum Step {
    Run {
        name: u8,
        on: Vec<u8>,
        lab: bool,
    },
    Start(u8),
    Exit(u8),
    Remove(u8),
    Connect(u8, u8),
    Disconnect(u8, u8),
    /// Another node's container comes, with an alias perhaps.
    Arrive {
        node: u8,
        network: u8,
        name: u8,
        alias: bool,
    },
    Leave(prop::sample::Index),
    /// One of our leases is lost.
    Lose(prop::sample::Index),
    Reconcile,
    Renumber {
        node: u8,
        last: u8,
    },
}

fn random_step() -> impl Strategy<Value = Step> {
    let container = || 0..6u8;
    let network = || 0..5u8;
    let on = prop::collection::vec(network(), 0..4);
    prop_oneof![
        3 => (container(), on, any::<bool>()).prop_map(|(name, on, lab)| Step::Run { name, on, lab }),
        2 => container().prop_map(Step::Start),
        1 => container().prop_map(Step::Exit),
        1 => container().prop_map(Step::Remove),
        3 => (container(), network()).prop_map(|(c, n)| Step::Connect(c, n)),
        2 => (container(), network()).prop_map(|(c, n)| Step::Disconnect(c, n)),
        4 => (0..3u8, network(), container(), any::<bool>())
            .prop_map(|(node, network, name, alias)| Step::Arrive { node, network, name, alias }),
        2 => any::<prop::sample::Index>().prop_map(Step::Leave),
        1 => any::<prop::sample::Index>().prop_map(Step::Lose),
        2 => Just(Step::Reconcile),
        1 => (1..4u8, 1..6u8).prop_map(|(node, last)| Step::Renumber { node, last }),
    ]
}

fn take(node: &mut Node, networks: &[Attachment], step: &Step) {
    let on = |n: &u8| networks[usize::from(*n)].clone();
    let found =
        |node: &Node, name: &u8| node.lab.state.find_container(&format!("c{name}")).ok().map(|c| c.id);
    match step {
        Step::Run { name, on: wanted, lab } => {
            let kind = if *lab { ContainerKind::Lab(LabSpec::default()) } else { adopted(u32::from(*name)) };
            node.create(&format!("c{name}"), kind, wanted.iter().map(on).collect());
        }
        Step::Arrive { node: from, network, name, alias } => {
            let aliases = if *alias { vec!["front".parse().unwrap()] } else { vec![] };
            let wanted = Attachment { aliases, ..on(network) };
            let _outcome = node.fleet.reserve(NodeId(u64::from(*from) + 1), &format!("c{name}"), wanted);
        }
        Step::Leave(which) | Step::Lose(which) => {
            let lose = matches!(step, Step::Lose(_));
            let leases = node.fleet.shared.leases().filter(|lease| (lease.node == ME) == lose);
            let leases: Vec<_> = leases.map(|lease| (lease.node, lease.endpoint)).collect();
            if !leases.is_empty() {
                let (from, endpoint) = *which.get(&leases);
                node.fleet.release(from, endpoint).unwrap();
            }
        }
        Step::Reconcile => node.reconcile(),
        Step::Renumber { node: n, last } => {
            let told = NodeInfo { vtep: [198, 51, 100, *last].into(), ..info(*n) };
            let change = SharedChange::UpdateNode { node: NodeId((*n).into()), info: told };
            let _outcome = node.fleet.apply(NodeId(1), change);
        }
        Step::Start(name) | Step::Exit(name) | Step::Remove(name) => {
            let Some(container) = found(node, name) else { return };
            // What is refused changes nothing, and that is tested elsewhere.
            match step {
                Step::Start(_) => node.start(container),
                Step::Exit(_) => _ = node.lab.exit(container),
                _ => _ = node.lab.apply(Command::RemoveContainer { container }),
            }
        }
        Step::Connect(name, network) => {
            if let Some(container) = found(node, name) {
                node.connect(container, on(network));
            }
        }
        Step::Disconnect(name, network) => {
            if let Some(container) = found(node, name) {
                let _outcome = node.lab.disconnect(container, on(network).network);
            }
        }
    }
}

/// The overlay's part of a table, looked up lease by lease.
fn check_overlay(node: &Node, network: &Network, tables: &Tables) {
    let leases: Vec<_> = node.fleet.shared.leases().filter(|lease| lease.network == network.id).collect();
    let here = |e: &&Endpoint| e.network == network.id && leases.iter().any(|l| l.endpoint == e.id);
    let ports = node.lab.state.endpoints().filter(here).map(|e| e.wire.as_ref().unwrap().port);
    let ports: BTreeSet<PortId> = ports.collect();
    let Some(table) = tables.networks.get(&network.vni) else {
        return assert!(ports.is_empty(), "a network with ports is known");
    };
    assert!(table.ports.iter().eq(&ports));
    let overlay = table.overlay.as_ref().unwrap();
    let vtep = |lease: &crate::state::shared::Lease| node.fleet.shared.node(lease.node).unwrap().info.vtep;
    let remote = || leases.iter().filter(|lease| lease.node != ME);
    let remotes: Map<MacAddr, IpAddr> = remote().map(|lease| (lease.addresses.mac, vtep(lease))).collect();
    assert_eq!(overlay.remotes, remotes);
    let mut flood: BTreeSet<IpAddr> = remote().map(|lease| vtep(lease)).collect();
    flood.extend(overlay.static_vteps.iter());
    assert!(overlay.flood_vteps.iter().eq(&flood) && !flood.contains(&overlay.vtep));
    let pairs = leases.iter().flat_map(|l| l.addresses.ips().map(|ip| (ip, l.addresses.mac)));
    assert_eq!(table.neighbors, pairs.collect::<Map<_, _>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Leases come and go, here and on other nodes: following the changes leads where planning from nothing leads.
    #[test]
    fn small_steps_lead_where_one_leap_leads(steps in prop::collection::vec((random_step(), any::<bool>()), 1..60)) {
        let mut node = Node::new();
        let bridge = node.lab.named("bridge");
        let internal = node.lab.create("internal", |r| r.internal = true).unwrap();
        let small = node.fleet.create("small", |r| r.pools = vec![pool("10.9.0.0/29")]).unwrap();
        let six = node.fleet.create("six", |r| {
            r.ipv6 = true;
            r.options.insert(VXLAN_REMOTE_OPTION.into(), "192.0.2.200,198.51.100.1".into());
        });
        let hidden = node.fleet.create("hidden", |r| r.internal = true).unwrap();
        let networks = [to(bridge), to(internal), into(small), into(six.unwrap()), into(hidden)];
        let (mut host, mut known) = (Host::default(), Tables::default());
        let empty = nothing();
        let mut done: Option<Node> = None;
        for (step, pause) in &steps {
            take(&mut node, &networks, step);
            if *pause {
                continue;
            }
            let old = done.as_ref().map_or(View { local: &empty.0, shared: &empty.1, me: ME }, Node::view);
            let plan = diff(old, node.view(), &known, &SETTINGS);
            host.carry_out(&plan.actions);
            host.forget_dead(&node.lab.state);
            prop_assert_eq!(&host, &fresh(node.view()));
            prop_assert_eq!(&plan.tables, &tables(node.view(), &SETTINGS));
            for network in node.fleet.shared.networks() {
                check_overlay(&node, network, &plan.tables);
            }
            let copy = node.clone();
            prop_assert!(actions(node.view(), copy.view(), &SETTINGS).is_empty());
            (done, known) = (Some(copy), plan.tables);
        }
    }
}
