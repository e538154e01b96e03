//! The engines that work on this machine, whichever of them a daemon would choose by itself.

use std::num::NonZeroUsize;
use std::sync::Arc;

use vswitch::worker::{Dataplane, DataplaneConfig, EngineError, EngineKind};

/// A data plane of two workers, with all offloads; `None` for the engine that it chooses.
pub fn config(engine: Option<EngineKind>) -> DataplaneConfig {
    DataplaneConfig {
        workers: NonZeroUsize::new(2).expect("it is not 0"),
        engine,
        on_port_death: Arc::new(|port| panic!("port {port} died")),
        ..DataplaneConfig::default()
    }
}

/// One at least, and a word why not the other.
///
/// # Panics
/// When one fails for another reason than that this kernel does not have it or does not allow it.
pub fn engines() -> Vec<EngineKind> {
    [EngineKind::Epoll, EngineKind::Uring].into_iter().filter(|&engine| works(engine)).collect()
}

fn works(engine: EngineKind) -> bool {
    match Dataplane::start(config(Some(engine))) {
        Ok(_) => true,
        Err(EngineError::Unavailable(why)) => {
            eprintln!("skipped: {engine}: {why}");
            false
        }
        Err(why) => panic!("{engine}: {why}"),
    }
}
