//! The contract of connections: every transport passes the same suite.

mod support;

use std::time::Duration;

use landfall_net::{FRAME_BYTES_MAX, FrameReceiver, FrameSender, ReceiveError, SendError};
use support::{Pair, memory_pair, plain_pair, tls_pair};

/// Runs every promise of the contract over connections that `connect` makes.
fn transport_suite(connect: impl Fn() -> Pair) {
    carries_frames_of_every_length(connect());
    gathers_head_and_body_into_one_frame(connect());
    carries_both_directions_at_once(connect());
    ends_cleanly_and_stays_ended(connect());
    tells_a_dropped_sender_from_a_clean_end(connect());
    refuses_frames_that_are_too_long_and_lives_on(connect());
    closer_unblocks_a_receiver(connect());
    closer_unblocks_a_sender(connect());
    a_dropped_receiver_ends_the_other_side(connect());
    survives_an_idle_deadline(connect());
    loses_nothing_when_told_of_a_frame_that_is_still_coming(connect());
    gives_up_on_a_peer_that_takes_nothing(connect());
    counts_bytes_and_time(connect());
}

#[test]
fn memory_keeps_the_contract() {
    transport_suite(memory_pair);
}

#[test]
fn plain_tcp_keeps_the_contract() {
    transport_suite(plain_pair);
}

#[test]
fn tls_keeps_the_contract() {
    transport_suite(tls_pair);
}

/// Content that says at every place where it belongs.
fn content(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 3 + seed * 7 + index) as u8).collect()
}

fn lengths() -> Vec<usize> {
    let max = FRAME_BYTES_MAX as usize;
    let around = |center: usize| [center - 1, center, center + 1];
    let mut lengths = vec![0, 1, 2, 3, 4, 5, max, 0, max - 1, max, 0];
    // A record, a buffer, and both with the length word before them.
    for center in [16_380, 16_384, 32_768, 65_536, 131_072, 262_144, 524_284, 524_288] {
        lengths.extend(around(center));
    }
    lengths.extend((0..300).map(|index| index * index % 5_003));
    lengths
}

fn send_all(sender: &mut dyn FrameSender, lengths: &[usize]) {
    for (index, length) in lengths.iter().enumerate() {
        let frame = content(*length, index);
        let (head, body) = frame.split_at(length.min(&53).to_owned());
        sender.send(head, body).expect("a frame that is sent");
    }
    sender.finish().expect("an end that is sent");
}

fn expect_all(receiver: &mut dyn FrameReceiver, lengths: &[usize]) {
    for (index, length) in lengths.iter().enumerate() {
        let frame = receiver.receive().expect("no error").expect("a frame, not the end");
        assert!(frame == content(*length, index), "frame {index} of {length} bytes, {} came", frame.len());
    }
    assert!(receiver.receive().expect("no error").is_none(), "the end follows the last frame");
}

fn carries_frames_of_every_length(mut pair: Pair) {
    let lengths = lengths();
    std::thread::scope(|scope| {
        scope.spawn(|| send_all(&mut *pair.connector.sender, &lengths));
        expect_all(&mut *pair.listener.receiver, &lengths);
    });
}

fn gathers_head_and_body_into_one_frame(mut pair: Pair) {
    pair.listener.sender.send(b"head", b" and body").expect("sent");
    pair.listener.sender.flush().expect("flushed");
    let frame = pair.connector.receiver.receive().expect("no error").expect("a frame");
    assert_eq!(frame, b"head and body");
}

fn carries_both_directions_at_once(pair: Pair) {
    let lengths = lengths();
    let Pair { mut connector, mut listener } = pair;
    std::thread::scope(|scope| {
        scope.spawn(|| send_all(&mut *connector.sender, &lengths));
        scope.spawn(|| send_all(&mut *listener.sender, &lengths));
        scope.spawn(|| expect_all(&mut *connector.receiver, &lengths));
        expect_all(&mut *listener.receiver, &lengths);
    });
}

fn ends_cleanly_and_stays_ended(mut pair: Pair) {
    pair.connector.sender.send(b"", b"last").expect("sent");
    pair.connector.sender.finish().expect("finished");
    assert!(matches!(pair.connector.sender.send(b"", b""), Err(SendError::Closed)));
    let receiver = &mut pair.listener.receiver;
    assert_eq!(receiver.receive().expect("no error"), Some(&b"last"[..]));
    for _ in 0..2 {
        assert_eq!(receiver.receive().expect("no error"), None);
    }
    // The other direction lives on.
    pair.listener.sender.send(b"answer", b"").expect("sent");
    pair.listener.sender.finish().expect("finished");
    assert_eq!(pair.connector.receiver.receive().expect("no error"), Some(&b"answer"[..]));
    assert_eq!(pair.connector.receiver.receive().expect("no error"), None);
}

fn tells_a_dropped_sender_from_a_clean_end(mut pair: Pair) {
    pair.connector.sender.send(b"", b"whole").expect("sent");
    pair.connector.sender.flush().expect("flushed");
    drop(pair.connector.sender);
    let receiver = &mut pair.listener.receiver;
    assert_eq!(receiver.receive().expect("no error"), Some(&b"whole"[..]));
    assert!(matches!(receiver.receive(), Err(ReceiveError::Truncated)));
    assert!(matches!(receiver.receive(), Err(ReceiveError::Closed)), "an error is final");
}

fn refuses_frames_that_are_too_long_and_lives_on(mut pair: Pair) {
    let body = vec![0; FRAME_BYTES_MAX as usize];
    let refused = pair.connector.sender.send(b"x", &body);
    assert!(matches!(refused, Err(SendError::TooLong { length }) if length == u64::from(FRAME_BYTES_MAX) + 1));
    pair.connector.sender.send(b"", b"next").expect("sent");
    pair.connector.sender.finish().expect("finished");
    assert_eq!(pair.listener.receiver.receive().expect("no error"), Some(&b"next"[..]));
}

fn closer_unblocks_a_receiver(mut pair: Pair) {
    let closer = pair.listener.closer.clone();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pair.listener.receiver.receive().map(|frame| frame.map(<[u8]>::len)));
        closer.close();
        let result = waiting.join().expect("the waiting thread");
        assert!(matches!(result, Err(ReceiveError::Closed)), "{result:?}");
    });
    assert!(matches!(pair.listener.sender.send(b"", b""), Err(SendError::Closed)));
    let other_side = pair.connector.receiver.receive();
    assert!(matches!(other_side, Err(ReceiveError::Truncated | ReceiveError::Lost(_))), "{other_side:?}");
}

fn closer_unblocks_a_sender(mut pair: Pair) {
    let closer = pair.connector.closer.clone();
    let body = vec![1; 256 * 1024];
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            loop {
                if let Err(error) = pair.connector.sender.send(b"", &body) {
                    return error;
                }
            }
        });
        // Nobody reads on the other side, so the sender stops once the buffers between them are full.
        closer.close();
        let error = sending.join().expect("the sending thread");
        assert!(matches!(error, SendError::Closed), "{error:?}");
    });
    assert!(closer.is_closed());
}

fn a_dropped_receiver_ends_the_other_side(mut pair: Pair) {
    drop(pair.listener.receiver);
    let body = vec![1; 256 * 1024];
    let error = loop {
        if let Err(error) = pair.connector.sender.send(b"", &body) {
            break error;
        }
    };
    assert!(matches!(error, SendError::Lost(_)), "{error:?}");
}

fn survives_an_idle_deadline(mut pair: Pair) {
    let receiver = &mut pair.listener.receiver;
    receiver.set_idle_deadline(Duration::from_millis(5));
    let expected = Duration::from_millis(5);
    for _ in 0..2 {
        let result = receiver.receive();
        assert!(matches!(result, Err(ReceiveError::TimedOut { after }) if after == expected), "{result:?}");
    }
    pair.connector.sender.send(b"", b"at last").expect("sent");
    pair.connector.sender.flush().expect("flushed");
    receiver.set_idle_deadline(support::PATIENCE);
    assert_eq!(receiver.receive().expect("no error"), Some(&b"at last"[..]));
}

fn loses_nothing_when_told_of_a_frame_that_is_still_coming(mut pair: Pair) {
    // How often a frame is seen half way is up to the system; that it is told of at all, `receiver` tests by itself.
    let lengths: Vec<usize> = [FRAME_BYTES_MAX as usize, 10, 1_000_000].repeat(16);
    let receiver = &mut pair.listener.receiver;
    receiver.set_unfinished_interval(Duration::ZERO);
    std::thread::scope(|scope| {
        scope.spawn(|| send_all(&mut *pair.connector.sender, &lengths));
        let mut received = 0;
        let mut frames = 0;
        loop {
            match receiver.receive() {
                Ok(Some(frame)) => {
                    assert!(frame == content(lengths[frames], frames), "frame {frames}");
                    frames += 1;
                }
                Ok(None) => break,
                Err(ReceiveError::Unfinished { after: Duration::ZERO }) => {
                    assert!(receiver.bytes_received() > received, "it is told only when bytes came");
                }
                Err(error) => panic!("{error}"),
            }
            received = receiver.bytes_received();
        }
        assert_eq!(frames, lengths.len());
    });
}

fn gives_up_on_a_peer_that_takes_nothing(mut pair: Pair) {
    let sender = &mut pair.connector.sender;
    sender.set_stall_deadline(Duration::from_millis(20));
    let body = vec![1; 256 * 1024];
    let error = loop {
        if let Err(error) = sender.send(b"", &body) {
            break error;
        }
    };
    assert!(matches!(error, SendError::TimedOut { .. }), "{error:?}");
    assert!(sender.pressure().blocked >= Duration::from_millis(20));
    assert!(matches!(sender.send(b"", b""), Err(SendError::Closed)), "an error is final");
}

fn counts_bytes_and_time(mut pair: Pair) {
    let body = content(100_000, 1);
    let before = pair.connector.sender.pressure().bytes_sent;
    for _ in 0..5 {
        pair.connector.sender.send(b"", &body[..20_000]).expect("sent");
    }
    pair.connector.sender.flush().expect("flushed");
    let sent = pair.connector.sender.pressure().bytes_sent - before;
    assert!((100_020..101_000).contains(&sent), "{sent}");
    for _ in 0..5 {
        assert_eq!(pair.listener.receiver.receive().expect("no error").map(<[u8]>::len), Some(20_000));
    }
    let received = pair.listener.receiver.bytes_received();
    assert!((100_020..101_000).contains(&received), "{received}");
}
