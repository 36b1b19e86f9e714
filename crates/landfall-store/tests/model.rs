//! The store against a reference model: a map of what was put, and a map of what is pinned.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use landfall_core::{Chunk, Domain};
use landfall_store::vfs::faulty::FaultyVfs;
use landfall_store::{CollectBudget, Encoded, Session, Store};
use proptest::prelude::*;

use support::{CODEC_APPEND, Lists, NOW, chunk, get, list_of, open};

#[derive(Debug, Clone)]
enum Step {
    Put(u64),
    PutPatch {
        base: u64,
        tail: u8,
    },
    Pin {
        name: u8,
        chunks: Vec<u64>,
    },
    Unpin(u8),
    Sync,
    Collect {
        copy_bytes_max: u64,
    },
    BeginSession,
    EndSession,
    Reopen,
    /// The process is killed: nothing that was written is lost, but nothing is finished either.
    Kill,
    CutPower,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0_u64..60;
    let step = prop_oneof![
        12 => number.clone().prop_map(Step::Put),
        4 => (number.clone(), any::<u8>()).prop_map(|(base, tail)| Step::PutPatch { base, tail }),
        3 => (0_u8..4, prop::collection::vec(number, 1..12)).prop_map(|(name, chunks)| Step::Pin { name, chunks }),
        1 => (0_u8..4).prop_map(Step::Unpin),
        1 => Just(Step::Sync),
        2 => prop_oneof![Just(u64::MAX), 0_u64..8_000].prop_map(|copy_bytes_max| Step::Collect { copy_bytes_max }),
        1 => Just(Step::BeginSession),
        1 => Just(Step::EndSession),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => Just(Step::CutPower),
    ];
    prop::collection::vec(step, 1..120)
}

struct World {
    vfs: FaultyVfs,
    store: Option<Store>,
    session: Option<Session>,
    /// Chunks that must be here whatever happens.
    pinned: BTreeMap<u8, Vec<Chunk>>,
    /// Chunks put or found while the session is open: they must be here until it ends or the process does.
    in_session: Vec<Chunk>,
    /// Chunks that may be here.
    seen: BTreeSet<u64>,
}

impl World {
    fn store(&self) -> &Store {
        self.store.as_ref().expect("an open store")
    }

    fn put(&mut self, chunk: &Chunk) {
        self.store().put(chunk).unwrap();
        self.note(chunk);
    }

    fn note(&mut self, chunk: &Chunk) {
        if self.session.is_some() {
            self.in_session.push(chunk.clone());
        }
        assert!(self.store().contains(chunk.id()).unwrap());
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Put(number) => {
                self.seen.insert(number);
                self.put(&chunk(number));
            }
            Step::PutPatch { base, tail } => self.put_patch(&chunk(base), tail),
            Step::Pin { name, chunks } => self.pin(name, &chunks),
            Step::Unpin(name) => {
                self.pinned.remove(&name);
                self.store().unpin(&name.to_string()).unwrap();
            }
            Step::Sync => self.store().sync().unwrap(),
            Step::Collect { copy_bytes_max } => {
                let report = self.store().collect(&[], &Lists, NOW, CollectBudget { copy_bytes_max }).unwrap();
                assert!(self.session.is_some() || report.bytes_copied <= copy_bytes_max, "{report:?}");
                assert_eq!((&report.damaged[..], report.references_missing), (&[][..], 0), "{report:?}");
            }
            Step::BeginSession => self.session = self.session.take().or_else(|| Some(self.store().begin_session())),
            Step::EndSession => self.end_session(),
            Step::Reopen => self.stop(),
            Step::Kill => self.kill(),
            Step::CutPower => {
                self.vfs.cut_power();
                self.kill();
            }
        }
    }

    fn put_patch(&mut self, base: &Chunk, tail: u8) {
        let patched = Chunk::new(Domain::Data, [base.bytes(), &[tail][..]].concat().into());
        let form = Encoded { codec: CODEC_APPEND, base: Some(base.id()), bytes: &[tail] };
        let here = self.store().contains(base.id()).unwrap() || self.store().contains(patched.id()).unwrap();
        assert_eq!(self.store().put_encoded(&patched, form).is_ok(), here);
        if here {
            self.note(&patched);
        }
    }

    fn pin(&mut self, name: u8, numbers: &[u64]) {
        let session = self.store().begin_session();
        let chunks: Vec<_> = numbers.iter().map(|number| chunk(*number)).collect();
        let list = list_of(&chunks);
        let chunks: Vec<_> = chunks.into_iter().chain([list.clone()]).collect();
        self.seen.extend(numbers);
        chunks.iter().for_each(|chunk| self.put(chunk));
        self.store().sync().unwrap();
        self.pinned.remove(&name);
        self.store().pin(&name.to_string(), list.id()).unwrap();
        self.pinned.insert(name, chunks);
        drop(session);
    }

    fn end_session(&mut self) {
        self.session = None;
        self.in_session.clear();
    }

    fn kill(&mut self) {
        // Handles from before the restart are dead, so dropping the store writes nothing.
        self.vfs.restart();
        self.stop();
    }

    fn stop(&mut self) {
        self.end_session();
        self.store = None;
        self.store = Some(open(&self.vfs).unwrap());
    }

    fn check(&self) {
        for chunk in self.pinned.values().flatten().chain(&self.in_session) {
            assert_eq!(get(self.store(), chunk.id()).unwrap().as_ref(), Some(chunk));
        }
        for number in 0..60 {
            let id = chunk(number).id();
            let found = get(self.store(), id).unwrap().is_some();
            assert_eq!(found, self.store().contains(id).unwrap());
            assert!(!found || self.seen.contains(&number), "a chunk that nobody put");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn keeps_what_is_pinned_or_in_a_session_and_invents_nothing(seed: u64, steps in steps()) {
        let vfs = FaultyVfs::new(seed);
        let store = Some(open(&vfs).unwrap());
        let (pinned, in_session, seen) = Default::default();
        let mut world = World { vfs, store, session: None, pinned, in_session, seen };
        for step in steps {
            // Looking at a chunk protects it, so looking after every step would hide what puts alone protect.
            let is_time_to_check = matches!(step, Step::Collect { .. } | Step::Reopen | Step::Kill | Step::CutPower);
            world.run(step);
            if is_time_to_check {
                world.check();
            }
        }
        world.check();
    }
}
