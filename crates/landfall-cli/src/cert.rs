//! `landfall cert`: certificates for people without a certificate authority of their own. The making is the transport's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use landfall::net::{Authority, IssueError, MemberRequest, create_authority};
use serde_json::json;

use crate::Verdict;
use crate::failure::Failure;
use crate::output::Output;

/// Create a certificate authority, or a member's certificate
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    CreateCa(Ca),
    CreateMember(Member),
}

/// Create a certificate authority: ca.pem, which every member needs, and ca.key, which none should have
#[derive(Args)]
#[command(after_long_help = CA_EXAMPLES)]
struct Ca {
    /// Directory for ca.pem and ca.key; nothing in it is overwritten
    directory: PathBuf,
    /// Name that the certificate shows
    #[arg(long, default_value = "landfall")]
    name: String,
}

/// Create a member's certificate and key: ca.pem, member.pem and member.key in one directory, for --identity
#[derive(Args)]
#[command(after_long_help = MEMBER_EXAMPLES)]
struct Member {
    /// Name of the member, as its peers will see it
    name: String,
    /// Directory with ca.pem and ca.key
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Directory for the three files; nothing in it is overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// State whose snapshots the member may publish; may be repeated
    #[arg(long, value_name = "STATE")]
    writer: Vec<String>,
    /// Host name or address to mention, for tools that look at it (landfall does not); may be repeated
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// How long the certificate is valid
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = humantime::parse_duration)]
    valid_for: Duration,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    match &arguments.what {
        What::CreateCa(ca) => create_ca(ca, output),
        What::CreateMember(member) => create_member(member, output),
    }
}

fn create_ca(ca: &Ca, output: &mut Output) -> Result<Verdict, Failure> {
    let place = ca.directory.display();
    create_authority(&ca.directory, &ca.name).map_err(|error| not_created(&ca.directory, &error))?;
    let value = json!({ "created": "authority", "name": ca.name, "directory": place.to_string() });
    output.result(&value, || {
        format!(
            "created the authority '{}': {place}/ca.pem and {place}/ca.key\n\
             keep ca.key off the members: whoever has it can issue certificates\n\
             next: landfall cert create-member NAME --ca {place} --out NAME --writer STATE",
            ca.name
        )
    });
    Ok(Verdict::Good)
}

fn create_member(member: &Member, output: &mut Output) -> Result<Verdict, Failure> {
    let authority = Authority::load(&member.ca).map_err(|error| Failure::of(&error))?;
    let request = MemberRequest {
        writer_of: member.writer.clone(),
        hosts: member.host.clone(),
        valid_for: member.valid_for,
        ..MemberRequest::new(&member.name)
    };
    authority.create_member(&member.out, &request).map_err(|error| not_created(&member.out, &error))?;
    let place = member.out.display();
    let value = json!({
        "created": "member", "name": member.name, "writer_of": member.writer, "directory": place.to_string(),
    });
    output.result(&value, || {
        let rights = match member.writer.as_slice() {
            [] => "publishes nothing; it may pull, and pass on what it pulled".to_owned(),
            states => format!("may publish {}", states.join(", ")),
        };
        format!(
            "created the member '{}' ({rights}): {place}/ca.pem, {place}/member.pem and {place}/member.key\n\
             next: copy {place} to the member and use it with --identity",
            member.name
        )
    });
    Ok(Verdict::Good)
}

fn not_created(directory: &Path, error: &IssueError) -> Failure {
    Failure::new(format!("no certificate was created in {}", directory.display())).because(error)
}

const CA_EXAMPLES: &str = "\
Example:
  landfall cert create-ca ca";

const MEMBER_EXAMPLES: &str = "\
Examples:
  A member that publishes 'orders':
    landfall cert create-member alpha --ca ca --out alpha --writer orders
  A member that only pulls, and serves on what it pulled:
    landfall cert create-member beta --ca ca --out beta";
