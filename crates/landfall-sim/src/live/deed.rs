//! Owns what the records of a simulated order say, and what they do: to a keyed state, and to the model that it is compared with.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use landfall_core::keyed::{
    Batch, Op, ReadError, Record, RecordKind, Schema, SectionId, SectionSchema, Sections, Transaction,
};
use landfall_core::snapshot::{KeyRange, Position, SectionPriority, StateName};

use super::model::Model;
use super::scenario::LiveContent;
use crate::content::STATE;
use crate::random::Random;

/// Sections by name: "config" is vital, "data" is the bulk, "recent" is cleared now and then.
pub(super) const CONFIG: SectionId = SectionId(0);
pub(super) const DATA: SectionId = SectionId(1);
pub(super) const RECENT: SectionId = SectionId(2);

/// What a record does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// Changes that need no look at the state.
    Change(Batch),
    /// Adds to the number at a key.
    Add { key: Bytes, by: u64 },
    /// Takes the value of one key to another.
    Move { from: Bytes, to: Bytes },
    /// Deletes up to so many keys from one on.
    Trim { from: Bytes, entries_max: u8 },
    /// Writes down how long the values of keys are.
    Measure { keys: Vec<Bytes>, into: Bytes },
    /// Every member seals here.
    Mark,
}

/// The sections of the simulated state.
pub(crate) fn schema() -> Arc<Schema> {
    let section = |name: &str, priority| SectionSchema { name: name_of(name), priority, range: KeyRange::default() };
    let sections = vec![
        section("config", SectionPriority::Vital),
        section("data", SectionPriority::Bulk),
        section("recent", SectionPriority::Bulk),
    ];
    Arc::new(Schema::new(sections).expect("a legal schema"))
}

/// The sections of a member that does not hold all: records look into none of the others.
pub(super) fn some_sections() -> Sections {
    Sections::only([name_of("config"), name_of("data")])
}

/// The name of the simulated state.
pub(crate) fn state_name() -> StateName {
    name_of(STATE)
}

fn name_of(name: &str) -> StateName {
    StateName::new(name).expect("a legal name")
}

impl Deed {
    /// The record that does it, at a position.
    pub(super) fn record(&self, position: Position, schema: &Schema) -> Record {
        let (kind, payload) = match self {
            Self::Change(batch) => (RecordKind::Batch, batch.encode(schema).expect("a short batch")),
            Self::Mark => (RecordKind::Mark, Bytes::new()),
            command => (RecordKind::Command, command.encode()),
        };
        Record { position, kind, payload }
    }

    /// What a record says. Nothing if no member of this simulation wrote it.
    pub(super) fn of(record: &Record, schema: &Schema) -> Option<Self> {
        match record.kind {
            RecordKind::Batch => Batch::decode(&record.payload, schema).ok().map(Self::Change),
            RecordKind::Mark => Some(Self::Mark),
            RecordKind::Command => Self::decode(record.payload.clone()),
            RecordKind::Lease | RecordKind::Rollback => None,
        }
    }

    fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Change(_) | Self::Mark => {}
            Self::Add { key, by } => {
                out.put_u8(1);
                out.put_u64_le(*by);
                put_keys(&mut out, [key]);
            }
            Self::Move { from, to } => {
                out.put_u8(2);
                put_keys(&mut out, [from, to]);
            }
            Self::Trim { from, entries_max } => {
                out.put_u8(3);
                out.put_u8(*entries_max);
                put_keys(&mut out, [from]);
            }
            Self::Measure { keys, into } => {
                out.put_u8(4);
                put_keys(&mut out, keys.iter().chain([into]));
            }
        }
        out.into()
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        let tag = bytes.try_get_u8().ok()?;
        let number = match tag {
            1 => bytes.try_get_u64_le().ok()?,
            3 => u64::from(bytes.try_get_u8().ok()?),
            _ => 0,
        };
        let mut keys = take_keys(bytes)?;
        let last = keys.pop()?;
        Some(match tag {
            1 => Self::Add { key: last, by: number },
            2 => Self::Move { from: keys.pop()?, to: last },
            3 => Self::Trim { from: last, entries_max: number as u8 },
            4 => Self::Measure { keys, into: last },
            _ => return None,
        })
    }

    /// Does it to a keyed state.
    pub(super) fn carry_out(&self, state: &mut Transaction<'_>) -> Result<(), ReadError> {
        match self {
            Self::Mark => {}
            Self::Change(batch) => {
                for (section, op) in batch.ops() {
                    match op {
                        Op::Put { key, value } => state.put(*section, key.clone(), value.clone())?,
                        Op::Delete { key } => state.delete(*section, key.clone())?,
                        Op::Clear => state.clear(*section),
                    }
                }
            }
            Self::Add { key, by } => {
                let old = state.get(DATA, key)?;
                state.put(DATA, key.clone(), added(old.as_ref(), *by))?;
            }
            Self::Move { from, to } => {
                if let Some(value) = state.get(DATA, from)? {
                    state.delete(DATA, from.clone())?;
                    state.put(DATA, to.clone(), value)?;
                }
            }
            Self::Trim { from, entries_max } => {
                for (key, _) in state.scan(DATA, from, usize::from(*entries_max))? {
                    state.delete(DATA, key)?;
                }
            }
            Self::Measure { keys, into } => {
                let values = state.get_many(DATA, keys)?;
                state.put(CONFIG, into.clone(), measured(&values))?;
            }
        }
        Ok(())
    }

    /// Does it to the model.
    pub(super) fn carry_out_on_model(&self, model: &mut Model, index: u64) {
        match self {
            Self::Mark => {}
            Self::Change(batch) => {
                for (section, op) in batch.ops() {
                    match op {
                        Op::Put { key, value } => model.set(*section, key, Some(value.clone()), index),
                        Op::Delete { key } => model.set(*section, key, None, index),
                        Op::Clear => model.clear(*section, index),
                    }
                }
            }
            Self::Add { key, by } => {
                let old = model.get(DATA, key, index);
                model.set(DATA, key, Some(added(old.as_ref(), *by)), index);
            }
            Self::Move { from, to } => {
                if let Some(value) = model.get(DATA, from, index) {
                    model.set(DATA, from, None, index);
                    model.set(DATA, to, Some(value), index);
                }
            }
            Self::Trim { from, entries_max } => {
                for (key, _) in model.scan(DATA, from, usize::from(*entries_max), index) {
                    model.set(DATA, &key, None, index);
                }
            }
            Self::Measure { keys, into } => {
                let values: Vec<_> = keys.iter().map(|key| model.get(DATA, key, index)).collect();
                model.set(CONFIG, into, Some(measured(&values)), index);
            }
        }
    }
}

/// What a writer comes up with next.
pub(super) fn next_deed(content: &LiveContent, schema: &Schema, random: &mut Random) -> Deed {
    match random.below(100) {
        0..=9 => Deed::Add { key: key(content, random), by: random.below(1000) },
        10..=15 => Deed::Move { from: key(content, random), to: key(content, random) },
        16..=18 => Deed::Trim { from: key(content, random), entries_max: random.between(1, 8) as u8 },
        19..=23 => {
            let keys = (0..random.between(1, 5)).map(|_| key(content, random)).collect();
            Deed::Measure { keys, into: format!("sum/{}", random.below(20)).into() }
        }
        24 | 25 => change(schema, vec![(RECENT, Op::Clear)]),
        26..=29 => change(schema, vec![(CONFIG, put(format!("setting/{}", random.below(40)).into(), 60, random))]),
        _ => {
            let ops = (0..random.between(1, 8)).map(|_| next_op(content, random)).collect();
            change(schema, ops)
        }
    }
}

/// Entries that are there from the beginning.
pub(super) fn first_deed(content: &LiveContent, entries: u64, schema: &Schema, random: &mut Random) -> Deed {
    let ops = (0..entries).map(|_| (DATA, put(key(content, random), value_bytes(content, random), random))).collect();
    change(schema, ops)
}

fn next_op(content: &LiveContent, random: &mut Random) -> (SectionId, Op) {
    let key = key(content, random);
    match random.below(10) {
        0 | 1 => (DATA, Op::Delete { key }),
        2 => (RECENT, put(key, 30, random)),
        3 => (RECENT, Op::Delete { key }),
        _ => {
            let bytes = value_bytes(content, random);
            (DATA, put(key, bytes, random))
        }
    }
}

fn value_bytes(content: &LiveContent, random: &mut Random) -> u64 {
    if random.chance(content.long_per_mille) { content.long_bytes_max } else { content.short_bytes_max }
}

fn put(key: Bytes, bytes_max: u64, random: &mut Random) -> Op {
    let length = random.below(bytes_max + 1) as usize;
    let value = if random.chance(500) { random.text(length) } else { random.bytes(length) };
    Op::Put { key, value: value.into() }
}

fn key(content: &LiveContent, random: &mut Random) -> Bytes {
    format!("key/{:05}", random.below(content.keys)).into()
}

fn change(schema: &Schema, ops: Vec<(SectionId, Op)>) -> Deed {
    let mut batch = Batch::default();
    for (section, op) in ops {
        batch.push(schema, section, op).expect("within every limit");
    }
    Deed::Change(batch)
}

fn added(old: Option<&Bytes>, by: u64) -> Bytes {
    let old = old.and_then(|old| old.first_chunk::<8>()).map_or(0, |head| u64::from_le_bytes(*head));
    Bytes::copy_from_slice(&old.wrapping_add(by).to_le_bytes())
}

fn measured(values: &[Option<Bytes>]) -> Bytes {
    let bytes: usize = values.iter().flatten().map(Bytes::len).sum();
    format!("{bytes} B in {} values", values.iter().flatten().count()).into()
}

fn put_keys<'a>(out: &mut Vec<u8>, keys: impl IntoIterator<Item = &'a Bytes>) {
    for key in keys {
        out.put_u16_le(key.len() as u16);
        out.put_slice(key);
    }
}

fn take_keys(mut bytes: Bytes) -> Option<Vec<Bytes>> {
    let mut keys = Vec::new();
    while bytes.has_remaining() {
        let length = usize::from(bytes.try_get_u16_le().ok()?);
        if length > bytes.len() {
            return None;
        }
        keys.push(bytes.split_to(length));
    }
    Some(keys)
}
