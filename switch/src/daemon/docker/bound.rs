//! Networks of the cluster that an engine uses: the part of its calls that the cluster has to agree to.
//!
//! As all that waits for the cluster, this is done in the caller's task and not in the control loop. The network itself
//! is the address pool. Which network is meant is known from the pool's options, since pools are asked for before
//! networks; the engine's network is bound to it afterwards, in the loop, without asking anybody.
//!
//! An address is leased when it is asked for, under an endpoint id drawn here, and noted as a
//! [`Reservation`] until it is released: the engine's own endpoint comes later and is given these. Requests for the same
//! interface are known by its MAC address, which is why the engine has to tell it.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::timeout;
use vswitch_proto::api::{self, Error, ErrorKind, NetworkCreate};
use vswitch_proto::command::{Attachment, DockerChange, Reservation, Reserve, Scope, SharedChange};
use vswitch_proto::docker::{self, Answer, Call, NETWORK_OPTION, Pool};
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, Name, NetworkId, RequestId};

use super::super::handle::{Done, Handle, error};
use super::super::overlay::Prepared;
use super::super::{Change, random_bytes, random_request_id};
use super::address::{PoolId, asked_network, check_request, given};
use super::endpoint::provisional_name;
use super::invalid;
use crate::cluster::service::ClusterError;
use crate::state::shared::Applied;
use crate::state::{Network, Snapshot};

/// Of a call that has to be answered within two seconds.
const CLUSTER_PATIENCE: Duration = Duration::from_millis(1500);

/// How long to wait for a network that another node has just made.
const ARRIVAL_PATIENCE: Duration = Duration::from_millis(500);

/// How long is waited for a released address, or a removed network, to be free everywhere.
const RELEASE_PATIENCE: Duration = Duration::from_millis(500);

impl Handle {
    pub(in super::super) async fn docker(&self, call: Call, id: RequestId) -> Result<Done, Error> {
        let answer = match &call {
            Call::RequestPool(request) => {
                check_request(request)?;
                match asked_network(request)? {
                    Some(name) => self.request_shared_pool(&name, request).await?,
                    None => return self.enqueue_call(call, id).await,
                }
            }
            Call::RequestAddress(request) => match request.pool.parse()? {
                PoolId::Cluster { network, ipv6 } => {
                    self.request_shared_address((network, ipv6), request).await?
                }
                PoolId::Local(_) => return self.enqueue_call(call, id).await,
            },
            Call::ReleaseAddress(request) => match request.pool.parse()? {
                PoolId::Cluster { network, .. } => self.release_shared_address(&network, request).await?,
                PoolId::Local(_) => return self.enqueue_call(call, id).await,
            },
            Call::CreateNetwork(_) | Call::DeleteNetwork(_) => return self.bind_or_unbind(call, id).await,
            _ => return self.enqueue_call(call, id).await,
        };
        Ok(Done::Docker(answer))
    }

    /// Afterwards all nodes know of it, if the cluster answers.
    async fn bind_or_unbind(&self, call: Call, id: RequestId) -> Result<Done, Error> {
        let is_shared = match &call {
            Call::CreateNetwork(request) => request.options.generic.contains_key(NETWORK_OPTION),
            Call::DeleteNetwork(request) => {
                self.state().docker_network(&request.network).is_some_and(|n| n.scope == Scope::Cluster)
            }
            _ => false,
        };
        let done = self.enqueue_call(call, id).await?;
        if is_shared {
            // What is not settled in time is later.
            _ = timeout(RELEASE_PATIENCE, self.settle()).await;
        }
        Ok(done)
    }

    async fn enqueue_call(&self, call: Call, id: RequestId) -> Result<Done, Error> {
        self.enqueue(Change::Docker(call), id, Prepared::default()).await
    }

    pub(in super::super) async fn note(&self, change: DockerChange) -> Result<(), Error> {
        self.enqueue(Change::DockerState(change), random_request_id(), Prepared::default()).await.map(|_| ())
    }

    async fn request_shared_pool(&self, name: &Name, request: &docker::RequestPool) -> Result<Answer, Error> {
        let seen = match self.find_shared(name) {
            Some(seen) => seen,
            None => self.make_shared(name, request).await?,
        };
        let network = shared_network(&seen, name).expect("it was just found");
        let subnet = check_pool(network, request)?;
        let id = PoolId::Cluster { network: network.id, ipv6: request.v6 };
        Ok(Answer::Pool(Pool { id: id.to_string(), subnet }))
    }

    fn find_shared(&self, name: &Name) -> Option<Snapshot> {
        let seen = self.snapshot();
        shared_network(&seen, name).is_some().then_some(seen)
    }

    /// Made by the first host that asks. One that another host makes at the same time is as good.
    async fn make_shared(&self, name: &Name, request: &docker::RequestPool) -> Result<Snapshot, Error> {
        if request.v6 {
            return Err(no_ipv6(name));
        }
        let (subnet, ip_range) = (request.pool, request.sub_pool);
        let pool = subnet.map(|subnet| api::Pool {
            subnet,
            gateway: None,
            ip_range,
            aux_addresses: Default::default(),
        });
        let create = NetworkCreate {
            name: name.clone(),
            driver: Some("overlay".into()),
            pools: pool.into_iter().collect(),
            internal: false,
            ipv6: false,
            options: Default::default(),
            labels: Default::default(),
        };
        let made = timeout(CLUSTER_PATIENCE, self.create_overlay(create, random_request_id())).await;
        let made = made.unwrap_or_else(|_| Err(late()));
        let mut changes = self.cluster().watch();
        let arrives = async {
            loop {
                if let Some(seen) = self.find_shared(name) {
                    return Some(seen);
                }
                changes.changed().await.ok()?;
            }
        };
        let arrived = timeout(ARRIVAL_PATIENCE, arrives).await.ok().flatten();
        match (arrived, made) {
            (Some(seen), _) => Ok(seen),
            (None, Err(refusal)) => Err(refusal),
            (None, Ok(_)) => Err(late()),
        }
    }

    async fn request_shared_address(
        &self,
        (id, ipv6): (NetworkId, bool),
        request: &docker::RequestAddress,
    ) -> Result<Answer, Error> {
        let seen = self.snapshot();
        let network = seen.shared.network(&id).ok_or_else(gone)?;
        let pool = network.pool(ipv6).ok_or_else(gone)?;
        let address = match request.options.mac {
            _ if request.options.is_gateway() => match request.address {
                Some(address) if address != pool.gateway => return Err(other_gateway(network, pool.gateway)),
                _ => pool.gateway,
            },
            Some(mac) => self.lease_address(network, (mac, ipv6), request.address).await?,
            None => {
                let aux = request.address.filter(|ip| pool.aux_addresses.values().any(|aux| aux == ip));
                aux.ok_or_else(|| no_aux(network))?
            }
        };
        Ok(given(address, pool.subnet))
    }

    /// What the interface has reserved, or a new lease for it.
    async fn lease_address(
        &self,
        network: &Network,
        (mac, ipv6): (MacAddr, bool),
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr, Error> {
        let family = |reservation: &Reservation| {
            let addresses = reservation.addresses;
            if ipv6 { addresses.ipv6.map(IpAddr::V6) } else { addresses.ipv4.map(IpAddr::V4) }
        };
        let mut attachment = Attachment {
            network: network.id,
            scope: Scope::Cluster,
            ipv4: None,
            ipv6: None,
            mac: Some(mac),
            aliases: Vec::new(),
        };
        let before = self.reservation(&network.id, |r| r.addresses.mac == mac);
        if let Some(before) = before {
            // Once an endpoint uses it, whoever asks is another one with the same MAC address.
            if self.state().endpoint(&before.endpoint).is_some() {
                return Err(mac_in_use(network, mac));
            }
            match family(&before) {
                Some(address) if wanted.is_none_or(|wanted| wanted == address) => return Ok(address),
                _ => {}
            }
            // The address of the other family stays what it is.
            (attachment.ipv4, attachment.ipv6) = (before.addresses.ipv4, before.addresses.ipv6);
            self.give_back(before.endpoint).await?;
        }
        match wanted {
            Some(IpAddr::V4(ip)) => attachment.ipv4 = Some(ip),
            Some(IpAddr::V6(ip)) => attachment.ipv6 = Some(ip),
            None => {}
        }
        let reservation = self.reserve(attachment).await?;
        family(&reservation).ok_or_else(gone)
    }

    fn reservation(&self, network: &NetworkId, is: impl Fn(&Reservation) -> bool) -> Option<Reservation> {
        self.state().reservations().find(|r| r.network == *network && is(r)).copied()
    }

    async fn reserve(&self, attachment: Attachment) -> Result<Reservation, Error> {
        let (endpoint, network) = (EndpointId(random_bytes()), attachment.network);
        let _held = self.shared().leases.hold(endpoint);
        let request = Reserve {
            endpoint,
            // Which container it is nobody knows so far.
            container: ContainerId(endpoint.0),
            container_name: provisional_name(&endpoint),
            attachment,
        };
        match self.ask(SharedChange::Reserve(request)).await? {
            Applied::Reserved { endpoint, addresses } => {
                let reservation = Reservation { endpoint, network, addresses };
                self.note(DockerChange::Reserve(reservation)).await?;
                Ok(reservation)
            }
            _ => Err(failed(&ClusterError::Unexpected)),
        }
    }

    async fn give_back(&self, endpoint: EndpointId) -> Result<(), Error> {
        self.note(DockerChange::Unreserve { endpoint }).await?;
        self.ask(SharedChange::Release { endpoints: vec![endpoint] }).await.map(|_| ())
    }

    async fn ask(&self, change: SharedChange) -> Result<Applied, Error> {
        let asked = self.cluster().propose(change, random_request_id());
        match timeout(CLUSTER_PATIENCE, asked).await {
            Ok(answer) => answer.map_err(|e| failed(&e)),
            Err(_) => Err(late()),
        }
    }

    /// Without the cluster the address is free here, and there as soon as it answers again.
    async fn release_shared_address(
        &self,
        network: &NetworkId,
        request: &docker::ReleaseAddress,
    ) -> Result<Answer, Error> {
        let Some(address) = request.address else { return Ok(Answer::NOTHING) };
        let found = self.reservation(network, |r| r.addresses.ips().any(|ip| ip == address));
        if let Some(Reservation { endpoint, .. }) = found {
            self.note(DockerChange::Unreserve { endpoint }).await?;
            // What is not settled in time is later.
            _ = timeout(RELEASE_PATIENCE, self.settle()).await;
        }
        Ok(Answer::NOTHING)
    }
}

pub(super) fn shared_network<'a>(seen: &'a Snapshot, name: &Name) -> Option<&'a Network> {
    seen.shared.networks().find(|network| network.name == *name)
}

/// The subnet that a pool is, if it is what was asked for.
fn check_pool(network: &Network, request: &docker::RequestPool) -> Result<IpNet, Error> {
    let pool = network.pool(request.v6).ok_or_else(|| no_ipv6(&network.name))?;
    if request.pool.is_some_and(|asked| asked != pool.subnet) {
        let message = format!(
            "network {} has the subnet {}; leave out --subnet, or give that one",
            network.name, pool.subnet
        );
        return Err(error(ErrorKind::Conflict, message));
    }
    if request.sub_pool.is_some() && request.sub_pool != pool.ip_range {
        let range = pool.ip_range.unwrap_or(pool.subnet);
        let message = format!(
            "network {} hands out addresses of {range}; leave out --ip-range, or give that one",
            network.name
        );
        return Err(error(ErrorKind::Conflict, message));
    }
    Ok(pool.subnet)
}

fn failed(failed: &ClusterError) -> Error {
    error(failed.kind(), failed.to_string())
}

fn late() -> Error {
    error(ErrorKind::NoQuorum, "the cluster does not answer in time: see vswitchctl cluster health")
}

fn gone() -> Error {
    error(
        ErrorKind::NotFound,
        "its network of the cluster is gone; remove the Docker network and create it again",
    )
}

fn no_ipv6(name: &Name) -> Error {
    invalid(format!(
        "network {name} has no IPv6 subnet; leave out --ipv6, or make it first: vswitchctl network create -d overlay \
         --ipv6 {name}"
    ))
}

fn other_gateway(network: &Network, gateway: IpAddr) -> Error {
    invalid(format!(
        "network {} has the gateway {gateway}; leave out --gateway, or give that one",
        network.name
    ))
}

fn mac_in_use(network: &Network, mac: MacAddr) -> Error {
    let message =
        format!("MAC address {mac} is already in use in network {}; choose another one", network.name);
    error(ErrorKind::Conflict, message)
}

fn no_aux(network: &Network) -> Error {
    invalid(format!(
        "auxiliary addresses of network {0} are set when it is made: vswitchctl network create -d overlay \
         --aux-address NAME=IP {0}",
        network.name
    ))
}
