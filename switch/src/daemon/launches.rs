//! Containers whose processes are being made and started, so that whoever wants them stopped can say so meanwhile.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::id::ContainerId;

use super::handle::{Shared, error};

/// Launches that are under way.
#[derive(Debug, Default)]
pub struct Launches(Mutex<HashMap<ContainerId, watch::Sender<bool>>>);

/// A launch, until this is dropped.
pub struct Launching {
    shared: Arc<Shared>,
    id: ContainerId,
    is_ended: watch::Receiver<bool>,
}

impl Launches {
    pub fn is_under_way(&self, id: &ContainerId) -> bool {
        self.lock().contains_key(id)
    }

    /// Has a launch given up; `false` if there is none.
    pub fn end(&self, id: &ContainerId) -> bool {
        self.lock().get(id).map(|launch| launch.send_replace(true)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerId, watch::Sender<bool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launching {
    /// Launches of one container come one after the other.
    pub fn new(shared: &Arc<Shared>, id: ContainerId) -> Launching {
        let (sender, is_ended) = watch::channel(false);
        shared.launches.lock().insert(id, sender);
        Launching { shared: Arc::clone(shared), id, is_ended }
    }

    /// Does a part of the launch, unless somebody has it ended before.
    pub async fn unless_ended<T>(&self, part: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut is_ended = self.is_ended.clone();
        tokio::select! {
            biased;
            Ok(_) = is_ended.wait_for(|is_ended| *is_ended) => {
                Err(error(ErrorKind::Conflict, "it was stopped or removed before its command began"))
            }
            done = part => done,
        }
    }
}

impl Drop for Launching {
    fn drop(&mut self) {
        self.shared.launches.lock().remove(&self.id);
        self.shared.wake();
    }
}
