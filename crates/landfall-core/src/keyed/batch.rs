//! Owns changes of a keyed state as data, and their bytes. It never applies them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::schema::check_value;
use super::{RECORD_BYTES_MAX, RECORD_HEAD_BYTES, Schema, SectionId};
use crate::limits::{CHUNK_BYTES_MAX, KEY_BYTES_MAX, STATE_NAME_BYTES_MAX};
use crate::snapshot::{SECTIONS_MAX, StateName};

/// Longest encoding of a batch: it fits into a record.
pub const BATCH_BYTES_MAX: usize = RECORD_BYTES_MAX - RECORD_HEAD_BYTES;
/// Most changes of one encoded batch.
pub const BATCH_OPS_MAX: u32 = 256 * 1024;

const _: () = assert!(BATCH_BYTES_MAX > (CHUNK_BYTES_MAX + KEY_BYTES_MAX + STATE_NAME_BYTES_MAX + 64) as usize);

/// One change of one section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The key has this value from now on.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// The key has no value from now on; it may have had none.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// No key of the section has a value from now on.
    Clear,
}

impl Op {
    fn key(&self) -> Option<&Bytes> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => Some(key),
            Self::Clear => None,
        }
    }

    fn tag(&self) -> u8 {
        match self {
            Self::Put { .. } => PUT,
            Self::Delete { .. } => DELETE,
            Self::Clear => CLEAR,
        }
    }
}

/// Changes that take effect together, in order. All of them were checked against a schema.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    ops: Vec<(SectionId, Op)>,
}

impl Batch {
    /// Adds a change after all others.
    ///
    /// # Errors
    /// [`Refused`] if the section does not take it; the batch is as it was.
    ///
    /// # Panics
    /// If the section is not one of the schema.
    pub fn push(&mut self, schema: &Schema, section: SectionId, op: Op) -> Result<(), Refused> {
        if let Some(key) = op.key() {
            schema.check_key(section, key)?;
        }
        if let Op::Put { value, .. } = &op {
            check_value(value)?;
        }
        self.ops.push((section, op));
        Ok(())
    }

    /// Takes changes that were checked one by one.
    pub(super) fn of_checked(ops: Vec<(SectionId, Op)>) -> Self {
        Self { ops }
    }

    /// The changes in order.
    pub fn ops(&self) -> &[(SectionId, Op)] {
        &self.ops
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The one encoding of this batch. Sections stand there by name, so that members of other versions know what is meant.
    ///
    /// # Errors
    /// [`BatchError::TooLong`] if no record can hold it.
    pub fn encode(&self, schema: &Schema) -> Result<Bytes, BatchError> {
        let mut used: Vec<SectionId> = self.ops.iter().map(|(section, _)| *section).collect();
        used.sort_unstable();
        used.dedup();
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        out.put_u16_le(used.len() as u16);
        for &section in &used {
            put_short_bytes(&mut out, schema.section(section).name.as_str().as_bytes());
        }
        out.put_u32_le(self.ops.len() as u32);
        for (section, op) in &self.ops {
            let place = used.binary_search(section).expect("every section of an op is used");
            put_op(&mut out, place as u16, op);
            if out.len() > BATCH_BYTES_MAX {
                return Err(BatchError::TooLong);
            }
        }
        if self.ops.len() > BATCH_OPS_MAX as usize {
            return Err(BatchError::TooLong);
        }
        Ok(out.freeze())
    }

    /// Reads and checks bytes that came from a log. Keys and values share them.
    ///
    /// # Errors
    /// [`BatchError`]; nothing is allocated for what is beyond a limit.
    pub fn decode(bytes: &Bytes, schema: &Schema) -> Result<Self, BatchError> {
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(BatchError::TooLong);
        }
        let mut rest = bytes.clone();
        let format = take(&mut rest, 1)?.get_u8();
        if format != FORMAT {
            return Err(BatchError::UnknownFormat { found: format });
        }
        let sections = take_sections(&mut rest, schema)?;
        let count = take(&mut rest, 4)?.get_u32_le();
        // The shortest op has three bytes, so the count cannot make the vector longer than the input allows.
        if count > BATCH_OPS_MAX || count as usize * OP_BYTES_MIN > rest.len() {
            return Err(BatchError::Malformed("more changes than fit"));
        }
        let mut batch = Self { ops: Vec::with_capacity(count as usize) };
        let mut is_changed = vec![false; sections.len()];
        for _ in 0..count {
            let (place, op) = take_op(&mut rest)?;
            let section =
                *sections.get(place).ok_or(BatchError::Malformed("a change of a section that is not named"))?;
            is_changed[place] = true;
            batch.push(schema, section, op)?;
        }
        if !rest.is_empty() {
            return Err(BatchError::Malformed("bytes follow the last change"));
        }
        if is_changed.contains(&false) {
            return Err(BatchError::Malformed("a section is named and not changed"));
        }
        Ok(batch)
    }
}

/// Why a keyed state does not take a change. It is the same on every member of one schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Use a shorter key.
    #[error("a key of {bytes} bytes; at most {KEY_BYTES_MAX} are allowed")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Split the value.
    #[error("a value of {bytes} bytes; at most {CHUNK_BYTES_MAX} are allowed")]
    ValueTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The key belongs to another shard.
    #[error("the key is outside of the range of section '{section}'")]
    OutsideRange {
        /// The section.
        section: StateName,
    },
}

/// Why bytes are not a batch, or a batch has no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Split the batch.
    #[error("the batch is longer than {BATCH_BYTES_MAX} bytes or {BATCH_OPS_MAX} changes")]
    TooLong,
    /// A newer member wrote it: update this one.
    #[error("batch format {found} is not known here (this member knows {FORMAT}): update this member")]
    UnknownFormat {
        /// The format that the bytes name.
        found: u8,
    },
    /// A newer member wrote it: update this one.
    #[error("the batch changes section '{section}', which is not known here: update this member")]
    UnknownSection {
        /// The section.
        section: StateName,
    },
    /// A change that the schema of this member does not allow.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It is damaged, or whoever wrote it is broken.
    #[error("malformed batch: {0}")]
    Malformed(&'static str),
}

fn put_op(out: &mut BytesMut, place: u16, op: &Op) {
    out.put_u8(op.tag());
    out.put_u16_le(place);
    if let Some(key) = op.key() {
        put_short_bytes(out, key);
    }
    if let Op::Put { value, .. } = op {
        out.put_u32_le(value.len() as u32);
        out.put_slice(value);
    }
}

fn put_short_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16_le(bytes.len() as u16);
    out.put_slice(bytes);
}

fn take_sections(rest: &mut Bytes, schema: &Schema) -> Result<Vec<SectionId>, BatchError> {
    let count = usize::from(take(rest, 2)?.get_u16_le());
    if count > SECTIONS_MAX {
        return Err(BatchError::Malformed("more sections than any state has"));
    }
    let mut sections: Vec<SectionId> = Vec::with_capacity(count);
    for _ in 0..count {
        let name = take_short_bytes(rest, STATE_NAME_BYTES_MAX)?;
        let name = std::str::from_utf8(&name).map_err(|_| BatchError::Malformed("a name that is not text"))?;
        let name = StateName::new(name).map_err(|_| BatchError::Malformed("a refused name"))?;
        let Some(id) = schema.id(name.as_str()) else { return Err(BatchError::UnknownSection { section: name }) };
        if sections.last().is_some_and(|&last| last >= id) {
            return Err(BatchError::Malformed("sections are not in order of their names"));
        }
        sections.push(id);
    }
    Ok(sections)
}

/// A change, and the place of its section among the names.
fn take_op(rest: &mut Bytes) -> Result<(usize, Op), BatchError> {
    let mut head = take(rest, OP_BYTES_MIN)?;
    let (tag, place) = (head.get_u8(), usize::from(head.get_u16_le()));
    let op = match tag {
        PUT => Op::Put { key: take_short_bytes(rest, KEY_BYTES_MAX)?, value: take_value(rest)? },
        DELETE => Op::Delete { key: take_short_bytes(rest, KEY_BYTES_MAX)? },
        CLEAR => Op::Clear,
        _ => return Err(BatchError::Malformed("unknown kind of change")),
    };
    Ok((place, op))
}

fn take_short_bytes(rest: &mut Bytes, bytes_max: u32) -> Result<Bytes, BatchError> {
    let length = take(rest, 2)?.get_u16_le();
    if u32::from(length) > bytes_max {
        return Err(BatchError::Malformed("a name or key longer than any"));
    }
    take(rest, usize::from(length))
}

fn take_value(rest: &mut Bytes) -> Result<Bytes, BatchError> {
    let length = take(rest, 4)?.get_u32_le();
    if length > CHUNK_BYTES_MAX {
        return Err(BatchError::Malformed("a value longer than any"));
    }
    take(rest, length as usize)
}

fn take(rest: &mut Bytes, length: usize) -> Result<Bytes, BatchError> {
    if rest.len() < length {
        return Err(BatchError::Malformed("it ends too early"));
    }
    Ok(rest.split_to(length))
}

/// The only format of batches so far.
const FORMAT: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const CLEAR: u8 = 3;
/// Kind and section of a change.
const OP_BYTES_MIN: usize = 3;
