//! What goes wrong below the workers, and what they make of it.

use std::process::Command;

use super::*;
use crate::io::underlay::UnderlayConfig;

#[test]
fn ports_survive_a_ring_that_fails() {
    let wake = engine::new_wake().unwrap();
    let config = config(EngineKind::Uring, 1);
    let engine = match Engine::new(EngineKind::Uring, config.burst_frames.get(), Arc::clone(&wake)) {
        Ok(engine) => engine,
        Err(why) => return println!("skipped: {why}"),
    };
    let Engine::Ringed(ringed) = &engine else { panic!("it is what was asked for") };
    let break_ring = ringed.breaker();
    let dataplane = Dataplane::with_engines(&config, EngineKind::Uring, vec![(engine, wake)]).unwrap();
    dataplane.publish(tables(&[1, 2, 3]));
    let hosts = [1, 2, 3].map(|_| test_netns());
    let [a, b, c] = &hosts;
    plug(&dataplane, a, 1, TapConfig::default());
    plug(&dataplane, b, 2, TapConfig::default());
    assert!(reaches(a, b, ip(2)) && reaches(b, a, ip(1)));
    assert_eq!(dataplane.engine(), EngineKind::Uring);

    break_ring();
    // The call that the worker waits in still has the ring; the next one has not.
    eventually("the worker still has its ring", || {
        let _ = reaches(a, b, ip(2));
        dataplane.engine() == EngineKind::Epoll
    });
    transfer(a, b, ip(2), 32);
    transfer(b, a, ip(1), 32);
    plug(&dataplane, c, 3, TapConfig::default());
    assert!(reaches(c, a, ip(1)));
    dataplane.detach(PortId(1)).unwrap().unwrap().delete().unwrap();
    // The kernel ends the requests of a ring after the ring.
    eventually("the TAP is still held", || links(a).unwrap().iter().all(|link| link.name == "lo"));
}

fn a_worker_that_panics_is_reported(engine: EngineKind) {
    let (sender, failures) = mpsc::channel();
    let rig = Rig::with(engine, 2, |config| {
        config.on_port_death = Arc::new(|port| panic!("nobody expected the end of {port}"));
        config.vitals = Vitals::new(move |failure| sender.send(failure).unwrap());
    });
    rig.dataplane.publish(tables(&[1, 2]));
    let doomed = rig.host(1, TapConfig::default());
    let _other = rig.host(2, TapConfig::default());
    assert!(delete_link(&doomed, "eth0").unwrap());
    let failure = failures.recv_timeout(DEADLINE).unwrap();
    assert_eq!(
        failure,
        format!("data plane worker 1 has panicked: nobody expected the end of {}", PortId(1))
    );
    assert!(matches!(rig.dataplane.detach(PortId(1)), Err(DetachError::Worker(WorkerError::Ended(1)))));
    assert!(failures.try_recv().is_err(), "the other worker goes on");
}

#[test]
fn a_worker_that_panics_is_reported_with_epoll() {
    a_worker_that_panics_is_reported(EngineKind::Epoll);
}

#[test]
fn a_worker_that_panics_is_reported_with_io_uring() {
    match Engine::new(EngineKind::Uring, 1, engine::new_wake().unwrap()) {
        Ok(_) => a_worker_that_panics_is_reported(EngineKind::Uring),
        Err(why) => println!("skipped: {why}"),
    }
}

#[test]
fn what_an_underlay_has_lost_stays_counted_without_it() {
    let mut hold = None;
    let rig = Rig::with(EngineKind::Epoll, 1, |config| hold = Some(hold_when_a_port_dies(config)));
    let (held, release) = hold.unwrap();
    rig.dataplane.publish(tables(&[1]));
    let doomed = rig.host(1, TapConfig::default());
    let ns = test_netns();
    let up = || Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(ns.run(up).unwrap().success());
    let config = UnderlayConfig {
        vtep: Ipv4Addr::LOCALHOST.into(),
        port: 4789,
        sockets: NonZeroUsize::MIN,
        receivers: NonZeroUsize::MIN,
        gso: true,
        gro: true,
    };
    let open = || ns.run(|| Underlay::open(config).unwrap()).unwrap();
    let lost = || rig.dataplane.totals().tunnel.rx_overflows;
    rig.dataplane.set_underlay(Some(open())).unwrap();
    assert_eq!(lost(), 0);

    assert!(delete_link(&doomed, "eth0").unwrap());
    held.recv_timeout(DEADLINE).unwrap();
    let sender = ns.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();
    eventually("its buffer has no end", || {
        (0..1000).for_each(|_| _ = sender.send_to(&[0; 1400], (Ipv4Addr::LOCALHOST, 4789)));
        lost() > 0
    });
    let before = lost();
    release.send(()).unwrap();
    rig.dataplane.set_underlay(None).unwrap();
    // What was on its way may have come to a full buffer, too.
    let at_the_end = lost();
    assert!(at_the_end >= before);
    rig.dataplane.set_underlay(Some(open())).unwrap();
    assert_eq!(lost(), at_the_end);
}
