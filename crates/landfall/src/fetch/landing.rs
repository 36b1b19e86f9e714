//! Owns the seam between a transfer and the place where it lands: a directory under construction, or the store of a keyed state.

use std::error::Error;
use std::fmt::Display;

use bytes::Bytes;
use landfall_core::codec::Codec;
use landfall_core::transfer::Want;
use landfall_core::tree::{NodeWant, TreeError, Value};
use landfall_core::wire::ItemForm;
use landfall_core::{Chunk, ChunkId, Proven};
use landfall_store::StoreError;

use crate::nodes::NodeCache;

/// Where what a transfer fetches lands. It knows no peer and does not decide whom to ask.
pub(crate) trait Landing: Send + Sync {
    /// Where a chunk goes.
    type Place: Display + Send + Sync;
    /// A chunk that need not be fetched, and yet is work.
    type Unchanged: Send;
    /// Why it cannot go on.
    type Failure: Error + From<StoreError> + From<TreeError> + Send;

    /// The nodes that are here.
    fn nodes(&self) -> &NodeCache;

    /// Compares a leaf of tree number `tree` with what is here.
    fn inspect(&self, tree: usize, leaf: ChunkId) -> Result<Inspection<Self::Unchanged>, Self::Failure>;

    /// Does the work of what is unchanged. What turns out not to be here is wanted after all.
    fn take_unchanged(&self, unchanged: Vec<Self::Unchanged>) -> Result<Vec<Want>, Self::Failure>;

    /// Keeps a verified node, which came in `form`, and says what it saw of it. Memory of a node that nobody keeps is used for the next one.
    fn put_node(&self, want: &NodeWant, node: &Chunk, form: &ItemForm<'_, Codec>) -> Result<Kept, Self::Failure>;

    /// Where the chunk of an entry goes.
    fn place_of(&self, key: &Bytes, value: &Value) -> Result<Self::Place, Self::Failure>;

    /// Puts a verified chunk where it belongs.
    fn put(&self, place: &Self::Place, chunk: Proven<'_>) -> Result<(), Self::Failure>;

    /// Reads the old chunk that a patch was made against. False if it cannot be found; its bytes carry no proof.
    fn read_base(&self, place: &Self::Place, base: ChunkId, out: &mut Vec<u8>) -> Result<bool, Self::Failure>;

    /// A node that was here is gone.
    fn node_lost(&self, node: ChunkId) -> Self::Failure;

    /// The system gives no thread for what must be done here.
    fn no_thread(&self) -> Self::Failure;

    /// A leaf has no such chunk.
    fn no_such_chunk(&self) -> Self::Failure;

    /// The base of a patch cannot be read, or is no longer what it was. Nothing if the whole chunk can be fetched instead.
    fn base_gone(&self, place: &Self::Place) -> Result<(), Self::Failure>;
}

/// What was seen of a node that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is to be inspected if it is a leaf.
    Unseen,
    /// It is a leaf that refers to no chunk.
    Chunkless,
}

/// What comparing a leaf with what is here gave.
pub(crate) struct Inspection<U> {
    /// Chunks to fetch.
    pub(crate) wants: Vec<Want>,
    /// Chunks that need not be fetched.
    pub(crate) unchanged: Vec<U>,
}
