//! Owns one file while its content arrives: built beside the old one, chunk by chunk, from any thread.
//!
//! Only verified bytes go in. What is in it already, from a pull that was cut short, is for the caller to hash again.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use landfall_core::files::{FilePath, Meta};
use landfall_core::limits::CHUNK_BYTES_MAX;
use landfall_core::tree::ChunkRef;
use landfall_core::{ChunkId, Domain, Proven};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::error::PlaceError;
use super::ground::Ground;
use super::{edge, sweep};

/// A file under construction. Every method may be called from any thread; ranges that are written at once must not overlap.
pub struct StagedFile {
    pub(super) ground: Arc<Ground>,
    pub(super) path: FilePath,
    pub(super) meta: Meta,
    pub(super) size: u64,
    pub(super) file: File,
    pub(super) old: Option<File>,
    pub(super) origin: Origin,
}

/// Where a staged file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was just created: all of it is a hole.
    New,
    /// A pull that was cut short left it: any of its ranges may hold anything.
    Resumed,
}

impl StagedFile {
    /// The file's path in the snapshot.
    pub fn path(&self) -> &FilePath {
        &self.path
    }

    /// The length it was created with.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Was it here already?
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Is there an old file at the path, to copy from?
    pub fn has_old(&self) -> bool {
        self.old.is_some()
    }

    /// Writes a verified chunk at `offset`. A chunk of zeros takes no space.
    pub fn write_chunk(&self, offset: u64, chunk: Proven<'_>) -> Result<(), PlaceError> {
        if chunk.domain() != Domain::Data {
            return Err(self.refuse("a tree node is no content"));
        }
        self.write_verified(offset, chunk.bytes())
    }

    /// Makes a range read as zeros: the snapshot has a hole there.
    pub fn write_hole(&self, offset: u64, length: u64) -> Result<(), PlaceError> {
        self.check_range(offset, length)?;
        if self.origin == Origin::New || length == 0 {
            return Ok(());
        }
        self.ground.edge.punch(&self.file, offset, length).map_err(self.ground.refused("write", &self.path))
    }

    /// Reads what is staged at `offset` into all of `buffer`. The bytes carry no proof.
    pub fn read_range(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PlaceError> {
        self.check_range(offset, buffer.len() as u64)?;
        self.file.read_exact_at(buffer, offset).map_err(self.ground.refused("read", &self.path))
    }

    /// Copies `buffer.len()` bytes at `old_offset` of the old file to `offset`, if they are the content of `expected`.
    ///
    /// Returns if they were: a file that is shorter or holds anything else, or is written to meanwhile, gives no. `buffer`
    /// is the caller's so that it can be used again; its content after the call means nothing.
    pub fn copy_from_old(
        &self,
        old_offset: u64,
        offset: u64,
        expected: ChunkId,
        buffer: &mut [u8],
    ) -> Result<Copied, PlaceError> {
        let Some(old) = &self.old else { return Ok(Copied::No) };
        self.check_range(offset, buffer.len() as u64)?;
        if !read_at(old, old_offset, buffer).map_err(self.ground.refused("read", &self.path))? {
            return Ok(Copied::No);
        }
        if ChunkId::of(Domain::Data, buffer) != expected {
            return Ok(Copied::No);
        }
        self.ground.done_with_old(old, old_offset, buffer.len());
        self.write_verified(offset, buffer)?;
        Ok(Copied::Yes)
    }

    /// Reads the old file at `offset` into all of `buffer`. Returns false if it is not there or shorter. The bytes carry no proof.
    pub fn read_old(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, PlaceError> {
        let Some(old) = &self.old else { return Ok(false) };
        let found = read_at(old, offset, buffer).map_err(self.ground.refused("read", &self.path))?;
        self.ground.done_with_old(old, offset, buffer.len());
        Ok(found)
    }

    /// The ranges that may hold anything but zeros, in order.
    pub fn data_extents(&self) -> Result<Vec<Range<u64>>, PlaceError> {
        let mut extents = Vec::new();
        let mut at = 0;
        while let Some(extent) = self.extent_after(at).map_err(self.ground.refused("read", &self.path))? {
            at = extent.end;
            extents.push(extent);
        }
        Ok(extents)
    }

    /// Gives the file its owner, mode and time. Call it once, when all content is here and verified.
    pub fn complete(&self) -> Result<(), PlaceError> {
        self.ground.dress_file(&self.file, &self.path, &self.meta).map_err(self.ground.refused("complete", &self.path))
    }

    fn write_verified(&self, offset: u64, bytes: &[u8]) -> Result<(), PlaceError> {
        self.check_range(offset, bytes.len() as u64)?;
        self.ground.count_written(bytes.len());
        if is_zero(bytes) {
            return self.write_hole(offset, bytes.len() as u64);
        }
        self.ground.edge.write_at(&self.file, bytes, offset).map_err(self.ground.refused("write", &self.path))
    }

    fn extent_after(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(None),
            // A file system that knows no holes: all of it may hold data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at < self.size).then_some(at..self.size)),
            result => result?,
        };
        let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start))?;
        Ok(Some(start..end))
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<(), PlaceError> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(self.refuse("the bytes lie beyond its end")),
        }
    }

    fn refuse(&self, reason: &'static str) -> PlaceError {
        PlaceError::Refused { path: self.path.clone(), reason }
    }
}

/// Did the old file hold the expected bytes?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// They are staged now.
    Yes,
    /// Fetch them.
    No,
}

/// Opens the staged file `name`, or creates it.
pub(super) fn open_or_create(ground: &Ground, at: &OwnedFd, name: &[u8]) -> io::Result<(File, Origin)> {
    match ground.edge.create(at, name, 0o600) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return Ok((result?, Origin::New)),
    }
    // What has more than one name may be somebody's content; it is not written to.
    let stat = edge::stat(at, name)?;
    if stat.is_some_and(|stat| edge::is_regular(&stat) && stat.st_nlink == 1) {
        return Ok((reopen(ground, at, name)?, Origin::Resumed));
    }
    sweep::remove(&ground.edge, at, name)?;
    Ok((ground.edge.create(at, name, 0o600)?, Origin::New))
}

/// A new file counts as new only where the file system says that it is one hole: else what was written cannot be told from what
/// was not, and every range must be hashed.
pub(super) fn trusted_origin(file: &File, origin: Origin) -> Origin {
    match (origin, rustix::fs::seek(file, SeekFrom::Data(0))) {
        (Origin::New, Err(Errno::NXIO)) => Origin::New,
        _ => Origin::Resumed,
    }
}

/// An earlier pull may have completed the file, with a mode that lets nobody write.
fn reopen(ground: &Ground, at: &OwnedFd, name: &[u8]) -> io::Result<File> {
    let open = || rustix::fs::openat(at, name, OFlags::RDWR | CAREFULLY, Mode::empty());
    match open() {
        Err(Errno::ACCESS) => {
            ground.edge.set_mode(at, name, 0o600)?;
            Ok(open()?.into())
        }
        result => Ok(result?.into()),
    }
}

/// Creates a file with all its content at once. What an earlier pull left under the name is in the way.
pub(super) fn create_small(
    ground: &Ground,
    at: &OwnedFd,
    name: &[u8],
    path: &FilePath,
    meta: &Meta,
    bytes: &[u8],
) -> io::Result<()> {
    let create = || ground.edge.create(at, name, Ground::mode_at_creation(meta));
    let file = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            sweep::remove(&ground.edge, at, name)?;
            create()?
        }
        result => result?,
    };
    if !bytes.is_empty() {
        ground.edge.write_at(&file, bytes, 0)?;
    }
    ground.dress_new_file(&file, path, meta)
}

/// Opens a file that holds just the bytes of `chunk` and has no other name.
pub(super) fn open_whole(at: &OwnedFd, name: &[u8], chunk: ChunkRef) -> io::Result<Option<File>> {
    let Some(mut file) = open_regular(at, name)? else { return Ok(None) };
    let stat = rustix::fs::fstat(&file)?;
    if stat.st_size as u64 != u64::from(chunk.bytes) || stat.st_nlink != 1 || chunk.bytes > CHUNK_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(chunk.bytes as usize);
    file.read_to_end(&mut bytes)?;
    Ok((ChunkId::of(Domain::Data, &bytes) == chunk.id).then_some(file))
}

/// Reads all of `buffer`; false if the file is shorter.
pub(super) fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact_at(buffer, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        result => result.map(|()| true),
    }
}

/// Opens a regular file to read, if there is one that may be read.
pub(super) fn open_regular(at: &OwnedFd, name: &[u8]) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | CAREFULLY;
    match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Ok(file) => Ok(edge::is_regular(&rustix::fs::fstat(&file)?).then(|| file.into())),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ACCESS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

const CAREFULLY: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// Looks a page at a time, so that content is told from zeros after its first bytes.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(256).all(|run| run.iter().fold(0, |all, byte| all | byte) == 0)
}
