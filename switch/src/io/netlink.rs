//! Links, addresses and routes of a namespace, through rtnetlink(7).
//!
//! Each function is one visit to the namespace: a thread that enters it, a socket, the requests one after another.
//! All of them block the caller and are for the control side. Each may be repeated: what is already so is no error.
//!
//! A kernel or namespace without IPv6 gets IPv4 only, with a warning in the log.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio_stream::{Stream, StreamExt};
use vswitch_proto::id::MacAddr;

use super::netns::NetNs;

mod ipv6;

/// Frames that a TAP queues for the switch unless told otherwise. A full TAP ring drops, and the kernel's default of
/// 1000 is a tenth of what one burst of a busy sender needs.
pub const TX_QUEUE_FRAMES: u32 = 10_000;

/// What an interface has of itself (GSO_LEGACY_MAX_SIZE, include/linux/netdevice.h).
pub const GSO_BYTES: u32 = 65_536;

/// The kernel's routing table of its own addresses (RT_TABLE_LOCAL, include/uapi/linux/rtnetlink.h).
const RT_TABLE_LOCAL: u8 = 255;

/// Of default routes: higher than that of a route somebody else has set, which then wins.
pub const ROUTE_METRIC: u32 = 512;

/// Who made a route (`rtm_protocol`, include/uapi/linux/rtnetlink.h): a number that nobody there has.
const ROUTE_ORIGIN: RouteProtocol = RouteProtocol::Other(86);

/// What an interface shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    pub mac: MacAddr,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    pub tx_queue_frames: u32,
    /// Longest frame that stands for several segments (`gso_max_size`, of both families up to 65,536).
    pub gso_bytes: u32,
    /// With their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Next hops of default routes, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Of the default routes: the lowest of a namespace wins.
    pub route_metric: u32,
}

/// An interface as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Absent where the hardware address is not one of Ethernet.
    pub mac: Option<MacAddr>,
    pub mtu: u32,
    pub tx_queue_frames: u32,
    pub gso_bytes: u32,
    pub up: bool,
    pub is_tap: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("the network namespace cannot be entered: {0}")]
    Namespace(io::Error),
    #[error("no netlink socket can be opened: {0}")]
    Socket(io::Error),
    #[error("there is no interface {0} in the network namespace")]
    NoLink(String),
    #[error("{what} failed: {source}")]
    Request { what: String, source: io::Error },
}

/// Makes an interface what `config` says and sets it up. Addresses and routes that it has besides are left alone.
pub fn configure(ns: &NetNs, name: &str, config: &LinkConfig) -> Result<(), NetlinkError> {
    visit(ns, async |handle| {
        let link = find(&handle, name).await?.ok_or_else(|| NetlinkError::NoLink(name.into()))?;
        if !link.up {
            ipv6::set_up(name, config.addresses.iter().any(|address| matches!(address, IpNet::V6(_))));
        }
        set_link(&handle, &link, config, LinkUnspec::new_with_index(link.index).up()).await?;
        let mut ipv6 = true;
        for &address in &config.addresses {
            let added = unless_ipv6_off(address.addr(), add_address(&handle, &link, address).await);
            ipv6 &= added.map_err(request(|| format!("adding {address} to {name}")))?;
        }
        for &gateway in config.gateways.iter().filter(|gateway| gateway.is_ipv4() || ipv6) {
            let replaced = replace_default_route(&handle, &link, gateway, config.route_metric).await;
            replaced.map_err(request(|| format!("setting the default route via {gateway} on {name}")))?;
        }
        if !ipv6 {
            tracing::warn!(interface = name, "IPv6 is disabled on this interface, which gets IPv4 only");
        }
        Ok(())
    })
}

/// The same but for addresses and routes, of an interface that somebody else is to set up.
pub fn prepare(ns: &NetNs, name: &str, config: &LinkConfig) -> Result<(), NetlinkError> {
    visit(ns, async |handle| {
        let link = find(&handle, name).await?.ok_or_else(|| NetlinkError::NoLink(name.into()))?;
        set_link(&handle, &link, config, LinkUnspec::new_with_index(link.index)).await
    })
}

/// Takes the default queueing discipline from an interface that somebody else has set up. One that was chosen stays: the
/// kernel gives a handle to it, and none to its default.
pub fn take_qdisc(ns: &NetNs, link: &Link) -> Result<(), NetlinkError> {
    visit(ns, async |handle| {
        let found = collect(handle.qdisc().get().index(link.index as i32).execute()).await;
        let found = found.map_err(request(|| "listing queueing disciplines".into()))?;
        let mut roots = found
            .iter()
            .map(|message| &message.header)
            .filter(|header| header.index == link.index as i32 && header.parent == TcHandle::ROOT);
        if roots.any(|root| root.handle != TcHandle::UNSPEC) {
            return Ok(());
        }
        let without = without_qdisc(&handle, link).await;
        without.map_err(request(|| format!("taking the queueing discipline from {}", link.name)))
    })
}

/// Sets `lo` up.
pub fn loopback_up(ns: &NetNs) -> Result<(), NetlinkError> {
    visit(ns, async |handle| {
        let up = LinkUnspec::new_with_name("lo").up().build();
        handle.link().set(up).execute().await.map_err(request(|| "setting lo up".into()))
    })
}

pub fn links(ns: &NetNs) -> Result<Vec<Link>, NetlinkError> {
    visit(ns, async |handle| {
        let found = collect(handle.link().get().execute()).await;
        let found = found.map_err(request(|| "listing interfaces".into()))?;
        Ok(found.into_iter().map(link_of).collect())
    })
}

/// Removes an interface; `false` if there is none of that name.
pub fn delete_link(ns: &NetNs, name: &str) -> Result<bool, NetlinkError> {
    visit(ns, async |handle| {
        let Some(link) = find(&handle, name).await? else { return Ok(false) };
        match handle.link().del(link.index).execute().await {
            Err(e) if errno(&e) == Some(libc::ENODEV) => Ok(false),
            done => done.map(|()| true).map_err(request(|| format!("removing {name}"))),
        }
    })
}

/// Makes these the namespace's default routes, as (interface, next hop), at most one of each family. Those that
/// somebody else made are left alone: ours are known by their origin.
pub fn set_default_routes(ns: &NetNs, routes: &[(String, IpAddr)]) -> Result<(), NetlinkError> {
    visit(ns, async |handle| {
        for (name, gateway) in routes {
            let link = find(&handle, name).await?.ok_or_else(|| NetlinkError::NoLink(name.clone()))?;
            let replaced = replace_default_route(&handle, &link, *gateway, ROUTE_METRIC).await;
            unless_ipv6_off(*gateway, replaced)
                .map_err(request(|| format!("setting the default route via {gateway} on {name}")))?;
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let is_wanted = |route: &RouteMessage| {
                let mut gateways = route.attributes.iter().filter_map(gateway_of);
                gateways.any(|gateway| routes.iter().any(|(_, wanted)| *wanted == gateway))
            };
            let found = list_routes(&handle, family).await?;
            for route in found.into_iter().filter(|route| is_our_default(route) && !is_wanted(route)) {
                match handle.route().del(route).execute().await {
                    // It went with its interface.
                    Err(e) if errno(&e) == Some(libc::ESRCH) => {}
                    done => done.map_err(request(|| "removing a default route".into()))?,
                }
            }
        }
        Ok(())
    })
}

/// The MTU of the interface that has this address, bytes.
pub fn mtu_at(ns: &NetNs, address: IpAddr) -> Result<Option<u32>, NetlinkError> {
    visit(ns, async |handle| {
        let found = collect(handle.address().get().set_address_filter(address).execute()).await;
        let found = found.map_err(request(|| format!("looking for {address}")))?;
        let Some(index) = found.first().map(|message| message.header.index) else { return Ok(None) };
        let links = collect(handle.link().get().match_index(index).execute()).await;
        let links = links.map_err(request(|| "looking at an interface".into()))?;
        Ok(links.into_iter().next().map(|link| link_of(link).mtu))
    })
}

/// Prefixes that the namespace has a route to, connected ones included: what a new subnet must not overlap. Default
/// routes, loopback, link-local and multicast prefixes are left out. Ascending, each once.
pub fn routes(ns: &NetNs) -> Result<Vec<IpNet>, NetlinkError> {
    visit(ns, async |handle| {
        let mut prefixes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            prefixes.extend(list_routes(&handle, family).await?.iter().filter_map(occupied_prefix));
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        Ok(prefixes)
    })
}

/// Runs one conversation with the kernel inside the namespace.
fn visit<T: Send>(
    ns: &NetNs,
    conversation: impl AsyncFnOnce(Handle) -> Result<T, NetlinkError> + Send,
) -> Result<T, NetlinkError> {
    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(NetlinkError::Socket)?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Socket)?;
            tokio::spawn(connection);
            conversation(handle).await
        })
    };
    ns.run(inside).map_err(NetlinkError::Namespace)?
}

async fn find(handle: &Handle, name: &str) -> Result<Option<Link>, NetlinkError> {
    match collect(handle.link().get().match_name(name.into()).execute()).await {
        Err(e) if errno(&e) == Some(libc::ENODEV) => Ok(None),
        found => {
            let found = found.map_err(request(|| format!("looking up {name}")))?;
            Ok(found.into_iter().next().map(link_of))
        }
    }
}

/// One request for all that differs: the address before the interface is up, since its IPv6 link-local address is
/// made from it.
async fn set_link(
    handle: &Handle,
    link: &Link,
    config: &LinkConfig,
    mut message: LinkMessageBuilder<LinkUnspec>,
) -> Result<(), NetlinkError> {
    let without = without_qdisc(handle, link).await;
    without.map_err(request(|| format!("taking the queueing discipline from {}", link.name)))?;
    if link.mac != Some(config.mac) {
        message = message.address(config.mac.0.to_vec());
    }
    if link.mtu != config.mtu {
        message = message.mtu(config.mtu);
    }
    if link.tx_queue_frames != config.tx_queue_frames {
        message = message.append_extra_attribute(LinkAttribute::TxQueueLen(config.tx_queue_frames));
    }
    if link.gso_bytes != config.gso_bytes {
        message = message.append_extra_attribute(LinkAttribute::GsoMaxSize(config.gso_bytes));
    }
    let set = handle.link().set(message.build()).execute().await;
    set.map_err(request(|| format!("setting up {} (MAC {}, MTU {})", link.name, config.mac, config.mtu)))
}

/// Frames go straight into the TAP's own ring. The default discipline, which an interface gets when it goes up, would
/// take another 384 KiB for three rings of the same length before it.
async fn without_qdisc(handle: &Handle, link: &Link) -> Result<(), rtnetlink::Error> {
    let mut message = TcMessage::with_index(link.index as i32);
    message.header.parent = TcHandle::ROOT;
    message.attributes.push(TcAttribute::Kind("noqueue".into()));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let mut answers = handle.clone().request(request)?;
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::Error(failed) if failed.code.is_some() => {
                return Err(rtnetlink::Error::NetlinkError(failed));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Without duplicate address detection (RFC 4862 section 5.4): addresses are allotted, and usable at once.
async fn add_address(handle: &Handle, link: &Link, address: IpNet) -> Result<(), rtnetlink::Error> {
    let mut add = handle.address().add(link.index, address.addr(), address.prefix_len()).replace();
    if matches!(address, IpNet::V6(_)) {
        let message = add.message_mut();
        message.header.flags |= AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    add.execute().await
}

async fn replace_default_route(
    handle: &Handle,
    link: &Link,
    gateway: IpAddr,
    metric: u32,
) -> Result<(), rtnetlink::Error> {
    let message = match gateway {
        IpAddr::V4(gateway) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(link.index)
            .priority(metric)
            .protocol(ROUTE_ORIGIN)
            .build(),
        IpAddr::V6(gateway) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .gateway(gateway)
            .output_interface(link.index)
            .priority(metric)
            .protocol(ROUTE_ORIGIN)
            .build(),
    };
    handle.route().add(message).replace().execute().await
}

fn link_of(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        tx_queue_frames: 0,
        gso_bytes: GSO_BYTES,
        up: message.header.flags.contains(LinkFlags::Up),
        is_tap: false,
    };
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) if ethernet => link.mac = bytes.try_into().ok().map(MacAddr),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::TxQueueLen(frames) => link.tx_queue_frames = frames,
            LinkAttribute::GsoMaxSize(bytes) => link.gso_bytes = bytes,
            LinkAttribute::LinkInfo(info) => {
                link.is_tap = ethernet && info.contains(&LinkInfo::Kind(InfoKind::Tun));
            }
            _ => {}
        }
    }
    link
}

async fn list_routes(handle: &Handle, family: AddressFamily) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut query = RouteMessage::default();
    query.header.address_family = family;
    match collect(handle.route().get(query).execute()).await {
        Err(e) if family == AddressFamily::Inet6 && is_ipv6_off(&e) => Ok(Vec::new()),
        found => found.map_err(request(|| "listing routes".into())),
    }
}

fn is_our_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && route.header.protocol == ROUTE_ORIGIN
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn occupied_prefix(route: &RouteMessage) -> Option<IpNet> {
    let occupies = match route.header.kind {
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => false,
        _ => route.header.table != RT_TABLE_LOCAL,
    };
    let prefix_len = route.header.destination_prefix_length;
    if !occupies || prefix_len == 0 {
        return None;
    }
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    let special = match destination {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast(),
    };
    if special { None } else { IpNet::new(destination, prefix_len).ok().map(|prefix| prefix.trunc()) }
}

async fn collect<T>(
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, rtnetlink::Error> {
    stream.collect().await
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        _ => None,
    }
}

/// `ipv6.disable=1` leaves no such address family; the sysctl `disable_ipv6` forbids addresses on the interface.
fn is_ipv6_off(error: &rtnetlink::Error) -> bool {
    matches!(errno(error), Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}

/// `false` where it is IPv6 as such that failed.
fn unless_ipv6_off(ip: IpAddr, done: Result<(), rtnetlink::Error>) -> Result<bool, rtnetlink::Error> {
    match done {
        Err(e) if ip.is_ipv6() && is_ipv6_off(&e) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Puts an error of the kernel into words.
fn request(what: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    |error| {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other),
        };
        NetlinkError::Request { what: what(), source }
    }
}

#[cfg(test)]
mod tests;
