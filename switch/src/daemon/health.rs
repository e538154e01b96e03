//! Looks at what every container's interface depends on, and reports it in [`Problems`](crate::problems::Problems).
#![forbid(unsafe_code)]

use vswitch_proto::api::{ProblemArea, Severity};

use super::handle::Shared;
use crate::config::Engine;
use crate::io::tap;
use crate::worker::EngineKind;

/// Calls of [`HostHealth::look`], one a second, between two looks.
const LOOK_TICKS: u32 = 5;

/// Paces the looks.
#[derive(Debug, Default)]
pub struct HostHealth {
    ticks: u32,
}

impl HostHealth {
    /// Looks, if it is time to. To be called once a second.
    pub fn look(&mut self, shared: &Shared) {
        if self.ticks.is_multiple_of(LOOK_TICKS) {
            shared.problems.set(ProblemArea::Devices, device());
            shared.problems.set(ProblemArea::Engine, engine(shared));
        }
        self.ticks = self.ticks.wrapping_add(1);
    }
}

fn device() -> Option<(Severity, String)> {
    let error = tap::check_device().err()?;
    let message = format!(
        "no interface can be made for a container: /dev/net/tun: {error}; load the kernel's tun module, or give \
         vswitchd the device"
    );
    Some((Severity::Error, message))
}

/// The slower engine, where the faster one was not ruled out.
fn engine(shared: &Shared) -> Option<(Severity, String)> {
    let is_slower = shared.dataplane.engine() == EngineKind::Epoll && shared.config.engine != Engine::Epoll;
    is_slower.then(|| {
        let message = "frames are moved with epoll, since io_uring does not work here (the log says why): allow it, \
                       or start vswitchd with --engine epoll";
        (Severity::Warning, message.into())
    })
}
