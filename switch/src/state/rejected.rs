//! Why a command was refused.
//!
//! One variant per reason, one line per message: what was wrong and what to do. The variants are part of the
//! replicated state (a retried request is answered as the first time), so new ones go to the end.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vswitch_proto::api::ErrorKind;
use vswitch_proto::command::Driver;
use vswitch_proto::id::{ContainerId, EndpointId, MacAddr, Name, NetworkId, NodeId, Vni};

use super::docker::POOLS_MAX;
use super::shared::{BINDINGS_MAX, LEASES_MAX, NODES_MAX, VERSION_BYTES_MAX, VOTERS_MAX};
use super::{
    ALIASES_MAX, AUX_ADDRESSES_MAX, CONTAINERS_MAX, ENDPOINTS_MAX, INTERFACES_MAX, IPV6_MTU_MIN, MTU_MIN,
    MTU_OPTION, NETWORKS_MAX, PORT_SECURITY_OPTION, REMOTES_MAX, SERVERS_OPTION, VXLAN_ID_OPTION,
    VXLAN_INNER_VLAN_OPTION, VXLAN_REMOTE_OPTION,
};

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Rejected {
    #[error("network {} not found: it may have been removed just now, see `vswitchctl network ls`", .0.short())]
    UnknownNetwork(NetworkId),
    #[error("no such container: {}: it may have been removed just now, see `vswitchctl ps -a`", .0.short())]
    UnknownContainer(ContainerId),
    #[error("network with name {0} already exists: choose another name or remove it first")]
    NetworkNameTaken(Name),
    #[error(
        "the container name {name} is already in use by container {}: remove or rename that container, or choose \
         another name", holder.short()
    )]
    ContainerNameTaken { name: Name, holder: ContainerId },
    #[error("the id {0} is taken already: draw another one")]
    IdTaken(String),
    #[error("{given} endpoint ids for {needed} attachments of container {container}: give one for each")]
    EndpointIds { container: Name, needed: usize, given: usize },

    #[error("only one network of driver {} is allowed, and {existing} is one: use that", driver_name(*.driver))]
    OneInstance { driver: Driver, existing: Name },
    #[error("driver {} takes no subnets, options, --internal or --ipv6: leave them out", driver_name(*.0))]
    DriverTakesNothing(Driver),
    #[error("unknown driver option {option:?}: {}; use --label for notes of your own", options(*.driver))]
    UnknownOption { option: String, driver: Driver },
    #[error(
        "invalid {MTU_OPTION} {0:?}: give a number of bytes from {MTU_MIN} to 65535, at least {IPV6_MTU_MIN} with --ipv6"
    )]
    InvalidMtu(String),

    #[error("invalid subnet {subnet}: it has host bits set, did you mean {meant}?")]
    SubnetHostBits { subnet: IpNet, meant: IpNet },
    #[error(
        "invalid subnet {0}: an IPv4 prefix length lies between 8 and 30, an IPv6 one between 16 and 126"
    )]
    SubnetLength(IpNet),
    #[error("invalid subnet {subnet}: {reserved} is {what}, choose another one")]
    SubnetReserved { subnet: IpNet, reserved: IpNet, what: ReservedRange },
    #[error("subnet {subnet} overlaps with {other} of network {network}: choose another subnet")]
    SubnetOverlap { subnet: IpNet, other: IpNet, network: Name },
    #[error("subnet {subnet} overlaps with the route {route} of this host: choose another subnet")]
    SubnetRouted { subnet: IpNet, route: IpNet },
    #[error("more than one {} subnet: a network has at most one IPv4 and one IPv6 subnet", family(*.ipv6))]
    TooManySubnets { ipv6: bool },
    #[error("subnet {0} is IPv6: add --ipv6")]
    Ipv6NotEnabled(IpNet),
    #[error("every default {} pool overlaps with a network or a route of this host: give a --subnet", family(*.ipv6))]
    NoFreePool { ipv6: bool },

    #[error("invalid {role} {address}: it is not in the subnet {subnet}")]
    OutsideSubnet { role: String, address: IpAddr, subnet: IpNet },
    #[error("invalid {role} {address}: it is the {what} address of {subnet}, choose another one")]
    NotAHost { role: String, address: IpAddr, what: NotAHost, subnet: IpNet },
    #[error("invalid {role} {address}: it is the {other} already, choose another one")]
    ReservedTwice { role: String, address: IpAddr, other: String },
    #[error("invalid ip-range {range}: it has host bits set, did you mean {meant}?")]
    RangeHostBits { range: IpNet, meant: IpNet },
    #[error("invalid ip-range {range}: it is not within the subnet {subnet}")]
    RangeOutside { range: IpNet, subnet: IpNet },

    #[error("network {network} has no {} subnet: leave the address out", family(*.ipv6))]
    NoSubnetFor { network: Name, ipv6: bool },
    #[error(
        "address {address} is already in use in network {network} by container {holder}: choose another one"
    )]
    AddressInUse { address: IpAddr, network: Name, holder: Holder },
    #[error("address {address} is reserved in network {network} as {what}: choose another one")]
    AddressReserved { address: IpAddr, network: Name, what: String },
    #[error(
        "no available {} addresses in {range} of network {network}: remove containers or create a larger network",
        family(matches!(.range, IpNet::V6(_)))
    )]
    PoolExhausted { range: IpNet, network: Name },
    #[error("invalid MAC address {0}: an interface's address is neither multicast nor all zeros")]
    MacNotUnicast(MacAddr),
    #[error("MAC address {mac} is already in use in network {network} by {holder}: choose another one")]
    MacInUse { mac: MacAddr, network: Name, holder: String },

    #[error("container {container} is already connected to network {network}")]
    AlreadyConnected { container: Name, network: Name },
    #[error(
        "container {container} is not connected to network {network}: see `vswitchctl inspect {container}`"
    )]
    NotConnected { container: Name, network: String },
    #[error(
        "container {container} cannot be connected to other networks beside {network}: a container on the {} network \
         is on no other one", driver_name(*.driver)
    )]
    Exclusive { container: Name, network: Name, driver: Driver },
    #[error(
        "container {0} cannot be connected to or disconnected from the host network while it exists: create it anew"
    )]
    HostMode(Name),
    #[error("container {0} is an adopted namespace, which cannot be on the host network: choose another one")]
    AdoptedOnHost(Name),
    #[error("namespace is adopted already as container {0}: remove that one first")]
    AlreadyAdopted(Name),
    #[error(
        "invalid hostname {0:?}: use at most 63 letters, digits, '-' and '.', not beginning or ending with '-' or '.'"
    )]
    InvalidHostname(String),

    #[error("network {0} is a default network and cannot be removed")]
    Builtin(Name),
    #[error(
        "network {network} is in use by {}: disconnect or remove them first", list(.holders, *.more)
    )]
    NetworkInUse { network: Name, holders: Vec<Holder>, more: usize },
    #[error(
        "network {} that container {container} was connected to is gone: disconnect it from that id, or remove the \
         container and create it again", network.short()
    )]
    NetworkGone { container: Name, network: NetworkId },
    #[error("container {0} is running: stop it first, or use rm -f")]
    ContainerRunning(Name),
    #[error("container {0} is running already")]
    AlreadyRunning(Name),
    #[error("container {0} is not running")]
    NotRunning(Name),

    #[error("there are {NETWORKS_MAX} networks already: remove one first, see `vswitchctl network prune`")]
    TooManyNetworks,
    #[error("there are {CONTAINERS_MAX} containers already: remove one first, see `vswitchctl ps -a`")]
    TooManyContainers,
    #[error("there are {ENDPOINTS_MAX} endpoints already: disconnect or remove containers first")]
    TooManyEndpoints,
    #[error("container {0} would be on more than {INTERFACES_MAX} networks: disconnect it from one first")]
    TooManyInterfaces(Name),
    #[error("more than {ALIASES_MAX} aliases for container {0} in one network: give fewer")]
    TooManyAliases(Name),
    #[error("more than {AUX_ADDRESSES_MAX} auxiliary addresses in {0}: give an ip-range instead")]
    TooManyAuxAddresses(IpNet),
    #[error("every port number of this switch was used once: start with a new data directory")]
    PortsExhausted,

    #[error("networks of driver {} are not kept in this log: the command was sent to the wrong one", driver_name(*.0))]
    DriverElsewhere(Driver),
    #[error("invalid {VXLAN_ID_OPTION} {0:?}: give a number from {first} to {last}", first = Vni::FIRST_OVERLAY, last = Vni::MAX)]
    InvalidVni(String),
    #[error(
        "{VXLAN_ID_OPTION} {vni} is already in use by network {network}: choose another one or leave it out"
    )]
    VniInUse { vni: Vni, network: Name },
    #[error(
        "invalid {VXLAN_REMOTE_OPTION} {0:?}: give up to {REMOTES_MAX} IP addresses of tunnel endpoints with commas between"
    )]
    InvalidRemotes(String),
    #[error("container {container} needs a lease of the cluster for its network {}: reserve one first", network.short())]
    LeaseMissing { container: Name, network: NetworkId },
    #[error("network {network} of this node takes no lease of the cluster: leave it out")]
    LeaseUnwanted { network: Name },

    #[error("node {} was removed from this cluster: join it again, which gives it a new id", .0.0)]
    Fenced(NodeId),
    #[error("node {} is not a member of this cluster: see `vswitchctl node ls`", .0.0)]
    NotAMember(NodeId),
    #[error("the node name {name} is already in use by node {}: choose another one, or remove that node first", holder.0)]
    NodeNameTaken { name: Name, holder: NodeId },
    #[error(
        "the address {address} is already that of node {holder}: give another one, or remove that node first"
    )]
    NodeAddressTaken { address: SocketAddr, holder: Name },
    #[error(
        "the tunnel endpoint {vtep} is already that of node {holder}: give another one, or remove that node first"
    )]
    VtepTaken { vtep: IpAddr, holder: Name },
    #[error("invalid node address {0}: give the address of one host, and a port that is not 0")]
    InvalidNodeAddress(SocketAddr),
    #[error(
        "invalid tunnel endpoint {0}: give the address of one host, not link-local and not an IPv4 one in IPv6"
    )]
    InvalidVtep(IpAddr),
    #[error("the tunnel endpoint {vtep} is {}, the cluster's are {}: give one of that family", family(vtep.is_ipv6()), family(vtep.is_ipv4()))]
    VtepFamily { vtep: IpAddr },
    #[error("the version {0:?} of vswitchd is longer than {VERSION_BYTES_MAX} bytes: it cannot be one")]
    InvalidVersion(String),
    #[error("node {0} is the last voter: promote another node first")]
    LastVoter(Name),
    #[error("there are {VOTERS_MAX} voters already: demote one first")]
    TooManyVoters,
    #[error("there are {NODES_MAX} nodes already: remove one first")]
    TooManyNodes,
    #[error("every node id of this cluster was used once: start a new cluster")]
    NodeIdsExhausted,
    #[error(
        "there are {LEASES_MAX} endpoints in overlay networks already: disconnect or remove containers first"
    )]
    TooManyLeases,
    #[error(
        "container {holder} is connected to network {network} already: disconnect or remove it there first"
    )]
    AlreadyLeased { holder: Holder, network: Name },
    #[error("the lease belongs to container {0}: only its own node can release it")]
    LeaseOfAnother(Holder),
    #[error(
        "the request is so late that it may have been carried out before: look whether it was, and ask anew if not"
    )]
    TooLate,

    #[error(
        "network {0} belongs to Docker: use docker network rm; rm -f is for what an engine that is gone has left"
    )]
    NetworkOfDocker(Name),
    #[error("container {0} belongs to Docker: use docker, or rm -f for what a lost engine has left")]
    ContainerOfDocker(Name),
    #[error("the network has an endpoint of container {0}: stop or disconnect it first")]
    DockerNetworkInUse(Name),
    #[error("there is no address pool {0}: create the network again")]
    UnknownPool(IpNet),
    #[error("subnet {subnet} overlaps with the address pool {other}: choose another subnet")]
    PoolOverlap { subnet: IpNet, other: IpNet },
    #[error("address {address} of the pool {subnet} is already in use: choose another one")]
    PoolAddressInUse { address: IpAddr, subnet: IpNet },
    #[error("no available addresses in {0}: remove containers or create a larger network")]
    AddressesExhausted(IpNet),
    #[error("there are {POOLS_MAX} address pools already: remove a network first")]
    TooManyPools,
    #[error("the cluster has no lease for endpoint {}: it was released", .0.short())]
    UnknownLease(EndpointId),

    #[error(
        "the cluster's authority is being rotated already: `vswitchctl cluster health` says which nodes are waited for"
    )]
    AuthorityRotates,
    #[error("the certificate of the authority is none, or too large, or the present one")]
    InvalidAuthority,
    #[error("there is no former authority that is trusted still")]
    NoFormerAuthority,

    #[error("MAC address {mac} has {address} of the pool {subnet} already: choose another MAC address")]
    PoolMacInUse { mac: MacAddr, address: IpAddr, subnet: IpNet },
    #[error(
        "network {network} is the Docker network {docker} of node {node}{}: `docker network rm {docker}` there first, or \
         `vswitchctl network rm -f {network}` there if that engine is gone", and_more(*.more)
    )]
    NetworkBound { network: Name, docker: String, node: Name, more: usize },
    #[error(
        "there are {BINDINGS_MAX} networks of Docker engines in this cluster already: remove some with docker network rm"
    )]
    TooManyBindings,
    #[error(
        "the address pool {subnet} hands out addresses of {range}: give that --ip-range, or another subnet"
    )]
    PoolRange { subnet: IpNet, range: IpNet },
    #[error("invalid {PORT_SECURITY_OPTION} {0:?}: give registered (the default), strict or off")]
    InvalidPortSecurity(String),
    #[error("invalid {SERVERS_OPTION} {0:?}: give dhcp, router, or both with a comma between them")]
    InvalidServers(String),
    #[error("invalid {VXLAN_INNER_VLAN_OPTION} {0:?}: give true or false")]
    InvalidInnerVlan(String),

    #[error("container {0} has that name already: choose another one")]
    SameName(Name),
    #[error("{0} is no container of the lab runner: only those have a restart policy and limits")]
    NotOurs(Name),
    #[error("container {0} was not adopted: its network namespace is its own")]
    NotAdopted(Name),
    #[error("container {0} is removed when it ends (--rm), so it cannot have a restart policy")]
    RestartOfAutoRemoved(Name),
    #[error(
        "the network of {0} cannot be shared: name a container that `vswitchctl run` made with a network of its own"
    )]
    NetworkNotShared(Name),
    #[error("container {0} shares the network of another one: connect that one instead")]
    SharesNetwork(Name),

    #[error(
        "network {network} that container {container} was connected to is gone: `vswitchctl network disconnect \
         {network} {container}`, or remove the container and create it again"
    )]
    NetworkLost { container: Name, network: Name },
}

/// Who stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    pub container: Name,
    /// Where it is, in networks that have several nodes.
    pub node: Option<Name>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.node {
            None => write!(f, "{}", self.container),
            Some(node) => write!(f, "{} on node {node}", self.container),
        }
    }
}

/// Why a subnet cannot be one of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReservedRange {
    /// RFC 1122 section 3.2.1.3, RFC 4291 section 2.5: "this network", unspecified, mapped addresses.
    Unspecified,
    Loopback,
    LinkLocal,
    Multicast,
    /// 240.0.0.0/4, RFC 1112 section 4.
    Future,
}

impl std::fmt::Display for ReservedRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ReservedRange::Unspecified => "not for hosts",
            ReservedRange::Loopback => "for loopback",
            ReservedRange::LinkLocal => "for link-local addresses",
            ReservedRange::Multicast => "for multicast",
            ReservedRange::Future => "reserved",
        })
    }
}

/// An address inside a subnet that no interface may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotAHost {
    Network,
    Broadcast,
    /// RFC 4291 section 2.6.1.
    RouterAnycast,
}

impl std::fmt::Display for NotAHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NotAHost::Network => "network",
            NotAHost::Broadcast => "broadcast",
            NotAHost::RouterAnycast => "subnet-router anycast",
        })
    }
}

impl Rejected {
    /// What is neither missing nor wrong by itself conflicts with what is there.
    pub fn kind(&self) -> ErrorKind {
        use Rejected::*;
        match self {
            UnknownNetwork(_)
            | UnknownContainer(_)
            | UnknownPool(_)
            | UnknownLease(_)
            | NetworkGone { .. }
            | NetworkLost { .. }
            | NotAMember(_) => ErrorKind::NotFound,
            EndpointIds { .. }
            | DriverTakesNothing(_)
            | UnknownOption { .. }
            | InvalidMtu(_)
            | InvalidVni(_)
            | InvalidRemotes(_)
            | InvalidPortSecurity(_)
            | InvalidServers(_)
            | DriverElsewhere(_)
            | LeaseMissing { .. }
            | LeaseUnwanted { .. }
            | InvalidNodeAddress(_)
            | InvalidVtep(_)
            | VtepFamily { .. }
            | InvalidVersion(_)
            | SubnetHostBits { .. }
            | SubnetLength(_)
            | SubnetReserved { .. }
            | TooManySubnets { .. }
            | Ipv6NotEnabled(_)
            | OutsideSubnet { .. }
            | NotAHost { .. }
            | ReservedTwice { .. }
            | RangeHostBits { .. }
            | RangeOutside { .. }
            | NoSubnetFor { .. }
            | MacNotUnicast(_)
            | AdoptedOnHost(_)
            | InvalidHostname(_)
            | NotOurs(_)
            | NotAdopted(_)
            | NetworkNotShared(_)
            | SharesNetwork(_)
            | TooManyAliases(_)
            | TooManyAuxAddresses(_) => ErrorKind::Invalid,
            _ => ErrorKind::Conflict,
        }
    }
}

/// As Docker writes it.
fn driver_name(driver: Driver) -> &'static str {
    match driver {
        Driver::Bridge => "bridge",
        Driver::None => "null",
        Driver::Host => "host",
        Driver::Overlay => "overlay",
    }
}

/// Those that the driver knows.
fn options(driver: Driver) -> String {
    match driver {
        Driver::Overlay => {
            format!(
                "there are {MTU_OPTION}, {PORT_SECURITY_OPTION}, {SERVERS_OPTION}, {VXLAN_ID_OPTION}, {VXLAN_REMOTE_OPTION} \
                 and {VXLAN_INNER_VLAN_OPTION}"
            )
        }
        Driver::Bridge | Driver::None | Driver::Host => {
            format!("there are {MTU_OPTION}, {PORT_SECURITY_OPTION} and {SERVERS_OPTION}")
        }
    }
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

fn list(holders: &[Holder], more: usize) -> String {
    let mut text = holders.iter().map(Holder::to_string).collect::<Vec<_>>().join(", ");
    text.push_str(&and_more(more));
    text
}

fn and_more(more: usize) -> String {
    if more > 0 { format!(" and {more} more") } else { String::new() }
}
