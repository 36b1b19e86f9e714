//! Owns the translation between the engine's words and those that verbs print: every request about one state ends here.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use landfall::core::ChunkId;
use landfall::core::files::FileKind;
use landfall::core::snapshot::StateName;
use landfall::member::{
    ChangingFiles, DiffReport, Keep, ListedFile, Member, ServeConfig, SnapshotReport, SnapshotSummary, StateConfig,
};
use landfall::net::PlainTransport;

use crate::control::{Answer, Request};
use crate::failure::Failure;
use crate::output;
use crate::record::{Mode, StateRecord};
use crate::reports::{
    Change, Collected, Compared, Damage, Difference, Held, HeldSnapshot, Item, Listed, ListedEntry, Report,
    ReportedPath, Taken, Verified,
};

/// A state that this process has open.
pub(crate) struct OpenState {
    member: Arc<Member>,
    state: StateName,
}

impl OpenState {
    /// A state of a member that serves.
    pub(crate) fn new(member: Arc<Member>, state: StateName) -> Self {
        Self { member, state }
    }

    /// Opens the state in `data` without serving it.
    pub(crate) fn alone(data: &Path) -> Result<Self, Failure> {
        let record = StateRecord::read(data)?;
        let state = StateName::new(record.state.clone()).map_err(|error| Failure::of(&error))?;
        let config = ServeConfig {
            states: vec![StateConfig {
                name: state.clone(),
                directory: record.directory(data),
                data: data.to_owned(),
                keep: record.mode.keep(),
                changing: ChangingFiles::Refuse,
                before_snapshot: None,
                after_snapshot: None,
            }],
            ..ServeConfig::new(Arc::new(PlainTransport))
        };
        let member = Member::serve(config)
            .map_err(|error| Failure::new(format!("cannot open {}", data.display())).because(&error))?;
        Ok(Self::new(Arc::new(member), state))
    }

    /// Takes a snapshot.
    pub(crate) fn take(&self) -> Result<Taken, Failure> {
        let report = self.member.snapshot(&self.state).map_err(|error| {
            Failure::new(format!("no snapshot of '{}' was taken; the one before is served on", self.state))
                .because(&error)
        })?;
        Ok(taken(&self.state, report))
    }

    /// The snapshots that are held, oldest first.
    pub(crate) fn log(&self) -> Result<Vec<HeldSnapshot>, Failure> {
        let log = self.member.log(&self.state).map_err(|error| Failure::of(&error))?;
        let newest = log.len().saturating_sub(1);
        Ok(log.into_iter().enumerate().map(|(at, summary)| held(summary, at == newest)).collect())
    }

    fn tell_log(&self, tell: &mut dyn FnMut(Item)) -> Result<Report, Failure> {
        let log = self.log()?;
        let report = Held { state: self.state.to_string(), snapshots: log.len() as u64 };
        log.into_iter().for_each(|held| tell(Item::Snapshot(held)));
        Ok(Report::Log(report))
    }

    fn list(&self, snapshot: Option<&str>, tell: &mut dyn FnMut(Item)) -> Result<Report, Failure> {
        let snapshot = snapshot.map(|prefix| self.find(prefix)).transpose()?;
        let mut listed = Listed { state: self.state.to_string(), paths: 0, bytes: 0 };
        let mut visit = |file: ListedFile| {
            listed.paths += 1;
            listed.bytes += file.bytes;
            tell(Item::Entry(entry(&file)));
        };
        self.member.list(&self.state, snapshot, &mut visit).map_err(|error| Failure::of(&error))?;
        Ok(Report::List(listed))
    }

    fn diff(&self, old: Option<&str>, new: Option<&str>, tell: &mut dyn FnMut(Item)) -> Result<Report, Failure> {
        let (old, new) = match (old, new) {
            (Some(old), Some(new)) => (self.find(old)?, self.find(new)?),
            (Some(old), None) => (self.find(old)?, self.recent(0)?),
            (None, _) => (self.recent(1)?, self.recent(0)?),
        };
        let report = self.member.diff(&self.state, old, new).map_err(|error| Failure::of(&error))?;
        report.paths.iter().for_each(|line| tell(Item::Difference(difference(line))));
        Ok(Report::Diff(compared(&self.state, old, new, &report)))
    }

    fn verify(&self, tell: &mut dyn FnMut(Item)) -> Result<Report, Failure> {
        let began = Instant::now();
        let report = self.member.verify(&self.state).map_err(|error| Failure::of(&error))?;
        let damaged = report.damages.len() as u64 + report.damages_unlisted;
        for damage in report.damages {
            tell(Item::Damage(Damage { path: damage.place, damage: damage.what }));
        }
        Ok(Report::Verify(Verified {
            state: self.state.to_string(),
            snapshot: report.snapshot,
            root: report.state_root,
            entries: report.entries,
            chunks: report.chunks,
            bytes: report.bytes,
            damaged,
            seconds: began.elapsed().as_secs_f64(),
        }))
    }

    fn collect(&self) -> Result<Report, Failure> {
        let began = Instant::now();
        let report = self.member.collect(&self.state).map_err(|error| Failure::of(&error))?;
        Ok(Report::Collect(Collected {
            state: self.state.to_string(),
            bytes_before: report.bytes_before,
            bytes_after: report.bytes_after,
            packs_removed: report.packs_removed,
            seconds: began.elapsed().as_secs_f64(),
        }))
    }

    fn find(&self, prefix: &str) -> Result<ChunkId, Failure> {
        self.member.find_snapshot(&self.state, prefix).map_err(|error| Failure::of(&error))
    }

    /// The snapshot that is `older` places before the newest.
    fn recent(&self, older: usize) -> Result<ChunkId, Failure> {
        let log = self.log()?;
        let id = log.iter().rev().nth(older).map(|held| held.snapshot.clone()).ok_or_else(|| {
            let held = output::counted(log.len() as u64, "snapshot");
            Failure::new(format!("'{}' has only {held}, and two are needed to compare", self.state)).next(format!(
                "take another where it is published: `landfall snapshot {}`; a pulled copy holds only the newest",
                self.state
            ))
        })?;
        self.find(&id)
    }
}

impl Answer for OpenState {
    fn answer(&self, request: &Request, tell: &mut dyn FnMut(Item)) -> Result<Report, Failure> {
        match request {
            Request::Snapshot => self.take().map(Report::Snapshot),
            Request::Log => self.tell_log(tell),
            Request::List { snapshot } => self.list(snapshot.as_deref(), tell),
            Request::Diff { old, new } => self.diff(old.as_deref(), new.as_deref(), tell),
            Request::Verify => self.verify(tell),
            Request::Collect => self.collect(),
        }
    }
}

impl Mode {
    /// The engine's word.
    pub(crate) fn keep(self) -> Keep {
        match self {
            Self::Store => Keep::Store,
            Self::Frozen => Keep::Frozen,
        }
    }
}

fn taken(state: &StateName, report: SnapshotReport) -> Taken {
    Taken {
        state: state.to_string(),
        snapshot: report.snapshot,
        position: report.position,
        root: report.state_root,
        state_bytes: report.state_bytes,
        entries: report.entries,
        unchanged: !report.changed,
        read_bytes: report.bytes_read,
        seconds: report.seconds,
        skipped: report.skipped,
        torn: report.torn,
    }
}

fn held(summary: SnapshotSummary, newest: bool) -> HeldSnapshot {
    let newest = if newest { "newest" } else { "recent" };
    let pins = [Some(newest), summary.leased.then_some("lease")];
    HeldSnapshot {
        snapshot: summary.snapshot,
        position: summary.position,
        root: summary.state_root,
        state_bytes: summary.bytes,
        entries: summary.entries,
        age_seconds: summary.age_seconds,
        pins: pins.into_iter().flatten().map(str::to_owned).collect(),
        signed: summary.signed,
    }
}

fn entry(file: &ListedFile) -> ListedEntry {
    let (kind, target) = match &file.meta.kind {
        FileKind::Directory => ("directory", None),
        FileKind::Symlink(target) => ("symlink", Some(output::path(target))),
        FileKind::HardLink(first) => ("hardlink", Some(output::path(first.as_bytes()))),
        FileKind::File { .. } => ("file", None),
    };
    ListedEntry {
        path: ReportedPath::new(file.path.as_bytes()),
        kind: kind.to_owned(),
        mode: file.meta.mode,
        bytes: file.bytes,
        modified: file.meta.mtime.seconds,
        target,
    }
}

fn difference(line: &str) -> Difference {
    let (sign, path) = line.split_once(' ').unwrap_or(("~", line));
    let change = match sign {
        "+" => Change::Created,
        "-" => Change::Removed,
        _ => Change::Changed,
    };
    Difference { path: path.to_owned(), change }
}

fn compared(state: &StateName, old: ChunkId, new: ChunkId, report: &DiffReport) -> Compared {
    Compared {
        state: state.to_string(),
        old: old.to_string(),
        new: new.to_string(),
        created: report.created,
        changed: report.changed,
        removed: report.removed,
        unlisted: report.paths_unlisted,
        new_chunks: report.chunks,
        new_bytes: report.bytes,
    }
}
