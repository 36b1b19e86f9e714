//! Owns what is done with arbitrary bytes that a client may send. The fuzzer in `fuzz/` calls it, and so does an ordinary test. It panics
//! when a promise is broken; it never judges whether an input is good.

use bytes::{Bytes, BytesMut};

use crate::command::{Command, Refusal, parse};
use crate::keyspace::Step;
use crate::limits::{ARGUMENT_BYTES_MAX, KEY_BYTES_MAX, REPLY_BYTES_MAX};
use crate::reply::{Reply, Version};
use crate::request::{Cutter, ProtocolError};

/// What a client sends: the first byte says how the network cuts the rest. However it does, the requests are the same and within the limits,
/// and each of them is a command or a refusal.
pub fn kv_request(bytes: &[u8]) {
    let Some((step, stream)) = bytes.split_first() else { return };
    let whole = cut(stream, stream.len().max(1));
    assert_eq!(cut(stream, usize::from(*step).max(1)), whole, "{step} bytes at a time");
    for argument in whole.0.iter().flatten() {
        assert!(argument.len() <= ARGUMENT_BYTES_MAX, "an argument of {} bytes", argument.len());
    }
}

/// The requests in a stream that comes in pieces, and why no more of them can be cut.
fn cut(stream: &[u8], piece_bytes: usize) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    let (mut cutter, mut input, mut requests) = (Cutter::default(), BytesMut::new(), Vec::new());
    for piece in stream.chunks(piece_bytes) {
        input.extend_from_slice(piece);
        loop {
            match cutter.cut(&input) {
                Ok(None) => break,
                Ok(Some(length)) => {
                    let request = input.split_to(length).freeze();
                    let arguments = cutter.arguments(&request);
                    requests.push(arguments.iter().collect());
                    if arguments.count() > 0 {
                        check(parse(arguments));
                    }
                }
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}

/// What a request means is within the limits, too.
fn check(parsed: Result<Command, Refusal>) {
    let step = match parsed {
        Err(refusal) => {
            let mut line = BytesMut::new();
            Reply::from(refusal).encode(Version::Resp2, &mut line);
            assert!(line.starts_with(b"-") && line.ends_with(b"\r\n"));
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "a refusal is one line");
            return;
        }
        Ok(Command::Read(read)) => Step::Read(read),
        Ok(Command::Write(write)) => Step::Write(write),
        Ok(Command::Once(once)) => Step::Once(once),
        Ok(Command::Survey(_) | Command::Connection(_) | Command::Server(_)) => return,
    };
    assert!(step.first_key().is_none_or(|key| key.len() <= KEY_BYTES_MAX));
    assert!(step.reply_bytes_max() <= REPLY_BYTES_MAX);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Requests that clients send, as arrays or as lines.
    fn request() -> impl Strategy<Value = Vec<u8>> {
        let name =
            prop::sample::select(crate::command::COMMANDS.iter().map(|command| command.name).collect::<Vec<_>>());
        let argument = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..8),
            prop::sample::select(vec!["1", "-1", "NX", "EX", "COUNT", "MATCH", "STATUS", "ONCE"])
                .prop_map(|word| word.as_bytes().to_vec()),
        ];
        (name, prop::collection::vec(argument, 0..5), any::<bool>()).prop_map(|(name, arguments, is_line)| {
            let words = [name.as_bytes().to_vec()].into_iter().chain(arguments);
            match is_line {
                true => [words.collect::<Vec<_>>().join(&b' '), b"\r\n".to_vec()].concat(),
                false => array(&words.collect::<Vec<_>>()),
            }
        })
    }

    fn array(words: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_is_cut_alike_and_understood_or_refused(
            step in 1_u8..,
            requests in prop::collection::vec(request(), 0..5),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let mut bytes = [vec![step], requests.concat()].concat();
            for (place, byte) in damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            kv_request(&bytes);
        }
    }
}
