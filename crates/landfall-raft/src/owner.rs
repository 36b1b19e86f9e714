//! Owns a thread that owns something which blocks: a file, a state. Async callers hand it work, which it does in order.
//!
//! It never looks at what it does.

use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

type Work<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A value that only one thread touches. When the last handle goes, the work that waits is done and the thread ends.
pub(crate) struct Owner<T> {
    work: Option<mpsc::Sender<Work<T>>>,
    thread: Option<JoinHandle<()>>,
}

/// The thread has ended: it panicked.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the thread that owns this has ended")]
pub(crate) struct Gone;

impl<T: Send + 'static> Owner<T> {
    /// Starts the thread.
    pub(crate) fn start(name: &str, mut owned: T) -> std::io::Result<Self> {
        let (work, waiting) = mpsc::channel::<Work<T>>();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            for work in waiting {
                work(&mut owned);
            }
        })?;
        Ok(Self { work: Some(work), thread: Some(thread) })
    }

    /// Has `work` done after everything handed over before.
    pub(crate) fn hand(&self, work: impl FnOnce(&mut T) + Send + 'static) -> Result<(), Gone> {
        let sender = self.work.as_ref().ok_or(Gone)?;
        sender.send(Box::new(work)).map_err(|_| Gone)
    }

    /// Has `work` done, and waits for what it returns.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let (answer, answered) = oneshot::channel();
        self.hand(move |owned| {
            // Who asked may have gone meanwhile; the work is done all the same.
            let _ = answer.send(work(owned));
        })?;
        answered.await.map_err(|_| Gone)
    }
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        drop(self.work.take());
        let thread = self.thread.take();
        // The last handle may be dropped by the work itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_in_the_order_in_which_it_was_handed_over() {
        let owner = Owner::start("test", Vec::new()).unwrap();
        for number in 0..100 {
            owner.hand(move |numbers: &mut Vec<u32>| numbers.push(number)).unwrap();
        }
        let numbers = owner.ask(|numbers| numbers.clone()).await.unwrap();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_panic_is_told_to_whoever_asks_next() {
        let owner = Owner::start("test", ()).unwrap();
        assert!(owner.ask(|()| panic!("a panic on purpose")).await.is_err());
        // The channel closes when the thread has unwound, which may be a moment later: asking fails either way.
        assert!(owner.ask(|()| ()).await.is_err());
    }
}
