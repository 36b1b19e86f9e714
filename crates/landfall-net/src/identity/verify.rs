//! Owns the judgement over certificates: whether a chain leads to the authority, and which member it names.
//!
//! A peer's DNS name or address plays no part. The authority is private to one set of members, addresses of members
//! change and are often made up by a scheduler, and a name that resolves wrongly must not turn a member away. So a
//! peer is whoever its certificate says (`landfall:member:NAME`); a caller who wants one particular member compares
//! `PeerIdentity::name`. A member that answers in the place of another gains nothing: chunks are checked against
//! their hashes, and heads against the writer's signature.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::{Identity, names, provider};

/// The authority that certificates must come from.
#[derive(Clone)]
pub struct Trust(Arc<Anchors>);

struct Anchors {
    anchors: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({} authorities)", self.0.anchors.len())
    }
}

/// The side on which a certificate stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Server,
    Client,
}

impl Trust {
    /// Trusts the given certificates of authorities; more than one, while one replaces the other.
    pub(super) fn new(authorities: &[CertificateDer<'_>]) -> Result<Self, webpki::Error> {
        let anchors = authorities
            .iter()
            .map(|certificate| Ok(webpki::anchor_from_trusted_cert(certificate)?.to_owned()))
            .collect::<Result<_, webpki::Error>>()?;
        let algorithms = provider().signature_verification_algorithms;
        Ok(Self(Arc::new(Anchors { anchors, algorithms })))
    }

    /// Checks that `own` comes from the authority, through `intermediates`, and is valid at `now`.
    pub(super) fn verify_chain(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let usage = match role {
            Role::Server => KeyUsage::server_auth(),
            Role::Client => KeyUsage::client_auth(),
        };
        let certificate = EndEntityCert::try_from(own).map_err(certificate_error)?;
        certificate
            .verify_for_usage(self.0.algorithms.all, &self.0.anchors, intermediates, now, usage, None, None)
            .map_err(certificate_error)?;
        Ok(())
    }

    pub(super) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.0.algorithms
    }
}

fn certificate_error(error: webpki::Error) -> CertificateError {
    match error {
        webpki::Error::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

/// Says what is wrong with a certificate, and what may help.
pub(crate) fn describe(error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it expired at {}; renew it, or set this machine's clock", date(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("it is not valid before {}; is this machine's clock right?", date(*not_before))
        }
        // Two authorities may bear one name; then only the signature tells them apart.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "it does not come from the authority that this member trusts (ca.pem)".to_owned()
        }
        CertificateError::ApplicationVerificationFailure => "it names no member (landfall:member:NAME)".to_owned(),
        other => other.to_string(),
    }
}

/// A time as people write it.
pub(super) fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| x509_parser::time::ASN1Time::from_timestamp(seconds).ok())
        .and_then(|time| time.to_rfc2822().ok())
        .unwrap_or_else(|| format!("{} s after 1970", time.as_secs()))
}

/// The judge that both sides of a handshake ask.
pub(crate) fn member_verifier(identity: &Identity) -> Arc<MemberVerifier> {
    Arc::new(MemberVerifier { trust: identity.trust.clone() })
}

/// Accepts certificates that come from the authority and name one member.
#[derive(Debug)]
pub(crate) struct MemberVerifier {
    trust: Trust,
}

impl MemberVerifier {
    fn verify(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        self.trust.verify_chain(own, intermediates, role, now)?;
        // This error becomes the alert `access_denied`, so the other side learns what its certificate lacks.
        names::read(own).map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        Ok(())
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, self.trust.algorithms())
    }
}

impl ServerCertVerifier for MemberVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, Role::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for MemberVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Members hold one certificate each, so there is nothing to choose by a hint.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, Role::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms().supported_schemes()
    }
}

fn only_tls13() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is spoken here".to_owned())
}
