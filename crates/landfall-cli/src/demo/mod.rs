//! `landfall demo`: the whole story on one machine, with real processes, real data and TLS. Every figure is measured.

mod cast;
mod compare;
mod dataset;
mod files;
mod narrator;
mod random;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use clap::Args;

use crate::failure::Failure;
use crate::output::Output;
use crate::{Verdict, signals};

/// See it work: two sources and a joiner as real processes on this machine, on real data, in under a minute
///
/// Everything happens in a temporary directory (TMPDIR says where), which is removed at the end. It needs about six times
/// the space of the data.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A directory to show it on; it is copied and never touched [default: a SQLite database and small files, built now]
    path: Option<PathBuf>,
    /// Leave everything in place at the end, and say where
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    if let Some(path) = arguments.path.as_deref().filter(|path| !path.is_dir()) {
        return Err(Failure::new(format!("{} is not a directory", path.display())).next("name one, or none"));
    }
    let place = tempfile::Builder::new().prefix("landfall-demo-").tempdir();
    let mut place = place.map_err(|error| Failure::new("cannot make a temporary directory").because(&error))?;
    place.disable_cleanup(arguments.keep);
    let cast = cast::Cast::new()?;
    let interrupted = end_on_interrupt(&cast)?;
    let told = files::tell(arguments.path.as_deref(), place.path(), &cast, output);
    if arguments.keep {
        output.say(format!("\nEverything is in {}", place.path().display()));
    }
    drop(cast);
    let removed = remove(place, arguments.keep);
    if interrupted.load(Ordering::Acquire) {
        return Err(Failure::interrupted("the demo was interrupted; its processes were ended"));
    }
    told?;
    removed?;
    Ok(Verdict::Good)
}

fn end_on_interrupt(cast: &cast::Cast) -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let (noted, kill) = (interrupted.clone(), cast.killer());
    signals::on(&signals::STOP, move |_| {
        noted.store(true, Ordering::Release);
        kill();
    })?;
    Ok(interrupted)
}

fn remove(place: tempfile::TempDir, keep: bool) -> Result<(), Failure> {
    if keep {
        return Ok(());
    }
    let path: PathBuf = Path::new(place.path()).to_owned();
    let failed = |error: std::io::Error| Failure::new(format!("cannot remove {}", path.display())).because(&error);
    remove_side_by_side(place.path()).map_err(failed)?;
    place.close().map_err(failed)
}

/// Many a disk takes milliseconds for each small file, but does several at a time.
fn remove_side_by_side(place: &Path) -> std::io::Result<()> {
    let mut directories = Vec::new();
    for entry in std::fs::read_dir(place)? {
        let documents = entry?.path().join(dataset::DOCUMENTS);
        if documents.is_dir() {
            let below = std::fs::read_dir(documents)?.map(|entry| Ok(entry?.path()));
            directories.extend(below.collect::<std::io::Result<Vec<_>>>()?);
        }
    }
    let next = AtomicUsize::new(0);
    let remove = || -> std::io::Result<()> {
        while let Some(directory) = directories.get(next.fetch_add(1, Ordering::Relaxed)) {
            std::fs::remove_dir_all(directory)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..REMOVERS).map(|_| scope.spawn(remove)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("removing does not panic"))
    })
}

const REMOVERS: usize = 16;

const EXAMPLES: &str = "\
Examples:
  landfall demo
  landfall demo /usr/share/doc
  TMPDIR=/var/tmp landfall demo --keep";
