//! `landfall demo`: the story of live state. Members of a key-value service, joined, killed and compared while clients go
//! on. Every figure is measured.

mod caller;
mod fill;
mod joins;
mod load;
mod members;
mod picture;
mod read_back;
mod records;
mod resp;
mod samples;
mod status;
mod trials;
mod visitor;

use std::error::Error;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::Value;

use self::caller::{Caller, Directory};
use self::load::Load;
use self::members::{Beginning, Member, NAMES};
use self::picture::milliseconds;
use self::records::Ledger;
use self::samples::Summary;
use super::cast::Cast;
use super::narrator::Narrator;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::progress;

/// Live state: a replicated key-value service whose members join and are killed under load
///
/// Five members as real processes, and clients that check every answer. Members join while the clients go on; a joiner, one of its sources
/// and the leader are killed with kill -9. At the end all roots are compared and every key is read back.
#[derive(Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// How many keys the state has
    #[arg(long, value_name = "N", default_value_t = KEYS_DEFAULT, value_parser = clap::value_parser!(u32).range(KEYS))]
    keys: u32,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { keys: KEYS_DEFAULT }
    }
}

const KEYS_DEFAULT: u32 = 1_000_000;

/// Fewer show nothing; more do not fit the names that keys have.
const KEYS: RangeInclusive<i64> = 10_000..=99_999_999;

/// Tells the story in `place`.
pub(super) fn tell(arguments: &Arguments, place: &Path, cast: &Cast, output: &mut Output) -> Result<(), Failure> {
    let mut story = Story::new(arguments.keys, place, cast, Narrator::new(output));
    story.narrator.opening(OPENING);
    story.create_certificates()?;
    story.gather()?;
    story.fill()?;
    story.begin_load()?;
    story.join_cut_short()?;
    story.join_losing_a_source()?;
    story.lose_the_leader()?;
    story.audit()?;
    story.read_back()?;
    story.end();
    Ok(())
}

const OPENING: &str = "\
Members of a replicated key-value service, as processes of this machine that
talk over TLS. Clients write and read all the time, and check what they read.";

struct Story<'a> {
    place: PathBuf,
    cast: &'a Cast,
    narrator: Narrator<'a>,
    began: Instant,
    /// In the order of their names.
    members: Vec<Member>,
    directory: Directory,
    ledger: Arc<Ledger>,
    load: Option<Load>,
    /// For the story's own questions.
    caller: Caller,
}

impl<'a> Story<'a> {
    fn new(keys: u32, place: &Path, cast: &'a Cast, narrator: Narrator<'a>) -> Self {
        let directory = Directory::default();
        Self {
            place: place.to_owned(),
            cast,
            narrator,
            began: Instant::now(),
            members: NAMES.iter().map(|name| Member::new(name, place)).collect(),
            caller: Caller::new(directory.clone(), ANSWER_PATIENCE),
            directory,
            ledger: Arc::new(Ledger::new(keys)),
            load: None,
        }
    }

    fn create_certificates(&mut self) -> Result<(), Failure> {
        self.narrator.begin("Certificates: an authority, and one for each member");
        let shown = |name: &str| self.place.join(name).display().to_string();
        let authority = shown("authority");
        self.cast.run(["cert", "create-ca", &authority])?;
        for name in NAMES {
            self.cast.run(["cert", "create-member", name, "--ca", &authority, "--out", &shown(name)])?;
        }
        self.narrator.tell("members talk over TLS 1.3 with certificates on both sides");
        Ok(())
    }

    /// Three members that vote.
    fn gather(&mut self) -> Result<(), Failure> {
        self.narrator.begin("Three members: alpha begins, beta and gamma join");
        let began = Instant::now();
        for index in FOUNDERS {
            self.start(index)?;
        }
        self.until("three members vote", |story| {
            Ok((story.members[ALPHA].status()?.voters() == FOUNDERS.len()).then_some(()))
        })?;
        let took = output::seconds(began.elapsed().as_secs_f64());
        self.narrator.tell(format!("all three vote after {took}; a write is durable on two of them"));
        Ok(())
    }

    fn fill(&mut self) -> Result<(), Failure> {
        let keys = self.ledger.keys();
        self.narrator.begin(&format!("{} keys", output::count(u64::from(keys))));
        let began = Instant::now();
        let bar = ProgressBar::with_draw_target(Some(keys.into()), progress::draw_target(self.narrator.format()));
        bar.set_style(progress::style("   {bar:28.green} {human_pos} of {human_len} keys"));
        let filled = fill::fill(&self.directory, keys, |done| {
            bar.set_position(done.into());
            !self.cast.is_ended()
        });
        bar.finish_and_clear();
        filled.map_err(|error| Failure::of(&error))?;
        let took = began.elapsed().as_secs_f64();
        let rate = (f64::from(keys) / took) as u64;
        let shown = format!("{} ({} keys/s)", output::seconds(took), output::count(rate));
        self.narrator.tell(format!("written in {shown}, each on the disks of a majority"));
        self.narrator.measured("keys", "keys", keys, output::count(keys.into()));
        self.narrator.measured("fill_seconds", "  written in", took, shown);
        let audit = self.agree()?;
        let root: String = audit.members.iter().find_map(|member| member.root.clone()).unwrap_or_default();
        let root = root.chars().take(ROOT_SHOWN).collect::<String>();
        self.narrator.tell(format!("all three seal it, and come to the same root: {root}…"));
        Ok(())
    }

    /// Clients that go on until the end, and how they fare while nothing else happens.
    fn begin_load(&mut self) -> Result<(), Failure> {
        self.narrator.begin("Clients: steady writes and reads, from here to the end");
        let load = Load::start(&self.directory, &self.ledger);
        self.load = Some(load.map_err(|error| Failure::new("cannot start the clients").because(&error))?);
        self.pause(SETTLE)?;
        let from = Instant::now();
        self.pause(QUIET)?;
        let (writes, reads) = self.clients_between(from, Instant::now());
        self.narrator.tell(format!(
            "{} writes/s, {} reads/s, the reads linearizable",
            output::count(writes.per_second.round() as u64),
            output::count(reads.per_second.round() as u64),
        ));
        self.narrator.tell("while nothing else happens:");
        self.tell_fares(&writes, &reads);
        self.measure_clients("quiet", "reads at the leader, quiet", "writes, quiet", &writes, &reads);
        Ok(())
    }

    fn tell_fares(&mut self, writes: &Summary, reads: &Summary) {
        self.narrator.tell(format!("  writes {}\n  reads  {}", fares(writes), fares(reads)));
    }

    fn measure_clients(
        &mut self,
        period: &'static str,
        reads_label: &'static str,
        writes_label: &'static str,
        writes: &Summary,
        reads: &Summary,
    ) {
        let value = |summary: &Summary| -> Value {
            serde_json::json!({
                "requests": summary.requests, "p50_ms": milliseconds(summary.p50), "p99_ms": milliseconds(summary.p99),
            })
        };
        let (reads_key, writes_key) = match period {
            "quiet" => ("reads_quiet", "writes_quiet"),
            _ => ("reads_during_joins", "writes_during_joins"),
        };
        self.narrator.measured(reads_key, reads_label, value(reads), fares(reads));
        self.narrator.measured(writes_key, writes_label, value(writes), fares(writes));
    }

    fn end(&mut self) {
        let took = self.began.elapsed().as_secs_f64();
        self.narrator.measured("demo_seconds", "the whole demo", took, output::seconds(took));
        self.narrator.table();
    }

    /// Starts a member, or starts it again; returns how long it took until it served clients.
    fn start(&mut self, index: usize) -> Result<Duration, Failure> {
        let others = self.members.iter().enumerate().filter(|(other, member)| *other != index && member.runs());
        let seeds = others.map(|(_, member)| member.peers()).collect();
        let beginning = if index == ALPHA { Beginning::Bootstrap } else { Beginning::Join(seeds) };
        let took = self.members[index].start(&beginning, self.cast)?;
        self.directory.add(self.members[index].clients());
        Ok(took)
    }

    /// Which member leads, once one of those that run does.
    fn leader(&mut self) -> Result<usize, Failure> {
        self.until("a member leads", |story| {
            let running = story.members.iter().filter(|member| member.runs());
            let statuses = running.filter_map(|member| member.status().ok());
            let leads = |status: &status::MemberStatus| status.role == status::Role::Leader;
            Ok(statuses.into_iter().find(leads).map(|status| status.id as usize - 1))
        })
    }

    /// Looks until there is an answer.
    fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if began.elapsed() > WAIT_MAX {
                return Err(Failure::new(format!(
                    "waited in vain for {}: {what}",
                    output::seconds(WAIT_MAX.as_secs_f64())
                )));
            }
            self.pause(LOOK_INTERVAL)?;
        }
    }

    /// Lets time pass.
    fn pause(&self, duration: Duration) -> Result<(), Failure> {
        let until = Instant::now() + duration;
        while !self.cast.is_ended() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK_INTERVAL));
        }
        Err(Failure::interrupted("the demo was interrupted"))
    }

    /// How writes and reads fared.
    fn clients_between(&self, from: Instant, to: Instant) -> (Summary, Summary) {
        let load = self.load.as_ref().expect("the clients were started");
        (load.writes.between(from, to), load.reads.between(from, to))
    }
}

/// A read that proves the service wrong ends the story.
fn wrong(error: &(dyn Error + 'static)) -> Failure {
    Failure::new("a client read something wrong").because(error)
}

/// How requests fared, for people.
fn fares(summary: &Summary) -> String {
    format!("p50 {}, p99 {}", shown(summary.p50), shown(summary.p99))
}

fn shown(duration: Duration) -> String {
    output::seconds(duration.as_secs_f64())
}

const ALPHA: usize = 0;
const FOUNDERS: [usize; 3] = [ALPHA, 1, 2];
const DELTA: usize = 3;
const EPSILON: usize = 4;
/// The first moments of the clients are not counted.
const SETTLE: Duration = Duration::from_secs(1);
/// How long clients are watched while nothing else happens.
const QUIET: Duration = Duration::from_secs(4);
const LOOK_INTERVAL: Duration = Duration::from_millis(40);
/// Nothing in the story takes so long, on any machine that it is for.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Characters of a root that are enough for people.
const ROOT_SHOWN: usize = 16;
/// An audit waits for every member.
const ANSWER_PATIENCE: Duration = Duration::from_secs(70);
