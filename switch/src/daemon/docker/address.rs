//! The address driver: pools and addresses.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::command::{AddressHolder, DockerChange};
use vswitch_proto::docker::{self, Address, Answer, Pool};
use vswitch_proto::id::RequestId;

use super::super::control::Control;
use super::super::handle::error;
use super::super::random_bytes;
use super::{command, invalid};
use crate::state::Applied;

/// Where addresses come from, as the engine keeps it for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PoolId {
    Local(IpNet),
}

impl std::fmt::Display for PoolId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PoolId::Local(subnet) => write!(f, "local/{subnet}"),
        }
    }
}

impl FromStr for PoolId {
    type Err = Error;

    fn from_str(text: &str) -> Result<PoolId, Error> {
        let local = text.strip_prefix("local/").and_then(|subnet| subnet.parse().ok());
        local.map(PoolId::Local).ok_or_else(|| invalid(format!("{text:?} is no pool of vswitch")))
    }
}

impl Control {
    pub(super) async fn docker_request_pool(
        &mut self,
        request: docker::RequestPool,
        id: RequestId,
    ) -> Result<Answer, Error> {
        let docker::RequestPool { pool, sub_pool, options, v6 } = request;
        if let Some(name) = options.network {
            return Err(invalid(format!("there is no cluster to have a network {name}")));
        }
        let request = DockerChange::RequestPool {
            subnet: pool,
            ip_range: sub_pool,
            ipv6: v6,
            occupied: self.host.routes().await?,
            seed: random_bytes(),
        };
        match self.propose(id, command(request))? {
            Applied::PoolGiven { subnet } => {
                Ok(Answer::Pool(Pool { id: PoolId::Local(subnet).to_string(), subnet }))
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) fn docker_release_pool(&mut self, pool: &str, id: RequestId) -> Result<Answer, Error> {
        let PoolId::Local(subnet) = pool.parse()?;
        if self.state().address_pool(&subnet).is_some() {
            self.propose(id, command(DockerChange::ReleasePool { subnet }))?;
        }
        Ok(Answer::NOTHING)
    }

    pub(super) fn docker_request_address(
        &mut self,
        request: &docker::RequestAddress,
        id: RequestId,
    ) -> Result<Answer, Error> {
        let PoolId::Local(subnet) = request.pool.parse()?;
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
        let PoolId::Local(subnet) = request.pool.parse()?;
        let Some(address) = request.address else { return Ok(Answer::NOTHING) };
        if self.state().address_pool(&subnet).is_some() {
            self.propose(id, command(DockerChange::ReleaseAddress { subnet, address }))?;
        }
        Ok(Answer::NOTHING)
    }
}

fn given(address: IpAddr, subnet: IpNet) -> Answer {
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
        for text in ["local/172.18.0.0/16", "local/fd00::/64"] {
            assert_eq!(text.parse::<PoolId>().unwrap().to_string(), text);
        }
        for text in ["", "local/", "local/172.18.0.0", "172.18.0.0/16"] {
            assert!(text.parse::<PoolId>().unwrap_err().message.contains("is no pool of vswitch"), "{text}");
        }
    }
}
