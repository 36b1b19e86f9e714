//! Owns TCP with TLS 1.3 between members that prove their certificates to each other.
//!
//! It never falls back: no older TLS, no session resumption, no connection without certificates.

mod halves;
mod handshake;
mod record;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::AlertDescription;
use rustls::client::{ClientConfig, Resumption};
use rustls::server::{NoServerSessionStorage, ServerConfig};

use crate::identity::{Identity, member_verifier, provider};
use crate::tcp::{self, TcpAcceptor};
use crate::transport::{AcceptError, Accepted, ConnectError, Connection, ListenError, Listener, Transport};

/// TCP with TLS 1.3 and a certificate on both sides.
pub struct TlsTransport {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl TlsTransport {
    /// A transport on which this member is `identity`, and peers are who the identity's authority says.
    pub fn new(identity: &Identity) -> Self {
        Self { client: Arc::new(client_config(identity)), server: Arc::new(server_config(identity)) }
    }
}

impl Transport for TlsTransport {
    fn connect(&self, address: &str, deadline: Duration) -> Result<Connection, ConnectError> {
        let started = Instant::now();
        let stream = tcp::connect(address, deadline, |_| Ok(()))?;
        let left = deadline.saturating_sub(started.elapsed());
        handshake::connect(stream, &self.client, left)
            .map(halves::connection)
            .map_err(|source| ConnectError::Handshake { address: address.to_owned(), source })
    }

    fn listen(&self, address: &str) -> Result<Box<dyn Listener>, ListenError> {
        let acceptor = TcpAcceptor::bind(address, |_| Ok(()))?;
        Ok(Box::new(TlsListener { acceptor, server: Arc::clone(&self.server) }))
    }
}

struct TlsListener {
    acceptor: TcpAcceptor,
    server: Arc<ServerConfig>,
}

impl Listener for TlsListener {
    fn accept(&self) -> Result<Accepted, AcceptError> {
        let (stream, address) = self.acceptor.accept()?;
        let server = Arc::clone(&self.server);
        let closer = stream.closer.clone();
        let complete = move |deadline| handshake::accept(stream, &server, deadline).map(halves::connection);
        Ok(Accepted::new(address.to_string(), closer, complete))
    }

    fn local_address(&self) -> String {
        self.acceptor.local_address()
    }

    fn close(&self) {
        self.acceptor.close();
    }
}

fn client_config(identity: &Identity) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(member_verifier(identity))
        .with_client_cert_resolver(identity.certified());
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_secret_extraction = true;
    config
}

fn server_config(identity: &Identity) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_client_cert_verifier(member_verifier(identity))
        .with_cert_resolver(identity.certified());
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    config
}

/// Says what an alert of the peer means, and what to do about it.
fn refusal(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown | Alert::DecryptError => {
            "this member's certificate does not come from the authority that the peer trusts; \
             create it with that authority (`landfall cert create-member`)"
                .to_owned()
        }
        Alert::CertificateExpired => "this member's certificate has expired, or a clock is wrong".to_owned(),
        Alert::CertificateRequired => "the peer demands a certificate and this side sent none".to_owned(),
        Alert::AccessDenied => "this member's certificate names no member (`landfall:member:NAME`)".to_owned(),
        Alert::NoApplicationProtocol => "the peer does not speak landfall/1".to_owned(),
        other => format!("TLS alert {other:?}"),
    }
}

/// The protocol that both sides must name.
const ALPN: &[u8] = b"landfall/1";
