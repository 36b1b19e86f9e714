//! Owns the question of who has files open that a pull is about to replace.

use std::collections::BTreeMap;
use std::{fmt, io};

use landfall_core::files::FilePath;

use super::error::PlaceError;
use super::operation::{Operation, PlanReader};
use super::{DRAFT, Placement, edge};

/// A process that has a file open which the recorded plan replaces or removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The file.
    pub path: FilePath,
    /// The process.
    pub pid: u32,
    /// What it calls itself.
    pub command: String,
}

/// Who has files open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holders {
    count: u64,
    listed: Vec<Holder>,
    unseen_processes: u64,
}

impl Holders {
    /// Does nobody have any of the files open, as far as this process may know?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many pairs of file and process there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first of them, in key order.
    pub fn listed(&self) -> &[Holder] {
        &self.listed
    }

    /// Processes of other users, of which this one may not know what they have open.
    pub fn unseen_processes(&self) -> u64 {
        self.unseen_processes
    }
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Holder { path, pid, command } in &self.listed {
            writeln!(f, "  {path}: process {pid} ({command})")?;
        }
        match self.count - self.listed.len() as u64 {
            0 => {}
            more => writeln!(f, "  … and {more} more")?,
        }
        match self.unseen_processes {
            0 => Ok(()),
            unseen => writeln!(f, "  {unseen} processes of other users cannot be looked into"),
        }
    }
}

/// Holders that are listed; more are counted.
const HOLDERS_LISTED_MAX: usize = 20;

impl Placement {
    /// Finds other processes that have files open which the plan, as far as it was recorded, replaces or removes.
    ///
    /// Files are compared by inode, so another mount or root directory hides nobody. What is only mapped into memory is not
    /// seen. No step can be recorded after this.
    pub fn open_elsewhere(&self) -> Result<Holders, PlaceError> {
        let root = FilePath::root();
        let refused = || self.ground.refused("look at", &root);
        let device = rustix::fs::fstat(self.tree.root()).map_err(|errno| refused()(errno.into()))?.st_dev;
        let open = OpenFiles::of_others(device).map_err(refused())?;
        let mut holders = Holders { unseen_processes: open.unseen_processes, ..Holders::default() };
        self.commit_draft()?;
        let mut plan = PlanReader::open(&self.staging, DRAFT).map_err(|error| self.damaged_plan(error))?;
        while let Some(step) = plan.next_step().map_err(|error| self.damaged_plan(error))? {
            let (Operation::Put { path, .. } | Operation::Remove { path }) = &step else { continue };
            let stat = self.stat(path).map_err(self.ground.refused("look at", path))?;
            let Some(stat) = stat.filter(edge::is_regular) else { continue };
            for pid in open.by_inode.get(&stat.st_ino).into_iter().flatten() {
                holders.count += 1;
                if holders.listed.len() < HOLDERS_LISTED_MAX {
                    holders.listed.push(Holder { path: path.clone(), pid: *pid, command: command(*pid) });
                }
            }
        }
        Ok(holders)
    }
}

/// Inodes of one device that other processes have open.
#[derive(Default)]
struct OpenFiles {
    by_inode: BTreeMap<u64, Vec<u32>>,
    unseen_processes: u64,
}

impl OpenFiles {
    fn of_others(device: u64) -> io::Result<Self> {
        let mut open = Self::default();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if pid != std::process::id() {
                open.add_process(pid, device);
            }
        }
        Ok(open)
    }

    fn add_process(&mut self, pid: u32, device: u64) {
        let descriptors = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(descriptors) => descriptors,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.unseen_processes += 1;
                return;
            }
            // It ended meanwhile.
            Err(_) => return,
        };
        for descriptor in descriptors.flatten() {
            let Ok(stat) = rustix::fs::stat(descriptor.path()) else { continue };
            if stat.st_dev != device || !edge::is_regular(&stat) {
                continue;
            }
            let pids = self.by_inode.entry(stat.st_ino).or_default();
            if pids.last() != Some(&pid) {
                pids.push(pid);
            }
        }
    }
}

fn command(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).map(|name| name.trim().to_owned()).unwrap_or_default()
}
