//! Clients of the daemon, and the order in which their changes are begun.
//!
//! A [`Client`] is a session of a user: everything that was started from one terminal, one service or one script. The
//! kernel tells the user and the process at the other end of a unix socket, and `/proc` the session of the process.
//!
//! The [`Turnstile`] lets [`OF_CLIENT_MAX`] changes of a client be under way at a time, and [`ALL_MAX`] of all clients.
//! What waits is let in by users in turn, of a user by clients in turn, and of a client in the order in which it came. So
//! a client with hundreds of changes waits for itself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::io::process;

/// Changes of one client that are under way at a time.
pub const OF_CLIENT_MAX: usize = 16;

/// Changes of all clients that are under way at a time.
pub const ALL_MAX: usize = 256;

/// Changes that wait for their turn. Beyond them a change is refused.
pub const WAITING_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    pub user: u32,
    pub session: i32,
}

impl Client {
    /// The daemon's own tasks.
    pub const DAEMON: Client = Client { user: 0, session: -1 };

    /// The client that a process belongs to. A process whose session cannot be seen is a client of its own.
    pub fn of(user: u32, process: Option<i32>) -> Client {
        let process = process.unwrap_or(0);
        Client { user, session: process::session(process).unwrap_or(process) }
    }
}

/// Too many changes wait already.
#[derive(Debug, PartialEq, Eq)]
pub struct Crowded;

#[derive(Debug, Default)]
pub struct Turnstile {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    under_way: usize,
    of_client: HashMap<Client, usize>,
    waiting: usize,
    users: VecDeque<(u32, Clients)>,
}

type Clients = VecDeque<(i32, VecDeque<oneshot::Sender<Turn>>)>;

/// The right to have a change under way. Whoever is next is let in when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turnstile: Option<Arc<Turnstile>>,
    client: Client,
}

impl Turnstile {
    /// Waits until it is the client's turn.
    pub async fn enter(self: &Arc<Self>, client: Client) -> Result<Turn, Crowded> {
        let waiting = {
            let mut inner = self.lock();
            if inner.waiting >= WAITING_MAX {
                return Err(Crowded);
            }
            let (sender, receiver) = oneshot::channel();
            inner.push(client, sender);
            receiver
        };
        self.advance();
        waiting.await.map_err(|_| Crowded)
    }

    /// Changes that wait.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// Lets in whoever may go. Those that went away meanwhile are passed over.
    fn advance(self: &Arc<Self>) {
        loop {
            let Some((client, next)) = self.lock().pop() else { return };
            if let Err(mut unused) = next.send(Turn { turnstile: Some(Arc::clone(self)), client }) {
                unused.turnstile = None;
                self.lock().end(client);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn push(&mut self, client: Client, sender: oneshot::Sender<Turn>) {
        self.waiting += 1;
        let clients = entry(&mut self.users, client.user);
        entry(clients, client.session).push_back(sender);
    }

    /// The first change of the client whose turn it is, and which may have one more under way.
    fn pop(&mut self) -> Option<(Client, oneshot::Sender<Turn>)> {
        if self.under_way >= ALL_MAX {
            return None;
        }
        let may_go = |user: u32, session: i32| {
            self.of_client.get(&Client { user, session }).is_none_or(|count| *count < OF_CLIENT_MAX)
        };
        let place = |(at, (user, clients)): (usize, &(u32, Clients))| {
            Some((at, clients.iter().position(|(session, _)| may_go(*user, *session))?))
        };
        let (at_user, at_client) = self.users.iter().enumerate().find_map(place)?;
        let (user, mut clients) = self.users.remove(at_user)?;
        let (session, mut senders) = clients.remove(at_client)?;
        let sender = senders.pop_front().expect("a client that waits has a change that waits");
        // At the end of the line, if anything is left.
        if !senders.is_empty() {
            clients.push_back((session, senders));
        }
        if !clients.is_empty() {
            self.users.push_back((user, clients));
        }
        self.waiting -= 1;
        self.under_way += 1;
        let client = Client { user, session };
        *self.of_client.entry(client).or_default() += 1;
        Some((client, sender))
    }

    fn end(&mut self, client: Client) {
        self.under_way -= 1;
        if let Some(count) = self.of_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(&client);
            }
        }
    }
}

/// The value under a key, made at the end if there is none.
fn entry<K: PartialEq, V: Default>(list: &mut VecDeque<(K, V)>, key: K) -> &mut V {
    let at = list.iter().position(|(other, _)| *other == key).unwrap_or_else(|| {
        list.push_back((key, V::default()));
        list.len() - 1
    });
    &mut list[at].1
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turnstile) = self.turnstile.take() {
            turnstile.lock().end(self.client);
            turnstile.advance();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(user: u32, session: i32) -> Client {
        Client { user, session }
    }

    /// Takes all places, by clients of their own.
    async fn filled(turnstile: &Arc<Turnstile>) -> Vec<Turn> {
        let mut turns = Vec::new();
        for n in 0..ALL_MAX as i32 {
            turns.push(turnstile.enter(client(99, n)).await.unwrap());
        }
        turns
    }

    /// Enters for each of `clients` in this order, and tells in which order they were let in.
    async fn order(clients: &[Client]) -> Vec<usize> {
        let turnstile = Arc::<Turnstile>::default();
        let mut turns = filled(&turnstile).await;
        let order = Arc::<Mutex<Vec<usize>>>::default();
        let mut tasks = Vec::new();
        for (index, client) in clients.iter().copied().enumerate() {
            let (of_task, order) = (Arc::clone(&turnstile), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let turn = of_task.enter(client).await.unwrap();
                order.lock().unwrap().push(index);
                drop(turn);
            }));
            while turnstile.waiting() <= index {
                tokio::task::yield_now().await;
            }
        }
        turns.pop();
        for task in tasks {
            task.await.unwrap();
        }
        drop(turns);
        assert_eq!(turnstile.lock().under_way, 0);
        assert!(turnstile.lock().of_client.is_empty());
        Arc::into_inner(order).unwrap().into_inner().unwrap()
    }

    #[tokio::test]
    async fn clients_take_turns() {
        let (a, b) = (client(0, 1), client(0, 2));
        let mut many = vec![a; 100];
        many.extend([b, b]);
        let order = order(&many).await;
        assert_eq!(order[..5], [0, 100, 1, 101, 2], "the other one waits for one change, not for a hundred");
        assert_eq!(order[5..], (3..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_user_with_many_sessions_is_one_user() {
        let mut many: Vec<Client> = (0..50).map(|session| client(7, session)).collect();
        many.push(client(8, 1));
        assert_eq!(order(&many).await[..3], [0, 50, 1]);
    }

    #[tokio::test]
    async fn what_a_client_has_under_way_is_bounded_and_holds_up_nobody_else() {
        let turnstile = Arc::<Turnstile>::default();
        let a = client(0, 1);
        let mut turns = Vec::new();
        for _ in 0..OF_CLIENT_MAX {
            turns.push(turnstile.enter(a).await.unwrap());
        }
        let next = tokio::spawn({
            let turnstile = Arc::clone(&turnstile);
            async move { turnstile.enter(a).await.map(drop) }
        });
        while turnstile.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        drop(turnstile.enter(client(0, 2)).await.unwrap());
        assert_eq!(turnstile.waiting(), 1, "the first client's waits");
        turns.pop();
        assert_eq!(next.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn one_that_goes_away_lets_the_next_one_in() {
        let turnstile = Arc::<Turnstile>::default();
        let mut turns = filled(&turnstile).await;
        let enter = |session: i32| {
            let turnstile = Arc::clone(&turnstile);
            tokio::spawn(async move { turnstile.enter(client(0, session)).await.map(drop) })
        };
        let (gone, next) = (enter(2), enter(3));
        while turnstile.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        turns.pop();
        assert_eq!(next.await.unwrap(), Ok(()));
        drop(turns);
        assert_eq!(turnstile.lock().under_way, 0);
    }

    #[tokio::test]
    async fn too_many_are_refused() {
        let turnstile = Arc::<Turnstile>::default();
        let turns = filled(&turnstile).await;
        let mut receivers = Vec::new();
        for _ in 0..WAITING_MAX {
            let (sender, receiver) = oneshot::channel();
            turnstile.lock().push(client(0, 1), sender);
            receivers.push(receiver);
        }
        assert_eq!(turnstile.enter(client(0, 2)).await.unwrap_err(), Crowded);
        drop(receivers);
        drop(turns);
        assert!(turnstile.enter(client(0, 2)).await.is_ok());
    }

    #[test]
    fn processes_of_one_session_are_one_client() {
        let me = std::process::id() as i32;
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let other = Client::of(0, Some(child.id() as i32));
        assert_eq!(Client::of(0, Some(me)), other);
        assert_ne!(Client::of(1, Some(me)), other);
        assert_eq!(Client::of(5, None), client(5, 0));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
