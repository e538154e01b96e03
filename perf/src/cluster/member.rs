//! A member of the cluster: the process that does what [`Order`]s say.

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use vswitch::cluster::service::{ClusterHandle, Config};
use vswitch::state::shared::{Applied, Shared};
use vswitch_proto::api::{ClusterJoin, JoinToken};
use vswitch_proto::command::{Attachment, CreateNetwork, Driver, PoolRequest, Reserve, Scope, SharedChange};
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId, NodeId, RequestId};

use super::disk;
use super::orders::{Answer, Held, Order, Seen, Took, Until};

/// For what has to come about by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Endpoints that are given back in one change.
const RELEASED_AT_ONCE: usize = 1000;
const SUBNET: &str = "10.0.0.0/8";

#[derive(Debug, clap::Args)]
pub struct Member {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    name: String,
    #[arg(long)]
    listen: SocketAddr,
}

/// Ends when stdin does.
pub fn run(args: &Member) -> anyhow::Result<()> {
    // As the daemon's.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (sender, orders) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    runtime.block_on(serve(args, orders))
}

async fn serve(args: &Member, mut orders: mpsc::Receiver<String>) -> anyhow::Result<()> {
    let name = args.name.parse().map_err(|error| anyhow!("a bad name: {error}"))?;
    let config = Config { listen: Some(args.listen), ..Config::new(args.dir.clone(), name) };
    let mut worker = Worker { handle: ClusterHandle::start(config).await?, made: Vec::new() };
    say(&Answer::Ready)?;
    while let Some(line) = orders.recv().await {
        let order = serde_json::from_str(&line).context("an order that is none")?;
        let answer = worker.carry_out(order).await;
        say(&answer.unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))))?;
    }
    Ok(())
}

fn say(answer: &Answer) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(answer)?)?;
    Ok(stdout.flush()?)
}

struct Worker {
    handle: ClusterHandle,
    /// Endpoints that were made here, in order.
    made: Vec<Held>,
}

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}

fn request() -> RequestId {
    RequestId(rand::random())
}

impl Worker {
    async fn carry_out(&mut self, order: Order) -> anyhow::Result<Answer> {
        match order {
            Order::Found => {
                let founded = self.handle.init().await?;
                Ok(Answer::Founded { at: founded.address, token: founded.token.0 })
            }
            Order::Join { at, token } => {
                let join = ClusterJoin { addresses: vec![at], token: JoinToken(token), discard: false };
                self.handle.join(&join).await?;
                Ok(Answer::Done)
            }
            Order::CreateNetwork => self.create_network().await,
            Order::Reserve { clients, until } => self.reserve(clients, until).await,
            Order::GiveUp => {
                let held = self.made.pop().context("no endpoint was made here")?;
                self.release(vec![held.endpoint]).await?;
                Ok(Answer::Lease(held))
            }
            Order::Take(held) => {
                let network = self.network().await?;
                let mut change = change(network, held.container);
                change.attachment.ipv4 = Some(held.address);
                let held = make(&self.handle, change).await?;
                self.made.push(held);
                Ok(Answer::Lease(held))
            }
            Order::Release => {
                for chunk in std::mem::take(&mut self.made).chunks(RELEASED_AT_ONCE) {
                    self.release(chunk.iter().map(|held| held.endpoint).collect()).await?;
                }
                Ok(Answer::Done)
            }
            Order::Await(endpoint) => self.wait_for(|state| state.lease(&endpoint).is_some()).await,
            Order::AwaitCount(count) => self.wait_for(|state| state.leases().count() == count).await,
            Order::Read { count } => self.read(count).await,
            Order::Look => self.look().await,
            Order::Recover { old } => self.recover(old).await,
            Order::Snapshot { to } => self.snapshot(&to).await,
        }
    }

    async fn create_network(&self) -> anyhow::Result<Answer> {
        let subnet = SUBNET.parse().context("a subnet")?;
        let pool = PoolRequest { subnet, gateway: None, ip_range: None, aux_addresses: Default::default() };
        let network = CreateNetwork {
            id: NetworkId(rand::random()),
            name: "bench".parse().map_err(|error| anyhow!("a bad name: {error}"))?,
            driver: Driver::Overlay,
            pools: vec![pool],
            internal: false,
            ipv6: false,
            options: Default::default(),
            labels: Default::default(),
            occupied: Vec::new(),
            builtin: false,
        };
        self.handle.propose(SharedChange::CreateNetwork(network), request()).await?;
        Ok(Answer::Done)
    }

    async fn reserve(&mut self, clients: usize, until: Until) -> anyhow::Result<Answer> {
        let network = self.network().await?;
        let begun = Instant::now();
        let mut running = JoinSet::new();
        for client in 0..clients {
            let handle = self.handle.clone();
            let count = match until {
                // What does not divide is the first ones' to make.
                Until::Made(count) => count / clients + usize::from(client < count % clients),
                Until::Ms(_) => usize::MAX,
            };
            let end = match until {
                Until::Made(_) => None,
                Until::Ms(ms) => Some(begun + Duration::from_millis(ms)),
            };
            running.spawn(async move {
                let mut made = Vec::new();
                while made.len() < count && end.is_none_or(|end| Instant::now() < end) {
                    let asked = Instant::now();
                    let held = make(&handle, change(network, ContainerId(rand::random()))).await?;
                    made.push((held, micros(asked)));
                }
                anyhow::Ok(made)
            });
        }
        let mut took = Took::default();
        while let Some(made) = running.join_next().await {
            for (held, took_us) in made?? {
                self.made.push(held);
                took.each_us.push(took_us);
            }
        }
        took.all_us = micros(begun);
        Ok(Answer::Took(took))
    }

    /// The one that was made for this, on whichever node.
    async fn network(&self) -> anyhow::Result<NetworkId> {
        self.wait_for(|state| state.networks().next().is_some()).await?;
        Ok(self.handle.state().networks().next().context("it was just seen")?.id)
    }

    async fn release(&self, endpoints: Vec<EndpointId>) -> anyhow::Result<()> {
        self.handle.propose(SharedChange::Release { endpoints }, request()).await?;
        Ok(())
    }

    async fn wait_for(&self, is_met: impl Fn(&Shared) -> bool) -> anyhow::Result<Answer> {
        let mut revisions = self.handle.watch();
        let met = async {
            while !is_met(&self.handle.state()) {
                revisions.changed().await?;
            }
            anyhow::Ok(Answer::Done)
        };
        timeout(PATIENCE, met).await.context("the state did not come")?
    }

    async fn read(&self, count: usize) -> anyhow::Result<Answer> {
        let begun = Instant::now();
        let mut each_us = Vec::with_capacity(count);
        for _ in 0..count {
            let asked = Instant::now();
            self.handle.linearizable_read().await?;
            each_us.push(micros(asked));
        }
        Ok(Answer::Took(Took { each_us, all_us: micros(begun) }))
    }

    async fn look(&self) -> anyhow::Result<Answer> {
        let status = self.handle.status(true).await;
        let leases = self.handle.state().leases().count();
        let node = status.node.context("in no cluster")?;
        Ok(Answer::Seen(Seen { node, leader: status.leader, voters: status.voters.len(), leases }))
    }

    async fn recover(&mut self, old: NodeId) -> anyhow::Result<Answer> {
        let begun = Instant::now();
        let led = async {
            loop {
                let leader = self.handle.status(true).await.leader;
                if leader.is_some_and(|leader| leader != old) {
                    return micros(begun);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let network = self.network().await?;
        let written = async {
            let held = make(&self.handle, change(network, ContainerId(rand::random()))).await?;
            anyhow::Ok((held, micros(begun)))
        };
        let both = async { tokio::join!(led, written) };
        let (leader_us, written) = timeout(PATIENCE, both).await.context("nobody leads")?;
        let (held, write_us) = written?;
        self.made.push(held);
        Ok(Answer::Recovered { leader_us, write_us })
    }

    async fn snapshot(&self, to: &Path) -> anyhow::Result<Answer> {
        let begun = Instant::now();
        let bytes = Arc::new(self.handle.save_snapshot().await?);
        let (path, written) = (to.to_owned(), bytes.clone());
        tokio::task::spawn_blocking(move || disk::save(&path, &written)).await??;
        Ok(Answer::Saved { took_us: micros(begun), bytes: bytes.len() })
    }
}

fn change(network: NetworkId, container: ContainerId) -> Reserve {
    let name = format!("container-{}", &container.to_string()[..12]);
    Reserve {
        endpoint: EndpointId(rand::random()),
        container,
        container_name: name.parse().expect("letters, digits and a dash are a name"),
        attachment: Attachment {
            network,
            scope: Scope::Cluster,
            ipv4: None,
            ipv6: None,
            mac: None,
            aliases: Vec::new(),
        },
    }
}

async fn make(handle: &ClusterHandle, reserve: Reserve) -> anyhow::Result<Held> {
    let container = reserve.container;
    match handle.propose(SharedChange::Reserve(reserve), request()).await? {
        Applied::Reserved { endpoint, addresses } => {
            let address = addresses.ipv4.context("an endpoint without an address")?;
            Ok(Held { endpoint, container, address })
        }
        other => bail!("an endpoint was asked for and {other:?} came"),
    }
}
