//! Owns who a member is: its certificate and key, the authority it trusts, and what certificates say.
//!
//! It never opens a connection. The names of a certificate are URIs among its subject alternative names:
//! `landfall:member:NAME`, exactly one, and `landfall:writer:STATE`, one for every state whose heads it may sign.

mod files;
mod head;
mod issue;
mod names;
mod verify;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

pub use files::{IdentityError, IdentityFiles};
pub use head::HeadError;
pub use issue::{Authority, IssueError, MemberRequest, create_authority};
pub use verify::Trust;
pub(crate) use verify::{describe, member_verifier};

/// Who a peer has proven to be.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The name of the member.
    pub name: String,
    /// The states whose heads it may sign, sorted.
    pub writer_of: Vec<String>,
    /// Its certificate and those between it and the authority, DER, its own first; empty where nothing was proven.
    pub certificate_chain: Vec<Vec<u8>>,
}

impl PeerIdentity {
    /// A peer that has proven nothing, as on loopback and in memory.
    pub fn unproven(name: &str) -> Self {
        Self { name: name.to_owned(), writer_of: Vec::new(), certificate_chain: Vec::new() }
    }

    /// Reads the names in a chain that was verified already.
    pub(crate) fn from_verified_chain(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let own = chain.first().ok_or("it sent no certificate")?;
        let names = names::read(own)?;
        let certificate_chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
        Ok(Self { name: names.member, writer_of: names.writer_of, certificate_chain })
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerIdentity({}, writer of {:?})", self.name, self.writer_of)
    }
}

/// This member's certificate and key, and the authority that it and its peers are measured by.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    trust: Trust,
    own: PeerIdentity,
}

impl Identity {
    /// Reads `ca.pem`, `member.pem` and `member.key` from `directory`.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        Self::load_files(&IdentityFiles::in_directory(directory))
    }

    /// Reads three PEM files and checks that they belong together and are valid now.
    pub fn load_files(paths: &IdentityFiles) -> Result<Self, IdentityError> {
        files::load(paths)
    }

    /// How peers see this member.
    pub fn own(&self) -> &PeerIdentity {
        &self.own
    }

    /// What this member accepts from others.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The certificate and key, as rustls wants them.
    pub(crate) fn certified(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified)))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.own)
    }
}

/// The cryptography of everything here. It is passed on, never installed: the process may use another elsewhere.
///
/// AES-128 comes first: it is the fastest where the processor helps, and 128 bits are enough.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..default_provider() })
}
