//! A peer opens a service of a member and has the connection to itself.

use std::sync::Arc;

use landfall::member::{ConnectionService, Member, ServeConfig, open_service};
use landfall::net::{Connection, PlainTransport, Transport};
use landfall::pull::SourceError;

fn transport() -> Arc<dyn Transport> {
    Arc::new(PlainTransport)
}

/// Sends every frame back, with a mark.
fn echo(mut connection: Connection) {
    while let Ok(Some(frame)) = connection.receiver.receive() {
        let frame = frame.to_vec();
        connection.sender.send(b"echo ", &frame).unwrap();
        connection.sender.flush().unwrap();
    }
    connection.sender.finish().unwrap();
}

fn member(service: ConnectionService) -> (Member, String) {
    let config = ServeConfig {
        listen: Some("127.0.0.1:0".into()),
        services: [("echo".to_owned(), service)].into(),
        ..ServeConfig::new(transport())
    };
    let member = Member::serve(config).unwrap();
    let address = member.address().unwrap();
    (member, address)
}

#[test]
fn every_frame_after_the_opening_is_the_services() {
    let (_member, address) = member(Arc::new(echo));
    let mut connection = open_service(&transport(), &address, "echo").unwrap();
    // A frame that would be a cancel in a conversation, one that is no message at all, and an empty one.
    for frame in [&b"\x06\x01\0\0\0"[..], b"\xffnonsense", b""] {
        connection.sender.send(frame, &[]).unwrap();
        connection.sender.flush().unwrap();
        assert_eq!(connection.receiver.receive().unwrap().unwrap(), [b"echo ", frame].concat());
    }
    connection.sender.finish().unwrap();
    assert!(connection.receiver.receive().unwrap().is_none());
}

#[test]
fn many_connections_each_have_the_service_to_themselves() {
    let (_member, address) = member(Arc::new(echo));
    let mut connections: Vec<_> = (0..8).map(|_| open_service(&transport(), &address, "echo").unwrap()).collect();
    for (number, connection) in connections.iter_mut().enumerate() {
        for frame in 0..100_u8 {
            connection.sender.send(&[number as u8, frame], &[]).unwrap();
        }
        connection.sender.flush().unwrap();
    }
    for (number, connection) in connections.iter_mut().enumerate() {
        for frame in 0..100_u8 {
            assert_eq!(
                connection.receiver.receive().unwrap().unwrap(),
                [&b"echo "[..], &[number as u8, frame]].concat()
            );
        }
    }
}

#[test]
fn an_unknown_service_is_refused_with_its_name() {
    let (_member, address) = member(Arc::new(echo));
    let refused = open_service(&transport(), &address, "raft").unwrap_err();
    assert!(matches!(&refused, SourceError::Refused(message) if message.contains("raft")), "{refused}");
}

#[test]
fn closing_the_member_ends_its_services() {
    let (member, address) = member(Arc::new(echo));
    let mut connection = open_service(&transport(), &address, "echo").unwrap();
    member.close();
    assert!(!matches!(connection.receiver.receive(), Ok(Some(_))));
}
