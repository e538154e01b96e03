//! `/etc/hosts` while containers come and go.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::ensure;
use vswitch_tests::Lab;
use vswitch_tests::wait::eventually;

/// Whether it is twelve hexadecimal digits.
fn is_short_id(name: &str) -> bool {
    name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Address and name of each line that stands for a container of a network, but for the short ids.
fn names(file: &str) -> BTreeSet<(String, String)> {
    let lines = file.lines().skip(7).filter_map(|line| line.split_once('\t'));
    let lines = lines.filter(|(_, name)| !is_short_id(name));
    lines.map(|(address, name)| (address.into(), name.into())).collect()
}

fn wait_for_names(lab: &Lab, container: &str, expected: &[(&str, &str)]) {
    let expected: BTreeSet<_> = expected.iter().map(|&(a, n)| (a.to_string(), n.to_string())).collect();
    eventually(&format!("the names that {container} knows"), || {
        let file = lab.exec_ok(container, &["cat", "/etc/hosts"]);
        ensure!(names(&file) == expected, "{file}");
        Ok(())
    });
}

#[test]
fn the_file_follows_every_change() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--subnet", "10.3.0.0/24", "net"]);
    lab.run_idle("a", &["--net=net"]);
    let alone = [("10.3.0.2", "a"), ("10.3.0.2", "a.net")];
    wait_for_names(&lab, "a", &alone);
    lab.run_idle("b", &["--net=net"]);
    let two = [alone.as_slice(), &[("10.3.0.3", "b"), ("10.3.0.3", "b.net")]].concat();
    wait_for_names(&lab, "a", &two);
    lab.run_idle("c", &[]);
    lab.ok(&["network", "connect", "net", "c"]);
    let three = [two.as_slice(), &[("10.3.0.4", "c"), ("10.3.0.4", "c.net")]].concat();
    wait_for_names(&lab, "a", &three);
    wait_for_names(&lab, "b", &three);
    lab.ok(&["network", "disconnect", "net", "c"]);
    wait_for_names(&lab, "a", &two);
    wait_for_names(&lab, "c", &[("172.17.0.2", "c"), ("172.17.0.2", "c.bridge")]);
    lab.ok(&["stop", "-t", "0", "b"]);
    wait_for_names(&lab, "a", &alone);
    lab.ok(&["rm", "b"]);
    // A container that ends by itself goes from the file, too.
    lab.ok(&["run", "-d", "--net=net", "--name=short", "--", "true"]);
    lab.wait_until_exited("short");
    wait_for_names(&lab, "a", &alone);
}

#[test]
fn own_lines_and_the_files_beside_it() {
    let lab = Lab::new();
    let id = lab.run_idle("a", &[]);
    let short = &id[..12];
    let hosts = lab.exec_ok("a", &["cat", "/etc/hosts"]);
    assert!(hosts.starts_with(&format!("172.17.0.2\t{short}\n127.0.0.1\tlocalhost\n")), "{hosts}");
    assert_eq!(lab.exec_ok("a", &["hostname"]), format!("{short}\n"));
    assert_eq!(lab.exec_ok("a", &["cat", "/etc/hostname"]), format!("{short}\n"));
    lab.assert_reaches("a", short);
    lab.exec_ok("a", &["cat", "/etc/resolv.conf"]);
    // They are the container's own, and the machine's stay as they are.
    let machine = lab.sh("cat /etc/hosts");
    assert_ne!(machine, hosts);
    let (mine, own) =
        (lab.sh("stat -c %d:%i /etc/hosts"), lab.exec_ok("a", &["stat", "-c", "%d:%i", "/etc/hosts"]));
    assert_ne!(mine, own);
    lab.run_idle("alone", &["--net=none"]);
    let alone = lab.exec_ok("alone", &["cat", "/etc/hosts"]);
    assert!(alone.contains("127.0.0.1\tlocalhost\n") && !alone.contains("172.17."), "{alone}");
    let own_name = lab.exec_ok("alone", &["hostname"]);
    lab.assert_reaches("alone", own_name.trim_end());
}

#[test]
fn short_ids_are_names() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--subnet", "10.3.0.0/24", "--ipv6", "--subnet", "fd03::/64", "net"]);
    let a = lab.run_idle("a", &["--net=net", "--hostname=www"]);
    let b = lab.run_idle("b", &["--net=net"]);
    let outside = lab.run_idle("outside", &[]);
    for (from, to) in [("a", &b), ("b", &a), ("a", &a)] {
        lab.assert_reaches(from, &to[..12]);
    }
    let hosts = lab.exec_ok("b", &["cat", "/etc/hosts"]);
    let address = lab.inspect("a").network_settings.networks["net"].global_ipv6_address.clone();
    assert!(hosts.contains(&format!("{address}\t{}\n", &a[..12])), "{hosts}");
    let short = &outside[..12];
    let unknown = format!("ping: bad address '{short}'\n");
    assert_eq!(lab.ping("a", short).output.stderr, unknown, "of another network");
    lab.ok(&["rm", "-f", "b"]);
    eventually("it is gone", || {
        ensure!(!lab.exec_ok("a", &["cat", "/etc/hosts"]).contains(&b[..12]));
        Ok(())
    });
}

#[test]
fn a_bind_mount_of_the_file_survives_changes() {
    let lab = Lab::new();
    lab.run_idle("a", &[]);
    let inode = lab.exec_ok("a", &["stat", "-c", "%d:%i", "/etc/hosts"]);
    for name in ["b", "c"] {
        lab.run_idle(name, &[]);
        eventually(&format!("{name} appears"), || {
            ensure!(lab.exec_ok("a", &["cat", "/etc/hosts"]).contains(&format!("\t{name}.bridge\n")));
            Ok(())
        });
        lab.ok(&["rm", "-f", name]);
    }
    assert_eq!(lab.exec_ok("a", &["stat", "-c", "%d:%i", "/etc/hosts"]), inode);
}

#[test]
fn aliases_are_names_within_their_network_only() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--subnet", "10.3.0.0/24", "net"]);
    lab.run_idle("client", &["--net=net"]);
    lab.run_idle("outside", &[]);
    lab.run_idle("server", &[]);
    lab.ok(&["network", "connect", "--alias=web", "--alias=www", "net", "server"]);
    for name in ["server", "server.net", "web", "www"] {
        lab.assert_reaches("client", name);
    }
    assert_eq!(lab.ping("outside", "web").output.stderr, "ping: bad address 'web'\n");
    lab.ok(&["network", "disconnect", "net", "server"]);
    wait_for_names(&lab, "client", &[("10.3.0.2", "client"), ("10.3.0.2", "client.net")]);
}

/// Is this a whole hosts file? One that was cut anywhere, or mixed of two, is not. Empty lines at the end are what it had
/// while a reader kept it open for longer than the daemon waits (ADR 5).
fn check_whole(file: &str, own_line: &str) -> anyhow::Result<()> {
    let localhost = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
        ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
    let rest = file.strip_prefix(own_line).and_then(|rest| rest.strip_prefix(localhost));
    let Some(rest) = rest else { anyhow::bail!("it does not begin as it should") };
    ensure!(rest.ends_with('\n'), "the last line is cut");
    let lines: Vec<_> = rest.trim_end_matches('\n').lines().collect();
    ensure!(lines.len() % 3 == 0, "a container lacks one of its names");
    let (pairs, ids) = lines.split_at(lines.len() / 3 * 2);
    for (pair, id) in pairs.chunks(2).zip(ids) {
        ensure!(pair[1] == format!("{}.bridge", pair[0]), "{pair:?} is no pair of names");
        let [name, id] = [pair[0], id].map(|line| line.split_once('\t').unwrap_or_default());
        ensure!(name.0 == id.0 && is_short_id(id.1), "{id:?} is not the short id of {name:?}");
    }
    Ok(())
}

#[test]
fn a_reader_never_sees_half_a_file() {
    let lab = Lab::new();
    let id = lab.run_idle("reader", &[]);
    let own_line = format!("172.17.0.2\t{}\n", &id[..12]);
    let path = lab.file("reader", "/etc/hosts");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buffer = vec![0; 64 << 10];
            let mut versions = BTreeSet::new();
            // One read takes the whole file, as cat and the C library do it.
            while !done.load(Ordering::Relaxed) {
                let bytes = File::open(&path).unwrap().read(&mut buffer).unwrap();
                versions.insert(String::from_utf8_lossy(&buffer[..bytes]).into_owned());
            }
            versions
        });
        for round in 0..8 {
            let names = ["x", "a-much-longer-name"].map(|name| format!("{name}{round}"));
            names.iter().for_each(|name| drop(lab.run_idle(name, &[])));
            names.iter().for_each(|name| drop(lab.ok(&["rm", "-f", name])));
        }
        done.store(true, Ordering::Relaxed);
        let versions = reader.join().unwrap();
        assert!(versions.len() > 8, "the reader saw {} versions only", versions.len());
        for file in versions {
            check_whole(&file, &own_line).unwrap_or_else(|e| panic!("{e}: {file:?}"));
        }
    });
}

#[test]
fn ten_containers_at_once() {
    let lab = Lab::new();
    let containers: Vec<_> = (0..10).map(|i| format!("c{i}")).collect();
    thread::scope(|scope| {
        for name in &containers {
            scope.spawn(|| lab.run_idle(name, &[]));
        }
    });
    let mut expected = BTreeSet::new();
    for name in &containers {
        let address = lab.address(name, "bridge");
        expected.insert((address.clone(), name.clone()));
        expected.insert((address, format!("{name}.bridge")));
    }
    let addresses: BTreeSet<_> = expected.iter().map(|(address, _)| address.clone()).collect();
    assert_eq!(addresses, (2..12).map(|i| format!("172.17.0.{i}")).collect());
    for name in &containers {
        eventually(&format!("{name} knows all"), || {
            let file = lab.exec_ok(name, &["cat", "/etc/hosts"]);
            ensure!(names(&file) == expected, "{file}");
            Ok(())
        });
    }
    lab.assert_reaches("c0", "c9");
    lab.assert_reaches("c9", "c0.bridge");
}
