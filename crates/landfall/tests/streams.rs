//! A source that compresses with a memory: what it sends on one connection builds on what it sent there before.

mod between;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall::core::codec::{Codec, WireCodec};
use landfall::core::snapshot::{KeyRange, Position, SectionPriority, StateName};
use landfall::core::wire::{ItemBody, Message};
use landfall::files::place::Previous;
use landfall::keyed::{
    JoinOptions, Keyed, KeyedConfig, Milestone, Schema, SectionId, SectionSchema, Sections, Transaction,
};
use landfall::member::{ChangingFiles, Encoding, Keep, Member, ServeConfig, StateConfig};
use landfall::net::{Closer, ConnectError, Connection, ListenError, Listener, PlainTransport, Transport};
use landfall::pull::{OnLocalChanges, OnOpenFiles, PullOptions, PullReport, Status, TrustAll, pull};

use between::{Between, with_between};

const STREAM: WireCodec = WireCodec::ZstdStream;
const ZSTD: WireCodec = WireCodec::Alone(Codec::Zstd);

/// A way to sources on which a test sees how items are encoded.
#[derive(Clone, Default)]
struct Watched(Arc<Watch>);

#[derive(Default)]
struct Watch {
    /// How many items came in each codec.
    items: Mutex<BTreeMap<WireCodec, u64>>,
    /// After so many items, every connection that is open breaks; 0 is never.
    cut_after: AtomicU64,
    closers: Mutex<Vec<Closer>>,
    cuts: AtomicU64,
    /// The joiner is of a version that knows no stream.
    is_old: AtomicBool,
}

impl Watched {
    fn items(&self, codec: WireCodec) -> u64 {
        self.0.items.lock().unwrap().get(&codec).copied().unwrap_or(0)
    }

    fn note(&self, frame: &[u8]) {
        let Ok(Message::Item(item)) = Message::decode(frame) else { return };
        let ItemBody::Chunk(form) = item.body else { return };
        let mut items = self.0.items.lock().unwrap();
        *items.entry(form.codec).or_default() += 1;
        if items.values().sum::<u64>() == self.0.cut_after.load(Ordering::Relaxed) {
            self.0.cuts.fetch_add(1, Ordering::Relaxed);
            self.0.closers.lock().unwrap().drain(..).for_each(|closer| closer.close());
        }
    }
}

impl Transport for Watched {
    fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError> {
        let connection = PlainTransport.connect(address, deadline)?;
        self.0.closers.lock().unwrap().push(connection.closer.clone());
        Ok(with_between(connection, self.clone()))
    }

    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
        PlainTransport.listen(address)
    }
}

impl Between for Watched {
    fn came(&mut self, frame: &mut [u8]) {
        self.note(frame);
    }

    fn leaves(&mut self, head: &[u8], _: &[u8]) -> Option<Vec<u8>> {
        match Message::decode(head) {
            Ok(Message::Hello(mut hello)) if self.0.is_old.load(Ordering::Relaxed) => {
                hello.codecs.retain(|&number| number != u32::from(STREAM.to_byte()));
                Some(Message::Hello(hello).encode())
            }
            _ => None,
        }
    }
}

fn name() -> StateName {
    StateName::new("orders").unwrap()
}

/// Rows of `length` bytes in all, drawn from a few: alike in every chunk, and never the same.
fn rows(mut seed: u64, length: usize) -> Vec<u8> {
    let mut next = move || {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        seed >> 33
    };
    let row = |number: u64| {
        let hash = landfall::core::ChunkId::of(landfall::core::Domain::Data, &number.to_le_bytes());
        format!("{hash}\n").into_bytes()
    };
    let mut rows = Vec::new();
    while rows.len() < length {
        rows.extend(row(next() % 3000));
    }
    rows.truncate(length);
    rows
}

fn serve(directory: &Path, data: &Path, encoding: Encoding) -> Member {
    Member::serve(ServeConfig {
        listen: Some("127.0.0.1:0".into()),
        states: vec![StateConfig {
            name: name(),
            directory: directory.to_owned(),
            data: data.to_owned(),
            keep: Keep::Store,
            changing: ChangingFiles::Refuse,
            before_snapshot: None,
            after_snapshot: None,
        }],
        encoding,
        ..ServeConfig::new(Arc::new(PlainTransport))
    })
    .unwrap()
}

fn pull_through(watched: &Watched, destination: &Path, sources: &[&Member]) -> PullReport {
    let options = PullOptions {
        state: name(),
        destination: destination.to_owned(),
        sources: sources.iter().map(|source| source.address().unwrap()).collect(),
        transport: Arc::new(watched.clone()),
        trust: Arc::new(TrustAll),
        local_changes: OnLocalChanges::Refuse,
        open_files: OnOpenFiles::Allow,
        previous: Previous::Drop,
    };
    pull(&options, &Arc::new(Status::default())).unwrap()
}

/// Two members that serve the same files, and a place for copies.
struct Ground {
    _temporary: tempfile::TempDir,
    source: std::path::PathBuf,
    members: [Member; 2],
    copies: std::path::PathBuf,
}

fn ground(encoding: Encoding) -> Ground {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    let source = at("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("pages"), rows(1, 64 * 4096 * 20)).unwrap();
    fs::write(source.join("small"), rows(2, 50_000)).unwrap();
    fs::write(source.join("nothing"), b"").unwrap();
    let members = ["one", "other"].map(|data| serve(&source, &at(data), encoding));
    Ground { source, members, copies: at("copies"), _temporary: temporary }
}

impl Ground {
    #[track_caller]
    fn pull(&self, watched: &Watched, copy: &str, sources: &[&Member]) -> PullReport {
        let destination = self.copies.join(copy);
        fs::create_dir_all(&destination).unwrap();
        let report = pull_through(watched, &destination, sources);
        for file in ["pages", "small", "nothing"] {
            assert!(fs::read(destination.join(file)).unwrap() == fs::read(self.source.join(file)).unwrap(), "{file}");
        }
        report
    }
}

#[test]
fn a_pull_takes_fewer_bytes_where_both_sides_remember() {
    let (stream, alone) = (Watched::default(), Watched::default());
    let with = ground(Encoding::Always(STREAM));
    let report = with.pull(&stream, "stream", &[&with.members[0]]);
    assert!(stream.items(STREAM) > 50 && stream.items(ZSTD) == 0, "{:?}", stream.0.items);
    let without = ground(Encoding::Always(ZSTD));
    let alone_report = without.pull(&alone, "alone", &[&without.members[0]]);
    assert!(alone.items(STREAM) == 0 && alone.items(ZSTD) > 50, "{:?}", alone.0.items);
    let [stream, alone] = [report, alone_report].map(|report| report.figures.chunk_bytes_encoded);
    assert!(stream * 2 < alone, "{stream} bytes with a memory, {alone} without");
}

#[test]
fn an_old_joiner_is_never_sent_a_stream() {
    let (ground, old) = (ground(Encoding::Always(STREAM)), Watched::default());
    old.0.is_old.store(true, Ordering::Relaxed);
    ground.pull(&old, "copy", &[&ground.members[0]]);
    assert!(old.items(STREAM) == 0 && old.items(ZSTD) > 50, "{:?}", old.0.items);
}

#[test]
fn a_pull_whose_connections_break_goes_on_with_new_streams() {
    let (ground, cut) = (ground(Encoding::Always(STREAM)), Watched::default());
    cut.0.cut_after.store(30, Ordering::Relaxed);
    ground.pull(&cut, "copy", &[&ground.members[0]]);
    assert_eq!(cut.0.cuts.load(Ordering::Relaxed), 1);
    assert!(cut.items(STREAM) > 50, "{:?}", cut.0.items);
}

#[test]
fn several_sources_have_a_stream_each() {
    let (ground, watched) = (ground(Encoding::Always(STREAM)), Watched::default());
    ground.pull(&watched, "copy", &[&ground.members[0], &ground.members[1]]);
    assert!(watched.items(STREAM) > 50, "{:?}", watched.0.items);
}

fn open(directory: &Path) -> Arc<Keyed> {
    let section = SectionSchema {
        name: StateName::new("data").unwrap(),
        priority: SectionPriority::Bulk,
        range: KeyRange::default(),
    };
    Keyed::open(KeyedConfig {
        name: name(),
        directory: directory.to_owned(),
        schema: Schema::new(vec![section]).unwrap(),
        cache_bytes: 8 << 20,
        salt_seed: [7; 32],
    })
    .unwrap()
}

#[test]
fn a_keyed_state_is_joined_and_read_meanwhile_through_streams() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, joiner] = directories.each_ref().map(|directory| open(directory.path()));
    let text = rows(5, 3_000_000);
    let value = |number: usize| text[number * 100..][..if number % 500 == 3 { 5000 } else { 100 }].to_vec();
    let key = |number: usize| format!("key {number:08}").into_bytes();
    let fill = |transaction: &mut Transaction<'_>| {
        for number in 0..20_000 {
            transaction.put(SectionId(0), key(number), value(number))?;
        }
        Ok(())
    };
    source.transact(Position { epoch: 1, index: 1 }, b"record", fill).unwrap().unwrap();
    source.seal().unwrap().wait().unwrap();
    let member = Member::serve(ServeConfig {
        listen: Some("127.0.0.1:0".into()),
        keyed: vec![source.clone()],
        encoding: Encoding::Always(STREAM),
        ..ServeConfig::new(Arc::new(PlainTransport))
    })
    .unwrap();
    let watched = Watched::default();
    let handle = joiner.join(JoinOptions {
        sources: vec![member.address().unwrap()],
        transport: Arc::new(watched.clone()),
        trust: Arc::new(TrustAll),
        wanted: None,
        sections: Sections::All,
    });
    handle.wait(Milestone::Viable).unwrap();
    handle.adopt().unwrap();
    for number in [3, 11_111, 19_503] {
        assert_eq!(joiner.get(SectionId(0), &key(number)).unwrap().unwrap(), value(number));
    }
    handle.wait(Milestone::Complete).unwrap();
    for number in 0..20_000 {
        assert_eq!(joiner.get(SectionId(0), &key(number)).unwrap().unwrap(), value(number));
    }
    assert!(watched.items(STREAM) > 50, "{:?}", watched.0.items);
}
