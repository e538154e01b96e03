//! What a container at full power costs the others: their round trips and their throughput beside each attack, against the
//! same beside one that sends TCP as it should.
//!
//! Real daemons on machines made of namespaces, as in the suites. Attacker and target are in one network, those that are
//! measured in another. For a client of the API the calls of another client are measured too, against the same beside a
//! client that does the same one at a time and reads what it is sent.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use vswitch_tests::attack::{Attack, Attacker, Parties, Place};
use vswitch_tests::client_attack::{ATTACK, ClientAttack, KINDS, ONE};
use vswitch_tests::http::Request;
use vswitch_tests::netns::inside;
use vswitch_tests::wait::eventually;
use vswitch_tests::{Cluster, Host, Lab};

use crate::report::table::Table;
use crate::stats::quantile;

/// Before anything is measured, so that bursts that are allowed are over.
const WARM_UP: Duration = Duration::from_secs(2);

/// An answer that has not come by then is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two questions.
const PAUSE: Duration = Duration::from_micros(200);

#[derive(Debug, Clone, clap::Args)]
pub struct Fairness {
    /// For how long round trips, and then a stream, are measured
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// Attacks by a part of their names [default: all]
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

impl Fairness {
    fn is_wanted(&self, attack: &str) -> bool {
        let is_part = |part: &String| attack.to_lowercase().contains(&part.to_lowercase());
        self.only.is_empty() || self.only.iter().any(is_part)
    }
}

/// What somebody else got.
#[derive(Debug, Clone, Copy)]
struct Share {
    p50_us: f64,
    p99_us: f64,
    asked: usize,
    lost: usize,
    gbit_s: f64,
}

/// Measures, prints, and says whether every attack was within what is aimed at.
pub fn run(args: &Fairness) -> anyhow::Result<bool> {
    let lab = Lab::with(Host::new(), &[]);
    create_networks(&lab, &[]);
    let place = |name, network| Place::run(&lab, name, network);
    let attackers = (place("a1", "a"), place("a2", "a"));
    let others = (place("b1", "b"), place("b2", "b"));
    let mut is_fair = measure_all("One host", args, attackers, others)?;
    is_fair &= measure_clients(args, &lab, others)?;
    drop(lab);

    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { anyhow::bail!("there are two machines") };
    create_networks(one, &["-d", "overlay"]);
    let attackers = (Place::run(one, "a1", "a"), Place::run(two, "a2", "a"));
    let others = (Place::run(one, "b1", "b"), Place::run(two, "b2", "b"));
    for (from, to) in [attackers, others] {
        eventually("both hosts know the containers", || {
            ensure!(from.lab.ping(from.name, &to.ip().to_string()).received == 1, "no answer");
            Ok(())
        });
    }
    Ok(measure_all("Two hosts", args, attackers, others)? && is_fair)
}

fn create_networks(lab: &Lab, options: &[&str]) {
    for (network, subnet, v6) in [("a", "10.1.0.0/24", "fd01::/64"), ("b", "10.2.0.0/24", "fd02::/64")] {
        let create = ["network", "create", "--ipv6", "--subnet", subnet, "--subnet", v6];
        lab.ok(&[&create[..], options, &[network]].concat());
    }
}

fn measure_all(
    title: &str,
    args: &Fairness,
    attackers: (Place<'_>, Place<'_>),
    others: (Place<'_>, Place<'_>),
) -> anyhow::Result<bool> {
    println!("{title}: the others' exchange beside one container that sends");
    let head = ["sends", "p50 us", "p99 us", "lost", "Gbit/s", "p99 ratio", "throughput ratio", ""];
    let mut table = Table::new(head);
    let parties = Parties::of(attackers.0, attackers.1);
    let beside = |attack: Option<Attack>| {
        let start = |attack| Attacker::start(attack, &parties, &attackers.0.netns(), &attackers.1.netns());
        let attacker = attack.map(start);
        thread::sleep(WARM_UP);
        let share = measure(args, others);
        drop(attacker);
        share
    };
    let row = |name: &str, share: Share, ratios: [String; 3]| {
        let Share { p50_us, p99_us, asked, lost, gbit_s } = share;
        let [p99, throughput, judgement] = ratios;
        [
            name.to_owned(),
            format!("{p50_us:.0}"),
            format!("{p99_us:.0}"),
            format!("{lost}/{asked}"),
            format!("{gbit_s:.2}"),
            p99,
            throughput,
            judgement,
        ]
    };
    table.push(row("nothing", beside(None)?, Default::default()));
    let fair = beside(Some(Attack::Tcp))?;
    table.push(row("TCP, as it should", fair, Default::default()));
    let mut is_fair = true;
    for attack in Attack::ALL {
        let name = format!("{attack:?}");
        if !args.is_wanted(&name) {
            continue;
        }
        let share = beside(Some(attack))?;
        let (p99, throughput) = (share.p99_us / fair.p99_us, share.gbit_s / fair.gbit_s);
        let is_within = p99 <= 3.0 && throughput >= 0.5 && share.lost == 0;
        is_fair &= is_within;
        let judgement = if is_within { "" } else { "beyond the goal" };
        table.push(row(&name, share, [format!("{p99:.2}"), format!("{throughput:.2}"), judgement.into()]));
    }
    println!("{}", table.to_terminal());
    Ok(is_fair)
}

/// The calls of another client, and the frames of containers, beside a client at full power.
fn measure_clients(args: &Fairness, lab: &Lab, others: (Place<'_>, Place<'_>)) -> anyhow::Result<bool> {
    println!("Others beside one client of the API");
    lab.ok(&["run", "-d", "--name", "loud", "--net", "none", "yes"]);
    let head = [
        "client",
        "p50 us",
        "p99 us",
        "lost",
        "Gbit/s",
        "call p50 us",
        "call p99 us",
        "p99 ratio",
        "throughput ratio",
        "call p99 ratio",
        "",
    ];
    let mut table = Table::new(head);
    let beside = |kind: &str, threads| -> anyhow::Result<(Share, Calls)> {
        let attack = ClientAttack::start(lab, kind, "loud", threads);
        thread::sleep(WARM_UP);
        let measured = (measure(args, others)?, Calls::measure(args, lab)?);
        drop(attack);
        Ok(measured)
    };
    let cells = |name: &str, (share, calls): (Share, Calls), ratios: [String; 4]| {
        let [p99, throughput, call, judgement] = ratios;
        [
            name.to_owned(),
            format!("{:.0}", share.p50_us),
            format!("{:.0}", share.p99_us),
            format!("{}/{}", share.lost, share.asked),
            format!("{:.2}", share.gbit_s),
            format!("{:.0}", calls.p50_us),
            format!("{:.0}", calls.p99_us),
            p99,
            throughput,
            call,
            judgement,
        ]
    };
    let mut is_fair = true;
    for kind in KINDS.into_iter().filter(|kind| args.is_wanted(kind)) {
        let fair = beside(kind, ONE)?;
        table.push(cells(&format!("{kind}, one at a time"), fair, Default::default()));
        let (share, calls) = beside(kind, ATTACK)?;
        let (p99, throughput) = (share.p99_us / fair.0.p99_us, share.gbit_s / fair.0.gbit_s);
        let call = calls.p99_us / fair.1.p99_us;
        let is_within = p99 <= 3.0 && call <= 3.0 && throughput >= 0.5 && share.lost == 0;
        is_fair &= is_within;
        let judgement = if is_within { "" } else { "beyond the goal" };
        let ratios =
            [format!("{p99:.2}"), format!("{throughput:.2}"), format!("{call:.2}"), judgement.into()];
        table.push(cells(kind, (share, calls), ratios));
    }
    println!("{}", table.to_terminal());
    Ok(is_fair)
}

/// How long calls of the API took.
#[derive(Debug, Clone, Copy)]
struct Calls {
    p50_us: f64,
    p99_us: f64,
}

impl Calls {
    /// One call at a time; each has to be answered.
    fn measure(args: &Fairness, lab: &Lab) -> anyhow::Result<Calls> {
        let (mut times, begin) = (Vec::new(), Instant::now());
        while begin.elapsed() < Duration::from_secs_f64(args.seconds) {
            let asked = Instant::now();
            let answer = Request::new("GET", "/v1/networks").send(&lab.socket())?;
            ensure!(answer.status == 200, "another client is refused: {answer:?}");
            times.push(asked.elapsed().as_secs_f64() * 1e6);
            thread::sleep(PAUSE);
        }
        times.sort_by(f64::total_cmp);
        let at = |q| quantile(&times, q).context("no call was made");
        Ok(Calls { p50_us: at(0.5)?, p99_us: at(0.99)? })
    }
}

fn measure(args: &Fairness, others: (Place<'_>, Place<'_>)) -> anyhow::Result<Share> {
    let duration = Duration::from_secs_f64(args.seconds);
    let (mut round_trips, lost) = round_trips(others, duration)?;
    round_trips.sort_by(f64::total_cmp);
    let at = |q| quantile(&round_trips, q).context("no answer has come");
    Ok(Share {
        p50_us: at(0.5)?,
        p99_us: at(0.99)?,
        asked: round_trips.len() + lost,
        lost,
        gbit_s: stream(others, duration)?,
    })
}

/// Microseconds of each that was answered, and how many were not.
fn round_trips((from, to): (Place<'_>, Place<'_>), duration: Duration) -> anyhow::Result<(Vec<f64>, usize)> {
    let bind = |place: Place<'_>| inside(&place.netns(), || UdpSocket::bind((place.ip(), 0)));
    let (client, server) = (bind(from)?, bind(to)?);
    client.connect(server.local_addr()?)?;
    client.set_read_timeout(Some(PATIENCE))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !done.load(Ordering::Relaxed) {
                if let Ok((bytes, asker)) = server.recv_from(&mut buffer) {
                    // One that cannot be sent is lost.
                    let _ = server.send_to(&buffer[..bytes], asker);
                }
            }
        });
        let measured = ask(&client, duration);
        done.store(true, Ordering::Relaxed);
        measured
    })
}

fn ask(client: &UdpSocket, duration: Duration) -> anyhow::Result<(Vec<f64>, usize)> {
    let (mut round_trips, mut lost, begin) = (Vec::new(), 0, Instant::now());
    let mut buffer = [0; 64];
    for number in 0_u64.. {
        if begin.elapsed() > duration {
            break;
        }
        let asked = Instant::now();
        client.send(&number.to_be_bytes())?;
        loop {
            match client.recv(&mut buffer) {
                Ok(bytes) if buffer[..bytes] == number.to_be_bytes() => {
                    round_trips.push(asked.elapsed().as_secs_f64() * 1e6);
                    break;
                }
                // One that came too late for its own question.
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    lost += 1;
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        thread::sleep(PAUSE);
    }
    Ok((round_trips, lost))
}

/// Gbit/s of one TCP stream.
fn stream((from, to): (Place<'_>, Place<'_>), duration: Duration) -> anyhow::Result<f64> {
    let listener = inside(&to.netns(), || TcpListener::bind((to.ip(), 0)))?;
    let server = listener.local_addr()?;
    let mut sender = inside(&from.netns(), || TcpStream::connect(server))?;
    let (mut receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(duration))?;
    thread::scope(|scope| {
        // It ends when the receiver is gone.
        scope.spawn(move || while sender.write(&[7; 1 << 16]).is_ok() {});
        let (mut buffer, mut received, begin) = (vec![0; 1 << 18], 0, Instant::now());
        while begin.elapsed() < duration {
            received += match receiver.read(&mut buffer) {
                Ok(bytes) => bytes,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
                Err(e) => return Err(e.into()),
            };
        }
        let gbit_s = received as f64 * 8e-9 / begin.elapsed().as_secs_f64();
        drop(receiver);
        Ok(gbit_s)
    })
}
