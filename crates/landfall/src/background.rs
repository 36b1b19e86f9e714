//! Owns that bulk work gives way: what clients wait for runs first, at a source and at a joiner that serves.

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
}
