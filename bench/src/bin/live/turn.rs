//! Owns one server's turn at a case: a source that holds the data and is at rest, seats for those who join, and that
//! all of it is gone afterwards. It never measures.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use landfall_bench::cores::Cores;
use landfall_bench::files::{copy_tree, remove, require_free, sync};
use landfall_bench::measure::{Process, wait_until};
use landfall_bench::memory::Filler;
use landfall_bench::netns::Rate;

use crate::cases::{Case, Course, Pinning};
use crate::client::Client;
use crate::load;
use crate::network::Network;
use crate::servers::{Seat, Server};
use landfall_bench::contents::Contents;

/// Where all turns of one run take place.
pub(crate) struct Stage<'a> {
    pub(crate) work: &'a Path,
    pub(crate) network: &'a Network,
    pub(crate) contents: Arc<Contents>,
    pub(crate) filler: Filler,
    /// Set when this run was told to end.
    pub(crate) stopping: &'a AtomicBool,
}

/// One turn. Its processes end and its directories go when it is dropped.
pub(crate) struct Turn<'a> {
    pub(crate) stage: &'a Stage<'a>,
    pub(crate) case: &'a Case,
    pub(crate) server: &'a dyn Server,
    pub(crate) source: Seat<'a>,
    pub(crate) joiner: Seat<'a>,
    source_process: Process,
    companions: Vec<Process>,
}

impl Stage<'_> {
    /// Fails once the run was told to end.
    pub(crate) fn go_on(&self) -> anyhow::Result<()> {
        ensure!(!self.stopping.load(Ordering::Relaxed), "stopped by a signal");
        Ok(())
    }

    fn seat(&self, number: usize, directory: PathBuf, cores: Cores) -> Seat<'_> {
        Seat { place: self.network.place(number), directory, cores }
    }

    /// A directory of a first member that holds all the data, made once for each server.
    fn prepared(&self, server: &dyn Server) -> anyhow::Result<PathBuf> {
        let kept = self.work.join("prepared").join(server.family());
        if kept.exists() {
            return Ok(kept);
        }
        require_free(self.work, 6 * self.contents.bytes())?;
        eprintln!("  filling {} with {} keys", server.family(), self.contents.keys());
        let seat = self.seat(0, self.work.join("filling"), Cores::Any);
        remove(&seat.directory)?;
        let mut process = server.start_first(&seat)?;
        let mut client = self.wait_until_served(&mut process, &seat)?;
        load::fill(seat.connect(self.network)?, &self.contents)?;
        server.settle(&mut client)?;
        server.stop(process, &mut client)?;
        fs::create_dir_all(self.work.join("prepared"))?;
        fs::rename(&seat.directory, &kept)?;
        Ok(kept)
    }

    /// Waits until a server answers.
    pub(crate) fn wait_until_served(&self, process: &mut Process, seat: &Seat<'_>) -> anyhow::Result<Client> {
        let mut served = None;
        process.wait_ready(|_| {
            served = seat.connect(self.network).ok().and_then(|mut client| {
                client.call(&["PING"]).ok()?;
                // Redis answers nothing else while it loads.
                client.call(&["GET", "nothing"]).ok().map(|_| client)
            });
            served.is_some() || self.stopping.load(Ordering::Relaxed)
        })?;
        self.go_on()?;
        served.context("the server began to serve and stopped")
    }
}

impl<'a> Turn<'a> {
    /// Brings everything to the moment before something is measured.
    pub(crate) fn prepare(stage: &'a Stage<'a>, case: &'a Case, server: &'a dyn Server) -> anyhow::Result<Self> {
        stage.network.set_rate(Rate::Unlimited)?;
        let area = stage.work.join("turn");
        remove(&area)?;
        fs::create_dir_all(&area)?;
        let needs_data = !matches!(case.course, Course::Throughput(_));
        let (source_cores, joiner_cores) = match case.pinning {
            Pinning::Free => (Cores::Any, Cores::Any),
            Pinning::Apart => (Cores::One(0), Cores::One(1)),
        };
        let source = stage.seat(0, area.join("member0"), source_cores);
        if needs_data {
            copy_tree(&stage.prepared(server)?, &source.directory)?;
        }
        let joiner = stage.seat(1, area.join("member1"), joiner_cores);
        let mut source_process = server.start_first(&source)?;
        stage.wait_until_served(&mut source_process, &source)?;
        let turn = Self { stage, case, server, source, joiner, source_process, companions: Vec::new() };
        if needs_data {
            turn.wait_until_writable()?;
        }
        Ok(turn)
    }

    /// A member alone may have to win its own election first.
    fn wait_until_writable(&self) -> anyhow::Result<()> {
        let mut client = self.source_client()?;
        wait_until(SERVED_LIMIT, || Ok(client.call(&["SET", "awake", "yes"]).is_ok())).context("no write succeeds")
    }

    /// Caps the links, lets the disk come to rest and sees to it that memory is in use, right before the clock starts.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        sync(self.stage.work)?;
        self.stage.filler.fill()?;
        self.stage.network.set_rate(self.case.rate)
    }

    /// What runs before the joiner is told, ready to be told.
    pub(crate) fn start_waiting(&self) -> anyhow::Result<Option<Process>> {
        let mut waiting = self.server.start_waiting(&self.joiner)?;
        if let Some(process) = &mut waiting {
            self.stage.wait_until_served(process, &self.joiner)?;
        }
        Ok(waiting)
    }

    pub(crate) fn source_id(&self) -> anyhow::Result<u32> {
        self.source_process.id().context("the source has ended")
    }

    /// What the joiner has received from other members since its link was made.
    pub(crate) fn received_bytes(&self) -> anyhow::Result<u64> {
        Ok(self.joiner.place.traffic()?.received_bytes)
    }

    pub(crate) fn source_client(&self) -> anyhow::Result<Client> {
        self.source.connect(self.stage.network)
    }

    /// Waits until the joiner accepts connections.
    pub(crate) fn joiner_client(&self) -> anyhow::Result<Client> {
        let mut client = None;
        wait_until(SERVED_LIMIT, || {
            self.stage.go_on()?;
            client = self.joiner.connect(self.stage.network).ok();
            Ok(client.is_some())
        })?;
        client.context("no connection to the joiner")
    }

    /// Brings members into the cluster beside the source and the joiner, whole.
    pub(crate) fn add_companions(&mut self, count: usize) -> anyhow::Result<()> {
        for number in 0..count {
            let place = 2 + number;
            let seat = self.stage.seat(place, self.stage.work.join(format!("turn/member{place}")), Cores::Any);
            let mut waiting = self.server.start_waiting(&seat)?;
            if let Some(process) = &mut waiting {
                self.stage.wait_until_served(process, &seat)?;
            }
            let told = self.server.tell(&seat, &self.source)?;
            self.companions.extend(waiting.into_iter().chain(told));
            let (mut source, mut client) = (self.source_client()?, None);
            wait_until(SERVED_LIMIT, || {
                client = seat.connect(self.stage.network).ok();
                Ok(client.is_some())
            })?;
            let mut client = client.context("no connection to a companion")?;
            self.wait_whole(&mut source, &mut client)?;
            self.server.prove_equal(&mut source, &mut client)?;
        }
        Ok(())
    }

    /// Polls until the joiner has everything.
    pub(crate) fn wait_whole(&self, source: &mut Client, joiner: &mut Client) -> anyhow::Result<()> {
        wait_until(WHOLE_LIMIT, || {
            self.stage.go_on()?;
            std::thread::sleep(STATUS_INTERVAL);
            self.server.is_whole(source, joiner)
        })
        .context("the joiner does not become whole")
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.companions.clear();
    }
}

const SERVED_LIMIT: Duration = Duration::from_secs(120);
const WHOLE_LIMIT: Duration = Duration::from_secs(900);
/// Asking more often would disturb both ends.
const STATUS_INTERVAL: Duration = Duration::from_millis(4);
