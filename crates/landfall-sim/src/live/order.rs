//! Owns the total order of records, as an abstract log: who writes, who acknowledged what, what is decided. It is right by construction;
//! the members' own logs are not.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use landfall_core::keyed::Schema;
use landfall_core::snapshot::{LogHash, Position};

use super::deed::Deed;
use super::model::Model;
use crate::checks::{Violation, check};
use crate::network::MemberId;

/// Records that members which vote may lack before they count as stale.
const WINDOW_RECORDS: u64 = 600;
/// Records that may be undecided before writers wait.
pub(super) const UNDECIDED_MAX: u64 = 200;

/// The order, and who decides on it.
#[derive(Debug)]
pub(super) struct Order {
    /// The one with index `n` stands at place `n - 1`.
    placed: Vec<Placed>,
    epoch: u64,
    decided: u64,
    voters: BTreeSet<MemberId>,
    acknowledged: BTreeMap<MemberId, u64>,
}

/// One record of the order.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) position: Position,
    pub(super) bytes: Bytes,
    pub(super) kind: u8,
    pub(super) log_hash: LogHash,
    deed: Deed,
}

impl Order {
    pub(super) fn new(voters: impl IntoIterator<Item = MemberId>) -> Self {
        Self {
            placed: Vec::new(),
            epoch: 1,
            decided: 0,
            voters: voters.into_iter().collect(),
            acknowledged: BTreeMap::new(),
        }
    }

    /// Writes a record behind all others; it is not decided yet.
    pub(super) fn write(&mut self, deed: Deed, schema: &Schema) {
        let position = Position { epoch: self.epoch, index: self.last() + 1 };
        let record = deed.record(position, schema);
        let bytes = record.encode().expect("a short record");
        let log_hash = self.log_hash(self.last()).after(position, &bytes);
        self.placed.push(Placed { position, bytes, kind: record.kind as u8, log_hash, deed });
    }

    /// The right to write changes hands; of what is not decided, only what stands up to `last` stays.
    pub(super) fn begin_epoch(&mut self, last: u64) {
        assert!(last >= self.decided, "what is decided stays");
        self.placed.truncate(last as usize);
        self.acknowledged.values_mut().for_each(|index| *index = last.min(*index));
        self.epoch += 1;
    }

    /// A member says that everything up to an index is durable there.
    pub(super) fn acknowledge(&mut self, member: MemberId, index: u64) -> Result<(), Violation> {
        check(self.voters.contains(&member), || format!("member {member} acknowledged {index} and does not vote"))?;
        let known = self.acknowledged.entry(member).or_default();
        *known = index.max(*known);
        Ok(())
    }

    /// Decides on what most of the voters have, and does it to the model.
    pub(super) fn decide(&mut self, model: &mut Model) {
        let mut have: Vec<u64> =
            self.voters.iter().map(|voter| self.acknowledged.get(voter).copied().unwrap_or_default()).collect();
        have.sort_unstable_by(|a, b| b.cmp(a));
        let Some(&index) = have.get(self.voters.len() / 2) else { return };
        while self.decided < index {
            self.decided += 1;
            let placed = &self.placed[self.decided as usize - 1];
            placed.deed.carry_out_on_model(model, self.decided);
        }
    }

    /// Index of the last record.
    pub(super) fn last(&self) -> u64 {
        self.placed.len() as u64
    }

    /// Index of the last record that is decided.
    pub(super) fn decided(&self) -> u64 {
        self.decided
    }

    /// Position of the last record that is decided.
    pub(super) fn head(&self) -> Position {
        self.position(self.decided)
    }

    /// The first record that members which vote can still get.
    pub(super) fn first(&self) -> u64 {
        self.decided.saturating_sub(WINDOW_RECORDS) + 1
    }

    /// What an acknowledgement of a member reached.
    pub(super) fn acknowledged(&self, member: MemberId) -> u64 {
        self.acknowledged.get(&member).copied().unwrap_or_default()
    }

    pub(super) fn get(&self, index: u64) -> Option<&Placed> {
        self.placed.get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    /// The position with that index; the very first before all records.
    pub(super) fn position(&self, index: u64) -> Position {
        self.get(index).map_or(Position::default(), |placed| placed.position)
    }

    /// The chain after the record with that index.
    pub(super) fn log_hash(&self, index: u64) -> LogHash {
        self.get(index).map_or(LogHash::default(), |placed| placed.log_hash)
    }

    pub(super) fn votes(&self, member: MemberId) -> bool {
        self.voters.contains(&member)
    }

    pub(super) fn voters(&self) -> &BTreeSet<MemberId> {
        &self.voters
    }

    /// A member votes from now on.
    pub(super) fn promote(&mut self, member: MemberId) {
        self.voters.insert(member);
    }

    /// A member votes no longer.
    pub(super) fn demote(&mut self, member: MemberId) {
        self.voters.remove(&member);
        self.acknowledged.remove(&member);
    }
}
