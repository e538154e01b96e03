//! What the tests of this crate build states with.

use vswitch_proto::command::{
    AdoptSpec, Attachment, Command, ContainerKind, CreateContainer, CreateNetwork, Driver, Envelope, LabSpec,
    NetnsIdentity, NetnsSource, NewEndpoint, PoolRequest, Scope, Start,
};
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId, RequestId};

use super::{Applied, Rejected, State, Wire};

/// A state and what is drawn for it: ids count up, so every run is the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lab {
    pub(crate) state: State,
    drawn: u64,
}

pub(crate) fn id32(n: u64) -> [u8; 32] {
    let mut id = [0; 32];
    // Spread, so that neither order nor prefixes follow from the order of creation.
    id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id[24..].copy_from_slice(&n.to_be_bytes());
    id
}

pub(crate) fn bridge(id: NetworkId, name: &str) -> CreateNetwork {
    CreateNetwork {
        id,
        name: name.parse().unwrap(),
        driver: Driver::Bridge,
        pools: Vec::new(),
        internal: false,
        ipv6: false,
        options: Default::default(),
        labels: Default::default(),
        occupied: Vec::new(),
        builtin: false,
    }
}

pub(crate) fn pool(subnet: &str) -> PoolRequest {
    let subnet = subnet.parse().unwrap();
    PoolRequest { subnet, gateway: None, ip_range: None, aux_addresses: Default::default() }
}

pub(crate) fn to(network: NetworkId) -> Attachment {
    Attachment { network, scope: Scope::Local, ipv4: None, ipv6: None, mac: None, aliases: Vec::new() }
}

pub(crate) fn adopted(pid: u32) -> ContainerKind {
    let source = NetnsSource::Pid { pid, start_ticks: 1 };
    let namespace = NetnsIdentity { boot_id: 1, device: 4, inode: pid.into(), cookie: Some(pid.into()) };
    ContainerKind::Adopted(AdoptSpec { source, namespace, labels: Default::default() })
}

impl Lab {
    /// With the default networks.
    pub(crate) fn new() -> Lab {
        let mut lab = Lab::default();
        for (name, driver) in [("bridge", Driver::Bridge), ("host", Driver::Host), ("none", Driver::None)] {
            let request = CreateNetwork { driver, builtin: true, ..bridge(lab.network_id(), name) };
            lab.apply(Command::CreateNetwork(request)).unwrap();
        }
        lab
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    pub(crate) fn network_id(&mut self) -> NetworkId {
        NetworkId(id32(self.draw()))
    }

    pub(crate) fn endpoint_id(&mut self) -> NewEndpoint {
        EndpointId(id32(self.draw())).into()
    }

    pub(crate) fn envelope(&mut self, command: Command) -> Envelope {
        let n = self.draw();
        Envelope { request_id: RequestId(u128::from(n).to_be_bytes()), at_ms: 1_000 + n, command }
    }

    pub(crate) fn apply(&mut self, command: Command) -> Result<Applied, Rejected> {
        let envelope = self.envelope(command);
        self.state.apply(&envelope)
    }

    pub(crate) fn named(&self, name: &str) -> NetworkId {
        self.state.find_network(name).unwrap().id
    }

    pub(crate) fn create(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut CreateNetwork),
    ) -> Result<NetworkId, Rejected> {
        let mut request = bridge(self.network_id(), name);
        change(&mut request);
        let id = request.id;
        self.apply(Command::CreateNetwork(request)).map(|_| id)
    }

    pub(crate) fn subnet(&mut self, name: &str, subnet: &str) -> Result<NetworkId, Rejected> {
        self.create(name, |request| request.pools.push(pool(subnet)))
    }

    pub(crate) fn container(
        &mut self,
        name: &str,
        kind: ContainerKind,
        attachments: Vec<Attachment>,
    ) -> Result<ContainerId, Rejected> {
        let id = ContainerId(id32(self.draw()));
        self.container_with_id(id, name, kind, attachments)
    }

    pub(crate) fn container_with_id(
        &mut self,
        id: ContainerId,
        name: &str,
        kind: ContainerKind,
        attachments: Vec<Attachment>,
    ) -> Result<ContainerId, Rejected> {
        let attachments = attachments.into_iter().map(|a| (a, self.endpoint_id())).collect();
        let request = CreateContainer { id, name: name.parse().unwrap(), kind, attachments };
        self.apply(Command::CreateContainer(request)).map(|_| id)
    }

    /// A lab container, running.
    pub(crate) fn run(&mut self, name: &str, attachments: Vec<Attachment>) -> Result<ContainerId, Rejected> {
        let id = self.container(name, ContainerKind::Lab(LabSpec::default()), attachments)?;
        self.start(id).map(|_| id)
    }

    pub(crate) fn start(&mut self, container: ContainerId) -> Result<Applied, Rejected> {
        let count = self.state.container(&container).map_or(0, |c| c.attachments.len());
        let endpoints = (0..count).map(|_| self.endpoint_id()).collect();
        self.apply(Command::StartContainer { container, endpoints, start: Start::Asked })
    }

    pub(crate) fn exit(&mut self, container: ContainerId) -> Result<Applied, Rejected> {
        self.apply(Command::ContainerExited { container, exit_code: 0, error: String::new() })
    }

    pub(crate) fn connect(
        &mut self,
        container: ContainerId,
        attachment: Attachment,
    ) -> Result<Applied, Rejected> {
        let endpoint = self.endpoint_id();
        self.apply(Command::Connect { container, attachment, endpoint })
    }

    pub(crate) fn disconnect(
        &mut self,
        container: ContainerId,
        network: NetworkId,
    ) -> Result<Applied, Rejected> {
        self.apply(Command::Disconnect { container, network })
    }

    pub(crate) fn wire(&self, container: ContainerId, network: NetworkId) -> Wire {
        self.state.endpoint_at(&container, &network).unwrap().wire.clone().unwrap()
    }

    pub(crate) fn ipv4(&self, container: ContainerId, network: NetworkId) -> String {
        self.wire(container, network).ipv4.unwrap().to_string()
    }
}
