//! Owns that bulk work gives way: what clients wait for runs first, at a source and at a joiner that serves.

use std::time::{Duration, Instant};

/// Steps below the ordinary priority. A thread there gets a tenth of a processor that others want as well, and all of one that nobody wants:
/// a transfer slows down beside busy clients and never stands still.
const NICE: i32 = 10;

/// Lets all others of this machine go before the calling thread, and before the threads that it starts from now on. There is no way back:
/// the system lets only the privileged raise a priority.
pub(crate) fn give_way() {
    // On Linux a thread has a priority of its own, and this sets the calling thread's. Where it is refused the work goes on as before.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "bulk work keeps its priority");
    }
}

/// How long bulk work keeps a processor before it looks whether others want it. The system would let it go on for some milliseconds, and a
/// request of a client passes through several threads.
const PIECE: Duration = Duration::from_micros(60);
/// Of the time that others took, the part that bulk work then has without asking: it may be slowed down, it may not be starved.
const KEPT: u32 = 8;

/// The manners of a thread that gave way: between two pieces of its work it lets those go that wait for its processor.
pub(crate) struct Courtesy {
    due: Instant,
}

impl Courtesy {
    /// Nothing for a thread that did not give way, nor the thread that started it.
    pub(crate) fn of_this_thread() -> Option<Self> {
        let own = rustix::process::getpriority_process(None).ok()?;
        (own >= NICE).then(|| Self { due: Instant::now() + PIECE })
    }

    /// A piece of work is done.
    pub(crate) fn let_others_go(&mut self) {
        let left = Instant::now();
        if left < self.due {
            return;
        }
        rustix::thread::sched_yield();
        let back = Instant::now();
        self.due = back + turn_after(back - left);
    }
}

/// How long a turn may be after others took `away`.
fn turn_after(away: Duration) -> Duration {
    PIECE.max(away / KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_and_its_children_give_way() {
        let own = || rustix::process::getpriority_process(None).expect("a priority");
        let before = own();
        let (after, child) = std::thread::spawn(move || {
            give_way();
            (own(), std::thread::spawn(own).join().expect("no panic"))
        })
        .join()
        .expect("no panic");
        assert_eq!((after, child), (NICE.max(before), NICE.max(before)));
        assert_eq!(own(), before);
    }

    #[test]
    fn only_a_thread_that_gave_way_has_manners() {
        let after = std::thread::spawn(|| {
            give_way();
            Courtesy::of_this_thread().is_some()
        });
        assert!(after.join().expect("no panic"));
        let ordinary = rustix::process::getpriority_process(None).expect("a priority") < NICE;
        assert_eq!(Courtesy::of_this_thread().is_none(), ordinary);
    }

    #[test]
    fn who_was_kept_waiting_for_long_has_a_longer_turn() {
        assert_eq!(turn_after(Duration::ZERO), PIECE);
        assert_eq!(turn_after(Duration::from_millis(80)), Duration::from_millis(10));
    }
}
