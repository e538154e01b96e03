//! How many buffers reads need: what they brought at once, and how long or expensive it was.

/// What provided buffers hold of a processor's cache at the most, when they are more than the least number.
const HOT_BYTES: usize = 256 << 10;

/// Reads after which it is seen how many buffers were needed.
pub(super) const NEED_READS: usize = 256;

/// How many buffers the last reads needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    pub(super) reads: usize,
    bytes: usize,
    /// Reads of one [`Ring::enter`](super::Ring::enter), and of the one with the most.
    at_once: usize,
    pub(super) most: usize,
}

impl Need {
    pub(super) const UNKNOWN: Need = Need { reads: 0, bytes: 0, at_once: 0, most: 0 };

    pub(super) fn with_read(self, bytes: usize) -> Need {
        let at_once = self.at_once + 1;
        let most = self.most.max(at_once);
        Need { reads: self.reads + 1, bytes: self.bytes + bytes, at_once, most }
    }

    /// The read before counts as one that is longer by this many bytes.
    pub(super) fn with_weight(self, bytes: usize) -> Need {
        Need { bytes: self.bytes + bytes, ..self }
    }

    /// The next reads are those of another [`Ring::enter`](super::Ring::enter).
    pub(super) fn with_enter(self) -> Need {
        Need { at_once: 0, ..self }
    }

    /// How long reads are stays known.
    pub(super) fn begun_anew(self) -> Need {
        Need { reads: self.reads / 2, bytes: self.bytes / 2, at_once: self.at_once, most: 0 }
    }

    /// Whether so many reads like the last ones bring more than the cache is to hold.
    pub(super) fn is_beyond_cache(self, buffers: usize) -> bool {
        self.bytes * buffers > HOT_BYTES * self.reads
    }
}
