//! Owns how a user's hooks are held and run. When they run, and how often, others say: the join, and who judges a joiner's pace.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::consensus::MemberId;
use crate::pace::Pace;

/// Why a commit hook did not take effect.
pub type HookError = Box<dyn Error + Send + Sync>;

type Running = Pin<Box<dyn Future<Output = Result<(), HookError>> + Send>>;

/// What is to be done elsewhere once a joiner's state is proven equal to the others' and before it votes: a load balancer is told, an old member
/// is drained, a file is written.
///
/// It is given the version of the member's lease on the log, so that it can tell its own tries from those of an earlier holder of the same name; 0
/// if the member holds none any longer, because it was restarted. It may run more than once, also after it took effect: a member may
/// be stopped before that is known. That a member votes is what shows later that its hook took effect; a learner never does, so its hook runs
/// again each time it is started with [`Node::join`](crate::Node::join).
#[derive(Clone)]
pub struct CommitHook(Arc<dyn Fn(u64) -> Running + Send + Sync>);

impl CommitHook {
    /// Runs `run` with the version of the lease.
    pub fn new<F>(run: impl Fn(u64) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), HookError>> + Send + 'static,
    {
        Self(Arc::new(move |lease| Box::pin(run(lease))))
    }

    /// Runs it, on a task of its own: a hook that panics failed.
    pub(crate) async fn run(&self, lease: u64) -> Result<(), HookError> {
        let (hook, mut running) = (self.0.clone(), tokio::task::JoinSet::new());
        running.spawn(async move { hook(lease).await });
        running.join_next().await.unwrap_or_else(|| Ok(Ok(()))).unwrap_or_else(|error| Err(error.into()))
    }
}

impl fmt::Debug for CommitHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CommitHook")
    }
}

/// What is to be done while a joiner receives less than it needs for its join to end: slow writers down, so that the log grows by less, or give
/// the link more.
///
/// The leader's is called for every joiner, a joiner's own for itself: when [`Pace::is_too_slow`] begins to hold, again with each report while it
/// does, about every five seconds, and once when it is over, because enough comes, nothing more is needed, or nothing is known any more: another
/// member leads, the joiner stopped reporting, or it has joined. To slow writers down, let them wait before [`Node::propose`](crate::Node::propose) as
/// long as [`Pace::received_per_second`] is below [`Pace::needed_per_second`], the longer the further it is below; let them go when it is over.
///
/// It must return at once. It runs on a thread of its own, so one that does not keeps nobody but itself waiting; of what it was to be told of the
/// same joiner meanwhile it hears only the last. A panic in it is logged, and it is called again. A member that closes calls it no more.
#[derive(Clone)]
pub struct BackPressure(Arc<dyn Fn(&Pace) + Send + Sync>);

impl BackPressure {
    /// Calls `call` with how fast a joiner gets on.
    pub fn new(call: impl Fn(&Pace) + Send + Sync + 'static) -> Self {
        Self(Arc::new(call))
    }
}

impl fmt::Debug for BackPressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackPressure")
    }
}

/// The thread on which a [`BackPressure`] is called. It ends by itself once this is dropped, and is not waited for: the hook may be stuck.
pub(crate) struct HookThread {
    waiting: Waiting,
    wake: SyncSender<()>,
}

/// The newest pace of each joiner of which the hook has not been told.
type Waiting = Arc<Mutex<BTreeMap<MemberId, Pace>>>;

impl HookThread {
    pub(crate) fn start(hook: BackPressure) -> io::Result<Self> {
        let waiting = Waiting::default();
        // One that was woken and has not looked yet sees all that waits.
        let (wake, woken) = sync_channel(1);
        let to_tell = waiting.clone();
        std::thread::Builder::new().name("back-pressure".into()).spawn(move || call(&hook, &to_tell, &woken))?;
        Ok(Self { waiting, wake })
    }

    /// Has the hook told, and does not wait for it.
    pub(crate) fn tell(&self, pace: Pace) {
        lock(&self.waiting).insert(pace.joiner, pace);
        // Full: it will look anyway.
        let _ = self.wake.try_send(());
    }
}

fn call(hook: &BackPressure, waiting: &Waiting, woken: &Receiver<()>) {
    for () in woken {
        let paces = std::mem::take(&mut *lock(waiting));
        for pace in paces.into_values() {
            if catch_unwind(AssertUnwindSafe(|| (hook.0)(&pace))).is_err() {
                tracing::error!(joiner = pace.joiner, "the back-pressure hook panicked");
            }
        }
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, BTreeMap<MemberId, Pace>> {
    // Nothing that runs under the lock can panic half way.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hook_takes_effect_fails_or_panics() {
        let hook = CommitHook::new(|lease| async move {
            match lease {
                1 => Ok(()),
                2 => Err("not now".into()),
                _ => panic!("a panic on purpose"),
            }
        });
        assert!(hook.run(1).await.is_ok());
        assert_eq!(hook.run(2).await.unwrap_err().to_string(), "not now");
        assert!(hook.run(3).await.unwrap_err().to_string().contains("panic"));
    }

    fn pace(joiner: MemberId, received_per_second: u64) -> Pace {
        Pace { joiner, received_per_second, log_per_second: 50, needed_per_second: 100 }
    }

    #[test]
    fn a_back_pressure_hook_that_panics_is_called_again() {
        let (heard, hears) = std::sync::mpsc::channel();
        let hook = BackPressure::new(move |pace| {
            heard.send(*pace).unwrap();
            assert_ne!(pace.received_per_second, 1, "a panic on purpose");
        });
        let thread = HookThread::start(hook).unwrap();
        for received_per_second in [1, 2] {
            thread.tell(pace(7, received_per_second));
            assert_eq!(hears.recv(), Ok(pace(7, received_per_second)));
        }
        drop(thread);
        assert!(hears.recv().is_err(), "the thread has ended");
    }

    #[test]
    fn a_back_pressure_hook_that_is_stuck_keeps_nobody_waiting_and_hears_the_last_of_each_joiner_later() {
        let (heard, hears) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Mutex::new(released);
        let hook = BackPressure::new(move |pace| {
            heard.send(*pace).unwrap();
            // Until it is let go.
            let _ = released.lock().unwrap().recv();
        });
        let thread = HookThread::start(hook).unwrap();
        thread.tell(pace(1, 0));
        assert_eq!(hears.recv(), Ok(pace(1, 0)));
        for received_per_second in 1..=1000 {
            thread.tell(pace(1, received_per_second));
            thread.tell(pace(2, received_per_second));
        }
        drop(release);
        assert_eq!([hears.recv(), hears.recv()], [Ok(pace(1, 1000)), Ok(pace(2, 1000))]);
        drop(thread);
        assert!(hears.recv().is_err(), "more was told");
    }
}
