//! Work on the host, in order for one container and concurrent between containers.
//!
//! Each container has two lanes: one for its interfaces, and one for its names file, so that neither waits for the
//! other. A lane does one piece of work after the other, in a task of its own that ends with the work. Work that hangs
//! (a TAP that somebody else holds, a namespace that cannot be opened) hangs its own lane and no other.
//!
//! A lane can be [held](Lanes::hold) while its container has no namespaces yet: work waits in it meanwhile.
//!
//! # Bounds
//! A container has two lanes. What waits in one is superseded by newer work on the same target, so a lane holds at most
//! one piece of work for each of a container's interfaces, beside one for its routes and one for each other target.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vswitch_proto::id::ContainerId;

/// Between two looks at lanes that are waited for as a whole.
const POLL: Duration = Duration::from_millis(5);

/// The two lanes of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Interfaces,
    Names,
}

/// Identifies a lane.
pub type LaneId = (ContainerId, Part);

/// A piece of work.
pub trait Work: Send + 'static {
    /// Whether earlier work that has not begun is not needed any more once this one is done.
    fn supersedes(&self, earlier: &Self) -> bool;
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
type Perform<W> = Box<dyn Fn(LaneId, W) -> Running + Send + Sync>;

/// All lanes. Cheap to clone.
pub struct Lanes<W> {
    inner: Arc<Inner<W>>,
}

struct Inner<W> {
    lanes: Mutex<HashMap<LaneId, Lane<W>>>,
    perform: Perform<W>,
}

struct Lane<W> {
    waiting: VecDeque<W>,
    /// Number of holds.
    held: usize,
    /// When the piece of work that is being done began; `None` while nothing is being done.
    since: Option<Instant>,
}

/// Keeps the work of a container waiting until it is dropped.
pub struct Hold<W: Work> {
    lanes: Lanes<W>,
    container: ContainerId,
}

impl<W> Clone for Lanes<W> {
    fn clone(&self) -> Lanes<W> {
        Lanes { inner: Arc::clone(&self.inner) }
    }
}

impl<W> Default for Lane<W> {
    fn default() -> Lane<W> {
        Lane { waiting: VecDeque::new(), held: 0, since: None }
    }
}

impl<W> Lane<W> {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.held == 0 && self.since.is_none()
    }
}

impl<W: Work> Lanes<W> {
    /// `perform` does one piece of work.
    pub fn new(perform: impl Fn(LaneId, W) -> Running + Send + Sync + 'static) -> Lanes<W> {
        Lanes { inner: Arc::new(Inner { lanes: Mutex::default(), perform: Box::new(perform) }) }
    }

    /// Adds work to the end of a lane.
    pub fn push(&self, id: LaneId, work: W) {
        let mut lanes = self.lock();
        let lane = lanes.entry(id).or_default();
        lane.waiting.retain(|earlier| !work.supersedes(earlier));
        lane.waiting.push_back(work);
        self.start(id, lane);
    }

    /// The same, unless work that `is_same` waits there already. Nothing piles up behind a lane that hangs.
    pub fn push_once(&self, id: LaneId, work: W, is_same: impl Fn(&W) -> bool) {
        if !self.has_waiting(id, is_same) {
            self.push(id, work);
        }
    }

    /// Whether such work waits in the lane.
    pub fn has_waiting(&self, id: LaneId, is_it: impl Fn(&W) -> bool) -> bool {
        self.lock().get(&id).is_some_and(|lane| lane.waiting.iter().any(is_it))
    }

    /// Keeps both lanes of a container from beginning anything.
    pub fn hold(&self, container: ContainerId) -> Hold<W> {
        let mut lanes = self.lock();
        for part in [Part::Interfaces, Part::Names] {
            lanes.entry((container, part)).or_default().held += 1;
        }
        Hold { lanes: self.clone(), container }
    }

    /// Whether a lane is held, or has been at one piece of work for this long.
    pub fn is_stuck(&self, id: LaneId, patience: Duration) -> bool {
        self.lock().get(&id).is_some_and(|lane| is_stuck(lane, patience))
    }

    /// Waits until every lane has nothing to do or is [stuck](Lanes::is_stuck).
    pub async fn settle(&self, patience: Duration) {
        while self.lock().values().any(|lane| !lane.is_idle() && !is_stuck(lane, patience)) {
            tokio::time::sleep(POLL).await;
        }
    }

    fn start(&self, id: LaneId, lane: &mut Lane<W>) {
        if lane.since.is_none() && lane.held == 0 && !lane.waiting.is_empty() {
            lane.since = Some(Instant::now());
            tokio::spawn(self.clone().run(id));
        }
    }

    async fn run(self, id: LaneId) {
        while let Some(work) = self.next(id) {
            (self.inner.perform)(id, work).await;
        }
    }

    /// Takes the next piece of work; a lane without any ends.
    fn next(&self, id: LaneId) -> Option<W> {
        let mut lanes = self.lock();
        let lane = lanes.get_mut(&id)?;
        let work = if lane.held == 0 { lane.waiting.pop_front() } else { None };
        lane.since = work.as_ref().map(|_| Instant::now());
        if lane.is_idle() {
            lanes.remove(&id);
        }
        work
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LaneId, Lane<W>>> {
        self.inner.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_stuck<W>(lane: &Lane<W>, patience: Duration) -> bool {
    lane.held > 0 || lane.since.is_some_and(|since| since.elapsed() >= patience)
}

impl<W: Work> Drop for Hold<W> {
    fn drop(&mut self) {
        let mut lanes = self.lanes.lock();
        for part in [Part::Interfaces, Part::Names] {
            let id = (self.container, part);
            let Some(lane) = lanes.get_mut(&id) else { continue };
            lane.held -= 1;
            self.lanes.start(id, lane);
            if lane.is_idle() {
                lanes.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    struct Step {
        name: &'static str,
        /// Done when this is told.
        until: Option<oneshot::Receiver<()>>,
    }

    impl Work for Step {
        fn supersedes(&self, earlier: &Step) -> bool {
            self.name == earlier.name
        }
    }

    fn lanes() -> (Lanes<Step>, mpsc::UnboundedReceiver<(u8, &'static str)>) {
        let (done, log) = mpsc::unbounded_channel();
        let lanes = Lanes::new(move |(container, _), step: Step| {
            let done = done.clone();
            Box::pin(async move {
                if let Some(until) = step.until {
                    _ = until.await;
                }
                _ = done.send((container.0[0], step.name));
            })
        });
        (lanes, log)
    }

    fn at(container: u8) -> LaneId {
        (ContainerId([container; 32]), Part::Interfaces)
    }

    fn step(name: &'static str) -> Step {
        Step { name, until: None }
    }

    #[tokio::test]
    async fn one_lane_is_in_order_and_others_pass_it() {
        let (lanes, mut log) = lanes();
        let (go, until) = oneshot::channel();
        lanes.push(at(1), Step { name: "a", until: Some(until) });
        lanes.push(at(1), step("b"));
        lanes.push(at(2), step("c"));
        assert_eq!(log.recv().await, Some((2, "c")));
        lanes.settle(Duration::ZERO).await;
        assert!(lanes.is_stuck(at(1), Duration::ZERO) && !lanes.is_stuck(at(2), Duration::ZERO));
        go.send(()).unwrap();
        assert_eq!((log.recv().await, log.recv().await), (Some((1, "a")), Some((1, "b"))));
        lanes.settle(Duration::MAX).await;
        assert!(lanes.lock().is_empty(), "a lane ends with its work");
    }

    #[tokio::test]
    async fn a_lane_that_is_held_waits_and_keeps_only_the_newest() {
        let (lanes, mut log) = lanes();
        let hold = lanes.hold(at(1).0);
        for name in ["a", "b", "a"] {
            lanes.push(at(1), step(name));
        }
        lanes.push_once(at(1), step("c"), |waiting| waiting.name == "b");
        lanes.push(at(2), step("d"));
        assert_eq!(log.recv().await, Some((2, "d")));
        lanes.settle(Duration::MAX).await;
        drop(hold);
        assert_eq!((log.recv().await, log.recv().await), (Some((1, "b")), Some((1, "a"))));
        lanes.settle(Duration::MAX).await;
        assert!(log.try_recv().is_err() && lanes.lock().is_empty());
    }
}
