//! Owns how a verb proves who it is: certificates from a directory, or nothing at all on loopback.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use landfall::net::{Identity, PlainTransport, TlsTransport, Transport};
use landfall::pull::{Trust, TrustAll};

use crate::failure::Failure;

/// Certificates, or none.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct IdentityArguments {
    /// Directory with this member's certificate and key (ca.pem, member.pem, member.key)
    #[arg(long, value_name = "DIR", long_help = IDENTITY_HELP)]
    identity: Option<PathBuf>,
    /// No certificates and no encryption: only between processes of this machine, on loopback
    #[arg(long)]
    insecure: bool,
}

/// Who this process is to its peers.
pub(crate) struct Credentials {
    /// How it reaches them.
    pub(crate) transport: Arc<dyn Transport>,
    /// Whom it believes.
    pub(crate) trust: Arc<dyn Trust>,
    /// Its certificate; none on loopback without certificates.
    pub(crate) identity: Option<Arc<Identity>>,
}

impl IdentityArguments {
    /// Are there no certificates?
    pub(crate) fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Reads the certificates.
    pub(crate) fn load(&self) -> Result<Credentials, Failure> {
        let Some(directory) = &self.identity else {
            return Ok(Credentials { transport: Arc::new(PlainTransport), trust: Arc::new(TrustAll), identity: None });
        };
        let identity = Identity::load(directory).map_err(|error| {
            Failure::new(format!("cannot use the identity in {}", directory.display())).because(&error)
        })?;
        let transport = Arc::new(TlsTransport::new(&identity));
        let trust = Arc::new(identity.trust().clone());
        Ok(Credentials { transport, trust, identity: Some(Arc::new(identity)) })
    }
}

const IDENTITY_HELP: &str = "\
Directory with this member's certificate and key: ca.pem, member.pem and member.key, as `landfall cert create-member` \
writes them. Any PKI will do: the certificate names its member by the URI landfall:member:NAME and every state whose \
snapshots it may publish by landfall:writer:STATE.";
