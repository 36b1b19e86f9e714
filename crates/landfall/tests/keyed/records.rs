//! A state follows a log of records.

use landfall::core::keyed::{Record, RecordKind};
use landfall::core::snapshot::Position;
use landfall::keyed::{Batch, CarriedOut, CarryOutError, Keyed, Op, RollBackError};

use crate::ground::{DATA, assert_equal, at, open};

fn record(index: u64, kind: RecordKind, payload: impl Into<bytes::Bytes>) -> Record {
    Record { position: at(index), kind, payload: payload.into() }
}

fn put(keyed: &Keyed, index: u64, value: &'static str) -> Record {
    let mut batch = Batch::default();
    let op = Op::Put { key: "key".into(), value: value.into() };
    batch.push(&keyed.schema(), DATA, op).unwrap();
    record(index, RecordKind::Batch, batch.encode(&keyed.schema()).unwrap())
}

#[test]
fn two_members_that_carry_out_the_same_records_seal_the_same_and_roll_back_alike() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let states = directories.each_ref().map(|directory| open(directory.path()));
    let mut rolled_back = Vec::new();
    for keyed in &states {
        assert!(matches!(keyed.carry_out(&put(keyed, 1, "first")).unwrap(), CarriedOut::Done));
        let CarriedOut::Sealing(ticket) = keyed.carry_out(&record(2, RecordKind::Mark, "")).unwrap() else {
            panic!("a mark seals")
        };
        let sealed = ticket.wait().unwrap();
        assert_eq!(sealed.manifest.position, at(2));
        keyed.carry_out(&record(3, RecordKind::Lease, "")).unwrap();
        keyed.carry_out(&put(keyed, 4, "second")).unwrap();
        assert!(matches!(keyed.carry_out(&put(keyed, 4, "again")).unwrap(), CarriedOut::Already));
        assert_eq!(keyed.get(DATA, b"key").unwrap().unwrap(), "second");

        let back = record(5, RecordKind::Rollback, sealed.snapshot.to_bytes());
        let CarriedOut::RolledBack(snapshot) = keyed.carry_out(&back).unwrap() else { panic!("it rolls back") };
        assert_eq!((keyed.position(), keyed.get(DATA, b"key").unwrap().unwrap()), (at(5), "first".into()));
        rolled_back.push((snapshot, keyed.log_hash()));
    }
    assert_eq!(rolled_back[0], rolled_back[1]);
    assert_equal(&states[0], &states[1]);
}

#[test]
fn a_record_that_cannot_be_carried_out_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let keyed = open(directory.path());
    let unknown = record(1, RecordKind::Rollback, vec![7; 32]);
    let refused = keyed.carry_out(&unknown).unwrap_err();
    assert!(matches!(refused, CarryOutError::RollBack(RollBackError::UnknownSnapshot(_))), "{refused}");
    let refused = keyed.carry_out(&record(1, RecordKind::Rollback, "short")).unwrap_err();
    assert!(matches!(refused, CarryOutError::BadSnapshot), "{refused}");
    let refused = keyed.carry_out(&record(1, RecordKind::Batch, "nonsense")).unwrap_err();
    assert!(matches!(refused, CarryOutError::Batch(_)), "{refused}");
    assert!(matches!(keyed.carry_out(&record(1, RecordKind::Command, "")), Err(CarryOutError::Command)));
    assert_eq!(keyed.position(), Position::default());
}
