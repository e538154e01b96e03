//! Docker's networking guide of 2015, step by step, with the addresses and key names of today.

use anyhow::ensure;
use vswitch_tests::Lab;
use vswitch_tests::wait::eventually;

/// What every `/etc/hosts` of the guide has between the container's own line and the names.
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    ff00::0\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

const BRIDGE_NAMES: &str = "172.17.0.2\tcontainer1\n\
    172.17.0.2\tcontainer1.bridge\n\
    172.17.0.3\tcontainer2\n\
    172.17.0.3\tcontainer2.bridge\n";

fn hosts(first_address: &str, id: &str, names: &str) -> String {
    format!("{first_address}\t{}\n{LOCALHOST}{names}", &id[..12])
}

/// The lines of the short ids, which follow the names of a network.
fn short_ids(members: &[(&str, &String)]) -> String {
    members.iter().map(|(address, id)| format!("{address}\t{}\n", &id[..12])).collect()
}

fn assert_hosts(lab: &Lab, container: &str, expected: &str) {
    eventually(&format!("the hosts file of {container}"), || {
        let file = lab.exec_ok(container, &["cat", "/etc/hosts"]);
        ensure!(file == expected, "it is {file:?}\ninstead of {expected:?}");
        Ok(())
    });
}

/// Network names with their drivers, in the order shown.
fn listed(lab: &Lab) -> Vec<(String, String)> {
    let table = lab.ok(&["network", "ls"]);
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().map(String::from).collect::<Vec<_>>());
    rows.map(|columns| (columns[1].clone(), columns[2].clone())).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|&(name, driver)| (name.into(), driver.into())).collect()
}

/// Ids, addresses and hardware addresses of a network's containers.
fn members(lab: &Lab, network: &str) -> Vec<(String, String, String, String)> {
    let containers = lab.inspect_network(network).containers;
    let mut rows: Vec<_> =
        containers.into_iter().map(|(id, c)| (c.name, id, c.mac_address, c.ipv4_address)).collect();
    rows.sort();
    rows
}

fn member(name: &str, id: &str, mac: &str, address: &str) -> (String, String, String, String) {
    (name.into(), id.into(), mac.into(), address.into())
}

struct Story {
    lab: Lab,
    ids: [String; 3],
}

#[test]
fn the_guide() {
    let mut story = Story { lab: Lab::new(), ids: Default::default() };
    story.default_networks();
    story.two_containers_on_bridge();
    story.they_find_each_other_by_name();
    story.an_isolated_network();
    story.a_second_network_for_container2();
    story.container3_reaches_container2_only();
    story.container2_reaches_both();
    story.container2_leaves_again();
    story.the_network_is_removed();
}

impl Story {
    fn default_networks(&self) {
        let expected = pairs(&[("bridge", "bridge"), ("host", "host"), ("none", "null")]);
        let mut networks = listed(&self.lab);
        networks.sort();
        assert_eq!(networks, expected);
        let bridge = self.lab.inspect_network("bridge");
        assert_eq!(
            (bridge.name.as_str(), bridge.driver.as_str(), bridge.scope.as_str()),
            ("bridge", "bridge", "local")
        );
        assert!(bridge.id.len() == 64 && bridge.id.bytes().all(|b| b.is_ascii_hexdigit()), "{}", bridge.id);
        assert!(bridge.containers.is_empty());
        assert_eq!(bridge.ipam.config[0].subnet, "172.17.0.0/16");
        assert_eq!(bridge.ipam.config[0].gateway, "172.17.0.1");
    }

    fn two_containers_on_bridge(&mut self) {
        for (i, name) in [(0, "container1"), (1, "container2")] {
            let printed = self.lab.ok(&["run", "-itd", &format!("--name={name}")]);
            let id = printed.trim_end_matches('\n');
            assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{printed:?}");
            self.ids[i] = id.into();
        }
        let [one, two, _] = &self.ids;
        let expected = [
            member("container1", one, "02:42:ac:11:00:02", "172.17.0.2/16"),
            member("container2", two, "02:42:ac:11:00:03", "172.17.0.3/16"),
        ];
        assert_eq!(members(&self.lab, "bridge"), expected);
        for container in self.lab.inspect_network("bridge").containers.values() {
            assert_eq!(container.endpoint_id.len(), 64);
            assert_eq!(container.ipv6_address, "");
        }
    }

    fn they_find_each_other_by_name(&self) {
        let lab = &self.lab;
        for (name, address, other) in
            [("container1", "172.17.0.2", "container2"), ("container2", "172.17.0.3", "container1")]
        {
            let ifconfig = lab.exec_ok(name, &["busybox", "ifconfig"]);
            let mac = format!("HWaddr 02:42:AC:11:00:0{}", &address[9..]);
            let inet = format!("inet addr:{address} ");
            for expected in [&mac, &inet, "Mask:255.255.0.0", "MTU:1500", "127.0.0.1", "UP BROADCAST RUNNING"]
            {
                assert!(ifconfig.contains(expected), "no `{expected}` in {ifconfig}");
            }
            assert!(!ifconfig.contains("eth1"), "{ifconfig}");
            // In 2015 there was an IPv6 link-local address, too. Docker gives none any more where a network has no IPv6.
            assert!(!ifconfig.contains("Scope:Link"), "{ifconfig}");
            lab.assert_reaches(name, other);
            lab.assert_reaches(name, &format!("{other}.bridge"));
        }
        let names = self.bridge_lines();
        assert_hosts(lab, "container1", &hosts("172.17.0.2", &self.ids[0], &names));
        assert_hosts(lab, "container2", &hosts("172.17.0.3", &self.ids[1], &names));
    }

    fn bridge_lines(&self) -> String {
        let ids = [("172.17.0.2", &self.ids[0]), ("172.17.0.3", &self.ids[1])];
        format!("{BRIDGE_NAMES}{}", short_ids(&ids))
    }

    fn an_isolated_network(&mut self) {
        let lab = &self.lab;
        let printed = lab.ok(&["network", "create", "-d", "bridge", "isolated_nw"]);
        assert_eq!(lab.inspect_network("isolated_nw").id, printed.trim_end());
        assert!(lab.inspect_network("isolated_nw").containers.is_empty());
        let mut networks = listed(lab);
        networks.sort();
        let expected = [("bridge", "bridge"), ("host", "host"), ("isolated_nw", "bridge"), ("none", "null")];
        assert_eq!(networks, pairs(&expected));
        let printed = lab.ok(&["run", "--net=isolated_nw", "-itd", "--name=container3"]);
        self.ids[2] = printed.trim_end().into();
        let expected = [member("container3", &self.ids[2], "02:42:ac:12:00:02", "172.18.0.2/16")];
        assert_eq!(members(lab, "isolated_nw"), expected);
    }

    fn a_second_network_for_container2(&self) {
        let lab = &self.lab;
        lab.ok(&["network", "connect", "isolated_nw", "container2"]);
        let expected = [
            member("container2", &self.ids[1], "02:42:ac:12:00:03", "172.18.0.3/16"),
            member("container3", &self.ids[2], "02:42:ac:12:00:02", "172.18.0.2/16"),
        ];
        assert_eq!(members(lab, "isolated_nw"), expected);
        let format = "--format={{.NetworkSettings.Networks}}";
        assert_eq!(lab.ok(&["inspect", format, "container2"]), "[bridge isolated_nw]\n");
        let ifconfig = lab.exec_ok("container2", &["busybox", "ifconfig"]);
        for expected in
            ["HWaddr 02:42:AC:11:00:03", "eth1 ", "HWaddr 02:42:AC:12:00:03", "inet addr:172.18.0.3 "]
        {
            assert!(ifconfig.contains(expected), "no `{expected}` in {ifconfig}");
        }
    }

    fn container3_reaches_container2_only(&self) {
        let lab = &self.lab;
        lab.assert_reaches("container3", "container2.isolated_nw");
        lab.assert_reaches("container3", "container2");
        let by_name = lab.ping("container3", "container1").output;
        assert_eq!((by_name.code, by_name.stdout.as_str()), (1, ""), "{by_name:?}");
        assert_eq!(by_name.stderr, "ping: bad address 'container1'\n");
        lab.assert_cannot_reach("container3", "172.17.0.2");
        lab.assert_cannot_reach("container3", "172.17.0.3");
    }

    fn container2_reaches_both(&self) {
        let names = "172.18.0.2\tcontainer3\n\
            172.18.0.2\tcontainer3.isolated_nw\n\
            172.18.0.3\tcontainer2\n\
            172.18.0.3\tcontainer2.isolated_nw\n";
        let ids = [("172.18.0.2", &self.ids[2]), ("172.18.0.3", &self.ids[1])];
        let names = format!("{names}{}", short_ids(&ids));
        let expected = hosts("172.17.0.3", &self.ids[1], &format!("{}{names}", self.bridge_lines()));
        assert_hosts(&self.lab, "container2", &expected);
        assert_hosts(&self.lab, "container3", &hosts("172.18.0.2", &self.ids[2], &names));
        self.lab.assert_reaches("container2", "container3");
        self.lab.assert_reaches("container2", "container1");
    }

    fn container2_leaves_again(&self) {
        let lab = &self.lab;
        lab.ok(&["network", "disconnect", "isolated_nw", "container2"]);
        assert_eq!(
            lab.ok(&["inspect", "--format={{.NetworkSettings.Networks}}", "container2"]),
            "[bridge]\n"
        );
        let expected = [member("container3", &self.ids[2], "02:42:ac:12:00:02", "172.18.0.2/16")];
        assert_eq!(members(lab, "isolated_nw"), expected);
        let ifconfig = lab.exec_ok("container2", &["busybox", "ifconfig", "-a"]);
        assert!(ifconfig.contains("eth0 ") && !ifconfig.contains("eth1"), "{ifconfig}");
        assert_hosts(lab, "container2", &hosts("172.17.0.3", &self.ids[1], &self.bridge_lines()));
        lab.assert_cannot_reach("container2", "172.18.0.2");
        lab.assert_reaches("container2", "container1");
    }

    fn the_network_is_removed(&self) {
        let lab = &self.lab;
        let refused = lab.fails(&["network", "rm", "isolated_nw"], 4);
        assert!(refused.contains("container3"), "{refused}");
        lab.ok(&["stop", "-t", "0", "container3"]);
        assert!(lab.inspect_network("isolated_nw").containers.is_empty());
        assert_eq!(lab.ok(&["rm", "container3"]), "container3\n");
        assert_eq!(lab.ok(&["network", "rm", "isolated_nw"]), "isolated_nw\n");
        let mut networks = listed(lab);
        networks.sort();
        assert_eq!(networks, pairs(&[("bridge", "bridge"), ("host", "host"), ("none", "null")]));
    }
}
