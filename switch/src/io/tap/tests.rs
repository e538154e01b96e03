use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::io::netlink::{GSO_BYTES, LinkConfig, TX_QUEUE_FRAMES, configure, delete_link, links};
use crate::io::test_netns;

fn has_link(ns: &NetNs, name: &str) -> bool {
    links(ns).unwrap().iter().any(|link| link.name == name)
}

fn persistent() -> TapConfig {
    TapConfig { persistent: true, ..TapConfig::default() }
}

fn set_up(ns: &NetNs, name: &str) {
    let config = LinkConfig {
        mac: "02:42:ac:11:00:02".parse().unwrap(),
        mtu: 1500,
        tx_queue_frames: TX_QUEUE_FRAMES,
        gso_bytes: GSO_BYTES,
        addresses: vec!["172.17.0.2/16".parse().unwrap()],
        gateways: vec![],
        route_metric: 0,
    };
    configure(ns, name, &config).unwrap();
}

#[test]
fn names_are_checked_before_the_kernel_sees_them() {
    for good in ["eth0", "a", "fifteen-bytes-x"] {
        assert!(wire_name(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "sixteen-bytes-xx", "a/b", "a b", "a:b", "tap%d", "a\0b", "é"] {
        assert!(matches!(wire_name(bad), Err(TapError::Name(_))), "{bad}");
    }
}

#[test]
fn the_device_is_in_its_namespace_only() {
    let ns = test_netns();
    let tap = Tap::open(&ns, "eth0", TapConfig::default()).unwrap();
    let link = links(&ns).unwrap().into_iter().find(|link| link.name == "eth0").unwrap();
    assert!(link.is_tap && !link.up);
    drop(tap);
    assert!(!has_link(&ns, "eth0"), "a device that is not persistent goes with its descriptor");
}

#[test]
fn a_persistent_device_is_found_again_by_name() {
    let ns = test_netns();
    drop(Tap::open(&ns, "eth0", persistent()).unwrap());
    let before = links(&ns).unwrap();
    let tap = Tap::open(&ns, "eth0", persistent()).unwrap();
    assert_eq!(links(&ns).unwrap().len(), before.len());
    assert!(tap.granted().csum(), "offloads are set again");
    tap.delete().unwrap();
    assert!(!has_link(&ns, "eth0"));
}

#[test]
fn two_namespaces_may_use_one_name_and_one_device_serves_one_descriptor() {
    let (a, b) = (test_netns(), test_netns());
    let in_a = Tap::open(&a, "eth0", TapConfig::default()).unwrap();
    let in_b = Tap::open(&b, "eth0", TapConfig::default()).unwrap();
    assert!(
        matches!(Tap::open(&a, "eth0", TapConfig::default()), Err(TapError::InUse(name)) if name == "eth0")
    );
    drop((in_a, in_b));
}

#[test]
fn a_device_is_waited_for_while_its_last_user_ends() {
    let ns = test_netns();
    let last = Tap::open(&ns, "eth0", persistent()).unwrap();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| Tap::open(&ns, "eth0", persistent()));
        // It has to wait, or it would have failed.
        std::thread::sleep(TapConfig::PATIENCE / 30);
        drop(last);
        next.join().unwrap().unwrap().delete().unwrap();
    });
}

#[test]
fn a_name_that_something_else_has() {
    let ns = test_netns();
    assert!(
        matches!(Tap::open(&ns, "lo", TapConfig::default()), Err(TapError::NotOurs(name)) if name == "lo")
    );
    assert!(has_link(&ns, "lo"));
}

#[test]
fn kill_switches_reach_the_device() {
    let ns = test_netns();
    let with = |offloads| {
        let config = TapConfig { offloads, ..TapConfig::default() };
        Tap::open(&ns, "eth0", config).unwrap().granted()
    };
    let all = with(Offloads::default());
    println!("granted by this kernel: {all}");
    assert!(all.csum() && all.tso4() && all.tso6() && all.tso_ecn(), "{all}");
    let no_tso = with(Offloads { no_tso: true, ..Offloads::default() });
    assert!(no_tso.csum() && !no_tso.tso4() && !no_tso.tso6() && !no_tso.tso_ecn());
    assert_eq!(no_tso.uso(), all.uso());
    let no_uso = with(Offloads { no_uso: true, ..Offloads::default() });
    assert!(no_uso.tso4() && !no_uso.uso());
    assert_eq!(with(Offloads { no_csum: true, ..Offloads::default() }).to_string(), "none");
}

/// Written to a device, a frame arrives in the namespace: the kernel answers an ARP request for its address.
#[test]
fn a_frame_each_way() {
    let ns = test_netns();
    let tap = Tap::open(&ns, "eth0", TapConfig::default()).unwrap();
    assert_eq!(tap.read(&mut [0; 100]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    set_up(&ns, "eth0");
    let mut request = vec![0; 12];
    request.extend([0xff; 6]);
    request.extend([2, 0x42, 172, 17, 0, 3, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend([2, 0x42, 172, 17, 0, 3, 172, 17, 0, 3, 0, 0, 0, 0, 0, 0, 172, 17, 0, 2]);
    assert_eq!(tap.write(&request).unwrap(), request.len());
    let reply = loop {
        wait_readable(&tap);
        let mut buffer = [0; 2000];
        let length = tap.read(&mut buffer).unwrap();
        let frame = &buffer[12..length];
        if frame[12..14] == [8, 6] {
            break frame.to_vec();
        }
    };
    assert_eq!(reply[..6], [2, 0x42, 172, 17, 0, 3]);
    assert_eq!(reply[6..12], [2, 0x42, 172, 17, 0, 2]);
    assert_eq!(reply[20..22], [0, 2], "an ARP reply");
}

#[test]
fn the_descriptor_tells_that_the_device_went() {
    let ns = test_netns();
    let tap = Tap::open(&ns, "eth0", persistent()).unwrap();
    assert!(delete_link(&ns, "eth0").unwrap());
    assert_eq!(tap.read(&mut [0; 100]).unwrap_err().raw_os_error(), Some(libc::EBADFD));
    assert_eq!(tap.write(&[0; 100]).unwrap_err().raw_os_error(), Some(libc::EBADFD));
    tap.delete().unwrap();
}

fn wait_readable(tap: &Tap) {
    let mut fds = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(Duration::from_secs(20)).unwrap();
    assert_eq!(poll(&mut fds, patience).unwrap(), 1, "nothing to read, and no end either");
}

#[test]
fn a_device_is_located_where_it_was_moved() {
    let (ns, other) = (test_netns(), test_netns());
    let tap = Tap::open(&ns, "eth0", TapConfig::default()).unwrap();
    assert_eq!(tap.namespace().unwrap(), ns.id());
    let target = format!("/proc/{}/fd/{}", std::process::id(), other.as_fd().as_raw_fd());
    let moved =
        ns.run(|| std::process::Command::new("ip").args(["link", "set", "eth0", "netns", &target]).status());
    assert!(moved.unwrap().unwrap().success());
    assert_eq!(tap.namespace().unwrap(), other.id());
    delete_link(&other, "eth0").unwrap();
    assert!(tap.namespace().is_err());
}

#[test]
fn a_device_in_use_is_waited_for_as_long_as_is_asked() {
    let ns = test_netns();
    let tap = Tap::open(&ns, "eth0", persistent()).unwrap();
    let at_once = TapConfig { patience: Duration::ZERO, ..persistent() };
    assert!(matches!(Tap::open(&ns, "eth0", at_once), Err(TapError::InUse(_))));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| Tap::open(&ns, "eth0", persistent()));
        drop(tap);
        assert!(waiting.join().unwrap().is_ok());
    });
}
