//! Both states as one node sees them: what it has for itself, and what the cluster has.
//!
//! An endpoint in a network of the cluster is in effect while its lease is: while [`Shared`] has a lease of the same id
//! for this node. Without one (the node was removed, or its lease was released by hand) its interface is none, so it
//! cannot use an address that may be another one's by now.

use std::sync::Arc;

use vswitch_proto::id::{ContainerId, NetworkId, NodeId};

use super::shared::Lease;
use super::{Endpoint, Network, Shared, State, Wire};

#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub local: &'a State,
    pub shared: &'a Shared,
    /// This node.
    pub me: NodeId,
}

/// Both states at one time, kept for as long as somebody looks at them.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub local: Arc<State>,
    /// Empty in no cluster.
    pub shared: Arc<Shared>,
    /// This node's number in the cluster, if it is in one.
    pub node: Option<NodeId>,
}

impl Snapshot {
    pub fn view(&self) -> View<'_> {
        View { local: &self.local, shared: &self.shared, me: self.node.unwrap_or(ALONE) }
    }
}

/// The number of a node in no cluster, where there are no leases to tell apart.
const ALONE: NodeId = NodeId(1);

/// A cluster that does not exist.
static NOBODY: Shared = Shared::new();

impl<'a> View<'a> {
    /// Of a daemon without a cluster.
    pub fn alone(local: &'a State) -> View<'a> {
        View { local, shared: &NOBODY, me: ALONE }
    }

    /// Those of this node, then those of the cluster.
    pub fn networks(self) -> impl Iterator<Item = &'a Network> + Clone + use<'a> {
        self.local.networks().chain(self.shared.networks())
    }

    /// A network of this node or of the cluster.
    pub fn network(&self, id: &NetworkId) -> Option<&'a Network> {
        self.local.network(id).or_else(|| self.shared.network(id))
    }

    /// The endpoint's interface, if it has one and it is in effect.
    pub fn wire(&self, endpoint: &'a Endpoint) -> Option<&'a Wire> {
        let wire = endpoint.wire.as_ref()?;
        let in_effect = self.local.network(&endpoint.network).is_some() || self.is_leased(endpoint, wire);
        in_effect.then_some(wire)
    }

    fn is_leased(&self, endpoint: &Endpoint, wire: &Wire) -> bool {
        let fits = |lease: &Lease| {
            (lease.node, lease.network, lease.addresses) == (self.me, endpoint.network, wire.granted())
        };
        self.shared.lease(&endpoint.id).is_some_and(fits)
    }

    /// The interfaces of a container that are in effect, in their order.
    pub fn wires_of(
        self,
        container: &ContainerId,
    ) -> impl Iterator<Item = (&'a Endpoint, &'a Wire)> + use<'a> {
        self.local.endpoints_of(container).filter_map(move |e| Some((e, self.wire(e)?)))
    }

    /// The interfaces in a network that are in effect, in the order of the containers' ids.
    pub fn wires_in(self, network: &NetworkId) -> impl Iterator<Item = (&'a Endpoint, &'a Wire)> + use<'a> {
        self.local.endpoints_in(network).filter_map(move |e| Some((e, self.wire(e)?)))
    }

    /// Leases of this node that no endpoint has and that are not reserved for one: to be released.
    pub fn stale_leases(self) -> impl Iterator<Item = &'a Lease> + use<'a> {
        let local = self.local;
        let unused = move |id| local.endpoint(id).is_none() && local.reservation(id).is_none();
        self.shared.leases_of(self.me).filter(move |lease| unused(&lease.endpoint))
    }

    /// Endpoints in networks of the cluster that have no lease: to be reserved again, with the same id and addresses.
    pub fn unleased_endpoints(self) -> impl Iterator<Item = &'a Endpoint> + use<'a> {
        let unleased = move |e: &&'a Endpoint| e.wire.is_some() && self.wire(e).is_none();
        self.local.overlays().flat_map(move |id| self.local.endpoints_in(id)).filter(unleased)
    }
}

#[cfg(test)]
mod tests {
    use vswitch_proto::command::{
        Addresses, Attachment, Command, ContainerKind, CreateContainer, LabSpec, NewEndpoint, Start,
    };
    use vswitch_proto::id::EndpointId;

    use super::super::names::hosts_file;
    use super::super::shared::testing::{Fleet, into};
    use super::super::testing::{Lab, id32, to};
    use super::super::{Applied, LookupError, Rejected};
    use super::*;

    const ME: NodeId = NodeId(1);

    fn view<'a>(lab: &'a Lab, fleet: &'a Fleet) -> View<'a> {
        View { local: &lab.state, shared: &fleet.shared, me: ME }
    }

    fn leased((id, addresses): (EndpointId, Addresses)) -> NewEndpoint {
        NewEndpoint { id, lease: Some(addresses) }
    }

    fn create(
        lab: &mut Lab,
        name: &str,
        attachments: Vec<(Attachment, NewEndpoint)>,
    ) -> Result<ContainerId, Rejected> {
        let id = ContainerId(id32(lab.draw()));
        let kind = ContainerKind::Lab(LabSpec::default());
        let request = CreateContainer { id, name: name.parse().unwrap(), kind, attachments };
        lab.apply(Command::CreateContainer(request)).map(|_| id)
    }

    #[test]
    fn a_leased_endpoint_has_the_addresses_of_its_lease() {
        let (mut lab, mut fleet) = (Lab::new(), Fleet::new(2));
        let bridge = lab.named("bridge");
        let blue = fleet.create("blue", |r| r.ipv6 = true).unwrap();
        let lease = fleet.reserve(ME, "c", into(blue)).unwrap();
        let local = lab.endpoint_id();
        let c = create(&mut lab, "c", vec![(to(bridge), local), (into(blue), leased(lease))]).unwrap();
        lab.start(c).unwrap();
        let wire = lab.wire(c, blue);
        assert_eq!((wire.granted(), wire.interface_name()), (lease.1, "eth1".into()));
        assert_eq!(lab.state.endpoint_at(&c, &blue).unwrap().id, lease.0);
        assert_eq!(lab.state.overlays().collect::<Vec<_>>(), [&blue]);
        assert_eq!(view(&lab, &fleet).wires_of(&c).count(), 2);
        assert_eq!(View::alone(&lab.state).wires_of(&c).count(), 1, "without a cluster there is no lease");
        let text = hosts_file(view(&lab, &fleet), &c);
        let v6 = lease.1.ipv6.unwrap();
        assert!(text.contains(&format!("10.0.0.2\tc\n10.0.0.2\tc.blue\n{v6}\tc\n{v6}\tc.blue\n")), "{text}");

        let read = State::from_bytes(&lab.state.to_bytes()).unwrap();
        assert_eq!(read, lab.state);
        lab.exit(c).unwrap();
        assert_eq!(lab.state.overlays().count(), 0);
        assert_eq!(lab.state.container(&c).unwrap().attachments.len(), 2, "it asks for the same again");
        assert_eq!(State::from_bytes(&lab.state.to_bytes()).unwrap(), lab.state);
        let stale: Vec<_> = view(&lab, &fleet).stale_leases().map(|lease| lease.endpoint).collect();
        assert_eq!(stale, [lease.0]);
    }

    #[test]
    fn leases_are_needed_where_they_belong_and_nowhere_else() {
        let (mut lab, mut fleet) = (Lab::new(), Fleet::new(1));
        let (bridge, none) = (lab.named("bridge"), lab.named("none"));
        let blue = fleet.create("blue", |_| ()).unwrap();
        let lease = leased(fleet.reserve(ME, "c", into(blue)).unwrap());
        let without = NewEndpoint { lease: None, ..lease };
        let name = || "c".parse().unwrap();
        let missing = Err(Rejected::LeaseMissing { container: name(), network: blue });
        assert_eq!(create(&mut lab, "c", vec![(into(blue), without)]), missing);
        let refused = create(&mut lab, "c", vec![(to(bridge), lease)]);
        assert_eq!(refused, Err(Rejected::LeaseUnwanted { network: "bridge".parse().unwrap() }));
        let refused = create(&mut lab, "c", vec![(into(bridge), lease)]);
        assert_eq!(refused, Err(Rejected::UnknownNetwork(bridge)), "not one of the cluster's");
        assert_eq!(create(&mut lab, "c", vec![(to(blue), without)]), Err(Rejected::UnknownNetwork(blue)));
        let second = lab.endpoint_id();
        let refused = create(&mut lab, "c", vec![(into(blue), lease), (to(none), second)]);
        assert!(matches!(refused, Err(Rejected::Exclusive { .. })), "{refused:?}");
        assert_eq!(lab.state.endpoints().count(), 0, "all or nothing");

        let c = create(&mut lab, "c", vec![(into(blue), lease)]).unwrap();
        let attachment = into(blue);
        let again = lab.apply(Command::Connect { container: c, attachment, endpoint: lease });
        let network = blue.short().parse().unwrap();
        assert_eq!(again, Err(Rejected::AlreadyConnected { container: name(), network }));
        let other = NewEndpoint { id: fleet.endpoint_id(), ..lease };
        let refused = create(&mut lab, "d", vec![(into(blue), other)]);
        assert!(matches!(refused, Err(Rejected::AddressInUse { .. })), "{refused:?}");
        let refused = lab.create("n", |r| r.id = blue);
        assert_eq!(refused, Err(Rejected::IdTaken(blue.to_string())));
    }

    #[test]
    fn a_stopped_container_needs_its_lease_when_it_starts() {
        let (mut lab, mut fleet) = (Lab::new(), Fleet::new(1));
        let blue = fleet.create("blue", |_| ()).unwrap();
        let c = lab.run("c", vec![]).unwrap();
        lab.exit(c).unwrap();
        let unused = lab.endpoint_id();
        let connect = Command::Connect { container: c, attachment: into(blue), endpoint: unused };
        let connected = Applied::Connected { container: c, network: blue, endpoint: None };
        assert_eq!(lab.apply(connect), Ok(connected));
        assert!(matches!(lab.start(c), Err(Rejected::LeaseMissing { .. })));
        let lease = fleet.reserve(ME, "c", into(blue)).unwrap();
        let start =
            Command::StartContainer { container: c, endpoints: vec![leased(lease)], start: Start::Asked };
        lab.apply(start).unwrap();
        assert_eq!(lab.wire(c, blue).granted(), lease.1);
        fleet.release(ME, lease.0).unwrap();
        let lost: Vec<_> = view(&lab, &fleet).unleased_endpoints().map(|e| e.id).collect();
        assert_eq!(lost, [lease.0]);
        lab.disconnect(c, blue).unwrap();
        assert_eq!(lab.state.endpoints().count(), 0);
    }

    #[test]
    fn a_name_means_the_network_of_this_node_first() {
        let (mut lab, mut fleet) = (Lab::new(), Fleet::new(1));
        let blue = fleet.create("blue", |_| ()).unwrap();
        let shadowed = fleet.create("bridge", |_| ()).unwrap();
        let found = |lab: &Lab, fleet: &Fleet, name: &str| view(lab, fleet).find_network(name).map(|n| n.id);
        assert_eq!(found(&lab, &fleet, "blue"), Ok(blue));
        assert_eq!(found(&lab, &fleet, &blue.short()), Ok(blue));
        assert_eq!(found(&lab, &fleet, "bridge"), Ok(lab.named("bridge")));
        assert_eq!(found(&lab, &fleet, &shadowed.to_string()), Ok(shadowed));
        assert_eq!(found(&lab, &fleet, "red"), Err(LookupError::NoNetwork("red".into())));
        let lease = leased(fleet.reserve(ME, "c", into(blue)).unwrap());
        let c = create(&mut lab, "c", vec![(into(blue), lease)]).unwrap();
        let attached = |reference: &str| view(&lab, &fleet).find_attached(&c, reference);
        assert_eq!((attached("blue"), attached(&blue.short())), (Ok(blue), Ok(blue)));
        assert_eq!(lab.state.find_attached(&c, &blue.short()), Ok(blue), "as what is left of a network");
    }
}
