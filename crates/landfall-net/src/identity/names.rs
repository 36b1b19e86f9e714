//! Owns the names that a certificate carries: which are allowed, and how they are written.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Before the name of a member.
pub(super) const MEMBER_PREFIX: &str = "landfall:member:";
/// Before the name of a state.
pub(super) const WRITER_PREFIX: &str = "landfall:writer:";

/// Longest name of a member.
const MEMBER_NAME_BYTES_MAX: usize = 64;
/// Longest name of a state.
const STATE_NAME_BYTES_MAX: usize = landfall_core::limits::STATE_NAME_BYTES_MAX as usize;

/// What a certificate says about its holder.
pub(super) struct Names {
    pub(super) member: String,
    pub(super) writer_of: Vec<String>,
}

/// Reads the names in `certificate`, or says what they lack.
pub(super) fn read(certificate: &CertificateDer<'_>) -> Result<Names, String> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|error| format!("it cannot be read: {error:?}"))?;
    let uris: Vec<&str> = parsed.valid_uri_names().collect();
    let mut members = uris.iter().filter_map(|uri| uri.strip_prefix(MEMBER_PREFIX));
    let member = match (members.next(), members.next()) {
        (Some(name), None) => check_member_name(name)?,
        (None, _) => return Err(format!("it names no member ({MEMBER_PREFIX}NAME among its alternative names)")),
        (Some(_), Some(_)) => return Err("it names more than one member".to_owned()),
    };
    let states = uris.iter().filter_map(|uri| uri.strip_prefix(WRITER_PREFIX));
    let mut writer_of = states.map(check_state_name).collect::<Result<Vec<_>, _>>()?;
    writer_of.sort();
    writer_of.dedup();
    Ok(Names { member, writer_of })
}

/// Checks a name that a person chose or a certificate carries.
pub(super) fn check_member_name(name: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    check(name, "a member's name", MEMBER_NAME_BYTES_MAX, allowed)
}

/// Checks the name of a state, which must fit into a URI.
pub(super) fn check_state_name(name: &str) -> Result<String, String> {
    check(name, "a state's name in a certificate", STATE_NAME_BYTES_MAX, |byte: u8| byte.is_ascii_graphic())
}

fn check(name: &str, what: &str, bytes_max: usize, allowed: impl Fn(u8) -> bool) -> Result<String, String> {
    if name.is_empty() || name.len() > bytes_max {
        return Err(format!("{what} has 1 to {bytes_max} characters, not {}", name.len()));
    }
    match name.chars().find(|character| !u8::try_from(*character).is_ok_and(&allowed)) {
        Some(character) => Err(format!("{what} cannot hold {character:?}")),
        None => Ok(name.to_owned()),
    }
}
