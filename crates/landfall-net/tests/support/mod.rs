//! What the tests of every transport share: members with certificates, and pairs of connections.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::path::Path;
use std::time::Duration;

use landfall_net::memory::MemoryNetwork;
use landfall_net::{
    Authority, Connection, Identity, MemberRequest, PeerIdentity, PlainTransport, TlsTransport, Transport,
    create_authority,
};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An authority and the members it certified, in a directory that goes away.
pub(crate) struct Members {
    directory: TempDir,
    authority: Authority,
}

impl Members {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let authority = create_authority(&directory.path().join("ca"), "test").expect("an authority");
        Self { directory, authority }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn member(&self, name: &str) -> Identity {
        self.member_of(&MemberRequest::new(name))
    }

    pub(crate) fn writer(&self, name: &str, states: &[&str]) -> Identity {
        let writer_of = states.iter().map(|state| (*state).to_owned()).collect();
        self.member_of(&MemberRequest { writer_of, ..MemberRequest::new(name) })
    }

    fn member_of(&self, request: &MemberRequest) -> Identity {
        let directory = self.path().join(&request.name);
        self.authority.create_member(&directory, request).expect("a certificate");
        Identity::load(&directory).expect("a usable identity")
    }
}

/// Both ends of one connection.
pub(crate) struct Pair {
    pub(crate) connector: Connection,
    pub(crate) listener: Connection,
}

/// Connects through `transport`, with the listener's handshake on a thread of its own.
pub(crate) fn pair(connecting: &dyn Transport, listening: &dyn Transport, address: &str) -> Pair {
    let listener = listening.listen(address).expect("a free address");
    let address = listener.local_address();
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| {
            let accepted = listener.accept().expect("a connection");
            accepted.handshake(PATIENCE).expect("a handshake")
        });
        let connector = connecting.connect(&address, PATIENCE).expect("a connection");
        Pair { connector, listener: accepting.join().expect("the accepting thread") }
    })
}

pub(crate) fn memory_pair() -> Pair {
    let network = MemoryNetwork::new();
    let member = |name| network.member(PeerIdentity::unproven(name));
    pair(&member("a"), &member("b"), "b")
}

pub(crate) fn plain_pair() -> Pair {
    pair(&PlainTransport, &PlainTransport, "127.0.0.1:0")
}

pub(crate) fn tls_pair() -> Pair {
    let members = Members::new();
    let transport = |name| TlsTransport::new(&members.member(name));
    pair(&transport("a"), &transport("b"), "127.0.0.1:0")
}

/// Ends one side cleanly: sends the end and reads until the other's.
pub(crate) fn end(mut connection: Connection) {
    connection.sender.finish().expect("an end that is sent");
    while connection.receiver.receive().expect("frames until the end").is_some() {}
}
