//! Frozen results: a change here is a change of the format.

use super::*;

#[track_caller]
fn check_root(salt: Salt, model: &Model, id: &str, level: u8) {
    let mut nodes = MemoryNodes::default();
    let mut builder = Builder::new(salt);
    for (key, value) in model {
        builder.push(key, value, &mut nodes).unwrap();
    }
    let root = builder.finish(&mut nodes);
    assert_eq!((root.id.to_string().as_str(), root.level), (id, level));
}

#[test]
fn roots_are_frozen() {
    check_root(Salt::PUBLIC, &Model::new(), "1e40779bd1d257a48369eac82a1562ac61150e31c49f4864178cfa9b193245b0", 0);
    let one = Model::from([(Bytes::from_static(b"key"), Value::inline("value"))]);
    check_root(Salt::PUBLIC, &one, "a9fb605b0a714ebf1d4072f4d14e91490cd0f4821c7dcba1807d94e3f298509e", 0);
    check_root(SALT, &one, "a9fb605b0a714ebf1d4072f4d14e91490cd0f4821c7dcba1807d94e3f298509e", 0);
    check_root(
        Salt::PUBLIC,
        &Numbers(0).model(Keys::Short, 3_000),
        "c3c32190e34ac33cd1db351ff72a380a2cdb344df7cf872771102387186aeada",
        1,
    );
    check_root(
        SALT,
        &Numbers(0).model(Keys::Short, 3_000),
        "5dc0a56d29c96945f20d64fd79c677158523aeb46d937a0b8e550993a8b612f7",
        1,
    );
    check_root(
        SALT,
        &Numbers(0).model(Keys::Long, 300),
        "67ba154d877fc267461bd5d9e0ee9ac106b7482f873de0c05c279f9bbe069f76",
        4,
    );
}

#[test]
fn the_bytes_of_a_leaf_are_frozen() {
    let id = ChunkId::from_bytes([0xcc; 32]);
    let model = Model::from([
        (Bytes::from_static(b"a"), Value::inline("xy")),
        (Bytes::from_static(b"bc"), Value { inline: Bytes::from_static(b"z"), ..Value::chunk(id, 0x01_02_03) }),
    ]);
    let mut nodes = MemoryNodes::default();
    let root = build(&model, &mut nodes);
    let expected = [
        &[1, 0, 2, 0][..],
        &[1, 0, 2, 0, b'a', b'x', b'y'],
        &[2, 0, 1, 0x80, b'b', b'c', b'z'],
        &[0xcc; 32],
        &[3, 2, 1, 0],
    ];
    assert_eq!(nodes.node(root.id).unwrap(), expected.concat());
    assert_eq!((root.entries, root.payload_bytes, root.chunk_refs), (2, 3 + 0x01_02_03, 1));
}
