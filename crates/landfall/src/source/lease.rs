//! Owns the leases of one state: which snapshots a transfer still needs. A lease expires unless it is renewed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use landfall_core::wire::Lease;
use landfall_core::{ChunkId, Time};

/// How long a lease lasts from its last renewal.
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(60);
/// Transfers of one state at a time.
const LEASES_MAX: usize = 1024;

#[derive(Default)]
pub(crate) struct Leases {
    granted: Mutex<Granted>,
}

#[derive(Default)]
struct Granted {
    last: u64,
    live: BTreeMap<u64, LiveLease>,
}

struct LiveLease {
    snapshot: ChunkId,
    expires: Time,
}

impl Leases {
    /// Grants a lease on a snapshot; nothing if there are too many.
    pub(crate) fn grant(&self, snapshot: ChunkId, now: Time) -> Option<Lease> {
        let mut granted = self.lock();
        granted.live.retain(|_, lease| lease.expires > now);
        if granted.live.len() >= LEASES_MAX {
            return None;
        }
        granted.last += 1;
        let id = granted.last;
        granted.live.insert(id, LiveLease { snapshot, expires: now + LEASE_DURATION });
        Some(described(id))
    }

    /// Keeps a lease alive; nothing if it has expired, and its holder must ask anew.
    pub(crate) fn renew(&self, id: u64, now: Time) -> Option<Lease> {
        let mut granted = self.lock();
        let lease = granted.live.get_mut(&id).filter(|lease| lease.expires > now)?;
        lease.expires = now + LEASE_DURATION;
        Some(described(id))
    }

    /// Ends a lease: its transfer is over.
    pub(crate) fn end(&self, id: u64) {
        self.lock().live.remove(&id);
    }

    /// Does a live lease need the snapshot?
    pub(crate) fn hold(&self, snapshot: ChunkId, now: Time) -> bool {
        self.lock().live.values().any(|lease| lease.snapshot == snapshot && lease.expires > now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Granted> {
        self.granted.lock().expect("no panic under the lock")
    }
}

fn described(id: u64) -> Lease {
    Lease { id, version: id, duration_ms: LEASE_DURATION.as_millis() as u64 }
}

#[cfg(test)]
mod tests {
    use landfall_core::Domain;

    use super::*;

    #[test]
    fn a_lease_holds_its_snapshot_until_it_expires() {
        let leases = Leases::default();
        let snapshot = ChunkId::of(Domain::Manifest, b"s");
        let lease = leases.grant(snapshot, Time::ZERO).unwrap();
        let before = Time::ZERO + LEASE_DURATION / 2;
        assert!(leases.hold(snapshot, before));
        assert!(leases.renew(lease.id, before).is_some());
        let renewed = Time::ZERO + LEASE_DURATION + LEASE_DURATION / 4;
        assert!(leases.hold(snapshot, renewed));
        let expired = before + LEASE_DURATION;
        assert!(!leases.hold(snapshot, expired));
        assert_eq!(leases.renew(lease.id, expired), None, "an expired lease is not revived: its chunks may be gone");
    }

    #[test]
    fn there_is_a_limit_and_expired_leases_do_not_count() {
        let leases = Leases::default();
        let snapshot = ChunkId::of(Domain::Manifest, b"s");
        for _ in 0..LEASES_MAX {
            assert!(leases.grant(snapshot, Time::ZERO).is_some());
        }
        assert_eq!(leases.grant(snapshot, Time::ZERO), None);
        assert!(leases.grant(snapshot, Time::ZERO + LEASE_DURATION).is_some());
    }

    #[test]
    fn an_ended_lease_holds_nothing() {
        let leases = Leases::default();
        let snapshot = ChunkId::of(Domain::Manifest, b"s");
        let lease = leases.grant(snapshot, Time::ZERO).unwrap();
        leases.end(lease.id);
        assert!(!leases.hold(snapshot, Time::ZERO));
    }
}
