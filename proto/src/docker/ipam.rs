//! `IpamDriver`.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{absent, null};
use crate::id::MacAddr;

/// What `RequestAddressType` is when the engine asks for a gateway's address.
const GATEWAY: &str = "com.docker.network.gateway";

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IpamCapabilities {
    #[serde(rename = "RequiresMACAddress")]
    pub requires_mac_address: bool,
    #[serde(rename = "RequiresRequestReplay")]
    pub requires_request_replay: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressSpaces {
    pub local_default_address_space: &'static str,
    pub global_default_address_space: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestPool {
    #[serde(default, deserialize_with = "null")]
    pub address_space: String,
    /// `--subnet`.
    #[serde(default, deserialize_with = "absent")]
    pub pool: Option<IpNet>,
    /// `--ip-range`.
    #[serde(default, deserialize_with = "absent")]
    pub sub_pool: Option<IpNet>,
    /// `--ipam-opt KEY=VALUE`.
    #[serde(default, deserialize_with = "null")]
    pub options: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null")]
    pub v6: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pool {
    #[serde(rename = "PoolID")]
    pub id: String,
    #[serde(rename = "Pool")]
    pub subnet: IpNet,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasePool {
    #[serde(rename = "PoolID")]
    pub pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestAddress {
    #[serde(rename = "PoolID")]
    pub pool: String,
    #[serde(rename = "Address", default, deserialize_with = "absent")]
    pub address: Option<IpAddr>,
    #[serde(rename = "Options", default, deserialize_with = "null")]
    pub options: AddressOptions,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressOptions {
    #[serde(rename = "RequestAddressType", default, deserialize_with = "null")]
    pub purpose: String,
    /// Of the interface that the address is for.
    #[serde(rename = "com.docker.network.endpoint.macaddress", default, deserialize_with = "absent")]
    pub mac: Option<MacAddr>,
}

impl AddressOptions {
    pub fn is_gateway(&self) -> bool {
        self.purpose == GATEWAY
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Address {
    /// With the prefix length of its pool.
    pub address: IpNet,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseAddress {
    #[serde(rename = "PoolID")]
    pub pool: String,
    #[serde(rename = "Address", default, deserialize_with = "absent")]
    pub address: Option<IpAddr>,
}
