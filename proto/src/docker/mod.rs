//! What a Docker engine says to its network and address plugin, and what it is told.
//!
//! The protocol is libnetwork's (`docs/remote.md` and `docs/ipam.md` there): HTTP POST over a unix socket, JSON with Go's
//! field names, every call to a path of its own.
//!
//! | path | request | answer |
//! | --- | --- | --- |
//! | `/Plugin.Activate` | | [`Manifest`] |
//! | `/NetworkDriver.GetCapabilities` | | [`DriverCapabilities`] |
//! | `/NetworkDriver.CreateNetwork` | [`CreateNetwork`] | [`Nothing`] |
//! | `/NetworkDriver.DeleteNetwork` | [`DeleteNetwork`] | [`Nothing`] |
//! | `/NetworkDriver.CreateEndpoint` | [`CreateEndpoint`] | [`EndpointCreated`] |
//! | `/NetworkDriver.EndpointOperInfo` | [`Endpoint`] | [`OperInfo`] |
//! | `/NetworkDriver.Join` | [`Join`] | [`Joined`] |
//! | `/NetworkDriver.Leave`, `DeleteEndpoint` | [`Endpoint`] | [`Nothing`] |
//! | `/NetworkDriver.ProgramExternalConnectivity`, `RevokeExternalConnectivity` | [`Endpoint`] | [`Nothing`] |
//! | `/NetworkDriver.DiscoverNew`, `DiscoverDelete` | | [`Nothing`] |
//! | `/IpamDriver.GetCapabilities` | | [`IpamCapabilities`] |
//! | `/IpamDriver.GetDefaultAddressSpaces` | | [`AddressSpaces`] |
//! | `/IpamDriver.RequestPool` | [`RequestPool`] | [`Pool`] |
//! | `/IpamDriver.ReleasePool` | [`ReleasePool`] | [`Nothing`] |
//! | `/IpamDriver.RequestAddress` | [`RequestAddress`] | [`Address`] |
//! | `/IpamDriver.ReleaseAddress` | [`ReleaseAddress`] | [`Nothing`] |
//!
//! Engines leave fields out, or send `null` or an empty text for what is not there. All three read as absent here;
//! what is there is checked by its type.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Display;
use core::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

mod driver;
mod ipam;

pub use driver::*;
pub use ipam::*;

/// The media type of both directions.
pub const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// `-o` and `--ipam-opt`: the network of the cluster that a Docker network is.
pub const NETWORK_OPTION: &str = "vswitch.network";

/// The address space of pools that this plugin gave.
pub const ADDRESS_SPACE: &str = "vswitch";

/// What a plugin is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Manifest {
    pub implements: [&'static str; 2],
}

/// The answer of calls that tell nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nothing {}

/// A call that changes something, or depends on what was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    CreateNetwork(CreateNetwork),
    DeleteNetwork(DeleteNetwork),
    CreateEndpoint(CreateEndpoint),
    DeleteEndpoint(Endpoint),
    Join(Join),
    Leave(Endpoint),
    RequestPool(RequestPool),
    ReleasePool(ReleasePool),
    RequestAddress(RequestAddress),
    ReleaseAddress(ReleaseAddress),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    Nothing(Nothing),
    EndpointCreated(EndpointCreated),
    Joined(Joined),
    Pool(Pool),
    Address(Address),
}

impl Answer {
    pub const NOTHING: Answer = Answer::Nothing(Nothing {});
}

/// Absent, `null` or empty: none.
fn absent<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(d: D) -> Result<Option<T>, D::Error> {
    match Option::<String>::deserialize(d)? {
        Some(text) if !text.is_empty() => text.parse().map(Some).map_err(D::Error::custom),
        _ => Ok(None),
    }
}

/// Absent or `null`: the default.
fn null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
