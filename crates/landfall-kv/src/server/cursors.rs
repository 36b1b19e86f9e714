//! Owns how far each walk through the keys has come. Clients know a walk by a number, as Redis' clients expect; here a
//! walk is the key at which it goes on, so that it misses no key that is there all the while.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::limits::CURSORS_MAX;

/// Walks that are under way.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    /// In the order of their numbers.
    walks: Mutex<Walks>,
}

#[derive(Debug, Default)]
struct Walks {
    last: u64,
    places: VecDeque<(u64, Bytes)>,
}

impl Cursors {
    /// Notes where a walk goes on; answers its number, which is never zero.
    pub(super) fn note(&self, place: Bytes) -> u64 {
        let mut walks = self.walks.lock().unwrap_or_else(PoisonError::into_inner);
        walks.last += 1;
        let number = walks.last;
        walks.places.push_back((number, place));
        if walks.places.len() > CURSORS_MAX {
            walks.places.pop_front();
        }
        number
    }

    /// Where a walk goes on. It stays known: the answer may be lost, and the client ask again.
    pub(super) fn place(&self, number: u64) -> Option<Bytes> {
        let walks = self.walks.lock().unwrap_or_else(PoisonError::into_inner);
        let at = walks.places.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(walks.places[at].1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_known_until_too_many_others_began() {
        let cursors = Cursors::default();
        let first = cursors.note(Bytes::from_static(b"k"));
        assert_ne!(first, 0);
        assert_eq!(cursors.place(first), Some(Bytes::from_static(b"k")));
        assert_eq!(cursors.place(first + 1), None);
        for _ in 0..CURSORS_MAX {
            cursors.note(Bytes::new());
        }
        assert_eq!(cursors.place(first), None);
    }
}
