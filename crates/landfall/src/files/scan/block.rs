//! Owns the buffers that files are read into, and their reuse: a new one costs as much as reading.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Bytes of one file that are read and handed out at once.
pub(super) const BLOCK_BYTES: usize = 1024 * 1024;
/// Room before them for what the block before left over: less than one chunk.
pub(super) const HEADROOM_BYTES: usize = 256 * 1024;

/// Buffers that wait to be used again.
#[derive(Default)]
pub(super) struct BlockPool {
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer of [`HEADROOM_BYTES`] and [`BLOCK_BYTES`]. It goes back to its pool when the last chunk in it is dropped.
pub(super) struct Block {
    bytes: Vec<u8>,
    pool: Arc<BlockPool>,
}

impl BlockPool {
    pub(super) fn take(self: &Arc<Self>) -> Block {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Block { bytes: free.unwrap_or_else(|| vec![0; HEADROOM_BYTES + BLOCK_BYTES]), pool: self.clone() }
    }
}

impl Block {
    /// Makes it readable by many.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}
