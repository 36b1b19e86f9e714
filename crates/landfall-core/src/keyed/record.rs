//! Owns the bytes of a log's records. It never keeps or orders them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::snapshot::{LogHash, Position};

/// Longest encoding of a record.
pub const RECORD_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What stands before the payload of a record: format, kind, epoch, index, length of the payload.
pub const RECORD_HEAD_BYTES: usize = 1 + 1 + 8 + 8 + 4;

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// Changes of the state: a [`super::Batch`].
    Batch = 1,
    /// Every member seals here.
    Mark = 2,
    /// A lease on the log began, was renewed or ended.
    Lease = 3,
    /// The content of a pinned snapshot is the state's content from here on.
    Rollback = 4,
    /// A command of the service, which every member carries out the same way.
    Command = 5,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Batch),
            2 => Some(Self::Mark),
            3 => Some(Self::Lease),
            4 => Some(Self::Rollback),
            5 => Some(Self::Command),
            _ => None,
        }
    }
}

/// One place of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it stands; positions increase.
    pub position: Position,
    /// What it is for.
    pub kind: RecordKind,
    /// What it says, by kind.
    pub payload: Bytes,
}

impl Record {
    /// The one encoding of this record.
    ///
    /// # Errors
    /// [`RecordError::TooLong`].
    pub fn encode(&self) -> Result<Bytes, RecordError> {
        if self.payload.len() > RECORD_BYTES_MAX - RECORD_HEAD_BYTES {
            return Err(RecordError::TooLong);
        }
        let mut out = BytesMut::with_capacity(RECORD_HEAD_BYTES + self.payload.len());
        out.put_u8(FORMAT);
        out.put_u8(self.kind as u8);
        out.put_u64_le(self.position.epoch);
        out.put_u64_le(self.position.index);
        out.put_u32_le(self.payload.len() as u32);
        out.put_slice(&self.payload);
        Ok(out.freeze())
    }

    /// Reads bytes that came from a log. The payload shares them.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong);
        }
        let Some((&format, _)) = bytes.split_first() else { return Err(RecordError::Malformed("it is empty")) };
        if format != FORMAT {
            return Err(RecordError::UnknownFormat { found: format });
        }
        let mut rest = bytes.slice(1..);
        if rest.len() < RECORD_HEAD_BYTES - 1 {
            return Err(RecordError::Malformed("it ends too early"));
        }
        let kind = rest.get_u8();
        let kind = RecordKind::from_byte(kind).ok_or(RecordError::UnknownKind { found: kind })?;
        let position = Position { epoch: rest.get_u64_le(), index: rest.get_u64_le() };
        if rest.get_u32_le() as usize != rest.len() {
            return Err(RecordError::Malformed("its length is not what it says"));
        }
        Ok(Self { position, kind, payload: rest })
    }

    /// The chain of a log that stood at `before`, after this record.
    ///
    /// # Errors
    /// [`RecordError::TooLong`].
    pub fn link(&self, before: LogHash) -> Result<LogHash, RecordError> {
        Ok(before.after(self.position, &self.encode()?))
    }
}

/// Why bytes are not a record, or a record has no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Split what it says.
    #[error("the record is longer than {RECORD_BYTES_MAX} bytes")]
    TooLong,
    /// A newer member wrote it: update this one.
    #[error("record format {found} is not known here (this member knows {FORMAT}): update this member")]
    UnknownFormat {
        /// The format that the bytes name.
        found: u8,
    },
    /// A newer member wrote it: update this one.
    #[error("kind {found} of a record is not known here: update this member")]
    UnknownKind {
        /// The kind that the bytes name.
        found: u8,
    },
    /// It is damaged, or whoever wrote it is broken.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
}

/// The only format of records so far.
const FORMAT: u8 = 1;
