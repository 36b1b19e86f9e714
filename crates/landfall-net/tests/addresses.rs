//! Addresses that work, that do not work now, and that can never work.

mod support;

use landfall_net::{ConnectError, ListenError, PlainTransport, Transport};
use support::PATIENCE;

/// Checks that neither side takes `address`, and that the message says why and what to do.
#[track_caller]
fn check_bad_address(address: &str, expected: &[&str]) {
    let connecting = PlainTransport.connect(address, PATIENCE).expect_err("no connection");
    assert!(matches!(connecting, ConnectError::BadAddress { .. }), "{connecting:?}");
    let listening = PlainTransport.listen(address).err().expect("no listener");
    assert!(matches!(listening, ListenError::BadAddress { .. }), "{listening:?}");
    for part in expected {
        for message in [connecting.to_string(), listening.to_string()] {
            assert!(message.contains(part), "'{part}' is not in '{message}'");
        }
    }
}

#[test]
fn plain_connections_never_leave_the_machine() {
    for address in ["192.0.2.1:7400", "0.0.0.0:7400", "[2001:db8::1]:7400", "[::ffff:192.0.2.1]:7400"] {
        check_bad_address(address, &["not a loopback address", "never leave this machine", "create-member"]);
    }
}

#[test]
fn what_is_no_address_is_explained() {
    for address in ["127.0.0.1", "7400", "", "127.0.0.1:port"] {
        check_bad_address(address, &["HOST:PORT", "10.0.0.7:7400"]);
    }
}

#[test]
fn an_address_is_taken_once_and_unreachable_after_its_listener_closed() {
    let listener = PlainTransport.listen("127.0.0.1:0").expect("a free port");
    let address = listener.local_address();
    let taken = PlainTransport.listen(&address).err();
    assert!(matches!(taken, Some(ListenError::Unavailable { .. })), "{taken:?}");
    drop(listener);
    let unreachable = PlainTransport.connect(&address, PATIENCE);
    assert!(matches!(unreachable, Err(ConnectError::Unreachable { .. })), "{unreachable:?}");
}
