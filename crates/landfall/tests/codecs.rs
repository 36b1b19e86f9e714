//! A joiner that knows fewer codecs than its source gets what it can read.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use landfall::core::ChunkId;
use landfall::core::codec::{Codec, Decoder, WireCodec};
use landfall::core::snapshot::{Manifest, StateName};
use landfall::core::tree::Leaf;
use landfall::core::wire::{Ask, Fetch, FetchWhat, Hello, ItemBody, ItemReader, Message, NodeRequest, UnitRequest};
use landfall::member::{ChangingFiles, Keep, Member, ServeConfig, StateConfig};
use landfall::net::{Connection, PlainTransport, Transport};

/// A member that serves a directory with a file that compresses, of which it took two snapshots.
fn serve(place: &std::path::Path) -> Member {
    let directory = place.join("source");
    fs::create_dir(&directory).unwrap();
    let write = |line: &str| fs::write(directory.join("text"), line.repeat(2000)).unwrap();
    write("what stands here stands here again and again\n");
    let member = Member::serve(ServeConfig {
        listen: Some("127.0.0.1:0".into()),
        states: vec![StateConfig {
            name: StateName::new("orders").unwrap(),
            directory: directory.clone(),
            data: place.join("data"),
            keep: Keep::Store,
            changing: ChangingFiles::Refuse,
            before_snapshot: None,
            after_snapshot: None,
        }],
        ..ServeConfig::new(Arc::new(PlainTransport))
    })
    .unwrap();
    write("what stands here now stands here again and again\n");
    member.snapshot(&StateName::new("orders").unwrap()).unwrap();
    member
}

/// A conversation that has got as far as an offer.
struct Joiner {
    connection: Connection,
    reader: ItemReader,
    manifest: Manifest,
}

impl Joiner {
    fn greet(member: &Member, codecs: &[u32], snapshot: Option<ChunkId>) -> Self {
        let mut connection = PlainTransport.connect(&member.address().unwrap(), Duration::from_secs(20)).unwrap();
        let hello = Hello { version_min: 1, version_max: 1, codecs: codecs.to_vec(), ..Hello::default() };
        connection.sender.send(&Message::Hello(hello).encode(), &[]).unwrap();
        let snapshot_wanted = snapshot.map(ChunkId::to_bytes);
        let ask = Ask { state: "orders".into(), snapshot_wanted, ..Ask::default() };
        connection.sender.send(&Message::Ask(ask).encode(), &[]).unwrap();
        connection.sender.flush().unwrap();
        let is_hello =
            matches!(Message::decode(connection.receiver.receive().unwrap().unwrap()), Ok(Message::Hello(_)));
        assert!(is_hello);
        let manifest = match Message::decode(connection.receiver.receive().unwrap().unwrap()).unwrap() {
            Message::Offer(offer) => Manifest::decode(&offer.manifest).unwrap(),
            _ => panic!("no offer"),
        };
        assert_eq!(manifest.sections[0].root.level, 0, "a small tree is one leaf");
        Self { connection, reader: ItemReader::new(), manifest }
    }

    fn root(&self) -> ChunkId {
        self.manifest.sections[0].root.id
    }

    /// The forms in which the answers come, and the plaintext of those that are no patches.
    fn fetch(&mut self, what: FetchWhat) -> Vec<(WireCodec, Vec<u8>)> {
        let fetch = Message::Fetch(Fetch { request: 1, what: Some(what) });
        self.connection.sender.send(&fetch.encode(), &[]).unwrap();
        self.connection.sender.flush().unwrap();
        let mut items = Vec::new();
        loop {
            match Message::decode(self.connection.receiver.receive().unwrap().unwrap()).unwrap() {
                Message::Item(item) => {
                    let ItemBody::Chunk(travelled) = &item.body else { panic!("it is missing") };
                    let codec = travelled.codec;
                    let ItemBody::Chunk(form) = self.reader.read(item).unwrap().body else { unreachable!() };
                    let mut plain = Vec::new();
                    if form.codec != Codec::ZstdPatch {
                        Decoder::new().decode(form.codec, form.payload, form.plain_bytes, None, &mut plain).unwrap();
                    }
                    items.push((codec, plain));
                }
                Message::Done { .. } => return items,
                _ => panic!("neither an item nor the end"),
            }
        }
    }
}

/// Every form in which a source answers a joiner that knows `codecs`: the root, and every chunk, each with and without a base.
fn forms(member: &Member, codecs: &[u32]) -> BTreeSet<WireCodec> {
    let log = member.log(&StateName::new("orders").unwrap()).unwrap();
    let mut old = Joiner::greet(member, codecs, Some(log[0].snapshot.parse().unwrap()));
    let mut new = Joiner::greet(member, codecs, None);
    let nodes = |root: ChunkId, base: Option<ChunkId>| {
        FetchWhat::Nodes(NodeRequest {
            ids: vec![root.to_bytes()],
            bases: base.map(ChunkId::to_bytes).into_iter().collect(),
        })
    };
    let (old_root, new_root) = (old.root(), new.root());
    let mut answers = old.fetch(nodes(old_root, None));
    let old_leaf = Leaf::parse(&answers[0].1.clone().into()).unwrap();
    answers.extend(new.fetch(nodes(new_root, Some(old_root))));
    for base in [None, Some(())] {
        let chunks: Vec<_> =
            old_leaf.entries().filter_map(|(entry, _, value)| Some((entry, value.chunk?.id))).collect();
        assert!(!chunks.is_empty());
        let bases =
            if base.is_some() { chunks.iter().map(|(_, chunk)| chunk.to_bytes()).collect() } else { Vec::new() };
        let entries = chunks.iter().map(|(entry, _)| *entry as u32).collect();
        answers.extend(new.fetch(FetchWhat::Unit(UnitRequest { leaf: new_root.to_bytes(), entries, bases })));
    }
    answers.into_iter().map(|(codec, _)| codec).collect()
}

const RAW: WireCodec = WireCodec::Alone(Codec::Raw);

#[test]
fn a_source_answers_only_in_codecs_that_the_joiner_named() {
    let place = tempfile::tempdir().unwrap();
    let member = serve(place.path());
    let all = forms(&member, &[0, 1, 2, 3, 4]);
    assert!(all.contains(&Codec::ZstdPatch.into()) && all.len() > 1, "{all:?}");
    assert_eq!(forms(&member, &[0]), [RAW].into());
    assert_eq!(forms(&member, &[]), [RAW].into());
    for known in [&[0, 1][..], &[0, 2], &[0, 1, 2], &[0, 3], &[0, 1, 2, 3]] {
        let used = forms(&member, known);
        assert!(
            used.iter().all(|&codec| codec == RAW || known.contains(&u32::from(codec.to_byte()))),
            "{known:?}: {used:?}"
        );
    }
}
