//! Threads and tasks without which the daemon does not do its work: when one of them fails, the daemon ends.
//!
//! A panic ends its own thread or task only, and an engine may fail in a way that a worker cannot repair. Either would
//! leave ports, the API or the cluster without service while everything else looks healthy. So whoever starts such a
//! thread or task runs it through [`Vitals`], which reports the failure to the daemon; that ends with an error, and is
//! started again by whoever watches it. Containers outlive it.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

/// Where failures are reported.
#[derive(Clone)]
pub struct Vitals(Arc<dyn Fn(String) + Send + Sync>);

/// Reports to the log only.
impl Default for Vitals {
    fn default() -> Vitals {
        Vitals::new(|failure| tracing::error!("{failure}"))
    }
}

impl Vitals {
    /// `report` is called in the thread that failed and must not block.
    pub fn new(report: impl Fn(String) + Send + Sync + 'static) -> Vitals {
        Vitals(Arc::new(report))
    }

    pub fn report(&self, failure: String) {
        (self.0)(failure);
    }

    /// Runs the body of a thread and reports its panic.
    pub fn run(&self, name: &str, body: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            self.report_panic(name, &*panic);
        }
    }

    /// Runs a task and reports its panic. A task that is aborted is not reported.
    pub async fn watch(self, name: &str, task: impl Future<Output = ()>) {
        let mut task = pin!(task);
        // After a panic the task is not polled again.
        let ended = poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
            Ok(poll) => poll.map(|()| Ok(())),
            Err(panic) => Poll::Ready(Err(panic)),
        });
        if let Err(panic) = ended.await {
            self.report_panic(name, &*panic);
        }
    }

    fn report_panic(&self, name: &str, panic: &(dyn Any + Send)) {
        self.report(format!("{name} has panicked: {}", message(panic)));
    }
}

/// Text of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

impl fmt::Debug for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vitals")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn vitals() -> (Vitals, Receiver<String>) {
        let (sender, failures) = channel();
        (Vitals::new(move |failure| sender.send(failure).unwrap()), failures)
    }

    #[test]
    fn a_thread_that_panics_is_reported() {
        let (vitals, failures) = vitals();
        vitals.run("the first", || {});
        assert!(failures.try_recv().is_err());
        let of_thread = vitals.clone();
        let index = 7;
        std::thread::spawn(move || of_thread.run("a worker", || panic!("index {index} is out of bounds")))
            .join()
            .unwrap();
        assert_eq!(failures.recv().unwrap(), "a worker has panicked: index 7 is out of bounds");
    }

    #[tokio::test]
    async fn a_task_that_panics_is_reported_and_one_that_is_aborted_is_not() {
        let (vitals, failures) = vitals();
        let panics = async {
            tokio::task::yield_now().await;
            panic!("no lease");
        };
        tokio::spawn(vitals.clone().watch("the keeper of leases", panics)).await.unwrap();
        assert_eq!(failures.recv().unwrap(), "the keeper of leases has panicked: no lease");
        let waits = tokio::spawn(vitals.clone().watch("the server", std::future::pending()));
        waits.abort();
        assert!(waits.await.unwrap_err().is_cancelled());
        vitals.watch("a short one", async {}).await;
        assert!(failures.try_recv().is_err());
    }
}
