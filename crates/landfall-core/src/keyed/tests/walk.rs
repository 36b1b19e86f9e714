//! A random walk through commits, seals and re-bases: whatever happened, the state is what its position says.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Event {
    /// The next record arrives.
    Commit,
    /// A record arrives again, or late, with other changes: nobody may look at them.
    CommitAgain(prop::sample::Index),
    Freeze,
    Step(usize),
    Finish,
    Abandon,
    /// A snapshot at or behind the base arrives; the state may not be there yet.
    Rebase(prop::sample::Index),
    /// A snapshot before the base arrives.
    RebaseBack(prop::sample::Index),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => Just(Event::Commit),
        1 => any::<prop::sample::Index>().prop_map(Event::CommitAgain),
        3 => Just(Event::Freeze),
        4 => (1_usize..20).prop_map(Event::Step),
        2 => Just(Event::Finish),
        1 => Just(Event::Abandon),
        1 => any::<prop::sample::Index>().prop_map(Event::Rebase),
        1 => any::<prop::sample::Index>().prop_map(Event::RebaseBack),
    ];
    prop::collection::vec(event, 1..60)
}

/// Few keys, so that they meet; long values, so that there are several leaves.
fn op() -> impl Strategy<Value = (SectionId, Op)> {
    let key = |section: u16, number: u8| match SectionId(section) {
        SHARD => vec![b'b' + number % 11],
        _ => vec![b'a' + number / 16, number],
    };
    let value = (any::<u8>(), prop_oneof![6 => 0_usize..400, 2 => 1_000_usize..2_049, 1 => 2_049_usize..4_000]);
    let place = (0_u16..3, 0_u8..64);
    prop_oneof![
        9 => (place.clone(), value).prop_map(move |((section, number), (byte, length))| {
            (SectionId(section), put(key(section, number), vec![byte; length]))
        }),
        4 => place.prop_map(move |(section, number)| (SectionId(section), delete(key(section, number)))),
        1 => (0_u16..3).prop_map(|section| (SectionId(section), Op::Clear)),
    ]
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    prop::collection::vec(prop::collection::vec(op(), 0..24).prop_map(batch), 1..24)
}

/// Everything that will ever be: the content after each record, and its snapshot.
struct History {
    batches: Vec<Batch>,
    models: Vec<Model>,
    manifests: Vec<Manifest>,
    chunks: MemoryChunks,
}

impl History {
    fn new(batches: Vec<Batch>) -> Self {
        let mut chunks = MemoryChunks::default();
        let mut models = vec![Model::default()];
        for (number, batch) in batches.iter().enumerate() {
            let mut model = models[number].clone();
            model.commit(number as u64 + 1, batch);
            models.push(model);
        }
        let manifests = models.iter().map(|model| model.manifest(&mut chunks)).collect();
        Self { batches, models, manifests, chunks }
    }

    fn model(&self, state: &KeyedState) -> &Model {
        &self.models[state.position().index as usize]
    }
}

struct Walk {
    history: History,
    state: KeyedState,
    /// The seal under way, if it was not outdated.
    sealing: Option<Sealing>,
    outdated: Vec<Sealing>,
}

impl Walk {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Commit => self.commit(),
            Event::CommitAgain(index) => self.commit_again(*index),
            Event::Freeze => match self.state.freeze() {
                Ok(sealing) => assert!(self.sealing.replace(sealing).is_none()),
                Err(refused) => assert!(refused == SealRefused::Underway && self.sealing.is_some()),
            },
            Event::Step(entries_max) => self.step(*entries_max),
            Event::Finish => self.finish(),
            Event::Abandon => {
                if let Some(sealing) = self.sealing.take() {
                    assert_eq!(self.state.abandon_seal(sealing), Ok(()));
                }
                if let Some(sealing) = self.outdated.pop() {
                    assert_eq!(self.state.abandon_seal(sealing), Err(SealOutdated));
                }
            }
            Event::Rebase(index) => self.rebase(*index),
            Event::RebaseBack(index) => self.rebase_back(*index),
        }
    }

    fn commit(&mut self) {
        let next = self.state.position().index as usize;
        if let Some(batch) = self.history.batches.get(next) {
            assert_eq!(commit(&mut self.state, next as u64 + 1, batch), Applied::Now);
        }
    }

    fn commit_again(&mut self, index: prop::sample::Index) {
        let old = index.index(self.state.position().index as usize + 1) as u64;
        let other = batch([(DATA, put("never", "seen")), (CONFIG, Op::Clear)]);
        let position = Position { epoch: u64::from(old > 0), index: old };
        assert_eq!(self.state.commit(position, b"other", &other), Applied::Already);
    }

    fn step(&mut self, entries_max: usize) {
        if let Some(sealing) = &mut self.sealing {
            let mut made = MemoryChunks::default();
            sealing.step(&self.history.chunks, entries_max, &mut made).unwrap();
            self.history.chunks.absorb(made);
        }
    }

    fn finish(&mut self) {
        for sealing in self.outdated.drain(..) {
            let position = sealing.position();
            let sealed = merge(sealing, &mut self.history.chunks, 5);
            // It came too late, and it is right.
            assert_eq!(self.state.finish_seal(&sealed), Err(SealOutdated));
            assert_eq!(sealed.manifest, self.history.manifests[position.index as usize]);
        }
        if let Some(sealing) = self.sealing.take() {
            let sealed = merge(sealing, &mut self.history.chunks, 5);
            assert_eq!(self.state.finish_seal(&sealed), Ok(()));
            assert_eq!(sealed.manifest, self.history.manifests[sealed.manifest.position.index as usize]);
            assert_eq!(*self.state.base(), sealed.manifest);
        }
    }

    fn rebase(&mut self, index: prop::sample::Index) {
        let base = self.state.base_position().index as usize;
        let target = base + index.index(self.history.manifests.len() - base);
        self.state.rebase(&self.history.manifests[target]).unwrap();
        self.outdated.extend(self.sealing.take());
        assert_eq!(*self.state.base(), self.history.manifests[target]);
    }

    fn rebase_back(&mut self, index: prop::sample::Index) {
        let base = self.state.base_position().index as usize;
        if base > 0 {
            let refused = self.state.rebase(&self.history.manifests[index.index(base)]);
            assert!(matches!(refused, Err(RebaseRefused::Older { .. })), "{refused:?}");
        }
    }

    fn check(&self) {
        check(&self.state, &self.history.chunks, self.history.model(&self.state));
        if self.state.position() == self.state.base_position() && self.sealing.is_none() {
            assert_eq!(self.state.overlay_bytes(), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_state_is_what_its_position_says_whatever_happened(batches in batches(), events in events()) {
        let history = History::new(batches);
        let mut walk = Walk { history, state: born(), sealing: None, outdated: Vec::new() };
        for event in &events {
            walk.take(event);
            walk.check();
        }
        walk.finish();
        while walk.state.position().index < walk.history.batches.len() as u64 {
            walk.commit();
        }
        let sealed = seal(&mut walk.state, &mut walk.history.chunks);
        prop_assert_eq!(Some(&sealed), walk.history.manifests.last());
        walk.check();
    }

    #[test]
    fn a_scan_gives_what_the_model_gives_from_every_start(batches in batches(), sealed in 0_usize..24, frozen in 0_usize..24) {
        let history = History::new(batches);
        let mut state = born();
        let mut chunks = MemoryChunks::default();
        for (number, batch) in history.batches.iter().enumerate() {
            commit(&mut state, number as u64 + 1, batch);
            if number == sealed {
                seal(&mut state, &mut chunks);
            } else if number == sealed + frozen {
                state.freeze().unwrap();
            }
        }
        let model = history.models.last().unwrap();
        for section in schema().ids() {
            for start in 0..=255_u8 {
                for from in [vec![start], vec![b'a' + start / 16, start], vec![start, 0, 0]] {
                    for entries_max in [0, 1, 3] {
                        let found = state.scan(&chunks, section, &from, entries_max);
                        prop_assert_eq!(found, Ok(model.scan(section, &from, entries_max)));
                    }
                }
            }
        }
    }
}
