//! Owns the control file: records, pins and leases, each change atomic and durable when it returns.
//!
//! It is a `redb` database over the store's own [`Vfs`]. It never holds chunks, and knows no clock: times are arguments.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use landfall_core::ChunkId;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};

use crate::error::StoreError;
use crate::lock::lock;
use crate::vfs::{OpenMode, Vfs, VfsFile};

/// Milliseconds since 1970. Leases outlive the process, so their time must as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

/// What keeps a snapshot alive until somebody removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Who keeps it, and why.
    pub name: String,
    /// The root of what is kept.
    pub manifest: ChunkId,
}

/// A pin that ends by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who keeps it, and why.
    pub name: String,
    /// The root of what is kept.
    pub manifest: ChunkId,
    /// Greater than that of every lease granted before: whoever holds an older version is fenced off.
    pub version: u64,
    /// From this instant on it keeps nothing.
    pub expires: UnixMillis,
}

/// Changes of pins and records that take effect together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// By name: what is pinned, or that nothing is any more.
    pins: Vec<(String, Option<ChunkId>)>,
    records: Vec<(String, Vec<u8>)>,
}

impl Changes {
    /// Pins a manifest, in place of what the name kept before.
    pub fn pin(&mut self, name: impl Into<String>, manifest: ChunkId) {
        self.pins.push((name.into(), Some(manifest)));
    }

    /// Removes a pin; one that is not there is fine.
    pub fn unpin(&mut self, name: impl Into<String>) {
        self.pins.push((name.into(), None));
    }

    /// Writes a control record.
    pub fn set_record(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.records.push((key.into(), value.into()));
    }

    /// Does anything get pinned?
    pub(crate) fn pins_something(&self) -> bool {
        self.pins.iter().any(|(_, manifest)| manifest.is_some())
    }
}

/// Why a lease was not renewed or released.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else was granted this lease since: stop using it.
    #[error("lease '{name}' was granted again as version {current}; version {held} is void")]
    Fenced {
        /// Name of the lease.
        name: String,
        /// The version of the caller.
        held: u64,
        /// The version that holds.
        current: u64,
    },
    /// It ended: ask for a new one, and look again at what is here.
    #[error("lease '{name}' has ended")]
    Ended {
        /// Name of the lease.
        name: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The open control file.
pub(crate) struct Control {
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
    /// Empty after a failure: `redb` must be opened again to know what the disk holds.
    database: Mutex<Option<Database>>,
}

impl Control {
    pub(crate) fn open(vfs: Arc<dyn Vfs>, directory: &Path) -> Result<Self, StoreError> {
        let control = Self { vfs, path: directory.join(FILE_NAME), database: Mutex::new(None) };
        control.create_if_missing(directory)?;
        control.with_database(|_| Ok(()))?;
        Ok(control)
    }

    pub(crate) fn record(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|transaction| {
            let records = transaction.open_table(RECORDS)?;
            Ok(records.get(key)?.map(|value| value.value().to_vec()))
        })
    }

    pub(crate) fn records(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.read(|transaction| {
            let mut found = Vec::new();
            for record in transaction.open_table(RECORDS)?.range(prefix..)? {
                let (key, value) = record?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        })
    }

    /// Makes all of `changes`, in one transaction.
    pub(crate) fn change(&self, changes: &Changes) -> Result<(), StoreError> {
        for (key, value) in &changes.records {
            check_name(key)?;
            check_bytes("a record", value.len(), RECORD_BYTES_MAX)?;
        }
        changes.pins.iter().try_for_each(|(name, _)| check_name(name))?;
        self.write(|transaction| {
            let mut records = transaction.open_table(RECORDS)?;
            for (key, value) in &changes.records {
                records.insert(key.as_str(), value.as_slice())?;
            }
            let mut pins = transaction.open_table(PINS)?;
            for (name, manifest) in &changes.pins {
                match manifest {
                    Some(manifest) => pins.insert(name.as_str(), manifest.as_bytes())?,
                    None => pins.remove(name.as_str())?,
                };
            }
            Ok(())
        })
    }

    pub(crate) fn remove_record(&self, key: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.open_table(RECORDS)?.remove(key)?;
            Ok(())
        })
    }

    pub(crate) fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        self.read(|transaction| {
            let mut pins = Vec::new();
            for pin in transaction.open_table(PINS)?.iter()? {
                let (name, manifest) = pin?;
                pins.push(Pin { name: name.value().to_owned(), manifest: ChunkId::from_bytes(*manifest.value()) });
            }
            Ok(pins)
        })
    }

    pub(crate) fn grant_lease(&self, name: &str, manifest: ChunkId, expires: UnixMillis) -> Result<Lease, StoreError> {
        check_name(name)?;
        self.write(|transaction| {
            let mut counters = transaction.open_table(COUNTERS)?;
            let version = counters.get(LEASE_VERSION)?.map_or(0, |version| version.value()) + 1;
            counters.insert(LEASE_VERSION, version)?;
            transaction.open_table(LEASES)?.insert(name, (manifest.as_bytes(), version, expires.0))?;
            Ok(Lease { name: name.to_owned(), manifest, version, expires })
        })
    }

    pub(crate) fn renew_lease(
        &self,
        held: &Lease,
        manifest: ChunkId,
        expires: UnixMillis,
        now: UnixMillis,
    ) -> Result<Lease, LeaseError> {
        let renewed = Lease { manifest, expires, ..held.clone() };
        self.change_lease(held, |transaction, current| {
            if current.expires <= now {
                return Ok(Err(LeaseError::Ended { name: held.name.clone() }));
            }
            let value = (manifest.as_bytes(), held.version, expires.0);
            transaction.open_table(LEASES)?.insert(held.name.as_str(), value)?;
            Ok(Ok(renewed))
        })
    }

    pub(crate) fn release_lease(&self, held: &Lease) -> Result<(), LeaseError> {
        self.change_lease(held, |transaction, _| {
            transaction.open_table(LEASES)?.remove(held.name.as_str())?;
            Ok(Ok(()))
        })
    }

    pub(crate) fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.read(|transaction| {
            let mut leases = Vec::new();
            for lease in transaction.open_table(LEASES)?.iter()? {
                let (name, value) = lease?;
                leases.push(lease_of(name.value(), value.value()));
            }
            Ok(leases)
        })
    }

    pub(crate) fn end_leases(&self, now: UnixMillis) -> Result<Vec<Lease>, StoreError> {
        let mut ended = self.leases()?;
        ended.retain(|lease| lease.expires <= now);
        if ended.is_empty() {
            return Ok(ended);
        }
        self.write(|transaction| {
            let mut leases = transaction.open_table(LEASES)?;
            // A lease that was granted again in between has another version and another time.
            leases.retain(|_, (_, _, expires)| expires > now.0)?;
            Ok(ended)
        })
    }

    /// Runs `change` if `held` is still the lease that holds.
    fn change_lease<T>(
        &self,
        held: &Lease,
        change: impl FnOnce(&WriteTransaction, &Lease) -> Result<Result<T, LeaseError>, redb::Error>,
    ) -> Result<T, LeaseError> {
        self.write(|transaction| {
            let current = {
                let leases = transaction.open_table(LEASES)?;
                leases.get(held.name.as_str())?.map(|value| lease_of(&held.name, value.value()))
            };
            match current {
                None => Ok(Err(LeaseError::Ended { name: held.name.clone() })),
                Some(current) if current.version != held.version => Ok(Err(LeaseError::Fenced {
                    name: held.name.clone(),
                    held: held.version,
                    current: current.version,
                })),
                Some(current) => change(transaction, &current),
            }
        })?
    }

    fn read<T>(&self, read: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        self.with_database(|database| read(&database.begin_read()?))
    }

    fn write<T>(&self, change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        self.with_database(|database| {
            let mut transaction = database.begin_write()?;
            // With one phase a torn commit is found by its checksum alone; with two it cannot be mistaken for a whole one.
            transaction.set_two_phase_commit(true);
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    fn with_database<T>(&self, run: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let mut slot = lock(&self.database);
        let result = match slot.take() {
            Some(database) => Ok(database),
            None => self.open_database(),
        }
        .and_then(|database| {
            let result = run(&database)?;
            *slot = Some(database);
            Ok(result)
        });
        result.map_err(|source| StoreError::Control { path: self.path.clone(), source: Box::new(source) })
    }

    fn open_database(&self) -> Result<Database, redb::Error> {
        let file = self.vfs.open(&self.path, OpenMode::Write).map_err(redb::StorageError::Io)?;
        Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(ControlFile(file))?)
    }

    /// Creates the file under another name first: it must never be seen half made.
    fn create_if_missing(&self, directory: &Path) -> Result<(), StoreError> {
        let names = self.vfs.list(directory).map_err(|error| StoreError::io("list", directory, error))?;
        let new_path = self.path.with_extension(NEW_EXTENSION);
        if names.iter().any(|name| name == NEW_FILE_NAME) {
            self.vfs.remove(&new_path).map_err(|error| StoreError::io("remove", &new_path, error))?;
        }
        if names.iter().any(|name| name == FILE_NAME) {
            return Ok(());
        }
        self.create(&new_path)
            .map_err(|source| StoreError::Control { path: new_path.clone(), source: Box::new(source) })?;
        self.vfs.rename(&new_path, &self.path).map_err(|error| StoreError::io("rename", &new_path, error))?;
        self.vfs.sync_directory(directory).map_err(|error| StoreError::io("sync", directory, error))
    }

    fn create(&self, path: &Path) -> Result<(), redb::Error> {
        let file = self.vfs.open(path, OpenMode::CreateNew).map_err(redb::StorageError::Io)?;
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(ControlFile(file.clone()))?;
        let mut transaction = database.begin_write()?;
        transaction.set_two_phase_commit(true);
        transaction.open_table(RECORDS)?;
        transaction.open_table(PINS)?;
        transaction.open_table(LEASES)?;
        transaction.open_table(COUNTERS)?;
        transaction.commit()?;
        drop(database);
        file.sync_data().map_err(redb::StorageError::Io)?;
        Ok(())
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({})", self.path.display())
    }
}

/// `redb`'s view of a file of ours. The store's own lock keeps others out.
#[derive(Debug)]
struct ControlFile(Arc<dyn VfsFile>);

impl StorageBackend for ControlFile {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_bytes(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write_at(offset, data)
    }
}

type LeaseValue = (&'static [u8; ChunkId::BYTES], u64, u64);

fn lease_of(name: &str, (manifest, version, expires): (&[u8; ChunkId::BYTES], u64, u64)) -> Lease {
    let manifest = ChunkId::from_bytes(*manifest);
    Lease { name: name.to_owned(), manifest, version, expires: UnixMillis(expires) }
}

fn check_name(name: &str) -> Result<(), StoreError> {
    check_bytes("a name", name.len(), NAME_BYTES_MAX)
}

fn check_bytes(what: &'static str, bytes: usize, bytes_max: usize) -> Result<(), StoreError> {
    if bytes > bytes_max { Err(StoreError::TooLong { what, bytes, bytes_max }) } else { Ok(()) }
}

/// Longest name of a record, a pin or a lease.
pub const NAME_BYTES_MAX: usize = 512;
/// Longest record. Records are heads and journals, not data.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024;
const FILE_NAME: &str = "control.redb";
const NEW_EXTENSION: &str = "new";
const NEW_FILE_NAME: &str = "control.new";
const CACHE_BYTES: usize = 4 * 1024 * 1024;
const LEASE_VERSION: &str = "lease-version";
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const PINS: TableDefinition<'_, &str, &[u8; ChunkId::BYTES]> = TableDefinition::new("pins");
const LEASES: TableDefinition<'_, &str, LeaseValue> = TableDefinition::new("leases");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
