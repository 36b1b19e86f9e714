//! What the log promises while nothing fails, and what it says when its files were damaged.

mod log_support;

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use landfall_store::log::{
    DamagedLog, LOG_PAYLOAD_BYTES_MAX, Log, LogDamage, LogError, LogOpenError, LogOptions, LogRecord,
};
use landfall_store::vfs::faulty::{Fault, FaultyVfs};
use landfall_store::vfs::{RealVfs, Vfs};

use log_support::{large_record, open, position, read_all, record, records, small_options};

fn filled(indices: impl IntoIterator<Item = u64>) -> (FaultyVfs, Log) {
    let vfs = FaultyVfs::new(1);
    let log = open(&vfs).unwrap();
    log.append(&records(1, indices)).unwrap();
    log.sync().unwrap();
    (vfs, log)
}

fn segments(vfs: &FaultyVfs) -> Vec<String> {
    let names = vfs.list(Path::new("log")).unwrap();
    names.into_iter().filter(|name| name.ends_with(".log")).collect()
}

#[track_caller]
fn damage_at_open(vfs: &FaultyVfs) -> DamagedLog {
    match open(vfs) {
        Err(LogOpenError::Log(LogError::Damaged(damage))) => damage,
        outcome => panic!("not taken for damage: {outcome:?}"),
    }
}

#[track_caller]
fn damage_at_read(log: &Log) -> DamagedLog {
    match read_all(log) {
        Err(LogError::Damaged(damage)) => damage,
        outcome => panic!("not taken for damage: {outcome:?}"),
    }
}

/// Where the frames begin, for segments that were filled by one append of `records`.
fn offsets(records: &[LogRecord]) -> Vec<u64> {
    let mut next = 40;
    let place = |record: &LogRecord| {
        next += 44 + record.payload.len() as u64;
        next - 44 - record.payload.len() as u64
    };
    records.iter().map(place).collect()
}

#[test]
fn an_empty_log_has_no_last_position_and_reads_nothing() {
    let log = open(&FaultyVfs::new(0)).unwrap();
    assert_eq!((log.first_index(), log.last_position(), log.purged_through()), (0, None, None));
    assert_eq!(log.read(0, u64::MAX).unwrap(), []);
    assert_eq!(log.get(0).unwrap(), None);
    log.sync().unwrap();
    log.append(&[]).unwrap();
    log.truncate_from(0).unwrap();
    assert_eq!(log.last_index(), None);
}

#[test]
fn records_are_read_back_in_order_across_segments_and_restarts() {
    let (vfs, log) = filled(0..60);
    assert!(segments(&vfs).len() > 3);
    assert_eq!(read_all(&log).unwrap(), records(1, 0..60));
    drop(log);
    let log = open(&vfs).unwrap();
    assert_eq!(read_all(&log).unwrap(), records(1, 0..60));
    assert_eq!(log.last_position(), Some(position(1, 59)));
    (0..60).for_each(|index| assert_eq!(log.get(index).unwrap(), Some(record(1, index))));
}

#[test]
fn a_read_gives_at_most_the_bytes_asked_for_and_at_least_one_record() {
    let (_, log) = filled([1, 2, 3, 30, 31]);
    let all = records(1, [1, 2, 3, 30, 31]);
    let lengths: Vec<_> = all.iter().map(|record| record.payload.len() as u64).collect();
    assert_eq!(log.read(1, 0).unwrap(), all[..1]);
    assert_eq!(log.read(1, lengths[0] + lengths[1]).unwrap(), all[..2]);
    assert_eq!(log.read(1, lengths[0] + lengths[1] + lengths[2] - 1).unwrap(), all[..2]);
    assert_eq!(log.read(4, u64::MAX).unwrap(), all[3..], "the first at or above");
    assert_eq!(log.get(4).unwrap(), None, "a gap holds nothing");
    assert_eq!(log.read(32, u64::MAX).unwrap(), []);
}

#[test]
fn a_record_must_follow_the_last_one() {
    let (_, log) = filled([5]);
    for refused in [record(1, 5), record(1, 4), record(0, 6)] {
        let outcome = log.append(&[record(1, 5 + 100), refused.clone()]);
        assert!(matches!(outcome, Err(LogError::OutOfOrder { position, .. }) if position == refused.position));
        assert!(matches!(log.append(&[refused]), Err(LogError::OutOfOrder { .. })));
    }
    assert_eq!(log.last_index(), Some(5), "a refused batch leaves nothing");
    log.append(&[record(1, 6), record(2, 9)]).unwrap();
}

#[test]
fn a_payload_has_a_limit_and_may_be_greater_than_a_segment() {
    let (vfs, log) = filled([0]);
    let limit = LOG_PAYLOAD_BYTES_MAX as usize;
    assert!(matches!(log.append(&[large_record(1, limit + 1)]), Err(LogError::TooLong { .. })));
    let large = [large_record(1, limit), large_record(2, limit), large_record(3, 2)];
    log.append(&large).unwrap();
    drop(log);
    let log = open(&vfs).unwrap();
    assert_eq!(log.read(1, u64::MAX).unwrap(), large);
}

#[test]
fn a_truncated_tail_is_gone_and_another_takes_its_place() {
    for keep in [0, 1, 7, 20, 49] {
        let (vfs, log) = filled(1..50);
        log.truncate_from(keep + 1).unwrap();
        assert_eq!(log.last_index(), (keep > 0).then_some(keep));
        let expected = [records(1, 1..=keep), records(2, keep + 1..60)].concat();
        log.append(&records(2, keep + 1..60)).unwrap();
        assert_eq!(read_all(&log).unwrap(), expected);
        drop(log);
        assert_eq!(read_all(&open(&vfs).unwrap()).unwrap(), expected);
    }
}

#[test]
fn a_truncation_behind_the_end_changes_nothing_and_one_in_a_gap_cuts_at_the_gap() {
    let (_, log) = filled([1, 2, 10, 11]);
    log.truncate_from(12).unwrap();
    assert_eq!(log.last_index(), Some(11));
    log.truncate_from(5).unwrap();
    assert_eq!(log.last_index(), Some(2));
    log.append(&records(1, [3])).unwrap();
}

#[test]
fn a_purge_gives_space_back_and_is_remembered() {
    let (vfs, log) = filled(0..60);
    let before = (segments(&vfs).len(), log.size_bytes());
    log.purge_through(position(1, 40)).unwrap();
    assert!(segments(&vfs).len() < before.0 && log.size_bytes() < before.1);
    let check = |log: &Log| {
        assert_eq!((log.first_index(), log.purged_through()), (41, Some(position(1, 40))));
        assert!(matches!(log.read(40, 1), Err(LogError::Purged { through }) if through == position(1, 40)));
        assert!(matches!(log.get(3), Err(LogError::Purged { .. })));
        assert!(matches!(log.truncate_from(40), Err(LogError::Purged { .. })));
        assert_eq!(read_all(log).unwrap(), records(1, 41..60));
    };
    check(&log);
    vfs.cut_power();
    drop(log);
    check(&reopened(&vfs));
}

#[test]
fn what_was_appended_counts_until_the_log_is_closed_whatever_becomes_of_it() {
    let (vfs, log) = filled(0..60);
    let all = log.appended_bytes();
    let payloads: usize = records(1, 0..60).iter().map(|record| record.payload.len()).sum();
    assert!(all > payloads as u64);
    log.purge_through(position(1, 40)).unwrap();
    log.truncate_from(50).unwrap();
    assert_eq!(log.appended_bytes(), all);
    log.append(&records(2, 50..51)).unwrap();
    assert!(log.appended_bytes() > all);
    drop(log);
    assert_eq!(reopened(&vfs).appended_bytes(), 0);
}

/// The log as it is found after a kill or a power cut.
fn reopened(vfs: &FaultyVfs) -> Log {
    vfs.restart();
    open(vfs).unwrap()
}

#[test]
fn a_purge_beyond_the_last_record_leaves_a_log_that_goes_on_behind_it() {
    let (vfs, log) = filled(0..20);
    log.purge_through(position(4, 100)).unwrap();
    assert_eq!((log.last_position(), log.first_index()), (Some(position(4, 100)), 101));
    assert!(matches!(log.append(&[record(4, 100)]), Err(LogError::OutOfOrder { .. })));
    log.append(&records(4, 101..130)).unwrap();
    log.truncate_from(101).unwrap();
    assert_eq!(log.last_position(), Some(position(4, 100)));
    log.append(&records(5, 101..130)).unwrap();
    log.purge_through(position(1, 50)).unwrap();
    drop(log);
    let log = open(&vfs).unwrap();
    assert_eq!(log.purged_through(), Some(position(4, 100)), "a purge never goes back");
    assert_eq!(read_all(&log).unwrap(), records(5, 101..130));
}

#[test]
fn two_owners_of_one_log_are_refused() {
    let (vfs, _log) = filled(0..3);
    assert!(matches!(open(&vfs), Err(LogOpenError::InUse { .. })));
}

#[test]
fn options_without_sense_are_refused() {
    for segment_bytes_target in [0, 255, u32::MAX] {
        let options = LogOptions { segment_bytes_target, ..small_options() };
        let outcome = Log::open(Arc::new(FaultyVfs::new(0)), Path::new("log"), options);
        assert!(matches!(outcome, Err(LogOpenError::BadOption { .. })));
    }
}

#[test]
fn the_newest_records_are_read_without_the_disk() {
    let (vfs, log) = filled(0..60);
    let calls = vfs.calls();
    assert_eq!(log.read(58, u64::MAX).unwrap(), records(1, 58..60));
    assert_eq!(vfs.calls(), calls);
    log.read(0, u64::MAX).unwrap();
    assert!(vfs.calls() > calls);
}

#[test]
fn works_on_the_real_file_system() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Log::open(Arc::new(RealVfs), directory.path(), LogOptions::default()).unwrap();
    let log = open();
    log.append(&records(1, 0..5_000)).unwrap();
    log.sync().unwrap();
    log.truncate_from(4_000).unwrap();
    log.purge_through(position(1, 99)).unwrap();
    drop(log);
    let log = open();
    assert_eq!(read_all(&log).unwrap(), records(1, 100..4_000));
    assert_eq!(log.get(2_345).unwrap(), Some(record(1, 2_345)));
}

#[test]
fn damage_in_a_finished_segment_is_an_error_with_its_place() {
    let (vfs, log) = filled(0..60);
    let at = offsets(&records(1, 0..60));
    for (flipped, expected) in [(at[2] + 50, at[2]), (at[3] + 5, at[3])] {
        vfs.flip_bit(Path::new("log/00000001.log"), flipped, 3);
        let path = Path::new("log/00000001.log").to_owned();
        let expected = DamagedLog { path, offset: expected as u32, what: LogDamage::Frame };
        assert_eq!(damage_at_read(&log), expected);
        vfs.flip_bit(Path::new("log/00000001.log"), flipped, 3);
    }
    assert_eq!(read_all(&log).unwrap(), records(1, 0..60));
}

#[test]
fn every_flipped_bit_of_a_log_that_was_closed_is_found() {
    let (vfs, log) = filled(0..6);
    drop(log);
    let path = Path::new("log/00000001.log");
    let end = offsets(&records(1, 0..7))[6];
    for byte in 0..end {
        vfs.flip_bit(path, byte, (byte % 8) as u8);
        let damage = damage_at_open(&vfs);
        assert!(u64::from(damage.offset) <= byte && damage.path == path, "byte {byte}: {damage}");
        vfs.flip_bit(path, byte, (byte % 8) as u8);
    }
    assert_eq!(read_all(&open(&vfs).unwrap()).unwrap(), records(1, 0..6));
}

#[test]
fn damage_before_the_last_sync_is_found_without_a_close() {
    let (vfs, log) = filled(0..3);
    log.append(&records(1, 3..5)).unwrap();
    log.sync().unwrap();
    vfs.cut_power();
    drop(log);
    vfs.restart();
    let at = offsets(&records(1, 0..5));
    vfs.flip_bit(Path::new("log/00000001.log"), at[1] + 20, 0);
    assert_eq!(u64::from(damage_at_open(&vfs).offset), at[1]);
}

#[test]
fn a_file_that_was_cut_or_lost_is_found() {
    for name in ["00000001.log", "00000003.log"] {
        let (vfs, log) = filled(0..60);
        drop(log);
        assert!(segments(&vfs).len() > 3);
        vfs.truncate(&Path::new("log").join(name), 300);
        let damage = damage_at_open(&vfs);
        assert_eq!((damage.path, damage.offset, damage.what), (Path::new("log").join(name), 300, LogDamage::Cut));
        vfs.remove(&Path::new("log").join(name)).unwrap();
        let damage = damage_at_open(&vfs);
        assert_eq!((damage.path, damage.what), (Path::new("log").join(name), LogDamage::Missing));
    }
}

#[test]
fn a_torn_record_is_cut_and_what_was_synced_stays() {
    let (vfs, log) = filled(0..6);
    log.append(&records(1, [6])).unwrap();
    drop(log);
    let at = offsets(&records(1, 0..7));
    vfs.truncate(Path::new("log/00000001.log"), at[6] + 50);
    assert_eq!(read_all(&open(&vfs).unwrap()).unwrap(), records(1, 0..6));
}

#[test]
fn a_damaged_purge_point_is_an_error() {
    let (vfs, log) = filled(0..60);
    log.purge_through(position(1, 30)).unwrap();
    drop(log);
    vfs.flip_bit(Path::new("log/purged"), 20, 1);
    assert_eq!(damage_at_open(&vfs).path, Path::new("log/purged"));
    vfs.remove(Path::new("log/purged")).unwrap();
    assert_eq!(damage_at_open(&vfs).what, LogDamage::Missing, "segments are gone that nobody purged");
}

#[test]
fn a_bit_that_flips_on_the_way_from_the_disk_is_read_again() {
    let (vfs, log) = filled(0..60);
    for nth in 1..6 {
        vfs.flip_bit_at_read(nth);
        assert_eq!(read_all(&log).unwrap(), records(1, 0..60), "read {nth}");
    }
    drop(log);
    for nth in 1..9 {
        vfs.flip_bit_at_read(nth);
        assert_eq!(read_all(&open(&vfs).unwrap()).unwrap(), records(1, 0..60), "read {nth}");
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_promised() {
    let (vfs, log) = filled(0..3);
    log.append(&records(1, 3..5)).unwrap();
    vfs.fault_at(1, Fault::Fail);
    assert!(matches!(log.sync(), Err(LogError::Reopen { source: Some(_), .. })));
    assert!(matches!(log.sync(), Err(LogError::Reopen { source: None, .. })));
    assert!(matches!(log.append(&records(1, 5..6)), Err(LogError::Reopen { .. })));
    assert!(matches!(log.truncate_from(2), Err(LogError::Reopen { .. })));
    assert!(matches!(log.purge_through(position(1, 1)), Err(LogError::Reopen { .. })));
    assert_eq!(log.read(0, u64::MAX).unwrap(), records(1, 0..5), "what can be read, can be read");
}

#[test]
fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    let (vfs, log) = filled(0..10);
    vfs.limit_bytes(Some(log.size_bytes() + 100));
    let more = records(1, 10..60);
    assert!(matches!(log.append(&more), Err(LogError::Full { .. })));
    vfs.limit_bytes(None);
    let rest: Vec<_> = more.into_iter().filter(|record| Some(record.position.index) > log.last_index()).collect();
    log.append(&rest).unwrap();
    log.sync().unwrap();
    vfs.cut_power();
    drop(log);
    assert_eq!(read_all(&reopened(&vfs)).unwrap(), records(1, 0..60));
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(out, "{byte:02x}").unwrap());
        out.push('\n');
    }
    out
}

#[track_caller]
fn check_golden(actual: &str, file_name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file_name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    assert_eq!(actual, std::fs::read_to_string(&path).unwrap(), "{file_name}");
}

/// Two segments: the second knows where the first ended. Two syncs, a receipt, and a purge.
#[test]
fn the_bytes_of_segments_and_of_the_purge_point_are_frozen() {
    let vfs = FaultyVfs::new(0);
    let options = LogOptions { segment_bytes_target: 256, ..small_options() };
    let log = Log::open(Arc::new(vfs.clone()), Path::new("log"), options).unwrap();
    for index in [3, 4, 7, 8, 9] {
        let payload = format!("record {index}").into_bytes().into();
        log.append(&[LogRecord { position: position(2, index), kind: 5, payload }]).unwrap();
        log.sync().unwrap();
    }
    log.purge_through(position(2, 3)).unwrap();
    drop(log);
    for (file, golden) in [("00000001.log", "segment.1.hex"), ("00000002.log", "segment.2.hex")] {
        check_golden(&hex(&vfs.content(&Path::new("log").join(file)).unwrap()), golden);
    }
    check_golden(&hex(&vfs.content(Path::new("log/purged")).unwrap()), "purged.hex");
}
