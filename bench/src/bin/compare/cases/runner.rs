//! Owns the course of one case: rounds in which every contestant takes its turn from the same prepared state, so that
//! drift of the machine falls on all alike. It never chooses what is compared.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, ensure};

use super::goal::Sizes;
use super::{Case, Contestant, Course, Start, Surface, Window};
use crate::datasets::{DataSet, Library};
use crate::disk::{self, FreshFileSystem};
use crate::equality;
use crate::network::Network;
use crate::peers::{Follows, Seat};
use crate::report::{CaseReport, Row};
use crate::sample::Sample;
use landfall_bench::files;
use landfall_bench::measure::{Finished, Process, Usage};
use landfall_bench::memory::Filler;
use landfall_bench::netns::Rate;

/// Where all runs of one invocation take place.
pub(crate) struct Arena<'a> {
    pub(crate) work: &'a Path,
    pub(crate) library: &'a Library,
    pub(crate) network: &'a Network,
    /// Without one the first to touch memory pays for it.
    pub(crate) filler: Option<Filler>,
    pub(crate) rounds: usize,
    /// Set when this run was told to end.
    pub(crate) stopping: &'a AtomicBool,
}

impl Arena<'_> {
    /// Runs all rounds of a case; a tool that fails costs its own row only.
    pub(crate) fn run(&self, case: &Case) -> anyhow::Result<CaseReport> {
        let mut rows: Vec<Row> = case.contestants.iter().map(Row::new).collect();
        for round in 1..=self.rounds.min(case.rounds_max) {
            for (contestant, row) in case.contestants.iter().zip(&mut rows) {
                ensure!(!self.stopping.load(Ordering::Relaxed), "stopped by a signal");
                if row.not_run.is_none() {
                    eprintln!("{}, round {round}: {}", case.name, contestant.label);
                    row.record(self.take_turn(case, contestant));
                }
            }
        }
        Ok(CaseReport::new(case, rows, self.sizes(case)?))
    }

    fn take_turn(&self, case: &Case, contestant: &Contestant) -> anyhow::Result<Sample> {
        let mut turn = Turn::prepare(self, case, contestant)?;
        let sample = match case.course {
            Course::Undisturbed => turn.transfer()?,
            Course::KilledHalfWay => turn.transfer_killed_half_way()?,
        };
        let tool = &contestant.tool;
        equality::check(&self.library.path(case.want), &turn.target, tool.fidelity(), tool.own_directory())?;
        Ok(sample)
    }

    fn sizes(&self, case: &Case) -> anyhow::Result<Sizes> {
        let state = self.library.extent(case.want).context("the data set is not built")?;
        let mut changed_bytes = None;
        if let Some(first) = case.first.filter(|_| case.needs_changed_bytes()) {
            let (first, want) = (self.library.path(first), self.library.path(case.want));
            changed_bytes = Some(disk::changed_bytes(&first, &want)?);
        }
        Ok(Sizes { state, changed_bytes })
    }
}

/// One transfer by one contestant: everything before the clock, the clock, and everything after.
pub(super) struct Turn<'a> {
    arena: &'a Arena<'a>,
    case: &'a Case,
    contestant: &'a Contestant,
    seats: Vec<Seat<'a>>,
    servers: Vec<Process>,
    /// The directory that is served.
    state: PathBuf,
    target: PathBuf,
    log: PathBuf,
    /// Dropped last: the target lies on it.
    _fresh: Option<FreshFileSystem>,
}

impl<'a> Turn<'a> {
    fn prepare(arena: &'a Arena<'a>, case: &'a Case, contestant: &'a Contestant) -> anyhow::Result<Self> {
        let area = arena.work.join("turn");
        files::remove(&area)?;
        std::fs::create_dir_all(&area)?;
        arena.network.set_rate(Rate::Unlimited)?;
        let fresh = create_surface(arena, case)?;
        let parent = fresh.as_ref().map_or(area.join("target"), |fresh| fresh.path().to_owned());
        std::fs::create_dir_all(&parent)?;
        let mut turn = Self {
            arena,
            case,
            contestant,
            seats: seats(arena, &area, contestant.sources)?,
            servers: Vec::new(),
            state: arena.library.path(case.want),
            target: parent.join("state"),
            log: area.join("joiner"),
            _fresh: fresh,
        };
        turn.check_space()?;
        turn.set_up()?;
        Ok(turn)
    }

    /// Serves, unless that is part of the measured time, and brings the joiner to its start.
    fn set_up(&mut self) -> anyhow::Result<()> {
        if let (Start::FirstVersion, Some(first)) = (self.contestant.start, self.case.first) {
            self.set_up_first_version(first)?;
        } else if self.case.window == Window::Transfer {
            self.serve()?;
        }
        if let Some(filler) = &self.arena.filler {
            filler.fill()?;
        }
        disk::warm(&self.state)?;
        if self.target.exists() {
            disk::warm(&self.target)?;
        }
        self.arena.network.set_rate(self.case.rate)?;
        files::sync(self.arena.work)?;
        files::sync(self.parent()).map(drop)
    }

    fn set_up_first_version(&mut self, first: DataSet) -> anyhow::Result<()> {
        let (first_path, wanted) = (self.arena.library.path(first), self.arena.library.path(self.case.want));
        if self.contestant.tool.follows() == Follows::Nothing {
            files::copy_tree(&first_path, &self.target)?;
            return self.serve();
        }
        if first != self.case.want {
            self.state = self.arena.work.join("turn/live");
            files::copy_tree(&first_path, &self.state)?;
        }
        self.serve()?;
        self.receive()?;
        if first != self.case.want {
            disk::change_in_place(&self.state, &wanted)?;
        }
        Ok(())
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let tool = &self.contestant.tool;
        for (number, seat) in self.seats.iter().enumerate() {
            let server = match number {
                0 => tool.serve(seat, &self.state)?,
                _ => tool.serve_again(&self.seats[0], seat, &self.state)?,
            };
            self.servers.extend(server);
        }
        Ok(())
    }

    /// The measured part.
    fn transfer(&mut self) -> anyhow::Result<Sample> {
        let traffic_before = self.arena.network.traffic()?;
        let cpu_before = self.servers_cpu_seconds()?;
        let serving = self.serve_in_window()?;
        let published = self.publish()?;
        let received = self.receive()?;
        let traffic = self.arena.network.traffic()?.since(traffic_before);
        let own_report = self.contestant.tool.own_report(&received.output);
        let own_sync_seconds = own_sync_seconds(own_report.as_ref());
        let publish_seconds = published.as_ref().map_or(0.0, |finished| finished.elapsed.as_secs_f64());
        let mut source = self.stop_servers(cpu_before)?;
        source = published.map_or(source, |finished| source.and(finished.usage));
        Ok(Sample {
            wall_seconds: serving + publish_seconds + received.elapsed.as_secs_f64() - own_sync_seconds,
            sync_seconds: files::sync(self.parent())?.as_secs_f64() + own_sync_seconds,
            source,
            joiner: received.usage,
            to_joiner_bytes: traffic.to_joiner_bytes,
            to_source_bytes: traffic.to_source_bytes,
            repeated_bytes: None,
            own_report,
        })
    }

    fn serve_in_window(&mut self) -> anyhow::Result<f64> {
        let started = Instant::now();
        if self.case.window == Window::ServingAndTransfer {
            self.serve()?;
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// Makes a changed state visible, for tools that need to be told.
    fn publish(&self) -> anyhow::Result<Option<Finished>> {
        let changed = self.contestant.start == Start::FirstVersion && self.case.first != Some(self.case.want);
        let command = self.contestant.tool.publish(&self.seats[0]).filter(|_| changed);
        command.map(|command| self.run_at_source(command)).transpose()
    }

    fn run_at_source(&self, command: std::process::Command) -> anyhow::Result<Finished> {
        let log = self.seats[0].directory.join("publish");
        Process::start(&self.seats[0].link.source, command, &log)?.wait().context("publish")
    }

    pub(super) fn receive(&self) -> anyhow::Result<Finished> {
        self.start_receiving()?.wait().context("receive")
    }

    pub(super) fn start_receiving(&self) -> anyhow::Result<Process> {
        let command = self.contestant.tool.receive(&self.seats, &self.state, &self.target);
        Process::start(self.arena.network.joiner(), command, &self.log)
    }

    fn servers_cpu_seconds(&self) -> anyhow::Result<f64> {
        self.servers.iter().map(Process::cpu_seconds).sum()
    }

    fn stop_servers(&mut self, cpu_seconds_before: f64) -> anyhow::Result<Usage> {
        let mut sum = Usage::default();
        for server in self.servers.drain(..) {
            sum = sum.and(server.stop()?);
        }
        sum.cpu_seconds = (sum.cpu_seconds - cpu_seconds_before).max(0.0);
        Ok(sum)
    }

    pub(super) fn to_joiner_bytes(&self) -> anyhow::Result<u64> {
        Ok(self.arena.network.traffic()?.to_joiner_bytes)
    }

    pub(super) fn clear_target(&self) -> anyhow::Result<()> {
        files::remove(self.parent())?;
        std::fs::create_dir_all(self.parent())?;
        files::sync(self.parent()).map(drop)
    }

    /// The measured part of a transfer that begins anew after a cut.
    pub(super) fn resume(&mut self) -> anyhow::Result<Sample> {
        self.transfer()
    }

    fn parent(&self) -> &Path {
        self.target.parent().unwrap_or(&self.target)
    }

    /// A joiner's copy, a live copy and a store of it may all be there at once.
    fn check_space(&self) -> anyhow::Result<()> {
        let extent = self.arena.library.extent(self.case.want).context("the data set is not built")?;
        ensure!(self.contestant.sources >= 1, "a transfer needs a source");
        let copies = if self.contestant.tool.follows() == Follows::Nothing { 1 } else { 2 };
        files::require_free(self.arena.work, copies * extent.bytes)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.servers.clear();
        if let Err(error) = files::remove(&self.arena.work.join("turn")) {
            eprintln!("{error:#}");
        }
    }
}

fn create_surface(arena: &Arena<'_>, case: &Case) -> anyhow::Result<Option<FreshFileSystem>> {
    let bytes = arena.library.extent(case.want).context("the data set is not built")?.bytes;
    match case.surface {
        Surface::WorkingDisk => Ok(None),
        Surface::FreshFileSystem => FreshFileSystem::create(arena.work, 3 * bytes + FRESH_MARGIN_BYTES).map(Some),
    }
}

fn seats<'a>(arena: &'a Arena<'_>, area: &Path, sources: usize) -> anyhow::Result<Vec<Seat<'a>>> {
    let seat = |(number, link)| {
        let directory = area.join(format!("source{number}"));
        std::fs::create_dir_all(&directory)?;
        Ok(Seat { link, directory })
    };
    arena.network.links().iter().take(sources).enumerate().map(seat).collect()
}

fn own_sync_seconds(report: Option<&serde_json::Value>) -> f64 {
    report.and_then(|report| report.get("sync_seconds")?.as_f64()).unwrap_or(0.0)
}

const FRESH_MARGIN_BYTES: u64 = 4_000_000_000;
