//! Containers: their life from created through running to exited, and their attachments to networks.
//!
//! An attachment is what was asked for and lives as long as the container; an endpoint is what was allocated for
//! it and lives while the container is created or running.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use vswitch_proto::command::{
    Attachment, ContainerKind, CreateContainer, DockerSpec, Driver, NewEndpoint, Scope,
};
use vswitch_proto::id::{ContainerId, Name, NetworkId};

use super::endpoint::{Allocation, short_name};
use super::{ALIASES_MAX, Applied, CONTAINERS_MAX, INTERFACES_MAX, Rejected, State};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub id: ContainerId,
    pub name: Name,
    pub kind: ContainerKind,
    pub phase: Phase,
    /// In the order they were asked for.
    pub attachments: Vec<Attachment>,
    pub created_at_ms: u64,
    pub started_at_ms: Option<u64>,
    pub finished_at_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Endpoints are allocated, the process has not begun.
    Created,
    Running,
    Exited {
        code: i32,
        error: String,
    },
}

impl Container {
    /// Created or running: its attachments have endpoints.
    pub fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Exited { .. })
    }

    /// What an endpoint of Docker's has besides.
    pub fn docker(&self) -> Option<&DockerSpec> {
        match &self.kind {
            ContainerKind::Docker(spec) => Some(spec),
            ContainerKind::Lab(_) | ContainerKind::Adopted(_) => None,
        }
    }

    /// The id that people know it by: the engine's, for a container of Docker's that is known.
    pub fn shown_id(&self) -> &ContainerId {
        self.docker().and_then(|spec| spec.container.as_ref()).unwrap_or(&self.id)
    }

    pub fn is_lab(&self) -> bool {
        matches!(self.kind, ContainerKind::Lab(_))
    }

    /// What it calls itself: the hostname asked for, or its short id.
    pub fn hostname(&self) -> String {
        match &self.kind {
            ContainerKind::Lab(lab) => lab.hostname.clone().unwrap_or_else(|| self.id.short()),
            ContainerKind::Adopted(_) | ContainerKind::Docker(_) => self.id.short(),
        }
    }

    pub fn attachment(&self, network: &NetworkId) -> Option<&Attachment> {
        self.attachments.iter().find(|a| a.network == *network)
    }
}

impl State {
    pub(super) fn create_container(
        &mut self,
        request: &CreateContainer,
        at_ms: u64,
    ) -> Result<Applied, Rejected> {
        let unique = !matches!(request.kind, ContainerKind::Docker(_));
        let is_namesake = |c: &&Container| unique && c.docker().is_none() && c.name == request.name;
        if let Some(holder) = self.containers().find(is_namesake) {
            return Err(Rejected::ContainerNameTaken { name: request.name.clone(), holder: holder.id });
        }
        if self.containers.contains_key(&request.id) {
            return Err(Rejected::IdTaken(request.id.to_string()));
        }
        if self.containers.len() >= CONTAINERS_MAX {
            return Err(Rejected::TooManyContainers);
        }
        self.check_kind(&request.kind)?;
        let mut container = Container {
            id: request.id,
            name: request.name.clone(),
            kind: request.kind.clone(),
            phase: Phase::Created,
            attachments: Vec::new(),
            created_at_ms: at_ms,
            started_at_ms: None,
            finished_at_ms: None,
        };
        for (attachment, _) in &request.attachments {
            self.check_attachment(&container, attachment)?;
            container.attachments.push(attachment.clone());
        }
        let endpoints: Vec<NewEndpoint> = request.attachments.iter().map(|(_, new)| *new).collect();
        let allocation = self.allocate(&container, &container.attachments, &endpoints)?;
        self.commit(container, allocation);
        Ok(Applied::ContainerCreated { container: request.id })
    }

    pub(super) fn start_container(
        &mut self,
        id: &ContainerId,
        endpoints: &[NewEndpoint],
        at_ms: u64,
    ) -> Result<Applied, Rejected> {
        let mut container = self.own_container(id)?.clone();
        if container.phase == Phase::Running {
            return Err(Rejected::AlreadyRunning(container.name));
        }
        let needed = container.attachments.len();
        if endpoints.len() != needed {
            return Err(Rejected::EndpointIds { container: container.name, needed, given: endpoints.len() });
        }
        let is_gone = |a: &&Attachment| a.scope == Scope::Local && self.network(&a.network).is_none();
        if let Some(gone) = container.attachments.iter().find(is_gone) {
            return Err(self.network_gone(&container.name, &gone.network));
        }
        self.check_still_free(&container)?;
        let was_live = container.is_live();
        let allocation = if container.is_live() {
            Allocation::default()
        } else {
            self.allocate(&container, &container.attachments, endpoints)?
        };
        container.phase = Phase::Running;
        container.started_at_ms = Some(at_ms);
        container.finished_at_ms = None;
        self.commit(container, allocation);
        if !was_live {
            self.forget_container(id);
        }
        Ok(Applied::ContainerStarted { container: *id })
    }

    pub(super) fn container_exited(
        &mut self,
        id: &ContainerId,
        phase: Phase,
        at_ms: u64,
    ) -> Result<Applied, Rejected> {
        let mut container = self.own_container(id)?.clone();
        if !container.is_live() {
            return Err(Rejected::NotRunning(container.name));
        }
        self.remember_addresses(id);
        self.release_all(id);
        container.phase = phase;
        container.finished_at_ms = Some(at_ms);
        self.commit(container, Allocation::default());
        Ok(Applied::ContainerExited { container: *id })
    }

    pub(super) fn remove_container(&mut self, id: &ContainerId) -> Result<Applied, Rejected> {
        let container = self.own_container(id)?;
        if container.phase == Phase::Running {
            return Err(Rejected::ContainerRunning(container.name.clone()));
        }
        self.release_all(id);
        self.containers.remove(id);
        self.forget_container(id);
        Ok(Applied::ContainerRemoved { container: *id })
    }

    pub(super) fn connect(
        &mut self,
        id: &ContainerId,
        attachment: &Attachment,
        endpoint: NewEndpoint,
    ) -> Result<Applied, Rejected> {
        let mut container = self.own_container(id)?.clone();
        self.check_attachment(&container, attachment)?;
        let network = attachment.network;
        if self.network(&network).is_some_and(|n| n.driver == Driver::Host) {
            return Err(Rejected::HostMode(container.name));
        }
        let live = container.is_live();
        container.attachments.push(attachment.clone());
        let allocation = if live {
            self.allocate(&container, std::slice::from_ref(attachment), &[endpoint])?
        } else {
            Allocation::default()
        };
        self.commit(container, allocation);
        Ok(Applied::Connected { container: *id, network, endpoint: live.then_some(endpoint.id) })
    }

    pub(super) fn disconnect(&mut self, id: &ContainerId, network: &NetworkId) -> Result<Applied, Rejected> {
        let mut container = self.own_container(id)?.clone();
        let known = self.network(network);
        let Some(at) = container.attachments.iter().position(|a| a.network == *network) else {
            let network = known.map_or_else(|| network.short(), |n| n.name.to_string());
            return Err(Rejected::NotConnected { container: container.name, network });
        };
        if known.is_some_and(|n| n.driver == Driver::Host) {
            return Err(Rejected::HostMode(container.name));
        }
        let endpoint = self.endpoint_at(id, network).map(|e| e.id);
        if let Some(endpoint) = endpoint {
            self.release(&endpoint);
        }
        container.attachments.remove(at);
        self.commit(container, Allocation::default());
        self.forget_attachment(id, network);
        Ok(Applied::Disconnected { container: *id, network: *network, endpoint })
    }

    /// Why a container cannot start whose network is gone.
    pub fn network_gone(&self, container: &Name, network: &NetworkId) -> Rejected {
        let container = container.clone();
        match self.remembered_name(network) {
            Some(name) => Rejected::NetworkLost { container, network: name.clone() },
            None => Rejected::NetworkGone { container, network: *network },
        }
    }

    /// One that is not Docker's, whose life is Docker's too.
    fn own_container(&self, id: &ContainerId) -> Result<&Container, Rejected> {
        match self.container(id) {
            None => Err(Rejected::UnknownContainer(*id)),
            Some(container) if container.docker().is_some() => {
                Err(Rejected::ContainerOfDocker(container.name.clone()))
            }
            Some(container) => Ok(container),
        }
    }

    /// Puts the container in its new form and what was allocated for it in place.
    fn commit(&mut self, container: Container, allocation: Allocation) {
        self.containers.insert(container.id, Arc::new(container));
        self.insert(allocation);
    }

    fn check_kind(&self, kind: &ContainerKind) -> Result<(), Rejected> {
        match kind {
            ContainerKind::Lab(lab) => match &lab.hostname {
                Some(hostname) if !is_hostname(hostname) => Err(Rejected::InvalidHostname(hostname.clone())),
                _ => Ok(()),
            },
            ContainerKind::Adopted(_) => self.check_adopted_once(kind, None),
            ContainerKind::Docker(_) => Ok(()),
        }
    }

    /// A namespace is one live container at most: two would make the same interfaces in it.
    fn check_adopted_once(&self, kind: &ContainerKind, except: Option<&ContainerId>) -> Result<(), Rejected> {
        let ContainerKind::Adopted(wanted) = kind else { return Ok(()) };
        let same = |c: &&Container| {
            matches!(&c.kind, ContainerKind::Adopted(a) if a.source == wanted.source)
                && c.is_live()
                && Some(&c.id) != except
        };
        self.containers()
            .find(same)
            .map_or(Ok(()), |holder| Err(Rejected::AlreadyAdopted(holder.name.clone())))
    }

    fn check_still_free(&self, container: &Container) -> Result<(), Rejected> {
        self.check_adopted_once(&container.kind, Some(&container.id))
    }

    /// Whether the container, with the attachments it has so far, may get this one too. Addresses are checked
    /// against the network's subnets here, against other endpoints when they are allocated. A network of the cluster
    /// is not known here: that it exists, and has such addresses, is checked when they are leased.
    fn check_attachment(&self, container: &Container, wanted: &Attachment) -> Result<(), Rejected> {
        let network = match wanted.scope {
            Scope::Local => {
                Some(self.network(&wanted.network).ok_or(Rejected::UnknownNetwork(wanted.network))?)
            }
            Scope::Cluster if self.networks.contains_key(&wanted.network) => {
                return Err(Rejected::UnknownNetwork(wanted.network));
            }
            Scope::Cluster => None,
        };
        let name = || container.name.clone();
        if container.attachment(&wanted.network).is_some() {
            let network = network.map_or_else(|| short_name(&wanted.network), |n| n.name.clone());
            return Err(Rejected::AlreadyConnected { container: name(), network });
        }
        if container.attachments.len() >= INTERFACES_MAX {
            return Err(Rejected::TooManyInterfaces(name()));
        }
        if wanted.aliases.len() > ALIASES_MAX {
            return Err(Rejected::TooManyAliases(name()));
        }
        let others = container.attachments.iter().filter_map(|a| self.network(&a.network));
        let mut exclusive = others.chain(network).filter(|n| n.driver != Driver::Bridge);
        if let (Some(alone), false) = (exclusive.next(), container.attachments.is_empty()) {
            let (network, driver) = (alone.name.clone(), alone.driver);
            return Err(Rejected::Exclusive { container: name(), network, driver });
        }
        let Some(network) = network else { return Ok(()) };
        if network.driver == Driver::Host && !container.is_lab() {
            return Err(Rejected::AdoptedOnHost(name()));
        }
        network.check_wanted(wanted)
    }
}

/// RFC 1123 section 2.1, bounded by a DNS label's 63 bytes as a whole.
fn is_hostname(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}
