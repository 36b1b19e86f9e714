//! Owns the making of certificates for people without a certificate authority of their own.
//!
//! It never overwrites a file, and never writes one that others may read.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SanType,
};

use super::files::{AUTHORITY_FILE, AUTHORITY_KEY_FILE, MEMBER_FILE, MEMBER_KEY_FILE};
use super::names::{MEMBER_PREFIX, WRITER_PREFIX, check_member_name, check_state_name};

/// What a member's certificate shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRequest {
    /// The name of the member: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The states whose heads it may sign.
    pub writer_of: Vec<String>,
    /// Host names and addresses to mention, for tools that look at them; Landfall does not.
    pub hosts: Vec<String>,
    /// When the certificate begins to be valid.
    pub valid_from: SystemTime,
    /// How long it is valid from then on.
    pub valid_for: Duration,
}

impl MemberRequest {
    /// A certificate for `name` that writes nothing, valid from an hour ago for a year.
    ///
    /// The hour is for clocks that do not agree.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            writer_of: Vec::new(),
            hosts: Vec::new(),
            valid_from: SystemTime::now() - CLOCK_DIFFERENCE_MAX,
            valid_for: MEMBER_VALID_FOR,
        }
    }
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A file is there already, and nothing is overwritten: move it away, or choose another directory.
    #[error("{path} exists already and is not overwritten; move it away or choose another directory")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The authority's files cannot be used.
    #[error("{path} cannot be used: {reason}; create an authority with `landfall cert create-ca`")]
    BadAuthority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The request asks for something that no certificate can say.
    #[error("no such certificate: {reason}")]
    BadRequest {
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be written.
    #[error("{path} cannot be written: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Creates an authority for one set of members and writes `ca.pem` and `ca.key` into `directory`.
///
/// The key signs certificates and nothing else: keep it off the members.
pub fn create_authority(directory: &Path, name: &str) -> Result<Authority, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, SystemTime::now() - CLOCK_DIFFERENCE_MAX, AUTHORITY_VALID_FOR);
    let key = KeyPair::generate_for(&PKCS_ED25519).map_err(bad_request)?;
    let certificate = params.self_signed(&key).map_err(bad_request)?;
    create_files(directory, [(AUTHORITY_FILE, certificate.pem()), (AUTHORITY_KEY_FILE, key.serialize_pem())])?;
    Authority::load(directory)
}

/// An authority that issues certificates to members.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl Authority {
    /// Reads `ca.pem` and `ca.key` from `directory`.
    pub fn load(directory: &Path) -> Result<Self, IssueError> {
        let read = |name| {
            let path = directory.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok((path, text)),
                Err(error) => Err(IssueError::BadAuthority { path, reason: error.to_string() }),
            }
        };
        let (key_path, key_pem) = read(AUTHORITY_KEY_FILE)?;
        let (path, certificate_pem) = read(AUTHORITY_FILE)?;
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|error| IssueError::BadAuthority { path: key_path, reason: error.to_string() })?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)
            .map_err(|error| IssueError::BadAuthority { path, reason: error.to_string() })?;
        Ok(Self { issuer, certificate_pem })
    }

    /// Issues a certificate and writes `ca.pem`, `member.pem` and `member.key` into `directory`.
    pub fn create_member(&self, directory: &Path, request: &MemberRequest) -> Result<(), IssueError> {
        let params = member_params(request).map_err(|reason| IssueError::BadRequest { reason })?;
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(bad_request)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(bad_request)?;
        create_files(
            directory,
            [
                (MEMBER_FILE, certificate.pem()),
                (MEMBER_KEY_FILE, key.serialize_pem()),
                (AUTHORITY_FILE, self.certificate_pem.clone()),
            ],
        )
    }
}

fn member_params(request: &MemberRequest) -> Result<CertificateParams, String> {
    let name = check_member_name(&request.name)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(&name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A member connects and is connected to.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names.push(SanType::URI(ia5(format!("{MEMBER_PREFIX}{name}"))?));
    for state in &request.writer_of {
        let state = check_state_name(state)?;
        params.subject_alt_names.push(SanType::URI(ia5(format!("{WRITER_PREFIX}{state}"))?));
    }
    for host in &request.hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(ia5(host.clone())?),
        });
    }
    set_validity(&mut params, request.valid_from, request.valid_for);
    Ok(params)
}

fn ia5(text: String) -> Result<Ia5String, String> {
    Ia5String::try_from(text.as_str()).map_err(|_| format!("'{text}' is not plain ASCII"))
}

fn distinguished_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::OrganizationName, "Landfall");
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn set_validity(params: &mut CertificateParams, from: SystemTime, valid_for: Duration) {
    params.not_before = from.into();
    params.not_after = (from + valid_for).into();
}

fn bad_request(error: rcgen::Error) -> IssueError {
    IssueError::BadRequest { reason: error.to_string() }
}

/// Writes all files or fails before the first that cannot be created.
fn create_files<const N: usize>(directory: &Path, files: [(&str, String); N]) -> Result<(), IssueError> {
    std::fs::create_dir_all(directory).map_err(|source| IssueError::Write { path: directory.to_owned(), source })?;
    for (name, content) in &files {
        let path = directory.join(name);
        // The authority's certificate is the same for every member, so it may be there already.
        let same = std::fs::read_to_string(&path).is_ok_and(|found| found == *content);
        if path.exists() && !same {
            return Err(IssueError::Exists { path });
        }
    }
    for (name, content) in &files {
        create_file(&directory.join(name), content)?;
    }
    Ok(())
}

fn create_file(path: &Path, content: &str) -> Result<(), IssueError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()));
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => keep_same(path, content),
        written => written.map_err(|source| IssueError::Write { path: path.to_owned(), source }),
    }
}

fn keep_same(path: &Path, content: &str) -> Result<(), IssueError> {
    if std::fs::read_to_string(path).is_ok_and(|found| found == content) {
        return Ok(());
    }
    Err(IssueError::Exists { path: path.to_owned() })
}

const OWNER_ONLY: u32 = 0o600;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_VALID_FOR: Duration = DAY.saturating_mul(3650);
const MEMBER_VALID_FOR: Duration = DAY.saturating_mul(365);
/// Clocks of members may differ by this much without a fresh certificate being refused.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(60 * 60);
