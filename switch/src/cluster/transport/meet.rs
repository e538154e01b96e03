//! Whether the one that connects is the node's present run: the part of [`runs`](super::super::runs) that asks.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use vswitch_proto::id::NodeId;

use super::super::runs::{Meeting, Run, Unfit};
use super::wire::Refusal;
use super::{Serve, Shared, dial, lock};

/// How long whoever answers at an address of the node has to say which run it is.
const PROBE: Duration = Duration::from_secs(1);

/// A connection with a run of a node, for as long as it is kept.
pub(super) struct Open<S: Serve> {
    shared: Arc<Shared<S>>,
    node: NodeId,
    nonce: [u8; 16],
}

impl<S: Serve> Open<S> {
    pub(super) fn new(shared: &Arc<Shared<S>>, node: NodeId, run: &Run) -> Open<S> {
        lock(&shared.runs).open(node, run.nonce);
        Open { shared: shared.clone(), node, nonce: run.nonce }
    }

    /// Whether the node has not been met as another run since.
    pub(super) fn is_current(&self) -> bool {
        lock(&self.shared.runs).is_current(self.node, self.nonce)
    }
}

impl<S: Serve> Drop for Open<S> {
    fn drop(&mut self) {
        lock(&self.shared.runs).close(self.node, self.nonce);
    }
}

/// Takes a run that connects, or refuses it. `from` is where it says to listen.
pub(super) async fn meet<S: Serve>(
    shared: &Arc<Shared<S>>,
    node: NodeId,
    run: Run,
    from: SocketAddr,
) -> Result<(), Refusal> {
    let addresses = shared.addresses(node);
    if judge(shared, node, &run, from)? == Meeting::Known {
        return Ok(());
    }
    let mut asked = JoinSet::new();
    for address in addresses {
        let credentials = shared.credentials();
        asked.spawn(async move {
            let found = timeout(PROBE, dial::who(address, node, &credentials)).await;
            // Whoever does not answer in time is not there.
            found.ok().and_then(Result::ok).map(|found| (address, found))
        });
    }
    let mut answers_itself = false;
    while let Some(found) = asked.join_next().await {
        match found {
            Ok(Some((_, Some(found)))) if found.nonce == run.nonce => answers_itself = true,
            // A version that cannot say which run it is, or another run.
            Ok(Some((at, _))) => return Err(Refusal::Twice { node, at }),
            Ok(None) | Err(_) => {}
        }
    }
    // While the question was out, another one may have been accepted.
    if judge(shared, node, &run, from)? == Meeting::Known {
        return Ok(());
    }
    let mut runs = lock(&shared.runs);
    if !answers_itself && runs.has_other_open(node, run.nonce) {
        drop(runs);
        return Err(Refusal::Twice { node, at: shared.addresses(node).first().copied().unwrap_or(from) });
    }
    runs.accept(node, run);
    Ok(())
}

/// Takes a run that answers at an address of the node's, or refuses it.
pub(super) fn meet_answering<S: Serve>(
    shared: &Arc<Shared<S>>,
    node: NodeId,
    run: Run,
    at: SocketAddr,
) -> Result<(), Refusal> {
    if judge(shared, node, &run, at)? == Meeting::New {
        let mut runs = lock(&shared.runs);
        if runs.has_other_open(node, run.nonce) {
            return Err(Refusal::Twice { node, at });
        }
        runs.accept(node, run);
    }
    Ok(())
}

fn judge<S: Serve>(
    shared: &Arc<Shared<S>>,
    node: NodeId,
    run: &Run,
    at: SocketAddr,
) -> Result<Meeting, Refusal> {
    let acknowledged = shared.serve.acknowledged(node);
    let runs = lock(&shared.runs);
    runs.judge(node, run, acknowledged).map_err(|unfit| match unfit {
        Unfit::Older if runs.has_other_open(node, run.nonce) => Refusal::Twice { node, at },
        Unfit::Older | Unfit::Behind => Refusal::Restored(node),
    })
}
