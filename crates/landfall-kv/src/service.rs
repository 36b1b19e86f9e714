//! Owns the service that raft replicates: which sections there are, and how a list of steps changes them.

use std::cell::RefCell;

use bytes::Bytes;
use landfall_raft::landfall::core::keyed::{Missing, ReadError, SectionId, SectionSchema, Transaction};
use landfall_raft::landfall::core::snapshot::{KeyRange, SectionPriority, StateName};
use landfall_raft::{LogTime, Service};

use crate::keyspace::{Change, Lookup, Section, Step, apply};
use crate::reply::Reply;

/// The key-value service.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyValues;

impl Service for KeyValues {
    type Command = Vec<Step>;
    type Reply = Vec<Reply>;

    fn sections(&self) -> Vec<SectionSchema> {
        let section = |&(name, priority): &(&str, SectionPriority)| SectionSchema {
            name: StateName::new(name).expect("the names below are legal"),
            priority,
            range: KeyRange::default(),
        };
        SECTIONS.iter().map(section).collect()
    }

    /// Steps are independent: one that is refused answers so and the next goes on. All that any of them misses is asked
    /// for at once.
    fn apply(&self, time: LogTime, steps: &Vec<Step>, state: &mut Transaction<'_>) -> Result<Vec<Reply>, ReadError> {
        let mut state = Tried(RefCell::new(state));
        let mut replies = Vec::with_capacity(steps.len());
        let mut missing = Missing::default();
        for step in steps {
            match apply(time.0, step, &mut state) {
                Ok(reply) => replies.push(reply),
                Err(ReadError::Missing(more)) => missing.absorb(more),
                Err(error) => return Err(error),
            }
        }
        if missing.is_empty() { Ok(replies) } else { Err(ReadError::Missing(missing)) }
    }

    fn reply_bytes(&self, replies: &Vec<Reply>) -> usize {
        replies.iter().map(Reply::bytes_max).sum()
    }
}

/// Ordered by name: the place of each is its id. `config` is the cluster's own.
const SECTIONS: [(&str, SectionPriority); 4] = [
    ("cache", SectionPriority::Cache),
    ("config", SectionPriority::Vital),
    ("data", SectionPriority::Bulk),
    ("inflight", SectionPriority::Vital),
];

/// The id of a section in the state.
pub(crate) fn id(section: Section) -> SectionId {
    SectionId(match section {
        Section::Cache => 0,
        Section::Data => 2,
        Section::Inflight => 3,
    })
}

/// A transaction as the keyspace sees it. Its reads note what failed, so they change it.
struct Tried<'a, 'b>(RefCell<&'a mut Transaction<'b>>);

impl Lookup for Tried<'_, '_> {
    type Error = ReadError;

    fn get(&self, section: Section, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.0.borrow_mut().get(id(section), key)
    }

    fn scan(&self, section: Section, from: &[u8], entries_max: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.0.borrow_mut().scan(id(section), from, entries_max)
    }
}

impl Change for Tried<'_, '_> {
    fn put(&mut self, section: Section, key: Bytes, value: Bytes) -> Result<(), ReadError> {
        Ok(self.0.get_mut().put(id(section), key, value)?)
    }

    fn delete(&mut self, section: Section, key: Bytes) -> Result<(), ReadError> {
        Ok(self.0.get_mut().delete(id(section), key)?)
    }

    fn clear(&mut self, section: Section) -> Result<(), ReadError> {
        self.0.get_mut().clear(id(section));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use landfall_raft::landfall::core::keyed::{KeyedState, MemoryChunks, Schema, Step as SealStep};
    use landfall_raft::landfall::core::snapshot::Position;
    use landfall_raft::landfall::core::tree::Salt;
    use proptest::prelude::*;

    use super::*;
    use crate::keyspace::MemoryState;
    use crate::keyspace::tests::{START_MS, step};

    #[test]
    fn sections_stand_where_their_ids_say() {
        let names: Vec<_> = KeyValues.sections().iter().map(|section| section.name.as_str().to_owned()).collect();
        assert!(names.is_sorted(), "ids follow the order of the names");
        for (section, name) in [(Section::Cache, "cache"), (Section::Data, "data"), (Section::Inflight, "inflight")] {
            assert_eq!(names[usize::from(id(section).0)], name);
        }
    }

    /// A keyed state in memory that seals now and then.
    struct Sealed {
        state: KeyedState,
        chunks: MemoryChunks,
    }

    impl Sealed {
        fn born() -> Self {
            let schema = Arc::new(Schema::new(KeyValues.sections()).unwrap());
            let salts = [1, 2, 3, 4].map(|byte| Salt([byte; 16]));
            let state = KeyedState::empty(StateName::new("kv").unwrap(), schema, &salts);
            Self { state, chunks: MemoryChunks::default() }
        }

        fn apply(&mut self, time_ms: u64, steps: &Vec<Step>) -> Vec<Reply> {
            let mut transaction = self.state.begin(&self.chunks);
            let replies = KeyValues.apply(LogTime(time_ms), steps, &mut transaction).unwrap();
            let changes = transaction.finish().unwrap();
            let position = Position { epoch: 1, index: self.state.position().index + 1 };
            self.state.commit(position, b"record", &changes);
            replies
        }

        fn seal(&mut self) {
            let mut sealing = self.state.freeze().unwrap();
            loop {
                let nodes = self.chunks.clone();
                match sealing.step(&nodes, 100, &mut self.chunks).unwrap() {
                    SealStep::More => {}
                    SealStep::Done(sealed) => return self.state.finish_seal(&sealed).unwrap(),
                }
            }
        }

        fn content(&self, section: Section) -> Vec<(Bytes, Bytes)> {
            self.state.scan(&self.chunks, id(section), &[], usize::MAX).unwrap()
        }
    }

    proptest! {
        /// What the reference says of steps in memory holds for them in the layers of a keyed state.
        #[test]
        fn steps_do_the_same_in_the_state_that_is_replicated(
            history in prop::collection::vec((0_u64..400, prop::collection::vec(step(), 1..5), any::<bool>()), 1..20),
        ) {
            let (mut plain, mut sealed, mut time_ms) = (MemoryState::default(), Sealed::born(), START_MS);
            for (pause_ms, steps, seals) in history {
                time_ms += pause_ms;
                let expected: Vec<_> = steps.iter().map(|step| apply(time_ms, step, &mut plain).unwrap()).collect();
                prop_assert_eq!(sealed.apply(time_ms, &steps), expected);
                if seals {
                    sealed.seal();
                }
                for section in [Section::Cache, Section::Data, Section::Inflight] {
                    prop_assert_eq!(sealed.content(section), plain.section(section));
                }
            }
        }
    }
}
