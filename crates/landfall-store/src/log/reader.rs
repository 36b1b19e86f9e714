//! Owns reading frames one after the other, each checked against its checksums, its place and the frame before it.
//!
//! It never decides what a broken frame means: the caller knows whether the place was durable.

use std::io;

use bytes::Bytes;

use crate::vfs::VfsFile;

use super::record::{FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, FrameRole, Link, LogRecord};
use super::segment::{Place, SegmentNumber};

/// Where to read on: an offset, and the link that the frame there must carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) offset: u32,
    pub(super) link: Link,
}

/// A frame whose bytes are what was written.
pub(super) struct Frame {
    pub(super) at: Cursor,
    /// Where the next frame begins.
    pub(super) next: Cursor,
    pub(super) header: FrameHeader,
    payload: Bytes,
}

impl Frame {
    /// The record, unless the frame is a receipt.
    pub(super) fn into_record(self) -> Option<LogRecord> {
        let FrameHeader { role, kind, position, .. } = self.header;
        (role == FrameRole::Record).then_some(LogRecord { position, kind, payload: self.payload })
    }

    pub(super) fn record_index(&self) -> Option<u64> {
        (self.header.role == FrameRole::Record).then_some(self.header.position.index)
    }
}

/// Why there is no next frame.
#[derive(Debug)]
pub(super) enum ReadStop {
    /// The disk refused.
    Io(io::Error),
    /// There is no right frame at the reader's offset.
    Broken,
}

/// Reads the frames of one segment.
pub(super) struct FrameReader<'a> {
    file: &'a dyn VfsFile,
    segment: SegmentNumber,
    next: Cursor,
    end: u32,
    buffer: Bytes,
    buffer_at: u32,
}

impl<'a> FrameReader<'a> {
    /// Reads from `start`, where a frame begins, to `end`, where one ends.
    pub(super) fn new(file: &'a dyn VfsFile, segment: SegmentNumber, start: Cursor, end: u32) -> Self {
        Self { file, segment, next: start, end, buffer: Bytes::new(), buffer_at: 0 }
    }

    /// Where the next frame begins.
    pub(super) fn cursor(&self) -> Cursor {
        self.next
    }

    /// The next frame; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, ReadStop> {
        if self.next.offset >= self.end {
            return Ok(None);
        }
        let frame = match self.take()? {
            Some(frame) => frame,
            None => {
                // Bits may flip on the way from the disk: only what is wrong twice is wrong there.
                self.buffer = Bytes::new();
                self.take()?.ok_or(ReadStop::Broken)?
            }
        };
        self.next = frame.next;
        Ok(Some(frame))
    }

    fn take(&mut self) -> Result<Option<Frame>, ReadStop> {
        let at = self.next;
        let Some(bytes) = self.view(FRAME_HEADER_BYTES)? else { return Ok(None) };
        let place = Place { segment: self.segment, offset: at.offset };
        let Some((header, link)) = FrameHeader::read(&bytes, place) else { return Ok(None) };
        if header.link != at.link {
            return Ok(None);
        }
        let Some(bytes) = self.view(header.frame_bytes())? else { return Ok(None) };
        let payload = bytes.slice(FRAME_HEADER_BYTES as usize..);
        if crc32c::crc32c(&payload) != header.payload_crc {
            return Ok(None);
        }
        let next = Cursor { offset: at.offset + header.frame_bytes(), link };
        Ok(Some(Frame { at, next, header, payload }))
    }

    /// The next `length` bytes; `None` if the segment ends before.
    fn view(&mut self, length: u32) -> Result<Option<Bytes>, ReadStop> {
        let room = self.end - self.next.offset;
        if length > room {
            return Ok(None);
        }
        let start = (self.next.offset - self.buffer_at) as usize;
        if self.buffer.len() < start + length as usize {
            let mut block = vec![0; length.max(READ_BLOCK_BYTES).min(room) as usize];
            self.file.read_at(u64::from(self.next.offset), &mut block).map_err(ReadStop::Io)?;
            self.buffer = block.into();
            self.buffer_at = self.next.offset;
        }
        let start = (self.next.offset - self.buffer_at) as usize;
        Ok(Some(self.buffer.slice(start..start + length as usize)))
    }
}

/// What stands behind the first broken frame of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remains {
    /// The greatest end that a frame there says was durable.
    pub(super) durable_end: u32,
    /// Whether there is nothing but zeros.
    pub(super) content: Content,
}

/// Whether bytes were ever written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Zeros,
    Bytes,
}

/// Looks for right headers from `offset` to `end`, whatever stands between them.
pub(super) fn look_behind(file: &dyn VfsFile, from: Place, end: u32) -> io::Result<Remains> {
    let mut remains = Remains { durable_end: 0, content: Content::Zeros };
    let mut block = Vec::new();
    let mut at = from;
    while at.offset < end {
        block.resize((end - at.offset).min(SEARCH_BLOCK_BYTES) as usize, 0);
        file.read_at(u64::from(at.offset), &mut block)?;
        if block.iter().any(|byte| *byte != 0) {
            remains.content = Content::Bytes;
            remains.durable_end = remains.durable_end.max(greatest_claim(&block, at));
        }
        // Blocks overlap, so that no header is cut by their border.
        let step = block.len() as u32;
        at.offset += if at.offset + step == end { step } else { step - (FRAME_HEADER_BYTES - 1) };
    }
    Ok(remains)
}

fn greatest_claim(block: &[u8], at: Place) -> u32 {
    let headers = block.windows(FRAME_HEADER_BYTES as usize).enumerate().filter_map(|(start, bytes)| {
        let place = Place { offset: at.offset + start as u32, ..at };
        bytes.starts_with(&FRAME_MAGIC).then(|| FrameHeader::read(bytes, place)).flatten()
    });
    headers.map(|(header, _)| header.durable_end).max().unwrap_or(0)
}

/// One read call of this size; replication asks for about as much at a time.
const READ_BLOCK_BYTES: u32 = 128 * 1024;
const SEARCH_BLOCK_BYTES: u32 = 1024 * 1024;
