//! Certificates on disk: what is made, what is accepted, and what is said about the rest; signatures under heads.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use landfall_net::{Authority, HeadError, Identity, IdentityError, IssueError, MemberRequest, create_authority};
use support::Members;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_created_member_loads_and_says_its_names() {
    let members = Members::new();
    let identity = members.writer("node-1.eu", &["stock", "orders", "orders"]);
    assert_eq!(identity.own().name, "node-1.eu");
    assert_eq!(identity.own().writer_of, ["orders", "stock"]);
    assert_eq!(identity.own().certificate_chain.len(), 1);
    for name in ["member.pem", "member.key", "ca.pem"] {
        let mode = fs::metadata(members.path().join("node-1.eu").join(name)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(!members.path().join("node-1.eu/ca.key").exists(), "the authority's key stays where it is");
}

#[test]
fn nothing_is_ever_overwritten() {
    let members = Members::new();
    members.member("a");
    let directory = members.path().join("a");
    let before = fs::read(directory.join("member.key")).expect("a key");
    let again = members.authority().create_member(&directory, &MemberRequest::new("a"));
    assert!(matches!(&again, Err(IssueError::Exists { path }) if path.ends_with("member.pem")), "{again:?}");
    assert_eq!(fs::read(directory.join("member.key")).expect("a key"), before);

    let again = create_authority(&members.path().join("ca"), "other").err();
    assert!(matches!(&again, Some(IssueError::Exists { path }) if path.ends_with("ca.pem")), "{again:?}");
}

#[test]
fn an_authority_issues_again_after_a_restart() {
    let members = Members::new();
    let authority = Authority::load(&members.path().join("ca")).expect("an authority");
    let directory = members.path().join("later");
    authority.create_member(&directory, &MemberRequest::new("later")).expect("a certificate");
    assert_eq!(Identity::load(&directory).expect("an identity").own().name, "later");
    let missing = Authority::load(&directory).err();
    assert!(matches!(&missing, Some(IssueError::BadAuthority { path, .. }) if path.ends_with("ca.key")));
}

#[test]
fn names_that_no_certificate_can_say_are_refused() {
    let members = Members::new();
    let refused = |request: MemberRequest| {
        let result = members.authority().create_member(&members.path().join("refused"), &request);
        assert!(matches!(result, Err(IssueError::BadRequest { .. })), "{request:?}: {result:?}");
    };
    for name in ["", "a b", "a/b", "ä", "a:b", &"x".repeat(65)] {
        refused(MemberRequest::new(name));
    }
    for state in ["", "two words", "größe", &"x".repeat(129)] {
        refused(MemberRequest { writer_of: vec![state.to_owned()], ..MemberRequest::new("a") });
    }
    assert!(!members.path().join("refused").exists());
}

/// Breaks a good identity with `break_it` and checks that the message names a file and what to do.
#[track_caller]
fn check_load(break_it: impl FnOnce(&Members, &Path), expected: &[&str]) {
    let members = Members::new();
    members.member("a");
    let directory = members.path().join("a");
    break_it(&members, &directory);
    let message = Identity::load(&directory).expect_err("a broken identity").to_string();
    for part in expected {
        assert!(message.contains(part), "'{part}' is not in '{message}'");
    }
}

fn replace(from: &Path, to: &Path, name: &str) {
    fs::copy(from.join(name), to.join(name)).expect("a copy");
}

#[test]
fn broken_identities_are_explained() {
    for name in ["member.pem", "member.key", "ca.pem"] {
        let remove = |_: &Members, directory: &Path| fs::remove_file(directory.join(name)).expect("removed");
        check_load(remove, &[name, "is missing", "create-member"]);
        let empty = |_: &Members, directory: &Path| fs::write(directory.join(name), "").expect("written");
        check_load(empty, &[name, "in PEM form"]);
        let garbage = |_: &Members, directory: &Path| {
            fs::write(directory.join(name), "-----BEGIN CERTIFICATE-----\nAAAA\n").expect("written");
        };
        check_load(garbage, &[name]);
    }
    check_load(
        |members, directory| {
            members.member("b");
            replace(&members.path().join("b"), directory, "member.key");
        },
        &["member.key is not the key of", "member.pem", "copy both"],
    );
    check_load(
        |_, directory| replace(&Members::new().path().join("ca"), directory, "ca.pem"),
        &["member.pem was not issued by the authority in", "ca.pem"],
    );
    check_load(
        |members, directory| {
            fs::copy(members.path().join("ca/ca.pem"), directory.join("member.pem")).expect("a copy");
        },
        &["member.pem", "names no member", "landfall:member:NAME"],
    );
}

/// A member's certificate that is valid from `from` for an hour.
fn valid_for_an_hour(from: SystemTime) -> IdentityError {
    let members = Members::new();
    let request = MemberRequest { valid_from: from, valid_for: HOUR, ..MemberRequest::new("a") };
    let directory = members.path().join("a");
    members.authority().create_member(&directory, &request).expect("a certificate");
    Identity::load(&directory).expect_err("a certificate of another time")
}

#[test]
fn certificates_of_another_time_are_explained() {
    let expired = valid_for_an_hour(SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000));
    assert!(matches!(expired, IdentityError::Expired { .. }));
    let message = expired.to_string();
    assert!(message.contains("member.pem expired at Sun, 13 Sep 2020 13:26:40 +0000"), "{message}");
    assert!(message.contains("clock"), "{message}");

    let early = valid_for_an_hour(SystemTime::now() + HOUR);
    assert!(matches!(early, IdentityError::NotYetValid { .. }));
    assert!(early.to_string().contains("clock"), "{early}");
}

#[test]
fn a_writer_signs_heads_of_its_states_only() {
    let members = Members::new();
    let writer = members.writer("w", &["orders"]);
    let reader = members.member("r");
    let signature = writer.sign_head(b"statement");
    let chain = &writer.own().certificate_chain;
    let verify = |chain: &[Vec<u8>], state: &str, statement: &[u8], signature: &[u8]| {
        reader.trust().verify_head(chain, state, statement, signature)
    };
    assert_eq!(verify(chain, "orders", b"statement", &signature), Ok("w".to_owned()));

    let not_a_writer =
        |member: &str, state: &str| Err(HeadError::NotAWriter { member: member.to_owned(), state: state.to_owned() });
    assert_eq!(verify(chain, "order", b"statement", &signature), not_a_writer("w", "order"));
    let by_reader = reader.sign_head(b"statement");
    assert_eq!(
        verify(&reader.own().certificate_chain, "orders", b"statement", &by_reader),
        not_a_writer("r", "orders")
    );

    assert_eq!(verify(chain, "orders", b"Statement", &signature), Err(HeadError::BadSignature));
    assert_eq!(verify(chain, "orders", b"statement", &by_reader), Err(HeadError::BadSignature));
    for cut in [0, 1, 2, signature.len() - 1] {
        assert_eq!(verify(chain, "orders", b"statement", &signature[..cut]), Err(HeadError::BadSignature));
    }
    for index in 0..signature.len() {
        let mut changed = signature.clone();
        changed[index] ^= 1;
        assert_eq!(verify(chain, "orders", b"statement", &changed), Err(HeadError::BadSignature), "byte {index}");
    }
}

#[test]
fn heads_of_strangers_are_not_believed() {
    let (ours, others) = (Members::new(), Members::new());
    let stranger = others.writer("w", &["orders"]);
    let signature = stranger.sign_head(b"statement");
    let trust = ours.member("r").trust().clone();
    let chain = stranger.own().certificate_chain.clone();
    for chain in [chain.clone(), Vec::new(), vec![vec![0; 5]], vec![chain[0].clone(); 9]] {
        let result = trust.verify_head(&chain, "orders", b"statement", &signature);
        assert!(matches!(result, Err(HeadError::Untrusted { .. })), "{result:?}");
    }
}
