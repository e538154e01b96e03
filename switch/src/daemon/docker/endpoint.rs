//! Endpoints: a container's place in a network, and its interface.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::command::{
    Addresses, Attachment, ContainerKind, CreateContainer, DockerChange, DockerSpec, NewEndpoint, Scope,
};
use vswitch_proto::docker::{self, Answer, EndpointCreated, Interface, InterfaceName, Joined};
use vswitch_proto::id::{ContainerId, EndpointId, Name, NetworkId, RequestId};

use super::super::control::Control;
use super::super::handle::error;
use super::super::random_request_id;
use super::bound::is_leased;
use super::census::tell_reclaimed;
use super::leftovers::Leftover;
use super::{command, container_of, interface, invalid, unknown_network};
use crate::state::{Container, Network, Wire};

/// Of a path, as the kernel has it.
const PATH_BYTES_MAX: usize = 4095;

impl Control {
    pub(super) async fn docker_create_endpoint(
        &self,
        request: &docker::CreateEndpoint,
        id: RequestId,
    ) -> Result<Answer, Error> {
        let container = container_of(&request.endpoint);
        let is_new = self.endpoint_in(&request.network, &request.endpoint)?.is_none();
        if is_new {
            let create = self.new_endpoint(request)?;
            self.take_from_forgotten(&create).await?;
            let undo = command(DockerChange::RemoveEndpoint { endpoint: container });
            self.commit(id, command(DockerChange::AddEndpoint(create)), Some(undo)).await?;
        }
        if let Err(refusal) = self.check_attached(&container).await {
            if is_new {
                self.take_back(command(DockerChange::RemoveEndpoint { endpoint: container })).await;
            }
            return Err(refusal);
        }
        let missing =
            self.missing(&request.interface, &container).ok_or_else(|| unknown_network(&request.network))?;
        Ok(Answer::EndpointCreated(EndpointCreated { interface: missing }))
    }

    /// An endpoint in a network of the cluster has an interface only while its lease is in effect.
    async fn check_attached(&self, endpoint: &ContainerId) -> Result<(), Error> {
        if self.is_attached(endpoint).await {
            return Ok(());
        }
        let message = format!(
            "endpoint {} has no interface, since its address is not leased in the cluster at present; see vswitchctl \
             cluster health, and start the container again",
            endpoint.short()
        );
        Err(error(ErrorKind::Conflict, message))
    }

    /// What is known of the engine's endpoint, if there is one, which the engine has to know the network of.
    fn endpoint_in(&self, network: &NetworkId, endpoint: &EndpointId) -> Result<Option<DockerSpec>, Error> {
        let state = self.state();
        let found = state.container(&container_of(endpoint)).and_then(Container::docker);
        match found {
            Some(spec) if spec.network != *network => {
                let (endpoint, theirs, ours) = (endpoint.short(), network.short(), spec.network.short());
                let message = format!("endpoint {endpoint} is of network {ours}, not of {theirs}");
                Err(error(ErrorKind::Conflict, message))
            }
            found => Ok(found.cloned()),
        }
    }

    fn new_endpoint(&self, request: &docker::CreateEndpoint) -> Result<CreateContainer, Error> {
        let unknown = || unknown_network(&request.network);
        let state = self.state();
        let network = state.docker_network(&request.network).ok_or_else(unknown)?;
        let Interface { ipv4, ipv6, mac } = request.interface;
        let attachment = Attachment {
            network: network.network,
            scope: network.scope,
            ipv4: ipv4.map(|net| v4(net.addr())).transpose()?,
            ipv6: ipv6.map(|net| v6(net.addr())).transpose()?,
            mac,
            aliases: Vec::new(),
        };
        let new = match network.scope {
            Scope::Local => NewEndpoint::from(request.endpoint),
            Scope::Cluster => self.reserved_endpoint(&attachment)?,
        };
        let spec = DockerSpec { network: request.network, sandbox: None, container: None };
        Ok(CreateContainer {
            id: container_of(&request.endpoint),
            name: provisional_name(&request.endpoint),
            kind: ContainerKind::Docker(spec),
            attachments: vec![(attachment, new)],
        })
    }

    /// An engine that crashed may never have told of the end of an endpoint, and its own address driver hands out the
    /// address again: nobody else hands out addresses here that this could be in use for. A pool of ours hands out none
    /// that is in use.
    async fn take_from_forgotten(&self, create: &CreateContainer) -> Result<(), Error> {
        let state = self.state();
        let is_ours = |wanted: &Attachment| {
            let network = state.network(&wanted.network);
            network.is_some_and(|n| n.pools.iter().any(|pool| state.address_pool(&pool.subnet).is_some()))
        };
        let asked = create.attachments.iter().map(|(attachment, _)| attachment);
        let asked = asked.filter(|&wanted| wanted.scope == Scope::Local && !is_ours(wanted));
        let forgotten: Vec<ContainerId> = asked
            .flat_map(|wanted| state.endpoints_in(&wanted.network).map(move |endpoint| (endpoint, wanted)))
            .filter(|(endpoint, wanted)| {
                let wire = endpoint.wire.as_ref();
                let same = |w: &Wire| {
                    w.ipv4.is_some_and(|ip| wanted.ipv4 == Some(ip))
                        || w.ipv6.is_some_and(|ip| wanted.ipv6 == Some(ip))
                };
                wire.is_some_and(same)
                    && state.container(&endpoint.container).is_some_and(|c| c.docker().is_some())
            })
            .map(|(endpoint, _)| endpoint.container)
            .collect();
        self.reclaim_endpoints(forgotten).await
    }

    pub(super) async fn reclaim_endpoints(&self, forgotten: Vec<ContainerId>) -> Result<(), Error> {
        for endpoint in forgotten {
            self.remove_endpoint(endpoint, random_request_id()).await?;
            tell_reclaimed(&self.shared.feed, Leftover::Endpoint(endpoint));
        }
        Ok(())
    }

    /// The one that the address driver reserved the address for.
    fn reserved_endpoint(&self, wanted: &Attachment) -> Result<NewEndpoint, Error> {
        let fits = |addresses: &Addresses| {
            wanted.ipv4.is_some()
                && addresses.ipv4 == wanted.ipv4
                && wanted.ipv6.is_none_or(|ip| addresses.ipv6 == Some(ip))
                && wanted.mac.is_none_or(|mac| addresses.mac == mac)
        };
        let seen = self.snapshot();
        let mut reserved = seen.local.reservations().filter(|r| r.network == wanted.network);
        let found =
            reserved.find(|reservation| fits(&reservation.addresses) && is_leased(&seen, reservation));
        let found = found.ok_or_else(|| {
            error(
                ErrorKind::Conflict,
                "its address is not reserved in the cluster; start the container again",
            )
        })?;
        Ok(NewEndpoint { id: found.endpoint, lease: Some(found.addresses) })
    }

    /// What an endpoint has and the engine does not know: giving it back what it gave is an error to it.
    fn missing(&self, given: &Interface, container: &ContainerId) -> Option<Interface> {
        let seen = self.snapshot();
        let endpoint = seen.local.endpoints_of(container).next()?;
        let network = seen.view().network(&endpoint.network)?;
        let wire = endpoint.wire.as_ref()?;
        let ipv4 = wire.ipv4.filter(|_| given.ipv4.is_none()).map(IpAddr::V4);
        // Where an engine's network of the cluster was let in without IPv6, by an earlier version, the engine asks for no
        // IPv6 address and takes none.
        let has_ipv6 = seen.local.network(&endpoint.network).is_some();
        let ipv6 = wire.ipv6.filter(|_| given.ipv6.is_none() && has_ipv6).map(IpAddr::V6);
        Some(Interface {
            ipv4: ipv4.and_then(|ip| with_prefix(network, ip)),
            ipv6: ipv6.and_then(|ip| with_prefix(network, ip)),
            mac: Some(wire.mac).filter(|_| given.mac.is_none()),
        })
    }

    pub(super) async fn docker_join(&self, request: docker::Join, id: RequestId) -> Result<Answer, Error> {
        let docker::Join { network, endpoint, sandbox } = request;
        if !Path::new(&sandbox).is_absolute() || sandbox.len() > PATH_BYTES_MAX || sandbox.contains('\0') {
            return Err(invalid("the sandbox key is no path of a network namespace"));
        }
        let container = container_of(&endpoint);
        let found = self.endpoint_in(&network, &endpoint)?;
        let unknown = || {
            error(
                ErrorKind::NotFound,
                format!("vswitch has no endpoint {}; start the container again", endpoint.short()),
            )
        };
        let joined = found.ok_or_else(unknown)?.sandbox.as_ref() == Some(&sandbox);
        self.check_attached(&container).await?;
        let seen = self.snapshot();
        let (docker, network) =
            seen.view().docker_network(&network).ok_or_else(|| unknown_network(&network))?;
        if !joined {
            let join = DockerChange::Join { endpoint: container, sandbox };
            self.commit(id, command(join), None).await?;
        }
        let internal = docker.internal || network.internal;
        let attachment = seen.local.container(&container).and_then(|c| c.attachment(&network.id));
        let has_ipv6 = docker.scope == Scope::Local || attachment.is_some_and(|a| a.ipv6.is_some());
        Ok(Answer::Joined(Joined {
            interface_name: InterfaceName { src_name: interface::name(&container), dst_prefix: "eth" },
            gateway: network.ipv4_gateway().filter(|_| !internal).map(IpAddr::V4),
            gateway_ipv6: network.ipv6_gateway().filter(|_| !internal && has_ipv6).map(IpAddr::V6),
            disable_gateway_service: internal,
        }))
    }

    /// Of one that is gone already there is nothing to do.
    pub(super) async fn docker_leave(
        &self,
        request: &docker::Endpoint,
        id: RequestId,
    ) -> Result<Answer, Error> {
        if self.endpoint_in(&request.network, &request.endpoint)?.is_some() {
            let endpoint = container_of(&request.endpoint);
            self.commit(id, command(DockerChange::Leave { endpoint }), None).await?;
        }
        Ok(Answer::NOTHING)
    }

    /// Of one that is gone already there is nothing to do.
    pub(super) async fn docker_delete_endpoint(
        &self,
        request: &docker::Endpoint,
        id: RequestId,
    ) -> Result<Answer, Error> {
        if self.endpoint_in(&request.network, &request.endpoint)?.is_some() {
            self.remove_endpoint(container_of(&request.endpoint), id).await?;
        }
        Ok(Answer::NOTHING)
    }

    /// With its interface, also one that was kept while its lease was not in effect.
    pub(super) async fn remove_endpoint(&self, endpoint: ContainerId, id: RequestId) -> Result<(), Error> {
        let is_attached = self.is_attached(&endpoint).await;
        let removed = self.commit(id, command(DockerChange::RemoveEndpoint { endpoint }), None).await;
        if !is_attached && self.state().container(&endpoint).is_none() {
            self.host.remove_kept(endpoint).await;
        }
        removed.map(|_| ())
    }
}

/// What a container is called until the engine tells whose the endpoint is.
pub(super) fn provisional_name(endpoint: &EndpointId) -> Name {
    format!("docker-{}", endpoint.short()).parse().expect("letters, digits and a dash make a name")
}

fn with_prefix(network: &Network, ip: IpAddr) -> Option<IpNet> {
    IpNet::new(ip, network.pool(ip.is_ipv6())?.subnet.prefix_len()).ok()
}

fn v4(ip: IpAddr) -> Result<std::net::Ipv4Addr, Error> {
    match ip {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(ip) => Err(invalid(format!("{ip} is no IPv4 address"))),
    }
}

fn v6(ip: IpAddr) -> Result<std::net::Ipv6Addr, Error> {
    match ip {
        IpAddr::V6(ip) => Ok(ip),
        IpAddr::V4(ip) => Err(invalid(format!("{ip} is no IPv6 address"))),
    }
}
