//! TLS against peers of other make: stock rustls with wrong, missing or right certificates, and a proxy that meddles.

mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use landfall_net::{
    Accepted, ConnectError, Connection, HandshakeError, Identity, Listener, MemberRequest, ReceiveError, TlsTransport,
    Transport,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use support::{Members, PATIENCE};

const LOCALHOST: &str = "127.0.0.1";
const FINISH: [u8; 4] = [0xff; 4];

fn request(name: &str) -> MemberRequest {
    MemberRequest { hosts: vec![LOCALHOST.to_owned()], ..MemberRequest::new(name) }
}

/// Makes certificates without checking that they are usable now.
fn files(members: &Members, request: &MemberRequest) -> std::path::PathBuf {
    let directory = members.path().join(&request.name);
    members.authority().create_member(&directory, request).expect("a certificate");
    directory
}

fn chain_and_key(directory: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let certificate = CertificateDer::from_pem_file(directory.join("member.pem")).expect("a certificate");
    (vec![certificate], PrivateKeyDer::from_pem_file(directory.join("member.key")).expect("a key"))
}

fn roots(directory: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("ca.pem")).expect("an authority")).expect("a usable one");
    Arc::new(roots)
}

/// A stock client that believes in the authority of `directory` and shows `shown`, if anything.
fn stock_client(
    address: &str,
    directory: &Path,
    shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    alpn: &[&[u8]],
) -> StreamOwned<ClientConnection, TcpStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots(directory));
    let mut config = match shown {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("a client certificate"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(LOCALHOST).expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let socket = TcpStream::connect(address).expect("a connection");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    StreamOwned::new(connection, socket)
}

fn stock_server_config(directory: &Path, clients: &Path) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(clients), Arc::clone(&provider));
    let (chain, key) = chain_and_key(directory);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(chain, key)
        .expect("a server certificate");
    config.alpn_protocols = vec![b"landfall/1".to_vec()];
    config
}

/// Accepts one connection with stock rustls and hands it to `serve`.
fn stock_server<T: Send + 'static>(
    config: ServerConfig,
    serve: impl FnOnce(StreamOwned<ServerConnection, TcpStream>) -> T + Send + 'static,
) -> (String, std::thread::JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let thread = std::thread::spawn(move || {
        let (socket, _) = listener.accept().expect("a connection");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        serve(StreamOwned::new(ServerConnection::new(Arc::new(config)).expect("a server"), socket))
    });
    (address, thread)
}

fn listen(identity: &Identity) -> Box<dyn Listener> {
    TlsTransport::new(identity).listen("127.0.0.1:0").expect("a free port")
}

/// What the listener makes of a stock client that shows `shown`; the client's own error comes too.
fn accept_stock_client(
    members: &Members,
    shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    alpn: &[&[u8]],
) -> (Result<Connection, HandshakeError>, io::Error) {
    let directory = files(members, &request("listener"));
    let listener = listen(&Identity::load(&directory).expect("an identity"));
    let mut client = stock_client(&listener.local_address(), &directory, shown, alpn);
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| listener.accept().expect("a connection").handshake(PATIENCE));
        let mut byte = [0];
        let error = client.flush().and_then(|()| client.read_exact(&mut byte)).expect_err("nobody answers");
        (accepting.join().expect("the accepting thread"), error)
    })
}

#[track_caller]
fn check_untrusted(result: Result<Connection, HandshakeError>, expected: &str) {
    match result {
        Err(HandshakeError::Untrusted { reason }) => assert!(reason.contains(expected), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn speaks_tls_as_stock_rustls_does_and_renews_keys_both_ways() {
    let members = Members::new();
    let directory = files(&members, &request("stock"));
    let config = stock_server_config(&directory, &directory);
    let (address, server) = stock_server(config, |mut stream| {
        for round in 0..3u8 {
            let mut frame = [0; 4 + 40_000];
            stream.read_exact(&mut frame).expect("a frame");
            assert_eq!(frame[..4], 40_000u32.to_le_bytes());
            assert!(frame[4..].iter().all(|byte| *byte == round));
            // The request to renew goes with the next bytes; the answer comes before the peer's next frame.
            stream.conn.refresh_traffic_keys().expect("a renewal");
            stream.write_all(&frame).expect("an answer");
            stream.flush().expect("an answer");
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("a clean end, with close_notify");
        assert_eq!(rest, FINISH);
        stream.write_all(&FINISH).expect("the end");
        stream.conn.send_close_notify();
        stream.flush().expect("the end");
    });
    let mut connection = TlsTransport::new(&members.member("a")).connect(&address, PATIENCE).expect("a connection");
    assert_eq!(connection.peer.name, "stock");
    for round in 0..3 {
        connection.sender.send(&[round], &[round; 39_999]).expect("sent");
        connection.sender.flush().expect("flushed");
        let frame = connection.receiver.receive().expect("no error").expect("a frame");
        assert!(frame.len() == 40_000 && frame.iter().all(|byte| *byte == round));
    }
    connection.sender.finish().expect("finished");
    assert!(connection.receiver.receive().expect("no error").is_none());
    server.join().expect("the stock server");
}

#[test]
fn a_close_notify_without_our_end_is_no_clean_end() {
    let members = Members::new();
    let directory = files(&members, &request("stock"));
    let (address, server) = stock_server(stock_server_config(&directory, &directory), |mut stream| {
        stream.write_all(&[1, 0, 0, 0, 7]).expect("a frame");
        stream.conn.send_close_notify();
        stream.flush().expect("the end");
        stream
    });
    let mut connection = TlsTransport::new(&members.member("a")).connect(&address, PATIENCE).expect("a connection");
    assert_eq!(connection.receiver.receive().expect("no error"), Some(&[7][..]));
    assert!(matches!(connection.receiver.receive(), Err(ReceiveError::Truncated)));
    server.join().expect("the stock server");
}

#[test]
fn a_member_of_another_authority_is_untrusted_on_both_sides() {
    let (ours, others) = (Members::new(), Members::new());
    let listener = listen(&ours.member("listener"));
    let address = listener.local_address();
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| listener.accept().expect("a connection").handshake(PATIENCE));
        let refused = TlsTransport::new(&others.member("stranger")).connect(&address, PATIENCE);
        match refused {
            Err(ConnectError::Handshake { source: HandshakeError::Untrusted { reason }, .. }) => {
                assert!(reason.contains("does not come from the authority"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        match accepting.join().expect("the accepting thread") {
            Err(HandshakeError::Refused { reason }) => assert!(reason.contains("authority"), "{reason}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_refused_client_learns_why_from_its_receiver() {
    let (ours, others) = (Members::new(), Members::new());
    let directory = files(&ours, &request("stock"));
    let strangers = files(&others, &request("stranger"));
    let (address, server) = stock_server(stock_server_config(&directory, &strangers), |mut stream| {
        let refused = stream.flush();
        // Whoever refuses waits for the other side to hang up, or the reset would overtake the reason.
        let mut rest = Vec::new();
        let _hung_up = stream.sock.shutdown(Shutdown::Write).and_then(|()| stream.sock.read_to_end(&mut rest));
        refused
    });
    let mut connection = TlsTransport::new(&ours.member("a")).connect(&address, PATIENCE).expect("a connection");
    match connection.receiver.receive() {
        Err(ReceiveError::Refused { reason }) => assert!(reason.contains("authority that the peer trusts"), "{reason}"),
        other => panic!("{other:?}"),
    }
    drop(connection);
    assert!(server.join().expect("the stock server").is_err());
}

#[test]
fn a_client_with_an_expired_certificate_is_told_so() {
    let members = Members::new();
    let old = MemberRequest {
        valid_from: SystemTime::now() - Duration::from_secs(7200),
        valid_for: Duration::from_secs(3600),
        ..request("old")
    };
    let shown = chain_and_key(&files(&members, &old));
    let (result, client_error) = accept_stock_client(&members, Some(shown), &[b"landfall/1"]);
    check_untrusted(result, "it expired at ");
    assert!(client_error.to_string().contains("CertificateExpired"), "{client_error}");
}

#[test]
fn a_server_with_an_expired_certificate_is_not_trusted() {
    let members = Members::new();
    let old = MemberRequest {
        valid_from: SystemTime::now() - Duration::from_secs(7200),
        valid_for: Duration::from_secs(3600),
        ..request("old")
    };
    let directory = files(&members, &old);
    let (address, server) = stock_server(stock_server_config(&directory, &directory), |mut stream| stream.flush());
    let refused = TlsTransport::new(&members.member("a")).connect(&address, PATIENCE).expect_err("an old certificate");
    assert!(refused.to_string().contains("it expired at "), "{refused}");
    let told = server.join().expect("the stock server").expect_err("a refusal");
    assert!(told.to_string().contains("CertificateExpired"), "{told}");
}

#[test]
fn a_client_that_signed_its_own_certificate_is_untrusted() {
    let members = Members::new();
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    let name = "landfall:member:listener".try_into().expect("a name");
    params.subject_alt_names.push(rcgen::SanType::URI(name));
    let certificate = params.self_signed(&key).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let shown = (vec![certificate.der().clone()], key);
    let (result, _) = accept_stock_client(&members, Some(shown), &[b"landfall/1"]);
    check_untrusted(result, "does not come from the authority");
}

#[test]
fn a_client_without_a_certificate_is_untrusted() {
    let (result, client_error) = accept_stock_client(&Members::new(), None, &[b"landfall/1"]);
    check_untrusted(result, "it sent no certificate");
    assert!(client_error.to_string().contains("CertificateRequired"), "{client_error}");
}

#[test]
fn a_client_that_speaks_something_else_is_refused() {
    let members = Members::new();
    let shown = || Some(chain_and_key(&members.path().join("client")));
    files(&members, &request("client"));
    let (result, _) = accept_stock_client(&members, shown(), &[b"h2"]);
    assert!(matches!(result, Err(HandshakeError::Protocol { .. })), "{result:?}");

    let members = Members::new();
    let shown = chain_and_key(&files(&members, &request("client")));
    let (result, _) = accept_stock_client(&members, Some(shown), &[]);
    assert!(matches!(result, Err(HandshakeError::Protocol { .. })), "{result:?}");
}

#[test]
fn a_peer_that_never_speaks_blocks_nobody_and_is_given_up() {
    let members = Members::new();
    let listener = listen(&members.member("listener"));
    let address = listener.local_address();
    let silent = TcpStream::connect(&address).expect("a connection");
    let stuck = listener.accept().expect("the silent connection");
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| listener.accept().expect("a connection").handshake(PATIENCE));
        TlsTransport::new(&members.member("a")).connect(&address, PATIENCE).expect("a connection");
        accepting.join().expect("the accepting thread").expect("a handshake");
    });
    let deadline = Duration::from_millis(10);
    let given_up = stuck.handshake(deadline);
    assert!(matches!(given_up, Err(HandshakeError::TimedOut { after }) if after == deadline), "{given_up:?}");
    drop(silent);
}

/// What the listener makes of a peer that sends `bytes` and then nothing.
fn accept_bytes(bytes: &[u8], after_sending: impl FnOnce(&TcpStream, &Accepted)) -> HandshakeError {
    let listener = listen(&Members::new().member("listener"));
    let mut socket = TcpStream::connect(listener.local_address()).expect("a connection");
    socket.write_all(bytes).expect("sent");
    let accepted = listener.accept().expect("a connection");
    after_sending(&socket, &accepted);
    accepted.handshake(PATIENCE).expect_err("no handshake")
}

#[test]
fn a_handshake_ends_when_it_cannot_succeed() {
    let garbage = accept_bytes(b"GET / HTTP/1.1\r\n\r\n", |socket, _| {
        socket.shutdown(Shutdown::Write).expect("an end");
    });
    assert!(matches!(garbage, HandshakeError::Protocol { .. }), "{garbage:?}");

    let hung_up = accept_bytes(&[22, 3, 1, 1], |socket, _| socket.shutdown(Shutdown::Both).expect("an end"));
    assert!(matches!(hung_up, HandshakeError::Lost(_)), "{hung_up:?}");

    let closed = accept_bytes(&[], |_, accepted| accepted.closer().close());
    assert!(matches!(closed, HandshakeError::Lost(_)), "{closed:?}");
}

#[test]
fn closing_a_listener_ends_accept() {
    let listener = listen(&Members::new().member("listener"));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| listener.accept().map(|accepted| accepted.address().to_owned()));
        listener.close();
        assert!(waiting.join().expect("the accepting thread").is_err());
    });
    assert!(listener.accept().is_err());
}

const FORWARD: u8 = 0;
const FLIP_A_BIT: u8 = 1;
const CUT_IN_HALF: u8 = 2;

/// Carries bytes from the client to the server at `address` and back; what happens to the former depends on `mode`.
fn meddle(address: &str, mode: Arc<AtomicU8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let proxy = listener.local_addr().expect("an address").to_string();
    let mut server = TcpStream::connect(address).expect("a connection");
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a connection");
        let (mut from_server, mut to_client) = (server.try_clone().expect("a copy"), client.try_clone().expect("one"));
        std::thread::spawn(move || io::copy(&mut from_server, &mut to_client));
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(bytes @ 1..) = client.read(&mut buffer) {
            let passed = match mode.load(Ordering::SeqCst) {
                FORWARD => bytes,
                FLIP_A_BIT => {
                    buffer[bytes / 2] ^= 4;
                    bytes
                }
                _ => bytes / 2,
            };
            let sent = server.write_all(&buffer[..passed]);
            if sent.is_err() || passed < bytes {
                break;
            }
        }
        server.shutdown(Shutdown::Write)
    });
    proxy
}

/// What the receiver gets when the proxy turns to `mode` after a first frame.
fn receive_through_meddler(mode: u8) -> ReceiveError {
    let members = Members::new();
    let listener = listen(&members.member("listener"));
    let turned = Arc::new(AtomicU8::new(FORWARD));
    let proxy = meddle(&listener.local_address(), Arc::clone(&turned));
    let accepted = listener.accept().expect("a connection");
    let (mut from, mut to) = std::thread::scope(|scope| {
        let accepting = scope.spawn(|| accepted.handshake(PATIENCE).expect("a handshake"));
        let from = TlsTransport::new(&members.member("a")).connect(&proxy, PATIENCE).expect("a connection");
        (from, accepting.join().expect("the accepting thread"))
    });
    from.sender.send(b"", &[1; 1000]).expect("sent");
    from.sender.flush().expect("flushed");
    assert_eq!(to.receiver.receive().expect("no error"), Some(&[1; 1000][..]));
    turned.store(mode, Ordering::SeqCst);
    from.sender.send(b"", &[2; 1000]).expect("sent");
    from.sender.flush().expect("flushed");
    to.receiver.receive().expect_err("a meddled frame")
}

#[test]
fn a_bit_changed_on_the_way_is_found() {
    let error = receive_through_meddler(FLIP_A_BIT);
    assert!(matches!(error, ReceiveError::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_stream_cut_on_the_way_is_no_clean_end() {
    let error = receive_through_meddler(CUT_IN_HALF);
    assert!(matches!(error, ReceiveError::Truncated), "{error:?}");
}
