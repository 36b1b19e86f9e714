//! Owns reading a chunk together with every chunk that it is patched on, and the proof that it can bear the next patch.
//!
//! It never decodes a patch.

use std::fmt;
use std::marker::PhantomData;

use landfall_core::{Chunk, ChunkId};

use crate::error::StoreError;
use crate::frame::{Encoded, StoredFrame};
use crate::lock::read;
use crate::lookup::{PATCHES_IN_CHAIN_MAX, Purpose};
use crate::pack::NewFrame;
use crate::sessions::Session;
use crate::store::{IfYoung, Shared, Store};

/// A chunk and all that it is patched on, as they are stored: itself first, a whole chunk last.
#[derive(Debug, Clone)]
pub struct Chain<'s> {
    id: ChunkId,
    frames: Vec<StoredFrame>,
    session: PhantomData<&'s Session>,
}

impl<'s> Chain<'s> {
    /// The frames: each needs the next to be decoded.
    pub fn frames(&self) -> &[StoredFrame] {
        &self.frames
    }

    /// The chunk, as what a patch can be made against.
    pub fn as_base(&self) -> SoundBase<'s> {
        SoundBase { id: self.id, patches: self.frames.len() as u32 - 1, session: PhantomData }
    }
}

/// A chunk that was read whole, with all that it is patched on, in a session that is still open: it can be patched without being looked for
/// again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SoundBase<'s> {
    id: ChunkId,
    patches: u32,
    session: PhantomData<&'s Session>,
}

impl SoundBase<'_> {
    /// The chunk.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// Whether a patch can be put on it; else it hangs on too many itself.
    pub fn bears_a_patch(&self) -> bool {
        self.patches + 1 < PATCHES_IN_CHAIN_MAX
    }
}

impl fmt::Debug for SoundBase<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoundBase({} on {} patches)", self.id.short(), self.patches)
    }
}

impl Store {
    /// Reads a chunk with all that it is patched on; `None` if any of it is not here. Garbage collection leaves it alone until `session` ends.
    ///
    /// The checksums of the frames are right, the hash is not checked: decode it and verify it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if some of the bytes are not what was written. That frame counts as absent from then on.
    ///
    /// # Panics
    /// If `session` is another store's.
    pub fn get_chain<'s>(&self, session: &'s Session, id: ChunkId) -> Result<Option<Chain<'s>>, StoreError> {
        assert!(session.is_of(&self.shared().sessions), "a session of another store");
        let frames = self.shared().get_chain(id)?;
        Ok(frames.map(|frames| Chain { id, frames, session: PhantomData }))
    }

    /// Stores a chunk as a patch on `base`, unless it is here in any form.
    ///
    /// # Errors
    /// [`StoreError::BaseUnusable`] if the base hangs on too many patches itself.
    pub fn put_patch(&self, chunk: &Chunk, codec: u8, patch: &[u8], base: SoundBase<'_>) -> Result<(), StoreError> {
        if !base.bears_a_patch() {
            return Err(StoreError::BaseUnusable { id: chunk.id(), base: base.id });
        }
        let (shared, form) = (self.shared(), Encoded { codec, base: Some(base.id), bytes: patch });
        shared.check_put(form)?;
        // The session of the base keeps the copy that is found here, too.
        let looked = read(&shared.index).generation;
        if shared.keep(chunk.id())?.is_some() {
            return Ok(());
        }
        shared.append(&NewFrame::of(chunk, form), IfYoung::Skip { looked })
    }
}

impl Shared {
    fn get_chain(&self, id: ChunkId) -> Result<Option<Vec<StoredFrame>>, StoreError> {
        let mut frames: Vec<StoredFrame> = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next {
            if frames.len() > PATCHES_IN_CHAIN_MAX as usize {
                return Ok(None);
            }
            let Some(frame) = self.get(id, Purpose::Keep)? else { return Ok(None) };
            next = frame.base;
            frames.push(frame);
        }
        Ok(Some(frames))
    }
}
