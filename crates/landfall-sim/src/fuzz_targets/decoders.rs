//! Owns the targets of the pure decoders: what decodes is canonical, bounded, and encodes to what it was.

use bytes::Bytes;
use landfall_core::chunker::{Cutter, Rest};
use landfall_core::codec::{Codec, Decoder, Encoder, compose_patches};
use landfall_core::files::{Content, FileKey, FileKind, FilePath, Meta, Mtime, decode_meta, encode_meta};
use landfall_core::limits::CHUNK_BYTES_MAX;
use landfall_core::snapshot::{Head, Manifest};
use landfall_core::tree::{Builder, Children, Leaf, NodeSink, Salt, Value, check_node, children};
use landfall_core::wire::{
    Ask, ChunkRequest, Fetch, FetchWhat, Item, ItemBody, ItemForm, Lease, Message, NodeRequest, Offer, Open,
    PathRequest, Refusal, RefusalReason, UnitRequest,
};
use landfall_core::{Chunk, ChunkId, Domain};

use crate::content::Model;
use crate::random::Random;
use crate::scenario::ContentShape;

/// A frame from a peer. What decodes survives its own encoding.
pub fn wire_message(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes) else { return };
    let encoded = message.encode();
    assert_eq!(Message::decode(&encoded).as_ref(), Ok(&message));
}

/// A tree node. Nothing is read beyond it, and a leaf's entries are as many as it says.
pub fn tree_node(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let id = ChunkId::of(Domain::Node, &bytes);
    match children(&bytes) {
        Ok(Children::Nodes(nodes)) => {
            assert!(!nodes.is_empty() && Leaf::parse(&bytes).is_err());
            for node in nodes {
                assert!(check_node(id, &bytes, &node.claim()).is_err() || node.id == id, "a node cannot hold itself");
            }
        }
        Ok(Children::Chunks(chunks)) => {
            let leaf = Leaf::parse(&bytes).expect("it has no children, so it is a leaf");
            assert_eq!(leaf.entries().count(), leaf.len());
            assert_eq!(leaf.entries().filter(|(_, _, value)| value.chunk.is_some()).count(), chunks.len());
            assert!(leaf.entry(leaf.len()).is_none());
            assert!(leaf.entries().zip(leaf.entries().skip(1)).all(|((_, a, _), (_, b, _))| a < b));
        }
        Err(_) => assert!(Leaf::parse(&bytes).is_err()),
    }
}

/// A manifest, and a head. Each has exactly one encoding.
pub fn snapshot(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(manifest) = Manifest::decode(&bytes) {
        assert_eq!(manifest.to_chunk().bytes(), &bytes);
        manifest.state_root();
    }
    if let Ok(head) = Head::decode(&bytes) {
        assert_eq!(head.encode(), bytes);
    }
}

/// A file's metadata, a key of a file tree, and a path. Each has exactly one encoding, and no path leaves its directory.
pub fn file_entry(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(meta) = decode_meta(&bytes) {
        assert_eq!(encode_meta(&meta), bytes);
    }
    if let Ok(key) = FileKey::decode(&bytes) {
        assert_eq!(key.encode(), bytes);
    }
    if let Ok(path) = FilePath::new(bytes) {
        let leaves = |component: &[u8]| component == b".." || component.contains(&0);
        assert!(!path.as_bytes().split(|&byte| byte == b'/').any(leaves) && !path.as_bytes().starts_with(b"/"));
    }
}

/// Encoded bytes of any codec, with a base. What is written is exactly as long as declared.
pub fn codec_decode(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_first_chunk::<6>() else { return };
    let codec = Codec::ALL[usize::from(head[0]) % Codec::ALL.len()];
    // Now and then a length that no chunk has.
    let plain_bytes = u32::from_le_bytes([head[1], head[2], head[3] & 0x1f, 0]);
    let (base, encoded) = rest.split_at(usize::from(u16::from_le_bytes([head[4], head[5]])).min(rest.len()));
    let mut plain = Vec::new();
    let decoded = Decoder::new().decode(codec, encoded, plain_bytes, Some(base), &mut plain);
    match decoded {
        Ok(()) => assert!(plain.len() == plain_bytes as usize && plain_bytes <= CHUNK_BYTES_MAX),
        Err(_) => assert!(plain.is_empty()),
    }
}

/// Two patches, one on what the other makes. Where both can be applied, the one made of them makes the same.
pub fn codec_compose(bytes: &[u8]) {
    let Some((&[base_bytes, earlier_bytes, middle_bytes, plain_bytes], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let (base, rest) = rest.split_at(usize::from(base_bytes).min(rest.len()));
    let (earlier, later) = rest.split_at(usize::from(earlier_bytes).min(rest.len()));
    let (middle_bytes, plain_bytes) = (u32::from(middle_bytes), u32::from(plain_bytes));
    let Some(composed) = compose_patches(earlier, middle_bytes, later, plain_bytes) else { return };
    assert!(Codec::ZstdPatch.is_worth_it(plain_bytes as usize, composed.len()));
    let mut decoder = Decoder::new();
    let mut apply = |patch: &[u8], base: &[u8], bytes| {
        let mut plain = Vec::new();
        decoder.decode(Codec::ZstdPatch, patch, bytes, Some(base), &mut plain).map(|()| plain)
    };
    let Ok(middle) = apply(earlier, base, middle_bytes) else { return };
    let plain = apply(later, &middle, plain_bytes).expect("what is composed can be applied one by one");
    assert_eq!(apply(&composed, base, plain_bytes), Ok(plain));
}

/// Any bytes, and a base that shares some of them. Every codec gives back what it was given.
pub fn codec_round_trip(bytes: &[u8]) {
    let (base, plain) = bytes.split_at(bytes.len() / 2);
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
    for codec in Codec::ALL {
        encoder.encode(codec, plain, Some(base), &mut encoded).expect("short enough");
        let length = plain.len() as u32;
        decoder.decode(codec, &encoded, length, Some(base), &mut decoded).expect("just encoded");
        assert_eq!(decoded, plain, "{codec:?}");
    }
}

/// Any content. The cuts cover it, whatever the pieces in which it comes.
pub fn chunker(bytes: &[u8]) {
    for mut cutter in [Cutter::pages(), Cutter::content_defined()] {
        let mut rest = bytes;
        while let Some(cut) = cutter.next_cut(rest, Rest::IsEmpty) {
            assert!(cut > 0 && cut <= rest.len() && cut <= CHUNK_BYTES_MAX as usize);
            rest = &rest[cut..];
        }
        assert!(rest.is_empty());
    }
}

pub(super) fn valid_text(random: &mut Random) -> Vec<u8> {
    let length = random.below(3000) as usize;
    if random.chance(500) { random.text(length) } else { random.bytes(length) }
}

/// Two patches, each of which changes a few bytes.
pub(super) fn valid_patches(random: &mut Random) -> Vec<u8> {
    let base = random.bytes(250);
    let mut patch_on = |base: &[u8]| {
        let mut plain = base.to_vec();
        let (at, length) = (random.below(230) as usize, random.below(20) as usize);
        plain[at..at + length].copy_from_slice(&random.bytes(length));
        let mut patch = Vec::new();
        Encoder::new().encode(Codec::ZstdPatch, &plain, Some(base), &mut patch).expect("short enough");
        (plain, patch)
    };
    let (middle, earlier) = patch_on(&base);
    let (plain, later) = patch_on(&middle);
    let head = [base.len(), earlier.len(), middle.len(), plain.len()].map(|bytes| bytes as u8);
    [&head[..], &base, &earlier, &later].concat()
}

pub(super) fn valid_wire_message(random: &mut Random) -> Vec<u8> {
    let ids = |random: &mut Random| (0..random.below(5)).map(|_| Bytes::from(random.bytes(32))).collect::<Vec<_>>();
    let payload = random.text(40);
    let request = random.number() as u32;
    match random.below(14) {
        0 => crate::source::hello().encode(),
        1 => Message::Cancel { request }.encode(),
        2 => Message::Done { request }.encode(),
        3 => {
            let form = ItemForm { codec: Codec::Zstd.into(), plain_bytes: 100, payload: &payload };
            Message::Item(Item { request, want: 1, body: ItemBody::Chunk(form) }).encode()
        }
        4 => {
            let what = FetchWhat::Nodes(NodeRequest { ids: ids(random), bases: ids(random) });
            Message::Fetch(Fetch { request, what: Some(what) }).encode()
        }
        5 => {
            let path = PathRequest {
                root: random.bytes(32).into(),
                key: random.bytes(9).into(),
                levels_held: 1,
                bases: vec![Bytes::new(), Bytes::from_static(b"a base")],
            };
            Message::Fetch(Fetch { request, what: Some(FetchWhat::Path(path)) }).encode()
        }
        6 => {
            let chunks = ChunkRequest { ids: ids(random) };
            Message::Fetch(Fetch { request, what: Some(FetchWhat::Chunks(chunks)) }).encode()
        }
        8 => Message::Opened.encode(),
        9 => {
            let (snapshots_held, sections) = (ids(random), vec!["config".to_owned(), "data".to_owned()]);
            let snapshot_wanted = random.chance(500).then(|| random.bytes(32).into());
            let (state, touches_max) = ("orders".to_owned(), random.below(1000) as u32);
            let urgency = random.below(3) as u32;
            Message::Ask(Ask { state, sections, snapshots_held, snapshot_wanted, touches_max, urgency }).encode()
        }
        10 => {
            let manifest = valid_snapshot(random).into();
            let expected_bytes = random.number();
            Message::Offer(Box::new(Offer { manifest, expected_bytes, ..Offer::default() })).encode()
        }
        11 => Message::Refusal(Refusal::new(RefusalReason::NoSnapshot, "not here")).encode(),
        12 => {
            let lease = Lease { version: random.number(), duration_ms: random.below(100_000), ..Lease::default() };
            if random.chance(500) { Message::Renew(lease).encode() } else { Message::Renewed(lease).encode() }
        }
        7 => Message::Open(Open { service: "raft".into() }).encode(),
        _ => {
            let unit = UnitRequest { leaf: random.bytes(32).into(), entries: vec![0, 1, 300], bases: ids(random) };
            Message::Fetch(Fetch { request, what: Some(FetchWhat::Unit(unit)) }).encode()
        }
    }
}

pub(super) fn valid_tree_node(random: &mut Random) -> Vec<u8> {
    struct Last(Vec<Bytes>);
    impl NodeSink for Last {
        fn put(&mut self, node: Chunk) {
            self.0.push(node.into_bytes());
        }
    }
    let mut nodes = Last(Vec::new());
    let mut builder = Builder::new(Salt::PUBLIC);
    for entry in 0..random.below(600) {
        let length = random.below(200) as usize;
        let value = match random.below(3) {
            0 => Value::chunk(ChunkId::of(Domain::Data, &entry.to_le_bytes()), 1000),
            _ => Value::inline(random.text(length)),
        };
        builder.push(format!("{entry:05}").as_bytes(), &value, &mut nodes).expect("keys ascend");
    }
    builder.finish(&mut nodes);
    nodes.0[random.below(nodes.0.len() as u64) as usize].to_vec()
}

pub(super) fn valid_snapshot(random: &mut Random) -> Vec<u8> {
    let shape = ContentShape { entries: 3, chunk_bytes_max: 10, inline_per_mille: 500, edits: 0 };
    let published = Model::new(shape, random.fork()).publish();
    if random.chance(500) {
        return published.manifest.to_chunk().into_bytes().to_vec();
    }
    let previous = random.chance(500).then_some(published.id);
    let Manifest { state, position, .. } = published.manifest;
    Head { state, snapshot: published.id, position, previous }.encode()
}

pub(super) fn valid_file_entry(random: &mut Random) -> Vec<u8> {
    let path = || FilePath::new("some/where").expect("a path");
    let kind = match random.below(5) {
        0 => FileKind::Directory,
        1 => FileKind::Symlink(Bytes::from_static(b"../target")),
        2 => FileKind::HardLink(path()),
        3 => FileKind::File { size: 3, content: Content::Inline(Bytes::from_static(b"abc")) },
        _ => FileKind::File { size: random.below(1 << 40), content: Content::Pages },
    };
    let mtime = Mtime { seconds: random.number() as i64, nanos: random.below(1_000_000_000) as u32 };
    match random.below(4) {
        0 => FileKey::Meta(path()).encode(),
        1 => FileKey::Content { path: path(), offset: random.below(1 << 40) }.encode(),
        2 => FileKey::Xattrs(path()).encode(),
        _ => encode_meta(&Meta { kind, mode: 0o644, uid: 1000, gid: random.below(1 << 32) as u32, mtime }),
    }
}

pub(super) fn valid_codec_input(random: &mut Random) -> Vec<u8> {
    let base = random.text(500);
    let mut plain = base.clone();
    for _ in 0..random.below(5) {
        let place = random.below(500) as usize;
        plain[place] ^= 0x55;
    }
    let codec = Codec::ALL[random.below(4) as usize];
    let mut encoded = Vec::new();
    Encoder::new().encode(codec, &plain, Some(&base), &mut encoded).expect("short enough");
    let length = (plain.len() as u32).to_le_bytes();
    [&[codec as u8, length[0], length[1], length[2]], &(base.len() as u16).to_le_bytes()[..], &base, &encoded].concat()
}
