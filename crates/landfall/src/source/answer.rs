//! Owns the answers to requests: finds each node and chunk, gives it the form that the link deserves, and sends it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use landfall_core::codec::{
    Automatic, Base, ChunkFacts, Codec, CodecPolicy, CodecSet, Compressible, Decoder, EncodeFacts, Fixed, WireCodec,
    WireEncoder, Within, compose_patches, looks_incompressible,
};
use landfall_core::files::FileKey;
use landfall_core::tree::{ChunkRef, Leaf, Nodes, Value, get};
use landfall_core::wire::{
    ChunkRequest, Fetch, FetchWhat, Item, ItemBody, ItemForm, NodeRequest, PathRequest, Refusal, RefusalReason,
    UnitRequest, Urgency,
};
use landfall_core::{ChunkId, Domain};
use landfall_net::{FrameSender, SendError};
use landfall_store::{PATCHES_IN_CHAIN_MAX, StoreError, StoredFrame};

use super::link_watch::LinkWatch;
use super::state::{Content, ServedState};
use crate::background::{Courtesy, give_way};
use crate::content::{ContentError, PackedContent};
use crate::nodes::NodeCache;

/// How the answers to joiners are encoded; never in a codec that the joiner did not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// As each link deserves, by measuring.
    #[default]
    Measured,
    /// The same on every link: for whoever knows the links better.
    Always(WireCodec),
}

impl Encoding {
    fn policy(self, known: CodecSet) -> Box<dyn CodecPolicy> {
        match self {
            Self::Measured => Box::new(Automatic::for_receiver(known)),
            Self::Always(codec) => Box::new(Fixed(codec)),
        }
    }
}

/// Answers the requests of one connection.
pub(super) struct Answers {
    state: Arc<ServedState>,
    coder: Coder,
    link: LinkWatch,
    urgency: Urgency,
    /// What bulk is answered with, from the first request on: the answer to the question itself is waited for.
    courtesy: Option<Courtesy>,
}

/// Buffers and contexts that are used again for every chunk.
struct Coder {
    policy: Within<Box<dyn CodecPolicy>>,
    encoder: WireEncoder,
    decoder: Decoder,
    plain: Vec<u8>,
    base: Vec<u8>,
    encoded: Vec<u8>,
}

/// What was found for a want.
enum Found {
    /// Plaintext, in the coder's buffer; and the base, if it was found, in the other.
    Plain { base: Base },
    /// A form that can go out as it is stored.
    Stored { codec: Codec, plain_bytes: u32, bytes: Bytes },
}

impl Answers {
    /// Answers in the codecs that the joiner knows, on the calling thread. The encoder is the connection's: it remembers what went out.
    pub(super) fn new(
        state: Arc<ServedState>,
        known: CodecSet,
        encoding: Encoding,
        encoder: WireEncoder,
        urgency: Urgency,
    ) -> Self {
        let coder = Coder {
            policy: Within::new(encoding.policy(known), known),
            encoder,
            decoder: Decoder::new(),
            plain: Vec::new(),
            base: Vec::new(),
            encoded: Vec::new(),
        };
        // A window begins here, so that the first answers know what the machine is doing.
        state.spare_cores.lately();
        Self { state, coder, link: LinkWatch::of_this_thread(), urgency, courtesy: None }
    }

    /// Gives back the connection's encoder.
    pub(super) fn into_encoder(self) -> WireEncoder {
        self.coder.encoder
    }

    /// Sends one item for each want of `fetch`.
    pub(super) fn answer(
        &mut self,
        fetch: &Fetch,
        sender: &mut dyn FrameSender,
    ) -> Result<Result<(), Refusal>, SendError> {
        if self.urgency == Urgency::Bulk && self.courtesy.is_none() {
            give_way();
            self.courtesy = Courtesy::of_this_thread();
        }
        let began = self.link.begin(sender.pressure());
        let answered = match &fetch.what {
            Some(FetchWhat::Nodes(nodes)) => self.answer_nodes(fetch.request, nodes, sender)?,
            Some(FetchWhat::Unit(unit)) => self.answer_unit(fetch.request, unit, sender)?,
            Some(FetchWhat::Chunks(chunks)) => self.answer_chunks(fetch.request, chunks, sender)?,
            Some(FetchWhat::Path(path)) => self.answer_path(fetch.request, path, sender)?,
            None => Err(Refusal::new(RefusalReason::Protocol, "a request for nothing")),
        };
        let link = self.link.end(began, sender.pressure(), self.state.spare_cores.lately());
        self.coder.policy.handle_link(link);
        Ok(answered)
    }

    fn answer_nodes(
        &mut self,
        request: u32,
        nodes: &NodeRequest,
        sender: &mut dyn FrameSender,
    ) -> Result<Result<(), Refusal>, SendError> {
        for (want, id) in nodes.ids.iter().enumerate() {
            let Some(id) = ChunkId::from_slice(id) else { return Ok(Err(bad_id())) };
            let base = nodes.bases.get(want).and_then(|id| ChunkId::from_slice(id));
            let found = self.find_node(id, base);
            self.send(request, want as u32, found, sender)?;
        }
        Ok(Ok(()))
    }

    fn answer_unit(
        &mut self,
        request: u32,
        unit: &UnitRequest,
        sender: &mut dyn FrameSender,
    ) -> Result<Result<(), Refusal>, SendError> {
        let Some(leaf_id) = ChunkId::from_slice(&unit.leaf) else { return Ok(Err(bad_id())) };
        let leaf = self.state.nodes.get(leaf_id).ok().flatten().and_then(|bytes| Leaf::read(leaf_id, bytes).ok());
        for (want, &entry) in unit.entries.iter().enumerate() {
            let base = unit.bases.get(want).and_then(|id| ChunkId::from_slice(id));
            let found = match leaf.as_ref().and_then(|leaf| leaf.entry(entry as usize)) {
                Some((key, value)) => self.find_chunk(&key, value.chunk, base),
                None => Err(ContentError::Missing),
            };
            self.send(request, want as u32, found, sender)?;
        }
        Ok(Ok(()))
    }

    fn answer_chunks(
        &mut self,
        request: u32,
        chunks: &ChunkRequest,
        sender: &mut dyn FrameSender,
    ) -> Result<Result<(), Refusal>, SendError> {
        for (want, id) in chunks.ids.iter().enumerate() {
            let Some(id) = ChunkId::from_slice(id) else { return Ok(Err(bad_id())) };
            let found = match &self.state.content {
                Content::Packs => self.find_packed(id, None),
                Content::Files(_) => Err(ContentError::Missing),
            };
            self.send(request, want as u32, found, sender)?;
        }
        Ok(Ok(()))
    }

    /// The rest of the way to a key, and the chunk that is its value.
    fn answer_path(
        &mut self,
        request: u32,
        path: &PathRequest,
        sender: &mut dyn FrameSender,
    ) -> Result<Result<(), Refusal>, SendError> {
        let Some(root) = ChunkId::from_slice(&path.root) else { return Ok(Err(bad_id())) };
        let way = Way { nodes: &self.state.nodes, found: RefCell::default() };
        let reached = self.state.find_root(root).map(|root| get(&way, &root, &path.key));
        let nodes = way.found.into_inner();
        let mut want = 0;
        for node in nodes.into_iter().skip(path.levels_held as usize) {
            let base = path.bases.get(want as usize).and_then(|id| ChunkId::from_slice(id));
            let found = self.with_base(&node, base).map_err(ContentError::from);
            self.send(request, want, found, sender)?;
            want += 1;
        }
        match reached {
            Some(Ok(None | Some(Value { chunk: None, .. }))) => {}
            Some(Ok(Some(Value { chunk: Some(chunk), .. }))) => {
                let found = self.find_packed(chunk.id, None);
                self.send(request, want, found, sender)?;
            }
            // Its snapshot is not held here, or a node of it is not.
            None | Some(Err(_)) => self.send(request, want, Err(ContentError::Missing), sender)?,
        }
        Ok(Ok(()))
    }

    /// A node in the form in which it rests, if it can go out so. The joiner checks its hash; here its checksum was.
    fn stored_node(&self, frame: &StoredFrame, base: Option<ChunkId>) -> Result<Option<Found>, StoreError> {
        let Some(codec) = Codec::from_byte(frame.codec) else { return Ok(None) };
        let plain_bytes = frame.plain_bytes;
        if self.coder.goes_out_as_stored(codec, frame.base, base) {
            return Ok(Some(Found::Stored { codec, plain_bytes, bytes: frame.bytes.clone() }));
        }
        let Some(base) = base.filter(|_| self.coder.policy.known().contains(Codec::ZstdPatch)) else { return Ok(None) };
        let composed = self.composed(frame, base)?;
        Ok(composed.map(|bytes| Found::Stored { codec: Codec::ZstdPatch, plain_bytes, bytes: bytes.into() }))
    }

    /// One patch on `base`, made of those that lead from it to `last`; nothing if none do.
    fn composed(&self, last: &StoredFrame, base: ChunkId) -> Result<Option<Vec<u8>>, StoreError> {
        let is_patch = |frame: &StoredFrame| frame.codec == Codec::ZstdPatch as u8;
        if !is_patch(last) {
            return Ok(None);
        }
        let plain_bytes = last.plain_bytes;
        let mut chain = vec![last.clone()];
        while let Some(middle) = chain.last().and_then(|frame| frame.base).filter(|&middle| middle != base) {
            if chain.len() > PATCHES_IN_CHAIN_MAX as usize {
                return Ok(None);
            }
            let Some(earlier) = self.frame_of_node(middle)?.filter(is_patch) else { return Ok(None) };
            chain.push(earlier);
        }
        let mut patches = chain.into_iter();
        let first = patches.next().map(|frame| frame.bytes.to_vec());
        Ok(patches
            .fold(first, |later, earlier| compose_patches(&earlier.bytes, earlier.plain_bytes, &later?, plain_bytes)))
    }

    fn frame_of_node(&self, id: ChunkId) -> Result<Option<StoredFrame>, StoreError> {
        match self.state.store.get_encoded(id) {
            // Another way of reading it says what that means.
            Err(StoreError::Damaged(_)) => Ok(None),
            found => Ok(found?.filter(|frame| frame.domain == Domain::Node)),
        }
    }

    fn find_node(&mut self, id: ChunkId, base: Option<ChunkId>) -> Result<Found, ContentError> {
        if self.urgency == Urgency::Reads {
            let node = self.state.nodes.get(id)?.ok_or(ContentError::Missing)?;
            return Ok(self.with_base(&node, base)?);
        }
        let frame = self.frame_of_node(id)?;
        if let Some(frame) = &frame
            && let Some(stored) = self.stored_node(frame, base)?
        {
            return Ok(stored);
        }
        // What goes out with the bulk is not remembered: readers' nodes stay in memory, and it takes none for a joiner's sake.
        let (nodes, coder) = (&self.state.nodes, &mut self.coder);
        let is_here = match &frame {
            Some(frame) => nodes.read_frame_in_passing(id, frame, &mut coder.decoder, &mut coder.plain)?,
            None => nodes.read_in_passing(id, &mut coder.decoder, &mut coder.plain)?,
        };
        if !is_here {
            return Err(ContentError::Missing);
        }
        Ok(Found::Plain { base: self.read_base(base)? })
    }

    /// A node, and beside it the one that it may be a patch against, if that is here.
    fn with_base(&mut self, node: &[u8], base: Option<ChunkId>) -> Result<Found, StoreError> {
        self.coder.plain.clear();
        self.coder.plain.extend_from_slice(node);
        Ok(Found::Plain { base: self.read_base(base)? })
    }

    fn read_base(&mut self, base: Option<ChunkId>) -> Result<Base, StoreError> {
        let coder = &mut self.coder;
        // Readers here do not use the base: it is a node of an older tree.
        Ok(match base {
            Some(base) if self.state.nodes.read_in_passing(base, &mut coder.decoder, &mut coder.base)? => Base::Held,
            _ => Base::Absent,
        })
    }

    fn find_chunk(
        &mut self,
        key: &Bytes,
        chunk: Option<ChunkRef>,
        base: Option<ChunkId>,
    ) -> Result<Found, ContentError> {
        let chunk = chunk.ok_or(ContentError::Missing)?;
        match &self.state.content {
            Content::Packs => self.find_packed(chunk.id, base),
            Content::Files(files) => {
                let (path, offset) = match FileKey::decode(key) {
                    Ok(FileKey::Content { path, offset }) => (path, offset),
                    Ok(FileKey::Meta(path)) => (path, 0),
                    // Attributes that are too long for the tree are not in any file's content.
                    Ok(FileKey::Xattrs(_)) => return self.find_packed(chunk.id, base),
                    Err(_) => return Err(ContentError::Missing),
                };
                files.read(&path, offset, chunk, &mut self.coder.plain)?;
                Ok(Found::Plain { base: Base::Absent })
            }
        }
    }

    fn find_packed(&mut self, id: ChunkId, base: Option<ChunkId>) -> Result<Found, ContentError> {
        let packs = PackedContent::new(&self.state.store);
        let frame = packs.frame(id)?;
        if frame.domain != Domain::Data {
            return Err(ContentError::Missing);
        }
        let coder = &mut self.coder;
        if let Some(codec) = Codec::from_byte(frame.codec)
            && coder.goes_out_as_stored(codec, frame.base, base)
        {
            return Ok(Found::Stored { codec, plain_bytes: frame.plain_bytes, bytes: frame.bytes });
        }
        packs.plain(&frame, &mut coder.decoder, &mut coder.plain)?;
        let base_frame = base.map(|base| self.state.store.get_encoded(base)).transpose()?.flatten();
        let base = match base_frame {
            Some(base) if packs.plain(&base, &mut coder.decoder, &mut coder.base).is_ok() => Base::Held,
            _ => Base::Absent,
        };
        Ok(Found::Plain { base })
    }

    fn send(
        &mut self,
        request: u32,
        want: u32,
        found: Result<Found, ContentError>,
        sender: &mut dyn FrameSender,
    ) -> Result<(), SendError> {
        let body = match &found {
            Ok(Found::Stored { codec, plain_bytes, bytes }) => {
                self.coder.note_stored(*codec, *plain_bytes, bytes);
                ItemBody::Chunk(ItemForm { codec: (*codec).into(), plain_bytes: *plain_bytes, payload: bytes })
            }
            Ok(Found::Plain { base }) => ItemBody::Chunk(self.coder.form(*base)),
            Err(ContentError::Missing) => ItemBody::Missing,
            Err(error) => {
                tracing::warn!(state = %self.state.name, %error, "cannot serve a chunk");
                ItemBody::Damaged
            }
        };
        let item = Item { request, want, body };
        sender.send(&item.head(), item.payload())?;
        if let Some(courtesy) = &mut self.courtesy {
            courtesy.let_others_go();
        }
        Ok(())
    }
}

impl Coder {
    /// Is the stored form what the joiner should get, so that nothing is left to do?
    fn goes_out_as_stored(&self, codec: Codec, stored_base: Option<ChunkId>, base: Option<ChunkId>) -> bool {
        let facts = ChunkFacts { base: Base::Absent, compressible: Compressible::Likely };
        match codec {
            codec if !self.policy.known().contains(codec) => false,
            // It was made against the very chunk that the joiner holds.
            Codec::ZstdPatch => stored_base == base,
            // It costs nothing; where bytes count most it is compressed anew, with the connection's memory.
            Codec::Lz4 | Codec::Zstd => base.is_none() && self.policy.choose(facts) != WireCodec::ZstdStream,
            Codec::Raw => base.is_none() && self.policy.choose(facts) == RAW,
        }
    }

    /// What goes out as it is stored was compressed for nothing, which the policy should know.
    fn note_stored(&mut self, codec: Codec, plain_bytes: u32, bytes: &[u8]) {
        self.policy.handle_encoded(EncodeFacts {
            codec: codec.into(),
            plain_bytes: u64::from(plain_bytes),
            encoded_bytes: bytes.len() as u64,
            took: Duration::ZERO,
        });
    }

    /// Gives the plaintext in the buffer the form that the link deserves.
    fn form(&mut self, base: Base) -> ItemForm<'_> {
        let plain_bytes = self.plain.len() as u32;
        let codec = self.encode(base);
        let payload = if codec == RAW { &self.plain } else { &self.encoded };
        ItemForm { codec, plain_bytes, payload }
    }

    fn encode(&mut self, base: Base) -> WireCodec {
        let mut facts = ChunkFacts { base, compressible: Compressible::Likely };
        // On a link that takes everything raw, not even the probe is worth its time.
        if self.policy.choose(facts) == RAW {
            return RAW;
        }
        if base == Base::Absent && looks_incompressible(&self.plain) {
            facts.compressible = Compressible::Unlikely;
            if self.policy.choose(facts) == RAW {
                return RAW;
            }
        }
        let began = Instant::now();
        let base = (base == Base::Held).then_some(&self.base[..]);
        let Ok(codec) = self.encoder.encode_by(&self.policy, &self.plain, base, &mut self.encoded) else {
            return RAW;
        };
        self.policy.handle_encoded(EncodeFacts {
            codec,
            plain_bytes: self.plain.len() as u64,
            encoded_bytes: self.encoded.len() as u64,
            took: began.elapsed(),
        });
        codec
    }
}

/// Nodes from here, and those that were asked for, in order.
struct Way<'a> {
    nodes: &'a NodeCache,
    found: RefCell<Vec<Bytes>>,
}

impl Nodes for Way<'_> {
    fn node(&self, id: ChunkId) -> Option<Bytes> {
        let node = self.nodes.node(id)?;
        self.found.borrow_mut().push(node.clone());
        Some(node)
    }
}

const RAW: WireCodec = WireCodec::Alone(Codec::Raw);

fn bad_id() -> Refusal {
    Refusal::new(RefusalReason::Protocol, "an id that is not 32 bytes long")
}

#[cfg(test)]
mod tests {
    use landfall_core::Chunk;
    use landfall_core::codec::LinkFacts;
    use landfall_core::snapshot::StateName;
    use landfall_store::vfs::RealVfs;
    use landfall_store::{Store, StoreOptions};

    use super::*;
    use crate::nodes::{Patching, Replaced};

    /// What is chosen on a link that takes `sent_bytes` a second and is always waited for.
    #[track_caller]
    fn check(encoding: Encoding, known: &[u32], sent_bytes: u64, expected: WireCodec) {
        let known = CodecSet::of_numbers(known);
        let mut policy = Within::new(encoding.policy(known), known);
        let elapsed = Duration::from_secs(1);
        policy.handle_link(LinkFacts { sent_bytes, elapsed, blocked: elapsed, spare_cores: 1.0 });
        let facts = ChunkFacts { base: Base::Absent, compressible: Compressible::Likely };
        assert_eq!(policy.choose(facts), expected);
    }

    #[test]
    fn a_link_that_binds_gets_the_stream_where_the_joiner_knows_it() {
        let zstd = WireCodec::Alone(Codec::Zstd);
        check(Encoding::Measured, &[0, 1, 2, 3, 4], 50_000_000, WireCodec::ZstdStream);
        check(Encoding::Measured, &[0, 1, 2, 3], 50_000_000, zstd);
        check(Encoding::Measured, &[0, 1, 2, 3, 4], 5_000_000_000, RAW);
        check(Encoding::Always(WireCodec::ZstdStream), &[0, 1, 2, 3, 4], 5_000_000_000, WireCodec::ZstdStream);
        check(Encoding::Always(WireCodec::ZstdStream), &[0, 1, 2, 3], 5_000_000_000, zstd);
    }

    /// A node of 16 KiB that no codec makes smaller; each version differs from the one before in eight bytes at another place.
    fn node(version: u64) -> Chunk {
        let mut bytes: Vec<u8> =
            (0..2048_u64).flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        for number in 1..=version {
            let at = number as usize * 1000;
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        Chunk::new(Domain::Node, bytes.into())
    }

    /// Answers of a source whose node was patched three times.
    fn answers_after_patches(directory: &std::path::Path) -> Answers {
        let store = Arc::new(Store::open(Arc::new(RealVfs), directory, StoreOptions::default()).unwrap());
        let nodes = NodeCache::new(store.clone());
        nodes.put(&node(0)).unwrap();
        let mut patching = Patching::default();
        for version in 1..4 {
            let old = node(version - 1);
            let replaced = Replaced { id: old.id(), bytes: old.bytes(), copied: &[], kept: None };
            nodes.put_in_place_of(&node(version), &replaced, &mut patching).unwrap();
        }
        // It has none of them in memory.
        let state = ServedState::new(StateName::new("state").unwrap(), store, Content::Packs, Vec::new());
        let known = CodecSet::of_numbers(&[0, 1, 2, 3, 4]);
        Answers::new(Arc::new(state), known, Encoding::Measured, WireEncoder::new(), Urgency::Bulk)
    }

    #[test]
    fn a_node_that_was_patched_again_and_again_goes_out_as_one_patch_on_what_the_joiner_holds() {
        let directory = tempfile::tempdir().unwrap();
        let mut answers = answers_after_patches(directory.path());
        for held in 0..3 {
            let base = node(held);
            let found = answers.find_node(node(3).id(), Some(base.id()));
            let Ok(Found::Stored { codec: Codec::ZstdPatch, plain_bytes, bytes }) = found else {
                panic!("it is no patch on version {held}");
            };
            let mut plain = Vec::new();
            Decoder::new().decode(Codec::ZstdPatch, &bytes, plain_bytes, Some(base.bytes()), &mut plain).unwrap();
            assert!(plain[..] == node(3).bytes()[..], "a patch on version {held} makes something else");
        }
        let elsewhere = ChunkId::of(Domain::Node, b"what nothing here hangs on");
        assert!(matches!(answers.find_node(node(3).id(), Some(elsewhere)), Ok(Found::Plain { base: Base::Absent })));
    }

    #[test]
    fn a_node_that_was_patched_again_and_again_goes_out_whole_where_the_joiner_holds_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut answers = answers_after_patches(directory.path());
        // Version 0 rests whole, and goes out as it is.
        for version in 1..4 {
            assert!(matches!(answers.find_node(node(version).id(), None), Ok(Found::Plain { base: Base::Absent })));
            assert!(answers.coder.plain[..] == node(version).bytes()[..], "version {version} is something else");
        }
        // Without what it is patched on it is not here.
        answers.state.store.forget(node(1).id()).unwrap();
        for version in [3, 9] {
            assert!(matches!(answers.find_node(node(version).id(), None), Err(ContentError::Missing)), "{version}");
        }
    }
}
