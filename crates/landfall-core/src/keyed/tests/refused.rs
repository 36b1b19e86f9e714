//! Tests of what a schema and a state refuse.

use super::*;
use crate::snapshot::SectionKind;

#[test]
fn sections_have_ids_in_the_order_of_their_names() {
    let schema = schema();
    assert_eq!(schema.id("config"), Some(CONFIG));
    assert_eq!(schema.id("data"), Some(DATA));
    assert_eq!(schema.id("shard"), Some(SHARD));
    assert_eq!(schema.id("other"), None);
    assert_eq!(schema.section(CONFIG).priority, SectionPriority::Vital);
}

#[test]
fn refuses_schemas_that_no_state_can_have() {
    let all = || section("data", SectionPriority::Bulk, KeyRange::default());
    assert_eq!(Schema::new(vec![]), Err(SchemaError::Count { sections: 0 }));
    assert_eq!(Schema::new(vec![all(), all()]), Err(SchemaError::Twice { section: name("data") }));
    let many = (0..513).map(|number| section(&format!("s{number}"), SectionPriority::Bulk, KeyRange::default()));
    assert_eq!(Schema::new(many.collect()), Err(SchemaError::Count { sections: 513 }));
    let nothing = KeyRange { start: "b".into(), end: Some("b".into()) };
    let refused = Err(SchemaError::BadRange { section: name("data") });
    assert_eq!(Schema::new(vec![section("data", SectionPriority::Bulk, nothing)]), refused);
    let too_long = KeyRange { start: vec![0; 4_097].into(), end: None };
    assert_eq!(Schema::new(vec![section("data", SectionPriority::Bulk, too_long)]), refused);
}

#[test]
fn a_snapshot_of_another_schema_is_refused_with_the_name_of_the_section() {
    let manifest = born().base().clone();
    let mut state = born();

    let mut newer = manifest.clone();
    newer.sections.push(crate::snapshot::Section { name: name("zebra"), ..manifest.sections[0].clone() });
    let unknown = SchemaMismatch::Unknown { section: name("zebra") };
    assert_eq!(KeyedState::at(schema(), &newer).unwrap_err(), unknown);
    assert_eq!(state.rebase(&newer), Err(RebaseRefused::Schema(unknown)));

    let mut older = manifest.clone();
    older.sections.remove(1);
    assert_eq!(KeyedState::at(schema(), &older).unwrap_err(), SchemaMismatch::Absent { section: name("data") });

    let others: [fn(&mut crate::snapshot::Section); 3] = [
        |section| section.kind = SectionKind::Files,
        |section| section.priority = SectionPriority::Cache,
        |section| section.range.end = None,
    ];
    for change in others {
        let mut other = manifest.clone();
        change(&mut other.sections[2]);
        assert_eq!(KeyedState::at(schema(), &other).unwrap_err(), SchemaMismatch::Other { section: name("shard") });
    }
}

#[test]
fn a_snapshot_of_another_state_or_of_the_past_is_refused() {
    let (mut state, mut chunks) = (born(), MemoryChunks::default());
    let before = born().base().clone();
    commit(&mut state, 1, &batch([(DATA, put("a", "1"))]));
    let sealed = seal(&mut state, &mut chunks);
    let refused = RebaseRefused::Older { position: Position::default(), base: at(1) };
    assert_eq!(state.rebase(&before), Err(refused));
    let other = Manifest { state: name("other"), ..sealed };
    let refused = Err(RebaseRefused::OtherState { state: name("other") });
    assert_eq!((state.rebase(&other), state.replace(&other)), (refused.clone(), refused));
    assert_eq!(state.get(&chunks, DATA, b"a"), Ok(Some("1".into())));
}

#[test]
fn a_shard_takes_only_keys_of_its_range() {
    let mut changes = Batch::default();
    let refused = Err(Refused::OutsideRange { section: name("shard") });
    for key in ["", "a", "azzz", "m", "ma", "z"] {
        assert_eq!(changes.push(&schema(), SHARD, put(key, "1")), refused, "{key}");
        assert_eq!(changes.push(&schema(), SHARD, delete(key)), refused, "{key}");
        let (state, chunks) = (born(), MemoryChunks::default());
        let mut transaction = state.begin(&chunks);
        assert_eq!(transaction.put(SHARD, key, "1"), refused, "{key}");
        assert_eq!(transaction.delete(SHARD, key), refused, "{key}");
        assert_eq!(transaction.finish(), Ok(Batch::default()));
    }
    for key in ["b", "b\0", "lzzz"] {
        assert_eq!(changes.push(&schema(), SHARD, put(key, "1")), Ok(()), "{key}");
    }
}

#[test]
fn a_tree_with_values_that_no_keyed_state_has_is_broken() {
    let broken_values = [
        // Short enough to stand in the leaf.
        tree_value(&vec![1; 3_000].into(), &mut MemoryChunks::default())
            .chunk
            .map(|chunk| Value::chunk(chunk.id, 2_048)),
        // Both inline and a chunk.
        tree_value(&vec![1; 3_000].into(), &mut MemoryChunks::default())
            .chunk
            .map(|chunk| Value { inline: "x".into(), chunk: Some(chunk) }),
        // Of another length than it says.
        tree_value(&vec![1; 3_000].into(), &mut MemoryChunks::default())
            .chunk
            .map(|chunk| Value::chunk(chunk.id, 2_999)),
    ];
    for value in broken_values {
        let mut chunks = MemoryChunks::default();
        tree_value(&vec![1; 3_000].into(), &mut chunks);
        let mut builder = Builder::new(SALTS[1]);
        builder.push(b"key", &value.unwrap(), &mut chunks).unwrap();
        let mut manifest = born().base().clone();
        manifest.sections[1].root = builder.finish(&mut chunks);
        let state = KeyedState::at(schema(), &manifest).unwrap();
        let read = state.get(&chunks, DATA, b"key");
        assert!(matches!(read, Err(ReadError::Broken(TreeError::Malformed { .. }))), "{read:?}");
        assert!(matches!(state.scan(&chunks, DATA, b"", 9), Err(ReadError::Broken(_))));
    }
}
