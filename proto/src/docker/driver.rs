//! `NetworkDriver`.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Vec, absent, null};
use crate::id::{EndpointId, MacAddr, NetworkId};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DriverCapabilities {
    pub scope: &'static str,
    pub connectivity_scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub network: NetworkId,
    #[serde(rename = "Options", default, deserialize_with = "null")]
    pub options: NetworkOptions,
    #[serde(rename = "IPv4Data", default, deserialize_with = "null")]
    pub ipv4: Vec<IpamData>,
    #[serde(rename = "IPv6Data", default, deserialize_with = "null")]
    pub ipv6: Vec<IpamData>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkOptions {
    /// `-o KEY=VALUE`.
    #[serde(rename = "com.docker.network.generic", default, deserialize_with = "null")]
    pub generic: BTreeMap<String, String>,
    #[serde(rename = "com.docker.network.internal", default, deserialize_with = "null")]
    pub internal: bool,
}

/// A subnet of a network, as the address driver gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct IpamData {
    #[serde(default, deserialize_with = "null")]
    pub address_space: String,
    #[serde(default, deserialize_with = "absent")]
    pub pool: Option<IpNet>,
    /// With the prefix length of the pool.
    #[serde(default, deserialize_with = "absent")]
    pub gateway: Option<IpNet>,
    /// With prefix lengths too.
    #[serde(default, deserialize_with = "null")]
    pub aux_addresses: BTreeMap<String, IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteNetwork {
    #[serde(rename = "NetworkID")]
    pub network: NetworkId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub network: NetworkId,
    #[serde(rename = "EndpointID")]
    pub endpoint: EndpointId,
    #[serde(rename = "Interface", default, deserialize_with = "null")]
    pub interface: Interface,
}

/// Whatever the engine has decided already; in an answer, whatever it had not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    #[serde(
        rename = "Address",
        default,
        deserialize_with = "absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv4: Option<IpNet>,
    #[serde(
        rename = "AddressIPv6",
        default,
        deserialize_with = "absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv6: Option<IpNet>,
    #[serde(
        rename = "MacAddress",
        default,
        deserialize_with = "absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub mac: Option<MacAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EndpointCreated {
    pub interface: Interface,
}

/// An endpoint of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    #[serde(rename = "NetworkID")]
    pub network: NetworkId,
    #[serde(rename = "EndpointID")]
    pub endpoint: EndpointId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct OperInfo {
    pub value: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    #[serde(rename = "NetworkID")]
    pub network: NetworkId,
    #[serde(rename = "EndpointID")]
    pub endpoint: EndpointId,
    /// The path of the container's network namespace.
    #[serde(rename = "SandboxKey", default, deserialize_with = "null")]
    pub sandbox: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    pub interface_name: InterfaceName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "Option::is_none")]
    pub gateway_ipv6: Option<IpAddr>,
    pub disable_gateway_service: bool,
}

/// An interface of the host that the engine moves into the container and calls by the prefix and a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    pub src_name: String,
    pub dst_prefix: &'static str,
}
