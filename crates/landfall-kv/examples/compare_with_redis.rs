//! Holds the golden stories of this crate against a real Redis, for developers:
//!
//! ```text
//! redis-server --port 6399 --save '' &
//! cargo run -p landfall-kv --example compare_with_redis -- 127.0.0.1:6399
//! ```
//!
//! It flushes that Redis before each story. Every difference is printed; some are meant: commands that Redis does not
//! have, and settings that have one answer here.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("give the address of a Redis that may be flushed")?;
    let stories = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/tests/golden");
    let mut differences = 0;
    for entry in std::fs::read_dir(stories)? {
        let path = entry?.path();
        println!("{}", path.display());
        differences += compare(&std::fs::read_to_string(path)?, &address)?;
    }
    println!("{differences} answers differ");
    Ok(())
}

fn compare(story: &str, address: &str) -> Result<usize, Box<dyn Error>> {
    ask(&mut TcpStream::connect(address)?, "FLUSHALL")?;
    let mut stream = TcpStream::connect(address)?;
    let mut differences = 0;
    let mut lines = story.lines();
    while let Some(line) = lines.next() {
        if let Some(pause_ms) = line.strip_prefix("~ ") {
            sleep(Duration::from_millis(pause_ms.parse()?));
        }
        let Some(request) = line.strip_prefix("> ") else { continue };
        let here = lines.next().unwrap_or_default();
        let there = ask(&mut stream, request)?;
        if here != there {
            println!("  {request}\n    here:  {here}\n    Redis: {there}");
            differences += 1;
        }
    }
    Ok(differences)
}

fn ask(stream: &mut TcpStream, request: &str) -> Result<String, Box<dyn Error>> {
    stream.write_all(format!("{request}\r\n").as_bytes())?;
    let mut answer = BytesMut::new();
    loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part)?;
        answer.extend_from_slice(&part[..read]);
        if read == 0 || is_whole(&answer.clone().freeze()) {
            return Ok(shown(&answer));
        }
    }
}

fn is_whole(answer: &Bytes) -> bool {
    use redis_protocol::resp3::decode::complete::decode_bytes;
    matches!(decode_bytes(answer), Ok(Some(_)))
        || matches!(redis_protocol::resp2::decode::decode_bytes(answer), Ok(Some(_)))
}

fn shown(bytes: &[u8]) -> String {
    let shown = |byte: &u8| match byte {
        b'\r' => "\\r".to_owned(),
        b'\n' => "\\n".to_owned(),
        b' '..=b'~' => char::from(*byte).to_string(),
        other => format!("\\x{other:02x}"),
    };
    bytes.iter().map(shown).collect()
}
