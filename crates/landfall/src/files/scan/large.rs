//! Owns the reading of large files, block by block, by several workers at once.
//!
//! Blocks are read and hashed in parallel. Where content decides the cuts, each block needs what the one before left over, so
//! cutting goes from block to block in order, while others read and hash.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use landfall_core::chunker::{Cutter, MAGIC_BYTES, Rest, decide_content, is_zero};
use landfall_core::files::{Content, FileKey, FileKind, FilePath};
use landfall_core::limits::WHOLE_FILE_BYTES_MAX;
use landfall_core::tree::ChunkRef;

use super::attributes::{self, Attributes};
use super::block::{BLOCK_BYTES, HEADROOM_BYTES};
use super::row::Row;
use super::target::{Attempt, Target, read_at};
use super::worker::Context;
use super::{ChunkSink, ScanError, Stopped};
use crate::files::index::FileStat;

/// Chunks of a file by their offset, in order.
pub(super) type Refs = Vec<(u64, ChunkRef)>;

/// A large file that is being read.
pub(super) struct LargeFile {
    pub(super) target: Target,
    pub(super) file: OwnedFd,
    pub(super) content: Content,
    turns: Turns,
}

impl LargeFile {
    /// Opens a file and decides how it is cut.
    pub(super) fn open<C: ChunkSink>(
        context: &Context<'_, C>,
        target: &Target,
    ) -> Result<Attempt<(OwnedFd, Content)>, ScanError> {
        let file = match target.open()? {
            Attempt::Done(file) => file,
            Attempt::Changed => return Ok(Attempt::Changed),
            Attempt::Gone => return Ok(Attempt::Gone),
        };
        context.count_file();
        let mut head = [0; MAGIC_BYTES];
        let length = read_at(&file, &target.path, &mut head, 0)?;
        let head = Bytes::copy_from_slice(&head[..length]);
        let content = decide_content(target.stat.size, &head, target.old_content.as_ref());
        Ok(Attempt::Done((file, content)))
    }

    pub(super) fn new(target: Target, file: OwnedFd, content: Content) -> Self {
        let turns = Turns::new(Cut::new(&content));
        Self { target, file, content, turns }
    }

    /// What the file adds, but for its content.
    pub(super) fn row(&self) -> Row {
        let kind = FileKind::File { size: self.target.stat.size, content: self.content.clone() };
        Row::new(self.target.path.clone(), kind, None, self.target.stat)
    }

    /// Is the file still what it was before it was read? Its attributes are read before that is asked.
    pub(super) fn finish(&self) -> Result<(Attributes, Motion), ScanError> {
        let attributes = attributes::of_file(&self.file, &self.target.path)?;
        let unchanged = self.target.is_unchanged(&self.file)?;
        Ok((attributes, if unchanged { Motion::Still } else { Motion::Moving }))
    }

    /// The offset of the next block from `offset` on that holds any data.
    pub(super) fn next_data(&self, offset: u64) -> u64 {
        // Content-defined chunks begin where the last one ended, so their holes are read like anything else.
        if self.content != Content::Pages {
            return offset;
        }
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => offset + (data - offset) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64,
            Err(rustix::io::Errno::NXIO) => self.target.stat.size,
            // Not every file system knows its holes: what is read as zeros is one all the same.
            Err(_) => offset,
        }
    }
}

/// A block of a large file that is to be read.
pub(super) struct BlockWork {
    pub(super) file: Arc<LargeFile>,
    /// Place among the blocks of this file that are read.
    pub(super) number: u64,
    pub(super) offset: u64,
    pub(super) length: usize,
    /// What the previous tree has here.
    pub(super) old: Refs,
}

impl BlockWork {
    /// Reads the block, and hashes what ends in it.
    pub(super) fn read<C: ChunkSink>(self, context: &Context<'_, C>) -> Result<Attempt<Refs>, Stopped<C::Error>> {
        let path = &self.file.target.path;
        let is_ordered = self.file.content == Content::ContentDefined;
        let turn = is_ordered.then(|| Turn { turns: &self.file.turns, number: self.number });
        let mut block = context.pool.take();
        let room = &mut block.bytes_mut()[HEADROOM_BYTES..HEADROOM_BYTES + self.length];
        let length = read_at(&self.file.file, path, room, self.offset)?;
        context.count_bytes(length);
        if length < self.length {
            return Ok(Attempt::Changed);
        }
        let is_last = self.offset + self.length as u64 == self.file.target.stat.size;
        let rest = if is_last { Rest::IsEmpty } else { Rest::MayFollow };
        let place = Place { offset: self.offset, length, rest };
        let pieces = match turn {
            None => Cut::new(&self.file.content).cut(block.bytes_mut(), place, self.old),
            Some(turn) => {
                let Some(mut state) = turn.wait() else { return Ok(Attempt::Changed) };
                let pieces = state.cut.cut(block.bytes_mut(), place, self.old);
                state.next += 1;
                pieces
            }
        };
        hash(context, path, &block.freeze(), pieces).map(Attempt::Done)
    }
}

/// Whether a file changed while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Motion {
    Still,
    Moving,
}

/// What was read of a file, whether or not it changed meanwhile.
pub(super) struct Reading {
    pub(super) row: Row,
    pub(super) motion: Motion,
}

/// Reads a file of any length once more, alone and from its beginning.
pub(super) fn read_again<C: ChunkSink>(
    context: &Context<'_, C>,
    target: &Target,
) -> Result<Attempt<Reading>, Stopped<C::Error>> {
    let file = match target.open()? {
        Attempt::Done(file) => file,
        Attempt::Changed => return Ok(Attempt::Changed),
        Attempt::Gone => return Ok(Attempt::Gone),
    };
    context.count_file();
    let Some(stat) = target.look_again(&file)? else { return Ok(Attempt::Changed) };
    let mut row = if stat.size <= u64::from(WHOLE_FILE_BYTES_MAX) {
        read_small_again(context, target, &file, stat)?
    } else {
        read_large_again(context, target, &file, stat)?
    };
    let attributes = attributes::of_file(&file, &target.path)?;
    context.add_attributes(&mut row, attributes)?;
    let unchanged = target.look_again(&file)? == Some(stat) && row.stat == Some(stat);
    let motion = if unchanged { Motion::Still } else { Motion::Moving };
    Ok(Attempt::Done(Reading { row, motion }))
}

fn read_small_again<C: ChunkSink>(
    context: &Context<'_, C>,
    target: &Target,
    file: &OwnedFd,
    stat: FileStat,
) -> Result<Row, Stopped<C::Error>> {
    let mut block = context.pool.take();
    let length = read_at(file, &target.path, &mut block.bytes_mut()[..stat.size as usize], 0)?;
    context.count_bytes(length);
    let stat = FileStat { size: length as u64, ..stat };
    context.small_row(target, stat, block.freeze().slice(..length), Attributes::NONE)
}

fn read_large_again<C: ChunkSink>(
    context: &Context<'_, C>,
    target: &Target,
    file: &OwnedFd,
    stat: FileStat,
) -> Result<Row, Stopped<C::Error>> {
    let mut head = [0; MAGIC_BYTES];
    read_at(file, &target.path, &mut head, 0)?;
    let content = decide_content(stat.size, &Bytes::copy_from_slice(&head), target.old_content.as_ref());
    let mut cut = Cut::new(&content);
    let kind = FileKind::File { size: stat.size, content };
    let mut row = Row::new(target.path.clone(), kind, None, stat);
    let mut offset = 0;
    while offset < stat.size {
        let length = (stat.size - offset).min(BLOCK_BYTES as u64) as usize;
        let mut block = context.pool.take();
        let room = &mut block.bytes_mut()[HEADROOM_BYTES..HEADROOM_BYTES + length];
        let read = read_at(file, &target.path, room, offset)?;
        context.count_bytes(read);
        // What was cut off meanwhile is a hole; the file will not look the same afterwards.
        room[read..].fill(0);
        let rest = if offset + length as u64 == stat.size { Rest::IsEmpty } else { Rest::MayFollow };
        let pieces = cut.cut(block.bytes_mut(), Place { offset, length, rest }, Vec::new());
        row.content.extend(hash(context, &target.path, &block.freeze(), pieces)?);
        offset += length as u64;
    }
    Ok(row)
}

/// A chunk to be, inside a buffer.
struct Piece {
    range: Range<usize>,
    offset: u64,
    old: Option<ChunkRef>,
}

fn hash<C: ChunkSink>(
    context: &Context<'_, C>,
    path: &FilePath,
    bytes: &Bytes,
    pieces: Vec<Piece>,
) -> Result<Refs, Stopped<C::Error>> {
    let mut refs = Vec::with_capacity(pieces.len());
    for Piece { range, offset, old } in pieces {
        if is_zero(&bytes[range.clone()]) {
            continue;
        }
        let key = FileKey::Content { path: path.clone(), offset };
        refs.push((offset, context.take_chunk(&key, bytes.slice(range), old)?));
    }
    Ok(refs)
}

/// Where a block is in its file, and what follows it.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    length: usize,
    rest: Rest,
}

/// What cutting carries from block to block.
struct Cut {
    cutter: Cutter,
    left: Vec<u8>,
    old: VecDeque<(u64, ChunkRef)>,
    covering: Option<(u64, ChunkRef)>,
}

impl Cut {
    fn new(content: &Content) -> Self {
        let cutter = Cutter::of(content).unwrap_or_else(Cutter::pages);
        Self { cutter, left: Vec::new(), old: VecDeque::new(), covering: None }
    }

    /// Cuts a block that stands in `buffer` after the headroom; what was left over goes before it.
    fn cut(&mut self, buffer: &mut [u8], block: Place, old: Refs) -> Vec<Piece> {
        self.old.extend(old);
        let mut at = HEADROOM_BYTES - self.left.len();
        let end = HEADROOM_BYTES + block.length;
        buffer[at..HEADROOM_BYTES].copy_from_slice(&self.left);
        let mut offset = block.offset - self.left.len() as u64;
        let mut pieces = Vec::new();
        while let Some(length) = self.cutter.next_cut(&buffer[at..end], block.rest) {
            pieces.push(Piece { range: at..at + length, offset, old: self.old_at(offset) });
            at += length;
            offset += length as u64;
        }
        self.left.clear();
        self.left.extend_from_slice(&buffer[at..end]);
        pieces
    }

    /// The old chunk that covers `offset`; offsets ascend.
    fn old_at(&mut self, offset: u64) -> Option<ChunkRef> {
        while let Some(next) = self.old.pop_front_if(|(begin, _)| *begin <= offset) {
            self.covering = Some(next);
        }
        let (begin, chunk) = self.covering?;
        (offset < begin + u64::from(chunk.bytes)).then_some(chunk)
    }
}

/// Lets the blocks of one file be cut one after the other.
struct Turns {
    state: Mutex<TurnState>,
    moved: Condvar,
}

struct TurnState {
    next: u64,
    broken: Broken,
    cut: Cut,
}

/// Whether a block before failed, so that those after it cannot be cut.
#[derive(PartialEq, Eq)]
enum Broken {
    No,
    Yes,
}

impl Turns {
    fn new(cut: Cut) -> Self {
        Self { state: Mutex::new(TurnState { next: 0, broken: Broken::No, cut }), moved: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, TurnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block's turn. However it ends, the next block does not wait for ever.
struct Turn<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Turn<'_> {
    /// Waits until the block may be cut; nothing if it never can be. Jobs are taken in order, so the one before is under way.
    fn wait(&self) -> Option<MutexGuard<'_, TurnState>> {
        let waits = |state: &mut TurnState| state.next < self.number && state.broken == Broken::No;
        let state = self.turns.moved.wait_while(self.turns.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        (state.broken == Broken::No).then_some(state)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        if state.next <= self.number {
            state.broken = Broken::Yes;
        }
        self.turns.moved.notify_all();
    }
}
