//! Conversations with one client, against a replica in memory. The golden files can be read as stories, and
//! `examples/compare_with_redis.rs` holds them against a real Redis.

mod memory;

use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::limits::{REPLY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::replica::Unavailable;
use memory::MemoryReplica;

/// What a client receives who sends `input` at once.
async fn converse_with(replica: &Arc<MemoryReplica>, input: &[u8]) -> (String, After) {
    let mut conversation = Conversation::new(replica.clone(), Arc::new(Desk::new("127.0.0.1:1".into())));
    let mut input = BytesMut::from(input);
    let after = conversation.answer(&mut input).await;
    (shown(conversation.output()), after)
}

/// Bytes on one line.
fn shown(bytes: &[u8]) -> String {
    let shown = |byte: &u8| match byte {
        b'\r' => "\\r".to_owned(),
        b'\n' => "\\n".to_owned(),
        b' '..=b'~' => char::from(*byte).to_string(),
        other => format!("\\x{other:02x}"),
    };
    bytes.iter().map(shown).collect()
}

/// Plays a story: lines that begin with `> ` are sent, one after the other; `~ ` lets milliseconds pass.
async fn play(story: &str) -> String {
    let replica = Arc::new(MemoryReplica::default());
    let mut conversation = Conversation::new(replica.clone(), Arc::new(Desk::new("127.0.0.1:1".into())));
    let mut told = String::new();
    for line in story.lines().filter(|line| line.is_empty() || line.starts_with(['#', '>', '~'])) {
        writeln!(told, "{line}").unwrap();
        if let Some(pause_ms) = line.strip_prefix("~ ") {
            replica.pass(pause_ms.parse().unwrap());
        }
        if let Some(request) = line.strip_prefix("> ") {
            conversation.answer(&mut BytesMut::from(format!("{request}\n").as_bytes())).await;
            writeln!(told, "{}", shown(conversation.output())).unwrap();
            conversation.output().clear();
        }
    }
    told
}

#[track_caller]
fn check_golden(name: &str, told: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, told).unwrap();
    }
    assert_eq!(told, std::fs::read_to_string(&path).unwrap(), "UPDATE_GOLDEN=1 rewrites {name}");
}

#[tokio::test]
async fn stories_are_told_as_they_were() {
    for name in ["strings.txt", "expiry.txt", "transactions.txt", "connection.txt", "refusals.txt", "resp3.txt"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/tests/golden").join(name);
        let story = std::fs::read_to_string(path).unwrap();
        check_golden(name, &play(&story).await);
    }
}

#[tokio::test]
async fn a_pipeline_proposes_its_writes_together_and_its_reads_share_a_barrier() {
    let replica = Arc::new(MemoryReplica::default());
    let (output, after) = converse_with(&replica, b"SET a 1\nINCR a\nPING\nGET a\nGET b\nDEL a\nGET a\n").await;
    assert_eq!(output, "+OK\\r\\n:2\\r\\n+PONG\\r\\n$1\\r\\n2\\r\\n$-1\\r\\n:1\\r\\n$-1\\r\\n");
    assert_eq!(after, After::Read);
    assert_eq!((replica.proposals(), replica.barriers()), (2, 0), "an applied write is as good as a barrier");
    converse_with(&replica, b"GET a\nGET b\nMGET a b\n").await;
    assert_eq!((replica.proposals(), replica.barriers()), (2, 1));
}

#[tokio::test]
async fn stale_reads_take_no_barrier() {
    let replica = Arc::new(MemoryReplica::default());
    let (output, _) = converse_with(&replica, b"READONLY\nGET a\nREADWRITE\nGET a\n").await;
    assert_eq!(output, "+OK\\r\\n$-1\\r\\n+OK\\r\\n$-1\\r\\n");
    assert_eq!(replica.barriers(), 1);
}

#[tokio::test]
async fn a_member_that_does_not_lead_names_the_one_that_does() {
    let replica = Arc::new(MemoryReplica::default());
    replica.refuse(Unavailable::NotLeader { clients: Some("10.0.0.2:7001".into()) });
    let (output, after) = converse_with(&replica, b"SET foo 1\nGET foo\nPING\nREADONLY\nGET foo\n").await;
    let moved = "-MOVED 12182 10.0.0.2:7001\\r\\n";
    assert_eq!(output, format!("{moved}{moved}+PONG\\r\\n+OK\\r\\n$-1\\r\\n"));
    assert_eq!(after, After::Read);
}

#[tokio::test]
async fn stale_reads_of_a_member_whose_state_is_wrong_are_sent_to_the_leader() {
    let replica = Arc::new(MemoryReplica::default());
    replica.distrust(Unavailable::NotLeader { clients: Some("10.0.0.2:7001".into()) });
    let (output, _) = converse_with(&replica, b"READONLY\nGET foo\nDBSIZE\n").await;
    assert_eq!(output, "+OK\\r\\n-MOVED 12182 10.0.0.2:7001\\r\\n-MOVED 0 10.0.0.2:7001\\r\\n");
}

#[tokio::test]
async fn a_write_whose_fate_is_unknown_says_so_for_each_command() {
    let replica = Arc::new(MemoryReplica::default());
    replica.refuse(Unavailable::Unknown);
    let (output, _) = converse_with(&replica, b"SET a 1\nSET b 1\n").await;
    assert_eq!(output.matches("-UNKNOWN ").count(), 2);
}

#[tokio::test]
async fn a_write_whose_reply_was_dropped_is_not_taken_for_one_that_was_refused() {
    let replica = Arc::new(MemoryReplica::default());
    replica.refuse(Unavailable::ReplyDropped);
    let (output, _) = converse_with(&replica, b"GETSET a 1\n").await;
    assert!(output.starts_with("-DROPPED the command was carried out"), "{output}");
}

#[tokio::test]
async fn bytes_that_are_no_protocol_are_answered_and_end_the_connection() {
    let replica = Arc::new(MemoryReplica::default());
    let (output, after) = converse_with(&replica, b"SET a 1\n*1\r\n:1\r\nPING\n").await;
    assert_eq!(output, "+OK\\r\\n-ERR Protocol error: expected '$', got ':'\\r\\n");
    assert_eq!(after, After::Close);
    let (output, after) = converse_with(&replica, b"QUIT\nPING\n").await;
    assert_eq!((output.as_str(), after), ("+OK\\r\\n", After::Close));
}

#[tokio::test]
async fn long_answers_go_out_before_the_next_request_is_taken() {
    let replica = Arc::new(MemoryReplica::default());
    let value = "x".repeat(OUTPUT_BYTES / 2);
    converse_with(
        &replica,
        format!("SET a 0\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n{value}\r\n", value.len()).as_bytes(),
    )
    .await;
    let mut conversation = Conversation::new(replica, Arc::new(Desk::new(String::new())));
    let mut input = BytesMut::from("GET a\n".repeat(5).as_bytes());
    let mut answered = 0;
    while conversation.answer(&mut input).await == After::Answer {
        assert!(conversation.output().len() < 2 * OUTPUT_BYTES);
        answered += conversation.output().len();
        conversation.output().clear();
    }
    answered += conversation.output().len();
    assert_eq!(answered, 5 * (value.len() + "$524288\r\n\r\n".len()));
}

const OUTPUT_BYTES: usize = crate::limits::OUTPUT_BYTES_MAX;

#[tokio::test]
async fn a_walk_finds_every_key_that_stays_whatever_comes_and_goes() {
    let replica = Arc::new(MemoryReplica::default());
    let mut conversation = Conversation::new(replica.clone(), Arc::new(Desk::new(String::new())));
    for number in 0..100 {
        converse_with(&replica, format!("SET stays:{number} v\nSET goes:{number} v\n").as_bytes()).await;
    }
    let (mut cursor, mut found, mut rounds) = (Bytes::from_static(b"0"), Vec::new(), 0);
    loop {
        let request = format!("SCAN {} COUNT 7 MATCH stays:*\n", String::from_utf8_lossy(&cursor));
        conversation.answer(&mut BytesMut::from(request.as_bytes())).await;
        let output = conversation.output().split().freeze();
        let (next, keys) = memory::scanned(&output);
        found.extend(keys);
        converse_with(&replica, format!("DEL goes:{rounds}\nSET a:{rounds} v\n").as_bytes()).await;
        rounds += 1;
        if next == "0" {
            break;
        }
        cursor = next;
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 100);
    assert!(rounds > 10);
}

#[tokio::test]
async fn a_walk_has_few_values_in_memory_however_many_keys_it_is_asked_for() {
    let replica = Arc::new(MemoryReplica::default());
    let value = "x".repeat(10_000);
    for number in 0..1000 {
        converse_with(&replica, format!("SET {number} {value}\n").as_bytes()).await;
    }
    let mut conversation = Conversation::new(replica.clone(), Arc::new(Desk::new(String::new())));
    conversation.answer(&mut BytesMut::from("SCAN 0 COUNT 10000\n")).await;
    let (cursor, keys) = memory::scanned(&conversation.output().split().freeze());
    assert_eq!((cursor, keys.len()), (Bytes::from_static(b"0"), 1000));
    let (output, _) = converse_with(&replica, b"DBSIZE\n").await;
    assert_eq!(output, ":1000\\r\\n");
    let (output, _) = converse_with(&replica, b"KEYS 99?\n").await;
    assert!(output.starts_with("*10\\r\\n"), "{output}");
    assert!(replica.longest_scan() < 65 * 11_000, "{} bytes", replica.longest_scan());
}

#[tokio::test]
async fn keys_that_one_reply_does_not_hold_are_refused() {
    let replica = Arc::new(MemoryReplica::default());
    for number in 0..17_000 {
        converse_with(&replica, format!("SET {number:0>4000} v\n").as_bytes()).await;
    }
    let (output, after) = converse_with(&replica, b"KEYS *\nKEYS *16999\n").await;
    assert!(output.starts_with("-ERR more keys look like this than one reply holds"), "{}", &output[..100]);
    assert!(output.contains("*1\\r\\n$4000"), "{}", &output[..200]);
    assert_eq!(after, After::Read);
}

#[tokio::test]
async fn writes_that_answer_values_are_proposed_so_many_at_a_time_that_their_answers_are_within_the_limit() {
    let replica = Arc::new(MemoryReplica::default());
    let answers_max = REPLY_BYTES_MAX / VALUE_BYTES_MAX;
    let (output, _) = converse_with(&replica, "GETDEL k\n".repeat(2 * answers_max).as_bytes()).await;
    assert_eq!(output.matches("$-1").count(), 2 * answers_max);
    assert!((2..=3).contains(&replica.proposals()), "{}", replica.proposals());
    converse_with(&replica, "INCR n\n".repeat(1000).as_bytes()).await;
    assert!(replica.proposals() <= 4, "short answers are no reason to part them");
}

#[tokio::test]
async fn clients_of_a_real_socket_are_served_until_the_server_stops() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, running) = watch::channel(Running::On);
    let server =
        tokio::spawn(serve(listener, Arc::new(MemoryReplica::default()), Arc::new(Desk::new(String::new())), running));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"SET a 1\r\nGET a\r\n").await.unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"+OK\r\n$1\r\n1\r\n");
    stop.send(Running::Stopping).unwrap();
    server.await.unwrap();
    assert_eq!(client.read(&mut answer).await.unwrap(), 0);
}
