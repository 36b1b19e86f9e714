//! The log at every crash: each file call of a workload fails once, and is once the last before the power goes; then
//! the workload goes on as the errors say.

mod log_support;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::{io, path::Path};

use landfall_core::snapshot::Position;
use landfall_store::log::{Log, LogError, LogOpenError, LogRecord};
use landfall_store::vfs::faulty::{Fault, FaultyVfs};
use landfall_store::vfs::{OpenMode, Vfs, VfsFile, VfsLock};

use log_support::{open, position, read_all, record, records, small_options};

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<LogRecord>),
    Sync,
    Truncate(u64),
    Purge(Position),
    Reopen,
}

fn workload() -> Vec<Step> {
    use Step::{Append, Purge, Reopen, Sync, Truncate};
    vec![
        Append(records(1, 0..4)),
        Append(records(1, 4..5)),
        Sync,
        Append(records(1, 5..7)),
        Append(records(1, 7..30)),
        Truncate(26),
        Append(records(2, 26..28)),
        Sync,
        Append(records(2, 28..31)),
        Append(records(2, 31..33)),
        Truncate(11),
        Append(records(3, 11..14)),
        Append(records(3, 20..34)),
        Purge(position(3, 22)),
        Sync,
        Append(records(3, 34..36)),
        Reopen,
        Append(records(3, 36..39)),
        Truncate(38),
        Append(records(4, 38..41)),
        Purge(position(5, 60)),
        Append(records(5, 61..80)),
        Sync,
        Append(records(5, 80..82)),
        Truncate(61),
        Append(records(6, 61..63)),
        Sync,
    ]
}

struct World {
    vfs: FaultyVfs,
    log: Option<Log>,
    /// The records in their order, were nothing lost.
    may: Vec<LogRecord>,
    /// So many of those are durable.
    must: usize,
    purged_may: Option<Position>,
    purged_must: Option<Position>,
    has_failed: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let vfs = FaultyVfs::new(seed);
        Self { vfs, log: None, may: Vec::new(), must: 0, purged_may: None, purged_must: None, has_failed: false }
    }

    /// Does a step, and does it again after it failed, as the error says.
    fn run(&mut self, step: &Step) {
        for _ in 0..ATTEMPTS_MAX {
            if self.log.is_none() {
                self.recover();
            }
            match self.attempt(step) {
                Ok(()) => return,
                Err(LogError::Io { .. } | LogError::Full { .. }) if !self.vfs.is_off() => {}
                Err(LogError::Io { .. } | LogError::Reopen { .. }) => self.log = None,
                Err(error) => panic!("{step:?}: {error:?}"),
            }
        }
        panic!("{step:?} never succeeds");
    }

    fn attempt(&mut self, step: &Step) -> Result<(), LogError> {
        let log = self.log.as_ref().expect("an open log");
        match step {
            Step::Append(batch) => {
                let last = log.last_index();
                let rest: Vec<_> = batch.iter().filter(|record| Some(record.position.index) > last).cloned().collect();
                self.may.truncate(self.may.partition_point(|record| Some(record.position.index) <= last));
                self.may.extend_from_slice(&rest);
                log.append(&rest)
            }
            Step::Sync => {
                log.sync()?;
                self.must = self.may.len();
                Ok(())
            }
            Step::Truncate(index) => {
                let keep = self.may.partition_point(|record| record.position.index < *index);
                self.must = self.must.min(keep);
                log.truncate_from(*index)?;
                self.may.truncate(keep);
                self.must = keep;
                Ok(())
            }
            Step::Purge(through) => {
                self.purged_may = Some(*through);
                log.purge_through(*through)?;
                self.purged_must = Some(*through);
                Ok(())
            }
            Step::Reopen => {
                self.log = None;
                self.recover();
                Ok(())
            }
        }
    }

    /// Opens the log as often as it takes, and compares what is found with what was promised.
    fn recover(&mut self) {
        let mut attempts = 0..ATTEMPTS_MAX;
        let (log, found) = loop {
            attempts.next().expect("an open succeeds");
            if self.vfs.is_off() {
                self.vfs.restart();
            }
            let opened = open(&self.vfs).and_then(|log| Ok((read_all(&log)?, log)));
            match opened {
                Ok((found, log)) if !self.vfs.is_off() => break (log, found),
                Ok(_) | Err(LogOpenError::Log(LogError::Io { .. } | LogError::Reopen { .. })) => {}
                Err(error) => panic!("{error:?}"),
            }
        };
        let purged = log.purged_through();
        assert!(purged == self.purged_may || purged == self.purged_must, "purged {purged:?}");
        let is_left = |record: &&LogRecord| purged.is_none_or(|purged| record.position.index > purged.index);
        let may: Vec<_> = self.may.iter().filter(is_left).cloned().collect();
        let must = self.may[..self.must].iter().filter(is_left).count();
        assert!(found.len() <= may.len() && found == may[..found.len()], "found {found:?}\nof {may:?}");
        assert!(found.len() >= must, "{} of {must} durable records are left", found.len());
        (self.must, self.may) = (found.len(), found);
        (self.purged_may, self.purged_must) = (purged, purged);
        self.log = Some(log);
    }
}

/// Runs the workload with a fault at the `nth` call; says whether there was such a call.
#[track_caller]
fn check_fault(seed: u64, nth: u64, fault: Fault) -> bool {
    let mut world = World::new(seed.wrapping_mul(nth + 1));
    world.vfs.fault_at(nth, fault);
    workload().iter().for_each(|step| world.run(step));
    let has_fired = world.vfs.clear_fault().is_none();
    let found = read_all(world.log.as_ref().unwrap()).unwrap();
    // A power cut at the last sync may take the last append.
    let expected = if fault == Fault::CutPower { found.clone() } else { records(6, 61..63) };
    assert!(found == expected && records(6, 61..63).starts_with(&found), "seed {seed}, call {nth}: {found:?}");
    world.vfs.cut_power();
    world.log = None;
    world.recover();
    assert_eq!(world.may, expected, "seed {seed}, call {nth}");
    has_fired
}

#[track_caller]
fn check_every_call(seed: u64, fault: Fault) {
    let last = (1..).find(|nth| !check_fault(seed, *nth, fault)).unwrap_or_default();
    assert!(last > 120, "the workload made {last} calls only");
}

#[test]
fn survives_a_power_cut_at_every_call() {
    (1..6).for_each(|seed| check_every_call(seed, Fault::CutPower));
}

#[test]
fn survives_a_failure_of_every_call() {
    (1..4).for_each(|seed| check_every_call(seed, Fault::Fail));
}

/// The power goes at some call, and again at each call of the recovery.
#[test]
fn survives_a_power_cut_while_it_recovers() {
    for first in (1..150).step_by(7) {
        for second in 1..40 {
            let mut world = World::new(first * 100 + second);
            world.vfs.fault_at(first, Fault::CutPower);
            workload().iter().for_each(|step| world.run_until_failure(step));
            world.vfs.restart();
            world.vfs.fault_at(second, Fault::CutPower);
            world.log = None;
            world.recover();
        }
    }
}

impl World {
    /// Does a step if none failed before.
    fn run_until_failure(&mut self, step: &Step) {
        if self.has_failed {
            return;
        }
        if self.log.is_none() {
            self.log = open(&self.vfs).ok();
        }
        self.has_failed = self.log.is_none() || self.attempt(step).is_err();
    }
}

const ATTEMPTS_MAX: u32 = 5;

/// A power cut may keep a later write and lose an earlier one: what is behind the hole is gone, and stays gone.
#[test]
fn frames_behind_a_lost_one_never_come_back() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        world.run(&Step::Append(records(1, 0..2)));
        world.run(&Step::Sync);
        (2..6).for_each(|index| world.run(&Step::Append(vec![record(1, index)])));
        world.vfs.cut_power();
        world.log = None;
        world.recover();
        let last = world.may.last().map_or(0, |record| record.position.index);
        // The same lengths at the same places, from another writer.
        let others =
            (last + 1..4).map(|index| LogRecord { position: position(2, index), ..record(1, index) }).collect();
        world.run(&Step::Append(others));
        world.vfs.cut_power();
        world.log = None;
        world.recover();
    }
}

/// What a failed process left can be read by the next; once that has opened the log, it is durable.
#[track_caller]
fn check_found_is_durable(nth: u64) -> bool {
    let mut world = World::new(nth);
    world.vfs.fault_at(nth, Fault::Fail);
    workload().iter().for_each(|step| world.run_until_failure(step));
    world.log = None;
    world.recover();
    let has_fired = world.vfs.clear_fault().is_none();
    world.vfs.cut_power();
    world.log = None;
    world.recover();
    has_fired
}

#[test]
fn what_an_open_finds_is_durable() {
    let last = (1..).find(|nth| !check_found_is_durable(*nth)).unwrap_or_default();
    assert!(last > 120, "the workload made {last} calls only");
}

/// Records of one length, so that their frames stand at the same places.
fn twins(kind: u8, indices: impl IntoIterator<Item = u64>) -> Vec<LogRecord> {
    let payload = vec![kind; 20];
    indices
        .into_iter()
        .map(|index| LogRecord { position: position(1, index), kind, payload: payload.clone().into() })
        .collect()
}

/// A log with records 0 and 1, behind which an append of 2 to 5 failed at call `nth`, whatever of it was written.
fn after_a_failed_append(seed: u64, nth: u64) -> (FaultyVfs, Log) {
    let vfs = FaultyVfs::new(seed);
    let log = open(&vfs).unwrap();
    log.append(&twins(1, 0..2)).unwrap();
    log.sync().unwrap();
    vfs.fault_at(nth, Fault::Fail);
    log.append(&twins(1, 2..6)).unwrap_err();
    (vfs, log)
}

#[test]
fn what_a_failed_append_left_does_not_follow_the_next_one() {
    for seed in 0..200 {
        let (vfs, log) = after_a_failed_append(seed, 1);
        log.append(&twins(1, 2..3)).unwrap();
        log.sync().unwrap();
        vfs.cut_power();
        drop(log);
        vfs.restart();
        assert_eq!(read_all(&open(&vfs).unwrap()).unwrap(), twins(1, 0..3), "seed {seed}");
    }
}

#[test]
fn what_a_failed_append_left_does_not_follow_another_even_if_the_cut_was_lost() {
    for seed in 0..2_000 {
        let (vfs, log) = after_a_failed_append(seed, 1);
        log.append(&twins(2, 2..4)).unwrap();
        vfs.cut_power();
        drop(log);
        vfs.restart();
        let found = read_all(&open(&vfs).unwrap()).unwrap();
        let histories = [twins(1, 2..6), twins(2, 2..4)].map(|tail| [twins(1, 0..2), tail].concat());
        let is_one = histories.iter().any(|history| history.starts_with(&found));
        assert!(found.len() >= 2 && is_one, "seed {seed}: {found:?}");
    }
}

/// A disk whose syncs of file content wait until they are let through.
#[derive(Debug)]
struct GatedVfs {
    disk: FaultyVfs,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    arrived: Sender<()>,
    pass: Mutex<Receiver<Pass>>,
}

/// What becomes of a sync that waits.
#[derive(Debug, Clone, Copy)]
enum Pass {
    Through,
    Fail,
}

#[derive(Debug)]
struct GatedFile {
    file: Arc<dyn VfsFile>,
    gate: Arc<Gate>,
}

impl Vfs for GatedVfs {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.create_directory(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(GatedFile { file: self.disk.open(path, mode)?, gate: Arc::clone(&self.gate) }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.disk.list(directory)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.sync_directory(directory)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn VfsLock>> {
        self.disk.lock(path)
    }
}

impl VfsFile for GatedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.file.set_bytes(bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.gate.arrived.send(()).expect("the test waits");
        match self.gate.pass.lock().unwrap().recv().expect("the test lets it through") {
            Pass::Through => self.file.sync_data(),
            Pass::Fail => Err(io::Error::other("the test lets it fail")),
        }
    }
}

/// An open log behind a gate: what arrives there, and what lets it go on.
fn gated() -> (Log, Receiver<()>, Sender<Pass>) {
    let (arrived, arrivals) = channel();
    let (let_through, pass) = channel();
    (0..2).for_each(|_| let_through.send(Pass::Through).unwrap());
    let gate = Arc::new(Gate { arrived, pass: Mutex::new(pass) });
    let vfs = GatedVfs { disk: FaultyVfs::new(0), gate };
    let log = Log::open(Arc::new(vfs), Path::new("log"), small_options()).unwrap();
    (0..2).for_each(|_| arrivals.recv().unwrap());
    (log, arrivals, let_through)
}

#[test]
fn callers_that_come_while_a_sync_runs_share_the_next_one() {
    let (log, arrivals, let_through) = gated();
    let (appended, appends) = channel();
    let order = Mutex::new(0..);
    let append_and_sync = || {
        {
            let mut order = order.lock().unwrap();
            log.append(&[record(1, order.next().unwrap())]).unwrap();
        }
        appended.send(()).unwrap();
        log.sync().unwrap();
    };
    std::thread::scope(|scope| {
        scope.spawn(append_and_sync);
        arrivals.recv().unwrap();
        (0..4).for_each(|_| drop(scope.spawn(append_and_sync)));
        (0..5).for_each(|_| appends.recv().unwrap());
        assert_eq!(log.read(0, u64::MAX).unwrap(), records(1, 0..5), "reads and appends go on while a sync runs");
        // One for the first, one for all the others.
        (0..2).for_each(|_| let_through.send(Pass::Through).unwrap());
        // Another sync would find nobody who lets it through, and fail.
        drop(let_through);
    });
    arrivals.try_recv().expect("the second sync");
    assert!(arrivals.try_recv().is_err(), "a sync for nothing");
}

#[test]
fn a_sync_that_failed_failed_for_all_who_waited() {
    let (log, arrivals, let_through) = gated();
    let log = &log;
    std::thread::scope(|scope| {
        log.append(&records(1, 0..1)).unwrap();
        let first = scope.spawn(|| log.sync());
        arrivals.recv().unwrap();
        let (begun, begins) = channel();
        let waiting = (1..5).map(|index| {
            log.append(&[record(1, index)]).unwrap();
            let begun = begun.clone();
            scope.spawn(move || {
                begun.send(()).unwrap();
                log.sync()
            })
        });
        let waiting: Vec<_> = waiting.collect();
        (0..4).for_each(|_| begins.recv().unwrap());
        let_through.send(Pass::Fail).unwrap();
        (0..4).for_each(|_| let_through.send(Pass::Through).unwrap());
        for caller in waiting.into_iter().chain([first]) {
            assert!(matches!(caller.join().unwrap(), Err(LogError::Reopen { .. })));
        }
    });
    assert!(arrivals.try_recv().is_err(), "a sync after one that failed");
}
