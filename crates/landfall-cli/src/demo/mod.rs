//! `landfall demo`: the whole story on one machine, with real processes, real data and TLS. Every figure is measured.

mod cast;
mod files;
mod live;
mod narrator;
mod random;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::{Args, Subcommand};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::failure::Failure;
use crate::output::Output;
use crate::{Verdict, signals};

/// See it work: members of a key-value service join, are killed and compared under load, in about half a minute
///
/// The same as `landfall demo live`. `landfall demo files` ships a directory instead: one of its own, or yours. Everything happens in a
/// temporary directory (TMPDIR says where), which is removed at the end.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    story: Option<Story>,
    /// Leave everything in place at the end, and say where
    #[arg(long, global = true)]
    keep: bool,
}

#[derive(Subcommand)]
enum Story {
    Files(files::Arguments),
    Live(live::Arguments),
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    if let Some(Story::Files(files)) = &arguments.story {
        files.check()?;
    }
    let place = tempfile::Builder::new().prefix("landfall-demo-").tempdir();
    let mut place = place.map_err(|error| Failure::new("cannot make a temporary directory").because(&error))?;
    place.disable_cleanup(arguments.keep);
    let cast = cast::Cast::new()?;
    let kill = cast.killer();
    signals::on(&ENDINGS, move |_| kill())?;
    let told = match &arguments.story {
        Some(Story::Files(files)) => files::tell(files, place.path(), &cast, output),
        Some(Story::Live(live)) => live::tell(live, place.path(), &cast, output),
        None => live::tell(&live::Arguments::default(), place.path(), &cast, output),
    };
    if arguments.keep {
        output.say(format!("\nEverything is in {}", place.path().display()));
    }
    let removed = remove(place, arguments.keep);
    if cast.is_ended() {
        return Err(Failure::interrupted("the demo was interrupted; its processes were ended"));
    }
    told?;
    removed?;
    Ok(Verdict::Good)
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
    let mut directories = vec![place.to_owned()];
    // Copies, directories in them, directories in those: enough to share out.
    for _ in 0..3 {
        let above = std::mem::take(&mut directories);
        above.iter().try_for_each(|directory| add_directories(directory, &mut directories))?;
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

fn add_directories(above: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(above)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(())
}

const REMOVERS: usize = 16;
/// Ctrl-C, the wish of a service manager, and a terminal that was closed.
const ENDINGS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

const EXAMPLES: &str = "\
Examples:
  landfall demo
  landfall demo --json > figures.jsonl
  landfall demo live --keys 100000
  landfall demo files /usr/share/doc";
