//! What a peer that is a member, and means harm, can do with messages of TLS itself; and the renewal of keys.

use std::sync::Arc;
use std::time::Duration;

use super::halves::{Asks, TlsInflow, TlsSender, renewals, split};
use super::record::{BadRecord, Content, RECORDS_PER_KEY_MAX};
use super::{TlsTransport, handshake};
use crate::identity::{Identity, MemberRequest, create_authority};
use crate::memory::stream_pair;
use crate::receiver::Receiver;
use crate::transport::{FrameReceiver, FrameSender, ReceiveError};

const PATIENCE: Duration = Duration::from_secs(20);

/// One direction of an encrypted connection; the other halves keep it open.
struct Direction {
    sender: TlsSender,
    receiver: Receiver<TlsInflow>,
    _back: (Receiver<TlsInflow>, TlsSender),
}

fn direction() -> Direction {
    let directory = tempfile::tempdir().expect("a temporary directory");
    create_authority(directory.path(), "test")
        .and_then(|authority| authority.create_member(&directory.path().join("a"), &MemberRequest::new("a")))
        .expect("certificates");
    let transport = TlsTransport::new(&Identity::load(&directory.path().join("a")).expect("an identity"));
    let (ours, theirs) = stream_pair("b", "a");
    let server = Arc::clone(&transport.server);
    let accepting = std::thread::spawn(move || handshake::accept(theirs, &server, PATIENCE));
    let from = handshake::connect(ours, &transport.client, PATIENCE).expect("a handshake");
    let to = accepting.join().expect("the accepting thread").expect("a handshake");
    let (sender, back_receiver) = split(from.stream, from.keys);
    let (back_sender, receiver) = split(to.stream, to.keys);
    Direction { sender, receiver, _back: (back_receiver, back_sender) }
}

#[test]
fn a_key_is_renewed_before_it_has_sealed_too_much() {
    let Direction { mut sender, mut receiver, _back } = direction();
    let frames = RECORDS_PER_KEY_MAX + 10;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..frames {
                sender.send(&number.to_le_bytes(), &[]).expect("sent");
                sender.flush().expect("flushed");
            }
            sender.finish().expect("finished");
        });
        for number in 0..frames {
            assert_eq!(receiver.receive().expect("no error"), Some(&number.to_le_bytes()[..]));
        }
        assert_eq!(receiver.receive().expect("no error"), None);
    });
}

#[test]
fn frames_go_on_across_many_renewals() {
    let Direction { mut sender, mut receiver, _back } = direction();
    for round in 0..100u8 {
        sender.send(&[round], &[round; 20_000]).expect("sent");
        sender.flush().expect("flushed");
        sender.renew_key().expect("renewed");
        sender.flush().expect("flushed");
        let frame = receiver.receive().expect("no error").expect("a frame");
        assert!(frame.len() == 20_001 && frame.iter().all(|byte| *byte == round));
    }
}

/// Lets a member send messages of TLS itself and checks what the receiver says.
#[track_caller]
fn check_messages(messages: &[(Content, &[u8])], expected: &str) {
    let Direction { mut sender, mut receiver, _back } = direction();
    for (content, message) in messages {
        sender.append_control(*content, message).expect("sealed");
    }
    sender.flush().expect("flushed");
    match receiver.receive() {
        Err(ReceiveError::Corrupt { reason }) => assert_eq!(reason, expected),
        other => panic!("{other:?}"),
    }
    assert!(matches!(receiver.receive(), Err(ReceiveError::Closed)));
}

#[test]
fn members_that_misuse_tls_are_refused() {
    check_messages(&[(Content::Handshake, &[24, 0, 0])], "a handshake message that has no place after the handshake");
    check_messages(
        &[(Content::Handshake, &[13, 0, 0, 0])],
        "a handshake message that has no place after the handshake",
    );
    check_messages(&[(Content::Alert, &[2])], "an alert of a wrong length");
    let empty: (Content, &[u8]) = (Content::Application, &[]);
    check_messages(&[empty; 33], "too many records without content");
}

#[test]
fn a_member_that_only_renews_keys_is_refused() {
    let Direction { mut sender, mut receiver, _back } = direction();
    for _ in 0..33 {
        sender.renew_key().expect("renewed");
    }
    sender.flush().expect("flushed");
    let refused = receiver.receive();
    assert!(matches!(refused, Err(ReceiveError::Corrupt { reason: "too many records without content" })));
}

#[test]
fn messages_after_the_handshake_are_read_whole_or_not_at_all() {
    let misplaced = Err(BadRecord("a handshake message that has no place after the handshake"));
    let ticket = [4, 0, 0, 2, 9, 9];
    assert_eq!(renewals(&[]), Ok(None));
    assert_eq!(renewals(&ticket), Ok(None));
    assert_eq!(renewals(&[24, 0, 0, 1, 0]), Ok(Some(Asks::ForNothing)));
    assert_eq!(renewals(&[&ticket[..], &[24, 0, 0, 1, 1]].concat()), Ok(Some(Asks::ForRenewal)));
    assert_eq!(renewals(&ticket[..5]), Err(BadRecord("a session ticket cut in pieces")));
    for message in [&[24, 0, 0, 1][..], &[24, 0, 0, 1, 2], &[24, 0, 0, 1, 0, 24], &[4, 0, 0], &[1]] {
        assert_eq!(renewals(message), misplaced, "{message:?}");
    }
}
