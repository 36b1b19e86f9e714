//! Owns the end of a pack that is being filled: bytes that its file does not have yet, and that readers may have all the same.
//!
//! A reader waits for a copy in memory at most: never for the disk, nor for whoever fills or finishes the pack.

use std::io;
use std::sync::RwLock;

use bytes::Bytes;

use crate::lock::{read, write};
use crate::vfs::VfsFile;

use super::PackNumber;

/// The end of the open pack of a class. One thread at a time fills it.
#[derive(Debug, Default)]
pub(crate) struct Tail(RwLock<Held>);

#[derive(Debug, Default)]
struct Held {
    pack: Option<PackNumber>,
    /// Where the bytes belong in the file.
    start: u32,
    bytes: Vec<u8>,
}

impl Tail {
    /// Goes on to another pack. What the last one had is in its file.
    pub(super) fn begin(&self, pack: PackNumber, header: &[u8]) {
        let mut held = write(&self.0);
        (held.pack, held.start) = (Some(pack), 0);
        held.bytes.clear();
        held.bytes.extend_from_slice(header);
    }

    pub(super) fn len(&self) -> usize {
        read(&self.0).bytes.len()
    }

    pub(super) fn push(&self, frame: impl FnOnce(&mut Vec<u8>)) {
        frame(&mut write(&self.0).bytes);
    }

    /// Writes what is held to the file; says how much that was. After an error it is still held.
    pub(super) fn flush(&self, file: &dyn VfsFile) -> io::Result<u32> {
        // Readers are not kept out while the file is written: who else would change what is held fills the pack, and is the caller.
        let held = read(&self.0);
        let bytes = held.bytes.len() as u32;
        if bytes > 0 {
            file.write_at(u64::from(held.start), &held.bytes)?;
        }
        drop(held);
        let mut held = write(&self.0);
        held.start += bytes;
        held.bytes.clear();
        Ok(bytes)
    }

    /// The first `bytes` of what stands at `offset` of a pack, unless the file has them.
    pub(crate) fn get(&self, pack: PackNumber, offset: u32, bytes: u32) -> Option<Bytes> {
        let held = read(&self.0);
        let start = offset.checked_sub(held.start).filter(|_| held.pack == Some(pack))? as usize;
        held.bytes.get(start..start + bytes as usize).map(Bytes::copy_from_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;

    use super::*;
    use crate::vfs::faulty::{Fault, FaultyVfs};
    use crate::vfs::{OpenMode, Vfs};

    const PACK: PackNumber = PackNumber(3);

    fn get(tail: &Tail, offset: u32, bytes: u32) -> Option<Vec<u8>> {
        tail.get(PACK, offset, bytes).map(|bytes| bytes.to_vec())
    }

    #[test]
    fn what_the_file_does_not_have_is_read_from_memory() {
        let file = FaultyVfs::new(1).open(Path::new("pack"), OpenMode::CreateNew).unwrap();
        let tail = Tail::default();
        tail.begin(PACK, b"head");
        tail.push(|bytes| bytes.extend(b"frame"));
        assert_eq!(get(&tail, 4, 5).unwrap(), b"frame");
        assert_eq!(get(&tail, 5, 5), None, "more than there is");
        assert_eq!(tail.get(PackNumber(2), 4, 5), None, "another pack");

        assert_eq!(tail.flush(file.as_ref()).unwrap(), 9);
        assert_eq!(get(&tail, 4, 5), None);
        tail.push(|bytes| bytes.extend(b"next"));
        assert_eq!(get(&tail, 9, 4).unwrap(), b"next");
        assert_eq!(tail.flush(file.as_ref()).unwrap(), 4);
        let mut written = [0; 13];
        file.read_at(0, &mut written).unwrap();
        assert_eq!(&written, b"headframenext");

        tail.begin(PackNumber(4), b"head");
        assert_eq!((get(&tail, 0, 4), tail.len()), (None, 4));
    }

    #[test]
    fn what_could_not_be_written_is_held_until_it_can() {
        let vfs = FaultyVfs::new(1);
        let file = vfs.open(Path::new("pack"), OpenMode::CreateNew).unwrap();
        let tail = Tail::default();
        tail.begin(PACK, b"head");
        vfs.fault_at(1, Fault::Fail);
        tail.flush(file.as_ref()).unwrap_err();
        assert_eq!(get(&tail, 0, 4).unwrap(), b"head");
        assert_eq!(tail.flush(file.as_ref()).unwrap(), 4);
    }

    /// A file whose writes last until they are let go.
    #[derive(Debug)]
    struct Slow {
        began: mpsc::SyncSender<()>,
        goes_on: std::sync::Mutex<mpsc::Receiver<()>>,
    }

    impl VfsFile for Slow {
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::ErrorKind::UnexpectedEof.into())
        }

        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            self.began.send(()).unwrap();
            self.goes_on.lock().unwrap().recv().map_err(io::Error::other)
        }

        fn bytes(&self) -> io::Result<u64> {
            Ok(0)
        }

        fn set_bytes(&self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_does_not_wait_for_the_disk() {
        let ((began, begins), (go, goes_on)) = (mpsc::sync_channel(0), mpsc::channel());
        let file = Slow { began, goes_on: goes_on.into() };
        let tail = Tail::default();
        tail.begin(PACK, b"head");
        std::thread::scope(|scope| {
            let flushed = scope.spawn(|| tail.flush(&file));
            begins.recv().unwrap();
            // The write goes on only after this, so a reader that waited for it would wait for ever.
            assert_eq!(get(&tail, 0, 4).unwrap(), b"head");
            go.send(()).unwrap();
            assert_eq!(flushed.join().unwrap().unwrap(), 4);
        });
        assert_eq!(get(&tail, 0, 4), None);
    }
}
