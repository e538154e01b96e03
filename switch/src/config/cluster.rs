//! What is said about other hosts: where this one is for them, and which cluster it is to join.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use vswitch_proto::address::{HostPort, ParseHostPortError};

use super::Raw;

/// Below it, IPv6 has no room (RFC 8200 section 5).
const UNDERLAY_MTU_MIN: u32 = 1280;
const UNDERLAY_MTU_MAX: u32 = 65_535;

/// The cluster to join at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStore {
    /// Nodes of it, tried in this order.
    pub nodes: Vec<HostPort>,
    pub token_file: PathBuf,
}

/// An address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct IpPort(pub(super) SocketAddr);

/// `raft://HOST:PORT[,HOST:PORT...]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct RaftStore(Vec<HostPort>);

#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("an IP address with or without port is wanted, as 10.8.0.1:7946")]
    NotIp,
    #[error(
        "vswitchd needs no {0}: its nodes replicate the state among themselves by an embedded Raft; give \
         raft://HOST:PORT of a node of the cluster"
    )]
    Provider(String),
    #[error("raft://HOST:PORT[,HOST:PORT...] is wanted, with nodes of the cluster")]
    NoProvider,
    #[error("{text:?}: {error}")]
    Node { text: String, error: ParseHostPortError },
}

/// Values that are fine by themselves.
#[derive(Debug, thiserror::Error)]
pub enum Mistake {
    #[error(
        "listen is {0}, where no other node finds this one; give an address of this host, or --advertise"
    )]
    Everywhere(SocketAddr),
    #[error("{key} is {ip}, which is no address of one host; give one that other nodes reach")]
    NotOneHost { key: &'static str, ip: IpAddr },
    #[error("{key} is for a node that other nodes reach; give --listen IP:PORT, too")]
    NotListening { key: &'static str },
    #[error("cluster-store needs a join token; give --join-token-file, see `vswitchctl cluster token show`")]
    NoToken,
    #[error("join-token-file is for joining at the start; give --cluster-store, too")]
    NoStore,
    #[error("vxlan-port must not be 0; the usual one is 4789")]
    VxlanPort,
    #[error("underlay-mtu is {0}, it must be between {UNDERLAY_MTU_MIN} and {UNDERLAY_MTU_MAX} bytes")]
    UnderlayMtu(u32),
}

impl FromStr for IpPort {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<IpPort, ParseError> {
        let address = text.parse().ok().and_then(|address: HostPort| address.as_ip());
        address.map(IpPort).ok_or(ParseError::NotIp)
    }
}

impl TryFrom<String> for IpPort {
    type Error = ParseError;

    fn try_from(text: String) -> Result<IpPort, ParseError> {
        text.parse()
    }
}

impl FromStr for RaftStore {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<RaftStore, ParseError> {
        let (provider, nodes) = text.split_once("://").ok_or(ParseError::NoProvider)?;
        if provider != "raft" {
            return Err(ParseError::Provider(provider.into()));
        }
        let node = |text: &str| text.parse().map_err(|error| ParseError::Node { text: text.into(), error });
        nodes.split(',').map(node).collect::<Result<_, _>>().map(RaftStore)
    }
}

impl TryFrom<String> for RaftStore {
    type Error = ParseError;

    fn try_from(text: String) -> Result<RaftStore, ParseError> {
        text.parse()
    }
}

/// What is wrong with the values together, and what is to be joined.
pub(super) fn check(raw: &Raw) -> Result<Option<ClusterStore>, Mistake> {
    if let (Some(IpPort(listen)), None) = (raw.listen, raw.advertise)
        && listen.ip().is_unspecified()
    {
        return Err(Mistake::Everywhere(listen));
    }
    let ips = [
        ("listen", raw.listen.map(|listen| listen.0.ip()).filter(|ip| !ip.is_unspecified())),
        ("advertise", raw.advertise.map(|advertise| advertise.0.ip())),
        ("vtep", raw.vtep),
    ];
    for (key, ip) in ips {
        if let Some(ip) = ip.filter(|ip| ip.is_unspecified() || ip.is_multicast() || is_broadcast(ip)) {
            return Err(Mistake::NotOneHost { key, ip });
        }
    }
    if raw.vxlan_port == Some(0) {
        return Err(Mistake::VxlanPort);
    }
    if let Some(mtu) = raw.underlay_mtu.filter(|mtu| !(UNDERLAY_MTU_MIN..=UNDERLAY_MTU_MAX).contains(mtu)) {
        return Err(Mistake::UnderlayMtu(mtu));
    }
    let needs_listen =
        [("advertise", raw.advertise.is_some()), ("cluster-store", raw.cluster_store.is_some())];
    if let Some((key, _)) = needs_listen.into_iter().find(|(_, given)| *given && raw.listen.is_none()) {
        return Err(Mistake::NotListening { key });
    }
    match (&raw.cluster_store, &raw.join_token_file) {
        (Some(RaftStore(nodes)), Some(token_file)) => {
            Ok(Some(ClusterStore { nodes: nodes.clone(), token_file: token_file.clone() }))
        }
        (Some(_), None) => Err(Mistake::NoToken),
        (None, Some(_)) => Err(Mistake::NoStore),
        (None, None) => Ok(None),
    }
}

fn is_broadcast(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;

    #[test]
    fn a_node_says_where_it_is() {
        let flags = ["--listen", "10.8.0.1", "--advertise", "[fd00::1]:80", "--vtep", "10.8.0.9"];
        let config = load(&flags, Some("vxlan-port = 8472\nlisten = \"10.8.0.2:1\"\n")).unwrap();
        assert_eq!(config.listen, Some(([10, 8, 0, 1], 7946).into()));
        assert_eq!(config.advertise, Some("[fd00::1]:80".parse().unwrap()));
        assert_eq!((config.vtep, config.vxlan_port), (Some([10, 8, 0, 9].into()), 8472));
        assert!(load(&["--listen", "0.0.0.0", "--advertise", "10.8.0.1"], None).is_ok());
    }

    #[test]
    fn a_cluster_to_join_comes_from_either_place() {
        let flags = ["--listen", "10.8.0.2", "--join-token-file", "/run/token"];
        let file = "cluster-store = \"raft://10.8.0.1:7946,host3\"";
        let store = load(&flags, Some(file)).unwrap().cluster_store.unwrap();
        let nodes: Vec<String> = store.nodes.iter().map(ToString::to_string).collect();
        assert_eq!(nodes, ["10.8.0.1:7946", "host3:7946"]);
        assert_eq!(store.token_file.to_str(), Some("/run/token"));
    }

    #[test]
    fn mistakes_are_named() {
        let store = ["--cluster-store", "raft://a"];
        for (flags, file, part) in [
            (&["--listen", "0.0.0.0"][..], None, "listen is 0.0.0.0:7946, where no other"),
            (&["--listen", "10.8.0.1", "--advertise", "::"], None, "advertise is ::, which is no"),
            (&["--vtep", "239.1.1.1"], None, "vtep is 239.1.1.1"),
            (&["--advertise", "10.8.0.1"], None, "advertise is for a node"),
            (&store, None, "cluster-store is for a node"),
            (&[&store[..], &["--listen", "10.8.0.1"]].concat(), None, "give --join-token-file"),
            (&["--join-token-file", "/f"], None, "give --cluster-store"),
            (&["--vxlan-port", "0"], None, "vxlan-port must not be 0"),
            (&["--underlay-mtu", "1000"], None, "underlay-mtu is 1000"),
            (&[], Some("cluster-store = \"consul://10.0.0.1:8500\""), "needs no consul: its nodes replicate"),
            (&[], Some("cluster-store = \"10.0.0.1\""), "raft://HOST:PORT[,HOST:PORT...] is wanted"),
            (&[], Some("cluster-store = \"raft://a,,b\""), "\"\": HOST or HOST:PORT"),
            (&[], Some("listen = \"host1\""), "an IP address with or without port"),
        ] {
            let message = load(flags, file).unwrap_err().to_string();
            assert!(message.contains(part) && !message.contains('\n'), "{message}");
        }
    }
}
