//! The address driver: pools and addresses of this node. Those of the cluster are leased, see [`bound`](super::bound).

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use vswitch_proto::api::{Error, ErrorKind};
use vswitch_proto::command::{AddressHolder, DockerChange};
use vswitch_proto::docker::{self, ADDRESS_SPACE, Address, Answer, NETWORK_OPTION, Pool};
use vswitch_proto::id::{Name, NetworkId, RequestId};

use super::super::control::Control;
use super::super::handle::error;
use super::super::{random_bytes, subnets};
use super::{command, invalid};
use crate::state::Applied;

/// What the names of all options of vswitch begin with.
const OPTIONS: &str = "vswitch.";

/// Where addresses come from, as the engine keeps it for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolId {
    Local(IpNet),
    /// A subnet of a network of the cluster, which may not be there so far.
    Cluster {
        network: Name,
        subnet: IpNet,
    },
    /// The same as an earlier version said it, of a network that is there. Engines keep what they were told.
    Former {
        network: NetworkId,
        ipv6: bool,
    },
}

impl std::fmt::Display for PoolId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PoolId::Local(subnet) => write!(f, "local/{subnet}"),
            PoolId::Cluster { network, subnet } => write!(f, "cluster/{network}/{subnet}"),
            PoolId::Former { network, ipv6 } => write!(f, "cluster/{network}/{}", if *ipv6 { 6 } else { 4 }),
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
    let (network, subnet) = text.split_once('/')?;
    if let ("4" | "6", Ok(network)) = (subnet, network.parse::<NetworkId>()) {
        return Some(PoolId::Former { network, ipv6: subnet == "6" });
    }
    Some(PoolId::Cluster { network: network.parse().ok()?, subnet: subnet.parse().ok()? })
}

/// What no engine asks for: another address driver's addresses, a subnet of the other family, an option that there is
/// not.
pub(super) fn check_request(request: &docker::RequestPool) -> Result<(), Error> {
    if request.address_space != ADDRESS_SPACE {
        return Err(invalid(format!(
            "there is no address space {:?}; that of vswitch is {ADDRESS_SPACE}",
            request.address_space
        )));
    }
    for prefix in [request.pool, request.sub_pool].into_iter().flatten() {
        if matches!(prefix, IpNet::V6(_)) != request.v6 {
            let family = if request.v6 { "IPv6" } else { "IPv4" };
            return Err(invalid(format!("{prefix} is no {family} subnet")));
        }
    }
    let is_unknown = |key: &&String| key.starts_with(OPTIONS) && *key != NETWORK_OPTION;
    match request.options.keys().find(is_unknown) {
        Some(key) => Err(invalid(format!("there is no --ipam-opt {key}; the only one is {NETWORK_OPTION}"))),
        None => Ok(()),
    }
}

/// The network of the cluster whose addresses are asked for, if that is what is asked for.
pub(super) fn asked_network(request: &docker::RequestPool) -> Result<Option<Name>, Error> {
    let name = request.options.get(NETWORK_OPTION).filter(|name| !name.is_empty());
    let parsed = name.map(|name| parse_name(name.as_str()));
    parsed.transpose()
}

/// Of the value of the option.
pub(super) fn parse_name(name: &str) -> Result<Name, Error> {
    name.parse().map_err(|e| invalid(format!("{NETWORK_OPTION}={name:?}: {e}")))
}

impl Control {
    pub(super) async fn docker_request_pool(
        &self,
        request: docker::RequestPool,
        id: RequestId,
    ) -> Result<Answer, Error> {
        if let Some(subnet) = request.pool {
            self.take_subnets_from_forgotten(&[subnet]).await?;
        }
        let (seen, mut occupied) = (self.snapshot(), subnets::routes().await);
        let chosen = match request.pool {
            Some(_) => None,
            None => subnets::for_engine(&self.shared.config, &seen, request.v6, &occupied)?,
        };
        occupied.extend(seen.shared.networks().flat_map(|n| &n.pools).map(|pool| pool.subnet));
        let request = DockerChange::RequestPool {
            subnet: request.pool.or(chosen),
            ip_range: request.sub_pool,
            ipv6: request.v6,
            occupied,
            seed: random_bytes(),
        };
        match self.propose(id, command(request)).await?.0 {
            Applied::PoolGiven { subnet } => {
                Ok(Answer::Pool(Pool { id: PoolId::Local(subnet).to_string(), subnet }))
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn docker_release_pool(
        &self,
        request: &docker::ReleasePool,
        id: RequestId,
    ) -> Result<Answer, Error> {
        let subnet = local(&request.pool)?;
        if self.state().address_pool(&subnet).is_some() {
            self.commit(id, command(DockerChange::ReleasePool { subnet }), None).await?;
        }
        Ok(Answer::NOTHING)
    }

    pub(super) async fn docker_request_address(
        &self,
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
        match self.propose(id, command(ask)).await?.0 {
            Applied::AddressGiven { address } => Ok(given(address, subnet)),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn docker_release_address(
        &self,
        request: &docker::ReleaseAddress,
        id: RequestId,
    ) -> Result<Answer, Error> {
        let subnet = local(&request.pool)?;
        let Some(address) = request.address else { return Ok(Answer::NOTHING) };
        if self.state().address_pool(&subnet).is_some() {
            self.commit(id, command(DockerChange::ReleaseAddress { subnet, address }), None).await?;
        }
        Ok(Answer::NOTHING)
    }
}

/// The subnet of a pool whose requests are the loop's.
fn local(pool: &str) -> Result<IpNet, Error> {
    match pool.parse()? {
        PoolId::Local(subnet) => Ok(subnet),
        PoolId::Cluster { .. } | PoolId::Former { .. } => {
            Err(invalid(format!("{pool} is a pool of the cluster")))
        }
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
    fn what_no_engine_asks_for_is_refused() {
        let asked = |body: &str| serde_json::from_str::<docker::RequestPool>(body).unwrap();
        let refused = |body: &str| check_request(&asked(body)).unwrap_err().message;
        assert!(refused("{}").contains("no address space"));
        assert!(refused(r#"{"AddressSpace":"LocalDefault"}"#).contains("no address space"));
        let six = refused(r#"{"AddressSpace":"vswitch","Pool":"10.9.0.0/24","V6":true}"#);
        assert_eq!(six, "10.9.0.0/24 is no IPv6 subnet");
        let four = refused(r#"{"AddressSpace":"vswitch","Pool":"10.9.0.0/24","SubPool":"fd00::/64"}"#);
        assert_eq!(four, "fd00::/64 is no IPv4 subnet");
        let option = refused(r#"{"AddressSpace":"vswitch","Options":{"vswitch.colour":"red"}}"#);
        assert!(option.contains("vswitch.colour") && option.contains("vswitch.network"), "{option}");
        let network = r#"{"AddressSpace":"vswitch","Options":{"vswitch.network":"NAME","other":"x"}}"#;
        let network = |name: &str| asked(&network.replace("NAME", name));
        assert!(check_request(&network("blue")).is_ok());
        assert_eq!(asked_network(&network("blue")).unwrap().unwrap().as_str(), "blue");
        assert_eq!(asked_network(&network("")).unwrap(), None);
        assert!(asked_network(&network("a/b")).unwrap_err().message.contains("a/b"));
    }

    #[test]
    fn pool_ids_round_trip() {
        for text in [
            "local/172.18.0.0/16",
            "local/fd00::/64",
            "cluster/blue/10.5.0.0/24",
            "cluster/blue.net_6/fd05::/64",
        ] {
            assert_eq!(text.parse::<PoolId>().unwrap().to_string(), text);
        }
        let network = NetworkId([0xab; 32]);
        for (text, ipv6) in [(format!("cluster/{network}/4"), false), (format!("cluster/{network}/6"), true)]
        {
            let former: PoolId = text.parse().unwrap();
            assert_eq!((former.to_string(), former), (text, PoolId::Former { network, ipv6 }));
        }
        for text in ["", "local/", "local/172.18.0.0", "172.18.0.0/16", "cluster/7/4", "cluster//10.5.0.0/24"]
        {
            assert!(text.parse::<PoolId>().unwrap_err().message.contains("is no pool of vswitch"), "{text}");
        }
    }
}
