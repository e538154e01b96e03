//! How many clients and commands one container serves.

/// Numbers that its limit on descriptors allows. Each kind has its own, so that none takes the place of another:
/// whoever attaches in great numbers leaves room for a signal, a wait and the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Attached clients and followers of the log.
    pub(super) streams: usize,
    /// Commands run by exec whose clients are there.
    pub(super) execs: usize,
    /// Commands run by exec that go on without their clients.
    pub(super) left_execs: usize,
    /// Connections of every kind.
    pub(super) clients: usize,
}

impl Bounds {
    /// An attached client takes one descriptor, an exec up to five with its client, one that was left two, and the shim
    /// itself about 15.
    pub(super) fn of_descriptors(limit: u64) -> Bounds {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let at_most = |most: usize, share: usize| most.min(limit / share);
        let (streams, execs) = (at_most(224, 5), at_most(64, 16));
        Bounds { streams, execs, left_execs: at_most(256, 16), clients: streams + execs + at_most(64, 16) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptors_suffice_at_every_limit() {
        for limit in [64, 100, 256, 1024, 4096, 1 << 20, u64::MAX] {
            let bounds = Bounds::of_descriptors(limit);
            let used = 15 + bounds.clients + 4 * bounds.execs + 2 * bounds.left_execs;
            assert!(used as u64 <= limit, "{limit}: {bounds:?} take {used}");
            assert!(bounds.clients > bounds.streams + bounds.execs, "{limit}: {bounds:?} leave no reserve");
            assert!(bounds.execs > 0 && bounds.left_execs > 0 && bounds.streams > 0, "{limit}: {bounds:?}");
        }
    }
}
