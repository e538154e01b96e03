//! Which networks of Docker engines the overlay networks are: an overlay network stays while it is one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::id::{Name, NetworkId, NodeId};

use super::{Applied, BINDINGS_MAX, Network, Rejected, Shared};

/// A network of a Docker engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The engine's own id of it.
    pub docker: NetworkId,
    pub network: NetworkId,
    /// The engine's.
    pub node: NodeId,
    /// What the engine calls it, where that is known.
    pub name: Option<Name>,
}

impl Shared {
    /// In the order of the engines' ids. Looks at all of them.
    pub fn bindings_of(&self, node: NodeId) -> impl Iterator<Item = &Binding> + use<'_> {
        self.bindings().filter(move |binding| binding.node == node)
    }

    /// In the order of the engines' ids.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.values().map(Arc::as_ref)
    }

    pub fn binding(&self, docker: &NetworkId) -> Option<&Binding> {
        self.bindings.get(docker).map(Arc::as_ref)
    }

    /// Whether there may be one more.
    pub fn can_bind(&self) -> bool {
        self.bindings.len() < BINDINGS_MAX
    }

    /// Again with the engine's name, or to another network. What it is called is not forgotten.
    pub(super) fn bind(&mut self, mut binding: Binding) -> Result<Applied, Rejected> {
        let docker = binding.docker;
        self.network(&binding.network).ok_or(Rejected::UnknownNetwork(binding.network))?;
        match self.binding(&docker) {
            Some(other) if other.node != binding.node => return Err(Rejected::IdTaken(docker.to_string())),
            Some(before) => binding.name = binding.name.or_else(|| before.name.clone()),
            None if !self.can_bind() => return Err(Rejected::TooManyBindings),
            None => {}
        }
        self.bindings.insert(docker, Arc::new(binding));
        Ok(Applied::Bound { docker })
    }

    pub(super) fn unbind(&mut self, from: NodeId, docker: &[NetworkId]) -> Result<Applied, Rejected> {
        let mut found = docker.iter().filter_map(|id| self.binding(id));
        if let Some(foreign) = found.find(|binding| binding.node != from) {
            return Err(Rejected::IdTaken(foreign.docker.to_string()));
        }
        let before = self.bindings.len();
        docker.iter().for_each(|id| _ = self.bindings.remove(id));
        Ok(Applied::Unbound { unbound: before - self.bindings.len() })
    }

    /// Those of a node that is no member any more.
    pub(super) fn unbind_all(&mut self, node: NodeId) {
        let bound: Vec<NetworkId> = self.bindings_of(node).map(|binding| binding.docker).collect();
        bound.iter().for_each(|id| _ = self.bindings.remove(id));
    }

    pub(super) fn check_unbound(&self, network: &Network, except: Option<NodeId>) -> Result<(), Rejected> {
        let mut bindings =
            self.bindings().filter(|binding| binding.network == network.id && Some(binding.node) != except);
        let Some(first) = bindings.next() else { return Ok(()) };
        let node = self.node(first.node).expect("a binding is a member's");
        Err(Rejected::NetworkBound {
            network: network.name.clone(),
            docker: first.name.as_ref().map_or_else(|| first.docker.short(), Name::to_string),
            node: node.info.name.clone(),
            more: bindings.count(),
        })
    }
}

#[cfg(test)]
mod tests {
    use vswitch_proto::command::SharedChange;

    use super::super::testing::Fleet;
    use super::*;

    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);
    const THREE: NodeId = NodeId(3);

    fn bind(network: NetworkId, docker: u8, name: Option<&str>) -> SharedChange {
        let name = name.map(|name| name.parse().unwrap());
        SharedChange::Bind { network, docker: NetworkId([docker; 32]), name }
    }

    fn text(refused: Result<Applied, Rejected>) -> String {
        refused.unwrap_err().to_string()
    }

    #[test]
    fn a_network_stays_while_it_is_one_of_dockers() {
        let mut fleet = Fleet::new(3);
        let blue = fleet.create("blue", |_| ()).unwrap();
        fleet.apply(TWO, bind(blue, 0xd2, None)).unwrap();
        fleet.apply(THREE, bind(blue, 0xd3, Some("front"))).unwrap();
        let rm = SharedChange::RemoveNetwork { network: blue };
        let refused = text(fleet.apply(ONE, rm.clone()));
        assert!(refused.contains("the Docker network d2d2d2d2d2d2 of node host2 and 1 more"), "{refused}");
        assert!(refused.contains("`docker network rm d2d2d2d2d2d2` there"), "{refused}");
        // By another node it is neither taken nor given back.
        let unbind = |docker: u8| SharedChange::Unbind { docker: vec![NetworkId([docker; 32])] };
        assert!(fleet.apply(ONE, bind(blue, 0xd2, None)).is_err() && fleet.apply(ONE, unbind(0xd2)).is_err());
        fleet.apply(TWO, bind(blue, 0xd2, Some("blue"))).unwrap();
        fleet.apply(TWO, bind(blue, 0xd2, None)).unwrap();
        let refused = text(fleet.apply(ONE, rm.clone()));
        assert!(refused.contains("the Docker network blue of node host2 and 1 more"), "{refused}");
        assert_eq!(fleet.apply(TWO, unbind(0xd2)), Ok(Applied::Unbound { unbound: 1 }));
        assert_eq!(fleet.apply(TWO, unbind(0xd2)), Ok(Applied::Unbound { unbound: 0 }));
        let refused = text(fleet.apply(ONE, rm.clone()));
        assert!(refused.contains("the Docker network front of node host3: "), "{refused}");
        fleet.apply(ONE, SharedChange::RemoveNode { node: THREE }).unwrap();
        fleet.apply(ONE, rm).unwrap();
        assert_eq!(fleet.apply(TWO, bind(blue, 0xd2, None)), Err(Rejected::UnknownNetwork(blue)));
    }

    #[test]
    fn a_state_of_before_has_none() {
        let before = Fleet::new(2).shared;
        let bytes = before.to_bytes();
        let (version, end) = (4, bytes.len() - 1);
        let older = [&bytes[..version], &[1], &bytes[version + 1..end]].concat();
        assert_eq!(Shared::from_bytes(&older), Ok(before));
    }
}
