//! The address driver: pools and addresses of this node. Those of the cluster are leased, see [`bound`](super::bound).

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::command::{AddressHolder, DockerChange};
use vswitch_proto::docker::{self, Address, Answer, Pool};
use vswitch_proto::id::{NetworkId, RequestId};

use super::super::control::Control;
use super::super::handle::error;
use super::super::{host, random_bytes};
use super::{command, invalid};
use crate::state::Applied;

/// Where addresses come from, as the engine keeps it for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolId {
    Local(IpNet),
    /// A subnet of a network of the cluster.
    Cluster {
        network: NetworkId,
        ipv6: bool,
    },
}

impl std::fmt::Display for PoolId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PoolId::Local(subnet) => write!(f, "local/{subnet}"),
            PoolId::Cluster { network, ipv6 } => {
                write!(f, "cluster/{network}/{}", if *ipv6 { "6" } else { "4" })
            }
        }
    }
}

impl FromStr for PoolId {
    type Err = Error;

    fn from_str(text: &str) -> Result<PoolId, Error> {
        let parsed = match text.split_once('/') {
            Some(("local", subnet)) => subnet.parse().ok().map(PoolId::Local),
            Some(("cluster", rest)) => cluster_pool(rest),
            _ => None,
        };
        parsed.ok_or_else(|| invalid(format!("{text:?} is no pool of vswitch")))
    }
}

fn cluster_pool(text: &str) -> Option<PoolId> {
    let (network, family) = text.split_once('/')?;
    let ipv6 = match family {
        "4" => false,
        "6" => true,
        _ => return None,
    };
    Some(PoolId::Cluster { network: network.parse().ok()?, ipv6 })
}

impl Control {
    pub(super) async fn docker_request_pool(
        &mut self,
        request: docker::RequestPool,
        id: RequestId,
    ) -> Result<Answer, Error> {
        let mut occupied = host::routes().await?;
        let cluster = self.snapshot().shared;
        occupied.extend(cluster.networks().flat_map(|n| &n.pools).map(|pool| pool.subnet));
        let request = DockerChange::RequestPool {
            subnet: request.pool,
            ip_range: request.sub_pool,
            ipv6: request.v6,
            occupied,
            seed: random_bytes(),
        };
        match self.propose(id, command(request))? {
            Applied::PoolGiven { subnet } => {
                Ok(Answer::Pool(Pool { id: PoolId::Local(subnet).to_string(), subnet }))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// A network of the cluster stays: other hosts may use it.
    pub(super) fn docker_release_pool(&mut self, pool: &PoolId, id: RequestId) -> Result<Answer, Error> {
        if let PoolId::Local(subnet) = *pool
            && self.state().address_pool(&subnet).is_some()
        {
            self.propose(id, command(DockerChange::ReleasePool { subnet }))?;
        }
        Ok(Answer::NOTHING)
    }

    pub(super) fn docker_request_address(
        &mut self,
        request: &docker::RequestAddress,
        id: RequestId,
    ) -> Result<Answer, Error> {
        let subnet = local(&request.pool)?;
        let holder = match request.options.mac {
            _ if request.options.is_gateway() => AddressHolder::Gateway,
            Some(mac) => AddressHolder::Interface(mac),
            None => AddressHolder::Nobody,
        };
        let ask = DockerChange::RequestAddress { subnet, address: request.address, holder };
        match self.propose(id, command(ask))? {
            Applied::AddressGiven { address } => Ok(given(address, subnet)),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) fn docker_release_address(
        &mut self,
        request: &docker::ReleaseAddress,
        id: RequestId,
    ) -> Result<Answer, Error> {
        let subnet = local(&request.pool)?;
        let Some(address) = request.address else { return Ok(Answer::NOTHING) };
        if self.state().address_pool(&subnet).is_some() {
            self.propose(id, command(DockerChange::ReleaseAddress { subnet, address }))?;
        }
        Ok(Answer::NOTHING)
    }
}

/// The subnet of a pool whose requests are the loop's.
fn local(pool: &str) -> Result<IpNet, Error> {
    match pool.parse()? {
        PoolId::Local(subnet) => Ok(subnet),
        PoolId::Cluster { .. } => Err(invalid(format!("{pool} is a pool of the cluster"))),
    }
}

pub fn given(address: IpAddr, subnet: IpNet) -> Answer {
    let address = IpNet::new(address, subnet.prefix_len()).expect("an address is of its pool's family");
    Answer::Address(Address { address })
}

fn unexpected(applied: &Applied) -> Error {
    error(ErrorKind::Failed, format!("vswitchd is confused: a request for addresses made {applied:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_ids_round_trip() {
        let network = NetworkId([7; 32]);
        for text in [
            "local/172.18.0.0/16",
            "local/fd00::/64",
            &format!("cluster/{network}/4"),
            &format!("cluster/{network}/6"),
        ] {
            assert_eq!(text.parse::<PoolId>().unwrap().to_string(), text);
        }
        for text in ["", "local/", "local/172.18.0.0", "172.18.0.0/16", "cluster/7/4", "cluster//"] {
            assert!(text.parse::<PoolId>().unwrap_err().message.contains("is no pool of vswitch"), "{text}");
        }
    }
}
