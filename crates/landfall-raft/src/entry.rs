//! Owns what stands in one log entry, byte by byte: gathered commands, marks, leases, memberships.
//!
//! The bytes are made once, by the leader, and never decoded and encoded again: the log's hash chain runs over them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes};
use landfall::core::snapshot::Position;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use crate::consensus::{MemberAddress, MemberId, RaftEntry, RaftMembership, log_id_of};

/// Longest entry, whatever it holds; it fits one frame of a connection.
pub(crate) const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// Longest command, encoded: an entry with only this one in it is within the limit.
pub const COMMAND_BYTES_MAX: usize = ENTRY_BYTES_MAX - COMMANDS_HEAD_BYTES - LENGTH_BYTES;
/// Most commands of one entry.
pub(crate) const COMMANDS_MAX: u32 = 64 * 1024;
/// Most members that a membership names, in all of its parts.
const MEMBERS_MAX: u32 = 1024;
/// Longest address of a member.
const ADDRESS_BYTES_MAX: usize = 512;

const COMMANDS_HEAD_BYTES: usize = 1 + 8 + 16 + 4;
const LENGTH_BYTES: usize = 4;

const BLANK: u8 = 0;
const MEMBERSHIP: u8 = 1;
const COMMANDS: u8 = 2;
const MARK: u8 = 3;
const LEASE: u8 = 4;

/// Time as the log knows it, in milliseconds since 1970: the later of the last entry's and the leader's clock.
///
/// It is the only time that a state may depend on: every member applies the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
pub struct LogTime(pub u64);

/// The bytes of an entry that is neither blank nor a membership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload(Bytes);

/// What an entry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing; a new leader begins its term with it.
    Blank,
    /// These members, from here on.
    Membership(RaftMembership),
    /// Commands of the service.
    Commands(Commands),
    /// Every member seals here.
    Mark(Mark),
    /// Somebody needs the log from a position on.
    Lease(Lease),
}

/// Commands that were gathered into one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commands {
    pub(crate) time: LogTime,
    pub(crate) origin: Origin,
    pub(crate) encoded: Vec<Bytes>,
}

/// Who waits for the replies: meaningful only to the member that proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) member: MemberId,
    pub(crate) ticket: u64,
}

/// A record that asks every member to seal at its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) time: LogTime,
    /// Nobody purges the log from this position's index on: a member that is alive has not confirmed it yet.
    pub(crate) keep_from: u64,
}

/// A claim on the log. A newer version fences the holder's older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who holds it.
    pub holder: MemberId,
    /// Grows with every lease that the holder takes, also after the last one ended: at most the index at which it was granted.
    pub version: u64,
    /// The index of the first position that is needed.
    pub keep_from: u64,
    /// When it ends unless renewed; a time already past gives it back.
    pub until: LogTime,
    /// The log's time when it was written.
    pub time: LogTime,
}

/// Bytes that are no entry of this version: a newer member wrote them, or the log is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    /// A newer member wrote it.
    #[error("a log entry of kind {0}, which this member does not know: update it")]
    UnknownKind(u8),
    /// It breaks the format.
    #[error("malformed log entry: {0}")]
    Malformed(&'static str),
}

impl Payload {
    /// Asks every member to seal.
    pub(crate) fn mark(mark: Mark) -> Self {
        let mut out = Vec::with_capacity(17);
        out.put_u8(MARK);
        out.put_u64_le(mark.time.0);
        out.put_u64_le(mark.keep_from);
        Self(out.into())
    }

    /// Takes, renews or gives back a lease.
    pub(crate) fn lease(lease: Lease) -> Self {
        let mut out = Vec::with_capacity(41);
        out.put_u8(LEASE);
        for field in [lease.holder, lease.version, lease.keep_from, lease.until.0, lease.time.0] {
            out.put_u64_le(field);
        }
        Self(out.into())
    }

    /// Who waits for this entry's replies, if anybody does. It looks at no more than the head.
    pub(crate) fn origin(&self) -> Option<Origin> {
        let mut head = self.0.get(..COMMANDS_HEAD_BYTES).filter(|head| head[0] == COMMANDS)?;
        head.advance(1 + 8);
        Some(Origin { member: head.get_u64_le(), ticket: head.get_u64_le() })
    }
}

/// Puts commands side by side until the entry is full.
pub(crate) struct CommandsBuilder {
    out: Vec<u8>,
    count: u32,
}

impl CommandsBuilder {
    pub(crate) fn new() -> Self {
        Self { out: vec![0; COMMANDS_HEAD_BYTES], count: 0 }
    }

    /// Whether a command of `bytes` still fits.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.count < COMMANDS_MAX && self.out.len() + LENGTH_BYTES + bytes <= ENTRY_BYTES_MAX
    }

    /// How long the entry is so far.
    pub(crate) fn bytes(&self) -> usize {
        self.out.len()
    }

    /// Adds a command that fits.
    pub(crate) fn add(&mut self, command: &[u8]) {
        self.out.put_u32_le(command.len() as u32);
        self.out.put_slice(command);
        self.count += 1;
    }

    /// The finished entry.
    pub(crate) fn finish(mut self, time: LogTime, origin: Origin) -> Payload {
        let mut head = &mut self.out[..COMMANDS_HEAD_BYTES];
        head.put_u8(COMMANDS);
        head.put_u64_le(time.0);
        head.put_u64_le(origin.member);
        head.put_u64_le(origin.ticket);
        head.put_u32_le(self.count);
        Payload(self.out.into())
    }
}

/// The bytes of an entry as they stand in the log, travel, and are hashed.
pub(crate) fn encode(payload: &EntryPayload<crate::consensus::Consensus>) -> Bytes {
    match payload {
        EntryPayload::Blank => Bytes::from_static(&[BLANK]),
        EntryPayload::Membership(membership) => encode_membership(membership),
        EntryPayload::Normal(payload) => payload.0.clone(),
    }
}

/// What kind of record an entry is, for whoever walks the log without knowing entries.
pub(crate) fn record_kind(encoded: &Bytes) -> u8 {
    encoded.first().copied().unwrap_or(BLANK)
}

/// The entry at a position whose bytes [`encode`] made.
pub(crate) fn decode(position: Position, bytes: &Bytes) -> Result<RaftEntry, EntryError> {
    let payload = match *bytes.first().ok_or(EntryError::Malformed("an entry without a kind"))? {
        BLANK => EntryPayload::Blank,
        MEMBERSHIP => EntryPayload::Membership(decode_membership(&mut bytes.slice(1..))?),
        COMMANDS | MARK | LEASE => EntryPayload::Normal(Payload(bytes.clone())),
        other => return Err(EntryError::UnknownKind(other)),
    };
    let log_id = log_id_of(position).ok_or(EntryError::Malformed("an entry before the first position"))?;
    Ok(RaftEntry { log_id, payload })
}

/// What an entry asks for.
pub(crate) fn change_of(payload: &EntryPayload<crate::consensus::Consensus>) -> Result<Change, EntryError> {
    match payload {
        EntryPayload::Blank => Ok(Change::Blank),
        EntryPayload::Membership(membership) => Ok(Change::Membership(membership.clone())),
        EntryPayload::Normal(payload) => read(&payload.0),
    }
}

fn read(bytes: &Bytes) -> Result<Change, EntryError> {
    let mut rest = bytes.clone();
    match take(&mut rest, 1)?.get_u8() {
        COMMANDS => read_commands(rest).map(Change::Commands),
        MARK => {
            let mut fixed = whole(rest, 16)?;
            Ok(Change::Mark(Mark { time: LogTime(fixed.get_u64_le()), keep_from: fixed.get_u64_le() }))
        }
        LEASE => {
            let mut fixed = whole(rest, 40)?;
            Ok(Change::Lease(Lease {
                holder: fixed.get_u64_le(),
                version: fixed.get_u64_le(),
                keep_from: fixed.get_u64_le(),
                until: LogTime(fixed.get_u64_le()),
                time: LogTime(fixed.get_u64_le()),
            }))
        }
        other => Err(EntryError::UnknownKind(other)),
    }
}

fn read_commands(mut rest: Bytes) -> Result<Commands, EntryError> {
    let mut head = take(&mut rest, COMMANDS_HEAD_BYTES - 1)?;
    let time = LogTime(head.get_u64_le());
    let origin = Origin { member: head.get_u64_le(), ticket: head.get_u64_le() };
    let count = head.get_u32_le();
    if count > COMMANDS_MAX {
        return Err(EntryError::Malformed("more commands than any entry has"));
    }
    let mut encoded = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let length = take(&mut rest, LENGTH_BYTES)?.get_u32_le() as usize;
        encoded.push(take(&mut rest, length)?);
    }
    whole(rest, 0)?;
    Ok(Commands { time, origin, encoded })
}

fn encode_membership(membership: &RaftMembership) -> Bytes {
    let mut out = vec![MEMBERSHIP];
    put_membership(&mut out, membership);
    out.into()
}

/// Joint configurations, each a set of voters; then everybody's address. Whoever has an address and no vote is a learner.
pub(crate) fn put_membership(out: &mut Vec<u8>, membership: &RaftMembership) {
    let configurations = membership.get_joint_config();
    out.put_u32_le(configurations.len() as u32);
    for voters in configurations {
        out.put_u32_le(voters.len() as u32);
        for voter in voters {
            out.put_u64_le(*voter);
        }
    }
    let members: Vec<_> = membership.nodes().collect();
    out.put_u32_le(members.len() as u32);
    for (member, address) in members {
        out.put_u64_le(*member);
        for text in [&address.peers, &address.clients] {
            out.put_u16_le(text.len() as u16);
            out.put_slice(text.as_bytes());
        }
    }
}

/// Reads what [`put_membership`] wrote, to the end.
pub(crate) fn decode_membership(rest: &mut Bytes) -> Result<RaftMembership, EntryError> {
    let configurations = take_count(rest)?;
    let mut joint = Vec::with_capacity(configurations);
    for _ in 0..configurations {
        let voters = take_count(rest)?;
        let mut ids = take(rest, voters * 8)?;
        joint.push((0..voters).map(|_| ids.get_u64_le()).collect::<BTreeSet<_>>());
    }
    let mut members = BTreeMap::new();
    for _ in 0..take_count(rest)? {
        let member = take(rest, 8)?.get_u64_le();
        members.insert(member, MemberAddress { peers: take_text(rest)?, clients: take_text(rest)? });
    }
    whole(rest.clone(), 0)?;
    Ok(RaftMembership::new(joint, members))
}

/// Whether an address may stand in the log.
pub(crate) fn is_legal(address: &MemberAddress) -> bool {
    [&address.peers, &address.clients].iter().all(|text| text.len() <= ADDRESS_BYTES_MAX)
}

fn take_count(rest: &mut Bytes) -> Result<usize, EntryError> {
    let count = take(rest, 4)?.get_u32_le();
    if count > MEMBERS_MAX {
        return Err(EntryError::Malformed("more members than any cluster has"));
    }
    Ok(count as usize)
}

fn take_text(rest: &mut Bytes) -> Result<String, EntryError> {
    let length = take(rest, 2)?.get_u16_le() as usize;
    let bytes = take(rest, length)?;
    String::from_utf8(bytes.into()).map_err(|_| EntryError::Malformed("an address that is not text"))
}

fn take(rest: &mut Bytes, bytes: usize) -> Result<Bytes, EntryError> {
    if rest.len() < bytes {
        return Err(EntryError::Malformed("an entry that ends early"));
    }
    Ok(rest.split_to(bytes))
}

fn whole(rest: Bytes, bytes: usize) -> Result<Bytes, EntryError> {
    if rest.len() != bytes {
        return Err(EntryError::Malformed("an entry of another length"));
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { epoch: 3, index: 7 };

    #[track_caller]
    fn check_bytes(payload: EntryPayload<crate::consensus::Consensus>, expected: &[u8]) {
        let bytes = encode(&payload);
        assert_eq!(&bytes[..], expected);
        assert_eq!(decode(AT, &bytes).unwrap(), RaftEntry { log_id: log_id_of(AT).unwrap(), payload });
    }

    #[track_caller]
    fn check_change(payload: &Payload, expected: &Change) {
        assert_eq!(&read(&payload.0).unwrap(), expected);
        for length in 0..payload.0.len() {
            assert!(read(&payload.0.slice(..length)).is_err(), "cut to {length}");
        }
        let longer: Bytes = [&payload.0[..], b"x"].concat().into();
        assert!(read(&longer).is_err());
    }

    #[test]
    fn gathered_commands_are_frozen() {
        let mut builder = CommandsBuilder::new();
        builder.add(b"one");
        builder.add(b"");
        let origin = Origin { member: 5, ticket: 6 };
        let payload = builder.finish(LogTime(4), origin);
        assert_eq!(payload.origin(), Some(origin));
        let encoded = vec![Bytes::from_static(b"one"), Bytes::new()];
        check_change(&payload, &Change::Commands(Commands { time: LogTime(4), origin, encoded }));
        let expected = [
            &[2, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0][..],
            &[3, 0, 0, 0, b'o', b'n', b'e', 0, 0, 0, 0],
        ];
        check_bytes(EntryPayload::Normal(payload), &expected.concat());
    }

    #[test]
    fn marks_and_leases_are_frozen() {
        let mark = Mark { time: LogTime(0x0102), keep_from: 9 };
        check_change(&Payload::mark(mark), &Change::Mark(mark));
        check_bytes(EntryPayload::Normal(Payload::mark(mark)), &[3, 2, 1, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        let lease = Lease { holder: 1, version: 2, keep_from: 3, until: LogTime(4), time: LogTime(5) };
        check_change(&Payload::lease(lease), &Change::Lease(lease));
        let mut expected = vec![4];
        for field in 1..=5_u64 {
            expected.extend(field.to_le_bytes());
        }
        check_bytes(EntryPayload::Normal(Payload::lease(lease)), &expected);
    }

    #[test]
    fn blanks_and_memberships_are_frozen() {
        check_bytes(EntryPayload::Blank, &[0]);
        let address = MemberAddress { peers: "a:1".into(), clients: "b".into() };
        let membership = RaftMembership::new(
            vec![BTreeSet::from([1])],
            BTreeMap::from([(1, address.clone()), (2, MemberAddress::default())]),
        );
        let expected = [
            &[1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0][..],
            &[1, 0, 0, 0, 0, 0, 0, 0, 3, 0, b'a', b':', b'1', 1, 0, b'b'],
            &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        check_bytes(EntryPayload::Membership(membership), &expected.concat());
    }

    #[test]
    fn an_entry_holds_a_command_of_the_longest_kind_and_no_byte_more() {
        let builder = CommandsBuilder::new();
        assert!(builder.has_room(COMMAND_BYTES_MAX));
        assert!(!builder.has_room(COMMAND_BYTES_MAX + 1));
    }

    #[test]
    fn an_entry_of_a_newer_version_is_told_from_a_damaged_one() {
        assert_eq!(decode(AT, &Bytes::from_static(&[99, 1])).unwrap_err(), EntryError::UnknownKind(99));
        assert!(matches!(decode(AT, &Bytes::new()), Err(EntryError::Malformed(_))));
        let endless = Bytes::from_static(&[1, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(decode(AT, &endless), Err(EntryError::Malformed(_))));
    }
}
