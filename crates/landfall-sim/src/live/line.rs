//! Owns a joiner's connection for what cannot wait: what it needs before it serves, and what reads and changes miss. One source at a
//! time; whoever lacks something, lies or is silent is left for the next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use landfall_core::codec::{Codec, Decoder};
use landfall_core::keyed::{Missing, Way};
use landfall_core::tree::{ChunkRef, NodeWant, Root};
use landfall_core::wire::{
    ChunkRequest, Fetch, FetchWhat, Item, ItemBody, ItemForm, ItemReader, Message, NodeRequest, PathRequest,
};
use landfall_core::{Chunk, ChunkId, Domain, Time};

use super::fetched::AskedBy;
use super::here::{Here, WayTo};
use crate::disk::Disk;
use crate::network::{ConnectionId, MemberId};
use crate::trouble::Trouble;

/// Which of a joiner's connections to a source the line is; the bulk has the lower ones.
pub(super) const LINE: u32 = u32::MAX;
/// A source that owes an answer for this long is left.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(8);
/// A source that sent so many things that do not match their hash is not asked again.
const CORRUPT_MAX: u32 = 3;
/// Nodes or chunks of one request.
const WANTS_MAX: usize = 64;

/// What the line is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// The manifest of a snapshot.
    Manifest(ChunkId),
    /// Vital sections, whole.
    Vital(ChunkId),
    /// Inner nodes of the others.
    Upper(ChunkId),
    /// A few units.
    Hot(ChunkId),
    /// What the next record needs.
    Apply,
    /// What a read needs.
    Read(u64),
}

/// What a task needs next.
#[derive(Debug)]
pub(super) enum Need {
    Nothing,
    /// Nothing that the line could bring.
    Patience,
    Manifest(ChunkId),
    Nodes(Vec<NodeWant>),
    Chunks(Vec<ChunkRef>),
    Path(Way),
}

impl Need {
    /// The next of what a read missed: a way if there is one, since it costs one round trip.
    pub(super) fn of(missing: Missing) -> Self {
        if let Some(way) = missing.ways.into_iter().next() {
            Self::Path(way)
        } else if !missing.nodes.is_empty() {
            Self::Nodes(missing.nodes)
        } else {
            Self::Chunks(missing.chunks)
        }
    }
}

/// A task that is not done.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// It waits for an answer.
    pub(super) is_asked: bool,
    /// Sources that do not have what it needs.
    pub(super) lacking: BTreeSet<MemberId>,
}

/// The line, and what was asked on it.
pub(super) struct Line {
    pub(super) source: Option<(MemberId, ConnectionId)>,
    pub(super) tasks: BTreeMap<Task, Pending>,
    open: BTreeMap<u32, Asked>,
    manifest_asked: Option<(ChunkId, Task)>,
    requests: u32,
    asked_since: Option<Time>,
    corrupt: BTreeMap<MemberId, u32>,
    reader: ItemReader,
    decoder: Decoder,
    /// Bytes of plaintext that came.
    pub(super) bytes: u64,
}

#[derive(Debug)]
struct Asked {
    task: Task,
    what: AskedFor,
    is_lacking: bool,
}

#[derive(Debug)]
enum AskedFor {
    Nodes(Vec<NodeWant>),
    Chunks(Vec<ChunkRef>),
    Path { root: Root, key: Bytes, held: usize },
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            source: None,
            tasks: BTreeMap::new(),
            open: BTreeMap::new(),
            manifest_asked: None,
            requests: 0,
            asked_since: None,
            corrupt: BTreeMap::new(),
            reader: ItemReader::new(),
            decoder: Decoder::new(),
            bytes: 0,
        }
    }

    /// Is a member one that may be asked?
    pub(super) fn trusts(&self, member: MemberId) -> bool {
        self.corrupt.get(&member).is_none_or(|&count| count < CORRUPT_MAX)
    }

    /// Tasks that can be asked for.
    pub(super) fn idle(&self) -> Vec<Task> {
        self.tasks.iter().filter(|(_, pending)| !pending.is_asked).map(|(&task, _)| task).collect()
    }

    pub(super) fn begin(&mut self, task: Task) {
        self.tasks.entry(task).or_default();
    }

    /// The connection is gone, and what was asked on it.
    pub(super) fn lose(&mut self) -> Option<(MemberId, ConnectionId)> {
        self.open.clear();
        self.manifest_asked = None;
        self.asked_since = None;
        self.reader = ItemReader::new();
        self.tasks.values_mut().for_each(|pending| pending.is_asked = false);
        self.source.take()
    }

    /// Does the source owe an answer for too long?
    pub(super) fn is_silent(&self, now: Time) -> bool {
        self.asked_since.is_some_and(|since| now.since(since) >= SILENCE_MAX)
    }

    /// Asks for what a task needs; says what to send.
    pub(super) fn ask(&mut self, task: Task, need: Need, here: &Here<'_>, now: Time) -> Option<AskFrame> {
        if let Need::Manifest(id) = need {
            if self.manifest_asked.is_some() {
                return None;
            }
            self.manifest_asked = Some((id, task));
            self.note_asked(task, now);
            return Some(AskFrame::Manifest(id));
        }
        let (what, asked) = match need {
            Need::Nodes(mut nodes) => {
                nodes.truncate(WANTS_MAX);
                let ids = nodes.iter().map(|want| want.id.to_bytes()).collect();
                let bases = nodes.iter().map(|want| want.base.map_or_else(Bytes::new, ChunkId::to_bytes)).collect();
                (FetchWhat::Nodes(NodeRequest { ids, bases }), AskedFor::Nodes(nodes))
            }
            Need::Chunks(mut chunks) => {
                chunks.truncate(WANTS_MAX);
                let ids = chunks.iter().map(|chunk| chunk.id.to_bytes()).collect();
                (FetchWhat::Chunks(ChunkRequest { ids }), AskedFor::Chunks(chunks))
            }
            Need::Path(Way { root, key }) => {
                let held = WayTo::find(here, &root, &key).held;
                let (root_id, levels_held) = (root.id.to_bytes(), held as u32);
                let path = PathRequest { root: root_id, key: key.clone(), levels_held, bases: Vec::new() };
                (FetchWhat::Path(path), AskedFor::Path { root, key, held })
            }
            Need::Nothing | Need::Patience | Need::Manifest(_) => return None,
        };
        self.requests += 1;
        let request = self.requests;
        self.open.insert(request, Asked { task, what: asked, is_lacking: false });
        self.note_asked(task, now);
        Some(AskFrame::Fetch(Message::Fetch(Fetch { request, what: Some(what) }).encode()))
    }

    fn note_asked(&mut self, task: Task, now: Time) {
        self.asked_since.get_or_insert(now);
        if let Some(pending) = self.tasks.get_mut(&task) {
            pending.is_asked = true;
        }
    }

    /// A manifest came, or a refusal.
    pub(super) fn take_offer(&mut self, manifest: Option<&Bytes>) -> Result<Option<Chunk>, Trouble> {
        let Some((id, task)) = self.manifest_asked.take() else { return Err(Trouble::Peer("an offer unasked")) };
        self.asked_since = None;
        let source = self.source.map(|(source, _)| source);
        if let Some(pending) = self.tasks.get_mut(&task) {
            pending.is_asked = false;
            if manifest.is_none() {
                pending.lacking.extend(source);
            }
        }
        let Some(bytes) = manifest else { return Ok(None) };
        let chunk = Chunk::verify(id, Domain::Manifest, bytes.clone());
        chunk.map(Some).map_err(|_| Trouble::Peer("another manifest than the one that was asked for"))
    }

    /// Takes an item; gives the chunk if it is what was asked for.
    pub(super) fn take_item(
        &mut self,
        item: Item<'_>,
        disk: &Disk,
        here: &Here<'_>,
        now: Time,
    ) -> Result<Option<(Chunk, AskedBy)>, Trouble> {
        let item = self.reader.read(item).map_err(|_| Trouble::Peer("a stream that is lost"))?;
        let open = self.open.get_mut(&item.request).ok_or(Trouble::Peer("an item that nobody asked for"))?;
        self.asked_since = Some(now);
        let ItemBody::Chunk(form) = &item.body else {
            open.is_lacking = true;
            return Ok(None);
        };
        let want = item.want as usize;
        let (id, domain, base) = match &open.what {
            AskedFor::Nodes(wants) => wants.get(want).map(|want| (want.id, Domain::Node, want.base)),
            AskedFor::Chunks(wants) => wants.get(want).map(|want| (want.id, Domain::Data, None)),
            AskedFor::Path { root, key, held } => {
                let way = WayTo::find(here, root, key);
                match way.nodes.get(held + want) {
                    Some(&id) => Some((id, Domain::Node, None)),
                    None => way.value.map(|id| (id, Domain::Data, None)),
                }
            }
        }
        .ok_or(Trouble::Peer("more items than were asked for"))?;
        here.failed()?;
        let asked = if matches!(open.what, AskedFor::Path { .. }) { AskedBy::Way } else { AskedBy::Name };
        match decode(&mut self.decoder, form, id, domain, base, disk)? {
            Some(chunk) => {
                self.bytes += chunk.bytes().len() as u64;
                disk.put(&chunk, None)?;
                Ok(Some((chunk, asked)))
            }
            None => {
                if let Some((source, _)) = self.source {
                    *self.corrupt.entry(source).or_default() += 1;
                }
                Err(Trouble::Peer("bytes that do not match their hash"))
            }
        }
    }

    /// A request was answered. Says whether the source lacks something of it.
    pub(super) fn take_done(&mut self, request: u32, now: Time) -> bool {
        let Some(asked) = self.open.remove(&request) else { return false };
        self.asked_since = (!self.open.is_empty() || self.manifest_asked.is_some()).then_some(now);
        if let Some(pending) = self.tasks.get_mut(&asked.task) {
            pending.is_asked = false;
            if asked.is_lacking {
                pending.lacking.extend(self.source.map(|(source, _)| source));
            }
        }
        asked.is_lacking
    }
}

/// What the line says to its source.
pub(super) enum AskFrame {
    /// Ask for a snapshot.
    Manifest(ChunkId),
    /// An encoded request.
    Fetch(Vec<u8>),
}

fn decode(
    decoder: &mut Decoder,
    form: &ItemForm<'_, Codec>,
    id: ChunkId,
    domain: Domain,
    base: Option<ChunkId>,
    disk: &Disk,
) -> Result<Option<Chunk>, Trouble> {
    let base = match base.filter(|_| form.codec == Codec::ZstdPatch) {
        Some(base) => disk.read(base)?,
        None => None,
    };
    let base = base.as_ref().map(|base| &base.bytes()[..]);
    let mut plain = Vec::new();
    let decoded = decoder.decode(form.codec, form.payload, form.plain_bytes, base, &mut plain);
    Ok(decoded.ok().and_then(|()| Chunk::verify(id, domain, plain.into()).ok()))
}
