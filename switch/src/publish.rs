//! From the one writer to the workers: [`Tables`] as a whole, never a part of them.
//!
//! A [`Subscription`] keeps the tables that it loaded last. Loading again costs one atomic read while nothing new was
//! published, so a worker does it once per burst and works on one consistent view throughout. Neither side ever
//! waits for the other. The price: a worker that sleeps keeps the tables it last used until it wakes.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use crate::forward::tables::Tables;

#[derive(Debug, Default)]
pub struct Publisher {
    tables: Arc<ArcSwap<Tables>>,
}

impl Publisher {
    /// What is published replaces what was published before.
    pub fn publish(&self, tables: Tables) {
        self.tables.store(Arc::new(tables));
    }

    pub fn subscribe(&self) -> Subscription {
        Subscription { cache: Cache::new(Arc::clone(&self.tables)) }
    }
}

/// One reader's view.
#[derive(Debug)]
pub struct Subscription {
    cache: Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>,
}

impl Subscription {
    /// The newest tables.
    pub fn load(&mut self) -> &Tables {
        self.cache.load()
    }
}

#[cfg(test)]
mod tests {
    use vswitch_proto::id::{PortId, Vni};

    use super::*;
    use crate::forward::tables::Network;

    #[test]
    fn every_subscription_sees_the_newest_tables() {
        let publisher = Publisher::default();
        let mut early = publisher.subscribe();
        assert_eq!(early.load(), &Tables::default());
        let mut tables = Tables::default();
        let network = Network { ports: vec![PortId(1)], ..Network::default() };
        tables.networks.insert(Vni::new(7).unwrap(), network.into());
        publisher.publish(tables.clone());
        assert_eq!(early.load(), &tables);
        assert_eq!(publisher.subscribe().load(), &tables);
    }
}
