//! The nodes: who may speak, and who votes.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::command::{NodeInfo, Role};
use vswitch_proto::id::{EndpointId, NodeId};

use super::super::network::is_vtep;
use super::{Applied, NODES_MAX, Rejected, Shared, VERSION_BYTES_MAX, VOTERS_MAX};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub info: NodeInfo,
    pub role: Role,
    /// What it is to be: a learner that is to vote is promoted when there is room and it has caught up.
    pub wanted: Role,
    pub joined_at_ms: u64,
    /// Generation of the authority that its certificate is of, see [`Authorities`](super::Authorities).
    pub authority: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    Member,
    /// Was a member. It never will be again under this id.
    Removed,
    Unknown,
}

impl Shared {
    /// In the order of their ids.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> + Clone {
        self.nodes.values().map(Arc::as_ref)
    }

    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id).map(Arc::as_ref)
    }

    pub fn voters(&self) -> impl Iterator<Item = &Node> + Clone {
        self.nodes().filter(|node| node.role == Role::Voter)
    }

    /// Learners that become voters as soon as they have caught up, in this order. None while there is no room.
    pub fn promotable(&self) -> impl Iterator<Item = &Node> + Clone {
        let room = self.voters().count() < VOTERS_MAX;
        self.nodes().filter(move |node| room && node.role == Role::Learner && node.wanted == Role::Voter)
    }

    pub fn membership(&self, id: NodeId) -> Membership {
        match self.nodes.contains_key(&id) {
            true => Membership::Member,
            false if (1..=self.last_node).contains(&id.0) => Membership::Removed,
            false => Membership::Unknown,
        }
    }

    pub(super) fn add_node(&mut self, info: &NodeInfo, role: Role, at_ms: u64) -> Result<Applied, Rejected> {
        if self.nodes.len() >= NODES_MAX {
            return Err(Rejected::TooManyNodes);
        }
        self.check_info(info, None)?;
        let id = NodeId(self.last_node.checked_add(1).ok_or(Rejected::NodeIdsExhausted)?);
        let (role, wanted) =
            if self.nodes.is_empty() { (Role::Voter, Role::Voter) } else { (Role::Learner, role) };
        let authority = self.authority_generation();
        let node = Node { id, info: info.clone(), role, wanted, joined_at_ms: at_ms, authority };
        self.last_node = id.0;
        self.nodes.insert(id, Arc::new(node));
        Ok(Applied::NodeAdded { node: id })
    }

    pub(super) fn update_node(&mut self, id: NodeId, info: &NodeInfo) -> Result<Applied, Rejected> {
        let node = self.member(id)?;
        self.check_info(info, Some(id))?;
        let node = Node { info: info.clone(), ..node.clone() };
        self.nodes.insert(id, Arc::new(node));
        Ok(Applied::NodeUpdated { node: id })
    }

    pub(super) fn set_role(&mut self, id: NodeId, role: Role) -> Result<Applied, Rejected> {
        let node = self.member(id)?;
        match role {
            Role::Voter if node.role == Role::Learner && self.voters().count() >= VOTERS_MAX => {
                return Err(Rejected::TooManyVoters);
            }
            Role::Learner => self.check_not_last(node)?,
            Role::Voter => {}
        }
        let node = Node { role, wanted: role, ..node.clone() };
        self.nodes.insert(id, Arc::new(node));
        Ok(Applied::RoleSet { node: id, role })
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Result<Applied, Rejected> {
        self.check_not_last(self.member(id)?)?;
        let leases: Vec<EndpointId> = self.leases_of(id).map(|lease| lease.endpoint).collect();
        leases.iter().for_each(|endpoint| self.take_back(endpoint));
        self.unbind_all(id);
        self.nodes.remove(&id);
        Ok(Applied::NodeRemoved { node: id, released: leases.len() })
    }

    fn member(&self, id: NodeId) -> Result<&Node, Rejected> {
        self.node(id).ok_or(Rejected::NotAMember(id))
    }

    fn check_not_last(&self, node: &Node) -> Result<(), Rejected> {
        let last = node.role == Role::Voter && self.voters().count() == 1;
        if last { Err(Rejected::LastVoter(node.info.name.clone())) } else { Ok(()) }
    }

    /// What a node tells of itself, against what the others told. `of` is the node, if it is a member already.
    fn check_info(&self, info: &NodeInfo, of: Option<NodeId>) -> Result<(), Rejected> {
        let NodeInfo { name, address, vtep, version, certificate: _ } = info;
        let ip = address.ip();
        if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
            return Err(Rejected::InvalidNodeAddress(*address));
        }
        if !is_vtep(vtep) {
            return Err(Rejected::InvalidVtep(*vtep));
        }
        if version.len() > VERSION_BYTES_MAX {
            return Err(Rejected::InvalidVersion(version.chars().take(VERSION_BYTES_MAX).collect()));
        }
        for other in self.nodes().filter(|other| Some(other.id) != of) {
            let holder = || other.info.name.clone();
            if other.info.name == *name {
                return Err(Rejected::NodeNameTaken { name: name.clone(), holder: other.id });
            }
            if other.info.address == *address {
                return Err(Rejected::NodeAddressTaken { address: *address, holder: holder() });
            }
            if other.info.vtep == *vtep {
                return Err(Rejected::VtepTaken { vtep: *vtep, holder: holder() });
            }
            if other.info.vtep.is_ipv6() != vtep.is_ipv6() {
                return Err(Rejected::VtepFamily { vtep: *vtep });
            }
        }
        Ok(())
    }

    /// Whether a network can have this static remote.
    pub(super) fn check_family(&self, remote: IpAddr) -> Result<(), Rejected> {
        match self.nodes().find(|node| node.info.vtep.is_ipv6() != remote.is_ipv6()) {
            Some(_) => Err(Rejected::VtepFamily { vtep: remote }),
            None => Ok(()),
        }
    }
}
