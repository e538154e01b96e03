//! How many of what a client, a user and all clients together may have at a time.
#![forbid(unsafe_code)]

/// Connections beyond this are refused whatever the descriptor limit is.
const CONNECTIONS_MAX: u64 = 2048;

/// Connections that are always possible: descriptors are too few for anything else then, too.
const CONNECTIONS_MIN: u64 = 16;

/// Request bodies beyond this many bytes are large.
pub const SMALL_BODY_BYTES_MAX: u64 = 64 << 10;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Every connection, until it ends.
    Connection,
    /// Requests whose answer lasts: events, logs, attach, exec, wait and stop.
    Stream,
    /// Requests with a large body.
    Body,
    /// Snapshots of a cluster on their way in or out.
    Snapshot,
}

pub const CLASSES: usize = 4;

impl Class {
    /// For messages.
    pub fn noun(self) -> &'static str {
        match self {
            Class::Connection => "connections",
            Class::Stream => "streams (events, logs, attach, exec, wait and stop)",
            Class::Body => "large requests",
            Class::Snapshot => "snapshots",
        }
    }
}

/// The bounds of one class. What `all` has beyond `user` is kept for other users, what `user` has beyond `client` for
/// other sessions of the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    pub client: u32,
    pub user: u32,
    pub all: u32,
}

impl Bound {
    /// A quarter for one client, three quarters for one user.
    fn shared(all: u64) -> Bound {
        let part = |quarters: u64| u32::try_from((all * quarters / 4).max(1)).unwrap_or(u32::MAX);
        Bound { client: part(1), user: part(3), all: part(4) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    by_class: [Bound; CLASSES],
    /// Whether a connection without a request may be closed in favour of a new one.
    pub closes_idle: bool,
}

impl Bounds {
    /// For the API: connections take half of the daemon's descriptors, streams half of the connections, so that other
    /// requests always have a place.
    pub fn of_api(descriptors_max: u64) -> Bounds {
        let connections = (descriptors_max / 2).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
        let by_class = [
            Bound::shared(connections),
            Bound::shared(connections / 2),
            Bound { client: 8, user: 24, all: 32 },
            Bound { client: 1, user: 2, all: 3 },
        ];
        Bounds { by_class, closes_idle: true }
    }

    /// For the plugin socket: one engine is the only client that is expected, and takes one connection for each of its
    /// calls that are under way. It has three quarters of the places.
    pub fn of_plugin(descriptors_max: u64) -> Bounds {
        let connections = Bound::shared((descriptors_max / 8).clamp(CONNECTIONS_MIN, 256));
        let connections = Bound { client: connections.user, user: connections.user, ..connections };
        let bodies = Bound { client: 6, user: 6, all: 8 };
        let none = Bound { client: 0, user: 0, all: 0 };
        Bounds { by_class: [connections, none, bodies, none], closes_idle: false }
    }

    pub fn of(&self, class: Class) -> Bound {
        self.by_class[class as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_left_for_others_whatever_the_descriptor_limit() {
        for descriptors in [0, 64, 256, 1024, 524_288, u64::MAX] {
            for bounds in [Bounds::of_api(descriptors), Bounds::of_plugin(descriptors)] {
                let connections = bounds.of(Class::Connection);
                assert!(connections.client > 0 && connections.client <= connections.user, "{connections:?}");
                assert!(connections.user < connections.all, "{connections:?}");
                assert!(bounds.of(Class::Stream).all <= connections.all / 2, "{bounds:?}");
            }
        }
        assert_eq!(Bounds::of_api(1024).of(Class::Connection), Bound { client: 128, user: 384, all: 512 });
        assert_eq!(Bounds::of_api(1 << 20).of(Class::Stream), Bound { client: 256, user: 768, all: 1024 });
    }
}
