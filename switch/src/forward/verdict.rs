//! What the data plane decides. It performs nothing itself.

use std::net::IpAddr;

use vswitch_proto::id::{MacAddr, PortId};

use crate::frame::FrameError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To this port, which is in the frame's network and is not where it came from.
    Port(PortId),
    /// To the host with this tunnel endpoint, which has a part of the frame's network. Never for what came from a
    /// tunnel.
    Tunnel(IpAddr),
    /// To every port of the frame's network but the one it came from, see [`super::flood::targets`], and to its other
    /// hosts, see [`super::flood::vteps`].
    Flood,
    /// For the switch itself and for nobody else: the network's gateway may have an answer, which goes back to where
    /// the frame came from.
    Gateway,
    /// A question which host has an address; this one has. The answer, see [`super::neighbor::answer`], goes back to
    /// where the frame came from.
    Neighbor(MacAddr),
    Drop(DropReason),
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a frame was dropped. Each is counted by itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant),*];
            pub const COUNT: usize = DropReason::ALL.len();

            /// As the command line prints it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// Too short for an Ethernet header.
    Runt = "runt",
    /// A segment would exceed the MTU of the port it came from.
    Oversized = "oversized",
    /// The virtio-net header does not fit the frame.
    BadVnetHdr = "bad_vnet_hdr",
    /// It stands for more segments, or for shorter ones, than any network stack makes.
    TooManySegments = "too_many_segments",
    /// The source is multicast, zero (IEEE 802.3 section 3.2.3 allows neither) or the gateway's own address.
    BadSource = "bad_source",
    /// A MAC control frame of the link itself (01:80:c2:00:00:0x, IEEE 802.1Q table 8-1): a bridge never forwards it.
    LinkLocal = "link_local",
    /// The port that it came from is no longer in the tables.
    UnknownPort = "unknown_port",
    /// The destination is behind the port that it came from.
    Hairpin = "hairpin",
    /// Broadcast, unknown or multicast over the port's limit.
    StormControl = "storm_control",
    /// Nobody else is in the network.
    NoReceiver = "no_receiver",
    /// A question for the gateway over the port's limit.
    GatewayLimit = "gateway_limit",
    /// For the gateway, which has nothing to do with it.
    GatewayUnhandled = "gateway_unhandled",
    /// A question for a known neighbour that is malformed.
    BadNeighbor = "bad_neighbor",
    /// From a tunnel, for an address behind a tunnel: its sender's knowledge is old.
    SplitHorizon = "split_horizon",
    /// A packet on the VXLAN port without a valid header or a whole frame behind it.
    BadVxlan = "bad_vxlan",
    /// From a tunnel, while packets come faster than they can be passed on: its sender has more than its share of them.
    TunnelShare = "tunnel_share",
    /// VXLAN for a network that has no port on this host.
    UnknownVni = "unknown_vni",
    /// VXLAN from a tunnel endpoint that is of no node and no static remote of the network.
    UnknownVtep = "unknown_vtep",
    /// From or for a static remote with a VLAN tag inside (RFC 7348 section 6.1), which the network does not allow.
    InnerVlan = "inner_vlan",
    /// For a tunnel, in segments that cannot be cut: IP fragments (UFO), or unusually long headers.
    TunnelUnsegmentable = "tunnel_unsegmentable",
    /// For a tunnel, an IP packet that says it is longer than it is.
    TunnelTruncated = "tunnel_truncated",
    /// For a tunnel, longer than the path to its other end takes (EMSGSIZE); tunnel endpoints do not fragment.
    TunnelTooBig = "tunnel_too_big",
    /// For a tunnel, while this host has no underlay.
    UnderlayAbsent = "underlay_absent",
    /// The queue of the underlay's socket or device is full (EAGAIN or ENOBUFS).
    UnderlayFull = "underlay_full",
    /// No way to the other end (ENETUNREACH, EHOSTUNREACH, ENETDOWN, EADDRNOTAVAIL, EAFNOSUPPORT).
    UnderlayUnreachable = "underlay_unreachable",
    /// The underlay refused a packet (ECONNREFUSED, EPERM and others).
    UnderlayRefused = "underlay_refused",
    /// The source MAC address is registered for an endpoint behind another port or on another host.
    GuardMac = "guard_mac",
    /// The source IP address is registered for another endpoint, or is the gateway's.
    GuardIp = "guard_ip",
    /// ARP whose sender claims the MAC or IP address of another endpoint or of the gateway.
    GuardArp = "guard_arp",
    /// Neighbour discovery that claims the MAC or IP address of another endpoint or of the gateway, or that is in
    /// fragments (RFC 6980).
    GuardNd = "guard_nd",
    /// A router advertisement or redirect in a network that does not allow routers.
    GuardRouter = "guard_router",
    /// A message to a DHCP client in a network that does not allow DHCP servers.
    GuardDhcp = "guard_dhcp",
    /// An address that nobody has registered, in a network with strict port security.
    GuardUnleased = "guard_unleased",
    /// Headers behind which a claim could hide: too many, or cut off by fragmentation (RFC 7112).
    GuardHeaders = "guard_headers",
    /// The receiving TAP's queue is full (EAGAIN or ENOBUFS).
    TapFull = "tap_full",
    /// The receiving TAP is gone or down (EBADFD, EIO, ENXIO).
    TapGone = "tap_gone",
    /// The receiving TAP refused the frame (EINVAL and others).
    TapRefused = "tap_refused",
}

/// What a worker counts when bytes from a TAP are no frame.
impl From<FrameError> for DropReason {
    fn from(error: FrameError) -> DropReason {
        match error {
            FrameError::Vnet(_) | FrameError::Segments => DropReason::BadVnetHdr,
            FrameError::TooManySegments => DropReason::TooManySegments,
            FrameError::Runt => DropReason::Runt,
            FrameError::Oversized => DropReason::Oversized,
        }
    }
}
