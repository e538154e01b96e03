//! Networks of the cluster that an engine uses: the part of its calls that the cluster has to agree to.
//!
//! As all that waits for the cluster, this is done in the caller's task and not in the control loop. The network itself
//! is the address pool. Which network is meant is known from the pool's options, since pools are asked for before
//! networks: one that is absent then is [`planned`](super::planned). The engine's network is bound to it afterwards, in
//! the loop, without asking anybody.
//!
//! An address is leased when it is asked for, under an endpoint id drawn here, and noted as a
//! [`Reservation`] until it is released: the engine's own endpoint comes later and is given these. Requests for the same
//! interface are known by its MAC address, which is why the engine has to tell it.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{Instant, timeout_at};
use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::command::{Attachment, DockerChange, Reservation, Reserve, Scope, SharedChange};
use vswitch_proto::docker::{self, Answer, Call, NETWORK_OPTION, Pool};
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, Name, NetworkId};

use super::super::control::rejected;
use super::super::handle::{Done, Handle, error};
use super::super::overlay::Prepared;
use super::super::{Change, random_bytes, random_request_id, subnets};
use super::address::{PoolId, asked_network, check_request, given, parse_name};
use super::endpoint::provisional_name;
use super::invalid;
use super::planned::Planned;
use crate::cluster::service::ClusterError;
use crate::state::shared::Applied;
use crate::state::{Network, Rejected, Snapshot, default_gateway};

/// How long to wait for a network that another node has just made.
const ARRIVAL_PATIENCE: Duration = Duration::from_millis(500);

/// How long is waited for a released address, or a removed network, to be free everywhere.
const RELEASE_PATIENCE: Duration = Duration::from_millis(500);

impl Handle {
    /// What has to be asked of the cluster is given up at `until`.
    pub async fn docker(&self, call: Call, until: Instant) -> Result<Answer, Error> {
        match &call {
            Call::RequestPool(request) => {
                check_request(request)?;
                if let Some(name) = asked_network(request)? {
                    return self.request_shared_pool(&name, request, until).await;
                }
            }
            // A network that was made stays: other hosts may use it.
            Call::ReleasePool(request) => match request.pool.parse()? {
                PoolId::Local(_) => {}
                PoolId::Cluster { network, subnet } => {
                    self.shared().planned.forget(&network, &subnet);
                    return Ok(Answer::NOTHING);
                }
                PoolId::Former { .. } => return Ok(Answer::NOTHING),
            },
            Call::RequestAddress(request) => {
                if let Some((network, subnet)) = self.shared_pool(request.pool.parse()?)? {
                    return self.request_shared_address((&network, subnet), request, until).await;
                }
            }
            Call::ReleaseAddress(request) => {
                let seen = self.snapshot();
                let network = match request.pool.parse()? {
                    PoolId::Local(_) => return self.enqueue_call(call).await,
                    PoolId::Cluster { network, .. } => shared_network(&seen, &network).map(|n| n.id),
                    PoolId::Former { network, .. } => Some(network),
                };
                return self.release_shared_address(network, request.address, until).await;
            }
            Call::CreateNetwork(_) | Call::DeleteNetwork(_) => return self.bind_or_unbind(call, until).await,
            _ => {}
        }
        self.enqueue_call(call).await
    }

    /// The name of the network that a pool is of, and the subnet that it is; `None` for a pool of this node.
    fn shared_pool(&self, pool: PoolId) -> Result<Option<(Name, IpNet)>, Error> {
        let (id, ipv6) = match pool {
            PoolId::Local(_) => return Ok(None),
            PoolId::Cluster { network, subnet } => return Ok(Some((network, subnet))),
            PoolId::Former { network, ipv6 } => (network, ipv6),
        };
        let seen = self.snapshot();
        let network = seen.shared.network(&id);
        match network.and_then(|network| Some((network.name.clone(), network.pool(ipv6)?.subnet))) {
            None if self.is_out_of_view(&seen) => Err(late()),
            None => Err(gone()),
            found => Ok(found),
        }
    }

    /// Whether this node is in a cluster that it does not see so far.
    fn is_out_of_view(&self, seen: &Snapshot) -> bool {
        seen.node.is_none() && self.cluster().node().is_some()
    }

    /// Afterwards all nodes know of it, if the cluster answers.
    async fn bind_or_unbind(&self, call: Call, until: Instant) -> Result<Answer, Error> {
        let mut bound = None;
        let (is_shared, made) = match &call {
            Call::CreateNetwork(request) => match request.options.generic.get(NETWORK_OPTION) {
                Some(name) => {
                    let name = bound.insert(parse_name(name)?);
                    (true, self.make_shared(name, request, until).await?)
                }
                None => (false, None),
            },
            Call::DeleteNetwork(request) => {
                let network = self.state().docker_network(&request.network).cloned();
                (network.is_some_and(|network| network.scope == Scope::Cluster), None)
            }
            _ => (false, None),
        };
        let done = self.enqueue_call(call).await;
        if let (Ok(_), Some(name)) = (&done, &bound) {
            self.shared().planned.forget_network(name);
        }
        if let (Err(_), Some(network)) = (&done, made) {
            // Nobody else has it: it was made for this.
            let remove = self.ask(SharedChange::RemoveNetwork { network }, until).await;
            if let Err(error) = remove {
                tracing::warn!(network = network.short(), "it was made in vain and stays: {}", error.message);
            }
        } else if is_shared {
            self.settle_by(until).await;
        }
        done
    }

    async fn enqueue_call(&self, call: Call) -> Result<Answer, Error> {
        let done = self.enqueue(Change::Docker(call), random_request_id(), Prepared::default()).await;
        done.map(Done::docker)
    }

    /// What is not settled in time is later.
    async fn settle_by(&self, until: Instant) {
        _ = timeout_at(until.min(Instant::now() + RELEASE_PATIENCE), self.settle()).await;
    }

    pub(in super::super) async fn note(&self, change: DockerChange) -> Result<(), Error> {
        self.enqueue(Change::DockerState(change), random_request_id(), Prepared::default()).await.map(|_| ())
    }

    async fn request_shared_pool(
        &self,
        name: &Name,
        request: &docker::RequestPool,
        until: Instant,
    ) -> Result<Answer, Error> {
        let mut found = self.find_shared(name);
        if found.is_none() && self.cluster().node().is_some() {
            // What is not known here may have been made a moment ago.
            in_time(until, async { self.cluster().linearizable_read().await.map_err(|e| failed(&e)) })
                .await?;
            found = self.find_shared(name);
        }
        let subnet = match found {
            Some(seen) => {
                let network = shared_network(&seen, name).expect("it was just found");
                check_pool(network, request, &subnets::routes().await)?
            }
            None => self.plan_shared_pool(name, request).await?,
        };
        let id = PoolId::Cluster { network: name.clone(), subnet };
        Ok(Answer::Pool(Pool { id: id.to_string(), subnet }))
    }

    fn find_shared(&self, name: &Name) -> Option<Snapshot> {
        let seen = self.snapshot();
        shared_network(&seen, name).is_some().then_some(seen)
    }

    /// Of a network that the engine is about to make.
    async fn plan_shared_pool(&self, name: &Name, request: &docker::RequestPool) -> Result<IpNet, Error> {
        let seen = self.snapshot();
        let mut occupied = subnets::routes().await;
        occupied.extend(seen.local.networks().flat_map(|n| &n.pools).map(|pool| pool.subnet));
        let network = (request.v6, &NetworkId(random_bytes()));
        self.shared().planned.plan(name, request, |avoided| {
            occupied.extend(avoided);
            seen.shared.plan_subnet(request.pool, network, &occupied).map_err(|e| rejected(&e))
        })
    }

    /// Makes a network that is absent, if it was planned, by the first host that asks. One that another host makes at the
    /// same time is as good. Whether it is what was asked for is seen in the control loop.
    async fn make_shared(
        &self,
        name: &Name,
        request: &docker::CreateNetwork,
        until: Instant,
    ) -> Result<Option<NetworkId>, Error> {
        let is_there = self.state().docker_network(&request.network).is_some();
        if is_there || self.find_shared(name).is_some() {
            return Ok(None);
        }
        let Some(create) = self.shared().planned.network(name, request) else { return Ok(None) };
        let made = in_time(until, self.create_overlay(create, random_request_id())).await;
        if let Err(refusal) = made {
            let is_taken = refusal == rejected(&Rejected::NetworkNameTaken(name.clone()));
            let is_there = is_taken && self.arrives(name, until).await;
            return if is_there { Ok(None) } else { Err(refusal) };
        }
        let seen = self.snapshot();
        Ok(shared_network(&seen, name).map(|network| network.id))
    }

    async fn arrives(&self, name: &Name, until: Instant) -> bool {
        let mut changes = self.cluster().watch();
        let arrival = async {
            while self.find_shared(name).is_none() {
                changes.changed().await.ok()?;
            }
            Some(())
        };
        let arrived = timeout_at(until.min(Instant::now() + ARRIVAL_PATIENCE), arrival).await;
        matches!(arrived, Ok(Some(())))
    }

    async fn request_shared_address(
        &self,
        (name, subnet): (&Name, IpNet),
        request: &docker::RequestAddress,
        until: Instant,
    ) -> Result<Answer, Error> {
        let seen = self.snapshot();
        let network = shared_network(&seen, name);
        let found = network.and_then(|n| Some((n, n.pools.iter().find(|pool| pool.subnet == subnet)?)));
        let Some((network, pool)) = found else {
            if self.is_out_of_view(&seen) {
                return Err(late());
            }
            return planned_address(&self.shared().planned, (name, subnet), request);
        };
        let address = match request.options.mac {
            _ if request.options.is_gateway() => match request.address {
                Some(address) if address != pool.gateway => return Err(other_gateway(network, pool.gateway)),
                _ => pool.gateway,
            },
            // Not for what another network of this name was.
            Some(_) if !seen.local.docker_networks().any(|docker| docker.network == network.id) => {
                return Err(gone());
            }
            Some(mac) => self.lease_address(network, (mac, pool.is_ipv6()), request.address, until).await?,
            None => {
                let aux = request.address.filter(|ip| pool.aux_addresses.values().any(|aux| aux == ip));
                aux.ok_or_else(|| no_aux(network))?
            }
        };
        Ok(given(address, subnet))
    }

    /// What the interface has reserved, or a new lease for it.
    async fn lease_address(
        &self,
        network: &Network,
        (mac, ipv6): (MacAddr, bool),
        wanted: Option<IpAddr>,
        until: Instant,
    ) -> Result<IpAddr, Error> {
        // The same call again gets the same answer, also while the first one is carried out.
        let _turn = in_time(until, async { Ok(self.shared().planned.turn(mac).lock().await) }).await?;
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
            let seen = self.snapshot();
            let is_leased = is_leased(&seen, &before);
            match family(&before) {
                Some(address) if is_leased && wanted.is_none_or(|wanted| wanted == address) => {
                    return Ok(address);
                }
                // The address of the other family stays what it is.
                _ if is_leased => {
                    (attachment.ipv4, attachment.ipv6) = (before.addresses.ipv4, before.addresses.ipv6);
                }
                // Somebody else may have it by now.
                _ => {}
            }
            self.give_back(before.endpoint, until).await?;
        }
        match wanted {
            Some(IpAddr::V4(ip)) => attachment.ipv4 = Some(ip),
            Some(IpAddr::V6(ip)) => attachment.ipv6 = Some(ip),
            None => {}
        }
        let reservation = self.reserve(attachment, until).await?;
        family(&reservation).ok_or_else(gone)
    }

    fn reservation(&self, network: &NetworkId, is: impl Fn(&Reservation) -> bool) -> Option<Reservation> {
        self.state().reservations().find(|r| r.network == *network && is(r)).copied()
    }

    async fn reserve(&self, attachment: Attachment, until: Instant) -> Result<Reservation, Error> {
        let (endpoint, network) = (EndpointId(random_bytes()), attachment.network);
        let _held = self.shared().leases.hold(endpoint);
        let request = Reserve {
            endpoint,
            // Which container it is nobody knows so far.
            container: ContainerId(endpoint.0),
            container_name: provisional_name(&endpoint),
            attachment,
        };
        match self.ask(SharedChange::Reserve(request), until).await? {
            Applied::Reserved { endpoint, addresses } => {
                let reservation = Reservation { endpoint, network, addresses };
                self.note(DockerChange::Reserve(reservation)).await?;
                Ok(reservation)
            }
            _ => Err(failed(&ClusterError::Unexpected)),
        }
    }

    async fn give_back(&self, endpoint: EndpointId, until: Instant) -> Result<(), Error> {
        self.note(DockerChange::Unreserve { endpoint }).await?;
        self.ask(SharedChange::Release { endpoints: vec![endpoint] }, until).await.map(|_| ())
    }

    async fn ask(&self, change: SharedChange, until: Instant) -> Result<Applied, Error> {
        let asked = self.cluster().propose(change, random_request_id());
        in_time(until, async { asked.await.map_err(|e| failed(&e)) }).await
    }

    /// Without the cluster the address is free here, and there as soon as it answers again. Where the
    /// network is not in view, its reservation is known by the address, among those of networks that are not.
    async fn release_shared_address(
        &self,
        network: Option<NetworkId>,
        address: Option<IpAddr>,
        until: Instant,
    ) -> Result<Answer, Error> {
        let seen = self.snapshot();
        let is_it = |reservation: &&Reservation| {
            let other = reservation.network;
            network.map_or_else(|| seen.shared.network(&other).is_none(), |network| network == other)
                && reservation.addresses.ips().any(|ip| Some(ip) == address)
        };
        if let Some(endpoint) = seen.local.reservations().find(is_it).map(|found| found.endpoint) {
            self.note(DockerChange::Unreserve { endpoint }).await?;
            self.settle_by(until).await;
        }
        Ok(Answer::NOTHING)
    }
}

pub(super) fn shared_network<'a>(seen: &'a Snapshot, name: &Name) -> Option<&'a Network> {
    seen.shared.networks().find(|network| network.name == *name)
}

/// Whether what was reserved is leased to this node, with these addresses.
pub(super) fn is_leased(seen: &Snapshot, reservation: &Reservation) -> bool {
    let lease = seen.shared.lease(&reservation.endpoint);
    lease.is_some_and(|lease| Some(lease.node) == seen.node && lease.addresses == reservation.addresses)
}

/// What the cluster answers by then.
async fn in_time<T>(until: Instant, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout_at(until, asked).await.unwrap_or_else(|_| Err(late()))
}

/// Of a network that the engine is about to make: it is told what it asks for, which is checked when the network is made.
fn planned_address(
    planned: &Planned,
    (name, subnet): (&Name, IpNet),
    request: &docker::RequestAddress,
) -> Result<Answer, Error> {
    if !planned.has(name, &subnet) {
        return Err(gone());
    }
    let is_gateway = request.options.is_gateway();
    let address = match request.address {
        Some(address) if !subnet.contains(&address) => {
            return Err(invalid(format!("{address} is not in the subnet {subnet}")));
        }
        Some(address) if is_gateway || request.options.mac.is_none() => address,
        None if is_gateway => default_gateway(subnet),
        _ => return Err(gone()),
    };
    Ok(given(address, subnet))
}

/// The subnet that a pool is, if it is what was asked for. An engine that did not ask for one and sees it overlap with
/// one of the host's `routes` asks for the next, and again, as long as it is given one.
fn check_pool(network: &Network, request: &docker::RequestPool, routes: &[IpNet]) -> Result<IpNet, Error> {
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
    let subnet = pool.subnet;
    if let Some(route) =
        routes.iter().find(|route| overlap(**route, subnet)).filter(|_| request.pool.is_none())
    {
        return Err(error(
            ErrorKind::Conflict,
            format!(
                "the subnet {subnet} of network {} overlaps with the route {route} of this host; add --subnet {subnet} to \
                 have it here all the same",
                network.name
            ),
        ));
    }
    Ok(subnet)
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
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
    invalid(format!("network {name} has no IPv6 subnet; leave out --ipv6, or make it anew with --ipv6"))
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
        "auxiliary addresses of network {} are set when it is made; leave out --aux-address, or make it anew",
        network.name
    ))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_the_cluster_is_asked_has_one_deadline() {
        let start = Instant::now();
        let until = start + Duration::from_secs(1);
        tokio::time::sleep(Duration::from_millis(600)).await;
        for _ in 0..2 {
            let late = in_time::<()>(until, pending()).await.unwrap_err();
            assert_eq!((late.kind, start.elapsed().as_secs()), (ErrorKind::NoQuorum, 1));
            assert!(late.message.contains("cluster health"), "{}", late.message);
        }
    }

    #[test]
    fn a_planned_network_gives_what_the_engine_asks_for() {
        let planned = Planned::default();
        let (name, subnet): (Name, IpNet) = ("blue".parse().unwrap(), "10.5.0.0/24".parse().unwrap());
        let ask = |planned: &Planned, address: &str, options: &str| {
            let body = format!(r#"{{"PoolID":"p","Address":"{address}","Options":{options}}}"#);
            planned_address(planned, (&name, subnet), &serde_json::from_str(&body).unwrap())
        };
        let gateway = r#"{"RequestAddressType":"com.docker.network.gateway"}"#;
        assert!(ask(&planned, "", gateway).is_err(), "nobody has asked for the pool");
        let pool = serde_json::from_str(r#"{"AddressSpace":"vswitch","Pool":"10.5.0.0/24"}"#).unwrap();
        planned.plan(&name, &pool, |_| Ok(subnet)).unwrap();
        let given_as = |address: &str| Ok(given(address.parse().unwrap(), subnet));
        assert_eq!(ask(&planned, "", gateway), given_as("10.5.0.1"));
        assert_eq!(ask(&planned, "10.5.0.254", gateway), given_as("10.5.0.254"));
        assert_eq!(ask(&planned, "10.5.0.9", "null"), given_as("10.5.0.9"));
        let interface = r#"{"com.docker.network.endpoint.macaddress":"02:42:0a:00:00:09"}"#;
        for (address, options) in [
            ("", "null"),
            ("", interface),
            ("10.5.0.9", interface),
            ("10.6.0.9", gateway),
            ("fd00::1", gateway),
        ] {
            assert!(ask(&planned, address, options).is_err(), "{address} {options}");
        }
    }
}
