//! Owns the demo's data: a SQLite database and small files that it builds, or a copy of a directory that the user named;
//! and how 1 % of either changes.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rusqlite::{Connection, params};

use super::super::random::Random;

/// Where the data comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    /// The demo builds it.
    Built,
    /// A copy of this directory; the directory itself is only read.
    CopyOf(PathBuf),
}

impl Data {
    /// Puts the data into `directory`, which does not exist yet; returns what was left out.
    pub(super) fn prepare(&self, directory: &Path) -> anyhow::Result<Vec<String>> {
        fs::create_dir_all(directory)?;
        match self {
            Self::Built => build(directory).map(|()| Vec::new()),
            Self::CopyOf(original) => {
                let mut left_out = Vec::new();
                copy(original, directory, &mut left_out)?;
                Ok(left_out)
            }
        }
    }

    /// Changes 1 % of it, and says what it did.
    pub(super) fn change(&self, directory: &Path) -> anyhow::Result<String> {
        match self {
            Self::Built => change_built(directory),
            Self::CopyOf(_) => change_any(directory),
        }
    }
}

fn build(directory: &Path) -> anyhow::Result<()> {
    build_database(&directory.join(DATABASE)).context("build the database")?;
    let mut random = Random::new(2);
    for number in 0..FILES {
        let path = directory.join(file_name(number));
        fs::create_dir_all(path.parent().expect("every file has a directory"))?;
        fs::write(path, document(number, &mut random))?;
    }
    Ok(())
}

/// One transaction, no journal, index last: it is built as fast as the disk takes it.
fn build_database(path: &Path) -> anyhow::Result<()> {
    let mut database = open(path)?;
    let transaction = database.transaction()?;
    transaction.execute_batch(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, state INTEGER, cents INTEGER, note TEXT, token BLOB)",
    )?;
    let mut insert = transaction.prepare("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)")?;
    let mut random = Random::new(1);
    let mut note = String::new();
    for id in 0..ROWS {
        note.clear();
        let length = 60 + random.below(280) as usize;
        random.push_words(length, &mut note);
        let (customer, state, cents) = (random.below(200_000), random.below(6), random.below(1_000_000));
        insert.execute(params![id as i64, customer as i64, state as i64, cents as i64, note, token(&mut random)])?;
    }
    drop(insert);
    transaction.execute_batch("CREATE INDEX orders_customer ON orders (customer)")?;
    transaction.commit()?;
    close(database)
}

/// Scattered over the whole table, as a service would; some rows new, some gone, some files too.
fn change_built(directory: &Path) -> anyhow::Result<String> {
    let mut database = open(&directory.join(DATABASE))?;
    let transaction = database.transaction()?;
    let mut update = transaction.prepare("UPDATE orders SET state = ?, cents = ?, token = ? WHERE id = ?")?;
    let mut random = Random::new(3);
    for _ in 0..ROWS / 100 {
        let (state, cents) = (random.below(6), random.below(1_000_000));
        update.execute(params![state as i64, cents as i64, token(&mut random), random.below(ROWS) as i64])?;
    }
    drop(update);
    transaction.commit()?;
    close(database)?;
    for _ in 0..FILES / 100 {
        let number = random.below(FILES);
        fs::write(directory.join(file_name(number)), document(number, &mut random))?;
    }
    fs::write(directory.join(file_name(FILES)), document(FILES, &mut random))?;
    fs::remove_file(directory.join(file_name(0)))?;
    Ok(format!(
        "{} of {ROWS} rows updated, scattered over the whole table; {} of {FILES} files rewritten, 1 new, 1 gone",
        ROWS / 100,
        FILES / 100
    ))
}

fn open(path: &Path) -> anyhow::Result<Connection> {
    let database = Connection::open(path).with_context(|| format!("open {}", path.display()))?;
    database.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA cache_size = -400000; PRAGMA temp_store = MEMORY;",
    )?;
    Ok(database)
}

fn close(database: Connection) -> anyhow::Result<()> {
    database.close().map_err(|(_, error)| error).context("close the database")
}

fn token(random: &mut Random) -> [u8; 16] {
    let mut token = [0; 16];
    token[..8].copy_from_slice(&random.next().to_le_bytes());
    token[8..].copy_from_slice(&random.next().to_le_bytes());
    token
}

fn file_name(number: u64) -> PathBuf {
    Path::new(DOCUMENTS).join(format!("{:02}/{number:05}.json", number % 50))
}

/// From a few hundred bytes to some 20 kB.
fn document(number: u64, random: &mut Random) -> String {
    let mut text = format!("{{\"id\": {number}, \"token\": \"{:016x}\", \"text\": \"", random.next());
    let length = 200 + (random.below(140) * random.below(140)) as usize;
    random.push_words(length, &mut text);
    text.push_str("\"}\n");
    text
}

fn copy(from: &Path, to: &Path, left_out: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if entry.file_name() == crate::target::PULLED_DATA {
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy(&source, &target, left_out)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            copy_file(&source, &target).with_context(|| format!("copy {}", source.display()))?;
        } else {
            left_out.push(source.display().to_string());
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::copy(from, to)?;
    let times = FileTimes::new().set_modified(fs::metadata(from)?.modified()?);
    File::options().append(true).open(to)?.set_times(times)
}

/// Overwrites 1 % of the pages of every large file, and 1 % of the small files; at least one file changes.
fn change_any(directory: &Path) -> anyhow::Result<String> {
    let mut files = Vec::new();
    regular_files(directory, &mut files)?;
    files.sort();
    let mut random = Random::new(4);
    let (mut pages, mut rewritten) = (0, 0);
    for (at, path) in files.iter().enumerate() {
        let length = fs::metadata(path)?.len();
        if length >= LARGE_BYTES {
            pages += overwrite_pages(path, length, &mut random)?;
        } else if random.below(100) == 0 || (files.len() < 100 && at == 0) {
            fs::write(path, document(at as u64, &mut random))?;
            rewritten += 1;
        }
    }
    if pages + rewritten == 0 {
        fs::write(directory.join("landfall-demo.txt"), document(0, &mut random))?;
        return Ok("1 new file".to_owned());
    }
    Ok(format!("{pages} pages of 4 KiB overwritten in large files, {rewritten} of {} files rewritten", files.len()))
}

fn regular_files(directory: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            regular_files(&entry.path(), found)?;
        } else if entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    Ok(())
}

fn overwrite_pages(path: &Path, length: u64, random: &mut Random) -> anyhow::Result<u64> {
    let file = File::options().write(true).open(path)?;
    let pages = length / PAGE_BYTES;
    for _ in 0..pages.div_ceil(100) {
        let mut text = String::with_capacity(PAGE_BYTES as usize + 16);
        random.push_words(PAGE_BYTES as usize, &mut text);
        file.write_all_at(&text.as_bytes()[..PAGE_BYTES as usize], random.below(pages) * PAGE_BYTES)?;
    }
    Ok(pages.div_ceil(100))
}

/// The largest file of a directory, its own data aside.
pub(super) fn largest_file(directory: &Path) -> anyhow::Result<PathBuf> {
    let mut files = Vec::new();
    regular_files(directory, &mut files)?;
    files.retain(|path| !path.starts_with(directory.join(crate::target::PULLED_DATA)));
    files.sort();
    let length = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    files.into_iter().max_by_key(length).context("there is no file")
}

/// Flips one bit in each of `count` places of a file, spread over all of it. Returns how many were flipped.
pub(super) fn flip_bits(path: &Path, count: u64) -> anyhow::Result<u64> {
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let count = count.min(length);
    for place in 0..count {
        let offset = length / count * place + length / count / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&[byte[0] ^ 0x10], offset)?;
    }
    Ok(count)
}

/// Where the small files are.
const DOCUMENTS: &str = "documents";
const DATABASE: &str = "shop.db";
/// About 250 MB.
const ROWS: u64 = 900_000;
const FILES: u64 = 4000;
const LARGE_BYTES: u64 = 1_000_000;
const PAGE_BYTES: u64 = 4096;
