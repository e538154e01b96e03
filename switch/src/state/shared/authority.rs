//! The cluster's certificate authority: the one that signs, the former one while it is trusted still, and which nodes
//! have moved on.
//!
//! Certificates only: the key that signs is no part of the state. What they say is not looked at here. Whether the
//! former one is needed still is the leader's to judge, who has a clock.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch_proto::id::NodeId;

use super::{Applied, Rejected, Shared};

/// Of one certificate.
pub const CERTIFICATE_BYTES_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorities {
    /// Rises with every rotation. The one that the cluster was founded with is 1.
    pub generation: u64,
    /// Of the authority that signs: X.509 in DER, signed by itself.
    pub current: Vec<u8>,
    /// The same key, certified by the former authority, for whoever knows only that one. Empty for the first.
    pub cross: Vec<u8>,
    /// Trusted still, if not empty.
    pub former: Vec<u8>,
    pub rotated_at_ms: u64,
}

impl Authorities {
    /// What certificates of nodes may be signed by.
    pub fn trusted(&self) -> impl Iterator<Item = &[u8]> {
        [&self.current[..], &self.former[..]].into_iter().filter(|certificate| !certificate.is_empty())
    }

    pub(super) fn is_sound(&self) -> bool {
        let fits = |certificate: &[u8]| certificate.len() <= CERTIFICATE_BYTES_MAX;
        self.generation > 0
            && !self.current.is_empty()
            && self.current != self.former
            && [&self.current, &self.cross, &self.former].into_iter().all(|certificate| fits(certificate))
    }
}

impl Shared {
    /// None before a cluster is founded.
    pub fn authorities(&self) -> Option<&Authorities> {
        self.authorities.as_deref()
    }

    /// Nodes whose certificate is of a former authority, for all that they told.
    pub fn behind_authority(&self) -> impl Iterator<Item = NodeId> + Clone {
        let generation = self.authority_generation();
        self.nodes().filter(move |node| node.authority < generation).map(|node| node.id)
    }

    pub(super) fn authority_generation(&self) -> u64 {
        self.authorities().map_or(0, |authorities| authorities.generation)
    }

    pub(super) fn rotate_authority(
        &mut self,
        certificate: &[u8],
        cross: &[u8],
        at_ms: u64,
    ) -> Result<Applied, Rejected> {
        let former = match self.authorities() {
            Some(before) if !before.former.is_empty() => return Err(Rejected::AuthorityRotates),
            Some(before) => before.current.clone(),
            None => Vec::new(),
        };
        let generation = self.authority_generation() + 1;
        let (current, cross) = (certificate.to_vec(), cross.to_vec());
        let authorities = Authorities { generation, current, cross, former, rotated_at_ms: at_ms };
        if !authorities.is_sound() {
            return Err(Rejected::InvalidAuthority);
        }
        self.authorities = Some(Arc::new(authorities));
        Ok(Applied::AuthorityRotated { generation })
    }

    pub(super) fn take_authority(&mut self, id: NodeId, generation: u64) -> Result<Applied, Rejected> {
        let before = self.node(id).ok_or(Rejected::NotAMember(id))?;
        if generation > self.authority_generation() {
            return Err(Rejected::InvalidAuthority);
        }
        if generation > before.authority {
            let node = super::Node { authority: generation, ..before.clone() };
            self.nodes.insert(id, Arc::new(node));
        }
        Ok(Applied::AuthorityTaken { node: id })
    }

    pub(super) fn drop_authority(&mut self, generation: u64) -> Result<Applied, Rejected> {
        let authorities = self.authorities.as_mut().filter(|a| a.generation == generation);
        let authorities = authorities.filter(|a| !a.former.is_empty()).ok_or(Rejected::NoFormerAuthority)?;
        Arc::make_mut(authorities).former.clear();
        Ok(Applied::AuthorityDropped { generation })
    }
}
