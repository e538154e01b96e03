//! What differs between two states, found by walking both once and skipping what they share.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Container, Endpoint, Network, State};

/// Something that came, went, or is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a, T> {
    Added(&'a T),
    Removed(&'a T),
    Altered { old: &'a T, new: &'a T },
}

impl<'a, T> Change<'a, T> {
    pub fn before(&self) -> Option<&'a T> {
        match *self {
            Change::Added(_) => None,
            Change::Removed(old) | Change::Altered { old, .. } => Some(old),
        }
    }

    pub fn after(&self) -> Option<&'a T> {
        match *self {
            Change::Added(new) | Change::Altered { new, .. } => Some(new),
            Change::Removed(_) => None,
        }
    }
}

impl State {
    pub fn changed_networks<'a>(&'a self, old: &'a State) -> Vec<Change<'a, Network>> {
        changes(&old.networks, &self.networks)
    }

    pub fn changed_containers<'a>(&'a self, old: &'a State) -> Vec<Change<'a, Container>> {
        changes(&old.containers, &self.containers)
    }

    pub fn changed_endpoints<'a>(&'a self, old: &'a State) -> Vec<Change<'a, Endpoint>> {
        changes(&old.endpoints, &self.endpoints)
    }
}

/// In the order of the keys.
fn changes<'a, K: Ord, T: PartialEq>(
    old: &'a BTreeMap<K, Arc<T>>,
    new: &'a BTreeMap<K, Arc<T>>,
) -> Vec<Change<'a, T>> {
    let mut found = Vec::new();
    let (mut left, mut right) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return found,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let gone = if order.is_le() { left.next() } else { None };
        let come = if order.is_ge() { right.next() } else { None };
        match (gone, come) {
            (Some((_, old)), None) => found.push(Change::Removed(old)),
            (None, Some((_, new))) => found.push(Change::Added(new)),
            (Some((_, old)), Some((_, new))) if !Arc::ptr_eq(old, new) && old != new => {
                found.push(Change::Altered { old, new });
            }
            _ => {}
        }
    }
}
