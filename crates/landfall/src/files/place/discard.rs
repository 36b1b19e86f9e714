//! Owns directories that had to make way for a file: moved aside whole, emptied of what the plan removes, and kept if anything
//! is left that the plan does not know.

use std::io;
use std::os::fd::OwnedFd;

use landfall_core::files::FilePath;
use rustix::io::Errno;

use super::beneath::{Beneath, Missing, Obstacles};
use super::error::PlaceError;
use super::execute::{Outcome, open_directory};
use super::finish::Shortfall;
use super::{CONTROL, DISCARDED, DISPLACED, Placement, edge, ground, staged_name, sweep};

impl Placement {
    /// Takes a directory out of the way, with all that is in it, at one instant.
    pub(super) fn discard(&self, path: &FilePath) -> io::Result<()> {
        let directory = match self.ground.edge.make_directory(&self.staging, DISCARDED.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => open_directory(&self.staging, DISCARDED.as_bytes())?,
        };
        let name = staged_name(path);
        self.tree.change(path, Missing::Fail, |at, from| self.ground.edge.rename(at, from, &directory, name.name()))?;
        self.tree.forget();
        Ok(())
    }

    /// Removes what is not at `path` any more from the directory that was on the way to it, if one was moved aside.
    pub(super) fn remove_discarded(&self, path: &FilePath) -> io::Result<Outcome> {
        let Some(discarded) = self.discarded()? else { return Ok(Outcome::Done) };
        let mut above = path.parent();
        while let Some(directory) = above.filter(|above| !above.is_root()) {
            if let Ok(root) = open_directory(&discarded, staged_name(&directory).name()) {
                let rest = path.as_bytes().slice(directory.as_bytes().len() + 1..);
                let rest = FilePath::new(rest).map_err(io::Error::other)?;
                let tree = Beneath::new(root, self.ground.edge.clone(), Obstacles::Refuse);
                return match self.remove_beneath(&tree, &rest) {
                    Err(error) if ground::is_absent(&error) => Ok(Outcome::Done),
                    // What is left keeps the whole of it, and is reported as that.
                    result => result.map(|_| Outcome::Done),
                };
            }
            above = directory.parent();
        }
        Ok(Outcome::Done)
    }

    /// Drops the directories that are empty by now, and moves the others to where people find them.
    pub(super) fn settle_discarded(&self) -> Result<Option<Shortfall>, PlaceError> {
        self.keep_displaced().map_err(self.ground.refused_own("keep", DISPLACED.as_ref()))
    }

    fn keep_displaced(&self) -> io::Result<Option<Shortfall>> {
        let Some(discarded) = self.discarded()? else { return Ok(None) };
        let mut directories = 0;
        for name in sweep::names(&discarded)? {
            match self.ground.edge.remove_directory(&discarded, &name) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTEMPTY) => {}
                result => {
                    result?;
                    continue;
                }
            }
            directories += 1;
            let displaced = self.displaced()?;
            self.ground.edge.rename(&discarded, &name, &displaced, &free_name(&displaced, &name)?)?;
        }
        let kept_in = self.ground.destination.join(CONTROL).join(DISPLACED);
        Ok((directories > 0).then_some(Shortfall::Displaced { directories, kept_in }))
    }

    fn displaced(&self) -> io::Result<OwnedFd> {
        match self.ground.edge.make_directory(&self.control, DISPLACED.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => open_directory(&self.control, DISPLACED.as_bytes()),
        }
    }

    fn discarded(&self) -> io::Result<Option<OwnedFd>> {
        match open_directory(&self.staging, DISCARDED.as_bytes()) {
            Err(error) if ground::is_absent(&error) => Ok(None),
            result => result.map(Some),
        }
    }
}

/// The name, or the name with the first number that makes it free.
fn free_name(at: &OwnedFd, name: &[u8]) -> io::Result<Vec<u8>> {
    let mut free = name.to_vec();
    for number in 1u32.. {
        if edge::stat(at, &free)?.is_none() {
            break;
        }
        free = [name, format!(".{number}").as_bytes()].concat();
    }
    Ok(free)
}
