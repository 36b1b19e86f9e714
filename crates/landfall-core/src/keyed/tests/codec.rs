//! Tests of the bytes of batches and records: frozen vectors, limits, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::snapshot::BadStateName;

fn example() -> Batch {
    batch([(DATA, Op::Clear), (DATA, put("key", "value")), (CONFIG, delete("k")), (DATA, put("", ""))])
}

fn example_bytes() -> Vec<u8> {
    let parts: [&[u8]; 7] = [
        &[1, 2, 0],
        b"\x06\x00config\x04\x00data",
        &[4, 0, 0, 0],
        &[3, 1, 0],
        b"\x01\x01\x00\x03\x00key\x05\x00\x00\x00value",
        b"\x02\x00\x00\x01\x00k",
        &[1, 1, 0, 0, 0, 0, 0, 0, 0],
    ];
    parts.concat()
}

#[track_caller]
fn check_refused(bytes: Vec<u8>, expected: BatchError) {
    assert_eq!(Batch::decode(&bytes.into(), &schema()), Err(expected));
}

#[test]
fn the_bytes_of_a_batch_are_frozen() {
    assert_eq!(example().encode(&schema()).unwrap(), example_bytes());
    assert_eq!(Batch::decode(&example_bytes().into(), &schema()), Ok(example()));
    assert_eq!(Batch::default().encode(&schema()).unwrap(), [1, 0, 0, 0, 0, 0, 0].as_slice());
}

#[test]
fn the_bytes_of_a_record_are_frozen() {
    let record = Record { position: Position { epoch: 3, index: 258 }, kind: RecordKind::Mark, payload: "why".into() };
    let expected = [&[1, 2][..], &[3, 0, 0, 0, 0, 0, 0, 0], &[2, 1, 0, 0, 0, 0, 0, 0], &[3, 0, 0, 0], b"why"].concat();
    assert_eq!(record.encode().unwrap(), expected);
    assert_eq!(Record::decode(&expected.clone().into()), Ok(record.clone()));
    assert_eq!(record.link(LogHash::default()), Ok(LogHash::default().after(record.position, &expected)));
}

#[test]
fn the_numbers_of_record_kinds_are_frozen() {
    use RecordKind::*;
    for (kind, number) in [(Batch, 1), (Mark, 2), (Lease, 3), (Rollback, 4), (Command, 5)] {
        let record = Record { position: at(1), kind, payload: Bytes::new() };
        let bytes = record.encode().unwrap();
        assert_eq!(bytes[1], number);
        assert_eq!(Record::decode(&bytes), Ok(record));
    }
}

#[test]
fn a_batch_of_a_newer_version_is_refused_by_what_is_unknown() {
    let newer = Schema::new(vec![section("sessions", SectionPriority::Vital, KeyRange::default())]).unwrap();
    let mut batch = Batch::default();
    batch.push(&newer, SectionId(0), put("a", "b")).unwrap();
    let bytes = batch.encode(&newer).unwrap();
    let error = Batch::decode(&bytes, &schema()).unwrap_err();
    assert_eq!(error, BatchError::UnknownSection { section: name("sessions") });
    assert!(error.to_string().contains("'sessions'"), "{error}");

    let mut newer = example_bytes();
    newer[0] = 9;
    check_refused(newer, BatchError::UnknownFormat { found: 9 });
}

#[test]
fn a_record_of_a_newer_version_is_refused_by_what_is_unknown() {
    let record = Record { position: at(1), kind: RecordKind::Mark, payload: Bytes::new() };
    let mut bytes = record.encode().unwrap().to_vec();
    bytes[1] = 77;
    assert_eq!(Record::decode(&bytes.clone().into()), Err(RecordError::UnknownKind { found: 77 }));
    bytes[0] = 2;
    assert_eq!(Record::decode(&bytes.into()), Err(RecordError::UnknownFormat { found: 2 }));
}

#[test]
fn every_truncation_and_every_extension_is_refused() {
    let bytes = Bytes::from(example_bytes());
    for length in 0..bytes.len() {
        assert!(Batch::decode(&bytes.slice(..length), &schema()).is_err(), "{length}");
    }
    check_refused([example_bytes(), vec![0]].concat(), BatchError::Malformed("bytes follow the last change"));

    let record = Record { position: at(1), kind: RecordKind::Batch, payload: bytes };
    let bytes = record.encode().unwrap();
    for length in 0..bytes.len() {
        assert!(Record::decode(&bytes.slice(..length)).is_err(), "{length}");
    }
    assert!(Record::decode(&[bytes.as_ref(), b"x"].concat().into()).is_err());
}

#[test]
fn lengths_beyond_a_limit_are_refused_before_they_are_believed() {
    let head = b"\x01\x01\x00\x04\x00data\x01\x00\x00\x00";
    let longest_key = [&head[..], &[1, 0, 0, 0xff, 0xff]].concat();
    check_refused(longest_key, BatchError::Malformed("a name or key longer than any"));
    let longest_value = [&head[..], &[1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]].concat();
    check_refused(longest_value, BatchError::Malformed("a value longer than any"));
    check_refused(b"\x01\x00\x00\xff\xff\xff\xff".to_vec(), BatchError::Malformed("more changes than fit"));
    check_refused(b"\x01\xff\xff".to_vec(), BatchError::Malformed("more sections than any state has"));
    check_refused(b"\x01\x01\x00\xff\xff".to_vec(), BatchError::Malformed("a name or key longer than any"));
    check_refused(vec![1; BATCH_BYTES_MAX + 1], BatchError::TooLong);
    assert_eq!(Record::decode(&vec![1; RECORD_BYTES_MAX + 1].into()), Err(RecordError::TooLong));
}

#[test]
fn a_batch_has_one_encoding() {
    let unused = b"\x01\x01\x00\x04\x00data\x00\x00\x00\x00".to_vec();
    check_refused(unused, BatchError::Malformed("a section is named and not changed"));
    let swapped = b"\x01\x02\x00\x04\x00data\x06\x00config\x02\x00\x00\x00\x03\x00\x00\x03\x01\x00".to_vec();
    check_refused(swapped, BatchError::Malformed("sections are not in order of their names"));
    let nowhere = b"\x01\x01\x00\x04\x00data\x01\x00\x00\x00\x03\x01\x00".to_vec();
    check_refused(nowhere, BatchError::Malformed("a change of a section that is not named"));
    let unknown = b"\x01\x01\x00\x04\x00data\x01\x00\x00\x00\x09\x00\x00".to_vec();
    check_refused(unknown, BatchError::Malformed("unknown kind of change"));
    let refused = StateName::new("a/b").unwrap_err();
    assert_eq!(refused, BadStateName { name: "a/b".into() });
    check_refused(b"\x01\x01\x00\x03\x00a/b".to_vec(), BatchError::Malformed("a refused name"));
}

#[test]
fn the_longest_key_and_value_fit_and_longer_ones_are_refused() {
    let (key, value) = (vec![b'k'; 4096], vec![0; 1 << 20]);
    let longest = batch([(DATA, put(key.clone(), value.clone()))]);
    let bytes = longest.encode(&schema()).unwrap();
    assert_eq!(Batch::decode(&bytes, &schema()), Ok(longest));
    let record = Record { position: at(1), kind: RecordKind::Batch, payload: bytes };
    assert!(record.encode().is_ok());

    let mut batch = Batch::default();
    let long_key = [key, vec![0]].concat();
    let long_value = [value, vec![0]].concat();
    let refused = Refused::KeyTooLong { bytes: 4097 };
    assert_eq!(batch.push(&schema(), DATA, put(long_key.clone(), "")), Err(refused.clone()));
    assert_eq!(batch.push(&schema(), DATA, delete(long_key)), Err(refused));
    let refused = Refused::ValueTooLong { bytes: (1 << 20) + 1 };
    assert_eq!(batch.push(&schema(), DATA, put("key", long_value)), Err(refused));
    assert!(batch.is_empty());
}

#[test]
fn a_batch_longer_than_a_record_has_no_encoding() {
    let value = Bytes::from(vec![0; 1 << 20]);
    let long = batch([(DATA, put("a", value.clone())), (DATA, put("b", value))]);
    assert_eq!(long.encode(&schema()), Err(BatchError::TooLong));
    let payload = Bytes::from(vec![0; RECORD_BYTES_MAX - RECORD_HEAD_BYTES + 1]);
    let record = Record { position: at(1), kind: RecordKind::Command, payload };
    assert_eq!(record.encode(), Err(RecordError::TooLong));
}

#[test]
fn a_shard_refuses_keys_of_others_in_a_decoded_batch_too() {
    let outside = |key: &'static str| {
        let bytes = [b"\x01\x01\x00\x05\x00shard\x01\x00\x00\x00\x02\x00\x00\x01\x00", key.as_bytes()].concat();
        Batch::decode(&bytes.into(), &schema())
    };
    let refused = BatchError::Refused(Refused::OutsideRange { section: name("shard") });
    assert_eq!(outside("a"), Err(refused.clone()));
    assert_eq!(outside("m"), Err(refused));
    assert_eq!(outside("b"), Ok(batch([(SHARD, delete("b"))])));
    assert_eq!(outside("l"), Ok(batch([(SHARD, delete("l"))])));
}

fn ops() -> impl Strategy<Value = Vec<(SectionId, Op)>> {
    let key = || prop::collection::vec(any::<u8>(), 0..20);
    let op = prop_oneof![
        5 => (key(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(key, value)| put(key, value)),
        2 => key().prop_map(delete),
        1 => Just(Op::Clear),
    ];
    prop::collection::vec(((0..2_u16).prop_map(SectionId), op), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_batch_survives_its_encoding(ops in ops()) {
        let batch = batch(ops);
        let bytes = batch.encode(&schema()).unwrap();
        prop_assert_eq!(Batch::decode(&bytes, &schema()), Ok(batch));
    }

    #[test]
    fn what_decodes_has_no_other_encoding(ops in ops(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = batch(ops).encode(&schema()).unwrap().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let bytes = Bytes::from(bytes);
        if let Ok(batch) = Batch::decode(&bytes, &schema()) {
            prop_assert_eq!(batch.encode(&schema()).unwrap(), bytes);
        }
    }
}
