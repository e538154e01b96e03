//! What the tests of this crate build shared states with.

use std::net::{IpAddr, SocketAddr};

use vswitch_proto::command::{
    Addresses, Attachment, CreateNetwork, Driver, NodeInfo, Reserve, Role, SharedChange, SharedCommand,
    SharedEnvelope,
};
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId, NodeId, RequestId};

use super::super::testing::{bridge, id32};
use super::{Applied, Rejected, Shared};

/// A shared state and what is drawn for it: ids count up, so every run is the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fleet {
    pub(crate) shared: Shared,
    drawn: u64,
}

pub(crate) fn overlay(id: NetworkId, name: &str) -> CreateNetwork {
    CreateNetwork { driver: Driver::Overlay, ..bridge(id, name) }
}

/// Of node `n`: `hostN` at 192.0.2.N.
pub(crate) fn info(n: u8) -> NodeInfo {
    let ip = IpAddr::from([192, 0, 2, n]);
    NodeInfo {
        name: format!("host{n}").parse().unwrap(),
        address: SocketAddr::new(ip, 7946),
        vtep: ip,
        version: "0.1.0".into(),
        certificate: None,
    }
}

impl Fleet {
    /// With this many nodes, of which the first is the voter.
    pub(crate) fn new(nodes: u8) -> Fleet {
        let mut fleet = Fleet::default();
        for n in 1..=nodes {
            let added = fleet.add(info(n), Role::Voter);
            assert_eq!(added, Ok(NodeId(n.into())));
        }
        fleet
    }

    pub(crate) fn add(&mut self, info: NodeInfo, role: Role) -> Result<NodeId, Rejected> {
        let from = self.shared.nodes().next().map_or(NodeId(1), |node| node.id);
        match self.apply(from, SharedChange::AddNode { info, role })? {
            Applied::NodeAdded { node } => Ok(node),
            other => panic!("{other:?}"),
        }
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        // Apart from what a `Lab` draws.
        self.drawn + (1 << 32)
    }

    pub(crate) fn network_id(&mut self) -> NetworkId {
        NetworkId(id32(self.draw()))
    }

    pub(crate) fn container_id(&mut self) -> ContainerId {
        ContainerId(id32(self.draw()))
    }

    pub(crate) fn endpoint_id(&mut self) -> EndpointId {
        EndpointId(id32(self.draw()))
    }

    pub(crate) fn envelope(&mut self, from: NodeId, change: SharedChange) -> SharedEnvelope {
        let n = self.draw();
        let command = SharedCommand { from, asked_at: self.shared.requests(), change };
        SharedEnvelope { request_id: RequestId(u128::from(n).to_be_bytes()), at_ms: 1_000 + n, command }
    }

    pub(crate) fn apply(&mut self, from: NodeId, change: SharedChange) -> Result<Applied, Rejected> {
        let envelope = self.envelope(from, change);
        self.shared.apply(&envelope)
    }

    /// Asked for by the first node.
    pub(crate) fn create(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut CreateNetwork),
    ) -> Result<NetworkId, Rejected> {
        let mut request = overlay(self.network_id(), name);
        change(&mut request);
        let (id, from) = (request.id, self.shared.nodes().next().unwrap().id);
        self.apply(from, SharedChange::CreateNetwork(request)).map(|_| id)
    }

    /// A lease for a container that nobody else is.
    pub(crate) fn reserve(
        &mut self,
        from: NodeId,
        container_name: &str,
        attachment: Attachment,
    ) -> Result<(EndpointId, Addresses), Rejected> {
        let container = self.container_id();
        self.reserve_for(from, container, container_name, attachment)
    }

    pub(crate) fn reserve_for(
        &mut self,
        from: NodeId,
        container: ContainerId,
        container_name: &str,
        attachment: Attachment,
    ) -> Result<(EndpointId, Addresses), Rejected> {
        let endpoint = self.endpoint_id();
        let container_name = container_name.parse().unwrap();
        let request = Reserve { endpoint, container, container_name, attachment };
        match self.apply(from, SharedChange::Reserve(request))? {
            Applied::Reserved { endpoint, addresses } => Ok((endpoint, addresses)),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn release(&mut self, from: NodeId, endpoint: EndpointId) -> Result<Applied, Rejected> {
        self.apply(from, SharedChange::Release { endpoints: vec![endpoint] })
    }

    pub(crate) fn ipv4(&self, endpoint: EndpointId) -> String {
        self.shared.lease(&endpoint).unwrap().addresses.ipv4.unwrap().to_string()
    }
}

/// In a network of the cluster.
pub(crate) fn into(network: NetworkId) -> Attachment {
    Attachment { scope: vswitch_proto::command::Scope::Cluster, ..super::super::testing::to(network) }
}
