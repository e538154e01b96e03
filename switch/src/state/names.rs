//! Names: the content of a container's `/etc/hosts`.
//!
//! The format is Docker's: the container's own address and hostname, the standard lines of localhost, then for
//! each of its networks in the order they were connected, and in it for each running container in the order of
//! the addresses, its name, its name with the network's, and its aliases likewise. Fields are separated by a tab.

use std::fmt::Write as _;
use std::net::IpAddr;

use vswitch_proto::id::{ContainerId, Name, NetworkId};

use super::{Container, Endpoint, Phase, State, Wire};

const LOCALHOST: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// A container without an interface of its own is known to itself by Debian's address for that purpose.
const OWN_ADDRESS_WITHOUT_NETWORK: &str = "127.0.1.1";

/// The whole file. A container that does not exist has the lines of localhost only.
pub fn hosts_file(state: &State, container: &ContainerId) -> String {
    let Some(container) = state.container(container) else { return LOCALHOST.into() };
    let mut text = own_lines(state, container);
    text.push_str(LOCALHOST);
    for attachment in &container.attachments {
        text.push_str(&network_lines(state, &attachment.network, Some(container)));
    }
    text
}

fn own_lines(state: &State, container: &Container) -> String {
    let hostname = container.hostname();
    let first = state.endpoints_of(&container.id).find_map(|e| e.wire.as_ref());
    match first {
        Some(wire) => wire.addresses().map(|address| format!("{address}\t{hostname}\n")).collect(),
        None => format!("{OWN_ADDRESS_WITHOUT_NETWORK}\t{hostname}\n"),
    }
}

/// The lines of one network: its running containers, and `viewer` itself, which is to find its own name before it
/// runs.
pub(crate) fn network_lines(state: &State, network: &NetworkId, viewer: Option<&Container>) -> String {
    let Some(network) = state.network(network) else { return String::new() };
    let shown = |c: &Container| c.phase == Phase::Running || viewer.is_some_and(|v| v.id == c.id);
    let mut members: Vec<(&Wire, &Container, &Endpoint)> = state
        .endpoints_in(&network.id)
        .filter_map(|e| Some((e.wire.as_ref()?, state.container(&e.container)?, e)))
        .filter(|(_, c, _)| shown(c))
        .collect();
    members.sort_by_key(|(wire, _, _)| (wire.ipv4, wire.ipv6));
    let mut text = String::new();
    for (wire, container, endpoint) in members {
        let aliases = container.attachment(&endpoint.network).map_or(&[][..], |a| &a.aliases);
        for address in wire.addresses() {
            for name in [&container.name].into_iter().chain(aliases) {
                push_name(&mut text, address, name, &network.name);
            }
        }
    }
    text
}

fn push_name(text: &mut String, address: IpAddr, name: &Name, network: &Name) {
    write!(text, "{address}\t{name}\n{address}\t{name}.{network}\n")
        .expect("a String takes what it is given");
}
