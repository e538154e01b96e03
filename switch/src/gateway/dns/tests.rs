use std::collections::BTreeSet;

use super::*;

fn names() -> Names {
    let web: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    let containers = web.iter().map(|ip| (*ip, "Web.blue".into())).collect();
    let addresses = [("web".into(), web), ("db".into(), vec!["10.0.0.3".parse().unwrap()])];
    Names {
        network: "blue".into(),
        docker: vec!["front".into()],
        addresses: addresses.into(),
        containers,
        subnets: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
    }
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend([0, kind as u8, 0, 1]);
    bytes
}

/// With an OPT record of this size and version.
fn with_edns(mut query: Vec<u8>, bytes_max: u16, version: u8) -> Vec<u8> {
    query[11] = 1;
    query.extend([0, 0, 41]);
    query.extend(bytes_max.to_be_bytes());
    query.extend([0, version, 0, 0, 0, 0]);
    query
}

fn ask(names: &Names, server: Server, message: &[u8]) -> Option<Vec<u8>> {
    answer(names, Query { server, source_port: 40_000, message })
}

/// Flags and the number of answers.
fn told_by(server: Server, name: &str, kind: u16) -> ([u8; 2], u8) {
    let reply = ask(&names(), server, &query(name, kind)).unwrap();
    assert_eq!(reply[..2], [0xab, 0xcd]);
    ([reply[2], reply[3]], reply[7])
}

fn told(name: &str, kind: u16) -> ([u8; 2], u8) {
    told_by(Server::Gateway, name, kind)
}

/// The addresses of an answer to `question`, in order.
fn addresses(reply: &[u8], question: &[u8]) -> Vec<IpAddr> {
    let count = usize::from(u16::from_be_bytes([reply[6], reply[7]]));
    let mut at = question.len();
    let mut found = Vec::new();
    for _ in 0..count {
        let bytes = usize::from(u16::from_be_bytes([reply[at + 10], reply[at + 11]]));
        let data = &reply[at + 12..at + 12 + bytes];
        found.push(match data.len() {
            4 => <[u8; 4]>::try_from(data).unwrap().into(),
            _ => <[u8; 16]>::try_from(data).unwrap().into(),
        });
        at += 12 + bytes;
    }
    found
}

#[test]
fn a_name_of_the_network_in_full() {
    let reply = ask(&names(), Server::Gateway, &query("WEB", TYPE_A)).unwrap();
    let expected: &[u8] = &[
        0xab, 0xcd, 0x85, 0, 0, 1, 0, 1, 0, 0, 0, 0, 3, b'W', b'E', b'B', 0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0,
        1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 2,
    ];
    assert_eq!(reply, expected);
}

#[test]
fn names_that_there_are_and_others() {
    assert_eq!(told("web.blue", TYPE_AAAA), ([0x85, 0], 1));
    assert_eq!(told("db", TYPE_AAAA), ([0x85, 0], 0), "the name is there, such an address is not");
    assert_eq!(told("db", 15), ([0x85, 0], 0));
    assert_eq!(told("cache", TYPE_A), ([0x81, 5], 0), "another server may know it");
    assert_eq!(told_by(Server::Elsewhere, "cache", TYPE_A), ([0x81, 3], 0), "none does, and fast");
    assert_eq!(told("cache.blue", TYPE_A), ([0x85, 3], 0));
    assert_eq!(told("web.front", TYPE_A), ([0x85, 0], 1), "what Docker calls the network here");
    assert_eq!(told("cache.front", TYPE_A), ([0x81, 5], 0), "it may be another network's own name");
    assert_eq!(told("web.red", TYPE_A), ([0x81, 5], 0), "another network's");
    for server in [Server::Gateway, Server::Elsewhere] {
        assert_eq!(told_by(server, "example.com", TYPE_A), ([0x81, 5], 0));
        assert_eq!(told_by(server, "web", TYPE_A), ([0x85, 0], 1));
    }
    assert_eq!(told("blue", TYPE_A), ([0x81, 5], 0));
}

#[test]
fn names_of_addresses() {
    let six = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.D.F.ip6.arpa";
    for name in ["2.0.0.10.in-addr.arpa", six] {
        let question = query(name, TYPE_PTR);
        let reply = ask(&names(), Server::Gateway, &question).unwrap();
        assert_eq!((reply[2..4].to_vec(), reply[7]), (vec![0x85, 0], 1), "{name}");
        assert_eq!(reply[question.len() + 12..], *b"\x03Web\x04blue\0", "{name}");
        assert_eq!(told(name, TYPE_A), ([0x85, 0], 0), "there is a name, but no address of a name");
    }
    assert_eq!(told("77.0.0.10.in-addr.arpa", TYPE_PTR), ([0x85, 3], 0), "of the network, and nobody's");
    assert_eq!(told(&format!("4{}", &six[1..]), TYPE_PTR), ([0x85, 3], 0));
    for other in ["2.0.1.10.in-addr.arpa", "0.0.10.in-addr.arpa", &six.replace('D', "e")] {
        assert_eq!(told(other, TYPE_PTR), ([0x81, 5], 0), "{other}: another server may know it");
    }
}

/// Twelve containers, each with both families.
fn many(count: u8) -> Names {
    let ips = |n: u8| [IpAddr::from([10, 0, 1, n]), format!("fd00::{n:x}").parse().unwrap()];
    Names { addresses: [("many".into(), (1..=count).flat_map(ips).collect())].into(), ..names() }
}

#[test]
fn an_alias_of_twelve_has_all_addresses_in_changing_order() {
    for kind in [TYPE_A, TYPE_AAAA] {
        // Ids as a resolver draws them, counted up, and always the same with other source ports.
        let random = |n: u16| (n.wrapping_mul(40_503) ^ 0x5a5a, 40_000);
        for asked in [random, |n| (n, 40_000), |n| (7, 32_768 + n)] {
            let mut first = BTreeSet::new();
            for n in 0..40 {
                let (id, source_port) = asked(n);
                let mut question = query("many", kind);
                question[..2].copy_from_slice(&id.to_be_bytes());
                let message = &question[..];
                let reply = answer(&many(12), Query { server: Server::Gateway, source_port, message });
                let told = addresses(&reply.unwrap(), &question);
                let all: BTreeSet<_> = told.iter().collect();
                assert_eq!((told.len(), all.len()), (12, 12), "{told:?}");
                first.insert(told[0]);
            }
            assert!(first.len() >= 6, "{} of 12 were the first: {first:?}", first.len());
        }
    }
}

#[test]
fn an_answer_is_as_long_as_the_client_takes() {
    let names = many(200);
    for (kind, record_bytes) in [(TYPE_A, 16), (TYPE_AAAA, 28)] {
        let plain = query("many", kind);
        for (question, bytes_max) in [
            (plain.clone(), 512),
            (with_edns(plain.clone(), 100, 0), 512),
            (with_edns(plain.clone(), 800, 0), 800),
            (with_edns(plain.clone(), 4096, 0), EDNS_BYTES_MAX),
        ] {
            let reply = ask(&names, Server::Gateway, &question).unwrap();
            let count = addresses(&reply, &plain).len();
            assert!(reply.len() <= bytes_max && reply.len() + record_bytes > bytes_max, "{}", reply.len());
            assert!(reply[2] & 2 == 0 && count > 15, "not truncated: there is no TCP to ask again");
            let has_opt = question.len() > plain.len();
            assert_eq!(reply[11], u8::from(has_opt));
            if has_opt {
                assert_eq!(reply[reply.len() - 11..], [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
            }
        }
    }
    // All of them come up in the end.
    let mut seen = BTreeSet::new();
    for id in 0..2000u16 {
        let mut question = query("many", TYPE_A);
        question[..2].copy_from_slice(&id.to_be_bytes());
        seen.extend(addresses(&ask(&names, Server::Gateway, &question).unwrap(), &question));
    }
    assert_eq!(seen.len(), 200);
}

#[test]
fn another_version_of_edns() {
    let question = query("web", TYPE_A);
    let reply = ask(&names(), Server::Gateway, &with_edns(question.clone(), 1232, 1)).unwrap();
    assert_eq!((reply[3] & 0xf, reply[7], reply[11]), (0, 0, 1));
    assert_eq!(reply[question.len() + 5], 1, "the upper part of BADVERS");
    // Half a record is none.
    let cut = with_edns(question.clone(), 1232, 0);
    for length in question.len()..cut.len() {
        let reply = ask(&names(), Server::Gateway, &cut[..length]).unwrap();
        assert_eq!((reply[7], reply[11]), (1, 0), "{length}");
    }
}

#[test]
fn what_is_no_question_has_no_answer() {
    let answer = |query: &[u8]| ask(&names(), Server::Gateway, query);
    let good = query("web", TYPE_A);
    for length in 0..good.len() {
        assert_eq!(answer(&good[..length]), None, "{length}");
    }
    let with = |at: usize, byte: u8| {
        let mut query = good.clone();
        query[at] = byte;
        answer(&query)
    };
    assert!(with(2, 0x81).is_none(), "a response");
    assert!(with(5, 2).is_none(), "two questions");
    assert!(with(12, 0xc0).is_none(), "a pointer");
    assert!(with(13, 0xff).is_none(), "no text");
    assert!(with(20, 3).is_none(), "another class");
    let long = [b"x".repeat(63).as_slice(); 5].join(&b'.');
    assert!(answer(&query(std::str::from_utf8(&long).unwrap(), TYPE_A)).is_none());
}
