//! Owns durability: finished packs are synced in the order in which they were finished, and `sync` waits for them.
//!
//! A sync that failed is never repeated: the kernel may have dropped the pages (Rebello et al.: "Can applications recover
//! from fsync failures?", 2020). The store then refuses to write until it is opened again.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::StoreError;
use crate::index::{PackStage, PackState};
use crate::lock::{lock, write};
use crate::pack::{PackClass, Sealed};
use crate::store::Shared;

/// Packs that are finished and wait to be synced.
#[derive(Default)]
pub(crate) struct SealQueue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Sealed>,
    taken_in: u64,
    done: u64,
    stage: Stage,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is no thread: whoever finishes a pack syncs it.
    #[default]
    Unserved,
    Served,
    /// No more jobs come; the thread ends when none waits.
    Ending,
}

impl SealQueue {
    fn wait<'a>(&self, jobs: std::sync::MutexGuard<'a, Jobs>) -> std::sync::MutexGuard<'a, Jobs> {
        self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pack in; waits while too many wait, so that memory and unsynced bytes stay bounded.
    fn push(&self, sealed: Sealed) {
        let mut jobs = lock(&self.jobs);
        while jobs.waiting.len() >= WAITING_MAX {
            jobs = self.wait(jobs);
        }
        jobs.waiting.push_back(sealed);
        jobs.taken_in += 1;
        self.changed.notify_all();
    }

    /// Waits until every pack that was taken in before is done.
    fn wait_until_done(&self) {
        let mut jobs = lock(&self.jobs);
        let target = jobs.taken_in;
        while jobs.done < target {
            jobs = self.wait(jobs);
        }
    }

    /// Waits for the next pack; `None` when there will be none.
    fn next(&self) -> Option<Sealed> {
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(sealed) = jobs.waiting.pop_front() {
                self.changed.notify_all();
                return Some(sealed);
            }
            if jobs.stage == Stage::Ending {
                return None;
            }
            jobs = self.wait(jobs);
        }
    }

    fn finish_one(&self) {
        lock(&self.jobs).done += 1;
        self.changed.notify_all();
    }

    /// Drops what waits: there is nobody to do it.
    fn give_up(&self) {
        let mut jobs = lock(&self.jobs);
        jobs.waiting.clear();
        jobs.done = jobs.taken_in;
        jobs.stage = Stage::Unserved;
        self.changed.notify_all();
    }

    fn set_stage(&self, stage: Stage) {
        lock(&self.jobs).stage = stage;
        self.changed.notify_all();
    }

    fn is_served(&self) -> bool {
        lock(&self.jobs).stage == Stage::Served
    }
}

/// The thread that syncs finished packs. Dropping it finishes what waits.
#[derive(Debug)]
pub(crate) struct Sealer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sealer {
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let worker = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("landfall-seal".to_owned()).spawn(move || {
            while let Some(sealed) = worker.seal_queue.next() {
                let _job = Job { shared: &worker };
                worker.make_durable(sealed);
            }
        });
        let thread = thread.map_err(|error| StoreError::io("start a thread for", &shared.paths.directory, error))?;
        shared.seal_queue.set_stage(Stage::Served);
        Ok(Self { shared: Arc::clone(shared), thread: Some(thread) })
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.shared.seal_queue.set_stage(Stage::Ending);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by the thread.
            drop(thread.join());
        }
    }
}

/// A pack in the hands of the thread. If the thread panics, nobody must wait for it or believe that it synced.
struct Job<'a> {
    shared: &'a Shared,
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.sync_failed.get_or_init(|| self.shared.paths.packs.clone());
            self.shared.seal_queue.give_up();
        } else {
            self.shared.seal_queue.finish_one();
        }
    }
}

impl Shared {
    /// Fails if an earlier sync failed.
    pub(crate) fn check_sync(&self) -> Result<(), StoreError> {
        self.sync_failed.get().map_or(Ok(()), |path| Err(StoreError::SyncFailed { path: path.clone() }))
    }

    /// Takes a finished pack on its way to durability.
    pub(crate) fn hand_over(&self, sealed: Sealed) -> Result<(), StoreError> {
        if self.seal_queue.is_served() {
            self.seal_queue.push(sealed);
        } else {
            self.make_durable(sealed);
        }
        self.check_sync()
    }

    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.check_sync()?;
        for class in PackClass::ALL {
            self.sync_open_pack(class)?;
        }
        self.seal_queue.wait_until_done();
        self.sync_pack_names()?;
        self.check_sync()
    }

    /// Closes the open packs and waits until they are durable. A failure is left to the next open.
    pub(crate) fn close_packs(&self) {
        for class in PackClass::ALL {
            if self.close_pack(&mut lock(self.writer(class))).is_err() {
                return;
            }
        }
        self.seal_queue.wait_until_done();
    }

    /// Syncs what the open pack has so far. Its writer may go on meanwhile.
    fn sync_open_pack(&self, class: PackClass) -> Result<(), StoreError> {
        let (file, number, bytes) = {
            let mut slot = lock(self.writer(class));
            let Some(pack) = slot.as_mut() else { return Ok(()) };
            let path = self.paths.pack(pack.number());
            pack.flush().map_err(|error| StoreError::io("write", &path, error))?;
            let Some(bytes) = pack.unsynced_bytes() else { return Ok(()) };
            (Arc::clone(pack.file()), pack.number(), bytes)
        };
        self.checked(&self.paths.pack(number), file.sync_data())?;
        if let Some(pack) = lock(self.writer(class)).as_mut().filter(|pack| pack.number() == number) {
            pack.set_synced(bytes);
        }
        Ok(())
    }

    /// Makes the names of all packs that were created before durable.
    fn sync_pack_names(&self) -> Result<(), StoreError> {
        let created = self.packs_created.load(Ordering::SeqCst);
        let mut named = lock(&self.packs_named);
        if *named < created {
            self.checked(&self.paths.packs, self.vfs.sync_directory(&self.paths.packs))?;
            *named = created;
        }
        Ok(())
    }

    fn make_durable(&self, sealed: Sealed) {
        let number = sealed.footer.number;
        let is_durable =
            self.checked(&self.paths.pack(number), sealed.file.sync_data()).is_ok() && self.sync_pack_names().is_ok();
        // The failure is remembered: every later call reports it.
        if is_durable {
            let mut index = write(&self.index);
            let at = lock(&self.sessions).tick();
            let broken = index.packs.get_mut(&number).and_then(|pack| pack.broken.take());
            let state = PackState::from_footer(&sealed.footer, PackStage::Sealed { at });
            index.packs.insert(number, PackState { broken, ..state });
            drop(index);
            self.tend_index_later();
        }
    }

    /// Remembers a failed sync for ever.
    pub(crate) fn checked(&self, path: &Path, outcome: io::Result<()>) -> Result<(), StoreError> {
        outcome.map_err(|error| {
            self.sync_failed.get_or_init(|| path.to_owned());
            StoreError::io("sync", path, error)
        })
    }
}

/// Finished packs that may wait to be synced.
const WAITING_MAX: usize = 4;
