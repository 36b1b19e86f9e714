//! Owns the journal: the file whose presence means that a plan is to be carried out to its end.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use bytes::{Buf, Bytes};
use landfall_core::ChunkId;

use super::JOURNAL;
use super::finish::Previous;
use crate::files::block::{BlockReader, BlockWriter, Magic, ReadError};

/// What the end of a plan needs to know beside the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Journal {
    /// The snapshot that the destination will hold.
    pub(super) manifest: ChunkId,
    /// The snapshot that it held; zeros if that is not known.
    pub(super) before: ChunkId,
    /// Is the way back kept?
    pub(super) previous: Previous,
}

impl Journal {
    /// Writes the journal. Once the directory is synced, too, there is no way back.
    pub(super) fn write(&self, control: impl AsFd) -> io::Result<()> {
        let mut header = [&self.manifest.as_bytes()[..], self.before.as_bytes()].concat();
        header.push(match self.previous {
            Previous::Drop => DROP,
            Previous::Keep => KEEP,
        });
        BlockWriter::create(control, Path::new(JOURNAL), MAGIC, &header)?.commit()
    }

    /// The journal, if there is one.
    pub(super) fn read(control: impl AsFd) -> Result<Option<Self>, ReadError> {
        match BlockReader::open(control, Path::new(JOURNAL), MAGIC) {
            Ok(reader) => Self::decode(reader.header().clone()).map(Some),
            Err(ReadError::Absent) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn decode(mut header: Bytes) -> Result<Self, ReadError> {
        if header.len() != 2 * ChunkId::BYTES + 1 {
            return Err(ReadError::Damaged("its header has a wrong length"));
        }
        let mut id = || {
            let mut bytes = [0; ChunkId::BYTES];
            header.copy_to_slice(&mut bytes);
            ChunkId::from_bytes(bytes)
        };
        let (manifest, before) = (id(), id());
        let previous = match header.get_u8() {
            DROP => Previous::Drop,
            KEEP => Previous::Keep,
            _ => return Err(ReadError::Damaged("it asks for something unknown")),
        };
        Ok(Self { manifest, before, previous })
    }
}

const MAGIC: &Magic = b"LFjrnl01";
const DROP: u8 = 0;
const KEEP: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_frozen() {
        let directory = tempfile::tempdir().unwrap();
        let control = std::fs::File::open(directory.path()).unwrap();
        let id = |byte| ChunkId::from_bytes([byte; 32]);
        let journal = Journal { manifest: id(1), before: id(2), previous: Previous::Keep };
        assert_eq!(Journal::read(&control).unwrap(), None);
        journal.write(&control).unwrap();
        assert_eq!(Journal::read(&control).unwrap(), Some(journal));
        let bytes = std::fs::read(directory.path().join(JOURNAL)).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    /// Magic; the header; the end.
    const GOLDEN: &str = concat!(
        "4c466a726e6c3031",
        "410000001fb1f443",
        "0101010101010101010101010101010101010101010101010101010101010101",
        "0202020202020202020202020202020202020202020202020202020202020202",
        "0141000000",
        "ffffffff656e642e0000000000000000",
    );
}
