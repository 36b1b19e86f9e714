//! Owns when the leader asks everybody to seal, and when a member that cannot seal moves on: from what a seal costs and what changes take, never from a timer.
//!
//! A seal makes every node anew that has a change below it: a leaf that holds a hundred entries is read, merged and hashed for one of them.
//! The more changes it merges at once, the less it does, and writes, for each; what stands against waiting is memory, and the log that a
//! restart or a joiner has to apply (`docs/design/0018-how-much-waits-unsealed.md`). It holds no clock and seals nothing.

use landfall::core::snapshot::Position;

/// A seal below this many changed bytes is not worth its syncs.
const CHANGED_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Changes that wait in memory never grow beyond this without a mark. A joiner applies all that are not sealed before it reads what is new.
const CHANGED_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// A restart never replays much more log than this, however few keys it is about.
const LOG_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of nodes that a seal may make anew for each byte of memory that changes take; above, the next one waits longer. Each costs some
/// nanoseconds of a processor, so that a change, of about 300 bytes, pays a few microseconds for its seal: no more than for its way into the log.
const NODES_PER_CHANGED_AIM: f64 = 2.0;

/// Changes that a member which cannot seal yet keeps in memory before it moves on to a newer snapshot, with what it holds carried over: as many
/// as the others may not have sealed when it began, and more than as many again while it fills. With fewer it would move on before it is whole
/// wherever it joined just before a mark, and fetch again what changed. Half a round less than three, so that the third mark reaches it also where
/// keys are written twice, which count once.
const FILLING_BYTES_MAX: u64 = CHANGED_BYTES_MAX / 2 * 5;
/// At this it moves on whether or not it can carry anything over: between the two, the others make their seals of the mark to which it carries.
const FILLING_BYTES_MOST: u64 = 4 * CHANGED_BYTES_MAX;

/// Whether a member that does not hold all of its snapshot moves on to a newer one for the memory that its changes take. `has_carried`: what it
/// holds is carried over to that one's position, or nothing more will be.
pub(crate) fn moves_on(overlay_bytes: u64, has_carried: bool) -> bool {
    overlay_bytes >= if has_carried { FILLING_BYTES_MAX } else { FILLING_BYTES_MOST }
}

/// Why a member that does not hold all of its snapshot moves on to a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RebaseCause {
    /// Nobody gives what the next entry of its log reads.
    Starved,
    /// The changes that it cannot seal take too much memory.
    Memory,
}

/// Why a member that stands at `stands` and does not hold all of its snapshot moves on to a newer one, if it does. `starved_at`: where it stood
/// when nobody gave what its log reads, which may have come since.
pub(crate) fn rebase_cause(
    starved_at: Option<Position>,
    stands: Position,
    overlay_bytes: u64,
    has_carried: bool,
) -> Option<RebaseCause> {
    if starved_at == Some(stands) {
        return Some(RebaseCause::Starved);
    }
    moves_on(overlay_bytes, has_carried).then_some(RebaseCause::Memory)
}

/// Decides when a mark is due. Feed it what seals cost here.
#[derive(Debug, Clone)]
pub(crate) struct Cadence {
    changed_bytes: u64,
}

/// What a seal cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SealCost {
    /// Bytes of memory that the changes took which it merged.
    pub(crate) changed_bytes: u64,
    /// Bytes of the nodes that it made.
    pub(crate) node_bytes: u64,
}

impl Cadence {
    pub(crate) fn new() -> Self {
        Self { changed_bytes: 4 * CHANGED_BYTES_MIN }
    }

    /// Whether these many changed bytes, or so much log since the last mark, are enough for a mark.
    pub(crate) fn is_due(&self, overlay_bytes: u64, log_bytes: u64) -> bool {
        overlay_bytes >= self.changed_bytes || log_bytes >= LOG_BYTES_MAX
    }

    /// Learns from a seal. One that cost much asks for as many changes the next time as would have been worth it; a cheap one lets memory and
    /// replay shrink.
    pub(crate) fn handle_seal(&mut self, cost: SealCost) {
        if cost.changed_bytes == 0 {
            return;
        }
        let ratio = cost.node_bytes as f64 / cost.changed_bytes as f64;
        // More changes make no fewer nodes: after a costly seal, fewer than these cannot be worth the next one, and there is nothing to wait for.
        // A cheap one may have been an odd one, so that it takes back half at most.
        let factor = (ratio / NODES_PER_CHANGED_AIM).max(0.5);
        let wanted = (self.changed_bytes as f64 * factor) as u64;
        self.changed_bytes = wanted.clamp(CHANGED_BYTES_MIN, CHANGED_BYTES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seals: usize, nodes_per_changed: u64) -> u64 {
        let mut cadence = Cadence::new();
        for _ in 0..seals {
            let changed_bytes = cadence.changed_bytes;
            cadence.handle_seal(SealCost { changed_bytes, node_bytes: changed_bytes * nodes_per_changed });
        }
        cadence.changed_bytes
    }

    #[test]
    fn a_member_waits_with_its_changes_for_what_it_carries_over_but_not_for_ever() {
        for (overlay_bytes, expected) in [(FILLING_BYTES_MAX - 1, [false, false]), (FILLING_BYTES_MAX, [false, true])] {
            assert_eq!([false, true].map(|has_carried| moves_on(overlay_bytes, has_carried)), expected);
        }
        assert!(moves_on(FILLING_BYTES_MOST, false));
    }

    #[track_caller]
    fn check_rebase(starved_at: Option<u64>, overlay_bytes: u64, has_carried: bool, expected: Option<RebaseCause>) {
        let at = |index| Position { epoch: 1, index };
        assert_eq!(rebase_cause(starved_at.map(at), at(9), overlay_bytes, has_carried), expected);
    }

    #[test]
    fn a_member_moves_on_where_its_log_cannot_go_on_or_its_memory_would_not_last() {
        check_rebase(None, FILLING_BYTES_MAX - 1, true, None);
        check_rebase(Some(9), 0, false, Some(RebaseCause::Starved));
        check_rebase(None, FILLING_BYTES_MAX, false, None);
        check_rebase(None, FILLING_BYTES_MAX, true, Some(RebaseCause::Memory));
        check_rebase(None, FILLING_BYTES_MOST, false, Some(RebaseCause::Memory));
    }

    #[test]
    fn a_member_whose_log_went_on_since_it_was_starved_stays_where_it_is() {
        check_rebase(Some(8), FILLING_BYTES_MAX - 1, true, None);
        check_rebase(Some(8), FILLING_BYTES_MAX, true, Some(RebaseCause::Memory));
    }

    /// What `written` changes of keys that are drawn from all take.
    fn overlay_bytes(keys: f64, written: f64) -> f64 {
        const ENTRY_BYTES: f64 = 288.0;
        keys * (1.0 - (-written / keys).exp()) * ENTRY_BYTES
    }

    #[test]
    fn where_a_member_begins_to_carry_over_the_others_have_time_to_seal() {
        for keys in [2e6, 3e6, 1e7, 1.6e7, 1e8, 1e9] {
            let most = overlay_bytes(keys, f64::INFINITY);
            let written_between_marks = -keys * (1.0 - CHANGED_BYTES_MAX as f64 / most).ln();
            let at_mark = |mark: u32| overlay_bytes(keys, f64::from(mark) * written_between_marks) as u64;
            let carries_at = (1..).map(at_mark).find(|overlay_bytes| moves_on(*overlay_bytes, true)).unwrap();
            assert!(carries_at + CHANGED_BYTES_MAX / 2 <= FILLING_BYTES_MOST, "{keys} keys: {carries_at}");
        }
    }

    #[test]
    fn a_costly_seal_is_followed_by_one_that_is_worth_it_or_by_one_at_the_limit_of_memory() {
        assert!(after(1, 10) > after(0, 10));
        assert_eq!(after(20, 10), CHANGED_BYTES_MAX);
        assert_eq!(after(1, 6), 3 * after(0, 6));
        assert_eq!(after(1, 30), CHANGED_BYTES_MAX);
        assert_eq!(after(20, 30), CHANGED_BYTES_MAX);
    }

    #[test]
    fn one_cheap_seal_among_costly_ones_takes_back_no_more_than_half() {
        let mut cadence = Cadence::new();
        cadence.changed_bytes = CHANGED_BYTES_MAX;
        cadence.handle_seal(SealCost { changed_bytes: CHANGED_BYTES_MAX, node_bytes: 0 });
        assert_eq!(cadence.changed_bytes, CHANGED_BYTES_MAX / 2);
    }

    #[test]
    fn cheap_seals_come_early_but_not_for_a_few_bytes() {
        assert!(after(1, 1) < after(0, 1));
        assert_eq!(after(20, 0), CHANGED_BYTES_MIN);
    }

    #[test]
    fn a_seal_at_the_aim_changes_nothing() {
        assert_eq!(after(10, 2), after(0, 2));
    }

    #[test]
    fn a_seal_of_nothing_teaches_nothing() {
        let mut cadence = Cadence::new();
        cadence.handle_seal(SealCost { changed_bytes: 0, node_bytes: 1_000 });
        assert_eq!(cadence.changed_bytes, Cadence::new().changed_bytes);
        assert!(!cadence.is_due(0, 0));
    }

    #[test]
    fn a_few_keys_that_change_for_ever_are_sealed_all_the_same() {
        assert!(!Cadence::new().is_due(100, LOG_BYTES_MAX - 1));
        assert!(Cadence::new().is_due(100, LOG_BYTES_MAX));
    }
}
