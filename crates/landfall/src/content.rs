//! Owns where the plaintext of a chunk comes from: packs, or the files themselves. It never trusts a file: who reads one
//! gets bytes that were hashed.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use landfall_core::codec::{Codec, Decoder};
use landfall_core::files::FilePath;
use landfall_core::tree::ChunkRef;
use landfall_core::{ChunkId, Domain};
use landfall_store::{PATCHES_IN_CHAIN_MAX, Store, StoreError, StoredFrame};
use rustix::fs::{Mode, OFlags};

use crate::files::Opener;

/// Files that are kept open between two reads.
const OPEN_FILES_MAX: usize = 64;

/// Why a chunk's plaintext cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    /// It is not here.
    #[error("the chunk is not here")]
    Missing,
    /// What is here is not what the name promises.
    #[error("what is stored is damaged: {0}")]
    Damaged(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Chunks in packs, patches resolved.
pub(crate) struct PackedContent<'a> {
    store: &'a Store,
}

impl<'a> PackedContent<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// The chunk as it is stored.
    pub(crate) fn frame(&self, id: ChunkId) -> Result<StoredFrame, ContentError> {
        self.store.get_encoded(id)?.ok_or(ContentError::Missing)
    }

    /// Puts the plaintext of `frame` into `out`, replacing what is there.
    pub(crate) fn plain(
        &self,
        frame: &StoredFrame,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
    ) -> Result<(), ContentError> {
        self.plain_within(frame, decoder, out, PATCHES_IN_CHAIN_MAX)
    }

    fn plain_within(
        &self,
        frame: &StoredFrame,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
        depth: u32,
    ) -> Result<(), ContentError> {
        let codec = Codec::from_byte(frame.codec)
            .ok_or_else(|| ContentError::Damaged(format!("unknown codec {}", frame.codec)))?;
        if codec == Codec::Raw {
            out.clear();
            out.extend_from_slice(&frame.bytes);
            return Ok(());
        }
        let base = match frame.base {
            None => None,
            Some(_) if depth == 0 => return Err(ContentError::Damaged("patches on patches without end".into())),
            Some(base) => {
                let mut plain = Vec::new();
                self.plain_within(&self.frame(base)?, decoder, &mut plain, depth - 1)?;
                Some(plain)
            }
        };
        decoder
            .decode(codec, &frame.bytes, frame.plain_bytes, base.as_deref(), out)
            .map_err(|error| ContentError::Damaged(error.to_string()))
    }
}

/// Chunks in the files of a directory, hashed on every read.
pub(crate) struct FilesInPlace {
    root: OwnedFd,
    opener: Opener,
    open: Mutex<VecDeque<(FilePath, Arc<File>)>>,
}

impl FilesInPlace {
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())?;
        Ok(Self { root, opener: Opener::new(), open: Mutex::new(VecDeque::new()) })
    }

    /// Reads the chunk that a file holds at `offset` into `out`, replacing what is there.
    pub(crate) fn read(
        &self,
        path: &FilePath,
        offset: u64,
        chunk: ChunkRef,
        out: &mut Vec<u8>,
    ) -> Result<(), ContentError> {
        // Small files are read once and whole: keeping them open would only push out the large ones.
        let used_once = offset == 0 && chunk.bytes <= landfall_core::limits::WHOLE_FILE_BYTES_MAX;
        let result = self.file(path, used_once).and_then(|file| read_chunk(&file, offset, chunk, out));
        match result {
            Ok(true) => Ok(()),
            // The file may have been replaced since it was opened.
            Ok(false) if !used_once => {
                self.forget(path);
                match self.open_file(path).and_then(|file| read_chunk(&file, offset, chunk, out)) {
                    Ok(true) => Ok(()),
                    _ => Err(changed(path, offset)),
                }
            }
            Ok(false) => Err(changed(path, offset)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ContentError::Missing),
            Err(error) => Err(ContentError::Damaged(format!("{path}: {error}"))),
        }
    }

    /// Does a file begin with exactly these bytes?
    pub(crate) fn holds(&self, path: &FilePath, bytes: &[u8]) -> bool {
        let mut found = vec![0; bytes.len()];
        self.open_file(path).and_then(|file| file.read_exact_at(&mut found, 0)).is_ok() && found == bytes
    }

    fn file(&self, path: &FilePath, used_once: bool) -> io::Result<Arc<File>> {
        if used_once {
            return self.open_file(path).map(Arc::new);
        }
        if let Some((_, file)) = self.lock().iter().find(|(open, _)| open == path) {
            return Ok(file.clone());
        }
        let file = Arc::new(self.open_file(path)?);
        let mut open = self.lock();
        if open.len() >= OPEN_FILES_MAX {
            open.pop_front();
        }
        open.push_back((path.clone(), file.clone()));
        Ok(file)
    }

    fn forget(&self, path: &FilePath) {
        self.lock().retain(|(open, _)| open != path);
    }

    fn open_file(&self, path: &FilePath) -> io::Result<File> {
        let file = self.opener.open(&self.root, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        Ok(File::from(file))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(FilePath, Arc<File>)>> {
        self.open.lock().expect("no panic under the lock")
    }
}

/// Reads a chunk. False if the bytes are there and are not the chunk.
fn read_chunk(file: &File, offset: u64, chunk: ChunkRef, out: &mut Vec<u8>) -> io::Result<bool> {
    // Bytes left over from the last chunk are overwritten; only growth costs.
    out.resize(chunk.bytes as usize, 0);
    match file.read_exact_at(out, offset) {
        Ok(()) => Ok(ChunkId::of(Domain::Data, out) == chunk.id),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn changed(path: &FilePath, offset: u64) -> ContentError {
    ContentError::Damaged(format!("{path} changed at offset {offset}, although it was promised not to"))
}
