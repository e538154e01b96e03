//! Port security: whether a frame claims an address that belongs to another endpoint, or comes from a server that its
//! sender is not allowed to be.
//!
//! # Theory of operation
//! An address is registered if an endpoint of the network, on this or another host, or its gateway has it. The tables
//! know the place of each owner: a port of this host, or the tunnel endpoint of another host. A frame comes from a
//! place too. It may claim the registered addresses of that place, and addresses that nobody has registered. Claims
//! are:
//!
//! | claim | where | reason |
//! | --- | --- | --- |
//! | source MAC | Ethernet | [`GuardMac`](DropReason::GuardMac) |
//! | source IP | IPv4, IPv6 | [`GuardIp`](DropReason::GuardIp) |
//! | sender MAC and IP | ARP, requests and replies | [`GuardArp`](DropReason::GuardArp) |
//! | source IP, target of an advertisement, link-layer address options | neighbour discovery | [`GuardNd`](DropReason::GuardNd) |
//!
//! With [`PortSecurity::Strict`] a port may not use addresses that nobody has registered either
//! ([`GuardUnleased`](DropReason::GuardUnleased)); of link-local IPv6 addresses it has the one that is made from its
//! MAC address (RFC 4291 appendix A). Such an address belongs to the owner of the MAC address in every mode.
//!
//! Router advertisements and redirects, and messages to DHCP clients, come from servers only. A network allows them for
//! all its members or for none ([`Servers`](vswitch_proto::security::Servers)).
//!
//! A probe asks whether an address is in use without claiming it (RFC 5227 section 2.1, RFC 4862 section 5.4). For a
//! registered address it is answered on behalf of the owner and not passed on, since an owner that is still probing
//! would give the address up.
//!
//! # What could hide a claim
//! VLAN tags are passed over: a receiver takes off tags with VLAN 0. IPv6 extension headers are passed over as far as
//! the IP header says that the packet goes, since receivers cut off what is behind it. Where the message cannot be
//! found, because there are too many headers or because a first fragment ends before it (RFC 7112), the frame is
//! dropped ([`GuardHeaders`](DropReason::GuardHeaders)). Neighbour discovery in fragments is dropped, as hosts do (RFC
//! 6980).
//!
//! # Tunnels
//! The same checks apply to what other hosts send. `Strict` concerns ports only: each host of the cluster checks its
//! own, and addresses behind static remotes are not registered at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vswitch_proto::id::MacAddr;
use vswitch_proto::security::PortSecurity;
use vswitch_proto::wire::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use vswitch_proto::wire::neighbor::solicited;

use super::fdb::Place;
use super::tables::{Network, Port};
use super::{DropReason, Entered, Ingress};
use crate::frame::headers::{PROTOCOL_TCP, PROTOCOL_UDP};
use layers::{Ipv6, Upper};

mod layers;

/// Whether the source MAC address of a frame that may pass is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Registered,
    Unknown,
}

/// The reason why a frame does not pass, and what is done instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Drop(DropReason),
    /// The sender is told that the endpoint with this MAC address has the address it probes for.
    Defend(MacAddr),
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Refusal {
        Refusal::Drop(reason)
    }
}

const DHCPV4_CLIENT_PORT: u16 = 68;
const DHCPV6_CLIENT_PORT: u16 = 546;

const ICMPV6: u8 = 58;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Options of one neighbour discovery message that are looked at. Real messages have a handful.
const OPTIONS_MAX: usize = 32;

/// Checks all claims of a frame. The gateway's MAC address as source is refused before.
#[inline]
pub(super) fn check(
    entered: &Entered<'_>,
    frame: &Ethernet<'_>,
    ingress: Ingress,
) -> Result<Source, Refusal> {
    let is_ordinary = match (entered.port, ingress) {
        (Some(port), _) => port.mac == frame.source() && is_from_port(port, frame),
        (None, Ingress::Tunnel { vtep, .. }) => is_from_remote(entered.network, vtep, frame),
        (None, Ingress::Port(_)) => false,
    };
    if is_ordinary { Ok(Source::Registered) } else { check_claims(entered, frame, ingress) }
}

/// Recognizes nearly all frames by a few comparisons: IPv4 from the port's own address, and TCP and UDP from its own
/// IPv6 address, but for datagrams to a DHCP client.
#[inline]
fn is_from_port(port: &Port, frame: &Ethernet<'_>) -> bool {
    match frame.ethertype() {
        ETHERTYPE_IPV4 => port.ipv4.is_some_and(|own| plain_ipv4_source(frame) == Some(own)),
        ETHERTYPE_IPV6 => {
            let (Some(packet), Some(own)) = (frame.payload().first_chunk::<44>(), port.ipv6) else {
                return false;
            };
            let is_for_client = || packet[42..44] == DHCPV6_CLIENT_PORT.to_be_bytes();
            packet[8..24] == own.octets()
                && (packet[6] == PROTOCOL_TCP || packet[6] == PROTOCOL_UDP && !is_for_client())
        }
        _ => false,
    }
}

/// Recognizes most frames from other hosts by two look-ups: IPv4 from both addresses of an endpoint there.
#[inline]
fn is_from_remote(network: &Network, vtep: IpAddr, frame: &Ethernet<'_>) -> bool {
    let Some(overlay) = &network.overlay else { return false };
    let Some(source) = plain_ipv4_source(frame).filter(|_| frame.ethertype() == ETHERTYPE_IPV4) else {
        return false;
    };
    overlay.remotes.get(&frame.source()) == Some(&vtep)
        && network.neighbors.get(&source.into()) == Some(&frame.source())
}

/// The source of an IPv4 packet that has no options and is no datagram to a DHCP client.
#[inline]
fn plain_ipv4_source(frame: &Ethernet<'_>) -> Option<Ipv4Addr> {
    let packet = frame.payload().first_chunk::<24>()?;
    // Without options, the port of a datagram is where it is expected.
    let is_for_client = || packet[22..24] == DHCPV4_CLIENT_PORT.to_be_bytes();
    let is_plain = packet[0] == 0x45 && (packet[9] != PROTOCOL_UDP || !is_for_client());
    is_plain.then(|| Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]))
}

#[inline(never)]
fn check_claims(entered: &Entered<'_>, frame: &Ethernet<'_>, ingress: Ingress) -> Result<Source, Refusal> {
    let network = entered.network;
    let registered = match entered.port {
        // As nearly always.
        Some(port) if port.mac == frame.source() => Some(ingress.place()),
        _ => network.place(frame.source()),
    };
    let source = if registered.is_some() { Source::Registered } else { Source::Unknown };
    if network.security == PortSecurity::Off {
        return Ok(source);
    }
    let sender =
        Sender { network, mac: frame.source(), place: ingress.place(), is_port: entered.port.is_some() };
    match registered {
        Some(place) if place != sender.place => return Err(DropReason::GuardMac.into()),
        None if sender.is_confined() => return Err(DropReason::GuardUnleased.into()),
        _ => {}
    }
    let (ethertype, packet) = layers::untagged(frame).ok_or(DropReason::GuardHeaders)?;
    match ethertype {
        ETHERTYPE_ARP => sender.check_arp(packet, frame)?,
        ETHERTYPE_IPV4 => sender.check_ipv4(packet)?,
        ETHERTYPE_IPV6 => sender.check_ipv6(packet, frame)?,
        _ => {}
    }
    Ok(source)
}

/// Where a frame comes from, and in which network. Its source MAC address is not another one's.
struct Sender<'t> {
    network: &'t Network,
    mac: MacAddr,
    place: Place,
    is_port: bool,
}

impl Sender<'_> {
    /// Whether the sender may use registered addresses only.
    fn is_confined(&self) -> bool {
        self.is_port && self.network.security == PortSecurity::Strict
    }

    /// The MAC address of the endpoint, or of the gateway, that an IP address belongs to.
    fn owner(&self, ip: IpAddr) -> Option<MacAddr> {
        if let Some(owner) = self.network.neighbors.get(&ip) {
            return Some(*owner);
        }
        let gateway = self.network.gateway.as_ref();
        if let Some(gateway) = gateway
            && (gateway.ipv4.map(IpAddr::V4) == Some(ip) || gateway.ipv6.map(IpAddr::V6) == Some(ip))
        {
            return Some(gateway.mac);
        }
        let IpAddr::V6(ip) = ip else { return None };
        let mac = link_local_mac(ip)?;
        let is_gateway = gateway.is_some_and(|gateway| gateway.mac == mac);
        (is_gateway || self.network.registers(mac)).then_some(mac)
    }

    /// Whether it is at the place of the sender that the endpoint with this registered address is.
    fn is_here(&self, mac: MacAddr) -> bool {
        self.network.place(mac) == Some(self.place)
    }

    fn may_have_ip(&self, ip: IpAddr, reason: DropReason) -> Result<(), DropReason> {
        match self.owner(ip) {
            Some(owner) if owner == self.mac || self.is_here(owner) => Ok(()),
            Some(_) => Err(reason),
            None if self.is_confined() && !ip.is_unspecified() => Err(DropReason::GuardUnleased),
            None => Ok(()),
        }
    }

    fn may_have_mac(&self, mac: MacAddr, reason: DropReason) -> Result<(), DropReason> {
        if mac == self.mac {
            return Ok(());
        }
        match self.network.place(mac) {
            Some(place) if place == self.place => Ok(()),
            Some(_) => Err(reason),
            None if self.network.gateway.is_some_and(|gateway| gateway.mac == mac) => Err(reason),
            None if self.is_confined() => Err(DropReason::GuardUnleased),
            None => Ok(()),
        }
    }

    /// An address that is asked for without being claimed. Probes from tunnels are for the owner to answer.
    fn check_probe(&self, target: IpAddr, frame: &Ethernet<'_>, reason: DropReason) -> Result<(), Refusal> {
        let owner = self.network.neighbors.get(&target).copied();
        match owner.filter(|owner| self.is_port && !self.is_here(*owner)) {
            None => Ok(()),
            Some(owner) if solicited(frame) == Some(target) => Err(Refusal::Defend(owner)),
            Some(_) => Err(reason.into()),
        }
    }

    /// RFC 826. Hosts take the hardware type for granted.
    fn check_arp(&self, packet: &[u8], frame: &Ethernet<'_>) -> Result<(), Refusal> {
        const REASON: DropReason = DropReason::GuardArp;
        let Some(&[_, _, 8, 0, 6, 4, _, _, ref addresses @ ..]) = packet.first_chunk::<28>() else {
            return Ok(());
        };
        let &[a, b, c, d, e, f, s0, s1, s2, s3, _, _, _, _, _, _, t0, t1, t2, t3] = addresses;
        let (sender, target) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(t0, t1, t2, t3));
        self.may_have_mac(MacAddr([a, b, c, d, e, f]), REASON)?;
        self.may_have_ip(sender.into(), REASON)?;
        if sender.is_unspecified() { self.check_probe(target.into(), frame, REASON) } else { Ok(()) }
    }

    fn check_ipv4(&self, packet: &[u8]) -> Result<(), DropReason> {
        // Nobody accepts a shorter one.
        let Some(header) = packet.first_chunk::<20>() else { return Ok(()) };
        let is_first_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
        if header[9] == PROTOCOL_UDP && is_first_fragment {
            let datagram = packet.get(usize::from(header[0] & 0x0f) * 4..);
            self.check_udp(datagram.unwrap_or_default(), DHCPV4_CLIENT_PORT)?;
        }
        let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
        self.may_have_ip(source.into(), DropReason::GuardIp)
    }

    fn check_udp(&self, datagram: &[u8], dhcp_client_port: u16) -> Result<(), DropReason> {
        let is_for_client = datagram.get(2..4) == Some(&dhcp_client_port.to_be_bytes());
        if is_for_client && !self.network.servers.dhcp { Err(DropReason::GuardDhcp) } else { Ok(()) }
    }

    fn check_ipv6(&self, packet: &[u8], frame: &Ethernet<'_>) -> Result<(), Refusal> {
        let Some(ip) = Ipv6::parse(packet) else { return Ok(()) };
        match ip.upper {
            Upper::Hidden => return Err(DropReason::GuardHeaders.into()),
            Upper::Message { protocol: ICMPV6, message, is_fragment }
                if matches!(message.first(), Some(ROUTER_SOLICITATION..=REDIRECT)) =>
            {
                return self.check_neighbor_discovery(ip.source, message, is_fragment, frame);
            }
            Upper::Message { protocol: PROTOCOL_UDP, message, .. } => {
                self.check_udp(message, DHCPV6_CLIENT_PORT)?;
            }
            Upper::Message { .. } | Upper::LaterFragment => {}
        }
        Ok(self.may_have_ip(ip.source.into(), DropReason::GuardIp)?)
    }

    /// RFC 4861 section 4. What is not well-formed is ignored by its receivers.
    fn check_neighbor_discovery(
        &self,
        source: Ipv6Addr,
        message: &[u8],
        is_fragment: bool,
        frame: &Ethernet<'_>,
    ) -> Result<(), Refusal> {
        const REASON: DropReason = DropReason::GuardNd;
        let kind = message[0];
        let is_from_router = matches!(kind, ROUTER_ADVERTISEMENT | REDIRECT);
        if is_from_router && !self.network.servers.router {
            return Err(DropReason::GuardRouter.into());
        }
        if is_fragment {
            return Err(REASON.into());
        }
        self.may_have_ip(source.into(), REASON)?;
        let target = message.get(8..24).and_then(|bytes| bytes.first_chunk::<16>());
        let target = target.map(|bytes| IpAddr::from(*bytes));
        if let (NEIGHBOR_ADVERTISEMENT, Some(target)) = (kind, target) {
            self.may_have_ip(target, REASON)?;
        }
        let (options_at, option) = match kind {
            ROUTER_SOLICITATION => (8, layers::SOURCE_LINK_LAYER),
            ROUTER_ADVERTISEMENT => (16, layers::SOURCE_LINK_LAYER),
            NEIGHBOR_SOLICITATION => (24, layers::SOURCE_LINK_LAYER),
            NEIGHBOR_ADVERTISEMENT => (24, layers::TARGET_LINK_LAYER),
            // A redirect to a neighbour names the neighbour's address.
            _ => return Ok(()),
        };
        let mut options = layers::Options(message.get(options_at..).unwrap_or_default());
        for (kind, mac) in options.by_ref().take(OPTIONS_MAX) {
            if kind == option {
                self.may_have_mac(mac, REASON)?;
            }
        }
        if options.next().is_some() {
            return Err(REASON.into());
        }
        match (kind, target) {
            (NEIGHBOR_SOLICITATION, Some(target)) if source.is_unspecified() => {
                self.check_probe(target, frame, REASON)
            }
            _ => Ok(()),
        }
    }
}

/// The MAC address that a link-local address was made from (RFC 4291 appendix A).
fn link_local_mac(ip: Ipv6Addr) -> Option<MacAddr> {
    match ip.octets() {
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => {
            Some(MacAddr([a ^ 0x02, b, c, d, e, f]))
        }
        _ => None,
    }
}
