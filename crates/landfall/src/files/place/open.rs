//! Owns the question of what a destination is, before anything in it is touched, and who may change it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::beneath::{Beneath, Obstacles};
use super::edge::{self, Edge};
use super::error::PlaceError;
use super::execute::open_directory;
use super::ground::Ground;
use super::journal::Journal;
use super::operation::PlanWriter;
use super::record::Recorder;
use super::{CONTROL, DRAFT, JOURNAL, Kind, LOCK, PREVIOUS_NEW, Placement, STAGED_FILES, STAGING, sweep};

/// Opens `destination`, whatever it is.
pub(super) fn open(destination: &Path, edge: Edge) -> Result<Placement, PlaceError> {
    let destination = &resolve(destination)?;
    for _ in 0..ATTEMPTS_MAX {
        let place = match classify(destination)? {
            Found::Ours => Place { path: destination.clone(), kind: Kind::Update },
            Found::Nothing | Found::Empty => prepare_first(destination, &edge)?,
        };
        // Whoever held the lock may have moved the directory while we waited for it.
        if let Some(placement) = lock_and_open(destination, place, &edge)? {
            return Ok(placement);
        }
    }
    Err(PlaceError::Busy(destination.clone()))
}

/// Lets what a first pull built become the destination.
pub(super) fn replace_destination(ground: &Ground, incoming: &Path) -> Result<(), PlaceError> {
    let destination = &ground.destination;
    let parent =
        open_directory(CWD, bytes_of(parent_of(destination))).map_err(io_error("open", parent_of(destination)))?;
    ground.edge.rename(CWD, bytes_of(incoming), CWD, bytes_of(destination)).map_err(
        |source| match Errno::from_io_error(&source) {
            Some(Errno::NOTEMPTY | Errno::EXIST) => not_ours(destination, found_in(destination)),
            Some(Errno::NOTDIR) => PlaceError::NotADirectory(destination.clone()),
            _ => io_error("replace", destination)(source),
        },
    )?;
    ground.edge.sync_directory(&parent).map_err(io_error("sync", parent_of(destination)))
}

/// What stands at the destination.
enum Found {
    Nothing,
    Empty,
    Ours,
}

/// Where a pull builds, and how.
struct Place {
    path: PathBuf,
    kind: Kind,
}

fn classify(destination: &Path) -> Result<Found, PlaceError> {
    let directory = match open_directory(CWD, bytes_of(destination)) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTDIR) => {
            return Err(PlaceError::NotADirectory(destination.to_owned()));
        }
        Err(error) => return Err(io_error("open", destination)(error)),
    };
    let control = edge::stat(&directory, CONTROL.as_bytes()).map_err(io_error("look at", destination))?;
    if control.is_some_and(|stat| edge::is_directory(&stat)) {
        return Ok(Found::Ours);
    }
    let names = sweep::names(&directory).map_err(io_error("list", destination))?;
    match names.iter().find(|name| name != &LOST_AND_FOUND) {
        Some(found) => Err(not_ours(destination, found.escape_ascii().to_string())),
        None => Ok(if names.is_empty() { Found::Empty } else { Found::Ours }),
    }
}

/// Chooses between building beside the destination and, where it cannot be replaced as a whole, inside it.
fn prepare_first(destination: &Path, edge: &Edge) -> Result<Place, PlaceError> {
    let inside = || Place { path: destination.to_owned(), kind: Kind::Update };
    if !is_replaceable(destination) {
        return Ok(inside());
    }
    let incoming = incoming_of(destination);
    let kind = match edge.make_directory(CWD, bytes_of(&incoming)) {
        Ok(()) => Kind::First,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_incoming(&incoming)?,
        Err(error) if is_unwritable(&error) && destination.is_dir() => return Ok(inside()),
        Err(error) => return Err(io_error("create", &incoming)(error)),
    };
    Ok(Place { path: incoming, kind })
}

/// A mount point cannot be renamed over, nor another user's directory in a place like `/tmp`.
fn is_replaceable(destination: &Path) -> bool {
    let look = |path: &Path, mask| rustix::fs::statx(CWD, path, AtFlags::empty(), mask);
    let Ok(own) = look(destination, StatxFlags::BASIC_STATS) else { return true };
    let Ok(parent) = look(parent_of(destination), StatxFlags::BASIC_STATS) else { return true };
    let same_file_system = (own.stx_dev_major, own.stx_dev_minor) == (parent.stx_dev_major, parent.stx_dev_minor);
    let is_mount_root = own.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    let user = rustix::process::geteuid().as_raw();
    let is_free = u32::from(parent.stx_mode) & 0o1000 == 0 || [0, own.stx_uid, parent.stx_uid].contains(&user);
    same_file_system && !is_mount_root && is_free
}

/// What an earlier pull left is gone on with; anything else of that name is somebody's.
fn check_incoming(incoming: &Path) -> Result<Kind, PlaceError> {
    let directory = open_directory(CWD, bytes_of(incoming)).map_err(io_error("open", incoming))?;
    let control = edge::stat(&directory, CONTROL.as_bytes()).map_err(io_error("look at", incoming))?;
    if control.is_some_and(|stat| edge::is_directory(&stat)) {
        return Ok(Kind::ResumedFirst);
    }
    match sweep::names(&directory).map_err(io_error("list", incoming))?.first() {
        Some(found) => Err(not_ours(incoming, found.escape_ascii().to_string())),
        None => Ok(Kind::First),
    }
}

fn lock_and_open(destination: &Path, place: Place, edge: &Edge) -> Result<Option<Placement>, PlaceError> {
    let failed = |source| io_error("open", &place.path)(source);
    let root = match open_directory(CWD, bytes_of(&place.path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(failed)?,
    };
    if place.kind != Kind::Update {
        inherit_nothing(edge, &root).map_err(failed)?;
    }
    let control = ensure_directory(edge, &root, CONTROL).map_err(failed)?;
    inherit_nothing(edge, &control).map_err(failed)?;
    let lock = lock(&control, destination)?;
    if !is_still_at(&root, &place.path) {
        return Ok(None);
    }
    assemble(destination, place, edge, Opened { root, control, lock }).map(Some)
}

struct Opened {
    root: OwnedFd,
    control: OwnedFd,
    lock: Lock,
}

/// The right to change a destination.
pub(super) struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is just being started holds a copy of the handle until it runs its program. If
        // unlocking fails, closing is all that is left to do.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

fn assemble(destination: &Path, place: Place, edge: &Edge, opened: Opened) -> Result<Placement, PlaceError> {
    let failed = |source| io_error("open", &place.path.join(CONTROL))(source);
    let Opened { root, control, lock } = opened;
    let ground = Ground::new(edge.clone(), destination.to_owned(), root.try_clone().map_err(failed)?, &control);
    let ground = Arc::new(ground.map_err(failed)?);
    let journal = Journal::read(&control)
        .map_err(|source| PlaceError::Damaged { file: place.path.join(CONTROL).join(JOURNAL), source })?;
    let staging = ensure_directory(edge, &control, STAGING).map_err(failed)?;
    let files = ensure_directory(edge, &staging, STAGED_FILES).map_err(failed)?;
    let recorder = Recorder::new(PlanWriter::create(&staging, DRAFT).map_err(failed)?);
    let obstacles = if place.kind == Kind::Update { Obstacles::Refuse } else { Obstacles::Remove };
    let mut placement = Placement {
        kind: place.kind,
        ground,
        tree: Beneath::new(root, edge.clone(), obstacles),
        path: place.path,
        control,
        staging,
        staged: Beneath::new(files, edge.clone(), Obstacles::Remove),
        recorder: Mutex::new(recorder),
        recovered: None,
        _lock: lock,
    };
    match journal {
        Some(journal) => {
            placement.recovered = Some(placement.roll_forward(&journal)?);
            placement.begin_again()?;
        }
        // A way back that was being made leads nowhere: the pull that made it did not happen.
        None => sweep::remove(edge, &placement.control, PREVIOUS_NEW.as_bytes())
            .map_err(io_error("tidy", &placement.control_directory()))?,
    }
    Ok(placement)
}

impl Placement {
    /// Makes the staging directory anew after a plan was carried out.
    fn begin_again(&mut self) -> Result<(), PlaceError> {
        let refused = || self.ground.refused_own("write", Path::new(STAGING));
        let edge = self.ground.edge.clone();
        let files = ensure_directory(&edge, &self.staging, STAGED_FILES).map_err(refused())?;
        let plan = PlanWriter::create(&self.staging, DRAFT).map_err(refused())?;
        self.staged = Beneath::new(files, edge, Obstacles::Remove);
        self.recorder = Mutex::new(Recorder::new(plan));
        self.tree.forget();
        Ok(())
    }
}

fn lock(control: &OwnedFd, destination: &Path) -> Result<Lock, PlaceError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |errno: Errno| io_error("lock", destination)(errno.into());
    let lock = rustix::fs::openat(control, LOCK, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(PlaceError::Busy(destination.to_owned())),
        result => result.map(|()| Lock(lock)).map_err(failed),
    }
}

fn ensure_directory(edge: &Edge, at: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    match edge.make_directory(&at, name.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => open_directory(at, name.as_bytes()),
    }
}

/// Keeps what is made in a directory from taking its group or its access lists.
fn inherit_nothing(edge: &Edge, directory: &OwnedFd) -> io::Result<()> {
    let mode = rustix::fs::fstat(directory)?.st_mode & 0o7777;
    if mode & 0o2000 != 0 {
        rustix::fs::fchmod(directory, Mode::from_raw_mode(mode & !0o2000))?;
    }
    for xattr in [&b"system.posix_acl_default"[..], b"system.posix_acl_access"] {
        match edge.remove_xattr(directory, b".", xattr) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {}
            result => result?,
        }
    }
    Ok(())
}

fn is_still_at(directory: &OwnedFd, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (rustix::fs::fstat(directory), rustix::fs::stat(path)) else { return false };
    (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
}

/// The destination without symlinks, as far as it is there.
fn resolve(destination: &Path) -> Result<PathBuf, PlaceError> {
    match std::fs::canonicalize(destination) {
        Ok(path) => return Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("open", destination)(error)),
    }
    let path = std::path::absolute(destination).map_err(io_error("open", destination))?;
    let parent = std::fs::canonicalize(parent_of(&path)).map_err(io_error("open", parent_of(&path)))?;
    match path.file_name() {
        Some(name) => Ok(parent.join(name)),
        None => Err(PlaceError::NotADirectory(path)),
    }
}

fn incoming_of(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(INCOMING_SUFFIX);
    destination.with_file_name(name)
}

fn found_in(destination: &Path) -> String {
    let names = open_directory(CWD, bytes_of(destination)).and_then(sweep::names).unwrap_or_default();
    names.first().map(|name| name.escape_ascii().to_string()).unwrap_or_default()
}

fn not_ours(destination: &Path, found: String) -> PlaceError {
    PlaceError::NotOurs { destination: destination.to_owned(), found }
}

fn is_unwritable(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ACCESS | Errno::PERM | Errno::ROFS))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError::Io { action, path, source }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn bytes_of(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

const INCOMING_SUFFIX: &str = ".landfall-incoming";
/// What a fresh file system brings along.
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// How often a destination may turn into something else while it is opened.
const ATTEMPTS_MAX: u32 = 4;
