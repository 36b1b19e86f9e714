//! Owns the target of the log: a last segment with arbitrary bytes never makes it panic, lie, or lose what it then takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use landfall_core::snapshot::Position;
use landfall_store::log::{Log, LogError, LogOpenError, LogOptions, LogRecord};
use landfall_store::vfs::faulty::FaultyVfs;
use landfall_store::vfs::{OpenMode, Vfs};

use crate::random::Random;

/// The bytes of a log's only segment. Either it opens, is read in order and goes on as if nothing had been, or it says that it is damaged.
pub fn log_segment(bytes: &[u8]) {
    let vfs = FaultyVfs::new(0);
    vfs.create_directory(Path::new(DIRECTORY)).expect("a sound disk");
    let file = vfs.open(&segment_path(), OpenMode::CreateNew).expect("a sound disk");
    file.write_at(0, bytes).expect("a sound disk");
    file.sync_data().expect("a sound disk");
    vfs.sync_directory(Path::new(DIRECTORY)).expect("a sound disk");
    let log = match open(&vfs) {
        Ok(log) => log,
        Err(LogOpenError::Log(LogError::Damaged(_))) => return,
        Err(error) => panic!("a sound disk: {error}"),
    };
    let mut expected = log.read(0, u64::MAX).expect("what was found is sound");
    assert!(expected.windows(2).all(|pair| pair[0].position.index < pair[1].position.index));
    assert_eq!(expected.last().map(|record| record.position), log.last_position());
    let last = log.last_position().unwrap_or_default();
    if let Some(index) = last.index.checked_add(1) {
        let fresh = record(Position { epoch: last.epoch, index }, b"after the damage");
        log.append(std::slice::from_ref(&fresh)).expect("a sound disk");
        log.sync().expect("a sound disk");
        expected.push(fresh);
    }
    drop(log);
    let again = open(&vfs).expect("it was tidied");
    assert_eq!(again.read(0, u64::MAX).expect("a sound disk"), expected);
    let middle = expected.len() / 2;
    if let Some(cut) = expected.get(middle) {
        again.truncate_from(cut.position.index).expect("a sound disk");
        assert_eq!(again.read(0, u64::MAX).expect("a sound disk"), expected[..middle]);
    }
}

/// The segment of a log that was closed in order, or left behind by a crash.
pub(super) fn valid_segment(random: &mut Random) -> Vec<u8> {
    let vfs = FaultyVfs::new(random.number());
    let log = open(&vfs).expect("a sound disk");
    for index in 1..=random.below(20) {
        let length = random.below(80) as usize;
        log.append(&[record(Position { epoch: 1, index }, &random.text(length))]).expect("a sound disk");
        if random.chance(400) {
            log.sync().expect("a sound disk");
        }
    }
    if random.chance(500) {
        vfs.cut_power();
        drop(log);
        vfs.restart();
    } else {
        drop(log);
    }
    // What was prepared for later records is zeros, of which a few are as good as a mebibyte.
    let mut bytes = vfs.content(&segment_path()).unwrap_or_default();
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(end + random.below(100) as usize);
    bytes
}

fn open(vfs: &FaultyVfs) -> Result<Log, LogOpenError> {
    Log::open(Arc::new(vfs.clone()), Path::new(DIRECTORY), LogOptions::default())
}

fn record(position: Position, payload: &[u8]) -> LogRecord {
    LogRecord { position, kind: 1, payload: Bytes::copy_from_slice(payload) }
}

fn segment_path() -> PathBuf {
    Path::new(DIRECTORY).join("00000001.log")
}

const DIRECTORY: &str = "/log";
