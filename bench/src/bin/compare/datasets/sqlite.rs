//! Owns the SQLite data sets: a shop's database of 12.9 million rows with five indices, and the same database after
//! 1 % of its orders changed. It never measures anything.

use std::path::Path;

use anyhow::Context;
use rusqlite::{Connection, Transaction, params};

use super::{Scale, set_modified};
use landfall_bench::random::Random;
use landfall_bench::text::Words;

/// Builds the first version: one transaction, prepared statements, no journal, indices last.
pub(crate) fn build(directory: &Path, scale: Scale) -> anyhow::Result<()> {
    let path = directory.join(FILE_NAME);
    let mut database = open(&path)?;
    let words = Words::new();
    let transaction = database.transaction()?;
    transaction.execute_batch(TABLES)?;
    insert_users(&transaction, 0..scale.of(USERS), &words)?;
    insert_orders(&transaction, 0..scale.of(ORDERS), scale, &words)?;
    insert_items(&transaction, scale, &words)?;
    insert_events(&transaction, 0..scale.of(EVENTS), scale, &words)?;
    transaction.execute_batch(INDICES)?;
    transaction.commit()?;
    close(database)?;
    set_modified(&path, super::FIRST_VERSION_SECONDS)
}

/// Turns a copy of the first version into the second: 1 % of the orders updated, some rows added, some deleted.
pub(crate) fn change(directory: &Path, scale: Scale) -> anyhow::Result<()> {
    let path = directory.join(FILE_NAME);
    let mut database = open(&path)?;
    let words = Words::new();
    let transaction = database.transaction()?;
    update_orders(&transaction, scale)?;
    let (orders, events) = (scale.of(ORDERS), scale.of(EVENTS));
    insert_events(&transaction, events..events + scale.of(EVENTS_ADDED), scale, &words)?;
    insert_orders(&transaction, orders..orders + scale.of(ORDERS_ADDED), scale, &words)?;
    delete_orders(&transaction, scale)?;
    transaction.commit()?;
    close(database)?;
    set_modified(&path, super::SECOND_VERSION_SECONDS)
}

fn open(path: &Path) -> anyhow::Result<Connection> {
    let database = Connection::open(path).with_context(|| format!("open {}", path.display()))?;
    database.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         PRAGMA locking_mode = EXCLUSIVE; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -1000000;",
    )?;
    Ok(database)
}

fn close(database: Connection) -> anyhow::Result<()> {
    database.close().map_err(|(_, error)| error).context("close the database")
}

fn insert_users(transaction: &Transaction<'_>, ids: std::ops::Range<u64>, words: &Words) -> anyhow::Result<()> {
    let mut random = Random::stream(1);
    let mut insert = transaction.prepare("INSERT INTO users VALUES (?, ?, ?, ?, ?, ?)")?;
    for id in ids {
        let name = words.sentence(random.between(8, 24) as usize, &mut random);
        let email = format!("{}.{id}@example.org", words.sentence(6, &mut random).trim());
        let about = words.sentence(random.between(20, 160) as usize, &mut random);
        insert.execute(params![id as i64, name, email, about, random.bytes_16(), EPOCH + id as i64 * 60])?;
    }
    Ok(())
}

fn insert_orders(
    transaction: &Transaction<'_>,
    ids: std::ops::Range<u64>,
    scale: Scale,
    words: &Words,
) -> anyhow::Result<()> {
    let mut random = Random::stream(2 + ids.start);
    let mut insert = transaction.prepare("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)")?;
    for id in ids {
        let user = random.below(scale.of(USERS)) as i64;
        let note = words.sentence(random.between(20, 80) as usize, &mut random);
        let (state, cents) = (random.below(STATES) as i64, random.below(CENTS) as i64);
        insert.execute(params![id as i64, user, state, cents, note, random.bytes_16(), EPOCH + id as i64 * 8])?;
    }
    Ok(())
}

fn insert_items(transaction: &Transaction<'_>, scale: Scale, words: &Words) -> anyhow::Result<()> {
    let mut random = Random::stream(3);
    let mut insert = transaction.prepare("INSERT INTO items VALUES (?, ?, ?, ?, ?)")?;
    for id in 0..scale.of(ITEMS) {
        let order = (id * 2 / 3) as i64;
        let article = words.sentence(random.between(30, 90) as usize, &mut random);
        insert.execute(params![id as i64, order, article, random.between(1, 9) as i64, random.below(CENTS) as i64])?;
    }
    Ok(())
}

fn insert_events(
    transaction: &Transaction<'_>,
    ids: std::ops::Range<u64>,
    scale: Scale,
    words: &Words,
) -> anyhow::Result<()> {
    let mut random = Random::stream(4 + ids.start);
    let mut insert = transaction.prepare("INSERT INTO events VALUES (?, ?, ?, ?)")?;
    for id in ids {
        let user = random.below(scale.of(USERS)) as i64;
        let text = words.sentence(random.between(60, 180) as usize, &mut random);
        insert.execute(params![id as i64, user, EPOCH + id as i64 * 5, text])?;
    }
    Ok(())
}

/// Every hundredth order on average, drawn uniformly; the amount is indexed, so an index changes too.
fn update_orders(transaction: &Transaction<'_>, scale: Scale) -> anyhow::Result<()> {
    let mut random = Random::stream(5);
    let mut update = transaction.prepare("UPDATE orders SET state = ?, cents = ?, token = ? WHERE id = ?")?;
    for _ in 0..scale.of(ORDERS_UPDATED) {
        let id = random.below(scale.of(ORDERS)) as i64;
        let (state, cents) = (random.below(STATES) as i64, random.below(CENTS) as i64);
        update.execute(params![state, cents, random.bytes_16(), id])?;
    }
    Ok(())
}

fn delete_orders(transaction: &Transaction<'_>, scale: Scale) -> anyhow::Result<()> {
    let mut random = Random::stream(6);
    let mut delete = transaction.prepare("DELETE FROM orders WHERE id = ?")?;
    for _ in 0..scale.of(ORDERS_DELETED) {
        delete.execute([random.below(scale.of(ORDERS)) as i64])?;
    }
    Ok(())
}

const TABLES: &str = "
    CREATE TABLE users  (id INTEGER PRIMARY KEY, name TEXT, email TEXT, about TEXT, token BLOB, created INTEGER);
    CREATE TABLE orders (id INTEGER PRIMARY KEY, user INTEGER, state INTEGER, cents INTEGER, note TEXT, token BLOB,
                         created INTEGER);
    CREATE TABLE items  (id INTEGER PRIMARY KEY, order_id INTEGER, article TEXT, pieces INTEGER, cents INTEGER);
    CREATE TABLE events (id INTEGER PRIMARY KEY, user INTEGER, at INTEGER, text TEXT);
";
const INDICES: &str = "
    CREATE INDEX users_email   ON users  (email);
    CREATE INDEX orders_user   ON orders (user);
    CREATE INDEX orders_cents  ON orders (cents);
    CREATE INDEX items_order   ON items  (order_id);
    CREATE INDEX events_user   ON events (user);
";

/// The one file of the data set.
pub(crate) const FILE_NAME: &str = "shop.db";
const USERS: u64 = 400_000;
const ORDERS: u64 = 3_000_000;
const ITEMS: u64 = 4_500_000;
const EVENTS: u64 = 5_000_000;
const ORDERS_UPDATED: u64 = 30_000;
const ORDERS_ADDED: u64 = 6_000;
const ORDERS_DELETED: u64 = 3_000;
const EVENTS_ADDED: u64 = 25_000;
const STATES: u64 = 6;
const CENTS: u64 = 10_000_000;
const EPOCH: i64 = 1_600_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_holds_the_changed_rows_and_passes_its_own_check() -> anyhow::Result<()> {
        let directory = super::super::scratch("sqlite")?;
        build(&directory, Scale::Tiny)?;
        let before = count(&directory, "orders")?;
        change(&directory, Scale::Tiny)?;
        let after = count(&directory, "orders")?;
        assert!(after > before, "{before} -> {after}");
        let verdict: String =
            Connection::open(directory.join(FILE_NAME))?.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        assert_eq!(verdict, "ok");
        Ok(std::fs::remove_dir_all(directory)?)
    }

    fn count(directory: &Path, table: &str) -> anyhow::Result<i64> {
        let database = Connection::open(directory.join(FILE_NAME))?;
        Ok(database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?)
    }
}
