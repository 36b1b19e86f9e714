//! Requests are cut alike however the network cuts the bytes, and limits are checked before anything is kept.

use bytes::BytesMut;
use proptest::prelude::*;
use redis_protocol::resp2::encode::extend_encode_borrowed;
use redis_protocol::resp2::types::BorrowedFrame;

use super::*;

/// Cuts all requests out of `input`, of which `step` more bytes are there each time.
fn cut_all(input: &[u8], step: usize) -> Result<Vec<Vec<Bytes>>, ProtocolError> {
    let (mut cutter, mut buffer, mut requests) = (Cutter::default(), BytesMut::new(), Vec::new());
    for piece in input.chunks(step) {
        buffer.extend_from_slice(piece);
        while let Some(length) = cutter.cut(&buffer)? {
            let request = buffer.split_to(length).freeze();
            requests.push(cutter.arguments(&request).iter().collect());
        }
    }
    Ok(requests)
}

#[track_caller]
fn check(input: &[u8], expected: &Result<Vec<Vec<&str>>, ProtocolError>) {
    for step in [1, 2, 7, usize::MAX] {
        let cut = cut_all(input, step.min(input.len().max(1)));
        let expected = expected.clone().map(|requests| {
            let own = |request: Vec<&str>| request.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
            requests.into_iter().map(own).collect::<Vec<Vec<Bytes>>>()
        });
        assert_eq!(cut, expected, "{step} bytes at a time");
    }
}

#[test]
fn pipelined_requests_are_cut_apart() {
    check(
        b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n*0\r\n*-1\r\n",
        &Ok(vec![vec!["PING"], vec!["GET", ""], vec![], vec![]]),
    );
}

#[test]
fn a_line_of_text_is_a_request() {
    check(b"PING\r\n\r\n  SET k \"a \\x41\\n\\\"\" \n", &Ok(vec![vec!["PING"], vec![], vec!["SET", "k", "a A\n\""]]));
    check(b"ECHO 'it\\'s \\n'\n", &Ok(vec![vec!["ECHO", "it's \\n"]]));
}

#[test]
fn a_line_with_an_open_quote_is_refused() {
    for line in [&b"GET \"k\n"[..], b"GET 'k\n", b"GET \"k\"x\n"] {
        check(line, &Err(ProtocolError::Quotes));
    }
}

#[test]
fn a_request_that_is_not_whole_is_waited_for() {
    check(b"*2\r\n$3\r\nGET\r\n$5\r\nabc", &Ok(vec![]));
    check(b"*2\r\n$3\r\nGET\r\n$3\r\nabc\r", &Ok(vec![]));
}

#[test]
fn lengths_beyond_the_limits_are_refused_before_a_byte_of_them_comes() {
    check(b"*65537\r\n", &Err(ProtocolError::ArgumentCount));
    check(b"*9999999999999999999\r\n", &Err(ProtocolError::ArgumentCount));
    check(b"*x\r\n", &Err(ProtocolError::ArgumentCount));
    check(b"*1\r\n$1048577\r\n", &Err(ProtocolError::ArgumentLength));
    check(b"*1\r\n$-1\r\n", &Err(ProtocolError::ArgumentLength));
    check(b"*1\r\n$ 1\r\n", &Err(ProtocolError::ArgumentLength));
}

#[test]
fn nested_arrays_are_refused() {
    check(b"*1\r\n*1\r\n*1\r\n", &Err(ProtocolError::NoArgument { found: b'*' }));
}

#[test]
fn lines_that_do_not_end_are_refused() {
    let endless = |start: &str| [start.as_bytes(), &vec![b'1'; LINE_BYTES_MAX + 1]].concat();
    assert_eq!(cut_all(&endless("*"), 4096), Err(ProtocolError::LineTooLong { line: "mbulk count" }));
    assert_eq!(cut_all(&endless("*1\r\n$"), 4096), Err(ProtocolError::LineTooLong { line: "bulk count" }));
    assert_eq!(cut_all(&endless("PING"), 4096), Err(ProtocolError::InlineTooLong));
    // It is too long however much of it comes at once.
    let ends_too_late = [endless("*"), b"\r\n".to_vec()].concat();
    for step in [4096, ends_too_late.len()] {
        let expected = Err(ProtocolError::LineTooLong { line: "mbulk count" });
        assert_eq!(cut_all(&ends_too_late, step), expected, "{step} bytes at a time");
    }
}

#[test]
fn a_request_that_is_too_long_altogether_is_refused() {
    let mut input = b"*8\r\n".to_vec();
    for _ in 0..8 {
        input.extend_from_slice(format!("${ARGUMENT_BYTES_MAX}\r\n").as_bytes());
        input.resize(input.len() + ARGUMENT_BYTES_MAX, b'x');
        input.extend_from_slice(b"\r\n");
    }
    assert_eq!(cut_all(&input, 64 * 1024), Err(ProtocolError::RequestTooLong));
}

proptest! {
    #[test]
    fn what_a_client_library_encodes_is_cut_back_into_the_same_arguments(
        requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 0..8),
        step in 1_usize..100,
    ) {
        let mut input = BytesMut::new();
        for request in &requests {
            let frames: Vec<_> = request.iter().map(|argument| BorrowedFrame::BulkString(argument)).collect();
            extend_encode_borrowed(&mut input, &BorrowedFrame::Array(&frames), false).unwrap();
        }
        let cut = cut_all(&input, step).unwrap();
        prop_assert_eq!(cut, requests);
    }

    #[test]
    fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..200), step in 1_usize..50) {
        let _ = cut_all(&input, step);
    }

    #[test]
    fn no_almost_valid_bytes_make_it_panic(input in "[*$0-9\r\n\"' a-]{0,60}", step in 1_usize..50) {
        let _ = cut_all(input.as_bytes(), step);
    }
}
