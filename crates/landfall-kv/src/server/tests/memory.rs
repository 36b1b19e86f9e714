//! A replica that is one map in memory: it applies at once, and counts what it is asked for.

use std::future::{Future, ready};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;
use serde_json::{Value, json};

use crate::keyspace::{self, Clock, Lookup, MemoryState, Section, Step};
use crate::replica::{Replica, Role, Standing, Unavailable, Waiting};
use crate::reply::Reply;

#[derive(Debug)]
pub(super) struct MemoryReplica {
    state: Mutex<MemoryState>,
    time_ms: AtomicU64,
    proposals: AtomicU64,
    barriers: AtomicU64,
    /// Bytes that the longest answer to a scan had.
    longest_scan: AtomicUsize,
    refusal: Mutex<Option<Unavailable>>,
    distrust: Mutex<Option<Unavailable>>,
}

impl Default for MemoryReplica {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            time_ms: AtomicU64::new(1_700_000_000_000),
            proposals: AtomicU64::new(0),
            barriers: AtomicU64::new(0),
            longest_scan: AtomicUsize::new(0),
            refusal: Mutex::default(),
            distrust: Mutex::default(),
        }
    }
}

impl MemoryReplica {
    pub(super) fn pass(&self, pause_ms: u64) {
        self.time_ms.fetch_add(pause_ms, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self, unavailable: Unavailable) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(unavailable);
    }

    /// Its state is not what the others have.
    pub(super) fn distrust(&self, unavailable: Unavailable) {
        *self.distrust.lock().unwrap_or_else(PoisonError::into_inner) = Some(unavailable);
    }

    pub(super) fn proposals(&self) -> u64 {
        self.proposals.load(Ordering::Relaxed)
    }

    pub(super) fn barriers(&self) -> u64 {
        self.barriers.load(Ordering::Relaxed)
    }

    pub(super) fn longest_scan(&self) -> usize {
        self.longest_scan.load(Ordering::Relaxed)
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut MemoryState) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn check(&self) -> Result<(), Unavailable> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    fn apply(&self, steps: &[Step]) -> Vec<Reply> {
        let time_ms = self.time_ms.load(Ordering::Relaxed);
        let apply = |state: &mut MemoryState, step| {
            keyspace::apply(time_ms, step, state).unwrap_or_else(|never| match never {})
        };
        self.with(|state| steps.iter().map(|step| apply(state, step)).collect())
    }
}

impl Lookup for MemoryReplica {
    type Error = Unavailable;

    fn get(&self, section: Section, key: &[u8]) -> Result<Option<Bytes>, Unavailable> {
        self.with(|state| state.get(section, key)).map_err(|never| match never {})
    }

    fn scan(&self, section: Section, from: &[u8], entries_max: usize) -> Result<Vec<(Bytes, Bytes)>, Unavailable> {
        let found = self.with(|state| state.scan(section, from, entries_max)).unwrap_or_else(|never| match never {});
        let bytes = found.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.longest_scan.fetch_max(bytes, Ordering::Relaxed);
        Ok(found)
    }
}

impl Replica for MemoryReplica {
    fn propose(&self, steps: Vec<Step>) -> impl Future<Output = Result<Vec<Reply>, Unavailable>> + Send {
        self.proposals.fetch_add(1, Ordering::Relaxed);
        ready(self.check().map(|()| self.apply(&steps)))
    }

    fn barrier(&self) -> impl Future<Output = Result<(), Unavailable>> + Send {
        self.barriers.fetch_add(1, Ordering::Relaxed);
        ready(self.check())
    }

    fn check_soundness(&self) -> Result<(), Unavailable> {
        self.distrust.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    fn log_time_ms(&self) -> u64 {
        self.time_ms.load(Ordering::Relaxed)
    }

    fn clock(&self) -> Clock {
        Clock::log(self.log_time_ms())
    }

    fn may_wait(&self) -> Waiting {
        Waiting::Never
    }

    fn standing(&self) -> Standing {
        Standing { role: Role::Leader, leader: Some("127.0.0.1:1".into()) }
    }

    fn status(&self) -> impl Future<Output = Value> + Send {
        ready(json!({ "id": 1 }))
    }

    fn audit(&self) -> impl Future<Output = Result<Value, Unavailable>> + Send {
        ready(Ok(json!([])))
    }

    fn remove(&self, member: u64) -> impl Future<Output = Result<(), Unavailable>> + Send {
        ready(if member == 1 { Err(Unavailable::Refused("member 1 leads".into())) } else { Ok(()) })
    }
}

/// The cursor and the keys of an answer to `SCAN`.
pub(super) fn scanned(output: &Bytes) -> (Bytes, Vec<Bytes>) {
    let (frame, _) = decode_bytes(output).unwrap().unwrap();
    let BytesFrame::Array(parts) = frame else { panic!("{frame:?}") };
    let [BytesFrame::BulkString(cursor), BytesFrame::Array(keys)] = &parts[..] else { panic!("{parts:?}") };
    let key = |frame: &BytesFrame| match frame {
        BytesFrame::BulkString(key) => key.clone(),
        other => panic!("{other:?}"),
    };
    (cursor.clone(), keys.iter().map(key).collect())
}
