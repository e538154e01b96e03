//! Containers: their life from created through running to exited, and their attachments to networks.
//!
//! An attachment is what was asked for and lives as long as the container; an endpoint is what was allocated for
//! it and lives while the container is created or running.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use vswitch_proto::command::{
    Attachment, ContainerKind, CreateContainer, DockerSpec, Driver, LabSpec, Limits, NetnsIdentity,
    NewEndpoint, RestartPolicy, Scope, Start,
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
    /// By its restart policy, since somebody started it.
    pub restarts: u32,
    /// A person stopped it, and nobody has started it since.
    pub stopped_by_hand: bool,
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

    /// What is run, for a container of the lab runner.
    pub fn lab(&self) -> Option<&LabSpec> {
        match &self.kind {
            ContainerKind::Lab(spec) => Some(spec),
            ContainerKind::Adopted(_) | ContainerKind::Docker(_) => None,
        }
    }

    /// Whether its restart policy starts it again, since its process has ended by itself.
    pub fn wants_restart(&self) -> bool {
        let Phase::Exited { code, .. } = &self.phase else { return false };
        let policy = self.lab().map_or(RestartPolicy::No, |spec| spec.settings.restart);
        policy.wants(*code, self.restarts, self.stopped_by_hand)
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
        if let Some(holder) = self.namesake(&request.name).filter(|_| unique) {
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
            restarts: 0,
            stopped_by_hand: false,
        };
        self.check_shared_network(&container, request)?;
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
        (start, at_ms): (Start, u64),
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
        match start {
            Start::Asked => (container.restarts, container.stopped_by_hand) = (0, false),
            Start::Again => container.restarts = container.restarts.saturating_add(1),
        }
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

    pub(super) fn stop_by_hand(&mut self, id: &ContainerId) -> Result<Applied, Rejected> {
        let container = Container { stopped_by_hand: true, ..self.own_container(id)?.clone() };
        self.commit(container, Allocation::default());
        Ok(Applied::ContainerChanged { container: *id })
    }

    /// For one that has ended: a namespace that is served does not become another one.
    pub(super) fn note_namespace(
        &mut self,
        id: &ContainerId,
        namespace: &NetnsIdentity,
    ) -> Result<Applied, Rejected> {
        let mut container = self.own_container(id)?.clone();
        if container.is_live() {
            return Err(Rejected::ContainerRunning(container.name));
        }
        let ContainerKind::Adopted(spec) = &mut container.kind else {
            return Err(Rejected::NotAdopted(container.name));
        };
        spec.namespace.clone_from(namespace);
        self.commit(container, Allocation::default());
        Ok(Applied::ContainerChanged { container: *id })
    }

    pub(super) fn rename_container(&mut self, id: &ContainerId, name: &Name) -> Result<Applied, Rejected> {
        let container = self.own_container(id)?;
        if container.name == *name {
            return Err(Rejected::SameName(name.clone()));
        }
        if let Some(holder) = self.namesake(name) {
            return Err(Rejected::ContainerNameTaken { name: name.clone(), holder: holder.id });
        }
        let renamed = Container { name: name.clone(), ..container.clone() };
        self.commit(renamed, Allocation::default());
        Ok(Applied::ContainerChanged { container: *id })
    }

    pub(super) fn update_container(
        &mut self,
        id: &ContainerId,
        restart: RestartPolicy,
        limits: Limits,
    ) -> Result<Applied, Rejected> {
        let mut container = self.own_container(id)?.clone();
        let ContainerKind::Lab(spec) = &mut container.kind else {
            return Err(Rejected::NotOurs(container.name));
        };
        if spec.auto_remove && restart != RestartPolicy::No {
            return Err(Rejected::RestartOfAutoRemoved(container.name));
        }
        (spec.settings.restart, spec.settings.limits) = (restart, limits);
        self.commit(container, Allocation::default());
        Ok(Applied::ContainerChanged { container: *id })
    }

    /// The container that has a name; the names of Docker's containers are the engine's.
    fn namesake(&self, name: &Name) -> Option<&Container> {
        self.containers().find(|c| c.docker().is_none() && c.name == *name)
    }

    /// A container in the network of another one has none of its own, and that other one is a lab container.
    fn check_shared_network(&self, container: &Container, request: &CreateContainer) -> Result<(), Rejected> {
        let ContainerKind::Lab(spec) = &container.kind else { return Ok(()) };
        let Some(owner) = spec.network_of else { return Ok(()) };
        let owner = self.container(&owner).ok_or(Rejected::UnknownContainer(owner))?;
        match &owner.kind {
            ContainerKind::Lab(of) if of.network_of.is_none() && request.attachments.is_empty() => Ok(()),
            _ => Err(Rejected::NetworkNotShared(owner.name.clone())),
        }
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
        if container.lab().is_some_and(|spec| spec.network_of.is_some()) {
            return Err(Rejected::SharesNetwork(container.name));
        }
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

#[cfg(test)]
mod tests {
    use vswitch_proto::command::{Command, LabSpec, Limits, RestartPolicy, Settings, Start};

    use super::super::testing::{Lab, adopted, to};
    use super::*;

    fn with(settings: Settings) -> ContainerKind {
        ContainerKind::Lab(LabSpec { settings, ..LabSpec::default() })
    }

    fn ends(lab: &mut Lab, container: ContainerId, exit_code: i32) {
        lab.apply(Command::ContainerExited { container, exit_code, error: String::new() }).unwrap();
    }

    #[test]
    fn restarts_are_counted_until_somebody_starts_it() {
        let mut lab = Lab::new();
        let restart = RestartPolicy::OnFailure { retries_max: 2 };
        let c = lab.container("c", with(Settings { restart, ..Settings::default() }), vec![]).unwrap();
        lab.start(c).unwrap();
        for restarts in 1..=2 {
            ends(&mut lab, c, 1);
            assert!(lab.state.container(&c).unwrap().wants_restart());
            let again = Command::StartContainer { container: c, endpoints: vec![], start: Start::Again };
            lab.apply(again).unwrap();
            assert_eq!(lab.state.container(&c).unwrap().restarts, restarts);
        }
        ends(&mut lab, c, 1);
        assert!(!lab.state.container(&c).unwrap().wants_restart(), "twice is the bound");
        lab.start(c).unwrap();
        ends(&mut lab, c, 0);
        assert!(!lab.state.container(&c).unwrap().wants_restart(), "it did not fail");

        let (restart, limits) = (RestartPolicy::UnlessStopped, Limits::default());
        lab.apply(Command::UpdateContainer { container: c, restart, limits }).unwrap();
        assert!(lab.state.container(&c).unwrap().wants_restart());
        lab.apply(Command::StopByHand { container: c }).unwrap();
        assert!(!lab.state.container(&c).unwrap().wants_restart());
        lab.start(c).unwrap();
        ends(&mut lab, c, 0);
        assert!(lab.state.container(&c).unwrap().wants_restart(), "the start ends the stop");
    }

    #[test]
    fn an_adopted_container_has_another_namespace_only_after_its_end() {
        let mut lab = Lab::new();
        let bridge = lab.named("bridge");
        let a = lab.container("a", adopted(7), vec![to(bridge)]).unwrap();
        lab.start(a).unwrap();
        let namespace = NetnsIdentity { boot_id: 2, device: 4, inode: 8, cookie: None };
        let note = |container| Command::NoteNamespace { container, namespace: namespace.clone() };
        assert!(matches!(lab.apply(note(a)), Err(Rejected::ContainerRunning(_))));
        ends(&mut lab, a, 0);
        lab.apply(note(a)).unwrap();
        let read = State::from_bytes(&lab.state.to_bytes()).unwrap();
        let ContainerKind::Adopted(spec) = &read.container(&a).unwrap().kind else { panic!("it is adopted") };
        assert_eq!(spec.namespace, namespace);
        let other = lab.run("other", vec![to(bridge)]).unwrap();
        ends(&mut lab, other, 0);
        assert!(matches!(lab.apply(note(other)), Err(Rejected::NotAdopted(_))));
    }

    #[test]
    fn names_change_and_stay_unique() {
        let mut lab = Lab::new();
        let bridge = lab.named("bridge");
        let a = lab.run("a", vec![to(bridge)]).unwrap();
        lab.run("b", vec![to(bridge)]).unwrap();
        let rename =
            |container, name: &str| Command::RenameContainer { container, name: name.parse().unwrap() };
        assert!(matches!(lab.apply(rename(a, "b")), Err(Rejected::ContainerNameTaken { .. })));
        assert!(matches!(lab.apply(rename(a, "a")), Err(Rejected::SameName(_))));
        lab.apply(rename(a, "c")).unwrap();
        assert_eq!(lab.state.find_container("c").unwrap().id, a);
        lab.run("a", vec![]).unwrap();
    }

    #[test]
    fn who_shares_a_network_has_none_of_its_own() {
        let mut lab = Lab::new();
        let bridge = lab.named("bridge");
        let owner = lab.run("owner", vec![to(bridge)]).unwrap();
        let sharing = |of| ContainerKind::Lab(LabSpec { network_of: Some(of), ..LabSpec::default() });
        let refused = lab.container("d", sharing(owner), vec![to(bridge)]);
        assert!(matches!(refused, Err(Rejected::NetworkNotShared(_))));
        let guest = lab.container("guest", sharing(owner), vec![]).unwrap();
        assert!(matches!(lab.connect(guest, to(bridge)), Err(Rejected::SharesNetwork(_))));
        assert!(matches!(lab.container("e", sharing(guest), vec![]), Err(Rejected::NetworkNotShared(_))));
        let unknown = lab.container("f", sharing(ContainerId([9; 32])), vec![]);
        assert!(matches!(unknown, Err(Rejected::UnknownContainer(_))));
    }
}
