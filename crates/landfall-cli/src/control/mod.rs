//! Owns the conversation between a process that has a data directory open and the verbs that want something of it.
//!
//! Over a unix socket in the data directory go JSON lines: one [`Request`], then any number of items, then the report or
//! the failure. It knows nothing of states; whoever implements [`Answer`] does.

pub(crate) mod client;
pub(crate) mod server;
mod socket;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::reports::{Item, Report};

/// What a verb wants of the state in a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Take a new snapshot.
    Snapshot,
    /// Tell which snapshots are held.
    Log,
    /// Tell what is in a snapshot: the one named, or the newest.
    List { snapshot: Option<String> },
    /// Compare two snapshots: those named, or the newest with the one before it.
    Diff { old: Option<String>, new: Option<String> },
    /// Read everything again and name what is damaged.
    Verify,
    /// Drop what nothing needs.
    Collect,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Item(Item),
    Done(Report),
    Failed(Failure),
}

/// Whoever can answer requests about one state: the process that has its data directory open.
pub(crate) trait Answer: Send + Sync {
    /// Does what `request` asks; items go out as they become known.
    fn answer(&self, request: &Request, tell: &mut dyn FnMut(Item)) -> Result<Report, Failure>;
}

/// Longest line of a request.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;
/// Longest line of an answer: a path of 4 KiB, escaped and in hex, and something around it.
const REPLY_BYTES_MAX: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::path::Path;
    use std::sync::Arc;

    use super::client::Server;
    use super::server::ControlServer;
    use super::*;
    use crate::reports::{Change, Difference, Held};

    /// Names the difference that it was asked for, and fails where it was asked for nothing.
    struct Echo;

    impl Answer for Echo {
        fn answer(&self, request: &Request, tell: &mut dyn FnMut(Item)) -> Result<Report, Failure> {
            let Request::Diff { old: Some(old), .. } = request else { return Err(Failure::new("no").next("ask")) };
            for _ in 0..3 {
                tell(Item::Difference(Difference { path: old.clone(), change: Change::Created }));
            }
            Ok(Report::Log(Held { state: "orders".to_owned(), snapshots: 3 }))
        }
    }

    fn ask(data: &Path, request: &Request) -> (Vec<Item>, Result<Report, Failure>) {
        let mut items = Vec::new();
        let server = Server::find(data).unwrap().expect("somebody listens");
        let report = server.ask(request, &mut |item| items.push(item));
        (items, report)
    }

    #[test]
    fn items_come_in_order_and_then_the_report_or_the_failure() {
        let data = tempfile::tempdir().unwrap();
        let _server = ControlServer::start(data.path(), Arc::new(Echo)).unwrap();
        let (items, report) = ask(data.path(), &Request::Diff { old: Some("a\nb".to_owned()), new: None });
        assert_eq!(items, vec![Item::Difference(Difference { path: "a\nb".to_owned(), change: Change::Created }); 3]);
        assert_eq!(report, Ok(Report::Log(Held { state: "orders".to_owned(), snapshots: 3 })));
        let (items, report) = ask(data.path(), &Request::Verify);
        assert_eq!((items, report), (Vec::new(), Err(Failure::new("no").next("ask"))));
    }

    #[test]
    fn a_socket_is_found_below_any_path_and_is_gone_with_its_server() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("a-long-name-that-repeats-".repeat(9));
        std::fs::create_dir(&data).unwrap();
        assert!(Server::find(&data).unwrap().is_none());
        let server = ControlServer::start(&data, Arc::new(Echo)).unwrap();
        assert!(Server::find(&data).unwrap().is_some());
        drop(server);
        assert!(Server::find(&data).unwrap().is_none());
        assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
    }

    #[test]
    fn a_socket_that_a_dead_process_left_is_replaced() {
        let data = tempfile::tempdir().unwrap();
        drop(socket::listen(data.path()).unwrap());
        assert!(Server::find(data.path()).unwrap().is_none(), "nobody listens behind it");
        let _server = ControlServer::start(data.path(), Arc::new(Echo)).unwrap();
        assert!(ask(data.path(), &Request::Log).1.is_err());
    }

    #[test]
    fn words_of_another_version_are_refused_and_said_so() {
        let data = tempfile::tempdir().unwrap();
        let _server = ControlServer::start(data.path(), Arc::new(Echo)).unwrap();
        let mut stream = socket::connect(data.path()).unwrap().unwrap();
        stream.write_all(b"{\"verb\":\"fly\"}\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains("does not know this request"), "{line}");
    }

    #[test]
    fn a_request_that_is_too_long_is_not_read_to_its_end() {
        let data = tempfile::tempdir().unwrap();
        let _server = ControlServer::start(data.path(), Arc::new(Echo)).unwrap();
        let mut stream = socket::connect(data.path()).unwrap().unwrap();
        // The server may hang up before it has taken all of it.
        let _ = stream.write_all(&vec![b'x'; 2 * REQUEST_BYTES_MAX as usize]);
        let mut line = String::new();
        let _ = BufReader::new(stream).read_line(&mut line);
        assert!(line.is_empty() || line.contains("does not know this request"), "{line}");
    }
}
