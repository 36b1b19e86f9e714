//! Owns the proof that a member holds what was acknowledged: every key is read there and compared. It never trusts what
//! a server says of itself.

use anyhow::{bail, ensure};
use redis_protocol::resp2::types::BytesFrame;

use crate::client::Client;
use landfall_bench::contents::{Contents, Versions};

/// Reads every key.
pub(crate) fn check(client: &mut Client, contents: &Contents, versions: &Versions) -> anyhow::Result<()> {
    let numbers: Vec<u32> = (0..contents.keys()).collect();
    for numbers in numbers.chunks(KEYS_AT_ONCE) {
        let mut words = vec!["MGET".to_owned()];
        words.extend(numbers.iter().map(|number| Contents::key(*number)));
        let BytesFrame::Array(values) = client.call(&words)? else { bail!("MGET was not answered by an array") };
        ensure!(values.len() == numbers.len(), "MGET of {} keys gave {} values", numbers.len(), values.len());
        for (number, value) in numbers.iter().zip(values) {
            let version = versions.of(*number);
            let expected = BytesFrame::BulkString(contents.value(*number, version).into());
            ensure!(value == expected, "key {number} at version {version} holds {value:?}");
        }
    }
    Ok(())
}

const KEYS_AT_ONCE: usize = 1000;
