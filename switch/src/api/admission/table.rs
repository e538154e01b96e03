//! Who has which connections, and what for.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, Semaphore};

use super::bounds::{Bound, Bounds, CLASSES, Class};
use crate::daemon::Client;

/// Questions of one client that are answered at the same time; further ones take turns. An answer may take some
/// milliseconds to put together, which others wait for.
const READS_AT_ONCE: usize = 8;

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this session has {max} {} at vswitchd, as many as one may have; end some of them, or try again later", class.noun())]
    Client { class: Class, max: u32 },
    #[error("user {user} has {max} {} at vswitchd, as many as one may have; end some of them, or try again later", class.noun())]
    User { class: Class, user: u32, max: u32 },
    #[error("vswitchd has {max} {}, as many as it serves; try again later, or raise its descriptor limit", class.noun())]
    All { class: Class, max: u32 },
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// Nothing was sent since the connection began or the last answer ended.
    Idle,
    /// A request has begun and its head is not complete.
    Heading,
    Working(Option<Class>),
}

#[derive(Debug)]
struct Entry {
    client: Client,
    doing: Doing,
    /// Since when, in the order of all such changes.
    since: u64,
    signals: Arc<Signals>,
}

/// What the table and the connection tell each other.
#[derive(Debug, Default)]
pub struct Signals {
    /// The connection is to end.
    pub evicted: Notify,
    /// A part of an answer waits for the client to read. Such a connection does not give way.
    pub is_writing: AtomicBool,
}

#[derive(Debug, Default)]
struct Uses([u32; CLASSES]);

#[derive(Debug)]
struct OfClient {
    uses: Uses,
    reads: Arc<Semaphore>,
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Admitted {
    pub number: u64,
    pub signals: Arc<Signals>,
    pub reads: Arc<Semaphore>,
}

#[derive(Debug)]
pub struct Table {
    bounds: Bounds,
    entries: BTreeMap<u64, Entry>,
    clients: HashMap<Client, OfClient>,
    users: HashMap<u32, Uses>,
    all: Uses,
    next: u64,
    refusals: u64,
    evictions: u64,
}

/// Figures for those who look after the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    pub connections: u32,
    pub connections_max: u32,
    pub streams: u32,
    pub streams_max: u32,
    pub refusals: u64,
    pub evictions: u64,
}

impl Table {
    pub fn new(bounds: Bounds) -> Table {
        Table {
            bounds,
            entries: BTreeMap::new(),
            clients: HashMap::new(),
            users: HashMap::new(),
            all: Uses::default(),
            next: 0,
            refusals: 0,
            evictions: 0,
        }
    }

    /// Takes a place for a new connection. Where there is none, the connection that has waited longest for its client to
    /// send a request gives way: of the client itself or of its user if theirs are all taken, otherwise of the client that
    /// has most.
    pub fn admit(&mut self, client: Client) -> Result<Admitted, Refusal> {
        let class = Class::Connection;
        while let Err(refused) = self.check(client, class) {
            let Some(victim) = self.victim(client, refused) else {
                self.refusals += 1;
                return Err(refused);
            };
            self.evict(victim);
        }
        self.count(client, class);
        let number = self.tick();
        let signals = Arc::<Signals>::default();
        let entry = Entry { client, doing: Doing::Idle, since: number, signals: Arc::clone(&signals) };
        self.entries.insert(number, entry);
        let reads = Arc::clone(&self.clients.get(&client).expect("it was just counted").reads);
        Ok(Admitted { number, signals, reads })
    }

    /// The connection is gone.
    pub fn end(&mut self, number: u64) {
        let Some(entry) = self.entries.remove(&number) else { return };
        if let Doing::Working(Some(class)) = entry.doing {
            self.discount(entry.client, class);
        }
        self.discount(entry.client, Class::Connection);
    }

    /// Something of a request was read.
    pub fn head_begins(&mut self, number: u64) {
        let now = self.tick();
        if let Some(entry) = self.entries.get_mut(&number).filter(|entry| entry.doing == Doing::Idle) {
            (entry.doing, entry.since) = (Doing::Heading, now);
        }
    }

    /// A request is complete as far as its head. Refusal, it is answered all the same.
    pub fn work_begins(&mut self, number: u64, class: Option<Class>) -> Result<(), Refusal> {
        let Some(client) = self.entries.get(&number).map(|entry| entry.client) else { return Ok(()) };
        let checked = class.map_or(Ok(()), |class| self.check(client, class));
        self.refusals += u64::from(checked.is_err());
        let counted = class.filter(|_| checked.is_ok());
        if let Some(class) = counted {
            self.count(client, class);
        }
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.doing = Doing::Working(counted);
        }
        checked
    }

    /// The answer is written.
    pub fn work_ends(&mut self, number: u64) {
        let now = self.tick();
        let Some(entry) = self.entries.get_mut(&number) else { return };
        let (client, done) = (entry.client, std::mem::replace(&mut entry.doing, Doing::Idle));
        entry.since = now;
        if let Doing::Working(Some(class)) = done {
            self.discount(client, class);
        }
    }

    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    pub fn occupancy(&self) -> Occupancy {
        let [connections, streams, ..] = self.all.0;
        Occupancy {
            connections,
            connections_max: self.bounds.of(Class::Connection).all,
            streams,
            streams_max: self.bounds.of(Class::Stream).all,
            refusals: self.refusals,
            evictions: self.evictions,
        }
    }

    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn check(&self, client: Client, class: Class) -> Result<(), Refusal> {
        let Bound { client: of_client, user: of_user, all } = self.bounds.of(class);
        let at = class as usize;
        let user = client.user;
        if self.clients.get(&client).is_some_and(|held| held.uses.0[at] >= of_client) {
            return Err(Refusal::Client { class, max: of_client });
        }
        if self.users.get(&user).is_some_and(|uses| uses.0[at] >= of_user) {
            return Err(Refusal::User { class, user, max: of_user });
        }
        if self.all.0[at] >= all {
            return Err(Refusal::All { class, max: all });
        }
        Ok(())
    }

    fn victim(&self, client: Client, refused: Refusal) -> Option<u64> {
        let is_candidate = |entry: &Entry| match refused {
            Refusal::Client { .. } => entry.client == client,
            Refusal::User { .. } => entry.client.user == client.user,
            Refusal::All { .. } => true,
        };
        let may_go = |entry: &Entry| match entry.doing {
            Doing::Idle => self.bounds.closes_idle && !entry.signals.is_writing.load(Ordering::Relaxed),
            Doing::Heading => true,
            Doing::Working(_) => false,
        };
        let held = |entry: &Entry| self.clients.get(&entry.client).map_or(0, |c| c.uses.0[0]);
        let candidates = self.entries.iter().filter(|(_, entry)| is_candidate(entry) && may_go(entry));
        let longest = candidates.min_by_key(|(_, entry)| (std::cmp::Reverse(held(entry)), entry.since));
        longest.map(|(number, _)| *number)
    }

    fn evict(&mut self, number: u64) {
        if let Some(entry) = self.entries.get(&number) {
            entry.signals.evicted.notify_one();
        }
        self.evictions += 1;
        self.end(number);
    }

    fn count(&mut self, client: Client, class: Class) {
        let at = class as usize;
        let of_client = self.clients.entry(client).or_insert_with(|| OfClient {
            uses: Uses::default(),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
        });
        of_client.uses.0[at] += 1;
        self.users.entry(client.user).or_default().0[at] += 1;
        self.all.0[at] += 1;
    }

    fn discount(&mut self, client: Client, class: Class) {
        let at = class as usize;
        self.all.0[at] -= 1;
        if let Some(of_client) = self.clients.get_mut(&client) {
            of_client.uses.0[at] -= 1;
            if of_client.uses.0 == [0; CLASSES] {
                self.clients.remove(&client);
            }
        }
        if let Some(uses) = self.users.get_mut(&client.user) {
            uses.0[at] -= 1;
            if uses.0 == [0; CLASSES] {
                self.users.remove(&client.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Client = Client { user: 0, session: 1 };
    const B: Client = Client { user: 0, session: 2 };
    const OTHER: Client = Client { user: 7, session: 3 };

    /// 32 connections, 24 for a user and 8 for a client; 16 streams, 12 and 4.
    fn table() -> Table {
        Table::new(Bounds::of_api(64))
    }

    fn working(table: &mut Table, client: Client, class: Option<Class>) -> Result<u64, Refusal> {
        let number = table.admit(client)?.number;
        table.work_begins(number, class).map(|()| number)
    }

    fn session(session: i32) -> Client {
        Client { user: 0, session }
    }

    #[test]
    fn a_client_has_its_part_and_a_user_his() {
        let mut table = table();
        for _ in 0..8 {
            working(&mut table, A, None).unwrap();
        }
        assert_eq!(table.admit(A).unwrap_err(), Refusal::Client { class: Class::Connection, max: 8 });
        for n in 0..16 {
            working(&mut table, session(10 + n), None).unwrap();
        }
        let full = Refusal::User { class: Class::Connection, user: 0, max: 24 };
        assert_eq!(table.admit(B).unwrap_err(), full);
        for _ in 0..8 {
            working(&mut table, OTHER, None).unwrap();
        }
        let third = Client { user: 8, session: 4 };
        assert_eq!(table.admit(third).unwrap_err(), Refusal::All { class: Class::Connection, max: 32 });
        assert_eq!(table.occupancy().refusals, 3);
    }

    #[test]
    fn streams_leave_room_for_other_requests() {
        let mut table = table();
        let streams: Vec<u64> =
            (0..4).map(|_| working(&mut table, A, Some(Class::Stream)).unwrap()).collect();
        let refused = working(&mut table, A, Some(Class::Stream)).unwrap_err();
        assert_eq!(refused, Refusal::Client { class: Class::Stream, max: 4 });
        assert!(refused.to_string().starts_with("this session has 4 streams (events, logs, "), "{refused}");
        working(&mut table, A, None).unwrap();
        working(&mut table, B, Some(Class::Stream)).unwrap();
        table.work_ends(streams[0]);
        working(&mut table, A, Some(Class::Stream)).unwrap();
    }

    #[test]
    fn what_waits_for_its_client_gives_way() {
        let mut table = table();
        let mut connections: Vec<Admitted> = Vec::new();
        for n in 0..24 {
            connections.push(table.admit(session(n / 8)).unwrap());
        }
        for connection in &connections[8..] {
            table.work_begins(connection.number, None).unwrap();
        }
        table.head_begins(connections[0].number);
        connections[2].signals.is_writing.store(true, Ordering::Relaxed);
        // Of the same user: the second is the oldest by now.
        let next = table.admit(session(9)).unwrap();
        table.work_begins(next.number, None).unwrap();
        assert_eq!(table.occupancy().evictions, 1);
        assert!(!table.entries.contains_key(&connections[1].number));
        // One that is gone has no place to give back.
        table.end(connections[1].number);
        assert_eq!(table.occupancy().connections, 24);
        let busy = connections.iter().skip(8).all(|c| table.entries.contains_key(&c.number));
        assert!(busy, "none that works");
    }

    #[test]
    fn the_client_with_most_connections_gives_way_to_others() {
        let mut table = table();
        let modest = table.admit(Client { user: 9, session: 1 }).unwrap();
        let greedy: Vec<u64> =
            (0..31).map(|n| table.admit(Client { user: n / 8, session: 5 }).unwrap().number).collect();
        table.admit(Client { user: 10, session: 1 }).unwrap();
        assert!(table.entries.contains_key(&modest.number), "it has waited longest, but has only one");
        assert!(!table.entries.contains_key(&greedy[0]));
    }

    #[test]
    fn an_engine_keeps_idle_connections_and_not_half_requests() {
        let mut table = Table::new(Bounds::of_plugin(64));
        let all: Vec<u64> = (0..12).map(|_| table.admit(A).unwrap().number).collect();
        assert!(table.admit(A).is_err());
        table.head_begins(all[5]);
        table.admit(A).unwrap();
        assert!(!table.entries.contains_key(&all[5]));
    }

    #[test]
    fn nothing_is_left_of_those_that_went() {
        let mut table = table();
        let classes = [None, Some(Class::Stream), Some(Class::Body), Some(Class::Snapshot)];
        let all: Vec<u64> = classes.into_iter().map(|class| working(&mut table, A, class).unwrap()).collect();
        table.work_ends(all[1]);
        all.into_iter().for_each(|number| table.end(number));
        assert!(table.entries.is_empty() && table.clients.is_empty() && table.users.is_empty());
        assert_eq!(table.all.0, [0; CLASSES]);
    }
}
