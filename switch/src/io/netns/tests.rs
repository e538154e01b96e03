use super::*;

#[test]
fn start_time_of_a_hostile_command_name() {
    let stat = b"42 (a) R 1 (b c) S 1 42 42 0 -1 4194560 10 0 0 0 1 2 3 4 20 0 1 0 987654 1000 20\n";
    assert_eq!(parse_start_time(stat), Some(987_654));
    assert_eq!(parse_start_time(b"42 (x) S 1 2 3"), None);
    assert_eq!(parse_start_time(b"no parenthesis"), None);
    assert!(start_time(std::process::id()).unwrap() > 0);
    assert_eq!(start_time(0).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn what_is_not_a_network_namespace() {
    assert!(matches!(NetNs::open(Path::new("/proc/self/ns/mnt")), Err(NetNsError::NotNetNs { .. })));
    assert!(matches!(NetNs::open(Path::new("/dev/null")), Err(NetNsError::NotNetNs { .. })));
    assert!(matches!(NetNs::open(Path::new("/nonexistent")), Err(NetNsError::Open { .. })));
    assert!(matches!(NetNs::of_pid(0), Err(NetNsError::NoProcess(0))));
}

#[test]
fn run_leaves_no_thread_behind_in_the_namespace() {
    let here = NetNs::current().unwrap();
    assert_eq!(here, NetNs::of_pid(std::process::id()).unwrap());
    let other = crate::io::test_netns();
    assert_ne!(here, other);
    assert_eq!(other.run(|| NetNs::current().unwrap()).unwrap(), other);
    assert_eq!(NetNs::current().unwrap(), here);
}

#[test]
fn a_panic_inside_reaches_the_caller() {
    let ns = crate::io::test_netns();
    let caught = std::panic::catch_unwind(|| ns.run(|| panic!("inside")));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
}

#[test]
fn a_namespace_that_gets_the_numbers_of_one_that_is_gone_is_another_one() {
    let identity = |ns: &NetNs| ns.identity().unwrap();
    let (one, other) = (crate::io::test_netns(), crate::io::test_netns());
    assert_eq!(identity(&one), identity(&one));
    assert_ne!(identity(&one), identity(&other));
    // An inode number is given again at once, as a rule.
    let mut gone = vec![identity(&one)];
    drop(one);
    for _ in 0..20 {
        let next = crate::io::test_netns();
        assert!(!gone.contains(&identity(&next)), "{gone:?}");
        gone.push(identity(&next));
    }
}
