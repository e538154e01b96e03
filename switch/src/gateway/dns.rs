//! Names of a network (RFC 1035): who is in it, by the names that its containers find each other by.
//!
//! A question is one name; the answer is its addresses, or that there are none of that family, or that there is no such
//! name. Only below the network's own name it is known what there is not. All others it refuses, so that whoever asked
//! goes to the next resolver. Addresses may move at any time, so nobody is to remember them for longer than `TTL_S`.
//!
//! Names of one label may be those of another network, or of a real server's search domain. A refusal makes Docker's own
//! resolver ask its next server; so does, with some engines, a denial without authority. But programs with musl hear no
//! refusal and wait until their time is over. So the refusal is for those who asked the gateway itself, which they may have
//! done beside others; on the way to a server that is not reached from here, where nobody else could answer, there is no
//! such name.
//!
//! Answers are shorter than the 512 bytes that any client takes: of a name with many addresses, `ANSWERS_MAX` are told.

use std::net::IpAddr;

use crate::forward::tables::Names;

pub const PORT: u16 = 53;

const TTL_S: u32 = 5;
const ANSWERS_MAX: usize = 8;

const HEADER_BYTES: usize = 12;
/// Of a name in text form.
const NAME_BYTES_MAX: usize = 253;
/// Where the name of the question is, as a pointer to it (section 4.1.4).
const POINTER: u16 = 0xc000 | HEADER_BYTES as u16;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

const RESPONSE: u16 = 1 << 15;
const OPCODE: u16 = 0b1111 << 11;
const AUTHORITATIVE: u16 = 1 << 10;
const RECURSION_DESIRED: u16 = 1 << 8;

const NO_SUCH_NAME: u16 = 3;
const REFUSED: u16 = 5;

/// Whom a question was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Gateway,
    /// Another one, behind the gateway.
    Elsewhere,
}

struct Question<'a> {
    id: u16,
    flags: u16,
    /// In lower case, with dots.
    name: String,
    kind: u16,
    /// As it came, to be repeated.
    bytes: &'a [u8],
}

/// The answer to a query, if it is one that has an answer.
pub fn answer(names: &Names, server: Server, query: &[u8]) -> Option<Vec<u8>> {
    let question = parse(query)?;
    let found = look_up(names, server, &question.name);
    let outcome = match found {
        Ok(_) => AUTHORITATIVE,
        Err(outcome) => outcome,
    };
    let is_asked = |ip: &&IpAddr| question.kind == if ip.is_ipv4() { TYPE_A } else { TYPE_AAAA };
    let addresses: Vec<&IpAddr> =
        found.unwrap_or_default().iter().filter(is_asked).take(ANSWERS_MAX).collect();

    let flags = RESPONSE | outcome | (question.flags & RECURSION_DESIRED);
    let mut reply = Vec::with_capacity(512);
    for word in [question.id, flags, 1, addresses.len() as u16, 0, 0] {
        reply.extend(word.to_be_bytes());
    }
    reply.extend(question.bytes);
    for address in addresses {
        push_record(&mut reply, question.kind, address);
    }
    Some(reply)
}

fn push_record(reply: &mut Vec<u8>, kind: u16, address: &IpAddr) {
    for word in [POINTER, kind, CLASS_IN] {
        reply.extend(word.to_be_bytes());
    }
    reply.extend(TTL_S.to_be_bytes());
    let octets = match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    reply.extend((octets.len() as u16).to_be_bytes());
    reply.extend(octets);
}

/// The addresses of a name, or the flags that say why there are none.
fn look_up<'a>(names: &'a Names, server: Server, name: &str) -> Result<&'a [IpAddr], u16> {
    let own = below(name, &names.network);
    let first = own.or_else(|| names.docker.iter().find_map(|network| below(name, network)));
    let found = names.addresses.get(name).or_else(|| names.addresses.get(first?));
    match found {
        Some(addresses) => Ok(addresses),
        None if own.is_some() => Err(AUTHORITATIVE | NO_SUCH_NAME),
        None if server == Server::Elsewhere && !name.contains('.') => Err(NO_SUCH_NAME),
        None => Err(REFUSED),
    }
}

/// What comes before the network's name and a dot.
fn below<'a>(name: &'a str, network: &str) -> Option<&'a str> {
    name.strip_suffix(network)?.strip_suffix('.')
}

/// A query of one question of class IN. What follows it (EDNS, RFC 6891) asks for nothing that matters here.
fn parse(query: &[u8]) -> Option<Question<'_>> {
    let word = |at: usize| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    let (id, flags, questions) = (word(0)?, word(2)?, word(4)?);
    if flags & (RESPONSE | OPCODE) != 0 || questions != 1 {
        return None;
    }
    let mut at = HEADER_BYTES;
    let mut name = String::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // No compression: there is nothing before the question to point to.
        let label = query.get(at..at + length).filter(|_| length < 64)?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(label).ok()?);
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        at += length;
    }
    let (kind, class) = (word(at)?, word(at + 2)?);
    name.make_ascii_lowercase();
    (class == CLASS_IN).then_some(Question { id, flags, name, kind, bytes: &query[HEADER_BYTES..at + 4] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let web = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let addresses = [("web".into(), web), ("db".into(), vec!["10.0.0.3".parse().unwrap()])];
        Names { network: "blue".into(), docker: vec!["front".into()], addresses: addresses.into() }
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

    /// Flags and the number of answers.
    fn told_by(server: Server, name: &str, kind: u16) -> ([u8; 2], u8) {
        let reply = answer(&names(), server, &query(name, kind)).unwrap();
        assert_eq!(reply[..2], [0xab, 0xcd]);
        ([reply[2], reply[3]], reply[7])
    }

    fn told(name: &str, kind: u16) -> ([u8; 2], u8) {
        told_by(Server::Gateway, name, kind)
    }

    #[test]
    fn a_name_of_the_network_in_full() {
        let reply = answer(&names(), Server::Gateway, &query("WEB", TYPE_A)).unwrap();
        let expected: &[u8] = &[
            0xab, 0xcd, 0x85, 0, 0, 1, 0, 1, 0, 0, 0, 0, 3, b'W', b'E', b'B', 0, 0, 1, 0, 1, 0xc0, 12, 0, 1,
            0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 2,
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
    fn a_name_with_many_addresses_fits() {
        let many = (0..200u8).map(|n| IpAddr::from([10, 0, 1, n])).collect();
        let names = Names { addresses: [("many".into(), many)].into(), ..names() };
        let reply = answer(&names, Server::Gateway, &query("many", TYPE_A)).unwrap();
        assert!(reply.len() <= 512 && reply[7] == ANSWERS_MAX as u8);
    }

    #[test]
    fn what_is_no_question_has_no_answer() {
        let answer = |query: &[u8]| answer(&names(), Server::Gateway, query);
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
}
