//! The cluster's authority in time: who has its key, and how another one takes its place.
//!
//! # Theory of operation
//! The state says which authority signs, and which one was before and is trusted still. To rotate it,
//!
//! 1. the leader makes the next authority and hands its key to the voters, who keep it aside. Once a majority has it,
//! 2. the state names it. From then on it signs, and its tokens are valid; the former tokens are not.
//! 3. Every node that learns of it asks for a new certificate, and says in the state when it has one. Others trust that
//!    at once, those too that have not heard of the rotation: the former authority certified the next one's key.
//! 4. The leader drops the former one when all nodes have moved on, or after [`TRUST_FORMER_MS`], or when it is told
//!    to. All connections are then made anew. A node that was away until then is refused, and told what to do.
//!
//! A leader that dies before 2 leaves keys aside that never sign anything. After 2, a majority of voters has the key;
//! the others ask for it.
//!
//! # Who gets a key
//! A voter, by the word of a majority at that moment: whoever answers has its own view of the state confirmed first, so
//! that a node that is cut off and does not know yet gives nothing to one that was demoted.
#![forbid(unsafe_code)]

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use vswitch_proto::command::{Role as Vote, SharedChange};
use vswitch_proto::id::{NodeId, RequestId};

use super::super::identity::{self, Authority, AuthorityKey, Identity, SLACK_MS};
use super::super::transport::tls::Credentials;
use super::super::transport::wire::{Asked, Denied, Request, Response, Rotated};
use super::STEP_PATIENCE;
use super::engine::{Proposed, View};
use super::error::ClusterError;
use super::member::Member;
use crate::state::shared::{Authorities, Shared};

/// How long nodes that are away have for coming back.
pub(super) const TRUST_FORMER_MS: u64 = 7 * 24 * 60 * 60 * 1000;
const CALL: Duration = Duration::from_secs(2);

impl Member {
    /// As its leader. Repeated, it goes on where it was.
    pub(super) async fn rotate_authority(&self, asked: Asked) -> Result<Response, Response> {
        if !self.state().is_settled(&asked.request) {
            let change = self.prepare_rotation().await?;
            match self.engine.propose(self.envelope(self.node, asked, change)).await {
                Proposed::Applied(Ok(_)) => tracing::info!("the cluster has a new authority"),
                other => return Err(self.not_proposed(other)),
            }
        }
        let deadline = Instant::now() + STEP_PATIENCE;
        _ = self.wait_for(deadline, |view| waiting_for_reachable(view, self.node) == 0).await;
        self.rotation()
    }

    /// Makes the next authority, and sees that a majority of the voters has its key.
    async fn prepare_rotation(&self) -> Result<SharedChange, Response> {
        let authority = self.present_authority().ok_or(Response::Denied(Denied::NoAuthority))?;
        let now_ms = (self.config.clock)();
        let cannot = |error| {
            tracing::error!("cannot make another authority: {error}");
            Response::Denied(Denied::Certificate)
        };
        let next = Authority::found(self.identity().cluster, now_ms).map_err(cannot)?;
        let cross = authority.certify(&next, now_ms).map_err(cannot)?;
        next.save_as_next(&self.dir).map_err(cannot)?;

        self.hand_out(&next).await?;
        Ok(SharedChange::RotateAuthority { certificate: next.certificate().to_vec(), cross })
    }

    /// Gives the key to a majority of the voters. A voter whose answer does not come in time is asked again: it keeps the
    /// same key.
    async fn hand_out(&self, next: &Authority) -> Result<(), Response> {
        let voters = self.view().status.members.voters.clone();
        let mut without: Vec<NodeId> = voters.iter().copied().filter(|voter| *voter != self.node).collect();
        let deadline = Instant::now() + STEP_PATIENCE;
        loop {
            let mut left = Vec::new();
            for voter in without {
                let kept = self.call(voter, Request::NextAuthority(next.key()), CALL).await;
                if !matches!(kept, Ok(Response::Done)) {
                    left.push(voter);
                }
            }
            without = left;
            let have = voters.len() - without.len();
            if have > voters.len() / 2 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let (reachable, voters) = (have as u64, voters.len() as u64);
                return Err(Response::Denied(Denied::BreaksQuorum { reachable, voters }));
            }
            tokio::time::sleep(self.config.tick).await;
        }
    }

    /// As its leader.
    pub(super) async fn drop_authority(&self) -> Result<Response, Response> {
        if let Some(generation) = former(&self.state()).map(|authorities| authorities.generation) {
            self.settle(SharedChange::DropAuthority { generation }).await?;
        }
        self.rotation()
    }

    fn rotation(&self) -> Result<Response, Response> {
        let state = self.state();
        let authorities = state.authorities().ok_or(Response::Denied(Denied::NoAuthority))?;
        Ok(Response::Rotated(Rotated {
            generation: authorities.generation,
            digest: identity::digest(&authorities.current),
            waiting: state.behind_authority().collect(),
            former_is_trusted: !authorities.former.is_empty(),
        }))
    }

    /// The generation whose predecessor nobody needs, or may need, any longer.
    pub(super) fn may_drop_authority(&self) -> Option<u64> {
        let state = self.state();
        let authorities = former(&state)?;
        let all_moved_on = state.behind_authority().next().is_none();
        let is_over = (self.config.clock)() > authorities.rotated_at_ms.saturating_add(TRUST_FORMER_MS);
        (all_moved_on || is_over).then_some(authorities.generation)
    }

    /// On a voter: what the leader hands out.
    pub(super) async fn keep_next_authority(&self, from: NodeId, key: &AuthorityKey) -> Response {
        if self.read().await.is_err() {
            return Response::Busy;
        }
        let view = self.view();
        if view.status.leader != Some(from) || !self.is_voter(self.node) {
            return Response::Denied(Denied::NotAllowed);
        }
        match Authority::of(key).and_then(|next| next.save_as_next(&self.dir)) {
            Ok(()) => Response::Done,
            Err(error) => {
                tracing::error!("cannot keep the key of the next authority: {error}");
                Response::Denied(Denied::Certificate)
            }
        }
    }

    /// The key, for a voter.
    pub(super) async fn give_authority(&self, node: NodeId) -> Response {
        if self.read().await.is_err() {
            return Response::Busy;
        }
        match self.present_authority() {
            _ if !self.is_voter(node) => Response::Denied(Denied::NotAVoter),
            Some(authority) => Response::Authority(authority.key()),
            None => Response::Denied(Denied::NoAuthority),
        }
    }

    /// The authority that signs by the state, if its key is here.
    pub(super) fn present_authority(&self) -> Option<Arc<Authority>> {
        let state = self.state();
        let current = &state.authorities()?.current;
        self.authority().filter(|authority| authority.certificate() == current)
    }

    /// Voters have the key of the authority that signs, nobody else.
    pub(super) async fn keep_authority(&self) -> Result<(), ClusterError> {
        let view = self.view();
        let state = &view.state;
        let Some(role) = state.node(self.node).map(|node| node.role) else { return Ok(()) };
        let Some(authorities) = state.authorities() else { return Ok(()) };
        match (role, self.present_authority()) {
            (Vote::Learner, _) if self.authority().is_some() => {
                Authority::forget(&self.dir)?;
                self.set_authority(None);
            }
            (Vote::Voter, None) => {
                let aside = Authority::load_next(&self.dir)?;
                let aside = aside.filter(|next| next.certificate() == authorities.current);
                let found = match aside {
                    Some(next) => Some(next),
                    None => self.ask_for_authority(&view).await?,
                };
                if let Some(authority) = found {
                    authority.save(&self.dir)?;
                    Authority::forget_next(&self.dir)?;
                    self.set_authority(Some(authority));
                }
            }
            (Vote::Learner, _) | (Vote::Voter, Some(_)) => {}
        }
        Ok(())
    }

    async fn ask_for_authority(&self, view: &View) -> Result<Option<Authority>, ClusterError> {
        let Some(authorities) = view.state.authorities() else { return Ok(None) };
        let others = view.state.voters().map(|node| node.id).filter(|id| *id != self.node);
        let leader = view.status.leader.filter(|leader| *leader != self.node);
        for node in leader.into_iter().chain(others) {
            let response = self.call(node, Request::Authority, CALL).await;
            if let Ok(Response::Authority(key)) = response
                && key.certificate == authorities.current
            {
                return Ok(Some(Authority::of(&key)?));
            }
        }
        Ok(None)
    }

    /// Trusts whom the state trusts.
    pub(super) fn keep_trust(&self) -> Result<(), ClusterError> {
        let state = self.state();
        let Some(authorities) = state.authorities() else { return Ok(()) };
        let before = self.identity();
        let trusted: Vec<Vec<u8>> = authorities.trusted().map(<[u8]>::to_vec).collect();
        let cross = match before.authority == authorities.current {
            true => authorities.cross.clone(),
            false => before.cross.clone(),
        };
        if (&trusted, &cross) == (&before.trusted, &before.cross) {
            return Ok(());
        }
        let somebody_fell = before.trusted.iter().any(|certificate| !trusted.contains(certificate));
        self.become_known_as(Identity { trusted, cross, ..Identity::clone(&before) })?;
        if let Some(transport) = self.transport().filter(|_| somebody_fell) {
            tracing::info!("the former authority of the cluster is not trusted any more");
            transport.reconnect();
        }
        Ok(())
    }

    /// A new certificate, and a new key, after two thirds of the life of the present one, or of the authority.
    pub(super) async fn keep_certificate(&self) -> Result<(), ClusterError> {
        let before = self.identity();
        let state = self.state();
        let current = state.authorities().map(|authorities| &authorities.current);
        let is_former = current.is_some_and(|current| *current != before.authority);
        let now_ms = (self.config.clock)();
        let from_ms = before.issued.issued_at_ms.saturating_sub(SLACK_MS);
        if !is_former && (from_ms..before.issued.renew_at_ms()).contains(&now_ms) {
            return Ok(());
        }
        let (key, public_key) = identity::new_key()?;
        // Nobody talks to a node whose certificate is outside its time, so a voter helps itself.
        let is_out_of_time = !(from_ms..before.issued.expires_at_ms).contains(&now_ms);
        let has_leader = self.view().status.leader.is_some();
        let response = if self.is_leader() || (is_out_of_time && !has_leader) {
            Some(self.renew(self.node, &public_key))
        } else {
            self.ask_leader(Request::Renew { public_key }, CALL).await
        };
        // Whatever else: asked again with the next chores. There is a month left, or a week.
        let Some(Response::Renewed { issued, authority }) = response else { return Ok(()) };
        let Some(authorities) = state.authorities().filter(|authorities| authorities.current == authority)
        else {
            return Ok(());
        };
        let trusted = authorities.trusted().map(<[u8]>::to_vec).collect();
        let cross = authorities.cross.clone();
        self.become_known_as(Identity {
            issued,
            key,
            authority,
            cross,
            trusted,
            ..Identity::clone(&before)
        })?;
        tracing::info!("the certificate of this node was renewed");
        Ok(())
    }

    /// Says in the state that this node has moved on.
    pub(super) async fn tell_authority(&self) -> Result<(), ClusterError> {
        let view = self.view();
        let Some(authorities) = view.state.authorities() else { return Ok(()) };
        let generation = authorities.generation;
        let is_behind = view.state.node(self.node).is_some_and(|node| node.authority < generation);
        if is_behind && self.identity().authority == authorities.current && view.status.leader.is_some() {
            let change = SharedChange::TakeAuthority { generation };
            self.tell(change, RequestId(rand::random())).await?;
        }
        Ok(())
    }

    /// Shows other nodes that this one votes, as long as it has the key.
    pub(super) fn show_proof(&self) {
        let Some(transport) = self.transport() else { return };
        let proof = self.authority().and_then(|authority| authority.prove_voter(self.node).ok());
        transport.set_proof(proof.unwrap_or_default());
    }

    fn become_known_as(&self, identity: Identity) -> Result<(), ClusterError> {
        let identity = Arc::new(identity);
        let credentials = Credentials::new(identity.clone(), &self.config.clock)?;
        identity.save(&self.dir)?;
        if let Some(transport) = self.transport() {
            transport.set_credentials(credentials);
        }
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
        Ok(())
    }
}

/// While a former authority is trusted.
fn former(state: &Shared) -> Option<&Authorities> {
    state.authorities().filter(|authorities| !authorities.former.is_empty())
}

/// Nodes that can be reached and have not moved on.
fn waiting_for_reachable(view: &View, own: NodeId) -> usize {
    let reaches = |node: &NodeId| {
        *node == own || view.status.peers.iter().any(|peer| peer.node == *node && peer.is_reachable)
    };
    view.state.behind_authority().filter(reaches).count()
}
