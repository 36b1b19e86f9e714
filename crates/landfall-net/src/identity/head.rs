//! Owns signatures under heads: who may claim that a snapshot is the newest, and the proof that they did.
//!
//! It never looks into a statement; what a head says is the core's business.

use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;

use super::files::CHAIN_CERTIFICATES_MAX;
use super::verify::Role;
use super::{Identity, PeerIdentity, Trust, describe};

/// Why a head is not believed, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The certificate does not come from our authority, or not at this time.
    #[error("the head's certificate is not accepted: {reason}")]
    Untrusted {
        /// What is wrong with it.
        reason: String,
    },
    /// The signer is a member, but not a writer of this state: whoever passed the head on should not have.
    #[error(
        "{member} is no writer of '{state}': give it a certificate that says so ('landfall cert create-member … --writer {state}') and have it \
         publish anew"
    )]
    NotAWriter {
        /// The member that signed.
        member: String,
        /// The state that the head is about.
        state: String,
    },
    /// The signature belongs to something else: the head was changed on the way.
    #[error("the head's signature does not match what it says")]
    BadSignature,
}

impl Identity {
    /// Signs `statement` as a head, with the key of this member's certificate.
    ///
    /// Two bytes name the scheme as TLS numbers it, big endian; the signature follows. A signature under anything
    /// else, such as a TLS handshake, can never pass for one under a head, nor the other way round.
    ///
    /// # Panics
    /// If the key cannot sign at all, which [`Identity::load`] rules out for keys in files.
    pub fn sign_head(&self, statement: &[u8]) -> Vec<u8> {
        let signer = self.certified.key.choose_scheme(SCHEMES).expect("a key that TLS 1.3 accepts");
        let signature = signer.sign(&signed_bytes(statement)).expect("a loaded key signs");
        let mut bytes = u16::from(signer.scheme()).to_be_bytes().to_vec();
        bytes.extend(signature);
        bytes
    }
}

impl Trust {
    /// Checks that a writer of `state` signed `statement`, and returns that member's name.
    ///
    /// `certificate_chain` is the signer's, DER, its own first. The caller takes `state` from the statement itself.
    pub fn verify_head(
        &self,
        certificate_chain: &[Vec<u8>],
        state: &str,
        statement: &[u8],
        signature: &[u8],
    ) -> Result<String, HeadError> {
        let signer = self.proven_member(certificate_chain)?;
        if !signer.writer_of.iter().any(|written| written == state) {
            return Err(HeadError::NotAWriter { member: signer.name, state: state.to_owned() });
        }
        self.verify_signature(&signer.certificate_chain[0], statement, signature)?;
        Ok(signer.name)
    }

    fn proven_member(&self, chain: &[Vec<u8>]) -> Result<PeerIdentity, HeadError> {
        let untrusted = |reason| HeadError::Untrusted { reason };
        if chain.is_empty() || chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(untrusted(format!("a chain of {} certificates", chain.len())));
        }
        let chain: Vec<_> = chain.iter().map(|certificate| CertificateDer::from(certificate.as_slice())).collect();
        self.verify_chain(&chain[0], &chain[1..], Role::Client, UnixTime::now())
            .map_err(|error| untrusted(describe(&error)))?;
        PeerIdentity::from_verified_chain(&chain).map_err(untrusted)
    }

    fn verify_signature(&self, certificate: &[u8], statement: &[u8], signature: &[u8]) -> Result<(), HeadError> {
        let (scheme, signature) = signature.split_first_chunk().ok_or(HeadError::BadSignature)?;
        let scheme = SignatureScheme::from(u16::from_be_bytes(*scheme));
        if !SCHEMES.contains(&scheme) {
            return Err(HeadError::BadSignature);
        }
        let mapping = self.algorithms().mapping.iter().find(|(mapped, _)| *mapped == scheme);
        // Of several algorithms, TLS 1.3 means the first: a scheme names its curve.
        let algorithm = mapping.and_then(|(_, algorithms)| algorithms.first()).ok_or(HeadError::BadSignature)?;
        let certificate = CertificateDer::from(certificate);
        let parsed = EndEntityCert::try_from(&certificate).map_err(|_| HeadError::BadSignature)?;
        parsed.verify_signature(*algorithm, &signed_bytes(statement), signature).map_err(|_| HeadError::BadSignature)
    }
}

fn signed_bytes(statement: &[u8]) -> Vec<u8> {
    [DOMAIN, statement].concat()
}

/// Stands before every statement under the signature.
const DOMAIN: &[u8] = b"landfall head v1\0";

/// Schemes that heads are signed with; certificates with other keys cannot sign.
const SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
];
