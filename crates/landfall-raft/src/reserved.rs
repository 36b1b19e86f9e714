//! Owns what the cluster keeps in the state itself, so that it ships with every snapshot: membership, the log's time, leases.
//!
//! It stands in the section `config` under keys that no service may use. It never reads anything else.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use landfall::core::keyed::{ReadError, SectionId, Transaction};
use landfall::core::snapshot::Position;
use landfall::keyed::{Keyed, KeyedError};

use crate::consensus::{MemberId, StoredMembership, log_id_of, position_of};
use crate::entry::{self, EntryError, Lease, LogTime};

/// The section that every service of a cluster has.
pub const CONFIG_SECTION: &str = "config";
/// Keys of the section `config` that begin with this belong to the cluster.
pub const RESERVED_KEY_PREFIX: &[u8] = b"\0raft/";

const MEMBERSHIP_KEY: &[u8] = b"\0raft/membership";
const TIME_KEY: &[u8] = b"\0raft/time";
const LEASE_PREFIX: &[u8] = b"\0raft/lease/";
/// Leases at once; each joiner has one.
pub(crate) const LEASES_MAX: usize = 1024;

/// What the cluster knows of itself at a position.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Reserved {
    pub(crate) membership: StoredMembership,
    pub(crate) time: LogTime,
    pub(crate) leases: BTreeMap<MemberId, Lease>,
}

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReservedError {
    #[error(transparent)]
    Keyed(#[from] KeyedError),
    #[error("what the cluster keeps of itself is malformed: {0}")]
    Malformed(#[from] EntryError),
}

impl Reserved {
    /// Reads what stands in a state.
    pub(crate) fn read(keyed: &Keyed, config: SectionId) -> Result<Self, ReservedError> {
        let mut reserved = Self::default();
        if let Some(bytes) = keyed.get(config, MEMBERSHIP_KEY)? {
            reserved.membership = decode_membership(bytes)?;
        }
        if let Some(bytes) = keyed.get(config, TIME_KEY)? {
            reserved.time = LogTime(decode_fields::<1>(&bytes)?[0]);
        }
        for (key, bytes) in keyed.scan(config, LEASE_PREFIX, LEASES_MAX)? {
            if !key.starts_with(LEASE_PREFIX) {
                break;
            }
            let lease = decode_lease(&bytes)?;
            reserved.leases.insert(lease.holder, lease);
        }
        Ok(reserved)
    }

    /// Writes membership and time; leases are written when they change.
    pub(crate) fn write(&self, config: SectionId, state: &mut Transaction<'_>) -> Result<(), ReadError> {
        put_membership(&self.membership, config, state)?;
        state.put(config, TIME_KEY, self.time.0.to_le_bytes().to_vec())?;
        Ok(())
    }

    /// Whether a lease may take the place of the one that its holder has: an older version is fenced.
    pub(crate) fn admits(&self, lease: &Lease) -> bool {
        match self.leases.get(&lease.holder) {
            Some(held) => lease.version >= held.version,
            None => self.leases.len() < LEASES_MAX,
        }
    }

    /// Takes up a lease that is admitted, or takes away one that was given back.
    pub(crate) fn set_lease(&mut self, lease: Lease) {
        if lease.until > lease.time {
            self.leases.insert(lease.holder, lease);
        } else {
            self.leases.remove(&lease.holder);
        }
    }

    /// Takes away the leases that have ended by the log's time; says whose they were.
    pub(crate) fn end_leases(&mut self) -> Vec<MemberId> {
        let time = self.time;
        let ended: Vec<MemberId> =
            self.leases.values().filter(|lease| lease.until <= time).map(|lease| lease.holder).collect();
        self.leases.retain(|_, lease| lease.until > time);
        ended
    }

    /// The first index that a lease, which has not ended, still needs.
    pub(crate) fn keep_from(&self) -> Option<u64> {
        self.leases.values().filter(|lease| lease.until > self.time).map(|lease| lease.keep_from).min()
    }
}

pub(crate) fn put_membership(
    membership: &StoredMembership,
    config: SectionId,
    state: &mut Transaction<'_>,
) -> Result<(), ReadError> {
    let mut out = Vec::new();
    let position = membership.log_id().map(position_of).unwrap_or_default();
    out.put_u64_le(position.epoch);
    out.put_u64_le(position.index);
    entry::put_membership(&mut out, membership.membership());
    state.put(config, MEMBERSHIP_KEY, out)?;
    Ok(())
}

/// Writes a lease, or takes away one that was given back.
pub(crate) fn put_lease(lease: &Lease, config: SectionId, state: &mut Transaction<'_>) -> Result<(), ReadError> {
    if lease.until <= lease.time {
        return remove_lease(lease.holder, config, state);
    }
    let fields = [lease.holder, lease.version, lease.keep_from, lease.until.0, lease.time.0];
    let value: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    Ok(state.put(config, lease_key(lease.holder), value)?)
}

pub(crate) fn remove_lease(holder: MemberId, config: SectionId, state: &mut Transaction<'_>) -> Result<(), ReadError> {
    Ok(state.delete(config, lease_key(holder))?)
}

fn lease_key(holder: MemberId) -> Vec<u8> {
    [LEASE_PREFIX, &holder.to_be_bytes()].concat()
}

fn decode_membership(mut bytes: Bytes) -> Result<StoredMembership, EntryError> {
    if bytes.len() < 16 {
        return Err(EntryError::Malformed("a membership that ends early"));
    }
    let position = Position { epoch: bytes.get_u64_le(), index: bytes.get_u64_le() };
    Ok(StoredMembership::new(log_id_of(position), entry::decode_membership(&mut bytes)?))
}

fn decode_lease(bytes: &Bytes) -> Result<Lease, EntryError> {
    let [holder, version, keep_from, until, time] = decode_fields(bytes)?;
    Ok(Lease { holder, version, keep_from, until: LogTime(until), time: LogTime(time) })
}

fn decode_fields<const COUNT: usize>(bytes: &Bytes) -> Result<[u64; COUNT], EntryError> {
    if bytes.len() != COUNT * 8 {
        return Err(EntryError::Malformed("a record of another length"));
    }
    let mut rest = bytes.clone();
    Ok([(); COUNT].map(|()| rest.get_u64_le()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_gone_once_the_log_is_past_its_end() {
        let lease =
            |holder, until| Lease { holder, version: 1, keep_from: 10, until: LogTime(until), time: LogTime(0) };
        let leases = [lease(1, 99), lease(2, 100), lease(3, 101)].map(|lease| (lease.holder, lease));
        let mut reserved = Reserved { time: LogTime(100), leases: leases.into(), ..Reserved::default() };
        assert_eq!(reserved.end_leases(), [1, 2]);
        assert_eq!(reserved.leases.keys().copied().collect::<Vec<_>>(), [3]);
        assert!(reserved.end_leases().is_empty());
    }

    #[test]
    fn where_there_are_as_many_leases_as_may_be_only_their_holders_get_another_one() {
        let lease = |holder, version| Lease { holder, version, keep_from: 10, until: LogTime(100), time: LogTime(0) };
        let mut reserved = Reserved::default();
        let newcomer = LEASES_MAX as u64;
        for holder in 0..newcomer {
            assert!(reserved.admits(&lease(holder, 5)));
            reserved.set_lease(lease(holder, 5));
        }
        assert!(!reserved.admits(&lease(newcomer, 9)));
        assert!(!reserved.admits(&lease(3, 4)), "it was fenced");
        assert!(reserved.admits(&lease(3, 5)), "it is renewed");
        assert!(reserved.admits(&lease(3, 6)));
        // A lease that is given back makes room.
        reserved.set_lease(Lease { until: LogTime(0), ..lease(3, 5) });
        assert!(reserved.admits(&lease(newcomer, 9)));
    }
}
