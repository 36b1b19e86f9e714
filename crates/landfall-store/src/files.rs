//! Owns the open handles of packs: few enough for any limit on open files, kept while they are used.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::lock::lock;
use crate::pack::PackNumber;
use crate::vfs::{OpenMode, Vfs, VfsFile};

/// Handles for reading, the least recently used one closed first.
#[derive(Debug, Default)]
pub(crate) struct OpenPacks {
    handles: Mutex<Handles>,
}

#[derive(Debug, Default)]
struct Handles {
    open: BTreeMap<PackNumber, (Arc<dyn VfsFile>, u64)>,
    uses: u64,
}

impl OpenPacks {
    pub(crate) fn get(&self, vfs: &dyn Vfs, path: &Path, number: PackNumber) -> io::Result<Arc<dyn VfsFile>> {
        let mut handles = lock(&self.handles);
        if let Some(file) = handles.used(number) {
            return Ok(file);
        }
        drop(handles);
        let file = vfs.open(path, OpenMode::Read)?;
        handles = lock(&self.handles);
        handles.insert(number, Arc::clone(&file));
        Ok(file)
    }

    pub(crate) fn insert(&self, number: PackNumber, file: Arc<dyn VfsFile>) {
        lock(&self.handles).insert(number, file);
    }

    pub(crate) fn remove(&self, number: PackNumber) {
        lock(&self.handles).open.remove(&number);
    }
}

impl Handles {
    fn used(&mut self, number: PackNumber) -> Option<Arc<dyn VfsFile>> {
        self.uses += 1;
        let (file, used) = self.open.get_mut(&number)?;
        *used = self.uses;
        Some(Arc::clone(file))
    }

    fn insert(&mut self, number: PackNumber, file: Arc<dyn VfsFile>) {
        self.uses += 1;
        self.open.insert(number, (file, self.uses));
        if self.open.len() > OPEN_PACKS_MAX {
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number);
            oldest.map(|number| self.open.remove(&number));
        }
    }
}

const OPEN_PACKS_MAX: usize = 128;
