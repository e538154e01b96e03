//! Machines joined by a bridge, each with a daemon that listens for the others.
//!
//! The cable of a machine can be pulled out, and packets of one machine to another can be made to go nowhere while the
//! other direction works.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::ensure;
use vswitch_proto::api::{
    ClusterFounded, ClusterHash, ClusterJoined, ClusterStatus, ClusterToken, Node, NodeState,
};

use crate::process::Output;
use crate::wait::eventually;
use crate::{Host, Lab};

/// Of the cluster's port.
const PORT: u16 = 7946;

/// What is between the machines, and the machines themselves. Their index is that of their address.
pub struct Cluster {
    pub labs: Vec<Lab>,
    fabric: Host,
}

impl Cluster {
    /// As many machines, each alone: `host0` with the address 10.8.0.1, and so on.
    pub fn unjoined(count: usize) -> Cluster {
        Cluster::with(count, &[])
    }

    /// With further arguments for every daemon.
    pub fn with(count: usize, arguments: &[&str]) -> Cluster {
        Cluster::on_kernels_without("", count, arguments)
    }

    /// See [`Lab::on_kernel_without`].
    pub fn on_kernels_without(missing: &str, count: usize, arguments: &[&str]) -> Cluster {
        let mut cluster = Cluster::without_daemons();
        for index in 0..count {
            let host = cluster.plug(index);
            cluster.labs.push(daemon_without(missing, host, index, arguments));
        }
        cluster
    }

    /// A bridge to plug machines in.
    pub fn without_daemons() -> Cluster {
        let fabric = Host::new();
        fabric.sh("ip link add bridge0 type bridge forward_delay 0 && ip link set bridge0 up");
        Cluster { labs: Vec::new(), fabric }
    }

    /// All in one cluster that the first has founded; the others may vote.
    pub fn joined(count: usize) -> Cluster {
        let cluster = Cluster::unjoined(count);
        cluster.join_all();
        cluster
    }

    pub fn join_all(&self) {
        self.labs[0].http("POST", "/v1/cluster/init", "{}").parsed::<ClusterFounded>();
        let token = self.token();
        for lab in &self.labs[1..] {
            lab.http("POST", "/v1/cluster/join", &join_request(&token)).parsed::<ClusterJoined>();
        }
        self.wait_until_settled();
    }

    /// The machine with the bridge between the others.
    pub fn fabric(&self) -> &Host {
        &self.fabric
    }

    /// A new machine on the bridge.
    pub fn plug(&self, index: usize) -> Host {
        let host = Host::new();
        // From here, the machine's namespace is known by the pid of its first process.
        let (fabric, machine) = (self.fabric.pid(), host.pid());
        let script = format!(
            "ip link add port{index} netns {fabric} type veth peer name u0 netns {machine}\n\
             nsenter -t {fabric} -n ip link set port{index} master bridge0 up\n\
             nsenter -t {machine} -n ip address add {}/24 dev u0\n\
             nsenter -t {machine} -n ip address add {}/64 dev u0 nodad\n\
             nsenter -t {machine} -n ip link set u0 up",
            address(index),
            address_v6(index)
        );
        let done = Output::of(shell(&script), b"");
        assert_eq!(done.code, 0, "{done:?}");
        host
    }

    pub fn token(&self) -> String {
        self.labs[0].http("GET", "/v1/cluster/token?role=voter", "").parsed::<ClusterToken>().token.0
    }

    /// The cable of a machine is pulled out, or plugged in again.
    pub fn set_cable(&self, index: usize, is_plugged: bool) {
        let state = if is_plugged { "up" } else { "down" };
        self.fabric.sh(&format!("ip link set port{index} {state}"));
    }

    /// Packets of a machine to another go nowhere. The other way they arrive.
    pub fn set_one_way_cut(&self, from: usize, to: usize, is_cut: bool) {
        let verb = if is_cut { "add" } else { "del" };
        self.labs[from].sh(&format!("ip route {verb} blackhole {}/32", address(to)));
    }

    /// Until all nodes agree on who leads, every node answers, and those that are to vote do.
    pub fn wait_until_settled(&self) {
        let count = self.labs.len();
        eventually("the cluster settles", || {
            let nodes: Vec<Node> = self.labs[0].http("GET", "/v1/nodes", "").parsed();
            ensure!(nodes.len() == count, "{nodes:?}");
            ensure!(nodes.iter().all(|n| n.state == NodeState::Ready && n.role == n.wanted), "{nodes:?}");
            let leaders: Vec<_> = (0..count).map(|index| self.status(index).leader).collect();
            ensure!(leaders[0].is_some() && leaders.iter().all(|l| *l == leaders[0]), "{leaders:?}");
            Ok(())
        });
    }

    pub fn status(&self, index: usize) -> ClusterStatus {
        self.labs[index].http("GET", "/v1/cluster?stale=true", "").parsed()
    }

    /// The machine whose daemon leads, as one of the others sees it.
    pub fn leader(&self, seen_by: usize) -> usize {
        eventually("somebody leads", || {
            let name = self.status(seen_by).leader_name;
            let index = name.as_ref().and_then(|name| name.as_str().strip_prefix("host")?.parse().ok());
            index.ok_or_else(|| anyhow::anyhow!("the leader is {name:?}"))
        })
    }

    /// Until all nodes have the same state.
    pub fn wait_until_equal(&self) {
        eventually("all nodes have the same state", || {
            let hash: ClusterHash = self.labs[0].http("GET", "/v1/cluster/hash", "").parsed();
            ensure!(hash.is_equal && hash.nodes.len() == self.labs.len(), "{hash:?}");
            Ok(())
        });
    }
}

/// The daemon of a machine on the bridge.
pub fn daemon(host: Host, index: usize, arguments: &[&str]) -> Lab {
    daemon_without("", host, index, arguments)
}

fn daemon_without(missing: &str, host: Host, index: usize, arguments: &[&str]) -> Lab {
    let (listen, name) = (format!("--listen={}:{PORT}", address(index)), format!("--node-name=host{index}"));
    let mut all = vec![listen.as_str(), name.as_str()];
    all.extend(arguments);
    Lab::on_kernel_without(missing, host, &all)
}

pub fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 8, 0, index as u8 + 1)
}

/// Of the same machine.
pub fn address_v6(index: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, index as u16 + 1)
}

/// Of the cluster that the first machine is in.
pub fn join_request(token: &str) -> String {
    join_request_to(SocketAddr::new(address(0).into(), PORT), token)
}

pub fn join_request_to(node: SocketAddr, token: &str) -> String {
    serde_json::json!({ "addresses": [node], "token": token }).to_string()
}

fn shell(script: &str) -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    command.args(["-ec", script]);
    command
}
