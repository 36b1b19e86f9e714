//! Owns the pack that is being filled: frames go into its tail, the tail goes to the file.
//!
//! Writes are positional and the tail is kept until they succeed, so a write that failed (a full disk) is repeated by
//! the next call. It never syncs: finished packs are handed on.

use std::io;
use std::sync::Arc;

use landfall_core::{Chunk, ChunkId};

use crate::frame::{Encoded, FrameHeader, FramePlace};
use crate::vfs::VfsFile;

use super::{FRAMES_PER_PACK_MAX, Footer, FooterEntry, PackClass, PackNumber, Tail, pack_header};

/// A frame to append.
pub(crate) struct NewFrame<'a> {
    pub(crate) header: FrameHeader,
    pub(crate) payload: &'a [u8],
}

impl<'a> NewFrame<'a> {
    /// The frame of a chunk in a form.
    pub(crate) fn of(chunk: &Chunk, form: Encoded<'a>) -> Self {
        let header = FrameHeader {
            id: chunk.id(),
            domain: chunk.domain(),
            codec: form.codec,
            base: form.base,
            plain_bytes: chunk.bytes().len() as u32,
            payload_bytes: form.bytes.len() as u32,
            payload_crc: crc32c::crc32c(form.bytes),
        };
        Self { header, payload: form.bytes }
    }
}

/// A pack that got its footer and still has to be synced.
pub(crate) struct Sealed {
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) footer: Footer,
}

/// The open pack of one class.
pub(crate) struct PackWriter {
    file: Arc<dyn VfsFile>,
    footer: Footer,
    stage: Stage,
    /// What the file does not have yet.
    tail: Arc<Tail>,
    written_bytes: u32,
    /// How far the disk was told to begin.
    begun_bytes: u32,
    synced_bytes: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Filling,
    /// The frames are in the file, and no more may follow: these are the bytes of the footer.
    Closing(Vec<u8>),
    Closed,
}

impl PackWriter {
    pub(crate) fn new(file: Arc<dyn VfsFile>, number: PackNumber, class: PackClass, tail: Arc<Tail>) -> Self {
        let header = pack_header(number, class);
        tail.begin(number, &header);
        let frames_end = header.len() as u32;
        let footer = Footer { number, class, frames_end, entries: Vec::new(), bases: Vec::new() };
        Self { file, footer, stage: Stage::Filling, tail, written_bytes: 0, begun_bytes: 0, synced_bytes: 0 }
    }

    pub(crate) fn number(&self) -> PackNumber {
        self.footer.number
    }

    pub(crate) fn file(&self) -> &Arc<dyn VfsFile> {
        &self.file
    }

    pub(crate) fn entries(&self) -> &[FooterEntry] {
        &self.footer.entries
    }

    pub(crate) fn bases(&self) -> &[(u32, ChunkId)] {
        &self.footer.bases
    }

    /// Whether the pack must be closed before a frame of `frame_bytes` is appended.
    pub(crate) fn is_full_for(&self, frame_bytes: u32, pack_bytes_target: u32) -> bool {
        self.stage != Stage::Filling
            || self.footer.entries.len() as u32 >= FRAMES_PER_PACK_MAX
            || (!self.footer.entries.is_empty() && self.footer.frames_end + frame_bytes > pack_bytes_target)
    }

    /// Makes room in the tail, then takes the frame; says where it stands.
    pub(crate) fn append(&mut self, frame: &NewFrame<'_>) -> io::Result<(u32, FooterEntry)> {
        debug_assert_eq!(self.stage, Stage::Filling, "a frame behind the footer");
        if self.tail.len() + frame.header.frame_bytes() as usize > TAIL_BYTES_MAX {
            self.flush()?;
        }
        let place = FramePlace { pack: self.footer.number.0, offset: self.footer.frames_end };
        self.tail.push(|bytes| {
            frame.header.write(place, bytes);
            bytes.extend_from_slice(frame.payload);
        });
        let ordinal = self.footer.entries.len() as u32;
        let entry = FooterEntry::new(place.offset, &frame.header);
        self.footer.entries.push(entry);
        self.footer.bases.extend(frame.header.base.map(|base| (ordinal, base)));
        self.footer.frames_end += frame.header.frame_bytes();
        Ok((ordinal, entry))
    }

    /// Writes the tail to the file.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.written_bytes += self.tail.flush(self.file.as_ref())?;
        self.begin_writeback();
        Ok(())
    }

    /// Lets the disk begin with what was written, piece by piece.
    fn begin_writeback(&mut self) {
        let bytes = self.written_bytes - self.begun_bytes;
        if bytes >= WRITEBACK_BYTES {
            self.file.begin_writeback(u64::from(self.begun_bytes), u64::from(bytes));
            self.begun_bytes = self.written_bytes;
        }
    }

    /// Writes the footer. After an error, call it again.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        if self.stage == Stage::Filling {
            self.flush()?;
            self.stage = Stage::Closing(self.footer.to_bytes());
        }
        if let Stage::Closing(footer) = &self.stage {
            self.file.write_at(u64::from(self.written_bytes), footer)?;
            self.written_bytes += footer.len() as u32;
            self.stage = Stage::Closed;
            self.begin_writeback();
        }
        Ok(())
    }

    /// Gives the finished pack.
    pub(crate) fn into_sealed(self) -> Sealed {
        debug_assert_eq!(self.stage, Stage::Closed, "a pack that is not written");
        Sealed { file: self.file, footer: self.footer }
    }

    /// How far the file has bytes that were not synced, if it has any.
    pub(crate) fn unsynced_bytes(&self) -> Option<u32> {
        (self.synced_bytes < self.written_bytes).then_some(self.written_bytes)
    }

    pub(crate) fn set_synced(&mut self, bytes: u32) {
        self.synced_bytes = self.synced_bytes.max(bytes);
    }
}

/// Large enough that write calls cost little beside what they write; small, because it is what a process that is killed loses of what it
/// fetched, for each class of packs.
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// A pack that is synced as one keeps the disk busy for a tenth of a second, and whoever syncs a log meanwhile waits behind it. In pieces of
/// this size it waits for one of them.
const WRITEBACK_BYTES: u32 = 512 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use landfall_core::Domain;
    use landfall_core::codec::Codec;

    use super::*;

    /// A file that has no bytes, and remembers what the disk was told to begin with.
    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<(u64, u64)>>);

    impl VfsFile for Told {
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::ErrorKind::UnexpectedEof.into())
        }

        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn bytes(&self) -> io::Result<u64> {
            Ok(0)
        }

        fn set_bytes(&self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn begin_writeback(&self, offset: u64, bytes: u64) {
            self.0.lock().unwrap().push((offset, bytes));
        }
    }

    #[test]
    fn the_disk_begins_with_a_pack_piece_by_piece_long_before_its_sync() {
        let told = Arc::new(Told::default());
        let mut pack = PackWriter::new(told.clone(), PackNumber(1), PackClass::Data, Arc::default());
        for number in 0..100_u8 {
            let chunk = Chunk::new(Domain::Data, vec![number; 40_000].into());
            let form = Encoded { codec: Codec::Raw as u8, base: None, bytes: chunk.bytes() };
            pack.append(&NewFrame::of(&chunk, form)).unwrap();
        }
        let told = told.0.lock().unwrap();
        assert!(told.len() >= 6, "{told:?}");
        let mut end = 0;
        for (offset, bytes) in told.iter() {
            assert_eq!(*offset, end, "no gap and nothing twice");
            assert!(*bytes >= u64::from(WRITEBACK_BYTES) && *bytes < u64::from(2 * WRITEBACK_BYTES));
            end += bytes;
        }
        assert!(u64::from(pack.footer.frames_end) - end < 2 * u64::from(WRITEBACK_BYTES));
    }
}
