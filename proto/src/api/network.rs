//! Networks. What is shown has Docker's key names, so that scripts written for `docker network inspect` work.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::Pool;
use crate::id::{MacAddr, Name};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    pub name: Name,
    /// `bridge` when absent.
    #[serde(default)]
    pub driver: Option<String>,
    #[serde(default)]
    pub pools: Vec<Pool>,
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub ipv6: bool,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Kept and shown; containers can be connected to any network.
    #[serde(default, skip_serializing_if = "is_false")]
    pub attachable: bool,
    /// No network but a configuration, for `config_from` of others.
    #[serde(default, skip_serializing_if = "is_false")]
    pub config_only: bool,
    /// Name of the configuration that has the pools, options and labels, which then are absent here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_from: Option<String>,
}

impl NetworkCreate {
    /// A request for a network of this name with nothing else.
    pub fn named(name: Name) -> NetworkCreate {
        NetworkCreate {
            name,
            driver: None,
            pools: Vec::new(),
            internal: false,
            ipv6: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            attachable: false,
            config_only: false,
            config_from: None,
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Which of the unused networks a pruning removes: all, by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkPrune {
    /// Created before this moment, in milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
    /// `KEY` or `KEY=VALUE`, all of which the network has.
    pub labels: Vec<String>,
    /// Likewise, none of which it has.
    pub labels_absent: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// Name, id or unique prefix.
    pub container: String,
    #[serde(flatten)]
    pub endpoint: EndpointConfig,
}

/// What somebody asks of one attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disconnect {
    pub container: String,
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Names of the networks that were removed.
    pub networks: Vec<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Network {
    pub name: String,
    pub id: String,
    /// RFC 3339, UTC.
    pub created: String,
    pub scope: String,
    pub driver: String,
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    pub internal: bool,
    #[serde(default)]
    pub attachable: bool,
    /// Always false: there is no routing mesh.
    #[serde(default)]
    pub ingress: bool,
    #[serde(default)]
    pub config_from: ConfigFrom,
    #[serde(default)]
    pub config_only: bool,
    /// By container id; only those that run.
    pub containers: BTreeMap<String, NetworkContainer>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// The configuration that a network was made from; the name is empty for none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConfigFrom {
    pub network: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ipam {
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub config: Vec<IpamConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamConfig {
    #[serde(rename = "Subnet")]
    pub subnet: String,
    #[serde(rename = "IPRange", default, skip_serializing_if = "String::is_empty")]
    pub ip_range: String,
    #[serde(rename = "Gateway", default, skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    #[serde(rename = "AuxiliaryAddresses", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub auxiliary_addresses: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkContainer {
    #[serde(rename = "Name")]
    pub name: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    #[serde(rename = "MacAddress")]
    pub mac_address: String,
    /// With its prefix length, as `172.17.0.2/16`; empty without one.
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
}
