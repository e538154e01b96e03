//! Resolver of a network (RFC 1035): names and addresses of the network's containers.
//!
//! A question is one name; the answer is its addresses, or that there are none of that family, or that there is no such
//! name. Only below the network's own name, and for addresses of the network's own subnets, it is known what does not
//! exist. Everything else is refused, so that whoever asked goes to the next resolver. Addresses may move at any time, so
//! nobody is to remember them for longer than `TTL_S`.
//!
//! Names of one label may be those of another network, or of a real server's search domain. A refusal makes Docker's own
//! resolver ask its next server; so does, with some engines, a denial without authority. But programs with musl hear no
//! refusal and wait until their time is over. So the refusal is for those who asked the gateway itself, which they may have
//! done beside others; on the way to a server that is not reached from here, where nobody else could answer, there is no
//! such name.
//!
//! # Order and size
//! A name with several addresses is answered with all of them that fit, beginning with another one each time: which one
//! follows from the question's id and source port, which clients draw at random, so that no counter is needed here. An
//! answer fits into 512 bytes, or what the client takes according to EDNS (RFC 6891), at most `EDNS_BYTES_MAX`. It is not
//! marked as truncated where addresses are left out (`TC`): clients would then repeat the question over TCP, which the
//! gateway does not speak, and end up without any. The next question has others.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use crate::forward::tables::Names;

mod reverse;

pub const PORT: u16 = 53;

const TTL_S: u32 = 5;

const HEADER_BYTES: usize = 12;
/// Largest answer to a client that does not say what it takes (RFC 1035 section 4.2.1).
const PLAIN_BYTES_MAX: usize = 512;
/// Largest answer to any client: one packet on every link that IPv6 allows.
pub const EDNS_BYTES_MAX: usize = 1232;
/// Of a name in text form.
const NAME_BYTES_MAX: usize = 253;
/// Where the name of the question is, as a pointer to it (section 4.1.4).
const POINTER: u16 = 0xc000 | HEADER_BYTES as u16;

const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;
/// A record of an answer without its data: pointer, type, class, TTL, length.
const RECORD_BYTES: usize = 12;

const RESPONSE: u16 = 1 << 15;
const OPCODE: u16 = 0b1111 << 11;
const AUTHORITATIVE: u16 = 1 << 10;
const RECURSION_DESIRED: u16 = 1 << 8;

const NO_SUCH_NAME: u16 = 3;
const REFUSED: u16 = 5;

/// An OPT record without options: root name, type, size, extended code, version, flags, length.
const OPT_BYTES: usize = 11;
/// Upper eight bits of the code "version of EDNS not supported" (RFC 6891 section 9).
const BAD_VERSION: u8 = 1;

/// Whom a question was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Gateway,
    /// Another one, behind the gateway.
    Elsewhere,
}

/// A question and how it came.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub server: Server,
    pub source_port: u16,
    pub message: &'a [u8],
}

struct Question<'a> {
    id: u16,
    flags: u16,
    /// In lower case, with dots.
    name: String,
    kind: u16,
    /// As it came, to be repeated.
    bytes: &'a [u8],
    edns: Option<Edns>,
}

/// The client's OPT record.
struct Edns {
    /// Largest answer that it takes.
    bytes_max: u16,
    version: u8,
}

/// What there is under a name.
enum Found<'a> {
    Addresses(&'a [IpAddr]),
    /// Name of the container with the address that the name stands for.
    Container(&'a str),
}

/// Data of records, all of one length.
#[derive(Default)]
struct Records {
    data: Vec<u8>,
    bytes: usize,
}

impl Records {
    fn count(&self) -> usize {
        self.data.len().checked_div(self.bytes).unwrap_or(0)
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.data.chunks_exact(self.bytes.max(1))
    }
}

/// The answer to a query, if it is one that has an answer.
pub fn answer(names: &Names, query: Query<'_>) -> Option<Vec<u8>> {
    let question = parse(query.message)?;
    if question.edns.as_ref().is_some_and(|edns| edns.version != 0) {
        return Some(reply(&question, 0, BAD_VERSION, &Records::default()));
    }
    let (outcome, records) = match look_up(names, query.server, &question.name) {
        Ok(Found::Addresses(addresses)) => (AUTHORITATIVE, in_turn(addresses, &question, query.source_port)),
        Ok(Found::Container(name)) if question.kind == TYPE_PTR => {
            let data = reverse::labels(name).unwrap_or_default();
            (AUTHORITATIVE, Records { bytes: data.len(), data })
        }
        Ok(Found::Container(_)) => (AUTHORITATIVE, Records::default()),
        Err(outcome) => (outcome, Records::default()),
    };
    Some(reply(&question, outcome, 0, &records))
}

/// The addresses of the family that is asked for, beginning with another one each time.
fn in_turn(addresses: &[IpAddr], question: &Question<'_>, source_port: u16) -> Records {
    let bytes = if question.kind == TYPE_A { 4 } else { 16 };
    let mut data = Vec::new();
    for ip in addresses {
        match (question.kind, ip) {
            (TYPE_A, IpAddr::V4(ip)) => data.extend(ip.octets()),
            (TYPE_AAAA, IpAddr::V6(ip)) => data.extend(ip.octets()),
            _ => {}
        }
    }
    if let Some(count) = NonZeroUsize::new(data.len() / bytes) {
        let seed = (u32::from(question.id) << 16) | u32::from(source_port);
        // One multiplication spreads ids that are counted up, too.
        data.rotate_left((seed.wrapping_mul(0x9e37_79b9) >> 16) as usize % count * bytes);
    }
    Records { data, bytes }
}

fn reply(question: &Question<'_>, outcome: u16, extended: u8, records: &Records) -> Vec<u8> {
    let (bytes_max, opt_bytes) = match &question.edns {
        Some(edns) => (usize::from(edns.bytes_max).clamp(PLAIN_BYTES_MAX, EDNS_BYTES_MAX), OPT_BYTES),
        None => (PLAIN_BYTES_MAX, 0),
    };
    let room = bytes_max.saturating_sub(HEADER_BYTES + question.bytes.len() + opt_bytes);
    let count = (room / (RECORD_BYTES + records.bytes)).min(records.count());
    let flags = RESPONSE | outcome | (question.flags & RECURSION_DESIRED);
    let extra = u16::from(question.edns.is_some());
    let mut reply = Vec::with_capacity(bytes_max);
    for word in [question.id, flags, 1, count as u16, 0, extra] {
        reply.extend(word.to_be_bytes());
    }
    reply.extend(question.bytes);
    for data in records.iter().take(count) {
        push_record(&mut reply, question.kind, data);
    }
    if question.edns.is_some() {
        reply.push(0);
        for word in [TYPE_OPT, EDNS_BYTES_MAX as u16, u16::from(extended) << 8, 0, 0] {
            reply.extend(word.to_be_bytes());
        }
    }
    reply
}

fn push_record(reply: &mut Vec<u8>, kind: u16, data: &[u8]) {
    for word in [POINTER, kind, CLASS_IN] {
        reply.extend(word.to_be_bytes());
    }
    reply.extend(TTL_S.to_be_bytes());
    reply.extend((data.len() as u16).to_be_bytes());
    reply.extend(data);
}

/// What there is under a name, or the flags that say why there is nothing.
fn look_up<'a>(names: &'a Names, server: Server, name: &str) -> Result<Found<'a>, u16> {
    if let Some(address) = reverse::address(name) {
        return match names.containers.get(&address) {
            Some(container) => Ok(Found::Container(container)),
            None if names.subnets.iter().any(|subnet| subnet.contains(&address)) => {
                Err(AUTHORITATIVE | NO_SUCH_NAME)
            }
            None => Err(REFUSED),
        };
    }
    let own = below(name, &names.network);
    let first = own.or_else(|| names.docker.iter().find_map(|network| below(name, network)));
    let found = names.addresses.get(name).or_else(|| names.addresses.get(first?));
    match found {
        Some(addresses) => Ok(Found::Addresses(addresses)),
        None if own.is_some() => Err(AUTHORITATIVE | NO_SUCH_NAME),
        None if server == Server::Elsewhere && !name.contains('.') => Err(NO_SUCH_NAME),
        None => Err(REFUSED),
    }
}

/// What comes before the network's name and a dot.
fn below<'a>(name: &'a str, network: &str) -> Option<&'a str> {
    name.strip_suffix(network)?.strip_suffix('.')
}

/// A query of one question of class IN.
fn parse(query: &[u8]) -> Option<Question<'_>> {
    let word = |at: usize| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    let (id, flags, questions) = (word(0)?, word(2)?, word(4)?);
    if flags & (RESPONSE | OPCODE) != 0 || questions != 1 {
        return None;
    }
    let others = (word(6)?, word(8)?, word(10)?);
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
    let edns = if matches!(others, (0, 0, 1..)) { parse_edns(&query[at + 4..]) } else { None };
    (class == CLASS_IN).then_some(Question {
        id,
        flags,
        name,
        kind,
        bytes: &query[HEADER_BYTES..at + 4],
        edns,
    })
}

/// The first record after the question, if it is OPT. Other records ask for nothing that matters here.
fn parse_edns(record: &[u8]) -> Option<Edns> {
    let [0, kind_high, kind_low, bytes_high, bytes_low, _, version, ..] = *record else { return None };
    let is_whole = record.len() >= OPT_BYTES;
    (is_whole && u16::from_be_bytes([kind_high, kind_low]) == TYPE_OPT)
        .then_some(Edns { bytes_max: u16::from_be_bytes([bytes_high, bytes_low]), version })
}

#[cfg(test)]
mod tests;
