//! Calls of a Docker engine, as changes of the state and of the host.
//!
//! Every call may come again, with the same body or after a restart of either side, so each first looks whether what it
//! asks for is so already. What the state says is what is answered: a call that fails changes nothing.
//!
//! # An endpoint's interface
//! It is made beside the host's own interfaces, under a temporary name that follows from the endpoint's id, when the
//! endpoint is. After a join the engine moves it into the container, renames it, and gives it its addresses; after a
//! leave it moves it back. All that time it is the same device with the same descriptor. A daemon that starts finds it
//! in the one place or the other, by its MAC address where its name is not known. So it is when a lease of the cluster
//! comes into effect again, until when the device is kept without a descriptor.

use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::command::{Command, DockerChange};
use vswitch_proto::docker::Call;
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId, RequestId};

use super::control::Control;
use super::handle::error;
use super::order::Subject;
use super::{Done, random_request_id};

mod address;
mod aliases;
pub(super) mod bindings;
mod bound;
mod census;
mod endpoint;
mod engine;
pub(super) mod interface;
pub(super) mod leftovers;
mod network;
pub(super) mod planned;
mod plugin;
pub(super) mod sandbox;

pub use plugin::start;

impl Control {
    pub(super) async fn docker(&self, call: Call, id: RequestId) -> Result<Done, Error> {
        let answer = match call {
            Call::CreateNetwork(request) => self.docker_create_network(request, id).await?,
            Call::DeleteNetwork(request) => self.docker_delete_network(&request.network, id).await?,
            Call::CreateEndpoint(request) => self.docker_create_endpoint(&request, id).await?,
            Call::DeleteEndpoint(request) => self.docker_delete_endpoint(&request, id).await?,
            Call::Join(request) => self.docker_join(request, id).await?,
            Call::Leave(request) => self.docker_leave(&request, id).await?,
            Call::RequestPool(request) => self.docker_request_pool(request, id).await?,
            Call::ReleasePool(request) => self.docker_release_pool(&request, id).await?,
            Call::RequestAddress(request) => self.docker_request_address(&request, id).await?,
            Call::ReleaseAddress(request) => self.docker_release_address(&request, id).await?,
        };
        Ok(Done::Docker(answer))
    }

    /// What was settled without this loop.
    pub(super) async fn docker_state(&self, change: DockerChange, id: RequestId) -> Result<Done, Error> {
        match change {
            DockerChange::RemoveEndpoint { endpoint } => self.remove_endpoint(endpoint, id).await?,
            DockerChange::RemoveNetwork { network } => self.drop_docker_network(&network, id).await?,
            change => {
                self.commit(id, command(change), None).await?;
            }
        }
        Ok(Done::Nothing)
    }
}

impl Control {
    /// What a lost engine has left: all endpoints of a container.
    pub(super) async fn reclaim_container(
        &self,
        id: &ContainerId,
        request: RequestId,
    ) -> Result<Done, Error> {
        let state = self.state();
        let whose = state.container(id).and_then(|c| c.docker()).and_then(|spec| spec.container);
        let siblings =
            state.docker_endpoints().filter(|(_, spec)| whose.is_some() && spec.container == whose);
        let siblings: Vec<_> =
            siblings.map(|(sibling, _)| sibling.id).filter(|sibling| sibling != id).collect();
        for endpoint in siblings {
            self.remove_endpoint(endpoint, random_request_id()).await?;
        }
        self.remove_endpoint(*id, request).await?;
        Ok(Done::Nothing)
    }
}

/// What a call is ordered by.
pub fn subject(call: &Call) -> Option<Subject> {
    let endpoint = |endpoint| Some(Subject::Container(container_of(endpoint)));
    match call {
        Call::CreateNetwork(request) => Some(Subject::Network(request.network)),
        Call::DeleteNetwork(request) => Some(Subject::Network(request.network)),
        Call::CreateEndpoint(request) => endpoint(&request.endpoint),
        Call::DeleteEndpoint(request) | Call::Leave(request) => endpoint(&request.endpoint),
        Call::Join(request) => endpoint(&request.endpoint),
        Call::RequestPool(_) | Call::ReleasePool(_) => Some(Subject::Subnets),
        Call::RequestAddress(_) | Call::ReleaseAddress(_) => None,
    }
}

/// The same for what follows from a call.
pub fn state_subject(change: &DockerChange) -> Option<Subject> {
    match change {
        DockerChange::RemoveEndpoint { endpoint } => Some(Subject::Container(*endpoint)),
        DockerChange::RemoveNetwork { network } => Some(Subject::Network(*network)),
        _ => None,
    }
}

/// The endpoint's container here.
fn container_of(endpoint: &EndpointId) -> ContainerId {
    ContainerId(endpoint.0)
}

fn command(change: DockerChange) -> Command {
    Command::Docker(change)
}

fn unknown_network(id: &NetworkId) -> Error {
    let message = format!(
        "vswitch does not know the network {}; remove it with docker network rm and create it again",
        id.short()
    );
    error(ErrorKind::NotFound, message)
}

fn invalid(message: impl Into<String>) -> Error {
    error(ErrorKind::Invalid, message)
}
