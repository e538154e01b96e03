//! Names: the content of a container's `/etc/hosts`.
//!
//! The format is Docker's: the container's own address and hostname, the standard lines of localhost, then for
//! each of its networks in the order they were connected, and in it for each running container in the order of
//! the addresses, its name, its name with the network's, and its aliases likewise; after these, likewise ordered, the
//! short id of each. Fields are separated by a tab. In a network of the cluster it is for each container that has a lease, on whichever node.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use vswitch_proto::command::Addresses;
use vswitch_proto::id::{ContainerId, Name, NetworkId};

use super::{Container, Network, Phase, View};

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
pub fn hosts_file(view: View<'_>, container: &ContainerId) -> String {
    HostsFiles::new(view).file(container)
}

/// The files of many containers. The lines of a network are put together once for all of them.
pub(crate) struct HostsFiles<'a> {
    view: View<'a>,
    lines: BTreeMap<NetworkId, String>,
}

impl<'a> HostsFiles<'a> {
    pub(crate) fn new(view: View<'a>) -> HostsFiles<'a> {
        HostsFiles { view, lines: BTreeMap::new() }
    }

    /// What everybody in the network is told, as long as it runs.
    pub(crate) fn lines(&mut self, network: &NetworkId) -> &str {
        let view = self.view;
        self.lines.entry(*network).or_insert_with(|| network_lines(view, network, None))
    }

    pub(crate) fn file(&mut self, container: &ContainerId) -> String {
        let Some(container) = self.view.local.container(container) else { return LOCALHOST.into() };
        let mut text = own_lines(self.view, container);
        text.push_str(LOCALHOST);
        for extra in container.lab().map_or(&[][..], |spec| &spec.settings.extra_hosts) {
            writeln!(text, "{}\t{}", extra.address, extra.name).expect("a String takes what it is given");
        }
        for attachment in &container.attachments {
            text.push_str(&self.lines_for(&attachment.network, container));
        }
        text
    }

    fn lines_for(&mut self, network: &NetworkId, viewer: &Container) -> Cow<'_, str> {
        if viewer.phase == Phase::Running || self.view.local.network(network).is_none() {
            Cow::Borrowed(self.lines(network))
        } else {
            Cow::Owned(network_lines(self.view, network, Some(viewer)))
        }
    }
}

fn own_lines(view: View<'_>, container: &Container) -> String {
    let hostname = own_names(container);
    match view.wires_of(&container.id).next() {
        Some((_, wire)) => wire.addresses().map(|address| format!("{address}\t{hostname}\n")).collect(),
        None => format!("{OWN_ADDRESS_WITHOUT_NETWORK}\t{hostname}\n"),
    }
}

/// The host name, behind its fully qualified form when the container has a domain.
fn own_names(container: &Container) -> String {
    let hostname = container.hostname();
    match container.lab().and_then(|spec| spec.settings.domainname.as_ref()) {
        Some(domain) => format!("{hostname}.{domain} {hostname}"),
        None => hostname,
    }
}

/// The lines of one network.
fn network_lines(view: View<'_>, id: &NetworkId, viewer: Option<&Container>) -> String {
    view.network(id).map_or_else(String::new, |network| write_lines(network, members(view, id, viewer)))
}

/// A container in a network, as others of the network find it.
pub struct Resolvable<'a> {
    pub name: &'a Name,
    /// Its name, aliases and short id.
    pub names: BTreeSet<String>,
    pub addresses: Addresses,
}

/// The containers that are found in a network: those that run, and in a network of the cluster those that have a lease.
pub fn resolvable<'a>(view: View<'a>, id: &NetworkId) -> Vec<Resolvable<'a>> {
    members(view, id, None).into_iter().map(Member::resolvable).collect()
}

/// A container and its place in a network.
struct Member<'a> {
    id: &'a ContainerId,
    name: &'a Name,
    aliases: &'a [Name],
    addresses: Addresses,
}

impl<'a> Member<'a> {
    fn resolvable(self) -> Resolvable<'a> {
        let names = [self.name].into_iter().chain(self.aliases).map(Name::to_string);
        let (name, addresses) = (self.name, self.addresses);
        Resolvable { name, names: names.chain([self.id.short()]).collect(), addresses }
    }
}

/// Those that run in one of this node's networks, and `viewer` itself, which is to find its own name before it runs; in
/// a network of the cluster those that have a lease.
fn members<'a>(view: View<'a>, id: &NetworkId, viewer: Option<&Container>) -> Vec<Member<'a>> {
    if view.local.network(id).is_none() {
        let leases = view.shared.leases_in(id);
        let member = |lease: &'a super::shared::Lease| Member {
            id: &lease.container,
            name: &lease.container_name,
            aliases: &lease.aliases,
            addresses: lease.addresses,
        };
        return leases.map(member).collect();
    }
    let shown = |c: &Container| c.phase == Phase::Running || viewer.is_some_and(|v| v.id == c.id);
    let member = |(endpoint, wire): (&'a super::Endpoint, &'a super::Wire)| {
        let container = view.local.container(&endpoint.container).filter(|c| shown(c))?;
        let aliases = container.attachment(id).map_or(&[][..], |a| &a.aliases);
        Some(Member { id: container.shown_id(), name: &container.name, aliases, addresses: wire.granted() })
    };
    view.wires_in(id).filter_map(member).collect()
}

fn write_lines(network: &Network, mut members: Vec<Member<'_>>) -> String {
    members.sort_by_key(|member| (member.addresses.ipv4, member.addresses.ipv6));
    let mut text = String::new();
    for member in &members {
        for address in member.addresses.ips() {
            for name in [member.name].into_iter().chain(member.aliases) {
                push_name(&mut text, address, name, &network.name);
            }
        }
    }
    for member in &members {
        for address in member.addresses.ips() {
            writeln!(text, "{address}\t{}", member.id.short()).expect("a String takes what it is given");
        }
    }
    text
}

fn push_name(text: &mut String, address: IpAddr, name: &Name, network: &Name) {
    write!(text, "{address}\t{name}\n{address}\t{name}.{network}\n")
        .expect("a String takes what it is given");
}

#[cfg(test)]
mod tests {
    use vswitch_proto::command::{
        AdoptSpec, Attachment, Command, ContainerKind, ExtraHost, LabSpec, NetnsIdentity, NetnsSource,
        Settings,
    };

    use super::super::testing::{Lab, bridge, id32, pool, to};
    use super::*;

    /// As a terminal shows a tab after less than sixteen characters at the left edge.
    fn expand_tabs(text: &str) -> String {
        let line = |line: &str| match line.split_once('\t') {
            Some((left, right)) => format!("{left:0$}{right}\n", left.len() / 8 * 8 + 8),
            None => format!("{line}\n"),
        };
        text.lines().map(line).collect()
    }

    fn with_id(lab: &mut Lab, short: &str, name: &str, networks: Vec<Attachment>) -> ContainerId {
        let id = format!("{short:0<64}").parse().unwrap();
        lab.container_with_id(id, name, ContainerKind::Lab(LabSpec::default()), networks).unwrap();
        lab.start(id).unwrap();
        id
    }

    const CONTAINER1: &str = "\
172.17.0.2      f2870c98fd50
127.0.0.1       localhost
::1     localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
172.17.0.2      container1
172.17.0.2      container1.bridge
172.17.0.3      container2
172.17.0.3      container2.bridge
172.17.0.2      f2870c98fd50
172.17.0.3      bda12f892278
";
    const CONTAINER2_ON_BOTH: &str = "\
172.17.0.3      bda12f892278
127.0.0.1       localhost
::1     localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
172.17.0.2      container1
172.17.0.2      container1.bridge
172.17.0.3      container2
172.17.0.3      container2.bridge
172.17.0.2      f2870c98fd50
172.17.0.3      bda12f892278
172.20.0.1      container3
172.20.0.1      container3.isolated_nw
172.20.0.2      container2
172.20.0.2      container2.isolated_nw
172.20.0.1      777344ef4943
172.20.0.2      bda12f892278
";

    #[test]
    fn files_of_the_guide() {
        let mut lab = Lab::new();
        let default = lab.named("bridge");
        let c1 = with_id(&mut lab, "f2870c98fd50", "container1", vec![to(default)]);
        let c2 = with_id(&mut lab, "bda12f892278", "container2", vec![to(default)]);
        assert_eq!(expand_tabs(&hosts_file(View::alone(&lab.state), &c1)), CONTAINER1);
        assert!(
            hosts_file(View::alone(&lab.state), &c1)
                .starts_with("172.17.0.2\tf2870c98fd50\n127.0.0.1\tlocalhost\n")
        );

        // In the guide the gateway of a user's network is outside the addresses given first.
        let mut request = bridge(lab.network_id(), "isolated_nw");
        request.pools = vec![pool("172.20.0.0/16")];
        request.pools[0].gateway = Some("172.20.255.254".parse().unwrap());
        let isolated = request.id;
        lab.apply(Command::CreateNetwork(request)).unwrap();
        let c3 = with_id(&mut lab, "777344ef4943", "container3", vec![to(isolated)]);
        lab.connect(c2, to(isolated)).unwrap();
        assert_eq!(expand_tabs(&hosts_file(View::alone(&lab.state), &c2)), CONTAINER2_ON_BOTH);
        assert_eq!(
            expand_tabs(&hosts_file(View::alone(&lab.state), &c1)),
            CONTAINER1,
            "nothing of the other network"
        );
        assert!(
            hosts_file(View::alone(&lab.state), &c3)
                .ends_with("\tcontainer2.isolated_nw\n172.20.0.1\t777344ef4943\n172.20.0.2\tbda12f892278\n")
        );

        lab.exit(c1).unwrap();
        assert!(!hosts_file(View::alone(&lab.state), &c2).contains("container1"));
    }

    #[test]
    fn order_is_numeric_and_only_running_ones_are_named() {
        let mut lab = Lab::new();
        let network = lab.named("bridge");
        let fixed = |last| Attachment { ipv4: Some([172, 17, 0, last].into()), ..to(network) };
        let high = lab.run("high", vec![fixed(100)]).unwrap();
        let low = lab.run("low", vec![fixed(20)]).unwrap();
        let waiting =
            lab.container("waiting", ContainerKind::Lab(LabSpec::default()), vec![fixed(30)]).unwrap();
        let seen_by_low = hosts_file(View::alone(&lab.state), &low);
        let (l, h) = (seen_by_low.find("\tlow\n").unwrap(), seen_by_low.find("\thigh\n").unwrap());
        assert!(l < h && !seen_by_low.contains("waiting"), "{seen_by_low}");
        let own = hosts_file(View::alone(&lab.state), &waiting);
        assert!(
            own.contains("172.17.0.30\twaiting\n172.17.0.30\twaiting.bridge\n172.17.0.100\thigh\n"),
            "{own}"
        );
        lab.start(waiting).unwrap();
        assert!(hosts_file(View::alone(&lab.state), &high).contains("waiting.bridge"));
    }

    #[test]
    fn aliases_ipv6_and_hostnames() {
        let mut lab = Lab::new();
        let network = lab.create("six", |r| {
            r.ipv6 = true;
            r.pools = vec![pool("10.0.0.0/24"), pool("fd00:6::/64")];
        });
        let network = network.unwrap();
        let spec = LabSpec { hostname: Some("www".into()), ..LabSpec::default() };
        let wanted = Attachment { aliases: vec!["front".parse().unwrap()], ..to(network) };
        let c = lab.container("web", ContainerKind::Lab(spec), vec![wanted]).unwrap();
        let text = hosts_file(View::alone(&lab.state), &c);
        assert!(text.starts_with("10.0.0.2\twww\nfd00:6::2\twww\n127.0.0.1\tlocalhost\n"), "{text}");
        let names = "10.0.0.2\tweb\n10.0.0.2\tweb.six\n10.0.0.2\tfront\n10.0.0.2\tfront.six\n\
            fd00:6::2\tweb\nfd00:6::2\tweb.six\nfd00:6::2\tfront\nfd00:6::2\tfront.six\n";
        let ids = format!("10.0.0.2\t{0}\nfd00:6::2\t{0}\n", c.short());
        assert!(text.ends_with(&format!("{names}{ids}")), "{text}");
    }

    #[test]
    fn lines_and_a_domain_that_were_asked_for() {
        let mut lab = Lab::new();
        let network = lab.named("bridge");
        let extra =
            |name: &str, address: &str| ExtraHost { name: name.into(), address: address.parse().unwrap() };
        let settings = Settings {
            domainname: Some("example.org".into()),
            extra_hosts: vec![extra("db", "192.0.2.7"), extra("db6", "2001:db8::7")],
            ..Settings::default()
        };
        let spec = LabSpec { hostname: Some("www".into()), settings, ..LabSpec::default() };
        let c = lab.container("web", ContainerKind::Lab(spec), vec![to(network)]).unwrap();
        let text = hosts_file(View::alone(&lab.state), &c);
        assert!(text.starts_with("172.17.0.2\twww.example.org www\n127.0.0.1\tlocalhost\n"), "{text}");
        assert!(
            text.contains("ip6-allrouters\n192.0.2.7\tdb\n2001:db8::7\tdb6\n172.17.0.2\tweb\n"),
            "{text}"
        );
    }

    #[test]
    fn without_a_network_there_is_still_a_name() {
        let mut lab = Lab::new();
        let none = lab.named("none");
        let c = with_id(&mut lab, "f2870c98fd50", "alone", vec![to(none)]);
        assert_eq!(hosts_file(View::alone(&lab.state), &c), format!("127.0.1.1\tf2870c98fd50\n{LOCALHOST}"));
        let source = NetnsSource::Path("/run/netns/x".into());
        let namespace = NetnsIdentity { boot_id: 1, device: 4, inode: 1, cookie: None };
        let adopted = ContainerKind::Adopted(AdoptSpec { source, namespace, labels: Default::default() });
        let bridge = lab.named("bridge");
        let a = lab.container("a", adopted, vec![to(bridge)]).unwrap();
        lab.start(a).unwrap();
        let b = lab.run("b", vec![to(bridge)]).unwrap();
        assert!(
            hosts_file(View::alone(&lab.state), &b).contains("172.17.0.2\ta.bridge\n"),
            "adopted ones are named too"
        );
        assert_eq!(hosts_file(View::alone(&lab.state), &ContainerId(id32(99_999))), LOCALHOST);
    }
}
