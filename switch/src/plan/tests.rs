use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use vswitch_proto::command::{Attachment, Command, ContainerKind, LabSpec};
use vswitch_proto::id::Vni;
use vswitch_proto::security::PortSecurity;

mod overlay;

use super::*;
use crate::state::testing::{Lab, adopted, pool, to};
use crate::state::{MTU_OPTION, PORT_SECURITY_OPTION, Rejected, State};

const SETTINGS: Settings = Settings { mtu: 1500, underlay_mtu: 1600 };

/// What the actions do to a host. Refuses what a real one would trip over.
#[derive(Debug, Default, PartialEq, Eq)]
struct Host {
    interfaces: BTreeMap<(ContainerId, String), Interface>,
    routes: BTreeMap<ContainerId, BTreeSet<(String, IpAddr)>>,
    files: BTreeMap<ContainerId, String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Interface {
    endpoint: EndpointId,
    port: PortId,
    mac: MacAddr,
    mtu: u32,
    addresses: Vec<IpNet>,
}

impl Host {
    fn carry_out(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Attach(a) => self.attach(a),
                Action::Detach { container, endpoint, port, interface } => {
                    let was = self
                        .interfaces
                        .remove(&(*container, interface.clone()))
                        .expect("there to be detached");
                    assert_eq!((was.endpoint, was.port), (*endpoint, *port));
                    if let Some(routes) = self.routes.get_mut(container) {
                        routes.retain(|(via, _)| via != interface);
                    }
                }
                Action::SetRoutes { container, routes } => {
                    let routes = routes.iter().map(|r| (r.interface.clone(), r.gateway)).collect();
                    self.routes.insert(*container, routes);
                }
                Action::WriteHosts { container, content } => {
                    let was = self.files.insert(*container, content.clone());
                    assert_ne!(was.as_ref(), Some(content), "written without need");
                }
            }
        }
        self.routes.retain(|_, routes| !routes.is_empty());
        for (container, routes) in &self.routes {
            for (via, _) in routes {
                assert!(self.interfaces.contains_key(&(*container, via.clone())), "a route via no interface");
            }
            let families: BTreeSet<bool> = routes.iter().map(|(_, gateway)| gateway.is_ipv6()).collect();
            assert_eq!(families.len(), routes.len(), "two default routes of one family");
        }
    }

    fn attach(&mut self, attach: &Attach) {
        let Attach { container, endpoint, port, interface, mac, mtu, addresses, gateways, .. } =
            attach.clone();
        let routes = self.routes.entry(container).or_default();
        routes.extend(gateways.into_iter().map(|gateway| (interface.clone(), gateway)));
        let new = Interface { endpoint, port, mac, mtu, addresses };
        assert!(self.interfaces.insert((container, interface), new).is_none(), "the name is taken");
    }

    /// Files of containers that do not live are nobody's business.
    fn forget_dead(&mut self, state: &State) {
        self.files.retain(|id, _| state.container(id).is_some_and(Container::is_live));
    }
}

fn fresh(view: View<'_>) -> Host {
    let mut host = Host::default();
    host.carry_out(&actions(View::alone(&State::new()), view, &SETTINGS));
    host
}

/// Applies `change` and says what the host has to do for it.
fn step<T>(lab: &mut Lab, change: impl FnOnce(&mut Lab) -> Result<T, Rejected>) -> (T, Vec<Action>) {
    let old = lab.state.clone();
    let made = change(lab).unwrap();
    (made, actions(View::alone(&old), View::alone(&lab.state), &SETTINGS))
}

fn kinds(actions: &[Action]) -> Vec<&'static str> {
    let kind = |action: &Action| match action {
        Action::Attach(_) => "attach",
        Action::Detach { .. } => "detach",
        Action::SetRoutes { .. } => "routes",
        Action::WriteHosts { .. } => "hosts",
    };
    actions.iter().map(kind).collect()
}

#[test]
fn the_story_of_the_guide() {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    let isolated = lab.create("isolated_nw", |_| ()).unwrap();
    let lab_kind = || ContainerKind::Lab(LabSpec::default());
    let (c1, first) = step(&mut lab, |lab| lab.container("container1", lab_kind(), vec![to(bridge)]));
    let [Action::Attach(attach), Action::WriteHosts { container, content }] = &first[..] else {
        panic!("{first:?}");
    };
    assert_eq!((attach.container, *container), (c1, c1));
    assert_eq!((attach.interface.as_str(), attach.mtu), ("eth0", 1500));
    assert_eq!(attach.addresses, ["172.17.0.2/16".parse::<IpNet>().unwrap()]);
    assert_eq!(attach.gateways, ["172.17.0.1".parse::<IpAddr>().unwrap()]);
    let names = format!("172.17.0.2\tcontainer1.bridge\n172.17.0.2\t{}\n", c1.short());
    assert!(content.ends_with(&names), "before it starts");
    let (_, started) = step(&mut lab, |lab| lab.start(c1));
    assert!(started.is_empty(), "its own file has its name already: {started:?}");

    let (c2, second) = step(&mut lab, |lab| lab.run("container2", vec![to(bridge)]));
    assert_eq!(kinds(&second), ["attach", "hosts", "hosts"], "container1 learns of container2");
    let (c3, third) = step(&mut lab, |lab| lab.run("container3", vec![to(isolated)]));
    assert_eq!(kinds(&third), ["attach", "hosts"], "nobody else is on isolated_nw");

    let (_, connected) = step(&mut lab, |lab| lab.connect(c2, to(isolated)));
    assert_eq!(kinds(&connected), ["attach", "hosts", "hosts"]);
    let Action::Attach(attach) = &connected[0] else { unreachable!() };
    assert_eq!((attach.interface.as_str(), attach.gateways.len()), ("eth1", 0), "eth0 has the default route");
    let written: BTreeSet<ContainerId> = connected[1..]
        .iter()
        .map(|a| match a {
            Action::WriteHosts { container, .. } => *container,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(written, BTreeSet::from([c2, c3]), "not container1");

    let (_, moved) = step(&mut lab, |lab| lab.disconnect(c2, bridge));
    assert_eq!(kinds(&moved), ["detach", "routes", "hosts", "hosts"]);
    let gateway = "172.18.0.1".parse().unwrap();
    let routes = vec![DefaultRoute { interface: "eth1".into(), gateway }];
    assert_eq!(moved[1], Action::SetRoutes { container: c2, routes });
    let (_, exited) = step(&mut lab, |lab| lab.exit(c2));
    assert_eq!(kinds(&exited), ["detach", "hosts"], "container3 forgets it");
}

#[test]
fn internal_networks_and_families_of_routes() {
    let mut lab = Lab::new();
    let internal = lab.create("internal", |r| r.internal = true).unwrap();
    let four = lab.create("four", |r| r.options = [(MTU_OPTION.into(), "9000".into())].into()).unwrap();
    let six = lab.create("six", |r| {
        r.ipv6 = true;
        r.pools = vec![pool("10.6.0.0/16"), pool("fd06::/64")];
    });
    let six = six.unwrap();
    let (_, made) =
        step(&mut lab, |lab| lab.container("c", adopted(1), vec![to(internal), to(four), to(six)]));
    let gateways: Vec<_> = made
        .iter()
        .map(|a| match a {
            Action::Attach(a) => {
                (a.interface.as_str(), a.mtu, a.gateways.iter().map(ToString::to_string).collect())
            }
            other => panic!("an adopted namespace has no names file: {other:?}"),
        })
        .collect();
    let four_gateway = lab.state.network(&four).unwrap().ipv4_gateway().unwrap().to_string();
    let expected: [(&str, u32, Vec<String>); 3] =
        [("eth0", 1500, vec![]), ("eth1", 9000, vec![four_gateway]), ("eth2", 1500, vec!["fd06::1".into()])];
    assert_eq!(gateways, expected);
}

#[test]
fn tables_have_ports_addresses_and_gateways() {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    let none = lab.named("none");
    let six = lab.create("six", |r| {
        r.ipv6 = true;
        r.options = [(MTU_OPTION.into(), "1400".into())].into();
    });
    let six = six.unwrap();
    let a = lab.run("a", vec![to(bridge), to(six)]).unwrap();
    let b = lab.run("b", vec![to(bridge)]).unwrap();
    lab.run("alone", vec![to(none)]).unwrap();
    let gone = lab.run("gone", vec![to(bridge)]).unwrap();
    lab.exit(gone).unwrap();
    let tables = tables(View::alone(&lab.state), &SETTINGS);
    assert_eq!(tables.networks.len(), 2, "none and host are no broadcast domains");
    assert_eq!(tables.ports.len(), 3);
    let vni = |id| lab.state.network(&id).unwrap().vni;
    let domain = &tables.networks[&vni(bridge)];
    let (wire_a, wire_b) = (lab.wire(a, bridge), lab.wire(b, bridge));
    assert_eq!(domain.ports, [wire_a.port, wire_b.port]);
    let registered = [(wire_a.mac, wire_a.port), (wire_b.mac, wire_b.port)];
    assert_eq!(domain.endpoints, registered.into_iter().collect());
    let gateway = domain.gateway.unwrap();
    assert_eq!(gateway.mac.to_string(), "02:42:ac:11:00:01");
    assert_eq!((gateway.ipv4, gateway.ipv6), (Some([172, 17, 0, 1].into()), None));
    let domain = &tables.networks[&vni(six)];
    assert_eq!(domain.gateway.unwrap().ipv6, lab.state.network(&six).unwrap().ipv6_gateway());
    let port = tables.ports[&domain.ports[0]];
    assert_eq!((port.vni, port.mac, port.mtu), (vni(six), lab.wire(a, six).mac, 1400));
}

#[test]
fn an_address_that_comes_back_with_another_mac_is_announced() {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    let (mut known, mut left) = (Tables::default(), Left::default());
    let mut told = |lab: &mut Lab, change: &dyn Fn(&mut Lab)| {
        let old = lab.state.clone();
        change(lab);
        let plan = diff(View::alone(&old), View::alone(&lab.state), &known, &SETTINGS);
        known = plan.tables;
        left.follow(plan.moves).iter().map(|a| (a.ip.to_string(), a.mac.to_string())).collect::<Vec<_>>()
    };
    let run = |name: &'static str| move |lab: &mut Lab| assert!(lab.run(name, vec![to(bridge)]).is_ok());
    let remove = |name: &'static str| {
        move |lab: &mut Lab| {
            let container = lab.state.find_container(name).unwrap().id;
            assert!(lab.exit(container).is_ok());
            assert!(lab.apply(Command::RemoveContainer { container }).is_ok());
        }
    };
    assert_eq!(told(&mut lab, &run("c1")), []);
    assert_eq!(told(&mut lab, &run("c2")), [], "nobody had it");
    assert_eq!(told(&mut lab, &remove("c2")), []);
    let other = ("172.17.0.3".to_owned(), "02:00:00:00:00:07".to_owned());
    let at = |lab: &mut Lab| {
        let wanted = Attachment {
            mac: Some("02:00:00:00:00:07".parse().unwrap()),
            ipv4: Some([172, 17, 0, 3].into()),
            ..to(bridge)
        };
        assert!(lab.run("c3", vec![wanted]).is_ok());
    };
    assert_eq!(told(&mut lab, &at), [other]);
    assert_eq!(told(&mut lab, &remove("c3")), []);
    assert_eq!(told(&mut lab, &at), [], "it is known by this one");
}

#[test]
fn the_data_plane_knows_who_has_which_address() {
    let mut lab = Lab::new();
    let strict = lab.create("strict", |r| {
        r.ipv6 = true;
        r.options.insert(PORT_SECURITY_OPTION.into(), "strict".into());
    });
    let strict = strict.unwrap();
    lab.run("c1", vec![to(strict)]).unwrap();
    let tables = tables(View::alone(&lab.state), &SETTINGS);
    let table = &tables.networks[&lab.state.network(&strict).unwrap().vni];
    let port = tables.ports[&table.ports[0]];
    assert_eq!(table.security, PortSecurity::Strict);
    let addresses = [IpAddr::from(port.ipv4.unwrap()), port.ipv6.unwrap().into()];
    assert_eq!(table.neighbors, addresses.into_iter().map(|ip| (ip, port.mac)).collect());
}

#[derive(Debug, Clone)]
enum Step {
    Run(u8, Vec<u8>, bool),
    Start(u8),
    Exit(u8),
    Remove(u8),
    Connect(u8, u8, bool),
    Disconnect(u8, u8),
}

fn random_step() -> impl Strategy<Value = Step> {
    let container = || 0..8u8;
    let network = || 0..4u8;
    prop_oneof![
        3 => (container(), prop::collection::vec(network(), 0..4), any::<bool>()).prop_map(|(c, n, l)| Step::Run(c, n, l)),
        2 => container().prop_map(Step::Start),
        1 => container().prop_map(Step::Exit),
        1 => container().prop_map(Step::Remove),
        3 => (container(), network(), any::<bool>()).prop_map(|(c, n, alias)| Step::Connect(c, n, alias)),
        3 => (container(), network()).prop_map(|(c, n)| Step::Disconnect(c, n)),
    ]
}

fn take(lab: &mut Lab, networks: &[NetworkId], step: &Step) {
    let find = |lab: &Lab, name: &u8| lab.state.find_container(&format!("c{name}")).map(|c| c.id);
    // What is refused changes nothing, and that is tested elsewhere.
    let _outcome = match step {
        Step::Run(name, on, is_lab) => {
            let kind =
                if *is_lab { ContainerKind::Lab(LabSpec::default()) } else { adopted(u32::from(*name)) };
            let on = on.iter().map(|n| to(networks[usize::from(*n)])).collect();
            lab.container(&format!("c{name}"), kind, on).map(|_| ())
        }
        Step::Start(name) => find(lab, name).map_or(Ok(()), |c| lab.start(c).map(|_| ())),
        Step::Exit(name) => find(lab, name).map_or(Ok(()), |c| lab.exit(c).map(|_| ())),
        Step::Remove(name) => find(lab, name)
            .map_or(Ok(()), |container| lab.apply(Command::RemoveContainer { container }).map(|_| ())),
        Step::Connect(name, network, alias) => find(lab, name).map_or(Ok(()), |c| {
            let aliases = if *alias { vec!["other".parse().unwrap()] } else { vec![] };
            let wanted = Attachment { aliases, ..to(networks[usize::from(*network)]) };
            lab.connect(c, wanted).map(|_| ())
        }),
        Step::Disconnect(name, network) => {
            let network = networks[usize::from(*network)];
            find(lab, name).map_or(Ok(()), |c| lab.disconnect(c, network).map(|_| ()))
        }
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Following the changes one by one, or several at a time, leads where planning from nothing leads.
    #[test]
    fn small_steps_lead_where_one_leap_leads(steps in prop::collection::vec((random_step(), any::<bool>()), 1..60)) {
        let mut lab = Lab::new();
        let bridge = lab.named("bridge");
        let small = lab.subnet("small", "10.0.0.0/29").unwrap();
        let six = lab.create("six", |r| r.ipv6 = true).unwrap();
        let internal = lab.create("internal", |r| r.internal = true).unwrap();
        let networks = [bridge, small, six, internal];
        let mut host = Host::default();
        let (mut done, mut known) = (State::new(), Tables::default());
        for (step, pause) in &steps {
            take(&mut lab, &networks, step);
            if *pause {
                continue;
            }
            let view = View::alone(&lab.state);
            let plan = diff(View::alone(&done), view, &known, &SETTINGS);
            host.carry_out(&plan.actions);
            host.forget_dead(&lab.state);
            prop_assert_eq!(&host, &fresh(view));
            prop_assert_eq!(&plan.tables, &tables(view, &SETTINGS));
            let copy = lab.state.clone();
            prop_assert!(actions(view, View::alone(&copy), &SETTINGS).is_empty());
            for (port, known) in &plan.tables.ports {
                prop_assert!(plan.tables.networks[&known.vni].ports.contains(port));
            }
            (done, known) = (lab.state.clone(), plan.tables);
        }
    }
}

/// Prints what a creation costs in a network of growing size: the copy of the state, `apply`, and the plan.
#[test]
#[expect(clippy::disallowed_methods, reason = "prints durations, asserts none")]
fn creating_one_by_one() {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    let mut since = std::time::Instant::now();
    let (mut counted, mut known) = (0, Tables::default());
    for n in 1..=2000 {
        let old = lab.state.clone();
        lab.container(&format!("c{n}"), adopted(n), vec![to(bridge)]).unwrap();
        let plan = diff(View::alone(&old), View::alone(&lab.state), &known, &SETTINGS);
        assert_eq!(kinds(&plan.actions), ["attach"]);
        assert_eq!(plan.tables.ports.len(), n as usize);
        if [10, 100, 500, 1000, 2000].contains(&n) {
            let each_us = since.elapsed().as_micros() / u128::from(n - counted);
            println!("{each_us} us per creation up to {n} endpoints");
            (since, counted) = (std::time::Instant::now(), n);
        }
        known = plan.tables;
    }
    let vni: Vni = lab.state.network(&bridge).unwrap().vni;
    assert_eq!(known.networks[&vni].endpoints.len(), 2000);
}
