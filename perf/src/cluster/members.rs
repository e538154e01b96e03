//! The members as the rig holds them: started, told, killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;
use vswitch_proto::id::NodeId;

use super::orders::{Answer, Order, Seen, Took, Until};
use crate::stop;

/// For an answer; the longest takes as long as there are endpoints to make.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between looks for a signal.
const LOOK: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(5);
const NODES: usize = 3;
const PORT: u16 = 7946;

/// One process. It ends when this is dropped.
pub struct Member {
    number: usize,
    at: SocketAddr,
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

/// Three nodes that all vote, and their directory.
pub struct Members {
    dir: TempDir,
    members: Vec<Member>,
}

impl Member {
    /// Started, not waited for.
    fn spawn(dir: &Path, number: usize, at: SocketAddr) -> anyhow::Result<Member> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("member").arg("--dir").arg(dir.join(format!("node{number}")));
        command.args(["--name", &format!("node{number}"), "--listen", &at.to_string()]);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.context("cannot start a member")?;
        let orders = child.stdin.take().context("a member has its stdin")?;
        let stdout = child.stdout.take().context("a member has its stdout")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Member { number, at, child, orders, answers })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn tell(&mut self, order: &Order) -> anyhow::Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        self.orders.write_all(line.as_bytes()).with_context(|| format!("node{} ended", self.number))
    }

    pub fn answer(&mut self) -> anyhow::Result<Answer> {
        let deadline = Instant::now() + PATIENCE;
        let line = loop {
            stop::check()?;
            match self.answers.recv_timeout(LOOK) {
                Ok(line) => break line,
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => bail!("node{} does not answer", self.number),
                Err(RecvTimeoutError::Disconnected) => bail!("node{} ended", self.number),
            }
        };
        match serde_json::from_str(&line)? {
            Answer::Failed(why) => bail!("node{}: {why}", self.number),
            answer => Ok(answer),
        }
    }

    pub fn ask(&mut self, order: &Order) -> anyhow::Result<Answer> {
        self.tell(order)?;
        self.answer()
    }

    pub fn done(&mut self, order: &Order) -> anyhow::Result<()> {
        match self.ask(order)? {
            Answer::Done => Ok(()),
            other => bail!("node{} answered {other:?} to {order:?}", self.number),
        }
    }

    pub fn took(&mut self) -> anyhow::Result<Took> {
        match self.answer()? {
            Answer::Took(took) => Ok(took),
            other => bail!("node{} answered {other:?} when asked how long", self.number),
        }
    }

    pub fn look(&mut self) -> anyhow::Result<Seen> {
        match self.ask(&Order::Look)? {
            Answer::Seen(seen) => Ok(seen),
            other => bail!("node{} answered {other:?} when asked what it sees", self.number),
        }
    }

    /// By SIGKILL.
    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Members {
    /// Found, joined and all voting, with a network to make endpoints in.
    pub fn start(dir: &Path) -> anyhow::Result<Members> {
        let dir = tempfile::tempdir_in(dir).context("cannot make a directory for the members")?;
        let [.., high, low] = std::process::id().to_be_bytes();
        let mut members = Vec::new();
        for number in 1..=NODES {
            let at = SocketAddr::from(([127, high.max(1), low, number as u8], PORT));
            let mut member = Member::spawn(dir.path(), number, at)?;
            member.answer()?;
            members.push(member);
        }
        let mut members = Members { dir, members };
        let Answer::Founded { at, token } = members.members[0].ask(&Order::Found)? else {
            bail!("no cluster was founded")
        };
        for member in &mut members.members[1..] {
            member.done(&Order::Join { at, token: token.clone() })?;
        }
        members.until("all to vote", |members| {
            Ok(members.members[0].look()?.voters == NODES && members.members[2].look()?.voters == NODES)
        })?;
        members.members[0].done(&Order::CreateNetwork)?;
        Ok(members)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn each(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.iter_mut()
    }

    pub fn at(&mut self, index: usize) -> &mut Member {
        &mut self.members[index % NODES]
    }

    pub fn until(
        &mut self,
        what: &str,
        mut is_met: impl FnMut(&mut Members) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_met(self)? {
            anyhow::ensure!(Instant::now() < deadline, "waited in vain for {what}");
            stop::sleep(PAUSE)?;
        }
        Ok(())
    }

    /// Which one leads, as soon as all agree on it.
    pub fn leader(&mut self) -> anyhow::Result<usize> {
        let mut leader = None;
        self.until("one leader", |members| {
            let seen: Vec<Seen> = members.each().map(Member::look).collect::<Result<_, _>>()?;
            leader = seen[0].leader.and_then(|leader| seen.iter().position(|seen| seen.node == leader));
            Ok(leader.is_some() && seen.iter().all(|other| other.leader == seen[0].leader))
        })?;
        leader.context("just found")
    }

    /// How many endpoints the clients of each node made, all together, and how long each took.
    pub fn reserve(&mut self, clients: usize, until: Until) -> anyhow::Result<Took> {
        let share = |part: usize, of: usize| of / NODES + usize::from(part < of % NODES);
        for (at, member) in self.members.iter_mut().enumerate() {
            let until = match until {
                Until::Made(count) => Until::Made(share(at, count)),
                Until::Ms(ms) => Until::Ms(ms),
            };
            member.tell(&Order::Reserve { clients: share(at, clients), until })?;
        }
        let mut all = Took::default();
        for member in &mut self.members {
            let took = member.took()?;
            all.all_us = all.all_us.max(took.all_us);
            all.each_us.extend(took.each_us);
        }
        Ok(all)
    }

    pub fn release(&mut self) -> anyhow::Result<()> {
        self.members.iter_mut().try_for_each(|member| member.done(&Order::Release))?;
        self.members.iter_mut().try_for_each(|member| member.done(&Order::AwaitCount(0)))
    }

    /// Kills a node and answers its number.
    pub fn kill(&mut self, index: usize) -> anyhow::Result<NodeId> {
        let node = self.members[index].look()?.node;
        self.members[index].kill()?;
        Ok(node)
    }

    /// Starts a node that was killed. Until it is ready.
    pub fn start_again(&mut self, index: usize) -> anyhow::Result<()> {
        let Member { number, at, .. } = self.members[index];
        self.members[index] = Member::spawn(self.dir.path(), number, at)?;
        match self.members[index].answer()? {
            Answer::Ready => Ok(()),
            other => bail!("node{number} began with {other:?}"),
        }
    }
}
