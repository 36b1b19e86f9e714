//! Owns reading an identity from disk, and saying which file is wrong and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys};

use super::verify::{Role, date};
use super::{Identity, PeerIdentity, Trust, describe, provider};

/// Where the three files of an identity are. All are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate of the authority; several, one after another, while one replaces the other.
    pub authority: PathBuf,
    /// This member's certificate, then those between it and the authority, if any.
    pub certificate: PathBuf,
    /// The key of this member's certificate.
    pub key: PathBuf,
}

impl IdentityFiles {
    /// The files under their usual names: `ca.pem`, `member.pem`, `member.key`.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            authority: directory.join(AUTHORITY_FILE),
            certificate: directory.join(MEMBER_FILE),
            key: directory.join(MEMBER_KEY_FILE),
        }
    }
}

/// Why an identity cannot be used, by what its owner does next.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is not there: create it or name the right place.
    #[error("{path} is missing; create it with `landfall cert create-member`, or name the directory it is in")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read: mend its permissions or its disk.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file holds something else: replace it.
    #[error("{path} {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not belong together: one of them is from another member or an older issue.
    #[error("{key} is not the key of {certificate}; copy both again from where they were created together")]
    KeyMismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// The certificate is past its time: renew it, or set the clock.
    #[error("{path} expired at {expired}; create a new certificate, or set this machine's clock if it is wrong")]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it expired.
        expired: String,
    },
    /// The certificate is before its time: set the clock.
    #[error("{path} is not valid before {valid_from}; is this machine's clock right?")]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// When its validity begins.
        valid_from: String,
    },
    /// The certificate comes from another authority: peers would turn this member away.
    #[error("{certificate} was not issued by the authority in {authority}; use the ca.pem it was created with")]
    WrongAuthority {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the authority.
        authority: PathBuf,
    },
}

pub(super) fn load(paths: &IdentityFiles) -> Result<Identity, IdentityError> {
    let trust = read_trust(&paths.authority)?;
    let chain = read_certificates(&paths.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&paths.key).map_err(|error| pem_error(&paths.key, "key", error))?;
    let own = PeerIdentity::from_verified_chain(&chain)
        .map_err(|reason| malformed(&paths.certificate, format!("is no certificate of a member: {reason}")))?;
    for role in [Role::Server, Role::Client] {
        trust
            .verify_chain(&chain[0], &chain[1..], role, UnixTime::now())
            .map_err(|error| chain_error(paths, &error))?;
    }
    let certified = certify(paths, chain, key)?;
    Ok(Identity { certified: Arc::new(certified), trust, own })
}

fn certify(
    paths: &IdentityFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, IdentityError> {
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            IdentityError::KeyMismatch { certificate: paths.certificate.clone(), key: paths.key.clone() }
        }
        other => malformed(&paths.key, format!("holds a key that cannot be used: {other}")),
    })
}

fn read_trust(path: &Path) -> Result<Trust, IdentityError> {
    let authorities = read_certificates(path)?;
    Trust::new(&authorities).map_err(|error| malformed(path, format!("is no authority's certificate: {error:?}")))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.take(CHAIN_CERTIFICATES_MAX + 1).collect::<Result<Vec<_>, _>>())
        .map_err(|error| pem_error(path, "certificate", error))?;
    match certificates.len() {
        0 => Err(malformed(path, "holds no certificate in PEM form".to_owned())),
        1..=CHAIN_CERTIFICATES_MAX => Ok(certificates),
        _ => Err(malformed(path, format!("holds more than {CHAIN_CERTIFICATES_MAX} certificates"))),
    }
}

fn pem_error(path: &Path, what: &str, error: pem::Error) -> IdentityError {
    match error {
        pem::Error::Io(source) if source.kind() == io::ErrorKind::NotFound => {
            IdentityError::Missing { path: path.to_owned() }
        }
        pem::Error::Io(source) => IdentityError::Unreadable { path: path.to_owned(), source },
        pem::Error::NoItemsFound => malformed(path, format!("holds no {what} in PEM form")),
        other => malformed(path, format!("is not PEM: {other}")),
    }
}

fn malformed(path: &Path, reason: String) -> IdentityError {
    IdentityError::Malformed { path: path.to_owned(), reason }
}

fn chain_error(paths: &IdentityFiles, error: &CertificateError) -> IdentityError {
    let path = paths.certificate.clone();
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            IdentityError::Expired { path, expired: date(*not_after) }
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            IdentityError::NotYetValid { path, valid_from: date(*not_before) }
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            IdentityError::WrongAuthority { certificate: path, authority: paths.authority.clone() }
        }
        other => malformed(&path, format!("cannot be used: {}", describe(other))),
    }
}

/// Most certificates in one file, and in a chain.
pub(super) const CHAIN_CERTIFICATES_MAX: usize = 8;
pub(super) const AUTHORITY_FILE: &str = "ca.pem";
pub(super) const AUTHORITY_KEY_FILE: &str = "ca.key";
pub(super) const MEMBER_FILE: &str = "member.pem";
pub(super) const MEMBER_KEY_FILE: &str = "member.key";
