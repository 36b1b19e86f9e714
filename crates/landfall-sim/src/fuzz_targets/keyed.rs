//! Owns the targets of keyed states: batches and records have one encoding, and a join comes to an end whatever it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use landfall_core::join::{
    Command, Failure, HookOutcome, Join, LeaseVersion, Milestone, Part, RebaseCause, Snapshot, Tally,
};
use landfall_core::keyed::{Applied, Batch, KeyedState, MemoryChunks, Op, Record, RecordKind, Schema, SectionId};
use landfall_core::snapshot::Position;
use landfall_core::tree::Salt;
use landfall_core::{ChunkId, Domain, Time};

use crate::live::{schema, state_name};
use crate::random::Random;

/// The payload of a record. What decodes has exactly one encoding, and a state takes it as a map would.
pub fn keyed_batch(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let schema = schema();
    let Ok(batch) = Batch::decode(&bytes, &schema) else { return };
    assert_eq!(batch.encode(&schema), Ok(bytes));
    let salts = vec![Salt::PUBLIC; schema.sections().len()];
    let mut state = KeyedState::empty(state_name(), schema.clone(), &salts);
    assert_eq!(state.commit(position(1), b"record", &batch), Applied::Now);
    assert_eq!(state.commit(position(1), b"record", &batch), Applied::Already);
    let mut model: BTreeMap<(SectionId, Bytes), Bytes> = BTreeMap::new();
    for (section, op) in batch.ops() {
        match op {
            Op::Put { key, value } => drop(model.insert((*section, key.clone()), value.clone())),
            Op::Delete { key } => drop(model.remove(&(*section, key.clone()))),
            Op::Clear => model.retain(|(other, _), _| other != section),
        }
    }
    let here = MemoryChunks::default();
    let scan = |section| state.scan(&here, section, &[], usize::MAX).expect("all of it is in memory");
    let found =
        schema.ids().flat_map(|section| scan(section).into_iter().map(move |(key, value)| ((section, key), value)));
    assert!(found.eq(model));
}

/// A record. What decodes has exactly one encoding, and links the chain.
pub fn keyed_record(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let Ok(record) = Record::decode(&bytes) else { return };
    assert_eq!(record.encode().as_ref(), Ok(&bytes));
    let before = Default::default();
    assert_ne!(record.link(before), Ok(before));
}

/// A sequence of facts, two bytes each. Then whoever is asked obeys, and the join must come to an end.
pub fn join_events(bytes: &[u8]) {
    let told = Play::new().run(bytes);
    assert_eq!(told, Play::new().run(bytes), "the same facts, other commands");
}

struct Play {
    join: Join,
    now: Time,
    /// What it was told to do and has not done.
    todo: Vec<Command>,
    told: Vec<String>,
}

impl Play {
    fn new() -> Self {
        let join = Join::new(2, Time::ZERO);
        Self { join, now: Time::ZERO, todo: Vec::new(), told: Vec::new() }
    }

    fn run(mut self, bytes: &[u8]) -> Vec<String> {
        for fact in bytes.chunks_exact(2) {
            self.happen(fact[0], fact[1]);
            self.take_commands();
            self.check();
        }
        self.come_to_an_end();
        self.told
    }

    fn happen(&mut self, kind: u8, detail: u8) {
        let (join, now, number) = (&mut self.join, self.now, u64::from(detail % 8) + 1);
        match kind % 18 {
            0 => join.handle_offer(snapshot(number), LeaseVersion(number), now),
            1 => join.handle_lease(LeaseVersion(number)),
            2 => join.handle_here(part(detail), snapshot(u64::from(detail / 4 % 8) + 1).id, now),
            3 => join.handle_log_attached(position(number), now),
            4 => join.handle_log_lost(),
            5 => join.handle_applied(position(number), position(u64::from(detail / 8)), now),
            6 => join.handle_newer_snapshot(snapshot(number), cause(detail), now),
            7 => join.handle_rebased(snapshot(number).id, now),
            8 => join.handle_rebase_failed(snapshot(number).id, now),
            9 => {
                let (equal, different) = (u32::from(detail / 8 % 4), u32::from(detail / 32));
                let most = detail.is_multiple_of(2).then(|| snapshot(number));
                join.handle_audit(Tally { position: position(number), equal, different, most }, now);
            }
            10 => join.handle_hook(LeaseVersion(number), HookOutcome::Failed, now),
            11 => {
                self.now = now + Duration::from_millis(u64::from(detail) * 20);
                join.handle_timeout(self.now);
            }
            12 if detail > 250 => join.handle_failed(Failure::NoSources),
            _ => self.obey(usize::from(detail)),
        }
    }

    /// Does one of the things that it was told to do, as a world would in which things go well.
    fn obey(&mut self, choice: usize) {
        let Some(at) = choice.checked_rem(self.todo.len()) else { return };
        let (join, now) = (&mut self.join, self.now);
        match self.todo.remove(at) {
            Command::AttachLog { after } => join.handle_log_attached(after, now),
            Command::FetchVital { of } => join.handle_here(Part::Vital, of, now),
            Command::FetchUpper { of } => join.handle_here(Part::Upper, of, now),
            Command::FetchHot { of } => join.handle_here(Part::Hot, of, now),
            Command::FetchRest { of } => join.handle_here(Part::Rest, of, now),
            Command::AskNewer { than } => {
                join.handle_newer_snapshot(snapshot(than.index + 1), RebaseCause::LogGap, now);
            }
            Command::Rebase { onto, .. } => join.handle_rebased(onto.id, now),
            Command::Audit { position } => {
                let most = Some(snapshot(position.index));
                join.handle_audit(Tally { position, equal: 2, different: 1, most }, now);
            }
            Command::RunCommitHook { lease } => join.handle_hook(lease, HookOutcome::Done, now),
            Command::ReportDifference { .. } | Command::RollBack { .. } => {}
        }
    }

    fn take_commands(&mut self) {
        while let Some(command) = self.join.poll_command() {
            self.told.push(command.to_string());
            self.todo.push(command);
        }
    }

    fn check(&self) {
        let reached = |milestone| self.join.reached(milestone).is_some();
        let all_before = |last: usize| Milestone::ALL[..last].iter().all(|&milestone| reached(milestone));
        assert!(!reached(Milestone::Viable) || all_before(2), "{:?}", self.join);
        assert!(!reached(Milestone::Verified) || all_before(6), "{:?}", self.join);
        assert!(!reached(Milestone::Promoted) || all_before(7), "{:?}", self.join);
        assert!(!reached(Milestone::Promoted) || self.join.rolled_back().is_none(), "{:?}", self.join);
    }

    fn is_over(&self) -> bool {
        self.join.rolled_back().is_some() || self.join.reached(Milestone::Promoted).is_some()
    }

    /// From now on everything that is asked for is done, and the log is applied.
    fn come_to_an_end(&mut self) {
        self.join.handle_offer(snapshot(1), LeaseVersion(1), self.now);
        for _ in 0..ROUNDS_MAX {
            self.take_commands();
            self.check();
            if self.is_over() {
                return;
            }
            self.now = self.now + Duration::from_millis(100);
            self.obey(0);
            let head = position(HEAD);
            self.join.handle_applied(head, head, self.now);
            self.join.handle_timeout(self.now);
        }
        panic!("it does not come to an end: {:?}", self.join);
    }
}

fn position(index: u64) -> Position {
    Position { epoch: 1, index }
}

fn snapshot(index: u64) -> Snapshot {
    Snapshot { id: ChunkId::of(Domain::Manifest, &index.to_le_bytes()), position: position(index) }
}

fn part(detail: u8) -> Part {
    [Part::Vital, Part::Upper, Part::Hot, Part::Rest][usize::from(detail % 4)]
}

fn cause(detail: u8) -> RebaseCause {
    [RebaseCause::Mark, RebaseCause::LogCap, RebaseCause::Gone, RebaseCause::OverlayCap][usize::from(detail / 8 % 4)]
}

pub(super) fn valid_batch(random: &mut Random) -> Vec<u8> {
    batch(random).encode(&schema()).expect("a short batch").to_vec()
}

fn batch(random: &mut Random) -> Batch {
    let schema: std::sync::Arc<Schema> = schema();
    let mut batch = Batch::default();
    for _ in 0..random.below(12) {
        let section = SectionId(random.below(3) as u16);
        let key = Bytes::from(format!("key/{}", random.below(6)));
        let length = random.below(60) as usize;
        let op = match random.below(8) {
            0 => Op::Clear,
            1 | 2 => Op::Delete { key },
            _ => Op::Put { key, value: random.text(length).into() },
        };
        batch.push(&schema, section, op).expect("within every limit");
    }
    batch
}

pub(super) fn valid_record(random: &mut Random) -> Vec<u8> {
    let kinds = [RecordKind::Batch, RecordKind::Mark, RecordKind::Lease, RecordKind::Rollback, RecordKind::Command];
    let kind = kinds[random.below(5) as usize];
    let length = random.below(100) as usize;
    let payload = if kind == RecordKind::Batch { valid_batch(random).into() } else { random.bytes(length).into() };
    let position = Position { epoch: random.below(9), index: random.number() };
    Record { position, kind, payload }.encode().expect("a short record").to_vec()
}

/// The head of the log when everything goes well.
const HEAD: u64 = 100;
/// More rounds than any join needs.
const ROUNDS_MAX: usize = 2000;
