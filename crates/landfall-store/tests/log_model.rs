//! The log against a reference model: a list of records, how many of them are durable, and what was purged.

mod log_support;

use landfall_core::snapshot::Position;
use landfall_store::log::{Log, LogError, LogRecord};
use landfall_store::vfs::faulty::FaultyVfs;
use proptest::prelude::*;

use log_support::{open, position, read_all, record};

#[derive(Debug, Clone)]
enum Step {
    Append {
        gaps: Vec<u64>,
        epochs: u64,
    },
    Sync,
    /// Keeps so many thousandths of the records.
    Truncate(usize),
    Purge(usize),
    /// Purges so far beyond the last record.
    PurgeBeyond(u64),
    Read {
        thousandth: usize,
        bytes_max: u64,
    },
    Reopen,
    /// The process is killed: nothing that was written is lost, but nothing is finished either.
    Kill,
    CutPower,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let gap = prop_oneof![6 => Just(0_u64), 1 => 1_u64..5];
    let append = (prop::collection::vec(gap, 1..12), prop_oneof![4 => Just(0_u64), 1 => 1_u64..3]);
    let step = prop_oneof![
        10 => append.prop_map(|(gaps, epochs)| Step::Append { gaps, epochs }),
        4 => Just(Step::Sync),
        2 => (0_usize..1_000).prop_map(Step::Truncate),
        2 => (0_usize..1_000).prop_map(Step::Purge),
        1 => (0_u64..9).prop_map(Step::PurgeBeyond),
        4 => (0_usize..1_000, 0_u64..900).prop_map(|(thousandth, bytes_max)| Step::Read { thousandth, bytes_max }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        2 => Just(Step::CutPower),
    ];
    prop::collection::vec(step, 1..60)
}

struct World {
    vfs: FaultyVfs,
    log: Option<Log>,
    records: Vec<LogRecord>,
    /// Records up to this index survive everything.
    durable: Option<u64>,
    purged: Option<Position>,
}

impl World {
    fn log(&self) -> &Log {
        self.log.as_ref().expect("an open log")
    }

    fn last(&self) -> Option<Position> {
        self.records.last().map(|record| record.position).or(self.purged)
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Append { gaps, epochs } => self.append(&gaps, epochs),
            Step::Sync => {
                self.log().sync().unwrap();
                self.all_is_durable();
            }
            Step::Truncate(thousandths) => self.truncate(self.records.len() * thousandths / 1_000),
            Step::Purge(thousandths) => {
                let at = self.records.len() * thousandths / 1_000;
                if let Some(through) = self.records.get(at).map(|record| record.position) {
                    self.purge(through);
                }
            }
            Step::PurgeBeyond(by) => {
                let last = self.last().unwrap_or_default();
                self.purge(position(last.epoch, last.index + by));
            }
            Step::Read { thousandth, bytes_max } => self.check_read(thousandth, bytes_max),
            Step::Reopen => self.reopen(),
            Step::Kill => {
                self.vfs.restart();
                self.reopen();
            }
            Step::CutPower => self.cut_power(),
        }
    }

    fn append(&mut self, gaps: &[u64], epochs: u64) {
        let last = self.last();
        let epoch = last.map_or(1, |last| last.epoch) + epochs;
        let mut next = last.map_or(0, |last| last.index + 1);
        let mut batch = Vec::new();
        for gap in gaps {
            batch.push(record(epoch, next + gap));
            next += gap + 1;
        }
        self.log().append(&batch).unwrap();
        self.records.extend(batch);
    }

    fn truncate(&mut self, keep: usize) {
        let Some(index) = self.records.get(keep).map(|record| record.position.index) else { return };
        self.log().truncate_from(index).unwrap();
        self.records.truncate(keep);
        self.all_is_durable();
    }

    fn purge(&mut self, through: Position) {
        self.log().purge_through(through).unwrap();
        if self.purged.is_none_or(|purged| purged.index < through.index) {
            self.purged = Some(through);
            self.records.retain(|record| record.position.index > through.index);
        }
    }

    fn all_is_durable(&mut self) {
        self.durable = self.records.last().map(|record| record.position.index);
    }

    fn reopen(&mut self) {
        self.log = None;
        self.log = Some(open(&self.vfs).unwrap());
        // What an open finds, it makes durable.
        self.all_is_durable();
    }

    fn cut_power(&mut self) {
        self.vfs.cut_power();
        self.log = None;
        self.vfs.restart();
        self.log = Some(open(&self.vfs).unwrap());
        let found = read_all(self.log()).unwrap();
        assert_eq!(found, self.records[..found.len()], "something else than the first records");
        let lost = self.records.get(found.len()).map(|record| record.position.index);
        assert!(lost.is_none_or(|lost| self.durable.is_none_or(|durable| lost > durable)), "lost {lost:?}");
        self.records.truncate(found.len());
        self.all_is_durable();
    }

    fn check_read(&self, thousandth: usize, bytes_max: u64) {
        let Some(first) = self.records.get(self.records.len() * thousandth / 1_000) else { return };
        let from = first.position.index;
        let found = self.log().read(from, bytes_max).unwrap();
        let start = self.records.iter().position(|record| record.position.index >= from).unwrap();
        assert_eq!(found, self.records[start..start + found.len()]);
        let bytes = |records: &[LogRecord]| records.iter().map(|record| record.payload.len() as u64).sum::<u64>();
        assert!(found.len() == 1 || bytes(&found) <= bytes_max);
        let more = self.records.get(start..=start + found.len());
        assert!(more.is_none_or(|more| bytes(more) > bytes_max || bytes(&found) > bytes_max), "too few");
        assert_eq!(self.log().get(from).unwrap().as_ref(), Some(first));
    }

    fn check(&self) {
        let log = self.log();
        assert_eq!((log.last_position(), log.purged_through()), (self.last(), self.purged));
        assert_eq!(log.first_index(), self.purged.map_or(0, |purged| purged.index + 1));
        assert_eq!(read_all(log).unwrap(), self.records);
        if let Some(purged) = self.purged {
            assert!(matches!(log.read(purged.index, 1), Err(LogError::Purged { .. })));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn holds_what_the_model_holds_whatever_happens(seed: u64, steps in steps()) {
        let vfs = FaultyVfs::new(seed);
        let log = Some(open(&vfs).unwrap());
        let mut world = World { vfs, log, records: Vec::new(), durable: None, purged: None };
        for step in steps {
            world.run(step);
            world.check();
        }
        world.cut_power();
        world.check();
    }
}
