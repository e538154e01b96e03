//! Turns: changes of one container, of one network or of one request happen one after the other, in the order in which
//! they came; others pass.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;
use vswitch_proto::id::{ContainerId, NetworkId, RequestId};

/// What changes are ordered by. Whoever takes several turns takes them in the order of these variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A request that is sent twice.
    Request(RequestId),
    /// Subnets that are chosen for networks of this node.
    Subnets,
    Network(NetworkId),
    Container(ContainerId),
}

type Queues = Mutex<HashMap<Subject, Arc<tokio::sync::Mutex<()>>>>;

#[derive(Debug, Default)]
pub struct Order {
    queues: Arc<Queues>,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub struct Turn {
    subject: Subject,
    queues: Arc<Queues>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Order {
    /// Waits for the turn. Turns are granted in the order in which they are asked for.
    pub async fn turn(&self, subject: Subject) -> Turn {
        let queue = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(queues.entry(subject).or_default())
        };
        // Made before the wait, so that a wait that is given up removes the queue as well.
        let mut turn = Turn { subject, queues: Arc::clone(&self.queues), guard: None };
        turn.guard = Some(queue.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // The last reference is that of the map: nobody else has the turn, or waits for it.
        if queues.get(&self.subject).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            queues.remove(&self.subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    async fn is_granted(turn: &mut (impl Future<Output = Turn> + Unpin)) -> Option<Turn> {
        match std::future::poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *turn).poll(context))).await
        {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn turns_of_one_subject_are_in_order_and_those_of_others_pass() {
        let order = Order::default();
        let [one, other] = [1, 2].map(|id| Subject::Container(ContainerId([id; 32])));
        let first = order.turn(one).await;
        let mut second = Box::pin(order.turn(one));
        let mut third = Box::pin(order.turn(one));
        assert!(is_granted(&mut second).await.is_none() && is_granted(&mut third).await.is_none());
        drop(order.turn(other).await);
        drop(first);
        assert!(is_granted(&mut third).await.is_none(), "the second comes first");
        let second = is_granted(&mut second).await.expect("it is its turn");
        drop(second);
        drop(is_granted(&mut third).await.expect("it is its turn"));
        drop(third);
        assert!(order.queues.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_leaves_nothing() {
        let order = Order::default();
        let subject = Subject::Request(RequestId([1; 16]));
        let first = order.turn(subject).await;
        let mut second = Box::pin(order.turn(subject));
        assert!(is_granted(&mut second).await.is_none());
        drop(first);
        drop(second);
        assert!(order.queues.lock().unwrap().is_empty());
    }
}
